//! Snapshot: what changed since the last one, as Arrow batches per time bucket, and the way back.
//!
//!   tiles    entity, slot, length, state words     stands for all there was of the entity in [slot, slot + length)
//!   entries  entity, aggregate, ts, id, content, value     one event of a `last` or `last_k`
//!   ids      use, id, ts                            one id that may still come again
//!
//! In: blocks in the order in which they were made. Out: a store that gives the same values at every instant that may
//! still be asked for. Rows are absolute, so applying a block twice changes nothing, and a whole bucket may be replaced
//! by what `snapshot_bucket` gives.
//! Holds: a block may go when `oldest_bucket_needed` of its kind has passed its bucket: nobody can see it any more.
//! Does not: trust what it reads. Bad data is an error.

use crate::event::{EventTime, Fingerprint, floor_to};
use crate::feature::GroupSpec;
use crate::feature::aggregate::last::Entry;
use crate::feature::aggregate::{Place, Tiled};
use crate::feature::schedule::AT_ONCE;
use crate::feature::store::{GroupStore, Size};
use crate::feature::tile;
use crate::feature::value::Scalar;
use crate::feature::window::TIME_LIMIT;
use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeBinaryArray, FixedSizeBinaryBuilder, Int64Array, Int64Builder, RecordBatch,
    StringArray, StringBuilder, UInt64Array, UInt64Builder,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt64Type};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Width of the time buckets of ids.
const ID_BUCKET_MS: i64 = 60_000;
const PRINT_BYTES: i32 = 16;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum StateKind {
    Tiles,
    Entries,
    Ids,
}

impl StateKind {
    pub const ALL: [StateKind; 3] = [StateKind::Tiles, StateKind::Entries, StateKind::Ids];

    /// The name in manifests.
    pub fn name(self) -> &'static str {
        match self {
            StateKind::Tiles => "feature_tiles",
            StateKind::Entries => "feature_entries",
            StateKind::Ids => "feature_ids",
        }
    }
}

/// Rows of one kind and time bucket.
#[derive(Clone, Debug)]
pub struct StateBlock {
    pub kind: StateKind,
    /// Where the time bucket of the rows starts, in ms.
    pub bucket: EventTime,
    pub rows: RecordBatch,
}

/// Why a block of state cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    #[error(
        "the state of feature group `{group}` has columns {found}, which this pipeline file does not make: \
         was the group changed? Reset the group, or restore the old pipeline file"
    )]
    Layout { group: String, found: String },
    #[error("the state of feature group `{group}` is damaged: {what} in row {row} of a block of {kind}")]
    Damaged { group: String, kind: &'static str, row: usize, what: &'static str },
}

impl GroupStore {
    /// What changed since the last call, one block per kind and bucket, ordered.
    pub fn snapshot(&mut self) -> Vec<StateBlock> {
        let mut rows = Rows::default();
        for number in std::mem::take(&mut self.changed) {
            if std::mem::take(&mut self.entities.get_mut(number).changed) {
                self.collect(number, &mut rows, true, |_, _| true);
            }
        }
        let watermark = self.watermark;
        for (use_number, ids) in self.ids.iter_mut().enumerate() {
            for (id, ts) in ids.take_fresh(watermark) {
                rows.ids.entry(floor_to(ts, ID_BUCKET_MS)).or_default().push((use_number as u64, id, ts));
            }
        }
        self.blocks(rows)
    }

    /// All there is of one bucket: may take the place of all its blocks so far, but not of changes that the next
    /// `snapshot` will bring, so take both at the same cut, `snapshot` first. One pass over all entities.
    pub fn snapshot_bucket(&mut self, kind: StateKind, bucket: EventTime) -> Option<StateBlock> {
        let mut rows = Rows::default();
        if kind == StateKind::Ids {
            for (use_number, ids) in self.ids.iter().enumerate() {
                let ids = ids.iter(self.watermark).filter(|&(_, ts)| floor_to(ts, ID_BUCKET_MS) == bucket);
                let mut ids: Vec<_> = ids.map(|(id, ts)| (use_number as u64, id, ts)).collect();
                ids.sort_unstable();
                if !ids.is_empty() {
                    rows.ids.entry(bucket).or_default().extend(ids);
                }
            }
        } else {
            for number in 0..self.entities.numbers() {
                if self.entities.is_live(number) {
                    self.collect(number, &mut rows, false, |of, at| of == kind && at == bucket);
                }
            }
        }
        self.blocks(rows).pop()
    }

    /// Notes which tiles and entries of an entity go into a snapshot, and marks them as seen.
    fn collect(
        &mut self,
        number: u32,
        rows: &mut Rows,
        only_dirty: bool,
        wanted: impl Fn(StateKind, EventTime) -> bool,
    ) {
        let (stride, bucket_ms) = (self.layout.stride, self.windows.bucket_ms);
        let entity = self.entities.get_mut(number);
        for place in 0..entity.tiles.len(stride) {
            let bucket = floor_to(entity.tiles.slot(stride, place), bucket_ms);
            if wanted(StateKind::Tiles, bucket) && (!only_dirty || entity.tiles.take_dirty(stride, place)) {
                rows.tiles.entry(bucket).or_default().push((number, place));
            }
        }
        for (log_number, log) in entity.logs.iter_mut().enumerate() {
            for (place, entry) in log.entries.iter_mut().enumerate() {
                let bucket = floor_to(entry.ts(), bucket_ms);
                if wanted(StateKind::Entries, bucket) && (!only_dirty || entry.is_dirty()) {
                    if only_dirty {
                        entry.clean();
                    }
                    rows.entries.entry(bucket).or_default().push((number, log_number, place));
                }
            }
        }
    }

    fn blocks(&self, rows: Rows) -> Vec<StateBlock> {
        let tiles = rows.tiles.iter().map(|(&bucket, rows)| (StateKind::Tiles, bucket, self.tile_rows(rows)));
        let entries = rows.entries.iter().map(|(&bucket, rows)| (StateKind::Entries, bucket, self.entry_rows(rows)));
        let ids = rows.ids.iter().map(|(&bucket, rows)| (StateKind::Ids, bucket, id_rows(rows)));
        let blocks = tiles.chain(entries).chain(ids);
        blocks
            .map(|(kind, bucket, columns)| {
                let rows = RecordBatch::try_new(schema(kind, &self.spec, &self.layout.tiled_kinds()), columns);
                StateBlock { kind, bucket, rows: rows.expect("the columns are built after the schema") }
            })
            .collect()
    }

    fn tile_rows(&self, rows: &[(u32, usize)]) -> Vec<ArrayRef> {
        let stride = self.layout.stride;
        let tile =
            |&(number, place): &(u32, usize)| &self.entities.get(number).tiles.words()[place * stride..][..stride];
        let mut columns = self.entity_columns(rows.iter().map(|&(number, _)| number));
        let slots: Int64Array = rows.iter().map(|row| Some(tile::slot_of(tile(row)[0]))).collect();
        let length_of = |row| self.windows.length(tile::level_of(tile(row)[0]));
        let lengths: Int64Array = rows.iter().map(|row| Some(length_of(row))).collect();
        columns.extend([Arc::new(slots) as ArrayRef, Arc::new(lengths)]);
        for place in &self.layout.tiled {
            for word in 0..place.tiled.words() {
                columns.push(if place.tiled.text_word() == Some(word) {
                    let text = |state: &[u64]| (state[0] == 1).then(|| self.texts.get(state[word]).to_string());
                    Arc::new(rows.iter().map(|row| text(&tile(row)[place.offset..])).collect::<StringArray>())
                } else {
                    let words = rows.iter().map(|row| Some(tile(row)[place.offset + word]));
                    Arc::new(words.collect::<UInt64Array>()) as ArrayRef
                });
            }
        }
        columns
    }

    fn entity_columns(&self, numbers: impl Iterator<Item = u32>) -> Vec<ArrayRef> {
        let (mut prints, mut texts) = (FixedSizeBinaryBuilder::new(PRINT_BYTES), StringBuilder::new());
        for number in numbers {
            let entity = self.entities.get(number);
            prints.append_value(entity.print.to_be_bytes()).expect("sixteen bytes");
            texts.append_value(&entity.text);
        }
        vec![Arc::new(prints.finish()), Arc::new(texts.finish())]
    }

    fn entry_rows(&self, rows: &[(u32, usize, usize)]) -> Vec<ArrayRef> {
        let mut columns = self.entity_columns(rows.iter().map(|&(number, ..)| number));
        let (mut ids, mut times) = (FixedSizeBinaryBuilder::new(PRINT_BYTES), Int64Builder::new());
        let (mut logs, mut contents) = (UInt64Builder::new(), UInt64Builder::new());
        let (mut words, mut texts) = (UInt64Builder::new(), StringBuilder::new());
        for &(number, log, place) in rows {
            let entry = &self.entities.get(number).logs[log].entries[place];
            logs.append_value(log as u64);
            times.append_value(entry.ts());
            ids.append_value(entry.id().to_be_bytes()).expect("sixteen bytes");
            contents.append_value(entry.content());
            if self.layout.logged[log].scalar == Scalar::Text {
                words.append_null();
                texts.append_value(self.texts.get(entry.word));
            } else {
                words.append_value(entry.word);
                texts.append_null();
            }
        }
        columns.push(Arc::new(logs.finish()));
        columns.push(Arc::new(times.finish()));
        columns.push(Arc::new(ids.finish()));
        columns.push(Arc::new(contents.finish()));
        columns.push(Arc::new(words.finish()));
        columns.push(Arc::new(texts.finish()));
        columns
    }

    /// Takes the rows of a block that `keep` selects by the entity's (or, of ids, the id's) fingerprint; see
    /// [`GroupStore::restore_ids`] for why ids go to every lane. Blocks come in the order in which they were made.
    pub fn restore(&mut self, block: &RecordBatch, keep: &dyn Fn(Fingerprint) -> bool) -> Result<(), StateError> {
        let tiled = self.layout.tiled_kinds();
        let kind = StateKind::ALL.into_iter().find(|&kind| {
            let (expected, found) = (schema(kind, &self.spec, &tiled), block.schema());
            expected.fields().len() == found.fields().len()
                && expected.fields().iter().zip(found.fields()).all(|(expected, found)| {
                    expected.name() == found.name() && expected.data_type() == found.data_type()
                })
        });
        match kind {
            Some(StateKind::Tiles) => self.restore_tiles(block, keep),
            Some(StateKind::Entries) => self.restore_entries(block, keep),
            Some(StateKind::Ids) => self.restore_ids(block),
            None => {
                let found: Vec<_> = block.schema().fields().iter().map(|field| field.name().clone()).collect();
                Err(StateError::Layout { group: self.spec.name.clone(), found: found.join(", ") })
            }
        }
    }

    fn damaged(&self, kind: StateKind, row: usize, what: &'static str) -> StateError {
        StateError::Damaged { group: self.spec.name.clone(), kind: kind.name(), row, what }
    }

    /// No column may be null but texts and words that stand for each other.
    fn refuse_nulls(&self, kind: StateKind, block: &RecordBatch, columns: usize) -> Result<(), StateError> {
        match block.columns()[..columns].iter().any(|column| column.null_count() > 0) {
            true => Err(self.damaged(kind, 0, "a null")),
            false => Ok(()),
        }
    }

    fn restore_tiles(&mut self, block: &RecordBatch, keep: &dyn Fn(Fingerprint) -> bool) -> Result<(), StateError> {
        const KIND: StateKind = StateKind::Tiles;
        self.refuse_nulls(KIND, block, 4)?;
        let (prints, texts) = (block.column(0).as_fixed_size_binary(), block.column(1).as_string::<i32>());
        let slots = block.column(2).as_primitive::<Int64Type>();
        let lengths = block.column(3).as_primitive::<Int64Type>();
        let mut tile = vec![0; self.layout.stride];
        for row in 0..block.num_rows() {
            let print = print_at(prints, row);
            if !keep(print) {
                continue;
            }
            let (slot, length) = (slots.value(row), lengths.value(row));
            let Some(level) = self.windows.level_of(length) else {
                return Err(self.damaged(KIND, row, "a length that no tile has"));
            };
            // A coarse slot may start before the limit that its events keep to.
            if !(-2 * TIME_LIMIT..TIME_LIMIT).contains(&slot) || slot % length != 0 {
                return Err(self.damaged(KIND, row, "a slot that no tile has"));
            }
            tile[0] = tile::tag(slot, level, false);
            self.read_states(block, row, &mut tile)?;
            let number = self.arrive(print, texts.value(row));
            let entity = self.entities.get_mut(number);
            let before = Size::of(entity, &self.layout);
            let replaced = entity.tiles.replace(&tile, &self.layout, &self.windows, &mut self.texts);
            self.size.change(before, Size::of(entity, &self.layout));
            if replaced.is_err() {
                self.layout.release_tile(&tile, &mut self.texts);
                return Err(self.damaged(KIND, row, "a tile that overlaps another"));
            }
        }
        Ok(())
    }

    /// Reads the state words of a row; the tile takes a count of every text.
    fn read_states(&mut self, block: &RecordBatch, row: usize, tile: &mut [u64]) -> Result<(), StateError> {
        let mut column = 4;
        for number in 0..self.layout.tiled.len() {
            let place = self.layout.tiled[number];
            let state = &mut tile[place.offset..][..place.tiled.words()];
            let cells = &block.columns()[column..column + state.len()];
            column += state.len();
            let mut fits = true;
            for (word, cell) in cells.iter().enumerate() {
                if place.tiled.text_word() == Some(word) {
                    fits &= cell.is_valid(row) == (state[0] == 1);
                } else {
                    fits &= cell.is_valid(row);
                    state[word] = cell.as_primitive::<UInt64Type>().value(row);
                }
            }
            if let Tiled::Min(scalar) | Tiled::Max(scalar) = place.tiled {
                fits &= state[0] <= 1 && (scalar == Scalar::Text || scalar.admits(state[1]));
            }
            if fits && place.tiled.text_word().is_some() && state[0] == 1 {
                state[1] = self.texts.intern(cells[1].as_string::<i32>().value(row));
            }
            if !fits {
                for place in &self.layout.tiled[..number] {
                    place.tiled.release(&tile[place.offset..], &mut self.texts);
                }
                return Err(self.damaged(StateKind::Tiles, row, "a state that no aggregate has"));
            }
        }
        Ok(())
    }

    fn restore_entries(&mut self, block: &RecordBatch, keep: &dyn Fn(Fingerprint) -> bool) -> Result<(), StateError> {
        const KIND: StateKind = StateKind::Entries;
        self.refuse_nulls(KIND, block, 6)?;
        let (prints, names) = (block.column(0).as_fixed_size_binary(), block.column(1).as_string::<i32>());
        let logs = block.column(2).as_primitive::<UInt64Type>();
        let times = block.column(3).as_primitive::<Int64Type>();
        let (ids, contents) = (block.column(4).as_fixed_size_binary(), block.column(5).as_primitive::<UInt64Type>());
        let (words, texts) = (block.column(6).as_primitive::<UInt64Type>(), block.column(7).as_string::<i32>());
        for row in 0..block.num_rows() {
            let print = print_at(prints, row);
            if !keep(print) {
                continue;
            }
            let (log, ts) = (logs.value(row) as usize, times.value(row));
            let Some(place) = self.layout.logged.get(log).copied() else {
                return Err(self.damaged(KIND, row, "an aggregate that is not there"));
            };
            if ts <= -TIME_LIMIT || ts >= TIME_LIMIT {
                return Err(self.damaged(KIND, row, "a time out of range"));
            }
            let word = match place.scalar {
                Scalar::Text if texts.is_valid(row) => self.texts.intern(texts.value(row)),
                scalar if scalar != Scalar::Text && words.is_valid(row) && scalar.admits(words.value(row)) => {
                    words.value(row)
                }
                _ => return Err(self.damaged(KIND, row, "a value of another type")),
            };
            let number = self.arrive(print, names.value(row));
            let entity = self.entities.get_mut(number);
            let before = Size::of(entity, &self.layout);
            let entry = Entry::new(ts, print_at(ids, row), contents.value(row), word, false);
            let inserted = entity.logs[log].insert(entry);
            self.size.change(before, Size::of(entity, &self.layout));
            if !inserted && place.scalar == Scalar::Text {
                self.texts.release(word);
            }
        }
        Ok(())
    }

    /// Ids carry no entity, so every lane takes all of them: one that never comes here does no harm, and the watermark
    /// forgets it.
    fn restore_ids(&mut self, block: &RecordBatch) -> Result<(), StateError> {
        self.refuse_nulls(StateKind::Ids, block, 3)?;
        let uses = block.column(0).as_primitive::<UInt64Type>();
        let (ids, times) = (block.column(1).as_fixed_size_binary(), block.column(2).as_primitive::<Int64Type>());
        for row in 0..block.num_rows() {
            match self.ids.get_mut(uses.value(row) as usize) {
                Some(of_use) => of_use.restore(print_at(ids, row), times.value(row)),
                None => return Err(self.damaged(StateKind::Ids, row, "a stream that does not feed the group")),
            }
        }
        Ok(())
    }

    /// The entity of a restored row: due at once, as the store may be behind.
    fn arrive(&mut self, print: Fingerprint, text: &str) -> u32 {
        let number = self.entities.find(print).unwrap_or_else(|| self.welcome(print, text));
        self.propose(number, AT_ONCE);
        number
    }

    /// A block of this kind whose bucket is below it may be deleted: nothing can reach its rows any more, and whoever
    /// lost them was handed out by `take_due` without them.
    pub fn oldest_bucket_needed(&self, kind: StateKind) -> EventTime {
        match kind {
            StateKind::Tiles | StateKind::Entries => floor_to(self.ladder.drop_before, self.windows.bucket_ms),
            StateKind::Ids => floor_to(self.watermark.0.clamp(-TIME_LIMIT, TIME_LIMIT), ID_BUCKET_MS),
        }
    }
}

/// Rows of a snapshot per bucket, by where they are.
#[derive(Default)]
struct Rows {
    tiles: BTreeMap<EventTime, Vec<(u32, usize)>>,
    entries: BTreeMap<EventTime, Vec<(u32, usize, usize)>>,
    ids: BTreeMap<EventTime, Vec<(u64, Fingerprint, EventTime)>>,
}

fn id_rows(rows: &[(u64, Fingerprint, EventTime)]) -> Vec<ArrayRef> {
    let mut ids = FixedSizeBinaryBuilder::with_capacity(rows.len(), PRINT_BYTES);
    for (_, id, _) in rows {
        ids.append_value(id.to_be_bytes()).expect("sixteen bytes");
    }
    let uses: UInt64Array = rows.iter().map(|&(use_number, ..)| Some(use_number)).collect();
    let times: Int64Array = rows.iter().map(|&(.., ts)| Some(ts)).collect();
    vec![Arc::new(uses), Arc::new(ids.finish()), Arc::new(times)]
}

fn print_at(array: &FixedSizeBinaryArray, row: usize) -> Fingerprint {
    Fingerprint::from_be_bytes(array.value(row).try_into().expect("the schema says sixteen bytes"))
}

/// The columns of a block; a part of the format on disk.
fn schema(kind: StateKind, spec: &GroupSpec, tiled: &[Option<Tiled>]) -> SchemaRef {
    let print = |name: &str| Field::new(name, DataType::FixedSizeBinary(PRINT_BYTES), false);
    let plain = |name: &str, data_type| Field::new(name, data_type, false);
    Arc::new(Schema::new(match kind {
        StateKind::Tiles => {
            let mut fields = vec![
                print("entity"),
                plain("entity_text", DataType::Utf8),
                plain("slot", DataType::Int64),
                plain("length_ms", DataType::Int64),
            ];
            for (aggregate, tiled) in spec.aggregates.iter().zip(tiled) {
                for word in 0..tiled.map_or(0, Tiled::words) {
                    let is_text = tiled.and_then(Tiled::text_word) == Some(word);
                    let data_type = if is_text { DataType::Utf8 } else { DataType::UInt64 };
                    fields.push(Field::new(format!("{}.{word}", aggregate.name), data_type, is_text));
                }
            }
            fields
        }
        StateKind::Entries => vec![
            print("entity"),
            plain("entity_text", DataType::Utf8),
            plain("log", DataType::UInt64),
            plain("ts", DataType::Int64),
            print("id"),
            plain("content", DataType::UInt64),
            Field::new("word", DataType::UInt64, true),
            Field::new("text", DataType::Utf8, true),
        ],
        StateKind::Ids => vec![plain("use", DataType::UInt64), print("id"), plain("ts", DataType::Int64)],
    }))
}

impl crate::feature::aggregate::Layout {
    /// Per aggregate of the spec, what it is in a tile.
    fn tiled_kinds(&self) -> Vec<Option<Tiled>> {
        let kind = |place: &Place| match *place {
            Place::Tile(place) => Some(self.tiled[place].tiled),
            Place::Log(_) => None,
        };
        self.places.iter().map(kind).collect()
    }
}
