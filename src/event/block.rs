//! Blocks: what state looks like on its way to a state object and back.

use arrow::array::{ArrayData, RecordBatch};
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

/// Something that a block holds: in memory, on disk, or both.
#[derive(Clone, Debug)]
pub enum Kept<T> {
    /// No manifest names a block with it yet.
    Memory(T),
    /// A block holds it too, so it may leave memory.
    Cached(T, BlockRef),
    Stored(BlockRef),
}

/// The declared columns of rows.
pub type Payload = Kept<RecordBatch>;

impl<T> Kept<T> {
    pub fn in_memory(&self) -> Option<&T> {
        match self {
            Kept::Memory(held) | Kept::Cached(held, _) => Some(held),
            Kept::Stored(_) => None,
        }
    }

    /// Where it lies on disk, if it does.
    pub fn block(&self) -> Option<&BlockRef> {
        match self {
            Kept::Memory(_) => None,
            Kept::Cached(_, block) | Kept::Stored(block) => Some(block),
        }
    }
}

impl<T: Clone> Kept<T> {
    /// A block holds it, or another one than before.
    pub fn stored_at(&mut self, block: BlockRef) {
        *self = match self {
            Kept::Memory(held) | Kept::Cached(held, _) => Kept::Cached(held.clone(), block),
            Kept::Stored(_) => Kept::Stored(block),
        };
    }

    /// Lets it go from memory; false where it is not there, or nowhere else.
    pub fn spill(&mut self) -> bool {
        let Kept::Cached(_, block) = self else { return false };
        *self = Kept::Stored(block.clone());
        true
    }
}

/// A block that a manifest names, for the lane that holds its rows.
#[derive(Clone, Debug)]
pub struct StoredBlock {
    pub class: BlockClass,
    pub bucket: i64,
    pub segment: SegmentId,
    pub block: BlockRef,
}

/// Bytes that a batch takes in memory. What several columns share, as after reading a block back, counts once.
pub fn memory_of(rows: &RecordBatch) -> usize {
    let mut allocations = Vec::new();
    rows.columns().iter().for_each(|column| find_allocations(&column.to_data(), &mut allocations));
    allocations.sort_unstable();
    allocations.dedup_by_key(|(start, _)| *start);
    allocations.into_iter().map(|(_, bytes)| bytes).sum()
}

fn find_allocations(data: &ArrayData, found: &mut Vec<(usize, usize)>) {
    let nulls = data.nulls().map(|nulls| nulls.buffer());
    found.extend(
        data.buffers().iter().chain(nulls).map(|buffer| (buffer.data_ptr().as_ptr() as usize, buffer.capacity())),
    );
    data.child_data().iter().for_each(|child| find_allocations(child, found));
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array, StringArray};

    #[test]
    fn what_columns_share_counts_once() {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1_000));
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..1_000).map(|number| number.to_string())));
        let of = |columns: Vec<(&str, ArrayRef)>| memory_of(&RecordBatch::try_from_iter(columns).unwrap());
        let one = of(vec![("a", numbers.clone())]);
        assert!((8_000..9_000).contains(&one), "{one}");
        assert_eq!(of(vec![("a", numbers.clone()), ("b", numbers.clone())]), one);
        assert_eq!(of(vec![("a", numbers.slice(0, 500)), ("b", numbers.slice(500, 500))]), one);
        assert!(of(vec![("a", numbers), ("b", texts)]) > one + 4_000);
    }
}
