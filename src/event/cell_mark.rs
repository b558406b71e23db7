//! What cells tell each other about time.

use crate::event::{EventTime, StreamId};
use std::collections::BTreeMap;

/// How far a cell is, as it tells the others with each commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct CellMark {
    /// What is complete below it was handed over.
    pub watermark: EventTime,
    /// The oldest instant at which the cell may still read features, also after a restart.
    pub needed: EventTime,
    /// All its inputs are quiet: others need not wait for it.
    pub idle: bool,
    /// Whoever answers for the cell's entities online has told everything that changed before it.
    pub published: EventTime,
}

impl CellMark {
    /// The cell reads no features before it.
    pub fn reads_from(&self) -> EventTime {
        self.needed.min(self.watermark)
    }
}

/// What the other cells mean for the time of one cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outside {
    /// While everything is quiet here, time goes on at least to where the others are.
    pub watermark: Option<EventTime>,
    /// Streams that took rows in another cell, with when that was last heard (monotonic ms).
    pub moved_at_ms: BTreeMap<StreamId, u64>,
}
