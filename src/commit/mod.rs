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
mod spec;
mod survey;

pub use catalog::named_before;
pub use chain::{Chain, ChainError, Identity, read_for, read_last};
pub use manifest::*;
pub use object::{
    EncodedBlock, ObjectError, block_ref, encode_block, read_block, read_footer, verify_object, write_object,
};
pub use protocol::{ClaimRefusal, CommitOutcome, changed_nodes};
pub use spec::*;
pub use survey::*;
