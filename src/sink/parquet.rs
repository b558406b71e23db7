//! Parquet: one lane's rows of one sample into open files, one per time folder.
//!
//!   SampleBatch ─ by hour ─┬─> date=…/hour=07/.part-….staged   open
//!                          └─> date=…/hour=08/.part-….staged   open ── big enough ─> finished, kept for the next cut
//!
//! In: finished rows and the time they came. Out: at [`ParquetSink::finish`] every file since the last one, durable.
//! Holds: the number of open files and the bytes of their unfinished row groups are bounded (F13); what is not
//! finished leaves no trace under any name that a listing shows.
//! Does not: publish, or know which rows a manifest names.

use super::encoding::properties;
use super::staged::OpenFile;
use super::{FileNaming, ParquetSpec, SinkError, StagedFile};
use crate::env::Store;
use crate::event::{EventTime, SampleBatch};
use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use parquet::file::metadata::KeyValue;
use std::collections::BTreeMap;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// A sink that would open one more finishes its largest file first.
pub const OPEN_FILES_MAX: usize = 32;
/// Encoded bytes that wait in memory for the end of their row group, over all open files of a sink, unless it is told to
/// take less. Past it the largest row group ends early.
const ROW_GROUPS_BYTES_MAX: usize = 64 << 20;

pub struct ParquetSink {
    spec: ParquetSpec,
    schema: SchemaRef,
    naming: FileNaming,
    store: Arc<dyn Store>,
    /// By folder.
    open: BTreeMap<String, OpenFile>,
    /// Complete, waiting for the next cut.
    finished: Vec<StagedFile>,
    next_seq: u64,
    row_groups_bytes_max: usize,
    /// When the oldest row that is in no cut yet arrived.
    oldest_arrival_ms: Option<i64>,
    rows: u64,
}

impl ParquetSink {
    /// `store` is the folder `spec.path`; `schema` that of the batches to come.
    pub fn new(spec: &ParquetSpec, schema: SchemaRef, naming: FileNaming, store: Arc<dyn Store>) -> ParquetSink {
        ParquetSink {
            spec: spec.clone(),
            schema,
            naming,
            store,
            open: BTreeMap::new(),
            finished: Vec::new(),
            next_seq: 0,
            row_groups_bytes_max: ROW_GROUPS_BYTES_MAX,
            oldest_arrival_ms: None,
            rows: 0,
        }
    }

    /// The same with a limit of its own for row groups in memory.
    pub fn bounded(self, row_groups_bytes_max: usize) -> ParquetSink {
        ParquetSink { row_groups_bytes_max, ..self }
    }

    /// Takes rows that arrived at `now_ms` (wall time, for the roll by age).
    pub fn write(&mut self, batch: &SampleBatch, now_ms: i64) -> Result<(), SinkError> {
        let times = &batch.impression_time;
        if times.len() != batch.rows.num_rows() {
            return Err(SinkError::Misaligned { rows: batch.rows.num_rows(), times: times.len() });
        }
        let Some(range) = min_max(times) else { return Ok(()) };
        self.oldest_arrival_ms.get_or_insert(now_ms);
        self.rows += times.len() as u64;
        let (first, last) = (self.spec.slice_of(range.0), self.spec.slice_of(range.1));
        if first == last {
            return self.write_folder(first, &batch.rows, range);
        }
        let mut by_slice: BTreeMap<EventTime, Vec<u32>> = BTreeMap::new();
        for (row, ts) in times.iter().enumerate() {
            by_slice.entry(self.spec.slice_of(*ts)).or_default().push(row as u32);
        }
        for (slice, rows) in by_slice {
            let times: Vec<EventTime> = rows.iter().map(|row| times[*row as usize]).collect();
            let range = min_max(&times).expect("a slice is made by its first row");
            let taken = take_record_batch(&batch.rows, &UInt32Array::from(rows))
                .map_err(|error| SinkError::Encode { path: self.spec.folder_of(slice), source: error.into() })?;
            self.write_folder(slice, &taken, range)?;
        }
        Ok(())
    }

    fn write_folder(
        &mut self,
        slice: EventTime,
        rows: &RecordBatch,
        times: (EventTime, EventTime),
    ) -> Result<(), SinkError> {
        let folder = self.spec.folder_of(slice);
        if !self.open.contains_key(&folder) {
            self.make_room_for_a_file()?;
            let file = self.open_file(&folder, rows)?;
            self.open.insert(folder.clone(), file);
        }
        let file = self.open.get_mut(&folder).expect("opened above if it was not");
        file.write(rows, times)?;
        if file.bytes() >= self.spec.roll_bytes {
            self.finish_file(&folder)?;
        }
        self.bound_row_groups()
    }

    fn open_file(&mut self, folder: &str, first_rows: &RecordBatch) -> Result<OpenFile, SinkError> {
        let paths = self.naming.paths(folder, self.next_seq);
        self.next_seq += 1;
        let metadata = vec![
            KeyValue::new("conjoin.version".into(), env!("CARGO_PKG_VERSION").to_string()),
            KeyValue::new("conjoin.pipeline".into(), self.naming.pipeline.clone()),
            KeyValue::new("conjoin.sample".into(), self.naming.sample.clone()),
            KeyValue::new("conjoin.schema_hash".into(), schema_hash(&self.schema)),
        ];
        let properties = properties(self.spec.compression, &self.schema, first_rows, metadata)
            .map_err(|source| SinkError::Encode { path: paths.0.clone(), source })?;
        OpenFile::create(self.store.as_ref(), paths, self.schema.clone(), properties)
    }

    fn make_room_for_a_file(&mut self) -> Result<(), SinkError> {
        if self.open.len() < OPEN_FILES_MAX {
            return Ok(());
        }
        let largest = self.open.iter().max_by_key(|(_, file)| file.bytes()).map(|(folder, _)| folder.clone());
        self.finish_file(&largest.expect("the limit is above zero"))
    }

    fn finish_file(&mut self, folder: &str) -> Result<(), SinkError> {
        let file = self.open.remove(folder).expect("callers name an open file");
        self.finished.push(file.finish(&self.naming.sample)?);
        Ok(())
    }

    fn bound_row_groups(&mut self) -> Result<(), SinkError> {
        while self.open.values().map(|file| file.writer.memory_size()).sum::<usize>() > self.row_groups_bytes_max {
            let largest = self.open.values_mut().max_by_key(|file| file.writer.memory_size());
            largest.expect("the sum is above zero").flush_row_group()?;
        }
        Ok(())
    }

    /// Whether the next cut should take the files: one is big enough, or the oldest row has waited long enough.
    pub fn due(&self, now_ms: i64) -> bool {
        !self.finished.is_empty()
            || self.oldest_arrival_ms.is_some_and(|oldest| now_ms.saturating_sub(oldest) >= self.spec.roll_age_ms)
    }

    /// Rows that are in no finished cut yet.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes of the open files so far, on disk and in memory.
    pub fn open_bytes(&self) -> u64 {
        self.open.values().map(OpenFile::bytes).sum()
    }

    pub fn open_files(&self) -> usize {
        self.open.len()
    }

    /// Closes every open file and hands over all that is complete since the last call, each durable under its staged
    /// name. Without rows the list is empty.
    pub fn finish(&mut self) -> Result<Vec<StagedFile>, SinkError> {
        while let Some((_, file)) = self.open.pop_first() {
            self.finished.push(file.finish(&self.naming.sample)?);
        }
        self.oldest_arrival_ms = None;
        self.rows = 0;
        Ok(std::mem::take(&mut self.finished))
    }
}

fn min_max(times: &[EventTime]) -> Option<(EventTime, EventTime)> {
    let first = *times.first()?;
    Some(times.iter().fold((first, first), |(low, high), ts| (low.min(*ts), high.max(*ts))))
}

/// Tells files of one schema from those of another, for people and scripts.
fn schema_hash(schema: &SchemaRef) -> String {
    let columns: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| {
            format!("{} {} {}", field.name(), field.data_type(), if field.is_nullable() { "null" } else { "" })
        })
        .collect();
    format!("{:016x}", xxh3_64(columns.join("\n").as_bytes()))
}
