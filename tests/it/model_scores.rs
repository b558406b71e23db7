//! The model against Python: the same inputs give the same scores, and what does not fit is refused with a reason.

use crate::support::{env, groups, test_model};
use conjoin::event::Value;
use conjoin::feature::GroupSpec;
use conjoin::model::{InputColumn, Model, ModelError, ModelInputFrom, ModelSpec};
use std::path::Path;

fn load(spec: &ModelSpec, groups: &[GroupSpec]) -> Result<Model, ModelError> {
    env("ORT_DYLIB_PATH");
    Model::load(spec, groups)
}

fn mismatch(spec: &ModelSpec, groups: &[GroupSpec]) -> String {
    let error = load(spec, groups).err().expect("the model does not fit");
    assert!(matches!(error, ModelError::Mismatch { .. }), "{error}");
    error.to_string()
}

/// Inputs that examples/train_ctr.py chose, and the scores that Python's onnxruntime gave them.
fn expected() -> (Vec<Vec<Value>>, Vec<f64>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ctr_scores.json");
    let text = std::fs::read_to_string(path).expect("the file is part of the repository");
    let json: serde_json::Value = serde_json::from_str(&text).expect("the file is JSON");
    let column = |name: &str| {
        let values = json["inputs"][name].as_array().expect("the file has every input");
        values.iter().map(|value| value.as_f64().map_or(Value::Null, Value::Float)).collect()
    };
    let inputs = test_model().inputs.iter().map(|input| column(&input.name)).collect();
    let scores = json["scores"].as_array().expect("the file has scores");
    (inputs, scores.iter().map(|score| score.as_f64().expect("scores are numbers")).collect())
}

#[test]
fn scores_equal_those_of_python() {
    let model = load(&test_model(), &groups()).expect("the test model fits the test plan");
    let (inputs, expected) = expected();
    let columns: Vec<InputColumn<'_>> = inputs.iter().map(|values| InputColumn::Rows(values)).collect();
    let scored = model.score(expected.len(), &columns).expect("the model runs");
    assert_eq!(scored.scores.len(), expected.len());
    for (row, (score, expected)) in scored.scores.iter().zip(&expected).enumerate() {
        assert!((*score as f64 - expected).abs() < 1e-6, "row {row}: {score} instead of {expected}");
    }
    for (values, missing) in inputs.iter().zip(&scored.missing) {
        assert_eq!(*missing, values.iter().filter(|value| **value == Value::Null).count() as u64);
    }
    assert_eq!((model.version, model.sha256.len()), (1, 64));
}

#[test]
fn one_value_for_all_rows_is_the_same_as_one_each() {
    let model = load(&test_model(), &groups()).expect("the test model fits the test plan");
    let one = Value::Int(3);
    let each = vec![one.clone(); 5];
    let all = model.score(5, &[InputColumn::All(&one); 7]).expect("the model runs");
    let rows = model.score(5, &[InputColumn::Rows(&each); 7]).expect("the model runs");
    assert_eq!(all, rows);
    assert!(model.score(0, &[InputColumn::Rows(&[]); 7]).expect("nothing to run").scores.is_empty());
}

#[test]
fn a_default_stands_in_for_null_and_is_counted() {
    let mut spec = test_model();
    spec.inputs[4].default = Some(0.05);
    let model = load(&spec, &groups()).expect("the test model fits the test plan");
    let (one, null, rate) = (Value::Int(1), Value::Null, Value::Float(0.05));
    let with = |value| {
        let mut columns = [InputColumn::All(&one); 7];
        columns[4] = InputColumn::All(value);
        model.score(2, &columns).expect("the model runs")
    };
    assert_eq!(with(&null).scores, with(&rate).scores);
    assert_eq!(with(&null).missing, [0, 0, 0, 0, 2, 0, 0]);
}

#[test]
fn inputs_that_do_not_match_are_all_listed_with_a_suggestion() {
    let mut spec = test_model();
    spec.inputs[1].name = "prize".to_owned();
    spec.inputs.remove(5);
    spec.output = Some("probability".to_owned());
    let message = mismatch(&spec, &groups());
    for part in ["`price`", "did you mean `prize`?", "`prize`", "did you mean `price`?", "`item_clicks_1h`"] {
        assert!(message.contains(part), "{part} is missing in: {message}");
    }
    let mut spec = test_model();
    spec.output = Some("probability".to_owned());
    assert!(mismatch(&spec, &groups()).contains("there is no output `probability`; the model has: p"));
}

#[test]
fn a_feature_that_is_no_number_is_refused_for_a_float_input() {
    let mut groups = groups();
    let texts = arrow::datatypes::Schema::new(vec![
        arrow::datatypes::Field::new("user_clicks_1h", arrow::datatypes::DataType::Utf8, true),
        arrow::datatypes::Field::new("user_impressions_1h", arrow::datatypes::DataType::Int64, false),
    ]);
    groups[0].outputs = std::sync::Arc::new(texts);
    let message = mismatch(&test_model(), &groups);
    assert!(message.contains("`user_clicks_1h` is of type Utf8"), "{message}");
}

#[test]
fn a_value_that_cannot_be_fed_names_its_input_and_row() {
    let model = load(&test_model(), &groups()).expect("the test model fits the test plan");
    let (one, text) = (Value::Int(1), [Value::Int(1), Value::Text("2".into())]);
    let mut columns = [InputColumn::All(&one); 7];
    columns[0] = InputColumn::Rows(&text);
    let error = model.score(2, &columns).expect_err("a text is no position");
    assert!(matches!(&error, ModelError::Input { input, row: 1, .. } if input == "position"), "{error}");
    assert_eq!(model.spec.inputs[0].from, ModelInputFrom::Context);
}

#[test]
fn a_model_file_that_was_cut_is_refused() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let whole = std::fs::read(test_model().path.join("1/model.onnx")).expect("the model is part of the repository");
    std::fs::create_dir(folder.path().join("1")).expect("a folder can be made");
    let mut spec = test_model();
    spec.path = folder.path().to_owned();
    for length in [1, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(folder.path().join("1/model.onnx"), &whole[..length]).expect("a file can be written");
        let error = load(&spec, &groups()).err().expect("half a model is no model");
        assert!(matches!(error, ModelError::NotLoadable { .. }), "{error}");
    }
}
