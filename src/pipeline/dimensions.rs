//! Dimensions: opens what rows are enriched from, and keeps it fresh while the pipeline runs.
//!
//!   files  ── one thread each: look, read what changed ──┐
//!   topics ── one thread each: follow ───────────────────┴─> the table that look-ups see
//!
//! Holds: every table is whole, and every server has answered, before the first record is read; what cannot be refreshed
//! stays as it was, is told and counted. One set serves all cells of a process.
//! Does not: know streams.

use crate::config::{Plan, TopicPlan};
use crate::dimension::{Dimension, DimensionSource};
use crate::env::Clock;
use crate::event::EnrichError;
use crate::pipeline::topics::{Follower, may_pass};
use crate::pipeline::{Board, Phase, RunError, StopSignal, World};
use crate::telemetry::{DimensionProgress, Telemetry};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

pub struct Dimensions {
    all: Vec<Arc<Dimension>>,
    /// Ends those who refresh.
    done: StopSignal,
    refreshers: Vec<JoinHandle<()>>,
}

impl Dimensions {
    /// Those that the process has opened already, or of its own; `None` when a stop was requested while one was away.
    pub(super) fn of_run(plan: &Plan, world: &World) -> Result<Option<Arc<Dimensions>>, RunError> {
        let open = || Dimensions::open(plan, &world.clock, &world.board, &world.stop);
        match world.dimensions.clone().map_or_else(open, Ok) {
            Ok(dimensions) => Ok(Some(dimensions)),
            Err(RunError::Enrich(EnrichError::Stopped)) => {
                world.board.update(|view| view.phase = Phase::Ended);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads all there is to read and goes on doing so. What is away is waited for; a stop that is requested meanwhile ends
    /// it with [`EnrichError::Stopped`].
    pub fn open(
        plan: &Plan,
        clock: &Arc<dyn Clock>,
        board: &Board,
        stop: &StopSignal,
    ) -> Result<Arc<Dimensions>, RunError> {
        let mut dimensions = Dimensions { all: Vec::new(), done: StopSignal::default(), refreshers: Vec::new() };
        for planned in &plan.dimensions {
            let dimension = Arc::new(Dimension::new(planned.spec.clone())?);
            let load = || dimension.load(clock.monotonic_ms()).map_err(RunError::from);
            until_there(&load, board, stop)?;
            if let DimensionSource::Files(files) = &planned.spec.source {
                dimensions.refresh(&dimension, Duration::from_millis(files.refresh_ms as u64), clock)?;
            }
            if let Some(topic) = &planned.topic {
                dimensions.follow(plan, topic, &dimension, clock, (board, stop))?;
            }
            dimensions.all.push(dimension);
        }
        Ok(Arc::new(dimensions))
    }

    /// Of rows that a test gives.
    pub fn of(all: Vec<Dimension>) -> Arc<Dimensions> {
        let all = all.into_iter().map(Arc::new).collect();
        Arc::new(Dimensions { all, done: StopSignal::default(), refreshers: Vec::new() })
    }

    fn refresh(&mut self, of: &Arc<Dimension>, every: Duration, clock: &Arc<dyn Clock>) -> Result<(), RunError> {
        let (dimension, clock, done) = (of.clone(), clock.clone(), self.done.clone());
        let body = move || {
            while !done.wait(every) {
                match dimension.load(clock.monotonic_ms()) {
                    Ok(true) => tracing::info!("dimension {} was read anew", dimension.spec.name),
                    Ok(false) => {}
                    Err(error) => tracing::warn!("{error}; rows go on being enriched from what was read before"),
                }
            }
        };
        self.spawn(&of.spec.name, body)
    }

    fn follow(
        &mut self,
        plan: &Plan,
        topic: &TopicPlan,
        dimension: &Arc<Dimension>,
        clock: &Arc<dyn Clock>,
        (board, stop): (&Board, &StopSignal),
    ) -> Result<(), RunError> {
        let connect = || Follower::connect(plan, topic, dimension.clone(), clock, &self.done);
        let mut follower = until_there(&connect, board, stop)?;
        if !follower.catch_up(stop)? {
            return Err(EnrichError::Stopped.into());
        }
        let done = self.done.clone();
        self.spawn(&dimension.spec.name, move || follower.follow(&done))
    }

    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), RunError> {
        let name = format!("dimension-{name}");
        let thread = std::thread::Builder::new().name(name.clone()).spawn(body);
        self.refreshers.push(thread.map_err(|source| RunError::Spawn { name, source })?);
        Ok(())
    }

    /// By its number in the plan.
    pub fn get(&self, number: usize) -> &Dimension {
        &self.all[number]
    }

    /// Shows what they count and hold.
    pub fn tell(&self, telemetry: &Telemetry, now_ms: u64) {
        for dimension in &self.all {
            let gauge = &dimension.gauge;
            let of = |number: &AtomicU64| number.load(Ordering::Relaxed);
            let progress = DimensionProgress {
                found: of(&gauge.found),
                missing: of(&gauge.missing),
                cached: of(&gauge.cached),
                requests: of(&gauge.requests),
                requested_keys: of(&gauge.requested_keys),
                failures: of(&gauge.failures),
                refreshes: of(&gauge.refreshes),
                age_ms: now_ms.saturating_sub(of(&gauge.fresh_at_ms)),
                rows: of(&gauge.rows),
                bytes: of(&gauge.bytes),
            };
            telemetry.dimension(&dimension.spec.name, &progress);
        }
    }
}

/// Tries until it is there.
fn until_there<T>(attempt: &dyn Fn() -> Result<T, RunError>, board: &Board, stop: &StopSignal) -> Result<T, RunError> {
    let (mut backoff, mut problem) = (BACKOFF_MIN, false);
    loop {
        match attempt() {
            Err(error) if may_pass(&error) => {
                tracing::warn!("{error}; trying again in {:.1} s", backoff.as_secs_f64());
                board.update(|view| view.connection_problem = Some(error.to_string()));
                problem = true;
            }
            answer => {
                if problem {
                    board.update(|view| view.connection_problem = None);
                }
                return answer;
            }
        }
        if stop.wait(backoff) {
            return Err(EnrichError::Stopped.into());
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

impl Drop for Dimensions {
    fn drop(&mut self) {
        self.done.request();
        for thread in self.refreshers.drain(..) {
            // It has told what it had to tell.
            let _ = thread.join();
        }
    }
}
