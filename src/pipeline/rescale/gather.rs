//! Gather: the features of entities that belong to no cell, out of all old cells and the topic by which they told each other.
//!
//!   state of each cell ── what it has not handed over ──┐
//!   topic, last commit of each cell ── what was sealed ─┴─ merge ──> all there is of each entity
//!
//! Holds: each tile is added once: copies are known by their number, a hole in the sequence of a cell is an error.
//! Does not: roll anything up: what follows seals parts of it.

use crate::cell::{LaneRestoreError, Mirror, Sequence};
use crate::commit::{block_ref, read_block};
use crate::config::Plan;
use crate::event::{BlockKind, Watermark};
use crate::feature::{GroupStore, StateKind};
use crate::pipeline::exchange::Told;
use crate::pipeline::generation::Generation;
use crate::pipeline::rescale::Brokers;
use crate::pipeline::rescale::rest::AtRest;
use crate::pipeline::restore::{RestoreError, Sorted};
use crate::pipeline::{RunError, exchanged_groups};
use arrow::array::RecordBatch;
use std::sync::Arc;

/// Per group of the plan that is exchanged, all its rows.
pub type Gathered = Vec<(usize, Vec<RecordBatch>)>;

fn failed(error: crate::feature::StateError) -> RunError {
    RestoreError::from(LaneRestoreError::from(error)).into()
}

/// `source` is the generation of the old cells, where they are a group's. Nothing before `needed` will be asked for.
pub fn gather(
    plan: &Plan,
    brokers: &dyn Brokers,
    source: Option<&Generation>,
    old: &[AtRest],
    sorted: &[Sorted<'_>],
    needed: i64,
) -> Result<Gathered, RunError> {
    let exchanged = exchanged_groups(plan);
    let empty = |(number, spec): (usize, &crate::feature::GroupSpec)| {
        let mut store = GroupStore::outgoing(number as u16, Arc::new(spec.clone()));
        // While it is empty this rolls nothing up: it only says what need not come in.
        store.advance(Watermark::MIN, needed);
        exchanged[number].then_some(store)
    };
    let mut stores: Vec<Option<GroupStore>> = plan.groups.iter().enumerate().map(empty).collect();
    for (number, store) in stores.iter_mut().enumerate() {
        let Some(store) = store else { continue };
        for (cell, sorted) in old.iter().zip(sorted) {
            let mut open = GroupStore::outgoing(number as u16, Arc::new(plan.groups[number].clone()));
            for rows in sorted.feature_rows(number) {
                open.restore(&rows?, &|_| true).map_err(failed)?;
            }
            if let Some(handover) = &cell.head.handover {
                open.forget_sealed(handover.mark.watermark);
            }
            open.write_anew();
            for block in open.snapshot() {
                match block.kind {
                    StateKind::Ids => store.restore(&block.rows, &|_| true),
                    StateKind::Tiles | StateKind::Entries => store.merge(&block.rows),
                }
                .map_err(failed)?;
            }
        }
    }
    if let Some(generation) = source.filter(|generation| generation.cells.is_some() && exchanged.contains(&true)) {
        sealed(plan, brokers, generation, old, &mut |group, rows| match stores.get_mut(group) {
            Some(Some(store)) => store.merge(rows).map_err(failed),
            _ => Ok(()),
        })?;
    }
    let all = stores.into_iter().enumerate().filter_map(|(number, store)| {
        let mut store = store?;
        store.write_anew();
        Some((number, store.snapshot().into_iter().map(|block| block.rows).collect()))
    });
    Ok(all.collect())
}

/// Everything that the cells handed over, each part once.
fn sealed(
    plan: &Plan,
    brokers: &dyn Brokers,
    generation: &Generation,
    old: &[AtRest],
    take: &mut dyn FnMut(usize, &RecordBatch) -> Result<(), RunError>,
) -> Result<(), RunError> {
    let heard = Mirror::new(generation.cells.unwrap_or(1), &[], &[]);
    let topic = generation.topic();
    let number = |name: &str| plan.groups.iter().position(|group| group.name == name).unwrap_or(usize::MAX);
    let broken = |error: crate::cell::MirrorError| RunError::Exchange(format!("{topic}: {error}"));
    if old.iter().any(|cell| cell.head.cut > 1) {
        brokers.told(plan, &topic, &mut |told| match told {
            Told::Part { cell, at, group, rows } => match heard.part(cell, at, usize::MAX, &rows).map_err(broken)? {
                true => take(number(&group), &rows),
                false => Ok(()),
            },
            Told::Mark { cell, at, mark } => heard.mark(cell, at, mark, &[], Vec::new(), 0).map(drop).map_err(broken),
        })?;
    }
    // Nobody knows whether the last commit of a cell came through; where it is the first one there may be no topic yet.
    for cell in old {
        let Some(handover) = &cell.head.handover else { continue };
        let (chain, cut) = (cell.head.chain, cell.head.cut);
        let mut parts = of_head(cell)?;
        parts.sort_by_key(|(place, ..)| *place);
        for (part, (_, group, rows)) in parts.iter().enumerate() {
            if heard.part(cell.cell, Sequence { chain, cut, part: part as u32 }, usize::MAX, rows).map_err(broken)? {
                take(*group, rows)?;
            }
        }
        let at = Sequence { chain, cut, part: parts.len() as u32 };
        heard.mark(cell.cell, at, handover.mark, &[], Vec::new(), 0).map_err(broken)?;
    }
    Ok(())
}

/// Rows that were sealed: their lane and ordinal, which order them, and the place of their group.
type SealedPart = ((u16, u32), usize, RecordBatch);

/// What the last commit of a cell sealed, with the place in its sequence.
fn of_head(cell: &AtRest) -> Result<Vec<SealedPart>, RunError> {
    let mut parts = Vec::new();
    for (object, entries) in &cell.objects {
        let path: Arc<str> = object.path.as_str().into();
        let sealed = |entry: &&crate::commit::BlockEntry| {
            entry.class.kind == BlockKind::Sealed && entry.bucket == cell.head.cut as i64
        };
        for entry in entries.iter().filter(sealed) {
            let block = block_ref(&path, entry).ok_or_else(|| RestoreError::Block {
                path: cell.store.describe(&path),
                reason: format!("sha256 {}", entry.sha256),
            })?;
            let rows = read_block(cell.store.as_ref(), &block)?;
            let group = cell.head.layout.group(entry.class.node).unwrap_or(usize::MAX);
            parts.push(((entry.segment.lane, entry.segment.ordinal), group, rows));
        }
    }
    Ok(parts)
}
