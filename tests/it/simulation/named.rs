//! Named cases: one rule each, by hand.

use super::harness::{World, partition_of};
use super::world::*;
use super::{assert_rows, expected, simulate};
use conjoin::cell::CellScope;
use conjoin::commit::first_layout;
use conjoin::event::{KEY_GROUPS, Outside, PositionDelta, RawBatch, RawRecord, Watermark};
use conjoin::pipeline::{cell_spec, definition, routed_streams};
use conjoin::route::Router;

fn world(impressions: &[String], clicks: &[String]) -> Logs {
    Logs::from([((IMPRESSIONS, 0), impressions.to_vec()), ((CLICKS, 0), clicks.to_vec()), ((BUYS, 0), Vec::new())])
}

/// The rows as every number of lanes gives them, held against the oracle.
fn rows(setup: &Setup, logs: &Logs) -> Vec<String> {
    let expected = expected(setup, logs);
    for (lanes, seed) in [(1, 1), (2, 2), (5, 3)] {
        let (disk, _) = simulate(setup, logs, &[lanes], seed);
        assert_rows(&disk.sorted_rows(), &expected, &format!("{lanes} lanes"));
    }
    expected
}

fn has(rows: &[String], request: &str, cell: &str) -> bool {
    let row = rows.iter().find(|row| row.contains(&format!("request_id={request} "))).expect("the row is there");
    row.contains(&format!("{cell} "))
}

#[test]
fn both_ends_of_a_window_are_in_it() {
    let imps = [imp("a", "u", "i", 50_000), imp("b", "u", "i", 50_000)];
    let clicks = [
        click("early", "b", "u", "i", 46_999),
        click("before", "a", "u", "i", 47_000),
        click("within", "a", "u", "i", 70_000),
        click("after", "b", "u", "i", 70_001),
    ];
    let rows = rows(&Setup::PLAIN, &world(&imps, &clicks));
    assert!(has(&rows, "a", "first_event_id=before") && has(&rows, "a", "last_event_id=within"), "{rows:#?}");
    assert!(has(&rows, "b", "first_event_id=-"), "{rows:#?}");
}

#[test]
fn a_late_label_attaches_while_its_impression_is_open() {
    // Ten seconds behind the newest, with three of lateness: late, yet the impression is open until 150 s later.
    let clicks = [
        click("mover", "none", "u", "i", 80_000),
        click("late", "a", "u", "i", 62_000),
        click("end", "none", "u", "i", 203_001),
        click("at_the_end", "a", "u", "i", 63_000),
        click("past", "none", "u", "i", 203_002),
        click("too_late", "a", "u", "i", 64_000),
    ];
    let rows = rows(&Setup::PLAIN, &world(&[imp("a", "u", "i", 50_001)], &clicks));
    assert!(has(&rows, "a", "clicks_count=2") && has(&rows, "a", "last_event_id=at_the_end"), "{rows:#?}");
}

#[test]
fn a_label_goes_to_the_latest_impression_at_or_before_it() {
    let setup = Setup { shared_keys: true, ..Setup::PLAIN };
    let imps = [imp("a", "u", "i", 50_000), imp("b", "u", "i", 60_000), imp("c", "u", "i", 64_000)];
    let clicks = [click("at", "", "u", "i", 60_000), click("near_c", "", "u", "i", 63_999)];
    let logs = Logs::from([
        ((IMPRESSIONS, 0), imps.to_vec()),
        ((CLICKS, 0), clicks.to_vec()),
        ((BUYS, 0), vec![buy("first", "", "u", "i", 49_000, Some(1))]),
    ]);
    let rows = rows(&setup, &logs);
    assert!(
        has(&rows, "b", "clicks_count=2") && has(&rows, "a", "clicks_count=0") && has(&rows, "c", "clicks_count=0")
    );
    assert!(has(&rows, "a", "total_value=1"), "before all of them it goes to the earliest: {rows:#?}");
}

#[test]
fn exact_copies_count_once_and_of_a_conflict_the_smaller_stays() {
    let imps = [
        imp("a", "u", "i", 50_000),
        imp("a", "u", "i", 50_000),
        imp("b", "u", "i", 50_000),
        imp("b", "u", "j", 49_000),
    ];
    let clicks =
        [click("e", "a", "u", "i", 51_000), click("e", "a", "u", "i", 51_000), click("e", "a", "u", "i", 52_000)];
    let logs = world(&imps, &clicks);
    let rows = rows(&Setup { features: false, ..Setup::PLAIN }, &logs);
    assert_eq!(rows.len(), 2);
    assert!(has(&rows, "b", "ts=1700000049000") && has(&rows, "a", "first_ts=1700000051000"), "{rows:#?}");
    let (_, books) = simulate(&Setup::PLAIN, &logs, &[2], 9);
    let sample = &books.counts.samples[0];
    assert_eq!((sample.anchor.duplicate, sample.anchor.conflict, sample.anchor.emitted), (1, 1, 2));
    assert_eq!((sample.labels[0].duplicate, sample.labels[0].conflict, sample.labels[0].attached), (1, 1, 1));
    assert_eq!((sample.delays[0].count(), sample.delays[0].sum_ms()), (1, 1_000), "how late it came is kept once, too");
}

#[test]
fn a_run_over_inputs_that_have_grown_goes_on_where_it_stopped() {
    for (first, second) in [(1, 1), (2, 2), (2, 5)] {
        let setup = Setup::PLAIN;
        let mut logs = world(&[imp("a", "u", "i", 50_000)], &[click("e", "a", "u", "i", 51_000)]);
        let mut disk = World::new();
        disk.run(&setup, &logs, &[first], 1);
        assert_eq!(disk.rows().len(), 1);
        disk.run(&setup, &logs, &[second], 2);
        assert_eq!(disk.rows().len(), 1, "nothing new, nothing again");
        logs.get_mut(&(IMPRESSIONS, 0)).unwrap().extend([imp("a", "u", "i", 50_000), imp("b", "u", "i", 90_000)]);
        logs.get_mut(&(CLICKS, 0))
            .unwrap()
            .extend([click("e", "a", "u", "i", 51_000), click("f", "b", "u", "i", 91_000)]);
        // Crashes after it grew must not close what is pending.
        for seed in 0..20 {
            let mut disk = World::new();
            let old = world(&[imp("a", "u", "i", 50_000)], &[click("e", "a", "u", "i", 51_000)]);
            disk.run(&setup, &old, &[first], seed);
            let books = disk.run(&setup, &logs, &[second, first, second], seed);
            let sorted = disk.sorted_rows();
            assert_eq!(sorted.len(), 2, "{sorted:#?}");
            assert!(has(&sorted, "b", "first_event_id=f") && has(&sorted, "b", "u_clicks_60s=1"), "{sorted:#?}");
            assert_eq!(books.counts.samples[0].anchor.accepted(), 3);
        }
    }
}

#[test]
fn negatives_are_kept_by_the_hash_of_their_id() {
    let setup = Setup { negatives: true, features: false, ..Setup::PLAIN };
    let logs = logs(&setup, 7, 120);
    let kept: Vec<_> =
        [&[1][..], &[2], &[5, 3, 1]].map(|lanes| simulate(&setup, &logs, lanes, 5)).into_iter().collect();
    let all = expected(&setup, &logs).len() as u64;
    for (disk, books) in &kept {
        assert_eq!(disk.sorted_rows(), kept[0].0.sorted_rows());
        let anchor = books.counts.samples[0].anchor;
        assert_eq!((anchor.emitted, anchor.emitted + anchor.sampled_out), (disk.rows().len() as u64, all));
        assert!(anchor.sampled_out > 0 && disk.rows().iter().any(|row| row.contains("sample_weight=3.33")));
    }
}

/// A router with one row in each stream whose newest time is given.
fn router(setup: &Setup, newest: [Option<i64>; 3]) -> Router {
    let plan = setup.plan(1);
    let cell = cell_spec(&plan, CellScope::WHOLE, &first_layout(&definition(&plan), KEY_GROUPS));
    let partitions = [0, 1, 2].map(|stream| partition_of((stream, 0)));
    let mut router = Router::new(routed_streams(&plan, &cell, &partitions), 1, 0);
    for (stream, ts) in newest.into_iter().enumerate() {
        if let Some(ts) = ts {
            feed(&mut router, &plan, stream, ts, 0);
        }
    }
    router
}

fn feed(router: &mut Router, plan: &conjoin::config::Plan, stream: usize, ts: i64, now_ms: u64) {
    let record = match stream {
        IMPRESSIONS => imp("a", "u", "i", ts),
        CLICKS => click("e", "a", "u", "i", ts),
        _ => buy("e", "a", "u", "i", ts, None),
    };
    let partition = partition_of((stream, 0));
    let from = router.positions().next(partition).unwrap_or(0);
    let delta = PositionDelta { partition, from, to: from + 1 };
    let at = RawRecord { payload: Some(0..record.len() as u32), position: from, ..RawRecord::default() };
    let raw = RawBatch { delta, bytes: record.into_bytes(), records: vec![at] };
    router.step(delta, now_ms).unwrap();
    let decoded = conjoin::decode::Decoder::new(plan.streams[stream].decode.clone()).decode(&raw);
    router.route(decoded, 0);
}

fn all_caught_up(router: &mut Router, now_ms: u64) {
    (0..3).for_each(|stream| router.caught_up(partition_of((stream, 0)), now_ms));
}

#[test]
fn what_nobody_can_see_is_not_idle_and_its_silence_begins_when_it_is_seen_again() {
    let mut router = router(&Setup::PLAIN, [Some(100_000), Some(90_000), Some(95_000)]);
    all_caught_up(&mut router, 0);
    let idle_at = |router: &mut Router, now_ms| (router.advance(now_ms), router.online_instant(0).unwrap() - START);
    assert_eq!(idle_at(&mut router, 10_000), ((Watermark(START + 87_000), true), 100_000));
    assert_eq!(idle_at(&mut router, 12_000), ((Watermark(START + 89_000), true), 102_000));
    (0..3).for_each(|stream| router.out_of_sight(partition_of((stream, 0))));
    assert_eq!(idle_at(&mut router, 600_000), ((Watermark(START + 89_000), false), 102_000), "an outage is no silence");
    all_caught_up(&mut router, 600_000);
    assert_eq!(idle_at(&mut router, 609_999), ((Watermark(START + 89_000), false), 102_000));
    assert_eq!(idle_at(&mut router, 610_000), ((Watermark(START + 89_000), true), 102_000));
    assert_eq!(idle_at(&mut router, 615_000), ((Watermark(START + 94_000), true), 107_000), "from where it stood");
}

#[test]
fn when_all_is_quiet_time_goes_on_from_where_it_stood() {
    let mut router = router(&Setup::PLAIN, [Some(100_000), Some(90_000), Some(95_000)]);
    all_caught_up(&mut router, 0);
    assert_eq!(router.advance(9_999).0.0, START + 87_000, "not yet idle: the least of newest less lateness");
    let (watermark, idle) = router.advance(10_000);
    assert!(idle && watermark.0 == START + 87_000, "never to now");
    assert_eq!(router.advance(13_000).0.0, START + 90_000, "at the rate of the clock");
    let plan = Setup::PLAIN.plan(1);
    feed(&mut router, &plan, IMPRESSIONS, 60_000, 14_000);
    assert!(router.advance(14_001).0.0 >= START + 90_000, "it never goes back");
}

#[test]
fn a_label_stream_that_is_quiet_alone_holds_the_watermark_unless_it_is_sparse() {
    for (sparse_clicks, held) in [(false, true), (true, false)] {
        let setup = Setup { sparse_clicks, ..Setup::PLAIN };
        let mut router = router(&setup, [Some(100_000), Some(90_000), Some(95_000)]);
        all_caught_up(&mut router, 0);
        let plan = setup.plan(1);
        feed(&mut router, &plan, IMPRESSIONS, 300_000, 60_000);
        feed(&mut router, &plan, BUYS, 300_000, 60_000);
        let watermark = router.advance(60_000).0.0 - START;
        assert_eq!(watermark, if held { 87_000 } else { 292_000 });
        assert_eq!(router.holding(60_000), if held { vec![CLICKS as u16] } else { vec![] });
    }
}

#[test]
fn with_tag_a_label_stream_that_is_cut_off_holds_nothing_and_its_absence_is_on_record() {
    let edits = &[("    correct_for: 0ms\n", "    correct_for: 0ms\n    guard: { max_lag: 20s, then: tag }\n")];
    let setup = Setup { edits, ..Setup::PLAIN };
    let plan = setup.plan(1);
    let mut router = router(&setup, [Some(100_000), Some(90_000), Some(95_000)]);
    let outages = |router: &Router| -> Vec<(u16, i64, i64)> {
        router.outages().iter().map(|outage| (outage.stream, outage.from - START, outage.to - START)).collect()
    };
    assert_eq!(router.advance(0).0.0 - START, 87_000);
    feed(&mut router, &plan, IMPRESSIONS, 300_000, 1_000);
    feed(&mut router, &plan, BUYS, 300_000, 1_000);
    assert_eq!(router.advance(1_000).0.0 - START, 87_000, "there may be clicks to read: it lags, and is not cut off");
    all_caught_up(&mut router, 2_000);
    assert_eq!(
        (router.advance(2_000).0.0 - START, outages(&router)),
        (292_000, vec![(CLICKS as u16, 87_000, 292_000)])
    );
    feed(&mut router, &plan, IMPRESSIONS, 310_000, 3_000);
    feed(&mut router, &plan, BUYS, 310_000, 3_000);
    all_caught_up(&mut router, 3_000);
    assert_eq!(
        (router.advance(3_000).0.0 - START, outages(&router)),
        (302_000, vec![(CLICKS as u16, 87_000, 302_000)])
    );
    feed(&mut router, &plan, CLICKS, 308_000, 4_000);
    feed(&mut router, &plan, IMPRESSIONS, 320_000, 4_000);
    feed(&mut router, &plan, BUYS, 320_000, 4_000);
    assert_eq!(
        (router.advance(4_000).0.0 - START, outages(&router).len()),
        (305_000, 1),
        "it is back, and holds again"
    );
    assert_eq!(outages(&router)[0].2, 302_000);
    let tagged = |instant: i64| router.outages().iter().any(|outage| outage.contains(START + instant));
    assert_eq!([86_999, 87_000, 301_999, 302_000].map(tagged), [false, true, true, false]);
}

#[test]
fn a_label_stream_that_never_said_anything_is_cut_off_only_when_it_was_silent_for_long() {
    let edits = &[("    correct_for: 0ms\n", "    correct_for: 0ms\n    guard: { max_lag: 20s, then: tag }\n")];
    let mut router = router(&Setup { edits, ..Setup::PLAIN }, [Some(100_000), None, Some(100_000)]);
    all_caught_up(&mut router, 1_000);
    assert_eq!(router.advance(9_000).0.0, i64::MIN, "it may be slow to begin");
    let plan = Setup::PLAIN.plan(1);
    feed(&mut router, &plan, IMPRESSIONS, 101_000, 19_000);
    assert_eq!(router.advance(19_999).0.0, i64::MIN);
    assert_eq!(router.advance(20_000).0.0 - START, 92_000);
}

/// Quix #1116: a join stood still after a restart when one of its inputs had nothing more to give.
#[test]
fn after_a_restart_an_input_that_has_nothing_more_to_give_holds_nothing_up() {
    let setup = Setup { sparse_clicks: true, ..Setup::PLAIN };
    let plan = setup.plan(1);
    let before = router(&setup, [Some(100_000), Some(90_000), Some(95_000)]);
    let mut after = router(&setup, [None, None, None]);
    let watermark = START + 87_000;
    after.restore(before.positions().clone(), &before.tracks(), watermark, before.accounts(), Vec::new());
    all_caught_up(&mut after, 0);
    for (stream, ts) in [(IMPRESSIONS, 300_000), (BUYS, 300_000)] {
        feed(&mut after, &plan, stream, ts, 20_000);
    }
    assert_eq!(after.advance(20_000).0.0 - START, 292_000, "clicks are sparse, and nobody waits for them");
    // And where all are quiet, time goes on.
    all_caught_up(&mut after, 21_000);
    after.advance(40_000);
    assert!(after.advance(60_000).0.0 - START > 300_000);
}

#[test]
fn an_input_without_a_record_beside_one_that_has_ended_does_not_hold_time_for_ever() {
    let mut router = router(&Setup::PLAIN, [Some(100_000), None, None]);
    all_caught_up(&mut router, 0);
    router.ended(partition_of((IMPRESSIONS, 0)));
    assert_eq!(router.advance(1_000).0.0, i64::MIN);
    assert_eq!(router.advance(20_000).0.0, START + 95_000);
    assert_eq!(router.advance(25_000).0.0, START + 100_000);
}

#[test]
fn two_cells_without_a_record_do_not_wait_for_each_other() {
    let heard = |watermark: i64| Outside { watermark: Some(START + watermark), ..Outside::default() };
    let mut routers = [(); 2].map(|()| router(&Setup::PLAIN, [None, None, None]));
    routers.iter_mut().for_each(|router| all_caught_up(router, 0));
    // A third one has come to 50 s, and is quiet as well: each of these two hears the lower one of the others.
    let mut marks = [50_000; 2];
    for quiet_ms in [10_000, 20_000, 30_000] {
        let others = [marks[1], marks[0]];
        for ((router, mark), other) in routers.iter_mut().zip(&mut marks).zip(others) {
            router.heed(heard(other));
            *mark = router.advance(quiet_ms).0.0 - START;
        }
        assert_eq!(marks, [40_000 + quiet_ms as i64; 2]);
    }
}
