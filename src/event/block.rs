//! Blocks: what state looks like on its way to a state object and back.

use arrow::array::RecordBatch;
use std::sync::Arc;

/// What a block holds. The names are part of the on-disk format.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockKind {
    /// Identity of impressions: time, fingerprints, content hash, key group. Aligned with `ImpressionRows`.
    ImpressionKeys,
    /// The declared columns of impressions.
    ImpressionRows,
    /// Feature columns of the impressions of one segment.
    ImpressionFeatures,
    /// Labels: identity and selected columns.
    Labels,
    /// Identities of impressions that closed before any cut wrote them, kept for the dedup horizon.
    ClosedIds,
    /// What became of labels by the impressions that closed: until those are in files it is found out again.
    LabelStates,
    /// Tiles of a feature group.
    Tiles,
    /// Single values of a feature group (`last`, `last_k`).
    FeatureEntries,
    /// Recently seen ids of a feature group's inputs.
    FeatureIds,
    /// Tiles and values that a cut hands to the other cells. The bucket is the number of the cut.
    Sealed,
    /// Rows on their way to a topic, behind their keys, until brokers have them. The bucket is the number of the cut.
    Outbox,
}

/// Blocks that live and die together: one kind of one node (and of one label stream of it).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct BlockClass {
    pub kind: BlockKind,
    /// Number of the sample or feature group in the plan.
    pub node: u16,
    /// Number of the label stream within the sample, for `Outbox` of the outlet; 0 elsewhere.
    pub part: u16,
}

/// Names the rows that one lane sealed together at one cut: `ImpressionKeys`, `ImpressionRows` and
/// `ImpressionFeatures` of one segment are aligned by row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct SegmentId {
    pub cut: u64,
    pub lane: u16,
    pub ordinal: u32,
}

/// Rows that a lane adds to the state at a cut.
#[derive(Clone, Debug)]
pub struct StateBlock {
    pub class: BlockClass,
    /// The time bucket of the rows: blocks are dropped by bucket.
    pub bucket: i64,
    pub segment: SegmentId,
    /// Stands for all that the lane wrote of this class and bucket before.
    pub whole: bool,
    pub rows: RecordBatch,
}

/// Where a block lies in a state object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockRef {
    pub object: Arc<str>,
    pub offset: u64,
    pub bytes: u64,
    pub sha256: [u8; 32],
}

/// Rows that are in memory, or on disk alone.
#[derive(Clone, Debug)]
pub enum Payload {
    Memory(RecordBatch),
    Stored(BlockRef),
}
