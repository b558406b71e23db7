//! Committer: puts the parts of a cut together, writes what they need, and commits them in one manifest.
//!
//!   lanes, sinks, conductor ─ parts of cut n ─> state object, dead letters ─> verify ─> manifest ─> publish, forget
//!
//! Holds: nothing is published before the manifest that names it is there; what falls out of the state is
//! told to the collector.

use crate::commit::{
    BlockEntry, Chain, EncodedBlock, FileEntry, InputEntry, Layout, Manifest, ObjectError, TrackEntry, block_ref,
    object_path, read_encoded, verify_object, write_object,
};
use crate::env::failpoint::{self, Failpoint};
use crate::env::{Clock, Store};
use crate::event::{BlockClass, BlockKind, LaneCounts, StagedFile};
use crate::invariant;
use crate::pipeline::RunError;
use crate::pipeline::board::Board;
use crate::pipeline::conductor::ConductorCut;
use crate::pipeline::exchange::{Exchange, SealedCommit};
use crate::pipeline::garbage::GarbageOutlet;
use crate::pipeline::lanes::CutPart;
use crate::pipeline::restore::Objects;
use crate::pipeline::sinks::SinkCut;
use crate::sink::{DeadLetterSink, publish, verify, verify_content};
use crate::telemetry::{CommitDone, FeatureProgress, ParquetProgress, Telemetry};
use crossbeam_channel::{Receiver, Sender};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Name of the dead letters among the sinks of a manifest.
pub const DEAD_LETTERS: &str = "dead_letters";

/// What became of a cut, for the conductor.
#[derive(Clone, Copy, Debug)]
pub struct Committed {
    pub cut: u64,
}

pub struct Committer {
    pub chain: Chain,
    pub state: Arc<dyn Store>,
    pub objects: Objects,
    pub layout: Layout,
    /// Per sample its name and the store of its files.
    pub samples: Vec<(String, Option<Arc<dyn Store>>)>,
    pub dead_letters: DeadLetterSink,
    pub dead_letter_store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub telemetry: Arc<Telemetry>,
    pub board: Board,
    pub done: Sender<Committed>,
    pub garbage: GarbageOutlet,
    /// Where there are other cells: which one this is.
    pub exchange: Option<(u32, Arc<dyn Exchange>)>,
    pub writer: String,
    pub names: BookNames,
    pub work: CommitWork,
}

/// What a committer knows beside what it was given.
pub struct CommitWork {
    /// What the books stood at when this process took over; lanes and sinks count from there.
    base: LaneCounts,
    parts: Parts,
    /// Published since this process started, per sample.
    files: BTreeMap<String, ParquetProgress>,
}

impl CommitWork {
    pub fn new(head: &Manifest, lanes: usize) -> Self {
        CommitWork { base: head.counts.without_held(), parts: Parts::new(lanes), files: BTreeMap::new() }
    }
}

/// Parts of the cut at hand.
struct Parts {
    lanes: Vec<Option<(crate::cell::LaneCut, Vec<EncodedBlock>)>>,
    sinks: Vec<Option<SinkCut>>,
    conductor: Option<ConductorCut>,
    /// What was rejected before the cut; rejects that come while it is under way belong to the next one.
    dead_letters: Vec<StagedFile>,
}

impl Parts {
    fn new(lanes: usize) -> Self {
        Parts {
            lanes: (0..lanes).map(|_| None).collect(),
            sinks: (0..lanes).map(|_| None).collect(),
            conductor: None,
            dead_letters: Vec::new(),
        }
    }

    fn complete(&self) -> bool {
        self.conductor.is_some() && self.lanes.iter().all(Option::is_some) && self.sinks.iter().all(Option::is_some)
    }
}

impl Committer {
    pub fn run(mut self, input: Receiver<CutPart>) -> Result<(), RunError> {
        for part in input {
            if let Some(committed) = self.take(part)?
                && self.done.send(committed).is_err()
            {
                break;
            }
        }
        Ok(())
    }

    /// Takes one part; commits when it was the last of its cut.
    pub fn take(&mut self, part: CutPart) -> Result<Option<Committed>, RunError> {
        let parts = &mut self.work.parts;
        match part {
            CutPart::Rejected(rejected) => {
                self.dead_letters.push(&rejected, self.clock.now_ms())?;
                return Ok(None);
            }
            CutPart::Lane(lane, cut, blocks) => parts.lanes[lane] = Some((cut, blocks)),
            CutPart::Sink(lane, cut) => parts.sinks[lane] = Some(cut),
            CutPart::Conductor(cut) => {
                parts.dead_letters = failpoint::step(Failpoint::DeadLetters, || self.dead_letters.finish())?;
                parts.conductor = Some(*cut);
            }
        }
        if !parts.complete() {
            return Ok(None);
        }
        let parts = std::mem::replace(parts, Parts::new(self.layout.lanes));
        Ok(Some(Committed { cut: self.commit(parts)? }))
    }

    fn commit(&mut self, parts: Parts) -> Result<u64, RunError> {
        let started = self.clock.monotonic_ms();
        let conductor = parts.conductor.expect("the parts are complete");
        let number = conductor.number;
        let (mut blocks, mut needed_from) = (Vec::new(), BTreeMap::<BlockClass, i64>::new());
        let mut counts = self.work.base.clone();
        for (cut, encoded) in parts.lanes.into_iter().flatten() {
            debug_assert_eq!(cut.number, number);
            counts.add(&cut.counts);
            blocks.extend(encoded);
            for (class, bucket) in cut.needed_from {
                needed_from.entry(class).and_modify(|first| *first = (*first).min(bucket)).or_insert(bucket);
            }
        }
        let sinks: Vec<SinkCut> = parts.sinks.into_iter().flatten().collect();
        debug_assert!(sinks.iter().all(|sink| sink.number == number));
        let failed_values = sinks.iter().flat_map(|sink| &sink.failed_values).sum();
        for sink in &sinks {
            for (sample, left_out) in sink.sampled_out.iter().enumerate() {
                let anchor = &mut counts.samples[sample].anchor;
                anchor.emitted -= left_out;
                anchor.sampled_out += left_out;
            }
        }
        let sealed = self.sealed(&blocks);
        let state_bytes = self.write_state(number, blocks, &needed_from)?;
        let files = self.collect_files(sinks, parts.dead_letters)?;
        let rows: u64 = files.iter().filter(|file| file.sink != DEAD_LETTERS).map(|file| file.file.rows).sum();
        let head = self.chain.head();
        let mut totals = head.totals;
        for entry in &files {
            if entry.sink == DEAD_LETTERS {
                totals.dead_letter_files += 1;
                totals.dead_letter_rows += entry.file.rows;
            } else {
                totals.files += 1;
                totals.file_bytes += entry.file.bytes;
                let progress = self.work.files.entry(entry.file.sample.clone()).or_default();
                progress.files += 1;
                progress.rows += entry.file.rows;
                progress.bytes += entry.file.bytes;
            }
        }
        totals.file_rows += rows;
        totals.state_bytes_written += state_bytes;
        self.check_books(&counts, &conductor, totals.dead_letter_rows);
        let next = Manifest {
            cut: number,
            committed_at_ms: self.clock.now_ms(),
            layout: self.layout.clone(),
            inputs: conductor.inputs,
            tracks: conductor.tracks,
            watermark: conductor.watermark,
            online_instant: conductor.online_instant.or(head.online_instant),
            streams: conductor.streams.iter().cloned().collect(),
            counts,
            objects: self.objects.iter().map(|(object, _)| object.clone()).collect(),
            needed_from: needed_from.into_iter().collect(),
            handover: conductor.handover,
            files,
            totals,
            ..head.clone()
        };
        let manifest = self.chain.commit(next)?.clone();
        let published = self.publish(&manifest)?;
        self.hand_over(&manifest, sealed)?;
        self.garbage.committed(manifest.number);
        self.tell(&manifest, state_bytes, self.clock.monotonic_ms() - started, published, failed_values);
        Ok(number)
    }

    /// What goes to the other cells of the blocks of a cut.
    fn sealed(&self, blocks: &[EncodedBlock]) -> Vec<(String, Vec<u8>)> {
        let sealed = blocks.iter().filter(|block| block.entry().class.kind == BlockKind::Sealed);
        sealed.map(|block| (self.group_name(block.entry()), block.bytes().to_vec())).collect()
    }

    fn group_name(&self, entry: &BlockEntry) -> String {
        self.layout.groups[entry.class.node as usize].clone()
    }

    /// Tells the other cells what the manifest made true.
    fn hand_over(&self, manifest: &Manifest, parts: Vec<(String, Vec<u8>)>) -> Result<(), RunError> {
        let (Some((cell, exchange)), Some(handover)) = (&self.exchange, &manifest.handover) else { return Ok(()) };
        let handover = handover.clone();
        let commit = SealedCommit { cell: *cell, chain: manifest.chain, cut: manifest.cut, parts, handover };
        failpoint::step(Failpoint::HandOver, || exchange.send(&commit))
    }

    /// The same of the last commit of whoever had the cell before: nobody knows how far it came.
    pub fn hand_over_again(&self, head: &Manifest) -> Result<(), RunError> {
        let mut sealed = Vec::new();
        for (object, entries) in &self.objects {
            let path: Arc<str> = object.path.as_str().into();
            let of_head =
                |entry: &&BlockEntry| entry.class.kind == BlockKind::Sealed && entry.bucket == head.cut as i64;
            for entry in entries.iter().filter(of_head) {
                let block = block_ref(&path, entry).ok_or_else(|| ObjectError::Damaged {
                    path: self.state.describe(&path),
                    found: format!("sha256 {}", entry.sha256),
                })?;
                let bytes = read_encoded(self.state.as_ref(), &block)?;
                sealed.push(((entry.segment.lane, entry.segment.ordinal), self.group_name(entry), bytes));
            }
        }
        // In the order in which the lanes gave them, as the first time.
        sealed.sort_by_key(|(place, ..)| *place);
        self.hand_over(head, sealed.into_iter().map(|(_, group, bytes)| (group, bytes)).collect())
    }

    /// Writes the blocks of a cut as one object, and lets objects go that hold nothing that is needed.
    fn write_state(
        &mut self,
        number: u64,
        blocks: Vec<EncodedBlock>,
        needed_from: &BTreeMap<BlockClass, i64>,
    ) -> Result<u64, ObjectError> {
        let mut bytes = 0;
        if !blocks.is_empty() {
            let path = object_path(number, self.chain.head().epoch, &self.writer);
            let state = self.state.as_ref();
            let (object, entries) = failpoint::step(Failpoint::StateWrite, || write_object(state, &path, blocks))?;
            failpoint::step(Failpoint::StateVerify, || verify_object(state, &object))?;
            bytes = object.bytes;
            self.objects.push((object, entries));
        }
        let needed = |entry: &BlockEntry| needed_from.get(&entry.class).is_none_or(|first| entry.bucket >= *first);
        let last_named = self.chain.head().number;
        let garbage = &mut self.garbage;
        self.objects.retain(|(object, entries)| {
            let keep = entries.iter().any(needed);
            if !keep {
                garbage.dropped(last_named, &object.path);
            }
            keep
        });
        Ok(bytes)
    }

    /// All output files of the cut, verified.
    fn collect_files(&self, sinks: Vec<SinkCut>, dead_letters: Vec<StagedFile>) -> Result<Vec<FileEntry>, RunError> {
        let mut files = Vec::new();
        for (sample, file) in sinks.into_iter().flat_map(|sink| sink.files) {
            let (name, store) = &self.samples[sample];
            let store = store.as_ref().expect("a sample that has files has a store");
            failpoint::step(Failpoint::ParquetVerify, || verify(store.as_ref(), &file))?;
            files.push(FileEntry { sink: format!("samples.{name}"), file });
        }
        for file in dead_letters {
            verify(self.dead_letter_store.as_ref(), &file)?;
            files.push(FileEntry { sink: DEAD_LETTERS.into(), file });
        }
        Ok(files)
    }

    /// F1 over the whole cell: what streams accepted is what their uses account for.
    fn check_books(&self, counts: &LaneCounts, conductor: &ConductorCut, dead_letter_rows: u64) {
        for (sample, counts) in counts.samples.iter().enumerate() {
            invariant!(F1, counts.anchor.balances(), "sample {sample}: {:?}", counts.anchor);
            invariant!(F1, counts.labels.iter().all(|label| label.balances()), "sample {sample}: {:?}", counts.labels);
            let accepted = conductor.anchor_accepted[sample];
            invariant!(
                F1,
                counts.anchor.accepted() == accepted,
                "sample {sample}: {:?} of {accepted} rows",
                counts.anchor
            );
            for (label, accepted) in counts.labels.iter().zip(&conductor.label_accepted[sample]) {
                invariant!(F1, label.accepted() == *accepted, "sample {sample}: {label:?} of {accepted} rows");
            }
        }
        let dead: u64 = conductor.streams.iter().map(|(_, account)| account.dead_lettered).sum();
        invariant!(F14, dead == dead_letter_rows, "{dead} rows were rejected, {dead_letter_rows} are in dead letters");
    }

    fn store_of(&self, sink: &str) -> Option<&Arc<dyn Store>> {
        if sink == DEAD_LETTERS {
            return Some(&self.dead_letter_store);
        }
        let name = sink.strip_prefix("samples.")?;
        self.samples.iter().find(|(other, _)| other == name)?.1.as_ref()
    }

    /// What a dead process left committed and unpublished has lain there for who knows how long: it is read again, whole,
    /// before anyone is to see it.
    pub fn check_unpublished(&self, manifest: &Manifest) -> Result<(), RunError> {
        for entry in &manifest.files {
            if let Some(store) = self.store_of(&entry.sink)
                && store.size(&entry.file.staged)?.is_some()
            {
                verify_content(store.as_ref(), &entry.file)?;
            }
        }
        Ok(())
    }

    /// Gives the manifest's files their public names; done again at start, so it may be repeated.
    pub fn publish(&self, manifest: &Manifest) -> Result<usize, RunError> {
        let mut published = 0;
        let mut by_sink: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for entry in &manifest.files {
            by_sink.entry(&entry.sink).or_default().push(entry.file.clone());
        }
        for (sink, files) in by_sink {
            if let Some(store) = self.store_of(sink) {
                published += publish(store.as_ref(), &files)?;
            }
        }
        Ok(published)
    }

    fn tell(&self, manifest: &Manifest, state_bytes: u64, took_ms: u64, published: usize, failed_values: u64) {
        tracing::debug!(
            manifest = manifest.number,
            cut = manifest.cut,
            state_bytes,
            took_ms,
            files = published,
            "committed"
        );
        self.telemetry.commit(&CommitDone {
            sequence: manifest.number,
            epoch: manifest.epoch,
            duration_ms: took_ms,
            bytes: state_bytes,
            state_bytes: self.objects.iter().map(|(object, _)| object.bytes).sum(),
            files: published,
            at_ms: manifest.committed_at_ms,
        });
        let memory = manifest.counts.samples.iter().map(|sample| sample.memory_bytes);
        let memory = memory.chain(manifest.counts.groups.iter().map(|group| group.memory_bytes));
        self.telemetry.state_in_memory(memory.sum());
        self.tell_books(manifest);
        self.board.update(|view| {
            view.counts = manifest.counts.clone();
            view.totals = manifest.totals;
            view.commit_number = manifest.number;
            view.commits_this_run += 1;
            view.commit_ms = took_ms;
            view.commit_bytes = state_bytes;
            view.failed_values = failed_values;
        });
    }
}

impl Committer {
    fn tell_books(&self, manifest: &Manifest) {
        for (counts, names) in manifest.counts.samples.iter().zip(&self.names.samples) {
            self.telemetry.anchor(&names.name, &counts.anchor);
            for (join, account) in names.joins.iter().zip(&counts.labels) {
                self.telemetry.label(&names.name, join, account);
            }
        }
        for (counts, names) in manifest.counts.groups.iter().zip(&self.names.groups) {
            for (stream, account) in names.streams.iter().zip(&counts.uses) {
                self.telemetry.feature(&names.name, stream, account);
            }
            let progress = FeatureProgress {
                entities: counts.entities,
                tiles: counts.tiles,
                bytes: counts.memory_bytes,
                sweep_lag_ms: 0,
            };
            self.telemetry.feature_progress(&names.name, &progress);
        }
        for (name, totals) in &self.work.files {
            self.telemetry.parquet(name, totals);
        }
    }
}

/// What the numbers of samples and groups are called.
#[derive(Clone, Default)]
pub struct BookNames {
    pub samples: Vec<SampleNames>,
    pub groups: Vec<GroupNames>,
}

#[derive(Clone)]
pub struct SampleNames {
    pub name: String,
    pub joins: Vec<String>,
}

#[derive(Clone)]
pub struct GroupNames {
    pub name: String,
    /// Of each use, in order.
    pub streams: Vec<String>,
}

/// Positions as a manifest holds them.
pub fn input_entries(
    names: &[String],
    files: &BTreeMap<u16, Vec<String>>,
    positions: &crate::event::Positions,
) -> Vec<InputEntry> {
    let entries = names.iter().enumerate().map(|(input, name)| InputEntry {
        name: name.clone(),
        next: positions
            .iter()
            .filter(|(partition, _)| partition.input as usize == input)
            .map(|(partition, next)| (partition.partition, next))
            .collect(),
        first: positions
            .iter()
            .filter(|(partition, _)| partition.input as usize == input)
            .filter_map(|(partition, _)| Some((partition.partition, positions.first(partition)?)))
            .collect(),
        files: files.get(&(input as u16)).cloned().unwrap_or_default(),
    });
    entries.collect()
}

/// Tracks as a manifest holds them.
pub fn track_entries(streams: &[String], inputs: &[String], tracks: &[crate::event::Track]) -> Vec<TrackEntry> {
    let entries = tracks.iter().map(|track| TrackEntry {
        stream: streams[track.stream as usize].clone(),
        input: inputs[track.partition.input as usize].clone(),
        partition: track.partition.partition,
        newest: track.newest,
    });
    entries.collect()
}
