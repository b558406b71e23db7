//! Parquet: rows per second that one thread writes through the sink, on rows shaped as in the shared workload.
//!
//! `cargo bench --bench parquet [-- ROWS]`: prints one line per codec.
#![expect(clippy::disallowed_macros, reason = "a benchmark prints its result")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use arrow::array::{
    ArrayRef, Float64Array, Int32Array, RecordBatch, StringArray, TimestampMillisecondArray,
    TimestampMillisecondBuilder,
};
use arrow::datatypes::{Field, Schema, SchemaRef};
use conjoin::env::{Entropy, LocalStore, SeededEntropy};
use conjoin::event::{ColumnType, EventTime, SampleBatch};
use conjoin::sink::{Compression, FileNaming, ParquetSink, ParquetSpec, TimeFolder};
use std::sync::Arc;
use std::time::Instant;

const START: EventTime = 1_700_000_000_000;
const ROWS_PER_BATCH: usize = 8192;

fn schema() -> SchemaRef {
    let field = |name: &str, ty: ColumnType, nullable| Field::new(name, ty.arrow(), nullable);
    let mut fields = vec![
        field("request_id", ColumnType::String, false),
        field("user_id", ColumnType::String, false),
        field("item_id", ColumnType::String, false),
        field("ts", ColumnType::Timestamp, false),
        field("position", ColumnType::Int32, false),
        field("device", ColumnType::String, false),
        field("price", ColumnType::Float64, false),
    ];
    fields.extend((0..8).map(|n| field(&format!("f{n}"), ColumnType::Float64, false)));
    fields.push(field("click_ts", ColumnType::Timestamp, true));
    fields.push(field("label_ts", ColumnType::Timestamp, true));
    fields.push(field("label_value", ColumnType::Float64, true));
    Arc::new(Schema::new(fields))
}

fn batch(schema: &SchemaRef, first: usize, rows: usize, entropy: &SeededEntropy) -> SampleBatch {
    let uniform = |below: u64| entropy.random_u64() % below;
    // Squaring a uniform number makes low ids frequent, as popular users and items are.
    let popular = |below: u64| {
        let u = uniform(1 << 20);
        u * u / (1 << 20) * below / (1 << 20)
    };
    let users: Vec<String> = (0..rows).map(|_| format!("u{}", popular(200_000))).collect();
    let items: Vec<String> = (0..rows).map(|_| format!("i{}", popular(50_000))).collect();
    let uniform = |below: u64| entropy.random_u64() % below;
    let requests = (first..first + rows).map(|n| format!("{:016x}", (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let times: Vec<EventTime> = (first..first + rows).map(|n| START + (n / 20) as i64).collect();
    let time_column = |values: TimestampMillisecondArray| Arc::new(values.with_timezone("UTC")) as ArrayRef;
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(requests)),
        Arc::new(StringArray::from(users)),
        Arc::new(StringArray::from(items)),
        time_column(times.clone().into()),
        Arc::new(Int32Array::from_iter_values((0..rows).map(|_| uniform(50) as i32))),
        Arc::new(StringArray::from_iter_values(
            (0..rows).map(|_| ["ios", "android", "web", "tv", "tablet"][uniform(5) as usize]),
        )),
        Arc::new(Float64Array::from_iter_values((0..rows).map(|_| uniform(20_000) as f64 / 100.0))),
    ];
    for _ in 0..8 {
        let values = (0..rows).map(|_| (uniform(6_000_000) as f64 - 3e6) / 1e6);
        columns.push(Arc::new(Float64Array::from_iter_values(values)));
    }
    let (mut clicks, mut labels) = (TimestampMillisecondBuilder::new(), TimestampMillisecondBuilder::new());
    let mut values = Vec::with_capacity(rows);
    for ts in &times {
        let click = (uniform(10) == 0).then(|| ts + uniform(60_000) as i64);
        let label = click.filter(|_| uniform(5) == 0).map(|click| click + uniform(180_000) as i64);
        clicks.append_option(click);
        labels.append_option(label);
        values.push(label.map(|_| uniform(10_000) as f64 / 100.0));
    }
    columns.push(time_column(clicks.finish()));
    columns.push(time_column(labels.finish()));
    columns.push(Arc::new(Float64Array::from(values)));
    let rows = RecordBatch::try_new(schema.clone(), columns).expect("the columns follow the schema");
    SampleBatch { sample: 0, rows, impression_time: times, event_id: None, bucket: 0 }
}

fn main() {
    let rows = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(1_000_000);
    let schema = schema();
    let entropy = SeededEntropy::new(42);
    let batches: Vec<SampleBatch> = (0..rows)
        .step_by(ROWS_PER_BATCH)
        .map(|first| batch(&schema, first, ROWS_PER_BATCH.min(rows - first), &entropy))
        .collect();
    for (name, compression) in [
        ("zstd(1)", Compression::Zstd { level: 1 }),
        ("zstd(3)", Compression::Zstd { level: 3 }),
        ("snappy", Compression::Snappy),
        ("none", Compression::None),
    ] {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let store = Arc::new(LocalStore::open(folder.path()).expect("it can be written"));
        let spec = ParquetSpec {
            path: folder.path().into(),
            folders: vec![TimeFolder::Date, TimeFolder::Hour],
            roll_bytes: 128 << 20,
            roll_age_ms: 300_000,
            compression,
        };
        let naming = FileNaming { pipeline: "bench".into(), sample: "s".into(), chain: 1, lane: 0, epoch: 1 };
        let mut sink = ParquetSink::new(&spec, schema.clone(), naming, store);
        let start = Instant::now();
        for batch in &batches {
            sink.write(batch, 0).expect("the disk takes it");
        }
        let written = start.elapsed();
        let files = sink.finish().expect("the disk takes it");
        let finished = start.elapsed();
        let bytes: u64 = files.iter().map(|file| file.bytes).sum();
        println!(
            "{name:8} {:.2} M rows/s, with close and fsync {:.2} M rows/s, {} files, {} bytes/row",
            rows as f64 / written.as_secs_f64() / 1e6,
            rows as f64 / finished.as_secs_f64() / 1e6,
            files.len(),
            bytes / rows as u64,
        );
    }
}
