//! Shape: how many cells there are, which partitions each of them reads, and whether the topics allow it.
//!
//!   head of every old cell ─ positions, tracks ─┐
//!   the topics as they are now ─────────────────┴─> per new cell its positions and tracks, or why that cannot be
//!
//! Holds: no record is skipped: a partition goes on where its old cell stopped, a new one starts where its log does. Cells
//! are only made of a topic that grew when all that lay in it before was read: a key's records lie in one partition then.
//! Pure: it does not ask the brokers.

use crate::commit::{InputEntry, Manifest, TrackEntry};
use crate::config::Plan;
use crate::pipeline::RunError;
use crate::source::InputKind;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// How the state of a pipeline is dealt out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// One per partition; `None` is one process that reads all partitions.
    pub cells: Option<u32>,
    pub lanes: usize,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lanes = |lanes| if lanes == 1 { "1 lane".to_string() } else { format!("{lanes} lanes") };
        match self.cells {
            None => write!(f, "one process with {}", lanes(self.lanes)),
            Some(1) => write!(f, "1 cell with {}", lanes(self.lanes)),
            Some(cells) => write!(f, "{cells} cells with {} each", lanes(self.lanes)),
        }
    }
}

impl Shape {
    pub fn count(self) -> u32 {
        self.cells.unwrap_or(1)
    }
}

/// Per topic, the first offset and the end of each partition.
pub type Extents = BTreeMap<String, Vec<(i64, i64)>>;

/// What a new cell reads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    pub inputs: Vec<InputEntry>,
    pub tracks: Vec<TrackEntry>,
}

fn refuse<T>(why: String) -> Result<T, RunError> {
    Err(RunError::Unsupported(why))
}

fn topics(plan: &Plan) -> impl Iterator<Item = &str> {
    plan.inputs.iter().filter(|input| matches!(input.kind, InputKind::Kafka(_))).map(|input| input.name.as_str())
}

/// How many cells the pipeline file and the topics ask for; `extents` is empty where the brokers were not asked.
pub fn cells_wanted(plan: &Plan, extents: &Extents, partitions: Option<u32>) -> Result<Option<u32>, RunError> {
    if plan.group_mode.is_none() {
        return match partitions {
            Some(_) => refuse(
                "--partitions is for cells of a group, and the pipeline file declares no `group_mode`: one process reads all \
                 partitions"
                    .into(),
            ),
            None => Ok(None),
        };
    }
    let found: BTreeSet<u32> = extents.values().map(|partitions| partitions.len() as u32).collect();
    if found.len() > 1 {
        let listed: Vec<String> =
            extents.iter().map(|(topic, partitions)| format!("{topic} has {}", partitions.len())).collect();
        return refuse(format!(
            "all topics of a group need the same number of partitions, but {}: let the others grow, or use other topics",
            listed.join(", ")
        ));
    }
    match (found.first().copied(), partitions) {
        (Some(found), Some(asked)) if found != asked => {
            refuse(format!("--partitions {asked}, but the topics have {found} partitions"))
        }
        (Some(found), _) => Ok(Some(found)),
        (None, Some(asked)) if asked > 0 => Ok(Some(asked)),
        (None, _) => refuse("no topic tells how many partitions there are: name them with --partitions".into()),
    }
}

/// What each cell of the new shape reads.
pub fn readings(
    plan: &Plan,
    heads: &[&Manifest],
    extents: &Extents,
    cells: Option<u32>,
) -> Result<Vec<Reading>, RunError> {
    let mut whole = together(heads);
    for entry in &mut whole.inputs {
        if !topics(plan).any(|topic| topic == entry.name) || entry.next.is_empty() {
            continue;
        }
        match extents.get(&entry.name) {
            Some(partitions) => grow(entry, partitions, cells)?,
            None if cells.is_none_or(|cells| cells as usize == entry.next.len()) => {}
            None => {
                return refuse(format!(
                    "topic {} had {} partitions when it was read: what to do with {} needs the brokers, which do not answer",
                    entry.name,
                    entry.next.len(),
                    cells.unwrap_or_default()
                ));
            }
        }
    }
    let Some(cells) = cells else { return Ok(vec![whole]) };
    if let Some(file) = whole.inputs.iter().find(|entry| !entry.files.is_empty()) {
        return refuse(format!("{} is a file input: only topics are read by several processes", file.name));
    }
    let of = |cell: u32| Reading {
        inputs: whole.inputs.iter().map(|entry| only(entry, cell)).collect(),
        tracks: whole.tracks.iter().filter(|track| track.partition == cell).cloned().collect(),
    };
    Ok((0..cells).map(of).collect())
}

/// Takes the partitions in that came since a topic was read.
fn grow(entry: &mut InputEntry, partitions: &[(i64, i64)], cells: Option<u32>) -> Result<(), RunError> {
    let (before, now) = (entry.next.len(), partitions.len());
    if now < before {
        return refuse(format!(
            "topic {} has {now} partitions, but {before} were read: it was made anew. Start anew with --fresh",
            entry.name
        ));
    }
    if now == before {
        return Ok(());
    }
    let left = |(partition, next): (&u32, &i64)| (partitions[*partition as usize].1 - next).max(0);
    let left: i64 = entry.next.iter().map(left).sum();
    if left > 0 && cells.is_some() {
        return refuse(format!(
            "topic {} grew from {before} to {now} partitions, and {left} records that lie in it from before are not read yet: \
             a key's records would lie in two cells. Leave `group_mode` out, `conjoin rescale`, `conjoin run --until-end` \
             (one process reads all partitions, in any order of keys), then put it back and rescale again",
            entry.name
        ));
    }
    for (partition, (first, _)) in partitions.iter().enumerate() {
        let partition = partition as u32;
        if !entry.next.contains_key(&partition) {
            entry.next.insert(partition, *first);
            entry.first.insert(partition, *first);
        }
    }
    Ok(())
}

fn only(entry: &InputEntry, cell: u32) -> InputEntry {
    let own = |of: &BTreeMap<u32, i64>| of.iter().filter(|(at, _)| **at == cell).map(|(at, to)| (*at, *to)).collect();
    InputEntry { next: own(&entry.next), first: own(&entry.first), ..entry.clone() }
}

/// The positions and tracks of all old cells, which read different partitions.
fn together(heads: &[&Manifest]) -> Reading {
    let mut whole = Reading::default();
    for head in heads {
        for entry in &head.inputs {
            match whole.inputs.iter_mut().find(|known| known.name == entry.name) {
                Some(known) => {
                    known.next.extend(&entry.next);
                    known.first.extend(&entry.first);
                }
                None => whole.inputs.push(entry.clone()),
            }
        }
        whole.tracks.extend(head.tracks.iter().cloned());
    }
    whole.tracks.sort_by(|a, b| (&a.stream, &a.input, a.partition).cmp(&(&b.stream, &b.input, b.partition)));
    whole
}
