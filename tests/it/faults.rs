//! Faults: by their numbers in docs/FAULTS.md, against the real binary on a real Kafka.

use crate::kill::{
    IMPRESSIONS, Log, Outcome, SLOWLY, copy, finish, leftovers, outcome, reference, scratch, template, trapped,
};
use crate::support::binary::{Conjoin, newest_manifest, rows, wait_for};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A log, a pipeline over it that is in the middle of its life, and what must come out.
struct Case {
    template: TempDir,
    expected: Outcome,
}

impl Case {
    fn new() -> Case {
        let log = Log::new();
        let template = template(&log);
        let (expected, _) = reference(&log);
        Case { template, expected }
    }

    fn folder(&self) -> TempDir {
        let folder = scratch();
        copy(self.template.path(), folder.path());
        folder
    }

    /// A run to the end gives what a run without faults gives, and leaves nothing behind.
    fn finishes(&self, folder: &Path, what: &str) {
        let summary = finish(folder, "finish");
        assert_eq!(outcome(folder, &summary), self.expected, "{what}");
        let left = leftovers(folder);
        assert!(left.is_empty(), "{what}: left behind {left:?}");
    }
}

/// An empty pipeline over a log that is written.
pub fn started(log: &Log) -> TempDir {
    let folder = scratch();
    log.write_pipeline(folder.path());
    folder
}

/// The newest manifest.
pub fn newest(folder: &Path) -> Value {
    let path = folder.join(format!("state/manifests/{:020}.json", newest_manifest(folder)));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

pub fn records(streams: &Value) -> u64 {
    streams.as_object().unwrap().values().map(|stream| stream["records"].as_u64().unwrap()).sum()
}

/// What a person sees last.
fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or_default().to_owned()
}

pub fn says(error: &str, words: &[&str]) {
    assert!(words.iter().all(|word| error.contains(word)), "{words:?} in:\n{error}");
    assert!(!error.contains("panicked"), "{error}");
}

#[test]
fn fault_04_05_a_disk_that_is_full_or_fails_stops_the_run_with_its_path_and_the_next_one_goes_on() {
    let case = Case::new();
    let mut stories = Vec::new();
    for at in [1, 2, 5, 11, 24] {
        stories.push((format!("store-open:before:{at}:full"), "the disk is full"));
        stories.push((format!("store-write:before:{at}:full"), "the disk is full"));
        stories.push((format!("store-write:before:{at}:short"), "cannot write"));
        stories.push((format!("store-fsync:before:{at}:eio"), "cannot fsync"));
        stories.push((format!("store-sync:before:{at}:eio"), "cannot fsync"));
    }
    for (trap, word) in stories {
        let folder = case.folder();
        let error = last_line(&trapped(folder.path(), "trapped", &trap).failure());
        says(&error, &[word, "/"]);
        assert!(["state/", "samples/"].iter().any(|place| error.contains(place)), "{trap}: {error}");
        case.finishes(folder.path(), &trap);
    }
}

#[test]
fn fault_04_a_full_file_system_stops_the_run_and_space_lets_it_go_on() {
    let case = Case::new();
    let folder = case.folder();
    let small = folder.path().join("samples");
    fs::create_dir_all(&small).unwrap();
    let kept = scratch();
    copy(&small, kept.path());
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"]).arg(&small).status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("not allowed to mount a small file system: fault_04_05 fills the disk by failpoint instead");
        return;
    }
    copy(kept.path(), &small);
    // As much of it as there is room for.
    assert!(fs::write(small.join("ballast"), vec![0; 4 << 20]).is_err());
    let error = last_line(&trapped(folder.path(), "full", SLOWLY).failure());
    fs::remove_file(small.join("ballast")).unwrap();
    let summary = finish(folder.path(), "finish");
    let found = outcome(folder.path(), &summary);
    assert!(Command::new("umount").arg(&small).status().unwrap().success());
    says(&error, &["the disk is full", "samples/date="]);
    assert_eq!(found, case.expected);
}

/// The owner stands still at the worst moments while another one takes over, and dies; then the old one wakes up.
#[test]
fn fault_10_an_owner_that_slept_through_a_takeover_halts_and_changes_nothing() {
    let case = Case::new();
    let moments = [
        "claim-write:after:1",
        "sweep:before:1",
        "restore:before:1",
        "cut:before:2",
        "parquet-stage:before:2",
        "state-write:before:2",
        "manifest-create:before:1",
        "manifest-create:before:4",
        "manifest-create:after:2",
        "publish-rename:before:2",
        "store-link:before:9",
    ];
    for moment in moments {
        let folder = case.folder();
        let mut old = trapped(folder.path(), "old", &format!("{moment}:stop"));
        old.wait_until_stopped();
        let new = trapped(folder.path(), "new", "manifest-create:after:6:kill").wait();
        assert_eq!(new.signal(), Some(libc::SIGKILL));
        old.signal(libc::SIGCONT);
        let error = old.failure();
        says(&error, &["another process", "has taken over"]);
        case.finishes(folder.path(), moment);
    }
}

#[test]
fn fault_11_of_two_processes_on_one_state_one_goes_on_and_the_other_says_why_it_stops() {
    let case = Case::new();
    for number in 0..3 {
        let folder = case.folder();
        let run = |name: &str| Conjoin::run_with(folder.path(), name, &["--json"], "read:before:*:slow25");
        let mut both = [run("one"), run("two")];
        let ended = wait_for("one of them to stop", || {
            let running = both.each_mut().map(Conjoin::is_running);
            assert!(running != [false, false], "{} {}", both[0].errors(), both[1].errors());
            (running != [true, true]).then_some(usize::from(running[0]))
        });
        let [one, two] = both;
        let (loser, mut winner) = if ended == 0 { (one, two) } else { (two, one) };
        says(&loser.failure(), &["another process", "has taken over", "without committing"]);
        assert!(winner.is_running());
        winner.terminate();
        assert_eq!(winner.summary()["violations"], 0);
        case.finishes(folder.path(), &format!("round {number}"));
    }
}

#[test]
fn fault_16_records_that_retention_took_before_they_were_read_stop_the_run_with_the_exact_range() {
    let log = Log::new();
    log.produce(0, 200);
    let folder = started(&log);
    assert_eq!(Conjoin::run(folder.path(), "first", &["--until-end", "--json"]).summary()["violations"], 0);
    log.produce(200, 400);
    // 100 impressions of each 200 lie in partition 0.
    log.kafka.delete_records(&log.feed, 0, 130);
    let before = newest_manifest(folder.path());
    let error = Conjoin::run(folder.path(), "second", &["--until-end"]).failure();
    says(&error, &[&log.feed, "partition 0 lost the offsets 100 to 129 (30 of them)"]);
    assert!(newest_manifest(folder.path()) <= before + 1, "nothing but the claim was written");
}

#[test]
fn fault_17_a_topic_that_was_made_anew_stops_the_run() {
    let log = Log::new();
    log.produce(0, 200);
    let folder = started(&log);
    assert_eq!(Conjoin::run(folder.path(), "first", &["--until-end", "--json"]).summary()["violations"], 0);
    log.kafka.recreate_topic(&log.feed, 2);
    let error = Conjoin::run(folder.path(), "second", &["--until-end"]).failure();
    says(&error, &[&log.feed, "made anew or truncated"]);
}

#[test]
fn fault_18_a_topic_that_grew_while_nobody_looked_stops_the_run() {
    let log = Log::new();
    log.produce(0, 200);
    let folder = started(&log);
    assert_eq!(Conjoin::run(folder.path(), "first", &["--until-end", "--json"]).summary()["violations"], 0);
    log.kafka.grow_topic(&log.feed, 3);
    let error = Conjoin::run(folder.path(), "second", &["--until-end"]).failure();
    says(&error, &[&log.feed, "has 3 partitions, it had 2"]);
}

/// Found by reading: without a record the start was no part of any manifest, and `latest` meant the latest of each start.
#[test]
fn a_start_at_the_end_is_decided_once() {
    let log = Log::new();
    log.produce(0, 100);
    let folder = started(&log);
    let path = folder.path().join("pipeline.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("] },\n", "], start: latest },\n")).unwrap();
    let run = Conjoin::run(folder.path(), "first", &["--json"]);
    wait_for("the first commit", || (newest_manifest(folder.path()) > 0).then_some(()));
    run.kill();
    log.produce(100, 200);
    let summary = finish(folder.path(), "second");
    assert_eq!(summary["streams"]["impressions"]["records"], 102, "{summary}");
    assert_eq!(rows(&folder.path().join("samples")).len(), 100);
}

#[test]
fn fault_21_records_that_were_produced_again_change_no_row() {
    let log = Log::new();
    log.produce(0, 300);
    let folder = started(&log);
    Conjoin::run(folder.path(), "first", &["--until-end", "--json"]).summary();
    log.produce(0, 300);
    let summary = finish(folder.path(), "second");
    let anchor = &summary["counts"]["samples"][0]["anchor"];
    let count = |name: &str| anchor[name].as_u64().unwrap();
    assert_eq!((count("emitted"), count("duplicate") + count("late")), (300, 300), "{anchor}");
    assert_eq!(rows(&folder.path().join("samples")).len(), 300);
}

#[test]
fn fault_27_monstrous_records_become_dead_letters() {
    let folder = scratch();
    let at = 1_767_225_600_000i64;
    let keys = |count: u32| (0..count).map(|key| format!("\"k{key}\":0,")).collect::<String>();
    let (many, too_many) = (keys(400_000), keys(1_000_000));
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let lines = [
        (format!("{{\"id\":\"deep\",\"at\":{at},\"n\":{deep}}}"), Some("too_deep")),
        (format!("{{{many}\"id\":\"wide\",\"at\":{at},\"n\":1}}"), None),
        (format!("{{{too_many}\"id\":\"wider\",\"at\":{at},\"n\":1}}"), Some("too_large")),
        (format!("{{\"id\":\"overflow\",\"at\":{at},\"n\":9223372036854775808}}"), Some("out_of_range")),
        ("{\"id\":\"time\",\"at\":92233720368547758070,\"n\":1}".to_string(), Some("out_of_range")),
        (format!("{{\"id\":\"nan\",\"at\":{at},\"n\":NaN}}"), Some("malformed_json")),
        (format!("{{\"id\":\"huge\",\"at\":{at},\"n\":1e400}}"), Some("out_of_range")),
        (format!("{{\"id\":\"good\",\"at\":{at},\"n\":1}}"), None),
    ];
    let text: String = lines.iter().map(|(line, _)| line.clone() + "\n").collect();
    fs::write(folder.path().join("in.ndjson"), text).unwrap();
    let pipeline = "version: 1\npipeline: monsters\nstreams:\n  impressions: { file: { path: in.ndjson }, columns: { id: \
                    string, at: timestamp, n: int64 }, time: at, id: id, key: id, lateness: 1s }\nsamples:\n  s: { from: \
                    impressions, write: { parquet: { path: samples } } }\nstate: { path: state, lanes: 1 }\n";
    fs::write(folder.path().join("pipeline.yaml"), pipeline).unwrap();
    Conjoin::run(folder.path(), "run", &["--json"]).summary();
    let mut found: Vec<String> = rows(&folder.path().join("state/dead-letters"))
        .iter()
        .map(|row| row["reason"].as_str().unwrap().into())
        .collect();
    found.sort();
    let mut reasons: Vec<&str> = lines.iter().filter_map(|(_, reason)| *reason).collect();
    reasons.sort_unstable();
    let ids: Vec<Value> = rows(&folder.path().join("samples")).iter().map(|row| row["id"].clone()).collect();
    assert_eq!((found, ids), (reasons.into_iter().map(String::from).collect(), vec![json!("wide"), json!("good")]));
}

#[test]
fn fault_38_a_flipped_bit_in_a_manifest_state_object_or_file_is_refused_with_its_name() {
    let log = Log::new();
    log.produce(0, IMPRESSIONS);
    let folder = started(&log);
    let unpublished = || {
        let samples = folder.path().join("samples");
        let staged = |path: &PathBuf| path.starts_with(&samples) && path.to_str().unwrap().contains("/.part-");
        leftovers(folder.path()).iter().any(staged)
    };
    // Not every commit has a file.
    while !unpublished() {
        let killed = trapped(folder.path(), "killed", "manifest-create:after:4:kill").wait();
        assert_eq!(killed.signal(), Some(libc::SIGKILL));
    }
    let newest = |below: &str, prefix: &str| -> PathBuf {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                if entry.path().is_dir() { walk(&entry.path(), found) } else { found.push(entry.path()) }
            }
        }
        let mut found = Vec::new();
        walk(&folder.path().join(below), &mut found);
        found.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix));
        found.sort();
        found.pop().expect("it left one")
    };
    let victims = [newest("state/manifests", ""), newest("state/state", ""), newest("samples", ".part-")];
    for victim in victims {
        let whole = fs::read(&victim).unwrap();
        for at in [0, whole.len() / 3, whole.len() / 2, whole.len() - 70, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            fs::write(&victim, bytes).unwrap();
            let copied = scratch();
            copy(folder.path(), copied.path());
            let mut run = trapped(copied.path(), "flipped", SLOWLY);
            let status = run.wait();
            let name = victim.file_name().unwrap().to_str().unwrap();
            // Of a state object only what is needed is read; what is read is checked.
            if status.success() && victim.starts_with(folder.path().join("state/state")) {
                continue;
            }
            says(&run.failure(), &[name]);
        }
        fs::write(&victim, &whole).unwrap();
    }
    let summary = finish(folder.path(), "finish");
    assert_eq!(outcome(folder.path(), &summary), reference(&log).0);
}

#[test]
fn fault_43_a_run_that_is_told_to_stop_commits_what_it_read_and_nothing_is_read_twice() {
    let case = Case::new();
    let folder = case.folder();
    let run = Conjoin::run(folder.path(), "first", &["--json"]);
    let all = records(&case.expected.books()["streams"]);
    wait_for("the end of the log", || (records(&newest(folder.path())["streams"]) == all).then_some(()));
    run.terminate();
    run.summary();
    let summary = finish(folder.path(), "second");
    assert_eq!(summary["records"], 0, "{summary}");
    assert_eq!(outcome(folder.path(), &summary), case.expected);
}

#[test]
fn fault_44_a_slow_disk_makes_commits_rare_and_changes_nothing_else() {
    let case = Case::new();
    let folder = case.folder();
    let slow = "store-fsync:before:*:slow40,store-sync:before:*:slow40";
    let summary = trapped(folder.path(), "slow", slow).summary();
    assert_eq!(outcome(folder.path(), &summary), case.expected);
}
