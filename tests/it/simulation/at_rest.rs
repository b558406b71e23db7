//! At rest: what must hold once cells have nothing more to do, and while they run wherever one of them has published.

use super::harness::{Books, World};
use super::life::Life;
use super::placed::Placed;
use super::storm::Report;
use super::topic::Topic;
use super::world::START;
use super::{WINDOWS, Window, comparable, expected, simulate};
use crate::oracle::Event;
use crate::oracle::naive_window::{WindowRule, value};
use conjoin::commit::Manifest;
use conjoin::config::Plan;
use conjoin::event::{BlockKind, Partitioner, StreamAccount};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What there is beside the processes.
pub struct Around<'a> {
    pub placed: &'a Placed,
    pub worlds: &'a [World],
    pub plan: Plan,
    /// The group whose entities belong to no cell.
    pub shared: u16,
    pub events: Vec<Event>,
    pub items: Vec<String>,
    pub topic: Topic,
    pub now_ms: Rc<Cell<u64>>,
}

impl Around<'_> {
    fn values(&self, field: &str, entity: &str, instant: i64) -> BTreeMap<&'static str, String> {
        let of = |&(column, field, stream, sum, window, tail): &Window| {
            let rule = WindowRule { stream, field, sum, window, tail, head: 1_000 };
            (column, value(&self.events, &rule, entity, instant).to_string())
        };
        WINDOWS.iter().filter(|window| window.1 == field).map(of).collect()
    }

    /// F11: what is online is what a recomputation gives. What was never written is empty.
    fn check(&self, field: &str, entity: &str, instant: i64, found: Option<String>) {
        let expected = self.values(field, entity, instant);
        let found = found.unwrap_or_default();
        let found: BTreeMap<&str, &str> = found.split_whitespace().filter_map(|cell| cell.split_once('=')).collect();
        for (column, expected) in expected {
            let found = found.get(column).map_or("0", |found| if *found == "-" { "0" } else { found });
            assert_eq!(found, expected, "F11: {column} of {entity} at {}", instant - START);
        }
    }

    pub fn check_items<'b>(
        &self,
        items: impl Iterator<Item = &'b String>,
        instant: i64,
        online: impl Fn(&str) -> Option<String>,
    ) {
        items.for_each(|item| self.check("item_id", item, instant, online(item)));
    }

    /// The same of entities that stay in their cell.
    pub fn check_users(&self, cell: usize, life: &Life<'_>) {
        let Some(instant) = life.online_instant() else { return };
        for user in 0..10 {
            let user = format!("u{user}");
            if Partitioner::Murmur2.partition(user.as_bytes(), self.worlds.len() as u32) as usize == cell {
                self.check("user_id", &user, instant, self.worlds[cell].online(1 - self.shared, &user));
            }
        }
    }

    /// What was handed over keeps no state alive.
    pub fn check_state(&self, head: &Manifest) {
        let sealed = head.handover.as_ref().map_or(i64::MIN, |told| told.mark.watermark);
        let node = head.layout.groups[self.shared as usize].number;
        for (class, needed_from) in &head.needed_from {
            if class.node == node && matches!(class.kind, BlockKind::Tiles | BlockKind::FeatureEntries) {
                assert!(
                    *needed_from > sealed - 10_000,
                    "F13: {class:?} is kept from {needed_from}, sealed is {sealed}"
                );
            }
        }
    }
}

/// The rows of all cells as a plain reader sees them.
fn rows(worlds: &[World]) -> Vec<String> {
    let mut rows: Vec<String> = worlds.iter().flat_map(World::rows).collect();
    rows.sort();
    rows
}

/// All cells' books as those of one.
fn sum(books: Vec<Books>) -> Books {
    let mut books = books.into_iter();
    let mut sum = books.next().expect("there is a cell");
    for other in books {
        sum.counts.add(&other.counts);
        sum.streams.iter_mut().zip(other.streams).for_each(|(mine, theirs): (&mut StreamAccount, _)| *mine += theirs);
        sum.file_rows += other.file_rows;
        sum.dead_letter_rows += other.dead_letter_rows;
    }
    sum
}

pub fn judge(placed: &Placed, worlds: &[World], books: Vec<Books>, report: &mut Report) {
    let (found, expected) = (rows(worlds), expected(&placed.setup, &placed.all));
    report.doubled = found.windows(2).filter(|pair| pair[0] == pair[1]).count();
    report.lost = expected.iter().filter(|row| !found.contains(row)).count();
    let extra: Vec<_> = found.iter().filter(|row| !expected.contains(row)).collect();
    if !extra.is_empty() {
        let missing = expected.iter().filter(|row| !found.contains(row));
        report.wrong.push(format!("rows that should not be {extra:#?}, missing {:#?}", missing.collect::<Vec<_>>()));
    }
    let books = sum(books);
    if (books.file_rows, books.dead_letter_rows) != (found.len() as u64, placed.dead_letters) {
        report.wrong.push(format!("{books:?} with {} rows and {} dead letters", found.len(), placed.dead_letters));
    }
    let (_, calm) = simulate(&placed.setup, &placed.all, &[1], 1);
    let (mut found, mut expected) = (comparable(books), comparable(calm));
    // The logs of cells go on.
    (found.counts.frontier, expected.counts.frontier) = (0, 0);
    if found != expected {
        report.wrong.push(format!("books {found:?}, of one process {expected:?}"));
    }
}
