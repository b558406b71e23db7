//! Object: one file of state per commit, a sequence of blocks and a footer that lists them.
//!
//!   "CJSTATE1" │ block │ block │ … │ footer (JSON list of blocks)
//!
//! Each block is an Arrow IPC stream, lz4 inside where that pays, with its own sha256: a restore reads only what it needs, and checks it.

use crate::commit::manifest::{BlockEntry, ObjectEntry};
use crate::env::{Store, StoreError};
use crate::event::{BlockRef, StateBlock};
use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io::Write;
use std::panic::catch_unwind;
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"CJSTATE1";
/// Rows that tell whether compressing a block pays.
const SAMPLE_ROWS: usize = 1_024;

/// State that cannot be written or read back.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot encode a state block: {0}")]
    Encode(ArrowError),
    #[error("state object {path} is damaged ({found}): restore it from a backup, or start anew with --fresh")]
    Damaged { path: String, found: String },
    #[error("state object {path} exists already: another process writes this chain; stop it, then start again")]
    Taken { path: String },
}

/// A block as it will lie in an object, made where its rows are: encoding is most of the work of a commit, and lanes do
/// it side by side.
#[derive(Debug)]
pub struct EncodedBlock {
    entry: BlockEntry,
    bytes: Vec<u8>,
}

impl EncodedBlock {
    pub fn entry(&self) -> &BlockEntry {
        &self.entry
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Encodes a block of a lane; `lanes` is how many there are.
pub fn encode_block(block: &StateBlock, lanes: usize) -> Result<EncodedBlock, ObjectError> {
    let bytes = compression(&block.rows).and_then(|compression| encode(&block.rows, compression));
    let bytes = bytes.map_err(ObjectError::Encode)?;
    let entry = BlockEntry {
        class: block.class,
        bucket: block.bucket,
        segment: block.segment,
        lanes,
        whole: block.whole,
        rows: block.rows.num_rows() as u64,
        offset: 0,
        bytes: bytes.len() as u64,
        sha256: hex(&Sha256::digest(&bytes)),
    };
    Ok(EncodedBlock { entry, bytes })
}

/// Where state objects lie.
pub const STATE_FOLDER: &str = "state/";

/// The path of the state object of a cut.
pub fn object_path(cut: u64, epoch: u64, writer: &str) -> String {
    format!("{STATE_FOLDER}{cut:012}-{epoch}-{writer}.state")
}

/// The epoch in the path of a state object.
pub fn object_epoch(path: &str) -> Option<u64> {
    let name = path.strip_prefix(STATE_FOLDER)?.strip_suffix(".state")?;
    name.split('-').nth(1)?.parse().ok()
}

/// Writes the blocks of one commit; nothing is visible before it returns.
pub fn write_object(
    store: &dyn Store,
    path: &str,
    blocks: Vec<EncodedBlock>,
) -> Result<(ObjectEntry, Vec<BlockEntry>), ObjectError> {
    let io = |source| StoreError::from_io("write", store.describe(path), source);
    let mut writer = store.create_writer(path)?;
    writer.write_all(MAGIC).map_err(io)?;
    let mut offset = MAGIC.len() as u64;
    let mut entries = Vec::with_capacity(blocks.len());
    for block in blocks {
        writer.write_all(&block.bytes).map_err(io)?;
        entries.push(BlockEntry { offset, ..block.entry });
        offset += block.bytes.len() as u64;
    }
    let footer = serde_json::to_vec(&entries).expect("block entries are plain data");
    writer.write_all(&footer).map_err(io)?;
    if writer.finish()? == crate::env::Created::AlreadyThere {
        return Err(ObjectError::Taken { path: store.describe(path) });
    }
    let entry = ObjectEntry {
        path: path.into(),
        bytes: offset + footer.len() as u64,
        footer_bytes: footer.len() as u64,
        footer_sha256: hex(&Sha256::digest(&footer)),
    };
    Ok((entry, entries))
}

/// Whether a block is worth compressing, found out with some of its rows: hashes and measured numbers hardly shrink, and
/// trying on all of them would be a good part of what a commit costs. Small blocks are compressed without asking.
fn compression(rows: &RecordBatch) -> Result<Option<CompressionType>, ArrowError> {
    let lz4 = Some(CompressionType::LZ4_FRAME);
    if rows.num_rows() < 4 * SAMPLE_ROWS {
        return Ok(lz4);
    }
    let sample = rows.slice(0, SAMPLE_ROWS);
    let (plain, compressed) = (encode(&sample, None)?.len(), encode(&sample, lz4)?.len());
    Ok(lz4.filter(|_| compressed * 4 <= plain * 3))
}

fn encode(rows: &RecordBatch, compression: Option<CompressionType>) -> Result<Vec<u8>, ArrowError> {
    let options = IpcWriteOptions::default().try_with_compression(compression)?;
    // Room for all of it: a vector that grows copies what it has.
    let room = Vec::with_capacity(rows.get_array_memory_size());
    let mut writer = StreamWriter::try_new_with_options(room, &rows.schema(), options)?;
    writer.write(rows)?;
    writer.finish()?;
    writer.into_inner()
}

/// Step 6 of the protocol: what will be named in a manifest is there, whole.
pub fn verify_object(store: &dyn Store, object: &ObjectEntry) -> Result<(), ObjectError> {
    let damaged = |found: String| ObjectError::Damaged { path: store.describe(&object.path), found };
    match store.size(&object.path)? {
        Some(bytes) if bytes == object.bytes => read_footer(store, object).map(drop),
        Some(bytes) => Err(damaged(format!("{bytes} bytes instead of {}", object.bytes))),
        None => Err(damaged("missing".into())),
    }
}

/// Lists the blocks of an object.
pub fn read_footer(store: &dyn Store, object: &ObjectEntry) -> Result<Vec<BlockEntry>, ObjectError> {
    let damaged = |found: String| ObjectError::Damaged { path: store.describe(&object.path), found };
    let start = object.bytes.checked_sub(object.footer_bytes).ok_or_else(|| damaged("impossible footer".into()))?;
    let footer = store.read_range(&object.path, start, object.footer_bytes)?;
    if hex(&Sha256::digest(&footer)) != object.footer_sha256 {
        return Err(damaged("the footer's sha256 does not match the manifest".into()));
    }
    serde_json::from_slice(&footer).map_err(|error| damaged(error.to_string()))
}

/// Where a block lies, for those who keep it on disk.
pub fn block_ref(object: &Arc<str>, entry: &BlockEntry) -> Option<BlockRef> {
    let mut sha256 = [0; 32];
    for (byte, pair) in sha256.iter_mut().zip(entry.sha256.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(BlockRef { object: object.clone(), offset: entry.offset, bytes: entry.bytes, sha256 })
}

/// Reads a block back and checks it.
pub fn read_block(store: &dyn Store, block: &BlockRef) -> Result<RecordBatch, ObjectError> {
    let damaged = |found: String| ObjectError::Damaged { path: store.describe(&block.object), found };
    let bytes = store.read_range(&block.object, block.offset, block.bytes)?;
    if Sha256::digest(&bytes).as_slice() != block.sha256 {
        return Err(damaged(format!("the block at byte {} does not match its sha256", block.offset)));
    }
    decode_rows(&bytes).map_err(|error| damaged(error.to_string()))
}

/// The rows of an encoded block.
pub fn decode_rows(bytes: &[u8]) -> Result<RecordBatch, ArrowError> {
    let decode = || {
        let mut reader = StreamReader::try_new(bytes, None)?;
        let schema = reader.schema();
        reader.next().unwrap_or_else(|| Ok(RecordBatch::new_empty(schema)))
    };
    // The reader panics at some blocks that no writer made.
    catch_unwind(decode).unwrap_or_else(|_| Err(ArrowError::IpcError("its buffers are not of its columns".into())))
}

/// Reads blocks of an object as they lie there, checked, for another object to hold them.
pub fn read_encoded(
    store: &dyn Store,
    object: &ObjectEntry,
    entries: &[BlockEntry],
) -> Result<Vec<EncodedBlock>, ObjectError> {
    let mut blocks = Vec::with_capacity(entries.len());
    for run in entries.chunk_by(|one, next| one.offset.checked_add(one.bytes) == Some(next.offset)) {
        let bytes = run.iter().map(|entry| entry.bytes).sum();
        let read = store.read_range(&object.path, run[0].offset, bytes)?;
        let mut rest = read.as_slice();
        for entry in run {
            let (block, after) = rest.split_at(entry.bytes as usize);
            if hex(&Sha256::digest(block)) != entry.sha256 {
                let found = format!("the block at byte {} does not match its sha256", entry.offset);
                return Err(ObjectError::Damaged { path: store.describe(&object.path), found });
            }
            blocks.push(EncodedBlock { entry: entry.clone(), bytes: block.into() });
            rest = after;
        }
    }
    Ok(blocks)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::MemoryStore;
    use crate::event::{BlockClass, BlockKind, SegmentId};
    use arrow::array::{Int64Array, UInt64Array};

    fn block(rows: RecordBatch) -> StateBlock {
        let class = BlockClass { kind: BlockKind::ImpressionRows, node: 0, part: 0 };
        let segment = SegmentId { cut: 1, lane: 0, ordinal: 0 };
        StateBlock { class, bucket: 0, segment, whole: false, rows }
    }

    #[test]
    fn what_shrinks_is_compressed_and_both_kinds_are_read_back() {
        let hash = |row: u64| crate::event::content_hash(&row.to_le_bytes(), 0);
        let hashes =
            RecordBatch::try_from_iter([("h", Arc::new(UInt64Array::from_iter_values((0..10_000).map(hash))) as _)]);
        let times = RecordBatch::try_from_iter([("t", Arc::new(Int64Array::from_iter_values(0..10_000)) as _)]);
        let store = MemoryStore::default();
        for (number, (rows, shrinks)) in [(hashes.unwrap(), false), (times.unwrap(), true)].into_iter().enumerate() {
            let encoded = encode_block(&block(rows.clone()), 1).unwrap();
            let plain = encode(&rows, None).unwrap().len() as u64;
            assert_eq!(encoded.entry.bytes * 4 < plain * 3, shrinks, "{} of {plain} bytes", encoded.entry.bytes);
            let path = object_path(number as u64, 1, "w");
            let (object, entries) = write_object(&store, &path, vec![encoded]).unwrap();
            let found = block_ref(&Arc::from(object.path.as_str()), &entries[0]).unwrap();
            assert_eq!(read_block(&store, &found).unwrap(), rows);
        }
    }
}
