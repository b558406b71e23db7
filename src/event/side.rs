//! Side: rows that are in no sample, with the reason, for those who want to see them.

use crate::event::EventTime;
use arrow::array::RecordBatch;

/// Which rows. A kind is an outlet of its own, to files or to a topic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum SideKind {
    /// Came when no impression that they could belong to, or be, was open any more.
    Late,
    /// Labels whose wait ended without an impression.
    ExpiredLabels,
    /// Copies, and records with a known id and other content.
    Duplicates,
    /// Labels that ended without an impression, for whatever reason.
    Unmatched,
}

impl SideKind {
    pub const ALL: [SideKind; 4] = [SideKind::Late, SideKind::ExpiredLabels, SideKind::Duplicates, SideKind::Unmatched];

    /// The name in pipeline files, in manifests and in the names of files.
    pub fn name(self) -> &'static str {
        match self {
            SideKind::Late => "late",
            SideKind::ExpiredLabels => "expired_labels",
            SideKind::Duplicates => "duplicates",
            SideKind::Unmatched => "unmatched",
        }
    }

    /// Number of the outlet within its sample: part of the format of the state, as the name is. 0 is the sample itself.
    pub fn part(self) -> u16 {
        match self {
            SideKind::Late => 1,
            SideKind::ExpiredLabels => 2,
            SideKind::Duplicates => 3,
            SideKind::Unmatched => 4,
        }
    }
}

/// Why a row is in no sample: the outcome in the accounts, a conflict told by who stays.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum SideReason {
    Late,
    /// Its key was seen, but no impression of that key had it in its window.
    OutOfWindow,
    /// No impression of its key was pending while it waited.
    ExpiredUnmatched,
    Duplicate,
    /// A record with its id and other content stays.
    ConflictLost,
    /// It stays, and takes the place of a record with its id and other content.
    ConflictWon,
}

impl SideReason {
    /// A stable part of the output format.
    pub fn name(self) -> &'static str {
        match self {
            SideReason::Late => "late",
            SideReason::OutOfWindow => "out_of_window",
            SideReason::ExpiredUnmatched => "expired_unmatched",
            SideReason::Duplicate => "duplicate",
            SideReason::ConflictLost => "conflict_lost",
            SideReason::ConflictWon => "conflict_won",
        }
    }
}

/// Rows of one stream for a side output.
#[derive(Clone, Debug)]
pub struct SideRows {
    pub kind: SideKind,
    /// Of which join they are labels; `None` for impressions.
    pub label: Option<usize>,
    pub reasons: Vec<SideReason>,
    pub event_time: Vec<EventTime>,
    /// The columns of the stream, found by their names, and those of [`PLACE_COLUMNS`] where the place is known.
    pub rows: RecordBatch,
}

/// Where in which input a row was, as columns beside its own: names that no column of a stream can have.
pub const PLACE_COLUMNS: [&str; 3] = ["conjoin.input", "conjoin.partition", "conjoin.position"];
