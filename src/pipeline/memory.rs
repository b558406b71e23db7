//! Memory: how much of `state.memory` the lanes of this process may take, whatever cells they belong to.
//!
//!   5/8   index, labels, tiles; what is left of it holds payload that is on disk too, and the rest of that is spilled
//!   1/8   rows that came since the last cut: past it the next cut comes early
//!   1/8   rows of the cut under way: when both are full, reading waits for the commit
//!   1/8   that cut as it is encoded
//!
//! Does not: count what is on its way to a lane or in a file that is open; those have bounds of their own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Rows between cuts may take so much, however little memory there is: below it commits would be all that happens.
const FRESH_BYTES_MIN: u64 = 256 << 10;

/// The memory of a process, which its lanes share.
pub struct StateMemoryLimit {
    bytes: u64,
    lanes: Mutex<Vec<Weak<LaneMemory>>>,
    overdrawn: AtomicBool,
}

/// What one lane holds, as it says itself.
#[derive(Default)]
pub struct LaneMemory {
    /// What cannot leave memory, at the last cut.
    fixed: AtomicU64,
    /// Rows that came since then.
    fresh: AtomicU64,
}

impl LaneMemory {
    pub fn set_fixed(&self, bytes: u64) {
        self.fixed.store(bytes, Ordering::Relaxed);
    }

    pub fn set_fresh(&self, bytes: usize) {
        self.fresh.store(bytes as u64, Ordering::Relaxed);
    }
}

impl StateMemoryLimit {
    pub fn new(bytes: u64) -> Arc<StateMemoryLimit> {
        Arc::new(StateMemoryLimit { bytes, lanes: Mutex::default(), overdrawn: AtomicBool::new(false) })
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// One more lane, until it is dropped.
    pub fn lane(&self) -> Arc<LaneMemory> {
        let lane = Arc::new(LaneMemory::default());
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&lane));
        lane
    }

    /// How many lanes there are, and what all of them cannot let go of.
    fn held(&self) -> (u64, u64) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|lane| lane.strong_count() > 0);
        let fixed = lanes.iter().filter_map(Weak::upgrade).map(|lane| lane.fixed.load(Ordering::Relaxed));
        (lanes.len() as u64, fixed.sum())
    }

    fn resident_max(&self) -> u64 {
        self.bytes / 8 * 5
    }

    /// Bytes of payload that a lane may keep in memory though they are on disk. Lanes with more rows have more of it.
    pub fn keep(&self, lane: &LaneMemory) -> usize {
        let (lanes, fixed) = self.held();
        let room = self.resident_max().saturating_sub(fixed) as u128;
        let mine = lane.fixed.load(Ordering::Relaxed) as u128 + 1;
        (room * mine / (fixed as u128 + lanes.max(1) as u128)) as usize
    }

    /// Bytes of rows that so many of all lanes may take in before a cut.
    fn fresh_max(&self, lanes: usize) -> u64 {
        (self.bytes / 8 * lanes as u64 / self.held().0.max(1)).max(FRESH_BYTES_MIN)
    }

    /// Whether lanes that were sent so many bytes since the last cut are to be sent more before the next one.
    pub fn has_room(&self, sent: u64, lanes: &[Arc<LaneMemory>]) -> bool {
        sent <= self.fresh_max(lanes.len())
    }

    /// Whether lanes themselves say that they took in more: features come beside the rows.
    pub fn is_full(&self, lanes: &[Arc<LaneMemory>]) -> bool {
        lanes.iter().map(|lane| lane.fresh.load(Ordering::Relaxed)).sum::<u64>() > self.fresh_max(lanes.len())
    }

    /// Says it when what cannot leave memory does not fit into it any more, and when it does again.
    pub fn look(&self) {
        let (_, fixed) = self.held();
        let (overdrawn, limit, holds) = (fixed > self.resident_max(), self.bytes, self.resident_max());
        if overdrawn == self.overdrawn.swap(overdrawn, Ordering::Relaxed) {
            return;
        }
        if overdrawn {
            tracing::warn!(
                fixed,
                limit,
                "keys, labels and feature tiles alone take more than the {holds} bytes that `state.memory` leaves for them: \
                 all payload has left memory, and it goes on growing past the limit. Raise `state.memory`, shorten the \
                 windows, or run more processes"
            );
        } else {
            tracing::info!(fixed, limit, "keys, labels and feature tiles fit into `state.memory` again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn lanes_share_what_is_left_by_what_they_hold() {
        let memory = StateMemoryLimit::new(80 * MIB);
        let (one, other) = (memory.lane(), memory.lane());
        assert_eq!((memory.keep(&one), memory.keep(&other)), (25 * MIB as usize, 25 * MIB as usize));
        one.set_fixed(30 * MIB);
        other.set_fixed(10 * MIB);
        let (of_one, of_other) = (memory.keep(&one), memory.keep(&other));
        assert!(of_one + of_other <= 10 * MIB as usize && of_one > 7 * MIB as usize && of_other > 2 * MIB as usize);
        other.set_fixed(40 * MIB);
        assert_eq!((memory.keep(&one), memory.keep(&other)), (0, 0));
        drop(other);
        assert!(memory.keep(&one) >= 19 * MIB as usize, "what is gone takes nothing");
    }

    #[test]
    fn a_cut_is_due_when_an_eighth_is_fresh_and_more_cells_have_less_each() {
        let memory = StateMemoryLimit::new(80 * MIB);
        let mine = [memory.lane(), memory.lane()];
        mine[0].set_fresh(6 << 20);
        mine[1].set_fresh(4 << 20);
        assert!(!memory.is_full(&mine));
        let others = [memory.lane(), memory.lane()];
        assert!(memory.is_full(&mine) && !memory.is_full(&others));
        assert!(memory.has_room(5 * MIB, &mine) && !memory.has_room(5 * MIB + 1, &mine));
        mine[0].set_fresh(0);
        assert!(!memory.is_full(&mine));
    }

    #[test]
    fn little_memory_still_takes_some_rows_between_cuts() {
        let memory = StateMemoryLimit::new(0);
        let lanes = [memory.lane()];
        lanes[0].set_fresh(FRESH_BYTES_MIN as usize);
        assert!(!memory.is_full(&lanes));
        lanes[0].set_fresh(FRESH_BYTES_MIN as usize + 1);
        assert!(memory.is_full(&lanes) && memory.keep(&lanes[0]) == 0);
    }
}
