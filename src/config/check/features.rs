//! Features: groups of aggregates over windows, and what they read from which stream.

use super::streams::{self, StreamDraft};
use super::{Checker, defaults, duration_or, name_path, windows};
use crate::config::raw::{Aggregate, Entries, Group, Pipeline, Sql};
use crate::config::sql::{Scope, type_name};
use crate::config::tree::Path;
use crate::decode::FeatureInputSpec;
use crate::event::{ColumnType, DurationMs, Expression, list_of};
use crate::feature::{AggregateKind, AggregateSpec, DerivedSpec, FeatureUse, GroupSpec};
use arrow::datatypes::{DataType, Field, Schema};
use std::collections::BTreeMap;
use std::sync::Arc;

pub struct GroupDraft {
    pub spec: GroupSpec,
    pub path: Path,
}

pub fn check(c: &mut Checker<'_>, raw: &Pipeline, streams: &mut [StreamDraft]) -> Vec<GroupDraft> {
    let mut outputs: BTreeMap<String, Path> = BTreeMap::new();
    let mut drafts = Vec::new();
    for (name, group) in raw.features.iter() {
        let path = Path::of(&["features", name]);
        match one(c, name, group, streams, &path) {
            Some(spec) => {
                unique_outputs(c, &spec, &path, &mut outputs);
                drafts.push(GroupDraft { spec, path });
            }
            None => c.cut(path),
        }
    }
    drafts
}

/// Models and look-ups name features across groups.
fn unique_outputs(c: &mut Checker<'_>, spec: &GroupSpec, path: &Path, outputs: &mut BTreeMap<String, Path>) {
    for field in spec.outputs.fields() {
        if let Some(known) = outputs.insert(field.name().clone(), path.clone())
            && known != *path
        {
            c.error(path, format!("the output `{}`, which `{known}` has too", field.name()))
                .expected("outputs whose names are unique across groups")
                .help("rename the aggregate: outputs are called `<aggregate>_<window>`");
        }
    }
}

fn one(c: &mut Checker<'_>, name: &str, raw: &Group, streams: &mut [StreamDraft], path: &Path) -> Option<GroupSpec> {
    let head_ms = duration_or(&raw.head, defaults::HEAD);
    if head_ms == 0 {
        c.error(&path.key("head"), "`0s`").expected("a duration above 0, such as 1s");
        return None;
    }
    if raw.aggregates.0.is_empty() && !c.is_cut(&path.key("aggregates")) {
        c.error(&path.key("aggregates"), "no aggregates").expected("at least one aggregate");
    }
    let mut entity = Entity { names: raw.entity.names.clone(), types: None };
    let mut spec = GroupSpec {
        name: name.into(),
        entity: Vec::new(),
        head_ms,
        aggregates: Vec::new(),
        uses: Vec::new(),
        derived: Vec::new(),
        outputs: Arc::new(Schema::empty()),
    };
    for (aggregate_name, aggregate) in raw.aggregates.iter() {
        let at = path.key("aggregates").key(aggregate_name);
        let context = Context { group: raw, path: &at, head_ms };
        match aggregate_of(c, aggregate_name, aggregate, &context, streams, &mut entity) {
            Some(found) => add(&mut spec, found, streams),
            None => c.cut(at),
        }
    }
    let types = entity.types.as_ref()?;
    spec.entity = entity.names.iter().cloned().zip(types.iter().copied()).collect();
    let fields = derived(c, raw, &mut spec, path);
    spec.outputs = Arc::new(Schema::new(fields));
    Some(spec)
}

/// The entity's columns, and their types once a stream has told them.
struct Entity {
    names: Vec<String>,
    types: Option<Vec<ColumnType>>,
}

/// What an aggregate takes from its group.
pub struct Context<'a> {
    pub group: &'a Group,
    pub path: &'a Path,
    pub head_ms: DurationMs,
}

struct Found {
    spec: AggregateSpec,
    stream: usize,
    columns: Vec<usize>,
    input: FeatureInputSpec,
}

fn aggregate_of(
    c: &mut Checker<'_>,
    name: &str,
    raw: &Aggregate,
    context: &Context<'_>,
    streams: &[StreamDraft],
    entity: &mut Entity,
) -> Option<Found> {
    let path = context.path;
    let windows = windows::check(c, name, raw, context);
    let function = function(c, raw, path);
    let stream = streams::find(c, streams, &raw.from, &path.key("from"))?;
    let draft = &streams[stream];
    let sources = draft.sources();
    let scope = draft.scope();
    let filter = raw.filter.as_ref().map(|filter| c.condition(&path.key("where"), filter, &scope, &sources));
    let columns = entity_columns(c, raw, draft, entity, path);
    let (key, kind, sql) = function?;
    let input = if kind == AggregateKind::Count && sql.0.trim() == "*" {
        None
    } else {
        let input = c.compile(&path.key(key), sql, &scope, &sources)?;
        fits(c, key, kind, &input, &path.key(key))?;
        Some(input)
    };
    let filter = match filter {
        Some(filter) => Some(filter?),
        None => None,
    };
    let columns = columns?;
    let spec = AggregateSpec {
        name: name.into(),
        kind,
        input: input.as_ref().map(|input| input.data_type.clone()),
        windows: windows?,
    };
    let input = FeatureInputSpec { filter, input, entity: columns.clone() };
    Some(Found { spec, stream, columns, input })
}

/// The one function of an aggregate: its key, what it is, its argument.
fn function<'r>(
    c: &mut Checker<'_>,
    raw: &'r Aggregate,
    path: &Path,
) -> Option<(&'static str, AggregateKind, &'r Sql)> {
    let k = raw.k.unwrap_or(0) as usize;
    let all = [
        ("count", AggregateKind::Count, &raw.count),
        ("sum", AggregateKind::Sum, &raw.sum),
        ("mean", AggregateKind::Mean, &raw.mean),
        ("min", AggregateKind::Min, &raw.min),
        ("max", AggregateKind::Max, &raw.max),
        ("last", AggregateKind::Last, &raw.last),
        ("last_k", AggregateKind::LastK { k }, &raw.last_k),
    ];
    let given: Vec<_> = all.iter().filter_map(|(key, kind, sql)| sql.as_ref().map(|sql| (*key, *kind, sql))).collect();
    let &(key, kind, sql) = match given.as_slice() {
        [one] => one,
        [] => {
            // A function that is refused or misspelt was told already.
            if !c.is_cut(path) {
                c.error(path, "no function")
                    .expected("one of `count`, `sum`, `mean`, `min`, `max`, `last`, `last_k`")
                    .help("such as `count: \"*\"`");
            }
            return None;
        }
        [first, second, ..] => {
            c.error(&path.key(second.0), format!("both `{}` and `{}`", first.0, second.0))
                .expected("one function")
                .help("each function is an aggregate of its own");
            return None;
        }
    };
    match (kind, raw.k) {
        (AggregateKind::LastK { .. }, None) => {
            if !c.is_cut(&path.key("k")) {
                c.error(path, "the key `k` is missing").help("how many values `last_k` keeps, such as `k: 50`");
            }
            None
        }
        (AggregateKind::LastK { .. }, Some(_)) | (_, None) => Some((key, kind, sql)),
        (_, Some(_)) => {
            c.error(&path.key("k"), format!("`k` beside `{key}`")).expected("`last_k`");
            None
        }
    }
}

fn fits(c: &mut Checker<'_>, key: &str, kind: AggregateKind, input: &Expression, path: &Path) -> Option<()> {
    use DataType::{Float32, Float64, Int32, Int64, Timestamp};
    let number = matches!(input.data_type, Int32 | Int64 | Float32 | Float64);
    let (fits, expected) = match kind {
        AggregateKind::Count => (true, ""),
        AggregateKind::Sum | AggregateKind::Mean => (number, "a number"),
        AggregateKind::Min | AggregateKind::Max => {
            (number || matches!(input.data_type, Timestamp(..)), "a number or a timestamp")
        }
        AggregateKind::Last | AggregateKind::LastK { .. } => {
            (!matches!(input.data_type, DataType::List(_)), "a single value")
        }
    };
    if !fits {
        let found = format!("`{}` of type {}", input.sql, type_name(&input.data_type));
        let error = c.error(path, found).expected(format!("{expected} for `{key}`"));
        if input.data_type == DataType::Boolean && kind == AggregateKind::Sum {
            error.help("to count rows write `count: \"*\"` with `where`");
        }
        return None;
    }
    Some(())
}

fn entity_columns(
    c: &mut Checker<'_>,
    raw: &Aggregate,
    draft: &StreamDraft,
    entity: &mut Entity,
    path: &Path,
) -> Option<Vec<usize>> {
    let columns = match &raw.by {
        Some(by) => {
            let at = path.key("by");
            if by.names.len() != entity.names.len() {
                let entity = entity.names.join(", ");
                c.error(&at, format!("[{}]", by.names.join(", ")))
                    .expected(format!("a column for each of the entity: {entity}"));
                return None;
            }
            draft.all_columns(c, by, &at)?
        }
        None => {
            let mut columns = Vec::with_capacity(entity.names.len());
            for name in &entity.names {
                let found = draft.columns().iter().position(|column| column.name == *name);
                if found.is_none() && !c.may_be_cut(name, &draft.sources()) {
                    c.error(path, format!("the stream `{}` has no column `{name}`", draft.name()))
                        .help(format!("say where it holds the entity: `by: <column of {}>`", draft.name()));
                }
                columns.push(found?);
            }
            columns
        }
    };
    let types = draft.types(&columns);
    let known = entity.types.get_or_insert_with(|| types.clone());
    for (index, (known, found)) in known.iter_mut().zip(&types).enumerate() {
        let at = raw.by.as_ref().map(|by| name_path(&path.key("by"), by, index)).unwrap_or_else(|| path.clone());
        if !same_key_type(*known, *found) {
            let column = &draft.columns()[columns[index]].name;
            c.error(&at, format!("`{column}` of type {}", found.name())).expected(format!(
                "{}, as the entity `{}` is elsewhere in this group",
                known.name(),
                entity.names[index]
            ));
            return None;
        }
        if *found == ColumnType::Int64 {
            *known = ColumnType::Int64;
        }
    }
    Some(columns)
}

/// Whether two key columns can meet: integers of any width hash alike.
pub fn same_key_type(a: ColumnType, b: ColumnType) -> bool {
    let wide = |ty| if ty == ColumnType::Int32 { ColumnType::Int64 } else { ty };
    wide(a) == wide(b)
}

fn add(spec: &mut GroupSpec, found: Found, streams: &mut [StreamDraft]) {
    let aggregate = spec.aggregates.len();
    spec.aggregates.push(found.spec);
    let draft = &mut streams[found.stream];
    let key_set = draft.key_set(found.columns.clone());
    let inputs = &mut draft.plan.decode.feature_inputs;
    inputs.push(found.input);
    let input = inputs.len() - 1;
    let stream = draft.plan.decode.stream;
    match spec.uses.iter_mut().find(|known| known.stream == stream && known.columns == found.columns) {
        Some(known) => known.aggregates.push((aggregate, input)),
        None => {
            spec.uses.push(FeatureUse { stream, key_set, columns: found.columns, aggregates: vec![(aggregate, input)] })
        }
    }
}

/// Compiles the derived columns; the fields of all outputs.
fn derived(c: &mut Checker<'_>, raw: &Group, spec: &mut GroupSpec, path: &Path) -> Vec<Field> {
    let mut fields: Vec<Field> = spec
        .aggregates
        .iter()
        .flat_map(|aggregate| aggregate.windows.iter().map(|window| (window, output_type(aggregate))))
        .map(|(window, data_type)| Field::new(&window.output, data_type, true))
        .collect();
    let sources = [path.key("aggregates"), path.key("derived")];
    let Entries(derived) = &raw.derived;
    for (name, sql) in derived {
        let at = path.key("derived").key(name);
        if fields.iter().any(|field| field.name() == name) {
            c.error(&at, format!("the name `{name}`, which an aggregate has too")).expected("a new name");
            continue;
        }
        let scope = Scope::of(&Schema::new(fields.clone()));
        if let Some(expression) = c.compile(&at, sql, &scope, &sources) {
            fields.push(Field::new(name, expression.data_type.clone(), true));
            spec.derived.push(DerivedSpec { name: name.clone(), expression });
        }
    }
    fields
}

fn output_type(aggregate: &AggregateSpec) -> DataType {
    let input = aggregate.input.clone().unwrap_or(DataType::Int64);
    match aggregate.kind {
        AggregateKind::Count => DataType::Int64,
        AggregateKind::Sum if matches!(input, DataType::Int32 | DataType::Int64) => DataType::Int64,
        AggregateKind::Sum | AggregateKind::Mean => DataType::Float64,
        AggregateKind::Min | AggregateKind::Max | AggregateKind::Last => input,
        AggregateKind::LastK { .. } => list_of(input),
    }
}
