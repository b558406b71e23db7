//! How a stream's time is judged.

use crate::event::DurationMs;

/// What happens when a label stream is cut off or lags, seen from the impressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// It is cut off when its watermark is so far behind that of the impressions and there is nothing to read of it.
    pub max_lag_ms: DurationMs,
    /// Then the watermark does not wait for it, and what is decided without it says so.
    pub tag: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct StreamTime {
    /// How much older than the newest a record may be without being late.
    pub lateness_ms: DurationMs,
    /// A partition that is caught up and quiet for so long no longer holds the watermark back.
    pub idle_after_ms: DurationMs,
    /// The whole stream may be quiet while impressions move.
    pub sparse: bool,
    /// How far ahead of the cell's watermark a partition may read before it is paused.
    pub max_drift_ms: DurationMs,
}
