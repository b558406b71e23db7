//! Side: what is in no sample is in the side outputs, each row once, with its place, its reason and its content; and as
//! many as the accounts count, through whatever deaths.

use crate::cli::finish;
use crate::kill::{Log, SLOWLY, scratch};
use crate::support::binary::{Conjoin, rows};
use crate::support::kafka::TestRecord;
use crate::support::oracle::Row;
use crate::support::sent::Outbox;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

const START: i64 = 1_767_225_600_000;

const PIPELINE: &str = r#"version: 1
pipeline: side
streams:
  impressions: {
    file: { path: impressions.ndjson },
    columns: { id: string, user: string, at: timestamp, price: { type: float64, nullable: true } },
    time: at, id: id, key: [user, id], partition_by: user, lateness: 20s }
  clicks: {
    file: { path: clicks.ndjson },
    columns: { event: string, id: string, user: string, at: timestamp },
    time: at, id: event, key: [user, id], partition_by: user, lateness: 2s }
samples:
  ctr:
    from: impressions
    join:
      click: { stream: clicks, within: 2m, take: first, select: [at] }
      buys: { stream: clicks, within: 1m, take: count, where: "event LIKE 'b%'" }
    write: { parquet: { path: out/samples } }
    side:
      late: { parquet: { path: out/late, partition_by: [date] } }
      expired_labels: { parquet: { path: out/expired } }
      duplicates: { parquet: { path: out/duplicates } }
state: { path: out/state, lanes: 3 }
"#;

fn impression(id: &str, at: i64) -> Json {
    json!({ "id": id, "user": "u", "at": START + at, "price": 0.5 })
}

fn click(event: &str, id: &str, at: i64) -> Json {
    json!({ "event": event, "id": id, "user": "u", "at": START + at })
}

fn write(path: &Path, records: &[Json]) {
    let lines: Vec<String> = records.iter().map(Json::to_string).collect();
    fs::write(path, lines.join("\n") + "\n").unwrap();
}

/// (join, reason, record) of every row.
fn told(rows: &[Row]) -> Vec<(Json, String, Json)> {
    let mut told: Vec<_> = rows
        .iter()
        .map(|row| {
            let record = serde_json::from_str(row["record"].as_str().unwrap()).unwrap();
            (row["join"].clone(), row["reason"].as_str().unwrap().to_owned(), record)
        })
        .collect();
    told.sort_by_key(|row| format!("{row:?}"));
    told
}

fn expect(mut rows: Vec<(Json, &str, Json)>) -> Vec<(Json, String, Json)> {
    rows.sort_by_key(|row| format!("{row:?}"));
    rows.into_iter().map(|(join, reason, record)| (join, reason.to_owned(), record)).collect()
}

/// How many rows of each kind the accounts of a sample have counted.
fn counted(sample: &Json) -> BTreeMap<&'static str, u64> {
    let labels = sample["labels"].as_array().unwrap();
    let of = |account: &Json, names: &[&str]| names.iter().map(|name| account[*name].as_u64().unwrap()).sum::<u64>();
    let all = |names: &[&str]| labels.iter().map(|label| of(label, names)).sum::<u64>();
    BTreeMap::from([
        ("late", of(&sample["anchor"], &["late"]) + all(&["late"])),
        ("expired_labels", all(&["out_of_window", "expired_unmatched"])),
        ("duplicates", of(&sample["anchor"], &["duplicate", "conflict"]) + all(&["duplicate", "conflict"])),
    ])
}

#[test]
fn f1_what_is_in_no_sample_is_in_the_side_outputs_with_its_reason_place_and_content() {
    let folder = scratch();
    let path = folder.path();
    fs::write(path.join("pipeline.yaml"), PIPELINE).unwrap();
    let mut impressions: Vec<Json> = (0..100).map(|n| impression(&format!("i{n}"), n * 7_000)).collect();
    let (late, copy) = (impression("too late", 10_000), impression("i50", 350_000));
    let (lost, won) = (impression("i51", 357_001), impression("i52", 363_999));
    impressions.splice(53..53, [late.clone(), copy.clone(), lost.clone(), won.clone()]);
    write(&path.join("impressions.ndjson"), &impressions);
    let mut clicks: Vec<Json> =
        (0..100).map(|n| click(&format!("c{n}"), &format!("i{n}"), n * 7_000 + 1_000)).collect();
    // Before its impression, which is not allowed; of nobody; a buy that counts for one join only; a copy; much too late.
    let (early, ghost) = (click("b-early", "i30", 30 * 7_000 - 1), click("c-ghost", "nobody", 300_000));
    let (buy, again, behind) =
        (click("b-late", "i40", 280_000 + 90_000), clicks[99].clone(), click("c-behind", "i1", 8_000));
    clicks.extend([early.clone(), ghost.clone(), buy.clone()]);
    clicks.sort_by_key(|click| click["at"].as_i64());
    clicks.extend([again.clone(), behind.clone()]);
    write(&path.join("clicks.ndjson"), &clicks);
    let (code, output, errors) = finish(path, &["run", "pipeline.yaml", "--json"]);
    assert_eq!(code, 0, "{errors}");
    let summary: Json = serde_json::from_str(&output).unwrap();
    let sample = &summary["counts"]["samples"][0];

    let of = |name: &str| rows(&path.join("out").join(name));
    let (join, buys) = (json!("click"), json!("buys"));
    assert_eq!(
        told(&of("late")),
        expect(vec![(Json::Null, "late", late.clone()), (join.clone(), "late", behind.clone())])
    );
    let (is_copy, is_lost, is_won) = ("duplicate", "conflict_lost", "conflict_won");
    assert_eq!(
        told(&of("duplicates")),
        expect(vec![
            (Json::Null, is_copy, copy),
            (Json::Null, is_lost, lost),
            (Json::Null, is_won, won),
            (join.clone(), is_copy, again),
        ])
    );
    let (window, unmatched) = ("out_of_window", "expired_unmatched");
    assert_eq!(
        told(&of("expired")),
        expect(vec![
            (join.clone(), window, early.clone()),
            (buys.clone(), window, early),
            (join, unmatched, ghost),
            (buys, window, buy),
        ])
    );
    let written = [("late", of("late")), ("expired_labels", of("expired")), ("duplicates", of("duplicates"))];
    assert_eq!(counted(sample), written.iter().map(|(kind, rows)| (*kind, rows.len() as u64)).collect());
    let all: u64 = written.iter().map(|(_, rows)| rows.len() as u64).sum();
    assert_eq!(summary["totals"]["side_rows"], all);
    assert_eq!(summary["totals"]["file_rows"], 100, "the books of samples are not those of side outputs");

    // The place of a row in a file is the number of the file and the byte at which its record begins.
    let first = of("late").into_iter().find(|row| row["join"].is_null()).unwrap();
    let text = fs::read_to_string(path.join("impressions.ndjson")).unwrap();
    let byte = first["position"].as_i64().unwrap() as usize;
    assert!(text[byte..].starts_with(&late.to_string()), "{first:?}");
    assert_eq!((&first["stream"], &first["input"]), (&json!("impressions"), &json!("impressions.ndjson")));
    assert_eq!(
        (&first["key"], &first["event_time"], &first["partition"]),
        (&json!("u:too late"), &late["at"], &json!(0))
    );
    assert!(path.join("out/late/date=2026-01-01").is_dir());
    let (code, output, errors) = finish(path, &["verify", "pipeline.yaml"]);
    assert_eq!(code, 0, "side outputs are nothing to `verify`: {errors}{output}");
}

#[test]
fn f1_f5_through_any_deaths_each_row_of_a_side_output_is_there_once_and_as_many_as_are_counted() {
    let log = Log::new();
    produce(&log, 0, 300);
    let stories = [
        "publish-rename:before",
        "manifest-create:after",
        "parquet-stage:after",
        "state-write:before",
        "outbox-sent:before",
    ];
    for (number, story) in stories.into_iter().enumerate() {
        let folder = scratch();
        let path = folder.path();
        let topic = Outbox::new(&log.kafka, "side", 2);
        log.write_pipeline(path);
        let before = fs::read_to_string(path.join("pipeline.yaml")).unwrap();
        let kafka = format!("{{ connection: main, topic: {}, format: json }}", topic.topic);
        let side = format!(
            "    side: {{ late: {{ parquet: {{ path: late }} }}, duplicates: {{ parquet: {{ path: duplicates }} }},\n      \
             expired_labels: {{ parquet: {{ path: expired }}, kafka: {kafka} }} }}\nstate:"
        );
        let with = before.replace("state:", &side);
        assert_ne!(with, before);
        fs::write(path.join("pipeline.yaml"), with).unwrap();
        for (death, time) in [2, 1, 3].into_iter().enumerate() {
            let lanes = format!("state.lanes={}", 1 + (number + death) % 3);
            // What waits is sent together, so that a run comes there once for sure.
            let time = if story.starts_with("outbox") { 1 } else { time };
            let trap = format!("{story}:{time}:kill,{SLOWLY}");
            let arguments = ["--until-end", "--close", "--json", "--set", &lanes];
            let killed = Conjoin::run_with(path, &format!("killed-{death}"), &arguments, &trap).wait();
            assert_eq!(killed.signal(), Some(libc::SIGKILL), "{story}:{time} was never there");
        }
        let summary = Conjoin::run(path, "last", &["--until-end", "--close", "--json"]).summary();
        let sample = &summary["counts"]["samples"][0];
        let all = ["late", "expired", "duplicates"].map(|name| rows(&path.join(name)));
        let counts = counted(sample);
        let found = ["late", "expired_labels", "duplicates"].into_iter().zip(all.iter().map(|rows| rows.len() as u64));
        assert_eq!(found.collect::<BTreeMap<_, _>>(), counts, "{story}");
        assert!(counts.values().all(|rows| *rows > 0), "{counts:?}");
        let place = |row: &Row| {
            let place = ["stream", "join", "input", "partition", "position"].map(|name| row[name].to_string());
            assert!(row["position"].is_i64(), "{row:?}");
            place.join(" ")
        };
        let mut places: Vec<String> = all.iter().flatten().map(place).collect();
        places.sort();
        let rows = places.len();
        places.dedup();
        assert_eq!(places.len(), rows, "{story}: a record is there twice");
        let mut sent = topic.rows();
        let mut filed: Vec<String> = all[1].iter().map(|row| Json::from_iter(row.clone()).to_string()).collect();
        sent.sort();
        filed.sort();
        assert_eq!(sent, filed, "{story}");
    }
}

#[test]
fn what_labels_hold_may_change_while_they_wait() {
    let log = Log::new();
    let folder = scratch();
    let path = folder.path();
    log.write_pipeline(path);
    let without = fs::read_to_string(path.join("pipeline.yaml")).unwrap();
    let with = without.replace("state:", "    side: { expired_labels: { parquet: { path: expired } } }\nstate:");
    // Nobody asks, somebody does, nobody does, and somebody again; labels wait all the time.
    let (mut expired, mut before) = (0, 0);
    for (step, text) in [&without, &with, &without, &with].into_iter().enumerate() {
        fs::write(path.join("pipeline.yaml"), text).unwrap();
        let first = step as i64 * 100;
        produce(&log, first, first + 100);
        let lanes = format!("state.lanes={}", 1 + step % 2);
        let close = if step == 3 { &["--close"][..] } else { &[] };
        let arguments = [&["--until-end", "--json", "--set", &lanes], close].concat();
        let summary = Conjoin::run(path, &format!("step-{step}"), &arguments).summary();
        let now = counted(&summary["counts"]["samples"][0])["expired_labels"];
        if text == &with {
            expired += now - before;
        }
        before = now;
    }
    let rows = rows(&path.join("expired"));
    assert_eq!(rows.len() as u64, expired);
    let known = rows.iter().filter(|row| row["position"].is_i64()).count();
    assert!(known > 0 && known < rows.len(), "some came when nobody asked for their places: {known} of {}", rows.len());
    assert!(rows.iter().all(|row| row["event_time"].is_i64() && row["reason"].is_string()));
}

/// As the log's own records, with clicks of nobody, clicks that are much too late, and copies.
fn produce(log: &Log, from: i64, to: i64) {
    log.produce(from, to);
    let mut clicks = Vec::new();
    for number in from..to {
        let at = START + number * 7_000;
        let click = |event: String, id: String, at: i64| json!({ "event": event, "id": id, "user": "u1", "at": at });
        clicks.push(click(format!("ghost{number}"), format!("nobody{number}"), at));
        if number % 10 == 9 {
            clicks.push(click(format!("behind{number}"), format!("i{}", number / 2), START + number));
            clicks.push(click(format!("ghost{number}"), format!("nobody{number}"), at));
        }
    }
    let texts: Vec<Vec<u8>> = clicks.iter().map(|click| click.to_string().into_bytes()).collect();
    let records: Vec<TestRecord<'_>> =
        texts.iter().map(|text| TestRecord { payload: Some(text), ..TestRecord::default() }).collect();
    log.kafka.produce(&log.clicks, &records);
}
