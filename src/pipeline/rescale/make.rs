//! Make: the cells of the new shape, with everything that they are to hold, before anything points at them.
//!
//!   blocks of all old cells ─> lanes of some new cells, each its share ─> one cut ─> one state object each
//!   books, positions ────────────────────────────────────────────────────────────> one manifest each
//!
//! As many cells at a time as `state.memory` lets expect to fit; all old blocks are read once for each lot.

use crate::cell::{CellScope, Lane, LaneInput, LaneOutput, Mirror, feature_history};
use crate::commit::{
    Chain, EncodedBlock, Handover, Layout, Manifest, ObjectEntry, encode_block, first_layout, object_path,
    verify_object, write_object,
};
use crate::config::Plan;
use crate::env::Store;
use crate::event::{BlockClass, BlockKind, CellMark, EventTime, KEY_GROUPS, LaneCounts, StreamAccount};
use crate::join::Through;
use crate::pipeline::build::{cell_spec, definition};
use crate::pipeline::rescale::books::Books;
use crate::pipeline::rescale::floor::Floor;
use crate::pipeline::rescale::gather::Gathered;
use crate::pipeline::rescale::shape::{Reading, Shape};
use crate::pipeline::restore::{RestoreError, Sorted};
use crate::pipeline::{RunError, exchanged_groups};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The number of the one cut that a new cell begins with.
const CUT: u64 = 1;
/// How many bytes of memory a byte of state is taken for: blocks are compressed, and rows are indexed.
const SWELL: u64 = 4;

/// What a chain begins with; one that has changed since is refused.
pub fn layout(plan: &Plan, lanes: usize) -> Layout {
    Layout { lanes, ..first_layout(&definition(plan), KEY_GROUPS) }
}

/// Everything that new cells are made of.
pub struct Making<'a> {
    pub plan: &'a Plan,
    pub shape: Shape,
    pub floor: &'a Floor,
    pub sorted: &'a [Sorted<'a>],
    pub gathered: &'a Gathered,
    /// Bytes of the old state.
    pub bytes: u64,
}

/// A new cell whose state is written and whose manifest is not.
pub struct Made {
    store: Arc<dyn Store>,
    chain: Chain,
    object: Option<ObjectEntry>,
    needed_from: BTreeMap<BlockClass, i64>,
    pub held: LaneCounts,
    pub sealed_rows: u64,
}

impl Made {
    pub fn bytes(&self) -> u64 {
        self.object.as_ref().map_or(0, |object| object.bytes)
    }

    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }
}

impl Making<'_> {
    /// Writes the state of every new cell; `claim` gives the chain of one.
    pub fn cells(
        &self,
        claim: &dyn Fn(u32) -> Result<(Arc<dyn Store>, Chain), RunError>,
    ) -> Result<Vec<Made>, RunError> {
        let count = self.shape.count();
        let lots = (self.bytes * SWELL).div_ceil(self.plan.state.memory_bytes.max(1)).clamp(1, count as u64);
        let mut made = Vec::with_capacity(count as usize);
        for lot in (0..count).collect::<Vec<_>>().chunks((count as u64).div_ceil(lots) as usize) {
            let mut lanes = self.lanes(lot);
            self.fill(&mut lanes)?;
            for (cell, lanes) in lot.iter().zip(lanes.chunks_mut(self.shape.lanes)) {
                let (store, chain) = claim(*cell)?;
                made.push(self.write(store, chain, lanes)?);
            }
        }
        Ok(made)
    }

    /// The empty lanes of some cells, cell by cell.
    fn lanes(&self, cells: &[u32]) -> Vec<Lane> {
        let groups: Vec<_> = self.plan.groups.iter().cloned().map(Arc::new).collect();
        let of = |cell: &u32| {
            let scope = CellScope { cell: *cell, cells: self.shape.count() };
            let mut spec = cell_spec(self.plan, scope, &layout(self.plan, self.shape.lanes));
            spec.lanes = self.shape.lanes;
            let mirror = match self.shape.cells {
                Some(cells) => Mirror::new(cells, &groups, &exchanged_groups(self.plan)),
                None => Mirror::new(1, &[], &[]),
            };
            let (spec, mirror) = (Arc::new(spec), Arc::new(mirror));
            let history = feature_history(&spec, mirror);
            (0..self.shape.lanes).map(|number| Lane::new(number, spec.clone(), history.clone())).collect::<Vec<_>>()
        };
        cells.iter().flat_map(of).collect()
    }

    /// Every lane takes its share of all that the old cells hold.
    fn fill(&self, lanes: &mut [Lane]) -> Result<(), RunError> {
        let exchanged = exchanged_groups(self.plan);
        self.sorted.iter().try_for_each(|old| old.ids(lanes, |sample| self.floor.closed_through[sample]))?;
        self.sorted.iter().try_for_each(|old| old.rows(lanes))?;
        self.sorted.iter().try_for_each(|old| old.labels(lanes))?;
        self.sorted.iter().try_for_each(|old| old.features(lanes, |group| !exchanged[group]))?;
        let through: Vec<_> = self.floor.closed_through.iter().map(at_rest).collect();
        for lane in lanes {
            for (group, blocks) in self.gathered {
                blocks.iter().try_for_each(|rows| lane.deal(*group, rows)).map_err(RestoreError::from)?;
            }
            let closed = lane.finish_restore(self.floor.frontier, EventTime::MIN, &through, &[]);
            if !closed.is_empty() {
                return Err(RunError::Unsupported(
                    "rows that had closed came back as open ones: this is a bug in conjoin; nothing was changed".into(),
                ));
            }
            lane.write_anew();
        }
        Ok(())
    }

    /// Cuts the lanes of a cell once, and writes what they gave.
    fn write(&self, store: Arc<dyn Store>, chain: Chain, lanes: &mut [Lane]) -> Result<Made, RunError> {
        let (mut blocks, mut needed_from): (Vec<EncodedBlock>, BTreeMap<_, i64>) = (Vec::new(), BTreeMap::new());
        let (mut held, mut sealed_rows) = (LaneCounts { frontier: EventTime::MIN, ..LaneCounts::default() }, 0);
        for lane in lanes {
            let mut out = LaneOutput::default();
            lane.step(LaneInput::Cut { number: CUT, roll: false, sealed: self.floor.watermark }, &mut out);
            let cut = out.cut.expect("a cut was asked for");
            held.add(&cut.counts);
            for (class, bucket) in cut.needed_from {
                needed_from.entry(class).and_modify(|first| *first = bucket.min(*first)).or_insert(bucket);
            }
            for block in cut.blocks {
                if block.class.kind == BlockKind::Sealed {
                    sealed_rows += block.rows.num_rows() as u64;
                }
                blocks.push(encode_block(&block, self.shape.lanes)?);
            }
        }
        let mut object = None;
        if !blocks.is_empty() {
            let path = object_path(CUT, chain.head().epoch, &chain.head().writer);
            let (written, _) = write_object(store.as_ref(), &path, blocks)?;
            verify_object(store.as_ref(), &written)?;
            object = Some(written);
        }
        Ok(Made { store, chain, object, needed_from, held, sealed_rows })
    }

    /// Commits a new cell: what it holds becomes true, for those who come to know its name.
    pub fn commit(&self, made: Made, mut books: Books, reading: Reading, now_ms: i64) -> Result<Manifest, RunError> {
        let Made { mut chain, object, needed_from, held, .. } = made;
        books.counts.add(&held);
        books.totals.state_bytes_written += object.as_ref().map_or(0, |object| object.bytes);
        for (sample, through) in books.counts.samples.iter_mut().zip(&self.floor.closed_through) {
            (sample.closed_through, sample.filed_through) = (*through, *through);
        }
        let plan = self.plan;
        let names: Vec<String> = plan.streams.iter().map(|stream| stream.name.clone()).collect();
        let streams =
            names.iter().cloned().zip(books.streams.into_iter().chain(std::iter::repeat(StreamAccount::default())));
        let mark = CellMark {
            watermark: self.floor.watermark,
            needed: EventTime::MIN,
            idle: false,
            published: EventTime::MIN,
        };
        let exchanged = exchanged_groups(plan);
        let groups = plan.groups.iter().zip(exchanged).filter(|(_, exchanged)| *exchanged);
        let since: BTreeMap<_, _> = groups.map(|(group, _)| (group.name.clone(), EventTime::MIN)).collect();
        let next = Manifest {
            cut: CUT,
            committed_at_ms: now_ms,
            layout: layout(plan, self.shape.lanes),
            inputs: reading.inputs,
            tracks: reading.tracks,
            watermark: self.floor.watermark,
            online_instant: self.floor.online_instant,
            streams: streams.collect(),
            counts: books.counts,
            objects: object.into_iter().collect(),
            needed_from: needed_from.into_iter().collect(),
            handover: self.shape.cells.map(|_| Handover { mark, moved: Vec::new(), since: since.clone() }),
            totals: books.totals,
            dead_letters_gone: books.dead_letters_gone,
            ..chain.head().clone()
        };
        Ok(chain.commit(next)?.clone())
    }
}

/// All that has closed lies in files.
fn at_rest(through: &Option<u32>) -> Through {
    Through { closed: *through, filed: *through, emitted: None }
}
