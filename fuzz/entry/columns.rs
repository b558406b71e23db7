//! Columns: edits a record batch so that it stays a record batch: values, nulls, rows, names, types.

use super::script::Script;
use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeBinaryArray, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
    UInt8Array, UInt32Array, UInt64Array, new_null_array,
};
use arrow::compute::{cast, concat_batches, take, take_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt8Type, UInt64Type};
use std::sync::Arc;

pub fn edit_columns(mut rows: RecordBatch, script: &mut Script<'_>) -> RecordBatch {
    let mut edits = 0;
    while !script.is_over() && edits < 16 {
        edits += 1;
        rows = edit(&rows, script);
    }
    rows
}

fn edit(rows: &RecordBatch, script: &mut Script<'_>) -> RecordBatch {
    let how = script.byte() % 12;
    let mut fields: Vec<Arc<Field>> = rows.schema().fields().iter().cloned().collect();
    let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
    if columns.is_empty() {
        return rows.clone();
    }
    let (place, row) = (script.below(columns.len()), script.below(rows.num_rows()));
    match how {
        0..=3 if row < rows.num_rows() => columns[place] = with_value(&columns[place], row, script),
        4 if row < rows.num_rows() => columns[place] = without_value(&columns[place], row),
        5 => drop((fields.remove(place), columns.remove(place))),
        6 => {
            let other = script.below(fields.len());
            let (name, other_name) = (fields[place].name().clone(), fields[other].name().clone());
            fields[place] = Arc::new(fields[place].as_ref().clone().with_name(other_name));
            fields[other] = Arc::new(fields[other].as_ref().clone().with_name(name));
        }
        7 => return rows.slice(row, script.below(rows.num_rows() - row + 1).min(rows.num_rows() - row)),
        8 => return concat_batches(&rows.schema(), [rows, rows]).expect("they have one schema"),
        9 => {
            let order: Vec<u32> = (0..rows.num_rows()).map(|_| script.below(rows.num_rows()) as u32).collect();
            return take_record_batch(rows, &UInt32Array::from(order)).expect("the rows are there");
        }
        10 => {
            let types = [DataType::Utf8, DataType::Int32, DataType::Float64, DataType::Boolean, DataType::UInt64];
            let to = &types[script.below(types.len())];
            columns[place] = cast(&columns[place], to).unwrap_or_else(|_| new_null_array(to, rows.num_rows()));
        }
        _ => {
            let name = format!("{}/{}", script.byte() % 4, fields[place].name());
            fields[place] = Arc::new(fields[place].as_ref().clone().with_name(name));
        }
    }
    let fields: Vec<Field> = fields
        .iter()
        .zip(&columns)
        .map(|(field, column)| Field::new(field.name(), column.data_type().clone(), true))
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options).expect("lengths agree")
}

fn with_value(column: &ArrayRef, row: usize, script: &mut Script<'_>) -> ArrayRef {
    let number = script.integer();
    let put = |at: usize, old: i128| if at == row { number } else { old };
    match column.data_type() {
        DataType::Int64 => {
            let values = column.as_primitive::<Int64Type>().values().iter().enumerate();
            Arc::new(values.map(|(at, old)| put(at, *old as i128) as i64).collect::<Int64Array>())
        }
        DataType::UInt64 => {
            let values = column.as_primitive::<UInt64Type>().values().iter().enumerate();
            Arc::new(values.map(|(at, old)| put(at, *old as i128) as u64).collect::<UInt64Array>())
        }
        DataType::UInt8 => {
            let values = column.as_primitive::<UInt8Type>().values().iter().enumerate();
            Arc::new(values.map(|(at, old)| put(at, *old as i128) as u8).collect::<UInt8Array>())
        }
        DataType::FixedSizeBinary(16) => {
            let values = column.as_fixed_size_binary();
            let other = script.below(values.len());
            let bytes: Vec<u8> = (0..values.len())
                .flat_map(|at| match (at == row, number % 2 == 0) {
                    (true, true) => number.to_le_bytes().to_vec(),
                    (true, false) => values.value(other).to_vec(),
                    (false, _) => values.value(at).to_vec(),
                })
                .collect();
            Arc::new(FixedSizeBinaryArray::new(16, bytes.into(), None))
        }
        DataType::Utf8 => {
            let values = column.as_string::<i32>().iter().enumerate();
            let text = "é".repeat(number.unsigned_abs() as usize % 300);
            Arc::new(values.map(|(at, old)| if at == row { Some(text.as_str()) } else { old }).collect::<StringArray>())
        }
        _ => {
            let other = script.below(column.len()) as u32;
            let order = (0..column.len() as u32).map(|at| if at as usize == row { other } else { at });
            take(column, &UInt32Array::from_iter_values(order), None).expect("the rows are there")
        }
    }
}

fn without_value(column: &ArrayRef, row: usize) -> ArrayRef {
    let order = (0..column.len() as u32).map(|at| (at as usize != row).then_some(at));
    take(column, &order.collect::<UInt32Array>(), None).expect("the rows are there")
}
