//! `conjoin demo`: made-up traffic through the whole of Conjoin, and what came out of it.
//!
//!   events with known truth ─> config/demo.yaml ─> samples, features ─> compared, looked up, ranked, shown
//!
//! In: nothing but options. Out: a report for people; exit code 1 if the samples are not what the truth says.
//! Does not: take a short cut: the pipeline, the server and the model are those that `conjoin run` starts.

mod client;
mod data;
mod pipeline;
mod report;
mod samples;
mod tryout;

use crate::cli::live::show_store_alone;
use crate::cli::run::init_logs;
use crate::cli::{EXIT_FAILED, eprint_text, print_text};
use crate::online::{OnlineWriter, WriterLimits};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(clap::Args, Debug)]
pub struct DemoArgs {
    /// Go on serving on 127.0.0.1:8080 (or LISTEN=ADDRESS:PORT) until a signal
    #[arg(long)]
    serve: bool,
    /// Items shown in all; more take longer
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    impressions: u64,
    /// Folder for samples and state; what an earlier demo left there is replaced
    #[arg(long, default_value = "out/demo")]
    dir: PathBuf,
    /// Folder for the events; kept, and used again with the same options
    #[arg(long, default_value = "data/demo")]
    data: PathBuf,
    /// The same seed gives the same events
    #[arg(long, default_value_t = 42)]
    seed: u64,
}

pub fn demo(args: &DemoArgs) -> ExitCode {
    init_logs("warn");
    match run(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_FAILED),
        Err(error) => {
            eprint_text(&format!("error: {error}"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Sections are set apart by an empty line.
fn section(text: &str) {
    print_text(&format!("\n{text}"));
}

/// Returns whether what came out is what the truth says.
fn run(args: &DemoArgs) -> Result<bool, String> {
    print_text("Conjoin demo: the impressions, clicks and conversions of a made-up shop");
    let plan = pipeline::plan(args)?;
    pipeline::clear(&args.dir)?;
    let data = data::prepare(args)?;
    section(&report::events(&data, &args.data));
    let demo = pipeline::Demo::start(args, plan)?;
    let ran = demo.run(data.records())?;
    section(&report::run(&ran));
    if demo.stop.requested() {
        return Ok(true);
    }
    section(&report::streams(&ran));
    let found = samples::read(&args.dir.join("samples"))?;
    let comparison = report::compare(&ran, &data.truth, &found);
    section(&report::samples(&ran, &found, &args.dir));
    section(&report::labels(&found));
    section(&comparison.text);
    let last = data::last_slate(&args.data)?;
    section(&tryout::features(&demo, &last)?);
    section(&tryout::ranking(&demo, &last)?);
    section(&report::further(args, demo.server.addr, &last, demo.no_model.is_none()));
    if args.serve {
        let pulse = OnlineWriter::start(demo.online.clone(), WriterLimits::default(), args.seed)
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        show_store_alone(&demo.board, pulse.stats());
        section(&format!("serving on http://{} until Ctrl-C", demo.server.addr));
        while !demo.stop.wait(Duration::from_secs(3600)) {}
    }
    Ok(comparison.equal)
}
