//! Harness: router, lanes, sample rows and the manifest chain in one thread, ordered by one seed.
//!
//!   logs ─> Decoder ─> Router ─> queue per lane ─> Lane::step ─> build ─> open rows ─ roll ─> rows that a manifest names
//!                        └── Advance, Online, Cut in the conductor's order; crashes anywhere

use crate::simulation::world::{Logs, Setup};
use arrow::array::{Array as _, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMillisecondType};
use conjoin::cell::{Advance, Applied, CellSpec, Lane, LaneCut, LaneInput, LaneOutput, feature_history};
use conjoin::commit::{
    Chain, Identity, InputEntry, Layout, Manifest, TrackEntry, encode_block, read_block, verify_object, write_object,
};
use conjoin::config::Plan;
use conjoin::decode::Decoder;
use conjoin::env::{MemoryStore, Store};
use conjoin::event::{
    BlockClass, CloseReason, KEY_GROUPS, LaneCounts, PartitionId, Payload, PositionDelta, Positions, RawBatch,
    RawRecord, StreamAccount, Track, Watermark,
};
use conjoin::join::ClosedRows;
use conjoin::pipeline::{Objects, cell_spec, list_objects, restore_lane, routed_streams};
use conjoin::route::Router;
use conjoin::sample::build;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// What a simulation leaves behind: all that outlives a process.
pub struct Disk {
    store: Arc<dyn Store>,
    /// Rows of files that a manifest names.
    pub rows: Vec<String>,
    /// What happened, step by step.
    pub trace: String,
    pub crashes: usize,
    pub commits: u64,
    lives: usize,
}

/// The books at the end of a life that reached the end of its logs.
#[derive(Debug, Clone, PartialEq)]
pub struct Books {
    pub streams: Vec<StreamAccount>,
    pub counts: LaneCounts,
}

impl Disk {
    pub fn new() -> Disk {
        let store = Arc::new(MemoryStore::new());
        Disk { store, rows: Vec::new(), trace: String::new(), crashes: 0, commits: 0, lives: 0 }
    }

    pub fn trace_hash(&self) -> u64 {
        conjoin::event::content_hash(self.trace.as_bytes(), 0)
    }

    pub fn sorted_rows(&self) -> Vec<String> {
        let mut rows = self.rows.clone();
        rows.sort();
        rows
    }

    /// Runs to the end of the logs: one life per number of lanes, each but the last ended by a crash (which may come too
    /// late to happen).
    pub fn run(&mut self, setup: &Setup, logs: &Logs, lanes: &[usize], seed: u64) -> Books {
        let mut random = StdRng::seed_from_u64(seed);
        for (number, count) in lanes.iter().enumerate() {
            let crash_after = (number + 1 < lanes.len()).then(|| random.random_range(1..600));
            if let Some(books) = Life::new(self, setup, logs, *count).run(&mut random, crash_after) {
                return books;
            }
            self.crashes += 1;
        }
        unreachable!("the last life has no crash");
    }
}

/// A cut under way.
struct Cut {
    number: u64,
    positions: Positions,
    tracks: Vec<Track>,
    watermark: i64,
    streams: Vec<StreamAccount>,
    /// Per lane, what it adds, and the rows of the files that end here.
    parts: Vec<Option<(LaneCut, Vec<String>)>>,
    sampled_out: Vec<u64>,
}

/// One process from its claim to its end.
struct Life<'a> {
    disk: &'a mut Disk,
    logs: &'a Logs,
    plan: Plan,
    cell: Arc<CellSpec>,
    router: Router,
    decoders: Vec<Decoder>,
    lanes: Vec<Lane>,
    queues: Vec<VecDeque<LaneInput>>,
    applied: Vec<Applied>,
    /// Rows per lane in files that have not ended.
    open: Vec<Vec<String>>,
    sampled_out: Vec<u64>,
    cut: Option<Cut>,
    chain: Chain,
    objects: Objects,
    base: LaneCounts,
    told: Option<(Watermark, Watermark)>,
}

impl<'a> Life<'a> {
    fn new(disk: &'a mut Disk, setup: &Setup, logs: &'a Logs, lanes: usize) -> Life<'a> {
        disk.lives += 1;
        let plan = setup.plan(lanes);
        let identity = Identity {
            pipeline: &plan.pipeline,
            semantics: &plan.semantics,
            writer: format!("w{}", disk.lives),
            chain: 7,
            now_ms: 1,
        };
        let chain = Chain::claim(disk.store.clone(), &identity).unwrap();
        let head = chain.head().clone();
        let cell = Arc::new(cell_spec(&plan));
        let partitions: Vec<PartitionId> = logs.keys().map(|at| partition_of(*at)).collect();
        let mut router = Router::new(routed_streams(&plan, &cell, &partitions), lanes, 0);
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
        let objects = list_objects(disk.store.as_ref(), &head).unwrap();
        let history = feature_history(&cell);
        let mut life = Life {
            decoders: plan.streams.iter().map(|stream| Decoder::new(stream.decode.clone())).collect(),
            lanes: Vec::new(),
            queues: vec![VecDeque::new(); lanes],
            applied: vec![Applied { watermark: Watermark::MIN, oldest_needed: i64::MIN }; lanes],
            open: vec![Vec::new(); lanes],
            sampled_out: vec![0; lanes],
            cut: None,
            base: head.counts.without_held(),
            told: None,
            disk,
            logs,
            plan,
            cell: cell.clone(),
            router,
            chain,
            objects,
        };
        for number in 0..lanes {
            let mut lane = Lane::new(number, cell.clone(), history.clone());
            let store = life.disk.store.clone();
            let closed = restore_lane(&mut lane, number, lanes, store.as_ref(), &life.objects, &head).unwrap();
            life.lanes.push(lane);
            closed.into_iter().for_each(|(_, rows)| life.write(number, rows, false));
        }
        let pending: u64 = life.lanes.iter().map(|lane| lane.counts().samples[0].anchor.pending).sum();
        let expected = head.counts.samples.first().map_or(0, |sample| sample.anchor.pending);
        assert_eq!(pending, expected, "F15: pending rows after a restore");
        life.note(format_args!("life {lanes} lanes, {pending} pending"));
        life
    }

    fn note(&mut self, what: std::fmt::Arguments<'_>) {
        use std::fmt::Write;
        writeln!(self.disk.trace, "{what}").unwrap();
    }

    /// `None` when it crashed.
    fn run(mut self, random: &mut StdRng, crash_after: Option<usize>) -> Option<Books> {
        let mut steps = 0;
        let (eagerness, haste) = (random.random_range(1..8), random.random_range(2..16));
        while !self.router.all_ended() {
            steps += 1;
            if crash_after.is_some_and(|after| steps > after) {
                self.note(format_args!("crash"));
                return None;
            }
            match random.random_range(0..12) {
                0..4 => self.feed(random, haste),
                4 | 5 => self.tick(),
                6 if random.random_bool(0.3) => {
                    self.tell_online(random.random_range(1..5));
                }
                7 if self.cut.is_none() && random.random_bool(0.5) => self.begin_cut(random.random_bool(0.4)),
                _ => (0..eagerness).for_each(|_| {
                    let lane = random.random_range(0..self.lanes.len());
                    self.step(lane);
                }),
            }
        }
        self.finish(random);
        let streams = self.router.accounts().to_vec();
        Some(Books { streams, counts: self.chain.head().counts.clone() })
    }

    /// Some records of a partition that has any left.
    fn feed(&mut self, random: &mut StdRng, haste: usize) {
        let at = *self.logs.keys().nth(random.random_range(0..self.logs.len())).unwrap();
        let (partition, log) = (partition_of(at), &self.logs[&at]);
        let from = self.router.positions().next(partition).unwrap_or(0) as usize;
        if from == log.len() {
            self.router.ended(partition);
            return;
        }
        let to = log.len().min(from + random.random_range(1..=haste));
        let delta = PositionDelta { partition, from: from as i64, to: to as i64 };
        self.router.step(delta, 0).unwrap();
        let mut raw = RawBatch { delta, bytes: Vec::new(), records: Vec::new() };
        for (number, record) in log[from..to].iter().enumerate() {
            let start = raw.bytes.len() as u32;
            raw.bytes.extend_from_slice(record.as_bytes());
            let payload = Some(start..raw.bytes.len() as u32);
            raw.records.push(RawRecord { payload, position: (from + number) as i64, ..RawRecord::default() });
        }
        let decoded = self.decoders[at.0].decode(&raw);
        assert!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
        self.note(format_args!("feed {delta:?}"));
        let routed = Arc::new(self.router.route(decoded, 0));
        self.tell(LaneInput::Rows(routed));
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
        let frontier = if self.cell.groups.is_empty() { watermark } else { applied };
        if watermark == Watermark::MIN || self.told == Some((watermark, frontier)) {
            return;
        }
        self.told = Some((watermark, frontier));
        self.note(format_args!("advance {watermark:?} {frontier:?}"));
        let oldest_needed = oldest.min(self.router.online_instant(0).unwrap_or(i64::MIN));
        self.tell(LaneInput::Advance(Advance { watermark, frontier, oldest_needed, reason: CloseReason::Watermark }));
    }

    fn tell_online(&mut self, entities_max: usize) {
        if let Some(instant) = self.router.online_instant(self.cell.head_max_ms()) {
            self.tell(LaneInput::Online { instant, entities_max });
        }
    }

    fn begin_cut(&mut self, roll: bool) {
        let number = self.chain.head().cut + 1;
        self.note(format_args!("cut {number} roll {roll}"));
        self.cut = Some(Cut {
            number,
            positions: self.router.positions().clone(),
            tracks: self.router.tracks(),
            watermark: self.router.watermark(),
            streams: self.router.accounts().to_vec(),
            parts: self.lanes.iter().map(|_| None).collect(),
            sampled_out: vec![0; self.lanes.len()],
        });
        self.tell(LaneInput::Cut { number, roll });
    }

    fn step(&mut self, number: usize) {
        let Some(input) = self.queues[number].pop_front() else { return };
        let roll = matches!(input, LaneInput::Cut { roll: true, .. });
        let mut out = LaneOutput::default();
        self.lanes[number].step(input, &mut out);
        out.closed.into_iter().for_each(|(_, rows)| self.write(number, rows, true));
        if let Some(applied) = out.applied {
            self.applied[number] = applied;
        }
        if let Some(part) = out.cut {
            let files = if roll { std::mem::take(&mut self.open[number]) } else { Vec::new() };
            let cut = self.cut.as_mut().expect("a cut is under way");
            cut.parts[number] = Some((part, files));
            cut.sampled_out[number] = self.sampled_out[number];
            if cut.parts.iter().all(Option::is_some) {
                self.commit();
            }
        }
    }

    /// What a sink does.
    fn write(&mut self, lane: usize, closed: ClosedRows, count: bool) {
        for part in closed.parts.iter().filter(|part| !part.event_time.is_empty()) {
            let payload = match &part.payload {
                Payload::Memory(rows) => rows.clone(),
                Payload::Stored(block) => read_block(self.disk.store.as_ref(), block).unwrap(),
            };
            let built = build(&self.plan.samples[0].sample, 0, closed.bucket, part, &payload).unwrap();
            self.sampled_out[lane] += if count { built.sampled_out } else { 0 };
            for row in 0..built.batch.rows.num_rows() {
                let row = row_text(&built.batch.rows, row);
                self.note(format_args!("lane {lane} {row}"));
                self.open[lane].push(row);
            }
        }
    }

    /// What the committer does.
    fn commit(&mut self) {
        let cut = self.cut.take().unwrap();
        let (mut blocks, mut needed_from) = (Vec::new(), BTreeMap::<BlockClass, i64>::new());
        let (mut counts, mut rows) = (self.base.clone(), Vec::new());
        for (part, files) in cut.parts.into_iter().flatten() {
            counts.add(&part.counts);
            blocks.extend(part.blocks);
            rows.extend(files);
            for (class, bucket) in part.needed_from {
                needed_from.entry(class).and_modify(|first| *first = bucket.min(*first)).or_insert(bucket);
            }
        }
        let left_out: u64 = cut.sampled_out.iter().sum();
        counts.samples[0].anchor.emitted -= left_out;
        counts.samples[0].anchor.sampled_out += left_out;
        self.check_books(&counts, &cut.streams);
        let (store, lanes) = (self.disk.store.clone(), self.lanes.len());
        if !blocks.is_empty() {
            let path = format!("state/{}-{}", cut.number, self.disk.lives);
            let encoded = blocks.iter().map(|block| encode_block(block, lanes).unwrap()).collect();
            let (object, entries) = write_object(store.as_ref(), &path, encoded).unwrap();
            verify_object(store.as_ref(), &object).unwrap();
            self.objects.push((object, entries));
        }
        self.objects.retain(|(object, entries)| {
            let needed = entries.iter().any(|entry| needed_from.get(&entry.class).is_none_or(|at| entry.bucket >= *at));
            if !needed {
                store.delete(&object.path).unwrap();
            }
            needed
        });
        let name = |stream: u16| self.plan.streams[stream as usize].name.clone();
        let inputs = self.plan.inputs.iter().enumerate().map(|(number, input)| InputEntry {
            name: input.name.clone(),
            next: cut
                .positions
                .iter()
                .filter(|(at, _)| at.input as usize == number)
                .map(|(at, n)| (at.partition, n))
                .collect(),
            first: BTreeMap::new(),
            files: Vec::new(),
        });
        let tracks = cut.tracks.iter().map(|track| TrackEntry {
            stream: name(track.stream),
            input: name(track.stream),
            partition: track.partition.partition,
            newest: track.newest,
        });
        let next = Manifest {
            cut: cut.number,
            layout: Layout { lanes, key_groups: KEY_GROUPS, ..Layout::default() },
            inputs: inputs.collect(),
            tracks: tracks.collect(),
            watermark: cut.watermark,
            streams: cut.streams.iter().enumerate().map(|(stream, account)| (name(stream as u16), *account)).collect(),
            needed_from: needed_from.into_iter().collect(),
            counts,
            objects: self.objects.iter().map(|(object, _)| object.clone()).collect(),
            ..self.chain.head().clone()
        };
        self.chain.commit(next).unwrap();
        self.note(format_args!("commit {} with {} rows", cut.number, rows.len()));
        self.disk.rows.extend(rows);
        self.disk.commits += 1;
    }

    /// F1 over the whole cell, at every manifest.
    fn check_books(&self, counts: &LaneCounts, streams: &[StreamAccount]) {
        assert!(streams.iter().all(StreamAccount::balances), "{streams:?}");
        let (sample, spec) = (&counts.samples[0], &self.plan.samples[0].join);
        let anchor = streams[spec.anchor as usize].accepted;
        assert!(sample.anchor.balances() && sample.anchor.accepted() == anchor, "{:?} of {anchor}", sample.anchor);
        for (label, account) in spec.labels.iter().zip(&sample.labels) {
            let accepted = streams[label.stream as usize].accepted;
            assert!(account.balances() && account.accepted() == accepted, "{}: {account:?} of {accepted}", label.name);
        }
        for (group, spec) in counts.groups.iter().zip(&self.plan.groups) {
            for (account, feature) in group.uses.iter().zip(&spec.uses) {
                let accepted = streams[feature.stream as usize].accepted;
                assert_eq!(account.accepted(), accepted, "{}: {account:?}", spec.name);
            }
        }
    }

    /// As the conductor ends a run whose inputs have ended.
    fn finish(&mut self, random: &mut StdRng) {
        self.tick();
        self.drain(random);
        let (watermark, oldest) = self.frontier();
        assert_eq!(watermark, Watermark::MAX);
        let oldest_needed = oldest.min(self.router.online_instant(0).unwrap_or(i64::MIN));
        let end = Advance { watermark, frontier: watermark, oldest_needed, reason: CloseReason::End };
        self.tell(LaneInput::Advance(end));
        self.tell_online(usize::MAX);
        self.drain(random);
        self.begin_cut(true);
        self.drain(random);
        assert!(self.cut.is_none());
    }

    fn drain(&mut self, random: &mut StdRng) {
        while self.queues.iter().any(|queue| !queue.is_empty()) {
            let lane = random.random_range(0..self.lanes.len());
            self.step(lane);
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
