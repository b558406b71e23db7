//! File: what a manifest says about one output file.

use crate::event::EventTime;

/// A complete file, as the manifest names it. Paths are relative to the root of the sample's store.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct StagedFile {
    pub sample: String,
    /// Where it lies until it is published.
    pub staged: String,
    /// Where it lies afterwards.
    pub path: String,
    pub rows: u64,
    pub bytes: u64,
    /// In hex.
    pub sha256: String,
    /// Event time of the impressions in it; for dead letters, when they were rejected.
    pub min_time: EventTime,
    pub max_time: EventTime,
}
