//! Snapshot: what a cut adds to the state, and how a state comes back.
//!
//! Rows are sealed into segments at the first cut after they came and are never written again; only feature columns that
//! were evaluated later follow in a block of their own. Restoring reads the identities, labels and features; the
//! declared columns stay on disk until their bucket closes.

use crate::event::{
    AnchorAccount, BlockClass, BlockKind, CloseReason, DurationMs, EventTime, Fingerprint, Kept, LabelAccount, Payload,
    SegmentId, Share, StateBlock, Watermark, memory_of,
};
use crate::join::block::{
    KeyColumns, LABEL_KEY_COLUMNS, column, fingerprint_array, fingerprints_of, join_features, key_block, record_batch,
    split_features,
};
use crate::join::bucket::{Bucket, Part};
use crate::join::close::ClosedRows;
use crate::join::evaluate::nulls;
use crate::join::index::RowRef;
use crate::join::label::{Decision, LabelBucket, LabelState, NewLabel};
use crate::join::state::{ClosedBucket, JoinState, JoinedGroup};
use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt8Array, UInt32Array, UInt64Array};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{Int64Type, UInt8Type, UInt32Type, UInt64Type};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows, and bytes of payload, per segment: bounds what is read back at once.
const SEGMENT_ROWS_MAX: usize = 65_536;
const SEGMENT_BYTES_MAX: usize = 8 << 20;

/// What a cut adds and what it lets go.
#[derive(Debug, Default)]
pub struct JoinCut {
    pub blocks: Vec<StateBlock>,
    /// Per class, the first bucket whose blocks are still needed.
    pub needed_from: Vec<(BlockClass, i64)>,
}

/// How far a manifest says that a sample is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Through {
    /// Buckets of impressions up to this one are closed.
    pub closed: Option<u32>,
    /// And their rows lie in files.
    pub filed: Option<u32>,
    /// Of samples whose rows leave early: rows up to this bucket of their instants lie in files.
    pub emitted: Option<u32>,
}

/// The state on disk is not what this version wrote.
#[derive(Debug, thiserror::Error)]
#[error("state block of {what} is not readable: {reason}")]
pub struct RestoreError {
    pub what: &'static str,
    pub reason: String,
}

/// A segment of impressions on its way back.
#[derive(Clone)]
pub struct Segment {
    pub bucket: u32,
    /// The cut that wrote it.
    pub cut: u64,
    /// Per feature group of the sample, whether the group is older than the segment; all of them if it is empty. What the
    /// segment says of another one belongs to another definition.
    pub knows: Vec<bool>,
    /// `None` when the rows must be written again, because only some of them belong to this lane.
    pub id: Option<SegmentId>,
    pub keys: RecordBatch,
    /// In memory alone when `id` is `None`.
    pub payload: Payload,
    /// All groups side by side.
    pub features: Option<Payload>,
}

impl Segment {
    /// Some of the rows of a segment that is in memory and will be written again.
    fn filter(&self, mask: &BooleanArray) -> Result<Segment, RestoreError> {
        let bad = |reason: String| RestoreError { what: "impressions", reason };
        let filter = |batch: &RecordBatch| filter_record_batch(batch, mask).map_err(|error| bad(error.to_string()));
        let held = |kept: &Payload| match kept {
            Payload::Memory(rows) => filter(rows).map(Payload::Memory),
            _ => Err(bad("split rows must be in memory".into())),
        };
        Ok(Segment {
            bucket: self.bucket,
            cut: self.cut,
            knows: self.knows.clone(),
            id: None,
            keys: filter(&self.keys)?,
            payload: held(&self.payload)?,
            features: self.features.as_ref().map(held).transpose()?,
        })
    }
}

impl JoinState {
    /// Seals everything that came since the last cut. With `roll`, all closed rows are in files that this cut's manifest
    /// will name, so they need no state.
    pub fn cut(&mut self, node: u16, cut: u64, lane: u16, roll: bool) -> JoinCut {
        if roll {
            self.filed_through = self.closed_through;
            if let Some(schedule) = &mut self.schedule {
                schedule.filed_through = schedule.through;
            }
            self.closed_unstored.clear();
        }
        self.fresh_bytes = 0;
        let segment = SegmentId { cut, lane, ordinal: 0 };
        let mut writer = Writer { node, groups: &self.keys.groups, segment, blocks: Vec::new() };
        for (number, mut bucket) in std::mem::take(&mut self.closed_unstored) {
            writer.bucket(number, &mut bucket);
            if let Some(closed) = self.closed.get_mut(&number) {
                closed.stored = true;
            }
        }
        for (number, bucket) in &mut self.buckets {
            writer.bucket(*number, bucket);
        }
        for (number, bucket) in &mut self.closed {
            if !bucket.stored {
                writer.closed_ids(*number, bucket);
            }
        }
        let mut needed_from = self.needed_from(node);
        for label in 0..self.labels.len() {
            let first = self.first_label_bucket(label);
            let class = BlockClass { kind: BlockKind::Labels, node, part: label as u16 };
            for (number, mut bucket) in std::mem::take(&mut self.labels[label].expired_unstored) {
                if number >= first {
                    writer.labels(class, number, &mut bucket);
                }
            }
            for (number, bucket) in &mut self.labels[label].buckets {
                writer.labels(class, *number, bucket);
            }
            needed_from.push((class, first as i64));
            let decisions = std::mem::take(&mut self.labels[label].decisions);
            let class = BlockClass { kind: BlockKind::LabelStates, ..class };
            writer.decisions(class, decisions.into_iter().filter(|decision| decision.row.bucket() >= first));
            needed_from.push((class, first as i64));
        }
        JoinCut { blocks: writer.blocks, needed_from }
    }

    fn needed_from(&self, node: u16) -> Vec<(BlockClass, i64)> {
        let rows = self.filed_through.map_or(0, |through| through as i64 + 1);
        let ids = self.closed.keys().next().map_or(rows, |first| rows.min(*first as i64));
        let class = |kind| BlockClass { kind, node, part: 0 };
        vec![
            (class(BlockKind::ImpressionRows), rows),
            (class(BlockKind::ImpressionFeatures), rows),
            (class(BlockKind::ImpressionKeys), ids),
            (class(BlockKind::ClosedIds), ids),
        ]
    }

    /// Labels are needed while they wait, and while a closed row that they may hang on is in no file.
    fn first_label_bucket(&self, label: usize) -> u32 {
        let labels = &self.labels[label];
        let waiting = labels.buckets.keys().next().copied().unwrap_or(u32::MAX);
        let unfiled = match self.filed_through {
            None => 0,
            Some(through) => {
                let oldest = self.bucket_end(through).saturating_sub(self.spec.ahead_ms(label));
                oldest.div_euclid(self.spec.bucket_ms).max(0) as u32
            }
        };
        // Nothing is closed beyond what is filed: then only those that are held matter.
        if self.closed_through == self.filed_through { waiting } else { waiting.min(unfiled) }
    }

    /// Brings back one segment of impressions; rows of other shares are left out.
    pub fn restore_segment(&mut self, segment: Segment, share: &Share) -> Result<(), RestoreError> {
        let knows = |group: usize| segment.knows.get(group).copied().unwrap_or(true);
        let mut keys = KeyColumns::read(&segment.keys, &self.keys.groups)?;
        keys.entities.iter_mut().enumerate().filter(|(group, _)| !knows(*group)).for_each(|(_, prints)| prints.clear());
        check_times("impressions", segment.bucket, self.spec.bucket_ms, &keys.event_time)?;
        if self.closed.contains_key(&segment.bucket) {
            let reason = format!("bucket {} is closed already", segment.bucket);
            return Err(RestoreError { what: "impressions", reason });
        }
        if keys.id.is_empty() {
            return Ok(());
        }
        if segment.id.is_none() {
            // Rows without a segment are written again, as the newest: a copy of what is here already must not be.
            let fresh = |at: usize| {
                share.contains(keys.home[at]) && !self.holds(keys.id[at], keys.event_time[at], keys.content[at])
            };
            let mask: Vec<bool> = (0..keys.id.len()).map(fresh).collect();
            if mask.contains(&false) {
                let narrowed = segment.filter(&mask.into())?;
                return if narrowed.keys.num_rows() == 0 { Ok(()) } else { self.restore_segment(narrowed, share) };
            }
        }
        let was_counting = std::mem::replace(&mut self.counting, false);
        let (rows, mut stands) = (keys.event_time.len(), false);
        for at in 0..rows {
            let (id, key, ts) = (keys.id[at], keys.key[at], keys.event_time[at]);
            // A copy is there when the rows were written again by another number of lanes.
            let admitted = self.admit(id, ts, keys.content[at]);
            let row = self.push(segment.bucket, ts, id, key, keys.content[at], keys.home[at]);
            if admitted {
                stands = true;
                self.index_row(row, id, key);
            } else {
                self.buckets.get_mut(&segment.bucket).expect("the row was just pushed").dead.push(row.row());
            }
        }
        self.counting = was_counting;
        let bucket = self.buckets.entry(segment.bucket).or_default();
        let start = bucket.rows() - rows;
        if !stands {
            // All of it was written again since: nothing here is to be evaluated, at instants that are long over.
            bucket.truncate(start);
            if start == 0 {
                self.buckets.remove(&segment.bucket);
            }
            return Ok(());
        }
        // Rows whose features were read keep them; rows that know the entity of no group have none to be read.
        let unread = keys.entities.iter().any(|entities| !entities.is_empty());
        let split = |batch: &RecordBatch| split_features(batch, &self.keys.groups, knows);
        let features = match &segment.features {
            Some(Kept::Memory(batch)) => Some(Kept::Memory(split(batch)?)),
            Some(Kept::Cached(batch, block)) => Some(Kept::Cached(split(batch)?, block.clone())),
            Some(Kept::Stored(block)) => Some(Kept::Stored(block.clone())),
            None if unread => None,
            None => Some(Kept::Memory(self.keys.groups.iter().map(|group| nulls(&group.outputs, rows)).collect())),
        };
        let payload_bytes = segment.payload.in_memory().map_or(0, memory_of);
        let features_bytes = segment.features.as_ref().and_then(Kept::in_memory).map_or(0, memory_of);
        if segment.id.is_none() {
            self.fresh_bytes += payload_bytes + features_bytes;
        }
        if features.is_some() {
            keys.entities.iter_mut().for_each(|entities| *entities = Vec::new());
        }
        let bucket = self.buckets.get_mut(&segment.bucket).expect("rows were just pushed");
        bucket.parts.push(Part {
            start: start as u32,
            rows: rows as u32,
            payload: segment.payload,
            payload_bytes,
            newest: keys.event_time.iter().copied().max().unwrap_or(i64::MIN),
            oldest: keys.event_time.iter().copied().min().unwrap_or(i64::MAX),
            features_stored: self.keys.groups.is_empty()
                || (features.is_some() && (segment.id.is_some() || segment.features.is_none())),
            features,
            features_bytes,
            knows: segment.knows,
            entities: keys.entities,
            segment: segment.id,
        });
        Ok(())
    }

    /// Brings back identities of closed impressions, before any that are pending.
    pub fn restore_closed_ids(
        &mut self,
        bucket: u32,
        keys: &RecordBatch,
        share: &Share,
        stored: bool,
    ) -> Result<(), RestoreError> {
        let id = fingerprints_of(keys, "id")?;
        let home = column::<UInt32Type>(keys, "home")?;
        let entry = self.closed.entry(bucket).or_insert(ClosedBucket { id: Vec::new(), home: Vec::new(), stored });
        entry.stored &= stored;
        for (id, home) in id.into_iter().zip(home) {
            let closed = &self.closed;
            let known = self.ids.get(id, |row| closed[&row.bucket()].id[row.row() as usize] == id);
            if known.is_none() && share.contains(home) {
                let entry = self.closed.get_mut(&bucket).expect("it was just made");
                let row = RowRef::new(bucket, entry.id.len() as u32);
                entry.id.push(id);
                entry.home.push(home);
                self.ids.insert(id, row);
            }
        }
        Ok(())
    }

    /// Brings back what became of labels, after the labels themselves. What impressions beyond `filed` decided is left
    /// out: they close again.
    pub fn restore_label_states(
        &mut self,
        label: usize,
        rows: &RecordBatch,
        share: &Share,
        filed: Option<u32>,
    ) -> Result<(), RestoreError> {
        let (id, content) = (fingerprints_of(rows, "id")?, column::<UInt64Type>(rows, "content")?);
        let (home, state) = (column::<UInt32Type>(rows, "home")?, column::<UInt8Type>(rows, "state")?);
        let by = column::<Int64Type>(rows, "by")?;
        for at in 0..rows.num_rows() {
            let Some(state) = LabelState::of(state[at]) else {
                return Err(RestoreError { what: "label states", reason: format!("state {}", state[at]) });
            };
            let stands = state == LabelState::Replaced || filed.is_some_and(|through| by[at] <= through as i64);
            if stands && share.contains(home[at]) {
                self.labels[label].restore_decision(id[at], content[at], state);
            }
        }
        Ok(())
    }

    /// Brings back labels of one label stream.
    pub fn restore_labels(
        &mut self,
        label: usize,
        bucket: u32,
        stored: bool,
        rows: &RecordBatch,
        share: &Share,
    ) -> Result<(), RestoreError> {
        let labels = &mut self.labels[label];
        let keys = KeyColumns::read(rows, &[])?;
        check_times("labels", bucket, self.spec.bucket_ms, &keys.event_time)?;
        let came_at = column::<Int64Type>(rows, "came_at")?;
        let mut mine = Vec::with_capacity(rows.num_rows());
        for (at, came_at) in came_at.into_iter().enumerate() {
            let new = NewLabel {
                event_time: keys.event_time[at],
                id: keys.id[at],
                key: keys.key[at],
                content: keys.content[at],
                home: keys.home[at],
                came_at,
            };
            let admitted = share.contains(new.home) && labels.admit_again(&new);
            if admitted {
                let came_at = new.came_at;
                let row = labels.push(bucket, new);
                if let Some(schedule) = &mut self.schedule {
                    schedule.add_label(came_at, label, row);
                }
            }
            mine.push(admitted);
        }
        let whole = mine.iter().all(|mine| *mine);
        let failed = |error: arrow::error::ArrowError| RestoreError { what: "labels", reason: error.to_string() };
        let columns: Vec<usize> = (LABEL_KEY_COLUMNS..rows.num_columns()).collect();
        let columns = labels.held_columns(&rows.project(&columns).map_err(failed)?)?;
        let columns = if whole { columns } else { filter_record_batch(&columns, &mine.into()).map_err(failed)? };
        if columns.num_rows() > 0 {
            labels.add_part(bucket, columns);
            if whole && stored {
                let bucket = labels.buckets.get_mut(&bucket).expect("rows were just pushed");
                bucket.stored_rows = bucket.rows();
            }
        }
        Ok(())
    }

    /// Ends a restore: closes again, without counting, what was closed but in no file. The books then start at what is
    /// held: the caller adds them to those of the manifest.
    pub fn finish_restore(&mut self, frontier: Watermark, through: Through, out: &mut Vec<ClosedRows>) {
        self.counting = false;
        self.filed_through = through.filed;
        self.forget_emitted(through.emitted);
        self.close(frontier, CloseReason::Watermark, out);
        self.closed_through = self.closed_through.max(through.closed);
        self.counting = true;
        let pending = self.pending_rows() as u64;
        self.account = AnchorAccount { applied: pending, pending, ..AnchorAccount::default() };
        for labels in &mut self.labels {
            let waiting = labels.waiting() as u64;
            labels.account = LabelAccount { applied: waiting, waiting, ..LabelAccount::default() };
        }
    }

    /// Nothing that was restored without a segment is on disk: what became of its labels is written with it. Whoever
    /// decided about them is in a file.
    pub fn write_anew(&mut self) {
        for labels in &mut self.labels {
            labels.decide_anew();
        }
    }

    pub fn closed_through(&self) -> Option<u32> {
        self.closed_through
    }

    pub fn filed_through(&self) -> Option<u32> {
        self.filed_through
    }

    /// Of samples whose rows leave early, the bucket of instants up to which their rows lie in files.
    pub fn emitted_through(&self) -> Option<u32> {
        self.schedule.as_ref().and_then(|schedule| schedule.filed_through)
    }
}

/// Joins parts that no cut has written into segments: consecutive ones with the same state of their features.
fn seal(parts: Vec<Part>) -> Vec<Part> {
    let mut sealed: Vec<Vec<Part>> = Vec::new();
    for part in parts {
        let fits = |group: &Vec<Part>| {
            let first = &group[0];
            let (rows, bytes) = group
                .iter()
                .fold((0, 0), |(rows, bytes), part| (rows + part.rows as usize, bytes + part.payload_bytes));
            let known = |part: &Part| part.entities.iter().map(Vec::is_empty).collect::<Vec<_>>();
            first.segment.is_none()
                && part.segment.is_none()
                && first.features.is_some() == part.features.is_some()
                && known(first) == known(&part)
                && rows + part.rows as usize <= SEGMENT_ROWS_MAX
                && bytes + part.payload_bytes <= SEGMENT_BYTES_MAX
        };
        match sealed.last_mut().filter(|group| fits(group)) {
            Some(group) => group.push(part),
            None => sealed.push(vec![part]),
        }
    }
    sealed.into_iter().map(merge).collect()
}

fn merge(mut group: Vec<Part>) -> Part {
    if group.len() == 1 {
        return group.pop().expect("there is one");
    }
    let batches: Vec<&RecordBatch> =
        group.iter().map(|part| part.payload.in_memory().expect("a part without a segment is in memory")).collect();
    let payload = concat_batches(&batches[0].schema(), batches).expect("batches of one stream have one schema");
    let features = group[0].features.as_ref().and_then(Kept::in_memory).map(|first| {
        let of_group = |index: usize| {
            let known = group.iter().filter_map(|part| part.features.as_ref().and_then(Kept::in_memory));
            let batches: Vec<&RecordBatch> = known.map(|features| &features[index]).collect();
            concat_batches(&batches[0].schema(), batches).expect("outputs of one group have one schema")
        };
        (0..first.len()).map(of_group).collect::<Vec<RecordBatch>>()
    });
    let entities = (0..group[0].entities.len())
        .map(|index| group.iter().flat_map(|part| part.entities[index].iter().copied()).collect())
        .collect();
    Part {
        start: group[0].start,
        rows: group.iter().map(|part| part.rows).sum(),
        payload_bytes: memory_of(&payload),
        payload: Payload::Memory(payload),
        entities,
        features_bytes: features.iter().flatten().map(memory_of).sum(),
        features: features.map(Kept::Memory),
        // Only what was restored may not know a group, and that is dealt with when it is read.
        knows: Vec::new(),
        newest: group.iter().map(|part| part.newest).max().expect("a group has parts"),
        oldest: group.iter().map(|part| part.oldest).min().expect("a group has parts"),
        segment: None,
        features_stored: group[0].features_stored,
    }
}

/// Collects the blocks of one cut.
struct Writer<'a> {
    node: u16,
    groups: &'a [JoinedGroup],
    segment: SegmentId,
    blocks: Vec<StateBlock>,
}

impl Writer<'_> {
    fn next_segment(&mut self) -> SegmentId {
        let segment = self.segment;
        self.segment.ordinal += 1;
        segment
    }

    fn add(&mut self, kind: BlockKind, bucket: u32, segment: SegmentId, rows: RecordBatch) {
        let class = BlockClass { kind, node: self.node, part: 0 };
        self.blocks.push(StateBlock { class, bucket: bucket as i64, segment, whole: false, rows });
    }

    fn bucket(&mut self, number: u32, bucket: &mut Bucket) {
        if bucket.parts.iter().all(|part| part.segment.is_some()) {
            bucket.settle();
        }
        bucket.parts = seal(std::mem::take(&mut bucket.parts));
        for index in 0..bucket.parts.len() {
            if bucket.parts[index].segment.is_none() {
                let segment = self.next_segment();
                let keys = key_block(bucket, &bucket.parts[index], self.groups);
                self.add(BlockKind::ImpressionKeys, number, segment, keys);
                if let Some(rows) = bucket.parts[index].payload.in_memory() {
                    self.add(BlockKind::ImpressionRows, number, segment, rows.clone());
                }
                bucket.parts[index].segment = Some(segment);
            }
            let part = &mut bucket.parts[index];
            if part.features_stored {
                continue;
            }
            if let (Some(features), Some(segment)) = (part.features.as_ref().and_then(Kept::in_memory), part.segment) {
                let rows = join_features(features, self.groups);
                part.features_stored = true;
                self.add(BlockKind::ImpressionFeatures, number, segment, rows);
            }
        }
    }

    fn closed_ids(&mut self, number: u32, bucket: &mut ClosedBucket) {
        let rows = record_batch(vec![
            ("id", fingerprint_array(&bucket.id)),
            ("home", Arc::new(UInt32Array::from(bucket.home.clone()))),
        ]);
        bucket.stored = true;
        let segment = self.next_segment();
        self.add(BlockKind::ClosedIds, number, segment, rows);
    }

    fn decisions(&mut self, class: BlockClass, decisions: impl Iterator<Item = Decision>) {
        let mut by_bucket: BTreeMap<u32, Vec<Decision>> = BTreeMap::new();
        decisions.for_each(|decision| by_bucket.entry(decision.row.bucket()).or_default().push(decision));
        for (number, decisions) in by_bucket {
            let ids: Vec<Fingerprint> = decisions.iter().map(|decision| decision.id).collect();
            let rows = record_batch(vec![
                ("id", fingerprint_array(&ids)),
                ("content", Arc::new(UInt64Array::from_iter_values(decisions.iter().map(|decision| decision.content)))),
                ("home", Arc::new(UInt32Array::from_iter_values(decisions.iter().map(|decision| decision.home)))),
                (
                    "state",
                    Arc::new(UInt8Array::from_iter_values(decisions.iter().map(|decision| decision.state as u8))),
                ),
                ("by", Arc::new(Int64Array::from_iter_values(decisions.iter().map(|decision| decision.by as i64)))),
            ]);
            let segment = self.next_segment();
            self.blocks.push(StateBlock { class, bucket: number as i64, segment, whole: false, rows });
        }
    }

    fn labels(&mut self, class: BlockClass, number: u32, bucket: &mut LabelBucket) {
        let (from, to) = (bucket.stored_rows, bucket.rows());
        if from == to {
            return;
        }
        let segment = self.next_segment();
        let mut fields: Vec<(&str, ArrayRef)> = vec![
            ("event_time", Arc::new(Int64Array::from(bucket.event_time[from..to].to_vec()))),
            ("id", fingerprint_array(&bucket.id[from..to])),
            ("key", fingerprint_array(&bucket.key[from..to])),
            ("content", Arc::new(UInt64Array::from(bucket.content[from..to].to_vec()))),
            ("home", Arc::new(UInt32Array::from(bucket.home[from..to].to_vec()))),
            ("came_at", Arc::new(Int64Array::from(bucket.came_at[from..to].to_vec()))),
        ];
        debug_assert_eq!(fields.len(), LABEL_KEY_COLUMNS);
        let fresh: Vec<&RecordBatch> =
            bucket.parts.iter().filter(|part| part.start as usize >= from).map(|part| &part.columns).collect();
        let columns = concat_batches(&fresh[0].schema(), fresh.iter().copied()).expect("one stream, one schema");
        let schema = columns.schema();
        for (field, column) in schema.fields().iter().zip(columns.columns()) {
            fields.push((field.name(), column.clone()));
        }
        let rows = record_batch(fields);
        bucket.stored_rows = to;
        self.blocks.push(StateBlock { class, bucket: number as i64, segment, whole: false, rows });
    }
}

/// Rows lie in the bucket of their time: everything that looks for them counts on it.
fn check_times(
    what: &'static str,
    bucket: u32,
    bucket_ms: DurationMs,
    times: &[EventTime],
) -> Result<(), RestoreError> {
    match times.iter().find(|ts| ts.div_euclid(bucket_ms) != bucket as i64) {
        Some(ts) => Err(RestoreError { what, reason: format!("a row of time {ts} lies in bucket {bucket}") }),
        None => Ok(()),
    }
}
