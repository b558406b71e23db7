//! Memory source: records that the embedding program or a test hands over in process.
//!
//! ```text
//!   MemoryHandle::send(partition, records) ─ bounded queue per partition ─> MemorySource::poll
//! ```
//!
//! In: batches of records. Out: the same records, numbered from the positions on.
//! Holds: a full queue blocks the sender; a partition has ended when its handle is gone and its queue is empty.
//! Does not: remember records: after a restart the sender begins at [`MemoryHandle::next_position`] again.

use crate::event::{EventTime, PartitionId, PositionDelta, Positions, RawBatch, RawRecord};
use crate::source::{Source, SourceError, SourceEvent, wait};
use crossbeam_channel::{Receiver, Select, Sender, TryRecvError, bounded};
use std::ops::Range;
use std::time::Duration;

/// One record as the sender has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryRecord {
    pub payload: Option<Vec<u8>>,
    pub key: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
    pub broker_time: Option<EventTime>,
}

impl MemoryRecord {
    pub fn json(payload: impl Into<Vec<u8>>) -> Self {
        MemoryRecord { payload: Some(payload.into()), ..MemoryRecord::default() }
    }
}

/// The source is gone; what was sent is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pipeline that reads this memory input has stopped")]
pub struct Disconnected;

/// The sending side of one partition. Dropping it ends the partition.
pub struct MemoryHandle {
    partition: PartitionId,
    queue: Sender<Vec<MemoryRecord>>,
    next: i64,
}

impl MemoryHandle {
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// The position that the first record of the next [`MemoryHandle::send`] gets.
    pub fn next_position(&self) -> i64 {
        self.next
    }

    /// Hands over one batch; blocks while the queue is full.
    pub fn send(&mut self, records: Vec<MemoryRecord>) -> Result<(), Disconnected> {
        let count = records.len() as i64;
        self.queue.send(records).map_err(|_| Disconnected)?;
        self.next += count;
        Ok(())
    }
}

pub struct MemorySource {
    name: String,
    queues: Vec<Queue>,
    turn: usize,
}

struct Queue {
    id: PartitionId,
    records: Receiver<Vec<MemoryRecord>>,
    next: i64,
    paused: bool,
    ended: bool,
    /// [`SourceEvent::CaughtUp`] was said since the last batch.
    caught_up_said: bool,
}

impl MemorySource {
    /// An input of `partitions` partitions, each with a queue of `capacity_batches` batches, and the handles that feed
    /// them in the order of the partitions.
    pub fn new(
        input: u16,
        name: &str,
        partitions: u32,
        positions: &Positions,
        capacity_batches: usize,
    ) -> (Vec<MemoryHandle>, MemorySource) {
        let mut handles = Vec::new();
        let mut queues = Vec::new();
        for partition in 0..partitions {
            let id = PartitionId { input, partition };
            let (sender, records) = bounded(capacity_batches);
            let next = positions.next(id).unwrap_or(0);
            handles.push(MemoryHandle { partition: id, queue: sender, next });
            queues.push(Queue { id, records, next, paused: false, ended: false, caught_up_said: false });
        }
        (handles, MemorySource { name: name.to_string(), queues, turn: 0 })
    }

    fn queue_mut(&mut self, partition: PartitionId) -> Option<&mut Queue> {
        self.queues.iter_mut().find(|queue| queue.id == partition)
    }
}

impl Source for MemorySource {
    fn partitions(&self) -> Vec<PartitionId> {
        self.queues.iter().map(|queue| queue.id).collect()
    }

    fn poll(&mut self, timeout: Duration) -> Result<SourceEvent, SourceError> {
        let count = self.queues.len();
        for step in 0..count {
            let index = (self.turn + step) % count;
            if let Some(event) = self.queues[index].try_next() {
                self.turn = (index + 1) % count;
                return Ok(event);
            }
        }
        let mut waiting = Select::new();
        let mut open = Vec::with_capacity(count);
        for (index, queue) in self.queues.iter().enumerate() {
            if queue.is_open() {
                waiting.recv(&queue.records);
                open.push(index);
            }
        }
        if open.is_empty() {
            // Only the caller can change this, but it may ask in a loop.
            wait(timeout);
            return Ok(SourceEvent::Nothing);
        }
        match waiting.ready_timeout(timeout) {
            Ok(ready) => Ok(self.queues[open[ready]].try_next().unwrap_or(SourceEvent::Nothing)),
            Err(_) => Ok(SourceEvent::Nothing),
        }
    }

    fn pause(&mut self, partition: PartitionId) {
        if let Some(queue) = self.queue_mut(partition) {
            queue.paused = true;
        }
    }

    fn resume(&mut self, partition: PartitionId) {
        if let Some(queue) = self.queue_mut(partition) {
            queue.paused = false;
        }
    }

    fn label(&self, partition: PartitionId, position: i64) -> String {
        format!("{}/{} record {position}", self.name, partition.partition)
    }
}

impl Queue {
    fn is_open(&self) -> bool {
        !self.paused && !self.ended
    }

    fn try_next(&mut self) -> Option<SourceEvent> {
        if !self.is_open() {
            return None;
        }
        match self.records.try_recv() {
            Ok(records) => {
                self.caught_up_said = false;
                Some(SourceEvent::Batch(self.pack(&records)))
            }
            Err(TryRecvError::Disconnected) => {
                self.ended = true;
                Some(SourceEvent::Ended(self.id))
            }
            Err(TryRecvError::Empty) if !self.caught_up_said => {
                self.caught_up_said = true;
                Some(SourceEvent::CaughtUp(self.id))
            }
            Err(TryRecvError::Empty) => None,
        }
    }

    fn pack(&mut self, records: &[MemoryRecord]) -> RawBatch {
        let mut bytes = Vec::new();
        let mut put = |part: &[u8]| -> Range<u32> {
            let start = bytes.len() as u32;
            bytes.extend_from_slice(part);
            start..bytes.len() as u32
        };
        let from = self.next;
        let packed = records.iter().zip(from..).map(|(record, position)| RawRecord {
            payload: record.payload.as_deref().map(&mut put),
            position,
            broker_time: record.broker_time,
            key: record.key.as_deref().map(&mut put),
            headers: record.headers.iter().map(|(name, value)| (put(name.as_bytes()), put(value))).collect(),
        });
        let records: Vec<RawRecord> = packed.collect();
        self.next = from + records.len() as i64;
        let delta = PositionDelta { partition: self.id, from, to: self.next };
        RawBatch { delta, bytes, records }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn partition(partition: u32) -> PartitionId {
        PartitionId { input: 3, partition }
    }

    #[test]
    fn records_keep_their_order_and_steps_chain() {
        let (mut handles, mut source) = MemorySource::new(3, "events", 1, &Positions::default(), 4);
        let header = ("h".to_string(), b"v".to_vec());
        let full = MemoryRecord { key: Some(b"k".to_vec()), headers: vec![header], ..MemoryRecord::json("{}") };
        handles[0].send(vec![full, MemoryRecord::default()]).unwrap();
        handles[0].send(vec![MemoryRecord::json("[]")]).unwrap();
        assert_eq!(handles[0].next_position(), 3);
        let mut positions = Positions::default();
        let mut payloads = Vec::new();
        while let SourceEvent::Batch(batch) = source.poll(NOW).unwrap() {
            positions.apply(batch.delta).unwrap();
            for record in &batch.records {
                payloads.push(record.payload.as_ref().map(|range| batch.slice(range).to_vec()));
                if let Some((name, value)) = record.headers.first() {
                    assert_eq!((batch.slice(name), batch.slice(value)), (&b"h"[..], &b"v"[..]));
                    assert_eq!(batch.slice(record.key.as_ref().unwrap()), b"k");
                }
            }
        }
        assert_eq!(payloads, [Some(b"{}".to_vec()), None, Some(b"[]".to_vec())]);
        assert_eq!(positions.next(partition(0)), Some(3));
        assert!(matches!(source.poll(NOW).unwrap(), SourceEvent::Nothing));
        drop(handles);
        assert!(matches!(source.poll(NOW).unwrap(), SourceEvent::Ended(_)));
        assert!(matches!(source.poll(NOW).unwrap(), SourceEvent::Nothing));
        assert_eq!(source.label(partition(0), 2), "events/0 record 2");
    }

    #[test]
    fn a_paused_partition_waits_and_the_others_go_on() {
        let mut positions = Positions::default();
        positions.set(partition(1), 10);
        let (mut handles, mut source) = MemorySource::new(3, "events", 2, &positions, 4);
        source.pause(partition(0));
        handles[0].send(vec![MemoryRecord::json("0")]).unwrap();
        handles[1].send(vec![MemoryRecord::json("1")]).unwrap();
        let SourceEvent::Batch(batch) = source.poll(NOW).unwrap() else { panic!("partition 1 has a batch") };
        assert_eq!((batch.delta.partition, batch.delta.from), (partition(1), 10));
        assert!(matches!(source.poll(NOW).unwrap(), SourceEvent::CaughtUp(id) if id == partition(1)));
        assert!(matches!(source.poll(NOW).unwrap(), SourceEvent::Nothing));
        source.resume(partition(0));
        assert!(matches!(source.poll(NOW).unwrap(), SourceEvent::Batch(_)));
    }
}
