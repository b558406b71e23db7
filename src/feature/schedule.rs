//! Schedule: which entities' published values have to be looked at again, and when.
//!
//! An entity stands in it once per time that was proposed; the earliest counts, the others are skipped when their
//! turn comes (the entity says which one is alive), and swept out when they outnumber the entities.

use crate::event::EventTime;
use crate::feature::entity::Entities;
use std::collections::BTreeMap;

/// No look needed before something new is known.
pub const NEVER: EventTime = EventTime::MAX;
/// At once: the store may hold anything.
pub const AT_ONCE: EventTime = EventTime::MIN;

const STALE_MIN: usize = 1 << 10;

pub struct Schedule {
    turns: BTreeMap<EventTime, Vec<u32>>,
    entries: usize,
    /// The newest online instant that was asked for.
    pub now: EventTime,
    /// Everything that was due until then has been taken.
    pub published_through: EventTime,
}

impl Schedule {
    pub fn new() -> Schedule {
        Schedule { turns: BTreeMap::new(), entries: 0, now: EventTime::MIN, published_through: EventTime::MIN }
    }

    /// Puts the entity's turn at `at`, unless it comes before that anyway.
    pub fn propose(&mut self, number: u32, due: &mut EventTime, at: EventTime) {
        if at < *due {
            *due = at;
            self.turns.entry(at).or_default().push(number);
            self.entries += 1;
        }
    }

    /// Takes up to `limit` entities whose turn has come, earliest first; they have none after that.
    pub fn take(&mut self, limit: usize, entities: &mut Entities) -> Vec<(u32, EventTime)> {
        let mut taken = Vec::new();
        while taken.len() < limit
            && let Some(mut turn) = self.turns.first_entry()
            && *turn.key() <= self.now
        {
            let at = *turn.key();
            // From the end: the order within a turn is nobody's business, and the rest stays where it is.
            while taken.len() < limit
                && let Some(number) = turn.get_mut().pop()
            {
                self.entries -= 1;
                let entity = entities.get_mut(number);
                if entity.due == at {
                    entity.due = NEVER;
                    taken.push((number, at));
                }
            }
            if turn.get().is_empty() {
                turn.remove();
            }
        }
        taken
    }

    /// True when nothing is due at `now`.
    pub fn is_drained(&self) -> bool {
        self.turns.first_key_value().is_none_or(|(&at, _)| at > self.now)
    }

    /// How many turns have come and were not taken.
    pub fn due(&self, entities: &Entities) -> usize {
        let is_alive = |at: EventTime, number: u32| entities.get(number).due == at;
        let turns = self.turns.range(..=self.now);
        turns.map(|(&at, numbers)| numbers.iter().filter(|&&number| is_alive(at, number)).count()).sum()
    }

    /// Sweeps out turns that have been overtaken, when they are many.
    pub fn tidy(&mut self, entities: &Entities) {
        if self.entries <= 2 * entities.len() + STALE_MIN {
            return;
        }
        self.turns.clear();
        self.entries = 0;
        for (number, entity) in entities.iter_live().filter(|(_, entity)| entity.due != NEVER) {
            self.turns.entry(entity.due).or_default().push(number);
            self.entries += 1;
        }
    }

    pub fn memory_bytes(&self) -> usize {
        self.entries * size_of::<u32>() + self.turns.len() * 48
    }
}
