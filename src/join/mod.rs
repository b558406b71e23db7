//! Join: pairs an impression with the labels that follow it.
//!
//!   impression ──┬──────────── longest window ────────────┐ close → one row with its labels
//!   label          └ waits on the chain of its key ───────┘
//!
//! In: batches of impressions and labels in any order, late ones marked; then watermarks. Out: each accepted impression
//! once, with the labels that are its own (F2, F3), no earlier than the watermark passes its longest window (F4); or, where
//! a sample asks for it, early and again as labels come (see `emit`).
//! Holds: pending impressions as columns in time buckets, one index entry each; what a row becomes depends on event
//! times, ids and contents alone, never on the order of arrival (F8). Accounts balance after every step (F1).
//! Does not: await, read a clock, compute features, know about Kafka.

mod block;
mod bucket;
mod close;
mod emit;
mod evaluate;
mod index;
mod label;
mod residency;
mod side;
mod snapshot;
mod spec;
mod state;
mod take;

pub use block::{FeatureLayout, Features};
pub use close::{ClosedPart, ClosedRows};
pub use emit::{Emission, EmitKind};
pub use residency::Spillable;
pub use snapshot::{JoinCut, RestoreError, Segment, Through};
pub use spec::*;
pub use state::{AnchorKeys, JoinState, JoinedGroup, LabelKeys, LaneRows};

#[cfg(test)]
mod tests;
