//! Online state: fills an online store from the last manifest, for a server that runs without its pipeline.
//!
//!   last manifest ─> tiles of every lane ─> every entity evaluated at the manifest's online instant ─> store
//!
//! In: a plan whose state some run has left. Out: the rows that run published last (F11).
//! Holds: nothing is claimed or written: a pipeline may run meanwhile.

use crate::cell::LaneRestoreError;
use crate::commit::read_for;
use crate::config::Plan;
use crate::env::open_place;
use crate::event::EventTime;
use crate::feature::GroupStore;
use crate::online::{OnlineStore, Version, Write};
use crate::pipeline::{RunError, restore};
use std::sync::Arc;

/// Entities that are evaluated and written at once.
const ENTITIES_AT_ONCE: usize = 8_192;

/// What was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadedOnline {
    pub manifest: u64,
    pub entities: u64,
    /// As of when the features are.
    pub instant: EventTime,
}

/// Loads the features of every entity; `None` when no run has left any state.
pub fn load_online(plan: &Plan, store: &dyn OnlineStore) -> Result<Option<LoadedOnline>, RunError> {
    if plan.state.path.folder().is_some_and(|folder| !folder.is_dir()) {
        return Ok(None);
    }
    let state = open_place(&plan.state.path)?;
    let Some(head) = read_for(state.as_ref(), &plan.pipeline, &plan.semantics)? else { return Ok(None) };
    let Some(instant) = head.online_instant else { return Ok(None) };
    let specs = plan.groups.iter().cloned().map(Arc::new).enumerate();
    let mut groups: Vec<GroupStore> = specs.map(|(number, spec)| GroupStore::new(number as u16, spec)).collect();
    let objects = restore::list(state.as_ref(), &head)?;
    restore::read_features(state.as_ref(), &objects, |group, rows| {
        let group = groups
            .get_mut(group)
            .ok_or_else(|| LaneRestoreError::Unfit(format!("there is no feature group {group}")))?;
        group.restore(&rows, &|_| true).map_err(LaneRestoreError::from).map_err(Into::into)
    })?;
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
    Ok(Some(LoadedOnline { manifest: head.number, entities, instant }))
}
