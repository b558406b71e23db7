//! Start: from which offset to which each partition of a topic is read, decided once at connect.
//!
//! ```text
//!   log:        [low ........................ high)
//!   position:            ^ must lie in here, or records are lost or the topic is another one
//! ```
//!
//! In: the brokers' answers, the manifest's positions, the spec. Out: explicit offsets.
//! Holds: nothing is left to librdkafka's `auto.offset.reset`; whatever does not fit is an error that says what is lost.

use super::observe::Observer;
use crate::event::{PartitionId, Positions};
use crate::source::{KafkaConnection, KafkaStart, SourceError};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::time::Duration;

/// Names closer than this to a missing topic are offered instead.
const SIMILAR_MIN: f64 = 0.75;
const SIMILAR_SHOWN_MAX: usize = 3;

pub type Client = BaseConsumer<Observer>;

/// Where one partition begins, and where the log ends by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub from: i64,
    pub end: i64,
}

/// A topic of a connection, as it is asked about at connect.
pub struct Inquiry<'a> {
    pub client: &'a Client,
    pub connection: &'a KafkaConnection,
    pub topic: &'a str,
    pub timeout: Duration,
}

impl Inquiry<'_> {
    /// How many partitions the topic has.
    pub fn partition_count(&self) -> Result<u32, SourceError> {
        let topic = self.topic;
        let metadata =
            self.client.fetch_metadata(Some(topic), self.timeout).map_err(|error| self.unanswered(&error))?;
        let found = metadata.topics().iter().find(|candidate| candidate.name() == topic);
        let error = match found {
            None => Some(RDKafkaErrorCode::UnknownTopicOrPartition),
            Some(found) => found.error().map(RDKafkaErrorCode::from),
        };
        match error {
            None => Ok(found.map_or(0, |found| found.partitions().len() as u32)),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Err(self.missing()),
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => Err(self.wrong(format!(
                "connection `{}` may not read this topic: grant it Describe and Read",
                self.connection.name
            ))),
            Some(RDKafkaErrorCode::InvalidTopic) => Err(self.wrong("is not a valid topic name".to_string())),
            Some(error) => Err(self.again(format!("the brokers cannot describe the topic now: {error}"))),
        }
    }

    /// The range of each partition, in the order of their numbers; `None` for those that are not `wanted`.
    pub fn ranges(
        &self,
        input: u16,
        start: KafkaStart,
        positions: &Positions,
        wanted: Option<&BTreeSet<u32>>,
    ) -> Result<Vec<Option<Range>>, SourceError> {
        let count = self.partition_count()?;
        if let Some(last) = wanted.and_then(BTreeSet::last).filter(|&&last| last >= count) {
            return Err(self.wrong(format!(
                "has {count} partitions, but partition {last} of it is to be read: all topics of a pipeline that runs in \
                 several processes need the same number of partitions"
            )));
        }
        let mut ranges = vec![None; count as usize];
        let mut by_time = Vec::new();
        for number in (0..count).filter(|number| wanted.is_none_or(|wanted| wanted.contains(number))) {
            let (low, high) = self
                .client
                .fetch_watermarks(self.topic, number as i32, self.timeout)
                .map_err(|error| self.unanswered(&error))?;
            let from = match (positions.next(PartitionId { input, partition: number }), start) {
                (Some(position), _) => self.fitting(number, position, low, high)?,
                (None, KafkaStart::Earliest) => low,
                (None, KafkaStart::Latest) => high,
                (None, KafkaStart::Timestamp(time)) => {
                    by_time.push((number, time));
                    high
                }
            };
            ranges[number as usize] = Some(Range { from, end: high });
        }
        if !by_time.is_empty() {
            self.resolve_times(&by_time, &mut ranges)?;
        }
        Ok(ranges)
    }

    /// Replaces `from` by the first offset at or after a time; where there is none, it stays at the end.
    fn resolve_times(&self, by_time: &[(u32, i64)], ranges: &mut [Option<Range>]) -> Result<(), SourceError> {
        let mut asked = TopicPartitionList::with_capacity(by_time.len());
        for &(number, time) in by_time {
            asked
                .add_partition_offset(self.topic, number as i32, Offset::Offset(time))
                .map_err(|_| self.wrong(format!("cannot start at {time}: before 1970")))?;
        }
        let answered = self.client.offsets_for_times(asked, self.timeout).map_err(|error| self.unanswered(&error))?;
        for element in answered.elements() {
            element.error().map_err(|error| self.unanswered(&error))?;
            if let (Offset::Offset(offset), Some(Some(range))) =
                (element.offset(), ranges.get_mut(element.partition() as usize))
            {
                range.from = offset.min(range.end);
            }
        }
        Ok(())
    }

    /// The position, if the log still holds what follows it.
    fn fitting(&self, number: u32, position: i64, low: i64, high: i64) -> Result<i64, SourceError> {
        if position < low {
            return Err(lost(self.topic, number, position, low));
        }
        if position > high {
            return Err(self.wrong(format!(
                "partition {number} ends at offset {high}, but was read up to {position} before: the topic was made \
                 anew or truncated. Nothing was read. Point the pipeline at the right topic or brokers, or start anew \
                 with an empty state"
            )));
        }
        Ok(position)
    }

    fn missing(&self) -> SourceError {
        let similar = self.similar_topics();
        let hint = match similar.is_empty() {
            true => "create it first, or correct the name".to_string(),
            false => format!("did you mean {}?", similar.join(" or ")),
        };
        self.wrong(format!(
            "no such topic on {} (connection `{}`): {hint}",
            self.connection.brokers, self.connection.name
        ))
    }

    fn similar_topics(&self) -> Vec<String> {
        let Ok(metadata) = self.client.fetch_metadata(None, self.timeout) else {
            return Vec::new();
        };
        let mut near: Vec<(f64, String)> = metadata
            .topics()
            .iter()
            .filter(|topic| !topic.name().starts_with("__") && topic.name() != self.topic)
            .map(|topic| (strsim::jaro_winkler(topic.name(), self.topic), topic.name().to_string()))
            .filter(|(similarity, _)| *similarity >= SIMILAR_MIN)
            .collect();
        near.sort_by(|(a, x), (b, y)| b.total_cmp(a).then_with(|| x.cmp(y)));
        near.into_iter().take(SIMILAR_SHOWN_MAX).map(|(_, name)| format!("`{name}`")).collect()
    }

    /// No answer, or a refusal to connect. The reason comes by another road than the failure: as events of the client.
    fn unanswered(&self, error: &KafkaError) -> SourceError {
        if let Some(code) = error.rdkafka_error_code()
            && code as i32 > 0
        {
            // The broker's own words; the client's are below zero. A partition without a leader, mostly.
            return self.again(format!("the brokers cannot answer now: {code}"));
        }
        let mut refused = false;
        let mut quiet = 0;
        // Log lines come by the same queue and look like silence.
        while quiet < 20 {
            match self.client.poll(Duration::ZERO) {
                None => quiet += 1,
                Some(Ok(_)) => {}
                Some(Err(event)) => {
                    refused |= matches!(
                        event.rdkafka_error_code(),
                        Some(
                            RDKafkaErrorCode::Authentication
                                | RDKafkaErrorCode::SaslAuthenticationFailed
                                | RDKafkaErrorCode::SSL
                        )
                    )
                }
            }
        }
        let reason = match self.client.context().observed().reason.as_str() {
            "" => error.to_string(),
            reason => reason.to_string(),
        };
        let KafkaConnection { name, brokers, .. } = self.connection;
        match refused {
            true => self.wrong(format!("the brokers {brokers} refuse connection `{name}`: {reason}")),
            false => self.again(format!(
                "no answer from the brokers {brokers}: {reason}. Check that they run and that \
                 `connections.{name}.kafka.brokers` is right"
            )),
        }
    }

    fn wrong(&self, message: String) -> SourceError {
        SourceError::Input { input: self.topic.to_string(), message }
    }

    fn again(&self, message: String) -> SourceError {
        SourceError::Broker { input: self.topic.to_string(), message, retry: true }
    }
}

/// The log no longer holds what was to be read next.
pub fn lost(topic: &str, number: u32, position: i64, low: i64) -> SourceError {
    SourceError::Input {
        input: topic.to_string(),
        message: format!(
            "partition {number} lost the offsets {position} to {last} ({count} of them): the log now begins at {low}, \
             because retention or somebody deleted them before they were read. Nothing was skipped. To accept the loss, \
             start anew with an empty state; to prevent it, keep records longer than the longest outage",
            last = low - 1,
            count = low - position,
        ),
    }
}
