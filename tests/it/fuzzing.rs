//! Fuzzing: what the fuzz targets start from and what they have found goes through the same functions in every test run.

#[path = "../../fuzz/entry/mod.rs"]
mod entry;

use entry::{TARGETS, target};
use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Every input of a target with its name, seeds first.
fn inputs(name: &str) -> Vec<(String, Vec<u8>)> {
    let seeds = (target(name).seeds)().into_iter().enumerate();
    let mut inputs: Vec<(String, Vec<u8>)> = seeds.map(|(number, seed)| (format!("seed {number}"), seed)).collect();
    let folder = repository("fuzz/corpus").join(name);
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    inputs.extend(paths.into_iter().map(|path| (path.display().to_string(), fs::read(path).unwrap())));
    inputs
}

fn run_all(name: &str) {
    let inputs = inputs(name);
    let failed: Vec<&str> = inputs
        .iter()
        .filter(|(_, bytes)| catch_unwind(AssertUnwindSafe(|| (target(name).run)(bytes))).is_err())
        .map(|(input, _)| input.as_str())
        .collect();
    assert!(failed.is_empty(), "of {} inputs of {name}, these failed:\n  {}", inputs.len(), failed.join("\n  "));
}

#[test]
fn no_record_and_no_order_of_steps_breaks_a_cell() {
    run_all("cell");
}

#[test]
fn any_text_is_a_plan_or_told_wrong_where_it_is_wrong() {
    run_all("config");
}

#[test]
fn any_bytes_are_rows_or_rejects_that_add_up() {
    run_all("decode");
}

#[test]
fn any_file_gives_its_lines_or_an_error() {
    run_all("files");
}

#[test]
fn any_body_is_answered_in_the_server_s_own_words() {
    run_all("http");
}

#[test]
fn any_dead_letter_file_is_read_or_refused() {
    run_all("letters");
}

#[test]
fn any_manifest_is_refused_or_gone_on_from() {
    run_all("manifest");
}

#[test]
fn a_run_over_any_manifest_ends_without_a_panic() {
    run_all("start");
}

#[test]
fn any_state_behind_right_sums_is_refused_or_gone_on_from() {
    run_all("state");
}

#[test]
fn every_target_is_built_documented_and_has_a_corpus() {
    let known: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_string()).collect();
    let manifest = fs::read_to_string(repository("fuzz/Cargo.toml")).unwrap();
    let bins = manifest.split("[[bin]]").skip(1).filter_map(|bin| bin.split('"').nth(1));
    assert_eq!(bins.map(String::from).collect::<BTreeSet<_>>(), known);
    let documented = fs::read_to_string(repository("docs/FUZZING.md")).unwrap();
    let rows = documented.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    assert!(known.is_subset(&rows.map(String::from).collect()), "docs/FUZZING.md has a row for each of {known:?}");
    let folders = fs::read_dir(repository("fuzz/corpus")).unwrap();
    let folders = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(folders.collect::<BTreeSet<_>>(), known);
}
