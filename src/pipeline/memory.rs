//! Memory: how much of `state.memory` the lanes of this process may take, whatever cells they belong to.
//!
//!   index, labels, tiles, and in what is left payload that is on disk too; the rest of that is spilled    5/8 at most
//!   1/32   rows that came since the last cut: past it the next cut comes early
//!   1/32   rows of the cut under way: when both are full, reading waits for the commit
//!   what else the process takes: batches on their way, that cut as it is encoded, row groups of open files (1/16), models,
//!   the allocator's own
//!   1/8    what comes between two looks at that
//!
//! What else it takes is not added up but seen: it is what the process has beyond what its lanes say they hold, and the
//! more it is, the less payload stays.

use crate::cell::Lane;
use crate::env::resident_bytes;
use crate::event::LaneCounts;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Rows between cuts may take so much, however little memory there is: below it commits would be all that happens.
const FRESH_BYTES_MIN: u64 = 256 << 10;
/// Row groups that wait in memory for their end: of one sink at least and at most.
const ROW_GROUPS_BYTES: (u64, u64) = (4 << 20, 64 << 20);
/// Of the most that was seen beside the state, what is believed at the next look: peaks matter, and pass.
const BESIDE_KEPT: (u64, u64) = (127, 128);

/// The memory of a process, which its lanes share.
pub struct StateMemoryLimit {
    bytes: u64,
    lanes: Mutex<Vec<Weak<LaneMemory>>>,
    /// What the process has beside what lanes hold: the most of late.
    beside: AtomicU64,
    overdrawn: AtomicBool,
}

/// What one lane holds, as it says itself.
pub struct LaneMemory {
    limit: Arc<StateMemoryLimit>,
    /// What cannot leave memory, at the last cut.
    fixed: AtomicU64,
    /// Rows that came since then.
    fresh: AtomicU64,
    /// Payload in memory at the last cut, less what has left it since.
    payload: AtomicU64,
}

impl LaneMemory {
    pub fn set_fixed(&self, bytes: u64) {
        self.fixed.store(bytes, Ordering::Relaxed);
    }

    pub fn set_fresh(&self, bytes: usize) {
        self.fresh.store(bytes as u64, Ordering::Relaxed);
    }

    /// What a lane holds at a cut.
    pub fn at_cut(&self, counts: &LaneCounts) {
        self.set_fixed(counts.fixed_bytes());
        self.payload.store(counts.samples.iter().map(|sample| sample.memory.payload).sum(), Ordering::Relaxed);
    }

    /// What a lane holds that was brought back.
    pub fn restored(&self, lane: &Lane) {
        self.at_cut(&lane.counts());
        self.set_fresh(lane.fresh_bytes());
    }

    /// Bytes of payload that the lane may keep in memory though they are on disk, and from now on does. Lanes with more
    /// rows have more of it.
    pub fn keep(&self) -> usize {
        let (lanes, fixed) = self.limit.fixed();
        let room = self.limit.resident_max().saturating_sub(fixed) as u128;
        let mine = self.fixed.load(Ordering::Relaxed) as u128 + 1;
        let keep = (room * mine / (fixed as u128 + lanes.max(1) as u128)) as u64;
        self.payload.fetch_min(keep, Ordering::Relaxed);
        keep as usize
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
            let (fixed, fresh, payload) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
            Arc::new(LaneMemory { limit: limit.clone(), fixed, fresh, payload })
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
        (self.limit.fresh_max() * self.lanes.len() as u64 / self.limit.fixed().0.max(1)).max(FRESH_BYTES_MIN)
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
        let (beside, overdrawn) = (AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(StateMemoryLimit { bytes, lanes: Mutex::default(), beside, overdrawn })
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many lanes there are, and the sum of what they say.
    fn sum(&self, of: impl Fn(&LaneMemory) -> u64) -> (u64, u64) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|lane| lane.strong_count() > 0);
        (lanes.len() as u64, lanes.iter().filter_map(Weak::upgrade).map(|lane| of(&lane)).sum())
    }

    /// How many lanes there are, and what all of them cannot let go of.
    fn fixed(&self) -> (u64, u64) {
        self.sum(|lane| lane.fixed.load(Ordering::Relaxed))
    }

    /// Of rows that came since the last cut.
    fn fresh_max(&self) -> u64 {
        self.bytes / 32
    }

    /// Of the state, at rest between two commits.
    fn resident_max(&self) -> u64 {
        let beside = self.beside.load(Ordering::Relaxed);
        (self.bytes / 8 * 5).min((self.bytes - self.bytes / 8).saturating_sub(beside + 2 * self.fresh_max()))
    }

    /// Bytes of row groups that one of so many sinks may keep open.
    pub fn row_groups_bytes(&self, sinks: usize) -> usize {
        (self.bytes / 16 / sinks.max(1) as u64).clamp(ROW_GROUPS_BYTES.0, ROW_GROUPS_BYTES.1) as usize
    }

    /// Takes note of what the process has.
    pub fn look(&self) {
        let held = |lane: &LaneMemory| {
            [&lane.fixed, &lane.fresh, &lane.payload].iter().map(|part| part.load(Ordering::Relaxed)).sum()
        };
        if let Some(resident) = resident_bytes() {
            self.saw(resident.saturating_sub(self.sum(held).1));
        }
        self.tell();
    }

    fn saw(&self, beside: u64) {
        let before = self.beside.load(Ordering::Relaxed);
        let faded = before / BESIDE_KEPT.1 * BESIDE_KEPT.0;
        self.beside.store(beside.max(faded), Ordering::Relaxed);
    }

    /// Whether what cannot leave memory is more than there is room for. Once it was, there has to be room to spare: what a
    /// process has beside it goes up and down many times a minute.
    fn is_overdrawn(&self, fixed: u64, before: bool) -> bool {
        let spare = if before { self.bytes / 8 } else { 0 };
        fixed + spare > self.resident_max()
    }

    /// Says it when what cannot leave memory does not fit into it any more, and when it does again.
    fn tell(&self) {
        let (_, fixed) = self.fixed();
        let (limit, holds) = (self.bytes, self.resident_max());
        let before = self.overdrawn.load(Ordering::Relaxed);
        let overdrawn = self.is_overdrawn(fixed, before);
        self.overdrawn.store(overdrawn, Ordering::Relaxed);
        if overdrawn == before {
            return;
        }
        if overdrawn {
            let beside = self.beside.load(Ordering::Relaxed);
            tracing::warn!(
                fixed,
                beside,
                limit,
                "keys, labels and feature tiles alone take more than the {holds} bytes that `state.memory` leaves for them \
                 beside what else the process has: all payload has left memory, and they may grow past the limit. \
                 Raise `state.memory`, shorten the windows, or run more processes"
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
    fn what_the_process_has_beside_its_state_leaves_less_of_it_in_memory() {
        let limit = StateMemoryLimit::new(160 * MIB);
        let cell = CellMemory::new(&limit, 1);
        let keep = || cell.lane(0).keep() as u64;
        cell.lane(0).set_fixed(60 * MIB);
        limit.saw(30 * MIB);
        assert_eq!(keep(), 40 * MIB, "there is enough for all");
        limit.saw(60 * MIB);
        assert_eq!(keep(), 10 * MIB, "160 less 60 beside, 60 fixed, 10 for rows that come, 20 for bursts");
        limit.saw(0);
        assert!((10 * MIB..11 * MIB).contains(&keep()), "a peak is remembered");
        (0..1_000).for_each(|_| limit.saw(0));
        assert_eq!(keep(), 40 * MIB, "and forgotten");
        limit.saw(200 * MIB);
        assert_eq!(keep(), 0);
    }

    #[test]
    fn a_limit_that_is_just_reached_is_told_once() {
        let limit = StateMemoryLimit::new(160 * MIB);
        limit.saw(60 * MIB);
        let mut told = Vec::new();
        let mut overdrawn = false;
        for fixed in [69, 71, 69, 71, 69, 71, 49, 51, 71] {
            let before = overdrawn;
            overdrawn = limit.is_overdrawn(fixed * MIB, before);
            told.extend((overdrawn != before).then_some((fixed, overdrawn)));
        }
        assert_eq!(told, [(71, true), (49, false), (71, true)]);
    }

    #[test]
    fn row_groups_of_all_sinks_share_a_sixteenth() {
        let limit = StateMemoryLimit::new(320 * MIB);
        assert_eq!(limit.row_groups_bytes(2), 10 << 20);
        assert_eq!((limit.row_groups_bytes(0), limit.row_groups_bytes(100)), (20 << 20, 4 << 20));
    }

    #[test]
    fn a_cut_is_due_when_its_share_is_fresh_and_more_cells_have_less_each() {
        let limit = StateMemoryLimit::new(320 * MIB);
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
