//! Committer: puts the parts of a cut together, writes what they need, and commits them in one manifest.
//!
//!   lanes, sinks, conductor ─ parts of cut n ─> state object, dead letters ─> verify ─> manifest ─> publish, forget
//!
//! Holds: nothing is published before the manifest that names it is there; what falls out of the state is
//! told to the collector.

use crate::commit::{
    BlockEntry, Chain, CompactionLimits, EncodedBlock, FileEntry, InputEntry, Layout, Manifest, ManifestKind, Needed,
    ObjectEntry, ObjectError, OutboxMark, TrackEntry, block_ref, object_path, read_encoded, verify_object,
    write_object,
};
use crate::env::failpoint::{self, Failpoint};
use crate::env::{Clock, Store};
use crate::event::{BlockClass, BlockKind, LaneCounts, StagedFile, StateMemory, StoredBlock};
use crate::invariant;
use crate::pipeline::RunError;
use crate::pipeline::board::Board;
use crate::pipeline::compaction::{Compaction, Cut};
use crate::pipeline::conductor::ConductorCut;
use crate::pipeline::exchange::{Exchange, SealedCommit};
use crate::pipeline::garbage::GarbageOutlet;
use crate::pipeline::lanes::CutPart;
use crate::pipeline::outbox::{OutboxCut, Outlets};
use crate::pipeline::restore::Objects;
use crate::pipeline::sides::SideStores;
use crate::pipeline::sinks::SinkCut;
use crate::sink::{DeadLetterSink, publish, verify, verify_content};
use crate::telemetry::{CommitDone, FeatureProgress, ParquetProgress, Telemetry};
use crossbeam_channel::{Receiver, Sender};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Name of the dead letters among the sinks of a manifest.
pub const DEAD_LETTERS: &str = "dead_letters";

/// What became of a cut, for the conductor.
#[derive(Clone, Debug)]
pub struct Committed {
    pub cut: u64,
    /// The columns of impressions that the cut wrote, or copied, and where they lie now.
    pub blocks: Arc<[StoredBlock]>,
}

pub struct Committer {
    pub chain: Chain,
    pub state: Arc<dyn Store>,
    pub objects: Objects,
    pub lanes: usize,
    /// Per sample its name and the store of its files.
    pub samples: Vec<(String, Option<Arc<dyn Store>>)>,
    /// Where the samples' files go, by sink.
    pub places: BTreeMap<String, String>,
    /// The stores of files that the process before committed, where its pipeline file named other places.
    pub left: BTreeMap<String, Arc<dyn Store>>,
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
    compaction: Compaction,
    outlets: Outlets,
    sides: SideStores,
}

impl CommitWork {
    pub fn new(head: &Manifest, lanes: usize) -> Self {
        let compaction = Compaction::default();
        CommitWork {
            base: head.counts.without_held(),
            parts: Parts::new(lanes),
            files: BTreeMap::new(),
            compaction,
            outlets: Outlets::default(),
            sides: SideStores::new(),
        }
    }

    /// With outlets whose rows go to topics, and the files of side outputs.
    pub fn with(mut self, outlets: Outlets, sides: SideStores) -> Self {
        (self.outlets, self.sides) = (outlets, sides);
        self
    }

    /// With other limits than the usual ones: small runs have small objects.
    pub fn compacting(mut self, limits: CompactionLimits) -> Self {
        self.compaction.limits = limits;
        self
    }
}

/// What a cut wrote to the state.
#[derive(Default)]
struct Written {
    bytes: u64,
    /// Bytes of blocks that were there before.
    copied: u64,
    columns: Arc<[StoredBlock]>,
}

/// The columns of impressions in an object, as far as lanes of this count hold their rows.
fn columns(object: &ObjectEntry, entries: &[BlockEntry], lanes: usize) -> Arc<[StoredBlock]> {
    let path: Arc<str> = object.path.as_str().into();
    let held = |entry: &&BlockEntry| {
        matches!(entry.class.kind, BlockKind::ImpressionRows | BlockKind::ImpressionFeatures) && entry.lanes == lanes
    };
    let stored = |entry: &BlockEntry| {
        let BlockEntry { class, bucket, segment, .. } = *entry;
        Some(StoredBlock { class, bucket, segment, block: block_ref(&path, entry)? })
    };
    entries.iter().filter(held).filter_map(stored).collect()
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
        let parts = std::mem::replace(parts, Parts::new(self.lanes));
        self.commit(parts).map(Some)
    }

    fn commit(&mut self, parts: Parts) -> Result<Committed, RunError> {
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
        let mut sinks: Vec<SinkCut> = parts.sinks.into_iter().flatten().collect();
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
        let mut needed_from: Vec<_> = needed_from.into_iter().collect();
        let (outbox, written_bytes) = self.put_out(&mut sinks, &mut blocks, &mut needed_from)?;
        let Written { bytes: state_bytes, copied: copied_bytes, columns } =
            self.write_state(number, blocks, &needed_from)?;
        let files = self.collect_files(sinks, parts.dead_letters)?;
        let head = self.chain.head();
        let mut totals = head.totals;
        for entry in &files {
            if entry.sink == DEAD_LETTERS {
                totals.dead_letter_files += 1;
                totals.dead_letter_rows += entry.file.rows;
            } else if self.work.sides.contains_key(&entry.sink) {
                totals.side_files += 1;
                totals.side_rows += entry.file.rows;
            } else {
                totals.files += 1;
                totals.file_rows += entry.file.rows;
                totals.file_bytes += entry.file.bytes;
                let progress = self.work.files.entry(entry.file.sample.clone()).or_default();
                progress.files += 1;
                progress.rows += entry.file.rows;
                progress.bytes += entry.file.bytes;
            }
        }
        totals.state_bytes_written += state_bytes + written_bytes;
        totals.state_bytes_copied += copied_bytes;
        self.check_books(&counts, &conductor, totals.dead_letter_rows);
        let next = Manifest {
            cut: number,
            committed_at_ms: self.clock.now_ms(),
            layout: Layout { lanes: self.lanes, ..head.layout.clone() },
            inputs: conductor.inputs,
            tracks: conductor.tracks,
            watermark: conductor.watermark,
            outages: conductor.outages,
            online_instant: conductor.online_instant.or(head.online_instant),
            streams: conductor.streams.iter().cloned().collect(),
            counts,
            objects: self.objects.iter().map(|(object, _)| object.clone()).collect(),
            needed_from,
            handover: conductor.handover,
            files,
            places: self.places.clone(),
            outbox,
            totals,
            ..head.clone()
        };
        let manifest = self.chain.commit(next)?.clone();
        let published = self.publish(&manifest)?;
        self.work.outlets.committed(&self.objects, self.clock.monotonic_ms());
        self.hand_over(&manifest, sealed)?;
        self.garbage.committed(manifest.number);
        self.tell(&manifest, state_bytes, self.clock.monotonic_ms() - started, published, failed_values);
        Ok(Committed { cut: number, blocks: columns })
    }

    /// Adds the rows for topics to a cut, and says how far the outlets are then; with the bytes that the sinks wrote.
    fn put_out(
        &mut self,
        sinks: &mut [SinkCut],
        blocks: &mut Vec<EncodedBlock>,
        needed_from: &mut Vec<(BlockClass, i64)>,
    ) -> Result<(BTreeMap<String, OutboxMark>, u64), RunError> {
        let cuts: Vec<OutboxCut> = sinks.iter_mut().map(|sink| std::mem::take(&mut sink.outbox)).collect();
        let written = cuts.iter().flat_map(|cut| &cut.objects);
        written.clone().try_for_each(|(object, _)| {
            failpoint::step(Failpoint::StateVerify, || verify_object(self.state.as_ref(), object))
        })?;
        let fresh = cuts.iter().flat_map(|cut| cut.blocks.iter().map(EncodedBlock::entry));
        let fresh = fresh.chain(written.clone().flat_map(|(_, entries)| entries));
        let (head, outlets) = (self.chain.head(), &self.work.outlets);
        let marks = outlets.marks(head, fresh);
        needed_from.extend(outlets.needed_from(head, &marks));
        let bytes = written.map(|(object, _)| object.bytes).sum();
        for cut in cuts {
            blocks.extend(cut.blocks);
            self.objects.extend(cut.objects);
        }
        Ok((marks, bytes))
    }

    /// What goes to the other cells of the blocks of a cut.
    fn sealed(&self, blocks: &[EncodedBlock]) -> Vec<(String, Vec<u8>)> {
        let sealed = blocks.iter().filter(|block| block.entry().class.kind == BlockKind::Sealed);
        sealed.map(|block| (self.group_name(block.entry()), block.bytes().to_vec())).collect()
    }

    /// A group that is gone keeps its place in the sequence of parts.
    fn group_name(&self, entry: &BlockEntry) -> String {
        let layout = &self.chain.head().layout;
        let place = layout.group(entry.class.node);
        place.map_or_else(|| format!("#{}", entry.class.node), |place| layout.groups[place].name.clone())
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
            let of_head =
                |entry: &&BlockEntry| entry.class.kind == BlockKind::Sealed && entry.bucket == head.cut as i64;
            let entries: Vec<BlockEntry> = entries.iter().filter(of_head).cloned().collect();
            for block in read_encoded(self.state.as_ref(), object, &entries)? {
                let place = (block.entry().segment.lane, block.entry().segment.ordinal);
                sealed.push((place, self.group_name(block.entry()), block.bytes().to_vec()));
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
        mut blocks: Vec<EncodedBlock>,
        needed_from: &[(BlockClass, i64)],
    ) -> Result<Written, ObjectError> {
        let fresh = blocks.iter().map(EncodedBlock::entry);
        let needed = Needed::new(
            needed_from,
            &self.chain.head().layout,
            self.objects.iter().flat_map(|(_, entries)| entries).chain(fresh),
        );
        let is_needed = |entries: &[BlockEntry]| entries.iter().any(|entry| needed.needs(entry));
        let (last_named, epoch) = (self.chain.head().number, self.chain.head().epoch);
        let cut = Cut { last_named, now_ms: self.clock.monotonic_ms(), needed: &needed };
        let garbage = &mut self.garbage;
        self.objects.retain(|(object, entries)| {
            let keep = is_needed(entries);
            if !keep {
                garbage.dropped(last_named, &object.path);
            }
            keep
        });
        let mut written = Written::default();
        if !blocks.is_empty() {
            let state = self.state.as_ref();
            let compaction = &mut self.work.compaction;
            let copies = failpoint::step(Failpoint::StateCopy, || compaction.copy(state, &mut self.objects, &cut));
            written.copied = copies.iter().map(|block| block.entry().bytes).sum();
            blocks.extend(copies);
            let path = object_path(number, epoch, &self.writer);
            let (object, entries) = failpoint::step(Failpoint::StateWrite, || write_object(state, &path, blocks))?;
            failpoint::step(Failpoint::StateVerify, || verify_object(state, &object))?;
            written.bytes = object.bytes;
            written.columns = columns(&object, &entries, self.lanes);
            match is_needed(&entries) {
                true => self.objects.push((object, entries)),
                false => self.garbage.dropped(last_named, &object.path),
            }
        }
        self.work.compaction.release(&mut self.garbage, &cut);
        Ok(written)
    }

    /// All output files of the cut, verified.
    fn collect_files(&self, sinks: Vec<SinkCut>, dead_letters: Vec<StagedFile>) -> Result<Vec<FileEntry>, RunError> {
        let mut files = Vec::new();
        for (sink, file) in sinks.iter().flat_map(|sink| &sink.side_files) {
            let store = &self.work.sides[sink];
            failpoint::step(Failpoint::ParquetVerify, || verify(store.as_ref(), file))?;
            files.push(FileEntry { sink: sink.clone(), file: file.clone() });
        }
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

    /// F1 over the whole cell: what streams accepted since a use began is what that accounts for.
    fn check_books(&self, counts: &LaneCounts, conductor: &ConductorCut, dead_letter_rows: u64) {
        let head = self.chain.head();
        for (sample, counts) in counts.samples.iter().enumerate() {
            let base = |stream: usize| head.layout.samples[sample].base.get(stream).copied().unwrap_or(0);
            invariant!(F1, counts.anchor.balances(), "sample {sample}: {:?}", counts.anchor);
            invariant!(F1, counts.labels.iter().all(|label| label.balances()), "sample {sample}: {:?}", counts.labels);
            // What a manifest says may be any number.
            let accepted = conductor.anchor_accepted[sample].saturating_sub(base(0));
            invariant!(
                F1,
                counts.anchor.accepted() == accepted,
                "sample {sample}: {:?} of {accepted} rows",
                counts.anchor
            );
            for (number, (label, accepted)) in counts.labels.iter().zip(&conductor.label_accepted[sample]).enumerate() {
                let accepted = accepted.saturating_sub(base(number + 1));
                invariant!(F1, label.accepted() == accepted, "sample {sample}: {label:?} of {accepted} rows");
            }
        }
        let dead: u64 = conductor.streams.iter().map(|(_, account)| account.dead_lettered).sum();
        let dead = dead + head.dead_letters_gone;
        invariant!(F14, dead == dead_letter_rows, "{dead} rows were rejected, {dead_letter_rows} are in dead letters");
    }

    fn store_of(&self, manifest: &Manifest, sink: &str) -> Result<&Arc<dyn Store>, RunError> {
        // A claim repeats the files of the process before.
        if let Some(store) = self.left.get(sink).filter(|_| manifest.kind == ManifestKind::Claim) {
            return Ok(store);
        }
        if sink == DEAD_LETTERS {
            return Ok(&self.dead_letter_store);
        }
        if let Some(store) = self.work.sides.get(sink) {
            return Ok(store);
        }
        let of_sample = |(name, _): &&(String, _)| sink.strip_prefix("samples.") == Some(name);
        let store = self.samples.iter().find(of_sample).and_then(|(_, store)| store.as_ref());
        store.ok_or_else(|| {
            RunError::Unsupported(format!(
                "files of {sink} are committed, and nothing says where they are to be published: start once more with the \
                 pipeline file that wrote them"
            ))
        })
    }

    pub fn check_unpublished(&self, manifest: &Manifest) -> Result<(), RunError> {
        check_unpublished(manifest, &|sink| self.store_of(manifest, sink))
    }

    /// Gives the manifest's files their public names; done again at start, so it may be repeated.
    pub fn publish(&self, manifest: &Manifest) -> Result<usize, RunError> {
        publish_files(manifest, &|sink| self.store_of(manifest, sink))
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
        let mut by_part = StateMemory::default();
        manifest.counts.samples.iter().for_each(|sample| by_part += sample.memory);
        self.telemetry.state_memory(&by_part, manifest.counts.groups.iter().map(|group| group.memory_bytes).sum());
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
            for (join, delays) in names.joins.iter().zip(&counts.delays) {
                self.telemetry.label_delays(&names.name, join, delays);
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

/// Where the files of a sink lie.
type StoreOf<'f, 'a> = dyn Fn(&str) -> Result<&'a Arc<dyn Store>, RunError> + 'f;

/// What a dead process left committed and unpublished has lain there for who knows how long: it is read again, whole,
/// before anyone is to see it.
pub(super) fn check_unpublished<'a>(manifest: &Manifest, store_of: &StoreOf<'_, 'a>) -> Result<(), RunError> {
    for entry in &manifest.files {
        let store = store_of(&entry.sink)?;
        if store.size(&entry.file.staged)?.is_some() {
            verify_content(store.as_ref(), &entry.file)?;
        }
    }
    Ok(())
}

/// Gives the manifest's files their public names.
pub(super) fn publish_files<'a>(manifest: &Manifest, store_of: &StoreOf<'_, 'a>) -> Result<usize, RunError> {
    let mut published = 0;
    let mut by_sink: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for entry in &manifest.files {
        by_sink.entry(&entry.sink).or_default().push(entry.file.clone());
    }
    for (sink, files) in by_sink {
        published += publish(store_of(sink)?.as_ref(), &files)?;
    }
    Ok(published)
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
