//! State: the pending impressions of one sample in one lane, and the labels that wait for them.

use crate::event::{
    AnchorAccount, CloseReason, DecodedBatch, DelaySketch, DurationMs, EventTime, Fingerprint, LabelAccount, Outage,
    Payload, SideKind, SideReason, SideRows, Watermark, home_of, memory_of,
};
use crate::invariant;
use crate::join::block::Features;
use crate::join::bucket::{Bucket, Part};
use crate::join::close::ClosedRows;
use crate::join::emit::Schedule;
use crate::join::index::{Index, RowRef};
use crate::join::label::{Admission, Labels, NewLabel};
use crate::join::side::Told;
use crate::join::{Emit, JoinSpec};
use arrow::array::UInt32Array;
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Which fingerprints of an anchor batch mean what: positions in `DecodedBatch::keys`.
#[derive(Clone, Debug)]
pub struct AnchorKeys {
    pub id: usize,
    pub key: usize,
    pub route: usize,
    /// The feature groups of the sample, in order.
    pub groups: Arc<[JoinedGroup]>,
}

/// A feature group whose values go beside the impressions.
#[derive(Clone, Debug)]
pub struct JoinedGroup {
    /// Names its columns in state.
    pub name: String,
    /// Position of the entity in `DecodedBatch::keys`.
    pub entity: usize,
    /// The layout of the values; every column may be null.
    pub outputs: SchemaRef,
}

/// The same for a label batch.
#[derive(Clone, Copy, Debug)]
pub struct LabelKeys {
    pub id: usize,
    pub key: usize,
    pub route: usize,
}

/// Rows of one stream that belong to this lane: row numbers, ascending, and the late ones among them with the
/// watermark that overtook them.
#[derive(Clone, Copy)]
pub struct LaneRows<'a> {
    pub batch: &'a DecodedBatch,
    pub rows: &'a [u32],
    /// (row, the watermark it missed), ascending.
    pub late: &'a [(u32, EventTime)],
    /// The cell's watermark when the batch was routed.
    pub watermark: EventTime,
}

impl<'a> LaneRows<'a> {
    fn late_at(&self, row: u32) -> Option<EventTime> {
        if self.late.is_empty() {
            return None;
        }
        self.late.binary_search_by_key(&row, |(late, _)| *late).ok().map(|at| self.late[at].1)
    }
}

/// Identities of a closed bucket, kept until the dedup horizon has passed.
pub(super) struct ClosedBucket {
    pub id: Vec<Fingerprint>,
    pub home: Vec<u32>,
    /// Whether a block on disk holds them.
    pub stored: bool,
}

/// Row numbers sorted into time buckets; a batch mostly falls into one or two.
#[derive(Default)]
struct RowsByBucket {
    entries: Vec<(u32, Vec<u32>)>,
    last: usize,
}

impl RowsByBucket {
    pub(super) fn push(&mut self, bucket: u32, row: u32) {
        if self.entries.get(self.last).is_none_or(|(number, _)| *number != bucket) {
            self.last = self.entries.iter().position(|(number, _)| *number == bucket).unwrap_or_else(|| {
                self.entries.push((bucket, Vec::new()));
                self.entries.len() - 1
            });
        }
        self.entries[self.last].1.push(row);
    }
}

pub struct JoinState {
    pub(super) spec: Arc<JoinSpec>,
    /// Of the spec.
    pub(super) longest_ms: DurationMs,
    pub(super) keys: AnchorKeys,
    pub(super) buckets: BTreeMap<u32, Bucket>,
    pub(super) closed: BTreeMap<u32, ClosedBucket>,
    pub(super) ids: Index,
    /// Newest pending row per key; `None` when the key is the id.
    pub(super) by_key: Option<Index>,
    pub(super) labels: Vec<Labels>,
    label_keys: Vec<LabelKeys>,
    pub(super) account: AnchorAccount,
    /// All buckets up to this one are closed.
    pub(super) closed_through: Option<u32>,
    /// All buckets up to this one are in files that a manifest names.
    pub(super) filed_through: Option<u32>,
    /// Closed buckets whose rows are in no named file yet and which no cut has written: written at the next cut.
    pub(super) closed_unstored: Vec<(u32, Bucket)>,
    /// Of samples whose rows leave early.
    pub(super) schedule: Option<Schedule>,
    /// Those of its label streams.
    pub(super) outages: Vec<Outage>,
    /// Bytes of payload and features that came since the last cut.
    pub(super) fresh_bytes: usize,
    /// False while a restored state is brought back to where it was: those rows were counted before.
    pub(super) counting: bool,
    side: Vec<SideRows>,
}

impl JoinState {
    /// `label_streams` gives each label stream's schema and keys, in the order of `spec.labels`.
    pub fn new(spec: Arc<JoinSpec>, keys: AnchorKeys, label_streams: &[(SchemaRef, LabelKeys)]) -> Self {
        let labels = spec.labels.iter().zip(label_streams);
        let tell: Vec<SideKind> = [SideKind::ExpiredLabels, SideKind::Unmatched]
            .into_iter()
            .filter(|kind| spec.side.contains(kind))
            .collect();
        JoinState {
            by_key: (keys.key != keys.id).then(Index::default),
            labels: labels.map(|(label, (schema, _))| Labels::new(label.clone(), schema, &tell)).collect(),
            label_keys: label_streams.iter().map(|(_, keys)| *keys).collect(),
            schedule: (spec.emit != Emit::Wait).then(Schedule::default),
            longest_ms: spec.longest_ms(),
            spec,
            keys,
            buckets: BTreeMap::new(),
            closed: BTreeMap::new(),
            ids: Index::default(),
            account: AnchorAccount::default(),
            closed_through: None,
            filed_through: None,
            closed_unstored: Vec::new(),
            outages: Vec::new(),
            fresh_bytes: 0,
            counting: true,
            side: Vec::new(),
        }
    }

    /// What is decided from now on may have been decided while label streams were cut off.
    pub fn heed(&mut self, outages: &[Outage]) {
        let is_ours = |outage: &&Outage| self.spec.labels.iter().any(|label| label.stream == outage.stream);
        self.outages = outages.iter().filter(is_ours).copied().collect();
    }

    /// Rows for side outputs since this was last asked.
    pub fn take_side(&mut self) -> Vec<SideRows> {
        let mut side = std::mem::take(&mut self.side);
        side.extend(self.labels.iter_mut().flat_map(Labels::take_told));
        side
    }

    pub fn account(&self) -> AnchorAccount {
        self.account
    }

    pub fn label_accounts(&self) -> Vec<LabelAccount> {
        self.labels.iter().map(|labels| labels.account).collect()
    }

    /// Of the labels that attached since this state was made.
    pub fn label_delays(&self) -> Vec<DelaySketch> {
        self.labels.iter().map(|labels| labels.delays.clone()).collect()
    }

    /// Impressions without a row.
    pub fn pending_rows(&self) -> usize {
        match &self.schedule {
            None => self.buckets.values().map(Bucket::live_rows).sum(),
            Some(schedule) => {
                schedule.unemitted().filter(|row| !self.buckets[&row.bucket()].is_dead(row.row())).count()
            }
        }
    }

    pub(super) fn bucket_of(&self, ts: EventTime) -> u32 {
        // `min_time` is at least 0, so the number is not negative; 32 bits of seconds last until the year 2106, and the
        // config check keeps buckets at a second or more.
        ts.div_euclid(self.spec.bucket_ms) as u32
    }

    pub(super) fn bucket_end(&self, bucket: u32) -> EventTime {
        (bucket as i64 + 1).saturating_mul(self.spec.bucket_ms)
    }

    /// Takes in impressions. Late ones and copies are counted and dropped.
    pub fn insert_impressions(&mut self, input: LaneRows<'_>) {
        let batch = input.batch;
        let (ids, keys) = (&batch.keys[self.keys.id], &batch.keys[self.keys.key]);
        let routes = &batch.keys[self.keys.route];
        let mut accepted = RowsByBucket::default();
        let spec = self.spec.clone();
        let mut told = Told::new(&spec.side);
        for &row in input.rows {
            let at = row as usize;
            let ts = batch.event_time[at];
            let bucket_number = self.bucket_of(ts);
            let closed = self.closed_through.is_some_and(|through| bucket_number <= through);
            if input.late_at(row).is_some() || closed || self.is_overtaken(bucket_number) {
                self.account.late += 1;
                told.add(SideKind::Late, row, SideReason::Late);
                continue;
            }
            let (id, key) = (ids[at], keys[at]);
            let AnchorAccount { duplicate, conflict, .. } = self.account;
            let admitted = self.admit(id, ts, batch.content[at]);
            if self.account.duplicate > duplicate {
                told.add(SideKind::Duplicates, row, SideReason::Duplicate);
            }
            if self.account.conflict > conflict {
                let reason = if admitted { SideReason::ConflictWon } else { SideReason::ConflictLost };
                told.add(SideKind::Duplicates, row, reason);
            }
            if !admitted {
                continue;
            }
            let reference = self.push(bucket_number, ts, id, key, batch.content[at], home_of(routes[at]));
            self.index_row(reference, id, key);
            accepted.push(bucket_number, row);
        }
        told.finish(None, batch, &mut self.side);
        for (bucket_number, rows) in accepted.entries {
            self.add_part(bucket_number, batch, &rows);
        }
    }

    /// Whether this very record is pending.
    pub(super) fn holds(&self, id: Fingerprint, ts: EventTime, content: u64) -> bool {
        let row = self
            .ids
            .get(id, |row| self.buckets.get(&row.bucket()).is_some_and(|bucket| bucket.id[row.row() as usize] == id));
        row.is_some_and(|row| {
            let (bucket, at) = (&self.buckets[&row.bucket()], row.row() as usize);
            (bucket.event_time[at], bucket.content[at]) == (ts, content)
        })
    }

    /// Decides by id whether an impression is new; of two with one id the smaller (time, content hash) stays.
    pub(super) fn admit(&mut self, id: Fingerprint, ts: EventTime, content: u64) -> bool {
        let (buckets, closed) = (&self.buckets, &self.closed);
        let found = self.ids.get(id, |row| {
            let at = row.row() as usize;
            match buckets.get(&row.bucket()) {
                Some(bucket) => bucket.id[at] == id,
                None => closed.get(&row.bucket()).is_some_and(|bucket| bucket.id[at] == id),
            }
        });
        let Some(found) = found else {
            self.account.applied += self.counting as u64;
            self.account.pending += self.counting as u64;
            return true;
        };
        let Some(bucket) = self.buckets.get(&found.bucket()) else {
            // Its sample has left; a copy that is not late would still be pending, so this one has another time.
            self.account.conflict += self.counting as u64;
            return false;
        };
        let at = found.row() as usize;
        let old = (bucket.event_time[at], bucket.content[at]);
        if old == (ts, content) {
            self.account.duplicate += self.counting as u64;
            return false;
        }
        self.account.conflict += self.counting as u64;
        if old < (ts, content) {
            return false;
        }
        self.kill(found, id);
        true
    }

    /// Takes a row that lost a conflict out of the indices; its columns leave with its bucket.
    fn kill(&mut self, row: RowRef, id: Fingerprint) {
        self.ids.remove(id, row);
        self.unlink_key(row);
        let bucket = self.buckets.get_mut(&row.bucket()).expect("the row is pending");
        let at = bucket.dead.partition_point(|dead| *dead < row.row());
        bucket.dead.insert(at, row.row());
    }

    pub(super) fn push(
        &mut self,
        number: u32,
        ts: EventTime,
        id: Fingerprint,
        key: Fingerprint,
        content: u64,
        home: u32,
    ) -> RowRef {
        let bucket = self.buckets.entry(number).or_default();
        let row = RowRef::new(number, bucket.rows() as u32);
        bucket.event_time.push(ts);
        bucket.id.push(id);
        bucket.content.push(content);
        bucket.home.push(home);
        if self.by_key.is_some() {
            bucket.key.push(key);
            bucket.same_key.push(RowRef::NONE);
        }
        row
    }

    pub(super) fn index_row(&mut self, row: RowRef, id: Fingerprint, key: Fingerprint) {
        self.ids.insert(id, row);
        self.schedule_row(row);
        let older = self.newest_of_key(key);
        let Some(by_key) = &mut self.by_key else { return };
        match older {
            None => by_key.insert(key, row),
            Some(older) => {
                by_key.replace(key, older, row);
                let bucket = self.buckets.get_mut(&row.bucket()).expect("the row was just pushed");
                bucket.same_key[row.row() as usize] = older;
            }
        }
    }

    fn newest_of_key(&self, key: Fingerprint) -> Option<RowRef> {
        let buckets = &self.buckets;
        self.by_key
            .as_ref()?
            .get(key, |row| buckets.get(&row.bucket()).is_some_and(|bucket| bucket.key[row.row() as usize] == key))
    }

    /// All pending rows of a key when several may share it, newest arrival first; empty when the key is the id.
    pub(super) fn rows_of_key(&self, key: Fingerprint) -> Vec<RowRef> {
        let mut rows = Vec::new();
        let mut at = self.newest_of_key(key);
        while let Some(row) = at {
            rows.push(row);
            let older = self.buckets[&row.bucket()].same_key[row.row() as usize];
            at = (!older.is_none()).then_some(older);
        }
        rows
    }

    /// All pending rows of a key.
    pub(super) fn pending_of_key(&self, key: Fingerprint) -> Vec<RowRef> {
        if self.by_key.is_some() {
            return self.rows_of_key(key);
        }
        let is =
            |row: RowRef| self.buckets.get(&row.bucket()).is_some_and(|bucket| bucket.id[row.row() as usize] == key);
        self.ids.get(key, is).into_iter().collect()
    }

    /// Takes a pending row out of its key's list.
    pub(super) fn unlink_key(&mut self, row: RowRef) {
        if self.by_key.is_none() {
            return;
        }
        let key = self.buckets[&row.bucket()].key(row.row());
        let rows = self.rows_of_key(key);
        let kept: Vec<RowRef> = rows.iter().copied().filter(|other| *other != row).collect();
        let by_key = self.by_key.as_mut().expect("checked above");
        match (rows.first(), kept.first()) {
            (Some(&head), None) => by_key.remove(key, head),
            (Some(&head), Some(&first)) => {
                by_key.replace(key, head, first);
                for (index, other) in kept.iter().enumerate() {
                    let next = kept.get(index + 1).copied().unwrap_or(RowRef::NONE);
                    let bucket = self.buckets.get_mut(&other.bucket()).expect("pending rows lie in open buckets");
                    bucket.same_key[other.row() as usize] = next;
                }
            }
            (None, _) => {}
        }
    }

    fn add_part(&mut self, number: u32, batch: &DecodedBatch, rows: &[u32]) {
        let payload = if rows.len() == batch.num_rows() {
            batch.rows.clone()
        } else {
            take_record_batch(&batch.rows, &UInt32Array::from(rows.to_vec())).expect("row numbers are in range")
        };
        let groups = self.keys.groups.iter();
        let entities = groups.map(|group| rows.iter().map(|&row| batch.keys[group.entity][row as usize]).collect());
        let times = rows.iter().map(|&row| batch.event_time[row as usize]);
        let payload_bytes = memory_of(&payload);
        self.fresh_bytes += payload_bytes;
        let bucket = self.buckets.get_mut(&number).expect("rows were pushed before their columns");
        let start = (bucket.rows() - rows.len()) as u32;
        bucket.parts.push(Part {
            start,
            rows: rows.len() as u32,
            payload_bytes,
            payload: Payload::Memory(payload),
            entities: entities.collect(),
            features: self.keys.groups.is_empty().then(|| Features::Memory(Vec::new())),
            features_bytes: 0,
            knows: Vec::new(),
            newest: times.clone().max().expect("a part has rows"),
            oldest: times.min().expect("a part has rows"),
            segment: None,
            features_stored: self.keys.groups.is_empty(),
        });
    }

    /// Takes in labels of one label stream.
    pub fn insert_labels(&mut self, label: usize, input: LaneRows<'_>) {
        let batch = input.batch;
        let keys = self.label_keys[label];
        let reach = self.spec.ahead_ms(label).saturating_add(self.spec.open_ms());
        let bucket_ms = self.spec.bucket_ms;
        let labels = &mut self.labels[label];
        let keep = labels.spec.keep(&batch.rows);
        let mut pushed = RowsByBucket::default();
        let mut told = Told::new(&self.spec.side);
        for &row in input.rows {
            let at = row as usize;
            if keep.as_ref().is_some_and(|keep| !keep.value(at)) {
                labels.account.filtered += 1;
                continue;
            }
            let ts = batch.event_time[at];
            let came_at = input.late_at(row).unwrap_or(ts).max(input.watermark);
            if came_at > ts.saturating_add(reach) {
                labels.account.late += 1;
                told.add(SideKind::Late, row, SideReason::Late);
                told.add(SideKind::Unmatched, row, SideReason::Late);
                continue;
            }
            let new = NewLabel {
                event_time: ts,
                id: batch.keys[keys.id][at],
                key: batch.keys[keys.key][at],
                content: batch.content[at],
                home: home_of(batch.keys[keys.route][at]),
                came_at: came_at.max(ts),
            };
            match labels.admit(&new) {
                Admission::New => {
                    labels.account.applied += 1;
                    labels.account.waiting += 1;
                }
                Admission::ConflictWon => {
                    labels.account.conflict += 1;
                    told.add(SideKind::Duplicates, row, SideReason::ConflictWon);
                }
                Admission::ConflictLost => {
                    labels.account.conflict += 1;
                    told.add(SideKind::Duplicates, row, SideReason::ConflictLost);
                    continue;
                }
                Admission::Sooner => {
                    labels.account.duplicate += 1;
                    told.add(SideKind::Duplicates, row, SideReason::Duplicate);
                }
                Admission::Duplicate => {
                    labels.account.duplicate += 1;
                    told.add(SideKind::Duplicates, row, SideReason::Duplicate);
                    continue;
                }
            }
            let number = ts.div_euclid(bucket_ms) as u32;
            let came_at = new.came_at;
            let at_row = labels.push(number, new);
            if let Some(schedule) = &mut self.schedule {
                schedule.add_label(came_at, label, at_row);
            }
            pushed.push(number, row);
        }
        labels.add_columns(batch, &pushed.entries);
        told.finish(Some(label), batch, &mut self.side);
    }

    /// Closes every bucket that `watermark` has passed together with the time an impression is open, oldest first, and forgets what
    /// nothing can refer to any more. All features must have been evaluated up to `watermark`.
    pub fn close(&mut self, watermark: Watermark, reason: CloseReason, out: &mut Vec<ClosedRows>) {
        let watermark = self.emission_watermark(watermark);
        self.emit(watermark, out);
        let open = self.spec.open_ms();
        while let Some((&number, _)) = self.buckets.first_key_value() {
            if !watermark.passed(self.bucket_end(number).saturating_sub(1).saturating_add(open)) {
                break;
            }
            self.close_bucket(number, reason, out);
        }
        // A function of time alone, so that lanes without rows agree with the others. The end of the inputs is no promise:
        // then only what has closed counts.
        let through = watermark.0.saturating_sub(open).div_euclid(self.spec.bucket_ms) - 1;
        if through >= 0 && watermark < Watermark::MAX {
            self.closed_through = self.closed_through.max(Some(through.min(u32::MAX as i64) as u32));
        }
        self.forget(watermark);
        invariant!(
            F1,
            self.account.balances() && self.labels.iter().all(|labels| labels.account.balances()),
            "accounts of a join do not add up: {:?}",
            self.account
        );
    }

    fn forget(&mut self, watermark: Watermark) {
        for label in 0..self.labels.len() {
            let until = self.spec.labels_needed_from(label, watermark);
            let counting = self.counting;
            self.labels[label].expire(label, until, counting);
        }
        let remembered = self.spec.open_ms().saturating_add(self.spec.dedup_horizon_ms);
        while let Some((&number, _)) = self.closed.first_key_value() {
            if !watermark.passed(self.bucket_end(number).saturating_add(remembered)) {
                break;
            }
            let bucket = self.closed.remove(&number).expect("it is the first one");
            for (row, id) in bucket.id.into_iter().enumerate() {
                self.ids.remove(id, RowRef::new(number, row as u32));
            }
        }
    }

    pub(super) fn remember_closed(&mut self, number: u32, bucket: ClosedBucket) {
        self.closed.insert(number, bucket);
    }
}
