//! Topic: a dimension that a compacted topic is: the newest record of each message key is a row.
//!
//! ```text
//!   records of a partition ─ last one of each message key ─┬ a row  ─> takes the place of the key's last row
//!                                                          └ nothing ─> the key's row goes
//! ```
//!
//! In: decoded records, from the beginning of the topic on. Holds: the table is what the topic says up to the last batch, all
//! of it or none; a record's row is found by the dimension's key, whatever the message key is made of.
//! Does not: read the topic.

use super::table::{Identity, Origin, Table};
use super::{Ask, DimensionError, DimensionGauge, DimensionSpec, Found};
use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use xxhash_rust::xxh3::xxh3_128;

/// What records of one partition say, in the order of the log.
#[derive(Debug)]
pub struct Changes<'a> {
    pub partition: u32,
    pub records: Vec<ChangedRecord<'a>>,
    /// In the dimension's layout.
    pub rows: RecordBatch,
}

#[derive(Clone, Copy, Debug)]
pub struct ChangedRecord<'a> {
    pub key: &'a [u8],
    pub offset: i64,
    /// Its row in `rows`; `None` removes what the key had.
    pub row: Option<u32>,
}

pub(super) struct TopicTable {
    spec: Arc<DimensionSpec>,
    state: RwLock<Followed>,
    gauge: Arc<DimensionGauge>,
}

struct Followed {
    table: Table,
    /// By message key, the row that it has.
    rows: BTreeMap<u128, Identity>,
}

impl TopicTable {
    /// With nothing in it yet.
    pub fn new(spec: Arc<DimensionSpec>, gauge: Arc<DimensionGauge>) -> TopicTable {
        let state = RwLock::new(Followed { table: Table::new(&spec), rows: BTreeMap::new() });
        TopicTable { spec, state, gauge }
    }

    pub fn apply(&self, changes: &Changes<'_>) {
        if changes.records.is_empty() {
            return;
        }
        let mut last: BTreeMap<u128, ChangedRecord<'_>> = BTreeMap::new();
        for record in &changes.records {
            last.insert(xxh3_128(record.key), *record);
        }
        let mut kept: Vec<(u32, u128, i64)> =
            last.iter().filter_map(|(key, record)| Some((record.row?, *key, record.offset))).collect();
        kept.sort_unstable();
        let rows = UInt32Array::from_iter_values(kept.iter().map(|(row, ..)| *row));
        let rows = take_record_batch(&changes.rows, &rows).expect("rows of the batch");
        let origin = Origin::Log(kept.iter().map(|(_, _, offset)| (changes.partition, *offset)).collect());
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let Followed { table, rows: known } = &mut *state;
        for key in last.keys() {
            if let Some(identity) = known.remove(key) {
                table.remove(identity);
            }
        }
        let identities = table.put(&self.spec, rows, origin);
        let named = kept.iter().zip(identities);
        known.extend(named.filter_map(|((_, key, _), identity)| Some((*key, identity?))));
        self.gauge.refreshes.fetch_add(1, Ordering::Relaxed);
        self.gauge.holds(table);
    }

    pub fn look_up(&self, ask: &Ask<'_>) -> Result<Found, DimensionError> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let found = state.table.look_up(&self.spec, ask);
        let found = found.map_err(|error| DimensionError::gathering(&self.spec, &error))?;
        self.gauge.saw(ask, &found);
        Ok(found)
    }
}
