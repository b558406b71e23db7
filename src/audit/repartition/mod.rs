//! Repartition: copies a stream's topics into one topic whose partitions follow the stream's `partition_by`.
//!
//! ```text
//!   clicks/0 ─┐                 ┌─> target/0     key = text of partition_by, joined by `:`
//!   clicks/1 ─┴─ decode ─ key ──┴─> target/1     payload, headers and time as they were
//!                  └ no stream takes it: its own key, or partition 0
//! ```
//!
//! In: a plan, one of its streams, a topic to write. Out: every record once or more, and what became of them.
//! Holds: offsets of the command's own group are committed after the brokers have the copies, so that nothing is left out;
//! records of one source partition keep their order, those of different ones are in order of time as long as any of them
//! has more to read. After a crash some are copied again, as exact duplicates.
//! Does not: change or drop a record, whatever it holds.

mod merge;

use crate::audit::AuditError;
use crate::config::{Plan, StreamPlan};
use crate::decode::Decoder;
use crate::env::SystemClock;
use crate::event::{PartitionId, Partitioner, Positions, RawBatch, RawRecord, StreamId, key_text};
use crate::pipeline::{Board, Schemas, StopSignal};
use crate::source::kafka::{GroupOffsets, KafkaOptions, Outbound, ReconnectingKafka, TopicWriter, ensure_topic};
use crate::source::{InputKind, InputSpec, KafkaConnection, KafkaStart, LogEnd, Source, SourceEvent};
use merge::{Judged, Merge};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const POLL_WAIT: Duration = Duration::from_millis(200);
/// How long the brokers may take to acknowledge what was written since the last commit.
const FLUSH_MAX: Duration = Duration::from_secs(90);
/// Copies are made sure of after so many records or bytes.
const RECORDS_PER_COMMIT: u64 = 50_000;
const BYTES_PER_COMMIT: u64 = 32 << 20;
/// A partition whose records wait for those of others is read no further beyond so many bytes, and again below so many.
const WAITING_BYTES_MAX: usize = 4 << 20;
const WAITING_BYTES_LOW: usize = 1 << 20;

#[derive(Clone, Debug)]
pub struct RepartitionOptions {
    pub stream: String,
    /// The topic to write; it is made if it is missing.
    pub to: String,
    pub partitions: u32,
    pub partitioner: Partitioner,
    /// Stop at the end that the topics have now.
    pub until_end: bool,
}

/// What became of the records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Repartitioned {
    pub to: String,
    pub partitions: u32,
    /// The consumer group that remembers the place.
    pub group: String,
    pub records: u64,
    pub bytes: u64,
    /// Records by the stream whose key they got.
    pub by_stream: BTreeMap<String, u64>,
    /// Of no stream, because one that should have taken them could not: they went by their own key, or to partition 0.
    pub undecoded: u64,
    /// Of no stream, because every one's `where` turned them away: they went by their own key, or to partition 0.
    pub filtered: u64,
    /// Records that the topics held beyond those, as last heard.
    pub left: u64,
}

/// Copies until the topics' end or a stop. `progress` is told after every batch.
pub fn repartition(
    plan: &Plan,
    options: &RepartitionOptions,
    stop: &StopSignal,
    progress: &mut dyn FnMut(&Repartitioned),
) -> Result<Repartitioned, AuditError> {
    let (stream, inputs) = inputs_of(plan, options)?;
    let connection = match inputs.first().map(|(_, input)| &input.kind) {
        Some(InputKind::Kafka(topic)) => topic.connection.clone(),
        _ => unreachable!("inputs_of() gives topics alone"),
    };
    ensure_topic(&connection, &options.to, options.partitions, &[], None)?;
    let mut copy = Copy::open(plan, options, stream, &connection, &inputs, stop)?;
    while !stop.requested() && copy.step()? {
        progress(&copy.done);
    }
    copy.make_sure()?;
    Ok(copy.done)
}

/// The stream, and the topics that it reads, from their beginning.
fn inputs_of(plan: &Plan, options: &RepartitionOptions) -> Result<(StreamId, Vec<(u16, InputSpec)>), AuditError> {
    let Some(stream) = plan.streams.iter().position(|stream| stream.name == options.stream) else {
        let names: Vec<&str> = plan.streams.iter().map(|stream| stream.name.as_str()).collect();
        return Err(AuditError::Asked(format!(
            "the pipeline file has no stream {}: choose one of {} with --stream",
            options.stream,
            names.join(", ")
        )));
    };
    let stream = stream as StreamId;
    let mut inputs = Vec::new();
    for (number, input) in plan.inputs.iter().enumerate().filter(|(_, input)| input.streams.contains(&stream)) {
        let mut input = input.clone();
        let InputKind::Kafka(topic) = &mut input.kind else {
            return Err(AuditError::Asked(format!(
                "stream {} reads {}, which is no Kafka topic: only topics have partitions",
                options.stream, input.name
            )));
        };
        if topic.topic == options.to {
            return Err(AuditError::Asked(format!(
                "stream {} reads {} itself: name another topic with --to, and let the stream read that one afterwards",
                options.stream, options.to
            )));
        }
        topic.start = KafkaStart::Earliest;
        input.headers = true;
        inputs.push((number as u16, input));
    }
    Ok((stream, inputs))
}

/// A copy under way.
struct Copy<'a> {
    options: &'a RepartitionOptions,
    streams: &'a [StreamPlan],
    inputs: &'a [(u16, InputSpec)],
    /// Per input the decoders of its streams, the one that was asked for first.
    decoders: BTreeMap<u16, Vec<Decoder>>,
    schemas: Schemas,
    source: ReconnectingKafka,
    writer: TopicWriter,
    offsets: GroupOffsets,
    merge: Merge,
    paused: BTreeSet<PartitionId>,
    running: usize,
    /// Records and bytes that the brokers may not have yet.
    unsure: (u64, u64),
    done: Repartitioned,
}

impl<'a> Copy<'a> {
    fn open(
        plan: &'a Plan,
        options: &'a RepartitionOptions,
        stream: StreamId,
        connection: &KafkaConnection,
        inputs: &'a [(u16, InputSpec)],
        stop: &StopSignal,
    ) -> Result<Self, AuditError> {
        let group = format!("conjoin-{}-repartition-{}-{}", plan.pipeline, options.stream, options.to);
        let offsets = GroupOffsets::connect(connection, &group)?;
        let mut decoders = BTreeMap::new();
        for (number, input) in inputs {
            let others = input.streams.iter().copied().filter(|other| *other != stream);
            let decoder = |id: StreamId| Decoder::new(plan.streams[id as usize].decode.clone());
            decoders.insert(*number, std::iter::once(stream).chain(others).map(decoder).collect());
        }
        let client_id = format!("conjoin-{}-repartition", plan.pipeline);
        let reading = KafkaOptions {
            until_end: options.until_end,
            client_id: client_id.clone(),
            group_id: group.clone(),
            // Only what was flushed is committed, and by `offsets`.
            monitoring: false,
            ..KafkaOptions::default()
        };
        let numbered: Vec<(u16, &InputSpec)> = inputs.iter().map(|(number, input)| (*number, input)).collect();
        // Where an earlier call came to.
        let mut positions = Positions::default();
        for (number, input) in inputs {
            for (partition, next) in offsets.committed(&input.name)? {
                positions.set(PartitionId { input: *number, partition }, next);
            }
        }
        let source = ReconnectingKafka::connect(connection, &numbered, &positions, reading)?;
        let done =
            Repartitioned { to: options.to.clone(), partitions: options.partitions, group, ..Repartitioned::default() };
        Ok(Copy {
            options,
            streams: &plan.streams,
            inputs,
            decoders,
            schemas: Schemas::new(plan, None, Arc::new(SystemClock::new()), Board::default(), stop.clone())?,
            merge: Merge::new(&source.partitions(), positions),
            paused: BTreeSet::new(),
            running: source.partitions().len(),
            source,
            writer: TopicWriter::connect(connection, &client_id)?,
            offsets,
            unsure: (0, 0),
            done,
        })
    }

    /// Takes one event of the source; false at the end.
    fn step(&mut self) -> Result<bool, AuditError> {
        match self.source.poll(POLL_WAIT)? {
            SourceEvent::Batch(batch) => {
                let at = batch.delta.partition;
                let Some(verdicts) = self.judge(&batch)? else { return Ok(false) };
                self.merge.add(Judged::new(batch, verdicts));
                if self.merge.waiting_bytes(at) > WAITING_BYTES_MAX && self.paused.insert(at) {
                    self.source.pause(at);
                }
                self.copy()?;
                self.count_left();
            }
            SourceEvent::CaughtUp(at) => {
                self.merge.set_at_end(at, true);
                self.copy()?;
            }
            SourceEvent::OutOfSight(at) => self.merge.set_at_end(at, false),
            SourceEvent::Ended(at) => {
                self.running -= 1;
                self.merge.set_at_end(at, true);
                self.copy()?;
            }
            SourceEvent::Nothing => self.make_sure()?,
            SourceEvent::Connection { ready: true, message } => tracing::info!("{message}"),
            SourceEvent::Connection { ready: false, message } => tracing::warn!("{message}"),
        }
        Ok(self.running > 0)
    }

    /// Writes what need not wait for other partitions.
    fn copy(&mut self) -> Result<(), AuditError> {
        let (options, streams, writer) = (self.options, self.streams, &mut self.writer);
        let (done, unsure) = (&mut self.done, &mut self.unsure);
        self.merge.drain(|judged, place| {
            let (batch, record, verdict) = (&judged.batch, &judged.batch.records[place], &judged.verdicts[place]);
            let key = match verdict {
                Verdict::Key { text, .. } => Some(text.as_slice()),
                Verdict::Undecoded | Verdict::Filtered => record.key.as_ref().map(|key| batch.slice(key)),
            };
            let partition = key.map_or(0, |key| options.partitioner.partition(key, options.partitions));
            let payload = record.payload.as_ref().map(|payload| batch.slice(payload));
            let headers = headers(batch, record);
            let (topic, time) = (options.to.as_str(), record.broker_time);
            writer.write_message(&Outbound {
                topic,
                partition: Some(partition as i32),
                key,
                payload,
                headers,
                time,
            })?;
            let bytes = payload.map_or(0, <[u8]>::len) as u64;
            *unsure = (unsure.0 + 1, unsure.1 + bytes);
            done.records += 1;
            done.bytes += bytes;
            match verdict {
                Verdict::Key { stream, .. } => {
                    let name = &streams[*stream as usize].name;
                    match done.by_stream.get_mut(name) {
                        Some(records) => *records += 1,
                        None => drop(done.by_stream.insert(name.clone(), 1)),
                    }
                }
                Verdict::Undecoded => done.undecoded += 1,
                Verdict::Filtered => done.filtered += 1,
            }
            Ok::<(), AuditError>(())
        })?;
        let read_on: Vec<PartitionId> =
            self.paused.iter().copied().filter(|at| self.merge.waiting_bytes(*at) < WAITING_BYTES_LOW).collect();
        for at in read_on {
            self.paused.remove(&at);
            self.source.resume(at);
        }
        match self.unsure.0 >= RECORDS_PER_COMMIT || self.unsure.1 >= BYTES_PER_COMMIT {
            true => self.make_sure(),
            false => Ok(()),
        }
    }

    /// What each record goes by: the first stream that takes a row of it decides. `None` when a stop was requested while
    /// a schema registry was away.
    fn judge(&mut self, batch: &RawBatch) -> Result<Option<Vec<Verdict>>, AuditError> {
        let mut verdicts = vec![Verdict::Filtered; batch.records.len()];
        let decoders = self.decoders.get_mut(&batch.delta.partition.input).map_or(&mut [][..], Vec::as_mut_slice);
        for decoder in decoders {
            if verdicts.iter().all(|verdict| matches!(verdict, Verdict::Key { .. })) {
                break;
            }
            let Some((decoded, origins)) = self.schemas.decode_with_origins(decoder, batch)? else { return Ok(None) };
            let spec = decoder.spec();
            let columns: Vec<_> = spec.key_sets[spec.route].iter().map(|&column| decoded.rows.column(column)).collect();
            for (row, record) in origins.into_iter().enumerate() {
                let verdict = &mut verdicts[record as usize];
                let text = key_text(&columns, row);
                match verdict {
                    Verdict::Key { stream, text: other } if *stream == spec.stream && *other != text => {
                        let names: Vec<&str> = spec.key_sets[spec.route]
                            .iter()
                            .map(|&column| spec.columns[column].name.as_str())
                            .collect();
                        return Err(AuditError::Asked(format!(
                            "{} holds rows with different {}: a record lies in one partition, so `partition_by` of stream \
                             {} must be the same for all rows that a record is exploded to",
                            place(self.inputs, batch.delta.partition, batch.records[record as usize].position),
                            names.join(", "),
                            spec.name
                        )));
                    }
                    Verdict::Key { .. } => {}
                    _ => *verdict = Verdict::Key { stream: spec.stream, text },
                }
            }
            for rejected in &decoded.rejected {
                let record = batch.records.binary_search_by_key(&rejected.position, |record| record.position);
                if let Some(verdict @ Verdict::Filtered) = record.ok().and_then(|record| verdicts.get_mut(record)) {
                    *verdict = Verdict::Undecoded;
                }
            }
        }
        Ok(Some(verdicts))
    }

    /// Waits until the brokers have every copy, and remembers the place.
    fn make_sure(&mut self) -> Result<(), AuditError> {
        if self.unsure.0 == 0 {
            return Ok(());
        }
        self.writer.flush(FLUSH_MAX)?;
        let topic = |at: PartitionId| (topic_of(self.inputs, at).to_string(), at.partition);
        self.offsets.commit(&self.merge.positions().iter().map(|(at, next)| (topic(at), next)).collect())?;
        self.unsure = (0, 0);
        Ok(())
    }

    fn count_left(&mut self) {
        let left = |(at, end): (PartitionId, LogEnd)| {
            (end.readable - self.merge.positions().next(at).unwrap_or(0)).max(0) as u64
        };
        self.done.left = self.source.log_ends().into_iter().map(left).sum();
    }
}

/// What a record goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Key { stream: StreamId, text: Vec<u8> },
    Undecoded,
    Filtered,
}

fn headers<'a>(batch: &'a RawBatch, record: &RawRecord) -> Vec<(&'a str, Option<&'a [u8]>)> {
    let header =
        |(name, value): &(_, _)| Some((std::str::from_utf8(batch.slice(name)).ok()?, Some(batch.slice(value))));
    record.headers.iter().filter_map(header).collect()
}

fn topic_of(inputs: &[(u16, InputSpec)], at: PartitionId) -> &str {
    inputs.iter().find(|(number, _)| *number == at.input).map_or("?", |(_, input)| input.name.as_str())
}

fn place(inputs: &[(u16, InputSpec)], at: PartitionId, position: i64) -> String {
    format!("{}/{} offset {position}", topic_of(inputs, at), at.partition)
}
