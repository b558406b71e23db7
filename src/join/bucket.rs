//! Bucket: the impressions of one slice of event time, as columns.
//!
//!   row ->      0      1      2      3  …
//!   time     [ ts ]  [ ts ]                     one vector each, aligned by row: what probes and closing read
//!   key, id  [ fp ]  [ fp ]
//!   parts    └── part 0 ──┘└── part 1 ──┘       the decoded batches as they came, plus their feature columns

use crate::event::{EventTime, Fingerprint, Payload, SegmentId};
use crate::join::index::RowRef;
use arrow::array::RecordBatch;

#[derive(Default)]
pub struct Bucket {
    pub event_time: Vec<EventTime>,
    pub id: Vec<Fingerprint>,
    /// Empty when the key is the id.
    pub key: Vec<Fingerprint>,
    pub content: Vec<u64>,
    pub home: Vec<u32>,
    /// The next older pending row of the same key; empty when the key is the id.
    pub same_key: Vec<RowRef>,
    pub parts: Vec<Part>,
    /// Rows that lost to a conflicting record, ascending.
    pub dead: Vec<u32>,
}

/// Rows that came together, or were sealed together at a cut.
pub struct Part {
    pub start: u32,
    pub rows: u32,
    pub payload: Payload,
    /// Bytes of the payload while it is in memory.
    pub payload_bytes: usize,
    /// Entity fingerprints per feature group of the sample, until the features are evaluated. None of a group that the
    /// sample got when the rows were pending already.
    pub entities: Vec<Vec<Fingerprint>>,
    /// One batch per feature group, once evaluated.
    pub features: Option<Vec<RecordBatch>>,
    pub newest: EventTime,
    pub oldest: EventTime,
    /// The segment on disk; `None` until the first cut after the rows came.
    pub segment: Option<SegmentId>,
    /// Whether the features are on disk too.
    pub features_stored: bool,
}

impl Part {
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start as usize..(self.start + self.rows) as usize
    }
}

impl Bucket {
    pub fn rows(&self) -> usize {
        self.event_time.len()
    }

    pub fn live_rows(&self) -> usize {
        self.rows() - self.dead.len()
    }

    pub fn is_dead(&self, row: u32) -> bool {
        self.dead.binary_search(&row).is_ok()
    }

    pub fn key(&self, row: u32) -> Fingerprint {
        if self.key.is_empty() { self.id[row as usize] } else { self.key[row as usize] }
    }

    /// Takes back the rows from `start` on, which no index names.
    pub fn truncate(&mut self, start: usize) {
        self.event_time.truncate(start);
        self.id.truncate(start);
        self.key.truncate(start);
        self.content.truncate(start);
        self.home.truncate(start);
        self.same_key.truncate(start);
        self.dead.retain(|row| (*row as usize) < start);
    }

    pub fn memory_bytes(&self) -> usize {
        let fixed = self.event_time.capacity() * 8
            + self.id.capacity() * 16
            + self.key.capacity() * 16
            + self.content.capacity() * 8
            + self.home.capacity() * 4
            + self.same_key.capacity() * 8;
        let parts = self.parts.iter().map(|part| {
            let features = part.features.iter().flatten().map(RecordBatch::get_array_memory_size).sum::<usize>();
            part.payload_bytes + features + part.entities.iter().map(|column| column.capacity() * 16).sum::<usize>()
        });
        fixed + parts.sum::<usize>()
    }
}
