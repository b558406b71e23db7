//! Build: closed impressions, their labels and their features become rows of the output schema.

use crate::event::{DurationMs, EventTime, Fingerprint, SampleBatch};
use crate::join::{ClosedPart, ClosedRows, Emission, EmitKind};
use crate::sample::{EMISSION_COLUMNS, EmissionSpec, SampleSpec};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMillisecondArray, UInt32Array,
};
use arrow::compute::{cast, filter, filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Int64Type};
use std::sync::Arc;

/// What building a part gave.
#[derive(Debug)]
pub struct Built {
    pub batch: SampleBatch,
    /// Impressions that negative sampling left out, by their first rows.
    pub sampled_out: u64,
    /// Values that an expression could not compute: null in the row, counted here.
    pub failed_values: u64,
    /// Where there are any.
    pub corrections: Option<Corrections>,
}

/// Which rows of a batch correct others, and when each row was emitted.
#[derive(Debug)]
pub struct Corrections {
    is_one: Vec<bool>,
    emit_ts: Vec<EventTime>,
}

impl Corrections {
    /// Those rows that are corrections, by the time of their emission; or the others, by that of their impressions.
    pub fn of(&self, batch: &SampleBatch, corrections: bool) -> SampleBatch {
        let mask: BooleanArray = self.is_one.iter().map(|is_one| Some(*is_one == corrections)).collect();
        let times = if corrections { &self.emit_ts } else { &batch.impression_time };
        let kept = times.iter().zip(&self.is_one).filter(|(_, is_one)| **is_one == corrections).map(|(ts, _)| *ts);
        let rows = filter_record_batch(&batch.rows, &mask).expect("there is one for each row");
        SampleBatch {
            sample: batch.sample,
            rows,
            impression_time: kept.collect(),
            event_id: None,
            bucket: batch.bucket,
        }
    }
}

/// Why rows cannot be built: the plan and the data disagree, which no input can cause, but a damaged state.
#[derive(Debug, thiserror::Error)]
#[error("sample {sample}: {source}")]
pub struct BuildError {
    pub sample: String,
    pub source: arrow::error::ArrowError,
}

/// `payload` and `features` are the part's, read back if they were on disk.
pub fn build(
    spec: &SampleSpec,
    sample: u16,
    closed: &ClosedRows,
    part: &ClosedPart,
    payload: &RecordBatch,
    features: &[RecordBatch],
) -> Result<Built, BuildError> {
    wide(spec, part, payload, features)
        .and_then(|wide| narrow(spec, sample, closed, part, wide))
        .map_err(|source| BuildError { sample: spec.name.clone(), source })
}

/// The wide layout with its computed columns; `failed` counts values that could not be computed.
struct Wide {
    columns: Vec<ArrayRef>,
    failed: u64,
}

impl Wide {
    fn batch(&self, spec: &SampleSpec) -> Result<RecordBatch, arrow::error::ArrowError> {
        let fields: Vec<_> = spec.wide.fields().iter().take(self.columns.len()).cloned().collect();
        RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), self.columns.clone())
    }
}

/// What was read back may be any batch behind a right sum.
fn check_payload(
    spec: &SampleSpec,
    part: &ClosedPart,
    payload: &RecordBatch,
    of_groups: &[RecordBatch],
) -> Result<(), arrow::error::ArrowError> {
    let features = of_groups.iter().map(RecordBatch::num_columns).sum::<usize>();
    let emission = spec.emission.as_ref().map_or(0, |_| EMISSION_COLUMNS.len());
    let others = part.labels.iter().map(Vec::len).sum::<usize>() + features + emission + spec.columns.len();
    let expected = spec.wide.fields().iter().take(spec.wide.fields().len().saturating_sub(others));
    let expected = expected.map(|field| (field.name(), field.data_type()));
    let found = payload.schema_ref().fields().iter().map(|field| (field.name(), field.data_type()));
    let rows = payload.num_rows();
    let rows_fit = match &part.keep {
        None => rows == part.event_time.len(),
        Some(keep) => keep.iter().all(|row| (*row as usize) < rows),
    };
    let aligned = of_groups.iter().all(|features| features.num_rows() == rows);
    if found.eq(expected) && rows_fit && aligned {
        return Ok(());
    }
    let message = format!("{rows} rows of {:?} are not the impressions that closed", payload.schema_ref());
    Err(arrow::error::ArrowError::SchemaError(message))
}

fn wide(
    spec: &SampleSpec,
    part: &ClosedPart,
    payload: &RecordBatch,
    of_groups: &[RecordBatch],
) -> Result<Wide, arrow::error::ArrowError> {
    check_payload(spec, part, payload, of_groups)?;
    let kept = |batch: &RecordBatch| match &part.keep {
        None => Ok(batch.clone()),
        Some(rows) => take_record_batch(batch, &UInt32Array::from(rows.clone())),
    };
    let mut columns: Vec<ArrayRef> = kept(payload)?.columns().to_vec();
    for labels in &part.labels {
        columns.extend(labels.iter().cloned());
    }
    for features in of_groups {
        columns.extend(kept(features)?.columns().iter().cloned());
    }
    if let (Some(emitted), Some(emission)) = (&spec.emission, &part.emission) {
        columns.extend(emission_columns(emitted, emission, &columns, &part.event_time, spec)?);
    }
    let mut wide = Wide { columns, failed: 0 };
    for column in &spec.columns {
        let batch = wide.batch(spec)?;
        let (array, failed) = column.expression.evaluate_or_null(&batch);
        wide.failed += failed;
        let wanted = spec.wide.field(wide.columns.len()).data_type();
        wide.columns.push(if array.data_type() == wanted { array } else { cast(&array, wanted)? });
    }
    Ok(wide)
}

fn narrow(
    spec: &SampleSpec,
    sample: u16,
    closed: &ClosedRows,
    part: &ClosedPart,
    wide: Wide,
) -> Result<Built, arrow::error::ArrowError> {
    let rows = part.event_time.len();
    let mut columns: Vec<ArrayRef> = spec.select.iter().map(|index| wide.columns[*index].clone()).collect();
    let mut keep = None;
    if let Some(negatives) = &spec.negatives {
        let negative = negatives.filter.matches_or_false(&wide.batch(spec)?);
        let chosen = |row: usize| !negative.value(row) || is_kept(part.id[row], negatives.keep);
        let weight = |row: usize| if negative.value(row) { 1.0 / negatives.keep } else { 1.0 };
        columns.push(Arc::new(Float64Array::from_iter_values((0..rows).map(weight))));
        keep = Some(BooleanArray::from_iter((0..rows).map(|row| Some(chosen(row)))));
    } else if spec.emission.is_some() {
        columns.push(Arc::new(Float64Array::from_value(1.0, rows)));
    }
    if let Some(after_ms) = spec.tag_after_ms {
        columns.push(Arc::new(label_stream_down(after_ms, closed, part)));
    }
    let all = RecordBatch::try_new(spec.schema.clone(), columns)?;
    let mut event_id = spec.event_id.as_ref().map(|id| joined(id, &wide.columns, rows)).transpose()?;
    if let (Some(ids), Some(mask)) = (&event_id, &keep) {
        event_id = Some(filter(ids, mask)?.as_string::<i32>().clone());
    }
    let (kept, impression_time) = match &keep {
        None => (all, part.event_time.clone()),
        Some(mask) => {
            let times = Int64Array::from(part.event_time.clone());
            let times = filter(&times, mask)?;
            let times = AsArray::as_primitive::<Int64Type>(&times).values().to_vec();
            (filter_record_batch(&all, mask)?, times)
        }
    };
    let is_first = |row: usize| part.emission.as_ref().is_none_or(|emission| emission.kind[row] == EmitKind::Base);
    let left_out = |row: &usize| keep.as_ref().is_some_and(|keep| !keep.value(*row)) && is_first(*row);
    let sampled_out = (0..rows).filter(left_out).count() as u64;
    let batch = SampleBatch {
        sample,
        rows: kept,
        impression_time: impression_time as Vec<EventTime>,
        event_id,
        bucket: closed.bucket as i64,
    };
    let corrections = part.emission.as_ref().and_then(|emission| corrections(emission, keep.as_ref()));
    Ok(Built { batch, sampled_out, failed_values: wide.failed, corrections })
}

/// Of the rows that are kept.
fn corrections(emission: &Emission, keep: Option<&BooleanArray>) -> Option<Corrections> {
    let kept = (0..emission.kind.len()).filter(|row| keep.is_none_or(|keep| keep.value(*row)));
    let (is_one, emit_ts): (Vec<bool>, Vec<EventTime>) =
        kept.map(|row| (emission.kind[row] == EmitKind::Correction, emission.emit_ts[row])).unzip();
    is_one.contains(&true).then_some(Corrections { is_one, emit_ts })
}

/// Whether each row was decided while a label stream was cut off.
fn label_stream_down(after_ms: DurationMs, closed: &ClosedRows, part: &ClosedPart) -> BooleanArray {
    let instants: Vec<EventTime> = match &part.emission {
        Some(emission) => emission.emit_ts.clone(),
        None => part.event_time.iter().map(|ts| ts.saturating_add(after_ms)).collect(),
    };
    let down = |instant: EventTime| closed.outages.iter().any(|outage| outage.contains(instant));
    BooleanArray::from_iter(instants.into_iter().map(|instant| Some(down(instant))))
}

/// In the order of [`EMISSION_COLUMNS`].
fn emission_columns(
    spec: &EmissionSpec,
    emission: &Emission,
    anchor: &[ArrayRef],
    impression_ts: &[EventTime],
    sample: &SampleSpec,
) -> Result<Vec<ArrayRef>, arrow::error::ArrowError> {
    let start = sample.wide.index_of(EMISSION_COLUMNS[0])?;
    let time = |values: TimestampMillisecondArray, column: usize| -> Result<ArrayRef, arrow::error::ArrowError> {
        cast(&values, sample.wide.field(start + column).data_type())
    };
    let elapsed = emission.emit_ts.iter().zip(impression_ts).map(|(emitted, shown)| emitted - shown);
    Ok(vec![
        Arc::new(joined(&spec.id, anchor, impression_ts.len())?),
        time(TimestampMillisecondArray::from(impression_ts.to_vec()), 1)?,
        time(TimestampMillisecondArray::from(emission.label_ts.clone()), 2)?,
        time(TimestampMillisecondArray::from(emission.emit_ts.clone()), 3)?,
        Arc::new(Int64Array::from_iter_values(elapsed)),
        Arc::new(StringArray::from_iter_values(emission.kind.iter().map(|kind| kind.name()))),
    ])
}

/// The values of some columns as one text per row.
fn joined(columns: &[usize], of: &[ArrayRef], rows: usize) -> Result<StringArray, arrow::error::ArrowError> {
    let texts: Vec<ArrayRef> = columns.iter().map(|at| cast(&of[*at], &DataType::Utf8)).collect::<Result<_, _>>()?;
    let value = |row: usize, text: &ArrayRef| {
        if text.is_null(row) { "" } else { text.as_string::<i32>().value(row) }.to_owned()
    };
    let id = |row: usize| texts.iter().map(|text| value(row, text)).collect::<Vec<_>>().join(":");
    Ok(StringArray::from_iter_values((0..rows).map(id)))
}

/// Keeps a share of ids by their hash, so that every run and every lane keeps the same ones.
fn is_kept(id: Fingerprint, keep: f64) -> bool {
    // Bits 32..96 belong to no home: what a key is kept for has nothing to do with the cell and lane it falls to.
    let hash = (id >> 32) as u64;
    (hash as f64) < keep * u64::MAX as f64
}
