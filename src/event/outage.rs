//! Outage: event times that passed while a label stream was cut off, for samples that do not wait then.

use crate::event::{EventTime, StreamId};

/// The watermark went on to `to` without a stream that had come as far as `from`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    pub stream: StreamId,
    pub from: EventTime,
    pub to: EventTime,
}

impl Outage {
    /// Whether what was decided at an instant was decided without the stream.
    pub fn contains(&self, instant: EventTime) -> bool {
        self.from <= instant && instant < self.to
    }
}
