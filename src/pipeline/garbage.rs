//! Garbage: a thread of its own that deletes what no manifest can name again, a little after every commit.
//!
//!   start ──> read the manifests that are left, list state and staged files of earlier epochs ─> leftovers
//!   commit N ─ note ─> manifests before the last ones ─> objects that only those named, orphans that are old enough
//!
//! In: after each commit its number and the state objects that it no longer names. Out: deletions, at most
//! [`DELETED_PER_COMMIT_MAX`] objects and a lot of manifests for each commit.
//! Holds: a commit never waits for it; manifests go before what they name, so none ever names what is gone.
//! Does not: decide: [`is_garbage`](crate::commit::is_garbage) does. Nor fail the run: what it cannot delete now is found
//! again at the next start.

use crate::commit::{
    ChainError, GarbageRule, Leftover, Manifest, STATE_FOLDER, forget_manifests, forget_strays, is_garbage, last_named,
    manifest_number, object_epoch, oldest_kept, read_manifest,
};
use crate::env::failpoint::{self, Failpoint};
use crate::env::{Clock, Store};
use crate::pipeline::RunError;
use crate::sink::{FileNaming, older_staged};
use crossbeam_channel::{Receiver, Sender};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// Manifests that are forgotten at once.
const MANIFESTS_PER_LOT: usize = 20;
/// Objects that are deleted after one commit.
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
    /// Not told yet.
    pub(super) dropped: Vec<(u64, String)>,
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
    state: Arc<dyn Store>,
    sinks: Vec<SinkPlace>,
    /// The claim of this process.
    head: Manifest,
    keep_orphans_ms: i64,
    clock: Arc<dyn Clock>,
    /// Manifests that are there, oldest first.
    manifests: VecDeque<u64>,
    leftovers: VecDeque<Found>,
}

/// An object and where it lies: `None` is the state's store, else the number of a sink.
struct Found {
    sink: Option<usize>,
    path: String,
    leftover: Leftover,
}

impl Collector {
    pub fn new(
        state: Arc<dyn Store>,
        sinks: Vec<SinkPlace>,
        head: Manifest,
        keep_orphans_ms: i64,
        clock: Arc<dyn Clock>,
    ) -> Collector {
        let (manifests, leftovers) = (VecDeque::new(), VecDeque::new());
        Collector { state, sinks, head, keep_orphans_ms, clock, manifests, leftovers }
    }

    pub fn run(mut self, notes: Receiver<CommitNote>) -> Result<(), RunError> {
        self.start();
        notes.into_iter().for_each(|note| self.take(note));
        Ok(())
    }

    /// Finds what earlier epochs left.
    pub fn start(&mut self) {
        if let Err(error) = failpoint::step(Failpoint::Sweep, || self.look()) {
            tracing::warn!(%error, "what earlier runs left behind is not collected in this run");
            self.leftovers.clear();
        }
    }

    /// Does what is due after one commit.
    pub fn take(&mut self, note: CommitNote) {
        if let Err(error) = self.collect(note) {
            tracing::warn!(%error, "some garbage stays until a later commit or start");
        }
    }

    fn look(&mut self) -> Result<(), RunError> {
        let Collector { manifests, leftovers, .. } = self;
        manifests.extend(forget_strays(self.state.as_ref(), self.head.number)?);
        let read = |number: &u64| read_manifest(self.state.as_ref(), *number);
        // A manifest that cannot be read might name anything: then nothing is touched.
        let read: Vec<Manifest> = manifests.iter().map(read).collect::<Result<_, ChainError>>()?;
        let named = last_named(&read);
        let live: BTreeSet<&str> = self.head.objects.iter().map(|object| object.path.as_str()).collect();
        // Of lower epochs alone: this process may have slept while another one took over, whose objects are not its own.
        let older = |path: &str| object_epoch(path).is_some_and(|epoch| epoch < self.head.epoch);
        let taken = |path: &str| manifest_number(path).is_some_and(|number| number <= self.head.number);
        self.state.sweep_unfinished("", &|path| older(path) || taken(path))?;
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

    fn collect(&mut self, note: CommitNote) -> Result<(), RunError> {
        let Collector { manifests, leftovers, .. } = self;
        let known = manifests.back().copied().unwrap_or(self.head.number);
        manifests.extend(known + 1..=note.number);
        let now_ms = self.clock.now_ms();
        for (last, path) in note.dropped {
            let leftover = Leftover { epoch: self.head.epoch, modified_ms: now_ms, last_named: Some(last) };
            leftovers.push_back(Found { sink: None, path, leftover });
        }
        let kept = oldest_kept(note.number);
        // In lots, because each leaves an object in the catalog.
        if manifests.iter().take_while(|number| **number < kept).count() >= MANIFESTS_PER_LOT {
            let lot: Vec<u64> = manifests.iter().copied().take(MANIFESTS_PER_LOT).collect();
            failpoint::step(Failpoint::ForgetManifests, || forget_manifests(self.state.as_ref(), &lot))?;
            manifests.drain(..MANIFESTS_PER_LOT);
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
            let is_orphan = found.leftover.last_named.is_none();
            let point = if is_orphan { Failpoint::SweepObject } else { Failpoint::ForgetObject };
            if let Err(error) = failpoint::step(point, || store.delete(&found.path)) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::{Chain, Identity, ObjectEntry, numbers};
    use crate::env::{ManualClock, MemoryStore};
    use crossbeam_channel::bounded;

    const KEEP_MS: i64 = 3_600_000;

    fn object(path: &str) -> ObjectEntry {
        ObjectEntry { path: path.into(), bytes: 1, footer_bytes: 1, footer_sha256: String::new() }
    }

    struct World {
        clock: Arc<ManualClock>,
        store: Arc<dyn Store>,
    }

    impl World {
        fn new() -> World {
            let (clock, store) = (Arc::new(ManualClock::at(1_000)), MemoryStore::new());
            store.set_clock(clock.clone());
            World { clock, store: Arc::new(store) }
        }

        fn claim(&self, writer: &str) -> Chain {
            let identity = Identity {
                pipeline: "p",
                definition: &Default::default(),
                resets: &Default::default(),
                writer: writer.into(),
                chain: 7,
                now_ms: self.clock.now_ms(),
            };
            Chain::claim(self.store.clone(), &identity).unwrap()
        }

        fn commit(&self, chain: &mut Chain, objects: &[&str]) -> u64 {
            for path in objects {
                self.store.create(path, b"x").unwrap();
            }
            let objects = objects.iter().map(|path| object(path)).collect();
            let next = Manifest { objects, ..chain.head().clone() };
            chain.commit(next).unwrap().number
        }

        /// A collector that gets these notes, and has ended.
        fn collect(&self, head: &Manifest, numbers: impl IntoIterator<Item = u64>, dropped: &[(u64, &str)]) {
            let (notes_in, notes) = bounded(64);
            let mut dropped: Vec<_> = dropped.iter().map(|(last, path)| (*last, path.to_string())).collect();
            for number in numbers {
                notes_in.send(CommitNote { number, dropped: std::mem::take(&mut dropped) }).unwrap();
            }
            drop(notes_in);
            let (state, head, clock) = (self.store.clone(), head.clone(), self.clock.clone());
            Collector::new(state, Vec::new(), head, KEEP_MS, clock).run(notes).unwrap();
        }

        fn there(&self, path: &str) -> bool {
            self.store.size(path).unwrap().is_some()
        }
    }

    #[test]
    fn orphans_go_when_they_are_old_and_what_was_named_when_its_manifests_are_gone() {
        let world = World::new();
        let mut first = world.claim("a");
        let (dropped, kept) = ("state/000000000001-1-a.state", "state/000000000002-1-a.state");
        let orphan = "state/000000000003-1-a.state";
        world.commit(&mut first, &[dropped]);
        world.commit(&mut first, &[kept]);
        world.store.create(orphan, b"x").unwrap();
        let mut second = world.claim("b");
        let claimed = second.head().clone();
        let own = "state/000000000004-2-b.state";
        world.store.create(own, b"x").unwrap();
        let number = world.commit(&mut second, &[]);
        world.collect(&claimed, [number], &[(claimed.number, kept)]);
        assert!([dropped, kept, orphan, own].iter().all(|path| world.there(path)), "nothing is old enough");
        world.clock.advance_ms(KEEP_MS as u64);
        world.collect(&claimed, [number], &[(claimed.number, kept)]);
        assert!(!world.there(orphan));
        assert!([dropped, kept, own].iter().all(|path| world.there(path)), "they are named, or may be");
        let last = (0..60).map(|_| world.commit(&mut second, &[])).last().unwrap();
        world.collect(&claimed, number..=last, &[(claimed.number, kept)]);
        assert!(!world.there(dropped) && !world.there(kept) && world.there(own));
        let left = numbers(world.store.as_ref()).unwrap();
        assert!(left[0] <= oldest_kept(last) && left.len() < 40, "{left:?}");
    }

    #[test]
    fn a_commit_deletes_no_more_than_its_share() {
        let world = World::new();
        world.claim("a");
        for number in 0..3 * DELETED_PER_COMMIT_MAX {
            world.store.create(&format!("state/{number:012}-1-a.state"), b"x").unwrap();
        }
        world.clock.advance_ms(KEEP_MS as u64);
        let mut second = world.claim("b");
        let claimed = second.head().clone();
        let left = || world.store.list(STATE_FOLDER).unwrap().len();
        let number = world.commit(&mut second, &[]);
        world.collect(&claimed, [number], &[]);
        assert_eq!(left(), 2 * DELETED_PER_COMMIT_MAX);
        let next = world.commit(&mut second, &[]);
        world.collect(&claimed, [number, next], &[]);
        assert_eq!(left(), 0);
    }

    #[test]
    fn a_manifest_that_cannot_be_read_keeps_everything() {
        let world = World::new();
        world.claim("a");
        let orphan = "state/000000000003-1-a.state";
        world.store.create(orphan, b"x").unwrap();
        world.clock.advance_ms(KEEP_MS as u64);
        let mut second = world.claim("b");
        let claimed = second.head().clone();
        let number = world.commit(&mut second, &[]);
        world.store.delete("manifests/00000000000000000000.json").unwrap();
        world.store.create("manifests/00000000000000000000.json", b"{").unwrap();
        world.collect(&claimed, [number], &[]);
        assert!(world.there(orphan));
    }

    #[test]
    fn a_busy_collector_is_told_later_and_forgets_nothing() {
        let (notes_in, notes) = bounded(1);
        let mut outlet = GarbageOutlet::new(notes_in);
        for number in 1..=3 {
            outlet.dropped(number - 1, &format!("state/{number}"));
            outlet.committed(number);
        }
        assert_eq!(notes.recv().unwrap().dropped.len(), 1);
        outlet.committed(4);
        let note = notes.recv().unwrap();
        assert_eq!((note.number, note.dropped.len()), (4, 2));
    }
}
