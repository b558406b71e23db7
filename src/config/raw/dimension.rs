//! Raw keys of `dimensions:` and `enrich:`.

use super::{Column, Duration, Entries, Format, Names, SchemaOf, Size};
use crate::config::defaults;
use schemars::JsonSchema;
use serde::Deserialize;

/// A table that rows are enriched from. Exactly one of `parquet`, `csv`, `redis`, `postgres` and `kafka` says where it
/// lies.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dimension {
    /// A Parquet file, or all of a folder; held in memory and read again when they change.
    pub parquet: Option<DimensionParquet>,
    /// The same of CSV files: a line of names, then a line per row. An empty field is null.
    pub csv: Option<DimensionCsv>,
    /// Hashes in Redis, one per key; asked for the keys of each batch, and cached.
    pub redis: Option<DimensionRedis>,
    /// A table or view in Postgres; asked for the keys of each batch, and cached.
    pub postgres: Option<DimensionPostgres>,
    /// A compacted topic; read from its beginning at every start, held in memory and followed.
    pub kafka: Option<DimensionKafka>,
    /// The columns that rows are found by.
    pub key: Names,
    /// The columns, by name: a type alone, or a mapping. `path: $.name` gives what the source calls it. Default, for Parquet
    /// alone: all columns of the file that have one of the types.
    pub columns: Option<Entries<Column>>,
    /// The column that says from when on a row holds: rows get the newest version that is not younger than their event.
    /// Without it they get the current one.
    pub valid_from: Option<String>,
    /// The column that says which version a row is, where there is no `valid_from`; written beside the enriched columns as
    /// `<name>_version`. Default: for files a hash of them, for topics `partition:offset`, else nothing.
    pub version: Option<String>,
}

/// Parquet files.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DimensionParquet {
    /// A file, or a folder whose `.parquet` files are read in name order; in a bucket as well.
    pub path: String,
    /// How often it is looked for changes.
    #[schemars(extend("default" = defaults::REFRESH))]
    pub refresh: Option<Duration>,
}

/// CSV files.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DimensionCsv {
    /// A file, or a folder whose `.csv` files are read in name order; in a bucket as well.
    pub path: String,
    /// How often it is looked for changes.
    #[schemars(extend("default" = defaults::REFRESH))]
    pub refresh: Option<Duration>,
    /// What stands between fields.
    #[schemars(extend("default" = ","))]
    pub delimiter: Option<String>,
}

/// What is kept of a source that is asked key by key.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DimensionCache {
    /// How much memory it takes at most.
    #[schemars(extend("default" = defaults::CACHE_SIZE))]
    pub size: Option<Size>,
    /// How long an answer is believed.
    #[schemars(extend("default" = defaults::CACHE_TTL))]
    pub ttl: Option<Duration>,
    /// How long a key that was not there is believed to be missing.
    #[schemars(extend("default" = defaults::CACHE_MISSING_TTL))]
    pub missing_ttl: Option<Duration>,
}

/// Hashes in Redis.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DimensionRedis {
    /// A connection with `redis`.
    pub connection: String,
    /// The name of a hash, with key columns in braces: `item:{item_id}`. Its fields are the columns.
    pub key: String,
    /// What is kept of it.
    #[serde(default)]
    pub cache: DimensionCache,
}

/// A table or view in Postgres.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DimensionPostgres {
    /// A connection with `postgres`.
    pub connection: String,
    /// Its name, with or without a schema: `shop.items`. An index on the key is what makes look-ups fast.
    pub table: String,
    /// What is kept of it.
    #[serde(default)]
    pub cache: DimensionCache,
}

/// A compacted topic: the newest record of each message key is a row, a record without a value removes it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DimensionKafka {
    /// A connection with `kafka`.
    pub connection: String,
    /// The topic.
    pub topic: String,
    /// How records are written.
    #[schemars(extend("default" = "json"))]
    pub format: Option<Format>,
    /// What records of `avro` and `protobuf` are written by.
    pub schema: Option<SchemaOf>,
    /// What is around a row.
    #[schemars(extend("default" = "none"))]
    pub envelope: Option<Envelope>,
}

/// What is around a row in the value of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Envelope {
    /// Nothing: the value is the row.
    None,
    /// A change event of Debezium: `op`, and the row under `after`.
    Debezium,
    /// The same in `payload`, beside a `schema`: what Kafka Connect writes with `schemas.enable=true`.
    DebeziumWithSchema,
}

/// Columns looked up in a dimension.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Enrich {
    /// A name under `dimensions`.
    pub dimension: String,
    /// The columns that hold the dimension's key, in its order. Default: columns named like the key.
    pub on: Option<Names>,
    /// The dimension's columns to take. Default: all but the key.
    pub select: Option<Vec<String>>,
    /// What is done with a row whose key the dimension does not have yet.
    pub retry: Option<Retry>,
}

/// A row whose key was not found is looked up once more before it is written.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// How long its dimension may take to arrive: at most as long as the row waits for its labels.
    #[serde(rename = "for")]
    pub within: Duration,
}
