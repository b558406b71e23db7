//! Side: rows that are in no sample, as side outputs write them.
//!
//! One layout for the rows of all streams, so that one file or topic can hold them, and a stream that gets a column does
//! not change it: what tells a row is in columns, the row itself is JSON.
//!
//!   stream │ join │ reason │ input │ partition │ position │ event_time │ key │ record
//!   clicks │ click │ expired_unmatched │ events │ 3 │ 4711 │ 2026-01-31T07:05:00Z │ r1:a │ {"event_id":"c9",…}

use super::write_json_row;
use crate::event::{ColumnType, PLACE_COLUMNS, SideRows};
use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, RecordBatch, StringArray, TimestampMillisecondArray, new_null_array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt16Type, UInt32Type};
use std::sync::Arc;

/// A stream whose rows may come.
#[derive(Clone, Debug)]
pub struct SideStream {
    pub name: String,
    /// Of the join, where its rows are labels.
    pub join: Option<String>,
    /// The declared columns, and those of the key among them.
    pub columns: Vec<String>,
    pub key: Vec<usize>,
}

/// The columns of a side output: a stable part of the output format.
pub fn side_schema() -> SchemaRef {
    let text = |name: &str, nullable: bool| Field::new(name, DataType::Utf8, nullable);
    Arc::new(Schema::new(vec![
        text("stream", false),
        text("join", true),
        text("reason", false),
        text("input", false),
        Field::new("partition", DataType::Int32, true),
        Field::new("position", DataType::Int64, true),
        Field::new("event_time", ColumnType::Timestamp.arrow(), false),
        text("key", false),
        text("record", false),
    ]))
}

/// The rows in that layout, and their keys.
pub fn side_batch(stream: &SideStream, inputs: &[String], side: &SideRows) -> (RecordBatch, StringArray) {
    let rows = side.rows.num_rows();
    let column = |name: &str| side.rows.column_by_name(name).cloned();
    // Of labels that came before anybody asked nothing is known but what the sample takes of them.
    let place = |at: usize, of: DataType| column(PLACE_COLUMNS[at]).unwrap_or_else(|| new_null_array(&of, rows));
    let (input, partition) = (place(0, DataType::UInt16), place(1, DataType::UInt32));
    let input_name = |row: usize| match input.is_valid(row) {
        true => inputs.get(input.as_primitive::<UInt16Type>().value(row) as usize).map_or("", String::as_str),
        false => "",
    };
    let partition = partition.as_primitive::<UInt32Type>();
    let partition: Int32Array = partition.iter().map(|number| number.map(|number| number as i32)).collect();
    let position = place(2, DataType::Int64).as_primitive::<Int64Type>().clone();
    let key = keys(stream, &column, rows);
    let declared = stream.columns.iter().filter_map(|name| side.rows.schema_ref().index_of(name).ok());
    let declared = side.rows.project(&declared.collect::<Vec<_>>()).expect("they were found by their names");
    let record = |row: usize| {
        let mut text = Vec::new();
        write_json_row(&declared, row, &mut text);
        String::from_utf8(text).expect("JSON is text")
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values((0..rows).map(|_| &stream.name))),
        Arc::new(StringArray::from_iter((0..rows).map(|_| stream.join.as_ref()))),
        Arc::new(StringArray::from_iter_values(side.reasons.iter().map(|reason| reason.name()))),
        Arc::new(StringArray::from_iter_values((0..rows).map(input_name))),
        Arc::new(partition),
        Arc::new(position),
        Arc::new(TimestampMillisecondArray::from(side.event_time.clone()).with_timezone("UTC")),
        Arc::new(key.clone()),
        Arc::new(StringArray::from_iter_values((0..rows).map(record))),
    ];
    (RecordBatch::try_new(side_schema(), columns).expect("the columns are those of the schema above"), key)
}

/// The values of the key's columns, joined by `:`.
fn keys(stream: &SideStream, column: &dyn Fn(&str) -> Option<ArrayRef>, rows: usize) -> StringArray {
    let text = |name: &String| column(name).and_then(|column| cast(&column, &DataType::Utf8).ok());
    let parts: Vec<Option<ArrayRef>> = stream.key.iter().map(|at| text(&stream.columns[*at])).collect();
    let value = |row: usize, part: &Option<ArrayRef>| match part {
        Some(part) if part.is_valid(row) => part.as_string::<i32>().value(row).to_owned(),
        _ => String::new(),
    };
    let key = |row: usize| parts.iter().map(|part| value(row, part)).collect::<Vec<_>>().join(":");
    StringArray::from_iter_values((0..rows).map(key))
}
