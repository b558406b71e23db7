//! Start: takes the chain over, brings the state back, starts every thread, and waits for the end.

use crate::cell::{CellScope, Lane, Mirror, feature_history};
use crate::commit::{Chain, ChainError, Definition, Identity, Manifest, read_last};
use crate::config::{Plan, StreamPlan};
use crate::decode::Decoder;
use crate::env::failpoint::{self, Failpoint};
use crate::env::{Clock, Entropy, Place, Store, open_place, probe};
use crate::event::{PartitionId, Positions, Track};
use crate::online::{OnlineStore, OnlineWriter, WriterLimits};
use crate::pipeline::build::{cell_spec, definition, places, routed_streams};
use crate::pipeline::committer::{BookNames, CommitWork, Committer, DEAD_LETTERS, GroupNames, SampleNames};
use crate::pipeline::conductor::{Conductor, Ending, Names};
use crate::pipeline::enrich::decode_workers;
use crate::pipeline::exchange::Exchange;
use crate::pipeline::garbage::{Collector, GarbageOutlet, NOTES_MAX, SinkPlace};
use crate::pipeline::generation::{check_current, single_path};
use crate::pipeline::intake::{Decoding, Intake, PauseList};
use crate::pipeline::lanes::{Frontier, LaneOutlets, ONLINE_FLUSH_MAX, OnlineOutlet};
use crate::pipeline::left::left_behind;
use crate::pipeline::memory::{CellMemory, StateMemoryLimit};
use crate::pipeline::outages::outages_of;
use crate::pipeline::outbox::OutboxParts;
use crate::pipeline::progress::Progress;
use crate::pipeline::restore::{self, Objects};
use crate::pipeline::sides::{SideSinks, SideStores, correction_sinks, side_files, side_stores};
use crate::pipeline::sinks::{SinkThread, SinkWork};
use crate::pipeline::timekeeper::Timekeeper;
use crate::pipeline::{Board, Dimensions, Failure, Phase, RunError, Schemas, StopSignal, sources, workers};
use crate::route::Router;
use crate::sink::{DeadLetterSink, FileNaming, ParquetSink};
use crate::source::InputKind;
use crate::telemetry::Telemetry;
use crossbeam_channel::bounded;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Cut parts and rejects that wait for the committer.
const CUT_QUEUE_MAX: usize = 64;

/// How a pipeline is to run.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Stop at the end that each Kafka partition has now.
    pub until_end: bool,
    /// With `until_end`, close what is pending. File inputs always close by themselves.
    pub close: bool,
    /// Forget all state first.
    pub fresh: bool,
    /// Which part of the pipeline runs.
    pub scope: CellScope,
    /// Nodes whose state is forgotten, such as `joins.ctr`.
    pub resets: BTreeSet<String>,
}

/// Everything of the outside that a run touches, apart from its inputs.
pub struct World {
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub online: Arc<dyn OnlineStore>,
    pub telemetry: Arc<Telemetry>,
    pub board: Board,
    pub stop: StopSignal,
    /// The other cells of the pipeline, where there are any.
    pub exchange: Option<Arc<dyn Exchange>>,
    /// What the state of all cells of this process may take together.
    pub memory: Arc<StateMemoryLimit>,
    /// What rows are enriched from, where the process has opened it already.
    pub dimensions: Option<Arc<Dimensions>>,
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct RunSummary {
    pub view: crate::pipeline::RunView,
    /// The manifest that the run ended with.
    pub head: u64,
    /// Feature rows that the online store did not take in time; they are written again at the next start.
    pub online_left: u64,
}

/// Runs the plan until its inputs end, a stop is requested, or something fails.
pub fn run(plan: Arc<Plan>, options: RunOptions, world: World) -> Result<RunSummary, RunError> {
    let state = open(&plan.state.path, &world)?;
    if options.fresh {
        for object in state.list("")? {
            state.delete(&object.path)?;
        }
    }
    let (plan, state) = match options.scope.is_whole() {
        true => settled(plan, state, &world)?,
        false => (plan, state),
    };
    let started_ms = world.clock.monotonic_ms();
    world.board.update(|view| {
        view.started_ms = started_ms;
        view.now_ms = started_ms;
    });
    let Some(dimensions) = Dimensions::of_run(&plan, &world)? else {
        // A stop came before anything was claimed.
        return Ok(RunSummary { view: world.board.view(), head: 0, online_left: 0 });
    };
    let result = Start { plan, options, world: &world, state, dimensions, started_ms }.run();
    world.board.update(|view| view.phase = Phase::Ended);
    result
}

/// The plan of a process that reads all partitions, with its chain where it lies.
fn settled(plan: Arc<Plan>, state: Arc<dyn Store>, world: &World) -> Result<(Arc<Plan>, Arc<dyn Store>), RunError> {
    let path = single_path(&plan, state.as_ref())?;
    if path == plan.state.path {
        return Ok((plan, state));
    }
    let mut moved = Plan::clone(&plan);
    moved.state.path = path;
    let state = open(&moved.state.path, world)?;
    Ok((Arc::new(moved), state))
}

/// Opens a place that this run writes to. A bucket must show first that it can be trusted.
pub(super) fn open(place: &Place, world: &World) -> Result<Arc<dyn Store>, RunError> {
    let store = open_place(place)?;
    if matches!(place, Place::Bucket(_)) {
        probe(store.as_ref(), world.entropy.as_ref())?;
    }
    Ok(store)
}

struct Start<'a> {
    plan: Arc<Plan>,
    options: RunOptions,
    world: &'a World,
    state: Arc<dyn Store>,
    dimensions: Arc<Dimensions>,
    started_ms: u64,
}

impl Start<'_> {
    fn run(self) -> Result<RunSummary, RunError> {
        let writer = format!("{:08x}", self.world.entropy.random_u64() as u32);
        let definition = definition(&self.plan);
        let chain = Chain::claim(self.state.clone(), &self.identity(&definition, writer.clone()))?;
        check_current(&self.plan, self.options.scope.cell)?;
        let head = chain.head().clone();
        self.run_claimed(chain, &head, writer).map_err(|error| self.explain(&head, error))
    }

    /// When another process has taken over, whatever went wrong is most likely its doing, such as deleting what this one
    /// had not finished: then that is what people are told.
    fn explain(&self, head: &Manifest, error: RunError) -> RunError {
        match read_last(self.state.as_ref()) {
            Ok(Some((last, _))) if last.epoch > head.epoch => {
                tracing::debug!("before that: {error}");
                ChainError::Fenced { writer: last.writer, epoch: last.epoch }.into()
            }
            _ => error,
        }
    }

    fn run_claimed(&self, chain: Chain, head: &Manifest, writer: String) -> Result<RunSummary, RunError> {
        let mut positions = self.positions(head)?;
        let until_end = self.options.until_end;
        let groups_since = head.layout.groups.iter().map(|group| group.since).collect();
        self.world.board.update(|view| (view.phase, view.groups_since) = (Phase::Connecting, groups_since));
        let scope = self.options.scope;
        let open = || sources::open(&self.plan, &positions, scope, until_end, &self.world.board, &self.world.stop);
        let Some(opened) = failpoint::step(Failpoint::Seek, open)? else {
            return Ok(self.summary(head.number, 0));
        };
        check_files(head, &self.plan, &opened.files)?;
        let partitions: Vec<PartitionId> = opened.sources.iter().flat_map(|source| source.partitions()).collect();
        check_partitions(head, &self.plan, &partitions)?;
        let starts = opened.sources.iter().flat_map(|source| source.starts());
        let new: Vec<_> = starts.filter(|(partition, _)| positions.next(*partition).is_none()).collect();
        new.iter().for_each(|(partition, start)| positions.set(*partition, *start));
        let cell = Arc::new(cell_spec(&self.plan, self.options.scope, &head.layout));
        let router = self.router(&cell, &partitions, positions, head);
        self.world.board.update(|view| view.phase = Phase::Restoring);

        let failure = Failure::new(self.world.stop.clone());
        let (cuts_in, cuts_out) = bounded(CUT_QUEUE_MAX);
        let ((done_in, done_out), (notes_in, notes_out)) = (bounded(2), bounded(NOTES_MAX));
        let objects = failpoint::step(Failpoint::RestoreList, || restore::list(self.state.as_ref(), head))?;
        let (sample_stores, names) = (self.sample_stores()?, self.names(&opened.files));
        let garbage = GarbageOutlet::new(notes_in);
        let outbox = OutboxParts::new(&self.plan, self.world, &self.state, (head, &objects), &writer);
        let mut committer = self.committer(chain, objects.clone(), &sample_stores, done_in, garbage, writer)?;
        let sides = side_stores(&self.plan, &|place| self::open(place, self.world))?;
        committer.work = committer.work.with(outbox.committer, sides.clone());
        committer.check_unpublished(head)?;
        committer.publish(head)?;
        self.join_others(&committer, head)?;
        let collector = self.collector(head, &sample_stores, &sides, &committer.dead_letter_store);

        // A tick takes one batch of each group from each lane.
        let batches_per_tick = cell.lanes * cell.groups.len();
        let online = self.online(batches_per_tick)?;
        let (frontier, memory) = (Frontier::new(cell.lanes), CellMemory::new(&self.world.memory, cell.lanes));
        let history = feature_history(&cell, self.mirror());
        let schemas = Arc::new(self.schemas()?);
        let (mut lane_inputs, mut gauges, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        let restored = failpoint::step(Failpoint::Restore, || self.restore(&cell, &history, &objects, head, &memory))?;
        self.world.board.update(|view| view.phase = Phase::Running);
        for (number, ((lane, closed), sent)) in restored.into_iter().zip(outbox.sinks).enumerate() {
            let naming = |stem: &str| self.naming(stem, number, head);
            let side_sinks = SideSinks::new(&self.plan, &sides, naming);
            let work = SinkWork::with(sent, side_sinks, correction_sinks(&self.plan, &sides, naming));
            let sink = SinkThread {
                lane: number,
                samples: self.plan.samples.clone(),
                sinks: self.parquet_sinks(number, head, &sample_stores),
                state: self.state.clone(),
                clock: self.world.clock.clone(),
                gauge: Arc::default(),
                enricher: schemas.enricher.clone(),
                cuts: cuts_in.clone(),
                work,
            };
            let outlets = |sink| LaneOutlets {
                sink,
                cuts: cuts_in.clone(),
                online: OnlineOutlet::new(online.sender(), batches_per_tick, head),
                frontier: frontier.clone(),
                lanes: cell.lanes,
                memory: memory.lane(number).clone(),
            };
            let worker = workers::start(&failure, (lane, closed), sink, outlets);
            threads.extend(worker.threads);
            lane_inputs.push(worker.input);
            gauges.push(worker.gauge);
        }
        threads.push(failure.spawn("committer", move || committer.run(cuts_out)));
        threads.extend(outbox.senders.into_iter().map(|sender| failure.spawn("outbox", || sender.run())));
        threads.push(failure.spawn("garbage", move || collector.run(notes_out)));
        let (paused, progress) = (PauseList::default(), Progress::default());
        let (told, stop) = (progress.teller(), self.world.stop.clone());
        let decoding = Decoding { workers: decode_workers(&self.plan), decoders: || self.decoders(), schemas };
        let mut intake = Intake::start(opened.sources, decoding, paused.clone(), progress, stop, failure.clone());
        threads.append(&mut intake.threads);
        let mirror = self.world.exchange.as_ref().map(|exchange| exchange.mirror().clone());
        let time = Timekeeper::new(cell.clone(), mirror, names.streams.clone(), &router);
        let conductor = Conductor {
            router,
            cell,
            intake,
            lanes: lane_inputs,
            frontier,
            cuts: cuts_in,
            committed: done_out,
            gauges,
            paused,
            progress: told,
            names,
            clock: self.world.clock.clone(),
            telemetry: self.world.telemetry.clone(),
            dimensions: self.world.exchange.is_none().then(|| self.dimensions.clone()),
            board: self.world.board.clone(),
            stop: self.world.stop.clone(),
            failure: failure.clone(),
            commit_every_ms: self.plan.state.commit_every_ms as u64,
            flush_ms: self.plan.online.flush_ms as u64,
            ending: self.ending(),
            online: !self.plan.groups.is_empty(),
            last_cut: head.cut,
            starts_are_new: !new.is_empty(),
            time,
            outbox: outbox.conductor,
            memory,
        };
        threads.push(failure.spawn("conductor", move || conductor.run()));
        // A thread's panic is the failure already.
        threads.into_iter().for_each(|thread| drop(thread.join()));
        let online_left = online.stop(ONLINE_FLUSH_MAX).map_or_else(|left| left.0.backlog_entities, |_| 0);
        match failure.take() {
            Some(error) => Err(error),
            None => Ok(self.summary(self.world.board.view().commit_number.max(head.number), online_left)),
        }
    }

    /// The writer of online features, whose queue has room for two ticks.
    fn online(&self, batches_per_tick: usize) -> Result<OnlineWriter, RunError> {
        let limits = WriterLimits::default();
        let queue_batches_max = limits.queue_batches_max.max(2 * batches_per_tick);
        let limits = WriterLimits { queue_batches_max, ..limits };
        if self.options.scope.is_whole() {
            self.world.online.watch(self.world.entropy.random_u64());
        }
        let online = OnlineWriter::start(self.world.online.clone(), limits, self.world.entropy.random_u64())
            .map_err(|source| RunError::Spawn { name: "online".into(), source })?;
        self.world.board.update(|view| view.online = Some(online.stats()));
        Ok(online)
    }

    /// Tells the other cells, where there are any, what the last owner may not have told, and that this one is here.
    fn join_others(&self, committer: &Committer, head: &Manifest) -> Result<(), RunError> {
        committer.hand_over_again(head)?;
        if let Some(exchange) = &self.world.exchange {
            exchange.own(self.options.scope.cell, head);
        }
        Ok(())
    }

    /// What other cells know; nothing where there are none.
    fn mirror(&self) -> Arc<Mirror> {
        let exchange = self.world.exchange.as_ref();
        exchange.map_or_else(|| Arc::new(Mirror::new(1, &[], &[])), |exchange| exchange.mirror().clone())
    }

    fn identity<'a>(&'a self, definition: &'a Definition, writer: String) -> Identity<'a> {
        Identity {
            pipeline: &self.plan.pipeline,
            definition,
            resets: &self.options.resets,
            writer,
            chain: self.world.entropy.random_u64() as u32,
            now_ms: self.world.clock.now_ms(),
        }
    }

    /// Files end for good, so they close what is pending; a topic goes on after the run, unless it is said otherwise.
    fn ending(&self) -> Ending {
        let topics = self.plan.inputs.iter().any(|input| matches!(input.kind, InputKind::Kafka(_)));
        if topics && self.options.until_end && !self.options.close { Ending::KeepPending } else { Ending::Close }
    }

    fn summary(&self, head: u64, online_left: u64) -> RunSummary {
        let view = self.world.board.view();
        // What the lanes had to leave in their state, because the store was away.
        let due: u64 = view.counts.groups.iter().map(|group| group.due).sum();
        RunSummary { view, head, online_left: online_left + due }
    }

    fn input_number(&self, name: &str) -> Option<u16> {
        self.plan.inputs.iter().position(|input| input.name == name).map(|number| number as u16)
    }

    fn positions(&self, head: &Manifest) -> Result<Positions, RunError> {
        let mut positions = Positions::default();
        for entry in &head.inputs {
            let Some(input) = self.input_number(&entry.name) else { continue };
            for (partition, next) in &entry.next {
                positions.set(PartitionId { input, partition: *partition }, *next);
            }
            for (partition, first) in &entry.first {
                positions.set_first(PartitionId { input, partition: *partition }, *first);
            }
        }
        Ok(positions)
    }

    fn router(
        &self,
        cell: &crate::cell::CellSpec,
        partitions: &[PartitionId],
        positions: Positions,
        head: &Manifest,
    ) -> Router {
        let streams = routed_streams(&self.plan, cell, partitions);
        let mut router = Router::new(streams, cell.lanes, self.world.clock.monotonic_ms());
        let stream_number = |name: &str| self.plan.streams.iter().position(|stream| stream.name == name);
        let tracks: Vec<Track> = head
            .tracks
            .iter()
            .filter_map(|track| {
                let partition = PartitionId { input: self.input_number(&track.input)?, partition: track.partition };
                Some(Track { stream: stream_number(&track.stream)? as u16, partition, newest: track.newest })
            })
            .collect();
        let accounts: Vec<_> = self
            .plan
            .streams
            .iter()
            .map(|stream| head.streams.get(&stream.name).copied().unwrap_or_default())
            .collect();
        router.restore(positions, &tracks, head.watermark, &accounts, outages_of(&self.plan, head));
        router
    }

    fn names(&self, files: &BTreeMap<u16, Vec<String>>) -> Names {
        Names {
            streams: self.plan.streams.iter().map(|stream| stream.name.clone()).collect(),
            inputs: self.plan.inputs.iter().map(|input| input.name.clone()).collect(),
            partitioner: self.plan.partitioner.name(),
            files: files.clone(),
        }
    }

    fn sample_stores(&self) -> Result<Vec<Option<Arc<dyn Store>>>, RunError> {
        let open = |place: &Place| open(place, self.world);
        let samples = self.plan.samples.iter();
        samples.map(|sample| sample.parquet.as_ref().map(|spec| open(&spec.path)).transpose()).collect()
    }

    fn naming(&self, sample: &str, lane: usize, head: &Manifest) -> FileNaming {
        FileNaming {
            pipeline: self.plan.pipeline.clone(),
            sample: sample.into(),
            chain: head.chain,
            lane: lane as u16,
            epoch: head.epoch,
        }
    }

    fn parquet_sinks(
        &self,
        lane: usize,
        head: &Manifest,
        stores: &[Option<Arc<dyn Store>>],
    ) -> Vec<Option<ParquetSink>> {
        let files = stores.iter().flatten().count() * self.plan.state.lanes;
        let row_groups = self.world.memory.row_groups_bytes(files);
        let sinks = self.plan.samples.iter().zip(stores).map(|(sample, store)| {
            let (spec, store) = (sample.parquet.as_ref()?, store.as_ref()?);
            let naming = self.naming(&sample.sample.name, lane, head);
            let sink = ParquetSink::new(spec, sample.sample.schema.clone(), naming, store.clone());
            Some(sink.bounded(row_groups))
        });
        sinks.collect()
    }

    fn committer(
        &self,
        chain: Chain,
        objects: Objects,
        stores: &[Option<Arc<dyn Store>>],
        done: crossbeam_channel::Sender<crate::pipeline::committer::Committed>,
        garbage: GarbageOutlet,
        writer: String,
    ) -> Result<Committer, RunError> {
        let plan = &self.plan;
        let head = chain.head();
        let naming = self.naming(DEAD_LETTERS, 0, head);
        // The state's bucket was probed.
        let dead_letter_store = open_place(&plan.state.root.join("dead-letters"))?;
        let streams: Vec<String> = plan.streams.iter().map(|stream| stream.name.clone()).collect();
        let inputs: Vec<String> = plan.inputs.iter().map(|input| input.name.clone()).collect();
        let sample_name = |sample: &crate::config::SamplePlan| sample.sample.name.clone();
        let samples = plan.samples.iter().map(|sample| SampleNames {
            name: sample_name(sample),
            joins: sample.join.labels.iter().map(|label| label.name.clone()).collect(),
        });
        let groups = plan.groups.iter().map(|group| GroupNames {
            name: group.name.clone(),
            streams: group.uses.iter().map(|feature| streams[feature.stream as usize].clone()).collect(),
        });
        let names = BookNames { samples: samples.collect(), groups: groups.collect() };
        Ok(Committer {
            dead_letters: DeadLetterSink::new(&streams, &inputs, naming, dead_letter_store.clone()),
            dead_letter_store,
            lanes: plan.state.lanes,
            samples: plan.samples.iter().map(sample_name).zip(stores.iter().cloned()).collect(),
            left: left_behind(plan, head)?,
            places: places(plan).into_iter().map(|(sink, place)| (sink, place.to_string())).collect(),
            work: CommitWork::new(head, plan.state.lanes),
            chain,
            state: self.state.clone(),
            objects,
            clock: self.world.clock.clone(),
            telemetry: self.world.telemetry.clone(),
            board: self.world.board.clone(),
            done,
            garbage,
            exchange: self.world.exchange.clone().map(|exchange| (self.options.scope.cell, exchange)),
            writer,
            names,
        })
    }

    /// What deletes the leftovers of this process and of those before it.
    fn collector(
        &self,
        head: &Manifest,
        stores: &[Option<Arc<dyn Store>>],
        sides: &SideStores,
        dead_letters: &Arc<dyn Store>,
    ) -> Collector {
        let place = |name: &str, sink: String, store: &Arc<dyn Store>| SinkPlace {
            name: sink,
            store: store.clone(),
            naming: self.naming(name, 0, head),
        };
        let samples = self.plan.samples.iter().map(|sample| &sample.sample.name).zip(stores);
        let mut sinks: Vec<SinkPlace> =
            samples.filter_map(|(name, store)| Some(place(name, format!("samples.{name}"), store.as_ref()?))).collect();
        sinks.extend(side_files(&self.plan).into_iter().map(|side| {
            let name = side.name();
            let store = &sides[&name];
            place(&side.stem(), name, store)
        }));
        // Their files go by another name than the sink in a manifest.
        sinks.push(place(crate::sink::DEAD_LETTERS, DEAD_LETTERS.into(), dead_letters));
        let (state, clock) = (self.state.clone(), self.world.clock.clone());
        Collector::new(state, sinks, head.clone(), self.plan.state.keep_orphans_ms, clock)
    }

    /// Brings every lane back to the manifest, each in a thread of its own.
    #[expect(clippy::type_complexity, reason = "a lane and what it closed again")]
    fn restore(
        &self,
        cell: &Arc<crate::cell::CellSpec>,
        history: &crate::cell::FeatureHistory,
        objects: &Objects,
        head: &Manifest,
        memory: &CellMemory,
    ) -> Result<Vec<(Lane, Vec<(u16, crate::join::ClosedRows)>)>, RunError> {
        let outages = outages_of(&self.plan, head);
        let restore_one = |number: usize| {
            let mut lane = Lane::new(number, cell.clone(), history.clone());
            let (store, keep) = (self.state.as_ref(), memory.lane(number).keep());
            let from = restore::RestoreFrom { store, objects, head, keep, outages: &outages };
            let closed = restore::restore_lane(&mut lane, number, cell.lanes, &from)?;
            memory.lane(number).restored(&lane);
            Ok::<_, RunError>((lane, closed))
        };
        let lanes: Result<Vec<_>, RunError> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..cell.lanes).map(|number| scope.spawn(move || restore_one(number))).collect();
            let joined = threads.into_iter().map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(RunError::Panic { name: "restore".into(), message: "see the log".into() }))
            });
            joined.collect()
        });
        let lanes = lanes?;
        let restored_rows: u64 =
            lanes.iter().flat_map(|(lane, _)| lane.counts().samples).map(|sample| sample.anchor.pending).sum();
        let expected: u64 = head.counts.samples.iter().map(|sample| sample.anchor.pending).sum();
        crate::invariant!(
            F15,
            restored_rows == expected,
            "{restored_rows} rows are pending after a restore, the manifest says {expected}"
        );
        let took = self.world.clock.monotonic_ms() - self.started_ms;
        self.world.board.update(|view| {
            view.restored_rows = restored_rows;
            view.restored_ms = took;
            view.counts = head.counts.clone();
            view.totals = head.totals;
            view.commit_number = head.number;
        });
        Ok(lanes)
    }

    fn schemas(&self) -> Result<Schemas, RunError> {
        let World { clock, board, stop, .. } = self.world;
        Schemas::new(&self.plan, Some(self.dimensions.clone()), clock.clone(), board.clone(), stop.clone())
    }

    fn decoders(&self) -> Vec<Vec<Decoder>> {
        let decoder = |stream: &StreamPlan| Decoder::new(stream.decode.clone());
        let inputs = self.plan.inputs.iter();
        inputs
            .map(|input| input.streams.iter().map(|stream| decoder(&self.plan.streams[*stream as usize])).collect())
            .collect()
    }
}

/// A topic that grew spreads the records of one key over two partitions, and what waits for each other no longer meets.
fn check_partitions(head: &Manifest, plan: &Plan, partitions: &[PartitionId]) -> Result<(), RunError> {
    for entry in head.inputs.iter().filter(|entry| !entry.next.is_empty()) {
        let Some(number) = plan.inputs.iter().position(|input| input.name == entry.name) else { continue };
        if !matches!(plan.inputs[number].kind, InputKind::Kafka(_)) {
            continue;
        }
        let (before, now) =
            (entry.next.len(), partitions.iter().filter(|partition| partition.input as usize == number).count());
        if before != now {
            return Err(RunError::Unsupported(format!(
                "topic {} has {now} partitions, it had {before} when the state was written: records of one key may now lie \
                 in two of them. Nothing was read. `conjoin rescale` takes the new partitions in",
                entry.name
            )));
        }
    }
    Ok(())
}

/// Positions count the files of an input: those that were there must still come first, in the same order.
fn check_files(head: &Manifest, plan: &Plan, files: &BTreeMap<u16, Vec<String>>) -> Result<(), RunError> {
    for entry in &head.inputs {
        let number = plan.inputs.iter().position(|input| input.name == entry.name);
        let Some(now) = number.and_then(|number| files.get(&(number as u16))) else { continue };
        if let Some((old, new)) = entry.files.iter().zip(now).find(|(old, new)| old != new) {
            return Err(RunError::Unsupported(format!(
                "files of {} changed their order: {new} is now where {old} was when the state was written; new files \
                 must come after the old ones by name, or start anew with --fresh",
                entry.name
            )));
        }
    }
    Ok(())
}
