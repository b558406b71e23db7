//! Online: writes features to the online store, newest wins, and reads them back for serving.
//!
//!   lanes ── FeatureBatch, Version ──> writer (bounded queue, backlog) ──> store <── one read per request ── serve
//!
//! In: the values of changed entities, each with the version of the write. Out: per entity its newest row.
//! Holds: a write is absolute and idempotent, and an older version never replaces a newer one (F11, F12), whatever the
//! order in which writers and retries arrive; a missing entity, a null value and an outdated row are different answers.
//! Does not: decide what changed, read a clock, lose a row because the store is away.

mod spec;
mod version;
mod text;
mod error;
mod memory;
mod resp;
mod canary;
mod redis;
mod backlog;
mod writer;

pub use error::*;
pub use memory::MemoryStore;
pub use redis::{RedisLimits, RedisStore};
pub use spec::*;
pub use version::*;
pub use writer::*;

use crate::event::{DurationMs, EventTime, FeatureBatch, Value};
use crate::feature::GroupSpec;
use arrow::datatypes::{DataType, SchemaRef};
use std::sync::Arc;

/// Where serving finds the newest row of every entity. Calls block; they come from the writer's thread and from the
/// server's blocking threads.
pub trait OnlineStore: Send + Sync {
    /// Stores every row that is newer than what the store has. May be repeated with the same arguments at will.
    fn write(&self, writes: &[Write<'_>]) -> Result<WriteSummary, StoreError>;

    /// Reads entities of any number of groups in one round trip: per request and entity its row, `None` if the store
    /// has none.
    fn read(&self, requests: &[ReadRequest<'_>]) -> Result<Vec<Vec<Option<StoredRow>>>, StoreError>;

    fn ping(&self) -> Result<(), StoreError>;

    /// From here on, writes and pings also look whether the store still has what it acknowledged. `instance` tells the
    /// processes apart that do so.
    fn watch(&self, _instance: u64) {}

    /// How often it was found, since [`watch`](OnlineStore::watch), that the store has lost what it acknowledged.
    fn losses(&self) -> u64 {
        0
    }
}

/// Some rows of a batch, all of one version. Two writes of one entity under one version must be the same write.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    pub batch: &'a FeatureBatch,
    pub rows: &'a [u32],
    pub version: Version,
}

#[derive(Clone, Copy, Debug)]
pub struct ReadRequest<'a> {
    /// Number of the group in `Plan::groups`.
    pub group: u16,
    /// Spelt as by [`entity_key`](crate::event::entity_key).
    pub entities: &'a [String],
    /// Columns of the group's outputs, as they are wanted in [`StoredRow::values`].
    pub outputs: &'a [usize],
}

#[derive(Clone, Debug, PartialEq)]
pub struct StoredRow {
    pub values: Vec<Value>,
    /// The instant at which the values were read from the pipeline's state.
    pub as_of: EventTime,
    pub version: Version,
}

/// What became of the rows of a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteSummary {
    pub written: u64,
    /// The store had newer ones.
    pub stale: u64,
    /// The store will never take them, such as when a key holds something else; `refusal` says the first reason.
    pub refused: u64,
    pub refusal: Option<String>,
}

/// What a store has to know about a feature group.
#[derive(Clone, Debug)]
pub struct StoreGroup {
    pub name: String,
    pub outputs: SchemaRef,
    /// How long a row is kept after its last write.
    pub ttl_ms: DurationMs,
}

/// Past this, the arguments of one write would not fit on the stack of the store's script.
const OUTPUTS_MAX: usize = 1000;

impl StoreGroup {
    pub fn new(spec: &GroupSpec) -> Self {
        StoreGroup { name: spec.name.clone(), outputs: spec.outputs.clone(), ttl_ms: ttl_ms(spec) }
    }

    fn check(&self) -> Result<(), StoreError> {
        let refuse = |problem: String| Err(StoreError::new(StoreErrorKind::Unsupported, &self.name, problem));
        if self.outputs.fields().len() > OUTPUTS_MAX {
            return refuse(format!(
                "the group has {} outputs and one online row holds {OUTPUTS_MAX}; split the group",
                self.outputs.fields().len()
            ));
        }
        for field in self.outputs.fields() {
            if !text::storable(field.data_type()) {
                return refuse(format!(
                    "output `{}` is of type {}, which the online store cannot hold; cast it in its expression",
                    field.name(),
                    field.data_type()
                ));
            }
            if field.name().starts_with('_') {
                return refuse(format!(
                    "output `{}` begins with `_`, which is kept for the store's own fields; rename it",
                    field.name()
                ));
            }
        }
        Ok(())
    }

    fn data_type(&self, output: usize) -> &DataType {
        self.outputs.field(output).data_type()
    }
}

/// How long a row of a group is kept after its last write: twice the longest window and an hour. A quiet entity's
/// windows have slid empty long before.
pub fn ttl_ms(spec: &GroupSpec) -> DurationMs {
    spec.longest_window_ms().saturating_mul(2).saturating_add(3_600_000)
}

/// Opens the store of a pipeline. Connects to nothing yet: the first write, read or ping does.
pub fn open(spec: &OnlineSpec, pipeline: &str, groups: &[GroupSpec]) -> Result<Arc<dyn OnlineStore>, StoreError> {
    let groups = groups.iter().map(StoreGroup::new).collect();
    Ok(match &spec.store {
        StoreKind::Memory => Arc::new(MemoryStore::new(groups)?),
        StoreKind::Redis { connection, url } => {
            let limits = RedisLimits { pipeline_commands_max: spec.pipeline_commands_max, ..RedisLimits::default() };
            Arc::new(RedisStore::open(connection, url, pipeline, groups, limits)?)
        }
    })
}

#[cfg(test)]
pub(crate) mod for_test {
    use super::*;
    use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch};
    use arrow::datatypes::{Field, Schema};

    /// A group with the outputs `clicks` (int64) and `ctr` (float64, nullable).
    pub fn group() -> StoreGroup {
        let outputs =
            Schema::new(vec![Field::new("clicks", DataType::Int64, false), Field::new("ctr", DataType::Float64, true)]);
        StoreGroup { name: "item".into(), outputs: Arc::new(outputs), ttl_ms: 10_000 }
    }

    /// Rows of (entity, clicks, ctr).
    pub fn batch(as_of: EventTime, rows: &[(&str, i64, Option<f64>)]) -> FeatureBatch {
        let clicks: ArrayRef = Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>());
        let ctr: ArrayRef = Arc::new(rows.iter().map(|row| row.2).collect::<Float64Array>());
        FeatureBatch {
            group: 0,
            entities: rows.iter().map(|row| row.0.to_owned()).collect(),
            values: RecordBatch::try_new(group().outputs, vec![clicks, ctr]).expect("the columns fit the schema"),
            as_of,
        }
    }

    pub fn read_one(store: &dyn OnlineStore, entity: &str) -> Option<StoredRow> {
        let entities = [entity.to_owned()];
        let request = ReadRequest { group: 0, entities: &entities, outputs: &[0, 1] };
        store.read(&[request]).expect("the store answers").remove(0).remove(0)
    }
}
