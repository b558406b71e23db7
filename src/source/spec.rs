//! What to read: one input per Kafka topic, per sequence of files, per in-process queue.

use crate::event::{DurationMs, EventTime, StreamId};
use std::collections::BTreeMap;

/// One input of the pipeline. A topic or file pattern that several streams name is one input, read once.
#[derive(Clone, Debug)]
pub struct InputSpec {
    /// The topic, the file pattern or the name of the queue, as shown to people.
    pub name: String,
    pub kind: InputKind,
    /// The streams that decode every record of this input.
    pub streams: Vec<StreamId>,
    /// Whether any stream declares a header column: headers are copied only then.
    pub headers: bool,
}

#[derive(Clone, Debug)]
pub enum InputKind {
    Kafka(KafkaTopicSpec),
    /// A file, a folder or a glob; files in name order are one sequence. `.gz` and `.zst` are unpacked.
    File {
        pattern: String,
    },
    /// Fed by the embedding program or a test.
    Memory,
}

#[derive(Clone, Debug)]
pub struct KafkaTopicSpec {
    pub topic: String,
    pub start: KafkaStart,
    pub connection: KafkaConnection,
    /// Whether offsets may be missing in the log: transaction markers, aborted transactions and compaction leave such
    /// gaps, and the client cannot tell them from lost records. Otherwise a gap stops the source.
    pub allow_gaps: bool,
}

/// Where to begin in a partition that no manifest knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KafkaStart {
    Earliest,
    Latest,
    /// The first record at or after this time.
    Timestamp(EventTime),
}

/// How the processes of one pipeline find each other.
#[derive(Clone, Debug)]
pub struct GroupModeSpec {
    /// The connection of every input.
    pub connection: KafkaConnection,
    pub group_id: String,
    /// The static name of this process in the group.
    pub instance_id: String,
    pub session_timeout_ms: DurationMs,
    /// Replicas of the internal topic; `None` leaves it to the brokers.
    pub replication: Option<i32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaConnection {
    /// The name under `connections:`.
    pub name: String,
    pub brokers: String,
    /// librdkafka properties from the pipeline file, applied after Conjoin's own.
    pub properties: BTreeMap<String, String>,
}
