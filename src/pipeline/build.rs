//! Build: the plan in the words of the router, the lanes and the state.

use crate::cell::{CellScope, CellSpec, GroupCell, SampleCell, Stitched, StreamUse};
use crate::commit::{Definition, GroupShape, Layout, SampleShape};
use crate::config::{KafkaOutPlan, Plan};
use crate::env::Place;
use crate::event::{EventTime, PartitionId, StreamId};
use crate::join::{AnchorKeys, JoinedGroup, LabelKeys};
use crate::pipeline::outbox::SAMPLE_ROWS;
use crate::pipeline::sides::{side_files, side_name};
use crate::route::{Placed, RoutedStream};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a claim judges the plan by.
pub fn definition(plan: &Plan) -> Definition {
    let stream = |number: StreamId| plan.streams[number as usize].name.clone();
    let samples = plan.samples.iter().map(|sample| SampleShape {
        name: sample.sample.name.clone(),
        streams: [sample.join.anchor]
            .into_iter()
            .chain(sample.join.labels.iter().map(|label| label.stream))
            .map(stream)
            .collect(),
        groups: sample.sample.groups.iter().map(|group| plan.groups[group.group].name.clone()).collect(),
        bucket_ms: sample.join.bucket_ms,
        before_ms: (0..sample.join.labels.len()).map(|label| sample.join.ahead_ms(label)).max().unwrap_or(0),
    });
    let groups = plan.groups.iter().map(|group| GroupShape {
        name: group.name.clone(),
        streams: group.uses.iter().map(|feature_use| stream(feature_use.stream)).collect(),
    });
    Definition {
        semantics: plan.semantics.clone(),
        streams: plan.streams.iter().map(|stream| stream.name.clone()).collect(),
        samples: samples.collect(),
        groups: groups.collect(),
        outlets: outlets(plan).into_iter().map(|(name, ..)| name).collect(),
    }
}

/// What goes to topics: the outlet's name, its sample, its number in that, and where.
pub fn outlets(plan: &Plan) -> Vec<(String, usize, u16, &KafkaOutPlan)> {
    let samples = plan.samples.iter().enumerate();
    let rows = samples.filter_map(|(number, sample)| {
        Some((format!("samples.{}", sample.sample.name), number, SAMPLE_ROWS, sample.kafka.as_ref()?))
    });
    let sides = plan.samples.iter().enumerate().flat_map(|(number, sample)| {
        let sent = sample.side.iter().filter_map(move |side| Some((side.kind, side.kafka.as_ref()?)));
        sent.map(move |(kind, to)| (side_name(sample, kind), number, kind.part(), to))
    });
    rows.chain(sides).collect()
}

/// What the lanes of a cell do; `layout` is that of a manifest which was claimed for the plan.
pub fn cell_spec(plan: &Plan, scope: CellScope, layout: &Layout) -> CellSpec {
    let mut uses: Vec<Vec<StreamUse>> = vec![Vec::new(); plan.streams.len()];
    let samples = plan.samples.iter().enumerate().map(|(sample, sample_plan)| {
        let join = &sample_plan.join;
        let anchor = &plan.streams[join.anchor as usize];
        uses[join.anchor as usize].push(StreamUse::Anchor { sample, route: anchor.decode.route });
        for (label, spec) in join.labels.iter().enumerate() {
            let route = plan.streams[spec.stream as usize].decode.route;
            uses[spec.stream as usize].push(StreamUse::Label { sample, label, route });
        }
        let label_streams = join.labels.iter().map(|label| {
            let decode = &plan.streams[label.stream as usize].decode;
            (decode.schema.clone(), LabelKeys { id: decode.id, key: label.key_set, route: decode.route })
        });
        let node = &layout.samples[sample];
        let groups = sample_plan.sample.groups.iter().map(|group| {
            let spec = &plan.groups[group.group];
            JoinedGroup { name: spec.name.clone(), entity: group.key_set, outputs: spec.outputs.clone() }
        });
        let stitched = sample_plan.sample.groups.iter().map(|group| Stitched {
            group: group.group,
            since: node.groups.get(&plan.groups[group.group].name).copied().unwrap_or(EventTime::MIN),
        });
        SampleCell {
            node: node.number,
            join: Arc::new(join.clone()),
            anchor_keys: AnchorKeys {
                id: anchor.decode.id,
                key: anchor.decode.key,
                route: anchor.decode.route,
                groups: groups.collect(),
            },
            anchor_schema: anchor.decode.schema.clone(),
            label_streams: label_streams.collect(),
            serving_lag_ms: sample_plan.sample.serving_lag_ms,
            groups: stitched.collect(),
            leaves_at_cut: sample_plan.parquet.is_none() && sample_plan.kafka.is_some(),
        }
    });
    let samples = samples.collect();
    for (group, spec) in plan.groups.iter().enumerate() {
        for (use_number, feature_use) in spec.uses.iter().enumerate() {
            let entity = feature_use.key_set;
            uses[feature_use.stream as usize].push(StreamUse::Feature { group, use_number, entity });
        }
    }
    let groups = plan.groups.iter().zip(&layout.groups).map(|(spec, node)| GroupCell {
        spec: Arc::new(spec.clone()),
        node: node.number,
        begun_after: node.cut,
        since: node.since,
    });
    CellSpec {
        scope,
        lanes: plan.state.lanes,
        samples,
        groups: groups.collect(),
        stream_ids: plan.streams.iter().map(|stream| stream.decode.id).collect(),
        uses,
    }
}

/// Which groups have entities that no cell owns: rows of one entity come in several partitions, or are looked up from one
/// where they do not come.
pub fn exchanged_groups(plan: &Plan) -> Vec<bool> {
    let route = |stream: StreamId| plan.streams[stream as usize].decode.route;
    let stays = |number: usize| {
        let fed = plan.groups[number].uses.iter().all(|feature| feature.key_set == route(feature.stream));
        let read = plan.samples.iter().all(|sample| {
            let groups = sample.sample.groups.iter().filter(|group| group.group == number);
            groups.clone().all(|group| group.key_set == route(sample.join.anchor))
        });
        fed && read
    };
    (0..plan.groups.len()).map(|number| !stays(number)).collect()
}

/// Rows that are joined, or that feed entities which stay in their cell, have to lie where `partition_by` says.
fn placed(plan: &Plan, cell: &CellSpec, stream: usize) -> Option<Placed> {
    let key_set = plan.streams[stream].decode.route;
    let bound = |stream_use: &StreamUse| match *stream_use {
        StreamUse::Anchor { .. } | StreamUse::Label { .. } => true,
        StreamUse::Feature { entity, .. } => entity == key_set,
    };
    let bound = !cell.scope.is_whole() && cell.uses[stream].iter().any(bound);
    bound.then_some(Placed { key_set, partitions: cell.scope.cells })
}

/// Where the files of each sample and side output go, by sink.
pub fn places(plan: &Plan) -> BTreeMap<String, Place> {
    let samples = plan.samples.iter();
    let sides = side_files(plan).into_iter();
    let sides = sides.map(|side| (side.name(), side.parquet.path.clone()));
    samples
        .filter_map(|sample| Some((format!("samples.{}", sample.sample.name), sample.parquet.as_ref()?.path.clone())))
        .chain(sides)
        .collect()
}

/// What the router must know, with the partitions that the sources found.
pub fn routed_streams(plan: &Plan, cell: &CellSpec, partitions: &[PartitionId]) -> Vec<RoutedStream> {
    let streams = plan.streams.iter().enumerate().map(|(number, stream)| {
        let routing_sets: BTreeSet<usize> = cell.uses[number]
            .iter()
            .map(|stream_use| match *stream_use {
                StreamUse::Anchor { route, .. } | StreamUse::Label { route, .. } => route,
                StreamUse::Feature { entity, .. } => entity,
            })
            .collect();
        let carries =
            |partition: &&PartitionId| plan.inputs[partition.input as usize].streams.contains(&(number as StreamId));
        RoutedStream {
            time: stream.time,
            is_anchor: plan.samples.iter().any(|sample| sample.join.anchor as usize == number),
            key_sets: stream.decode.key_sets.len(),
            routing_sets,
            partitions: partitions.iter().filter(carries).copied().collect(),
            placed: placed(plan, cell, number),
            guard: plan.guard_of(number as StreamId),
        }
    });
    streams.collect()
}
