//! How fast one core reads and decodes newline JSON.
//!
//! `DATA=impressions.ndjson cargo bench --bench decode` with a file of the shared workload; prints the best of three
//! passes for reading alone and for reading and decoding.
#![expect(clippy::disallowed_macros, reason = "a benchmark prints its result")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use conjoin::decode::{ColumnFrom, ColumnSpec, DecodeLimits, DecodeSpec, Decoder, PayloadSpec, TimeUnitSpec};
use conjoin::event::{ColumnType, Partitioner, Positions};
use conjoin::source::file::{FileLimits, FileSource};
use conjoin::source::{InputKind, InputSpec, Source, SourceEvent};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn impressions() -> DecodeSpec {
    let mut columns = vec![
        ("request_id", ColumnType::String),
        ("user_id", ColumnType::String),
        ("item_id", ColumnType::String),
        ("ts", ColumnType::Timestamp),
        ("position", ColumnType::Int32),
        ("device", ColumnType::String),
        ("price", ColumnType::Float64),
    ];
    columns.extend(["f0", "f1", "f2", "f3", "f4", "f5", "f6", "f7"].map(|name| (name, ColumnType::Float64)));
    let columns: Vec<ColumnSpec> = columns
        .into_iter()
        .map(|(name, column_type)| ColumnSpec {
            name: name.to_string(),
            column_type,
            nullable: false,
            default: None,
            unit: TimeUnitSpec::Millis,
            from: ColumnFrom::Path(vec![name.to_string()]),
        })
        .collect();
    let field = |column: &ColumnSpec| arrow::datatypes::Field::new(&column.name, column.column_type.arrow(), false);
    let fields: Vec<_> = columns.iter().map(field).collect();
    DecodeSpec {
        stream: 0,
        name: "impressions".to_string(),
        payload: PayloadSpec::Json,
        columns,
        schema: Arc::new(arrow::datatypes::Schema::new(fields)),
        explode: None,
        filter: None,
        time: 3,
        key_sets: vec![vec![0], vec![1]],
        id: 0,
        key: 0,
        route: 1,
        partitioner: Partitioner::Murmur2,
        feature_inputs: Vec::new(),
        min_time: 0,
        max_future_ms: 60_000,
        limits: DecodeLimits::default(),
        positions: false,
    }
}

fn pass(input: &InputSpec, decode: bool) -> (u64, u64, Duration) {
    let mut source =
        FileSource::open(&[(0, input)], &Positions::default(), FileLimits::default()).expect("DATA is a file");
    let mut decoder = Decoder::new(impressions());
    let (mut rows, mut bytes) = (0, 0);
    let start = Instant::now();
    while let SourceEvent::Batch(batch) = source.poll(Duration::ZERO).expect("the file can be read") {
        bytes += batch.bytes.len() as u64;
        rows += if decode { decoder.decode(&batch).num_rows() } else { batch.records.len() } as u64;
    }
    (rows, bytes, start.elapsed())
}

fn main() {
    let Ok(pattern) = std::env::var("DATA") else {
        return println!("set DATA to a file of impressions");
    };
    let input =
        InputSpec { name: pattern.clone(), kind: InputKind::File { pattern }, streams: vec![0], headers: false };
    for (what, decode) in [("read", false), ("read and decode", true)] {
        let (rows, bytes, elapsed) =
            (0..3).map(|_| pass(&input, decode)).min_by_key(|(_, _, elapsed)| *elapsed).expect("three passes");
        let seconds = elapsed.as_secs_f64();
        println!(
            "{what}: {rows} rows in {seconds:.2} s = {:.0} rows/s, {:.0} MB/s",
            rows as f64 / seconds,
            bytes as f64 / seconds / 1e6
        );
    }
}
