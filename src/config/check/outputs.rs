//! Outputs: the topics that rows go to.

use super::{Checker, inputs, raw_streams, samples, schemas};
use crate::config::plan::{KafkaOutPlan, SidePlan};
use crate::config::raw::{KafkaOut, MessageFormat, Pipeline, Roll, Sample, Side, SideOut, Write};
use crate::config::tree::Path;
use crate::event::SideKind;
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
    let writes = writes(name, sample).into_iter();
    writes.filter_map(|(path, write)| Some((path.key("kafka"), write.kafka.as_ref()?))).collect()
}

/// Where the rows of a sample go, and those that are in none.
pub fn writes<'r>(name: &str, sample: &'r Sample) -> Vec<(Path, &'r Write)> {
    let path = Path::of(&["samples", name]);
    let rows = [(path.key("write"), &sample.write)].into_iter();
    rows.chain(written(sample).map(|(kind, write)| (path.key("side").key(kind.name()), write))).collect()
}

/// The side outputs that are more than counted.
fn written(sample: &Sample) -> impl Iterator<Item = (SideKind, &Write)> {
    let Side { late, expired_labels, duplicates, unmatched } = &sample.side;
    let kinds =
        [late, expired_labels, duplicates, unmatched].into_iter().zip(SideKind::ALL).map(|(out, kind)| (kind, out));
    kinds.filter_map(|(kind, out)| match out {
        Some(SideOut::Write(write)) => Some((kind, write)),
        Some(SideOut::Count(_)) | None => None,
    })
}

/// The side outputs of a sample.
pub fn sides(c: &mut Checker<'_>, file: &Pipeline, sample: &Sample, path: &Path) -> Vec<SidePlan> {
    let mut plans = Vec::new();
    for (kind, write) in written(sample) {
        let at = path.key("side").key(kind.name());
        if write.parquet.is_none() && write.kafka.is_none() && !c.is_cut(&at) {
            c.error(&at, "neither `parquet` nor `kafka`").expected("one of them, or `count`");
        }
        let parquet = write.parquet.as_ref();
        if let Some(Roll { size, age }) = parquet.map(|parquet| &parquet.roll)
            && (size.is_some() || age.is_some())
        {
            c.error(&at.key("parquet").key("roll"), "a time to end files at")
                .expected("none")
                .help("files of side outputs end with every commit that has rows for them");
        }
        let parquet = parquet.and_then(|parquet| samples::parquet_of(c, file, parquet, &at.key("parquet")));
        let kafka = write.kafka.as_ref().and_then(|out| kafka(c, file, out, &at.key("kafka")));
        plans.push(SidePlan { kind, parquet, kafka });
    }
    plans
}
