//! Publish: keeps an online store equal to the values at the online instant.
//!
//!   due when:  an event becomes visible      ──┐
//!              a tile leaves a window        ──┼──> take_due(now) ──> absolute values at now
//!              its group becomes warm        ──┤
//!              the entity came from a restore ─┤
//!              the store lost what it had     ─┘
//!
//! Holds: F11: once `take_due` has given `None` at `now`, what was taken last of each entity is its value at `now`; an
//! entity that is no longer kept was taken last with empty values.

use crate::event::{EventTime, ExpressionError, FeatureBatch, Fingerprint};
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
        Ok(self.take_due_of(now, limit, &|_| true)?.map(|(batch, _)| batch))
    }

    /// The same of entities that `keep` selects, with their fingerprints; of the others nothing is told.
    pub fn take_due_of(
        &mut self,
        now: EventTime,
        limit: usize,
        keep: &dyn Fn(Fingerprint) -> bool,
    ) -> Result<Option<(FeatureBatch, Vec<Fingerprint>)>, ExpressionError> {
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
        // One that has no state yet would be told as null, and after a restart nobody would know of it.
        let is_warming = self.warm.is_warming(now);
        let kept = |number: &u32| {
            let entity = self.entities.get(*number);
            keep(entity.print) && !(is_warming && entity.is_empty())
        };
        let told: Vec<u32> = taken.iter().map(|&(number, _)| number).filter(kept).collect();
        let questions: Vec<_> = told.iter().map(|&number| (number, instant)).collect();
        let values = match self.answer(&questions) {
            Ok(values) => values,
            Err(error) => {
                for (number, at) in taken {
                    self.propose(number, at);
                }
                return Err(error);
            }
        };
        let of = |number: &u32| (self.entities.get(*number).text.to_string(), self.entities.get(*number).print);
        let (entities, prints) = told.iter().map(of).unzip();
        for &(number, _) in &taken {
            let at = self.next_look(self.entities.get(number), now);
            self.propose(number, at);
        }
        if let Some(schedule) = &mut self.schedule
            && schedule.is_drained()
        {
            schedule.published_through = now;
        }
        self.roll();
        Ok(Some((FeatureBatch { group: self.group, entities, values, as_of: now }, prints)))
    }

    /// What `keep` selects is due at once: the store may know nothing of it.
    pub fn publish_anew(&mut self, keep: &dyn Fn(Fingerprint) -> bool) {
        let selected = self.entities.iter_live().filter(|(_, entity)| keep(entity.print)).map(|(number, _)| number);
        for number in selected.collect::<Vec<_>>() {
            self.propose(number, AT_ONCE);
        }
    }

    /// For when nobody can take anything: time goes on to `now`, and what is due stays due. What has left its windows is
    /// kept until it was published so.
    pub fn hold_due(&mut self, now: EventTime) {
        if let Some(schedule) = &mut self.schedule {
            schedule.now = schedule.now.max(now.clamp(-TIME_LIMIT, TIME_LIMIT));
            self.roll();
        }
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
        let mut next = self.warm.next_full(now).unwrap_or(NEVER);
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
