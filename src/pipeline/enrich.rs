//! Enrich: gives the rows of a batch what their stream takes from dimensions.
//!
//! ```text
//!   declared columns of a batch ─ keys, event times ─> Dimension ─> columns behind them
//!                                                        └ away? wait, and ask again
//! ```
//!
//! Holds: a batch is enriched whole or not at all; a dimension that is away holds its batch back, as a schema registry that
//! is away does, and makes no null.
//! Does not: decide which rows are looked up.

use crate::config::Plan;
use crate::dimension::{Ask, Dimension, EnrichSpec, Found};
use crate::env::Clock;
use crate::event::{Enrich, EnrichError, EventTime, Partitioner, StreamId, fingerprints};
use crate::pipeline::{Board, Dimensions, StopSignal};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::kernels::zip::zip;
use arrow::datatypes::TimestampMillisecondType;
use std::sync::Arc;
use std::time::Duration;

const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Batches that may wait for stores at one time.
const LOOKUPS_IN_FLIGHT_MIN: usize = 4;

/// How many threads decode: one per lane; more where batches wait for stores, which costs no core.
pub(super) fn decode_workers(plan: &Plan) -> usize {
    let asked = |enrich: &EnrichSpec| plan.dimensions[enrich.dimension].spec.source.is_asked();
    let waits = plan.streams.iter().flat_map(|stream| &stream.enrich).any(asked);
    plan.state.lanes.max(if waits { LOOKUPS_IN_FLIGHT_MIN } else { 1 })
}

/// Looks up for all streams of a plan.
pub struct Enricher {
    dimensions: Arc<Dimensions>,
    streams: Vec<Enriched>,
    partitioner: Partitioner,
    clock: Arc<dyn Clock>,
    board: Board,
    stop: StopSignal,
}

/// A stream, as far as look-ups concern it.
struct Enriched {
    /// Its event time column.
    time: usize,
    specs: Vec<EnrichSpec>,
}

impl Enricher {
    /// `None` where no stream takes anything.
    pub fn new(
        plan: &Plan,
        dimensions: &Arc<Dimensions>,
        clock: Arc<dyn Clock>,
        board: Board,
        stop: StopSignal,
    ) -> Option<Arc<Enricher>> {
        let enriched =
            |stream: &crate::config::StreamPlan| Enriched { time: stream.decode.time, specs: stream.enrich.clone() };
        let streams: Vec<Enriched> = plan.streams.iter().map(enriched).collect();
        if streams.iter().all(|stream| stream.specs.is_empty()) {
            return None;
        }
        let (dimensions, partitioner) = (dimensions.clone(), plan.partitioner);
        Some(Arc::new(Enricher { dimensions, streams, partitioner, clock, board, stop }))
    }

    /// Looks those rows of a stream up once more that found nothing where they may wait for it.
    pub fn again(&self, stream: StreamId, rows: RecordBatch) -> Result<RecordBatch, EnrichError> {
        let enriched = &self.streams[stream as usize];
        let mut first = rows.num_columns() - enriched.specs.iter().map(EnrichSpec::width).sum::<usize>();
        let mut columns = rows.columns().to_vec();
        for spec in &enriched.specs {
            let own = first..first + spec.width();
            first = own.end;
            let is_empty = |row: usize| columns[own.clone()].iter().all(|column| column.is_null(row));
            if spec.retry_ms.is_none() {
                continue;
            }
            let wanted: Vec<bool> = (0..rows.num_rows()).map(is_empty).collect();
            if !wanted.contains(&true) {
                continue;
            }
            let found = self.one(spec, &rows, &times(rows.column(enriched.time)), &wanted, true)?;
            let mask = BooleanArray::from(found.found);
            for (column, late) in columns[own].iter_mut().zip(&found.columns) {
                *column = zip(&mask, late, column).map_err(|error| EnrichError::Failed(error.to_string()))?;
            }
        }
        RecordBatch::try_new(rows.schema(), columns).map_err(|error| EnrichError::Failed(error.to_string()))
    }

    fn one(
        &self,
        spec: &EnrichSpec,
        rows: &RecordBatch,
        at: &[EventTime],
        wanted: &[bool],
        again: bool,
    ) -> Result<Found, EnrichError> {
        let keys: Vec<ArrayRef> = spec.on.iter().map(|column| rows.column(*column).clone()).collect();
        let prints = fingerprints(&keys.iter().collect::<Vec<_>>(), rows.num_rows(), self.partitioner);
        // Nothing has a null for its key.
        let whole = |row: usize| keys.iter().all(|key| key.is_valid(row));
        let wanted: Vec<bool> = wanted.iter().enumerate().map(|(row, wanted)| *wanted && whole(row)).collect();
        let now_ms = self.clock.monotonic_ms();
        let (select, version) = (&spec.select, spec.version);
        let ask = Ask { keys: &keys, prints: &prints, at, wanted: &wanted, select, version, again, now_ms };
        self.until_answered(self.dimensions.get(spec.dimension), &ask)
    }

    fn until_answered(&self, dimension: &Dimension, ask: &Ask<'_>) -> Result<Found, EnrichError> {
        let (mut backoff, mut problem) = (BACKOFF_MIN, false);
        loop {
            match dimension.look_up(ask) {
                Ok(found) => {
                    if problem {
                        tracing::info!("dimension {} answers again", dimension.spec.name);
                        self.board.update(|view| view.connection_problem = None);
                    }
                    return Ok(found);
                }
                Err(error) if error.retry => {
                    tracing::warn!("{error}; reading waits for it, trying again in {:.1} s", backoff.as_secs_f64());
                    self.board.update(|view| view.connection_problem = Some(error.to_string()));
                    problem = true;
                }
                Err(error) => return Err(EnrichError::Failed(error.to_string())),
            }
            if self.stop.wait(backoff) {
                return Err(EnrichError::Stopped);
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }
}

impl Enrich for Enricher {
    fn enrich(&self, stream: StreamId, rows: &RecordBatch, wanted: &[bool]) -> Result<Vec<ArrayRef>, EnrichError> {
        let enriched = &self.streams[stream as usize];
        let at = times(rows.column(enriched.time));
        let mut columns = Vec::new();
        for spec in &enriched.specs {
            columns.extend(self.one(spec, rows, &at, wanted, false)?.columns);
        }
        Ok(columns)
    }
}

/// A row without a time is refused anyway.
fn times(column: &ArrayRef) -> Vec<EventTime> {
    let times = column.as_primitive::<TimestampMillisecondType>();
    times.iter().map(|time| time.unwrap_or(EventTime::MIN)).collect()
}
