//! One event in every format: what a library encodes as Avro or Protobuf must become what its JSON becomes.

use super::fixture::*;
use crate::decode::*;
use crate::event::{ColumnType, RegisteredSchema, SchemaKind, Value};
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use proptest::prelude::*;
use prost_reflect::{DynamicMessage, MessageDescriptor, ReflectMessage, Value as Proto};
use serde_json::json;

#[derive(Clone, Debug)]
pub struct Event {
    pub id: String,
    /// In microseconds.
    pub us: i64,
    pub kind: &'static str,
    pub n: Option<i32>,
    pub big: Option<i64>,
    pub f: f32,
    pub ok: bool,
    pub items: Vec<(String, Option<f64>)>,
}

pub fn events() -> impl Strategy<Value = Vec<Event>> {
    let us = prop_oneof![4 => 1_700_000_000_000_000i64..1_700_000_001_000_000, 1 => Just(17), 1 => any::<i64>()];
    let price =
        prop::option::of(prop_oneof![4 => (0..1000i32).prop_map(|cents| cents as f64 / 4.0), 1 => Just(f64::MAX)]);
    let items = prop::collection::vec(("[a-zü]{0,8}", price), 0..6);
    let big = prop::option::of(prop_oneof![any::<i64>(), -9i64..9]);
    let f = (-4000..4000i32).prop_map(|quarters| quarters as f32 / 4.0);
    let event = (
        "\\PC{0,12}",
        us,
        prop::sample::select(&["x", "x", "x", "y"][..]),
        prop::option::of(any::<i32>()),
        big,
        f,
        any::<bool>(),
        items,
    );
    let event = event.prop_map(|(id, us, kind, n, big, f, ok, items)| Event { id, us, kind, n, big, f, ok, items });
    prop::collection::vec(event, 1..12)
}

/// The columns of an event; `schema` says how it is written.
pub fn stream(payload: PayloadSpec, slate: bool) -> DecodeSpec {
    let mut columns = vec![
        column("id", ColumnType::String, path("id")),
        column("ts", ColumnType::Timestamp, path("at.ts")),
        column("kind", ColumnType::String, path("at.kind")),
        nullable("n", ColumnType::Int32, path("n")),
        nullable("big", ColumnType::Int64, path("big")),
        column("f", ColumnType::Float32, path("f")),
        column("ok", ColumnType::Bool, path("ok")),
    ];
    columns[4].default = Some(Value::Int(7));
    if slate {
        columns.push(column("item", ColumnType::String, item("id")));
        columns.push(nullable("price", ColumnType::Float64, item("price")));
        columns.push(column("index", ColumnType::Int32, ColumnFrom::ItemIndex));
    }
    let mut spec = spec(columns);
    spec.filter = Some(text_is(2, "x"));
    spec.explode = slate.then(|| ExplodeSpec { path: vec!["items".to_string()], max: 4 });
    spec.payload = payload;
    spec
}

/// `without`: fields that an old writer did not know.
pub fn json_of(event: &Event, without: bool) -> Vec<u8> {
    let items: Vec<_> = event
        .items
        .iter()
        .map(|(id, price)| if without { json!({ "id": id }) } else { json!({ "id": id, "price": price }) })
        .collect();
    let mut value = json!({
        "id": event.id,
        "at": { "ts": event.us.div_euclid(1000), "kind": event.kind },
        "f": event.f,
        "ok": event.ok,
        "items": items,
    });
    if !without {
        value["n"] = json!(event.n);
        value["big"] = json!(event.big);
    }
    value.to_string().into_bytes()
}

/// As it was at first.
pub const AVRO_OLD: &str = r#"{"type":"record","name":"Event","namespace":"feed","fields":[
    {"name":"id","type":"string"},
    {"name":"at","type":{"type":"record","name":"At","fields":[{"name":"ts","type":"long"},{"name":"kind","type":"string"}]}},
    {"name":"f","type":"float"},
    {"name":"ok","type":"boolean"},
    {"name":"items","type":{"type":"array","items":{"type":"record","name":"Item","fields":[{"name":"id","type":"string"}]}}}
]}"#;

/// With the fields that were added.
pub const AVRO_NOW: &str = r#"{"type":"record","name":"Event","namespace":"feed","fields":[
    {"name":"id","type":"string"},
    {"name":"at","type":{"type":"record","name":"At","fields":[
        {"name":"ts","type":{"type":"long","logicalType":"timestamp-millis"}},
        {"name":"kind","type":{"type":"enum","name":"Kind","symbols":["y","x"]}}]}},
    {"name":"f","type":"float"},
    {"name":"ok","type":"boolean"},
    {"name":"n","type":["null","int"],"default":null},
    {"name":"big","type":["long","null"],"default":7},
    {"name":"items","type":{"type":"array","items":{"type":"record","name":"Item","fields":[
        {"name":"id","type":"string"},{"name":"price","type":["null","double"]}]}}}
]}"#;

/// In another order, among fields that nobody reads, in other types of the same meaning.
pub const AVRO_WIDE: &str = r#"{"type":"record","name":"Event","namespace":"feed","fields":[
    {"name":"tags","type":{"type":"map","values":["null",{"type":"array","items":"bytes"}]}},
    {"name":"items","type":["null",{"type":"array","items":{"type":"record","name":"Item","fields":[
        {"name":"more","type":{"type":"array","items":"null"}},
        {"name":"price","type":["double","null"]},
        {"name":"id","type":"string"}]}}]},
    {"name":"next","type":["null","feed.Event"]},
    {"name":"big","type":["null","long"]},
    {"name":"hash","type":{"type":"fixed","name":"Hash","size":5}},
    {"name":"ok","type":["boolean"]},
    {"name":"at","type":["null",{"type":"record","name":"At","namespace":"feed.inner","fields":[
        {"name":"kind","type":"string"},
        {"name":"hash","type":"feed.Hash"},
        {"name":"ts","type":{"type":"long","logicalType":"timestamp-micros"}}]}]},
    {"name":"n","type":["null","long"]},
    {"name":"f","type":"double"},
    {"name":"id","type":"string"},
    {"name":"last","type":{"type":"array","items":"string"}}
]}"#;

pub fn avro_schema(text: &str) -> RegisteredSchema {
    RegisteredSchema { kind: SchemaKind::Avro, text: text.to_string(), references: Vec::new() }
}

pub fn avro_file(text: &str, wire: Wire) -> PayloadSpec {
    let schema = FileSchema::avro(&avro_schema(text)).unwrap();
    let source = SchemaSource::File { name: "event.avsc".to_string(), schema, wire };
    PayloadSpec::Binary(BinarySpec { format: BinaryFormat::Avro, source })
}

fn some(branch: u32, value: Avro) -> Avro {
    Avro::Union(branch, Box::new(value))
}

fn record(fields: Vec<(&str, Avro)>) -> Avro {
    Avro::Record(fields.into_iter().map(|(name, value)| (name.to_string(), value)).collect())
}

pub fn avro_of(event: &Event, schema: &str) -> Vec<u8> {
    let text = |text: &str| Avro::String(text.to_string());
    let value = match schema {
        AVRO_OLD => {
            let items = event.items.iter().map(|(id, _)| record(vec![("id", text(id))])).collect();
            let at = record(vec![("ts", Avro::Long(event.us.div_euclid(1000))), ("kind", text(event.kind))]);
            record(vec![
                ("id", text(&event.id)),
                ("at", at),
                ("f", Avro::Float(event.f)),
                ("ok", Avro::Boolean(event.ok)),
                ("items", Avro::Array(items)),
            ])
        }
        AVRO_NOW => {
            let price = |price: &Option<f64>| price.map_or(some(0, Avro::Null), |price| some(1, Avro::Double(price)));
            let item = |(id, at): &(String, Option<f64>)| record(vec![("id", text(id)), ("price", price(at))]);
            let kind = Avro::Enum((event.kind == "x") as u32, event.kind.to_string());
            let at = record(vec![("ts", Avro::TimestampMillis(event.us.div_euclid(1000))), ("kind", kind)]);
            record(vec![
                ("id", text(&event.id)),
                ("at", at),
                ("f", Avro::Float(event.f)),
                ("ok", Avro::Boolean(event.ok)),
                ("n", event.n.map_or(some(0, Avro::Null), |n| some(1, Avro::Int(n)))),
                ("big", event.big.map_or(some(1, Avro::Null), |big| some(0, Avro::Long(big)))),
                ("items", Avro::Array(event.items.iter().map(item).collect())),
            ])
        }
        _ => avro_wide(event, 0),
    };
    let parsed = apache_avro::Schema::parse_str(schema).unwrap();
    GenericDatumWriter::builder(&parsed).build().unwrap().write_value_to_vec(value).unwrap()
}

fn avro_wide(event: &Event, depth: usize) -> Avro {
    let text = |text: &str| Avro::String(text.to_string());
    let hash = || Avro::Fixed(5, b"hash!".to_vec());
    let items = event.items.iter().map(|(id, price)| {
        record(vec![
            ("more", Avro::Array(vec![Avro::Null; id.len()])),
            ("price", price.map_or(some(1, Avro::Null), |price| some(0, Avro::Double(price)))),
            ("id", text(id)),
        ])
    });
    let tag = some(1, Avro::Array(vec![Avro::Bytes(vec![0, 1, 2]), Avro::Bytes(Vec::new())]));
    let tags = [("a".to_string(), some(0, Avro::Null)), (event.id.clone(), tag)];
    let at = record(vec![("kind", text(event.kind)), ("hash", hash()), ("ts", Avro::TimestampMicros(event.us))]);
    let next = if depth < 3 { some(1, avro_wide(event, depth + 1)) } else { some(0, Avro::Null) };
    record(vec![
        ("tags", Avro::Map(tags.into_iter().collect())),
        ("items", some(1, Avro::Array(items.collect()))),
        ("next", next),
        ("big", event.big.map_or(some(0, Avro::Null), |big| some(1, Avro::Long(big)))),
        ("hash", hash()),
        ("ok", some(0, Avro::Boolean(event.ok))),
        ("at", some(1, at)),
        ("n", event.n.map_or(some(0, Avro::Null), |n| some(1, Avro::Long(n.into())))),
        ("f", Avro::Double(event.f.into())),
        ("id", text(&event.id)),
        ("last", Avro::Array(vec![text("z")])),
    ])
}

pub const PROTO_OLD: &str = r#"
    syntax = "proto3";
    package feed;
    message Event {
        string id = 1;
        At at = 2;
        float f = 3;
        bool ok = 4;
        repeated Item items = 5;
        message At { optional int64 ts = 1; string kind = 2; }
        message Item { optional string id = 1; }
    }"#;

pub const PROTO_NOW: &str = r#"
    syntax = "proto3";
    package feed;
    import "google/protobuf/timestamp.proto";
    import "google/protobuf/wrappers.proto";
    enum Kind { y = 0; x = 1; }
    message Other { string id = 1; }
    message Event {
        string id = 100;
        At at = 2;
        float f = 3;
        bool ok = 4;
        repeated Item items = 5;
        optional sint32 n = 6;
        google.protobuf.Int64Value big = 7;
        map<string, bytes> tags = 8;
        repeated fixed32 numbers = 9;
        oneof which { string a = 10; Event next = 11; }
        message At { google.protobuf.Timestamp ts = 1; Kind kind = 2; }
        message Item { optional string id = 1; optional double price = 3; bytes more = 4; }
    }"#;

pub fn proto_schema(text: &str) -> RegisteredSchema {
    RegisteredSchema { kind: SchemaKind::Protobuf, text: text.to_string(), references: Vec::new() }
}

pub fn proto_file(text: &str, wire: Wire) -> PayloadSpec {
    let schema = FileSchema::protobuf(&proto_schema(text), Some("feed.Event")).unwrap();
    let source = SchemaSource::File { name: "event.proto".to_string(), schema, wire };
    PayloadSpec::Binary(BinarySpec { format: BinaryFormat::Protobuf, source })
}

pub fn event_message(text: &str) -> MessageDescriptor {
    protobuf::ProtobufSchema::parse(&proto_schema(text)).unwrap().message(Some("feed.Event")).unwrap()
}

/// A message in a field of `parent`.
fn child(parent: &DynamicMessage, field: &str) -> DynamicMessage {
    let field = parent.descriptor().get_field_by_name(field).unwrap();
    DynamicMessage::new(field.kind().as_message().unwrap().clone())
}

pub fn proto_of(event: &Event, message: &MessageDescriptor, depth: usize) -> DynamicMessage {
    let mut out = DynamicMessage::new(message.clone());
    let now = message.get_field_by_name("n").is_some();
    let mut at = child(&out, "at");
    if now {
        let mut ts = child(&at, "ts");
        ts.set_field_by_name("seconds", Proto::I64(event.us.div_euclid(1_000_000)));
        ts.set_field_by_name("nanos", Proto::I32((event.us.rem_euclid(1_000_000) * 1000) as i32));
        at.set_field_by_name("ts", Proto::Message(ts));
        at.set_field_by_name("kind", Proto::EnumNumber((event.kind == "x") as i32));
        if let Some(n) = event.n {
            out.set_field_by_name("n", Proto::I32(n));
        }
        if let Some(big) = event.big {
            let mut wrapped = child(&out, "big");
            wrapped.set_field_by_name("value", Proto::I64(big));
            out.set_field_by_name("big", Proto::Message(wrapped));
        }
        out.set_field_by_name("numbers", Proto::List(vec![Proto::U32(1), Proto::U32(u32::MAX)]));
        if depth < 3 {
            out.set_field_by_name("next", Proto::Message(proto_of(event, message, depth + 1)));
        }
    } else {
        at.set_field_by_name("ts", Proto::I64(event.us.div_euclid(1000)));
        at.set_field_by_name("kind", Proto::String(event.kind.to_string()));
    }
    let item = |(id, price): &(String, Option<f64>)| {
        let mut item = child(&out, "items");
        item.set_field_by_name("id", Proto::String(id.clone()));
        if let Some(price) = price.filter(|_| now) {
            item.set_field_by_name("price", Proto::F64(price));
        }
        Proto::Message(item)
    };
    let items = Proto::List(event.items.iter().map(item).collect());
    out.set_field_by_name("at", Proto::Message(at));
    out.set_field_by_name("items", items);
    out.set_field_by_name("id", Proto::String(event.id.clone()));
    out.set_field_by_name("f", Proto::F32(event.f));
    out.set_field_by_name("ok", Proto::Bool(event.ok));
    out
}
