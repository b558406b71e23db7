//! Sender: one thread per outlet that takes committed rows from state to their topic.
//!
//!   oldest cut that waits ─> read its blocks ─> a message per row ─> acknowledged by all replicas ─> sent(cut)
//!            └──────── brokers or registry away: from the oldest cut that is not acknowledged, again ──┘
//!
//! Holds: rows are sent in the order of (cut, lane, ordinal), and no partition has a row of it without those before.
//! Does not: give up, or skip a row: what cannot be sent is told and tried again, and what waits behind it waits.

use super::buffer::split_keys;
use super::{Lot, Outlet, Piece};
use crate::commit::read_block;
use crate::config::KafkaOutPlan;
use crate::env::failpoint::{self, Failpoint};
use crate::env::{Clock, Store};
use crate::pipeline::RunError;
use crate::registry::{RegistryClient, RegistryError};
use crate::sink::{MessageFormat, RowFormat, message_schema};
use crate::source::SourceError;
use crate::source::kafka::{Outbound, TopicWriter};
use crate::telemetry::Telemetry;
use arrow::datatypes::SchemaRef;
use std::sync::Arc;
use std::time::Duration;

/// Headers of every message: which chain of manifests, which commit of it, which row of that.
pub const CHAIN_HEADER: &str = "conjoin-chain";
pub const COMMIT_HEADER: &str = "conjoin-commit";
pub const ROW_HEADER: &str = "conjoin-row";

/// How long the client's queue is served at a time: how fast the end of a run is noticed.
const WAIT: Duration = Duration::from_millis(100);
/// Brokers that acknowledge nothing for so long are told about.
const SILENT_MS: u64 = 5_000;
/// Between two attempts.
const RETRY: Duration = Duration::from_secs(1);
/// Messages that are written before anybody waits for those that were.
const LOT_ROWS_MAX: u64 = 50_000;

pub struct OutboxSender {
    pub outlet: Outlet,
    pub to: KafkaOutPlan,
    pub pipeline: String,
    pub chain: u32,
    pub state: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub telemetry: Arc<Telemetry>,
}

/// Why a lot was not sent.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    State(#[from] crate::commit::ObjectError),
    #[error("a block of the state holds no rows for a topic: restore it from a backup")]
    NoRows,
}

/// What lasts from lot to lot.
#[derive(Default)]
struct Line {
    writer: Option<TopicWriter>,
    format: Option<(SchemaRef, MessageFormat)>,
}

impl OutboxSender {
    pub fn run(self) -> Result<(), RunError> {
        let mut line = Line::default();
        while let Some(first) = self.outlet.shared.next() {
            match self.send(&mut line, first) {
                Ok(Some(through)) => {
                    failpoint::step(Failpoint::OutboxSent, || self.outlet.shared.sent(through));
                    self.telemetry.outbox_problem(&self.outlet.name, None);
                }
                Ok(None) => break,
                Err(error) => {
                    // It may have written some of it: a new one begins with a new sequence at the oldest row.
                    line = Line::default();
                    self.telemetry.outbox_problem(&self.outlet.name, Some(&error));
                    self.outlet.shared.pause(RETRY);
                }
            }
        }
        Ok(())
    }

    /// Sends cuts that wait, a lot's worth. The last one of them, or `None` when it is all over.
    fn send(&self, line: &mut Line, first: (u64, Lot)) -> Result<Option<u64>, SendError> {
        let (mut rows, mut next, mut through) = (0, Some(first), 0);
        while let Some((cut, lot)) = next {
            rows += lot.rows();
            let sent = failpoint::step(Failpoint::OutboxSend, || self.cut(line, cut, &lot.pieces))?;
            if !sent {
                return Ok(None);
            }
            through = cut;
            next = if rows < LOT_ROWS_MAX { self.outlet.shared.after(cut) } else { None };
        }
        Ok(self.settle(line)?.then_some(through))
    }

    /// Writes the rows of a cut; false when it is all over.
    fn cut(&self, line: &mut Line, cut: u64, pieces: &[Piece]) -> Result<bool, SendError> {
        let (chain, commit) = (format!("{:08x}", self.chain), cut.to_string());
        let (mut number, mut payload) = (0u64, Vec::new());
        for piece in pieces {
            let block = read_block(self.state.as_ref(), &piece.block)?;
            let (keys, rows) = split_keys(&block).ok_or(SendError::NoRows)?;
            let format = self.format(line, rows.schema())?;
            if line.writer.is_none() {
                let client = format!("conjoin-{}", self.pipeline);
                line.writer = Some(TopicWriter::connect_gapless(&self.to.connection, &client)?);
            }
            let writer = line.writer.as_mut().expect("it was made above");
            for row in 0..rows.num_rows() {
                payload.clear();
                format.write(&rows, row, &mut payload);
                let ordinal = number.to_string();
                let headers = [(CHAIN_HEADER, &chain), (COMMIT_HEADER, &commit), (ROW_HEADER, &ordinal)];
                let message = Outbound {
                    topic: &self.to.topic,
                    key: Some(keys.value(row).as_bytes()),
                    payload: Some(&payload),
                    headers: headers.map(|(name, value)| (name, Some(value.as_bytes()))).into(),
                    ..Outbound::default()
                };
                let began = self.clock.monotonic_ms();
                while !writer.offer(&message, WAIT)? {
                    if self.outlet.shared.is_closed() {
                        return Ok(false);
                    }
                    self.tell_silence(began, writer.unsettled());
                }
                number += 1;
            }
        }
        Ok(true)
    }

    /// Waits until the brokers have what was written; false when it is all over.
    fn settle(&self, line: &mut Line) -> Result<bool, SendError> {
        let began = self.clock.monotonic_ms();
        let Some(writer) = &mut line.writer else { return Ok(true) };
        while !writer.settled(WAIT)? {
            if self.outlet.shared.is_closed() {
                return Ok(false);
            }
            self.tell_silence(began, writer.unsettled());
        }
        Ok(true)
    }

    fn tell_silence(&self, since_ms: u64, rows: u64) {
        let silent_ms = self.clock.monotonic_ms().saturating_sub(since_ms);
        if silent_ms >= SILENT_MS {
            let (topic, connection) = (&self.to.topic, &self.to.connection.name);
            let problem = format!(
                "brokers of {connection} have not acknowledged {rows} rows for topic {topic} for {} s",
                silent_ms / 1_000
            );
            self.telemetry.outbox_problem(&self.outlet.name, Some(&problem));
        }
    }

    /// How rows of this schema are written; a registry is asked once for each.
    fn format(&self, line: &mut Line, schema: SchemaRef) -> Result<MessageFormat, SendError> {
        if let Some((known, format)) = &line.format
            && *known == schema
        {
            return Ok(format.clone());
        }
        let format = match (self.to.format, &self.to.registry) {
            (RowFormat::Json, _) => MessageFormat::json(),
            (RowFormat::Avro, None) => MessageFormat::avro(None),
            (RowFormat::Avro, Some(registry)) => {
                let client = RegistryClient::new(registry.clone())?;
                let text = message_schema(&self.pipeline, &self.outlet.name, &schema).to_string();
                MessageFormat::avro(Some(client.register(&format!("{}-value", self.to.topic), &text)?))
            }
        };
        line.format = Some((schema, format.clone()));
        Ok(format)
    }
}
