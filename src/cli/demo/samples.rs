//! Samples: what the demo finds in the Parquet files that the pipeline wrote.

use crate::sink::{published_files, read_columns};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, TimeUnit, TimestampMillisecondType};
use std::path::{Path, PathBuf};

/// The joins of the demo and the column that each adds.
pub const JOINS: [(&str, &str); 2] = [("click", "click_ts"), ("conversion", "conversion_ts")];
const IMPRESSION_TIME: &str = "ts";

/// One look at all samples.
pub struct Samples {
    pub rows: u64,
    pub files: Vec<PathBuf>,
    pub bytes: u64,
    /// Per join, the time from the impression to the label of every row that has one, shortest first.
    pub delays_ms: [Vec<i64>; 2],
}

pub fn read(folder: &Path) -> Result<Samples, String> {
    let failed = |path: &Path, error: &dyn std::fmt::Display| format!("cannot read {}: {error}", path.display());
    let files = published_files(folder).map_err(|error| failed(folder, &error))?;
    let mut samples = Samples { rows: 0, files, bytes: 0, delays_ms: [Vec::new(), Vec::new()] };
    let columns = [IMPRESSION_TIME, JOINS[0].1, JOINS[1].1];
    for path in &samples.files {
        samples.bytes += std::fs::metadata(path).map_err(|error| failed(path, &error))?.len();
        let mut problem = None;
        let see = |batch: &RecordBatch| {
            samples.rows += batch.num_rows() as u64;
            for ((_, column), delays) in JOINS.iter().zip(&mut samples.delays_ms) {
                if let Err(name) = add_delays(batch, column, delays) {
                    problem = Some(format!("{} has no column of times `{name}`", path.display()));
                }
            }
        };
        read_columns(path, &columns, see).map_err(|error| failed(path, &error))?;
        if let Some(problem) = problem {
            return Err(problem);
        }
    }
    samples.delays_ms.iter_mut().for_each(|delays| delays.sort_unstable());
    Ok(samples)
}

fn add_delays<'a>(batch: &RecordBatch, label: &'a str, delays: &mut Vec<i64>) -> Result<(), &'a str> {
    let times = |name| {
        let column = batch.column_by_name(name)?;
        matches!(column.data_type(), DataType::Timestamp(TimeUnit::Millisecond, _))
            .then(|| column.as_primitive::<TimestampMillisecondType>())
    };
    let shown = times(IMPRESSION_TIME).ok_or(IMPRESSION_TIME)?;
    let followed = times(label).ok_or(label)?;
    let rows = (0..batch.num_rows()).filter(|row| followed.is_valid(*row));
    delays.extend(rows.map(|row| followed.value(row) - shown.value(row)));
    Ok(())
}

/// The value below which `percent` of a sorted list lie; `None` of an empty one.
pub fn percentile(sorted: &[i64], percent: usize) -> Option<i64> {
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[last * percent / 100])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_of_the_list() {
        let hundred: Vec<i64> = (0..=100).collect();
        assert_eq!(
            [0, 50, 99, 100].map(|percent| percentile(&hundred, percent)),
            [Some(0), Some(50), Some(99), Some(100)]
        );
        assert_eq!((percentile(&[7], 50), percentile(&[], 50)), (Some(7), None));
    }
}
