//! The Kafka source against a real broker, and against a mock one where a broker has to go down.

use crate::support::kafka::{KafkaProducer, TestRecord, brokers, unique};
use conjoin::event::{PartitionId, PositionDelta, Positions, RawBatch};
use conjoin::source::kafka::{KafkaOptions, KafkaSource, ReconnectingKafka};
use conjoin::source::{
    InputKind, InputSpec, KafkaConnection, KafkaStart, KafkaTopicSpec, LogEnd, Source, SourceError, SourceEvent,
};
use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Statistics and metadata often enough that a test need not wait for them.
const BRISK: [(&str, &str); 4] = [
    ("statistics.interval.ms", "200"),
    ("topic.metadata.refresh.interval.ms", "500"),
    ("topic.metadata.propagation.max.ms", "1000"),
    ("reconnect.backoff.max.ms", "500"),
];

fn connection(brokers: &str) -> KafkaConnection {
    let properties = BRISK.iter().map(|&(property, value)| (property.to_string(), value.to_string())).collect();
    KafkaConnection { name: "main".to_string(), brokers: brokers.to_string(), properties }
}

fn input(topic: &str, start: KafkaStart) -> InputSpec {
    let connection = connection("");
    let spec = KafkaTopicSpec { topic: topic.to_string(), start, connection, allow_gaps: false };
    InputSpec { name: topic.to_string(), kind: InputKind::Kafka(spec), streams: vec![0], headers: false }
}

fn options(until_end: bool) -> KafkaOptions {
    KafkaOptions { until_end, ..KafkaOptions::default() }
}

fn open(inputs: &[InputSpec], positions: &Positions, options: KafkaOptions) -> Result<KafkaSource, SourceError> {
    let numbered: Vec<_> = inputs.iter().enumerate().map(|(number, spec)| (number as u16, spec)).collect();
    // A topic made a moment ago may have no leader yet.
    for _ in 0..50 {
        match KafkaSource::connect(&connection(&brokers()), &numbered, positions, options.clone()) {
            Err(error) if error.retry() => std::thread::sleep(Duration::from_millis(100)),
            result => return result,
        }
    }
    panic!("no connection after 50 tries");
}

fn from_start(topic: &str, until_end: bool) -> KafkaSource {
    open(&[input(topic, KafkaStart::Earliest)], &Positions::default(), options(until_end)).unwrap()
}

fn failure(result: Result<KafkaSource, SourceError>) -> SourceError {
    result.err().expect("connect should have failed")
}

fn end(readable: i64) -> LogEnd {
    LogEnd { readable, blocked: 0 }
}

fn at(partition: u32) -> PartitionId {
    PartitionId { input: 0, partition }
}

/// What came out of a source, with the deltas chained as they came.
#[derive(Default)]
struct Seen {
    positions: Positions,
    payloads: BTreeMap<PartitionId, Vec<String>>,
    batches: Vec<RawBatch>,
    caught_up: Vec<PartitionId>,
    ended: Vec<PartitionId>,
    lost: Vec<PartitionId>,
    connection: Vec<bool>,
}

impl Seen {
    fn count(&self) -> usize {
        self.payloads.values().map(Vec::len).sum()
    }

    fn take(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Batch(batch) => {
                self.positions.apply(batch.delta).unwrap();
                let payloads = self.payloads.entry(batch.delta.partition).or_default();
                for record in &batch.records {
                    let payload = record.payload.as_ref().map_or(&b""[..], |range| batch.slice(range));
                    payloads.push(String::from_utf8(payload.to_vec()).unwrap());
                }
                self.batches.push(batch);
            }
            SourceEvent::CaughtUp(partition) => self.caught_up.push(partition),
            SourceEvent::Ended(partition) => self.ended.push(partition),
            SourceEvent::OutOfSight(partition) => self.lost.push(partition),
            SourceEvent::Connection { ready, .. } => self.connection.push(ready),
            SourceEvent::Nothing => {}
        }
    }

    /// Polls until `done`, or until the source stops.
    fn until(&mut self, source: &mut impl Source, done: impl Fn(&Seen) -> bool) -> Result<(), SourceError> {
        let began = Instant::now();
        while !done(self) {
            self.take(source.poll(Duration::from_millis(50))?);
            assert!(began.elapsed() < Duration::from_secs(45), "waited too long; ended: {:?}", self.ended);
        }
        Ok(())
    }
}

fn read_to_end(source: &mut KafkaSource) -> Seen {
    let mut seen = Seen::default();
    let partitions = source.partitions().len();
    seen.until(source, |seen| seen.ended.len() == partitions).unwrap();
    seen
}

fn produce(producer: &KafkaProducer, topic: &str, partition: i32, numbers: std::ops::Range<i32>) {
    let payloads: Vec<String> = numbers.map(|number| number.to_string()).collect();
    let record =
        |payload: &'static str| TestRecord { partition, payload: Some(payload.as_bytes()), ..Default::default() };
    let records: Vec<_> = payloads.into_iter().map(|payload| record(payload.leak())).collect();
    producer.produce(topic, &records);
}

fn numbers(range: std::ops::Range<i32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn every_partition_is_read_in_order_and_its_steps_chain() {
    let producer = KafkaProducer::new();
    let topic = producer.create_topic("order", 3);
    for round in 0..4 {
        for partition in 0..3 {
            produce(&producer, &topic, partition, round * 2500..(round + 1) * 2500);
        }
    }
    let mut source = from_start(&topic, true);
    assert_eq!(source.partitions(), vec![at(0), at(1), at(2)]);
    assert_eq!(source.partition_counts(), BTreeMap::from([(0, 3)]));
    let seen = read_to_end(&mut source);
    for partition in 0..3 {
        assert_eq!(seen.payloads[&at(partition)], numbers(0..10_000));
        assert_eq!(seen.positions.next(at(partition)), Some(10_000));
    }
    assert!(seen.batches.iter().all(|batch| batch.records.len() <= KafkaOptions::default().batch_records_max));
    assert_eq!(source.label(at(2), 17), format!("{topic}/2 offset 17"));
    assert_eq!(source.repeated(), 0);
}

#[test]
fn reading_goes_on_from_the_positions() {
    let producer = KafkaProducer::new();
    let topic = producer.create_topic("resume", 2);
    produce(&producer, &topic, 0, 0..100);
    produce(&producer, &topic, 1, 0..100);
    let mut positions = Positions::default();
    positions.set(at(0), 40);
    let mut source = open(&[input(&topic, KafkaStart::Earliest)], &positions, options(true)).unwrap();
    let seen = read_to_end(&mut source);
    assert_eq!(seen.payloads[&at(0)], numbers(40..100));
    assert_eq!(seen.payloads[&at(1)], numbers(0..100));
    drop(source);
    let mut source = open(&[input(&topic, KafkaStart::Latest)], &seen.positions, options(true)).unwrap();
    assert_eq!(read_to_end(&mut source).count(), 0);
    produce(&producer, &topic, 1, 100..103);
    let mut source = open(&[input(&topic, KafkaStart::Latest)], &seen.positions, options(true)).unwrap();
    assert_eq!(read_to_end(&mut source).payloads[&at(1)], numbers(100..103));
}

#[test]
fn a_bounded_read_stops_at_the_end_it_found_at_connect() {
    let producer = KafkaProducer::new();
    let topic = producer.create_topic("bounded", 1);
    produce(&producer, &topic, 0, 0..50);
    let mut source = from_start(&topic, true);
    produce(&producer, &topic, 0, 50..80);
    let mut seen = read_to_end(&mut source);
    assert_eq!(seen.payloads[&at(0)], numbers(0..50));
    for _ in 0..10 {
        seen.take(source.poll(Duration::from_millis(50)).unwrap());
    }
    assert_eq!((seen.count(), seen.ended.len(), seen.caught_up.len()), (50, 1, 0));
}

#[test]
fn an_unbounded_read_says_when_it_caught_up_and_goes_on() {
    let producer = KafkaProducer::new();
    let topic = producer.create_topic("tail", 2);
    produce(&producer, &topic, 1, 0..10);
    let mut source = from_start(&topic, false);
    let mut seen = Seen::default();
    seen.until(&mut source, |seen| seen.caught_up.contains(&at(0)) && seen.caught_up.contains(&at(1))).unwrap();
    assert_eq!(seen.payloads[&at(1)], numbers(0..10));
    produce(&producer, &topic, 0, 0..5);
    seen.caught_up.clear();
    seen.until(&mut source, |seen| seen.caught_up.contains(&at(0))).unwrap();
    assert_eq!(seen.payloads[&at(0)], numbers(0..5));
    seen.until(&mut source, |_| true).unwrap();
    let began = Instant::now();
    while source.log_ends() != BTreeMap::from([(at(0), end(5)), (at(1), end(10))]) {
        seen.take(source.poll(Duration::from_millis(50)).unwrap());
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", source.log_ends());
    }
}

#[test]
fn several_topics_share_a_source_and_keep_apart() {
    let producer = KafkaProducer::new();
    let (first, second) = (producer.create_topic("first", 1), producer.create_topic("second", 1));
    produce(&producer, &first, 0, 0..10);
    produce(&producer, &second, 0, 100..120);
    let inputs = [input(&first, KafkaStart::Earliest), input(&second, KafkaStart::Earliest)];
    let mut source = open(&inputs, &Positions::default(), options(false)).unwrap();
    let mut seen = Seen::default();
    seen.until(&mut source, |seen| seen.caught_up.len() == 2).unwrap();
    let second_partition = PartitionId { input: 1, partition: 0 };
    assert_eq!(seen.payloads[&at(0)], numbers(0..10));
    assert_eq!(seen.payloads[&second_partition], numbers(100..120));
    assert_eq!(source.partitions(), vec![at(0), second_partition]);
}

fn only(partitions: &[u32], until_end: bool) -> KafkaOptions {
    KafkaOptions { partitions: Some(partitions.iter().copied().collect::<BTreeSet<u32>>()), ..options(until_end) }
}

#[test]
fn only_the_partitions_asked_for_are_read_of_every_topic() {
    let producer = KafkaProducer::new();
    let (first, second) = (producer.create_topic("some", 4), producer.create_topic("more", 4));
    for partition in 0..4 {
        produce(&producer, &first, partition, partition * 100..partition * 100 + 10);
        produce(&producer, &second, partition, partition * 100 + 50..partition * 100 + 60);
    }
    let inputs = [input(&first, KafkaStart::Earliest), input(&second, KafkaStart::Earliest)];
    let of = |input, partition| PartitionId { input, partition };
    let mut source = open(&inputs, &Positions::default(), only(&[1, 3], true)).unwrap();
    assert_eq!(source.partitions(), [of(0, 1), of(0, 3), of(1, 1), of(1, 3)]);
    assert_eq!(source.partition_counts(), BTreeMap::from([(0, 4), (1, 4)]), "of the topic as a whole");
    assert_eq!(source.starts().len(), 4);
    let seen = read_to_end(&mut source);
    assert_eq!(seen.payloads.len(), 4);
    assert_eq!(seen.payloads[&of(0, 3)], numbers(300..310));
    assert_eq!(seen.payloads[&of(1, 1)], numbers(150..160));
    drop(source);

    produce(&producer, &first, 3, 310..320);
    let mut source = open(&inputs, &seen.positions, only(&[3], false)).unwrap();
    let mut more = Seen::default();
    more.until(&mut source, |seen| seen.count() == 10 && seen.caught_up.len() >= 2).unwrap();
    assert_eq!(more.payloads[&of(0, 3)], numbers(310..320));
    let began = Instant::now();
    let end = |readable| LogEnd { readable, blocked: 0 };
    while source.log_ends() != BTreeMap::from([(of(0, 3), end(20)), (of(1, 3), end(10))]) {
        more.take(source.poll(Duration::from_millis(50)).unwrap());
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", source.log_ends());
    }
    source.pause(of(0, 2));
    source.resume(of(0, 2));
    source.pause(of(0, 3));
    produce(&producer, &first, 3, 320..330);
    source.resume(of(0, 3));
    more.until(&mut source, |seen| seen.count() == 20).unwrap();
    assert_eq!(more.payloads[&of(0, 3)], numbers(310..330));
}

#[test]
fn a_partition_that_the_topic_does_not_have_cannot_be_asked_for() {
    let producer = KafkaProducer::new();
    let topic = producer.create_topic("few", 2);
    let error = failure(open(&[input(&topic, KafkaStart::Earliest)], &Positions::default(), only(&[0, 2], true)));
    let text = error.to_string();
    assert!(!error.retry() && text.contains(&topic) && text.contains("has 2 partitions"), "{text}");
}

#[test]
fn a_reader_of_some_partitions_stops_as_well_when_the_topic_grows() {
    let producer = KafkaProducer::new();
    let topic = producer.create_topic("grow-some", 2);
    let mut source = open(&[input(&topic, KafkaStart::Earliest)], &Positions::default(), only(&[1], false)).unwrap();
    let mut seen = Seen::default();
    seen.until(&mut source, |seen| !seen.caught_up.is_empty()).unwrap();
    producer.grow_topic(&topic, 3);
    let error = seen.until(&mut source, |_| false).unwrap_err();
    assert!(!error.retry() && error.to_string().contains("grew from 2 to 3 partitions"), "{error}");
}

#[test]
fn keys_headers_timestamps_and_null_payloads_come_along() {
    let producer = KafkaProducer::new();
    let topic = producer.create_topic("whole", 1);
    let record = TestRecord {
        key: Some(b"k"),
        payload: Some(b"payload"),
        timestamp: Some(1_700_000_000_123),
        headers: &[("x-experiment", b"blue"), ("empty", b"")],
        ..Default::default()
    };
    producer.produce(&topic, &[record, TestRecord { key: Some(b"gone"), ..Default::default() }]);
    let read = |headers: bool| {
        let mut spec = input(&topic, KafkaStart::Earliest);
        spec.headers = headers;
        let seen = read_to_end(&mut open(&[spec], &Positions::default(), options(true)).unwrap());
        assert_eq!(seen.batches.len(), 1);
        seen.batches.into_iter().next().unwrap()
    };
    let batch = read(true);
    let [whole, tombstone] = &batch.records[..] else { panic!("{:?}", batch.records) };
    assert_eq!(batch.delta, PositionDelta { partition: at(0), from: 0, to: 2 });
    assert_eq!(batch.slice(whole.payload.as_ref().unwrap()), b"payload");
    assert_eq!(batch.slice(whole.key.as_ref().unwrap()), b"k");
    assert_eq!((whole.position, whole.broker_time), (0, Some(1_700_000_000_123)));
    let headers: Vec<_> = whole.headers.iter().map(|(name, value)| (batch.slice(name), batch.slice(value))).collect();
    assert_eq!(headers, [(&b"x-experiment"[..], &b"blue"[..]), (&b"empty"[..], &b""[..])]);
    assert_eq!((tombstone.payload.clone(), tombstone.position), (None, 1));
    assert_eq!(batch.slice(tombstone.key.as_ref().unwrap()), b"gone");
    assert!(read(false).records[0].headers.is_empty());
}

#[test]
fn reading_can_start_at_the_end_or_at_a_time() {
    let producer = KafkaProducer::new();
    let topic = producer.create_topic("start", 1);
    for (payload, timestamp) in [("a", 1_000_000), ("b", 2_000_000), ("c", 3_000_000)] {
        let record = TestRecord { payload: Some(payload.as_bytes()), timestamp: Some(timestamp), ..Default::default() };
        producer.produce(&topic, &[record]);
    }
    let read = |start| read_to_end(&mut open(&[input(&topic, start)], &Positions::default(), options(true)).unwrap());
    assert_eq!(read(KafkaStart::Timestamp(2_000_000)).payloads[&at(0)], ["b", "c"]);
    assert_eq!(read(KafkaStart::Timestamp(2_000_001)).payloads[&at(0)], ["c"]);
    assert_eq!(read(KafkaStart::Timestamp(9_000_000)).count(), 0);
    assert_eq!(read(KafkaStart::Latest).count(), 0);
    let latest = open(&[input(&topic, KafkaStart::Latest)], &Positions::default(), options(false));
    let mut source = latest.unwrap();
    producer.produce(&topic, &[TestRecord { payload: Some(b"d"), ..Default::default() }]);
    let mut seen = Seen::default();
    seen.until(&mut source, |seen| seen.count() == 1).unwrap();
    assert_eq!(seen.payloads[&at(0)], ["d"]);
}

#[test]
fn a_missing_topic_is_named_with_the_brokers_and_similar_names() {
    let producer = KafkaProducer::new();
    let topic = producer.create_topic("impressions", 1);
    let misspelled = topic.replace("impressions", "impresions");
    let error = failure(open(&[input(&misspelled, KafkaStart::Earliest)], &Positions::default(), options(false)));
    let text = error.to_string();
    assert!(!error.retry(), "{text}");
    assert!(text.contains(&misspelled) && text.contains(&brokers()) && text.contains(&format!("`{topic}`")), "{text}");
}

#[test]
fn records_deleted_before_they_were_read_stop_the_source_at_connect() {
    let producer = KafkaProducer::new();
    let topic = producer.create_topic("retention", 2);
    produce(&producer, &topic, 1, 0..100);
    producer.delete_records(&topic, 1, 60);
    let mut positions = Positions::default();
    positions.set(at(1), 25);
    let error = failure(open(&[input(&topic, KafkaStart::Earliest)], &positions, options(true)));
    assert!(!error.retry());
    assert!(error.to_string().contains("partition 1 lost the offsets 25 to 59 (35 of them)"), "{error}");
    let seen = read_to_end(&mut from_start(&topic, true));
    assert_eq!(seen.payloads[&at(1)], numbers(60..100));
}

#[test]
fn records_deleted_while_reading_stop_the_source() {
    let producer = KafkaProducer::new();
    let topic = producer.create_topic("retention-live", 1);
    produce(&producer, &topic, 0, 0..10);
    let mut source = from_start(&topic, false);
    let mut seen = Seen::default();
    seen.until(&mut source, |seen| !seen.caught_up.is_empty()).unwrap();
    source.pause(at(0));
    produce(&producer, &topic, 0, 10..100);
    producer.delete_records(&topic, 0, 70);
    source.resume(at(0));
    let error = seen.until(&mut source, |seen| seen.count() > 10).unwrap_err();
    assert!(error.to_string().contains("partition 0 lost the offsets 10 to 69"), "{error}");
    assert!(source.poll(Duration::ZERO).unwrap_err().to_string().contains("stopped before"));
}

#[test]
fn a_position_behind_the_end_means_another_topic() {
    let producer = KafkaProducer::new();
    let topic = producer.create_topic("anew", 1);
    produce(&producer, &topic, 0, 0..5);
    let mut positions = Positions::default();
    positions.set(at(0), 6);
    let error = failure(open(&[input(&topic, KafkaStart::Earliest)], &positions, options(false)));
    assert!(!error.retry() && error.to_string().contains("ends at offset 5"), "{error}");
}

#[test]
fn a_gap_stops_the_source_unless_gaps_are_allowed() {
    let producer = KafkaProducer::transactional();
    let topic = producer.create_topic("gaps", 1);
    let record = |payload: &'static [u8]| TestRecord { payload: Some(payload), ..Default::default() };
    producer.transaction(&topic, &[record(b"0"), record(b"1")], true); // 2 is the marker
    producer.transaction(&topic, &[record(b"aborted")], false); // 4 is the marker
    producer.transaction(&topic, &[record(b"5")], true); // 6 is the marker
    let mut seen = Seen::default();
    let error = seen.until(&mut from_start(&topic, true), |seen| !seen.ended.is_empty()).unwrap_err();
    assert_eq!(seen.payloads[&at(0)], ["0", "1"]);
    assert_eq!(seen.positions.next(at(0)), Some(2));
    assert!(!error.retry() && error.to_string().contains("offsets 2 to 4 are missing"), "{error}");

    let mut spec = input(&topic, KafkaStart::Earliest);
    let InputKind::Kafka(kafka) = &mut spec.kind else { unreachable!() };
    kafka.allow_gaps = true;
    let mut source = open(std::slice::from_ref(&spec), &Positions::default(), options(true)).unwrap();
    let mut seen = read_to_end(&mut source);
    assert_eq!(seen.payloads[&at(0)], ["0", "1", "5"]);
    producer.transaction(&topic, &[record(b"7")], true);
    let mut source = open(&[spec], &seen.positions, options(true)).unwrap();
    seen.ended.clear();
    seen.until(&mut source, |seen| !seen.ended.is_empty()).unwrap();
    assert_eq!(seen.payloads[&at(0)], ["0", "1", "5", "7"]);
}

#[test]
fn a_paused_partition_rests_while_the_others_go_on() {
    let producer = KafkaProducer::new();
    let topic = producer.create_topic("pause", 2);
    let mut source = from_start(&topic, false);
    let mut seen = Seen::default();
    seen.until(&mut source, |seen| seen.caught_up.len() >= 2).unwrap();
    source.pause(at(0));
    source.pause(at(0));
    produce(&producer, &topic, 0, 0..1000);
    produce(&producer, &topic, 1, 0..1000);
    seen.until(&mut source, |seen| seen.payloads.get(&at(1)).is_some_and(|payloads| payloads.len() == 1000)).unwrap();
    for _ in 0..10 {
        seen.take(source.poll(Duration::from_millis(50)).unwrap());
    }
    assert!(!seen.payloads.contains_key(&at(0)));
    source.resume(at(0));
    seen.until(&mut source, |seen| seen.count() == 2000).unwrap();
    for round in 1..20 {
        source.pause(at(0));
        produce(&producer, &topic, 0, round * 1000..(round + 1) * 1000);
        source.resume(at(0));
        seen.take(source.poll(Duration::from_millis(5)).unwrap());
    }
    seen.until(&mut source, |seen| seen.payloads[&at(0)].len() == 20_000).unwrap();
    assert_eq!(seen.payloads[&at(0)], numbers(0..20_000));
}

#[test]
fn a_topic_that_grows_stops_the_source() {
    let producer = KafkaProducer::new();
    let topic = producer.create_topic("grow", 1);
    let mut source = from_start(&topic, false);
    let mut seen = Seen::default();
    seen.until(&mut source, |seen| !seen.caught_up.is_empty()).unwrap();
    producer.grow_topic(&topic, 3);
    let error = seen.until(&mut source, |_| false).unwrap_err();
    assert!(!error.retry() && error.to_string().contains("grew from 1 to 3 partitions"), "{error}");
}

#[test]
fn a_topic_that_is_deleted_stops_the_source() {
    let producer = KafkaProducer::new();
    let topic = producer.create_topic("delete", 1);
    produce(&producer, &topic, 0, 0..3);
    let mut source = from_start(&topic, false);
    let mut seen = Seen::default();
    seen.until(&mut source, |seen| !seen.caught_up.is_empty()).unwrap();
    producer.delete_topic(&topic);
    let error = seen.until(&mut source, |_| false).unwrap_err();
    assert!(!error.retry() && error.to_string().contains("deleted"), "{error}");
    assert_eq!(seen.count(), 3);
}

#[test]
fn positions_are_shown_to_monitoring() {
    let producer = KafkaProducer::new();
    let topic = producer.create_topic("monitoring", 1);
    produce(&producer, &topic, 0, 0..10);
    let group = unique("group");
    let options = KafkaOptions { group_id: group.clone(), ..KafkaOptions::default() };
    let mut source = open(&[input(&topic, KafkaStart::Earliest)], &Positions::default(), options).unwrap();
    let mut seen = Seen::default();
    seen.until(&mut source, |seen| seen.count() == 10).unwrap();
    let silent = KafkaOptions { group_id: unique("silent"), monitoring: false, ..KafkaOptions::default() };
    let mut quiet = open(&[input(&topic, KafkaStart::Earliest)], &Positions::default(), silent.clone()).unwrap();
    quiet.committed(&seen.positions);
    source.commit_for_monitoring(&seen.positions);
    let began = Instant::now();
    while producer.committed(&group, &topic, 0) != Some(10) {
        seen.take(source.poll(Duration::from_millis(50)).unwrap());
        assert!(began.elapsed() < Duration::from_secs(30), "nothing was committed");
    }
    drop(quiet);
    assert_eq!(producer.committed(&silent.group_id, &topic, 0), None, "monitoring was switched off");
}

#[test]
fn a_broker_that_is_away_at_the_start_asks_for_a_retry() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let began = Instant::now();
    let options = KafkaOptions { connect_timeout: Duration::from_secs(1), ..KafkaOptions::default() };
    let spec = input("anything", KafkaStart::Earliest);
    let error = failure(KafkaSource::connect(&connection(&address), &[(0, &spec)], &Positions::default(), options));
    let text = error.to_string();
    assert!(error.retry(), "{text}");
    assert!(text.contains(&address) && text.contains("connections.main.kafka.brokers"), "{text}");
    assert!(text.contains("refused"), "the reason is missing: {text}");
    assert!(began.elapsed() < Duration::from_secs(6), "took {:?}", began.elapsed());
}

#[test]
fn an_unknown_property_is_named_and_values_are_not_shown() {
    let mut connection = connection(&brokers());
    connection.properties.insert("no.such.property".to_string(), "hidden".to_string());
    let spec = input("anything", KafkaStart::Earliest);
    let error = failure(KafkaSource::connect(&connection, &[(0, &spec)], &Positions::default(), options(false)));
    let text = error.to_string();
    assert!(!error.retry() && text.contains("no.such.property") && !text.contains("hidden"), "{text}");
}

#[test]
fn an_outage_is_told_once_and_reading_goes_on_by_itself() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("outage", 1, 1).unwrap();
    let producer = KafkaProducer::with(&cluster.bootstrap_servers(), &[]);
    produce(&producer, "outage", 0, 0..10);
    let spec = input("outage", KafkaStart::Earliest);
    let connection = connection(&cluster.bootstrap_servers());
    let mut source = KafkaSource::connect(&connection, &[(0, &spec)], &Positions::default(), options(false)).unwrap();
    let mut seen = Seen::default();
    seen.until(&mut source, |seen| seen.count() == 10).unwrap();
    assert!(seen.connection.is_empty());
    cluster.broker_down(1).unwrap();
    seen.until(&mut source, |seen| !seen.connection.is_empty()).unwrap();
    for _ in 0..20 {
        seen.take(source.poll(Duration::from_millis(50)).unwrap());
    }
    assert_eq!(seen.connection, [false]);
    cluster.broker_up(1).unwrap();
    seen.until(&mut source, |seen| seen.connection.len() == 2).unwrap();
    assert_eq!(seen.connection, [false, true]);
    produce(&producer, "outage", 0, 10..20);
    seen.until(&mut source, |seen| seen.count() == 20).unwrap();
    assert_eq!(seen.payloads[&at(0)], numbers(0..20));
}

#[test]
fn a_log_that_was_read_to_its_end_is_out_of_sight_while_its_broker_is_away() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("sight", 2, 1).unwrap();
    let producer = KafkaProducer::with(&cluster.bootstrap_servers(), &[]);
    produce(&producer, "sight", 0, 0..10);
    let spec = input("sight", KafkaStart::Earliest);
    let connection = connection(&cluster.bootstrap_servers());
    let mut source = KafkaSource::connect(&connection, &[(0, &spec)], &Positions::default(), options(false)).unwrap();
    let mut seen = Seen::default();
    seen.until(&mut source, |seen| seen.count() == 10 && seen.caught_up.len() == 2).unwrap();
    assert!(seen.lost.is_empty());
    cluster.broker_down(1).unwrap();
    seen.until(&mut source, |seen| seen.lost.len() == 2).unwrap();
    for _ in 0..20 {
        seen.take(source.poll(Duration::from_millis(50)).unwrap());
    }
    assert_eq!((seen.lost.len(), seen.caught_up.len()), (2, 2), "told once, and nothing is known yet");
    cluster.broker_up(1).unwrap();
    seen.until(&mut source, |seen| seen.caught_up.len() == 4).unwrap();
    assert_eq!((seen.count(), source.repeated()), (10, 0));
}

/// A broker that answers every fetch with an error that the client does not recover from by itself, and then no more.
#[test]
fn after_an_error_that_may_pass_reading_goes_on_with_a_new_client() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("anew", 1, 1).unwrap();
    let producer = KafkaProducer::with(&cluster.bootstrap_servers(), &[]);
    produce(&producer, "anew", 0, 0..10);
    let spec = input("anew", KafkaStart::Earliest);
    let connection = connection(&cluster.bootstrap_servers());
    let mut source =
        ReconnectingKafka::connect(&connection, &[(0, &spec)], &Positions::default(), options(false)).unwrap();
    let mut seen = Seen::default();
    seen.until(&mut source, |seen| seen.count() == 10).unwrap();
    cluster.request_errors(RDKafkaApiKey::Fetch, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_REQUEST; 3]);
    seen.until(&mut source, |seen| seen.connection.contains(&false)).unwrap();
    produce(&producer, "anew", 0, 10..20);
    seen.until(&mut source, |seen| seen.count() == 20).unwrap();
    assert_eq!(seen.payloads[&at(0)], numbers(0..20));
    assert_eq!(seen.connection.last(), Some(&true));
}

#[test]
fn dropping_a_source_does_not_wait_for_brokers_that_are_gone() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("drop", 2, 1).unwrap();
    let spec = input("drop", KafkaStart::Earliest);
    let connection = connection(&cluster.bootstrap_servers());
    let mut source = KafkaSource::connect(&connection, &[(0, &spec)], &Positions::default(), options(false)).unwrap();
    let mut seen = Seen::default();
    seen.until(&mut source, |seen| seen.caught_up.len() == 2).unwrap();
    cluster.broker_down(1).unwrap();
    let mut positions = Positions::default();
    positions.set(at(0), 0);
    source.commit_for_monitoring(&positions);
    let began = Instant::now();
    drop(source);
    assert!(began.elapsed() < Duration::from_secs(5), "took {:?}", began.elapsed());
}
