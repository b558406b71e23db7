//! `POST /v1/features`: the online features of some entities, column by column.
//!
//!   {"group": "item_ctr", "entities": {"item_id": ["a", "b"]}}        or  "features": ["item_ctr_1h", …]
//!   -> {"features": {"item_ctr_1h": {"values": [0.1, null], "statuses": ["PRESENT", "NOT_FOUND"],
//!                                    "event_times": [1764000000000, null]}}}
//!
//! All lists have one element per row of `entities`, in its order; a scalar entity holds for every row. Statuses:
//! `PRESENT`, `NULL_VALUE` (the pipeline says null), `NOT_FOUND` (no such entity), `OUTSIDE_MAX_AGE` (the row is older
//! than the store would keep it, or than a group that was reset; its values are shown), `WARMING` (the group was added, and its window is not full yet).
//! Event times are ms since 1970.

use super::error::ApiError;
use super::request::{EntityColumn, Fields, entity_keys, json_of, parse, unknown_entity};
use super::{ROWS_MAX, ServeState, VALUES_MAX};
use crate::event::{EventTime, Value};
use crate::feature::GroupSpec;
use crate::online::{ReadRequest, StoredRow};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FeaturesRequest {
    group: Option<String>,
    features: Option<Vec<String>>,
    entities: Fields,
}

const EXAMPLE: &str = r#"{"group": "item_ctr", "entities": {"item_id": ["a", "b"]}}"#;

/// A feature as it was asked for, and where it is.
struct Wanted {
    shown: String,
    group: usize,
    output: usize,
}

pub(super) fn answer(state: &ServeState, body: &[u8]) -> Result<Vec<u8>, ApiError> {
    let request: FeaturesRequest = parse(body, EXAMPLE)?;
    let groups = &state.plan.groups;
    let wanted = wanted(groups, &request)?;
    let mut used: Vec<usize> = wanted.iter().map(|feature| feature.group).collect();
    used.sort_unstable();
    used.dedup();
    let columns = entity_columns(groups, &used, &request.entities)?;
    let rows = row_count(&columns)?;
    if rows.saturating_mul(wanted.len()) > VALUES_MAX {
        return Err(ApiError::new(
            413,
            "too_large",
            format!("{rows} rows of {} features are more than {VALUES_MAX} values", wanted.len()),
            "ask in several requests",
        ));
    }
    let keys: Vec<Vec<String>> = used
        .iter()
        .map(|&group| {
            let of_group: Vec<&EntityColumn> =
                groups[group].entity.iter().map(|(name, _)| column(&columns, name)).collect();
            entity_keys(&of_group)
        })
        .collect();
    let outputs: Vec<Vec<usize>> = used
        .iter()
        .map(|&group| wanted.iter().filter(|feature| feature.group == group).map(|feature| feature.output).collect())
        .collect();
    let reads: Vec<ReadRequest<'_>> = used
        .iter()
        .zip(keys.iter().zip(&outputs))
        .map(|(&group, (entities, outputs))| ReadRequest { group: group as u16, entities, outputs })
        .collect();
    let found = state.store.read(&reads)?;

    let mut features = Map::new();
    let mut next_column = vec![0; used.len()];
    for feature in wanted {
        let read = used.binary_search(&feature.group).expect("every wanted feature's group is read");
        let oldest = state.oldest_current(feature.group);
        let full_from = state.full_from(feature.group, feature.output);
        let shown = show(oldest, full_from, &found[read], next_column[read], rows);
        next_column[read] += 1;
        features.insert(feature.shown, shown);
    }
    Ok(json!({ "features": features }).to_string().into_bytes())
}

fn wanted(groups: &[GroupSpec], request: &FeaturesRequest) -> Result<Vec<Wanted>, ApiError> {
    let all = |group: usize| {
        let name = |(output, field): (usize, &arrow::datatypes::FieldRef)| Wanted {
            shown: field.name().clone(),
            group,
            output,
        };
        groups[group].outputs.fields().iter().enumerate().map(name).collect()
    };
    match (&request.group, &request.features) {
        (Some(name), None) => match groups.iter().position(|group| group.name == *name) {
            Some(group) => Ok(all(group)),
            None => Err(ApiError::unknown(
                "unknown_group",
                "feature group",
                name,
                groups.iter().map(|group| group.name.as_str()),
            )),
        },
        (None, Some(names)) if !names.is_empty() => {
            let mut seen = std::collections::BTreeSet::new();
            let distinct = names.iter().filter(|name| seen.insert(name.as_str()));
            distinct.map(|name| find_feature(groups, name)).collect()
        }
        _ => Err(ApiError::new(
            400,
            "bad_request",
            "say either `group` or `features`",
            format!("send such as {EXAMPLE}, or a list of feature names as `features`"),
        )),
    }
}

/// A feature by its name, or by `group.name` where groups share a name.
fn find_feature(groups: &[GroupSpec], name: &str) -> Result<Wanted, ApiError> {
    let mut found: Vec<Wanted> = Vec::new();
    for (group, spec) in groups.iter().enumerate() {
        let plain = name.strip_prefix(spec.name.as_str()).and_then(|rest| rest.strip_prefix('.')).unwrap_or(name);
        if let Some(output) = spec.outputs.fields().iter().position(|field| field.name() == plain) {
            found.push(Wanted { shown: name.to_owned(), group, output });
        }
    }
    if found.len() > 1 {
        let names: Vec<String> = found.iter().map(|one| format!("{}.{name}", groups[one.group].name)).collect();
        return Err(ApiError::new(
            400,
            "ambiguous_feature",
            format!("several groups have a feature `{name}`"),
            format!("write one of {}", names.join(", ")),
        ));
    }
    found.pop().ok_or_else(|| {
        let known = groups.iter().flat_map(|group| group.outputs.fields()).map(|field| field.name().as_str());
        ApiError::unknown("unknown_feature", "feature", name, known)
    })
}

/// The entity columns of the groups that are read; all others are refused.
fn entity_columns<'a>(
    groups: &'a [GroupSpec],
    used: &[usize],
    given: &Fields,
) -> Result<Vec<(&'a str, EntityColumn)>, ApiError> {
    let mut columns: Vec<(&str, EntityColumn)> = Vec::new();
    for &group in used {
        for (name, column_type) in &groups[group].entity {
            if columns.iter().any(|(known, _)| known == name) {
                continue;
            }
            let json = given.get(name).ok_or_else(|| {
                ApiError::new(
                    400,
                    "missing_entity",
                    format!("feature group `{}` needs `{name}`", groups[group].name),
                    format!("add it to `entities`, as a {} or a list of them", column_type.name()),
                )
            })?;
            columns.push((name, EntityColumn::read(name, json, *column_type)?));
        }
    }
    for name in given.names() {
        if !columns.iter().any(|(known, _)| *known == name) {
            return Err(match super::request::entity_type(groups, name) {
                None => unknown_entity(groups, name),
                Some(_) => ApiError::new(
                    400,
                    "unused_entity",
                    format!("none of the features asked for belongs to `{name}`"),
                    "leave it out of `entities`",
                ),
            });
        }
    }
    Ok(columns)
}

fn column<'a>(columns: &'a [(&str, EntityColumn)], name: &str) -> &'a EntityColumn {
    let found = columns.iter().find(|(known, _)| *known == name);
    &found.expect("the columns of every group that is read were collected").1
}

fn row_count(columns: &[(&str, EntityColumn)]) -> Result<usize, ApiError> {
    let mut rows: Option<(usize, &str)> = None;
    for (name, column) in columns {
        let Some(length) = column.rows() else {
            continue;
        };
        match rows {
            Some((expected, first)) if expected != length => {
                return Err(ApiError::new(
                    400,
                    "length_mismatch",
                    format!("`{first}` has {expected} rows and `{name}` has {length}"),
                    "give lists of one length; a single value holds for every row",
                ));
            }
            _ => rows = Some((length, name)),
        }
    }
    match rows {
        Some((rows, name)) if rows > ROWS_MAX => Err(ApiError::new(
            413,
            "too_large",
            format!("`{name}` has {rows} rows and {ROWS_MAX} are allowed"),
            "ask in several requests",
        )),
        rows => Ok(rows.map_or(1, |(rows, _)| rows)),
    }
}

/// One feature over all rows. A group whose entity is all scalars was read once.
///
/// `full_from` is given while the feature warms.
fn show(
    oldest: EventTime,
    full_from: Option<EventTime>,
    found: &[Option<StoredRow>],
    column: usize,
    rows: usize,
) -> Json {
    let mut values = Vec::with_capacity(rows);
    let mut statuses = Vec::with_capacity(rows);
    let mut event_times = Vec::with_capacity(rows);
    for row in 0..rows {
        let stored = if found.len() == rows { &found[row] } else { &found[0] };
        let (value, status, time) = match stored {
            None if full_from.is_some() => (Json::Null, "WARMING", Json::Null),
            None => (Json::Null, "NOT_FOUND", Json::Null),
            Some(stored) => {
                let value = &stored.values[column];
                let status = match value {
                    _ if stored.as_of < oldest => "OUTSIDE_MAX_AGE",
                    Value::Null if full_from.is_some_and(|full| stored.as_of < full) => "WARMING",
                    Value::Null => "NULL_VALUE",
                    _ => "PRESENT",
                };
                (json_of(value), status, Json::from(stored.as_of))
            }
        };
        values.push(value);
        statuses.push(Json::from(status));
        event_times.push(time);
    }
    json!({ "values": values, "statuses": statuses, "event_times": event_times })
}
