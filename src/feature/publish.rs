//! Publish: keeps an online store equal to the values at the online instant.
//!
//!   due when:  an event becomes visible      ──┐
//!              a tile leaves a window        ──┼──> take_due(now) ──> absolute values at now
//!              the entity came from a restore ─┤
//!              the store lost what it had     ─┘
//!
//! Holds: F11: once `take_due` has given `None` at `now`, what was taken last of each entity is its value at `now`; an
//! entity that is no longer kept was taken last with empty values.

use crate::event::{EventTime, ExpressionError, FeatureBatch};
use crate::feature::aggregate::Place;
use crate::feature::entity::Entity;
use crate::feature::schedule::{AT_ONCE, NEVER};
use crate::feature::store::GroupStore;
use crate::feature::window::{TIME_LIMIT, first_at_or_after};

impl GroupStore {
    /// Up to `limit` entities whose published value is or may be outdated at `now`, longest due first, with their
    /// values at `now`; `None` when there is none. A `now` older than the last one counts as the last one.
    ///
    /// On an error nothing was taken.
    pub fn take_due(&mut self, now: EventTime, limit: usize) -> Result<Option<FeatureBatch>, ExpressionError> {
        let Some(schedule) = &mut self.schedule else { return Ok(None) };
        schedule.now = schedule.now.max(now.clamp(-TIME_LIMIT, TIME_LIMIT));
        let now = schedule.now;
        let taken = schedule.take(limit.max(1), &mut self.entities);
        if taken.is_empty() {
            schedule.published_through = now;
            self.roll();
            return Ok(None);
        }
        let instant = self.windows.instant(now);
        let questions: Vec<_> = taken.iter().map(|&(number, _)| (number, instant)).collect();
        let values = match self.answer(&questions) {
            Ok(values) => values,
            Err(error) => {
                for (number, at) in taken {
                    self.propose(number, at);
                }
                return Err(error);
            }
        };
        let mut entities = Vec::with_capacity(taken.len());
        for &(number, _) in &taken {
            entities.push(self.entities.get(number).text.to_string());
            let at = self.next_look(self.entities.get(number), now);
            self.propose(number, at);
        }
        if let Some(schedule) = &mut self.schedule
            && schedule.is_drained()
        {
            schedule.published_through = now;
        }
        self.roll();
        Ok(Some(FeatureBatch { group: self.group, entities, values, as_of: now }))
    }

    /// For when nobody can take anything: time goes on to `now`, and what is due stays due. What has left its windows is
    /// kept until it was published so.
    pub fn hold_due(&mut self, now: EventTime) {
        if let Some(schedule) = &mut self.schedule {
            schedule.now = schedule.now.max(now.clamp(-TIME_LIMIT, TIME_LIMIT));
            self.roll();
        }
    }

    /// Makes every entity due at once: the store has lost what it had.
    pub fn publish_all(&mut self) {
        let numbers: Vec<u32> = self.entities.iter_live().map(|(number, _)| number).collect();
        numbers.into_iter().for_each(|number| self.propose(number, AT_ONCE));
    }

    /// How many entities are due at the last `now`: the sweep's lag.
    pub fn due(&self) -> usize {
        self.schedule.as_ref().map_or(0, |schedule| schedule.due(&self.entities))
    }

    pub(super) fn propose(&mut self, number: u32, at: EventTime) {
        if let Some(schedule) = &mut self.schedule {
            schedule.propose(number, &mut self.entities.get_mut(number).due, at);
        }
    }

    /// The first instant after `now` at which the entity's values can differ from those at `now`, as far as is known.
    fn next_look(&self, entity: &Entity, now: EventTime) -> EventTime {
        let mut next = NEVER;
        for (aggregate, place) in self.layout.places.iter().enumerate() {
            let windows = &self.layout.windows[aggregate];
            next = next.min(match *place {
                Place::Tile(_) => {
                    let stride = self.layout.stride;
                    let slot = |place: usize| entity.tiles.slot(stride, place);
                    self.next_change(entity.tiles.len(stride), slot, windows, now)
                }
                Place::Log(place) => {
                    let entries = &entity.logs[place].entries;
                    self.next_change(entries.len(), |place| entries[place].ts(), windows, now)
                }
            });
        }
        debug_assert!(next > now, "{next} is no later than {now}");
        next
    }

    /// The same for tiles or events at ascending times.
    fn next_change(
        &self,
        len: usize,
        time_of: impl Fn(usize) -> EventTime,
        windows: &[usize],
        now: EventTime,
    ) -> EventTime {
        let until = first_at_or_after(len, &time_of, self.windows.head_end(now));
        let mut next = if until < len { self.windows.appears(time_of(until)) } else { NEVER };
        for &window in windows {
            let oldest = first_at_or_after(until, &time_of, self.windows.start(window, now));
            if oldest < until {
                next = next.min(self.windows.leaves(window, time_of(oldest)));
            }
        }
        next
    }
}
