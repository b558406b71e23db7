//! Message: a row as the value of a message, in JSON or in Avro.
//!
//!   row ──┬─ JSON ──> {"id":"i1","at":1767225600000,"clicked":true}
//!         └─ Avro ──> datum, behind 0x00 and the schema's id where a registry gave one
//!
//! In: rows of any sample. Out: bytes that depend on the row and its schema alone, so that a row which is sent again is
//! the same bytes.
//! Does not: talk to a broker or a registry.

use super::RowFormat;
use super::avro::{avro_schema, write_avro};
use arrow::array::{Array, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int32Type, Int64Type, Schema, TimeUnit, TimestampMillisecondType,
};
use std::io::Write as _;

/// The first byte of the Confluent wire format.
const MAGIC: u8 = 0;

/// How the rows of one schema are written.
#[derive(Clone, Debug)]
pub struct MessageFormat {
    format: RowFormat,
    /// As the registry calls the schema.
    schema_id: Option<u32>,
}

impl MessageFormat {
    pub fn json() -> MessageFormat {
        MessageFormat { format: RowFormat::Json, schema_id: None }
    }

    pub fn avro(schema_id: Option<u32>) -> MessageFormat {
        MessageFormat { format: RowFormat::Avro, schema_id }
    }

    /// Appends the message of one row.
    pub fn write(&self, rows: &RecordBatch, row: usize, out: &mut Vec<u8>) {
        match self.format {
            RowFormat::Json => write_json_row(rows, row, out),
            RowFormat::Avro => {
                if let Some(id) = self.schema_id {
                    out.push(MAGIC);
                    out.extend(id.to_be_bytes());
                }
                for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
                    write_avro(field.is_nullable(), column.as_ref(), row, out);
                }
            }
        }
    }
}

/// The Avro schema of the rows of an outlet. The names may be any text.
pub fn message_schema(pipeline: &str, outlet: &str, schema: &Schema) -> serde_json::Value {
    avro_schema(&format!("conjoin.{pipeline}"), outlet, schema)
}

/// One object: times are milliseconds since 1970; what JSON has no word for (NaN, infinities) is null.
pub fn write_json_row(rows: &RecordBatch, row: usize, out: &mut Vec<u8>) {
    let names = rows.schema_ref().fields().iter().map(|field| field.name().as_str());
    object(names.zip(rows.columns().iter().map(|column| column.as_ref())), row, out);
}

fn object<'a>(columns: impl Iterator<Item = (&'a str, &'a dyn Array)>, row: usize, out: &mut Vec<u8>) {
    out.push(b'{');
    for (number, (name, column)) in columns.enumerate() {
        if number > 0 {
            out.push(b',');
        }
        text(name, out);
        out.push(b':');
        value(column, row, out);
    }
    out.push(b'}');
}

fn text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("text can be written to memory");
}

fn value(column: &dyn Array, row: usize, out: &mut Vec<u8>) {
    const MEMORY: &str = "numbers can be written to memory";
    if column.is_null(row) {
        return out.extend(b"null");
    }
    match column.data_type() {
        DataType::Utf8 => text(column.as_string::<i32>().value(row), out),
        DataType::Boolean => out.extend(if column.as_boolean().value(row) { &b"true"[..] } else { b"false" }),
        DataType::Int32 => write!(out, "{}", column.as_primitive::<Int32Type>().value(row)).expect(MEMORY),
        DataType::Int64 => write!(out, "{}", column.as_primitive::<Int64Type>().value(row)).expect(MEMORY),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            write!(out, "{}", column.as_primitive::<TimestampMillisecondType>().value(row)).expect(MEMORY);
        }
        // The shortest text that reads back as the same number.
        DataType::Float32 => {
            serde_json::to_writer(out, &column.as_primitive::<Float32Type>().value(row)).expect(MEMORY);
        }
        DataType::Float64 => {
            serde_json::to_writer(out, &column.as_primitive::<Float64Type>().value(row)).expect(MEMORY);
        }
        DataType::List(_) => {
            let items = column.as_list::<i32>().value(row);
            out.push(b'[');
            for item in 0..items.len() {
                if item > 0 {
                    out.push(b',');
                }
                value(items.as_ref(), item, out);
            }
            out.push(b']');
        }
        DataType::Struct(fields) => {
            let whole: &StructArray = column.as_struct();
            let names = fields.iter().map(|field| field.name().as_str());
            object(names.zip(whole.columns().iter().map(|column| column.as_ref())), row, out);
        }
        other => unreachable!("no column of a sample is of type {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::list_of;
    use apache_avro::types::Value as Avro;
    use arrow::array::{
        ArrayRef, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, ListArray, StringArray,
        TimestampMillisecondArray,
    };
    use arrow::datatypes::Field;
    use std::sync::Arc;

    fn rows() -> RecordBatch {
        let items =
            ListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(1), None]), None, Some(vec![])]);
        let columns: Vec<(&str, ArrayRef, bool)> = vec![
            ("id", Arc::new(StringArray::from(vec!["a\"ü", "b", ""])), false),
            ("device", Arc::new(StringArray::from(vec![Some("ios"), None, Some("web")])), true),
            ("position", Arc::new(Int32Array::from(vec![-1, 0, i32::MAX])), false),
            ("spent", Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(64)])), true),
            ("price", Arc::new(Float64Array::from(vec![0.1, f64::NAN, -0.0])), false),
            ("score", Arc::new(Float32Array::from(vec![Some(0.1), None, Some(1e30)])), true),
            ("clicked", Arc::new(BooleanArray::from(vec![true, false, true])), false),
            ("at", Arc::new(TimestampMillisecondArray::from(vec![1, 2, 3]).with_timezone("UTC")), false),
            ("items", Arc::new(items), true),
        ];
        let field = |(name, column, null): &(&str, ArrayRef, bool)| match column.data_type() {
            DataType::List(_) => Field::new(*name, list_of(DataType::Int64), *null),
            other => Field::new(*name, other.clone(), *null),
        };
        let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
        RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, column, _)| column).collect()).unwrap()
    }

    #[test]
    fn a_row_in_json_is_one_object_that_every_reader_takes() {
        let rows = rows();
        let read = |row: usize| {
            let mut out = Vec::new();
            MessageFormat::json().write(&rows, row, &mut out);
            serde_json::from_slice::<serde_json::Value>(&out).unwrap()
        };
        assert_eq!(
            read(0),
            serde_json::json!({ "id": "a\"ü", "device": "ios", "position": -1, "spent": i64::MIN, "price": 0.1,
                "score": 0.1, "clicked": true, "at": 1, "items": [1, null] })
        );
        let second = read(1);
        assert_eq!((&second["device"], &second["price"], &second["items"]), (&().into(), &().into(), &().into()));
        assert_eq!(read(2)["items"], serde_json::json!([]));
    }

    #[test]
    fn a_row_in_avro_is_read_back_by_another_implementation_with_the_schema_that_is_told() {
        let rows = rows();
        let text = message_schema("ctr-v1", "samples.2", rows.schema_ref()).to_string();
        let schema = apache_avro::Schema::parse_str(&text).unwrap();
        assert_eq!(schema.name().unwrap().fullname(None), "conjoin.ctr_v1.samples_2");
        let read = |row: usize| {
            let mut out = Vec::new();
            MessageFormat::avro(None).write(&rows, row, &mut out);
            let mut rest = out.as_slice();
            let datum = apache_avro::reader::datum::GenericDatumReader::builder(&schema).build().unwrap();
            let value = datum.read_value(&mut rest).unwrap();
            assert!(rest.is_empty(), "nothing is left over");
            let Avro::Record(fields) = value else { panic!("{value:?} is no record") };
            fields
        };
        let field = |row: usize, name: &str| read(row).into_iter().find(|(found, _)| found == name).unwrap().1;
        let some = |value: Avro| Avro::Union(1, Box::new(value));
        assert_eq!(field(0, "id"), Avro::String("a\"ü".into()));
        assert_eq!(field(0, "device"), some(Avro::String("ios".into())));
        assert_eq!(field(1, "device"), Avro::Union(0, Box::new(Avro::Null)));
        assert_eq!(field(0, "position"), Avro::Int(-1));
        assert_eq!(field(0, "spent"), some(Avro::Long(i64::MIN)));
        assert_eq!(field(2, "spent"), some(Avro::Long(64)));
        assert_eq!(field(0, "price"), Avro::Double(0.1));
        assert_eq!(field(2, "score"), some(Avro::Float(1e30)));
        assert_eq!(field(0, "clicked"), Avro::Boolean(true));
        assert_eq!(field(2, "at"), Avro::TimestampMillis(3));
        let list = vec![some(Avro::Long(1)), Avro::Union(0, Box::new(Avro::Null))];
        assert_eq!(field(0, "items"), some(Avro::Array(list)));
        assert_eq!(field(2, "items"), some(Avro::Array(Vec::new())));
    }

    #[test]
    fn with_an_id_of_the_registry_a_message_is_in_the_confluent_wire_format() {
        let (rows, mut plain, mut framed) = (rows(), Vec::new(), Vec::new());
        MessageFormat::avro(None).write(&rows, 0, &mut plain);
        MessageFormat::avro(Some(258)).write(&rows, 0, &mut framed);
        assert_eq!(framed[..5], [0, 0, 0, 1, 2]);
        assert_eq!(framed[5..], plain);
    }
}
