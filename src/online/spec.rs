//! Which online store holds the features.

use crate::event::DurationMs;

#[derive(Clone, Debug)]
pub struct OnlineSpec {
    pub store: StoreKind,
    /// Changed entities are coalesced for so long before they are written.
    pub flush_ms: DurationMs,
    /// Commands per pipelined request.
    pub pipeline_commands_max: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreKind {
    Memory,
    Redis {
        /// The name under `connections:`.
        connection: String,
        url: String,
    },
}
