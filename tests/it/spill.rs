//! Spill: the real binary with a window of a day and far more pending than `state.memory` allows (fault 31). The samples
//! are those of a run that keeps everything in memory, also when it is killed in between.

use crate::kill::scratch;
use crate::support::binary::{Conjoin, files, rows, wait_for};
use crate::support::oracle::Row;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

const START: i64 = 1_767_225_600_000;
const IMPRESSIONS: u64 = 60_000;
const MIB: u64 = 1 << 20;
/// A tenth of what is pending at the end.
const LITTLE: &str = "state.memory=6MB";

/// A number that looks random: what does not shrink takes as much on disk as in memory.
fn noise(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Impressions of 22 hours, a kilobyte each, and a click on every fourth.
fn write_logs(folder: &Path) {
    let open = |name: &str| BufWriter::new(File::create(folder.join(name)).unwrap());
    let (mut impressions, mut clicks) = (open("impressions.ndjson"), open("clicks.ndjson"));
    for number in 0..IMPRESSIONS {
        let at = START + number as i64 * 1_300;
        let text: String = (0..64).map(|part| format!("{:016x}", noise(number * 64 + part))).collect();
        writeln!(impressions, r#"{{"id":"i{number}","user":"u{}","at":{at},"context":"{text}"}}"#, number % 500)
            .unwrap();
        if number % 4 == 0 {
            writeln!(clicks, r#"{{"id":"c{number}","key":"i{number}","user":"u{}","at":{}}}"#, number % 500, at + 900)
                .unwrap();
        }
    }
    impressions.flush().unwrap();
    clicks.flush().unwrap();
}

fn write_pipeline(folder: &Path) {
    let text = r#"version: 1
pipeline: spill
streams:
  impressions: {
    file: { path: impressions.ndjson }, columns: { id: string, user: string, at: timestamp, context: string },
    time: at, id: id, key: id, partition_by: user, lateness: 1s }
  clicks: {
    file: { path: clicks.ndjson }, columns: { id: string, key: string, user: string, at: timestamp },
    time: at, id: id, key: key, partition_by: user, lateness: 1s }
features:
  activity: { entity: user, aggregates: { shown: { from: impressions, count: "*", windows: [1h] } } }
samples:
  s:
    from: impressions
    join: { click: { stream: clicks, within: 24h, take: first, select: [at] } }
    features: [activity]
    write: { parquet: { path: samples } }
state: { path: state, commit_every: 200ms, lanes: 2 }
"#;
    fs::write(folder.join("pipeline.yaml"), text).unwrap();
}

/// What every manifest that is left says of a part of the memory.
fn told(folder: &Path, part: &str) -> Vec<u64> {
    let manifests = files(&folder.join("state/manifests"), ".json").into_iter();
    // One may be deleted between the listing and the look.
    let manifests = manifests.filter_map(|path| serde_json::from_slice::<Value>(&fs::read(path).ok()?).ok());
    manifests.filter_map(|manifest| manifest["counts"]["samples"][0]["memory"][part].as_u64()).collect()
}

fn most(folder: &Path, part: &str) -> u64 {
    told(folder, part).into_iter().max().unwrap_or(0)
}

fn sorted(folder: &Path) -> Vec<Row> {
    let mut rows = rows(&folder.join("samples"));
    rows.sort_by_key(|row| row["id"].as_str().map(str::to_owned));
    rows
}

#[test]
fn fault_31_ten_times_the_memory_is_pending_and_the_samples_are_those_of_a_run_in_memory() {
    let folder = scratch();
    let folder = folder.path();
    write_logs(folder);
    write_pipeline(folder);
    let (mut runs, mut peaks) = (Vec::new(), Vec::new());
    for memory in ["state.memory=1GB", LITTLE] {
        let mut run = Conjoin::run(folder, "run", &["--json", "--fresh", "--set", memory]);
        let (mut peak, mut spilled, mut payload) = (0, 0, 0);
        while run.is_running() {
            peak = run.memory_if_running("VmHWM").unwrap_or(peak);
            (spilled, payload) = (most(folder, "spilled").max(spilled), most(folder, "payload").max(payload));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        run.summary();
        println!(
            "{memory}: {} MiB resident at most, {} of payload in memory at a cut, {} on disk alone",
            peak / MIB,
            payload / MIB,
            spilled / MIB
        );
        peaks.push((peak, payload, spilled));
        runs.push(sorted(folder));
        fs::remove_dir_all(folder.join("samples")).unwrap();
        fs::remove_dir_all(folder.join("state")).unwrap();
    }
    let [(peak, _, none), (peak_spilling, payload, spilled)] = peaks[..] else { unreachable!() };
    assert_eq!(none, 0);
    // Three batches of the file, which are four megabytes each, and no more.
    assert!(payload < 13 * MIB && peak_spilling < peak, "{peaks:?}");
    assert!(spilled > 40 * MIB, "{peaks:?}");
    assert_eq!(runs[0].len() as u64, IMPRESSIONS);
    let clicked = runs[0].iter().filter(|row| !row["click_at"].is_null()).count() as u64;
    assert_eq!(clicked, IMPRESSIONS / 4);
    assert!(runs[0] == runs[1], "the rows differ");

    // The same with a death in between: what it starts with lies on disk.
    let run = Conjoin::run(folder, "killed", &["--json", "--fresh", "--set", LITTLE]);
    wait_for("payload to leave memory", || (most(folder, "spilled") > 10 * MIB).then_some(()));
    run.kill();
    Conjoin::run(folder, "again", &["--json", "--set", LITTLE]).summary();
    assert!(sorted(folder) == runs[0], "the rows differ after a restart");
}

#[test]
fn fault_31_spilled_payload_that_is_damaged_stops_the_run_and_names_the_file() {
    let folder = scratch();
    let folder = folder.path();
    write_logs(folder);
    write_pipeline(folder);
    let run = Conjoin::run(folder, "killed", &["--json", "--set", LITTLE]);
    wait_for("payload to leave memory", || (most(folder, "spilled") > 10 * MIB).then_some(()));
    run.kill();
    // The middle of the largest object is payload.
    let objects = files(&folder.join("state/state"), ".state");
    let largest = objects.into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&largest, bytes).unwrap();
    let error = Conjoin::run(folder, "again", &["--json", "--set", LITTLE]).failure();
    let name = largest.file_name().unwrap().to_str().unwrap();
    for text in [name, "does not match its sha256", "restore it from a backup, or start anew with --fresh"] {
        assert!(error.contains(text), "{text} is not in\n{error}");
    }
}
