//! Reconnect: goes on after a failure that may pass, with a new client from where the last one stood.
//!
//! ```text
//!   connected ── error with retry ──> waiting (backoff) ──> connect ──> connected
//!                                        ^──── again ─────────┘└── other error: stops
//! ```
//!
//! Holds: what was handed out is not handed out again, nothing between is left out (F6); a partition ends once.
//! Does not: look at a clock: it waits by the timeouts of its polls.

use super::{KafkaOptions, KafkaSource};
use crate::event::{PartitionId, Positions};
use crate::source::{InputSpec, KafkaConnection, LogEnd, Source, SourceError, SourceEvent};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// The topics of one connection, over as many clients as it takes.
pub struct ReconnectingKafka {
    connection: KafkaConnection,
    inputs: Vec<(u16, InputSpec)>,
    options: KafkaOptions,
    partitions: Vec<PartitionId>,
    partition_counts: BTreeMap<u16, u32>,
    link: Link,
    paused: BTreeSet<PartitionId>,
    ended: BTreeSet<PartitionId>,
}

enum Link {
    Up(KafkaSource),
    Down { positions: Positions, waited: Duration, backoff: Duration },
}

impl ReconnectingKafka {
    /// As [`KafkaSource::connect`], which it is the first time.
    pub fn connect(
        connection: &KafkaConnection,
        inputs: &[(u16, &InputSpec)],
        positions: &Positions,
        options: KafkaOptions,
    ) -> Result<Self, SourceError> {
        let source = KafkaSource::connect(connection, inputs, positions, options.clone())?;
        Ok(ReconnectingKafka {
            connection: connection.clone(),
            inputs: inputs.iter().map(|&(number, spec)| (number, spec.clone())).collect(),
            options,
            partitions: source.partitions(),
            partition_counts: source.partition_counts(),
            link: Link::Up(source),
            paused: BTreeSet::new(),
            ended: BTreeSet::new(),
        })
    }

    /// As [`KafkaSource::partition_counts`]; they do not change while this source lives.
    pub fn partition_counts(&self) -> &BTreeMap<u16, u32> {
        &self.partition_counts
    }

    /// Takes note of an event; `None` when it was told before.
    fn note(&mut self, event: SourceEvent) -> Option<SourceEvent> {
        match event {
            SourceEvent::Ended(partition) if !self.ended.insert(partition) => None,
            event => Some(event),
        }
    }

    fn reconnect(&self, positions: &Positions) -> Result<KafkaSource, SourceError> {
        let inputs: Vec<(u16, &InputSpec)> = self.inputs.iter().map(|(number, spec)| (*number, spec)).collect();
        let mut source = KafkaSource::connect(&self.connection, &inputs, positions, self.options.clone())?;
        if source.partition_counts() != self.partition_counts {
            return Err(SourceError::Input {
                input: self.connection.name.clone(),
                message: "a topic has another number of partitions than before the connection was lost: records of one \
                          key may now lie in two of them. What was read is safe; restart to have all partitions checked \
                          and read"
                    .to_string(),
            });
        }
        // What has ended stays so, although its log may have gone on.
        self.paused.union(&self.ended).for_each(|partition| source.pause(*partition));
        Ok(source)
    }
}

impl Source for ReconnectingKafka {
    fn partitions(&self) -> Vec<PartitionId> {
        self.partitions.clone()
    }

    fn starts(&self) -> Vec<(PartitionId, i64)> {
        match &self.link {
            Link::Up(source) => source.starts(),
            Link::Down { positions, .. } => positions.iter().collect(),
        }
    }

    fn poll(&mut self, timeout: Duration) -> Result<SourceEvent, SourceError> {
        match &mut self.link {
            Link::Up(source) => match source.poll(timeout) {
                Ok(event) => Ok(self.note(event).unwrap_or(SourceEvent::Nothing)),
                Err(error) if error.retry() => {
                    let positions = source.positions();
                    self.link = Link::Down { positions, waited: Duration::ZERO, backoff: BACKOFF_MIN };
                    Ok(SourceEvent::Connection { ready: false, message: format!("{error}; connecting anew") })
                }
                Err(error) => Err(error),
            },
            Link::Down { waited, backoff, .. } if *waited < *backoff => {
                *waited += timeout;
                crate::source::wait(timeout);
                Ok(SourceEvent::Nothing)
            }
            Link::Down { positions, backoff, .. } => {
                let (positions, backoff) = (positions.clone(), (*backoff * 2).min(BACKOFF_MAX));
                match self.reconnect(&positions) {
                    Ok(source) => {
                        self.link = Link::Up(source);
                        Ok(SourceEvent::Connection { ready: true, message: "brokers answer again".to_string() })
                    }
                    Err(error) if error.retry() => {
                        self.link = Link::Down { positions, waited: Duration::ZERO, backoff };
                        let message = format!("{error}; trying again in {:.1} s", backoff.as_secs_f64());
                        Ok(SourceEvent::Connection { ready: false, message })
                    }
                    Err(error) => Err(error),
                }
            }
        }
    }

    fn pause(&mut self, partition: PartitionId) {
        self.paused.insert(partition);
        if let Link::Up(source) = &mut self.link {
            source.pause(partition);
        }
    }

    fn resume(&mut self, partition: PartitionId) {
        self.paused.remove(&partition);
        if let Link::Up(source) = &mut self.link {
            source.resume(partition);
        }
    }

    fn committed(&mut self, positions: &Positions) {
        if let Link::Up(source) = &mut self.link {
            source.committed(positions);
        }
    }

    fn log_ends(&self) -> BTreeMap<PartitionId, LogEnd> {
        match &self.link {
            Link::Up(source) => source.log_ends(),
            Link::Down { .. } => BTreeMap::new(),
        }
    }

    fn label(&self, partition: PartitionId, position: i64) -> String {
        match &self.link {
            Link::Up(source) => source.label(partition, position),
            Link::Down { .. } => format!("partition {} offset {position}", partition.partition),
        }
    }
}
