//! Sources: opens every input of a plan, waiting for brokers that are not there yet.

use crate::cell::CellScope;
use crate::config::Plan;
use crate::event::Positions;
use crate::pipeline::board::Board;
use crate::pipeline::{RunError, StopSignal};
use crate::source::file::{FileLimits, FileSource};
use crate::source::kafka::{KafkaOptions, ReconnectingKafka};
use crate::source::{InputKind, InputSpec, KafkaConnection, Source};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Everything that was opened.
pub struct Opened {
    pub sources: Vec<Box<dyn Source>>,
    /// Files of file inputs, in the order that positions count.
    pub files: BTreeMap<u16, Vec<String>>,
}

pub fn open(
    plan: &Plan,
    positions: &Positions,
    scope: CellScope,
    until_end: bool,
    board: &Board,
    stop: &StopSignal,
) -> Result<Option<Opened>, RunError> {
    let mut opened = Opened { sources: Vec::new(), files: BTreeMap::new() };
    let (mut files, mut topics) = (Vec::new(), BTreeMap::<&str, (&KafkaConnection, Vec<(u16, &InputSpec)>)>::new());
    for (number, input) in plan.inputs.iter().enumerate() {
        let numbered = (number as u16, input);
        match &input.kind {
            InputKind::File { .. } => files.push(numbered),
            InputKind::Kafka(topic) => {
                let connection = &topic.connection;
                topics.entry(&connection.name).or_insert_with(|| (connection, Vec::new())).1.push(numbered);
            }
            InputKind::Memory => {
                return Err(RunError::Unsupported(format!(
                    "input `{}` is fed by an embedding program; `conjoin run` reads kafka and file inputs",
                    input.name
                )));
            }
        }
    }
    if !files.is_empty() {
        let source = FileSource::open(&files, positions, FileLimits::default())?;
        for (number, _) in &files {
            let names = source.files(*number).iter().map(|path| path.display().to_string());
            opened.files.insert(*number, names.collect());
        }
        opened.sources.push(Box::new(source));
    }
    for (connection, inputs) in topics.into_values() {
        let options = KafkaOptions {
            until_end,
            client_id: format!("conjoin-{}", plan.pipeline),
            group_id: format!("conjoin-{}", plan.pipeline),
            // Of a cell, the member of the group shows them.
            monitoring: scope.is_whole(),
            partitions: (!scope.is_whole()).then(|| BTreeSet::from([scope.cell])),
            ..KafkaOptions::default()
        };
        let mut backoff = BACKOFF_MIN;
        let source = loop {
            match ReconnectingKafka::connect(connection, &inputs, positions, options.clone()) {
                Ok(source) => break source,
                Err(error) if error.retry() => {
                    tracing::warn!("{error}; trying again in {:.1} s", backoff.as_secs_f64());
                    board.update(|view| view.connection_problem = Some(error.to_string()));
                    if stop.wait(backoff) {
                        return Ok(None);
                    }
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
                Err(error) => return Err(error.into()),
            }
        };
        board.update(|view| view.connection_problem = None);
        check_counts(plan, scope, source.partition_counts())?;
        opened.sources.push(Box::new(source));
    }
    Ok(Some(opened))
}

/// A cell is a partition of so many. Where a topic has more, records of its keys may lie in one that nobody reads.
fn check_counts(plan: &Plan, scope: CellScope, counts: &BTreeMap<u16, u32>) -> Result<(), RunError> {
    let grown = counts.iter().find(|(_, count)| !scope.is_whole() && **count != scope.cells);
    grown.map_or(Ok(()), |(input, count)| {
        Err(RunError::Unsupported(format!(
            "topic {} has {count} partitions, its pipeline runs as {} cells: records of one key may now lie in two \
             partitions. What was read is safe. Stop all processes, and copy what belongs together to new topics with \
             `conjoin repartition`",
            plan.inputs[*input as usize].name, scope.cells
        )))
    })
}
