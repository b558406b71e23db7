//! Restore: reads the blocks that the last manifest names and gives each lane its own.

use crate::cell::{Lane, LaneRestoreError, RestoredBlock};
use crate::commit::{BlockEntry, Manifest, ObjectEntry, ObjectError, block_ref, read_block, read_footer};
use crate::env::Store;
use crate::event::{BlockClass, BlockKind, Payload, SegmentId};
use crate::join::{ClosedRows, Segment};
use arrow::array::RecordBatch;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error(transparent)]
    Lane(#[from] LaneRestoreError),
    #[error("state object {path} names a block that cannot be: {reason}; start anew with --fresh")]
    Block { path: String, reason: String },
}

/// The state objects of a manifest with their blocks.
pub type Objects = Vec<(ObjectEntry, Vec<BlockEntry>)>;

/// Lists the blocks of every object that the manifest names.
pub fn list(store: &dyn Store, head: &Manifest) -> Result<Objects, RestoreError> {
    let listed = head.objects.iter().map(|object| Ok((object.clone(), read_footer(store, object)?)));
    listed.collect()
}

/// One block and where to read it.
struct Found<'a> {
    object: Arc<str>,
    entry: &'a BlockEntry,
}

/// Everything of one segment of impressions.
#[derive(Default)]
struct SegmentBlocks<'a> {
    keys: Option<Found<'a>>,
    rows: Option<Found<'a>>,
    features: Option<Found<'a>>,
}

/// Brings one lane back to the manifest. Returns the rows that had closed but lie in no file.
pub fn restore_lane(
    lane: &mut Lane,
    number: usize,
    lanes: usize,
    store: &dyn Store,
    objects: &Objects,
    head: &Manifest,
) -> Result<Vec<(u16, ClosedRows)>, RestoreError> {
    let needed_from: BTreeMap<BlockClass, i64> = head.needed_from.iter().copied().collect();
    let mut segments: BTreeMap<(u16, SegmentId, usize), SegmentBlocks<'_>> = BTreeMap::new();
    let mut others: BTreeMap<(SegmentId, usize, u64), Found<'_>> = BTreeMap::new();
    for (object, entries) in objects {
        let path: Arc<str> = object.path.as_str().into();
        // The same number of lanes deals the same key groups: then a lane needs no other lane's blocks.
        let mine = |entry: &&BlockEntry| {
            (entry.lanes != lanes || entry.segment.lane as usize == number)
                && needed_from.get(&entry.class).is_none_or(|first| entry.bucket >= *first)
        };
        for entry in entries.iter().filter(mine) {
            let found = Found { object: path.clone(), entry };
            let segment = segments.entry((entry.class.node, entry.segment, entry.lanes));
            match entry.class.kind {
                BlockKind::ImpressionKeys => segment.or_default().keys = Some(found),
                BlockKind::ImpressionRows => segment.or_default().rows = Some(found),
                BlockKind::ImpressionFeatures => segment.or_default().features = Some(found),
                _ => {
                    others.insert((entry.segment, entry.lanes, entry.offset), found);
                }
            }
        }
    }
    let reader = Reader { store, lanes, head };
    let (closed, others): (Vec<_>, Vec<_>) =
        others.into_values().partition(|found| found.entry.class.kind == BlockKind::ClosedIds);
    let (filed, open): (Vec<_>, Vec<_>) = segments
        .into_iter()
        .filter_map(|((_, id, _), blocks)| {
            Some((id, blocks.keys.as_ref().map(|keys| reader.is_filed(keys.entry))?, blocks))
        })
        .partition(|(_, filed, _)| *filed);
    // Rows that closed without a file close again, and tell their ids themselves.
    for found in closed.into_iter().filter(|found| reader.is_filed(found.entry)) {
        lane.restore(reader.other(found)?)?;
    }
    for keys in filed.into_iter().filter_map(|(_, _, blocks)| blocks.keys) {
        lane.restore(reader.closed_ids(&keys)?)?;
    }
    // Of rows that another number of lanes wrote and this one wrote again, the newer ones know more.
    for (id, _, blocks) in open.into_iter().rev() {
        if let Some(block) = reader.segment(id, blocks)? {
            lane.restore(block)?;
        }
    }
    let (states, others): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|found| found.entry.class.kind == BlockKind::LabelStates);
    for found in others.into_iter().chain(states) {
        lane.restore(reader.other(found)?)?;
    }
    let through: Vec<_> =
        head.counts.samples.iter().map(|sample| (sample.closed_through, sample.filed_through)).collect();
    Ok(lane.finish_restore(head.counts.frontier, &through))
}

/// Reads what is needed to answer for every entity, whichever lane owns it: `take` gets (group, rows) in the order in
/// which they were written.
pub fn read_features(
    store: &dyn Store,
    objects: &Objects,
    mut take: impl FnMut(usize, RecordBatch) -> Result<(), RestoreError>,
) -> Result<(), RestoreError> {
    let mut blocks: BTreeMap<(SegmentId, usize, u64), Found<'_>> = BTreeMap::new();
    for (object, entries) in objects {
        let path: Arc<str> = object.path.as_str().into();
        let wanted = |entry: &&BlockEntry| matches!(entry.class.kind, BlockKind::Tiles | BlockKind::FeatureEntries);
        for entry in entries.iter().filter(wanted) {
            blocks.insert((entry.segment, entry.lanes, entry.offset), Found { object: path.clone(), entry });
        }
    }
    for found in blocks.into_values() {
        take(found.entry.class.node as usize, read_found(store, &found)?)?;
    }
    Ok(())
}

fn reference(store: &dyn Store, found: &Found<'_>) -> Result<crate::event::BlockRef, RestoreError> {
    block_ref(&found.object, found.entry).ok_or_else(|| RestoreError::Block {
        path: store.describe(&found.object),
        reason: format!("sha256 {}", found.entry.sha256),
    })
}

fn read_found(store: &dyn Store, found: &Found<'_>) -> Result<RecordBatch, RestoreError> {
    Ok(read_block(store, &reference(store, found)?)?)
}

struct Reader<'a> {
    store: &'a dyn Store,
    lanes: usize,
    head: &'a Manifest,
}

impl Reader<'_> {
    fn reference(&self, found: &Found<'_>) -> Result<crate::event::BlockRef, RestoreError> {
        reference(self.store, found)
    }

    fn read(&self, found: &Found<'_>) -> Result<RecordBatch, RestoreError> {
        read_found(self.store, found)
    }

    /// Buckets of joins are counted from 1970.
    fn bucket(&self, found: &Found<'_>) -> Result<u32, RestoreError> {
        u32::try_from(found.entry.bucket).map_err(|_| RestoreError::Block {
            path: self.store.describe(&found.object),
            reason: format!("bucket {}", found.entry.bucket),
        })
    }

    fn filed_through(&self, sample: u16) -> Option<u32> {
        self.head.counts.samples.get(sample as usize).and_then(|sample| sample.filed_through)
    }

    /// Whether the rows of a block's bucket are in files that a manifest names.
    fn is_filed(&self, entry: &BlockEntry) -> bool {
        self.filed_through(entry.class.node).is_some_and(|through| entry.bucket <= through as i64)
    }

    /// Of rows that are in files the ids are all that is needed.
    fn closed_ids(&self, keys: &Found<'_>) -> Result<RestoredBlock, RestoreError> {
        let (sample, bucket) = (keys.entry.class.node as usize, self.bucket(keys)?);
        let stored = keys.entry.lanes == self.lanes;
        Ok(RestoredBlock::ClosedIds { sample, bucket, rows: self.read(keys)?, stored })
    }

    fn segment(&self, id: SegmentId, blocks: SegmentBlocks<'_>) -> Result<Option<RestoredBlock>, RestoreError> {
        let Some(keys) = blocks.keys else { return Ok(None) };
        let (sample, bucket) = (keys.entry.class.node as usize, self.bucket(&keys)?);
        let whole = keys.entry.lanes == self.lanes;
        let rows = blocks.rows.ok_or_else(|| RestoreError::Block {
            path: self.store.describe(&keys.object),
            reason: format!("segment {id:?} has no rows"),
        })?;
        let segment = Segment {
            bucket,
            id: whole.then_some(id),
            payload: match whole {
                true => Payload::Stored(self.reference(&rows)?),
                false => Payload::Memory(self.read(&rows)?),
            },
            features: blocks.features.as_ref().map(|found| self.read(found)).transpose()?,
            keys: self.read(&keys)?,
        };
        Ok(Some(RestoredBlock::Impressions { sample, segment }))
    }

    fn other(&self, found: Found<'_>) -> Result<RestoredBlock, RestoreError> {
        let rows = self.read(&found)?;
        let class = found.entry.class;
        let stored = found.entry.lanes == self.lanes;
        let node = class.node as usize;
        Ok(match class.kind {
            BlockKind::ClosedIds => {
                RestoredBlock::ClosedIds { sample: node, bucket: self.bucket(&found)?, rows, stored }
            }
            BlockKind::LabelStates => {
                let filed = self.filed_through(class.node);
                RestoredBlock::LabelStates { sample: node, label: class.part as usize, rows, filed }
            }
            BlockKind::Labels => {
                let bucket = self.bucket(&found)?;
                RestoredBlock::Labels { sample: node, label: class.part as usize, bucket, rows, stored }
            }
            _ => RestoredBlock::Features { group: node, rows },
        })
    }
}
