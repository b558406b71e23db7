//! World: the pipeline that the simulation runs, and records made up from a seed.

use conjoin::config::{LoadOptions, Plan, load_texts};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use std::collections::BTreeMap;

pub const IMPRESSIONS: usize = 0;
pub const CLICKS: usize = 1;
pub const BUYS: usize = 2;
pub const LATENESS: [i64; 3] = [5_000, 3_000, 8_000];
pub const START: i64 = 1_700_000_000_000;

/// What may differ between two pipelines.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Labels refer to impressions by (user, item), which many share, instead of by the impression's id.
    pub shared_keys: bool,
    pub serving_lag_ms: i64,
    pub features: bool,
    pub negatives: bool,
    pub sparse_clicks: bool,
    /// The mode, and the waits of those that have any.
    pub emit: (&'static str, i64, i64),
    /// How long labels that come after their windows correct a row.
    pub correct_ms: i64,
    pub partitions: [u32; 3],
    /// Bytes of payload that a lane keeps in memory though they are on disk; all of them where nothing is said.
    pub keep: Option<usize>,
    /// What a person changed in the pipeline file, each as (text, its replacement), and what they reset then.
    pub edits: &'static [(&'static str, &'static str)],
    pub resets: &'static [&'static str],
}

impl Setup {
    pub const PLAIN: Setup = Setup {
        shared_keys: false,
        serving_lag_ms: 0,
        features: true,
        negatives: false,
        sparse_clicks: false,
        emit: ("wait", 0, 0),
        correct_ms: 0,
        partitions: [1, 1, 1],
        keep: None,
        edits: &[],
        resets: &[],
    };

    /// The pipeline of a seed.
    pub fn of(seed: u64) -> Setup {
        let mut random = StdRng::seed_from_u64(seed ^ 0x5e7);
        Setup {
            shared_keys: random.random_bool(0.5),
            serving_lag_ms: random.random_range(0..3) * 700,
            features: random.random_bool(0.5),
            partitions: [random.random_range(1..3), random.random_range(1..4), random.random_range(1..3)],
            keep: [None, Some(0), Some(20_000)][random.random_range(0..3)],
            ..Setup::PLAIN
        }
    }

    /// The same, in one of the modes whose rows leave early, or are corrected.
    pub fn early(seed: u64) -> Setup {
        let mut random = StdRng::seed_from_u64(seed ^ 0xea51);
        let from = random.random_range(0..10_000);
        let wait = (from, from + [0, 7_000, 100_000][random.random_range(0..3)]);
        let (emit, correct_ms) = match random.random_range(0..4) {
            0 => (("immediate", 0, 0), 0),
            1 => (("elapsed", wait.0, wait.1), 0),
            2 => (("defer", wait.0, wait.1), 0),
            _ => (("wait", 0, 0), random.random_range(1..200_000)),
        };
        let correct_ms =
            if random.random_bool(0.5) { correct_ms.max(random.random_range(0..30_000)) } else { correct_ms };
        Setup { emit, correct_ms, ..Setup::of(seed) }
    }

    pub fn plan(&self, lanes: usize) -> Plan {
        let key = if self.shared_keys { "[user_id, item_id]" } else { "[request_id]" };
        let features = if self.features { "features: [user, item]" } else { "" };
        let negatives = if self.negatives { "negatives: { where: \"click_any.any = false\", keep: 0.3 }" } else { "" };
        let emit = match self.emit {
            (mode @ ("wait" | "immediate"), ..) => format!("emit: {{ mode: {mode} }}"),
            (mode, from, to) => format!("emit: {{ mode: {mode}, wait_from: {from}ms, wait_to: {to}ms }}"),
        };
        let mut text = format!(
            r#"
version: 1
pipeline: simulation
streams:
  impressions:
    memory: {{}}
    columns: {{ request_id: string, user_id: string, item_id: string, ts: timestamp }}
    time: ts
    id: request_id
    key: {key}
    partition_by: user_id
    lateness: 5s
    idle_after: 10s
  clicks:
    memory: {{}}
    columns: {{ event_id: string, request_id: string, user_id: string, item_id: string, ts: timestamp }}
    time: ts
    id: event_id
    key: {key}
    partition_by: user_id
    lateness: 3s
    idle_after: 10s
    sparse: {sparse}
  buys:
    memory: {{}}
    columns:
      event_id: string
      request_id: string
      user_id: string
      item_id: string
      ts: timestamp
      value: {{ type: int64, nullable: true }}
      click_id: {{ type: string, nullable: true }}
    time: ts
    id: event_id
    key: {key}
    partition_by: user_id
    lateness: 8s
    idle_after: 10s
features:
  user:
    entity: user_id
    aggregates:
      u_imps: {{ from: impressions, count: "*", windows: [10s, 60s] }}
      u_clicks: {{ from: clicks, count: "*", windows: [60s] }}
      u_value: {{ from: buys, sum: value, windows: [60s] }}
  item:
    entity: item_id
    aggregates:
      i_imps: {{ from: impressions, count: "*", windows: [10s] }}
      i_clicks: {{ from: clicks, count: "*", windows: [10s, 60s] }}
samples:
  ctr:
    from: impressions
    serving_lag: {lag}ms
    correct_for: {correct}ms
    {emit}
    join:
      first: {{ stream: clicks, within: 20s, before: 3s, take: first, select: [event_id, ts] }}
      last: {{ stream: clicks, within: 20s, before: 3s, take: last, select: [event_id] }}
      click_any: {{ stream: clicks, within: 10s, take: any }}
      clicks: {{ stream: clicks, within: 20s, take: count }}
      buys: {{ stream: buys, within: 150s, before: 5s, take: count }}
      total: {{ stream: buys, within: 150s, before: 5s, take: {{ sum: value }} }}
      least: {{ stream: buys, within: 150s, take: {{ min: value }} }}
      most: {{ stream: buys, within: 150s, take: {{ max: value }} }}
      listed: {{ stream: clicks, within: 20s, before: 3s, take: {{ all: 2 }}, select: [event_id] }}
      of_click: {{ stream: buys, on: clicks, by: click_id, within: 60s, before: 2s, take: count }}
      of_listed: {{ stream: buys, on: listed, by: click_id, within: 10s, take: last, select: [event_id] }}
    {features}
    {negatives}
    write: {{ parquet: {{ path: files }} }}
state: {{ path: nowhere, lanes: {lanes} }}
"#,
            sparse = self.sparse_clicks,
            lag = self.serving_lag_ms,
            correct = self.correct_ms,
        );
        for (from, to) in self.edits {
            assert!(text.contains(from), "{from} is not in the pipeline file");
            text = text.replace(from, to);
        }
        let options = LoadOptions { overlays: &[], sets: &[], env: &|_| None, cores: 1 };
        let loaded = load_texts(&[("simulation.yaml".into(), text)], &options);
        loaded.unwrap_or_else(|errors| panic!("{errors}")).plan
    }
}

/// The log of every partition of every stream.
pub type Logs = BTreeMap<(usize, u32), Vec<String>>;

pub fn imp(request: &str, user: &str, item: &str, ts: i64) -> String {
    json!({"request_id": request, "user_id": user, "item_id": item, "ts": START + ts}).to_string()
}

pub fn click(event: &str, request: &str, user: &str, item: &str, ts: i64) -> String {
    json!({"event_id": event, "request_id": request, "user_id": user, "item_id": item, "ts": START + ts}).to_string()
}

pub fn buy(event: &str, request: &str, user: &str, item: &str, ts: i64, value: Option<i64>) -> String {
    buy_of(None, event, request, user, item, ts, value)
}

/// One that says which click it came of.
pub fn buy_of(
    click: Option<&str>,
    event: &str,
    request: &str,
    user: &str,
    item: &str,
    ts: i64,
    value: Option<i64>,
) -> String {
    let mut record =
        json!({"event_id": event, "request_id": request, "user_id": user, "item_id": item, "ts": START + ts});
    record["value"] = value.into();
    record["click_id"] = click.into();
    record.to_string()
}

/// Records of some ten minutes: near the ends of windows, with ties, out of order, sometimes late, sometimes twice.
pub fn logs(setup: &Setup, seed: u64, impressions: usize) -> Logs {
    let mut random = StdRng::seed_from_u64(seed);
    let mut made: Vec<(usize, i64, String)> = Vec::new();
    for number in 0..impressions {
        let coarse = random.random_range(0..1200) * 500;
        let ts = if random.random_bool(0.5) { coarse } else { random.random_range(0..600_000) };
        let (user, item) = (format!("u{}", random.random_range(0..5)), format!("i{}", random.random_range(0..4)));
        let request = format!("r{number}");
        made.push((IMPRESSIONS, ts, imp(&request, &user, &item, ts)));
        for (stream, before, within) in [(CLICKS, 3_000, 20_000), (BUYS, 5_000, 150_000)] {
            for label in 0..random.random_range(0..4) {
                let delay = match random.random_range(0..6) {
                    0 => -before,
                    1 => within,
                    2 => 0,
                    3 => random.random_range(-before - 2_000..0),
                    _ => random.random_range(0..within + 2_000 + setup.correct_ms),
                };
                let (event, at) = (format!("e{number}-{label}"), ts + delay);
                let value = random.random_bool(0.8).then(|| random.random_range(-9..10));
                let record = match stream {
                    CLICKS => click(&event, &request, &user, &item, at),
                    _ => {
                        let click = format!("e{number}-{}", random.random_range(0..3));
                        let click = random.random_bool(0.6).then_some(click.as_str());
                        buy_of(click, &event, &request, &user, &item, at, value)
                    }
                };
                made.push((stream, at, record));
            }
        }
    }
    let mut arrivals: Vec<(i64, usize, String)> = Vec::new();
    for (stream, ts, record) in made {
        let copies = if random.random_bool(0.1) { 2 } else { 1 };
        for _ in 0..copies {
            let lateness = LATENESS[stream];
            let delay = if random.random_bool(0.1) { 20 * lateness } else { lateness };
            arrivals.push((ts + random.random_range(0..delay), stream, record.clone()));
        }
    }
    arrivals.sort();
    let mut logs = Logs::new();
    for (stream, partitions) in setup.partitions.iter().enumerate() {
        (0..*partitions).for_each(|partition| drop(logs.insert((stream, partition), Vec::new())));
    }
    for (_, stream, record) in arrivals {
        let partition = random.random_range(0..setup.partitions[stream]);
        logs.entry((stream, partition)).or_default().push(record);
    }
    logs
}
