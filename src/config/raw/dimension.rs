//! Raw keys of `dimensions:` and `enrich:`.

use super::{Column, Duration, Entries, Later, Names};
use crate::config::defaults;
use schemars::JsonSchema;
use serde::Deserialize;

/// A table that rows are enriched from. Exactly one of `parquet` and `csv` says where it lies.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dimension {
    /// A Parquet file, or all of a folder; held in memory and read again when they change.
    pub parquet: Option<DimensionParquet>,
    /// The same of CSV files: a line of names, then a line per row. An empty field is null.
    pub csv: Option<DimensionCsv>,
    /// Hashes in Redis, one per key; asked for the keys of each batch, and cached.
    #[schemars(extend("x-later" = "dimensions in Redis are not supported yet"))]
    pub redis: Option<Later>,
    /// A table or view in Postgres; asked for the keys of each batch, and cached.
    #[schemars(extend("x-later" = "dimensions in Postgres are not supported yet"))]
    pub postgres: Option<Later>,
    /// A compacted topic; read from its beginning at every start, held in memory and followed.
    #[schemars(extend("x-later" = "dimensions in Kafka topics are not supported yet"))]
    pub kafka: Option<Later>,
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
    #[schemars(extend("x-later" = "`retry` is not supported yet"))]
    pub retry: Option<Later>,
}
