//! Ranking through the running binary: features that the pipeline wrote to Redis, looked up and scored over HTTP, equal
//! what Python's onnxruntime says of the same inputs.

use crate::cli::{Server, conjoin, finish};
use crate::support::env;
use serde_json::{Value as Json, json};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const ITEMS: usize = 200;

/// The defaults of config/demo.yaml for what has no value, and the context of the request.
fn python_input(name: &str, value: &Json, price: f64) -> f64 {
    match (value.as_f64(), name) {
        (Some(value), _) => value,
        (None, "item_ctr_1h") => 0.05,
        (None, "price") => price,
        (None, _) => f64::NAN,
    }
}

fn python_scores(python: &str, inputs: &Json) -> Vec<f64> {
    let asked = json!({"model": format!("{ROOT}/models/ctr/1/model.onnx"), "output": "p", "inputs": inputs});
    let mut process = Command::new(python)
        .arg(format!("{ROOT}/tests/data/score.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python starts");
    let text = asked.to_string().replace("null", "NaN");
    process.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("Python reads");
    let output = process.wait_with_output().expect("Python ends");
    assert!(output.status.success(), "score.py failed");
    serde_json::from_slice(&output.stdout).expect("a list of scores")
}

/// The values of some features of some entities, as `/v1/features` gives them.
fn lookup(server: &mut Server, features: &[&str], entities: Json) -> Json {
    let body = json!({"features": features, "entities": entities}).to_string();
    let (status, answer) = server.ask("POST", "/v1/features", &body);
    assert_eq!(status, 200, "{answer}");
    serde_json::from_str::<Json>(&answer).expect("the answer is JSON")["features"].clone()
}

#[test]
fn scores_over_http_equal_those_of_python_on_the_looked_up_features() {
    let (redis, python) = (env("REDIS_URL"), env("CONJOIN_PYTHON"));
    env("ORT_DYLIB_PATH");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (code, _, errors) = finish(
        folder.path(),
        &["gen", "--out", "data/demo", "--impressions", "30000", "--users", "300", "--items", "150", "--tail", "5"],
    );
    assert_eq!(code, 0, "{errors}");
    let pipeline = format!("parity{}", std::process::id());
    let overlay = format!(
        "pipeline: {pipeline}\nconnections: {{ features: {{ redis: {{ url: \"{redis}\" }} }} }}\nonline: {{ store: features }}\n"
    );
    std::fs::write(folder.path().join("redis.yaml"), overlay).expect("the overlay can be written");
    let model = format!("models.ctr.path={ROOT}/models/ctr");
    let demo = Path::new(ROOT).join("config/demo.yaml");
    let demo = demo.to_str().expect("the path is text");
    let set = ["--set", model.as_str(), "--set", "serve.listen=127.0.0.1:0"];
    let args = [&["run", demo, "--overlay", "redis.yaml", "--keep-serving"], &set[..]].concat();
    let mut server = Server::start(conjoin(folder.path(), &args));
    server.wait_for("the inputs have ended");

    // More items than there are: the last ones have no features.
    let items: Vec<String> = (0..ITEMS).map(|item| format!("i{item:06}")).collect();
    let user = any_user(folder.path());
    let prices: Vec<f64> = (0..ITEMS).map(|item| 1.0 + item as f64 / 7.0).collect();
    let positions: Vec<usize> = (0..ITEMS).collect();
    let user_features = ["user_impressions_1h", "user_clicks_1h"];
    let item_features = ["item_impressions_1h", "item_clicks_1h", "item_ctr_1h"];
    let of_user = lookup(&mut server, &user_features, json!({"user_id": [user]}));
    let of_items = lookup(&mut server, &item_features, json!({"item_id": items}));
    assert!(of_items["item_ctr_1h"]["statuses"].as_array().expect("a list").contains(&json!("PRESENT")), "{of_items}");

    let rank = json!({
        "model": "ctr",
        "entities": {"user_id": user},
        "candidates": {"item_id": items},
        "context": {"position": positions, "price": prices},
    });
    let (status, answer) = server.ask("POST", "/v1/rank", &rank.to_string());
    assert_eq!(status, 200, "{answer}");
    let answer: Json = serde_json::from_str(&answer).expect("the answer is JSON");
    let scores: Vec<f64> = serde_json::from_value(answer["scores"].clone()).expect("a list of scores");

    let mut inputs = json!({"position": positions, "price": prices});
    for name in user_features {
        let value = python_input(name, &of_user[name]["values"][0], 0.0);
        inputs[name] = json!(vec![value; ITEMS]);
    }
    for name in item_features {
        let values = of_items[name]["values"].as_array().expect("a list");
        inputs[name] = values.iter().map(|value| json!(python_input(name, value, 0.0))).collect();
    }
    let expected = python_scores(&python, &inputs);
    assert_eq!(scores.len(), ITEMS);
    for (row, (score, expected)) in scores.iter().zip(&expected).enumerate() {
        assert!((score - expected).abs() < 1e-6, "candidate {row}: {score} instead of {expected}");
    }
    let spread = scores.iter().copied().fold(f64::MIN, f64::max) - scores.iter().copied().fold(f64::MAX, f64::min);
    assert!(spread > 1e-3, "the scores hardly differ: the features did not reach the model");
    let (status, text) = server.ask("GET", "/readyz", "");
    assert_eq!(status, 200, "{text}");
    assert_eq!(server.stop(), 0);
}

/// The last user who was shown something.
fn any_user(folder: &Path) -> String {
    let text = std::fs::read_to_string(folder.join("data/demo/impressions.ndjson")).expect("there are impressions");
    let mut impressions = text.lines().rev().filter_map(|line| serde_json::from_str::<Json>(line).ok());
    let user = impressions.find_map(|impression| impression["user_id"].as_str().map(str::to_owned));
    user.expect("most impressions are well-formed")
}
