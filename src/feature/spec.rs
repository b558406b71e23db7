//! What is aggregated, per entity and window.

use crate::event::{ColumnType, DurationMs, Expression, StreamId, list_of};
use crate::feature::value::Scalar;
use arrow::datatypes::{DataType, SchemaRef};

/// Aggregates of one entity.
#[derive(Clone, Debug)]
pub struct GroupSpec {
    pub name: String,
    /// Names and types of the entity's columns.
    pub entity: Vec<(String, ColumnType)>,
    /// Resolution of the newest end of every window: events with `ts < floor(t, head)` are visible at `t`.
    pub head_ms: DurationMs,
    /// In the order of the pipeline file.
    pub aggregates: Vec<AggregateSpec>,
    /// The streams that feed the group: one entry per distinct (stream, entity columns).
    pub uses: Vec<FeatureUse>,
    /// Computed from the aggregates' outputs and earlier derived columns, in that layout.
    pub derived: Vec<DerivedSpec>,
    /// The outputs: every aggregate's windows in order, then the derived columns.
    pub outputs: SchemaRef,
}

impl GroupSpec {
    pub fn longest_window_ms(&self) -> DurationMs {
        self.aggregates
            .iter()
            .flat_map(|aggregate| &aggregate.windows)
            .map(|window| window.window_ms)
            .max()
            .unwrap_or(0)
    }
}

#[derive(Clone, Debug)]
pub struct AggregateSpec {
    pub name: String,
    pub kind: AggregateKind,
    /// Type of the aggregated expression; `None` for `count: "*"`.
    pub input: Option<DataType>,
    pub windows: Vec<WindowSpec>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AggregateKind {
    /// Rows whose input is not null (all, for `"*"`). Empty: 0.
    Count,
    /// int64 for integers, float64 for floats. Empty: 0.
    Sum,
    /// float64. Empty: null.
    Mean,
    Min,
    Max,
    /// The value of the last event by (ts, id, content hash). Empty: null.
    Last,
    /// The last `k` values, newest first. Empty: an empty list.
    LastK {
        k: usize,
    },
}

impl AggregateKind {
    /// The type of the output column for an input of this type (`None` for `"*"`); `None` for what it cannot take.
    pub fn output_type(self, input: Option<&DataType>) -> Option<DataType> {
        let Some(input) = input else { return (self == AggregateKind::Count).then_some(DataType::Int64) };
        let scalar = Scalar::of(input);
        match self {
            AggregateKind::Count => Some(DataType::Int64),
            AggregateKind::Sum if scalar?.is_integer() => Some(DataType::Int64),
            AggregateKind::Sum | AggregateKind::Mean if scalar?.is_integer() || scalar?.is_float() => {
                Some(DataType::Float64)
            }
            AggregateKind::Sum | AggregateKind::Mean => None,
            AggregateKind::Min | AggregateKind::Max if scalar? == Scalar::Bool => None,
            AggregateKind::Min | AggregateKind::Max | AggregateKind::Last => scalar.map(|_| input.clone()),
            AggregateKind::LastK { .. } => scalar.map(|_| list_of(input.clone())),
        }
    }
}

#[derive(Clone, Debug)]
pub struct WindowSpec {
    /// The output column, such as `user_clicks_10m`.
    pub output: String,
    pub window_ms: DurationMs,
    /// Resolution of the oldest end: events with `ts >= floor(t - window, tail)` are in the window. A multiple of head.
    pub tail_ms: DurationMs,
}

/// One stream that feeds a group.
#[derive(Clone, Debug)]
pub struct FeatureUse {
    pub stream: StreamId,
    /// The stream's key set (see `DecodeSpec::key_sets`) that is the entity.
    pub key_set: usize,
    /// The columns behind it, in the order of `GroupSpec::entity`.
    pub columns: Vec<usize>,
    /// Which aggregates it feeds: (index in `GroupSpec::aggregates`, index in `DecodeSpec::feature_inputs`).
    pub aggregates: Vec<(usize, usize)>,
}

#[derive(Clone, Debug)]
pub struct DerivedSpec {
    pub name: String,
    pub expression: Expression,
}
