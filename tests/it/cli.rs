//! The binary as people use it: exit codes, what it prints, what it leaves behind.

use crate::support::binary::{Begun, ended, output};
use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value as Json;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const DEADLINE: Duration = Duration::from_secs(300);

/// The binary in a folder of its own, as an empty environment would run it.
pub(crate) fn conjoin(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_conjoin"));
    command.current_dir(folder).args(args).env_remove("LISTEN").env("RUST_LOG", "info");
    command
}

pub(crate) fn finish(folder: &Path, args: &[&str]) -> (i32, String, String) {
    outcome(output(&mut conjoin(folder, args)))
}

fn outcome(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the output is text");
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// A pipeline over generated files, small and without a model.
pub(crate) const PIPELINE: &str = r#"
version: 1
pipeline: small
streams:
  impressions:
    file: { path: "data/impressions.ndjson" }
    columns:
      request_id: string
      user_id: string
      ts: { type: timestamp, unit: ms }
      item_id: { type: string, path: $.id, from: item }
      position: { type: int32, path: $index, from: item }
    explode: { path: $.items, as: item, max: 50 }
    time: ts
    key: [request_id, item_id]
    partition_by: user_id
    lateness: 5s
  clicks:
    file: { path: "data/clicks.ndjson" }
    columns: { event_id: string, request_id: string, item_id: string, user_id: string, ts: timestamp }
    time: ts
    id: event_id
    key: [request_id, item_id]
    partition_by: user_id
    lateness: 5s
features:
  user:
    entity: user_id
    aggregates:
      user_clicks: { from: clicks, count: "*", windows: [1h] }
      user_items: { from: clicks, last_k: item_id, k: 3, windows: [1h] }
samples:
  ctr:
    from: impressions
    serving_lag: 0s
    join: { click: { stream: clicks, within: 10m, take: first, select: [ts] } }
    features: [user]
    columns: { clicked: "click.ts IS NOT NULL" }
    write: { parquet: { path: out/samples, partition_by: [date, hour] } }
online: { store: memory }
state: { path: out/state, commit_every: 100ms, lanes: 2 }
"#;

/// A folder with the pipeline and so many impressions.
pub(crate) fn workspace(impressions: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder can be made");
    fs::write(folder.path().join("p.yaml"), PIPELINE).expect("the pipeline can be written");
    let impressions = impressions.to_string();
    let (code, _, errors) = finish(folder.path(), &["gen", "--out", "data", "--impressions", &impressions]);
    assert_eq!(code, 0, "{errors}");
    folder
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path if path.to_string_lossy().ends_with(ending) => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// Every row of every sample file as a line of text, sorted.
pub(crate) fn rows(folder: &Path) -> Vec<String> {
    let mut rows = Vec::new();
    for path in files(folder, ".parquet") {
        let file = fs::File::open(&path).expect("the file opens");
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|builder| builder.build());
        for batch in reader.expect("it is Parquet") {
            add_rows(&batch.expect("the batch decodes"), &mut rows);
        }
    }
    rows.sort();
    rows
}

fn add_rows(batch: &RecordBatch, rows: &mut Vec<String>) {
    let options = FormatOptions::default().with_null("null");
    let columns: Vec<ArrayFormatter<'_>> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options).expect("it can be shown"))
        .collect();
    rows.extend(
        (0..batch.num_rows())
            .map(|row| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join("|")),
    );
}

fn truth(folder: &Path) -> Json {
    let text = fs::read_to_string(folder.join("truth.json")).expect("the truth is there");
    serde_json::from_str(&text).expect("the truth is JSON")
}

#[test]
fn check_says_that_a_good_file_is_fine_and_everything_that_is_wrong_with_a_broken_one() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    fs::write(folder.path().join("good.yaml"), PIPELINE).expect("the file can be written");
    let (code, out, errors) = finish(folder.path(), &["check", "good.yaml"]);
    assert_eq!(
        (code, out.as_str()),
        (0, "pipeline small is fine: 2 streams, 1 feature group, 1 sample, 0 models\n"),
        "{errors}"
    );
    let broken = PIPELINE
        .replace("take: first", "take: frist")
        .replace("    lateness: 5s\nfeatures", "    latenes: 5s\nfeatures");
    fs::write(folder.path().join("broken.yaml"), broken).expect("the file can be written");
    let (code, out, errors) = finish(folder.path(), &["check", "broken.yaml"]);
    assert_eq!((code, out.as_str()), (2, ""), "{errors}");
    for part in ["broken.yaml:25", "did you mean `lateness`?", "did you mean `first`?"] {
        assert!(errors.contains(part), "{part} is not in:\n{errors}");
    }
    let (code, _, errors) = finish(folder.path(), &["check", "nowhere.yaml"]);
    assert!(code == 2 && errors.contains("nowhere.yaml: cannot be read"), "{code} {errors}");
    for config in ["config/demo.yaml", "config/ctr.yaml", "config/bench.yaml"] {
        let (code, out, errors) = finish(Path::new(ROOT), &["check", config]);
        assert!(code == 0 && out.contains("is fine"), "{config}: {errors}");
    }
}

#[test]
fn state_memory_is_accepted_without_a_warning() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    fs::write(folder.path().join("p.yaml"), PIPELINE).expect("the file can be written");
    let (code, _, errors) = finish(folder.path(), &["check", "p.yaml", "--set", "state.memory=2GB"]);
    assert_eq!(code, 0, "{errors}");
    assert!(!errors.contains("state.memory: "), "{errors}");
}

#[test]
fn wrong_arguments_exit_with_2_and_help_tells_the_codes() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    fs::write(folder.path().join("p.yaml"), PIPELINE).expect("the file can be written");
    for args in [&["fly"][..], &["run"], &["run", "p.yaml", "--close"], &["demo", "--impressions", "many"]] {
        let (code, out, errors) = finish(folder.path(), args);
        assert!(code == 2 && out.is_empty() && !errors.is_empty(), "{args:?}: {code} {errors}");
    }
    let (code, _, errors) = finish(folder.path(), &["run", "p.yaml", "--keep-serving"]);
    assert!(code == 2 && errors.contains("needs `serve:`"), "{code} {errors}");
    let (code, out, _) = finish(folder.path(), &["--help"]);
    assert!(code == 0 && out.contains("Exit codes:"), "{out}");
}

#[test]
fn a_missing_input_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    fs::write(folder.path().join("p.yaml"), PIPELINE).expect("the file can be written");
    let (code, out, errors) = finish(folder.path(), &["run", "p.yaml"]);
    assert_eq!((code, out.as_str()), (1, ""), "{errors}");
    assert!(errors.contains("data/impressions.ndjson"), "{errors}");
}

#[test]
fn serve_without_state_or_a_place_to_listen_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    fs::write(folder.path().join("p.yaml"), PIPELINE).expect("the file can be written");
    let (code, _, errors) = finish(folder.path(), &["serve", "p.yaml"]);
    assert!(code == 1 && errors.contains("add `serve: { listen: 127.0.0.1:8080 }`"), "{code} {errors}");
    let (code, _, errors) = finish(folder.path(), &["serve", "p.yaml", "--set", "serve.listen=127.0.0.1:0"]);
    assert!(code == 1 && errors.contains("start `conjoin run` on this file first"), "{code} {errors}");
}

#[test]
fn a_second_run_over_finished_files_says_that_nothing_is_new_and_serve_answers_from_its_state() {
    let folder = workspace(5_000);
    let (code, out, errors) = finish(folder.path(), &["run", "p.yaml"]);
    assert_eq!(code, 0, "{errors}");
    assert!(!out.contains("nothing new"), "{out}");
    let first = rows(&folder.path().join("out/samples"));
    assert_eq!(first.len() as u64, truth(&folder.path().join("data"))["impressions"], "{out}");
    let (code, out, errors) = finish(folder.path(), &["run", "p.yaml"]);
    assert!(code == 0 && out.contains("nothing new"), "{code} {out} {errors}");
    assert_eq!(rows(&folder.path().join("out/samples")), first);

    // The last click's user has that click in the last hour, as of the end of the log.
    let clicks = fs::read_to_string(folder.path().join("data/clicks.ndjson")).expect("the clicks are there");
    let click =
        clicks.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok()).filter(|click| click["ts"].is_i64());
    let click = click.max_by_key(|click| click["ts"].as_i64()).expect("there are clicks");
    let mut server = Server::start(conjoin(folder.path(), &["serve", "p.yaml", "--set", "serve.listen=127.0.0.1:0"]));
    let (status, ready) = server.ask("GET", "/readyz", "");
    assert_eq!((status, ready.as_str()), (200, r#"{"ready":true,"reasons":[]}"#));
    let request = format!(r#"{{"group":"user","entities":{{"user_id":{}}}}}"#, click["user_id"]);
    let (status, answer) = server.ask("POST", "/v1/features", &request);
    let answer: Json = serde_json::from_str(&answer).expect("the answer is JSON");
    assert_eq!(status, 200, "{answer}");
    let features = &answer["features"];
    assert!(features["user_clicks_1h"]["values"][0].as_i64() >= Some(1), "{answer}");
    assert_eq!(features["user_items_1h"]["values"][0][0], click["item_id"], "{answer}");
    let (_, metrics) = server.ask("GET", "/metrics", "");
    for line in ["conjoin_ready 1", r#"conjoin_http_requests_total{route="features",status="200"} 1"#] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    assert_eq!(server.stop(), 0);
}

#[test]
fn run_keeps_serving_after_its_inputs_have_ended_if_told_to() {
    let folder = workspace(2_000);
    let args = ["run", "p.yaml", "--set", "serve.listen=127.0.0.1:0", "--keep-serving"];
    let mut server = Server::start(conjoin(folder.path(), &args));
    let since = Instant::now();
    while server
        .ask("GET", "/metrics", "")
        .1
        .lines()
        .all(|line| line != r#"conjoin_sample_rows_total{outcome="emitted",sample="ctr"} 2000"#)
    {
        assert!(since.elapsed() < DEADLINE, "the pipeline did not come to its end");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(server.ask("GET", "/healthz", ""), (200, "ok\n".to_owned()));
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_small_demo_ends_well_and_finds_what_the_truth_says() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (code, out, errors) = finish(folder.path(), &["demo", "--impressions", "5000"]);
    assert_eq!(code, 0, "{out}{errors}");
    let truth = truth(&folder.path().join("data/demo"));
    let samples = rows(&folder.path().join("out/demo/samples"));
    assert_eq!(samples.len() as u64, truth["impressions"], "{out}");
    assert_eq!(out.matches("   equal").count(), 7, "{out}");
    assert!(!out.contains("DIFFERENT"), "{out}");
    assert!(out.lines().filter(|line| !line.contains("curl")).all(|line| line.chars().count() <= 80), "{out}");
    assert!(out.contains("user_impressions_1h"), "{out}");
    let (code, out, _) = finish(folder.path(), &["demo", "--impressions", "5000"]);
    assert!(code == 0 && out.contains("kept from an earlier demo"), "{out}");
    assert_eq!(rows(&folder.path().join("out/demo/samples")), samples);
}

#[test]
fn a_demo_does_not_clear_a_folder_that_is_not_its_own() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    fs::create_dir_all(folder.path().join("mine/samples")).expect("a folder can be made");
    let (code, _, errors) = finish(folder.path(), &["demo", "--impressions", "1000", "--dir", "mine"]);
    assert!(code == 1 && errors.contains("choose another folder with --dir"), "{code} {errors}");
    assert!(folder.path().join("mine/samples").is_dir());
}

#[test]
fn a_pipeline_whose_rows_leave_early_is_not_rescaled() {
    let folder = workspace(100);
    let early = PIPELINE.replace("serving_lag: 0s", "serving_lag: 0s\n    emit: { mode: immediate }");
    fs::write(folder.path().join("p.yaml"), early).expect("the file can be written");
    assert_eq!(finish(folder.path(), &["run", "p.yaml"]).0, 0);
    let (code, _, errors) = finish(folder.path(), &["rescale", "p.yaml"]);
    assert!(code == 1 && errors.contains("`samples.ctr.emit`: rows leave before"), "{code}: {errors}");
}

#[test]
fn a_run_that_is_told_to_stop_commits_and_the_next_one_comes_to_the_same_samples() {
    let folder = workspace(1_000_000);
    let (code, _, errors) = finish(
        folder.path(),
        &["run", "p.yaml", "--set", "state.path=whole/state", "--set", "samples.ctr.write.parquet.path=whole/samples"],
    );
    assert_eq!(code, 0, "{errors}");
    let manifests = || files(&folder.path().join("out/state/manifests"), ".json").len();
    // Many short commits: the second manifest is there long before the end.
    let mut run = Begun::new(&mut conjoin(folder.path(), &["run", "p.yaml", "--set", "state.commit_every=20ms"]));
    let since = Instant::now();
    while manifests() < 2 {
        assert!(run.child.try_wait().expect("it can be asked").is_none(), "it ended before it could be stopped");
        assert!(since.elapsed() < DEADLINE, "nothing was committed");
        std::thread::sleep(Duration::from_millis(5));
    }
    terminate(&run.child);
    let (code, out, errors) = outcome(run.end());
    assert_eq!(code, 0, "{errors}");
    assert!(errors.contains("stopping in order"), "{errors}");
    let interrupted = rows(&folder.path().join("out/samples")).len();
    let whole = rows(&folder.path().join("whole/samples"));
    assert!(interrupted < whole.len(), "it was stopped in the middle: {out}");
    let (code, out, errors) = finish(folder.path(), &["run", "p.yaml", "--json"]);
    assert_eq!(code, 0, "{errors}");
    let line: Json = serde_json::from_str(&out).expect("one line of JSON");
    assert_eq!(line["violations"], 0, "{out}");
    assert!(rows(&folder.path().join("out/samples")) == whole, "the samples differ: {out}");
    assert_eq!(line["counts"]["samples"][0]["anchor"]["emitted"], whole.len() as u64, "{out}");
}

fn terminate(process: &Child) {
    let status = Command::new("kill").args(["-TERM", &process.id().to_string()]).status();
    assert!(status.expect("there is a kill command").success());
}

/// A server on a free port, known from its log.
pub(crate) struct Server {
    process: Child,
    addr: String,
    log: tempfile::NamedTempFile,
}

impl Server {
    pub(crate) fn start(mut command: Command) -> Server {
        let log = tempfile::NamedTempFile::new().expect("a file can be made");
        let writer = log.reopen().expect("the log opens");
        let mut process = command.stdout(Stdio::null()).stderr(writer).spawn().expect("the binary starts");
        let since = Instant::now();
        loop {
            let text = fs::read_to_string(log.path()).expect("the log is text");
            let addr = text.lines().find(|line| line.contains("serving")).and_then(|line| line.split("addr=").nth(1));
            if let Some(addr) = addr {
                let addr = addr.trim().to_owned();
                return Server { process, addr, log };
            }
            assert!(process.try_wait().expect("it can be asked").is_none(), "it ended: {text}");
            assert!(since.elapsed() < DEADLINE, "it does not serve: {text}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the log says so.
    pub(crate) fn wait_for(&mut self, words: &str) {
        let since = Instant::now();
        loop {
            let text = fs::read_to_string(self.log.path()).expect("the log is text");
            if text.contains(words) {
                return;
            }
            assert!(self.process.try_wait().expect("it can be asked").is_none(), "it ended: {text}");
            assert!(since.elapsed() < DEADLINE, "it does not say {words:?}: {text}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn ask(&mut self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut connection = TcpStream::connect(&self.addr).expect("the server listens");
        connection.set_read_timeout(Some(DEADLINE)).expect("it can be set");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        connection.write_all(request.as_bytes()).expect("the request is sent");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).expect("the answer is text");
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, answer.split_once("\r\n\r\n").expect("an empty line").1.to_owned())
    }

    pub(crate) fn stop(&mut self) -> i32 {
        terminate(&self.process);
        let log = self.log.path();
        ended(&mut self.process, || fs::read_to_string(log).expect("the log is text")).code().unwrap_or(-1)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It is gone already where the test went well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
