//! Inputs: what is read once, however many streams name it.

use super::Checker;
use super::streams::StreamDraft;
use crate::config::diagnostic::suggestion;
use crate::config::raw::{KafkaTopics, Names, Pipeline, Scalar, Stream};
use crate::config::tree::Path;
use crate::config::units;
use crate::decode::ColumnFrom;
use crate::event::StreamId;
use crate::source::{InputKind, InputSpec, KafkaConnection, KafkaStart, KafkaTopicSpec};

pub fn check(c: &mut Checker<'_>, raw: &Pipeline, streams: &[StreamDraft]) -> Vec<InputSpec> {
    let mut inputs = Vec::new();
    for (name, stream) in super::raw_streams(raw) {
        let path = Path::of(&["streams", name]);
        let draft = streams.iter().find(|draft| draft.name() == name);
        let headers = draft
            .is_some_and(|draft| draft.columns().iter().any(|column| matches!(column.from, ColumnFrom::Header(_))));
        for (kind, shown) in kinds(c, raw, name, stream, &path) {
            add(c, &mut inputs, kind, shown, draft.map(|draft| draft.plan.decode.stream), headers, &path);
        }
    }
    inputs
}

fn kinds(c: &mut Checker<'_>, raw: &Pipeline, name: &str, stream: &Stream, path: &Path) -> Vec<(InputKind, String)> {
    let given: Vec<&str> =
        [("kafka", stream.kafka.is_some()), ("file", stream.file.is_some()), ("memory", stream.memory.is_some())]
            .into_iter()
            .filter_map(|(key, given)| given.then_some(key))
            .collect();
    match given.as_slice() {
        [] => {
            let told = ["kafka", "file", "memory"].iter().any(|key| c.is_cut(&path.key(key)));
            if !told {
                c.error(path, "no source")
                    .expected("one of `kafka`, `file`, `memory`")
                    .help("such as `file: { path: \"data/*.ndjson\" }`");
            }
        }
        [_] => {}
        [first, second, ..] => {
            c.error(&path.key(second), format!("both `{first}` and `{second}`"))
                .expected("one source")
                .help("two sources with the same records are two streams");
        }
    }
    if let Some(kafka) = &stream.kafka {
        return topics(c, raw, kafka, &path.key("kafka"));
    }
    if let Some(file) = &stream.file {
        let at = path.key("file").key("path");
        if file.path.is_empty() {
            c.error(&at, "an empty path").expected("a file, a folder or a glob");
        } else if let Err(error) = glob::Pattern::new(&file.path) {
            c.error(&at, format!("`{}`, which is no glob: {}", file.path, error.msg))
                .expected("a file, a folder or a glob");
        }
        return vec![(InputKind::File { pattern: file.path.clone() }, file.path.clone())];
    }
    if stream.memory.is_some() { vec![(InputKind::Memory, name.to_string())] } else { Vec::new() }
}

/// The Kafka connection that is named at a path.
pub(super) fn cluster(c: &mut Checker<'_>, raw: &Pipeline, name: &str, at: &Path) -> Option<KafkaConnection> {
    let cluster = match raw.connections.get(name) {
        Some(connection) if connection.kafka.is_some() => connection.kafka.as_ref(),
        Some(connection) if connection.redis.is_some() => {
            c.error(at, format!("`{name}`, a Redis connection")).expected("a Kafka connection");
            None
        }
        Some(connection) if connection.postgres.is_some() => {
            c.error(at, format!("`{name}`, a Postgres connection")).expected("a Kafka connection");
            None
        }
        Some(connection) if connection.postgres.is_some() => {
            c.error(at, format!("`{name}`, a Postgres connection")).expected("a Kafka connection");
            None
        }
        Some(connection) if connection.bucket.is_some() => {
            c.error(at, format!("`{name}`, a bucket")).expected("a Kafka connection");
            None
        }
        Some(connection) if connection.schema_registry.is_some() => {
            c.error(at, format!("`{name}`, a schema registry")).expected("a Kafka connection");
            None
        }
        Some(_) => None,
        None => {
            if !c.is_cut(&Path::of(&["connections", name])) {
                let help = suggestion(name, raw.connections.names().collect::<Vec<_>>())
                    .unwrap_or_else(|| format!("add `connections: {{ {name}: {{ kafka: {{ brokers: … }} }} }}`"));
                c.error(at, format!("unknown connection `{name}`")).help(help);
            }
            None
        }
    }?;
    Some(KafkaConnection {
        name: name.to_string(),
        brokers: cluster.brokers.clone(),
        properties: cluster.properties.iter().map(|(key, value)| (key.to_string(), scalar_text(value))).collect(),
    })
}

pub fn topics(c: &mut Checker<'_>, raw: &Pipeline, kafka: &KafkaTopics, path: &Path) -> Vec<(InputKind, String)> {
    let connection = cluster(c, raw, &kafka.connection, &path.key("connection"));
    let start = match kafka.start.as_deref() {
        None | Some("earliest") => KafkaStart::Earliest,
        Some("latest") => KafkaStart::Latest,
        Some(text) => match units::instant(text) {
            Some(instant) => KafkaStart::Timestamp(instant),
            None => {
                c.error(&path.key("start"), format!("`{text}`"))
                    .expected("`earliest`, `latest` or an instant such as 2026-01-31T00:00:00Z");
                KafkaStart::Earliest
            }
        },
    };
    topic_names(c, &kafka.topics, &path.key("topics"));
    let Some(connection) = connection else { return Vec::new() };
    let topic = |topic: &String| {
        let spec = KafkaTopicSpec {
            topic: topic.clone(),
            start,
            connection: connection.clone(),
            allow_gaps: kafka.allow_gaps,
        };
        (InputKind::Kafka(spec), topic.clone())
    };
    kafka.topics.names.iter().map(topic).collect()
}

pub(super) fn is_topic(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name.len() <= 249 && name.chars().all(plain)
}

fn topic_names(c: &mut Checker<'_>, topics: &Names, path: &Path) {
    for (index, topic) in topics.names.iter().enumerate() {
        let at = super::name_path(path, topics, index);
        if !is_topic(topic) {
            c.error(&at, format!("`{topic}`"))
                .expected("a topic name: letters, digits, `.`, `_` and `-`")
                .help("patterns are not expanded: list the topics");
        } else if topics.names[..index].contains(topic) {
            c.error(&at, format!("the topic `{topic}` twice")).expected("each topic once");
        }
    }
}

fn scalar_text(value: &Scalar) -> String {
    match value {
        Scalar::Bool(flag) => flag.to_string(),
        Scalar::Int(number) => number.to_string(),
        Scalar::Float(number) => number.to_string(),
        Scalar::Text(text) => text.clone(),
    }
}

/// Adds a stream to the input it reads, which may be there already.
fn add(
    c: &mut Checker<'_>,
    inputs: &mut Vec<InputSpec>,
    kind: InputKind,
    name: String,
    stream: Option<StreamId>,
    headers: bool,
    path: &Path,
) {
    let same = |known: &&mut InputSpec| match (&known.kind, &kind) {
        (InputKind::Kafka(a), InputKind::Kafka(b)) => a.topic == b.topic && a.connection.name == b.connection.name,
        (InputKind::File { pattern: a }, InputKind::File { pattern: b }) => a == b,
        _ => false,
    };
    let Some(known) = inputs.iter_mut().find(same) else {
        inputs.push(InputSpec { name, kind, streams: stream.into_iter().collect(), headers });
        return;
    };
    if let (InputKind::Kafka(a), InputKind::Kafka(b)) = (&known.kind, &kind)
        && a.start != b.start
    {
        c.error(&path.key("kafka"), format!("another `start` for the topic `{name}` than an earlier stream has"))
            .help("a topic is read once for all its streams: give the same `start`");
    }
    known.streams.extend(stream);
    known.headers |= headers;
}
