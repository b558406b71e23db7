//! Where samples are written.

use crate::env::Place;
use crate::event::DurationMs;

#[derive(Clone, Debug)]
pub struct ParquetSpec {
    pub path: Place,
    /// Folders such as `date=2026-01-31/hour=07`, of the impression's time.
    pub folders: Vec<TimeFolder>,
    /// A file is finished at this size in bytes or this age of its oldest row's arrival, whichever comes first.
    pub roll_bytes: u64,
    pub roll_age_ms: DurationMs,
    pub compression: Compression,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeFolder {
    Date,
    Hour,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Snappy,
    Zstd { level: i32 },
}

/// How the rows of a topic are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowFormat {
    /// One object per row.
    Json,
    /// With the schema of the rows.
    Avro,
}
