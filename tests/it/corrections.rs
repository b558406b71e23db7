//! Corrections: rows of labels that came after the window lie beside those that had left, in files of their own.

use crate::cli::finish;
use crate::support::binary::rows;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const PIPELINE: &str = "\
version: 1
pipeline: corrected
streams:
  shown:
    file: { path: 'shown/*.ndjson' }
    columns: { id: string, at: { type: timestamp, unit: ms } }
    time: at
    key: id
    lateness: 5s
  clicks:
    file: { path: 'clicks/*.ndjson' }
    columns: { event: string, id: string, at: { type: timestamp, unit: ms } }
    time: at
    id: event
    key: id
    lateness: 5s
samples:
  ctr:
    from: shown
    join: { click: { stream: clicks, within: 10m, take: count } }
    correct_for: 3d
    side: { unmatched: { parquet: { path: unmatched } } }
    write: { parquet: { path: out/ctr, partition_by: [date] } }
state: { path: state, lanes: 2 }
";

/// 2026-01-01 23:00 UTC.
const START: i64 = 1_767_308_400_000;
const MINUTE: i64 = 60_000;

fn write(folder: &Path, stream: &str, records: &[serde_json::Value]) {
    fs::create_dir_all(folder.join(stream)).unwrap();
    let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
    fs::write(folder.join(stream).join("1.ndjson"), lines).unwrap();
}

#[test]
fn what_corrects_a_row_lies_beside_it_in_the_folder_of_its_emission_and_verify_finds_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("p.yaml"), PIPELINE).unwrap();
    let shown: Vec<_> = (0..100).map(|n| json!({ "id": format!("i{n}"), "at": START + n * 1_000 })).collect();
    let click = |event: &str, of: i64, after: i64| json!({ "event": event, "id": format!("i{of}"), "at": START + of * 1_000 + after });
    let clicks = [
        click("in time", 1, 5 * MINUTE),
        click("an hour late", 1, 70 * MINUTE),
        click("a day late", 2, 1_510 * MINUTE),
        click("too late", 3, 6_000 * MINUTE),
        click("of nobody", 1_000, MINUTE),
    ];
    write(path, "shown", &shown);
    write(path, "clicks", &clicks);
    let (code, out, errors) = finish(path, &["run", "p.yaml"]);
    assert_eq!(code, 0, "{out}{errors}");

    let base: BTreeMap<String, i64> = rows(&path.join("out/ctr"))
        .into_iter()
        .map(|row| {
            assert_eq!(row["emit_kind"], "base");
            (row["event_id"].as_str().unwrap().into(), row["click_count"].as_i64().unwrap())
        })
        .collect();
    assert_eq!((base.len(), base["i1"], base.values().sum::<i64>()), (100, 1, 1));
    let corrections = |date: &str| -> Vec<(String, i64)> {
        let rows = rows(&path.join(format!("out/ctr-corrections/date={date}")));
        let row = |row: &crate::support::oracle::Row| {
            assert_eq!(row["emit_kind"], "correction");
            (row["event_id"].as_str().unwrap().to_string(), row["click_count"].as_i64().unwrap())
        };
        rows.iter().map(row).collect()
    };
    assert_eq!(corrections("2026-01-02"), [("i1".to_string(), 2)], "of an impression of the day before");
    assert_eq!(corrections("2026-01-03"), [("i2".to_string(), 1)]);
    let all = rows(&path.join("out/ctr-corrections"));
    assert_eq!(all.len(), 2, "{all:?}");
    let unmatched: Vec<_> = rows(&path.join("unmatched")).into_iter().map(|row| row["reason"].clone()).collect();
    assert_eq!(unmatched.len(), 2, "{unmatched:?}");

    let (code, out, errors) = finish(path, &["verify", "p.yaml"]);
    assert_eq!(code, 0, "{out}{errors}");
    fs::remove_dir_all(path.join("out/ctr-corrections/date=2026-01-02")).unwrap();
    let (code, out, _) = finish(path, &["verify", "p.yaml"]);
    assert_eq!(code, 1, "a correction that is gone is missed: {out}");
}
