//! Last and last_k: the events themselves, sorted by (ts, id, content hash), as many as anyone can still see.
//!
//! `last` is `last_k` with k = 1. No tiles: of the events that are visible at every instant that will be asked for,
//! only the newest k can be seen, so that many are kept, beside those that are not visible everywhere yet.

use crate::event::EventTime;
use crate::feature::text::Texts;
use crate::feature::window::{Ladder, first_at_or_after};
use std::ops::Range;

/// One event: its tie breakers and its value as a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `ts << 1`, and in the lowest bit whether no snapshot has it yet.
    stamp: i64,
    id_high: u64,
    id_low: u64,
    content: u64,
    pub word: u64,
}

impl Entry {
    pub fn new(ts: EventTime, id: u128, content: u64, word: u64, dirty: bool) -> Entry {
        Entry { stamp: (ts << 1) | dirty as i64, id_high: (id >> 64) as u64, id_low: id as u64, content, word }
    }

    pub fn ts(&self) -> EventTime {
        self.stamp >> 1
    }

    pub fn id(&self) -> u128 {
        ((self.id_high as u128) << 64) | self.id_low as u128
    }

    pub fn content(&self) -> u64 {
        self.content
    }

    pub fn is_dirty(&self) -> bool {
        self.stamp & 1 == 1
    }

    pub fn clean(&mut self) {
        self.stamp &= !1;
    }

    pub fn soil(&mut self) {
        self.stamp |= 1;
    }

    fn order(&self) -> (EventTime, u64, u64, u64) {
        (self.ts(), self.id_high, self.id_low, self.content)
    }
}

/// The entries of one entity and aggregate, ascending.
#[derive(Default, Debug)]
pub struct Log {
    pub entries: Vec<Entry>,
}

impl Log {
    /// False when the same event is there already.
    pub fn insert(&mut self, entry: Entry) -> bool {
        let mut place = self.entries.len();
        while place > 0 && self.entries[place - 1].order() > entry.order() {
            place -= 1;
            if self.entries.len() - place > 16 {
                place = self.entries.partition_point(|other| other.order() < entry.order());
                break;
            }
        }
        let before = place.checked_sub(1).map(|place| &self.entries[place]);
        if [before, self.entries.get(place)].into_iter().flatten().any(|other| other.order() == entry.order()) {
            return false;
        }
        self.entries.insert(place, entry);
        true
    }

    /// Forgets what nobody can see any more; true when something went.
    pub fn prune(&mut self, k: usize, ladder: &Ladder, is_text: bool, texts: &mut Texts) -> bool {
        let time_of = |place: usize| self.entries[place].ts();
        let everywhere = first_at_or_after(self.entries.len(), time_of, ladder.head_end);
        let unreachable = first_at_or_after(self.entries.len(), time_of, ladder.drop_before);
        let mut gone = unreachable;
        if everywhere > k {
            gone = gone.max(everywhere - k);
        }
        if is_text {
            for entry in &self.entries[..gone] {
                texts.release(entry.word);
            }
        }
        self.entries.drain(..gone);
        gone > 0
    }

    /// The newest `k` of a range, newest first.
    pub fn newest(&self, k: usize, range: Range<usize>) -> impl Iterator<Item = u64> + '_ {
        let from = range.end.saturating_sub(k).max(range.start);
        self.entries[from..range.end].iter().rev().map(|entry| entry.word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_sort_by_time_then_id_then_content_whatever_the_order_of_arrival() {
        let sorted: Vec<Entry> = [(-5, 9, 1), (3, 1 << 70, 0), (3, (1 << 70) + 1, 0), (3, (1 << 70) + 1, 7), (4, 0, 0)]
            .iter()
            .map(|&(ts, id, content)| Entry::new(ts, id, content, 0, false))
            .collect();
        for start in 0..sorted.len() {
            let mut log = Log::default();
            for step in 0..sorted.len() {
                assert!(log.insert(sorted[(start + step * 3) % sorted.len()]));
            }
            assert_eq!(log.entries, sorted);
            assert!(!log.insert(sorted[start]), "the same event counts once");
        }
    }
}
