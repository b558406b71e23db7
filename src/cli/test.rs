//! `conjoin test`: runs the tests of a pipeline in memory, and shows what differs.

use crate::audit::{ComparedColumn, ProblemKind, TestOutcome, TestProblem, rehearse};
use crate::cli::table::terminal_safe;
use crate::cli::{EXIT_FAILED, EXIT_USAGE, PipelineArgs, eprint_text, print_text};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Run the tests of a pipeline file, in memory
///
/// Tests stand under `tests:` in the pipeline file, or in NAME.test.yaml beside NAME.yaml: records that arrive, and the
/// samples, features, dead letters and counts that are to come of them. They run through the code of `conjoin run`; nothing
/// is connected, read or written. Exits with 1 if a test fails.
#[derive(clap::Args, Debug)]
pub struct TestArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Only tests whose name holds this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Print one JSON object; its keys are stable
    #[arg(long)]
    json: bool,
}

pub fn test(args: &TestArgs) -> ExitCode {
    if let Some((tests, pipeline)) = args.pipeline.files.iter().find_map(|path| Some((path, tested(path)?))) {
        let (tests, pipeline) = (tests.display(), pipeline.display());
        eprint_text(&format!("error: {tests} is a file of tests: name the pipeline file, {pipeline}, which finds it"));
        return ExitCode::from(EXIT_USAGE);
    }
    let (plan, tests) = match args.pipeline.load_with_tests() {
        Ok((plan, tests)) => (Arc::new(plan), tests),
        Err(code) => return code,
    };
    if tests.is_empty() {
        let name = args.pipeline.files.first().map(|path| path.display().to_string()).unwrap_or_default();
        let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
        eprint_text(&format!("error: no tests: write them under `tests:` in {name}, or in {stem}.test.yaml beside it"));
        return ExitCode::from(EXIT_USAGE);
    }
    let chosen = |name: &str| args.only.is_empty() || args.only.iter().any(|part| name.contains(part.as_str()));
    let chosen: Vec<_> = tests.iter().filter(|case| chosen(&case.name)).collect();
    if chosen.is_empty() {
        let names: Vec<String> =
            tests.iter().map(|case| format!("\n  {}", terminal_safe(case.name.as_bytes()))).collect();
        eprint_text(&format!("error: --only chooses none of these tests:{}", names.concat()));
        return ExitCode::from(EXIT_USAGE);
    }
    let mut outcomes = Vec::new();
    for case in chosen {
        match rehearse(&plan, case) {
            Ok(outcome) => {
                if !args.json {
                    print_text(&outcome_text(&outcome));
                }
                outcomes.push(outcome);
            }
            Err(error) => {
                eprint_text(&format!("error: {}: {error}", case.place));
                return ExitCode::from(EXIT_FAILED);
            }
        }
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.passed).count();
    print_text(&match args.json {
        true => serde_json::json!({
            "pipeline": plan.pipeline,
            "passed": outcomes.len() - failed,
            "failed": failed,
            "tests": outcomes,
        })
        .to_string(),
        false => summary(&plan.pipeline, outcomes.len(), failed),
    });
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) }
}

/// The pipeline file that a file of tests stands beside.
fn tested(path: &Path) -> Option<PathBuf> {
    let stem = path.file_stem()?.to_str()?.strip_suffix(".test")?;
    Some(path.with_file_name(stem).with_extension(path.extension()?)).filter(|pipeline| pipeline.exists())
}

fn summary(pipeline: &str, all: usize, failed: usize) -> String {
    let tests = if all == 1 { "1 test".to_string() } else { format!("{all} tests") };
    match failed {
        0 => format!("\npipeline {pipeline}: {tests} passed"),
        failed => format!("\npipeline {pipeline}: {failed} of {tests} FAILED (- expected, + found)"),
    }
}

fn outcome_text(outcome: &TestOutcome) -> String {
    let name = terminal_safe(outcome.name.as_bytes());
    if outcome.passed {
        return format!("ok    {name}");
    }
    let mut text = format!("FAIL  {name}\n      {}:{}", outcome.file, outcome.line);
    for problem in &outcome.problems {
        text += &problem_text(problem);
    }
    text
}

fn problem_text(problem: &TestProblem) -> String {
    let place = match (&problem.file, problem.line) {
        (Some(file), Some(line)) => format!("{file}:{line}: "),
        _ => String::new(),
    };
    let what = match problem.kind {
        ProblemKind::Different => "not as expected",
        ProblemKind::Missing => "missing",
        ProblemKind::Unexpected => "not expected",
    };
    let mut text = format!("\n\n      {place}{}: {what}", problem.about);
    let width = problem.columns.iter().map(|column| column.column.chars().count()).max().unwrap_or(0);
    let mut line = |sign: char, column: &ComparedColumn, value: &Option<String>| {
        if let Some(value) = value {
            let value = terminal_safe(value.as_bytes());
            text += &format!("\n      {sign} {:<width$}  {value}", column.column);
        }
    };
    for column in &problem.columns {
        match column.equal {
            true => line(if problem.kind == ProblemKind::Different { ' ' } else { '-' }, column, &column.expected),
            false => {
                line('-', column, &column.expected);
                line('+', column, &column.found);
            }
        }
    }
    text
}
