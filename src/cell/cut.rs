//! Cut: what a lane adds to a commit, and how it is brought back.

use crate::cell::fit;
use crate::cell::lane::{Lane, LaneCut, write};
use crate::event::{BlockClass, BlockKind, EventTime, Outage, SegmentId, Share, StateBlock, Watermark, home_of};
use crate::feature::{StateError, StateKind};
use crate::join::{ClosedRows, RestoreError, Segment, Through};
use arrow::array::RecordBatch;

/// Rows of one message to the other cells.
const SEALED_ROWS_MAX: usize = 2_048;
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
#[derive(Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "most blocks of a restore are the large ones, and each lives for a moment"
)]
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
    pub(super) fn cut(&mut self, number: u64, roll: bool, sealed: EventTime) -> LaneCut {
        let (mut blocks, mut needed_from) = (Vec::new(), Vec::new());
        for (sample, join) in self.joins.iter_mut().enumerate() {
            let spec = &self.spec.samples[sample];
            let cut = join.cut(spec.node, number, self.number as u16, roll || spec.leaves_at_cut);
            blocks.extend(cut.blocks);
            needed_from.extend(cut.needed_from);
        }
        let mut segment = SegmentId { cut: number, lane: self.number as u16, ordinal: FEATURE_SEGMENTS };
        for (group, store) in self.history.lanes[self.number].iter().enumerate() {
            let mut store = write(store);
            let node = self.spec.groups[group].node;
            let class = |kind| BlockClass { kind: block_kind(kind), node, part: 0 };
            if self.history.mirror.holds(group) {
                let class = BlockClass { kind: BlockKind::Sealed, node, part: 0 };
                for rows in store.take_sealed(sealed).into_iter().flat_map(|block| pieces(block.rows)) {
                    blocks.push(StateBlock { class, bucket: number as i64, segment, whole: false, rows });
                    segment.ordinal += 1;
                }
                // It is handed over before the next cut is made.
                needed_from.push((class, number as i64));
            }
            for block in store.cut() {
                let class = class(block.kind);
                blocks.push(StateBlock { class, bucket: block.bucket, segment, whole: block.whole, rows: block.rows });
                segment.ordinal += 1;
            }
            let held = self.history.mirror.holds(group);
            let first =
                |kind| if held { store.oldest_bucket_unsealed(kind, sealed) } else { store.oldest_bucket_needed(kind) };
            needed_from.extend(StateKind::ALL.map(|kind| (class(kind), first(kind))));
        }
        LaneCut { number, blocks, needed_from, counts: self.counts() }
    }

    /// Takes one block back; rows that are not in this lane's share are left out.
    pub fn restore(&mut self, block: RestoredBlock) -> Result<(), LaneRestoreError> {
        let share = self.spec.share(self.number);
        fit::check(&self.spec, &block).map_err(LaneRestoreError::Unfit)?;
        match block {
            RestoredBlock::Impressions { sample, mut segment } => {
                let stitched = self.spec.samples[sample].groups.iter();
                let begun = stitched.map(|stitched| self.spec.groups[stitched.group].begun_after < segment.cut);
                segment.knows = begun.collect();
                self.joins[sample].restore_segment(segment, &share)?;
            }
            RestoredBlock::ClosedIds { sample, bucket, rows, stored } => {
                self.joins[sample].restore_closed_ids(bucket, &rows, &share, stored)?;
            }
            RestoredBlock::Labels { sample, label, bucket, rows, stored } => {
                self.joins[sample].restore_labels(label, bucket, stored, &rows, &share)?;
            }
            RestoredBlock::LabelStates { sample, label, rows, filed } => {
                self.joins[sample].restore_label_states(label, &rows, &share, filed)?;
            }
            RestoredBlock::Features { group, rows } => {
                // Whose entity it is does not matter before it is handed over.
                let cells = if self.history.mirror.holds(group) { 1 } else { share.cells };
                let share = Share { cells, ..share };
                let mine = |entity| share.contains(home_of(entity));
                write(&self.history.lanes[self.number][group]).restore(&rows, &mine)?;
            }
        }
        Ok(())
    }

    /// Ends a restore. Rows that had closed, but lie in no file yet, close again: they are returned and not counted.
    pub fn finish_restore(
        &mut self,
        frontier: EventTime,
        sealed: EventTime,
        through: &[Through],
        outages: &[Outage],
    ) -> Vec<(u16, ClosedRows)> {
        for (group, store) in self.history.lanes[self.number].iter().enumerate() {
            if self.history.mirror.holds(group) {
                write(store).forget_sealed(sealed);
            }
        }
        let mut all = Vec::new();
        for (sample, join) in self.joins.iter_mut().enumerate() {
            let mut out = Vec::new();
            join.heed(outages);
            join.finish_restore(Watermark(frontier), through.get(sample).copied().unwrap_or_default(), &mut out);
            all.extend(out.into_iter().map(|rows| (sample as u16, rows)));
        }
        // An input that had ended may have grown since: its end is no promise any more.
        if Watermark(frontier) < Watermark::MAX {
            self.restored_frontier = Watermark(frontier);
        }
        all
    }
}

/// Rows in pieces that fit a message with room to spare.
fn pieces(rows: RecordBatch) -> impl Iterator<Item = RecordBatch> {
    let starts = (0..rows.num_rows()).step_by(SEALED_ROWS_MAX);
    starts.map(move |start| rows.slice(start, SEALED_ROWS_MAX.min(rows.num_rows() - start)))
}

fn block_kind(kind: StateKind) -> BlockKind {
    match kind {
        StateKind::Tiles => BlockKind::Tiles,
        StateKind::Entries => BlockKind::FeatureEntries,
        StateKind::Ids => BlockKind::FeatureIds,
    }
}
