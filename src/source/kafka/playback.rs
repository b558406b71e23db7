//! Playback: takes single records out of a log by their offsets, and sends records back to it.
//!
//! In: places, and records a person has repaired. Out: what lay at the places; for each record sent, where it lies now.
//! Holds: a record counts as sent when the broker's delivery report says so, with every replica's acknowledgement.
//! Does not: decide what is sent.

use super::writer::{Outbound, Place, TopicWriter, Track};
use super::{KafkaOptions, close, settings};
use crate::source::{KafkaConnection, KafkaTopicSpec, SourceError};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// How far ahead a wanted offset may lie to be read on to, rather than asked for anew.
const READ_ON_MAX: i64 = 500;
/// How often an empty poll is waited for before an offset is taken to be gone.
const POLL_WAIT: Duration = Duration::from_millis(100);
const EMPTY_POLLS_MAX: usize = 100;
/// How long all that was sent may take to be acknowledged.
const FLUSH_MAX: Duration = Duration::from_secs(90);

/// A record as it lies in the log, without its payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Original {
    pub key: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// The broker's or the producer's time, in ms.
    pub time: Option<i64>,
}

/// A record to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub partition: u32,
    pub payload: Vec<u8>,
    pub original: Original,
}

/// Reads what lies at the (partition, offset) places of a topic. Places that the log no longer holds are left out.
pub fn fetch_originals(
    connection: &KafkaConnection,
    topic: &KafkaTopicSpec,
    wanted: &BTreeSet<(u32, i64)>,
) -> Result<BTreeMap<(u32, i64), Original>, SourceError> {
    let options = KafkaOptions { client_id: "conjoin-dead-letters".into(), ..KafkaOptions::default() };
    let mut config = settings::client_config(connection, &options)?;
    config.set("enable.partition.eof", "false");
    let client: BaseConsumer = config.create().map_err(|error| settings::misconfigured(connection, &error))?;
    let mut found = BTreeMap::new();
    let mut reading: Option<(u32, i64)> = None;
    let mut low: BTreeMap<u32, (i64, i64)> = BTreeMap::new();
    let result = wanted.iter().try_for_each(|&(partition, offset)| {
        let range = match low.get(&partition) {
            Some(range) => *range,
            None => {
                let range = client.fetch_watermarks(&topic.topic, partition as i32, options.connect_timeout);
                let range = range.map_err(|error| broker(&topic.topic, &error))?;
                low.insert(partition, range);
                range
            }
        };
        if offset < range.0 || offset >= range.1 {
            return Ok(());
        }
        let near = reading.is_some_and(|(at, next)| at == partition && next <= offset && offset - next <= READ_ON_MAX);
        if !near {
            let mut list = TopicPartitionList::new();
            let added = list.add_partition_offset(&topic.topic, partition as i32, Offset::Offset(offset));
            added.and_then(|()| client.assign(&list)).map_err(|error| broker(&topic.topic, &error))?;
        }
        reading = read_to(&client, &topic.topic, partition, offset, &mut found)?;
        Ok(())
    });
    close(client);
    result.map(|()| found)
}

/// Polls up to an offset; the place to go on from, if the client still stands there.
fn read_to(
    client: &BaseConsumer,
    topic: &str,
    partition: u32,
    offset: i64,
    found: &mut BTreeMap<(u32, i64), Original>,
) -> Result<Option<(u32, i64)>, SourceError> {
    let mut empty = 0;
    while empty < EMPTY_POLLS_MAX {
        match client.poll(POLL_WAIT) {
            None => empty += 1,
            Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::OffsetOutOfRange) => {
                return Ok(None);
            }
            Some(Err(error)) => {
                tracing::debug!(topic, %error, "while a record was looked up");
                empty += 1;
            }
            // What another assignment asked for may still come.
            Some(Ok(message)) if message.partition() != partition as i32 || message.offset() < offset => {}
            Some(Ok(message)) => {
                if message.offset() == offset {
                    found.insert((partition, offset), original(&message));
                }
                return Ok(Some((partition, message.offset() + 1)));
            }
        }
    }
    Err(SourceError::Broker {
        input: topic.to_string(),
        message: format!("no broker gave partition {partition} offset {offset}; nothing was sent"),
        retry: true,
    })
}

fn original(message: &impl Message) -> Original {
    let headers = message.headers().map(|headers| {
        // The binding panics at a name that is not UTF-8; such a header cannot be sent again either.
        let header = |index| {
            catch_unwind(AssertUnwindSafe(|| {
                let header = headers.get(index);
                (header.key.to_owned(), header.value.map(<[u8]>::to_vec))
            }))
            .ok()
        };
        (0..headers.count()).filter_map(header).collect()
    });
    Original {
        key: message.key().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
        time: message.timestamp().to_millis(),
    }
}

/// Sends records to their partitions in order; for each where it lies now, or why it was not taken.
pub fn produce(
    connection: &KafkaConnection,
    topic: &str,
    records: &[Outgoing],
) -> Result<Vec<Result<Place, String>>, SourceError> {
    let mut writer = TopicWriter::connect(connection, "conjoin-dead-letters")?;
    let mut refused = BTreeMap::new();
    for (number, Outgoing { partition, payload, original }) in records.iter().enumerate() {
        let message = Outbound {
            topic,
            partition: Some(*partition as i32),
            key: original.key.as_deref(),
            payload: Some(payload),
            headers: original.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect(),
            time: original.time,
        };
        if let Err(error) = writer.send(&message, Track::Numbered(number)) {
            refused.insert(number, error.to_string());
        }
    }
    let (flushed, mut delivered) = writer.outcomes(FLUSH_MAX);
    let outcome = |number| match (delivered.remove(&number), refused.remove(&number)) {
        (Some(Ok(place)), _) => Ok(place),
        (Some(Err(error)), _) => Err(error.to_string()),
        (None, Some(refusal)) => Err(refusal),
        (None, None) => Err(match &flushed {
            Err(error) => format!("not acknowledged: {error}"),
            Ok(()) => "not acknowledged".into(),
        }),
    };
    Ok((0..records.len()).map(outcome).collect())
}

fn broker(topic: &str, error: &KafkaError) -> SourceError {
    SourceError::Broker {
        input: topic.to_string(),
        message: format!("the brokers do not answer: {error}"),
        retry: true,
    }
}
