//! Event: the words every stage speaks: times, keys, positions, batches, samples and rejects.
//!
//!   RawBatch ── decode ──> DecodedBatch ── route ──> lanes ── close ──> SampleBatch
//!        └ its PositionDelta travels along and must chain; what cannot be read becomes a Rejected
//!
//! Holds: plain data; a batch is shared by `Arc` and never changed after it was made.
//! Does not: await, read a clock, know a vendor crate other than Arrow.

mod time;
mod key;
mod partitioner;
mod position;
mod schema;
mod exact_sum;
mod entity_key;
mod expression;
mod batch;
mod registered;
mod enrich;
mod block;
mod file;
mod delays;
mod account;
mod side;
mod cell_mark;
mod outage;

pub use account::*;
pub use batch::*;
pub use block::*;
pub use cell_mark::*;
pub use delays::*;
pub use enrich::*;
pub use entity_key::*;
pub use exact_sum::*;
pub use expression::*;
pub use file::*;
pub use key::*;
pub use outage::*;
pub use partitioner::*;
pub use position::*;
pub use registered::*;
pub use schema::*;
pub use side::*;
pub use time::*;

/// Checks a named invariant of docs/INVARIANTS.md: panics in debug builds and in simulation, is reported as an error
/// in release builds, where [`crate::event::violations`] counts it and a metric shows it.
#[macro_export]
macro_rules! invariant {
    ($id:ident, $cond:expr, $($arg:tt)+) => {
        if !$cond {
            debug_assert!(false, concat!(stringify!($id), ": {}"), format_args!($($arg)+));
            $crate::event::report_violation(stringify!($id), &format!($($arg)+));
        }
    };
}

use std::sync::atomic::{AtomicU64, Ordering};

static VIOLATIONS: AtomicU64 = AtomicU64::new(0);

/// How many invariants were found broken since the process started. Always 0 in a healthy process.
pub fn violations() -> u64 {
    VIOLATIONS.load(Ordering::Relaxed)
}

/// Counts a broken invariant and logs it; called by [`invariant!`].
pub fn report_violation(id: &str, message: &str) {
    VIOLATIONS.fetch_add(1, Ordering::Relaxed);
    tracing::error!(invariant = id, "{message}");
}
