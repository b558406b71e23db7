//! Guard: a label stream that is cut off while impressions go on, with the real binary and a real Kafka.

use crate::cli::conjoin;
use crate::support::binary::{Conjoin, output, rows, wait_for};
use crate::support::kafka::{KafkaProducer, TestRecord, brokers, unique};
use crate::support::oracle::Row;
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

const START: i64 = 1_767_225_600_000;

struct Shop {
    folder: TempDir,
    kafka: KafkaProducer,
    shown: String,
    clicks: String,
}

impl Shop {
    fn new(then: &str) -> Shop {
        let kafka = KafkaProducer::new();
        let (shown, clicks) = (kafka.create_topic("guard-shown", 1), kafka.create_topic("guard-clicks", 1));
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            r#"version: 1
pipeline: {pipeline}
connections: {{ main: {{ kafka: {{ brokers: "{brokers}" }} }} }}
streams:
  shown:
    kafka: {{ connection: main, topics: [{shown}] }}
    columns: {{ id: string, at: {{ type: timestamp, unit: ms }} }}
    time: at
    key: id
    lateness: 0s
    idle_after: 1h
  clicks:
    kafka: {{ connection: main, topics: [{clicks}] }}
    columns: {{ event: string, id: string, at: {{ type: timestamp, unit: ms }} }}
    time: at
    id: event
    key: id
    lateness: 0s
    idle_after: 1h
samples:
  ctr:
    from: shown
    join: {{ click: {{ stream: clicks, within: 10s, take: any }} }}
    guard: {{ max_lag: 20s, then: {then} }}
    write: {{ parquet: {{ path: samples, roll: {{ age: 100ms }} }} }}
state: {{ path: state, commit_every: 100ms, lanes: 2 }}
"#,
            pipeline = unique("guard"),
            brokers = brokers(),
        );
        std::fs::write(folder.path().join("pipeline.yaml"), text).unwrap();
        Shop { folder, kafka, shown, clicks }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// An impression each second of the range, clicked in that second if it is even.
    fn produce(&self, clicks: bool, seconds: std::ops::Range<i64>) {
        let at = |second: i64| START + 1_000 * second;
        let (topic, records): (&str, Vec<String>) = if clicks {
            let even = seconds.filter(|second| second % 2 == 0);
            let click =
                |second: i64| json!({ "event": format!("c{second}"), "id": format!("s{second}"), "at": at(second) });
            (&self.clicks, even.map(|second| click(second).to_string()).collect())
        } else {
            let shown = |second: i64| json!({ "id": format!("s{second}"), "at": at(second) }).to_string();
            (&self.shown, seconds.map(shown).collect())
        };
        let records: Vec<TestRecord<'_>> = records
            .iter()
            .map(|record| TestRecord { payload: Some(record.as_bytes()), ..TestRecord::default() })
            .collect();
        self.kafka.produce(topic, &records);
    }

    fn inspect(&self) -> Option<Value> {
        let told = output(&mut conjoin(self.path(), &["inspect", "pipeline.yaml", "--json"]));
        serde_json::from_slice(&told.stdout).ok()
    }

    /// Waits until the state says that a topic was read up to there.
    fn wait_until_read(&self, topic: &str, next: i64) {
        wait_for(&format!("{next} records of {topic} in the state"), || {
            let told = self.inspect()?;
            let positions = told["inputs"].as_array()?.clone();
            positions.iter().any(|at| at["input"] == topic && at["next"].as_i64() >= Some(next)).then_some(())
        });
    }

    fn rows(&self) -> Vec<(i64, Row)> {
        let mut rows: Vec<(i64, Row)> = rows(&self.path().join("samples"))
            .into_iter()
            .map(|row| (row["id"].as_str().unwrap()[1..].parse().unwrap(), row))
            .collect();
        rows.sort_by_key(|(second, _)| *second);
        rows
    }
}

#[test]
fn f4_rows_that_close_while_a_label_stream_is_cut_off_say_so_whatever_crashes() {
    let shop = Shop::new("tag");
    shop.produce(true, 0..31);
    shop.produce(false, 0..101);
    let conjoin = Conjoin::run(shop.path(), "cut off", &["--json"]);
    // Clicks have come to 30 s: impressions up to 19 s are decided with them, those up to 89 s without.
    wait_for("rows until 89 s", || (shop.rows().len() >= 90).then_some(()));
    wait_for("the log to say that clicks are cut off", || conjoin.errors().contains("cut off").then_some(()));
    conjoin.kill();
    let conjoin = Conjoin::run(shop.path(), "back", &["--json"]);
    // The clicks come back first, so that nobody can say that they were still away when impressions went on.
    shop.produce(true, 100..201);
    shop.wait_until_read(&shop.clicks, 16 + 51);
    shop.produce(false, 101..202);
    wait_for("rows until 189 s", || (shop.rows().len() >= 190).then_some(()));
    conjoin.terminate();
    let summary = conjoin.summary();
    let rows = shop.rows();
    let seconds: Vec<i64> = rows.iter().map(|(second, _)| *second).collect();
    assert_eq!(seconds, (0..190).collect::<Vec<_>>(), "each once; {summary}");
    for (second, row) in rows {
        assert_eq!(row["label_stream_down"], json!((20..90).contains(&second)), "{row:?}");
        let seen = second % 2 == 0 && !(31..100).contains(&second);
        assert_eq!(row["click"], json!(seen), "{row:?}");
    }
    let told = shop.inspect().unwrap();
    assert_eq!(told["samples"][0]["joins"][0]["account"]["late"], 0, "{told}");
}

#[test]
fn f4_with_hold_nothing_closes_while_a_label_stream_is_cut_off() {
    let shop = Shop::new("hold");
    shop.produce(true, 0..31);
    shop.produce(false, 0..101);
    let conjoin = Conjoin::run(shop.path(), "held", &["--json"]);
    wait_for("the log to say that clicks are cut off", || conjoin.errors().contains("closing waits").then_some(()));
    shop.wait_until_read(&shop.shown, 101);
    assert!(shop.rows().iter().all(|(second, _)| *second < 20), "{:?}", shop.rows());
    shop.produce(true, 31..201);
    wait_for("rows until 89 s", || (shop.rows().len() >= 90).then_some(()));
    conjoin.terminate();
    for (second, row) in shop.rows() {
        assert_eq!(row["click"], json!(second % 2 == 0), "{row:?}");
        assert!(!row.contains_key("label_stream_down"), "{row:?}");
    }
    conjoin.summary();
}
