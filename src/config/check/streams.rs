//! Streams: columns, filter, time and keys become a decode plan.

use super::dimensions::DimensionDraft;
use super::{Checker, columns, defaults, duration_or, enrich, name_path, raw_streams, schemas};
use crate::config::diagnostic::suggestion;
use crate::config::plan::StreamPlan;
use crate::config::raw::{self, Names, Pipeline, Stream};
use crate::config::sql::Scope;
use crate::config::tree::{Path, shown_text};
use crate::config::units;
use crate::decode::{ColumnSpec, DecodeSpec};
use crate::event::{ColumnType, Partitioner, StreamId};
use crate::route::StreamTime;
use arrow::datatypes::{Field, Schema};
use std::sync::Arc;

/// A stream that is sound so far; features and samples add to it.
pub struct StreamDraft {
    pub plan: StreamPlan,
    pub path: Path,
}

impl StreamDraft {
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    pub fn columns(&self) -> &[ColumnSpec] {
        &self.plan.decode.columns
    }

    pub fn scope(&self) -> Scope {
        let mut scope = Scope::default();
        for (column, field) in self.columns().iter().zip(self.plan.decode.schema.fields()) {
            scope.push(&column.name, field.data_type().clone(), field.is_nullable());
        }
        scope
    }

    /// Where its columns are declared.
    pub fn sources(&self) -> [Path; 2] {
        [self.path.key("columns"), self.path.key("enrich")]
    }

    /// The number of the key set with these columns, which is new if need be.
    pub fn key_set(&mut self, columns: Vec<usize>) -> usize {
        let sets = &mut self.plan.decode.key_sets;
        sets.iter().position(|known| *known == columns).unwrap_or_else(|| {
            sets.push(columns);
            sets.len() - 1
        })
    }

    /// Finds a column by name, or tells that there is none.
    pub fn column(&self, c: &mut Checker<'_>, name: &str, at: &Path) -> Option<usize> {
        let found = self.columns().iter().position(|column| column.name == name);
        if found.is_none() && !c.may_be_cut(name, &self.sources()) {
            let known = self.columns().iter().map(|column| column.name.as_str());
            let help = suggestion(name, known).unwrap_or_else(|| "the stream declares no columns".into());
            c.error(at, format!("the stream `{}` has no column {}", self.name(), shown_text(name))).help(help);
        }
        found
    }

    pub fn all_columns(&self, c: &mut Checker<'_>, names: &Names, at: &Path) -> Option<Vec<usize>> {
        let mut found = Vec::with_capacity(names.names.len());
        for (index, name) in names.names.iter().enumerate() {
            let at = name_path(at, names, index);
            let column = self.column(c, name, &at);
            if column.is_some() && found.contains(&column) {
                c.error(&at, format!("the column `{name}` twice")).expected("each column once");
                return None;
            }
            found.push(column);
        }
        found.into_iter().collect()
    }

    pub fn types(&self, columns: &[usize]) -> Vec<ColumnType> {
        columns.iter().map(|&column| self.columns()[column].column_type).collect()
    }

    /// The names of columns, for messages.
    pub fn shown(&self, columns: &[usize]) -> String {
        columns.iter().map(|&column| self.columns()[column].name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// Finds a stream by name, or tells that there is none.
pub fn find(c: &mut Checker<'_>, streams: &[StreamDraft], name: &str, at: &Path) -> Option<usize> {
    let found = streams.iter().position(|draft| draft.name() == name);
    if found.is_none() && !c.is_cut(&Path::of(&["streams", name])) {
        // A broken stream of another name does not excuse an unknown one, so `unknown` is not asked about all streams.
        let known: Vec<&str> = streams.iter().map(StreamDraft::name).collect();
        c.unknown(at, "stream", name, known, &Path::of(&["streams", name]));
    }
    found
}

pub fn check(c: &mut Checker<'_>, raw: &Pipeline, dimensions: &[DimensionDraft]) -> Vec<StreamDraft> {
    let mut drafts = Vec::new();
    for (name, stream) in raw_streams(raw) {
        let path = Path::of(&["streams", name]);
        match one(c, drafts.len() as StreamId, name, stream, (raw, dimensions), &path) {
            Some(draft) => drafts.push(draft),
            None => c.cut(path),
        }
    }
    if raw_streams(raw).is_empty() && raw.streams.is_some() && !c.is_cut(&Path::of(&["streams"])) {
        c.error(&Path::of(&["streams"]), "no streams").expected("at least one stream");
    }
    drafts
}

/// How the producers of all topics place a key.
pub fn partitioner(raw: &Pipeline) -> Partitioner {
    match raw.partitioner {
        None | Some(raw::Partitioner::Murmur2) => Partitioner::Murmur2,
        Some(raw::Partitioner::Crc32) => Partitioner::Crc32,
    }
}

fn one(
    c: &mut Checker<'_>,
    id: StreamId,
    name: &str,
    raw: &Stream,
    (pipeline, dimensions): (&Pipeline, &[DimensionDraft]),
    path: &Path,
) -> Option<StreamDraft> {
    let mut columns = columns::check(c, raw, path);
    let explode = match &raw.explode {
        Some(explode) => columns::explode(c, explode, &columns, &path.key("explode")),
        None => None,
    };
    let (enrich, enriched) = enrich::check(c, raw, &columns, dimensions, path);
    let mut fields: Vec<Field> = columns
        .iter()
        .map(|column| Field::new(&column.name, column.column_type.arrow(), column.nullable && column.default.is_none()))
        .collect();
    for column in enriched {
        fields.push(Field::new(enrich::output_name(&column.name), column.column_type.arrow(), true));
        columns.push(column);
    }
    let (payload, registry) = schemas::payload(c, pipeline, raw, path);
    let decode = DecodeSpec {
        stream: id,
        name: name.into(),
        payload,
        columns,
        schema: Arc::new(Schema::new(fields)),
        explode,
        filter: None,
        time: 0,
        key_sets: Vec::new(),
        id: 0,
        key: 0,
        route: 0,
        partitioner: partitioner(pipeline),
        feature_inputs: Vec::new(),
        min_time: match raw.min_time {
            Some(instant) => instant.0,
            None => units::instant(defaults::MIN_TIME).expect("defaults are well-formed"),
        },
        max_future_ms: duration_or(&raw.max_future, defaults::MAX_FUTURE),
        limits: Default::default(),
    };
    schemas::misfits(c, &decode, path);
    let time = StreamTime {
        lateness_ms: duration_or(&raw.lateness, defaults::LATENESS),
        idle_after_ms: duration_or(&raw.idle_after, defaults::IDLE_AFTER),
        sparse: raw.sparse.unwrap_or(false),
        max_drift_ms: duration_or(&raw.max_drift, defaults::MAX_DRIFT),
    };
    let mut draft =
        StreamDraft { plan: StreamPlan { name: name.into(), decode, registry, time, enrich }, path: path.clone() };
    if let Some(filter) = &raw.filter {
        let scope = draft.scope();
        draft.plan.decode.filter = c.condition(&path.key("where"), filter, &scope, &draft.sources());
    }
    let time = event_time(c, &draft, raw);
    let keys = keys(c, &mut draft, raw);
    draft.plan.decode.time = time?;
    keys?;
    Some(draft)
}

fn event_time(c: &mut Checker<'_>, draft: &StreamDraft, raw: &Stream) -> Option<usize> {
    let at = draft.path.key("time");
    let index = draft.column(c, &raw.time, &at)?;
    enrich::own_columns(c, draft, vec![index], &at)?;
    let column = &draft.columns()[index];
    if column.column_type != ColumnType::Timestamp {
        let (name, column_type) = (column.name.clone(), column.column_type.name());
        c.error(&at, format!("`{name}` of type {column_type}"))
            .expected("a column of type timestamp")
            .help(format!("write `{name}: {{ type: timestamp, unit: ms }}` under `columns`"));
        return None;
    }
    if column.nullable && column.default.is_none() {
        let name = column.name.clone();
        c.error(&at, format!("`{name}`, which may be null"))
            .expected("a column that always has a value")
            .help(format!("remove `nullable` from `{name}`: a record without time is a dead letter"));
        return None;
    }
    Some(index)
}

fn keys(c: &mut Checker<'_>, draft: &mut StreamDraft, raw: &Stream) -> Option<()> {
    let path = draft.path.clone();
    let given = |c: &mut Checker<'_>, draft: &StreamDraft, names: &Option<Names>, key: &str| {
        let at = path.key(key);
        names.as_ref().map(|names| {
            let columns = draft.all_columns(c, names, &at)?;
            enrich::own_columns(c, draft, columns, &at)
        })
    };
    let id = given(c, draft, &raw.id, "id");
    let key = given(c, draft, &raw.key, "key");
    let route = given(c, draft, &raw.partition_by, "partition_by");
    if id.is_none() && key.is_none() {
        if !c.is_cut(&path.key("id")) && !c.is_cut(&path.key("key")) && !c.misspelt(&path, "key") {
            c.error(&path, "the key `key` is missing").help(
                "name the columns by which labels refer to impressions; a stream that only feeds features needs an `id`",
            );
        }
        return None;
    }
    let key = key.or_else(|| id.clone())?;
    let id = id.unwrap_or_else(|| key.clone());
    let route = route.unwrap_or_else(|| key.clone());
    let (id, key, route) = (id?, key?, route?);
    draft.plan.decode.key = draft.key_set(key);
    draft.plan.decode.id = draft.key_set(id);
    draft.plan.decode.route = draft.key_set(route);
    Some(())
}
