//! Pressure: faults of weight, by their numbers in docs/FAULTS.md: batches that unpack to far more than they weigh, one key
//! that half of everything is about, a store that is slow while everything comes at full speed. The real binary, on a real
//! Kafka; memory as the kernel counts it.

use crate::brokers::committed;
use crate::end_to_end::{LONG, LONG_TIMES, START, Setup};
use crate::faults::says;
use crate::kill::scratch;
use crate::support::binary::{Conjoin, rows, wait_for};
use crate::support::kafka::{KafkaProducer, TestRecord, brokers};
use crate::support::oracle::Oracle;
use crate::support::world::{WorldSpec, world};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

fn produce(kafka: &KafkaProducer, topic: &str, payloads: &[Vec<u8>]) {
    let records: Vec<_> =
        payloads.iter().map(|bytes| TestRecord { payload: Some(bytes), ..TestRecord::default() }).collect();
    kafka.produce(topic, &records);
}

/// Impressions with an id, a user and a time, which become samples as they are.
fn write_pipeline(folder: &Path, topic: &str, more: &str) {
    let brokers = brokers();
    let text = format!(
        r#"version: 1
pipeline: pressure
connections:
  main: {{ kafka: {{ brokers: "{brokers}" }} }}
streams:
  impressions: {{
    kafka: {{ connection: main, topics: [{topic}] }}, columns: {{ id: string, user: string, at: timestamp }},
    time: at, id: id, key: id, partition_by: user, lateness: 1s, idle_after: 1h }}
{more}state: {{ path: state, commit_every: 200ms, lanes: 2 }}
"#
    );
    fs::write(folder.join("pipeline.yaml"), text).unwrap();
}

fn impression(id: &str, number: u64, user: u64) -> Vec<u8> {
    let at = START + number as i64;
    format!("{{\"id\":\"{id}{number}\",\"user\":\"u{user}\",\"at\":{at}}}").into_bytes()
}

/// To how many MiB batches unpack that travel and lie in less than one, a batch of a single record and one of many. The
/// client guesses the size of zstd in ever larger steps, so a third of its limit is what it takes for sure.
const BOMBS: [(&str, u64); 3] = [("gzip", 64), ("zstd", 10), ("snappy", 12)];

#[test]
fn fault_28_batches_that_unpack_to_far_more_than_they_weigh_pass_in_bounded_memory() {
    let plain = KafkaProducer::new();
    let topic = plain.create_topic("bombs", 1);
    let bombs = |codec| {
        let large = [
            ("compression.codec", codec),
            ("message.max.bytes", "1000000000"),
            ("batch.size", "1000000000"),
            ("queue.buffering.max.kbytes", "2000000"),
            ("linger.ms", "500"),
        ];
        KafkaProducer::with(&brokers(), &large)
    };
    let padded = |number: u64| {
        let mut record = impression("padded", number, 0);
        record.resize(MIB as usize, b' ');
        record
    };
    let folder = scratch();
    write_pipeline(
        folder.path(),
        &topic,
        "samples: { s: { from: impressions, write: { parquet: { path: samples } } } }\n",
    );
    let run = Conjoin::run(folder.path(), "run", &["--json"]);
    let read = |records: u64| wait_for("the records", || (committed(folder.path()) == records).then_some(()));
    produce(&plain, &topic, &[impression("plain", 0, 0)]);
    read(1);
    let before = run.memory("VmHWM");
    let mut records = 1;
    for (codec, mib) in BOMBS {
        let kafka = bombs(codec);
        produce(&kafka, &topic, &[vec![0; (mib * MIB) as usize]]);
        produce(&kafka, &topic, &(0..mib).map(|number| padded(records + number)).collect::<Vec<_>>());
        produce(&plain, &topic, &[impression("plain", records + mib, 0)]);
        records += mib + 2;
        read(records);
        println!("after {codec}: {} MiB at most, {} now", run.memory("VmHWM") / MIB, run.memory("VmRSS") / MIB);
    }
    let grown = (run.memory("VmHWM") - before) / MIB;
    println!("{} MiB before the bombs, {grown} more with them", before / MIB);
    assert!(grown < 4 * BOMBS[0].1, "{grown} MiB");
    run.terminate();
    let summary = run.summary();
    let stream = &summary["streams"]["impressions"];
    assert_eq!((&stream["records"], &stream["dead_lettered"]), (&records.into(), &3.into()), "{summary}");
    let letters = rows(&folder.path().join("state/dead-letters"));
    assert!(letters.iter().all(|letter| letter["reason"] == "too_large") && letters.len() == 3);
    // The client has a limit for zstd alone: the run stops before the batch, with what to do.
    produce(&bombs("zstd"), &topic, &[vec![0; (96 * MIB) as usize]]);
    let error = Conjoin::run(folder.path(), "again", &[]).failure();
    says(&error, &["unpacks to more than `receive.message.max.bytes`", "Nothing was skipped"]);
    assert_eq!(committed(folder.path()), records);
}

#[test]
fn fault_30_a_hot_key_costs_no_memory_and_changes_no_row() {
    let spec = WorldSpec {
        seed: 30,
        start: START,
        bursts: 180,
        burst_every_ms: 600_000,
        burst_slates: 40,
        lateness_ms: 2_000,
        click_delay_max_ms: 12 * 60_000,
        hot: 0.0,
        name: "cool",
    };
    let mut costs = Vec::new();
    for (hot, name) in [(0.0, "cool"), (0.5, "hot")] {
        let mut setup = Setup::new(LONG);
        let world = world(&WorldSpec { hot, name, ..spec.clone() });
        let of_hot = world.impressions.iter().filter(|shown| shown.user == "hot").count();
        setup.produce(&world.records);
        setup.write_pipeline(&brokers(), &LONG_TIMES);
        let mut run = Conjoin::run(setup.path(), "run", &["--until-end", "--close", "--json"]);
        let (mut peak, mut cpu) = (0, 0);
        while run.is_running() {
            peak = run.memory_if_running("VmHWM").unwrap_or(peak);
            cpu = run.cpu_ms_if_running().unwrap_or(cpu);
            std::thread::sleep(Duration::from_millis(20));
        }
        let summary = run.summary();
        let oracle = Oracle::new(&world, LONG);
        setup.check_samples(&oracle);
        setup.check_redis(&oracle, summary["online_instant"].as_i64().unwrap());
        let rows = world.impressions.len();
        println!("{name}: {of_hot} of {rows} rows of one user, {cpu} ms of CPU, {} MiB at most", peak / MIB);
        costs.push((rows as f64 / cpu as f64, peak));
    }
    // By the CPU: a busy machine tells nothing by its clock.
    println!("with a hot key {:.2} of the rows per CPU second", costs[1].0 / costs[0].0);
    assert!(costs[1].1 < costs[0].1 + 64 * MIB, "memory: {costs:?}");
}

/// Reading waits for a store that does not keep up; what was read does not pile up meanwhile. `CONJOIN_HOLD_SECONDS` says
/// for how long.
#[test]
fn fault_07_44_memory_stays_flat_while_a_slow_store_holds_everything_back() {
    let seconds = std::env::var("CONJOIN_HOLD_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(15);
    let kafka = KafkaProducer::new();
    let topic = kafka.create_topic("slow", 1);
    let folder = scratch();
    let more = "features:\n  activity: { entity: user, aggregates: { shown: { from: impressions, count: \"*\", windows: \
                [10s] } } }\nsamples:\n  s:\n    from: impressions\n    features: [activity]\n    write: { parquet: { path: \
                samples, roll: { size: 1MB, age: 100ms } } }\n";
    write_pipeline(folder.path(), &topic, more);
    let slow = "store-write:before:*:slow5,store-fsync:before:*:slow200,manifest-create:before:*:slow2000";
    let run = Conjoin::run_with(folder.path(), "run", &["--json"], slow);
    let stop = AtomicBool::new(false);
    let (produced, samples) = std::thread::scope(|scope| {
        let producing = scope.spawn(|| {
            let mut number = 0u64;
            while !stop.load(Ordering::SeqCst) {
                let next = number + 20_000;
                produce(&kafka, &topic, &(number..next).map(|n| impression("i", n, n % 5_000)).collect::<Vec<_>>());
                number = next;
            }
            number
        });
        let (began, mut samples) = (Instant::now(), Vec::new());
        while began.elapsed() < Duration::from_secs(seconds) {
            samples.push(run.memory("VmRSS") / MIB);
            std::thread::sleep(Duration::from_millis(100));
        }
        stop.store(true, Ordering::SeqCst);
        (producing.join().unwrap(), samples)
    });
    let read = committed(folder.path());
    let most = |part: &[u64]| *part.iter().max().unwrap();
    let half = samples.len() / 2;
    let (first, second) = (most(&samples[..half]), most(&samples[half..]));
    println!(
        "{seconds} s: {produced} records produced, {read} committed; resident at most {first} MiB in the first half, \
         {second} in the second"
    );
    assert!(read < produced, "the store held nothing back");
    assert!(second <= first + first / 5 + 16, "{samples:?}");
    run.kill();
}
