//! Garbage: a thread of its own that deletes what no manifest can name again, a little after every commit.
//!
//!   start ──> read the manifests that are left, list state and staged files of earlier epochs ─> leftovers
//!   commit N ─ note ─> manifests before the last ones ─> objects that only those named, orphans that are old enough
//!
//! In: after each commit its number and the state objects that it no longer names. Out: deletions, at most
//! [`DELETED_PER_COMMIT_MAX`] for each commit.
//! Holds: a commit never waits for it; manifests go before what they name, so none ever names what is gone.
//! Does not: decide: [`is_garbage`](crate::commit::is_garbage) does. Nor fail the run: what it cannot delete now is found
//! again at the next start.

use crate::commit::{
    ChainError, GarbageRule, Leftover, Manifest, STATE_FOLDER, forget_manifest, is_garbage, last_named, numbers,
    object_epoch, oldest_kept, read_manifest,
};
use crate::env::{Clock, Store};
use crate::pipeline::RunError;
use crate::sink::{FileNaming, older_staged};
use crossbeam_channel::{Receiver, Sender};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// Objects, and as many manifests, that are deleted after one commit.
pub const DELETED_PER_COMMIT_MAX: usize = 16;
/// Commits that the collector may be behind; the notes of more are joined.
pub const NOTES_MAX: usize = 8;
/// Leftovers that are kept in mind; those beyond are found at a later start.
const LEFTOVERS_MAX: usize = 100_000;

/// What a commit tells.
pub struct CommitNote {
    number: u64,
    /// State objects that are not named any more, with the last manifest that names each.
    dropped: Vec<(u64, String)>,
}

/// The committer's end.
pub struct GarbageOutlet {
    notes: Sender<CommitNote>,
    dropped: Vec<(u64, String)>,
}

impl GarbageOutlet {
    pub fn new(notes: Sender<CommitNote>) -> GarbageOutlet {
        GarbageOutlet { notes, dropped: Vec::new() }
    }

    pub fn dropped(&mut self, last_named: u64, path: &str) {
        self.dropped.push((last_named, path.into()));
    }

    /// Never waits: while the collector is busy, what was dropped is told with a later commit.
    pub fn committed(&mut self, number: u64) {
        let note = CommitNote { number, dropped: std::mem::take(&mut self.dropped) };
        if let Err(error) = self.notes.try_send(note) {
            self.dropped = error.into_inner().dropped;
        }
    }
}

/// A sink's files.
pub struct SinkPlace {
    /// As manifests call the sink.
    pub name: String,
    pub store: Arc<dyn Store>,
    pub naming: FileNaming,
}

pub struct Collector {
    pub state: Arc<dyn Store>,
    pub sinks: Vec<SinkPlace>,
    pub head: Manifest,
    pub keep_orphans_ms: i64,
    pub clock: Arc<dyn Clock>,
}

/// An object and where it lies: `None` is the state's store, else the number of a sink.
struct Found {
    sink: Option<usize>,
    path: String,
    leftover: Leftover,
}

impl Collector {
    pub fn run(self, notes: Receiver<CommitNote>) -> Result<(), RunError> {
        let mut leftovers = VecDeque::new();
        let mut manifests: VecDeque<u64> = VecDeque::new();
        if let Err(error) = self.look(&mut manifests, &mut leftovers) {
            tracing::warn!(%error, "what earlier runs left behind is not collected in this run");
            leftovers.clear();
        }
        for note in notes {
            if let Err(error) = self.collect(note, &mut manifests, &mut leftovers) {
                tracing::warn!(%error, "some garbage stays until a later commit or start");
            }
        }
        Ok(())
    }

    /// Finds what earlier epochs left.
    fn look(&self, manifests: &mut VecDeque<u64>, leftovers: &mut VecDeque<Found>) -> Result<(), RunError> {
        manifests.extend(numbers(self.state.as_ref())?.into_iter().filter(|number| *number <= self.head.number));
        let read = |number: &u64| read_manifest(self.state.as_ref(), *number);
        // A manifest that cannot be read might name anything: then nothing is touched.
        let read: Vec<Manifest> = manifests.iter().map(read).collect::<Result<_, ChainError>>()?;
        let named = last_named(&read);
        let live: BTreeSet<&str> = self.head.objects.iter().map(|object| object.path.as_str()).collect();
        for object in self.state.list(STATE_FOLDER)? {
            let Some(epoch) = object_epoch(&object.path).filter(|epoch| *epoch < self.head.epoch) else { continue };
            if !live.contains(object.path.as_str()) {
                let last_named = named.get(&(None, object.path.clone())).copied();
                let leftover = Leftover { epoch, modified_ms: object.modified_ms, last_named };
                leftovers.push_back(Found { sink: None, path: object.path, leftover });
            }
        }
        for (number, sink) in self.sinks.iter().enumerate() {
            for (object, epoch) in older_staged(sink.store.as_ref(), &sink.naming)? {
                let last_named = named.get(&(Some(sink.name.clone()), object.path.clone())).copied();
                let leftover = Leftover { epoch, modified_ms: object.modified_ms, last_named };
                leftovers.push_back(Found { sink: Some(number), path: object.path, leftover });
            }
        }
        leftovers.truncate(LEFTOVERS_MAX);
        Ok(())
    }

    fn collect(
        &self,
        note: CommitNote,
        manifests: &mut VecDeque<u64>,
        leftovers: &mut VecDeque<Found>,
    ) -> Result<(), RunError> {
        let known = manifests.back().copied().unwrap_or(self.head.number);
        manifests.extend(known + 1..=note.number);
        let now_ms = self.clock.now_ms();
        for (last, path) in note.dropped {
            let leftover = Leftover { epoch: self.head.epoch, modified_ms: now_ms, last_named: Some(last) };
            leftovers.push_back(Found { sink: None, path, leftover });
        }
        let kept = oldest_kept(note.number);
        for _ in 0..DELETED_PER_COMMIT_MAX {
            let Some(oldest) = manifests.front().copied().filter(|number| *number < kept) else { break };
            forget_manifest(self.state.as_ref(), oldest)?;
            manifests.pop_front();
        }
        let oldest_manifest = manifests.front().copied().unwrap_or(kept);
        let keep_orphans_ms = self.keep_orphans_ms;
        let rule = GarbageRule { epoch: self.head.epoch, oldest_manifest, now_ms, keep_orphans_ms };
        let mut deleted = 0;
        for _ in 0..leftovers.len() {
            if deleted == DELETED_PER_COMMIT_MAX {
                break;
            }
            let found = leftovers.pop_front().expect("as many as there were");
            if !is_garbage(&found.leftover, &rule) {
                leftovers.push_back(found);
                continue;
            }
            let store = found.sink.map_or(&self.state, |sink| &self.sinks[sink].store);
            if let Err(error) = store.delete(&found.path) {
                leftovers.push_back(found);
                return Err(error.into());
            }
            deleted += 1;
        }
        if deleted > 0 {
            tracing::debug!(deleted, left = leftovers.len(), "garbage collected");
        }
        Ok(())
    }
}
