//! Topics: makes the topics that only Conjoin writes and reads, or holds those that exist against what is needed.
//!
//! In: a name, a number of partitions, settings. Out: a topic that has them, or what is different.
//! Holds: a topic that exists is never changed; two processes that make the same topic at once both find it.
//! Does not: start a thread or a runtime of its own: the admin client answers from its thread, and the caller waits.

use super::observe::Observer;
use super::start::{Client, Inquiry};
use super::{KafkaOptions, close, settings};
use crate::source::{KafkaConnection, SourceError, wait};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::util::Timeout;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// How long each answer is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How long a new topic may take until every broker knows it: looked at so often, with so much time between.
const LOOKS_MAX: u32 = 300;
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A setting that loses records if it is another; differences in others are only told.
const MUST_FIT: &str = "cleanup.policy";

/// Makes a topic if it is missing: `replication` is the number of copies, `None` the brokers' default. A topic that exists
/// must have as many partitions; other settings than `configs` are told in the log, another `cleanup.policy` is an error.
pub fn ensure_topic(
    connection: &KafkaConnection,
    name: &str,
    partitions: u32,
    configs: &[(&str, &str)],
    replication: Option<i32>,
) -> Result<(), SourceError> {
    let options = KafkaOptions { client_id: "conjoin-topics".to_string(), ..KafkaOptions::default() };
    let client: Client = settings::client_config(connection, &options)?
        .create_with_context(Observer::new(name))
        .map_err(|error| settings::misconfigured(connection, &error))?;
    let topics = Topics { connection, client: &client, name, partitions };
    let done = topics.ensure(configs, replication);
    close(client);
    done
}

struct Topics<'a> {
    connection: &'a KafkaConnection,
    client: &'a Client,
    name: &'a str,
    partitions: u32,
}

impl Topics<'_> {
    fn ensure(&self, configs: &[(&str, &str)], replication: Option<i32>) -> Result<(), SourceError> {
        let mut config = settings::producer_config(self.connection, "conjoin-topics")?;
        // It writes nothing, and needs no right to.
        config.set("enable.idempotence", "false");
        let admin: AdminClient<DefaultClientContext> =
            config.create().map_err(|error| settings::misconfigured(self.connection, &error))?;
        let done = match self.exists()? {
            true => Ok(()),
            false => self.create(&admin, configs, replication).and_then(|()| self.wait_for_leaders()),
        };
        let done = done.and_then(|()| self.check_partitions()).and_then(|()| self.check_configs(&admin, configs));
        close(admin);
        done
    }

    fn exists(&self) -> Result<bool, SourceError> {
        let metadata =
            self.client.fetch_metadata(Some(self.name), ANSWER_MAX).map_err(|error| self.unanswered(&error))?;
        let unknown = |error| matches!(error, Code::UnknownTopicOrPartition | Code::UnknownTopic);
        let mut named = metadata.topics().iter().filter(|topic| topic.name() == self.name);
        Ok(named.any(|topic| !topic.error().is_some_and(|error| unknown(Code::from(error)))))
    }

    fn create(
        &self,
        admin: &AdminClient<DefaultClientContext>,
        configs: &[(&str, &str)],
        replication: Option<i32>,
    ) -> Result<(), SourceError> {
        // -1 leaves it to the brokers.
        let mut topic =
            NewTopic::new(self.name, self.partitions as i32, TopicReplication::Fixed(replication.unwrap_or(-1)));
        for (key, value) in configs {
            topic = topic.set(key, value);
        }
        let made =
            block_on(admin.create_topics([&topic], &admin_options())).map_err(|error| self.unanswered(&error))?;
        match made.into_iter().next() {
            Some(Err((_, Code::TopicAlreadyExists))) => Ok(()),
            Some(Err((_, code @ (Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed)))) => {
                Err(self.wrong(format!(
                    "the topic is missing and connection `{}` may not create it ({code}): grant Create, or create it with \
                     {} partitions{}",
                    self.connection.name,
                    self.partitions,
                    listed(configs)
                )))
            }
            Some(Err((_, code))) => Err(self.wrong(format!("the topic is missing and cannot be created: {code}"))),
            Some(Ok(_)) | None => {
                tracing::info!(topic = self.name, partitions = self.partitions, "created");
                Ok(())
            }
        }
    }

    /// Brokers hear of a new topic one after another.
    fn wait_for_leaders(&self) -> Result<(), SourceError> {
        for _ in 0..LOOKS_MAX {
            let metadata =
                self.client.fetch_metadata(Some(self.name), ANSWER_MAX).map_err(|error| self.unanswered(&error))?;
            let found = metadata.topics().iter().find(|topic| topic.name() == self.name && topic.error().is_none());
            if found.is_some_and(|topic| {
                !topic.partitions().is_empty() && topic.partitions().iter().all(|partition| partition.leader() >= 0)
            }) {
                return Ok(());
            }
            wait(LOOK_EVERY);
        }
        Err(SourceError::Broker {
            input: self.name.to_string(),
            message: format!("was created, but has no leaders after {:?}", LOOK_EVERY * LOOKS_MAX),
            retry: true,
        })
    }

    fn check_partitions(&self) -> Result<(), SourceError> {
        let inquiry =
            Inquiry { client: self.client, connection: self.connection, topic: self.name, timeout: ANSWER_MAX };
        match inquiry.partition_count()? {
            count if count == self.partitions => Ok(()),
            count => Err(self.wrong(format!(
                "has {count} partitions, but {} are needed. Name another topic, or delete this one if nothing else reads it",
                self.partitions
            ))),
        }
    }

    fn check_configs(
        &self,
        admin: &AdminClient<DefaultClientContext>,
        configs: &[(&str, &str)],
    ) -> Result<(), SourceError> {
        if configs.is_empty() {
            return Ok(());
        }
        let described = block_on(admin.describe_configs([&ResourceSpecifier::Topic(self.name)], &admin_options()));
        let described = match described.map(|found| found.into_iter().next()) {
            Ok(Some(Ok(described))) => described,
            Ok(Some(Err(error))) => return self.unknown_configs(&error.to_string()),
            Ok(None) => return self.unknown_configs("no answer"),
            Err(error) => return self.unknown_configs(&error.to_string()),
        };
        for (key, wanted) in configs {
            let found = described.get(key).and_then(|entry| entry.value.as_deref()).unwrap_or("nothing");
            if found == *wanted {
                continue;
            }
            if *key == MUST_FIT {
                return Err(self.wrong(format!(
                    "has `{key}={found}`, but must have `{key}={wanted}`, or what it holds is lost. Set it with \
                     `kafka-configs --alter --topic {} --add-config {key}={wanted}`",
                    self.name
                )));
            }
            tracing::warn!(topic = self.name, "has `{key}={found}`, and would be created with `{key}={wanted}`");
        }
        Ok(())
    }

    /// Whoever may not look has been given a topic that somebody else has made.
    fn unknown_configs(&self, reason: &str) -> Result<(), SourceError> {
        tracing::warn!(topic = self.name, "its settings cannot be looked at ({reason}), and are taken to be right");
        Ok(())
    }

    fn unanswered(&self, error: &KafkaError) -> SourceError {
        SourceError::Broker {
            input: self.name.to_string(),
            message: format!("the brokers {} do not answer: {error}", self.connection.brokers),
            retry: true,
        }
    }

    fn wrong(&self, message: String) -> SourceError {
        SourceError::Input { input: self.name.to_string(), message }
    }
}

fn listed(configs: &[(&str, &str)]) -> String {
    configs.iter().map(|(key, value)| format!(", {key}={value}")).collect()
}

fn admin_options() -> AdminOptions {
    let timeout = Some(Timeout::After(ANSWER_MAX));
    AdminOptions::new().request_timeout(timeout).operation_timeout(timeout)
}

/// Wakes the thread that waits for a future.
struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for an answer of the admin client, whose own thread and timeouts bring it.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(answer) => return answer,
            Poll::Pending => std::thread::park(),
        }
    }
}
