//! Sample: builds training rows from closed impressions, their labels and their features.

mod spec;
pub use spec::*;
