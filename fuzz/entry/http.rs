//! Http: whatever the body of a request, the server answers it in its own words, and never with a failure of its own.
//!
//! In: the route, then the body as it is, or edits of a body that is right.

use super::base::log;
use super::life::{Disk, Life, START, plan};
use super::repository;
use super::script::{Script, edit_json};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use conjoin::model::Model;
use conjoin::online::{MemoryStore, OnlineStore, StoreGroup, Version, Write};
use conjoin::serve::{Readiness, ServeMetrics, ServeState, router};
use serde_json::{Value as Json, json};
use std::sync::{Arc, LazyLock};
use tokio::runtime::Runtime;
use tower_service::Service;

const ANSWER_BYTES_MAX: usize = 64 << 20;

static SERVER: LazyLock<(Runtime, Router)> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be made");
    (runtime, router(state()))
});

/// A server over what a life published, with models of the tests.
fn state() -> ServeState {
    let folder = repository("tests/data/models");
    let folder = folder.to_str().expect("the path is text");
    // The first takes features, the second a value of every type.
    let more = format!(
        "models:\n  ctr:\n    path: \"{folder}/packed\"\n    context: [position]\n    \
         features: [{{ name: u_rate, default: 0 }}, {{ name: position, default: 1 }}, {{ name: p_shown_30s, default: 2 }}]\n  \
         typed:\n    path: \"{folder}/typed\"\n    context: [text, flag, i64, i32, f64, f32]\n    \
         features: [text, flag, i64, i32, f64, {{ name: f32, default: 0.5 }}]\n"
    );
    let plan = Arc::new(plan(|_| "memory: {}".into(), "nowhere", 2, &more));
    let groups: Vec<StoreGroup> = plan.groups.iter().map(StoreGroup::new).collect();
    let store = MemoryStore::new(groups).expect("the groups can be stored");
    let mut life = Life::start(&plan, &Disk::of(&Vec::new()), "http").expect("nothing is in the way of a birth");
    for (stream, records) in log().iter().enumerate() {
        life.feed(stream, records).expect("its own records can be read");
    }
    life.online(usize::MAX).expect("online values are read");
    for (step, batch) in (1..).zip(&life.published) {
        let rows: Vec<u32> = (0..batch.entities.len() as u32).collect();
        store.write(&[Write { batch, rows: &rows, version: Version::new(1, 1, 1, step) }]).expect("memory takes it");
    }
    let models = plan.models.iter().map(|spec| Model::load(spec, &plan.groups).expect("the model fits")).map(Arc::new);
    ServeState {
        models: models.collect(),
        store: Arc::new(store),
        metrics_text: Arc::new(String::new),
        ready: Arc::new(Readiness::default),
        groups_since: Arc::new(|| Arc::from([])),
        online_instant: Some(Arc::new(|| START + 300_000)),
        monotonic_us: Arc::new(|| 0),
        requests: Arc::new(ServeMetrics::default()),
        plan,
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let whole = |how: u8| [&[how], right(how as usize).to_string().as_bytes()].concat();
    (0..4).map(whole).chain((128..132).map(|how| vec![how])).collect()
}

pub fn run(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let how = script.byte();
    let route = ["/v1/features", "/v1/rank"][how as usize % 2];
    let body = if how < 128 {
        script.rest().to_vec()
    } else {
        let mut body = right(how as usize);
        edit_json(&mut body, &mut script);
        body.to_string().into_bytes()
    };
    let (runtime, router) = &*SERVER;
    let (status, answer) = runtime.block_on(async {
        let request = Request::post(route).body(Body::from(body)).expect("the request is whole");
        let answer = router.clone().call(request).await.expect("a router always answers");
        (answer.status().as_u16(), to_bytes(answer.into_body(), ANSWER_BYTES_MAX).await.expect("an answer has an end"))
    });
    let answer: Json = serde_json::from_slice(&answer).expect("an answer is JSON");
    match status {
        200 if route == "/v1/rank" => {
            let scores = answer["scores"].as_array().expect("scores are a list");
            assert!(scores.iter().all(|score| score.as_f64().is_some_and(f64::is_finite)), "{answer}");
        }
        200 => {
            let features = answer["features"].as_object().expect("features are an object");
            let rows = |list: &Json| list.as_array().expect("a list per feature").len();
            for feature in features.values() {
                let lists = ["values", "statuses", "event_times"].map(|name| rows(&feature[name]));
                assert_eq!(lists, [lists[0]; 3], "{answer}");
            }
        }
        _ => {
            let told = ["code", "message", "help"].map(|part| answer["error"][part].as_str().unwrap_or_default());
            assert!(told.iter().all(|part| !part.is_empty()), "{answer}");
            // What a client sends may well be too large for the model.
            assert!([400, 404, 413, 422].contains(&status) || told[0] == "score_not_finite", "{status} {answer}");
        }
    }
}

fn right(how: usize) -> Json {
    match how % 4 {
        0 => json!({
            "features": ["u_texts_60s", "u_rate", "by_pair.p_shown_30s", "u_newest_60s"],
            "entities": { "user": "u1", "item": [0, 1, 7] }
        }),
        1 => json!({
            "model": "ctr",
            "entities": { "user": "u1" },
            "candidates": { "item": [0, 1, 2] },
            "context": { "position": [1, 2, null] }
        }),
        2 => json!({ "group": "by_user", "entities": { "user": ["u0", "nobody"] } }),
        _ => json!({
            "model": "typed",
            "context": { "text": ["DE", "FR"], "flag": true, "i64": [1, 2], "i32": -20, "f64": 0.5, "f32": [null, 1] }
        }),
    }
}
