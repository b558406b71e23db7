//! Evaluates expressions over decoded rows so that one failing row does not take the others with it.

use crate::decode::FeatureInputSpec;
use crate::event::{Expression, FeatureInput};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array, new_empty_array, new_null_array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{concat, filter_record_batch, prep_null_mask_filter, take};

/// A row for which an expression has no value, and why.
pub(super) type Failure = (usize, String);

/// The value of every row; rows for which there is none get null and an entry in `failures`.
pub(super) fn evaluate(expression: &Expression, batch: &RecordBatch, failures: &mut Vec<Failure>) -> ArrayRef {
    if let Ok(values) = expression.evaluate(batch) {
        return values;
    }
    let mut parts = Vec::new();
    halve(expression, batch, 0, &mut parts, failures);
    let parts: Vec<&dyn Array> = parts.iter().map(|part| part.as_ref()).collect();
    if parts.is_empty() {
        return new_empty_array(&expression.data_type);
    }
    concat(&parts).expect("all parts are of the expression's type")
}

fn halve(
    expression: &Expression,
    batch: &RecordBatch,
    offset: usize,
    parts: &mut Vec<ArrayRef>,
    failures: &mut Vec<Failure>,
) {
    let rows = batch.num_rows();
    match expression.evaluate(batch) {
        Ok(values) => parts.push(values),
        Err(_) if rows > 1 => {
            let middle = rows / 2;
            halve(expression, &batch.slice(0, middle), offset, parts, failures);
            halve(expression, &batch.slice(middle, rows - middle), offset + middle, parts, failures);
        }
        Err(error) => {
            if rows == 1 {
                failures.push((offset, error.to_string()));
            }
            parts.push(new_null_array(&expression.data_type, rows));
        }
    }
}

/// Which rows a predicate holds for; null counts as no.
pub(super) fn matches(predicate: &Expression, batch: &RecordBatch, failures: &mut Vec<Failure>) -> BooleanArray {
    let values = evaluate(predicate, batch, failures);
    let mask = values.as_boolean();
    if mask.null_count() > 0 { prep_null_mask_filter(mask) } else { mask.clone() }
}

/// What the features read, with work that several of them share done once.
pub(super) struct FeatureInputs {
    /// Distinct pairs of filter and entity, and distinct values.
    masks: Vec<FeatureInputSpec>,
    values: Vec<Expression>,
    /// Per feature input: its mask and its value.
    uses: Vec<(usize, Option<usize>)>,
}

impl FeatureInputs {
    pub fn new(specs: &[FeatureInputSpec]) -> Self {
        let sql = |expression: &Option<Expression>| expression.as_ref().map(|expression| expression.sql.clone());
        let mut inputs = FeatureInputs { masks: Vec::new(), values: Vec::new(), uses: Vec::new() };
        for spec in specs {
            let same = |mask: &FeatureInputSpec| mask.entity == spec.entity && sql(&mask.filter) == sql(&spec.filter);
            let mask = inputs.masks.iter().position(same).unwrap_or_else(|| {
                inputs.masks.push(FeatureInputSpec { input: None, ..spec.clone() });
                inputs.masks.len() - 1
            });
            let value = spec.input.as_ref().map(|input| {
                let same = |value: &Expression| value.sql == input.sql && value.columns == input.columns;
                inputs.values.iter().position(same).unwrap_or_else(|| {
                    inputs.values.push(input.clone());
                    inputs.values.len() - 1
                })
            });
            inputs.uses.push((mask, value));
        }
        inputs
    }

    /// Evaluates every feature input; rows without a value that a feature needs are in `failures`.
    pub fn evaluate(&self, rows: &RecordBatch, failures: &mut Vec<Failure>) -> Vec<FeatureInput> {
        let masks: Vec<_> = self.masks.iter().map(|mask| self.mask(mask, rows, failures)).collect();
        // a value that fails may fail in rows that its mask leaves out: then it is evaluated per use
        let values: Vec<_> = self.values.iter().map(|value| value.evaluate(rows).ok()).collect();
        let input = |&(mask, value): &(usize, Option<usize>)| {
            let mask: Option<BooleanArray> = masks[mask].clone();
            let values = value.map(|value| match &values[value] {
                Some(values) => values.clone(),
                None => evaluate_where(&self.values[value], mask.as_ref(), rows, failures),
            });
            FeatureInput { mask, values }
        };
        self.uses.iter().map(input).collect()
    }

    fn mask(&self, spec: &FeatureInputSpec, rows: &RecordBatch, failures: &mut Vec<Failure>) -> Option<BooleanArray> {
        let mut mask: Option<BooleanBuffer> =
            spec.filter.as_ref().map(|filter| matches(filter, rows, failures).values().clone());
        for &column in &spec.entity {
            if let Some(nulls) = rows.column(column).nulls().filter(|nulls| nulls.null_count() > 0) {
                mask = Some(match mask {
                    Some(mask) => &mask & nulls.inner(),
                    None => nulls.inner().clone(),
                });
            }
        }
        mask.filter(|mask| mask.count_set_bits() < rows.num_rows()).map(|mask| BooleanArray::new(mask, None))
    }
}

/// The values of the rows in `mask`, null elsewhere.
fn evaluate_where(
    expression: &Expression,
    mask: Option<&BooleanArray>,
    rows: &RecordBatch,
    failures: &mut Vec<Failure>,
) -> ArrayRef {
    let Some(mask) = mask else {
        return evaluate(expression, rows, failures);
    };
    let chosen: Vec<usize> = mask.values().set_indices().collect();
    let batch = filter_record_batch(rows, mask).expect("the mask is as long as the batch");
    let mut failed = Vec::new();
    let values = evaluate(expression, &batch, &mut failed);
    failures.extend(failed.into_iter().map(|(row, message)| (chosen[row], message)));
    let mut places: Vec<Option<u32>> = vec![None; rows.num_rows()];
    for (place, &row) in (0..).zip(&chosen) {
        places[row] = Some(place);
    }
    take(&values, &UInt32Array::from(places), None).expect("every place is in the values")
}
