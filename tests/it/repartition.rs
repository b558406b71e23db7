//! `conjoin repartition` on a real Kafka: every record arrives unchanged, by the stream's key, also after a crash.

use crate::cli::{conjoin, finish};
use crate::kafka_writer::messages;
use crate::support::binary::wait_for;
use crate::support::kafka::{KafkaProducer, TestRecord, brokers, unique};
use conjoin::event::Partitioner;
use rdkafka::message::{Headers, Message};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const T0: i64 = 1_767_225_600_000;

/// Impressions of one topic; clicks and orders share another one.
fn pipeline(feed: &str, events: &str) -> String {
    format!(
        r#"version: 1
pipeline: moved
connections: {{ main: {{ kafka: {{ brokers: "{}" }} }} }}
streams:
  impressions:
    kafka: {{ connection: main, topics: [{feed}] }}
    columns: {{ request_id: string, uid: string, n: int64, ts: {{ type: timestamp, unit: ms }},
      item: {{ type: string, path: $.id, from: item }} }}
    explode: {{ path: $.items, as: item, max: 5 }}
    time: ts
    key: [request_id, item]
    partition_by: [uid, n]
  clicks:
    kafka: {{ connection: main, topics: [{events}] }}
    columns: {{ event_id: string, kind: string, req: string, item: string, user: string, n: int64,
      at: {{ type: timestamp, unit: ms }} }}
    where: "kind = 'click'"
    time: at
    id: event_id
    key: [req, item]
    partition_by: [user, n]
  orders:
    kafka: {{ connection: main, topics: [{events}] }}
    columns: {{ event_id: string, kind: string, req: string, item: string, buyer: string, n: int64,
      at: {{ type: timestamp, unit: ms }} }}
    where: "kind = 'order'"
    time: at
    id: event_id
    key: [req, item]
    partition_by: [buyer, n]
samples:
  ctr:
    from: impressions
    join: {{ click: {{ stream: clicks, within: 10m, take: first, select: [at] }},
      order: {{ stream: orders, within: 10m, take: count }} }}
    columns: {{ clicked: "click.at IS NOT NULL" }}
    write: {{ parquet: {{ path: samples }} }}
online: {{ store: memory }}
state: {{ path: state, lanes: 1 }}
"#,
        brokers()
    )
}

fn repartition(folder: &Path, more: &[&str]) -> Json {
    let (code, output, errors) = finish(folder, &[&["repartition", "p.yaml", "--until-end", "--json"], more].concat());
    assert_eq!(code, 0, "{errors}");
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error} in {output}; {errors}"))
}

/// Text of what may be absent.
fn text(bytes: Option<&[u8]>) -> Option<String> {
    bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
}

#[test]
fn every_record_arrives_unchanged_in_the_partition_of_the_streams_key() {
    let producer = KafkaProducer::new();
    let (feed, events) = (producer.create_topic("feed", 2), producer.create_topic("events", 3));
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("p.yaml"), pipeline(&feed, &events)).unwrap();
    let click = |user: &str, n: i64, id: u32| {
        json!({ "event_id": format!("c{id}"), "kind": "click", "req": "r", "item": "i", "user": user, "n": n, "at": T0 })
            .to_string()
    };
    let order = json!({ "event_id": "o", "kind": "order", "req": "r", "item": "i", "buyer": "bob", "n": -3, "at": T0 })
        .to_string();
    let clicks: Vec<String> = (0..300).map(|id| click(&format!("u{}", id % 20), id as i64 % 7, id)).collect();
    for (id, payload) in clicks.iter().enumerate() {
        let (partition, payload) = ((id % 20 % 3) as i32, Some(payload.as_bytes()));
        let headers: &[(&str, &[u8])] = &[("x-experiment", b"blue")];
        let (key, timestamp) = (Some(&b"old"[..]), Some(T0 + id as i64));
        producer.produce(&events, &[TestRecord { partition, key, payload, timestamp, headers }]);
    }
    let plain = |key: Option<&'static [u8]>, payload| TestRecord { key, payload, ..Default::default() };
    let other = json!({ "kind": "view" }).to_string();
    producer.produce(
        &events,
        &[
            plain(None, Some(order.as_bytes())),
            plain(Some(b"own"), Some(b"{oops")),
            plain(None, Some(b"{oops")),
            plain(Some(b"tomb"), None),
            plain(Some(b"seen"), Some(other.as_bytes())),
        ],
    );

    let to = unique("events-by-user");
    let done = repartition(folder.path(), &["--stream", "clicks", "--to", &to, "--partitions", "5"]);
    assert_eq!((&done["records"], &done["partitions"]), (&json!(305), &json!(5)), "{done}");
    assert_eq!(done["by_stream"], json!({ "clicks": 300, "orders": 1 }));
    assert_eq!((&done["undecoded"], &done["filtered"]), (&json!(3), &json!(1)), "{done}");

    let place = |key: &str| Partitioner::Murmur2.partition(key.as_bytes(), 5);
    let mut by_payload = BTreeMap::new();
    for partition in 0..5 {
        let mut times = Vec::new();
        for message in messages(&brokers(), &to, partition) {
            let (payload, key) = (text(message.payload()).unwrap_or_default(), text(message.key()));
            if let Ok(Json::Object(object)) = serde_json::from_str(&payload)
                && object["kind"] == "click"
            {
                let user = object["user"].as_str().unwrap().to_string();
                assert_eq!(key, Some(format!("{user}:{}", object["n"])), "{payload}");
                let header = message.headers().unwrap().get(0);
                assert_eq!((header.key, header.value), ("x-experiment", Some(&b"blue"[..])));
            }
            times.push(message.timestamp().to_millis().unwrap());
            assert_eq!(partition as u32, key.as_deref().map_or(0, place), "{key:?}");
            by_payload.entry(payload).or_insert_with(Vec::new).push(key);
        }
        assert!(times.is_sorted(), "records of all source partitions are merged by their times: {times:?}");
    }
    assert_eq!(by_payload.len(), 304, "two records were alike");
    assert!(clicks.iter().all(|click| by_payload.contains_key(click)));
    assert_eq!(by_payload[&order], [Some("bob:-3".to_string())]);
    assert_eq!(by_payload[""], [Some("tomb".to_string())]);
    assert_eq!(by_payload[&other], [Some("seen".to_string())]);
    let mut broken = by_payload["{oops"].clone();
    broken.sort();
    assert_eq!(broken, [None, Some("own".to_string())]);

    // Again: nothing is left. Then one more record, and only that.
    let again = ["--stream", "clicks", "--to", &to, "--partitions", "5"];
    assert_eq!(repartition(folder.path(), &again)["records"], 0);
    producer.produce(&events, &[plain(None, Some(click("u1", 1, 900).as_bytes()))]);
    assert_eq!(repartition(folder.path(), &again)["records"], 1);
}

#[test]
fn a_slate_goes_whole_and_librdkafkas_partitioner_can_be_asked_for() {
    let producer = KafkaProducer::new();
    let (feed, events) = (producer.create_topic("slates", 2), producer.create_topic("unused", 1));
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("p.yaml"), pipeline(&feed, &events)).unwrap();
    let slate = |uid: &str| {
        json!({ "request_id": "r", "uid": uid, "n": 0, "ts": T0, "items": [{ "id": "a" }, { "id": "b" }] }).to_string()
    };
    for user in 0..40 {
        let payload = slate(&format!("u{user}"));
        producer.produce(
            &feed,
            &[TestRecord { partition: user % 2, payload: Some(payload.as_bytes()), ..Default::default() }],
        );
    }
    let to = unique("slates-by-user");
    let options = ["--stream", "impressions", "--to", &to, "--partitions", "4", "--set", "partitioner=crc32"];
    assert_eq!(repartition(folder.path(), &options)["by_stream"], json!({ "impressions": 40 }));
    let mut found = 0;
    for partition in 0..4 {
        for message in messages(&brokers(), &to, partition) {
            let key = message.key().unwrap();
            assert_eq!(Partitioner::Crc32.partition(key, 4), partition as u32);
            assert_eq!(
                message.payload().unwrap(),
                slate(std::str::from_utf8(key).unwrap().strip_suffix(":0").unwrap()).as_bytes()
            );
            found += 1;
        }
    }
    assert_eq!(found, 40);
}

#[test]
fn a_copy_that_is_killed_goes_on_and_leaves_no_record_out() {
    let producer = KafkaProducer::new();
    let (feed, events) = (producer.create_topic("long", 2), producer.create_topic("unused", 1));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("p.yaml"), pipeline(&feed, &events)).unwrap();
    let filler = "x".repeat(400);
    let payloads: Vec<String> = (0..160_000)
        .map(|n| {
            json!({ "request_id": format!("r{n}"), "uid": format!("u{}", n % 50), "n": 0, "ts": T0, "items": [{ "id": "a" }],
                "filler": filler })
            .to_string()
        })
        .collect();
    let records: Vec<TestRecord> = payloads
        .iter()
        .enumerate()
        .map(|(n, payload)| TestRecord {
            partition: n as i32 % 2,
            payload: Some(payload.as_bytes()),
            ..Default::default()
        })
        .collect();
    producer.produce(&feed, &records);
    let to = unique("long-by-user");
    let arguments = ["repartition", "p.yaml", "--stream", "impressions", "--to", &to, "--partitions", "3"];
    let group = format!("conjoin-moved-repartition-impressions-{to}");
    let mut child = conjoin(path, &arguments).spawn().unwrap();
    let committed = || (0..2).filter_map(|partition| producer.committed(&group, &feed, partition)).sum::<i64>();
    wait_for("a part is committed", || (committed() > 0).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    let before = committed();
    assert!(before < 160_000, "it was done before it was killed: the test shows nothing");
    let done = repartition(path, &arguments[2..]);
    assert_eq!(done["records"].as_i64().unwrap(), 160_000 - before, "goes on from what was committed");
    let mut found: BTreeMap<String, u32> = BTreeMap::new();
    for partition in 0..3 {
        for message in messages(&brokers(), &to, partition) {
            *found.entry(text(message.payload()).unwrap()).or_default() += 1;
        }
    }
    assert_eq!(found.len(), payloads.len());
    assert!(payloads.iter().all(|payload| found.contains_key(payload)));
    let twice = found.values().filter(|times| **times > 1).count();
    println!("killed when {before} were committed; {twice} were copied twice");
}

#[test]
fn what_cannot_be_done_is_refused_with_the_reason() {
    let producer = KafkaProducer::new();
    let (feed, events) = (producer.create_topic("refuse", 2), producer.create_topic("refuse-events", 1));
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("p.yaml"), pipeline(&feed, &events)).unwrap();
    let refused = |stream: &str, to: &str, partitions: &str| {
        let options = ["--stream", stream, "--to", to, "--partitions", partitions, "--until-end"];
        let (code, _, errors) = finish(folder.path(), &[&["repartition", "p.yaml"], &options[..]].concat());
        assert_eq!(code, 1, "{errors}");
        errors
    };
    let errors = refused("nobody", "t", "2");
    assert!(["impressions", "clicks", "orders"].iter().all(|stream| errors.contains(stream)), "{errors}");
    assert!(refused("clicks", &events, "2").contains("itself"));
    let other = producer.create_topic("other", 4);
    assert!(refused("clicks", &other, "2").contains("has 4 partitions, but 2"));

    // One record whose rows belong to different partitions.
    let text = fs::read_to_string(folder.path().join("p.yaml"))
        .unwrap()
        .replace("partition_by: [uid, n]", "partition_by: [item, n]");
    fs::write(folder.path().join("p.yaml"), text).unwrap();
    let slate =
        json!({ "request_id": "r", "uid": "u", "n": 0, "ts": T0, "items": [{ "id": "a" }, { "id": "b" }] }).to_string();
    producer.produce(&feed, &[TestRecord { partition: 1, payload: Some(slate.as_bytes()), ..Default::default() }]);
    let errors = refused("impressions", &unique("split"), "2");
    assert!(errors.contains(&format!("{feed}/1 offset 0")) && errors.contains("different item, n"), "{errors}");
}
