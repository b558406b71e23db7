//! Oracle: the values of a window by their definition, from all events, slowly.

use crate::event::{DurationMs, EventTime, Value, floor_to};
use crate::feature::{AggregateKind, WindowSpec};

/// An event with the value that one aggregate sees.
#[derive(Clone, Debug)]
pub struct Seen {
    pub ts: EventTime,
    pub id: u128,
    pub content: u64,
    /// `Null` where the input is; any other value for `count: "*"`.
    pub value: Value,
}

/// What the window shows at `t`, of the events of one entity that pass the aggregate's mask.
pub fn window_value(kind: AggregateKind, window: &WindowSpec, head: DurationMs, seen: &[Seen], t: EventTime) -> Value {
    let (from, until) = (floor_to(t - window.window_ms, window.tail_ms), floor_to(t, head));
    let mut seen: Vec<&Seen> = seen.iter().filter(|e| from <= e.ts && e.ts < until && e.value != Value::Null).collect();
    seen.sort_by_key(|event| (event.ts, event.id, event.content));
    let values: Vec<Value> = seen.iter().map(|event| event.value.clone()).collect();
    let fixed: Vec<i128> = values.iter().filter_map(fixed).collect();
    let (sum, is_float) = (fixed.iter().sum::<i128>(), matches!(values.first(), Some(Value::Float(_))));
    let scale = if is_float { (1u64 << 40) as f64 } else { 1.0 };
    match kind {
        AggregateKind::Count => Value::Int(values.len() as i64),
        AggregateKind::Sum if is_float => Value::Float(sum as f64 / scale),
        AggregateKind::Sum => Value::Int(sum.clamp(i64::MIN as i128, i64::MAX as i128) as i64),
        AggregateKind::Mean if fixed.is_empty() => Value::Null,
        AggregateKind::Mean => Value::Float(sum as f64 / scale / fixed.len() as f64),
        AggregateKind::Min => ordered(values).first().cloned().unwrap_or(Value::Null),
        AggregateKind::Max => ordered(values).last().cloned().unwrap_or(Value::Null),
        AggregateKind::Last => values.last().cloned().unwrap_or(Value::Null),
        AggregateKind::LastK { k } => Value::List(values.into_iter().rev().take(k).collect()),
    }
}

fn fixed(value: &Value) -> Option<i128> {
    match *value {
        Value::Int(value) => Some(value as i128),
        Value::Float(value) if value.abs() < 2f64.powi(63) => Some((value * 2f64.powi(40)).round_ties_even() as i128),
        _ => None,
    }
}

fn ordered(mut values: Vec<Value>) -> Vec<Value> {
    values.retain(|value| !matches!(value, Value::Float(float) if float.is_nan()));
    values.sort_by(|a, b| match (a, b) {
        (Value::Float(a), Value::Float(b)) => a.total_cmp(b),
        (Value::Int(a), Value::Int(b)) | (Value::Time(a), Value::Time(b)) => a.cmp(b),
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        _ => unreachable!("one type per column"),
    });
    values
}
