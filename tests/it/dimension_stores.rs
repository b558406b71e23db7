//! Dimensions that are asked key by key, against a real Redis and a real Postgres.

use crate::support::env;
use crate::support::kafka::unique;
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
use arrow::datatypes::{Float64Type, Int64Type};
use conjoin::dimension::{
    Ask, CacheSpec, Dimension, DimensionColumn, DimensionError, DimensionSource, DimensionSpec, DimensionTime, Found,
    KeyPart, PostgresDimension, RedisDimension, VersionFrom,
};
use conjoin::event::{ColumnType, EventTime, Partitioner, fingerprints};
use postgres::{Client, NoTls};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const CACHE: CacheSpec = CacheSpec { bytes_max: 1_000_000, ttl_ms: 1_000, missing_ttl_ms: 100 };

fn column(name: &str, column_type: ColumnType) -> DimensionColumn {
    DimensionColumn { name: name.into(), column_type, source_name: name.into(), unit: DimensionTime::Millis }
}

fn dimension(
    columns: Vec<DimensionColumn>,
    key: Vec<usize>,
    valid_from: Option<usize>,
    source: DimensionSource,
) -> Dimension {
    let spec = DimensionSpec {
        name: "items".into(),
        columns,
        key,
        valid_from,
        version: VersionFrom::None,
        source,
        partitioner: Partitioner::Murmur2,
    };
    Dimension::new(Arc::new(spec)).expect("the address is one")
}

/// What keys find at an instant of the event's and of monotonic time.
fn look_up(
    dimension: &Dimension,
    keys: &[ArrayRef],
    select: &[usize],
    at: EventTime,
    now_ms: u64,
    again: bool,
) -> Result<Found, DimensionError> {
    let rows = keys[0].len();
    let prints = fingerprints(&keys.iter().collect::<Vec<_>>(), rows, Partitioner::Murmur2);
    let (at, wanted) = (vec![at; rows], vec![true; rows]);
    dimension.look_up(&Ask { keys, prints: &prints, at: &at, wanted: &wanted, select, version: false, again, now_ms })
}

fn texts(keys: &[&str]) -> Vec<ArrayRef> {
    vec![Arc::new(StringArray::from(keys.to_vec()))]
}

fn floats(found: &Found, column: usize) -> Vec<Option<f64>> {
    found.columns[column].as_primitive::<Float64Type>().iter().collect()
}

fn strings(found: &Found, column: usize) -> Vec<Option<String>> {
    found.columns[column].as_string::<i32>().iter().map(|text| text.map(String::from)).collect()
}

fn of(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

fn redis_items(url: &str, prefix: &str) -> Dimension {
    let columns = vec![
        column("item_id", ColumnType::String),
        column("price", ColumnType::Float64),
        column("name", ColumnType::String),
    ];
    let key = vec![KeyPart::Text(format!("{prefix}:")), KeyPart::Column(0), KeyPart::Text(":item".into())];
    let source = RedisDimension { connection: "cache".into(), url: url.into(), key, cache: CACHE };
    dimension(columns, vec![0], None, DimensionSource::Redis(source))
}

#[test]
fn redis_is_asked_once_for_each_key_of_a_batch_and_again_when_its_answer_is_old() {
    let prefix = unique("dimension");
    let client = redis::Client::open(env("REDIS_URL")).expect("an address");
    let mut redis = client.get_connection().expect("redis answers");
    let mut set = |key: &str, fields: &[(&str, &str)]| {
        redis::cmd("HSET").arg(format!("{prefix}:{key}:item")).arg(fields).exec(&mut redis).expect("it is written");
    };
    set("a", &[("price", "2.5"), ("name", "Ännchen"), ("else", "x")]);
    set("b", &[("price", "dear"), ("name", "b")]);
    let dimension = redis_items(&env("REDIS_URL"), &prefix);
    dimension.load(0).expect("redis answers");
    let batch = texts(&["a", "zz", "b", "a", "a"]);
    let found = look_up(&dimension, &batch, &[1, 2], 0, 1_000, false).expect("redis answers");
    assert_eq!(floats(&found, 0), [Some(2.5), None, None, Some(2.5), Some(2.5)]);
    assert_eq!(strings(&found, 1)[..3], [Some("Ännchen".into()), None, Some("b".into())]);
    assert_eq!(found.found, [true, false, true, true, true]);
    let gauge = &dimension.gauge;
    assert_eq!((of(&gauge.requests), of(&gauge.requested_keys)), (1, 3), "each key once, all in one request");
    assert_eq!(of(&gauge.failures), 1, "a price that is no number is null, and counted");

    // Within its time an answer stands, also that a key is missing, unless it is asked for again.
    set("a", &[("price", "3.5")]);
    set("zz", &[("price", "9")]);
    let prices = |now_ms: u64, again: bool| {
        floats(&look_up(&dimension, &texts(&["a", "zz"]), &[1], 0, now_ms, again).expect("redis answers"), 0)
    };
    assert_eq!(prices(1_099, false), [Some(2.5), None]);
    assert_eq!(of(&gauge.requests), 1);
    assert_eq!(prices(1_099, true), [Some(2.5), Some(9.0)]);
    assert_eq!((of(&gauge.requests), of(&gauge.requested_keys)), (2, 4));
    assert_eq!(prices(2_000, false), [Some(3.5), Some(9.0)]);
    assert_eq!((of(&gauge.found), of(&gauge.missing), of(&gauge.cached)), (9, 2, 4));

    // A key that is something else is as one that is not there.
    redis::cmd("SET").arg(format!("{prefix}:text:item")).arg("x").exec(&mut redis).expect("it is written");
    assert_eq!(look_up(&dimension, &texts(&["text"]), &[1], 0, 3_000, false).expect("redis answers").found, [false]);
    assert_eq!(of(&gauge.failures), 2);
}

#[test]
fn the_cache_of_a_dimension_stays_within_its_bytes() {
    let prefix = unique("dimension");
    let dimension = redis_items(&env("REDIS_URL"), &prefix);
    let mut redis = redis::Client::open(env("REDIS_URL")).and_then(|client| client.get_connection()).expect("redis");
    let mut pipe = redis::pipe();
    for number in 0..20_000 {
        pipe.cmd("HSET").arg(format!("{prefix}:i{number}:item")).arg("name").arg("n".repeat(100)).ignore();
    }
    pipe.exec(&mut redis).expect("they are written");
    for first in (0..20_000).step_by(5_000) {
        let keys: ArrayRef = Arc::new(StringArray::from_iter_values((first..first + 5_000).map(|n| format!("i{n}"))));
        let found = look_up(&dimension, &[keys], &[2], 0, 0, false).expect("redis answers");
        assert!(found.found.iter().all(|found| *found));
    }
    let (rows, bytes) = (of(&dimension.gauge.rows), of(&dimension.gauge.bytes));
    assert!(bytes <= CACHE.bytes_max && rows > 1_000, "{rows} keys in {bytes} bytes");
    assert_eq!(of(&dimension.gauge.requested_keys), 20_000);
}

#[test]
fn a_store_that_is_away_is_an_error_that_passes_and_one_that_refuses_is_not() {
    let prefix = unique("dimension");
    let error = redis_items("redis://127.0.0.1:1/0", &prefix).load(0).expect_err("nobody listens");
    assert!(error.retry && error.to_string().starts_with("dimension items: Redis cache (127.0.0.1:1)"), "{error}");
    let error =
        postgres_items("postgres://conjoin:secret@127.0.0.1:1/postgres", "t", CACHE).load(0).expect_err("nobody");
    assert!(error.retry && error.to_string().contains("Postgres shop (127.0.0.1:1)"), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
    let error = postgres_items(&env("POSTGRES_URL"), "shop.none", CACHE).load(0).expect_err("there is no table");
    assert!(!error.retry && error.to_string().contains("there is no table `shop.none`"), "{error}");
}

fn postgres_items(url: &str, table: &str, cache: CacheSpec) -> Dimension {
    let columns = vec![
        column("item_id", ColumnType::String),
        column("shop", ColumnType::Int64),
        column("price", ColumnType::Float64),
        column("Name", ColumnType::String),
        column("since", ColumnType::Timestamp),
        column("sold", ColumnType::Int32),
        column("open", ColumnType::Bool),
    ];
    let source = PostgresDimension { connection: "shop".into(), url: url.into(), table: table.into(), cache };
    dimension(columns, vec![0, 1], Some(4), DimensionSource::Postgres(source))
}

fn table(rows: &str) -> (Client, String) {
    let mut client = Client::connect(&env("POSTGRES_URL"), NoTls).expect("postgres answers");
    let table = unique("items").replace('-', "_");
    client
        .batch_execute(&format!(
            "CREATE TABLE {table} (item_id varchar(40), shop integer, price numeric(10, 2), \"Name\" text, \
             since timestamptz, sold bigint, open boolean, note jsonb); INSERT INTO {table} VALUES {rows}; \
             CREATE INDEX ON {table} (item_id, shop)"
        ))
        .expect("the table can be made");
    (client, table)
}

#[test]
fn postgres_gives_the_version_that_held_at_the_time_of_the_row() {
    let (mut client, table) = table(
        "('a', 1, 2.50, 'first', '-infinity', 7, true, null), ('a', 1, 3.25, 'second', '2026-01-01T00:00:00Z', null, false, \
         null), ('a', 1, 9, 'never', 'infinity', 0, true, null), ('a', 2, 1, 'other shop', null, 1, null, null), \
         (E'q\\\\\"{,}', 1, 4, null, '1970-01-01T00:00:00.0019Z', 1, true, null)",
    );
    let url = format!("{}?application_name={table}", env("POSTGRES_URL"));
    let dimension = postgres_items(&url, &table, CACHE);
    dimension.load(0).expect("the table is there");
    let keys = |items: &[&str], shops: &[i64]| -> Vec<ArrayRef> {
        vec![Arc::new(StringArray::from(items.to_vec())), Arc::new(Int64Array::from(shops.to_vec()))]
    };
    let batch = keys(&["a", "a", "a", "q\\\"{,}", "nul\0", "a"], &[1, 2, 3, 1, 1, i64::MAX]);
    let start = 1_767_225_600_000;
    let find = |at: EventTime| look_up(&dimension, &batch, &[2, 3, 4, 5, 6], at, 0, false).expect("postgres answers");
    let before = find(start - 1);
    assert_eq!(floats(&before, 0), [Some(2.5), Some(1.0), None, Some(4.0), None, None]);
    assert_eq!(strings(&before, 1)[..2], [Some("first".into()), Some("other shop".into())]);
    let since = before.columns[2].as_primitive::<arrow::datatypes::TimestampMillisecondType>();
    assert!(since.is_null(0) && since.value(3) == 1, "what holds since ever has no time");
    assert_eq!(before.columns[4].as_boolean().iter().collect::<Vec<_>>()[..2], [Some(true), None]);
    let after = find(start);
    assert_eq!(floats(&after, 0), [Some(3.25), Some(1.0), None, Some(4.0), None, None]);
    assert_eq!(after.columns[3].as_primitive::<arrow::datatypes::Int32Type>().iter().next(), Some(None));
    assert_eq!(
        (of(&dimension.gauge.requests), of(&dimension.gauge.requested_keys)),
        (1, 6),
        "all versions came at once"
    );

    // A server that hangs up is asked again on a new connection.
    client
        .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", &[&table])
        .expect("postgres answers");
    let found = look_up(&dimension, &keys(&["a"], &[2]), &[2], start, 5_000, false).expect("postgres answers again");
    assert_eq!(floats(&found, 0), [Some(1.0)]);
    client.batch_execute(&format!("DROP TABLE {table}")).expect("it is dropped");
    let gone = look_up(&dimension, &keys(&["a"], &[2]), &[2], start, 9_000, false).expect_err("it is gone");
    assert!(!gone.retry && gone.to_string().contains("there is no table"), "{gone}");
}

#[test]
fn what_a_table_does_not_have_is_told_by_name() {
    let (_, table) = table("('a', 1, 2, 'x', null, 1, true, null)");
    let told = |of: usize, change: &dyn Fn(&mut DimensionColumn)| {
        let mut columns = postgres_items(&env("POSTGRES_URL"), &table, CACHE).spec.columns.clone();
        change(&mut columns[of]);
        let source = PostgresDimension {
            connection: "shop".into(),
            url: env("POSTGRES_URL"),
            table: format!("public.{table}"),
            cache: CACHE,
        };
        let dimension = dimension(columns, vec![0, 1], Some(4), DimensionSource::Postgres(source));
        dimension.load(0).map_err(|error| error.to_string())
    };
    assert!(told(3, &|_| {}).is_ok());
    let missing = told(3, &|column| column.source_name = "name".into()).expect_err("capitals count");
    assert!(missing.contains("has no column `name`; it has item_id, shop, price, Name"), "{missing}");
    let other = told(0, &|column| column.column_type = ColumnType::Int64).expect_err("a text is no integer");
    assert!(other.contains("`item_id` is character varying there") && other.contains("int64"), "{other}");
    let json = told(2, &|column| column.source_name = "note".into()).expect_err("jsonb is no number");
    assert!(json.contains("`note` is jsonb there, which cannot be float64"), "{json}");
}

#[test]
fn keys_that_are_uuids_are_compared_as_such_and_what_is_none_is_not_there() {
    let mut client = Client::connect(&env("POSTGRES_URL"), NoTls).expect("postgres answers");
    let table = unique("users").replace('-', "_");
    let id = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    client
        .batch_execute(&format!(
            "CREATE TABLE {table} (id uuid PRIMARY KEY, age smallint); INSERT INTO {table} VALUES ('{id}', 33)"
        ))
        .expect("the table can be made");
    let columns = vec![column("id", ColumnType::String), column("age", ColumnType::Int64)];
    let source = PostgresDimension { connection: "shop".into(), url: env("POSTGRES_URL"), table, cache: CACHE };
    let dimension = dimension(columns, vec![0], None, DimensionSource::Postgres(source));
    let keys = texts(&[id, "not one", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12"]);
    let found = look_up(&dimension, &keys, &[1], 0, 0, false).expect("postgres answers");
    assert_eq!(found.columns[0].as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(33), None, None]);
}
