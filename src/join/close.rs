//! Close: a bucket's impressions leave with the labels that are theirs.
//!
//! For every impression the chain of its key is walked once. A label is attached when it lies in the window, came while
//! the impression was open, and no other pending impression of the key has the better claim: the latest one at or
//! before the label, else the earliest after it; one that the label would correct comes behind those that it lies in the
//! window of. Of labels that hang on labels the chains are those of the labels that were attached just before.

use crate::event::{CloseReason, EventTime, Fingerprint, Outage, Payload};
use crate::join::block::{FeatureLayout, Features};
use crate::join::bucket::Part;
use crate::join::emit::Emission;
use crate::join::index::RowRef;
use crate::join::label::{LabelState, Labels};
use crate::join::state::{ClosedBucket, JoinState};
use crate::join::take::label_columns;
use crate::join::{Emit, Take};
use arrow::array::ArrayRef;
use std::cell::OnceCell;
use std::cmp::Reverse;

/// The impressions of one bucket, decided.
#[derive(Debug)]
pub struct ClosedRows {
    pub bucket: u32,
    pub reason: CloseReason,
    /// Times that passed while label streams of the sample were cut off.
    pub outages: Vec<Outage>,
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

/// The labels of rows of one label stream: one after another, when each is known, and where each row's end.
#[derive(Default)]
pub(super) struct Found {
    pub rows: Vec<RowRef>,
    pub known: Vec<EventTime>,
    pub ends: Vec<u32>,
}

impl Found {
    /// Ends the labels of one row.
    pub fn end(&mut self) {
        self.ends.push(self.rows.len() as u32);
    }

    /// Where the labels of the `row`th row lie.
    pub fn range(&self, row: usize) -> std::ops::Range<usize> {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        start as usize..self.ends[row] as usize
    }
}

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
        if !filed && self.spec.emit == Emit::Wait {
            out.push(ClosedRows { bucket: number, reason, outages: self.outages.clone(), parts });
        }
    }

    /// Attaches the labels of a part's rows for good. The rows leave now, unless they have left early.
    fn close_part(&mut self, number: u32, part: usize, live: &[u32]) -> Option<ClosedPart> {
        let mut found: Vec<Found> = Vec::with_capacity(self.labels.len());
        for label in 0..self.labels.len() {
            let of_label = self.resolve(label, number, live, &found);
            found.push(of_label);
        }
        if self.spec.emit != Emit::Wait {
            return None;
        }
        let bucket = &self.buckets[&number];
        let part: &Part = &bucket.parts[part];
        let labels = self.labels.iter().zip(&found);
        Some(ClosedPart {
            payload: part.payload.clone(),
            keep: (live.len() < part.rows as usize).then(|| live.iter().map(|row| row - part.start).collect()),
            event_time: live.iter().map(|row| bucket.event_time[*row as usize]).collect(),
            id: live.iter().map(|row| bucket.id[*row as usize]).collect(),
            features: part.features.clone().unwrap_or(Features::Memory(Vec::new())),
            layout: self.layout_of(part),
            labels: labels.map(|(labels, found)| label_columns(labels, &found.rows, &found.ends)).collect(),
            emission: None,
        })
    }

    /// Finds each row's labels of one label stream; `others` are those of the streams before it.
    fn resolve(&mut self, label: usize, number: u32, live: &[u32], others: &[Found]) -> Found {
        let on = self.labels[label].spec.on;
        let mut found = Found { ends: Vec::with_capacity(live.len()), ..Found::default() };
        let mut passed: Vec<RowRef> = Vec::new();
        for (index, &row) in live.iter().enumerate() {
            if !self.labels[label].is_empty() {
                let (row, first) = (RowRef::new(number, row), found.rows.len());
                let hangs_on = on.map(|on| (on, &others[on], others[on].range(index)));
                self.own_labels(label, row, hangs_on, &mut found, &mut passed);
                self.attach(label, row, &found, first);
                for at in passed.drain(..) {
                    self.labels[label].pass_over(at, number, self.counting);
                }
            }
            found.end();
        }
        found
    }

    /// Attaches the labels from `first` on for good.
    fn attach(&mut self, label: usize, row: RowRef, found: &Found, first: usize) {
        let ts = self.time_of(row);
        for (&at, &known) in found.rows[first..].iter().zip(&found.known[first..]) {
            let base = self.base_of(label, at, ts);
            let labels = &mut self.labels[label];
            labels.set_state(at, LabelState::Attached);
            if self.counting {
                labels.decide(at, LabelState::Attached, row.bucket());
                labels.account.waiting -= 1;
                if known > ts.saturating_add(self.longest_ms) {
                    labels.account.corrected += 1;
                } else {
                    labels.account.attached += 1;
                    labels.delays.add(labels.time(at) - base);
                }
            }
        }
    }

    /// The time that a label's window is of: that of the impression at `ts`, or of the label that it hangs on.
    fn base_of(&self, label: usize, at: RowRef, ts: EventTime) -> EventTime {
        let labels = &self.labels[label];
        let Some(on) = labels.spec.on else { return ts };
        let other = self.labels[on].of_id(labels.key(at));
        other.map_or(ts, |other| self.labels[on].time(other))
    }

    /// Finds the labels of an impression in one label stream, and when each is known. With `hangs_on` they are those of
    /// other labels: their stream, and where they are. What lies on the same keys and is not the impression's is `passed`.
    pub(super) fn own_labels(
        &self,
        label: usize,
        row: RowRef,
        hangs_on: Option<(usize, &Found, std::ops::Range<usize>)>,
        found: &mut Found,
        passed: &mut Vec<RowRef>,
    ) {
        let (labels, ts) = (&self.labels[label], self.time_of(row));
        let mut walk = |key: Fingerprint, take: &dyn Fn(RowRef) -> Option<EventTime>| {
            let mut at = labels.chain(key);
            while !at.is_none() {
                match take(at) {
                    Some(known) => {
                        found.rows.push(at);
                        found.known.push(known);
                    }
                    None => passed.push(at),
                }
                at = labels.next(at);
            }
        };
        let Some((on, others, range)) = hangs_on else {
            let key = self.buckets[&row.bucket()].key(row.row());
            let rivals = OnceCell::new();
            return walk(key, &|at| {
                let known = self.claim(label, at, ts, ts)?;
                let rivals = rivals.get_or_init(|| self.rows_of_key(key));
                let is_best = || self.best_claim(label, at, rivals).is_some_and(|(best, _)| best == row);
                (rivals.len() <= 1 || is_best()).then_some(known)
            });
        };
        for (&other, &since) in others.rows[range.clone()].iter().zip(&others.known[range]) {
            let (key, base) = (self.labels[on].id(other), self.labels[on].time(other));
            walk(key, &|at| Some(self.claim(label, at, base, ts)?.max(since)));
        }
    }

    /// The instant at which a label that hangs on what was at `base` is known of the impression at `ts`: when it came, if
    /// it lies in the window and came in time (F3, F4). One that corrects is known when every impression is here that could
    /// have the better claim. `None` if it is not of that impression.
    pub(super) fn claim(&self, label: usize, at: RowRef, base: EventTime, ts: EventTime) -> Option<EventTime> {
        let labels = &self.labels[label];
        let (bucket, row, spec) = (labels.bucket(at), at.row() as usize, &labels.spec);
        let free = matches!(bucket.state[row], LabelState::Waiting | LabelState::PassedOver);
        let (delay, came_at) = (bucket.event_time[row] - base, bucket.came_at[row]);
        let end = ts.saturating_add(self.longest_ms);
        if !free || delay < -spec.before_ms {
            None
        } else if delay <= spec.within_ms && came_at <= end {
            Some(came_at)
        } else {
            let correct_ms = self.spec.correct_ms;
            let known = came_at.saturating_add(spec.before_ms).max(end.saturating_add(1));
            let in_time = known <= end.saturating_add(correct_ms);
            (in_time && delay <= spec.within_ms.saturating_add(correct_ms)).then_some(known)
        }
    }

    /// Of pending impressions of a label's key, the one that it belongs to, and when it is known there.
    pub(super) fn best_claim(&self, label: usize, at: RowRef, rivals: &[RowRef]) -> Option<(RowRef, EventTime)> {
        let label_time = self.labels[label].time(at);
        let id = |row: RowRef| self.buckets[&row.bucket()].id[row.row() as usize];
        let ranked = |row: &RowRef| {
            let ts = self.time_of(*row);
            let known = self.claim(label, at, ts, ts)?;
            let corrects = known > ts.saturating_add(self.longest_ms);
            Some(((corrects, ts > label_time, (ts - label_time).abs(), id(*row)), (*row, known)))
        };
        rivals.iter().filter_map(ranked).min_by_key(|(rank, _)| *rank).map(|(_, best)| best)
    }

    pub(super) fn time_of(&self, row: RowRef) -> EventTime {
        self.buckets[&row.bucket()].event_time[row.row() as usize]
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
