//! What a training row looks like.

use crate::event::{DurationMs, Expression};
use arrow::datatypes::SchemaRef;

/// How closed impressions become rows.
///
/// The wide layout, over which `columns` and `negatives` are evaluated, is: all anchor columns, then per join its
/// columns, then per group its outputs, then those of `emission`, then the computed columns so far.
#[derive(Clone, Debug)]
pub struct SampleSpec {
    pub name: String,
    /// Features are those visible at `impression.ts - serving_lag`.
    pub serving_lag_ms: DurationMs,
    pub groups: Vec<SampleGroup>,
    /// Of samples whose rows leave before their impressions close.
    pub emission: Option<EmissionSpec>,
    pub columns: Vec<ComputedColumn>,
    /// Indices into the wide layout, in the order of `schema`.
    pub select: Vec<usize>,
    pub negatives: Option<NegativesSpec>,
    /// Rows say whether they were decided while a label stream was cut off: [`LABEL_STREAM_DOWN`]. How long after its
    /// impression a row is decided that does not leave early.
    pub tag_after_ms: Option<DurationMs>,
    /// The anchor's columns whose values, joined by `:`, name the impression of a row that is sent somewhere.
    pub event_id: Option<Vec<usize>>,
    /// The wide layout, and what is written.
    pub wide: SchemaRef,
    pub schema: SchemaRef,
}

/// A feature group stitched onto the sample.
#[derive(Clone, Debug)]
pub struct SampleGroup {
    /// Number of the group in `Plan::groups`.
    pub group: usize,
    /// The anchor stream's key set that holds the entity.
    pub key_set: usize,
}

/// Rows say which impression they are of, when and why they were emitted: [`EMISSION_COLUMNS`].
#[derive(Clone, Debug)]
pub struct EmissionSpec {
    /// The anchor's columns whose values, joined by `:`, name the impression.
    pub id: Vec<usize>,
}

/// Names of what rows that leave early have beside the others; `label_ts` alone may be null.
pub const EMISSION_COLUMNS: [&str; 6] = ["event_id", "impression_ts", "label_ts", "emit_ts", "elapsed_ms", "emit_kind"];

/// Name of the column that `guard: { then: tag }` adds behind the others.
pub const LABEL_STREAM_DOWN: &str = "label_stream_down";

#[derive(Clone, Debug)]
pub struct ComputedColumn {
    pub name: String,
    pub expression: Expression,
}

/// Keeps a share of the rows for which `filter` holds, by the hash of their id, and writes `sample_weight = 1 / keep`.
#[derive(Clone, Debug)]
pub struct NegativesSpec {
    pub filter: Expression,
    /// In (0, 1].
    pub keep: f64,
}
