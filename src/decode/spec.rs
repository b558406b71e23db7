//! How the bytes of a record become rows of one stream.

use crate::decode::avro::AvroSchema;
use crate::decode::binary::{self, Parsed};
use crate::decode::protobuf::ProtobufSchema;
use crate::event::{ColumnType, DurationMs, EventTime, Expression, Partitioner, RegisteredSchema, StreamId, Value};
use arrow::datatypes::SchemaRef;
use std::sync::Arc;

/// Everything `decode` needs to know about one stream.
#[derive(Clone, Debug)]
pub struct DecodeSpec {
    pub stream: StreamId,
    pub name: String,
    pub payload: PayloadSpec,
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
    /// Whether rows keep the position of their record: somebody wants to be told where it is.
    pub positions: bool,
}

/// How the payloads of a stream are written.
#[derive(Clone, Debug)]
pub enum PayloadSpec {
    /// One JSON object each.
    Json,
    /// By a schema that is not in the record.
    Binary(BinarySpec),
}

#[derive(Clone, Debug)]
pub struct BinarySpec {
    pub format: BinaryFormat,
    pub source: SchemaSource,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryFormat {
    Avro,
    Protobuf,
}

impl BinaryFormat {
    pub fn name(self) -> &'static str {
        match self {
            BinaryFormat::Avro => "avro",
            BinaryFormat::Protobuf => "protobuf",
        }
    }
}

/// Where the schema of a record comes from.
#[derive(Clone, Debug)]
pub enum SchemaSource {
    /// One for all records.
    File { name: String, schema: FileSchema, wire: Wire },
    /// Each record names it by the id that a registry gave it.
    Registry,
}

impl SchemaSource {
    pub fn is_file(&self) -> bool {
        matches!(self, SchemaSource::File { .. })
    }
}

/// What comes before the body of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Plain,
    /// A zero, four bytes of schema id and, in Protobuf, the place of the message; passed over.
    Confluent,
    /// Avro's `c3 01` and the fingerprint of the schema, which must be that of the file.
    SingleObject,
}

/// A schema from a file, understood.
#[derive(Clone, Debug)]
pub struct FileSchema(pub(super) Arc<Parsed>);

impl FileSchema {
    /// The errors are for people: what the parser says.
    pub fn avro(schema: &RegisteredSchema) -> Result<FileSchema, String> {
        AvroSchema::parse(schema).map(|schema| FileSchema(Arc::new(Parsed::Avro(Arc::new(schema)))))
    }

    /// From `.proto` texts. Without a name the only message is meant.
    pub fn protobuf(schema: &RegisteredSchema, message: Option<&str>) -> Result<FileSchema, String> {
        let schema = ProtobufSchema::parse(schema)?;
        schema.message(message).map(|message| FileSchema(Arc::new(Parsed::Protobuf(message))))
    }

    /// From what `protoc --descriptor_set_out --include_imports` writes.
    pub fn protobuf_descriptors(descriptors: &[u8], message: Option<&str>) -> Result<FileSchema, String> {
        let schema = ProtobufSchema::decode(descriptors)?;
        schema.message(message).map(|message| FileSchema(Arc::new(Parsed::Protobuf(message))))
    }
}

/// What does not go together in a schema and the columns that are read by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaMisfit {
    /// `None`: the array to explode.
    pub column: Option<usize>,
    pub message: String,
    /// The column is null or its default in every record, which is allowed and odd.
    pub is_absent: bool,
}

impl DecodeSpec {
    /// How many columns come from the record; those behind them are looked up.
    pub fn recorded(&self) -> usize {
        self.columns.iter().position(|column| column.from == ColumnFrom::Dimension).unwrap_or(self.columns.len())
    }

    /// What the schema of a file lacks; nothing where each record names its own.
    pub fn schema_misfits(&self) -> Vec<SchemaMisfit> {
        let PayloadSpec::Binary(BinarySpec { source: SchemaSource::File { name, schema, .. }, .. }) = &self.payload
        else {
            return Vec::new();
        };
        let fit = binary::fit(name, &schema.0, self);
        let misfit = |column, message, is_absent| SchemaMisfit { column, message, is_absent };
        let columns = fit.misfits.into_iter().map(|(column, message)| misfit(Some(column), message, false));
        let array = fit.array.into_iter().map(|message| misfit(None, message, false));
        let absent = fit.absent.iter().map(|column| {
            let message = format!("{} has no field for it: it is always absent", fit.schema);
            misfit(Some(*column), message, true)
        });
        columns.chain(array).chain(absent).collect()
    }
}

#[derive(Clone, Copy, Debug)]
pub struct DecodeLimits {
    pub record_bytes_max: usize,
    /// Nesting depth of values.
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
    /// Only where a schema says so.
    Nanos,
    Rfc3339,
}

impl TimeUnitSpec {
    /// As it is written in a pipeline file.
    pub fn name(self) -> &'static str {
        match self {
            TimeUnitSpec::Seconds => "s",
            TimeUnitSpec::Millis => "ms",
            TimeUnitSpec::Micros => "us",
            TimeUnitSpec::Nanos => "ns",
            TimeUnitSpec::Rfc3339 => "rfc3339",
        }
    }
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
    /// No part of the record: looked up in a dimension. Such columns come after all others.
    Dimension,
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
