//! Generation: what all cells of a group agree on, written once where their chains lie.
//!
//!   <state.path>/group.json                     partitions, partitioner, name of the internal topic
//!   <state.path>/cells/00003/manifests/…        one chain per partition number
//!
//! Holds: the first process of a new pipeline makes it, create-only; every other finds the same. A pipeline whose topics
//! have another number of partitions is refused: its keys would be dealt out otherwise than its state.
//! Does not: know which process runs which cell.

use crate::commit::numbers;
use crate::config::Plan;
use crate::env::{Created, Entropy, Place, Store, StoreError};
use crate::pipeline::RunError;

const FILE: &str = "group.json";
const FORMAT: u32 = 1;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Generation {
    pub format: u32,
    pub pipeline: String,
    /// Partitions of every topic: so many cells.
    pub cells: u32,
    pub partitioner: String,
    /// Tells this life of the pipeline from others: one that was started anew must not read what the last one said.
    pub generation: String,
    pub topic: String,
}

impl Generation {
    pub fn new(plan: &Plan, cells: u32, entropy: &dyn Entropy) -> Generation {
        let generation = format!("{:08x}", entropy.random_u64() as u32);
        Generation {
            format: FORMAT,
            pipeline: plan.pipeline.clone(),
            cells,
            partitioner: plan.partitioner.name().into(),
            topic: format!("conjoin-{}-tiles-{generation}", plan.pipeline),
            generation,
        }
    }

    /// What the pipeline's processes agreed on; `None` where none ran yet.
    pub fn read(store: &dyn Store) -> Result<Option<Generation>, RunError> {
        let bytes = match store.read(FILE) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let damaged = |found: String| {
            RunError::Unsupported(format!(
                "{} is damaged ({found}): restore it from a backup, or start anew with --fresh",
                store.describe(FILE)
            ))
        };
        let generation: Generation = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        match generation.format {
            FORMAT => Ok(Some(generation)),
            other => Err(damaged(format!("format {other}, this version reads {FORMAT}"))),
        }
    }

    pub fn write(&self, store: &dyn Store) -> Result<Created, StoreError> {
        store.create(FILE, &serde_json::to_vec(self).expect("a generation is plain data"))
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
                let mine = Generation::new(plan, partitions, entropy);
                match mine.write(store)? {
                    Created::Yes => mine,
                    // Another process was faster.
                    Created::AlreadyThere => {
                        let lost = || RunError::Unsupported(format!("{} came and went", store.describe(FILE)));
                        Generation::read(store)?.ok_or_else(lost)?
                    }
                }
            }
        };
        let refuse = |what: String| Err(RunError::Unsupported(format!("{}: {what}", store.describe(FILE))));
        if found.pipeline != plan.pipeline {
            return refuse(format!("belongs to pipeline `{}`: choose another state.path", found.pipeline));
        }
        if found.cells != partitions {
            return refuse(format!(
                "the topics have {partitions} partitions, they had {} when the state was written. Nothing was read. \
                 `conjoin rescale` deals the state out anew",
                found.cells
            ));
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

/// Where a cell's chain lies.
pub fn cell_path(state: &Place, cell: u32) -> Place {
    state.join(&format!("cells/{cell:05}"))
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

/// State of a group is not state of one process.
pub fn refuse_group(store: &dyn Store) -> Result<(), RunError> {
    match Generation::read(store)? {
        None => Ok(()),
        Some(found) => Err(RunError::Unsupported(format!(
            "{} says that the state belongs to {} cells of a group: declare `group_mode`, let `conjoin rescale` make one \
             state of them, or start anew with --fresh",
            store.describe(FILE),
            found.cells
        ))),
    }
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
        assert!(refuse_group(&store).unwrap_err().to_string().contains("group_mode"));
    }

    #[test]
    fn the_state_of_a_single_process_is_not_taken_for_a_groups() {
        let (plan, store) = (plan(), MemoryStore::default());
        refuse_group(&store).unwrap();
        store.create("manifests/00000000000000000000.json", b"{}").unwrap();
        let error = Generation::agree(&plan, &store, 4, &SystemEntropy).unwrap_err().to_string();
        assert!(error.contains("conjoin rescale"), "{error}");
    }
}
