//! Edges: connections, the online store, state, the HTTP server, and folders that must not meet.

use super::features::GroupDraft;
use super::samples::SampleDraft;
use super::streams::StreamDraft;
use super::{Checker, defaults, duration_or, places, schemas, size_or};
use crate::commit::StateSpec;
use crate::config::diagnostic::suggestion;
use crate::config::plan::ServeSpec;
use crate::config::raw::{Connection, Pipeline};
use crate::config::tree::Path;
use crate::event::{DurationMs, KEY_GROUPS};
use crate::online::{OnlineSpec, StoreKind};

/// librdkafka properties that correctness hangs on, with the reason.
const PROPERTIES_REFUSED: &[(&str, &str)] = &[
    ("enable.auto.commit", "positions commit with the manifest"),
    ("enable.auto.offset.store", "positions commit with the manifest"),
    ("auto.offset.reset", "a lost position must stop the pipeline; use `start` for the first run"),
    ("enable.partition.eof", "idleness is told by the end of a partition"),
    ("isolation.level", "aborted records must not be joined"),
    ("bootstrap.servers", "use `brokers`"),
    ("metadata.broker.list", "use `brokers`"),
    ("group.id", "partitions are assigned by Conjoin"),
];

/// Prefixes of properties that belong to what is refused as a key.
const PROPERTIES_LATER: &[&str] = &["sasl.", "ssl.", "security.protocol"];

/// Orphans stay at least as long as so many commits take: their writer may only be slow.
const ORPHAN_COMMITS: DurationMs = 10;

pub fn timezone(c: &mut Checker<'_>, raw: &Pipeline) {
    if let Some(zone) = &raw.timezone
        && !matches!(zone.as_str(), "UTC" | "Etc/UTC" | "Z")
    {
        c.error(&Path::of(&["timezone"]), format!("`{zone}`: time zones other than UTC are not supported yet"))
            .help("write `timezone: UTC` or remove the key");
    }
}

pub fn connections(c: &mut Checker<'_>, raw: &Pipeline) {
    for (name, connection) in raw.connections.iter() {
        let path = Path::of(&["connections", name]);
        let kinds = [
            ("`kafka`", connection.kafka.is_some()),
            ("`redis`", connection.redis.is_some()),
            ("`postgres`", connection.postgres.is_some()),
            ("`bucket`", connection.bucket.is_some()),
            ("`schema_registry`", connection.schema_registry.is_some()),
        ];
        let given: Vec<&str> = kinds.iter().filter(|(_, given)| *given).map(|(kind, _)| *kind).collect();
        match given.as_slice() {
            [] if !c.is_cut(&path) => {
                c.error(&path, "an empty connection")
                    .expected("`kafka`, `redis`, `postgres`, `bucket` or `schema_registry`");
            }
            [] | [_] => {}
            [first, second, ..] => {
                c.error(&path, format!("both {first} and {second}"))
                    .expected("one of them")
                    .help("each is a connection of its own");
            }
        }
        kafka(c, connection, &path.key("kafka"));
        redis(c, connection, &path.key("redis"));
        postgres(c, connection, &path.key("postgres"));
        places::bucket(c, connection, &path.key("bucket"));
        schemas::connection(c, connection, &path.key("schema_registry"));
    }
}

fn kafka(c: &mut Checker<'_>, connection: &Connection, path: &Path) {
    let Some(kafka) = &connection.kafka else { return };
    for broker in kafka.brokers.split(',') {
        let port = broker.trim().rsplit_once(':').map(|(host, port)| (!host.is_empty(), port.parse::<u16>()));
        if !matches!(port, Some((true, Ok(1..)))) {
            c.error(&path.key("brokers"), format!("`{}`", broker.trim()))
                .expected("host:port, several separated by commas");
        }
    }
    for key in kafka.properties.names() {
        let at = path.key("properties").key(key);
        if let Some((_, reason)) = PROPERTIES_REFUSED.iter().find(|(refused, _)| *refused == key) {
            c.error(&at, format!("the property `{key}` cannot be set")).help(*reason);
        }
        if PROPERTIES_LATER.iter().any(|prefix| key.starts_with(prefix)) {
            c.error(&at, format!("`{key}`: SASL and TLS for Kafka are not supported yet"));
        }
    }
}

fn redis(c: &mut Checker<'_>, connection: &Connection, path: &Path) {
    let Some(redis) = &connection.redis else { return };
    let at = path.key("url");
    // The URL may hold a password, so it is not shown.
    match redis.url.split_once("://") {
        Some(("redis", rest)) if !rest.is_empty() => {}
        Some(("rediss", _)) => {
            c.error(&at, "`rediss://`: TLS for Redis is not supported yet").help("use redis:// on a trusted network");
        }
        _ => {
            c.error(&at, "a URL that is not redis://…").expected("redis://host:port/db");
        }
    }
}

fn postgres(c: &mut Checker<'_>, connection: &Connection, path: &Path) {
    let Some(postgres) = &connection.postgres else { return };
    let at = path.key("url");
    // The URL may hold a password, so it is not shown.
    match postgres.url.split_once("://") {
        Some(("postgres" | "postgresql", rest)) if !rest.is_empty() => {
            if ["sslmode=require", "sslmode=verify"].iter().any(|mode| rest.contains(mode)) {
                c.error(&at, "`sslmode`: TLS for Postgres is not supported yet").help("use a trusted network");
            }
        }
        _ => {
            c.error(&at, "a URL that is not postgres://…").expected("postgres://user@host:port/database");
        }
    }
}

pub fn online(c: &mut Checker<'_>, raw: &Pipeline) -> OnlineSpec {
    let online = raw.online.clone().unwrap_or_default();
    let at = Path::of(&["online", "store"]);
    let store = match online.store.as_deref() {
        None | Some("memory") => StoreKind::Memory,
        Some(name) => match raw.connections.get(name) {
            Some(Connection { redis: Some(redis), .. }) => {
                StoreKind::Redis { connection: name.into(), url: redis.url.clone() }
            }
            Some(Connection { kafka: Some(_), .. }) => {
                c.error(
                    &at,
                    format!("`{name}`, a Kafka connection: online stores other than Redis are not supported yet"),
                )
                .help("name a Redis connection, or `memory`");
                StoreKind::Memory
            }
            Some(Connection { bucket: Some(_), .. }) => {
                c.error(&at, format!("`{name}`, a bucket")).expected("a Redis connection, or `memory`");
                StoreKind::Memory
            }
            Some(Connection { postgres: Some(_), .. }) => {
                c.error(&at, format!("`{name}`, a Postgres connection")).expected("a Redis connection, or `memory`");
                StoreKind::Memory
            }
            Some(_) => StoreKind::Memory,
            None => {
                if !c.is_cut(&Path::of(&["connections", name])) {
                    let known: Vec<&str> = raw.connections.names().chain(["memory"]).collect();
                    let help = suggestion(name, known).unwrap_or_default();
                    c.error(&at, format!("unknown connection `{name}`")).help(help);
                }
                StoreKind::Memory
            }
        },
    };
    OnlineSpec {
        store,
        flush_ms: duration_or(&online.flush, defaults::FLUSH),
        pipeline_commands_max: online.pipeline_commands_max.unwrap_or(defaults::PIPELINE_COMMANDS_MAX) as usize,
    }
}

pub fn state(c: &mut Checker<'_>, raw: &Pipeline, cores: usize) -> Option<StateSpec> {
    let state = raw.state.as_ref()?;
    let path = Path::of(&["state"]);
    let place = places::place(c, raw, &state.path, &path.key("path"));
    let commit_every_ms = duration_or(&state.commit_every, defaults::COMMIT_EVERY);
    if commit_every_ms == 0 {
        c.error(&path.key("commit_every"), "`0s`").expected("a duration above 0, such as 10s");
    }
    if state.memory.is_some() {
        c.warn(
            &path.key("memory"),
            "the limit is not held yet: pending rows of this run stay in memory until they close",
        )
        .help(
            "size the machine by conjoin_state_bytes{where=\"memory\"}; after a restart payload is read back from disk",
        );
    }
    let place = place?;
    Some(StateSpec {
        root: place.clone(),
        path: place,
        commit_every_ms,
        keep_orphans_ms: duration_or(&state.keep_orphans, defaults::KEEP_ORPHANS).max(ORPHAN_COMMITS * commit_every_ms),
        memory_bytes: size_or(&state.memory, defaults::MEMORY),
        // In group mode there are cells enough to keep the cores busy.
        lanes: state
            .lanes
            .map_or(if raw.group_mode.is_some() { 1 } else { cores }, |lanes| lanes as usize)
            .clamp(1, KEY_GROUPS as usize),
    })
}

pub fn serve(c: &mut Checker<'_>, raw: &Pipeline) -> Option<ServeSpec> {
    let serve = raw.serve.as_ref()?;
    let listen = serve.listen.as_deref().unwrap_or(defaults::LISTEN);
    match listen.parse() {
        Ok(listen) => Some(ServeSpec { listen }),
        Err(_) => {
            c.error(&Path::of(&["serve", "listen"]), format!("`{listen}`"))
                .expected("an IP address and port, such as 127.0.0.1:8080")
                .help("0.0.0.0:8080 listens on all addresses");
            None
        }
    }
}

/// State and the rows of each sample need folders of their own.
pub fn folders(c: &mut Checker<'_>, raw: &Pipeline) {
    let mut taken: Vec<(String, Path)> = Vec::new();
    if let Some(state) = &raw.state {
        taken.push((normal(&state.path), Path::of(&["state", "path"])));
    }
    for (name, sample) in raw.samples.iter() {
        let Some(parquet) = &sample.write.parquet else { continue };
        let at = Path::of(&["samples", name, "write", "parquet", "path"]);
        let folder = normal(&parquet.path);
        if let Some((_, other)) = taken.iter().find(|(known, _)| *known == folder) {
            c.error(&at, format!("`{}`, which is `{other}` too", parquet.path)).expected("a folder of its own");
        } else if let Some(state) = taken.first().filter(|(_, path)| *path == Path::of(&["state", "path"]))
            && folder.strip_prefix(&state.0).is_some_and(|rest| rest.starts_with('/'))
        {
            c.error(&at, format!("`{}`, which lies in `state.path`", parquet.path))
                .expected("a folder of its own")
                .help("`--fresh` deletes everything below state.path");
        }
        taken.push((folder, at));
    }
}

/// A stream that nothing reads is probably a mistake, and costs as much as one that is used.
pub fn unused(c: &mut Checker<'_>, streams: &[StreamDraft], groups: &[GroupDraft], samples: &[SampleDraft]) {
    for draft in streams {
        let id = draft.plan.decode.stream;
        let feeds = groups.iter().any(|group| group.spec.uses.iter().any(|used| used.stream == id));
        let joined = samples.iter().any(|sample| {
            sample.plan.join.anchor == id || sample.plan.join.labels.iter().any(|label| label.stream == id)
        });
        if !feeds && !joined && !c.found_errors() {
            c.warn(&draft.path, "no feature and no sample reads this stream").help("remove it, or use it");
        }
    }
}

fn normal(path: &str) -> String {
    path.trim_start_matches("./").trim_end_matches('/').to_string()
}
