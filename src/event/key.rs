//! Keys: stable 128-bit fingerprints of key columns, and the shares of them that cells and lanes own.
//!
//!   fingerprint:  | home, 32 bits | 96 bits of xxh3 |
//!                    ├─ % partitions ──> the partition that holds the key, and the cell that reads it
//!                    └─ 7 upper bits ──> key group ──> lane within the cell
//!
//! A fingerprint is a function of the values and their logical types alone: it is the same in every process, on every
//! machine and in every version that reads the same state. Integers of any width hash alike, so that an `int32` key of
//! one stream meets an `int64` key of another. Its home is what Kafka's producers make of the key, so that state can be
//! dealt out anew to any number of lanes and partitions without the keys themselves.

use crate::event::{Partitioner, partition_of};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMillisecondType};
use std::io::Write;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// State is kept by this many key groups, so that the number of lanes may change between runs.
pub const KEY_GROUPS: u16 = 128;

/// Stable 128-bit identity of a key.
pub type Fingerprint = u128;

const HOME_SHIFT: u32 = 96;

/// What decides about partitions and lanes: the upper bits of a fingerprint. An index uses the lower ones.
pub fn home_of(fingerprint: Fingerprint) -> u32 {
    (fingerprint >> HOME_SHIFT) as u32
}

/// The key group of a home. Partitions follow from its remainder, so these are bits that hardly move it; the topmost is
/// left out, because murmur2 never sets it.
pub fn key_group(home: u32) -> u16 {
    (home >> 24) as u16 & (KEY_GROUPS - 1)
}

/// The keys that one lane of one cell owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// The partition that the cell reads, of so many.
    pub cell: u32,
    pub cells: u32,
    pub lane: usize,
    pub lanes: usize,
}

impl Share {
    pub fn contains(&self, home: u32) -> bool {
        (self.cells <= 1 || partition_of(home, self.cells) == self.cell)
            && lane_of(key_group(home), self.lanes) == self.lane
    }
}

/// Which of `lanes` lanes owns a key group: contiguous ranges of groups.
pub fn lane_of(key_group: u16, lanes: usize) -> usize {
    key_group as usize * lanes / KEY_GROUPS as usize
}

const TAG_NULL: u8 = 0;
const TAG_STRING: u8 = 1;
const TAG_INT: u8 = 2;
const TAG_BOOL: u8 = 3;
const TAG_FLOAT: u8 = 4;
const TAG_TIME: u8 = 5;

/// Fingerprints of every row over `columns`. Types other than string, integer, float, boolean and
/// millisecond timestamp are refused by the config check before they can come here.
pub fn fingerprints(columns: &[&ArrayRef], rows: usize, partitioner: Partitioner) -> Vec<Fingerprint> {
    if let [column] = columns
        && let Some(strings) = column.as_string_opt::<i32>()
        && strings.null_count() == 0
    {
        let mut buffer = Vec::with_capacity(64);
        return (0..rows)
            .map(|row| {
                buffer.clear();
                let value = strings.value(row).as_bytes();
                push_bytes(&mut buffer, TAG_STRING, value);
                at_home(partitioner.home(value), &buffer)
            })
            .collect();
    }
    let (mut buffer, mut text) = (Vec::with_capacity(128), Vec::with_capacity(64));
    (0..rows)
        .map(|row| {
            buffer.clear();
            text.clear();
            for (number, column) in columns.iter().enumerate() {
                push_value(&mut buffer, column, row);
                if number > 0 {
                    text.push(b':');
                }
                push_text(&mut text, column, row);
            }
            at_home(partitioner.home(&text), &buffer)
        })
        .collect()
}

fn at_home(home: u32, bytes: &[u8]) -> Fingerprint {
    (home as Fingerprint) << HOME_SHIFT | xxh3_128(bytes) & ((1 << HOME_SHIFT) - 1)
}

/// The values of a row as the key of a Kafka record has them: as text, joined by `:`.
pub fn key_text(columns: &[&ArrayRef], row: usize) -> Vec<u8> {
    let mut text = Vec::new();
    for (number, column) in columns.iter().enumerate() {
        if number > 0 {
            text.push(b':');
        }
        push_text(&mut text, column, row);
    }
    text
}

/// Null is no text.
fn push_text(text: &mut Vec<u8>, column: &ArrayRef, row: usize) {
    if column.is_null(row) {
        return;
    }
    // Writing to memory cannot fail.
    let _ = match column.data_type() {
        DataType::Utf8 => text.write_all(column.as_string::<i32>().value(row).as_bytes()),
        DataType::Int32 => write!(text, "{}", column.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => write!(text, "{}", column.as_primitive::<Int64Type>().value(row)),
        DataType::Boolean => write!(text, "{}", column.as_boolean().value(row)),
        DataType::Float32 => write!(text, "{}", column.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => write!(text, "{}", column.as_primitive::<Float64Type>().value(row)),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            write!(text, "{}", column.as_primitive::<TimestampMillisecondType>().value(row))
        }
        other => unreachable!("key columns of type {other} are refused by the config check"),
    };
}

fn push_bytes(buffer: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    buffer.push(tag);
    buffer.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    buffer.extend_from_slice(bytes);
}

fn push_value(buffer: &mut Vec<u8>, column: &ArrayRef, row: usize) {
    if column.is_null(row) {
        buffer.push(TAG_NULL);
        return;
    }
    let fixed = |buffer: &mut Vec<u8>, tag: u8, bits: i64| {
        buffer.push(tag);
        buffer.extend_from_slice(&bits.to_le_bytes());
    };
    match column.data_type() {
        DataType::Utf8 => push_bytes(buffer, TAG_STRING, column.as_string::<i32>().value(row).as_bytes()),
        DataType::Int32 => fixed(buffer, TAG_INT, column.as_primitive::<Int32Type>().value(row) as i64),
        DataType::Int64 => fixed(buffer, TAG_INT, column.as_primitive::<Int64Type>().value(row)),
        DataType::Boolean => fixed(buffer, TAG_BOOL, column.as_boolean().value(row) as i64),
        DataType::Float32 => {
            let value = column.as_primitive::<Float32Type>().value(row);
            fixed(buffer, TAG_FLOAT, (value as f64).to_bits() as i64)
        }
        DataType::Float64 => {
            let value = column.as_primitive::<Float64Type>().value(row);
            fixed(buffer, TAG_FLOAT, value.to_bits() as i64)
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            fixed(buffer, TAG_TIME, column.as_primitive::<TimestampMillisecondType>().value(row))
        }
        other => unreachable!("key columns of type {other} are refused by the config check"),
    }
}

/// A 64-bit hash of a record's bytes and the index of its exploded row: tells an exact duplicate from a conflict and
/// breaks ties between records of one time and id.
pub fn content_hash(record: &[u8], item: u32) -> u64 {
    item_hash(xxh3_64(record), item)
}

/// [`content_hash`] of one row from the hash of its whole record, so that a slate is read once and not once per row.
/// The hash of row 0 is the record's own.
pub fn item_hash(record_hash: u64, item: u32) -> u64 {
    if item == 0 {
        return record_hash;
    }
    // the finalizer of splitmix64: every bit of the record and the item decides every bit of the result
    let mut bits = record_hash ^ (item as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int32Array, Int64Array, StringArray};
    use std::sync::Arc;

    fn prints(columns: &[&ArrayRef], rows: usize) -> Vec<Fingerprint> {
        fingerprints(columns, rows, Partitioner::Murmur2)
    }

    #[test]
    fn every_key_is_in_one_share_whatever_the_number_of_cells_and_lanes() {
        for (cells, lanes) in [(1, 1), (1, 5), (3, 1), (6, 2), (64, 3), (128, 4), (200, 2)] {
            let shares = || (0..cells).flat_map(|cell| (0..lanes).map(move |lane| Share { cell, cells, lane, lanes }));
            for user in 0..300 {
                let home = Partitioner::Murmur2.home(format!("u{user}").as_bytes());
                let owners: Vec<Share> = shares().filter(|share| share.contains(home)).collect();
                assert_eq!(owners.len(), 1, "u{user}: {owners:?}");
                assert_eq!(owners[0].cell, Partitioner::Murmur2.partition(format!("u{user}").as_bytes(), cells));
            }
        }
    }

    #[test]
    fn lanes_of_a_cell_share_its_keys_evenly() {
        for (cells, lanes) in [(1, 2), (2, 2), (16, 2), (6, 3)] {
            let mut keys = vec![0; lanes];
            let mine = (0..40_000).map(|user| Partitioner::Murmur2.home(format!("u{user}").as_bytes()));
            mine.filter(|home| partition_of(*home, cells) == 0).for_each(|p| keys[lane_of(key_group(p), lanes)] += 1);
            let (least, most) = (keys.iter().min().unwrap(), keys.iter().max().unwrap());
            assert!(most * 10 < least * 13, "{cells} cells, {lanes} lanes: {keys:?}");
        }
    }

    #[test]
    fn a_key_of_several_columns_is_at_home_where_its_text_is() {
        let a: ArrayRef = Arc::new(StringArray::from(vec!["r1"]));
        let b: ArrayRef = Arc::new(Int64Array::from(vec![-7]));
        let print = fingerprints(&[&a, &b], 1, Partitioner::Crc32)[0];
        assert_eq!(key_text(&[&a, &b], 0), b"r1:-7");
        assert_eq!(home_of(print), Partitioner::Crc32.home(b"r1:-7"));
    }

    #[test]
    fn integer_keys_of_different_width_meet() {
        let narrow: ArrayRef = Arc::new(Int32Array::from(vec![7, -1]));
        let wide: ArrayRef = Arc::new(Int64Array::from(vec![7, -1]));
        assert_eq!(prints(&[&narrow], 2), prints(&[&wide], 2));
    }

    #[test]
    fn composite_keys_do_not_run_together() {
        let a: ArrayRef = Arc::new(StringArray::from(vec!["ab", "a"]));
        let b: ArrayRef = Arc::new(StringArray::from(vec!["c", "bc"]));
        let prints = prints(&[&a, &b], 2);
        assert_ne!(prints[0], prints[1]);
    }

    #[test]
    fn fingerprints_are_pinned_because_state_on_disk_depends_on_them() {
        let column: ArrayRef = Arc::new(StringArray::from(vec!["u1"]));
        let single = prints(&[&column], 1)[0];
        let nullable: ArrayRef = Arc::new(StringArray::from(vec![Some("u1"), None]));
        assert_eq!(prints(&[&nullable], 2)[0], single, "the fast path must agree with the general one");
        assert_eq!(format!("{single:032x}"), PINNED_U1);
    }

    const PINNED_U1: &str = "2c6cf2f000cdf47727442c7b2f71a72f";
}
