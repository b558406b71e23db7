//! Staged: a complete Parquet file on its way to its public name, from the last row to publication.
//!
//!   write through StagedWriter ─> finish ─> StagedFile in the manifest ─> verify ─> commit ─> publish
//!
//! Holds: size, rows and sha256 are those of the bytes that were written; publishing can be repeated at any time.
//! Does not: decide what is published: the manifest does.

use super::{FileNaming, SinkError};
use crate::env::failpoint::{self, Failpoint};
use crate::env::{Created, Listed, Renamed, Store, StoreError, StoreWriter, folder_of};
use crate::event::EventTime;
pub use crate::event::StagedFile;
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::panic::catch_unwind;

/// Hashes and counts what goes into a file.
pub(super) struct StagedWriter {
    /// `None` once the file is finished.
    inner: Option<Box<dyn StoreWriter>>,
    sha256: Sha256,
    bytes: u64,
}

impl Write for StagedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let inner = self.inner.as_mut().expect("nothing is written to a finished file");
        let written = inner.write(bytes)?;
        self.sha256.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.as_mut().map_or(Ok(()), |inner| inner.flush())
    }
}

/// A Parquet file that is being written.
pub(super) struct OpenFile {
    pub(super) writer: ArrowWriter<StagedWriter>,
    pub(super) staged: String,
    path: String,
    /// Where it lies, for people.
    shown: String,
    rows: u64,
    min_time: EventTime,
    max_time: EventTime,
}

impl OpenFile {
    pub(super) fn create(
        store: &dyn Store,
        (staged, path): (String, String),
        schema: arrow::datatypes::SchemaRef,
        properties: parquet::file::properties::WriterProperties,
    ) -> Result<OpenFile, SinkError> {
        let inner = store.create_writer(&staged)?;
        let shown = store.describe(&staged);
        let writer = StagedWriter { inner: Some(inner), sha256: Sha256::new(), bytes: 0 };
        let writer = ArrowWriter::try_new(writer, schema, Some(properties)).map_err(|e| encode_error(&shown, e))?;
        Ok(OpenFile { writer, staged, path, shown, rows: 0, min_time: EventTime::MAX, max_time: EventTime::MIN })
    }

    /// Adds rows whose times lie in `times`, both ends included.
    pub(super) fn write(
        &mut self,
        rows: &arrow::array::RecordBatch,
        times: (EventTime, EventTime),
    ) -> Result<(), SinkError> {
        self.writer.write(rows).map_err(|error| encode_error(&self.shown, error))?;
        self.rows += rows.num_rows() as u64;
        self.min_time = self.min_time.min(times.0);
        self.max_time = self.max_time.max(times.1);
        Ok(())
    }

    /// Bytes written so far, and what the open row group will add.
    pub(super) fn bytes(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    pub(super) fn flush_row_group(&mut self) -> Result<(), SinkError> {
        self.writer.flush().map_err(|error| encode_error(&self.shown, error))
    }

    /// Writes the footer and makes the file durable under its staged name.
    pub(super) fn finish(self, sample: &str) -> Result<StagedFile, SinkError> {
        let OpenFile { mut writer, staged, path, shown, rows, min_time, max_time } = self;
        // Not `into_inner`: it makes text of the I/O error, and people must know that the disk is full.
        failpoint::step(Failpoint::ParquetFinish, || writer.finish()).map_err(|e| encode_error(&shown, e))?;
        let StagedWriter { inner, sha256, bytes } = writer.inner_mut();
        let (inner, sha256, bytes) = (inner.take().expect("a file is finished once"), std::mem::take(sha256), *bytes);
        if failpoint::step(Failpoint::ParquetStage, || inner.finish())? == Created::AlreadyThere {
            return Err(SinkError::Taken { path: shown });
        }
        let sha256 = sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(StagedFile { sample: sample.into(), staged, path, rows, bytes, sha256, min_time, max_time })
    }
}

/// An I/O error keeps its path and advice; the rest is the encoder's.
fn encode_error(path: &str, error: ParquetError) -> SinkError {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(source) => StoreError::from_io("write", path, *source).into(),
            Err(source) => SinkError::Encode { path: path.into(), source: ParquetError::External(source) },
        },
        source => SinkError::Encode { path: path.into(), source },
    }
}

/// Looks at a staged (or already published) file before the manifest may name it: length, footer, number of rows.
pub fn verify(store: &dyn Store, file: &StagedFile) -> Result<(), SinkError> {
    let (path, size) = match store.size(&file.staged)? {
        Some(size) => (&file.staged, size),
        None => match store.size(&file.path)? {
            Some(size) => (&file.path, size),
            None => return Err(missing(store, file)),
        },
    };
    let damaged = |found: String| SinkError::Damaged { path: store.describe(path), found };
    if size != file.bytes {
        return Err(damaged(format!("it has {size} bytes, {} were written", file.bytes)));
    }
    let rows = footer_rows(store, path, size)?.map_err(damaged)?;
    if rows != file.rows as i64 {
        return Err(damaged(format!("its footer counts {rows} rows, {} were written", file.rows)));
    }
    Ok(())
}

/// Reads the whole file and compares its sha256 as well: for `conjoin verify` and after a suspicion.
pub fn verify_content(store: &dyn Store, file: &StagedFile) -> Result<(), SinkError> {
    const READ_BYTES: u64 = 4 << 20;
    verify(store, file)?;
    let path = if store.size(&file.staged)?.is_some() { &file.staged } else { &file.path };
    let mut sha256 = Sha256::new();
    for offset in (0..file.bytes).step_by(READ_BYTES as usize) {
        sha256.update(store.read_range(path, offset, READ_BYTES.min(file.bytes - offset))?);
    }
    let found: String = sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if found != file.sha256 {
        let found = format!("its sha256 is {found}, written was {}", file.sha256);
        return Err(SinkError::Damaged { path: store.describe(path), found });
    }
    Ok(())
}

/// The number of rows that the footer states, or what is wrong with it.
fn footer_rows(store: &dyn Store, path: &str, size: u64) -> Result<Result<i64, String>, StoreError> {
    Ok(footer_of(store, path, size)?.map(|metadata| metadata.file_metadata().num_rows()))
}

/// What a file's footer says, or what is wrong with it.
pub(super) fn footer_of(
    store: &dyn Store,
    path: &str,
    size: u64,
) -> Result<Result<ParquetMetaData, String>, StoreError> {
    const TAIL_BYTES: u64 = 8;
    if size < 2 * TAIL_BYTES {
        return Ok(Err("it is too short for a Parquet file".into()));
    }
    let tail = store.read_range(path, size - TAIL_BYTES, TAIL_BYTES)?;
    let footer_bytes = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    if &tail[4..] != b"PAR1" || footer_bytes > size - TAIL_BYTES {
        return Ok(Err("it does not end as a Parquet file".into()));
    }
    let footer = store.read_range(path, size - TAIL_BYTES - footer_bytes, footer_bytes)?;
    // Readers of Parquet have been known to panic on damaged bytes; here that is one more sign of damage.
    let decoded = catch_unwind(|| ParquetMetaDataReader::decode_metadata(&footer));
    Ok(match decoded {
        Ok(Ok(metadata)) => Ok(metadata),
        Ok(Err(error)) => Err(format!("its footer cannot be read: {error}")),
        Err(_) => Err("its footer cannot be read".into()),
    })
}

/// Gives committed files their public names. Can be repeated; returns how many files changed their name now.
pub fn publish(store: &dyn Store, files: &[StagedFile]) -> Result<usize, SinkError> {
    let mut renamed = 0;
    for file in files {
        match failpoint::step(Failpoint::PublishRename, || store.rename(&file.staged, &file.path)) {
            Ok(Renamed::Yes) => renamed += 1,
            Ok(Renamed::AlreadyDone) => {}
            Err(error) if error.is_not_found() => return Err(missing(store, file)),
            Err(error) => return Err(error.into()),
        }
    }
    // Also for files that had their name already: a crash may have come before this.
    let folders: BTreeSet<&str> = files.iter().map(|file| folder_of(&file.path)).collect();
    for folder in folders {
        failpoint::step(Failpoint::PublishSync, || store.sync_folder(folder))?;
    }
    Ok(renamed)
}

/// What earlier epochs of this chain staged, with the epoch of each; what they only began to write is removed. To be
/// called after the claim of an epoch. Whether a file may go is decided by the manifests that are left.
pub fn older_staged(store: &dyn Store, naming: &FileNaming) -> Result<Vec<(Listed, u64)>, SinkError> {
    store.sweep_unfinished("", &|path| naming.older_staged(path).is_some())?;
    let listed = store.list("")?.into_iter();
    Ok(listed.filter_map(|object| naming.older_staged(&object.path).map(|epoch| (object, epoch))).collect())
}

fn missing(store: &dyn Store, file: &StagedFile) -> SinkError {
    SinkError::Missing { staged: store.describe(&file.staged), path: store.describe(&file.path) }
}
