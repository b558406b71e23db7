//! Join: pairs an impression with the labels that follow it.

mod spec;
pub use spec::*;
