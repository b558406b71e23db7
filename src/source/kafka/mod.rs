//! Kafka: reads topics through librdkafka, at explicit offsets, without a consumer group's help.
//!
//! ```text
//!   topic ── one client ── partition 0 ─┐
//!                       └─ partition 1 ─┴─ drain ─> one batch per partition, deltas chained
//! ```
//!
//! In: positions of the manifest, or where to start in partitions it does not know. Out: [`SourceEvent`]s.
//! Holds: every offset is delivered once and in order, or the source stops and names the missing range (F6). What was
//! deleted behind our back, a checksum that does not fit, a topic that vanished or grew: all stop it, none is skipped.
//! Also here, because no other folder knows the client: a seat in a consumer group that fetches nothing ([`GroupMember`]),
//! topics to write to ([`ensure_topic`], [`TopicWriter`]), and the committed offsets of a group without members
//! ([`GroupOffsets`]).
//! Does not: commit offsets for any purpose but monitoring, start a thread of its own. librdkafka reconnects by itself;
//! after an error that it does not recover from a [`KafkaSource`] is done, and [`ReconnectingKafka`] makes a new one.
//!
//! Each topic has a client of its own, because librdkafka's end-of-partition and error events, as they reach us, do not
//! say which topic they mean.

mod extent;
mod member;
mod observe;
mod offsets;
mod partition;
mod playback;
mod reader;
mod reconnect;
mod settings;
mod start;
mod topics;
mod writer;

pub use extent::extents;
pub use member::{GroupMember, MemberEvent, MemberOptions};
pub use offsets::GroupOffsets;
pub use playback::{Original, Outgoing, fetch_originals, produce};

use crate::event::{PartitionId, Positions};
use crate::source::{InputKind, InputSpec, KafkaConnection, LogEnd, Source, SourceError, SourceEvent};
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use reader::TopicReader;
pub use reconnect::ReconnectingKafka;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
pub use topics::ensure_topic;
pub use writer::{Outbound, TopicWriter};

/// How long a poll sleeps at most before it looks again by itself: the client's wake-ups are taken as hints only.
const WAKE_MAX: Duration = Duration::from_millis(100);
/// How long dropping a source waits for its clients to say goodbye to brokers that may be gone.
const CLOSE_MAX: Duration = Duration::from_secs(3);

/// What a caller decides beside the pipeline file.
#[derive(Clone, Debug)]
pub struct KafkaOptions {
    /// Stop at the end that each partition has at connect: [`SourceEvent::Ended`] instead of `CaughtUp`.
    pub until_end: bool,
    /// The name that brokers see in their logs and quotas.
    pub client_id: String,
    /// The group under which positions are shown to monitoring; `group.id` in the connection's properties wins.
    pub group_id: String,
    /// Whether positions are shown to monitoring. A reader beside a group whose members are alive must not: brokers
    /// take commits only from members, and a [`GroupMember`] shows them for its process.
    pub monitoring: bool,
    /// The partition numbers to read of every topic; `None` reads all.
    pub partitions: Option<BTreeSet<u32>>,
    /// How long [`KafkaSource::connect`] waits for each answer of a broker.
    pub connect_timeout: Duration,
    /// One drain of a client hands out about this many records, over all partitions of its topic.
    pub batch_records_max: usize,
    /// One drain of a client stops at about this many payload bytes.
    pub batch_bytes_max: usize,
    /// Of a larger record only so much is copied, and a byte: enough for `decode` to refuse it.
    pub record_bytes_max: usize,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        KafkaOptions {
            until_end: false,
            client_id: "conjoin".to_string(),
            group_id: "conjoin".to_string(),
            monitoring: true,
            partitions: None,
            connect_timeout: Duration::from_secs(10),
            batch_records_max: 8192,
            batch_bytes_max: 4 << 20,
            record_bytes_max: 8 << 20,
        }
    }
}

/// The topics of one connection.
pub struct KafkaSource {
    readers: Vec<TopicReader>,
    options: KafkaOptions,
    /// Events that were found and not yet asked for.
    ready: VecDeque<SourceEvent>,
    /// Comes after the events in `ready`.
    failure: Option<SourceError>,
    wake: Receiver<()>,
    /// Which reader is drained first the next time, so that a busy topic cannot starve the others.
    turn: usize,
    /// What was last said about the connection.
    connected: bool,
}

impl KafkaSource {
    /// Connects to all topics of one connection; `inputs` are their numbers in `Plan::inputs` and their specs.
    ///
    /// A partition starts at its entry in `positions`, or else where the spec says. An error with
    /// [`retry`](SourceError::retry) means that no broker could be reached: call again after a while.
    pub fn connect(
        connection: &KafkaConnection,
        inputs: &[(u16, &InputSpec)],
        positions: &Positions,
        options: KafkaOptions,
    ) -> Result<Self, SourceError> {
        let (wake_sender, wake) = bounded(1);
        let mut source = KafkaSource {
            readers: Vec::with_capacity(inputs.len()),
            options,
            ready: VecDeque::new(),
            failure: None,
            wake,
            turn: 0,
            connected: true,
        };
        for &(input, spec) in inputs {
            let InputKind::Kafka(topic) = &spec.kind else {
                return Err(SourceError::Input {
                    input: spec.name.clone(),
                    message: "is not a Kafka topic, but was handed to the Kafka source".to_string(),
                });
            };
            let reader =
                TopicReader::connect(connection, input, topic, spec.headers, positions, &source.options, &wake_sender)?;
            source.readers.push(reader);
        }
        Ok(source)
    }

    /// How many partitions each input had at connect, read or not. A manifest pins these numbers.
    pub fn partition_counts(&self) -> BTreeMap<u16, u32> {
        self.readers.iter().map(|reader| (reader.input(), reader.partition_count())).collect()
    }

    /// The next offset of each partition, behind everything that was found.
    fn positions(&self) -> Positions {
        let mut positions = Positions::default();
        self.readers.iter().flat_map(TopicReader::positions).for_each(|(at, next)| positions.set(at, next));
        positions
    }

    /// Records that came again below the position expected, and were dropped.
    pub fn repeated(&self) -> u64 {
        self.readers.iter().map(TopicReader::repeated).sum()
    }

    /// Tells the brokers how far we are, so that lag monitors see it. Nothing reads it back; a failure is only logged.
    pub fn commit_for_monitoring(&self, positions: &Positions) {
        if !self.options.monitoring {
            return;
        }
        for reader in &self.readers {
            reader.commit_for_monitoring(positions);
        }
    }

    /// Takes what the clients have, without waiting.
    fn fill(&mut self) {
        for step in 0..self.readers.len() {
            let at = (self.turn + step) % self.readers.len();
            if let Err(error) = self.readers[at].drain(&self.options, &mut self.ready) {
                self.failure = Some(error);
                return;
            }
        }
        self.turn = (self.turn + 1) % self.readers.len().max(1);
        let down = self.readers.iter().find_map(TopicReader::down);
        if self.connected != down.is_none() {
            self.connected = down.is_none();
            let message = down.unwrap_or_else(|| "brokers answer again".to_string());
            self.ready.push_back(SourceEvent::Connection { ready: self.connected, message });
        }
    }

    fn reader(&mut self, partition: PartitionId) -> Option<&mut TopicReader> {
        self.readers.iter_mut().find(|reader| reader.input() == partition.input)
    }
}

impl Source for KafkaSource {
    fn partitions(&self) -> Vec<PartitionId> {
        let mut all: Vec<_> = self.readers.iter().flat_map(TopicReader::partitions).collect();
        all.sort();
        all
    }

    fn starts(&self) -> Vec<(PartitionId, i64)> {
        self.positions().iter().collect()
    }

    fn poll(&mut self, timeout: Duration) -> Result<SourceEvent, SourceError> {
        if self.ready.is_empty() && self.failure.is_none() {
            self.fill();
        }
        if self.ready.is_empty() && self.failure.is_none() {
            // `wake` cannot be disconnected: the readers hold the other end. Without readers there is nothing to wait for.
            if let Err(RecvTimeoutError::Disconnected) = self.wake.recv_timeout(timeout.min(WAKE_MAX)) {
                return Ok(SourceEvent::Nothing);
            }
            self.fill();
        }
        if let Some(event) = self.ready.pop_front() {
            return Ok(event);
        }
        match self.failure.take() {
            None => Ok(SourceEvent::Nothing),
            Some(error) => {
                self.failure = Some(SourceError::Broker {
                    input: "kafka".to_string(),
                    message: format!("this source stopped before: {error}"),
                    retry: error.retry(),
                });
                Err(error)
            }
        }
    }

    /// What was found before may still come: at most one drain of the topic.
    fn pause(&mut self, partition: PartitionId) {
        if let Some(reader) = self.reader(partition) {
            reader.pause(partition.partition);
        }
    }

    fn resume(&mut self, partition: PartitionId) {
        if let Some(reader) = self.reader(partition) {
            reader.resume(partition.partition);
        }
    }

    fn committed(&mut self, positions: &Positions) {
        self.commit_for_monitoring(positions);
    }

    /// A few seconds old.
    fn log_ends(&self) -> BTreeMap<PartitionId, LogEnd> {
        self.readers.iter().flat_map(TopicReader::log_ends).collect()
    }

    fn label(&self, partition: PartitionId, position: i64) -> String {
        let reader = self.readers.iter().find(|reader| reader.input() == partition.input);
        let topic = reader.map_or("?", TopicReader::topic);
        format!("{topic}/{} offset {position}", partition.partition)
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        close(std::mem::take(&mut self.readers));
    }
}

/// Drops clients with a deadline. librdkafka's close waits for brokers and has none of its own, so it happens in a thread
/// that is left behind when the deadline passes.
fn close<T: Send + 'static>(clients: T) {
    let (done, closed) = bounded::<()>(1);
    let close = move || {
        drop(clients);
        drop(done);
    };
    let spawned = std::thread::Builder::new().name("kafka-close".to_string()).spawn(close);
    if spawned.is_err() || closed.recv_timeout(CLOSE_MAX) == Err(RecvTimeoutError::Timeout) {
        tracing::warn!("Kafka clients did not close in {CLOSE_MAX:?} and are left behind");
    }
}
