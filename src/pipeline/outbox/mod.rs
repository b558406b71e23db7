//! Outbox: rows on their way to a topic, in state from the commit that made them true until brokers have them.
//!
//!   sink of each lane ─ rows since the last cut ─> blocks ─┐
//!                                                          ├─> state object ─> manifest N ─> sender ─> topic
//!   manifest N + k: kafka_through = N ──────────────────────────── all acknowledged ──┘
//!
//! In: finished rows with their keys. Out: messages, each with its chain, the commit that made it true and its number in
//! that commit.
//! Holds: no row is sent before the manifest that holds it was created. A row leaves the state when brokers have it, and it
//! is sent from there as it lay there: whoever sends it again, after whatever crash or change of the pipeline file, sends
//! the same identity. Rows of one commit are sent in one order, so that a reader needs to remember one place per partition
//! and chain to drop what it has seen. Memory is bounded, however long the brokers are away (F13).
//! Does not: hold up a commit, or the Parquet files: what waits grows on disk.

mod buffer;
mod parts;
mod sender;

pub use buffer::{OutboxBuffers, OutboxCut};
pub use parts::{OutboxParts, topic_schemas};
pub use sender::{CHAIN_HEADER, COMMIT_HEADER, OutboxSender, ROW_HEADER};

use crate::commit::{BlockEntry, Manifest, OutboxMark, block_ref};
use crate::event::{BlockClass, BlockKind, BlockRef, SegmentId};
use crate::pipeline::restore::Objects;
use crate::telemetry::{OutboxProgress, Telemetry};
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The rows of a sample, among the outlets of that sample.
pub const SAMPLE_ROWS: u16 = 0;

/// A block of rows to send.
#[derive(Clone, Debug)]
pub struct Piece {
    segment: SegmentId,
    pub rows: u64,
    pub block: BlockRef,
}

/// The rows of one cut.
#[derive(Clone, Debug)]
pub struct Lot {
    /// In the order in which they are sent.
    pieces: Vec<Piece>,
    /// When this process saw them first, in monotonic ms.
    since_ms: u64,
}

impl Lot {
    fn rows(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.rows).sum()
    }
}

#[derive(Default)]
struct Waiting {
    cuts: BTreeMap<u64, Lot>,
    through: u64,
    /// Rows that brokers have, since the outlet began.
    sent: u64,
    closed: bool,
}

/// What the committer, the sender and the conductor know of one outlet.
#[derive(Default)]
pub struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The oldest cut that waits; `None` when it is all over.
    fn next(&self) -> Option<(u64, Lot)> {
        let idle = |waiting: &mut Waiting| waiting.cuts.is_empty() && !waiting.closed;
        let waiting = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        if waiting.closed {
            return None;
        }
        waiting.cuts.first_key_value().map(|(cut, lot)| (*cut, lot.clone()))
    }

    /// The one after it, if it waits already.
    fn after(&self, cut: u64) -> Option<(u64, Lot)> {
        self.lock().cuts.range(cut + 1..).next().map(|(cut, lot)| (*cut, lot.clone()))
    }

    /// Brokers have everything up to this cut.
    fn sent(&self, through: u64) {
        let mut waiting = self.lock();
        let later = waiting.cuts.split_off(&(through + 1));
        let gone = std::mem::replace(&mut waiting.cuts, later);
        waiting.sent += gone.values().map(Lot::rows).sum::<u64>();
        waiting.through = through;
        drop(waiting);
        self.changed.notify_all();
    }

    fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Waits a while, or until it is all over.
    fn pause(&self, time: Duration) {
        let open = |waiting: &mut Waiting| !waiting.closed;
        drop(self.changed.wait_timeout_while(self.lock(), time, open).unwrap_or_else(PoisonError::into_inner));
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// How many rows wait, and since when the oldest do.
    fn backlog(&self) -> (u64, Option<u64>) {
        let waiting = self.lock();
        let rows = waiting.cuts.values().map(Lot::rows).sum();
        (rows, waiting.cuts.values().next().map(|lot| lot.since_ms))
    }
}

/// One outlet of the pipeline.
#[derive(Clone)]
pub struct Outlet {
    /// As manifests call it.
    pub name: String,
    /// Place of the sample in the plan, and of the outlet in the sample.
    pub sample: usize,
    pub class: BlockClass,
    pub shared: Arc<Shared>,
}

/// The committer's end. Dropping it ends the senders.
#[derive(Default)]
pub struct Outlets(Vec<Outlet>);

impl Outlets {
    /// With what the last manifest says of them.
    pub fn new(outlets: Vec<Outlet>, head: &Manifest, objects: &Objects, now_ms: u64) -> Outlets {
        for outlet in &outlets {
            let mark = head.outbox.get(&outlet.name).filter(|mark| mark.class() == outlet.class);
            let mut waiting = outlet.shared.lock();
            // What an outlet of this name sent before it was taken away is no concern of the new one.
            waiting.through = mark.map_or(head.cut, |mark| mark.kafka_through);
            waiting.sent = mark.map_or(0, |mark| mark.sent);
        }
        let outlets = Outlets(outlets);
        outlets.committed(objects, now_ms);
        outlets
    }

    pub fn iter(&self) -> impl Iterator<Item = &Outlet> {
        self.0.iter()
    }

    /// What a manifest is to say, with the blocks that its cut adds.
    pub fn marks<'a>(
        &self,
        head: &Manifest,
        fresh: impl Iterator<Item = &'a BlockEntry> + Clone,
    ) -> BTreeMap<String, OutboxMark> {
        let mark = |outlet: &Outlet| {
            let before = head.outbox.get(&outlet.name).filter(|mark| mark.class() == outlet.class);
            let added: u64 = fresh.clone().filter(|entry| entry.class == outlet.class).map(|entry| entry.rows).sum();
            let waiting = outlet.shared.lock();
            // Cuts without rows have nothing to wait for.
            let through = waiting.cuts.keys().next().map_or(head.cut, |first| first - 1);
            let BlockClass { node, part, .. } = outlet.class;
            OutboxMark {
                node,
                part,
                kafka_through: through.max(waiting.through),
                committed: before.map_or(0, |mark| mark.committed) + added,
                sent: waiting.sent,
            }
        };
        self.0.iter().map(|outlet| (outlet.name.clone(), mark(outlet))).collect()
    }

    /// From which cut on blocks are needed: of outlets that are gone, as the manifest before said.
    pub fn needed_from(&self, head: &Manifest, marks: &BTreeMap<String, OutboxMark>) -> Vec<(BlockClass, i64)> {
        let mine = |class: BlockClass| self.0.iter().any(|outlet| outlet.class == class);
        let gone = head.needed_from.iter().filter(|(class, _)| class.kind == BlockKind::Outbox && !mine(*class));
        let marks = marks.values().map(|mark| (mark.class(), mark.kafka_through as i64 + 1));
        marks.chain(gone.copied()).collect()
    }

    /// Shows the senders what lies in state now, and where.
    pub fn committed(&self, objects: &Objects, now_ms: u64) {
        if self.0.is_empty() {
            return;
        }
        let mut found: BTreeMap<BlockClass, BTreeMap<u64, Vec<Piece>>> = BTreeMap::new();
        for (object, entries) in objects {
            let path: Arc<str> = object.path.as_str().into();
            for entry in entries.iter().filter(|entry| entry.class.kind == BlockKind::Outbox) {
                // An entry without a sum that can be one is no block: whoever needs it is told when it is read.
                let Some(block) = block_ref(&path, entry) else { continue };
                let piece = Piece { segment: entry.segment, rows: entry.rows, block };
                found.entry(entry.class).or_default().entry(entry.bucket as u64).or_default().push(piece);
            }
        }
        for outlet in &self.0 {
            let mut cuts = found.remove(&outlet.class).unwrap_or_default();
            let mut waiting = outlet.shared.lock();
            let before = std::mem::take(&mut waiting.cuts);
            let lots = cuts.split_off(&(waiting.through + 1)).into_iter().map(|(cut, mut pieces)| {
                pieces.sort_by_key(|piece| piece.segment);
                (cut, Lot { pieces, since_ms: before.get(&cut).map_or(now_ms, |lot| lot.since_ms) })
            });
            waiting.cuts = lots.collect();
            drop(waiting);
            outlet.shared.changed.notify_all();
        }
    }
}

impl Drop for Outlets {
    fn drop(&mut self) {
        self.0.iter().for_each(|outlet| outlet.shared.close());
    }
}

/// The conductor's end: whether there is news for a manifest.
#[derive(Clone, Default)]
pub struct OutboxWatch(Vec<Outlet>);

impl OutboxWatch {
    pub fn new(outlets: &Outlets) -> OutboxWatch {
        OutboxWatch(outlets.0.clone())
    }

    /// Rows that brokers have, of all outlets.
    pub fn sent(&self) -> u64 {
        self.0.iter().map(|outlet| outlet.shared.lock().sent).sum()
    }

    /// Says how far each outlet is.
    pub fn tell(&self, telemetry: &Telemetry, now_ms: u64) {
        for outlet in &self.0 {
            let (waiting_rows, since_ms) = outlet.shared.backlog();
            let lag_ms = since_ms.map_or(0, |since| now_ms.saturating_sub(since));
            let sent_rows = outlet.shared.lock().sent;
            telemetry.outbox(&outlet.name, &OutboxProgress { waiting_rows, sent_rows, lag_ms });
        }
    }

    /// Waits until nothing waits, at most so long for each outlet, and no longer once one is not done in time: what waits
    /// then is sent by the next process.
    pub fn drain(&self, time: Duration) {
        for outlet in &self.0 {
            let busy = |waiting: &mut Waiting| !waiting.cuts.is_empty() && !waiting.closed;
            let waited = outlet.shared.changed.wait_timeout_while(outlet.shared.lock(), time, busy);
            if waited.unwrap_or_else(PoisonError::into_inner).1.timed_out() {
                break;
            }
        }
        for outlet in &self.0 {
            let (rows, _) = outlet.shared.backlog();
            if rows > 0 {
                let outlet = &outlet.name;
                tracing::warn!(
                    "{rows} rows of {outlet} are committed and not in their topic yet: the next start sends them"
                );
            }
        }
    }
}
