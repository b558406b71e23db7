//! Expression: a typed scalar expression over the columns of a batch, compiled once by `config`.
//!
//! The pure layers see this trait alone; the SQL engine behind it stays in `config::sql`.

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::DataType;
use std::fmt;
use std::sync::Arc;

/// Why an expression could not be computed over a batch, such as an integer overflow. The whole batch fails; callers
/// that must not lose the other rows evaluate row by row then.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{sql}: {message}")]
pub struct ExpressionError {
    pub sql: String,
    pub message: String,
}

/// A deterministic scalar expression. Columns are addressed by index, so the batch must have the layout that the
/// expression was compiled for.
pub trait Evaluate: Send + Sync {
    /// Computes the expression for every row: an array as long as the batch, of [`Expression::data_type`].
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, ExpressionError>;
}

/// A compiled expression with what the planner knows about it.
#[derive(Clone)]
pub struct Expression {
    /// As the user wrote it.
    pub sql: String,
    pub data_type: DataType,
    pub nullable: bool,
    /// Indices of the columns it reads, ascending, each once.
    pub columns: Vec<usize>,
    pub evaluate: Arc<dyn Evaluate>,
}

impl Expression {
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, ExpressionError> {
        self.evaluate.evaluate(batch)
    }

    /// Evaluates a predicate; null counts as false, as in SQL's WHERE.
    pub fn matches(&self, batch: &RecordBatch) -> Result<BooleanArray, ExpressionError> {
        let array = self.evaluate(batch)?;
        let mask = arrow::array::AsArray::as_boolean(&array);
        Ok(match mask.nulls() {
            Some(_) => arrow::compute::prep_null_mask_filter(mask),
            None => mask.clone(),
        })
    }

    /// The value of every row, null where it cannot be computed (a division by zero, an overflow), and how many those
    /// are: one bad row must not take the others with it.
    pub fn evaluate_or_null(&self, batch: &RecordBatch) -> (ArrayRef, u64) {
        if let Ok(array) = self.evaluate(batch) {
            return (array, 0);
        }
        let mut failed = 0;
        let null = new_null_array(&self.data_type, 1);
        let rows: Vec<ArrayRef> = (0..batch.num_rows())
            .map(|row| {
                self.evaluate(&batch.slice(row, 1)).unwrap_or_else(|_| {
                    failed += 1;
                    null.clone()
                })
            })
            .collect();
        let rows: Vec<&dyn Array> = rows.iter().map(AsRef::as_ref).collect();
        (concat(&rows).expect("one expression gives one type"), failed)
    }

    /// The same where a failing row must not take the others with it: it counts as false.
    pub fn matches_or_false(&self, batch: &RecordBatch) -> BooleanArray {
        self.matches(batch).unwrap_or_else(|_| {
            let row = |row| self.matches(&batch.slice(row, 1)).is_ok_and(|mask| mask.value(0));
            (0..batch.num_rows()).map(|at| Some(row(at))).collect()
        })
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({} -> {})", self.sql, self.data_type)
    }
}

/// Reads one column as it is: the expression that needs no SQL engine.
pub struct ColumnRef(pub usize);

impl Evaluate for ColumnRef {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, ExpressionError> {
        Ok(batch.column(self.0).clone())
    }
}
