//! Dedup: the ids of a stream's rows that a group has seen, as long as the watermark has not passed them.
//!
//! A row whose id is older than the watermark is late when it comes again, so its id may be forgotten.

use crate::event::{EventTime, Fingerprint, Watermark};
use crate::feature::entity::ByFingerprint;
use hashbrown::hash_map::Entry;

/// Ids are purged when there are twice as many as the last purge left, and not before.
const PURGE_MIN: usize = 1 << 12;

/// The ids of one use.
#[derive(Default)]
pub struct Ids {
    seen: ByFingerprint<EventTime>,
    /// Not in any snapshot yet.
    fresh: Vec<(Fingerprint, EventTime)>,
    purge_at: usize,
}

impl Ids {
    /// False when the id was seen and is not older than the watermark.
    pub fn insert(&mut self, id: Fingerprint, ts: EventTime, watermark: Watermark) -> bool {
        match self.seen.entry(id) {
            Entry::Occupied(seen) if !watermark.passed(*seen.get()) => return false,
            Entry::Occupied(mut forgotten) => {
                forgotten.insert(ts);
            }
            Entry::Vacant(place) => {
                place.insert(ts);
            }
        }
        self.fresh.push((id, ts));
        true
    }

    /// No snapshot has any of them.
    pub fn write_anew(&mut self) {
        self.fresh = self.seen.iter().map(|(&id, &ts)| (id, ts)).collect();
        self.fresh.sort_unstable();
    }

    pub fn restore(&mut self, id: Fingerprint, ts: EventTime) {
        self.seen.insert(id, ts);
    }

    pub fn purge(&mut self, watermark: Watermark) {
        if self.seen.len() < self.purge_at.max(PURGE_MIN) {
            return;
        }
        self.seen.retain(|_, ts| !watermark.passed(*ts));
        self.fresh.retain(|&(_, ts)| !watermark.passed(ts));
        self.purge_at = self.seen.len() * 2;
        if self.seen.capacity() > 4 * self.seen.len() + PURGE_MIN {
            self.seen.shrink_to(self.seen.len() * 2);
        }
    }

    /// What no snapshot has and the watermark has not passed.
    pub fn take_fresh(&mut self, watermark: Watermark) -> impl Iterator<Item = (Fingerprint, EventTime)> + '_ {
        self.fresh.drain(..).filter(move |&(_, ts)| !watermark.passed(ts))
    }

    /// Every id that the watermark has not passed.
    pub fn iter(&self, watermark: Watermark) -> impl Iterator<Item = (Fingerprint, EventTime)> + '_ {
        self.seen.iter().map(|(&id, &ts)| (id, ts)).filter(move |&(_, ts)| !watermark.passed(ts))
    }

    pub fn memory_bytes(&self) -> usize {
        self.seen.allocation_size() + self.fresh.capacity() * size_of::<(Fingerprint, EventTime)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_counts_once_until_the_watermark_has_passed_it() {
        let mut ids = Ids::default();
        assert!(ids.insert(7, 100, Watermark::MIN));
        assert!(!ids.insert(7, 100, Watermark(100)), "a record at the watermark is not late yet");
        assert!(!ids.insert(7, 150, Watermark(100)), "nor does another time make it another id");
        assert!(ids.insert(7, 150, Watermark(101)));
    }

    #[test]
    fn purging_forgets_what_cannot_come_again() {
        let mut ids = Ids::default();
        for id in 0..10_000 {
            ids.insert(id, id as i64, Watermark::MIN);
        }
        ids.purge(Watermark(9_990));
        assert_eq!(ids.iter(Watermark(9_990)).count(), 10);
        assert_eq!(ids.seen.len(), 10);
        assert_eq!(ids.take_fresh(Watermark(9_995)).count(), 5);
    }
}
