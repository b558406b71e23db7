//! The join by its definition: every label is held against every impression.

use crate::oracle::Event;
use std::collections::BTreeMap;

/// One label stream of a sample.
pub struct LabelRule {
    pub stream: usize,
    pub before: i64,
    pub within: i64,
}

/// An impression with its labels per rule, in the order of (time, id, content).
pub struct Joined<'a> {
    pub impression: &'a Event,
    pub labels: Vec<Vec<&'a Event>>,
}

pub fn join<'a>(events: &'a [Event], anchor: usize, rules: &[LabelRule]) -> Vec<Joined<'a>> {
    let longest = rules.iter().map(|rule| rule.within).max().unwrap_or(0);
    let timely = events.iter().filter(|event| event.stream == anchor && !event.is_late());
    let impressions: Vec<&Event> = best_by_id(timely, |event| (event.ts, event.content));
    let mut joined: Vec<Joined<'_>> =
        impressions.iter().map(|impression| Joined { impression, labels: vec![Vec::new(); rules.len()] }).collect();
    for (number, rule) in rules.iter().enumerate() {
        let labels = events.iter().filter(|event| event.stream == rule.stream);
        // Of exact copies the one that came first in time counts.
        for label in best_by_id(labels, came_at) {
            let open = |impression: &Event| {
                let delay = label.ts - impression.ts;
                impression.key == label.key
                    && -rule.before <= delay
                    && delay <= rule.within
                    && came_at(label) <= impression.ts + longest
            };
            let rank = |impression: &Event| (impression.ts > label.ts, (impression.ts - label.ts).abs(), impression.id);
            let best = joined.iter_mut().filter(|row| open(row.impression)).min_by_key(|row| rank(row.impression));
            if let Some(row) = best {
                row.labels[number].push(label);
            }
        }
    }
    for labels in joined.iter_mut().flat_map(|row| &mut row.labels) {
        labels.sort_by_key(|label| (label.ts, label.id, label.content));
    }
    joined
}

/// The watermark that an open impression must not have fallen behind: only that of a late label can be above its time.
pub fn came_at(label: &Event) -> i64 {
    label.watermark.max(label.ts)
}

fn best_by_id<'a, K: Ord>(events: impl Iterator<Item = &'a Event>, rank: impl Fn(&Event) -> K) -> Vec<&'a Event> {
    let mut best: BTreeMap<u128, &Event> = BTreeMap::new();
    for event in events {
        best.entry(event.id)
            .and_modify(|old| {
                if rank(event) < rank(old) {
                    *old = event
                }
            })
            .or_insert(event);
    }
    best.into_values().collect()
}
