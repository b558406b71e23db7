//! Progress: the positions of the newest commit, on their way back to the sources, which show them to monitoring.
//!
//!   conductor ── committed ──> newest positions (one slot, overwritten) ──> every source thread, when it looks
//!
//! Holds: a slow reader costs nothing but that it misses some; whoever waits is let go when the teller is gone.

use crate::event::Positions;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

#[derive(Clone, Default)]
pub struct Progress(Arc<(Mutex<Slot>, Condvar)>);

#[derive(Default)]
struct Slot {
    /// How often positions were told.
    number: u64,
    positions: Arc<Positions>,
    closed: bool,
}

impl Progress {
    /// The one who tells; dropping it ends all waiting.
    pub fn teller(&self) -> ProgressTeller {
        ProgressTeller(self.clone())
    }

    /// What was told since `seen`, which is brought up to date.
    pub fn newer(&self, seen: &mut u64) -> Option<Arc<Positions>> {
        let slot = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = slot.number > *seen;
        *seen = slot.number;
        is_new.then(|| slot.positions.clone())
    }

    /// Waits until nothing more will be told; what was told last, if it is newer than `seen`.
    pub fn wait_for_last(&self, seen: u64) -> Option<Arc<Positions>> {
        let slot = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = self.0.1.wait_while(slot, |slot| !slot.closed).unwrap_or_else(PoisonError::into_inner);
        (slot.number > seen).then(|| slot.positions.clone())
    }
}

pub struct ProgressTeller(Progress);

impl ProgressTeller {
    pub fn tell(&self, positions: Positions) {
        let mut slot = self.0.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.number += 1;
        slot.positions = Arc::new(positions);
    }
}

impl Drop for ProgressTeller {
    fn drop(&mut self) {
        self.0.0.0.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.0.0.1.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::PartitionId;

    fn at(next: i64) -> Positions {
        let mut positions = Positions::default();
        positions.set(PartitionId { input: 0, partition: 0 }, next);
        positions
    }

    #[test]
    fn only_the_newest_positions_are_seen_and_each_once() {
        let progress = Progress::default();
        let (teller, mut seen) = (progress.teller(), 0);
        assert!(progress.newer(&mut seen).is_none());
        teller.tell(at(1));
        teller.tell(at(2));
        assert_eq!(progress.newer(&mut seen).as_deref(), Some(&at(2)));
        assert!(progress.newer(&mut seen).is_none());
    }

    #[test]
    fn waiting_ends_with_the_teller_and_gives_what_was_missed() {
        let progress = Progress::default();
        let (teller, waiting) = (progress.teller(), progress.clone());
        let thread = std::thread::spawn(move || waiting.wait_for_last(0));
        teller.tell(at(7));
        drop(teller);
        assert_eq!(thread.join().unwrap().as_deref(), Some(&at(7)));
        assert!(progress.wait_for_last(1).is_none());
    }
}
