//! Join: pairs impressions and labels by sorting, from the definition of a match alone: no buckets, no closing, no state.
//!
//!   impressions sorted by (key, time) ┐
//!   labels sorted by key ─────────────┴─ each label to the best of the impressions it matches ─> columns per impression
//!
//! Shares with a run: fingerprints, content hashes, and the exact float sum of `event`.

use super::input::{Row, StreamRows};
use crate::config::Plan;
use crate::event::{AnchorAccount, EventTime, ExactSum, Fingerprint, LabelAccount, list_of};
use crate::join::{JoinSpec, LabelSpec, Take};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, ListArray, new_null_array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::interleave;
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int32Type, Int64Type, SchemaRef, TimeUnit, TimestampMillisecondType,
};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// An impression that counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Anchor {
    pub row: Row,
    pub id: Fingerprint,
    key: Fingerprint,
}

/// The accepted impressions, each id once, and what became of the others.
pub(super) struct Anchors {
    pub all: Vec<Anchor>,
    pub account: AnchorAccount,
    /// Ids that came with different contents: which one a run took may depend on when they came.
    pub conflicts: BTreeSet<Fingerprint>,
}

/// The key sets of a stream that say what a row is and what it refers to.
#[derive(Clone, Copy)]
pub(super) struct KeySets {
    pub id: usize,
    pub key: usize,
}

/// Impressions before `from` are late, as for a sample that begins there.
pub(super) fn anchors(spec: &JoinSpec, stream: &StreamRows, sets: KeySets, from: EventTime) -> Anchors {
    let mut account = AnchorAccount::default();
    let mut rows: Vec<Anchor> = Vec::new();
    for row in &stream.rows {
        if row.is_late() || row.ts < from {
            account.late += 1;
        } else {
            rows.push(Anchor { row: *row, id: stream.key(sets.id, row), key: stream.key(sets.key, row) });
        }
    }
    rows.sort_by_key(|anchor| (anchor.id, anchor.row.ts, anchor.row.content));
    let remembered = spec.open_ms() + spec.dedup_horizon_ms + 2 * spec.bucket_ms;
    let (mut all, mut conflicts): (Vec<Anchor>, _) = (Vec::new(), BTreeSet::new());
    for anchor in rows {
        match all.last().filter(|kept| kept.id == anchor.id) {
            Some(kept) if (kept.row.ts, kept.row.content) == (anchor.row.ts, anchor.row.content) => {
                account.duplicate += 1;
            }
            Some(kept) => {
                conflicts.insert(anchor.id);
                if anchor.row.ts <= kept.row.ts + remembered {
                    account.conflict += 1;
                } else {
                    all.push(anchor);
                }
            }
            None => all.push(anchor),
        }
    }
    account.applied = all.len() as u64;
    all.sort_by_key(|anchor| (anchor.key, anchor.row.ts, anchor.id));
    Anchors { all, account, conflicts }
}

/// A label of an impression.
#[derive(Clone, Copy)]
struct Pair {
    anchor: u32,
    id: Fingerprint,
    row: Row,
    /// The instant at which the impression's rows know it.
    known: EventTime,
}

/// The labels of one join.
pub(super) struct Joined<'a> {
    spec: &'a LabelSpec,
    stream: &'a StreamRows,
    schema: &'a SchemaRef,
    /// By impression, then by the order that `first` and `last` go by.
    pairs: Vec<Pair>,
    pub account: LabelAccount,
    pub conflicts: u64,
}

/// `others` are the joins above this one, on one of which it may hang.
pub(super) fn join<'a>(
    join: &JoinSpec,
    spec: &'a LabelSpec,
    (stream, schema): (&'a StreamRows, &'a SchemaRef),
    sets: KeySets,
    anchors: &Anchors,
    others: &[Joined<'_>],
) -> Joined<'a> {
    let mut account = LabelAccount::default();
    let (labels, conflicts) = counted_once(join, (spec, others.len()), stream, sets, &mut account);
    let end = |anchor: u32| anchors.all[anchor as usize].row.ts.saturating_add(join.longest_ms());
    // When a label that hangs on what was at `base` is known of an impression.
    let known = |row: &Row, base: EventTime, anchor: u32| {
        let delay = row.ts - base;
        let corrects_at = row.came_at.saturating_add(spec.before_ms).max(end(anchor).saturating_add(1));
        if delay < -spec.before_ms || delay > spec.within_ms.saturating_add(join.correct_ms) {
            None
        } else if delay <= spec.within_ms && row.came_at <= end(anchor) {
            Some(row.came_at)
        } else {
            Some(corrects_at).filter(|known| *known <= end(anchor).saturating_add(join.correct_ms))
        }
    };
    let of_impression = |key: Fingerprint, row: &Row| {
        let reach = spec.within_ms.saturating_add(join.correct_ms);
        let oldest = (key, row.ts.saturating_sub(reach));
        let newest = (key, row.ts.saturating_add(spec.before_ms));
        let from = anchors.all.partition_point(|anchor| (anchor.key, anchor.row.ts) < oldest);
        let until = anchors.all.partition_point(|anchor| (anchor.key, anchor.row.ts) <= newest);
        let claims = (from as u32..until as u32).filter_map(|at| {
            let anchor = &anchors.all[at as usize];
            let since = known(row, anchor.row.ts, at)?;
            Some(((since > end(at), anchor.row.ts > row.ts, (row.ts - anchor.row.ts).abs(), anchor.id), at, since))
        });
        claims.min_by_key(|(rank, ..)| *rank).map(|(_, at, since)| (at, since))
    };
    let hung_on: Option<BTreeMap<Fingerprint, &Pair>> =
        spec.on.map(|on| others[on].pairs.iter().map(|pair| (pair.id, pair)).collect());
    let mut pairs: Vec<Pair> = Vec::new();
    for (id, row) in labels {
        let key = stream.key(sets.key, &row);
        let found = match &hung_on {
            None => of_impression(key, &row),
            Some(pairs) => pairs.get(&key).and_then(|other| {
                let since = known(&row, other.row.ts, other.anchor)?;
                Some((other.anchor, since.max(other.known)))
            }),
        };
        let Some((anchor, known)) = found else { continue };
        if known > end(anchor) {
            account.corrected += 1;
        } else {
            account.attached += 1;
        }
        pairs.push(Pair { anchor, id, row, known });
    }
    pairs.sort_by_key(|pair| (pair.anchor, pair.row.ts, pair.id, pair.row.content));
    Joined { spec, stream, schema, pairs, account, conflicts }
}

/// The labels by their ids, each once, and how many lost a conflict.
fn counted_once(
    join: &JoinSpec,
    (spec, number): (&LabelSpec, usize),
    stream: &StreamRows,
    sets: KeySets,
    account: &mut LabelAccount,
) -> (Vec<(Fingerprint, Row)>, u64) {
    let masks: Vec<Option<BooleanArray>> = stream.batches.iter().map(|batch| spec.keep(&batch.rows)).collect();
    let reach = join.ahead_ms(number).saturating_add(join.open_ms());
    let mut labels: Vec<(Fingerprint, Row)> = Vec::new();
    for row in &stream.rows {
        if masks[row.batch as usize].as_ref().is_some_and(|mask| !mask.value(row.row as usize)) {
            account.filtered += 1;
        } else if row.came_at > row.ts.saturating_add(reach) {
            account.late += 1;
        } else {
            labels.push((stream.key(sets.id, row), *row));
        }
    }
    labels.sort_by_key(|(id, row)| (*id, row.ts, row.content, row.came_at));
    let mut conflicts = 0;
    labels.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same && (next.1.ts, next.1.content) == (kept.1.ts, kept.1.content) {
            account.duplicate += 1;
        } else if same {
            account.conflict += 1;
            conflicts += 1;
        }
        same
    });
    account.applied = labels.len() as u64;
    (labels, conflicts)
}

impl Joined<'_> {
    fn of(&self, anchor: u32) -> &[Pair] {
        let from = self.pairs.partition_point(|pair| pair.anchor < anchor);
        let until = self.pairs.partition_point(|pair| pair.anchor <= anchor);
        &self.pairs[from..until]
    }

    /// The label stream.
    pub fn stream_name<'b>(&self, plan: &'b Plan) -> &'b str {
        &plan.streams[self.spec.stream as usize].name
    }

    /// When the labels of an impression are known.
    pub fn instants(&self, anchor: u32) -> impl Iterator<Item = EventTime> {
        self.of(anchor).iter().map(|pair| pair.known)
    }

    /// The newest of an impression's labels that are known by an instant.
    pub fn newest(&self, anchor: u32, instant: EventTime) -> Option<EventTime> {
        self.known(anchor, instant).iter().map(|pair| pair.row.ts).max()
    }

    /// An impression's labels that are known by an instant.
    fn known(&self, anchor: u32, instant: EventTime) -> Cow<'_, [Pair]> {
        let all = self.of(anchor);
        let known = |pair: &&Pair| pair.known <= instant;
        if all.iter().all(|pair| known(&pair)) { all.into() } else { all.iter().filter(known).copied().collect() }
    }

    /// The join's columns for some impressions, by their numbers, as known at an instant each.
    pub fn columns(&self, rows: &[(u32, EventTime)]) -> Vec<ArrayRef> {
        let known: Vec<_> = rows.iter().map(|(anchor, instant)| self.known(*anchor, *instant)).collect();
        let lists = known.iter().map(|labels| labels.as_ref());
        match self.spec.take {
            Take::Any => vec![Arc::new(BooleanArray::from_iter(lists.map(|list| Some(!list.is_empty()))))],
            Take::Count => vec![Arc::new(Int64Array::from_iter_values(lists.map(|list| list.len() as i64)))],
            Take::First | Take::Last => {
                let last = self.spec.take == Take::Last;
                let pick = |list: &[Pair]| if last { list.last() } else { list.first() }.map(|pair| pair.row);
                let picked: Vec<Option<Row>> = lists.map(pick).collect();
                self.spec.select.iter().map(|column| self.gather(*column, &picked)).collect()
            }
            Take::Min(column) | Take::Max(column) => {
                let largest = matches!(self.spec.take, Take::Max(_));
                let picked: Vec<Option<Row>> = lists.map(|list| self.extreme(list, column, largest)).collect();
                vec![self.gather(column, &picked)]
            }
            Take::Sum(column) => vec![self.sum(column, lists)],
            Take::All(most) => {
                let heads: Vec<&[Pair]> = lists.map(|list| &list[..list.len().min(most as usize)]).collect();
                let picked: Vec<Option<Row>> =
                    heads.iter().flat_map(|list| list.iter().map(|pair| Some(pair.row))).collect();
                let lengths: Vec<usize> = heads.iter().map(|list| list.len()).collect();
                self.spec.select.iter().map(|column| list_column(self.gather(*column, &picked), &lengths)).collect()
            }
        }
    }

    fn gather(&self, column: usize, picked: &[Option<Row>]) -> ArrayRef {
        gather(self.schema.field(column).data_type(), self.stream, column, picked)
    }

    fn number(&self, column: usize, row: &Row) -> Option<Number> {
        let (array, at) = (self.stream.batches[row.batch as usize].rows.column(column), row.row as usize);
        if array.is_null(at) {
            return None;
        }
        Some(match array.data_type() {
            DataType::Int32 => Number::Int(array.as_primitive::<Int32Type>().value(at).into()),
            DataType::Int64 => Number::Int(array.as_primitive::<Int64Type>().value(at).into()),
            DataType::Float32 => Number::Float(array.as_primitive::<Float32Type>().value(at).into()),
            DataType::Float64 => Number::Float(array.as_primitive::<Float64Type>().value(at)),
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                Number::Int(array.as_primitive::<TimestampMillisecondType>().value(at).into())
            }
            other => unreachable!("the config check refuses to aggregate labels of type {other}"),
        })
    }

    fn extreme(&self, list: &[Pair], column: usize, largest: bool) -> Option<Row> {
        let mut best: Option<(Number, Row)> = None;
        for Pair { row, .. } in list {
            let Some(value) = self.number(column, row) else { continue };
            // Of equals the first stays.
            let wins = best.is_none_or(|(old, _)| if largest { value > old } else { value < old });
            if wins {
                best = Some((value, *row));
            }
        }
        best.map(|(_, row)| row)
    }

    fn sum<'b>(&self, column: usize, lists: impl Iterator<Item = &'b [Pair]>) -> ArrayRef {
        let numbers =
            |list: &[Pair]| -> Vec<Number> { list.iter().filter_map(|pair| self.number(column, &pair.row)).collect() };
        let lists = lists.map(numbers);
        if matches!(self.schema.field(column).data_type(), DataType::Float32 | DataType::Float64) {
            return Arc::new(Float64Array::from_iter(lists.map(|numbers| {
                let mut total = ExactSum::default();
                numbers.iter().for_each(|number| {
                    if let Number::Float(value) = number {
                        total.add(*value)
                    }
                });
                (!numbers.is_empty()).then(|| total.value())
            })));
        }
        Arc::new(Int64Array::from_iter(lists.map(|numbers| {
            let total: i128 =
                numbers.iter().map(|number| if let Number::Int(value) = number { *value } else { 0 }).sum();
            (!numbers.is_empty()).then(|| total.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
        })))
    }
}

fn list_column(values: ArrayRef, lengths: &[usize]) -> ArrayRef {
    let DataType::List(item) = list_of(values.data_type().clone()) else {
        unreachable!("a list of anything is a list")
    };
    Arc::new(ListArray::new(item, OffsetBuffer::from_lengths(lengths.iter().copied()), values, None))
}

#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Number {
    Int(i128),
    Float(f64),
}

/// One column of picked rows; null where nothing was picked.
pub(super) fn gather(data_type: &DataType, stream: &StreamRows, column: usize, picked: &[Option<Row>]) -> ArrayRef {
    let null = new_null_array(data_type, 1);
    let mut arrays: Vec<&dyn Array> = vec![null.as_ref()];
    arrays.extend(stream.batches.iter().map(|batch| batch.rows.column(column).as_ref()));
    let place = |row: &Option<Row>| row.map_or((0, 0), |row| (row.batch as usize + 1, row.row as usize));
    let places: Vec<(usize, usize)> = picked.iter().map(place).collect();
    interleave(&arrays, &places).expect("all batches of a stream have one schema")
}
