//! Change: what a pipeline file that differs from the one the state was written with means for the state.
//!
//!   last manifest, new definition, --reset ─> the manifest to go on with, and what to tell │ refused, by name
//!
//! Everything that begins at a change begins at one time of it: one past the newest event that had been read. Whatever is
//! as new or newer is seen whole by what began; so a window that starts there is full, and an impression with its labels
//! is complete. The time is in the manifest, hence the same after a crash and at any number of lanes.
//!
//! In: facts that were read. Out: a decision.
//! Holds: a node that keeps its definition keeps its state and its books, whatever the order of nodes (F1); what is
//! forgotten is told with its rows; numbers of nodes are never given twice, so forgotten blocks stay forgotten.
//! Does not: touch a store.

use crate::commit::manifest::{GroupNode, Layout, Manifest, OutboxMark, SampleNode, StreamNode};
use crate::commit::protocol::ClaimRefusal;
use crate::event::{DurationMs, EventTime, GroupCounts, LabelAccount, SampleCounts};
use arrow::temporal_conversions::timestamp_ms_to_datetime;
use std::collections::{BTreeMap, BTreeSet};

/// A pipeline in the words of its state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definition {
    /// Per node a hash of what gives its state meaning.
    pub semantics: BTreeMap<String, String>,
    pub streams: Vec<String>,
    pub samples: Vec<SampleShape>,
    pub groups: Vec<GroupShape>,
    /// What is sent to topics, as manifests call it.
    pub outlets: BTreeSet<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SampleShape {
    pub name: String,
    /// The anchor, then each label stream.
    pub streams: Vec<String>,
    /// The feature groups stitched onto it.
    pub groups: Vec<String>,
    pub bucket_ms: DurationMs,
    /// The longest `before` of its joins.
    pub before_ms: DurationMs,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupShape {
    pub name: String,
    /// Of each use.
    pub streams: Vec<String>,
}

/// A definition that goes on from a state.
#[derive(Debug, PartialEq)]
pub struct Accepted {
    /// The last manifest in the words of the new definition.
    pub next: Manifest,
    /// What became of the state, a line each; empty when nothing changed.
    pub notes: Vec<String>,
}

/// Decides whether `new` can go on from `last`. `resets` are nodes (`streams.a`, `joins.b`, `samples.b`, `features.c`)
/// whose state is to be forgotten.
pub fn decide(last: &Manifest, new: &Definition, resets: &BTreeSet<String>) -> Result<Accepted, ClaimRefusal> {
    check_resets(last, new, resets)?;
    let since = time_of_change(last);
    let next_node = last.layout.next_node;
    let mut judge = Judge { last, new, resets, since, next_node, refused: Vec::new(), notes: Vec::new() };
    let streams = judge.streams();
    let (groups, group_counts) = judge.groups();
    let (samples, sample_counts) = judge.samples();
    let outbox = judge.outbox(&samples);
    if !judge.refused.is_empty() {
        return Err(ClaimRefusal::Semantics { nodes: judge.refused });
    }
    let layout = Layout { streams, samples, groups, next_node: judge.next_node, ..last.layout.clone() };
    let (stays, gone): (BTreeMap<_, _>, BTreeMap<_, _>) = last
        .streams
        .iter()
        .map(|(name, account)| (name.clone(), *account))
        .partition(|(name, _)| new.streams.contains(name));
    let mut counts = last.counts.clone();
    (counts.samples, counts.groups) = (sample_counts, group_counts);
    let next = Manifest {
        semantics: new.semantics.clone(),
        needed_from: last.needed_from.iter().copied().filter(|(class, _)| layout.place(*class).is_some()).collect(),
        tracks: last.tracks.iter().filter(|track| new.streams.contains(&track.stream)).cloned().collect(),
        streams: stays,
        outbox,
        dead_letters_gone: last.dead_letters_gone + gone.values().map(|account| account.dead_lettered).sum::<u64>(),
        counts,
        layout,
        ..last.clone()
    };
    Ok(Accepted { next, notes: judge.notes })
}

/// The layout of a chain that is born with the definition.
pub fn first_layout(new: &Definition, key_groups: u16) -> Layout {
    let since = EventTime::MIN;
    let mut layout = Layout { key_groups, ..Layout::default() };
    layout.streams = new.streams.iter().map(|name| StreamNode { name: name.clone(), since }).collect();
    for shape in &new.samples {
        let number = take_number(&mut layout.next_node);
        let groups = shape.groups.iter().map(|group| (group.clone(), since)).collect();
        let base = vec![0; shape.streams.len()];
        layout.samples.push(SampleNode { name: shape.name.clone(), number, since, base, groups, rows_since: since });
    }
    for shape in &new.groups {
        let number = take_number(&mut layout.next_node);
        let base = vec![0; shape.streams.len()];
        layout.groups.push(GroupNode { name: shape.name.clone(), number, cut: 0, since, base });
    }
    layout
}

/// One past the newest event that was read, and never below the watermark.
pub fn time_of_change(last: &Manifest) -> EventTime {
    let newest = last.tracks.iter().map(|track| track.newest).max().unwrap_or(EventTime::MIN);
    let newest = if newest == EventTime::MIN { newest } else { newest.saturating_add(1) };
    last.watermark.max(newest)
}

/// The first impression of a sample that began at `since`: all labels that it may have are as new. Buckets close as a
/// whole, so that it begins with a whole one.
pub fn first_impression(since: EventTime, before_ms: DurationMs, bucket_ms: DurationMs) -> EventTime {
    match since {
        EventTime::MIN => since,
        _ => {
            let (begin, bucket_ms) = (since.max(1).saturating_add(before_ms), bucket_ms.max(1));
            ((begin - 1) / bucket_ms + 1).saturating_mul(bucket_ms)
        }
    }
}

/// Nodes that are there on one side only, or mean something else.
pub fn changed_nodes(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<String> {
    let gone = old.keys().filter(|node| !new.contains_key(*node)).map(|node| format!("{node} is gone"));
    let changed = new.iter().filter_map(|(node, hash)| match old.get(node) {
        None => Some(format!("{node} is new")),
        Some(other) if other != hash => Some(format!("{node} is different")),
        Some(_) => None,
    });
    gone.chain(changed).collect()
}

fn check_resets(last: &Manifest, new: &Definition, resets: &BTreeSet<String>) -> Result<(), ClaimRefusal> {
    let resettable =
        |node: &&String| ["streams.", "joins.", "samples.", "features."].iter().any(|kind| node.starts_with(kind));
    let known: BTreeSet<String> =
        last.semantics.keys().chain(new.semantics.keys()).filter(resettable).cloned().collect();
    match resets.iter().find(|node| !known.contains(*node)) {
        Some(node) => Err(ClaimRefusal::UnknownNode { node: node.clone(), known: known.into_iter().collect() }),
        None => Ok(()),
    }
}

fn take_number(next: &mut u16) -> u16 {
    let number = *next;
    *next = number.checked_add(1).expect("65,535 nodes are more changes than a chain sees");
    number
}

/// A time for people.
fn shown(time: EventTime) -> String {
    match timestamp_ms_to_datetime(time) {
        Some(time) => time.format("%Y-%m-%d %H:%M:%S%.3fZ").to_string(),
        None => "the first record on".into(),
    }
}

struct Judge<'a> {
    last: &'a Manifest,
    new: &'a Definition,
    resets: &'a BTreeSet<String>,
    since: EventTime,
    next_node: u16,
    refused: Vec<String>,
    notes: Vec<String>,
}

impl Judge<'_> {
    fn is_reset(&self, node: String) -> bool {
        self.resets.contains(&node)
    }

    /// Whether a node is on both sides and means something else.
    fn differs(&self, node: String) -> bool {
        let (old, new) = (self.last.semantics.get(&node), self.new.semantics.get(&node));
        old.is_some() && new.is_some() && old != new
    }

    /// What is made of a stream that is reset begins anew with it.
    fn on_a_reset_stream(&self, streams: &[String]) -> bool {
        streams.iter().any(|stream| self.is_reset(format!("streams.{stream}")))
    }

    fn accepted(&self, streams: &[String]) -> Vec<u64> {
        let accepted = |stream: &String| self.last.streams.get(stream).map_or(0, |account| account.accepted);
        streams.iter().map(accepted).collect()
    }

    fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    fn streams(&mut self) -> Vec<StreamNode> {
        let (last, new, since) = (self.last, self.new, self.since);
        let mut nodes = Vec::with_capacity(new.streams.len());
        for name in &new.streams {
            let node = format!("streams.{name}");
            let begins = StreamNode { name: name.clone(), since };
            nodes.push(match last.layout.streams.iter().find(|stream| stream.name == *name) {
                None => {
                    self.note(format!(
                        "{node} is new: rows of it that are older than {} are late",
                        shown(last.watermark)
                    ));
                    begins
                }
                Some(_) if self.is_reset(node.clone()) => {
                    self.note(format!(
                        "{node} is taken as it is defined now, and all that was made of it is forgotten"
                    ));
                    begins
                }
                Some(kept) => {
                    if self.differs(node.clone()) {
                        self.refused.push(format!("{node} is different ({})", self.lost_with(name)));
                    }
                    kept.clone()
                }
            });
        }
        for gone in last.layout.streams.iter().filter(|stream| !new.streams.contains(&stream.name)) {
            self.note(format!("streams.{} is gone: how far it was read is forgotten", gone.name));
        }
        nodes
    }

    /// What `--reset` of a stream costs.
    fn lost_with(&self, stream: &String) -> String {
        let samples = self.new.samples.iter().filter(|shape| shape.streams.contains(stream)).filter_map(|shape| {
            let held = self.held(&shape.name)?;
            Some(format!("{held} of samples.{}", shape.name))
        });
        let groups = self.new.groups.iter().filter(|shape| shape.streams.contains(stream)).filter_map(|shape| {
            let counts = self.group_counts(&shape.name)?;
            Some(format!("the state of {} entities of features.{}", counts.entities, shape.name))
        });
        let lost: Vec<String> = samples.chain(groups).collect();
        match lost.is_empty() {
            true => format!("--reset streams.{stream} forgets nothing else"),
            false => format!("--reset streams.{stream} forgets {}", lost.join("; ")),
        }
    }

    fn sample_counts(&self, name: &str) -> Option<&SampleCounts> {
        let at = self.last.layout.samples.iter().position(|sample| sample.name == name)?;
        self.last.counts.samples.get(at)
    }

    fn group_counts(&self, name: &str) -> Option<&GroupCounts> {
        let at = self.last.layout.groups.iter().position(|group| group.name == name)?;
        self.last.counts.groups.get(at)
    }

    /// What a sample holds that a reset would lose.
    fn held(&self, sample: &str) -> Option<String> {
        let counts = self.sample_counts(sample)?;
        let waiting: u64 = counts.labels.iter().map(|label| label.waiting).sum();
        let unfiled = match is_filed(counts) {
            true => "",
            false => ", and what closed since the last file",
        };
        Some(format!("{} pending impressions and {waiting} waiting labels{unfiled}", counts.anchor.pending))
    }

    fn groups(&mut self) -> (Vec<GroupNode>, Vec<GroupCounts>) {
        let (last, new) = (self.last, self.new);
        let (mut nodes, mut counts) = (Vec::new(), Vec::new());
        for shape in &new.groups {
            let node = format!("features.{}", shape.name);
            let old = last.layout.groups.iter().find(|group| group.name == shape.name);
            let reset = self.is_reset(node.clone()) || self.on_a_reset_stream(&shape.streams);
            let Some(kept) = old.filter(|_| !reset) else {
                let what = match self.group_counts(&shape.name) {
                    Some(counts) => format!("forgets the state of {} entities", counts.entities),
                    None => "is new".into(),
                };
                let since = shown(self.since);
                self.note(format!("{node} {what}: a window is null until it begins at or after {since}"));
                let number = take_number(&mut self.next_node);
                let base = self.accepted(&shape.streams);
                let name = shape.name.clone();
                nodes.push(GroupNode { name, number, cut: last.cut, since: self.since, base });
                counts.push(GroupCounts { uses: vec![Default::default(); shape.streams.len()], ..Default::default() });
                continue;
            };
            let kept_counts = self.group_counts(&shape.name).cloned().unwrap_or_default();
            if self.differs(node.clone()) {
                let entities = kept_counts.entities;
                self.refused
                    .push(format!("{node} is different (--reset {node} forgets the state of {entities} entities)"));
            }
            if self.differs(format!("derived.{}", shape.name)) {
                self.note(format!("{node}: derived columns are computed as they are defined now"));
            }
            nodes.push(kept.clone());
            counts.push(kept_counts);
        }
        for gone in last.layout.groups.iter().filter(|group| !new.groups.iter().any(|shape| shape.name == group.name)) {
            let entities = self.group_counts(&gone.name).map_or(0, |counts| counts.entities);
            self.note(format!("features.{} is gone: the state of {entities} entities is dropped", gone.name));
        }
        (nodes, counts)
    }

    fn samples(&mut self) -> (Vec<SampleNode>, Vec<SampleCounts>) {
        let new = self.new;
        let (nodes, counts) = new.samples.iter().map(|shape| self.sample(shape)).unzip();
        let gone: Vec<String> = self.last.layout.samples.iter().map(|sample| sample.name.clone()).collect();
        for name in gone.into_iter().filter(|name| !new.samples.iter().any(|shape| shape.name == *name)) {
            let held = self.held(&name).unwrap_or_default();
            let loses = self.sample_counts(&name).is_some_and(|counts| counts.anchor.pending > 0 || !is_filed(counts));
            if loses && !self.is_reset(format!("samples.{name}")) && !self.is_reset(format!("joins.{name}")) {
                self.refused.push(format!("samples.{name} is gone (--reset samples.{name} forgets {held})"));
            } else {
                self.note(format!("samples.{name} is gone: {held} are dropped"));
            }
        }
        (nodes, counts)
    }

    fn sample(&mut self, shape: &SampleShape) -> (SampleNode, SampleCounts) {
        let (join, node) = (format!("joins.{}", shape.name), format!("samples.{}", shape.name));
        let old = self.last.layout.samples.iter().find(|sample| sample.name == shape.name);
        let reset =
            self.is_reset(join.clone()) || self.is_reset(node.clone()) || self.on_a_reset_stream(&shape.streams);
        let Some(kept) = old.filter(|_| !reset) else { return self.begin(shape, &node) };
        let counts = self.sample_counts(&shape.name).cloned().unwrap_or_default();
        let held = self.held(&shape.name).unwrap_or_default();
        if self.differs(join.clone()) {
            self.refused.push(format!("{join} is different (--reset {join} forgets {held})"));
        }
        if self.differs(node.clone()) {
            self.refused.push(format!("{node} is different in its serving_lag (--reset {node} forgets {held})"));
        }
        let negatives = self.differs(format!("negatives.{}", shape.name));
        if negatives && !is_filed(&counts) {
            self.refused.push(format!(
                "{node} is different in its negatives, and rows that closed are in no file yet (start once more with the \
                 old definition and stop in order; or --reset {node} forgets {held})"
            ));
        }
        let since = self.since;
        let groups = shape.groups.iter().map(|group| (group.clone(), kept.groups.get(group).copied().unwrap_or(since)));
        let groups: BTreeMap<String, EventTime> = groups.collect();
        let of_groups = shape.groups.iter().any(|group| {
            let (features, derived) = (format!("features.{group}"), format!("derived.{group}"));
            self.differs(derived) || self.is_reset(features) || self.group_streams_are_reset(group)
        });
        let columns = self.differs(format!("columns.{}", shape.name));
        if columns || negatives {
            self.note(format!("{node}: rows are written as they are defined now, those that were pending too"));
        }
        let added: Vec<&str> =
            groups.keys().filter(|group| !kept.groups.contains_key(*group)).map(String::as_str).collect();
        if !added.is_empty() {
            let (groups, since) = (added.join(", "), shown(since));
            self.note(format!("{node} gets the features of {groups}: null for impressions before {since}"));
        }
        let changed = columns || negatives || of_groups || groups != kept.groups;
        let rows_since = if changed { since } else { kept.rows_since };
        (SampleNode { groups, rows_since, ..kept.clone() }, counts)
    }

    /// The outlets that go on. Rows that were committed for a topic leave the state by going there, or by a reset.
    fn outbox(&mut self, samples: &[SampleNode]) -> BTreeMap<String, OutboxMark> {
        let (last, mut kept) = (self.last, BTreeMap::new());
        for (outlet, mark) in &last.outbox {
            let node = last.layout.samples.iter().find(|sample| sample.number == mark.node);
            let stays = samples.iter().any(|sample| sample.number == mark.node);
            if stays && self.new.outlets.contains(outlet) {
                kept.insert(outlet.clone(), *mark);
                continue;
            }
            let reset = node.is_some_and(|node| {
                let name = &node.name;
                self.is_reset(format!("joins.{name}")) || self.is_reset(format!("samples.{name}"))
            });
            match mark.waiting() {
                0 => {}
                rows if reset => self.note(format!("{outlet}: {rows} rows that are not in its topic yet are forgotten")),
                rows => self.refused.push(format!(
                    "{outlet} has {rows} rows that are not in its topic yet (start once more with the old definition until \
                     `conjoin inspect` shows none; --reset samples.{} forgets them with all else of the sample)",
                    node.map_or("?", |node| &node.name)
                )),
            }
        }
        kept
    }

    fn group_streams_are_reset(&self, group: &str) -> bool {
        self.new.groups.iter().any(|shape| shape.name == group && self.on_a_reset_stream(&shape.streams))
    }

    /// A sample without a past: what may have an event that was read before is late for it.
    fn begin(&mut self, shape: &SampleShape, node: &str) -> (SampleNode, SampleCounts) {
        let what = match self.held(&shape.name) {
            Some(held) => format!("forgets {held}"),
            None => "is new".into(),
        };
        let labels = vec![LabelAccount::default(); shape.streams.len().saturating_sub(1)];
        let mut counts = SampleCounts { labels, ..SampleCounts::default() };
        // For its join everything older has closed, and lies in files that are not its own.
        let rows_since = first_impression(self.since, shape.before_ms, shape.bucket_ms);
        if rows_since > EventTime::MIN {
            let through = (rows_since / shape.bucket_ms.max(1) - 1).clamp(0, i64::from(u32::MAX)) as u32;
            (counts.closed_through, counts.filed_through) = (Some(through), Some(through));
        }
        self.note(format!("{node} {what}: it begins with impressions of {}", shown(rows_since)));
        let sample = SampleNode {
            name: shape.name.clone(),
            number: take_number(&mut self.next_node),
            since: self.since,
            base: self.accepted(&shape.streams),
            groups: shape.groups.iter().map(|group| (group.clone(), self.since)).collect(),
            rows_since,
        };
        (sample, counts)
    }
}

/// Whether all rows that closed are in files.
fn is_filed(counts: &SampleCounts) -> bool {
    counts.closed_through == counts.filed_through
}

#[cfg(test)]
#[path = "change_tests.rs"]
mod tests;
