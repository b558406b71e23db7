//! Storm: processes with new names join every few seconds and are killed or stopped, while others run and the log grows:
//! the group is never at rest, and still every interval has its commits and the samples are exact.

use crate::end_to_end::{START, Times};
use crate::group::{Group, stop};
use crate::group_faults::Feed;
use crate::support::binary::Conjoin;
use crate::support::kafka::brokers;
use crate::support::world::{WorldSpec, world};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How often a new one joins.
const EVERY: Duration = Duration::from_secs(5);
/// Longer than the log is ever silent for one cell at the pace of its own times.
const TIMES: Times<'static> = Times { idle_after: "10s", commit_every: "300ms", click: "3s", order: "6s", roll: "2s" };

/// Event time goes as fast as the clock.
fn storm(length: Duration) {
    let bursts = length.as_secs().div_ceil(3) + 2;
    let spec = WorldSpec {
        seed: 21,
        start: START,
        bursts,
        burst_every_ms: 3_000,
        burst_slates: 14,
        lateness_ms: 2_000,
        click_delay_max_ms: 4_000,
        hot: 0.0,
        name: "storm",
    };
    let mut group = Group::with(4, world(&spec), &TIMES, &brokers());
    let mut feed = Feed::new(&mut group, Duration::from_secs(bursts * 3));
    let mut steady = vec![group.start("m1"), group.start("m5"), group.start("m9")];
    feed.until_commits(&mut group);
    let (began, mut joined, mut guests) = (Instant::now(), 0, VecDeque::<Conjoin>::new());
    let mut commits = Vec::new();
    while began.elapsed() < length {
        // Before and after the names of those that stay: who sorts first is given cells first.
        let name = format!("m{}-{joined}", [0, 3, 7, 99][joined % 4]);
        guests.push_back(group.start(&name));
        joined += 1;
        if guests.len() > 1 {
            let guest = guests.pop_front().expect("there are two");
            if joined % 3 == 0 { stop(guest) } else { guest.kill() }
        }
        if joined % 5 == 0 {
            // One of those that stay dies as well, and comes back by its name.
            steady.remove(1).kill();
            steady.insert(1, group.start_trapped("m5", &format!("m5-again-{joined}"), ""));
        }
        let (before, since) = (cuts(&group), Instant::now());
        while since.elapsed() < EVERY {
            feed.step(&mut group);
        }
        commits.push(cuts(&group) - before);
    }
    println!("{joined} joined in {:.0} s; commits in each {EVERY:?}: {commits:?}", began.elapsed().as_secs_f64());
    assert!(commits.iter().all(|commits| *commits > 0), "{commits:?}");
    guests.into_iter().for_each(Conjoin::kill);
    feed.finish(&mut group, steady);
}

/// Of all cells together.
fn cuts(group: &Group) -> u64 {
    group.heads().iter().map(|head| head.cut).sum()
}

#[test]
fn fault_12_while_processes_join_and_die_every_few_seconds_commits_go_on_and_the_samples_are_exact() {
    storm(Duration::from_secs(40));
}

#[test]
#[ignore = "five minutes: cargo test --test it -- --ignored --nocapture five_minutes"]
fn fault_12_five_minutes_of_it() {
    storm(Duration::from_secs(300));
}
