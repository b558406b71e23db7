//! Progress: the snapshots that stages hand to telemetry, plain numbers with their units.

use crate::event::{EventTime, Watermark};

/// Where a stream stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamProgress {
    pub watermark: Watermark,
    /// The newest event time so far.
    pub newest: Option<EventTime>,
    /// Records to the log's end, where there is a log.
    pub position_lag_records: Option<u64>,
    /// Records in the log that an open transaction holds back, where there is a log.
    pub blocked_records: Option<u64>,
    pub idle_partitions: usize,
}

/// One manifest that was committed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct CommitDone {
    pub sequence: u64,
    pub epoch: u64,
    pub duration_ms: u64,
    /// Written by this commit: state blocks and the manifest.
    pub bytes: u64,
    /// Named by this manifest, old and new.
    pub state_bytes: u64,
    /// Parquet files it made public.
    pub files: usize,
    /// Wall time of the commit.
    pub at_ms: i64,
}

/// What a Parquet sink has published since the chain began, and holds now.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ParquetProgress {
    pub files: u64,
    pub rows: u64,
    pub bytes: u64,
    pub open_files: usize,
    pub uncommitted_rows: u64,
}

/// Rows on their way to a topic.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct OutboxProgress {
    pub waiting_rows: u64,
    pub sent_rows: u64,
    /// Since the oldest of those that wait were committed, or since the start if that was later.
    pub lag_ms: u64,
}

/// What a feature group holds, over all lanes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct FeatureProgress {
    pub entities: u64,
    pub tiles: u64,
    pub bytes: u64,
    pub sweep_lag_ms: u64,
}

/// What became of the entities that were sent to the online store since the process started.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct OnlineWrites {
    pub written: u64,
    pub stale: u64,
    /// The store will never take them.
    pub refused: u64,
}

/// What a dimension has counted, and what it holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct DimensionProgress {
    pub found: u64,
    pub missing: u64,
    pub cached: u64,
    pub requests: u64,
    pub requested_keys: u64,
    pub failures: u64,
    pub refreshes: u64,
    pub age_ms: u64,
    pub rows: u64,
    pub bytes: u64,
}
