//! Object store: the real binary with state and samples in a bucket of a real S3 server, killed and lied to.
//!
//! Holds: whatever happens on the way, the published rows are those of a run on local folders, and a reader that lists
//! the prefix at any moment sees whole files only and no row twice.

use crate::cli::{PIPELINE, conjoin, finish, rows, workspace};
use crate::support::s3::{self, Answer, CarelessStore, Proxy, Request};
use conjoin::env::{BucketSpec, Store};
use serde_json::Value as Json;
use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(240);
const IMPRESSIONS: u32 = 120_000;

/// A pipeline in a bucket behind a proxy, and the rows that it must come to.
struct Setup {
    folder: TempDir,
    proxy: Proxy,
    place: BucketSpec,
    expected: Vec<String>,
}

impl Setup {
    fn new(name: &str, impressions: u32) -> Setup {
        let folder = workspace(impressions);
        let (code, _, errors) = finish(folder.path(), &["run", "p.yaml"]);
        assert_eq!(code, 0, "{errors}");
        let expected = rows(&folder.path().join("out/samples"));
        assert!(expected.len() as u32 >= impressions / 2, "{}", expected.len());
        let proxy = Proxy::start();
        let place = s3::place(&proxy.endpoint(), name);
        fs::write(folder.path().join("bucket.yaml"), pipeline(&proxy.endpoint(), &place, "")).unwrap();
        Setup { folder, proxy, place, expected }
    }

    fn start(&self) -> Child {
        let errors = fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("errors")).unwrap();
        let mut command = conjoin(self.folder.path(), &["run", "bucket.yaml", "--json"]);
        command.stdout(Stdio::null()).stderr(errors).spawn().expect("the binary starts")
    }

    fn errors(&self) -> String {
        fs::read_to_string(self.folder.path().join("errors")).unwrap_or_default()
    }

    /// Runs to the end, which must be good.
    fn finish(&self) -> Json {
        let (code, out, errors) = finish(self.folder.path(), &["run", "bucket.yaml", "--json"]);
        assert_eq!(code, 0, "{errors}");
        let summary: Json = serde_json::from_str(&out).expect("one line of JSON");
        assert_eq!(summary["violations"], 0, "{errors}");
        summary
    }

    fn store(&self) -> Arc<dyn Store> {
        s3::store(&self.place)
    }

    fn manifests(&self) -> usize {
        self.store().list("state/manifests/").unwrap().len()
    }

    /// What the bucket shows is what a run on folders wrote.
    fn check(&self) {
        let mut reader = Reader::new(self.store());
        reader.look();
        let found = rows(reader.folder.path());
        assert_eq!(found.len(), self.expected.len(), "rows");
        assert!(found == self.expected, "the rows differ");
    }
}

fn pipeline(endpoint: &str, place: &BucketSpec, state: &str) -> String {
    let text = PIPELINE
        .replace("streams:\n", &format!("connections:\n  {}\nstreams:\n", s3::connection(endpoint)))
        .replace(
            "path: out/samples, partition_by: [date, hour]",
            &format!("path: \"{place}/samples\", partition_by: [date, hour], roll: {{ age: 300ms }}"),
        )
        .replace("path: out/state,", &format!("path: \"{place}/state\", {state}"));
    assert!(text.contains("lake:") && text.matches("s3://").count() == 3, "{text}");
    text
}

/// A plain reader: lists, and reads every file as soon as it is listed.
struct Reader {
    store: Arc<dyn Store>,
    folder: TempDir,
    seen: BTreeSet<String>,
}

impl Reader {
    fn new(store: Arc<dyn Store>) -> Reader {
        Reader { store, folder: tempfile::tempdir().unwrap(), seen: BTreeSet::new() }
    }

    fn look(&mut self) {
        let listed = self.store.list("samples/").unwrap();
        for object in listed.into_iter().filter(|object| object.path.ends_with(".parquet")) {
            if self.seen.insert(object.path.clone()) {
                let bytes = self.store.read(&object.path).unwrap();
                assert_eq!(bytes.len() as u64, object.bytes, "{}", object.path);
                fs::write(self.folder.path().join(format!("{}.parquet", self.seen.len())), bytes).unwrap();
            }
        }
    }

    /// What was seen so far can be read, and has no row twice.
    fn check(&self) -> usize {
        let seen = rows(self.folder.path());
        let distinct: BTreeSet<&String> = seen.iter().collect();
        assert_eq!(distinct.len(), seen.len(), "rows were seen twice");
        seen.len()
    }
}

fn wait_for(what: &str, run: &mut Child, mut ready: impl FnMut() -> bool) {
    let began = Instant::now();
    while !ready() {
        assert!(run.try_wait().unwrap().is_none(), "it ended before {what}");
        assert!(began.elapsed() < DEADLINE, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn kill(mut run: Child) {
    run.kill().unwrap();
    run.wait().unwrap();
}

/// A copy to a public name is completed, as a POST to its upload.
fn is_publishing(request: &Request) -> bool {
    request.method == "POST" && request.target.contains(".parquet") && request.target.contains("uploadId=")
}

#[test]
fn c1_c2_samples_in_a_bucket_survive_kills_exactly_once_while_a_reader_looks_on() {
    let setup = Setup::new("kills", 2 * IMPRESSIONS);
    let done = Arc::new(AtomicBool::new(false));
    let (stop, store) = (done.clone(), setup.store());
    let watching = std::thread::spawn(move || {
        let mut reader = Reader::new(store);
        while !stop.load(Ordering::Relaxed) {
            reader.look();
            std::thread::sleep(Duration::from_millis(20));
        }
        reader.look();
        reader.check()
    });
    // In the middle of the work.
    let mut run = setup.start();
    let before = setup.manifests();
    wait_for("its first commit", &mut run, || setup.manifests() >= before + 2);
    kill(run);
    // After a copy was made and before the old name went; twice, the second time while the first is mended.
    for round in 0..2 {
        let copied = Arc::new(AtomicBool::new(false));
        let told = copied.clone();
        setup.proxy.rule(move |request| match (told.load(Ordering::Relaxed), is_publishing(request)) {
            (false, true) => {
                told.store(true, Ordering::Relaxed);
                Answer::Lose
            }
            (true, _) => Answer::Status(503), // nothing more gets through until the kill
            _ => Answer::Pass,
        });
        let mut run = setup.start();
        wait_for(&format!("publishing in round {round}"), &mut run, || copied.load(Ordering::Relaxed));
        std::thread::sleep(Duration::from_millis(50));
        kill(run);
        setup.proxy.rule(|_| Answer::Pass);
    }
    // While a manifest is on its way.
    let sent = Arc::new(AtomicBool::new(false));
    let told = sent.clone();
    let mut manifests = 0;
    setup.proxy.rule(move |request| {
        manifests += (request.method == "PUT" && request.target.contains("/manifests/")) as u32;
        if manifests == 2 {
            told.store(true, Ordering::Relaxed);
            return Answer::Late(Duration::from_secs(2));
        }
        Answer::Pass
    });
    let mut run = setup.start();
    wait_for("a manifest on its way", &mut run, || sent.load(Ordering::Relaxed));
    kill(run);
    setup.proxy.rule(|_| Answer::Pass);
    setup.finish();
    done.store(true, Ordering::Relaxed);
    let seen = watching.join().expect("the reader found nothing wrong");
    assert_eq!(seen, setup.expected.len());
    setup.check();
}

#[test]
fn c6_every_fifth_answer_to_a_write_is_lost_and_no_row_is() {
    let setup = Setup::new("lost-answers", IMPRESSIONS / 4);
    let lost = Arc::new(Mutex::new(0));
    let (counted, mut writes) = (lost.clone(), 0);
    setup.proxy.rule(move |request| {
        if matches!(request.method.as_str(), "GET" | "HEAD") {
            return Answer::Pass;
        }
        writes += 1;
        if writes % 5 != 0 {
            return Answer::Pass;
        }
        *counted.lock().unwrap() += 1;
        if writes % 10 == 0 { Answer::Instead(500) } else { Answer::Lose }
    });
    setup.finish();
    assert!(*lost.lock().unwrap() >= 5, "{}", lost.lock().unwrap());
    setup.check();
}

#[test]
fn c7_a_store_that_is_away_for_seconds_is_waited_for() {
    let setup = Setup::new("away", IMPRESSIONS / 2);
    let began = Arc::new(Mutex::new(None::<Instant>));
    let started = began.clone();
    setup.proxy.rule(move |request| {
        let mut began = started.lock().unwrap();
        if began.is_none() && request.target.contains("/state/state") && request.method == "PUT" {
            *began = Some(Instant::now());
        }
        match *began {
            Some(began) if began.elapsed() < Duration::from_secs(4) => Answer::Status(503),
            Some(began) if began.elapsed() < Duration::from_secs(6) => Answer::Late(Duration::from_millis(100)),
            _ => Answer::Pass,
        }
    });
    let summary = setup.finish();
    assert!(began.lock().unwrap().is_some());
    assert_eq!(summary["counts"]["samples"][0]["anchor"]["emitted"], setup.expected.len() as u64);
    setup.check();
}

#[test]
fn c8_a_store_that_ignores_conditions_is_refused_before_anything_is_claimed() {
    let careless = CarelessStore::start();
    let folder = workspace(1_000);
    let place = s3::place(&careless.endpoint, "careless");
    fs::write(folder.path().join("bucket.yaml"), pipeline(&careless.endpoint, &place, "")).unwrap();
    let (code, _, errors) = finish(folder.path(), &["run", "bucket.yaml"]);
    assert_eq!(code, 1, "{errors}");
    assert!(errors.contains("If-None-Match") && errors.contains("use a store that honours them"), "{errors}");
    let objects = careless.objects.lock().unwrap();
    assert!(objects.keys().all(|key| !key.contains("manifests")), "{:?}", objects.keys());
}

#[test]
fn c9_what_is_missing_or_cut_short_after_its_upload_is_not_committed() {
    for (name, cut_short) in [("missing", false), ("short", true)] {
        for (kind, ending) in [("/state/state/", ".state"), ("/samples/", ".staged")] {
            let setup = Setup::new(name, IMPRESSIONS / 20);
            let (store, prefix) = (setup.store(), setup.place.prefix.clone());
            let spoilt = Arc::new(Mutex::new(None));
            let told = spoilt.clone();
            // It is looked at before the manifest may name it: just before, half of it goes.
            setup.proxy.rule(move |request| {
                let mut spoilt = told.lock().unwrap();
                let target = request.target.replace("%3D", "=");
                if spoilt.is_none() && request.method == "HEAD" && target.contains(kind) && target.ends_with(ending) {
                    let path = target.split_once(&format!("{prefix}/")).unwrap().1.to_owned();
                    let bytes = store.read(&path).unwrap();
                    store.delete(&path).unwrap();
                    if cut_short {
                        store.create(&path, &bytes[..bytes.len() / 2]).unwrap();
                    }
                    *spoilt = Some(path);
                }
                Answer::Pass
            });
            let (code, _, errors) = finish(setup.folder.path(), &["run", "bucket.yaml"]);
            let path = spoilt.lock().unwrap().clone().expect("something was looked at");
            assert_eq!(code, 1, "{path}: {errors}");
            assert!(errors.contains(path.rsplit('/').next().unwrap()), "{path}: {errors}");
            for manifest in setup.store().list("state/manifests/").unwrap() {
                let text = String::from_utf8(setup.store().read(&manifest.path).unwrap()).unwrap();
                assert!(!text.contains(path.trim_start_matches("state/").trim_start_matches("samples/")), "{text}");
            }
            setup.proxy.rule(|_| Answer::Pass);
            setup.finish();
            setup.check();
        }
    }
}

#[test]
fn orphans_of_killed_runs_are_deleted_when_they_are_old_and_nothing_else_is() {
    let setup = Setup::new("orphans", IMPRESSIONS);
    let text = pipeline(&setup.proxy.endpoint(), &setup.place, "keep_orphans: 0s, ");
    fs::write(setup.folder.path().join("bucket.yaml"), text).unwrap();
    let mut run = setup.start();
    wait_for("the first commit", &mut run, || setup.manifests() >= 2);
    kill(run);
    let store = setup.store();
    let manifest = store.list("state/manifests/").unwrap().pop().unwrap();
    let manifest: Json = serde_json::from_slice(&store.read(&manifest.path).unwrap()).unwrap();
    let chain = manifest["chain"].as_u64().unwrap();
    // As a writer of the first epoch may have left them, and others that are not ours to judge.
    let orphans = [
        "state/state/000000000900-1-deadbeef.state".to_owned(),
        format!("samples/date=2026-01-01/hour=00/.part-ctr-0-1-900-{chain:08x}.staged"),
    ];
    let others = ["state/state/notes.txt", "samples/.part-ctr-0-1-900-00000001.staged", "samples/readme.md"];
    for path in orphans.iter().map(String::as_str).chain(others) {
        store.create(path, b"x").unwrap();
    }
    // Ten commits are a second here; no orphan goes before that, whatever `keep_orphans` says.
    std::thread::sleep(Duration::from_millis(1_500));
    setup.finish();
    setup.finish();
    for path in &orphans {
        assert_eq!(store.size(path).unwrap(), None, "{path}; {}", setup.errors());
    }
    for path in others {
        assert_eq!(store.size(path).unwrap(), Some(1), "{path}");
    }
    setup.check();
}
