//! Entity: what one lane keeps of each entity of a group, in a slab behind an index of fingerprints.

use crate::event::{EventTime, Fingerprint};
use crate::feature::aggregate::last::Log;
use crate::feature::schedule::NEVER;
use crate::feature::tile::Tiles;
use std::hash::{BuildHasherDefault, Hasher};

/// Takes the low bits of a fingerprint for its hash: it is one already. The same in every run.
#[derive(Default, Clone, Copy)]
pub struct LowBits(u64);

impl Hasher for LowBits {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }

    fn write_u128(&mut self, fingerprint: u128) {
        self.0 = fingerprint as u64;
    }
}

pub type ByFingerprint<T> = hashbrown::HashMap<Fingerprint, T, BuildHasherDefault<LowBits>>;

pub struct Entity {
    pub print: Fingerprint,
    /// As the online store spells it.
    pub text: Box<str>,
    pub tiles: Tiles,
    /// One per aggregate that keeps its events.
    pub logs: Box<[Log]>,
    /// When its published value has to be looked at again; see [`Schedule`](crate::feature::schedule::Schedule).
    pub due: EventTime,
    /// In the list of what the next snapshot looks at.
    pub changed: bool,
    /// The last sweep found nothing left of it.
    pub fading: bool,
    live: bool,
}

impl Entity {
    pub fn is_empty(&self) -> bool {
        self.tiles.words().is_empty() && self.logs.iter().all(|log| log.entries.is_empty())
    }
}

#[derive(Default)]
pub struct Entities {
    index: ByFingerprint<u32>,
    slots: Vec<Entity>,
    free: Vec<u32>,
}

impl Entities {
    pub fn find(&self, print: Fingerprint) -> Option<u32> {
        self.index.get(&print).copied()
    }

    pub fn insert(&mut self, print: Fingerprint, text: Box<str>, logs: usize) -> u32 {
        let logs = (0..logs).map(|_| Log::default()).collect();
        let (tiles, due) = (Tiles::default(), NEVER);
        let entity = Entity { print, text, tiles, logs, due, changed: false, fading: false, live: true };
        let number = match self.free.pop() {
            Some(number) => {
                self.slots[number as usize] = entity;
                number
            }
            None => {
                self.slots.push(entity);
                u32::try_from(self.slots.len() - 1).expect("four billion entities do not fit into memory")
            }
        };
        self.index.insert(print, number);
        number
    }

    pub fn remove(&mut self, number: u32) {
        let entity = &mut self.slots[number as usize];
        self.index.remove(&entity.print);
        *entity = Entity {
            print: 0,
            text: Box::default(),
            tiles: Tiles::default(),
            logs: Box::default(),
            due: NEVER,
            changed: false,
            fading: false,
            live: false,
        };
        self.free.push(number);
    }

    pub fn get(&self, number: u32) -> &Entity {
        &self.slots[number as usize]
    }

    pub fn get_mut(&mut self, number: u32) -> &mut Entity {
        &mut self.slots[number as usize]
    }

    /// Fetches what an event of each of these entities will touch, many at a time, into the cache.
    pub fn warm(&self, numbers: impl Iterator<Item = u32>) {
        let newest = numbers.map(|number| self.slots[number as usize].tiles.words().last().copied().unwrap_or(0));
        std::hint::black_box(newest.fold(0, |sum, word| sum ^ word));
    }

    pub fn is_live(&self, number: u32) -> bool {
        self.slots[number as usize].live
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Numbers go from 0 to here, with gaps.
    pub fn numbers(&self) -> u32 {
        self.slots.len() as u32
    }

    pub fn iter_live(&self) -> impl Iterator<Item = (u32, &Entity)> {
        self.slots.iter().enumerate().filter(|(_, entity)| entity.live).map(|(number, entity)| (number as u32, entity))
    }

    pub fn memory_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Entity>() + self.index.allocation_size() + self.free.capacity() * 4
    }
}
