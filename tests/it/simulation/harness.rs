//! Harness: router, lanes, sinks, committer and the manifest chain in one thread, ordered by one seed.
//!
//!   logs ─> Decoder ─> Router ─> queue per lane ─> Lane::step ─> SinkThread::take ─┐
//!                        └── Advance, Online, Cut in the conductor's order ──────────┴─> Committer::take ─> Mount
//!
//! All of it is the program's own; what is made up here is who comes next, and when it crashes.

use crate::simulation::disk::{Disk, DiskFaults, Mount};
use crate::simulation::life::Life;
use crate::simulation::world::{Logs, START, Setup};
use arrow::array::{Array as _, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMillisecondType};
use conjoin::cell::{Applied, CellScope, CellSpec, Lane, Mirror, feature_history};
use conjoin::commit::{Chain, ChainError, CompactionLimits, Identity, Manifest};
use conjoin::config::{Plan, SamplePlan};
use conjoin::decode::Decoder;
use conjoin::env::{ManualClock, Store};
use conjoin::event::{FeatureBatch, LaneCounts, PartitionId, Positions, StreamAccount, Track, Watermark};
use conjoin::online::Version;
use conjoin::pipeline::{
    BookNames, Collector, CommitWork, Committer, DEAD_LETTERS, Exchange, GarbageOutlet, NOTES_MAX, RestoreFrom,
    RunError, SinkGauge, SinkInput, SinkPlace, SinkThread, SinkWork, Timekeeper, cell_spec, definition, list_objects,
    outages_of, restore_lane, routed_streams,
};
use conjoin::route::Router;
use conjoin::sink::{Compression, DeadLetterSink, FileNaming, ParquetSink, ParquetSpec, TimeFolder};
use conjoin::telemetry::Telemetry;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

/// What a simulation leaves behind: all that outlives a process.
#[derive(Default)]
pub struct World {
    pub disk: Disk,
    /// What happened, step by step.
    trace: RefCell<String>,
    pub crashes: Cell<usize>,
    /// (number, epoch) of every commit, in the order in which they happened.
    commits: RefCell<Vec<(u64, u64)>>,
    lives: Cell<usize>,
    /// Its pipelines, by their setup and the number of lanes.
    plans: RefCell<BTreeMap<(String, usize), Arc<Plan>>>,
    /// Monotonic time, which several cells share.
    pub now_ms: Rc<Cell<u64>>,
    /// When each record comes to its log; all are there where nothing is said.
    pub arrivals: BTreeMap<(usize, u32), Vec<u64>>,
    /// What was published of entities that stay in their cell: the newest, by group and entity.
    online: RefCell<BTreeMap<(u16, String), (Version, String)>>,
    /// Where it is one of several: which one, and how whoever claims it now tells the others.
    pub seat: RefCell<Option<Seat>>,
}

/// One cell among others.
#[derive(Clone)]
pub struct Seat {
    pub scope: CellScope,
    pub exchange: Arc<dyn Exchange>,
}

/// The books at the end of a life that reached the end of its logs.
#[derive(Debug, Clone, PartialEq)]
pub struct Books {
    pub streams: Vec<StreamAccount>,
    pub counts: LaneCounts,
    pub file_rows: u64,
    pub dead_letter_rows: u64,
}

/// Why a life ended before its time.
#[derive(Debug)]
pub enum Halt {
    Crashed,
    /// Another one has taken over.
    Fenced,
    Failed(String),
}

/// What may go wrong in one life.
#[derive(Clone, Copy, Default, Debug)]
pub struct Faults {
    pub disk: DiskFaults,
    /// Commits may take their time while all else goes on.
    pub slow: bool,
    /// The wall clock jumps by an hour.
    pub clock_jumps: bool,
}

impl World {
    pub fn new() -> World {
        World::default()
    }

    pub fn trace_hash(&self) -> u64 {
        conjoin::event::content_hash(self.trace.borrow().as_bytes(), 0)
    }

    pub fn commits(&self) -> usize {
        self.commits.borrow().len()
    }

    /// The rows of all published files.
    pub fn rows(&self) -> Vec<String> {
        self.rows_in("out/")
    }

    pub fn rows_in(&self, folder: &str) -> Vec<String> {
        let mut rows = Vec::new();
        for (path, bytes) in self.disk.glob(folder, ".parquet") {
            let bytes = axum::body::Bytes::copy_from_slice(&bytes);
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).and_then(|builder| builder.build());
            for batch in reader.unwrap_or_else(|error| panic!("{path}: {error}")) {
                let batch = batch.unwrap_or_else(|error| panic!("{path}: {error}"));
                rows.extend((0..batch.num_rows()).map(|row| row_text(&batch, row)));
            }
        }
        rows
    }

    pub fn sorted_rows(&self) -> Vec<String> {
        let mut rows = self.rows();
        rows.sort();
        rows
    }

    /// Runs to the end of the logs: one life per number of lanes, each but the last ended by a crash (which may come too
    /// late to happen).
    pub fn run(&mut self, setup: &Setup, logs: &Logs, lanes: &[usize], seed: u64) -> Books {
        let mut random = StdRng::seed_from_u64(seed);
        for (number, count) in lanes.iter().enumerate() {
            let crash_after = (number + 1 < lanes.len()).then(|| random.random_range(1..600));
            let claimed = Claimed::new(self, setup, *count, random.random(), Faults::default()).unwrap();
            let mut life = claimed.start(logs).unwrap();
            let mut steps = 0;
            loop {
                steps += 1;
                if crash_after.is_some_and(|after| steps > after) {
                    break;
                }
                if let Some(books) = life.go_on().unwrap() {
                    return books;
                }
            }
            self.note(format_args!("crash"));
            self.crashes.set(self.crashes.get() + 1);
        }
        unreachable!("the last life has no crash");
    }

    pub fn note(&self, what: std::fmt::Arguments<'_>) {
        use std::fmt::Write;
        writeln!(self.trace.borrow_mut(), "{what}").unwrap();
    }

    /// How many records of a log have come.
    pub fn arrived(&self, at: (usize, u32), len: usize) -> usize {
        let now = self.now_ms.get();
        self.arrivals.get(&at).map_or(len, |times| times.partition_point(|time| *time <= now))
    }

    pub fn publish(&self, batch: &FeatureBatch, version: Version) {
        publish(&mut self.online.borrow_mut(), batch, version);
    }

    /// What is online of an entity.
    pub fn online(&self, group: u16, entity: &str) -> Option<String> {
        self.online.borrow().get(&(group, entity.to_string())).map(|(_, values)| values.clone())
    }

    /// F6 and F12: whoever commits has the highest epoch of all who did before.
    pub fn committed(&self, head: &Manifest) {
        let mut commits = self.commits.borrow_mut();
        if let Some(&(number, epoch)) = commits.last() {
            assert!(head.number > number && head.epoch >= epoch, "{:?} after {:?}", (head.number, head.epoch), commits);
        }
        commits.push((head.number, head.epoch));
    }
}

/// A process that has claimed the chain and done nothing else.
pub struct Claimed<'a> {
    world: &'a World,
    plan: Arc<Plan>,
    mount: Mount,
    chain: Chain,
    writer: String,
    random: StdRng,
    faults: Faults,
    lanes: usize,
    seat: Option<Seat>,
    keep: Option<usize>,
}

impl<'a> Claimed<'a> {
    pub fn new(world: &'a World, setup: &Setup, lanes: usize, seed: u64, faults: Faults) -> Result<Claimed<'a>, Halt> {
        world.lives.set(world.lives.get() + 1);
        let mut plans = world.plans.borrow_mut();
        let plan = plans.entry((format!("{setup:?}"), lanes)).or_insert_with(|| Arc::new(setup.plan(lanes))).clone();
        drop(plans);
        let (mount, writer) = (world.disk.mount(faults.disk), format!("w{}", world.lives.get()));
        let identity = Identity {
            pipeline: &plan.pipeline,
            definition: &definition(&plan),
            resets: &setup.resets.iter().map(|node| node.to_string()).collect(),
            writer: writer.clone(),
            chain: 7,
            now_ms: 1,
        };
        let chain = Chain::claim(Arc::new(mount.clone()), &identity);
        let chain = chain.map_err(|error| halt(&mount, error.into()))?;
        world.note(format_args!("claim {} with {lanes} lanes", chain.head().number));
        let (random, seat) = (StdRng::seed_from_u64(seed), world.seat.borrow().clone());
        Ok(Claimed { world, mount, chain, writer, random, faults, lanes, plan, seat, keep: setup.keep })
    }

    /// As `pipeline::start` does it.
    pub fn start(self, logs: &'a Logs) -> Result<Life<'a>, Halt> {
        let Claimed { world, plan, mount, chain, writer, random, faults, lanes, seat, keep } = self;
        let head = chain.head().clone();
        let scope = seat.as_ref().map_or(CellScope::WHOLE, |seat| seat.scope);
        let mirror = seat.as_ref().map(|seat| seat.exchange.mirror().clone());
        let cell = Arc::new(cell_spec(&plan, scope, &head.layout));
        let router = router(&plan, &cell, logs, &head, world.now_ms.get());
        let fails = |error: RunError| halt(&mount, error);
        let objects = list_objects(&mount, &head).map_err(|error| fails(error.into()))?;
        let clock = Arc::new(ManualClock::at(START));
        let (notes_in, notes) = crossbeam_channel::bounded(NOTES_MAX);
        let garbage = GarbageOutlet::new(notes_in);
        let mut committer = committer(&plan, chain, &mount, objects.clone(), clock.clone(), garbage, writer);
        committer.exchange = seat.as_ref().map(|seat| (scope.cell, seat.exchange.clone()));
        committer.check_unpublished(&head).and_then(|()| committer.publish(&head)).map_err(fails)?;
        committer.hand_over_again(&head).map_err(fails)?;
        if let Some(seat) = &seat {
            seat.exchange.own(scope.cell, &head);
        }
        let mut collector = collector(&plan, &head, &mount, clock.clone());
        collector.start();
        let (mut life_lanes, mut sinks, mut restored) = (Vec::new(), Vec::new(), Vec::new());
        let history = feature_history(&cell, mirror.clone().unwrap_or_else(|| Arc::new(Mirror::new(1, &[], &[]))));
        for number in 0..lanes {
            let mut lane = Lane::new(number, cell.clone(), history.clone());
            let (keep, outages) = (keep.unwrap_or(usize::MAX), &outages_of(&plan, &head));
            let from = RestoreFrom { store: &mount, objects: &objects, head: &head, keep, outages };
            let closed = restore_lane(&mut lane, number, lanes, &from);
            restored.extend(closed.map_err(|error| fails(error.into()))?.into_iter().map(|closed| (number, closed)));
            life_lanes.push(lane);
            sinks.push(sink(&plan, number, &head, &mount, clock.clone()));
        }
        let pending = life_lanes.iter().flat_map(|lane| lane.counts().samples).map(|sample| sample.anchor.pending);
        let pending: u64 = pending.sum();
        let expected: u64 = head.counts.samples.iter().map(|sample| sample.anchor.pending).sum();
        assert_eq!(pending, expected, "F15: pending rows after a restore");
        world.note(format_args!("life {lanes} lanes, {pending} pending"));
        let streams = plan.streams.iter().map(|stream| stream.name.clone()).collect();
        let mut life = Life {
            time: Timekeeper::new(cell.clone(), mirror, streams, &router),
            caught_up: BTreeSet::new(),
            published: 0,
            decoders: plan.streams.iter().map(|stream| Decoder::new(stream.decode.clone())).collect(),
            queues: vec![VecDeque::new(); lanes],
            applied: vec![Applied { watermark: Watermark::MIN, oldest_needed: i64::MIN }; lanes],
            parts: VecDeque::new(),
            delay: 0,
            last_cut: head.cut,
            in_flight: false,
            lanes: life_lanes,
            keep,
            pace: None,
            steps: 0,
            world,
            logs,
            plan,
            cell,
            router,
            sinks,
            committer,
            collector,
            notes,
            mount,
            clock,
            random,
            faults,
        };
        for (lane, (sample, rows)) in restored {
            life.sink(lane, SinkInput::Closed { sample, rows, recount: false })?;
        }
        Ok(life)
    }
}

pub fn halt(mount: &Mount, error: RunError) -> Halt {
    match error {
        _ if mount.is_dead() => Halt::Crashed,
        RunError::Chain(ChainError::Fenced { .. }) => Halt::Fenced,
        other => Halt::Failed(other.to_string()),
    }
}

fn router(plan: &Plan, cell: &CellSpec, logs: &Logs, head: &Manifest, now_ms: u64) -> Router {
    let partitions: Vec<PartitionId> = logs.keys().map(|at| partition_of(*at)).collect();
    let mut router = Router::new(routed_streams(plan, cell, &partitions), cell.lanes, now_ms);
    let mut positions = Positions::default();
    for (input, entry) in head.inputs.iter().enumerate() {
        let of = |partition: &u32| PartitionId { input: input as u16, partition: *partition };
        entry.next.iter().for_each(|(partition, next)| positions.set(of(partition), *next));
    }
    let stream_of = |name: &str| plan.streams.iter().position(|stream| stream.name == name).unwrap();
    let tracks = head.tracks.iter().map(|track| {
        let stream = stream_of(&track.stream);
        let partition = partition_of((stream, track.partition));
        Track { stream: stream as u16, partition, newest: track.newest }
    });
    let accounts: Vec<StreamAccount> =
        plan.streams.iter().map(|stream| head.streams.get(&stream.name).copied().unwrap_or_default()).collect();
    router.restore(positions, &tracks.collect::<Vec<_>>(), head.watermark, &accounts, outages_of(plan, head));
    router
}

fn naming(plan: &Plan, sample: &str, lane: usize, head: &Manifest) -> FileNaming {
    let (chain, epoch) = (head.chain, head.epoch);
    FileNaming { pipeline: plan.pipeline.clone(), sample: sample.into(), chain, lane: lane as u16, epoch }
}

fn sink(plan: &Plan, lane: usize, head: &Manifest, mount: &Mount, clock: Arc<ManualClock>) -> SinkThread {
    let spec = ParquetSpec {
        path: "out".into(),
        folders: vec![TimeFolder::Date, TimeFolder::Hour],
        roll_bytes: 4 << 10,
        roll_age_ms: 1_000,
        compression: Compression::None,
    };
    let parquet = |sample: &SamplePlan| {
        let sample = &sample.sample;
        let naming = naming(plan, &sample.name, lane, head);
        Some(ParquetSink::new(&spec, sample.schema.clone(), naming, Arc::new(mount.folder(folder_of(&sample.name)))))
    };
    SinkThread {
        lane,
        samples: plan.samples.clone(),
        sinks: plan.samples.iter().map(parquet).collect(),
        state: Arc::new(mount.clone()),
        clock,
        gauge: Arc::new(SinkGauge::default()),
        enricher: None,
        cuts: crossbeam_channel::bounded(1).0,
        work: SinkWork::default(),
    }
}

/// State objects of a few kilobytes are put together as soon as there are two.
const EAGER: CompactionLimits =
    CompactionLimits { few: 1, fan_in: 2, large_bytes: 64 << 10, copied_max: 32 << 10, linger_ms: 0 };

fn committer(
    plan: &Plan,
    chain: Chain,
    mount: &Mount,
    objects: conjoin::pipeline::Objects,
    clock: Arc<ManualClock>,
    garbage: GarbageOutlet,
    writer: String,
) -> Committer {
    let head = chain.head();
    let streams: Vec<String> = plan.streams.iter().map(|stream| stream.name.clone()).collect();
    let inputs: Vec<String> = plan.inputs.iter().map(|input| input.name.clone()).collect();
    let dead: Arc<dyn Store> = Arc::new(mount.folder("dead/"));
    let sample = |sample: &SamplePlan| -> (String, Option<Arc<dyn Store>>) {
        (sample.sample.name.clone(), Some(Arc::new(mount.folder(folder_of(&sample.sample.name)))))
    };
    Committer {
        dead_letters: DeadLetterSink::new(&streams, &inputs, naming(plan, DEAD_LETTERS, 0, head), dead.clone()),
        dead_letter_store: dead,
        lanes: plan.state.lanes,
        samples: plan.samples.iter().map(sample).collect(),
        places: BTreeMap::new(),
        left: left_behind(plan, head, mount),
        work: CommitWork::new(head, plan.state.lanes).compacting(EAGER),
        state: Arc::new(mount.clone()),
        chain,
        objects,
        clock,
        telemetry: Arc::new(Telemetry::new(&plan.pipeline)),
        board: Default::default(),
        done: crossbeam_channel::bounded(1).0,
        garbage,
        exchange: None,
        writer,
        names: BookNames::default(),
    }
}

/// A sample that is gone may have left files without their names.
fn left_behind(plan: &Plan, head: &Manifest, mount: &Mount) -> BTreeMap<String, Arc<dyn Store>> {
    let is_gone =
        |sink: &&str| plan.samples.iter().all(|sample| sink.strip_prefix("samples.") != Some(&sample.sample.name));
    let sinks = head.files.iter().map(|entry| entry.sink.as_str()).filter(|sink| *sink != DEAD_LETTERS).filter(is_gone);
    let store =
        |sink: &str| -> Arc<dyn Store> { Arc::new(mount.folder(folder_of(sink.trim_start_matches("samples.")))) };
    sinks.map(|sink| (sink.to_string(), store(sink))).collect()
}

/// Where the files of a sample lie.
fn folder_of(sample: &str) -> &'static str {
    if sample == "ctr" { "out/" } else { "more/" }
}

/// Keeps orphans for no time at all: what it may delete, it deletes.
fn collector(plan: &Plan, head: &Manifest, mount: &Mount, clock: Arc<ManualClock>) -> Collector {
    let place = |name: &str, sink: String, folder: &'static str| SinkPlace {
        name: sink,
        store: Arc::new(mount.folder(folder)),
        naming: naming(plan, name, 0, head),
    };
    let samples = plan.samples.iter().map(|sample| &sample.sample.name);
    let mut sinks: Vec<SinkPlace> =
        samples.map(|name| place(name, format!("samples.{name}"), folder_of(name))).collect();
    sinks.push(place(conjoin::sink::DEAD_LETTERS, DEAD_LETTERS.into(), "dead/"));
    Collector::new(Arc::new(mount.clone()), sinks, head.clone(), 0, clock)
}

pub fn partition_of((stream, partition): (usize, u32)) -> PartitionId {
    PartitionId { input: stream as u16, partition }
}

/// A row as `name=value` pairs, by name.
pub fn row_text(rows: &RecordBatch, row: usize) -> String {
    let schema = rows.schema();
    let cells = schema.fields().iter().zip(rows.columns());
    let cells: BTreeMap<&str, String> = cells
        .map(|(field, array)| {
            let value = match array.data_type() {
                _ if array.is_null(row) => "-".to_string(),
                DataType::Utf8 => array.as_string::<i32>().value(row).to_string(),
                DataType::Int64 => array.as_primitive::<Int64Type>().value(row).to_string(),
                DataType::Float64 => array.as_primitive::<Float64Type>().value(row).to_string(),
                DataType::Boolean => array.as_boolean().value(row).to_string(),
                DataType::List(_) => {
                    let texts = array.as_list::<i32>().value(row);
                    let texts: Vec<&str> = texts.as_string::<i32>().iter().map(Option::unwrap_or_default).collect();
                    format!("[{}]", texts.join(","))
                }
                _ => array.as_primitive::<TimestampMillisecondType>().value(row).to_string(),
            };
            (field.name().as_str(), value)
        })
        .collect();
    text_of(&cells)
}

pub fn text_of(cells: &BTreeMap<&str, String>) -> String {
    cells.iter().map(|(name, value)| format!("{name}={value} ")).collect()
}

/// Newest wins, as the online store has it; how many were newer.
pub fn publish(
    online: &mut BTreeMap<(u16, String), (Version, String)>,
    batch: &FeatureBatch,
    version: Version,
) -> usize {
    let mut newer = 0;
    for (row, entity) in batch.entities.iter().enumerate() {
        let key = (batch.group, entity.clone());
        if online.get(&key).is_none_or(|(known, _)| *known < version) {
            online.insert(key, (version, row_text(&batch.values, row)));
            newer += 1;
        }
    }
    newer
}
