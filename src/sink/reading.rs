//! Reading: rows of published files, for those who look at what was written.

use super::SinkError;
use super::staged::footer_of;
use crate::env::Store;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::DecodeResult;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};
use parquet::arrow::push_decoder::ParquetPushDecoderBuilder;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const ROWS_AT_ONCE: usize = 65_536;

/// Every published file below a folder, in name order.
pub fn published_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "parquet") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Shows a file's rows, with the columns of these names that it has, in the file's order.
pub fn read_columns(
    path: &Path,
    columns: &[&str],
    mut see: impl FnMut(&RecordBatch),
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
    for batch in builder.with_projection(mask).with_batch_size(ROWS_AT_ONCE).build()? {
        see(&batch?);
    }
    Ok(())
}

/// Shows all rows of a file of a store, in the file's order, and gives its schema. Whatever is wrong with the file is
/// [`SinkError::Damaged`].
pub fn read_stored(store: &dyn Store, path: &str, see: &mut dyn FnMut(&RecordBatch)) -> Result<SchemaRef, SinkError> {
    let damaged = |found: String| SinkError::Damaged { path: store.describe(path), found };
    let bytes = store.read(path)?;
    let metadata = footer_of(store, path, bytes.len() as u64)?.map_err(damaged)?;
    // Readers of Parquet have been known to panic on damaged bytes.
    match catch_unwind(AssertUnwindSafe(|| decode(bytes, metadata, see))) {
        Ok(decoded) => decoded.map_err(|error| damaged(format!("it cannot be read: {error}"))),
        Err(_) => Err(damaged("it cannot be read".into())),
    }
}

fn decode(
    bytes: Vec<u8>,
    metadata: ParquetMetaData,
    see: &mut dyn FnMut(&RecordBatch),
) -> Result<SchemaRef, ParquetError> {
    let metadata = ArrowReaderMetadata::try_new(Arc::new(metadata), Default::default())?;
    let schema = metadata.schema().clone();
    let builder = ParquetPushDecoderBuilder::new_with_metadata(metadata).with_batch_size(ROWS_AT_ONCE);
    let mut decoder = builder.build()?;
    decoder.push_range(0..bytes.len() as u64, bytes.into())?;
    loop {
        match decoder.try_decode()? {
            DecodeResult::Data(batch) => see(&batch),
            DecodeResult::Finished => return Ok(schema),
            DecodeResult::NeedsData(ranges) => {
                return Err(ParquetError::General(format!("its footer names bytes it does not have: {ranges:?}")));
            }
        }
    }
}

/// The value that a file's writer noted under `key`.
pub fn note_of(store: &dyn Store, path: &str, key: &str) -> Result<Option<String>, SinkError> {
    let damaged = |found: String| SinkError::Damaged { path: store.describe(path), found };
    let size = store.size(path)?.ok_or_else(|| damaged("it is gone".into()))?;
    let metadata = footer_of(store, path, size)?.map_err(damaged)?;
    let notes = metadata.file_metadata().key_value_metadata();
    Ok(notes.and_then(|notes| notes.iter().find(|note| note.key == key)?.value.clone()))
}
