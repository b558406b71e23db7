//! Feature: windowed aggregates per entity on tiles, read at any instant through one visibility function.

mod spec;
pub use spec::*;
