//! Evaluate: reads the features of pending impressions as soon as they are complete, and keeps them as columns.

use crate::event::{DurationMs, EventTime, Fingerprint, Watermark, memory_of};
use crate::join::block::Features;
use crate::join::bucket::Part;
use crate::join::state::JoinState;
use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::SchemaRef;

impl JoinState {
    /// Calls `evaluate(group, entities, instants)` for every part whose newest instant the frontier has reached.
    pub fn evaluate_ready(
        &mut self,
        frontier: Watermark,
        serving_lag_ms: DurationMs,
        mut evaluate: impl FnMut(usize, &[Fingerprint], &[EventTime]) -> RecordBatch,
    ) {
        let groups = &self.keys.groups;
        for bucket in self.buckets.values_mut() {
            for index in 0..bucket.parts.len() {
                let part = &bucket.parts[index];
                if part.features.is_some() || frontier.0 < part.newest.saturating_sub(serving_lag_ms) {
                    continue;
                }
                let instants: Vec<EventTime> =
                    bucket.event_time[part.range()].iter().map(|ts| ts - serving_lag_ms).collect();
                let features = part.entities.iter().enumerate().map(|(group, entities)| match entities.is_empty() {
                    true => nulls(&groups[group].outputs, instants.len()),
                    false => evaluate(group, entities, &instants),
                });
                let features: Vec<RecordBatch> = features.collect();
                let part: &mut Part = &mut bucket.parts[index];
                part.features_bytes = features.iter().map(memory_of).sum();
                part.features = Some(Features::Memory(features));
                self.fresh_bytes += part.features_bytes;
                // From here on the values stand for the entities, on disk too.
                part.entities.iter_mut().for_each(|entities| *entities = Vec::new());
            }
        }
    }

    /// The oldest instant at which features are still to be read.
    pub fn oldest_unevaluated(&self, serving_lag_ms: DurationMs) -> Option<EventTime> {
        let parts = self.buckets.values().flat_map(|bucket| &bucket.parts);
        parts.filter(|part| part.features.is_none()).map(|part| part.oldest - serving_lag_ms).min()
    }
}

/// The features of rows that cannot have any.
pub(super) fn nulls(outputs: &SchemaRef, rows: usize) -> RecordBatch {
    let columns = outputs.fields().iter().map(|field| new_null_array(field.data_type(), rows));
    RecordBatch::try_new(outputs.clone(), columns.collect::<Vec<ArrayRef>>()).expect("features may be null")
}
