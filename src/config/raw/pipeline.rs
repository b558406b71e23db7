//! Raw keys of the whole file, of features, models, and where things go.

use super::{Connection, Dimension, Duration, Entries, Later, Names, Sample, Size, Sql, Stream, Test};
use crate::config::defaults;
use schemars::JsonSchema;
use serde::Deserialize;

/// A Conjoin pipeline.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Conjoin pipeline")]
pub struct Pipeline {
    /// Version of the file format: 1.
    #[schemars(required, range(min = 1, max = 1))]
    pub version: Option<i64>,
    /// Name of the pipeline: part of keys in Redis and of metrics.
    #[schemars(required)]
    pub pipeline: Option<String>,
    /// Time zone of date and hour folders; only UTC is supported.
    #[schemars(extend("default" = "UTC"))]
    pub timezone: Option<String>,
    /// Kafka clusters, Redis servers and buckets, by name.
    #[serde(default)]
    pub connections: Entries<Connection>,
    /// The streams of events, by name.
    #[schemars(required)]
    pub streams: Option<Entries<Stream>>,
    /// Tables that rows are enriched from, by name.
    #[serde(default)]
    pub dimensions: Entries<Dimension>,
    /// Feature groups: aggregates of one entity, by name.
    #[serde(default)]
    pub features: Entries<Group>,
    /// Training samples: impressions joined with what followed, by name.
    #[serde(default)]
    pub samples: Entries<Sample>,
    /// Models that score, by name.
    #[serde(default)]
    pub models: Entries<Model>,
    /// Where features are kept for look-ups.
    pub online: Option<Online>,
    /// Where state lies, and how often it is committed.
    #[schemars(required)]
    pub state: Option<State>,
    /// The HTTP server; without it none is started.
    pub serve: Option<Serve>,
    /// How producers of the topics make a partition of a record's key: the text of the `partition_by` columns, joined by
    /// `:`. State is dealt out by it too.
    #[schemars(extend("default" = "murmur2"))]
    pub partitioner: Option<Partitioner>,
    /// Several processes run this pipeline together: each partition number of its topics is a cell of its own.
    pub group_mode: Option<GroupMode>,
    /// Tests of this pipeline; more may stand in `NAME.test.yaml` beside `NAME.yaml`. `conjoin test` runs them, `run` passes
    /// over them.
    #[serde(default)]
    pub tests: Vec<Test>,
}

/// How a key becomes a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Partitioner {
    /// Kafka's Java client, and the `murmur2` partitioner of librdkafka.
    Murmur2,
    /// librdkafka's own default for records with a key.
    Crc32,
}

/// Several processes run this pipeline together. All inputs are topics of one Kafka connection with the same number of
/// partitions; state and samples lie where every process reaches them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupMode {
    /// Name of this process, each its own, the same after a restart: its partitions wait for it until the session ends.
    pub instance: String,
    /// The consumer group that hands out partitions. Default: `conjoin-` and the pipeline's name.
    pub group: Option<String>,
    /// How long a process may be silent before its partitions go to others.
    #[schemars(extend("default" = defaults::SESSION_TIMEOUT))]
    pub session_timeout: Option<Duration>,
    /// Replicas of the internal topic. Default: the brokers' own.
    #[schemars(range(min = 1, max = 32))]
    pub replication: Option<u32>,
}

/// A feature group: aggregates of one entity over event-time windows.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// The columns that are the entity, by the names that samples and look-ups use.
    pub entity: Names,
    /// The aggregates, by name. Each window is one output, such as `user_clicks_10m`.
    pub aggregates: Entries<Aggregate>,
    /// Columns computed from the outputs and from earlier derived columns.
    #[serde(default)]
    pub derived: Entries<Sql>,
    /// Freshness: the newest end of every window moves in steps of it.
    #[schemars(extend("default" = defaults::HEAD))]
    pub head: Option<Duration>,
    /// The oldest end of every window moves in steps of it. Default: the smallest divisor of the window that is a
    /// multiple of `head` and at least a sixtieth of the window.
    pub tail: Option<Duration>,
}

/// One aggregate: a stream, one of the functions, windows.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Aggregate {
    /// The stream that feeds it.
    pub from: String,
    /// Where that stream holds the entity. Default: columns named like the entity.
    pub by: Option<Names>,
    /// Number of rows (`"*"`), or of rows where the expression is not null. Nothing: 0.
    pub count: Option<Sql>,
    /// Sum of a number. Nothing: 0.
    pub sum: Option<Sql>,
    /// Mean of a number, float64. Nothing: null.
    pub mean: Option<Sql>,
    /// Smallest number or time. Nothing: null.
    pub min: Option<Sql>,
    /// Largest number or time. Nothing: null.
    pub max: Option<Sql>,
    /// Value of the newest event. Nothing: null.
    pub last: Option<Sql>,
    /// The newest `k` values, newest first. Nothing: an empty list.
    pub last_k: Option<Sql>,
    /// How many values `last_k` keeps.
    #[schemars(range(min = 1, max = 1000))]
    pub k: Option<u32>,
    /// Only rows for which it is true count. Sees the stream's columns.
    #[serde(rename = "where")]
    pub filter: Option<Sql>,
    /// Lengths of the windows.
    pub windows: Option<Vec<Duration>>,
    /// As the group's `tail`, for this aggregate.
    pub tail: Option<Duration>,
    /// How long an aggregate without windows is kept.
    #[schemars(extend("x-later" = "aggregates without windows are not supported yet: give `windows`"))]
    pub retain: Option<Later>,
    /// Value of the oldest event.
    #[schemars(extend("x-later" = "the aggregate `first` is not supported yet"))]
    pub first: Option<Later>,
    /// Variance.
    #[schemars(extend("x-later" = "the aggregate `variance` is not supported yet"))]
    pub variance: Option<Later>,
    /// Standard deviation.
    #[schemars(extend("x-later" = "the aggregate `stddev` is not supported yet"))]
    pub stddev: Option<Later>,
    /// Number of distinct values, approximately.
    #[schemars(extend("x-later" = "the aggregate `approx_distinct` is not supported yet"))]
    pub approx_distinct: Option<Later>,
    /// Number of distinct values.
    #[schemars(extend("x-later" = "the aggregate `count_distinct` is not supported yet"))]
    pub count_distinct: Option<Later>,
    /// Percentiles, approximately.
    #[schemars(extend("x-later" = "the aggregate `approx_percentile` is not supported yet"))]
    pub approx_percentile: Option<Later>,
    /// Most frequent values.
    #[schemars(extend("x-later" = "the aggregate `top_k` is not supported yet"))]
    pub top_k: Option<Later>,
    /// Values with their counts.
    #[schemars(extend("x-later" = "the aggregate `histogram` is not supported yet"))]
    pub histogram: Option<Later>,
}

/// A model and what it is fed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// A folder with one numbered folder per version: `<path>/<version>/model.onnx`.
    pub path: String,
    /// The inputs in order: feature outputs of any group, or columns that a request gives in its `context`.
    pub features: Vec<ModelInput>,
    /// Names that requests give in `context` and that are no column of an impression stream.
    #[serde(default)]
    pub context: Vec<String>,
    /// The model's output that is the score. Default: its only one.
    pub output: Option<String>,
}

/// An input by name, or with what stands in for a missing value.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ModelInput {
    /// A missing value is NaN.
    Name(String),
    /// With a default.
    WithDefault(NamedInput),
}

/// A model input with what stands in for a missing value.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedInput {
    /// The feature output or context column.
    pub name: String,
    /// Stands in for a value that is missing or null.
    pub default: Option<f64>,
}

/// The online store.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Online {
    /// `memory`, or the name of a Redis connection.
    #[schemars(extend("default" = "memory"))]
    pub store: Option<String>,
    /// Changes of an entity are gathered for so long before they are written.
    #[schemars(extend("default" = defaults::FLUSH))]
    pub flush: Option<Duration>,
    /// Commands per pipelined request to the store.
    #[schemars(range(min = 1, max = 10_000), extend("default" = defaults::PIPELINE_COMMANDS_MAX))]
    pub pipeline_commands_max: Option<u32>,
    /// How keys and values are laid out in the store.
    #[schemars(extend("default" = "plain"))]
    pub layout: Option<Layout>,
}

/// How the online store is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Readable hashes: `{pipeline}:{group}:{entity}`.
    Plain,
    /// As Feast's Redis online store.
    #[schemars(extend("x-later" = "the layout `feast` is not supported yet"))]
    Feast,
}

/// Where state lies, and how often it is committed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// A folder, relative to the working folder; or a prefix of a bucket, such as `s3://bucket/prefix`.
    pub path: String,
    /// Time between commits. The first one of a run comes sooner.
    #[schemars(extend("default" = defaults::COMMIT_EVERY))]
    pub commit_every: Option<Duration>,
    /// What the state of all lanes and cells of a process may take. Past it the columns of pending impressions leave memory
    /// once they are committed, and are read back when they close; commits may come sooner than `commit_every`. Keys, labels
    /// and feature tiles stay in memory.
    #[schemars(extend("default" = defaults::MEMORY))]
    pub memory: Option<Size>,
    /// How long objects stay that a process left behind without committing them; at least the time of ten commits.
    #[schemars(extend("default" = defaults::KEEP_ORPHANS))]
    pub keep_orphans: Option<Duration>,
    /// Threads that join. Default: the number of cores; in group mode 1 for each cell.
    #[schemars(range(min = 1, max = 128))]
    pub lanes: Option<u32>,
}

/// The HTTP server.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Serve {
    /// Address and port to listen on.
    #[schemars(extend("default" = defaults::LISTEN))]
    pub listen: Option<String>,
}
