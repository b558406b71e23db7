//! Writer: the thread that brings features to the store, whatever the store does.
//!
//!   send ──> [bounded queue] ──> write ──ok──> counted
//!                                  └─ failed ─> backlog (newest row per entity) ──backoff──> write again
//!
//! In: batches with their versions, from any number of lanes. Out: every row written once the store is there again,
//! or superseded by a newer one that is.
//! Holds: memory is bounded (queue, backlog); while the store is away only the newest row of an entity waits, and when
//! the backlog is full the queue fills: who looks at [`OnlineSender::room`] first never waits, and keeps what is to be
//! written where it came from. Features are late then, never lost. A store that lost what it had is told of.
//! Does not: wait to coalesce (the lanes did that), give up, read a clock: waiting is done on the queue.

use super::backlog::Backlog;
use super::{OnlineStore, StoreError, Version, Write, WriteSummary};
use crate::env::failpoint::{self, Failpoint};
use crate::event::{DurationMs, FeatureBatch};
use crossbeam_channel::{Receiver, Sender, TryRecvError, after, bounded, never, select};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64_with_seed;

#[derive(Clone, Copy, Debug)]
pub struct WriterLimits {
    pub queue_batches_max: usize,
    /// Entities that may wait while the store is away; reached, the queue fills.
    pub backlog_entities_max: usize,
    /// Rows handed to the store at once.
    pub write_rows_max: usize,
    pub backoff_min_ms: DurationMs,
    pub backoff_max_ms: DurationMs,
    /// How often a store without work is asked whether it is there.
    pub ping_every_ms: DurationMs,
}

impl Default for WriterLimits {
    fn default() -> Self {
        WriterLimits {
            queue_batches_max: 16,
            backlog_entities_max: 100_000,
            write_rows_max: 2_000,
            backoff_min_ms: 50,
            backoff_max_ms: 5_000,
            ping_every_ms: 2_000,
        }
    }
}

/// About once a minute, at the longest backoff.
const LOG_EVERY_ATTEMPTS: u32 = 12;

/// What the writer has done and how it is, for metrics and readiness.
#[derive(Debug, Default)]
pub struct WriterStats {
    written: AtomicU64,
    stale: AtomicU64,
    refused: AtomicU64,
    failed_attempts: AtomicU64,
    backlog_entities: AtomicU64,
    losses: AtomicU64,
    ready: AtomicBool,
    last_error: Mutex<Option<String>>,
}

/// One reading of [`WriterStats`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriterSnapshot {
    pub written: u64,
    /// Rows of which the store had newer ones.
    pub stale: u64,
    /// Rows that the store will never take.
    pub refused: u64,
    pub failed_attempts: u64,
    pub backlog_entities: u64,
    /// How often the store had lost what it acknowledged.
    pub losses: u64,
    /// Whether the store answered last time.
    pub ready: bool,
    /// The last thing that went wrong, also when all is well again.
    pub last_error: Option<String>,
}

impl WriterStats {
    pub fn snapshot(&self) -> WriterSnapshot {
        WriterSnapshot {
            written: self.written.load(Ordering::Relaxed),
            stale: self.stale.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            failed_attempts: self.failed_attempts.load(Ordering::Relaxed),
            backlog_entities: self.backlog_entities.load(Ordering::Relaxed),
            losses: self.losses.load(Ordering::Relaxed),
            ready: self.ready.load(Ordering::Relaxed),
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Whether the store answered last time.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// How often the store had lost what it acknowledged.
    pub fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    fn blame(&self, error: String) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

/// Rows that did not reach the store in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} feature rows did not reach the online store in time (last error: {}); they are written again from state \
     when the pipeline starts next", .0.backlog_entities, .0.last_error.as_deref().unwrap_or("none"))]
pub struct FlushError(pub WriterSnapshot);

/// The writer's thread is gone: it panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the online writer has stopped; restart the pipeline")]
pub struct WriterGone;

/// A handle on the writer's thread. Dropping it ends the thread, without waiting for rows that the store did not take.
pub struct OnlineWriter {
    jobs: Sender<Job>,
    stats: Arc<WriterStats>,
    /// Nothing is ever sent on it: the thread ends when it is closed.
    running: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The sending side of the writer, one per lane.
#[derive(Clone)]
pub struct OnlineSender {
    jobs: Sender<Job>,
    stats: Arc<WriterStats>,
}

enum Job {
    Write(FeatureBatch, Version),
    /// Answered when nothing waits any more.
    Flush(Sender<()>),
}

impl OnlineSender {
    /// Hands a batch over; blocks while the queue is full. An entity stands once in a batch at most, and the next
    /// batch with that entity has a higher version.
    pub fn send(&self, batch: FeatureBatch, version: Version) -> Result<(), WriterGone> {
        self.jobs.send(Job::Write(batch, version)).map_err(|_| WriterGone)
    }

    /// How many batches would be taken at once. Others may send meanwhile.
    pub fn room(&self) -> usize {
        self.jobs.capacity().map_or(usize::MAX, |capacity| capacity.saturating_sub(self.jobs.len()))
    }

    pub fn stats(&self) -> &WriterStats {
        &self.stats
    }

    /// Waits until everything sent so far is in the store, `within` at most.
    pub fn flush(&self, within: Duration) -> Result<(), FlushError> {
        let late = || FlushError(self.stats.snapshot());
        let (done, wait) = bounded(1);
        self.jobs.send_timeout(Job::Flush(done), within).map_err(|_| late())?;
        wait.recv_timeout(within).map_err(|_| late())
    }
}

impl OnlineWriter {
    /// Starts the thread. `seed` tells the backoffs of different processes apart.
    pub fn start(store: Arc<dyn OnlineStore>, limits: WriterLimits, seed: u64) -> std::io::Result<Self> {
        let (jobs, queue) = bounded(limits.queue_batches_max);
        let stats = Arc::new(WriterStats::default());
        let (running, stop) = bounded(0);
        let writer = Writer {
            store,
            limits,
            seed,
            queue,
            stats: stats.clone(),
            stop,
            backlog: Backlog::default(),
            flushes: Vec::new(),
            failures: 0,
        };
        let thread = std::thread::Builder::new().name("online-writer".to_owned()).spawn(move || writer.run())?;
        Ok(OnlineWriter { jobs, stats, running: Some(running), thread: Some(thread) })
    }

    pub fn sender(&self) -> OnlineSender {
        OnlineSender { jobs: self.jobs.clone(), stats: self.stats.clone() }
    }

    pub fn stats(&self) -> Arc<WriterStats> {
        self.stats.clone()
    }

    /// See [`OnlineSender::flush`].
    pub fn flush(&self, within: Duration) -> Result<(), FlushError> {
        self.sender().flush(within)
    }

    /// Flushes and ends the thread. The senders of the lanes must be gone or unused by then.
    pub fn stop(self, within: Duration) -> Result<WriterSnapshot, FlushError> {
        self.flush(within)?;
        Ok(self.stats.snapshot())
    }
}

impl Drop for OnlineWriter {
    fn drop(&mut self) {
        self.running = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Writer {
    store: Arc<dyn OnlineStore>,
    limits: WriterLimits,
    seed: u64,
    queue: Receiver<Job>,
    stats: Arc<WriterStats>,
    stop: Receiver<()>,
    backlog: Backlog,
    flushes: Vec<Sender<()>>,
    /// Attempts that failed since the last that did not.
    failures: u32,
}

impl Writer {
    fn run(mut self) {
        self.ping();
        while self.stop.try_recv() == Err(TryRecvError::Empty) {
            if self.failures > 0 {
                self.wait_out_backoff();
            } else {
                self.take_job();
            }
            if self.backlog.is_empty() {
                for done in self.flushes.drain(..) {
                    // Whoever asked may have stopped waiting.
                    let _ = done.try_send(());
                }
            }
        }
    }

    /// All is well: takes the next job at once, or pings when there is none.
    fn take_job(&mut self) {
        if !self.backlog.is_empty() {
            while self.backlog.len() < self.limits.backlog_entities_max
                && let Ok(job) = self.queue.try_recv()
            {
                self.hold(job);
            }
            return self.write_backlog();
        }
        let (queue, stop) = (self.queue.clone(), self.stop.clone());
        select! {
            recv(queue) -> job => match job {
                Ok(Job::Write(batch, version)) => self.write(batch, version),
                Ok(job) => self.hold(job),
                Err(_) => {}
            },
            recv(stop) -> _ => {}
            default(millis(self.limits.ping_every_ms)) => self.ping(),
        }
    }

    /// The store is away: collects what comes until it is time to try again.
    fn wait_out_backoff(&mut self) {
        let again = after(self.backoff());
        let (queue, stop, closed) = (self.queue.clone(), self.stop.clone(), never());
        loop {
            let full = self.backlog.len() >= self.limits.backlog_entities_max;
            let queue = if full { &closed } else { &queue };
            select! {
                recv(again) -> _ => break,
                recv(stop) -> _ => return,
                recv(queue) -> job => match job {
                    Ok(job) => self.hold(job),
                    Err(_) => return,
                },
            }
        }
        if self.backlog.is_empty() { self.ping() } else { self.write_backlog() }
    }

    fn ping(&mut self) {
        let pong = self.store.ping();
        self.attempted(pong.as_ref().err());
    }

    fn hold(&mut self, job: Job) {
        match job {
            Job::Write(batch, version) => self.backlog.push(batch, version),
            Job::Flush(done) => self.flushes.push(done),
        }
        self.show_backlog();
    }

    /// Writes a batch straight from its columns; what the store does not take goes to the backlog.
    fn write(&mut self, batch: FeatureBatch, version: Version) {
        let rows: Vec<u32> = (0..batch.entities.len() as u32).collect();
        for chunk in rows.chunks(self.limits.write_rows_max) {
            let write = [Write { batch: &batch, rows: chunk, version }];
            let result = failpoint::step(Failpoint::OnlineWrite, || self.store.write(&write));
            if !self.wrote(result) {
                // Rows that were written already are written again: they are of the same version.
                self.backlog.push(batch, version);
                break;
            }
        }
        self.show_backlog();
    }

    fn write_backlog(&mut self) {
        let store = self.store.clone();
        let result = self.backlog.write_oldest(self.limits.write_rows_max, |writes| store.write(writes));
        self.wrote(result);
        self.show_backlog();
    }

    fn wrote(&mut self, result: Result<WriteSummary, StoreError>) -> bool {
        self.attempted(result.as_ref().err());
        let Ok(summary) = result else {
            return false;
        };
        self.stats.written.fetch_add(summary.written, Ordering::Relaxed);
        self.stats.stale.fetch_add(summary.stale, Ordering::Relaxed);
        self.stats.refused.fetch_add(summary.refused, Ordering::Relaxed);
        if let Some(refusal) = summary.refusal {
            tracing::error!(rows = summary.refused, "feature rows refused: {refusal}");
            self.stats.blame(refusal);
        }
        true
    }

    fn attempted(&mut self, error: Option<&StoreError>) {
        let losses = self.store.losses();
        if self.stats.losses.swap(losses, Ordering::Relaxed) < losses {
            tracing::error!(
                losses,
                "the online store has lost rows it had acknowledged; all features are written again"
            );
        }
        match error {
            None => {
                if self.failures > 0 {
                    tracing::info!(attempts = self.failures, backlog = self.backlog.len(), "online store is back");
                }
                self.failures = 0;
            }
            Some(error) => {
                if self.failures.is_multiple_of(LOG_EVERY_ATTEMPTS) {
                    let backlog = self.backlog.len();
                    match error.kind.passes_by_itself() {
                        true => tracing::warn!(backlog, "{error}; features are kept and written when it answers"),
                        false => tracing::error!(backlog, "{error}; features are kept and written when it answers"),
                    }
                }
                self.failures = self.failures.saturating_add(1);
                self.stats.failed_attempts.fetch_add(1, Ordering::Relaxed);
                self.stats.blame(error.to_string());
            }
        }
        self.stats.ready.store(error.is_none(), Ordering::Relaxed);
    }

    fn show_backlog(&self) {
        self.stats.backlog_entities.store(self.backlog.len() as u64, Ordering::Relaxed);
    }

    fn backoff(&self) -> Duration {
        let doubled = self.limits.backoff_min_ms.saturating_mul(1 << self.failures.saturating_sub(1).min(20));
        let whole = doubled.min(self.limits.backoff_max_ms);
        let hash = xxh3_64_with_seed(&self.failures.to_le_bytes(), self.seed);
        millis(whole / 2 + (hash % (whole as u64 / 2 + 1)) as i64)
    }
}

fn millis(ms: DurationMs) -> Duration {
    Duration::from_millis(ms.max(0) as u64)
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
