//! Route: judges lateness, keeps the watermarks, and deals rows out to lanes by key group.

mod spec;
pub use spec::*;
