//! Restore: reads the blocks that the last manifest names and gives each lane its own.

use crate::cell::{Lane, LaneRestoreError, RestoredBlock};
use crate::commit::{
    BlockEntry, Layout, Manifest, Needed, ObjectEntry, ObjectError, block_ref, read_block, read_footer,
};
use crate::env::Store;
use crate::event::{BlockClass, BlockKind, Outage, Payload, SampleCounts, SegmentId, memory_of};
use crate::join::{ClosedRows, Segment, Through};
use arrow::array::RecordBatch;
use std::cell::Cell;
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

/// The order in which blocks were made, whatever objects they have been copied to since. Nodes number their segments each
/// for itself.
type Order = (SegmentId, usize, BlockClass);

fn order(entry: &BlockEntry) -> Order {
    (entry.segment, entry.lanes, entry.class)
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

/// What a state is restored from.
pub struct RestoreFrom<'a> {
    pub store: &'a dyn Store,
    pub objects: &'a Objects,
    pub head: &'a Manifest,
    /// Bytes of payload that may be read into memory though it can be read later: that of rows that leave one by one.
    pub keep: usize,
    /// Of the manifest.
    pub outages: &'a [Outage],
}

/// Brings one lane back to the manifest. Returns the rows that had closed but lie in no file.
pub fn restore_lane(
    lane: &mut Lane,
    number: usize,
    lanes: usize,
    from: &RestoreFrom<'_>,
) -> Result<Vec<(u16, ClosedRows)>, RestoreError> {
    let RestoreFrom { store, objects, head, keep, outages } = *from;
    let mut sorted = Sorted::new(store, objects, head, head.needed_from.iter().copied(), Some((number, lanes)));
    sorted.reader.keep = Cell::new(keep);
    let lane = std::slice::from_mut(lane);
    sorted.ids(lane, |_| None)?;
    sorted.rows(lane)?;
    sorted.labels(lane)?;
    sorted.features(lane, |_| true)?;
    let through: Vec<_> = head.counts.samples.iter().map(through).collect();
    let sealed = head.handover.as_ref().map_or(i64::MIN, |handover| handover.mark.watermark);
    Ok(lane[0].finish_restore(head.counts.frontier, sealed, &through, outages))
}

/// How far the sample of these books is.
pub fn through(counts: &SampleCounts) -> Through {
    Through { closed: counts.closed_through, filed: counts.filed_through, emitted: counts.emitted_through }
}

/// The blocks that a manifest needs, in the order in which lanes take them: each step of all cells that a lane is made
/// of, before the next step.
pub struct Sorted<'a> {
    reader: Reader<'a>,
    /// Ids whose rows are in files, as a cut wrote them, and with their rows.
    ids: Vec<Found<'a>>,
    filed: Vec<Found<'a>>,
    open: Vec<(SegmentId, SegmentBlocks<'a>)>,
    labels: Vec<Found<'a>>,
    states: Vec<Found<'a>>,
    features: Vec<Found<'a>>,
}

impl<'a> Sorted<'a> {
    /// For lane `number` of `lanes`, or for lanes that are to write everything anew.
    pub fn new(
        store: &'a dyn Store,
        objects: &'a Objects,
        head: &'a Manifest,
        needed_from: impl Iterator<Item = (BlockClass, i64)>,
        lane: Option<(usize, usize)>,
    ) -> Sorted<'a> {
        let needed_from: Vec<_> = needed_from.collect();
        let layout = &head.layout;
        let needed = Needed::new(&needed_from, layout, objects.iter().flat_map(|(_, entries)| entries));
        let reader = Reader { store, lanes: lane.map(|(_, lanes)| lanes), head, keep: Cell::new(0) };
        let mut segments: BTreeMap<(u16, SegmentId, usize), SegmentBlocks<'_>> = BTreeMap::new();
        let mut others: BTreeMap<Order, Found<'_>> = BTreeMap::new();
        for (object, entries) in objects {
            let path: Arc<str> = object.path.as_str().into();
            // The same number of lanes deals the same key groups: then a lane needs no other lane's blocks.
            let mine = |entry: &&BlockEntry| {
                lane.is_none_or(|(number, lanes)| entry.lanes != lanes || entry.segment.lane as usize == number)
                    && needed.needs(entry)
                    // That is the other cells', and the topics'.
                    && !matches!(entry.class.kind, BlockKind::Sealed | BlockKind::Outbox)
            };
            for entry in entries.iter().filter(mine) {
                let found = Found { object: path.clone(), entry };
                let segment = segments.entry((entry.class.node, entry.segment, entry.lanes));
                match entry.class.kind {
                    BlockKind::ImpressionKeys => segment.or_default().keys = Some(found),
                    BlockKind::ImpressionRows => segment.or_default().rows = Some(found),
                    BlockKind::ImpressionFeatures => segment.or_default().features = Some(found),
                    _ => {
                        others.insert(order(entry), found);
                    }
                }
            }
        }
        let none = Vec::new;
        let mut sorted = Sorted {
            reader,
            ids: none(),
            filed: none(),
            open: Vec::new(),
            labels: none(),
            states: none(),
            features: none(),
        };
        for ((_, id, _), blocks) in segments {
            match &blocks.keys {
                // Of rows that are in files the ids are all that is needed.
                Some(keys) if sorted.reader.is_filed(keys.entry) => sorted.filed.extend(blocks.keys),
                Some(_) => sorted.open.push((id, blocks)),
                None => {}
            }
        }
        for found in others.into_values() {
            match found.entry.class.kind {
                // Rows that closed without a file close again, and tell their ids themselves.
                BlockKind::ClosedIds if !sorted.reader.is_filed(found.entry) => {}
                BlockKind::ClosedIds => sorted.ids.push(found),
                BlockKind::LabelStates => sorted.states.push(found),
                BlockKind::Labels => sorted.labels.push(found),
                _ => sorted.features.push(found),
            }
        }
        sorted
    }

    /// Ids of what has left. Those of a sample's buckets beyond `last` are kept with that one.
    pub fn ids(&self, lanes: &mut [Lane], last: impl Fn(usize) -> Option<u32>) -> Result<(), RestoreError> {
        for found in self.ids.iter().chain(&self.filed) {
            let mut block = self.reader.closed_ids(found)?;
            if let RestoredBlock::ClosedIds { sample, bucket, .. } = &mut block {
                *bucket = last(*sample).map_or(*bucket, |last| last.min(*bucket));
            }
            give(lanes, block)?;
        }
        Ok(())
    }

    /// Impressions that are open. Of rows that another number of lanes wrote and this one wrote again, the newer ones know
    /// more.
    pub fn rows(&self, lanes: &mut [Lane]) -> Result<(), RestoreError> {
        let early = |sample: usize| lanes.first().is_some_and(|lane| lane.emits_early(sample));
        let early: Vec<bool> = (0..self.reader.head.counts.samples.len()).map(early).collect();
        self.open.iter().rev().try_for_each(|(id, blocks)| match self.reader.segment(*id, blocks, &early)? {
            Some(block) => give(lanes, block),
            None => Ok(()),
        })
    }

    /// Labels, then what became of them.
    pub fn labels(&self, lanes: &mut [Lane]) -> Result<(), RestoreError> {
        self.labels.iter().chain(&self.states).try_for_each(|found| give(lanes, self.reader.other(found)?))
    }

    /// The features of some groups.
    pub fn features(&self, lanes: &mut [Lane], of: impl Fn(usize) -> bool) -> Result<(), RestoreError> {
        let wanted = |found: &&Found<'_>| of(self.reader.place(found.entry.class));
        self.features.iter().filter(wanted).try_for_each(|found| give(lanes, self.reader.other(found)?))
    }

    /// The rows of one group's features, in the order in which they were written.
    pub fn feature_rows(&self, group: usize) -> impl Iterator<Item = Result<RecordBatch, RestoreError>> {
        let wanted = move |found: &&Found<'_>| self.reader.place(found.entry.class) == group;
        self.features.iter().filter(wanted).map(|found| self.reader.read(found))
    }
}

/// Each lane takes its share.
fn give(lanes: &mut [Lane], block: RestoredBlock) -> Result<(), RestoreError> {
    lanes.iter_mut().try_for_each(|lane| Ok(lane.restore(block.clone())?))
}

/// Reads what is needed to answer for every entity, whichever lane owns it: `take` gets (group, rows) in the order in
/// which they were written.
pub fn read_features(
    store: &dyn Store,
    objects: &Objects,
    layout: &Layout,
    mut take: impl FnMut(usize, RecordBatch) -> Result<(), RestoreError>,
) -> Result<(), RestoreError> {
    let mut blocks: BTreeMap<Order, Found<'_>> = BTreeMap::new();
    let needed = Needed::new(&[], layout, objects.iter().flat_map(|(_, entries)| entries));
    for (object, entries) in objects {
        let path: Arc<str> = object.path.as_str().into();
        let wanted = |entry: &&BlockEntry| {
            matches!(entry.class.kind, BlockKind::Tiles | BlockKind::FeatureEntries) && !needed.is_superseded(entry)
        };
        for entry in entries.iter().filter(wanted) {
            blocks.insert(order(entry), Found { object: path.clone(), entry });
        }
    }
    for found in blocks.into_values() {
        let Some(group) = layout.group(found.entry.class.node) else { continue };
        take(group, read_found(store, &found)?)?;
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
    /// `None` where all rows are written anew.
    lanes: Option<usize>,
    head: &'a Manifest,
    /// See [`RestoreFrom::keep`].
    keep: Cell<usize>,
}

impl Reader<'_> {
    fn reference(&self, found: &Found<'_>) -> Result<crate::event::BlockRef, RestoreError> {
        reference(self.store, found)
    }

    fn read(&self, found: &Found<'_>) -> Result<RecordBatch, RestoreError> {
        read_found(self.store, found)
    }

    /// The place of the node in the plan; the blocks of others were left out.
    fn place(&self, class: BlockClass) -> usize {
        self.head.layout.place(class).expect("only blocks of nodes that are there are read")
    }

    /// Buckets of joins are counted from 1970.
    fn bucket(&self, found: &Found<'_>) -> Result<u32, RestoreError> {
        u32::try_from(found.entry.bucket).map_err(|_| RestoreError::Block {
            path: self.store.describe(&found.object),
            reason: format!("bucket {}", found.entry.bucket),
        })
    }

    fn filed_through(&self, class: BlockClass) -> Option<u32> {
        self.head.counts.samples.get(self.place(class)).and_then(|sample| sample.filed_through)
    }

    /// Whether the rows of a block's bucket are in files that a manifest names.
    fn is_filed(&self, entry: &BlockEntry) -> bool {
        self.filed_through(entry.class).is_some_and(|through| entry.bucket <= through as i64)
    }

    /// Whether a block may stay where it is.
    fn stays(&self, entry: &BlockEntry) -> bool {
        self.lanes == Some(entry.lanes)
    }

    fn closed_ids(&self, keys: &Found<'_>) -> Result<RestoredBlock, RestoreError> {
        let (sample, bucket) = (self.place(keys.entry.class), self.bucket(keys)?);
        let stored = self.stays(keys.entry);
        Ok(RestoredBlock::ClosedIds { sample, bucket, rows: self.read(keys)?, stored })
    }

    /// Columns that may stay on disk do, until their rows close. Those of samples that emit `early`, row by row, are
    /// read at once and not with every row, as far as there is room.
    fn columns(&self, found: &Found<'_>, early: bool) -> Result<Payload, RestoreError> {
        if !self.stays(found.entry) {
            return Ok(Payload::Memory(self.read(found)?));
        }
        if !early || self.keep.get() == 0 {
            return Ok(Payload::Stored(self.reference(found)?));
        }
        let rows = self.read(found)?;
        self.keep.set(self.keep.get().saturating_sub(memory_of(&rows)));
        Ok(Payload::Cached(rows, self.reference(found)?))
    }

    fn segment(
        &self,
        id: SegmentId,
        blocks: &SegmentBlocks<'_>,
        early: &[bool],
    ) -> Result<Option<RestoredBlock>, RestoreError> {
        let Some(keys) = &blocks.keys else { return Ok(None) };
        let (sample, bucket) = (self.place(keys.entry.class), self.bucket(keys)?);
        let whole = self.stays(keys.entry);
        let early = early.get(sample).copied().unwrap_or(false);
        let rows = blocks.rows.as_ref().ok_or_else(|| RestoreError::Block {
            path: self.store.describe(&keys.object),
            reason: format!("segment {id:?} has no rows"),
        })?;
        let segment = Segment {
            bucket,
            cut: id.cut,
            knows: Vec::new(),
            id: whole.then_some(id),
            payload: self.columns(rows, early)?,
            features: blocks.features.as_ref().map(|found| self.columns(found, early)).transpose()?,
            keys: self.read(keys)?,
        };
        Ok(Some(RestoredBlock::Impressions { sample, segment }))
    }

    fn other(&self, found: &Found<'_>) -> Result<RestoredBlock, RestoreError> {
        let rows = self.read(found)?;
        let class = found.entry.class;
        let stored = self.stays(found.entry);
        let node = self.place(class);
        Ok(match class.kind {
            BlockKind::ClosedIds => {
                RestoredBlock::ClosedIds { sample: node, bucket: self.bucket(found)?, rows, stored }
            }
            BlockKind::LabelStates => {
                let filed = self.filed_through(class);
                RestoredBlock::LabelStates { sample: node, label: class.part as usize, rows, filed }
            }
            BlockKind::Labels => {
                let bucket = self.bucket(found)?;
                RestoredBlock::Labels { sample: node, label: class.part as usize, bucket, rows, stored }
            }
            _ => RestoredBlock::Features { group: node, rows },
        })
    }
}
