//! Life: one process of a pipeline from claim to commit, of the pipeline's own parts, in one thread and in memory.
//!
//!   records ─> Decoder ─> Router ─> every Lane ─> SinkThread ─┐
//!                                       └── cuts ──────────────┴─> Committer ─> the manifest chain in a MemoryStore
//!
//! Does not: inject faults or order things by chance: tests/it/simulation does.

use super::script::Script;
use conjoin::cell::{Applied, CellScope, CellSpec, Lane, LaneInput, LaneOutput, Mirror, feature_history};
use conjoin::commit::{Chain, Identity, Manifest, encode_block};
use conjoin::config::{LoadOptions, Plan, load_texts};
use conjoin::decode::Decoder;
use conjoin::env::{ManualClock, MemoryStore, Store};
use conjoin::event::{FeatureBatch, PartitionId, PositionDelta, Positions, RawBatch, RawRecord, Track, Watermark};
use conjoin::pipeline::{
    BookNames, CommitNote, CommitWork, Committed, Committer, ConductorCut, CutPart, DEAD_LETTERS, GarbageOutlet,
    NOTES_MAX, RestoreFrom, RunError, SinkGauge, SinkInput, SinkThread, SinkWork, Timekeeper, cell_spec, definition,
    input_entries, list_objects, outage_entries, outages_of, restore_lane, routed_streams, track_entries,
};
use conjoin::route::Router;
use conjoin::sink::{DeadLetterSink, FileNaming, ParquetSink};
use conjoin::telemetry::Telemetry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub const STREAMS: [&str; 3] = ["impressions", "clicks", "buys"];
pub const START: i64 = 1_700_000_000_000;
/// Bytes of payload that a lane keeps in memory though they are on disk: a few rows, and not all.
const KEEP: usize = 4_096;

/// What outlives a process: objects by store (the state, the samples, the dead letters) and path.
pub type Objects = Vec<(usize, String, Vec<u8>)>;

/// The stores of a process.
pub struct Disk([MemoryStore; 3]);

impl Disk {
    pub fn of(objects: &Objects) -> Disk {
        let disk = Disk(Default::default());
        objects.iter().for_each(|(store, path, bytes)| disk.0[*store].corrupt(path, bytes));
        disk
    }

    pub fn state(&self) -> &MemoryStore {
        &self.0[0]
    }

    pub fn objects(&self) -> Objects {
        let of = |number: usize| {
            let store = &self.0[number];
            let listed = store.list("").expect("memory can be listed").into_iter();
            listed.map(move |object| (number, object.path.clone(), store.read(&object.path).expect("it is there")))
        };
        (0..self.0.len()).flat_map(of).collect()
    }
}

/// The pipeline, with where its streams come from and where everything else lies.
pub fn plan(source: impl Fn(&str) -> String, folder: &str, lanes: usize, more: &str) -> Plan {
    let mut text = include_str!("life.yaml").replace("FOLDER", folder).replace("LANES", &lanes.to_string());
    text.push_str(more);
    for stream in STREAMS {
        text = text.replace(&format!("SOURCE {stream}\n"), &format!("{}\n", source(stream)));
    }
    let options = LoadOptions { overlays: &[], sets: &[], env: &|_| None, cores: 1 };
    load_texts(&[("life.yaml".into(), text)], &options).unwrap_or_else(|errors| panic!("{errors}")).plan
}

pub fn memory_plan(lanes: usize) -> Arc<Plan> {
    Arc::new(plan(|_| "memory: {}".into(), "nowhere", lanes, ""))
}

pub struct Life {
    plan: Arc<Plan>,
    cell: Arc<CellSpec>,
    router: Router,
    decoders: Vec<Decoder>,
    lanes: Vec<Lane>,
    applied: Vec<Applied>,
    sinks: Vec<SinkThread>,
    committer: Committer,
    notes: crossbeam_channel::Receiver<CommitNote>,
    last_cut: u64,
    /// What the lanes are not told of yet.
    committed: Option<Committed>,
    time: Timekeeper,
    /// What went to the online store, in order.
    pub published: Vec<FeatureBatch>,
}

impl Life {
    /// Takes the chain over and brings the state back, as `pipeline::start` does.
    pub fn start(plan: &Arc<Plan>, disk: &Disk, writer: &str) -> Result<Life, RunError> {
        let [state, out, dead] = disk.0.each_ref().map(|store| Arc::new(store.clone()) as Arc<dyn Store>);
        let identity = Identity {
            pipeline: &plan.pipeline,
            definition: &definition(plan),
            resets: &BTreeSet::new(),
            writer: writer.into(),
            chain: 7,
            now_ms: 1,
        };
        let chain = Chain::claim(state.clone(), &identity)?;
        let head = chain.head().clone();
        let cell = Arc::new(cell_spec(plan, CellScope::WHOLE, &head.layout));
        let router = router(plan, &cell, &head);
        let objects = list_objects(state.as_ref(), &head)?;
        let clock = Arc::new(ManualClock::at(START));
        let (notes_in, notes) = crossbeam_channel::bounded(NOTES_MAX);
        let streams: Vec<String> = plan.streams.iter().map(|stream| stream.name.clone()).collect();
        let inputs: Vec<String> = plan.inputs.iter().map(|input| input.name.clone()).collect();
        let samples: Vec<String> = plan.samples.iter().map(|sample| sample.sample.name.clone()).collect();
        let letters = DeadLetterSink::new(&streams, &inputs, naming(plan, DEAD_LETTERS, 0, &head), dead.clone());
        let lanes = cell.lanes;
        let committer = Committer {
            dead_letters: letters,
            dead_letter_store: dead,
            lanes,
            places: BTreeMap::new(),
            left: BTreeMap::new(),
            exchange: None,
            samples: samples.into_iter().map(|name| (name, Some(out.clone()))).collect(),
            work: CommitWork::new(&head, lanes),
            state: state.clone(),
            objects: objects.clone(),
            chain,
            clock: clock.clone(),
            telemetry: Arc::new(Telemetry::new(&plan.pipeline)),
            board: Default::default(),
            done: crossbeam_channel::bounded(1).0,
            garbage: GarbageOutlet::new(notes_in),
            writer: writer.into(),
            names: BookNames::default(),
        };
        committer.check_unpublished(&head)?;
        committer.publish(&head)?;
        let sink = |lane: usize| SinkThread {
            lane,
            samples: plan.samples.clone(),
            sinks: plan
                .samples
                .iter()
                .map(|sample| {
                    let (name, schema) = (&sample.sample.name, sample.sample.schema.clone());
                    let spec = sample.parquet.as_ref()?;
                    Some(ParquetSink::new(spec, schema, naming(plan, name, lane, &head), out.clone()))
                })
                .collect(),
            state: state.clone(),
            clock: clock.clone(),
            gauge: Arc::new(SinkGauge::default()),
            enricher: None,
            cuts: crossbeam_channel::bounded(1).0,
            work: SinkWork::default(),
        };
        let history = feature_history(&cell, Arc::new(Mirror::new(1, &[], &[])));
        let mut life = Life {
            decoders: plan.streams.iter().map(|stream| Decoder::new(stream.decode.clone())).collect(),
            lanes: (0..lanes).map(|number| Lane::new(number, cell.clone(), history.clone())).collect(),
            applied: vec![Applied { watermark: Watermark::MIN, oldest_needed: i64::MIN }; lanes],
            sinks: (0..lanes).map(sink).collect(),
            last_cut: head.cut,
            time: Timekeeper::new(cell.clone(), None, streams, &router),
            published: Vec::new(),
            committed: None,
            plan: plan.clone(),
            cell,
            router,
            committer,
            notes,
        };
        let outages = outages_of(plan, &head);
        for number in 0..lanes {
            let outages = &outages;
            let from = RestoreFrom { store: state.as_ref(), objects: &objects, head: &head, keep: KEEP, outages };
            let closed = restore_lane(&mut life.lanes[number], number, lanes, &from)?;
            for (sample, rows) in closed {
                life.sink(number, SinkInput::Closed { sample, rows, recount: false })?;
            }
        }
        Ok(life)
    }

    pub fn head(&self) -> &Manifest {
        self.committer.chain.head()
    }

    /// How many records of a stream were read.
    pub fn position(&self, stream: usize) -> usize {
        self.router.positions().next(partition(stream)).unwrap_or(0) as usize
    }

    /// Reads the next records of a stream. Positions count records.
    pub fn feed(&mut self, stream: usize, records: &[Vec<u8>]) -> Result<(), RunError> {
        let from = self.position(stream) as i64;
        let delta = PositionDelta { partition: partition(stream), from, to: from + records.len() as i64 };
        self.router.step(delta, 0)?;
        let mut raw = RawBatch { delta, bytes: Vec::new(), records: Vec::new() };
        for (record, position) in records.iter().zip(from..) {
            let start = raw.bytes.len() as u32;
            raw.bytes.extend_from_slice(record);
            let payload = Some(start..raw.bytes.len() as u32);
            raw.records.push(RawRecord { payload, position, ..RawRecord::default() });
        }
        let mut decoded = self.decoders[stream].decode(&raw);
        let rejected = std::mem::take(&mut decoded.rejected);
        let routed = Arc::new(self.router.route(decoded, rejected.len() as u64));
        if !rejected.is_empty() {
            self.take(CutPart::Rejected(rejected))?;
        }
        if routed.decoded.num_rows() == 0 {
            return Ok(());
        }
        self.tell(LaneInput::Rows(routed))
    }

    /// Moves time on, as the conductor does.
    pub fn tick(&mut self, now_ms: u64) -> Result<(), RunError> {
        let frontier = self.frontier();
        match self.time.advance(&mut self.router, frontier, now_ms) {
            Some(advance) => self.tell(LaneInput::Advance(advance)),
            None => Ok(()),
        }
    }

    fn frontier(&self) -> (Watermark, i64) {
        let lag = self.cell.serving_lag_max_ms();
        let watermark = self.applied.iter().map(|lane| lane.watermark).min().expect("there is a lane");
        let oldest = self.applied.iter().map(|lane| lane.oldest_needed.min(lane.watermark.0.saturating_sub(lag)));
        (watermark, oldest.min().expect("there is a lane"))
    }

    /// Every partition is read to its end, and quiet since.
    pub fn quiet(&mut self, now_ms: u64) {
        (0..STREAMS.len()).for_each(|stream| self.router.caught_up(partition(stream), now_ms));
    }

    pub fn online(&mut self, entities_max: usize) -> Result<(), RunError> {
        match self.router.online_instant(self.cell.head_max_ms()) {
            Some(instant) => self.tell(LaneInput::Online { instant, entities_max }),
            None => Ok(()),
        }
    }

    /// Commits what there is.
    pub fn cut(&mut self, roll: bool) -> Result<(), RunError> {
        self.last_cut += 1;
        let streams: Vec<String> = self.plan.streams.iter().map(|stream| stream.name.clone()).collect();
        let inputs: Vec<String> = self.plan.inputs.iter().map(|input| input.name.clone()).collect();
        let accounts = self.router.accounts();
        let accepted = |stream: u16| accounts[stream as usize].accepted;
        let (sealed, handover) = self.time.cut(&self.router, self.frontier().1);
        let joins = || self.plan.samples.iter().map(|sample| &sample.join);
        let cut = ConductorCut {
            number: self.last_cut,
            inputs: input_entries(&inputs, &BTreeMap::new(), self.router.positions()),
            tracks: track_entries(&streams, &inputs, &self.router.tracks()),
            outages: outage_entries(&streams, self.router.outages()),
            watermark: self.time.watermark(),
            online_instant: self.router.online_instant(self.cell.head_max_ms()),
            anchor_accepted: joins().map(|join| accepted(join.anchor)).collect(),
            label_accepted: joins()
                .map(|join| join.labels.iter().map(|label| accepted(label.stream)).collect())
                .collect(),
            streams: streams.into_iter().zip(accounts.iter().copied()).collect(),
            handover,
        };
        self.take(CutPart::Conductor(Box::new(cut)))?;
        self.tell(LaneInput::Cut { number: self.last_cut, roll, sealed })?;
        match self.committed.take() {
            Some(committed) => self.tell(LaneInput::Stored { blocks: committed.blocks, keep: KEEP }),
            None => Ok(()),
        }
    }

    /// Every input has ended: all that is pending closes, and is committed.
    pub fn finish(mut self) -> Result<Manifest, RunError> {
        (0..STREAMS.len()).for_each(|stream| self.router.ended(partition(stream)));
        // The first one lets every lane take in everything, the second closes.
        self.tick(0)?;
        let (_, oldest) = self.frontier();
        self.tell(LaneInput::Advance(self.time.end(&self.router, oldest)))?;
        self.online(usize::MAX)?;
        self.cut(true)?;
        Ok(self.head().clone())
    }

    fn tell(&mut self, input: LaneInput) -> Result<(), RunError> {
        let roll = matches!(input, LaneInput::Cut { roll: true, .. });
        for number in 0..self.lanes.len() {
            let mut out = LaneOutput::default();
            self.lanes[number].step(input.clone(), &mut out);
            for (sample, rows) in out.closed {
                self.sink(number, SinkInput::Closed { sample, rows, recount: true })?;
            }
            self.published.extend(out.online);
            if let Some(applied) = out.applied {
                self.applied[number] = applied;
            }
            if let Some(mut cut) = out.cut {
                self.sink(number, SinkInput::Cut { number: cut.number, roll })?;
                let lanes = self.lanes.len();
                let blocks: Result<Vec<_>, _> = cut.blocks.drain(..).map(|block| encode_block(&block, lanes)).collect();
                self.take(CutPart::Lane(number, cut, blocks?))?;
            }
        }
        Ok(())
    }

    fn sink(&mut self, lane: usize, input: SinkInput) -> Result<(), RunError> {
        match self.sinks[lane].take(input)? {
            Some(cut) => self.take(CutPart::Sink(lane, cut)),
            None => Ok(()),
        }
    }

    fn take(&mut self, part: CutPart) -> Result<(), RunError> {
        self.committed = self.committer.take(part)?.or(self.committed.take());
        self.notes.try_iter().for_each(drop);
        Ok(())
    }
}

fn partition(stream: usize) -> PartitionId {
    PartitionId { input: stream as u16, partition: 0 }
}

fn naming(plan: &Plan, sample: &str, lane: usize, head: &Manifest) -> FileNaming {
    let (chain, epoch) = (head.chain, head.epoch);
    FileNaming { pipeline: plan.pipeline.clone(), sample: sample.into(), chain, lane: lane as u16, epoch }
}

fn router(plan: &Plan, cell: &CellSpec, head: &Manifest) -> Router {
    let partitions: Vec<PartitionId> = (0..STREAMS.len()).map(partition).collect();
    let mut router = Router::new(routed_streams(plan, cell, &partitions), cell.lanes, 0);
    let mut positions = Positions::default();
    let input = |name: &str| plan.inputs.iter().position(|input| input.name == name).map(|input| input as u16);
    for entry in &head.inputs {
        let Some(input) = input(&entry.name) else { continue };
        for (partition, next) in &entry.next {
            positions.set(PartitionId { input, partition: *partition }, *next);
        }
    }
    let stream_of = |name: &str| plan.streams.iter().position(|stream| stream.name == name);
    let tracks = head.tracks.iter().filter_map(|track| {
        let partition = PartitionId { input: input(&track.input)?, partition: track.partition };
        Some(Track { stream: stream_of(&track.stream)? as u16, partition, newest: track.newest })
    });
    let accounts: Vec<_> =
        plan.streams.iter().map(|stream| head.streams.get(&stream.name).copied().unwrap_or_default()).collect();
    router.restore(positions, &tracks.collect::<Vec<_>>(), head.watermark, &accounts, outages_of(plan, head));
    router
}

/// A record of a stream as a script makes it up: few users and items, so that they meet; times near each other, and
/// now and then at the end of the world.
pub fn record(stream: usize, script: &mut Script<'_>) -> Vec<u8> {
    let shape = script.byte();
    let who = script.byte();
    let (user, item) = (format!("u{}", who % 3), (who >> 2) % 4);
    let ts = match shape % 32 {
        0 => script.integer(),
        1 => START as i128 + script.integer(),
        _ => START as i128 + 250 * script.below(4_096) as i128,
    };
    let id = script.byte() % 64;
    let number = script.byte();
    let mut fields = vec![format!("\"user\":\"{user}\""), format!("\"item\":{item}"), format!("\"ts\":{ts}")];
    let value = match number {
        0..8 => script.integer().to_string(),
        8..16 => "null".into(),
        number => format!("{}", number as i64 - 100),
    };
    match stream {
        // Records with one id belong to one user, and so to one lane: lanes do not know of each other's ids.
        0 => fields.extend([format!("\"request\":\"{user}-r{id}\""), format!("\"score\":{value}")]),
        1 => fields.extend([format!("\"event\":\"{user}-c{id}\""), format!("\"text\":\"t{}\"", number % 5)]),
        _ => fields.extend([
            format!("\"event\":\"{user}-b{id}\""),
            format!("\"value\":{value}"),
            format!("\"price\":{}", number as f32 / 4.0),
            format!("\"flag\":{}", number.is_multiple_of(2)),
        ]),
    }
    if shape >= 250 {
        fields.remove(shape as usize % fields.len());
    }
    format!("{{{}}}", fields.join(",")).into_bytes()
}
