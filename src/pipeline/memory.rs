//! Memory: how much of `state.memory` the lanes of this process may take, whatever cells they belong to.
//!
//!   5/8   index, labels, tiles; what is left of it holds payload that is on disk too, and the rest of that is spilled
//!   1/8   rows that came since the last cut: past it the next cut comes early
//!   1/8   rows of the cut under way: when both are full, reading waits for the commit
//!   1/8   that cut as it is encoded
//!
//! Does not: count what is on its way to a lane or in a file that is open; those have bounds of their own.

use crate::cell::Lane;
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
pub struct LaneMemory {
    limit: Arc<StateMemoryLimit>,
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

    /// What a lane holds that was brought back.
    pub fn restored(&self, lane: &Lane) {
        self.set_fixed(lane.counts().fixed_bytes());
        self.set_fresh(lane.fresh_bytes());
    }

    /// Bytes of payload that the lane may keep in memory though they are on disk. Lanes with more rows have more of it.
    pub fn keep(&self) -> usize {
        let (lanes, fixed) = self.limit.held();
        let room = self.limit.resident_max().saturating_sub(fixed) as u128;
        let mine = self.fixed.load(Ordering::Relaxed) as u128 + 1;
        (room * mine / (fixed as u128 + lanes.max(1) as u128)) as usize
    }
}

/// The lanes of one cell.
pub struct CellMemory {
    limit: Arc<StateMemoryLimit>,
    lanes: Vec<Arc<LaneMemory>>,
}

impl CellMemory {
    pub fn new(limit: &Arc<StateMemoryLimit>, lanes: usize) -> CellMemory {
        let lane = |_| {
            let (limit, fixed, fresh) = (limit.clone(), AtomicU64::new(0), AtomicU64::new(0));
            Arc::new(LaneMemory { limit, fixed, fresh })
        };
        let lanes: Vec<_> = (0..lanes).map(lane).collect();
        let mut all = limit.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(lanes.iter().map(Arc::downgrade));
        CellMemory { limit: limit.clone(), lanes }
    }

    pub fn lane(&self, number: usize) -> &Arc<LaneMemory> {
        &self.lanes[number]
    }

    pub fn limit(&self) -> &StateMemoryLimit {
        &self.limit
    }

    /// Bytes of rows that the lanes may take in before a cut.
    fn fresh_max(&self) -> u64 {
        (self.limit.bytes / 8 * self.lanes.len() as u64 / self.limit.held().0.max(1)).max(FRESH_BYTES_MIN)
    }

    /// Whether lanes that were sent so many bytes since the last cut are to be sent more before the next one.
    pub fn has_room(&self, sent: u64) -> bool {
        sent <= self.fresh_max()
    }

    /// Whether lanes themselves say that they took in more: features come beside the rows.
    pub fn is_full(&self) -> bool {
        self.lanes.iter().map(|lane| lane.fresh.load(Ordering::Relaxed)).sum::<u64>() > self.fresh_max()
    }
}

impl StateMemoryLimit {
    pub fn new(bytes: u64) -> Arc<StateMemoryLimit> {
        Arc::new(StateMemoryLimit { bytes, lanes: Mutex::default(), overdrawn: AtomicBool::new(false) })
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
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
        let limit = StateMemoryLimit::new(80 * MIB);
        let cells = [CellMemory::new(&limit, 1), CellMemory::new(&limit, 1)];
        let keep = |cell: usize| cells[cell].lane(0).keep() as u64;
        assert_eq!((keep(0), keep(1)), (25 * MIB, 25 * MIB));
        cells[0].lane(0).set_fixed(30 * MIB);
        cells[1].lane(0).set_fixed(10 * MIB);
        assert!(keep(0) + keep(1) <= 10 * MIB && keep(0) > 7 * MIB && keep(1) > 2 * MIB);
        cells[1].lane(0).set_fixed(40 * MIB);
        assert_eq!((keep(0), keep(1)), (0, 0));
        let [one, other] = cells;
        drop(other);
        assert!(one.lane(0).keep() as u64 >= 19 * MIB, "what is gone takes nothing");
    }

    #[test]
    fn a_cut_is_due_when_an_eighth_is_fresh_and_more_cells_have_less_each() {
        let limit = StateMemoryLimit::new(80 * MIB);
        let mine = CellMemory::new(&limit, 2);
        mine.lane(0).set_fresh(6 << 20);
        mine.lane(1).set_fresh(4 << 20);
        assert!(!mine.is_full() && mine.has_room(10 * MIB));
        let others = CellMemory::new(&limit, 2);
        assert!(mine.is_full() && !others.is_full());
        assert!(mine.has_room(5 * MIB) && !mine.has_room(5 * MIB + 1));
        mine.lane(0).set_fresh(0);
        assert!(!mine.is_full());
    }

    #[test]
    fn little_memory_still_takes_some_rows_between_cuts() {
        let cell = CellMemory::new(&StateMemoryLimit::new(0), 1);
        assert!(cell.has_room(FRESH_BYTES_MIN) && !cell.has_room(FRESH_BYTES_MIN + 1));
        assert_eq!(cell.lane(0).keep(), 0);
    }
}
