//! Tests of the sinks against a folder on disk and against a store that fails.

use super::*;
use crate::env::{LocalStore, MemoryStore, Store, StoreFault, StoreOperation};
use crate::event::{EventTime, SampleBatch, list_of};
use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use arrow::array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int64Builder, ListBuilder, RecordBatch, StringArray,
    TimestampMillisecondArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use std::path::Path;
use std::sync::Arc;

const HOUR: EventTime = 3_600_000;
const START: EventTime = 1_769_842_800_000; // 2026-01-31T07:00:00Z

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("ts", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), false),
        Field::new("ctr", DataType::Float64, true),
        Field::new("clicked", DataType::Boolean, true),
        Field::new("last_items", list_of(DataType::Int64), true),
    ]))
}

fn batch(ids: std::ops::Range<i64>, time: impl Fn(i64) -> EventTime) -> SampleBatch {
    let mut lists = ListBuilder::new(Int64Builder::new());
    for id in ids.clone() {
        if id % 3 == 0 {
            lists.append_null();
        } else {
            lists.append_value((0..id % 4).map(|item| (item != 2).then_some(item)));
        }
    }
    let times: Vec<EventTime> = ids.clone().map(time).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(ids.clone().map(|id| format!("id-{id}")))),
        Arc::new(TimestampMillisecondArray::from(times.clone()).with_timezone("UTC")),
        Arc::new(Float64Array::from_iter(ids.clone().map(|id| (id % 5 != 0).then_some(id as f64 / 7.0)))),
        Arc::new(BooleanArray::from_iter(ids.map(|id| (id % 7 != 0).then_some(id % 2 == 0)))),
        Arc::new(lists.finish()),
    ];
    let rows = RecordBatch::try_new(schema(), columns).unwrap();
    SampleBatch { sample: 0, rows, impression_time: times, event_id: None, bucket: 0 }
}

fn spec() -> ParquetSpec {
    ParquetSpec {
        path: "samples".into(),
        folders: vec![TimeFolder::Date, TimeFolder::Hour],
        roll_bytes: 128 << 20,
        roll_age_ms: 300_000,
        compression: Compression::Zstd { level: 1 },
    }
}

fn naming(epoch: u64) -> FileNaming {
    FileNaming { pipeline: "ctr".into(), sample: "ctr".into(), chain: 7, lane: 0, epoch }
}

struct Fixture {
    folder: tempfile::TempDir,
    store: Arc<LocalStore>,
}

impl Fixture {
    fn new() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalStore::open_shared(folder.path()).unwrap());
        Fixture { folder, store }
    }

    fn sink(&self, spec: &ParquetSpec, epoch: u64) -> ParquetSink {
        ParquetSink::new(spec, schema(), naming(epoch), self.store.clone())
    }

    fn visible(&self) -> Vec<String> {
        let pattern = format!("{}/**/*.parquet", self.folder.path().display());
        let mut found: Vec<String> =
            glob::glob(&pattern).unwrap().map(|path| path.unwrap().display().to_string()).collect();
        found.sort();
        found
    }
}

fn read(path: impl AsRef<Path>) -> RecordBatch {
    let file = std::fs::File::open(path).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    // Of the file's schema only its metadata differs: what the footer says about the pipeline.
    let schema = Arc::new(reader.schema().as_ref().clone().with_metadata(Default::default()));
    let batches = reader.build().unwrap().map(|batch| batch.unwrap().with_schema(schema.clone()).unwrap());
    concat_batches(&schema, &batches.collect::<Vec<_>>()).unwrap()
}

#[test]
fn files_hold_the_rows_that_went_in_with_nulls_and_lists() {
    let f = Fixture::new();
    let mut sink = f.sink(&spec(), 1);
    let (a, b) = (batch(0..700, |id| START + id), batch(700..1000, |id| START + id));
    sink.write(&a, 0).unwrap();
    sink.write(&b, 5).unwrap();
    assert_eq!((sink.rows(), sink.open_files()), (1000, 1));
    let files = sink.finish().unwrap();
    let [file] = files.as_slice() else { panic!("one folder, one file: {files:?}") };
    assert_eq!((file.rows, file.min_time, file.max_time), (1000, START, START + 999));
    verify_content(f.store.as_ref(), file).unwrap();
    assert_eq!(publish(f.store.as_ref(), &files).unwrap(), 1);
    assert_eq!(f.visible().len(), 1);
    assert!(f.visible()[0].ends_with("date=2026-01-31/hour=07/ctr-0-1-0-00000007.parquet"));
    assert_eq!(read(&f.visible()[0]), concat_batches(&schema(), [&a.rows, &b.rows]).unwrap());
    assert!(sink.finish().unwrap().is_empty());
}

#[test]
fn f5_a_glob_sees_nothing_until_publish_and_publish_can_be_repeated() {
    let f = Fixture::new();
    let mut sink = f.sink(&spec(), 1);
    sink.write(&batch(0..5000, |id| START + id * 2000), 0).unwrap();
    assert!(f.visible().is_empty());
    let files = sink.finish().unwrap();
    assert!(f.visible().is_empty() && files.len() == 3);
    // A crash between two renames: publishing starts again and ends the same.
    assert_eq!(publish(f.store.as_ref(), &files[..1]).unwrap(), 1);
    assert_eq!(publish(f.store.as_ref(), &files).unwrap(), 2);
    assert_eq!(publish(f.store.as_ref(), &files).unwrap(), 0);
    assert_eq!(f.visible().len(), 3);
    files.iter().for_each(|file| verify_content(f.store.as_ref(), file).unwrap());
    std::fs::remove_file(&f.visible()[0]).unwrap();
    let error = publish(f.store.as_ref(), &files).unwrap_err();
    assert!(matches!(error, SinkError::Missing { .. }) && error.to_string().contains("hour=07"), "{error}");
}

#[test]
fn rows_of_one_batch_split_into_the_folders_of_their_hours() {
    let f = Fixture::new();
    let mut sink = f.sink(&spec(), 1);
    // Interleaved over two hours around midnight.
    let midnight = START + 17 * HOUR;
    sink.write(&batch(0..1000, |id| midnight + if id % 2 == 0 { -1 } else { 0 }), 0).unwrap();
    publish(f.store.as_ref(), &sink.finish().unwrap()).unwrap();
    let visible = f.visible();
    assert_eq!(visible.len(), 2);
    assert!(visible[0].contains("date=2026-01-31/hour=23/") && visible[1].contains("date=2026-02-01/hour=00/"));
    let times = |path: &String| read(path).column(1).to_data().buffers()[0].typed_data::<i64>().to_vec();
    assert_eq!(times(&visible[0]), vec![midnight - 1; 500]);
    assert_eq!(times(&visible[1]), vec![midnight; 500]);
}

#[test]
fn without_time_folders_files_lie_at_the_root() {
    let f = Fixture::new();
    let mut sink = f.sink(&ParquetSpec { folders: vec![], ..spec() }, 1);
    sink.write(&batch(0..10, |id| START + id * HOUR * 30), 0).unwrap();
    let files = sink.finish().unwrap();
    assert_eq!(files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["ctr-0-1-0-00000007.parquet"]);
    publish(f.store.as_ref(), &files).unwrap();
    assert_eq!(read(&f.visible()[0]).num_rows(), 10);
}

#[test]
fn a_crash_leaves_staged_files_alone_and_the_next_epoch_finds_them() {
    let f = Fixture::new();
    let mut committed = f.sink(&spec(), 1);
    committed.write(&batch(0..10, |id| START + id), 0).unwrap();
    let committed = committed.finish().unwrap();
    let mut lost = f.sink(&spec(), 2);
    lost.write(&batch(10..20, |id| START + id), 0).unwrap();
    let orphan = lost.finish().unwrap();
    lost.write(&batch(20..30, |id| START + id), 0).unwrap();
    std::mem::forget(lost);
    let other_chain = FileNaming { chain: 8, ..naming(1) };
    let mut other = ParquetSink::new(&spec(), schema(), other_chain, f.store.clone());
    other.write(&batch(0..10, |id| START + id), 0).unwrap();
    let other = other.finish().unwrap();

    let found = older_staged(f.store.as_ref(), &naming(3)).unwrap();
    let found: Vec<(&str, u64)> = found.iter().map(|(object, epoch)| (object.path.as_str(), *epoch)).collect();
    assert_eq!(found, [(committed[0].staged.as_str(), 1), (orphan[0].staged.as_str(), 2)]);
    assert_eq!(older_staged(f.store.as_ref(), &naming(2)).unwrap().len(), 1, "the own epoch is never ours to look at");
    f.store.delete(&orphan[0].staged).unwrap();
    assert!(matches!(verify(f.store.as_ref(), &orphan[0]), Err(SinkError::Missing { .. })));
    publish(f.store.as_ref(), &committed).unwrap();
    publish(f.store.as_ref(), &other).unwrap();
    assert_eq!(f.visible().len(), 2);
}

#[test]
fn a_file_rolls_by_size_at_once_and_by_the_age_of_its_oldest_row_at_a_cut() {
    let f = Fixture::new();
    let mut sink = f.sink(&ParquetSpec { roll_bytes: 20_000, ..spec() }, 1);
    sink.write(&batch(0..10, |id| START + id), 1_000).unwrap();
    sink.write(&batch(10..20, |id| START + id), 200_000).unwrap();
    assert!(!sink.due(300_999) && sink.due(301_000));
    let mut from = 20;
    while !sink.due(200_000) {
        sink.write(&batch(from..from + 500, |id| START + id), 200_000).unwrap();
        from += 500;
    }
    assert_eq!(sink.open_files(), 0, "the file was finished when it was big enough");
    sink.write(&batch(from..from + 1, |id| START + id), 200_000).unwrap();
    let files = sink.finish().unwrap();
    assert_eq!(files.iter().map(|file| file.rows).collect::<Vec<_>>(), [from as u64, 1]);
    assert!(files[0].bytes < 60_000, "{}", files[0].bytes);
    assert!(!sink.due(i64::MAX));
}

#[test]
fn f13_open_files_are_bounded_whatever_the_times_are() {
    let f = Fixture::new();
    let mut sink = f.sink(&spec(), 1);
    sink.write(&batch(0..2 * OPEN_FILES_MAX as i64, |id| START + id * HOUR), 0).unwrap();
    assert_eq!(sink.open_files(), OPEN_FILES_MAX);
    assert!(sink.due(0));
    let files = sink.finish().unwrap();
    assert_eq!(files.len(), 2 * OPEN_FILES_MAX);
    assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), 2 * OPEN_FILES_MAX as u64);
}

#[test]
fn damage_is_found_before_the_manifest_names_the_file() {
    let store = Arc::new(MemoryStore::new());
    let mut sink = ParquetSink::new(&spec(), schema(), naming(1), store.clone());
    sink.write(&batch(0..100, |id| START + id), 0).unwrap();
    let files = sink.finish().unwrap();
    let whole = store.read(&files[0].staged).unwrap();
    verify(store.as_ref(), &files[0]).unwrap();
    type Damage = Box<dyn Fn(&mut Vec<u8>)>;
    let damage: [(&str, Damage); 5] = [
        ("bytes, ", Box::new(|bytes| bytes.truncate(bytes.len() - 1))),
        ("too short", Box::new(|bytes| bytes.truncate(5))),
        ("does not end", Box::new(|bytes| *bytes.last_mut().unwrap() = b'X')),
        (
            "does not end",
            Box::new(|bytes| {
                let at = bytes.len() - 5;
                bytes[at] = 0xff;
            }),
        ),
        (
            "cannot be read",
            Box::new(|bytes| {
                let at = bytes.len() - 300;
                bytes[at..at + 200].fill(0xff);
            }),
        ),
    ];
    for (expected, damage) in damage {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        store.corrupt(&files[0].staged, &bytes);
        let file = StagedFile {
            bytes: if expected == "bytes, " { files[0].bytes } else { bytes.len() as u64 },
            ..files[0].clone()
        };
        let error = verify(store.as_ref(), &file).unwrap_err().to_string();
        assert!(error.contains("damaged") && error.contains(expected), "{error}");
    }
    let mut bytes = whole.clone();
    bytes[10] ^= 1;
    store.corrupt(&files[0].staged, &bytes);
    verify(store.as_ref(), &files[0]).unwrap();
    assert!(verify_content(store.as_ref(), &files[0]).unwrap_err().to_string().contains("sha256"));
    let more = StagedFile { rows: 101, ..files[0].clone() };
    assert!(verify(store.as_ref(), &more).unwrap_err().to_string().contains("counts 100 rows"));
}

#[test]
fn a_full_disk_is_reported_with_the_path_and_what_to_do() {
    let store = Arc::new(MemoryStore::new());
    store.set_fault_hook(|operation, _| match operation {
        StoreOperation::Create => StoreFault::FailBefore(std::io::ErrorKind::StorageFull),
        _ => StoreFault::None,
    });
    let mut sink = ParquetSink::new(&spec(), schema(), naming(1), store.clone());
    sink.write(&batch(0..100, |id| START + id), 0).unwrap();
    let error = sink.finish().unwrap_err().to_string();
    assert!(error.contains("date=2026-01-31") && error.contains("free some space"), "{error}");
}

#[test]
fn two_processes_with_one_epoch_do_not_write_over_each_other() {
    let f = Fixture::new();
    for expected in [true, false] {
        let mut sink = f.sink(&spec(), 1);
        sink.write(&batch(0..10, |id| START + id), 0).unwrap();
        assert_eq!(sink.finish().is_ok(), expected);
    }
}

#[test]
fn a_staged_file_survives_the_manifest() {
    let file = StagedFile {
        sample: "ctr".into(),
        staged: "d/.part-x.staged".into(),
        path: "d/x.parquet".into(),
        rows: 1,
        bytes: 2,
        sha256: "ab".into(),
        min_time: -1,
        max_time: 1,
    };
    let json = serde_json::to_string(&file).unwrap();
    assert_eq!(serde_json::from_str::<StagedFile>(&json).unwrap(), file);
}

#[test]
fn the_footer_says_where_the_rows_came_from() {
    let f = Fixture::new();
    let mut sink = f.sink(&spec(), 1);
    sink.write(&batch(0..10, |id| START + id), 0).unwrap();
    publish(f.store.as_ref(), &sink.finish().unwrap()).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&f.visible()[0]).unwrap()).unwrap();
    let metadata = reader.metadata().file_metadata().key_value_metadata().unwrap();
    let value = |key: &str| metadata.iter().find(|kv| kv.key == key).and_then(|kv| kv.value.clone());
    assert_eq!(value("conjoin.pipeline").as_deref(), Some("ctr"));
    assert_eq!(value("conjoin.sample").as_deref(), Some("ctr"));
    assert_eq!(value("conjoin.schema_hash").map(|hash| hash.len()), Some(16));
}
