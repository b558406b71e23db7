//! Status: the one line a person sees while a pipeline runs.
//!
//!   12 s  152 k events/s  1.20 M pending  3.40 M emitted (10.1 % joined)  behind 5.2 s  12 dead letters  commit 7
//!
//! In: two moments of a run. Out: one line, without colour or control characters.
//! Does not: print, or know how wide the terminal is.

use super::human::{human_count, human_duration_ms, human_percent};

/// A moment of a run, over all streams and samples.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct RunMoment {
    /// Monotonic time since the run began.
    pub elapsed_ms: u64,
    /// Records read since the run began.
    pub events: u64,
    pub pending: u64,
    pub emitted: u64,
    /// Of those emitted, rows to which a label was attached; `None` where no sample joins.
    pub joined: Option<u64>,
    pub late: u64,
    pub dead_letters: u64,
    /// Wall time minus the cell's watermark; `None` before the first record and after the end.
    pub behind_ms: Option<i64>,
    /// Number of the last manifest.
    pub commit: Option<u64>,
}

/// The line for `now`; the rate is that since `before`.
pub fn status_line(before: &RunMoment, now: &RunMoment) -> String {
    let mut parts = vec![
        human_duration_ms((now.elapsed_ms / 1000 * 1000) as i64),
        format!("{} events/s", human_count(events_per_second(before, now) as u64)),
        format!("{} pending", human_count(now.pending)),
        match now.joined {
            Some(joined) if now.emitted > 0 => {
                format!("{} emitted ({} joined)", human_count(now.emitted), human_percent(joined, now.emitted))
            }
            _ => format!("{} emitted", human_count(now.emitted)),
        },
    ];
    if let Some(behind_ms) = now.behind_ms {
        parts.push(format!("behind {}", human_duration_ms(behind_ms)));
    }
    if now.late > 0 {
        parts.push(format!("{} late", human_count(now.late)));
    }
    if now.dead_letters > 0 {
        let plural = if now.dead_letters == 1 { "" } else { "s" };
        parts.push(format!("{} dead letter{plural}", human_count(now.dead_letters)));
    }
    if let Some(commit) = now.commit {
        parts.push(format!("commit {commit}"));
    }
    parts.join("  ")
}

/// Records per second between two moments; 0 where no time passed.
pub fn events_per_second(before: &RunMoment, now: &RunMoment) -> f64 {
    match now.elapsed_ms.saturating_sub(before.elapsed_ms) {
        0 => 0.0,
        ms => now.events.saturating_sub(before.events) as f64 * 1e3 / ms as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_start_is_a_short_line() {
        let start = RunMoment::default();
        assert_eq!(status_line(&start, &start), "0 ms  0 events/s  0 pending  0 emitted");
    }

    #[test]
    fn a_busy_line_says_what_matters() {
        let before = RunMoment { elapsed_ms: 10_000, events: 1_000_000, ..Default::default() };
        let now = RunMoment {
            elapsed_ms: 12_345,
            events: 1_356_440,
            pending: 1_200_000,
            emitted: 3_400_000,
            joined: Some(343_400),
            late: 3,
            dead_letters: 1,
            behind_ms: Some(5_250),
            commit: Some(7),
        };
        assert_eq!(
            status_line(&before, &now),
            "12 s  152 k events/s  1.20 M pending  3.40 M emitted (10.1 % joined)  behind 5.2 s  3 late  1 dead letter  commit 7"
        );
    }

    #[test]
    fn a_clock_that_stands_still_divides_nothing_by_zero() {
        let now = RunMoment { events: 5, ..Default::default() };
        assert_eq!(events_per_second(&RunMoment::default(), &now), 0.0);
    }
}
