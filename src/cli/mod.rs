//! Cli: the commands, what they print, and the codes they exit with.
//!
//! In: arguments, environment, signals. Out: an exit code, see `EXIT_CODES`.
//! Does not: hold any logic of its own about samples, features or state.

mod advise;
mod check;
mod dead_letters;
mod demo;
pub mod generate;
mod inspect;
mod live;
mod repartition;
mod rescale;
mod run;
mod schema;
mod serve;
mod table;
mod test;
mod verify;

use crate::config::{self, Diagnostics, LoadOptions, Loaded, Plan, TestCase};
use clap::{Parser, Subcommand};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Joins impressions with clicks and labels, computes features in real time, writes training samples, and scores.
#[derive(Parser, Debug)]
#[command(name = "conjoin", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a pipeline until its inputs end or it is told to stop
    Run(run::RunArgs),
    /// Answer over HTTP from the online store, or from the state that a run has left
    Serve(serve::ServeArgs),
    /// Show the whole of it on made-up traffic
    Demo(demo::DemoArgs),
    /// Write a synthetic event log whose truth is known
    Gen(generate::GenOptions),
    /// Check a pipeline file and tell everything that is wrong with it
    Check(check::CheckArgs),
    Advise(advise::AdviseArgs),
    Test(test::TestArgs),
    Schema(schema::SchemaArgs),
    Inspect(inspect::InspectArgs),
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLettersCommand),
    Verify(verify::VerifyArgs),
    Repartition(repartition::RepartitionArgs),
    Rescale(rescale::RescaleArgs),
}

/// Which pipeline, and what is laid over it.
#[derive(clap::Args, Clone, Debug)]
pub struct PipelineArgs {
    /// The pipeline file
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// A file laid over the pipeline file; may be given several times
    #[arg(long)]
    overlay: Vec<PathBuf>,
    /// One value laid over everything, such as state.path=/data
    #[arg(long = "set", value_name = "PATH=VALUE")]
    sets: Vec<String>,
}

impl PipelineArgs {
    /// Loads the plan; on errors prints them all and gives the exit code.
    fn load(&self) -> Result<Plan, ExitCode> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let loaded = config::load(&self.files, &self.options(cores));
        told(loaded.map(|loaded| (loaded, ()))).map(|(plan, ())| plan)
    }

    /// The same with the tests of the pipeline, whose outcome is not to depend on the machine.
    fn load_with_tests(&self) -> Result<(Plan, Vec<TestCase>), ExitCode> {
        told(config::load_with_tests(&self.files, &self.options(1)))
    }

    fn options(&self, cores: usize) -> LoadOptions<'_> {
        LoadOptions { overlays: &self.overlay, sets: &self.sets, env: &|name| std::env::var(name).ok(), cores }
    }
}

fn told<T>(loaded: Result<(Loaded, T), Diagnostics>) -> Result<(Plan, T), ExitCode> {
    match loaded {
        Ok((Loaded { plan, warnings }, more)) => {
            if !warnings.0.is_empty() {
                eprint_text(&warnings.to_string());
            }
            Ok((plan, more))
        }
        Err(diagnostics) => {
            eprint_text(&diagnostics.to_string());
            Err(ExitCode::from(EXIT_USAGE))
        }
    }
}

const EXIT_CODES: &str = "\
Exit codes:
  0    done, or stopped in order by SIGINT or SIGTERM after a last commit
  1    failed: the last line says why and what to do; the next start goes on from the last commit
  2    wrong arguments or a wrong pipeline file; nothing was started
  130  stopped at once by a second SIGINT (143: SIGTERM)

Environment:
  RUST_LOG         how much is logged to standard error (default: info)
  CONJOIN_LOG      json: one JSON object per line of log
  ORT_DYLIB_PATH   ONNX Runtime's shared library, 1.20 or newer; needed where a model serves";

const EXIT_FAILED: u8 = 1;
const EXIT_USAGE: u8 = 2;

/// Parses the arguments and does what they say.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Serve(args) => serve::serve(&args),
        Command::Demo(args) => demo::demo(&args),
        Command::Gen(options) => generate_events(&options),
        Command::Check(args) => check::check(&args),
        Command::Advise(args) => advise::advise(&args),
        Command::Test(args) => test::test(&args),
        Command::Schema(args) => schema::schema(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::DeadLetters(command) => dead_letters::dead_letters(&command),
        Command::Verify(args) => verify::verify(&args),
        Command::Repartition(args) => repartition::repartition(&args),
        Command::Rescale(args) => rescale::rescale(&args),
    }
}

/// A line for people, where logs go.
#[expect(clippy::disallowed_macros, reason = "the command line speaks to people here, and nowhere else")]
fn eprint_text(text: &str) {
    eprintln!("{}", text.trim_end());
}

/// A line for people or pipes.
fn print_text(text: &str) {
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        Ok(()) => {}
        // Whoever reads has seen enough, as in `conjoin inspect FILE | head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        Err(error) => eprint_text(&format!("error: standard output: {error}")),
    }
}

fn generate_events(options: &generate::GenOptions) -> ExitCode {
    match generate::generate(options) {
        Ok(summary) => {
            print_text(&format!("{summary:#?}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprint_text(&format!("error: {error}"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}
