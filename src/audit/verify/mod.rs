//! Verify: what was published, against what the input says it should be, by another road than the one it came.
//!
//!   positions of the newest manifest ─> input [start, committed) ─> decode ─> sort-merge join, windows by definition
//!                                                                              └─> rows ── compared with ── Parquet
//!
//! In: a plan, its state, its inputs, its published files. Out: a [`VerifyReport`].
//! Holds: rows that are pending, or closed and in no file yet, are not expected; a difference that the order of arrival may
//! have made is counted as explained, never hidden. Of a sample whose definition changed while the pipeline ran, only
//! impressions since then are compared, and books that begin at a change are not; the report says so.
//! Shared with a run, and so not checked here: sources, `decode` (with hashing and `where`), `sample::build` (computed
//! columns, negative sampling), the expressions of derived features. Not shared: routing, lanes, the join's state, tiles,
//! snapshots, commits, Parquet writing.
//! Does not: fit an input into less memory than its decoded columns take.

mod compare;
mod emit;
mod explain;
mod features;
mod files;
mod input;
mod join;

pub use compare::{ColumnDifference, Compared, Difference, Differences};
pub use files::{BadFile, FilesCompared};
pub use input::ReadRange;

use crate::audit::{AuditError, OwnState, open_existing, own_state};
use crate::commit::{Manifest, SampleNode, changed_nodes, first_impression};
use crate::config::{Plan, SamplePlan};
use crate::env::{Place, Store};
use crate::event::{CloseReason, EventTime, Fingerprint, Payload, StagedFile, StreamAccount};
use crate::feature::null_where;
use crate::join::{ClosedPart, ClosedRows, FeatureLayout, Features};
use crate::pipeline::outages_of;
use crate::sample::build;
use crate::sink::read_stored;
use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use compare::{Side, compare};
use emit::{Due, Filed, emission};
use explain::Explanations;
use features::Group;
use input::{Log, Row, read_log};
use join::{Anchors, Joined, KeySets, gather};
use serde::Serialize;
use std::collections::BTreeMap;

/// Impressions whose rows are built at once.
const ROWS_AT_ONCE: usize = 16_384;

#[derive(Clone, Copy, Debug)]
pub struct VerifyOptions {
    /// Impressions before it are left out, and the input may begin later than the run did.
    pub from: Option<EventTime>,
    /// Impressions at or behind it are left out.
    pub to: Option<EventTime>,
    /// How many differences of each kind are shown.
    pub examples_max: usize,
}

#[derive(Clone, Debug, Serialize)]
pub struct VerifyReport {
    pub pipeline: String,
    /// Number of the manifest whose claims were checked.
    pub manifest: u64,
    pub equal: bool,
    pub inputs: Vec<ReadRange>,
    pub streams: Vec<StreamCompared>,
    pub samples: Vec<SampleCompared>,
    pub problems: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct StreamCompared {
    pub stream: String,
    pub run: StreamAccount,
    pub recomputed: StreamAccount,
    /// When it was added or reset: its rows before were never read, or read as something else.
    pub since: Option<EventTime>,
    pub equal: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct SampleCompared {
    pub sample: String,
    /// Impressions before this time are in files, in every cell; `null` when none is.
    pub filed_before: Option<EventTime>,
    /// Impressions before it were written under another definition, and are not compared; `null` when none was.
    pub compared_from: Option<EventTime>,
    /// Rows that negative sampling leaves out, among those expected.
    pub sampled_out: u64,
    #[serde(flatten)]
    pub rows: Compared,
    pub files: FilesCompared,
    pub accounts: Vec<AccountCompared>,
}

/// One outcome of one use, as the run counted it and as it was counted here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AccountCompared {
    pub of: String,
    pub outcome: &'static str,
    pub run: u64,
    pub recomputed: u64,
    pub explained: bool,
}

/// Reconciles everything that is published with the input.
pub fn verify(plan: &Plan, options: VerifyOptions) -> Result<VerifyReport, AuditError> {
    let state = &own_state(plan)?;
    let head = &state.whole();
    let changed = changed_nodes(&head.semantics, &plan.semantics);
    if !changed.is_empty() {
        return Err(AuditError::Asked(format!(
            "the pipeline file is not the one that the state was written with ({}): verify with that file, or let a run \
             take the change over first",
            changed.join(", ")
        )));
    }
    let named = files::named_files(state)?;
    let log = read_log(plan, head, options.from.is_some())?;
    let groups = plan.groups.iter().zip(&head.layout.groups);
    let groups: Vec<Group<'_>> =
        groups.map(|(spec, node)| features::group(plan, spec, node.since, &log.streams)).collect();
    let mut report = VerifyReport {
        pipeline: plan.pipeline.clone(),
        manifest: head.number,
        equal: false,
        inputs: log.ranges.clone(),
        streams: streams(plan, head, &log),
        samples: Vec::new(),
        problems: Vec::new(),
    };
    let named_count: u64 =
        named.iter().filter(|(sink, _)| sink.starts_with("samples.")).map(|(_, f)| f.len() as u64).sum();
    if named_count != head.totals.files {
        report.problems.push(format!(
            "{} files were committed, but only {named_count} are still named: an older version of conjoin forgot the others \
             with their manifests, so those show as extra",
            head.totals.files
        ));
    }
    for (number, sample) in plan.samples.iter().enumerate() {
        let sink = format!("samples.{}", sample.sample.name);
        let files = named.get(&sink).map_or(&[][..], Vec::as_slice);
        let corrections = named.get(&format!("corrections.{}", sample.sample.name)).map_or(&[][..], Vec::as_slice);
        let node = &head.layout.samples[number];
        let audit = SampleAudit { plan, head, node, state, log: &log, groups: &groups, number, sample, options };
        match audit.run(&sink, files, corrections)? {
            Some(compared) => report.samples.push(compared),
            None => report.problems.push(format!("{sink} writes no Parquet: there is nothing to compare")),
        }
    }
    let whole_input = options.from.is_none();
    if whole_input && report.streams.iter().any(|stream| !stream.equal) {
        report.problems.push(
            "the input is not the one that was read: its accounts differ. If the log's start was deleted since, give --from"
                .into(),
        );
    }
    let sound = |sample: &SampleCompared| {
        let accounts = !whole_input || sample.accounts.iter().all(|account| account.explained);
        sample.rows.unexplained() == 0 && sample.files.bad() == 0 && accounts
    };
    report.equal = report.samples.iter().all(sound) && (!whole_input || report.streams.iter().all(|one| one.equal));
    Ok(report)
}

fn streams(plan: &Plan, head: &Manifest, log: &Log) -> Vec<StreamCompared> {
    let compared = plan.streams.iter().zip(&log.streams).map(|(stream, read)| {
        let run = head.streams.get(&stream.name).copied().unwrap_or_default();
        let node = head.layout.streams.iter().find(|node| node.name == stream.name);
        let since = node.map(|node| node.since).filter(|since| *since > EventTime::MIN);
        let equal = since.is_some() || run == read.account;
        StreamCompared { stream: stream.name.clone(), run, recomputed: read.account, since, equal }
    });
    compared.collect()
}

/// One sample on its way through the comparison.
struct SampleAudit<'a> {
    plan: &'a Plan,
    /// All cells together.
    head: &'a Manifest,
    node: &'a SampleNode,
    state: &'a OwnState,
    log: &'a Log,
    groups: &'a [Group<'a>],
    number: usize,
    sample: &'a SamplePlan,
    options: VerifyOptions,
}

impl SampleAudit<'_> {
    fn run(
        &self,
        sink: &str,
        named: &[StagedFile],
        corrections: &[StagedFile],
    ) -> Result<Option<SampleCompared>, AuditError> {
        let Some(parquet) = &self.sample.parquet else { return Ok(None) };
        let spec = &self.sample.join;
        let decode = |stream: u16| &self.plan.streams[stream as usize].decode;
        let before_ms = (0..spec.labels.len()).map(|label| spec.ahead_ms(label)).max().unwrap_or(0);
        let from = first_impression(self.node.since, before_ms, spec.bucket_ms);
        let sets = KeySets { id: decode(spec.anchor).id, key: decode(spec.anchor).key };
        let anchors = join::anchors(spec, &self.log.streams[spec.anchor as usize], sets, from);
        let mut joins: Vec<Joined<'_>> = Vec::with_capacity(spec.labels.len());
        for label in &spec.labels {
            let of_stream = (&self.log.streams[label.stream as usize], &decode(label.stream).schema);
            let sets = KeySets { id: decode(label.stream).id, key: label.key_set };
            joins.push(join::join(spec, label, of_stream, sets, &anchors, &joins));
        }
        let counts = self.head.counts.samples.get(self.number);
        let filed_before = self.state.chains.iter().filter_map(|chain| self.filed_before(chain.cell)).min();
        let id = self.id_columns();
        let schema = &self.sample.sample.schema;
        let broken = |error: ArrowError| AuditError::Asked(format!("sample {}: {error}", self.sample.sample.name));
        let mut expected = Side::new(schema, &id).map_err(broken)?;
        let sampled_out = self.expect(&anchors, &joins, &mut expected)?;
        let mut found = Side::new(schema, &id).map_err(broken)?;
        let (mut files, mut rows_read) = self.find_all(sink, &parquet.path, named, &mut found)?;
        if let Some(beside) = &self.sample.corrections {
            let sink = format!("corrections.{}", self.sample.sample.name);
            let (more, rows) = self.find_all(&sink, &beside.path, corrections, &mut found)?;
            files.add(more);
            rows_read += rows;
        }
        let run_counts = counts.cloned().unwrap_or_default();
        let lost_rows = files.named_rows.saturating_sub(rows_read);
        let mut explanations = Explanations::new(self, &anchors, &joins, &run_counts, lost_rows);
        let rows = compare(expected, found, &mut explanations, self.options.examples_max);
        let accounts = explanations.accounts();
        Ok(Some(SampleCompared {
            sample: self.sample.sample.name.clone(),
            filed_before,
            compared_from: self.compared_from(),
            sampled_out,
            rows,
            files,
            accounts,
        }))
    }

    /// Where the sample's id lies in its rows; empty where not all of it does.
    fn id_columns(&self) -> Vec<usize> {
        let decode = &self.plan.streams[self.sample.join.anchor as usize].decode;
        let place = |column: &usize| self.sample.sample.select.iter().position(|selected| selected == column);
        let places: Option<Vec<usize>> = decode.key_sets[decode.id].iter().map(place).collect();
        places.unwrap_or_default()
    }

    fn compared_from(&self) -> Option<EventTime> {
        Some(self.node.rows_since).filter(|since| *since > EventTime::MIN)
    }

    /// Impressions of a cell before this time are in files; `None` when none is.
    fn filed_before(&self, cell: u32) -> Option<EventTime> {
        let chain = self.state.chains.iter().find(|chain| chain.cell == cell)?;
        let through = chain.head().counts.samples.get(self.number)?.filed_through?;
        Some((i64::from(through) + 1) * self.sample.join.bucket_ms)
    }

    fn filed(&self, cell: u32) -> Filed {
        let chain = self.state.chains.iter().find(|chain| chain.cell == cell);
        let emitted = chain.and_then(|chain| chain.head().counts.samples.get(self.number)?.emitted_through);
        let emitted_before = emitted.map(|through| (i64::from(through) + 1) * self.sample.join.bucket_ms);
        Filed { before: self.filed_before(cell), emitted_before }
    }

    fn is_asked_for(&self, ts: EventTime) -> bool {
        let from = self.compared_from().max(self.options.from);
        from.is_none_or(|from| ts >= from) && self.options.to.is_none_or(|to| ts < to)
    }

    /// Files without a row that is compared, by path, with their rows: their columns may be others.
    fn files_of_old_rows<'f>(&self, named: &'f [StagedFile]) -> BTreeMap<&'f str, u64> {
        let old = named.iter().filter(|file| file.max_time < self.node.rows_since);
        old.flat_map(|file| [(file.staged.as_str(), file.rows), (file.path.as_str(), file.rows)]).collect()
    }

    /// Builds the rows that should be in files; gives how many negative sampling leaves out.
    fn expect(&self, anchors: &Anchors, joins: &[Joined<'_>], expected: &mut Side) -> Result<u64, AuditError> {
        let filed: BTreeMap<u32, Filed> =
            self.state.chains.iter().map(|chain| (chain.cell, self.filed(chain.cell))).collect();
        let stream = &self.log.streams[self.sample.join.anchor as usize];
        let due = |at: u32| {
            let row = anchors.all[at as usize].row;
            // A cell reads the partition of its number.
            let cell = self.state.cells.map_or(0, |_| stream.batches[row.batch as usize].delta.partition.partition);
            let filed = filed.get(&cell).copied().unwrap_or_default();
            let rows =
                if self.is_asked_for(row.ts) { emit::rows(&self.sample.join, anchors, joins, at) } else { Vec::new() };
            rows.into_iter().filter(move |due| filed.holds(row.ts, due))
        };
        let due: Vec<Due> = (0..anchors.all.len() as u32).flat_map(due).collect();
        let mut sampled_out = 0;
        for chunk in due.chunks(ROWS_AT_ONCE) {
            let built = self.build(anchors, joins, chunk).map_err(|error| AuditError::Asked(error.to_string()))?;
            sampled_out += built.1;
            expected.add(&built.0).map_err(|error| AuditError::Asked(error.to_string()))?;
        }
        Ok(sampled_out)
    }

    fn build(
        &self,
        anchors: &Anchors,
        joins: &[Joined<'_>],
        chunk: &[Due],
    ) -> Result<(RecordBatch, u64), Box<dyn std::error::Error>> {
        let spec = &self.sample.sample;
        let number = self.sample.join.anchor as usize;
        let (stream, schema) = (&self.log.streams[number], &self.plan.streams[number].decode.schema);
        let rows: Vec<Row> = chunk.iter().map(|due| anchors.all[due.anchor as usize].row).collect();
        let known: Vec<(u32, EventTime)> = chunk.iter().map(|due| (due.anchor, due.instant)).collect();
        let picked: Vec<Option<Row>> = rows.iter().copied().map(Some).collect();
        let columns = schema.fields().iter().enumerate();
        let columns = columns.map(|(column, field)| gather(field.data_type(), stream, column, &picked)).collect();
        let payload = RecordBatch::try_new(schema.clone(), columns)?;
        let instants: Vec<EventTime> = rows.iter().map(|row| row.ts - spec.serving_lag_ms).collect();
        let mut features: Vec<RecordBatch> = Vec::new();
        for group in &spec.groups {
            let entities: Vec<Fingerprint> = rows.iter().map(|row| stream.key(group.key_set, row)).collect();
            let values = self.groups[group.group].evaluate(&entities, &instants)?;
            let name = &self.plan.groups[group.group].name;
            let since = self.node.groups.get(name).copied().unwrap_or(EventTime::MIN);
            features.push(null_where(&values, &instants.iter().map(|instant| Some(*instant < since)).collect()));
        }
        let part = ClosedPart {
            payload: Payload::Memory(payload.clone()),
            keep: None,
            event_time: rows.iter().map(|row| row.ts).collect(),
            id: chunk.iter().map(|due| anchors.all[due.anchor as usize].id).collect(),
            features: Features::Memory(features.clone()),
            layout: FeatureLayout::none(),
            labels: joins.iter().map(|join| join.columns(&known)).collect(),
            emission: emission(chunk, joins),
        };
        let (reason, outages) = (CloseReason::End, outages_of(self.plan, self.head));
        let closed = ClosedRows { bucket: 0, reason, outages, parts: Vec::new() };
        let built = build(spec, self.number as u16, &closed, &part, &payload, &features)?;
        Ok((built.batch.rows, built.sampled_out))
    }

    /// Takes the rows of all files of a sink, and gives how the files are and how many rows they hold.
    fn find_all(
        &self,
        sink: &str,
        place: &Place,
        named: &[StagedFile],
        found: &mut Side,
    ) -> Result<(FilesCompared, u64), AuditError> {
        let Some(store) = open_existing(place)? else {
            return match named {
                [] => Ok(Default::default()),
                _ => Err(AuditError::Asked(format!("the folder {place} is gone"))),
            };
        };
        let (mut files, readable) = files::compare_files(self.state, self.head, sink, named, store.as_ref())?;
        let (old, mut rows_read) = (self.files_of_old_rows(named), 0);
        for path in readable {
            rows_read += match old.get(path.as_str()) {
                Some(rows) => *rows,
                None => self.find(store.as_ref(), &path, found, &mut files),
            };
        }
        Ok((files, rows_read))
    }

    /// Takes the rows of a file, and gives how many it holds; what cannot be read is damage.
    fn find(&self, store: &dyn Store, path: &str, found: &mut Side, files: &mut FilesCompared) -> u64 {
        let mut batches: Vec<RecordBatch> = Vec::new();
        let damaged = match read_stored(store, path, &mut |rows| batches.push(rows.clone())) {
            Ok(_) => batches.iter().try_for_each(|rows| found.add(&self.asked_for(rows)?)).err().map(|e| e.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(found) = damaged
            && !files.damaged.iter().any(|bad| bad.path == path)
        {
            files.damaged.push(BadFile { path: path.into(), found });
        }
        batches.iter().map(|rows| rows.num_rows() as u64).sum()
    }

    /// Rows in the range that was asked for.
    fn asked_for(&self, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        if self.compared_from().is_none() && self.options.from.is_none() && self.options.to.is_none() {
            return Ok(rows.clone());
        }
        let decode = &self.plan.streams[self.sample.join.anchor as usize].decode;
        let name = &decode.columns[decode.time].name;
        let times = rows.column_by_name(name).ok_or_else(|| {
            ArrowError::SchemaError(format!(
                "--from, --to and a definition that changed need the column {name} in the sample: select it"
            ))
        })?;
        let times = arrow::array::AsArray::as_primitive_opt::<arrow::datatypes::TimestampMillisecondType>(times)
            .ok_or_else(|| ArrowError::SchemaError(format!("the column {name} is no time")))?;
        let mask: arrow::array::BooleanArray =
            times.iter().map(|ts| Some(ts.is_some_and(|ts| self.is_asked_for(ts)))).collect();
        arrow::compute::filter_record_batch(rows, &mask)
    }
}
