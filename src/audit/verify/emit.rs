//! Emit: the rows of an impression by the definition of its sample's mode: which, at what instants, and why.
//!
//! Does not: look at buckets or watermarks; only what lies in files is asked of the manifest.

use super::join::{Anchors, Joined};
use crate::event::EventTime;
use crate::join::{Emission, Emit, EmitKind, JoinSpec};

/// A row that should be there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    pub anchor: u32,
    /// Labels that came later are not in it.
    pub instant: EventTime,
    /// Of modes whose rows leave early.
    pub kind: Option<EmitKind>,
}

/// What a cell says lies in files.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Filed {
    /// Closed impressions before this time.
    pub before: Option<EventTime>,
    /// Rows that left early at instants before this one.
    pub emitted_before: Option<EventTime>,
}

impl Filed {
    pub fn holds(&self, shown: EventTime, due: &Due) -> bool {
        match due.kind {
            None => self.before.is_some_and(|before| shown < before),
            Some(_) => self.emitted_before.is_some_and(|before| due.instant < before),
        }
    }
}

/// The rows of an impression, by its number.
pub(super) fn rows(spec: &JoinSpec, anchors: &Anchors, joins: &[Joined<'_>], number: u32) -> Vec<Due> {
    let anchor = &anchors.all[number as usize];
    let due = |instant, kind| Due { anchor: number, instant, kind };
    let Emit::Early { negatives, .. } = spec.emit else { return vec![due(EventTime::MAX, None)] };
    let first = anchor.row.ts.saturating_add(spec.emit.wait_ms(anchor.id));
    let mut later: Vec<EventTime> =
        joins.iter().flat_map(|join| join.instants(number)).filter(|known| *known > first).collect();
    later.sort_unstable();
    later.dedup();
    let end = anchor.row.ts.saturating_add(spec.longest_ms());
    let kind = |instant| if instant > end { EmitKind::Correction } else { EmitKind::Positive };
    let is_news = |instant: &EventTime| {
        joins.iter().any(|join| join.columns(&[(number, *instant - 1)]) != join.columns(&[(number, *instant)]))
    };
    let mut rows = vec![due(first, Some(EmitKind::Base))];
    rows.extend(later.into_iter().filter(is_news).map(|instant| due(instant, Some(kind(instant)))));
    if negatives && joins.iter().all(|join| join.instants(number).all(|known| known > end)) {
        rows.push(due(end, Some(EmitKind::Negative)));
    }
    rows
}

/// What rows that left early say of themselves.
pub(super) fn emission(rows: &[Due], joins: &[Joined<'_>]) -> Option<Emission> {
    let kind: Option<Vec<EmitKind>> = rows.iter().map(|due| due.kind).collect();
    let newest = |due: &Due| joins.iter().filter_map(|join| join.newest(due.anchor, due.instant)).max();
    Some(Emission {
        kind: kind.filter(|kinds| !kinds.is_empty())?,
        emit_ts: rows.iter().map(|due| due.instant).collect(),
        label_ts: rows.iter().map(newest).collect(),
    })
}
