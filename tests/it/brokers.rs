//! Brokers: faults of the log itself, by their numbers in docs/FAULTS.md: brokers that die, a log that is cut back, a
//! transaction that hangs, a damaged disk. The real binary, on real brokers.

use crate::faults::{newest, records, says, started};
use crate::kill::{IMPRESSIONS, Log, finish, outcome, reference, scratch};
use crate::support::binary::{Conjoin, newest_manifest, rows, wait_for};
use crate::support::cluster::Cluster;
use crate::support::kafka::{KafkaProducer, TestRecord};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};

/// Records that the last commit counts; 0 before the first.
pub fn committed(folder: &Path) -> u64 {
    if newest_manifest(folder) == 0 { 0 } else { records(&newest(folder)["streams"]) }
}

#[test]
fn fault_15_leaders_that_are_killed_change_no_row_and_a_log_that_was_cut_back_stops_the_run() {
    let mut cluster = Cluster::start(3);
    // A batch that was sent again after its leader died is no second batch.
    let idempotent = [("batch.num.messages", "8"), ("enable.idempotence", "true")];
    let kafka = KafkaProducer::with(&cluster.addresses(), &idempotent);
    cluster.wait_until_up(&kafka);
    leaders_die(&mut cluster, kafka);
    log_is_cut_back(&mut cluster);
}

/// Two leaders, one after the other, while records come and are read.
fn leaders_die(cluster: &mut Cluster, kafka: KafkaProducer) {
    let safe = [("min.insync.replicas", "2")];
    let feed = kafka.create_on("lead-feed", &[&[1, 2, 3], &[2, 3, 1]], &safe);
    let clicks = kafka.create_on("lead-clicks", &[&[3, 1, 2]], &safe);
    let log = Log::on(&cluster.addresses(), kafka, feed, clicks);
    let folder = scratch();
    log.write_pipeline(folder.path());
    let run = Conjoin::run(folder.path(), "live", &["--json"]);
    let (produced, allowed) = (AtomicI64::new(0), AtomicI64::new(IMPRESSIONS / 3));
    let killed = std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..IMPRESSIONS / 10 {
                wait_for("the next killing", || (number * 10 < allowed.load(Ordering::SeqCst)).then_some(()));
                log.produce(number * 10, number * 10 + 10);
                produced.store(number * 10 + 10, Ordering::SeqCst);
            }
        });
        let mut killed = Vec::new();
        for third in 1..=2 {
            let before = committed(folder.path());
            let middle = IMPRESSIONS * third / 3 - IMPRESSIONS / 6;
            wait_for("records and a commit", || {
                (produced.load(Ordering::SeqCst) >= middle && committed(folder.path()) > before).then_some(())
            });
            let (leader, _) = log.kafka.leadership(&log.feed, 0).expect("a leader");
            cluster.kill(leader);
            killed.push(leader);
            wait_for("another leader", || log.kafka.leadership(&log.feed, 0).filter(|now| now.0 != leader));
            wait_for("the producer to go on", || {
                (produced.load(Ordering::SeqCst) >= IMPRESSIONS * third / 3).then_some(())
            });
            cluster.revive(leader);
            let whole = |topic: &str| log.kafka.leadership(topic, 0).is_some_and(|(_, in_sync)| in_sync.len() == 3);
            wait_for("all copies", || (whole(&log.feed) && whole(&log.clicks)).then_some(()));
            allowed.store(IMPRESSIONS * (third + 1) / 3, Ordering::SeqCst);
        }
        killed
    });
    assert_ne!(killed[0], killed[1]);
    let (expected, _) = reference(&log);
    let all = records(&expected.books()["streams"]);
    wait_for("all records", || (committed(folder.path()) == all).then_some(()));
    run.terminate();
    run.summary();
    let summary = finish(folder.path(), "finish");
    assert_eq!(outcome(folder.path(), &summary), expected);
}

/// The newest records lie on one broker alone, which dies; an older copy is made the log.
fn log_is_cut_back(cluster: &mut Cluster) {
    let kafka = KafkaProducer::with(&cluster.addresses(), &[]);
    let unsafe_settings = [("min.insync.replicas", "1"), ("unclean.leader.election.enable", "true")];
    let feed = kafka.create_on("cut-feed", &[&[1, 2], &[1, 2]], &unsafe_settings);
    let clicks = kafka.create_on("cut-clicks", &[&[3]], &[]);
    let log = Log::on(&cluster.addresses(), kafka, feed, clicks);
    let folder = started(&log);
    let run = Conjoin::run(folder.path(), "live", &["--json"]);
    let read = |impressions: u64| {
        let streams = || newest(folder.path())["streams"]["impressions"]["records"].as_u64();
        wait_for("all records", || (newest_manifest(folder.path()) > 0 && streams() == Some(impressions)).then_some(()))
    };
    log.produce(0, 100);
    read(102);
    cluster.kill(2);
    wait_for("the leader to be alone", || log.kafka.leadership(&log.feed, 0).filter(|now| now.1 == [1]));
    log.produce(100, 200);
    read(204);
    cluster.kill(1);
    cluster.revive(2);
    wait_for("an unclean leader", || log.kafka.leadership(&log.feed, 0).filter(|now| now.0 == 2));
    let next = newest(folder.path())["inputs"].clone();
    says(&run.failure(), &[&log.feed, "was cut back to offset 50", "read up to 100"]);
    // Neither does the next start go back.
    says(&Conjoin::run(folder.path(), "again", &[]).failure(), &[&log.feed, "ends at offset 50", "truncated"]);
    assert_eq!(newest(folder.path())["inputs"], next);
    assert_eq!(rows(&folder.path().join("samples")).len() as u64, published(folder.path()));
}

/// Rows in files that the last manifest counts.
fn published(folder: &Path) -> u64 {
    newest(folder)["totals"]["file_rows"].as_u64().unwrap()
}

/// The value of a metric that has one tag.
pub fn metric(address: &str, name: &str) -> Option<f64> {
    let text = ureq::get(format!("http://{address}/metrics")).call().ok()?.body_mut().read_to_string().ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

#[test]
fn fault_20_a_transaction_that_hangs_holds_back_what_follows_and_is_seen() {
    let log = Log::new();
    log.produce(0, 100);
    let hanging = KafkaProducer::transactional();
    let payload = br#"{"id":"never","user":"u","at":1767225600000}"#;
    let record = TestRecord { payload: Some(payload), ..TestRecord::default() };
    hanging.hanging_transaction(&log.feed, &vec![record; 10]);
    log.produce(100, 200);
    let folder = started(&log);
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap().to_string();
    let path = folder.path().join("pipeline.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let text = text.replace("] },\n", "], allow_gaps: true },\n");
    let text = text.replace("properties: {", "properties: { statistics.interval.ms: \"200\",");
    fs::write(&path, text + &format!("serve: {{ listen: \"{address}\" }}\n")).unwrap();
    let mut run = Conjoin::run(folder.path(), "live", &["--json"]);
    let blocked = || metric(&address, "conjoin_stream_blocked_records{stream=\"impressions\"}");
    let read = || metric(&address, "conjoin_stream_records_total{stream=\"impressions\"}");
    // Fifty of partition 0 lie before the transaction, its ten and fifty more behind; partition 1 has two poisoned ones
    // per hundred.
    wait_for("what can be read", || (read() == Some(154.0) && blocked() == Some(60.0)).then_some(()));
    assert!(run.is_running(), "{}", run.errors());
    hanging.abort();
    wait_for("what was held back", || (read() == Some(204.0) && blocked() == Some(0.0)).then_some(()));
    run.terminate();
    run.summary();
    let summary = finish(folder.path(), "finish");
    assert_eq!(summary["counts"]["samples"][0]["anchor"]["emitted"], 200, "{summary}");
    assert!(rows(&folder.path().join("samples")).iter().all(|row| row["id"] != "never"));
}

#[test]
fn fault_29_a_byte_that_flipped_on_the_broker_s_disk_stops_the_run_and_nothing_is_skipped() {
    let log = Log::new();
    log.produce(0, IMPRESSIONS);
    let (expected, _) = reference(&log);
    let Some(partition) = log.kafka.partition_folder(&log.feed, 0) else {
        println!("the broker's disk is not on this machine: nothing to damage");
        return;
    };
    let flip = || flip(&partition.join("00000000000000000000.log"), b"\"id\":\"i500\"");
    flip();
    let folder = started(&log);
    let error = Conjoin::run(folder.path(), "damaged", &["--until-end", "--close"]).failure();
    says(&error, &[&log.feed, "a damaged record came from the broker", "Nothing was skipped"]);
    let next = |folder: &Path| {
        let manifest = newest(folder);
        let inputs = manifest["inputs"].as_array().unwrap();
        let input = inputs.iter().find(|input| input["name"] == log.feed.as_str()).unwrap();
        input["next"].clone()
    };
    // Every other impression lies in partition 0.
    let position = next(folder.path())["0"].as_i64().unwrap_or_else(|| panic!("{}", next(folder.path())));
    assert!(position <= 250, "{position}");
    flip();
    let summary = finish(folder.path(), "repaired");
    assert_eq!(outcome(folder.path(), &summary), expected);
}

/// Flips a bit of the first place where a file has these bytes.
fn flip(path: &PathBuf, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let found = fs::read(path).unwrap();
    // The fifth may be any: it is the one that flips, and flips back.
    let at = found.windows(bytes.len()).position(|window| window[..4] == bytes[..4] && window[5..] == bytes[5..]);
    let at = at.expect("the record is in the first segment") + 4;
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[found[at] ^ 4], at as u64).unwrap();
}
