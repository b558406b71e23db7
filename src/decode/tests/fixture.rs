//! What the tests of the decoder share: short ways to write specs, batches and expressions.

use crate::decode::*;
use crate::event::*;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use std::sync::Arc;

pub fn column(name: &str, column_type: ColumnType, from: ColumnFrom) -> ColumnSpec {
    let unit = TimeUnitSpec::Millis;
    ColumnSpec { name: name.to_string(), column_type, nullable: false, default: None, unit, from }
}

pub fn nullable(name: &str, column_type: ColumnType, from: ColumnFrom) -> ColumnSpec {
    ColumnSpec { nullable: true, ..column(name, column_type, from) }
}

fn steps(path: &str) -> Vec<String> {
    path.split('.').map(str::to_string).collect()
}

pub fn path(path: &str) -> ColumnFrom {
    ColumnFrom::Path(steps(path))
}

pub fn item(path: &str) -> ColumnFrom {
    ColumnFrom::Item(steps(path))
}

pub fn schema_of(columns: &[ColumnSpec]) -> SchemaRef {
    let field = |column: &ColumnSpec| Field::new(&column.name, column.column_type.arrow(), column.nullable);
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

/// A stream whose id, key and route are column 0 and whose time is column 1.
pub fn spec(columns: Vec<ColumnSpec>) -> DecodeSpec {
    DecodeSpec {
        stream: 3,
        name: "events".to_string(),
        payload: PayloadSpec::Json,
        schema: schema_of(&columns),
        columns,
        explode: None,
        filter: None,
        time: 1,
        key_sets: vec![vec![0], vec![0]],
        id: 0,
        key: 1,
        route: 0,
        partitioner: Partitioner::Murmur2,
        feature_inputs: Vec::new(),
        min_time: 946_684_800_000,
        max_future_ms: 60_000,
        limits: DecodeLimits::default(),
        positions: false,
    }
}

/// Records at positions from 100 of partition 4.
pub fn raw(records: &[&[u8]]) -> RawBatch {
    let partition = PartitionId { input: 0, partition: 4 };
    let delta = PositionDelta { partition, from: 100, to: 100 + records.len() as i64 };
    let mut batch = RawBatch { delta, bytes: Vec::new(), records: Vec::new() };
    for (record, position) in records.iter().zip(100..) {
        let start = batch.bytes.len() as u32;
        batch.bytes.extend_from_slice(record);
        let payload = Some(start..batch.bytes.len() as u32);
        batch.records.push(RawRecord { payload, position, ..RawRecord::default() });
    }
    batch
}

pub fn decode(spec: &DecodeSpec, records: &[&[u8]]) -> DecodedBatch {
    let raw = raw(records);
    let before = raw.clone();
    let decoded = Decoder::new(spec.clone()).decode(&raw);
    assert_eq!(raw.bytes, before.bytes, "the raw bytes stay as they are");
    assert_eq!(decoded.consumed, decoded.num_rows() as u64 + decoded.filtered + decoded.rejected.len() as u64);
    decoded
}

pub fn kinds(decoded: &DecodedBatch) -> Vec<(i64, Option<u32>, RejectKind)> {
    decoded.rejected.iter().map(|rejected| (rejected.position, rejected.item, rejected.kind)).collect()
}

struct Test<F>(F);

impl<F> Evaluate for Test<F>
where
    F: Fn(&RecordBatch, usize) -> Result<Option<bool>, String> + Send + Sync,
{
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, ExpressionError> {
        let values: Result<BooleanArray, String> = (0..batch.num_rows()).map(|row| (self.0)(batch, row)).collect();
        values
            .map(|values| Arc::new(values) as ArrayRef)
            .map_err(|message| ExpressionError { sql: "test".to_string(), message })
    }
}

fn expression(
    sql: String,
    column: usize,
    test: impl Fn(&RecordBatch, usize) -> Result<Option<bool>, String> + Send + Sync + 'static,
) -> Expression {
    let (columns, evaluate) = (vec![column], Arc::new(Test(test)));
    Expression { sql, data_type: DataType::Boolean, nullable: true, columns, evaluate }
}

/// A predicate over an int32 column.
pub fn predicate(
    column: usize,
    test: impl Fn(Option<i32>) -> Result<Option<bool>, String> + Send + Sync + 'static,
) -> Expression {
    expression(format!("test {column} {}", std::any::type_name_of_val(&test)), column, move |batch, row| {
        let values = batch.column(column).as_primitive::<Int32Type>();
        test(values.is_valid(row).then(|| values.value(row)))
    })
}

/// `column = 'text'`.
pub fn text_is(column: usize, text: &'static str) -> Expression {
    expression(format!("c{column} = '{text}'"), column, move |batch, row| {
        let values = batch.column(column).as_string::<i32>();
        Ok(values.is_valid(row).then(|| values.value(row) == text))
    })
}
