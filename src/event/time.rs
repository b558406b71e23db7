//! Time: event time in milliseconds UTC, and the watermark that judges it.

use std::fmt;

/// A length of time in milliseconds.
pub type DurationMs = i64;

/// A point in event time: milliseconds since 1970-01-01 UTC.
pub type EventTime = i64;

/// No event is of this time or later, early in the year 2106: time buckets, of a second or more, are counted in 32 bits.
pub const TIME_END: EventTime = (1 << 32) * 1_000;

/// A promise about event time: no record that is not late has a timestamp below it.
///
/// `Watermark::MIN` promises nothing, `Watermark::MAX` says that the input has ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Watermark(pub EventTime);

impl Watermark {
    pub const MIN: Watermark = Watermark(i64::MIN);
    pub const MAX: Watermark = Watermark(i64::MAX);

    /// True once the watermark has strictly passed `instant`: windows include both ends.
    pub fn passed(self, instant: EventTime) -> bool {
        self.0 > instant
    }
}

impl fmt::Debug for Watermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Watermark::MIN => f.write_str("W(-inf)"),
            Watermark::MAX => f.write_str("W(+inf)"),
            Watermark(ms) => write!(f, "W({ms})"),
        }
    }
}

/// The largest multiple of `step` that is not above `ts`; correct below zero too.
pub fn floor_to(ts: EventTime, step: DurationMs) -> EventTime {
    ts.div_euclid(step) * step
}
