//! Topics: follows the compacted topics that dimensions are.
//!
//! ```text
//!   topic, from its beginning ─> Decoder ─> rows and removals ─> the dimension's table
//!        └ read to its present end before the pipeline starts, followed from then on
//! ```
//!
//! Holds: what cannot be decoded changes nothing, and is counted and told. Nothing is committed: the next start reads the
//! topic from its beginning.

use crate::config::{Plan, TopicPlan};
use crate::decode::Decoder;
use crate::dimension::{ChangedRecord, Changes, Dimension};
use crate::env::Clock;
use crate::event::{DecodedBatch, PartitionId, Positions, RawBatch, RejectKind};
use crate::pipeline::{Board, Dimensions, RunError, Schemas, StopSignal};
use crate::source::kafka::{KafkaOptions, ReconnectingKafka};
use crate::source::{InputKind, Source, SourceError, SourceEvent};
use arrow::array::RecordBatch;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a look at the topic waits.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);

/// A topic on its way into a table.
pub(super) struct Follower {
    dimension: Arc<Dimension>,
    source: ReconnectingKafka,
    rows: Decoder,
    removals: Option<Decoder>,
    schemas: Schemas,
    /// Partitions whose end was seen, and not lost sight of.
    caught_up: BTreeSet<PartitionId>,
    clock: Arc<dyn Clock>,
}

impl Follower {
    /// An error with [`retry`](SourceError::retry) means that no broker could be reached.
    pub fn connect(
        plan: &Plan,
        topic: &TopicPlan,
        dimension: Arc<Dimension>,
        clock: &Arc<dyn Clock>,
        done: &StopSignal,
    ) -> Result<Follower, RunError> {
        let InputKind::Kafka(kafka) = &topic.input.kind else {
            return Err(RunError::Unsupported(format!("`{}` is no topic", topic.input.name)));
        };
        let name = format!("conjoin-{}-dimension-{}", plan.pipeline, dimension.spec.name);
        let options =
            KafkaOptions { client_id: name.clone(), group_id: name, monitoring: false, ..KafkaOptions::default() };
        let inputs = [(0, &topic.input)];
        let source = ReconnectingKafka::connect(&kafka.connection, &inputs, &Positions::default(), options)?;
        let decoder = |stream: &crate::config::StreamPlan| Decoder::new(stream.decode.clone());
        // A plan of its own, whose streams are the ways to read the topic.
        let streams = std::iter::once(&topic.rows).chain(&topic.removals).cloned().collect();
        let own = Plan { streams, dimensions: Vec::new(), ..plan.clone() };
        let none = Some(Dimensions::of(Vec::new()));
        let schemas = Schemas::new(&own, none, clock.clone(), Board::default(), done.clone())?;
        Ok(Follower {
            dimension,
            source,
            rows: decoder(&topic.rows),
            removals: topic.removals.as_ref().map(decoder),
            schemas,
            caught_up: BTreeSet::new(),
            clock: clock.clone(),
        })
    }

    /// Reads to the end that the topic has now; false when a stop was requested before.
    pub fn catch_up(&mut self, stop: &StopSignal) -> Result<bool, RunError> {
        let partitions: BTreeSet<PartitionId> = self.source.partitions().into_iter().collect();
        while self.caught_up != partitions {
            if stop.requested() || !self.step()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Goes on until it is told to end, or the topic cannot be read any more.
    pub fn follow(mut self, done: &StopSignal) {
        while !done.requested() {
            match self.step() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    self.dimension.gauge.failures.fetch_add(1, Ordering::Relaxed);
                    let name = &self.dimension.spec.name;
                    tracing::error!("dimension {name}: {error}; rows go on being enriched from what was read before");
                    return;
                }
            }
        }
    }

    /// Takes what comes next; false when a stop was requested while a schema registry was away.
    fn step(&mut self) -> Result<bool, RunError> {
        match self.source.poll(POLL_TIMEOUT)? {
            SourceEvent::Batch(raw) => {
                self.caught_up.remove(&raw.delta.partition);
                if !self.take(&raw)? {
                    return Ok(false);
                }
            }
            SourceEvent::CaughtUp(partition) | SourceEvent::Ended(partition) => {
                self.caught_up.insert(partition);
            }
            SourceEvent::OutOfSight(partition) => {
                self.caught_up.remove(&partition);
            }
            SourceEvent::Connection { ready: false, message } => {
                tracing::warn!("dimension {}: {message}", self.dimension.spec.name);
            }
            SourceEvent::Connection { .. } | SourceEvent::Nothing => {}
        }
        if self.caught_up.len() == self.source.partitions().len() {
            self.dimension.gauge.fresh_at_ms.store(self.clock.monotonic_ms(), Ordering::Relaxed);
        }
        Ok(true)
    }

    fn take(&mut self, raw: &RawBatch) -> Result<bool, RunError> {
        let Some((decoded, origins)) = self.schemas.decode_with_origins(&mut self.rows, raw)? else { return Ok(false) };
        let mut removed: BTreeSet<u32> = BTreeSet::new();
        if let Some(removals) = &mut self.removals {
            let Some((_, origins)) = self.schemas.decode_with_origins(removals, raw)? else { return Ok(false) };
            removed.extend(origins);
        }
        self.tell(&decoded);
        let (mut records, mut row) = (Vec::with_capacity(raw.records.len()), 0);
        for (number, record) in raw.records.iter().enumerate() {
            let has_row = origins.get(row) == Some(&(number as u32));
            let own = has_row.then_some(row as u32);
            row += has_row as usize;
            let removes = record.payload.is_none() || removed.contains(&(number as u32));
            if own.is_none() && !removes {
                continue;
            }
            let Some(key) = &record.key else {
                self.wrong(&format!("offset {}: the record has no key; a compacted topic has keys", record.position));
                continue;
            };
            records.push(ChangedRecord { key: raw.slice(key), offset: record.position, row: own });
        }
        let spec = &self.dimension.spec;
        let columns = decoded.rows.columns().iter().take(spec.columns.len()).cloned().collect();
        let rows = RecordBatch::try_new(spec.schema(), columns).expect("the decoder has the dimension's columns first");
        self.dimension.apply(&Changes { partition: raw.delta.partition.partition, records, rows });
        Ok(true)
    }

    /// Says what could not be read; a record without a value is no such thing.
    fn tell(&self, decoded: &DecodedBatch) {
        let rejected = decoded.rejected.iter().filter(|rejected| rejected.kind != RejectKind::EmptyPayload);
        let count = rejected.clone().count();
        if let Some(first) = rejected.clone().next() {
            self.dimension.gauge.failures.fetch_add(count as u64 - 1, Ordering::Relaxed);
            self.wrong(&format!(
                "{count} records cannot be read, and change nothing; the first is at partition {} offset {}: {}",
                first.partition.partition, first.position, first.message
            ));
        }
    }

    fn wrong(&self, found: &str) {
        self.dimension.gauge.failures.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("dimension {}: {found}", self.dimension.spec.name);
    }
}

/// Whether a failure may pass.
pub(super) fn may_pass(error: &RunError) -> bool {
    match error {
        RunError::Source(error) => SourceError::retry(error),
        RunError::Dimension(error) => error.retry,
        _ => false,
    }
}
