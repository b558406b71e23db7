//! Support: what the integration tests share: addresses of the services, topics to play with, a plan made by hand.

pub mod binary;
pub mod cluster;
pub mod gate;
pub mod kafka;
pub mod oracle;
pub mod registry;
pub mod s3;
pub mod sent;
pub mod world;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use conjoin::commit::StateSpec;
use conjoin::config::Plan;
use conjoin::event::{ColumnType, EventTime, FeatureBatch, Partitioner};
use conjoin::feature::{AggregateKind, AggregateSpec, GroupSpec, WindowSpec};
use conjoin::model::{ModelInput, ModelInputFrom, ModelSpec};
use conjoin::online::{OnlineSpec, OnlineStore, StoreGroup, StoreKind, Version, Write};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

pub const USER: u16 = 0;
pub const ITEM: u16 = 1;

pub fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run through make test"))
}

fn group(name: &str, entity: &str, counts: &[&str], derived: &[&str]) -> GroupSpec {
    let mut fields: Vec<Field> = counts.iter().map(|name| Field::new(*name, DataType::Int64, false)).collect();
    fields.extend(derived.iter().map(|name| Field::new(*name, DataType::Float64, true)));
    let window = WindowSpec { output: counts[0].to_owned(), window_ms: 3_600_000, tail_ms: 60_000 };
    GroupSpec {
        name: name.to_owned(),
        entity: vec![(entity.to_owned(), ColumnType::String)],
        head_ms: 1000,
        aggregates: vec![AggregateSpec {
            name: counts[0].to_owned(),
            kind: AggregateKind::Count,
            input: None,
            windows: vec![window],
        }],
        uses: Vec::new(),
        derived: Vec::new(),
        outputs: Arc::new(Schema::new(fields)),
    }
}

/// The groups of the demo: what a user did, what happened to an item.
pub fn groups() -> Vec<GroupSpec> {
    vec![
        group("user", "user_id", &["user_clicks_1h", "user_impressions_1h"], &[]),
        group("item", "item_id", &["item_clicks_1h", "item_impressions_1h"], &["item_ctr_1h"]),
    ]
}

pub fn store_groups() -> Vec<StoreGroup> {
    groups().iter().map(StoreGroup::new).collect()
}

/// The demo's model, in a versioned folder.
pub fn model(path: &Path) -> ModelSpec {
    let groups = groups();
    let input = |name: &str| {
        let feature = groups.iter().enumerate().find_map(|(group, spec)| {
            let output = spec.outputs.index_of(name).ok()?;
            Some(ModelInputFrom::Feature { group, output })
        });
        ModelInput { name: name.to_owned(), from: feature.unwrap_or(ModelInputFrom::Context), default: None }
    };
    let names = [
        "position",
        "price",
        "user_clicks_1h",
        "user_impressions_1h",
        "item_ctr_1h",
        "item_clicks_1h",
        "item_impressions_1h",
    ];
    ModelSpec {
        name: "ctr".to_owned(),
        path: path.to_owned(),
        inputs: names.map(input).to_vec(),
        output: Some("p".to_owned()),
    }
}

pub fn test_model() -> ModelSpec {
    model(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models/ctr"))
}

pub fn plan() -> Plan {
    Plan {
        pipeline: "ctr".to_owned(),
        inputs: Vec::new(),
        dimensions: Vec::new(),
        streams: Vec::new(),
        groups: groups(),
        samples: Vec::new(),
        models: vec![test_model()],
        online: OnlineSpec { store: StoreKind::Memory, flush_ms: 200, pipeline_commands_max: 500 },
        state: StateSpec {
            root: "state".into(),
            path: "state".into(),
            commit_every_ms: 10_000,
            keep_orphans_ms: 86_400_000,
            memory_bytes: 1 << 30,
            lanes: 1,
        },
        serve: None,
        partitioner: Partitioner::Murmur2,
        group_mode: None,
        semantics: BTreeMap::new(),
    }
}

fn counts(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(values.collect::<Int64Array>())
}

pub fn schema(group: u16) -> SchemaRef {
    groups()[group as usize].outputs.clone()
}

/// Rows of (user, clicks, impressions).
pub fn users(as_of: EventTime, rows: &[(&str, i64, i64)]) -> FeatureBatch {
    let columns = vec![counts(rows.iter().map(|row| row.1)), counts(rows.iter().map(|row| row.2))];
    FeatureBatch {
        group: USER,
        entities: rows.iter().map(|row| row.0.to_owned()).collect(),
        values: RecordBatch::try_new(schema(USER), columns).expect("the columns fit the schema"),
        as_of,
    }
}

/// Rows of (item, clicks, impressions, rate).
pub fn items(as_of: EventTime, rows: &[(String, i64, i64, Option<f64>)]) -> FeatureBatch {
    let rate: ArrayRef = Arc::new(rows.iter().map(|row| row.3).collect::<Float64Array>());
    let columns = vec![counts(rows.iter().map(|row| row.1)), counts(rows.iter().map(|row| row.2)), rate];
    FeatureBatch {
        group: ITEM,
        entities: rows.iter().map(|row| row.0.clone()).collect(),
        values: RecordBatch::try_new(schema(ITEM), columns).expect("the columns fit the schema"),
        as_of,
    }
}

pub fn write_all(store: &dyn OnlineStore, batch: &FeatureBatch, step: u32) {
    let rows: Vec<u32> = (0..batch.entities.len() as u32).collect();
    let write = Write { batch, rows: &rows, version: Version::new(1, 1, 1, step) };
    store.write(&[write]).expect("the store takes the batch");
}
