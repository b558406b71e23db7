//! Input: reads the range [start, committed) of every partition again and decodes it, with the verdict that a partition's
//! own log gives on each row's lateness.
//!
//! In: a plan and a manifest. Out: every accepted row of every stream, in log order per partition.
//! Holds: not a record at or beyond the committed position is in it; what reading takes from the log changes nothing there.
//! Shares with a run: the sources and `decode`.

use crate::audit::AuditError;
use crate::audit::reopen::reopen;
use crate::commit::{InputEntry, Manifest};
use crate::config::Plan;
use crate::decode::Decoder;
use crate::env::SystemClock;
use crate::event::{DecodedBatch, EventTime, Fingerprint, PartitionId, Positions, RawBatch, StreamAccount};
use crate::pipeline::{Board, Schemas, StopSignal};
use crate::source::file::{FileLimits, FileSource};
use crate::source::{InputKind, InputSpec, KafkaStart, Source, SourceEvent};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const POLL_TIMEOUT: Duration = Duration::from_millis(200);
/// A partition that gives nothing for so many polls will not give what the manifest says it held.
const QUIET_POLLS_MAX: usize = 300;

/// One accepted row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub batch: u32,
    pub row: u32,
    pub ts: EventTime,
    pub content: u64,
    /// The larger of its time and its partition's watermark when it came: above its time means late.
    pub came_at: EventTime,
}

impl Row {
    pub fn is_late(&self) -> bool {
        self.came_at > self.ts
    }
}

/// Everything that was read of one stream.
#[derive(Default)]
pub(super) struct StreamRows {
    pub batches: Vec<DecodedBatch>,
    pub rows: Vec<Row>,
    pub account: StreamAccount,
}

impl StreamRows {
    pub fn key(&self, set: usize, row: &Row) -> Fingerprint {
        self.batches[row.batch as usize].keys[set][row.row as usize]
    }
}

/// A range that was read again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReadRange {
    pub input: String,
    pub partition: u32,
    pub from: i64,
    /// The committed position: the first record that is left out.
    pub to: i64,
    pub records: u64,
}

pub(super) struct Log {
    /// By number of the stream in the plan.
    pub streams: Vec<StreamRows>,
    pub ranges: Vec<ReadRange>,
}

/// One partition on its way to the committed position.
struct Reach {
    range: ReadRange,
    done: bool,
}

/// Reads everything that the manifest says was read. With `what_is_left`, from where the logs begin by now.
pub(super) fn read_log(plan: &Plan, head: &Manifest, what_is_left: bool) -> Result<Log, AuditError> {
    let mut log = Log { streams: plan.streams.iter().map(|_| StreamRows::default()).collect(), ranges: Vec::new() };
    for (number, input) in plan.inputs.iter().enumerate() {
        let Some(entry) = head.inputs.iter().find(|entry| entry.name == input.name) else { continue };
        if entry.next.is_empty() {
            continue;
        }
        let mut reading = Reading::new(plan, number as u16, input, entry)?;
        let mut source = open(number as u16, input, entry, what_is_left)?;
        reading.read(source.as_mut(), &mut log.streams)?;
        log.ranges.extend(reading.reach.into_values().map(|reach| reach.range));
    }
    Ok(log)
}

fn open(number: u16, input: &InputSpec, entry: &InputEntry, what_is_left: bool) -> Result<Box<dyn Source>, AuditError> {
    let mut positions = Positions::default();
    match &input.kind {
        InputKind::File { .. } => {
            let source = FileSource::open(&[(number, input)], &positions, FileLimits::default())?;
            let now = source.files(number).iter().map(|path| path.display().to_string());
            if let Some((old, new)) = entry.files.iter().zip(now).find(|(old, new)| *old != new) {
                return Err(AuditError::Asked(format!(
                    "files of {} are not those that were read: {new} is now where {old} was. Put the old files back",
                    entry.name
                )));
            }
            Ok(Box::new(source))
        }
        InputKind::Kafka(_) => {
            for (partition, first) in entry.first.iter().filter(|_| !what_is_left) {
                positions.set(PartitionId { input: number, partition: *partition }, *first);
            }
            reopen(number, input, &positions, KafkaStart::Earliest, "conjoin-verify")
        }
        InputKind::Memory => reopen(number, input, &positions, KafkaStart::Earliest, "conjoin-verify"),
    }
}

struct Reading<'a> {
    plan: &'a Plan,
    input: &'a InputSpec,
    decoders: Vec<Decoder>,
    schemas: Schemas,
    reach: BTreeMap<PartitionId, Reach>,
    newest: BTreeMap<(u16, PartitionId), EventTime>,
}

impl<'a> Reading<'a> {
    fn new(plan: &'a Plan, number: u16, input: &'a InputSpec, entry: &InputEntry) -> Result<Self, AuditError> {
        let reach = entry.next.iter().map(|(partition, next)| {
            let from = entry.first.get(partition).copied().unwrap_or(0);
            let range = ReadRange { input: input.name.clone(), partition: *partition, from, to: *next, records: 0 };
            let done = from >= *next;
            (PartitionId { input: number, partition: *partition }, Reach { range, done })
        });
        let decoder = |stream: &u16| Decoder::new(plan.streams[*stream as usize].decode.clone());
        let clock = Arc::new(SystemClock::new());
        Ok(Reading {
            plan,
            input,
            schemas: Schemas::new(plan, None, clock, Board::default(), StopSignal::default())?,
            decoders: input.streams.iter().map(decoder).collect(),
            reach: reach.collect(),
            newest: BTreeMap::new(),
        })
    }

    fn read(&mut self, source: &mut dyn Source, streams: &mut [StreamRows]) -> Result<(), AuditError> {
        for partition in source.partitions() {
            if self.reach.get(&partition).is_none_or(|reach| reach.done) {
                source.pause(partition);
            }
        }
        let mut quiet = 0;
        while self.reach.values().any(|reach| !reach.done) {
            let (partition, ended) = match source.poll(POLL_TIMEOUT)? {
                SourceEvent::Batch(batch) => {
                    quiet = 0;
                    let partition = batch.delta.partition;
                    self.take(batch, streams)?;
                    (partition, false)
                }
                SourceEvent::Ended(partition) => (partition, true),
                _ => {
                    quiet += 1;
                    if quiet > QUIET_POLLS_MAX {
                        return Err(AuditError::Asked(format!(
                            "{} stopped giving records: try again",
                            self.input.name
                        )));
                    }
                    continue;
                }
            };
            let Some(reach) = self.reach.get_mut(&partition) else { continue };
            reach.done |= ended;
            if reach.done {
                source.pause(partition);
            }
        }
        Ok(())
    }

    fn take(&mut self, mut batch: RawBatch, streams: &mut [StreamRows]) -> Result<(), AuditError> {
        let partition = batch.delta.partition;
        let Some(reach) = self.reach.get_mut(&partition).filter(|reach| !reach.done) else { return Ok(()) };
        if reach.range.records == 0 {
            reach.range.from = batch.delta.from;
        }
        let to = reach.range.to;
        reach.done = batch.delta.to >= to;
        batch.records.retain(|record| record.position < to);
        reach.range.records += batch.records.len() as u64;
        for decoder in &mut self.decoders {
            let Some(decoded) = self.schemas.decode(decoder, &batch)? else { return Ok(()) };
            let stream = decoded.stream as usize;
            let lateness = self.plan.streams[stream].time.lateness_ms;
            let newest = self.newest.entry((decoded.stream, partition)).or_insert(EventTime::MIN);
            let into = &mut streams[stream];
            into.account += StreamAccount {
                records: decoded.records,
                consumed: decoded.consumed,
                filtered: decoded.filtered,
                dead_lettered: decoded.rejected.len() as u64,
                accepted: decoded.num_rows() as u64,
            };
            let number = into.batches.len() as u32;
            for (row, &ts) in decoded.event_time.iter().enumerate() {
                *newest = (*newest).max(ts);
                let came_at = ts.max(newest.saturating_sub(lateness));
                into.rows.push(Row { batch: number, row: row as u32, ts, content: decoded.content[row], came_at });
            }
            if decoded.num_rows() > 0 {
                into.batches.push(DecodedBatch { rejected: Vec::new(), ..decoded });
            }
        }
        Ok(())
    }
}
