//! `conjoin check`: tells whether a pipeline file is right, without touching anything outside of it.

use crate::cli::{PipelineArgs, print_text};
use std::process::ExitCode;

#[derive(clap::Args, Debug)]
pub struct CheckArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
}

pub fn check(args: &CheckArgs) -> ExitCode {
    let (plan, tests) = match args.pipeline.load_with_tests() {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let many = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let tests = if tests.is_empty() { String::new() } else { format!(", {}", many(tests.len(), "test")) };
    print_text(&format!(
        "pipeline {} is fine: {}, {}, {}, {}{tests}",
        plan.pipeline,
        many(plan.streams.len(), "stream"),
        many(plan.groups.len(), "feature group"),
        many(plan.samples.len(), "sample"),
        many(plan.models.len(), "model"),
    ));
    ExitCode::SUCCESS
}
