//! Emit: rows that leave before their impression closes, for trainers that cannot wait for delayed labels.
//!
//!   impression ─ wait ─> base row              the labels until then
//!   label after that ──> positive row          the same impression with the labels until this one
//!   longest window ────> negative row          where asked for: no label has come
//!   label after that ──> correction row        where asked for: as long as the impression is kept
//!
//! Every row has an instant of its own, from event times alone, and shows what is known at it: labels that came at or
//! before it. It leaves when the watermark has passed the time bucket of the instant, and then everything that came at or
//! before it is here: so rows do not depend on the order of arrival (F8). FNW (Ktena et al., 2019) is a wait of nothing,
//! ES-DFM (Yang et al., 2021) a wait that is drawn, DEFER (Gu et al., 2021) adds the real negatives.
//! Does not: attach labels for good: closing does, by the same claims.

use crate::event::{CloseReason, EventTime, Watermark};
use crate::join::block::Features;
use crate::join::close::{ClosedPart, ClosedRows, Found};
use crate::join::index::RowRef;
use crate::join::state::JoinState;
use crate::join::take::{label_columns, same_columns};
use crate::join::{Emit, Take};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Why a row was emitted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum EmitKind {
    /// The first row of an impression.
    Base,
    /// A label has changed what is known.
    Positive,
    /// The longest window has passed without a label.
    Negative,
    /// A label came after its window, or after the longest one had passed.
    Correction,
}

impl EmitKind {
    pub fn name(self) -> &'static str {
        match self {
            EmitKind::Base => "base",
            EmitKind::Positive => "positive",
            EmitKind::Negative => "negative",
            EmitKind::Correction => "correction",
        }
    }
}

/// What rows that left early have beside the others, aligned with the kept rows of their part.
#[derive(Clone, Debug, Default)]
pub struct Emission {
    pub kind: Vec<EmitKind>,
    /// The instant of the row.
    pub emit_ts: Vec<EventTime>,
    /// The newest of its labels.
    pub label_ts: Vec<Option<EventTime>>,
}

impl Emission {
    pub(super) fn push(&mut self, kind: EmitKind, emit_ts: EventTime, label_ts: Option<EventTime>) {
        self.kind.push(kind);
        self.emit_ts.push(emit_ts);
        self.label_ts.push(label_ts);
    }
}

/// What is still to be emitted, by its instant.
#[derive(Default)]
pub(super) struct Schedule {
    /// Impressions without a row.
    due: BinaryHeap<Reverse<(EventTime, RowRef)>>,
    /// Where real negatives are asked for: impressions whose longest window has not passed.
    ends: BinaryHeap<Reverse<(EventTime, RowRef)>>,
    /// (instant, label stream, label): labels that may make a row.
    labels: BinaryHeap<Reverse<(EventTime, u32, RowRef)>>,
    /// All instants in buckets up to this one have passed.
    pub through: Option<u32>,
    /// And their rows lie in files that a manifest names.
    pub filed_through: Option<u32>,
}

impl Schedule {
    pub fn add_label(&mut self, known: EventTime, label: usize, row: RowRef) {
        self.labels.push(Reverse((known, label as u32, row)));
    }

    pub fn memory_bytes(&self) -> usize {
        (self.due.capacity() + self.ends.capacity()) * size_of::<(EventTime, RowRef)>()
            + self.labels.capacity() * size_of::<(EventTime, u32, RowRef)>()
    }

    /// The impressions that are still without a row.
    pub fn unemitted(&self) -> impl Iterator<Item = RowRef> {
        self.due.iter().map(|Reverse((_, row))| *row)
    }

    fn next_label(&mut self, until: EventTime) -> Option<(u32, RowRef)> {
        next(&mut self.labels, |(known, ..)| *known < until).map(|(_, label, row)| (label, row))
    }
}

fn next<T: Ord>(heap: &mut BinaryHeap<Reverse<T>>, passed: impl Fn(&T) -> bool) -> Option<T> {
    heap.peek().is_some_and(|Reverse(first)| passed(first)).then(|| heap.pop()).flatten().map(|Reverse(first)| first)
}

/// A row on its way out: the impression, the instant, why.
type Planned = (RowRef, EventTime, EmitKind);

impl JoinState {
    /// Rows leave by whole buckets of their instants: a watermark that lies within one counts as its beginning.
    pub(super) fn emission_watermark(&self, watermark: Watermark) -> Watermark {
        match watermark {
            _ if self.schedule.is_none() => watermark,
            Watermark::MIN | Watermark::MAX => watermark,
            Watermark(at) => Watermark(at.div_euclid(self.spec.bucket_ms).saturating_mul(self.spec.bucket_ms)),
        }
    }

    /// Whether the rows of an impression at this time would have to be there already.
    pub(super) fn is_overtaken(&self, bucket: u32) -> bool {
        self.schedule.as_ref().and_then(|schedule| schedule.through).is_some_and(|through| bucket <= through)
    }

    /// Emits everything whose instant the watermark has passed.
    pub(super) fn emit(&mut self, watermark: Watermark, out: &mut Vec<ClosedRows>) {
        let Some(mut schedule) = self.schedule.take() else { return };
        let planned = self.planned(&mut schedule, watermark.0);
        let newest = planned.iter().map(|(_, instant, _)| *instant).max();
        let passed = match watermark {
            // The end of the inputs is no promise: then only what was emitted counts.
            Watermark::MAX => newest.map(|instant| self.bucket_of(instant)),
            Watermark(at) => (at >= self.spec.bucket_ms).then(|| self.bucket_of(at) - 1),
        };
        schedule.through = schedule.through.max(passed);
        self.schedule = Some(schedule);
        self.emit_rows(planned, out);
    }

    /// What a restore has brought back and is in files already is forgotten.
    pub(super) fn forget_emitted(&mut self, filed_through: Option<u32>) {
        let Some(mut schedule) = self.schedule.take() else { return };
        let until = filed_through.map_or(EventTime::MIN, |through| self.bucket_end(through));
        self.planned(&mut schedule, until);
        (schedule.through, schedule.filed_through) = (filed_through, filed_through);
        self.schedule = Some(schedule);
    }

    /// The row of an impression that has just come is to be emitted.
    pub(super) fn schedule_row(&mut self, row: RowRef) {
        if self.schedule.is_none() {
            return;
        }
        let (due, end) = (self.due_of(row), self.time_of(row).saturating_add(self.longest_ms));
        let negatives = matches!(self.spec.emit, Emit::Early { negatives: true, .. });
        let schedule = self.schedule.as_mut().expect("checked above");
        schedule.due.push(Reverse((due, row)));
        if negatives {
            schedule.ends.push(Reverse((end, row)));
        }
    }

    /// Takes what is due before `until` from the schedule.
    fn planned(&mut self, schedule: &mut Schedule, until: EventTime) -> Vec<Planned> {
        let mut planned: Vec<Planned> = Vec::new();
        while let Some((due, row)) = next(&mut schedule.due, |(due, _)| *due < until) {
            if self.buckets[&row.bucket()].is_dead(row.row()) {
                continue;
            }
            if self.counting {
                self.account.pending -= 1;
                self.account.emitted += 1;
            }
            planned.push((row, due, EmitKind::Base));
        }
        while let Some((end, row)) = next(&mut schedule.ends, |(end, _)| *end < until) {
            if !self.buckets[&row.bucket()].is_dead(row.row()) {
                planned.push((row, end, EmitKind::Negative));
            }
        }
        while let Some((label, at)) = schedule.next_label(until) {
            let Some((row, known)) = self.owner(label as usize, at) else { continue };
            if known >= until {
                schedule.add_label(known, label as usize, at);
                continue;
            }
            if known > self.due_of(row) {
                let corrects = known > self.time_of(row).saturating_add(self.longest_ms);
                planned.push((row, known, if corrects { EmitKind::Correction } else { EmitKind::Positive }));
            }
            self.wake_labels_on(label as usize, at, known, schedule);
        }
        planned.sort_unstable();
        planned.dedup();
        planned
    }

    /// Labels that hang on one that is known from `known` on may be known then, too.
    fn wake_labels_on(&self, label: usize, at: RowRef, known: EventTime, schedule: &mut Schedule) {
        for (other, labels) in self.labels.iter().enumerate().filter(|(_, labels)| labels.spec.on == Some(label)) {
            let mut hanging = labels.chain(self.labels[label].id(at));
            while !hanging.is_none() {
                if labels.bucket(hanging).came_at[hanging.row() as usize] < known {
                    schedule.add_label(known, other, hanging);
                }
                hanging = labels.next(hanging);
            }
        }
    }

    pub(super) fn due_of(&self, row: RowRef) -> EventTime {
        let bucket = &self.buckets[&row.bucket()];
        self.time_of(row).saturating_add(self.spec.emit.wait_ms(bucket.id[row.row() as usize]))
    }

    /// The pending impression that a label belongs to, as far as it is decided, and when it is known there.
    fn owner(&self, label: usize, at: RowRef) -> Option<(RowRef, EventTime)> {
        let labels = &self.labels[label];
        let key = labels.key(at);
        let Some(on) = labels.spec.on else { return self.best_claim(label, at, &self.pending_of_key(key)) };
        let other = self.labels[on].of_id(key)?;
        let (row, since) = self.owner(on, other)?;
        let known = self.claim(label, at, self.labels[on].time(other), self.time_of(row))?;
        Some((row, known.max(since)))
    }

    fn emit_rows(&mut self, planned: Vec<Planned>, out: &mut Vec<ClosedRows>) {
        let mut rows = planned.into_iter().peekable();
        while let Some((first, ..)) = rows.peek() {
            let number = first.bucket();
            let (reason, outages) = (CloseReason::Watermark, self.outages.clone());
            let mut closed = ClosedRows { bucket: number, reason, outages, parts: Vec::new() };
            let bucket = &self.buckets[&number];
            for part in &bucket.parts {
                let end = part.range().end;
                let mut of_part = Vec::new();
                while let Some(next) = rows.next_if(|(row, ..)| row.bucket() == number && (row.row() as usize) < end) {
                    of_part.push(next);
                }
                if let Some(emitted) = self.emit_part(number, part, &of_part) {
                    closed.parts.push(emitted);
                }
            }
            if !closed.parts.is_empty() {
                out.push(closed);
            }
        }
    }

    fn emit_part(&self, number: u32, part: &crate::join::bucket::Part, planned: &[Planned]) -> Option<ClosedPart> {
        let bucket = &self.buckets[&number];
        let (mut keep, mut event_time, mut id) = (Vec::new(), Vec::new(), Vec::new());
        let mut emission = Emission::default();
        let mut found: Vec<Found> = self.labels.iter().map(|_| Found::default()).collect();
        for &(row, instant, kind) in planned {
            let known = self.known_at(row, instant);
            let skipped = match kind {
                EmitKind::Base => false,
                EmitKind::Positive | EmitKind::Correction => !self.is_news(row, &known, instant),
                EmitKind::Negative => known.iter().any(|known| !known.rows.is_empty()),
            };
            if skipped {
                continue;
            }
            let times =
                known.iter().zip(&self.labels).flat_map(|(known, labels)| known.rows.iter().map(|at| labels.time(*at)));
            emission.push(kind, instant, times.max());
            keep.push(row.row() - part.start);
            event_time.push(bucket.event_time[row.row() as usize]);
            id.push(bucket.id[row.row() as usize]);
            for (all, known) in found.iter_mut().zip(known) {
                all.rows.extend(known.rows);
                all.end();
            }
        }
        let labels = self.labels.iter().zip(&found);
        let columns = labels.map(|(labels, found)| label_columns(labels, &found.rows, &found.ends));
        (!keep.is_empty()).then(|| ClosedPart {
            payload: part.payload.clone(),
            keep: Some(keep),
            event_time,
            id,
            features: part.features.clone().unwrap_or(Features::Memory(Vec::new())),
            layout: self.layout_of(part),
            labels: columns.collect(),
            emission: Some(emission),
        })
    }

    /// The labels of an impression that are known by an instant, per label stream.
    fn known_at(&self, row: RowRef, instant: EventTime) -> Vec<Found> {
        let mut all: Vec<Found> = Vec::with_capacity(self.labels.len());
        for (label, labels) in self.labels.iter().enumerate() {
            let mut found = Found::default();
            if !labels.is_empty() {
                let hangs_on = labels.spec.on.map(|on| (on, &all[on], 0..all[on].rows.len()));
                self.own_labels(label, row, hangs_on, &mut found, &mut Vec::new());
            }
            let known: Vec<bool> = found.known.iter().map(|known| *known <= instant).collect();
            retain(&mut found.rows, &known);
            retain(&mut found.known, &known);
            found.end();
            all.push(found);
        }
        all
    }

    /// Whether the labels that are known since the instant change what the join's columns say.
    fn is_news(&self, row: RowRef, known: &[Found], instant: EventTime) -> bool {
        let before = self.known_at(row, instant - 1);
        let pairs = before.iter().zip(known).zip(&self.labels);
        let mut news = pairs.filter(|((before, known), _)| before.rows.len() < known.rows.len());
        news.any(|((before, known), labels)| match labels.spec.take {
            Take::Any => before.rows.is_empty(),
            Take::Count => true,
            _ => !same_columns(labels, &before.rows, &known.rows),
        })
    }
}

fn retain<T: Copy>(values: &mut Vec<T>, kept: &[bool]) {
    let mut kept = kept.iter();
    values.retain(|_| *kept.next().expect("one for each"));
}
