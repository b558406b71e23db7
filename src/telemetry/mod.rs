//! Telemetry: what the stages tell about themselves, as metrics, log lines and one line of status.
//!
//!   accounts, progress, commits ──> Telemetry ──┬── Prometheus text
//!                                               └── tracing, where a person on call should know
//!
//! In: typed snapshots, once per commit or second; cumulative counts come as they stand in the manifest. Out: text.
//! Holds: one table names every metric with its unit, tags and meaning, and docs/METRICS.md is made from it; a counter
//! never goes back: after a rollback it stands still until it is passed.
//! Does not: use global state, read a clock, listen on a port.

mod table;
mod delays;
mod metrics;
mod progress;
mod status;
mod human;

pub use human::*;
pub use metrics::*;
pub use progress::*;
pub use status::*;
pub use table::*;
