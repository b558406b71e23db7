//! Columns of a stream: types, where values come from, what stands in for missing ones; and `explode`.

use super::{Checker, defaults};
use crate::config::raw::{Column, Entries, Explode, FullColumn, Scalar, Stream, TypeName, Unit};
use crate::config::tree::Path;
use crate::config::units;
use crate::decode::{ColumnFrom, ColumnSpec, ExplodeSpec, TimeUnitSpec};
use crate::event::{ColumnType, Value};

pub fn check(c: &mut Checker<'_>, stream: &Stream, path: &Path) -> Vec<ColumnSpec> {
    let at = path.key("columns");
    let Some(Entries(columns)) = &stream.columns else {
        if !c.is_cut(&at) && !c.is_cut(&path.key("schema")) && !c.misspelt(path, "columns") {
            c.error(path, "the key `columns` is missing")
                .help("list the columns to read: `columns: { user_id: string, … }`");
        }
        c.cut(at);
        return Vec::new();
    };
    if columns.is_empty() && !c.is_cut(&at) {
        c.error(&at, "no columns").expected("at least the time and key columns");
    }
    let mut specs = Vec::with_capacity(columns.len());
    for (name, column) in columns {
        let at = at.key(name);
        match column {
            Column::Short(name_of_type) => specs.push(ColumnSpec {
                name: name.clone(),
                column_type: column_type(*name_of_type),
                nullable: false,
                default: None,
                unit: TimeUnitSpec::Millis,
                from: ColumnFrom::Path(vec![name.clone()]),
            }),
            Column::Full(full) => match full_column(c, name, full, stream, &at) {
                Some(spec) => specs.push(spec),
                None => c.cut(at),
            },
        }
    }
    specs
}

fn full_column(c: &mut Checker<'_>, name: &str, full: &FullColumn, stream: &Stream, at: &Path) -> Option<ColumnSpec> {
    let column_type = column_type(full.column_type);
    let from = source(c, name, full, stream, column_type, at);
    if full.unit.is_some() && column_type != ColumnType::Timestamp {
        c.error(&at.key("unit"), format!("a unit on a column of type {}", column_type.name()))
            .expected("`type: timestamp`");
    }
    let default = match &full.default {
        None => None,
        Some(scalar) => match default_value(scalar, column_type) {
            Some(value) => Some(value),
            None => {
                c.error(&at.key("default"), format!("a default that is no {}", column_type.name())).expected(
                    match column_type {
                        ColumnType::Timestamp => "milliseconds since 1970 or an RFC 3339 instant".to_string(),
                        other => format!("a value of type {}", other.name()),
                    },
                );
                return None;
            }
        },
    };
    Some(ColumnSpec {
        name: name.into(),
        column_type,
        nullable: full.nullable.unwrap_or(false),
        default,
        unit: match full.unit.unwrap_or(Unit::Ms) {
            Unit::S => TimeUnitSpec::Seconds,
            Unit::Ms => TimeUnitSpec::Millis,
            Unit::Us => TimeUnitSpec::Micros,
            Unit::Rfc3339 => TimeUnitSpec::Rfc3339,
        },
        from: from?,
    })
}

fn source(
    c: &mut Checker<'_>,
    name: &str,
    full: &FullColumn,
    stream: &Stream,
    column_type: ColumnType,
    at: &Path,
) -> Option<ColumnFrom> {
    let given: Vec<&str> = [
        ("path", full.path.is_some()),
        ("header", full.header.is_some()),
        ("key", full.key == Some(true)),
        ("partition", full.partition == Some(true)),
        ("broker_time", full.broker_time == Some(true)),
    ]
    .into_iter()
    .filter_map(|(key, given)| given.then_some(key))
    .collect();
    if let [first, second, ..] = given.as_slice() {
        c.error(&at.key(second), format!("both `{first}` and `{second}`")).expected("one place to take the value from");
        return None;
    }
    let from = match given.as_slice() {
        ["header"] => ColumnFrom::Header(full.header.clone().unwrap_or_default()),
        ["key"] => ColumnFrom::Key,
        ["partition"] => ColumnFrom::Partition,
        ["broker_time"] => ColumnFrom::BrokerTime,
        _ => return field(c, name, full, stream, column_type, at),
    };
    let key = given[0];
    if stream.kafka.is_none() && (stream.file.is_some() || stream.memory.is_some()) {
        c.error(&at.key(key), format!("`{key}` in a stream that is not read from Kafka"))
            .expected("`path`")
            .help("only Kafka records have headers, keys, partitions and broker timestamps");
    }
    if full.from.is_some() {
        c.error(&at.key("from"), format!("both `{key}` and `from`")).expected("one place to take the value from");
    }
    let fitting: &[ColumnType] = match from {
        ColumnFrom::Partition => &[ColumnType::Int32, ColumnType::Int64],
        ColumnFrom::BrokerTime => &[ColumnType::Timestamp],
        _ => &[ColumnType::String],
    };
    if !fitting.contains(&column_type) {
        c.error(&at.key("type"), format!("`{}`", column_type.name()))
            .expected(format!("`{}`, the type of `{key}`", fitting[0].name()));
    }
    Some(from)
}

fn field(
    c: &mut Checker<'_>,
    name: &str,
    full: &FullColumn,
    stream: &Stream,
    column_type: ColumnType,
    at: &Path,
) -> Option<ColumnFrom> {
    let path = full.path.as_ref().map(|path| path.0.as_str());
    if let Some(item) = &full.from {
        let known = stream.explode.as_ref().map(|explode| explode.name.as_str());
        if known != Some(item) && !c.is_cut(&at_stream(at).key("explode")) {
            let error = c.error(&at.key("from"), format!("unknown element `{item}`"));
            match known {
                Some(known) => error.help(format!("`explode` calls it `{known}`")),
                None => error.help(format!("add `explode: {{ path: $.items, as: {item} }}` to the stream")),
            };
            return None;
        }
    }
    if path == Some("$index") {
        if full.from.is_none() {
            c.error(&at.key("path"), "`$index` without `from`")
                .help("it is the position in an exploded array: add `from: item`");
            return None;
        }
        if !matches!(column_type, ColumnType::Int32 | ColumnType::Int64) {
            c.error(&at.key("type"), format!("`{}`", column_type.name())).expected("`int32`, the type of `$index`");
        }
        return Some(ColumnFrom::ItemIndex);
    }
    let fields = match path {
        None => vec![name.to_string()],
        Some(path) => units::json_path(path)?,
    };
    Some(if full.from.is_some() { ColumnFrom::Item(fields) } else { ColumnFrom::Path(fields) })
}

/// `streams.x.columns.y` -> `streams.x`.
fn at_stream(at: &Path) -> Path {
    Path(at.0[..at.0.len().saturating_sub(2)].to_vec())
}

pub fn explode(c: &mut Checker<'_>, explode: &Explode, columns: &[ColumnSpec], path: &Path) -> Option<ExplodeSpec> {
    let fields = units::json_path(&explode.path.0);
    if fields.is_none() {
        c.error(&path.key("path"), format!("`{}`", explode.path.0)).expected("the path of an array, such as $.items");
    }
    let used = columns.iter().any(|column| matches!(column.from, ColumnFrom::Item(_) | ColumnFrom::ItemIndex));
    if !used {
        c.warn(path, format!("no column is taken from `{}`", explode.name))
            .help(format!("add `from: {}` to the columns of an element, or remove `explode`", explode.name));
    }
    Some(ExplodeSpec { path: fields?, max: explode.max.unwrap_or(defaults::EXPLODE_MAX) as usize })
}

pub fn column_type(name: TypeName) -> ColumnType {
    match name {
        TypeName::String => ColumnType::String,
        TypeName::Int32 => ColumnType::Int32,
        TypeName::Int64 => ColumnType::Int64,
        TypeName::Float32 => ColumnType::Float32,
        TypeName::Float64 => ColumnType::Float64,
        TypeName::Bool => ColumnType::Bool,
        TypeName::Timestamp => ColumnType::Timestamp,
    }
}

fn default_value(scalar: &Scalar, column_type: ColumnType) -> Option<Value> {
    Some(match (column_type, scalar) {
        (ColumnType::String, Scalar::Text(text)) => Value::Text(text.as_str().into()),
        (ColumnType::Int32, Scalar::Int(number)) => Value::Int(i32::try_from(*number).ok()?.into()),
        (ColumnType::Int64, Scalar::Int(number)) => Value::Int(*number),
        (ColumnType::Float32 | ColumnType::Float64, Scalar::Float(number)) => Value::Float(*number),
        (ColumnType::Float32 | ColumnType::Float64, Scalar::Int(number)) => Value::Float(*number as f64),
        (ColumnType::Bool, Scalar::Bool(flag)) => Value::Bool(*flag),
        (ColumnType::Timestamp, Scalar::Int(ms)) => Value::Time(*ms),
        (ColumnType::Timestamp, Scalar::Text(text)) => Value::Time(units::instant(text)?),
        _ => return None,
    })
}
