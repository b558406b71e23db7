//! Source: reads records from Kafka, files or memory as [`RawBatch`]es with their positions.
//!
//! ```text
//!   partition 0 ─┐
//!   partition 1 ─┼─ poll ─> Batch(delta [from, to)) … CaughtUp … Ended
//!   partition 2 ─┘            └ deltas of one partition chain without gap
//! ```
//!
//! In: the positions of the last manifest. Out: the records behind them, per partition in log order.
//! Holds: a delta starts where the last one of its partition ended (F6); memory is bounded by the limits.
//! Does not: look into a record, decide which partition to read next (the caller pauses and resumes).
//!
//! Each adapter lives in its own file and is the only one that sees its vendor crate.

pub mod file;
pub mod memory;
pub mod kafka;
mod spec;
pub use spec::*;

use crate::event::{PartitionId, Positions, RawBatch};
use std::collections::BTreeMap;
use std::time::Duration;

/// What one [`Source::poll`] found.
#[derive(Clone, Debug)]
pub enum SourceEvent {
    /// Records of one partition. A batch without records still moves its partition forward.
    Batch(RawBatch),
    /// Everything the log held a moment ago was handed out. More may come.
    CaughtUp(PartitionId),
    /// Nobody can say any more whether a log that was read to its end has gone on. `CaughtUp` comes again when it is known.
    OutOfSight(PartitionId),
    /// A bounded partition has no more, ever. Said once.
    Ended(PartitionId),
    /// Nothing came within the timeout.
    Nothing,
    /// The connection to the outside came or went; the source goes on by itself.
    Connection { ready: bool, message: String },
}

/// Where a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// The position behind the last record that may be read: what is left to read is this less the position.
    pub readable: i64,
    /// Records behind it that an open transaction holds back, its own and all that follow.
    pub blocked: u64,
}

/// One thread's view of some partitions.
pub trait Source: Send {
    /// The partitions this source reads, ascending.
    fn partitions(&self) -> Vec<PartitionId>;

    /// Where each partition is read from, for those sources that decide it when they open: the log's end by then, say.
    /// The first commit holds it, so that a start before the first record decides nothing anew.
    fn starts(&self) -> Vec<(PartitionId, i64)> {
        Vec::new()
    }

    /// The next event of any partition that is not paused. Waits at most `timeout` when there is none.
    fn poll(&mut self, timeout: Duration) -> Result<SourceEvent, SourceError>;

    /// No more batches of `partition` until [`Source::resume`]. Partitions that are not here are ignored.
    fn pause(&mut self, partition: PartitionId);

    fn resume(&mut self, partition: PartitionId);

    /// Takes note of what was committed, for whoever watches from outside; nothing depends on it.
    fn committed(&mut self, _positions: &Positions) {}

    /// Where the logs end, as last heard. Empty where that is not known.
    fn log_ends(&self) -> BTreeMap<PartitionId, LogEnd> {
        BTreeMap::new()
    }

    /// A position as people know it, such as `clicks/3 offset 17` or `clicks.ndjson byte 123`.
    fn label(&self, partition: PartitionId, position: i64) -> String;
}

/// Why a source cannot go on. Records that cannot be decoded are no such reason.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The input is not there, or not as the positions remember it. A person has to act.
    #[error("{input}: {message}")]
    Input { input: String, message: String },
    /// Reading failed on the way.
    #[error("{input}: {message}: {source}")]
    Read { input: String, message: String, source: std::io::Error },
    /// The broker or its client refused.
    #[error("{input}: {message}")]
    Broker { input: String, message: String, retry: bool },
}

impl SourceError {
    /// Whether the same call may succeed later without anybody's doing.
    pub fn retry(&self) -> bool {
        match self {
            SourceError::Input { .. } => false,
            SourceError::Read { source, .. } => {
                matches!(source.kind(), std::io::ErrorKind::Interrupted | std::io::ErrorKind::TimedOut)
            }
            SourceError::Broker { retry, .. } => *retry,
        }
    }
}

/// What a source does that has nothing to give and no event to wait for: every partition is paused or has ended.
#[expect(
    clippy::disallowed_methods,
    reason = "the contract of `poll` is to wait so long, and nothing can end the wait"
)]
fn wait(timeout: Duration) {
    std::thread::sleep(timeout);
}
