//! Source: reads records from Kafka, files or memory as [`RawBatch`](crate::event::RawBatch)es with their positions.
//!
//! Each adapter lives in its own file and is the only one that sees its vendor crate.

mod spec;
pub use spec::*;
