//! A decoder that is obviously right, for streams whose column 0 is the key, 1 the time, and whose `where` is that
//! column 2 is "x". The fuzz target `decode` shares it: `words`, next to it, names what it needs of the crate.

use super::words::{ColumnFrom, ColumnSpec, ColumnType, DecodeSpec, RejectKind, TIME_END, Value};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMillisecondType};
use serde_json::Value as Json;

pub type Refused = (i64, Option<u32>, RejectKind);

/// Accepted rows, refused rows and the number of filtered ones.
pub type Outcome = (Vec<Vec<Value>>, Vec<Refused>, u64);

/// Records at positions from `first` on.
pub fn decode(spec: &DecodeSpec, records: &[&[u8]], first: i64) -> Outcome {
    let mut outcome = Outcome::default();
    for (record, position) in records.iter().zip(first..) {
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
                    Ok(Value::Int(time)) if time >= TIME_END => {
                        outcome.1.push((position, item, RejectKind::TimeInFuture))
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

/// The rows of a batch as values.
pub fn values(rows: &RecordBatch) -> Vec<Vec<Value>> {
    (0..rows.num_rows()).map(|row| rows.columns().iter().map(|column| value(column, row)).collect()).collect()
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
