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
mod manifest;
mod object;
mod protocol;
mod sound;
mod spec;
mod survey;

pub use catalog::named_before;
pub use chain::{
    Chain, ChainError, Identity, forget_manifests, manifest_number, numbers, read_for, read_last, read_manifest,
};
pub use manifest::*;
pub use object::{
    EncodedBlock, ObjectError, STATE_FOLDER, block_ref, encode_block, object_epoch, object_path, read_block,
    read_footer, verify_object, write_object,
};
pub use protocol::{
    ClaimRefusal, CommitOutcome, GarbageRule, Leftover, MANIFESTS_KEPT, changed_nodes, is_garbage, last_named,
    oldest_kept,
};
pub use spec::*;
pub use survey::*;
