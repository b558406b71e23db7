//! Restore: a store out of the blocks that snapshots made.
//!
//! In: blocks in the order in which they were made. Out: a store that gives the same values at every instant that may
//! still be asked for, and in which every entity is due, as the online store may be behind.
//! Does not: trust what it reads. Bad data is an error that names the group, the row and what is wrong with it.

use crate::event::{EventTime, Fingerprint, floor_to};
use crate::feature::aggregate::Tiled;
use crate::feature::aggregate::last::Entry;
use crate::feature::schedule::AT_ONCE;
use crate::feature::snapshot::{StateKind, schema};
use crate::feature::store::{GroupStore, Size};
use crate::feature::tile;
use crate::feature::value::Scalar;
use crate::feature::window::TIME_LIMIT;
use arrow::array::{Array, AsArray, FixedSizeBinaryArray, RecordBatch};
use arrow::datatypes::{Int64Type, UInt64Type};

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
    /// Takes the rows of a block that `keep` selects by the entity's fingerprint; ids are taken by every lane. Blocks come
    /// in the order in which they were made, before anything is applied. After an error the store is of no use.
    pub fn restore(&mut self, block: &RecordBatch, keep: &dyn Fn(Fingerprint) -> bool) -> Result<(), StateError> {
        let kind = self.kind_of(block);
        self.note_restored(kind, block);
        match kind {
            Some(StateKind::Tiles) => self.take_tiles(block, keep, Arrival::Restored),
            Some(StateKind::Entries) => self.take_entries(block, keep, Arrival::Restored),
            Some(StateKind::Ids) => self.restore_ids(block),
            None => Err(self.strange(block)),
        }
    }

    /// Adds the rows of a block that another store sealed (see `exchange`), each of them once.
    pub fn merge(&mut self, block: &RecordBatch) -> Result<(), StateError> {
        match self.kind_of(block) {
            Some(StateKind::Tiles) => self.take_tiles(block, &|_| true, Arrival::Merged),
            Some(StateKind::Entries) => self.take_entries(block, &|_| true, Arrival::Merged),
            Some(StateKind::Ids) | None => Err(self.strange(block)),
        }
    }

    fn kind_of(&self, block: &RecordBatch) -> Option<StateKind> {
        let tiled = self.layout.tiled_kinds();
        StateKind::ALL.into_iter().find(|&kind| {
            let (expected, found) = (schema(kind, &self.spec, &tiled), block.schema());
            expected.fields().len() == found.fields().len()
                && expected.fields().iter().zip(found.fields()).all(|(expected, found)| {
                    expected.name() == found.name() && expected.data_type() == found.data_type()
                })
        })
    }

    fn strange(&self, block: &RecordBatch) -> StateError {
        let found: Vec<_> = block.schema().fields().iter().map(|field| field.name().clone()).collect();
        StateError::Layout { group: self.spec.name.clone(), found: found.join(", ") }
    }

    fn damaged(&self, kind: StateKind, row: usize, what: &'static str) -> StateError {
        StateError::Damaged { group: self.spec.name.clone(), kind: kind.name(), row, what }
    }

    /// What was written is counted on, by the bucket of the first row: all rows of a block are of one.
    fn note_restored(&mut self, kind: Option<StateKind>, block: &RecordBatch) {
        let Some(kind) = kind.filter(|kind| *kind != StateKind::Ids && block.num_rows() > 0) else { return };
        let column = if kind == StateKind::Tiles { 2 } else { 3 };
        let time = block.column(column).as_primitive::<Int64Type>().value(0);
        if (-TIME_LIMIT..TIME_LIMIT).contains(&time) {
            self.written.note(kind, floor_to(time, self.windows.bucket_ms), block.num_rows());
        }
    }

    /// No column may be null but texts and words that stand for each other.
    fn refuse_nulls(&self, kind: StateKind, block: &RecordBatch, columns: usize) -> Result<(), StateError> {
        match block.columns()[..columns].iter().any(|column| column.null_count() > 0) {
            true => Err(self.damaged(kind, 0, "a null")),
            false => Ok(()),
        }
    }

    fn take_tiles(
        &mut self,
        block: &RecordBatch,
        keep: &dyn Fn(Fingerprint) -> bool,
        how: Arrival,
    ) -> Result<(), StateError> {
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
            if how == Arrival::Merged && slot < self.ladder.drop_before {
                self.layout.release_tile(&tile, &mut self.texts);
                continue;
            }
            let number = self.arrive(print, texts.value(row), how.due(self.windows.appears(slot)));
            let entity = self.entities.get_mut(number);
            let before = Size::of(entity, &self.layout);
            let taken = match how {
                Arrival::Restored => entity.tiles.replace(&tile, &self.layout, &self.windows, &mut self.texts),
                Arrival::Merged => entity.tiles.merge(&tile, &self.layout, &self.windows, &mut self.texts),
            };
            self.size.change(before, Size::of(entity, &self.layout));
            if taken.is_err() {
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

    fn take_entries(
        &mut self,
        block: &RecordBatch,
        keep: &dyn Fn(Fingerprint) -> bool,
        how: Arrival,
    ) -> Result<(), StateError> {
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
            let number = self.arrive(print, names.value(row), how.due(self.windows.appears(ts)));
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
            let ts = times.value(row);
            if ts <= -TIME_LIMIT || ts >= TIME_LIMIT {
                return Err(self.damaged(StateKind::Ids, row, "a time out of range"));
            }
            match self.ids.get_mut(uses.value(row) as usize) {
                Some(of_use) => of_use.restore(print_at(ids, row), ts),
                None => return Err(self.damaged(StateKind::Ids, row, "a stream that does not feed the group")),
            }
        }
        Ok(())
    }

    /// The entity of a row that comes, and when its published value has to be looked at.
    fn arrive(&mut self, print: Fingerprint, text: &str, due: EventTime) -> u32 {
        let number = self.entities.find(print).unwrap_or_else(|| self.welcome(print, text));
        self.propose(number, due);
        number
    }
}

/// How rows come into a store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arrival {
    /// From a snapshot of this store: they stand for what was there, and the online store may be behind.
    Restored,
    /// From another store: they are added, and visible as any event of that time.
    Merged,
}

impl Arrival {
    fn due(self, appears: EventTime) -> EventTime {
        match self {
            Arrival::Restored => AT_ONCE,
            Arrival::Merged => appears,
        }
    }
}

fn print_at(array: &FixedSizeBinaryArray, row: usize) -> Fingerprint {
    Fingerprint::from_be_bytes(array.value(row).try_into().expect("the schema says sixteen bytes"))
}
