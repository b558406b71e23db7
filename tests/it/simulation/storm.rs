//! Storm: lives that crash, lose power, meet bad disks and come back as zombies, until one is left in peace; then the rows
//! must be the oracle's, each once, and the books exact (F1, F2, F5, F7, F12, F14).
//!
//! `SIM_SEED=17 cargo test --test it storm` runs the seed 17 alone: the pipeline, the logs and all faults follow from it.
//! `make soak SECONDS=3600` goes on with growing seeds as long as told and ends with one line of JSON.

use super::cells;
use super::disk::DiskFaults;
use super::harness::{Books, Claimed, Faults, Halt, World};
use super::life::Life;
use super::memory::{rss_kib, watched};
use super::world::*;
use super::{comparable, expected, simulate};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Seeds of one test run.
const SEEDS: u64 = 300;
const THREADS: u64 = 2;

/// What one storm came to.
#[derive(Debug, Default)]
pub struct Report {
    pub faults: BTreeMap<&'static str, u64>,
    pub events: u64,
    pub lives: u64,
    pub lost: usize,
    pub doubled: usize,
    pub wrong: Vec<String>,
}

/// A process that another one has taken over from without its knowing.
enum Zombie<'a> {
    /// It fell asleep right after its claim.
    Claimed(Box<Claimed<'a>>),
    Awake(Box<Life<'a>>),
}

impl<'a> Zombie<'a> {
    /// One step in its sleep; `None` when it has found out, or failed because of what the new owner did.
    fn walk(self, world: &World, logs: &'a Logs) -> Option<Zombie<'a>> {
        let found = match self {
            Zombie::Claimed(claimed) => match claimed.start(logs) {
                Ok(life) => return Some(Zombie::Awake(Box::new(life))),
                Err(halt) => halt,
            },
            Zombie::Awake(mut life) => match life.go_on() {
                Ok(None) => return Some(Zombie::Awake(life)),
                Ok(Some(_)) => panic!("F12: a process committed its end after another one had taken over"),
                Err(halt) => halt,
            },
        };
        world.disk.note(match found {
            Halt::Fenced => "zombie_fenced",
            Halt::Crashed => "zombie_crashed",
            Halt::Failed(_) => "zombie_failed",
        });
        None
    }
}

/// Unreadable records, somewhere in the logs.
fn poison(logs: &mut Logs, random: &mut StdRng) -> u64 {
    let count = random.random_range(0..6);
    for number in 0..count {
        let log = logs.values_mut().nth(random.random_range(0..3)).expect("three streams have three logs at least");
        let bad = ["{", "not json", "{\"ts\":\"yesterday\"}", "[]", ""][number as usize % 5];
        log.insert(random.random_range(0..=log.len()), bad.into());
    }
    count
}

fn storm(seed: u64) -> Report {
    let mut random = StdRng::seed_from_u64(seed ^ 0x5eed);
    let setup = if seed.is_multiple_of(3) { Setup::early(seed) } else { Setup::of(seed) };
    let mut logs = logs(&setup, seed, 30);
    let poisoned = poison(&mut logs, &mut random);
    let world = World::new();
    let mut report = Report { events: logs.values().map(|log| log.len() as u64).sum(), ..Report::default() };
    let books = lives(&world, &setup, &logs, &mut random, &mut report);
    report.faults = world.disk.faults();
    judge(&world, &setup, &logs, poisoned, books, &mut report);
    report
}

/// Lives until one comes to the end of the logs in peace.
fn lives<'a>(world: &'a World, setup: &Setup, logs: &'a Logs, random: &mut StdRng, report: &mut Report) -> Books {
    let mut zombies: Vec<Zombie<'a>> = Vec::new();
    let calm_after = random.random_range(1..8);
    loop {
        report.lives += 1;
        let calm = report.lives > calm_after;
        let faults = if calm { Faults::default() } else { draw(random) };
        let lanes = [1, 1, 2, 2, 3, 5][random.random_range(0..6)];
        let ended = match Claimed::new(world, setup, lanes, random.random(), faults) {
            Ok(claimed) if !calm && random.random_bool(0.1) => {
                world.disk.note("zombie_after_claim");
                zombies.push(Zombie::Claimed(Box::new(claimed)));
                continue;
            }
            Ok(claimed) => claimed.start(logs),
            Err(halt) => Err(halt),
        };
        let end = match ended {
            Ok(life) => live(world, logs, life, calm, random, &mut zombies),
            Err(halt) => Err(halt),
        };
        look(world, report);
        match end {
            Ok(Some(books)) if calm => {
                // Whoever still sleepwalks wakes up now.
                for zombie in zombies {
                    let mut zombie = Some(zombie);
                    while let Some(walking) = zombie {
                        zombie = walking.walk(world, logs);
                    }
                }
                look(world, report);
                return books;
            }
            Ok(_) => {}
            Err(Halt::Failed(why)) if calm => panic!("failed in peace: {why}"),
            Err(Halt::Fenced) => panic!("the newest owner was fenced"),
            Err(_) => world.disk.note("life_stopped_by_its_disk"),
        }
        if !calm && random.random_bool(0.4) {
            world.disk.note("power_failure");
            zombies.clear();
            world.disk.lose_power(random);
        }
    }
}

/// One life until it ends, crashes, or is left behind as a zombie.
fn live<'a>(
    world: &'a World,
    logs: &'a Logs,
    mut life: Life<'a>,
    calm: bool,
    random: &mut StdRng,
    zombies: &mut Vec<Zombie<'a>>,
) -> Result<Option<Books>, Halt> {
    let crash_after = (!calm).then(|| random.random_range(1..600));
    for step in 0.. {
        if crash_after.is_some_and(|after| step > after) {
            if random.random_bool(0.35) {
                world.disk.note("zombie");
                zombies.push(Zombie::Awake(Box::new(life)));
            } else {
                world.disk.note("crash");
            }
            return Ok(None);
        }
        if !zombies.is_empty() && random.random_bool(0.3) {
            let zombie = zombies.swap_remove(random.random_range(0..zombies.len()));
            zombies.extend(zombie.walk(world, logs));
        }
        if let Some(books) = life.go_on()? {
            return Ok(Some(books));
        }
    }
    unreachable!("a life ends")
}

fn draw(random: &mut StdRng) -> Faults {
    let rate = [0.0, 0.01, 0.04, 0.1][random.random_range(0..4)];
    let crash_at = random.random_bool(0.5).then(|| random.random_range(1..80));
    Faults { disk: DiskFaults { rate, crash_at, seed: random.random() }, slow: true, clock_jumps: true }
}

/// What a plain reader sees right now: whole files, no row twice.
fn look(world: &World, report: &mut Report) {
    let rows = world.sorted_rows();
    report.doubled += rows.windows(2).filter(|pair| pair[0] == pair[1]).count();
}

fn judge(world: &World, setup: &Setup, logs: &Logs, poisoned: u64, books: Books, report: &mut Report) {
    let (found, expected) = (world.sorted_rows(), expected(setup, logs));
    report.lost = expected.iter().filter(|row| !found.contains(row)).count();
    let extra = found.iter().filter(|row| !expected.contains(row)).count();
    if extra > 0 {
        report.wrong.push(format!("{extra} rows that should not be"));
    }
    let (_, calm) = simulate(setup, logs, &[1], 1);
    let rows = found.len() as u64;
    if (books.file_rows, books.dead_letter_rows) != (rows, poisoned) {
        report.wrong.push(format!("{books:?} with {rows} rows and {poisoned} dead letters"));
    }
    let (found, expected) = (comparable(books), comparable(calm));
    if found != expected {
        report.wrong.push(format!("books {found:?}, without faults {expected:?}"));
    }
}

impl Report {
    pub fn is_good(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.wrong.is_empty()
    }

    fn add(&mut self, other: Report) {
        other.faults.into_iter().for_each(|(fault, count)| *self.faults.entry(fault).or_default() += count);
        self.events += other.events;
        self.lives += other.lives;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.wrong.extend(other.wrong);
    }
}

/// Storms from `first` on, until `more` says no; the sum, and how many there were.
pub fn storms(storm: &(dyn Fn(u64) -> Report + Sync), first: u64, more: impl Fn(u64) -> bool + Sync) -> (Report, u64) {
    let (next, all) = (AtomicU64::new(first), Mutex::new(Report::default()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if !more(seed) {
                        break;
                    }
                    let done = std::panic::catch_unwind(AssertUnwindSafe(|| storm(seed)));
                    let mut report = done.unwrap_or_else(|panic| {
                        let text = panic.downcast_ref::<String>().cloned();
                        let text =
                            text.or(panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default();
                        Report { wrong: vec![format!("panic: {text}")], ..Report::default() }
                    });
                    if !report.is_good() {
                        println!("SIM_SEED={seed}: {report:?}");
                        report.wrong.push(format!("SIM_SEED={seed}"));
                    }
                    all.lock().unwrap().add(report);
                }
            });
        }
    });
    (all.into_inner().unwrap(), next.into_inner() - first - THREADS)
}

#[test]
fn fault_03_05_06_09_36_storms_lose_and_double_nothing() {
    let began = Instant::now();
    let only = std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse().ok());
    let (report, count) = match only {
        Some(seed) => storms(&storm, seed, |next| next == seed),
        None => storms(&storm, 0, |next| next < SEEDS),
    };
    println!("{count} storms in {:.1} s: {:?}", began.elapsed().as_secs_f64(), report.faults);
    assert!(report.is_good(), "{} lost, {} doubled: {:#?}", report.lost, report.doubled, report.wrong);
    if only.is_none() {
        for fault in [
            "crash_before_step",
            "crash_after_step",
            "power_lost_rename",
            "power_lost_object",
            "write_lost",
            "write_torn",
            "store_unknown",
            "store_full",
            "fsync_failed",
            "zombie_fenced",
            "slow_commit",
            "clock_jump",
            "state_copied",
            "bucket_written_whole",
            "spilled",
            "read_back",
        ] {
            assert!(report.faults.contains_key(fault), "{fault} never happened: {:?}", report.faults);
        }
    }
}

#[test]
fn a_storm_is_the_same_each_time_for_its_seed() {
    for seed in [3, 4, 5] {
        let (one, other) = (storm(seed), storm(seed));
        assert_eq!((one.faults, one.lives), (other.faults, other.lives), "seed {seed}");
    }
}

/// `make soak SECONDS=…`; `RSS=soak.csv` also writes how much memory it holds as time goes by.
#[test]
#[ignore = "runs as long as SOAK_SECONDS says"]
fn soak() {
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let seed = std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random::<u32>);
    let (began, limit) = (Instant::now(), Duration::from_secs(seconds));
    let (rss, first, done) = (std::env::var("SOAK_RSS").ok(), u64::from(seed), AtomicU64::new(0));
    let more = |seed| {
        done.fetch_max(seed - first, Ordering::Relaxed);
        began.elapsed() < limit
    };
    let so_far = || done.load(Ordering::Relaxed);
    // Of two seeds one is for cells that tell each other.
    let either = |seed: u64| if seed.is_multiple_of(2) { storm(seed) } else { cells::storm(seed) };
    let (report, count) = watched(rss.as_deref(), so_far, || storms(&either, first, more));
    let line = json!({
        "seed": seed, "storms": count, "seconds": began.elapsed().as_secs(), "lives": report.lives,
        "faults": report.faults, "events": report.events, "lost": report.lost, "doubled": report.doubled,
        "accounting_exact": report.wrong.is_empty(), "rss_kib": rss_kib(),
    });
    println!("{line}");
    assert!(report.is_good(), "{:#?}", report.wrong);
}
