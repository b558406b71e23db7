//! Advise: how late labels really come, how many of them a configured window takes in, and what a longer one costs.
//!
//!   inputs ── read ──> rows of 48 bytes ── match, whatever the windows say ──> delays ──> windows for 95, 99, 99.9 %
//!                └──> some rows in a join's state ── measured ──> bytes ──────────────────────> what each costs
//!
//! In: a plan and its inputs. Out: an [`Advice`], whose JSON is a stable part of the interface.
//! Holds: no state is read or written; memory is bounded by `memory_bytes`, beyond which fewer keys are kept, and said so;
//! what is too near an edge of the log to be known is left out, and counted.
//! Does not: know of labels that come later than the longest delay it looks for.

mod bytes;
mod collect;
mod estimate;
mod read;

pub use bytes::{LabelBytes, RowBytes};
pub use estimate::{LabelsSeen, Window};
pub use read::{AdvisedInput, ReadStop};

use crate::audit::AuditError;
use crate::config::{Plan, SamplePlan, duration_text};
use crate::event::{DurationMs, EventTime, floor_to};
use crate::telemetry::human_time;
use bytes::{CLOSED_DISK, CLOSED_MEMORY};
use collect::{Collected, SampleSeen};
use estimate::{Delays, Reach, busiest, delays_of, each_once};
use read::{Extent, ReadInputs, read_inputs};
use serde::Serialize;

/// The shares of labels that windows are found for.
const COVERAGES: [f64; 3] = [0.95, 0.99, 0.999];
/// How much later than a window labels are looked for, by default.
const LONGEST_FACTOR: i64 = 10;
const AHEAD_MS_MIN: DurationMs = 60_000;

#[derive(Clone, Copy, Debug)]
pub struct AdviseOptions {
    /// Rows before it are left out; topics are read from the first record that a broker got then.
    pub from: Option<EventTime>,
    /// Rows at or behind it are left out.
    pub to: Option<EventTime>,
    /// Of each partition.
    pub records_max: u64,
    /// The longest delay looked for; by default ten times the window.
    pub longest_ms: Option<DurationMs>,
    /// What the kept rows may take.
    pub memory_bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Advice {
    pub pipeline: String,
    pub inputs: Vec<AdvisedInput>,
    /// Rows that could not be read.
    pub dead_lettered: u64,
    /// One key of so many was kept, and all counts of rows are of those; 1 is all keys.
    pub one_key_of: u64,
    pub samples: Vec<SampleAdvice>,
}

#[derive(Clone, Debug, Serialize)]
pub struct SampleAdvice {
    pub sample: String,
    /// Each once.
    pub impressions: u64,
    pub duplicate: u64,
    /// Of them, those that a run drops because they came late.
    pub late: u64,
    pub first: Option<EventTime>,
    pub last: Option<EventTime>,
    /// Of all keys, over the whole of what was read.
    pub per_second: f64,
    /// How long after its impression a row is in a file at most, once it is decided.
    pub file_after_ms: Option<DurationMs>,
    pub row_bytes: RowBytes,
    /// Feature columns of text or lists: their values are not in the bytes.
    pub unmeasured_features: Vec<String>,
    pub joins: Vec<JoinAdvice>,
    /// Why there is no advice, where there is none.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct JoinAdvice {
    pub join: String,
    pub within_ms: DurationMs,
    pub before_ms: DurationMs,
    /// All shares are of the labels that come within it.
    pub longest_ms: DurationMs,
    /// Impressions up to this time had `longest_ms` before the log of labels ended: only those count.
    pub impressions_until: EventTime,
    pub labels: LabelsSeen,
    pub label_bytes: LabelBytes,
    pub delays: Option<Quantiles>,
    pub ahead: Ahead,
    /// The share of the labels that the configured window takes in.
    pub coverage: Option<f64>,
    pub cost: Cost,
    pub windows: Vec<AdvisedWindow>,
    pub notes: Vec<String>,
}

/// Of sorted delays, so exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    pub p50_ms: i64,
    pub p90_ms: i64,
    pub p95_ms: i64,
    pub p99_ms: i64,
    pub p999_ms: i64,
    pub longest_ms: i64,
}

/// Labels that come before their impressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ahead {
    pub labels: u64,
    pub beyond_before: u64,
    /// The `before` that all but one in a thousand labels need.
    pub before_ms: DurationMs,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct AdvisedWindow {
    #[serde(flatten)]
    pub window: Window,
    pub cost: Option<Cost>,
}

/// What a window costs, with the sample's other windows as they are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// On average over what was read.
    pub pending_rows: u64,
    /// In the busiest stretch as long as a row is pending; `null` when what was read is shorter than that.
    pub pending_rows_busiest: Option<u64>,
    /// At the busiest, if that is known.
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    /// How long after its impression, in event time, a sample is decided.
    pub decided_after_ms: DurationMs,
}

/// Reads the inputs and says what they say of the windows.
pub fn advise(plan: &Plan, options: &AdviseOptions) -> Result<Advice, AuditError> {
    if plan.samples.iter().all(|sample| sample.join.labels.is_empty()) {
        return Err(AuditError::Asked(
            "no sample of this pipeline file joins labels: there is no window to advise on".into(),
        ));
    }
    let mut collected = Collected::new(plan, options.memory_bytes);
    let read = read_inputs(plan, options, &mut collected)?;
    let one_key_of = collected.one_key_of();
    let samples = plan.samples.iter().zip(collected.samples).zip(collected.probes);
    let samples = samples.map(|((sample, seen), probe)| {
        let unmeasured = probe.unmeasured.clone();
        let (row_bytes, label_bytes) = probe.finish()?;
        let study = Study { plan, options, sample, read: &read, one_key_of, row_bytes, label_bytes, unmeasured };
        Ok(study.run(seen))
    });
    let samples = samples.collect::<Result<Vec<_>, AuditError>>()?;
    Ok(Advice {
        pipeline: plan.pipeline.clone(),
        inputs: read.inputs,
        dead_lettered: read.dead_lettered,
        one_key_of,
        samples,
    })
}

/// One sample under study.
struct Study<'a> {
    plan: &'a Plan,
    options: &'a AdviseOptions,
    sample: &'a SamplePlan,
    read: &'a ReadInputs,
    one_key_of: u64,
    row_bytes: RowBytes,
    label_bytes: Vec<LabelBytes>,
    unmeasured: Vec<String>,
}

impl Study<'_> {
    fn run(self, mut seen: SampleSeen) -> SampleAdvice {
        let duplicate = each_once(&mut seen.impressions);
        let mut times: Vec<EventTime> = seen.impressions.iter().map(|one| one.ts).collect();
        times.sort_unstable();
        let (first, last) = (times.first().copied(), times.last().copied());
        let span_ms = first.zip(last).map_or(0, |(first, last)| last - first);
        let rate = if span_ms == 0 { 0.0 } else { (times.len() as u64 * self.one_key_of) as f64 / span_ms as f64 };
        let duplicates: Vec<u64> = seen.labels.iter_mut().map(each_once).collect();
        let mut notes = Vec::new();
        let pace = Pace { times: &times, rate, label_bytes: self.label_bytes_per_row(&seen) };
        let joins = (0..self.sample.join.labels.len()).filter_map(|label| {
            let advice = self.join(label, &seen, duplicates[label], &pace);
            if let Err(why) = &advice {
                notes.push(why.clone());
            }
            advice.ok()
        });
        let joins = joins.collect();
        SampleAdvice {
            sample: self.sample.sample.name.clone(),
            impressions: times.len() as u64,
            duplicate,
            late: seen.impressions.iter().filter(|one| one.lag_ms > 0).count() as u64,
            first,
            last,
            per_second: rate * 1e3,
            file_after_ms: self
                .sample
                .parquet
                .as_ref()
                .map(|parquet| parquet.roll_age_ms + self.plan.state.commit_every_ms),
            row_bytes: self.row_bytes,
            unmeasured_features: self.unmeasured,
            joins,
            notes,
        }
    }

    /// Bytes in memory and on disk of the labels that wait beside one impression, of all joins.
    fn label_bytes_per_row(&self, seen: &SampleSeen) -> LabelBytes {
        let rows = seen.impressions.len().max(1) as f64;
        let all = |of: fn(&LabelBytes) -> f64| {
            let bytes = seen.labels.iter().zip(&self.label_bytes).map(|(list, bytes)| list.len() as f64 * of(bytes));
            bytes.sum::<f64>() / rows
        };
        LabelBytes { memory: all(|bytes| bytes.memory), disk: all(|bytes| bytes.disk) }
    }

    fn join(&self, label: usize, seen: &SampleSeen, duplicate: u64, pace: &Pace<'_>) -> Result<JoinAdvice, String> {
        let spec = &self.sample.join.labels[label];
        let name = &spec.name;
        let stream = |number: u16| self.plan.streams[number as usize].name.as_str();
        let extent = |number: u16| self.read.extents[number as usize];
        let anchor = extent(self.sample.join.anchor).ok_or_else(|| format!("{name}: no impression was read"))?;
        let labels_in =
            extent(spec.stream).ok_or_else(|| format!("{name}: stream {} has no row", stream(spec.stream)))?;
        let begin = pace.times.first().copied().unwrap_or(anchor.to);
        let (longest_ms, mut notes) = self.longest(label, begin, labels_in);
        let reach = Reach { longest_ms, ahead_ms: (LONGEST_FACTOR * spec.before_ms).max(AHEAD_MS_MIN) };
        let others_ms = self.others_ms(label);
        let mut delays =
            delays_of(&seen.impressions, &seen.labels[label], (anchor, labels_in), reach, (others_ms, spec.before_ms));
        (delays.seen.duplicate, delays.seen.filtered) = (duplicate, seen.filtered[label]);
        if delays.delays.is_empty() {
            notes.push("no label of an impression that is old enough was read: there is no delay to learn from".into());
        }
        let (labels, beyond_before, before_ms) = delays.ahead(spec.before_ms);
        Ok(JoinAdvice {
            join: name.clone(),
            within_ms: spec.within_ms,
            before_ms: spec.before_ms,
            longest_ms,
            impressions_until: labels_in.to.saturating_sub(longest_ms),
            labels: delays.seen,
            label_bytes: self.label_bytes[label],
            delays: quantiles(&delays),
            ahead: Ahead { labels, beyond_before, before_ms },
            coverage: delays.coverage(spec.within_ms),
            cost: self.cost(spec.within_ms.max(others_ms), pace),
            windows: COVERAGES.iter().map(|coverage| self.window(&delays, *coverage, others_ms, pace)).collect(),
            notes,
        })
    }

    /// The longest delay to look for: at least half of the log is to have impressions that had so long.
    fn longest(&self, label: usize, begin: EventTime, labels_in: Extent) -> (DurationMs, Vec<String>) {
        let wanted = self.options.longest_ms.unwrap_or(LONGEST_FACTOR * self.sample.join.labels[label].within_ms);
        // In whole seconds, as somebody would write it.
        let room = floor_to((labels_in.to.saturating_sub(begin) / 2).max(0), 1_000);
        if wanted <= room {
            return (wanted, Vec::new());
        }
        let note = format!(
            "what was read of the labels ends at {}, {} behind the first impression: delays beyond half of that are not \
             looked for, though up to {} were wanted. Read more of the log to see them",
            human_time(labels_in.to),
            duration_text(room * 2),
            duration_text(wanted),
        );
        (room, vec![note])
    }

    /// The longest window of the sample's other joins.
    fn others_ms(&self, label: usize) -> DurationMs {
        let others = self.sample.join.labels.iter().enumerate().filter(|(other, _)| *other != label);
        others.map(|(_, other)| other.within_ms).max().unwrap_or(0)
    }

    fn window(&self, delays: &Delays, coverage: f64, others_ms: DurationMs, pace: &Pace<'_>) -> AdvisedWindow {
        let window = delays.window(coverage);
        AdvisedWindow { window, cost: window.within_ms.map(|within| self.cost(within.max(others_ms), pace)) }
    }

    /// What it costs that the longest window of the sample is `longest_ms`.
    fn cost(&self, longest_ms: DurationMs, pace: &Pace<'_>) -> Cost {
        let join = &self.sample.join;
        let streams = join.labels.iter().map(|label| label.stream).chain([join.anchor]);
        let lateness = streams.map(|stream| self.plan.streams[stream as usize].time.lateness_ms).max().unwrap_or(0);
        // A bucket closes as a whole, when the last of its rows may.
        let decided_after_ms = longest_ms + lateness + join.emit.bucket_ms_of(longest_ms);
        let held_ms = decided_after_ms + join.correct_ms;
        let rows_in = |ms: DurationMs| pace.rate * ms as f64;
        let pending = rows_in(held_ms);
        let pending_rows_busiest = busiest(pace.times, held_ms).map(|rows| rows * self.one_key_of);
        let most = pending_rows_busiest.map_or(pending, |rows| rows as f64);
        let remembered = rows_in(longest_ms + join.correct_ms + join.dedup_horizon_ms);
        // On disk rows stay until a file holds them.
        let until_filed = self.sample.parquet.as_ref().map_or(0.0, |parquet| rows_in(parquet.roll_age_ms));
        let (labels, rows) = (pace.label_bytes, self.row_bytes);
        Cost {
            pending_rows: pending.ceil() as u64,
            pending_rows_busiest,
            memory_bytes: (most * (rows.impression_memory + labels.memory) + remembered * CLOSED_MEMORY) as u64,
            disk_bytes: ((most + until_filed) * (rows.impression_disk + labels.disk) + remembered * CLOSED_DISK) as u64,
            decided_after_ms,
        }
    }
}

/// How fast impressions come, and what waits beside each.
struct Pace<'a> {
    /// Sorted.
    times: &'a [EventTime],
    /// Impressions of all keys per ms.
    rate: f64,
    label_bytes: LabelBytes,
}

fn quantiles(delays: &Delays) -> Option<Quantiles> {
    let at = |share| delays.quantile(share);
    Some(Quantiles {
        p50_ms: at(0.5)?,
        p90_ms: at(0.9)?,
        p95_ms: at(0.95)?,
        p99_ms: at(0.99)?,
        p999_ms: at(0.999)?,
        longest_ms: at(1.0)?,
    })
}
