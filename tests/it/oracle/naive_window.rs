//! Windows by their definition: counts and sums of integers.

use crate::oracle::Event;
use std::collections::BTreeMap;

/// One output column: of the rows of `stream` whose `field` is the entity, their number or the sum of a field.
pub struct WindowRule {
    pub stream: usize,
    pub field: &'static str,
    pub sum: Option<&'static str>,
    pub window: i64,
    pub tail: i64,
    pub head: i64,
}

/// The value at `instant`: of the timely events, each id once, with `floor(t - W, tail) <= ts < floor(t, head)`.
pub fn value(events: &[Event], rule: &WindowRule, entity: &str, instant: i64) -> i64 {
    let floor = |ts: i64, step: i64| ts.div_euclid(step) * step;
    let (from, until) = (floor(instant - rule.window, rule.tail), floor(instant, rule.head));
    let seen: BTreeMap<u128, &Event> = events
        .iter()
        .filter(|event| event.stream == rule.stream && event.fields[rule.field] == entity && !event.is_late())
        .filter(|event| from <= event.ts && event.ts < until)
        .map(|event| (event.id, event))
        .collect();
    seen.values().map(|event| rule.sum.map_or(1, |field| event.fields[field].as_i64().unwrap_or(0))).sum()
}
