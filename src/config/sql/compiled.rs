//! Compiled: a physical expression behind the trait that the pure layers see.

use crate::event::{Evaluate, ExpressionError};
use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::DataType;
use datafusion_physical_expr::PhysicalExpr;
use std::sync::Arc;

pub struct Compiled {
    pub sql: String,
    pub physical: Arc<dyn PhysicalExpr>,
    pub data_type: DataType,
}

impl Evaluate for Compiled {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, ExpressionError> {
        let failed = |message: String| ExpressionError { sql: self.sql.clone(), message };
        let array = self
            .physical
            .evaluate(batch)
            .and_then(|value| value.into_array(batch.num_rows()))
            .map_err(|error| failed(super::error::first_line(&error)))?;
        if array.data_type() == &self.data_type {
            return Ok(array);
        }
        // Lists may differ in the name of their item field alone.
        arrow::compute::cast(&array, &self.data_type).map_err(|error| failed(error.to_string()))
    }
}
