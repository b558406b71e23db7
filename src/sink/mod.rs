//! Sink: writes samples and dead letters as Parquet files that appear whole or not at all, and rows as messages.
//!
//!   rows ──> .part-….staged (complete, fsynced) ── the manifest names it ──> ….parquet
//!              └ not named: an orphan, swept by the next epoch
//!
//! In: finished rows with their impression's time, and rejects. Out: a [`StagedFile`] per file, for the manifest.
//! Holds: a name that ends in `.parquet` is a committed, complete file and never changes (F5).
//! Does not: decide when to cut, write the manifest, read a clock: callers pass the time.

mod spec;
mod name;
mod encoding;
mod staged;
mod parquet;
mod dead_letter;
mod reading;
mod letter;
mod avro;
mod message;
mod side;

pub use dead_letter::*;
pub use letter::*;
pub use message::*;
pub use name::*;
pub use parquet::*;
pub use reading::*;
pub use side::*;
pub use spec::*;
pub use staged::*;

use crate::env::StoreError;
use ::parquet::errors::ParquetError;

/// Why rows could not be written, or a written file is not what it should be. After an error of a sink the sink is
/// done for: its rows are in state still and are written again after a restart.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot write Parquet file {path}: {source}")]
    Encode { path: String, source: ParquetError },
    #[error("staged file {path} exists already: another process writes with the same epoch; stop it, then start again")]
    Taken { path: String },
    #[error("{path} is damaged: {found}; it was not published, restart to write it again")]
    Damaged { path: String, found: String },
    #[error("{staged} is in the manifest, but neither it nor {path} exists: restore the file from a backup")]
    Missing { staged: String, path: String },
    #[error("a batch has {rows} rows but {times} impression times")]
    Misaligned { rows: usize, times: usize },
}

#[cfg(test)]
mod tests;
