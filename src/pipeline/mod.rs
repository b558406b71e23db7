//! Pipeline: wires a plan into running threads, keeps an eye on them, and brings them down together.
//!
//!   sources ─> decode workers ─> conductor ─> lanes ─> sinks ─┐
//!                                    └── cut markers ──────────┴─> committer ─> manifest ─> outbox ─> topics
//!
//! In: a checked plan. Out: samples in Parquet, features in the online store, a manifest chain.
//! Holds: every queue is bounded and has a name; the first failure stops everything, and nothing is committed after it.
//! Does not: decide anything about content.

mod answers;
mod board;
mod build;
mod committer;
mod compaction;
mod conductor;
mod dimensions;
mod enrich;
mod exchange;
mod garbage;
mod generation;
mod group;
mod intake;
mod lanes;
mod left;
mod memory;
mod online_state;
mod outages;
mod outbox;
mod progress;
mod rehearsal;
mod rescale;
mod restore;
mod schemas;
mod sides;
mod sinks;
mod sources;
mod start;
mod stop;
mod timekeeper;
mod workers;
mod topics;

pub use answers::Answers;
pub use board::{Board, Phase, RunView};
pub use build::{cell_spec, definition, exchanged_groups, routed_streams};
pub use committer::{BookNames, CommitWork, Committed, Committer, DEAD_LETTERS, input_entries, track_entries};
pub use conductor::ConductorCut;
pub use dimensions::Dimensions;
pub use enrich::Enricher;
pub use exchange::{Exchange, KafkaExchange, SealedCommit, Told};
pub use garbage::{Collector, CommitNote, GarbageOutlet, NOTES_MAX, SinkPlace};
pub use generation::{Generation, single_path};
pub use group::run_group;
pub use lanes::CutPart;
pub use memory::StateMemoryLimit;
pub use online_state::{LoadedOnline, load_online};
pub use outages::{outage_entries, outages_of};
pub use outbox::{CHAIN_HEADER, COMMIT_HEADER, ROW_HEADER, topic_schemas};
pub use rehearsal::Rehearsal;
pub use rescale::{Brokers, Extents, KafkaBrokers, RescaleOptions, Rescaled, Shape, rescale};
pub use restore::{Objects, RestoreError, RestoreFrom, list as list_objects, restore_lane, through};
pub use schemas::Schemas;
pub use sinks::{SinkCut, SinkGauge, SinkInput, SinkThread, SinkWork};
pub use start::{RunOptions, RunSummary, World, run};
pub use stop::{Failure, StopSignal};
pub use timekeeper::Timekeeper;

use crate::commit::{ChainError, ObjectError};
use crate::dimension::DimensionError;
use crate::env::StoreError;
use crate::event::{EnrichError, PositionGap};
use crate::registry::RegistryError;
use crate::sample::BuildError;
use crate::sink::SinkError;
use crate::source::SourceError;

/// Why a run ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Dimension(#[from] DimensionError),
    #[error(transparent)]
    Enrich(#[from] EnrichError),
    #[error("records are missing: {0}; restore the log, or start anew with --fresh")]
    Gap(#[from] PositionGap),
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("what the cells tell each other is damaged: {0}. Stop all processes and start anew with --fresh")]
    Exchange(String),
    #[error("online store: {0}")]
    Online(String),
    #[error("`conjoin rescale` has dealt the state out anew meanwhile: start this process again")]
    Moved,
    #[error("{0}")]
    Unsupported(String),
    #[error("cannot start thread {name}: {source}")]
    Spawn { name: String, source: std::io::Error },
    #[error("thread {name} panicked: {message}; this is a bug in conjoin, and nothing was committed after it")]
    Panic { name: String, message: String },
}
