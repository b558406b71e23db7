//! Dead letter: what could not be read, kept with its place in the log, the reason and the bytes as they came.
//!
//!   Rejected ──> buffer ── full ──> open file ── cut ──> date=…/.part-dead-letters-….staged ── publish ──> ….parquet
//!
//! In: rejects of any stream. Out: at a cut at most one [`StagedFile`](super::StagedFile), published as samples are.
//! Holds: one row per reject (F14); memory is bounded by the buffer and one small row group, however bad the input.
//! Does not: judge, count by reason, or play records back.

use super::encoding::properties;
use super::name::time_folder;
use super::staged::OpenFile;
use super::{Compression, FileNaming, SinkError, StagedFile, TimeFolder};
use crate::env::Store;
use crate::event::{ColumnType, EventTime, Rejected};
use arrow::array::{
    ArrayRef, BinaryBuilder, Int32Builder, Int64Builder, RecordBatch, StringBuilder, TimestampMillisecondBuilder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::file::metadata::KeyValue;
use std::sync::Arc;

/// The name dead letters go by where a sample has its own.
pub const DEAD_LETTERS: &str = "dead-letters";

/// Raw bytes and messages that wait for the encoder.
const BUFFER_BYTES_MAX: usize = 4 << 20;
/// The same in rows: rejects may have no bytes at all.
const BUFFER_ROWS_MAX: usize = 8192;
/// Encoded bytes that wait for the end of their row group.
const ROW_GROUP_BYTES_MAX: usize = 8 << 20;

pub struct DeadLetterSink {
    streams: Vec<String>,
    inputs: Vec<String>,
    naming: FileNaming,
    store: Arc<dyn Store>,
    schema: SchemaRef,
    buffer: Buffer,
    /// When the oldest and the newest row of the buffer were rejected.
    times: Option<(EventTime, EventTime)>,
    open: Option<OpenFile>,
    next_seq: u64,
    rows: u64,
}

#[derive(Default)]
struct Buffer {
    rows: usize,
    bytes: usize,
    stream: StringBuilder,
    input: StringBuilder,
    partition: Int32Builder,
    position: Int64Builder,
    item: Int32Builder,
    reason: StringBuilder,
    message: StringBuilder,
    raw: BinaryBuilder,
    rejected_at: TimestampMillisecondBuilder,
}

/// The columns of a dead-letter file: a stable part of the output format.
fn schema() -> SchemaRef {
    let column = |name: &str, data_type: DataType| Field::new(name, data_type, name == "item");
    Arc::new(Schema::new(vec![
        column("stream", DataType::Utf8),
        column("input", DataType::Utf8),
        column("partition", DataType::Int32),
        column("position", DataType::Int64),
        column("item", DataType::Int32),
        column("reason", DataType::Utf8),
        column("message", DataType::Utf8),
        column("raw", DataType::Binary),
        column("rejected_at", ColumnType::Timestamp.arrow()),
    ]))
}

impl DeadLetterSink {
    /// `streams` and `inputs` give the names of the plan's streams and inputs, by number; `store` is the folder of
    /// the dead letters; of `naming` the sample's name is set here.
    pub fn new(streams: &[String], inputs: &[String], naming: FileNaming, store: Arc<dyn Store>) -> DeadLetterSink {
        DeadLetterSink {
            streams: streams.to_vec(),
            inputs: inputs.to_vec(),
            naming: FileNaming { sample: DEAD_LETTERS.into(), ..naming },
            store,
            schema: schema(),
            buffer: Buffer::default(),
            times: None,
            open: None,
            next_seq: 0,
            rows: 0,
        }
    }

    /// Takes what was rejected at `now_ms`.
    pub fn push(&mut self, rejected: &[Rejected], now_ms: i64) -> Result<(), SinkError> {
        for reject in rejected {
            let input = name_of(&self.inputs, reject.partition.input);
            self.buffer.push(reject, name_of(&self.streams, reject.stream), input, now_ms);
            let (low, high) = self.times.unwrap_or((now_ms, now_ms));
            self.times = Some((low.min(now_ms), high.max(now_ms)));
            self.rows += 1;
            if self.buffer.bytes >= BUFFER_BYTES_MAX || self.buffer.rows >= BUFFER_ROWS_MAX {
                self.encode()?;
            }
        }
        Ok(())
    }

    /// Rows since the last cut.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    fn encode(&mut self) -> Result<(), SinkError> {
        let Some(times) = self.times.take() else { return Ok(()) };
        let rows = self.buffer.take(&self.schema);
        if self.open.is_none() {
            let paths = self.naming.paths(&time_folder(TimeFolder::Date, times.0), self.next_seq);
            self.next_seq += 1;
            let metadata = vec![
                KeyValue::new("conjoin.version".into(), env!("CARGO_PKG_VERSION").to_string()),
                KeyValue::new("conjoin.pipeline".into(), self.naming.pipeline.clone()),
            ];
            let properties = properties(Compression::Zstd { level: 3 }, &self.schema, &rows, metadata)
                .map_err(|source| SinkError::Encode { path: paths.0.clone(), source })?;
            self.open = Some(OpenFile::create(self.store.as_ref(), paths, self.schema.clone(), properties)?);
        }
        let open = self.open.as_mut().expect("opened above if it was not");
        open.write(&rows, times)?;
        if open.writer.memory_size() > ROW_GROUP_BYTES_MAX {
            open.flush_row_group()?;
        }
        Ok(())
    }

    /// Makes everything since the last call durable under a staged name. Without rejects the list is empty.
    pub fn finish(&mut self) -> Result<Vec<StagedFile>, SinkError> {
        self.encode()?;
        self.rows = 0;
        self.open.take().map(|open| open.finish(DEAD_LETTERS)).into_iter().collect()
    }
}

impl Buffer {
    fn push(&mut self, reject: &Rejected, stream: &str, input: &str, now_ms: i64) {
        self.rows += 1;
        self.bytes += reject.raw.len() + reject.message.len();
        self.stream.append_value(stream);
        self.input.append_value(input);
        self.partition.append_value(reject.partition.partition as i32);
        self.position.append_value(reject.position);
        self.item.append_option(reject.item.map(|item| item as i32));
        self.reason.append_value(reject.kind.name());
        self.message.append_value(&reject.message);
        self.raw.append_value(&reject.raw);
        self.rejected_at.append_value(now_ms);
    }

    fn take(&mut self, schema: &SchemaRef) -> RecordBatch {
        (self.rows, self.bytes) = (0, 0);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.stream.finish()),
            Arc::new(self.input.finish()),
            Arc::new(self.partition.finish()),
            Arc::new(self.position.finish()),
            Arc::new(self.item.finish()),
            Arc::new(self.reason.finish()),
            Arc::new(self.message.finish()),
            Arc::new(self.raw.finish()),
            Arc::new(self.rejected_at.finish().with_timezone("UTC")),
        ];
        RecordBatch::try_new(schema.clone(), columns).expect("the columns are those of the schema above")
    }
}

/// A number the plan does not know cannot come here from a checked plan; a reject is kept all the same.
fn name_of(names: &[String], number: u16) -> &str {
    names.get(number as usize).map_or("unknown", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::LocalStore;
    use crate::event::{PartitionId, RejectKind};
    use crate::sink::{publish, verify_content};
    use arrow::array::{Array, AsArray};
    use arrow::compute::concat_batches;
    use arrow::datatypes::Int64Type;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    const NOW: i64 = 1_769_842_800_000;

    fn reject(position: i64, item: Option<u32>, raw: Vec<u8>) -> Rejected {
        Rejected {
            stream: 1,
            partition: PartitionId { input: 0, partition: 3 },
            position,
            item,
            kind: RejectKind::WrongType,
            message: format!("$.position: expected int32, found \"x{position}\""),
            raw,
        }
    }

    fn sink(folder: &tempfile::TempDir) -> (Arc<LocalStore>, DeadLetterSink) {
        let store = Arc::new(LocalStore::open(folder.path()).unwrap());
        let naming = FileNaming { pipeline: "ctr".into(), sample: String::new(), chain: 7, lane: 0, epoch: 2 };
        let names = |names: [&str; 2]| names.map(String::from);
        let sink =
            DeadLetterSink::new(&names(["impressions", "clicks"]), &names(["events", "x"]), naming, store.clone());
        (store, sink)
    }

    fn read(path: std::path::PathBuf) -> RecordBatch {
        let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap()).unwrap();
        let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
        concat_batches(&batches[0].schema(), &batches).unwrap()
    }

    #[test]
    fn f14_a_dead_letter_says_where_it_was_why_and_what_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let (store, mut sink) = sink(&folder);
        sink.push(&[reject(42, None, b"\xff{".to_vec()), reject(43, Some(2), vec![])], NOW).unwrap();
        assert_eq!(sink.rows(), 2);
        let files = sink.finish().unwrap();
        assert_eq!((files.len(), files[0].rows, files[0].min_time, files[0].max_time), (1, 2, NOW, NOW));
        verify_content(store.as_ref(), &files[0]).unwrap();
        publish(store.as_ref(), &files).unwrap();
        assert_eq!(files[0].path, "date=2026-01-31/dead-letters-0-2-0-00000007.parquet");
        let rows = read(folder.path().join(&files[0].path));
        let text = |name: &str| rows.column_by_name(name).unwrap().as_string::<i32>().value(0).to_string();
        assert_eq!(
            (text("stream"), text("input"), text("reason")),
            ("clicks".into(), "events".into(), "wrong_type".into())
        );
        assert!(text("message").contains("x42"));
        assert_eq!(rows.column_by_name("raw").unwrap().as_binary::<i32>().value(0), b"\xff{");
        assert!(rows.column_by_name("item").unwrap().is_null(0) && rows.column_by_name("item").unwrap().is_valid(1));
        assert!(sink.finish().unwrap().is_empty(), "nothing since");
    }

    #[test]
    fn f13_a_flood_of_rejects_is_written_while_it_comes_and_none_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let (store, mut sink) = sink(&folder);
        // Bytes that do not compress, so that row groups end early.
        let noise = |n: i64| {
            (0..40_000u64)
                .map(move |i| (xxhash_rust::xxh3::xxh3_64(&(i + (n as u64) * 40_000).to_le_bytes()) >> 7) as u8)
        };
        for n in 0..1000 {
            sink.push(&[reject(n, None, noise(n).collect())], NOW + n).unwrap();
            assert!(sink.buffer.bytes < BUFFER_BYTES_MAX);
            assert!(sink.open.as_ref().is_none_or(|open| open.writer.memory_size() <= ROW_GROUP_BYTES_MAX));
        }
        let files = sink.finish().unwrap();
        publish(store.as_ref(), &files).unwrap();
        let rows = read(folder.path().join(&files[0].path));
        let positions = rows.column_by_name("position").unwrap().as_primitive::<Int64Type>().values().to_vec();
        assert_eq!(positions, (0..1000).collect::<Vec<i64>>());
        assert_eq!((files[0].min_time, files[0].max_time), (NOW, NOW + 999));
    }
}
