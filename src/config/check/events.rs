//! Events: what happens in a test, as records of the plan's inputs.

use super::cases::{instant_of, place, unknown};
use super::{Checker, name_path};
use crate::config::case::{TestRecord, TestStep};
use crate::config::plan::Plan;
use crate::config::raw::{AnyValue, Moment, TestEvent};
use crate::config::tree::{Path, shown_text};
use crate::decode::{ColumnFrom, ColumnSpec, TimeUnitSpec};
use crate::event::{EventTime, PartitionId};
use crate::source::{InputKind, InputSpec};
use arrow::temporal_conversions::timestamp_ms_to_datetime;
use serde_json::{Map, Value as Json};
use std::collections::BTreeSet;

const KINDS: &str = "one record (`<stream>: {…}`), `wait` or `end`";

pub fn check(c: &mut Checker<'_>, raw: &[TestEvent], plan: &Plan, start: EventTime, path: &Path) -> Vec<TestStep> {
    let mut steps = Vec::new();
    let mut ended = BTreeSet::new();
    for (number, event) in raw.iter().enumerate() {
        let path = path.index(number);
        let kinds = event.records.0.len() + event.wait.is_some() as usize + event.end.is_some() as usize;
        if kinds != 1 {
            let found = if kinds == 0 { "nothing that happens" } else { "several things at once" };
            c.error(&path, found).expected(KINDS);
            continue;
        }
        if let Some((name, payload)) = event.records.iter().next() {
            let Some(step) = record(c, event, (name, payload), plan, start, &path) else { continue };
            if ended.contains(&step.partition.input) {
                c.error(&path.key(name), format!("a record of `{name}`, whose input has ended above"));
            }
            steps.push(TestStep::Record(step));
            continue;
        }
        let beside = [
            ("at", event.at.is_some()),
            ("key", event.key.is_some()),
            ("headers", !event.headers.0.is_empty()),
            ("broker_time", event.broker_time.is_some()),
            ("partition", event.partition.is_some()),
        ];
        for (key, _) in beside.into_iter().filter(|(_, given)| *given) {
            c.error(&path.key(key), format!("`{key}` without a record")).help("it says something about a record");
        }
        if let Some(wait) = &event.wait {
            steps.push(TestStep::Wait(wait.ms));
        }
        if let Some(names) = &event.end {
            let mut inputs = BTreeSet::new();
            for (index, name) in names.names.iter().enumerate() {
                match stream_of(plan, name) {
                    Some(stream) => inputs.extend(input_of(plan, stream)),
                    None => unknown(c, &name_path(&path.key("end"), names, index), "stream", name, streams(plan)),
                }
            }
            ended.extend(inputs.iter().copied());
            steps.push(TestStep::End(inputs.into_iter().collect()));
        }
    }
    steps
}

fn streams(plan: &Plan) -> impl Iterator<Item = &str> + Clone {
    plan.streams.iter().map(|stream| stream.name.as_str())
}

fn stream_of(plan: &Plan, name: &str) -> Option<usize> {
    streams(plan).position(|known| known == name)
}

/// Where records of a stream are written in a test: its first topic or file.
fn input_of(plan: &Plan, stream: usize) -> Option<u16> {
    let carries = |input: &InputSpec| input.streams.contains(&(stream as u16));
    plan.inputs.iter().position(carries).map(|input| input as u16)
}

fn record(
    c: &mut Checker<'_>,
    event: &TestEvent,
    (name, payload): (&str, &AnyValue),
    plan: &Plan,
    start: EventTime,
    path: &Path,
) -> Option<TestRecord> {
    let at_record = path.key(name);
    let Some(stream) = stream_of(plan, name) else {
        let keys = ["at", "key", "headers", "broker_time", "partition", "wait", "end"];
        unknown(c, &at_record, "stream", name, streams(plan).chain(keys));
        return None;
    };
    let input = input_of(plan, stream)?;
    let is_kafka = matches!(plan.inputs[input as usize].kind, InputKind::Kafka(_));
    let at = event.at.map(|Moment(at)| instant_of(at, start));
    let broker_time = event.broker_time.map(|Moment(at)| instant_of(at, start));
    let mut record = TestRecord {
        place: place(c, path),
        partition: PartitionId { input, partition: event.partition.unwrap_or(0) },
        payload: None,
        key: event.key.as_ref().map(|key| key.text().into_bytes()),
        headers: event.headers.iter().map(|(name, value)| (name.into(), value.text().into_bytes())).collect(),
        broker_time: broker_time.or(at.filter(|_| is_kafka)),
    };
    let decode = &plan.streams[stream].decode;
    let time = &decode.columns[decode.time];
    let mut payload = payload.0.clone();
    if let Some(at) = at {
        put_time(c, time, at, &mut payload, &mut record, (&at_record, &path.key("at")));
    }
    record.payload = match payload {
        Json::Null => None,
        Json::String(text) => Some(text.into_bytes()),
        value => Some(value.to_string().into_bytes()),
    };
    Some(record)
}

/// Puts the event's time where its stream reads it.
fn put_time(
    c: &mut Checker<'_>,
    column: &ColumnSpec,
    at: EventTime,
    payload: &mut Json,
    record: &mut TestRecord,
    (at_record, at_key): (&Path, &Path),
) {
    let name = &column.name;
    let steps = match &column.from {
        ColumnFrom::Path(steps) => steps,
        ColumnFrom::BrokerTime => {
            record.broker_time.get_or_insert(at);
            return;
        }
        ColumnFrom::Header(header) => {
            let text = match written(at, column.unit) {
                Json::String(text) => text,
                number => number.to_string(),
            };
            record.headers.push((header.clone(), text.into_bytes()));
            return;
        }
        _ => {
            c.error(at_key, format!("`at`, but the stream does not read its time `{name}` from a field of the record"))
                .help("leave `at` out and write the time where the stream reads it");
            return;
        }
    };
    let Json::Object(fields) = payload else {
        c.error(at_key, "`at` beside a payload that is no mapping")
            .help("leave `at` out: this payload is taken as it is");
        return;
    };
    let Some((last, above)) = steps.split_last() else { return };
    let mut fields: &mut Map<String, Json> = fields;
    for step in above {
        let inner = fields.entry(step.clone()).or_insert_with(|| Json::Object(Map::new()));
        let Json::Object(inner) = inner else {
            c.error(at_record, format!("`{step}` that is no mapping"))
                .expected(format!("a mapping: column `{name}` is in it"))
                .help("leave `at` out if that is meant");
            return;
        };
        fields = inner;
    }
    if fields.contains_key(last) {
        c.error(at_key, format!("`at` beside the record's own {}", shown_text(last)))
            .help("both say when the event happened: remove one");
        return;
    }
    fields.insert(last.clone(), written(at, column.unit));
}

/// An instant as the stream writes it.
fn written(ms: EventTime, unit: TimeUnitSpec) -> Json {
    match unit {
        TimeUnitSpec::Millis => ms.into(),
        TimeUnitSpec::Micros => ms.saturating_mul(1_000).into(),
        TimeUnitSpec::Nanos => ms.saturating_mul(1_000_000).into(),
        TimeUnitSpec::Seconds if ms % 1_000 == 0 => (ms / 1_000).into(),
        TimeUnitSpec::Seconds => (ms as f64 / 1e3).into(),
        TimeUnitSpec::Rfc3339 => match timestamp_ms_to_datetime(ms) {
            Some(time) => time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string().into(),
            None => ms.into(),
        },
    }
}
