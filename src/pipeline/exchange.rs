//! Exchange: what cells hand to each other, by way of an internal topic that every process reads whole.
//!
//!   commit of cell c ─> sealed tiles, then a mark ─> partition c ─> mirror of every process ─> lanes, online store
//!
//! In: a commit that is in its manifest. Out: the same in every mirror, once.
//! Holds: a commit is handed over before the next one of its cell is made, and again when a process takes the cell over:
//! what comes twice is known by (chain, cut, part), so a process that slept through a takeover changes nothing (F12).
//! Does not: wait for any other cell; whether the tiles are complete is what the marks say.

use crate::cell::{Mirror, MirrorError, Sequence};
use crate::commit::{Handover, Manifest, decode_rows};
use crate::config::Plan;
use crate::env::Clock;
use crate::event::{FeatureBatch, Positions, RawBatch, RawRecord};
use crate::online::{OnlineSender, Version};
use crate::pipeline::{RunError, StopSignal};
use crate::source::kafka::{KafkaOptions, ReconnectingKafka, TopicWriter};
use crate::source::{
    InputKind, InputSpec, KafkaConnection, KafkaStart, KafkaTopicSpec, Source, SourceError, SourceEvent,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The header that says what a record is.
const HEADER: &str = "conjoin";
const FORMAT: u32 = 1;
/// How often a commit on its way to the brokers is looked after, and how many times before it is sent anew.
const FLUSH_SLICE: Duration = Duration::from_secs(1);
const FLUSH_SLICES: usize = 10;
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
const POLL_TIMEOUT: Duration = Duration::from_millis(20);
/// Entities that are evaluated at once to be published.
const ENTITIES_AT_ONCE: usize = 4_096;

/// A commit on its way to the other cells.
pub struct SealedCommit {
    pub cell: u32,
    pub chain: u32,
    pub cut: u64,
    /// The group and the encoded rows of each part, always in the same order.
    pub parts: Vec<(String, Vec<u8>)>,
    pub handover: Handover,
}

/// How commits reach the other cells.
pub trait Exchange: Send + Sync {
    fn mirror(&self) -> &Arc<Mirror>;

    /// Returns when the commit will reach every process whatever happens to this one.
    fn send(&self, commit: &SealedCommit) -> Result<(), RunError>;

    /// This process answers for a cell's entities online, from now on.
    fn own(&self, cell: u32, head: &Manifest);

    fn disown(&self, cell: u32);
}

/// What a record of the topic is.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Letter {
    format: u32,
    cell: u32,
    chain: u32,
    cut: u64,
    part: u32,
    /// Of tiles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    /// Ends a commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    handover: Option<Handover>,
}

/// Versions of what this process publishes for a cell.
struct Owned {
    birth_ms: u64,
    epoch: u32,
    cut: u64,
    step: u32,
}

/// The exchange over a Kafka topic.
pub struct KafkaExchange {
    connection: KafkaConnection,
    topic: String,
    client_id: String,
    mirror: Arc<Mirror>,
    groups: Vec<String>,
    streams: Vec<String>,
    writer: Mutex<Option<TopicWriter>>,
    /// The last commit that was sent did not get there.
    away: AtomicBool,
    owned: Mutex<BTreeMap<u32, Owned>>,
    online: OnlineSender,
    /// The process is to end: nothing is tried again.
    stop: StopSignal,
    /// Its cells have ended: nothing is read any more.
    done: StopSignal,
}

impl KafkaExchange {
    pub fn new(
        plan: &Plan,
        connection: &KafkaConnection,
        topic: String,
        mirror: Arc<Mirror>,
        online: OnlineSender,
        stop: StopSignal,
        done: StopSignal,
    ) -> KafkaExchange {
        KafkaExchange {
            connection: connection.clone(),
            topic,
            client_id: format!("conjoin-{}", plan.pipeline),
            mirror,
            groups: plan.groups.iter().map(|group| group.name.clone()).collect(),
            streams: plan.streams.iter().map(|stream| stream.name.clone()).collect(),
            writer: Mutex::new(None),
            away: AtomicBool::new(false),
            owned: Mutex::default(),
            online,
            stop,
            done,
        }
    }

    fn try_send(&self, commit: &SealedCommit) -> Result<(), SourceError> {
        let mut slot = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if self.stop.requested() && self.away.load(Ordering::Relaxed) {
            return Err(SourceError::Broker {
                input: self.topic.clone(),
                message: format!("commit {} of cell {} was not sent: no broker answers", commit.cut, commit.cell),
                retry: true,
            });
        }
        // After an error a writer is of no use.
        let mut writer = match slot.take() {
            Some(writer) => writer,
            None => TopicWriter::connect(&self.connection, &self.client_id)?,
        };
        let SealedCommit { cell, chain, cut, .. } = *commit;
        let letter = |part| Letter { format: FORMAT, cell, chain, cut, part, group: None, handover: None };
        for (part, (group, rows)) in commit.parts.iter().enumerate() {
            let letter = Letter { group: Some(group.clone()), ..letter(part as u32) };
            self.write(&mut writer, &letter, rows)?;
        }
        let handover = Some(commit.handover.clone());
        self.write(&mut writer, &Letter { handover, ..letter(commit.parts.len() as u32) }, &[])?;
        self.flush(&mut writer)?;
        *slot = Some(writer);
        Ok(())
    }

    /// Waits for the brokers, but not when the process is to end: whoever takes the cell over sends it again.
    fn flush(&self, writer: &mut TopicWriter) -> Result<(), SourceError> {
        let mut flushed = writer.flush(FLUSH_SLICE);
        for _ in 1..FLUSH_SLICES {
            if flushed.is_ok() || self.stop.requested() {
                break;
            }
            flushed = writer.flush(FLUSH_SLICE);
        }
        flushed
    }

    fn write(&self, writer: &mut TopicWriter, letter: &Letter, rows: &[u8]) -> Result<(), SourceError> {
        let header = serde_json::to_vec(letter).expect("a letter is plain data");
        writer.write(&self.topic, Some(letter.cell as i32), None, Some(rows), &[(HEADER, &header)])
    }

    /// Reads the topic into the mirror and publishes what changes, until it is told to stop.
    pub fn run(&self, clock: &dyn Clock, flush_ms: u64) -> Result<(), RunError> {
        let Some(mut source) = self.open()? else { return Ok(()) };
        let mut published_ms = 0;
        while !self.done.requested() {
            match source.poll(POLL_TIMEOUT)? {
                SourceEvent::Batch(raw) => self.take(&raw, clock.monotonic_ms())?,
                SourceEvent::Connection { ready: false, message } => tracing::warn!("{message}"),
                SourceEvent::Connection { ready: true, message } => tracing::info!("{message}"),
                _ => {}
            }
            let now = clock.monotonic_ms();
            if now >= published_ms + flush_ms {
                published_ms = now;
                self.publish();
            }
        }
        Ok(())
    }

    fn open(&self) -> Result<Option<ReconnectingKafka>, RunError> {
        let spec = KafkaTopicSpec {
            topic: self.topic.clone(),
            start: KafkaStart::Earliest,
            connection: self.connection.clone(),
            allow_gaps: false,
        };
        let kind = InputKind::Kafka(spec);
        let input = InputSpec { name: self.topic.clone(), kind, streams: Vec::new(), headers: true };
        let options = KafkaOptions { client_id: self.client_id.clone(), monitoring: false, ..KafkaOptions::default() };
        let mut backoff = BACKOFF_MIN;
        loop {
            let inputs = [(0, &input)];
            match ReconnectingKafka::connect(&self.connection, &inputs, &Positions::default(), options.clone()) {
                Ok(source) => return Ok(Some(source)),
                Err(error) if error.retry() => {
                    tracing::warn!("{error}; trying again in {:.1} s", backoff.as_secs_f64());
                    if self.done.wait(backoff) {
                        return Ok(None);
                    }
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn take(&self, raw: &RawBatch, now_ms: u64) -> Result<(), RunError> {
        for record in &raw.records {
            let place =
                format!("{} partition {} offset {}", self.topic, raw.delta.partition.partition, record.position);
            let Some(letter) = letter(raw, record) else {
                tracing::warn!("{place}: a record that Conjoin did not write is passed over");
                continue;
            };
            let at = Sequence { chain: letter.chain, cut: letter.cut, part: letter.part };
            let failed = |error: MirrorError| RunError::Exchange(format!("{place}: {error}"));
            if let Some(group) = &letter.group {
                // A group that this pipeline file no longer has.
                let group = self.groups.iter().position(|known| known == group).unwrap_or(usize::MAX);
                let bytes = record.payload.as_ref().map_or(&[][..], |range| raw.slice(range));
                let rows = decode_rows(bytes).map_err(|error| RunError::Exchange(format!("{place}: {error}")))?;
                self.mirror.part(letter.cell, at, group, &rows).map_err(failed)?;
            } else if let Some(Handover { mark, moved }) = &letter.handover {
                let number = |name: &String| self.streams.iter().position(|known| known == name);
                let moved: Vec<u16> = moved.iter().filter_map(number).map(|number| number as u16).collect();
                self.mirror.mark(letter.cell, at, *mark, &moved, now_ms).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Hands what changed to the online writer.
    fn publish(&self) {
        let mut owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner);
        let cells: BTreeSet<u32> = owned.keys().copied().collect();
        let frontier = self.mirror.frontier();
        for group in (0..self.groups.len()).filter(|group| self.mirror.holds(*group)) {
            while let Some(batches) = self.mirror.take_due(group, frontier, ENTITIES_AT_ONCE, &cells) {
                for (cell, batch) in batches {
                    let owned = owned.get_mut(&cell).expect("only owned cells were asked for");
                    self.send_online(owned, batch);
                }
            }
        }
        self.mirror.drained(frontier, &cells);
    }

    fn send_online(&self, owned: &mut Owned, batch: FeatureBatch) {
        owned.step += 1;
        let version = Version::new(owned.birth_ms, owned.epoch, owned.cut, owned.step);
        if self.online.send(batch, version).is_err() {
            tracing::debug!("the online writer is gone: this process ends");
        }
    }
}

impl Exchange for KafkaExchange {
    fn mirror(&self) -> &Arc<Mirror> {
        &self.mirror
    }

    fn send(&self, commit: &SealedCommit) -> Result<(), RunError> {
        let mut backoff = BACKOFF_MIN;
        loop {
            let sent = self.try_send(commit);
            self.away.store(sent.is_err(), Ordering::Relaxed);
            match sent {
                Ok(()) => {
                    self.mirror.pin(commit.cell, Some(&commit.handover.mark));
                    return Ok(());
                }
                Err(error) if error.retry() => {
                    tracing::warn!("{error}; what cell {} committed is sent again", commit.cell);
                    if self.stop.wait(backoff) {
                        return Err(error.into());
                    }
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn own(&self, cell: u32, head: &Manifest) {
        let (birth_ms, epoch) = (head.born_at_ms.max(0) as u64, head.epoch as u32);
        let owned = Owned { birth_ms, epoch, cut: head.cut, step: 0 };
        self.owned.lock().unwrap_or_else(PoisonError::into_inner).insert(cell, owned);
        self.mirror.pin(cell, head.handover.as_ref().map(|handover| &handover.mark));
        self.mirror.own(&BTreeSet::from([cell]));
    }

    fn disown(&self, cell: u32) {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner).remove(&cell);
        self.mirror.unpin(cell);
    }
}

fn letter(raw: &RawBatch, record: &RawRecord) -> Option<Letter> {
    let (_, value) = record.headers.iter().find(|(name, _)| raw.slice(name) == HEADER.as_bytes())?;
    serde_json::from_slice::<Letter>(raw.slice(value)).ok().filter(|letter| letter.format == FORMAT)
}
