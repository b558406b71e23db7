//! Books: the accounts of a pipeline, split over the cells that go on with it.
//!
//!   old cells ── sum ──> the whole ── split ──> each new cell: what it holds, and as much history as balances its streams
//!                                       └────> cell 0: the rest of the history
//!
//! Holds: the parts add up to the whole, account by account, and each of them balances as a manifest must (F1): the rows
//! that a stream accepted are those that each of its uses accounts for.
//! Pure: numbers in, numbers out.

use crate::config::Plan;
use crate::event::{
    AnchorAccount, FeatureAccount, GroupCounts, LabelAccount, LaneCounts, SampleCounts, StreamAccount, StreamId, Totals,
};

/// All accounts of a cell, or of a whole pipeline.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Books {
    /// By number of the stream.
    pub streams: Vec<StreamAccount>,
    pub counts: LaneCounts,
    pub totals: Totals,
    /// Dead letters of streams that are gone.
    pub dead_letters_gone: u64,
}

impl Books {
    pub fn add(&mut self, other: &Books) {
        crate::event::add_all(&mut self.streams, other.streams.as_slice());
        self.counts.add(&other.counts);
        self.totals += other.totals;
        self.dead_letters_gone += other.dead_letters_gone;
    }
}

/// Which streams feed which accounts.
#[derive(Clone, Debug, Default)]
pub struct Uses {
    pub streams: usize,
    /// Per sample its anchor stream and its label streams.
    pub samples: Vec<(StreamId, Vec<StreamId>)>,
    /// Per group the stream of each use.
    pub groups: Vec<Vec<StreamId>>,
}

impl Uses {
    pub fn of(plan: &Plan) -> Uses {
        let labels = |sample: &crate::config::SamplePlan| sample.join.labels.iter().map(|label| label.stream).collect();
        Uses {
            streams: plan.streams.len(),
            samples: plan.samples.iter().map(|sample| (sample.join.anchor, labels(sample))).collect(),
            groups: plan.groups.iter().map(|group| group.uses.iter().map(|used| used.stream).collect()).collect(),
        }
    }
}

/// Splits `whole` over cells that hold what `held` says. The parts begin with history alone: what is held comes on top.
pub fn split(whole: &Books, held: &[LaneCounts], uses: &Uses) -> Result<Vec<Books>, String> {
    check_held(whole, held)?;
    let mut rest = Books { counts: whole.counts.without_held(), ..whole.clone() };
    rest.counts.samples.resize(uses.samples.len(), SampleCounts::default());
    rest.counts.groups.resize(uses.groups.len(), GroupCounts::default());
    let mut others = Vec::new();
    for (number, held) in held.iter().enumerate().skip(1) {
        let accepted = least_accepted(held, uses);
        let part = draw(&mut rest, held, &accepted, uses);
        others.push(part.ok_or_else(|| format!("cell {number} holds more than the streams say that came"))?);
    }
    let mut parts = vec![rest];
    parts.extend(others);
    for (number, (part, held)) in parts.iter().zip(held).enumerate() {
        check_part(part, held, uses).map_err(|found| format!("cell {number}: {found}"))?;
    }
    Ok(parts)
}

/// Rows pending and, per label, labels waiting. Zeros at the end are left out: a chain without a commit has no account of
/// any label yet.
fn held_of(counts: &LaneCounts, sample: usize) -> (u64, Vec<u64>) {
    let Some(sample) = counts.samples.get(sample) else { return (0, Vec::new()) };
    let waiting: Vec<u64> = sample.labels.iter().map(|label| label.waiting).collect();
    let last = waiting.iter().rposition(|waiting| *waiting > 0);
    (sample.anchor.pending, waiting[..last.map_or(0, |last| last + 1)].to_vec())
}

/// What the new cells hold is what the old ones held.
fn check_held(whole: &Books, held: &[LaneCounts]) -> Result<(), String> {
    let mut sum = LaneCounts::default();
    held.iter().for_each(|counts| sum.add(counts));
    for sample in 0..whole.counts.samples.len() {
        let ((pending, waiting), (now_pending, now_waiting)) = (held_of(&whole.counts, sample), held_of(&sum, sample));
        if (pending, &waiting) != (now_pending, &now_waiting) {
            return Err(format!(
                "sample {sample} had {pending} rows pending and {waiting:?} labels waiting, read back were {now_pending} and \
                 {now_waiting:?}"
            ));
        }
    }
    Ok(())
}

/// Per stream, how many rows a cell must have accepted to hold what it holds. A row is held once by each of its uses, and
/// all uses of a stream deal its rows out alike, so there are as many.
fn least_accepted(held: &LaneCounts, uses: &Uses) -> Vec<u64> {
    let mut accepted = vec![0; uses.streams];
    for (sample, (anchor, labels)) in uses.samples.iter().enumerate() {
        let (pending, waiting) = held_of(held, sample);
        let of_streams = std::iter::once((anchor, pending)).chain(labels.iter().zip(waiting));
        for (stream, rows) in of_streams {
            let most = &mut accepted[*stream as usize];
            *most = rows.max(*most);
        }
    }
    accepted
}

/// Takes out of the history what a cell needs beside what it holds; `None` when there is not enough.
fn draw(from: &mut Books, held: &LaneCounts, accepted: &[u64], uses: &Uses) -> Option<Books> {
    let mut part = Books::default();
    part.counts.frontier = from.counts.frontier;
    for (stream, &rows) in accepted.iter().enumerate() {
        let whole = from.streams.get_mut(stream)?;
        whole.accepted = whole.accepted.checked_sub(rows)?;
        whole.consumed = whole.consumed.checked_sub(rows)?;
        part.streams.push(StreamAccount { consumed: rows, accepted: rows, ..StreamAccount::default() });
    }
    for (number, (anchor, labels)) in uses.samples.iter().enumerate() {
        let (pending, waiting) = held_of(held, number);
        let whole = &mut from.counts.samples[number];
        whole.labels.resize(labels.len(), LabelAccount::default());
        // Delays cannot be told apart by cell: they stay with the rest, once.
        let mut sample =
            SampleCounts { labels: Vec::new(), delays: Vec::new(), anchor: AnchorAccount::default(), ..whole.clone() };
        sample.anchor = draw_anchor(&mut whole.anchor, accepted[*anchor as usize] - pending)?;
        for (label, stream) in labels.iter().enumerate() {
            let waiting = waiting.get(label).copied().unwrap_or(0);
            sample.labels.push(draw_label(&mut whole.labels[label], accepted[*stream as usize] - waiting)?);
        }
        part.counts.samples.push(sample);
    }
    for (number, streams) in uses.groups.iter().enumerate() {
        let whole = &mut from.counts.groups[number];
        whole.uses.resize(streams.len(), FeatureAccount::default());
        let drawn = streams.iter().zip(&mut whole.uses);
        let drawn = drawn.map(|(stream, account)| draw_feature(account, accepted[*stream as usize]));
        part.counts.groups.push(GroupCounts { uses: drawn.collect::<Option<_>>()?, ..GroupCounts::default() });
    }
    Some(part)
}

/// Moves up to `left` out of one count.
fn take(from: &mut u64, left: &mut u64) -> u64 {
    let rows = (*from).min(*left);
    *from -= rows;
    *left -= rows;
    rows
}

fn draw_anchor(from: &mut AnchorAccount, mut left: u64) -> Option<AnchorAccount> {
    let mut part = AnchorAccount {
        emitted: take(&mut from.emitted, &mut left),
        sampled_out: take(&mut from.sampled_out, &mut left),
        late: take(&mut from.late, &mut left),
        duplicate: take(&mut from.duplicate, &mut left),
        conflict: take(&mut from.conflict, &mut left),
        ..AnchorAccount::default()
    };
    part.applied = part.emitted + part.sampled_out;
    from.applied -= part.applied;
    (left == 0).then_some(part)
}

fn draw_label(from: &mut LabelAccount, mut left: u64) -> Option<LabelAccount> {
    let mut part = LabelAccount {
        attached: take(&mut from.attached, &mut left),
        corrected: take(&mut from.corrected, &mut left),
        out_of_window: take(&mut from.out_of_window, &mut left),
        expired_unmatched: take(&mut from.expired_unmatched, &mut left),
        filtered: take(&mut from.filtered, &mut left),
        late: take(&mut from.late, &mut left),
        duplicate: take(&mut from.duplicate, &mut left),
        conflict: take(&mut from.conflict, &mut left),
        ..LabelAccount::default()
    };
    part.applied = part.attached + part.corrected + part.out_of_window + part.expired_unmatched;
    from.applied -= part.applied;
    (left == 0).then_some(part)
}

fn draw_feature(from: &mut FeatureAccount, mut left: u64) -> Option<FeatureAccount> {
    let part = FeatureAccount {
        applied: take(&mut from.applied, &mut left),
        masked: take(&mut from.masked, &mut left),
        duplicate: take(&mut from.duplicate, &mut left),
        late: take(&mut from.late, &mut left),
    };
    (left == 0).then_some(part)
}

/// F1 of one cell.
fn check_part(part: &Books, held: &LaneCounts, uses: &Uses) -> Result<(), String> {
    let mut counts = part.counts.clone();
    counts.add(held);
    let unbalanced = |what: String| Err(format!("the account of {what} does not add up"));
    let accepted = |stream: StreamId| part.streams.get(stream as usize).map_or(0, |stream| stream.accepted);
    if let Some(stream) = part.streams.iter().position(|stream| !stream.balances()) {
        return unbalanced(format!("stream {stream}"));
    }
    for (number, (anchor, labels)) in uses.samples.iter().enumerate() {
        let sample = &counts.samples[number];
        if !sample.anchor.balances() || sample.anchor.accepted() != accepted(*anchor) {
            return unbalanced(format!("sample {number} ({:?} of {} rows)", sample.anchor, accepted(*anchor)));
        }
        for (label, stream) in sample.labels.iter().zip(labels) {
            if !label.balances() || label.accepted() != accepted(*stream) {
                return unbalanced(format!("a label of sample {number} ({label:?} of {} rows)", accepted(*stream)));
            }
        }
    }
    for (number, streams) in uses.groups.iter().enumerate() {
        for (account, stream) in counts.groups[number].uses.iter().zip(streams) {
            if account.accepted() != accepted(*stream) {
                return unbalanced(format!("group {number} ({account:?} of {} rows)", accepted(*stream)));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Streams 0 (anchor of two samples and source of a group), 1 (label of both), 2 (label of the second).
    fn uses() -> Uses {
        Uses { streams: 3, samples: vec![(0, vec![1]), (0, vec![1, 2])], groups: vec![vec![0, 1], vec![2]] }
    }

    /// Rows of one stream, by the cell that their key falls into, with how many of them each of `count` uses holds.
    fn stream(cells: usize, count: usize) -> impl Strategy<Value = Vec<(u64, Vec<u64>)>> {
        let cell = (0_u64..50).prop_flat_map(move |rows| (Just(rows), prop::collection::vec(0..=rows, count)));
        prop::collection::vec(cell, cells)
    }

    fn anchor(held: u64, total: u64, cut: &[u64; 3]) -> AnchorAccount {
        let mut left = total - held;
        let mut part = |share: u64| take(&mut { share }, &mut left);
        let (duplicate, conflict, late) = (part(cut[0]), part(cut[1]), part(cut[2]));
        let (sampled_out, emitted) = (left / 3, left - left / 3);
        let applied = held + sampled_out + emitted;
        AnchorAccount { duplicate, conflict, late, applied, pending: held, emitted, sampled_out }
    }

    fn label(held: u64, total: u64, cut: &[u64; 3]) -> LabelAccount {
        let mut left = total - held;
        let mut part = |share: u64| take(&mut { share }, &mut left);
        let (filtered, duplicate, late, conflict) = (part(cut[0]), part(cut[1]), part(cut[2]), part(cut[0] / 2));
        let (attached, out_of_window) = (left / 2, (left - left / 2) / 2);
        let corrected = (left - attached - out_of_window) / 2;
        let expired_unmatched = left - attached - corrected - out_of_window;
        let applied = held + attached + corrected + out_of_window + expired_unmatched;
        LabelAccount {
            filtered,
            duplicate,
            conflict,
            late,
            applied,
            waiting: held,
            attached,
            corrected,
            out_of_window,
            expired_unmatched,
        }
    }

    proptest! {
        #[test]
        fn f1_parts_balance_and_add_up_to_the_whole(
            anchors in stream(4, 2),
            clicks in stream(4, 2),
            buys in stream(4, 1),
            extra in (0_u64..40, 0_u64..40, 0_u64..40),
            cut in prop::array::uniform3(0_u64..30),
            cells in 1_usize..=4,
        ) {
            let total = |rows: &[(u64, Vec<u64>)], extra: u64| rows.iter().map(|(rows, _)| rows).sum::<u64>() + extra;
            let held_in = |rows: &[(u64, Vec<u64>)], of: usize| rows.iter().map(|(_, held)| held[of]).sum::<u64>();
            let totals = [total(&anchors, extra.0), total(&clicks, extra.1), total(&buys, extra.2)];
            let mut delays = vec![crate::event::DelaySketch::default(); 2];
            cut.iter().for_each(|delay| delays[1].add(*delay as i64));
            let counts = |anchor_held: [u64; 2], click_held: [u64; 2], buy_held: u64| {
                let sample = |anchor: AnchorAccount, labels: Vec<LabelAccount>| SampleCounts {
                    anchor, labels, delays: delays.clone(), closed_through: Some(3), filed_through: Some(3),
                    emitted_through: None, memory_bytes: 0, memory: Default::default(),
                };
                let samples = vec![
                    sample(anchor(anchor_held[0], totals[0], &cut), vec![label(click_held[0], totals[1], &cut)]),
                    sample(
                        anchor(anchor_held[1], totals[0], &cut),
                        vec![label(click_held[1], totals[1], &cut), label(buy_held, totals[2], &cut)],
                    ),
                ];
                let feature = |total: u64| {
                    let late = cut[0].min(total);
                    FeatureAccount { late, applied: total - late, ..FeatureAccount::default() }
                };
                let group = |uses: Vec<FeatureAccount>| GroupCounts { uses, ..GroupCounts::default() };
                let groups = vec![group(vec![feature(totals[0]), feature(totals[1])]), group(vec![feature(totals[2])])];
                LaneCounts { frontier: 7, samples, groups }
            };
            let whole = Books {
                streams: totals.iter().map(|&rows| StreamAccount {
                    records: rows, consumed: rows + 5, filtered: 2, dead_lettered: 3, accepted: rows,
                }).collect(),
                counts: counts(
                    [held_in(&anchors, 0), held_in(&anchors, 1)],
                    [held_in(&clicks, 0), held_in(&clicks, 1)],
                    held_in(&buys, 0),
                ),
                totals: Totals { dead_letter_rows: 9, ..Totals::default() },
                dead_letters_gone: 2,
            };
            // Cells beyond `cells` fall together into the last one, as with fewer partitions.
            let mut held = vec![LaneCounts::default(); cells];
            for cell in 0..4 {
                let sample = |pending, waiting: Vec<u64>| SampleCounts {
                    anchor: AnchorAccount { applied: pending, pending, ..AnchorAccount::default() },
                    labels: waiting.into_iter().map(|waiting| {
                        LabelAccount { applied: waiting, waiting, ..LabelAccount::default() }
                    }).collect(),
                    ..SampleCounts::default()
                };
                let own = LaneCounts { samples: vec![
                    sample(anchors[cell].1[0], vec![clicks[cell].1[0]]),
                    sample(anchors[cell].1[1], vec![clicks[cell].1[1], buys[cell].1[0]]),
                ], ..LaneCounts::default() };
                held[cell.min(cells - 1)].add(&own);
            }
            let parts = split(&whole, &held, &uses()).map_err(TestCaseError::fail)?;
            let mut sum = Books::default();
            for (part, held) in parts.iter().zip(&held) {
                sum.add(part);
                sum.counts.add(held);
            }
            prop_assert_eq!(&sum.streams, &whole.streams);
            prop_assert_eq!((sum.totals, sum.dead_letters_gone), (whole.totals, whole.dead_letters_gone));
            for (sum, whole) in sum.counts.samples.iter().zip(&whole.counts.samples) {
                prop_assert_eq!(sum.anchor, whole.anchor);
                prop_assert_eq!(&sum.labels, &whole.labels);
                prop_assert_eq!(&sum.delays, &whole.delays);
            }
            for (sum, whole) in sum.counts.groups.iter().zip(&whole.counts.groups) {
                prop_assert_eq!(&sum.uses, &whole.uses);
            }
        }
    }

    #[test]
    fn rows_that_were_lost_on_the_way_are_refused() {
        let sample = |pending| SampleCounts {
            anchor: AnchorAccount { applied: pending, pending, ..AnchorAccount::default() },
            labels: vec![LabelAccount::default()],
            ..SampleCounts::default()
        };
        let whole = Books {
            streams: vec![StreamAccount { consumed: 3, accepted: 3, ..StreamAccount::default() }; 2],
            counts: LaneCounts { samples: vec![sample(3)], ..LaneCounts::default() },
            ..Books::default()
        };
        let uses = Uses { streams: 2, samples: vec![(0, vec![1])], groups: Vec::new() };
        let held = LaneCounts { samples: vec![sample(2)], ..LaneCounts::default() };
        let error = split(&whole, &[held], &uses).unwrap_err();
        assert!(error.contains("3 rows pending") && error.contains("read back were 2"), "{error}");
    }
}
