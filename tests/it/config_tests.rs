//! Tests of pipelines: `conjoin test` runs what a run would run, tells what differs, and touches nothing.

use crate::cli::{PIPELINE, finish, workspace};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimestampMillisecondType};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value as Json, json};
use std::fs;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A folder with the small pipeline and these tests beside it.
fn beside(tests: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder can be made");
    // Of its key, so that there is nothing to warn of.
    let pipeline = PIPELINE.replace("partition_by: user_id", "partition_by: request_id");
    fs::write(folder.path().join("p.yaml"), pipeline).expect("the pipeline can be written");
    fs::write(folder.path().join("p.test.yaml"), tests).expect("the tests can be written");
    folder
}

/// What is printed of tests that are to pass.
fn passed(tests: &str) -> String {
    let folder = beside(tests);
    let (code, out, errors) = finish(folder.path(), &["test", "p.yaml"]);
    assert_eq!((code, errors.as_str()), (0, ""), "{out}");
    out
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("it can be listed"));
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn every_example_has_tests_that_pass() {
    let mut seen = Vec::new();
    for name in names(&Path::new(ROOT).join("config/examples")) {
        let Some(stem) = name.strip_suffix(".yaml").filter(|stem| !stem.ends_with(".test")) else { continue };
        let (code, out, errors) = finish(Path::new(ROOT), &["test", &format!("config/examples/{name}"), "--json"]);
        assert_eq!(errors, "", "{name} has warnings");
        let told: Json = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{name}: {error}: {out}"));
        assert_eq!((code, told["failed"].as_u64()), (0, Some(0)), "{name}: {told:#}");
        assert!(told["passed"].as_u64() >= Some(3), "{name}: {told:#}");
        seen.push(stem.to_string());
    }
    assert_eq!(seen, ["ads", "attribution", "conversions", "feed", "search", "shop", "video"]);
    assert!(!Path::new(ROOT).join("out/ads").exists(), "a test has written to where its pipeline writes");
}

const FAILING: &str = "\
tests:
  - name: this one is right
    events:
      - { at: 0s, impressions: { request_id: r1, user_id: u1, items: [{ id: a }] } }
    samples:
      ctr: [{ request_id: r1, clicked: false }]
  - name: this one is wrong
    events:
      - { at: 0s, impressions: { request_id: r1, user_id: u1, items: [{ id: a }, { id: b }, { id: d }] } }
      - { at: 5s, clicks: { event_id: e1, request_id: r1, item_id: b, user_id: u1 } }
      - { at: 6s, clicks: { event_id: e2, request_id: r1, user_id: u1 } }
    samples:
      ctr:
        - { item_id: a, clicked: true, click_ts: 5s }
        - { item_id: c, clicked: false }
    features:
      user:
        - { user_id: u1, at: 4s, user_clicks_1h: 1 }
        - { user_id: u1, user_clicks_1h: 1, user_items_1h: [b] }
        - { user_id: u2, user_clicks_1h: 1 }
    counts:
      streams: { clicks: { records: 2, dead_lettered: 0 } }
";

const DIFF: &str = "\
ok    this one is right
FAIL  this one is wrong
      p.test.yaml:7

      p.test.yaml:11: dead_letters: not expected
      + stream   clicks
      + reason   missing_field
      + item     null
      + message  $.item_id is missing, but column item_id is not nullable and has no default

      p.test.yaml:14: samples.ctr: not as expected
        item_id   a
      - clicked   true
      + clicked   false
      - click_ts  5s
      + click_ts  null

      p.test.yaml:15: samples.ctr: missing
      - item_id  c
      - clicked  false

      samples.ctr: not expected
      + item_id   b
      + clicked   true
      + click_ts  5s

      samples.ctr: not expected
      + item_id   d
      + clicked   false
      + click_ts  null

      p.test.yaml:18: features.user: not as expected
        user_id         u1
        at              4s
      - user_clicks_1h  1
      + user_clicks_1h  0

      p.test.yaml:20: features.user: missing
      - user_id         u2
      - user_clicks_1h  1

      p.test.yaml:22: counts.streams.clicks: not as expected
      - dead_lettered  0
      + dead_lettered  1
        records        2

pipeline small: 1 of 2 tests FAILED (- expected, + found)
";

#[test]
fn a_failing_test_shows_all_that_differs_and_exits_with_1() {
    let folder = beside(FAILING);
    let (code, out, errors) = finish(folder.path(), &["test", "p.yaml"]);
    assert_eq!((code, errors.as_str()), (1, ""));
    assert_eq!(out, DIFF);
    let (code, out, _) = finish(folder.path(), &["test", "p.yaml", "--json"]);
    let told: Json = serde_json::from_str(&out).expect("one JSON object");
    assert_eq!((code, &told["passed"], &told["failed"]), (1, &json!(1), &json!(1)));
    let problem = &told["tests"][1]["problems"][1];
    assert_eq!((&problem["about"], &problem["kind"]), (&json!("samples.ctr"), &json!("different")));
    let clicked = json!({ "column": "clicked", "expected": "true", "found": "false", "equal": false });
    assert_eq!((&problem["line"], &problem["columns"][1]), (&json!(14), &clicked));
    assert_eq!(names(folder.path()), ["p.test.yaml", "p.yaml"], "nothing was written");
}

#[test]
fn tests_are_chosen_by_name_and_none_at_all_is_a_wrong_call() {
    let folder = beside(FAILING);
    let (code, out, _) = finish(folder.path(), &["test", "p.yaml", "--only", "right"]);
    assert_eq!((code, out.as_str()), (0, "ok    this one is right\n\npipeline small: 1 test passed\n"));
    let (code, out, errors) = finish(folder.path(), &["test", "p.yaml", "--only", "blue"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(errors.contains("\n  this one is wrong"), "{errors}");
    fs::remove_file(folder.path().join("p.test.yaml")).expect("it is there");
    let (code, _, errors) = finish(folder.path(), &["test", "p.yaml"]);
    assert!(code == 2 && errors.contains("p.test.yaml beside it"), "{code} {errors}");
    fs::write(folder.path().join("p.test.yaml"), FAILING).expect("it can be written");
    let (code, _, errors) = finish(folder.path(), &["test", "p.test.yaml"]);
    assert!(code == 2 && errors.contains("name the pipeline file, p.yaml"), "{code} {errors}");
}

#[test]
fn a_pipeline_file_may_hold_its_tests_and_a_run_passes_over_them() {
    let folder = workspace(20);
    let tests = "tests:\n  - name: nothing comes of nothing\n    events: []\n    samples: { ctr: [] }\n";
    fs::write(folder.path().join("with.yaml"), format!("{PIPELINE}{tests}")).expect("it can be written");
    let (code, out, errors) = finish(folder.path(), &["check", "with.yaml"]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(out, "pipeline small is fine: 2 streams, 1 feature group, 1 sample, 0 models, 1 test\n");
    let (code, out, errors) = finish(folder.path(), &["test", "with.yaml"]);
    assert_eq!(code, 0, "{out}{errors}");
    // State that a run without tests has left is taken up by one with tests that are all wrong.
    let (code, _, errors) = finish(folder.path(), &["run", "p.yaml"]);
    assert_eq!(code, 0, "{errors}");
    let wrong = tests.replace("samples: { ctr: [] }", "sampels: { x: \"${NOT_SET}\" }");
    fs::write(folder.path().join("with.yaml"), format!("{PIPELINE}{wrong}")).expect("it can be written");
    let (code, _, errors) = finish(folder.path(), &["run", "with.yaml"]);
    assert_eq!(code, 0, "{errors}");
    let (code, _, errors) = finish(folder.path(), &["check", "with.yaml"]);
    assert!(code == 2 && errors.contains("with.yaml:45: tests[0].sampels"), "{code} {errors}");
}

#[test]
fn a_quiet_label_stream_holds_rows_back_until_all_are_quiet_or_it_ends() {
    let impressions = [
        "{ at: 0s, impressions: { request_id: r1, user_id: u1, items: [{ id: a }] } }",
        "{ at: 1s, clicks: { event_id: e1, request_id: r0, item_id: a, user_id: u1 } }",
        "{ at: 20m, impressions: { request_id: r2, user_id: u1, items: [{ id: a }] } }",
    ];
    let test = |name: &str, more: &[&str], rows: &str| {
        let events: Vec<String> = impressions.iter().chain(more).map(|event| format!("      - {event}\n")).collect();
        let events = events.concat();
        format!("  - name: {name}\n    close: false\n    events:\n{events}    samples: {{ ctr: [{rows}] }}\n")
    };
    let (r1, moving) = ("{ request_id: r1 }", impressions[2].replace("r2", "r3"));
    let tests = [
        test("clicks may still come", &[], ""),
        test("clicks have ended", &["end: clicks"], r1),
        test("clicks are quiet for less than idle_after", &["wait: 29s"], ""),
        test("all are quiet, and time has moved on from the last word of clicks", &["wait: 11m"], r1),
        test("clicks are quiet, impressions are not", &["wait: 20s", &moving, "wait: 20s"], ""),
    ];
    let out = passed(&format!("tests:\n{}", tests.concat()));
    assert!(out.ends_with("pipeline small: 5 tests passed\n"), "{out}");
}

#[test]
fn what_a_run_writes_of_records_is_what_a_test_of_them_gives() {
    let folder = workspace(2_000);
    let (code, _, errors) = finish(folder.path(), &["run", "p.yaml"]);
    assert_eq!(code, 0, "{errors}");
    let mut rows = Vec::new();
    written(&folder.path().join("out/samples"), &mut rows);
    assert_eq!(rows.len(), 2_000);
    assert!(rows.iter().any(|row| row["clicked"] == true) && rows.iter().any(|row| row["user_clicks_1h"] != 0));
    let (code, letters, errors) = finish(folder.path(), &["dead-letters", "show", "p.yaml", "--json"]);
    assert_eq!(code, 0, "{errors}");
    let letters: Vec<Json> = letters
        .lines()
        .map(|line| serde_json::from_str::<Json>(line).expect("one JSON object per letter"))
        .map(|letter| json!({ "stream": letter["stream"], "reason": letter["reason"], "message": letter["message"] }))
        .collect();
    // Line by line, in the order of each stream, as if clicks had come in step with impressions.
    let lines = |stream: &str| -> Vec<Json> {
        let text = fs::read(folder.path().join(format!("data/{stream}.ndjson"))).expect("it was generated");
        let lines = String::from_utf8_lossy(&text).lines().map(str::to_string).collect::<Vec<_>>();
        lines.into_iter().map(|line| json!({ stream: line })).collect()
    };
    let (impressions, clicks) = (lines("impressions"), lines("clicks"));
    let mut events = Vec::new();
    for (number, impression) in impressions.iter().enumerate() {
        let of = |number: usize| clicks.len() * number / impressions.len();
        events.push(impression.clone());
        events.extend_from_slice(&clicks[of(number)..of(number + 1)]);
    }
    assert_eq!(events.len(), impressions.len() + clicks.len());
    let test = |rows: &[Json]| {
        let test =
            json!({ "name": "as the run", "events": events, "samples": { "ctr": rows }, "dead_letters": letters });
        // JSON is YAML.
        fs::write(folder.path().join("p.test.yaml"), json!({ "tests": [test] }).to_string())
            .expect("it can be written");
        finish(folder.path(), &["test", "p.yaml"])
    };
    let (code, out, errors) = test(&rows);
    assert_eq!(code, 0, "{out}{errors}");
    rows[17]["user_clicks_1h"] = json!(rows[17]["user_clicks_1h"].as_i64().expect("a count") + 1);
    let (code, out, _) = test(&rows);
    assert!(code == 1 && out.matches("not as expected").count() == 1, "{out}");
}

/// Every row below a folder, as a test would write it.
fn written(folder: &Path, rows: &mut Vec<Json>) {
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            written(&path, rows);
        } else if path.extension().is_some_and(|ending| ending == "parquet") {
            let file = fs::File::open(&path).expect("the file opens");
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|builder| builder.build());
            for batch in reader.expect("it is Parquet") {
                let batch = batch.expect("the batch decodes");
                rows.extend((0..batch.num_rows()).map(|row| row_of(&batch, row)));
            }
        }
    }
}

fn row_of(batch: &RecordBatch, row: usize) -> Json {
    let columns = batch.schema_ref().fields().iter().zip(batch.columns());
    columns.map(|(field, array)| (field.name().clone(), value_of(array.as_ref(), row))).collect()
}

fn value_of(array: &dyn Array, row: usize) -> Json {
    match array.data_type() {
        _ if array.is_null(row) => Json::Null,
        DataType::Utf8 => array.as_string::<i32>().value(row).into(),
        DataType::Boolean => array.as_boolean().value(row).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).into(),
        DataType::Timestamp(..) => array.as_primitive::<TimestampMillisecondType>().value(row).into(),
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            (0..items.len()).map(|item| value_of(items.as_ref(), item)).collect()
        }
        other => panic!("the small pipeline has no column of type {other}"),
    }
}
