//! Window: the one place where event time meets query time.
//!
//!            floor(t - W, tail)                    floor(t, head)   t
//!   ───────────────[■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■)─────────────┤
//!                  visible                             not yet
//!
//! Every resolution of a tile divides the tails of the windows that can still reach it, so a tile is wholly inside or
//! wholly outside of each of them and its first millisecond decides for all of it.
//! Holds: F10: nothing at or after `floor(t, head)` is visible at `t`.

use crate::event::{DurationMs, EventTime, floor_to};
use crate::feature::GroupSpec;
use std::ops::Range;

/// Event times must lie strictly within `±TIME_LIMIT` ms (285,000 years): rows outside are refused, instants are
/// clamped, and no sum of times and windows can overflow.
pub const TIME_LIMIT: EventTime = 1 << 53;

/// How many time buckets the longest window is spread over, about: blocks of state are dropped by the bucket.
const BUCKETS_PER_WINDOW: DurationMs = 48;
const LEVELS_MAX: usize = 256;

/// True when an event (or a tile that starts) at `ts` counts in the window `[start, head_end)`.
pub fn visible(ts: EventTime, start: EventTime, head_end: EventTime) -> bool {
    start <= ts && ts < head_end
}

/// The places `0..len`, ascending in time, that are [`visible`] in `[start, head_end)`.
pub fn visible_range(
    len: usize,
    time_of: impl Fn(usize) -> EventTime,
    start: EventTime,
    head_end: EventTime,
) -> Range<usize> {
    let until = first_at_or_after(len, &time_of, head_end);
    let from = first_at_or_after(until, &time_of, start);
    debug_assert!(
        from == until || visible(time_of(from), start, head_end) && visible(time_of(until - 1), start, head_end)
    );
    from..until
}

/// The first place whose time is not below `bound`; looks at the newest places first, where nearly all answers are.
pub fn first_at_or_after(len: usize, time_of: impl Fn(usize) -> EventTime, bound: EventTime) -> usize {
    let (mut low, mut high, mut step) = (0, len, 1);
    while high > 0 {
        let probe = high.saturating_sub(step);
        if time_of(probe) < bound {
            low = probe + 1;
            break;
        }
        high = probe;
        step *= 2;
    }
    while low < high {
        let middle = (low + high) / 2;
        if time_of(middle) < bound {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// The distinct windows of a group and the resolutions that follow from them.
#[derive(Debug)]
pub struct Windows {
    pub head_ms: DurationMs,
    /// Distinct (window, tail), longest first.
    pub distinct: Vec<(DurationMs, DurationMs)>,
    /// Divides head and every window: two instants with one floor to it see the same events.
    unit_ms: DurationMs,
    /// Width of the time buckets of state; a multiple of every resolution.
    pub bucket_ms: DurationMs,
    /// Lengths a tile may have; its level is an index into it. Level 0 is head.
    lengths: Vec<DurationMs>,
}

impl Windows {
    pub fn new(spec: &GroupSpec) -> Windows {
        let head_ms = spec.head_ms.clamp(1, TIME_LIMIT);
        let windows = spec.aggregates.iter().flat_map(|aggregate| &aggregate.windows);
        let mut distinct: Vec<_> = windows.map(|window| sane(head_ms, window.window_ms, window.tail_ms)).collect();
        distinct.sort_unstable_by(|a, b| b.cmp(a));
        distinct.dedup();
        let unit_ms = distinct.iter().fold(head_ms, |unit, &(window, _)| gcd(unit, window));
        let longest_tail = distinct.iter().map(|&(_, tail)| tail).max().unwrap_or(head_ms);
        let longest = distinct.first().map_or(head_ms, |&(window, _)| window);
        let bucket_ms = longest_tail * (longest / BUCKETS_PER_WINDOW).div_euclid(longest_tail).max(1);
        let lengths = lengths(head_ms, bucket_ms, &distinct);
        Windows { head_ms, distinct, unit_ms, bucket_ms, lengths }
    }

    /// The number of a window among the distinct ones.
    pub fn number(&self, window_ms: DurationMs, tail_ms: DurationMs) -> usize {
        let wanted = sane(self.head_ms, window_ms, tail_ms);
        self.distinct.iter().position(|&window| window == wanted).expect("the distinct windows list every window")
    }

    /// The representative of all instants that see what `instant` sees.
    pub fn instant(&self, instant: EventTime) -> EventTime {
        floor_to(instant.clamp(-TIME_LIMIT, TIME_LIMIT), self.unit_ms)
    }

    pub fn head_end(&self, instant: EventTime) -> EventTime {
        floor_to(instant.clamp(-TIME_LIMIT, TIME_LIMIT), self.head_ms)
    }

    pub fn start(&self, number: usize, instant: EventTime) -> EventTime {
        let (window, tail) = self.distinct[number];
        floor_to(instant.clamp(-TIME_LIMIT, TIME_LIMIT) - window, tail)
    }

    /// The time bucket of state that holds `ts`.
    pub fn bucket_of(&self, ts: EventTime) -> EventTime {
        floor_to(ts, self.bucket_ms)
    }

    /// The start of the slot of head resolution that holds `ts`.
    pub fn slot(&self, ts: EventTime) -> EventTime {
        floor_to(ts, self.head_ms)
    }

    /// The first instant at which an event at `ts` is visible to windows that are long enough.
    pub fn appears(&self, ts: EventTime) -> EventTime {
        self.slot(ts) + self.head_ms
    }

    /// The first instant at which an event at `ts` has left the window.
    pub fn leaves(&self, number: usize, ts: EventTime) -> EventTime {
        let (window, tail) = self.distinct[number];
        floor_to(ts, tail) + tail + window
    }

    pub fn length(&self, level: u8) -> DurationMs {
        self.lengths[level as usize]
    }

    pub fn level_of(&self, length: DurationMs) -> Option<u8> {
        self.lengths.iter().position(|&known| known == length).map(|level| level as u8)
    }

    pub fn longest_tail(&self) -> DurationMs {
        self.distinct.iter().map(|&(_, tail)| tail).max().unwrap_or(self.head_ms)
    }

    /// The time before which no window looks at `instant` or later.
    pub fn horizon(&self, instant: EventTime) -> EventTime {
        (0..self.distinct.len()).map(|number| self.start(number, instant)).min().unwrap_or(TIME_LIMIT)
    }

    /// What may be merged and dropped when nothing is asked before `needed` and everything was published `through`.
    pub fn ladder(&self, needed: EventTime, through: EventTime) -> Ladder {
        let mut starts: Vec<_> =
            (0..self.distinct.len()).map(|number| (self.start(number, needed), self.distinct[number].1)).collect();
        starts.sort_unstable();
        let mut steps: Vec<(EventTime, u8)> = Vec::with_capacity(starts.len());
        let mut common = self.bucket_ms;
        for (place, &(_, tail)) in starts.iter().enumerate() {
            common = gcd(common, tail);
            let limit = starts.get(place + 1).map_or(self.head_end(needed), |&(start, _)| start);
            let upto = floor_to(limit, common);
            if steps.last().is_none_or(|&(last, _)| last < upto) {
                steps.push((upto, self.level_of(common).unwrap_or(0)));
            }
        }
        Ladder { drop_before: self.horizon(needed.min(through)), head_end: self.head_end(needed), steps }
    }
}

/// Guards the arithmetic of times against windows that no configuration check lets pass.
fn sane(head_ms: DurationMs, window_ms: DurationMs, tail_ms: DurationMs) -> (DurationMs, DurationMs) {
    debug_assert!(tail_ms % head_ms == 0, "a tail of {tail_ms} ms is no multiple of the head of {head_ms} ms");
    (window_ms.clamp(1, TIME_LIMIT), tail_ms.clamp(head_ms, TIME_LIMIT))
}

/// Head first, then every greatest common divisor that some set of windows can have.
fn lengths(head_ms: DurationMs, bucket_ms: DurationMs, distinct: &[(DurationMs, DurationMs)]) -> Vec<DurationMs> {
    let mut lengths = vec![head_ms];
    for &(_, tail) in distinct {
        let tail = gcd(tail, bucket_ms);
        for place in 0..lengths.len() {
            let both = gcd(lengths[place], tail);
            if !lengths.contains(&both) {
                lengths.push(both);
            }
        }
        if !lengths.contains(&tail) {
            lengths.push(tail);
        }
    }
    // Beyond that many, tiles simply stay at head resolution: `Windows::ladder` finds no level for the others.
    lengths.truncate(LEVELS_MAX);
    lengths
}

fn gcd(mut a: i64, mut b: i64) -> i64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Which tiles may be merged to which resolution, and which are out of every reach.
#[derive(Debug)]
pub struct Ladder {
    /// Tiles that start before it can be seen by nobody any more.
    pub drop_before: EventTime,
    /// What starts before it is visible at every instant that will be asked for.
    pub head_end: EventTime,
    /// Slots before the time may have the level; ascending, resolutions ever finer.
    steps: Vec<(EventTime, u8)>,
}

impl Ladder {
    pub fn level(&self, slot: EventTime) -> Option<u8> {
        self.steps.iter().find(|&&(upto, _)| slot < upto).map(|&(_, level)| level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f10_the_window_is_closed_at_its_start_and_open_at_its_head() {
        assert!(visible(10, 10, 20));
        assert!(visible(19, 10, 20));
        assert!(!visible(20, 10, 20));
        assert!(!visible(9, 10, 20));
    }

    #[test]
    fn galloping_finds_what_a_scan_finds() {
        let times = [-7, -3, -3, 0, 2, 2, 2, 9];
        for len in 0..=times.len() {
            for bound in -9..11 {
                let expected = times[..len].iter().position(|&ts| ts >= bound).unwrap_or(len);
                assert_eq!(first_at_or_after(len, |place| times[place], bound), expected, "{len} {bound}");
            }
        }
    }

    #[test]
    fn older_slots_may_be_coarser_because_fewer_windows_reach_them() {
        let windows = Windows {
            head_ms: 1_000,
            distinct: vec![(3_600_000, 60_000), (600_000, 10_000)],
            unit_ms: 1_000,
            bucket_ms: 60_000,
            lengths: lengths(1_000, 60_000, &[(3_600_000, 60_000), (600_000, 10_000)]),
        };
        let now = 10_000_000;
        let ladder = windows.ladder(now, now);
        let length = |slot| ladder.level(slot).map(|level| windows.length(level));
        assert_eq!(ladder.drop_before, 6_360_000);
        assert_eq!(length(now - 1_000_000), Some(60_000));
        assert_eq!(length(now - 500_000), Some(10_000));
        assert_eq!(length(now), None);
    }
}
