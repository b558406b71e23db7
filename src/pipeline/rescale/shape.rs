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
use std::collections::btree_map::Entry;
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
        if let Entry::Vacant(new) = entry.next.entry(partition) {
            new.insert(*first);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::{Chain, Identity};
    use crate::config::{LoadOptions, load_texts};
    use crate::env::MemoryStore;
    use std::sync::Arc;

    fn plan(group: bool) -> Plan {
        let mode = if group { "group_mode: { instance: a }\n" } else { "" };
        let text = format!(
            "version: 1\npipeline: p\nconnections: {{ main: {{ kafka: {{ brokers: \"localhost:1\" }} }} }}\nstreams: {{ s: {{ kafka: \
             {{ connection: main, topics: [s] }}, columns: {{ k: string, t: timestamp }}, time: t, key: k }} }}\nstate: {{ path: \
             out }}\n{mode}"
        );
        let options = LoadOptions { overlays: &[], sets: &[], env: &|_| None, cores: 2 };
        load_texts(&[("p.yaml".into(), text)], &options).unwrap_or_else(|errors| panic!("{errors}")).plan
    }

    /// A head that has read so far in each partition.
    fn head(next: &[i64]) -> Manifest {
        let (definition, resets) = (Default::default(), Default::default());
        let identity = Identity {
            pipeline: "p",
            definition: &definition,
            resets: &resets,
            writer: "w".into(),
            chain: 7,
            now_ms: 1,
        };
        let chain = Chain::claim(Arc::new(MemoryStore::default()), &identity).unwrap();
        let next: BTreeMap<u32, i64> = next.iter().enumerate().map(|(at, next)| (at as u32, *next)).collect();
        let track = |at: &u32| TrackEntry { stream: "s".into(), input: "s".into(), partition: *at, newest: 5 };
        Manifest {
            tracks: next.keys().map(track).collect(),
            inputs: vec![InputEntry { name: "s".into(), first: BTreeMap::from([(0, 0)]), next, files: Vec::new() }],
            ..chain.head().clone()
        }
    }

    fn extents(ends: &[(i64, i64)]) -> Extents {
        Extents::from([("s".to_string(), ends.to_vec())])
    }

    fn positions(readings: &[Reading]) -> Vec<Vec<(u32, i64)>> {
        let of = |reading: &Reading| reading.inputs[0].next.iter().map(|(at, next)| (*at, *next)).collect();
        readings.iter().map(of).collect()
    }

    #[test]
    fn each_cell_goes_on_where_its_partition_stopped_and_all_of_them_make_the_whole_again() {
        let head = head(&[10, 20, 30]);
        let extents = extents(&[(0, 11), (0, 25), (0, 30)]);
        let cells = readings(&plan(true), &[&head], &extents, Some(3)).unwrap();
        assert_eq!(positions(&cells), [[(0, 10)], [(1, 20)], [(2, 30)]]);
        assert!(
            cells.iter().enumerate().all(|(at, cell)| cell.tracks.len() == 1 && cell.tracks[0].partition == at as u32)
        );
        let heads: Vec<Manifest> = cells
            .iter()
            .map(|cell| Manifest { inputs: cell.inputs.clone(), tracks: cell.tracks.clone(), ..head.clone() })
            .collect();
        let whole = readings(&plan(false), &heads.iter().collect::<Vec<_>>(), &extents, None).unwrap();
        assert_eq!((&whole[0].inputs, &whole[0].tracks), (&head.inputs, &head.tracks));
    }

    #[test]
    fn cells_are_made_of_a_topic_that_grew_when_what_lay_in_it_was_read() {
        let (plan, head) = (plan(true), head(&[10, 20]));
        let unread = extents(&[(0, 10), (0, 27), (3, 90)]);
        let error = readings(&plan, &[&head], &unread, Some(3)).unwrap_err().to_string();
        assert!(error.contains("from 2 to 3 partitions") && error.contains("7 records"), "{error}");
        let cells = readings(&plan, &[&head], &extents(&[(0, 10), (0, 20), (3, 90)]), Some(3)).unwrap();
        assert_eq!(positions(&cells), [[(0, 10)], [(1, 20)], [(2, 3)]]);
        let one = readings(&plan, &[&head], &unread, None).unwrap();
        assert_eq!(positions(&one), [[(0, 10), (1, 20), (2, 3)]], "one process reads all partitions");
        let error = readings(&plan, &[&head], &extents(&[(0, 10)]), None).unwrap_err().to_string();
        assert!(error.contains("made anew"), "{error}");
    }

    #[test]
    fn without_brokers_the_number_of_partitions_must_be_told_and_be_that_of_the_state() {
        let (group, alone, none) = (plan(true), plan(false), Extents::new());
        assert!(cells_wanted(&group, &none, None).unwrap_err().to_string().contains("--partitions"));
        assert_eq!(cells_wanted(&group, &none, Some(2)).unwrap(), Some(2));
        assert!(cells_wanted(&alone, &none, Some(2)).unwrap_err().to_string().contains("group_mode"));
        let three = extents(&[(0, 1); 3]);
        assert!(cells_wanted(&group, &three, Some(2)).unwrap_err().to_string().contains("have 3 partitions"));
        assert_eq!(cells_wanted(&group, &three, None).unwrap(), Some(3));
        let head = head(&[10, 20]);
        assert_eq!(readings(&group, &[&head], &none, Some(2)).unwrap().len(), 2);
        assert!(readings(&group, &[&head], &none, Some(3)).unwrap_err().to_string().contains("brokers"));
    }
}
