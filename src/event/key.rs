//! Keys: stable 128-bit fingerprints of key columns, and the key groups that spread them over lanes.
//!
//! A fingerprint is a function of the values and their logical types alone: it is the same in every process, on every
//! machine and in every version that reads the same state. Integers of any width hash alike, so that an `int32` key of
//! one stream meets an `int64` key of another.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMillisecondType};
use std::io::Write;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// State is kept by this many key groups, so that the number of lanes may change between runs.
pub const KEY_GROUPS: u16 = 128;

/// Stable 128-bit identity of a key.
pub type Fingerprint = u128;

/// The key group of a fingerprint: its top seven bits. The index uses the low bits, so the two are independent.
pub fn key_group(fingerprint: Fingerprint) -> u16 {
    (fingerprint >> 121) as u16
}

/// Which of `lanes` lanes owns a key group: contiguous ranges of groups.
pub fn lane_of(key_group: u16, lanes: usize) -> usize {
    key_group as usize * lanes / KEY_GROUPS as usize
}

/// The key groups of one lane, as a half-open range.
pub fn key_groups_of(lane: usize, lanes: usize) -> std::ops::Range<u16> {
    let first = |lane: usize| (lane * KEY_GROUPS as usize).div_ceil(lanes) as u16;
    first(lane)..first(lane + 1)
}

const TAG_NULL: u8 = 0;
const TAG_STRING: u8 = 1;
const TAG_INT: u8 = 2;
const TAG_BOOL: u8 = 3;
const TAG_FLOAT: u8 = 4;
const TAG_TIME: u8 = 5;

/// Fingerprints of every row over `columns`. Types other than string, integer, float, boolean and
/// millisecond timestamp are refused by the config check before they can come here.
pub fn fingerprints(columns: &[&ArrayRef], rows: usize) -> Vec<Fingerprint> {
    if let [column] = columns
        && let Some(strings) = column.as_string_opt::<i32>()
        && strings.null_count() == 0
    {
        let mut buffer = Vec::with_capacity(64);
        return (0..rows)
            .map(|row| {
                buffer.clear();
                push_bytes(&mut buffer, TAG_STRING, strings.value(row).as_bytes());
                xxh3_128(&buffer)
            })
            .collect();
    }
    let mut buffer = Vec::with_capacity(128);
    (0..rows)
        .map(|row| {
            buffer.clear();
            for column in columns {
                push_value(&mut buffer, column, row);
            }
            xxh3_128(&buffer)
        })
        .collect()
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

    #[test]
    fn lanes_split_the_key_groups_without_gap_or_overlap() {
        for lanes in 1..=KEY_GROUPS as usize {
            let mut expected = 0;
            for lane in 0..lanes {
                let groups = key_groups_of(lane, lanes);
                assert_eq!(groups.start, expected);
                assert!(groups.clone().all(|group| lane_of(group, lanes) == lane), "{lanes} lanes, lane {lane}");
                expected = groups.end;
            }
            assert_eq!(expected, KEY_GROUPS);
        }
    }

    #[test]
    fn integer_keys_of_different_width_meet() {
        let narrow: ArrayRef = Arc::new(Int32Array::from(vec![7, -1]));
        let wide: ArrayRef = Arc::new(Int64Array::from(vec![7, -1]));
        assert_eq!(fingerprints(&[&narrow], 2), fingerprints(&[&wide], 2));
    }

    #[test]
    fn composite_keys_do_not_run_together() {
        let a: ArrayRef = Arc::new(StringArray::from(vec!["ab", "a"]));
        let b: ArrayRef = Arc::new(StringArray::from(vec!["c", "bc"]));
        let prints = fingerprints(&[&a, &b], 2);
        assert_ne!(prints[0], prints[1]);
    }

    #[test]
    fn fingerprints_are_pinned_because_state_on_disk_depends_on_them() {
        let column: ArrayRef = Arc::new(StringArray::from(vec!["u1"]));
        let single = fingerprints(&[&column], 1)[0];
        let nullable: ArrayRef = Arc::new(StringArray::from(vec![Some("u1"), None]));
        assert_eq!(fingerprints(&[&nullable], 2)[0], single, "the fast path must agree with the general one");
        assert_eq!(format!("{single:032x}"), PINNED_U1);
    }

    const PINNED_U1: &str = "861a470600cdf47727442c7b2f71a72f";
}
