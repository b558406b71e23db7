//! `conjoin dead-letters`: what was refused is counted, shown and sent back, on files and on a real Kafka.

use crate::cli::finish;
use crate::support::binary::{files, rows};
use crate::support::kafka::{KafkaProducer, TestRecord, brokers};
use crate::support::oracle::Row;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value as Json, json};
use std::fs;
use std::path::Path;
use std::time::Duration;

const T0: i64 = 1_767_225_600_000;
const MINUTE: i64 = 60_000;

/// Impressions from one input; clicks and orders from another one that both read whole.
fn pipeline(feed: &str, labels: &str, connections: &str) -> String {
    let label = "columns: { event_id: string, kind: string, req: string, at: { type: timestamp, unit: ms } }";
    format!(
        r#"version: 1
pipeline: letters
{connections}
streams:
  impressions: {{ {feed}, columns: {{ request_id: string, ts: {{ type: timestamp, unit: ms }} }},
    time: ts, key: request_id, lateness: 1h }}
  clicks: {{ {labels}, {label}, where: "kind = 'click'", time: at, id: event_id, key: req, lateness: 1h }}
  orders: {{ {labels}, {label}, where: "kind = 'order'", time: at, id: event_id, key: req, lateness: 1h }}
samples:
  ctr:
    from: impressions
    join: {{ click: {{ stream: clicks, within: 10m, take: first, select: [at] }},
      order: {{ stream: orders, within: 10m, take: count }} }}
    columns: {{ clicked: "click.at IS NOT NULL" }}
    write: {{ parquet: {{ path: samples }} }}
online: {{ store: memory }}
state: {{ path: state, lanes: 2 }}
"#
    )
}

fn impression(id: &str, ts: i64) -> String {
    json!({ "request_id": id, "ts": ts }).to_string()
}

fn click(id: &str, of: &str, at: i64) -> String {
    json!({ "event_id": id, "kind": "click", "req": of, "at": at }).to_string()
}

fn ok(folder: &Path, args: &[&str]) -> String {
    let (code, output, errors) = finish(folder, args);
    assert_eq!(code, 0, "{args:?}: {errors}");
    output
}

fn json_of(folder: &Path, args: &[&str]) -> Json {
    let output = ok(folder, args);
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("{args:?}: {error} in {output}"))
}

fn run(folder: &Path, more: &[&str]) -> Json {
    let summary = json_of(folder, &[&["run", "pipeline.yaml", "--json"], more].concat());
    assert_eq!(summary["violations"], 0);
    summary
}

fn anchor(summary: &Json) -> Json {
    summary["counts"]["samples"][0]["anchor"].clone()
}

/// Of the rows by id: the ids, and whether they were clicked.
fn clicked(folder: &Path) -> Vec<(String, bool)> {
    let row = |row: Row| (row["request_id"].as_str().unwrap().to_owned(), row["clicked"].as_bool().unwrap());
    let mut all: Vec<_> = rows(&folder.join("samples")).into_iter().map(row).collect();
    all.sort();
    all
}

/// (stream, reason, rows, records), sorted.
fn groups(folder: &Path) -> Vec<(String, String, u64, u64)> {
    let list = json_of(folder, &["dead-letters", "list", "pipeline.yaml", "--json"]);
    let text = |value: &Json| value.as_str().unwrap().to_owned();
    let group = |group: &Json| {
        let (rows, records) = (group["rows"].as_u64().unwrap(), group["records"].as_u64().unwrap());
        (text(&group["stream"]), text(&group["reason"]), rows, records)
    };
    list["groups"].as_array().unwrap().iter().map(group).collect()
}

fn sent(replayed: &Json) -> Vec<u64> {
    replayed["inputs"].as_array().unwrap().iter().map(|input| input["sent"].as_u64().unwrap()).collect()
}

#[test]
fn f14_every_refused_record_has_one_row_per_stream_and_a_repaired_one_counts_as_it_should_on_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let file = |pattern: &str| format!("file: {{ path: \"{pattern}\" }}");
    fs::write(path.join("pipeline.yaml"), pipeline(&file("feed/*.ndjson"), &file("labels/*.ndjson"), "")).unwrap();
    fs::create_dir_all(path.join("feed")).unwrap();
    fs::create_dir_all(path.join("labels")).unwrap();
    let feed = [
        impression("r1", T0),
        r#"{"request_id":"r0","ts":"long ago"}"#.into(),
        "{oops \u{1b}[31m".into(),
        r#"{"request_id":"r3","ts":"soon"}"#.into(),
        impression("r2", T0 + 10 * MINUTE),
    ];
    fs::write(path.join("feed/a.ndjson"), feed.join("\n")).unwrap();
    let labels =
        [click("c1", "r1", T0 + 1000), r#"{"event_id":"c3","kind":"click","req":"r3"}"#.into(), "garbage".into()];
    fs::write(path.join("labels/a.ndjson"), labels.join("\n")).unwrap();
    let summary = run(path, &[]);
    assert_eq!(clicked(path), [("r1".into(), true), ("r2".into(), false)]);

    // Garbage is refused by both streams of its input; a click without a time is no order, whatever else it lacks.
    let of = |stream: &str, reason: &str, rows| (stream.to_owned(), reason.to_owned(), rows, rows);
    let first = [
        of("clicks", "malformed_json", 1),
        of("clicks", "missing_field", 1),
        of("impressions", "malformed_json", 1),
        of("impressions", "wrong_type", 2),
        of("orders", "malformed_json", 1),
    ];
    assert_eq!(groups(path), first);
    assert_eq!(summary["totals"]["dead_letter_rows"], 6);
    let shown = ok(path, &["dead-letters", "show", "pipeline.yaml", "--topic", "feed/*.ndjson"]);
    assert!(shown.contains("feed/a.ndjson byte") && shown.contains("{oops \\u{1b}[31m"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "nothing may steer the terminal");

    // Repaired: r0 is too old by now, r3 is timely, the second line is beyond repair; the click of r3 comes with it.
    let of_feed = ["--topic", "feed/*.ndjson"];
    let raw = ok(path, &[&["dead-letters", "show", "pipeline.yaml", "--raw"], &of_feed[..]].concat());
    assert_eq!(raw.lines().collect::<Vec<_>>(), [&feed[1], &feed[2], &feed[3]]);
    let repaired = format!("{}\n\n{}\n", impression("r0", T0 - 180 * MINUTE), impression("r3", T0 + 20 * MINUTE));
    fs::write(path.join("feed.fixed"), &repaired).unwrap();
    fs::write(path.join("labels.fixed"), format!("{}\n", click("c3", "r3", T0 + 21 * MINUTE))).unwrap();
    let replay = |from: &str, more: &[&str]| {
        json_of(path, &[&["dead-letters", "replay", "pipeline.yaml", "--json", "--from", from], more].concat())
    };
    let dry = replay("feed.fixed", &[&of_feed[..], &["--dry-run"]].concat());
    assert_eq!((sent(&dry), files(&path.join("feed"), "").len()), (vec![2], 1), "a dry run writes nothing");
    let replayed = replay("feed.fixed", &of_feed);
    assert_eq!((sent(&replayed), &replayed["inputs"][0]["skipped_blank"]), (vec![2], &json!(1)));
    assert!(replayed["inputs"][0]["file"].as_str().unwrap().starts_with("feed/a~replay-"), "{replayed}");
    assert_eq!(sent(&replay("labels.fixed", &["--stream", "clicks", "--reason", "missing_field"])), [1]);
    assert_eq!(sent(&replay("feed.fixed", &of_feed)), [0], "the same bytes are sent once");
    let short = ["dead-letters", "replay", "pipeline.yaml", "--from", "labels.fixed", "--topic", "feed/*.ndjson"];
    let (code, _, errors) = finish(path, &short);
    assert!(code == 1 && errors.contains("has 1 lines, but these filters choose 3 records"), "{errors}");

    let summary = run(path, &[]);
    let all = [("r1".to_owned(), true), ("r2".to_owned(), false), ("r3".to_owned(), true)];
    assert_eq!(clicked(path), all);
    let account = anchor(&summary);
    assert_eq!((&account["late"], &account["emitted"]), (&json!(1), &json!(3)), "r0 is counted late");
    assert_eq!(groups(path), first, "what was repaired is refused by nobody");

    // Sent once more all the same: known by its id, or too old; no row twice.
    assert_eq!(sent(&replay("feed.fixed", &[&of_feed[..], &["--again"]].concat())), [2]);
    let account = anchor(&run(path, &[]));
    assert_eq!(clicked(path), all);
    assert_eq!((&account["emitted"], &account["pending"]), (&json!(3), &json!(0)));

    // As they were: refused again, and what came back is not sent in a circle.
    let unrepaired = ["dead-letters", "replay", "pipeline.yaml", "--json"];
    assert_eq!(sent(&json_of(path, &unrepaired)), [3, 2], "garbage that two streams refused is one record");
    assert_eq!(run(path, &[])["totals"]["dead_letter_rows"], 12);
    assert_eq!(sent(&json_of(path, &unrepaired)), [0, 0]);
    assert_eq!(clicked(path), all);
    let (code, view, errors) = finish(path, &["inspect", "pipeline.yaml", "--json"]);
    assert_eq!(code, 0, "{errors}{view}");
    let (code, report, errors) = finish(path, &["verify", "pipeline.yaml"]);
    assert_eq!(code, 0, "{errors}{report}");
}

/// The last record of a partition: key, payload, headers.
type Found = (Option<Vec<u8>>, String, Vec<(String, String)>);

fn record_at(topic: &str, partition: i32, offset: i64) -> Found {
    let mut config = ClientConfig::new();
    let consumer: BaseConsumer = config.set("bootstrap.servers", brokers()).set("group.id", "looks").create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
    consumer.assign(&list).unwrap();
    let message = consumer.poll(Duration::from_secs(30)).expect("a record").expect("no error");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let headers = message.headers().map_or(Vec::new(), |headers| {
        headers.iter().map(|header| (header.key.to_owned(), text(header.value.unwrap_or_default()))).collect()
    });
    (message.key().map(<[u8]>::to_vec), text(message.payload().unwrap()), headers)
}

#[test]
fn f14_a_repaired_record_counts_as_it_should_on_kafka() {
    let kafka = KafkaProducer::new();
    let (feed, labels) = (kafka.create_topic("feed", 2), kafka.create_topic("labels", 1));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let topic = |topic: &str| format!("kafka: {{ connection: main, topics: [{topic}] }}");
    let connections = format!("connections: {{ main: {{ kafka: {{ brokers: \"{}\" }} }} }}", brokers());
    fs::write(path.join("pipeline.yaml"), pipeline(&topic(&feed), &topic(&labels), &connections)).unwrap();
    let produce = |topic: &str, partition, key: Option<&str>, payload: &str, headers: &[(&str, &[u8])]| {
        let (key, payload) = (key.map(str::as_bytes), Some(payload.as_bytes()));
        kafka.produce(topic, &[TestRecord { partition, key, payload, headers, ..TestRecord::default() }]);
    };
    produce(&feed, 0, None, &impression("r1", T0), &[]);
    produce(&feed, 1, None, &impression("r4", T0 + MINUTE), &[]);
    produce(&feed, 1, Some("u2"), r#"{"request_id":"r2","ts":"soon"}"#, &[("trace", b"x")]);
    produce(&feed, 1, Some("u0"), r#"{"request_id":"r0","ts":"long ago"}"#, &[]);
    produce(&labels, 0, None, &click("c2", "r2", T0 + MINUTE / 2 + 1), &[]);
    produce(&labels, 0, None, "garbage", &[]);
    let account = anchor(&run(path, &["--until-end"]));
    assert_eq!((&account["pending"], &account["late"]), (&json!(2), &json!(0)));
    let of = |stream: &str, reason: &str, rows| (stream.to_owned(), reason.to_owned(), rows, rows);
    let first =
        [of("clicks", "malformed_json", 1), of("impressions", "wrong_type", 2), of("orders", "malformed_json", 1)];
    assert_eq!(groups(path), first);

    let raw = ok(path, &["dead-letters", "show", "pipeline.yaml", "--raw", "--topic", &feed]);
    assert_eq!(raw.lines().count(), 2);
    let repaired = [impression("r2", T0 + MINUTE / 2), impression("r0", T0 - 120 * MINUTE)];
    fs::write(path.join("fixed.ndjson"), repaired.join("\n") + "\n").unwrap();
    let args = ["dead-letters", "replay", "pipeline.yaml", "--json", "--from", "fixed.ndjson", "--topic", &feed];
    assert_eq!(sent(&json_of(path, &[&args[..], &["--dry-run"]].concat())), [2]);
    let replayed = json_of(path, &args);
    assert_eq!((sent(&replayed), &replayed["inputs"][0]["without_key"]), (vec![2], &json!(0)));
    let (key, payload, headers) = record_at(&feed, 1, 3);
    assert_eq!((key.as_deref(), &payload), (Some(&b"u2"[..]), &repaired[0]), "the partition and key of the original");
    let origin = ("conjoin-replay-of".to_owned(), format!("{feed}/1/1"));
    assert_eq!(headers, [("trace".to_owned(), "x".to_owned()), origin]);
    assert_eq!(sent(&json_of(path, &args)), [0], "the same bytes are sent once");

    let account = anchor(&run(path, &["--until-end"]));
    assert_eq!((&account["pending"], &account["late"]), (&json!(3), &json!(1)), "r2 counts, r0 is late");
    assert_eq!(groups(path), first);
    // Sent twice all the same: a copy, known by its id.
    assert_eq!(sent(&json_of(path, &[&args[..], &["--again"]].concat())), [2]);
    let account = anchor(&run(path, &["--until-end", "--close"]));
    assert_eq!((&account["emitted"], &account["duplicate"], &account["late"]), (&json!(3), &json!(1), &json!(2)));
    assert_eq!(clicked(path), [("r1".into(), false), ("r2".into(), true), ("r4".into(), false)]);
    let (code, report, errors) = finish(path, &["verify", "pipeline.yaml"]);
    assert_eq!(code, 0, "{errors}{report}");
}
