//! Conductor: the one thread that orders everything: it routes what arrives, moves time on, and says when to cut.
//!
//!   arrival ─> position, lateness, lanes ─> rows to every lane
//!   tick    ─> watermark and frontier ─> Advance │ flush interval ─> Online │ commit interval ─> Cut
//!
//! Holds: every lane gets the same markers in the same order; one cut is under way at a time.
//! Does not: decode, join, or write; decide what a row means.

use crate::cell::{CellSpec, LaneInput};
use crate::commit::{Handover, InputEntry, OutageEntry, TrackEntry};
use crate::env::Clock;
use crate::env::failpoint::{self, Failpoint};
use crate::event::{DecodedBatch, EventTime, PartitionId, Positions, RejectKind, StreamAccount, Watermark, memory_of};
use crate::pipeline::board::Board;
use crate::pipeline::committer::{Committed, input_entries, track_entries};
use crate::pipeline::intake::{Arrival, Intake, PauseList};
use crate::pipeline::lanes::{CutPart, Frontier};
use crate::pipeline::memory::CellMemory;
use crate::pipeline::outages::outage_entries;
use crate::pipeline::outbox::OutboxWatch;
use crate::pipeline::progress::ProgressTeller;
use crate::pipeline::sinks::SinkGauge;
use crate::pipeline::timekeeper::Timekeeper;
use crate::pipeline::{Dimensions, Failure, RunError, StopSignal};
use crate::route::Router;
use crate::source::LogEnd;
use crate::telemetry::{StreamProgress, Telemetry};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long the conductor waits for an arrival before it looks at its timers.
const TICK: Duration = Duration::from_millis(10);
/// Longer than this between two looks at the timers: the process slept, or was held up.
const LOOK_MS: u64 = 2_000;
/// The first commit of a run comes so early, unless commits are closer anyway: samples go on soon after a restart, and a
/// place that cannot be written to is found out while somebody is looking.
const FIRST_CUT_MS: u64 = 300;
/// Entities that one lane publishes per flush: bounds how long it is away from its rows.
const ONLINE_ENTITIES_MAX: usize = 8_192;
/// How long the end of a run waits for brokers to take the rows of the last commits.
const OUTBOX_DRAIN_MAX: Duration = Duration::from_secs(10);
/// How often the board is brought up to date.
const BOARD_EVERY_MS: u64 = 200;

/// What the conductor adds to a commit.
#[derive(Debug)]
pub struct ConductorCut {
    pub number: u64,
    pub inputs: Vec<InputEntry>,
    pub tracks: Vec<TrackEntry>,
    pub watermark: EventTime,
    pub outages: Vec<OutageEntry>,
    pub online_instant: Option<EventTime>,
    pub streams: Vec<(String, StreamAccount)>,
    /// Accepted rows of each sample's anchor and label streams.
    pub anchor_accepted: Vec<u64>,
    pub label_accepted: Vec<Vec<u64>>,
    /// What the other cells are told, where there are any.
    pub handover: Option<Handover>,
}

/// Names and numbers that the conductor needs to speak to people and manifests.
pub struct Names {
    pub streams: Vec<String>,
    pub inputs: Vec<String>,
    /// How keys are placed.
    pub partitioner: &'static str,
    /// Files of file inputs, in the order that positions count.
    pub files: BTreeMap<u16, Vec<String>>,
}

/// How a run ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Stop when every input has ended, and close what is pending.
    Close,
    /// Stop when every input has ended, and keep what is pending.
    KeepPending,
}

pub struct Conductor {
    pub router: Router,
    pub cell: Arc<CellSpec>,
    pub intake: Intake,
    pub lanes: Vec<Sender<LaneInput>>,
    pub frontier: Arc<Frontier>,
    pub cuts: Sender<CutPart>,
    pub committed: Receiver<Committed>,
    pub gauges: Vec<Arc<SinkGauge>>,
    pub paused: PauseList,
    pub progress: ProgressTeller,
    pub names: Names,
    pub clock: Arc<dyn Clock>,
    pub telemetry: Arc<Telemetry>,
    /// What this run shows of dimensions; in group mode the process does.
    pub dimensions: Option<Arc<Dimensions>>,
    pub board: Board,
    pub stop: StopSignal,
    pub failure: Failure,
    pub commit_every_ms: u64,
    pub flush_ms: u64,
    pub ending: Ending,
    /// Whether anything reads the online store.
    pub online: bool,
    /// The last cut of the chain.
    pub last_cut: u64,
    /// Some input was opened for the first time: where it starts is worth a commit, before the first record comes.
    pub starts_are_new: bool,
    pub time: Timekeeper,
    pub outbox: OutboxWatch,
    /// What the lanes may take.
    pub memory: CellMemory,
}

/// Timers and what was said last.
struct Beat {
    /// Partitions that have not ended.
    unread: BTreeSet<PartitionId>,
    last_tick_ms: u64,
    next_cut_ms: u64,
    last_online_ms: u64,
    last_board_ms: u64,
    in_flight: bool,
    /// Of the cut under way.
    positions: Positions,
    /// Something moved since the last cut.
    moved: bool,
    /// Streams that were told to be cut off.
    cut_off: BTreeSet<u16>,
    /// Rows that brokers had acknowledged by then.
    acknowledged: u64,
    /// Bytes of impressions that were sent to the lanes since then.
    sent: u64,
    records: u64,
    dead: BTreeMap<(u16, RejectKind), u64>,
}

impl Conductor {
    pub fn run(mut self) -> Result<(), RunError> {
        let now = self.clock.monotonic_ms();
        let mut beat = Beat {
            unread: self.router.partitions(),
            last_tick_ms: now,
            next_cut_ms: now + FIRST_CUT_MS.min(self.commit_every_ms),
            last_online_ms: now,
            last_board_ms: 0,
            in_flight: false,
            positions: Positions::default(),
            moved: self.starts_are_new,
            cut_off: BTreeSet::new(),
            acknowledged: self.outbox.sent(),
            sent: 0,
            records: 0,
            dead: BTreeMap::new(),
        };
        while !self.stop.requested() && !beat.unread.is_empty() {
            if !self.wait_for_room(&mut beat) {
                break;
            }
            match self.intake.next(TICK) {
                Ok(Some(arrival)) => self.arrival(arrival, &mut beat)?,
                Ok(None) => {}
                // Sources and decoders are gone without having ended: one of them has failed and said so.
                Err(_) => break,
            }
            if !self.tick(&mut beat) {
                return Ok(());
            }
        }
        self.finish(&mut beat);
        Ok(())
    }

    fn arrival(&mut self, arrival: Arrival, beat: &mut Beat) -> Result<(), RunError> {
        let now = self.clock.monotonic_ms();
        match arrival {
            Arrival::CaughtUp(partition) => self.router.caught_up(partition, now),
            Arrival::OutOfSight(partition) => self.router.out_of_sight(partition),
            Arrival::Ended(partition) => {
                beat.unread.remove(&partition);
                match self.ending {
                    Ending::Close => self.router.ended(partition),
                    // The log goes on after this run: its end here promises nothing about time.
                    Ending::KeepPending => self.router.caught_up(partition, now),
                }
            }
            Arrival::Connection { ready, message } => {
                if ready {
                    tracing::info!("{message}");
                } else {
                    tracing::warn!("{message}");
                }
                self.board.update(|view| view.connection_problem = (!ready).then_some(message));
            }
            Arrival::Batch { raw_delta, decoded } => {
                self.router.step(raw_delta, now)?;
                beat.moved = true;
                for mut batch in decoded {
                    if let Some(row) = self.router.misplaced(&batch) {
                        return Err(self.misplaced(&batch, row));
                    }
                    beat.records += batch.records;
                    let rejected = std::mem::take(&mut batch.rejected);
                    let routed = self.router.route(batch, rejected.len() as u64);
                    for reject in &rejected {
                        *beat.dead.entry((reject.stream, reject.kind)).or_default() += 1;
                    }
                    if !rejected.is_empty() && self.cuts.send(CutPart::Rejected(rejected)).is_err() {
                        return Ok(());
                    }
                    beat.sent += self.held_bytes(&routed.decoded);
                    if routed.decoded.num_rows() > 0 && !self.tell(LaneInput::Rows(Arc::new(routed))) {
                        return Ok(());
                    }
                }
            }
        }
        // Also when an input has ended: others may have waited for it.
        self.pause();
        Ok(())
    }

    fn misplaced(&self, batch: &DecodedBatch, row: usize) -> RunError {
        let PartitionId { input, partition } = batch.delta.partition;
        RunError::Unsupported(format!(
            "{} partition {partition}, between offsets {} and {}: row {row} of stream {} is not where the partitioner {} puts \
             its `partition_by` columns, so it would never meet what belongs to it. Nothing of this batch was applied. \
             Let producers send the text of these columns as the record's key, declare the partitioner that they use \
             (`partitioner: murmur2` or `crc32`), or let `conjoin repartition` write a topic that fits",
            self.names.inputs[input as usize],
            batch.delta.from,
            batch.delta.to,
            self.names.streams[batch.stream as usize],
            self.names.partitioner,
        ))
    }

    /// Sends one input to every lane; false when a lane is gone, which it has explained elsewhere.
    fn tell(&self, input: LaneInput) -> bool {
        self.lanes.iter().all(|lane| lane.send(input.clone()).is_ok())
    }

    fn pause(&self) {
        let ahead: BTreeSet<PartitionId> = self.router.too_far_ahead();
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        if *paused != ahead {
            *paused = ahead;
        }
    }

    fn tick(&mut self, beat: &mut Beat) -> bool {
        let now = self.clock.monotonic_ms();
        let looked_away = now.saturating_sub(beat.last_tick_ms);
        beat.last_tick_ms = now;
        if looked_away > LOOK_MS {
            self.router.looked_away(looked_away, now);
        }
        while let Ok(committed) = self.committed.try_recv() {
            self.landed(&committed, beat);
        }
        let alive = self.advance(now, beat);
        if now >= beat.last_online_ms + self.flush_ms && self.online {
            beat.last_online_ms = now;
            if let Some(instant) = self.router.online_instant(self.cell.head_max_ms())
                && !self.tell(LaneInput::Online { instant, entities_max: ONLINE_ENTITIES_MAX })
            {
                return false;
            }
        }
        let full = !self.memory.has_room(beat.sent) || self.memory.is_full();
        if (now >= beat.next_cut_ms || full) && !beat.in_flight {
            let moved = beat.moved || full || self.outbox.sent() > beat.acknowledged;
            // Files end when they are old, whether or not anything moves.
            let roll = self.gauges.iter().any(|gauge| gauge.due.load(Ordering::Relaxed));
            if roll || moved {
                self.cut(now, roll, beat);
            }
        }
        if now >= beat.last_board_ms + BOARD_EVERY_MS {
            beat.last_board_ms = now;
            self.tell_guards(now, &mut beat.cut_off);
            self.show(now, beat);
        }
        alive && !self.failure.failed()
    }

    /// Nothing more is read while a cut is under way and as many rows as it has came since: until it is committed they
    /// cannot leave memory. As with a full queue, the time until then counts for nothing. False when nothing more will come.
    fn wait_for_room(&mut self, beat: &mut Beat) -> bool {
        let began = self.clock.monotonic_ms();
        while beat.in_flight && !self.memory.has_room(beat.sent) {
            match self.committed.recv_timeout(TICK) {
                Ok(committed) => self.landed(&committed, beat),
                Err(RecvTimeoutError::Timeout) if !self.failure.failed() => {}
                Err(_) => return false,
            }
        }
        let now = self.clock.monotonic_ms();
        if now > began {
            self.router.looked_away(now - began, now);
            beat.last_tick_ms += now - began;
        }
        true
    }

    /// What the states of samples will hold of a batch: each of those whose impressions it brings has its own.
    fn held_bytes(&self, batch: &DecodedBatch) -> u64 {
        let samples = self.cell.samples.iter().filter(|sample| sample.join.anchor == batch.stream).count();
        if samples == 0 { 0 } else { (samples * memory_of(&batch.rows)) as u64 }
    }

    /// The cut under way is committed.
    fn landed(&self, committed: &Committed, beat: &mut Beat) {
        debug_assert_eq!(committed.cut, self.last_cut);
        beat.in_flight = false;
        // Before any other cut: when that is committed, lanes and sinks have left the places where blocks were before.
        self.tell(LaneInput::Stored { blocks: committed.blocks.clone(), keep: 0 });
        self.memory.limit().look();
        self.telemetry.state_memory_limit(self.memory.limit().bytes());
        let named = |(at, next): (PartitionId, i64)| (self.names.inputs[at.input as usize].clone(), at.partition, next);
        self.board.update(|view| view.committed = beat.positions.iter().map(named).collect());
        self.progress.tell(std::mem::take(&mut beat.positions));
    }

    /// Moves time on.
    fn advance(&mut self, now: u64, beat: &mut Beat) -> bool {
        let frontier = self.frontier.get(self.cell.serving_lag_max_ms());
        let Some(advance) = self.time.advance(&mut self.router, frontier, now) else { return true };
        beat.moved = true;
        self.tell(LaneInput::Advance(advance))
    }

    fn cut(&mut self, now: u64, roll: bool, beat: &mut Beat) -> bool {
        self.last_cut += 1;
        beat.next_cut_ms = now + self.commit_every_ms;
        beat.in_flight = true;
        beat.positions = self.router.positions().clone();
        beat.moved = false;
        beat.acknowledged = self.outbox.sent();
        beat.sent = 0;
        let accounts = self.router.accounts();
        let accepted = |stream: u16| accounts[stream as usize].accepted;
        let samples = self.cell.samples.iter();
        let (_, needed) = self.frontier.get(self.cell.serving_lag_max_ms());
        let (sealed, handover) = self.time.cut(&self.router, needed);
        let cut = ConductorCut {
            number: self.last_cut,
            inputs: input_entries(&self.names.inputs, &self.names.files, self.router.positions()),
            tracks: track_entries(&self.names.streams, &self.names.inputs, &self.router.tracks()),
            watermark: self.time.watermark(),
            outages: outage_entries(&self.names.streams, self.router.outages()),
            online_instant: self.router.online_instant(self.cell.head_max_ms()),
            streams: self.names.streams.iter().cloned().zip(accounts.iter().copied()).collect(),
            anchor_accepted: samples.clone().map(|sample| accepted(sample.join.anchor)).collect(),
            label_accepted: samples
                .map(|sample| sample.join.labels.iter().map(|label| accepted(label.stream)).collect())
                .collect(),
            handover,
        };
        failpoint::step(Failpoint::Cut, || {
            self.cuts.send(CutPart::Conductor(Box::new(cut))).is_ok()
                && self.tell(LaneInput::Cut { number: self.last_cut, roll, sealed })
        })
    }

    /// Ends the run: lets the lanes close what they may, publishes what is due, and commits once more.
    fn finish(&mut self, beat: &mut Beat) {
        let now = self.clock.monotonic_ms();
        if self.failure.failed() {
            return;
        }
        let close = self.router.all_ended() && self.ending == Ending::Close;
        if close {
            self.close_all(now, beat);
        }
        if self.online
            && let Some(instant) = self.router.online_instant(self.cell.head_max_ms())
        {
            self.tell(LaneInput::Online { instant, entities_max: usize::MAX });
        }
        if beat.in_flight && !self.wait_for_commit(beat) {
            return;
        }
        if self.cut(now, true, beat) && self.wait_for_commit(beat) {
            self.outbox.drain(OUTBOX_DRAIN_MAX);
            // So that nothing is sent again by the next process.
            if self.outbox.sent() > beat.acknowledged && self.cut(now, true, beat) {
                self.wait_for_commit(beat);
            }
        }
        self.show(self.clock.monotonic_ms(), beat);
    }

    /// No input has anything more: every window closes, once all lanes have taken in everything.
    fn close_all(&mut self, now: u64, beat: &mut Beat) {
        if !self.advance(now, beat) {
            return;
        }
        while !self.frontier.wait_for(Watermark::MAX, Duration::from_millis(100)) {
            if self.failure.failed() {
                return;
            }
        }
        let (_, oldest) = self.frontier.get(self.cell.serving_lag_max_ms());
        self.tell(LaneInput::Advance(self.time.end(&self.router, oldest)));
    }

    fn wait_for_commit(&self, beat: &mut Beat) -> bool {
        loop {
            match self.committed.recv_timeout(Duration::from_millis(100)) {
                Ok(committed) => {
                    self.landed(&committed, beat);
                    return true;
                }
                Err(RecvTimeoutError::Timeout) if !self.failure.failed() => {}
                Err(_) => return false,
            }
        }
    }

    /// Tells which label streams are cut off; in the log when that has changed.
    fn tell_guards(&self, now: u64, told: &mut BTreeSet<u16>) {
        let cut_off = self.router.streams_cut_off(now);
        for (stream, name) in self.names.streams.iter().enumerate() {
            let stream = stream as u16;
            let Some(guard) = self.router.guard(stream) else { continue };
            let is_cut_off = cut_off.contains(&stream);
            self.telemetry.stream_cut_off(name, is_cut_off);
            let changed = if is_cut_off { told.insert(stream) } else { told.remove(&stream) };
            match (changed, is_cut_off) {
                (true, true) if guard.tag => tracing::warn!(
                    stream = name,
                    max_lag_ms = guard.max_lag_ms,
                    "cut off: rows close without it, and say so (label_stream_down); check who writes its topic"
                ),
                (true, true) => tracing::warn!(
                    stream = name,
                    max_lag_ms = guard.max_lag_ms,
                    "cut off: closing waits for it (guard: hold); check who writes its topic"
                ),
                (true, false) => tracing::info!(stream = name, "is back: no longer cut off"),
                (false, _) => {}
            }
        }
    }

    fn show(&self, now: u64, beat: &Beat) {
        let ends = self.intake.log_ends();
        for (stream, (name, account)) in self.names.streams.iter().zip(self.router.accounts()).enumerate() {
            self.telemetry.stream(name, account);
            let (watermark, newest, idle_partitions) = self.router.progress(stream as u16, now);
            let end = |at| ends.get(&at).map(|end: &LogEnd| end.readable);
            let position_lag_records = self.router.position_lag(stream as u16, end);
            let known = self.router.partitions_of(stream as u16).filter_map(|at| ends.get(&at));
            let blocked_records = known.map(|end| end.blocked).reduce(|sum, more| sum + more);
            let progress = StreamProgress { watermark, newest, position_lag_records, blocked_records, idle_partitions };
            self.telemetry.stream_progress(name, &progress, self.clock.now_ms());
        }
        for ((stream, kind), rows) in &beat.dead {
            self.telemetry.dead_letters(&self.names.streams[*stream as usize], *kind, *rows);
        }
        if let Some(dimensions) = &self.dimensions {
            dimensions.tell(&self.telemetry, now);
        }
        self.memory.limit().look();
        self.telemetry.cell_watermark(Watermark(self.time.watermark()));
        self.outbox.tell(&self.telemetry, now);
        let (depth, capacity) = self.intake.depth();
        self.telemetry.queue("decode", depth, capacity);
        let holding = self.router.holding(now).into_iter().map(|stream| self.names.streams[stream as usize].clone());
        let holding: Vec<String> = holding.collect();
        let accounts = self.names.streams.iter().cloned().zip(self.router.accounts().iter().copied()).collect();
        let instant = self.router.online_instant(self.cell.head_max_ms());
        let watermark = self.time.watermark();
        self.board.update(|view| {
            view.now_ms = now;
            view.streams = accounts;
            view.records_this_run = beat.records;
            view.watermark = (watermark > i64::MIN).then_some(watermark);
            view.newest = self.router.online_instant(0);
            view.online_instant = instant;
            view.rows_written = self.gauges.iter().map(|gauge| gauge.rows.load(Ordering::Relaxed)).sum();
            view.holding = holding;
            view.dead_letters = beat.dead.values().sum();
        });
    }
}
