//! Side: rows that are in no sample, told with the reason, where somebody asked for them.
//!
//! Holds: a row is told when its outcome is counted, and as often: once.
//! Does not: keep rows: whoever drives the state takes them after each step.

use crate::event::{DecodedBatch, EventTime, PLACE_COLUMNS, SideKind, SideReason, SideRows};
use crate::join::LabelSpec;
use crate::join::label::LabelBucket;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, UInt16Array, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::sync::Arc;

/// Rows of one batch that are to be told, by kind.
pub(super) struct Told<'s> {
    wanted: &'s [SideKind],
    rows: Vec<(SideKind, u32, SideReason)>,
}

impl<'s> Told<'s> {
    pub fn new(wanted: &'s [SideKind]) -> Told<'s> {
        Told { wanted, rows: Vec::new() }
    }

    pub fn add(&mut self, kind: SideKind, row: u32, reason: SideReason) {
        if self.wanted.contains(&kind) {
            self.rows.push((kind, row, reason));
        }
    }

    /// One lot for each kind.
    pub fn finish(self, label: Option<usize>, batch: &DecodedBatch, out: &mut Vec<SideRows>) {
        for kind in SideKind::ALL {
            let (rows, reasons): (Vec<u32>, Vec<SideReason>) =
                self.rows.iter().filter(|told| told.0 == kind).map(|told| (told.1, told.2)).unzip();
            if rows.is_empty() {
                continue;
            }
            let event_time = rows.iter().map(|row| batch.event_time[*row as usize]).collect();
            let with_places = with_places(batch, &batch.rows);
            let rows = take_record_batch(&with_places, &UInt32Array::from(rows)).expect("row numbers are in range");
            out.push(SideRows { kind, label, reasons, event_time, rows });
        }
    }
}

/// Some columns of a batch, and where its rows were.
pub(super) fn with_places(batch: &DecodedBatch, columns: &RecordBatch) -> RecordBatch {
    let (rows, partition) = (batch.num_rows(), batch.delta.partition);
    let positions = match &batch.positions {
        Some(positions) => Int64Array::from(positions.clone()),
        None => Int64Array::new_null(rows),
    };
    let places: [ArrayRef; 3] = [
        Arc::new(UInt16Array::from_value(partition.input, rows)),
        Arc::new(UInt32Array::from_value(partition.partition, rows)),
        Arc::new(positions),
    ];
    let schema = with_place_fields(columns.schema_ref().fields().iter().map(|field| field.as_ref().clone()));
    let columns = columns.columns().iter().cloned().chain(places).collect();
    RecordBatch::try_new(schema, columns).expect("there is a place for every row")
}

fn with_place_fields(fields: impl Iterator<Item = Field>) -> SchemaRef {
    let types = [DataType::UInt16, DataType::UInt32, DataType::Int64];
    let places = PLACE_COLUMNS.into_iter().zip(types).map(|(name, data_type)| Field::new(name, data_type, true));
    Arc::new(Schema::new(fields.chain(places).collect::<Vec<_>>()))
}

/// Which columns of its stream a label keeps while it waits, and their schema: those that the sample takes come first.
pub(super) fn kept_columns(spec: &LabelSpec, stream: &SchemaRef, whole: bool) -> (Vec<usize>, SchemaRef) {
    let field = |column: &usize| stream.field(*column).clone();
    let mut kept = spec.select.clone();
    if !whole {
        return (kept, Arc::new(Schema::new(spec.select.iter().map(field).collect::<Vec<_>>())));
    }
    let rest: Vec<usize> = (0..stream.fields().len()).filter(|column| !spec.select.contains(column)).collect();
    // Labels that came before somebody asked for the rest do not have it.
    let fields = spec.select.iter().map(field).chain(rest.iter().map(|column| field(column).with_nullable(true)));
    let schema = with_place_fields(fields);
    kept.extend(rest);
    (kept, schema)
}

/// Labels of a bucket that leave unmatched.
pub(super) fn expired(
    kind: SideKind,
    label: usize,
    schema: &SchemaRef,
    bucket: &LabelBucket,
    told: &[(u32, SideReason)],
) -> Option<SideRows> {
    let (rows, reasons): (Vec<u32>, Vec<SideReason>) = told.iter().copied().unzip();
    if rows.is_empty() {
        return None;
    }
    let event_time: Vec<EventTime> = rows.iter().map(|row| bucket.event_time[*row as usize]).collect();
    let all = concat_batches(schema, bucket.parts.iter().map(|part| &part.columns)).expect("one stream, one schema");
    let rows = take_record_batch(&all, &UInt32Array::from(rows)).expect("row numbers are in range");
    Some(SideRows { kind, label: Some(label), reasons, event_time, rows })
}
