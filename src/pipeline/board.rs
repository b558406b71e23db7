//! Board: what a running pipeline shows to people: one snapshot that is replaced, never read half.

use crate::event::{EventTime, LaneCounts, StreamAccount, Totals};
use crate::online::WriterStats;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// How far a run is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Takes the state over.
    #[default]
    Starting,
    /// Opens its inputs, and waits for those that are not there.
    Connecting,
    /// Reads its state back.
    Restoring,
    Running,
    /// Its inputs have ended, it was stopped, or it failed.
    Ended,
}

/// The state of a run as its threads last told it.
#[derive(Clone, Debug, Default)]
pub struct RunView {
    pub phase: Phase,
    /// Monotonic ms at which the run began, and now.
    pub started_ms: u64,
    pub now_ms: u64,
    /// Books of the chain: per stream name, and of the whole cell as of the last commit.
    pub streams: Vec<(String, StreamAccount)>,
    /// Records that this run has read.
    pub records_this_run: u64,
    pub counts: LaneCounts,
    pub totals: Totals,
    pub watermark: Option<EventTime>,
    pub newest: Option<EventTime>,
    pub online_instant: Option<EventTime>,
    /// Per feature group of the plan, since when it misses nothing.
    pub groups_since: Arc<[EventTime]>,
    /// Rows handed to the Parquet writers since the start, committed or not.
    pub rows_written: u64,
    pub commit_number: u64,
    pub commits_this_run: u64,
    pub commit_ms: u64,
    pub commit_bytes: u64,
    /// Names of streams that hold the watermark back although they are quiet.
    pub holding: Vec<String>,
    pub connection_problem: Option<String>,
    /// How the writer to the online store fares; always up to date.
    pub online: Option<Arc<WriterStats>>,
    /// Pending rows that the start brought back, and how long that took.
    pub restored_rows: u64,
    pub restored_ms: u64,
    pub dead_letters: u64,
    pub failed_values: u64,
    /// What the last commit of this run covers: topic, partition, next offset.
    pub committed: Vec<(String, u32, i64)>,
}

impl RunView {
    /// Takes the sums of the cells of a process; what belongs to the process itself stays.
    pub fn sum_of(&mut self, cells: &[RunView]) {
        let sum = |of: &dyn Fn(&RunView) -> u64| cells.iter().map(of).sum::<u64>();
        let mut streams: Vec<(String, StreamAccount)> = Vec::new();
        for (name, account) in cells.iter().flat_map(|cell| &cell.streams) {
            match streams.iter_mut().find(|(known, _)| known == name) {
                Some((_, total)) => *total += *account,
                None => streams.push((name.clone(), *account)),
            }
        }
        let mut counts = LaneCounts::default();
        cells.iter().for_each(|cell| counts.add(&cell.counts));
        let mut totals = Totals::default();
        cells.iter().for_each(|cell| totals += cell.totals);
        let holding: BTreeSet<String> = cells.iter().flat_map(|cell| cell.holding.iter().cloned()).collect();
        (self.streams, self.counts, self.totals) = (streams, counts, totals);
        self.holding = holding.into_iter().collect();
        self.records_this_run = sum(&|cell| cell.records_this_run);
        self.rows_written = sum(&|cell| cell.rows_written);
        // That of the cell which has made most.
        self.commit_number = cells.iter().map(|cell| cell.commit_number).max().unwrap_or(0);
        self.commits_this_run = sum(&|cell| cell.commits_this_run);
        self.dead_letters = sum(&|cell| cell.dead_letters);
        self.failed_values = sum(&|cell| cell.failed_values);
        self.restored_rows = sum(&|cell| cell.restored_rows);
        self.restored_ms = cells.iter().map(|cell| cell.restored_ms).max().unwrap_or(0);
        // What one cell has not seen whole is not whole.
        let groups = cells.iter().map(|cell| cell.groups_since.len()).max().unwrap_or(0);
        let since = |group: usize| cells.iter().filter_map(|cell| cell.groups_since.get(group).copied()).max();
        self.groups_since = (0..groups).filter_map(since).collect();
        self.watermark = cells.iter().filter_map(|cell| cell.watermark).min();
        self.newest = cells.iter().filter_map(|cell| cell.newest).max();
        self.online_instant = cells.iter().filter_map(|cell| cell.online_instant).min();
    }
}

#[derive(Clone, Default)]
pub struct Board(Arc<Mutex<RunView>>);

impl Board {
    pub fn view(&self) -> RunView {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The instant as of which features were last published, for every request that looks at it.
    pub fn online_instant(&self) -> Option<EventTime> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).online_instant
    }

    /// Since when each feature group misses nothing, for every request that looks at it.
    pub fn groups_since(&self) -> Arc<[EventTime]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).groups_since.clone()
    }

    pub fn update(&self, change: impl FnOnce(&mut RunView)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
