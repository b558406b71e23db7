//! Explain: differences that the order of arrival may have made, which the log alone does not tell.
//!
//! A row is late by its own partition's log, and that is judged again exactly. But time also goes on while inputs are idle,
//! and files that have ended close everything: what comes afterwards was late for the run and is not late here. Of records
//! with one id and different contents the run took what came first. Missing rows are explained at most as often as the run
//! counted rows late beyond those that are; for columns the accounts say only that it happened, not to which row.

use super::compare::Explain;
use super::join::{Anchors, Joined};
use super::{AccountCompared, SampleAudit};
use crate::event::{EventTime, Fingerprint, SampleCounts};
use std::collections::BTreeSet;

pub(super) struct Explanations<'a> {
    conflicts: &'a BTreeSet<Fingerprint>,
    /// Missing rows that the run may have counted late.
    late_left: u64,
    /// Missing rows that lay in files: no lateness explains them. They are told first.
    lost_left: u64,
    /// Columns that arrival may have changed.
    unsure: Vec<bool>,
    grown: bool,
    accounts: Vec<AccountCompared>,
}

impl<'a> Explanations<'a> {
    pub fn new(
        audit: &SampleAudit<'_>,
        anchors: &'a Anchors,
        joins: &[Joined<'_>],
        run: &SampleCounts,
        lost_rows: u64,
    ) -> Self {
        let mut accounts = Vec::new();
        let late_left = run.anchor.late.saturating_sub(anchors.account.late);
        let grown = has_grown(audit);
        // Books that begin at a change hold less than the whole input gives.
        let is_whole = audit.node.since == EventTime::MIN;
        let anchor_unsure = late_left > 0 || !anchors.conflicts.is_empty();
        let ours = &anchors.account;
        for (outcome, run, recomputed) in [
            ("applied", run.anchor.applied, ours.applied),
            ("duplicate", run.anchor.duplicate, ours.duplicate),
            ("conflict", run.anchor.conflict, ours.conflict),
            ("late", run.anchor.late, ours.late),
        ] {
            let explained = run == recomputed || anchor_unsure || !is_whole;
            let of = audit.sample.sample.name.clone();
            accounts.push(AccountCompared { of, outcome, run, recomputed, explained });
        }
        let mut labels_unsure = Vec::new();
        for (join, run) in joins.iter().zip(&run.labels) {
            let ours = &join.account;
            let cut_off = audit.head.outages.iter().any(|outage| outage.stream == join.stream_name(audit.plan));
            let unsure = grown || cut_off || run.late > ours.late || join.conflicts > 0;
            for (outcome, run, recomputed) in [
                ("filtered", run.filtered, ours.filtered),
                ("applied", run.applied, ours.applied),
                ("duplicate", run.duplicate, ours.duplicate),
                ("conflict", run.conflict, ours.conflict),
                ("late", run.late, ours.late),
            ] {
                let explained = run == recomputed || unsure || !is_whole;
                let of = format!("{}.{}", audit.sample.sample.name, audit_join_name(audit, labels_unsure.len()));
                accounts.push(AccountCompared { of, outcome, run, recomputed, explained });
            }
            labels_unsure.push(unsure);
        }
        let mut groups_unsure = Vec::new();
        for group in &audit.sample.sample.groups {
            let ours = &audit.groups[group.group];
            let run = audit.head.counts.groups.get(group.group).map_or(&[][..], |counts| &counts.uses);
            let late = run.iter().zip(&ours.accounts).any(|(run, ours)| run.late > ours.late);
            let (unsure, is_whole) = (grown || late || ours.conflicts > 0, ours.is_whole);
            for (run, ours) in run.iter().zip(&ours.accounts) {
                for (outcome, run, recomputed) in [
                    ("masked", run.masked, ours.masked),
                    ("applied", run.applied, ours.applied),
                    ("duplicate", run.duplicate, ours.duplicate),
                    ("late", run.late, ours.late),
                ] {
                    let of = format!("features.{}", audit.plan.groups[group.group].name);
                    let explained = run == recomputed || unsure || !is_whole;
                    accounts.push(AccountCompared { of, outcome, run, recomputed, explained });
                }
            }
            groups_unsure.push(unsure);
        }
        let unsure = unsure_columns(audit, joins, &labels_unsure, &groups_unsure, anchor_unsure);
        Explanations { conflicts: &anchors.conflicts, late_left, lost_left: lost_rows, unsure, grown, accounts }
    }

    pub fn accounts(self) -> Vec<AccountCompared> {
        self.accounts
    }
}

/// Whether files may have been read after all files had ended: at the end everything that is pending closes with what is
/// there by then, and labels that wait are forgotten. What comes in a later file meets neither.
fn has_grown(audit: &SampleAudit<'_>) -> bool {
    let files = |input: &crate::source::InputSpec| matches!(input.kind, crate::source::InputKind::File { .. });
    audit.head.epoch > 1 && audit.plan.inputs.iter().any(files)
}

fn audit_join_name<'a>(audit: &'a SampleAudit<'_>, number: usize) -> &'a str {
    audit.sample.join.labels.get(number).map_or("?", |label| &label.name)
}

/// For each output column whether arrival may have changed it, by its place in the wide layout: the impression's columns,
/// each join's, each group's, then what is computed from them.
fn unsure_columns(
    audit: &SampleAudit<'_>,
    joins: &[Joined<'_>],
    labels: &[bool],
    groups: &[bool],
    anchors: bool,
) -> Vec<bool> {
    let spec = &audit.sample.sample;
    let decode = &audit.plan.streams[audit.sample.join.anchor as usize].decode;
    let mut wide = vec![false; decode.columns.len()];
    for (join, unsure) in joins.iter().zip(labels) {
        // Without the impression that was late, its labels go to another one.
        wide.extend(vec![*unsure || anchors; join.columns(&[]).len()]);
    }
    for (group, unsure) in spec.groups.iter().zip(groups) {
        wide.extend(vec![*unsure; audit.plan.groups[group.group].outputs.fields().len()]);
    }
    let any = wide.contains(&true);
    wide.resize(spec.wide.fields().len(), any);
    let selected = spec.select.iter().map(|column| wide.get(*column).copied().unwrap_or(any));
    let mut unsure: Vec<bool> = selected.collect();
    // The weight of negative sampling follows from the others.
    unsure.resize(spec.schema.fields().len(), any);
    unsure
}

impl Explain for Explanations<'_> {
    fn row(&mut self, id: Fingerprint, extra: bool) -> Option<String> {
        if self.conflicts.contains(&id) {
            return Some("records with this id have different contents: which one counted depends on arrival".into());
        }
        if extra {
            return None;
        }
        if self.lost_left > 0 {
            self.lost_left -= 1;
            return None;
        }
        self.late_left = self.late_left.checked_sub(1)?;
        Some(
            "the run counted as many rows late that are not late by their own partition: an idle or ended input".into(),
        )
    }

    fn columns(&mut self, id: Fingerprint, columns: &[usize]) -> Option<String> {
        if self.conflicts.contains(&id) {
            return Some("records with this id have different contents: which one counted depends on arrival".into());
        }
        let all = columns.iter().all(|column| self.unsure[*column]);
        let why = match self.grown {
            true => {
                "files came after all files had ended, and what was pending had closed: its labels and features too"
            }
            false => "its labels or features have rows that were late, or in conflict, by arrival alone",
        };
        all.then(|| why.into())
    }
}
