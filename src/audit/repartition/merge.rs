//! Merge: lets the records of several partitions out in the order of their times.
//!
//! ```text
//!   a/0  12:00 12:05 12:09 ─┐
//!   a/1  12:03             ─┴─> 12:00 12:03      then it waits: the next of a/1 may be older than 12:05
//! ```
//!
//! A copy that read one partition hours ahead of another would put them into one target partition that far out of order,
//! and a pipeline would count the older half late.
//!
//! In: batches per partition, and which partitions are read to their end. Out: records, each partition's in its order.
//! Holds: a record waits for every partition that may still bring an older one; those that are at their end do not.

use super::Verdict;
use crate::event::{PartitionId, Positions, RawBatch};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A batch, and what its records go by.
pub struct Judged {
    pub batch: RawBatch,
    pub verdicts: Vec<Verdict>,
    next: usize,
}

impl Judged {
    pub fn new(batch: RawBatch, verdicts: Vec<Verdict>) -> Judged {
        Judged { batch, verdicts, next: 0 }
    }

    /// The time of the record that is next; one without a time waits for nobody.
    fn time(&self) -> Option<i64> {
        self.batch.records.get(self.next).map(|record| record.broker_time.unwrap_or(i64::MIN))
    }
}

#[derive(Default)]
struct Queue {
    batches: VecDeque<Judged>,
    bytes: usize,
    at_end: bool,
}

#[derive(Default)]
pub struct Merge {
    queues: BTreeMap<PartitionId, Queue>,
    /// The next record of each partition that has one.
    heads: BTreeSet<(i64, PartitionId)>,
    /// Partitions that have none and may still bring one.
    awaited: BTreeSet<PartitionId>,
    /// Behind everything that was let out.
    positions: Positions,
}

impl Merge {
    pub fn new(partitions: &[PartitionId], positions: Positions) -> Merge {
        let queues = partitions.iter().map(|at| (*at, Queue::default())).collect();
        Merge { queues, heads: BTreeSet::new(), awaited: partitions.iter().copied().collect(), positions }
    }

    pub fn positions(&self) -> &Positions {
        &self.positions
    }

    /// Bytes that wait in a partition's batches.
    pub fn waiting_bytes(&self, at: PartitionId) -> usize {
        self.queues.get(&at).map_or(0, |queue| queue.bytes)
    }

    pub fn add(&mut self, judged: Judged) {
        let at = judged.batch.delta.partition;
        let queue = self.queues.entry(at).or_default();
        queue.bytes += judged.batch.bytes.len();
        queue.at_end = false;
        queue.batches.push_back(judged);
        // The head stays what it was unless there was none.
        if queue.batches.len() == 1 {
            self.renew(at);
        }
    }

    /// Whether everything that a partition holds has been added.
    pub fn set_at_end(&mut self, at: PartitionId, at_end: bool) {
        let queue = self.queues.entry(at).or_default();
        queue.at_end = at_end;
        match queue.batches.is_empty() && !at_end {
            true => self.awaited.insert(at),
            false => self.awaited.remove(&at),
        };
    }

    /// Lets out what need not wait.
    pub fn drain<E>(&mut self, mut out: impl FnMut(&Judged, usize) -> Result<(), E>) -> Result<(), E> {
        while self.awaited.is_empty()
            && let Some((_, at)) = self.heads.pop_first()
        {
            if let Some(front) = self.queues.get_mut(&at).and_then(|queue| queue.batches.front_mut()) {
                let place = front.next;
                front.next += 1;
                out(front, place)?;
                self.positions.set(at, front.batch.records[place].position + 1);
            }
            self.renew(at);
        }
        Ok(())
    }

    /// Drops the batches of a partition that are through, and finds its next record.
    fn renew(&mut self, at: PartitionId) {
        let Some(queue) = self.queues.get_mut(&at) else { return };
        while let Some(front) = queue.batches.front() {
            if let Some(time) = front.time() {
                self.heads.insert((time, at));
                self.awaited.remove(&at);
                return;
            }
            // Offsets without records, such as markers of transactions, end a batch.
            self.positions.set(at, front.batch.delta.to);
            queue.bytes -= front.batch.bytes.len();
            queue.batches.pop_front();
        }
        if !queue.at_end {
            self.awaited.insert(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{PositionDelta, RawRecord};

    fn at(partition: u32) -> PartitionId {
        PartitionId { input: 0, partition }
    }

    /// Offsets from `from` on, with these times.
    fn batch(partition: u32, from: i64, times: &[i64]) -> Judged {
        let record = |(step, time): (usize, &i64)| RawRecord {
            position: from + step as i64,
            broker_time: Some(*time),
            ..RawRecord::default()
        };
        let records: Vec<RawRecord> = times.iter().enumerate().map(record).collect();
        let delta = PositionDelta { partition: at(partition), from, to: from + times.len() as i64 };
        let verdicts = vec![Verdict::Filtered; times.len()];
        Judged::new(RawBatch { delta, bytes: vec![0; 10], records }, verdicts)
    }

    /// (partition, time) of what comes out.
    fn out(merge: &mut Merge) -> Vec<(u32, i64)> {
        let mut found = Vec::new();
        let take = |judged: &Judged, place: usize| -> Result<(), ()> {
            found.push((judged.batch.delta.partition.partition, judged.batch.records[place].broker_time.unwrap()));
            Ok(())
        };
        merge.drain(take).unwrap();
        found
    }

    #[test]
    fn records_come_in_order_of_time_and_wait_for_partitions_that_may_have_older_ones() {
        let mut merge = Merge::new(&[at(0), at(1)], Positions::default());
        merge.add(batch(0, 10, &[100, 105, 109]));
        assert_eq!(out(&mut merge), [], "nothing is known of partition 1");
        merge.add(batch(1, 50, &[103]));
        assert_eq!(out(&mut merge), [(0, 100), (1, 103)]);
        assert_eq!((merge.positions().next(at(0)), merge.positions().next(at(1))), (Some(11), Some(51)));
        merge.add(batch(1, 51, &[104, 200]));
        assert_eq!(out(&mut merge), [(1, 104), (0, 105), (0, 109)]);
        merge.set_at_end(at(0), true);
        assert_eq!(out(&mut merge), [(1, 200)], "a partition that is read to its end holds nobody up");
        assert_eq!(out(&mut merge), []);
        merge.set_at_end(at(1), true);
        merge.add(batch(0, 13, &[50]));
        assert_eq!(out(&mut merge), [(0, 50)]);
        assert_eq!(merge.waiting_bytes(at(0)), 0);
    }

    #[test]
    fn a_partition_out_of_sight_is_waited_for_again() {
        let mut merge = Merge::new(&[at(0), at(1)], Positions::default());
        merge.set_at_end(at(1), true);
        merge.set_at_end(at(1), false);
        merge.add(batch(0, 0, &[1]));
        assert_eq!(out(&mut merge), []);
        merge.set_at_end(at(1), true);
        assert_eq!(out(&mut merge), [(0, 1)]);
    }

    #[test]
    fn each_partition_keeps_its_own_order_also_where_its_times_do_not() {
        let mut merge = Merge::new(&[at(0), at(1)], Positions::default());
        merge.add(batch(0, 0, &[9, 2, 7]));
        merge.add(batch(1, 0, &[8, 8]));
        merge.set_at_end(at(1), true);
        merge.set_at_end(at(0), true);
        assert_eq!(out(&mut merge), [(1, 8), (1, 8), (0, 9), (0, 2), (0, 7)]);
    }

    #[test]
    fn a_step_without_records_moves_the_position() {
        let mut merge = Merge::new(&[at(0)], Positions::default());
        let mut empty = batch(0, 5, &[]);
        empty.batch.delta.to = 8;
        merge.add(empty);
        assert_eq!((out(&mut merge), merge.positions().next(at(0))), (vec![], Some(8)));
    }
}
