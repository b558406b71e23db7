//! Timekeeper: how far a cell is: what its inputs, its lanes and the other cells say about time, and what was said of it.
//!
//!   router: watermark ──┐
//!   lanes: frontier   ──┼──> Advance for the lanes, and with each cut a mark for the other cells
//!   mirror: frontier  ──┘
//!
//! Holds: features are read only below what every lane, and every cell where the sample needs them, has brought.
//! Does not: read a clock, send anything.

use crate::cell::{Advance, CellSpec, Mirror};
use crate::commit::Handover;
use crate::event::{CellMark, CloseReason, EventTime, Outage, StreamAccount, Watermark};
use crate::route::Router;
use std::sync::Arc;

/// See the module.
pub struct Timekeeper {
    cell: Arc<CellSpec>,
    /// Where there are other cells: what they say.
    mirror: Option<Arc<Mirror>>,
    streams: Vec<String>,
    told: Option<Advance>,
    /// The watermark before the end of the inputs made it infinite: what a manifest keeps.
    watermark: EventTime,
    /// All inputs are quiet.
    idle: bool,
    /// Rows accepted per stream as of the last cut.
    accepted: Vec<u64>,
}

impl Timekeeper {
    /// `streams` are their names.
    pub fn new(cell: Arc<CellSpec>, mirror: Option<Arc<Mirror>>, streams: Vec<String>, router: &Router) -> Timekeeper {
        Timekeeper {
            cell,
            mirror,
            streams,
            told: None,
            watermark: router.watermark(),
            idle: false,
            accepted: accepted(router),
        }
    }

    /// Moves time on: the watermark as the inputs have it, the frontier as the lanes have it, which have `applied` one and
    /// will read nothing before `oldest`. `None` when there is nothing new to tell the lanes.
    pub fn advance(
        &mut self,
        router: &mut Router,
        (applied, oldest): (Watermark, EventTime),
        now_ms: u64,
    ) -> Option<Advance> {
        if let Some(mirror) = &self.mirror {
            let is_new = router.online_instant(0).is_none();
            router.heed(mirror.outside(self.cell.scope.cell, is_new));
        }
        let (watermark, idle) = router.advance(now_ms);
        self.idle = idle;
        let mut frontier = if self.cell.groups.is_empty() { watermark } else { applied };
        if let Some(mirror) = self.mirror.as_ref().filter(|mirror| self.cell.reads(mirror)) {
            frontier = frontier.min(mirror.frontier());
        }
        if watermark < Watermark::MAX {
            self.watermark = watermark.0;
        }
        let reason = if idle { CloseReason::Idle } else { CloseReason::Watermark };
        let oldest_needed = oldest_needed(router, oldest);
        let advance = Advance { watermark, frontier, oldest_needed, reason, outages: self.outages(router) };
        let unchanged = self.told.as_ref().is_some_and(|told| (told.watermark, told.frontier) == (watermark, frontier));
        if unchanged || watermark == Watermark::MIN {
            return None;
        }
        self.told = Some(advance.clone());
        Some(advance)
    }

    /// As the router has them; made anew only when they have changed.
    fn outages(&self, router: &Router) -> Arc<[Outage]> {
        match &self.told {
            Some(told) if *told.outages == *router.outages() => told.outages.clone(),
            _ => router.outages().into(),
        }
    }

    /// Every lane has applied the end of all inputs: what is pending closes. A lane that is done must not roll up what
    /// another one has yet to read, which is nothing before `oldest`.
    pub fn end(&self, router: &Router, oldest: EventTime) -> Advance {
        let (watermark, frontier) = (Watermark::MAX, Watermark::MAX);
        let (reason, outages) = (CloseReason::End, self.outages(router));
        Advance { watermark, frontier, oldest_needed: oldest_needed(router, oldest), reason, outages }
    }

    /// The watermark that a manifest keeps.
    pub fn watermark(&self) -> EventTime {
        self.watermark
    }

    /// Below which time lanes hand out at a cut what is complete, and what the other cells are told with it. Nothing
    /// before `needed` will be read here.
    pub fn cut(&mut self, router: &Router, needed: EventTime) -> (EventTime, Option<Handover>) {
        // Also before the lanes were told anything: a cell that stops at once must not seal less than it did before.
        let sealed = self.watermark;
        let handover = self.mirror.as_ref().map(|mirror| {
            let took = |(stream, account): (usize, &StreamAccount)| account.accepted > self.accepted[stream];
            let accounts = router.accounts().iter().enumerate();
            let moved = accounts.filter(|at| took(*at)).map(|(stream, _)| self.streams[stream].clone());
            let published = mirror.published(self.cell.scope.cell);
            let groups = self.cell.groups.iter().enumerate().filter(|(group, _)| mirror.holds(*group));
            let since = groups.map(|(_, group)| (group.spec.name.clone(), group.since)).collect();
            let mark = CellMark { watermark: sealed, needed, idle: self.idle, published };
            Handover { mark, moved: moved.collect(), since }
        });
        self.accepted = accepted(router);
        (sealed, handover)
    }
}

fn accepted(router: &Router) -> Vec<u64> {
    router.accounts().iter().map(|account| account.accepted).collect()
}

/// The online instant may be older than the frontier at the end of the inputs; it is read from the same tiles.
fn oldest_needed(router: &Router, oldest: EventTime) -> EventTime {
    oldest.min(router.online_instant(0).unwrap_or(EventTime::MIN))
}
