//! Reader: one topic through one client: takes records off its queue, hands them to their partitions, and judges its errors.
//!
//! In: records of all partitions, interleaved. Out: per drain one batch per partition that had records, then the news.
//! Holds: an error of the client either stops the source or is one that the client itself recovers from.

use super::observe::Observer;
use super::partition::{Partition, Terms};
use super::start::{Client, Inquiry, Range, lost};
use super::{KafkaOptions, close, settings};
use crate::event::{PartitionId, Positions};
use crate::source::{KafkaConnection, KafkaTopicSpec, LogEnd, SourceError, SourceEvent};
use crossbeam_channel::Sender;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{Message, Offset, TopicPartitionList};
use std::collections::VecDeque;
use std::time::Duration;

pub struct TopicReader {
    input: u16,
    topic: String,
    allow_gaps: bool,
    headers: bool,
    until_end: bool,
    timeout: Duration,
    client: Client,
    /// By their numbers; `None` for those that are not read here.
    partitions: Vec<Option<Partition>>,
    /// Why no broker answers, while none does.
    down: Option<String>,
}

impl TopicReader {
    pub fn connect(
        connection: &KafkaConnection,
        input: u16,
        spec: &KafkaTopicSpec,
        headers: bool,
        positions: &Positions,
        options: &KafkaOptions,
        wake: &Sender<()>,
    ) -> Result<Self, SourceError> {
        let config = settings::client_config(connection, options)?;
        let mut client: Client = config
            .create_with_context(Observer::new(&spec.topic))
            .map_err(|error| settings::misconfigured(connection, &error))?;
        let inquiry = Inquiry { client: &client, connection, topic: &spec.topic, timeout: options.connect_timeout };
        let ranges =
            match inquiry.ranges(input, spec.start, positions, options.partitions.as_ref()).and_then(|ranges| {
                assign(&client, &spec.topic, &ranges)?;
                Ok(ranges)
            }) {
                Ok(ranges) => ranges,
                Err(error) => {
                    close(client);
                    return Err(error);
                }
            };

        let wake = wake.clone();
        client.set_nonempty_callback(move || {
            // Full means that a wake-up is on its way already.
            let _ = wake.try_send(());
        });
        let partition = |(number, range): (usize, &Option<Range>)| {
            let id = PartitionId { input, partition: number as u32 };
            range.map(|range| Partition::new(id, range.from, options.until_end.then_some(range.end)))
        };
        Ok(TopicReader {
            input,
            topic: spec.topic.clone(),
            allow_gaps: spec.allow_gaps,
            headers,
            until_end: options.until_end,
            timeout: options.connect_timeout,
            client,
            partitions: ranges.iter().enumerate().map(partition).collect(),
            down: None,
        })
    }

    pub fn input(&self) -> u16 {
        self.input
    }

    pub fn topic(&self) -> &str {
        &self.topic
    }

    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> + '_ {
        self.read().map(|partition| partition.id)
    }

    /// The partitions that are read here.
    fn read(&self) -> impl Iterator<Item = &Partition> + '_ {
        self.partitions.iter().flatten()
    }

    fn read_mut(&mut self) -> impl Iterator<Item = &mut Partition> + '_ {
        self.partitions.iter_mut().flatten()
    }

    /// Of the topic as a whole.
    pub fn partition_count(&self) -> u32 {
        self.partitions.len() as u32
    }

    pub fn positions(&self) -> impl Iterator<Item = (PartitionId, i64)> + '_ {
        self.read().map(|partition| (partition.id, partition.expected))
    }

    pub fn repeated(&self) -> u64 {
        self.read().map(|partition| partition.repeated).sum()
    }

    pub fn down(&self) -> Option<String> {
        self.down.clone()
    }

    pub fn log_ends(&self) -> Vec<(PartitionId, LogEnd)> {
        let observed = self.client.context().observed();
        let end = |id: PartitionId| observed.log_ends.get(&id.partition).map(|&end| (id, end));
        self.partitions().filter_map(end).collect()
    }

    /// Takes what the client has, up to the limits, without waiting. What was taken before an error is in `out`.
    pub fn drain(&mut self, options: &KafkaOptions, out: &mut VecDeque<SourceEvent>) -> Result<(), SourceError> {
        self.read_mut().for_each(|partition| partition.end_if_reached(out));
        let result = self.take(options, out).and_then(|()| self.check_partition_count());
        for partition in self.read_mut() {
            partition.flush(out);
            partition.end_if_reached(out);
        }
        self.stop_fetching_what_ended();
        self.notice_recovery();
        result
    }

    fn take(&mut self, options: &KafkaOptions, out: &mut VecDeque<SourceEvent>) -> Result<(), SourceError> {
        let (topic, record_bytes_max) = (self.topic.clone(), options.record_bytes_max);
        let terms = Terms { topic: &topic, headers: self.headers, allow_gaps: self.allow_gaps, record_bytes_max };
        let (mut records, mut bytes, mut quiet) = (0, 0, 0);
        // `None` may also mean that the client had something of its own to do: it is quiet when it says so twice.
        while quiet < 2 && records < options.batch_records_max && bytes < options.batch_bytes_max {
            match self.client.poll(Duration::ZERO) {
                None => quiet += 1,
                Some(Ok(message)) => {
                    records += 1;
                    if let Some(Some(partition)) = self.partitions.get_mut(message.partition() as usize) {
                        bytes += partition.accept(&message, &terms)?;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(number))) => {
                    if let Some(Some(partition)) = self.partitions.get_mut(number as usize) {
                        match partition.doubts_end() {
                            true => {
                                let at = (partition.id, partition.expected);
                                self.ask_for_end(at);
                            }
                            false => partition.caught_up(self.until_end, out),
                        }
                    }
                }
                Some(Err(error)) => {
                    self.judge(&error)?;
                    self.lose_sight(out);
                }
            }
        }
        Ok(())
    }

    /// While a broker is away nobody knows whether a log goes on there: a partition that was read to its end is no longer
    /// quiet.
    fn lose_sight(&mut self, out: &mut VecDeque<SourceEvent>) {
        let lost: Vec<_> = self
            .read_mut()
            .filter_map(|partition| partition.lose_sight(out).then_some((partition.id, partition.expected)))
            .collect();
        lost.into_iter().for_each(|at| self.ask_for_end(at));
    }

    /// Seeks to where we stand: then the client tells the end again, once a broker has answered, and not from before.
    fn ask_for_end(&self, (id, next): (PartitionId, i64)) {
        let number = id.partition;
        if let Err(error) = self.client.seek(&self.topic, number as i32, Offset::Offset(next), Duration::ZERO) {
            tracing::warn!(topic = self.topic, number, %error, "kafka client cannot look for the log's end again");
        }
    }

    /// Stops at what would lose or damage records; remembers that no broker answers; leaves the rest to the client,
    /// which retries for ever.
    fn judge(&mut self, error: &KafkaError) -> Result<(), SourceError> {
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        let reason = self.client.context().observed().reason.clone();
        match code {
            Code::AllBrokersDown => {
                if self.down.is_none() {
                    self.client.context().observed().broker_up = false;
                    self.down = Some(format!("{}: no broker answers: {reason}", self.topic));
                }
                Ok(())
            }
            Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::NoOffset | Code::LogTruncation => {
                Err(self.out_of_range(&reason))
            }
            Code::BadCompression => Err(self.fatal(format!(
                "a batch cannot be unpacked ({reason}): it is damaged, or unpacks to more than \
                 `receive.message.max.bytes`, which the client allows zstd. Nothing was skipped; raise that in the \
                 connection's properties, or check the broker's disk, then restart"
            ))),
            Code::BadMessage | Code::InvalidMessage | Code::InvalidMessageSize => Err(self.fatal(format!(
                "a damaged record came from the broker ({reason}). Nothing was skipped; check the broker's disk and \
                     the network, then restart"
            ))),
            Code::MessageSizeTooLarge => Err(self.fatal(format!(
                "a record is larger than the client takes ({reason}): raise `receive.message.max.bytes` and \
                 `fetch.message.max.bytes` in the connection's properties"
            ))),
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicId => {
                Err(self.fatal(format!(
                    "the topic or a partition of it was deleted while it was read ({reason}). What was read is safe"
                )))
            }
            Code::TopicAuthorizationFailed => {
                Err(self.fatal("reading this topic is no longer allowed: grant Describe and Read".to_string()))
            }
            Code::BrokerTransportFailure
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::SSL
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::GroupAuthorizationFailed
            | Code::PollExceeded => {
                tracing::warn!(topic = self.topic, %code, "kafka client goes on after: {reason}");
                Ok(())
            }
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => {
                Err(self.fatal(format!("the client gave up: {error}: {reason}")))
            }
            _ => Err(SourceError::Broker {
                input: self.topic.clone(),
                message: format!("reading stopped: {error}: {reason}"),
                retry: true,
            }),
        }
    }

    /// The broker does not have the offset we asked for: finds out whose, and what is missing.
    fn out_of_range(&self, reason: &str) -> SourceError {
        for partition in self.read() {
            let number = partition.id.partition;
            match self.client.fetch_watermarks(&self.topic, number as i32, self.timeout) {
                Ok((low, _)) if partition.expected < low => return lost(&self.topic, number, partition.expected, low),
                Ok((_, high)) if partition.expected > high => {
                    return self.fatal(format!(
                        "partition {number} was cut back to offset {high} while it was read up to {}: records that were \
                         read are no longer in the log ({reason})",
                        partition.expected
                    ));
                }
                _ => {}
            }
        }
        self.fatal(format!("the broker does not have the offset to read next ({reason})"))
    }

    fn check_partition_count(&self) -> Result<(), SourceError> {
        let known = self.partition_count();
        let now = self.client.context().observed().partition_count;
        if now <= known {
            return Ok(());
        }
        Err(self.fatal(format!(
            "grew from {known} to {now} partitions while it was read: records of one key may now lie in two of them, and \
             the new ones are not read. What was read is safe; restart to have all partitions checked and read"
        )))
    }

    fn stop_fetching_what_ended(&mut self) {
        let ended: Vec<u32> =
            self.read().filter(|partition| partition.ended).map(|partition| partition.id.partition).collect();
        ended.into_iter().for_each(|number| self.set_paused(number, true));
    }

    /// Records are no sign that a broker is back: they may have waited in the client since before the outage.
    fn notice_recovery(&mut self) {
        if self.down.is_some() && self.client.context().observed().broker_up {
            self.down = None;
        }
    }

    fn fatal(&self, message: String) -> SourceError {
        SourceError::Broker { input: self.topic.clone(), message, retry: false }
    }

    pub fn pause(&mut self, number: u32) {
        self.set_paused(number, true);
    }

    pub fn resume(&mut self, number: u32) {
        self.set_paused(number, false);
    }

    /// Tells the client only of a change: resuming what is not paused has moved positions in some of its versions.
    fn set_paused(&mut self, number: u32, paused: bool) {
        let Some(Some(partition)) = self.partitions.get_mut(number as usize) else {
            return;
        };
        if partition.paused == paused || (partition.ended && !paused) {
            return;
        }
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(&self.topic, number as i32);
        let done = if paused { self.client.pause(&list) } else { self.client.resume(&list) };
        match done {
            Ok(()) => partition.paused = paused,
            Err(error) => {
                tracing::error!(topic = self.topic, number, paused, %error, "kafka client cannot pause or resume")
            }
        }
    }

    pub fn commit_for_monitoring(&self, positions: &Positions) {
        let mut list = TopicPartitionList::with_capacity(self.partitions.len());
        for partition in self.read() {
            if let Some(next) = positions.next(partition.id) {
                let number = partition.id.partition as i32;
                if let Err(error) = list.add_partition_offset(&self.topic, number, Offset::Offset(next)) {
                    tracing::warn!(topic = self.topic, number, next, %error, "position cannot be shown to monitoring");
                }
            }
        }
        if list.count() > 0
            && let Err(error) = self.client.commit(&list, CommitMode::Async)
        {
            tracing::warn!(topic = self.topic, %error, "positions were not shown to monitoring; nothing depends on it");
        }
    }
}

fn assign(client: &Client, topic: &str, ranges: &[Option<Range>]) -> Result<(), SourceError> {
    let mut list = TopicPartitionList::with_capacity(ranges.len());
    let mut result = Ok(());
    let wanted = ranges.iter().enumerate().filter_map(|(number, range)| Some((number, (*range)?)));
    for (number, range) in wanted {
        result = result.and(list.add_partition_offset(topic, number as i32, Offset::Offset(range.from)));
    }
    result.and_then(|()| client.assign(&list)).map_err(|error| SourceError::Broker {
        input: topic.to_string(),
        message: format!("cannot be assigned: {error}"),
        retry: false,
    })
}
