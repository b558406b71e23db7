//! Member: one process's seat in a consumer group, which says which partition numbers are its own.
//!
//! ```text
//!   group ── assigns a/0 a/1 b/0 b/1 ──> member ──> Assigned {0, 1}        the records come by other clients,
//!                                          └ fetches nothing               at the manifests' positions
//! ```
//!
//! In: topics with the same number of partitions. Out: [`MemberEvent`]s, each with everything that is ours.
//! Holds: a set is told only when every topic gave the same one; no record is fetched; a poll waits no longer than it is
//! told, and a second for the brokers' count of partitions after a rebalance.
//! Does not: read, or guarantee that nobody else takes a partition for its own: that is what claiming a chain does.

use super::observe::{GroupChange, Observer, Shown};
use super::start::{Client, Inquiry};
use super::{close, settings};
use crate::source::{KafkaConnection, SourceError};
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// How long one poll waits for the number of partitions; the next one asks again.
const COUNT_WAIT: Duration = Duration::from_secs(1);

/// How a process joins.
#[derive(Clone, Debug)]
pub struct MemberOptions {
    /// `group.id` in the connection's properties wins.
    pub group_id: String,
    /// What this process is called in the group. With a name it keeps its partitions over a restart, and holds them for
    /// the session's length when it dies; without one it is a new member each time, and others shift.
    pub instance_id: Option<String>,
    /// How long the group waits for a sign of life; `session.timeout.ms` in the connection's properties wins.
    pub session_timeout_ms: u32,
    /// The name that brokers see in their logs and quotas.
    pub client_id: String,
    /// How long [`GroupMember::join`] waits for each answer of a broker.
    pub connect_timeout: Duration,
}

/// What became of our place in the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberEvent {
    /// The partition numbers that are ours, all of them, of every topic.
    Assigned(BTreeSet<u32>),
    /// The group assigns anew. What was ours may go to someone else; the next `Assigned` says.
    Revoked,
    /// The group took us for dead, or closed our seat. The client joins again by itself.
    Lost { message: String },
    /// The connection to the group came or went, or what it assigns is of no use; the member goes on by itself.
    Connection { ready: bool, message: String },
}

/// A seat in a consumer group.
pub struct GroupMember {
    connection: KafkaConnection,
    topics: Vec<String>,
    group: String,
    instance: Option<String>,
    partition_count: u32,
    /// Taken when it is dropped.
    client: Option<Client>,
    ready: VecDeque<MemberEvent>,
    /// What the group assigned, until the topics' partitions were counted again.
    unchecked: Option<Vec<(String, u32)>>,
    /// No broker answers.
    down: bool,
    /// What the group last assigned is not the same of every topic.
    uneven: bool,
    /// The seat was lost or out of reach, and brokers have not taken positions from it since.
    shaken: bool,
}

impl GroupMember {
    /// Checks that the topics go together, and asks for a seat. What is ours comes by [`GroupMember::poll`].
    pub fn join(
        connection: &KafkaConnection,
        topics: &[String],
        options: MemberOptions,
    ) -> Result<GroupMember, SourceError> {
        let config = settings::member_config(connection, &options)?;
        let group = config.get("group.id").unwrap_or_default().to_string();
        let client: Client = config
            .create_with_context(Observer::new(&topics.join(",")))
            .map_err(|error| settings::misconfigured(connection, &error))?;
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        let counts = count_partitions(&client, connection, topics, options.connect_timeout);
        let joined = counts.and_then(|counts| common(connection, topics, &counts)).and_then(|count| {
            client.subscribe(&names).map_err(|error| SourceError::Broker {
                input: format!("group {group}"),
                message: format!("cannot be joined: {error}"),
                retry: true,
            })?;
            Ok(count)
        });
        match joined {
            Ok(partition_count) => Ok(GroupMember {
                connection: connection.clone(),
                topics: topics.to_vec(),
                group,
                instance: options.instance_id,
                partition_count,
                client: Some(client),
                ready: VecDeque::new(),
                unchecked: None,
                down: false,
                uneven: false,
                shaken: false,
            }),
            Err(error) => {
                close(client);
                Err(error)
            }
        }
    }

    /// Of every topic.
    pub fn partition_count(&self) -> u32 {
        self.partition_count
    }

    /// The next event; `None` when nothing happened for `timeout`. It must be called well within `max.poll.interval.ms`,
    /// or the group takes this process for dead. After an error the seat is gone; with [`retry`](SourceError::retry) it
    /// may be asked for anew.
    pub fn poll(&mut self, timeout: Duration) -> Result<Option<MemberEvent>, SourceError> {
        if let Some(event) = self.ready.pop_front() {
            return Ok(Some(event));
        }
        // Nothing is assigned to the client, so no record can come.
        let error = self.client().poll(timeout).and_then(Result::err);
        if let Some(error) = error {
            self.judge(&error)?;
        }
        self.note_changes()?;
        // A client that was fenced says so once, and maybe to somebody else's poll.
        if let Some((code, reason)) = self.client().client().fatal_error() {
            return Err(self.expelled(code, &reason));
        }
        self.check_assignment()?;
        self.notice_recovery();
        Ok(self.ready.pop_front())
    }

    /// Tells the brokers how far the owner of these partitions is, so that lag monitors see it. Nothing reads it back; a
    /// failure is only logged, such as one while the group assigns anew.
    pub fn commit_for_monitoring(&mut self, positions: &BTreeMap<(String, u32), i64>) {
        let shown = self.client().context().observed().positions;
        self.shaken &= shown != Shown::Taken;
        // What waits for a broker longer than the session comes there under a name that is no longer ours.
        if shown == Shown::OnTheirWay || self.down || self.client().assignment_lost() {
            return;
        }
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for ((topic, number), next) in positions {
            if let Err(error) = list.add_partition_offset(topic, *number as i32, Offset::Offset(*next)) {
                tracing::warn!(topic, number, next, %error, "position cannot be shown to monitoring");
            }
        }
        if list.count() == 0 {
            return;
        }
        match self.client().commit(&list, CommitMode::Async) {
            Ok(()) => self.client().context().observed().positions = Shown::OnTheirWay,
            Err(error) => {
                tracing::warn!(group = self.group, %error, "positions were not shown to monitoring; nothing depends on it");
            }
        }
    }

    /// Gives the seat up, within seconds also when brokers are gone. A member without a name is replaced at once; the
    /// partitions of one with a name stay its own until the session ends, for it may only be restarting.
    pub fn leave(self) {
        drop(self);
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("the client is taken by drop alone")
    }

    fn note_changes(&mut self) -> Result<(), SourceError> {
        let changes = std::mem::take(&mut self.client().context().observed().group_changes);
        for change in changes {
            match change {
                GroupChange::Assigned(list) => self.unchecked = Some(list),
                GroupChange::Revoked => {
                    self.unchecked = None;
                    self.ready.push_back(MemberEvent::Revoked);
                }
                GroupChange::Lost => {
                    self.unchecked = None;
                    self.shake();
                    let reason = self.reason();
                    let message =
                        format!("group {}: the seat of this process was lost ({reason}); joining anew", self.group);
                    self.ready.push_back(MemberEvent::Lost { message });
                }
                GroupChange::Unanswered(error) => {
                    return Err(self.stopped(true, format!("the client does not take an assignment: {error}")));
                }
            }
        }
        Ok(())
    }

    /// Tells what is ours, once the brokers have said that the topics are what they were when we joined.
    fn check_assignment(&mut self) -> Result<(), SourceError> {
        let Some(list) = self.unchecked.take() else { return Ok(()) };
        let counts = match count_partitions(self.client(), &self.connection, &self.topics, COUNT_WAIT) {
            Ok(counts) => counts,
            Err(error) if error.retry() => {
                self.lose_brokers(error.to_string());
                self.unchecked = Some(list);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for (topic, counted) in self.topics.iter().zip(counts) {
            // A broker that counts may have heard less than the one that assigns.
            let assigned =
                list.iter().filter(|(name, _)| name == topic).map(|(_, number)| number + 1).max().unwrap_or(0);
            let count = counted.max(assigned);
            if count != self.partition_count {
                return Err(self.stopped(
                    false,
                    format!(
                        "topic {topic} had {} partitions and has {count} now: records of one key may lie in two of them. What \
                         was read is safe. Stop all processes, and copy what belongs together to new topics with `conjoin \
                         repartition`",
                        self.partition_count
                    ),
                ));
            }
        }
        match even(&self.topics, &list) {
            Ok(ours) => {
                if std::mem::take(&mut self.uneven) {
                    let message = "the group assigns the same partitions of every topic again".to_string();
                    self.ready.push_back(MemberEvent::Connection { ready: true, message });
                }
                self.ready.push_back(MemberEvent::Assigned(ours));
            }
            Err(uneven) => {
                self.uneven = true;
                let message = format!(
                    "group {} assigned different partitions of its topics ({uneven}): a member subscribes to other \
                     topics, for example with an older pipeline file. Nothing is taken until all members have the same",
                    self.group
                );
                self.ready.push_back(MemberEvent::Connection { ready: false, message });
            }
        }
        Ok(())
    }

    /// Stops at what a person has to mend; leaves the rest to the client, which retries for ever.
    fn judge(&mut self, error: &KafkaError) -> Result<(), SourceError> {
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        let reason = self.reason();
        match code {
            Code::AllBrokersDown => {
                self.lose_brokers(format!("group {}: no broker answers: {reason}", self.group));
                Ok(())
            }
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicId => {
                Err(self.stopped(false, format!("a topic was deleted ({reason}). What was read is safe")))
            }
            Code::TopicAuthorizationFailed => {
                Err(self.stopped(false, format!("a topic may no longer be read ({reason}): grant Describe and Read")))
            }
            Code::GroupAuthorizationFailed => Err(self.stopped(
                false,
                format!(
                    "connection `{}` may not join this group: grant Read on group {}",
                    self.connection.name, self.group
                ),
            )),
            Code::InconsistentGroupProtocol => Err(self.stopped(
                false,
                "another program is a member of this group and shares partitions out by other rules: find it with \
                 `kafka-consumer-groups --describe --members`, and stop it or set `group.id` in the connection's properties"
                    .to_string(),
            )),
            Code::InvalidSessionTimeout => Err(self.stopped(
                false,
                "the brokers do not allow this session timeout: choose one between their group.min.session.timeout.ms and \
                 group.max.session.timeout.ms (6 s and 30 min unless somebody changed them)"
                    .to_string(),
            )),
            _ => {
                tracing::warn!(group = self.group, %code, "kafka client goes on after: {reason}");
                Ok(())
            }
        }
    }

    /// What was shown to monitoring before says nothing about the seat of now.
    fn shake(&mut self) {
        self.shaken = true;
        let mut observed = self.client().context().observed();
        if observed.positions == Shown::Taken {
            observed.positions = Shown::Nothing;
        }
    }

    /// The client is of no use any more.
    fn expelled(&self, code: Code, reason: &str) -> SourceError {
        match (code, &self.instance) {
            // Positions that it had sent before it lost its seat reached the group after it had joined again, and the
            // group took them for another process's.
            (Code::FencedInstanceId, Some(_)) if self.shaken => {
                self.stopped(true, format!("the seat was lost, and what was still on its way closed it ({reason})"))
            }
            (Code::FencedInstanceId, Some(instance)) => self.stopped(
                false,
                format!(
                    "another process joined as instance `{instance}`, and this one has lost its place. If it is a \
                     replacement, all is well; if both are to run, give each an instance id of its own"
                ),
            ),
            _ => self.stopped(false, format!("the client gave up: {reason}")),
        }
    }

    fn reason(&self) -> String {
        match self.client().context().observed().reason.as_str() {
            "" => "no reason was given".to_string(),
            reason => reason.to_string(),
        }
    }

    fn stopped(&self, retry: bool, message: String) -> SourceError {
        SourceError::Broker { input: format!("group {}", self.group), message, retry }
    }

    fn lose_brokers(&mut self, message: String) {
        if !self.down {
            self.client().context().observed().broker_up = false;
            self.down = true;
            self.shake();
            self.ready.push_back(MemberEvent::Connection { ready: false, message });
        }
    }

    fn notice_recovery(&mut self) {
        if self.down && self.client().context().observed().broker_up {
            self.down = false;
            let message = "brokers answer again".to_string();
            self.ready.push_back(MemberEvent::Connection { ready: !self.uneven, message });
        }
    }
}

impl Drop for GroupMember {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            close(client);
        }
    }
}

/// How many partitions each of the topics has.
fn count_partitions(
    client: &Client,
    connection: &KafkaConnection,
    topics: &[String],
    timeout: Duration,
) -> Result<Vec<u32>, SourceError> {
    topics.iter().map(|topic| Inquiry { client, connection, topic, timeout }.partition_count()).collect()
}

/// The number of partitions that all topics have.
fn common(connection: &KafkaConnection, topics: &[String], counts: &[u32]) -> Result<u32, SourceError> {
    let count = counts.first().copied().unwrap_or(0);
    if counts.iter().all(|other| *other == count) {
        return Ok(count);
    }
    let found: Vec<String> = topics.iter().zip(counts).map(|(topic, count)| format!("{topic} has {count}")).collect();
    Err(SourceError::Input {
        input: format!("connections.{}", connection.name),
        message: format!(
            "a pipeline that runs in several processes needs topics that are partitioned alike, by the same key into the \
             same number of partitions, but {}. Copy those that differ to new topics with `conjoin repartition`",
            found.join(", ")
        ),
    })
}

/// The numbers that were assigned of every topic; or, for a person, how they differ.
fn even(topics: &[String], list: &[(String, u32)]) -> Result<BTreeSet<u32>, String> {
    let of = |topic: &String| -> BTreeSet<u32> {
        list.iter().filter(|(assigned, _)| assigned == topic).map(|(_, number)| *number).collect()
    };
    let mut sets = topics.iter().map(of);
    let first = sets.next().unwrap_or_default();
    match sets.all(|other| other == first) {
        true => Ok(first),
        false => Err(topics.iter().map(|topic| format!("{topic}: {:?}", of(topic))).collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_told_only_when_every_topic_gave_the_same() {
        let topics = ["a".to_string(), "b".to_string()];
        let list = |places: &[(&str, u32)]| -> Vec<(String, u32)> {
            places.iter().map(|(topic, number)| (topic.to_string(), *number)).collect()
        };
        assert_eq!(even(&topics, &list(&[("a", 1), ("b", 3), ("b", 1), ("a", 3)])), Ok(BTreeSet::from([1, 3])));
        assert_eq!(even(&topics, &[]), Ok(BTreeSet::new()));
        let uneven = even(&topics, &list(&[("a", 1), ("b", 2)])).unwrap_err();
        assert_eq!(uneven, "a: {1}, b: {2}");
        assert!(even(&topics, &list(&[("b", 2)])).is_err());
    }
}
