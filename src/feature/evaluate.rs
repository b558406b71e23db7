//! Evaluate: the values of entities at instants, in the layout of the group's outputs.
//!
//! Instants that see the same events share one evaluation, and so does the derived columns' expression: it runs over
//! distinct (entity, instant) pairs, which are then spread to the rows that asked.
//! Holds: F10, through `window::visible_range`. Values do not depend on which rows are asked for together.

use crate::event::{EventTime, ExpressionError, Fingerprint, report_violation};
use crate::feature::aggregate::last::Log;
use crate::feature::aggregate::{Place, Tiled, WORDS_MAX, count, mean, sum};
use crate::feature::entity::Entity;
use crate::feature::store::GroupStore;
use crate::feature::text::Texts;
use crate::feature::value::Scalar;
use crate::feature::window::{TIME_LIMIT, first_at_or_after, visible_range};
use crate::feature::{AggregateKind, DerivedSpec};
use crate::invariant;
use arrow::array::{Array, ArrayRef, Float64Array, Int64Array, ListArray, RecordBatch, UInt32Array, new_null_array};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::DataType;
use hashbrown::HashTable;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Stands for every entity that is not known.
const ABSENT: u32 = u32::MAX;

/// A known entity's number, or [`ABSENT`], and an instant that stands for all that see the same.
pub(super) type Question = (u32, EventTime);

/// The cells of one output column, one row after another.
enum Cells {
    Integers(Vec<i64>),
    /// Mean and sum; `empty` says whether no value at all is a valid 0.
    Floats {
        values: Vec<f64>,
        valid: Vec<bool>,
        empty: bool,
    },
    Words {
        words: Vec<u64>,
        valid: Vec<bool>,
        scalar: Scalar,
    },
    Lists {
        words: Vec<u64>,
        ends: Vec<i32>,
        scalar: Scalar,
    },
}

impl GroupStore {
    /// Values for (entity, instant) pairs, one row each. Every row that is not late with `ts < floor(instant, head)`
    /// must have been applied, and no instant may be older than what `advance` was promised.
    ///
    /// A derived column whose expression fails for a row is null in that row; it is an error only where the column
    /// may not be null.
    pub fn evaluate(&self, entities: &[Fingerprint], instants: &[EventTime]) -> Result<RecordBatch, ExpressionError> {
        let oldest = instants.iter().min().map_or(EventTime::MAX, |&oldest| self.windows.instant(oldest));
        let rolled_to = self.rolled_to();
        invariant!(F10, oldest >= rolled_to, "asked for {oldest}, but nothing before {rolled_to} was to be asked");
        let mut questions: Vec<Question> = Vec::with_capacity(entities.len());
        let mut picks: Vec<u32> = Vec::with_capacity(entities.len());
        let mut known: HashTable<u32> = HashTable::with_capacity(entities.len());
        let (mut last_print, mut last_number) = (None, ABSENT);
        for (&print, &instant) in entities.iter().zip(instants) {
            if last_print != Some(print) {
                (last_print, last_number) = (Some(print), self.entities.find(print).unwrap_or(ABSENT));
            }
            let instant = self.windows.instant(instant);
            // Where all windows are full, one answer does for whoever is not known.
            let absent_and_full = last_number == ABSENT && !self.warm.is_warming(instant);
            let instant = if absent_and_full { TIME_LIMIT } else { instant };
            let question = (last_number, instant);
            if questions.last() == Some(&question) {
                picks.push(questions.len() as u32 - 1);
                continue;
            }
            let entry = known.entry(
                hash(question),
                |&place| questions[place as usize] == question,
                |&place| hash(questions[place as usize]),
            );
            let place = *entry.or_insert(questions.len() as u32).get();
            if place as usize == questions.len() {
                questions.push(question);
            }
            picks.push(place);
        }
        let answers = self.answer(&questions)?;
        if questions.len() == picks.len() {
            return Ok(answers);
        }
        arrow::compute::take_record_batch(&answers, &UInt32Array::from(picks)).map_err(|error| self.broken(error))
    }

    /// One row per question.
    pub(super) fn answer(&self, questions: &[Question]) -> Result<RecordBatch, ExpressionError> {
        let mut columns = self.columns(questions.len());
        let mut frame = Frame::default();
        for &(number, instant) in questions {
            if frame.starts.is_empty() || frame.instant != instant {
                frame.instant = instant;
                frame.head_end = self.windows.head_end(instant);
                frame.starts.clear();
                frame.starts.extend((0..self.windows.distinct.len()).map(|number| self.windows.start(number, instant)));
            }
            if number == ABSENT {
                columns.iter_mut().for_each(Cells::push_empty);
            } else {
                self.answer_one(self.entities.get(number), &mut frame, &mut columns);
            }
        }
        let schema = &self.schemas[0];
        let arrays = columns.into_iter().zip(schema.fields());
        let arrays = arrays.map(|(cells, field)| cells.array(field.data_type(), &self.texts)).collect();
        let batch = RecordBatch::try_new(schema.clone(), arrays).map_err(|error| self.broken(error))?;
        Ok(self.warm.veil(self.derive(batch)?, questions))
    }

    fn columns(&self, rows: usize) -> Vec<Cells> {
        let mut columns = Vec::with_capacity(self.schemas[0].fields().len());
        for (place, aggregate) in self.layout.places.iter().zip(&self.spec.aggregates) {
            for _ in &aggregate.windows {
                columns.push(match *place {
                    Place::Tile(place) => match self.layout.tiled[place].tiled {
                        Tiled::Count | Tiled::SumIntegers => Cells::Integers(Vec::with_capacity(rows)),
                        tiled @ (Tiled::SumFloats | Tiled::MeanIntegers | Tiled::MeanFloats) => Cells::Floats {
                            values: Vec::with_capacity(rows),
                            valid: Vec::with_capacity(rows),
                            empty: tiled == Tiled::SumFloats,
                        },
                        Tiled::Min(scalar) | Tiled::Max(scalar) => Cells::words(rows, scalar),
                    },
                    Place::Log(place) => match (aggregate.kind, self.layout.logged[place].scalar) {
                        (AggregateKind::LastK { .. }, scalar) => {
                            Cells::Lists { words: Vec::new(), ends: Vec::with_capacity(rows), scalar }
                        }
                        (_, scalar) => Cells::words(rows, scalar),
                    },
                });
            }
        }
        columns
    }

    fn answer_one(&self, entity: &Entity, frame: &mut Frame, columns: &mut [Cells]) {
        let stride = self.layout.stride;
        let slot = |place: usize| entity.tiles.slot(stride, place);
        let until = first_at_or_after(entity.tiles.len(stride), slot, frame.head_end);
        frame.tiles.clear();
        for &start in &frame.starts {
            frame.tiles.push(visible_range(until, slot, start, frame.head_end));
        }
        let mut columns = columns.iter_mut();
        for (place, windows) in self.layout.places.iter().zip(&self.layout.windows) {
            match *place {
                Place::Tile(place) => self.answer_tiled(place, windows, entity, frame, &mut columns),
                Place::Log(place) => {
                    let (log, k) = (&entity.logs[place], self.layout.logged[place].k);
                    for &window in windows {
                        let cells = columns.next().expect("one column per window of every aggregate");
                        cells.push_newest(log, k, frame.starts[window], frame.head_end);
                    }
                }
            }
        }
    }

    /// The windows of one aggregate: each goes on from the state of the one before, where that one lies inside it.
    fn answer_tiled<'a>(
        &self,
        place: usize,
        windows: &[usize],
        entity: &Entity,
        frame: &Frame,
        columns: &mut impl Iterator<Item = &'a mut Cells>,
    ) {
        let place = self.layout.tiled[place];
        let (words, stride) = (entity.tiles.words(), self.layout.stride);
        let mut state = [0; WORDS_MAX];
        let mut done: Option<Range<usize>> = None;
        for &window in windows {
            let range = frame.tiles[window].clone();
            let missing = match &done {
                Some(done) if done.end == range.end && range.start <= done.start => range.start..done.start,
                _ => {
                    state = [0; WORDS_MAX];
                    range.clone()
                }
            };
            let tiles = &words[missing.start * stride..missing.end * stride];
            place.tiled.fold(&mut state, tiles, stride, place.offset, &self.texts);
            done = Some(range);
            columns.next().expect("one column per window of every aggregate").push_state(place.tiled, &state);
        }
    }

    /// Appends the derived columns.
    fn derive(&self, mut batch: RecordBatch) -> Result<RecordBatch, ExpressionError> {
        for (derived, schema) in self.spec.derived.iter().zip(&self.schemas[1..]) {
            let nullable = schema.fields().last().is_some_and(|field| field.is_nullable());
            let column = match derived.expression.evaluate(&batch) {
                Ok(column) => column,
                Err(_) if nullable => self.derive_by_row(derived, &batch)?,
                Err(error) => return Err(error),
            };
            let mut columns = batch.columns().to_vec();
            columns.push(column);
            batch = RecordBatch::try_new(schema.clone(), columns).map_err(|error| ExpressionError {
                sql: derived.expression.sql.clone(),
                message: format!("does not give the declared column `{}`: {error}", derived.name),
            })?;
        }
        Ok(batch)
    }

    /// One bad row must not take the others with it: it gets null and is counted.
    fn derive_by_row(&self, derived: &DerivedSpec, batch: &RecordBatch) -> Result<ArrayRef, ExpressionError> {
        let mut cells = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            cells.push(derived.expression.evaluate(&batch.slice(row, 1)).unwrap_or_else(|_| {
                self.derived_failures.fetch_add(1, Ordering::Relaxed);
                new_null_array(&derived.expression.data_type, 1)
            }));
        }
        let cells: Vec<&dyn Array> = cells.iter().map(|cell| cell.as_ref()).collect();
        arrow::compute::concat(&cells)
            .map_err(|error| ExpressionError { sql: derived.expression.sql.clone(), message: error.to_string() })
    }

    /// The configuration check makes `outputs` from the aggregates; here they disagree.
    fn broken(&self, error: arrow::error::ArrowError) -> ExpressionError {
        let message = format!("group `{}` does not fit its declared outputs: {error}", self.spec.name);
        report_violation("outputs", &message);
        ExpressionError { sql: self.spec.name.clone(), message }
    }
}

/// One instant, resolved, and the visible tiles of one entity per distinct window.
#[derive(Default)]
struct Frame {
    instant: EventTime,
    head_end: EventTime,
    starts: Vec<EventTime>,
    tiles: Vec<Range<usize>>,
}

fn hash((number, instant): Question) -> u64 {
    let mixed =
        (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (instant as u64).wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
    mixed ^ (mixed >> 29)
}

impl Cells {
    fn words(rows: usize, scalar: Scalar) -> Cells {
        Cells::Words { words: Vec::with_capacity(rows), valid: Vec::with_capacity(rows), scalar }
    }

    fn push_state(&mut self, tiled: Tiled, state: &[u64]) {
        match (self, tiled) {
            (Cells::Integers(cells), Tiled::Count) => cells.push(count::value(state)),
            (Cells::Integers(cells), _) => cells.push(sum::integer(state)),
            (Cells::Floats { values, valid, .. }, _) => {
                let value = match tiled {
                    Tiled::MeanIntegers => mean::of_integers(state),
                    Tiled::MeanFloats => mean::of_floats(state),
                    _ => Some(sum::float(state)),
                };
                values.push(value.unwrap_or(0.0));
                valid.push(value.is_some());
            }
            (Cells::Words { words, valid, .. }, _) => {
                words.push(state[1]);
                valid.push(state[0] != 0);
            }
            (Cells::Lists { .. }, _) => unreachable!("lists come from logs"),
        }
    }

    fn push_newest(&mut self, log: &Log, k: usize, start: EventTime, head_end: EventTime) {
        let range = visible_range(log.entries.len(), |place| log.entries[place].ts(), start, head_end);
        match self {
            Cells::Lists { words, ends, .. } => {
                words.extend(log.newest(k, range));
                ends.push(words.len() as i32);
            }
            Cells::Words { words, valid, .. } => {
                let newest = log.newest(1, range).next();
                words.push(newest.unwrap_or(0));
                valid.push(newest.is_some());
            }
            _ => unreachable!("logs give words"),
        }
    }

    /// What an entity without events has: 0, null or an empty list, by the kind of the aggregate.
    fn push_empty(&mut self) {
        match self {
            Cells::Integers(cells) => cells.push(0),
            Cells::Floats { values, valid, empty } => {
                values.push(0.0);
                valid.push(*empty);
            }
            Cells::Words { words, valid, .. } => {
                words.push(0);
                valid.push(false);
            }
            Cells::Lists { words, ends, .. } => ends.push(words.len() as i32),
        }
    }

    fn array(self, data_type: &DataType, texts: &Texts) -> ArrayRef {
        match self {
            Cells::Integers(cells) => Arc::new(Int64Array::from(cells)),
            Cells::Floats { values, valid, .. } => Arc::new(Float64Array::new(values.into(), nulls(valid))),
            Cells::Words { words, valid, scalar } => scalar.array(&words, nulls(valid), data_type, texts),
            Cells::Lists { words, ends, scalar } => {
                let DataType::List(item) = data_type else { unreachable!("last_k gives lists") };
                let values = scalar.array(&words, None, item.data_type(), texts);
                let offsets = OffsetBuffer::new(std::iter::once(0).chain(ends).collect::<Vec<i32>>().into());
                Arc::new(ListArray::new(item.clone(), offsets, values, None))
            }
        }
    }
}

fn nulls(valid: Vec<bool>) -> Option<NullBuffer> {
    valid.contains(&false).then(|| NullBuffer::from(valid))
}
