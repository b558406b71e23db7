//! Features: the values of every window from all events at once, by the definition in `feature::oracle`: no tiles.
//!
//! Shares with a run: decoded feature inputs, and the expressions of derived columns.

use super::input::StreamRows;
use crate::config::Plan;
use crate::event::{DurationMs, EventTime, FeatureAccount, Fingerprint, Value, floor_to};
use crate::feature::GroupSpec;
use crate::feature::oracle::{Seen, window_value};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray,
    TimestampMillisecondArray, new_empty_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{cast, nullif};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type, Schema, TimestampMillisecondType};
use arrow::error::ArrowError;
use std::collections::BTreeMap;
use std::sync::Arc;

/// All events of one group.
pub(super) struct Group<'a> {
    spec: &'a GroupSpec,
    /// Since when each output is full.
    full_from: Vec<EventTime>,
    /// Whether its books begin with the chain.
    pub is_whole: bool,
    /// (entity, aggregate), in the order of time.
    events: BTreeMap<(Fingerprint, usize), Vec<Seen>>,
    pub accounts: Vec<FeatureAccount>,
    /// Ids that came with different contents: which one a run took may depend on when they came.
    pub conflicts: u64,
}

/// The group misses nothing `since` then.
pub(super) fn group<'a>(plan: &Plan, spec: &'a GroupSpec, since: EventTime, streams: &[StreamRows]) -> Group<'a> {
    let mut events: BTreeMap<(Fingerprint, usize), Vec<Seen>> = BTreeMap::new();
    let (mut accounts, mut conflicts) = (Vec::new(), 0);
    for used in &spec.uses {
        let (stream, id_set) = (&streams[used.stream as usize], plan.streams[used.stream as usize].decode.id);
        let mut account = FeatureAccount::default();
        let mut known: BTreeMap<Fingerprint, (EventTime, u64)> = BTreeMap::new();
        for row in &stream.rows {
            let (batch, at) = (&stream.batches[row.batch as usize], row.row as usize);
            let counts = |input: usize| {
                let mask = &batch.feature_inputs[input].mask;
                mask.as_ref().is_none_or(|mask| mask.value(at) && mask.is_valid(at))
            };
            if row.is_late() {
                account.late += 1;
                continue;
            }
            if !used.aggregates.iter().any(|(_, input)| counts(*input)) {
                account.masked += 1;
                continue;
            }
            let id = stream.key(id_set, row);
            if let Some(first) = known.get(&id) {
                account.duplicate += 1;
                conflicts += (*first != (row.ts, row.content)) as u64;
                continue;
            }
            known.insert(id, (row.ts, row.content));
            account.applied += 1;
            let entity = stream.key(used.key_set, row);
            for &(aggregate, input) in used.aggregates.iter().filter(|(_, input)| counts(*input)) {
                let values = batch.feature_inputs[input].values.as_ref();
                let value = values.map_or(Value::Bool(true), |values| value_at(values, at));
                let seen = Seen { ts: row.ts, id, content: row.content, value };
                events.entry((entity, aggregate)).or_default().push(seen);
            }
        }
        accounts.push(account);
    }
    events.values_mut().for_each(|seen| seen.sort_by_key(|event| (event.ts, event.id, event.content)));
    Group { spec, full_from: spec.full_from(since), is_whole: since == EventTime::MIN, events, accounts, conflicts }
}

impl Group<'_> {
    /// The group's outputs for (entity, instant) pairs.
    pub fn evaluate(&self, entities: &[Fingerprint], instants: &[EventTime]) -> Result<RecordBatch, ArrowError> {
        let schema = &self.spec.outputs;
        let mut columns: Vec<ArrayRef> = Vec::new();
        for (number, aggregate) in self.spec.aggregates.iter().enumerate() {
            for window in &aggregate.windows {
                let value = |(entity, instant): (&Fingerprint, &EventTime)| {
                    let all = self.events.get(&(*entity, number)).map_or(&[][..], Vec::as_slice);
                    let near = slice(all, *instant, window.window_ms, window.tail_ms, self.spec.head_ms);
                    window_value(aggregate.kind, window, self.spec.head_ms, near, *instant)
                };
                let values: Vec<Value> = entities.iter().zip(instants).map(value).collect();
                columns.push(array_of(values, schema.field(columns.len()).data_type())?);
            }
        }
        for derived in &self.spec.derived {
            let so_far = Arc::new(Schema::new(schema.fields()[..columns.len()].to_vec()));
            let (column, _) = derived.expression.evaluate_or_null(&RecordBatch::try_new(so_far, columns.clone())?);
            let wanted = schema.field(columns.len()).data_type();
            columns.push(if column.data_type() == wanted { column } else { cast(&column, wanted)? });
        }
        for (column, full_from) in columns.iter_mut().zip(&self.full_from) {
            let warming: BooleanArray = instants.iter().map(|instant| Some(instant < full_from)).collect();
            *column = nullif(column, &warming)?;
        }
        RecordBatch::try_new(schema.clone(), columns)
    }
}

/// The events that the window could show, so that the definition need not look at the others.
fn slice(all: &[Seen], t: EventTime, window: DurationMs, tail: DurationMs, head: DurationMs) -> &[Seen] {
    let from = all.partition_point(|event| event.ts < floor_to(t - window, tail));
    let until = all.partition_point(|event| event.ts < floor_to(t, head));
    &all[from..until.max(from)]
}

fn value_at(array: &ArrayRef, at: usize) -> Value {
    if array.is_null(at) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Boolean => Value::Bool(array.as_boolean().value(at)),
        DataType::Int32 => Value::Int(array.as_primitive::<Int32Type>().value(at).into()),
        DataType::Int64 => Value::Int(array.as_primitive::<Int64Type>().value(at)),
        DataType::Float32 => Value::Float(array.as_primitive::<Float32Type>().value(at).into()),
        DataType::Float64 => Value::Float(array.as_primitive::<Float64Type>().value(at)),
        DataType::Timestamp(..) => Value::Time(array.as_primitive::<TimestampMillisecondType>().value(at)),
        DataType::Utf8 => Value::Text(array.as_string::<i32>().value(at).into()),
        other => unreachable!("the config check refuses to aggregate values of type {other}"),
    }
}

/// Values as a column.
fn array_of(values: Vec<Value>, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
    let integer = |value: &Value| match value {
        Value::Int(value) | Value::Time(value) => Some(*value),
        _ => None,
    };
    let float = |value: &Value| match value {
        Value::Float(value) => Some(*value),
        Value::Int(value) => Some(*value as f64),
        _ => None,
    };
    let array: ArrayRef = match data_type {
        DataType::Int32 | DataType::Int64 => Arc::new(values.iter().map(integer).collect::<Int64Array>()),
        DataType::Timestamp(..) => Arc::new(values.iter().map(integer).collect::<TimestampMillisecondArray>()),
        DataType::Float32 | DataType::Float64 => Arc::new(values.iter().map(float).collect::<Float64Array>()),
        DataType::Boolean => {
            let bool = |value: &Value| if let Value::Bool(value) = value { Some(*value) } else { None };
            Arc::new(values.iter().map(bool).collect::<BooleanArray>())
        }
        DataType::Utf8 => {
            let text = |value: &Value| if let Value::Text(value) = value { Some(value.to_string()) } else { None };
            Arc::new(values.iter().map(text).collect::<StringArray>())
        }
        DataType::List(item) => {
            let (mut items, mut lengths) = (Vec::new(), Vec::new());
            for value in values {
                let Value::List(list) = value else { unreachable!("last_k gives lists") };
                lengths.push(list.len());
                items.extend(list);
            }
            let items =
                if items.is_empty() { new_empty_array(item.data_type()) } else { array_of(items, item.data_type())? };
            return Ok(Arc::new(ListArray::try_new(item.clone(), OffsetBuffer::from_lengths(lengths), items, None)?));
        }
        other => unreachable!("no aggregate gives {other}"),
    };
    if array.data_type() == data_type { Ok(array) } else { cast(&array, data_type) }
}
