//! Sent: what an outlet wrote to its topic, and what a reader makes of it that follows docs/OUTPUTS.md.

use super::kafka::{KafkaProducer, brokers};
use crate::kafka_writer::messages;
use conjoin::pipeline::{CHAIN_HEADER, COMMIT_HEADER, ROW_HEADER};
use rdkafka::message::{Headers, Message, OwnedMessage};
use serde_json::Value;
use std::collections::BTreeMap;

/// A message, and where it says that it comes from.
#[derive(Clone, Debug)]
pub struct Sent {
    pub partition: i32,
    pub key: String,
    pub payload: Vec<u8>,
    pub chain: String,
    pub commit: u64,
    pub row: u64,
}

impl Sent {
    fn of(message: &OwnedMessage) -> Sent {
        let header = |name: &str| {
            let headers = message.headers().expect("an outlet's message has headers");
            let found = headers.iter().find(|header| header.key == name).unwrap_or_else(|| panic!("no header {name}"));
            String::from_utf8(found.value.unwrap().to_vec()).unwrap()
        };
        Sent {
            partition: message.partition(),
            key: String::from_utf8(message.key().unwrap().to_vec()).unwrap(),
            payload: message.payload().unwrap().to_vec(),
            chain: header(CHAIN_HEADER),
            commit: header(COMMIT_HEADER).parse().unwrap(),
            row: header(ROW_HEADER).parse().unwrap(),
        }
    }

    pub fn id(&self) -> (String, u64, u64) {
        (self.chain.clone(), self.commit, self.row)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap_or_else(|error| panic!("{error}: {:?}", self.payload))
    }
}

/// A topic that outlets write to.
pub struct Outbox {
    brokers: String,
    pub topic: String,
    partitions: i32,
}

impl Outbox {
    pub fn new(kafka: &KafkaProducer, name: &str, partitions: i32) -> Outbox {
        Outbox::at(&brokers(), kafka, name, partitions)
    }

    pub fn at(brokers: &str, kafka: &KafkaProducer, name: &str, partitions: i32) -> Outbox {
        Outbox { brokers: brokers.into(), topic: kafka.create_topic(name, partitions), partitions }
    }

    /// Everything that is in it, partition by partition.
    pub fn sent(&self) -> Vec<Sent> {
        let all = (0..self.partitions).flat_map(|partition| messages(&self.brokers, &self.topic, partition));
        all.map(|message| Sent::of(&message)).collect()
    }

    /// What a reader takes that keeps, for each partition and chain, the commit and row of the last message it took, and
    /// drops what is not beyond it. Whatever the reader drops must be a copy of what it took.
    pub fn taken(&self) -> Vec<Sent> {
        let mut last: BTreeMap<(i32, String), (u64, u64)> = BTreeMap::new();
        let mut taken: Vec<Sent> = Vec::new();
        let mut known: BTreeMap<(String, u64, u64), (String, Vec<u8>)> = BTreeMap::new();
        for sent in self.sent() {
            let at = (sent.commit, sent.row);
            let seen = last.entry((sent.partition, sent.chain.clone())).or_default();
            let content = (sent.key.clone(), sent.payload.clone());
            if at > *seen || (at == (0, 0) && !known.contains_key(&sent.id())) {
                *seen = at;
                assert_eq!(known.insert(sent.id(), content), None, "one identity on two rows: {:?}", sent.id());
                taken.push(sent);
            } else {
                let first = known.get(&sent.id());
                assert_eq!(first, Some(&content), "{:?} was dropped and is no copy", sent.id());
            }
        }
        taken
    }

    /// The rows that such a reader has, sorted.
    pub fn rows(&self) -> Vec<String> {
        let mut rows: Vec<String> = self.taken().iter().map(|sent| sent.json().to_string()).collect();
        rows.sort();
        rows
    }
}
