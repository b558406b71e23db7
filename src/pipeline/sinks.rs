//! Sinks: one thread per lane that builds rows and encodes Parquet, so that a lane never waits for compression.

use crate::commit::{ObjectError, read_block};
use crate::config::SamplePlan;
use crate::env::{Clock, Store};
use crate::event::{Kept, SideRows, StagedFile};
use crate::join::{ClosedPart, ClosedRows};
use crate::pipeline::lanes::CutPart;
use crate::pipeline::outbox::{OutboxBuffers, OutboxCut, SAMPLE_ROWS};
use crate::pipeline::sides::{CorrectionSinks, SideSinks};
use crate::pipeline::{Enricher, RunError};
use crate::sample::{Built, build};
use crate::sink::ParquetSink;
use arrow::array::RecordBatch;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Closed buckets that wait for one sink thread.
pub const SINK_QUEUE_MAX: usize = 4;
/// Closed rows that no cut has written would be written to state at the next one, only to be written again as Parquet.
/// Past this many bytes of encoded Parquet since the last cut, the files end at the cut instead.
const UNSTORED_BYTES_MAX: u64 = 8 << 20;
/// How often a sink to which nothing comes looks at the age of its rows.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub enum SinkInput {
    /// `recount` is false for rows that were counted before a restart.
    Closed {
        sample: u16,
        rows: ClosedRows,
        recount: bool,
    },
    Side {
        sample: u16,
        rows: SideRows,
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
    pub outbox: OutboxCut,
    /// Of side outputs: (sink, file).
    pub side_files: Vec<(String, StagedFile)>,
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
    /// Where rows go to topics.
    outbox: Option<OutboxBuffers>,
    /// Where rows that are in no sample are written.
    sides: Option<SideSinks>,
    /// Where rows that correct others are written; with the others where there is none.
    corrections: CorrectionSinks,
}

impl SinkWork {
    /// Of a sink that writes more than the files of samples.
    pub fn with(outbox: Option<OutboxBuffers>, sides: Option<SideSinks>, corrections: CorrectionSinks) -> SinkWork {
        SinkWork { outbox, sides, corrections, ..SinkWork::default() }
    }
}

impl SinkThread {
    pub fn run(mut self, input: Receiver<SinkInput>) -> Result<(), RunError> {
        loop {
            match input.recv_timeout(LOOK_EVERY) {
                Ok(message) => {
                    if let Some(cut) = self.take(message)?
                        && self.cuts.send(CutPart::Sink(self.lane, cut)).is_err()
                    {
                        return Ok(());
                    }
                }
                // Rows grow old also when no more come.
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// Takes rows, or a cut marker, at which it gives what it adds to the commit.
    pub fn take(&mut self, message: SinkInput) -> Result<Option<SinkCut>, RunError> {
        self.work.sampled_out.resize(self.samples.len(), 0);
        self.work.failed_values.resize(self.samples.len(), 0);
        let mut cut = None;
        match message {
            SinkInput::Closed { sample, rows, recount } => {
                // Rows that were counted before were given to their topics before, too.
                let (left_out, failed) = self.write(sample, &rows, recount)?;
                if recount {
                    self.work.sampled_out[sample as usize] += left_out;
                    self.work.failed_values[sample as usize] += failed;
                }
            }
            SinkInput::Side { sample, rows } => {
                if let Some(sides) = &mut self.work.sides {
                    sides.write(sample, &rows, self.work.outbox.as_mut(), self.clock.now_ms())?;
                }
            }
            SinkInput::Cut { number, roll } => {
                let mut files = Vec::new();
                for (sample, sink) in self.sinks.iter_mut().enumerate() {
                    let Some(sink) = sink.as_mut().filter(|_| roll) else { continue };
                    files.extend(sink.finish()?.into_iter().map(|file| (sample, file)));
                }
                let mut side_files = self.work.sides.as_mut().map(SideSinks::cut).transpose()?.unwrap_or_default();
                for (name, sink) in self.work.corrections.values_mut().filter(|_| roll) {
                    side_files.extend(sink.finish()?.into_iter().map(|file| (name.clone(), file)));
                }
                let (sampled_out, failed_values) = (self.work.sampled_out.clone(), self.work.failed_values.clone());
                let outbox =
                    self.work.outbox.as_mut().map(|outbox| outbox.cut(number)).transpose()?.unwrap_or_default();
                cut = Some(SinkCut { number, files, sampled_out, failed_values, outbox, side_files });
                self.work.written_before = self.open_bytes();
            }
        }
        self.look();
        Ok(cut)
    }

    /// Tells whether files should end.
    fn look(&self) {
        let now = self.clock.now_ms();
        let fresh = self.open_bytes().saturating_sub(self.work.written_before);
        let due = self.open().any(|sink| sink.due(now)) || fresh >= UNSTORED_BYTES_MAX;
        self.gauge.due.store(due, Ordering::Relaxed);
        self.gauge.open_bytes.store(self.open_bytes(), Ordering::Relaxed);
    }

    /// Those whose files end with a roll.
    fn open(&self) -> impl Iterator<Item = &ParquetSink> {
        self.sinks.iter().flatten().chain(self.work.corrections.values().map(|(_, sink)| sink))
    }

    fn open_bytes(&self) -> u64 {
        self.open().map(ParquetSink::open_bytes).sum()
    }

    /// The payload with what its dimensions have by now. A stop while one is away is a failure: these rows have closed, and
    /// a commit without them would lose them.
    fn completed(&self, sample: u16, payload: RecordBatch) -> Result<RecordBatch, RunError> {
        match &self.enricher {
            Some(enricher) => Ok(enricher.again(self.samples[sample as usize].join.anchor, payload)?),
            None => Ok(payload),
        }
    }

    /// Rows that correct others go to files of their own, by the time of their emission.
    fn write_files(&mut self, sample: u16, built: &Built) -> Result<(), RunError> {
        let (number, now) = (sample as usize, self.clock.now_ms());
        let apart = built.corrections.as_ref().zip(self.work.corrections.get_mut(&number));
        let Some((corrections, (_, sink))) = apart else {
            return match &mut self.sinks[number] {
                Some(sink) => Ok(sink.write(&built.batch, now)?),
                None => Ok(()),
            };
        };
        sink.write(&corrections.of(&built.batch, true), now)?;
        match &mut self.sinks[number] {
            Some(sink) => Ok(sink.write(&corrections.of(&built.batch, false), now)?),
            None => Ok(()),
        }
    }

    fn write(&mut self, sample: u16, closed: &ClosedRows, send: bool) -> Result<(u64, u64), RunError> {
        let (mut left_out, mut failed) = (0, 0);
        for part in &closed.parts {
            if part.event_time.is_empty() {
                continue;
            }
            let (payload, features) = read_back(self.state.as_ref(), part)?;
            let payload = self.completed(sample, payload)?;
            let spec = &self.samples[sample as usize].sample;
            let built = build(spec, sample, closed, part, &payload, &features)?;
            left_out += built.sampled_out;
            failed += built.failed_values;
            self.gauge.rows.fetch_add(built.batch.rows.num_rows() as u64, Ordering::Relaxed);
            self.write_files(sample, &built)?;
            if let (Some(outbox), Some(keys), true) = (&mut self.work.outbox, &built.batch.event_id, send) {
                outbox.push(sample as usize, SAMPLE_ROWS, keys, &built.batch.rows)?;
            }
        }
        Ok((left_out, failed))
    }
}

/// The columns of a part and of its features, from disk where they are there alone.
fn read_back(state: &dyn Store, part: &ClosedPart) -> Result<(RecordBatch, Vec<RecordBatch>), ObjectError> {
    let payload = match &part.payload {
        Kept::Memory(rows) | Kept::Cached(rows, _) => rows.clone(),
        Kept::Stored(block) => read_block(state, block)?,
    };
    let features = match &part.features {
        Kept::Memory(groups) | Kept::Cached(groups, _) => groups.clone(),
        Kept::Stored(block) => part
            .layout
            .split(&read_block(state, block)?)
            .map_err(|error| ObjectError::Damaged { path: state.describe(&block.object), found: error.to_string() })?,
    };
    Ok((payload, features))
}
