//! Where state lies and how often it is committed.

use crate::env::Place;
use crate::event::DurationMs;

#[derive(Clone, Debug)]
pub struct StateSpec {
    /// Where everything lies that outlives a way of running: generations, dead letters.
    pub root: Place,
    /// Where the chain lies: the root, or a place below it.
    pub path: Place,
    pub commit_every_ms: DurationMs,
    /// How long objects of dead processes stay.
    pub keep_orphans_ms: DurationMs,
    /// Past this, payload leaves memory and is read back at close.
    pub memory_bytes: u64,
    pub lanes: usize,
}
