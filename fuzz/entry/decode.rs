//! Decode: records of any content become rows, rejects and filtered ones that add up, the same whatever came before.
//!
//! In: the number of a stream, then records, separated by `0x1e`. A record may begin with lines of `@key …`, `@null`,
//! `@time …`, `@h name=value`; the rest of it is the payload.

use super::naive;
use arrow::datatypes::Schema;
use conjoin::config::{LoadOptions, Plan, load_texts};
use conjoin::decode::{
    BinaryFormat, BinarySpec, DecodeSpec, Decoder, FileSchema, PayloadSpec, SchemaSource, TimeUnitSpec, Wire,
};
use conjoin::event::{
    ColumnType, DecodedBatch, PartitionId, PositionDelta, RawBatch, RawRecord, RegisteredSchema, RejectKind, Rejected,
    SchemaKind, TIME_END, content_hash,
};
use serde_json::Value as Json;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

const RECORDS_MAX: usize = 24;
const FIRST: i64 = 100;

/// Streams 0 and 1 are those that the naive decoder understands.
const COMPARABLE: usize = 2;

static PLAN: LazyLock<Plan> = LazyLock::new(|| {
    let options = LoadOptions { overlays: &[], sets: &[], env: &|_| None, cores: 1 };
    let text = include_str!("decode.yaml").to_string();
    load_texts(&[("decode.yaml".into(), text)], &options).unwrap_or_else(|errors| panic!("{errors}")).plan
});

/// The first two streams as other formats: stream 4 is `flat` in Avro, 5 `slate` in Avro, 6 and 7 the same in Protobuf.
static BINARY: LazyLock<[PayloadSpec; 2]> = LazyLock::new(|| {
    let text = |kind, text: &str| RegisteredSchema { kind, text: text.into(), references: Vec::new() };
    let avro = FileSchema::avro(&text(SchemaKind::Avro, include_str!("decode.avsc"))).expect("a schema");
    let proto = text(SchemaKind::Protobuf, include_str!("decode.proto"));
    let proto = FileSchema::protobuf(&proto, Some("Event")).expect("a schema");
    [(BinaryFormat::Avro, avro, Wire::Plain), (BinaryFormat::Protobuf, proto, Wire::Confluent)].map(
        |(format, schema, wire)| {
            let source = SchemaSource::File { name: "schema".into(), schema, wire };
            PayloadSpec::Binary(BinarySpec { format, source })
        },
    )
});

/// Small limits, so that small inputs reach them. In a pipeline file headers are text; the decoder knows more.
fn spec(stream: usize) -> DecodeSpec {
    let json = PLAN.streams.len();
    let mut spec = PLAN.streams[if stream < json { stream } else { stream % COMPARABLE }].decode.clone();
    if stream >= json {
        spec.payload = BINARY[(stream - json) / COMPARABLE].clone();
    }
    for column in &mut spec.columns {
        column.column_type = match column.name.as_str() {
            "weight" => ColumnType::Float64,
            "count" => ColumnType::Int64,
            "flag" => ColumnType::Bool,
            "since" => ColumnType::Timestamp,
            _ => continue,
        };
        column.unit = TimeUnitSpec::Rfc3339;
    }
    let fields = spec.columns.iter().zip(spec.schema.fields());
    let fields = fields.map(|(column, field)| field.as_ref().clone().with_data_type(column.column_type.arrow()));
    spec.schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    spec.limits.record_bytes_max = 2_000;
    spec.limits.depth_max = 12;
    spec.limits.dead_letter_bytes_max = 100;
    spec
}

/// A good record of each stream, and some of the ways to be a bad one.
pub fn seeds() -> Vec<Vec<u8>> {
    let flat = r#"{"id":"a","at":{"ts":1700000000000,"kind":"x"},"n":-5,"big":9007199254740993,"f":0.5,"ok":true}"#;
    let slate = r#"{"id":"a","at":{"kind":"x","ts":1700000000000.0},"n":null,"ok":false,"items":[{"id":"i","price":1e2},{"id":7},null]}"#;
    let wide = "@key k\n@h arm=b\n@h weight=1.5\n@h count=7\n@h flag=true\n@h since=2024-01-31T12:00:00.5+01:00\n@time 1700000000000\n\
        {\"s\":1700000000.25,\"us\":1700000000000000,\"a\":{\"b\":{\"c\":{\"at\":\"2023-11-14T22:13:20Z\"},\"whole\":3},\
        \"n b\":7,\"m\":9,\"f\":1e39,\"text\":\"12\\u00fc\"},\"\":\"e\"}";
    let slates = "@h arm=\n{\"r\":\"q\",\"t\":1700000000,\"text\":\"t\",\"a\":{\"items\":[\"one\",\"skip\",3,\"\\ud83d\\ude00\"]}}";
    let bad = [
        "@null\n",
        "",
        " \n",
        "{",
        "{\"id\":\"a\",\"id\":\"b\"}",
        "[[[[[[[[[[[[[1]]]]]]]]]]]]]",
        "{\"a\":1e400}",
        "\u{0}",
    ];
    let of = |stream: usize, good: &str| {
        let records = std::iter::once(good).chain(bad).chain([good]).collect::<Vec<_>>().join("\x1e");
        [&[stream as u8], records.as_bytes()].concat()
    };
    let json = [flat, slate, wide, slates].into_iter().enumerate().map(|(stream, good)| of(stream, good));
    // id a, at 1700000000000 in ms, kind x, n -5, no big, f 0.5, ok, two items
    let avro: &[u8] = b"\x02a\x80\xa0\xab\xfe\xf9\x62\x02x\x02\x09\x00\x00\x00\x00\x3f\x01\x04\x02i\x00\x02j\x02\x00\x00\x00\x00\x00\x00\xf0\x3f\x00";
    let proto: &[u8] = b"\0\0\0\0\x07\0\x0a\x01a\x12\x0a\x08\x80\xd0\x95\xff\xbc1\x12\x01x\x18\x09\x2d\0\0\0?0\x01:\x03\x0a\x01i:\x0c\x0a\x01j\x11\0\0\0\0\0\0\xf0?";
    let binary = [(4u8, avro), (5, avro), (6, proto), (7, proto)];
    let binary = binary.map(|(stream, good)| [&[stream], good, b"\x1e", &good[..good.len() / 2]].concat());
    json.chain(binary).collect()
}

pub fn run(bytes: &[u8]) {
    let Some((stream, bytes)) = bytes.split_first() else { return };
    let stream = *stream as usize % (PLAN.streams.len() + BINARY.len() * COMPARABLE);
    let records: Vec<&[u8]> = bytes.split(|byte| *byte == 0x1e).take(RECORDS_MAX).collect();
    let raw = raw(&records);
    let spec = spec(stream);
    let mut decoder = Decoder::new(spec.clone());
    let decoded = decoder.decode(&raw);
    check(&spec, &raw, &decoded);
    assert_same(&decoded, &decoder.decode(&raw), "a decoder remembers nothing that shows");
    each_alone(&mut decoder, &raw, &decoded);
    if stream < COMPARABLE {
        compare(&spec, &raw, &decoded);
    }
}

fn raw(records: &[&[u8]]) -> RawBatch {
    let partition = PartitionId { input: 0, partition: 4 };
    let delta = PositionDelta { partition, from: FIRST, to: FIRST + records.len() as i64 };
    let mut batch = RawBatch { delta, bytes: Vec::new(), records: Vec::new() };
    for (record, position) in records.iter().zip(FIRST..) {
        let mut made = RawRecord { position, ..RawRecord::default() };
        let (mut rest, mut is_null) = (*record, false);
        while let Some(line) = rest.strip_prefix(b"@") {
            let end = line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len());
            rest = line.get(end + 1..).unwrap_or_default();
            let line = &line[..end];
            if let Some(key) = line.strip_prefix(b"key ") {
                made.key = Some(put(&mut batch, key));
            } else if let Some(header) = line.strip_prefix(b"h ") {
                let (name, value) =
                    header.split_at(header.iter().position(|byte| *byte == b'=').unwrap_or(header.len()));
                let name = put(&mut batch, name);
                made.headers.push((name, put(&mut batch, value.get(1..).unwrap_or_default())));
            } else if let Some(time) = line.strip_prefix(b"time ") {
                made.broker_time = std::str::from_utf8(time).ok().and_then(|time| time.parse().ok());
            } else {
                is_null |= line == b"null";
            }
        }
        made.payload = (!is_null).then(|| put(&mut batch, rest));
        batch.records.push(made);
    }
    batch
}

fn put(batch: &mut RawBatch, bytes: &[u8]) -> Range<u32> {
    let start = batch.bytes.len() as u32;
    batch.bytes.extend_from_slice(bytes);
    start..batch.bytes.len() as u32
}

fn payload(raw: &RawBatch, position: i64) -> &[u8] {
    let record = &raw.records[(position - FIRST) as usize];
    record.payload.as_ref().map_or(&[], |payload| raw.slice(payload))
}

/// What holds of every decoded batch, whatever it was decoded from.
fn check(spec: &DecodeSpec, raw: &RawBatch, decoded: &DecodedBatch) {
    let rows = decoded.num_rows();
    assert_eq!(decoded.records, raw.records.len() as u64);
    assert_eq!(decoded.consumed, rows as u64 + decoded.filtered + decoded.rejected.len() as u64);
    assert_eq!((decoded.rows.num_rows(), decoded.content.len()), (rows, rows));
    assert_eq!(decoded.rows.schema(), spec.schema);
    for column in decoded.rows.columns() {
        column.to_data().validate_full().expect("arrays are what they say");
    }
    assert!(decoded.keys.len() == spec.key_sets.len() && decoded.keys.iter().all(|keys| keys.len() == rows));
    assert!(decoded.event_time.iter().all(|time| (spec.min_time..TIME_END).contains(time)));
    for input in &decoded.feature_inputs {
        assert!(input.mask.as_ref().is_none_or(|mask| mask.len() == rows));
        assert!(input.values.as_ref().is_none_or(|values| values.len() == rows));
    }
    let max = spec.explode.as_ref().map_or(1, |explode| explode.max);
    let known: Vec<u64> = raw
        .records
        .iter()
        .flat_map(|record| (0..max as u32).map(|item| content_hash(payload(raw, record.position), item)))
        .collect();
    assert!(decoded.content.iter().all(|content| known.contains(content)));
    let places: Vec<_> = decoded.rejected.iter().map(|rejected| (rejected.position, rejected.item)).collect();
    assert!(places.is_sorted(), "{places:?}");
    for Rejected { position, item, raw: kept, message, kind, .. } in &decoded.rejected {
        let whole = payload(raw, *position);
        assert!(whole.starts_with(kept) && kept.len() <= spec.limits.dead_letter_bytes_max);
        assert!(item.is_none_or(|item| (item as usize) < max) && !message.is_empty());
        let big = whole.len() > spec.limits.record_bytes_max;
        assert!(!big || *kind == RejectKind::TooLarge, "{kind:?}");
    }
}

fn assert_same(a: &DecodedBatch, b: &DecodedBatch, why: &str) {
    assert_eq!(a.rows, b.rows, "{why}");
    assert_eq!(a.rejected, b.rejected, "{why}");
    assert_eq!((a.filtered, a.consumed, &a.content, &a.keys), (b.filtered, b.consumed, &b.content, &b.keys), "{why}");
}

/// No record depends on its neighbours.
fn each_alone(decoder: &mut Decoder, raw: &RawBatch, together: &DecodedBatch) {
    let (mut rows, mut rejected, mut filtered) = (Vec::new(), Vec::new(), 0);
    for record in &raw.records {
        let alone = decoder.decode(&RawBatch { records: vec![record.clone()], ..raw.clone() });
        rows.push(alone.rows);
        rejected.extend(alone.rejected);
        filtered += alone.filtered;
    }
    let rows = arrow::compute::concat_batches(&together.rows.schema(), &rows).expect("they are of one stream");
    assert_eq!(rows, together.rows);
    assert_eq!((rejected, filtered), (together.rejected.clone(), together.filtered));
}

/// Agrees with a decoder that is obviously right, where that one understands the records.
fn compare(spec: &DecodeSpec, raw: &RawBatch, decoded: &DecodedBatch) {
    let limits = spec.limits;
    let records: Vec<&[u8]> = raw.records.iter().map(|record| payload(raw, record.position)).collect();
    let plain = |record: &&[u8]| record.len() <= limits.record_bytes_max && understands(record, limits.depth_max);
    let envelope = raw.records.iter().any(|record| record.broker_time.is_some() || record.payload.is_none());
    if envelope || !records.iter().all(plain) {
        return;
    }
    let (accepted, refused, filtered) = naive::decode(spec, &records, FIRST);
    let kinds: Vec<_> =
        decoded.rejected.iter().map(|rejected| (rejected.position, rejected.item, rejected.kind)).collect();
    assert_eq!(kinds, refused);
    assert_eq!(naive::values(&decoded.rows), accepted);
    assert_eq!(decoded.filtered, filtered);
}

/// Whether the answer for a record is beyond doubt: no field twice, no deep nesting, no number that a parser may round
/// its own way.
fn understands(record: &[u8], depth_max: usize) -> bool {
    let Ok(text) = std::str::from_utf8(record) else { return true };
    let (mut quoted, mut escaped) = (false, false);
    let (mut outside, mut colons, mut containers) = (String::new(), 0, 0);
    for c in text.chars() {
        if !quoted {
            colons += (c == ':') as usize;
            containers += matches!(c, '{' | '[') as usize;
            outside.push(c);
        }
        quoted ^= c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
    }
    let plain = outside.split(|c: char| !c.is_ascii_digit() && !"+-.eE".contains(c)).all(is_plain_number);
    let names = serde_json::from_str::<Json>(text).map_or(colons, |root| fields(&root));
    containers < depth_max && plain && colons == names
}

/// Whole and within 64 bits, or so short that every parser reads the same float.
fn is_plain_number(text: &str) -> bool {
    let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let is_short = digits.bytes().filter(u8::is_ascii_digit).count() <= 15;
    let near = exponent.parse::<i32>().is_ok_and(|exponent| exponent.abs() <= 6);
    text.parse::<i64>().is_ok()
        || text.parse::<u64>().is_ok()
        || (is_short && near)
        || !digits.contains(char::is_numeric)
}

fn fields(value: &Json) -> usize {
    match value {
        Json::Array(items) => items.iter().map(fields).sum(),
        Json::Object(members) => members.len() + members.values().map(fields).sum::<usize>(),
        _ => 0,
    }
}
