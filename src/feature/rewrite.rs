//! Rewrite: which time bucket of a group's state is worth writing as a whole.
//!
//!   blocks of a bucket   ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁ ─> █       many rows of one tile, of which the last one stands
//!                        … its tiles were merged ─> ▂  once more, when nothing in it changes any more
//!
//! A tile is written whenever it has changed, at the resolution that it has then. So a bucket is written as a whole
//! after some blocks, if they hold as many rows as it held the last time, and once more when its tiles are as coarse as
//! they become. Both are paid for by rows that were written: a restore reads a small multiple of what there is.
//!
//! Holds: at most one bucket per cut. What is written is what [`GroupStore::snapshot_bucket`] gives.

use crate::event::{DurationMs, EventTime};
use crate::feature::snapshot::{StateBlock, StateKind};
use crate::feature::store::GroupStore;
use std::collections::BTreeMap;

/// Blocks of a bucket after which it may be written as a whole.
const BLOCKS_MIN: u64 = 16;

/// What was written of the buckets that are needed, ids left out: they change once.
#[derive(Default)]
pub(super) struct Written {
    buckets: BTreeMap<(EventTime, StateKind), Bucket>,
}

#[derive(Default, Debug)]
struct Bucket {
    /// Since it was written as a whole.
    blocks: u64,
    rows: u64,
    /// When it was.
    whole_rows: u64,
}

impl Written {
    pub fn note(&mut self, kind: StateKind, bucket: EventTime, rows: usize) {
        if kind != StateKind::Ids && rows > 0 {
            let bucket = self.buckets.entry((bucket, kind)).or_default();
            bucket.blocks += 1;
            bucket.rows += rows as u64;
        }
    }

    fn whole(&mut self, kind: StateKind, bucket: EventTime, rows: usize) {
        self.buckets.insert((bucket, kind), Bucket { whole_rows: rows as u64, ..Bucket::default() });
    }

    fn forget(&mut self, kind: StateKind, oldest_needed: EventTime) {
        self.buckets.retain(|&(bucket, of), _| of != kind || bucket >= oldest_needed);
    }

    /// The bucket to write now; those that start before `settled` do not change any more.
    fn due(&self, settled: EventTime) -> Option<(StateKind, EventTime)> {
        let due = |start: EventTime, bucket: &Bucket| match start < settled {
            true => bucket.blocks > 1,
            false => bucket.blocks >= BLOCKS_MIN && bucket.rows >= bucket.whole_rows,
        };
        let mut buckets = self.buckets.iter();
        buckets.find(|&(&(start, _), bucket)| due(start, bucket)).map(|(&(start, kind), _)| (kind, start))
    }
}

impl GroupStore {
    /// What a cut adds to the state: changes, and at times one bucket as a whole, which then stands for all that was
    /// written of it before.
    pub fn cut(&mut self) -> Vec<StateBlock> {
        let mut blocks = self.snapshot();
        for block in &blocks {
            self.written.note(block.kind, block.bucket, block.rows.num_rows());
        }
        for kind in [StateKind::Tiles, StateKind::Entries] {
            self.written.forget(kind, self.oldest_bucket_needed(kind));
        }
        if let Some((kind, bucket)) = self.written.due(self.settled()) {
            let whole = self.snapshot_bucket(kind, bucket);
            self.written.whole(kind, bucket, whole.as_ref().map_or(0, |block| block.rows.num_rows()));
            if let Some(whole) = whole {
                blocks.retain(|block| (block.kind, block.bucket) != (kind, bucket));
                blocks.push(StateBlock { whole: true, ..whole });
            }
        }
        blocks
    }

    /// Buckets that start before it have tiles as coarse as they become, and get no more events.
    fn settled(&self) -> EventTime {
        let windows = &self.windows;
        let second: DurationMs = windows.distinct.get(1).map_or(0, |&(window, _)| window);
        // The sweep comes by once per longest tail.
        self.rolled_to().saturating_sub(windows.bucket_ms + second + 2 * windows.longest_tail())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_written_as_a_whole_after_some_blocks_and_when_nothing_changes_any_more() {
        let (mut written, tiles) = (Written::default(), StateKind::Tiles);
        for _ in 1..BLOCKS_MIN {
            written.note(tiles, 60, 10);
        }
        assert_eq!(written.due(60), None, "too few blocks");
        written.note(tiles, 60, 10);
        assert_eq!(written.due(60), Some((tiles, 60)));
        written.whole(tiles, 60, 1_000);
        for _ in 0..99 {
            written.note(tiles, 60, 10);
            assert_eq!(written.due(60), None, "too few rows beside those that stand");
        }
        written.note(tiles, 60, 10);
        assert_eq!(written.due(60), Some((tiles, 60)));
        written.whole(tiles, 60, 1_000);
        assert_eq!(written.due(61), None, "it stands as a whole already");
        written.note(tiles, 60, 1);
        written.note(tiles, 60, 1);
        assert_eq!((written.due(60), written.due(61)), (None, Some((tiles, 60))));
        written.forget(StateKind::Entries, 120);
        assert_eq!(written.due(61), Some((tiles, 60)));
        written.forget(tiles, 120);
        assert_eq!(written.due(61), None);
        written.note(StateKind::Ids, 0, 1);
        written.note(StateKind::Ids, 0, 1);
        assert_eq!(written.due(61), None, "ids are written once");
    }
}
