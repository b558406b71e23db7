//! The pipeline file changes over a state that is there: the real binary over files, part after part.

use crate::cli::finish;
use crate::support::binary::{Conjoin, files, rows};
use crate::support::oracle::Row;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use tempfile::TempDir;

const START: i64 = 1_767_225_600_000;
/// Impressions per part: one every two seconds, an hour in all. Every third is clicked, five seconds later.
const PART: i64 = 1_800;

const PIPELINE: &str = r#"version: 1
pipeline: change
streams:
  shown:
    file: { path: "data/shown-*.ndjson" }
    columns: { request_id: string, user_id: string, item_id: string, ts: timestamp }
    time: ts
    key: [request_id]
    partition_by: user_id
    lateness: 5s
  clicks:
    file: { path: "data/clicks-*.ndjson" }
    columns: { event_id: string, request_id: string, user_id: string, item_id: string, ts: timestamp }
    time: ts
    id: event_id
    key: [request_id]
    partition_by: user_id
    lateness: 5s
features:
  user:
    entity: user_id
    aggregates:
      user_clicks: { from: clicks, count: "*", windows: [10m] }
samples:
  ctr:
    from: shown
    serving_lag: 0s
    join: { click: { stream: clicks, within: 1m, take: first, select: [ts] } }
    features: [user]
    columns: { clicked: "click.ts IS NOT NULL" }
    write: { parquet: { path: out, partition_by: [date, hour] } }
online: { store: memory }
state: { path: state, commit_every: 100ms, lanes: 2 }
"#;

/// A group before the one that is there, its features and a column of them on the sample, other columns, and a second
/// sample before the first.
fn grown() -> String {
    let group = "features:\n  item:\n    entity: item_id\n    aggregates:\n      item_clicks: { from: clicks, count: \"*\", \
                 windows: [10m] }\n    derived: { item_twice: \"coalesce(item_clicks_10m, 0) * 2\" }\n";
    let sample = "samples:\n  late:\n    from: shown\n    join: { click: { stream: clicks, within: 2m, before: 1s, take: \
                  any } }\n    write: { parquet: { path: late } }\n";
    let columns =
        "features: [item, user]\n    columns: { clicked: \"click.ts IS NOT NULL\", hot: \"item_clicks_10m > 50\" }";
    edited(&[
        ("features:\n", group),
        ("samples:\n", sample),
        ("features: [user]\n    columns: { clicked: \"click.ts IS NOT NULL\" }", columns),
    ])
}

fn edited(edits: &[(&str, &str)]) -> String {
    edits.iter().fold(PIPELINE.to_string(), |text, (from, to)| {
        assert!(text.contains(from), "{from} is not in the pipeline file");
        text.replacen(from, to, 1)
    })
}

fn write_part(folder: &Path, part: i64) {
    let (mut shown, mut clicks) = (String::new(), String::new());
    for n in part * PART..(part + 1) * PART {
        let (request, user, item) = (format!("r{n}"), format!("u{}", n % 7), format!("i{}", n % 5));
        let ts = START + n * 2_000;
        shown += &format!("{}\n", json!({"request_id": request, "user_id": user, "item_id": item, "ts": ts}));
        if n % 3 == 0 {
            let event = format!("e{n}");
            let click =
                json!({"event_id": event, "request_id": request, "user_id": user, "item_id": item, "ts": ts + 5_000});
            clicks += &format!("{click}\n");
        }
    }
    fs::create_dir_all(folder.join("data")).unwrap();
    fs::write(folder.join(format!("data/shown-{part}.ndjson")), shown).unwrap();
    fs::write(folder.join(format!("data/clicks-{part}.ndjson")), clicks).unwrap();
}

fn write_pipeline(folder: &Path, text: &str) {
    fs::write(folder.join("pipeline.yaml"), text).unwrap();
}

/// The first part, run under the file as it was.
fn first_part() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_pipeline(folder.path(), PIPELINE);
    write_part(folder.path(), 0);
    run(folder.path(), &[]);
    folder
}

fn run(folder: &Path, more: &[&str]) -> (Value, String) {
    let (code, output, errors) = finish(folder, &[&["run", "pipeline.yaml", "--json"], more].concat());
    assert_eq!(code, 0, "{errors}");
    let summary: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(summary["violations"], 0, "{errors}");
    (summary, errors)
}

fn refusal(folder: &Path, more: &[&str]) -> String {
    let (code, output, errors) = finish(folder, &[&["run", "pipeline.yaml"], more].concat());
    assert_eq!((code, output.as_str()), (1, ""), "{errors}");
    errors
}

fn number(row: &Row) -> i64 {
    row["request_id"].as_str().unwrap()[1..].parse().unwrap()
}

/// Clicks in the ten minutes before an impression, of the same `n % modulus`.
fn clicks_before(n: i64, modulus: i64) -> i64 {
    let t = n * 2_000;
    let from = (t - 600_000).div_euclid(10_000) * 10_000;
    let clicked = (0..n).filter(|m| m % 3 == 0 && m % modulus == n % modulus).map(|m| m * 2_000 + 5_000);
    clicked.filter(|at| from <= *at && *at < t).count() as i64
}

fn assert_numbers(rows: &[Row], wanted: impl Iterator<Item = i64>) {
    let mut found: Vec<i64> = rows.iter().map(number).collect();
    found.sort_unstable();
    assert_eq!(found, wanted.collect::<Vec<_>>());
}

/// The rows of a sample after the grown file took over at the second part.
fn assert_grown(folder: &Path) {
    let samples = rows(&folder.join("out"));
    assert_numbers(&samples, 0..2 * PART);
    // The newest event of the first part is the click of its last but two: its window of ten minutes begins with the hour.
    let full = PART + 300;
    for row in &samples {
        let n = number(row);
        assert_eq!(row["clicked"], json!(n % 3 == 0), "{row:?}");
        assert_eq!(row["user_clicks_10m"], json!(clicks_before(n, 7)), "the group that stays has no gap: {row:?}");
        let clicks = clicks_before(n, 5);
        match n {
            _ if n < PART => assert!(!row.contains_key("item_clicks_10m") && !row.contains_key("hot"), "{row:?}"),
            _ if n < full => {
                let of_item = ["item_clicks_10m", "item_twice", "hot"].map(|column| row[column].clone());
                assert_eq!(of_item, [Value::Null, Value::Null, Value::Null], "{row:?}");
            }
            _ => {
                let of_item = ["item_clicks_10m", "item_twice", "hot"].map(|column| row[column].clone());
                assert_eq!(of_item, [json!(clicks), json!(2 * clicks), json!(clicks > 50)], "{row:?}");
            }
        }
    }
    // From the first whole bucket on that begins a second behind the newest event that was read.
    let late = rows(&folder.join("late"));
    let first = late.iter().map(number).min().unwrap();
    assert!((PART..PART + 60).contains(&first), "it begins with {first}");
    assert_numbers(&late, first..2 * PART);
    assert!(late.iter().all(|row| row["click"] == json!(number(row) % 3 == 0)));
}

#[test]
fn fault_37_a_grown_pipeline_file_goes_on_from_the_state_and_is_verified() {
    let folder = first_part();
    let path = folder.path();
    write_part(path, 1);
    write_pipeline(path, &grown());
    let (code, output, errors) = finish(path, &["inspect", "pipeline.yaml"]);
    assert_eq!(code, 0, "nothing of it is refused: {errors}{output}");
    assert!(output.contains("the next start with this file changes the state: features.item is new"), "{output}");
    let (_, told) = run(path, &["--set", "state.lanes=3"]);
    for note in [
        "features.item is new: a window is null until it begins at or after 2026-01-01 00:59:59.001Z",
        "samples.late is new: it begins with impressions of 2026-01-01 01:0",
        "samples.ctr gets the features of item",
    ] {
        assert!(told.contains(note), "{note} is not in\n{told}");
    }
    assert_grown(path);
    let (_, told) = run(path, &[]);
    assert!(!told.contains("is new"), "it is told once: {told}");

    let (code, report, errors) = finish(path, &["verify", "pipeline.yaml"]);
    assert_eq!(code, 0, "{errors}{report}");
    for part in ["its definition changed at 2026-01-01 00:59:59.001Z", "every published row is what the input gives"] {
        assert!(report.contains(part), "{part} is not in\n{report}");
    }
    let (code, output, errors) = finish(path, &["inspect", "pipeline.yaml"]);
    assert_eq!(code, 0, "{errors}{output}");
    for part in [
        "sample late (begun at 2026-01-01 00:59:59.001Z)",
        "every account adds up",
        "item (begun at 2026-01-01 00:59:59.001Z)",
    ] {
        assert!(output.contains(part), "{part} is not in\n{output}");
    }

    // And back again: what went is gone, what stays does not notice.
    write_part(path, 2);
    write_pipeline(path, PIPELINE);
    let (_, told) = run(path, &["--set", "state.lanes=1"]);
    for note in ["features.item is gone: the state of 5 entities is dropped", "samples.late is gone"] {
        assert!(told.contains(note), "{note} is not in\n{told}");
    }
    let samples = rows(&path.join("out"));
    assert_numbers(&samples, 0..3 * PART);
    for row in &samples {
        assert_eq!(row["user_clicks_10m"], json!(clicks_before(number(row), 7)), "{row:?}");
        assert_eq!(row.contains_key("hot"), (PART..2 * PART).contains(&number(row)), "{row:?}");
    }
    assert_eq!(finish(path, &["verify", "pipeline.yaml"]).0, 0);
}

#[test]
fn fault_37_a_start_that_dies_while_it_takes_a_change_over_leaves_the_old_state_or_the_new_one() {
    for (point, claimed) in [("claim-write:before", false), ("claim-write:after", true), ("restore:after", true)] {
        let folder = first_part();
        let path = folder.path();
        write_part(path, 1);
        write_pipeline(path, &grown());
        let mut dying = Conjoin::run_with(path, "dying", &["--json"], &format!("{point}:1:kill"));
        assert_eq!(dying.wait().signal(), Some(9), "{point}: {}", dying.errors());
        let mut again = Conjoin::run_with(path, "again", &["--json"], "publish-rename:before:1:kill");
        assert_eq!(again.wait().signal(), Some(9), "{point}: {}", again.errors());
        assert_eq!(again.errors().contains("features.item is new"), !claimed, "{point}: {}", again.errors());
        Conjoin::run(path, "last", &["--json"]).summary();
        assert_grown(path);
    }
    // With the old file it is as if the new one had never been there, whether or not that had claimed.
    for (point, claimed) in [("claim-write:before", false), ("claim-write:after", true)] {
        let folder = first_part();
        let path = folder.path();
        write_part(path, 1);
        write_pipeline(path, &grown());
        let mut dying = Conjoin::run_with(path, "dying", &["--json"], &format!("{point}:1:kill"));
        assert_eq!(dying.wait().signal(), Some(9), "{point}: {}", dying.errors());
        write_pipeline(path, PIPELINE);
        let (_, told) = run(path, &[]);
        assert_eq!(told.contains("features.item is gone"), claimed, "{point}: {told}");
        let samples = rows(&path.join("out"));
        assert_numbers(&samples, 0..2 * PART);
        assert!(samples.iter().all(|row| row["user_clicks_10m"] == json!(clicks_before(number(row), 7))));
        assert!(samples.iter().all(|row| !row.contains_key("hot")));
    }
}

#[test]
fn fault_37_what_cannot_go_on_is_refused_by_name_and_reset_by_name() {
    let folder = first_part();
    let path = folder.path();
    write_part(path, 1);
    let longer = edited(&[("within: 1m", "within: 3m"), ("windows: [10m]", "windows: [20m]")]);
    write_pipeline(path, &longer);
    let told = refusal(path, &[]);
    for part in
        ["joins.ctr is different (--reset joins.ctr", "features.user is different (--reset features.user", "--fresh"]
    {
        assert!(told.contains(part), "{part} is not in\n{told}");
    }
    let told = refusal(path, &["--reset", "joins.ctr"]);
    assert!(told.contains("features.user is different") && !told.contains("joins.ctr is different"), "{told}");
    let told = refusal(path, &["--reset", "joins.crt"]);
    assert!(told.contains("there is no such node; there are features.user, joins.ctr"), "{told}");
    assert_eq!(finish(path, &["run", "pipeline.yaml", "--reset", "joins.ctr", "--fresh"]).0, 2);

    let (_, told) = run(path, &["--reset", "joins.ctr", "--reset", "features.user"]);
    assert!(told.contains("samples.ctr forgets 0 pending impressions and 0 waiting labels"), "{told}");
    assert!(told.contains("features.user forgets the state of 7 entities"), "{told}");
    let samples = rows(&path.join("out"));
    let numbers: BTreeSet<i64> = samples.iter().map(number).collect();
    assert_eq!(numbers.len(), samples.len(), "no row is there twice");
    let first = numbers.iter().copied().find(|n| *n >= PART).unwrap();
    assert!(first < PART + 60, "it begins with {first}");
    assert!(numbers.iter().copied().eq((0..PART).chain(first..2 * PART)), "all before, and all from its beginning on");
    assert_eq!(finish(path, &["verify", "pipeline.yaml"]).0, 0);

    // A stream that means something else takes along what was made of it.
    write_part(path, 2);
    let columns = "columns: { event_id: string, request_id: string, user_id: string, item_id: string, ts: timestamp }\n    time: ts\n    id";
    let stream = columns.replace("    time", "    where: \"event_id <> 'e0'\"\n    time");
    write_pipeline(path, &longer.replace(columns, &stream));
    let told = refusal(path, &[]);
    assert!(
        told.contains("streams.clicks is different (--reset streams.clicks forgets 0 pending impressions"),
        "{told}"
    );
    run(path, &["--reset", "streams.clicks"]);
    assert!(rows(&path.join("out")).iter().any(|row| number(row) == 3 * PART - 1));
    assert_eq!(finish(path, &["verify", "pipeline.yaml"]).0, 0);
}

#[test]
fn fault_37_sinks_serving_and_lateness_change_as_they_like() {
    let folder = first_part();
    let path = folder.path();
    write_part(path, 1);
    // The process before has committed files and died before they had their names.
    let mut dying = Conjoin::run_with(path, "dying", &["--json"], "publish-rename:before:1:kill");
    assert_eq!(dying.wait().signal(), Some(9), "{}", dying.errors());
    let moved = edited(&[
        ("path: out, partition_by: [date, hour]", "path: elsewhere, partition_by: [], compression: none"),
        ("lateness: 5s\nfeatures", "lateness: 7s\nfeatures"),
    ]);
    write_pipeline(path, &moved);
    write_part(path, 2);
    let (_, told) = run(path, &[]);
    assert!(!told.contains("different") && !told.contains("is new"), "{told}");
    assert!(!files(&path.join("elsewhere"), ".parquet").is_empty());
    let all = [rows(&path.join("out")), rows(&path.join("elsewhere"))].concat();
    assert_numbers(&all, 0..3 * PART);
}
