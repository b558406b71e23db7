//! Files: the lines of any file come as records, each once, whatever way the file is packed and wherever reading starts;
//! what is no such file is an error.
//!
//! In: how the file is packed, then its content, or its bytes as they are.

use super::script::{Script, edit_bytes};
use conjoin::event::{PartitionId, Positions, RawBatch};
use conjoin::source::file::{FileLimits, FileSource};
use conjoin::source::{InputKind, InputSpec, Source, SourceEvent};
use std::io::Write;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;
use tempfile::TempDir;

/// Small, so that small inputs reach them.
const LIMITS: FileLimits = FileLimits { batch_records_max: 3, batch_bytes_max: 64, record_bytes_max: 40 };

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder can be made"));

pub fn seeds() -> Vec<Vec<u8>> {
    let content = b"\xef\xbb\xbf{\"a\":1}\r\n\n  \n{\"b\":\"a line that is longer than the limit of a record\"}\nlast";
    let of = |how: u8, bytes: &[u8]| [&[how], bytes].concat();
    let packed = [content.to_vec(), gzip(content), zstd::encode_all(&content[..], 1).expect("memory takes it")];
    let raw = packed.iter().zip(3..).map(|(bytes, how)| of(how, bytes));
    raw.chain((0..3).chain(6..9).map(|how| of(how, content))).collect()
}

type Pack = fn(&[u8]) -> Vec<u8>;

pub fn run(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let how = script.byte();
    let (ending, pack): (&str, Pack) = match how % 3 {
        0 => ("ndjson", <[u8]>::to_vec),
        1 => ("gz", gzip),
        _ => ("zst", |bytes| zstd::encode_all(bytes, 1).expect("memory takes it")),
    };
    let name = format!("{ending}-{:?}.{ending}", std::thread::current().id()).replace(['(', ')'], "");
    let path = FOLDER.path().join(name);
    match how / 3 % 3 {
        0 => {
            let content = script.rest();
            std::fs::write(&path, pack(content)).expect("the file can be written");
            let records = read(&path, 0).expect("what was packed here can be unpacked").0;
            assert_eq!(records, lines(content));
            from_every_step(&path, &records);
        }
        1 => {
            std::fs::write(&path, script.rest()).expect("the file can be written");
            let _ = read(&path, 0);
        }
        _ => {
            let mut packed = pack(&b"{\"id\": 1}\n{\"id\": 2}\n\n".repeat(9));
            edit_bytes(&mut packed, &mut script);
            std::fs::write(&path, packed).expect("the file can be written");
            let _ = read(&path, 0);
        }
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).expect("memory takes it");
    packer.finish().expect("memory takes it")
}

/// (position, payload) of every record from a position on, and the positions where batches began.
type Found = (Vec<(i64, Vec<u8>)>, Vec<i64>);

fn read(path: &Path, from: i64) -> Result<Found, String> {
    let pattern = path.to_str().expect("the path is text").to_string();
    let (name, kind) = (pattern.clone(), InputKind::File { pattern });
    let spec = InputSpec { name, kind, streams: vec![0], headers: false };
    let mut positions = Positions::default();
    positions.set(PartitionId { input: 0, partition: 0 }, from);
    let mut source = FileSource::open(&[(0, &spec)], &positions, LIMITS).map_err(|error| error.to_string())?;
    let (mut records, mut starts, mut next) = (Vec::new(), Vec::new(), from);
    loop {
        match source.poll(Duration::ZERO).map_err(|error| error.to_string())? {
            SourceEvent::Batch(RawBatch { delta, bytes, records: found }) => {
                assert_eq!(delta.from, next, "steps chain");
                assert!(
                    delta.to > delta.from
                        && bytes.len() <= 64 + LIMITS.batch_bytes_max + LIMITS.record_bytes_max + 65_536
                );
                starts.push(next);
                next = delta.to;
                for record in found {
                    let payload = record.payload.expect("a line is no tombstone");
                    assert!((delta.from..delta.to).contains(&record.position), "{delta:?} {}", record.position);
                    records.push((record.position, bytes[payload.start as usize..payload.end as usize].to_vec()));
                }
            }
            SourceEvent::Ended(_) => return Ok((records, starts)),
            other => panic!("a file gives lines until it ends: {other:?}"),
        }
    }
}

/// The lines as they should come: not blank, without their ends, cut one byte behind the limit.
fn lines(content: &[u8]) -> Vec<(i64, Vec<u8>)> {
    let start = if content.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let (mut at, mut lines) = (start as i64, Vec::new());
    for line in content[start..].split(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\r").unwrap_or(line);
        if !text.iter().all(u8::is_ascii_whitespace) {
            lines.push((at, text[..text.len().min(LIMITS.record_bytes_max + 1)].to_vec()));
        }
        at += line.len() as i64 + 1;
    }
    lines
}

/// Wherever a batch began reading can begin again.
fn from_every_step(path: &Path, records: &[(i64, Vec<u8>)]) {
    let (_, starts) = read(path, 0).expect("it was just read");
    for start in starts {
        let rest: Vec<_> = records.iter().filter(|(position, _)| *position >= start).cloned().collect();
        assert_eq!(read(path, start).expect("it was just read").0, rest, "from {start}");
    }
}
