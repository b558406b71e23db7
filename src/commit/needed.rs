//! Needed: which blocks of the state a restore reads.
//!
//! A block is not needed when its bucket has fallen behind what its class needs, or when a later block of its lane
//! stands for the whole bucket.

use crate::commit::manifest::{BlockEntry, Layout};
use crate::event::{BlockClass, SegmentId};
use std::collections::BTreeMap;

/// A bucket of one lane; lanes of another count are others.
type Share = (BlockClass, i64, usize, u16);

pub struct Needed {
    /// Blocks of other nodes belong to nobody any more.
    layout: Layout,
    first: BTreeMap<BlockClass, i64>,
    whole: BTreeMap<Share, SegmentId>,
}

impl Needed {
    /// Out of what a manifest says, and of all blocks that there are.
    pub fn new<'a>(
        first: &[(BlockClass, i64)],
        layout: &Layout,
        entries: impl IntoIterator<Item = &'a BlockEntry>,
    ) -> Needed {
        let mut whole = BTreeMap::new();
        for entry in entries.into_iter().filter(|entry| entry.whole) {
            let newest = whole.entry(share(entry)).or_insert(entry.segment);
            *newest = entry.segment.max(*newest);
        }
        Needed { layout: layout.clone(), first: first.iter().copied().collect(), whole }
    }

    pub fn needs(&self, entry: &BlockEntry) -> bool {
        self.layout.place(entry.class).is_some()
            && self.first.get(&entry.class).is_none_or(|first| entry.bucket >= *first)
            && !self.is_superseded(entry)
    }

    /// Whether a later block stands for this one too.
    pub fn is_superseded(&self, entry: &BlockEntry) -> bool {
        self.whole.get(&share(entry)).is_some_and(|newest| entry.segment < *newest)
    }
}

fn share(entry: &BlockEntry) -> Share {
    (entry.class, entry.bucket, entry.lanes, entry.segment.lane)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::manifest::GroupNode;
    use crate::event::BlockKind;

    fn entry(cut: u64, lane: u16, lanes: usize, bucket: i64, whole: bool) -> BlockEntry {
        let class = BlockClass { kind: BlockKind::Tiles, node: 0, part: 0 };
        let segment = SegmentId { cut, lane, ordinal: 0 };
        BlockEntry { class, bucket, segment, lanes, whole, rows: 1, offset: 0, bytes: 1, sha256: String::new() }
    }

    fn layout() -> Layout {
        let group = GroupNode { name: "g".into(), number: 0, cut: 0, since: i64::MIN, base: Vec::new() };
        Layout { groups: vec![group], ..Layout::default() }
    }

    #[test]
    fn a_whole_bucket_stands_for_what_its_own_lane_wrote_before() {
        let entries = [
            entry(1, 0, 2, 7, false),
            entry(2, 0, 2, 7, true),
            entry(3, 0, 2, 7, false),
            entry(4, 0, 2, 7, true),
            entry(5, 0, 2, 7, false),
            entry(1, 1, 2, 7, false),
            entry(1, 0, 3, 7, false),
            entry(1, 0, 2, 8, false),
            entry(1, 0, 2, 6, false),
        ];
        let needed = Needed::new(&[(entries[0].class, 7)], &layout(), &entries);
        let found: Vec<bool> = entries.iter().map(|entry| needed.needs(entry)).collect();
        assert_eq!(found, [false, false, false, true, true, true, true, true, false]);
    }
}
