//! Residency: what of the pending rows is in memory, and what leaves it when there is too much.
//!
//!   index, times, keys ── in memory until the rows close
//!   payload, features  ── in memory ── cut, commit ──> on disk too ── spill ──> on disk alone, read where rows are built
//!
//! In: the blocks that a manifest names. Holds: what becomes of rows never depends on where their columns are, because
//! nothing in this module tree looks at payload once it is written (F8).
//! Does not: know how much memory there is, or read a block.

use crate::event::{BlockKind, EventTime, StateMemory, StoredBlock};
use crate::join::Emit;
use crate::join::block::FeatureLayout;
use crate::join::bucket::{Bucket, Part};
use crate::join::emit::Schedule;
use crate::join::index::Index;
use crate::join::label::Labels;
use crate::join::state::JoinState;

/// A bucket of which something may leave memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spillable {
    pub bucket: u32,
    pub bytes: usize,
    /// When the rows are needed again, in event time.
    pub due: EventTime,
}

impl JoinState {
    pub(super) fn layout_of(&self, part: &Part) -> FeatureLayout {
        FeatureLayout { groups: self.keys.groups.clone(), knows: part.knows.clone() }
    }

    /// Bytes in memory, by what they are.
    pub fn memory(&self) -> StateMemory {
        let buckets = || self.buckets.values().chain(self.closed_unstored.iter().map(|(_, bucket)| bucket));
        let parts = || buckets().flat_map(|bucket| &bucket.parts);
        let closed = self.closed.values().map(|bucket| bucket.id.capacity() * 16 + bucket.home.capacity() * 4);
        let index = buckets().map(Bucket::fixed_bytes).sum::<usize>()
            + closed.sum::<usize>()
            + self.ids.memory_bytes()
            + self.by_key.as_ref().map_or(0, Index::memory_bytes)
            + self.schedule.as_ref().map_or(0, Schedule::memory_bytes);
        StateMemory {
            index: index as u64,
            labels: self.labels.iter().map(Labels::memory_bytes).sum::<usize>() as u64,
            payload: parts().map(Part::resident_bytes).sum::<usize>() as u64,
            spilled: parts().map(Part::spilled_bytes).sum(),
        }
    }

    /// Bytes of payload and features that came since the last cut.
    pub fn fresh_bytes(&self) -> usize {
        self.fresh_bytes
    }

    /// A block of this state lies on disk, or lies elsewhere than before. What has closed since needs no block.
    pub fn stored(&mut self, stored: &StoredBlock) {
        let Ok(number) = u32::try_from(stored.bucket) else { return };
        let Some(bucket) = self.buckets.get_mut(&number) else { return };
        let Some(part) = bucket.parts.iter_mut().find(|part| part.segment == Some(stored.segment)) else { return };
        match stored.class.kind {
            BlockKind::ImpressionRows => part.payload.stored_at(stored.block.clone()),
            BlockKind::ImpressionFeatures => {
                if let Some(features) = &mut part.features {
                    features.stored_at(stored.block.clone());
                }
            }
            _ => {}
        }
    }

    /// Buckets of which something may leave memory. Rows that leave early are read again and again: they are due first.
    /// Those that wait for a correction alone are hardly ever read again.
    pub fn spillable(&self) -> impl Iterator<Item = Spillable> {
        let through = self.schedule.as_ref().and_then(|schedule| schedule.through);
        let emitted = through.map_or(EventTime::MIN, |through| self.bucket_end(through));
        let due = move |number: u32| {
            let end = self.bucket_end(number).saturating_add(self.longest_ms);
            match self.spec.emit {
                Emit::Early { .. } if end <= emitted => EventTime::MAX,
                Emit::Early { from_ms, .. } if from_ms < self.longest_ms => EventTime::MIN,
                _ => end,
            }
        };
        let of = move |(number, bucket): (&u32, &Bucket)| {
            let bytes = bucket.parts.iter().map(Part::cached_bytes).sum();
            Spillable { bucket: *number, bytes, due: due(*number) }
        };
        self.buckets.iter().map(of).filter(|spillable| spillable.bytes > 0)
    }

    /// Lets parts of a bucket go from memory, the newest first, until so many bytes are free. Returns how many are.
    pub fn spill(&mut self, bucket: u32, bytes: usize) -> usize {
        let parts = self.buckets.get_mut(&bucket).into_iter().flat_map(|bucket| bucket.parts.iter_mut().rev());
        let mut freed = 0;
        for part in parts {
            if freed >= bytes {
                break;
            }
            freed += part.spill();
        }
        freed
    }
}
