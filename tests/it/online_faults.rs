//! Online faults, by their numbers in docs/FAULTS.md: a Redis that is away under load, and one that loses what it had.

use crate::brokers::{committed, metric};
use crate::end_to_end::{SHORT, SHORT_TIMES, START, Setup, short_worlds};
use crate::kill::scratch;
use crate::online_redis::{Private, Wire};
use crate::support::binary::{Conjoin, rows, wait_for};
use crate::support::kafka::{KafkaProducer, TestRecord, brokers, unique};
use crate::support::oracle::Oracle;
use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// Without the log that would bring everything back.
const FORGETFUL: [&str; 2] = ["--appendonly", "no"];

#[test]
fn fault_33_a_redis_that_falls_back_to_an_older_dump_gets_every_feature_again() {
    redis_loses(|redis| {
        redis.kill();
        redis.start(&FORGETFUL);
    });
}

#[test]
fn fault_33_a_redis_that_was_emptied_gets_every_feature_again() {
    redis_loses(|redis| assert!(Wire::open(&redis.url()).ask("FLUSHALL").starts_with("+OK")));
}

/// A dump is made early, and the loss comes later, while rows flow. Then Redis holds what a recomputation gives.
fn redis_loses(lose: impl Fn(&mut Private)) {
    let mut redis = Private::new();
    redis.start(&FORGETFUL);
    let mut setup = Setup::with_redis(SHORT, redis.url());
    let world = short_worlds();
    let oracle = Oracle::new(&world, SHORT);
    setup.write_pipeline(&brokers(), &SHORT_TIMES);
    let mut run = Conjoin::run(setup.path(), "run", &["--json"]);
    let chunks: Vec<_> = world.records.chunks(world.records.len() / 20).collect();
    for (number, chunk) in chunks.iter().enumerate() {
        setup.produce(chunk);
        match number {
            5 => {
                let mut wire = Wire::open(&redis.url());
                let pattern = format!("KEYS {}:*", setup.pipeline());
                wait_for("features in Redis", || wire.ask(&pattern).contains("item_ctr").then_some(()));
                assert!(wire.ask("SAVE").starts_with("+OK"));
            }
            18 => lose(&mut redis),
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(150));
    }
    wait_for("a word about the loss", || run.errors().contains("has lost rows it had acknowledged").then_some(()));
    let all = world.impressions.len();
    wait_for("all windows to close", || (rows(&setup.path().join("samples")).len() >= all).then_some(()));
    assert!(run.is_running(), "{}", run.errors());
    run.terminate();
    let summary = run.summary();
    setup.check_samples(&oracle);
    setup.check_redis_after_a_loss(&oracle, summary["online_instant"].as_i64().unwrap());
}

/// Users of the load; more than may wait for an absent Redis outside of the state.
const USERS: u64 = 120_000;
const ROUNDS: u64 = 3;
const ROUNDS_MAX: u64 = 70;

/// How long at least Redis is away: `CONJOIN_AWAY_SECONDS` says it for longer trials.
fn away() -> Duration {
    let seconds = std::env::var("CONJOIN_AWAY_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(0))
}

/// One impression of every user within the 50 s of a round: an hour's window holds [`ROUNDS_MAX`] of them.
fn round(number: u64) -> Vec<String> {
    let impression = |user: u64| {
        let at = START + (number * 50_000 + user * 50_000 / USERS) as i64;
        format!("{{\"id\":\"i{number}-{user}\",\"user\":\"u{user}\",\"at\":{at}}}")
    };
    (0..USERS).map(impression).collect()
}

fn produce(kafka: &KafkaProducer, topic: &str, payloads: &[String]) {
    let record = |payload: &'_ String| payload.clone().into_bytes();
    let bytes: Vec<Vec<u8>> = payloads.iter().map(record).collect();
    let records: Vec<_> =
        bytes.iter().map(|bytes| TestRecord { payload: Some(bytes), ..TestRecord::default() }).collect();
    kafka.produce(topic, &records);
}

#[test]
fn fault_32_samples_go_on_in_bounded_memory_while_redis_is_away_under_load_and_every_feature_comes_after() {
    let (mut redis, kafka, folder) = (Private::new(), KafkaProducer::new(), scratch());
    let (topic, pipeline) = (kafka.create_topic("load", 1), unique("load"));
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap();
    let text = format!(
        r#"version: 1
pipeline: {pipeline}
connections:
  main: {{ kafka: {{ brokers: "{}" }} }}
  features: {{ redis: {{ url: "{}" }} }}
streams:
  impressions: {{
    kafka: {{ connection: main, topics: [{topic}] }}, columns: {{ id: string, user: string, at: timestamp }},
    time: at, id: id, key: id, partition_by: user, lateness: 1s, idle_after: 1h }}
features:
  activity: {{ entity: user, aggregates: {{ shown: {{ from: impressions, count: "*", windows: [1h] }} }} }}
samples:
  s: {{ from: impressions, features: [activity], write: {{ parquet: {{ path: samples }} }} }}
online: {{ store: features, flush: 20ms }}
state: {{ path: state, commit_every: 200ms, lanes: 2 }}
serve: {{ listen: "{address}" }}
"#,
        brokers(),
        redis.url()
    );
    fs::write(folder.path().join("pipeline.yaml"), text).unwrap();
    let mut run = Conjoin::run(folder.path(), "run", &["--json"]);
    let mut memory = Vec::new();
    let (began, away) = (Instant::now(), away());
    let mut rounds = 0;
    while rounds < ROUNDS || (began.elapsed() < away && rounds < ROUNDS_MAX) {
        produce(&kafka, &topic, &round(rounds));
        rounds += 1;
        wait_for("the samples", || (committed(folder.path()) == USERS * rounds).then_some(()));
        memory.push(run.memory("VmRSS") >> 20);
    }
    println!("away for {:.0} s, {} impressions meanwhile", began.elapsed().as_secs_f64(), USERS * rounds);
    let waiting = metric(&address.to_string(), "conjoin_online_backlog_entities").unwrap();
    println!("resident after each round, in MiB: {memory:?}; {waiting} entities wait outside of the state");
    assert!(waiting >= 100_000.0, "only {waiting} wait: the load shows nothing");
    // Every round adds a tile to each user's window, which is state and no backlog.
    let tiles = |round: usize| (round as u64 * USERS * 64) >> 20;
    let bounded = |(round, after): (usize, &u64)| *after < memory[0] + 100 + tiles(round);
    assert!(memory.iter().enumerate().all(bounded), "{memory:?}");
    redis.start(&FORGETFUL);
    // Moves the instant as of which features are published behind all of them.
    produce(
        &kafka,
        &topic,
        &[format!("{{\"id\":\"end\",\"user\":\"end\",\"at\":{}}}", START + (rounds * 50_000) as i64 + 10_000)],
    );
    let wrong = || {
        let mut connection = redis::Client::open(redis.url()).ok()?.get_connection().ok()?;
        let mut wrong = 0;
        for users in (0..USERS).collect::<Vec<_>>().chunks(10_000) {
            let mut questions = redis::pipe();
            for user in users {
                questions.hget(format!("{pipeline}:activity:u{user}"), "shown_1h");
            }
            let found: Vec<Option<u64>> = questions.query(&mut connection).ok()?;
            wrong += found.iter().filter(|found| **found != Some(rounds)).count();
        }
        println!("{wrong} of {USERS} features are not there yet");
        Some(wrong)
    };
    wait_for("every feature in Redis", || (wrong()? == 0).then_some(()));
    assert!(run.is_running(), "{}", run.errors());
    run.terminate();
    assert_eq!(run.summary()["records"], rounds * USERS + 1);
}
