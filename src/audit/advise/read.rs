//! Read: every input that a sample needs, from where its log begins to its present end or to a bound, handed on batch by
//! batch, so that nothing but what [`Collected`] keeps of a row stays in memory.
//!
//! Shares with a run: the sources and `decode`; a row's lateness is that of its partition's own log.

use super::AdviseOptions;
use super::collect::Collected;
use crate::audit::AuditError;
use crate::audit::reopen::reopen;
use crate::config::Plan;
use crate::decode::Decoder;
use crate::env::SystemClock;
use crate::event::{DecodedBatch, EventTime, PartitionId, Positions, RawBatch, StreamId};
use crate::pipeline::{Board, Schemas, StopSignal};
use crate::source::{InputSpec, KafkaStart, Source, SourceEvent};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const POLL_TIMEOUT: Duration = Duration::from_millis(200);
/// A partition that gives nothing for so many polls is not waited for.
const QUIET_POLLS_MAX: usize = 300;

/// Why reading a partition stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadStop {
    /// Its log has no more at present.
    End,
    MaxRecords,
    /// It has come past the time that was asked for.
    To,
}

/// What was read of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AdvisedInput {
    pub input: String,
    pub partition: u32,
    /// The first position that was read.
    pub from: i64,
    pub records: u64,
    pub bytes: u64,
    /// Event times of the accepted rows.
    pub oldest: Option<EventTime>,
    pub newest: Option<EventTime>,
    /// `null` for a partition that said nothing.
    pub stopped: Option<ReadStop>,
}

/// From when to when a stream is known without a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// `None`: it was read from its very beginning.
    pub from: Option<EventTime>,
    pub to: EventTime,
}

/// What was read, and how far each stream reaches; `None` for one without a row.
pub(super) struct ReadInputs {
    pub inputs: Vec<AdvisedInput>,
    pub extents: Vec<Option<Extent>>,
    pub dead_lettered: u64,
}

/// Reads the inputs of all samples into `into`.
pub(super) fn read_inputs(
    plan: &Plan,
    options: &AdviseOptions,
    into: &mut Collected<'_>,
) -> Result<ReadInputs, AuditError> {
    let samples = plan.samples.iter().map(|sample| &sample.join);
    let wanted: BTreeSet<StreamId> =
        samples.flat_map(|join| join.labels.iter().map(|label| label.stream).chain([join.anchor])).collect();
    let mut partitions = BTreeMap::new();
    let mut dead_lettered = 0;
    for (number, input) in plan.inputs.iter().enumerate() {
        let streams: Vec<StreamId> = input.streams.iter().copied().filter(|stream| wanted.contains(stream)).collect();
        if streams.is_empty() {
            continue;
        }
        // A broker's time of a record is hardly before the record's own.
        let start = options.from.map_or(KafkaStart::Earliest, KafkaStart::Timestamp);
        let mut source = reopen(number as u16, input, &Positions::default(), start, "conjoin-advise")?;
        let mut reading = Reading::new(plan, options, input, &streams, source.as_ref())?;
        reading.read(source.as_mut(), into)?;
        dead_lettered += reading.dead_lettered;
        partitions.extend(reading.partitions);
    }
    let extents = (0..plan.streams.len()).map(|stream| extent(stream as StreamId, options, partitions.values()));
    Ok(ReadInputs {
        extents: extents.collect(),
        inputs: partitions.into_values().map(|partition| partition.told).collect(),
        dead_lettered,
    })
}

/// One partition on its way to its end.
struct Partition {
    told: AdvisedInput,
    begun: bool,
    /// Oldest and newest accepted row of each stream.
    reach: BTreeMap<StreamId, (EventTime, EventTime)>,
    /// Newest row of each stream, rows outside of the bounds included: lateness goes by it.
    newest: BTreeMap<StreamId, EventTime>,
}

fn extent<'a>(
    stream: StreamId,
    options: &AdviseOptions,
    partitions: impl Iterator<Item = &'a Partition>,
) -> Option<Extent> {
    let mut all: Option<(EventTime, EventTime)> = None;
    let (mut whole, mut cut, mut to) = (options.from.is_none(), None, None);
    for partition in partitions {
        let Some(&(oldest, newest)) = partition.reach.get(&stream) else { continue };
        let so_far = all.unwrap_or((oldest, newest));
        all = Some((so_far.0.min(oldest), so_far.1.max(newest)));
        whole &= partition.told.from == 0;
        match partition.told.stopped {
            Some(ReadStop::MaxRecords) => cut = Some(cut.unwrap_or(newest).min(newest)),
            Some(ReadStop::To) => to = options.to,
            _ => {}
        }
    }
    let (oldest, newest) = all?;
    // A partition that was read to its end is known as far as the newest of any of them.
    let end = to.unwrap_or(newest);
    Some(Extent {
        from: (!whole).then(|| options.from.unwrap_or(oldest)),
        to: cut.map_or(end, |cut: EventTime| cut.min(end)),
    })
}

struct Reading<'a> {
    plan: &'a Plan,
    options: &'a AdviseOptions,
    input: &'a InputSpec,
    decoders: Vec<Decoder>,
    schemas: Schemas,
    partitions: BTreeMap<PartitionId, Partition>,
    dead_lettered: u64,
}

impl<'a> Reading<'a> {
    fn new(
        plan: &'a Plan,
        options: &'a AdviseOptions,
        input: &'a InputSpec,
        streams: &[StreamId],
        source: &dyn Source,
    ) -> Result<Self, AuditError> {
        let partition = |id: PartitionId| {
            let told = AdvisedInput {
                input: input.name.clone(),
                partition: id.partition,
                from: 0,
                records: 0,
                bytes: 0,
                oldest: None,
                newest: None,
                stopped: None,
            };
            (id, Partition { told, begun: false, reach: BTreeMap::new(), newest: BTreeMap::new() })
        };
        let decoder = |stream: &StreamId| Decoder::new(plan.streams[*stream as usize].decode.clone());
        let clock = Arc::new(SystemClock::new());
        Ok(Reading {
            plan,
            options,
            input,
            decoders: streams.iter().map(decoder).collect(),
            schemas: Schemas::new(plan, None, clock, Board::default(), StopSignal::default())?,
            partitions: source.partitions().into_iter().map(partition).collect(),
            dead_lettered: 0,
        })
    }

    fn read(&mut self, source: &mut dyn Source, into: &mut Collected<'_>) -> Result<(), AuditError> {
        let mut quiet = 0;
        while self.partitions.values().any(|partition| partition.told.stopped.is_none()) {
            match source.poll(POLL_TIMEOUT)? {
                SourceEvent::Batch(batch) => {
                    quiet = 0;
                    let id = batch.delta.partition;
                    self.take(batch, into)?;
                    if self.partitions.get(&id).is_some_and(|partition| partition.told.stopped.is_some()) {
                        source.pause(id);
                    }
                }
                SourceEvent::Ended(id) => {
                    if let Some(partition) = self.partitions.get_mut(&id) {
                        partition.told.stopped.get_or_insert(ReadStop::End);
                    }
                }
                _ => {
                    quiet += 1;
                    if quiet > QUIET_POLLS_MAX {
                        return Err(AuditError::Asked(format!(
                            "{} stopped giving records: try again",
                            self.input.name
                        )));
                    }
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, mut batch: RawBatch, into: &mut Collected<'_>) -> Result<(), AuditError> {
        let Some(partition) = self.partitions.get_mut(&batch.delta.partition) else { return Ok(()) };
        let told = &mut partition.told;
        if told.stopped.is_some() {
            return Ok(());
        }
        if !std::mem::replace(&mut partition.begun, true) {
            told.from = batch.delta.from;
        }
        let room = self.options.records_max.saturating_sub(told.records);
        if batch.records.len() as u64 >= room {
            batch.records.truncate(room as usize);
            told.stopped = Some(ReadStop::MaxRecords);
        }
        told.records += batch.records.len() as u64;
        told.bytes += batch
            .records
            .iter()
            .filter_map(|record| record.payload.as_ref())
            .map(|range| range.len() as u64)
            .sum::<u64>();
        let mut past = !self.decoders.is_empty();
        for decoder in &mut self.decoders {
            let Some(decoded) = self.schemas.decode(decoder, &batch)? else { return Ok(()) };
            self.dead_lettered += decoded.rejected.len() as u64;
            let lateness = self.plan.streams[decoded.stream as usize].time.lateness_ms;
            let newest = partition.newest.entry(decoded.stream).or_insert(EventTime::MIN);
            let came_at: Vec<EventTime> = decoded
                .event_time
                .iter()
                .map(|ts| {
                    *newest = (*newest).max(*ts);
                    (*ts).max(newest.saturating_sub(lateness))
                })
                .collect();
            past &= self.options.to.is_some_and(|to| newest.saturating_sub(lateness) >= to);
            let inside = inside(self.options, &decoded);
            for row in &inside {
                let ts = decoded.event_time[*row as usize];
                let reach = partition.reach.entry(decoded.stream).or_insert((ts, ts));
                *reach = (reach.0.min(ts), reach.1.max(ts));
                partition.told.oldest = Some(partition.told.oldest.unwrap_or(ts).min(ts));
                partition.told.newest = Some(partition.told.newest.unwrap_or(ts).max(ts));
            }
            into.take(&decoded, &inside, &came_at)?;
        }
        if past {
            partition.told.stopped.get_or_insert(ReadStop::To);
        }
        Ok(())
    }
}

/// The rows between the times that were asked for.
fn inside(options: &AdviseOptions, decoded: &DecodedBatch) -> Vec<u32> {
    let (from, to) = (options.from.unwrap_or(EventTime::MIN), options.to.unwrap_or(EventTime::MAX));
    let rows = decoded.event_time.iter().enumerate();
    rows.filter(|(_, ts)| (from..to).contains(*ts)).map(|(row, _)| row as u32).collect()
}
