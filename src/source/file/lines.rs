//! Lines: cuts one file, plain or packed, into chunks of whole lines.
//!
//! ```text
//!   file ─ unpack ─> │line│line│li…      one chunk: the bytes as read, and where each line lies in them
//!                                └ carried into the next chunk
//! ```
//!
//! Holds: offsets count uncompressed bytes; memory stays below chunk + longest accepted line, whatever the file holds.

use crate::event::{RawRecord, file_position};
use crate::source::file::FileLimits;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

/// Whole lines of one file.
pub(super) struct Chunk {
    pub bytes: Vec<u8>,
    pub records: Vec<RawRecord>,
    /// The offset behind these lines.
    pub to: u64,
    /// The file has no more.
    pub last: bool,
}

pub(super) struct LineReader {
    reader: Box<dyn Read + Send>,
    /// Number of the file in its sequence.
    file: u32,
    /// Offset of the first byte not handed out yet.
    at: u64,
    /// Bytes from there on that were already read.
    carry: Vec<u8>,
    end_of_file: bool,
    /// Bytes that will probably give as many lines as a batch takes.
    chunk_bytes: usize,
}

/// Why a file cannot be opened at an offset.
pub(super) enum OpenError {
    Io(io::Error),
    /// It has fewer (uncompressed) bytes than the offset.
    Shorter(u64),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        OpenError::Io(error)
    }
}

/// The smallest chunk: below it a read costs more than its bytes.
const CHUNK_BYTES_MIN: usize = 64 << 10;
const UNPACK_BUFFER_BYTES: usize = 256 << 10;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl LineReader {
    /// Opens a file to go on at `offset` of its uncompressed bytes: plain files seek, packed ones are unpacked up to it.
    pub fn open(path: &Path, file: u32, offset: u64, limits: &FileLimits) -> Result<Self, OpenError> {
        let mut plain = File::open(path)?;
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("");
        let reader: Box<dyn Read + Send> = match extension {
            "gz" => {
                let buffered = BufReader::with_capacity(UNPACK_BUFFER_BYTES, plain);
                skip(Box::new(flate2::bufread::MultiGzDecoder::new(buffered)), offset)?
            }
            "zst" => {
                let buffered = BufReader::with_capacity(UNPACK_BUFFER_BYTES, plain);
                skip(Box::new(zstd::stream::read::Decoder::with_buffer(buffered)?), offset)?
            }
            _ => {
                let length = plain.metadata()?.len();
                if length < offset {
                    return Err(OpenError::Shorter(length));
                }
                plain.seek(SeekFrom::Start(offset))?;
                Box::new(plain)
            }
        };
        let chunk_bytes = limits.batch_bytes_max;
        Ok(LineReader { reader, file, at: offset, carry: Vec::new(), end_of_file: false, chunk_bytes })
    }

    /// Reads the next chunk: at most `batch_records_max` lines and about `batch_bytes_max` bytes, but at least one line.
    /// A line above `record_bytes_max` is cut one byte behind it, enough for `decode` to refuse it.
    pub fn next(&mut self, limits: &FileLimits) -> io::Result<Chunk> {
        let mut bytes = std::mem::take(&mut self.carry);
        let mut records = Vec::new();
        let mut wanted = self.chunk_bytes;
        // `start`: where the line at hand begins; `scanned`: no newline between it and here
        let (mut start, mut scanned) = (0, 0);
        loop {
            self.fill(&mut bytes, wanted)?;
            if self.at == 0 && start == 0 && bytes.starts_with(BYTE_ORDER_MARK) {
                (start, scanned) = (BYTE_ORDER_MARK.len(), BYTE_ORDER_MARK.len());
            }
            while records.len() < limits.batch_records_max
                && let Some(end) = newline(&bytes, scanned)
            {
                self.push(&mut records, &bytes, start..end, limits);
                (start, scanned) = (end + 1, end + 1);
            }
            scanned = if records.len() < limits.batch_records_max { bytes.len() } else { start };
            if start > 0 && !self.end_of_file || records.len() == limits.batch_records_max {
                break;
            }
            if self.end_of_file {
                self.push(&mut records, &bytes, start..bytes.len(), limits);
                start = bytes.len();
                break;
            }
            if bytes.len() - start > limits.record_bytes_max {
                return self.cut_long_line(bytes, limits);
            }
            wanted = bytes.len() + limits.batch_bytes_max;
        }
        self.carry.extend_from_slice(&bytes[start..]);
        bytes.truncate(start);
        self.at += start as u64;
        if !records.is_empty() {
            let line_bytes = start.div_ceil(records.len());
            let enough = line_bytes.saturating_mul(limits.batch_records_max).saturating_add(line_bytes);
            self.chunk_bytes = enough.clamp(CHUNK_BYTES_MIN.min(limits.batch_bytes_max), limits.batch_bytes_max);
        }
        Ok(Chunk { bytes, records, to: self.at, last: self.end_of_file && self.carry.is_empty() })
    }

    /// Reads until `bytes` holds `wanted` bytes or the file ends.
    fn fill(&mut self, bytes: &mut Vec<u8>, wanted: usize) -> io::Result<()> {
        if self.end_of_file || bytes.len() >= wanted {
            return Ok(());
        }
        let missing = wanted - bytes.len();
        bytes.reserve(missing);
        let read = self.reader.by_ref().take(missing as u64).read_to_end(bytes)?;
        self.end_of_file = read < missing;
        Ok(())
    }

    fn push(&self, records: &mut Vec<RawRecord>, bytes: &[u8], line: Range<usize>, limits: &FileLimits) {
        let mut text = &bytes[line.clone()];
        if let [before @ .., b'\r'] = text {
            text = before;
        }
        let blank = text.first().is_none_or(u8::is_ascii_whitespace) && text.iter().all(u8::is_ascii_whitespace);
        if blank {
            return;
        }
        let length = text.len().min(limits.record_bytes_max + 1);
        let payload = Some(line.start as u32..(line.start + length) as u32);
        let position = file_position(self.file, self.at + line.start as u64);
        records.push(RawRecord { payload, position, ..RawRecord::default() });
    }

    /// The first line of `bytes` is too long and has no end yet: keeps what shows that, skips the rest of it.
    fn cut_long_line(&mut self, mut bytes: Vec<u8>, limits: &FileLimits) -> io::Result<Chunk> {
        let mut to = self.at + bytes.len() as u64;
        bytes.truncate(limits.record_bytes_max + 1);
        let (payload, position) = (Some(0..bytes.len() as u32), file_position(self.file, self.at));
        let records = vec![RawRecord { payload, position, ..RawRecord::default() }];
        let mut rest = Vec::with_capacity(CHUNK_BYTES_MIN);
        loop {
            rest.clear();
            self.fill(&mut rest, CHUNK_BYTES_MIN)?;
            if let Some(end) = newline(&rest, 0) {
                self.carry.extend_from_slice(&rest[end + 1..]);
                to += end as u64 + 1;
                break;
            }
            to += rest.len() as u64;
            if self.end_of_file {
                break;
            }
        }
        self.at = to;
        Ok(Chunk { bytes, records, to, last: self.end_of_file && self.carry.is_empty() })
    }
}

fn skip(mut reader: Box<dyn Read + Send>, offset: u64) -> Result<Box<dyn Read + Send>, OpenError> {
    let skipped = io::copy(&mut reader.by_ref().take(offset), &mut io::sink())?;
    if skipped < offset { Err(OpenError::Shorter(skipped)) } else { Ok(reader) }
}

/// The next newline at or behind `from`. The standard library's vectorized search is behind [`BufRead`] alone.
fn newline(bytes: &[u8], from: usize) -> Option<usize> {
    let mut rest = &bytes[from..];
    let skipped = rest.skip_until(b'\n').expect("reading memory cannot fail");
    let end = from + skipped;
    (skipped > 0 && bytes[end - 1] == b'\n').then(|| end - 1)
}
