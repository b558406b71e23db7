//! Name: how files and folders of a sink are called.
//!
//!   date=2026-01-31/hour=07/ctr-0-12-3-9f2c01ab.parquet          published
//!   date=2026-01-31/hour=07/.part-ctr-0-12-3-9f2c01ab.staged     the same file before
//!                           sample-lane-epoch-seq-chain
//!
//! Holds: an epoch is claimed by one process, so no two files of a chain ever have one name; the chain's own number
//! keeps pipelines apart that write to the same folder.
//! Does not: touch storage.

use super::{ParquetSpec, TimeFolder};
use crate::event::{DurationMs, EventTime, floor_to};
use arrow::temporal_conversions::timestamp_ms_to_datetime;

const STAGED_PREFIX: &str = ".part-";
const STAGED_SUFFIX: &str = ".staged";
const HOUR_MS: DurationMs = 3_600_000;

/// Whose files these are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileNaming {
    pub pipeline: String,
    /// The sample's name, or [`DEAD_LETTERS`](super::DEAD_LETTERS).
    pub sample: String,
    /// Identity of the manifest chain: drawn once, when the chain was born.
    pub chain: u32,
    pub lane: u16,
    pub epoch: u64,
}

impl FileNaming {
    /// The staged and the final path of file number `seq` in `folder` (`""` for the root).
    pub(super) fn paths(&self, folder: &str, seq: u64) -> (String, String) {
        let FileNaming { chain, lane, epoch, .. } = self;
        let stem = format!("{}-{lane}-{epoch}-{seq}-{chain:08x}", file_safe(&self.sample));
        let slash = if folder.is_empty() { "" } else { "/" };
        (format!("{folder}{slash}{STAGED_PREFIX}{stem}{STAGED_SUFFIX}"), format!("{folder}{slash}{stem}.parquet"))
    }

    /// The epoch of a staged file, if `path` is one of this sample and chain from before this epoch.
    pub(super) fn older_staged(&self, path: &str) -> Option<u64> {
        let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
        let stem = name.strip_prefix(STAGED_PREFIX)?.strip_suffix(STAGED_SUFFIX)?;
        let mut parts = stem.rsplitn(5, '-');
        let (chain, _seq, epoch, _lane) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let epoch: u64 = epoch.parse().ok()?;
        let ours = chain == format!("{:08x}", self.chain) && parts.next()? == file_safe(&self.sample);
        (ours && epoch < self.epoch).then_some(epoch)
    }
}

/// Names of samples are free text in the pipeline file; in a file name only these characters are left as they are.
fn file_safe(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "_-.".contains(c) { c } else { '_' }).collect()
}

impl ParquetSpec {
    /// The number of the time slice that decides a row's folder: rows of one slice share one folder.
    pub(super) fn slice_of(&self, ts: EventTime) -> EventTime {
        if self.folders.is_empty() { 0 } else { floor_to(ts, self.slice_ms()) }
    }

    fn slice_ms(&self) -> DurationMs {
        if self.folders.contains(&TimeFolder::Hour) { HOUR_MS } else { 24 * HOUR_MS }
    }

    /// The folder of a slice, relative to the sample's root; `""` is the root.
    pub(super) fn folder_of(&self, slice: EventTime) -> String {
        let parts: Vec<String> = self.folders.iter().map(|folder| time_folder(*folder, slice)).collect();
        parts.join("/")
    }
}

/// `date=2026-01-31` or `hour=07` of an instant, UTC.
pub(super) fn time_folder(folder: TimeFolder, ts: EventTime) -> String {
    let (key, pattern) = match folder {
        TimeFolder::Date => ("date", "%Y-%m-%d"),
        TimeFolder::Hour => ("hour", "%H"),
    };
    match timestamp_ms_to_datetime(ts) {
        Some(time) => format!("{key}={}", time.format(pattern)),
        // Beyond the calendar: the folder that readers of Hive layouts take for null.
        None => format!("{key}=__HIVE_DEFAULT_PARTITION__"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naming() -> FileNaming {
        FileNaming { pipeline: "p".into(), sample: "ctr-v 2/ä".into(), chain: 0x9f2c_01ab, lane: 3, epoch: 12 }
    }

    #[test]
    fn names_are_safe_for_any_sample_name() {
        let (staged, path) = naming().paths("date=2026-01-31", 7);
        assert_eq!(staged, "date=2026-01-31/.part-ctr-v_2__-3-12-7-9f2c01ab.staged");
        assert_eq!(path, "date=2026-01-31/ctr-v_2__-3-12-7-9f2c01ab.parquet");
        assert_eq!(naming().paths("", 7).1, "ctr-v_2__-3-12-7-9f2c01ab.parquet");
    }

    #[test]
    fn only_older_staged_files_of_the_same_sample_and_chain_are_ours_to_sweep() {
        let (staged, path) = naming().paths("d", 7);
        let later = FileNaming { epoch: 13, lane: 0, ..naming() };
        assert_eq!(later.older_staged(&staged), Some(12));
        assert_eq!(later.older_staged(&path), None);
        assert_eq!(naming().older_staged(&staged), None, "the own epoch is never swept");
        assert_eq!(FileNaming { chain: 1, ..later.clone() }.older_staged(&staged), None);
        assert_eq!(FileNaming { sample: "v_2__".into(), ..later }.older_staged(&staged), None);
    }

    #[test]
    fn folders_follow_the_calendar_in_utc() {
        let ts = 1_769_843_100_000; // 2026-01-31T07:05:00Z
        assert_eq!(time_folder(TimeFolder::Date, ts), "date=2026-01-31");
        assert_eq!(time_folder(TimeFolder::Hour, ts), "hour=07");
        assert_eq!(time_folder(TimeFolder::Date, -1), "date=1969-12-31");
        assert_eq!(time_folder(TimeFolder::Date, i64::MAX), "date=__HIVE_DEFAULT_PARTITION__");
    }
}
