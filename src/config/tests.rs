//! Whole files: the shipped pipelines are sound, and plans say what the files say.

use super::*;
use std::path::Path as FilePath;

fn options<'a>() -> LoadOptions<'a> {
    LoadOptions { overlays: &[], sets: &[], env: &|_| None, cores: 2 }
}

#[test]
fn every_shipped_pipeline_is_sound() {
    let folder = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            seen += 1;
            if let Err(errors) = load(std::slice::from_ref(&path), &options()) {
                panic!("{}:\n{errors}", path.display());
            }
        }
    }
    assert!(seen >= 3);
}

#[test]
fn every_example_is_sound_and_so_are_its_tests() {
    let mut seen = 0;
    for entry in std::fs::read_dir(repository("config/examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.to_str().unwrap().ends_with(".test.yaml") {
            continue;
        }
        seen += 1;
        match load_with_tests(std::slice::from_ref(&path), &options()) {
            Ok((loaded, tests)) => assert!(loaded.warnings.0.is_empty() && !tests.is_empty(), "{}", path.display()),
            Err(errors) => panic!("{}:\n{errors}", path.display()),
        }
    }
    assert!(seen >= 5);
}

#[test]
fn tests_are_no_part_of_a_plan() {
    let file = |path: &str| (path.to_string(), std::fs::read_to_string(repository(path)).unwrap());
    let (name, text) = file("config/examples/ads.yaml");
    let with = format!("{text}\n{}", file("config/examples/ads.test.yaml").1);
    let wrong = format!("{text}\ntests:\n  anything: ${{NOT_SET}}\n");
    let plain = load_texts(&[(name.clone(), text)], &options()).unwrap();
    for text in [&with, &wrong] {
        let loaded = load_texts(&[(name.clone(), text.clone())], &options()).unwrap();
        assert_eq!(loaded.plan.semantics, plain.plan.semantics);
        assert_eq!(loaded.warnings, plain.warnings);
    }
    let (loaded, tests) = load_texts_with_tests(&[(name.clone(), with)], None, &options()).unwrap();
    assert_eq!(loaded.plan.semantics, plain.plan.semantics);
    assert!(tests.len() >= 3);
    assert!(load_texts_with_tests(&[(name, wrong)], None, &options()).is_err());
}

/// Every tests/config/tests/<case>.yaml is wrong about config/examples/ads.yaml; <case>.txt is what a person is told.
#[test]
fn broken_tests_are_told_as_recorded() {
    let name = "ads.yaml".to_string();
    let pipeline = [(name, std::fs::read_to_string(repository("config/examples/ads.yaml")).unwrap())];
    let mut wrong = Vec::new();
    for case in ["shapes", "meanings"] {
        let path = repository("tests/config/tests").join(case).with_extension("yaml");
        let beside = (format!("{case}.yaml"), std::fs::read_to_string(&path).unwrap());
        let errors = load_texts_with_tests(&pipeline, Some(&beside), &options()).unwrap_err();
        if !matches_file(&path.with_extension("txt"), &format!("{errors}\n")) {
            wrong.push(format!("{case}:\n{errors}"));
        }
    }
    assert!(wrong.is_empty(), "other messages than recorded:\n{}", wrong.join("\n"));
}

fn repository(path: &str) -> PathBuf {
    FilePath::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Compares with a file of the repository, or rewrites it when CONJOIN_BLESS=1.
fn matches_file(path: &FilePath, text: &str) -> bool {
    if std::env::var("CONJOIN_BLESS").is_ok_and(|bless| bless == "1") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        return true;
    }
    std::fs::read_to_string(path).is_ok_and(|known| known == text)
}

#[test]
fn the_reference_and_the_schema_follow_the_code() {
    let files = [
        ("docs/CONFIG.md", reference_markdown()),
        ("schemas/pipeline.schema.json", schema_json()),
        ("schemas/tests.schema.json", tests_schema_json()),
    ];
    for (path, text) in files {
        assert!(matches_file(&repository(path), &text), "{path} is out of date: run the tests with CONJOIN_BLESS=1");
    }
}

/// Every tests/config/<case>.yaml is wrong in some way; <case>.txt is what a person is told.
#[test]
fn broken_files_are_told_as_recorded() {
    let mut cases: Vec<PathBuf> = std::fs::read_dir(repository("tests/config"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    cases.sort();
    assert!(cases.len() >= 24, "only {} cases", cases.len());
    let env = |name: &str| (name == "CONJOIN_TEST_PORT").then(|| "9092".to_string());
    let options = LoadOptions { env: &env, ..options() };
    let mut wrong = Vec::new();
    for path in cases {
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        let text = std::fs::read_to_string(&path).unwrap();
        let told = match load_texts(&[(name.clone(), text)], &options) {
            Ok(loaded) => format!("accepted\n{}\n", loaded.warnings),
            Err(errors) => format!("{errors}\n"),
        };
        if !matches_file(&path.with_extension("txt"), &told) {
            wrong.push(format!("{name}:\n{told}"));
        }
    }
    assert!(wrong.is_empty(), "other messages than recorded:\n{}", wrong.join("\n"));
}
