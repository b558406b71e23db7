//! Group mode: what several processes need to run one pipeline together.

use super::{Checker, defaults, duration_or};
use crate::config::raw::Pipeline;
use crate::config::tree::Path;
use crate::online::{OnlineSpec, StoreKind};
use crate::source::{GroupModeSpec, InputKind, InputSpec, KafkaConnection};

/// Kafka's own bounds, unless a broker was told others.
const SESSION_MS: std::ops::RangeInclusive<i64> = 6_000..=1_800_000;

pub fn check(c: &mut Checker<'_>, raw: &Pipeline, inputs: &[InputSpec], online: &OnlineSpec) -> Option<GroupModeSpec> {
    let group_mode = raw.group_mode.as_ref()?;
    let path = Path::of(&["group_mode"]);
    let instance = group_mode.instance.trim();
    if instance.is_empty() || !instance.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')) {
        c.error(&path.key("instance"), format!("`{instance}`"))
            .expected("a name of letters, digits, `.`, `_` and `-`, another one for each process")
            .help("such as `instance: \"${HOSTNAME}\"`");
    }
    let session_timeout_ms = duration_or(&group_mode.session_timeout, defaults::SESSION_TIMEOUT);
    if !SESSION_MS.contains(&session_timeout_ms) {
        c.error(&path.key("session_timeout"), format!("{session_timeout_ms} ms")).expected("6s to 30m");
    }
    if raw.features.names().next().is_some() && online.store == StoreKind::Memory && raw.serve.is_some() {
        c.error(&Path::of(&["online", "store"]), "`memory`")
            .expected("a store that all processes share, such as a Redis connection")
            .help("in group mode a process knows the features of its own partitions only");
    }
    let connection = connection(c, inputs, &path)?;
    let pipeline = raw.pipeline.as_deref().unwrap_or_default();
    Some(GroupModeSpec {
        connection,
        group_id: group_mode.group.clone().unwrap_or_else(|| format!("conjoin-{pipeline}")),
        instance_id: instance.into(),
        session_timeout_ms,
        replication: group_mode.replication.map(|replicas| replicas as i32),
    })
}

/// The connection of all inputs.
fn connection(c: &mut Checker<'_>, inputs: &[InputSpec], path: &Path) -> Option<KafkaConnection> {
    let mut found: Option<KafkaConnection> = None;
    for input in inputs {
        let InputKind::Kafka(topic) = &input.kind else {
            c.error(path, format!("the input `{}` is no Kafka topic", input.name))
                .expected("topics alone: partitions are what is handed out")
                .help("remove `group_mode`, or read this input from a topic");
            return None;
        };
        match &found {
            Some(first) if first.name != topic.connection.name => {
                let (first, second) = (first.name.clone(), topic.connection.name.clone());
                c.error(path, format!("topics of two connections, `{first}` and `{second}`"))
                    .expected("one Kafka cluster");
                return None;
            }
            _ => found = Some(topic.connection.clone()),
        }
    }
    found
}
