//! Harness: router, lanes, sinks, committer and the manifest chain in one thread, ordered by one seed.
//!
//!   logs ─> Decoder ─> Router ─> queue per lane ─> Lane::step ─> SinkThread::take ─┐
//!                        └── Advance, Online, Cut in the conductor's order ──────────┴─> Committer::take ─> Mount
//!
//! All of it is the program's own; what is made up here is who comes next, and when it crashes.

use crate::simulation::disk::{Disk, DiskFaults, Mount};
use crate::simulation::world::{Logs, START, Setup};
use arrow::array::{Array as _, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMillisecondType};
use conjoin::cell::{Advance, Applied, CellScope, CellSpec, Lane, LaneInput, LaneOutput, Mirror, feature_history};
use conjoin::commit::{Chain, ChainError, CompactionLimits, Handover, Identity, Manifest, encode_block};
use conjoin::config::{Plan, SamplePlan};
use conjoin::decode::Decoder;
use conjoin::env::{ManualClock, Store};
use conjoin::event::{
    CellMark, CloseReason, LaneCounts, PartitionId, PositionDelta, Positions, RawBatch, RawRecord, StreamAccount,
    Track, Watermark,
};
use conjoin::pipeline::{
    BookNames, Collector, CommitNote, CommitWork, Committer, ConductorCut, CutPart, DEAD_LETTERS, Exchange,
    GarbageOutlet, NOTES_MAX, RunError, SinkGauge, SinkInput, SinkPlace, SinkThread, SinkWork, cell_spec, definition,
    input_entries, list_objects, restore_lane, routed_streams, track_entries,
};
use conjoin::route::Router;
use conjoin::sink::{Compression, DeadLetterSink, FileNaming, ParquetSink, ParquetSpec, TimeFolder};
use conjoin::telemetry::Telemetry;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
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
    /// Where it is one of several.
    pub seat: Option<Seat>,
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

    /// F6 and F12: whoever commits has the highest epoch of all who did before.
    fn committed(&self, head: &Manifest) {
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
}

impl<'a> Claimed<'a> {
    pub fn new(world: &'a World, setup: &Setup, lanes: usize, seed: u64, faults: Faults) -> Result<Claimed<'a>, Halt> {
        world.lives.set(world.lives.get() + 1);
        let plan = Arc::new(setup.plan(lanes));
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
        Ok(Claimed { world, mount, chain, writer, random: StdRng::seed_from_u64(seed), faults, lanes, plan })
    }

    /// As `pipeline::start` does it.
    pub fn start(self, logs: &'a Logs) -> Result<Life<'a>, Halt> {
        let Claimed { world, plan, mount, chain, writer, random, faults, lanes } = self;
        let head = chain.head().clone();
        let scope = world.seat.as_ref().map_or(CellScope::WHOLE, |seat| seat.scope);
        let mirror = world.seat.as_ref().map(|seat| seat.exchange.mirror().clone());
        let mirror = mirror.unwrap_or_else(|| Arc::new(Mirror::new(1, &[], &[])));
        let cell = Arc::new(cell_spec(&plan, scope, &head.layout));
        let router = router(&plan, &cell, logs, &head);
        let fails = |error: RunError| halt(&mount, error);
        let objects = list_objects(&mount, &head).map_err(|error| fails(error.into()))?;
        let clock = Arc::new(ManualClock::at(START));
        let (notes_in, notes) = crossbeam_channel::bounded(NOTES_MAX);
        let garbage = GarbageOutlet::new(notes_in);
        let mut committer = committer(&plan, chain, &mount, objects.clone(), clock.clone(), garbage, writer);
        committer.exchange = world.seat.as_ref().map(|seat| (scope.cell, seat.exchange.clone()));
        committer.check_unpublished(&head).and_then(|()| committer.publish(&head)).map_err(fails)?;
        committer.hand_over_again(&head).map_err(fails)?;
        let mut collector = collector(&plan, &head, &mount, clock.clone());
        collector.start();
        let (mut life_lanes, mut sinks, mut restored) = (Vec::new(), Vec::new(), Vec::new());
        let history = feature_history(&cell, mirror.clone());
        for number in 0..lanes {
            let mut lane = Lane::new(number, cell.clone(), history.clone());
            let closed = restore_lane(&mut lane, number, lanes, &mount, &objects, &head);
            restored.extend(closed.map_err(|error| fails(error.into()))?.into_iter().map(|closed| (number, closed)));
            life_lanes.push(lane);
            sinks.push(sink(&plan, number, &head, &mount, clock.clone()));
        }
        let pending = life_lanes.iter().flat_map(|lane| lane.counts().samples).map(|sample| sample.anchor.pending);
        let pending: u64 = pending.sum();
        let expected: u64 = head.counts.samples.iter().map(|sample| sample.anchor.pending).sum();
        assert_eq!(pending, expected, "F15: pending rows after a restore");
        world.note(format_args!("life {lanes} lanes, {pending} pending"));
        let mut life = Life {
            decoders: plan.streams.iter().map(|stream| Decoder::new(stream.decode.clone())).collect(),
            queues: vec![VecDeque::new(); lanes],
            applied: vec![Applied { watermark: Watermark::MIN, oldest_needed: i64::MIN }; lanes],
            parts: VecDeque::new(),
            delay: 0,
            last_cut: head.cut,
            in_flight: false,
            told: None,
            lanes: life_lanes,
            mirror,
            pace: None,
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

fn halt(mount: &Mount, error: RunError) -> Halt {
    match error {
        _ if mount.is_dead() => Halt::Crashed,
        RunError::Chain(ChainError::Fenced { .. }) => Halt::Fenced,
        other => Halt::Failed(other.to_string()),
    }
}

fn router(plan: &Plan, cell: &CellSpec, logs: &Logs, head: &Manifest) -> Router {
    let partitions: Vec<PartitionId> = logs.keys().map(|at| partition_of(*at)).collect();
    let mut router = Router::new(routed_streams(plan, cell, &partitions), cell.lanes, 0);
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
    router.restore(positions, &tracks.collect::<Vec<_>>(), head.watermark, &accounts);
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

/// One process from its start to its end.
pub struct Life<'a> {
    world: &'a World,
    logs: &'a Logs,
    plan: Arc<Plan>,
    cell: Arc<CellSpec>,
    router: Router,
    decoders: Vec<Decoder>,
    lanes: Vec<Lane>,
    queues: Vec<VecDeque<LaneInput>>,
    applied: Vec<Applied>,
    sinks: Vec<SinkThread>,
    /// On their way to the committer, which looks at them when the delay is over.
    parts: VecDeque<CutPart>,
    delay: u32,
    committer: Committer,
    collector: Collector,
    notes: crossbeam_channel::Receiver<CommitNote>,
    last_cut: u64,
    in_flight: bool,
    told: Option<(Watermark, Watermark)>,
    mirror: Arc<Mirror>,
    mount: Mount,
    clock: Arc<ManualClock>,
    random: StdRng,
    faults: Faults,
    /// How many inputs a lane takes at once, how many records are read at most.
    pace: Option<(usize, usize)>,
}

impl Life<'_> {
    /// One step; the books when it was the last one.
    pub fn go_on(&mut self) -> Result<Option<Books>, Halt> {
        if self.router.all_ended() {
            self.finish()?;
            let head = self.committer.chain.head();
            return Ok(Some(Books {
                streams: self.router.accounts().to_vec(),
                counts: head.counts.clone(),
                file_rows: head.totals.file_rows,
                dead_letter_rows: head.totals.dead_letter_rows,
            }));
        }
        let random = &mut self.random;
        let (eagerness, haste) =
            *self.pace.get_or_insert_with(|| (random.random_range(1..8), random.random_range(2..16)));
        if self.faults.clock_jumps && random.random_bool(0.02) {
            self.clock.set_wall_ms(START + random.random_range(-1..=1) * 3_600_000);
            self.world.disk.note("clock_jump");
        }
        match self.random.random_range(0..12) {
            0..4 => self.feed(haste)?,
            4 | 5 => self.tick(),
            6 if self.random.random_bool(0.3) => {
                let most = self.random.random_range(1..5);
                self.tell_online(most);
            }
            7 if !self.in_flight && self.random.random_bool(0.5) => {
                let roll = self.random.random_bool(0.4);
                self.begin_cut(roll);
            }
            _ => {
                for _ in 0..eagerness {
                    let lane = self.random.random_range(0..self.lanes.len());
                    self.step(lane)?;
                }
            }
        }
        self.pump(false)?;
        Ok(None)
    }

    /// As the conductor ends a run that is told to stop before its inputs have ended.
    pub fn stop(&mut self) -> Result<(), Halt> {
        self.drain()?;
        self.begin_cut(true);
        self.drain()?;
        assert!(!self.in_flight);
        Ok(())
    }

    pub fn head(&self) -> &Manifest {
        self.committer.chain.head()
    }

    /// Some records of a partition that has any left.
    fn feed(&mut self, haste: usize) -> Result<(), Halt> {
        let at = *self.logs.keys().nth(self.random.random_range(0..self.logs.len())).unwrap();
        let (partition, log) = (partition_of(at), &self.logs[&at]);
        let from = self.router.positions().next(partition).unwrap_or(0) as usize;
        if from == log.len() {
            // A cell's log goes on.
            if self.world.seat.is_none() {
                self.router.ended(partition);
            }
            return Ok(());
        }
        let to = log.len().min(from + self.random.random_range(1..=haste));
        let delta = PositionDelta { partition, from: from as i64, to: to as i64 };
        self.router.step(delta, 0).unwrap();
        let mut raw = RawBatch { delta, bytes: Vec::new(), records: Vec::new() };
        for (number, record) in log[from..to].iter().enumerate() {
            let start = raw.bytes.len() as u32;
            raw.bytes.extend_from_slice(record.as_bytes());
            let payload = Some(start..raw.bytes.len() as u32);
            raw.records.push(RawRecord { payload, position: (from + number) as i64, ..RawRecord::default() });
        }
        let mut decoded = self.decoders[at.0].decode(&raw);
        let rejected = std::mem::take(&mut decoded.rejected);
        self.world.note(format_args!("feed {delta:?}"));
        let routed = Arc::new(self.router.route(decoded, rejected.len() as u64));
        if !rejected.is_empty() {
            self.parts.push_back(CutPart::Rejected(rejected));
        }
        self.tell(LaneInput::Rows(routed));
        Ok(())
    }

    fn tell(&mut self, input: LaneInput) {
        self.queues.iter_mut().for_each(|queue| queue.push_back(input.clone()));
    }

    fn frontier(&self) -> (Watermark, i64) {
        let lag = self.cell.serving_lag_max_ms();
        let watermark = self.applied.iter().map(|lane| lane.watermark).min().unwrap();
        let oldest = self.applied.iter().map(|lane| lane.oldest_needed.min(lane.watermark.0.saturating_sub(lag)));
        (watermark, oldest.min().unwrap())
    }

    /// As the conductor does it.
    fn tick(&mut self) {
        let (watermark, idle) = self.router.advance(0);
        assert!(!idle);
        let (applied, oldest) = self.frontier();
        let mut frontier = if self.cell.groups.is_empty() { watermark } else { applied };
        if self.cell.reads(&self.mirror) {
            frontier = frontier.min(self.mirror.frontier());
        }
        if watermark == Watermark::MIN || self.told == Some((watermark, frontier)) {
            return;
        }
        self.told = Some((watermark, frontier));
        self.world.note(format_args!("advance {watermark:?} {frontier:?}"));
        let oldest_needed = oldest.min(self.router.online_instant(0).unwrap_or(i64::MIN));
        self.tell(LaneInput::Advance(Advance { watermark, frontier, oldest_needed, reason: CloseReason::Watermark }));
    }

    fn tell_online(&mut self, entities_max: usize) {
        if let Some(instant) = self.router.online_instant(self.cell.head_max_ms()) {
            self.tell(LaneInput::Online { instant, entities_max });
        }
    }

    /// As the conductor does it.
    fn begin_cut(&mut self, roll: bool) {
        self.last_cut += 1;
        self.in_flight = true;
        self.world.note(format_args!("cut {} roll {roll}", self.last_cut));
        if self.faults.slow && self.random.random_bool(0.2) {
            self.delay = self.random.random_range(1..80);
            self.world.disk.note("slow_commit");
        }
        let name = |stream: usize| self.plan.streams[stream].name.clone();
        let streams: Vec<String> = (0..self.plan.streams.len()).map(name).collect();
        let inputs: Vec<String> = self.plan.inputs.iter().map(|input| input.name.clone()).collect();
        let accounts = self.router.accounts();
        let accepted = |stream: u16| accounts[stream as usize].accepted;
        let samples = self.plan.samples.iter();
        let sealed = self.told.map_or(i64::MIN, |(watermark, _)| watermark.0);
        let mark = CellMark { watermark: sealed, needed: self.frontier().1, idle: false, published: i64::MIN };
        let cut = ConductorCut {
            number: self.last_cut,
            inputs: input_entries(&inputs, &BTreeMap::new(), self.router.positions()),
            tracks: track_entries(&streams, &inputs, &self.router.tracks()),
            watermark: self.router.watermark(),
            online_instant: self.router.online_instant(self.cell.head_max_ms()),
            anchor_accepted: samples.clone().map(|sample| accepted(sample.join.anchor)).collect(),
            label_accepted: samples
                .map(|sample| sample.join.labels.iter().map(|label| accepted(label.stream)).collect())
                .collect(),
            streams: streams.into_iter().zip(accounts.iter().copied()).collect(),
            handover: self.world.seat.as_ref().map(|_| Handover { mark, moved: Vec::new(), since: BTreeMap::new() }),
        };
        self.parts.push_back(CutPart::Conductor(Box::new(cut)));
        self.tell(LaneInput::Cut { number: self.last_cut, roll, sealed });
    }

    /// As a lane's thread does it.
    fn step(&mut self, number: usize) -> Result<(), Halt> {
        let Some(input) = self.queues[number].pop_front() else { return Ok(()) };
        let roll = matches!(input, LaneInput::Cut { roll: true, .. });
        let mut out = LaneOutput::default();
        self.lanes[number].step(input, &mut out);
        for (sample, rows) in out.closed {
            self.sink(number, SinkInput::Closed { sample, rows, recount: true })?;
        }
        if let Some(applied) = out.applied {
            self.applied[number] = applied;
        }
        if let Some(mut cut) = out.cut {
            self.sink(number, SinkInput::Cut { number: cut.number, roll })?;
            let lanes = self.lanes.len();
            let blocks = cut.blocks.drain(..).map(|block| encode_block(&block, lanes).unwrap()).collect();
            self.parts.push_back(CutPart::Lane(number, cut, blocks));
        }
        Ok(())
    }

    fn sink(&mut self, lane: usize, input: SinkInput) -> Result<(), Halt> {
        let cut = self.sinks[lane].take(input).map_err(|error| halt(&self.mount, error))?;
        self.parts.extend(cut.map(|cut| CutPart::Sink(lane, cut)));
        Ok(())
    }

    /// As the committer's thread does it, unless the store is slow.
    fn pump(&mut self, at_once: bool) -> Result<(), Halt> {
        if self.delay > 0 && !at_once {
            self.delay -= 1;
            return Ok(());
        }
        while let Some(part) = self.parts.pop_front() {
            let before = self.committer.chain.head();
            let (before, copied) = (before.number, before.totals.state_bytes_copied);
            let taken = self.committer.take(part);
            let head = self.committer.chain.head();
            if head.number > before {
                if head.totals.state_bytes_copied > copied {
                    self.world.disk.note("state_copied");
                }
                if self.committer.objects.last().is_some_and(|(_, blocks)| blocks.iter().any(|block| block.whole)) {
                    self.world.disk.note("bucket_written_whole");
                }
                // Also when what came after the commit failed.
                self.world.committed(head);
                check_groups(&self.plan, head);
                let files: Vec<&str> = head.files.iter().map(|entry| entry.file.sha256.as_str()).collect();
                self.world.note(format_args!("commit {} of cut {}: {files:?}", head.number, head.cut));
            }
            if taken.map_err(|error| halt(&self.mount, error))?.is_some() {
                self.in_flight = false;
            }
            self.notes.try_iter().for_each(|note| self.collector.take(note));
        }
        Ok(())
    }

    /// As the conductor ends a run whose inputs have ended.
    fn finish(&mut self) -> Result<(), Halt> {
        self.tick();
        self.drain()?;
        let (watermark, oldest) = self.frontier();
        assert_eq!(watermark, Watermark::MAX);
        let oldest_needed = oldest.min(self.router.online_instant(0).unwrap_or(i64::MIN));
        let end = Advance { watermark, frontier: watermark, oldest_needed, reason: CloseReason::End };
        self.tell(LaneInput::Advance(end));
        self.tell_online(usize::MAX);
        self.drain()?;
        self.begin_cut(true);
        self.drain()?;
        assert!(!self.in_flight);
        Ok(())
    }

    fn drain(&mut self) -> Result<(), Halt> {
        while self.queues.iter().any(|queue| !queue.is_empty()) {
            let lane = self.random.random_range(0..self.lanes.len());
            self.step(lane)?;
        }
        self.pump(true)
    }
}

/// F1 of the feature groups, at every manifest; the committer itself looks at the samples.
fn check_groups(plan: &Plan, head: &Manifest) {
    assert!(head.streams.values().all(StreamAccount::balances), "{:?}", head.streams);
    for (at, (group, spec)) in head.counts.groups.iter().zip(&plan.groups).enumerate() {
        for (number, (account, feature)) in group.uses.iter().zip(&spec.uses).enumerate() {
            let accepted = head.streams[&plan.streams[feature.stream as usize].name].accepted;
            let accepted = accepted - head.layout.groups[at].base[number];
            assert_eq!(account.accepted(), accepted, "{}: {account:?}", spec.name);
        }
    }
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
