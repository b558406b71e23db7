//! The server over HTTP, with the memory store and the test model.

use crate::support::{env, groups, items, plan, store_groups, users, write_all};
use conjoin::model::Model;
use conjoin::online::{
    MemoryStore, OnlineStore, ReadRequest, StoreError, StoreErrorKind, StoredRow, Write, WriteSummary,
};
use conjoin::serve::{Readiness, Route, ServeError, ServeMetrics, ServeState, ServerHandle, start};
use serde_json::{Value as Json, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

pub struct Server {
    handle: ServerHandle,
    agent: ureq::Agent,
}

impl Server {
    pub fn post(&self, path: &str, body: &str) -> (u16, Json) {
        let url = format!("http://{}{path}", self.handle.addr);
        let mut response = self.agent.post(url).send(body).expect("the server answers");
        let text = response.body_mut().read_to_string().expect("the answer is text");
        (response.status().as_u16(), serde_json::from_str(&text).expect("the answer is JSON"))
    }

    fn get(&self, path: &str) -> (u16, String) {
        let mut response =
            self.agent.get(format!("http://{}{path}", self.handle.addr)).call().expect("the server answers");
        (response.status().as_u16(), response.body_mut().read_to_string().expect("the answer is text"))
    }

    fn rank(&self, body: Json) -> (u16, Json) {
        self.post("/v1/rank", &body.to_string())
    }

    fn features(&self, body: Json) -> (u16, Json) {
        self.post("/v1/features", &body.to_string())
    }
}

fn clock() -> Arc<dyn Fn() -> u64 + Send + Sync> {
    let since = Instant::now();
    Arc::new(move || since.elapsed().as_micros() as u64)
}

pub fn state(store: Arc<dyn OnlineStore>) -> ServeState {
    env("ORT_DYLIB_PATH");
    let plan = Arc::new(plan());
    let models =
        plan.models.iter().map(|spec| Model::load(spec, &groups()).expect("the test model fits")).map(Arc::new);
    ServeState {
        models: models.collect(),
        plan,
        store,
        metrics_text: Arc::new(|| "conjoin_up 1\n".to_owned()),
        ready: Arc::new(|| Readiness { ready: false, reasons: vec!["still reading".to_owned()] }),
        online_instant: None,
        groups_since: Arc::new(|| Arc::from([])),
        monotonic_us: clock(),
        requests: Arc::new(ServeMetrics::default()),
    }
}

pub fn serve(state: ServeState) -> Server {
    let handle = start("127.0.0.1:0".parse().expect("an address"), state).expect("a free port is found");
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    Server { handle, agent }
}

fn filled() -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::new(store_groups()).expect("the groups can be stored"));
    write_all(&*store, &users(1000, &[("u1", 3, 30), ("u2", 0, 5)]), 1);
    let rows = [("a".to_owned(), 5, 50, Some(0.1)), ("b".to_owned(), 0, 3, None)];
    write_all(&*store, &items(2000, &rows), 1);
    store
}

#[test]
fn features_come_as_columns_and_missing_null_and_present_differ() {
    let server = serve(state(filled()));
    let (status, body) = server.features(json!({"group": "item", "entities": {"item_id": ["b", "nobody", "a"]}}));
    assert_eq!(status, 200, "{body}");
    assert_eq!(
        body["features"]["item_ctr_1h"],
        json!({"values": [null, null, 0.1], "statuses": ["NULL_VALUE", "NOT_FOUND", "PRESENT"], "event_times": [2000, null, 2000]})
    );
    assert_eq!(body["features"]["item_clicks_1h"]["values"], json!([0, null, 5]));
    assert_eq!(body["features"].as_object().map(|features| features.len()), Some(3));
}

#[test]
fn features_of_several_groups_come_in_one_request_and_a_scalar_holds_for_every_row() {
    let server = serve(state(filled()));
    let (status, body) = server.features(json!({
        "features": ["item.item_clicks_1h", "user_clicks_1h"],
        "entities": {"user_id": "u1", "item_id": ["a", "b"]}
    }));
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["features"]["user_clicks_1h"]["values"], json!([3, 3]));
    assert_eq!(body["features"]["item.item_clicks_1h"]["values"], json!([5, 0]));
}

#[test]
fn a_row_older_than_the_store_keeps_it_is_marked_and_not_scored_with() {
    let two_hours_ms = 2 * 3_600_000 + 3_600_000;
    let outdated = ServeState { online_instant: Some(Arc::new(move || 1500 + two_hours_ms)), ..state(filled()) };
    let server = serve(outdated);
    let (_, body) = server.features(json!({"group": "user", "entities": {"user_id": "u1"}}));
    assert_eq!(body["features"]["user_clicks_1h"]["statuses"], json!(["OUTSIDE_MAX_AGE"]));
    assert_eq!(body["features"]["user_clicks_1h"]["values"], json!([3]));
    let (_, body) = server.rank(rank_request());
    assert_eq!(body["missing"], json!({"user_clicks_1h": 2, "user_impressions_1h": 2, "item_ctr_1h": 1}));
}

#[test]
fn a_feature_of_a_group_that_was_added_is_warming_until_its_window_is_full() {
    // The window of an hour that begins with the minute of 60,000 is full at 3,660,000.
    let at = |instant: i64| {
        let groups_since: Arc<[i64]> = [i64::MIN, 1_500].into();
        let groups_since = Arc::new(move || groups_since.clone());
        serve(ServeState { online_instant: Some(Arc::new(move || instant)), groups_since, ..state(filled()) })
    };
    let body = json!({"features": ["item_ctr_1h", "item_clicks_1h"], "entities": {"item_id": ["b", "nobody", "a"]}});
    let statuses =
        |server: &Server, feature: &str| server.features(body.clone()).1["features"][feature]["statuses"].clone();
    let warming = at(3_659_999);
    assert_eq!(statuses(&warming, "item_clicks_1h"), json!(["PRESENT", "WARMING", "PRESENT"]), "a value is a value");
    assert_eq!(
        at(3_659_999).features(json!({"group": "user", "entities": {"user_id": "u9"}})).1["features"]["user_clicks_1h"]
            ["statuses"],
        json!(["NOT_FOUND"]),
        "the other group is whole"
    );
    assert_eq!(statuses(&at(3_660_000), "item_clicks_1h"), json!(["PRESENT", "NOT_FOUND", "PRESENT"]));
    // What another definition of the group has left in the store is outdated.
    let reset = ServeState { groups_since: Arc::new(|| Arc::from([1_500, i64::MIN])), ..state(filled()) };
    let (_, body) = serve(reset).features(json!({"group": "user", "entities": {"user_id": "u1"}}));
    assert_eq!(body["features"]["user_clicks_1h"]["statuses"], json!(["OUTSIDE_MAX_AGE"]));
}

fn rank_request() -> Json {
    json!({
        "model": "ctr",
        "entities": {"user_id": "u1"},
        "candidates": {"item_id": ["a", "b"]},
        "context": {"position": [1, 2], "price": 19.5}
    })
}

#[test]
fn ranking_scores_every_candidate_in_order_and_counts_what_was_missing() {
    let state = state(filled());
    let model = state.models[0].clone();
    let metrics = state.requests.clone();
    let server = serve(state);
    let (status, body) = server.rank(rank_request());
    assert_eq!(status, 200, "{body}");
    use conjoin::event::Value::{Float, Int, Null};
    let columns = [
        vec![Int(1), Int(2)],
        vec![Float(19.5); 2],
        vec![Int(3); 2],
        vec![Int(30); 2],
        vec![Float(0.1), Null],
        vec![Int(5), Int(0)],
        vec![Int(50), Int(3)],
    ];
    let columns = columns.each_ref().map(|values| conjoin::model::InputColumn::Rows(values));
    let expected = model.score(2, &columns).expect("the model runs").scores;
    let scores: Vec<f64> = body["scores"].as_array().expect("scores").iter().filter_map(Json::as_f64).collect();
    assert_eq!(scores.len(), 2);
    for (score, expected) in scores.iter().zip(&expected) {
        assert!((score - *expected as f64).abs() < 1e-6, "{body} instead of {expected:?}");
    }
    assert_eq!(body["missing"], json!({"item_ctr_1h": 1}));
    assert_eq!((&body["model"], &body["model_version"]), (&json!("ctr"), &json!("1")));
    let snapshot = metrics.snapshot();
    assert_eq!((snapshot.candidates, snapshot.values_missing), (2, 1));
    assert_eq!(snapshot.routes[Route::Rank as usize].ok, 1);
}

#[test]
fn an_unknown_user_is_scored_with_what_there_is() {
    let server = serve(state(filled()));
    let mut request = rank_request();
    request["entities"]["user_id"] = json!("nobody");
    let (status, body) = server.rank(request);
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["missing"]["user_clicks_1h"], json!(2));
}

#[test]
fn no_candidates_are_no_scores() {
    let server = serve(state(filled()));
    let request =
        json!({"entities": {"user_id": "u1"}, "candidates": {"item_id": []}, "context": {"position": [], "price": 1}});
    let (status, body) = server.rank(request);
    assert_eq!((status, &body["scores"]), (200, &json!([])), "{body}");
}

#[test]
fn what_is_wrong_with_a_request_is_answered_with_a_code_and_what_to_do() {
    let server = serve(state(filled()));
    let with = |change: &dyn Fn(&mut Json)| {
        let mut request = rank_request();
        change(&mut request);
        request
    };
    let candidates: Vec<String> = (0..10_001).map(|number| number.to_string()).collect();
    let cases: Vec<(&str, Json, u16, &str, &str)> = vec![
        ("rank", with(&|r| r["model"] = json!("crt")), 404, "unknown_model", "did you mean `ctr`?"),
        ("rank", with(&|r| r["modle"] = json!("ctr")), 400, "bad_request", "send such as"),
        ("rank", with(&|r| r["entities"] = json!({})), 400, "missing_entity", "add it to `entities`"),
        ("rank", with(&|r| r["entities"] = json!({"user": "u1"})), 404, "unknown_entity", "did you mean `user_id`?"),
        ("rank", with(&|r| r["entities"] = json!({"user_id": 1})), 422, "wrong_type", "write it as a string: \"1\""),
        ("rank", with(&|r| r["entities"] = json!({"user_id": ["u1"]})), 400, "bad_request", "move it to `candidates`"),
        ("rank", with(&|r| r["context"] = json!({"position": [1, 2]})), 400, "missing_context", "add it to `context`"),
        ("rank", with(&|r| r["context"]["position"] = json!([1])), 400, "length_mismatch", "one element per candidate"),
        ("rank", with(&|r| r["context"]["position"] = json!(["x", "y"])), 422, "wrong_type", "send values of the type"),
        ("rank", with(&|r| r["context"]["prise"] = json!(1)), 404, "unknown_context", "did you mean `price`?"),
        ("rank", with(&|r| r["context"]["item_ctr_1h"] = json!(1)), 400, "not_context", "leave it out"),
        ("rank", with(&|r| r["candidates"]["item_id"] = json!(candidates)), 400, "length_mismatch", "per candidate"),
        (
            "rank",
            json!({"entities": {"user_id": "u"}, "candidates": {"item_id": candidates}, "context": {"position": 1, "price": 1}}),
            413,
            "too_large",
            "several requests",
        ),
        ("features", json!({"group": "itm", "entities": {}}), 404, "unknown_group", "did you mean `item`?"),
        ("features", json!({"entities": {}}), 400, "bad_request", "send such as"),
        ("features", json!({"features": ["item_ctr_2h"], "entities": {}}), 404, "unknown_feature", "`item_ctr_1h`"),
        ("features", json!({"group": "item", "entities": {}}), 400, "missing_entity", "a list of them"),
        (
            "features",
            json!({"group": "item", "entities": {"item_id": "a", "user_id": "u"}}),
            400,
            "unused_entity",
            "leave it out",
        ),
    ];
    for (path, request, status, code, help) in cases {
        let (found, body) = server.post(&format!("/v1/{path}"), &request.to_string());
        let error = &body["error"];
        let text = body.to_string();
        let shown = &text[..text.len().min(500)];
        assert_eq!((found, error["code"].as_str()), (status, Some(code)), "{shown}");
        assert!(error["help"].as_str().is_some_and(|text| text.contains(help)), "{help} is not in {shown}");
    }
}

#[test]
fn bodies_that_are_no_request_are_refused() {
    let server = serve(state(filled()));
    let deep = "[".repeat(100_000);
    for body in ["", "{", "null", "[1]", r#"{"entities": {"user_id": "a", "user_id": "b"}}"#, deep.as_str()] {
        let (status, answer) = server.post("/v1/rank", body);
        assert_eq!((status, answer["error"]["code"].as_str()), (400, Some("bad_request")), "{answer}");
    }
    let huge = format!(r#"{{"model": "{}"}}"#, "x".repeat(5 << 20));
    // The server may close the connection before it has read all of it.
    let url = format!("http://{}/v1/rank", server.handle.addr);
    if let Ok(response) = server.agent.post(url).send(&huge) {
        assert_eq!(response.status().as_u16(), 413);
    }
    assert_eq!(server.get("/healthz").0, 200, "the server goes on");
}

#[test]
fn health_readiness_and_metrics_have_their_paths_and_others_none() {
    let server = serve(state(filled()));
    assert_eq!(server.get("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(server.get("/readyz"), (503, r#"{"ready":false,"reasons":["still reading"]}"#.to_owned()));
    assert_eq!(server.get("/metrics"), (200, "conjoin_up 1\n".to_owned()));
    assert_eq!(server.get("/v1").0, 404);
    assert_eq!(server.get("/v1/rank").0, 405);
}

struct Away;

impl OnlineStore for Away {
    fn write(&self, _: &[Write<'_>]) -> Result<WriteSummary, StoreError> {
        self.ping().map(|()| WriteSummary::default())
    }

    fn read(&self, _: &[ReadRequest<'_>]) -> Result<Vec<Vec<Option<StoredRow>>>, StoreError> {
        self.ping().map(|()| Vec::new())
    }

    fn ping(&self) -> Result<(), StoreError> {
        Err(StoreError::new(StoreErrorKind::Connection, "features (localhost:6379)", "connection refused"))
    }
}

#[test]
fn a_store_that_is_away_is_a_503_that_names_it() {
    let server = serve(state(Arc::new(Away)));
    let (status, body) = server.rank(rank_request());
    assert_eq!((status, body["error"]["code"].as_str()), (503, Some("store_unavailable")));
    assert!(body["error"]["message"].as_str().is_some_and(|text| text.contains("localhost:6379")), "{body}");
}

#[test]
fn a_port_that_is_taken_or_open_to_others_is_refused() {
    let server = serve(state(filled()));
    let error = start(server.handle.addr, state(filled())).err().expect("the port is taken");
    assert!(matches!(error, ServeError::InUse(_)), "{error}");
    let error = start("0.0.0.0:0".parse().expect("an address"), state(filled())).err().expect("open to others");
    assert!(matches!(error, ServeError::NotLoopback(_)), "{error}");
}

/// Answers slowly, and counts.
struct Slow(Arc<MemoryStore>, AtomicU64);

impl OnlineStore for Slow {
    fn write(&self, writes: &[Write<'_>]) -> Result<WriteSummary, StoreError> {
        self.0.write(writes)
    }

    fn read(&self, requests: &[ReadRequest<'_>]) -> Result<Vec<Vec<Option<StoredRow>>>, StoreError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(std::time::Duration::from_millis(300));
        self.0.read(requests)
    }

    fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[test]
fn a_request_under_way_is_answered_before_the_server_stops() {
    let store = Arc::new(Slow(filled(), AtomicU64::new(0)));
    let server = serve(state(store.clone()));
    let url = format!("http://{}/v1/rank", server.handle.addr);
    let client = std::thread::spawn(move || {
        let mut response = ureq::post(url).send(rank_request().to_string()).expect("the request is answered");
        response.body_mut().read_to_string().expect("the answer is text")
    });
    while store.1.load(Ordering::Relaxed) == 0 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    server.handle.stop();
    assert!(client.join().expect("the client ran").contains("scores"));
    assert_eq!(store.1.load(Ordering::Relaxed), 1, "one read per request");
}
