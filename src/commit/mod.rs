//! Commit: the manifest chain, the only truth about what happened.
//!
//!   manifests/00…07.json ─> 00…08.json ─> 00…09.json        each names its parent's sha256
//!        └ positions, watermarks, accounts, state objects, output files: true together or not at all
//!
//! In: what lanes, sinks and the router hand over at a cut. Out: the next manifest.
//! Holds: only the create-only write of a manifest commits; everything after it is idempotent and done again at start.
//! Does not: decide when to cut, or encode Parquet.

mod catalog;
mod chain;
mod change;
mod compaction;
mod manifest;
mod needed;
mod object;
mod protocol;
mod sound;
mod spec;
mod survey;

pub use catalog::{inherit_files, named_before};
pub use chain::{
    Chain, ChainError, Identity, forget_manifests, forget_strays, manifest_number, numbers, read_for, read_last,
    read_manifest,
};
pub use change::{
    Accepted, Definition, GroupShape, SampleShape, changed_nodes, decide, first_impression, first_layout,
};
pub use compaction::{CompactionLimits, Usage, choose};
pub use manifest::*;
pub use needed::Needed;
pub use object::{
    EncodedBlock, ObjectError, STATE_FOLDER, block_ref, decode_rows, encode_block, object_epoch, object_path,
    read_block, read_encoded, read_footer, verify_object, write_object,
};
pub use protocol::{
    ClaimRefusal, CommitOutcome, GarbageRule, Leftover, MANIFESTS_KEPT, is_garbage, last_named, oldest_kept,
};
pub use spec::*;
pub use survey::*;
