//! Kafka for tests: topics made and filled for one test each.

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::util::Timeout;
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

/// How long anything may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// The brokers that `make test` started, or that the caller's environment names.
pub fn brokers() -> String {
    match std::env::var("KAFKA_BOOTSTRAP") {
        Ok(brokers) if !brokers.is_empty() => brokers,
        _ => panic!("KAFKA_BOOTSTRAP is not set: run through `make test`, or `scripts/with-services cargo test`"),
    }
}

/// A name that no other test, nor an earlier run against the same brokers, uses.
pub fn unique(name: &str) -> String {
    format!("{name}-{:08x}", rand::random::<u32>())
}

/// One record to write. The default goes to partition 0, with the time of writing, and has neither key nor headers.
#[derive(Clone, Debug, Default)]
pub struct TestRecord<'a> {
    pub partition: i32,
    pub key: Option<&'a [u8]>,
    pub payload: Option<&'a [u8]>,
    pub timestamp: Option<i64>,
    pub headers: &'a [(&'a str, &'a [u8])],
}

/// Remembers records that the broker did not take.
#[derive(Default)]
struct Deliveries {
    failed: Mutex<Vec<KafkaError>>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.failed.lock().unwrap().push(error.clone());
        }
    }
}

/// Makes topics and writes records, and waits until the broker has them.
pub struct KafkaProducer {
    producer: BaseProducer<Deliveries>,
    admin: AdminClient<DefaultClientContext>,
    runtime: tokio::runtime::Runtime,
    brokers: String,
}

impl KafkaProducer {
    pub fn new() -> Self {
        Self::with(&brokers(), &[])
    }

    /// A producer whose records are written in transactions, see [`KafkaProducer::transaction`].
    pub fn transactional() -> Self {
        let producer = Self::with(&brokers(), &[("transactional.id", &unique("transactions"))]);
        producer.producer.init_transactions(DEADLINE).expect("transactions");
        producer
    }

    pub fn with(brokers: &str, properties: &[(&str, &str)]) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("linger.ms", "5");
        let admin = config.create().expect("admin client");
        for (property, value) in properties {
            config.set(*property, *value);
        }
        let producer = config.create_with_context(Deliveries::default()).expect("producer");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        KafkaProducer { producer, admin, runtime, brokers: brokers.to_string() }
    }

    /// A new topic with a unique name that starts with `name`.
    pub fn create_topic(&self, name: &str, partitions: i32) -> String {
        let topic = unique(name);
        self.create_named(&topic, partitions);
        topic
    }

    /// A new topic whose partitions lie on these brokers each, with settings of its own.
    pub fn create_on(&self, name: &str, partitions: &[&[i32]], settings: &[(&str, &str)]) -> String {
        let topic = unique(name);
        let mut new = NewTopic::new(&topic, partitions.len() as i32, TopicReplication::Variable(partitions));
        for (key, value) in settings {
            new = new.set(key, value);
        }
        self.each_ok(self.admin.create_topics([&new], &options()));
        self.wait_for_partitions(&topic, partitions.len());
        topic
    }

    /// The leader of a partition and the brokers that are in sync with it, as far as anybody says.
    pub fn leadership(&self, topic: &str, partition: i32) -> Option<(i32, Vec<i32>)> {
        let metadata = self.admin.inner().fetch_metadata(Some(topic), Duration::from_secs(5)).ok()?;
        let found = metadata.topics().iter().find(|found| found.name() == topic)?;
        let partition = found.partitions().iter().find(|found| found.id() == partition)?;
        (partition.leader() >= 0).then(|| (partition.leader(), partition.isr().to_vec()))
    }

    /// How many brokers there are.
    pub fn brokers_up(&self) -> usize {
        let metadata = self.admin.inner().fetch_metadata(None, Duration::from_secs(5));
        metadata.map_or(0, |metadata| metadata.brokers().len())
    }

    /// Where the broker keeps a partition, if that is a folder of this machine.
    pub fn partition_folder(&self, topic: &str, partition: i32) -> Option<PathBuf> {
        let (leader, _) = self.leadership(topic, partition)?;
        let resource = ResourceSpecifier::Broker(leader);
        let settings = self.runtime.block_on(self.admin.describe_configs([&resource], &options())).expect("settings");
        let settings = settings.into_iter().next()?.expect("the broker's settings");
        let folder = settings.get("log.dirs")?.value.clone()?;
        Some(PathBuf::from(folder).join(format!("{topic}-{partition}"))).filter(|folder| folder.is_dir())
    }

    /// Deletes a topic and makes another one of its name.
    pub fn recreate_topic(&self, topic: &str, partitions: i32) {
        self.delete_topic(topic);
        for _ in 0..600 {
            let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
            let made = self.runtime.block_on(self.admin.create_topics([&new], &options())).expect("admin call");
            if made.iter().all(Result::is_ok) {
                return self.wait_for_partitions(topic, partitions as usize);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{topic} is not deleted");
    }

    fn create_named(&self, topic: &str, partitions: i32) {
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        self.each_ok(self.admin.create_topics([&new], &options()));
        self.wait_for_partitions(topic, partitions as usize);
    }

    pub fn grow_topic(&self, topic: &str, partitions: usize) {
        self.each_ok(self.admin.create_partitions([&NewPartitions::new(topic, partitions)], &options()));
        self.wait_for_partitions(topic, partitions);
    }

    pub fn delete_topic(&self, topic: &str) {
        self.each_ok(self.admin.delete_topics(&[topic], &options()));
    }

    /// Deletes the records of a partition below `before`, as retention would.
    pub fn delete_records(&self, topic: &str, partition: i32, before: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(before)).unwrap();
        let deleted = self.runtime.block_on(self.admin.delete_records(&list, &options())).expect("delete records");
        deleted.elements().iter().for_each(|element| element.error().expect("delete records"));
    }

    /// Writes the records and waits until all are in the log.
    pub fn produce(&self, topic: &str, records: &[TestRecord<'_>]) {
        for record in records {
            self.send(topic, record);
        }
        self.flush();
    }

    /// Writes the records in one transaction, which is then committed or aborted.
    pub fn transaction(&self, topic: &str, records: &[TestRecord<'_>], commit: bool) {
        self.producer.begin_transaction().expect("begin");
        self.produce(topic, records);
        if commit {
            self.producer.commit_transaction(DEADLINE).expect("commit");
        } else {
            self.producer.abort_transaction(DEADLINE).expect("abort");
        }
    }

    /// Writes the records in a transaction that stays open; see [`KafkaProducer::abort`].
    pub fn hanging_transaction(&self, topic: &str, records: &[TestRecord<'_>]) {
        self.producer.begin_transaction().expect("begin");
        self.produce(topic, records);
    }

    pub fn abort(&self) {
        self.producer.abort_transaction(DEADLINE).expect("abort");
    }

    /// The offset that `group` committed for a partition.
    pub fn committed(&self, group: &str, topic: &str, partition: i32) -> Option<i64> {
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", &self.brokers).set("group.id", group).create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, partition);
        let committed = consumer.committed_offsets(list, DEADLINE).expect("committed offsets");
        match committed.find_partition(topic, partition).unwrap().offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }

    fn send(&self, topic: &str, test: &TestRecord<'_>) {
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(test.partition);
        record.key = test.key;
        record.payload = test.payload;
        record.timestamp = test.timestamp;
        if !test.headers.is_empty() {
            let add = |all: OwnedHeaders, &(key, value): &(&str, &[u8])| all.insert(Header { key, value: Some(value) });
            record = record.headers(test.headers.iter().fold(OwnedHeaders::new(), add));
        }
        while let Err((error, back)) = self.producer.send(record) {
            let full = error.rdkafka_error_code() == Some(rdkafka::types::RDKafkaErrorCode::QueueFull);
            assert!(full, "cannot produce: {error}");
            self.producer.poll(Duration::from_millis(10));
            record = back;
        }
    }

    fn flush(&self) {
        self.producer.flush(DEADLINE).expect("flush");
        let failed = self.producer.context().failed.lock().unwrap();
        assert!(failed.is_empty(), "not delivered: {failed:?}");
    }

    fn wait_for_partitions(&self, topic: &str, partitions: usize) {
        for _ in 0..600 {
            let metadata = self.admin.inner().fetch_metadata(Some(topic), DEADLINE).expect("metadata");
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            let led = |topic: &&rdkafka::metadata::MetadataTopic| {
                topic.error().is_none() && topic.partitions().iter().filter(|p| p.leader() >= 0).count() == partitions
            };
            // The producer has a view of its own, and learns by asking too.
            let known = self.producer.client().fetch_metadata(Some(topic), DEADLINE).expect("metadata");
            if found.filter(led).is_some() && known.topics().iter().any(|found| led(&found)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{topic} did not get its {partitions} partitions");
    }

    fn each_ok<T, E: std::fmt::Debug>(&self, call: impl Future<Output = Result<Vec<Result<T, E>>, KafkaError>>) {
        for result in self.runtime.block_on(call).expect("admin call") {
            assert!(result.is_ok(), "admin call: {:?}", result.err());
        }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(Timeout::After(DEADLINE)))
}
