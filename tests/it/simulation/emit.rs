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
fn what_comes_after_the_window_corrects_the_row_that_has_left() {
    let mut logs = logs_by_hand();
    // One of 25 s, whose window ends after 20; one of 155 s, when all windows are over; one too late for `correct_for`.
    let clicks = [
        click("late", "a", "u", "i", 75_000),
        click("later", "b", "v", "i", 205_500),
        click("no", "b", "v", "i", 311_000),
    ];
    logs.get_mut(&(CLICKS, 0)).unwrap().extend(clicks);
    let setup = Setup { correct_ms: 240_000, ..Setup::PLAIN };
    // No impression can come any more that the click is up to 3 s ahead of: then it is decided which one it corrects. What
    // corrects leaves after what it corrects.
    let known = [row("base", 150_000, 1, 1, "110000"), row("correction", 150_001, 2, 1, "110000")];
    assert_eq!(story(&setup, &logs, "a"), known);
    let known = [
        row("base", 150_000, 0, 0, "-"),
        row("correction", 155_000, 1, 0, "205500"),
        row("correction", 158_000, 1, 0, "205500"),
    ];
    assert_eq!(story(&setup, &logs, "b"), known, "first through the joins without, then through those with `before`");
}

#[test]
fn rows_of_mode_wait_are_the_same_with_corrections_and_without() {
    let setup = Setup { shared_keys: true, features: false, ..Setup::PLAIN };
    let corrected = Setup { correct_ms: 60_000, ..setup };
    let logs = logs(&corrected, 3, 60);
    let plain = expected(&setup, &logs);
    let columns = ["event_id", "impression_ts", "label_ts", "emit_ts", "elapsed_ms", "emit_kind", "sample_weight"];
    let is_plain = |cell: &&str| !columns.iter().any(|column| cell.starts_with(&format!("{column}=")));
    let all = rows(&corrected, &logs);
    let mut base: Vec<String> = all
        .iter()
        .filter(|row| cell(row, "emit_kind") == "base")
        .map(|row| row.split(' ').filter(is_plain).collect::<Vec<_>>().join(" "))
        .collect();
    base.sort();
    assert_eq!(base, plain);
    assert!(all.len() > base.len(), "nothing was corrected");
}

#[test]
fn a_label_of_a_label_follows_it_to_its_impression_and_its_window_begins_there() {
    let setup = Setup { shared_keys: true, ..Setup::PLAIN };
    let of = |click: &str, event: &str, ts: i64| buy_of(Some(click), event, "", "u", "i", ts, Some(1));
    let logs = Logs::from([
        ((IMPRESSIONS, 0), vec![imp("a", "u", "i", 50_000), imp("b", "u", "i", 60_000)]),
        ((CLICKS, 0), vec![click("ca", "", "u", "i", 59_000), click("cb", "", "u", "i", 61_000)]),
        // The first is nearer to the other impression, and 69 s from its own; the next is a moment too late for its click.
        (
            (BUYS, 0),
            vec![
                of("ca", "one", 119_000),
                of("ca", "two", 119_001),
                of("cb", "three", 90_000),
                of("no", "four", 62_000),
            ],
        ),
    ]);
    let rows = rows(&setup, &logs);
    let of_click = |request: &str| {
        let row = rows.iter().find(|row| cell(row, "request_id") == request).unwrap();
        (cell(row, "of_click_count"), cell(row, "of_listed_event_id"))
    };
    assert_eq!(of_click("a"), ("1".into(), "-".into()));
    assert_eq!(of_click("b"), ("1".into(), "-".into()));
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
