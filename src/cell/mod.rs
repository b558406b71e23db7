//! Cell: the unit of ownership and commit: lanes that share nothing but queues and the read-only feature history.
//!
//!   router ──> lane 0: join + features ──> closed rows, online values, cuts
//!          └─> lane 1: join + features ──> …
//!
//! In: routed rows, watermarks and cut markers. Out: what each lane closed, and at a cut everything it gained.
//! Holds: one deterministic step per input; the number of lanes changes neither rows nor values (F8).
//! Does not: run threads or touch a disk; see [`pipeline`](crate::pipeline).

mod cut;
mod deal;
mod fit;
mod lane;
mod mirror;
mod residency;
mod spec;

pub use cut::{LaneRestoreError, RestoredBlock};
pub use lane::{Advance, Applied, FeatureHistory, Lane, LaneCut, LaneInput, LaneOutput, feature_history};
pub use mirror::{Mirror, MirrorError, Sequence};
pub use spec::*;
