//! Compare: two multisets of rows, by sample id where the rows hold one.
//!
//!   expected ─┐ encoded rows, sorted by (id, row) ─ merged ─> only here: missing    only there: extra
//!   found ────┘                                                one of each with one id: different, column by column
//!
//! Holds: every row of either side is matched with one equal row of the other, or is told; nothing is left out because
//! there is too much of it, only its example is.

use crate::event::{Fingerprint, Partitioner, fingerprints};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde::Serialize;
use std::cmp::Ordering;

/// A row of one side.
struct Entry {
    id: Fingerprint,
    row: Box<[u8]>,
    batch: u32,
    at: u32,
}

/// Rows of one schema, ready to be compared.
pub(super) struct Side {
    schema: SchemaRef,
    /// Columns that make the id; empty where the rows do not hold them all.
    id: Vec<usize>,
    converter: RowConverter,
    batches: Vec<RecordBatch>,
    entries: Vec<Entry>,
}

impl Side {
    pub fn new(schema: &SchemaRef, id: &[usize]) -> Result<Side, ArrowError> {
        let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone()));
        let converter = RowConverter::new(fields.collect())?;
        Ok(Side { schema: schema.clone(), id: id.to_vec(), converter, batches: Vec::new(), entries: Vec::new() })
    }

    pub fn rows(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Adds rows that hold the side's columns, in any order and beside any others.
    pub fn add(&mut self, rows: &RecordBatch) -> Result<(), ArrowError> {
        let column = |name: &String| {
            let missing = || ArrowError::SchemaError(format!("there is no column {name}"));
            rows.column_by_name(name).cloned().ok_or_else(missing)
        };
        let columns = self.schema.fields().iter().map(|field| column(field.name()));
        let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>()?;
        let encoded = self.converter.convert_columns(&columns)?;
        let ids: Vec<&ArrayRef> = self.id.iter().map(|column| &columns[*column]).collect();
        // Without an id all rows have one, and only whole rows are matched.
        let ids = if ids.is_empty() {
            vec![0; rows.num_rows()]
        } else {
            fingerprints(&ids, rows.num_rows(), Partitioner::Murmur2)
        };
        let batch = self.batches.len() as u32;
        let entries = encoded.iter().zip(ids).enumerate();
        self.entries.extend(entries.map(|(at, (row, id))| Entry {
            id,
            row: row.as_ref().into(),
            batch,
            at: at as u32,
        }));
        self.batches.push(RecordBatch::try_new(self.schema.clone(), columns)?);
        Ok(())
    }

    fn sort(&mut self) {
        self.entries.sort_unstable_by(|a, b| (a.id, &a.row).cmp(&(b.id, &b.row)));
    }

    fn text(&self, entry: &Entry, column: usize) -> String {
        let options = FormatOptions::default().with_null("null");
        let array = self.batches[entry.batch as usize].column(column);
        match ArrayFormatter::try_new(array.as_ref(), &options) {
            Ok(formatter) => formatter.value(entry.at as usize).to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// The id as people know it: its columns, or the whole row.
    fn name(&self, entry: &Entry) -> String {
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let columns = if self.id.is_empty() { &all } else { &self.id };
        let parts =
            columns.iter().map(|column| format!("{}={}", self.schema.field(*column).name(), self.text(entry, *column)));
        parts.collect::<Vec<_>>().join(" ")
    }
}

/// One difference, as an example.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub id: String,
    /// Of a row that is different, each column that is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<ColumnDifference>,
    /// Why it may be so without anything being wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explained: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ColumnDifference {
    pub column: String,
    pub found: String,
    pub expected: String,
}

/// Differences of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Differences {
    pub rows: u64,
    /// Of these, rows whose difference has an explanation.
    pub explained: u64,
    /// The first ones, those without an explanation before the others.
    pub examples: Vec<Difference>,
}

impl Differences {
    fn add(&mut self, difference: Difference, examples_max: usize) {
        self.rows += 1;
        self.explained += difference.explained.is_some() as u64;
        let explained = |example: &Difference| example.explained.is_some();
        if self.examples.len() < examples_max {
            self.examples.push(difference);
        } else if !explained(&difference)
            && let Some(at) = self.examples.iter().position(explained)
        {
            self.examples[at] = difference;
        }
        self.examples.sort_by_key(|example| example.explained.is_some());
    }

    pub fn unexplained(&self) -> u64 {
        self.rows - self.explained
    }
}

/// What comparing two sides gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Compared {
    pub expected: u64,
    pub found: u64,
    /// Rows that should have been published.
    pub missing: Differences,
    /// Rows that should not.
    pub extra: Differences,
    /// Of the extra ones, copies of a row that is right.
    pub copies: u64,
    pub different: Differences,
}

impl Compared {
    pub fn unexplained(&self) -> u64 {
        self.missing.unexplained() + self.extra.unexplained() + self.different.unexplained()
    }

    pub fn explained(&self) -> u64 {
        self.missing.explained + self.extra.explained + self.different.explained
    }
}

/// Says why rows may differ without anything being wrong.
pub(super) trait Explain {
    /// A row that is missing (or, for `extra`, too many).
    fn row(&mut self, id: Fingerprint, extra: bool) -> Option<String>;

    /// A row in which these columns differ.
    fn columns(&mut self, id: Fingerprint, columns: &[usize]) -> Option<String>;
}

pub(super) fn compare(mut expected: Side, mut found: Side, explain: &mut dyn Explain, examples_max: usize) -> Compared {
    expected.sort();
    found.sort();
    let mut compared = Compared { expected: expected.rows(), found: found.rows(), ..Compared::default() };
    let (mut e, mut f) = (0, 0);
    while e < expected.entries.len() || f < found.entries.len() {
        let id = match (expected.entries.get(e), found.entries.get(f)) {
            (Some(left), Some(right)) => left.id.min(right.id),
            (Some(only), None) | (None, Some(only)) => only.id,
            (None, None) => unreachable!("the loop ends before"),
        };
        let end = |entries: &[Entry], from: usize| from + entries[from..].partition_point(|entry| entry.id == id);
        let (e_end, f_end) = (end(&expected.entries, e), end(&found.entries, f));
        let (missing, extra) = unmatched(&expected.entries[e..e_end], &found.entries[f..f_end]);
        let whole_rows = expected.id.is_empty();
        let matched = (e_end - e) > missing.len();
        let pairs = if whole_rows { 0 } else { missing.len().min(extra.len()) };
        for (left, right) in missing.iter().zip(&extra).take(pairs) {
            let columns: Vec<usize> = (0..expected.schema.fields().len())
                .filter(|c| differs((&expected, left), (&found, right), *c))
                .collect();
            let explained = explain.columns(id, &columns);
            let of = |column: &usize| ColumnDifference {
                column: expected.schema.field(*column).name().clone(),
                found: found.text(right, *column),
                expected: expected.text(left, *column),
            };
            let columns = columns.iter().map(of).collect();
            compared.different.add(Difference { id: expected.name(left), columns, explained }, examples_max);
        }
        for left in &missing[pairs..] {
            let explained = explain.row(id, false);
            let difference = Difference { id: expected.name(left), columns: Vec::new(), explained };
            compared.missing.add(difference, examples_max);
        }
        for right in &extra[pairs..] {
            compared.copies += (matched && !whole_rows) as u64;
            let explained = explain.row(id, true);
            let difference = Difference { id: found.name(right), columns: Vec::new(), explained };
            compared.extra.add(difference, examples_max);
        }
        (e, f) = (e_end, f_end);
    }
    compared
}

/// Rows of one id that have no equal on the other side; both lists are sorted.
fn unmatched<'a>(expected: &'a [Entry], found: &'a [Entry]) -> (Vec<&'a Entry>, Vec<&'a Entry>) {
    let (mut missing, mut extra) = (Vec::new(), Vec::new());
    let (mut e, mut f) = (0, 0);
    while e < expected.len() || f < found.len() {
        let order = match (expected.get(e), found.get(f)) {
            (Some(left), Some(right)) => left.row.cmp(&right.row),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        if order != Ordering::Greater {
            if order == Ordering::Less {
                missing.push(&expected[e]);
            }
            e += 1;
        }
        if order != Ordering::Less {
            if order == Ordering::Greater {
                extra.push(&found[f]);
            }
            f += 1;
        }
    }
    (missing, extra)
}

fn differs(left: (&Side, &Entry), right: (&Side, &Entry), column: usize) -> bool {
    let cell = |(side, entry): (&Side, &Entry)| {
        side.batches[entry.batch as usize].column(column).slice(entry.at as usize, 1).to_data()
    };
    cell(left) != cell(right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};
    use std::sync::Arc;

    struct Nothing;

    impl Explain for Nothing {
        fn row(&mut self, _: Fingerprint, _: bool) -> Option<String> {
            None
        }

        fn columns(&mut self, _: Fingerprint, _: &[usize]) -> Option<String> {
            None
        }
    }

    fn side(id: &[usize], rows: &[(&str, i64)]) -> Side {
        let fields = vec![Field::new("id", DataType::Utf8, false), Field::new("n", DataType::Int64, false)];
        let schema = Arc::new(Schema::new(fields));
        let ids: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.0)).collect::<StringArray>());
        let numbers: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.1)).collect::<Int64Array>());
        let mut side = Side::new(&schema, id).unwrap();
        side.add(&RecordBatch::try_new(schema, vec![ids, numbers]).unwrap()).unwrap();
        side
    }

    #[test]
    fn every_row_is_matched_once_or_told() {
        let expected = [("a", 1), ("b", 2), ("c", 3), ("d", 4)];
        let found = [("d", 4), ("a", 1), ("a", 1), ("b", 7), ("e", 5)];
        let compared = compare(side(&[0], &expected), side(&[0], &found), &mut Nothing, 5);
        let counts = [&compared.missing, &compared.extra, &compared.different].map(|kind| kind.rows);
        assert_eq!((counts, compared.copies), ([1, 2, 1], 1));
        assert_eq!(compared.missing.examples[0].id, "id=c");
        let b = &compared.different.examples[0];
        let column = ColumnDifference { column: "n".into(), found: "7".into(), expected: "2".into() };
        assert_eq!((b.id.as_str(), &b.columns), ("id=b", &vec![column]));
    }

    #[test]
    fn rows_without_an_id_are_matched_whole() {
        let compared = compare(side(&[], &[("a", 1), ("b", 2)]), side(&[], &[("b", 2), ("a", 3)]), &mut Nothing, 5);
        assert_eq!((compared.missing.rows, compared.extra.rows, compared.different.rows), (1, 1, 0));
        assert_eq!(compared.missing.examples[0].id, "id=a n=1");
    }
}
