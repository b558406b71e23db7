//! End to end: the real binary between a real Kafka and a real Redis, held against what the definitions say.

use crate::online_redis::Private;
use crate::support::binary::{Conjoin, file_rows, files, newest_manifest, rows, wait_for};
use crate::support::env;
use crate::support::kafka::{KafkaProducer, TestRecord, brokers, unique};
use crate::support::oracle::{Oracle, Row, Windows};
use crate::support::world::{CLICKS, FEED, ORDERS, Record, TOPICS, World, WorldSpec, world};
use conjoin::event::{Value as KeyPart, entity_key};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

const HOUR: i64 = 3_600_000;
pub(crate) const START: i64 = 1_767_225_600_000;

/// Over a day of event time, with windows of minutes, hours and a day.
const LONG: Windows = Windows {
    item: &[("10m", HOUR / 6), ("1h", HOUR)],
    user: &[("1h", HOUR), ("24h", 24 * HOUR)],
    click_ms: HOUR / 6,
    order_ms: HOUR / 2,
    serving_lag_ms: 1_500,
};

/// So short that they slide empty while a test waits.
pub(crate) const SHORT: Windows = Windows {
    item: &[("3s", 3_000), ("10s", 10_000)],
    user: &[("5s", 5_000), ("20s", 20_000)],
    click_ms: 3_000,
    order_ms: 6_000,
    serving_lag_ms: 0,
};

/// Topics, the pipeline file, and a folder of one test.
pub(crate) struct Setup {
    folder: TempDir,
    pub kafka: KafkaProducer,
    pub topics: [String; 3],
    pipeline: String,
    windows: Windows,
    redis: String,
    /// Next offset of each partition.
    next: BTreeMap<(usize, i32), i64>,
}

pub(crate) struct Times<'a> {
    pub idle_after: &'a str,
    pub commit_every: &'a str,
    pub click: &'a str,
    pub order: &'a str,
    pub roll: &'a str,
}

impl Setup {
    fn new(windows: Windows) -> Self {
        Self::with_redis(windows, env("REDIS_URL"))
    }

    fn with_redis(windows: Windows, redis: String) -> Self {
        let kafka = KafkaProducer::new();
        let topics = TOPICS.map(|(name, partitions)| kafka.create_topic(name, partitions));
        Self::with(windows, redis, kafka, topics)
    }

    /// Topics with the same number of partitions, as several processes need them.
    pub fn even(windows: Windows, partitions: i32) -> Self {
        let kafka = KafkaProducer::new();
        let topics = TOPICS.map(|(name, _)| kafka.create_topic(name, partitions));
        Self::with(windows, env("REDIS_URL"), kafka, topics)
    }

    /// On brokers that a test can take away.
    fn with_mock(windows: Windows, cluster: &MockCluster<'_, DefaultProducerContext>) -> Self {
        let kafka = KafkaProducer::with(&cluster.bootstrap_servers(), &[]);
        let topics = TOPICS.map(|(name, partitions)| {
            cluster.create_topic(name, partitions, 1).unwrap();
            name.to_string()
        });
        Self::with(windows, env("REDIS_URL"), kafka, topics)
    }

    fn with(windows: Windows, redis: String, kafka: KafkaProducer, topics: [String; 3]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pipeline = unique("e2e");
        Setup { folder, kafka, topics, pipeline, windows, redis, next: BTreeMap::new() }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn write_pipeline(&self, brokers: &str, times: &Times<'_>) {
        let names =
            |windows: &[(&'static str, i64)]| windows.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let (user, item) = (names(self.windows.user), names(self.windows.item));
        let derived = |(name, _): &(&str, i64)| {
            format!("      item_ctr_{name}: \"(item_clicks_{name} + 1.0) / (item_shown_{name} + 20.0)\"\n")
        };
        let derived: String = self.windows.item.iter().map(derived).collect();
        let [feed, clicks, orders] = &self.topics;
        let (pipeline, redis, lag) = (&self.pipeline, &self.redis, self.windows.serving_lag_ms);
        let Times { idle_after, commit_every, click, order, roll } = times;
        let label = "columns: { event_id: string, kind: string, req: string, item: string, uid: { type: string, nullable: true }, \
                     at: { type: timestamp, unit: ms }, value: { type: float64, nullable: true } }";
        let time = format!("lateness: 2s, idle_after: {idle_after}, max_drift: 2h");
        let text = format!(
            r#"version: 1
pipeline: {pipeline}
connections:
  main: {{ kafka: {{ brokers: "{brokers}" }} }}
  features: {{ redis: {{ url: "{redis}" }} }}
streams:
  impressions: {{
    kafka: {{ connection: main, topics: [{feed}] }},
    columns: {{
      request_id: string, user_id: {{ type: string, path: $.user.id }}, ts: {{ type: timestamp, unit: ms }},
      device: {{ type: string, nullable: true, default: unknown }}, item_id: {{ type: string, path: $.id, from: item }},
      price: {{ type: float64, from: item }}, position: {{ type: int32, path: $index, from: item }} }},
    explode: {{ path: $.items, as: item, max: 50 }},
    time: ts, key: [request_id, item_id], partition_by: user_id, {time} }}
  clicks: {{
    kafka: {{ connection: main, topics: [{clicks}] }}, {label}, where: "kind = 'click'",
    time: at, id: event_id, key: [req, item], partition_by: uid, {time} }}
  orders: {{
    kafka: {{ connection: main, topics: [{orders}] }}, {label}, where: "kind = 'order'",
    time: at, id: event_id, key: [req, item], partition_by: uid, {time} }}
features:
  user_activity:
    entity: user_id
    aggregates:
      user_clicks: {{ from: clicks, by: uid, count: "*", windows: [{user}] }}
      user_last_items: {{ from: clicks, by: uid, last_k: item, k: 5, windows: [{user}] }}
      user_spend: {{ from: orders, by: uid, sum: value, windows: [{user}] }}
  item_ctr:
    entity: item_id
    aggregates:
      item_shown: {{ from: impressions, count: "*", windows: [{item}] }}
      item_clicks: {{ from: clicks, by: item, count: "*", windows: [{item}] }}
    derived:
{derived}
samples:
  ctr:
    from: impressions
    serving_lag: {lag}ms
    join:
      click: {{ stream: clicks, within: {click}, before: 2s, take: first, select: [at] }}
      order: {{ stream: orders, within: {order}, take: {{ sum: value }} }}
    features: [user_activity, item_ctr]
    columns:
      clicked: "click.at IS NOT NULL"
      click_delay_ms: "millis_between(ts, click.at)"
    write: {{ parquet: {{ path: samples, partition_by: [date, hour], roll: {{ size: 1MB, age: {roll} }} }} }}
online: {{ store: features, flush: 100ms }}
state: {{ path: state, commit_every: {commit_every}, lanes: 2 }}
"#
        );
        std::fs::write(self.path().join("pipeline.yaml"), text).unwrap();
    }

    /// Writes records in their order; their offsets.
    pub fn produce(&mut self, records: &[Record]) -> Vec<i64> {
        let mut offsets = Vec::new();
        for (topic, name) in self.topics.iter().enumerate() {
            let mine = records.iter().filter(|record| record.topic == topic);
            let tests: Vec<TestRecord<'_>> = mine.map(as_test).collect();
            self.kafka.produce(name, &tests);
        }
        for record in records {
            let next = self.next.entry((record.topic, record.partition)).or_default();
            offsets.push(*next);
            *next += 1;
        }
        offsets
    }

    /// Samples are the oracle's, each once.
    pub fn check_samples(&self, oracle: &Oracle<'_>) {
        let mut expected = oracle.samples();
        let mut wrong = Vec::new();
        let mut found = 0;
        for row in rows(&self.path().join("samples")) {
            found += 1;
            match expected.remove(&key(&row)) {
                None => wrong.push(format!("twice, or never shown: {row:?}")),
                Some(expected) if expected != row => wrong.push(difference(&key(&row), &row, &expected)),
                Some(_) => {}
            }
        }
        wrong.extend(expected.keys().map(|key| format!("{key:?} is missing")));
        let count = wrong.len();
        wrong.truncate(12);
        assert!(wrong.is_empty(), "{found} rows, {count} wrong:\n{}", wrong.join("\n"));
    }

    /// Redis holds what the definitions give at the instant, for everybody who was ever seen.
    pub fn check_redis(&self, oracle: &Oracle<'_>, instant: i64) {
        self.check_redis_at(oracle, |_, _, _| instant);
    }

    /// The same, each entity at an instant of its own: by group, entity, and when the store says that it was written.
    pub fn check_redis_at(&self, oracle: &Oracle<'_>, instant_of: impl Fn(&str, &str, Option<i64>) -> i64) {
        let client = redis::Client::open(self.redis.as_str()).unwrap();
        let mut connection = client.get_connection().unwrap();
        let users = oracle.users().into_iter().map(|user| ("user_activity", user));
        let items = oracle.items().into_iter().map(|item| ("item_ctr", item));
        let (mut wrong, mut empty, mut all) = (Vec::new(), 0, 0);
        for (group, entity) in users.chain(items) {
            let name = entity_key(&[KeyPart::Text(entity.into())]).unwrap();
            let stored: BTreeMap<String, String> =
                redis::cmd("HGETALL").arg(format!("{}:{group}:{name}", self.pipeline)).query(&mut connection).unwrap();
            let instant = instant_of(group, entity, stored.get("_ts").map(|ts| ts.parse().unwrap()));
            let expected = match group {
                "item_ctr" => oracle.item_features(entity, instant),
                _ => oracle.user_features(entity, instant),
            };
            let features = stored.into_iter().filter(|(column, _)| !column.starts_with('_'));
            let found: Row = features.map(|(column, text)| (column, stored_value(&text))).collect();
            if found != expected {
                wrong.push(difference(&(group.into(), entity.into()), &found, &expected));
            }
            let nothing =
                |value: &Value| value.as_f64() == Some(0.0) || value == &json!([]) || value.as_f64() == Some(0.05);
            empty += expected.values().all(nothing) as u64;
            all += 1;
        }
        let count = wrong.len();
        wrong.truncate(12);
        assert!(wrong.is_empty(), "{count} of {all} entities wrong:\n{}", wrong.join("\n"));
        assert!(all > 100 && empty > 10, "{empty} of {all} entities slid empty: the test shows little");
    }

    /// The version of every entity in Redis.
    pub fn versions(&self) -> BTreeMap<String, String> {
        let client = redis::Client::open(self.redis.as_str()).unwrap();
        let mut connection = client.get_connection().unwrap();
        let keys =
            redis::cmd("KEYS").arg(format!("{}:*", self.pipeline)).query::<Vec<String>>(&mut connection).unwrap();
        if keys.is_empty() {
            return BTreeMap::new();
        }
        let mut versions = redis::pipe();
        for key in &keys {
            versions.cmd("HGET").arg(key).arg("_v");
        }
        let versions: Vec<Option<String>> = versions.query(&mut connection).unwrap();
        // One may have expired in between.
        keys.into_iter().zip(versions).filter_map(|(key, version)| Some((key, version?))).collect()
    }

    /// What lag monitors see is where reading ended.
    pub fn check_group(&self) {
        for (&(topic, partition), &next) in &self.next {
            let group = format!("conjoin-{}", self.pipeline);
            let committed = self.kafka.committed(&group, &self.topics[topic], partition);
            assert_eq!(committed, Some(next), "{} {partition}", self.topics[topic]);
        }
    }
}

fn as_test(record: &Record) -> TestRecord<'_> {
    TestRecord { partition: record.partition, payload: record.payload.as_deref(), ..TestRecord::default() }
}

fn key(row: &Row) -> (String, String) {
    let text = |column: &str| row[column].as_str().unwrap().to_owned();
    (text("request_id"), text("item_id"))
}

/// Numbers are parsed by the standard library: that of JSON may be off by the last bit.
fn stored_value(text: &str) -> Value {
    match (text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(number), _) => json!(number),
        (_, Ok(number)) => json!(number),
        _ => serde_json::from_str(text).unwrap_or_else(|error| panic!("{text:?}: {error}")),
    }
}

/// Only the columns that differ.
fn difference(key: &(String, String), found: &Row, expected: &Row) -> String {
    let columns: BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
    let differ = columns.into_iter().filter(|column| found.get(*column) != expected.get(*column));
    let tell = |column: &String| format!("{column}: {:?}, expected {:?}", found.get(column), expected.get(column));
    format!("{key:?}: {}", differ.map(tell).collect::<Vec<_>>().join("; "))
}

fn long_world() -> World {
    world(&WorldSpec {
        seed: 7,
        start: START,
        bursts: 180,
        burst_every_ms: HOUR / 6,
        burst_slates: 18,
        lateness_ms: 2_000,
        click_delay_max_ms: 12 * 60_000,
        name: "long",
    })
}

const LONG_TIMES: Times<'static> =
    Times { idle_after: "30s", commit_every: "300ms", click: "10m", order: "30m", roll: "1s" };

#[test]
fn a_log_with_everything_in_it_becomes_exactly_the_samples_features_and_dead_letters_it_should() {
    let mut setup = Setup::new(LONG);
    let world = long_world();
    let oracle = Oracle::new(&world, LONG);
    let offsets = setup.produce(&world.records);
    setup.write_pipeline(&brokers(), &LONG_TIMES);
    let run = Conjoin::run(setup.path(), "run", &["--until-end", "--close", "--json"]);
    let summary = run.summary();
    setup.check_samples(&oracle);
    check_accounts(&world, &oracle, &summary);
    check_dead_letters(&setup, &world, &offsets);
    setup.check_redis(&oracle, summary["online_instant"].as_i64().unwrap());
    setup.check_group();
}

/// Every record is accounted for, by the numbers that the generator knows.
fn check_accounts(world: &World, oracle: &Oracle<'_>, summary: &Value) {
    let streams = ["impressions", "clicks", "orders"];
    let meant = [world.impressions.len(), world.clicks.len(), world.orders.len()].map(|rows| rows as u64);
    for (topic, stream) in streams.iter().enumerate() {
        let mine = || world.records.iter().filter(|record| record.topic == topic);
        let expected = json!({
            "records": mine().count(),
            "consumed": mine().map(|record| record.rows).sum::<u64>(),
            "filtered": mine().map(|record| record.filtered).sum::<u64>(),
            "dead_lettered": mine().filter(|record| record.poison.is_some()).count(),
            "accepted": meant[topic] + world.duplicates[topic],
        });
        assert_eq!(summary["streams"][stream], expected, "{stream}");
    }
    assert_eq!(summary["records"], world.records.len());
    let sample = &summary["counts"]["samples"][0];
    let expected = json!({
        "duplicate": world.duplicates[FEED], "conflict": 0, "late": 0, "applied": meant[FEED],
        "pending": 0, "emitted": meant[FEED], "sampled_out": 0,
    });
    assert_eq!(sample["anchor"], expected);
    assert_eq!(summary["totals"]["file_rows"], meant[FEED]);
    let labels: Vec<_> = world.impressions.iter().map(|shown| oracle.labels(shown)).collect();
    let attached = [
        labels.iter().map(|(clicks, _)| clicks.len()).sum::<usize>() as u64,
        labels.iter().map(|(_, orders)| orders.len()).sum::<usize>() as u64,
    ];
    for (number, topic) in [(0, CLICKS), (1, ORDERS)] {
        let label = &sample["labels"][number];
        let count = |name: &str| label[name].as_u64().unwrap();
        assert_eq!(
            [
                count("filtered"),
                count("duplicate"),
                count("conflict"),
                count("late"),
                count("waiting"),
                count("applied")
            ],
            [0, world.duplicates[topic], 0, 0, 0, meant[topic]],
            "{label}"
        );
        assert_eq!(count("attached"), attached[number], "{label}");
        assert_eq!(count("out_of_window") + count("expired_unmatched"), meant[topic] - attached[number], "{label}");
    }
    for group in summary["counts"]["groups"].as_array().unwrap() {
        for feature in group["uses"].as_array().unwrap() {
            assert_eq!([&feature["masked"], &feature["late"]], [0, 0], "{group}");
            let total = feature["applied"].as_u64().unwrap();
            assert!(meant.contains(&total), "{group}: {meant:?}");
        }
    }
}

/// Each record that cannot be read lies there with its place, its reason and its bytes.
fn check_dead_letters(setup: &Setup, world: &World, offsets: &[i64]) {
    let mut expected = BTreeMap::new();
    for (record, offset) in world.records.iter().zip(offsets) {
        if let Some(reason) = record.poison {
            let raw = record.payload.clone().unwrap_or_default();
            expected.insert(
                (setup.topics[record.topic].clone(), record.partition as i64, *offset),
                (reason.to_owned(), raw),
            );
        }
    }
    let mut found = BTreeMap::new();
    for row in rows(&setup.path().join("state/dead-letters")) {
        let text = |column: &str| row[column].as_str().unwrap().to_owned();
        let bytes = row["raw"].as_array().unwrap().iter().map(|byte| byte.as_u64().unwrap() as u8).collect::<Vec<u8>>();
        let place = (text("input"), row["partition"].as_i64().unwrap(), row["position"].as_i64().unwrap());
        assert!(!text("message").is_empty());
        assert!(found.insert(place, (text("reason"), bytes)).is_none(), "twice: {row:?}");
    }
    let short = |letters: &BTreeMap<_, (String, Vec<u8>)>| -> Vec<_> {
        let letter = |(place, (reason, raw)): (&(String, i64, i64), &(String, Vec<u8>))| {
            (place.clone(), reason.clone(), raw.len(), String::from_utf8_lossy(&raw[..raw.len().min(80)]).into_owned())
        };
        letters.iter().map(letter).collect()
    };
    assert_eq!(short(&found), short(&expected));
    assert!(found == expected, "bytes differ");
}

const FIRST: WorldSpec = WorldSpec {
    seed: 11,
    start: START,
    bursts: 30,
    burst_every_ms: 3_000,
    burst_slates: 14,
    lateness_ms: 2_000,
    click_delay_max_ms: 4_000,
    name: "first",
};

/// Two logs with ten minutes between them, to be written while the pipeline runs.
pub(crate) fn short_worlds() -> World {
    let mut both = world(&FIRST);
    let second = world(&WorldSpec { seed: 12, start: START + HOUR / 6, name: "second", ..FIRST });
    both.impressions.extend(second.impressions);
    both.clicks.extend(second.clicks);
    both.orders.extend(second.orders);
    both.records.extend(second.records);
    both
}

pub(crate) const SHORT_TIMES: Times<'static> =
    Times { idle_after: "4s", commit_every: "300ms", click: "3s", order: "6s", roll: "1s" };

/// Reads every file once, as soon as a glob shows it, and counts rows; a row must not come twice.
#[derive(Default)]
pub(crate) struct PlainReader {
    pub seen: BTreeSet<std::path::PathBuf>,
    keys: BTreeSet<(String, String)>,
}

impl PlainReader {
    pub fn look(&mut self, folder: &Path) -> usize {
        for path in files(&folder.join("samples"), ".parquet") {
            if self.seen.insert(path.clone()) {
                for row in file_rows(&path) {
                    assert!(
                        self.keys.insert(key(&row)),
                        "{:?} is in two files, or twice in {}",
                        key(&row),
                        path.display()
                    );
                }
            }
        }
        self.keys.len()
    }
}

#[test]
fn a_live_run_that_is_killed_twice_and_then_falls_quiet_loses_and_doubles_nothing() {
    let mut setup = Setup::new(SHORT);
    let world = short_worlds();
    let oracle = Oracle::new(&world, SHORT);
    setup.write_pipeline(&brokers(), &SHORT_TIMES);
    let start = |setup: &Setup, name| Conjoin::run(setup.path(), name, &["--json"]);
    let mut run = start(&setup, "first");
    let mut reader = PlainReader::default();
    for (number, chunk) in world.records.chunks(world.records.len() / 40).enumerate() {
        setup.produce(chunk);
        if number == 8 || number == 28 {
            let before = newest_manifest(setup.path());
            wait_for("the next commit", || (newest_manifest(setup.path()) > before).then_some(()));
        }
        if number == 9 || number == 29 {
            run.kill();
            run = start(&setup, if number == 9 { "second" } else { "third" });
        }
        reader.look(setup.path());
        std::thread::sleep(Duration::from_millis(150));
    }
    wait_for("all windows to close", || (reader.look(setup.path()) >= world.impressions.len()).then_some(()));
    assert!(run.is_running(), "{}", run.errors());
    run.terminate();
    let summary = run.summary();
    assert!(summary["restored_rows"].as_u64().unwrap() > 0, "the kill was not in the middle: {summary}");
    setup.check_samples(&oracle);
    setup.check_redis(&oracle, summary["online_instant"].as_i64().unwrap());
    setup.check_group();
    assert!(reader.seen.len() > 5, "only {} files", reader.seen.len());
}

#[test]
fn stopping_at_the_topics_end_keeps_what_is_pending_for_the_next_run() {
    let mut setup = Setup::new(SHORT);
    let world = short_worlds();
    let oracle = Oracle::new(&world, SHORT);
    setup.write_pipeline(&brokers(), &SHORT_TIMES);
    let (early, rest) = world.records.split_at(world.records.len() / 3);
    setup.produce(early);
    let summary = Conjoin::run(setup.path(), "first", &["--until-end", "--json"]).summary();
    let anchor = &summary["counts"]["samples"][0]["anchor"];
    assert!(anchor["pending"].as_u64().unwrap() > 0, "the end of a topic closed what was pending: {anchor}");
    setup.produce(rest);
    let summary = Conjoin::run(setup.path(), "second", &["--until-end", "--close", "--json"]).summary();
    assert!(summary["restored_rows"].as_u64().unwrap() > 0, "{summary}");
    setup.check_samples(&oracle);
    setup.check_redis(&oracle, summary["online_instant"].as_i64().unwrap());
}

#[test]
fn redis_away_at_the_start_and_in_the_middle_costs_nothing() {
    let mut redis = Private::new();
    let mut setup = Setup::with_redis(SHORT, redis.url());
    let world = short_worlds();
    let oracle = Oracle::new(&world, SHORT);
    setup.write_pipeline(&brokers(), &SHORT_TIMES);
    let mut run = Conjoin::run(setup.path(), "run", &["--json"]);
    for (number, chunk) in world.records.chunks(world.records.len() / 20).enumerate() {
        setup.produce(chunk);
        match number {
            6 => {
                wait_for("a word about Redis", || run.errors().contains("features").then_some(()));
                redis.start(&[]);
            }
            12 => redis.kill(),
            17 => redis.start(&[]),
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(150));
    }
    let all = world.impressions.len();
    wait_for("all windows to close", || (rows(&setup.path().join("samples")).len() >= all).then_some(()));
    assert!(run.is_running(), "{}", run.errors());
    run.terminate();
    let summary = run.summary();
    setup.check_samples(&oracle);
    setup.check_redis(&oracle, summary["online_instant"].as_i64().unwrap());
}

#[test]
fn kafka_away_at_the_start_is_told_waited_for_and_can_be_stopped() {
    let mut setup = Setup::new(SHORT);
    let world = short_worlds();
    let oracle = Oracle::new(&world, SHORT);
    setup.produce(&world.records);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    setup.write_pipeline(&closed.to_string(), &SHORT_TIMES);
    let waiting = |run: &Conjoin| {
        let said = format!("no answer from the brokers {closed}");
        wait_for("a word about Kafka", || {
            let errors = run.errors();
            (errors.contains(&said) && errors.contains("trying again")).then_some(())
        });
    };
    let stopped = Conjoin::run(setup.path(), "stopped", &["--json"]);
    waiting(&stopped);
    stopped.terminate();
    assert_eq!(stopped.summary()["records"], 0);
    let run = Conjoin::run(setup.path(), "run", &["--until-end", "--close", "--json"]);
    waiting(&run);
    forward(closed, brokers());
    let summary = run.summary();
    assert_eq!(summary["records"], world.records.len());
    setup.check_samples(&oracle);
}

/// The outage lasts longer than `idle_after`: what is quiet because nobody can see it must not close.
#[test]
fn f4_kafka_away_in_the_middle_is_told_and_closes_no_window() {
    let cluster = MockCluster::new(1).unwrap();
    let mut setup = Setup::with_mock(SHORT, &cluster);
    let world = short_worlds();
    let oracle = Oracle::new(&world, SHORT);
    // Long enough that no partition falls idle merely because a busy machine reads it late.
    let times = Times { idle_after: "8s", ..SHORT_TIMES };
    setup.write_pipeline(&cluster.bootstrap_servers(), &times);
    let run = Conjoin::run(setup.path(), "run", &["--json"]);
    // Between the two worlds lie ten minutes: what comes after the outage is not late, although time goes on before it.
    let (early, rest) = world.records.split_at(crate::support::world::world(&FIRST).records.len());
    setup.produce(early);
    let known = |setup: &Setup| rows(&setup.path().join("samples")).len();
    wait_for("the first samples", || (known(&setup) > 0).then_some(()));
    cluster.broker_down(1).unwrap();
    wait_for("a word about Kafka", || run.errors().contains("no broker answers").then_some(()));
    let closed = || newest_manifest(setup.path());
    // A commit or two may still be on their way; then nothing moves, for longer than it takes to fall idle.
    let mut last = closed();
    wait_for("the outage to be all there is", || {
        std::thread::sleep(Duration::from_secs(10));
        let now = closed();
        (std::mem::replace(&mut last, now) == now).then_some(())
    });
    cluster.broker_up(1).unwrap();
    wait_for("a word that it is back", || run.errors().contains("brokers answer again").then_some(()));
    setup.produce(rest);
    let all = world.impressions.len();
    wait_for("all windows to close", || (known(&setup) >= all).then_some(()));
    run.terminate();
    let summary = run.summary();
    assert_eq!(summary["counts"]["samples"][0]["anchor"]["late"], 0, "{summary}");
    setup.check_samples(&oracle);
    setup.check_redis(&oracle, summary["online_instant"].as_i64().unwrap());
}

/// Passes connections on: brokers that come late. Clients find the real address through it.
fn forward(from: SocketAddr, to: String) {
    let listener = TcpListener::bind(from).expect("the port is still free");
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(&to) else { continue };
            for (mut read, mut write) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
            {
                // Ends with the connection.
                std::thread::spawn(move || std::io::copy(&mut read, &mut write));
            }
        }
    });
}
