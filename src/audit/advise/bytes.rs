//! Bytes: what a pending row takes, measured on rows of the input in the join's own state, never guessed.
//!
//!   rows as they were read ──> JoinState ──> memory
//!                                  └── cut ──> encoded blocks ──> bytes on disk

use crate::audit::AuditError;
use crate::commit::encode_block;
use crate::config::{Plan, SamplePlan};
use crate::event::{DecodedBatch, EventTime, StateBlock};
use crate::feature::GroupSpec;
use crate::join::{AnchorKeys, JoinState, LabelKeys, LaneRows};
use arrow::array::new_null_array;
use arrow::datatypes::DataType;
use serde::Serialize;
use std::sync::Arc;

/// Rows of each stream that are measured: as many as a few time buckets hold.
const ROWS_MAX: usize = 50_000;
/// Rows of feature columns that are measured.
const FEATURE_ROWS: usize = 1_024;

/// What is remembered of a closed impression against copies: its id and home as columns, and at most 39 bytes in the index.
pub(super) const CLOSED_MEMORY: f64 = 59.0;
pub(super) const CLOSED_DISK: f64 = 20.0;

/// Bytes per row, measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct RowBytes {
    /// How many impressions were measured.
    pub measured_rows: u64,
    /// A pending impression: its columns, its place in the index, its features.
    pub impression_memory: f64,
    pub impression_disk: f64,
}

/// Bytes per label of one join.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LabelBytes {
    pub memory: f64,
    pub disk: f64,
}

/// The states in which rows of one sample are measured: impressions and labels apart, because what was read of the one
/// need not belong to what was read of the other.
pub(super) struct Probe {
    impressions: JoinState,
    rows: usize,
    labels: Vec<(JoinState, usize)>,
    feature_bytes: f64,
    /// Feature columns whose size depends on their values, and that are not measured.
    pub unmeasured: Vec<String>,
}

impl Probe {
    pub fn new(plan: &Plan, sample: &SamplePlan) -> Self {
        let (join, anchor) = (Arc::new(sample.join.clone()), &plan.streams[sample.join.anchor as usize].decode);
        let keys = AnchorKeys { id: anchor.id, key: anchor.key, route: anchor.route, groups: Arc::new([]) };
        let label_streams = sample.join.labels.iter().map(|label| {
            let decode = &plan.streams[label.stream as usize].decode;
            (decode.schema.clone(), LabelKeys { id: decode.id, key: label.key_set, route: decode.route })
        });
        let label_streams: Vec<_> = label_streams.collect();
        let state = || JoinState::new(join.clone(), keys.clone(), &label_streams);
        let groups = sample.sample.groups.iter().map(|group| &plan.groups[group.group]);
        let (feature_bytes, unmeasured) = feature_bytes(groups);
        Probe {
            impressions: state(),
            rows: 0,
            labels: label_streams.iter().map(|_| (state(), 0)).collect(),
            feature_bytes,
            unmeasured,
        }
    }

    pub fn impressions(&mut self, batch: &DecodedBatch, rows: &[u32]) {
        if self.rows >= ROWS_MAX || rows.is_empty() {
            return;
        }
        let before = self.impressions.pending_rows();
        self.impressions.insert_impressions(LaneRows { batch, rows, late: &[], watermark: EventTime::MIN });
        self.rows += self.impressions.pending_rows() - before;
    }

    pub fn labels(&mut self, label: usize, batch: &DecodedBatch, rows: &[u32]) {
        let (state, taken) = &mut self.labels[label];
        if *taken < ROWS_MAX && !rows.is_empty() {
            state.insert_labels(label, LaneRows { batch, rows, late: &[], watermark: EventTime::MIN });
            *taken = state.label_accounts()[label].waiting as usize;
        }
    }

    /// Measures what was taken in.
    pub fn finish(mut self) -> Result<(RowBytes, Vec<LabelBytes>), AuditError> {
        let per_row = |bytes: usize, rows: usize| if rows == 0 { 0.0 } else { bytes as f64 / rows as f64 };
        let labels = self.labels.into_iter().map(|(mut state, rows)| {
            let (memory, disk) = at_rest(&mut state)?;
            Ok(LabelBytes { memory: per_row(memory, rows), disk: per_row(disk, rows) })
        });
        let labels = labels.collect::<Result<Vec<LabelBytes>, AuditError>>()?;
        let (memory, disk) = at_rest(&mut self.impressions)?;
        let (memory, disk) = (per_row(memory, self.rows), per_row(disk, self.rows));
        let bytes = RowBytes {
            measured_rows: self.rows as u64,
            impression_memory: memory + self.feature_bytes,
            impression_disk: disk + self.feature_bytes,
        };
        Ok((bytes, labels))
    }
}

/// What a state takes in memory and on disk once commits have written it: with the second one it keeps no room to grow.
fn at_rest(state: &mut JoinState) -> Result<(usize, usize), AuditError> {
    let disk = disk_bytes(state.cut(0, 1, 0, false).blocks)?;
    state.cut(0, 2, 0, false);
    Ok((state.memory().total() as usize, disk))
}

fn disk_bytes(blocks: Vec<StateBlock>) -> Result<usize, AuditError> {
    let mut bytes = 0;
    for block in blocks {
        bytes += encode_block(&block, 1)?.bytes().len();
    }
    Ok(bytes)
}

/// What the feature columns of a row take, and those of which that is not known before they have values.
fn feature_bytes<'a>(groups: impl Iterator<Item = &'a GroupSpec>) -> (f64, Vec<String>) {
    let (mut bytes, mut unmeasured) = (0, Vec::new());
    for field in groups.flat_map(|group| group.outputs.fields().iter()) {
        bytes += new_null_array(field.data_type(), FEATURE_ROWS).get_array_memory_size();
        if !field.data_type().is_primitive() && *field.data_type() != DataType::Boolean {
            unmeasured.push(field.name().clone());
        }
    }
    (bytes as f64 / FEATURE_ROWS as f64, unmeasured)
}
