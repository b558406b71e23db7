//! Case: a test that was found right: names are numbers, instants milliseconds, payloads bytes.

use crate::event::{DurationMs, EventTime, PartitionId, Value};
use std::fmt;

#[derive(Clone, Debug)]
pub struct TestCase {
    pub name: String,
    pub place: TestPlace,
    /// What relative instants count from.
    pub start: EventTime,
    /// Rows of dimensions, by their number; values in the order of the dimension's columns.
    pub dimensions: Vec<(usize, Vec<Vec<Value>>)>,
    pub steps: Vec<TestStep>,
    /// All inputs end after the last step.
    pub close: bool,
    /// All rows of a sample, by its number.
    pub samples: Vec<(usize, Vec<ExpectedRow>)>,
    /// Rows of feature groups, by their number.
    pub features: Vec<(usize, Vec<ExpectedEntity>)>,
    /// All dead letters: columns are those of [`LETTER_COLUMNS`].
    pub dead_letters: Vec<ExpectedRow>,
    pub counts: Vec<ExpectedCounts>,
}

/// What a test can say of a dead letter.
pub const LETTER_COLUMNS: [&str; 4] = ["stream", "reason", "item", "message"];

/// Where something stands, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TestPlace {
    pub file: String,
    pub line: u32,
}

impl fmt::Display for TestPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

#[derive(Clone, Debug)]
pub enum TestStep {
    Record(TestRecord),
    /// Nothing comes for so long.
    Wait(DurationMs),
    /// These inputs have no more.
    End(Vec<u16>),
}

/// A record as a broker or a file has it.
#[derive(Clone, Debug)]
pub struct TestRecord {
    pub place: TestPlace,
    pub partition: PartitionId,
    pub payload: Option<Vec<u8>>,
    pub key: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
    pub broker_time: Option<EventTime>,
}

/// Of a row, the columns that count, by their number.
#[derive(Clone, Debug)]
pub struct ExpectedRow {
    pub place: TestPlace,
    pub columns: Vec<(usize, Expected)>,
}

#[derive(Clone, Debug)]
pub struct ExpectedEntity {
    /// In the order of the group's `entity`.
    pub entity: Vec<Value>,
    /// Without it, as the online store has it at the end.
    pub at: Option<EventTime>,
    /// Columns are the group's outputs.
    pub row: ExpectedRow,
}

#[derive(Clone, Debug)]
pub struct ExpectedCounts {
    pub place: TestPlace,
    pub of: CountsOf,
    pub counts: Vec<(String, u64)>,
}

/// Whose books.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CountsOf {
    Stream(usize),
    Sample(usize),
    /// A sample and a join of it.
    Label(usize, usize),
    Group(usize),
}

/// A value as a test has it.
#[derive(Clone, PartialEq, Debug)]
pub enum Expected {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// A text that holds it.
    Part(String),
    Time {
        ms: EventTime,
        /// It was written as a time since the start.
        relative: bool,
    },
    List(Vec<Expected>),
}
