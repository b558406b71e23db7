//! Label: one label stream's rows, held until no impression can claim them any more.
//!
//!   id  -> row                 drops copies
//!   key -> row -> row -> …     the chain of one key's labels, newest first; closing walks it once per impression
//!
//! A label is resolved when its impression closes, not when it arrives: so the answer does not depend on which of the
//! two came first, an early label needs no place of its own, and a label never moves.

use crate::event::{DecodedBatch, DelaySketch, EventTime, Fingerprint, LabelAccount, SideKind, SideReason, SideRows};
use crate::join::index::{Index, RowRef};
use crate::join::side::{expired, kept_columns, with_places};
use crate::join::{LabelSpec, RestoreError, Take};
use arrow::array::{ArrayRef, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Field, SchemaRef};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What became of a label so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum LabelState {
    Waiting,
    /// Waiting still, but an impression of its key has closed without it.
    PassedOver,
    Attached,
    /// Lost to a conflicting record with the same id.
    Replaced,
}

impl LabelState {
    /// The state of a number in a block.
    pub fn of(number: u8) -> Option<LabelState> {
        use LabelState::*;
        [Waiting, PassedOver, Attached, Replaced].into_iter().find(|state| *state as u8 == number)
    }
}

/// What became of a label, for the next cut.
pub struct Decision {
    pub row: RowRef,
    pub id: Fingerprint,
    pub content: u64,
    pub home: u32,
    pub state: LabelState,
    /// Bucket of the impression that decided: once it is in a file, this is the only trace.
    pub by: u32,
}

#[derive(Default)]
pub struct LabelBucket {
    pub event_time: Vec<EventTime>,
    pub id: Vec<Fingerprint>,
    pub key: Vec<Fingerprint>,
    pub content: Vec<u64>,
    pub home: Vec<u32>,
    /// The larger of the label's own time and the watermark when it came: an impression that this has passed is closed
    /// to it, whenever the bucket physically closes.
    pub came_at: Vec<EventTime>,
    pub next: Vec<RowRef>,
    pub state: Vec<LabelState>,
    pub parts: Vec<LabelPart>,
    /// Rows that a cut has written.
    pub stored_rows: usize,
}

/// The selected columns of labels that came together.
pub struct LabelPart {
    pub start: u32,
    pub columns: RecordBatch,
}

impl LabelBucket {
    pub fn rows(&self) -> usize {
        self.event_time.len()
    }

    pub fn part_of(&self, row: u32) -> usize {
        self.parts.partition_point(|part| part.start <= row) - 1
    }

    fn memory_bytes(&self) -> usize {
        self.event_time.capacity() * 8
            + self.id.capacity() * 16
            + self.key.capacity() * 16
            + self.content.capacity() * 8
            + self.home.capacity() * 4
            + self.came_at.capacity() * 8
            + self.next.capacity() * 8
            + self.state.capacity()
            + self.parts.iter().map(|part| part.columns.get_array_memory_size()).sum::<usize>()
    }
}

/// One accepted label on its way into the store.
pub struct NewLabel {
    pub event_time: EventTime,
    pub id: Fingerprint,
    pub key: Fingerprint,
    pub content: u64,
    pub home: u32,
    pub came_at: EventTime,
}

pub struct Labels {
    pub spec: LabelSpec,
    /// Columns of the stream that are held, those that the sample takes first, and their schema.
    kept: Vec<usize>,
    pub schema: SchemaRef,
    /// Which are told when they leave unmatched; `None` where nobody asked.
    told: Option<Vec<SideRows>>,
    /// As which kinds.
    tell: Vec<SideKind>,
    pub buckets: BTreeMap<u32, LabelBucket>,
    pub ids: Index,
    /// The newest label of each key.
    chains: Index,
    /// Buckets that left memory before a cut wrote them.
    pub expired_unstored: Vec<(u32, LabelBucket)>,
    /// Since the last cut.
    pub decisions: Vec<Decision>,
    pub account: LabelAccount,
    /// Of the labels that attached, as long as they are counted.
    pub delays: DelaySketch,
}

/// What a new label met.
pub enum Admission {
    New,
    /// An exact copy is there.
    Duplicate,
    /// An exact copy is there, but it came later in event time, when fewer impressions were open: the new one stands in.
    Sooner,
    /// A record with the same id and other content is there and wins by the smaller (time, content hash).
    ConflictLost,
    /// The same, but the new one wins; the old one is marked.
    ConflictWon,
}

impl Labels {
    pub fn new(mut spec: LabelSpec, stream: &SchemaRef, tell: &[SideKind]) -> Self {
        spec.select = match spec.take {
            Take::First | Take::Last | Take::All(_) => spec.select,
            Take::Sum(column) | Take::Min(column) | Take::Max(column) => vec![column],
            // A batch without columns has no length: the first one stands for the row.
            Take::Any | Take::Count => vec![0],
        };
        let (kept, schema) = kept_columns(&spec, stream, !tell.is_empty());
        Labels {
            spec,
            kept,
            schema,
            told: (!tell.is_empty()).then(Vec::new),
            tell: tell.to_vec(),
            buckets: BTreeMap::new(),
            ids: Index::default(),
            chains: Index::default(),
            expired_unstored: Vec::new(),
            decisions: Vec::new(),
            account: LabelAccount::default(),
            delays: DelaySketch::default(),
        }
    }

    pub fn bucket(&self, row: RowRef) -> &LabelBucket {
        &self.buckets[&row.bucket()]
    }

    fn bucket_mut(&mut self, row: RowRef) -> &mut LabelBucket {
        self.buckets.get_mut(&row.bucket()).expect("a label's bucket lives as long as anything refers to it")
    }

    pub fn next(&self, row: RowRef) -> RowRef {
        self.bucket(row).next[row.row() as usize]
    }

    pub fn set_next(&mut self, row: RowRef, next: RowRef) {
        self.bucket_mut(row).next[row.row() as usize] = next;
    }

    pub fn time(&self, row: RowRef) -> EventTime {
        self.bucket(row).event_time[row.row() as usize]
    }

    pub fn id(&self, row: RowRef) -> Fingerprint {
        self.bucket(row).id[row.row() as usize]
    }

    pub fn key(&self, row: RowRef) -> Fingerprint {
        self.bucket(row).key[row.row() as usize]
    }

    pub fn state(&self, row: RowRef) -> LabelState {
        self.bucket(row).state[row.row() as usize]
    }

    pub fn set_state(&mut self, row: RowRef, state: LabelState) {
        self.bucket_mut(row).state[row.row() as usize] = state;
    }

    /// As [`Labels::set_state`], remembered for the next cut.
    pub fn decide(&mut self, row: RowRef, state: LabelState, by: u32) {
        self.set_state(row, state);
        let (bucket, at) = (self.bucket(row), row.row() as usize);
        let (id, content, home) = (bucket.id[at], bucket.content[at], bucket.home[at]);
        self.decisions.push(Decision { row, id, content, home, state, by });
    }

    /// Takes a decision back from the state; a label that is not here any more needs none.
    pub fn restore_decision(&mut self, id: Fingerprint, content: u64, state: LabelState) {
        let Some(row) = self.copy_of(id, content) else { return };
        self.set_state(row, state);
        if state == LabelState::Replaced {
            self.ids.remove(id, row);
        }
    }

    /// Remembers for the next cut what became of every label. Which of several copies stands is found out again.
    pub fn decide_anew(&mut self) {
        for (number, bucket) in &self.buckets {
            for (row, state) in bucket.state.iter().enumerate() {
                let (id, content, home) = (bucket.id[row], bucket.content[row], bucket.home[row]);
                let decided = match state {
                    LabelState::Waiting => false,
                    LabelState::PassedOver | LabelState::Attached => true,
                    LabelState::Replaced => self.copy_of(id, content).is_none(),
                };
                if decided {
                    let row = RowRef::new(*number, row as u32);
                    self.decisions.push(Decision { row, id, content, home, state: *state, by: 0 });
                }
            }
        }
    }

    /// Decides by id whether a label is new. The loser of a conflict leaves; if that is the old one it is marked here.
    pub fn admit(&mut self, label: &NewLabel) -> Admission {
        let buckets = &self.buckets;
        let found = self.ids.get(label.id, |row| {
            buckets.get(&row.bucket()).is_some_and(|bucket| bucket.id[row.row() as usize] == label.id)
        });
        let Some(found) = found else { return Admission::New };
        let old = self.bucket(found);
        let at = found.row() as usize;
        let (old_order, new_order) = ((old.event_time[at], old.content[at]), (label.event_time, label.content));
        if old_order == new_order {
            return if self.stands_in(found, label) { Admission::Sooner } else { Admission::Duplicate };
        }
        // An attached label has left with its impression: nothing can replace it.
        if old_order < new_order || old.state[at] == LabelState::Attached {
            return Admission::ConflictLost;
        }
        // Its key may differ: it stays in its chain, marked.
        self.decide(found, LabelState::Replaced, 0);
        self.ids.remove(label.id, found);
        Admission::ConflictWon
    }

    /// Whether an exact copy takes the place of the one that is there.
    fn stands_in(&mut self, found: RowRef, label: &NewLabel) -> bool {
        let (old, at) = (self.bucket(found), found.row() as usize);
        let decided = !matches!(old.state[at], LabelState::Waiting | LabelState::PassedOver);
        if decided || old.came_at[at] <= label.came_at {
            return false;
        }
        self.set_state(found, LabelState::Replaced);
        self.ids.remove(label.id, found);
        true
    }

    /// Whether a label that a cut has written is to be taken back: all but the copies of what is here. Conflicts are not
    /// decided again, for the other one may have been forgotten when this one came, or have been another lane's: who lost
    /// one is on record.
    pub fn admit_again(&mut self, label: &NewLabel) -> bool {
        match self.copy_of(label.id, label.content) {
            None => true,
            Some(found) => self.stands_in(found, label),
        }
    }

    /// The label with this id and content, among those that were not replaced.
    fn copy_of(&self, id: Fingerprint, content: u64) -> Option<RowRef> {
        let buckets = &self.buckets;
        self.ids.get(id, |row| {
            let at = row.row() as usize;
            buckets.get(&row.bucket()).is_some_and(|bucket| bucket.id[at] == id && bucket.content[at] == content)
        })
    }

    /// The label with this id, unless it was replaced.
    pub fn of_id(&self, id: Fingerprint) -> Option<RowRef> {
        let buckets = &self.buckets;
        self.ids.get(id, |row| buckets.get(&row.bucket()).is_some_and(|bucket| bucket.id[row.row() as usize] == id))
    }

    /// Adds a row to its bucket, the id index and the chain of its key; the caller adds its columns.
    pub fn push(&mut self, bucket_number: u32, label: NewLabel) -> RowRef {
        let head = self.chain(label.key);
        let bucket = self.buckets.entry(bucket_number).or_default();
        let row = RowRef::new(bucket_number, bucket.rows() as u32);
        bucket.event_time.push(label.event_time);
        bucket.id.push(label.id);
        bucket.key.push(label.key);
        bucket.content.push(label.content);
        bucket.home.push(label.home);
        bucket.came_at.push(label.came_at);
        bucket.next.push(head);
        bucket.state.push(LabelState::Waiting);
        self.ids.insert(label.id, row);
        if head.is_none() {
            self.chains.insert(label.key, row);
        } else {
            self.chains.replace(label.key, head, row);
        }
        row
    }

    /// The newest label of a key, or `NONE`.
    pub fn chain(&self, key: Fingerprint) -> RowRef {
        let buckets = &self.buckets;
        self.chains
            .get(key, |row| buckets.get(&row.bucket()).is_some_and(|bucket| bucket.key[row.row() as usize] == key))
            .unwrap_or(RowRef::NONE)
    }

    /// Labels that are held and not decided.
    pub fn waiting(&self) -> usize {
        let undecided = |state: &&LabelState| matches!(state, LabelState::Waiting | LabelState::PassedOver);
        self.buckets.values().map(|bucket| bucket.state.iter().filter(undecided).count()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.len() == 0
    }

    /// Adds the selected columns of rows that were just pushed, in push order per bucket.
    pub fn add_columns(&mut self, batch: &DecodedBatch, rows_by_bucket: &[(u32, Vec<u32>)]) {
        let mut selected = batch.rows.project(&self.kept).expect("the plan selects existing columns");
        if self.told.is_some() {
            let columns = with_places(batch, &selected).columns().to_vec();
            selected = RecordBatch::try_new(self.schema.clone(), columns).expect("columns follow the schema");
        }
        for (bucket_number, rows) in rows_by_bucket {
            let columns = if rows.len() == batch.num_rows() {
                selected.clone()
            } else {
                take_record_batch(&selected, &UInt32Array::from(rows.clone())).expect("row numbers are in range")
            };
            self.add_part(*bucket_number, columns);
        }
    }

    pub fn add_part(&mut self, bucket_number: u32, columns: RecordBatch) {
        let bucket = self.buckets.get_mut(&bucket_number).expect("rows were pushed before their columns");
        let start = (bucket.rows() - columns.num_rows()) as u32;
        bucket.parts.push(LabelPart { start, columns });
    }

    /// The columns of a block as they are held now: whether labels are told when they leave may have changed since it was
    /// written, and with it what is held beside the columns that the sample takes.
    pub fn held_columns(&self, block: &RecordBatch) -> Result<RecordBatch, RestoreError> {
        let selected = self.spec.select.len();
        let column = |(at, field): (usize, &Arc<Field>)| match block.column_by_name(field.name()) {
            Some(found) if found.data_type() == field.data_type() => Ok(found.clone()),
            None if at >= selected => Ok(new_null_array(field.data_type(), block.num_rows())),
            found => {
                let found = found.map(|column| column.data_type());
                let reason = format!("column {} of type {found:?}, not of {}", field.name(), field.data_type());
                Err(RestoreError { what: "labels", reason })
            }
        };
        let columns = self.schema.fields().iter().enumerate().map(column).collect::<Result<Vec<ArrayRef>, _>>()?;
        RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|error| RestoreError { what: "labels", reason: error.to_string() })
    }

    /// Forgets the labels of all buckets below `until`: no impression that is open or may still come can claim them.
    pub fn expire(&mut self, label: usize, until: u32, counting: bool) {
        while let Some((&number, _)) = self.buckets.first_key_value().filter(|(number, _)| **number < until) {
            self.unlink(number);
            let bucket = self.buckets.remove(&number).expect("it is the first one");
            let mut gone = Vec::new();
            for (row, state) in bucket.state.iter().enumerate() {
                self.ids.remove(bucket.id[row], RowRef::new(number, row as u32));
                match state {
                    _ if !counting => {}
                    LabelState::Waiting => {
                        self.account.waiting -= 1;
                        self.account.expired_unmatched += 1;
                        gone.push((row as u32, SideReason::ExpiredUnmatched));
                    }
                    LabelState::PassedOver => {
                        self.account.waiting -= 1;
                        self.account.out_of_window += 1;
                        gone.push((row as u32, SideReason::OutOfWindow));
                    }
                    LabelState::Attached | LabelState::Replaced => {}
                }
            }
            if let Some(told) = &mut self.told {
                for kind in &self.tell {
                    told.extend(expired(*kind, label, &self.schema, &bucket, &gone));
                }
            }
            if bucket.stored_rows < bucket.rows() {
                self.expired_unstored.push((number, bucket));
            }
        }
    }

    /// Labels that left unmatched since this was last asked.
    pub fn take_told(&mut self) -> Vec<SideRows> {
        self.told.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Takes the rows of a bucket out of their keys' chains.
    fn unlink(&mut self, gone: u32) {
        let mut keys = self.buckets[&gone].key.clone();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            let head = self.chain(key);
            let mut kept: Vec<RowRef> = Vec::new();
            let mut at = head;
            while !at.is_none() {
                if at.bucket() != gone {
                    kept.push(at);
                }
                at = self.next(at);
            }
            match kept.first() {
                None => self.chains.remove(key, head),
                Some(&first) => {
                    self.chains.replace(key, head, first);
                    for (index, &row) in kept.iter().enumerate() {
                        self.set_next(row, kept.get(index + 1).copied().unwrap_or(RowRef::NONE));
                    }
                }
            }
        }
    }

    pub fn memory_bytes(&self) -> usize {
        self.buckets.values().map(LabelBucket::memory_bytes).sum::<usize>()
            + self.ids.memory_bytes()
            + self.chains.memory_bytes()
    }
}
