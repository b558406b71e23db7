//! Life: one process from its start to its end, or what a process does for one of its cells.

use crate::simulation::disk::Mount;
use crate::simulation::harness::{Books, Faults, Halt, World, halt, partition_of};
use crate::simulation::world::{Logs, START};
use conjoin::cell::{Applied, CellSpec, Lane, LaneInput, LaneOutput};
use conjoin::commit::{Manifest, encode_block};
use conjoin::config::Plan;
use conjoin::decode::Decoder;
use conjoin::env::ManualClock;
use conjoin::event::{PositionDelta, RawBatch, RawRecord, StateMemory, StreamAccount, Watermark};
use conjoin::join::ClosedPart;
use conjoin::online::Version;
use conjoin::pipeline::{
    Collector, CommitNote, Committer, ConductorCut, CutPart, SinkInput, SinkThread, Timekeeper, input_entries,
    outage_entries, track_entries,
};
use conjoin::route::Router;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// See the module.
pub struct Life<'a> {
    pub(super) world: &'a World,
    pub(super) logs: &'a Logs,
    pub(super) plan: Arc<Plan>,
    pub(super) cell: Arc<CellSpec>,
    pub(super) router: Router,
    pub(super) decoders: Vec<Decoder>,
    pub(super) lanes: Vec<Lane>,
    pub(super) queues: Vec<VecDeque<LaneInput>>,
    pub(super) applied: Vec<Applied>,
    pub(super) sinks: Vec<SinkThread>,
    /// On their way to the committer, which looks at them when the delay is over.
    pub(super) parts: VecDeque<CutPart>,
    pub(super) delay: u32,
    pub(super) committer: Committer,
    pub(super) collector: Collector,
    pub(super) notes: crossbeam_channel::Receiver<CommitNote>,
    pub(super) last_cut: u64,
    pub(super) in_flight: bool,
    pub(super) time: Timekeeper,
    /// Logs that were read to their end.
    pub(super) caught_up: BTreeSet<(usize, u32)>,
    /// Counts what was published.
    pub(super) published: u32,
    pub(super) mount: Mount,
    pub(super) clock: Arc<ManualClock>,
    pub(super) random: StdRng,
    pub(super) faults: Faults,
    /// Bytes of payload that a lane keeps at most though they are on disk; everything where nothing is said.
    pub(super) keep: Option<usize>,
    /// How many inputs a lane takes at once, how many records are read at most.
    pub(super) pace: Option<(usize, usize)>,
    pub(super) steps: u64,
}

/// Far more than the longest life takes: one that does not come to its end is a failure with a seed, not a test that hangs.
const STEPS_MAX: u64 = 3_000_000;

impl Life<'_> {
    /// One step; the books when it was the last one.
    pub fn go_on(&mut self) -> Result<Option<Books>, Halt> {
        self.steps += 1;
        assert!(self.steps < STEPS_MAX, "it does not come to its end");
        if self.router.all_ended() {
            self.finish()?;
            return Ok(Some(self.books()));
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
            4 | 5 => self.tick()?,
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

    pub fn books(&self) -> Books {
        let head = self.committer.chain.head();
        Books {
            streams: self.router.accounts().to_vec(),
            counts: head.counts.clone(),
            file_rows: head.totals.file_rows,
            dead_letter_rows: head.totals.dead_letter_rows,
        }
    }

    /// What was committed last.
    pub fn head(&self) -> &Manifest {
        self.committer.chain.head()
    }

    /// Whether every record there is was read.
    pub fn has_read_all(&self) -> bool {
        self.logs.iter().all(|(at, log)| self.next_of(*at) == log.len())
    }

    /// The instant at which the features of entities that stay in the cell are published.
    pub fn online_instant(&self) -> Option<i64> {
        self.router.online_instant(self.cell.head_max_ms())
    }

    fn next_of(&self, at: (usize, u32)) -> usize {
        self.router.positions().next(partition_of(at)).unwrap_or(0) as usize
    }

    /// Some records of a partition that has any left.
    fn feed(&mut self, haste: usize) -> Result<(), Halt> {
        let at = *self.logs.keys().nth(self.random.random_range(0..self.logs.len())).unwrap();
        self.read(at, haste)
    }

    fn read(&mut self, at: (usize, u32), haste: usize) -> Result<(), Halt> {
        let (partition, log, now) = (partition_of(at), &self.logs[&at], self.world.now_ms.get());
        let (from, end) = (self.next_of(at), self.world.arrived(at, log.len()));
        if from == end {
            // The log of a cell goes on.
            if self.committer.exchange.is_none() {
                self.router.ended(partition);
            } else if self.caught_up.insert(at) {
                self.router.caught_up(partition, now);
            }
            return Ok(());
        }
        self.caught_up.remove(&at);
        let to = end.min(from + self.random.random_range(1..=haste));
        let delta = PositionDelta { partition, from: from as i64, to: to as i64 };
        self.router.step(delta, now).unwrap();
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
        assert_eq!(self.router.misplaced(&decoded), None, "{delta:?}");
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
    fn tick(&mut self) -> Result<(), Halt> {
        // What comes to a log that was read to its end is there at once: it is not idle because it was not looked at.
        for at in self.caught_up.clone() {
            if self.next_of(at) < self.world.arrived(at, self.logs[&at].len()) {
                self.read(at, usize::MAX >> 1)?;
            }
        }
        let frontier = self.frontier();
        if let Some(advance) = self.time.advance(&mut self.router, frontier, self.world.now_ms.get()) {
            self.world.note(format_args!("advance {:?} {:?}", advance.watermark, advance.frontier));
            self.tell(LaneInput::Advance(advance));
        }
        Ok(())
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
        let (_, needed) = self.frontier();
        let (sealed, handover) = self.time.cut(&self.router, needed);
        let cut = ConductorCut {
            number: self.last_cut,
            inputs: input_entries(&inputs, &BTreeMap::new(), self.router.positions()),
            tracks: track_entries(&streams, &inputs, &self.router.tracks()),
            outages: outage_entries(&streams, self.router.outages()),
            watermark: self.time.watermark(),
            online_instant: self.router.online_instant(self.cell.head_max_ms()),
            anchor_accepted: samples.clone().map(|sample| accepted(sample.join.anchor)).collect(),
            label_accepted: samples
                .map(|sample| sample.join.labels.iter().map(|label| accepted(label.stream)).collect())
                .collect(),
            streams: streams.into_iter().zip(accounts.iter().copied()).collect(),
            handover,
        };
        self.parts.push_back(CutPart::Conductor(Box::new(cut)));
        self.tell(LaneInput::Cut { number: self.last_cut, roll, sealed });
    }

    /// As a lane's thread does it.
    fn step(&mut self, number: usize) -> Result<(), Halt> {
        let Some(input) = self.queues[number].pop_front() else { return Ok(()) };
        let roll = matches!(input, LaneInput::Cut { roll: true, .. });
        let kept = if let LaneInput::Stored { keep, .. } = &input { Some(*keep) } else { None };
        let mut out = LaneOutput::default();
        self.lanes[number].step(input, &mut out);
        if let Some(keep) = kept {
            self.check_memory(number, keep);
        }
        let on_disk = |part: &ClosedPart| part.payload.in_memory().is_none();
        if out.closed.iter().flat_map(|(_, rows)| &rows.parts).any(on_disk) {
            self.world.disk.note("read_back");
        }
        for (sample, rows) in out.closed {
            self.sink(number, SinkInput::Closed { sample, rows, recount: true })?;
        }
        if let Some(applied) = out.applied {
            self.applied[number] = applied;
        }
        for batch in out.online {
            self.published += 1;
            self.world.publish(&batch, Version::new(1, self.committer.chain.head().epoch as u32, 0, self.published));
        }
        if let Some(mut cut) = out.cut {
            self.sink(number, SinkInput::Cut { number: cut.number, roll })?;
            let lanes = self.lanes.len();
            let blocks = cut.blocks.drain(..).map(|block| encode_block(&block, lanes).unwrap()).collect();
            self.parts.push_back(CutPart::Lane(number, cut, blocks));
        }
        Ok(())
    }

    /// F13: between cuts a lane has the payload that it may keep, and what came since.
    fn check_memory(&self, number: usize, keep: usize) {
        let lane = &self.lanes[number];
        let memory = lane.counts().samples.iter().fold(StateMemory::default(), |mut sum, sample| {
            sum += sample.memory;
            sum
        });
        let most = (keep as u64).saturating_add(lane.fresh_bytes() as u64);
        assert!(memory.payload <= most, "{memory:?} where {keep} bytes may stay and {} are fresh", lane.fresh_bytes());
        if memory.spilled > 0 {
            self.world.disk.note("spilled");
        }
    }

    pub(super) fn sink(&mut self, lane: usize, input: SinkInput) -> Result<(), Halt> {
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
            if let Some(committed) = taken.map_err(|error| halt(&self.mount, error))? {
                self.in_flight = false;
                // Any number of bytes may stay, also of those that have no room.
                let keep = self.keep.map_or(usize::MAX, |most| self.random.random_range(0..=most));
                self.tell(LaneInput::Stored { blocks: committed.blocks, keep });
            }
            self.notes.try_iter().for_each(|note| self.collector.take(note));
        }
        Ok(())
    }

    /// As the conductor ends a run whose inputs have ended.
    fn finish(&mut self) -> Result<(), Halt> {
        self.tick()?;
        self.drain()?;
        let (watermark, oldest) = self.frontier();
        assert_eq!(watermark, Watermark::MAX);
        self.tell(LaneInput::Advance(self.time.end(&self.router, oldest)));
        self.stop()
    }

    /// As the conductor ends every run.
    pub fn stop(&mut self) -> Result<(), Halt> {
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
