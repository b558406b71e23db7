//! Cut: what a lane adds to a commit, and how it is brought back.

use crate::cell::fit;
use crate::cell::lane::{Lane, LaneCut, write};
use crate::event::{BlockClass, BlockKind, EventTime, SegmentId, StateBlock, Watermark, key_group};
use crate::feature::{StateError, StateKind};
use crate::join::{ClosedRows, RestoreError, Segment};
use arrow::array::RecordBatch;
use std::ops::Range;

/// Features number their segments from here, so that they never meet those of the joins.
const FEATURE_SEGMENTS: u32 = 1 << 30;

#[derive(Debug, thiserror::Error)]
pub enum LaneRestoreError {
    #[error(transparent)]
    Join(#[from] RestoreError),
    #[error(transparent)]
    Feature(#[from] StateError),
    #[error("a block cannot be of this pipeline: {0}")]
    Unfit(String),
}

/// One block on its way back to a lane: closed ids first, then impressions, the newest segments first; then the others in
/// the order of their segments.
pub enum RestoredBlock {
    /// Impressions with what belongs to their segment. Without a segment id they are written again at the next cut.
    Impressions {
        sample: usize,
        segment: Segment,
    },
    ClosedIds {
        sample: usize,
        bucket: u32,
        rows: RecordBatch,
        stored: bool,
    },
    Labels {
        sample: usize,
        label: usize,
        bucket: u32,
        rows: RecordBatch,
        stored: bool,
    },
    /// After the labels.
    LabelStates {
        sample: usize,
        label: usize,
        rows: RecordBatch,
        filed: Option<u32>,
    },
    Features {
        group: usize,
        rows: RecordBatch,
    },
}

impl Lane {
    pub(super) fn cut(&mut self, number: u64, roll: bool) -> LaneCut {
        let (mut blocks, mut needed_from) = (Vec::new(), Vec::new());
        for (sample, join) in self.joins.iter_mut().enumerate() {
            let cut = join.cut(sample as u16, number, self.number as u16, roll);
            blocks.extend(cut.blocks);
            needed_from.extend(cut.needed_from);
        }
        let mut segment = SegmentId { cut: number, lane: self.number as u16, ordinal: FEATURE_SEGMENTS };
        for (group, store) in self.history[self.number].iter().enumerate() {
            let mut store = write(store);
            let class = |kind| BlockClass { kind: block_kind(kind), node: group as u16, part: 0 };
            for block in store.snapshot() {
                let class = class(block.kind);
                blocks.push(StateBlock { class, bucket: block.bucket, segment, rows: block.rows });
                segment.ordinal += 1;
            }
            needed_from.extend(StateKind::ALL.map(|kind| (class(kind), store.oldest_bucket_needed(kind))));
        }
        LaneCut { number, blocks, needed_from, counts: self.counts() }
    }

    /// Takes one block back; rows of key groups that are not this lane's are left out.
    pub fn restore(&mut self, block: RestoredBlock) -> Result<(), LaneRestoreError> {
        fit::check(&self.spec, &block).map_err(LaneRestoreError::Unfit)?;
        let groups: Range<u16> = self.spec.key_groups(self.number);
        match block {
            RestoredBlock::Impressions { sample, segment } => self.joins[sample].restore_segment(segment, &groups)?,
            RestoredBlock::ClosedIds { sample, bucket, rows, stored } => {
                self.joins[sample].restore_closed_ids(bucket, &rows, &groups, stored)?;
            }
            RestoredBlock::Labels { sample, label, bucket, rows, stored } => {
                self.joins[sample].restore_labels(label, bucket, stored, &rows, &groups)?;
            }
            RestoredBlock::LabelStates { sample, label, rows, filed } => {
                self.joins[sample].restore_label_states(label, &rows, &groups, filed)?;
            }
            RestoredBlock::Features { group, rows } => {
                let mine = |entity| groups.contains(&key_group(entity));
                write(&self.history[self.number][group]).restore(&rows, &mine)?;
            }
        }
        Ok(())
    }

    /// Ends a restore. Rows that had closed, but lie in no file yet, close again: they are returned and not counted.
    pub fn finish_restore(
        &mut self,
        frontier: EventTime,
        through: &[(Option<u32>, Option<u32>)],
    ) -> Vec<(u16, ClosedRows)> {
        let mut all = Vec::new();
        for (sample, join) in self.joins.iter_mut().enumerate() {
            let (closed, filed) = through.get(sample).copied().unwrap_or_default();
            let mut out = Vec::new();
            join.finish_restore(Watermark(frontier), closed, filed, &mut out);
            all.extend(out.into_iter().map(|rows| (sample as u16, rows)));
        }
        // An input that had ended may have grown since: its end is no promise any more.
        if Watermark(frontier) < Watermark::MAX {
            self.restored_frontier = Watermark(frontier);
        }
        all
    }
}

fn block_kind(kind: StateKind) -> BlockKind {
    match kind {
        StateKind::Tiles => BlockKind::Tiles,
        StateKind::Entries => BlockKind::FeatureEntries,
        StateKind::Ids => BlockKind::FeatureIds,
    }
}
