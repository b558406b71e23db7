//! Redis: a hash per key, its fields the columns; the keys of a request in one pipeline of `HMGET`.
//!
//! Holds: every request may be sent again. A field that is no value of its column is null, told and counted; a key that is no
//! hash is as one that is not there.

use super::cells::{expected, parse, text_at, value_at};
use super::remote::{Fetch, Row};
use super::{DimensionError, DimensionGauge, DimensionSpec, KeyPart, RedisDimension};
use crate::event::Value;
use ::redis::{Client, Connection, ConnectionLike, ErrorKind, IntoConnectionInfo, RedisError};
use arrow::array::ArrayRef;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// The server holds the answers of one pipeline in memory.
const COMMANDS_MAX: usize = 1_000;

pub(super) struct RedisHashes {
    spec: Arc<DimensionSpec>,
    key: Vec<KeyPart>,
    /// The columns that are fields, by their numbers.
    fields: Vec<usize>,
    client: Client,
    /// For messages: name and address, without credentials.
    label: String,
    idle: Mutex<Vec<Connection>>,
    gauge: Arc<DimensionGauge>,
}

impl RedisHashes {
    /// Does not connect yet.
    pub fn open(
        spec: Arc<DimensionSpec>,
        redis: &RedisDimension,
        gauge: Arc<DimensionGauge>,
    ) -> Result<RedisHashes, DimensionError> {
        let refuse = |error: RedisError| DimensionError {
            dimension: spec.name.clone(),
            message: format!("the URL of connection `{}` cannot be used: {error}", redis.connection),
            retry: false,
        };
        let info = redis.url.as_str().into_connection_info().map_err(refuse)?;
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_tcp_settings(tcp);
        let label = format!("{} ({})", redis.connection, info.addr());
        let client = Client::open(info).map_err(refuse)?;
        let fields = (0..spec.columns.len()).filter(|column| !spec.key.contains(column)).collect();
        let (key, idle) = (redis.key.clone(), Mutex::default());
        Ok(RedisHashes { spec, key, fields, client, label, idle, gauge })
    }

    fn connect(&self) -> Result<Connection, RedisError> {
        let connection = self.client.get_connection_with_timeout(CONNECT_TIMEOUT)?;
        connection.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
        connection.set_write_timeout(Some(RESPONSE_TIMEOUT))?;
        Ok(connection)
    }

    /// A kept connection may have died unnoticed: then it is asked once more on a fresh one.
    fn round_trip(&self, request: &[u8], commands: usize) -> Result<Vec<::redis::Value>, RedisError> {
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let answered = kept.and_then(|mut connection| {
            let answers = connection.req_packed_commands(request, 0, commands).ok()?;
            Some((connection, answers))
        });
        let (connection, answers) = match answered {
            Some(answered) => answered,
            None => {
                let mut connection = self.connect()?;
                let answers = connection.req_packed_commands(request, 0, commands)?;
                (connection, answers)
            }
        };
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(answers)
    }

    fn error(&self, error: &RedisError) -> DimensionError {
        let refused = [ErrorKind::AuthenticationFailed, ErrorKind::InvalidClientConfig].contains(&error.kind());
        let message = format!("Redis {}: {error}", self.label);
        DimensionError { dimension: self.spec.name.clone(), message, retry: !refused }
    }

    fn name_of(&self, keys: &[ArrayRef], row: usize) -> String {
        let mut name = String::new();
        for part in &self.key {
            match part {
                KeyPart::Text(text) => name.push_str(text),
                KeyPart::Column(column) => name.push_str(&text_at(&keys[*column], row)),
            }
        }
        name
    }

    /// The row of a key, if it is there.
    fn row(&self, keys: &[ArrayRef], row: usize, answer: ::redis::Value) -> Result<Option<Row>, DimensionError> {
        let fields = match answer {
            ::redis::Value::Array(fields) => fields,
            ::redis::Value::ServerError(error) if error.code() == "WRONGTYPE" => {
                self.tell(&format!("key `{}` is no hash: {error:?}", self.name_of(keys, row)));
                return Ok(None);
            }
            other => {
                let error = other.extract_error().err();
                let message = format!(
                    "Redis {}: {}",
                    self.label,
                    error.map_or("an answer of another kind".into(), |e| e.to_string())
                );
                return Err(DimensionError { dimension: self.spec.name.clone(), message, retry: true });
            }
        };
        if fields.iter().all(|field| *field == ::redis::Value::Nil) {
            return Ok(None);
        }
        let mut values: Row = vec![Value::Null; self.spec.columns.len()].into();
        for (key, column) in keys.iter().zip(&self.spec.key) {
            values[*column] = value_at(key, row);
        }
        for (field, &number) in fields.into_iter().zip(&self.fields) {
            let ::redis::Value::BulkString(bytes) = field else { continue };
            let column = &self.spec.columns[number];
            let text = String::from_utf8_lossy(&bytes);
            match parse(&text, column) {
                Some(value) => values[number] = value,
                None => {
                    let (name, field, expected) = (self.name_of(keys, row), &column.source_name, expected(column));
                    self.tell(&format!("key `{name}`, field `{field}`: found `{text}`, expected {expected}"));
                }
            }
        }
        Ok(Some(values))
    }

    fn tell(&self, found: &str) {
        self.gauge.failures.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("dimension {}: Redis {}: {found}; it is taken as null", self.spec.name, self.label);
    }
}

impl Fetch for RedisHashes {
    fn probe(&self) -> Result<(), DimensionError> {
        let ping = ::redis::cmd("PING").get_packed_command();
        let answers = self.round_trip(&ping, 1).map_err(|error| self.error(&error))?;
        let refused = answers.into_iter().find_map(|answer| answer.extract_error().err());
        refused.map_or(Ok(()), |error| Err(self.error(&error)))
    }

    fn fetch(&self, keys: &[ArrayRef]) -> Result<Vec<Vec<Row>>, DimensionError> {
        let count = keys.first().map_or(0, |key| key.len());
        let mut rows = Vec::with_capacity(count);
        for first in (0..count).step_by(COMMANDS_MAX) {
            let last = count.min(first + COMMANDS_MAX);
            let mut request = Vec::new();
            for row in first..last {
                let mut command = ::redis::cmd("HMGET");
                command.arg(self.name_of(keys, row));
                self.fields.iter().for_each(|column| {
                    command.arg(&self.spec.columns[*column].source_name);
                });
                request.extend(command.get_packed_command());
            }
            let answers = self.round_trip(&request, last - first).map_err(|error| self.error(&error))?;
            for (row, answer) in (first..last).zip(answers) {
                rows.push(self.row(keys, row, answer)?.into_iter().collect());
            }
        }
        Ok(rows)
    }
}
