//! Decode: turns the records of a raw batch into columns of one stream, or into rejects.

mod spec;
pub use spec::*;
