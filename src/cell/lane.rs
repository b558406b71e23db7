//! Lane: one share of the key groups; a deterministic step from an input to an output.
//!
//!   rows ──> join state of each sample            ┐
//!        └─> tiles of the entities it owns        ├─ at Advance: evaluate features, close, roll up
//!   other lanes' tiles ── read-only, by frontier ─┘
//!
//! In: routed rows, watermarks, online ticks and cut markers, in one order. Out: closed rows, feature values, and at a cut
//! everything that the state gained since the last one.
//! Holds: the same inputs give the same outputs; features are evaluated only up to the frontier, which every lane has
//! applied, so that they do not depend on how far the other lanes are.
//! Does not: block, await, read a clock, touch a disk.

use crate::cell::mirror::Mirror;
use crate::cell::{CellSpec, GroupCell, Stitched, StreamUse};
use crate::event::{
    BlockClass, CloseReason, EventTime, FeatureAccount, FeatureBatch, GroupCounts, LaneCounts, Outage, RoutedBatch,
    SampleCounts, SideRows, StateBlock, StoredBlock, Watermark, home_of, key_group, lane_of,
};
use crate::feature::{GroupStore, null_where};
use crate::join::{ClosedRows, Emit, JoinState, LaneRows};
use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use std::sync::{Arc, RwLock};

/// What the lanes of a cell know of entities.
#[derive(Clone)]
pub struct FeatureHistory {
    /// The tiles of all lanes, by lane and group. A lane writes its own and reads the others' below the frontier. Of
    /// groups that are exchanged, only what is not sealed yet.
    pub(super) lanes: Arc<Vec<Vec<RwLock<GroupStore>>>>,
    /// The groups that are exchanged, of all cells; one that holds nothing where the cell is the only one.
    pub(super) mirror: Arc<Mirror>,
}

impl FeatureHistory {
    /// The values of entities of a group, each at an instant that every lane has come to and that nothing has rolled up.
    pub fn read(&self, group: usize, entities: &[u128], instants: &[EventTime]) -> RecordBatch {
        evaluate(self, group, entities, instants)
    }
}

/// Makes an empty history for all lanes of a cell.
pub fn feature_history(spec: &CellSpec, mirror: Arc<Mirror>) -> FeatureHistory {
    let store = |(number, group): (usize, &GroupCell)| {
        RwLock::new(match mirror.holds(number) {
            true => GroupStore::outgoing(number as u16, group.spec.clone()),
            false => GroupStore::new(number as u16, group.spec.clone()).complete_since(group.since),
        })
    };
    let stores = || spec.groups.iter().enumerate().map(store).collect();
    FeatureHistory { lanes: Arc::new((0..spec.lanes).map(|_| stores()).collect()), mirror }
}

/// What a lane is told, in order.
#[derive(Clone, Debug)]
pub enum LaneInput {
    Rows(Arc<RoutedBatch>),
    Advance(Advance),
    /// Evaluate entities whose online value changed, at most so many of each group; with none they stay due.
    Online {
        instant: EventTime,
        entities_max: usize,
    },
    /// The online store lost what it had: the value of every entity has to be written again.
    OnlineLost,
    /// Snapshot here. With `roll`, the Parquet files that are open end at this cut. What is complete below `sealed` of
    /// entities that belong to no cell is handed out; no row below it that is not late comes after the cut.
    Cut {
        number: u64,
        roll: bool,
        sealed: EventTime,
    },
    /// A manifest names these blocks, or names them at another place than before: what lies elsewhere may be gone when the
    /// next cut is committed. Of what is on disk, so many bytes may stay in memory.
    Stored {
        blocks: Arc<[StoredBlock]>,
        keep: usize,
    },
}

/// Time moves on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advance {
    /// No row that is not late comes below it.
    pub watermark: Watermark,
    /// Every lane has applied this watermark: features are complete below it.
    pub frontier: Watermark,
    /// No feature will be asked for at an instant below it.
    pub oldest_needed: EventTime,
    pub reason: CloseReason,
    /// Times that passed while label streams were cut off.
    pub outages: Arc<[Outage]>,
}

/// What a lane says after an `Advance`: the router derives the next frontier from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    pub watermark: Watermark,
    /// The oldest instant at which this lane still has to read features; `i64::MAX` if there is none.
    pub oldest_needed: EventTime,
}

/// What a step gave.
#[derive(Default, Debug)]
pub struct LaneOutput {
    /// Per sample number, rows that closed, oldest bucket first.
    pub closed: Vec<(u16, ClosedRows)>,
    pub online: Vec<FeatureBatch>,
    /// Per sample number, rows that are in no sample.
    pub side: Vec<(u16, SideRows)>,
    pub applied: Option<Applied>,
    pub cut: Option<LaneCut>,
}

/// Everything that a lane adds to a commit.
#[derive(Debug)]
pub struct LaneCut {
    pub number: u64,
    pub blocks: Vec<StateBlock>,
    /// Per class, the first bucket whose blocks are still needed.
    pub needed_from: Vec<(BlockClass, i64)>,
    pub counts: LaneCounts,
}

pub struct Lane {
    pub(super) number: usize,
    pub(super) spec: Arc<CellSpec>,
    pub(super) joins: Vec<JoinState>,
    pub(super) history: FeatureHistory,
    pub(super) feature_accounts: Vec<Vec<FeatureAccount>>,
    pub(super) frontier: Watermark,
    /// What other lanes' stores are read for stays below the frontier; restored rows stand at this one.
    pub(super) restored_frontier: Watermark,
}

impl Lane {
    pub fn new(number: usize, spec: Arc<CellSpec>, history: FeatureHistory) -> Self {
        let joins = spec
            .samples
            .iter()
            .map(|sample| JoinState::new(sample.join.clone(), sample.anchor_keys.clone(), &sample.label_streams));
        Lane {
            number,
            joins: joins.collect(),
            feature_accounts: spec
                .groups
                .iter()
                .map(|group| vec![FeatureAccount::default(); group.spec.uses.len()])
                .collect(),
            history,
            spec,
            frontier: Watermark::MIN,
            restored_frontier: Watermark::MIN,
        }
    }

    /// Whether rows of a sample leave before their impressions close.
    pub fn emits_early(&self, sample: usize) -> bool {
        self.spec.samples.get(sample).is_some_and(|sample| sample.join.emit != Emit::Wait)
    }

    pub fn step(&mut self, input: LaneInput, out: &mut LaneOutput) {
        self.take(input, out);
        for (sample, join) in self.joins.iter_mut().enumerate() {
            out.side.extend(join.take_side().into_iter().map(|rows| (sample as u16, rows)));
        }
    }

    fn take(&mut self, input: LaneInput, out: &mut LaneOutput) {
        match input {
            LaneInput::Rows(batch) => self.rows(&batch),
            LaneInput::Advance(advance) => self.advance(advance, out),
            LaneInput::Online { instant, entities_max } => self.online(instant, entities_max, out),
            LaneInput::OnlineLost => {
                self.history.lanes[self.number].iter().for_each(|store| write(store).publish_anew(&|_| true));
            }
            LaneInput::Cut { number, roll, sealed } => out.cut = Some(self.cut(number, roll, sealed)),
            LaneInput::Stored { blocks, keep } => self.stored(&blocks, keep),
        }
    }

    fn rows(&mut self, routed: &RoutedBatch) {
        let spec = self.spec.clone();
        let stream = routed.decoded.stream;
        for stream_use in spec.uses_of(stream) {
            match *stream_use {
                StreamUse::Anchor { sample, route } => {
                    self.joins[sample].insert_impressions(lane_rows(routed, route, self.number));
                }
                StreamUse::Label { sample, label, route } => {
                    self.joins[sample].insert_labels(label, lane_rows(routed, route, self.number));
                }
                StreamUse::Feature { group, use_number, entity } => {
                    self.apply_features(routed, group, use_number, entity);
                }
            }
        }
    }

    /// A late record never enters a feature.
    fn apply_features(&mut self, routed: &RoutedBatch, group: usize, use_number: usize, entity: usize) {
        let rows = routed.rows(entity, self.number);
        let is_late = |row: &u32| routed.late.binary_search_by_key(row, |(late, _)| *late).is_ok();
        let account = &mut self.feature_accounts[group][use_number];
        let id_set = self.spec.stream_ids[routed.decoded.stream as usize];
        let mut store = write(&self.history.lanes[self.number][group]);
        if routed.late.is_empty() {
            *account += store.apply(use_number, &routed.decoded, id_set, rows);
            return;
        }
        let timely: Vec<u32> = rows.iter().copied().filter(|row| !is_late(row)).collect();
        account.late += (rows.len() - timely.len()) as u64;
        *account += store.apply(use_number, &routed.decoded, id_set, &timely);
    }

    fn advance(&mut self, advance: Advance, out: &mut LaneOutput) {
        self.frontier = self.frontier.max(advance.frontier);
        for sample in 0..self.joins.len() {
            self.evaluate_ready(sample, advance.frontier);
            let mut closed = Vec::new();
            self.joins[sample].heed(&advance.outages);
            self.joins[sample].close(advance.frontier, advance.reason, &mut closed);
            out.closed.extend(closed.into_iter().map(|rows| (sample as u16, rows)));
        }
        // The end of the inputs is no promise to the stores: files may grow.
        let watermark = if advance.watermark < Watermark::MAX { advance.watermark } else { Watermark::MIN };
        for (group, store) in self.history.lanes[self.number].iter().enumerate() {
            // What is not sealed yet is rolled up by nobody.
            let outgoing = self.history.mirror.holds(group);
            write(store).advance(watermark, if outgoing { EventTime::MIN } else { advance.oldest_needed });
        }
        let lag = |sample: usize| self.spec.samples[sample].serving_lag_ms;
        let oldest =
            (0..self.joins.len()).filter_map(|sample| self.joins[sample].oldest_unevaluated(lag(sample))).min();
        out.applied = Some(Applied { watermark: advance.watermark, oldest_needed: oldest.unwrap_or(i64::MAX) });
    }

    /// Evaluates the features of every part whose newest instant the frontier has reached.
    fn evaluate_ready(&mut self, sample: usize, frontier: Watermark) {
        let spec = self.spec.clone();
        let cell = &spec.samples[sample];
        if cell.groups.is_empty() {
            return;
        }
        let history = self.history.clone();
        self.joins[sample].evaluate_ready(frontier, cell.serving_lag_ms, |index, entities, instants| {
            evaluate_stitched(&history, cell.groups[index], entities, instants)
        });
    }

    fn online(&mut self, instant: EventTime, entities_max: usize, out: &mut LaneOutput) {
        for store in &self.history.lanes[self.number] {
            if entities_max == 0 {
                write(store).hold_due(instant);
            }
            let mut left = entities_max;
            while left > 0 {
                let Some(batch) = write(store).take_due(instant, left).expect(NULLABLE) else { break };
                left = left.saturating_sub(batch.entities.len().max(1));
                if !batch.entities.is_empty() {
                    out.online.push(batch);
                }
            }
        }
    }

    /// The books as they stand.
    pub fn counts(&self) -> LaneCounts {
        let samples = self.joins.iter().map(|join| SampleCounts {
            anchor: join.account(),
            labels: join.label_accounts(),
            delays: join.label_delays(),
            closed_through: join.closed_through(),
            filed_through: join.filed_through(),
            emitted_through: join.emitted_through(),
            memory_bytes: join.memory().total(),
            memory: join.memory(),
        });
        let groups = self.history.lanes[self.number].iter().zip(&self.feature_accounts).map(|(store, uses)| {
            let store = read(store);
            GroupCounts {
                uses: uses.clone(),
                entities: store.entities() as u64,
                tiles: store.tiles() as u64,
                due: store.due() as u64,
                memory_bytes: store.memory_bytes() as u64,
            }
        });
        LaneCounts {
            frontier: self.frontier.max(self.restored_frontier).0,
            samples: samples.collect(),
            groups: groups.collect(),
        }
    }
}

fn lane_rows(routed: &RoutedBatch, route: usize, lane: usize) -> LaneRows<'_> {
    LaneRows { batch: &routed.decoded, rows: routed.rows(route, lane), late: &routed.late, watermark: routed.watermark }
}

/// Why reading features cannot fail.
pub(super) const NULLABLE: &str = "the plan makes every derived feature nullable, so a row that fails is null";

/// Reads a sample's features of one group, which are null before the sample got the group.
fn evaluate_stitched(
    history: &FeatureHistory,
    stitched: Stitched,
    entities: &[u128],
    instants: &[EventTime],
) -> RecordBatch {
    let Stitched { group, since } = stitched;
    if instants.iter().all(|instant| *instant >= since) {
        return evaluate(history, group, entities, instants);
    }
    let asked: Vec<EventTime> = instants.iter().map(|instant| (*instant).max(since)).collect();
    let too_early = instants.iter().map(|instant| Some(*instant < since)).collect();
    null_where(&evaluate(history, group, entities, &asked), &too_early)
}

/// Reads one group's features of many (entity, instant) pairs from the lanes that own the entities.
fn evaluate(history: &FeatureHistory, group: usize, entities: &[u128], instants: &[EventTime]) -> RecordBatch {
    if history.mirror.holds(group) {
        return history.mirror.evaluate(group, entities, instants);
    }
    let history = &history.lanes;
    let lanes = history.len();
    if lanes == 1 {
        return read(&history[0][group]).evaluate(entities, instants).expect(NULLABLE);
    }
    let mut rows_by_lane: Vec<Vec<u32>> = vec![Vec::new(); lanes];
    for (row, entity) in entities.iter().enumerate() {
        rows_by_lane[lane_of(key_group(home_of(*entity)), lanes)].push(row as u32);
    }
    let mut batches = Vec::with_capacity(lanes);
    let mut order = vec![0u32; entities.len()];
    let mut at = 0u32;
    for (lane, rows) in rows_by_lane.iter().enumerate() {
        if rows.is_empty() && !(lane == 0 && entities.is_empty()) {
            continue;
        }
        let pick = |row: &u32| (entities[*row as usize], instants[*row as usize]);
        let (entities, instants): (Vec<_>, Vec<_>) = rows.iter().map(pick).unzip();
        batches.push(read(&history[lane][group]).evaluate(&entities, &instants).expect(NULLABLE));
        for row in rows {
            order[*row as usize] = at;
            at += 1;
        }
    }
    let together = concat_batches(&batches[0].schema(), &batches).expect("all lanes evaluate one group alike");
    take_record_batch(&together, &UInt32Array::from(order)).expect("every row was evaluated once")
}

/// A poisoned lock means that a lane panicked: the cell is going down, and its state will not be committed.
pub(super) fn write(store: &RwLock<GroupStore>) -> std::sync::RwLockWriteGuard<'_, GroupStore> {
    store.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}

pub(super) fn read(store: &RwLock<GroupStore>) -> std::sync::RwLockReadGuard<'_, GroupStore> {
    store.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}
