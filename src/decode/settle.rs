//! Settle: decides which of the walked rows are accepted, filtered or refused, and makes the batch of the accepted.
//!
//! ```text
//!   rows ─ bad, and where cannot say no ──> refused
//!        ─ where says no (or null) ───────> filtered      also when other columns are bad
//!        ─ bad, null key, wrong time ─────> refused
//!        ─ a feature cannot be computed ──> refused
//!        └ the rest ──────────────────────> accepted
//! ```

use crate::decode::expressions::{Failure, FeatureInputs, matches};
use crate::decode::fault::describe;
use crate::decode::rows::{Rows, WHOLE};
use crate::decode::{ColumnSpec, DecodeSpec};
use crate::event::{
    DecodedBatch, Enrich, EnrichError, EventTime, FeatureInput, Fingerprint, RawBatch, RejectKind, Rejected, TIME_END,
    fingerprints, item_hash,
};
use crate::invariant;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::TimestampMillisecondType;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// A reject before the record's bytes are copied into it.
pub(super) struct Refusal {
    pub record: usize,
    pub item: Option<u32>,
    pub kind: RejectKind,
    pub message: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accepted,
    Filtered,
    Refused,
}

pub(super) struct Settle<'a> {
    pub spec: &'a DecodeSpec,
    pub features: &'a FeatureInputs,
    pub rows: &'a mut Rows,
    pub raw: &'a RawBatch,
    /// Records that did not become rows.
    pub refusals: Vec<Refusal>,
}

impl Settle<'_> {
    /// The batch, and which of the rows walked are in it.
    pub fn run(
        mut self,
        enrich: Option<&dyn Enrich>,
    ) -> Result<(DecodedBatch, impl Iterator<Item = bool> + use<>), EnrichError> {
        let walked = self.rows.count;
        let consumed = (walked + self.refusals.len()) as u64 + self.rows.empty_arrays;
        let mut arrays: Vec<ArrayRef> = self.rows.columns.iter_mut().map(|column| column.take()).collect();
        if arrays.len() < self.spec.columns.len() {
            arrays.extend(self.look_up(&arrays, enrich)?);
        }
        let all = RecordBatch::try_new(self.spec.schema.clone(), arrays).expect("columns follow the schema");
        let mut verdicts = vec![Verdict::Accepted; walked];
        self.judge_faults(&all, &mut verdicts);
        self.judge_keys(&all, &mut verdicts);
        self.judge_times(&all, &mut verdicts);
        let (rows, feature_inputs) = self.judge_features(&all, &mut verdicts);

        let filtered = verdicts.iter().filter(|verdict| **verdict == Verdict::Filtered).count() as u64;
        let filtered = filtered + self.rows.empty_arrays;
        let event_time = rows.column(self.spec.time).as_primitive::<TimestampMillisecondType>().values().to_vec();
        let keys = self.keys(&rows);
        let content = self.content(&verdicts, rows.num_rows());
        let rejected = self.rejected();
        let accounted = rows.num_rows() as u64 + filtered + rejected.len() as u64;
        invariant!(F1, consumed == accounted, "{}: {consumed} rows, {accounted} accounted for", self.spec.name);
        let decoded = DecodedBatch {
            stream: self.spec.stream,
            delta: self.raw.delta,
            rows,
            event_time,
            keys,
            content,
            feature_inputs,
            rejected,
            filtered,
            records: self.raw.records.len() as u64,
            consumed,
        };
        Ok((decoded, verdicts.into_iter().map(|verdict| verdict == Verdict::Accepted)))
    }

    /// The columns that are not in the records. Rows that are bad, or that `where` turns away by their records alone, are
    /// not looked up.
    fn look_up(&self, recorded: &[ArrayRef], enrich: Option<&dyn Enrich>) -> Result<Vec<ArrayRef>, EnrichError> {
        let failed = |message: &str| EnrichError::Failed(format!("{}: {message}", self.spec.name));
        let enrich = enrich.ok_or_else(|| failed("its columns of dimensions were not asked for"))?;
        let names: Vec<usize> = (0..recorded.len()).collect();
        let schema = self.spec.schema.project(&names).expect("columns follow the schema");
        let rows = RecordBatch::try_new(Arc::new(schema), recorded.to_vec()).expect("columns follow the schema");
        let mut wanted = vec![true; rows.num_rows()];
        if let Some(filter) = &self.spec.filter
            && filter.columns.iter().all(|column| *column < recorded.len())
        {
            wanted = matches(filter, &rows, &mut Vec::new()).values().iter().collect();
        }
        self.rows.notes.iter().for_each(|note| wanted[note.row] = false);
        let columns = enrich.enrich(self.spec.stream, &rows, &wanted)?;
        let fields = self.spec.schema.fields().iter().skip(recorded.len());
        let fit = columns.len() == fields.len()
            && columns
                .iter()
                .zip(fields)
                .all(|(column, field)| column.data_type() == field.data_type() && column.len() == rows.num_rows());
        if fit { Ok(columns) } else { Err(failed("a dimension gave other columns than it declares")) }
    }

    fn refuse(&mut self, row: usize, kind: RejectKind, message: String, verdicts: &mut [Verdict]) {
        verdicts[row] = Verdict::Refused;
        let item = self.item(row);
        self.refusals.push(Refusal { record: self.rows.record_of[row] as usize, item, kind, message });
    }

    fn item(&self, row: usize) -> Option<u32> {
        Some(self.rows.item_of[row]).filter(|item| *item != WHOLE)
    }

    /// `where`, and rows with bad columns.
    fn judge_faults(&mut self, all: &RecordBatch, verdicts: &mut [Verdict]) {
        let mut failures = Vec::new();
        if let Some(filter) = &self.spec.filter {
            let mask = matches(filter, all, &mut failures);
            for (verdict, matched) in verdicts.iter_mut().zip(mask.values()) {
                if !matched {
                    *verdict = Verdict::Filtered;
                }
            }
        }
        for (row, message) in failures {
            verdicts[row] = Verdict::Refused;
            // a bad column that the expression reads explains more than the expression's failure on its placeholder
            let told = self.rows.notes.binary_search_by_key(&row, |note| note.row);
            if !told.is_ok_and(|note| self.rows.notes[note].blinds_filter) {
                self.refuse(row, RejectKind::ExpressionFailed, message, verdicts);
            }
        }
        for note in std::mem::take(&mut self.rows.notes) {
            let stands = match verdicts[note.row] {
                Verdict::Accepted => true,
                Verdict::Filtered => note.blinds_filter,
                Verdict::Refused => note.blinds_filter,
            };
            if stands {
                let message = describe(&note.fault, self.spec, self.item(note.row), &self.rows.texts);
                self.refuse(note.row, note.fault.kind, message, verdicts);
            }
        }
    }

    /// Identity, join key and route must not be null.
    fn judge_keys(&mut self, all: &RecordBatch, verdicts: &mut [Verdict]) {
        let spec = self.spec;
        for set in [spec.id, spec.key, spec.route] {
            for &column in &spec.key_sets[set] {
                let Some(nulls) = all.column(column).nulls().filter(|nulls| nulls.null_count() > 0) else {
                    continue;
                };
                for row in 0..all.num_rows() {
                    if verdicts[row] == Verdict::Accepted && nulls.is_null(row) {
                        let name = &spec.columns[column].name;
                        let message = format!("column {name} is null, but it is part of the id, the key or the route");
                        self.refuse(row, RejectKind::NullKey, message, verdicts);
                    }
                }
            }
        }
    }

    fn judge_times(&mut self, all: &RecordBatch, verdicts: &mut [Verdict]) {
        let spec = self.spec;
        let ColumnSpec { name, .. } = &spec.columns[spec.time];
        let times = all.column(spec.time).as_primitive::<TimestampMillisecondType>();
        for row in 0..all.num_rows() {
            if verdicts[row] != Verdict::Accepted {
                continue;
            }
            let time: EventTime = times.value(row);
            let broker_time = self.raw.records[self.rows.record_of[row] as usize].broker_time;
            if times.is_null(row) {
                let message = format!("column {name} is null, but it is the event time");
                self.refuse(row, RejectKind::MissingField, message, verdicts);
            } else if time < spec.min_time {
                let message = format!(
                    "column {name} is {time} ms, before min_time ({} ms). Are these seconds? Then declare unit: s",
                    spec.min_time
                );
                self.refuse(row, RejectKind::TimeBeforeMin, message, verdicts);
            } else if time >= TIME_END {
                let message = format!(
                    "column {name} is {time} ms, after the year 2105. Are these microseconds? Then declare unit: us"
                );
                self.refuse(row, RejectKind::TimeInFuture, message, verdicts);
            } else if let Some(broker) = broker_time
                && time > broker.saturating_add(spec.max_future_ms)
            {
                let message = format!(
                    "column {name} is {time} ms, more than max_future ({} ms) ahead of the broker's {broker} ms",
                    spec.max_future_ms
                );
                self.refuse(row, RejectKind::TimeInFuture, message, verdicts);
            }
        }
    }

    /// Evaluates the feature inputs over the accepted rows; rows for which one fails are refused, and it starts again.
    fn judge_features(&mut self, all: &RecordBatch, verdicts: &mut [Verdict]) -> (RecordBatch, Vec<FeatureInput>) {
        loop {
            let mut accepted = Vec::new();
            let rows = if verdicts.iter().all(|verdict| *verdict == Verdict::Accepted) {
                all.clone()
            } else {
                accepted.extend((0..verdicts.len()).filter(|row| verdicts[*row] == Verdict::Accepted));
                let keep: Vec<bool> = verdicts.iter().map(|verdict| *verdict == Verdict::Accepted).collect();
                filter_record_batch(all, &BooleanArray::from(keep)).expect("one verdict per row")
            };
            let mut failures: Vec<Failure> = Vec::new();
            let inputs = self.features.evaluate(&rows, &mut failures);
            if failures.is_empty() {
                return (rows, inputs);
            }
            for (row, message) in failures {
                let row = if accepted.is_empty() { row } else { accepted[row] };
                if verdicts[row] == Verdict::Accepted {
                    self.refuse(row, RejectKind::ExpressionFailed, message, verdicts);
                }
            }
        }
    }

    fn keys(&self, rows: &RecordBatch) -> Vec<Arc<Vec<Fingerprint>>> {
        let mut keys: Vec<Arc<Vec<Fingerprint>>> = Vec::with_capacity(self.spec.key_sets.len());
        for (index, set) in self.spec.key_sets.iter().enumerate() {
            let same = self.spec.key_sets[..index].iter().position(|earlier| earlier == set);
            keys.push(match same {
                Some(earlier) => keys[earlier].clone(),
                None => {
                    let columns: Vec<&ArrayRef> = set.iter().map(|&column| rows.column(column)).collect();
                    Arc::new(fingerprints(&columns, rows.num_rows(), self.spec.partitioner))
                }
            });
        }
        keys
    }

    fn content(&self, verdicts: &[Verdict], accepted: usize) -> Vec<u64> {
        let mut content = Vec::with_capacity(accepted);
        let mut hashed = (usize::MAX, 0);
        for (row, verdict) in verdicts.iter().enumerate() {
            if *verdict != Verdict::Accepted {
                continue;
            }
            let record = self.rows.record_of[row] as usize;
            if hashed.0 != record {
                hashed = (record, xxh3_64(payload(self.raw, record)));
            }
            content.push(item_hash(hashed.1, self.item(row).unwrap_or(0)));
        }
        content
    }

    /// Refusals in the order of the log, with the record's bytes. A slate with many bad elements keeps its bytes with
    /// the first of them; the others follow as long as together they stay below the limit of one dead letter.
    fn rejected(&mut self) -> Vec<Rejected> {
        let bytes_max = self.spec.limits.dead_letter_bytes_max;
        let mut refusals = std::mem::take(&mut self.refusals);
        refusals.sort_by_key(|refusal| (refusal.record, refusal.item));
        let mut rejected = Vec::with_capacity(refusals.len());
        let (mut last, mut kept_bytes) = (usize::MAX, 0);
        for refusal in refusals {
            let whole = payload(self.raw, refusal.record);
            let mut raw = &whole[..whole.len().min(bytes_max)];
            let mut message = refusal.message;
            if refusal.record != last {
                (last, kept_bytes) = (refusal.record, raw.len());
            } else if kept_bytes + raw.len() <= bytes_max {
                kept_bytes += raw.len();
            } else {
                raw = &[];
                message.push_str(" (the record's bytes are with its first bad element)");
            }
            rejected.push(Rejected {
                stream: self.spec.stream,
                partition: self.raw.delta.partition,
                position: self.raw.records[refusal.record].position,
                item: refusal.item,
                kind: refusal.kind,
                message,
                raw: raw.to_vec(),
            });
        }
        rejected
    }
}

fn payload(raw: &RawBatch, record: usize) -> &[u8] {
    raw.records[record].payload.as_ref().map_or(&[], |payload| raw.slice(payload))
}
