//! Which labels belong to an impression.

use crate::event::{DurationMs, Expression, Fingerprint, SideKind, StreamId, Watermark, content_hash};

/// Time buckets per longest window, and the bounds of their width.
const BUCKETS_PER_WINDOW: DurationMs = 64;
const BUCKET_MS_MIN: DurationMs = 1_000;
const BUCKET_MS_MAX: DurationMs = 60_000;
/// Rows that leave early leave by whole buckets: nobody waits longer for them.
const EARLY_BUCKET_MS_MAX: DurationMs = 10_000;

/// One anchor stream joined with any number of label streams.
#[derive(Clone, Debug)]
pub struct JoinSpec {
    pub anchor: StreamId,
    pub labels: Vec<LabelSpec>,
    /// Width of the time buckets in which impressions and labels are kept.
    pub bucket_ms: DurationMs,
    /// How long beyond the longest window a closed impression's identity is remembered; the anchor's lateness is in it.
    pub dedup_horizon_ms: DurationMs,
    pub emit: Emit,
    /// Rows that are in no sample and are to be told.
    pub side: Vec<SideKind>,
}

/// When the rows of an impression leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Emit {
    /// Once, when its longest window has passed.
    #[default]
    Wait,
    /// After a wait, at most the longest window, and again whenever a label changes what is known.
    Early {
        from_ms: DurationMs,
        to_ms: DurationMs,
        /// And once more when the longest window has passed without a label.
        negatives: bool,
    },
}

impl Emit {
    /// Tells the hash that draws waits from others of the same id: it has nothing to do with which rows are kept.
    const SEED: u32 = 0x7761_6974;

    /// How wide the buckets are of a join whose longest window is `longest_ms`.
    pub fn bucket_ms_of(&self, longest_ms: DurationMs) -> DurationMs {
        let rounded = (longest_ms / BUCKETS_PER_WINDOW + 500) / 1_000 * 1_000;
        let widest = if *self == Emit::Wait { BUCKET_MS_MAX } else { EARLY_BUCKET_MS_MAX };
        rounded.clamp(BUCKET_MS_MIN, widest)
    }

    /// How long after an impression its first row leaves: drawn from its id, evenly, so that every run draws alike.
    pub fn wait_ms(&self, id: Fingerprint) -> DurationMs {
        match *self {
            Emit::Wait => 0,
            Emit::Early { from_ms, to_ms, .. } if to_ms <= from_ms => from_ms,
            Emit::Early { from_ms, to_ms, .. } => {
                let steps = (to_ms - from_ms) as u64 + 1;
                from_ms + (content_hash(&id.to_le_bytes(), Self::SEED) % steps) as DurationMs
            }
        }
    }
}

impl JoinSpec {
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
