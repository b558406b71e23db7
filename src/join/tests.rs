use super::index::{Index, RowRef};
use super::label::{Admission, LabelState, Labels, NewLabel};
use super::take::label_columns;
use super::{LabelSpec, Take};
use arrow::array::{Array, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use std::sync::Arc;

fn labels(take: Take) -> Labels {
    let schema = Arc::new(Schema::new(vec![Field::new("value", DataType::Int64, true)]));
    let spec = LabelSpec {
        name: "l".into(),
        stream: 1,
        on: None,
        key_set: 0,
        nullable_key: Vec::new(),
        within_ms: 10_000,
        before_ms: 0,
        take,
        select: vec![0],
        filter: None,
    };
    Labels::new(spec, &schema, &[])
}

fn label(id: u128, ts: i64, content: u64, came_at: i64) -> NewLabel {
    NewLabel { event_time: ts, id, key: 7, content, home: 0, came_at }
}

/// Adds a label with its value.
fn add(labels: &mut Labels, new: NewLabel, value: Option<i64>) -> RowRef {
    let bucket = (new.event_time / 1_000) as u32;
    let row = labels.push(bucket, new);
    let column = Arc::new(Int64Array::from(vec![value]));
    labels.add_part(bucket, RecordBatch::try_new(labels.schema.clone(), vec![column]).unwrap());
    row
}

fn chain(labels: &Labels) -> Vec<RowRef> {
    let rows = std::iter::successors(Some(labels.chain(7)), |row| Some(labels.next(*row)));
    // A row that is none has no next.
    let mut found = Vec::new();
    for row in rows {
        if row.is_none() {
            break;
        }
        found.push(row);
        if labels.next(row).is_none() {
            break;
        }
    }
    found
}

#[test]
fn an_index_tells_fingerprints_with_one_tag_apart() {
    let (one, other) = (1u128 << 64 | 5, 2u128 << 64 | 5);
    let rows = [one, other];
    let is = |wanted: u128| move |row: RowRef| rows[row.row() as usize] == wanted;
    let mut index = Index::default();
    index.insert(one, RowRef::new(0, 0));
    index.insert(other, RowRef::new(0, 1));
    assert_eq!(index.get(other, is(other)), Some(RowRef::new(0, 1)));
    index.remove(one, RowRef::new(0, 0));
    assert_eq!((index.get(one, is(one)), index.len()), (None, 1));
    assert!(!index.replace(other, RowRef::new(9, 9), RowRef::new(0, 0)), "it points elsewhere");
}

/// Found by fuzzing: a label came under an id that had been forgotten; a restart found both on disk, took the second for the
/// loser of a conflict and dropped it.
#[test]
fn what_was_written_is_taken_back_whatever_its_id_met_and_only_records_tell_who_lost() {
    let mut labels = labels(Take::Count);
    let both = [label(1, 10_000, 5, 10_000), label(1, 90_000, 6, 90_000)];
    let rows: Vec<RowRef> = both
        .into_iter()
        .map(|label| {
            assert!(labels.admit_again(&label));
            add(&mut labels, label, None)
        })
        .collect();
    assert!(!labels.admit_again(&label(1, 90_000, 6, 90_000)), "a copy");
    assert_eq!(labels.waiting(), 2);
    labels.restore_decision(1, 6, LabelState::Replaced);
    assert_eq!(
        (labels.waiting(), labels.state(rows[0]), labels.state(rows[1])),
        (1, LabelState::Waiting, LabelState::Replaced)
    );
    // Written anew, it is on record; of copies the one that stands is found out again.
    labels.decide_anew();
    let told: Vec<_> = labels.decisions.iter().map(|decision| (decision.content, decision.state)).collect();
    assert_eq!(told, [(6, LabelState::Replaced)]);
    assert!(labels.admit_again(&label(1, 10_000, 5, 9_000)), "the same, sooner");
    labels.decisions.clear();
    add(&mut labels, label(1, 10_000, 5, 9_000), None);
    labels.decide_anew();
    assert!(labels.decisions.iter().all(|decision| decision.content == 6));
}

#[test]
fn a_chain_loses_the_rows_of_buckets_that_expire() {
    let mut labels = labels(Take::Count);
    let rows = [1_000, 5_000, 1_500].map(|ts| add(&mut labels, label(ts as u128, ts, 0, ts), None));
    assert_eq!(chain(&labels), [rows[2], rows[1], rows[0]]);
    labels.expire(0, 2, false);
    assert_eq!(chain(&labels), [rows[1]]);
    labels.expire(0, 9, false);
    assert!(labels.chain(7).is_none() && labels.is_empty());
}

#[test]
fn of_two_labels_with_one_id_the_smaller_time_and_hash_stays() {
    let mut labels = labels(Take::Count);
    let old = add(&mut labels, label(1, 2_000, 5, 2_000), None);
    assert!(matches!(labels.admit(&label(1, 2_000, 5, 9_000)), Admission::Duplicate));
    assert!(matches!(labels.admit(&label(1, 2_000, 6, 2_000)), Admission::ConflictLost));
    assert!(matches!(labels.admit(&label(1, 1_000, 9, 2_000)), Admission::ConflictWon));
    assert_eq!(labels.state(old), LabelState::Replaced);
    assert!(matches!(labels.admit(&label(1, 3_000, 0, 3_000)), Admission::New));
}

#[test]
fn a_copy_that_came_in_time_stands_in_for_one_that_came_late() {
    let mut labels = labels(Take::Count);
    add(&mut labels, label(1, 2_000, 5, 9_000), None);
    assert!(matches!(labels.admit(&label(1, 2_000, 5, 2_000)), Admission::Sooner));
    let row = add(&mut labels, label(1, 2_000, 5, 2_000), None);
    labels.set_state(row, LabelState::Attached);
    assert!(matches!(labels.admit(&label(1, 2_000, 5, 1_000)), Admission::Duplicate), "it has left");
}

#[test]
fn columns_are_made_of_the_labels_of_each_impression() {
    let column = |take: Take| {
        let mut labels = labels(take);
        let made = [(1_000, Some(4)), (2_000, None), (1_000, Some(-3))];
        let rows: Vec<RowRef> = made
            .iter()
            .enumerate()
            .map(|(id, (ts, value))| add(&mut labels, label(id as u128, *ts, 0, *ts), *value))
            .collect();
        // The first impression has all three, the second none, the third the one without a value.
        label_columns(&labels, &[rows[0], rows[1], rows[2], rows[1]], &[3, 3, 4]).remove(0)
    };
    let numbers = |take: Take| column(take).as_primitive::<Int64Type>().iter().collect::<Vec<_>>();
    assert_eq!(numbers(Take::Count), [Some(3), Some(0), Some(1)]);
    assert_eq!(numbers(Take::Sum(0)), [Some(1), None, None], "no label is not a label of nothing");
    assert_eq!(numbers(Take::Min(0)), [Some(-3), None, None]);
    assert_eq!(numbers(Take::Max(0)), [Some(4), None, None]);
    assert_eq!(numbers(Take::First), [Some(4), None, None], "of one time the smaller id");
    assert_eq!(numbers(Take::Last), [None, None, None]);
    assert_eq!(column(Take::Any).as_boolean().iter().collect::<Vec<_>>(), [Some(true), Some(false), Some(true)]);
    assert!(column(Take::Last).is_null(0));
    let lists = |most| {
        let column = column(Take::All(most));
        let list =
            |row: usize| column.as_list::<i32>().value(row).as_primitive::<Int64Type>().iter().collect::<Vec<_>>();
        [list(0), list(1), list(2)]
    };
    assert_eq!(lists(5), [vec![Some(4), Some(-3), None], vec![], vec![None]], "in their order, and empty without one");
    assert_eq!(lists(2), [vec![Some(4), Some(-3)], vec![], vec![None]]);
}
