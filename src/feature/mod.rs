//! Feature: windowed aggregates per entity on tiles, read at any instant through one visibility function.
//!
//!   events ── apply ──> tiles per (entity, slot) ── advance ──> older slots merged, unreachable ones dropped
//!                          │ evaluate(entity, instant)   point in time, for samples
//!                          │ take_due(now)               what changed or slid, for the online store
//!                          └ snapshot / restore          absolute values per time bucket
//!
//! In: decoded rows in any order, then promises about time. Out: values that are a function of the set of events and
//! the instant alone, bit for bit (law 2), seen through `window::visible` (F10); published values equal to that
//! function at the online instant (F11).
//! Does not: read a clock, judge lateness, know which store or file the values go to.

mod spec;
mod window;
mod value;
mod text;
mod aggregate;
mod tile;
mod entity;
mod dedup;
mod schedule;
mod store;
mod warm;
mod evaluate;
mod publish;
mod snapshot;
mod rewrite;
mod restore;
mod exchange;

pub mod oracle;
#[cfg(test)]
mod tests;

pub use restore::StateError;
pub use snapshot::{StateBlock, StateKind};
pub use spec::*;
pub use store::GroupStore;
pub use warm::null_where;
pub use window::TIME_LIMIT;
