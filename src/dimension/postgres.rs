//! Postgres: a table or view; the keys of a request in one query, every version of each.
//!
//! ```text
//!   unnest($1, …) WITH ORDINALITY ── JOIN table ON its key ──> number of the key, columns
//! ```
//!
//! What a column is there is asked once per connection: keys are handed over in its type, so that its index serves, and
//! values come back in ours.
//! Holds: nothing is written; a key that cannot be of the column's type is a key that is not there.

use super::cells::value_at;
use super::remote::{Fetch, Row};
use super::{DimensionColumn, DimensionError, DimensionSpec, DimensionTime, PostgresDimension};
use crate::event::{ColumnType, Value};
use ::postgres::error::SqlState;
use ::postgres::{Client, Config, Error, NoTls, Statement};
use arrow::array::{Array, ArrayRef};
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that is silent for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(10);
const STATEMENT_TIMEOUT: &str = "-c statement_timeout=30000";

pub(super) struct PostgresTable {
    spec: Arc<DimensionSpec>,
    table: String,
    config: Config,
    /// For messages: name and address, without credentials.
    label: String,
    idle: Mutex<Vec<Connection>>,
}

/// A connection that knows the query.
struct Connection {
    client: Client,
    query: Statement,
    /// Per key column, what its values are there.
    keys: Vec<KeyType>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyType {
    Text,
    Uuid,
    Int,
    Bool,
}

impl KeyType {
    fn array(self, found: &str) -> &'static str {
        match self {
            // Blanks at its end mean nothing to this type.
            KeyType::Text if found == "character" => "bpchar[]",
            KeyType::Text => "text[]",
            KeyType::Uuid => "uuid[]",
            KeyType::Int => "bigint[]",
            KeyType::Bool => "boolean[]",
        }
    }
}

/// Why a connection was not made.
enum Failed {
    Postgres(Error),
    Declared(String),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed::Postgres(error)
    }
}

impl PostgresTable {
    /// Does not connect yet.
    pub fn open(spec: Arc<DimensionSpec>, postgres: &PostgresDimension) -> Result<PostgresTable, DimensionError> {
        let mut config: Config = postgres.url.parse().map_err(|error| DimensionError {
            dimension: spec.name.clone(),
            message: format!("the URL of connection `{}` cannot be used: {error}", postgres.connection),
            retry: false,
        })?;
        config.connect_timeout(CONNECT_TIMEOUT).keepalives_idle(SILENCE_MAX).tcp_user_timeout(SILENCE_MAX);
        if config.get_options().is_none() {
            config.options(STATEMENT_TIMEOUT);
        }
        if config.get_application_name().is_none() {
            config.application_name("conjoin");
        }
        let hosts = config.get_hosts().iter().zip(config.get_ports().iter().chain(std::iter::repeat(&5432)));
        let hosts: Vec<String> = hosts.map(|(host, port)| format!("{}:{port}", host_text(host))).collect();
        let label = format!("{} ({})", postgres.connection, hosts.join(", "));
        Ok(PostgresTable { spec, table: postgres.table.clone(), config, label, idle: Mutex::default() })
    }

    fn connect(&self) -> Result<Connection, Failed> {
        let mut client = self.config.connect(NoTls)?;
        // Each part as it was written, so that capitals count as they do for every other name.
        let table = self.table.split('.').map(quoted).collect::<Vec<_>>().join(".");
        let there = client.query_one("SELECT to_regclass($1)::text", &[&table])?.get::<_, Option<String>>(0);
        if there.is_none() {
            let help = "check its name and schema, and that this user may see it";
            return Err(Failed::Declared(format!("there is no table `{}`: {help}", self.table)));
        }
        let columns = client.query(
            "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute \
             WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped",
            &[&table],
        )?;
        let columns: Vec<(String, String)> = columns.iter().map(|row| (row.get(0), row.get(1))).collect();
        let found = |column: &DimensionColumn| {
            let known = columns.iter().find(|(name, _)| *name == column.source_name);
            known.map(|(_, found)| found.as_str()).ok_or_else(|| {
                let known: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
                let (table, name) = (&self.table, &column.source_name);
                Failed::Declared(format!("the table `{table}` has no column `{name}`; it has {}", known.join(", ")))
            })
        };
        let (mut selected, mut keys, mut arrays, mut on) = (String::new(), Vec::new(), Vec::new(), Vec::new());
        for (number, column) in self.spec.columns.iter().enumerate() {
            let is_from = self.spec.valid_from == Some(number);
            let expression = expression(column, found(column)?, is_from).map_err(Failed::Declared)?;
            let _ = write!(selected, ", {expression}");
        }
        for (place, column) in self.spec.key.iter().map(|number| &self.spec.columns[*number]).enumerate() {
            let type_there = found(column)?;
            let key = key_type(column, type_there).map_err(Failed::Declared)?;
            arrays.push(format!("${}::text::{}", place + 1, key.array(type_there)));
            on.push(format!("t.{} = k.k{place}", quoted(&column.source_name)));
            keys.push(key);
        }
        let names: Vec<String> = (0..keys.len()).map(|place| format!("k{place}")).collect();
        let query = format!(
            "SELECT k.number::int8{selected} FROM unnest({}) WITH ORDINALITY AS k({}, number) JOIN {table} AS t ON {}",
            arrays.join(", "),
            names.join(", "),
            on.join(" AND "),
        );
        let query = client.prepare(&query)?;
        Ok(Connection { client, query, keys })
    }

    /// A kept connection may have died unnoticed: then it is asked once more on a fresh one.
    fn with<T>(&self, ask: impl Fn(&mut Connection) -> Result<T, Error>) -> Result<T, DimensionError> {
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let answered = kept.and_then(|mut connection| Some((ask(&mut connection).ok()?, connection)));
        let answered = match answered {
            Some(answered) => Ok(answered),
            None => self.connect().and_then(|mut connection| Ok((ask(&mut connection)?, connection))),
        };
        let (answer, connection) = answered.map_err(|failed| self.error(failed))?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(answer)
    }

    fn error(&self, failed: Failed) -> DimensionError {
        let (message, retry) = match failed {
            Failed::Declared(message) => (message, false),
            Failed::Postgres(error) => {
                let retry = error.code().is_none_or(passes);
                // The text of the crate says where it failed, that of its source what.
                let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
                (format!("{error}{}", source.unwrap_or_default()), retry)
            }
        };
        DimensionError {
            dimension: self.spec.name.clone(),
            message: format!("Postgres {}: {message}", self.label),
            retry,
        }
    }
}

impl Fetch for PostgresTable {
    fn probe(&self) -> Result<(), DimensionError> {
        self.with(|connection| connection.client.simple_query("SELECT 1").map(drop))
    }

    fn fetch(&self, keys: &[ArrayRef]) -> Result<Vec<Vec<Row>>, DimensionError> {
        let count = keys.first().map_or(0, |key| key.len());
        self.with(|connection| {
            let arrays: Vec<String> = keys.iter().zip(&connection.keys).map(|(key, of)| array_text(key, *of)).collect();
            let arrays: Vec<&(dyn ::postgres::types::ToSql + Sync)> = arrays.iter().map(|text| text as _).collect();
            let mut rows: Vec<Vec<Row>> = (0..count).map(|_| Vec::new()).collect();
            for row in connection.client.query(&connection.query, &arrays)? {
                let number: i64 = row.try_get(0)?;
                let values = self.spec.columns.iter().enumerate();
                let values = values.map(|(at, column)| value(&row, at + 1, column)).collect::<Result<Row, Error>>()?;
                if let Some(rows) = rows.get_mut(number as usize - 1) {
                    rows.push(values);
                }
            }
            Ok(rows)
        })
    }
}

/// Whether an error of the server may pass without anybody's doing.
fn passes(code: &SqlState) -> bool {
    // Connections, resources, an operator who restarts it, a conflict, a statement that took too long.
    ["08", "53", "57", "58", "40", "55"].contains(&code.code().get(..2).unwrap_or_default())
}

fn host_text(host: &::postgres::config::Host) -> String {
    match host {
        ::postgres::config::Host::Tcp(host) => host.clone(),
        #[cfg(unix)]
        ::postgres::config::Host::Unix(path) => path.display().to_string(),
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn is_int(found: &str) -> bool {
    matches!(found, "smallint" | "integer" | "bigint")
}

fn is_time(found: &str) -> bool {
    matches!(found, "timestamp without time zone" | "timestamp with time zone" | "date")
}

fn key_type(column: &DimensionColumn, found: &str) -> Result<KeyType, String> {
    Ok(match (column.column_type, found) {
        (ColumnType::String, "text" | "character varying" | "character") => KeyType::Text,
        (ColumnType::String, "uuid") => KeyType::Uuid,
        (ColumnType::Int32 | ColumnType::Int64, found) if is_int(found) => KeyType::Int,
        (ColumnType::Bool, "boolean") => KeyType::Bool,
        _ => {
            let (name, declared) = (&column.source_name, column.column_type.name());
            return Err(format!("the key column `{name}` is {found} there, and {declared} here: they never meet"));
        }
    })
}

/// A column in our type.
fn expression(column: &DimensionColumn, found: &str, is_from: bool) -> Result<String, String> {
    let name = format!("t.{}", quoted(&column.source_name));
    let numeric = is_int(found) || matches!(found, "real" | "double precision" | "numeric");
    Ok(match column.column_type {
        ColumnType::String => format!("{name}::text"),
        ColumnType::Int32 | ColumnType::Int64 if is_int(found) => format!("{name}::int8"),
        ColumnType::Float32 | ColumnType::Float64 if numeric => format!("{name}::float8"),
        ColumnType::Bool if found == "boolean" => name,
        ColumnType::Timestamp if is_int(found) => match column.unit {
            DimensionTime::Seconds => format!("({name}::int8 * 1000)"),
            DimensionTime::Micros => format!("floor({name} / 1000.0)::int8"),
            DimensionTime::Millis | DimensionTime::Rfc3339 => format!("{name}::int8"),
        },
        ColumnType::Timestamp if is_time(found) => {
            // Since ever is null, which holds from the beginning; what begins at the end of time never holds.
            let never = if is_from { format!("WHEN {name} > 'epoch'::date THEN {}", i64::MAX) } else { String::new() };
            format!("CASE WHEN isfinite({name}) THEN floor(extract(epoch FROM {name}) * 1000)::int8 {never} END")
        }
        _ => {
            let (name, declared) = (&column.source_name, column.column_type.name());
            return Err(format!("the column `{name}` is {found} there, which cannot be {declared}"));
        }
    })
}

fn value(row: &::postgres::Row, at: usize, column: &DimensionColumn) -> Result<Value, Error> {
    let value = match column.column_type {
        ColumnType::String => row.try_get::<_, Option<String>>(at)?.map(|text| Value::Text(text.into())),
        ColumnType::Int32 | ColumnType::Int64 => row.try_get::<_, Option<i64>>(at)?.map(Value::Int),
        ColumnType::Float32 | ColumnType::Float64 => row.try_get::<_, Option<f64>>(at)?.map(Value::Float),
        ColumnType::Bool => row.try_get::<_, Option<bool>>(at)?.map(Value::Bool),
        ColumnType::Timestamp => row.try_get::<_, Option<i64>>(at)?.map(Value::Time),
    };
    Ok(value.unwrap_or(Value::Null))
}

/// Keys as an array in Postgres' own text; null where the column cannot have such a value.
fn array_text(keys: &ArrayRef, of: KeyType) -> String {
    let mut text = String::from("{");
    for row in 0..keys.len() {
        if row > 0 {
            text.push(',');
        }
        // Writing to memory cannot fail.
        let _ = match value_at(keys, row) {
            Value::Text(key) if key.contains('\0') || (of == KeyType::Uuid && !is_uuid(&key)) => text.write_str("NULL"),
            Value::Text(key) => write!(text, "\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\"")),
            Value::Int(key) => write!(text, "{key}"),
            Value::Bool(key) => write!(text, "{key}"),
            _ => text.write_str("NULL"),
        };
    }
    text.push('}');
    text
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}
