//! Config: text becomes a raw tree, the tree a checked plan, and whatever is wrong a list of diagnostics.

mod plan;
pub use plan::*;
