//! Element: which values an element of a tensor takes, and as what.

use crate::event::Value;
use arrow::datatypes::DataType;
use ort::value::TensorElementType;

/// Element types that a model may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    Float32,
    Float64,
    Int32,
    Int64,
    Bool,
    Text,
}

impl Element {
    pub fn of(element: TensorElementType) -> Option<Element> {
        Some(match element {
            TensorElementType::Float32 => Element::Float32,
            TensorElementType::Float64 => Element::Float64,
            TensorElementType::Int32 => Element::Int32,
            TensorElementType::Int64 => Element::Int64,
            TensorElementType::Bool => Element::Bool,
            TensorElementType::String => Element::Text,
            _ => return None,
        })
    }

    pub fn is_float(self) -> bool {
        matches!(self, Element::Float32 | Element::Float64)
    }

    /// Whether values of a feature's type can be fed without losing their meaning.
    pub fn takes(self, data_type: &DataType) -> bool {
        match self {
            Element::Float32 | Element::Float64 => {
                data_type.is_numeric() || matches!(data_type, DataType::Boolean | DataType::Timestamp(..))
            }
            Element::Int32 => data_type.is_integer(),
            Element::Int64 => data_type.is_integer() || matches!(data_type, DataType::Timestamp(..)),
            Element::Bool => *data_type == DataType::Boolean,
            Element::Text => matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Element::Float32 => "float32",
            Element::Float64 => "float64",
            Element::Int32 => "int32",
            Element::Int64 => "int64",
            Element::Bool => "bool",
            Element::Text => "string",
        }
    }
}

pub(super) fn number_of(value: &Value) -> Option<f64> {
    match value {
        Value::Float(number) => Some(*number),
        Value::Int(number) | Value::Time(number) => Some(*number as f64),
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        _ => None,
    }
}

pub(super) fn integer_of(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) | Value::Time(number) => Some(*number),
        _ => None,
    }
}

pub(super) fn bool_of(value: &Value) -> Option<bool> {
    if let Value::Bool(flag) = value { Some(*flag) } else { None }
}

pub(super) fn text_of(value: &Value) -> Option<String> {
    if let Value::Text(text) = value { Some(text.to_string()) } else { None }
}
