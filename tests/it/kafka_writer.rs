//! Internal topics and the writer against a real broker, and against a mock one where a broker has to go down.

use crate::support::kafka::{KafkaProducer, brokers, unique};
use conjoin::source::KafkaConnection;
use conjoin::source::kafka::{Outbound, TopicWriter, ensure_topic};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message, OwnedMessage};
use rdkafka::mocking::MockCluster;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(30);

fn connection(brokers: &str, properties: &[(&str, &str)]) -> KafkaConnection {
    let properties = properties.iter().map(|(property, value)| (property.to_string(), value.to_string())).collect();
    KafkaConnection { name: "main".to_string(), brokers: brokers.to_string(), properties }
}

/// Everything that a partition holds.
pub fn messages(brokers: &str, topic: &str, partition: i32) -> Vec<OwnedMessage> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("group.id", unique("look")).create().unwrap();
    let (low, high) = consumer.fetch_watermarks(topic, partition, DEADLINE).unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(low)).unwrap();
    consumer.assign(&list).unwrap();
    let (mut found, began) = (Vec::new(), Instant::now());
    while (found.len() as i64) < high - low {
        assert!(began.elapsed() < DEADLINE, "{topic}/{partition}: {} of {}", found.len(), high - low);
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            found.push(message.detach());
        }
    }
    found
}

#[test]
fn after_a_flush_every_message_is_there_in_order_and_whole() {
    let producer = KafkaProducer::new();
    let topic = producer.create_topic("written", 2);
    let mut writer = TopicWriter::connect(&connection(&brokers(), &[]), "conjoin-test").unwrap();
    writer.flush(DEADLINE).unwrap();
    for number in 0..20_000 {
        let payload = number.to_string();
        let (payload, headers) = (payload.as_bytes(), [("cell", &b"7"[..]), ("seq", payload.as_bytes())]);
        writer.write(&topic, Some(1), Some(b"k"), Some(payload), &headers).unwrap();
    }
    writer.write(&topic, Some(0), Some(b"gone"), None, &[]).unwrap();
    let whole = Outbound {
        topic: &topic,
        partition: Some(0),
        payload: Some(b"p"),
        headers: vec![("null", None)],
        time: Some(1_700_000_000_123),
        ..Outbound::default()
    };
    writer.write_message(&whole).unwrap();
    writer.flush(DEADLINE).unwrap();
    let written = messages(&brokers(), &topic, 1);
    let payloads: Vec<String> =
        written.iter().map(|message| String::from_utf8(message.payload().unwrap().to_vec()).unwrap()).collect();
    assert_eq!(payloads, (0..20_000).map(|number: i32| number.to_string()).collect::<Vec<_>>());
    let headers = written[17].headers().unwrap();
    assert_eq!((headers.count(), headers.get(0).key, headers.get(0).value), (2, "cell", Some(&b"7"[..])));
    assert_eq!(headers.get(1).value, Some(&b"17"[..]));
    let others = messages(&brokers(), &topic, 0);
    assert_eq!((others[0].key(), others[0].payload()), (Some(&b"gone"[..]), None));
    assert_eq!((others[1].key(), others[1].timestamp().to_millis()), (None, Some(1_700_000_000_123)));
    assert_eq!(others[1].headers().unwrap().get(0).value, None);

    writer.write(&topic, Some(0), None, Some(b"more"), &[]).unwrap();
    writer.flush(DEADLINE).unwrap();
    assert_eq!(messages(&brokers(), &topic, 0).len(), 3);
}

#[test]
fn a_message_that_the_broker_refuses_makes_every_later_flush_fail() {
    let producer = KafkaProducer::new();
    let topic = producer.create_topic("refused", 1);
    let mut writer = TopicWriter::connect(&connection(&brokers(), &[]), "conjoin-test").unwrap();
    // More than a topic takes by default, and less than the client does.
    writer.write(&topic, Some(0), None, Some(&vec![b'x'; 3_000_000]), &[]).unwrap();
    for _ in 0..2 {
        let error = writer.flush(DEADLINE).unwrap_err();
        assert!(!error.retry() && error.to_string().contains("max.message.bytes"), "{error}");
    }
    let error = writer.write(&topic, Some(0), None, Some(b"small"), &[]).unwrap_err();
    assert!(error.to_string().contains(&topic), "{error}");
}

#[test]
fn a_flush_while_brokers_are_away_asks_for_a_retry_and_holds_once_they_are_back() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("away", 1, 1).unwrap();
    let servers = cluster.bootstrap_servers();
    let mut writer =
        TopicWriter::connect(&connection(&servers, &[("reconnect.backoff.max.ms", "500")]), "conjoin-test").unwrap();
    writer.write("away", Some(0), None, Some(b"0"), &[]).unwrap();
    writer.flush(DEADLINE).unwrap();
    cluster.broker_down(1).unwrap();
    for number in ["1", "2", "3"] {
        writer.write("away", Some(0), None, Some(number.as_bytes()), &[]).unwrap();
    }
    let error = writer.flush(Duration::from_millis(500)).unwrap_err();
    assert!(error.retry() && error.to_string().contains("3 messages were not acknowledged"), "{error}");
    cluster.broker_up(1).unwrap();
    writer.flush(DEADLINE).unwrap();
    assert_eq!(messages(&servers, "away", 0).len(), 4);
}

#[test]
fn a_message_that_was_given_up_is_not_forgotten() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("lost", 1, 1).unwrap();
    let properties = [("message.timeout.ms", "1000"), ("reconnect.backoff.max.ms", "500")];
    let mut writer =
        TopicWriter::connect(&connection(&cluster.bootstrap_servers(), &properties), "conjoin-test").unwrap();
    cluster.broker_down(1).unwrap();
    writer.write("lost", Some(0), None, Some(b"1"), &[]).unwrap();
    let error = writer.flush(DEADLINE).unwrap_err();
    assert!(error.retry() && error.to_string().contains("lost: a message cannot be written"), "{error}");
    cluster.broker_up(1).unwrap();
    assert!(writer.flush(DEADLINE).is_err(), "the message is still missing");
    let began = Instant::now();
    drop(writer);
    assert!(began.elapsed() < Duration::from_secs(5), "took {:?}", began.elapsed());
}

#[test]
fn a_topic_is_made_once_and_held_against_what_is_needed() {
    let connection = connection(&brokers(), &[]);
    let name = unique("internal");
    let configs = [("cleanup.policy", "compact"), ("retention.ms", "3600000")];
    let makers: Vec<_> = (0..3)
        .map(|_| {
            let (connection, name) = (connection.clone(), name.clone());
            std::thread::spawn(move || ensure_topic(&connection, &name, 3, &configs, Some(1)))
        })
        .collect();
    for maker in makers {
        maker.join().unwrap().unwrap();
    }
    ensure_topic(&connection, &name, 3, &configs, None).unwrap();
    ensure_topic(&connection, &name, 3, &[("retention.ms", "7200000")], None).expect("this difference is only told");
    let error = ensure_topic(&connection, &name, 4, &configs, None).unwrap_err();
    let text = error.to_string();
    assert!(!error.retry() && text.contains(&name) && text.contains("has 3 partitions, but 4"), "{text}");
    let error = ensure_topic(&connection, &name, 3, &[("cleanup.policy", "delete")], None).unwrap_err();
    assert!(error.to_string().contains("cleanup.policy=compact"), "{error}");
    let mut writer = TopicWriter::connect(&connection, "conjoin-test").unwrap();
    writer.write(&name, Some(2), Some(b"k"), Some(b"v"), &[]).unwrap();
    writer.flush(DEADLINE).unwrap();
    assert_eq!(messages(&brokers(), &name, 2).len(), 1);
}

#[test]
fn the_brokers_choose_how_many_copies_a_topic_has_unless_told() {
    let connection = connection(&brokers(), &[]);
    ensure_topic(&connection, &unique("default"), 1, &[], None).unwrap();
    let error = ensure_topic(&connection, &unique("many"), 1, &[], Some(9)).unwrap_err();
    assert!(error.to_string().contains("cannot be created"), "{error}");
}

#[test]
fn what_a_broker_refuses_ends_the_writer_and_leaves_no_gap() {
    let producer = KafkaProducer::new();
    let topic = producer.create_on("gapless", &[&[1]], &[("max.message.bytes", "20000")]);
    let mut writer = TopicWriter::connect_gapless(&connection(&brokers(), &[]), "conjoin-test").unwrap();
    let offer = |writer: &mut TopicWriter, payload: &[u8]| {
        let message = Outbound { topic: &topic, partition: Some(0), payload: Some(payload), ..Outbound::default() };
        writer.offer(&message, Duration::from_millis(100))
    };
    let large = vec![7; 100_000];
    let mut refused = None;
    for number in 0..400 {
        let small = format!("{number}");
        let payload = if number == 100 { &large[..] } else { small.as_bytes() };
        if let Err(error) = offer(&mut writer, payload).and_then(|_| writer.settled(Duration::from_millis(1))) {
            refused = Some(error);
            break;
        }
    }
    let began = Instant::now();
    while refused.is_none() && began.elapsed() < DEADLINE {
        refused = writer.settled(Duration::from_millis(100)).err();
    }
    let refused = refused.expect("the broker refuses it").to_string();
    assert!(refused.contains("a message cannot be written"), "{refused}");
    assert!(offer(&mut writer, b"more").is_err(), "a writer that has lost a message takes no other");
    drop(writer);
    let found = messages(&brokers(), &topic, 0);
    let written: Vec<String> =
        found.iter().map(|message| String::from_utf8(message.payload().unwrap().into()).unwrap()).collect();
    let expected: Vec<String> = (0..written.len()).map(|number| number.to_string()).collect();
    assert_eq!(written, expected);
    assert!(written.len() <= 100, "nothing behind what was refused is there");
}
