//! Faults of several processes, by their numbers in docs/FAULTS.md: real processes on a real Kafka sleep, stop and die in
//! the middle of what they do while others take their cells over.

use crate::end_to_end::{PlainReader, short_worlds};
use crate::group::{GROUP_TIMES, Group, Head, cells_of};
use crate::support::binary::{Conjoin, DEADLINE};
use crate::support::kafka::brokers;
use crate::support::world::Record;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

/// How often the log is written on.
const EVERY: Duration = Duration::from_millis(150);

/// A log that is written bit by bit, while a plain reader looks on and the store is watched.
pub(crate) struct Feed {
    records: VecDeque<Record>,
    all: usize,
    /// How long it takes from the first step on, so that it gets no slower on a busy machine: silence has a meaning.
    length: Duration,
    began: Option<Instant>,
    pub reader: PlainReader,
    /// Of every entity in the store.
    versions: BTreeMap<String, String>,
}

impl Feed {
    pub fn new(group: &mut Group, length: Duration) -> Feed {
        let records = VecDeque::from(std::mem::take(&mut group.world.records));
        let (reader, versions) = (PlainReader::default(), BTreeMap::new());
        Feed { all: records.len(), records, length, began: None, reader, versions }
    }

    /// Writes on.
    pub fn step(&mut self, group: &mut Group) {
        let began = *self.began.get_or_insert_with(Instant::now);
        let share = (began.elapsed() + EVERY).as_secs_f64() / self.length.as_secs_f64();
        let left = self.all - ((self.all as f64 * share) as usize).min(self.all);
        let due: Vec<Record> = self.records.drain(..self.records.len().saturating_sub(left)).collect();
        group.setup.produce(&due);
        self.reader.look(group.path());
        let versions = group.setup.versions();
        for (key, version) in &versions {
            let before = self.versions.get(key);
            assert!(before.is_none_or(|before| before <= version), "{key} went back: {before:?}, now {version}");
        }
        self.versions = versions;
        std::thread::sleep(EVERY);
    }

    /// Writes on until `ready` gives something.
    pub fn until<T>(&mut self, group: &mut Group, what: &str, mut ready: impl FnMut(&Group) -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(value) = ready(group) {
                return value;
            }
            assert!(began.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
            self.step(group);
        }
    }

    /// Every cell has committed.
    pub fn until_commits(&mut self, group: &mut Group) {
        let before = group.heads();
        let further = |now: &Head| now.cut > before.iter().find(|old| old.cell == now.cell).map_or(0, |old| old.cut);
        self.until(group, "a commit of every cell", |group| {
            let heads = group.heads();
            (heads.len() == group.partitions as usize && heads.iter().all(further)).then_some(())
        });
    }

    /// Others go on with these cells: each has committed twice since.
    pub fn until_taken_over(&mut self, group: &mut Group, before: &[Head]) {
        self.until(group, "others to take the cells over and to commit", |group| {
            let heads = group.heads();
            let taken = |old: &Head| {
                heads.iter().any(|now| now.cell == old.cell && now.writer != old.writer && now.cut >= old.cut + 2)
            };
            before.iter().all(taken).then_some(())
        });
    }

    /// Writes the rest, and sees that everything is as it should be.
    pub fn finish(mut self, group: &mut Group, runs: Vec<Conjoin>) {
        while !self.records.is_empty() {
            self.step(group);
        }
        group.finish(self.reader, runs);
    }
}

fn short(partitions: i32) -> (Group, Feed) {
    let mut group = Group::with(partitions, short_worlds(), &GROUP_TIMES, &brokers());
    let feed = Feed::new(&mut group, Duration::from_secs(20));
    (group, feed)
}

fn heads_of(group: &Group, cells: &BTreeSet<u32>) -> Vec<Head> {
    group.heads().into_iter().filter(|head| cells.contains(&head.cell)).collect()
}

fn writers(heads: &[Head]) -> Vec<(u32, String)> {
    heads.iter().map(|head| (head.cell, head.writer.clone())).collect()
}

fn times_seated(run: &Conjoin) -> usize {
    run.errors().matches("the group gave this process these cells").count()
}

/// It sleeps longer than the session and than the longest time between two polls, which the client counts by itself.
#[test]
fn fault_10_14_a_process_that_slept_while_others_took_its_cells_over_changes_nothing_and_joins_again() {
    let (mut group, mut feed) = short(4);
    let brokers = brokers();
    let properties = "properties: { session.timeout.ms: \"6000\", max.poll.interval.ms: \"6000\" }";
    group.edit(|text| text.replace(&format!("\"{brokers}\" }}"), &format!("\"{brokers}\", {properties} }}")));
    let (a, b) = (group.start("a"), group.start("b"));
    let both = |_: &Group| (!cells_of(&a).is_empty() && !cells_of(&b).is_empty()).then_some(());
    feed.until(&mut group, "cells for both", both);
    feed.until_commits(&mut group);
    let (slept, seated) = (cells_of(&a), times_seated(&a));
    let before = heads_of(&group, &slept);
    a.signal(libc::SIGSTOP);
    feed.until_taken_over(&mut group, &before);
    a.signal(libc::SIGCONT);
    feed.until(&mut group, "the old owner to notice", |_| {
        let said = a.errors().matches("has taken over").count();
        (said >= slept.len() && times_seated(&a) > seated).then_some(())
    });
    feed.until_commits(&mut group);
    assert!(a.errors().contains("the seat of this process was lost"), "{}", a.errors());
    feed.finish(&mut group, vec![a, b]);
}

/// One process for each place, and one that takes all their cells over.
#[test]
fn fault_01_13_a_cell_that_moves_in_the_middle_of_a_commit_loses_and_doubles_nothing() {
    let (mut group, mut feed) = short(8);
    let steady = group.start("steady");
    feed.until_commits(&mut group);
    let stops = [
        "state-write:before",
        "manifest-create:before",
        "manifest-create:after",
        "publish-rename:before",
        "hand-over:before",
    ];
    let name = |moment: &str| moment.replace(':', "-");
    let trapped = |moment: &&str, deed: &str| {
        let trap = format!("{moment}:3:{deed}");
        group.start_trapped(&name(moment), &format!("{}-{deed}", name(moment)), &trap)
    };
    let mut stopped: Vec<Conjoin> = stops.iter().map(|moment| trapped(moment, "stop")).collect();
    let mut killed: Vec<Conjoin> =
        ["hand-over:after", "dead-letters:after"].iter().map(|moment| trapped(moment, "kill")).collect();
    feed.until(&mut group, "all to come to their place", |_| {
        let dead = killed.iter_mut().all(|run| !run.is_running());
        (dead && stopped.iter_mut().all(Conjoin::is_stopped)).then_some(())
    });
    for run in &mut killed {
        assert_eq!(run.wait().signal(), Some(libc::SIGKILL));
    }
    let before = group.heads();
    let others: Vec<Head> = before.into_iter().filter(|head| !cells_of(&steady).contains(&head.cell)).collect();
    feed.until_taken_over(&mut group, &others);
    stopped.iter().for_each(|run| run.signal(libc::SIGCONT));
    feed.until(&mut group, "all to notice", |_| {
        stopped.iter().all(|run| run.errors().contains("has taken over")).then_some(())
    });
    feed.until_commits(&mut group);
    stopped.push(steady);
    feed.finish(&mut group, stopped);
}

#[test]
fn a_process_that_dies_and_comes_back_within_its_session_disturbs_nobody() {
    let (mut group, mut feed) = short(4);
    // Time enough to come back on a busy machine.
    group.edit(|text| text.replace("session_timeout: 6s", "session_timeout: 20s"));
    let (a, b) = (group.start("a"), group.start("b"));
    let both = |_: &Group| (!cells_of(&a).is_empty() && !cells_of(&b).is_empty()).then_some(());
    feed.until(&mut group, "cells for both", both);
    feed.until_commits(&mut group);
    let (mine, theirs) = (heads_of(&group, &cells_of(&a)), heads_of(&group, &cells_of(&b)));
    let seated = times_seated(&b);
    a.kill();
    let mut again = group.start_trapped("a", "a-again", "");
    feed.until_taken_over(&mut group, &mine);
    // A second one by the same name is a replacement: the first one has to go.
    let taken = heads_of(&group, &cells_of(&again));
    assert_eq!(taken.len(), mine.len());
    let third = group.start_trapped("a", "a-third", "");
    feed.until(&mut group, "the first of two by one name to go", |_| (!again.is_running()).then_some(()));
    let said = again.failure();
    assert!(said.contains("another process joined as instance `a`") && !said.contains("panicked"), "{said}");
    feed.until_taken_over(&mut group, &taken);
    assert_eq!(writers(&heads_of(&group, &cells_of(&b))), writers(&theirs), "{}", b.errors());
    assert_eq!(times_seated(&b), seated, "{}", b.errors());
    // Told to stop while it reads its state back.
    let mut late = group.start_trapped("c", "c", "restore:before:1:stop");
    feed.until(&mut group, "a restore", |_| late.is_stopped().then_some(()));
    late.terminate();
    late.signal(libc::SIGCONT);
    assert!(late.wait().success(), "{}", late.errors());
    let late = group.start_trapped("c", "c-again", "");
    feed.until_commits(&mut group);
    feed.finish(&mut group, vec![b, third, late]);
}
