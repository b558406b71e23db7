//! The join by its definition: every label is held against every impression.

use crate::oracle::Event;
use std::collections::BTreeMap;

/// One label stream of a sample.
pub struct LabelRule {
    pub stream: usize,
    pub before: i64,
    pub within: i64,
    /// The rule on whose labels these hang: `click_id` says which.
    pub on: Option<usize>,
}

/// An impression with its labels per rule, in the order of (time, id, content), each with the instant at which it is known.
pub struct Joined<'a> {
    pub impression: &'a Event,
    pub labels: Vec<Vec<(i64, &'a Event)>>,
}

/// Labels that come up to `correct` after their window correct the row.
pub fn join<'a>(events: &'a [Event], anchor: usize, rules: &[LabelRule], correct: i64) -> Vec<Joined<'a>> {
    let longest = longest(rules);
    let timely = events.iter().filter(|event| event.stream == anchor && !event.is_late());
    let impressions: Vec<&Event> = best_by_id(timely, |event| (event.ts, event.content));
    let mut joined: Vec<Joined<'_>> =
        impressions.iter().map(|impression| Joined { impression, labels: vec![Vec::new(); rules.len()] }).collect();
    for (number, rule) in rules.iter().enumerate() {
        let labels = events.iter().filter(|event| event.stream == rule.stream);
        // Of exact copies the one that came first in time counts.
        for label in best_by_id(labels, came_at) {
            let known = |row: &Joined<'_>| {
                let (base, since) = match rule.on {
                    None => (row.impression.key == label.key).then_some((row.impression.ts, i64::MIN))?,
                    Some(on) => {
                        let is_of = |other: &&(i64, &Event)| other.1.fields["event_id"] == label.fields["click_id"];
                        row.labels[on].iter().find(is_of).map(|(known, other)| (other.ts, *known))?
                    }
                };
                let (delay, end) = (label.ts - base, row.impression.ts + longest);
                let corrects_at = (came_at(label) + rule.before).max(end + 1);
                let own = match () {
                    _ if delay < -rule.before || delay > rule.within + correct => None,
                    _ if delay <= rule.within && came_at(label) <= end => Some(came_at(label)),
                    _ => (corrects_at <= end + correct).then_some(corrects_at),
                };
                Some(own?.max(since))
            };
            let rank = |known: i64, row: &Joined<'_>| {
                let (ts, id) = (row.impression.ts, row.impression.id);
                (known > ts + longest, ts > label.ts, (ts - label.ts).abs(), id)
            };
            let claims = joined.iter_mut().filter_map(|row| known(row).map(|known| (known, row)));
            if let Some((known, row)) = claims.min_by_key(|(known, row)| rank(*known, row)) {
                row.labels[number].push((known, label));
            }
        }
    }
    for labels in joined.iter_mut().flat_map(|row| &mut row.labels) {
        labels.sort_by_key(|(_, label)| (label.ts, label.id, label.content));
    }
    joined
}

/// How long after an impression the last label in its window may be.
pub fn longest(rules: &[LabelRule]) -> i64 {
    let reach = |rule: &LabelRule| rule.within + rule.on.map_or(0, |on| rules[on].within);
    rules.iter().map(reach).max().unwrap_or(0)
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
