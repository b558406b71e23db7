//! Route: judges lateness, keeps the watermarks, and deals rows out to lanes by key group.
//!
//!   partition 0 ─ W_0 ─┐
//!   partition 1 ─ W_1 ─┼─ W = min ─> lanes        W_p = newest so far - lateness; late iff ts < W_p
//!   idle, ended ───────┘ (left out)
//!
//! In: decoded batches in log order per partition. Out: the same rows with their verdicts and lanes.
//! Holds: watermarks and positions never go back (F6, F13); what is late is a function of the log alone, except after an
//! idle advance, which is counted as such.
//! Does not: read a clock; decide what a late row means to a join or a feature.

mod router;
mod spec;

pub use router::{Placed, RoutedStream, Router};
pub use spec::*;
