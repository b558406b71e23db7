//! Cells: values as texts and bytes have them become columns.

use super::{DimensionColumn, DimensionTime};
use crate::event::{ColumnType, Value};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanBuilder, Float32Builder, Float64Builder, Int32Builder, Int64Builder,
    StringBuilder, TimestampMillisecondBuilder,
};
use arrow::compute::kernels::cast_utils::Parser;
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimestampMillisecondType};
use std::sync::Arc;

/// A column that grows value by value; what does not fit its type is null.
pub(super) enum Cells {
    String(StringBuilder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Bool(BooleanBuilder),
    Timestamp(TimestampMillisecondBuilder),
}

impl Cells {
    pub fn new(column_type: ColumnType, rows: usize) -> Cells {
        match column_type {
            ColumnType::String => Cells::String(StringBuilder::with_capacity(rows, rows * 8)),
            ColumnType::Int32 => Cells::Int32(Int32Builder::with_capacity(rows)),
            ColumnType::Int64 => Cells::Int64(Int64Builder::with_capacity(rows)),
            ColumnType::Float32 => Cells::Float32(Float32Builder::with_capacity(rows)),
            ColumnType::Float64 => Cells::Float64(Float64Builder::with_capacity(rows)),
            ColumnType::Bool => Cells::Bool(BooleanBuilder::with_capacity(rows)),
            ColumnType::Timestamp => Cells::Timestamp(TimestampMillisecondBuilder::with_capacity(rows)),
        }
    }

    pub fn push(&mut self, value: &Value) {
        let int = match value {
            Value::Int(number) | Value::Time(number) => Some(*number),
            _ => None,
        };
        let float = if let Value::Float(number) = value { Some(*number) } else { None };
        match self {
            Cells::String(cells) => cells.append_option(if let Value::Text(text) = value { Some(text) } else { None }),
            Cells::Int32(cells) => cells.append_option(int.and_then(|number| i32::try_from(number).ok())),
            Cells::Int64(cells) => cells.append_option(int),
            Cells::Float32(cells) => cells.append_option(float.map(|number| number as f32)),
            Cells::Float64(cells) => cells.append_option(float),
            Cells::Bool(cells) => cells.append_option(if let Value::Bool(flag) = value { Some(*flag) } else { None }),
            Cells::Timestamp(cells) => cells.append_option(int),
        }
    }

    pub fn finish(&mut self) -> ArrayRef {
        match self {
            Cells::String(cells) => Arc::new(cells.finish()),
            Cells::Int32(cells) => Arc::new(cells.finish()),
            Cells::Int64(cells) => Arc::new(cells.finish()),
            Cells::Float32(cells) => Arc::new(cells.finish()),
            Cells::Float64(cells) => Arc::new(cells.finish()),
            Cells::Bool(cells) => Arc::new(cells.finish()),
            Cells::Timestamp(cells) => Arc::new(cells.finish().with_timezone("UTC")),
        }
    }
}

/// The value that a text is in a column; `None` if it is none of its type.
pub(super) fn parse(text: &str, column: &DimensionColumn) -> Option<Value> {
    Some(match column.column_type {
        ColumnType::String => Value::Text(text.into()),
        ColumnType::Int32 => Value::Int(text.trim().parse::<i32>().ok()?.into()),
        ColumnType::Int64 => Value::Int(text.trim().parse().ok()?),
        ColumnType::Float32 | ColumnType::Float64 => Value::Float(text.trim().parse().ok()?),
        ColumnType::Bool => Value::Bool(match text.trim() {
            "true" | "True" | "TRUE" | "t" | "1" => true,
            "false" | "False" | "FALSE" | "f" | "0" => false,
            _ => return None,
        }),
        ColumnType::Timestamp => Value::Time(match column.unit {
            DimensionTime::Rfc3339 => TimestampMillisecondType::parse(text.trim())?,
            unit => {
                let number: i64 = text.trim().parse().ok()?;
                match unit {
                    DimensionTime::Seconds => number.checked_mul(1_000)?,
                    DimensionTime::Micros => number.div_euclid(1_000),
                    _ => number,
                }
            }
        }),
    })
}

/// What a column of that type wants to see, for messages.
pub(super) fn expected(column: &DimensionColumn) -> String {
    match (column.column_type, column.unit) {
        (ColumnType::Timestamp, DimensionTime::Rfc3339) => "a time such as 2026-01-31T07:00:00Z".into(),
        (ColumnType::Timestamp, DimensionTime::Seconds) => "whole seconds since 1970".into(),
        (ColumnType::Timestamp, DimensionTime::Micros) => "whole microseconds since 1970".into(),
        (ColumnType::Timestamp, DimensionTime::Millis) => "whole milliseconds since 1970".into(),
        (column_type, _) => format!("a value of type {}", column_type.name()),
    }
}

/// A cell of a key column.
pub(super) fn value_at(column: &ArrayRef, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Utf8 => Value::Text(column.as_string::<i32>().value(row).into()),
        DataType::Int32 => Value::Int(column.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => Value::Int(column.as_primitive::<Int64Type>().value(row)),
        DataType::Boolean => Value::Bool(column.as_boolean().value(row)),
        other => unreachable!("key columns of type {other} are refused by the config check"),
    }
}

/// The same as text.
pub(super) fn text_at(column: &ArrayRef, row: usize) -> String {
    text_of(&value_at(column, row)).unwrap_or_default()
}

/// A value as text; null is none.
pub(super) fn text_of(value: &Value) -> Option<String> {
    Some(match value {
        Value::Text(text) => text.to_string(),
        Value::Int(number) | Value::Time(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Null | Value::List(_) => return None,
    })
}
