//! Warm: a window is null until all of it was seen by a group that was added, or forgotten, while the pipeline ran.
//!
//!        since                                        full from
//!   ───────┼──────[■■■■■■■■■■ window ■■■■■■■■■■■■■■)──────┤ t
//!          └ seen whole from here on     the first t whose window begins at or after `since`
//!
//! A derived column waits for every column that it reads, whatever its expression makes of nulls.
//! Holds: what is full depends on `since` and the instant alone, never on which events came. Events before `since` are left
//! out, so that no entity is published for their sake alone and forgotten before its windows are full (F11).

use crate::event::{EventTime, floor_to};
use crate::feature::GroupSpec;
use crate::feature::evaluate::Question;
use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::nullif;

impl GroupSpec {
    /// Per output, the first instant at which it has seen all of its window, of a group that misses nothing `since` then.
    pub fn full_from(&self, since: EventTime) -> Vec<EventTime> {
        // Of all time, or nobody knows: never.
        if since == EventTime::MIN || since == EventTime::MAX {
            return vec![since; self.outputs.fields().len()];
        }
        let windows = self.aggregates.iter().flat_map(|aggregate| &aggregate.windows);
        let mut full: Vec<EventTime> = windows
            .map(|window| {
                let tail = window.tail_ms.max(self.head_ms).max(1);
                // The first start of the window that is not before `since`.
                let start = since.checked_neg().map_or(since, |since| -floor_to(since, tail));
                start.saturating_add(window.window_ms)
            })
            .collect();
        for derived in &self.derived {
            let read = derived.expression.columns.iter().filter_map(|column| full.get(*column));
            full.push(read.max().copied().unwrap_or(EventTime::MIN));
        }
        full
    }
}

/// Since when the outputs of a group are full.
#[derive(Debug)]
pub(super) struct Warm {
    /// Events before it are in no window that is full.
    pub since: EventTime,
    full_from: Vec<EventTime>,
    last: EventTime,
}

impl Warm {
    pub fn new(spec: &GroupSpec, since: EventTime) -> Warm {
        let full_from = spec.full_from(since);
        Warm { since, last: full_from.iter().max().copied().unwrap_or(EventTime::MIN), full_from }
    }

    /// Whether some output is not full at the instant.
    pub fn is_warming(&self, instant: EventTime) -> bool {
        instant < self.last
    }

    /// The next instant after `now` at which an output becomes full.
    pub fn next_full(&self, now: EventTime) -> Option<EventTime> {
        self.full_from.iter().copied().filter(|full| *full > now).min()
    }

    /// Takes away what was not full: one row per question.
    pub fn veil(&self, values: RecordBatch, questions: &[Question]) -> RecordBatch {
        if !questions.iter().any(|(_, instant)| self.is_warming(*instant)) {
            return values;
        }
        let columns = values.columns().iter().zip(&self.full_from).map(|(column, full)| {
            let warming: BooleanArray = questions.iter().map(|(_, instant)| Some(instant < full)).collect();
            null_if(column, &warming)
        });
        let columns: Vec<ArrayRef> = columns.collect();
        RecordBatch::try_new(values.schema(), columns).expect("features may be null")
    }
}

/// The values, null in the rows where the mask is true.
pub fn null_where(values: &RecordBatch, rows: &BooleanArray) -> RecordBatch {
    let columns = values.columns().iter().map(|column| null_if(column, rows)).collect::<Vec<_>>();
    RecordBatch::try_new(values.schema(), columns).expect("features may be null")
}

fn null_if(column: &ArrayRef, rows: &BooleanArray) -> ArrayRef {
    nullif(column, rows).expect("the mask is as long as the column")
}
