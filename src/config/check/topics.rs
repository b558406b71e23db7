//! Topics: how the records of a compacted topic become rows of a dimension.

use super::{Checker, columns, enrich, inputs, schemas};
use crate::config::plan::{StreamPlan, TopicPlan};
use crate::config::raw::{self, Dimension, DimensionKafka, Envelope, Names, Pipeline};
use crate::config::sql::{self, Scope};
use crate::config::tree::Path;
use crate::decode::{ColumnFrom, ColumnSpec, DecodeLimits, DecodeSpec, TimeUnitSpec};
use crate::dimension::DimensionColumn;
use crate::event::{ColumnType, EventTime, StreamId};
use crate::route::StreamTime;
use crate::source::InputSpec;
use arrow::datatypes::{Field, Schema};
use std::sync::Arc;

/// Columns that no user can name: the broker's time stands where a stream has its event time, and what a change event does.
const TIME: &str = "#time";
const OPERATION: &str = "#op";

/// The columns of a dimension in a topic, and how it is read; its key is found out with the first and needed for the other.
pub fn columns(
    c: &mut Checker<'_>,
    raw: &Dimension,
    kafka: &DimensionKafka,
    path: &Path,
) -> (Vec<DimensionColumn>, Vec<ColumnSpec>) {
    let specs = columns::check(c, &stream(raw, kafka), path);
    let prefix: &[&str] = match kafka.envelope.unwrap_or(Envelope::None) {
        Envelope::None => &[],
        Envelope::Debezium => &["after"],
        Envelope::DebeziumWithSchema => &["payload", "after"],
    };
    let mut read = Vec::with_capacity(specs.len());
    for spec in specs {
        let from = match spec.from {
            ColumnFrom::Path(steps) => {
                ColumnFrom::Path(prefix.iter().map(|step| step.to_string()).chain(steps).collect())
            }
            other => other,
        };
        // What a record leaves out is null; a key that it leaves out is refused by the decoder.
        read.push(ColumnSpec { from, nullable: true, ..spec });
    }
    let column = |spec: &ColumnSpec| DimensionColumn {
        source_name: spec.name.clone(),
        name: spec.name.clone(),
        column_type: spec.column_type,
        unit: crate::dimension::DimensionTime::Millis,
    };
    (read.iter().map(column).collect(), read)
}

/// To the rules of streams it is one.
fn stream(raw: &Dimension, kafka: &DimensionKafka) -> raw::Stream {
    raw::Stream {
        kafka: Some(raw::KafkaTopics {
            connection: kafka.connection.clone(),
            topics: Names { names: vec![kafka.topic.clone()], list: false },
            start: None,
            // Compaction leaves them.
            allow_gaps: true,
        }),
        columns: raw.columns.clone(),
        format: kafka.format,
        schema: kafka.schema.clone(),
        ..raw::Stream::default()
    }
}

/// How the topic is read.
pub fn plan(
    c: &mut Checker<'_>,
    file: &Pipeline,
    (raw, kafka): (&Dimension, &DimensionKafka),
    columns: Vec<ColumnSpec>,
    key: &[usize],
    path: &Path,
) -> Option<TopicPlan> {
    let stream = stream(raw, kafka);
    let at = path.key("kafka");
    let read = stream.kafka.as_ref()?;
    let (kind, name) = inputs::topics(c, file, read, &at).into_iter().next()?;
    let (payload, registry) = schemas::payload(c, file, &stream, &at);
    let spec = |id: StreamId, mut columns: Vec<ColumnSpec>, filter: Option<&str>, key: Vec<usize>| {
        columns.push(column(TIME, ColumnType::Timestamp, ColumnFrom::BrokerTime));
        let field =
            |column: &ColumnSpec| Field::new(enrich::output_name(&column.name), column.column_type.arrow(), true);
        let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
        let filter = filter.map(|filter| {
            sql::predicate(filter, &Scope::of(&schema)).expect("the condition is ours and the columns are there")
        });
        DecodeSpec {
            stream: id,
            name: path.to_string(),
            payload: payload.clone(),
            time: columns.len() - 1,
            schema: Arc::new(schema),
            columns,
            explode: None,
            filter,
            key_sets: vec![key],
            id: 0,
            key: 0,
            route: 0,
            partitioner: super::streams::partitioner(file),
            feature_inputs: Vec::new(),
            min_time: EventTime::MIN,
            max_future_ms: EventTime::MAX,
            limits: DecodeLimits::default(),
        }
    };
    let time = StreamTime { lateness_ms: 0, idle_after_ms: 0, sparse: true, max_drift_ms: 0 };
    let planned = |decode: DecodeSpec| StreamPlan {
        name: decode.name.clone(),
        decode,
        registry: registry.clone(),
        time,
        enrich: Vec::new(),
    };
    let operation = match kafka.envelope.unwrap_or(Envelope::None) {
        Envelope::None => None,
        Envelope::Debezium => Some(vec!["op".to_string()]),
        Envelope::DebeziumWithSchema => Some(vec!["payload".to_string(), "op".to_string()]),
    };
    let (rows, removals) = match operation {
        None => (spec(0, columns, None, key.to_vec()), None),
        Some(steps) => {
            let operation = || column(OPERATION, ColumnType::String, ColumnFrom::Path(steps.clone()));
            let mut with = columns;
            with.push(operation());
            let is_removal = format!("\"{OPERATION}\" = 'd'");
            let is_row = format!("\"{OPERATION}\" IS NULL OR \"{OPERATION}\" <> 'd'");
            let removals = spec(1, vec![operation()], Some(&is_removal), vec![0]);
            (spec(0, with, Some(&is_row), key.to_vec()), Some(removals))
        }
    };
    if c.found_errors() {
        return None;
    }
    schemas::misfits(c, &rows, path);
    let input = InputSpec { name, kind, streams: vec![0], headers: false };
    Some(TopicPlan { input, rows: planned(rows), removals: removals.map(planned) })
}

fn column(name: &str, column_type: ColumnType, from: ColumnFrom) -> ColumnSpec {
    ColumnSpec { name: name.into(), column_type, nullable: true, default: None, unit: TimeUnitSpec::Millis, from }
}
