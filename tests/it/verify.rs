//! `conjoin verify`: equal after honest runs, on files and on Kafka, and not one kind of damage to the published files
//! stays unseen.

use crate::cli::{PIPELINE, finish, workspace};
use crate::support::binary::files;
use crate::support::kafka::{KafkaProducer, TestRecord, brokers};
use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use serde_json::{Value as Json, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn verify(folder: &Path, more: &[&str]) -> (i32, Json) {
    let (code, output, errors) = finish(folder, &[&["verify", "p.yaml", "--json"], more].concat());
    let report = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error} in {output}; {errors}"));
    (code, report)
}

/// (missing, extra, copies, different) of the sample, with what is explained of them.
fn rows(report: &Json) -> [u64; 5] {
    let sample = &report["samples"][0];
    let of = |kind: &str| sample[kind]["rows"].as_u64().unwrap();
    let explained =
        ["missing", "extra", "different"].iter().map(|kind| sample[*kind]["explained"].as_u64().unwrap()).sum();
    [of("missing"), of("extra"), sample["copies"].as_u64().unwrap(), of("different"), explained]
}

fn bad_files(report: &Json) -> [usize; 3] {
    ["missing", "damaged", "extra"].map(|kind| report["samples"][0]["files"][kind].as_array().unwrap().len())
}

fn published(folder: &Path) -> Vec<PathBuf> {
    files(&folder.join("out/samples"), ".parquet")
}

/// Writes a file anew, as conjoin does but with other rows.
fn rewrite(path: &Path, change: impl Fn(RecordBatch) -> RecordBatch) {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let notes = builder.metadata().file_metadata().key_value_metadata().unwrap().clone();
    let notes: Vec<KeyValue> = notes.into_iter().filter(|note| note.key.starts_with("conjoin.")).collect();
    let batches: Vec<RecordBatch> = builder.build().unwrap().map(|batch| change(batch.unwrap())).collect();
    let properties = WriterProperties::builder().set_key_value_metadata(Some(notes)).build();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batches[0].schema(), Some(properties)).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.close().unwrap();
}

fn flip_first(batch: RecordBatch, column: &str) -> RecordBatch {
    let at = batch.schema().index_of(column).unwrap();
    let old = batch.column(at).as_boolean();
    let new: BooleanArray = (0..old.len()).map(|row| Some(old.value(row) != (row == 0))).collect();
    let mut columns = batch.columns().to_vec();
    columns[at] = Arc::new(new) as ArrayRef;
    RecordBatch::try_new(batch.schema(), columns).unwrap()
}

#[test]
fn f9_verify_finds_a_run_equal_and_sees_every_damage_to_its_files() {
    let folder = workspace(4_000);
    let path = folder.path();
    assert_eq!(finish(path, &["verify", "p.yaml"]).0, 1, "there is no state yet");
    assert_eq!(finish(path, &["run", "p.yaml"]).0, 0);
    let (code, report) = verify(path, &[]);
    assert_eq!((code, &report["equal"]), (0, &json!(true)), "{report}");
    let sample = &report["samples"][0];
    assert_eq!((&sample["expected"], &sample["found"]), (&json!(4000), &json!(4000)));
    assert_eq!((rows(&report), bad_files(&report)), ([0; 5], [0; 3]));
    for account in sample["accounts"].as_array().unwrap() {
        assert_eq!(account["run"], account["recomputed"], "{account}");
    }
    let (code, part) = verify(path, &["--from", "2026-01-01T06:00:00Z", "--to", "2026-01-01T12:00:00Z"]);
    let expected = part["samples"][0]["expected"].as_u64().unwrap();
    assert!(code == 0 && 0 < expected && expected < 4000, "{part}");

    let files = published(path);
    let (first, second) = (files[0].clone(), files[1].clone());
    let (saved, other) = (fs::read(&first).unwrap(), fs::read(&second).unwrap());

    rewrite(&first, |batch| batch.slice(1, batch.num_rows() - 1));
    let (code, report) = verify(path, &[]);
    assert_eq!((code, rows(&report), bad_files(&report)), (1, [1, 0, 0, 0, 0], [0, 1, 0]), "a row was dropped");
    let id = report["samples"][0]["missing"]["examples"][0]["id"].as_str().unwrap().to_owned();
    assert!(id.contains("request_id=") && id.contains("item_id="), "{id}");

    fs::write(&first, &saved).unwrap();
    rewrite(&first, |batch| flip_first(batch, "clicked"));
    let (code, report) = verify(path, &[]);
    assert_eq!((code, rows(&report), bad_files(&report)), (1, [0, 0, 0, 1, 0], [0, 1, 0]), "a value was changed");
    let column = &report["samples"][0]["different"]["examples"][0]["columns"][0];
    assert_eq!(column["column"], "clicked");
    assert_ne!(column["found"], column["expected"]);
    let (_, text, _) = finish(path, &["verify", "p.yaml"]);
    assert!(text.contains("NOT EQUAL") && text.contains("clicked: found") && text.contains("DAMAGED"), "{text}");

    fs::write(&first, &saved).unwrap();
    let copy = first.with_file_name("copy.parquet");
    fs::copy(&first, &copy).unwrap();
    let (code, report) = verify(path, &[]);
    let copied = report["samples"][0]["found"].as_u64().unwrap() - 4000;
    assert_eq!(
        (code, rows(&report), bad_files(&report)),
        (1, [0, copied, copied, 0, 0], [0, 0, 1]),
        "a copy was added"
    );
    assert!(copied > 0);
    fs::remove_file(&copy).unwrap();

    fs::remove_file(&first).unwrap();
    fs::write(&second, &other[..other.len() - 9]).unwrap();
    let (code, report) = verify(path, &[]);
    let [missing, rest @ ..] = rows(&report);
    assert_eq!((code, rest, bad_files(&report)), (1, [0; 4], [1, 1, 0]), "a file is gone, another one cut");
    assert!(missing > copied, "all rows of both");

    fs::write(&first, &saved).unwrap();
    fs::write(&second, &other).unwrap();
    assert_eq!(verify(path, &[]).0, 0, "as it was");
}

/// The pipeline of the workspace, over every kind of window value and label that there is.
fn wide_pipeline(impressions: &str, clicks: &str, connections: &str) -> String {
    format!(
        r#"
version: 1
pipeline: wide
{connections}
streams:
  impressions:
    {impressions}
    columns: {{ request_id: string, user_id: string, ts: {{ type: timestamp, unit: ms }},
      item_id: {{ type: string, path: $.id, from: item }}, price: {{ type: float64, path: $.price, from: item }},
      position: {{ type: int32, path: $index, from: item }} }}
    explode: {{ path: $.items, as: item, max: 50 }}
    time: ts
    key: [request_id, item_id]
    partition_by: user_id
    lateness: 5s
  clicks:
    {clicks}
    columns: {{ event_id: string, request_id: string, item_id: string, user_id: string, ts: timestamp }}
    time: ts
    id: event_id
    key: [request_id, item_id]
    partition_by: user_id
    lateness: 5s
features:
  user:
    entity: user_id
    aggregates:
      user_clicks: {{ from: clicks, count: "*", windows: [10m, 1h] }}
      user_items: {{ from: clicks, last_k: item_id, k: 3, windows: [1h] }}
      user_spread: {{ from: impressions, mean: price, windows: [1h] }}
  item:
    entity: item_id
    aggregates:
      item_shown: {{ from: impressions, count: "*", windows: [10m, 1h] }}
      item_clicks: {{ from: clicks, count: "*", windows: [1h] }}
      item_price: {{ from: impressions, sum: price, windows: [1h] }}
      item_low: {{ from: impressions, min: price, windows: [10m] }}
      item_high: {{ from: impressions, max: price, windows: [10m] }}
      item_last: {{ from: impressions, last: user_id, windows: [1h] }}
    derived: {{ item_ctr: "(item_clicks_1h + 1.0) / (item_shown_1h + 20.0)" }}
samples:
  ctr:
    from: impressions
    serving_lag: 500ms
    join:
      click: {{ stream: clicks, within: 10m, before: 2s, take: first, select: [ts] }}
      clicks: {{ stream: clicks, within: 20m, take: count }}
      newest: {{ stream: clicks, within: 20m, take: {{ max: ts }} }}
    features: [user, item]
    columns: {{ clicked: "click.ts IS NOT NULL" }}
    negatives: {{ where: "NOT clicked", keep: 0.5 }}
    write: {{ parquet: {{ path: out/samples, partition_by: [date], roll: {{ size: 64KB, age: 1s }} }} }}
online: {{ store: memory }}
state: {{ path: out/state, commit_every: 100ms, lanes: 3 }}
"#
    )
}

#[test]
fn verify_recomputes_every_kind_of_feature_and_label() {
    let folder = workspace(6_000);
    let path = folder.path();
    let file = |name: &str| format!("file: {{ path: \"data/{name}.ndjson\" }}");
    fs::write(path.join("p.yaml"), wide_pipeline(&file("impressions"), &file("clicks"), "")).unwrap();
    let (code, _, errors) = finish(path, &["run", "p.yaml"]);
    assert_eq!(code, 0, "{errors}");
    let (code, report) = verify(path, &[]);
    assert_eq!((code, rows(&report)), (0, [0; 5]), "{report}");
    assert!(report["samples"][0]["sampled_out"].as_u64() > Some(1000), "negatives are sampled");
}

#[test]
fn verify_recomputes_rows_that_leave_early() {
    for emit in
        ["{ mode: immediate }", "{ mode: elapsed, wait_to: 5m }", "{ mode: defer, wait_from: 10s, wait_to: 1m }"]
    {
        let folder = workspace(3_000);
        let path = folder.path();
        let early = PIPELINE.replace("serving_lag: 0s", &format!("serving_lag: 0s\n    emit: {emit}"));
        fs::write(path.join("p.yaml"), early).unwrap();
        let (code, _, errors) = finish(path, &["run", "p.yaml"]);
        assert_eq!(code, 0, "{errors}");
        let (code, report) = verify(path, &[]);
        assert_eq!((code, rows(&report), bad_files(&report)), (0, [0; 5], [0; 3]), "{emit}: {report}");
        let found = report["samples"][0]["found"].as_u64().unwrap();
        assert!(found > 3_000, "{emit}: {found} rows of 3000 impressions, of which some were clicked");
    }
}

#[test]
fn verify_reads_a_topic_up_to_the_committed_positions_and_no_further() {
    let kafka = KafkaProducer::new();
    let (feed, clicks) = (kafka.create_topic("feed", 3), kafka.create_topic("clicks", 2));
    let folder = workspace(6_000);
    let path = folder.path();
    let topic = |topic: &str| format!("kafka: {{ connection: main, topics: [{topic}] }}");
    let connections = format!("connections: {{ main: {{ kafka: {{ brokers: \"{}\" }} }} }}", brokers());
    fs::write(path.join("p.yaml"), wide_pipeline(&topic(&feed), &topic(&clicks), &connections)).unwrap();
    let produce = |topic: &str, name: &str, partitions: usize, part: usize| {
        let text = fs::read_to_string(path.join(format!("data/{name}.ndjson"))).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let half = lines.len() / 2;
        let mine = if part == 0 { &lines[..half] } else { &lines[half..] };
        let records: Vec<TestRecord<'_>> = mine
            .iter()
            .enumerate()
            .map(|(at, line)| TestRecord {
                partition: (at % partitions) as i32,
                payload: Some(line.as_bytes()),
                ..TestRecord::default()
            })
            .collect();
        kafka.produce(topic, &records);
    };
    let both = |part| {
        produce(&feed, "impressions", 3, part);
        produce(&clicks, "clicks", 2, part);
    };
    both(0);
    let (code, _, errors) = finish(path, &["run", "p.yaml", "--until-end"]);
    assert_eq!(code, 0, "{errors}");
    // The second half lies in the log, and is nobody's business yet.
    both(1);
    let (code, report) = verify(path, &[]);
    assert_eq!((code, rows(&report)), (0, [0; 5]), "{report}");
    let first = report["samples"][0]["expected"].as_u64().unwrap();
    assert_eq!(report["inputs"].as_array().unwrap().len(), 5, "three partitions and two");

    let (code, _, errors) = finish(path, &["run", "p.yaml", "--until-end", "--close"]);
    assert_eq!(code, 0, "{errors}");
    let (code, report) = verify(path, &[]);
    assert_eq!((code, rows(&report)), (0, [0; 5]), "{report}");
    assert!(report["samples"][0]["expected"].as_u64().unwrap() > first);
    // A lost file is seen here too.
    fs::remove_file(&published(path)[0]).unwrap();
    assert_eq!(verify(path, &[]).0, 1);
}
