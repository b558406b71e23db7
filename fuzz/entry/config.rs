//! Config: any text is a plan or a list of diagnostics that name places which are there; what is a plan can be built.
//!
//! In: the pipeline file, an overlay, a `--set` and a file of tests, separated by `0x1e`. Tests that are sound are run.

use super::repository;
use conjoin::audit::rehearse;
use conjoin::cell::{CellScope, Lane, Mirror, feature_history};
use conjoin::commit::first_layout;
use conjoin::config::{Diagnostics, LoadOptions, Loaded, Plan, load_texts, load_texts_with_tests};
use conjoin::decode::Decoder;
use conjoin::event::{KEY_GROUPS, PartitionId, PositionDelta, RawBatch, RawRecord};
use conjoin::pipeline::{cell_spec, definition, routed_streams};
use conjoin::route::Router;
use std::sync::Arc;

const LANES_MAX: usize = 3;
const TESTS_MAX: usize = 16;

/// Pipeline files that are shipped, and those of the tests, nearly all of which are wrong.
pub fn seeds() -> Vec<Vec<u8>> {
    let in_folder = |folder: &str| {
        let entries = std::fs::read_dir(repository(folder)).expect("the folder is there");
        let paths = entries.map(|entry| entry.expect("it can be listed").path());
        let yaml = paths.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
        yaml.map(|path| std::fs::read(path).expect("it can be read")).collect::<Vec<_>>()
    };
    let own = [include_str!("decode.yaml"), include_str!("life.yaml")].map(|text| text.as_bytes().to_vec());
    let laid_over = b"version: 1\npipeline: a\x1estate: { path: x }\x1estate.lanes=3".to_vec();
    let read = |path: &str| std::fs::read(repository(path)).expect("it can be read");
    let tested = |name: &str, tests: &str| {
        [read(&format!("config/examples/{name}.yaml")), b"\x1e\x1e\x1e".into(), read(tests)].concat()
    };
    let examples = ["ads", "attribution", "conversions", "feed", "search", "video"];
    let mut tests: Vec<_> = examples.map(|name| tested(name, &format!("config/examples/{name}.test.yaml"))).into();
    tests.extend(["shapes", "meanings"].map(|case| tested("ads", &format!("tests/config/tests/{case}.yaml"))));
    [in_folder("config"), in_folder("tests/config"), own.to_vec(), vec![laid_over], tests].concat()
}

pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // What a reference to a file reads is not the fuzzer's to choose.
    if text.contains("${file") {
        return;
    }
    let mut parts = text.split('\x1e');
    let mut sources = vec![("pipeline.yaml".to_string(), parts.next().unwrap_or_default().to_string())];
    let part = |part: &mut std::str::Split<'_, char>| part.next().filter(|text| !text.is_empty()).map(str::to_string);
    sources.extend(part(&mut parts).map(|overlay| ("overlay.yaml".to_string(), overlay)));
    let sets: Vec<String> = part(&mut parts).into_iter().collect();
    let tests = part(&mut parts).map(|tests| ("tests.yaml".to_string(), tests));
    let env = |name: &str| (name == "PORT").then(|| "9092".to_string());
    let options = LoadOptions { overlays: &[], sets: &sets, env: &env, cores: 2 };
    rehearse_all(&sources, tests, &options);
    match load_texts(&sources, &options) {
        Ok(Loaded { plan, warnings }) => {
            check(&warnings, &sources);
            assert!(!warnings.has_errors(), "{warnings}");
            let again = load_texts(&sources, &options).expect("what was sound once is sound twice");
            assert_eq!(plan.semantics, again.plan.semantics);
            build(plan);
        }
        Err(errors) => {
            check(&errors, &sources);
            assert!(errors.has_errors(), "{errors}");
        }
    }
}

/// Tests run, whatever comes of them, and come to the same twice.
fn rehearse_all(sources: &[(String, String)], tests: Option<(String, String)>, options: &LoadOptions<'_>) {
    match load_texts_with_tests(sources, tests.as_ref(), options) {
        Ok((loaded, tests)) => {
            let mut plan = loaded.plan;
            plan.state.lanes = plan.state.lanes.min(LANES_MAX);
            let plan = Arc::new(plan);
            for case in tests.iter().take(TESTS_MAX) {
                let told =
                    || serde_json::to_string(&rehearse(&plan, case).expect("it runs")).expect("it is plain data");
                assert_eq!(told(), told());
            }
        }
        Err(errors) => {
            let sources: Vec<_> = sources.iter().cloned().chain(tests).collect();
            check(&errors, &sources);
            assert!(errors.has_errors(), "{errors}");
        }
    }
}

fn check(told: &Diagnostics, sources: &[(String, String)]) {
    for one in &told.0 {
        let text = one.to_string();
        assert!(text.starts_with(&one.file) && !one.found.is_empty(), "{text}");
        match sources.iter().find(|(name, _)| *name == one.file) {
            Some((_, source)) => {
                // An error at the end of the text is told on the line behind the last one.
                let lines = source.split(['\n', '\r']).count() as u32;
                assert!(one.line <= lines, "{text}: of {lines} lines");
                assert!(one.line > 0 || one.column == 0, "{text}");
            }
            None => assert!(one.file.starts_with("--set ") && one.line as usize <= one.file.lines().count(), "{text}"),
        }
    }
}

/// What the pipeline builds of a plan before it touches anything.
fn build(plan: Plan) {
    let partition = PartitionId { input: 0, partition: 0 };
    let delta = PositionDelta { partition, from: 0, to: 1 };
    let record = RawRecord { payload: Some(0..2), ..RawRecord::default() };
    let raw = RawBatch { delta, bytes: b"{}".to_vec(), records: vec![record] };
    for stream in &plan.streams {
        let Ok(decoded) = Decoder::new(stream.decode.clone()).decode_with(&raw, None) else { continue };
        assert_eq!(decoded.consumed, decoded.num_rows() as u64 + decoded.filtered + decoded.rejected.len() as u64);
    }
    let cell = Arc::new(cell_spec(&plan, CellScope::WHOLE, &first_layout(&definition(&plan), KEY_GROUPS)));
    let partitions: Vec<PartitionId> =
        (0..plan.inputs.len()).map(|input| PartitionId { input: input as u16, partition: 0 }).collect();
    Router::new(routed_streams(&plan, &cell, &partitions), cell.lanes, 0);
    let history = feature_history(&cell, Arc::new(Mirror::new(1, &[], &[])));
    for number in 0..cell.lanes {
        Lane::new(number, cell.clone(), history.clone());
    }
}
