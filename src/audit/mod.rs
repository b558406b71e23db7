//! Audit: looks at what a pipeline has left, beside it or after it: state, dead letters, published files.
//!
//!   manifest chain ──> overview            what is true now
//!   dead-letter files ──> letters ──> replay into the inputs
//!   inputs [start, committed) ──> batch join ──> compared with published files
//!   a stream's topics ──> repartition ──> one topic, by the stream's key
//!   inputs ──> advise: how late labels come, and which window takes in how many of them at what cost
//!   a pipeline's tests ──> rehearse ──> compared with what they expect
//!
//! In: a plan, and the stores it names. Out: plain values that `cli` prints; replayed records.
//! Holds: nothing is claimed, locked or changed: a pipeline may run meanwhile; what is written is a replay, or the
//! copy of a topic.
//! Does not: print, or decide an exit code.

mod advise;
mod letters;
mod open;
mod overview;
mod rehearse;
mod reopen;
mod repartition;
mod replay;
mod verify;

pub use advise::*;
pub use letters::*;
pub use open::*;
pub use overview::*;
pub use rehearse::*;
pub use repartition::*;
pub use replay::*;
pub use verify::*;
