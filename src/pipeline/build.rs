//! Build: the plan in the words of the router and the lanes.

use crate::cell::{CellSpec, SampleCell, StreamUse};
use crate::config::Plan;
use crate::event::{PartitionId, StreamId};
use crate::join::{AnchorKeys, LabelKeys};
use crate::route::RoutedStream;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What the lanes of the pipeline's one cell do.
pub fn cell_spec(plan: &Plan) -> CellSpec {
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
            (decode.schema.clone(), LabelKeys { id: decode.id, key: decode.key, route: decode.route })
        });
        SampleCell {
            join: Arc::new(join.clone()),
            anchor_keys: AnchorKeys {
                id: anchor.decode.id,
                key: anchor.decode.key,
                route: anchor.decode.route,
                entities: sample_plan.sample.groups.iter().map(|group| group.key_set).collect(),
            },
            anchor_schema: anchor.decode.schema.clone(),
            label_streams: label_streams.collect(),
            serving_lag_ms: sample_plan.sample.serving_lag_ms,
            groups: sample_plan.sample.groups.iter().map(|group| group.group).collect(),
        }
    });
    let samples = samples.collect();
    for (group, spec) in plan.groups.iter().enumerate() {
        for (use_number, feature_use) in spec.uses.iter().enumerate() {
            let entity = feature_use.key_set;
            uses[feature_use.stream as usize].push(StreamUse::Feature { group, use_number, entity });
        }
    }
    CellSpec {
        lanes: plan.state.lanes,
        samples,
        groups: plan.groups.iter().cloned().map(Arc::new).collect(),
        stream_ids: plan.streams.iter().map(|stream| stream.decode.id).collect(),
        uses,
    }
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
        }
    });
    streams.collect()
}
