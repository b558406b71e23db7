//! Avro and Protobuf end to end: from a real Kafka, with a real schema registry, the samples are those of the same events
//! in JSON; a registry that is away holds everything back and loses nothing.

use crate::cli::finish;
use crate::support::binary::{Conjoin, rows, wait_for};
use crate::support::env;
use crate::support::kafka::{KafkaProducer, TestRecord, brokers, unique};
use crate::support::oracle::Row;
use crate::support::registry::{Door, register};
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use prost_reflect::prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Value as Proto};
use serde_json::{Value as Json, json};
use std::fs;
use std::path::Path;

const T0: i64 = 1_767_225_600_000;
const EVENTS: usize = 400;

const OLD: &str = r#"{"type":"record","name":"Impression","namespace":"feed","fields":[
    {"name":"request_id","type":"string"},
    {"name":"user","type":{"type":"record","name":"User","fields":[{"name":"id","type":"string"}]}},
    {"name":"ts","type":"long"},
    {"name":"items","type":{"type":"array","items":{"type":"record","name":"Item","fields":[
        {"name":"id","type":"string"},{"name":"price","type":"double"}]}}}]}"#;

/// A field more, another order, and a type that says what it is.
const NEW: &str = r#"{"type":"record","name":"Impression","namespace":"feed","fields":[
    {"name":"ts","type":{"type":"long","logicalType":"timestamp-micros"}},
    {"name":"request_id","type":"string"},
    {"name":"device","type":["null","string"],"default":null},
    {"name":"user","type":{"type":"record","name":"User","fields":[{"name":"id","type":"string"}]}},
    {"name":"items","type":{"type":"array","items":{"type":"record","name":"Item","fields":[
        {"name":"price","type":["null","double"]},{"name":"id","type":"string"}]}}}]}"#;

/// The user is a number now, and the time is gone.
const BREAKING: &str = r#"{"type":"record","name":"Impression","namespace":"feed","fields":[
    {"name":"request_id","type":"string"},{"name":"user","type":"long"},
    {"name":"items","type":{"type":"array","items":{"type":"record","name":"Item","fields":[
        {"name":"id","type":"string"},{"name":"price","type":"double"}]}}}]}"#;

const KIND: &str = "syntax = \"proto3\"; package common; enum Kind { NONE = 0; CLICK = 1; }";
const CLICK: &str = r#"
    syntax = "proto3";
    package feed;
    import "common/kind.proto";
    import "google/protobuf/timestamp.proto";
    message Other { string note = 1; }
    message Click {
        string event_id = 1;
        common.Kind kind = 2;
        string req = 3;
        string item = 4;
        google.protobuf.Timestamp at = 5;
    }"#;

fn pipeline(name: &str, topics: [&str; 2], formats: [&str; 2], registry: &str) -> String {
    let [feed, clicks] = topics;
    let [feed_format, clicks_format] = formats;
    let kafka = brokers();
    format!(
        r#"version: 1
pipeline: {name}
connections:
  main: {{ kafka: {{ brokers: "{kafka}" }} }}
  schemas: {{ schema_registry: {{ url: "{registry}" }} }}
streams:
  impressions: {{
    kafka: {{ connection: main, topics: [{feed}] }}, {feed_format},
    columns: {{
      request_id: string, user_id: {{ type: string, path: $.user.id }}, ts: {{ type: timestamp, unit: ms }},
      device: {{ type: string, nullable: true, default: unknown }}, item_id: {{ type: string, path: $.id, from: item }},
      price: {{ type: float64, from: item, nullable: true }}, position: {{ type: int32, path: $index, from: item }} }},
    explode: {{ path: $.items, as: item, max: 50 }},
    time: ts, key: [request_id, item_id], lateness: 1h }}
  clicks: {{
    kafka: {{ connection: main, topics: [{clicks}] }}, {clicks_format},
    columns: {{ event_id: string, kind: string, req: string, item: string, at: {{ type: timestamp, unit: ms }} }},
    where: "kind = 'CLICK'", time: at, id: event_id, key: [req, item], lateness: 1h }}
features:
  items:
    entity: item_id
    aggregates:
      shown: {{ from: impressions, count: "*", windows: [1h] }}
      clicks: {{ from: clicks, by: item, count: "*", windows: [1h] }}
samples:
  ctr:
    from: impressions
    join: {{ click: {{ stream: clicks, within: 10m, take: first, select: [at] }} }}
    features: [items]
    columns: {{ clicked: "click.at IS NOT NULL" }}
    write: {{ parquet: {{ path: samples }} }}
online: {{ store: memory }}
state: {{ path: state, lanes: 2 }}
"#
    )
}

/// The `n`th impression, and the click on its second item.
fn impression(n: usize) -> Json {
    let items: Vec<Json> =
        (0..n % 4).map(|i| json!({ "id": format!("i{}", (n * 7 + i) % 23), "price": n as f64 / 4.0 })).collect();
    let mut event = json!({ "request_id": format!("r{n}"), "user": { "id": format!("ü{}", n % 17) }, "ts": T0 + n as i64 * 1000, "items": items });
    // Writers learn of the field in the middle.
    if n >= EVENTS / 2 && !n.is_multiple_of(3) {
        event["device"] = json!(format!("d{}", n % 3));
    }
    event
}

fn click(n: usize) -> Json {
    let kind = if n.is_multiple_of(5) { "NONE" } else { "CLICK" };
    json!({ "event_id": format!("c{n}"), "kind": kind, "req": format!("r{n}"), "item": format!("i{}", (n * 7 + 1) % 23), "at": T0 + n as i64 * 1000 + 300 })
}

fn text(value: &Json) -> Avro {
    Avro::String(value.as_str().unwrap().to_string())
}

fn framed(id: u32, body: &[u8]) -> Vec<u8> {
    [&[0], &id.to_be_bytes()[..], body].concat()
}

fn avro(schema: &str, event: &Json) -> Vec<u8> {
    let record = |fields: Vec<(&str, Avro)>| {
        Avro::Record(fields.into_iter().map(|(name, value)| (name.into(), value)).collect())
    };
    let some = |value: Avro| Avro::Union(1, Box::new(value));
    let new = schema == NEW;
    let ts = event["ts"].as_i64().unwrap();
    let item = |item: &Json| {
        let price = Avro::Double(item["price"].as_f64().unwrap());
        record(vec![("id", text(&item["id"])), ("price", if new { some(price) } else { price })])
    };
    let mut fields = vec![
        ("request_id", text(&event["request_id"])),
        ("user", record(vec![("id", text(&event["user"]["id"]))])),
        ("ts", if new { Avro::TimestampMicros(ts * 1000 + 999) } else { Avro::Long(ts) }),
        ("items", Avro::Array(event["items"].as_array().unwrap().iter().map(item).collect())),
    ];
    if new {
        let device = event["device"].as_str().map(|device| some(Avro::String(device.into())));
        fields.push(("device", device.unwrap_or(Avro::Union(0, Box::new(Avro::Null)))));
    }
    let parsed = apache_avro::Schema::parse_str(schema).unwrap();
    GenericDatumWriter::builder(&parsed).build().unwrap().write_value_to_vec(in_order(&parsed, record(fields))).unwrap()
}

/// The writer wants fields as the schema has them.
fn in_order(schema: &apache_avro::Schema, value: Avro) -> Avro {
    value.resolve(schema).unwrap()
}

fn click_type() -> prost_reflect::MessageDescriptor {
    struct Files;
    impl protox::file::FileResolver for Files {
        fn open_file(&self, name: &str) -> Result<protox::file::File, protox::Error> {
            match name {
                "click.proto" => protox::file::File::from_source(name, CLICK),
                "common/kind.proto" => protox::file::File::from_source(name, KIND),
                _ => protox::file::GoogleFileResolver::new().open_file(name),
            }
        }
    }
    let mut compiler = protox::Compiler::with_file_resolver(Files);
    compiler.include_imports(true).open_file("click.proto").unwrap();
    let pool: DescriptorPool = compiler.descriptor_pool();
    pool.get_message_by_name("feed.Click").unwrap()
}

fn proto(message: &prost_reflect::MessageDescriptor, click: &Json) -> Vec<u8> {
    let mut out = DynamicMessage::new(message.clone());
    let string = |name: &str| Proto::String(click[name].as_str().unwrap().to_string());
    for name in ["event_id", "req", "item"] {
        out.set_field_by_name(name, string(name));
    }
    out.set_field_by_name("kind", Proto::EnumNumber((click["kind"] == "CLICK") as i32));
    let at = click["at"].as_i64().unwrap();
    let stamp = message.get_field_by_name("at").unwrap().kind().as_message().unwrap().clone();
    let mut stamp = DynamicMessage::new(stamp);
    stamp.set_field_by_name("seconds", Proto::I64(at / 1000));
    stamp.set_field_by_name("nanos", Proto::I32((at % 1000) as i32 * 1_000_000));
    out.set_field_by_name("at", Proto::Message(stamp));
    // the second message of its file
    [&[2, 2], &out.encode_to_vec()[..]].concat()
}

struct Topics {
    json: [String; 2],
    binary: [String; 2],
    /// Of the records that nobody can read.
    bad: Vec<(&'static str, usize)>,
}

fn produce(kafka: &KafkaProducer) -> Topics {
    let of = unique("formats");
    let ids = [("old", OLD), ("new", NEW), ("breaking", BREAKING)]
        .map(|(name, schema)| register(&format!("{of}-{name}"), "AVRO", schema, &[]));
    register(&format!("{of}-kind"), "PROTOBUF", KIND, &[]);
    let kind = format!("{of}-kind");
    let click_id = register(&format!("{of}-click"), "PROTOBUF", CLICK, &[("common/kind.proto", &kind)]);
    let (message, mut feed, mut clicks) = (click_type(), Vec::new(), Vec::new());
    for n in 0..EVENTS {
        let event = impression(n);
        let (id, schema) = if n < EVENTS / 2 { (ids[0], OLD) } else { (ids[1], NEW) };
        feed.push(framed(id, &avro(schema, &event)));
        clicks.push(framed(click_id, &proto(&message, &click(n))));
        if n % 100 == 50 {
            feed.push(event.to_string().into_bytes());
            feed.push(framed(i32::MAX as u32, &avro(schema, &event)));
            feed.push(framed(id, &avro(schema, &event)[..9]));
            feed.push(framed(ids[2], b"\x02r\x02\0"));
            clicks.push(framed(click_id, &[2, 2, 0x0d, 1, 2, 3, 4]));
        }
    }
    let topics =
        |name: &str| [format!("{name}-feed"), format!("{name}-clicks")].map(|name| kafka.create_topic(&name, 1));
    let (json, binary) = (topics("json"), topics("binary"));
    let events = |make: fn(usize) -> Json| (0..EVENTS).map(|n| make(n).to_string().into_bytes()).collect::<Vec<_>>();
    for (topic, records) in
        [(&json[0], &events(impression)), (&json[1], &events(click)), (&binary[0], &feed), (&binary[1], &clicks)]
    {
        let record =
            |payload: &'_ Vec<u8>| TestRecord { payload: Some(Vec::leak(payload.clone())), ..TestRecord::default() };
        kafka.produce(topic, &records.iter().map(record).collect::<Vec<_>>());
    }
    let bad = EVENTS / 100;
    let bad = vec![
        ("incompatible_schema", bad),
        ("malformed_protobuf", bad),
        ("truncated", bad),
        ("unknown_schema", bad),
        ("wrong_magic", bad),
    ];
    Topics { json, binary, bad }
}

const JSON: [&str; 2] = ["format: json"; 2];
const BINARY: [&str; 2] =
    ["format: avro, schema: { registry: schemas }", "format: protobuf, schema: { registry: schemas }"];

fn write(folder: &Path, topics: &[String; 2], formats: [&str; 2], registry: &str) {
    let [feed, clicks] = topics;
    let text = pipeline(&unique("formats"), [feed, clicks], formats, registry);
    fs::write(folder.join("pipeline.yaml"), text).unwrap();
}

fn ok(folder: &Path, args: &[&str]) -> Json {
    let (code, output, errors) = finish(folder, args);
    assert_eq!(code, 0, "{args:?}: {errors}");
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error} in {output}"))
}

/// Everything about the samples but when they were written.
fn samples(folder: &Path) -> Vec<Row> {
    let mut all = rows(&folder.join("samples"));
    all.sort_by_key(|row| (row["request_id"].to_string(), row["position"].to_string()));
    all
}

#[test]
fn avro_and_protobuf_of_a_registry_become_the_samples_that_json_becomes() {
    let kafka = KafkaProducer::new();
    let topics = produce(&kafka);
    let (json, binary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let registry = env("REGISTRY_URL");
    write(json.path(), &topics.json, JSON, &registry);
    write(binary.path(), &topics.binary, BINARY, &registry);
    let run = ["run", "pipeline.yaml", "--json", "--until-end", "--close"];
    assert_eq!(ok(json.path(), &run)["totals"]["dead_letter_rows"], 0);
    let summary = ok(binary.path(), &run);
    let bad: usize = topics.bad.iter().map(|(_, count)| count).sum();
    assert_eq!((&summary["violations"], &summary["totals"]["dead_letter_rows"]), (&json!(0), &json!(bad)));
    let expected = samples(json.path());
    assert_eq!(expected.len(), (0..EVENTS).map(|n| n % 4).sum::<usize>());
    assert!(expected.iter().filter(|row| row["clicked"] == true).count() > EVENTS / 4);
    assert_eq!(samples(binary.path()), expected);

    let letters = ok(binary.path(), &["dead-letters", "list", "pipeline.yaml", "--json"]);
    let groups = letters["groups"].as_array().unwrap().iter();
    let mut reasons: Vec<_> = groups
        .map(|group| (group["reason"].as_str().unwrap().to_string(), group["rows"].as_u64().unwrap() as usize))
        .collect();
    reasons.sort();
    assert_eq!(reasons, topics.bad.iter().map(|(reason, count)| (reason.to_string(), *count)).collect::<Vec<_>>());
    let (_, shown, _) = finish(
        binary.path(),
        &["dead-letters", "show", "pipeline.yaml", "--reason", "incompatible_schema", "--limit", "1"],
    );
    assert!(
        shown.contains(
            "column user_id (string, neither nullable nor with a default) is read from $.user.id, where schema"
        ),
        "{shown}"
    );
    assert_eq!(ok(binary.path(), &["verify", "pipeline.yaml", "--json"])["equal"], true);
}

#[test]
fn a_registry_that_is_away_holds_reading_back_and_loses_nothing() {
    let kafka = KafkaProducer::new();
    let topics = produce(&kafka);
    let folder = tempfile::tempdir().unwrap();
    let door = Door::shut();
    write(folder.path(), &topics.binary, BINARY, &door.url);
    let mut stopped = Conjoin::run(folder.path(), "stopped", &["--json"]);
    let waits = |conjoin: &Conjoin| conjoin.errors().contains("reading waits for it").then_some(());
    wait_for("the registry to be missed", || waits(&stopped));
    stopped.terminate();
    assert!(stopped.wait().success(), "a stop is obeyed meanwhile: {}", stopped.errors());

    let mut conjoin = Conjoin::run(folder.path(), "waiting", &["--json", "--until-end", "--close"]);
    wait_for("the registry to be missed", || waits(&conjoin));
    assert!(conjoin.is_running());
    door.open();
    let summary = conjoin.summary();
    let bad: usize = topics.bad.iter().map(|(_, count)| count).sum();
    assert_eq!(summary["totals"]["dead_letter_rows"], bad);
    assert_eq!(samples(folder.path()).len(), (0..EVENTS).map(|n| n % 4).sum::<usize>());
}
