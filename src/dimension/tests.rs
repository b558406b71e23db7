//! Tables against a naive oracle, and files as they come and change.

use super::cells::{Cells, parse};
use super::table::{Identity, Origin, Table};
use super::*;
use crate::env::Place;
use crate::event::{ColumnType, Partitioner, fingerprints};
use arrow::array::{AsArray, Int64Array, StringArray};
use arrow::datatypes::Int64Type;
use proptest::prelude::*;
use std::fs;
use std::path::Path;

fn column(name: &str, column_type: ColumnType) -> DimensionColumn {
    DimensionColumn { name: name.into(), column_type, source_name: name.into(), unit: DimensionTime::Millis }
}

/// `item_id`, `price` and `since`, in files at `path`.
fn spec(path: &Path, format: FileFormat, valid_from: bool) -> Arc<DimensionSpec> {
    let columns = vec![
        column("item_id", ColumnType::String),
        column("price", ColumnType::Int64),
        column("since", ColumnType::Timestamp),
    ];
    let files = DimensionFiles {
        place: Place::Folder(path.to_path_buf()),
        path: path.display().to_string(),
        format,
        refresh_ms: 1_000,
    };
    Arc::new(DimensionSpec {
        name: "items".into(),
        columns,
        key: vec![0],
        valid_from: valid_from.then_some(2),
        version: if valid_from { VersionFrom::None } else { VersionFrom::Source },
        source: DimensionSource::Files(files),
        partitioner: Partitioner::Murmur2,
    })
}

/// What keys find at instants: their prices, and versions where there are some.
fn ask(
    spec: &DimensionSpec,
    keys: &[(&str, EventTime)],
    look_up: impl FnOnce(&Ask<'_>) -> Found,
) -> (Vec<Option<i64>>, Option<Vec<Option<String>>>) {
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(keys.iter().map(|(name, _)| *name)));
    let prints = fingerprints(&[&names], keys.len(), spec.partitioner);
    let at: Vec<EventTime> = keys.iter().map(|(_, at)| *at).collect();
    let found = look_up(&Ask {
        keys: &[names],
        prints: &prints,
        at: &at,
        wanted: &vec![true; keys.len()],
        select: &[1],
        version: spec.version != VersionFrom::None,
        again: false,
        now_ms: 0,
    });
    let prices: Vec<Option<i64>> = found.columns[0].as_primitive::<Int64Type>().iter().collect();
    assert_eq!(found.found, prices.iter().map(Option::is_some).collect::<Vec<_>>());
    let texts = |column: &ArrayRef| column.as_string::<i32>().iter().map(|text| text.map(String::from)).collect();
    (prices, found.columns.get(1).map(texts))
}

#[derive(Clone, Debug)]
enum Change {
    Put(Vec<(u8, i64, EventTime)>),
    Remove(u8, EventTime),
}

fn change() -> impl Strategy<Value = Change> {
    let row = (0..6u8, 0..1_000i64, 0..8i64);
    prop_oneof![
        4 => prop::collection::vec(row, 1..12).prop_map(Change::Put),
        1 => (0..6u8, 0..8i64).prop_map(|(key, from)| Change::Remove(key, from)),
    ]
}

fn batch(spec: &DimensionSpec, rows: &[(u8, i64, EventTime)]) -> RecordBatch {
    let names = StringArray::from_iter_values(rows.iter().map(|row| format!("i{}", row.0)));
    let prices = Int64Array::from_iter_values(rows.iter().map(|row| row.1));
    let mut since = Cells::new(ColumnType::Timestamp, rows.len());
    rows.iter().for_each(|row| since.push(&Value::Time(row.2)));
    RecordBatch::try_new(spec.schema(), vec![Arc::new(names), Arc::new(prices), since.finish()]).unwrap()
}

/// All rows in the order they were put; the last one of a key and an instant stands.
fn naive(changes: &[Change], versioned: bool, key: u8, at: EventTime) -> Option<i64> {
    let mut rows: Vec<(u8, i64, EventTime)> = Vec::new();
    let same = |a: &(u8, i64, EventTime), key: u8, from: EventTime| a.0 == key && (!versioned || a.2 == from);
    for change in changes {
        match change {
            Change::Put(put) => {
                for row in put {
                    rows.retain(|known| !same(known, row.0, row.2));
                    rows.push(*row);
                }
            }
            Change::Remove(key, from) => rows.retain(|known| !same(known, *key, *from)),
        }
    }
    let fitting = rows.into_iter().filter(|row| row.0 == key && (!versioned || row.2 <= at));
    fitting.max_by_key(|row| if versioned { row.2 } else { 0 }).map(|row| row.1)
}

proptest! {
    #[test]
    fn a_look_up_finds_what_a_naive_reading_of_all_rows_finds(
        changes in prop::collection::vec(change(), 1..20),
        versioned: bool,
        compact in 0..4usize,
    ) {
        let spec = spec(Path::new("none"), FileFormat::Parquet, versioned);
        let mut table = Table::new(&spec);
        for (number, change) in changes.iter().enumerate() {
            match change {
                Change::Put(rows) => {
                    let offsets = (0..rows.len() as i64).map(|row| (number as u32, row)).collect();
                    table.put(&spec, batch(&spec, rows), Origin::Log(offsets));
                }
                Change::Remove(key, from) => {
                    let name: ArrayRef = Arc::new(StringArray::from(vec![format!("i{key}")]));
                    let from = if versioned { *from } else { EventTime::MIN };
                    table.remove(Identity { print: fingerprints(&[&name], 1, spec.partitioner)[0], from });
                }
            }
            if number % 4 == compact {
                table.clear_away();
            }
        }
        let keys: Vec<(String, u8, EventTime)> =
            (0..7u8).flat_map(|key| (-1..9i64).map(move |at| (format!("i{key}"), key, at))).collect();
        let asked: Vec<(&str, EventTime)> = keys.iter().map(|(name, _, at)| (name.as_str(), *at)).collect();
        let (found, _) = ask(&spec, &asked, |ask| table.look_up(&spec, ask).unwrap());
        let expected: Vec<_> = keys.iter().map(|(_, key, at)| naive(&changes, versioned, *key, *at)).collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn a_file_that_changes_is_read_anew_and_one_that_is_broken_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("items.csv");
    fs::write(&path, "\u{feff}item_id,price,since\na,1,\nb,,5\n\"c,c\",3,\n").unwrap();
    let spec = spec(&path, FileFormat::Csv { delimiter: b',' }, false);
    let dimension = Dimension::new(spec.clone()).unwrap();
    assert!(dimension.load(7).unwrap());
    assert!(!dimension.load(9).unwrap(), "nothing has changed");
    let look = || ask(&spec, &[("a", 0), ("c,c", 0), ("zz", 0)], |ask| dimension.look_up(ask).unwrap());
    let (prices, first) = look();
    assert_eq!(prices, [Some(1), Some(3), None]);
    fs::write(&path, "item_id,price,since\na,1,\na,zehn,\n").unwrap();
    let error = dimension.load(11).unwrap_err().to_string();
    assert!(error.contains("line 3, column `price`: found `zehn`, expected a value of type int64"), "{error}");
    assert_eq!(look(), (prices, first.clone()));
    fs::write(&path, "price,item_id,since\n1,a,\n20,a,1\n").unwrap();
    assert!(dimension.load(12).unwrap());
    let (prices, second) = look();
    assert_eq!(prices, [Some(20), None, None], "the last row of a key stands");
    assert!(first.unwrap()[0] != second.unwrap()[0], "another content is another version");
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let gauge = &dimension.gauge;
    assert_eq!((of(&gauge.refreshes), of(&gauge.failures), of(&gauge.fresh_at_ms), of(&gauge.rows)), (2, 1, 12, 1));
    assert_eq!((of(&gauge.found), of(&gauge.missing)), (5, 4));
}

#[test]
fn what_is_wrong_with_files_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let error = |name: &str, format: FileFormat| {
        let spec = spec(&folder.path().join(name), format, false);
        Dimension::new(spec).unwrap().load(0).unwrap_err().to_string()
    };
    let csv = FileFormat::Csv { delimiter: b',' };
    assert!(error("none.csv", csv).contains("check the path"));
    assert!(error("", csv).contains("there is no file .csv"));
    fs::write(folder.path().join("a.csv"), "id,price,since\n").unwrap();
    assert!(error("a.csv", csv).contains("no column `item_id`; the first line names id, price, since"));
    fs::write(folder.path().join("b.parquet"), "PAR1 or so, PAR1").unwrap();
    assert!(error("b.parquet", FileFormat::Parquet).contains("no Parquet file"));
    fs::write(folder.path().join("c.csv"), b"item_id,price,since\n\xff,1,\n").unwrap();
    assert!(error("c.csv", csv).contains("UTF-8"));
}

#[test]
fn times_are_read_as_their_unit_says() {
    let time = |unit: DimensionTime, text: &str| {
        let column = DimensionColumn { unit, ..column("since", ColumnType::Timestamp) };
        parse(text, &column)
    };
    assert_eq!(time(DimensionTime::Seconds, "1767225600"), Some(Value::Time(1_767_225_600_000)));
    assert_eq!(time(DimensionTime::Micros, "-1"), Some(Value::Time(-1)));
    assert_eq!(time(DimensionTime::Rfc3339, "2026-01-01T01:00:00+01:00"), Some(Value::Time(1_767_225_600_000)));
    assert_eq!(time(DimensionTime::Rfc3339, "yesterday"), None);
    assert_eq!(time(DimensionTime::Seconds, "9223372036854775807"), None);
}
