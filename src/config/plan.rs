//! Plan: a pipeline file that was found right; names are numbers, durations are milliseconds, expressions are typed.

use crate::commit::StateSpec;
use crate::decode::DecodeSpec;
use crate::dimension::{DimensionSpec, EnrichSpec};
use crate::event::{Partitioner, SideKind, StreamId};
use crate::feature::GroupSpec;
use crate::join::JoinSpec;
use crate::model::ModelSpec;
use crate::online::OnlineSpec;
use crate::registry::RegistrySpec;
use crate::route::{Guard, StreamTime};
use crate::sample::SampleSpec;
use crate::sink::{ParquetSpec, RowFormat};
use crate::source::{GroupModeSpec, InputSpec, KafkaConnection};
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
    /// Where rows that correct others go, by the time of their emission; beside `parquet`.
    pub corrections: Option<ParquetSpec>,
    pub kafka: Option<KafkaOutPlan>,
    /// Where rows go that are in no sample; kinds that are not here are counted only.
    pub side: Vec<SidePlan>,
    /// Of its label streams.
    pub guard: Guard,
}

/// Where the rows of one kind go that are in no sample.
#[derive(Clone, Debug)]
pub struct SidePlan {
    pub kind: SideKind,
    pub parquet: Option<ParquetSpec>,
    pub kafka: Option<KafkaOutPlan>,
}

/// A topic that rows go to.
#[derive(Clone, Debug)]
pub struct KafkaOutPlan {
    pub connection: KafkaConnection,
    pub topic: String,
    pub format: RowFormat,
    /// Where the schema of the rows is registered; without one messages are plain Avro.
    pub registry: Option<RegistrySpec>,
}

#[derive(Clone, Debug)]
pub struct ServeSpec {
    pub listen: SocketAddr,
}

impl Plan {
    /// What happens when a label stream is cut off: all samples that join it agree. No stream of impressions has a guard.
    pub fn guard_of(&self, stream: StreamId) -> Option<Guard> {
        let is_label = |sample: &&SamplePlan| sample.join.labels.iter().any(|label| label.stream == stream);
        let is_anchor = self.samples.iter().any(|sample| sample.join.anchor == stream);
        self.samples.iter().find(is_label).filter(|_| !is_anchor).map(|sample| sample.guard)
    }
}
