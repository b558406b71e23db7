//! A seat in a consumer group against a real broker, and against a mock one where requests have to be counted or a broker
//! has to go down. Members are polled each on a thread of its own, as processes would poll them.

use crate::support::binary::wait_for;
use crate::support::kafka::{KafkaProducer, TestRecord, brokers, unique};
use conjoin::event::Positions;
use conjoin::source::kafka::{GroupMember, KafkaOptions, KafkaSource, MemberEvent, MemberOptions};
use conjoin::source::{InputKind, InputSpec, KafkaConnection, KafkaStart, KafkaTopicSpec, Source, SourceError};
use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The shortest session that brokers allow by default.
const SESSION: Duration = Duration::from_secs(6);

fn connection(brokers: &str) -> KafkaConnection {
    let brisk = [
        ("statistics.interval.ms", "200"),
        ("topic.metadata.refresh.interval.ms", "500"),
        ("heartbeat.interval.ms", "500"),
        ("reconnect.backoff.max.ms", "500"),
    ];
    let properties = brisk.iter().map(|(property, value)| (property.to_string(), value.to_string())).collect();
    KafkaConnection { name: "main".to_string(), brokers: brokers.to_string(), properties }
}

fn options(group: &str, instance: Option<&str>) -> MemberOptions {
    MemberOptions {
        group_id: group.to_string(),
        instance_id: instance.map(str::to_string),
        session_timeout_ms: SESSION.as_millis() as u32,
        client_id: "conjoin-test".to_string(),
        connect_timeout: Duration::from_secs(10),
    }
}

fn set(numbers: impl IntoIterator<Item = u32>) -> BTreeSet<u32> {
    numbers.into_iter().collect()
}

/// What a member was told, and what stopped it.
#[derive(Default)]
struct Told {
    events: Vec<MemberEvent>,
    failure: Option<String>,
}

impl Told {
    /// What is its own by now.
    fn owned(&self) -> Option<BTreeSet<u32>> {
        self.events.iter().rev().find_map(|event| match event {
            MemberEvent::Assigned(ours) => Some(Some(ours.clone())),
            MemberEvent::Revoked | MemberEvent::Lost { .. } => Some(None),
            MemberEvent::Connection { .. } => None,
        })?
    }
}

/// A member and the thread that polls it.
struct Seat {
    stop: Arc<AtomicBool>,
    told: Arc<Mutex<Told>>,
    thread: Option<JoinHandle<()>>,
}

impl Seat {
    fn join(topics: &[String], options: MemberOptions) -> Seat {
        Seat::join_at(&brokers(), topics, options)
    }

    fn join_at(brokers: &str, topics: &[String], options: MemberOptions) -> Seat {
        let member = GroupMember::join(&connection(brokers), topics, options).unwrap();
        let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Told::default())));
        let (stopped, tell) = (stop.clone(), told.clone());
        let thread = std::thread::spawn(move || {
            let mut member = member;
            while !stopped.load(Ordering::Relaxed) {
                match member.poll(Duration::from_millis(50)) {
                    Ok(event) => tell.lock().unwrap().events.extend(event),
                    Err(error) => {
                        tell.lock().unwrap().failure = Some(error.to_string());
                        return;
                    }
                }
            }
            member.leave();
        });
        Seat { stop, told, thread: Some(thread) }
    }

    fn owned(&self) -> Option<BTreeSet<u32>> {
        self.told.lock().unwrap().owned()
    }

    fn failure(&self) -> Option<String> {
        self.told.lock().unwrap().failure.clone()
    }

    fn events(&self) -> Vec<MemberEvent> {
        self.told.lock().unwrap().events.clone()
    }

    fn leave(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Waits until the seats own all of `count` partitions, each of them once, and gives their shares.
fn shared(seats: &[&Seat], count: u32) -> Vec<BTreeSet<u32>> {
    wait_for("every partition has one owner", || {
        let shares: Vec<BTreeSet<u32>> = seats.iter().map(|seat| seat.owned()).collect::<Option<_>>()?;
        let all: Vec<u32> = shares.iter().flatten().copied().collect();
        (all.len() == count as usize && set(all) == set(0..count)).then_some(shares)
    })
}

fn topics(producer: &KafkaProducer, names: &[&str], partitions: i32) -> Vec<String> {
    names.iter().map(|name| producer.create_topic(name, partitions)).collect()
}

#[test]
fn members_share_the_partitions_and_take_over_from_those_that_leave() {
    let producer = KafkaProducer::new();
    let topics = topics(&producer, &["impressions", "clicks"], 6);
    let group = unique("share");
    let first = Seat::join(&topics, options(&group, None));
    assert_eq!(shared(&[&first], 6), [set(0..6)]);
    let (second, third) = (Seat::join(&topics, options(&group, None)), Seat::join(&topics, options(&group, None)));
    let shares = shared(&[&first, &second, &third], 6);
    assert!(shares.iter().all(|share| share.len() == 2), "{shares:?}");
    assert!(first.events().contains(&MemberEvent::Revoked));
    second.leave();
    let shares = shared(&[&first, &third], 6);
    assert!(shares.iter().all(|share| share.len() == 3), "{shares:?}");
    first.leave();
    assert_eq!(shared(&[&third], 6), [set(0..6)]);
    third.leave();
}

#[test]
fn a_member_beyond_the_number_of_partitions_is_told_that_it_has_none() {
    let producer = KafkaProducer::new();
    let topics = topics(&producer, &["narrow"], 2);
    let group = unique("narrow");
    let seats: Vec<Seat> = ["a", "b", "c"].map(|name| Seat::join(&topics, options(&group, Some(name)))).into();
    let shares = shared(&seats.iter().collect::<Vec<_>>(), 2);
    assert_eq!(shares, [set([0]), set([1]), set([])], "named members stand in the order of their names");
    seats.into_iter().for_each(Seat::leave);
}

#[test]
fn a_named_member_that_restarts_gets_the_same_and_the_others_notice_nothing() {
    let producer = KafkaProducer::new();
    let topics = topics(&producer, &["named", "named-too"], 6);
    let group = unique("named");
    let stays = Seat::join(&topics, options(&group, Some("one")));
    let mut goes = Seat::join(&topics, options(&group, Some("two")));
    let shares = shared(&[&stays, &goes], 6);
    let told = stays.events().len();
    for _ in 0..2 {
        let began = Instant::now();
        goes.leave();
        goes = Seat::join(&topics, options(&group, Some("two")));
        wait_for("the same partitions as before", || (goes.owned()? == shares[1]).then_some(()));
        assert!(began.elapsed() < SESSION, "the restart took {:?}: the test shows nothing", began.elapsed());
    }
    // A rebalance would reach a member with its next heartbeat.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(stays.events().len(), told, "{:?}", stays.events());
    goes.leave();
    stays.leave();
}

#[test]
fn of_two_members_with_one_name_the_older_is_told() {
    let producer = KafkaProducer::new();
    let topics = topics(&producer, &["twins"], 4);
    let group = unique("twins");
    let older = Seat::join(&topics, options(&group, Some("worker-0")));
    assert_eq!(shared(&[&older], 4), [set(0..4)]);
    let newer = Seat::join(&topics, options(&group, Some("worker-0")));
    let failure = wait_for("the older one is told", || older.failure());
    assert!(failure.contains("`worker-0`") && failure.contains("instance id of its own"), "{failure}");
    assert_eq!(shared(&[&newer], 4), [set(0..4)]);
    assert_eq!(newer.failure(), None);
    newer.leave();
}

const CHILD: &str = "MEMBER_TEST_CHILD";

/// A member in a process of its own, which tells what it owns.
struct Process {
    child: Child,
    owned: Arc<Mutex<Option<String>>>,
}

impl Process {
    fn join(topics: &[String], group: &str, instance: &str) -> Process {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "kafka_member::a_member_that_another_test_kills"])
            .env(CHILD, format!("{}|{group}|{instance}", topics.join(",")))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (owned, told) = (Arc::new(Mutex::new(None)), BufReader::new(child.stdout.take().unwrap()));
        let last = owned.clone();
        std::thread::spawn(move || {
            for line in told.lines().map_while(Result::ok) {
                if let Some((_, said)) = line.split_once("owned: ") {
                    *last.lock().unwrap() = Some(said.to_string());
                }
            }
        });
        Process { child, owned }
    }

    fn owns(&self, numbers: &BTreeSet<u32>) -> bool {
        self.owned.lock().unwrap().as_deref() == Some(&*format!("{numbers:?}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// No test of its own: what [`Process`] runs.
#[test]
#[ignore = "the process that another test kills"]
fn a_member_that_another_test_kills() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let [topics, group, instance] = told.split('|').collect::<Vec<_>>()[..] else { panic!("{told}") };
    let topics: Vec<String> = topics.split(',').map(str::to_string).collect();
    let mut member = GroupMember::join(&connection(&brokers()), &topics, options(group, Some(instance))).unwrap();
    loop {
        if let Some(MemberEvent::Assigned(ours)) = member.poll(Duration::from_millis(100)).unwrap() {
            println!("\nowned: {ours:?}");
        }
    }
}

#[test]
fn a_named_member_that_is_killed_keeps_its_partitions_until_its_session_ends() {
    let producer = KafkaProducer::new();
    let topics = topics(&producer, &["killed", "killed-too"], 4);
    let group = unique("killed");
    let stays = Seat::join(&topics, options(&group, Some("a")));
    assert_eq!(shared(&[&stays], 4), [set(0..4)]);
    let killed = Process::join(&topics, &group, "b");
    wait_for("the process has its share", || {
        (killed.owns(&set([2, 3])) && stays.owned() == Some(set([0, 1]))).then_some(())
    });
    let began = Instant::now();
    drop(killed);
    while began.elapsed() < SESSION / 2 {
        assert_eq!(stays.owned(), Some(set([0, 1])), "moved {:?} after the kill", began.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(shared(&[&stays], 4), [set(0..4)]);
    let took = began.elapsed();
    assert!(took > SESSION - Duration::from_secs(1) && took < SESSION * 3, "{took:?}");
    stays.leave();
}

#[test]
fn topics_that_are_not_partitioned_alike_are_listed_with_what_to_do() {
    let producer = KafkaProducer::new();
    let (wide, narrow) = (producer.create_topic("wide", 4), producer.create_topic("narrow", 2));
    let join =
        |topics: &[String]| GroupMember::join(&connection(&brokers()), topics, options(&unique("g"), None)).err();
    let error = join(&[wide.clone(), narrow.clone()]).unwrap();
    let text = error.to_string();
    assert!(!error.retry(), "{text}");
    for part in [&*format!("{wide} has 4"), &*format!("{narrow} has 2"), "conjoin repartition"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let text = join(&[wide, "no-such-topic".to_string()]).unwrap().to_string();
    assert!(text.contains("no-such-topic") && text.contains("no such topic"), "{text}");
}

#[test]
fn a_topic_that_grows_ends_the_membership() {
    let producer = KafkaProducer::new();
    let topics = topics(&producer, &["grows", "grows-not"], 2);
    let seat = Seat::join(&topics, options(&unique("grows"), Some("one")));
    assert_eq!(shared(&[&seat], 2), [set(0..2)]);
    producer.grow_topic(&topics[0], 3);
    let failure = wait_for("the growth is noticed", || seat.failure());
    assert!(failure.contains(&topics[0]) && failure.contains('3'), "{failure}");
}

#[test]
fn a_member_shows_positions_to_monitoring() {
    let producer = KafkaProducer::new();
    let topics = topics(&producer, &["shown"], 2);
    producer.produce(&topics[0], &[TestRecord { payload: Some(b"x"), ..Default::default() }]);
    let group = unique("shown");
    let mut member = GroupMember::join(&connection(&brokers()), &topics, options(&group, None)).unwrap();
    assert_eq!(member.partition_count(), 2);
    let ours = wait_for("the assignment", || match member.poll(Duration::from_millis(50)).unwrap() {
        Some(MemberEvent::Assigned(ours)) => Some(ours),
        _ => None,
    });
    assert_eq!(ours, set(0..2));
    member.commit_for_monitoring(&BTreeMap::from([((topics[0].clone(), 0), 1)]));
    wait_for("the position is shown", || {
        member.poll(Duration::from_millis(50)).unwrap();
        (producer.committed(&group, &topics[0], 0) == Some(1)).then_some(())
    });
    member.leave();
}

/// One failed answer lies ready for the first client that fetches. A member that fetched would use it up.
#[test]
fn a_member_fetches_no_record() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("full", 2, 1).unwrap();
    let servers = cluster.bootstrap_servers();
    let producer = KafkaProducer::with(&servers, &[]);
    let payload = vec![b'x'; 10_000];
    let record = |partition| TestRecord { partition, payload: Some(&payload), ..Default::default() };
    producer.produce("full", &[record(0), record(1)]);
    cluster.request_errors(RDKafkaApiKey::Fetch, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_REQUEST]);
    let seat = Seat::join_at(&servers, &["full".to_string()], options("quiet", None));
    assert_eq!(shared(&[&seat], 2), [set(0..2)]);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        producer.produce("full", &[record(0), record(1)]);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(seat.failure(), None);
    let error = first_failure_of_a_reader(&servers, "full").expect("the member has used the answer up: it fetches");
    assert!(error.retry(), "{error}");
    seat.leave();
}

/// What a reader meets before it has read to the end.
fn first_failure_of_a_reader(servers: &str, topic: &str) -> Option<SourceError> {
    let kafka = KafkaTopicSpec {
        topic: topic.to_string(),
        start: KafkaStart::Earliest,
        connection: connection(servers),
        allow_gaps: false,
    };
    let input = InputSpec { name: topic.to_string(), kind: InputKind::Kafka(kafka), streams: vec![0], headers: false };
    let reading = KafkaOptions { until_end: true, ..KafkaOptions::default() };
    let mut source =
        KafkaSource::connect(&connection(servers), &[(0, &input)], &Positions::default(), reading).unwrap();
    let mut ended = 0;
    while ended < 2 {
        match source.poll(Duration::from_millis(50)) {
            Ok(conjoin::source::SourceEvent::Ended(_)) => ended += 1,
            Ok(_) => {}
            Err(error) => return Some(error),
        }
    }
    None
}

#[test]
fn an_outage_is_told_once_and_the_seat_is_kept_or_taken_anew() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("outage", 2, 1).unwrap();
    let servers = cluster.bootstrap_servers();
    let seat = Seat::join_at(&servers, &["outage".to_string()], options("outage", Some("one")));
    assert_eq!(shared(&[&seat], 2), [set(0..2)]);
    let connections = |ready: bool| {
        seat.events()
            .iter()
            .filter(|event| matches!(event, MemberEvent::Connection { ready: r, .. } if *r == ready))
            .count()
    };
    cluster.broker_down(1).unwrap();
    wait_for("the outage is told", || (connections(false) == 1).then_some(()));
    cluster.broker_up(1).unwrap();
    wait_for("the recovery is told", || (connections(true) == 1).then_some(()));
    assert_eq!(shared(&[&seat], 2), [set(0..2)]);
    assert_eq!((connections(false), seat.failure()), (1, None));
    cluster.broker_down(1).unwrap();
    let began = Instant::now();
    seat.leave();
    assert!(began.elapsed() < Duration::from_secs(5), "took {:?}", began.elapsed());
}
