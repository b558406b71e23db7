//! Partition: one partition's place in its log, and the batch that is being filled.
//!
//! ```text
//!   expected 17:   15 dropped, counted    17 taken    19 a gap: stops, or the step spans it where gaps are allowed
//! ```
//!
//! In: records as the client has them. Out: batches whose deltas chain (F6), and the partition's end.
//! Holds: nothing at or behind the end of a bounded read is handed out, and nothing after its end was told.
//! Does not: look at what a record says.

use crate::event::{PartitionId, PositionDelta, RawBatch, RawRecord};
use crate::source::{SourceError, SourceEvent};
use rdkafka::message::{Headers, Message};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub struct Partition {
    pub id: PartitionId,
    /// The next offset.
    pub expected: i64,
    /// Where a bounded read ends.
    end: Option<i64>,
    pub ended: bool,
    pub paused: bool,
    pub repeated: u64,
    /// `CaughtUp` was the last that was told.
    at_end: bool,
    /// A broker went away since the client was last asked where the log ends: news of the end may be older than that.
    doubtful: bool,
    /// The batch being filled; empty between drains.
    batch: RawBatch,
}

impl Partition {
    pub fn new(id: PartitionId, from: i64, end: Option<i64>) -> Self {
        let batch = empty_batch(id, from);
        Partition {
            id,
            expected: from,
            end,
            ended: false,
            paused: false,
            repeated: 0,
            at_end: false,
            doubtful: false,
            batch,
        }
    }

    /// Appends a record to the batch; the size of what was copied.
    pub fn accept(&mut self, message: &impl Message, terms: &Terms<'_>) -> Result<usize, SourceError> {
        let Terms { topic, headers, allow_gaps, record_bytes_max } = *terms;
        let offset = message.offset();
        if self.ended || self.end.is_some_and(|end| self.expected >= end) {
            return Ok(0);
        }
        if offset < self.expected {
            self.repeated += 1;
            return Ok(0);
        }
        if offset > self.expected && !allow_gaps {
            return Err(gap(topic, self.id.partition, self.expected, offset));
        }
        if let Some(end) = self.end.filter(|&end| offset >= end) {
            // Only over an allowed gap: what lay before the end of a bounded read will not come any more.
            self.expected = end;
            self.batch.delta.to = end;
            return Ok(0);
        }
        let before = self.batch.bytes.len();
        let mut left = record_bytes_max + 1;
        let payload = message.payload().map(|payload| append(&mut self.batch.bytes, payload, &mut left));
        let key = message.key().map(|key| append(&mut self.batch.bytes, key, &mut left));
        let headers = match message.headers() {
            Some(all) if headers => copy_headers(all, &mut self.batch.bytes, &mut left),
            _ => Vec::new(),
        };
        let broker_time = message.timestamp().to_millis();
        self.batch.records.push(RawRecord { payload, position: offset, broker_time, key, headers });
        self.expected = offset + 1;
        self.at_end = false;
        self.batch.delta.to = self.expected;
        Ok(self.batch.bytes.len() - before)
    }

    pub fn flush(&mut self, out: &mut VecDeque<SourceEvent>) {
        if self.batch.delta.from < self.batch.delta.to {
            let mut next = empty_batch(self.id, self.expected);
            // The next batch of a busy partition is most likely as large as this one.
            next.records.reserve(self.batch.records.len());
            next.bytes.reserve(self.batch.bytes.len());
            out.push_back(SourceEvent::Batch(std::mem::replace(&mut self.batch, next)));
        }
    }

    /// Whether news of the end has to be asked for once more.
    pub fn doubts_end(&mut self) -> bool {
        std::mem::take(&mut self.doubtful)
    }

    /// The client has read to the end of the log, also when transaction markers that we never see are the last of it.
    pub fn caught_up(&mut self, until_end: bool, out: &mut VecDeque<SourceEvent>) {
        self.flush(out);
        if !until_end {
            self.at_end = true;
            out.push_back(SourceEvent::CaughtUp(self.id));
        } else if !self.ended {
            self.ended = true;
            out.push_back(SourceEvent::Ended(self.id));
        }
    }

    /// Takes back that the end was reached, if that was told last, and doubts news of it otherwise; whether it was.
    pub fn lose_sight(&mut self, out: &mut VecDeque<SourceEvent>) -> bool {
        let told = std::mem::replace(&mut self.at_end, false);
        if told {
            out.push_back(SourceEvent::OutOfSight(self.id));
        }
        self.doubtful = !told;
        told
    }

    pub fn end_if_reached(&mut self, out: &mut VecDeque<SourceEvent>) {
        if !self.ended && self.end.is_some_and(|end| self.expected >= end) {
            self.ended = true;
            out.push_back(SourceEvent::Ended(self.id));
        }
    }
}

fn empty_batch(partition: PartitionId, from: i64) -> RawBatch {
    RawBatch { delta: PositionDelta { partition, from, to: from }, bytes: Vec::new(), records: Vec::new() }
}

/// How the records of a topic are taken.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    pub topic: &'a str,
    pub headers: bool,
    pub allow_gaps: bool,
    pub record_bytes_max: usize,
}

/// Copies as much of a part as there is left for its record.
fn append(bytes: &mut Vec<u8>, part: &[u8], left: &mut usize) -> std::ops::Range<u32> {
    let place = |at: usize| u32::try_from(at).expect("a batch stops at its byte limit, behind one bounded record");
    let from = place(bytes.len());
    let part = &part[..part.len().min(*left)];
    *left -= part.len();
    bytes.extend_from_slice(part);
    from..place(bytes.len())
}

type HeaderRanges = Vec<(std::ops::Range<u32>, std::ops::Range<u32>)>;

/// Copies names and values while anything is left; a header without a value is copied as an empty one.
fn copy_headers(headers: &impl Headers, bytes: &mut Vec<u8>, left: &mut usize) -> HeaderRanges {
    let mut ranges = Vec::with_capacity(headers.count().min(*left));
    for index in 0..headers.count() {
        if *left == 0 {
            break;
        }
        // The binding panics at a name that is not UTF-8. Such a header cannot be the one a stream declares.
        if let Ok(header) = catch_unwind(AssertUnwindSafe(|| headers.get(index))) {
            let name = append(bytes, header.key.as_bytes(), left);
            ranges.push((name, append(bytes, header.value.unwrap_or_default(), left)));
        }
    }
    ranges
}

fn gap(topic: &str, number: u32, expected: i64, offset: i64) -> SourceError {
    SourceError::Input {
        input: topic.to_string(),
        message: format!(
            "partition {number} has a gap: the offsets {expected} to {last} are missing. Nothing was skipped. If the topic \
             is compacted or written in transactions, such gaps are normal: say `allow_gaps: true` beside `topics`",
            last = offset - 1,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::Timestamp;
    use rdkafka::message::{Header, OwnedHeaders, OwnedMessage};

    const ID: PartitionId = PartitionId { input: 0, partition: 3 };

    fn offer(partition: &mut Partition, offset: i64, allow_gaps: bool) -> Result<usize, SourceError> {
        let payload = Some(offset.to_string().into_bytes());
        let message = OwnedMessage::new(payload, None, "t".to_string(), Timestamp::NotAvailable, 3, offset, None);
        partition.accept(&message, &Terms { topic: "t", headers: true, allow_gaps, record_bytes_max: 8 })
    }

    #[test]
    fn of_a_record_that_is_too_large_only_a_byte_too_much_is_copied() {
        let mut partition = Partition::new(ID, 0, None);
        let of = |offset, payload: usize, key: usize| {
            let headers = OwnedHeaders::new().insert(Header { key: "h", value: Some("12345") });
            let (payload, key) = (Some(vec![b'p'; payload]), Some(vec![b'k'; key]));
            OwnedMessage::new(payload, key, "t".to_string(), Timestamp::NotAvailable, 3, offset, Some(headers))
        };
        let terms = Terms { topic: "t", headers: true, allow_gaps: false, record_bytes_max: 8 };
        for (offset, payload, key, copied) in [(0, 1, 1, 8), (1, 1, 2, 9), (2, 1, 50, 9), (3, 50, 50, 9)] {
            assert_eq!(partition.accept(&of(offset, payload, key), &terms).unwrap(), copied, "{offset}");
        }
        let mut out = VecDeque::new();
        partition.flush(&mut out);
        let Some(SourceEvent::Batch(batch)) = out.pop_front() else { panic!("not a batch") };
        let parts = |at: usize| {
            let record = &batch.records[at];
            (batch.slice(record.payload.as_ref().unwrap()).len(), batch.slice(record.key.as_ref().unwrap()).len())
        };
        assert_eq!([parts(0), parts(1), parts(2), parts(3)], [(1, 1), (1, 2), (1, 8), (9, 0)]);
        assert_eq!(batch.records[3].headers.len(), 0);
    }

    fn flushed(partition: &mut Partition) -> Option<(i64, i64, Vec<i64>)> {
        let mut out = VecDeque::new();
        partition.flush(&mut out);
        let SourceEvent::Batch(batch) = out.pop_front()? else { panic!("not a batch") };
        Some((batch.delta.from, batch.delta.to, batch.records.iter().map(|record| record.position).collect()))
    }

    #[test]
    fn a_record_that_comes_again_is_dropped_and_counted() {
        let mut partition = Partition::new(ID, 17, None);
        for offset in [15, 17, 18, 17, 19] {
            offer(&mut partition, offset, false).unwrap();
        }
        assert_eq!(flushed(&mut partition), Some((17, 20, vec![17, 18, 19])));
        assert_eq!((partition.repeated, flushed(&mut partition)), (2, None));
    }

    #[test]
    fn a_gap_is_an_error_with_the_missing_range_or_part_of_the_step() {
        let mut partition = Partition::new(ID, 17, None);
        offer(&mut partition, 17, false).unwrap();
        let text = offer(&mut partition, 21, false).unwrap_err().to_string();
        assert!(text.contains("partition 3") && text.contains("offsets 18 to 20"), "{text}");
        assert_eq!(flushed(&mut partition), Some((17, 18, vec![17])));
        offer(&mut partition, 21, true).unwrap();
        assert_eq!(flushed(&mut partition), Some((18, 22, vec![21])));
    }

    #[test]
    fn a_bounded_read_hands_out_nothing_from_its_end_on() {
        let mut partition = Partition::new(ID, 5, Some(7));
        for offset in 5..9 {
            offer(&mut partition, offset, false).unwrap();
        }
        assert_eq!(flushed(&mut partition), Some((5, 7, vec![5, 6])));
        let mut out = VecDeque::new();
        partition.end_if_reached(&mut out);
        partition.end_if_reached(&mut out);
        partition.caught_up(true, &mut out);
        assert!(matches!(out.make_contiguous(), [SourceEvent::Ended(ID)]));
    }

    /// Headers of which the first has a name that is not UTF-8, as the binding treats it.
    struct Poisoned;

    impl Headers for Poisoned {
        fn count(&self) -> usize {
            2
        }

        fn try_get(&self, index: usize) -> Option<Header<'_, &[u8]>> {
            assert!(index != 0, "this name is not UTF-8");
            Some(Header { key: "good", value: Some(b"v") })
        }
    }

    #[test]
    fn a_header_that_cannot_be_read_is_left_out() {
        let mut bytes = b"before".to_vec();
        let ranges = copy_headers(&Poisoned, &mut bytes, &mut 100);
        assert_eq!((ranges, &bytes[..]), (vec![(6..10, 10..11)], &b"beforegoodv"[..]));
    }

    #[test]
    fn the_end_of_a_bounded_read_may_lie_in_an_allowed_gap() {
        let mut partition = Partition::new(ID, 5, Some(7));
        offer(&mut partition, 5, true).unwrap();
        offer(&mut partition, 9, true).unwrap();
        assert_eq!(flushed(&mut partition), Some((5, 7, vec![5])));
    }
}
