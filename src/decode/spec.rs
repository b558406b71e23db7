//! How the bytes of a record become rows of one stream.

use crate::event::{ColumnType, DurationMs, EventTime, Expression, Partitioner, StreamId, Value};
use arrow::datatypes::SchemaRef;

/// Everything `decode` needs to know about one stream.
#[derive(Clone, Debug)]
pub struct DecodeSpec {
    pub stream: StreamId,
    pub name: String,
    pub columns: Vec<ColumnSpec>,
    /// The declared columns as an Arrow schema, in the order of `columns`.
    pub schema: SchemaRef,
    pub explode: Option<ExplodeSpec>,
    /// `where`: rows for which it is false or null are counted as filtered.
    pub filter: Option<Expression>,
    /// Index of the event time column.
    pub time: usize,
    /// The distinct lists of columns that are hashed to fingerprints; the fields below and the features index it.
    pub key_sets: Vec<Vec<usize>>,
    /// Identity, for duplicates.
    pub id: usize,
    /// What labels refer to.
    pub key: usize,
    /// What decides the key group.
    pub route: usize,
    /// How the producers place a key.
    pub partitioner: Partitioner,
    pub feature_inputs: Vec<FeatureInputSpec>,
    /// Timestamps below it are seconds taken for milliseconds.
    pub min_time: EventTime,
    /// How far past the broker's time a record may claim to be.
    pub max_future_ms: DurationMs,
    pub limits: DecodeLimits,
}

#[derive(Clone, Copy, Debug)]
pub struct DecodeLimits {
    pub record_bytes_max: usize,
    /// Nesting depth of JSON values.
    pub depth_max: usize,
    /// How many bytes of a bad record its dead letter keeps.
    pub dead_letter_bytes_max: usize,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        DecodeLimits { record_bytes_max: 8 << 20, depth_max: 64, dead_letter_bytes_max: 1 << 20 }
    }
}

#[derive(Clone, Debug)]
pub struct ColumnSpec {
    pub name: String,
    pub column_type: ColumnType,
    pub nullable: bool,
    /// Stands in for a missing or null value.
    pub default: Option<Value>,
    /// How a timestamp is written; ignored for other types.
    pub unit: TimeUnitSpec,
    pub from: ColumnFrom,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnitSpec {
    Seconds,
    Millis,
    Micros,
    Rfc3339,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnFrom {
    /// A path of object fields from the root of the record.
    Path(Vec<String>),
    /// The same from an element of the exploded array; an empty path is the element itself.
    Item(Vec<String>),
    /// The position of the element in the exploded array, from 0.
    ItemIndex,
    /// A Kafka header, as text.
    Header(String),
    /// The Kafka message key, as text.
    Key,
    /// The Kafka partition.
    Partition,
    /// The broker's timestamp.
    BrokerTime,
}

/// `explode`: one record with an array becomes one row per element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplodeSpec {
    pub path: Vec<String>,
    pub max: usize,
}

/// What one aggregate reads from this stream.
#[derive(Clone, Debug)]
pub struct FeatureInputSpec {
    pub filter: Option<Expression>,
    /// `None` for `count: "*"`.
    pub input: Option<Expression>,
    /// Columns of the entity; a row with a null among them does not count.
    pub entity: Vec<usize>,
}
