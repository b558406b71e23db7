//! What a lane must know: the plan in the words of the pure layers.

use crate::event::{DurationMs, StreamId};
use crate::feature::GroupSpec;
use crate::join::{AnchorKeys, JoinSpec, LabelKeys};
use arrow::datatypes::SchemaRef;
use std::ops::Range;
use std::sync::Arc;

/// All joins and feature groups of a pipeline.
#[derive(Clone, Debug)]
pub struct CellSpec {
    pub lanes: usize,
    pub samples: Vec<SampleCell>,
    pub groups: Vec<Arc<GroupSpec>>,
    /// Per stream, the key set that is its id.
    pub stream_ids: Vec<usize>,
    /// What each stream feeds, by stream.
    pub uses: Vec<Vec<StreamUse>>,
}

#[derive(Clone, Debug)]
pub struct SampleCell {
    pub join: Arc<JoinSpec>,
    pub anchor_keys: AnchorKeys,
    /// The declared columns of the anchor stream.
    pub anchor_schema: SchemaRef,
    /// Schema and keys of each label stream, in the order of `join.labels`.
    pub label_streams: Vec<(SchemaRef, LabelKeys)>,
    pub serving_lag_ms: DurationMs,
    /// Numbers of the feature groups stitched onto the sample.
    pub groups: Vec<usize>,
}

/// One thing that a row of a stream does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamUse {
    /// It is an impression of a sample; rows go to the lane of key set `route`.
    Anchor { sample: usize, route: usize },
    /// It is a label of a sample.
    Label { sample: usize, label: usize, route: usize },
    /// It feeds a feature group; rows go to the lane that owns the entity in key set `entity`.
    Feature { group: usize, use_number: usize, entity: usize },
}

impl CellSpec {
    pub fn key_groups(&self, lane: usize) -> Range<u16> {
        crate::event::key_groups_of(lane, self.lanes)
    }

    pub fn serving_lag_max_ms(&self) -> DurationMs {
        self.samples.iter().map(|sample| sample.serving_lag_ms).max().unwrap_or(0)
    }

    pub fn head_max_ms(&self) -> DurationMs {
        self.groups.iter().map(|group| group.head_ms).max().unwrap_or(1_000)
    }

    pub fn uses_of(&self, stream: StreamId) -> &[StreamUse] {
        &self.uses[stream as usize]
    }
}
