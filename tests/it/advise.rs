//! `conjoin advise` on logs whose delays are known, on what a run then makes of the advice, and on a real Kafka.

use crate::cli::{finish, workspace};
use crate::support::kafka::{KafkaProducer, TestRecord, brokers};
use serde_json::{Value as Json, json};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

const T0: i64 = 1_767_225_600_000;
const SPAN_MS: i64 = 3 * 3_600_000;
const IMPRESSIONS: u64 = 40_000;
/// Labels without an impression.
const STRAY: u64 = 500;
/// Delays are exponential with this mean, and looked for up to 8.5 times as long.
const MEAN_MS: f64 = 600_000.0;
const LONGEST_MS: f64 = 5_100_000.0;

fn advise(folder: &Path, more: &[&str]) -> Json {
    let (code, output, errors) = finish(folder, &[&["advise", "p.yaml", "--json"], more].concat());
    assert_eq!(code, 0, "{errors}");
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error} in {output}; {errors}"))
}

/// In (0, 1), the same for a number on every machine.
fn unit(number: u64) -> f64 {
    let mut bits = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (((bits ^ (bits >> 31)) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

/// Where the share of delays, of those that are looked for, ends.
fn true_quantile(share: f64) -> f64 {
    -MEAN_MS * (1.0 - share * (1.0 - (-LONGEST_MS / MEAN_MS).exp())).ln()
}

/// Three hours of impressions, of which every second one gets a label; what comes after the end is not in the log. Gives
/// the delays of the labels that are.
fn exponential_world(folder: &Path) -> Vec<i64> {
    let (mut feed, mut labels, mut delays) = (String::new(), Vec::new(), Vec::new());
    for n in 0..IMPRESSIONS {
        let ts = T0 + (n as f64 / IMPRESSIONS as f64 * SPAN_MS as f64) as i64;
        writeln!(feed, r#"{{"rid":"r{n}","ts":{ts}}}"#).unwrap();
        let delay = (-MEAN_MS * unit(n).ln()) as i64;
        if n % 2 == 0 && ts + delay < T0 + SPAN_MS {
            labels.push((ts + delay, format!("r{n}"), n));
            delays.push(delay);
        }
    }
    let stray = |n: u64| (T0 + (unit(n << 20) * SPAN_MS as f64) as i64, format!("gone{n}"), IMPRESSIONS + n);
    labels.extend((0..STRAY).map(stray));
    labels.sort();
    let mut lines = String::new();
    for (at, (ts, rid, id)) in labels.iter().enumerate() {
        // Every hundredth comes twice.
        for _ in 0..if at % 100 == 0 { 2 } else { 1 } {
            writeln!(lines, r#"{{"id":"l{id}","rid":"{rid}","ts":{ts}}}"#).unwrap();
        }
    }
    fs::write(folder.join("feed.ndjson"), feed).unwrap();
    fs::write(folder.join("labels.ndjson"), lines).unwrap();
    fs::write(
        folder.join("p.yaml"),
        r#"
version: 1
pipeline: known
streams:
  feed:
    file: { path: feed.ndjson }
    columns: { rid: string, ts: timestamp }
    time: ts
    key: rid
  labels:
    file: { path: labels.ndjson }
    columns: { id: string, rid: string, ts: timestamp }
    time: ts
    id: id
    key: rid
samples:
  s:
    from: feed
    join: { label: { stream: labels, within: 30m, take: any } }
    write: { parquet: { path: out/samples } }
online: { store: memory }
state: { path: out/state, lanes: 1 }
"#,
    )
    .unwrap();
    delays
}

/// Whether every advised window is sure within what holds the true one.
fn assert_windows_are_true(join: &Json) {
    for window in join["windows"].as_array().unwrap() {
        let truth = true_quantile(window["coverage"].as_f64().unwrap());
        let (from, to) = (window["sure_from_ms"].as_f64().unwrap(), window["sure_to_ms"].as_f64());
        assert!(from <= truth && to.is_none_or(|to| truth <= to), "{truth} is not in {window}");
        assert!((from..=to.unwrap_or(f64::MAX)).contains(&window["within_ms"].as_f64().unwrap()));
    }
}

#[test]
fn advised_windows_are_those_of_the_known_delays_though_the_log_ends_before_the_late_labels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let delays = exponential_world(path);
    let advice = advise(path, &["--longest", "85m"]);
    assert!(!path.join("out").exists(), "no state is made");
    let (sample, join) = (&advice["samples"][0], &advice["samples"][0]["joins"][0]);
    assert_eq!(join["longest_ms"].as_f64(), Some(LONGEST_MS), "the log is long enough");
    assert_eq!((&sample["impressions"], &advice["one_key_of"]), (&json!(IMPRESSIONS), &json!(1)));
    let labels = &join["labels"];
    let all = delays.len() as u64 + STRAY;
    assert_eq!((&labels["labels"], &labels["duplicate"]), (&json!(all), &json!(all.div_ceil(100))));
    let of = |fate: &str| labels[fate].as_u64().unwrap();
    let too_long = delays.iter().filter(|delay| **delay as f64 > LONGEST_MS).count() as u64;
    assert_eq!(of("unmatched") + of("unknown"), STRAY + too_long);
    assert_eq!(of("matched") + of("censored"), delays.len() as u64 - too_long);
    assert_windows_are_true(join);
    let (covered, truth) = (join["coverage"].as_f64().unwrap(), 0.9504);
    assert!((covered - truth).abs() < 0.006, "{covered} for {truth}");

    // The control: with the impressions that are too young, the windows would be too short to be true.
    let mut sorted = delays;
    sorted.sort_unstable();
    let naive = sorted[(sorted.len() as f64 * 0.95) as usize] as f64;
    assert!(naive < join["windows"][0]["sure_from_ms"].as_f64().unwrap(), "{naive} in {join}");

    // A longer window costs more, and what it costs follows from the rate.
    let costs: Vec<&Json> = join["windows"].as_array().unwrap().iter().map(|window| &window["cost"]).collect();
    for (shorter, longer) in costs.iter().zip(&costs[1..]) {
        for what in ["pending_rows", "memory_bytes", "disk_bytes", "decided_after_ms"] {
            assert!(shorter[what].as_f64() < longer[what].as_f64(), "{what}: {shorter} {longer}");
        }
    }
    let per_ms = IMPRESSIONS as f64 / SPAN_MS as f64;
    let pending = costs[0]["decided_after_ms"].as_f64().unwrap() * per_ms;
    for rows in [&costs[0]["pending_rows"], &costs[0]["pending_rows_busiest"]] {
        assert!((rows.as_f64().unwrap() / pending - 1.0).abs() < 0.01, "{rows} for {pending}");
    }

    let (code, text, _) = finish(path, &["advise", "p.yaml", "--longest", "85m"]);
    assert_eq!(code, 0);
    for part in
        ["s.label: ", "95.0 %", "% now", "have no impression of their key", "looked for up to 85m", "too near the end"]
    {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn less_memory_means_fewer_keys_and_still_the_truth() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let delays = exponential_world(path);
    let advice = advise(path, &["--longest", "85m", "--memory", "1MB"]);
    // 60,000 rows of 48 bytes are three times as much.
    assert_eq!(advice["one_key_of"], 4);
    let (sample, join) = (&advice["samples"][0], &advice["samples"][0]["joins"][0]);
    let near =
        |found: &Json, truth: f64| assert!((found.as_f64().unwrap() / truth - 1.0).abs() < 0.05, "{found}, {truth}");
    near(&sample["impressions"], IMPRESSIONS as f64 / 4.0);
    near(&join["labels"]["labels"], (delays.len() as u64 + STRAY) as f64 / 4.0);
    near(&sample["per_second"], IMPRESSIONS as f64 / SPAN_MS as f64 * 1e3);
    assert_windows_are_true(join);
    let (_, text, _) = finish(path, &["advise", "p.yaml", "--memory", "1MB"]);
    assert!(text.contains("one key in 4"), "{text}");
}

#[test]
fn what_is_read_can_be_bounded_and_what_cannot_be_known_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    exponential_world(path);
    let (from, to) = ((T0 + 3_600_000).to_string(), (T0 + 2 * 3_600_000).to_string());
    let advice = advise(path, &["--from", &from, "--to", &to, "--longest", "85m"]);
    for input in advice["inputs"].as_array().unwrap() {
        assert_eq!(input["stopped"], "to");
        let (oldest, newest) = (input["oldest"].as_i64().unwrap(), input["newest"].as_i64().unwrap());
        assert!(oldest >= T0 + 3_600_000 && newest < T0 + 7_200_000, "{input}");
    }
    let join = &advice["samples"][0]["joins"][0];
    assert_eq!(join["longest_ms"], 1_799_000, "half of the hour that was read, in whole seconds");
    assert!(join["notes"][0].as_str().unwrap().contains("though up to 85m were wanted"), "{join}");
    // In half an hour, e^-3 of the labels of before are still to come.
    assert!(join["labels"]["unknown"].as_u64().unwrap() > 1_000, "{join}");

    let few = advise(path, &["--max-records", "100"]);
    for input in few["inputs"].as_array().unwrap() {
        assert_eq!((&input["stopped"], &input["records"]), (&json!("max_records"), &json!(100)));
    }
    let (code, _, errors) = finish(path, &["advise", "p.yaml", "--longest", "soon"]);
    assert!(code == 2 && errors.contains("such as 36h"), "{errors}");
    // An empty log is no error, and no advice.
    fs::write(path.join("labels.ndjson"), "").unwrap();
    let none = advise(path, &[]);
    assert!(none["samples"][0]["notes"][0].as_str().unwrap().contains("stream labels has no row"), "{none}");
}

#[test]
fn a_run_with_an_advised_window_attaches_the_share_that_was_promised() {
    let folder = workspace(20_000);
    let path = folder.path();
    let advice = advise(path, &["--longest", "21m"]);
    let windows = advice["samples"][0]["joins"][0]["windows"].as_array().unwrap();
    for window in &windows[..2] {
        let within = format!("samples.ctr.join.click.within={}ms", window["within_ms"]);
        let (code, _, errors) = finish(path, &["run", "p.yaml", "--fresh", "--set", &within]);
        assert_eq!(code, 0, "{errors}");
        let (code, view, errors) = finish(path, &["inspect", "p.yaml", "--json", "--set", &within]);
        assert_eq!(code, 0, "{errors}");
        let view: Json = serde_json::from_str(&view).unwrap();
        let (found, promised) =
            (view["samples"][0]["joins"][0]["coverage"].as_f64().unwrap(), window["coverage"].as_f64().unwrap());
        // Of 1,500 clicks a few dozen belong to impressions that were too young to be asked.
        assert!((found - promised).abs() < 0.006, "{found} of the labels attached, {promised} were promised");
        fs::remove_dir_all(path.join("out")).unwrap();
    }
}

#[test]
fn topics_are_read_beside_a_run_and_a_row_takes_what_was_measured() {
    let kafka = KafkaProducer::new();
    let (feed, clicks) = (kafka.create_topic("feed", 2), kafka.create_topic("clicks", 2));
    let folder = workspace(20_000);
    let path = folder.path();
    for (topic, name) in [(&feed, "impressions"), (&clicks, "clicks")] {
        let text = fs::read_to_string(path.join(format!("data/{name}.ndjson"))).unwrap();
        let records: Vec<TestRecord<'_>> = text
            .lines()
            .enumerate()
            .map(|(at, line)| {
                let ts = serde_json::from_str::<Json>(line).ok().and_then(|record| record["ts"].as_i64());
                TestRecord {
                    partition: at as i32 % 2,
                    payload: Some(line.as_bytes()),
                    timestamp: ts,
                    ..Default::default()
                }
            })
            .collect();
        kafka.produce(topic, &records);
    }
    let text = fs::read_to_string(path.join("p.yaml")).unwrap();
    let on_files = advise(path, &["--longest", "21m"]);
    let connections = format!("connections: {{ main: {{ kafka: {{ brokers: \"{}\" }} }} }}\nstreams:", brokers());
    let topic = |topic: &str| format!("kafka: {{ connection: main, topics: [{topic}] }}");
    let text = text
        .replace("streams:", &connections)
        .replace("file: { path: \"data/impressions.ndjson\" }", &topic(&feed))
        .replace("file: { path: \"data/clicks.ndjson\" }", &topic(&clicks))
        .replace("within: 10m", "within: 48h")
        .replace("lanes: 2", "lanes: 1");
    fs::write(path.join("p.yaml"), text).unwrap();
    // Within two days nothing closes: all rows are pending at the topics' end.
    let (code, summary, errors) = finish(path, &["run", "p.yaml", "--until-end", "--json"]);
    assert_eq!(code, 0, "{errors}");
    let summary: Json = serde_json::from_str(&summary).unwrap();

    let advice = advise(path, &["--longest", "21m"]);
    let (sample, as_files) = (&advice["samples"][0], &on_files["samples"][0]);
    assert_eq!(advice["inputs"].as_array().unwrap().len(), 4);
    assert_eq!(sample["impressions"], 20_000);
    for what in ["labels", "delays"] {
        assert_eq!(sample["joins"][0][what], as_files["joins"][0][what], "files and topics hold the same");
    }
    let counts = &summary["counts"]["samples"][0];
    assert_eq!(counts["anchor"]["pending"], 20_000);
    let labels = sample["joins"][0]["labels"]["labels"].as_f64().unwrap();
    let measured = sample["row_bytes"]["impression_memory"].as_f64().unwrap() * 20_000.0
        + sample["joins"][0]["label_bytes"]["memory"].as_f64().unwrap() * labels;
    let taken = counts["memory_bytes"].as_f64().unwrap();
    println!("memory: advised {measured}, the run took {taken}");
    assert!((measured / taken - 1.0).abs() < 0.25, "advised {measured}, the run took {taken}");

    let middle = (T0 + 12 * 3_600_000).to_string();
    let half = advise(path, &["--longest", "21m", "--from", &middle]);
    let records = |advice: &Json| -> u64 {
        advice["inputs"].as_array().unwrap().iter().map(|input| input["records"].as_u64().unwrap()).sum()
    };
    assert!(records(&half) < records(&advice), "topics are not read from their start");
    assert!(half["inputs"].as_array().unwrap().iter().all(|input| input["from"].as_i64() > Some(0)), "{half}");
}
