//! Enrich: what a stream's rows get from dimensions, as those who decode ask for it.

use crate::event::StreamId;
use arrow::array::{ArrayRef, RecordBatch};

/// Looks columns up for rows.
pub trait Enrich {
    /// The columns that a stream has beyond those of its records, in its order, one value per row of `rows`, which holds
    /// the others. Rows that are not `wanted` get nulls.
    fn enrich(&self, stream: StreamId, rows: &RecordBatch, wanted: &[bool]) -> Result<Vec<ArrayRef>, EnrichError>;
}

/// Why rows were not enriched. A key that a dimension does not have is no such reason.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EnrichError {
    /// A stop was requested while a dimension was away.
    #[error("stopped while a dimension was away; what was not committed is read again at the next start")]
    Stopped,
    #[error("{0}")]
    Failed(String),
}
