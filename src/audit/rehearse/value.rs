//! Value: single values as tests see them, whatever Arrow type they come in.

use crate::config::{Expected, ExpectedRow};
use crate::event::EventTime;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampMillisecondType};
use arrow::temporal_conversions::timestamp_ms_to_datetime;
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// Floats are equal up to this part of their value.
const CLOSE: f64 = 1e-6;

#[derive(Clone, PartialEq, Debug)]
pub enum Found {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Time(EventTime),
    List(Vec<Found>),
}

/// How instants are shown: as the test writes them.
#[derive(Clone, Copy)]
pub struct Clock {
    start: EventTime,
    relative: bool,
}

impl Clock {
    /// Since the start, unless an expectation has an instant.
    pub fn of(start: EventTime, rows: &[ExpectedRow]) -> Clock {
        fn absolute(value: &Expected) -> bool {
            match value {
                Expected::Time { relative, .. } => !relative,
                Expected::List(items) => items.iter().any(absolute),
                _ => false,
            }
        }
        Clock { start, relative: !rows.iter().flat_map(|row| &row.columns).any(|(_, value)| absolute(value)) }
    }
}

/// The rows of a batch, value by value.
pub fn found_rows(batch: &RecordBatch) -> Vec<Vec<Found>> {
    let columns: Vec<Vec<Found>> = batch.columns().iter().map(values).collect();
    (0..batch.num_rows()).map(|row| columns.iter().map(|column| column[row].clone()).collect()).collect()
}

fn values(array: &ArrayRef) -> Vec<Found> {
    let data_type = array.data_type();
    let plain = match data_type {
        DataType::Boolean | DataType::List(_) => data_type.clone(),
        DataType::Timestamp(..) => DataType::Timestamp(TimeUnit::Millisecond, None),
        _ if data_type.is_integer() => DataType::Int64,
        // The shortest text of a float32 is no longer that of the float64 next to it.
        DataType::Float32 | DataType::Float16 => DataType::Utf8,
        _ if data_type.is_numeric() => DataType::Float64,
        _ => DataType::Utf8,
    };
    let is_float = plain == DataType::Utf8 && data_type.is_floating();
    let Ok(array) = cast(array, &plain) else { return texts(array) };
    let value = |row: usize| match &plain {
        _ if array.is_null(row) => Found::Null,
        DataType::Boolean => Found::Bool(array.as_boolean().value(row)),
        DataType::Int64 => Found::Int(array.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => Found::Float(array.as_primitive::<Float64Type>().value(row)),
        DataType::Timestamp(..) => Found::Time(array.as_primitive::<TimestampMillisecondType>().value(row)),
        DataType::List(_) => Found::List(values(&array.as_list::<i32>().value(row))),
        _ => {
            let text = array.as_string::<i32>().value(row);
            match text.parse() {
                Ok(number) if is_float => Found::Float(number),
                _ => Found::Text(text.into()),
            }
        }
    };
    (0..array.len()).map(value).collect()
}

/// Values of a type that nothing here knows, as they are printed.
fn texts(array: &ArrayRef) -> Vec<Found> {
    let options = FormatOptions::default();
    let Ok(formatter) = ArrayFormatter::try_new(array, &options) else {
        return vec![Found::Text(array.data_type().to_string()); array.len()];
    };
    let value = |row| if array.is_null(row) { Found::Null } else { Found::Text(formatter.value(row).to_string()) };
    (0..array.len()).map(value).collect()
}

/// Whether a test that expects the one is content with the other.
pub fn is_as(expected: &Expected, found: &Found) -> bool {
    let close = |a: f64, b: f64| a == b || (a - b).abs() <= CLOSE * a.abs().max(b.abs());
    match (expected, found) {
        (Expected::Null, Found::Null) => true,
        (Expected::Bool(a), Found::Bool(b)) => a == b,
        (Expected::Int(a), Found::Int(b)) => a == b,
        (Expected::Int(a), Found::Float(b)) => close(*a as f64, *b),
        (Expected::Float(a), Found::Int(b)) => close(*a, *b as f64),
        (Expected::Float(a), Found::Float(b)) => close(*a, *b),
        (Expected::Text(a), Found::Text(b)) => a == b,
        (Expected::Part(a), Found::Text(b)) => b.contains(a.as_str()),
        (Expected::Time { ms, .. }, Found::Time(b)) => ms == b,
        (Expected::List(a), Found::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_as(a, b)),
        _ => false,
    }
}

/// An expectation as text.
pub fn shown(expected: &Expected, clock: Clock) -> String {
    match expected {
        Expected::Null => Found::Null.shown(clock),
        Expected::Bool(value) => Found::Bool(*value).shown(clock),
        Expected::Int(value) => Found::Int(*value).shown(clock),
        Expected::Float(value) => Found::Float(*value).shown(clock),
        Expected::Text(text) => Found::Text(text.clone()).shown(clock),
        Expected::Part(text) => format!("…{text}…"),
        Expected::Time { ms, .. } => Found::Time(*ms).shown(clock),
        Expected::List(items) => listed(items.iter().map(|item| shown(item, clock))),
    }
}

fn listed(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

impl Found {
    pub fn shown(&self, clock: Clock) -> String {
        match self {
            Found::Null => "null".into(),
            Found::Bool(value) => value.to_string(),
            Found::Int(value) => value.to_string(),
            Found::Float(value) => format!("{value:?}"),
            Found::Text(text) if text.is_empty() => "\"\"".into(),
            Found::Text(text) => text.clone(),
            Found::Time(ms) if clock.relative => since(ms.saturating_sub(clock.start)),
            Found::Time(ms) => match timestamp_ms_to_datetime(*ms) {
                Some(time) if ms % 1_000 == 0 => time.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
                Some(time) => time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
                None => format!("{ms} ms"),
            },
            Found::List(items) => listed(items.iter().map(|item| item.shown(clock))),
        }
    }
}

/// A length of time as a test writes it: `1m30s`.
fn since(ms: i64) -> String {
    let mut text = String::from(if ms < 0 { "-" } else { "" });
    let mut left = ms.unsigned_abs();
    for (unit, length) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if left >= length {
            text += &format!("{}{unit}", left / length);
            left %= length;
        }
    }
    if ms == 0 { "0s".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Date32Array, Float32Array, ListArray, UInt64Array};
    use std::sync::Arc;

    #[test]
    fn values_of_every_type_are_what_a_test_would_write() {
        let array = |array: ArrayRef| values(&array);
        assert_eq!(array(Arc::new(Float32Array::from(vec![Some(0.1), None]))), [Found::Float(0.1), Found::Null]);
        assert_eq!(array(Arc::new(UInt64Array::from(vec![7]))), [Found::Int(7)]);
        assert_eq!(array(Arc::new(Date32Array::from(vec![0]))), [Found::Text("1970-01-01".into())]);
        let lists = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(2), None])]);
        assert_eq!(array(Arc::new(lists)), [Found::List(vec![Found::Int(2), Found::Null])]);
    }

    #[test]
    fn floats_are_equal_up_to_a_millionth_and_kinds_never_mix() {
        assert!(is_as(&Expected::Float(0.333333), &Found::Float(1.0 / 3.0)));
        assert!(!is_as(&Expected::Float(0.3333), &Found::Float(1.0 / 3.0)));
        assert!(is_as(&Expected::Int(2), &Found::Float(2.0)));
        assert!(!is_as(&Expected::Int(1), &Found::Bool(true)));
        assert!(!is_as(&Expected::Null, &Found::Int(0)));
    }

    #[test]
    fn instants_are_shown_as_the_test_writes_them() {
        let (relative, absolute) = (Clock { start: 0, relative: true }, Clock { start: 0, relative: false });
        assert_eq!(Found::Time(90_500).shown(relative), "1m30s500ms");
        assert_eq!(Found::Time(-2_000).shown(relative), "-2s");
        assert_eq!(Found::Time(0).shown(relative), "0s");
        assert_eq!(Found::Time(90_500).shown(absolute), "1970-01-01T00:01:30.500Z");
    }
}
