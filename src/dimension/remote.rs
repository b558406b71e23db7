//! Remote: a dimension that is asked key by key, behind a bounded cache.
//!
//! ```text
//!   keys of a batch ─ distinct ─> fresh in the cache? ─ yes ──────────────────┐
//!                                      └ no ─> one request for all of them ──┴─> columns, as of each row's time
//! ```
//!
//! Holds: what a look-up returns was so at the source within the time that answers are believed; a key that is not there is
//! remembered too, for a shorter time; the cache never takes more than its bytes.
//! Does not: try again: an error that may pass says so.

use super::cells::Cells;
use super::{Ask, CacheSpec, DimensionError, DimensionGauge, DimensionSpec, Found, VersionFrom};
use crate::event::{EventTime, Fingerprint, Value};
use arrow::array::{ArrayRef, StringBuilder, UInt32Array};
use arrow::compute::take;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Keys in one request.
const KEYS_PER_REQUEST_MAX: usize = 4096;
/// What an entry of the cache takes beside its values, about.
const ENTRY_BYTES: u64 = 96;

/// A row in the order of the dimension's columns.
pub(super) type Row = Box<[Value]>;

/// A source that is asked key by key.
pub(super) trait Fetch: Send + Sync {
    /// Connects, and makes sure that what was declared is there.
    fn probe(&self) -> Result<(), DimensionError>;

    /// The rows of each key, all of its versions in any order; none where it is not there. There is a column per key column,
    /// and no key twice.
    fn fetch(&self, keys: &[ArrayRef]) -> Result<Vec<Vec<Row>>, DimensionError>;
}

pub(super) struct Remote {
    spec: Arc<DimensionSpec>,
    source: Box<dyn Fetch>,
    cache: Cache<Fingerprint, Arc<Kept>, Bytes>,
    limits: CacheSpec,
    gauge: Arc<DimensionGauge>,
}

/// What the source said of a key.
struct Kept {
    fetched_ms: u64,
    /// Ascending by `valid_from`.
    rows: Vec<(EventTime, Row)>,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<Fingerprint, Arc<Kept>> for Bytes {
    fn weight(&self, _: &Fingerprint, kept: &Arc<Kept>) -> u64 {
        let text = |value: &Value| if let Value::Text(text) = value { text.len() as u64 + 16 } else { 0 };
        let row = |row: &Row| row.iter().map(|value| size_of::<Value>() as u64 + text(value)).sum::<u64>() + 24;
        ENTRY_BYTES + kept.rows.iter().map(|(_, values)| row(values)).sum::<u64>()
    }
}

impl Remote {
    pub fn new(
        spec: Arc<DimensionSpec>,
        limits: CacheSpec,
        source: Box<dyn Fetch>,
        gauge: Arc<DimensionGauge>,
    ) -> Remote {
        let cache = Cache::with_weighter((limits.bytes_max / 256) as usize, limits.bytes_max, Bytes);
        Remote { spec, source, cache, limits, gauge }
    }

    pub fn probe(&self, now_ms: u64) -> Result<(), DimensionError> {
        self.counted(self.source.probe())?;
        self.gauge.fresh_at_ms.store(now_ms, Ordering::Relaxed);
        Ok(())
    }

    fn counted<T>(&self, answer: Result<T, DimensionError>) -> Result<T, DimensionError> {
        self.gauge.failures.fetch_add(answer.is_err() as u64, Ordering::Relaxed);
        answer
    }

    pub fn look_up(&self, ask: &Ask<'_>) -> Result<Found, DimensionError> {
        // Each key once, by its first row.
        let mut kept: BTreeMap<Fingerprint, Option<Arc<Kept>>> = BTreeMap::new();
        let (mut unknown, mut cached) = (Vec::new(), 0);
        for (row, print) in ask.prints.iter().enumerate().filter(|(row, _)| ask.wanted[*row]) {
            let known = kept.entry(*print).or_insert_with(|| {
                let known = self.cache.get(print).filter(|kept| self.is_fresh(kept, ask));
                if known.is_none() {
                    unknown.push(row as u32);
                }
                known
            });
            cached += known.is_some() as u64;
        }
        for rows in unknown.chunks(KEYS_PER_REQUEST_MAX) {
            for (row, answer) in rows.iter().zip(self.fetch(ask, rows)?) {
                let print = ask.prints[*row as usize];
                self.cache.insert(print, answer.clone());
                kept.insert(print, Some(answer));
            }
        }
        let of_row = |row: usize| kept.get(&ask.prints[row]).filter(|_| ask.wanted[row])?.as_deref();
        let found = self.columns(ask, of_row);
        self.gauge.cached.fetch_add(cached, Ordering::Relaxed);
        self.gauge.saw(ask, &found);
        self.gauge.rows.store(self.cache.len() as u64, Ordering::Relaxed);
        self.gauge.bytes.store(self.cache.weight(), Ordering::Relaxed);
        Ok(found)
    }

    fn is_fresh(&self, kept: &Kept, ask: &Ask<'_>) -> bool {
        let age = ask.now_ms.saturating_sub(kept.fetched_ms);
        match kept.rows.is_empty() {
            true => !ask.again && age < self.limits.missing_ttl_ms as u64,
            false => age < self.limits.ttl_ms as u64,
        }
    }

    /// Asks for the keys of these rows.
    fn fetch(&self, ask: &Ask<'_>, rows: &[u32]) -> Result<Vec<Arc<Kept>>, DimensionError> {
        let rows = UInt32Array::from(rows.to_vec());
        let keys = ask.keys.iter().map(|key| take(key, &rows, None).expect("rows of the batch"));
        let answers = self.counted(self.source.fetch(&keys.collect::<Vec<_>>()))?;
        self.gauge.requests.fetch_add(1, Ordering::Relaxed);
        self.gauge.requested_keys.fetch_add(rows.len() as u64, Ordering::Relaxed);
        self.gauge.fresh_at_ms.store(ask.now_ms, Ordering::Relaxed);
        let from = |row: &Row| match self.spec.valid_from.map(|column| &row[column]) {
            Some(Value::Time(from)) => *from,
            _ => EventTime::MIN,
        };
        let kept = |rows: Vec<Row>| {
            let mut rows: Vec<(EventTime, Row)> = rows.into_iter().map(|row| (from(&row), row)).collect();
            // Of rows that hold from the same instant any may be the first; so that it is always the same one:
            rows.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| format!("{:?}", a.1).cmp(&format!("{:?}", b.1))));
            Arc::new(Kept { fetched_ms: ask.now_ms, rows })
        };
        Ok(answers.into_iter().map(kept).collect())
    }

    fn columns<'k>(&self, ask: &Ask<'_>, of_row: impl Fn(usize) -> Option<&'k Kept>) -> Found {
        let count = ask.prints.len();
        let versioned = self.spec.valid_from.is_some();
        let find = |row: usize| -> Option<&'k Row> {
            let rows = &of_row(row)?.rows;
            let until = if versioned { rows.partition_point(|(from, _)| *from <= ask.at[row]) } else { rows.len() };
            rows[..until].last().map(|(_, row)| row)
        };
        let found: Vec<Option<&Row>> = (0..count).map(find).collect();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(ask.select.len() + 1);
        for &number in ask.select {
            let mut cells = Cells::new(self.spec.columns[number].column_type, count);
            found.iter().for_each(|row| cells.push(row.map_or(&Value::Null, |row| &row[number])));
            columns.push(cells.finish());
        }
        if ask.version {
            let mut texts = StringBuilder::with_capacity(count, count * 8);
            for row in &found {
                let value = match self.spec.version {
                    VersionFrom::Column(column) => row.map(|row| &row[column]),
                    _ => None,
                };
                texts.append_option(value.and_then(super::cells::text_of));
            }
            columns.push(Arc::new(texts.finish()));
        }
        Found { columns, found: found.iter().map(Option::is_some).collect() }
    }
}
