//! Replay: sends refused records back to where they came from, as they were or repaired, each of them once.
//!
//!   records (place, bytes) ─ repaired lines laid over ─ known from the ledger? skipped ─> topic, or a new file
//!                                                                                     └─> ledger: what went where
//!
//! In: letters' records, the plan's inputs, repaired payloads. Out: a [`Replay`] that says what became of each record.
//! Holds: the same bytes of the same place are sent once, and what a replay brought back is not sent in a circle, unless
//! it is asked for; rows that come twice all the same are dropped by their ids (F2).
//! Does not: touch the state of the pipeline: the ledger lies beside the dead letters.

use crate::audit::{AuditError, Record};
use crate::commit::Manifest;
use crate::config::Plan;
use crate::decode::{ColumnFrom, DecodeLimits};
use crate::env::{Created, Entropy, Store};
use crate::event::{content_hash, file_and_offset};
use crate::source::file::{file_behind, write_behind};
use crate::source::kafka::{Original, Outgoing, fetch_originals, produce};
use crate::source::{InputKind, InputSpec, KafkaTopicSpec};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

const LEDGER: &str = "dead-letters/replays/";
/// The header that names a replayed record's origin, as `topic/partition/offset`.
pub const REPLAY_OF: &str = "conjoin-replay-of";

#[derive(Clone, Copy, Debug, Default)]
pub struct ReplayOptions {
    /// Count, and send nothing.
    pub dry_run: bool,
    /// Send also what was sent before.
    pub again: bool,
    pub now_ms: i64,
}

/// What became of the records of one input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReplayedInput {
    pub topic: String,
    /// A new file, for file inputs.
    pub file: Option<String>,
    /// Sent, or for a dry run to be sent.
    pub sent: u64,
    pub skipped_replayed: u64,
    /// Repaired to nothing: an empty line in the file.
    pub skipped_blank: u64,
    /// The record had no payload, so there is nothing to send.
    pub skipped_empty: u64,
    /// Only the first bytes were kept: sent as they are they would be another record.
    pub skipped_cut: u64,
    /// Sent without the key, headers and time of the original, which the log no longer holds.
    pub without_key: u64,
    pub failed: u64,
    pub first_failure: Option<String>,
}

/// A line of the ledger: one record that was sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Sent {
    topic: String,
    partition: u32,
    position: i64,
    payload_hash: String,
    /// Where it went: the offset in the same partition, or the byte in `to_file`.
    to: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to_file: Option<String>,
}

/// Lays repaired payloads over the records, line by line; an empty line leaves its record out.
pub fn lay_repaired(records: &mut [Record], repaired: &[u8]) -> Result<(), AuditError> {
    let mut lines: Vec<&[u8]> = repaired.split(|byte| *byte == b'\n').collect();
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    if lines.len() != records.len() {
        return Err(AuditError::Asked(format!(
            "the file has {} lines, but these filters choose {} records; line n belongs to record n of `dead-letters show \
             --raw` with the same filters. Leave a line empty to leave its record out; when newer letters have come since, \
             add --limit {}",
            lines.len(),
            records.len(),
            lines.len()
        )));
    }
    for (record, line) in records.iter_mut().zip(lines) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        record.payload = line.to_vec();
        record.repaired = true;
    }
    Ok(())
}

/// Sends the records to the inputs they came from. `head` tells the files of file inputs.
pub fn replay(
    plan: &Plan,
    state: &dyn Store,
    head: &Manifest,
    records: Vec<Record>,
    options: ReplayOptions,
    entropy: &dyn Entropy,
) -> Result<Vec<ReplayedInput>, AuditError> {
    let ledger = Ledger::read(state)?;
    let mut by_input: BTreeMap<String, Vec<Record>> = BTreeMap::new();
    for record in records {
        by_input.entry(record.input.clone()).or_default().push(record);
    }
    let mut done = Vec::new();
    for (name, records) in by_input {
        let input = plan.inputs.iter().find(|input| input.name == name);
        let input = input.ok_or_else(|| {
            AuditError::Asked(format!("the pipeline file has no input {name} any more: choose others with --topic"))
        })?;
        let files = head.inputs.iter().find(|entry| entry.name == name).map_or(&[][..], |entry| &entry.files);
        let mut told = ReplayedInput { topic: name.clone(), ..ReplayedInput::default() };
        let chosen = choose(records, &ledger, files, options.again, &mut told);
        if chosen.is_empty() {
            done.push(told);
            continue;
        }
        let sent = match &input.kind {
            InputKind::Kafka(topic) => to_topic(plan, input, topic, &chosen, options, &mut told)?,
            InputKind::File { pattern } => to_file(pattern, &name, &chosen, options, &mut told)?,
            InputKind::Memory => {
                return Err(AuditError::Asked(format!(
                    "{name} is fed by the program that embeds the pipeline: give the records of `show --raw` to it"
                )));
            }
        };
        if !sent.is_empty() {
            write_ledger(state, &sent, options.now_ms, entropy)?;
        }
        done.push(told);
    }
    Ok(done)
}

/// Leaves out what has nothing to send, was sent before, or came back from a replay as it was sent.
fn choose(
    records: Vec<Record>,
    ledger: &Ledger,
    files: &[String],
    again: bool,
    told: &mut ReplayedInput,
) -> Vec<Record> {
    let cut = DecodeLimits::default().dead_letter_bytes_max;
    let mut chosen = Vec::new();
    for record in records {
        let counter = if record.payload.is_empty() && record.repaired {
            &mut told.skipped_blank
        } else if record.payload.is_empty() {
            &mut told.skipped_empty
        } else if !record.repaired && record.payload.len() >= cut {
            &mut told.skipped_cut
        } else if !again && ledger.knows(&record, files) {
            &mut told.skipped_replayed
        } else {
            chosen.push(record);
            continue;
        };
        *counter += 1;
    }
    chosen
}

fn to_topic(
    plan: &Plan,
    input: &InputSpec,
    topic: &KafkaTopicSpec,
    records: &[Record],
    options: ReplayOptions,
    told: &mut ReplayedInput,
) -> Result<Vec<Sent>, AuditError> {
    let wanted: BTreeSet<(u32, i64)> = records.iter().map(|record| (record.partition, record.position)).collect();
    let mut originals = fetch_originals(&topic.connection, topic, &wanted)?;
    told.without_key = wanted.iter().filter(|place| !originals.contains_key(place)).count() as u64;
    if options.dry_run {
        told.sent = records.len() as u64;
        return Ok(Vec::new());
    }
    // The broker stamps the time of the replay, unless a column is that time: then the row would be another one.
    let mut columns = input.streams.iter().flat_map(|stream| &plan.streams[*stream as usize].decode.columns);
    let keep_time = columns.any(|column| column.from == ColumnFrom::BrokerTime);
    let outgoing: Vec<Outgoing> = records
        .iter()
        .map(|record| {
            let mut original: Original = originals.remove(&(record.partition, record.position)).unwrap_or_default();
            original.time = original.time.filter(|_| keep_time);
            let origin = format!("{}/{}/{}", record.input, record.partition, record.position);
            original.headers.push((REPLAY_OF.into(), Some(origin.into_bytes())));
            Outgoing { partition: record.partition, payload: record.payload.clone(), original }
        })
        .collect();
    let mut sent = Vec::new();
    for (record, outcome) in records.iter().zip(produce(&topic.connection, &topic.topic, &outgoing)?) {
        match outcome {
            Ok((_, offset)) => {
                told.sent += 1;
                sent.push(Sent::of(record, offset, None));
            }
            Err(error) => {
                told.failed += 1;
                told.first_failure.get_or_insert(error);
            }
        }
    }
    Ok(sent)
}

fn to_file(
    pattern: &str,
    name: &str,
    records: &[Record],
    options: ReplayOptions,
    told: &mut ReplayedInput,
) -> Result<Vec<Sent>, AuditError> {
    let path = file_behind(pattern, &options.now_ms.to_string())?;
    told.file = Some(path.display().to_string());
    if let Some(record) = records.iter().find(|record| record.payload.contains(&b'\n')) {
        let place = record.position;
        return Err(AuditError::Asked(format!("a record of {name} at {place} has a line break; nothing was written")));
    }
    if options.dry_run {
        told.sent = records.len() as u64;
        return Ok(Vec::new());
    }
    let payloads: Vec<&[u8]> = records.iter().map(|record| record.payload.as_slice()).collect();
    let added = write_behind(&path, &payloads)?;
    told.sent = records.len() as u64;
    let sent = records.iter().zip(added.offsets);
    Ok(sent.map(|(record, offset)| Sent::of(record, offset as i64, told.file.clone())).collect())
}

impl Sent {
    fn of(record: &Record, to: i64, to_file: Option<String>) -> Sent {
        Sent {
            topic: record.input.clone(),
            partition: record.partition,
            position: record.position,
            payload_hash: hash_of(record),
            to,
            to_file,
        }
    }
}

fn hash_of(record: &Record) -> String {
    format!("{:016x}", content_hash(&record.payload, 0))
}

/// What was sent before.
#[derive(Default)]
struct Ledger {
    /// (topic, partition, position, payload hash) of what was taken from there.
    from: BTreeSet<(String, u32, i64, String)>,
    /// The same of where it went; for files the topic is the file.
    to: BTreeSet<(String, u32, i64, String)>,
}

impl Ledger {
    fn read(state: &dyn Store) -> Result<Ledger, AuditError> {
        let mut ledger = Ledger::default();
        for object in state.list(LEDGER)? {
            let bytes = state.read(&object.path)?;
            let sent: Vec<Sent> = serde_json::from_slice(&bytes).map_err(|error| {
                let path = state.describe(&object.path);
                AuditError::Asked(format!("{path} is damaged ({error}): delete it, and what it lists is sent again"))
            })?;
            for one in sent {
                let hash = one.payload_hash;
                let (name, partition) =
                    one.to_file.map_or_else(|| (one.topic.clone(), one.partition), |file| (file, 0));
                ledger.to.insert((name, partition, one.to, hash.clone()));
                ledger.from.insert((one.topic, one.partition, one.position, hash));
            }
        }
        Ok(ledger)
    }

    fn knows(&self, record: &Record, files: &[String]) -> bool {
        let hash = hash_of(record);
        let (number, byte) = file_and_offset(record.position);
        let arrived = match files.get(number as usize) {
            Some(file) => (file.clone(), 0, byte as i64, hash.clone()),
            None => (record.input.clone(), record.partition, record.position, hash.clone()),
        };
        self.from.contains(&(record.input.clone(), record.partition, record.position, hash))
            || self.to.contains(&arrived)
    }
}

fn write_ledger(state: &dyn Store, sent: &[Sent], now_ms: i64, entropy: &dyn Entropy) -> Result<(), AuditError> {
    let bytes = serde_json::to_vec(sent).expect("a ledger is plain data");
    loop {
        let path = format!("{LEDGER}{now_ms:015}-{:08x}.json", entropy.random_u64() as u32);
        if state.create(&path, &bytes)? == Created::Yes {
            return Ok(());
        }
    }
}
