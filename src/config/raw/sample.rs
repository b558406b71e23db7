//! Raw keys of `samples:`.

use super::{Duration, Entries, Names, Size, Sql};
use crate::config::defaults;
use schemars::JsonSchema;
use serde::Deserialize;

/// Training samples: one row per impression, with what followed and the features as they were.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// The stream of impressions.
    pub from: String,
    /// The age of what serving would have seen: features are read at the impression's time minus this.
    /// Default: `online.flush`.
    pub serving_lag: Option<Duration>,
    /// The label streams, by name.
    #[serde(default)]
    pub join: Entries<Join>,
    /// Feature groups to stitch on.
    #[serde(default)]
    pub features: Vec<GroupUse>,
    /// Columns computed over everything joined: impression columns and feature outputs by name, label columns as
    /// `<join>.<column>`, earlier computed columns by name.
    #[serde(default)]
    pub columns: Entries<Sql>,
    /// Which columns are written. Default: all: impression columns, `<join>_<column>`, feature outputs, computed columns.
    #[serde(default)]
    pub select: Select,
    /// When rows are emitted.
    #[serde(default)]
    pub emit: Emit,
    /// What happens when a label stream is cut off or lags.
    #[serde(default)]
    pub guard: Guard,
    /// Keeps a share of the rows, by the hash of their id, and writes `sample_weight`.
    pub negatives: Option<Negatives>,
    /// How long beyond the longest window plus lateness a closed impression's identity is remembered.
    #[schemars(extend("default" = defaults::DEDUP_HORIZON))]
    pub dedup_horizon: Option<Duration>,
    /// How long after its window a label still makes a row that corrects its impression, with `emit_kind` `correction`. The
    /// rows then carry what those of early modes do, and an impression stays in state for so long.
    #[schemars(extend("default" = "0s"))]
    pub correct_for: Option<Duration>,
    /// Where the rows go.
    #[serde(default)]
    pub write: Write,
    /// What becomes of rows that are in no sample.
    #[serde(default)]
    pub side: Side,
}

/// What becomes of rows that are in no sample, by kind. Each row is written with its stream, its place in the input, its event
/// time, its key, the reason, and its columns as JSON. See docs/OUTPUTS.md.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Side {
    /// Impressions and labels that came too late for this sample.
    #[schemars(extend("default" = "count"))]
    pub late: Option<SideOut>,
    /// Labels whose wait ended without an impression. Their columns wait with them, in memory.
    #[schemars(extend("default" = "count"))]
    pub expired_labels: Option<SideOut>,
    /// Copies, and records with a known id and other content.
    #[schemars(extend("default" = "count"))]
    pub duplicates: Option<SideOut>,
    /// All labels that ended without an impression and corrected none: those of `late` that are labels, and those of
    /// `expired_labels`.
    #[schemars(extend("default" = "count"))]
    pub unmatched: Option<SideOut>,
}

/// What becomes of one kind of rows.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SideOut {
    /// They are counted in the accounts, and nothing else.
    Count(CountOnly),
    /// They are written, too.
    Write(Write),
}

/// They are counted only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CountOnly {
    Count,
}

/// A label stream: a label matches when `-before <= label.time - impression.time <= within`, both ends included.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// The label stream; its `key` is matched with the impression's by position.
    pub stream: String,
    /// Columns of the label stream that are matched instead of its `key`. Where one is null the label is of nothing, and
    /// counts as turned away by `where`.
    pub by: Option<Names>,
    /// A join above, on whose labels these hang: their key is matched with the `id` of that label stream, and `within` and
    /// `before` are of the time of that label.
    pub on: Option<String>,
    /// How long after the impression a label may come.
    pub within: Duration,
    /// How long before its impression a label may come.
    #[schemars(extend("default" = defaults::BEFORE))]
    pub before: Option<Duration>,
    /// Which of several labels count.
    #[schemars(extend("default" = "first"))]
    pub take: Option<TakeLabels>,
    /// Columns of the label for `first`, `last` and `all`: `<join>.<column>` in expressions, `<join>_<column>` in the rows.
    /// Default: its time column.
    pub select: Option<Vec<String>>,
    /// Only labels for which it is true match. Sees the label stream's columns.
    #[serde(rename = "where")]
    pub filter: Option<Sql>,
}

/// Which of an impression's labels count.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TakeLabels {
    /// The earliest.
    First,
    /// The latest.
    Last,
    /// Whether there is one: a boolean `<join>.any`, written as `<join>`.
    Any,
    /// How many: `<join>.count`, written as `<join>_count`.
    Count,
    /// Sum of a column: `<join>.<column>`, written as `<join>_<column>`.
    Sum(String),
    /// Smallest value of a column.
    Min(String),
    /// Largest value of a column.
    Max(String),
    /// The earliest so many, from 1 to 10000, as lists, one per column of `select`; empty without a label.
    All(u32),
}

/// A group by name, or with where the impression holds the entity.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum GroupUse {
    /// The impression's columns are named like the entity.
    Name(String),
    /// They have other names.
    By(GroupBy),
}

/// A feature group and where the impression holds its entity.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupBy {
    /// A name under `features`.
    pub group: String,
    /// Columns of the impression stream, in the order of the group's `entity`.
    pub by: Names,
}

/// Which columns are written: at most one of the keys.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Select {
    /// All but these.
    pub exclude: Option<Vec<String>>,
    /// Only these, in this order.
    pub include: Option<Vec<String>>,
}

/// When rows are emitted.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Emit {
    /// The mode.
    #[schemars(extend("default" = "wait"))]
    pub mode: Option<EmitMode>,
    /// With `elapsed` and `defer`: the shortest wait for the first row.
    #[schemars(extend("default" = "0s"))]
    pub wait_from: Option<Duration>,
    /// With `elapsed` and `defer`: the longest wait for the first row, at most the longest window; each impression's wait is drawn evenly, by
    /// the hash of its id.
    pub wait_to: Option<Duration>,
}

/// When rows are emitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EmitMode {
    /// Once, when the longest window has passed.
    Wait,
    /// At once, and again on each label (FNW).
    Immediate,
    /// After a wait drawn from the id's hash, and again on each later label (ES-DFM).
    Elapsed,
    /// As `elapsed`, and again when the longest window has passed without a label (DEFER).
    Defer,
}

/// What happens when a label stream is cut off or lags.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Guard {
    /// A label stream of which there is nothing to read, and whose watermark is further behind that of the impressions, is
    /// cut off.
    #[schemars(extend("default" = defaults::MAX_LAG))]
    pub max_lag: Option<Duration>,
    /// What happens then.
    #[schemars(extend("default" = "hold"))]
    pub then: Option<GuardThen>,
}

/// What happens when a label stream is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GuardThen {
    /// Closing waits until the labels are back.
    Hold,
    /// Closing goes on, and rows that were decided without the stream have `label_stream_down` true.
    Tag,
}

/// Sampling of negatives.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Negatives {
    /// Which rows are sampled; all others are kept. Sees what `columns` sees, and the computed columns.
    #[serde(rename = "where")]
    pub filter: Sql,
    /// The share that is kept, above 0 and up to 1; those rows have `sample_weight` = 1 / keep.
    pub keep: f64,
}

/// Where rows go.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Write {
    /// Parquet files.
    pub parquet: Option<Parquet>,
    /// A Kafka topic, for those who train as samples come: each row goes there once its commit is made, with its impression's
    /// id as the key (in side outputs the record's own). See docs/OUTPUTS.md.
    pub kafka: Option<KafkaOut>,
}

/// A topic that rows are written to.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaOut {
    /// A name under `connections`.
    pub connection: String,
    /// The topic. It belongs to these rows alone, and must be there.
    pub topic: String,
    /// How a row is written.
    pub format: MessageFormat,
    /// With `avro`: a connection with `schema_registry`. The schema of the rows is registered there as `<topic>-value`, and
    /// messages are in the Confluent wire format. Without it they are plain Avro.
    pub registry: Option<String>,
}

/// How the rows of a topic are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MessageFormat {
    /// One object per row; times in milliseconds since 1970.
    Json,
    /// With a schema that is made of the row's columns.
    Avro,
}

/// Parquet files, complete once they are visible.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parquet {
    /// The folder, relative to the working folder; or a prefix of a bucket, such as `s3://bucket/prefix`.
    pub path: String,
    /// Folders such as `date=2026-01-31/hour=07`: none, `[date]` or `[date, hour]`.
    #[serde(default)]
    pub partition_by: Vec<Folder>,
    /// The time that decides the folder.
    #[schemars(extend("default" = "impression_ts"))]
    pub of: Option<FolderTime>,
    /// When a file is finished.
    #[serde(default)]
    pub roll: Roll,
    /// How pages are compressed.
    #[schemars(extend("default" = "zstd"))]
    pub compression: Option<Codec>,
    /// Level of zstd.
    #[schemars(range(min = 1, max = 22), extend("default" = defaults::ZSTD_LEVEL))]
    pub level: Option<i32>,
}

/// A part of the folder path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Folder {
    Date,
    Hour,
}

/// The time that decides the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FolderTime {
    /// The impression's event time.
    ImpressionTs,
    /// The time of emission.
    #[schemars(extend("x-later" = "folders by `emit_ts` are not supported yet"))]
    EmitTs,
}

/// When a file is finished: at this size or this age, whichever comes first.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Roll {
    /// Size in bytes.
    #[schemars(extend("default" = defaults::ROLL_SIZE))]
    pub size: Option<Size>,
    /// Age of its oldest row.
    #[schemars(extend("default" = defaults::ROLL_AGE))]
    pub age: Option<Duration>,
}

/// How Parquet pages are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    Zstd,
    Snappy,
    None,
}
