//! Emit: rows that leave before their impression closes, for trainers that cannot wait for delayed labels.
//!
//!   impression ─ wait ─> base row              the labels until then
//!   label after that ──> positive row          the same impression with the labels until this one
//!   close ─────────────> negative row          where asked for: no label has come
//!
//! Every row has an instant of its own, from event times alone, and shows what is known at it: labels that came at or
//! before it. It leaves when the watermark has passed the time bucket of the instant, and then everything that came at or
//! before it is here: so rows do not depend on the order of arrival (F8). FNW (Ktena et al., 2019) is a wait of nothing,
//! ES-DFM (Yang et al., 2021) a wait that is drawn, DEFER (Gu et al., 2021) adds the real negatives.
//! Does not: attach labels for good: closing does, by the same claims.

use crate::event::{EventTime, Fingerprint, Watermark};
use crate::join::Take;
use crate::join::block::Features;
use crate::join::close::{ClosedPart, ClosedRows};
use crate::join::index::RowRef;
use crate::join::state::JoinState;
use crate::join::take::{label_columns, same_columns};
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
}

impl EmitKind {
    pub fn name(self) -> &'static str {
        match self {
            EmitKind::Base => "base",
            EmitKind::Positive => "positive",
            EmitKind::Negative => "negative",
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
    /// (instant, label stream, label): labels that may make a row.
    labels: BinaryHeap<Reverse<(EventTime, u32, RowRef)>>,
    /// All instants in buckets up to this one have passed.
    pub through: Option<u32>,
    /// And their rows lie in files that a manifest names.
    pub filed_through: Option<u32>,
}

impl Schedule {
    pub fn add_impression(&mut self, due: EventTime, row: RowRef) {
        self.due.push(Reverse((due, row)));
    }

    pub fn add_label(&mut self, came_at: EventTime, label: usize, row: RowRef) {
        self.labels.push(Reverse((came_at, label as u32, row)));
    }

    pub fn memory_bytes(&self) -> usize {
        self.due.capacity() * size_of::<(EventTime, RowRef)>()
            + self.labels.capacity() * size_of::<(EventTime, u32, RowRef)>()
    }

    /// The impressions that are still without a row.
    pub fn unemitted(&self) -> impl Iterator<Item = RowRef> {
        self.due.iter().map(|Reverse((_, row))| *row)
    }

    fn next_due(&mut self, until: EventTime) -> Option<(EventTime, RowRef)> {
        let Reverse((due, _)) = self.due.peek()?;
        if *due >= until { None } else { self.due.pop().map(|Reverse(next)| next) }
    }

    fn next_label(&mut self, until: EventTime) -> Option<(EventTime, u32, RowRef)> {
        let Reverse((came_at, ..)) = self.labels.peek()?;
        if *came_at >= until { None } else { self.labels.pop().map(|Reverse(next)| next) }
    }
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
        let bucket_ms = self.spec.bucket_ms;
        let Some(schedule) = &mut self.schedule else { return };
        let until = filed_through.map_or(EventTime::MIN, |through| (through as i64 + 1).saturating_mul(bucket_ms));
        while schedule.next_due(until).is_some() {}
        while schedule.next_label(until).is_some() {}
        (schedule.through, schedule.filed_through) = (filed_through, filed_through);
    }

    fn planned(&mut self, schedule: &mut Schedule, until: EventTime) -> Vec<Planned> {
        let mut planned: Vec<Planned> = Vec::new();
        while let Some((due, row)) = schedule.next_due(until) {
            if self.buckets[&row.bucket()].is_dead(row.row()) {
                continue;
            }
            if self.counting {
                self.account.pending -= 1;
                self.account.emitted += 1;
            }
            planned.push((row, due, EmitKind::Base));
        }
        while let Some((came_at, label, at)) = schedule.next_label(until) {
            if let Some(row) = self.owner(label as usize, at)
                && came_at > self.due_of(row)
            {
                planned.push((row, came_at, EmitKind::Positive));
            }
        }
        planned.sort_unstable();
        planned.dedup();
        planned
    }

    pub(super) fn due_of(&self, row: RowRef) -> EventTime {
        let (bucket, at) = (&self.buckets[&row.bucket()], row.row() as usize);
        bucket.event_time[at].saturating_add(self.spec.emit.wait_ms(bucket.id[at]))
    }

    /// The pending impression that a label belongs to, as far as it is decided.
    fn owner(&self, label: usize, at: RowRef) -> Option<RowRef> {
        let key = self.labels[label].bucket(at).key[at.row() as usize];
        self.best_claim(label, at, &self.pending_of_key(key))
    }

    fn emit_rows(&mut self, planned: Vec<Planned>, out: &mut Vec<ClosedRows>) {
        let mut rows = planned.into_iter().peekable();
        while let Some((first, ..)) = rows.peek() {
            let number = first.bucket();
            let mut closed =
                ClosedRows { bucket: number, reason: crate::event::CloseReason::Watermark, parts: Vec::new() };
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
        let mut found: Vec<(Vec<RowRef>, Vec<u32>)> = vec![Default::default(); self.labels.len()];
        for &(row, instant, kind) in planned {
            let known: Vec<Vec<RowRef>> =
                (0..self.labels.len()).map(|label| self.known_at(label, row, instant)).collect();
            let news = |(label, known): (usize, &Vec<RowRef>)| self.is_news(label, known, instant);
            if kind == EmitKind::Positive && !known.iter().enumerate().any(news) {
                continue;
            }
            let times = known.iter().enumerate().flat_map(|(label, rows)| {
                rows.iter().map(move |at| self.labels[label].bucket(*at).event_time[at.row() as usize])
            });
            emission.push(kind, instant, times.max());
            keep.push(row.row() - part.start);
            event_time.push(bucket.event_time[row.row() as usize]);
            id.push(bucket.id[row.row() as usize]);
            for ((all, ends), known) in found.iter_mut().zip(known) {
                all.extend(known);
                ends.push(all.len() as u32);
            }
        }
        let columns = self.labels.iter().zip(&found).map(|(labels, (found, ends))| label_columns(labels, found, ends));
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

    /// The labels of an impression that had come by an instant.
    fn known_at(&self, label: usize, row: RowRef, instant: EventTime) -> Vec<RowRef> {
        let labels = &self.labels[label];
        if labels.is_empty() {
            return Vec::new();
        }
        let key: Fingerprint = self.buckets[&row.bucket()].key(row.row());
        let rivals = self.pending_of_key(key);
        let chain = std::iter::successors(Some(labels.chain(key)), |at| (!at.is_none()).then(|| labels.next(*at)));
        let came = |at: &RowRef| labels.bucket(*at).came_at[at.row() as usize] <= instant;
        let own = |at: &RowRef| self.best_claim(label, *at, &rivals) == Some(row);
        chain.take_while(|at| !at.is_none()).filter(|at| came(at) && own(at)).collect()
    }

    /// Whether the labels that came at the instant change what the join's columns say.
    fn is_news(&self, label: usize, known: &[RowRef], instant: EventTime) -> bool {
        let labels = &self.labels[label];
        let came_before = |at: &&RowRef| labels.bucket(**at).came_at[at.row() as usize] < instant;
        let before: Vec<RowRef> = known.iter().filter(came_before).copied().collect();
        before.len() < known.len()
            && match labels.spec.take {
                Take::Any => before.is_empty(),
                Take::Count => true,
                _ => !same_columns(labels, &before, known),
            }
    }
}
