//! Commit: the manifest chain, the only truth about what happened.

mod spec;
pub use spec::*;
