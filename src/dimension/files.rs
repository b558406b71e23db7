//! Files: a dimension that is one file, or all files of a folder, read as a whole and as a whole again when they change.
//!
//! ```text
//!   list ─ as before? ─ yes ─> nothing to do
//!             └ no ─> read, hash, decode ─> a new table in the place of the old
//! ```
//!
//! Holds: a load that fails leaves the table that was there; its version is a hash of what was read, the same in every
//! process. Does not: see half of a file that is written over while it is read, as long as it is Parquet: its end would
//! not fit. A file of text is to be replaced by a rename.

use super::cells::{Cells, expected, parse};
use super::table::{Origin, Table};
use super::{Ask, DimensionError, DimensionFiles, DimensionGauge, DimensionSource, DimensionSpec, FileFormat, Found};
use crate::env::{Place, Store, open_place};
use crate::event::{ColumnType, Value};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Schema};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::UNIX_EPOCH;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

const ROWS_AT_ONCE: usize = 65_536;

/// A dimension that lies in files, or comes in rows.
pub(super) struct FileTable {
    spec: Arc<DimensionSpec>,
    table: RwLock<Table>,
    /// What the last load found.
    listing: Mutex<Option<Vec<Listing>>>,
    gauge: Arc<DimensionGauge>,
}

/// One file, as far as it can be told without reading it.
#[derive(Clone, PartialEq, Eq)]
struct Listing {
    path: String,
    bytes: u64,
    modified_ms: i64,
}

/// Where the files are.
enum Shelf {
    Local,
    Bucket(Arc<dyn Store>),
}

impl FileTable {
    /// With nothing in it yet.
    pub fn new(spec: Arc<DimensionSpec>, gauge: Arc<DimensionGauge>) -> FileTable {
        let table = RwLock::new(Table::new(&spec));
        FileTable { spec, table, listing: Mutex::default(), gauge }
    }

    /// Reads the files if they are not as they were; whether they were read.
    pub fn load(&self, now_ms: u64) -> Result<bool, DimensionError> {
        let loaded = self.load_changed();
        match &loaded {
            Ok(fresh) => {
                self.gauge.refreshes.fetch_add(*fresh as u64, Ordering::Relaxed);
                self.gauge.fresh_at_ms.store(now_ms, Ordering::Relaxed);
            }
            Err(_) => {
                self.gauge.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
        loaded.map_err(|message| DimensionError { dimension: self.spec.name.clone(), message, retry: false })
    }

    fn load_changed(&self) -> Result<bool, String> {
        let DimensionSource::Files(files) = &self.spec.source else { return Ok(false) };
        let (shelf, listing) = list(files)?;
        let mut known = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref() == Some(&listing) {
            return Ok(false);
        }
        let (mut parts, mut hash) = (Vec::new(), Xxh3::new());
        for file in &listing {
            let bytes = shelf.read(&file.path)?;
            hash.update(&xxh3_64(&bytes).to_le_bytes());
            let batches = match files.format {
                FileFormat::Parquet => parquet(&self.spec, bytes),
                FileFormat::Csv { delimiter } => csv(&self.spec, &bytes, delimiter),
            };
            parts.extend(batches.map_err(|message| format!("{}: {message}", file.path))?);
        }
        let version: Arc<str> = format!("{:016x}", hash.digest()).into();
        let mut table = Table::new(&self.spec);
        for rows in parts {
            table.put(&self.spec, rows, Origin::Files(version.clone()));
        }
        self.take_over(table);
        *known = Some(listing);
        Ok(true)
    }

    /// A table of rows that are handed over: those of a test.
    pub fn fill(&self, rows: RecordBatch) {
        let mut table = Table::new(&self.spec);
        table.put(&self.spec, rows, Origin::Files("test".into()));
        self.take_over(table);
    }

    fn take_over(&self, table: Table) {
        if table.null_keys > 0 {
            let (name, rows) = (&self.spec.name, table.null_keys);
            tracing::warn!("dimension {name}: {rows} rows have a null in their key, and no row finds them");
        }
        if table.replaced > 0 {
            let (name, rows) = (&self.spec.name, table.replaced);
            tracing::warn!("dimension {name}: {rows} rows have the key of another; of these the last one stands");
        }
        self.gauge.holds(&table);
        let old = std::mem::replace(&mut *self.table.write().unwrap_or_else(PoisonError::into_inner), table);
        drop(old);
    }

    pub fn look_up(&self, ask: &Ask<'_>) -> Result<Found, DimensionError> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let found = table.look_up(&self.spec, ask).map_err(|error| DimensionError::gathering(&self.spec, &error))?;
        self.gauge.saw(ask, &found);
        Ok(found)
    }
}

/// The files there are, in name order.
fn list(files: &DimensionFiles) -> Result<(Shelf, Vec<Listing>), String> {
    let ending = format!(".{}", files.format.extension());
    let (shelf, listing) = match &files.place {
        Place::Folder(path) => (Shelf::Local, list_local(path, &ending)?),
        Place::Bucket(spec) => {
            let (folder, name) = spec.prefix.rsplit_once('/').unwrap_or(("", &spec.prefix));
            let mut spec = spec.clone();
            let name = name.to_string();
            spec.prefix = folder.to_string();
            let store = open_place(&Place::Bucket(spec)).map_err(|error| error.to_string())?;
            let objects = store.list(&name).map_err(|error| error.to_string())?;
            let below = format!("{name}/");
            let ours = |path: &str| path == name || (path.starts_with(&below) && path.ends_with(&ending));
            let listing = objects.into_iter().filter(|object| ours(&object.path)).map(|object| Listing {
                path: object.path,
                bytes: object.bytes,
                modified_ms: object.modified_ms,
            });
            (Shelf::Bucket(store), listing.collect())
        }
    };
    if listing.is_empty() {
        return Err(format!("{}: there is no file {ending}; check the path", files.path));
    }
    Ok((shelf, listing))
}

fn list_local(path: &Path, ending: &str) -> Result<Vec<Listing>, String> {
    let of = |path: &Path| -> Result<Listing, String> {
        let wrong = |error: std::io::Error| format!("{}: {error}; check the path", path.display());
        let metadata = std::fs::metadata(path).map_err(wrong)?;
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified_ms = modified.map_or(0, |since| since.as_millis() as i64);
        Ok(Listing { path: path.display().to_string(), bytes: metadata.len(), modified_ms })
    };
    if !path.is_dir() {
        return Ok(vec![of(path)?]);
    }
    let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(path).map_err(wrong)? {
        let file = entry.map_err(wrong)?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(ending) && !name.starts_with(['.', '_']) && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    files.iter().map(|file| of(file)).collect()
}

impl Shelf {
    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        match self {
            Shelf::Local => std::fs::read(path).map_err(|error| format!("{path}: {error}")),
            Shelf::Bucket(store) => store.read(path).map_err(|error| error.to_string()),
        }
    }
}

/// The rows of a Parquet file in the dimension's layout.
fn parquet(spec: &DimensionSpec, bytes: Vec<u8>) -> Result<Vec<RecordBatch>, String> {
    // Readers of Parquet have been known to panic on damaged bytes.
    let read = catch_unwind(AssertUnwindSafe(|| parquet_batches(spec, bytes)));
    let batches = read.map_err(|_| "the file cannot be read")?.map_err(|error| format!("no Parquet file: {error}"))?;
    batches.into_iter().map(|rows| fit(spec, &rows)).collect()
}

fn parquet_batches(spec: &DimensionSpec, bytes: Vec<u8>) -> Result<Vec<RecordBatch>, ParquetError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes))?;
    let is_ours = |name: &String| spec.columns.iter().any(|column| column.source_name == *name);
    let roots = builder.schema().fields().iter().enumerate().filter(|(_, field)| is_ours(field.name()));
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots.map(|(at, _)| at).collect::<Vec<_>>());
    let batches = builder.with_projection(mask).with_batch_size(ROWS_AT_ONCE).build()?;
    Ok(batches.collect::<Result<_, _>>()?)
}

/// Columns by name, in the types that were declared.
fn fit(spec: &DimensionSpec, rows: &RecordBatch) -> Result<RecordBatch, String> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let column = |column: &super::DimensionColumn| -> Result<ArrayRef, String> {
        let found = rows.column_by_name(&column.source_name).ok_or_else(|| {
            let known: Vec<String> = rows.schema().fields().iter().map(|field| field.name().clone()).collect();
            format!("there is no column `{}`; it has {}", column.source_name, known.join(", "))
        })?;
        let wanted = column.column_type.arrow();
        if !can_be(found.data_type(), column.column_type) {
            let (name, found) = (&column.source_name, found.data_type());
            return Err(format!("the column `{name}` is {found}, declared as {}", column.column_type.name()));
        }
        cast_with_options(found, &wanted, &strict).map_err(|error| {
            format!("the column `{}` does not fit {}: {error}", column.name, column.column_type.name())
        })
    };
    let columns = spec.columns.iter().map(column).collect::<Result<Vec<_>, String>>()?;
    RecordBatch::try_new(spec.schema(), columns).map_err(|error| error.to_string())
}

/// Whether a column of a file may be declared so. What does not fit value by value is told then.
fn can_be(found: &DataType, declared: ColumnType) -> bool {
    let text = matches!(found, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    match (found, declared) {
        (DataType::Dictionary(_, values), _) => can_be(values, declared),
        (_, ColumnType::String) => text || found.is_integer(),
        (_, ColumnType::Int32 | ColumnType::Int64) => found.is_integer(),
        (DataType::Decimal128(..), ColumnType::Float32 | ColumnType::Float64) => true,
        (_, ColumnType::Float32 | ColumnType::Float64) => found.is_numeric(),
        (_, ColumnType::Bool) => *found == DataType::Boolean,
        (_, ColumnType::Timestamp) => matches!(found, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64),
    }
}

/// The columns of a Parquet file that have a type of ours.
pub(super) fn parquet_columns(path: &Path) -> Result<Vec<(String, ColumnType)>, String> {
    let first = match path.is_dir() {
        true => list_local(path, ".parquet")?.first().map(|file| PathBuf::from(&file.path)),
        false => Some(path.to_path_buf()),
    };
    let path = first.ok_or_else(|| format!("{}: there is no file .parquet", path.display()))?;
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let file = std::fs::File::open(&path).map_err(|error| wrong(&error))?;
    let builder = catch_unwind(AssertUnwindSafe(|| ParquetRecordBatchReaderBuilder::try_new(file)));
    let builder = builder.map_err(|_| wrong(&"the file cannot be read"))?.map_err(|error| wrong(&error))?;
    Ok(columns_of(builder.schema()))
}

fn columns_of(schema: &Schema) -> Vec<(String, ColumnType)> {
    let of = |data_type: &DataType| {
        let value = if let DataType::Dictionary(_, value) = data_type { value.as_ref() } else { data_type };
        Some(match value {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => ColumnType::String,
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => {
                ColumnType::Int32
            }
            DataType::Int64 | DataType::UInt32 | DataType::UInt64 => ColumnType::Int64,
            DataType::Float16 | DataType::Float32 => ColumnType::Float32,
            DataType::Float64 | DataType::Decimal128(..) => ColumnType::Float64,
            DataType::Boolean => ColumnType::Bool,
            DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => ColumnType::Timestamp,
            _ => return None,
        })
    };
    let fields = schema.fields().iter();
    fields.filter_map(|field| Some((field.name().clone(), of(field.data_type())?))).collect()
}

/// The rows of a file with a line of names and a line per row. An empty field is null.
fn csv(spec: &DimensionSpec, bytes: &[u8], delimiter: u8) -> Result<Vec<RecordBatch>, String> {
    // Some programs begin a file with the mark of UTF-8.
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(bytes);
    let names = reader.headers().map_err(|error| error.to_string())?.clone();
    let place = |column: &super::DimensionColumn| {
        names.iter().position(|name| name == column.source_name).ok_or_else(|| {
            let known = names.iter().collect::<Vec<_>>().join(", ");
            format!("there is no column `{}`; the first line names {known}", column.source_name)
        })
    };
    let places = spec.columns.iter().map(place).collect::<Result<Vec<_>, String>>()?;
    let new_cells = || spec.columns.iter().map(|column| Cells::new(column.column_type, 1024)).collect::<Vec<_>>();
    let (mut batches, mut cells, mut rows) = (Vec::new(), new_cells(), 0);
    let mut take = |cells: &mut Vec<Cells>| {
        let columns = cells.iter_mut().map(Cells::finish).collect();
        RecordBatch::try_new(spec.schema(), columns).map(|rows| batches.push(rows)).map_err(|error| error.to_string())
    };
    for record in reader.records() {
        let record = record.map_err(|error| error.to_string())?;
        for ((column, cells), at) in spec.columns.iter().zip(&mut cells).zip(&places) {
            let text = record.get(*at).unwrap_or_default();
            let value = if text.is_empty() { Some(Value::Null) } else { parse(text, column) };
            let value = value.ok_or_else(|| {
                let line = record.position().map_or(0, |position| position.line());
                let (name, expected) = (&column.name, expected(column));
                format!("line {line}, column `{name}`: found `{text}`, expected {expected}")
            })?;
            cells.push(&value);
        }
        rows += 1;
        if rows == ROWS_AT_ONCE {
            take(&mut cells)?;
            rows = 0;
        }
    }
    take(&mut cells)?;
    Ok(batches)
}
