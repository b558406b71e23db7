//! Logical types of columns and single values, the vocabulary of pipeline files.

use arrow::datatypes::{DataType, Field, TimeUnit};
use std::sync::Arc;

/// The logical type of a declared column.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum ColumnType {
    String,
    Int32,
    Int64,
    Float32,
    Float64,
    Bool,
    /// Milliseconds, UTC, whatever unit the input used.
    Timestamp,
}

impl ColumnType {
    pub const NAMES: [(&'static str, ColumnType); 7] = [
        ("string", ColumnType::String),
        ("int32", ColumnType::Int32),
        ("int64", ColumnType::Int64),
        ("float32", ColumnType::Float32),
        ("float64", ColumnType::Float64),
        ("bool", ColumnType::Bool),
        ("timestamp", ColumnType::Timestamp),
    ];

    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, ty)| *ty == self).map(|(name, _)| *name).expect("NAMES lists every variant")
    }

    pub fn arrow(self) -> DataType {
        match self {
            ColumnType::String => DataType::Utf8,
            ColumnType::Int32 => DataType::Int32,
            ColumnType::Int64 => DataType::Int64,
            ColumnType::Float32 => DataType::Float32,
            ColumnType::Float64 => DataType::Float64,
            ColumnType::Bool => DataType::Boolean,
            ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
        }
    }
}

/// A list column of `item` values, as `last_k` makes.
pub fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, true)))
}

/// A single value: a default, a tile's `last`, an online feature.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Time(EventTimeMs),
    Text(Arc<str>),
    List(Vec<Value>),
}

/// Milliseconds since 1970 as they stand in a [`Value`].
pub type EventTimeMs = i64;
