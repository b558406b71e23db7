//! What a dimension is, where it lies, and what a stream takes from it.

use crate::env::Place;
use crate::event::{ColumnType, DurationMs, Partitioner};
use arrow::datatypes::{Field, Schema, SchemaRef};
use std::path::Path;
use std::sync::Arc;

/// A table that rows are enriched from.
#[derive(Clone, Debug)]
pub struct DimensionSpec {
    pub name: String,
    pub columns: Vec<DimensionColumn>,
    /// Indices of the key columns.
    pub key: Vec<usize>,
    /// The column that says from when on a row holds. Without it a key has one row, the newest.
    pub valid_from: Option<usize>,
    /// What tells which version of a row was seen.
    pub version: VersionFrom,
    pub source: DimensionSource,
    /// How the pipeline hashes keys: rows and dimensions meet by fingerprints.
    pub partitioner: Partitioner,
}

impl DimensionSpec {
    /// The columns, all of which may be null.
    pub fn schema(&self) -> SchemaRef {
        let field = |column: &DimensionColumn| Field::new(&column.name, column.column_type.arrow(), true);
        Arc::new(Schema::new(self.columns.iter().map(field).collect::<Vec<_>>()))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DimensionColumn {
    pub name: String,
    pub column_type: ColumnType,
    /// What the source calls it.
    pub source_name: String,
    /// How a timestamp is written, where it is text or a plain number.
    pub unit: DimensionTime,
}

/// How a timestamp is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DimensionTime {
    Seconds,
    Millis,
    Micros,
    Rfc3339,
}

/// What stands in the version of an enriched row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionFrom {
    /// Nothing: rows say themselves from when on they hold, or nobody knows.
    None,
    /// The source tells: a hash of files, an offset of a topic.
    Source,
    /// The text of a column.
    Column(usize),
}

#[derive(Clone, Debug)]
pub enum DimensionSource {
    Files(DimensionFiles),
    Redis(RedisDimension),
    Postgres(PostgresDimension),
    /// A compacted topic; whoever reads it hands its rows over.
    Topic,
}

impl DimensionSource {
    /// Whether it is asked key by key, and not held in memory as a whole.
    pub fn is_asked(&self) -> bool {
        matches!(self, DimensionSource::Redis(_) | DimensionSource::Postgres(_))
    }
}

/// A file, or all files of a folder.
#[derive(Clone, Debug)]
pub struct DimensionFiles {
    pub place: Place,
    /// As it was written.
    pub path: String,
    pub format: FileFormat,
    pub refresh_ms: DurationMs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    Parquet,
    Csv { delimiter: u8 },
}

impl FileFormat {
    /// How the names of its files end.
    pub fn extension(self) -> &'static str {
        match self {
            FileFormat::Parquet => "parquet",
            FileFormat::Csv { .. } => "csv",
        }
    }
}

/// What is kept of a dimension that is asked key by key.
#[derive(Clone, Copy, Debug)]
pub struct CacheSpec {
    pub bytes_max: u64,
    /// How long an answer is believed.
    pub ttl_ms: DurationMs,
    /// How long a key is believed to be missing.
    pub missing_ttl_ms: DurationMs,
}

/// Hashes in Redis, one per key.
#[derive(Clone, Debug)]
pub struct RedisDimension {
    /// The name under `connections`, and its URL.
    pub connection: String,
    pub url: String,
    /// The name of a hash: texts with key columns between them.
    pub key: Vec<KeyPart>,
    pub cache: CacheSpec,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPart {
    Text(String),
    /// The value of a key column, by its place in `DimensionSpec::key`.
    Column(usize),
}

/// A table or view in Postgres.
#[derive(Clone, Debug)]
pub struct PostgresDimension {
    /// The name under `connections`, and its URL.
    pub connection: String,
    pub url: String,
    /// With or without a schema.
    pub table: String,
    pub cache: CacheSpec,
}

/// What a stream takes from a dimension.
#[derive(Clone, Debug)]
pub struct EnrichSpec {
    /// What its columns begin with.
    pub alias: String,
    /// Number in `Plan::dimensions`.
    pub dimension: usize,
    /// The stream's columns that are the key.
    pub on: Vec<usize>,
    /// The dimension's columns that are taken, in the order of the stream's columns.
    pub select: Vec<usize>,
    /// Whether the version follows them as a column of its own.
    pub version: bool,
    /// How long a row waits for its dimension.
    pub retry_ms: Option<DurationMs>,
}

impl EnrichSpec {
    /// How many columns it adds.
    pub fn width(&self) -> usize {
        self.select.len() + self.version as usize
    }
}

/// The columns of a local Parquet file that have a type of the pipeline's, by name.
pub fn parquet_columns(path: &Path) -> Result<Vec<(String, ColumnType)>, String> {
    super::files::parquet_columns(path)
}
