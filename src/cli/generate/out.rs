//! One stream's file: records in the order of their arrival, with duplicates and malformed records in between.

use crate::cli::generate::random::Random;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// How much later than it happened a record may arrive.
pub(super) const DISORDER_MS: u64 = 5_000;
const DUPLICATE_CHANCE: f64 = 0.005;
/// One malformed record follows every so many records, the first ones early.
const MALFORMED_EVERY: u64 = 20_000;
const MALFORMED_EARLY: [u64; 4] = [20, 50, 100, 200];

pub(super) struct StreamFile {
    file: BufWriter<File>,
    waiting: BinaryHeap<Waiting>,
    sequence: u64,
    written: u64,
    pub duplicates: u64,
    pub malformed: u64,
}

/// A line that has not arrived yet; the earliest is the greatest.
struct Waiting {
    arrival: i64,
    sequence: u64,
    line: Box<[u8]>,
}

impl StreamFile {
    pub fn create(folder: &Path, name: &str) -> io::Result<Self> {
        let path = folder.join(name);
        let file = File::create(&path)
            .map_err(|error| io::Error::new(error.kind(), format!("{} cannot be written: {error}", path.display())))?;
        let file = BufWriter::with_capacity(1 << 20, file);
        Ok(StreamFile { file, waiting: BinaryHeap::new(), sequence: 0, written: 0, duplicates: 0, malformed: 0 })
    }

    /// Adds a record that happened at `ts`; true when a second copy of it arrives too.
    pub fn add(&mut self, ts: i64, line: &[u8], random: &mut Random) -> bool {
        let duplicate = random.chance(DUPLICATE_CHANCE);
        for _ in 0..1 + duplicate as u64 {
            let arrival = ts + random.below(DISORDER_MS + 1) as i64;
            self.sequence += 1;
            self.waiting.push(Waiting { arrival, sequence: self.sequence, line: line.into() });
        }
        self.duplicates += duplicate as u64;
        duplicate
    }

    /// Writes what has arrived before `now`; nothing that happens from now on may arrive earlier.
    pub fn flush_until(&mut self, now: i64) -> io::Result<()> {
        while let Some(first) = self.waiting.peek()
            && first.arrival < now
        {
            let Some(Waiting { line, .. }) = self.waiting.pop() else { break };
            self.file.write_all(&line)?;
            self.file.write_all(b"\n")?;
            self.written += 1;
            if self.written.is_multiple_of(MALFORMED_EVERY) || MALFORMED_EARLY.contains(&self.written) {
                self.write_malformed(&line)?;
            }
        }
        Ok(())
    }

    pub fn finish(mut self) -> io::Result<(u64, u64)> {
        self.flush_until(i64::MAX)?;
        self.file.flush()?;
        Ok((self.duplicates, self.malformed))
    }

    /// What goes wrong in real life: a cut line, a number that became text, a lost field, a stray log line.
    fn write_malformed(&mut self, line: &[u8]) -> io::Result<()> {
        let text = std::str::from_utf8(line).expect("lines are made of text");
        let broken = match self.malformed % 4 {
            0 => text[..text.len() / 2].to_string(),
            1 => text.replacen("\"ts\":", "\"ts\":\"unknown\",\"old_ts\":", 1),
            2 => text.replacen("\"request_id\":", "\"requestid\":", 1),
            _ => "WARN connection reset, 1 record lost".to_string(),
        };
        self.malformed += 1;
        writeln!(self.file, "{broken}")
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.arrival, other.sequence).cmp(&(self.arrival, self.sequence))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Waiting {}
