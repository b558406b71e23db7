//! Pipeline: config/demo.yaml as `conjoin run` would run it, with the server beside it and a bar above it.

use crate::cli::demo::DemoArgs;
use crate::cli::live::{Live, board_instant, load_models};
use crate::cli::run::stop_on_signals;
use crate::config::{LoadOptions, Plan, load_texts};
use crate::env::{Clock, SystemClock, SystemEntropy};
use crate::online::OnlineStore;
use crate::pipeline::{Board, RunOptions, RunSummary, StopSignal, World, run};
use crate::serve::ServerHandle;
use crate::telemetry::{Telemetry, exact_count, human_count};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fs;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub const FILE: &str = "config/demo.yaml";
const TEXT: &str = include_str!("../../../config/demo.yaml");
/// Shows that a folder is a demo's, and may be cleared by the next one.
const MARKER: &str = ".conjoin-demo";

/// The demo's plan, with its folders where the options want them.
pub fn plan(args: &DemoArgs) -> Result<Arc<Plan>, String> {
    let data =
        |stream: &str| format!("streams.{stream}.file.path={}", args.data.join(format!("{stream}.ndjson")).display());
    let mut sets = vec![
        format!("samples.ctr.write.parquet.path={}", args.dir.join("samples").display()),
        format!("state.path={}", args.dir.join("state").display()),
    ];
    sets.extend(["impressions", "clicks", "conversions"].map(data));
    let options = LoadOptions {
        overlays: &[],
        sets: &sets,
        env: &|name| std::env::var(name).ok(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
    };
    let loaded = load_texts(&[(FILE.to_owned(), TEXT.to_owned())], &options).map_err(|errors| errors.to_string())?;
    Ok(Arc::new(loaded.plan))
}

/// Removes what an earlier demo left; a folder that is not a demo's is left alone.
pub fn clear(folder: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot clear {}: {error}", folder.display());
    let ours = folder.join(MARKER).exists();
    for name in ["samples", "state"] {
        let path = folder.join(name);
        if !path.exists() {
            continue;
        }
        if !ours {
            return Err(format!("{} exists and no demo made it: choose another folder with --dir", path.display()));
        }
        fs::remove_dir_all(&path).map_err(failed)?;
    }
    fs::create_dir_all(folder).map_err(failed)?;
    fs::write(folder.join(MARKER), "A folder of `conjoin demo`: the next demo replaces what is in it.\n")
        .map_err(failed)
}

/// The demo, from its server's start to its end.
pub struct Demo {
    pub plan: Arc<Plan>,
    pub board: Board,
    pub stop: StopSignal,
    pub online: Arc<dyn OnlineStore>,
    pub server: ServerHandle,
    pub clock: Arc<SystemClock>,
    /// Why nothing is scored.
    pub no_model: Option<String>,
    telemetry: Arc<Telemetry>,
}

/// How the pipeline ran.
pub struct Ran {
    pub plan: Arc<Plan>,
    pub summary: RunSummary,
    pub wall_ms: u64,
}

impl Demo {
    /// Loads the model if that is possible, and starts the server.
    pub fn start(args: &DemoArgs, plan: Arc<Plan>) -> Result<Demo, String> {
        let (models, no_model) = match load_models(&plan) {
            Ok(models) => (models, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let online =
            crate::online::open(&plan.online, &plan.pipeline, &plan.groups).map_err(|error| error.to_string())?;
        let (clock, board) = (Arc::new(SystemClock::new()), Board::default());
        let telemetry = Arc::new(Telemetry::new(&plan.pipeline));
        let listen = match plan.serve.as_ref().filter(|_| args.serve) {
            Some(serve) => serve.listen,
            None => SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let live = Live {
            plan: plan.clone(),
            store: online.clone(),
            models,
            telemetry: telemetry.clone(),
            clock: clock.clone(),
            instant: Some(board_instant(&board)),
            board: board.clone(),
        };
        let server = live.start(listen)?;
        Ok(Demo { plan, board, stop: StopSignal::default(), online, server, clock, no_model, telemetry })
    }

    /// Runs the pipeline over all `records`.
    pub fn run(&self, records: u64) -> Result<Ran, String> {
        let signals =
            stop_on_signals(self.stop.clone()).map_err(|error| format!("cannot listen to signals: {error}"))?;
        let world = World {
            clock: self.clock.clone(),
            entropy: Arc::new(SystemEntropy),
            online: self.online.clone(),
            telemetry: self.telemetry.clone(),
            board: self.board.clone(),
            stop: self.stop.clone(),
            exchange: None,
            dimensions: None,
        };
        let progress = Progress::start(self.board.clone(), records);
        let since = self.clock.monotonic_ms();
        let result = run(self.plan.clone(), RunOptions { fresh: true, ..RunOptions::default() }, world);
        let wall_ms = self.clock.monotonic_ms() - since;
        progress.finish();
        // Left to run when the server goes on: Ctrl-C ends that.
        drop(signals);
        Ok(Ran { plan: self.plan.clone(), summary: result.map_err(|error| error.to_string())?, wall_ms })
    }
}

const BAR_EVERY: Duration = Duration::from_millis(100);
const LINE_EVERY: Duration = Duration::from_secs(2);

/// The thread that draws the bar; where there is no terminal, it prints a line now and then.
struct Progress {
    stop: StopSignal,
    thread: std::thread::JoinHandle<()>,
}

impl Progress {
    fn start(board: Board, records: u64) -> Progress {
        let stop = StopSignal::default();
        let ended = stop.clone();
        let terminal = std::io::stderr().is_terminal();
        let draw = move || {
            let bar = ProgressBar::with_draw_target(Some(records), ProgressDrawTarget::stderr());
            bar.set_style(
                ProgressStyle::with_template("  {bar:40} {percent:>3} %  {msg}")
                    .expect("the template is right")
                    .progress_chars("━╸─"),
            );
            while !ended.wait(if terminal { BAR_EVERY } else { LINE_EVERY }) {
                let view = board.view();
                let (read, ms) = (view.records_this_run, view.now_ms.saturating_sub(view.started_ms).max(1));
                let rate = human_count(read * 1000 / ms);
                if terminal {
                    bar.set_position(read);
                    bar.set_message(match read < records {
                        true => format!("{rate} records/s"),
                        false => "all read: windows close, files are published".to_owned(),
                    });
                } else {
                    super::eprint_text(&format!(
                        "  {:>3} %  {} of {} records, {rate} records/s",
                        read * 100 / records.max(1),
                        exact_count(read),
                        exact_count(records)
                    ));
                }
            }
            bar.finish_and_clear();
        };
        Progress { stop, thread: std::thread::spawn(draw) }
    }

    fn finish(self) {
        self.stop.request();
        // The thread only prints; a panic in it has been shown by then.
        let _ = self.thread.join();
    }
}
