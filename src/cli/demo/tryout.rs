//! Tryout: asks the server as a ranking service would, about the user of the log's last slate and the items in it.

use crate::cli::demo::client::Client;
use crate::cli::demo::data::{Item, Slate};
use crate::cli::demo::pipeline::Demo;
use crate::cli::demo::samples::percentile;
use crate::env::Clock;
use crate::model::LIBRARY_VARIABLE;
use serde_json::{Value as Json, json};

/// The group that is looked up, and the model that ranks.
pub const GROUP: &str = "user_activity";
pub const MODEL: &str = "ctr";
/// Requests that are timed, after a few that are not.
const TIMED: usize = 200;
const WARM_UP: usize = 20;
const BAR_WIDTH: f64 = 20.0;

pub fn features_request(slate: &Slate) -> Json {
    json!({ "group": GROUP, "entities": { "user_id": slate.user_id } })
}

/// Every candidate as if it stood first: then only what differs between the items decides.
pub fn rank_request(slate: &Slate) -> Json {
    let items: Vec<&str> = slate.items.iter().map(|item| item.id.as_str()).collect();
    let prices: Vec<f64> = slate.items.iter().map(|item| item.price).collect();
    json!({
        "model": MODEL,
        "entities": { "user_id": slate.user_id },
        "candidates": { "item_id": items },
        "context": { "position": 0, "price": prices },
    })
}

/// Looks the user's features up.
pub fn features(demo: &Demo, slate: &Slate) -> Result<String, String> {
    let mut client = Client::connect(demo.server.addr)?;
    let request = features_request(slate);
    let found = client.post("/v1/features", &request)?;
    let latency = latency(demo, &mut client, "/v1/features", &request)?;
    let mut text = format!("features     of user {}, in {latency}\n", slate.user_id);
    for (name, column) in found["features"].as_object().into_iter().flatten() {
        text += &format!("  {name:<24} {}\n", shown_value(&column["values"][0]));
    }
    Ok(text)
}

/// Ranks the slate for its user, or says why not.
pub fn ranking(demo: &Demo, slate: &Slate) -> Result<String, String> {
    if let Some(error) = &demo.no_model {
        return Ok(skipped(error));
    }
    let mut client = Client::connect(demo.server.addr)?;
    let request = rank_request(slate);
    let answer = client.post("/v1/rank", &request)?;
    let latency = latency(demo, &mut client, "/v1/rank", &request)?;
    let scores = answer["scores"].as_array().ok_or("the ranking answer has no scores")?;
    let mut ranked: Vec<(f64, &Item)> = scores.iter().filter_map(Json::as_f64).zip(&slate.items).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    let best = ranked.first().map_or(1.0, |(score, _)| score.max(f64::MIN_POSITIVE));
    let version = answer["model_version"].as_str().unwrap_or_default();
    let mut text =
        format!("ranking      {} items for that user by {MODEL}/{version}/model.onnx, in {latency}\n", ranked.len());
    for (score, item) in ranked {
        let bar = "━".repeat((score / best * BAR_WIDTH).round() as usize);
        text += &format!("  {:<10} {:>9.2}   score {score:.4}  {bar}\n", item.id, item.price);
    }
    Ok(text)
}

/// Asks again and again, one after the other.
fn latency(demo: &Demo, client: &mut Client, path: &str, request: &Json) -> Result<String, String> {
    for _ in 0..WARM_UP {
        client.post(path, request)?;
    }
    let mut took_us = Vec::with_capacity(TIMED);
    for _ in 0..TIMED {
        let since = demo.clock.monotonic_us();
        client.post(path, request)?;
        took_us.push((demo.clock.monotonic_us() - since) as i64);
    }
    took_us.sort_unstable();
    let ms = |percent| percentile(&took_us, percent).unwrap_or_default() as f64 / 1e3;
    Ok(format!("{:.2} ms (p99 {:.2} ms of {TIMED})", ms(50), ms(99)))
}

fn shown_value(value: &Json) -> String {
    const LISTED: usize = 4;
    match value {
        Json::Array(values) => {
            let mut text = values.iter().take(LISTED).map(shown_value).collect::<Vec<_>>().join(" ");
            if values.len() > LISTED {
                text += &format!(" and {} more", values.len() - LISTED);
            }
            text
        }
        Json::String(text) => text.clone(),
        Json::Number(number) if number.is_f64() => format!("{:.2}", number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    }
}

/// Why nothing is ranked, and how it would be.
fn skipped(error: &str) -> String {
    let mut text = String::from("ranking      skipped\n");
    for line in super::report::wrapped(error, 74) {
        text += &format!("  {line}\n");
    }
    if error.contains(LIBRARY_VARIABLE) {
        text += "  `make demo` finds or downloads the library by itself; by hand:\n";
        text += &format!("  export {LIBRARY_VARIABLE}=$(scripts/onnxruntime.sh)\n");
    }
    text
}
