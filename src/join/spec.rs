//! Which labels belong to an impression.

use crate::event::{DurationMs, Expression, StreamId, Watermark};

/// Time buckets per longest window, and the bounds of their width.
const BUCKETS_PER_WINDOW: DurationMs = 64;
const BUCKET_MS_MIN: DurationMs = 1_000;
const BUCKET_MS_MAX: DurationMs = 60_000;

/// One anchor stream joined with any number of label streams.
#[derive(Clone, Debug)]
pub struct JoinSpec {
    pub anchor: StreamId,
    pub labels: Vec<LabelSpec>,
    /// Width of the time buckets in which impressions and labels are kept.
    pub bucket_ms: DurationMs,
    /// How long beyond the longest window a closed impression's identity is remembered; the anchor's lateness is in it.
    pub dedup_horizon_ms: DurationMs,
}

impl JoinSpec {
    /// How wide the buckets are of a join whose longest window is `longest_ms`.
    pub fn bucket_ms_of(longest_ms: DurationMs) -> DurationMs {
        let rounded = (longest_ms / BUCKETS_PER_WINDOW + 500) / 1_000 * 1_000;
        rounded.clamp(BUCKET_MS_MIN, BUCKET_MS_MAX)
    }

    /// An impression is open while the watermark has not passed its time plus this.
    pub fn longest_ms(&self) -> DurationMs {
        self.labels.iter().map(|label| label.within_ms).max().unwrap_or(0)
    }

    /// The bucket number below which every bucket of a label stream is beyond the reach of open and future impressions.
    pub fn labels_needed_from(&self, label: usize, watermark: Watermark) -> u32 {
        let reach = self.labels[label].before_ms + self.longest_ms() + self.bucket_ms;
        match watermark {
            Watermark::MIN => 0,
            Watermark::MAX => u32::MAX,
            // bucket_end + reach < watermark
            Watermark(at) => at.saturating_sub(reach + 1).div_euclid(self.bucket_ms).clamp(0, u32::MAX as i64) as u32,
        }
    }
}

/// A label matches when `-before <= label.ts - impression.ts <= within`, both ends included.
#[derive(Clone, Debug)]
pub struct LabelSpec {
    pub name: String,
    pub stream: StreamId,
    pub within_ms: DurationMs,
    pub before_ms: DurationMs,
    pub take: Take,
    /// Columns of the label stream that go into the sample, for `first`, `last` and `any`.
    pub select: Vec<usize>,
    pub filter: Option<Expression>,
}

/// Which of an impression's labels count. Ties break by (ts, id, content hash).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    First,
    Last,
    /// Only whether there was one: a boolean column.
    Any,
    Count,
    /// Of a column of the label stream.
    Sum(usize),
    Min(usize),
    Max(usize),
}
