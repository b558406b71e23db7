//! Extent: how far a topic goes, for those who only ask.

use super::observe::Observer;
use super::start::{Client, Inquiry};
use super::{KafkaOptions, close, settings};
use crate::source::{KafkaConnection, SourceError};
use rdkafka::consumer::Consumer;

/// The first offset and the end of each partition of a topic, in the order of their numbers.
pub fn extents(connection: &KafkaConnection, topic: &str) -> Result<Vec<(i64, i64)>, SourceError> {
    let options = KafkaOptions { client_id: "conjoin-extents".to_string(), ..KafkaOptions::default() };
    let client: Client = settings::client_config(connection, &options)?
        .create_with_context(Observer::new(topic))
        .map_err(|error| settings::misconfigured(connection, &error))?;
    let timeout = options.connect_timeout;
    let inquiry = Inquiry { client: &client, connection, topic, timeout };
    let found = inquiry.partition_count().and_then(|count| {
        let watermarks = (0..count).map(|partition| client.fetch_watermarks(topic, partition as i32, timeout));
        watermarks.collect::<Result<Vec<_>, _>>().map_err(|error| SourceError::Broker {
            input: topic.to_string(),
            message: format!("the brokers {} do not answer: {error}", connection.brokers),
            retry: true,
        })
    });
    close(client);
    found
}
