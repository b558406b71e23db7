//! Batches: what travels between the stages, raw, decoded, closed, and what was rejected on the way.

use crate::event::{EventTime, Fingerprint, PartitionId, PositionDelta};
use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use std::ops::Range;
use std::sync::Arc;

/// Number of a stream in `Plan::streams`.
pub type StreamId = u16;

/// Where one record lies in the bytes of its [`RawBatch`].
#[derive(Clone, Debug, Default)]
pub struct RawRecord {
    /// Range of the payload in [`RawBatch::bytes`]; `None` is a null payload (a Kafka tombstone).
    pub payload: Option<Range<u32>>,
    /// Kafka offset, or a [`file_position`](crate::event::file_position).
    pub position: i64,
    /// The broker's timestamp in ms; `None` for inputs that have no log time (files, memory).
    pub broker_time: Option<EventTime>,
    /// Range of the message key in [`RawBatch::bytes`].
    pub key: Option<Range<u32>>,
    /// Ranges of header names and values in [`RawBatch::bytes`]. Empty unless a stream of the input declares headers.
    pub headers: Vec<(Range<u32>, Range<u32>)>,
}

/// Undecoded records of one partition, in log order, and the step they take it forward.
#[derive(Clone, Debug)]
pub struct RawBatch {
    pub delta: PositionDelta,
    /// Payloads, keys and headers one after another.
    pub bytes: Vec<u8>,
    pub records: Vec<RawRecord>,
}

impl RawBatch {
    pub fn slice(&self, range: &Range<u32>) -> &[u8] {
        &self.bytes[range.start as usize..range.end as usize]
    }
}

/// Why a record, or one row of it, was not accepted: the value that dead letters carry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum RejectKind {
    EmptyPayload,
    TooLarge,
    NotUtf8,
    MalformedJson,
    MalformedAvro,
    MalformedProtobuf,
    Truncated,
    WrongMagic,
    UnknownSchema,
    IncompatibleSchema,
    TooDeep,
    DuplicateField,
    MissingField,
    WrongType,
    OutOfRange,
    NullKey,
    TooManyItems,
    TimeBeforeMin,
    TimeInFuture,
    ExpressionFailed,
}

impl RejectKind {
    pub const ALL: [RejectKind; 20] = [
        RejectKind::EmptyPayload,
        RejectKind::TooLarge,
        RejectKind::NotUtf8,
        RejectKind::MalformedJson,
        RejectKind::MalformedAvro,
        RejectKind::MalformedProtobuf,
        RejectKind::Truncated,
        RejectKind::WrongMagic,
        RejectKind::UnknownSchema,
        RejectKind::IncompatibleSchema,
        RejectKind::TooDeep,
        RejectKind::DuplicateField,
        RejectKind::MissingField,
        RejectKind::WrongType,
        RejectKind::OutOfRange,
        RejectKind::NullKey,
        RejectKind::TooManyItems,
        RejectKind::TimeBeforeMin,
        RejectKind::TimeInFuture,
        RejectKind::ExpressionFailed,
    ];

    /// The name in dead letters and metrics: a stable part of the output format.
    pub fn name(self) -> &'static str {
        match self {
            RejectKind::EmptyPayload => "empty_payload",
            RejectKind::TooLarge => "too_large",
            RejectKind::NotUtf8 => "not_utf8",
            RejectKind::MalformedJson => "malformed_json",
            RejectKind::MalformedAvro => "malformed_avro",
            RejectKind::MalformedProtobuf => "malformed_protobuf",
            RejectKind::Truncated => "truncated",
            RejectKind::WrongMagic => "wrong_magic",
            RejectKind::UnknownSchema => "unknown_schema",
            RejectKind::IncompatibleSchema => "incompatible_schema",
            RejectKind::TooDeep => "too_deep",
            RejectKind::DuplicateField => "duplicate_field",
            RejectKind::MissingField => "missing_field",
            RejectKind::WrongType => "wrong_type",
            RejectKind::OutOfRange => "out_of_range",
            RejectKind::NullKey => "null_key",
            RejectKind::TooManyItems => "too_many_items",
            RejectKind::TimeBeforeMin => "time_before_min",
            RejectKind::TimeInFuture => "time_in_future",
            RejectKind::ExpressionFailed => "expression_failed",
        }
    }
}

/// One record, or one row of an exploded record, that goes to dead letters.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejected {
    pub stream: StreamId,
    pub partition: PartitionId,
    pub position: i64,
    /// The element of the exploded array, when only that element is bad.
    pub item: Option<u32>,
    pub kind: RejectKind,
    /// What was found and where, for a person.
    pub message: String,
    /// The whole record as it came (cut at `dead_letter_bytes_max`).
    pub raw: Vec<u8>,
}

/// What one aggregate of a feature group reads from a batch: evaluated once per batch, before routing.
#[derive(Clone, Debug)]
pub struct FeatureInput {
    /// Rows that count (`where`, and an entity without null); `None` means all.
    pub mask: Option<BooleanArray>,
    /// The aggregated value per row; `None` for `count: "*"`.
    pub values: Option<ArrayRef>,
}

/// Decoded, filtered rows of one stream from one [`RawBatch`], with everything about a row that is a function of the
/// row alone. All vectors are aligned by row.
#[derive(Clone, Debug)]
pub struct DecodedBatch {
    pub stream: StreamId,
    pub delta: PositionDelta,
    /// The declared columns.
    pub rows: RecordBatch,
    pub event_time: Vec<EventTime>,
    /// Fingerprints per distinct column set of the stream, see [`DecodeSpec::key_sets`](crate::decode::DecodeSpec).
    pub keys: Vec<Arc<Vec<Fingerprint>>>,
    /// [`content_hash`](crate::event::content_hash) of the record a row came from.
    pub content: Vec<u64>,
    /// The position of the record a row came from, where the stream's rows are told by it.
    pub positions: Option<Vec<i64>>,
    /// One entry per feature use of the stream, see [`DecodeSpec::feature_inputs`](crate::decode::DecodeSpec).
    pub feature_inputs: Vec<FeatureInput>,
    pub rejected: Vec<Rejected>,
    /// Rows that `where` turned away (and empty exploded arrays, one each).
    pub filtered: u64,
    /// Records read, and rows they became: a record that is no slate is one row.
    pub records: u64,
    pub consumed: u64,
}

impl DecodedBatch {
    pub fn num_rows(&self) -> usize {
        self.event_time.len()
    }
}

/// Why rows of a sample closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum CloseReason {
    /// The watermark passed the longest window.
    Watermark,
    /// Every input was idle and the idle clock closed the window.
    Idle,
    /// A bounded input ended, or `--close` was asked for.
    End,
}

/// Finished rows of one sample, in the layout of its output schema.
#[derive(Clone, Debug)]
pub struct SampleBatch {
    /// Number of the sample in `Plan::samples`.
    pub sample: u16,
    pub rows: RecordBatch,
    /// Event time of each row's impression: decides the date and hour folder.
    pub impression_time: Vec<EventTime>,
    /// What each row's impression is called, where rows are sent under their names.
    pub event_id: Option<StringArray>,
    /// The time bucket these rows were pending in: the unit in which files take over from state.
    pub bucket: i64,
}

/// Feature values of some entities of one group, ready for the online store.
#[derive(Clone, Debug)]
pub struct FeatureBatch {
    /// Number of the group in `Plan::groups`.
    pub group: u16,
    /// Each entity's key as the online store spells it: the entity's values percent-escaped and joined with `:`.
    pub entities: Vec<String>,
    /// One row per entity in the layout of `GroupSpec::outputs`.
    pub values: RecordBatch,
    /// The instant at which every value was read.
    pub as_of: EventTime,
}

/// A decoded batch with the verdicts of the router, shared by all lanes.
#[derive(Clone, Debug)]
pub struct RoutedBatch {
    pub decoded: DecodedBatch,
    /// Rows below their partition's watermark, with that watermark, ascending by row.
    pub late: Vec<(u32, EventTime)>,
    /// The cell's watermark when the batch was routed.
    pub watermark: EventTime,
    /// Per key set of the stream that decides about lanes, the row numbers of each lane; `None` for other key sets.
    pub lanes: Vec<Option<Vec<Vec<u32>>>>,
}

impl RoutedBatch {
    /// The rows of `lane` by one key set.
    pub fn rows(&self, key_set: usize, lane: usize) -> &[u32] {
        match &self.lanes[key_set] {
            Some(lanes) => &lanes[lane],
            None => &[],
        }
    }
}
