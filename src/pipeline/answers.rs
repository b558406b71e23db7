//! Answers: publishes online what this process's mirror knows of the entities of the cells that run here.
//!
//!   mirror ── due at its frontier ──> the cell that owns the entity ── version of its chain ──> online writer
//!
//! Holds: of each cell the versions rise, also over processes: whoever claims its chain later has a higher epoch; and no
//! process begins before its mirror is where the last one's was.
//! Does not: know whether the cell is still its own: the newest version wins.

use crate::cell::Mirror;
use crate::commit::Manifest;
use crate::event::{EventTime, FeatureBatch};
use crate::online::Version;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Entities that are evaluated at once to be published.
const ENTITIES_AT_ONCE: usize = 4_096;

/// Versions of what this process publishes for a cell.
struct Owned {
    birth_ms: u64,
    epoch: u32,
    cut: u64,
    step: u32,
    /// Whoever had the cell before has published up to here: until this process's mirror has come so far, what it knows
    /// is old, and its versions would beat what is newer.
    from: EventTime,
    begun: bool,
}

/// See the module.
pub struct Answers {
    mirror: Arc<Mirror>,
    /// How many groups the plan has.
    groups: usize,
    owned: Mutex<BTreeMap<u32, Owned>>,
}

impl Answers {
    pub fn new(mirror: Arc<Mirror>, groups: usize) -> Answers {
        Answers { mirror, groups, owned: Mutex::default() }
    }

    fn owned(&self) -> MutexGuard<'_, BTreeMap<u32, Owned>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This process answers for a cell's entities, from now on.
    pub fn own(&self, cell: u32, head: &Manifest) {
        let (birth_ms, epoch) = (head.born_at_ms.max(0) as u64, head.epoch as u32);
        let from = head.handover.as_ref().map_or(EventTime::MIN, |told| told.mark.published);
        self.owned().insert(cell, Owned { birth_ms, epoch, cut: head.cut, step: 0, from, begun: false });
        self.mirror.own(&BTreeSet::from([cell]));
    }

    pub fn disown(&self, cell: u32) {
        self.owned().remove(&cell);
    }

    /// Sends everything that changed, as long as there `has_room` for so many batches; all there is, where the store has
    /// `lost` what it had.
    pub fn publish(&self, lost: bool, has_room: &dyn Fn(usize) -> bool, send: &mut dyn FnMut(FeatureBatch, Version)) {
        let mut owned = self.owned();
        let frontier = self.mirror.frontier();
        for (cell, owned) in owned.iter_mut().filter(|(_, owned)| !owned.begun && owned.from <= frontier.0) {
            owned.begun = true;
            // What was due before now was told to nobody.
            self.mirror.own(&BTreeSet::from([*cell]));
        }
        let cells: BTreeSet<u32> = owned.iter().filter(|(_, owned)| owned.begun).map(|(cell, _)| *cell).collect();
        if lost {
            self.mirror.own(&cells);
        }
        for group in (0..self.groups).filter(|group| self.mirror.holds(*group)) {
            loop {
                if !has_room(cells.len()) {
                    return self.mirror.hold_due(frontier);
                }
                let Some(batches) = self.mirror.take_due(group, frontier, ENTITIES_AT_ONCE, &cells) else { break };
                for (cell, batch) in batches {
                    let owned = owned.get_mut(&cell).expect("only owned cells were asked for");
                    owned.step += 1;
                    send(batch, Version::new(owned.birth_ms, owned.epoch, owned.cut, owned.step));
                }
            }
        }
        self.mirror.drained(frontier, &cells);
    }
}
