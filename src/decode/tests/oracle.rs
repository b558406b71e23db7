//! Records of every kind, to hold the decoder against one that is obviously right.

use super::fixture::*;
use super::naive;
use crate::decode::*;
use crate::event::{ColumnType, Value};
use proptest::prelude::*;

fn stream(slate: bool) -> DecodeSpec {
    let mut columns = vec![
        nullable("id", ColumnType::String, path("id")),
        column("ts", ColumnType::Timestamp, path("at.ts")),
        column("kind", ColumnType::String, path("at.kind")),
        nullable("n", ColumnType::Int32, path("n")),
        nullable("big", ColumnType::Int64, path("big")),
        nullable("f", ColumnType::Float32, path("f")),
        column("ok", ColumnType::Bool, path("ok")),
    ];
    columns[4].default = Some(Value::Int(7));
    if slate {
        columns.push(column("item", ColumnType::String, item("id")));
        columns.push(nullable("price", ColumnType::Float64, item("price")));
        columns.push(column("index", ColumnType::Int32, ColumnFrom::ItemIndex));
        columns.push(nullable("same_n", ColumnType::Int64, path("n")));
    }
    let mut spec = spec(columns);
    spec.filter = Some(text_is(2, "x"));
    spec.explode = slate.then(|| ExplodeSpec { path: vec!["items".to_string()], max: 4 });
    spec
}

/// A value that fits mostly, or one of those that rarely do.
fn field(good: &'static [&'static str]) -> impl Strategy<Value = String> {
    let odd = &[
        "null",
        "true",
        "0",
        "-5",
        "1.0",
        "2.5",
        "1e2",
        "3000000000",
        "18446744073709551615",
        "9007199254740994.0",
        "-9223372036854775808",
        "123456789012345678901234567890",
        "1e39",
        "\"x\"",
        "\"\\u00fc\\n\"",
        "{}",
        "[]",
        "[{}]",
        "{\"id\":\"x\",\"ts\":1}",
        "[null,1]",
    ][..];
    let text = |values| prop::sample::select(values).prop_map(str::to_string);
    prop_oneof![12 => text(good), 1 => text(odd)]
}

/// Fields, each mostly there, in any order.
fn object(fields: Vec<(&'static str, BoxedStrategy<String>)>) -> BoxedStrategy<String> {
    let fields = fields.into_iter().map(|(name, value)| {
        prop_oneof![12 => value.prop_map(move |value| Some(format!("\"{name}\":{value}"))), 1 => Just(None)].boxed()
    });
    fields
        .collect::<Vec<_>>()
        .prop_shuffle()
        .prop_map(|fields| format!("{{{}}}", fields.into_iter().flatten().collect::<Vec<_>>().join(",")))
        .boxed()
}

fn record() -> impl Strategy<Value = Vec<u8>> {
    let at = object(vec![
        ("ts", field(&["1700000000000", "1700000000001", "1700000000000.0", "1700000000"]).boxed()),
        ("kind", field(&["\"x\"", "\"x\"", "\"x\"", "\"y\""]).boxed()),
        ("zone", field(&["\"UTC\""]).boxed()),
    ]);
    let element = object(vec![("id", field(&["\"i\"", "\"j\""]).boxed()), ("price", field(&["1.25", "3"]).boxed())]);
    let items = prop::collection::vec(element, 0..6).prop_map(|items| format!("[{}]", items.join(",")));
    let root = object(vec![
        ("id", field(&["\"a\"", "\"bb\"", "\"\""]).boxed()),
        ("at", prop_oneof![12 => at, 1 => field(&["null"])].boxed()),
        ("n", field(&["1", "-2147483648"]).boxed()),
        ("big", field(&["1", "9223372036854775807"]).boxed()),
        ("f", field(&["0.5", "-3"]).boxed()),
        ("ok", field(&["true", "false"]).boxed()),
        ("items", prop_oneof![12 => items, 1 => field(&["[]"])].boxed()),
        ("other", field(&["\"o\"", "[[[]]]"]).boxed()),
    ]);
    let broken = (any::<prop::sample::Index>(), prop::sample::select(&b"{}[],:\"x\x00\xff 1\\"[..]), any::<bool>());
    (root, prop::option::weighted(0.1, broken)).prop_map(|(root, broken)| {
        let mut record = root.into_bytes();
        if let Some((at, byte, cut)) = broken {
            let at = at.index(record.len());
            if cut {
                record.truncate(at);
                record.push(byte);
            } else {
                record[at] = byte;
            }
        }
        record
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn the_decoder_agrees_with_the_oracle(
        records in prop::collection::vec(record(), 0..20),
        slate in any::<bool>(),
    ) {
        let records: Vec<&[u8]> = records.iter().map(|record| &record[..]).collect();
        let spec = stream(slate);
        let (accepted, refused, filtered) = naive::decode(&spec, &records, 100);
        let decoded = decode(&spec, &records);
        let shown = || records.iter().map(|record| String::from_utf8_lossy(record)).collect::<Vec<_>>().join("\n");
        prop_assert_eq!(kinds(&decoded), refused, "{}", shown());
        prop_assert_eq!(naive::values(&decoded.rows), accepted, "{}", shown());
        prop_assert_eq!(decoded.filtered, filtered);
    }
}
