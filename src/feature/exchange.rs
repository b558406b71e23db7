//! Exchange: what is complete leaves the store of the cell that saw the events, and is merged into those that read it.
//!
//!   cell a:  open tiles │ sealed below the watermark ── take_sealed ──┐
//!   cell b:  open tiles │ sealed below the watermark ── take_sealed ──┴─ merge ──> all there is of the entity
//!
//! Aggregates are monoids and sums know no order, so the merged values are those of one store that saw every event.
//! Holds: a tile is handed out once, whole: no row that is not late comes below the watermark.
//! Does not: know how the rows travel, or whether they came before: who merges must not merge twice.

use crate::event::EventTime;
use crate::feature::GroupSpec;
use crate::feature::aggregate::Layout;
use crate::feature::snapshot::{Rows, StateBlock};
use crate::feature::store::{GroupStore, Size};
use crate::feature::text::Texts;
use crate::feature::tile::{self, Overlap, Tiles};
use crate::feature::value::Scalar;
use crate::feature::window::{Windows, first_at_or_after};
use std::sync::Arc;

impl GroupStore {
    /// A store whose entities belong to others: it keeps what is not complete yet, and publishes nothing.
    pub fn outgoing(group: u16, spec: Arc<GroupSpec>) -> GroupStore {
        GroupStore::new(group, spec).without_online()
    }

    /// Hands out everything that is complete below `watermark` and forgets it.
    pub fn take_sealed(&mut self, watermark: EventTime) -> Vec<StateBlock> {
        let below = self.windows.head_end(watermark);
        let bucket = self.windows.bucket_of(below);
        let mut rows = Rows::default();
        for number in 0..self.entities.numbers() {
            if !self.entities.is_live(number) {
                continue;
            }
            let entity = self.entities.get(number);
            let sealed = entity.tiles.sealed(below, self.layout.stride);
            rows.tiles.entry(bucket).or_default().extend((0..sealed).map(|place| (number, place)));
            for (log_number, log) in entity.logs.iter().enumerate() {
                let sealed = first_at_or_after(log.entries.len(), |place| log.entries[place].ts(), below);
                rows.entries.entry(bucket).or_default().extend((0..sealed).map(|place| (number, log_number, place)));
            }
        }
        rows.tiles.retain(|_, rows| !rows.is_empty());
        rows.entries.retain(|_, rows| !rows.is_empty());
        let blocks = self.blocks(rows);
        self.forget_sealed(watermark);
        blocks
    }

    /// Forgets everything that is complete below `watermark`: it was handed out before.
    pub fn forget_sealed(&mut self, watermark: EventTime) {
        let below = self.windows.head_end(watermark);
        for number in 0..self.entities.numbers() {
            if !self.entities.is_live(number) {
                continue;
            }
            let GroupStore { layout, texts, entities, size, .. } = self;
            let entity = entities.get_mut(number);
            let before = Size::of(entity, layout);
            entity.tiles.forget_sealed(below, layout, texts);
            for (place, log) in entity.logs.iter_mut().enumerate() {
                let sealed = first_at_or_after(log.entries.len(), |place| log.entries[place].ts(), below);
                if layout.logged[place].scalar == Scalar::Text {
                    log.entries[..sealed].iter().for_each(|entry| texts.release(entry.word));
                }
                log.entries.drain(..sealed);
            }
            if entity.is_empty() {
                size.change(before, Size::default());
                entities.remove(number);
            } else {
                size.change(before, Size::of(entity, layout));
            }
        }
    }
}

impl Tiles {
    /// How many tiles start before a time that is the start of a slot.
    fn sealed(&self, below: EventTime, stride: usize) -> usize {
        first_at_or_after(self.len(stride), |place| self.slot(stride, place), below)
    }

    fn forget_sealed(&mut self, below: EventTime, layout: &Layout, texts: &mut Texts) {
        let sealed = self.sealed(below, layout.stride);
        for place in 0..sealed {
            layout.release_tile(&self.words()[place * layout.stride..][..layout.stride], texts);
        }
        self.drain(sealed * layout.stride);
    }

    /// Adds a tile of head resolution to what is there of its slot.
    pub(super) fn merge(
        &mut self,
        from: &[u64],
        layout: &Layout,
        windows: &Windows,
        texts: &mut Texts,
    ) -> Result<(), Overlap> {
        let slot = tile::slot_of(from[0]);
        match self.cover(slot, layout.stride, windows) {
            Ok(place) => {
                let into = self.words_at(place, layout.stride);
                layout.absorb_tile(into, from, texts);
                Ok(())
            }
            Err(_) => self.replace(from, layout, windows, texts),
        }
    }
}
