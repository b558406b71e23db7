//! Rehearsal: a plan on records from memory, of the pipeline's own parts, in one thread.
//!
//!   records ─> Decoder ─> Router ─> every Lane ─> build ─> rows
//!   wait    ─> Router ─> Advance ─────┘   └────> feature values
//!
//! In: records in the order of arrival, time that passes, inputs that end. Out: what a run would write, publish and count.
//! Holds: the same records and waits give the same rows; between two records all lanes have done all they can.
//! Does not: commit, or touch a source, a sink, a store or a clock.

use crate::cell::{Applied, CellScope, CellSpec, FeatureHistory, Lane, LaneInput, LaneOutput, Mirror, feature_history};
use crate::commit::first_layout;
use crate::config::{Plan, SamplePlan};
use crate::decode::{DecodeSpec, Decoder, PayloadSpec};
use crate::env::ManualClock;
use crate::event::{
    ColumnType, DurationMs, Enrich, EventTime, FeatureBatch, KEY_GROUPS, LaneCounts, PartitionId, Payload,
    PositionDelta, RawBatch, Rejected, StreamAccount, Value, Watermark, fingerprints,
};
use crate::pipeline::build::{cell_spec, definition, routed_streams};
use crate::pipeline::timekeeper::Timekeeper;
use crate::pipeline::{Board, Dimensions, Enricher, RunError, StopSignal};
use crate::route::Router;
use crate::sample::build;
use arrow::array::TimestampMillisecondArray;
use arrow::array::{
    ArrayRef, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// See the module.
pub struct Rehearsal {
    plan: Arc<Plan>,
    cell: Arc<CellSpec>,
    router: Router,
    /// Of each input's streams.
    decoders: Vec<Vec<Decoder>>,
    enricher: Option<Arc<Enricher>>,
    lanes: Vec<Lane>,
    history: FeatureHistory,
    applied: Vec<Applied>,
    time: Timekeeper,
    /// Monotonic time: moves only when nothing comes.
    now_ms: u64,
    /// When a record of a partition came last.
    moved: BTreeMap<PartitionId, u64>,
    /// Features will be read at no instant before it.
    needed: EventTime,
    /// Per sample, the rows that closed.
    pub rows: Vec<Vec<RecordBatch>>,
    /// Per sample, rows that negative sampling left out.
    sampled_out: Vec<u64>,
    pub rejected: Vec<Rejected>,
    /// What went to the online store, in order.
    pub published: Vec<FeatureBatch>,
}

impl Rehearsal {
    /// Begins with nothing read. `partitions` are all there are; `needed` is the oldest instant that
    /// [`features`](Rehearsal::features) will be asked for; `dimensions` are what rows are enriched from.
    pub fn new(
        plan: &Arc<Plan>,
        partitions: &BTreeSet<PartitionId>,
        needed: EventTime,
        dimensions: &Arc<Dimensions>,
    ) -> Rehearsal {
        let layout = first_layout(&definition(plan), KEY_GROUPS);
        let cell = Arc::new(cell_spec(plan, CellScope::WHOLE, &layout));
        let partitions: Vec<PartitionId> = partitions.iter().copied().collect();
        let router = Router::new(routed_streams(plan, &cell, &partitions), cell.lanes, 0);
        let history = feature_history(&cell, Arc::new(Mirror::new(1, &[], &[])));
        // Whatever the format, records of tests are written as JSON: what a format makes of bytes is its own affair.
        let decoder = |stream: &u16| {
            Decoder::new(DecodeSpec { payload: PayloadSpec::Json, ..plan.streams[*stream as usize].decode.clone() })
        };
        let streams = plan.streams.iter().map(|stream| stream.name.clone()).collect();
        Rehearsal {
            decoders: plan.inputs.iter().map(|input| input.streams.iter().map(decoder).collect()).collect(),
            lanes: (0..cell.lanes).map(|number| Lane::new(number, cell.clone(), history.clone())).collect(),
            applied: vec![Applied { watermark: Watermark::MIN, oldest_needed: i64::MAX }; cell.lanes],
            time: Timekeeper::new(cell.clone(), None, streams, &router),
            now_ms: 0,
            moved: partitions.iter().map(|partition| (*partition, 0)).collect(),
            needed,
            rows: vec![Vec::new(); plan.samples.len()],
            sampled_out: vec![0; plan.samples.len()],
            rejected: Vec::new(),
            published: Vec::new(),
            enricher: Enricher::new(
                plan,
                dimensions,
                Arc::new(ManualClock::default()),
                Board::default(),
                StopSignal::default(),
            ),
            plan: plan.clone(),
            cell,
            router,
            history,
        }
    }

    /// The position that the next record of a partition has.
    pub fn position(&self, partition: PartitionId) -> i64 {
        self.router.positions().next(partition).unwrap_or(0)
    }

    /// Takes records of one partition, which go on at its [`position`](Rehearsal::position).
    pub fn take(&mut self, raw: &RawBatch) -> Result<(), RunError> {
        let PositionDelta { partition, .. } = raw.delta;
        self.router.step(raw.delta, self.now_ms)?;
        self.moved.insert(partition, self.now_ms);
        for number in 0..self.decoders[partition.input as usize].len() {
            let enrich = self.enricher.as_deref().map(|enricher| enricher as &dyn Enrich);
            let mut decoded = self.decoders[partition.input as usize][number].decode_with(raw, enrich)?;
            let rejected = std::mem::take(&mut decoded.rejected);
            let routed = Arc::new(self.router.route(decoded, rejected.len() as u64));
            self.rejected.extend(rejected);
            if routed.decoded.num_rows() > 0 {
                self.tell(&LaneInput::Rows(routed))?;
            }
        }
        self.settle()
    }

    /// Nothing comes for so long. Looks at the time whenever a partition falls idle, and at the end.
    pub fn wait(&mut self, for_ms: DurationMs) -> Result<(), RunError> {
        let (begin, end) = (self.now_ms, self.now_ms + for_ms.max(0) as u64);
        self.moved.keys().for_each(|partition| self.router.caught_up(*partition, begin));
        let idle_after = self.plan.streams.iter().map(|stream| stream.time.idle_after_ms as u64);
        let falls_idle = idle_after.flat_map(|after| self.moved.values().map(move |moved| moved + after));
        let mut looks: BTreeSet<u64> = falls_idle.filter(|at| (begin..end).contains(at)).collect();
        looks.insert(end);
        for instant in looks {
            self.now_ms = instant;
            self.settle()?;
        }
        Ok(())
    }

    /// An input has no more.
    pub fn end(&mut self, input: u16) -> Result<(), RunError> {
        let mut partitions: Vec<PartitionId> = self.moved.keys().copied().collect();
        partitions.retain(|partition| partition.input == input);
        partitions.iter().for_each(|partition| self.router.ended(*partition));
        self.settle()
    }

    /// Ends as a run does: where all inputs have ended, what is pending closes; what is due is published.
    pub fn finish(&mut self) -> Result<(), RunError> {
        if self.router.all_ended() {
            // The first one lets every lane take in everything, the second closes.
            self.advance()?;
            let (_, oldest) = self.frontier();
            self.tell(&LaneInput::Advance(self.time.end(&self.router, oldest)))?;
        }
        match self.router.online_instant(self.cell.head_max_ms()) {
            Some(instant) => self.tell(&LaneInput::Online { instant, entities_max: usize::MAX }),
            None => Ok(()),
        }
    }

    /// Moves time on as far as it goes.
    fn settle(&mut self) -> Result<(), RunError> {
        // The end of all inputs is for `finish`.
        while !self.router.all_ended() && self.advance()? {}
        Ok(())
    }

    fn advance(&mut self) -> Result<bool, RunError> {
        let frontier = self.frontier();
        let Some(advance) = self.time.advance(&mut self.router, frontier, self.now_ms) else { return Ok(false) };
        self.tell(&LaneInput::Advance(advance))?;
        Ok(true)
    }

    fn frontier(&self) -> (Watermark, EventTime) {
        let lag = self.cell.serving_lag_max_ms();
        let watermark = self.applied.iter().map(|lane| lane.watermark).min().unwrap_or(Watermark::MIN);
        let oldest = self.applied.iter().map(|lane| lane.oldest_needed.min(lane.watermark.0.saturating_sub(lag)));
        (watermark, oldest.min().unwrap_or(EventTime::MIN).min(self.needed))
    }

    fn tell(&mut self, input: &LaneInput) -> Result<(), RunError> {
        for number in 0..self.lanes.len() {
            let mut out = LaneOutput::default();
            self.lanes[number].step(input.clone(), &mut out);
            for (sample, closed) in out.closed {
                for part in closed.parts.iter().filter(|part| !part.event_time.is_empty()) {
                    let Payload::Memory(payload) = &part.payload else {
                        unreachable!("nothing was committed, so nothing is on disk");
                    };
                    let SamplePlan { sample: spec, join, .. } = &self.plan.samples[sample as usize];
                    let payload = match &self.enricher {
                        Some(enricher) => enricher.again(join.anchor, payload.clone())?,
                        None => payload.clone(),
                    };
                    let built = build(spec, sample, closed.bucket, part, &payload)?;
                    self.sampled_out[sample as usize] += built.sampled_out;
                    self.rows[sample as usize].push(built.batch.rows);
                }
            }
            self.published.extend(out.online);
            self.applied[number] = out.applied.unwrap_or(self.applied[number]);
        }
        Ok(())
    }

    /// The outputs of an entity of a group at an instant, as a sample sees them: one row.
    pub fn features(&self, group: usize, entity: &[Value], instant: EventTime) -> RecordBatch {
        let columns = self.plan.groups[group].entity.iter().zip(entity);
        let columns: Vec<ArrayRef> = columns.map(|((_, of), value)| array_of(*of, value)).collect();
        let prints = fingerprints(&columns.iter().collect::<Vec<_>>(), 1, self.plan.partitioner);
        self.history.read(group, &prints, &[instant])
    }

    pub fn accounts(&self) -> &[StreamAccount] {
        self.router.accounts()
    }

    /// The books of all lanes, as a commit has them.
    pub fn counts(&self) -> LaneCounts {
        let mut counts = LaneCounts::default();
        self.lanes.iter().for_each(|lane| counts.add(&lane.counts()));
        for (sample, left_out) in counts.samples.iter_mut().zip(&self.sampled_out) {
            sample.anchor.emitted -= left_out;
            sample.anchor.sampled_out += left_out;
        }
        counts
    }
}

/// A column of one value.
fn array_of(of: ColumnType, value: &Value) -> ArrayRef {
    let int = match value {
        Value::Int(number) | Value::Time(number) => Some(*number),
        _ => None,
    };
    let float = if let Value::Float(number) = value { Some(*number) } else { None };
    match of {
        ColumnType::String => {
            let text = if let Value::Text(text) = value { Some(text.as_ref()) } else { None };
            Arc::new(StringArray::from(vec![text]))
        }
        ColumnType::Bool => {
            let flag = if let Value::Bool(flag) = value { Some(*flag) } else { None };
            Arc::new(BooleanArray::from(vec![flag]))
        }
        ColumnType::Int32 => Arc::new(Int32Array::from(vec![int.and_then(|number| i32::try_from(number).ok())])),
        ColumnType::Int64 => Arc::new(Int64Array::from(vec![int])),
        ColumnType::Float32 => Arc::new(Float32Array::from(vec![float.map(|number| number as f32)])),
        ColumnType::Float64 => Arc::new(Float64Array::from(vec![float])),
        ColumnType::Timestamp => Arc::new(TimestampMillisecondArray::from(vec![int]).with_timezone("UTC")),
    }
}
