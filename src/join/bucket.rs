//! Bucket: the impressions of one slice of event time, as columns.
//!
//!   row ->      0      1      2      3  …
//!   time     [ ts ]  [ ts ]                     one vector each, aligned by row: what probes and closing read
//!   key, id  [ fp ]  [ fp ]
//!   parts    └── part 0 ──┘└── part 1 ──┘       the decoded batches as they came, plus their feature columns: in memory,
//!                                               or on disk alone once a block there holds them

use crate::event::{EventTime, Fingerprint, Kept, Payload, SegmentId};
use crate::join::block::Features;
use crate::join::index::RowRef;
use arrow::array::RecordBatch;
use arrow::datatypes::Schema;

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
    /// Bytes of the payload in memory.
    pub payload_bytes: usize,
    /// Entity fingerprints per feature group of the sample, until the features are evaluated. None of a group that the
    /// sample got when the rows were pending already.
    pub entities: Vec<Vec<Fingerprint>>,
    /// One batch per feature group, once evaluated.
    pub features: Option<Features>,
    /// Bytes of the features in memory.
    pub features_bytes: usize,
    /// Per feature group, whether what a block says of it is its own; all are if it is empty.
    pub knows: Vec<bool>,
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

    /// Bytes of payload and features in memory.
    pub fn resident_bytes(&self) -> usize {
        self.payload_bytes + self.features_bytes
    }

    /// Those of them that a block on disk holds too.
    pub fn cached_bytes(&self) -> usize {
        let payload = if matches!(self.payload, Kept::Cached(..)) { self.payload_bytes } else { 0 };
        let features = if matches!(self.features, Some(Kept::Cached(..))) { self.features_bytes } else { 0 };
        payload + features
    }

    /// Bytes on disk of what is there alone.
    pub fn spilled_bytes(&self) -> u64 {
        let payload = if let Kept::Stored(block) = &self.payload { block.bytes } else { 0 };
        let features = if let Some(Kept::Stored(block)) = &self.features { block.bytes } else { 0 };
        payload + features
    }

    /// The rows have left: what was written already is of no use any more.
    pub fn let_go(&mut self) {
        if self.segment.is_none() {
            return;
        }
        (self.payload, self.payload_bytes) = (Kept::Memory(RecordBatch::new_empty(Schema::empty().into())), 0);
        if self.features_stored {
            (self.features, self.features_bytes) = (Some(Kept::Memory(Vec::new())), 0);
        }
    }

    /// Lets go of what a block on disk holds too, and gives its bytes.
    pub fn spill(&mut self) -> usize {
        let mut freed = 0;
        if self.payload.spill() {
            freed += std::mem::take(&mut self.payload_bytes);
        }
        if self.features.as_mut().is_some_and(Kept::spill) {
            freed += std::mem::take(&mut self.features_bytes);
        }
        freed
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

    /// Bytes of what stays in memory until the rows close.
    pub fn fixed_bytes(&self) -> usize {
        let entities = self.parts.iter().flat_map(|part| &part.entities).map(|column| column.capacity() * 16);
        self.event_time.capacity() * 8
            + self.id.capacity() * 16
            + self.key.capacity() * 16
            + self.content.capacity() * 8
            + self.home.capacity() * 4
            + self.same_key.capacity() * 8
            + self.parts.capacity() * size_of::<Part>()
            + entities.sum::<usize>()
    }

    /// Gives back what vectors took to grow; rows that come nevertheless make them grow again.
    pub fn settle(&mut self) {
        self.event_time.shrink_to_fit();
        self.id.shrink_to_fit();
        self.key.shrink_to_fit();
        self.content.shrink_to_fit();
        self.home.shrink_to_fit();
        self.same_key.shrink_to_fit();
    }
}
