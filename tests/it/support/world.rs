//! World: a seeded log of slates, clicks and orders with duplicates, orphans and records that nobody can read, shuffled
//! inside the lateness and dealt to the partitions of three topics.
//!
//! In: a [`WorldSpec`]. Out: the events as they are meant, and the records as they arrive.
//! Holds: no two clicks and no two orders have one time, so that no tie needs breaking; money is in quarters, so that sums
//! are exact in any order.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

/// The three topics, and how many partitions each has.
pub const TOPICS: [(&str, i32); 3] = [("feed", 3), ("clicks", 2), ("orders", 1)];
pub const FEED: usize = 0;
pub const CLICKS: usize = 1;
pub const ORDERS: usize = 2;

#[derive(Clone, Debug)]
pub struct WorldSpec {
    pub seed: u64,
    pub start: i64,
    /// Event time comes in bursts: so many, so far apart, each of so many slates within a few seconds.
    pub bursts: u64,
    pub burst_every_ms: i64,
    pub burst_slates: u64,
    pub lateness_ms: i64,
    /// Clicks come up to so long after their impression, orders up to three times that: some beyond their windows.
    pub click_delay_max_ms: i64,
    /// The share of slates that one user sees, and of those that show one item.
    pub hot: f64,
    /// Distinguishes the ids of worlds that follow each other.
    pub name: &'static str,
}

#[derive(Clone, Debug)]
pub struct Impression {
    pub request: String,
    pub item: String,
    pub user: String,
    pub ts: i64,
    pub device: Option<&'static str>,
    pub price: f64,
    pub position: i64,
}

/// A click, or an order with its value.
#[derive(Clone, Debug)]
pub struct Label {
    pub id: String,
    pub request: String,
    pub item: String,
    pub user: String,
    pub ts: i64,
    pub value: f64,
}

/// One record of the log.
#[derive(Clone, Debug)]
pub struct Record {
    pub topic: usize,
    pub partition: i32,
    pub payload: Option<Vec<u8>>,
    pub arrival: i64,
    /// Why it cannot be read.
    pub poison: Option<&'static str>,
    /// Rows it gives, and how many of them `where` leaves out.
    pub rows: u64,
    pub filtered: u64,
}

#[derive(Debug, Default)]
pub struct World {
    /// As they are meant: without duplicates.
    pub impressions: Vec<Impression>,
    pub clicks: Vec<Label>,
    pub orders: Vec<Label>,
    pub records: Vec<Record>,
    /// Rows of second copies, by topic.
    pub duplicates: [u64; 3],
}

struct Maker<'a> {
    spec: &'a WorldSpec,
    random: SmallRng,
    world: World,
    dealt: i32,
}

pub fn world(spec: &WorldSpec) -> World {
    let random = SmallRng::seed_from_u64(spec.seed);
    let mut maker = Maker { spec, random, world: World::default(), dealt: 0 };
    for burst in 0..spec.bursts {
        for number in 0..spec.burst_slates {
            let ts = spec.start + burst as i64 * spec.burst_every_ms + maker.random.random_range(0..4_000);
            maker.slate(burst, burst * spec.burst_slates + number, ts);
        }
    }
    maker.orphans();
    maker.poison();
    let mut world = maker.world;
    world.records.sort_by_key(|record| record.arrival);
    world
}

impl Maker<'_> {
    fn chance(&mut self, share: f64) -> bool {
        self.random.random_bool(share)
    }

    /// A world without hot keys draws nothing for them: it stays the one it was.
    fn is_hot(&mut self) -> bool {
        self.spec.hot > 0.0 && self.chance(self.spec.hot)
    }

    fn slate(&mut self, burst: u64, number: u64, ts: i64) {
        let request = format!("{}-r{number}", self.spec.name);
        // A sixth of the users and items is only seen early: their windows slide empty.
        let early = burst * 8 < self.spec.bursts && self.chance(0.5);
        let pool = if early { "early" } else { "main" };
        let mut user = format!("{pool}:{}", self.random.random_range(0..if early { 15 } else { 90 }));
        if self.is_hot() {
            user = "hot".into();
        }
        let device = [Some("ios"), Some("web"), None][self.random.random_range(0..3)];
        let mut items: Vec<(String, f64)> = Vec::new();
        if self.is_hot() {
            items.push(("hot".into(), 10.0));
        }
        for _ in 0..self.random.random_range(3..9) {
            let item = format!("{pool} {}%", self.random.random_range(0..if early { 20 } else { 120 }));
            if !items.iter().any(|(known, _)| *known == item) {
                items.push((item, self.random.random_range(1..400) as f64 * 0.25));
            }
        }
        let shown: Vec<_> = items.iter().map(|(id, price)| json!({ "id": id, "price": price })).collect();
        let mut slate = json!({ "request_id": request, "user": { "id": user }, "ts": ts, "items": shown });
        if let Some(device) = device {
            slate["device"] = device.into();
        }
        // By the user's key, as most producers do it.
        let partition = user.bytes().map(i32::from).sum::<i32>() % TOPICS[FEED].1;
        self.record(FEED, Some(partition), ts, &slate, items.len() as u64, 0);
        for (position, (item, price)) in items.into_iter().enumerate() {
            let (request, user) = (request.clone(), user.clone());
            let shown = Impression { request, item, user, ts, device, price, position: position as i64 };
            self.follow(&shown);
            self.world.impressions.push(shown);
        }
    }

    /// Clicks from two seconds before the impression on, some of them twice, some never; orders after clicks.
    fn follow(&mut self, shown: &Impression) {
        while self.chance(0.3) {
            let delay = self.random.random_range(-2_500..self.spec.click_delay_max_ms);
            self.click(&shown.request, &shown.item, &shown.user, shown.ts + delay);
            if self.chance(0.4) {
                let delay = delay + self.random.random_range(1..2 * self.spec.click_delay_max_ms);
                self.order(shown, shown.ts + delay);
            }
        }
    }

    fn click(&mut self, request: &str, item: &str, user: &str, ts: i64) {
        let number = self.world.clicks.len();
        let ts = unused(ts, |ts| self.world.clicks.iter().any(|click| click.ts == ts));
        let id = format!("{}-c{number}", self.spec.name);
        let label = Label { id, request: request.into(), item: item.into(), user: user.into(), ts, value: 0.0 };
        self.record(CLICKS, None, ts, &label_json(&label, "click"), 1, 0);
        if number.is_multiple_of(9) {
            let view = json!({ "event_id": format!("v{number}"), "kind": "view", "at": ts });
            self.record(CLICKS, None, ts, &view, 1, 1);
        }
        self.world.clicks.push(label);
    }

    fn order(&mut self, shown: &Impression, ts: i64) {
        let ts = unused(ts, |ts| self.world.orders.iter().any(|order| order.ts == ts));
        let id = format!("{}-o{}", self.spec.name, self.world.orders.len());
        let (request, item, user) = (shown.request.clone(), shown.item.clone(), shown.user.clone());
        let label = Label { id, request, item, user, ts, value: self.random.random_range(1..500) as f64 * 0.25 };
        self.record(ORDERS, None, ts, &label_json(&label, "order"), 1, 0);
        self.world.orders.push(label);
    }

    /// Clicks on what was never shown, by a user who was never seen; a slate without items, which is filtered.
    fn orphans(&mut self) {
        let end = self.spec.bursts as i64 * self.spec.burst_every_ms;
        for number in 0..self.spec.bursts as i64 {
            let ts = self.spec.start + number * end / self.spec.bursts as i64;
            self.click(&format!("nowhere-{number}"), "main 1%", "stranger", ts);
        }
        let empty = json!({ "request_id": "empty", "user": { "id": "main:1" }, "ts": self.spec.start, "items": [] });
        self.record(FEED, Some(0), self.spec.start, &empty, 1, 1);
    }

    /// Every kind of bad input, on every topic it fits.
    fn poison(&mut self) {
        let (ts, far) = (self.spec.start, 4_102_444_800_000i64);
        let deep = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth)).into_bytes();
        let click = |extra: serde_json::Value| {
            let mut click = json!({ "event_id": "p", "kind": "click", "req": "r", "item": "i", "uid": "u", "at": ts });
            click.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            click.to_string().into_bytes()
        };
        let mut missing: serde_json::Value = serde_json::from_slice(&click(json!({}))).unwrap();
        missing.as_object_mut().unwrap().remove("item");
        for topic in [FEED, CLICKS, ORDERS] {
            self.bad(topic, "malformed_json", Some(b"{\"request_id\": \"r1\", oops".to_vec()));
            self.bad(topic, "malformed_json", Some([b"{\"x\":\"".to_vec(), vec![b'x'; 950_000]].concat()));
            self.bad(topic, "empty_payload", Some(Vec::new()));
            self.bad(topic, "empty_payload", None);
            self.bad(topic, "too_deep", Some(deep(5_000)));
        }
        self.bad(CLICKS, "missing_field", Some(missing.to_string().into_bytes()));
        self.bad(CLICKS, "wrong_type", Some(click(json!({ "at": "yesterday" }))));
        self.bad(CLICKS, "null_key", Some(click(json!({ "uid": null }))));
        self.bad(CLICKS, "time_in_future", Some(click(json!({ "at": far }))));
        self.bad(CLICKS, "time_before_min", Some(click(json!({ "at": ts / 1000 }))));
        let items = json!([{ "id": "main 1%", "price": 1.0 }]);
        let slate = |ts: i64| json!({ "request_id": "p", "user": { "id": "u" }, "ts": ts, "items": items });
        self.bad(FEED, "time_in_future", Some(slate(far).to_string().into_bytes()));
        self.bad(FEED, "time_before_min", Some(slate(ts / 1000).to_string().into_bytes()));
        self.bad(FEED, "wrong_type", Some(br#"{"request_id":"p","user":{"id":"u"},"ts":1,"items":7}"#.to_vec()));
        self.bad(FEED, "missing_field", Some(slate(ts).to_string().replace("\"id\":\"u\"", "\"x\":1").into_bytes()));
    }

    fn bad(&mut self, topic: usize, poison: &'static str, payload: Option<Vec<u8>>) {
        let span = self.spec.bursts as i64 * self.spec.burst_every_ms;
        let arrival = self.spec.start + self.random.random_range(0..span);
        let partition = self.random.random_range(0..TOPICS[topic].1);
        let poison = Some(poison);
        self.world.records.push(Record { topic, partition, payload, arrival, poison, rows: 1, filtered: 0 });
    }

    /// Adds a record that arrives within the lateness, and now and then a second copy of it.
    fn record(
        &mut self,
        topic: usize,
        partition: Option<i32>,
        ts: i64,
        json: &serde_json::Value,
        rows: u64,
        filtered: u64,
    ) {
        let copies = 1 + self.chance(0.03) as u64;
        for _ in 0..copies {
            self.dealt += 1;
            let partition = partition.unwrap_or(self.dealt % TOPICS[topic].1);
            let arrival = ts + self.random.random_range(0..=self.spec.lateness_ms);
            let payload = Some(json.to_string().into_bytes());
            self.world.records.push(Record { topic, partition, payload, arrival, poison: None, rows, filtered });
        }
        if filtered == 0 {
            self.world.duplicates[topic] += (copies - 1) * rows;
        }
    }
}

fn label_json(label: &Label, kind: &str) -> serde_json::Value {
    let Label { id, request, item, user, ts, value } = label;
    json!({ "event_id": id, "kind": kind, "req": request, "item": item, "uid": user, "at": ts, "value": value })
}

fn unused(from: i64, is_used: impl Fn(i64) -> bool) -> i64 {
    (from..).find(|ts| !is_used(*ts)).expect("there are more times than events")
}
