//! Table: a dimension as it lies in memory, found by the fingerprints of its keys and as of any instant.
//!
//! ```text
//!   fingerprint ─> versions of the key, by valid_from ─> the newest that is not after the row's time ─> (chunk, row)
//! ```
//!
//! Rows stay in the record batches they came in; what a look-up returns is gathered from them column by column.
//! Holds: of two rows with one key and one `valid_from`, the later put one stands; an answer is a function of the rows
//! that were put, in their order, and of nothing else.
//! Does not: know where rows come from.

use super::{DimensionSpec, Found};
use crate::event::{EventTime, Fingerprint, fingerprints};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringBuilder, new_null_array};
use arrow::compute::interleave;
use arrow::datatypes::TimestampMillisecondType;
use arrow::error::ArrowError;
use hashbrown::HashTable;
use std::sync::Arc;

/// Replaced rows are cleared away once there are more of them than of the others, and at least so many.
const DEAD_ROWS_MIN: usize = 1 << 16;
/// So many batches are put together: every look-up names all of them.
const CHUNKS_MAX: usize = 256;

/// Which version of the source rows came from.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// All from one.
    Files(Arc<str>),
    /// Each from a record of a topic: partition and offset.
    Log(Vec<(u32, i64)>),
}

struct Chunk {
    rows: RecordBatch,
    origin: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    from: EventTime,
    chunk: u32,
    row: u32,
}

/// What a row is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub print: Fingerprint,
    pub from: EventTime,
}

struct Entry {
    print: Fingerprint,
    /// Ascending by `from`, each once.
    versions: Versions,
}

/// Most keys have one.
enum Versions {
    One(Version),
    Many(Vec<Version>),
}

impl Versions {
    fn as_slice(&self) -> &[Version] {
        match self {
            Versions::One(version) => std::slice::from_ref(version),
            Versions::Many(versions) => versions,
        }
    }
}

pub(super) struct Table {
    chunks: Vec<Chunk>,
    index: HashTable<Entry>,
    rows: usize,
    /// Rows of chunks that no version refers to.
    dead: usize,
    /// With more chunks they are put together.
    chunks_max: usize,
    /// Rows that were put with a null in their key: nobody can find them.
    pub null_keys: u64,
    /// Rows that took the place of one with the same key and `valid_from`.
    pub replaced: u64,
    is_versioned: bool,
}

impl Table {
    pub fn new(spec: &DimensionSpec) -> Table {
        Table {
            chunks: Vec::new(),
            index: HashTable::new(),
            rows: 0,
            dead: 0,
            chunks_max: CHUNKS_MAX,
            null_keys: 0,
            replaced: 0,
            is_versioned: spec.valid_from.is_some(),
        }
    }

    /// Rows that can be found.
    pub fn len(&self) -> usize {
        self.rows
    }

    pub fn bytes(&self) -> usize {
        let chunks: usize = self.chunks.iter().map(|chunk| chunk.rows.get_array_memory_size()).sum();
        chunks + self.index.capacity() * size_of::<Entry>()
    }

    /// Adds rows, in order; what each is found by. A row without a `valid_from` holds from the beginning of time.
    pub fn put(&mut self, spec: &DimensionSpec, rows: RecordBatch, origin: Origin) -> Vec<Option<Identity>> {
        let keys: Vec<&ArrayRef> = spec.key.iter().map(|column| rows.column(*column)).collect();
        let prints = fingerprints(&keys, rows.num_rows(), spec.partitioner);
        let has_null = |row: usize| keys.iter().any(|key| key.is_null(row));
        let nulls: Vec<bool> = (0..rows.num_rows()).map(has_null).collect();
        let times =
            spec.valid_from.map(|column| rows.column(column).as_primitive::<TimestampMillisecondType>().clone());
        let chunk = self.chunks.len() as u32;
        let mut identities = Vec::with_capacity(rows.num_rows());
        for (row, print) in prints.into_iter().enumerate() {
            if nulls[row] {
                self.null_keys += 1;
                self.dead += 1;
                identities.push(None);
                continue;
            }
            let from = match &times {
                Some(times) if !times.is_null(row) => times.value(row),
                _ => EventTime::MIN,
            };
            self.put_one(print, Version { from, chunk, row: row as u32 });
            identities.push(Some(Identity { print, from }));
        }
        if rows.num_rows() == 0 {
            return identities;
        }
        self.chunks.push(Chunk { rows, origin });
        if self.chunks.len() > self.chunks_max || (self.dead > DEAD_ROWS_MIN && self.dead > self.rows) {
            self.clear_away();
            // Also where it could not: then not at every batch.
            (self.dead, self.chunks_max) = (0, self.chunks.len() + CHUNKS_MAX);
        }
        identities
    }

    fn put_one(&mut self, print: Fingerprint, version: Version) {
        let found = self.index.find_mut(print as u64, |entry| entry.print == print);
        let Some(entry) = found else {
            let entry = Entry { print, versions: Versions::One(version) };
            self.index.insert_unique(print as u64, entry, |entry| entry.print as u64);
            self.rows += 1;
            return;
        };
        let place = entry.versions.as_slice().binary_search_by_key(&version.from, |known| known.from);
        match (place, &mut entry.versions) {
            (Ok(_), Versions::One(known)) => *known = version,
            (Ok(at), Versions::Many(known)) => known[at] = version,
            (Err(at), versions) => {
                let mut many = versions.as_slice().to_vec();
                many.insert(at, version);
                *versions = Versions::Many(many);
                self.rows += 1;
                return;
            }
        }
        self.replaced += 1;
        self.dead += 1;
    }

    /// Takes a row away.
    pub fn remove(&mut self, Identity { print, from }: Identity) {
        let Ok(mut found) = self.index.find_entry(print as u64, |entry| entry.print == print) else { return };
        let entry = found.get_mut();
        let Ok(at) = entry.versions.as_slice().binary_search_by_key(&from, |known| known.from) else { return };
        (self.rows, self.dead) = (self.rows - 1, self.dead + 1);
        match &mut entry.versions {
            Versions::Many(known) if known.len() > 1 => {
                known.remove(at);
            }
            _ => {
                found.remove();
            }
        }
    }

    /// Puts what is alive into one chunk.
    pub(super) fn clear_away(&mut self) {
        let Some(first) = self.chunks.first() else { return };
        let schema = first.rows.schema();
        let mut places: Vec<(usize, usize)> = Vec::with_capacity(self.rows);
        for entry in self.index.iter() {
            places.extend(entry.versions.as_slice().iter().map(|at| (at.chunk as usize, at.row as usize)));
        }
        // The order of the index is no order of rows.
        places.sort_unstable();
        let column = |number: usize| {
            let parts: Vec<&dyn Array> = self.chunks.iter().map(|chunk| chunk.rows.column(number).as_ref()).collect();
            interleave(&parts, &places)
        };
        // Texts of more than 2 GB do not fit one chunk: then the rows stay where they are.
        let Ok(columns) = (0..schema.fields().len()).map(column).collect::<Result<Vec<ArrayRef>, ArrowError>>() else {
            return;
        };
        let Ok(rows) = RecordBatch::try_new(schema, columns) else { return };
        let origin = match &first.origin {
            Origin::Files(version) => Origin::Files(version.clone()),
            Origin::Log(_) => Origin::Log(places.iter().map(|(chunk, row)| self.chunks[*chunk].offset(*row)).collect()),
        };
        let place_of = |version: &Version| places.binary_search(&(version.chunk as usize, version.row as usize));
        for entry in self.index.iter_mut() {
            let moved = |version: &mut Version| {
                let row = place_of(version).expect("every version was listed") as u32;
                (version.chunk, version.row) = (0, row);
            };
            match &mut entry.versions {
                Versions::One(version) => moved(version),
                Versions::Many(versions) => versions.iter_mut().for_each(moved),
            }
        }
        self.chunks = vec![Chunk { rows, origin }];
    }

    /// The version of a key that holds at an instant.
    fn find(&self, print: Fingerprint, at: EventTime) -> Option<Version> {
        let entry = self.index.find(print as u64, |entry| entry.print == print)?;
        let versions = entry.versions.as_slice();
        if !self.is_versioned {
            return versions.last().copied();
        }
        versions[..versions.partition_point(|version| version.from <= at)].last().copied()
    }

    /// What the wanted rows find: the columns of `select`, and the version where it is asked for.
    pub fn look_up(&self, spec: &DimensionSpec, ask: &super::Ask<'_>) -> Result<Found, ArrowError> {
        let rows = ask.prints.len();
        let find = |row: usize| if ask.wanted[row] { self.find(ask.prints[row], ask.at[row]) } else { None };
        let places: Vec<Option<Version>> = (0..rows).map(find).collect();
        // Chunk 0 of what is gathered is a single null.
        let at: Vec<(usize, usize)> =
            places.iter().map(|place| place.map_or((0, 0), |at| (at.chunk as usize + 1, at.row as usize))).collect();
        let mut columns = Vec::with_capacity(ask.select.len() + 1);
        for &number in ask.select {
            let null = new_null_array(&spec.columns[number].column_type.arrow(), 1);
            let chunks = self.chunks.iter().map(|chunk| chunk.rows.column(number).as_ref());
            let parts: Vec<&dyn Array> = std::iter::once(null.as_ref()).chain(chunks).collect();
            columns.push(interleave(&parts, &at)?);
        }
        if ask.version {
            let mut texts = StringBuilder::with_capacity(rows, rows * 16);
            for place in &places {
                texts.append_option(place.map(|at| self.chunks[at.chunk as usize].version(at.row as usize)));
            }
            columns.push(Arc::new(texts.finish()));
        }
        Ok(Found { columns, found: places.iter().map(Option::is_some).collect() })
    }
}

impl Chunk {
    fn offset(&self, row: usize) -> (u32, i64) {
        match &self.origin {
            Origin::Log(offsets) => offsets[row],
            Origin::Files(_) => (0, 0),
        }
    }

    fn version(&self, row: usize) -> String {
        match &self.origin {
            Origin::Files(version) => version.to_string(),
            Origin::Log(offsets) => format!("{}:{}", offsets[row].0, offsets[row].1),
        }
    }
}
