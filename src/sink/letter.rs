//! Letter: dead letters as they are read back.
//!
//! Does not: judge or group them.

use super::SinkError;
use super::reading::read_stored;
use crate::env::Store;
use crate::event::EventTime;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimestampMillisecondType};

/// One row of a dead-letter file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    pub stream: String,
    pub input: String,
    pub partition: u32,
    pub position: i64,
    /// The element of an exploded array, when only that element is bad.
    pub item: Option<u32>,
    pub reason: String,
    pub message: String,
    pub raw: Vec<u8>,
    pub rejected_at: EventTime,
}

/// Shows the letters of a file in its order. A file of another layout is damaged.
pub fn read_letters(store: &dyn Store, path: &str, see: &mut dyn FnMut(Letter)) -> Result<(), SinkError> {
    let mut broken = None;
    read_stored(store, path, &mut |rows| {
        if broken.is_none() {
            broken = show(rows, see).err();
        }
    })?;
    match broken {
        None => Ok(()),
        Some(found) => Err(SinkError::Damaged { path: store.describe(path), found }),
    }
}

fn show(rows: &RecordBatch, see: &mut dyn FnMut(Letter)) -> Result<(), String> {
    let column = |name: &str, wanted: DataType| {
        let column = rows.column_by_name(name).ok_or_else(|| format!("it has no column {name}"))?;
        let found = column.data_type();
        let fits = *found == wanted || (matches!(wanted, DataType::Timestamp(..)) && found.is_temporal());
        if fits { Ok(column) } else { Err(format!("its column {name} is of type {found}")) }
    };
    let text = |name: &str| column(name, DataType::Utf8).map(|column| column.as_string::<i32>());
    let time_type = crate::event::ColumnType::Timestamp.arrow();
    let (stream, input) = (text("stream")?, text("input")?);
    let (reason, message) = (text("reason")?, text("message")?);
    let partition = column("partition", DataType::Int32)?.as_primitive::<Int32Type>();
    let position = column("position", DataType::Int64)?.as_primitive::<Int64Type>();
    let item = column("item", DataType::Int32)?.as_primitive::<Int32Type>();
    let raw = column("raw", DataType::Binary)?.as_binary::<i32>();
    let times = column("rejected_at", time_type)?.as_primitive_opt::<TimestampMillisecondType>();
    let times = times.ok_or("its column rejected_at is not in milliseconds")?;
    for row in 0..rows.num_rows() {
        see(Letter {
            stream: stream.value(row).into(),
            input: input.value(row).into(),
            partition: partition.value(row) as u32,
            position: position.value(row),
            item: item.is_valid(row).then(|| item.value(row) as u32),
            reason: reason.value(row).into(),
            message: message.value(row).into(),
            raw: raw.value(row).to_vec(),
            rejected_at: times.value(row),
        });
    }
    Ok(())
}
