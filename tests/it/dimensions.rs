//! Dimension joins: rows enriched from tables, by the real binary and from real files and services.

use crate::cli::{finish, rows};
use crate::support::binary::{self, Conjoin, wait_for};
use crate::support::env;
use crate::support::gate::Gate;
use crate::support::kafka::{KafkaProducer, TestRecord, brokers, unique};
use crate::support::oracle::Row;
use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use conjoin::event::{Partitioner, partition_of};
use parquet::arrow::ArrowWriter;
use serde_json::{Value as Json, json};
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
        &[
            ("a", "ann", 2.0, 0),
            ("b", "bob", 4.0, 0),
            ("a", "eve", 8.0, 60),
            ("c", "cy", 500.0, 0),
            ("late", "l", 1.5, 300),
        ],
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
            "r1|a|x|ann|2.0|at|2.0|0.0|false",
            "r2|a|y|eve|8.0|null|8.0|0.0|true",
            "r3|zz|z|null|null|null|null|0.0|null",
            "r5|null|x|null|null|at|null|0.0|null",
            "r6|a|x|eve|8.0|at|null|8.0|true",
            "r7|late|x|null|null|at|null|0.0|null",
            "r8|late|x|l|1.5|at|null|0.0|false",
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

/// A record of a dimension's topic; without a value it removes its key.
fn change<'a>(partition: i32, key: &'a str, value: Option<&'a str>) -> TestRecord<'a> {
    let (key, payload) = (Some(key.as_bytes()), value.map(str::as_bytes));
    TestRecord { partition, key, payload, timestamp: None, headers: &[] }
}

/// Rows of a folder, by request: some of their columns.
fn by_request(folder: &Path, columns: &[&str]) -> Vec<(String, Vec<Json>)> {
    let text = |row: &Row| row["request_id"].as_str().expect("a text").to_string();
    let mut found: Vec<(String, Vec<Json>)> = binary::rows(folder)
        .into_iter()
        .map(|row| (text(&row), columns.iter().map(|column| row[*column].clone()).collect()))
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

#[test]
fn rows_wait_for_dimensions_that_come_late_also_through_a_kill() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let kafka = KafkaProducer::new();
    let (feed, clicks) = (kafka.create_topic("feed", 1), kafka.create_topic("clicks", 1));
    let items = kafka.create_on("items", &[&[1], &[1]], &[("cleanup.policy", "compact")]);
    let prefix = unique("user");
    let pipeline = format!(
        r#"
version: 1
pipeline: {prefix}
connections:
  main: {{ kafka: {{ brokers: "{brokers}" }} }}
  cache: {{ redis: {{ url: "{redis}" }} }}
  shop: {{ postgres: {{ url: "{postgres}" }} }}
dimensions:
  items:
    kafka: {{ connection: main, topic: {items} }}
    key: id
    columns: {{ id: string, price: float64 }}
  users:
    redis: {{ connection: cache, key: "{prefix}:{{user}}", cache: {{ missing_ttl: 1h }} }}
    key: user
    columns: {{ user: string, age: int32 }}
  shops:
    postgres: {{ connection: shop, table: {table} }}
    key: shop
    columns: {{ shop: int64, name: string, since: timestamp }}
    valid_from: since
  pages: {{ csv: {{ path: pages.csv, refresh: 50ms }}, key: page, columns: {{ page: string, site: string }} }}
streams:
  impressions:
    kafka: {{ connection: main, topics: [{feed}] }}
    columns: {{ request_id: string, item: string, user: string, shop: int64, page: string, ts: timestamp }}
    time: ts
    id: request_id
    enrich:
      item: {{ dimension: items, on: item, retry: {{ for: 30s }} }}
      once: {{ dimension: items, on: item }}
      user: {{ dimension: users, on: user, retry: {{ for: 30s }} }}
      shop: {{ dimension: shops, on: shop, select: [name], retry: {{ for: 30s }} }}
      page: {{ dimension: pages, on: page }}
  clicks:
    kafka: {{ connection: main, topics: [{clicks}] }}
    columns: {{ event_id: string, request_id: string, ts: timestamp }}
    time: ts
    id: event_id
    key: request_id
samples:
  ctr:
    from: impressions
    join: {{ click: {{ stream: clicks, within: 30s }} }}
    write: {{ parquet: {{ path: out }} }}
state: {{ path: state, commit_every: 100ms }}
"#,
        brokers = brokers(),
        redis = env("REDIS_URL"),
        postgres = env("POSTGRES_URL"),
        table = prefix.replace('-', "_"),
    );
    fs::write(folder.path().join("pipeline.yaml"), pipeline).expect("the pipeline can be written");
    fs::write(folder.path().join("pages.csv"), "page,site\nhome,one\n").expect("the file can be written");
    let mut redis = redis::Client::open(env("REDIS_URL")).and_then(|client| client.get_connection()).expect("redis");
    let mut set_age = |user: &str, age: i32| {
        redis::cmd("HSET").arg(format!("{prefix}:{user}")).arg("age").arg(age).exec(&mut redis).expect("it is written");
    };
    set_age("u1", 31);
    let mut postgres = postgres::Client::connect(&env("POSTGRES_URL"), postgres::NoTls).expect("postgres answers");
    let table = prefix.replace('-', "_");
    let made = format!(
        "CREATE TABLE {table} (shop bigint, name text, since timestamptz); INSERT INTO {table} VALUES \
         (1, 'old', '-infinity'), (1, 'new', to_timestamp({}))",
        (START + 2_000) / 1_000
    );
    postgres.batch_execute(&made).expect("the table can be made");
    let changes = [
        change(0, "a", Some(r#"{"id":"a","price":1.0}"#)),
        change(1, "b", Some(r#"{"id":"b","price":2.0}"#)),
        change(1, "b", Some(r#"{"id":"b","price":2.5,"else":1}"#)),
        change(0, "gone", Some(r#"{"id":"gone","price":3.0}"#)),
        change(0, "bad", Some("no JSON")),
        change(0, "gone", None),
    ];
    kafka.produce(&items, &changes);
    let produce = |request: &str, item: &str, user: &str, shop: i64, page: &str, at: i64| {
        let value =
            json!({"request_id": request, "item": item, "user": user, "shop": shop, "page": page, "ts": START + at});
        let value = value.to_string();
        kafka.produce(&feed, &[change(0, request, Some(&value))]);
    };
    produce("r1", "a", "u1", 1, "home", 1_000);
    produce("r2", "b", "late", 1, "home", 2_000);
    produce("r3", "late", "u1", 2, "none", 3_000);
    produce("r4", "gone", "u1", 1, "home", 4_000);

    let first = Conjoin::run(folder.path(), "first", &[]);
    let pending = |rows: usize| {
        wait_for("the rows are committed", || {
            let newest = folder.path().join("state/manifests");
            let text = binary::files(&newest, ".json").last().and_then(|path| fs::read_to_string(path).ok())?;
            text.contains(&format!("\"pending\":{rows},")).then_some(())
        })
    };
    pending(4);
    // A file that changes is noticed while the pipeline runs.
    fs::write(folder.path().join("pages.csv"), "page,site\nhome,two\n").expect("the file can be written");
    wait_for("the file is read anew", || first.errors().contains("dimension pages was read anew").then_some(()));
    produce("r5", "a", "u1", 1, "home", 5_000);
    pending(5);
    first.kill();
    // What was missing arrives: it is in the rows that wait, and in no others.
    kafka.produce(&items, &[change(1, "late", Some(r#"{"id":"late","price":7.0}"#))]);
    set_age("late", 77);
    postgres.batch_execute(&format!("INSERT INTO {table} VALUES (2, 'two', null)")).expect("it is inserted");

    let second = Conjoin::run(folder.path(), "second", &["--until-end", "--close", "--json"]);
    second.summary();
    let columns = ["item_price", "item_version", "once_price", "user_age", "shop_name", "page_site"];
    assert_eq!(
        by_request(&folder.path().join("out"), &columns),
        [
            ("r1".into(), vec![json!(1.0), json!("0:0"), json!(1.0), json!(31), json!("old"), json!("one")]),
            ("r2".into(), vec![json!(2.5), json!("1:1"), json!(2.5), json!(77), json!("new"), json!("one")]),
            ("r3".into(), vec![json!(7.0), json!("1:2"), json!(null), json!(31), json!("two"), json!(null)]),
            ("r4".into(), vec![json!(null), json!(null), json!(null), json!(31), json!("new"), json!("one")]),
            ("r5".into(), vec![json!(1.0), json!("0:0"), json!(1.0), json!(31), json!("new"), json!("two")]),
        ]
    );
    let told = fs::read_to_string(folder.path().join("first.err")).expect("the log is there");
    assert!(told.contains("dimension items: 1 records cannot be read"), "{told}");
}

/// A service behind a gate: the gate, and its URL with the gate's address in the place of its own.
fn gated(url: &str) -> (Gate, String) {
    let rest = url.split_once("://").expect("a URL").1;
    let address = rest.rsplit('@').next().and_then(|rest| rest.split('/').next()).expect("an address");
    let (gate, front) = Gate::opened(address.to_string());
    (gate, url.replace(address, &front))
}

#[test]
fn stores_that_go_away_hold_reading_back_and_make_no_null() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let kafka = KafkaProducer::new();
    let feed = kafka.create_topic("feed", 1);
    let prefix = unique("away");
    let table = prefix.replace('-', "_");
    let ((redis_gate, redis_url), (postgres_gate, postgres_url)) =
        (gated(&env("REDIS_URL")), gated(&env("POSTGRES_URL")));
    let pipeline = format!(
        r#"
version: 1
pipeline: {prefix}
connections:
  main: {{ kafka: {{ brokers: "{brokers}" }} }}
  cache: {{ redis: {{ url: "{redis_url}" }} }}
  shop: {{ postgres: {{ url: "{postgres_url}" }} }}
dimensions:
  users:
    redis: {{ connection: cache, key: "{prefix}:{{user}}" }}
    key: user
    columns: {{ user: int64, age: int32 }}
  shops:
    postgres: {{ connection: shop, table: {table} }}
    key: shop
    columns: {{ shop: int64, name: string }}
streams:
  impressions:
    kafka: {{ connection: main, topics: [{feed}] }}
    columns: {{ request_id: string, user: int64, shop: int64, ts: timestamp }}
    time: ts
    id: request_id
    lateness: 0s
    idle_after: 1s
    enrich: {{ user: {{ dimension: users, on: user }}, shop: {{ dimension: shops, on: shop }} }}
samples:
  all: {{ from: impressions, write: {{ parquet: {{ path: out, roll: {{ age: 100ms }} }} }} }}
state: {{ path: state, commit_every: 100ms }}
"#,
        brokers = brokers(),
    );
    fs::write(folder.path().join("pipeline.yaml"), pipeline).expect("the pipeline can be written");
    let mut redis = redis::Client::open(env("REDIS_URL")).and_then(|client| client.get_connection()).expect("redis");
    let mut postgres = postgres::Client::connect(&env("POSTGRES_URL"), postgres::NoTls).expect("postgres answers");
    postgres
        .batch_execute(&format!(
            "CREATE TABLE {table} (shop bigint, name text);
             INSERT INTO {table} SELECT number, 'shop ' || number FROM generate_series(0, 39) number"
        ))
        .expect("the table can be made");
    for user in 0..40 {
        redis::cmd("HSET")
            .arg(format!("{prefix}:{user}"))
            .arg("age")
            .arg(user)
            .exec(&mut redis)
            .expect("it is written");
    }
    let expected = |number: i64| (format!("r{number:02}"), vec![json!(number), json!(format!("shop {number}"))]);
    // Each row has keys of its own, so that no cache answers for a store, and an hour of its own, so that none is late.
    let produce = |numbers: std::ops::Range<i64>| {
        for number in numbers {
            let request = format!("r{number:02}");
            let value =
                json!({"request_id": request, "user": number, "shop": number, "ts": START + number * 3_600_000});
            kafka.produce(&feed, &[change(0, &request, Some(&value.to_string()))]);
        }
    };
    let found = || by_request(&folder.path().join("out"), &["user_age", "shop_name"]);
    let wait_for_rows = |count: usize| wait_for("rows", || (found().len() >= count).then_some(()));
    let run = Conjoin::run(folder.path(), "run", &[]);
    produce(0..10);
    wait_for_rows(10);
    for (gate, name, rows) in [(&redis_gate, "users", 10..20), (&postgres_gate, "shops", 20..30)] {
        gate.close();
        let before = found().len();
        produce(rows.clone());
        let words = format!("dimension {name}: ");
        let missed =
            |run: &Conjoin| run.errors().lines().any(|line| line.contains(&words) && line.contains("reading waits"));
        wait_for("a word about the store", || missed(&run).then_some(()));
        assert_eq!(found().len(), before, "nothing is written without what it takes");
        gate.open();
        wait_for_rows(rows.end as usize);
        assert!(run.errors().contains(&format!("dimension {name} answers again")), "{}", run.errors());
    }
    // A stop is obeyed while a store is away; what was not read by then is read by the next run.
    redis_gate.close();
    produce(30..40);
    let waits = |run: &Conjoin| run.errors().lines().filter(|line| line.contains("reading waits")).count();
    let before = waits(&run);
    wait_for("the store to be missed again", || (waits(&run) > before).then_some(()));
    run.terminate();
    let mut run = run;
    assert!(run.wait().success(), "{}", run.errors());
    redis_gate.open();
    Conjoin::run(folder.path(), "again", &["--until-end", "--close", "--json"]).summary();
    assert_eq!(found(), (0..40).map(expected).collect::<Vec<_>>());
}

#[test]
fn change_events_of_debezium_become_the_rows_of_their_table() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let kafka = KafkaProducer::new();
    let topics = [kafka.create_topic("plain", 1), kafka.create_topic("wrapped", 1)];
    let event = |op: &str, before: Json, after: Json| json!({"op": op, "before": before, "after": after, "source": {}});
    let row = |id: i64, name: &str, at: i64| json!({"id": id, "name": name, "at": (START + at) * 1_000});
    let events = [
        ("1", event("r", json!(null), row(1, "one", 0))),
        ("2", event("c", json!(null), row(2, "two", 0))),
        ("1", event("u", row(1, "one", 0), row(1, "eins", 5_000))),
        ("3", event("c", json!(null), row(3, "three", 0))),
        ("2", event("d", row(2, "two", 0), json!(null))),
    ];
    for (topic, wrap) in topics.iter().zip([false, true]) {
        for (key, event) in &events {
            let value = if wrap { json!({"schema": {}, "payload": event}) } else { event.clone() };
            kafka.produce(topic, &[change(0, key, Some(&value.to_string()))]);
        }
        // Debezium sends both: the event that says so, and a record that lets compaction forget the key.
        kafka.produce(topic, &[change(0, "2", None)]);
    }
    let pipeline = format!(
        r#"
version: 1
pipeline: changed
connections: {{ main: {{ kafka: {{ brokers: "{brokers}" }} }} }}
dimensions:
  plain:
    kafka: {{ connection: main, topic: {plain}, envelope: debezium }}
    key: id
    columns: {{ id: int64, name: string, at: {{ type: timestamp, unit: us }} }}
  wrapped:
    kafka: {{ connection: main, topic: {wrapped}, envelope: debezium_with_schema }}
    key: id
    valid_from: at
    columns: {{ id: int64, name: string, at: {{ type: timestamp, unit: us }} }}
streams:
  impressions:
    file: {{ path: impressions.ndjson }}
    columns: {{ request_id: string, item: int32, ts: timestamp }}
    time: ts
    id: request_id
    enrich:
      plain: {{ dimension: plain, on: item, select: [name] }}
      wrapped: {{ dimension: wrapped, on: item, select: [name] }}
samples:
  all: {{ from: impressions, write: {{ parquet: {{ path: out }} }} }}
state: {{ path: state }}
"#,
        brokers = brokers(),
        plain = topics[0],
        wrapped = topics[1],
    );
    fs::write(folder.path().join("pipeline.yaml"), pipeline).expect("it can be written");
    let line = |request: &str, item: i64, at: i64| {
        json!({"request_id": request, "item": item, "ts": START + at}).to_string() + "\n"
    };
    let lines = [line("r1", 1, 1_000), line("r2", 2, 1_000), line("r3", 3, 1_000), line("r4", 1, 5_000)];
    fs::write(folder.path().join("impressions.ndjson"), lines.concat()).expect("it can be written");
    Conjoin::run(folder.path(), "run", &["--json"]).summary();
    // With `valid_from` the table knows of a row what its topic knows: the newest version, and from when on it holds.
    assert_eq!(
        by_request(&folder.path().join("out"), &["plain_name", "plain_version", "wrapped_name"]),
        [
            ("r1".into(), vec![json!("eins"), json!("0:2"), json!(null)]),
            ("r2".into(), vec![json!(null), json!(null), json!(null)]),
            ("r3".into(), vec![json!("three"), json!("0:3"), json!("three")]),
            ("r4".into(), vec![json!("eins"), json!("0:2"), json!("eins")]),
        ]
    );
}

#[test]
fn cells_of_a_group_share_the_dimensions_of_their_process() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let kafka = KafkaProducer::new();
    let topics = [kafka.create_topic("feed", 2), kafka.create_topic("clicks", 2)];
    let pipeline = format!(
        r#"
version: 1
pipeline: {name}
connections: {{ main: {{ kafka: {{ brokers: "{brokers}" }} }} }}
dimensions:
  pages: {{ csv: {{ path: pages.csv }}, key: page, columns: {{ page: string, site: string }} }}
streams:
  impressions:
    kafka: {{ connection: main, topics: [{feed}] }}
    columns: {{ request_id: string, page: string, ts: timestamp }}
    time: ts
    id: request_id
    idle_after: 2s
    enrich: {{ page: {{ dimension: pages, on: page }} }}
  clicks:
    kafka: {{ connection: main, topics: [{clicks}] }}
    columns: {{ event_id: string, request_id: string, ts: timestamp }}
    time: ts
    id: event_id
    key: request_id
    idle_after: 2s
samples:
  ctr:
    from: impressions
    join: {{ click: {{ stream: clicks, within: 1s }} }}
    write: {{ parquet: {{ path: out, roll: {{ age: 1s }} }} }}
state: {{ path: state, commit_every: 200ms, lanes: 1 }}
group_mode: {{ instance: one, session_timeout: 6s }}
"#,
        name = unique("grouped"),
        brokers = brokers(),
        feed = topics[0],
        clicks = topics[1],
    );
    fs::write(folder.path().join("pipeline.yaml"), pipeline).expect("the pipeline can be written");
    fs::write(folder.path().join("pages.csv"), "page,site\nhome,one\n").expect("the file can be written");
    let mut expected = Vec::new();
    for number in 0..8 {
        let request = format!("r{number}");
        let home = Partitioner::Murmur2.home(request.as_bytes());
        let page = if number % 2 == 0 { "home" } else { "none" };
        let value = json!({"request_id": request, "page": page, "ts": START + number}).to_string();
        kafka.produce(&topics[0], &[change(partition_of(home, 2) as i32, &request, Some(&value))]);
        expected.push((request, vec![if number % 2 == 0 { json!("one") } else { json!(null) }]));
    }
    let run = Conjoin::run(folder.path(), "run", &[]);
    wait_for("all rows", || (binary::rows(&folder.path().join("out")).len() == 8).then_some(()));
    assert_eq!(by_request(&folder.path().join("out"), &["page_site"]), expected);
    run.terminate();
    let mut run = run;
    assert!(run.wait().success(), "{}", run.errors());
}
