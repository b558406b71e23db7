//! Dimension: tables that rows are enriched from.
//!
//! ```text
//!   keys and times of a batch ─┬─> Table: all of it in memory, replaced or changed while it is read
//!                              └─> Remote: a bounded cache, and one request for the keys that are not in it
//! ```
//!
//! In: the fingerprints, keys and event times of a batch's rows. Out: the columns that were asked for, null where the
//! dimension does not have the key.
//! Holds: a row finds the version with the greatest `valid_from` that is not after its time; without `valid_from` the one
//! that is known; a look-up never sees half of a refresh.
//! Does not: wait for a source that is away, start a thread, read a clock: whoever wires it does.

mod spec;
mod cells;
mod table;
mod files;
mod topic;
mod remote;
mod redis;
mod postgres;

use cells::Cells;
use files::FileTable;
use postgres::PostgresTable;
use redis::RedisHashes;
use remote::Remote;
pub use spec::*;
use topic::TopicTable;
pub use topic::{ChangedRecord, Changes};

use crate::event::{EventTime, Fingerprint, Value};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::error::ArrowError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A dimension as it is looked up.
pub struct Dimension {
    pub spec: Arc<DimensionSpec>,
    pub gauge: Arc<DimensionGauge>,
    held: Held,
}

enum Held {
    Files(FileTable),
    Topic(TopicTable),
    Remote(Remote),
}

impl Dimension {
    /// With nothing in it, and nothing connected.
    pub fn new(spec: Arc<DimensionSpec>) -> Result<Dimension, DimensionError> {
        let gauge = Arc::<DimensionGauge>::default();
        let held = match &spec.source {
            DimensionSource::Files(_) => Held::Files(FileTable::new(spec.clone(), gauge.clone())),
            DimensionSource::Topic => Held::Topic(TopicTable::new(spec.clone(), gauge.clone())),
            DimensionSource::Redis(redis) => {
                let source = RedisHashes::open(spec.clone(), redis, gauge.clone())?;
                Held::Remote(Remote::new(spec.clone(), redis.cache, Box::new(source), gauge.clone()))
            }
            DimensionSource::Postgres(postgres) => {
                let source = PostgresTable::open(spec.clone(), postgres)?;
                Held::Remote(Remote::new(spec.clone(), postgres.cache, Box::new(source), gauge.clone()))
            }
        };
        Ok(Dimension { spec, gauge, held })
    }

    /// A dimension of the same columns that holds these rows and no others: for a test.
    pub fn of_rows(spec: Arc<DimensionSpec>, rows: &[Vec<Value>]) -> Dimension {
        let mut cells: Vec<_> = spec.columns.iter().map(|column| Cells::new(column.column_type, rows.len())).collect();
        rows.iter().for_each(|row| cells.iter_mut().zip(row).for_each(|(cells, value)| cells.push(value)));
        let columns = cells.iter_mut().map(Cells::finish).collect();
        let rows = RecordBatch::try_new(spec.schema(), columns).expect("a value per column");
        let gauge = Arc::<DimensionGauge>::default();
        let table = FileTable::new(spec.clone(), gauge.clone());
        table.fill(rows);
        Dimension { spec, gauge, held: Held::Files(table) }
    }

    /// Reads files that are not as they were; makes sure that what is asked key by key is there.
    pub fn load(&self, now_ms: u64) -> Result<bool, DimensionError> {
        match &self.held {
            Held::Files(table) => table.load(now_ms),
            Held::Remote(remote) => remote.probe(now_ms).map(|()| false),
            Held::Topic(_) => Ok(false),
        }
    }

    /// Takes what a topic says; of other dimensions it changes nothing.
    pub fn apply(&self, changes: &Changes<'_>) {
        if let Held::Topic(table) = &self.held {
            table.apply(changes);
        }
    }

    pub fn look_up(&self, ask: &Ask<'_>) -> Result<Found, DimensionError> {
        match &self.held {
            Held::Files(table) => table.look_up(ask),
            Held::Topic(table) => table.look_up(ask),
            Held::Remote(remote) => remote.look_up(ask),
        }
    }
}

/// What a batch asks of a dimension. All slices are as long as the batch.
pub struct Ask<'a> {
    /// The columns that are the key.
    pub keys: &'a [ArrayRef],
    pub prints: &'a [Fingerprint],
    /// As of when, per row.
    pub at: &'a [EventTime],
    /// Others are not looked up.
    pub wanted: &'a [bool],
    /// The dimension's columns to give.
    pub select: &'a [usize],
    /// Whether the version follows them.
    pub version: bool,
    /// Whether a key that was missing a moment ago is asked for again.
    pub again: bool,
    /// Monotonic time.
    pub now_ms: u64,
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// In the order of the question, one value per row.
    pub columns: Vec<ArrayRef>,
    pub found: Vec<bool>,
}

/// Why a dimension could not be read or asked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("dimension {dimension}: {message}")]
pub struct DimensionError {
    pub dimension: String,
    pub message: String,
    /// Whether it may be there again later without anybody's doing.
    pub retry: bool,
}

impl DimensionError {
    fn gathering(spec: &DimensionSpec, error: &ArrowError) -> DimensionError {
        let message = format!("the rows of a batch cannot be gathered: {error}");
        DimensionError { dimension: spec.name.clone(), message, retry: false }
    }
}

/// What a dimension counts while it runs.
#[derive(Debug, Default)]
pub struct DimensionGauge {
    /// Rows that found their key, and rows that did not.
    pub found: AtomicU64,
    pub missing: AtomicU64,
    /// Of these rows, those that the cache answered; only where there is one.
    pub cached: AtomicU64,
    /// Requests to a source that is asked key by key, and keys in them.
    pub requests: AtomicU64,
    pub requested_keys: AtomicU64,
    /// Requests, loads and records that failed.
    pub failures: AtomicU64,
    /// Loads that brought something new.
    pub refreshes: AtomicU64,
    /// Monotonic ms at which the source was last known to be as it is here.
    pub fresh_at_ms: AtomicU64,
    /// Rows in memory, and their bytes.
    pub rows: AtomicU64,
    pub bytes: AtomicU64,
}

impl DimensionGauge {
    fn saw(&self, ask: &Ask<'_>, found: &Found) {
        let wanted = ask.wanted.iter().filter(|wanted| **wanted).count() as u64;
        let hits = found.found.iter().filter(|found| **found).count() as u64;
        self.found.fetch_add(hits, Ordering::Relaxed);
        self.missing.fetch_add(wanted - hits, Ordering::Relaxed);
    }

    fn holds(&self, table: &table::Table) {
        self.rows.store(table.len() as u64, Ordering::Relaxed);
        self.bytes.store(table.bytes() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
