//! Tests of the whole decoder: every reason to refuse, the rules of `where` and `explode`, and an oracle.

mod binary;
mod fixture;
mod naive;
mod oracle;
mod world;

/// What the naive decoder needs of the crate.
mod words {
    pub use crate::decode::{ColumnFrom, ColumnSpec, DecodeSpec};
    pub use crate::event::{ColumnType, RejectKind, TIME_END, Value};
}

use super::*;
use crate::event::{ColumnRef, Expression, Partitioner, Value, content_hash, fingerprints};
use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type};
use fixture::*;
use std::sync::Arc;

/// Decodes one record and gives the kind and message of its only reject.
fn rejection(spec: &DecodeSpec, record: &[u8]) -> (RejectKind, String) {
    let decoded = decode(spec, &[record]);
    assert_eq!((decoded.num_rows(), decoded.filtered, decoded.consumed), (0, 0, 1), "{:?}", decoded.rejected);
    let [rejected] = &decoded.rejected[..] else { panic!("{:?}", decoded.rejected) };
    assert_eq!((rejected.position, rejected.item, &rejected.raw[..]), (100, None, record));
    (rejected.kind, rejected.message.clone())
}

/// The values of a column as text; null is none.
fn shown(decoded: &DecodedBatch, column: usize) -> Vec<String> {
    let texts = arrow::compute::cast(decoded.rows.column(column), &DataType::Utf8).unwrap();
    texts.as_string::<i32>().iter().map(|text| text.unwrap_or_default().to_string()).collect()
}

fn simple() -> DecodeSpec {
    spec(vec![
        column("id", ColumnType::String, path("id")),
        column("ts", ColumnType::Timestamp, path("at.ms")),
        nullable("n", ColumnType::Int32, path("n")),
        nullable("x", ColumnType::Float64, path("x")),
        nullable("ok", ColumnType::Bool, path("ok")),
    ])
}

use crate::event::ColumnType;

#[test]
fn values_arrive_in_their_columns_in_any_order_of_fields() {
    let records: [&[u8]; 3] = [
        br#"{"id":"a","at":{"ms":1700000000001},"n":-7,"x":2.5,"ok":true,"more":{"id":[1,{"n":2}]}}"#,
        br#" {"ok":false,"x":3,"zzz":"?","n":1.0,"at":{"zone":"x","ms":1700000000002},"id":"\u00e4\n\"b"} "#,
        br#"{"at":{"ms":1700000000003},"id":"","n":null}"#,
    ];
    let decoded = decode(&simple(), &records);
    assert_eq!(decoded.rejected, []);
    let rows = &decoded.rows;
    let texts: Vec<_> = rows.column(0).as_string::<i32>().iter().map(Option::unwrap).collect();
    assert_eq!(texts, ["a", "ä\n\"b", ""]);
    assert_eq!(decoded.event_time, [1_700_000_000_001, 1_700_000_000_002, 1_700_000_000_003]);
    let numbers: Vec<_> = rows.column(2).as_primitive::<Int32Type>().iter().collect();
    assert_eq!(numbers, [Some(-7), Some(1), None]);
    let floats: Vec<_> = rows.column(3).as_primitive::<Float64Type>().iter().collect();
    assert_eq!(floats, [Some(2.5), Some(3.0), None]);
    let bools: Vec<_> = rows.column(4).as_boolean().iter().collect();
    assert_eq!(bools, [Some(true), Some(false), None]);
    assert_eq!((decoded.records, decoded.consumed, decoded.filtered), (3, 3, 0));
    assert_eq!(decoded.content, records.map(|record| content_hash(record, 0)));
    assert_eq!(*decoded.keys[0], fingerprints(&[rows.column(0)], 3, Partitioner::Murmur2));
    assert!(Arc::ptr_eq(&decoded.keys[0], &decoded.keys[1]), "a set that repeats is hashed once");
}

#[test]
fn every_reason_to_refuse_a_record_is_told_with_its_place() {
    use RejectKind::*;
    let deep = format!(r#"{{"id":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let unclosed = "[".repeat(100_000);
    let long = format!(r#"{{"id":"{}"}}"#, "y".repeat(5000));
    let good = r#""at":{"ms":1700000000000}"#;
    let cases: Vec<(String, RejectKind, &str)> = vec![
        ("".into(), EmptyPayload, "empty"),
        (" \t".into(), EmptyPayload, "white space"),
        (long, TooLarge, "more than 4096 bytes"),
        (r#"{"id":"a","at":{"ms":1}"#.into(), MalformedJson, "EOF while parsing an object"),
        (format!(r#"{{"id":"a",{good}}} x"#), MalformedJson, "trailing characters"),
        (format!(r#"{{"id":"a",{good}}}{{}}"#), MalformedJson, "at byte 36"),
        (r#"{"id":"a","at":{"ms":01}}"#.into(), MalformedJson, "invalid number"),
        ("{\"id\":\"a\u{1}\"}".into(), MalformedJson, "control character"),
        (r#"{"id":"\ud800"}"#.into(), MalformedJson, "near byte"),
        (r#"{"id":NaN}"#.into(), MalformedJson, "not valid JSON"),
        ("[1]".into(), WrongType, "$ is an array of 1, but must be an object (column id is in it)"),
        (format!(r#"{{"id":5,{good}}}"#), WrongType, "$.id is the number 5, but must be a string for column id"),
        (r#"{"id":"a","at":7}"#.into(), WrongType, "$.at is the number 7, but must be an object (column ts is in it)"),
        (r#"{"id":"a","at":{"ms":"1"}}"#.into(), WrongType, "$.at.ms is the text \"1\", but must be a timestamp in ms"),
        (format!(r#"{{"id":"a",{good},"n":1.5}}"#), WrongType, "$.n is the number 1.5"),
        (format!(r#"{{"id":"a",{good},"x":"\n\u0000"}}"#), WrongType, r#"the text "\n\u{0}""#),
        (format!(r#"{{"id":"a",{good},"n":2147483648}}"#), OutOfRange, "2147483648, which does not fit a whole number"),
        (format!(r#"{{"id":"a",{good},"n":1e300}}"#), OutOfRange, "$.n"),
        (format!(r#"{{"id":"a",{good},"n":123456789012345678901234567890}}"#), OutOfRange, "$.n"),
        (format!(r#"{{"id":"a",{good},"x":-1e400}}"#), OutOfRange, "beyond every float"),
        (format!(r#"{{{good}}}"#), MissingField, "$.id is missing, but column id is not nullable and has no default"),
        (format!(r#"{{"id":null,{good}}}"#), MissingField, "$.id is null"),
        (r#"{"id":"a","at":null}"#.into(), MissingField, "$.at.ms is missing"),
        (format!(r#"{{"id":"a",{good},"id":"a"}}"#), DuplicateField, "$.id is there twice"),
        (format!(r#"{{"id":"a",{good},"at":{{}}}}"#), DuplicateField, "$.at is there twice"),
        (format!(r#"{{"id":"a",{good},"i\u0064":"b"}}"#), DuplicateField, "$.id is there twice"),
        (deep, TooDeep, "deeper than 8"),
        (unclosed, TooDeep, "deeper than 8"),
        (r#"{"id":"a","at":{"ms":1700000000}}"#.into(), TimeBeforeMin, "Are these seconds?"),
        (r#"{"id":"a","at":{"ms":4294967296000}}"#.into(), TimeInFuture, "Are these microseconds?"),
    ];
    let mut small = simple();
    small.limits = DecodeLimits { record_bytes_max: 4096, depth_max: 8, dead_letter_bytes_max: 8192 };
    let mut large = simple();
    large.limits = DecodeLimits { depth_max: 8, dead_letter_bytes_max: 1 << 20, ..DecodeLimits::default() };
    for (record, kind, words) in cases {
        let spec = if kind == TooDeep { &large } else { &small };
        let (found, message) = rejection(spec, record.as_bytes());
        assert_eq!(found, kind, "{message}");
        assert!(message.contains(words) && message.len() < 400, "{kind:?}: {message}");
    }
    let (kind, message) = rejection(&small, b"{\"id\":\"\xff\"}");
    assert!(kind == NotUtf8 && message.contains("byte 7 (0xff)"), "{message}");
}

#[test]
fn eight_levels_are_not_deeper_than_eight() {
    let mut spec = simple();
    spec.limits.depth_max = 8;
    let record = |levels: usize| {
        let inner = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        format!(r#"{{"id":"a","at":{{"ms":1700000000000}},"more":{inner}}}"#)
    };
    assert_eq!(decode(&spec, &[record(7).as_bytes()]).num_rows(), 1);
    assert_eq!(rejection(&spec, record(8).as_bytes()).0, RejectKind::TooDeep);
}

#[test]
fn a_tombstone_is_refused_and_the_log_time_bounds_the_future() {
    let mut raw = raw(&[&br#"{"id":"a","at":{"ms":1700000000000}}"#[..]; 3]);
    raw.records[0].payload = None;
    raw.records[1].broker_time = Some(1_700_000_000_000 - 60_001);
    raw.records[2].broker_time = Some(1_700_000_000_000 - 60_000);
    let decoded = Decoder::new(simple()).decode(&raw);
    assert_eq!(kinds(&decoded), [(100, None, RejectKind::EmptyPayload), (101, None, RejectKind::TimeInFuture)]);
    assert_eq!(decoded.num_rows(), 1);
}

#[test]
fn numbers_beyond_64_bits_in_unknown_fields_do_not_matter() {
    let record = br#"{"big":[123456789012345678901234567890,-1e999,1E+400],"s":"1e999\"2","id":"a","at":{"ms":1700000000000},"x":1e308}"#;
    let decoded = decode(&simple(), &[record]);
    assert_eq!(decoded.rejected, []);
    assert_eq!(decoded.rows.column(3).as_primitive::<Float64Type>().value(0), 1e308);
    let whole = br#"{"id":"a","at":{"ms":1700000000000},"x":123456789012345678901234567890}"#;
    let decoded = decode(&simple(), &[whole]);
    assert_eq!(decoded.rows.column(3).as_primitive::<Float64Type>().value(0), 123456789012345678901234567890.0);
}

#[test]
fn timestamps_come_in_every_declared_unit() {
    for (unit, text, millis) in [
        (TimeUnitSpec::Seconds, "1700000000", 1_700_000_000_000),
        (TimeUnitSpec::Seconds, "1700000000.123", 1_700_000_000_123),
        (TimeUnitSpec::Millis, "1700000000123", 1_700_000_000_123),
        (TimeUnitSpec::Micros, "1700000000123999", 1_700_000_000_123),
        (TimeUnitSpec::Rfc3339, "\"2023-11-14T22:13:20.123Z\"", 1_700_000_000_123),
    ] {
        let mut spec = simple();
        spec.columns[1].unit = unit;
        let record = |text: &str| format!(r#"{{"id":"a","at":{{"ms":{text}}}}}"#);
        let decoded = decode(&spec, &[record(text).as_bytes()]);
        assert_eq!(decoded.event_time, [millis], "{unit:?} {text}");
        let (kind, _) = rejection(&spec, record("\"soon\"").as_bytes());
        assert_eq!(kind, RejectKind::WrongType);
    }
    let mut spec = simple();
    spec.columns[1].unit = TimeUnitSpec::Seconds;
    let (kind, _) = rejection(&spec, br#"{"id":"a","at":{"ms":9223372036854775807}}"#);
    assert_eq!(kind, RejectKind::OutOfRange);
}

#[test]
fn where_turns_rows_away_whatever_else_they_lack_but_not_when_it_cannot_see() {
    let mut spec = spec(vec![
        column("id", ColumnType::String, path("id")),
        column("ts", ColumnType::Timestamp, path("ts")),
        column("kind", ColumnType::String, path("kind")),
    ]);
    spec.filter = Some(text_is(2, "click"));
    let records: [&[u8]; 6] = [
        br#"{"id":"a","ts":1700000000000,"kind":"click"}"#,
        br#"{"kind":"view"}"#,
        br#"{"id":"a","ts":1,"kind":"view"}"#,
        br#"{"id":5,"ts":1700000000000,"kind":"click"}"#,
        br#"{"id":"a","ts":1700000000000}"#,
        br#"{"id":"a","ts":1700000000000,"kind":"view","kind":"click"}"#,
    ];
    let decoded = decode(&spec, &records);
    assert_eq!((decoded.num_rows(), decoded.filtered), (1, 2));
    use RejectKind::*;
    assert_eq!(kinds(&decoded), [(103, None, WrongType), (104, None, MissingField), (105, None, DuplicateField)]);
    spec.columns[2].nullable = true;
    spec.schema = schema_of(&spec.columns);
    assert_eq!(decode(&spec, &records[4..5]).filtered, 1, "null is not a click");
}

#[test]
fn keys_must_not_be_null_but_features_may_miss_their_entity() {
    let mut spec = spec(vec![
        nullable("id", ColumnType::String, path("id")),
        column("ts", ColumnType::Timestamp, path("ts")),
        nullable("item", ColumnType::String, path("item")),
    ]);
    spec.feature_inputs = vec![
        FeatureInputSpec { filter: None, input: None, entity: vec![2] },
        FeatureInputSpec { filter: Some(text_is(0, "b")), input: Some(reference(1)), entity: vec![0] },
        FeatureInputSpec { filter: None, input: None, entity: vec![1] },
    ];
    let records: [&[u8]; 3] = [
        br#"{"ts":1700000000000}"#,
        br#"{"id":"a","ts":1700000000000}"#,
        br#"{"id":"b","ts":1700000000000,"item":"i"}"#,
    ];
    let decoded = decode(&spec, &records);
    assert_eq!(kinds(&decoded), [(100, None, RejectKind::NullKey)]);
    let masks: Vec<Option<Vec<bool>>> = decoded
        .feature_inputs
        .iter()
        .map(|input| input.mask.as_ref().map(|mask| mask.values().iter().collect()))
        .collect();
    assert_eq!(masks, [Some(vec![false, true]), Some(vec![false, true]), None]);
    assert_eq!(decoded.feature_inputs[1].values.as_ref().unwrap(), decoded.rows.column(1));
}

#[test]
fn an_expression_that_fails_takes_its_own_row_only() {
    let mut spec = simple();
    let odd = |column| -> Expression {
        let test = move |values: Option<i32>| match values {
            Some(13) => Err("thirteen".to_string()),
            value => Ok(value.map(|value| value % 2 == 1)),
        };
        predicate(column, test)
    };
    spec.filter = Some(odd(2));
    let record = |n: i32| format!(r#"{{"id":"a","at":{{"ms":1700000000000}},"n":{n}}}"#).into_bytes();
    let records: Vec<Vec<u8>> = (0..100).map(|n| record(n % 20)).collect();
    let records: Vec<&[u8]> = records.iter().map(|record| &record[..]).collect();
    let decoded = decode(&spec, &records);
    assert_eq!((decoded.num_rows(), decoded.filtered, decoded.rejected.len()), (45, 50, 5));
    assert!(decoded.rejected.iter().all(|rejected| rejected.kind == RejectKind::ExpressionFailed));
    assert!(decoded.rejected[0].message.contains("thirteen"), "{}", decoded.rejected[0].message);

    spec.filter = None;
    spec.feature_inputs = vec![
        FeatureInputSpec {
            filter: Some(predicate(2, |n| Ok(n.map(|n| n != 13)))),
            input: Some(odd(2)),
            entity: vec![],
        },
        FeatureInputSpec { filter: Some(odd(2)), input: None, entity: vec![] },
    ];
    let masked = decode(&DecodeSpec { feature_inputs: spec.feature_inputs[..1].to_vec(), ..spec.clone() }, &records);
    assert_eq!((masked.num_rows(), masked.rejected.len()), (100, 0), "rows that do not count need no value");
    let values = masked.feature_inputs[0].values.as_ref().unwrap().as_boolean();
    assert_eq!((values.len(), values.null_count(), values.true_count()), (100, 5, 45));
    let decoded = decode(&spec, &records);
    assert_eq!((decoded.num_rows(), decoded.rejected.len()), (95, 5));
    assert_eq!(decoded.feature_inputs[0].values.as_ref().unwrap().len(), 95);
}

fn slate() -> DecodeSpec {
    let mut spec = spec(vec![
        column("id", ColumnType::String, path("id")),
        column("ts", ColumnType::Timestamp, path("ts")),
        column("item", ColumnType::String, item("id")),
        nullable("price", ColumnType::Float64, item("info.price")),
        column("place", ColumnType::Int64, ColumnFrom::ItemIndex),
        nullable("user", ColumnType::String, path("user")),
    ]);
    spec.explode = Some(ExplodeSpec { path: vec!["list".into(), "items".into()], max: 3 });
    spec
}

#[test]
fn a_slate_becomes_one_row_per_element() {
    let records: [&[u8]; 3] = [
        br#"{"list":{"items":[{"id":"x"},{"id":"y","info":{"price":2}}]},"id":"a","ts":1700000000000}"#,
        br#"{"id":"b","ts":1700000000001,"user":"u","list":{"items":[]}}"#,
        br#"{"id":"c","ts":1700000000002,"user":"u","list":{"items":[{"id":"z"}]}}"#,
    ];
    let decoded = decode(&slate(), &records);
    assert_eq!(decoded.rejected, []);
    assert_eq!((decoded.num_rows(), decoded.filtered, decoded.consumed, decoded.records), (3, 1, 4, 3));
    let text = |column: usize| -> Vec<Option<String>> {
        decoded.rows.column(column).as_string::<i32>().iter().map(|text| text.map(str::to_string)).collect()
    };
    assert_eq!(text(0), ["a", "a", "c"].map(|id| Some(id.to_string())));
    assert_eq!(text(2), ["x", "y", "z"].map(|id| Some(id.to_string())));
    assert_eq!(text(5), [None, None, Some("u".to_string())]);
    let prices: Vec<_> = decoded.rows.column(3).as_primitive::<Float64Type>().iter().collect();
    assert_eq!(prices, [None, Some(2.0), None]);
    let places: Vec<_> = decoded.rows.column(4).as_primitive::<Int64Type>().iter().collect();
    assert_eq!(places, [Some(0), Some(1), Some(0)]);
    let hashes = [content_hash(records[0], 0), content_hash(records[0], 1), content_hash(records[2], 0)];
    assert_eq!(decoded.content, hashes);
}

#[test]
fn a_bad_element_is_refused_alone_and_a_bad_record_once() {
    use RejectKind::*;
    let records: [&[u8]; 9] = [
        br#"{"id":"a","ts":1700000000000,"list":{"items":[{"id":"x"},{"id":5},{"id":"z","id":"z"}]}}"#,
        br#"{"id":"a","list":{"items":[{"id":"x"},{"id":"y"}]}}"#,
        br#"{"id":"a","ts":1700000000000}"#,
        br#"{"id":"a","ts":1700000000000,"list":{"items":null}}"#,
        br#"{"id":"a","ts":1700000000000,"list":{"items":"many"}}"#,
        br#"{"id":"a","ts":1700000000000,"list":{"items":[1,2,3,4]}}"#,
        br#"{"id":"a","ts":1700000000000,"list":{"items":[{"id":"x"}]},"list":{"items":[{"id":"x"}]}}"#,
        br#"{"id":"a","ts":1700000000000,"list":{"items":[{"id":"x"},null,7]}}"#,
        br#"{"id":"a","ts":1,"list":{"items":[{"id":"x"},{"id":"y"}]}}"#,
    ];
    let decoded = decode(&slate(), &records);
    let expected = [
        (100, Some(1), WrongType),
        (100, Some(2), DuplicateField),
        (101, None, MissingField),
        (102, None, MissingField),
        (103, None, MissingField),
        (104, None, WrongType),
        (105, None, TooManyItems),
        (106, None, DuplicateField),
        (107, Some(1), MissingField),
        (107, Some(2), WrongType),
        (108, Some(0), TimeBeforeMin),
        (108, Some(1), TimeBeforeMin),
    ];
    assert_eq!(kinds(&decoded), expected);
    assert_eq!((decoded.num_rows(), decoded.consumed), (2, 14));
    let messages: Vec<&str> = decoded.rejected.iter().map(|rejected| &rejected.message[..]).collect();
    assert!(messages[0].starts_with("$.list.items[1].id is the number 5"), "{}", messages[0]);
    assert!(messages[3].starts_with("$.list.items is missing"), "{}", messages[3]);
    assert!(messages[5].contains("the text \"many\", but must be an array"), "{}", messages[5]);
    assert!(messages[6].contains("an array of 4 elements, but explode allows at most 3"), "{}", messages[6]);
    assert!(messages[8].contains("$.list.items[1].id is missing"), "{}", messages[8]);
}

#[test]
fn a_record_of_another_type_is_filtered_although_it_has_no_array() {
    let mut spec = slate();
    spec.filter = Some(text_is(5, "u"));
    let records: [&[u8]; 3] =
        [br#"{"user":"v"}"#, br#"{"user":"u"}"#, br#"{"user":"v","id":"a","ts":1,"list":{"items":[5,6]}}"#];
    let decoded = decode(&spec, &records);
    assert_eq!((decoded.filtered, decoded.consumed), (3, 4));
    assert_eq!(kinds(&decoded), [(101, None, RejectKind::MissingField)]);
    spec.filter = Some(text_is(2, "u"));
    assert_eq!(decode(&spec, &records[..1]).rejected.len(), 1, "where reads a column of the element that is not there");
}

#[test]
fn a_slate_cannot_be_blown_up_in_memory() {
    let mut spec = slate();
    spec.explode.as_mut().unwrap().max = 1000;
    spec.limits = DecodeLimits { record_bytes_max: 50_000, dead_letter_bytes_max: 20_000, depth_max: 64 };
    let items = vec![r#"{"id":"x"}"#; 1000].join(",");
    let record = |id: usize, items: &str| {
        format!(r#"{{"id":"{}","ts":1700000000000,"list":{{"items":[{items}]}}}}"#, "i".repeat(id))
    };
    assert_eq!(decode(&spec, &[record(50, &items).as_bytes()]).num_rows(), 1000);
    let (kind, message) = {
        let decoded = decode(&spec, &[record(500, &items).as_bytes()]);
        (decoded.rejected[0].kind, decoded.rejected[0].message.clone())
    };
    assert!(kind == RejectKind::TooLarge && message.contains("499500 bytes"), "{message}");
    let bad = vec!["5"; 1000].join(",");
    let decoded = decode(&spec, &[record(10, &bad).as_bytes()]);
    assert_eq!(decoded.rejected.len(), 1000);
    let bytes: usize = decoded.rejected.iter().map(|rejected| rejected.raw.len()).sum();
    assert!(bytes <= 20_000 && decoded.rejected[999].message.contains("with its first bad element"), "{bytes}");
}

#[test]
fn the_envelope_of_a_record_has_columns_too() {
    let mut columns = vec![
        column("id", ColumnType::String, ColumnFrom::Key),
        column("ts", ColumnType::Timestamp, ColumnFrom::BrokerTime),
        column("part", ColumnType::Int32, ColumnFrom::Partition),
        column("arm", ColumnType::String, ColumnFrom::Header("arm".into())),
        nullable("weight", ColumnType::Float64, ColumnFrom::Header("weight".into())),
    ];
    columns[3].default = Some(Value::Text("none".into()));
    let spec = spec(columns);
    let mut raw = raw(&[&b"{}"[..]; 4]);
    let put = |raw: &mut RawBatch, bytes: &[u8]| {
        let start = raw.bytes.len() as u32;
        raw.bytes.extend_from_slice(bytes);
        start..raw.bytes.len() as u32
    };
    for index in 0..4 {
        raw.records[index].broker_time = Some(1_700_000_000_000);
        raw.records[index].key = Some(put(&mut raw, b"k"));
    }
    let arm = [&b"arm"[..], b"A", b"arm", b"B", b"weight", b"1.5"].map(|bytes| put(&mut raw, bytes));
    raw.records[0].headers = arm.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    raw.records[2].headers = vec![(arm[4].clone(), arm[3].clone())];
    raw.records[3].key = Some(put(&mut raw, b"\xff"));
    let decoded = Decoder::new(spec.clone()).decode(&raw);
    use RejectKind::*;
    assert_eq!(kinds(&decoded), [(102, None, WrongType), (103, None, WrongType)]);
    assert!(decoded.rejected[0].message.contains("header \"weight\" is the text \"B\""));
    assert!(decoded.rejected[1].message.contains("the message key is bytes that are not UTF-8"));
    let arms: Vec<_> = decoded.rows.column(3).as_string::<i32>().iter().map(Option::unwrap).collect();
    assert_eq!(arms, ["B", "none"]);
    assert_eq!(decoded.rows.column(4).as_primitive::<Float64Type>().value(0), 1.5);
    assert_eq!(decoded.rows.column(2).as_primitive::<Int32Type>().value(0), 4);
    raw.records[0].broker_time = None;
    assert_eq!(kinds(&Decoder::new(spec).decode(&raw))[0], (100, None, MissingField));
}

#[test]
fn defaults_stand_in_for_missing_and_null() {
    let mut columns = simple().columns;
    columns[2].default = Some(Value::Int(4));
    columns[3].default = Some(Value::Float(0.5));
    columns[4].default = Some(Value::Bool(true));
    let record = br#"{"id":"a","at":{"ms":1700000000000},"x":null}"#;
    let decoded = decode(&spec(columns), &[record]);
    assert_eq!(decoded.rows.column(2).as_primitive::<Int32Type>().value(0), 4);
    assert_eq!(decoded.rows.column(3).as_primitive::<Float64Type>().value(0), 0.5);
    assert!(decoded.rows.column(4).as_boolean().value(0));
    assert!((2..5).all(|column| decoded.rows.column(column).null_count() == 0));
}

#[test]
fn dead_letters_keep_the_start_of_the_record_and_a_decoder_forgets_the_last_batch() {
    let mut spec = simple();
    spec.limits.dead_letter_bytes_max = 5;
    let mut decoder = Decoder::new(spec);
    for _ in 0..2 {
        let decoded = decoder.decode(&raw(&[br#"{"id":5}"#, br#"{"id":"a","at":{"ms":1700000000000}}"#]));
        assert_eq!((decoded.num_rows(), &decoded.rejected[0].raw[..]), (1, &br#"{"id""#[..]));
    }
    assert_eq!(decoder.decode(&raw(&[])).num_rows(), 0);
}

/// An expression that is a column as it is.
fn reference(column: usize) -> Expression {
    Expression {
        sql: format!("c{column}"),
        data_type: DataType::Null,
        nullable: true,
        columns: vec![column],
        evaluate: Arc::new(ColumnRef(column)),
    }
}
