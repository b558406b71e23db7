//! Outage: Kafka is away while several processes run, or before they do. The brokers have a listener that sends its clients
//! to an address where this test stands between; everybody else reaches them as always.

use crate::end_to_end::short_worlds;
use crate::group::{GROUP_TIMES, Group, cells_of, stop};
use crate::group_faults::Feed;
use crate::support::binary::Conjoin;
use crate::support::gate::Gate;
use std::time::{Duration, Instant};

/// What an orchestrator waits before it kills.
const GRACE: Duration = Duration::from_secs(30);

fn stops_in_time(run: Conjoin) {
    let began = Instant::now();
    stop(run);
    assert!(began.elapsed() < GRACE, "it took {:?} to stop", began.elapsed());
}

#[test]
fn fault_15_kafka_away_at_the_start_and_in_the_middle_is_waited_for_by_all_processes_and_each_can_be_stopped() {
    let addresses = std::env::var("KAFKA_BEHIND").unwrap_or_default();
    let Some((front, behind)) = addresses.split_once('>') else {
        println!("KAFKA_BEHIND is not set: these brokers have no listener that a test can take away");
        return;
    };
    let gate = Gate::closed(front, behind.to_owned());
    let mut group = Group::with(4, short_worlds(), &GROUP_TIMES, front);
    let mut feed = Feed::new(&mut group, Duration::from_secs(30));
    let (a, b, stopped) = (group.start("a"), group.start("b"), group.start("stopped"));
    feed.until(&mut group, "a word about Kafka", |_| {
        [&a, &b, &stopped].iter().all(|run| run.errors().contains("trying again in")).then_some(())
    });
    stops_in_time(stopped);
    gate.open();
    let both = |_: &Group| (!cells_of(&a).is_empty() && !cells_of(&b).is_empty()).then_some(());
    feed.until(&mut group, "cells for both", both);
    feed.until_commits(&mut group);
    gate.close();
    feed.until(&mut group, "both to lose their seats", |_| {
        [&a, &b].iter().all(|run| run.errors().contains("the seat of this process was lost")).then_some(())
    });
    stops_in_time(b);
    gate.open();
    feed.until(&mut group, "all cells for one", |_| (cells_of(&a).len() == 4).then_some(()));
    feed.until_commits(&mut group);
    let again = group.start_trapped("b", "b-again", "");
    feed.until(&mut group, "cells for the other", |_| (!cells_of(&again).is_empty()).then_some(()));
    feed.finish(&mut group, vec![a, again]);
}
