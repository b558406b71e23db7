//! Residency: what a lane lets go of once it is on disk, so that it stays within the memory it is given.
//!
//! In: the blocks that a manifest names, and how many bytes of what lies in blocks may stay. Rows that close last leave
//! first: of all that could leave, they would stay in vain for the longest time.
//! Does not: change what becomes of any row, read a block, or know of other lanes.

use crate::cell::lane::Lane;
use crate::event::StoredBlock;

impl Lane {
    pub(super) fn stored(&mut self, blocks: &[StoredBlock], keep: usize) {
        for stored in blocks.iter().filter(|stored| stored.segment.lane as usize == self.number) {
            let sample = self.spec.samples.iter().position(|sample| sample.node == stored.class.node);
            if let Some(sample) = sample {
                self.joins[sample].stored(stored);
            }
        }
        self.spill(keep);
    }

    fn spill(&mut self, keep: usize) {
        let of = |(sample, join): (usize, &crate::join::JoinState)| {
            join.spillable().map(|spillable| (spillable, sample)).collect::<Vec<_>>()
        };
        let mut spillable: Vec<_> = self.joins.iter().enumerate().flat_map(of).collect();
        let mut over = spillable.iter().map(|(spillable, _)| spillable.bytes).sum::<usize>().saturating_sub(keep);
        spillable.sort_unstable_by_key(|(spillable, sample)| (spillable.due, *sample, spillable.bucket));
        for (spillable, sample) in spillable.into_iter().rev() {
            if over == 0 {
                break;
            }
            over = over.saturating_sub(self.joins[sample].spill(spillable.bucket, over));
        }
    }

    /// Bytes of rows that came since the last cut, which no block holds yet.
    pub fn fresh_bytes(&self) -> usize {
        self.joins.iter().map(crate::join::JoinState::fresh_bytes).sum()
    }
}
