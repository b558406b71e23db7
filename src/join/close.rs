//! Close: a bucket's impressions leave with the labels that are theirs.
//!
//! For every impression the chain of its key is walked once. A label is attached when it lies in the window, came while
//! the impression was open, and no other pending impression of the key has the better claim: the latest one at or
//! before the label, else the earliest after it.

use crate::event::{CloseReason, EventTime, Fingerprint, Payload};
use crate::join::block::{FeatureLayout, Features};
use crate::join::bucket::Part;
use crate::join::emit::{Emission, EmitKind};
use crate::join::index::RowRef;
use crate::join::label::{LabelState, Labels};
use crate::join::state::{ClosedBucket, JoinState};
use crate::join::take::label_columns;
use crate::join::{Emit, Take};
use arrow::array::ArrayRef;
use std::cmp::Reverse;

/// The impressions of one bucket, decided.
#[derive(Debug)]
pub struct ClosedRows {
    pub bucket: u32,
    pub reason: CloseReason,
    pub parts: Vec<ClosedPart>,
}

impl ClosedRows {
    pub fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.event_time.len()).sum()
    }
}

/// Rows of one part of a bucket.
#[derive(Debug)]
pub struct ClosedPart {
    pub payload: Payload,
    /// Rows of the payload and the features that count; `None` means all.
    pub keep: Option<Vec<u32>>,
    /// Aligned with the kept rows, as are the labels.
    pub event_time: Vec<EventTime>,
    pub id: Vec<Fingerprint>,
    /// Per feature group, aligned with the payload.
    pub features: Features,
    /// How their block is read, where they are on disk alone.
    pub layout: FeatureLayout,
    /// Per label stream its columns: see [`Take`].
    pub labels: Vec<Vec<ArrayRef>>,
    /// Of samples whose rows leave early.
    pub emission: Option<Emission>,
}

/// The labels of rows of one label stream: one after another, and where each row's end.
type Found = (Vec<RowRef>, Vec<u32>);

impl JoinState {
    pub(super) fn close_bucket(&mut self, number: u32, reason: CloseReason, out: &mut Vec<ClosedRows>) {
        let bucket = &self.buckets[&number];
        let live: Vec<u32> = (0..bucket.rows() as u32).filter(|row| !bucket.is_dead(*row)).collect();
        let (mut parts, mut at) = (Vec::with_capacity(bucket.parts.len()), 0);
        for part in 0..self.buckets[&number].parts.len() {
            let range = self.buckets[&number].parts[part].range();
            let end = at + live[at..].partition_point(|row| (*row as usize) < range.end);
            parts.extend(self.close_part(number, part, &live[at..end]));
            at = end;
        }
        for &row in &live {
            self.unlink_key(RowRef::new(number, row));
        }
        let mut bucket = self.buckets.remove(&number).expect("it was closed just now");
        let stored = bucket.parts.iter().all(|part| part.segment.is_some());
        let ids = ClosedBucket { id: bucket.id.clone(), home: bucket.home.clone(), stored };
        self.remember_closed(number, ids);
        if self.counting && self.spec.emit == Emit::Wait {
            self.account.pending -= live.len() as u64;
            self.account.emitted += live.len() as u64;
        }
        self.closed_through = Some(self.closed_through.map_or(number, |through| through.max(number)));
        let filed = self.filed_through.is_some_and(|through| number <= through);
        if bucket.parts.iter().any(|part| part.segment.is_none() || !part.features_stored) && !filed {
            bucket.parts.iter_mut().for_each(Part::let_go);
            self.closed_unstored.push((number, bucket));
        }
        if !filed && (!parts.is_empty() || self.spec.emit == Emit::Wait) {
            out.push(ClosedRows { bucket: number, reason, parts });
        }
    }

    /// The rows that leave now, if any do.
    fn close_part(&mut self, number: u32, part: usize, live: &[u32]) -> Option<ClosedPart> {
        let found: Vec<Found> = (0..self.labels.len()).map(|label| self.resolve(label, number, live)).collect();
        let bucket = &self.buckets[&number];
        let part: &Part = &bucket.parts[part];
        let leave = |rows: &[u32], found: &[Found], emission: Option<Emission>| ClosedPart {
            payload: part.payload.clone(),
            keep: (rows.len() < part.rows as usize).then(|| rows.iter().map(|row| row - part.start).collect()),
            event_time: rows.iter().map(|row| bucket.event_time[*row as usize]).collect(),
            id: rows.iter().map(|row| bucket.id[*row as usize]).collect(),
            features: part.features.clone().unwrap_or(Features::Memory(Vec::new())),
            layout: self.layout_of(part),
            labels: self
                .labels
                .iter()
                .zip(found)
                .map(|(labels, (found, ends))| label_columns(labels, found, ends))
                .collect(),
            emission,
        };
        match self.spec.emit {
            Emit::Wait => Some(leave(live, &found, None)),
            Emit::Early { negatives: false, .. } => None,
            Emit::Early { negatives: true, .. } => {
                let start = |ends: &[u32], at: usize| if at == 0 { 0 } else { ends[at - 1] };
                let is_negative = |at: &usize| found.iter().all(|(_, ends)| ends[*at] == start(ends, *at));
                let rows: Vec<u32> = (0..live.len()).filter(is_negative).map(|at| live[at]).collect();
                let mut emission = Emission::default();
                for row in &rows {
                    let instant = bucket.event_time[*row as usize].saturating_add(self.spec.longest_ms());
                    emission.push(EmitKind::Negative, instant, None);
                }
                let none: Vec<Found> = found.iter().map(|_| (Vec::new(), vec![0; rows.len()])).collect();
                (!rows.is_empty()).then(|| leave(&rows, &none, Some(emission)))
            }
        }
    }

    /// Finds each row's labels of one label stream.
    fn resolve(&mut self, label: usize, number: u32, live: &[u32]) -> Found {
        let longest = self.spec.longest_ms();
        let mut found: Vec<RowRef> = Vec::new();
        let mut ends: Vec<u32> = Vec::with_capacity(live.len());
        for &row in live {
            if !self.labels[label].is_empty() {
                let bucket = &self.buckets[&number];
                let (ts, key) = (bucket.event_time[row as usize], bucket.key(row));
                let mut at = self.labels[label].chain(key);
                let first = found.len();
                while !at.is_none() {
                    let next = self.labels[label].next(at);
                    if self.claims(label, at, ts, longest) && self.has_best_claim(label, at, key, number, row) {
                        found.push(at);
                    } else {
                        self.labels[label].pass_over(at, number, self.counting);
                    }
                    at = next;
                }
                for &row in &found[first..] {
                    let labels = &mut self.labels[label];
                    labels.set_state(row, LabelState::Attached);
                    if self.counting {
                        labels.decide(row, LabelState::Attached, number);
                        labels.account.waiting -= 1;
                        labels.account.attached += 1;
                        labels.delays.add(labels.time(row) - ts);
                    }
                }
            }
            ends.push(found.len() as u32);
        }
        (found, ends)
    }

    /// Whether a label lies in the window of an impression at `ts` and came while that was open (F3, F4).
    fn claims(&self, label: usize, at: RowRef, ts: EventTime, longest: i64) -> bool {
        let labels = &self.labels[label];
        let (bucket, row) = (labels.bucket(at), at.row() as usize);
        let free = matches!(bucket.state[row], LabelState::Waiting | LabelState::PassedOver);
        let delay = bucket.event_time[row] - ts;
        free && delay >= -labels.spec.before_ms
            && delay <= labels.spec.within_ms
            && bucket.came_at[row] <= ts.saturating_add(longest)
    }

    fn has_best_claim(&self, label: usize, at: RowRef, key: Fingerprint, number: u32, row: u32) -> bool {
        let rivals = self.rows_of_key(key);
        rivals.len() <= 1 || self.best_claim(label, at, &rivals) == Some(RowRef::new(number, row))
    }

    /// Of pending impressions of a label's key, the one that it belongs to.
    pub(super) fn best_claim(&self, label: usize, at: RowRef, rivals: &[RowRef]) -> Option<RowRef> {
        let longest = self.spec.longest_ms();
        let label_time = self.labels[label].time(at);
        let time = |row: RowRef| self.buckets[&row.bucket()].event_time[row.row() as usize];
        let id = |row: RowRef| self.buckets[&row.bucket()].id[row.row() as usize];
        let rank = |row: RowRef| {
            let ts = time(row);
            let distance = if ts <= label_time { label_time - ts } else { ts - label_time };
            (ts > label_time, distance, id(row))
        };
        let claims = |rival: &RowRef| self.claims(label, at, time(*rival), longest);
        rivals.iter().copied().filter(claims).min_by_key(|rival| rank(*rival))
    }
}

impl Labels {
    /// What closes again after a restore is on record already: written a second time it would stand behind, and so
    /// overrule, what became of the label since.
    fn pass_over(&mut self, row: RowRef, by: u32, record: bool) {
        match self.state(row) {
            LabelState::Waiting if record => self.decide(row, LabelState::PassedOver, by),
            LabelState::Waiting => self.set_state(row, LabelState::PassedOver),
            _ => {}
        }
    }

    /// The order that `first` and `last` go by.
    pub(super) fn order(&self, row: RowRef) -> (EventTime, Fingerprint, u64) {
        let (bucket, at) = (self.bucket(row), row.row() as usize);
        (bucket.event_time[at], bucket.id[at], bucket.content[at])
    }

    /// The one label of several that `take` wants.
    pub(super) fn pick(&self, rows: &[RowRef]) -> Option<RowRef> {
        match self.spec.take {
            Take::Last => rows.iter().copied().min_by_key(|row| Reverse(self.order(*row))),
            _ => rows.iter().copied().min_by_key(|row| self.order(*row)),
        }
    }
}
