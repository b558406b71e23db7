//! Redis: the online store that other programs read too.
//!
//!   ctr:item:i42 -> { item_clicks_1h: "3", item_ctr_1h: "0.125", _ts: "1764000000000", _v: "019aa…-…" }
//!
//! A row is written by one script per key: it compares `_v`, replaces the fields, drops those that became null and
//! renews the TTL. A request is encoded straight into one buffer and answered in one round trip.
//!
//! Holds: newest wins, atomically per key; after an unclear outcome (timeout, closed connection) the same write may
//! be sent again; what the server loses is found out by a [canary](super::canary::Canary). Does not: wait for a server that is away, that is the writer's part; read a clock; know lanes.

use super::canary::Canary;
use super::resp::Request;
use super::{OnlineStore, ReadRequest, StoreError, StoreErrorKind, StoreGroup, StoredRow, Write, WriteSummary, text};
use crate::event::{DurationMs, Value};
use ::redis::{Client, Connection, ConnectionLike, ErrorKind, IntoConnectionInfo, RedisError, ServerErrorKind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

const WRITE_SCRIPT: &str = "\
local have = redis.call('HGET', KEYS[1], '_v')
if have then
  if have == ARGV[1] then return 1 end
  if have > ARGV[1] then return 0 end
end
local nulls = tonumber(ARGV[4])
if nulls > 0 then redis.call('HDEL', KEYS[1], unpack(ARGV, 5, 4 + nulls)) end
redis.call('HSET', KEYS[1], '_v', ARGV[1], '_ts', ARGV[2], unpack(ARGV, 5 + nulls))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1";

const FIELD_VERSION: &str = "_v";
const FIELD_TIME: &str = "_ts";

#[derive(Clone, Copy, Debug)]
pub struct RedisLimits {
    /// Commands per pipelined write; the server holds the answers of one in memory.
    pub pipeline_commands_max: usize,
    pub pipeline_bytes_max: usize,
    pub connect_timeout: Duration,
    pub response_timeout: Duration,
    /// Connections kept open when idle. As many are opened as there are concurrent calls.
    pub idle_connections_max: usize,
}

impl Default for RedisLimits {
    fn default() -> Self {
        RedisLimits {
            pipeline_commands_max: 500,
            pipeline_bytes_max: 1 << 20,
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(2),
            idle_connections_max: 16,
        }
    }
}

pub struct RedisStore {
    client: Client,
    /// For messages: name and address, without credentials.
    label: String,
    groups: Vec<RedisGroup>,
    limits: RedisLimits,
    script_hash: String,
    idle: Mutex<Vec<Connection>>,
    /// The pipeline's part of a key.
    pipeline: String,
    /// Of the one writer, if there is one.
    canary: Mutex<Option<Canary>>,
}

struct RedisGroup {
    spec: StoreGroup,
    /// `{pipeline}:{group}:`.
    prefix: String,
}

impl RedisStore {
    /// `connection` is the name in the pipeline file, for messages. Does not connect yet.
    pub fn open(
        connection: &str,
        url: &str,
        pipeline: &str,
        groups: Vec<StoreGroup>,
        limits: RedisLimits,
    ) -> Result<Self, StoreError> {
        groups.iter().try_for_each(StoreGroup::check)?;
        let refuse = |message: String| StoreError::new(StoreErrorKind::Address, connection, message);
        let info = url.into_connection_info().map_err(|error| refuse(format!("the URL cannot be used: {error}")))?;
        if !info.addr().is_supported() {
            return Err(refuse("rediss:// (TLS) is not supported yet".to_owned()));
        }
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_tcp_settings(tcp);
        let label = format!("{connection} ({})", info.addr());
        let client = Client::open(info).map_err(|error| refuse(format!("the URL cannot be used: {error}")))?;
        let mut pipeline_key = String::new();
        crate::event::push_entity_text(&mut pipeline_key, pipeline);
        let groups = groups
            .into_iter()
            .map(|spec| {
                let mut prefix = format!("{pipeline_key}:");
                crate::event::push_entity_text(&mut prefix, &spec.name);
                prefix.push(':');
                RedisGroup { spec, prefix }
            })
            .collect();
        let script_hash = ::redis::Script::new(WRITE_SCRIPT).get_hash().to_owned();
        Ok(RedisStore {
            client,
            label,
            groups,
            limits,
            script_hash,
            idle: Mutex::new(Vec::new()),
            pipeline: pipeline_key,
            canary: Mutex::new(None),
        })
    }

    fn connect(&self) -> Result<Connection, StoreError> {
        let connection = self.client.get_connection_with_timeout(self.limits.connect_timeout);
        let connection = connection.map_err(|error| self.error(&error))?;
        let timeout = Some(self.limits.response_timeout);
        connection.set_read_timeout(timeout).map_err(|error| self.error(&error))?;
        connection.set_write_timeout(timeout).map_err(|error| self.error(&error))?;
        Ok(connection)
    }

    /// Sends one buffer of commands and takes their answers. A kept connection may have died unnoticed, so a failure
    /// on one is tried again on a fresh one: everything this store sends may be repeated.
    fn round_trip(&self, request: &Request) -> Result<Vec<::redis::Value>, StoreError> {
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(mut connection) = kept
            && let Ok(answers) = connection.req_packed_commands(&request.bytes, 0, request.commands)
        {
            self.keep(connection);
            return Ok(answers);
        }
        let mut connection = self.connect()?;
        let answers = connection.req_packed_commands(&request.bytes, 0, request.commands);
        let answers = answers.map_err(|error| self.error(&error))?;
        self.keep(connection);
        Ok(answers)
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.limits.idle_connections_max {
            idle.push(connection);
        }
    }

    fn error(&self, error: &RedisError) -> StoreError {
        StoreError::new(classify(error), &self.label, error.to_string())
    }

    /// Sends a pipeline of writes; once more with the script itself if the server does not know its hash.
    fn send_writes(&self, writes: &mut Request, summary: &mut WriteSummary) -> Result<(), StoreError> {
        if writes.commands == 0 {
            return Ok(());
        }
        let mark = self.mark(writes);
        let mut answers = self.round_trip(writes)?;
        let mut marked = self.hear(mark, &mut answers);
        let unknown = |answer: &::redis::Value| matches!(answer, ::redis::Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript));
        if answers.iter().any(unknown) {
            let mut load = Request::default();
            load.command(3);
            load.args(&["SCRIPT", "LOAD", WRITE_SCRIPT]);
            load.bytes.append(&mut writes.bytes);
            load.commands += writes.commands;
            answers = self.round_trip(&load)?;
            marked = self.hear(mark, &mut answers);
            self.accept(answers.remove(0))?;
        }
        *writes = Request::default();
        for answer in answers {
            match self.accept(answer) {
                Ok(::redis::Value::Int(1)) => summary.written += 1,
                Ok(_) => summary.stale += 1,
                Err(error) if error.kind == StoreErrorKind::WrongType => {
                    summary.refused += 1;
                    summary.refusal.get_or_insert_with(|| error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        marked
    }

    fn canary(&self) -> MutexGuard<'_, Option<Canary>> {
        self.canary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a request with the mark of whoever watches; its number.
    fn mark(&self, request: &mut Request) -> Option<i64> {
        self.canary().as_mut().map(|canary| canary.mark(request))
    }

    /// Takes the answer to the mark off the end. Rows that were written are so, whatever became of it.
    fn hear(&self, mark: Option<i64>, answers: &mut Vec<::redis::Value>) -> Result<(), StoreError> {
        let Some((number, answer)) = mark.zip(answers.pop_if(|_| mark.is_some())) else { return Ok(()) };
        if let Some(canary) = self.canary().as_mut() {
            canary.heard(number, &answer);
        }
        self.accept(answer).map(drop)
    }

    fn accept(&self, answer: ::redis::Value) -> Result<::redis::Value, StoreError> {
        answer.extract_error().map_err(|error| self.error(&error))
    }

    fn push_write(&self, request: &mut Request, write: &Write<'_>, version: &str, row: usize, scratch: &mut Vec<u8>) {
        let group = &self.groups[write.batch.group as usize];
        let entity = &write.batch.entities[row];
        let columns = write.batch.values.columns();
        let nulls = columns.iter().filter(|column| column.is_null(row)).count();
        request.command(8 + nulls + 2 * (columns.len() - nulls));
        // EVALSHA, hash, count and key; version, time, TTL and the number of nulls.
        request.args(&["EVALSHA", &self.script_hash, "1"]);
        let key = request.arg_parts(&group.prefix, entity);
        let ttl_ms = jittered(group.spec.ttl_ms, xxh3_64(&request.bytes[key]));
        request.args(&[version]);
        request.number(write.batch.as_of);
        request.number(ttl_ms);
        request.number(nulls as i64);
        let fields = group.spec.outputs.fields();
        for (column, field) in columns.iter().zip(fields) {
            if column.is_null(row) {
                request.args(&[field.name()]);
            }
        }
        for (column, field) in columns.iter().zip(fields) {
            if !column.is_null(row) {
                scratch.clear();
                text::push_text(scratch, column, row);
                request.args(&[field.name()]);
                request.arg(scratch);
            }
        }
    }

    fn row(&self, group: &RedisGroup, request: &ReadRequest<'_>, entity: &str, answer: ::redis::Value) -> RowResult {
        let unreadable = |field: &str, found: &str| {
            let key = format!("{}{entity}", group.prefix);
            let message = format!("key `{key}`, field `{field}`: `{found}` does not fit the pipeline file");
            StoreError::new(StoreErrorKind::Unreadable, &self.label, message)
        };
        let mut fields = match self.accept(answer)? {
            ::redis::Value::Array(fields) => fields.into_iter(),
            other => return Err(unreadable("*", &format!("{other:?}"))),
        };
        let mut next = |name: &str| match fields.next() {
            Some(::redis::Value::BulkString(bytes)) => match String::from_utf8(bytes) {
                Ok(text) => Ok(Some(text)),
                Err(error) => Err(unreadable(name, &String::from_utf8_lossy(error.as_bytes()))),
            },
            _ => Ok(None),
        };
        let (version, as_of) = (next(FIELD_VERSION)?, next(FIELD_TIME)?);
        let (Some(version), Some(as_of)) = (version, as_of) else {
            return Ok(None);
        };
        let version = version.parse().map_err(|_| unreadable(FIELD_VERSION, &version))?;
        let as_of = as_of.parse().map_err(|_| unreadable(FIELD_TIME, &as_of))?;
        let mut values = Vec::with_capacity(request.outputs.len());
        for &output in request.outputs {
            let name = group.spec.outputs.field(output).name();
            values.push(match next(name)? {
                None => Value::Null,
                Some(text) => {
                    let value = text::parse_text(&text, group.spec.data_type(output));
                    value.ok_or_else(|| unreadable(name, &text))?
                }
            });
        }
        Ok(Some(StoredRow { values, as_of, version }))
    }
}

type RowResult = Result<Option<StoredRow>, StoreError>;

impl OnlineStore for RedisStore {
    fn write(&self, writes: &[Write<'_>]) -> Result<WriteSummary, StoreError> {
        let mut summary = WriteSummary::default();
        let mut request = Request::default();
        let mut scratch = Vec::with_capacity(64);
        for write in writes {
            let version = write.version.to_string();
            for &row in write.rows {
                self.push_write(&mut request, write, &version, row as usize, &mut scratch);
                if request.commands >= self.limits.pipeline_commands_max
                    || request.bytes.len() >= self.limits.pipeline_bytes_max
                {
                    self.send_writes(&mut request, &mut summary)?;
                }
            }
        }
        self.send_writes(&mut request, &mut summary)?;
        Ok(summary)
    }

    fn read(&self, requests: &[ReadRequest<'_>]) -> Result<Vec<Vec<Option<StoredRow>>>, StoreError> {
        let mut packed = Request::default();
        for request in requests {
            let group = &self.groups[request.group as usize];
            for entity in request.entities {
                packed.command(4 + request.outputs.len());
                packed.args(&["HMGET"]);
                packed.arg_parts(&group.prefix, entity);
                packed.args(&[FIELD_VERSION, FIELD_TIME]);
                for &output in request.outputs {
                    packed.args(&[group.spec.outputs.field(output).name()]);
                }
            }
        }
        if packed.commands == 0 {
            return Ok(vec![Vec::new(); requests.len()]);
        }
        let mut answers = self.round_trip(&packed)?.into_iter();
        let rows = |request: &ReadRequest<'_>| {
            let group = &self.groups[request.group as usize];
            let entities = request.entities.iter().zip(answers.by_ref());
            entities.map(|(entity, answer)| self.row(group, request, entity, answer)).collect()
        };
        requests.iter().map(rows).collect()
    }

    fn ping(&self) -> Result<(), StoreError> {
        let mut ping = Request::default();
        ping.command(1);
        ping.args(&["PING"]);
        let mark = self.mark(&mut ping);
        let mut answers = self.round_trip(&ping)?;
        let marked = self.hear(mark, &mut answers);
        for answer in answers {
            self.accept(answer)?;
        }
        marked
    }

    fn watch(&self, instance: u64) {
        *self.canary() = Some(Canary::new(&self.pipeline, instance));
    }

    fn losses(&self) -> u64 {
        self.canary().as_ref().map_or(0, |canary| canary.losses)
    }
}

/// Within 10 % of `ttl_ms`, so that rows written together do not expire together; the same for a key every time.
fn jittered(ttl_ms: DurationMs, key_hash: u64) -> DurationMs {
    let per_mille = 900 + (key_hash % 201) as i64;
    (ttl_ms as i128 * per_mille as i128 / 1000).clamp(1, i64::MAX as i128 / 2) as i64
}

fn classify(error: &RedisError) -> StoreErrorKind {
    use StoreErrorKind::*;
    let by_code = |code: &str| match code {
        "LOADING" => Some(Loading),
        "READONLY" | "MASTERDOWN" => Some(ReadOnly),
        "OOM" => Some(OutOfMemory),
        "WRONGTYPE" => Some(WrongType),
        "MISCONF" => Some(CannotPersist),
        "NOAUTH" | "WRONGPASS" => Some(Authentication),
        "NOPERM" => Some(NoPermission),
        _ => None,
    };
    if let Some(kind) = error.code().and_then(by_code) {
        return kind;
    }
    // Servers before 7.0 wrap the error of a command inside a script in an ERR of their own.
    let text = error.detail().unwrap_or_default();
    if let Some(kind) = ["WRONGTYPE", "OOM", "READONLY"].into_iter().find(|code| text.contains(code)).and_then(by_code)
    {
        return kind;
    }
    match error.kind() {
        ErrorKind::AuthenticationFailed => Authentication,
        ErrorKind::InvalidClientConfig => Address,
        _ if error.is_timeout() => Timeout,
        _ if error.is_io_error() || error.is_connection_dropped() || error.is_connection_refusal() => Connection,
        _ => Other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::for_test::group;
    use super::*;

    fn open(url: &str) -> Result<RedisStore, StoreError> {
        RedisStore::open("features", url, "ctr", vec![group()], RedisLimits::default())
    }

    #[test]
    fn jitter_stays_within_a_tenth_and_never_makes_a_ttl_vanish() {
        for hash in 0..1000 {
            let ttl = jittered(100_000, hash);
            assert!((90_000..=110_000).contains(&ttl), "{ttl}");
        }
        assert!(jittered(1, 0) >= 1 && jittered(i64::MAX, 200) > 0);
    }

    #[test]
    fn an_address_that_cannot_be_used_is_refused_at_once_and_says_how_to_write_it() {
        for url in ["localhost:6379", "http://localhost", "rediss://localhost"] {
            let error = open(url).err().expect(url);
            assert_eq!(error.kind, StoreErrorKind::Address);
            assert!(error.to_string().contains("redis://"), "{error}");
        }
    }

    #[test]
    fn a_server_that_is_away_is_a_connection_error_without_the_password() {
        // Port 1 of the loopback is reserved and never listened on.
        let store = open("redis://me:secret@127.0.0.1:1").expect("opening does not connect");
        let error = store.ping().expect_err("nobody listens");
        assert_eq!(error.kind, StoreErrorKind::Connection, "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
