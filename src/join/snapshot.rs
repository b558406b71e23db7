//! Snapshot: what a cut adds to the state, and how a state comes back.
//!
//! Rows are sealed into segments at the first cut after they came and are never written again; only feature columns that
//! were evaluated later follow in a block of their own. Restoring reads the identities, labels and features; the
//! declared columns stay on disk until their bucket closes.

use crate::event::{
    AnchorAccount, BlockClass, BlockKind, CloseReason, DurationMs, EventTime, Fingerprint, LabelAccount, Payload,
    SegmentId, StateBlock, Watermark,
};
use crate::join::bucket::{Bucket, Part};
use crate::join::close::ClosedRows;
use crate::join::index::RowRef;
use crate::join::label::{Admission, Decision, LabelBucket, LabelState, NewLabel};
use crate::join::state::{ClosedBucket, JoinState};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeBinaryArray, Int64Array, RecordBatch, UInt8Array, UInt64Array,
};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt8Type, UInt64Type};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Rows per segment: bounds what is read back at once.
const SEGMENT_ROWS_MAX: usize = 65_536;

/// What a cut adds and what it lets go.
#[derive(Debug, Default)]
pub struct JoinCut {
    pub blocks: Vec<StateBlock>,
    /// Per class, the first bucket whose blocks are still needed.
    pub needed_from: Vec<(BlockClass, i64)>,
}

/// The state on disk is not what this version wrote.
#[derive(Debug, thiserror::Error)]
#[error("state block of {what} is not readable: {reason}")]
pub struct RestoreError {
    pub what: &'static str,
    pub reason: String,
}

/// A segment of impressions on its way back.
pub struct Segment {
    pub bucket: u32,
    /// `None` when the rows must be written again, because only some of them belong to this lane.
    pub id: Option<SegmentId>,
    pub keys: RecordBatch,
    /// In memory when `id` is `None`.
    pub payload: Payload,
    pub features: Option<RecordBatch>,
}

impl Segment {
    /// Some of the rows of a segment that is in memory and will be written again.
    fn filter(&self, mask: &BooleanArray) -> Result<Segment, RestoreError> {
        let bad = |reason: String| RestoreError { what: "impressions", reason };
        let filter = |batch: &RecordBatch| filter_record_batch(batch, mask).map_err(|error| bad(error.to_string()));
        let Payload::Memory(rows) = &self.payload else { return Err(bad("split rows must be in memory".into())) };
        Ok(Segment {
            bucket: self.bucket,
            id: None,
            keys: filter(&self.keys)?,
            payload: Payload::Memory(filter(rows)?),
            features: self.features.as_ref().map(filter).transpose()?,
        })
    }
}

impl JoinState {
    /// Seals everything that came since the last cut. With `roll`, all closed rows are in files that this cut's manifest
    /// will name, so they need no state.
    pub fn cut(&mut self, node: u16, cut: u64, lane: u16, roll: bool) -> JoinCut {
        if roll {
            self.filed_through = self.closed_through;
            self.closed_unstored.clear();
        }
        let mut writer = Writer { node, segment: SegmentId { cut, lane, ordinal: 0 }, blocks: Vec::new() };
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
                let oldest = self.bucket_end(through) - labels.spec.before_ms;
                oldest.div_euclid(self.spec.bucket_ms).max(0) as u32
            }
        };
        // Nothing is closed beyond what is filed: then only those that are held matter.
        if self.closed_through == self.filed_through { waiting } else { waiting.min(unfiled) }
    }

    /// Brings back one segment of impressions; rows of other key groups are left out.
    pub fn restore_segment(&mut self, segment: Segment, groups: &Range<u16>) -> Result<(), RestoreError> {
        let keys = KeyColumns::read(&segment.keys, self.keys.entities.len())?;
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
                groups.contains(&(keys.key_group[at] as u16))
                    && !self.holds(keys.id[at], keys.event_time[at], keys.content[at])
            };
            let mask: Vec<bool> = (0..keys.id.len()).map(fresh).collect();
            if mask.contains(&false) {
                let narrowed = segment.filter(&mask.into())?;
                return if narrowed.keys.num_rows() == 0 { Ok(()) } else { self.restore_segment(narrowed, groups) };
            }
        }
        let was_counting = std::mem::replace(&mut self.counting, false);
        let rows = keys.event_time.len();
        for at in 0..rows {
            let (id, key, ts) = (keys.id[at], keys.key[at], keys.event_time[at]);
            // A copy is there when the rows were written again by another number of lanes; both wait for the next cut.
            let admitted = self.admit(id, ts, keys.content[at]);
            let row = self.push(segment.bucket, ts, id, key, keys.content[at], keys.key_group[at]);
            if admitted {
                self.index_row(row, id, key);
            } else {
                self.buckets.get_mut(&segment.bucket).expect("the row was just pushed").dead.push(row.row());
            }
        }
        self.counting = was_counting;
        let groups = self.keys.entities.len();
        let features = segment.features.as_ref().map(|batch| split_features(batch, groups)).transpose()?;
        let payload_bytes = match &segment.payload {
            Payload::Memory(batch) => batch.get_array_memory_size(),
            Payload::Stored(_) => 0,
        };
        if features.is_none() && keys.entities.iter().any(|entities| entities.len() != rows) {
            let reason = "a segment has neither features nor entities".into();
            return Err(RestoreError { what: "impressions", reason });
        }
        let bucket = self.buckets.get_mut(&segment.bucket).expect("rows were just pushed");
        bucket.parts.push(Part {
            start: (bucket.rows() - rows) as u32,
            rows: rows as u32,
            payload: segment.payload,
            payload_bytes,
            newest: keys.event_time.iter().copied().max().unwrap_or(i64::MIN),
            oldest: keys.event_time.iter().copied().min().unwrap_or(i64::MAX),
            features_stored: groups == 0 || (features.is_some() && segment.id.is_some()),
            features: if groups == 0 { Some(Vec::new()) } else { features },
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
        groups: &Range<u16>,
        stored: bool,
    ) -> Result<(), RestoreError> {
        let id = fingerprints_of(keys, "id")?;
        let key_group = column::<UInt8Type>(keys, "key_group")?;
        let entry = self.closed.entry(bucket).or_insert(ClosedBucket { id: Vec::new(), key_group: Vec::new(), stored });
        entry.stored &= stored;
        for (id, key_group) in id.into_iter().zip(key_group) {
            let closed = &self.closed;
            let known = self.ids.get(id, |row| closed[&row.bucket()].id[row.row() as usize] == id);
            if known.is_none() && groups.contains(&(key_group as u16)) {
                let entry = self.closed.get_mut(&bucket).expect("it was just made");
                let row = RowRef::new(bucket, entry.id.len() as u32);
                entry.id.push(id);
                entry.key_group.push(key_group);
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
        groups: &Range<u16>,
        filed: Option<u32>,
    ) -> Result<(), RestoreError> {
        let (id, content) = (fingerprints_of(rows, "id")?, column::<UInt64Type>(rows, "content")?);
        let (key_group, state) = (column::<UInt8Type>(rows, "key_group")?, column::<UInt8Type>(rows, "state")?);
        let by = column::<Int64Type>(rows, "by")?;
        for at in 0..rows.num_rows() {
            let Some(state) = LabelState::of(state[at]) else {
                return Err(RestoreError { what: "label states", reason: format!("state {}", state[at]) });
            };
            let stands = state == LabelState::Replaced || filed.is_some_and(|through| by[at] <= through as i64);
            if stands && groups.contains(&(key_group[at] as u16)) {
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
        groups: &Range<u16>,
    ) -> Result<(), RestoreError> {
        let labels = &mut self.labels[label];
        let keys = KeyColumns::read(rows, 0)?;
        check_times("labels", bucket, self.spec.bucket_ms, &keys.event_time)?;
        let came_at = column::<Int64Type>(rows, "came_at")?;
        let mut mine = Vec::with_capacity(rows.num_rows());
        for (at, came_at) in came_at.into_iter().enumerate() {
            let new = NewLabel {
                event_time: keys.event_time[at],
                id: keys.id[at],
                key: keys.key[at],
                content: keys.content[at],
                key_group: keys.key_group[at],
                came_at,
            };
            // Of two records in conflict both were written when the better one came later.
            let admitted = groups.contains(&(new.key_group as u16))
                && matches!(labels.admit(&new), Admission::New | Admission::ConflictWon | Admission::Sooner);
            if admitted {
                labels.push(bucket, new);
            }
            mine.push(admitted);
        }
        let whole = mine.iter().all(|mine| *mine);
        let failed = |error: arrow::error::ArrowError| RestoreError { what: "labels", reason: error.to_string() };
        let columns: Vec<usize> = (LABEL_KEY_COLUMNS..rows.num_columns()).collect();
        let columns = rows.project(&columns).map_err(failed)?;
        let types = |schema: &Schema| -> Vec<DataType> {
            schema.fields().iter().map(|field| field.data_type().clone()).collect()
        };
        if types(columns.schema_ref()) != types(&labels.schema) {
            let reason = format!("columns of {:?}, not of {:?}", types(columns.schema_ref()), types(&labels.schema));
            return Err(RestoreError { what: "labels", reason });
        }
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
    pub fn finish_restore(
        &mut self,
        frontier: Watermark,
        closed_through: Option<u32>,
        filed_through: Option<u32>,
        out: &mut Vec<ClosedRows>,
    ) {
        self.counting = false;
        self.filed_through = filed_through;
        self.close(frontier, CloseReason::Watermark, out);
        self.closed_through = self.closed_through.max(closed_through);
        self.counting = true;
        let pending = self.pending_rows() as u64;
        self.account = AnchorAccount { applied: pending, pending, ..AnchorAccount::default() };
        for labels in &mut self.labels {
            let waiting = labels.waiting() as u64;
            labels.account = LabelAccount { applied: waiting, waiting, ..LabelAccount::default() };
        }
    }

    pub fn closed_through(&self) -> Option<u32> {
        self.closed_through
    }

    pub fn filed_through(&self) -> Option<u32> {
        self.filed_through
    }
}

/// Joins parts that no cut has written into segments: consecutive ones with the same state of their features.
fn seal(parts: Vec<Part>) -> Vec<Part> {
    let mut sealed: Vec<Vec<Part>> = Vec::new();
    for part in parts {
        let fits = |group: &Vec<Part>| {
            let first = &group[0];
            let rows: usize = group.iter().map(|part| part.rows as usize).sum();
            first.segment.is_none()
                && part.segment.is_none()
                && first.features.is_some() == part.features.is_some()
                && rows + part.rows as usize <= SEGMENT_ROWS_MAX
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
    let batches: Vec<&RecordBatch> = group
        .iter()
        .map(|part| match &part.payload {
            Payload::Memory(batch) => batch,
            Payload::Stored(_) => unreachable!("a part without a segment is in memory"),
        })
        .collect();
    let payload = concat_batches(&batches[0].schema(), batches).expect("batches of one stream have one schema");
    let features = group[0].features.is_some().then(|| {
        let groups = group[0].features.as_ref().map_or(0, Vec::len);
        (0..groups)
            .map(|index| {
                let batches: Vec<&RecordBatch> =
                    group.iter().flat_map(|part| part.features.as_ref()).map(|features| &features[index]).collect();
                concat_batches(&batches[0].schema(), batches).expect("outputs of one group have one schema")
            })
            .collect()
    });
    let entities = (0..group[0].entities.len())
        .map(|index| group.iter().flat_map(|part| part.entities[index].iter().copied()).collect())
        .collect();
    Part {
        start: group[0].start,
        rows: group.iter().map(|part| part.rows).sum(),
        payload_bytes: payload.get_array_memory_size(),
        payload: Payload::Memory(payload),
        entities,
        features,
        newest: group.iter().map(|part| part.newest).max().expect("a group has parts"),
        oldest: group.iter().map(|part| part.oldest).min().expect("a group has parts"),
        segment: None,
        features_stored: group[0].features_stored,
    }
}

/// Collects the blocks of one cut.
struct Writer {
    node: u16,
    segment: SegmentId,
    blocks: Vec<StateBlock>,
}

impl Writer {
    fn next_segment(&mut self) -> SegmentId {
        let segment = self.segment;
        self.segment.ordinal += 1;
        segment
    }

    fn add(&mut self, kind: BlockKind, bucket: u32, segment: SegmentId, rows: RecordBatch) {
        let class = BlockClass { kind, node: self.node, part: 0 };
        self.blocks.push(StateBlock { class, bucket: bucket as i64, segment, rows });
    }

    fn bucket(&mut self, number: u32, bucket: &mut Bucket) {
        bucket.parts = seal(std::mem::take(&mut bucket.parts));
        for index in 0..bucket.parts.len() {
            if bucket.parts[index].segment.is_none() {
                let segment = self.next_segment();
                self.add(BlockKind::ImpressionKeys, number, segment, key_block(bucket, &bucket.parts[index]));
                if let Payload::Memory(rows) = &bucket.parts[index].payload {
                    self.add(BlockKind::ImpressionRows, number, segment, rows.clone());
                }
                bucket.parts[index].segment = Some(segment);
            }
            let part = &mut bucket.parts[index];
            if let (false, Some(features), Some(segment)) = (part.features_stored, &part.features, part.segment) {
                let rows = join_features(features);
                part.features_stored = true;
                self.add(BlockKind::ImpressionFeatures, number, segment, rows);
            }
        }
    }

    fn closed_ids(&mut self, number: u32, bucket: &mut ClosedBucket) {
        let rows = record_batch(vec![
            ("id", fingerprint_array(&bucket.id)),
            ("key_group", Arc::new(UInt8Array::from(bucket.key_group.clone()))),
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
                (
                    "key_group",
                    Arc::new(UInt8Array::from_iter_values(decisions.iter().map(|decision| decision.key_group))),
                ),
                (
                    "state",
                    Arc::new(UInt8Array::from_iter_values(decisions.iter().map(|decision| decision.state as u8))),
                ),
                ("by", Arc::new(Int64Array::from_iter_values(decisions.iter().map(|decision| decision.by as i64)))),
            ]);
            let segment = self.next_segment();
            self.blocks.push(StateBlock { class, bucket: number as i64, segment, rows });
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
            ("key_group", Arc::new(UInt8Array::from(bucket.key_group[from..to].to_vec()))),
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
        self.blocks.push(StateBlock { class, bucket: number as i64, segment, rows });
    }
}

const LABEL_KEY_COLUMNS: usize = 6;

fn record_batch(fields: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let schema =
        fields.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect::<Vec<_>>();
    let arrays = fields.into_iter().map(|(_, array)| array).collect();
    RecordBatch::try_new(Arc::new(Schema::new(schema)), arrays).expect("columns of one block have one length")
}

fn fingerprint_array(fingerprints: &[Fingerprint]) -> ArrayRef {
    let mut bytes = Vec::with_capacity(fingerprints.len() * 16);
    fingerprints.iter().for_each(|fingerprint| bytes.extend_from_slice(&fingerprint.to_le_bytes()));
    Arc::new(FixedSizeBinaryArray::new(16, bytes.into(), None))
}

fn key_block(bucket: &Bucket, part: &Part) -> RecordBatch {
    let range = part.range();
    let id = fingerprint_array(&bucket.id[range.clone()]);
    let key = if bucket.key.is_empty() { id.clone() } else { fingerprint_array(&bucket.key[range.clone()]) };
    let names: Vec<String> = (0..part.entities.len()).map(|index| format!("entity_{index}")).collect();
    let mut fields: Vec<(&str, ArrayRef)> = vec![
        ("event_time", Arc::new(Int64Array::from(bucket.event_time[range.clone()].to_vec()))),
        ("id", id.clone()),
        ("content", Arc::new(UInt64Array::from(bucket.content[range.clone()].to_vec()))),
        ("key_group", Arc::new(UInt8Array::from(bucket.key_group[range].to_vec()))),
    ];
    if !bucket.key.is_empty() {
        fields.push(("key", key));
    }
    if part.features.is_none() {
        fields
            .extend(names.iter().zip(&part.entities).map(|(name, prints)| (name.as_str(), fingerprint_array(prints))));
    }
    record_batch(fields)
}

/// Feature columns of all groups side by side, named `<group>/<column>`.
fn join_features(features: &[RecordBatch]) -> RecordBatch {
    let mut names = Vec::new();
    let mut arrays = Vec::new();
    for (group, batch) in features.iter().enumerate() {
        for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
            names.push(format!("{group}/{}", field.name()));
            arrays.push(array.clone());
        }
    }
    record_batch(names.iter().map(String::as_str).zip(arrays).collect())
}

fn split_features(batch: &RecordBatch, groups: usize) -> Result<Vec<RecordBatch>, RestoreError> {
    let bad = |reason: String| RestoreError { what: "features", reason };
    let mut fields: Vec<Vec<(String, ArrayRef)>> = vec![Vec::new(); groups];
    for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
        let (group, name) = field.name().split_once('/').ok_or_else(|| bad(format!("column {}", field.name())))?;
        let group: usize = group.parse().map_err(|_| bad(format!("column {}", field.name())))?;
        let slot = fields.get_mut(group).ok_or_else(|| bad(format!("group {group} of {groups}")))?;
        slot.push((name.to_owned(), array.clone()));
    }
    Ok(fields
        .into_iter()
        .map(|fields| record_batch(fields.iter().map(|(name, array)| (name.as_str(), array.clone())).collect()))
        .collect())
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

/// The identity columns of a block.
struct KeyColumns {
    event_time: Vec<i64>,
    id: Vec<Fingerprint>,
    key: Vec<Fingerprint>,
    content: Vec<u64>,
    key_group: Vec<u8>,
    entities: Vec<Vec<Fingerprint>>,
}

impl KeyColumns {
    fn read(batch: &RecordBatch, entities: usize) -> Result<Self, RestoreError> {
        let id = fingerprints_of(batch, "id")?;
        Ok(KeyColumns {
            event_time: column::<Int64Type>(batch, "event_time")?,
            key: if batch.column_by_name("key").is_some() { fingerprints_of(batch, "key")? } else { id.clone() },
            id,
            content: column::<UInt64Type>(batch, "content")?,
            key_group: column::<UInt8Type>(batch, "key_group")?,
            entities: (0..entities)
                .map(|index| format!("entity_{index}"))
                .map(|name| batch.column_by_name(&name).map_or(Ok(Vec::new()), |_| fingerprints_of(batch, &name)))
                .collect::<Result<_, _>>()?,
        })
    }
}

fn named<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, RestoreError> {
    batch.column_by_name(name).ok_or_else(|| RestoreError { what: "keys", reason: format!("column {name} is missing") })
}

fn column<T: arrow::datatypes::ArrowPrimitiveType>(
    batch: &RecordBatch,
    name: &str,
) -> Result<Vec<T::Native>, RestoreError> {
    let array = named(batch, name)?;
    let array = array.as_primitive_opt::<T>().ok_or_else(|| RestoreError {
        what: "keys",
        reason: format!("column {name} is {}, not {}", array.data_type(), T::DATA_TYPE),
    })?;
    Ok(array.values().to_vec())
}

fn fingerprints_of(batch: &RecordBatch, name: &str) -> Result<Vec<Fingerprint>, RestoreError> {
    let array = named(batch, name)?;
    let array = array.as_fixed_size_binary_opt().filter(|array| array.value_length() == 16);
    let array = array.ok_or_else(|| RestoreError {
        what: "keys",
        reason: format!("column {name} is not {}", DataType::FixedSizeBinary(16)),
    })?;
    Ok((0..array.len()).map(|row| Fingerprint::from_le_bytes(array.value(row).try_into().expect("16 bytes"))).collect())
}
