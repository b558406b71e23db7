//! Mirror: what a process knows of all cells: their features of entities that belong to no cell, and how far they are.
//!
//!   every cell, at a commit ── sealed tiles, mark (watermark, …) ──> the internal topic ──> every process: one mirror
//!                                                                         │
//!   lanes evaluate entities of other keys below the lowest watermark <────┘
//!
//! In: parts and marks of each cell in the order of its commits; copies are dropped, a gap is an error.
//! Holds: below the frontier every event of every cell is in the stores; nothing that some cell may still ask for after
//! a restart is rolled up.
//! Does not: read a topic or a clock; see [`pipeline`](crate::pipeline).

use crate::cell::lane::{NULLABLE, read, write};
use crate::event::{
    CellMark, EventTime, FeatureBatch, Fingerprint, Outside, StreamId, Watermark, home_of, partition_of,
};
use crate::feature::{GroupSpec, GroupStore, StateError};
use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// The place of a part or mark in the sequence of a cell: the number of the commit, and of the part in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Sequence {
    /// Identity of the cell's chain.
    pub chain: u32,
    pub cut: u64,
    pub part: u32,
}

/// The sequence of a cell has a hole, or is another cell's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MirrorError {
    #[error("cell {cell}: part {part} of commit {cut} came after part {after_part} of commit {after_cut}")]
    Gap { cell: u32, cut: u64, part: u32, after_cut: u64, after_part: u32 },
    #[error("cell {cell} belongs to chain {found:08x}, before it was {expected:08x}")]
    OtherChain { cell: u32, expected: u32, found: u32 },
    #[error(transparent)]
    State(#[from] StateError),
}

#[derive(Clone, Debug)]
struct CellView {
    chain: u32,
    /// The last part that was taken, and whether it was the mark that ends a commit.
    last: (u64, u32),
    ended: bool,
    mark: Option<CellMark>,
    /// Since when the cell has seen everything of each group of the plan.
    since: Vec<EventTime>,
    /// Per stream, when the cell last said that it took rows (monotonic ms).
    moved_at_ms: BTreeMap<StreamId, u64>,
}

/// What a cell that runs here said last.
#[derive(Clone, Copy, Debug)]
struct Pinned {
    reads_from: EventTime,
    published: EventTime,
}

/// See the module.
pub struct Mirror {
    cells: u32,
    /// Per group of the plan; `None` for groups whose entities stay in their cell.
    stores: Vec<Option<RwLock<GroupStore>>>,
    views: Mutex<BTreeMap<u32, CellView>>,
    /// What the cells that run here still need, by their own last word: whoever takes one over needs less before this
    /// process knows of it.
    pinned: Mutex<BTreeMap<u32, Pinned>>,
    /// Cells whose words are news: all they had said before was taken.
    current: Mutex<BTreeSet<u32>>,
    /// Up to where this process has published what the cells that it owns own.
    published: Mutex<BTreeMap<u32, EventTime>>,
}

impl Mirror {
    /// `groups` are those of the plan; `exchanged` says which of them are kept here.
    pub fn new(cells: u32, groups: &[Arc<GroupSpec>], exchanged: &[bool]) -> Mirror {
        let store = |(number, spec): (usize, &Arc<GroupSpec>)| {
            exchanged[number].then(|| RwLock::new(GroupStore::new(number as u16, spec.clone())))
        };
        Mirror {
            cells,
            stores: groups.iter().enumerate().map(store).collect(),
            views: Mutex::default(),
            pinned: Mutex::default(),
            current: Mutex::default(),
            published: Mutex::default(),
        }
    }

    fn views(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, CellView>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a part or mark is the next of its cell; false when it came before.
    fn follows(&self, cell: u32, at: Sequence, is_mark: bool) -> Result<bool, MirrorError> {
        let mut views = self.views();
        let Some(view) = views.get_mut(&cell) else {
            // The topic keeps what anyone needs; where it begins for a cell does not matter.
            let (last, moved_at_ms) = ((at.cut, at.part), BTreeMap::new());
            views.insert(
                cell,
                CellView { chain: at.chain, last, ended: is_mark, mark: None, since: Vec::new(), moved_at_ms },
            );
            return Ok(true);
        };
        if at.chain != view.chain {
            return Err(MirrorError::OtherChain { cell, expected: view.chain, found: at.chain });
        }
        let (cut, part) = view.last;
        if (at.cut, at.part) <= (cut, part) {
            return Ok(false);
        }
        let next = if view.ended { (cut + 1, 0) } else { (cut, part + 1) };
        if (at.cut, at.part) != next {
            return Err(MirrorError::Gap { cell, cut: at.cut, part: at.part, after_cut: cut, after_part: part });
        }
        (view.last, view.ended) = ((at.cut, at.part), is_mark);
        Ok(true)
    }

    /// Takes tiles that a cell sealed. False when they came before.
    pub fn part(&self, cell: u32, at: Sequence, group: usize, rows: &RecordBatch) -> Result<bool, MirrorError> {
        if !self.follows(cell, at, false)? {
            return Ok(false);
        }
        if let Some(Some(store)) = self.stores.get(group) {
            write(store).merge(rows)?;
        }
        Ok(true)
    }

    /// All that a cell had said a moment ago was taken, or nobody knows any more.
    pub fn current(&self, cell: u32, is_current: bool) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if is_current {
            current.insert(cell)
        } else {
            current.remove(&cell)
        };
    }

    /// Takes the mark that ends a commit; `moved` are the streams that took rows since the mark before, which means
    /// something where the mark is no old one; `since` when the cell began to see each group of the plan.
    pub fn mark(
        &self,
        cell: u32,
        at: Sequence,
        mark: CellMark,
        moved: &[StreamId],
        since: Vec<EventTime>,
        now_ms: u64,
    ) -> Result<bool, MirrorError> {
        if !self.follows(cell, at, true)? {
            return Ok(false);
        }
        let mut views = self.views();
        let view = views.get_mut(&cell).expect("it was looked at just now");
        (view.mark, view.since) = (Some(mark), since);
        if self.current.lock().unwrap_or_else(PoisonError::into_inner).contains(&cell) {
            view.moved_at_ms.extend(moved.iter().map(|stream| (*stream, now_ms)));
        }
        let since: Vec<EventTime> = (0..self.stores.len())
            .map(|group| {
                let of_cell = |view: &CellView| view.since.get(group).copied().unwrap_or(EventTime::MAX);
                views.values().map(of_cell).max().unwrap_or(EventTime::MAX)
            })
            .collect();
        drop(views);
        let needed = self.needed();
        let published = self.lowest(|mark| mark.published);
        for (store, since) in self.stores.iter().zip(since).filter_map(|(store, since)| Some((store.as_ref()?, since)))
        {
            let mut store = write(store);
            store.learn_since(since);
            store.keep_unpublished(published);
            store.advance(Watermark::MIN, needed);
        }
        Ok(true)
    }

    /// The lowest watermark of all cells: every event below it is here. `MIN` until each cell was heard.
    pub fn frontier(&self) -> Watermark {
        Watermark(self.lowest(|mark| mark.watermark))
    }

    /// No cell will read features before it, nor will one that runs here although another process has taken it over.
    fn needed(&self) -> EventTime {
        let pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        let pinned = pinned.values().map(|last| last.reads_from).min();
        self.lowest(CellMark::reads_from).min(pinned.unwrap_or(EventTime::MAX))
    }

    /// The cell runs here, and this is its last word; `None` when it has said nothing yet.
    pub fn pin(&self, cell: u32, mark: Option<&CellMark>) {
        let (reads_from, published) =
            mark.map_or((EventTime::MIN, EventTime::MIN), |mark| (mark.reads_from(), mark.published));
        let last = Pinned { reads_from, published };
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner).insert(cell, last);
    }

    /// It runs here no more.
    pub fn unpin(&self, cell: u32) {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner).remove(&cell);
    }

    fn lowest(&self, of: impl Fn(&CellMark) -> EventTime) -> EventTime {
        let views = self.views();
        let heard = (0..self.cells).map(|cell| views.get(&cell).and_then(|view| view.mark.as_ref()).map(&of));
        heard.min().flatten().unwrap_or(EventTime::MIN)
    }

    /// How many cells have not been heard of yet.
    pub fn unheard(&self) -> u32 {
        self.cells - self.views().values().filter(|view| view.mark.is_some()).count() as u32
    }

    /// What the others say to `cell`, for which nothing has come yet if it is `new`.
    pub fn outside(&self, cell: u32, is_new: bool) -> Outside {
        let views = self.views();
        let others = || views.iter().filter(|(other, _)| **other != cell).map(|(_, view)| view);
        let known = |mark: &&CellMark| mark.watermark > EventTime::MIN;
        let marks = || others().filter_map(|view| view.mark.as_ref()).filter(known);
        let busy = marks().filter(|mark| !mark.idle).map(|mark| mark.watermark).min();
        // Where all are quiet each goes by its own clock; one that has no time of its own takes that of the others.
        let quiet = || marks().map(|mark| mark.watermark).min().filter(|_| is_new);
        let mut moved_at_ms = BTreeMap::new();
        for (stream, at) in others().flat_map(|view| &view.moved_at_ms) {
            let last = moved_at_ms.entry(*stream).or_insert(*at);
            *last = (*last).max(*at);
        }
        Outside { watermark: busy.or_else(quiet), moved_at_ms }
    }

    /// Whether a group is kept here.
    pub fn holds(&self, group: usize) -> bool {
        self.stores.get(group).is_some_and(Option::is_some)
    }

    /// As [`GroupStore::evaluate`], at instants below the frontier.
    pub fn evaluate(&self, group: usize, entities: &[Fingerprint], instants: &[EventTime]) -> RecordBatch {
        let store = self.stores[group].as_ref().expect("only groups that are kept here are asked for");
        read(store).evaluate(entities, instants).expect(NULLABLE)
    }

    /// The cell that answers for an entity online.
    pub fn owner(&self, entity: Fingerprint) -> u32 {
        partition_of(home_of(entity), self.cells)
    }

    /// Up to `limit` entities whose value changed, with their values at the `frontier`, by the cell that owns each; those
    /// that belong to no cell in `owned` are left out. `None` when nothing is due.
    pub fn take_due(
        &self,
        group: usize,
        frontier: Watermark,
        limit: usize,
        owned: &BTreeSet<u32>,
    ) -> Option<Vec<(u32, FeatureBatch)>> {
        let store = self.stores.get(group)?.as_ref().filter(|_| frontier > Watermark::MIN)?;
        let keep = |entity| owned.contains(&self.owner(entity));
        let (batch, entities) = write(store).take_due_of(frontier.0, limit, &keep).expect(NULLABLE)?;
        let by_owner = |cell: &u32| {
            let rows = (0..entities.len()).filter(|row| self.owner(entities[*row]) == *cell);
            let rows: Vec<u32> = rows.map(|row| row as u32).collect();
            let names = rows.iter().map(|row| batch.entities[*row as usize].clone()).collect();
            let values = take_record_batch(&batch.values, &UInt32Array::from(rows)).expect("the rows are there");
            (*cell, FeatureBatch { entities: names, values, ..batch.clone() })
        };
        Some(owned.iter().map(by_owner).filter(|(_, batch)| !batch.entities.is_empty()).collect())
    }

    /// Nobody can take what is due: it stays so, and time goes on to the `frontier`.
    pub fn hold_due(&self, frontier: Watermark) {
        if frontier > Watermark::MIN {
            self.stores.iter().flatten().for_each(|store| write(store).hold_due(frontier.0));
        }
    }

    /// Nothing of what these cells own was due any more at the `frontier`.
    pub fn drained(&self, frontier: Watermark, owned: &BTreeSet<u32>) {
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        published.extend(owned.iter().map(|cell| (*cell, frontier.0)));
    }

    /// Up to where a cell's entities are published, as far as is known here. Of a cell that runs here never less than it
    /// said before, also by another process whose words have not come yet: whoever takes it over next would publish what is
    /// older than that.
    pub fn published(&self, cell: u32) -> EventTime {
        let here = self.published.lock().unwrap_or_else(PoisonError::into_inner).get(&cell).copied();
        let said = self.pinned.lock().unwrap_or_else(PoisonError::into_inner).get(&cell).map(|last| last.published);
        let before = self.views().get(&cell).and_then(|view| view.mark).map(|mark| mark.published);
        here.max(said).max(before).unwrap_or(EventTime::MIN)
    }

    /// Every entity of these cells is due: nobody here has answered for them before.
    pub fn own(&self, cells: &BTreeSet<u32>) {
        // What was published while another owned them is not known here.
        self.published.lock().unwrap_or_else(PoisonError::into_inner).retain(|cell, _| !cells.contains(cell));
        for store in self.stores.iter().flatten() {
            write(store).publish_anew(&|entity| cells.contains(&self.owner(entity)));
        }
    }

    /// Entities, tiles and bytes of a group.
    pub fn size(&self, group: usize) -> (u64, u64, u64) {
        let Some(Some(store)) = self.stores.get(group) else { return (0, 0, 0) };
        let store = read(store);
        (store.entities() as u64, store.tiles() as u64, store.memory_bytes() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(cut: u64, part: u32) -> Sequence {
        Sequence { chain: 7, cut, part }
    }

    fn mark(watermark: EventTime) -> CellMark {
        CellMark { watermark, needed: watermark, idle: false, published: watermark }
    }

    #[test]
    fn f12_what_comes_again_is_dropped_and_what_is_missing_is_an_error() {
        let mirror = Mirror::new(2, &[], &[]);
        assert_eq!(mirror.mark(0, at(5, 2), mark(10), &[], Vec::new(), 0), Ok(true), "the topic may begin anywhere");
        assert_eq!(mirror.mark(0, at(5, 2), mark(99), &[], Vec::new(), 0), Ok(false), "an old owner wakes up");
        assert_eq!(mirror.mark(0, at(6, 0), mark(20), &[], Vec::new(), 0), Ok(true));
        let gap = MirrorError::Gap { cell: 0, cut: 8, part: 0, after_cut: 6, after_part: 0 };
        assert_eq!(mirror.mark(0, at(8, 0), mark(30), &[], Vec::new(), 0), Err(gap));
        let other = Sequence { chain: 8, ..at(7, 0) };
        assert!(matches!(mirror.mark(0, other, mark(30), &[], Vec::new(), 0), Err(MirrorError::OtherChain { .. })));
        assert_eq!(mirror.frontier(), Watermark::MIN, "cell 1 was not heard");
        mirror.mark(1, at(0, 0), mark(15), &[], Vec::new(), 0).unwrap();
        assert_eq!(mirror.frontier(), Watermark(15));
    }

    #[test]
    fn f10_what_a_cell_that_was_taken_over_may_still_read_is_kept_while_it_runs_here() {
        let mirror = Mirror::new(1, &[], &[]);
        mirror.mark(0, at(0, 0), mark(100), &[], Vec::new(), 0).unwrap();
        mirror.pin(0, Some(&mark(100)));
        mirror.mark(0, at(1, 0), mark(200), &[], Vec::new(), 0).unwrap();
        assert_eq!((mirror.needed(), mirror.frontier()), (100, Watermark(200)));
        mirror.unpin(0);
        assert_eq!(mirror.needed(), 200);
    }

    #[test]
    fn f11_a_cell_never_says_that_less_is_published_than_it_said_before() {
        let mirror = Mirror::new(1, &[], &[]);
        mirror.mark(0, at(0, 0), mark(100), &[], Vec::new(), 0).unwrap();
        // Taken over by a process that has read less of the topic than its manifest knows.
        mirror.pin(0, Some(&mark(500)));
        mirror.own(&BTreeSet::from([0]));
        assert_eq!(mirror.published(0), 500);
        mirror.drained(Watermark(300), &BTreeSet::from([0]));
        assert_eq!(mirror.published(0), 500);
        mirror.drained(Watermark(700), &BTreeSet::from([0]));
        assert_eq!(mirror.published(0), 700);
    }

    #[test]
    fn a_cell_whose_inputs_are_quiet_follows_those_that_move() {
        let mirror = Mirror::new(3, &[], &[]);
        (0..3).for_each(|cell| mirror.current(cell, true));
        mirror.mark(0, at(0, 0), mark(100), &[1], Vec::new(), 5).unwrap();
        mirror.mark(1, at(0, 0), CellMark { idle: true, ..mark(40) }, &[], Vec::new(), 6).unwrap();
        let heard = mirror.outside(2, false);
        assert_eq!(heard, Outside { watermark: Some(100), moved_at_ms: BTreeMap::from([(1, 5)]) });
        mirror.mark(0, at(1, 0), CellMark { idle: true, ..mark(120) }, &[], Vec::new(), 7).unwrap();
        assert_eq!(mirror.outside(2, false).watermark, None, "each goes by its own clock");
        assert_eq!(mirror.outside(2, true).watermark, Some(40), "this one has no time of its own");
    }

    #[test]
    fn what_a_mirror_reads_of_the_past_moves_no_stream_now() {
        let mirror = Mirror::new(2, &[], &[]);
        mirror.mark(0, at(0, 0), mark(100), &[1], Vec::new(), 5).unwrap();
        assert_eq!(mirror.outside(1, false).moved_at_ms, BTreeMap::new(), "a process reads the topic from its start");
        mirror.current(0, true);
        mirror.mark(0, at(1, 0), mark(200), &[1], Vec::new(), 6).unwrap();
        assert_eq!(mirror.outside(1, false).moved_at_ms, BTreeMap::from([(1, 6)]));
        mirror.current(0, false);
        mirror.mark(0, at(2, 0), mark(300), &[1], Vec::new(), 7_000).unwrap();
        assert_eq!(
            mirror.outside(1, false).moved_at_ms,
            BTreeMap::from([(1, 6)]),
            "nor what was said during an outage"
        );
    }
}
