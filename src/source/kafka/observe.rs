//! Observe: what a client tells beside its records: log lines, errors with their reason, statistics, rebalances.
//!
//! In: librdkafka's callbacks, on the thread that polls. Out: [`Observed`], read by the reader or member after each poll.
//! Holds: what a consumer group assigns is taken note of and never handed to the client, so that a member fetches nothing.
//! Does not: decide anything.

use crate::source::LogEnd;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Statistics, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

#[derive(Debug, Default)]
pub struct Observed {
    /// The text that came with the last error.
    pub reason: String,
    /// Statistics came that show a broker answering, since this was last reset.
    pub broker_up: bool,
    /// Partitions the topic has by the client's latest metadata; 0 until they are known.
    pub partition_count: u32,
    /// The last end of each partition's log.
    pub log_ends: BTreeMap<u32, LogEnd>,
    /// What the consumer group said since this was last taken, in order.
    pub group_changes: Vec<GroupChange>,
    /// Positions are on their way to the brokers, or were taken by them.
    pub positions: Shown,
}

/// What became of the positions that monitoring was last shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shown {
    #[default]
    Nothing,
    OnTheirWay,
    Taken,
}

/// What a consumer group tells one of its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupChange {
    /// Everything that is the member's, as (topic, partition).
    Assigned(Vec<(String, u32)>),
    /// The group is about to assign anew.
    Revoked,
    /// The group took everything away without asking.
    Lost,
    /// The client did not take the answer to one of these.
    Unanswered(String),
}

#[derive(Default)]
pub struct Observer {
    topic: String,
    observed: Mutex<Observed>,
}

impl Observer {
    pub fn new(topic: &str) -> Self {
        Observer { topic: topic.to_string(), observed: Mutex::default() }
    }

    pub fn observed(&self) -> MutexGuard<'_, Observed> {
        self.observed.lock().expect("no code panics while it holds this lock")
    }
}

impl ClientContext for Observer {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::warn!(topic = self.topic, facility, "kafka client: {message}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::debug!(topic = self.topic, facility, "kafka client: {message}")
            }
        }
    }

    fn stats(&self, statistics: Statistics) {
        let mut observed = self.observed();
        observed.broker_up |= statistics.brokers.values().any(|broker| broker.state == "UP");
        if let Some(topic) = statistics.topics.get(&self.topic) {
            // The client keeps an internal partition -1.
            let partitions = || topic.partitions.iter().filter(|&(&number, _)| number >= 0);
            observed.partition_count = partitions().filter(|(_, partition)| !partition.unknown).count() as u32;
            for (&number, partition) in partitions() {
                let (stable, written) = (partition.ls_offset, partition.hi_offset);
                let readable = if stable >= 0 { stable } else { written };
                if readable >= 0 {
                    let blocked = (written - readable).max(0) as u64;
                    observed.log_ends.insert(number as u32, LogEnd { readable, blocked });
                }
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // Every error that matters also comes out of the poll, without this text. The end of a partition is no error.
        if reason.contains("reached end of partition") {
            return;
        }
        tracing::debug!(topic = self.topic, %error, "kafka client: {reason}");
        // That all brokers are down follows from what was said before about the last one, and says less.
        let mut observed = self.observed();
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) || observed.reason.is_empty() {
            observed.reason = reason.to_string();
        }
    }
}

impl ConsumerContext for Observer {
    /// The client gets an empty assignment whatever the group says: it is a member that way, and fetches nothing.
    fn rebalance(&self, client: &BaseConsumer<Self>, said: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let (change, answered) = match said {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                let assigned = list.elements();
                let ours = assigned.iter().map(|element| (element.topic().to_string(), element.partition() as u32));
                (GroupChange::Assigned(ours.collect()), client.assign(&TopicPartitionList::new()))
            }
            // Asked before it is answered: the answer makes the client forget.
            _ if client.assignment_lost() => (GroupChange::Lost, client.unassign()),
            _ => (GroupChange::Revoked, client.unassign()),
        };
        let mut observed = self.observed();
        observed.group_changes.push(change);
        if let Err(error) = answered {
            observed.group_changes.push(GroupChange::Unanswered(error.to_string()));
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _positions: &TopicPartitionList) {
        let taken = if result.is_ok() { Shown::Taken } else { Shown::Nothing };
        self.observed().positions = taken;
        if let Err(error) = result {
            tracing::warn!(topic = self.topic, %error, "positions were not shown to monitoring; nothing depends on it");
        }
    }
}
