//! Generation: what all cells of a pipeline agree on, written once where their chains lie.
//!
//!   state.path/manifests/…                               no generation: one process that reads all partitions
//!   state.path/generations/000001.json                   partitions, partitioner, name of the internal topic
//!   state.path/cells/GENERATION/00003/manifests/…        one chain per partition number
//!
//! Holds: the first process of a new pipeline makes generation 1, create-only; every other finds the same. A later one is
//! made when state is dealt out anew; the newest holds. A pipeline whose topics have another number of partitions is refused:
//! its keys would be dealt out otherwise than its state.
//! Does not: know which process runs which cell.

use crate::commit::numbers;
use crate::config::Plan;
use crate::env::{Created, Entropy, Place, Store, StoreError, open_place};
use crate::pipeline::RunError;

const FOLDER: &str = "generations/";
const FORMAT: u32 = 1;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Generation {
    pub format: u32,
    pub number: u32,
    pub pipeline: String,
    /// Partitions of every topic: so many cells. `None` is one process that reads them all: cell 0.
    pub cells: Option<u32>,
    pub partitioner: String,
    /// Tells this life of the pipeline from others: one that was started anew must not read what the last one said.
    pub name: String,
}

impl Generation {
    pub fn new(plan: &Plan, number: u32, cells: Option<u32>, entropy: &dyn Entropy) -> Generation {
        Generation {
            format: FORMAT,
            number,
            pipeline: plan.pipeline.clone(),
            cells,
            partitioner: plan.partitioner.name().into(),
            name: format!("{:08x}", entropy.random_u64() as u32),
        }
    }

    /// The newest; `None` where a process reads all partitions and never did otherwise, or where none ran yet.
    pub fn read(store: &dyn Store) -> Result<Option<Generation>, RunError> {
        let Some(newest) = store.list(FOLDER)?.into_iter().map(|object| object.path).max() else { return Ok(None) };
        let damaged = |found: String| {
            RunError::Unsupported(format!(
                "{} is damaged ({found}): restore it from a backup, or start anew with --fresh",
                store.describe(&newest)
            ))
        };
        let generation: Generation =
            serde_json::from_slice(&store.read(&newest)?).map_err(|error| damaged(error.to_string()))?;
        match generation.format {
            FORMAT => Ok(Some(generation)),
            other => Err(damaged(format!("format {other}, this version reads {FORMAT}"))),
        }
    }

    pub fn write(&self, store: &dyn Store) -> Result<Created, StoreError> {
        store.create(&self.path(), &serde_json::to_vec(self).expect("a generation is plain data"))
    }

    /// Takes back what was written a moment ago, before anyone can have gone by it.
    pub fn withdraw(&self, store: &dyn Store) -> Result<(), StoreError> {
        store.delete(&self.path())
    }

    fn path(&self) -> String {
        format!("{FOLDER}{:06}.json", self.number)
    }

    /// Where a cell's chain lies, below the state's path.
    pub fn cell(&self, state: &Place, cell: u32) -> Place {
        state.join(&format!("cells/{}/{cell:05}", self.name))
    }

    /// The chains of a generation with the numbers of their cells; without one there is the chain of one process.
    pub fn chains(newest: Option<&Generation>, root: &Place) -> Vec<(u32, Place)> {
        match newest {
            None => vec![(0, root.clone())],
            Some(found) => (0..found.cells.unwrap_or(1)).map(|cell| (cell, found.cell(root, cell))).collect(),
        }
    }

    /// The topic by which its cells tell each other.
    pub fn topic(&self) -> String {
        format!("conjoin-{}-tiles-{}", self.pipeline, self.name)
    }

    /// Finds or makes it, and holds the topics of today against it.
    pub fn agree(
        plan: &Plan,
        store: &dyn Store,
        partitions: u32,
        entropy: &dyn Entropy,
    ) -> Result<Generation, RunError> {
        let found = match Generation::read(store)? {
            Some(found) => found,
            None => {
                refuse_single(store)?;
                let mine = Generation::new(plan, 1, Some(partitions), entropy);
                match mine.write(store)? {
                    Created::Yes => mine,
                    // Another process was faster.
                    Created::AlreadyThere => {
                        let lost = || RunError::Unsupported(format!("{} came and went", store.describe(&mine.path())));
                        Generation::read(store)?.ok_or_else(lost)?
                    }
                }
            }
        };
        let refuse = |what: String| Err(RunError::Unsupported(format!("{}: {what}", store.describe(&found.path()))));
        if found.pipeline != plan.pipeline {
            return refuse(format!("belongs to pipeline `{}`: choose another state.path", found.pipeline));
        }
        match found.cells {
            Some(cells) if cells == partitions => {}
            Some(cells) => {
                return refuse(format!(
                    "the topics have {partitions} partitions, they had {cells} when the state was written. Nothing was \
                     read. `conjoin rescale` deals the state out anew"
                ));
            }
            None => {
                return refuse(
                    "the state belongs to a process that read all partitions: `conjoin rescale` makes cells of it"
                        .into(),
                );
            }
        }
        if found.partitioner != plan.partitioner.name() {
            return refuse(format!(
                "the state was dealt out by {}, the pipeline file says {}: restore `partitioner`, or start anew with \
                 --fresh",
                found.partitioner,
                plan.partitioner.name()
            ));
        }
        Ok(found)
    }
}

/// State of one process that reads all partitions is not state of a group.
fn refuse_single(store: &dyn Store) -> Result<(), RunError> {
    match numbers(store)?.is_empty() {
        true => Ok(()),
        false => Err(RunError::Unsupported(format!(
            "{} holds the state of a process that read all partitions: `conjoin rescale` makes cells of it, --fresh \
             starts anew",
            store.describe("manifests/")
        ))),
    }
}

/// Where the chain of a process lies that reads all partitions. State of a group is not its own.
pub fn single_path(plan: &Plan, store: &dyn Store) -> Result<Place, RunError> {
    match Generation::read(store)? {
        None => Ok(plan.state.path.clone()),
        Some(found) => match found.cells {
            None => Ok(found.cell(&plan.state.path, 0)),
            Some(cells) => Err(RunError::Unsupported(format!(
                "{} says that the state belongs to {cells} cells of a group: declare `group_mode`, let `conjoin rescale` \
                 make one state of them, or start anew with --fresh",
                store.describe(&found.path())
            ))),
        },
    }
}

/// Whether a chain that was just claimed is the state still. A rescale that has not switched by now finds the claim.
pub fn check_current(plan: &Plan, cell: u32) -> Result<(), RunError> {
    let newest = Generation::read(open_place(&plan.state.root)?.as_ref())?;
    let current = newest.map_or(plan.state.root.clone(), |newest| newest.cell(&plan.state.root, cell));
    if current == plan.state.path { Ok(()) } else { Err(RunError::Moved) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{MemoryStore, SystemEntropy};

    fn plan() -> Plan {
        let text = "version: 1\npipeline: p\nstreams: { s: { memory: {}, columns: { k: string, t: timestamp }, time: t, \
                    key: k } }\nstate: { path: out }\n";
        let options = crate::config::LoadOptions { overlays: &[], sets: &[], env: &|_| None, cores: 2 };
        crate::config::load_texts(&[("p.yaml".into(), text.into())], &options).unwrap().plan
    }

    #[test]
    fn every_process_finds_what_the_first_one_made_and_another_number_of_partitions_is_refused() {
        let (plan, store) = (plan(), MemoryStore::default());
        let first = Generation::agree(&plan, &store, 4, &SystemEntropy).unwrap();
        assert_eq!(Generation::agree(&plan, &store, 4, &SystemEntropy).unwrap(), first);
        let grown = Generation::agree(&plan, &store, 6, &SystemEntropy).unwrap_err().to_string();
        assert!(grown.contains("6 partitions, they had 4") && grown.contains("conjoin rescale"), "{grown}");
        assert!(single_path(&plan, &store).unwrap_err().to_string().contains("group_mode"));
        let later = Generation::new(&plan, 2, None, &SystemEntropy);
        later.write(&store).unwrap();
        assert_eq!(single_path(&plan, &store).unwrap(), later.cell(&plan.state.path, 0), "the newest holds");
    }

    #[test]
    fn the_state_of_a_single_process_is_not_taken_for_a_groups() {
        let (plan, store) = (plan(), MemoryStore::default());
        assert_eq!(single_path(&plan, &store).unwrap(), plan.state.path);
        store.create("manifests/00000000000000000000.json", b"{}").unwrap();
        let error = Generation::agree(&plan, &store, 4, &SystemEntropy).unwrap_err().to_string();
        assert!(error.contains("conjoin rescale"), "{error}");
    }
}
