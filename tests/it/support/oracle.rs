//! Oracle: what the pipeline of the end-to-end test must give, computed from the definitions alone, one row at a time.
//!
//! In: the events of a [`World`]. Out: rows of the sample and of the online store as JSON, by column.
//! Does not: share code with what it judges, or be quick.

use super::world::{Impression, Label, World};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

pub type Row = BTreeMap<String, Value>;

/// The windows of the pipeline file, in ms, by the name that their outputs end in.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    pub item: &'static [(&'static str, i64)],
    pub user: &'static [(&'static str, i64)],
    pub click_ms: i64,
    pub order_ms: i64,
    pub serving_lag_ms: i64,
}

/// The clicks and the conversions of one key.
type Followers<'a> = (Vec<&'a Label>, Vec<&'a Label>);

pub struct Oracle<'a> {
    world: &'a World,
    windows: Windows,
    by_user: BTreeMap<&'a str, (Vec<&'a Label>, Vec<&'a Label>)>,
    by_item: BTreeMap<&'a str, (Vec<i64>, Vec<i64>)>,
    by_key: BTreeMap<(&'a str, &'a str), Followers<'a>>,
}

fn floor(t: i64, step: i64) -> i64 {
    t - t.rem_euclid(step)
}

/// Whether an event at `ts` counts at the instant `t` in a window; freshness is a second, a window moves in 60 steps or,
/// where those would be finer than that, in seconds.
fn visible(ts: i64, t: i64, window: i64) -> bool {
    floor(t - window, (window / 60).max(1000)) <= ts && ts < floor(t, 1000)
}

impl<'a> Oracle<'a> {
    pub fn new(world: &'a World, windows: Windows) -> Self {
        let (mut by_user, mut by_item, mut by_key) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for click in &world.clicks {
            let user: &mut (Vec<_>, Vec<_>) = by_user.entry(click.user.as_str()).or_default();
            user.0.push(click);
            let item: &mut (Vec<_>, Vec<_>) = by_item.entry(click.item.as_str()).or_default();
            item.1.push(click.ts);
            let key: &mut (Vec<_>, Vec<_>) = by_key.entry((click.request.as_str(), click.item.as_str())).or_default();
            key.0.push(click);
        }
        for order in &world.orders {
            by_user.entry(order.user.as_str()).or_default().1.push(order);
            by_key.entry((order.request.as_str(), order.item.as_str())).or_default().1.push(order);
        }
        for shown in &world.impressions {
            by_item.entry(shown.item.as_str()).or_default().0.push(shown.ts);
        }
        Oracle { world, windows, by_user, by_item, by_key }
    }

    /// Everybody whom an event of the group ever named.
    pub fn users(&self) -> BTreeSet<&'a str> {
        self.by_user.keys().copied().collect()
    }

    pub fn items(&self) -> BTreeSet<&'a str> {
        self.by_item.keys().copied().collect()
    }

    pub fn user_features(&self, user: &str, t: i64) -> Row {
        let mut row = Row::new();
        let nothing = (Vec::new(), Vec::new());
        let (clicks, orders) = self.by_user.get(user).unwrap_or(&nothing);
        for (name, window) in self.windows.user {
            let mut seen: Vec<_> = clicks.iter().filter(|click| visible(click.ts, t, *window)).collect();
            seen.sort_by_key(|click| std::cmp::Reverse(click.ts));
            let last: Vec<_> = seen.iter().take(5).map(|click| click.item.clone()).collect();
            let spent = orders.iter().filter(|order| visible(order.ts, t, *window)).map(|order| order.value);
            row.insert(format!("user_clicks_{name}"), json!(seen.len()));
            row.insert(format!("user_last_items_{name}"), json!(last));
            row.insert(format!("user_spend_{name}"), json!(spent.sum::<f64>() + 0.0));
        }
        row
    }

    pub fn item_features(&self, item: &str, t: i64) -> Row {
        let mut row = Row::new();
        let nothing = (Vec::new(), Vec::new());
        let (shown, clicked) = self.by_item.get(item).unwrap_or(&nothing);
        let count = |times: &[i64], window| times.iter().filter(|ts| visible(**ts, t, window)).count();
        for (name, window) in self.windows.item {
            let (shown, clicked) = (count(shown, *window), count(clicked, *window));
            row.insert(format!("item_shown_{name}"), json!(shown));
            row.insert(format!("item_clicks_{name}"), json!(clicked));
            row.insert(format!("item_ctr_{name}"), json!((clicked as f64 + 1.0) / (shown as f64 + 20.0)));
        }
        row
    }

    /// The row of an impression.
    pub fn sample(&self, shown: &Impression) -> Row {
        let t = shown.ts - self.windows.serving_lag_ms;
        let mut row = self.user_features(&shown.user, t);
        row.extend(self.item_features(&shown.item, t));
        let (click, orders) = self.labels(shown);
        let click = click.into_iter().map(|click| click.ts).min();
        for (column, value) in [
            ("request_id", json!(shown.request)),
            ("item_id", json!(shown.item)),
            ("user_id", json!(shown.user)),
            ("ts", json!(shown.ts)),
            ("device", json!(shown.device.unwrap_or("unknown"))),
            ("price", json!(shown.price)),
            ("position", json!(shown.position)),
            ("click_at", json!(click)),
            (
                "order_value",
                if orders.is_empty() {
                    Value::Null
                } else {
                    json!(orders.iter().map(|order| order.value).sum::<f64>())
                },
            ),
            ("clicked", json!(click.is_some())),
            ("click_delay_ms", json!(click.map(|at| at - shown.ts))),
        ] {
            row.insert(column.into(), value);
        }
        row
    }

    /// The clicks and orders in the impression's windows.
    pub fn labels(&self, shown: &Impression) -> (Vec<&'a Label>, Vec<&'a Label>) {
        let nothing = (Vec::new(), Vec::new());
        let (clicks, orders) = self.by_key.get(&(shown.request.as_str(), shown.item.as_str())).unwrap_or(&nothing);
        let within = |labels: &[&'a Label], before: i64, within: i64| {
            let near = |label: &&&Label| (-before..=within).contains(&(label.ts - shown.ts));
            labels.iter().filter(near).copied().collect()
        };
        (within(clicks, 2_000, self.windows.click_ms), within(orders, 0, self.windows.order_ms))
    }

    /// All rows, by request and item.
    pub fn samples(&self) -> BTreeMap<(String, String), Row> {
        let row = |shown: &Impression| ((shown.request.clone(), shown.item.clone()), self.sample(shown));
        self.world.impressions.iter().map(row).collect()
    }
}
