//! Index: finds the row of a fingerprint without touching anything but the entry.
//!
//! An open-addressing table of 16-byte entries (a 64-bit tag, a packed row address). The tag is the low half of the
//! fingerprint; the caller confirms a hit against the full 128 bits, which lie in the row's bucket.

use crate::event::Fingerprint;
use hashbrown::HashTable;

/// Address of a row: bucket number in the high half, row number in the low half.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowRef(u64);

impl RowRef {
    pub const NONE: RowRef = RowRef(u64::MAX);

    pub fn new(bucket: u32, row: u32) -> Self {
        RowRef((bucket as u64) << 32 | row as u64)
    }

    pub fn bucket(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub fn row(self) -> u32 {
        self.0 as u32
    }

    pub fn is_none(self) -> bool {
        self == Self::NONE
    }
}

impl std::fmt::Debug for RowRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_none() { f.write_str("-") } else { write!(f, "{}:{}", self.bucket(), self.row()) }
    }
}

#[derive(Clone, Copy)]
struct Entry {
    tag: u64,
    row: RowRef,
}

fn tag(fingerprint: Fingerprint) -> u64 {
    fingerprint as u64
}

#[derive(Default)]
pub struct Index {
    table: HashTable<Entry>,
}

impl Index {
    /// The row of `fingerprint`; `is_row` says whether a row truly carries it.
    pub fn get(&self, fingerprint: Fingerprint, is_row: impl Fn(RowRef) -> bool) -> Option<RowRef> {
        let tag = tag(fingerprint);
        self.table.find(tag, |entry| entry.tag == tag && is_row(entry.row)).map(|entry| entry.row)
    }

    /// Adds a row; the caller knows that its fingerprint has no entry yet.
    pub fn insert(&mut self, fingerprint: Fingerprint, row: RowRef) {
        let tag = tag(fingerprint);
        self.table.insert_unique(tag, Entry { tag, row }, |entry| entry.tag);
    }

    /// Makes the entry of `fingerprint` that points to `from` point to `to`. Returns false if there is none.
    pub fn replace(&mut self, fingerprint: Fingerprint, from: RowRef, to: RowRef) -> bool {
        let tag = tag(fingerprint);
        match self.table.find_mut(tag, |entry| entry.tag == tag && entry.row == from) {
            Some(entry) => {
                entry.row = to;
                true
            }
            None => false,
        }
    }

    /// Removes the entry of `fingerprint` that points to `row`, if there is one.
    pub fn remove(&mut self, fingerprint: Fingerprint, row: RowRef) {
        let tag = tag(fingerprint);
        if let Ok(entry) = self.table.find_entry(tag, |entry| entry.tag == tag && entry.row == row) {
            entry.remove();
        }
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn memory_bytes(&self) -> usize {
        self.table.allocation_size()
    }
}
