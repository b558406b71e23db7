//! Writer: sends messages to topics and knows which of them the brokers have.
//!
//! ```text
//!   write ─> client's queue ─> broker ─> report      flush: Ok when every message written before has a good report
//! ```
//!
//! In: messages. Out: an answer per flush, or per message where somebody wants to know the places.
//! Holds: a message counts when the broker's delivery report says so, with every replica's acknowledgement; the producer
//! is idempotent, so that a retry of the client makes no copy; messages of one partition keep their order. After a message
//! was lost no flush is good any more: the caller makes a new writer and writes again what the last good flush does not cover.
//! Does not: know what it sends, write in transactions.

use super::{close, settings};
use crate::source::{KafkaConnection, SourceError};
use rdkafka::ClientContext;
use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// How long a full queue is waited for before it is tried again.
const FULL_WAIT: Duration = Duration::from_millis(100);

/// A partition and an offset in it.
pub type Place = (u32, i64);

/// A message on its way out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outbound<'a> {
    pub topic: &'a str,
    /// `None` lets the client choose by the key.
    pub partition: Option<i32>,
    pub key: Option<&'a [u8]>,
    pub payload: Option<&'a [u8]>,
    pub headers: Vec<(&'a str, Option<&'a [u8]>)>,
    /// In ms; `None` is the time of writing.
    pub time: Option<i64>,
}

/// Whether somebody wants to know what became of a message by itself.
#[derive(Clone, Copy, Debug)]
pub(super) enum Track {
    /// Only whether all are there.
    Together,
    Numbered(usize),
}

#[derive(Default)]
struct Reports {
    /// Good reports of messages that are not tracked by number.
    acknowledged: u64,
    /// The first bad one of those, with its topic.
    lost: Option<(String, KafkaError)>,
    numbered: BTreeMap<usize, Result<Place, KafkaError>>,
}

#[derive(Default)]
struct Deliveries(Mutex<Reports>);

impl Deliveries {
    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // It says at every connect what is known: see `connect_gapless`.
        if !message.contains("enable.gapless.guarantee is experimental") {
            DefaultClientContext.log(level, facility, message);
        }
    }
}

impl ProducerContext for Deliveries {
    /// 0, or one more than the number of a tracked message.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, tag: usize) {
        let mut reports = self.reports();
        match (tag.checked_sub(1), result) {
            (Some(number), Ok(message)) => {
                reports.numbered.insert(number, Ok((message.partition() as u32, message.offset())));
            }
            (Some(number), Err((error, _))) => {
                reports.numbered.insert(number, Err(error.clone()));
            }
            (None, Ok(_)) => reports.acknowledged += 1,
            (None, Err((error, message))) => {
                reports.lost.get_or_insert_with(|| (message.topic().to_string(), error.clone()));
            }
        }
    }
}

/// Writes to topics of one connection.
pub struct TopicWriter {
    connection: String,
    /// Taken when it is dropped.
    producer: Option<BaseProducer<Deliveries>>,
    /// Messages that the client took, tracked by number not among them.
    written: u64,
}

impl TopicWriter {
    /// Makes the client; no broker is waited for.
    pub fn connect(connection: &KafkaConnection, client_id: &str) -> Result<TopicWriter, SourceError> {
        let producer = settings::producer_config(connection, client_id)?
            .create_with_context(Deliveries::default())
            .map_err(|error| settings::misconfigured(connection, &error))?;
        Ok(TopicWriter { connection: connection.name.clone(), producer: Some(producer), written: 0 })
    }

    /// The same for messages whose reader goes by their sequence: a partition never has a message without all those that
    /// were written before it. Nothing is given up because time passes; what a broker refuses ends the writer.
    pub fn connect_gapless(connection: &KafkaConnection, client_id: &str) -> Result<TopicWriter, SourceError> {
        let mut config = settings::producer_config(connection, client_id)?;
        // A message that is given up after a while is a gap which the guarantee does not cover.
        config.set("enable.gapless.guarantee", "true").set("message.timeout.ms", "0");
        let producer = config
            .create_with_context(Deliveries::default())
            .map_err(|error| settings::misconfigured(connection, &error))?;
        Ok(TopicWriter { connection: connection.name.clone(), producer: Some(producer), written: 0 })
    }

    /// Hands a message to the client, unless its queue is full: then it serves the queue for `wait` and says false.
    pub fn offer(&mut self, message: &Outbound<'_>, wait: Duration) -> Result<bool, SourceError> {
        self.check_lost()?;
        match self.producer().send(record(message, Track::Together)) {
            Ok(()) => {
                self.written += 1;
                self.producer().poll(Duration::ZERO);
                Ok(true)
            }
            Err((error, _)) if error.rdkafka_error_code() == Some(Code::QueueFull) => {
                self.producer().poll(wait);
                self.check_lost()?;
                Ok(false)
            }
            Err((error, _)) => Err(failed(message.topic, &error)),
        }
    }

    /// Whether the brokers have every message that was written; waits for that at most so long.
    pub fn settled(&mut self, wait: Duration) -> Result<bool, SourceError> {
        // What is missing after it is asked for below.
        let _ = self.producer().flush(wait);
        self.check_lost()?;
        Ok(self.written == self.producer().context().reports().acknowledged)
    }

    /// Messages that brokers have not acknowledged.
    pub fn unsettled(&self) -> u64 {
        self.written - self.producer().context().reports().acknowledged
    }

    /// Hands a message to the client. Waits while its queue is full: brokers that are gone end the wait with an error,
    /// when the first message that waits for them is given up.
    pub fn write(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
        headers: &[(&str, &[u8])],
    ) -> Result<(), SourceError> {
        let headers = headers.iter().map(|&(name, value)| (name, Some(value))).collect();
        self.write_message(&Outbound { topic, partition, key, payload, headers, time: None })
    }

    /// As [`TopicWriter::write`], with everything that a message can have.
    pub fn write_message(&mut self, message: &Outbound<'_>) -> Result<(), SourceError> {
        self.check_lost()?;
        self.send(message, Track::Together).map_err(|error| failed(message.topic, &error))?;
        self.written += 1;
        Ok(())
    }

    /// Returns when the brokers have every message that was written, or with an error: one that asks for a retry
    /// ([`SourceError::retry`]) may be mended by another flush, or by a new writer if a message was lost.
    pub fn flush(&mut self, deadline: Duration) -> Result<(), SourceError> {
        let flushed = self.producer().flush(deadline);
        self.check_lost()?;
        let missing = self.written - self.producer().context().reports().acknowledged;
        match (missing, flushed) {
            (0, _) => Ok(()),
            (_, flushed) => {
                let reason = flushed.err().map_or_else(String::new, |error| format!(": {error}"));
                Err(SourceError::Broker {
                    input: format!("connections.{}", self.connection),
                    message: format!("{missing} messages were not acknowledged within {deadline:?}{reason}"),
                    retry: true,
                })
            }
        }
    }

    pub(super) fn send(&mut self, message: &Outbound<'_>, track: Track) -> Result<(), KafkaError> {
        let mut record = record(message, track);
        while let Err((error, back)) = self.producer().send(record) {
            if error.rdkafka_error_code() != Some(Code::QueueFull) {
                return Err(error);
            }
            self.producer().poll(FULL_WAIT);
            if let Some((_, error)) = &self.producer().context().reports().lost {
                return Err(error.clone());
            }
            record = back;
        }
        self.producer().poll(Duration::ZERO);
        Ok(())
    }

    /// Flushes, and tells what became of each message that was tracked by its number; those without a report are left out.
    pub(super) fn outcomes(
        self,
        deadline: Duration,
    ) -> (Result<(), KafkaError>, BTreeMap<usize, Result<Place, KafkaError>>) {
        let flushed = self.producer().flush(deadline);
        let numbered = std::mem::take(&mut self.producer().context().reports().numbered);
        (flushed, numbered)
    }

    fn check_lost(&self) -> Result<(), SourceError> {
        match &self.producer().context().reports().lost {
            Some((topic, error)) => Err(failed(topic, error)),
            None => Ok(()),
        }
    }

    fn producer(&self) -> &BaseProducer<Deliveries> {
        self.producer.as_ref().expect("the producer is taken by drop alone")
    }
}

impl Drop for TopicWriter {
    fn drop(&mut self) {
        if let Some(producer) = self.producer.take() {
            close(producer);
        }
    }
}

fn record<'a>(message: &Outbound<'a>, track: Track) -> BaseRecord<'a, [u8], [u8], usize> {
    let tag = match track {
        Track::Together => 0,
        Track::Numbered(number) => number + 1,
    };
    let mut record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(message.topic, tag);
    record.partition = message.partition;
    record.key = message.key;
    record.payload = message.payload;
    record.timestamp = message.time;
    if !message.headers.is_empty() {
        let add = |all: OwnedHeaders, &(key, value): &(&str, Option<&[u8]>)| all.insert(Header { key, value });
        record = record.headers(message.headers.iter().fold(OwnedHeaders::new(), add));
    }
    record
}

/// A message that the brokers will not get from this writer.
fn failed(topic: &str, error: &KafkaError) -> SourceError {
    let code = error.rdkafka_error_code();
    let (retry, advice) = match code {
        Some(Code::TopicAuthorizationFailed) => (false, ": grant Write on it"),
        Some(Code::ClusterAuthorizationFailed) => (false, ": grant IdempotentWrite on the cluster"),
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicId) => {
            (false, ": the topic or the partition does not exist")
        }
        Some(Code::MessageSizeTooLarge) => (false, ": raise `max.message.bytes` of the topic"),
        Some(Code::InvalidMessage | Code::InvalidRecord | Code::InvalidTimestamp | Code::InvalidTopic) => (false, ""),
        _ => (true, ""),
    };
    SourceError::Broker {
        input: topic.to_string(),
        message: format!("a message cannot be written: {error}{advice}"),
        retry,
    }
}
