//! Where state lies and how often it is committed.

use crate::event::DurationMs;
use std::path::PathBuf;

#[derive(Clone, Debug)]
pub struct StateSpec {
    pub path: PathBuf,
    pub commit_every_ms: DurationMs,
    /// Past this, payload leaves memory and is read back at close.
    pub memory_bytes: u64,
    pub lanes: usize,
}
