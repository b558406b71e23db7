//! Store: all entities of one group that one lane owns.
//!
//!   apply(rows) ──> entity ──> tile of the slot, or log of last values ──> schedule, list of changed entities
//!   advance(promises) ──> ladder ──> a sweep that merges and drops, a bit at a time
//!
//! In: rows that are not late, then promises about time, each never falling. Out: see `evaluate`, `publish`, `snapshot`.
//! Holds: no value depends on when the sweep came by, on the order of rows, or on how they were batched (law 2).
//! The sweep's work is proportional to the progress of event time: one pass over all entities per longest tail.

use crate::event::{DecodedBatch, EventTime, FeatureAccount, Fingerprint, Value, Watermark, entity_key};
use crate::feature::aggregate::last::Entry;
use crate::feature::aggregate::{Layout, Place, Taken};
use crate::feature::dedup::Ids;
use crate::feature::entity::{Entities, Entity};
use crate::feature::rewrite::Written;
use crate::feature::schedule::{NEVER, Schedule};
use crate::feature::text::Texts;
use crate::feature::value::{Input, Scalar};
use crate::feature::warm::Warm;
use crate::feature::window::{Ladder, TIME_LIMIT, Windows};
use crate::feature::{FeatureUse, GroupSpec};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many rows go through the steps of [`GroupStore::apply`] together: their entities' newest tiles fit the cache.
const CHUNK_ROWS: usize = 128;
const CHANGED_MIN: usize = 1 << 10;
/// Below every instant, also after it was brought to the start of its slot.
const NOTHING_PROMISED: EventTime = -2 * TIME_LIMIT;

pub struct GroupStore {
    /// Number of the group in `Plan::groups`.
    pub(super) group: u16,
    pub(super) spec: Arc<GroupSpec>,
    pub(super) windows: Windows,
    pub(super) layout: Layout,
    /// The aggregates' outputs, then one more derived column each.
    pub(super) schemas: Vec<SchemaRef>,
    pub(super) entities: Entities,
    pub(super) texts: Texts,
    /// One per use.
    pub(super) ids: Vec<Ids>,
    /// `None` when nobody publishes.
    pub(super) schedule: Option<Schedule>,
    /// Entities that the next snapshot looks at; the entity knows whether it is in here.
    pub(super) changed: Vec<u32>,
    pub(super) watermark: Watermark,
    pub(super) oldest_needed: EventTime,
    /// Others publish too: nothing that changed later is known to be published.
    pub(super) published_elsewhere: EventTime,
    pub(super) ladder: Ladder,
    pub(super) warm: Warm,
    sweep: Sweep,
    pub(super) written: Written,
    pub(super) size: Size,
    refused_values: u64,
    pub(super) derived_failures: AtomicU64,
}

/// What the states of all entities take, kept up to date with every change.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub tiles: usize,
    pub entries: usize,
    pub bytes: usize,
}

impl Size {
    pub fn of(entity: &Entity, layout: &Layout) -> Size {
        let entries = entity.logs.iter().map(|log| log.entries.len()).sum();
        let log_bytes: usize = entity.logs.iter().map(|log| log.entries.capacity() * size_of::<Entry>()).sum();
        Size {
            tiles: entity.tiles.len(layout.stride),
            entries,
            bytes: entity.tiles.capacity_bytes() + log_bytes + size_of_val(&*entity.logs) + entity.text.len(),
        }
    }

    /// What was `before` has become `after`.
    pub fn change(&mut self, before: Size, after: Size) {
        self.tiles = self.tiles + after.tiles - before.tiles;
        self.entries = self.entries + after.entries - before.entries;
        self.bytes = self.bytes + after.bytes - before.bytes;
    }
}

/// Where the sweep over the entities stands.
struct Sweep {
    next: u32,
    /// The event time that has been paid for in visits.
    needed: EventTime,
    through: EventTime,
    /// Entities times ms that do not make a whole visit yet.
    debt: i128,
}

/// One aggregate that a use feeds, for one batch.
struct Feed<'a> {
    place: Place,
    mask: Option<&'a BooleanArray>,
    input: Input<'a>,
}

impl GroupStore {
    /// The store publishes: state is kept until `take_due` has handed out what it became, so it must be called.
    pub fn new(group: u16, spec: Arc<GroupSpec>) -> Self {
        let windows = Windows::new(&spec);
        let layout = Layout::new(&spec, &windows);
        let aggregated = spec.outputs.fields().len() - spec.derived.len();
        let schemas = (aggregated..=spec.outputs.fields().len())
            .map(|columns| Arc::new(Schema::new(spec.outputs.fields()[..columns].to_vec())) as SchemaRef)
            .collect();
        GroupStore {
            group,
            ids: spec.uses.iter().map(|_| Ids::default()).collect(),
            ladder: windows.ladder(EventTime::MIN, EventTime::MIN),
            warm: Warm::new(&spec, EventTime::MIN),
            spec,
            windows,
            layout,
            schemas,
            entities: Entities::default(),
            texts: Texts::default(),
            schedule: Some(Schedule::new()),
            changed: Vec::new(),
            watermark: Watermark::MIN,
            oldest_needed: EventTime::MIN,
            published_elsewhere: EventTime::MAX,
            sweep: Sweep { next: 0, needed: NOTHING_PROMISED, through: NOTHING_PROMISED, debt: 0 },
            written: Written::default(),
            size: Size::default(),
            refused_values: 0,
            derived_failures: AtomicU64::new(0),
        }
    }

    /// For runs that write no online store: nothing is ever due and no state waits to be published.
    pub fn without_online(mut self) -> Self {
        self.schedule = None;
        self
    }

    /// For groups that came while the pipeline ran: what is older may be missing, and windows that reach back there are null.
    pub fn complete_since(mut self, since: EventTime) -> Self {
        self.warm = Warm::new(&self.spec, since);
        self
    }

    /// The same of a store that others fill, which learns it from them.
    pub fn learn_since(&mut self, since: EventTime) {
        if self.warm.since != since {
            self.warm = Warm::new(&self.spec, since);
        }
    }

    /// Takes rows that are not late and whose entity is owned here; `id_set` is the stream's `DecodeSpec::id`.
    pub fn apply(&mut self, use_number: usize, batch: &DecodedBatch, id_set: usize, rows: &[u32]) -> FeatureAccount {
        let spec = self.spec.clone();
        let usage = &spec.uses[use_number];
        let feeds: Vec<Feed> = usage
            .aggregates
            .iter()
            .map(|&(aggregate, input)| {
                let input = &batch.feature_inputs[input];
                let mask = input.mask.as_ref();
                Feed { place: self.layout.places[aggregate], mask, input: Input::new(input.values.as_ref()) }
            })
            .collect();
        let (ids, prints) = (&batch.keys[id_set], &batch.keys[usage.key_set]);
        let mut account = FeatureAccount::default();
        let mut fresh: Vec<(u32, u32)> = Vec::with_capacity(CHUNK_ROWS);
        // Step by step for some rows at a time: the steps of one row wait for memory one after another, those of
        // neighbouring rows together.
        for rows in rows.chunks(CHUNK_ROWS) {
            fresh.clear();
            for &row in rows {
                let (row, ts) = (row as usize, batch.event_time[row as usize]);
                if ts <= -TIME_LIMIT || ts >= TIME_LIMIT || !feeds.iter().any(|feed| feed.counts(row)) {
                    account.masked += 1;
                } else if !self.ids[use_number].insert(ids[row], ts, self.watermark) {
                    account.duplicate += 1;
                } else {
                    account.applied += 1;
                    if ts >= self.ladder.drop_before.max(self.warm.since) {
                        fresh.push((row as u32, 0));
                    }
                }
            }
            for (row, number) in &mut fresh {
                let row = *row as usize;
                *number = match self.entities.find(prints[row]) {
                    Some(number) => number,
                    None => self.welcome(prints[row], &entity_text(&batch.rows, usage, row)),
                };
            }
            self.entities.warm(fresh.iter().map(|&(_, number)| number));
            for &(row, number) in &fresh {
                let row = row as usize;
                self.add(number, &feeds, batch.event_time[row], row, (ids[row], batch.content[row]));
            }
        }
        account
    }

    /// A new entity without any state.
    pub(super) fn welcome(&mut self, print: Fingerprint, text: &str) -> u32 {
        let number = self.entities.insert(print, text.into(), self.layout.logged.len());
        self.size.change(Size::default(), Size::of(self.entities.get(number), &self.layout));
        number
    }

    fn add(&mut self, number: u32, feeds: &[Feed], ts: EventTime, row: usize, (id, content): (Fingerprint, u64)) {
        let GroupStore { layout, windows, ladder, texts, entities, size, .. } = self;
        let entity = entities.get_mut(number);
        let before = Size::of(entity, layout);
        if !layout.tiled.is_empty() {
            let tile = entity.tiles.at(ts, layout, windows, ladder, texts);
            for feed in feeds {
                if let Place::Tile(place) = feed.place
                    && feed.counts(row)
                {
                    let place = layout.tiled[place];
                    let taken = place.tiled.add(&mut tile[place.offset..], &feed.input, row, texts);
                    self.refused_values += (taken == Taken::Refused) as u64;
                }
            }
        }
        for feed in feeds {
            if let Place::Log(place) = feed.place
                && feed.counts(row)
                && !feed.input.is_null(row)
            {
                let LoggedLimits { k, is_text } = LoggedLimits::of(layout, place);
                let word = if is_text { texts.intern(feed.input.text(row)) } else { feed.input.word(row) };
                let log = &mut entity.logs[place];
                if log.entries.len() == log.entries.capacity() && log.entries.len() > 2 * k {
                    log.prune(k, ladder, is_text, texts);
                }
                if !log.insert(Entry::new(ts, id, content, word, true)) && is_text {
                    texts.release(word);
                }
            }
        }
        size.change(before, Size::of(entity, layout));
        if !entity.changed {
            entity.changed = true;
            self.changed.push(number);
        }
        if let Some(schedule) = &mut self.schedule {
            schedule.propose(number, &mut entity.due, windows.appears(ts));
        }
    }

    /// Takes promises: no row older than `watermark` that is not late is to come, and nothing will be evaluated before
    /// `oldest_needed`. What is promised once stays promised.
    pub fn advance(&mut self, watermark: Watermark, oldest_needed: EventTime) {
        self.watermark = self.watermark.max(watermark);
        self.oldest_needed = self.oldest_needed.max(oldest_needed);
        for ids in &mut self.ids {
            ids.purge(self.watermark);
        }
        self.roll();
    }

    /// What changed after `through` is kept, although it was taken here: it may be for another to publish, who may die.
    pub fn keep_unpublished(&mut self, through: EventTime) {
        self.published_elsewhere = through;
    }

    /// Brings the ladder up to date and lets the sweep do its share.
    pub(super) fn roll(&mut self) {
        let (now, published) = match &self.schedule {
            Some(schedule) => (schedule.now, schedule.published_through.min(self.published_elsewhere)),
            None => (EventTime::MAX, EventTime::MAX),
        };
        // Who was told a null is told again when the windows are full, also by a process that knows of it by its tiles alone.
        let published = if self.warm.is_warming(published) { published.min(self.warm.since) } else { published };
        let needed = self.windows.instant(self.oldest_needed.min(now));
        let through = self.windows.instant(self.oldest_needed.min(published));
        let progress = (needed - self.sweep.needed).max(through - self.sweep.through);
        if progress <= 0 {
            return;
        }
        (self.sweep.needed, self.sweep.through) = (needed, through);
        self.ladder = self.windows.ladder(needed, through);
        let period = self.windows.longest_tail() as i128;
        let slots = self.entities.numbers() as i128;
        let owed = self.sweep.debt + slots * (progress as i128).min(period);
        let visits = (owed / period).min(slots);
        self.sweep.debt = owed % period;
        for _ in 0..visits {
            self.sweep.next = (self.sweep.next + 1) % self.entities.numbers();
            self.visit(self.sweep.next);
        }
        if let Some(schedule) = &mut self.schedule {
            schedule.tidy(&self.entities);
        }
        // Entities that came and went since the last snapshot leave their numbers behind.
        if self.changed.len() > 2 * self.entities.len() + CHANGED_MIN {
            self.changed.clear();
            self.changed
                .extend(self.entities.iter_live().filter(|(_, entity)| entity.changed).map(|(number, _)| number));
        }
    }

    /// The oldest instant for which all tiles still say what was visible.
    pub(super) fn rolled_to(&self) -> EventTime {
        self.sweep.needed
    }

    /// Merges and drops what may be of one entity, and forgets it when nothing is left to keep or to publish. One that is
    /// published stays for a sweep: should the store lose its last value, it can be written again.
    fn visit(&mut self, number: u32) {
        if !self.entities.is_live(number) {
            return;
        }
        let GroupStore { layout, windows, ladder, texts, entities, size, .. } = self;
        let entity = entities.get_mut(number);
        let before = Size::of(entity, layout);
        if entity.tiles.compact(layout, windows, ladder, texts) {
            entity.tiles.shrink();
        }
        for (place, log) in entity.logs.iter_mut().enumerate() {
            let LoggedLimits { k, is_text } = LoggedLimits::of(layout, place);
            if log.prune(k, ladder, is_text, texts) && log.entries.capacity() > 4 * log.entries.len() + 4 {
                log.entries.shrink_to(2 * log.entries.len());
            }
        }
        let is_done = entity.is_empty() && entity.due == NEVER;
        let was_done = std::mem::replace(&mut entity.fading, is_done);
        if is_done && (was_done || self.schedule.is_none()) {
            size.change(before, Size::default());
            entities.remove(number);
        } else {
            size.change(before, Size::of(entity, layout));
        }
    }

    /// Values that an aggregate could not hold (NaN, or floats out of the range of sums); they count for nothing.
    pub fn refused_values(&self) -> u64 {
        self.refused_values
    }

    /// Rows for which a derived column failed and became null.
    pub fn derived_failures(&self) -> u64 {
        self.derived_failures.load(Ordering::Relaxed)
    }

    pub fn entities(&self) -> usize {
        self.entities.len()
    }

    /// Tiles, and single events that `last` and `last_k` keep.
    pub fn tiles(&self) -> usize {
        self.size.tiles + self.size.entries
    }

    pub fn memory_bytes(&self) -> usize {
        let ids: usize = self.ids.iter().map(Ids::memory_bytes).sum();
        let schedule = self.schedule.as_ref().map_or(0, Schedule::memory_bytes);
        self.size.bytes + self.entities.memory_bytes() + self.texts.memory_bytes() + ids + schedule
    }
}

impl Feed<'_> {
    fn counts(&self, row: usize) -> bool {
        self.mask.is_none_or(|mask| mask.value(row) && mask.is_valid(row))
    }
}

struct LoggedLimits {
    k: usize,
    is_text: bool,
}

impl LoggedLimits {
    fn of(layout: &Layout, place: usize) -> LoggedLimits {
        let place = layout.logged[place];
        LoggedLimits { k: place.k, is_text: place.scalar == Scalar::Text }
    }
}

/// The entity of a row, as the online store spells it.
fn entity_text(rows: &RecordBatch, usage: &FeatureUse, row: usize) -> String {
    let values: Vec<Value> = usage.columns.iter().map(|&column| value_at(rows.column(column), row)).collect();
    entity_key(&values).expect("the mask leaves out rows with a null in the entity")
}

fn value_at(array: &ArrayRef, row: usize) -> Value {
    let Some(scalar) = Scalar::of(array.data_type()).filter(|_| array.is_valid(row)) else { return Value::Null };
    let input = Input::new(Some(array));
    match scalar {
        Scalar::Text => Value::Text(array.as_string::<i32>().value(row).into()),
        Scalar::Bool => Value::Bool(input.integer(row) != 0),
        Scalar::Int32 | Scalar::Int64 => Value::Int(input.integer(row)),
        Scalar::Float32 | Scalar::Float64 => Value::Float(input.float(row)),
        Scalar::Time => Value::Time(input.integer(row)),
    }
}
