//! Semantics: a hash per node over what gives its state meaning, so that a restart can tell what changed.
//!
//! The texts below are part of the state format: a change of their wording makes every state look changed. Sinks,
//! serving, models, lateness and memory are not in them, because state stays right when they change. What can change
//! without its state has a node of its own (`derived`, `columns`, `negatives`); what a change means is decided in
//! `commit::change`.

use crate::config::plan::{DimensionPlan, SamplePlan, StreamPlan};
use crate::config::sql::type_name;
use crate::decode::{ColumnFrom, ColumnSpec, PayloadSpec};
use crate::event::{Expression, Partitioner, Value};
use crate::feature::{AggregateKind, GroupSpec};
use crate::join::{Emit, Take};
use crate::source::{InputKind, InputSpec};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write;

pub fn hashes(
    inputs: &[InputSpec],
    streams: &[StreamPlan],
    dimensions: &[DimensionPlan],
    groups: &[GroupSpec],
    samples: &[SamplePlan],
    partitioner: Partitioner,
) -> BTreeMap<String, String> {
    let mut hashes = BTreeMap::new();
    let mut add = |name: String, text: String| hashes.insert(name, hex(&text));
    for stream in streams {
        add(format!("streams.{}", stream.name), stream_text(inputs, stream, dimensions));
    }
    for group in groups {
        add(format!("features.{}", group.name), group_text(streams, group));
        add(format!("derived.{}", group.name), derived_text(group));
    }
    for sample in samples {
        add(format!("joins.{}", sample.sample.name), join_text(streams, sample));
        add(format!("samples.{}", sample.sample.name), format!("lag {}\n", sample.sample.serving_lag_ms));
        add(format!("columns.{}", sample.sample.name), columns_text(streams, groups, sample));
        add(format!("negatives.{}", sample.sample.name), negatives_text(sample));
    }
    // State is dealt out by it.
    add("the partitioner".into(), partitioner.name().into());
    hashes
}

fn hex(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Appends one line; writing to a string cannot fail.
macro_rules! line {
    ($text:expr, $($arg:tt)+) => {{
        let _ = writeln!($text, $($arg)+);
    }};
}

fn sql(expression: Option<&Expression>) -> String {
    expression.map_or("-".into(), |expression| format!("{} : {}", expression.sql, type_name(&expression.data_type)))
}

fn stream_text(inputs: &[InputSpec], stream: &StreamPlan, dimensions: &[DimensionPlan]) -> String {
    let decode = &stream.decode;
    let mut text = String::new();
    for input in inputs.iter().filter(|input| input.streams.contains(&decode.stream)) {
        match &input.kind {
            InputKind::Kafka(topic) => line!(text, "kafka {}", topic.topic),
            InputKind::File { pattern } => line!(text, "file {pattern}"),
            InputKind::Memory => line!(text, "memory {}", input.name),
        }
    }
    // The schema itself may change: what is read are the columns.
    if let PayloadSpec::Binary(binary) = &decode.payload {
        line!(text, "format {}", binary.format.name());
    }
    for column in &decode.columns {
        line!(text, "column {}", column_text(column));
    }
    // Where a dimension lies, and how often it is read, may change: its rows still mean the same.
    for enrich in &stream.enrich {
        let spec = &dimensions[enrich.dimension].spec;
        let column = |index: &usize| spec.columns[*index].name.as_str();
        let key: Vec<&str> = spec.key.iter().map(column).collect();
        let (on, as_of) = (names(&decode.columns, &enrich.on), spec.valid_from.as_ref().map_or("-", column));
        line!(text, "enrich {} from {} by {} on {on} as of {as_of}", enrich.alias, spec.name, key.join(","));
    }
    if let Some(explode) = &decode.explode {
        line!(text, "explode {:?}", explode.path);
    }
    line!(text, "where {}", sql(decode.filter.as_ref()));
    line!(text, "time {}", decode.columns[decode.time].name);
    for (what, set) in [("id", decode.id), ("key", decode.key), ("route", decode.route)] {
        line!(text, "{what} {}", names(&decode.columns, &decode.key_sets[set]));
    }
    text
}

fn names(columns: &[ColumnSpec], set: &[usize]) -> String {
    set.iter().map(|&column| columns[column].name.as_str()).collect::<Vec<_>>().join(",")
}

fn column_text(column: &ColumnSpec) -> String {
    let from = match &column.from {
        ColumnFrom::Path(path) => format!("path {path:?}"),
        ColumnFrom::Item(path) => format!("item {path:?}"),
        ColumnFrom::ItemIndex => "index".into(),
        ColumnFrom::Header(name) => format!("header {name:?}"),
        ColumnFrom::Key => "key".into(),
        ColumnFrom::Partition => "partition".into(),
        ColumnFrom::BrokerTime => "broker_time".into(),
        ColumnFrom::Dimension => "dimension".into(),
    };
    let unit = column.unit.name();
    let default = match &column.default {
        None | Some(Value::Null) | Some(Value::List(_)) => "-".to_string(),
        Some(Value::Bool(value)) => value.to_string(),
        Some(Value::Int(value)) | Some(Value::Time(value)) => value.to_string(),
        Some(Value::Float(value)) => value.to_string(),
        Some(Value::Text(value)) => format!("{value:?}"),
    };
    format!("{} {} {} {unit} {} {default}", column.name, column.column_type.name(), from, column.nullable)
}

fn group_text(streams: &[StreamPlan], group: &GroupSpec) -> String {
    let mut text = String::new();
    for (name, column_type) in &group.entity {
        line!(text, "entity {name} {}", column_type.name());
    }
    line!(text, "head {}", group.head_ms);
    for (index, aggregate) in group.aggregates.iter().enumerate() {
        let kind = match aggregate.kind {
            AggregateKind::Count => "count".to_string(),
            AggregateKind::Sum => "sum".into(),
            AggregateKind::Mean => "mean".into(),
            AggregateKind::Min => "min".into(),
            AggregateKind::Max => "max".into(),
            AggregateKind::Last => "last".into(),
            AggregateKind::LastK { k } => format!("last_k {k}"),
        };
        line!(text, "aggregate {} {kind}", aggregate.name);
        for window in &aggregate.windows {
            line!(text, "window {} {} {}", window.output, window.window_ms, window.tail_ms);
        }
        for used in &group.uses {
            for (_, input) in used.aggregates.iter().filter(|(aggregate, _)| *aggregate == index) {
                let decode = &streams[used.stream as usize].decode;
                let input = &decode.feature_inputs[*input];
                line!(text, "from {} by {}", decode.name, names(&decode.columns, &used.columns));
                line!(text, "where {} input {}", sql(input.filter.as_ref()), sql(input.input.as_ref()));
            }
        }
    }
    text
}

fn derived_text(group: &GroupSpec) -> String {
    let mut text = String::new();
    for derived in &group.derived {
        line!(text, "derived {} {}", derived.name, sql(Some(&derived.expression)));
    }
    text
}

fn join_text(streams: &[StreamPlan], sample: &SamplePlan) -> String {
    let mut text = String::new();
    line!(text, "anchor {}", streams[sample.join.anchor as usize].name);
    line!(text, "bucket {}", sample.join.bucket_ms);
    if let Emit::Early { from_ms, to_ms, negatives } = sample.join.emit {
        line!(text, "early {from_ms} {to_ms} {negatives}");
    }
    if sample.join.correct_ms > 0 {
        line!(text, "correct {}", sample.join.correct_ms);
    }
    for label in &sample.join.labels {
        let decode = &streams[label.stream as usize].decode;
        let column = |index: usize| decode.columns[index].name.as_str();
        let take = match label.take {
            Take::First => "first".to_string(),
            Take::Last => "last".into(),
            Take::Any => "any".into(),
            Take::Count => "count".into(),
            Take::Sum(index) => format!("sum {}", column(index)),
            Take::Min(index) => format!("min {}", column(index)),
            Take::Max(index) => format!("max {}", column(index)),
            Take::All(most) => format!("all {most}"),
        };
        line!(text, "label {} {} {} {} {take}", label.name, decode.name, label.within_ms, label.before_ms);
        if let Some(on) = label.on {
            line!(text, "on {}", sample.join.labels[on].name);
        }
        if label.key_set != decode.key {
            line!(text, "by {}", names(&decode.columns, &decode.key_sets[label.key_set]));
        }
        line!(text, "select {} where {}", names(&decode.columns, &label.select), sql(label.filter.as_ref()));
    }
    text
}

fn columns_text(streams: &[StreamPlan], groups: &[GroupSpec], sample: &SamplePlan) -> String {
    let anchor = &streams[sample.join.anchor as usize].decode;
    let sample = &sample.sample;
    let mut text = String::new();
    for group in &sample.groups {
        line!(
            text,
            "group {} by {}",
            groups[group.group].name,
            names(&anchor.columns, &anchor.key_sets[group.key_set])
        );
    }
    for column in &sample.columns {
        line!(text, "column {} {}", column.name, sql(Some(&column.expression)));
    }
    for field in sample.schema.fields() {
        line!(text, "row {} {}", field.name(), type_name(field.data_type()));
    }
    text
}

fn negatives_text(sample: &SamplePlan) -> String {
    let mut text = String::new();
    if let Some(negatives) = &sample.sample.negatives {
        line!(text, "negatives {} {}", sql(Some(&negatives.filter)), negatives.keep);
    }
    text
}
