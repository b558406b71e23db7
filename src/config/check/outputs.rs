//! Outputs: the topics that rows go to.

use super::{Checker, inputs, raw_streams, schemas};
use crate::config::plan::KafkaOutPlan;
use crate::config::raw::{KafkaOut, MessageFormat, Pipeline, Sample};
use crate::config::tree::Path;
use crate::sink::RowFormat;

/// One topic; what it has to do with others is looked at by [`check`].
pub fn kafka(c: &mut Checker<'_>, file: &Pipeline, raw: &KafkaOut, path: &Path) -> Option<KafkaOutPlan> {
    let connection = inputs::cluster(c, file, &raw.connection, &path.key("connection"));
    let at = path.key("topic");
    if !inputs::is_topic(&raw.topic) {
        c.error(&at, format!("`{}`", raw.topic)).expected("a topic name: letters, digits, `.`, `_` and `-`");
    }
    let at = path.key("registry");
    let registry = match (&raw.registry, raw.format) {
        (Some(_), MessageFormat::Json) => {
            c.error(&at, "a registry for JSON")
                .expected("`format: avro`")
                .help("rows in JSON have no schema to register: remove `registry`");
            None
        }
        (Some(name), MessageFormat::Avro) => Some(schemas::registry(c, file, name, &at)?),
        (None, _) => None,
    };
    let format = match raw.format {
        MessageFormat::Json => RowFormat::Json,
        MessageFormat::Avro => RowFormat::Avro,
    };
    Some(KafkaOutPlan { connection: connection?, topic: raw.topic.clone(), format, registry })
}

/// A reader of a topic goes by one sequence of rows, and what the pipeline reads it must not write.
pub fn check(c: &mut Checker<'_>, raw: &Pipeline) {
    let outs = || raw.samples.iter().flat_map(|(name, sample)| outs(name, sample));
    for (number, (path, out)) in outs().enumerate() {
        let same = |topic: &str, connection: &str| topic == out.topic && connection == out.connection;
        let read = raw_streams(raw).iter().find(|(_, stream)| {
            let kafka = stream.kafka.as_ref();
            kafka.is_some_and(|kafka| kafka.topics.names.iter().any(|topic| same(topic, &kafka.connection)))
        });
        if let Some((stream, _)) = read {
            c.error(&path.key("topic"), format!("`{}`, which the stream `{stream}` reads", out.topic))
                .expected("a topic of its own");
        } else if outs().take(number).any(|(_, other)| same(&other.topic, &other.connection)) {
            c.error(&path.key("topic"), format!("the topic `{}` twice", out.topic))
                .expected("a topic of its own")
                .help("readers tell rows that are sent again by their place in one sequence");
        }
    }
}

/// Every topic of a sample.
fn outs<'r>(name: &str, sample: &'r Sample) -> Vec<(Path, &'r KafkaOut)> {
    let path = Path::of(&["samples", name]);
    sample.write.kafka.iter().map(|out| (path.key("write").key("kafka"), out)).collect()
}
