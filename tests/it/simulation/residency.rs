//! Residency: rows are the same whether their columns stay in memory or leave it as soon as they are on disk (F8, F13).

use super::harness::{Claimed, Faults, World};
use super::world::*;
use super::{assert_rows, expected, seeds, simulate};
use conjoin::event::StateMemory;
use proptest::prelude::*;
use std::collections::BTreeSet;

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn f8_f13_what_has_left_memory_changes_no_row_whatever_happens(seed in seeds()) {
        for setup in [Setup::of(seed), Setup::early(seed)] {
            let logs = logs(&setup, seed, 40);
            let expected = expected(&setup, &logs);
            for keep in [None, Some(0), Some(3_000)] {
                let setup = Setup { keep, ..setup };
                for lanes in [&[1][..], &[3], &[1, 1, 1], &[2, 2, 5, 5, 1]] {
                    let (world, _) = simulate(&setup, &logs, lanes, seed);
                    let what = format!("seed {seed}, lanes {lanes:?}, {} crashes, {setup:?}", world.crashes.get());
                    assert_rows(&world.sorted_rows(), &expected, &what);
                }
            }
        }
    }
}

#[test]
fn f13_columns_leave_memory_come_back_and_their_blocks_move_meanwhile() {
    let mut seen = BTreeSet::new();
    for seed in 1..6 {
        let setup = Setup { keep: Some(0), ..Setup::PLAIN };
        let logs = logs(&setup, seed, 200);
        let (world, books) = simulate(&setup, &logs, &[2], seed);
        seen.extend(world.disk.faults().into_keys());
        assert_rows(&world.sorted_rows(), &expected(&setup, &logs), &format!("seed {seed}"));
        assert_eq!(books.counts.samples[0].memory.spilled, 0, "nothing is pending");
    }
    for happened in ["spilled", "read_back", "state_copied"] {
        assert!(seen.contains(happened), "{happened}: {seen:?}");
    }
}

/// How many rows are pending after a restart, and what they take.
fn restarted(setup: &Setup, logs: &Logs) -> (u64, StateMemory) {
    let world = World::new();
    let start = |seed| Claimed::new(&world, setup, 2, seed, Faults::default()).unwrap().start(logs).unwrap();
    let mut life = start(1);
    while life.head().counts.samples.first().is_none_or(|sample| sample.anchor.pending <= 10) {
        assert!(life.go_on().unwrap().is_none(), "too few rows were pending at any commit");
    }
    let (mut pending, mut memory) = (0, StateMemory::default());
    for sample in start(2).lanes.iter().flat_map(|lane| lane.counts().samples) {
        pending += sample.anchor.pending;
        memory += sample.memory;
    }
    (pending, memory)
}

#[test]
fn f13_a_restart_reads_no_payload_into_memory_that_may_stay_on_disk() {
    for early in [false, true] {
        let emit = if early { ("immediate", 0, 0) } else { ("wait", 0, 0) };
        for (keep, most) in [(Some(0), 0), (None, u64::MAX)] {
            let setup = Setup { keep, emit, ..Setup::PLAIN };
            let logs = logs(&setup, 5, 200);
            let (pending, memory) = restarted(&setup, &logs);
            assert!(pending > 10, "{pending} rows are pending");
            assert!(memory.payload <= most && memory.index > 0, "{memory:?}");
            // Rows that leave one by one are read at once where there is room.
            assert_eq!(memory.payload > 0, early && keep.is_none(), "{memory:?}");
            assert_eq!(memory.spilled > 0, !(early && keep.is_none()), "{memory:?}");
        }
    }
}
