//! Online state: fills an online store from the last manifest, for a server that runs without its pipeline.
//!
//!   last manifest ─> tiles of every lane ─> every entity evaluated at the manifest's online instant ─> store
//!
//! In: a plan whose state some run has left, in one chain or in the cells of a group. Out: the rows that run published last (F11).
//! Holds: nothing is claimed or written: a pipeline may run meanwhile.

use crate::cell::LaneRestoreError;
use crate::commit::{Manifest, read_for};
use crate::config::Plan;
use crate::env::{Place, open_place};
use crate::event::EventTime;
use crate::feature::GroupStore;
use crate::online::{OnlineStore, Version, Write};
use crate::pipeline::generation::Generation;
use crate::pipeline::{RunError, definition, exchanged_groups, restore};
use std::sync::Arc;

/// Entities that are evaluated and written at once.
const ENTITIES_AT_ONCE: usize = 8_192;

/// What was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedOnline {
    pub manifest: u64,
    pub entities: u64,
    /// As of when the features are.
    pub instant: EventTime,
    /// Per feature group of the plan, since when it misses nothing.
    pub groups_since: Arc<[EventTime]>,
}

/// Loads the features of every entity; `None` when no run has left any state.
pub fn load_online(plan: &Plan, store: &dyn OnlineStore) -> Result<Option<LoadedOnline>, RunError> {
    let missing = |place: &Place| place.folder().is_some_and(|folder| !folder.is_dir());
    if missing(&plan.state.root) {
        return Ok(None);
    }
    let generation = Generation::read(open_place(&plan.state.root)?.as_ref())?;
    let several = generation.as_ref().is_some_and(|generation| generation.cells.is_some());
    if several && let Some(number) = exchanged_groups(plan).iter().position(|exchanged| *exchanged) {
        return Err(RunError::Online(format!(
            "features of `{}` are of entities that belong to no cell of the group: what is known of them lies in its internal \
             topic, not in state. Name a Redis connection in online.store, which the group keeps up to date",
            plan.groups[number].name
        )));
    }
    let specs = plan.groups.iter().cloned().map(Arc::new).enumerate();
    let mut groups: Vec<GroupStore> = specs.map(|(number, spec)| GroupStore::new(number as u16, spec)).collect();
    let mut groups_since = vec![EventTime::MIN; groups.len()];
    let mut newest: Option<Manifest> = None;
    for (_, place) in Generation::chains(generation.as_ref(), &plan.state.root) {
        if missing(&place) {
            continue;
        }
        let state = open_place(&place)?;
        let Some(head) = read_for(state.as_ref(), &plan.pipeline, &definition(plan))? else { continue };
        // What one cell has not seen whole is not whole.
        for ((since, node), group) in groups_since.iter_mut().zip(&head.layout.groups).zip(&mut groups) {
            *since = node.since.max(*since);
            group.learn_since(*since);
        }
        let objects = restore::list(state.as_ref(), &head)?;
        // An entity belongs to one cell.
        restore::read_features(state.as_ref(), &objects, &head.layout, |group, rows| {
            let unfit = || LaneRestoreError::Unfit(format!("there is no feature group {group}"));
            let group = groups.get_mut(group).ok_or_else(unfit)?;
            group.restore(&rows, &|_| true).map_err(LaneRestoreError::from).map_err(Into::into)
        })?;
        if newest.as_ref().is_none_or(|newest| newest.online_instant < head.online_instant) {
            newest = Some(head);
        }
    }
    let Some(head) = newest else { return Ok(None) };
    let Some(instant) = head.online_instant else { return Ok(None) };
    let (mut entities, mut step) = (0, 0);
    for group in &mut groups {
        while let Some(batch) =
            group.take_due(instant, ENTITIES_AT_ONCE).map_err(|error| RunError::Online(error.to_string()))?
        {
            step += 1;
            let rows: Vec<u32> = (0..batch.entities.len() as u32).collect();
            let version = Version::new(head.born_at_ms.max(0) as u64, head.epoch as u32, head.cut, step);
            store
                .write(&[Write { batch: &batch, rows: &rows, version }])
                .map_err(|error| RunError::Online(error.to_string()))?;
            entities += rows.len() as u64;
        }
    }
    let groups_since = head.layout.groups.iter().map(|group| group.since).collect();
    Ok(Some(LoadedOnline { manifest: head.number, entities, instant, groups_since }))
}
