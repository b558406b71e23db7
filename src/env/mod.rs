//! Env: the world outside the program: time, randomness and stored objects.
//!
//!   commit, sink, pipeline ──> Clock, Entropy, Store ──┬── the real ones: system clock, OS entropy, a folder or a bucket
//!                                                      └── the simulated ones: a clock set by hand, a seed, memory
//!
//! In: paths relative to a store's root, with `/`. Out: bytes, times, random numbers, and how much memory there is in use.
//! Holds: an object under its final name is complete and never changes; a create-only write succeeds at most once.
//! Does not: know what it stores, or decide when something is due. Only a bucket tries again what failed.

mod clock;
mod entropy;
pub mod failpoint;
mod spec;
mod store;
mod local;
mod memory;
mod bucket;
mod place;
mod process;

pub use bucket::*;
pub use clock::*;
pub use entropy::*;
pub use local::*;
pub use memory::*;
pub use place::*;
pub use process::*;
pub use spec::*;
pub use store::*;
