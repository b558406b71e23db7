//! `POST /v1/rank`: scores candidates with a model, in one read of the store and one run.
//!
//!   {"model": "ctr", "entities": {"user_id": "u1"}, "candidates": {"item_id": ["a", "b"]},
//!    "context": {"position": [1, 2], "hour": 7}}
//!   -> {"model": "ctr", "model_version": "1", "scores": [0.31, 0.07], "missing": {"item_ctr_1h": 1}}
//!
//! `entities` holds single values that are the same for every candidate; the lists of `candidates` have one length, and
//! scores come in their order; a context value is single or one per candidate. `missing` counts, per input that lacked
//! one anywhere, the candidates without a value: those were scored with the input's default, or as NaN.
//! `model` may be left out where the pipeline has just one.

use super::error::ApiError;
use super::request::{EntityColumn, Fields, context_value, entity_keys, entity_type, parse, unknown_entity};
use super::{ROWS_MAX, ServeState};
use crate::event::{EventTime, Value};
use crate::feature::GroupSpec;
use crate::model::{InputColumn, Model, ModelInputFrom};
use crate::online::{ReadRequest, StoredRow};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value as Json;
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RankRequest {
    model: Option<String>,
    #[serde(default)]
    entities: Fields,
    #[serde(default)]
    candidates: Fields,
    #[serde(default)]
    context: Fields,
}

const EXAMPLE: &str = r#"{"model": "ctr", "entities": {"user_id": "u1"}, "candidates": {"item_id": ["a", "b"]}, "context": {"position": [1, 2]}}"#;

#[derive(Serialize)]
struct RankAnswer<'a> {
    model: &'a str,
    model_version: String,
    scores: &'a [f32],
    missing: Missing<'a>,
}

struct Missing<'a>(Vec<(&'a str, u64)>);

impl Serialize for Missing<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, rows) in &self.0 {
            map.serialize_entry(name, rows)?;
        }
        map.end()
    }
}

/// The features of one group that a model needs, and for which entities.
struct GroupRead {
    group: usize,
    outputs: Vec<usize>,
    keys: Vec<String>,
}

/// A model input for this request.
enum Column {
    All(Value),
    Rows(Vec<Value>),
}

pub(super) fn answer(state: &ServeState, body: &[u8]) -> Result<Vec<u8>, ApiError> {
    let request: RankRequest = parse(body, EXAMPLE)?;
    let model = find_model(state, request.model.as_deref())?;
    let groups = &state.plan.groups;
    let rows = row_count(&request)?;
    let entities = entity_columns(groups, &request)?;
    let context = context_columns(model, &request.context)?;
    let reads = group_reads(groups, model, &entities)?;
    let requests: Vec<ReadRequest<'_>> = reads
        .iter()
        .map(|read| ReadRequest { group: read.group as u16, entities: &read.keys, outputs: &read.outputs })
        .collect();
    let mut found = state.store.read(&requests)?;
    for (read, found) in reads.iter().zip(&mut found) {
        forget_outdated(state.oldest_current(read.group), found);
    }
    let columns = input_columns(model, &reads, found, context);
    let shown: Vec<InputColumn<'_>> = columns
        .iter()
        .map(|column| match column {
            Column::All(value) => InputColumn::All(value),
            Column::Rows(values) => InputColumn::Rows(values),
        })
        .collect();
    let since = (state.monotonic_us)();
    let scored = model.score(rows, &shown)?;
    let took_us = (state.monotonic_us)().saturating_sub(since);
    let missing = model.spec.inputs.iter().map(|input| input.name.as_str()).zip(scored.missing.iter().copied());
    state.requests.ranked(&model.name, rows, missing.clone(), took_us);
    let answer = RankAnswer {
        model: &model.name,
        model_version: model.version.to_string(),
        scores: &scored.scores,
        missing: Missing(missing.filter(|(_, rows)| *rows > 0).collect()),
    };
    Ok(serde_json::to_vec(&answer).expect("names and finite numbers can always be written as JSON"))
}

fn find_model<'a>(state: &'a ServeState, name: Option<&str>) -> Result<&'a Arc<Model>, ApiError> {
    let names = || state.models.iter().map(|model| model.name.as_str());
    match (name, &state.models[..]) {
        (Some(name), models) => models
            .iter()
            .find(|model| model.name == name)
            .ok_or_else(|| ApiError::unknown("unknown_model", "model", name, names())),
        (None, [only]) => Ok(only),
        (None, []) => Err(ApiError::new(
            404,
            "unknown_model",
            "the pipeline has no model",
            "add one under `models:` in the pipeline file",
        )),
        (None, _) => Err(ApiError::new(
            400,
            "bad_request",
            "`model` is missing",
            format!("say one of: {}", names().collect::<Vec<_>>().join(", ")),
        )),
    }
}

/// How many candidates there are: the one length of every list.
fn row_count(request: &RankRequest) -> Result<usize, ApiError> {
    let mut rows: Option<(usize, &str)> = None;
    for (name, json) in request.candidates.0.iter().chain(&request.context.0) {
        let Json::Array(items) = json else {
            continue;
        };
        match rows {
            Some((expected, first)) if expected != items.len() => {
                return Err(ApiError::new(
                    400,
                    "length_mismatch",
                    format!("`{first}` has {expected} candidates and `{name}` has {}", items.len()),
                    "give every list of `candidates` and `context` one element per candidate",
                ));
            }
            _ => rows = Some((items.len(), name)),
        }
    }
    match rows {
        Some((rows, _)) if rows > ROWS_MAX => Err(ApiError::new(
            413,
            "too_large",
            format!("{rows} candidates were sent and {ROWS_MAX} are allowed"),
            "rank in several requests",
        )),
        Some((rows, _)) => Ok(rows),
        None => Err(ApiError::new(
            400,
            "bad_request",
            "there is nothing to rank: no list in `candidates` or `context`",
            format!("send such as {EXAMPLE}"),
        )),
    }
}

/// Every entity column of the request, typed by the plan.
fn entity_columns<'a>(
    groups: &[GroupSpec],
    request: &'a RankRequest,
) -> Result<Vec<(&'a str, EntityColumn)>, ApiError> {
    let mut columns = Vec::new();
    let scalars = request.entities.0.iter().map(|field| (field, false));
    let lists = request.candidates.0.iter().map(|field| (field, true));
    for ((name, json), list) in scalars.chain(lists) {
        let column_type = entity_type(groups, name).ok_or_else(|| unknown_entity(groups, name))?;
        if json.is_array() != list {
            let (message, help) = match list {
                true => (format!("`candidates.{name}` is not a list"), "move it to `entities`, or send a list"),
                false => (format!("`entities.{name}` is a list"), "move it to `candidates`, or send a single value"),
            };
            return Err(ApiError::new(400, "bad_request", message, help));
        }
        if columns.iter().any(|(known, _)| known == name) {
            return Err(ApiError::new(
                400,
                "bad_request",
                format!("`{name}` stands in `entities` and in `candidates`"),
                "leave it in one of them",
            ));
        }
        columns.push((name.as_str(), EntityColumn::read(name, json, column_type)?));
    }
    Ok(columns)
}

/// Per input of the model its context column; `None` for features.
fn context_columns(model: &Model, given: &Fields) -> Result<Vec<Option<Column>>, ApiError> {
    let inputs = &model.spec.inputs;
    let context = || inputs.iter().filter(|input| input.from == ModelInputFrom::Context);
    for name in given.names() {
        if context().any(|input| input.name == name) {
            continue;
        }
        if inputs.iter().any(|input| input.name == name) {
            return Err(ApiError::new(
                400,
                "not_context",
                format!("`{name}` is a feature that the server reads itself"),
                "leave it out of `context`",
            ));
        }
        return Err(ApiError::unknown(
            "unknown_context",
            "context input",
            name,
            context().map(|input| input.name.as_str()),
        ));
    }
    let column = |input: &crate::model::ModelInput| match (input.from, given.get(&input.name)) {
        (ModelInputFrom::Feature { .. }, _) => Ok(None),
        (ModelInputFrom::Context, Some(Json::Array(items))) => {
            let values = items.iter().map(|item| context_value(&input.name, item));
            Ok(Some(Column::Rows(values.collect::<Result<_, _>>()?)))
        }
        (ModelInputFrom::Context, Some(json)) => Ok(Some(Column::All(context_value(&input.name, json)?))),
        (ModelInputFrom::Context, None) if input.default.is_some() => Ok(Some(Column::All(Value::Null))),
        (ModelInputFrom::Context, None) => Err(ApiError::new(
            400,
            "missing_context",
            format!("model `{}` needs `{}`", model.name, input.name),
            "add it to `context`, as one value or one per candidate",
        )),
    };
    inputs.iter().map(column).collect()
}

fn group_reads(
    groups: &[GroupSpec],
    model: &Model,
    entities: &[(&str, EntityColumn)],
) -> Result<Vec<GroupRead>, ApiError> {
    let mut reads: Vec<GroupRead> = Vec::new();
    for input in &model.spec.inputs {
        let ModelInputFrom::Feature { group, output } = input.from else {
            continue;
        };
        if let Some(read) = reads.iter_mut().find(|read| read.group == group) {
            read.outputs.push(output);
            continue;
        }
        let mut columns = Vec::new();
        for (name, column_type) in &groups[group].entity {
            let (_, column) = entities.iter().find(|(known, _)| known == name).ok_or_else(|| {
                ApiError::new(
                    400,
                    "missing_entity",
                    format!("model `{}` needs `{name}` for feature `{}`", model.name, input.name),
                    format!("add it to `entities` as a {}, or to `candidates` as a list", column_type.name()),
                )
            })?;
            columns.push(column);
        }
        reads.push(GroupRead { group, outputs: vec![output], keys: entity_keys(&columns) });
    }
    Ok(reads)
}

/// A row that is too old to be used counts as missing.
fn forget_outdated(oldest: EventTime, found: &mut [Option<StoredRow>]) {
    for row in found {
        if row.as_ref().is_some_and(|row| row.as_of < oldest) {
            *row = None;
        }
    }
}

/// The values of every input, moved out of what the store gave.
fn input_columns(
    model: &Model,
    reads: &[GroupRead],
    mut found: Vec<Vec<Option<StoredRow>>>,
    context: Vec<Option<Column>>,
) -> Vec<Column> {
    let mut next_column = vec![0; reads.len()];
    let inputs = model.spec.inputs.iter().zip(context);
    let column = |(input, given): (&crate::model::ModelInput, Option<Column>)| {
        let ModelInputFrom::Feature { group, .. } = input.from else {
            return given.expect("every context input got a column");
        };
        let read = reads.iter().position(|read| read.group == group).expect("every feature's group is read");
        let column = next_column[read];
        next_column[read] += 1;
        let take = |row: &mut Option<StoredRow>| match row {
            Some(row) => std::mem::replace(&mut row.values[column], Value::Null),
            None => Value::Null,
        };
        match &mut found[read][..] {
            [only] if reads[read].keys.len() == 1 => Column::All(take(only)),
            rows => Column::Rows(rows.iter_mut().map(take).collect()),
        }
    };
    inputs.map(column).collect()
}
