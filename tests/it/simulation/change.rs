//! Change: pipelines whose file changes between two lives, with rows pending, at other numbers of lanes, after a crash or a
//! stop, and with lives that die as soon as they have claimed.
//!
//! Of a change the oracle is told the time that the manifest has (one past the newest event that was read) and which rows
//! were written under which file; everything else it knows by definition.

use super::harness::{Claimed, Faults, Halt, World};
use super::world::*;
use super::{WINDOWS, expected, expected_from, seeds};
use conjoin::commit::Layout;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};

/// Without the group `user`; it comes back in front of `item`.
const NO_USER: &[(&str, &str)] = &[
    (
        "  user:\n    entity: user_id\n    aggregates:\n      u_imps: { from: impressions, count: \"*\", windows: [10s, 60s] }\n      \
      u_clicks: { from: clicks, count: \"*\", windows: [60s] }\n      u_value: { from: buys, sum: value, windows: [60s] }\n",
        "",
    ),
    ("features: [user, item]", "features: [item]"),
];
const ONE_COLUMN_MORE: &[(&str, &str)] =
    &[("features: [user, item]", "features: [user, item]\n    columns: { bought: \"buys.count > 0\" }")];
const SHORTER_WINDOW: &[(&str, &str)] =
    &[("within: 150s, before: 5s, take: count", "within: 100s, before: 5s, take: count")];
const OTHER_CLICKS: &[(&str, &str)] = &[(
    "u_clicks: { from: clicks, count: \"*\", windows: [60s] }",
    "u_clicks: { from: clicks, count: \"*\", where: \"item_id <> 'i0'\", windows: [60s] }",
)];
const ONE_SAMPLE_MORE: &[(&str, &str)] = &[(
    "samples:\n",
    "samples:\n  more:\n    from: impressions\n    serving_lag: 3s\n    join:\n      first: { stream: clicks, within: 20s, \
     before: 3s, take: first, select: [event_id] }\n      buys: { stream: buys, within: 150s, before: 5s, take: count }\n    \
     features: [item]\n    write: { parquet: { path: files-more } }\n",
)];

type Cells = BTreeMap<String, String>;

fn cells(row: &str) -> Cells {
    let pairs = row.split_whitespace().filter_map(|cell| cell.split_once('='));
    pairs.map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn ts(row: &Cells) -> i64 {
    row["ts"].parse().expect("a time")
}

/// A life that ends after so many steps, by a crash or in order; 0 dies with its claim. The layout of its manifest.
fn live(world: &World, setup: &Setup, logs: &Logs, lanes: usize, random: &mut StdRng, in_order: bool) -> Layout {
    let steps = random.random_range(0..500);
    let claimed = Claimed::new(world, setup, lanes, random.random(), Faults::default()).unwrap();
    let mut life = claimed.start(logs).unwrap();
    for _ in 0..steps {
        if life.go_on().unwrap().is_some() {
            return life.head().layout.clone();
        }
    }
    if in_order {
        life.stop().unwrap();
    }
    life.head().layout.clone()
}

/// A life to the end of the logs.
fn live_on(world: &World, setup: &Setup, logs: &Logs, lanes: usize, random: &mut StdRng) -> Layout {
    let claimed = Claimed::new(world, setup, lanes, random.random(), Faults::default()).unwrap();
    let mut life = claimed.start(logs).unwrap();
    while life.go_on().unwrap().is_none() {}
    life.head().layout.clone()
}

/// Lives under `before`, then under `after` with its resets, at random numbers of lanes; the last one comes to the end.
fn change(before: &Setup, after: &Setup, logs: &Logs, seed: u64) -> (World, Layout) {
    let mut random = StdRng::seed_from_u64(seed);
    let world = World::new();
    for _ in 0..random.random_range(1..3) {
        let (lanes, in_order) = (random.random_range(1..5), random.random_bool(0.5));
        live(&world, before, logs, lanes, &mut random, in_order);
    }
    let (lanes, in_order) = (random.random_range(1..5), random.random_bool(0.5));
    live(&world, after, logs, lanes, &mut random, in_order);
    // What was reset is reset once.
    let after = Setup { resets: &[], ..*after };
    let lanes = random.random_range(1..5);
    let layout = live_on(&world, &after, logs, lanes, &mut random);
    (world, layout)
}

fn tells_refusal(world: &World, setup: &Setup) -> String {
    match Claimed::new(world, setup, 1, 0, Faults::default()) {
        Err(Halt::Failed(text)) => text,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was accepted"),
    }
}

/// The first instant at which a window of a group is full that began at `since`.
fn full_from(since: i64, window: i64, tail: i64) -> i64 {
    if since == i64::MIN { since } else { (since + tail - 1).div_euclid(tail) * tail + window }
}

/// Every row once, its labels as they should be; each column of `WINDOWS` as `judge` wants it: (row, column, value, wanted).
fn assert_rows(setup: &Setup, logs: &Logs, found: &[String], judge: impl Fn(&Cells, &str, Option<&String>, &String)) {
    let wanted: BTreeMap<String, Cells> =
        expected(setup, logs).iter().map(|row| cells(row)).map(|row| (row["request_id"].clone(), row)).collect();
    let mut seen = BTreeSet::new();
    for row in found.iter().map(|row| cells(row)) {
        let request = row["request_id"].clone();
        assert!(seen.insert(request.clone()), "{request} is there twice");
        for (column, value) in &wanted[&request] {
            match WINDOWS.iter().any(|window| window.0 == column) {
                true => judge(&row, column, row.get(column), value),
                false => assert_eq!(row.get(column), Some(value), "{column} of {row:?}"),
            }
        }
    }
    assert_eq!(seen.len(), wanted.len(), "rows are missing");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// F7, F8, F10: a group that comes while rows are pending is null until its windows are full and right from then on; the
    /// group that was there goes on without a gap, although it gets another number; no row is lost or doubled.
    #[test]
    fn a_new_group_is_null_until_it_is_warm_and_right_from_then_on(seed in seeds()) {
        let after = Setup { features: true, ..Setup::of(seed) };
        let before = Setup { edits: NO_USER, ..after };
        let logs = logs(&after, seed, 60);
        let (world, layout) = change(&before, &after, &logs, seed);
        let since = layout.groups.iter().find(|group| group.name == "user").unwrap().since;
        assert_rows(&after, &logs, &world.rows(), |row, column, value, wanted| {
            let &(_, _, _, _, window, tail) = WINDOWS.iter().find(|window| window.0 == column).unwrap();
            let warm = ts(row) - after.serving_lag_ms >= full_from(since, window, tail);
            match column.starts_with("i_") || warm {
                true => assert_eq!(value, Some(wanted), "{column} since {since} of {row:?}"),
                // Rows that closed under the old file have no such column.
                false => assert!(value.is_none_or(|value| value == "-"), "{column} since {since} of {row:?}"),
            }
        });
    }

    /// The other way round: its columns are gone from the rows that close from then on, and nothing else is.
    #[test]
    fn a_group_that_is_removed_takes_nothing_else_along(seed in seeds()) {
        let before = Setup { features: true, ..Setup::of(seed) };
        let after = Setup { edits: NO_USER, ..before };
        let logs = logs(&before, seed, 40);
        let (world, layout) = change(&before, &after, &logs, seed);
        prop_assert_eq!(layout.groups.len(), 1);
        assert_rows(&before, &logs, &world.rows(), |row, column, value, wanted| match column.starts_with("i_") {
            true => assert_eq!(value, Some(wanted), "{column} of {row:?}"),
            false => assert!(value.is_none_or(|value| value == wanted), "{column} of {row:?}"),
        });
    }

    /// Rows that were pending have the new column too, and every file has one schema.
    #[test]
    fn a_new_column_is_in_every_row_that_closes_from_then_on(seed in seeds()) {
        let before = Setup { features: true, ..Setup::of(seed) };
        let after = Setup { edits: ONE_COLUMN_MORE, ..before };
        let logs = logs(&before, seed, 40);
        let (world, layout) = change(&before, &after, &logs, seed);
        assert_rows(&before, &logs, &world.rows(), |row, column, value, wanted| {
            assert_eq!(value, Some(wanted), "{column} of {row:?}");
        });
        for row in world.rows().iter().map(|row| cells(row)) {
            match row.get("bought") {
                Some(bought) => assert_eq!(*bought, (row["buys_count"] != "0").to_string(), "{row:?}"),
                None => assert!(ts(&row) < layout.samples[0].rows_since, "{row:?}"),
            }
        }
    }

    /// F1, F2: a sample that comes has every impression from its beginning on, once, with all its labels; the other one does
    /// not notice. The committer itself holds the books at every manifest.
    #[test]
    fn a_new_sample_has_every_row_from_its_beginning_on(seed in seeds()) {
        let before = Setup { features: true, ..Setup::of(seed) };
        let after = Setup { edits: ONE_SAMPLE_MORE, ..before };
        let logs = logs(&before, seed, 60);
        let (world, layout) = change(&before, &after, &logs, seed);
        assert_rows(&before, &logs, &world.rows(), |row, column, value, wanted| {
            assert_eq!(value, Some(wanted), "{column} of {row:?}");
        });
        let node = layout.samples.iter().find(|sample| sample.name == "more").unwrap();
        let more: Vec<Cells> = world.rows_in("more/").iter().map(|row| cells(row)).collect();
        let setup = Setup { serving_lag_ms: 3_000, ..before };
        let wanted: BTreeMap<String, Cells> = expected_from(&setup, &logs, node.rows_since)
            .iter()
            .map(|row| cells(row))
            .map(|row| (row["request_id"].clone(), row))
            .collect();
        prop_assert_eq!(more.len(), wanted.len());
        let item = |column: &&str| column.starts_with("i_");
        for row in &more {
            let wanted = &wanted[&row["request_id"]];
            for column in ["first_event_id", "buys_count"] {
                prop_assert_eq!(&row[column], &wanted[column], "{} of {:?}", column, row);
            }
            for column in WINDOWS.map(|window| window.0).iter().filter(|column| item(column)) {
                let known = ts(row) - 3_000 >= node.groups["item"];
                let value = if known { wanted[*column].as_str() } else { "-" };
                prop_assert_eq!(&row[*column], value, "{} of {:?}", column, row);
            }
        }
    }

    /// F10: a group that is reset forgets what it said of pending impressions too, and warms like a new one; the other group,
    /// and the labels of all impressions, do not notice.
    #[test]
    fn a_reset_group_is_null_for_what_was_pending_and_warms_again(seed in seeds()) {
        let before = Setup { features: true, ..Setup::of(seed) };
        let after = Setup { edits: OTHER_CLICKS, resets: &["features.user"], ..before };
        let logs = logs(&before, seed, 60);
        let (world, layout) = change(&before, &after, &logs, seed);
        let since = layout.groups[0].since;
        assert_rows(&before, &logs, &world.rows(), |row, column, value, wanted| {
            let &(_, _, _, _, window, tail) = WINDOWS.iter().find(|window| window.0 == column).unwrap();
            let instant = ts(row) - before.serving_lag_ms;
            let is_right = value == Some(wanted);
            match column {
                // Another aggregate now.
                "u_clicks_60s" => {}
                _ if column.starts_with("i_") || instant >= full_from(since, window, tail) => {
                    assert!(is_right, "{column} since {since} of {row:?}");
                }
                // Rows that closed before the reset keep what they were told.
                _ if ts(row) < since => assert!(is_right || value.is_some_and(|value| value == "-"), "{row:?}"),
                _ => assert_eq!(value.map(String::as_str), Some("-"), "{column} since {since} of {row:?}"),
            }
        });
        prop_assert!(layout.samples[0].number < layout.groups[0].number, "the sample is the one that was there");
    }

    /// A changed join is refused until it is reset; then rows from its beginning on are those of the new definition, and
    /// those in files before stay. Nothing is doubled.
    #[test]
    fn a_changed_join_is_refused_and_a_reset_one_begins_anew(seed in seeds()) {
        let before = Setup { features: true, ..Setup::of(seed) };
        let after = Setup { edits: SHORTER_WINDOW, ..before };
        let logs = logs(&before, seed, 60);
        let mut random = StdRng::seed_from_u64(seed);
        let world = World::new();
        live(&world, &before, &logs, 2, &mut random, false);
        let text = tells_refusal(&world, &after);
        prop_assert!(text.contains("joins.ctr is different (--reset joins.ctr forgets"), "{}", text);
        live(&world, &before, &logs, 3, &mut random, true);
        let old: BTreeSet<String> = world.rows().into_iter().collect();
        live(&world, &Setup { resets: &["joins.ctr"], ..after }, &logs, 1, &mut random, false);
        let layout = live_on(&world, &after, &logs, 4, &mut random);
        let node = &layout.samples[0];
        let rows = world.sorted_rows();
        let new: Vec<&String> = rows.iter().filter(|row| !old.contains(*row)).collect();
        prop_assert_eq!(new.len() + old.len(), rows.len());
        let keys: BTreeSet<String> = rows.iter().map(|row| cells(row)["request_id"].clone()).collect();
        prop_assert_eq!(keys.len(), rows.len(), "a row is there twice");
        let clicked = |row: &Cells| (row["request_id"].clone(), row["clicks_count"].clone());
        let wanted = expected_from(&before, &logs, node.rows_since);
        let mut wanted: Vec<_> = wanted.iter().map(|row| clicked(&cells(row))).collect();
        let mut found: Vec<_> = new.iter().map(|row| clicked(&cells(row))).collect();
        wanted.sort();
        found.sort();
        prop_assert_eq!(found, wanted);
    }

    /// A sample that goes with rows pending must be told to, and leaves what it has published.
    #[test]
    fn a_sample_with_pending_rows_is_not_dropped_by_the_way(seed in seeds()) {
        let after = Setup { features: true, ..Setup::of(seed) };
        let before = Setup { edits: ONE_SAMPLE_MORE, ..after };
        let logs = logs(&before, seed, 40);
        let mut random = StdRng::seed_from_u64(seed);
        let world = World::new();
        let claimed = Claimed::new(&world, &before, 2, seed, Faults::default()).unwrap();
        let mut life = claimed.start(&logs).unwrap();
        while life.head().counts.samples.first().is_none_or(|more| more.anchor.pending == 0) {
            prop_assume!(life.go_on().unwrap().is_none(), "nothing was ever pending");
        }
        drop(life);
        let text = tells_refusal(&world, &after);
        prop_assert!(text.contains("samples.more is gone (--reset samples.more forgets"), "{}", text);
        let published = world.rows_in("more/").len();
        live(&world, &Setup { resets: &["samples.more"], ..after }, &logs, 3, &mut random, true);
        live_on(&world, &after, &logs, 1, &mut random);
        prop_assert_eq!(world.rows_in("more/").len(), published);
        assert_rows(&after, &logs, &world.rows(), |row, column, value, wanted| {
            assert_eq!(value, Some(wanted), "{column} of {row:?}");
        });
    }
}

/// Not by luck alone: over some seeds features are seen both warming and warm, and rows of both files.
#[test]
fn changes_are_met_by_rows_of_every_kind() {
    let (mut warming, mut warm, mut old) = (0, 0, 0);
    for seed in 0..24 {
        let after = Setup { features: true, ..Setup::of(seed) };
        let logs = logs(&after, seed, 60);
        let (world, _) = change(&Setup { edits: NO_USER, ..after }, &after, &logs, seed);
        for row in world.rows().iter().map(|row| cells(row)) {
            match row.get("u_imps_60s").map(String::as_str) {
                None => old += 1,
                Some("-") => warming += 1,
                Some(_) => warm += 1,
            }
        }
    }
    assert!(warming > 30 && warm > 30 && old > 30, "{warming} warming, {warm} warm, {old} old");
}
