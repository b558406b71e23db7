//! Accounts: every record is counted once per use, exactly, at every manifest (F1).

use crate::event::{DelaySketch, EventTime};
use std::ops::{AddAssign, Deref};

/// What became of the rows of one stream.
///
/// `consumed = accepted + filtered + dead_lettered`; each use (a sample or a feature) then accounts for `accepted`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct StreamAccount {
    /// Records read: the sum of the position steps.
    pub records: u64,
    /// Rows, after a slate was exploded.
    pub consumed: u64,
    pub filtered: u64,
    pub dead_lettered: u64,
    pub accepted: u64,
}

impl StreamAccount {
    pub fn balances(&self) -> bool {
        self.consumed == self.accepted + self.filtered + self.dead_lettered
    }
}

impl AddAssign for StreamAccount {
    fn add_assign(&mut self, other: Self) {
        self.records += other.records;
        self.consumed += other.consumed;
        self.filtered += other.filtered;
        self.dead_lettered += other.dead_lettered;
        self.accepted += other.accepted;
    }
}

/// What became of the accepted rows of a sample's anchor stream:
/// `accepted = duplicate + conflict + late + applied` and `applied = pending + emitted + sampled_out`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct AnchorAccount {
    pub duplicate: u64,
    pub conflict: u64,
    pub late: u64,
    pub applied: u64,
    pub pending: u64,
    pub emitted: u64,
    pub sampled_out: u64,
}

impl AnchorAccount {
    pub fn accepted(&self) -> u64 {
        self.duplicate + self.conflict + self.late + self.applied
    }

    pub fn balances(&self) -> bool {
        self.applied == self.pending + self.emitted + self.sampled_out
    }
}

impl AddAssign for AnchorAccount {
    fn add_assign(&mut self, other: Self) {
        self.duplicate += other.duplicate;
        self.conflict += other.conflict;
        self.late += other.late;
        self.applied += other.applied;
        self.pending += other.pending;
        self.emitted += other.emitted;
        self.sampled_out += other.sampled_out;
    }
}

/// What became of the accepted rows of one label stream of a sample:
/// `accepted = filtered + duplicate + conflict + late + applied` and
/// `applied = waiting + attached + corrected + out_of_window + expired_unmatched`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct LabelAccount {
    /// Turned away by the join's own `where`.
    pub filtered: u64,
    pub duplicate: u64,
    pub conflict: u64,
    /// Came when no impression it could belong to can still be open.
    pub late: u64,
    pub applied: u64,
    /// Held: its impression is pending, or may still come.
    pub waiting: u64,
    /// Left with its impression, whether or not `take` used it.
    pub attached: u64,
    /// Left as a correction of its impression.
    #[serde(default)]
    pub corrected: u64,
    /// Its key was seen, but no impression of that key had it in its window.
    pub out_of_window: u64,
    /// No impression of its key was pending while it waited.
    pub expired_unmatched: u64,
}

impl LabelAccount {
    pub fn accepted(&self) -> u64 {
        self.filtered + self.duplicate + self.conflict + self.late + self.applied
    }

    /// The share of labels that attached among those of which it is decided; `None` before any is.
    pub fn coverage(&self) -> Option<f64> {
        let decided = self.attached + self.corrected + self.late + self.out_of_window + self.expired_unmatched;
        (decided > 0).then(|| self.attached as f64 / decided as f64)
    }

    pub fn balances(&self) -> bool {
        self.applied == self.waiting + self.attached + self.corrected + self.out_of_window + self.expired_unmatched
    }
}

impl AddAssign for LabelAccount {
    fn add_assign(&mut self, other: Self) {
        self.filtered += other.filtered;
        self.duplicate += other.duplicate;
        self.conflict += other.conflict;
        self.late += other.late;
        self.applied += other.applied;
        self.waiting += other.waiting;
        self.attached += other.attached;
        self.corrected += other.corrected;
        self.out_of_window += other.out_of_window;
        self.expired_unmatched += other.expired_unmatched;
    }
}

/// What became of the accepted rows of one feature group's use of a stream:
/// `accepted = masked + duplicate + late + applied`, where `masked` rows fail every `where` or have no entity.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct FeatureAccount {
    pub masked: u64,
    pub duplicate: u64,
    pub late: u64,
    pub applied: u64,
}

impl FeatureAccount {
    pub fn accepted(&self) -> u64 {
        self.masked + self.duplicate + self.late + self.applied
    }
}

impl AddAssign for FeatureAccount {
    fn add_assign(&mut self, other: Self) {
        self.masked += other.masked;
        self.duplicate += other.duplicate;
        self.late += other.late;
        self.applied += other.applied;
    }
}

/// The books of one lane.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LaneCounts {
    pub frontier: EventTime,
    pub samples: Vec<SampleCounts>,
    pub groups: Vec<GroupCounts>,
}

#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SampleCounts {
    pub anchor: AnchorAccount,
    pub labels: Vec<LabelAccount>,
    /// How long after their impressions the attached labels of each join came. Unlike the accounts they begin where a
    /// version of conjoin came that keeps them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delays: Vec<DelaySketch>,
    /// Time buckets up to which rows have closed, and lie in files.
    pub closed_through: Option<u32>,
    pub filed_through: Option<u32>,
    /// Where rows leave before their impression closes: the time bucket of instants up to which they lie in files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emitted_through: Option<u32>,
    #[serde(default)]
    pub memory_bytes: u64,
    /// The same by what it is.
    #[serde(default)]
    pub memory: StateMemory,
}

/// Bytes of a sample's state in memory, and of what of it is on disk alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StateMemory {
    /// Times, keys and where to find them: in memory until the rows close.
    pub index: u64,
    pub labels: u64,
    /// Columns of impressions and of their features.
    pub payload: u64,
    /// Columns that are on disk alone, as they lie there.
    pub spilled: u64,
}

impl StateMemory {
    pub fn total(&self) -> u64 {
        self.index + self.labels + self.payload
    }
}

impl AddAssign for StateMemory {
    fn add_assign(&mut self, other: StateMemory) {
        self.index += other.index;
        self.labels += other.labels;
        self.payload += other.payload;
        self.spilled += other.spilled;
    }
}

#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct GroupCounts {
    /// Per use of a stream, in the order of `GroupSpec::uses`.
    pub uses: Vec<FeatureAccount>,
    pub entities: u64,
    pub tiles: u64,
    pub due: u64,
    #[serde(default)]
    pub memory_bytes: u64,
}

impl LaneCounts {
    /// Where a process that takes over starts to count: rows that are held, and how far time has come, are told by the
    /// lanes that hold them now.
    pub fn without_held(&self) -> LaneCounts {
        let mut counts = LaneCounts { frontier: EventTime::MIN, ..self.clone() };
        for sample in &mut counts.samples {
            sample.anchor.applied -= sample.anchor.pending;
            sample.anchor.pending = 0;
            for label in &mut sample.labels {
                label.applied -= label.waiting;
                label.waiting = 0;
            }
            (sample.memory_bytes, sample.memory) = (0, StateMemory::default());
        }
        for group in &mut counts.groups {
            (group.entities, group.tiles, group.due, group.memory_bytes) = (0, 0, 0, 0);
        }
        counts
    }

    /// Bytes in memory that cannot leave it.
    pub fn fixed_bytes(&self) -> u64 {
        let samples = self.samples.iter().map(|sample| sample.memory.index + sample.memory.labels);
        samples.chain(self.groups.iter().map(|group| group.memory_bytes)).sum()
    }

    /// The books of a whole cell: lanes own disjoint rows, and all stand at the same cut.
    pub fn add(&mut self, other: &LaneCounts) {
        self.frontier = self.frontier.max(other.frontier);
        self.samples.resize(self.samples.len().max(other.samples.len()), SampleCounts::default());
        for (mine, theirs) in self.samples.iter_mut().zip(&other.samples) {
            mine.anchor += theirs.anchor;
            add_all(&mut mine.labels, theirs.labels.as_slice());
            add_all(&mut mine.delays, theirs.delays.as_slice());
            mine.closed_through = mine.closed_through.max(theirs.closed_through);
            mine.filed_through = mine.filed_through.max(theirs.filed_through);
            mine.emitted_through = mine.emitted_through.max(theirs.emitted_through);
            mine.memory_bytes += theirs.memory_bytes;
            mine.memory += theirs.memory;
        }
        self.groups.resize(self.groups.len().max(other.groups.len()), GroupCounts::default());
        for (mine, theirs) in self.groups.iter_mut().zip(&other.groups) {
            add_all(&mut mine.uses, theirs.uses.as_slice());
            mine.entities += theirs.entities;
            mine.tiles += theirs.tiles;
            mine.due += theirs.due;
            mine.memory_bytes += theirs.memory_bytes;
        }
    }
}

/// Sums over the life of the chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Totals {
    pub files: u64,
    pub file_rows: u64,
    pub file_bytes: u64,
    pub dead_letter_files: u64,
    pub dead_letter_rows: u64,
    /// Files of side outputs.
    #[serde(default)]
    pub side_files: u64,
    #[serde(default)]
    pub side_rows: u64,
    pub state_bytes_written: u64,
    /// Of these, bytes of blocks that were there before: small objects are put together.
    #[serde(default)]
    pub state_bytes_copied: u64,
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.file_rows += other.file_rows;
        self.file_bytes += other.file_bytes;
        self.dead_letter_files += other.dead_letter_files;
        self.dead_letter_rows += other.dead_letter_rows;
        self.side_files += other.side_files;
        self.side_rows += other.side_rows;
        self.state_bytes_written += other.state_bytes_written;
        self.state_bytes_copied += other.state_bytes_copied;
    }
}

/// Adds two lists of accounts element by element; the shorter one is taken as padded with zeros.
pub fn add_all<T: AddAssign + Default + Clone>(into: &mut Vec<T>, other: impl Deref<Target = [T]>) {
    if into.len() < other.len() {
        into.resize(other.len(), T::default());
    }
    for (mine, theirs) in into.iter_mut().zip(other.iter()) {
        *mine += theirs.clone();
    }
}
