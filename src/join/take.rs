//! Take: turns the labels of each impression into columns.

use crate::event::{ExactSum, list_of};
use crate::join::Take;
use crate::join::index::RowRef;
use crate::join::label::Labels;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, ListArray, new_null_array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::interleave;
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMillisecondType};
use std::collections::BTreeMap;
use std::sync::Arc;

/// `found` holds all impressions' labels one after another; impression `i` has those up to `ends[i]`.
pub(super) fn label_columns(labels: &Labels, found: &[RowRef], ends: &[u32]) -> Vec<ArrayRef> {
    let of = |row: usize| {
        let start = if row == 0 { 0 } else { ends[row - 1] as usize };
        &found[start..ends[row] as usize]
    };
    let rows = 0..ends.len();
    match labels.spec.take {
        Take::Any => vec![Arc::new(BooleanArray::from_iter(rows.map(|row| Some(!of(row).is_empty()))))],
        Take::Count => vec![Arc::new(Int64Array::from_iter_values(rows.map(|row| of(row).len() as i64)))],
        Take::First | Take::Last => {
            let picked: Vec<Option<RowRef>> = rows.map(|row| labels.pick(of(row))).collect();
            (0..labels.spec.select.len()).map(|column| gather(labels, column, &picked)).collect()
        }
        Take::Sum(column) => vec![sum(labels, selected(labels, column), rows.map(of))],
        Take::Min(column) => {
            let column = selected(labels, column);
            let picked: Vec<_> = rows.map(|row| extreme(labels, column, of(row), false)).collect();
            vec![gather(labels, column, &picked)]
        }
        Take::Max(column) => {
            let column = selected(labels, column);
            let picked: Vec<_> = rows.map(|row| extreme(labels, column, of(row), true)).collect();
            vec![gather(labels, column, &picked)]
        }
        Take::All(most) => {
            let mut picked: Vec<RowRef> = Vec::with_capacity(found.len());
            let mut lengths: Vec<usize> = Vec::with_capacity(ends.len());
            for row in rows {
                let start = picked.len();
                picked.extend(of(row));
                picked[start..].sort_by_key(|label| labels.order(*label));
                picked.truncate(start + most as usize);
                lengths.push(picked.len() - start);
            }
            let picked: Vec<Option<RowRef>> = picked.into_iter().map(Some).collect();
            (0..labels.spec.select.len()).map(|column| lists(gather(labels, column, &picked), &lengths)).collect()
        }
    }
}

/// Cuts a column into lists of these lengths; one of nothing is empty, not null.
fn lists(values: ArrayRef, lengths: &[usize]) -> ArrayRef {
    let DataType::List(item) = list_of(values.data_type().clone()) else {
        unreachable!("a list of anything is a list")
    };
    Arc::new(ListArray::new(item, OffsetBuffer::from_lengths(lengths.iter().copied()), values, None))
}

/// Whether two choices of one impression's labels say the same.
pub(super) fn same_columns(labels: &Labels, some: &[RowRef], others: &[RowRef]) -> bool {
    let columns = |rows: &[RowRef]| label_columns(labels, rows, &[rows.len() as u32]);
    columns(some) == columns(others)
}

fn selected(labels: &Labels, column: usize) -> usize {
    labels
        .spec
        .select
        .iter()
        .position(|other| *other == column)
        .expect("the plan selects the column that is aggregated")
}

fn column_type(labels: &Labels, column: usize) -> DataType {
    labels.schema.field(column).data_type().clone()
}

/// Picks one selected column of one label per impression; null where there is none.
fn gather(labels: &Labels, column: usize, picked: &[Option<RowRef>]) -> ArrayRef {
    let data_type = column_type(labels, column);
    if picked.iter().all(Option::is_none) {
        return new_null_array(&data_type, picked.len());
    }
    let mut parts: BTreeMap<(u32, usize), usize> = BTreeMap::new();
    let null = new_null_array(&data_type, 1);
    let mut arrays: Vec<&dyn Array> = vec![&null];
    let mut indices = Vec::with_capacity(picked.len());
    for row in picked {
        let Some(row) = row else {
            indices.push((0, 0));
            continue;
        };
        let bucket = labels.bucket(*row);
        let part = bucket.part_of(row.row());
        let number = *parts.entry((row.bucket(), part)).or_insert_with(|| {
            arrays.push(bucket.parts[part].columns.column(column));
            arrays.len() - 1
        });
        indices.push((number, (row.row() - bucket.parts[part].start) as usize));
    }
    interleave(&arrays, &indices).expect("all parts of a label stream have one schema")
}

/// A number of a label, if it has one.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Number {
    Int(i64),
    Float(f64),
}

fn number(labels: &Labels, column: usize, row: RowRef) -> Option<Number> {
    let bucket = labels.bucket(row);
    let part = &bucket.parts[bucket.part_of(row.row())];
    let (array, at) = (part.columns.column(column), (row.row() - part.start) as usize);
    if array.is_null(at) {
        return None;
    }
    Some(match array.data_type() {
        DataType::Int32 => Number::Int(array.as_primitive::<Int32Type>().value(at) as i64),
        DataType::Int64 => Number::Int(array.as_primitive::<Int64Type>().value(at)),
        DataType::Float32 => Number::Float(array.as_primitive::<Float32Type>().value(at) as f64),
        DataType::Float64 => Number::Float(array.as_primitive::<Float64Type>().value(at)),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            Number::Int(array.as_primitive::<TimestampMillisecondType>().value(at))
        }
        other => unreachable!("the config check refuses to aggregate labels of type {other}"),
    })
}

fn extreme(labels: &Labels, column: usize, rows: &[RowRef], largest: bool) -> Option<RowRef> {
    let better = |new: Number, old: Number| if largest { new > old } else { new < old };
    let mut best: Option<(Number, RowRef)> = None;
    for &row in rows {
        let Some(value) = number(labels, column, row) else { continue };
        let wins = match best {
            None => true,
            Some((old, old_row)) => better(value, old) || (value == old && labels.order(row) < labels.order(old_row)),
        };
        if wins {
            best = Some((value, row));
        }
    }
    best.map(|(_, row)| row)
}

/// Null for an impression without labels: no purchase is not a purchase of nothing.
fn sum<'a>(labels: &Labels, column: usize, rows: impl Iterator<Item = &'a [RowRef]>) -> ArrayRef {
    let float = matches!(column_type(labels, column), DataType::Float32 | DataType::Float64);
    let numbers = |of: &'a [RowRef]| of.iter().filter_map(|row| number(labels, column, *row)).collect::<Vec<_>>();
    if float {
        Arc::new(Float64Array::from_iter(rows.map(|of| {
            let mut total = ExactSum::default();
            let numbers = numbers(of);
            for value in &numbers {
                match value {
                    Number::Float(value) => total.add(*value),
                    Number::Int(value) => total.add(*value as f64),
                }
            }
            (!numbers.is_empty()).then(|| total.value())
        })))
    } else {
        Arc::new(Int64Array::from_iter(rows.map(|of| {
            let numbers = numbers(of);
            let total: i128 =
                numbers.iter().map(|value| if let Number::Int(value) = value { *value as i128 } else { 0 }).sum();
            (!numbers.is_empty()).then(|| total.clamp(i64::MIN as i128, i64::MAX as i128) as i64)
        })))
    }
}
