//! Raw keys of `connections:` and `streams:`.

use super::{Duration, Enrich, Entries, Instant, JsonPath, Later, Names, Scalar, Sql};
use crate::config::defaults;
use schemars::JsonSchema;
use serde::Deserialize;

/// A place outside: exactly one of the keys.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// A Kafka cluster.
    pub kafka: Option<KafkaCluster>,
    /// A Redis server.
    pub redis: Option<Redis>,
    /// A Postgres server.
    pub postgres: Option<Postgres>,
    /// A bucket of an object store.
    pub bucket: Option<Bucket>,
    /// A schema registry.
    pub schema_registry: Option<SchemaRegistry>,
}

/// A Kafka cluster.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaCluster {
    /// Brokers to start from, `host:port` separated by commas.
    pub brokers: String,
    /// SASL authentication.
    #[schemars(extend("x-later" = "SASL for Kafka is not supported yet"))]
    pub sasl: Option<Later>,
    /// TLS to the brokers.
    #[schemars(extend("x-later" = "TLS for Kafka is not supported yet"))]
    pub tls: Option<Later>,
    /// librdkafka consumer properties, applied after Conjoin's own. Those that carry correctness are refused.
    #[serde(default)]
    pub properties: Entries<Scalar>,
}

/// A Redis server.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// Such as `redis://user:password@host:6379/0`.
    pub url: String,
}

/// A Postgres server.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Postgres {
    /// Such as `postgres://user:password@host:5432/database`.
    pub url: String,
}

/// A registry that speaks the Confluent Schema Registry API: Confluent's own, Karapace, Apicurio, Redpanda. Each schema is
/// asked for once.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SchemaRegistry {
    /// What comes before `/schemas/ids/…`, such as `https://registry.example.org:8081`.
    pub url: String,
    /// Whom the registry knows (basic authentication; in Confluent Cloud the API key).
    pub username: Option<String>,
    /// The password of `username`, or the API secret.
    pub password: Option<String>,
    /// A bearer token instead of `username` and `password`.
    pub token: Option<String>,
    /// A file of certificates (PEM) that are trusted besides those of the system.
    pub ca: Option<String>,
}

/// A bucket of an object store, or a part of it: every path that lies below `url` is reached with these settings. What
/// they leave out comes from the usual environment variables of the cloud, so that most buckets need no connection.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    /// `s3://bucket`, `gs://bucket` or `az://container`, with or without a prefix.
    pub url: String,
    /// The address of a store that is compatible with the cloud's, such as `https://minio.example.org:9000`.
    pub endpoint: Option<String>,
    /// Allows an `http://` endpoint.
    #[schemars(extend("default" = false))]
    pub allow_http: Option<bool>,
    /// Credentials and more, such as `access_key_id: ${KEY}`; docs/OBJECT_STORES.md lists them.
    #[serde(default)]
    pub options: Entries<Scalar>,
}

/// A stream of events: where it comes from, how it is read, what its time and keys are. Exactly one of `kafka`, `file`
/// and `memory` says where from.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// Read from Kafka topics. A topic that several streams name is read once.
    pub kafka: Option<KafkaTopics>,
    /// Read from files with one record per line; `.gz` and `.zst` are unpacked.
    pub file: Option<File>,
    /// Fed by the embedding program or a test.
    pub memory: Option<Memory>,
    /// How records are written.
    #[schemars(extend("default" = "json"))]
    pub format: Option<Format>,
    /// The columns to read, by name: a type alone, or a mapping. Fields that are not named are not read.
    pub columns: Option<Entries<Column>>,
    /// What records of `avro` and `protobuf` are written by. Which of its fields are read is still said by `columns`.
    pub schema: Option<SchemaOf>,
    /// Turns one record with an array (a slate) into one row per element.
    pub explode: Option<Explode>,
    /// Rows for which it is false or null are counted as filtered and go no further. Sees the stream's columns.
    #[serde(rename = "where")]
    pub filter: Option<Sql>,
    /// The column that holds the event time.
    pub time: String,
    /// The columns that identify an event: exact copies are dropped as duplicates. Default: `key`.
    pub id: Option<Names>,
    /// The columns by which labels refer to impressions, matched by position. Default: `id`.
    pub key: Option<Names>,
    /// The columns that decide which lane works on a row; an impression and its labels must agree on them.
    /// Default: `key`.
    pub partition_by: Option<Names>,
    /// How much older than the newest record of its partition a record may be without being late.
    #[schemars(extend("default" = defaults::LATENESS))]
    pub lateness: Option<Duration>,
    /// A partition that is caught up and quiet for so long no longer holds the watermark back.
    #[schemars(extend("default" = defaults::IDLE_AFTER))]
    pub idle_after: Option<Duration>,
    /// Whether the whole stream may be quiet for long while impressions move.
    #[schemars(extend("default" = false))]
    pub sparse: Option<bool>,
    /// How far ahead of the watermark (in event time) a partition may be read before it is paused.
    #[schemars(extend("default" = defaults::MAX_DRIFT))]
    pub max_drift: Option<Duration>,
    /// A record whose time is further ahead of its broker timestamp goes to dead letters.
    #[schemars(extend("default" = defaults::MAX_FUTURE))]
    pub max_future: Option<Duration>,
    /// A record whose time lies before it (seconds taken for milliseconds) goes to dead letters.
    #[schemars(extend("default" = defaults::MIN_TIME))]
    pub min_time: Option<Instant>,
    /// Columns looked up in dimensions, by the name that they begin with: `<name>.<column>` in expressions, `<name>_<column>`
    /// in rows. A row whose key a dimension does not have gets nulls.
    #[serde(default)]
    pub enrich: Entries<Enrich>,
    /// How the producer partitions the topic.
    #[schemars(extend("x-later" = "`partitioner` belongs to group mode, which is not supported yet"))]
    pub partitioner: Option<Later>,
}

/// Topics of a Kafka connection.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaTopics {
    /// A name under `connections`.
    pub connection: String,
    /// The topics to read.
    pub topics: Names,
    /// Where to begin in a partition that was never read: `earliest`, `latest` or an RFC 3339 instant.
    #[schemars(extend("default" = "earliest"))]
    pub start: Option<String>,
    /// Take missing offsets for those of compaction or transaction markers. Without it a gap stops the pipeline.
    #[serde(default)]
    #[schemars(extend("default" = false))]
    pub allow_gaps: bool,
}

/// Files.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// A file, a folder or a glob; files in name order are one sequence. Relative to the working folder.
    pub path: String,
}

/// An in-process queue; it has no settings.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Memory {}

/// How records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object per record.
    Json,
    /// One Avro value per record, by `schema`.
    Avro,
    /// One Protobuf message per record, by `schema`.
    Protobuf,
}

/// The schema of binary records: of one file for all records (`avro` or `protobuf`), or for each record the one that it
/// names by its id (`registry`).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SchemaOf {
    /// A file with an Avro schema (`.avsc`).
    pub avro: Option<String>,
    /// A file with Protobuf messages.
    pub protobuf: Option<ProtobufFile>,
    /// A file with a JSON Schema.
    #[schemars(extend("x-later" = "JSON Schema is not supported yet; `columns` says what is read of JSON"))]
    pub json_schema: Option<Later>,
    /// A connection with `schema_registry`. Records are in the Confluent wire format; fields are found by name in the
    /// schema that each was written with.
    pub registry: Option<String>,
    /// What comes before the value of each record, with a schema from a file.
    #[schemars(extend("default" = "plain"))]
    pub wire: Option<Wire>,
}

/// A path alone, or a mapping with more.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ProtobufFile {
    /// A file with a single message.
    Short(String),
    /// A file, and which of its messages.
    Full(Box<ProtobufMessage>),
}

/// A message of a file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProtobufMessage {
    /// A `.proto` file, or descriptors as `protoc --descriptor_set_out --include_imports` writes them.
    pub path: String,
    /// The name of the message, with or without its package. Default: the only one.
    pub message: Option<String>,
    /// Folders in which imported files are looked for, besides the one of `path`.
    pub include: Option<Names>,
}

/// What comes before the value of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Wire {
    /// Nothing.
    Plain,
    /// The id of a schema, as the serialisers of Confluent write it; passed over.
    Confluent,
    /// Avro's single object encoding: the fingerprint of the schema, which must be that of the file.
    SingleObject,
}

/// A type alone, or a mapping with more.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Column {
    /// The field of the same name, required.
    Short(TypeName),
    /// Where the value comes from and what stands in for it.
    Full(Box<FullColumn>),
}

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TypeName {
    String,
    Int32,
    Int64,
    Float32,
    Float64,
    Bool,
    Timestamp,
}

/// A column.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FullColumn {
    /// The type; a value that does not fit sends its record to dead letters.
    #[serde(rename = "type")]
    pub column_type: TypeName,
    /// Where in the record: `$.user.id`. From an exploded element `$` is the element itself and `$index` its position.
    /// Default: the field that is named like the column.
    pub path: Option<JsonPath>,
    /// The name under `explode.as`: the path starts at the element instead of the record.
    pub from: Option<String>,
    /// A Kafka header, as text.
    pub header: Option<String>,
    /// `true`: the Kafka message key, as text.
    pub key: Option<bool>,
    /// `true`: the Kafka partition.
    pub partition: Option<bool>,
    /// `true`: the broker's timestamp.
    pub broker_time: Option<bool>,
    /// Whether the value may be missing or null. Without it and without a default such a record is a dead letter.
    #[schemars(extend("default" = false))]
    pub nullable: Option<bool>,
    /// Stands in for a missing or null value.
    pub default: Option<Scalar>,
    /// How a timestamp is written.
    #[schemars(extend("default" = "ms"))]
    pub unit: Option<Unit>,
}

/// How a timestamp is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Seconds since 1970.
    S,
    /// Milliseconds since 1970.
    Ms,
    /// Microseconds since 1970.
    Us,
    /// Text such as `2026-01-31T07:00:00Z`.
    Rfc3339,
}

/// One record with an array becomes one row per element.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Explode {
    /// The array.
    pub path: JsonPath,
    /// The name by which columns refer to an element (`from`).
    #[serde(rename = "as")]
    pub name: String,
    /// A record with more elements goes to dead letters.
    #[schemars(range(min = 1, max = 100_000), extend("default" = defaults::EXPLODE_MAX))]
    pub max: Option<u32>,
}
