//! Offsets: what a consumer group without members has committed: the place that a command goes on from.
//!
//! Holds: a commit returns when the brokers have it.
//! Does not: join the group, or read; a group that has members refuses it.

use super::{KafkaOptions, close, settings};
use crate::source::{KafkaConnection, SourceError};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::time::Duration;

/// A group that was never used takes its brokers a while.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The committed offsets of one group.
pub struct GroupOffsets {
    group: String,
    /// Taken when it is dropped.
    client: Option<BaseConsumer>,
}

impl GroupOffsets {
    pub fn connect(connection: &KafkaConnection, group: &str) -> Result<GroupOffsets, SourceError> {
        let options = KafkaOptions { client_id: group.to_string(), ..KafkaOptions::default() };
        let mut config = settings::client_config(connection, &options)?;
        // Here a `group.id` of the connection's would mix up what several commands remember.
        config.set("group.id", group);
        let client = config.create().map_err(|error| settings::misconfigured(connection, &error))?;
        Ok(GroupOffsets { group: group.to_string(), client: Some(client) })
    }

    /// The next offset of each partition that anything was committed for.
    pub fn committed(&self, topic: &str) -> Result<BTreeMap<u32, i64>, SourceError> {
        let metadata = self.client().fetch_metadata(Some(topic), ANSWER_MAX).map_err(|error| self.failed(&error))?;
        let mut list = TopicPartitionList::new();
        for found in metadata.topics().iter().filter(|found| found.name() == topic) {
            for partition in found.partitions() {
                list.add_partition(topic, partition.id());
            }
        }
        if list.count() == 0 {
            return Ok(BTreeMap::new());
        }
        let answered = self.client().committed_offsets(list, ANSWER_MAX).map_err(|error| self.failed(&error))?;
        let mut committed = BTreeMap::new();
        for element in answered.elements() {
            element.error().map_err(|error| self.failed(&error))?;
            if let Offset::Offset(next) = element.offset() {
                committed.insert(element.partition() as u32, next);
            }
        }
        Ok(committed)
    }

    pub fn commit(&self, positions: &BTreeMap<(String, u32), i64>) -> Result<(), SourceError> {
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for ((topic, number), next) in positions {
            list.add_partition_offset(topic, *number as i32, Offset::Offset(*next))
                .map_err(|error| self.failed(&error))?;
        }
        match list.count() {
            0 => Ok(()),
            _ => self.client().commit(&list, CommitMode::Sync).map_err(|error| self.failed(&error)),
        }
    }

    fn client(&self) -> &BaseConsumer {
        self.client.as_ref().expect("the client is taken by drop alone")
    }

    fn failed(&self, error: &KafkaError) -> SourceError {
        SourceError::Broker {
            input: format!("group {}", self.group),
            message: format!("its committed offsets cannot be read or written: {error}"),
            retry: true,
        }
    }
}

impl Drop for GroupOffsets {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            close(client);
        }
    }
}
