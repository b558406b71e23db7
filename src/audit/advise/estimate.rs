//! Estimate: labels and impressions of one join become the distribution of its delays, and the windows that cover it.
//!
//!   log of labels   [begin ─────────────────────────────── end)
//!   impressions         [ old enough: counted ]  too young: their late labels are still to come, so none of theirs count
//!                                             └─ longest ─┘
//!
//! Of an impression that is younger than the longest delay looked for, early labels are here and late ones are not: with
//! them every delay would seem shorter than it is. So only impressions count that had all of that time; of those every
//! label is here, and the share of delays up to any time is what it seems.
//! In: rows with their keys, times and ids. Out: counts, sorted delays, windows with the interval they are sure within.
//! Holds: a label counts for one impression, that of its key which a join would choose if its window were as long.
//! Does not: read, know what anything costs.

use super::collect::Seen;
use super::read::Extent;
use crate::event::{DurationMs, EventTime, rank};
use serde::Serialize;

/// Deviations of a normal distribution that 95 % lie within.
const SURE: f64 = 1.96;

/// What a join looks for, beyond the windows that are configured.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    /// The longest delay of a label behind its impression.
    pub longest_ms: DurationMs,
    /// The longest time by which it comes ahead.
    pub ahead_ms: DurationMs,
}

/// What became of the labels of one join.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LabelsSeen {
    /// Without those that `where` turned away, and without copies.
    pub labels: u64,
    pub filtered: u64,
    /// Second rows of one id.
    pub duplicate: u64,
    /// They make the distribution.
    pub matched: u64,
    /// Matched to an impression that is too young, or older than the log of labels: not in the distribution.
    pub censored: u64,
    /// No impression of their key, though all that could be theirs were read.
    pub unmatched: u64,
    /// No impression of their key, but it may lie outside of what was read.
    pub unknown: u64,
}

/// The delays of one join.
#[derive(Debug)]
pub struct Delays {
    pub seen: LabelsSeen,
    /// Of labels that count, sorted: label time less impression time.
    pub delays: Vec<i64>,
    /// Of those that `before` lets in, sorted: the smallest `within` that takes the label in. It is more than the delay
    /// where the label came so late that its impression would have closed.
    needed: Vec<i64>,
}

/// The smallest window that covers a share of the labels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Window {
    pub coverage: f64,
    /// `null` when no window does: too many labels come further ahead than `before`.
    pub within_ms: Option<DurationMs>,
    /// The window of all labels there will ever be lies between these, at 95 %. Without the second one there were too few
    /// labels to bound it.
    pub sure_from_ms: Option<DurationMs>,
    pub sure_to_ms: Option<DurationMs>,
}

/// Sorts rows by key, time and id, each id once: of rows with one id the earliest stays. Gives how many left.
pub fn each_once(rows: &mut Vec<Seen>) -> u64 {
    let before = rows.len();
    rows.sort_unstable_by_key(|row| (row.key, row.id, row.ts, row.lag_ms));
    rows.dedup_by_key(|row| (row.key, row.id));
    rows.sort_unstable_by_key(|row| (row.key, row.ts, row.id));
    (before - rows.len()) as u64
}

/// Matches labels with impressions, both as [`each_once`] left them. `anchor` and `labels_in` say from when to when each
/// stream is known; `others_ms` is the longest window of the sample's other joins, `before_ms` that of this one.
pub fn delays_of(
    impressions: &[Seen],
    labels: &[Seen],
    (anchor, labels_in): (Extent, Extent),
    reach: Reach,
    (others_ms, before_ms): (DurationMs, DurationMs),
) -> Delays {
    let oldest = labels_in.from.map_or(EventTime::MIN, |from| from.saturating_add(reach.ahead_ms));
    let newest = labels_in.to.saturating_sub(reach.longest_ms);
    let known_from = anchor.from.map_or(EventTime::MIN, |from| from.saturating_add(reach.longest_ms));
    let known_to = anchor.to.saturating_sub(reach.ahead_ms);
    let mut found = Delays { seen: LabelsSeen::default(), delays: Vec::new(), needed: Vec::new() };
    found.seen.labels = labels.len() as u64;
    for label in labels {
        let Some(impression) = choose(impressions, label, reach) else {
            match (known_from..=known_to).contains(&label.ts) {
                true => found.seen.unmatched += 1,
                false => found.seen.unknown += 1,
            }
            continue;
        };
        if !(oldest..=newest).contains(&impression.ts) {
            found.seen.censored += 1;
            continue;
        }
        found.seen.matched += 1;
        let delay = label.ts - impression.ts;
        found.delays.push(delay);
        if delay >= -before_ms {
            let came_after = delay + i64::from(label.lag_ms);
            found.needed.push(if came_after <= others_ms { delay.max(0) } else { came_after.max(0) });
        }
    }
    found.delays.sort_unstable();
    found.needed.sort_unstable();
    found
}

/// The latest impression at or before the label, else the earliest after it.
fn choose<'a>(impressions: &'a [Seen], label: &Seen, reach: Reach) -> Option<&'a Seen> {
    let after = impressions.partition_point(|one| (one.key, one.ts) <= (label.key, label.ts));
    let before = after.checked_sub(1).and_then(|at| impressions.get(at));
    let before = before.filter(|one| one.key == label.key && label.ts - one.ts <= reach.longest_ms);
    let next = impressions.get(after);
    before.or(next.filter(|one| one.key == label.key && one.ts - label.ts <= reach.ahead_ms))
}

impl Delays {
    /// The share of labels that a window takes in; `None` without labels.
    pub fn coverage(&self, within_ms: DurationMs) -> Option<f64> {
        let inside = self.needed.partition_point(|needed| *needed <= within_ms);
        (!self.delays.is_empty()).then(|| inside as f64 / self.delays.len() as f64)
    }

    pub fn quantile(&self, share: f64) -> Option<i64> {
        Some(self.delays[rank(share, self.delays.len() as u64)? as usize - 1])
    }

    pub fn window(&self, coverage: f64) -> Window {
        let labels = self.delays.len() as f64;
        let at = |rank: f64| self.needed.get((rank as usize).saturating_sub(1)).copied();
        let spread = SURE * (labels * coverage * (1.0 - coverage)).sqrt();
        let within = rank(coverage, self.delays.len() as u64).map(|rank| rank as f64);
        Window {
            coverage,
            within_ms: within.and_then(at),
            sure_from_ms: within.and_then(|rank| at((rank - spread).floor().max(1.0))),
            sure_to_ms: within.and_then(|rank| at((rank + spread).ceil())),
        }
    }

    /// The labels that came ahead of their impressions, those further ahead than `before_ms`, and the `before` that all but
    /// one in a thousand labels need.
    pub fn ahead(&self, before_ms: DurationMs) -> (u64, u64, DurationMs) {
        let sooner = |than: i64| self.delays.partition_point(|delay| *delay < than) as u64;
        let needed = self.delays.get(self.delays.len() / 1_000).map_or(0, |delay| (-delay).max(0));
        (sooner(0), sooner(-before_ms), needed)
    }
}

/// The most rows that any span of time holds; `None` when what was read is no longer than that. `times` are sorted.
pub fn busiest(times: &[EventTime], span_ms: DurationMs) -> Option<u64> {
    let (first, last) = (times.first()?, times.last()?);
    if last - first < span_ms {
        return None;
    }
    let (mut most, mut from) = (0, 0);
    for (at, ts) in times.iter().enumerate() {
        while ts - times[from] > span_ms {
            from += 1;
        }
        most = most.max(at - from + 1);
    }
    Some(most as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: Extent = Extent { from: None, to: 1_000_000 };

    fn seen(key: u128, ts: EventTime, id: u64) -> Seen {
        Seen { key, ts, id, lag_ms: 0 }
    }

    fn reach(longest_ms: i64) -> Reach {
        Reach { longest_ms, ahead_ms: 100 }
    }

    #[test]
    fn a_label_goes_to_the_latest_impression_before_it_and_else_to_the_next_one() {
        let mut impressions = vec![seen(1, 0, 1), seen(1, 5_000, 2), seen(2, 9_000, 3), seen(1, 0, 1)];
        assert_eq!(each_once(&mut impressions), 1, "a copy");
        let mut labels =
            vec![seen(1, 4_999, 1), seen(1, 5_000, 2), seen(2, 8_950, 3), seen(2, 8_000, 4), seen(3, 1, 5)];
        each_once(&mut labels);
        let found = delays_of(&impressions, &labels, (ALL, ALL), reach(10_000), (0, 60));
        assert_eq!(found.delays, [-50, 0, 4_999]);
        assert_eq!((found.seen.matched, found.seen.unmatched, found.seen.unknown), (3, 2, 0), "{found:?}");
        assert_eq!(found.ahead(60), (1, 0, 50));
        assert_eq!(found.ahead(40), (1, 1, 50));
        // What comes ahead needs no `within`, if `before` lets it in.
        assert_eq!(
            (found.coverage(0), found.coverage(4_998), found.coverage(4_999)),
            (Some(2.0 / 3.0), Some(2.0 / 3.0), Some(1.0))
        );
        let shut_out = delays_of(&impressions, &labels, (ALL, ALL), reach(10_000), (0, 40));
        assert_eq!(shut_out.window(0.95).within_ms, None, "no window takes in what `before` keeps out");
    }

    #[test]
    fn what_lies_at_the_edges_of_the_log_does_not_count() {
        let impressions: Vec<Seen> = (0..100).map(|n| seen(n, n as i64 * 1_000, 0)).collect();
        // Each has a label a second later and one nine seconds later; the log ends at 100 s.
        let mut labels: Vec<Seen> = (0..100)
            .flat_map(|n| [seen(n, n as i64 * 1_000 + 1_000, 0), seen(n, n as i64 * 1_000 + 9_000, 1)])
            .filter(|label| label.ts < 100_000)
            .collect();
        each_once(&mut labels);
        let to_100 = Extent { from: None, to: 100_000 };
        let found = delays_of(&impressions, &labels, (to_100, to_100), reach(10_000), (0, 0));
        assert_eq!(found.coverage(1_000), Some(0.5), "as many come late as soon, also near the end");
        assert_eq!((found.seen.matched, found.seen.censored), (182, labels.len() as u64 - 182));
        // Read from the middle on: labels whose impressions lie before are not known to have none.
        let late: Vec<Seen> = impressions.iter().copied().filter(|one| one.ts >= 50_000).collect();
        let anchor = Extent { from: Some(50_000), ..to_100 };
        let found = delays_of(&late, &labels, (anchor, to_100), reach(10_000), (0, 0));
        assert_eq!((found.seen.unmatched, found.seen.matched + found.seen.censored > 0), (0, true), "{:?}", found.seen);
        assert!(found.seen.unknown > 90);
    }

    #[test]
    fn a_label_that_came_after_the_close_needs_a_longer_window() {
        let impressions = [seen(1, 0, 0)];
        let labels = [Seen { lag_ms: 700, ..seen(1, 1_000, 0) }];
        let found = |others| delays_of(&impressions, &labels, (ALL, ALL), reach(10_000), (others, 0)).window(0.95);
        assert_eq!(found(0).within_ms, Some(1_700));
        assert_eq!(found(1_699).within_ms, Some(1_700), "the impression has closed by then");
        assert_eq!(found(1_700).within_ms, Some(1_000), "another window holds it open");
    }

    #[test]
    fn the_busiest_span_is_found_and_none_is_made_up() {
        assert_eq!(busiest(&[0, 1, 2, 100, 101, 200], 2), Some(3));
        assert_eq!((busiest(&[0, 1], 2), busiest(&[], 2)), (None, None));
    }

    proptest! {
        /// The oracle: all delays, sorted and counted.
        #[test]
        fn the_smallest_window_covers_its_share_and_no_smaller_one_does(
            delays in prop::collection::vec(0_i64..5_000, 1..400),
            share in 0.01..=1.0_f64,
        ) {
            let impressions: Vec<Seen> = (0..delays.len()).map(|n| seen(n as u128, 0, 0)).collect();
            let labels: Vec<Seen> = delays.iter().enumerate().map(|(n, delay)| seen(n as u128, *delay, 0)).collect();
            let found = delays_of(&impressions, &labels, (ALL, ALL), reach(10_000), (0, 0));
            let window = found.window(share);
            let within = window.within_ms.unwrap();
            let covers = |within: i64| delays.iter().filter(|delay| **delay <= within).count() as f64 / delays.len() as f64;
            prop_assert!(covers(within) >= share - 1e-9 && covers(within - 1) < share);
            prop_assert_eq!(found.coverage(within), Some(covers(within)));
            prop_assert!(window.sure_from_ms.unwrap() <= within && window.sure_to_ms.is_none_or(|to| to >= within));
        }
    }
}
