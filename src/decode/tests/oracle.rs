//! A decoder that is obviously right, and records of every kind to hold the real one against it.

use super::fixture::*;
use crate::decode::*;
use crate::event::{ColumnType, RejectKind, Value};
use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMillisecondType};
use proptest::prelude::*;
use serde_json::Value as Json;

type Refused = (i64, Option<u32>, RejectKind);

/// Accepted rows, refused rows and the number of filtered ones.
type Outcome = (Vec<Vec<Value>>, Vec<Refused>, u64);

/// Column 0 is the key, 1 the time; rows whose column 2 is not "x" are filtered.
fn naive(spec: &DecodeSpec, records: &[&[u8]]) -> Outcome {
    let mut outcome = Outcome::default();
    for (record, position) in records.iter().zip(100..) {
        let rows = match naive_rows(spec, record) {
            Ok(rows) => rows,
            Err(kind) => {
                outcome.1.push((position, None, kind));
                continue;
            }
        };
        outcome.2 += rows.is_empty() as u64;
        for (item, cells, whole) in rows {
            let bad = whole.or_else(|| cells.iter().find_map(|cell| cell.as_ref().err().copied()));
            match (&cells[2], bad) {
                (Ok(kind), _) if *kind != Value::Text("x".into()) => outcome.2 += 1,
                (_, Some(kind)) => outcome.1.push((position, item, kind)),
                (_, None) if cells[0] == Ok(Value::Null) => outcome.1.push((position, item, RejectKind::NullKey)),
                (_, None) => match cells[1] {
                    Ok(Value::Int(time)) if time < spec.min_time => {
                        outcome.1.push((position, item, RejectKind::TimeBeforeMin))
                    }
                    _ => outcome.0.push(cells.into_iter().map(Result::unwrap).collect()),
                },
            }
        }
    }
    outcome
}

type NaiveRow = (Option<u32>, Vec<Result<Value, RejectKind>>, Option<RejectKind>);

fn naive_rows(spec: &DecodeSpec, record: &[u8]) -> Result<Vec<NaiveRow>, RejectKind> {
    let text = std::str::from_utf8(record).map_err(|_| RejectKind::NotUtf8)?;
    if text.trim().is_empty() {
        return Err(RejectKind::EmptyPayload);
    }
    let root: Json = serde_json::from_str(text).map_err(|_| RejectKind::MalformedJson)?;
    let cells = |item: Option<(usize, &Json)>| spec.columns.iter().map(|column| cell(column, &root, item)).collect();
    let Some(explode) = &spec.explode else {
        return Ok(vec![(None, cells(None), None)]);
    };
    let array = match root.get(&explode.path[0]).unwrap_or(&Json::Null) {
        Json::Array(array) if array.len() > explode.max => Err(RejectKind::TooManyItems),
        Json::Array(array) => Ok(array),
        Json::Null => Err(RejectKind::MissingField),
        _ => Err(RejectKind::WrongType),
    };
    let of_record = |column: &&ColumnSpec| !matches!(column.from, ColumnFrom::Item(_) | ColumnFrom::ItemIndex);
    let record_bad = spec.columns.iter().filter(of_record).find_map(|column| cell(column, &root, None).err());
    match (array, record_bad) {
        (Ok(array), None) => {
            Ok(array.iter().enumerate().map(|item| (Some(item.0 as u32), cells(Some(item)), None)).collect())
        }
        (array, bad) => Ok(vec![(None, cells(None), array.err().or(bad))]),
    }
}

fn cell(column: &ColumnSpec, root: &Json, item: Option<(usize, &Json)>) -> Result<Value, RejectKind> {
    let (mut at, path) = match &column.from {
        ColumnFrom::Path(path) => (root, path),
        ColumnFrom::Item(path) => (item.ok_or(RejectKind::MissingField)?.1, path),
        _ => return Ok(Value::Int(item.ok_or(RejectKind::MissingField)?.0 as i64)),
    };
    for step in path {
        at = match at {
            Json::Object(fields) => fields.get(step).unwrap_or(&Json::Null),
            Json::Null => &Json::Null,
            _ => return Err(RejectKind::WrongType),
        };
    }
    let whole = || match at.as_f64().ok_or(RejectKind::WrongType)? {
        _ if at.is_i64() => Ok(at.as_i64().unwrap()),
        float if float.fract() != 0.0 => Err(RejectKind::WrongType),
        float if at.is_u64() || float.abs() > 9007199254740992.0 => Err(RejectKind::OutOfRange),
        float => Ok(float as i64),
    };
    match (column.column_type, at) {
        (_, Json::Null) => match &column.default {
            Some(default) => Ok(default.clone()),
            None if column.nullable => Ok(Value::Null),
            None => Err(RejectKind::MissingField),
        },
        (ColumnType::String, Json::String(text)) => Ok(Value::Text(text.as_str().into())),
        (ColumnType::Bool, Json::Bool(value)) => Ok(Value::Bool(*value)),
        (ColumnType::Int32, _) => whole()
            .and_then(|value| i32::try_from(value).map_err(|_| RejectKind::OutOfRange))
            .map(|n| Value::Int(n as i64)),
        (ColumnType::Int64 | ColumnType::Timestamp, _) => whole().map(Value::Int),
        (ColumnType::Float32, Json::Number(n)) => match n.as_f64().unwrap() as f32 {
            value if value.is_finite() => Ok(Value::Float(value as f64)),
            _ => Err(RejectKind::OutOfRange),
        },
        (ColumnType::Float64, Json::Number(n)) => Ok(Value::Float(n.as_f64().unwrap())),
        _ => Err(RejectKind::WrongType),
    }
}

fn value(array: &dyn Array, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Utf8 => Value::Text(array.as_string::<i32>().value(row).into()),
        DataType::Boolean => Value::Bool(array.as_boolean().value(row)),
        DataType::Int32 => Value::Int(array.as_primitive::<Int32Type>().value(row) as i64),
        DataType::Int64 => Value::Int(array.as_primitive::<Int64Type>().value(row)),
        DataType::Float32 => Value::Float(array.as_primitive::<Float32Type>().value(row) as f64),
        DataType::Float64 => Value::Float(array.as_primitive::<Float64Type>().value(row)),
        _ => Value::Int(array.as_primitive::<TimestampMillisecondType>().value(row)),
    }
}

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
        let (accepted, refused, filtered) = naive(&spec, &records);
        let decoded = decode(&spec, &records);
        let rows: Vec<Vec<Value>> = (0..decoded.num_rows())
            .map(|row| decoded.rows.columns().iter().map(|column| value(column, row)).collect())
            .collect();
        let shown = || records.iter().map(|record| String::from_utf8_lossy(record)).collect::<Vec<_>>().join("\n");
        prop_assert_eq!(kinds(&decoded), refused, "{}", shown());
        prop_assert_eq!(rows, accepted, "{}", shown());
        prop_assert_eq!(decoded.filtered, filtered);
    }
}
