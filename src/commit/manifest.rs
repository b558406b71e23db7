//! Manifest: one link of a cell's chain; what is not in a manifest never happened.

use crate::event::{
    BlockClass, BlockKind, CellMark, EventTime, LaneCounts, SegmentId, StagedFile, StreamAccount, Totals,
};
use std::collections::BTreeMap;

/// Version of the manifest and of the state objects it names.
pub const FORMAT: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ManifestKind {
    /// A writer took the chain over; everything else is as in the manifest before.
    Claim,
    Commit,
}

/// Everything that a commit makes true at once.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub kind: ManifestKind,
    pub pipeline: String,
    pub number: u64,
    /// Rises by one with every claim; a lower epoch that loses a create halts.
    pub epoch: u64,
    /// Drawn by each process: tells its own writes from those of others.
    pub writer: String,
    /// Of manifest `number - 1` as it lies in the store; empty for the first.
    pub parent_sha256: String,
    /// Drawn when the chain was born: identity of the chain in file names and versions.
    pub chain: u32,
    pub born_at_ms: i64,
    pub committed_at_ms: i64,
    /// How many commits (cuts) the chain has seen.
    pub cut: u64,
    /// Per node of the pipeline, a hash of what gives its state meaning.
    pub semantics: BTreeMap<String, String>,
    pub layout: Layout,
    pub inputs: Vec<InputEntry>,
    pub tracks: Vec<TrackEntry>,
    pub watermark: EventTime,
    /// Times that passed while label streams were cut off, for samples that do not wait then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outages: Vec<OutageEntry>,
    /// The instant up to which online features were last read.
    pub online_instant: Option<EventTime>,
    pub streams: BTreeMap<String, StreamAccount>,
    /// Books of the whole cell.
    pub counts: LaneCounts,
    pub objects: Vec<ObjectEntry>,
    /// Per class, the first bucket whose blocks are needed: objects also hold older ones, which a restore leaves alone.
    #[serde(default)]
    pub needed_from: Vec<(BlockClass, i64)>,
    /// What the cell says to the others, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover: Option<Handover>,
    /// Output files that this manifest adds, with the sink they belong to (`samples.<name>` or `dead_letters`).
    pub files: Vec<FileEntry>,
    /// Where the files of each sink lie, as its pipeline file said: a later one may say otherwise.
    #[serde(default)]
    pub places: BTreeMap<String, String>,
    /// Per outlet (`samples.ctr`), how far its rows are on their way to their topic.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outbox: BTreeMap<String, OutboxMark>,
    pub totals: Totals,
    /// Dead letters of streams that the pipeline does not have any more.
    #[serde(default)]
    pub dead_letters_gone: u64,
}

/// How far the rows of an outlet are on their way to their topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct OutboxMark {
    /// `BlockClass::node` and `part` of its blocks.
    pub node: u16,
    #[serde(default)]
    pub part: u16,
    /// Brokers have the rows of every cut up to this one.
    pub kafka_through: u64,
    /// Rows that commits gave to the outlet, and those of them that brokers have.
    pub committed: u64,
    pub sent: u64,
}

impl OutboxMark {
    pub fn class(&self) -> BlockClass {
        BlockClass { kind: BlockKind::Outbox, node: self.node, part: self.part }
    }

    /// Rows that are in state and not in the topic.
    pub fn waiting(&self) -> u64 {
        self.committed.saturating_sub(self.sent)
    }
}

/// What a cell says to the others with a commit, beside what it sealed.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Handover {
    #[serde(flatten)]
    pub mark: CellMark,
    /// Streams that took rows since the commit before.
    pub moved: Vec<String>,
    /// Since when the cell has seen everything of the groups whose entities belong to no cell.
    pub since: BTreeMap<String, EventTime>,
}

/// What the numbers in counts and blocks refer to, and since when each node is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Layout {
    pub lanes: usize,
    pub key_groups: u16,
    pub streams: Vec<StreamNode>,
    /// In the order of `LaneCounts::samples`.
    pub samples: Vec<SampleNode>,
    /// In the order of `LaneCounts::groups`.
    pub groups: Vec<GroupNode>,
    /// The number that the next node gets. None is given twice: blocks of a node that is gone belong to nobody.
    pub next_node: u16,
}

/// A stream; `since` as for the others.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StreamNode {
    pub name: String,
    pub since: EventTime,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SampleNode {
    pub name: String,
    /// `BlockClass::node` of its blocks.
    pub number: u16,
    /// When it was added or reset, in event time: nothing that had been read then is as new. `EventTime::MIN` when it is
    /// as old as the chain.
    pub since: EventTime,
    /// Rows that its anchor stream, then each label stream, had accepted by then: its books begin behind them.
    pub base: Vec<u64>,
    /// Its feature groups by name: values are null for instants before the time, at which the sample got the group.
    pub groups: BTreeMap<String, EventTime>,
    /// Impressions at or behind it have rows of the present definition alone.
    pub rows_since: EventTime,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct GroupNode {
    pub name: String,
    pub number: u16,
    /// The last cut without it: values that were read for pending impressions before belong to another definition.
    pub cut: u64,
    /// As for samples: a window that begins before it has not seen everything.
    pub since: EventTime,
    /// Rows that the stream of each use had accepted by then.
    pub base: Vec<u64>,
}

impl Layout {
    /// The place of a sample in the plan, by the number in its blocks.
    pub fn sample(&self, node: u16) -> Option<usize> {
        self.samples.iter().position(|sample| sample.number == node)
    }

    /// The place of a feature group in the plan.
    pub fn group(&self, node: u16) -> Option<usize> {
        self.groups.iter().position(|group| group.number == node)
    }

    /// The place of the node that blocks of the class belong to; `None` when it is gone.
    pub fn place(&self, class: BlockClass) -> Option<usize> {
        match class.kind {
            BlockKind::Tiles | BlockKind::FeatureEntries | BlockKind::FeatureIds | BlockKind::Sealed => {
                self.group(class.node)
            }
            _ => self.sample(class.node),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct InputEntry {
    /// The topic or the file pattern.
    pub name: String,
    /// Next position by partition number.
    pub next: BTreeMap<u32, i64>,
    /// The position with which the chain began, by partition number.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub first: BTreeMap<u32, i64>,
    /// For file inputs, the files in their order: positions count them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TrackEntry {
    pub stream: String,
    pub input: String,
    pub partition: u32,
    pub newest: EventTime,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct OutageEntry {
    pub stream: String,
    pub from: EventTime,
    pub to: EventTime,
}

/// A state object. Its blocks are listed in its own footer.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ObjectEntry {
    pub path: String,
    pub bytes: u64,
    pub footer_bytes: u64,
    pub footer_sha256: String,
}

/// One block in the footer of a state object.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BlockEntry {
    pub class: BlockClass,
    pub bucket: i64,
    pub segment: SegmentId,
    /// How many lanes there were: the block holds key groups of lane `segment.lane` of so many.
    pub lanes: usize,
    /// Stands for all blocks of the same class, bucket and lane before it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whole: bool,
    pub rows: u64,
    pub offset: u64,
    pub bytes: u64,
    pub sha256: String,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FileEntry {
    pub sink: String,
    #[serde(flatten)]
    pub file: StagedFile,
}
