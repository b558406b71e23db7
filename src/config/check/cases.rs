//! Cases: tests of a pipeline, held against its plan.

use super::{Checker, events};
use crate::config::case::{
    CountsOf, Expected, ExpectedCounts, ExpectedEntity, ExpectedRow, LETTER_COLUMNS, TestCase, TestPlace,
};
use crate::config::defaults;
use crate::config::diagnostic::{Diagnostic, suggestion};
use crate::config::plan::Plan;
use crate::config::raw::{AnyValue, Entries, Test, TestCounts, TestFile};
use crate::config::tree::{Node, Path, locate, shown_text};
use crate::config::units::{self, Moment};
use crate::event::{ColumnType, EventTime, RejectKind, Value};
use arrow::datatypes::DataType;
use serde::Serialize;
use serde_json::Value as Json;
use std::collections::BTreeSet;

/// The tests of a file, unless something is wrong; and everything that was found.
pub fn check(raw: &TestFile, tree: &Node, plan: &Plan) -> (Vec<TestCase>, Vec<Diagnostic>) {
    let mut checker = Checker { tree, cut: BTreeSet::new(), found: Vec::new() };
    let c = &mut checker;
    let tests = raw.tests.iter().flatten().enumerate();
    let cases = tests.map(|(number, test)| one(c, test, plan, &Path::of(&["tests"]).index(number))).collect();
    (cases, checker.found)
}

fn one(c: &mut Checker<'_>, raw: &Test, plan: &Plan, path: &Path) -> TestCase {
    if raw.name.trim().is_empty() {
        c.error(&path.key("name"), "no text").expected("what the test shows, as a sentence");
    }
    let start = raw.start.as_ref().map_or_else(default_start, |instant| instant.0);
    let mut case = TestCase {
        name: raw.name.clone(),
        place: place(c, path),
        start,
        dimensions: dimensions(c, raw, plan, start, &path.key("dimensions")),
        steps: events::check(c, &raw.events, plan, start, &path.key("events")),
        close: raw.close.unwrap_or(true),
        samples: Vec::new(),
        features: Vec::new(),
        dead_letters: Vec::new(),
        counts: Vec::new(),
    };
    for (name, rows) in raw.samples.iter() {
        let path = path.key("samples").key(name);
        let names = || plan.samples.iter().map(|sample| sample.sample.name.as_str());
        let Some(sample) = names().position(|known| known == name) else {
            unknown(c, &path, "sample", name, names());
            continue;
        };
        let schema = &plan.samples[sample].sample.schema;
        let columns: Vec<_> = schema.fields().iter().map(|f| (f.name().as_str(), f.data_type())).collect();
        let rows = rows.iter().enumerate();
        case.samples
            .push((sample, rows.map(|(at, row)| expected_row(c, row, &columns, start, &path.index(at))).collect()));
    }
    for (name, rows) in raw.features.iter() {
        let path = path.key("features").key(name);
        let names = || plan.groups.iter().map(|group| group.name.as_str());
        let Some(group) = names().position(|known| known == name) else {
            unknown(c, &path, "feature group", name, names());
            continue;
        };
        let rows = rows.iter().enumerate();
        let rows = rows.filter_map(|(at, row)| entity(c, row, plan, group, start, &path.index(at)));
        case.features.push((group, rows.collect()));
    }
    for (at, row) in raw.dead_letters.iter().enumerate() {
        let letter = letter(c, row, plan, &path.key("dead_letters").index(at));
        case.dead_letters.push(letter);
    }
    if let Some(counts) = &raw.counts {
        case.counts = expected_counts(c, counts, plan, &path.key("counts"));
    }
    case
}

/// The rows that dimensions have during the test.
fn dimensions(
    c: &mut Checker<'_>,
    raw: &Test,
    plan: &Plan,
    start: EventTime,
    path: &Path,
) -> Vec<(usize, Vec<Vec<Value>>)> {
    let mut all = Vec::new();
    for (name, rows) in raw.dimensions.iter() {
        let path = path.key(name);
        let names = || plan.dimensions.iter().map(|dimension| dimension.spec.name.as_str());
        let Some(number) = names().position(|known| known == name) else {
            unknown(c, &path, "dimension", name, names());
            continue;
        };
        let columns = &plan.dimensions[number].spec.columns;
        let mut found = Vec::with_capacity(rows.len());
        for (at, row) in rows.iter().enumerate() {
            let path = path.index(at);
            let known = || columns.iter().map(|column| column.name.as_str());
            let strangers = row.names().filter(|name| !known().any(|column| column == *name));
            strangers.for_each(|name| unknown(c, &path.key(name), "column", name, known()));
            let value = |column: &crate::dimension::DimensionColumn| match row.get(&column.name) {
                None | Some(AnyValue(Json::Null)) => Value::Null,
                Some(value) => {
                    let path = path.key(&column.name);
                    entity_value(c, &value.0, column.column_type, start, &path).unwrap_or(Value::Null)
                }
            };
            found.push(columns.iter().map(value).collect());
        }
        all.push((number, found));
    }
    all
}

fn default_start() -> EventTime {
    units::instant(defaults::TEST_START).expect("defaults are well-formed")
}

pub(super) fn place(c: &Checker<'_>, path: &Path) -> TestPlace {
    let at = locate(c.tree, path);
    TestPlace { file: at.file.to_string(), line: at.line }
}

/// Reports a name that is none of `known`.
pub(super) fn unknown<'n>(
    c: &mut Checker<'_>,
    path: &Path,
    what: &str,
    name: &str,
    known: impl IntoIterator<Item = &'n str> + Clone,
) {
    let help = suggestion(name, known).unwrap_or_else(|| "the pipeline has none".into());
    c.error(path, format!("unknown {what} {}", shown_text(name))).help(help);
}

pub(super) fn instant_of(moment: Moment, start: EventTime) -> EventTime {
    match moment {
        Moment::At(ms) => ms,
        Moment::After(ms) => start.saturating_add(ms),
    }
}

fn expected_row(
    c: &mut Checker<'_>,
    row: &Entries<AnyValue>,
    known: &[(&str, &DataType)],
    start: EventTime,
    path: &Path,
) -> ExpectedRow {
    let mut columns = Vec::new();
    for (name, value) in row.iter() {
        let path = path.key(name);
        match known.iter().position(|(column, _)| *column == name) {
            Some(column) => {
                let value = expected(c, &value.0, known[column].1, start, &path);
                columns.extend(value.map(|value| (column, value)));
            }
            None => unknown(c, &path, "column", name, known.iter().map(|(name, _)| *name)),
        }
    }
    ExpectedRow { place: place(c, path), columns }
}

/// A value that a column of this type can have.
fn expected(
    c: &mut Checker<'_>,
    value: &Json,
    data_type: &DataType,
    start: EventTime,
    path: &Path,
) -> Option<Expected> {
    let number = |number: &serde_json::Number| match number.as_i64() {
        Some(whole) => Expected::Int(whole),
        None => Expected::Float(number.as_f64().unwrap_or(f64::NAN)),
    };
    let is_number = data_type.is_numeric();
    let found = match (value, data_type) {
        (Json::Null, _) => return Some(Expected::Null),
        (Json::Array(items), DataType::List(field)) => {
            let items = items.iter().enumerate();
            let items = items.map(|(at, item)| expected(c, item, field.data_type(), start, &path.index(at)));
            return Some(Expected::List(items.collect::<Option<_>>()?));
        }
        (Json::String(text), DataType::Timestamp(..)) if units::moment(text).is_some() => {
            let moment = units::moment(text)?;
            let relative = matches!(moment, Moment::After(_));
            return Some(Expected::Time { ms: instant_of(moment, start), relative });
        }
        (Json::Number(ms), DataType::Timestamp(..)) if ms.is_i64() => {
            return Some(Expected::Time { ms: ms.as_i64()?, relative: false });
        }
        (Json::Bool(value), DataType::Boolean) => return Some(Expected::Bool(*value)),
        (Json::Number(value), _) if is_number => return Some(number(value)),
        (Json::String(text), _) if !is_number && !matches!(data_type, DataType::Boolean | DataType::List(_)) => {
            if !matches!(data_type, DataType::Timestamp(..)) {
                return Some(Expected::Text(text.clone()));
            }
            shown_text(text)
        }
        (Json::String(text), _) => format!("the text {}", shown_text(text)),
        (Json::Array(_), _) => "a list".into(),
        (Json::Object(_), _) => "a mapping".into(),
        (single, _) => format!("`{single}`"),
    };
    let wanted = match data_type {
        DataType::List(_) => "a list",
        DataType::Boolean => "`true` or `false`",
        DataType::Timestamp(..) => "an RFC 3339 instant, a time since `start` such as 5s, or milliseconds",
        _ if is_number => "a number",
        _ => "text",
    };
    let error = c.error(path, found).expected(wanted);
    if wanted == "text" && !matches!(value, Json::Array(_) | Json::Object(_)) {
        error.help("put it in quotes");
    }
    None
}

fn entity(
    c: &mut Checker<'_>,
    row: &Entries<AnyValue>,
    plan: &Plan,
    group: usize,
    start: EventTime,
    path: &Path,
) -> Option<ExpectedEntity> {
    let spec = &plan.groups[group];
    let outputs: Vec<_> = spec.outputs.fields().iter().map(|f| (f.name().as_str(), f.data_type())).collect();
    let (mut entity, mut at) = (Vec::new(), None);
    for (name, column_type) in &spec.entity {
        match row.get(name) {
            Some(value) => entity.push(entity_value(c, &value.0, *column_type, start, &path.key(name))),
            None => {
                c.error(path, format!("the key `{name}` is missing")).help("it says whose features these are");
            }
        }
    }
    let is_entity = |name: &str| spec.entity.iter().any(|(known, _)| known == name);
    let mut rest = Vec::new();
    for (name, value) in row.iter().filter(|(name, _)| !is_entity(name)) {
        if name != "at" || outputs.iter().any(|(output, _)| *output == name) {
            rest.push((name.to_string(), value.clone()));
            continue;
        }
        match value.0.as_str().and_then(units::moment) {
            Some(moment) => at = Some(instant_of(moment, start)),
            None => {
                c.error(&path.key("at"), format!("`{}`", value.0))
                    .expected("an RFC 3339 instant or a time since `start` such as 5s");
            }
        }
    }
    let row = expected_row(c, &Entries(rest), &outputs, start, path);
    let entity: Vec<Value> = entity.into_iter().collect::<Option<_>>()?;
    (entity.len() == spec.entity.len()).then_some(ExpectedEntity { entity, at, row })
}

fn entity_value(c: &mut Checker<'_>, value: &Json, of: ColumnType, start: EventTime, path: &Path) -> Option<Value> {
    Some(match (expected(c, value, &of.arrow(), start, path)?, of) {
        (Expected::Text(text), _) => Value::Text(text.into()),
        (Expected::Bool(flag), _) => Value::Bool(flag),
        (Expected::Time { ms, .. }, _) => Value::Time(ms),
        (Expected::Int(number), ColumnType::Float32 | ColumnType::Float64) => Value::Float(number as f64),
        (Expected::Int(number), _) => Value::Int(number),
        (Expected::Float(number), ColumnType::Float32 | ColumnType::Float64) => Value::Float(number),
        _ => {
            c.error(path, format!("`{value}`")).expected(format!("a value of type {}", of.name()));
            return None;
        }
    })
}

fn letter(c: &mut Checker<'_>, row: &Entries<AnyValue>, plan: &Plan, path: &Path) -> ExpectedRow {
    let types = LETTER_COLUMNS.map(|name| if name == "item" { DataType::Int64 } else { DataType::Utf8 });
    let columns: Vec<_> = LETTER_COLUMNS.into_iter().zip(&types).collect();
    let mut row = expected_row(c, row, &columns, 0, path);
    let reasons = || RejectKind::ALL.iter().map(|kind| kind.name());
    let streams = || plan.streams.iter().map(|stream| stream.name.as_str());
    for (column, value) in &mut row.columns {
        let path = path.key(LETTER_COLUMNS[*column]);
        match (LETTER_COLUMNS[*column], &*value) {
            ("stream", Expected::Text(name)) if !streams().any(|known| known == name) => {
                unknown(c, &path, "stream", name, streams());
            }
            ("reason", Expected::Text(name)) if !reasons().any(|known| known == name) => {
                unknown(c, &path, "reason", name, reasons());
            }
            ("message", Expected::Text(text)) => *value = Expected::Part(text.clone()),
            _ => {}
        }
    }
    row
}

fn expected_counts(c: &mut Checker<'_>, raw: &TestCounts, plan: &Plan, path: &Path) -> Vec<ExpectedCounts> {
    let mut found = Vec::new();
    for (name, counts) in raw.streams.iter() {
        let (path, names) = (path.key("streams").key(name), || plan.streams.iter().map(|stream| stream.name.as_str()));
        match names().position(|known| known == name) {
            Some(stream) => found.push(counts_of(c, CountsOf::Stream(stream), counts, &path)),
            None => unknown(c, &path, "stream", name, names()),
        }
    }
    for (name, counts) in raw.samples.iter() {
        let path = path.key("samples").key(name);
        let names = || plan.samples.iter().map(|sample| sample.sample.name.as_str());
        let Some(sample) = names().position(|known| known == name) else {
            unknown(c, &path, "sample", name, names());
            continue;
        };
        found.push(counts_of(c, CountsOf::Sample(sample), counts, &path));
        for (name, counts) in counts.labels.iter() {
            let path = path.key("labels").key(name);
            let names = || plan.samples[sample].join.labels.iter().map(|label| label.name.as_str());
            match names().position(|known| known == name) {
                Some(label) => found.push(counts_of(c, CountsOf::Label(sample, label), counts, &path)),
                None => unknown(c, &path, "join", name, names()),
            }
        }
    }
    for (name, counts) in raw.features.iter() {
        let (path, names) = (path.key("features").key(name), || plan.groups.iter().map(|group| group.name.as_str()));
        match names().position(|known| known == name) {
            Some(group) => found.push(counts_of(c, CountsOf::Group(group), counts, &path)),
            None => unknown(c, &path, "feature group", name, names()),
        }
    }
    found.retain(|counts| !counts.counts.is_empty());
    found
}

/// The counts that are named.
fn counts_of(c: &Checker<'_>, of: CountsOf, counts: &impl Serialize, path: &Path) -> ExpectedCounts {
    let fields = serde_json::to_value(counts).expect("counts are plain data");
    let fields = fields.as_object().into_iter().flatten();
    let counts = fields.filter_map(|(name, count)| Some((name.clone(), count.as_u64()?)));
    ExpectedCounts { place: place(c, path), of, counts: counts.collect() }
}
