//! Dimensions: opens what rows are enriched from, and keeps it fresh while the pipeline runs.
//!
//!   files ── one thread each: look, read what changed ──> the table that look-ups see
//!
//! Holds: every table is whole before the first record is read; what cannot be refreshed stays as it was, is told and
//! counted. One set serves all cells of a process.
//! Does not: know streams.

use crate::config::Plan;
use crate::dimension::{Dimension, DimensionGauge, DimensionSource};
use crate::env::Clock;
use crate::pipeline::{RunError, StopSignal};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

pub struct Dimensions {
    all: Vec<Arc<Dimension>>,
    /// Ends those who refresh.
    done: StopSignal,
    refreshers: Vec<JoinHandle<()>>,
}

impl Dimensions {
    /// Reads all there is to read and goes on doing so.
    pub fn open(plan: &Plan, clock: &Arc<dyn Clock>) -> Result<Arc<Dimensions>, RunError> {
        let mut dimensions = Dimensions { all: Vec::new(), done: StopSignal::default(), refreshers: Vec::new() };
        for planned in &plan.dimensions {
            let dimension = Arc::new(Dimension::new(planned.spec.clone())?);
            dimension.load(clock.monotonic_ms())?;
            let DimensionSource::Files(files) = &planned.spec.source;
            dimensions.refresh(&dimension, Duration::from_millis(files.refresh_ms as u64), clock)?;
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

    /// What they count, with their names.
    pub fn gauges(&self) -> impl Iterator<Item = (&str, &Arc<DimensionGauge>)> {
        self.all.iter().map(|dimension| (dimension.spec.name.as_str(), &dimension.gauge))
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
