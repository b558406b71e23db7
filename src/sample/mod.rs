//! Sample: builds training rows from closed impressions, their labels and their features.
//!
//!   impression columns │ label columns │ feature columns │ computed columns      the wide layout
//!   └──────── select, exclude ────────────────────────────────────────┘ ─> the output schema
//!
//! In: one part of a closed bucket and its payload. Out: rows in the output schema, with the count of those that negative
//! sampling left out.
//! Holds: every row of the part is either in the output or counted (F1); which rows are kept depends on their id alone.
//! Does not: decide which labels belong to a row, or when it closes: see [`join`](crate::join).

mod build;
mod spec;

pub use build::{BuildError, Built, build};
pub use spec::*;
