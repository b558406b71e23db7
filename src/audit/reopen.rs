//! Reopen: an input of the plan, opened once more beside the run, to be read to its present end and no further.
//!
//! Holds: nothing is committed, claimed or shown to monitoring.

use crate::audit::AuditError;
use crate::event::Positions;
use crate::source::file::{FileLimits, FileSource};
use crate::source::kafka::{KafkaOptions, KafkaSource};
use crate::source::{InputKind, InputSpec, KafkaStart, Source};

/// Opens one input for `reader`, the command as brokers see it. Topics begin at `positions`, else at `start`.
pub(super) fn reopen(
    number: u16,
    input: &InputSpec,
    positions: &Positions,
    start: KafkaStart,
    reader: &str,
) -> Result<Box<dyn Source>, AuditError> {
    match &input.kind {
        InputKind::File { .. } => Ok(Box::new(FileSource::open(&[(number, input)], positions, FileLimits::default())?)),
        InputKind::Kafka(_) => {
            let mut input = input.clone();
            let InputKind::Kafka(topic) = &mut input.kind else { unreachable!("it was a topic just now") };
            topic.start = start;
            let connection = topic.connection.clone();
            let options = KafkaOptions {
                until_end: true,
                client_id: reader.into(),
                group_id: reader.into(),
                monitoring: false,
                ..KafkaOptions::default()
            };
            Ok(Box::new(KafkaSource::connect(&connection, &[(number, &input)], positions, options)?))
        }
        InputKind::Memory => Err(AuditError::Asked(format!(
            "{} is fed by the program that embeds the pipeline, and cannot be read again",
            input.name
        ))),
    }
}
