//! Kill: the real binary on a real Kafka dies before and after every step of the commit protocol, and again while it
//! recovers; then it finishes, and everything is as if nothing had happened (F1, F2, F5, F7).
//!
//! While it dies and recovers, a reader loops over the published folder with a plain glob: it must never see a row twice
//! or a file that cannot be read.

use crate::support::binary::{Conjoin, file_rows, files, rows};
use crate::support::kafka::{KafkaProducer, TestRecord, brokers};
use conjoin::env::failpoint::Failpoint;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const START: i64 = 1_767_225_600_000;
pub const IMPRESSIONS: i64 = 900;
/// Processes that die side by side.
const SIDE_BY_SIDE: usize = 3;
/// The recovering process dies at one of these.
const SECOND: [&str; 12] = [
    "claim-list:after",
    "claim-write:before",
    "claim-write:after",
    "seek:after",
    "restore-list:after",
    "sweep:before",
    "sweep:after",
    "restore:after",
    "cut:after",
    "state-write:after",
    "manifest-create:after",
    "publish-rename:before",
];

/// Two topics and a pipeline over them.
pub struct Log {
    pub kafka: KafkaProducer,
    brokers: String,
    pub feed: String,
    pub clicks: String,
}

impl Log {
    pub fn new() -> Log {
        // Small batches, one per fetch: then there are many commits although the log is short.
        let kafka = KafkaProducer::with(&brokers(), &[("batch.num.messages", "8")]);
        let (feed, clicks) = (kafka.create_topic("kill-feed", 2), kafka.create_topic("kill-clicks", 1));
        Log::on(&brokers(), kafka, feed, clicks)
    }

    /// On topics that are there: two partitions and one.
    pub fn on(brokers: &str, kafka: KafkaProducer, feed: String, clicks: String) -> Log {
        Log { kafka, brokers: brokers.to_owned(), feed, clicks }
    }

    pub fn write_pipeline(&self, folder: &Path) {
        let Log { feed, clicks, brokers, .. } = self;
        let text = format!(
            r#"version: 1
pipeline: kill
connections:
  main: {{ kafka: {{ brokers: "{brokers}", properties: {{ max.partition.fetch.bytes: "${{FETCH_BYTES:-1048576}}", fetch.wait.max.ms: "20", queued.min.messages: "${{FETCH_AHEAD:-100000}}", fetch.queue.backoff.ms: "1" }} }} }}
streams:
  impressions: {{
    kafka: {{ connection: main, topics: [{feed}] }},
    columns: {{ id: string, user: string, at: timestamp }},
    time: at, id: id, key: id, partition_by: user, lateness: 2s, idle_after: 1h }}
  clicks: {{
    kafka: {{ connection: main, topics: [{clicks}] }},
    columns: {{ event: string, id: string, user: string, at: timestamp }},
    time: at, id: event, key: id, partition_by: user, lateness: 2s, idle_after: 1h }}
features:
  activity:
    entity: user
    aggregates:
      shown: {{ from: impressions, count: "*", windows: [10m] }}
      clicked: {{ from: clicks, count: "*", windows: [10m] }}
samples:
  ctr:
    from: impressions
    join:
      click: {{ stream: clicks, within: 2m, take: first, select: [event, at] }}
      clicks: {{ stream: clicks, within: 2m, take: count }}
    features: [activity]
    write: {{ parquet: {{ path: samples, partition_by: [date, hour], roll: {{ size: 1MB, age: 1ms }} }} }}
state: {{ path: state, commit_every: 1ms, lanes: 2, keep_orphans: 0s }}
"#
        );
        fs::write(folder.join("pipeline.yaml"), text).unwrap();
    }

    /// Impressions `from..to`, seven seconds apart, with their clicks; now and then a record that nobody can read.
    pub fn produce(&self, from: i64, to: i64) {
        let (mut feed, mut clicks) = (Vec::new(), Vec::new());
        for number in from..to {
            let (at, user) = (START + number * 7_000, format!("u{}", number % 23));
            feed.push(((number % 2) as i32, json!({ "id": format!("i{number}"), "user": user, "at": at })));
            for click in 0..number % 3 {
                let event = json!({ "event": format!("c{number}-{click}"), "id": format!("i{number}"), "user": user,
                    "at": at + 1_000 + click * 500 });
                clicks.push((0, event));
            }
            if number % 50 == 49 {
                feed.push((1, json!("poison")));
                let again = clicks.last().expect("the 49th has a click").clone();
                clicks.push(again);
            }
        }
        for (topic, records) in [(&self.feed, feed), (&self.clicks, clicks)] {
            let texts: Vec<_> = records.iter().map(|(partition, record)| (*partition, record.to_string())).collect();
            let test = |(partition, text): &'_ (i32, String)| (*partition, text.clone().into_bytes());
            let bytes: Vec<_> = texts.iter().map(test).collect();
            let records: Vec<_> = bytes
                .iter()
                .map(|(partition, bytes)| TestRecord {
                    partition: *partition,
                    payload: Some(bytes),
                    ..TestRecord::default()
                })
                .collect();
            self.kafka.produce(topic, &records);
        }
    }
}

/// Reads slowly, so that a short log is worth many commits.
pub const SLOWLY: &str = "read:before:*:slow3";

/// What a run left, in a form that can be compared: rows as a sorted list, and the books.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    rows: Vec<String>,
    books: Value,
}

impl Outcome {
    pub fn books(&self) -> &Value {
        &self.books
    }
}

pub fn outcome(folder: &Path, summary: &Value) -> Outcome {
    let mut rows: Vec<String> = rows(&folder.join("samples")).iter().map(|row| format!("{row:?}")).collect();
    rows.sort();
    let sample = &summary["counts"]["samples"][0];
    let totals = |name: &str| summary["totals"][name].clone();
    let books = json!({
        "streams": summary["streams"], "anchor": sample["anchor"], "labels": sample["labels"],
        "uses": summary["counts"]["groups"][0]["uses"],
        "file_rows": totals("file_rows"), "dead_letter_rows": totals("dead_letter_rows"),
    });
    Outcome { rows, books }
}

pub fn finish(folder: &Path, name: &str) -> Value {
    Conjoin::run(folder, name, &["--until-end", "--close", "--json"]).summary()
}

/// A run to the end of the log, with a trap on its way.
pub fn trapped(folder: &Path, name: &str, trap: &str) -> Conjoin {
    Conjoin::run_with(folder, name, &["--until-end", "--close", "--json"], &format!("{trap},{SLOWLY}"))
}

/// Reads every file once, as soon as a glob shows it; says what it should not have seen.
fn reader(folder: &Path, stop: &AtomicBool) -> Result<usize, String> {
    let (mut seen, mut ids) = (BTreeSet::new(), BTreeSet::new());
    loop {
        let last = stop.load(Ordering::SeqCst);
        for path in files(&folder.join("samples"), ".parquet") {
            if !seen.insert(path.clone()) {
                continue;
            }
            let read = std::panic::catch_unwind(|| file_rows(&path));
            let rows = read.map_err(|_| format!("{} cannot be read", path.display()))?;
            for row in rows {
                let id = row["id"].as_str().unwrap().to_owned();
                if !ids.insert(id.clone()) {
                    return Err(format!("{id} is there twice, the second time in {}", path.display()));
                }
            }
        }
        if last {
            return Ok(ids.len());
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// A folder in memory where there is one: a killed process loses nothing that the kernel has, and thousands of fsyncs are
/// what takes the time.
pub fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// Whatever a crash leaves behind must be gone when a later run has ended.
pub fn leftovers(folder: &Path) -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if entry.file_name().to_string_lossy().starts_with('.') {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&folder.join("samples"), &mut found);
    walk(&folder.join("state"), &mut found);
    found
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Which time a point is to be deadly: those that come once, and those that come with every commit or file.
fn times(point: Failpoint) -> &'static [u64] {
    use Failpoint::*;
    match point {
        Read => &[3],
        ClaimList | ClaimLoad | ClaimWrite | Seek | RestoreList | Sweep | SweepObject | Restore => &[1],
        ForgetObject | ForgetManifests => &[1],
        // One process has nobody to tell; tests of groups kill it there. And this one has no topic to write to.
        HandOver | OutboxWrite | OutboxSend | OutboxSent => &[],
        StoreOpen | StoreWrite | StoreFsync | StoreLink | StoreUnlink | StoreSync => &[1, 8],
        _ => &[1, 5],
    }
}

/// One crash story; what went wrong in it.
fn story(template: &Path, first: &str, second: &str, expected: &Outcome) -> Result<(), String> {
    let folder = scratch();
    copy(template, folder.path());
    let folder = folder.path();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| reader(folder, &stop));
        let told = (|| {
            // Forgetting begins some twenty commits after what is forgotten was needed last.
            let more_commits = if first.starts_with("forget") { "read:before:*:slow17," } else { "" };
            let killed = trapped(folder, "first", &format!("{more_commits}{first}:kill")).wait();
            if killed.signal() != Some(libc::SIGKILL) {
                return Err(format!("was never there: {killed}"));
            }
            // It may end well: then there was nothing to do at this point.
            let end = ["--until-end", "--close"];
            Conjoin::run_with(folder, "second", &end, &format!("{second}:1:kill")).wait();
            Ok(finish(folder, "third"))
        })();
        stop.store(true, Ordering::SeqCst);
        let watched = watching.join().unwrap();
        let summary = told?;
        watched?;
        let found = outcome(folder, &summary);
        if &found != expected {
            let missing = expected.rows.iter().filter(|row| !found.rows.contains(row)).count();
            return Err(format!(
                "{} rows of {}, {missing} missing\n  {}\n  {}",
                found.rows.len(),
                expected.rows.len(),
                found.books,
                expected.books
            ));
        }
        let left = leftovers(folder);
        if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:?}")) }
    })
}

#[test]
fn fault_01_02_killed_before_and_after_every_step_and_again_while_recovering() {
    let log = Log::new();
    let began = Instant::now();
    let template = template(&log);
    let (expected, commits) = reference(&log);
    let moments = ["before", "after"];
    let stories: Vec<String> = Failpoint::ALL
        .iter()
        // One process alone tells nobody: group_faults.rs kills it there.
        .filter(|point| **point != Failpoint::HandOver)
        .flat_map(|point| times(*point).iter().map(move |time| (point.name(), time)))
        .flat_map(|(name, time)| moments.map(|moment| format!("{name}:{moment}:{time}")))
        .collect();
    let stories: Vec<String> = match std::env::var("CONJOIN_KILL_AT") {
        Ok(only) => stories.into_iter().filter(|story| story.contains(&only)).collect(),
        Err(_) => stories,
    };
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    let Some(first) = stories.get(number) else { break };
                    let second = SECOND[number % SECOND.len()];
                    if let Err(what) = story(template.path(), first, second, &expected) {
                        wrong.lock().unwrap().push(format!("{first} then {second}: {what}"));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    println!(
        "{} stories in {:.1} s; the run without faults made {} commits",
        stories.len(),
        began.elapsed().as_secs_f64(),
        commits
    );
    assert!(wrong.is_empty(), "{} of {} stories:\n{}", wrong.len(), stories.len(), wrong.join("\n"));
}

/// What a run without faults gives, and how many commits it made on its way.
pub fn reference(log: &Log) -> (Outcome, u64) {
    let reference = scratch();
    log.write_pipeline(reference.path());
    let summary = trapped(reference.path(), "reference", SLOWLY).summary();
    let expected = outcome(reference.path(), &summary);
    assert_eq!(expected.rows.len() as i64, IMPRESSIONS);
    (expected, summary["commits"].as_u64().unwrap())
}

/// A pipeline in the middle of its life: rows pending, files that are committed but not published, and what a process
/// that died a moment ago left behind.
pub fn template(log: &Log) -> TempDir {
    let template = scratch();
    log.write_pipeline(template.path());
    log.produce(0, IMPRESSIONS / 3);
    for deadly in ["publish-rename:before:3", "state-write:after:1"] {
        let run = ["--until-end"];
        let trap = format!("{deadly}:kill,{SLOWLY}");
        let killed = Conjoin::run_with(template.path(), "template", &run, &trap).wait();
        assert_eq!(killed.signal(), Some(libc::SIGKILL), "{deadly}");
    }
    log.produce(IMPRESSIONS / 3, IMPRESSIONS);
    template
}
