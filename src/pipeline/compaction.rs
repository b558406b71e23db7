//! Compaction: copies blocks of small state objects into the object of the cut at hand, and lets the copied ones go.
//!
//!   objects of the head ─ choose ─> read their needed blocks ─> written again beside the fresh ones
//!                                └─> retired ─ nobody reads them any more ─> told to the collector
//!
//! Holds: what a lane or a sink of this process may still read stays. Those are rows of impressions that a restore left
//! on disk: they are read when their bucket closes, and a bucket is not needed any more once its rows are in a file.
//! Does not: fail the commit. An object that cannot be read is left as it is, and said so.

use crate::commit::{
    BlockEntry, CompactionLimits, EncodedBlock, Needed, ObjectError, Usage, choose, object_epoch, read_encoded,
};
use crate::env::Store;
use crate::event::BlockKind;
use crate::pipeline::garbage::GarbageOutlet;
use crate::pipeline::restore::Objects;
use std::collections::BTreeSet;

/// An object that no manifest names any more because its blocks were copied.
struct Retired {
    path: String,
    last_named: u64,
    since_ms: u64,
    /// What this process may read yet.
    referenced: Vec<BlockEntry>,
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
    /// Number and epoch of the manifest before it.
    pub last_named: u64,
    pub epoch: u64,
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
                    self.retire(object.path, entries, cut);
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

    fn retire(&mut self, path: String, mut entries: Vec<BlockEntry>, cut: &Cut<'_>) {
        // Of what this process wrote itself it has the rows in memory.
        let restored = object_epoch(&path).is_none_or(|epoch| epoch < cut.epoch);
        entries.retain(|entry| restored && entry.class.kind == BlockKind::ImpressionRows);
        self.retired.push(Retired { path, last_named: cut.last_named, since_ms: cut.now_ms, referenced: entries });
    }

    /// Tells the collector about retired objects that nobody reads any more.
    pub fn release(&mut self, garbage: &mut GarbageOutlet, cut: &Cut<'_>) {
        let linger_ms = self.limits.linger_ms;
        self.retired.retain(|object| {
            let fresh = cut.now_ms < object.since_ms.saturating_add(linger_ms);
            let keep = fresh || object.referenced.iter().any(|entry| cut.needed.needs(entry));
            if !keep {
                garbage.dropped(object.last_named, &object.path);
            }
            keep
        });
    }
}
