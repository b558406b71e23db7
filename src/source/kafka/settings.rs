//! Settings: librdkafka's properties as this source needs them, and the user's on top.
//!
//! In: the connection's `properties`. Out: a client configuration, or a message naming the property.
//! Holds: what correctness rests on cannot be overridden.

use super::{KafkaOptions, MemberOptions};
use crate::source::{KafkaConnection, SourceError};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;

/// What correctness rests on.
const FIXED: [(&str, &str, &str); 7] = [
    ("enable.auto.commit", "false", "positions live in the manifest"),
    ("enable.auto.offset.store", "false", "positions live in the manifest"),
    ("auto.offset.reset", "error", "lost records must stop the pipeline, not be skipped"),
    ("isolation.level", "read_committed", "records of aborted transactions must not be read"),
    ("enable.partition.eof", "true", "knowing that a partition is caught up rests on it"),
    ("check.crcs", "true", "damaged records must stop the pipeline, not be decoded"),
    ("allow.auto.create.topics", "false", "a misspelled topic must be an error, not a new topic"),
];

/// Starting points that a user may change.
const DEFAULTS: [(&str, &str); 8] = [
    // Memory: what the client prefetches is bounded in bytes per client; the fetches in flight per partition come on top.
    // A full queue is looked at again after the backoff. With 100 ms and 10,000 messages the backoff, not the broker,
    // set the pace: small records came four times slower.
    ("queued.max.messages.kbytes", "16384"),
    ("queued.min.messages", "100000"),
    ("fetch.queue.backoff.ms", "10"),
    ("fetch.max.bytes", "16777216"),
    ("max.partition.fetch.bytes", "1048576"),
    ("receive.message.max.bytes", "33554432"),
    ("topic.metadata.refresh.interval.ms", "60000"),
    // From these come the log's ends, the number of partitions, and the news that a broker is back.
    ("statistics.interval.ms", "5000"),
];

/// Set by other keys of the pipeline file.
const ELSEWHERE: [(&str, &str); 2] = [("bootstrap.servers", "brokers"), ("metadata.broker.list", "brokers")];

pub fn client_config(connection: &KafkaConnection, options: &KafkaOptions) -> Result<ClientConfig, SourceError> {
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Warning);
    config.set("bootstrap.servers", &connection.brokers);
    config.set("client.id", &options.client_id);
    config.set("group.id", &options.group_id);
    for (property, value) in DEFAULTS {
        config.set(property, value);
    }
    for (property, value) in &connection.properties {
        let name = format!("connections.{}.kafka.properties.{property}", connection.name);
        if let Some((_, key)) = ELSEWHERE.iter().find(|(elsewhere, _)| elsewhere == property) {
            return Err(refused(name, format!("set `connections.{}.kafka.{key}` instead", connection.name)));
        }
        if let Some((_, fixed, reason)) = FIXED.iter().find(|(fixed, _, _)| fixed == property)
            && value != fixed
        {
            return Err(refused(name, format!("is always `{fixed}`: {reason}. Remove it")));
        }
        config.set(property, value);
    }
    for (property, value, _) in FIXED {
        config.set(property, value);
    }
    if !cfg!(feature = "tls")
        && let Some(protocol) = config.get("security.protocol")
        && protocol.to_ascii_lowercase().contains("ssl")
    {
        let name = format!("connections.{}.kafka", connection.name);
        return Err(refused(name, "needs TLS, which this build leaves out: build with `--features tls`".to_string()));
    }
    Ok(config)
}

/// What a seat in a consumer group rests on.
const MEMBER_FIXED: [(&str, &str, &str); 2] = [
    ("partition.assignment.strategy", "range", "it alone gives a process the same partition of every topic"),
    ("group.protocol", "classic", "the assignment has to be complete each time"),
];

/// The same connection for a member of a consumer group that fetches nothing.
pub fn member_config(connection: &KafkaConnection, options: &MemberOptions) -> Result<ClientConfig, SourceError> {
    let reader = KafkaOptions {
        client_id: options.client_id.clone(),
        group_id: options.group_id.clone(),
        ..KafkaOptions::default()
    };
    let mut config = client_config(connection, &reader)?;
    for (property, fixed, reason) in MEMBER_FIXED {
        if connection.properties.get(property).is_some_and(|value| value != fixed) {
            let name = format!("connections.{}.kafka.properties.{property}", connection.name);
            return Err(refused(name, format!("is always `{fixed}`: {reason}. Remove it")));
        }
        config.set(property, fixed);
    }
    let session = options.session_timeout_ms.to_string();
    for (property, value) in
        [("session.timeout.ms", &*session), ("heartbeat.interval.ms", "3000"), ("max.poll.interval.ms", "300000")]
    {
        if !connection.properties.contains_key(property) {
            config.set(property, value);
        }
    }
    if let Some(instance) = &options.instance_id {
        config.set("group.instance.id", instance);
    }
    Ok(config)
}

/// The same connection for writing: nothing is acknowledged before all replicas have it, and a retry makes no copy.
pub fn producer_config(connection: &KafkaConnection, client_id: &str) -> Result<ClientConfig, SourceError> {
    let options = KafkaOptions { client_id: client_id.to_string(), ..KafkaOptions::default() };
    // What a reader refuses is refused here too.
    client_config(connection, &options)?;
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Warning);
    config.set("bootstrap.servers", &connection.brokers).set("client.id", client_id);
    // A record that the topic once took may have been larger than the client's default.
    config.set("message.max.bytes", "10000000").set("message.timeout.ms", "60000");
    // What waits to be sent is bounded in bytes; the client's default is a GB.
    config.set("queue.buffering.max.kbytes", "65536");
    let for_readers = |property: &str| {
        let known = FIXED.iter().map(|(name, ..)| *name).chain(DEFAULTS.iter().map(|(name, _)| *name));
        let member = |property: &str| property.starts_with("group.") || property.starts_with("session.");
        member(property) || property.starts_with("fetch.") || known.into_iter().any(|name| name == property)
    };
    for (property, value) in connection.properties.iter().filter(|(property, _)| !for_readers(property)) {
        config.set(property, value);
    }
    config.set("enable.idempotence", "true").set("acks", "all");
    Ok(config)
}

/// What is wrong with the configuration, without any value: it may be a password.
pub fn misconfigured(connection: &KafkaConnection, error: &KafkaError) -> SourceError {
    let message = match error {
        KafkaError::ClientConfig(_, description, property, _) => format!("`{property}`: {description}"),
        other => other.to_string(),
    };
    let hint = match !cfg!(feature = "tls") && message.contains("recompile") {
        true => ". Build Conjoin with `--features tls`",
        false => "",
    };
    refused(format!("connections.{}.kafka.properties", connection.name), format!("{message}{hint}"))
}

fn refused(input: String, message: String) -> SourceError {
    SourceError::Input { input, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn with(property: &str, value: &str) -> Result<ClientConfig, SourceError> {
        let properties = BTreeMap::from([(property.to_string(), value.to_string())]);
        let connection = KafkaConnection { name: "main".to_string(), brokers: "b:1".to_string(), properties };
        client_config(&connection, &KafkaOptions::default())
    }

    #[test]
    fn a_users_property_wins_over_a_default() {
        assert_eq!(with("fetch.max.bytes", "5000000").unwrap().get("fetch.max.bytes"), Some("5000000"));
        assert_eq!(with("group.id", "mine").unwrap().get("group.id"), Some("mine"));
    }

    #[test]
    fn a_member_keeps_its_rules_and_takes_a_users_times() {
        let options = MemberOptions {
            group_id: "g".to_string(),
            instance_id: Some("one".to_string()),
            session_timeout_ms: 45_000,
            client_id: "c".to_string(),
            connect_timeout: std::time::Duration::from_secs(1),
        };
        let member = |properties: &[(&str, &str)]| {
            let properties = properties.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            let connection = KafkaConnection { name: "main".to_string(), brokers: "b:1".to_string(), properties };
            member_config(&connection, &options)
        };
        let config = member(&[("heartbeat.interval.ms", "1000")]).unwrap();
        for (property, value) in [
            ("partition.assignment.strategy", "range"),
            ("group.instance.id", "one"),
            ("session.timeout.ms", "45000"),
            ("heartbeat.interval.ms", "1000"),
            ("enable.auto.commit", "false"),
        ] {
            assert_eq!(config.get(property), Some(value), "{property}");
        }
        let error = member(&[("partition.assignment.strategy", "cooperative-sticky")]).unwrap_err().to_string();
        assert!(error.contains("partition.assignment.strategy") && error.contains("always `range`"), "{error}");
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn tls_is_refused_by_a_build_without_it() {
        assert!(with("security.protocol", "sasl_ssl").unwrap_err().to_string().contains("--features tls"));
        assert!(with("security.protocol", "plaintext").is_ok());
    }

    #[test]
    fn what_correctness_rests_on_is_refused_by_name() {
        let error = with("isolation.level", "read_uncommitted").unwrap_err();
        assert!(!error.retry());
        let text = error.to_string();
        assert!(text.contains("connections.main.kafka.properties.isolation.level") && text.contains("read_committed"));
        assert!(with("isolation.level", "read_committed").is_ok());
        assert!(with("bootstrap.servers", "x").unwrap_err().to_string().contains("kafka.brokers"));
    }
}
