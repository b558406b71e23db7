//! Block: the columns of a join's state blocks, from memory and back.
//!
//!   keys      event_time, id, content, home, key, `entity/<group>` until the features are read
//!   features  `<group>/<column>` of every group of the sample
//!
//! Holds: columns are found by their names, so a group that came, went or moved takes no other one's values.
//! Does not: decide which rows are written or taken back.

use crate::event::{Fingerprint, Kept};
use crate::join::bucket::{Bucket, Part};
use crate::join::snapshot::RestoreError;
use crate::join::state::JoinedGroup;
use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeBinaryArray, Int64Array, RecordBatch, UInt32Array, UInt64Array, new_null_array,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt32Type, UInt64Type};
use std::sync::Arc;

/// Feature columns of the rows of a part, one batch per group.
pub type Features = Kept<Vec<RecordBatch>>;

/// How the block of a segment's features becomes one batch per group.
#[derive(Clone, Debug)]
pub struct FeatureLayout {
    pub(super) groups: Arc<[JoinedGroup]>,
    /// Per group, whether what the block says of it is its own; all are if it is empty.
    pub(super) knows: Vec<bool>,
}

impl FeatureLayout {
    /// Of rows that have none, or that have them in memory.
    pub fn none() -> FeatureLayout {
        FeatureLayout { groups: Arc::new([]), knows: Vec::new() }
    }

    pub fn split(&self, block: &RecordBatch) -> Result<Vec<RecordBatch>, RestoreError> {
        split_features(block, &self.groups, |group| self.knows.get(group).copied().unwrap_or(true))
    }
}

pub(super) const LABEL_KEY_COLUMNS: usize = 6;

pub(super) fn record_batch(fields: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let schema =
        fields.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect::<Vec<_>>();
    let arrays = fields.into_iter().map(|(_, array)| array).collect();
    RecordBatch::try_new(Arc::new(Schema::new(schema)), arrays).expect("columns of one block have one length")
}

pub(super) fn fingerprint_array(fingerprints: &[Fingerprint]) -> ArrayRef {
    let mut bytes = Vec::with_capacity(fingerprints.len() * 16);
    fingerprints.iter().for_each(|fingerprint| bytes.extend_from_slice(&fingerprint.to_le_bytes()));
    Arc::new(FixedSizeBinaryArray::new(16, bytes.into(), None))
}

pub(super) fn key_block(bucket: &Bucket, part: &Part, groups: &[JoinedGroup]) -> RecordBatch {
    let range = part.range();
    let id = fingerprint_array(&bucket.id[range.clone()]);
    let key = if bucket.key.is_empty() { id.clone() } else { fingerprint_array(&bucket.key[range.clone()]) };
    let names: Vec<String> = groups.iter().map(entity_column).collect();
    let mut fields: Vec<(&str, ArrayRef)> = vec![
        ("event_time", Arc::new(Int64Array::from(bucket.event_time[range.clone()].to_vec()))),
        ("id", id.clone()),
        ("content", Arc::new(UInt64Array::from(bucket.content[range.clone()].to_vec()))),
        ("home", Arc::new(UInt32Array::from(bucket.home[range].to_vec()))),
    ];
    if !bucket.key.is_empty() {
        fields.push(("key", key));
    }
    if part.features.is_none() {
        let known = names.iter().zip(&part.entities).filter(|(_, prints)| !prints.is_empty());
        fields.extend(known.map(|(name, prints)| (name.as_str(), fingerprint_array(prints))));
    }
    record_batch(fields)
}

fn entity_column(group: &JoinedGroup) -> String {
    format!("entity/{}", group.name)
}

/// Feature columns of all groups side by side, named `<group>/<column>`.
pub(super) fn join_features(features: &[RecordBatch], groups: &[JoinedGroup]) -> RecordBatch {
    let mut names = Vec::new();
    let mut arrays = Vec::new();
    for (group, batch) in groups.iter().zip(features) {
        for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
            names.push(format!("{}/{}", group.name, field.name()));
            arrays.push(array.clone());
        }
    }
    record_batch(names.iter().map(String::as_str).zip(arrays).collect())
}

/// The features of each group. What was not there when they were read, or had another type, is null.
pub(super) fn split_features(
    batch: &RecordBatch,
    groups: &[JoinedGroup],
    knows: impl Fn(usize) -> bool,
) -> Result<Vec<RecordBatch>, RestoreError> {
    let of_group = |(number, group): (usize, &JoinedGroup)| {
        let column = |field: &arrow::datatypes::FieldRef| {
            let found = batch.column_by_name(&format!("{}/{}", group.name, field.name()));
            let found = found.filter(|array| knows(number) && array.data_type() == field.data_type());
            found.cloned().unwrap_or_else(|| new_null_array(field.data_type(), batch.num_rows()))
        };
        let columns: Vec<ArrayRef> = group.outputs.fields().iter().map(column).collect();
        RecordBatch::try_new(group.outputs.clone(), columns)
            .map_err(|error| RestoreError { what: "features", reason: error.to_string() })
    };
    groups.iter().enumerate().map(of_group).collect()
}

/// The identity columns of a block.
pub(super) struct KeyColumns {
    pub event_time: Vec<i64>,
    pub id: Vec<Fingerprint>,
    pub key: Vec<Fingerprint>,
    pub content: Vec<u64>,
    pub home: Vec<u32>,
    pub entities: Vec<Vec<Fingerprint>>,
}

impl KeyColumns {
    pub fn read(batch: &RecordBatch, groups: &[JoinedGroup]) -> Result<Self, RestoreError> {
        let id = fingerprints_of(batch, "id")?;
        Ok(KeyColumns {
            event_time: column::<Int64Type>(batch, "event_time")?,
            key: if batch.column_by_name("key").is_some() { fingerprints_of(batch, "key")? } else { id.clone() },
            id,
            content: column::<UInt64Type>(batch, "content")?,
            home: column::<UInt32Type>(batch, "home")?,
            entities: groups
                .iter()
                .map(entity_column)
                .map(|name| batch.column_by_name(&name).map_or(Ok(Vec::new()), |_| fingerprints_of(batch, &name)))
                .collect::<Result<_, _>>()?,
        })
    }
}

fn named<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, RestoreError> {
    batch.column_by_name(name).ok_or_else(|| RestoreError { what: "keys", reason: format!("column {name} is missing") })
}

pub(super) fn column<T: arrow::datatypes::ArrowPrimitiveType>(
    batch: &RecordBatch,
    name: &str,
) -> Result<Vec<T::Native>, RestoreError> {
    let array = named(batch, name)?;
    let array = array.as_primitive_opt::<T>().ok_or_else(|| RestoreError {
        what: "keys",
        reason: format!("column {name} is {}, not {}", array.data_type(), T::DATA_TYPE),
    })?;
    Ok(array.values().to_vec())
}

pub(super) fn fingerprints_of(batch: &RecordBatch, name: &str) -> Result<Vec<Fingerprint>, RestoreError> {
    let array = named(batch, name)?;
    let array = array.as_fixed_size_binary_opt().filter(|array| array.value_length() == 16);
    let array = array.ok_or_else(|| RestoreError {
        what: "keys",
        reason: format!("column {name} is not {}", DataType::FixedSizeBinary(16)),
    })?;
    Ok((0..array.len()).map(|row| Fingerprint::from_le_bytes(array.value(row).try_into().expect("16 bytes"))).collect())
}
