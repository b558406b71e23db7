//! What a model may look like, with the small models of tests/data/make_models.py.

use crate::support::binary::output;
use crate::support::env;
use conjoin::event::Value::{self, Bool, Float, Int, Null, Text};
use conjoin::model::{InputColumn, Model, ModelError, ModelInput, ModelInputFrom, ModelSpec};
use std::path::Path;
use std::process::Command;

fn spec(folder: &str, inputs: &[&str]) -> ModelSpec {
    let input = |name: &&str| ModelInput { name: name.to_string(), from: ModelInputFrom::Context, default: None };
    ModelSpec {
        name: "m".to_owned(),
        path: Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models").join(folder),
        inputs: inputs.iter().map(input).collect(),
        output: None,
    }
}

fn load(spec: &ModelSpec) -> Result<Model, ModelError> {
    env("ORT_DYLIB_PATH");
    Model::load(spec, &[])
}

fn refused(spec: &ModelSpec) -> String {
    load(spec).err().expect("the model is refused").to_string()
}

fn score(model: &Model, columns: &[&[Value]]) -> Result<Vec<f32>, ModelError> {
    let shown: Vec<InputColumn<'_>> = columns.iter().map(|values| InputColumn::Rows(values)).collect();
    model.score(columns[0].len(), &shown).map(|scored| scored.scores)
}

#[test]
fn a_rank_two_input_takes_the_features_as_columns_in_the_order_listed() {
    for folder in ["packed", "packed_double"] {
        let model = load(&spec(folder, &["z", "a", "m"])).expect("three columns fit");
        let scores = score(&model, &[&[Int(1), Int(4)], &[Float(2.0), Bool(true)], &[Int(3), Int(6)]]);
        assert_eq!(scores, Ok(vec![123.0, 416.0]), "{folder}");
    }
    let message = refused(&spec("packed", &["z", "a"]));
    assert!(message.contains("takes 3 features and the pipeline file lists 2: z, a"), "{message}");
}

#[test]
fn inputs_of_every_type_are_taken_by_name_in_any_order() {
    let model = load(&spec("typed", &["text", "flag", "i64", "i32", "f64", "f32"])).expect("every type fits");
    let columns: [&[Value]; 6] = [
        &[Text("DE".into()), Text("FR".into())],
        &[Bool(true), Bool(false)],
        &[Int(7 << 40), Int(1 << 40)],
        &[Int(-20), Int(20)],
        &[Float(0.5), Int(2)],
        &[Float(0.125), Bool(true)],
    ];
    assert_eq!(score(&model, &columns), Ok(vec![987.875, 24.5]));
    let mut wrong = columns;
    wrong[3] = &[Int(0), Int(1 << 40)];
    let error = score(&model, &wrong).expect_err("too large for int32");
    assert!(matches!(&error, ModelError::Input { input, row: 1, .. } if input == "i32"), "{error}");
    wrong[3] = &[Null, Int(0)];
    let error = score(&model, &wrong).expect_err("an int32 cannot be null");
    assert!(error.to_string().contains("give it a `default`"), "{error}");
}

#[test]
fn of_two_class_probabilities_the_positive_one_is_the_score() {
    let mut pair = spec("pair", &["a"]);
    let message = refused(&pair);
    assert!(message.contains("say which output is the score") && message.contains("probabilities"), "{message}");
    pair.output = Some("label".to_owned());
    assert!(refused(&pair).contains("a float32 or float64 score is needed"));
    pair.output = Some("probabilities".to_owned());
    let model = load(&pair).expect("the probabilities are a score");
    assert_eq!(score(&model, &[&[Float(0.25), Float(0.75)]]), Ok(vec![0.25, 0.75]));
}

#[test]
fn a_score_that_is_no_number_is_an_error_and_a_model_without_one_is_refused() {
    let model = load(&spec("logarithm", &["a"])).expect("the first run is finite");
    assert_eq!(score(&model, &[&[Int(0)]]), Ok(vec![0.0]));
    for value in [Null, Int(-1)] {
        let error = score(&model, &[&[Int(1), value]]).expect_err("not finite");
        assert!(matches!(error, ModelError::NotFinite { row: 1, .. }), "{error}");
    }
    assert!(refused(&spec("never_finite", &["a"])).contains("first run on two rows failed"));
    assert!(refused(&spec("two_each", &["a"])).contains("expected is one score per row"));
}

#[test]
fn a_model_that_reaches_out_of_its_file_or_fixes_the_batch_is_refused() {
    let error = load(&spec("external", &["a", "b", "c"])).err().expect("its tensors lie elsewhere");
    assert!(matches!(error, ModelError::ExternalData { .. }), "{error}");
    let message = refused(&spec("fixed_batch", &["a", "b", "c"]));
    assert!(message.contains("fixed batch size of 1"), "{message}");
}

/// Run as a process of its own by the test below: the runtime is loaded once per process.
#[test]
#[ignore = "the test `without_the_runtime_library_…` starts it with an environment of its own"]
fn child_without_the_runtime_library() {
    let error = Model::load(&spec("packed", &["a", "b", "c"]), &[]).err().expect("there is no library");
    println!("{error}");
    assert!(matches!(error, ModelError::Runtime { .. }));
}

#[test]
fn without_the_runtime_library_the_error_says_how_to_get_it() {
    let itself = std::env::current_exe().expect("a test knows its file");
    for library in [
        "/nonexistent/libonnxruntime.so",
        env!("CARGO_MANIFEST_DIR"),
        concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
    ] {
        let output = output(
            Command::new(&itself)
                .args(["--exact", "model_contract::child_without_the_runtime_library", "--ignored", "--nocapture"])
                .env("ORT_DYLIB_PATH", library),
        );
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        assert!(text.contains("pip install onnxruntime"), "{text}");
    }
}
