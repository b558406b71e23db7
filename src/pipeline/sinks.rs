//! Sinks: one thread per lane that builds rows and encodes Parquet, so that a lane never waits for compression.

use crate::commit::read_block;
use crate::config::SamplePlan;
use crate::env::{Clock, Store};
use crate::event::{Payload, StagedFile};
use crate::join::ClosedRows;
use crate::pipeline::lanes::CutPart;
use crate::pipeline::{Enricher, RunError};
use crate::sample::build;
use crate::sink::ParquetSink;
use arrow::array::RecordBatch;
use crossbeam_channel::{Receiver, Sender};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Closed buckets that wait for one sink thread.
pub const SINK_QUEUE_MAX: usize = 4;
/// Closed rows that no cut has written would be written to state at the next one, only to be written again as Parquet.
/// Past this many bytes of encoded Parquet since the last cut, the files end at the cut instead.
const UNSTORED_BYTES_MAX: u64 = 8 << 20;

pub enum SinkInput {
    /// `recount` is false for rows that were counted before a restart.
    Closed {
        sample: u16,
        rows: ClosedRows,
        recount: bool,
    },
    Cut {
        number: u64,
        roll: bool,
    },
}

/// What one sink adds to a commit.
#[derive(Debug, Default)]
pub struct SinkCut {
    pub number: u64,
    /// (sample, file).
    pub files: Vec<(usize, StagedFile)>,
    /// Per sample, rows that negative sampling left out, and values that could not be computed, since the start.
    pub sampled_out: Vec<u64>,
    pub failed_values: Vec<u64>,
}

/// What the conductor reads to decide about ending files.
#[derive(Default)]
pub struct SinkGauge {
    pub due: AtomicBool,
    pub rows: AtomicU64,
    pub open_bytes: AtomicU64,
}

pub struct SinkThread {
    pub lane: usize,
    pub samples: Vec<SamplePlan>,
    /// One per sample; `None` for samples that are not written to Parquet.
    pub sinks: Vec<Option<ParquetSink>>,
    pub state: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub gauge: Arc<SinkGauge>,
    /// What rows whose dimension had not arrived are looked up in once more.
    pub enricher: Option<Arc<Enricher>>,
    pub cuts: Sender<CutPart>,
    pub work: SinkWork,
}

/// What a sink counts since the start.
#[derive(Default)]
pub struct SinkWork {
    sampled_out: Vec<u64>,
    failed_values: Vec<u64>,
    written_before: u64,
}

impl SinkThread {
    pub fn run(mut self, input: Receiver<SinkInput>) -> Result<(), RunError> {
        for message in input {
            if let Some(cut) = self.take(message)?
                && self.cuts.send(CutPart::Sink(self.lane, cut)).is_err()
            {
                break;
            }
        }
        Ok(())
    }

    /// Takes rows, or a cut marker, at which it gives what it adds to the commit.
    pub fn take(&mut self, message: SinkInput) -> Result<Option<SinkCut>, RunError> {
        self.work.sampled_out.resize(self.samples.len(), 0);
        self.work.failed_values.resize(self.samples.len(), 0);
        let mut cut = None;
        match message {
            SinkInput::Closed { sample, rows, recount } => {
                let (left_out, failed) = self.write(sample, &rows)?;
                if recount {
                    self.work.sampled_out[sample as usize] += left_out;
                    self.work.failed_values[sample as usize] += failed;
                }
            }
            SinkInput::Cut { number, roll } => {
                let mut files = Vec::new();
                for (sample, sink) in self.sinks.iter_mut().enumerate() {
                    let Some(sink) = sink.as_mut().filter(|_| roll) else { continue };
                    files.extend(sink.finish()?.into_iter().map(|file| (sample, file)));
                }
                let (sampled_out, failed_values) = (self.work.sampled_out.clone(), self.work.failed_values.clone());
                cut = Some(SinkCut { number, files, sampled_out, failed_values });
                self.work.written_before = self.open_bytes();
            }
        }
        let now = self.clock.now_ms();
        let fresh = self.open_bytes().saturating_sub(self.work.written_before);
        let due = self.sinks.iter().flatten().any(|sink| sink.due(now)) || fresh >= UNSTORED_BYTES_MAX;
        self.gauge.due.store(due, Ordering::Relaxed);
        self.gauge.open_bytes.store(self.open_bytes(), Ordering::Relaxed);
        Ok(cut)
    }

    fn open_bytes(&self) -> u64 {
        self.sinks.iter().flatten().map(ParquetSink::open_bytes).sum()
    }

    /// The payload with what its dimensions have by now. A stop while one is away is a failure: these rows have closed, and
    /// a commit without them would lose them.
    fn completed(&self, sample: u16, payload: RecordBatch) -> Result<RecordBatch, RunError> {
        match &self.enricher {
            Some(enricher) => Ok(enricher.again(self.samples[sample as usize].join.anchor, payload)?),
            None => Ok(payload),
        }
    }

    fn write(&mut self, sample: u16, closed: &ClosedRows) -> Result<(u64, u64), RunError> {
        let (mut left_out, mut failed) = (0, 0);
        for part in &closed.parts {
            if part.event_time.is_empty() {
                continue;
            }
            let payload = match &part.payload {
                Payload::Memory(rows) => rows.clone(),
                Payload::Stored(block) => read_block(self.state.as_ref(), block)?,
            };
            let payload = self.completed(sample, payload)?;
            let built = build(&self.samples[sample as usize].sample, sample, closed.bucket, part, &payload)?;
            left_out += built.sampled_out;
            failed += built.failed_values;
            self.gauge.rows.fetch_add(built.batch.rows.num_rows() as u64, Ordering::Relaxed);
            if let Some(sink) = &mut self.sinks[sample as usize] {
                sink.write(&built.batch, self.clock.now_ms())?;
            }
        }
        Ok((left_out, failed))
    }
}
