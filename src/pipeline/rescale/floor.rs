//! Floor: the point in event time from which cells of another shape go on.
//!
//!   old cell 0   ══════════════╪══════ closed to here, read to there
//!   old cell 1   ════════╪═══════════
//!   new cells            ╪             the lowest of them
//!
//! A new cell holds rows of several old ones, which had come further or less far. It starts at the lowest: nothing that may
//! still come is late for it. What an old cell had closed beyond is in files, and stays there: only its ids are kept, with
//! the last bucket that is closed everywhere. What a partition has promised travels with the partition, so that a record
//! that was late for its old cell is late for the new one.
//! Pure: manifests in, numbers out.

use crate::commit::Manifest;
use crate::event::EventTime;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Floor {
    pub watermark: EventTime,
    pub frontier: EventTime,
    /// Per sample, the bucket through which rows are closed, and in files, in every cell.
    pub closed_through: Vec<Option<u32>>,
    /// No cell will read features before it.
    pub needed: EventTime,
    /// The latest instant at which features were published.
    pub online_instant: Option<EventTime>,
}

/// The floor of cells that have committed anything. All that they had closed must be in files.
pub fn floor(heads: &[&Manifest], samples: usize) -> Floor {
    let committed = || heads.iter().filter(|head| head.cut > 0);
    let through = |head: &Manifest, sample: usize| {
        let counts = head.counts.samples.get(sample)?;
        counts.filed_through.min(counts.closed_through)
    };
    let closed_through = (0..samples).map(|sample| {
        let all: Vec<Option<u32>> = committed().map(|head| through(head, sample)).collect();
        // Bucket 0 lies in 1970: it says that ids of what is in files are kept, and that nothing else is closed.
        let any = all.iter().any(Option::is_some);
        any.then(|| all.into_iter().map(Option::unwrap_or_default).min().unwrap_or_default())
    });
    let needed = |head: &Manifest| match &head.handover {
        Some(handover) => handover.mark.needed.min(handover.mark.watermark),
        None => EventTime::MIN,
    };
    Floor {
        watermark: committed().map(|head| head.watermark).min().unwrap_or(EventTime::MIN),
        frontier: committed().map(|head| head.counts.frontier).min().unwrap_or(EventTime::MIN),
        closed_through: closed_through.collect(),
        needed: committed().map(|head| needed(head)).min().unwrap_or(EventTime::MIN),
        online_instant: committed().filter_map(|head| head.online_instant).max(),
    }
}
