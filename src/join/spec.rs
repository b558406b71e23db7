//! Which labels belong to an impression.

use crate::event::{DurationMs, Expression, Fingerprint, SideKind, StreamId, Watermark, content_hash};
use arrow::array::{Array, BooleanArray, RecordBatch};

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
    /// How long after its longest window an impression still takes labels, each of which makes a row that corrects it.
    pub correct_ms: DurationMs,
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
        let widest = match self {
            Emit::Early { from_ms, .. } if *from_ms < longest_ms => EARLY_BUCKET_MS_MAX,
            _ => BUCKET_MS_MAX,
        };
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
    /// All of an impression's labels that are in their windows have come by its time plus this.
    pub fn longest_ms(&self) -> DurationMs {
        (0..self.labels.len()).map(|label| self.reach_ms(label)).max().unwrap_or(0)
    }

    /// An impression is open while the watermark has not passed its time plus this.
    pub fn open_ms(&self) -> DurationMs {
        self.longest_ms().saturating_add(self.correct_ms)
    }

    /// How long after an impression a label in its window may be.
    pub fn reach_ms(&self, label: usize) -> DurationMs {
        let label = &self.labels[label];
        label.within_ms.saturating_add(label.on.map_or(0, |on| self.reach_ms(on)))
    }

    /// How long before its impression a label may be.
    pub fn ahead_ms(&self, label: usize) -> DurationMs {
        let label = &self.labels[label];
        label.before_ms.saturating_add(label.on.map_or(0, |on| self.ahead_ms(on)))
    }

    /// The bucket number below which every bucket of a label stream is beyond the reach of open and future impressions.
    pub fn labels_needed_from(&self, label: usize, watermark: Watermark) -> u32 {
        let reach = self.ahead_ms(label).saturating_add(self.open_ms()).saturating_add(self.bucket_ms);
        match watermark {
            Watermark::MIN => 0,
            Watermark::MAX => u32::MAX,
            // bucket_end + reach < watermark
            Watermark(at) => {
                at.saturating_sub(reach).saturating_sub(1).div_euclid(self.bucket_ms).clamp(0, u32::MAX as i64) as u32
            }
        }
    }
}

/// A label matches when `-before <= label.ts - impression.ts <= within`, both ends included; one that hangs on another
/// label when that holds of the two.
#[derive(Clone, Debug)]
pub struct LabelSpec {
    pub name: String,
    pub stream: StreamId,
    /// The label stream, an earlier one, whose ids this one's keys are; `None` when they are keys of impressions.
    pub on: Option<usize>,
    /// Which fingerprints of the stream are the keys: a position in `DecodedBatch::keys`.
    pub key_set: usize,
    /// Columns of the key that may be null: then the label is of nothing, as if the filter had turned it away.
    pub nullable_key: Vec<usize>,
    pub within_ms: DurationMs,
    pub before_ms: DurationMs,
    pub take: Take,
    /// Columns of the label stream that go into the sample, for `first`, `last` and `all`.
    pub select: Vec<usize>,
    pub filter: Option<Expression>,
}

impl LabelSpec {
    /// Which rows are labels of something; `None` means all.
    pub fn keep(&self, rows: &RecordBatch) -> Option<BooleanArray> {
        let filtered = self.filter.as_ref().map(|filter| filter.matches_or_false(rows));
        self.nullable_key.iter().fold(filtered, |keep, column| {
            let column = rows.column(*column);
            if column.null_count() == 0 {
                return keep;
            }
            let kept = |row: usize| column.is_valid(row) && keep.as_ref().is_none_or(|keep| keep.value(row));
            Some(BooleanArray::from_iter((0..rows.num_rows()).map(|row| Some(kept(row)))))
        })
    }
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
    /// The earliest so many, as lists.
    All(u32),
}
