//! Avro: the schema that rows have, and the bytes of one value.
//!
//! Holds: a column that may be null is a union with null first, and null is its default: adding one is a change that old
//! and new readers both take.
//! Does not: frame messages.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int32Type, Int64Type, Schema, TimeUnit, TimestampMillisecondType,
};
use serde_json::{Value, json};

pub(super) fn avro_schema(namespace: &str, name: &str, schema: &Schema) -> Value {
    let namespace: Vec<String> = namespace.split('.').map(avro_name).collect();
    let fields: Vec<Value> = schema.fields().iter().map(|field| avro_field(field)).collect();
    json!({ "type": "record", "name": avro_name(name), "namespace": namespace.join("."), "fields": fields })
}

fn avro_field(field: &arrow::datatypes::Field) -> Value {
    let plain = avro_type(field.name(), field.data_type());
    match field.is_nullable() {
        true => json!({ "name": field.name(), "type": ["null", plain], "default": null }),
        false => json!({ "name": field.name(), "type": plain }),
    }
}

fn avro_type(name: &str, data_type: &DataType) -> Value {
    match data_type {
        DataType::Utf8 => json!("string"),
        DataType::Boolean => json!("boolean"),
        DataType::Int32 => json!("int"),
        DataType::Int64 => json!("long"),
        DataType::Float32 => json!("float"),
        DataType::Float64 => json!("double"),
        DataType::Timestamp(TimeUnit::Millisecond, _) => json!({ "type": "long", "logicalType": "timestamp-millis" }),
        DataType::List(item) => {
            let plain = avro_type(&format!("{name}_item"), item.data_type());
            let items = if item.is_nullable() { json!(["null", plain]) } else { plain };
            json!({ "type": "array", "items": items })
        }
        DataType::Struct(fields) => {
            let fields: Vec<Value> = fields.iter().map(|field| avro_field(field)).collect();
            json!({ "type": "record", "name": avro_name(name), "fields": fields })
        }
        other => unreachable!("no column of a sample is of type {other}"),
    }
}

/// Names of pipelines and samples may have dots and dashes, and begin with a digit; those of columns may not.
fn avro_name(name: &str) -> String {
    let mut safe: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if safe.starts_with(|first: char| first.is_ascii_digit()) || safe.is_empty() {
        safe.insert(0, '_');
    }
    safe
}

pub(super) fn write_avro(nullable: bool, column: &dyn Array, row: usize, out: &mut Vec<u8>) {
    if nullable {
        let is_null = column.is_null(row);
        write_long(i64::from(!is_null), out);
        if is_null {
            return;
        }
    }
    match column.data_type() {
        DataType::Utf8 => {
            let text = column.as_string::<i32>().value(row);
            write_long(text.len() as i64, out);
            out.extend(text.as_bytes());
        }
        DataType::Boolean => out.push(u8::from(column.as_boolean().value(row))),
        DataType::Int32 => write_long(i64::from(column.as_primitive::<Int32Type>().value(row)), out),
        DataType::Int64 => write_long(column.as_primitive::<Int64Type>().value(row), out),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            write_long(column.as_primitive::<TimestampMillisecondType>().value(row), out);
        }
        DataType::Float32 => out.extend(column.as_primitive::<Float32Type>().value(row).to_le_bytes()),
        DataType::Float64 => out.extend(column.as_primitive::<Float64Type>().value(row).to_le_bytes()),
        DataType::List(item) => {
            let items = column.as_list::<i32>().value(row);
            if !items.is_empty() {
                write_long(items.len() as i64, out);
                (0..items.len()).for_each(|at| write_avro(item.is_nullable(), items.as_ref(), at, out));
            }
            write_long(0, out);
        }
        DataType::Struct(fields) => {
            let whole = column.as_struct();
            for (field, column) in fields.iter().zip(whole.columns()) {
                write_avro(field.is_nullable(), column.as_ref(), row, out);
            }
        }
        other => unreachable!("no column of a sample is of type {other}"),
    }
}

/// Zigzag, seven bits a byte.
fn write_long(number: i64, out: &mut Vec<u8>) {
    let mut left = ((number << 1) ^ (number >> 63)) as u64;
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}
