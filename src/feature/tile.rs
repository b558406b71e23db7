//! Tile: the states of one entity per slot of time, packed one after another in one vector, oldest first.
//!
//!   | tag | count | sum ······ | min ··· | tag | count | sum ······ | min ··· | ···
//!
//! The tag holds the slot's start, its length (as a level) and whether a snapshot has seen it. Tiles of one entity
//! never overlap: an event goes to the tile that covers its time, else to a new one of head resolution.
//! Holds: a tile is wholly visible or wholly invisible at every instant that may still be asked for.

use crate::event::{EventTime, floor_to};
use crate::feature::aggregate::Layout;
use crate::feature::text::Texts;
use crate::feature::window::{Ladder, Windows, first_at_or_after};

const DIRTY: u64 = 1;
const LEVEL_SHIFT: u32 = 1;
const SLOT_SHIFT: u32 = 9;

pub fn tag(slot: EventTime, level: u8, dirty: bool) -> u64 {
    ((slot << SLOT_SHIFT) as u64) | ((level as u64) << LEVEL_SHIFT) | dirty as u64
}

pub fn slot_of(tag: u64) -> EventTime {
    tag as i64 >> SLOT_SHIFT
}

pub fn level_of(tag: u64) -> u8 {
    (tag >> LEVEL_SHIFT) as u8
}

pub fn is_dirty(tag: u64) -> bool {
    tag & DIRTY != 0
}

/// A tile that would overlap another: no snapshot of ours holds such tiles.
#[derive(Debug, PartialEq, Eq)]
pub struct Overlap;

/// The tiles of one entity.
#[derive(Default, Debug)]
pub struct Tiles {
    words: Vec<u64>,
}

impl Tiles {
    pub fn len(&self, stride: usize) -> usize {
        self.words.len() / stride
    }

    pub fn slot(&self, stride: usize, place: usize) -> EventTime {
        slot_of(self.words[place * stride])
    }

    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The words of one tile.
    pub(super) fn words_at(&mut self, place: usize, stride: usize) -> &mut [u64] {
        &mut self.words[place * stride..][..stride]
    }

    /// Lets the first words go.
    pub(super) fn drain(&mut self, words: usize) {
        self.words.drain(..words);
    }

    pub fn capacity_bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }

    /// The words of the tile that covers `ts`, made if need be, and marked as changed.
    pub fn at(
        &mut self,
        ts: EventTime,
        layout: &Layout,
        windows: &Windows,
        ladder: &Ladder,
        texts: &mut Texts,
    ) -> &mut [u64] {
        let stride = layout.stride;
        let mut place = match self.cover(ts, stride, windows) {
            Ok(place) => return self.touch(place, stride),
            Err(place) => place,
        };
        if self.words.len() + stride > self.words.capacity() {
            self.compact(layout, windows, ladder, texts);
            place = match self.cover(ts, stride, windows) {
                Ok(place) => return self.touch(place, stride),
                Err(place) => place,
            };
            // A compaction costs a pass over the tiles: it is paid for by as many insertions.
            if self.words.len() * 4 > self.words.capacity() * 3 || self.words.capacity() < stride {
                self.words.reserve_exact(self.words.len().max(stride));
            }
        }
        self.open(place, stride);
        self.words[place * stride] = tag(windows.slot(ts), 0, false);
        self.touch(place, stride)
    }

    fn touch(&mut self, place: usize, stride: usize) -> &mut [u64] {
        let tile = &mut self.words[place * stride..][..stride];
        tile[0] |= DIRTY;
        tile
    }

    /// Makes room for a tile of zeros.
    fn open(&mut self, place: usize, stride: usize) {
        let (at, end) = (place * stride, self.words.len());
        self.words.resize(end + stride, 0);
        self.words.copy_within(at..end, at + stride);
        self.words[at..at + stride].fill(0);
    }

    /// The tile that covers `ts`, or where a new one belongs.
    pub(super) fn cover(&self, ts: EventTime, stride: usize, windows: &Windows) -> Result<usize, usize> {
        let after = first_at_or_after(self.len(stride), |place| self.slot(stride, place), ts + 1);
        let Some(place) = after.checked_sub(1) else { return Err(0) };
        let tag = self.words[place * stride];
        if ts < slot_of(tag) + windows.length(level_of(tag)) { Ok(place) } else { Err(after) }
    }

    /// Merges what may be merged and drops what nobody can see. True when anything changed.
    pub fn compact(&mut self, layout: &Layout, windows: &Windows, ladder: &Ladder, texts: &mut Texts) -> bool {
        let stride = layout.stride;
        let (before, mut kept) = (self.len(stride), 0);
        let mut open: Option<(EventTime, u8)> = None;
        for place in 0..before {
            let own = self.words[place * stride];
            let slot = slot_of(own);
            if slot < ladder.drop_before {
                layout.release_tile(&self.words[place * stride..][..stride], texts);
                continue;
            }
            let target = ladder.level(slot).map(|level| (floor_to(slot, windows.length(level)), level));
            if let Some((slot, level)) = target.filter(|_| target == open) {
                let (into, from) = self.words.split_at_mut(place * stride);
                let into = &mut into[(kept - 1) * stride..][..stride];
                layout.absorb_tile(into, &from[..stride], texts);
                into[0] = tag(slot, level, is_dirty(own) || is_dirty(into[0]));
            } else {
                self.words.copy_within(place * stride..(place + 1) * stride, kept * stride);
                kept += 1;
                open = target;
            }
        }
        self.words.truncate(kept * stride);
        kept < before
    }

    /// Gives memory back after a compaction left most of it empty.
    pub fn shrink(&mut self) {
        if self.words.capacity() > 32 && self.words.len() * 4 < self.words.capacity() {
            self.words.shrink_to(self.words.len() * 2);
        }
    }

    /// Puts a tile of a snapshot in: it stands for all there was in its slot.
    pub fn replace(
        &mut self,
        tile: &[u64],
        layout: &Layout,
        windows: &Windows,
        texts: &mut Texts,
    ) -> Result<(), Overlap> {
        let stride = layout.stride;
        let slot = slot_of(tile[0]);
        let end = slot + windows.length(level_of(tile[0]));
        let from = first_at_or_after(self.len(stride), |place| self.slot(stride, place), slot);
        let until = first_at_or_after(self.len(stride), |place| self.slot(stride, place), end);
        let end_of = |place: usize| {
            let tag = self.words[place * stride];
            slot_of(tag) + windows.length(level_of(tag))
        };
        if from > 0 && end_of(from - 1) > slot || until > from && end_of(until - 1) > end {
            return Err(Overlap);
        }
        for place in from..until {
            layout.release_tile(&self.words[place * stride..][..stride], texts);
        }
        self.words.splice(from * stride..until * stride, tile.iter().copied());
        Ok(())
    }

    /// Marks every tile as changed.
    pub fn touch_all(&mut self, stride: usize) {
        self.words.iter_mut().step_by(stride).for_each(|tag| *tag |= DIRTY);
    }

    /// Marks a tile as seen by a snapshot; false when it was already.
    pub fn take_dirty(&mut self, stride: usize, place: usize) -> bool {
        let tag = &mut self.words[place * stride];
        let dirty = is_dirty(*tag);
        *tag &= !DIRTY;
        dirty
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_sort_by_slot_and_keep_level_and_mark() {
        for slot in [-(1i64 << 53), -1_000, 0, 1_700_000_000_000, 1 << 53] {
            for (level, dirty) in [(0, true), (255, false)] {
                let tag = tag(slot, level, dirty);
                assert_eq!((slot_of(tag), level_of(tag), is_dirty(tag)), (slot, level, dirty));
            }
        }
    }
}
