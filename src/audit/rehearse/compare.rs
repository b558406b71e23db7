//! Compare: expected rows, each with the columns that it names, against the rows that came out, as sets.
//!
//!   expected ─┐ matched as many as possible ─> those left over: paired by likeness ─> different
//!   found ────┘                                                 alone ─> missing, unexpected

use super::value::{Clock, Found, is_as, shown};
use super::{ComparedColumn, ProblemKind, TestProblem};
use crate::config::ExpectedRow;
use crate::event::EventTime;

/// What differs, each with the number of the row that came out, if there is one.
pub fn compare(
    about: &str,
    names: &[&str],
    expected: &[ExpectedRow],
    found: &[Vec<Found>],
    start: EventTime,
) -> Vec<(TestProblem, Option<usize>)> {
    let clock = Clock::of(start, expected);
    let taken = matched(expected, found);
    let mut missing: Vec<usize> = (0..expected.len()).filter(|row| !taken.contains(&Some(*row))).collect();
    let mut extra: Vec<usize> = (0..found.len()).filter(|row| taken[*row].is_none()).collect();
    let mut problems: Vec<(usize, TestProblem, Option<usize>)> = Vec::new();
    while let Some((one, other)) = most_alike(expected, found, &missing, &extra) {
        missing.retain(|row| *row != one);
        extra.retain(|row| *row != other);
        let problem = diff(about, names, &expected[one], Some(&found[other]), clock);
        problems.extend(problem.map(|problem| (one, problem, Some(other))));
    }
    for one in missing {
        problems.extend(diff(about, names, &expected[one], None, clock).map(|problem| (one, problem, None)));
    }
    problems.sort_by_key(|(one, ..)| *one);
    let mut problems: Vec<_> = problems.into_iter().map(|(_, problem, row)| (problem, row)).collect();
    let mut named: Vec<usize> = Vec::new();
    for (column, _) in expected.iter().flat_map(|row| &row.columns) {
        if !named.contains(column) {
            named.push(*column);
        }
    }
    if named.is_empty() {
        named = (0..names.len()).collect();
    }
    problems.extend(extra.into_iter().map(|row| (unexpected(about, names, &named, &found[row], clock), Some(row))));
    problems
}

/// Per row that came out, the expectation that it meets: as many as can be.
fn matched(expected: &[ExpectedRow], found: &[Vec<Found>]) -> Vec<Option<usize>> {
    let meets = |one: usize, row: &[Found]| expected[one].columns.iter().all(|(at, value)| is_as(value, &row[*at]));
    let mut taken: Vec<Option<usize>> = vec![None; found.len()];
    for one in 0..expected.len() {
        // A way to a row that is free, over rows whose expectations can be met by others.
        let mut came_from: Vec<Option<usize>> = vec![None; found.len()];
        let mut seen = vec![false; found.len()];
        let mut queue = vec![(one, None)];
        let mut free = None;
        while let Some((who, over)) = queue.pop() {
            for row in 0..found.len() {
                if seen[row] || !meets(who, &found[row]) {
                    continue;
                }
                (seen[row], came_from[row]) = (true, over);
                match taken[row] {
                    Some(holder) => queue.push((holder, Some(row))),
                    None => free = free.or(Some(row)),
                }
            }
            if free.is_some() {
                break;
            }
        }
        // Each row on the way goes to the holder of the row before.
        while let Some(row) = free {
            taken[row] = Some(came_from[row].and_then(|before| taken[before]).unwrap_or(one));
            free = came_from[row];
        }
    }
    taken
}

/// The pair that is most alike: the first column that is named (an id, mostly) says more than the others.
fn most_alike(
    expected: &[ExpectedRow],
    found: &[Vec<Found>],
    missing: &[usize],
    extra: &[usize],
) -> Option<(usize, usize)> {
    let likeness = |one: usize, other: usize| {
        let columns = expected[one].columns.iter();
        let equal: Vec<bool> = columns.map(|(at, value)| is_as(value, &found[other][*at])).collect();
        let count = equal.iter().filter(|equal| **equal).count();
        let is_alike = equal.first() == Some(&true) || 2 * count > equal.len() || missing.len() + extra.len() == 2;
        is_alike.then_some((equal.first().copied(), count))
    };
    let pairs = missing.iter().flat_map(|one| extra.iter().map(move |other| (*one, *other)));
    let pairs = pairs.filter_map(|(one, other)| Some((likeness(one, other)?, one, other)));
    // Of those that are alike the first one.
    let best = pairs.reduce(|best, pair| if pair.0 > best.0 { pair } else { best })?;
    Some((best.1, best.2))
}

/// How a row differs from its expectation; nothing if it does not.
pub fn diff(
    about: &str,
    names: &[&str],
    expected: &ExpectedRow,
    found: Option<&[Found]>,
    clock: Clock,
) -> Option<TestProblem> {
    let columns = expected.columns.iter().map(|(at, value)| ComparedColumn {
        column: names[*at].into(),
        expected: Some(shown(value, clock)),
        found: found.map(|row| row[*at].shown(clock)),
        equal: found.is_some_and(|row| is_as(value, &row[*at])),
    });
    let columns: Vec<ComparedColumn> = columns.collect();
    if found.is_some() && columns.iter().all(|column| column.equal) {
        return None;
    }
    Some(TestProblem {
        about: about.into(),
        file: Some(expected.place.file.clone()),
        line: Some(expected.place.line),
        kind: if found.is_some() { ProblemKind::Different } else { ProblemKind::Missing },
        columns,
    })
}

fn unexpected(about: &str, names: &[&str], named: &[usize], row: &[Found], clock: Clock) -> TestProblem {
    let columns = named.iter().map(|at| ComparedColumn {
        column: names[*at].into(),
        expected: None,
        found: Some(row[*at].shown(clock)),
        equal: false,
    });
    TestProblem {
        about: about.into(),
        file: None,
        line: None,
        kind: ProblemKind::Unexpected,
        columns: columns.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Expected, TestPlace};

    fn expected(values: &[Option<i64>]) -> ExpectedRow {
        let columns = values.iter().enumerate().filter_map(|(at, value)| Some((at, Expected::Int((*value)?))));
        ExpectedRow { place: TestPlace { file: "t".into(), line: 1 }, columns: columns.collect() }
    }

    fn found(values: &[i64]) -> Vec<Found> {
        values.iter().map(|value| Found::Int(*value)).collect()
    }

    fn told(rows: &[ExpectedRow], out: &[Vec<Found>]) -> Vec<(ProblemKind, Option<usize>)> {
        compare("t", &["id", "x"], rows, out, 0).into_iter().map(|(problem, row)| (problem.kind, row)).collect()
    }

    #[test]
    fn a_vague_expectation_leaves_a_row_to_the_one_that_needs_it() {
        // The first one could take either row, and takes the one that the second one needs.
        let rows = [expected(&[None, Some(1)]), expected(&[Some(7), Some(1)]), expected(&[Some(8), None])];
        assert_eq!(told(&rows, &[found(&[7, 1]), found(&[8, 1]), found(&[9, 1])]), []);
        assert_eq!(told(&rows, &[found(&[8, 1]), found(&[9, 1]), found(&[7, 1])]), []);
    }

    #[test]
    fn rows_are_a_set_with_repetitions() {
        let one = || expected(&[Some(7), Some(1)]);
        assert_eq!(told(&[one(), one()], &[found(&[7, 1]), found(&[7, 1])]), []);
        assert_eq!(told(&[one()], &[found(&[7, 1]), found(&[7, 1])]), [(ProblemKind::Unexpected, Some(1))]);
        assert_eq!(told(&[one(), one()], &[found(&[7, 1])]), [(ProblemKind::Missing, None)]);
        assert_eq!(told(&[], &[found(&[7, 1])]), [(ProblemKind::Unexpected, Some(0))]);
    }

    #[test]
    fn a_row_that_differs_is_held_against_the_one_of_its_id() {
        let rows = [expected(&[Some(7), Some(1)]), expected(&[Some(8), Some(1)])];
        let different = ProblemKind::Different;
        assert_eq!(told(&rows, &[found(&[8, 2]), found(&[7, 3])]), [(different, Some(1)), (different, Some(0))]);
        // Of another id, and nothing else in common.
        let missing = (ProblemKind::Missing, None);
        assert_eq!(
            told(&rows, &[found(&[8, 1]), found(&[9, 4]), found(&[5, 5])]),
            [missing, (ProblemKind::Unexpected, Some(1)), (ProblemKind::Unexpected, Some(2)),]
        );
    }
}
