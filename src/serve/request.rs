//! Request: from JSON to typed columns, with everything a client may get wrong answered in its words.

use super::error::ApiError;
use crate::event::{ColumnType, Value, entity_key};
use crate::feature::GroupSpec;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value as Json;
use std::fmt;

/// A JSON object in the order it came; a name that stands in it twice is an error, not a choice.
#[derive(Debug, Default)]
pub(super) struct Fields(pub Vec<(String, Json)>);

impl Fields {
    pub fn get(&self, name: &str) -> Option<&Json> {
        self.0.iter().find(|(field, _)| field == name).map(|(_, value)| value)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of columns")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Fields, M::Error> {
                let mut fields = Fields::default();
                while let Some((name, value)) = map.next_entry::<String, Json>()? {
                    if fields.get(&name).is_some() {
                        return Err(M::Error::custom(format!("`{name}` stands there twice")));
                    }
                    fields.0.push((name, value));
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

pub(super) fn parse<T: DeserializeOwned>(body: &[u8], example: &str) -> Result<T, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::new(400, "bad_request", error.to_string(), format!("send such as {example}")))
}

/// One column of an entity in a request.
#[derive(Debug)]
pub(super) enum EntityColumn {
    All(Value),
    Rows(Vec<Value>),
}

impl EntityColumn {
    /// Reads a scalar or a list of the entity column's type.
    pub fn read(name: &str, json: &Json, column_type: ColumnType) -> Result<EntityColumn, ApiError> {
        match json {
            Json::Array(items) => {
                let value = |(row, item)| entity_value(name, Some(row), item, column_type);
                Ok(EntityColumn::Rows(items.iter().enumerate().map(value).collect::<Result<_, _>>()?))
            }
            scalar => Ok(EntityColumn::All(entity_value(name, None, scalar, column_type)?)),
        }
    }

    pub fn rows(&self) -> Option<usize> {
        match self {
            EntityColumn::All(_) => None,
            EntityColumn::Rows(rows) => Some(rows.len()),
        }
    }

    fn get(&self, row: usize) -> &Value {
        match self {
            EntityColumn::All(value) => value,
            EntityColumn::Rows(values) => &values[row],
        }
    }
}

/// The keys of a group's entities: one if every column is a scalar, else one per row.
pub(super) fn entity_keys(columns: &[&EntityColumn]) -> Vec<String> {
    let rows = columns.iter().find_map(|column| column.rows()).unwrap_or(1);
    let mut values = Vec::with_capacity(columns.len());
    let key = |row| {
        values.clear();
        values.extend(columns.iter().map(|column| column.get(row).clone()));
        entity_key(&values).expect("null and lists are refused when the column is read")
    };
    (0..rows).map(key).collect()
}

fn entity_value(name: &str, row: Option<usize>, json: &Json, column_type: ColumnType) -> Result<Value, ApiError> {
    let value = match (column_type, json) {
        (ColumnType::String, Json::String(text)) => Some(Value::Text(text.as_str().into())),
        (ColumnType::Int64, Json::Number(number)) => number.as_i64().map(Value::Int),
        (ColumnType::Int32, Json::Number(number)) => {
            number.as_i64().filter(|number| i32::try_from(*number).is_ok()).map(Value::Int)
        }
        (ColumnType::Timestamp, Json::Number(number)) => number.as_i64().map(Value::Time),
        (ColumnType::Float32, Json::Number(number)) => number.as_f64().map(|number| Value::Float(number as f32 as f64)),
        (ColumnType::Float64, Json::Number(number)) => number.as_f64().map(Value::Float),
        (ColumnType::Bool, Json::Bool(flag)) => Some(Value::Bool(*flag)),
        _ => None,
    };
    value.ok_or_else(|| {
        let place = row.map(|row| format!(", row {row}")).unwrap_or_default();
        let help = match column_type {
            ColumnType::Timestamp => "a timestamp is a number of milliseconds since 1970".to_owned(),
            ColumnType::String if json.is_number() => format!("write it as a string: \"{json}\""),
            other => format!("send {} {}", if other == ColumnType::Int32 { "an" } else { "a" }, other.name()),
        };
        ApiError::new(422, "wrong_type", format!("`{name}`{place}: {json} is not a {}", column_type.name()), help)
    })
}

/// A context value: what the model makes of it is checked when it is fed.
pub(super) fn context_value(name: &str, json: &Json) -> Result<Value, ApiError> {
    Ok(match json {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::String(text) => Value::Text(text.as_str().into()),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => Value::Int(number),
            (None, number) => Value::Float(number.unwrap_or(f64::NAN)),
        },
        Json::Array(_) | Json::Object(_) => {
            return Err(ApiError::new(
                422,
                "wrong_type",
                format!("context `{name}`: {json} is not a single value"),
                "send one value, or a list with one value per candidate",
            ));
        }
    })
}

/// The type of an entity column, if any group has one of that name.
pub(super) fn entity_type(groups: &[GroupSpec], name: &str) -> Option<ColumnType> {
    groups
        .iter()
        .flat_map(|group| &group.entity)
        .find(|(column, _)| column == name)
        .map(|(_, column_type)| *column_type)
}

pub(super) fn unknown_entity(groups: &[GroupSpec], name: &str) -> ApiError {
    let known = groups.iter().flat_map(|group| &group.entity).map(|(column, _)| column.as_str());
    ApiError::unknown("unknown_entity", "entity", name, known)
}

/// A stored value as JSON. Floats that JSON has no number for are the strings `NaN`, `Infinity` and `-Infinity`.
pub(super) fn json_of(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(flag) => Json::Bool(*flag),
        Value::Int(number) | Value::Time(number) => Json::from(*number),
        Value::Float(number) if number.is_nan() => Json::from("NaN"),
        Value::Float(number) if number.is_infinite() => {
            Json::from(if *number > 0.0 { "Infinity" } else { "-Infinity" })
        }
        Value::Float(number) => Json::from(*number),
        Value::Text(text) => Json::from(text.as_ref()),
        Value::List(items) => Json::Array(items.iter().map(json_of).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_for_a_string_is_answered_with_how_to_write_it() {
        let error = entity_value("user_id", Some(3), &Json::from(17), ColumnType::String).expect_err("not a string");
        assert_eq!((error.status, error.code), (422, "wrong_type"));
        assert!(error.message.contains("row 3") && error.help.contains("\"17\""), "{error:?}");
    }

    #[test]
    fn integers_keep_all_their_digits_and_their_range() {
        let big = Json::from(i64::MAX);
        assert_eq!(entity_value("id", None, &big, ColumnType::Int64), Ok(Value::Int(i64::MAX)));
        assert!(entity_value("id", None, &big, ColumnType::Int32).is_err());
        assert!(entity_value("id", None, &Json::from(1.5), ColumnType::Int64).is_err());
        assert!(entity_value("id", None, &Json::Null, ColumnType::String).is_err());
    }

    #[test]
    fn a_name_given_twice_is_refused() {
        let error = serde_json::from_str::<Fields>(r#"{"a": 1, "a": 2}"#).expect_err("twice");
        assert!(error.to_string().contains("`a`"), "{error}");
    }

    #[test]
    fn scalars_are_spread_over_the_rows_of_the_other_columns() {
        let user = EntityColumn::All(Value::Text("u".into()));
        let item = EntityColumn::Rows(vec![Value::Int(1), Value::Int(2)]);
        assert_eq!(entity_keys(&[&user, &item]), ["u:1", "u:2"]);
        assert_eq!(entity_keys(&[&user]), ["u"]);
    }
}
