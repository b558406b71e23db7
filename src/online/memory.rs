//! Memory: the online store inside the process, for demos, tests and a server that runs beside its pipeline.
//!
//! Rows expire by event time, not by a clock: a row is gone once the group's newest write is `ttl` ahead of it.

use super::{OnlineStore, ReadRequest, StoreError, StoreGroup, StoredRow, Version, Write, WriteSummary, text};
use crate::event::{EventTime, Value};
use dashmap::{DashMap, Entry};
use std::sync::atomic::{AtomicI64, Ordering};
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

pub struct MemoryStore {
    groups: Vec<MemoryGroup>,
}

struct MemoryGroup {
    spec: StoreGroup,
    rows: DashMap<String, MemoryRow, Xxh3DefaultBuilder>,
    newest: AtomicI64,
    /// Rows that had expired by then are gone.
    swept: AtomicI64,
}

struct MemoryRow {
    version: Version,
    as_of: EventTime,
    values: Box<[Value]>,
}

impl MemoryStore {
    pub fn new(groups: Vec<StoreGroup>) -> Result<Self, StoreError> {
        groups.iter().try_for_each(StoreGroup::check)?;
        let groups = groups
            .into_iter()
            .map(|spec| MemoryGroup {
                spec,
                rows: DashMap::with_hasher(Xxh3DefaultBuilder),
                newest: AtomicI64::new(i64::MIN),
                swept: AtomicI64::new(i64::MIN),
            })
            .collect();
        Ok(MemoryStore { groups })
    }

    /// Entities of a group that the store holds, expired ones included until they are swept.
    pub fn len(&self, group: u16) -> usize {
        self.groups[group as usize].rows.len()
    }

    /// Shows every row of a group, in no order that means anything.
    pub fn for_each(&self, group: u16, mut see: impl FnMut(&str, &[Value], EventTime, Version)) {
        for entry in &self.groups[group as usize].rows {
            see(entry.key(), &entry.values, entry.as_of, entry.version);
        }
    }
}

impl MemoryGroup {
    fn oldest_alive(&self) -> EventTime {
        self.newest.load(Ordering::Relaxed).saturating_sub(self.spec.ttl_ms)
    }

    /// Drops what has expired, once per quarter of the time that rows live.
    fn sweep(&self, as_of: EventTime) {
        let newest = self.newest.fetch_max(as_of, Ordering::Relaxed).max(as_of);
        let swept = self.swept.load(Ordering::Relaxed);
        if newest < swept.saturating_add(self.spec.ttl_ms / 4) {
            return;
        }
        if self.swept.compare_exchange(swept, newest, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let oldest = newest.saturating_sub(self.spec.ttl_ms);
            self.rows.retain(|_, row| row.as_of >= oldest);
        }
    }

    fn put(&self, write: &Write<'_>, row: u32, summary: &mut WriteSummary) {
        let batch = write.batch;
        let make = || MemoryRow {
            version: write.version,
            as_of: batch.as_of,
            values: batch.values.columns().iter().map(|column| text::value_at(column, row as usize)).collect(),
        };
        match self.rows.entry(batch.entities[row as usize].clone()) {
            Entry::Occupied(held) if held.get().version > write.version => {
                summary.stale += 1;
                return;
            }
            Entry::Occupied(mut held) => *held.get_mut() = make(),
            Entry::Vacant(place) => {
                place.insert(make());
            }
        }
        summary.written += 1;
    }
}

impl OnlineStore for MemoryStore {
    fn write(&self, writes: &[Write<'_>]) -> Result<WriteSummary, StoreError> {
        let mut summary = WriteSummary::default();
        for write in writes {
            let group = &self.groups[write.batch.group as usize];
            for &row in write.rows {
                group.put(write, row, &mut summary);
            }
            group.sweep(write.batch.as_of);
        }
        Ok(summary)
    }

    fn read(&self, requests: &[ReadRequest<'_>]) -> Result<Vec<Vec<Option<StoredRow>>>, StoreError> {
        let read = |request: &ReadRequest<'_>| {
            let group = &self.groups[request.group as usize];
            let oldest = group.oldest_alive();
            let one = |entity: &String| {
                let row = group.rows.get(entity).filter(|row| row.as_of >= oldest)?;
                let values = request.outputs.iter().map(|&output| row.values[output].clone()).collect();
                Some(StoredRow { values, as_of: row.as_of, version: row.version })
            };
            request.entities.iter().map(one).collect()
        };
        Ok(requests.iter().map(read).collect())
    }

    fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::for_test::{batch, group, read_one};
    use super::*;

    fn write(store: &MemoryStore, step: u32, as_of: EventTime, rows: &[(&str, i64, Option<f64>)]) -> WriteSummary {
        let batch = batch(as_of, rows);
        let all: Vec<u32> = (0..rows.len() as u32).collect();
        let version = Version::new(1, 1, 1, step);
        store.write(&[Write { batch: &batch, rows: &all, version }]).expect("memory never fails")
    }

    fn store() -> MemoryStore {
        MemoryStore::new(vec![group()]).expect("the group can be stored")
    }

    #[test]
    fn the_newest_version_wins_in_any_order() {
        let store = store();
        assert_eq!(write(&store, 2, 0, &[("a", 2, Some(0.5))]).written, 1);
        assert_eq!(write(&store, 1, 0, &[("a", 1, None), ("b", 1, None)]).stale, 1);
        assert_eq!(read_one(&store, "a").map(|row| row.values), Some(vec![Value::Int(2), Value::Float(0.5)]));
        assert_eq!(write(&store, 3, 0, &[("a", 3, None)]).written, 1);
        assert_eq!(read_one(&store, "a").map(|row| row.values), Some(vec![Value::Int(3), Value::Null]));
    }

    #[test]
    fn a_missing_entity_is_not_a_null() {
        let store = store();
        write(&store, 1, 0, &[("a", 1, None)]);
        assert_eq!(read_one(&store, "a").expect("it was written").values[1], Value::Null);
        assert_eq!(read_one(&store, "b"), None);
    }

    #[test]
    fn rows_expire_by_event_time() {
        let store = store();
        write(&store, 1, 0, &[("old", 1, None)]);
        write(&store, 2, 10_000, &[("new", 1, None)]);
        assert!(read_one(&store, "old").is_some(), "exactly as old as allowed");
        write(&store, 3, 10_001, &[("new", 1, None)]);
        assert_eq!(read_one(&store, "old"), None);
        write(&store, 4, 20_000, &[("new", 1, None)]);
        assert_eq!(store.len(0), 1, "swept");
    }

    #[test]
    fn only_the_wanted_columns_are_read() {
        let store = store();
        write(&store, 1, 5, &[("a", 1, Some(0.25))]);
        let entities = ["a".to_owned()];
        let rows = store.read(&[ReadRequest { group: 0, entities: &entities, outputs: &[1] }]);
        assert_eq!(rows.expect("memory never fails")[0][0].as_ref().expect("written").values, [Value::Float(0.25)]);
    }
}
