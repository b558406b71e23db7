//! Generated events go through the file source and the decoder, and every row is accounted for as truth.json says.

use conjoin::cli::generate::{GenEvents, GenOptions, generate};
use conjoin::decode::{
    ColumnFrom, ColumnSpec, DecodeLimits, DecodeSpec, Decoder, ExplodeSpec, PayloadSpec, TimeUnitSpec,
};
use conjoin::event::{ColumnType, Partitioner, Positions, StreamAccount};
use conjoin::source::file::{FileLimits, FileSource};
use conjoin::source::{InputKind, InputSpec, Source, SourceEvent};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn column(name: &str, column_type: ColumnType, from: ColumnFrom) -> ColumnSpec {
    ColumnSpec { name: name.into(), column_type, nullable: false, default: None, unit: TimeUnitSpec::Millis, from }
}

fn spec(columns: Vec<ColumnSpec>, explode: Option<ExplodeSpec>) -> DecodeSpec {
    let field = |column: &ColumnSpec| arrow::datatypes::Field::new(&column.name, column.column_type.arrow(), false);
    let fields: Vec<_> = columns.iter().map(field).collect();
    DecodeSpec {
        stream: 0,
        name: "generated".into(),
        payload: PayloadSpec::Json,
        schema: Arc::new(arrow::datatypes::Schema::new(fields)),
        columns,
        explode,
        filter: None,
        time: 0,
        key_sets: vec![vec![1, 2]],
        id: 0,
        key: 0,
        route: 0,
        partitioner: Partitioner::Murmur2,
        feature_inputs: Vec::new(),
        min_time: 1_600_000_000_000,
        max_future_ms: 0,
        limits: DecodeLimits::default(),
        positions: false,
    }
}

fn account(path: &Path, spec: DecodeSpec) -> StreamAccount {
    let pattern = path.to_str().expect("a temporary path is text").to_string();
    let input =
        InputSpec { name: pattern.clone(), kind: InputKind::File { pattern }, streams: vec![0], headers: false };
    let limits = FileLimits { batch_records_max: 1000, ..FileLimits::default() };
    let mut source = FileSource::open(&[(0, &input)], &Positions::default(), limits).expect("the file is there");
    let mut decoder = Decoder::new(spec);
    let mut account = StreamAccount::default();
    while let SourceEvent::Batch(batch) = source.poll(Duration::ZERO).expect("the file can be read") {
        let decoded = decoder.decode(&batch);
        account += StreamAccount {
            records: decoded.records,
            consumed: decoded.consumed,
            filtered: decoded.filtered,
            dead_lettered: decoded.rejected.len() as u64,
            accepted: decoded.num_rows() as u64,
        };
    }
    account
}

#[test]
fn every_generated_row_is_accepted_and_every_malformed_record_is_one_dead_letter() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let truth = generate(&GenOptions {
        out: folder.path().to_path_buf(),
        events: GenEvents::Demo,
        users: 200,
        items: 100,
        impressions: 50_000,
        seed: 3,
        minutes: 120,
        rate: None,
        tail: None,
        start: 1_767_225_600_000,
    })
    .expect("the folder can be written");
    let path = |name: &str| ColumnFrom::Path(vec![name.to_string()]);
    let item = |name: &str| ColumnFrom::Item(vec![name.to_string()]);
    let slates = spec(
        vec![
            column("ts", ColumnType::Timestamp, path("ts")),
            column("request_id", ColumnType::String, path("request_id")),
            column("item_id", ColumnType::String, item("id")),
            column("price", ColumnType::Float64, item("price")),
            column("position", ColumnType::Int32, ColumnFrom::ItemIndex),
        ],
        Some(ExplodeSpec { path: vec!["items".into()], max: 10 }),
    );
    let impressions = account(&folder.path().join("impressions.ndjson"), slates);
    assert!(impressions.balances());
    assert_eq!(impressions.records, truth.slates + truth.duplicate_slates + truth.malformed_slates);
    assert_eq!(impressions.accepted, truth.impressions + truth.duplicate_impressions);
    assert_eq!(impressions.dead_lettered, truth.malformed_slates);

    let labels = spec(
        vec![
            column("ts", ColumnType::Timestamp, path("ts")),
            column("request_id", ColumnType::String, path("request_id")),
            column("item_id", ColumnType::String, path("item_id")),
        ],
        None,
    );
    let clicks = account(&folder.path().join("clicks.ndjson"), labels.clone());
    assert_eq!(clicks.accepted, truth.clicks + truth.duplicate_clicks);
    assert_eq!(clicks.dead_lettered, truth.malformed_clicks);
    let conversions = account(&folder.path().join("conversions.ndjson"), labels);
    assert_eq!(conversions.accepted, truth.conversions + truth.duplicate_conversions);
    assert_eq!(conversions.dead_lettered, truth.malformed_conversions);
}
