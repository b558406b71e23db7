//! Rescale: deals the state of a stopped pipeline out to another number of cells, partitions or lanes, key by key.
//!
//!   old chains ─ claim ─> at rest ─ read ─> lanes of the new shape ─ one cut each ─> cells/NEW NAME/N/
//!                                                                                      │ nothing points there yet
//!   generations/N + 1.json, create-only: the switch ───────────────────────────────────┘
//!
//! In: a pipeline file, which says what the new shape is; the newest generation, or the chain of one process. Out: a new
//! generation, whose cells hold each row, tile and count of the old ones exactly once.
//! Holds: before the switch the old state is as good as ever, after it the new one; what a crash leaves behind is deleted by
//! the next rescale. Whoever still runs is fenced; a process that takes an old chain back meanwhile is found out before the
//! switch, and again after it. What the new cells hold must be what the old ones held, or nothing is switched.
//! Does not: move records between topics, or start anything.
//!
//! How each kind of state goes over, and why that is exact:
//!
//! - **Rows, labels, ids** go to the cell of their home, the number that the partitioner gives their `partition_by`.
//! - **Time**: new cells start at the lowest watermark of the old ones (see `floor`); what each partition has promised goes
//!   with the partition.
//! - **Features whose entity is the partitioning key** go to the cell of the entity.
//! - **Features of other entities**: everything that is known of an entity is gathered (see `gather`) and dealt to the cell
//!   that its own key would fall into. What is complete below the common watermark is sealed with the cell's first commit,
//!   which its first process hands over to the new internal topic as it would hand over any last commit; what is not
//!   complete stays open in that one cell and is sealed in its time. So nothing is written to a topic here, and every tile is
//!   added to every mirror once.
//! - **Accounts** (see `books`): what is held is counted where it is held; history goes to cell 0, but for as many rows as
//!   the other cells need to balance.
//! - **Rows on their way to topics** do not go over: they are sent first, or the rescale is refused.
//! - **Files** that were ever committed are listed in the catalog of cell 0. Dead letters stay where they are.

mod books;
mod brokers;
mod floor;
mod gather;
mod make;
mod rest;
mod shape;

pub use brokers::{Brokers, KafkaBrokers};
pub use shape::{Extents, Shape};

use crate::commit::{Chain, Manifest, OutboxMark, inherit_files, read_for};
use crate::config::Plan;
use crate::env::{Clock, Created, Entropy, Place, Store, open_place};
use crate::event::BlockClass;
use crate::join::Emit;
use crate::pipeline::RunError;
use crate::pipeline::build::definition;
use crate::pipeline::generation::Generation;
use crate::pipeline::restore::Sorted;
use books::{Books, Uses, split};
use floor::floor;
use make::Making;
use rest::{AtRest, Outputs};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What may be asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct RescaleOptions {
    /// How many partitions the topics have; needed where the brokers cannot be asked.
    pub partitions: Option<u32>,
    /// Only look.
    pub dry_run: bool,
}

/// What was done, or would be.
#[derive(Clone, Debug)]
pub struct Rescaled {
    pub from: Shape,
    pub to: Shape,
    /// The number of the new generation; `None` where nothing was to be done.
    pub generation: Option<u32>,
    pub pending: u64,
    pub waiting: u64,
    /// Tiles and single values of features, those included that are handed over at the first start.
    pub tiles: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
    pub took_ms: u64,
}

/// The chains of the old shape.
struct Source {
    generation: Option<Generation>,
    chains: Vec<(u32, Place)>,
}

impl Source {
    fn find(plan: &Plan, root: &dyn Store) -> Result<Source, RunError> {
        let generation = Generation::read(root)?;
        let chains = Generation::chains(generation.as_ref(), &plan.state.root);
        Ok(Source { generation, chains })
    }

    fn cells(&self) -> Option<u32> {
        self.generation.as_ref().and_then(|generation| generation.cells)
    }

    /// The newest manifest of each chain that has any, untouched; refused as a claim would be.
    fn heads(&self, plan: &Plan) -> Result<Vec<Manifest>, RunError> {
        let (mut heads, definition) = (Vec::new(), definition(plan));
        for (_, place) in &self.chains {
            if place.folder().is_some_and(|folder| !folder.is_dir()) {
                continue;
            }
            let Some(head) = read_for(open_place(place)?.as_ref(), &plan.pipeline, &definition)? else { continue };
            let unchanged = make::layout(plan, head.layout.lanes);
            if head.semantics != plan.semantics || head.layout != unchanged {
                return Err(RunError::Unsupported(format!(
                    "{place}: the pipeline file has changed since the state began, and such state cannot be dealt out anew \
                     yet. Nothing was changed. Let it go on in its shape, or start anew with --fresh"
                )));
            }
            heads.push(head);
        }
        Ok(heads)
    }
}

/// Brings the state of a stopped pipeline into the shape that its file asks for.
pub fn rescale(
    plan: &Plan,
    options: RescaleOptions,
    brokers: &dyn Brokers,
    clock: &Arc<dyn Clock>,
    entropy: &dyn Entropy,
) -> Result<Rescaled, RunError> {
    let started_ms = clock.monotonic_ms();
    // Cells that stood at different times have different rows out already, which state that is dealt out does not tell.
    if let Some(sample) = plan.samples.iter().find(|sample| sample.join.emit != Emit::Wait) {
        return Err(RunError::Unsupported(format!(
            "`samples.{}.emit`: rows leave before their impressions close, and a rescale cannot tell yet which ones have; only \
             `mode: wait` can be rescaled",
            sample.sample.name
        )));
    }
    let extents = match brokers.extents(plan) {
        Ok(extents) => extents,
        Err(error) if error.retry() && options.partitions.is_some() => {
            tracing::warn!("{error}; going by --partitions");
            Extents::new()
        }
        Err(error) => return Err(error.into()),
    };
    if plan.state.root.folder().is_some_and(|folder| !folder.is_dir()) {
        return Err(nothing(plan));
    }
    let root = open_place(&plan.state.root)?;
    let source = Source::find(plan, root.as_ref())?;
    let heads = source.heads(plan)?;
    refuse_unsent(&heads)?;
    let newest = heads.iter().max_by_key(|head| head.cut).ok_or_else(|| nothing(plan))?;
    let cells = shape::cells_wanted(plan, &extents, options.partitions)?;
    let from = Shape { cells: source.cells(), lanes: newest.layout.lanes };
    let to = Shape { cells, lanes: plan.state.lanes };
    let held = |of: &dyn Fn(&Manifest) -> u64| heads.iter().map(of).sum::<u64>();
    let mut rescaled = Rescaled {
        from,
        to,
        generation: None,
        pending: held(&|head| head.counts.samples.iter().map(|sample| sample.anchor.pending).sum()),
        waiting: held(&|head| {
            head.counts.samples.iter().flat_map(|sample| &sample.labels).map(|label| label.waiting).sum()
        }),
        tiles: held(&|head| head.counts.groups.iter().map(|group| group.tiles).sum()),
        bytes_read: held(&|head| head.objects.iter().map(|object| object.bytes).sum()),
        bytes_written: 0,
        took_ms: 0,
    };
    let before: Vec<&Manifest> = heads.iter().collect();
    let readings = shape::readings(plan, &before, &extents, cells)?;
    let grown = readings.iter().flat_map(|reading| &reading.inputs).map(|input| input.next.len()).sum::<usize>()
        != heads.iter().flat_map(|head| &head.inputs).map(|input| input.next.len()).sum::<usize>();
    if from.cells == to.cells && !grown {
        return Ok(rescaled);
    }
    rescaled.generation = Some(source.generation.as_ref().map_or(1, |generation| generation.number + 1));
    if options.dry_run {
        return Ok(rescaled);
    }
    Move { plan, extents: &extents, brokers, clock, entropy, root, source }.run(&mut rescaled)?;
    rescaled.took_ms = clock.monotonic_ms() - started_ms;
    Ok(rescaled)
}

/// A row that is sent again must have the identity that it had: the number of a commit that its own chain made.
fn refuse_unsent(heads: &[Manifest]) -> Result<(), RunError> {
    let unsent = |outlet: &str| heads.iter().filter_map(|head| head.outbox.get(outlet)).map(OutboxMark::waiting).sum();
    let outlets: BTreeSet<&String> = heads.iter().flat_map(|head| head.outbox.keys()).collect();
    match outlets.into_iter().map(|outlet| (outlet, unsent(outlet))).find(|(_, rows): &(_, u64)| *rows > 0) {
        None => Ok(()),
        Some((outlet, rows)) => Err(RunError::Unsupported(format!(
            "{rows} rows of {outlet} are committed and not in their topic yet, and only the cells that committed them can \
             send them. Nothing was changed. Start the pipeline in its present shape until `conjoin inspect` shows that none \
             wait, stop it in order, then rescale again"
        ))),
    }
}

fn nothing(plan: &Plan) -> RunError {
    RunError::Unsupported(format!(
        "there is no state in {} yet: there is nothing to deal out, `conjoin run` starts in any shape",
        plan.state.root
    ))
}

struct Move<'a> {
    plan: &'a Plan,
    extents: &'a Extents,
    brokers: &'a dyn Brokers,
    clock: &'a Arc<dyn Clock>,
    entropy: &'a dyn Entropy,
    root: Arc<dyn Store>,
    source: Source,
}

impl Move<'_> {
    fn run(&self, rescaled: &mut Rescaled) -> Result<(), RunError> {
        let outputs = Outputs::open(self.plan, self.entropy)?;
        let old = self.bring_to_rest(&outputs)?;
        self.forget_others()?;
        let number = rescaled.generation.expect("it is set where anything is done");
        let generation = Generation::new(self.plan, number, rescaled.to.cells, self.entropy);
        self.make(&generation, &old, rescaled)?;
        self.switch(&generation, &old)?;
        for cell in &old {
            if let Err(error) = cell.sweep(self.plan, &outputs) {
                tracing::warn!("{error}; what an earlier run had not finished stays beside the samples");
            }
        }
        Ok(())
    }

    fn bring_to_rest(&self, outputs: &Outputs) -> Result<Vec<AtRest>, RunError> {
        let writer = format!("{:08x}", self.entropy.random_u64() as u32);
        let (definition, resets) = (definition(self.plan), BTreeSet::new());
        let identity = rest::identity(self.plan, &definition, &resets, &writer, self.clock.as_ref(), self.entropy);
        let bring = |chain: &(u32, Place)| AtRest::bring(self.plan, chain.clone(), outputs, &identity, self.clock);
        self.source.chains.iter().map(bring).collect()
    }

    /// Deletes what an unfinished rescale has made, and what the last one moved away from.
    fn forget_others(&self) -> Result<(), RunError> {
        let current = self.source.generation.as_ref().map(|generation| format!("cells/{}/", generation.name));
        let mut prefixes = vec!["cells/"];
        if current.is_some() {
            prefixes.extend(["manifests/", "state/", "catalog/"]);
        }
        for prefix in prefixes {
            for object in self.root.list(prefix)? {
                if current.as_ref().is_none_or(|current| !object.path.starts_with(current)) {
                    self.root.delete(&object.path)?;
                }
            }
        }
        Ok(())
    }

    fn make(&self, generation: &Generation, old: &[AtRest], rescaled: &mut Rescaled) -> Result<(), RunError> {
        let heads: Vec<&Manifest> = old.iter().map(|cell| &cell.head).collect();
        let readings = shape::readings(self.plan, &heads, self.extents, rescaled.to.cells)?;
        let floor = floor(&heads, self.plan.samples.len());
        let sort = |cell| sorted(self.plan, cell);
        let sorted: Vec<Sorted<'_>> = old.iter().map(sort).collect();
        let gathered =
            gather::gather(self.plan, self.brokers, self.source.generation.as_ref(), old, &sorted, floor.needed)?;
        let (plan, shape, bytes) = (self.plan, rescaled.to, rescaled.bytes_read);
        let making = Making { plan, shape, floor: &floor, sorted: &sorted, gathered: &gathered, bytes };
        let made = making.cells(&|cell| self.claim(generation, cell, &heads))?;
        let (mut whole, uses) = (Books::default(), Uses::of(self.plan));
        heads.iter().for_each(|head| whole.add(&books_of(self.plan, head)));
        let held: Vec<_> = made.iter().map(|made| made.held.clone()).collect();
        let parts = split(&whole, &held, &uses).map_err(|found| {
            RunError::Unsupported(format!("{found}: this is a bug in conjoin. Nothing was changed"))
        })?;
        rescaled.bytes_written = made.iter().map(make::Made::bytes).sum();
        rescaled.tiles = made.iter().map(|made| made.sealed_rows).sum::<u64>()
            + held.iter().flat_map(|held| &held.groups).map(|group| group.tiles).sum::<u64>();
        let stores: Vec<&dyn Store> = old.iter().map(|cell| cell.store.as_ref()).collect();
        inherit_files(&stores, made[0].store())?;
        for ((made, books), reading) in made.into_iter().zip(parts).zip(readings) {
            making.commit(made, books, reading, self.clock.now_ms())?;
        }
        Ok(())
    }

    /// Births the chain of a new cell. It is younger than all that went before: online features go by that.
    fn claim(
        &self,
        generation: &Generation,
        cell: u32,
        old: &[&Manifest],
    ) -> Result<(Arc<dyn Store>, Chain), RunError> {
        let store = open_place(&generation.cell(&self.plan.state.root, cell))?;
        let writer = format!("{:08x}", self.entropy.random_u64() as u32);
        let (definition, resets) = (definition(self.plan), BTreeSet::new());
        let mut identity = rest::identity(self.plan, &definition, &resets, &writer, self.clock.as_ref(), self.entropy);
        let youngest = old.iter().map(|head| head.born_at_ms + 1).max().unwrap_or(0);
        identity.now_ms = identity.now_ms.max(youngest);
        let chain = Chain::claim(store.clone(), &identity)?;
        Ok((store, chain))
    }

    /// The one write that makes the new cells the state.
    fn switch(&self, generation: &Generation, old: &[AtRest]) -> Result<(), RunError> {
        self.refuse_others(old)?;
        if generation.write(self.root.as_ref())? == Created::AlreadyThere {
            return Err(RunError::Unsupported(
                "another rescale was faster; nothing was changed by this one. Look at the state with `conjoin inspect`"
                    .into(),
            ));
        }
        if let Err(error) = self.refuse_others(old) {
            generation.withdraw(self.root.as_ref())?;
            return Err(error);
        }
        Ok(())
    }

    /// A process that still runs, or was started meanwhile, has gone on with an old chain: its work would be lost.
    fn refuse_others(&self, old: &[AtRest]) -> Result<(), RunError> {
        for cell in old {
            if !cell.is_ours()? {
                return Err(RunError::Unsupported(format!(
                    "{}: another process has taken it over while it was dealt out; nothing was changed. Stop every process of \
                     the pipeline, then rescale again",
                    cell.place
                )));
            }
        }
        Ok(())
    }
}

/// The blocks that are needed of an old cell. Labels that had expired there must not come back where time is less far.
fn sorted<'a>(plan: &Plan, cell: &'a AtRest) -> Sorted<'a> {
    let mut needed_from: BTreeMap<BlockClass, i64> = cell.head.needed_from.iter().copied().collect();
    let frontier = crate::event::Watermark(cell.head.counts.frontier);
    for (node, sample) in plan.samples.iter().enumerate() {
        for part in 0..sample.join.labels.len() {
            let until = sample.join.labels_needed_from(part, frontier) as i64;
            for kind in [crate::event::BlockKind::Labels, crate::event::BlockKind::LabelStates] {
                let class = BlockClass { kind, node: node as u16, part: part as u16 };
                needed_from.entry(class).and_modify(|first| *first = until.max(*first)).or_insert(until);
            }
        }
    }
    Sorted::new(cell.store.as_ref(), &cell.objects, &cell.head, needed_from.into_iter(), None)
}

fn books_of(plan: &Plan, head: &Manifest) -> Books {
    let account = |stream: &crate::config::StreamPlan| head.streams.get(&stream.name).copied().unwrap_or_default();
    Books {
        streams: plan.streams.iter().map(account).collect(),
        counts: head.counts.clone(),
        totals: head.totals,
        dead_letters_gone: head.dead_letters_gone,
    }
}
