//! Rows that leave early, by hand: which there are, at what instants, and what they know.

use super::world::*;
use super::{assert_rows, expected, simulate};

/// The rows as lanes and crashes give them, held against the oracle.
fn rows(setup: &Setup, logs: &Logs) -> Vec<String> {
    let expected = expected(setup, logs);
    for (lanes, seed) in [(&[1][..], 1), (&[3], 2), (&[2, 5, 1], 3)] {
        let (disk, _) = simulate(setup, logs, lanes, seed);
        assert_rows(&disk.sorted_rows(), &expected, &format!("{lanes:?} lanes"));
    }
    expected
}

fn cell(row: &str, name: &str) -> String {
    let cell = row.split_whitespace().find_map(|cell| cell.strip_prefix(&format!("{name}=")));
    cell.unwrap_or_else(|| panic!("no {name} in {row}")).to_string()
}

fn number(row: &str, name: &str) -> i64 {
    cell(row, name).parse().unwrap()
}

/// (kind, elapsed, clicks, buys, newest label) of an impression's rows, in their order.
fn story(setup: &Setup, logs: &Logs, request: &str) -> Vec<(String, i64, i64, i64, String)> {
    let rows = rows(setup, logs);
    let of_request = rows.iter().filter(|row| cell(row, "event_id") == request);
    let mut story: Vec<_> = of_request
        .map(|row| {
            let newest = cell(row, "label_ts");
            let newest = newest.parse::<i64>().map_or(newest, |ts| (ts - START).to_string());
            let counts = (number(row, "clicks_count"), number(row, "buys_count"));
            (cell(row, "emit_kind"), number(row, "elapsed_ms"), counts.0, counts.1, newest)
        })
        .collect();
    story.sort_by_key(|row| row.1);
    story
}

fn row(kind: &str, elapsed: i64, clicks: i64, buys: i64, newest: &str) -> (String, i64, i64, i64, String) {
    (kind.into(), elapsed, clicks, buys, newest.into())
}

fn early(mode: &'static str, from: i64, to: i64) -> Setup {
    Setup { emit: (mode, from, to), ..Setup::PLAIN }
}

/// One that is clicked at once and bought later, and one that nothing follows.
fn logs_by_hand() -> Logs {
    Logs::from([
        ((IMPRESSIONS, 0), vec![imp("a", "u", "i", 50_000), imp("b", "v", "i", 50_500)]),
        ((CLICKS, 0), vec![click("c", "a", "u", "i", 52_000)]),
        ((BUYS, 0), vec![buy("d", "a", "u", "i", 110_000, Some(3)), buy("d", "a", "u", "i", 110_000, Some(3))]),
    ])
}

#[test]
fn at_once_there_is_a_row_without_labels_and_one_more_for_each() {
    let (setup, logs) = (early("immediate", 0, 0), logs_by_hand());
    let known =
        [row("base", 0, 0, 0, "-"), row("positive", 2_000, 1, 0, "52000"), row("positive", 60_000, 1, 1, "110000")];
    assert_eq!(story(&setup, &logs, "a"), known);
    assert_eq!(story(&setup, &logs, "b"), [row("base", 0, 0, 0, "-")]);
}

#[test]
fn after_a_wait_the_first_row_knows_the_labels_until_then() {
    let (setup, logs) = (early("elapsed", 2_000, 2_000), logs_by_hand());
    let known = [row("base", 2_000, 1, 0, "52000"), row("positive", 60_000, 1, 1, "110000")];
    assert_eq!(story(&setup, &logs, "a"), known);
    assert_eq!(story(&setup, &logs, "b"), [row("base", 2_000, 0, 0, "-")]);
}

#[test]
fn what_nothing_has_followed_comes_again_as_a_real_negative() {
    let (setup, logs) = (early("defer", 5_000, 5_000), logs_by_hand());
    assert_eq!(story(&setup, &logs, "a").len(), 2, "it has labels");
    assert_eq!(story(&setup, &logs, "b"), [row("base", 5_000, 0, 0, "-"), row("negative", 150_000, 0, 0, "-")]);
}

#[test]
fn a_label_that_comes_late_makes_its_row_when_it_comes_and_one_that_changes_nothing_makes_none() {
    let mut logs = logs_by_hand();
    // The stream is at 90 s with a lateness of 3 s when a click of 53 s comes: that one is known from 87 s on.
    let clicks = [click("mover", "none", "x", "i", 90_000), click("late", "a", "u", "i", 53_000)];
    logs.get_mut(&(CLICKS, 0)).unwrap().extend(clicks);
    let known = story(&early("immediate", 0, 0), &logs, "a");
    assert_eq!(known[2], row("positive", 37_000, 2, 0, "53000"), "{known:?}");
    assert_eq!(known.len(), 4, "{known:?}");
}

#[test]
fn waits_are_drawn_evenly_and_alike_by_everyone() {
    let setup = early("elapsed", 1_000, 9_000);
    let imps: Vec<String> = (0..200).map(|number| imp(&format!("r{number}"), "u", "i", 50_000 + number)).collect();
    let logs = Logs::from([((IMPRESSIONS, 0), imps), ((CLICKS, 0), Vec::new()), ((BUYS, 0), Vec::new())]);
    let mut waits: Vec<i64> = rows(&setup, &logs).iter().map(|row| number(row, "elapsed_ms")).collect();
    waits.sort_unstable();
    assert_eq!(waits.len(), 200);
    assert!(waits[0] >= 1_000 && waits[199] <= 9_000, "{waits:?}");
    assert!((4_000..6_000).contains(&waits[100]), "the middle one waits {} ms", waits[100]);
}

#[test]
fn negatives_are_left_out_by_their_first_row_and_the_books_count_impressions() {
    let setup = Setup { negatives: true, features: false, ..early("immediate", 0, 0) };
    let logs = logs(&setup, 4, 200);
    let (disk, books) = simulate(&setup, &logs, &[2, 1, 3], 7);
    let anchor = books.counts.samples[0].anchor;
    let rows = disk.sorted_rows();
    let of = |kind: &str| rows.iter().filter(|row| cell(row, "emit_kind") == kind).count() as u64;
    assert!(anchor.balances() && anchor.pending == 0, "{anchor:?}");
    assert_eq!((anchor.emitted, books.file_rows), (of("base"), rows.len() as u64));
    assert!(anchor.sampled_out > anchor.emitted && of("positive") > 0, "{anchor:?}, {} positives", of("positive"));
    let weights: Vec<String> = rows.iter().map(|row| cell(row, "sample_weight")).collect();
    assert!(weights.iter().any(|weight| weight == "1") && weights.iter().any(|weight| weight.starts_with("3.3")));
}
