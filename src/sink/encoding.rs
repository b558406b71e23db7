//! Encoding: chooses how each column is written, from its type and from the first rows of the file.
//!
//! A dictionary pays where values repeat; where they do not, it costs a hash per value and is thrown away at its size
//! limit. So the first rows are looked at: a column whose values mostly differ is written plain from the start.
//!
//! Does not: change what a reader sees.

use super::Compression;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use hashbrown::HashSet;
use parquet::arrow::ArrowSchemaConverter;
use parquet::basic::{Compression as Codec, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::SchemaDescriptor;
use xxhash_rust::xxh3::{Xxh3DefaultBuilder, xxh3_64};

/// A row group ends at so many rows: what a reader skips or reads at once, and what a writer keeps in memory.
pub(super) const ROW_GROUP_ROWS_MAX: usize = 256 * 1024;
const SAMPLED_ROWS_MAX: usize = 4096;
/// Below this many values the sample says nothing.
const SAMPLED_VALUES_MIN: usize = 256;

pub(super) fn properties(
    codec: Compression,
    schema: &SchemaRef,
    first_rows: &RecordBatch,
    metadata: Vec<KeyValue>,
) -> Result<WriterProperties, parquet::errors::ParquetError> {
    let leaves: SchemaDescriptor = ArrowSchemaConverter::new().convert(schema)?;
    let mut properties = WriterProperties::builder()
        .set_compression(match codec {
            Compression::None => Codec::UNCOMPRESSED,
            Compression::Snappy => Codec::SNAPPY,
            Compression::Zstd { level } => Codec::ZSTD(ZstdLevel::try_new(level)?),
        })
        .set_created_by(concat!("conjoin ", env!("CARGO_PKG_VERSION")).into())
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_dictionary_enabled(false)
        .set_key_value_metadata(Some(metadata));
    for leaf in 0..leaves.num_columns() {
        let values = innermost(first_rows.column(leaves.get_column_root_idx(leaf)));
        if repeats(&values) {
            properties = properties.set_column_dictionary_enabled(leaves.column(leaf).path().clone(), true);
        }
    }
    Ok(properties.build())
}

/// The values of a list column; any other column as it is.
fn innermost(column: &ArrayRef) -> ArrayRef {
    match column.as_list_opt::<i32>() {
        Some(list) => innermost(list.values()),
        None => column.clone(),
    }
}

/// Whether a dictionary is worth it. Text gains most by it, floats least.
fn repeats(values: &ArrayRef) -> bool {
    let rows = values.len().min(SAMPLED_ROWS_MAX);
    let mut distinct: HashSet<u64, Xxh3DefaultBuilder> = HashSet::default();
    let mut seen = 0;
    let mut add = |bytes: &[u8]| {
        seen += 1;
        distinct.insert(xxh3_64(bytes));
    };
    let worth_one_in = match values.data_type() {
        DataType::Utf8 => {
            let text = values.as_string::<i32>();
            (0..rows).filter(|row| text.is_valid(*row)).for_each(|row| add(text.value(row).as_bytes()));
            4
        }
        other => {
            let Some(width) = other.primitive_width() else { return false };
            let data = values.to_data();
            let bytes = &data.buffers()[0].as_slice()[data.offset() * width..];
            (0..rows).filter(|row| values.is_valid(*row)).for_each(|row| add(&bytes[row * width..][..width]));
            if other.is_floating() { 16 } else { 8 }
        }
    };
    match seen {
        0..SAMPLED_VALUES_MIN => *values.data_type() == DataType::Utf8,
        seen => distinct.len() * worth_one_in <= seen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{BooleanArray, Float64Array, Int64Array, StringArray};
    use std::sync::Arc;

    fn worth(values: impl Array + 'static) -> bool {
        repeats(&(Arc::new(values) as ArrayRef))
    }

    #[test]
    fn values_that_repeat_get_a_dictionary_and_ids_do_not() {
        let n = 5000;
        assert!(worth(StringArray::from_iter_values((0..n).map(|i| ["ios", "web"][i % 2]))));
        assert!(!worth(StringArray::from_iter_values((0..n).map(|i| i.to_string()))));
        assert!(worth(Int64Array::from_iter_values((0..n as i64).map(|i| i % 50))));
        assert!(!worth(Int64Array::from_iter_values(0..n as i64)));
        assert!(worth(Float64Array::from_iter_values((0..n).map(|i| (i % 9) as f64))));
        assert!(!worth(Float64Array::from_iter_values((0..n).map(|i| i as f64))));
    }

    #[test]
    fn columns_that_say_nothing_fall_back_by_type() {
        assert!(worth(StringArray::from(vec![None::<&str>; 4000])));
        assert!(!worth(Int64Array::from(vec![None; 4000])));
        assert!(!worth(BooleanArray::from(vec![true; 4000])));
        assert!(!worth(Int64Array::from(vec![1; 10])));
    }

    #[test]
    fn a_slice_is_judged_by_its_own_values() {
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values((0..4000).chain(std::iter::repeat_n(7, 4000))));
        assert!(!repeats(&values.slice(0, 4000)));
        assert!(repeats(&values.slice(4000, 4000)));
    }
}
