//! Plan: a pipeline file that was found right; names are numbers, durations are milliseconds, expressions are typed.

use crate::commit::StateSpec;
use crate::decode::DecodeSpec;
use crate::dimension::{DimensionSpec, EnrichSpec};
use crate::event::{DurationMs, Partitioner};
use crate::feature::GroupSpec;
use crate::join::JoinSpec;
use crate::model::ModelSpec;
use crate::online::OnlineSpec;
use crate::registry::RegistrySpec;
use crate::route::StreamTime;
use crate::sample::SampleSpec;
use crate::sink::ParquetSpec;
use crate::source::{GroupModeSpec, InputSpec};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub struct Plan {
    pub pipeline: String,
    pub inputs: Vec<InputSpec>,
    pub streams: Vec<StreamPlan>,
    pub dimensions: Vec<DimensionPlan>,
    pub groups: Vec<GroupSpec>,
    pub samples: Vec<SamplePlan>,
    pub models: Vec<ModelSpec>,
    pub online: OnlineSpec,
    pub state: StateSpec,
    pub serve: Option<ServeSpec>,
    pub partitioner: Partitioner,
    /// Several processes run the pipeline together.
    pub group_mode: Option<GroupModeSpec>,
    /// Per node (`streams.clicks`, `features.user`, `samples.ctr`, …) a hash of everything that gives its state meaning.
    pub semantics: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
pub struct StreamPlan {
    pub name: String,
    pub decode: DecodeSpec,
    /// Where the schemas are that records name.
    pub registry: Option<RegistrySpec>,
    pub time: StreamTime,
    /// What its rows get from dimensions, in the order of its columns.
    pub enrich: Vec<EnrichSpec>,
}

#[derive(Clone, Debug)]
pub struct DimensionPlan {
    pub spec: Arc<DimensionSpec>,
    /// How the compacted topic is read that it is.
    pub topic: Option<TopicPlan>,
}

/// A topic whose records are rows of a dimension.
#[derive(Clone, Debug)]
pub struct TopicPlan {
    pub input: InputSpec,
    /// How rows are read: the dimension's columns come first.
    pub rows: StreamPlan,
    /// What reads from change events that a row is gone; a record without a value says so by itself.
    pub removals: Option<StreamPlan>,
}

#[derive(Clone, Debug)]
pub struct SamplePlan {
    pub join: JoinSpec,
    pub sample: SampleSpec,
    pub parquet: Option<ParquetSpec>,
    /// A label stream that lags by more is reported as cut off; closing waits for it in any case.
    pub guard_max_lag_ms: DurationMs,
}

#[derive(Clone, Debug)]
pub struct ServeSpec {
    pub listen: SocketAddr,
}
