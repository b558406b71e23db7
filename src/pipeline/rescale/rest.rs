//! Rest: takes an old chain over and finishes what it had begun, so that only open state is left to be dealt out.
//!
//!   claim ─> publish what the head names ─> rows that closed without a file: into files, in one more manifest
//!
//! Holds: whoever had the chain is fenced; the chain is as good as before, and may be gone on with if nothing follows.

use crate::cell::{CellScope, Lane, Mirror, feature_history};
use crate::commit::{Chain, Definition, FileEntry, Identity, Manifest, read_last};
use crate::config::Plan;
use crate::env::{Clock, Entropy, Place, Store, open_place, probe};
use crate::pipeline::RunError;
use crate::pipeline::build::{cell_spec, places};
use crate::pipeline::committer::{DEAD_LETTERS, check_unpublished, publish_files};
use crate::pipeline::left::left_behind;
use crate::pipeline::outages::outages_of;
use crate::pipeline::restore::{self, Objects, Sorted, through};
use crate::pipeline::sides::{SideFiles, side_files};
use crate::pipeline::sinks::{SinkGauge, SinkInput, SinkThread, SinkWork};
use crate::sink::{FileNaming, ParquetSink, older_staged, verify};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Where files go that a manifest names.
pub struct Outputs {
    /// Per sample.
    samples: Vec<Option<Arc<dyn Store>>>,
    names: Vec<String>,
    dead_letters: Arc<dyn Store>,
    /// By sink, with what their files are called.
    sides: BTreeMap<String, (String, Arc<dyn Store>)>,
}

/// Opens a place that is written to. A bucket must show first that it can be trusted.
pub fn open(place: &Place, entropy: &dyn Entropy) -> Result<Arc<dyn Store>, RunError> {
    let store = open_place(place)?;
    if matches!(place, Place::Bucket(_)) {
        probe(store.as_ref(), entropy)?;
    }
    Ok(store)
}

impl Outputs {
    pub fn open(plan: &Plan, entropy: &dyn Entropy) -> Result<Outputs, RunError> {
        let parquet = plan.samples.iter().map(|sample| sample.parquet.as_ref());
        let samples = parquet.map(|spec| spec.map(|spec| open(&spec.path, entropy)).transpose());
        let side = |side: SideFiles<'_>| Ok((side.name(), (side.stem(), open(&side.parquet.path, entropy)?)));
        Ok(Outputs {
            sides: side_files(plan).into_iter().map(side).collect::<Result<_, RunError>>()?,
            samples: samples.collect::<Result<_, _>>()?,
            names: plan.samples.iter().map(|sample| sample.sample.name.clone()).collect(),
            dead_letters: open(&plan.state.root.join("dead-letters"), entropy)?,
        })
    }

    fn of(&self, sink: &str) -> Option<&Arc<dyn Store>> {
        if sink == DEAD_LETTERS {
            return Some(&self.dead_letters);
        }
        if let Some((_, store)) = self.sides.get(sink) {
            return Some(store);
        }
        let name = sink.strip_prefix("samples.")?;
        self.samples[self.names.iter().position(|known| known == name)?].as_ref()
    }
}

/// An old cell that nobody else has, with nothing half done.
pub struct AtRest {
    pub cell: u32,
    pub place: Place,
    pub store: Arc<dyn Store>,
    pub head: Manifest,
    pub objects: Objects,
}

/// The identity of a claim by this process.
pub fn identity<'a>(
    plan: &'a Plan,
    definition: &'a Definition,
    resets: &'a BTreeSet<String>,
    writer: &str,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Identity<'a> {
    Identity {
        pipeline: &plan.pipeline,
        definition,
        resets,
        writer: writer.into(),
        chain: entropy.random_u64() as u32,
        now_ms: clock.now_ms(),
    }
}

impl AtRest {
    pub fn bring(
        plan: &Plan,
        (cell, place): (u32, Place),
        outputs: &Outputs,
        identity: &Identity<'_>,
        clock: &Arc<dyn Clock>,
    ) -> Result<AtRest, RunError> {
        let store = open_place(&place)?;
        let mut chain = Chain::claim(store.clone(), identity)?;
        let objects = restore::list(store.as_ref(), chain.head())?;
        let of = |sink: &str| {
            outputs.of(sink).ok_or_else(|| {
                RunError::Unsupported(format!(
                    "files of {sink} are committed, and nothing says where they are to be published: start once more with \
                     the pipeline file that wrote them"
                ))
            })
        };
        let left = left_behind(plan, chain.head())?;
        let before = |sink: &str| left.get(sink).map_or_else(|| of(sink), Ok);
        check_unpublished(chain.head(), &before)?;
        publish_files(chain.head(), &before)?;
        if let Some(rolled) = roll(plan, chain.head(), &store, &objects, outputs, clock)? {
            publish_files(chain.commit(rolled)?, &of)?;
        }
        Ok(AtRest { cell, place, store, head: chain.head().clone(), objects })
    }

    /// Whether the chain is as it was left here.
    pub fn is_ours(&self) -> Result<bool, RunError> {
        let last = read_last(self.store.as_ref())?;
        Ok(last.is_some_and(|(last, _)| (last.number, &last.writer) == (self.head.number, &self.head.writer)))
    }

    /// Deletes files that were written for this chain and that no manifest names: nobody can name them any more.
    pub fn sweep(&self, plan: &Plan, outputs: &Outputs) -> Result<(), RunError> {
        let named: BTreeSet<&str> = self.head.files.iter().map(|entry| entry.file.staged.as_str()).collect();
        let samples =
            outputs.names.iter().zip(&outputs.samples).filter_map(|(name, store)| Some((name, store.as_ref()?)));
        let letters = crate::sink::DEAD_LETTERS.to_string();
        let sides = outputs.sides.values().map(|(stem, store)| (stem, store));
        for (name, store) in samples.chain(sides).chain([(&letters, &outputs.dead_letters)]) {
            let naming = naming(plan, name, 0, &self.head);
            for (staged, _) in older_staged(store.as_ref(), &naming)? {
                if !named.contains(staged.path.as_str()) {
                    store.delete(&staged.path)?;
                }
            }
        }
        Ok(())
    }
}

fn naming(plan: &Plan, sample: &str, lane: usize, head: &Manifest) -> FileNaming {
    FileNaming {
        pipeline: plan.pipeline.clone(),
        sample: sample.into(),
        chain: head.chain,
        lane: lane as u16,
        epoch: head.epoch,
    }
}

/// Writes the rows that had closed but lie in no file. The manifest that names them is of the same cut: nothing else of
/// the state has changed.
fn roll(
    plan: &Plan,
    head: &Manifest,
    store: &Arc<dyn Store>,
    objects: &Objects,
    outputs: &Outputs,
    clock: &Arc<dyn Clock>,
) -> Result<Option<Manifest>, RunError> {
    if head.counts.samples.iter().all(|sample| sample.closed_through <= sample.filed_through) {
        return Ok(None);
    }
    let lanes = head.layout.lanes;
    let mut spec = cell_spec(plan, CellScope::WHOLE, &head.layout);
    spec.lanes = lanes;
    let spec = Arc::new(spec);
    let history = feature_history(&spec, Arc::new(Mirror::new(1, &[], &[])));
    let through: Vec<_> = head.counts.samples.iter().map(through).collect();
    let mut files = Vec::new();
    for number in 0..lanes {
        let mut lane = Lane::new(number, spec.clone(), history.clone());
        let needed_from = head.needed_from.iter().copied();
        let sorted = Sorted::new(store.as_ref(), objects, head, needed_from, Some((number, lanes)));
        let only = std::slice::from_mut(&mut lane);
        sorted.ids(only, |_| None)?;
        sorted.rows(only)?;
        sorted.labels(only)?;
        let mut sink = sink(plan, number, head, store, outputs, clock);
        for (sample, rows) in lane.finish_restore(head.counts.frontier, i64::MIN, &through, &outages_of(plan, head)) {
            sink.take(SinkInput::Closed { sample, rows, recount: false })?;
        }
        let cut = sink.take(SinkInput::Cut { number: head.cut, roll: true })?;
        for (sample, file) in cut.into_iter().flat_map(|cut| cut.files) {
            let sink = format!("samples.{}", outputs.names[sample]);
            let store = outputs.of(&sink).expect("a sample that has files has a store");
            verify(store.as_ref(), &file)?;
            files.push(FileEntry { sink, file });
        }
    }
    let places = places(plan).into_iter().map(|(sink, place)| (sink, place.to_string())).collect();
    let mut next = Manifest { committed_at_ms: clock.now_ms(), files, places, ..head.clone() };
    next.counts.samples.iter_mut().for_each(|sample| sample.filed_through = sample.closed_through);
    for entry in &next.files {
        next.totals.files += 1;
        next.totals.file_rows += entry.file.rows;
        next.totals.file_bytes += entry.file.bytes;
    }
    Ok(Some(next))
}

fn sink(
    plan: &Plan,
    lane: usize,
    head: &Manifest,
    state: &Arc<dyn Store>,
    outputs: &Outputs,
    clock: &Arc<dyn Clock>,
) -> SinkThread {
    let sinks = plan.samples.iter().zip(&outputs.samples).map(|(sample, store)| {
        let (spec, store) = (sample.parquet.as_ref()?, store.as_ref()?);
        let naming = naming(plan, &sample.sample.name, lane, head);
        Some(ParquetSink::new(spec, sample.sample.schema.clone(), naming, store.clone()))
    });
    SinkThread {
        lane,
        samples: plan.samples.clone(),
        sinks: sinks.collect(),
        state: state.clone(),
        clock: clock.clone(),
        gauge: Arc::new(SinkGauge::default()),
        // What had closed had waited long enough.
        enricher: None,
        // It is not run as a thread: what it gives is taken from its hand.
        cuts: crossbeam_channel::bounded(0).0,
        work: SinkWork::default(),
    }
}
