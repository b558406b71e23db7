//! Topic: the internal topic of several cells in the simulation, and what one process has to do with it.
//!
//!   cell c commits ── send ──> log of c ── read, at its own pace, from the start ──> mirror of each process
//!                       └ dies before, in the midst, after; what was under way comes late; a commit comes again
//!
//! Holds: what a producer of Kafka holds: what one process sends for a cell is in the log in its order, without a hole.

use conjoin::cell::{Mirror, Sequence};
use conjoin::commit::{Handover, Manifest, decode_rows};
use conjoin::config::Plan;
use conjoin::event::StreamId;
use conjoin::pipeline::{Answers, Exchange, RunError, SealedCommit, exchanged_groups};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One record of the topic.
#[derive(Clone)]
struct Letter {
    at: Sequence,
    body: Body,
}

#[derive(Clone)]
enum Body {
    Part { group: String, rows: Arc<[u8]> },
    Mark(Handover),
}

#[derive(Default)]
struct Logs {
    cells: BTreeMap<u32, Vec<Letter>>,
    /// Sent by processes that died since, and not there yet.
    under_way: Vec<(u32, Vec<Letter>)>,
    faults: BTreeMap<&'static str, u64>,
}

impl Logs {
    fn note(&mut self, fault: &'static str) {
        *self.faults.entry(fault).or_default() += 1;
    }

    fn append(&mut self, cell: u32, letters: &[Letter]) {
        self.cells.entry(cell).or_default().extend_from_slice(letters);
    }
}

/// What outlives every process.
#[derive(Clone, Default)]
pub struct Topic(Arc<Mutex<Logs>>);

impl Topic {
    fn lock(&self) -> MutexGuard<'_, Logs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note(&self, fault: &'static str) {
        self.lock().note(fault);
    }

    pub fn faults(&self) -> BTreeMap<&'static str, u64> {
        self.lock().faults.clone()
    }

    /// What a dead process had sent comes at last.
    pub fn deliver_late(&self, random: &mut StdRng) {
        let mut logs = self.lock();
        if logs.under_way.is_empty() {
            return;
        }
        let at = random.random_range(0..logs.under_way.len());
        let (cell, letters) = logs.under_way.remove(at);
        logs.note("letters_late");
        logs.append(cell, &letters);
    }

    /// A process that slept sends what it had sent, or was about to send, once more.
    pub fn send_again(&self, random: &mut StdRng) {
        let mut logs = self.lock();
        let spoken: Vec<_> = logs.cells.iter().filter(|(_, log)| !log.is_empty()).collect();
        let Some(&(&cell, log)) = spoken.get(random.random_range(0..spoken.len().max(1))) else { return };
        let chosen = log[random.random_range(0..log.len())].at;
        let commit: Vec<Letter> = log.iter().filter(|letter| letter.at.cut == chosen.cut).cloned().collect();
        logs.note("commit_sent_again_by_a_zombie");
        logs.append(cell, &commit);
    }
}

/// How a process fares with the topic.
struct Line {
    /// Letters that were read, by cell.
    read: BTreeMap<u32, usize>,
    /// The share of sends that go wrong.
    rate: f64,
    random: StdRng,
    dead: bool,
}

/// One process's view of the topic.
pub struct Process {
    topic: Topic,
    mirror: Arc<Mirror>,
    pub answers: Answers,
    groups: Vec<String>,
    streams: Vec<String>,
    line: Mutex<Line>,
}

impl Process {
    pub fn new(topic: &Topic, plan: &Plan, cells: u32, rate: f64, seed: u64) -> Process {
        let groups: Vec<_> = plan.groups.iter().cloned().map(Arc::new).collect();
        let mirror = Arc::new(Mirror::new(cells, &groups, &exchanged_groups(plan)));
        let random = StdRng::seed_from_u64(seed);
        Process {
            topic: topic.clone(),
            answers: Answers::new(mirror.clone(), groups.len()),
            mirror,
            groups: plan.groups.iter().map(|group| group.name.clone()).collect(),
            streams: plan.streams.iter().map(|stream| stream.name.clone()).collect(),
            line: Mutex::new(Line { read: BTreeMap::new(), rate, random, dead: false }),
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_dead(&self) -> bool {
        self.line().dead
    }

    pub fn calm_down(&self) {
        self.line().rate = 0.0;
    }

    /// Reads up to `most` letters of a cell.
    pub fn read(&self, cell: u32, most: usize, now_ms: u64) {
        let (mut line, logs) = (self.line(), self.topic.lock());
        let log = logs.cells.get(&cell).map_or(&[][..], Vec::as_slice);
        let read = line.read.entry(cell).or_default();
        for Letter { at, body } in log.iter().skip(*read).take(most) {
            *read += 1;
            match body {
                Body::Part { group, rows } => {
                    let group = self.groups.iter().position(|known| known == group).unwrap();
                    self.mirror.part(cell, *at, group, &decode_rows(rows).unwrap()).map(drop)
                }
                Body::Mark(Handover { mark, moved, since }) => {
                    let number =
                        |name: &String| self.streams.iter().position(|known| known == name).unwrap() as StreamId;
                    let moved: Vec<StreamId> = moved.iter().map(number).collect();
                    let since = self.groups.iter().map(|name| since.get(name).copied().unwrap_or(i64::MAX)).collect();
                    self.mirror.mark(cell, *at, *mark, &moved, since, now_ms).map(drop)
                }
            }
            .unwrap_or_else(|error| panic!("F12: {error}"));
        }
        if *read == log.len() {
            self.mirror.current(cell, true);
        }
    }
}

impl Exchange for Process {
    fn mirror(&self) -> &Arc<Mirror> {
        &self.mirror
    }

    fn send(&self, commit: &SealedCommit) -> Result<(), RunError> {
        let (mut line, mut logs) = (self.line(), self.topic.lock());
        let at = |part: usize| Sequence { chain: commit.chain, cut: commit.cut, part: part as u32 };
        let part = |(number, (group, rows)): (usize, &(String, Vec<u8>))| Letter {
            at: at(number),
            body: Body::Part { group: group.clone(), rows: rows.as_slice().into() },
        };
        let mut letters: Vec<Letter> = commit.parts.iter().enumerate().map(part).collect();
        letters.push(Letter { at: at(letters.len()), body: Body::Mark(commit.handover.clone()) });
        let rate = line.rate;
        let arrived = || self.mirror.pin(commit.cell, Some(&commit.handover.mark));
        if !line.random.random_bool(rate) {
            logs.append(commit.cell, &letters);
            arrived();
            return Ok(());
        }
        let came = line.random.random_range(0..=letters.len());
        logs.append(commit.cell, &letters[..came]);
        if line.random.random_bool(0.5) {
            // The answer is lost: all of it is sent anew.
            logs.note("commit_sent_twice");
            logs.append(commit.cell, &letters);
            arrived();
            return Ok(());
        }
        line.dead = true;
        logs.note("killed_in_hand_over");
        let under_way = line.random.random_range(came..=letters.len());
        if under_way > came {
            logs.under_way.push((commit.cell, letters[came..under_way].to_vec()));
        }
        Err(RunError::Exchange("killed".into()))
    }

    fn own(&self, cell: u32, head: &Manifest) {
        self.mirror.pin(cell, head.handover.as_ref().map(|handover| &handover.mark));
        self.answers.own(cell, head);
    }

    fn disown(&self, cell: u32) {
        self.answers.disown(cell);
        self.mirror.unpin(cell);
    }
}
