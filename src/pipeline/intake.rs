//! Intake: reads and decodes in parallel, and hands everything on in the order in which it was read.
//!
//!   source thread ─┐ ticket k ┌─> decode worker 0 ─┐
//!   source thread ─┴──────────┴─> decode worker 1 ─┴─> taken in ticket order by the conductor
//!
//! A ticket fixes the order when a record batch is read; worker `k mod D` decodes it. All queues are bounded: a slow lane
//! slows the reading down, nothing else. The other way, sources learn which positions were committed.

use crate::decode::Decoder;
use crate::env::failpoint::{self, Failpoint};
use crate::event::{DecodedBatch, PartitionId, RawBatch};
use crate::pipeline::progress::Progress;
use crate::pipeline::{Failure, RunError, Schemas, StopSignal};
use crate::source::{LogEnd, Source, SourceEvent};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Raw batches that wait for one decode worker, and decoded ones that wait for the conductor.
const QUEUE_BATCHES_MAX: usize = 4;
/// How long a source waits for data before it looks at the pause list again.
const POLL_TIMEOUT: Duration = Duration::from_millis(50);

/// What comes out, in order.
pub enum Arrival {
    /// A batch, decoded by each stream of its input.
    Batch {
        raw_delta: crate::event::PositionDelta,
        decoded: Vec<DecodedBatch>,
    },
    CaughtUp(PartitionId),
    OutOfSight(PartitionId),
    Ended(PartitionId),
    Connection {
        ready: bool,
        message: String,
    },
}

enum Ticketed {
    Raw(RawBatch),
    Event(Arrival),
}

/// Where the logs end, as the sources last heard.
type LogEnds = Arc<Mutex<BTreeMap<PartitionId, LogEnd>>>;

/// Partitions that must not be read on, as the router last said.
pub type PauseList = Arc<Mutex<BTreeSet<PartitionId>>>;

/// What the source threads share.
struct Shared {
    tickets: Arc<Mutex<Tickets>>,
    paused: PauseList,
    log_ends: LogEnds,
    progress: Progress,
    stop: StopSignal,
}

impl Shared {
    fn show_ends(&self, source: &dyn Source) {
        self.log_ends.lock().unwrap_or_else(PoisonError::into_inner).extend(source.log_ends());
    }
}

struct Tickets {
    next: usize,
    workers: Vec<Sender<Ticketed>>,
}

/// Who decodes.
pub struct Decoding<F> {
    pub workers: usize,
    /// Makes, for one worker, the decoders of each input's streams.
    pub decoders: F,
    pub schemas: Arc<Schemas>,
}

/// The receiving end, and the threads behind it.
pub struct Intake {
    workers: Vec<Receiver<Arrival>>,
    next: usize,
    log_ends: LogEnds,
    pub threads: Vec<JoinHandle<()>>,
}

impl Intake {
    pub fn start(
        sources: Vec<Box<dyn Source>>,
        decoding: Decoding<impl Fn() -> Vec<Vec<Decoder>>>,
        paused: PauseList,
        progress: Progress,
        stop: StopSignal,
        failure: Failure,
    ) -> Intake {
        let (mut inputs, mut outputs, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        for worker in 0..decoding.workers {
            let (raw_out, raw_in) = bounded(QUEUE_BATCHES_MAX);
            let (decoded_out, decoded_in) = bounded(QUEUE_BATCHES_MAX);
            let (decoders, schemas) = ((decoding.decoders)(), decoding.schemas.clone());
            let body = move || decode(raw_in, decoded_out, decoders, &schemas);
            threads.push(failure.spawn(&format!("decode-{worker}"), body));
            inputs.push(raw_out);
            outputs.push(decoded_in);
        }
        let tickets = Arc::new(Mutex::new(Tickets { next: 0, workers: inputs }));
        let log_ends = LogEnds::default();
        for (number, source) in sources.into_iter().enumerate() {
            let shared = Shared {
                tickets: tickets.clone(),
                paused: paused.clone(),
                log_ends: log_ends.clone(),
                progress: progress.clone(),
                stop: stop.clone(),
            };
            let body = move || source_thread(source, shared);
            threads.push(failure.spawn(&format!("source-{number}"), body));
        }
        Intake { workers: outputs, next: 0, log_ends, threads }
    }

    /// The next arrival in order; `None` when nothing came in time.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Arrival>, Disconnected> {
        match self.workers[self.next].recv_timeout(timeout) {
            Ok(arrival) => {
                self.next = (self.next + 1) % self.workers.len();
                Ok(Some(arrival))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Disconnected),
        }
    }

    /// As the sources last heard; only of inputs that tell.
    pub fn log_ends(&self) -> BTreeMap<PartitionId, LogEnd> {
        self.log_ends.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn depth(&self) -> (usize, usize) {
        (self.workers.iter().map(Receiver::len).sum(), QUEUE_BATCHES_MAX * self.workers.len())
    }
}

/// All sources have ended or failed.
pub struct Disconnected;

/// Reads to the end, and stays to tell the outside of the last commit.
fn source_thread(mut source: Box<dyn Source>, shared: Shared) -> Result<(), RunError> {
    let told = read(source.as_mut(), &shared)?;
    let Shared { tickets, progress, .. } = shared;
    // The decoders end when the last source has let go of them.
    drop(tickets);
    if let Some(positions) = progress.wait_for_last(told) {
        failpoint::step(Failpoint::OffsetCommit, || source.committed(&positions));
    }
    Ok(())
}

/// Reads to the end; the number of the last commit that the source was told of.
fn read(source: &mut dyn Source, shared: &Shared) -> Result<u64, RunError> {
    let mut told = 0;
    let partitions: BTreeSet<PartitionId> = source.partitions().into_iter().collect();
    let mut open = partitions.clone();
    let mut held: BTreeSet<PartitionId> = BTreeSet::new();
    while !shared.stop.requested() && !open.is_empty() {
        let wanted: BTreeSet<PartitionId> =
            shared.paused.lock().unwrap_or_else(PoisonError::into_inner).intersection(&partitions).copied().collect();
        wanted.difference(&held).for_each(|partition| source.pause(*partition));
        held.difference(&wanted).for_each(|partition| source.resume(*partition));
        held = wanted;
        if let Some(positions) = shared.progress.newer(&mut told) {
            failpoint::step(Failpoint::OffsetCommit, || source.committed(&positions));
            shared.show_ends(source);
        }
        let item = match failpoint::step(Failpoint::Read, || source.poll(POLL_TIMEOUT))? {
            SourceEvent::Nothing => {
                // Nothing is committed either while an open transaction holds everything back.
                shared.show_ends(source);
                continue;
            }
            SourceEvent::Batch(batch) => Ticketed::Raw(batch),
            SourceEvent::CaughtUp(partition) => Ticketed::Event(Arrival::CaughtUp(partition)),
            SourceEvent::OutOfSight(partition) => Ticketed::Event(Arrival::OutOfSight(partition)),
            SourceEvent::Ended(partition) => {
                open.remove(&partition);
                Ticketed::Event(Arrival::Ended(partition))
            }
            SourceEvent::Connection { ready, message } => Ticketed::Event(Arrival::Connection { ready, message }),
        };
        let mut tickets = shared.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        let worker = tickets.next;
        tickets.next = (worker + 1) % tickets.workers.len();
        // Sent under the lock: the order of tickets is the order of the queues.
        if tickets.workers[worker].send(item).is_err() {
            break;
        }
    }
    Ok(told)
}

fn decode(
    input: Receiver<Ticketed>,
    output: Sender<Arrival>,
    mut decoders: Vec<Vec<Decoder>>,
    schemas: &Schemas,
) -> Result<(), RunError> {
    for item in input {
        let arrival = match item {
            Ticketed::Event(event) => event,
            Ticketed::Raw(raw) => {
                let decoders = &mut decoders[raw.delta.partition.input as usize];
                let decoded = decoders.iter_mut().map(|decoder| schemas.decode(decoder, &raw));
                // None of the batch goes on when a stop came while the registry was away.
                let Some(decoded) = decoded.collect::<Result<Option<Vec<_>>, RunError>>()? else { break };
                Arrival::Batch { raw_delta: raw.delta, decoded }
            }
        };
        if output.send(arrival).is_err() {
            break;
        }
    }
    Ok(())
}
