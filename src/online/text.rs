//! Text: how values are spelt in the store, and read back by the type the plan gives them.
//!
//! Integers and timestamps (ms) are decimal, floats the shortest text that reads back to the same number, booleans
//! `true` and `false`, strings themselves, lists JSON arrays in which a float that JSON cannot hold is a string
//! (`"NaN"`, `"inf"`). Null has no text: its field is absent.

use crate::event::Value;
use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMillisecondType,
    UInt8Type, UInt16Type, UInt32Type,
};
use std::io::Write;

/// Whether values of this type can be stored online.
pub fn storable(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) => !matches!(item.data_type(), DataType::List(_)) && storable(item.data_type()),
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Timestamp(TimeUnit::Millisecond, _) => true,
        _ => false,
    }
}

/// The value in one row of an array of a [`storable`] type.
pub fn value_at(array: &dyn Array, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Boolean => Value::Bool(array.as_boolean().value(row)),
        DataType::Float32 => Value::Float(array.as_primitive::<Float32Type>().value(row) as f64),
        DataType::Float64 => Value::Float(array.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => Value::Text(array.as_string::<i32>().value(row).into()),
        DataType::LargeUtf8 => Value::Text(array.as_string::<i64>().value(row).into()),
        DataType::Utf8View => Value::Text(array.as_string_view().value(row).into()),
        DataType::Timestamp(..) => Value::Time(array.as_primitive::<TimestampMillisecondType>().value(row)),
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            Value::List((0..items.len()).map(|item| value_at(&items, item)).collect())
        }
        _ => Value::Int(integer_at(array, row)),
    }
}

fn integer_at(array: &dyn Array, row: usize) -> i64 {
    match array.data_type() {
        DataType::Int8 => array.as_primitive::<Int8Type>().value(row) as i64,
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row) as i64,
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row) as i64,
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row),
        DataType::UInt8 => array.as_primitive::<UInt8Type>().value(row) as i64,
        DataType::UInt16 => array.as_primitive::<UInt16Type>().value(row) as i64,
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(row) as i64,
        other => unreachable!("{other} is refused when the store is opened"),
    }
}

/// Appends the text of a value that is not null.
pub fn push_text(out: &mut Vec<u8>, array: &dyn Array, row: usize) {
    const INFALLIBLE: &str = "writing to a vector cannot fail";
    match array.data_type() {
        DataType::Boolean => out.extend_from_slice(if array.as_boolean().value(row) { b"true" } else { b"false" }),
        DataType::Float32 => write!(out, "{:?}", array.as_primitive::<Float32Type>().value(row)).expect(INFALLIBLE),
        DataType::Float64 => write!(out, "{:?}", array.as_primitive::<Float64Type>().value(row)).expect(INFALLIBLE),
        DataType::Utf8 => out.extend_from_slice(array.as_string::<i32>().value(row).as_bytes()),
        DataType::LargeUtf8 => out.extend_from_slice(array.as_string::<i64>().value(row).as_bytes()),
        DataType::Utf8View => out.extend_from_slice(array.as_string_view().value(row).as_bytes()),
        DataType::Timestamp(..) => {
            write!(out, "{}", array.as_primitive::<TimestampMillisecondType>().value(row)).expect(INFALLIBLE);
        }
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            out.push(b'[');
            for item in 0..items.len() {
                if item > 0 {
                    out.push(b',');
                }
                push_item(out, &items, item);
            }
            out.push(b']');
        }
        _ => write!(out, "{}", integer_at(array, row)).expect(INFALLIBLE),
    }
}

fn push_item(out: &mut Vec<u8>, items: &dyn Array, item: usize) {
    if items.is_null(item) {
        return out.extend_from_slice(b"null");
    }
    let start = out.len();
    push_text(out, items, item);
    let quoted = match items.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        // The texts of finite floats are JSON numbers; `NaN`, `inf` and `-inf` are not.
        DataType::Float32 | DataType::Float64 => matches!(out[out.len() - 1], b'N' | b'f'),
        _ => false,
    };
    if quoted {
        let text = String::from_utf8(out.split_off(start)).expect("the text of a string or a float is UTF-8");
        serde_json::to_writer(&mut *out, &text).expect("a string can always be written as JSON");
    }
}

/// Reads a text back; `None` if it is not one of this type.
pub fn parse_text(text: &str, data_type: &DataType) -> Option<Value> {
    Some(match data_type {
        DataType::Boolean => Value::Bool(text.parse().ok()?),
        // Parsed as what it was, so that it reads back to the same number.
        DataType::Float32 => Value::Float(text.parse::<f32>().ok()? as f64),
        DataType::Float64 => Value::Float(text.parse().ok()?),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Value::Text(text.into()),
        DataType::Timestamp(..) => Value::Time(text.parse().ok()?),
        DataType::List(item) => {
            Value::List(list_items(text)?.map(|text| parse_item(text, item.data_type())).collect::<Option<_>>()?)
        }
        _ => Value::Int(text.parse().ok()?),
    })
}

/// The texts of a list's items as [`push_item`] wrote them. Taken apart here, because a JSON parser's own reading of a
/// float may differ from the standard library's in the last bit.
fn list_items(text: &str) -> Option<impl Iterator<Item = &str>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let (mut quoted, mut escaped) = (false, false);
    let split = move |at: char| {
        let separates = at == ',' && !quoted;
        quoted ^= at == '"' && !escaped;
        escaped = at == '\\' && !escaped;
        separates
    };
    Some(inner.split(split).filter(|item| !item.is_empty()))
}

fn parse_item(text: &str, data_type: &DataType) -> Option<Value> {
    match text.as_bytes() {
        b"null" => Some(Value::Null),
        [b'"', ..] => parse_text(&serde_json::from_str::<String>(text).ok()?, data_type),
        _ => parse_text(text, data_type),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::*;
    use std::sync::Arc;

    fn text_of(array: &ArrayRef, row: usize) -> String {
        let mut out = Vec::new();
        push_text(&mut out, array, row);
        String::from_utf8(out).expect("texts are UTF-8")
    }

    fn arrays() -> Vec<ArrayRef> {
        let mut tags = ListBuilder::new(StringBuilder::new());
        tags.append_value([Some("a\"b"), None, Some("é,]")]);
        tags.append_value([] as [Option<&str>; 0]);
        let mut prices = ListBuilder::new(Float64Builder::new());
        prices.append_value([Some(0.1), Some(f64::INFINITY), None]);
        prices.append_value([Some(1e300)]);
        vec![
            Arc::new(BooleanArray::from(vec![true, false])),
            Arc::new(Int32Array::from(vec![i32::MIN, 7])),
            Arc::new(Int64Array::from(vec![i64::MAX, -1])),
            Arc::new(UInt32Array::from(vec![u32::MAX, 0])),
            Arc::new(Float32Array::from(vec![0.1, f32::MIN_POSITIVE])),
            Arc::new(Float64Array::from(vec![0.1 + 0.2, 1e300])),
            Arc::new(Float64Array::from(vec![f64::NEG_INFINITY, -0.0])),
            Arc::new(StringArray::from(vec!["", "a:b\n☃"])),
            Arc::new(TimestampMillisecondArray::from(vec![1_764_000_000_000, -5]).with_timezone("UTC")),
            Arc::new(tags.finish()),
            Arc::new(prices.finish()),
        ]
    }

    #[test]
    fn every_value_reads_back_as_it_was() {
        for array in arrays() {
            assert!(storable(array.data_type()), "{}", array.data_type());
            for row in 0..array.len() {
                let text = text_of(&array, row);
                assert_eq!(parse_text(&text, array.data_type()), Some(value_at(&array, row)), "{text}");
            }
        }
    }

    #[test]
    fn every_float_in_a_list_reads_back_to_the_bit() {
        let mut bits = 1_u64;
        for _ in 0..20_000 {
            bits ^= bits << 13;
            bits ^= bits >> 7;
            bits ^= bits << 17;
            let value = f64::from_bits(bits);
            if value.is_nan() {
                continue;
            }
            let mut list = ListBuilder::new(Float64Builder::new());
            list.append_value([Some(value)]);
            let list: ArrayRef = Arc::new(list.finish());
            let back = parse_text(&text_of(&list, 0), list.data_type());
            assert_eq!(back, Some(Value::List(vec![Value::Float(value)])));
        }
    }

    #[test]
    fn floats_are_short_and_ints_plain() {
        let arrays = arrays();
        assert_eq!(text_of(&arrays[4], 0), "0.1");
        assert_eq!(text_of(&arrays[2], 1), "-1");
        assert_eq!(text_of(&arrays[9], 0), r#"["a\"b",null,"é,]"]"#);
        assert_eq!(text_of(&arrays[10], 0), r#"[0.1,"inf",null]"#);
    }

    #[test]
    fn a_text_of_another_type_is_not_guessed_at() {
        for (text, data_type) in [("1.5", DataType::Int64), ("yes", DataType::Boolean), ("", DataType::Float64)] {
            assert_eq!(parse_text(text, &data_type), None, "{text} as {data_type}");
        }
    }
}
