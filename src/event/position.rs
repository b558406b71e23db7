//! Positions: how far each input partition has been read; they travel with the data and must chain.

use crate::event::{EventTime, StreamId};
use std::collections::BTreeMap;
use std::fmt;

/// One partition of one input, by its number in the plan: an index into the cell's partition table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct PartitionId {
    /// Which input (a topic, or a sequence of files) in `Plan::inputs`.
    pub input: u16,
    /// Which partition of it; file inputs have the one partition 0.
    pub partition: u32,
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.input, self.partition)
    }
}

/// The step `[from, to)` that a batch takes its partition forward. For a Kafka partition the numbers are offsets; for
/// files see [`file_position`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PositionDelta {
    pub partition: PartitionId,
    pub from: i64,
    pub to: i64,
}

impl fmt::Debug for PositionDelta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "∆({}:[{}..{}))", self.partition, self.from, self.to)
    }
}

const FILE_OFFSET_BITS: u32 = 40;

/// Packs a place in a sequence of files: the file's number in name order, and the offset in its uncompressed bytes
/// (below 1 TiB).
pub fn file_position(file: u32, offset: u64) -> i64 {
    debug_assert!(offset < 1 << FILE_OFFSET_BITS);
    ((file as i64) << FILE_OFFSET_BITS) | offset as i64
}

/// The file's number and offset of a position made by [`file_position`].
pub fn file_and_offset(position: i64) -> (u32, u64) {
    ((position >> FILE_OFFSET_BITS) as u32, (position as u64) & ((1 << FILE_OFFSET_BITS) - 1))
}

/// A step that does not start where the last one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("partition {partition}: expected position {expected}, got {got}")]
pub struct PositionGap {
    pub partition: PartitionId,
    pub expected: i64,
    pub got: i64,
}

/// The next position of every partition that was ever read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    next: BTreeMap<PartitionId, i64>,
    /// Where the first step of a partition began.
    first: BTreeMap<PartitionId, i64>,
}

impl Positions {
    pub fn first(&self, partition: PartitionId) -> Option<i64> {
        self.first.get(&partition).copied()
    }

    pub fn set_first(&mut self, partition: PartitionId, first: i64) {
        self.first.insert(partition, first);
    }

    pub fn next(&self, partition: PartitionId) -> Option<i64> {
        self.next.get(&partition).copied()
    }

    pub fn set(&mut self, partition: PartitionId, next: i64) {
        self.next.insert(partition, next);
    }

    pub fn iter(&self) -> impl Iterator<Item = (PartitionId, i64)> + '_ {
        self.next.iter().map(|(&partition, &next)| (partition, next))
    }

    /// Takes one step (F6). The first step of a partition may start anywhere.
    pub fn apply(&mut self, delta: PositionDelta) -> Result<(), PositionGap> {
        let first = &mut self.first;
        let expected = *self.next.entry(delta.partition).or_insert_with(|| {
            first.insert(delta.partition, delta.from);
            delta.from
        });
        if delta.from != expected {
            return Err(PositionGap { partition: delta.partition, expected, got: delta.from });
        }
        self.next.insert(delta.partition, delta.to);
        Ok(())
    }
}

/// How far one stream's time has come in one partition: committed beside the position, so that lateness is a function
/// of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Track {
    pub stream: StreamId,
    pub partition: PartitionId,
    /// The largest event time so far; `i64::MIN` before the first row.
    pub newest: EventTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_must_chain() {
        let partition = PartitionId { input: 0, partition: 3 };
        let mut positions = Positions::default();
        positions.apply(PositionDelta { partition, from: 17, to: 42 }).unwrap();
        let gap = positions.apply(PositionDelta { partition, from: 43, to: 50 }).unwrap_err();
        assert_eq!((gap.expected, gap.got), (42, 43));
        assert_eq!(positions.next(partition), Some(42));
    }

    #[test]
    fn file_positions_order_by_file_then_offset() {
        assert!(file_position(1, 0) > file_position(0, 1 << 39));
        assert_eq!(file_and_offset(file_position(7, 12345)), (7, 12345));
    }
}
