//! Dimension joins: rows enriched from tables, by the real binary and from real files and services.

use crate::cli::{finish, rows};
use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use parquet::arrow::ArrowWriter;
use std::fs;
use std::path::Path;
use std::sync::Arc;

pub const START: i64 = 1_767_225_600_000;

/// Writes items: id, author, price and from when on (seconds after the start).
fn write_items(path: &Path, items: &[(&str, &str, f64, i64)]) {
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values(items.iter().map(|item| item.0)));
    let authors: ArrayRef = Arc::new(StringArray::from_iter_values(items.iter().map(|item| item.1)));
    let prices: ArrayRef = Arc::new(Float64Array::from_iter_values(items.iter().map(|item| item.2)));
    let since = items.iter().map(|item| (START + item.3 * 1_000) * 1_000);
    let since: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(since));
    let columns = [("item_id", ids), ("author_id", authors), ("price", prices), ("since", since)];
    let rows = RecordBatch::try_from_iter(columns).expect("the columns are as long");
    let file = fs::File::create(path.with_extension("new")).expect("the file can be made");
    let mut writer = ArrowWriter::try_new(file, rows.schema(), None).expect("a writer");
    writer.write(&rows).expect("the rows can be written");
    writer.close().expect("the file can be closed");
    fs::rename(path.with_extension("new"), path).expect("the file can be put in its place");
}

const PIPELINE: &str = r#"
version: 1
pipeline: enriched
dimensions:
  items: { parquet: { path: data/items.parquet, refresh: 1h }, key: item_id, valid_from: since }
  authors: { csv: { path: data/authors.csv }, key: id, columns: { id: string, country: string } }
streams:
  impressions:
    file: { path: data/impressions.ndjson }
    columns: { request_id: string, item_id: { type: string, nullable: true }, home: string, ts: timestamp }
    time: ts
    id: request_id
    where: "item.price IS NULL OR item.price < 100.0"
    enrich:
      item: { dimension: items, on: item_id, select: [author_id, price] }
      author: { dimension: authors, on: home }
  clicks:
    file: { path: data/clicks.ndjson }
    columns: { event_id: string, request_id: string, item_id: string, ts: timestamp }
    time: ts
    id: event_id
    key: request_id
    enrich: { item: { dimension: items, on: item_id, select: [author_id, price] } }
features:
  author:
    entity: author
    aggregates:
      author_paid: { from: clicks, by: item.author_id, sum: "item.price", where: "item.price > 1.0", windows: [1h] }
samples:
  ctr:
    from: impressions
    serving_lag: 0s
    join: { click: { stream: clicks, within: 10m, select: [item.price] } }
    features: [{ group: author, by: item.author_id }]
    columns: { dear: "item.price > 5.0" }
    select: { exclude: [ts] }
    write: { parquet: { path: out/samples } }
state: { path: out/state, lanes: 2 }
"#;

fn line(request: &str, item: &str, home: &str, at: i64) -> String {
    let ts = START + at * 1_000;
    format!("{{\"request_id\":\"{request}\",\"item_id\":{item},\"home\":\"{home}\",\"ts\":{ts}}}\n")
}

fn click(event: &str, request: &str, item: &str, at: i64) -> String {
    let ts = START + at * 1_000;
    format!("{{\"event_id\":\"{event}\",\"request_id\":\"{request}\",\"item_id\":\"{item}\",\"ts\":{ts}}}\n")
}

#[test]
fn rows_are_enriched_as_of_their_time_and_what_they_get_is_a_column_like_any_other() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let data = folder.path().join("data");
    fs::create_dir(&data).expect("a folder can be made");
    fs::write(folder.path().join("p.yaml"), PIPELINE).expect("the pipeline can be written");
    write_items(
        &data.join("items.parquet"),
        &[("a", "ann", 2.0, 0), ("b", "bob", 4.0, 0), ("a", "eve", 8.0, 60), ("c", "cy", 500.0, 0), ("late", "l", 1.5, 300)],
    );
    fs::write(data.join("authors.csv"), "id,country\nx,at\ny,\n").expect("the file can be written");
    let impressions = [
        line("r1", "\"a\"", "x", 10),
        line("r2", "\"a\"", "y", 70),
        line("r3", "\"zz\"", "z", 80),
        line("r4", "\"c\"", "x", 90),
        line("r5", "null", "x", 100),
        line("r6", "\"a\"", "x", 110),
        line("r7", "\"late\"", "x", 299),
        line("r8", "\"late\"", "x", 300),
    ];
    fs::write(data.join("impressions.ndjson"), impressions.concat()).expect("the file can be written");
    let clicks = [click("k1", "r1", "a", 20), click("k2", "r2", "a", 75), click("k3", "r2", "b", 76)];
    fs::write(data.join("clicks.ndjson"), clicks.concat()).expect("the file can be written");

    let (code, _, errors) = finish(folder.path(), &["check", "p.yaml"]);
    assert_eq!(code, 0, "{errors}");
    assert!(errors.contains("dimensions.authors: no `valid_from`"), "{errors}");
    assert!(!errors.contains("dimensions.items"), "{errors}");
    let (code, out, errors) = finish(folder.path(), &["run", "p.yaml", "--json"]);
    assert_eq!(code, 0, "{errors}");
    // What the second version of `a` costs shows after its time; `c` is turned away by what it costs.
    let version = "|";
    let found: Vec<String> = rows(&folder.path().join("out/samples"))
        .into_iter()
        .map(|row| {
            let cells: Vec<&str> = row.split('|').collect();
            [&cells[..6], &cells[7..]].concat().join(version)
        })
        .collect();
    assert_eq!(
        found,
        [
            "r1|a|x|ann|2.0|at|2.0|null|false",
            "r2|a|y|eve|8.0|null|8.0|null|true",
            "r3|zz|z|null|null|null|null|null|null",
            "r5|null|x|null|null|at|null|null|null",
            "r6|a|x|eve|8.0|at|null|8.0|true",
            "r7|late|x|null|null|at|null|null|null",
            "r8|late|x|l|1.5|at|null|null|false",
        ],
        "{out}"
    );
    let versions: Vec<String> =
        rows(&folder.path().join("out/samples")).iter().map(|row| row.split('|').nth(6).unwrap().to_string()).collect();
    // That of the file, where its key was found.
    assert!(versions[0].len() == 16 && versions[0] == versions[1] && versions[2] == "null", "{versions:?}");

    let (code, out, errors) = finish(folder.path(), &["verify", "p.yaml"]);
    assert_eq!(code, 0, "{out}{errors}");
}

#[test]
fn a_dimension_that_is_not_there_is_told_before_anything_is_read() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    fs::create_dir(folder.path().join("data")).expect("a folder can be made");
    let columns = "{ item_id: string, author_id: string, price: float64, since: timestamp }";
    let pipeline = PIPELINE.replace("valid_from: since }", &format!("valid_from: since, columns: {columns} }}"));
    fs::write(folder.path().join("p.yaml"), pipeline).expect("the pipeline can be written");
    let (code, _, errors) = finish(folder.path(), &["check", "p.yaml"]);
    assert_eq!(code, 0, "with `columns` the file need not be there: {errors}");
    let (code, _, errors) = finish(folder.path(), &["run", "p.yaml"]);
    assert_eq!(code, 1, "{errors}");
    assert!(errors.contains("dimension items: data/items.parquet") && errors.contains("check the path"), "{errors}");
    assert!(!folder.path().join("out/state/manifests").exists(), "nothing was claimed");
}
