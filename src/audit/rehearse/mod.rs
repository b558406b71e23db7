//! Rehearse: runs a test of a pipeline in memory, and tells where what came out is not what the test expects.
//!
//!   steps ──> Rehearsal ──> rows, letters, features, counts ─┐
//!   expectations ────────────────────────────────────────────┴─> problems, column by column
//!
//! Holds: a test without problems saw every row, letter and count that it names, and no row or letter besides.

mod compare;
mod value;

use crate::config::{CountsOf, ExpectedCounts, ExpectedEntity, LETTER_COLUMNS, Plan, TestCase, TestRecord, TestStep};
use crate::dimension::Dimension;
use crate::event::{FeatureAccount, PartitionId, PositionDelta, RawBatch, RawRecord, Rejected, entity_key};
use crate::pipeline::{Dimensions, Rehearsal, RunError};
use compare::{compare, diff};
use serde::Serialize;
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use value::{Clock, Found, found_rows};

/// How a test went.
#[derive(Clone, Debug, Serialize)]
pub struct TestOutcome {
    pub name: String,
    pub file: String,
    pub line: u32,
    pub passed: bool,
    pub problems: Vec<TestProblem>,
}

/// One thing that is not as expected.
#[derive(Clone, Debug, Serialize)]
pub struct TestProblem {
    /// Such as `samples.ctr`.
    pub about: String,
    /// Of the expectation, or of the record that is to blame.
    pub file: Option<String>,
    pub line: Option<u32>,
    pub kind: ProblemKind,
    pub columns: Vec<ComparedColumn>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// There is one that differs in some columns.
    Different,
    /// Nothing like it came out.
    Missing,
    /// It came out, and no expectation is left for it.
    Unexpected,
}

#[derive(Clone, Debug, Serialize)]
pub struct ComparedColumn {
    pub column: String,
    pub expected: Option<String>,
    pub found: Option<String>,
    pub equal: bool,
}

/// Runs a test.
pub fn rehearse(plan: &Arc<Plan>, case: &TestCase) -> Result<TestOutcome, RunError> {
    let expected = case.features.iter().flat_map(|(_, rows)| rows);
    let needed = expected.filter_map(|entity| entity.at).min().unwrap_or(i64::MAX);
    let mut rehearsal = Rehearsal::new(plan, &partitions(plan, case), needed, &dimensions(plan, case));
    let mut records = BTreeMap::new();
    let written: BTreeSet<u16> = (0..plan.streams.len()).filter_map(|stream| first_input(plan, stream)).collect();
    let inputs = 0..plan.inputs.len() as u16;
    // A topic that no record of the test can be in says nothing about time.
    inputs.clone().filter(|input| !written.contains(input)).try_for_each(|input| rehearsal.end(input))?;
    for step in &case.steps {
        match step {
            TestStep::Record(record) => {
                let position = rehearsal.position(record.partition);
                records.insert((record.partition, position), record);
                rehearsal.take(&pack(record, position))?;
            }
            TestStep::Wait(ms) => rehearsal.wait(*ms)?,
            TestStep::End(ended) => ended.iter().try_for_each(|input| rehearsal.end(*input))?,
        }
    }
    if case.close {
        inputs.clone().try_for_each(|input| rehearsal.end(input))?;
    }
    rehearsal.finish()?;
    let judge = Judge { plan, case, rehearsal: &rehearsal, records: &records };
    let problems = judge.problems();
    Ok(TestOutcome {
        name: case.name.clone(),
        file: case.place.file.clone(),
        line: case.place.line,
        passed: problems.is_empty(),
        problems,
    })
}

fn dimensions(plan: &Plan, case: &TestCase) -> Arc<Dimensions> {
    let all = plan.dimensions.iter().enumerate().map(|(number, planned)| {
        let given = case.dimensions.iter().find(|(of, _)| *of == number);
        Dimension::of_rows(planned.spec.clone(), given.map_or(&[], |(_, rows)| rows))
    });
    Dimensions::of(all.collect())
}

fn first_input(plan: &Plan, stream: usize) -> Option<u16> {
    plan.inputs.iter().position(|input| input.streams.contains(&(stream as u16))).map(|input| input as u16)
}

/// Every input has a partition, and all up to the last that a record lies in.
fn partitions(plan: &Plan, case: &TestCase) -> BTreeSet<PartitionId> {
    let mut last = vec![0; plan.inputs.len()];
    for step in &case.steps {
        if let TestStep::Record(TestRecord { partition, .. }) = step {
            let last = &mut last[partition.input as usize];
            *last = partition.partition.max(*last);
        }
    }
    let of =
        |(input, last): (usize, u32)| (0..=last).map(move |partition| PartitionId { input: input as u16, partition });
    last.into_iter().enumerate().flat_map(of).collect()
}

fn pack(record: &TestRecord, position: i64) -> RawBatch {
    let mut bytes = Vec::new();
    let mut put = |part: &[u8]| -> Range<u32> {
        let start = bytes.len() as u32;
        bytes.extend_from_slice(part);
        start..bytes.len() as u32
    };
    let raw = RawRecord {
        payload: record.payload.as_deref().map(&mut put),
        position,
        broker_time: record.broker_time,
        key: record.key.as_deref().map(&mut put),
        headers: record.headers.iter().map(|(name, value)| (put(name.as_bytes()), put(value))).collect(),
    };
    let delta = PositionDelta { partition: record.partition, from: position, to: position + 1 };
    RawBatch { delta, bytes, records: vec![raw] }
}

struct Judge<'a> {
    plan: &'a Plan,
    case: &'a TestCase,
    rehearsal: &'a Rehearsal,
    records: &'a BTreeMap<(PartitionId, i64), &'a TestRecord>,
}

impl Judge<'_> {
    fn problems(&self) -> Vec<TestProblem> {
        let mut problems = self.letters();
        for (sample, expected) in &self.case.samples {
            let spec = &self.plan.samples[*sample].sample;
            let names: Vec<&str> = spec.schema.fields().iter().map(|field| field.name().as_str()).collect();
            let found: Vec<Vec<Found>> = self.rehearsal.rows[*sample].iter().flat_map(found_rows).collect();
            let about = format!("samples.{}", spec.name);
            problems.extend(compare(&about, &names, expected, &found, self.case.start).into_iter().map(|(one, _)| one));
        }
        for (group, expected) in &self.case.features {
            problems.extend(expected.iter().filter_map(|entity| self.features(*group, entity)));
        }
        problems.extend(self.case.counts.iter().filter_map(|counts| self.counts(counts)));
        problems
    }

    /// Records that could not be read, first of all: they are why other things are missing.
    fn letters(&self) -> Vec<TestProblem> {
        let text = |text: &str| Found::Text(text.into());
        let rejected = &self.rehearsal.rejected;
        let row = |letter: &Rejected| {
            let item = letter.item.map_or(Found::Null, |item| Found::Int(item as i64));
            vec![
                text(&self.plan.streams[letter.stream as usize].name),
                text(letter.kind.name()),
                item,
                text(&letter.message),
            ]
        };
        let found: Vec<Vec<Found>> = rejected.iter().map(row).collect();
        let problems = compare("dead_letters", &LETTER_COLUMNS, &self.case.dead_letters, &found, self.case.start);
        let placed = problems.into_iter().map(|(mut problem, row)| {
            // What nobody expected is told where its record stands.
            let letter = row.filter(|_| problem.line.is_none()).map(|row| &rejected[row]);
            if let Some(record) = letter.and_then(|letter| self.records.get(&(letter.partition, letter.position))) {
                (problem.file, problem.line) = (Some(record.place.file.clone()), Some(record.place.line));
            }
            problem
        });
        placed.collect()
    }

    fn features(&self, group: usize, expected: &ExpectedEntity) -> Option<TestProblem> {
        let spec = &self.plan.groups[group];
        let row = match expected.at {
            Some(at) => found_rows(&self.rehearsal.features(group, &expected.entity, at)).into_iter().next(),
            None => self.published(group, expected),
        };
        let names: Vec<&str> = spec.outputs.fields().iter().map(|field| field.name().as_str()).collect();
        let clock = Clock::of(self.case.start, std::slice::from_ref(&expected.row));
        let mut problem = diff(&format!("features.{}", spec.name), &names, &expected.row, row.as_deref(), clock)?;
        let shown = |text: String| (Some(text.clone()), Some(text).filter(|_| row.is_some()));
        let who = spec.entity.iter().zip(&expected.entity).map(|((name, _), value)| {
            let (expected, found) = shown(entity_key(std::slice::from_ref(value)).unwrap_or_default());
            ComparedColumn { column: name.clone(), expected, found, equal: true }
        });
        let when = expected.at.map(|at| {
            let (expected, found) = shown(Found::Time(at).shown(clock));
            ComparedColumn { column: "at".into(), expected, found, equal: true }
        });
        problem.columns = who.chain(when).chain(problem.columns).collect();
        Some(problem)
    }

    /// What the online store was told last.
    fn published(&self, group: usize, expected: &ExpectedEntity) -> Option<Vec<Found>> {
        let key = entity_key(&expected.entity)?;
        let batches = self.rehearsal.published.iter().rev().filter(|batch| batch.group as usize == group);
        let mut found = batches.filter_map(|batch| Some((batch, batch.entities.iter().rposition(|one| *one == key)?)));
        let (batch, row) = found.next()?;
        found_rows(&batch.values.slice(row, 1)).into_iter().next()
    }

    fn counts(&self, expected: &ExpectedCounts) -> Option<TestProblem> {
        let counts = self.rehearsal.counts();
        let (about, books) = match expected.of {
            CountsOf::Stream(stream) => {
                (format!("streams.{}", self.plan.streams[stream].name), json(&self.rehearsal.accounts()[stream]))
            }
            CountsOf::Sample(sample) => {
                (format!("samples.{}", self.plan.samples[sample].sample.name), json(&counts.samples[sample].anchor))
            }
            CountsOf::Label(sample, label) => {
                let plan = &self.plan.samples[sample];
                let about = format!("samples.{}.labels.{}", plan.sample.name, plan.join.labels[label].name);
                (about, json(&counts.samples[sample].labels[label]))
            }
            CountsOf::Group(group) => {
                let mut sum = FeatureAccount::default();
                counts.groups[group].uses.iter().for_each(|account| sum += *account);
                (format!("features.{}", self.plan.groups[group].name), json(&sum))
            }
        };
        let columns = expected.counts.iter().map(|(name, count)| {
            let found = books.get(name).and_then(Json::as_u64);
            let (column, equal) = (name.clone(), found == Some(*count));
            let (expected, found) = (Some(count.to_string()), found.map(|count| count.to_string()));
            ComparedColumn { column, expected, found, equal }
        });
        let columns: Vec<ComparedColumn> = columns.collect();
        let is_wrong = columns.iter().any(|column| !column.equal);
        is_wrong.then(|| TestProblem {
            about: format!("counts.{about}"),
            file: Some(expected.place.file.clone()),
            line: Some(expected.place.line),
            kind: ProblemKind::Different,
            columns,
        })
    }
}

/// An account by the names of its counts.
fn json(account: &impl Serialize) -> Json {
    serde_json::to_value(account).expect("an account is plain data")
}
