//! Snapshot: what changed since the last one, as Arrow batches per time bucket.
//!
//!   tiles    entity, slot, length, state words     stands for all there was of the entity in [slot, slot + length)
//!   entries  entity, aggregate, ts, id, content, value     one event of a `last` or `last_k`
//!   ids      use, id, ts                            one id that may still come again
//!
//! Out: rows that are absolute: taking a block twice changes nothing, a later row stands above an earlier one, and all
//! blocks of a bucket may be replaced by what [`GroupStore::snapshot_bucket`] gives.
//! Holds: a block may go when `oldest_bucket_needed` of its kind has passed its bucket: nobody can see it any more.

use crate::event::{EventTime, Fingerprint, floor_to};
use crate::feature::GroupSpec;
use crate::feature::aggregate::last::Entry;
use crate::feature::aggregate::{Layout, Place, Tiled};
use crate::feature::dedup::Ids;
use crate::feature::store::GroupStore;
use crate::feature::tile;
use crate::feature::value::Scalar;
use crate::feature::window::TIME_LIMIT;
use arrow::array::{
    ArrayRef, FixedSizeBinaryBuilder, Int64Array, Int64Builder, RecordBatch, StringArray, StringBuilder, UInt64Array,
    UInt64Builder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
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
    /// Stands for all blocks of the bucket before it.
    pub whole: bool,
    pub rows: RecordBatch,
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

    /// The next snapshot holds everything there is.
    pub fn write_anew(&mut self) {
        let stride = self.layout.stride;
        self.changed = self.entities.iter_live().map(|(number, _)| number).collect();
        for number in &self.changed {
            let entity = self.entities.get_mut(*number);
            entity.changed = true;
            entity.tiles.touch_all(stride);
            entity.logs.iter_mut().flat_map(|log| &mut log.entries).for_each(Entry::soil);
        }
        self.ids.iter_mut().for_each(Ids::write_anew);
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

    pub(super) fn blocks(&self, rows: Rows) -> Vec<StateBlock> {
        let tiles = rows.tiles.iter().map(|(&bucket, rows)| (StateKind::Tiles, bucket, self.tile_rows(rows)));
        let entries = rows.entries.iter().map(|(&bucket, rows)| (StateKind::Entries, bucket, self.entry_rows(rows)));
        let ids = rows.ids.iter().map(|(&bucket, rows)| (StateKind::Ids, bucket, id_rows(rows)));
        let blocks = tiles.chain(entries).chain(ids);
        blocks
            .map(|(kind, bucket, columns)| {
                let rows = RecordBatch::try_new(schema(kind, &self.spec, &self.layout.tiled_kinds()), columns);
                StateBlock { kind, bucket, whole: false, rows: rows.expect("the columns are built after the schema") }
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
pub(super) struct Rows {
    pub tiles: BTreeMap<EventTime, Vec<(u32, usize)>>,
    pub entries: BTreeMap<EventTime, Vec<(u32, usize, usize)>>,
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

/// The columns of a block; a part of the format on disk.
pub(super) fn schema(kind: StateKind, spec: &GroupSpec, tiled: &[Option<Tiled>]) -> SchemaRef {
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

impl Layout {
    /// Per aggregate of the spec, what it is in a tile.
    pub(super) fn tiled_kinds(&self) -> Vec<Option<Tiled>> {
        let kind = |place: &Place| match *place {
            Place::Tile(place) => Some(self.tiled[place].tiled),
            Place::Log(_) => None,
        };
        self.places.iter().map(kind).collect()
    }
}
