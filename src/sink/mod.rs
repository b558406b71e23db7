//! Sink: writes samples and dead letters.

mod spec;
pub use spec::*;
