//! Lanes: one thread per lane around the pure step, and what the lanes say about how far they are.

use crate::cell::{Applied, Lane, LaneCut, LaneInput, LaneOutput};
use crate::commit::{EncodedBlock, Manifest, encode_block};
use crate::event::{EventTime, FeatureBatch, Watermark};
use crate::join::ClosedRows;
use crate::online::{OnlineSender, Version};
use crate::pipeline::RunError;
use crate::pipeline::memory::LaneMemory;
use crate::pipeline::sinks::SinkInput;
use crossbeam_channel::{Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Inputs that wait for one lane.
pub const LANE_QUEUE_MAX: usize = 16;
/// How long the end of a run waits for the online store to take what is left.
pub const ONLINE_FLUSH_MAX: Duration = Duration::from_secs(30);

/// How far the lanes are: the minimum over them is the frontier below which all features are complete.
pub struct Frontier {
    applied: Mutex<Vec<Applied>>,
    changed: Condvar,
}

impl Frontier {
    pub fn new(lanes: usize) -> Arc<Frontier> {
        let nothing = Applied { watermark: Watermark::MIN, oldest_needed: i64::MIN };
        Arc::new(Frontier { applied: Mutex::new(vec![nothing; lanes]), changed: Condvar::new() })
    }

    fn set(&self, lane: usize, applied: Applied) {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)[lane] = applied;
        self.changed.notify_all();
    }

    /// The watermark that every lane has applied, and the oldest instant at which any lane will still read features:
    /// rows on their way to a lane are no older than the watermark it has applied.
    pub fn get(&self, serving_lag_ms: i64) -> (Watermark, EventTime) {
        let applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        let watermark = applied.iter().map(|lane| lane.watermark).min().unwrap_or(Watermark::MIN);
        let oldest = applied.iter().map(|lane| lane.oldest_needed.min(lane.watermark.0.saturating_sub(serving_lag_ms)));
        (watermark, oldest.min().unwrap_or(i64::MIN))
    }

    /// Waits until every lane has applied `watermark`, or the timeout.
    pub fn wait_for(&self, watermark: Watermark, timeout: Duration) -> bool {
        let applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        let behind = |applied: &mut Vec<Applied>| applied.iter().any(|lane| lane.watermark < watermark);
        let (_applied, waited) =
            self.changed.wait_timeout_while(applied, timeout, behind).unwrap_or_else(PoisonError::into_inner);
        !waited.timed_out()
    }
}

/// Where a lane's output goes.
pub struct LaneOutlets {
    pub sink: Sender<SinkInput>,
    pub cuts: Sender<CutPart>,
    pub online: OnlineOutlet,
    pub frontier: Arc<Frontier>,
    /// How many lanes there are.
    pub lanes: usize,
    /// What the lane may take, and says that it takes.
    pub memory: Arc<LaneMemory>,
}

/// Hands feature values to the online writer with versions that rise: an entity belongs to one lane, and a later process
/// has a higher epoch.
///
/// A lane never waits for the store: before it takes what is due it looks whether all lanes could hand over what they may
/// take at once, and leaves it in its state otherwise.
pub struct OnlineOutlet {
    sender: OnlineSender,
    /// Batches that all lanes together may hand over at one tick.
    batches_per_tick: usize,
    /// Of the store, as far as the lane knows of them.
    losses: u64,
    birth_ms: u64,
    epoch: u32,
    cut: u64,
    step: u32,
}

impl OnlineOutlet {
    pub fn new(sender: OnlineSender, batches_per_tick: usize, head: &Manifest) -> Self {
        OnlineOutlet {
            sender,
            batches_per_tick,
            losses: 0,
            birth_ms: head.born_at_ms.max(0) as u64,
            epoch: head.epoch as u32,
            cut: head.cut,
            step: 0,
        }
    }

    /// Whether the store has lost what it had since this was last asked.
    fn store_lost(&mut self) -> bool {
        let before = std::mem::replace(&mut self.losses, self.sender.stats().losses());
        self.losses > before
    }

    /// Whether what a tick takes can be handed over without waiting. The last tick waits for a store that is only slow.
    fn has_room(&self, last: bool) -> bool {
        if last && self.sender.room() < self.batches_per_tick && self.sender.stats().ready() {
            // Without room after that, the rows are written when the pipeline starts next.
            let _ = self.sender.flush(ONLINE_FLUSH_MAX);
        }
        self.sender.room() >= self.batches_per_tick
    }

    fn at_cut(&mut self, cut: u64) {
        (self.cut, self.step) = (cut, 0);
    }

    /// False when the writer is gone.
    fn send(&mut self, batch: FeatureBatch) -> bool {
        self.step += 1;
        self.sender.send(batch, Version::new(self.birth_ms, self.epoch, self.cut, self.step)).is_ok()
    }
}

/// One part of a commit; the committer waits for all of them.
pub enum CutPart {
    /// A lane's cut, its blocks encoded.
    Lane(usize, LaneCut, Vec<EncodedBlock>),
    Sink(usize, crate::pipeline::sinks::SinkCut),
    Conductor(Box<crate::pipeline::conductor::ConductorCut>),
    Rejected(Vec<crate::event::Rejected>),
}

pub fn run(
    number: usize,
    mut lane: Lane,
    input: Receiver<LaneInput>,
    mut outlets: LaneOutlets,
) -> Result<(), RunError> {
    let mut out = LaneOutput::default();
    for mut message in input {
        let roll = matches!(message, LaneInput::Cut { roll: true, .. });
        if let LaneInput::Online { entities_max, .. } = &mut message {
            if outlets.online.store_lost() {
                lane.step(LaneInput::OnlineLost, &mut out);
            }
            if !outlets.online.has_room(*entities_max == usize::MAX) {
                *entities_max = 0;
            }
        }
        if let LaneInput::Stored { keep, .. } = &mut message {
            *keep = outlets.memory.keep();
        }
        lane.step(message, &mut out);
        outlets.memory.set_fresh(lane.fresh_bytes());
        if !deliver(number, &mut out, roll, &mut outlets)? {
            break;
        }
    }
    Ok(())
}

/// Hands over closed rows that a restore brought back, before anything new.
pub fn deliver_restored(closed: Vec<(u16, ClosedRows)>, sink: &Sender<SinkInput>) -> bool {
    closed.into_iter().all(|(sample, rows)| sink.send(SinkInput::Closed { sample, rows, recount: false }).is_ok())
}

/// Returns false when the other side is gone: the cell is going down.
fn deliver(number: usize, out: &mut LaneOutput, roll: bool, outlets: &mut LaneOutlets) -> Result<bool, RunError> {
    for (sample, rows) in out.closed.drain(..) {
        if outlets.sink.send(SinkInput::Closed { sample, rows, recount: true }).is_err() {
            return Ok(false);
        }
    }
    for (sample, rows) in out.side.drain(..) {
        if outlets.sink.send(SinkInput::Side { sample, rows }).is_err() {
            return Ok(false);
        }
    }
    if !out.online.drain(..).all(|batch| outlets.online.send(batch)) {
        return Ok(false);
    }
    if let Some(mut cut) = out.cut.take() {
        outlets.online.at_cut(cut.number);
        outlets.memory.at_cut(&cut.counts);
        let marker = SinkInput::Cut { number: cut.number, roll };
        if outlets.sink.send(marker).is_err() {
            return Ok(false);
        }
        let blocks: Result<Vec<_>, _> = cut.blocks.drain(..).map(|block| encode_block(&block, outlets.lanes)).collect();
        if outlets.cuts.send(CutPart::Lane(number, cut, blocks?)).is_err() {
            return Ok(false);
        }
    }
    if let Some(applied) = out.applied.take() {
        outlets.frontier.set(number, applied);
    }
    Ok(true)
}
