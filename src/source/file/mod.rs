//! File source: newline-delimited records of files as bounded partitions.
//!
//! ```text
//!   data/*.ndjson.gz ─ in name order ─> one sequence = one partition ─> batches ─> Ended
//!                                          position = (file number, byte offset in uncompressed bytes)
//! ```
//!
//! In: paths, folders or globs, and the positions to go on from. Out: lines as records, without their line ends.
//! Holds: what counts is the list of files when the source was opened; empty lines are no records; the last line needs
//! no line end; the step behind the last line of a file leads to the start of the next file.
//! Does not: watch for new files, follow a file that grows, read sub-folders.

mod lines;
mod list;
mod playback;

pub use playback::{Appended, file_behind, write_behind};

use crate::event::{PartitionId, PositionDelta, Positions, RawBatch, file_and_offset, file_position};
use crate::source::{InputKind, InputSpec, Source, SourceError, SourceEvent, wait};
use lines::{LineReader, OpenError};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub struct FileLimits {
    pub batch_records_max: usize,
    pub batch_bytes_max: usize,
    /// A line above it is cut one byte behind, so that `decode` refuses it and memory stays bounded.
    pub record_bytes_max: usize,
}

impl Default for FileLimits {
    fn default() -> Self {
        FileLimits { batch_records_max: 8192, batch_bytes_max: 2 << 20, record_bytes_max: 8 << 20 }
    }
}

pub struct FileSource {
    sequences: Vec<Sequence>,
    limits: FileLimits,
    /// The sequence to ask first, so that all get their turn.
    turn: usize,
}

/// The files of one input, read one after another.
struct Sequence {
    id: PartitionId,
    name: String,
    files: Vec<PathBuf>,
    /// Position of the next byte to hand out.
    next: i64,
    reader: Option<LineReader>,
    paused: bool,
    end_said: bool,
}

impl FileSource {
    /// Lists the files of every input (its number in the plan, its spec) and goes to `positions`. Fails when files are
    /// missing or fewer than the positions know of.
    pub fn open(
        inputs: &[(u16, &InputSpec)],
        positions: &Positions,
        limits: FileLimits,
    ) -> Result<FileSource, SourceError> {
        let mut sequences = Vec::with_capacity(inputs.len());
        for &(input, spec) in inputs {
            let id = PartitionId { input, partition: 0 };
            let failed = |message| SourceError::Input { input: spec.name.clone(), message };
            let InputKind::File { pattern } = &spec.kind else {
                return Err(failed("this input is not read from files".to_string()));
            };
            let files = list::find(pattern).map_err(failed)?;
            let next = positions.next(id).unwrap_or(0);
            let (file, offset) = file_and_offset(next);
            if file as usize > files.len() || (file as usize == files.len() && offset > 0) {
                return Err(failed(format!(
                    "the saved state was read from at least {} files, but now there are {}. Put the missing files back, \
                     or start over with --fresh",
                    file as usize + (offset > 0) as usize,
                    files.len()
                )));
            }
            let name = spec.name.clone();
            sequences.push(Sequence { id, name, files, next, reader: None, paused: false, end_said: false });
        }
        sequences.sort_by_key(|sequence| sequence.id);
        Ok(FileSource { sequences, limits, turn: 0 })
    }

    /// The files of an input in the order of their numbers in positions; empty for an input that is not here.
    pub fn files(&self, input: u16) -> &[PathBuf] {
        self.sequences.iter().find(|sequence| sequence.id.input == input).map_or(&[], |sequence| &sequence.files)
    }

    fn set_paused(&mut self, partition: PartitionId, paused: bool) {
        if let Some(sequence) = self.sequences.iter_mut().find(|sequence| sequence.id == partition) {
            sequence.paused = paused;
        }
    }
}

impl Source for FileSource {
    fn partitions(&self) -> Vec<PartitionId> {
        self.sequences.iter().map(|sequence| sequence.id).collect()
    }

    fn poll(&mut self, timeout: Duration) -> Result<SourceEvent, SourceError> {
        let count = self.sequences.len();
        for step in 0..count {
            let index = (self.turn + step) % count;
            let sequence = &mut self.sequences[index];
            if !sequence.paused && !sequence.end_said {
                self.turn = (index + 1) % count;
                return sequence.step(&self.limits);
            }
        }
        // Only the caller can change this, but it may ask in a loop.
        wait(timeout);
        Ok(SourceEvent::Nothing)
    }

    fn pause(&mut self, partition: PartitionId) {
        self.set_paused(partition, true);
    }

    fn resume(&mut self, partition: PartitionId) {
        self.set_paused(partition, false);
    }

    fn label(&self, partition: PartitionId, position: i64) -> String {
        let (file, offset) = file_and_offset(position);
        let Some(sequence) = self.sequences.iter().find(|sequence| sequence.id == partition) else {
            return format!("partition {partition} position {position}");
        };
        match sequence.files.get(file as usize) {
            Some(path) => format!("{} byte {offset}", path.display()),
            None => format!("end of {}", sequence.name),
        }
    }
}

impl Sequence {
    fn step(&mut self, limits: &FileLimits) -> Result<SourceEvent, SourceError> {
        let from = self.next;
        let (file, offset) = file_and_offset(from);
        let Some(path) = self.files.get(file as usize) else {
            self.end_said = true;
            return Ok(SourceEvent::Ended(self.id));
        };
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => LineReader::open(path, file, offset, limits).map_err(|error| cannot_open(path, offset, error))?,
        };
        let chunk = reader.next(limits).map_err(|source| SourceError::Read {
            input: path.display().to_string(),
            message: format!("reading failed behind byte {offset} of its content"),
            source,
        })?;
        if chunk.to >= FILE_BYTES_MAX {
            let message = "the file is larger than 1 TiB uncompressed. Split it".to_string();
            return Err(SourceError::Input { input: path.display().to_string(), message });
        }
        self.next = if chunk.last { file_position(file + 1, 0) } else { file_position(file, chunk.to) };
        self.reader = (!chunk.last).then_some(reader);
        let delta = PositionDelta { partition: self.id, from, to: self.next };
        Ok(SourceEvent::Batch(RawBatch { delta, bytes: chunk.bytes, records: chunk.records }))
    }
}

/// What an offset of [`file_position`] can say.
const FILE_BYTES_MAX: u64 = 1 << 40;

fn cannot_open(path: &Path, offset: u64, error: OpenError) -> SourceError {
    let input = path.display().to_string();
    match error {
        OpenError::Io(source) => SourceError::Read { input, message: "the file cannot be opened".to_string(), source },
        OpenError::Shorter(length) => SourceError::Input {
            input,
            message: format!(
                "the saved state was read up to byte {offset}, but the file has only {length} bytes (unpacked). It was \
                 replaced or cut: put the old file back, or start over with --fresh"
            ),
        },
    }
}

#[cfg(test)]
mod tests;
