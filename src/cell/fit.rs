//! Fit: whether a block that was read back is one that this cell can have written.
//!
//! In: a block behind a sum that is right. Out: nothing, or why it cannot be taken.
//! Holds: what passes names only what is there, and its columns are those of its stream or group.
//! Does not: look at rows; the states do when they take them.

use crate::cell::{CellSpec, RestoredBlock, SampleCell};
use crate::event::Kept;
use crate::join::Segment;
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field};

pub(super) fn check(spec: &CellSpec, block: &RestoredBlock) -> Result<(), String> {
    let sample = |number: usize| spec.samples.get(number).ok_or_else(|| format!("there is no sample {number}"));
    match block {
        RestoredBlock::Impressions { sample: number, segment } => impressions(sample(*number)?, segment),
        RestoredBlock::ClosedIds { sample: number, .. } => sample(*number).map(drop),
        RestoredBlock::Labels { sample: number, label, .. }
        | RestoredBlock::LabelStates { sample: number, label, .. } => match sample(*number)?.join.labels.get(*label) {
            Some(_) => Ok(()),
            None => Err(format!("sample {number} has no join {label}")),
        },
        RestoredBlock::Features { group, .. } if *group < spec.groups.len() => Ok(()),
        RestoredBlock::Features { group, .. } => Err(format!("there is no feature group {group}")),
    }
}

fn impressions(sample: &SampleCell, segment: &Segment) -> Result<(), String> {
    let keys = segment.keys.num_rows();
    if let Some(rows) = segment.payload.in_memory() {
        let columns = sample.anchor_schema.fields().iter().map(|field| (field.name().clone(), field.data_type()));
        same_columns("rows", rows, columns.collect())?;
        same_length("rows", rows, keys)?;
    }
    // Its columns are found by their names: those of a group that came or went are null.
    if let Some(features) = segment.features.as_ref().and_then(Kept::in_memory) {
        same_length("features", features, keys)?;
    }
    Ok(())
}

fn same_length(what: &str, batch: &RecordBatch, keys: usize) -> Result<(), String> {
    let rows = batch.num_rows();
    if rows == keys { Ok(()) } else { Err(format!("its {what} are {rows} for {keys} keys")) }
}

fn same_columns(what: &str, batch: &RecordBatch, expected: Vec<(String, &DataType)>) -> Result<(), String> {
    let fields = batch.schema_ref().fields();
    let fits = |(field, (name, data_type)): (&std::sync::Arc<Field>, &(String, &DataType))| {
        field.name() == name && field.data_type() == *data_type
    };
    if fields.len() == expected.len() && fields.iter().zip(&expected).all(fits) {
        return Ok(());
    }
    let found: Vec<String> = fields.iter().map(|field| format!("{}: {}", field.name(), field.data_type())).collect();
    Err(format!("its {what} have columns that this pipeline file does not make: {}", found.join(", ")))
}
