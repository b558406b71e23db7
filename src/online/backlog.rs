//! Backlog: rows that wait for the store, the newest one of each entity.
//!
//!   batch 7 [a b c]      batch 9 [b d]     entities: a -> 7.0, b -> 9.0, c -> 7.2, d -> 9.1
//!            . x .  <- superseded by 9.0
//!
//! Rows stay in the columns they came in; an entry says where. A batch of which few rows still stand is copied down
//! to those, so the backlog holds at most about twice the rows that are needed.

use super::{Version, Write};
use crate::event::FeatureBatch;
use arrow::array::UInt32Array;
use arrow::compute::take_record_batch;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use std::collections::BTreeMap;
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

#[derive(Default)]
pub(super) struct Backlog {
    parts: BTreeMap<u64, Part>,
    next_part: u64,
    entities: HashMap<(u16, String), Place, Xxh3DefaultBuilder>,
}

struct Part {
    batch: FeatureBatch,
    version: Version,
    /// Per row, whether it still stands.
    standing: Vec<bool>,
    standing_count: usize,
    /// Rows before it were taken or superseded.
    first: usize,
}

impl Part {
    fn drop(&mut self, row: u32) {
        self.standing[row as usize] = false;
        self.standing_count -= 1;
    }

    fn rows(&self) -> impl Iterator<Item = u32> {
        (self.first..self.standing.len()).filter(|&row| self.standing[row]).map(|row| row as u32)
    }
}

#[derive(Clone, Copy)]
struct Place {
    part: u64,
    row: u32,
    version: Version,
}

/// Batches with fewer rows are not worth copying.
const COMPACT_ROWS_MIN: usize = 256;

impl Backlog {
    /// Entities that wait.
    pub fn len(&self) -> usize {
        self.entities.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entities.is_empty()
    }

    /// Adds the rows of a batch, but for those of which a newer one waits already.
    pub fn push(&mut self, batch: FeatureBatch, version: Version) {
        let number = self.next_part;
        self.next_part += 1;
        let rows = batch.entities.len();
        let mut part = Part { batch, version, standing: vec![true; rows], standing_count: rows, first: 0 };
        for row in 0..rows as u32 {
            let place = Place { part: number, row, version };
            let key = (part.batch.group, part.batch.entities[row as usize].clone());
            match self.entities.entry(key) {
                Entry::Vacant(slot) => {
                    slot.insert(place);
                }
                Entry::Occupied(slot) if slot.get().version > version => part.drop(row),
                Entry::Occupied(mut slot) => match slot.insert(place) {
                    // The same entity twice in one batch: the later row is the one that counts.
                    old if old.part == number => part.drop(old.row),
                    old => self.drop_row(old),
                },
            }
        }
        if part.standing_count > 0 {
            self.parts.insert(number, part);
        }
    }

    fn drop_row(&mut self, place: Place) {
        let part = self.parts.get_mut(&place.part).expect("an entry's part stands as long as one of its rows");
        part.drop(place.row);
        let held = part.batch.entities.len();
        if part.standing_count == 0 {
            self.parts.remove(&place.part);
        } else if held >= COMPACT_ROWS_MIN && part.standing_count * 2 < held {
            self.compact(place.part);
        }
    }

    fn compact(&mut self, number: u64) {
        let part = self.parts.get_mut(&number).expect("the caller has just seen it");
        let rows: UInt32Array = part.rows().collect::<Vec<_>>().into();
        part.batch.values =
            take_record_batch(&part.batch.values, &rows).expect("the rows that stand lie within their batch");
        part.batch.entities =
            rows.values().iter().map(|&row| std::mem::take(&mut part.batch.entities[row as usize])).collect();
        part.standing = vec![true; rows.len()];
        part.first = 0;
        for (row, entity) in part.batch.entities.iter().enumerate() {
            let key = (part.batch.group, entity.clone());
            self.entities.get_mut(&key).expect("a row that stands has an entry").row = row as u32;
        }
    }

    /// Shows the oldest rows, at most `rows_max` of them, and forgets them if `write` succeeds.
    pub fn write_oldest<T, E>(
        &mut self,
        rows_max: usize,
        write: impl FnOnce(&[Write<'_>]) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut shown: Vec<(u64, Vec<u32>)> = Vec::new();
        let mut left = rows_max;
        for (&number, part) in &self.parts {
            if left == 0 {
                break;
            }
            let rows: Vec<u32> = part.rows().take(left).collect();
            left -= rows.len();
            shown.push((number, rows));
        }
        let writes: Vec<Write<'_>> = shown
            .iter()
            .map(|(number, rows)| {
                let part = &self.parts[number];
                Write { batch: &part.batch, rows, version: part.version }
            })
            .collect();
        let done = write(&writes)?;
        for (number, rows) in shown {
            let part = self.parts.get_mut(&number).expect("it was shown a moment ago");
            for row in rows {
                part.drop(row);
                part.first = row as usize + 1;
                let entity = std::mem::take(&mut part.batch.entities[row as usize]);
                self.entities.remove(&(part.batch.group, entity));
            }
            if part.standing_count == 0 {
                self.parts.remove(&number);
            }
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::super::for_test::batch;
    use super::*;

    fn version(step: u32) -> Version {
        Version::new(0, 0, 0, step)
    }

    fn drain(backlog: &mut Backlog, rows_max: usize) -> Vec<(u32, String)> {
        let mut seen = Vec::new();
        while !backlog.is_empty() {
            let shown = backlog.write_oldest(rows_max, |writes| {
                let step =
                    |write: &Write<'_>| (0..9).find(|&step| version(step) == write.version).expect("a test step");
                let row = |write: &Write<'_>, row: &u32| (step(write), write.batch.entities[*row as usize].clone());
                Ok::<_, ()>(writes.iter().flat_map(|w| w.rows.iter().map(move |r| row(w, r))).collect::<Vec<_>>())
            });
            let shown = shown.expect("the test's write succeeds");
            assert!(!shown.is_empty() && shown.len() <= rows_max);
            seen.extend(shown);
        }
        seen
    }

    #[test]
    fn only_the_newest_row_of_an_entity_waits() {
        let mut backlog = Backlog::default();
        backlog.push(batch(0, &[("a", 1, None), ("b", 1, None), ("c", 1, None)]), version(1));
        backlog.push(batch(0, &[("b", 2, None), ("d", 2, None)]), version(2));
        backlog.push(batch(0, &[("a", 0, None)]), version(0));
        assert_eq!(backlog.len(), 4);
        let rows = drain(&mut backlog, 2);
        let expected = [(1, "a"), (1, "c"), (2, "b"), (2, "d")].map(|(step, entity)| (step, entity.to_owned()));
        assert_eq!(rows, expected);
    }

    #[test]
    fn what_the_store_did_not_take_still_waits() {
        let mut backlog = Backlog::default();
        backlog.push(batch(0, &[("a", 1, None), ("b", 1, None)]), version(1));
        assert_eq!(backlog.write_oldest(1, |_| Err::<(), _>("away")), Err("away"));
        assert_eq!(backlog.len(), 2);
    }

    #[test]
    fn a_batch_of_which_little_stands_is_copied_down_and_loses_nothing() {
        let names: Vec<String> = (0..1000).map(|number| format!("e{number}")).collect();
        let rows = |step: i64, range: std::ops::Range<usize>| -> Vec<(&str, i64, Option<f64>)> {
            names[range].iter().map(|name| (name.as_str(), step, None)).collect()
        };
        let mut backlog = Backlog::default();
        backlog.push(batch(0, &rows(1, 0..1000)), version(1));
        backlog.push(batch(0, &rows(2, 0..900)), version(2));
        assert!(backlog.parts[&0].batch.entities.len() < 500, "{}", backlog.parts[&0].batch.entities.len());
        let mut seen = drain(&mut backlog, 64);
        assert_eq!(seen.len(), 1000);
        assert_eq!(seen.iter().filter(|(step, _)| *step == 1).count(), 100);
        seen.sort_by(|a, b| a.1.cmp(&b.1));
        seen.dedup_by(|a, b| a.1 == b.1);
        assert_eq!(seen.len(), 1000);
    }

    #[test]
    fn an_entity_twice_in_a_batch_counts_once_by_its_later_row() {
        let mut backlog = Backlog::default();
        backlog.push(batch(0, &[("a", 1, None), ("b", 1, None), ("a", 2, None)]), version(1));
        let rows = backlog.write_oldest(9, |writes| Ok::<_, ()>(writes[0].rows.to_vec()));
        assert_eq!(rows, Ok(vec![1, 2]));
        assert!(backlog.is_empty());
    }
}
