//! Compaction: copies blocks of small state objects into the object of the cut at hand, and lets the copied ones go.
//!
//!   objects of the head ─ choose ─> read their needed blocks ─> written again beside the fresh ones
//!                                └─> retired ─ nobody reads them any more ─> told to the collector
//!
//! Holds: what a lane or a sink of this process may still read stays. Lanes are told of the new places before the next
//! cut, and everything that they had handed to a sink before is read when that cut is complete.
//! Does not: fail the commit. An object that cannot be read is left as it is, and said so.

use crate::commit::{BlockEntry, CompactionLimits, EncodedBlock, Needed, ObjectError, Usage, choose, read_encoded};
use crate::env::Store;
use crate::pipeline::garbage::GarbageOutlet;
use crate::pipeline::restore::Objects;
use std::collections::BTreeSet;

/// An object that no manifest names any more because its blocks were copied.
struct Retired {
    path: String,
    last_named: u64,
    since_ms: u64,
}

#[derive(Default)]
pub struct Compaction {
    pub limits: CompactionLimits,
    retired: Vec<Retired>,
    /// Could not be read.
    left_alone: BTreeSet<String>,
}

/// The commit that is being made.
pub struct Cut<'a> {
    /// Number of the manifest before it.
    pub last_named: u64,
    pub now_ms: u64,
    pub needed: &'a Needed,
}

impl Compaction {
    /// Takes objects out of the list whose needed blocks it returns.
    pub fn copy(&mut self, store: &dyn Store, objects: &mut Objects, cut: &Cut<'_>) -> Vec<EncodedBlock> {
        let usage = objects.iter().map(|(object, entries)| Usage {
            bytes: object.bytes,
            needed: match self.left_alone.contains(&object.path) {
                true => object.bytes.max(self.limits.large_bytes),
                false => entries.iter().filter(|entry| cut.needed.needs(entry)).map(|entry| entry.bytes).sum(),
            },
        });
        let chosen = choose(&usage.collect::<Vec<_>>(), &self.limits);
        let mut copied = Vec::new();
        for number in chosen.into_iter().rev() {
            let (object, entries) = &objects[number];
            let entries: Vec<BlockEntry> = entries.iter().filter(|entry| cut.needed.needs(entry)).cloned().collect();
            match read_encoded(store, object, &entries) {
                Ok(blocks) => {
                    copied.extend(blocks);
                    let (object, _) = objects.remove(number);
                    let Cut { last_named, now_ms, .. } = *cut;
                    self.retired.push(Retired { path: object.path, last_named, since_ms: now_ms });
                }
                Err(error) => self.leave_alone(object.path.clone(), &error),
            }
        }
        copied
    }

    fn leave_alone(&mut self, path: String, error: &ObjectError) {
        tracing::error!(%error, "part of the state cannot be read: a restart would need it");
        self.left_alone.insert(path);
    }

    /// Tells the collector about retired objects that nobody reads any more: of every cut before the one at hand.
    pub fn release(&mut self, garbage: &mut GarbageOutlet, cut: &Cut<'_>) {
        let linger_ms = self.limits.linger_ms;
        self.retired.retain(|object| {
            let fresh = cut.now_ms < object.since_ms.saturating_add(linger_ms);
            let keep = fresh || object.last_named >= cut.last_named;
            if !keep {
                garbage.dropped(object.last_named, &object.path);
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::{GroupNode, Layout, SampleNode, encode_block, object_path, write_object};
    use crate::env::MemoryStore;
    use crate::event::{BlockClass, BlockKind, SegmentId, StateBlock};
    use arrow::array::{Int64Array, RecordBatch};
    use std::sync::Arc;

    const LIMITS: CompactionLimits =
        CompactionLimits { few: 1, fan_in: 2, large_bytes: 1 << 20, copied_max: 1 << 20, linger_ms: 100 };

    fn class(kind: BlockKind) -> BlockClass {
        BlockClass { kind, node: 0, part: 0 }
    }

    /// An object with rows of impressions of bucket 5 and with ids of bucket 7.
    fn object(store: &dyn Store, cut: u64, epoch: u64) -> (crate::commit::ObjectEntry, Vec<BlockEntry>) {
        let rows = RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(vec![cut as i64])) as _)]).unwrap();
        let blocks = [(BlockKind::ImpressionRows, 5), (BlockKind::ImpressionKeys, 7)].map(|(kind, bucket)| {
            let segment = SegmentId { cut, lane: 0, ordinal: 0 };
            encode_block(&StateBlock { class: class(kind), bucket, segment, whole: false, rows: rows.clone() }, 1)
                .unwrap()
        });
        write_object(store, &object_path(cut, epoch, "w"), blocks.into()).unwrap()
    }

    /// One sample and one group, each with number 0.
    fn layout() -> Layout {
        let (since, base) = (i64::MIN, Vec::new());
        let sample = SampleNode {
            name: "s".into(),
            number: 0,
            since,
            base: base.clone(),
            groups: Default::default(),
            rows_since: since,
        };
        let group = GroupNode { name: "g".into(), number: 0, cut: 0, since, base };
        Layout { samples: vec![sample], groups: vec![group], ..Layout::default() }
    }

    struct World {
        store: MemoryStore,
        compaction: Compaction,
        garbage: GarbageOutlet,
        last_named: u64,
    }

    impl World {
        fn new() -> World {
            let garbage = GarbageOutlet::new(crossbeam_channel::bounded(1).0);
            let compaction = Compaction { limits: LIMITS, ..Compaction::default() };
            World { store: MemoryStore::new(), compaction, garbage, last_named: 9 }
        }

        /// The next cut, at which rows from this bucket on are needed: the blocks copied and the objects dropped.
        fn cut(&mut self, objects: &mut Objects, rows_from: i64, now_ms: u64) -> (usize, usize) {
            let needed = Needed::new(&[(class(BlockKind::ImpressionRows), rows_from)], &layout(), []);
            self.last_named += 1;
            let cut = Cut { last_named: self.last_named, now_ms, needed: &needed };
            let copied = self.compaction.copy(&self.store, objects, &cut);
            self.compaction.release(&mut self.garbage, &cut);
            (copied.len(), self.garbage.dropped.len())
        }
    }

    #[test]
    fn what_was_copied_stays_until_the_next_cut_however_long_ago_it_was() {
        let mut world = World::new();
        world.compaction.limits.linger_ms = 0;
        let mut objects: Objects = (1..=3).map(|cut| object(&world.store, cut, 2)).collect();
        assert_eq!(world.cut(&mut objects, 5, 0), (6, 0), "lanes do not know yet where it lies now");
        assert!(objects.is_empty());
        assert_eq!(world.cut(&mut objects, 5, 0), (0, 3));
    }

    #[test]
    fn what_was_copied_stays_for_a_while_for_those_who_read_beside_the_run() {
        let mut world = World::new();
        let mut objects: Objects = (1..=3).map(|cut| object(&world.store, cut, 2)).collect();
        assert_eq!(world.cut(&mut objects, 5, 0), (6, 0));
        assert_eq!(world.cut(&mut objects, 5, 99), (0, 0));
        assert_eq!(world.cut(&mut objects, 5, 100), (0, 3));
    }

    #[test]
    fn blocks_that_are_not_needed_are_not_copied() {
        let mut world = World::new();
        let mut objects: Objects = (1..=3).map(|cut| object(&world.store, cut, 2)).collect();
        assert_eq!(world.cut(&mut objects, 6, 0), (3, 0));
    }

    #[test]
    fn an_object_that_cannot_be_read_is_left_where_it_is() {
        let mut world = World::new();
        let mut objects: Objects = (1..=4).map(|cut| object(&world.store, cut, 2)).collect();
        let damaged = objects[1].0.path.clone();
        let mut bytes = world.store.read(&damaged).unwrap();
        bytes[20] ^= 1;
        world.store.corrupt(&damaged, &bytes);
        assert_eq!(world.cut(&mut objects, 5, 0).0, 6);
        assert_eq!(objects.iter().map(|(object, _)| &object.path).collect::<Vec<_>>(), [&damaged]);
        objects.extend([object(&world.store, 5, 2), object(&world.store, 6, 2)]);
        assert_eq!(world.cut(&mut objects, 5, 0).0, 4, "and nobody tries again");
    }
}
