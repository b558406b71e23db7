//! What a lane must know: the plan in the words of the pure layers.

use crate::cell::Mirror;
use crate::event::{DurationMs, EventTime, Share, StreamId};
use crate::feature::GroupSpec;
use crate::join::{AnchorKeys, JoinSpec, LabelKeys};
use arrow::datatypes::SchemaRef;
use std::sync::Arc;

/// Which part of a pipeline a cell is: the partition that it reads of every topic, of so many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CellScope {
    pub cell: u32,
    pub cells: u32,
}

impl Default for CellScope {
    fn default() -> Self {
        CellScope::WHOLE
    }
}

impl CellScope {
    /// The one cell of a process that reads all partitions.
    pub const WHOLE: CellScope = CellScope { cell: 0, cells: 1 };

    pub fn is_whole(self) -> bool {
        self.cells == 1
    }
}

/// All joins and feature groups of a pipeline.
#[derive(Clone, Debug)]
pub struct CellSpec {
    pub scope: CellScope,
    pub lanes: usize,
    pub samples: Vec<SampleCell>,
    pub groups: Vec<GroupCell>,
    /// Per stream, the key set that is its id.
    pub stream_ids: Vec<usize>,
    /// What each stream feeds, by stream.
    pub uses: Vec<Vec<StreamUse>>,
}

#[derive(Clone, Debug)]
pub struct GroupCell {
    pub spec: Arc<GroupSpec>,
    /// `BlockClass::node` of its blocks.
    pub node: u16,
    /// Values that were read for segments up to this cut are another definition's.
    pub begun_after: u64,
    /// A window that begins before it has not seen everything.
    pub since: EventTime,
}

#[derive(Clone, Debug)]
pub struct SampleCell {
    /// `BlockClass::node` of its blocks.
    pub node: u16,
    pub join: Arc<JoinSpec>,
    pub anchor_keys: AnchorKeys,
    /// The declared columns of the anchor stream.
    pub anchor_schema: SchemaRef,
    /// Schema and keys of each label stream, in the order of `join.labels`.
    pub label_streams: Vec<(SchemaRef, LabelKeys)>,
    pub serving_lag_ms: DurationMs,
    /// The feature groups stitched onto the sample.
    pub groups: Vec<Stitched>,
    /// Its rows go to a topic alone: no file waits for them, and what has closed leaves the state of the join with the next
    /// cut.
    pub leaves_at_cut: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stitched {
    /// Number of the group in `CellSpec::groups`.
    pub group: usize,
    /// Nothing is read at instants before it: the group may have forgotten what was visible there.
    pub since: EventTime,
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
    /// The keys that a lane owns.
    pub fn share(&self, lane: usize) -> Share {
        Share { cell: self.scope.cell, cells: self.scope.cells, lane, lanes: self.lanes }
    }

    /// Whether a sample reads features that other cells help to make.
    pub fn reads(&self, mirror: &Mirror) -> bool {
        self.samples.iter().flat_map(|sample| &sample.groups).any(|stitched| mirror.holds(stitched.group))
    }

    pub fn serving_lag_max_ms(&self) -> DurationMs {
        self.samples.iter().map(|sample| sample.serving_lag_ms).max().unwrap_or(0)
    }

    pub fn head_max_ms(&self) -> DurationMs {
        self.groups.iter().map(|group| group.spec.head_ms).max().unwrap_or(1_000)
    }

    pub fn uses_of(&self, stream: StreamId) -> &[StreamUse] {
        &self.uses[stream as usize]
    }
}
