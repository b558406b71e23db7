//! `conjoin run`: runs a pipeline, shows how it goes, and stops in order on SIGINT and SIGTERM.
//!
//! With `serve:` in the pipeline file the HTTP server is up before the pipeline connects, and goes down with it.

use crate::cli::live::{Live, board_instant, load_models, show_store_alone};
use crate::cli::{EXIT_FAILED, EXIT_USAGE, PipelineArgs, eprint_text, print_text};
use crate::config::Plan;
use crate::env::{Entropy, SystemClock, SystemEntropy};
use crate::online::{OnlineWriter, WriterLimits};
use crate::pipeline::{
    Board, RunOptions, RunSummary, RunView, StateMemoryLimit, StopSignal, World, run as run_pipeline, run_group,
};
use crate::telemetry::{RunMoment, Telemetry, status_line};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

#[derive(clap::Args, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Stop at the end that the Kafka topics have now
    #[arg(long)]
    until_end: bool,
    /// With --until-end, close what is pending
    #[arg(long, requires = "until_end")]
    close: bool,
    /// Forget all state and start anew; files already published stay
    #[arg(long)]
    fresh: bool,
    /// Forget the state of one node, such as joins.ctr, features.user or streams.clicks; the log says what is lost.
    /// May be given several times
    #[arg(long, value_name = "NODE", conflicts_with = "fresh")]
    reset: Vec<String>,
    /// With `serve:` in the pipeline file, go on serving after the inputs have ended, until a signal
    #[arg(long)]
    keep_serving: bool,
    /// Print how the run went as one line of JSON at its end
    #[arg(long)]
    json: bool,
}

/// How often the status line is printed: in place on a terminal, as a line otherwise.
pub const STATUS_EVERY: Duration = Duration::from_secs(1);
pub const STATUS_LINE_EVERY: Duration = Duration::from_secs(10);

pub fn run(args: &RunArgs) -> ExitCode {
    init_logs("info");
    let plan = match args.pipeline.load() {
        Ok(plan) => Arc::new(plan),
        Err(code) => return code,
    };
    let options = RunOptions {
        until_end: args.until_end,
        close: args.close,
        fresh: args.fresh,
        resets: args.reset.iter().cloned().collect(),
        ..RunOptions::default()
    };
    if plan.group_mode.is_some() && (args.until_end || args.json) {
        eprint_text("error: in group mode a process runs until it is told to stop: leave out --until-end and --json");
        return ExitCode::from(EXIT_USAGE);
    }
    if args.keep_serving && plan.serve.is_none() {
        eprint_text(
            "error: --keep-serving needs `serve:` in the pipeline file, such as `serve: { listen: 127.0.0.1:8080 }`",
        );
        return ExitCode::from(EXIT_USAGE);
    }
    match start(plan, options, args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint_text(&format!("error: {error}"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Logs go to standard error; `RUST_LOG` chooses how much, else `level`, `CONJOIN_LOG=json` the shape.
pub fn init_logs(level: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into());
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second call in one process finds a subscriber set: the first one stays.
    let _ = match std::env::var("CONJOIN_LOG").as_deref() {
        Ok("json") => logs.json().try_init(),
        _ => logs.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
}

fn start(plan: Arc<Plan>, options: RunOptions, args: &RunArgs) -> Result<(), String> {
    let models = plan.serve.as_ref().map(|_| load_models(&plan)).transpose()?;
    let online = crate::online::open(&plan.online, &plan.pipeline, &plan.groups).map_err(|error| error.to_string())?;
    let (clock, telemetry) = (Arc::new(SystemClock::new()), Arc::new(Telemetry::new(&plan.pipeline)));
    let (board, stop) = (Board::default(), StopSignal::default());
    let server = match (&plan.serve, models) {
        (Some(serve), Some(models)) => {
            let (plan, store) = (plan.clone(), online.clone());
            let (clock, telemetry, board) = (clock.clone(), telemetry.clone(), board.clone());
            let instant = Some(board_instant(&board));
            Some(Live { plan, store, models, telemetry, clock, board, instant }.start(serve.listen)?)
        }
        _ => None,
    };
    let world = World {
        clock,
        entropy: Arc::new(SystemEntropy),
        online: online.clone(),
        telemetry,
        board: board.clone(),
        stop: stop.clone(),
        exchange: None,
        memory: StateMemoryLimit::new(plan.state.memory_bytes),
        dimensions: None,
    };
    let signals = stop_on_signals(stop.clone()).map_err(|error| format!("cannot listen to signals: {error}"))?;
    let status = Status::start(board.clone());
    if plan.group_mode.is_some() {
        let result = run_group(plan, options, world);
        status.stop();
        drop(server);
        signals.close();
        return result.map_err(|error| error.to_string());
    }
    let result = run_pipeline(plan, options, world);
    status.stop();
    if let Ok(summary) = &result {
        report(summary, args.json);
        if let Some(server) = server.as_ref().filter(|_| args.keep_serving && !stop.requested()) {
            tracing::info!(addr = %server.addr, "the inputs have ended; serving until a signal comes");
            let pulse = OnlineWriter::start(online, WriterLimits::default(), SystemEntropy.random_u64())
                .map_err(|error| format!("cannot start a thread: {error}"))?;
            show_store_alone(&board, pulse.stats());
            while !stop.wait(Duration::from_secs(3600)) {}
        }
    }
    drop(server);
    signals.close();
    result.map(drop).map_err(|error| error.to_string())
}

/// The first SIGINT or SIGTERM stops in order; the second one at once.
#[expect(clippy::disallowed_methods, reason = "the second signal must end the process whatever its threads do")]
pub fn stop_on_signals(stop: StopSignal) -> std::io::Result<signal_hook::iterator::Handle> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let handle = signals.handle();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if stop.requested() {
                eprint_text("stopping at once: what was not committed is read again at the next start");
                std::process::exit(128 + signal);
            }
            eprint_text("stopping in order: what is under way is finished (a second signal stops at once)");
            stop.request();
        }
    })?;
    Ok(handle)
}

/// The thread that prints the status line.
pub struct Status {
    stop: StopSignal,
    thread: std::thread::JoinHandle<()>,
}

impl Status {
    pub fn start(board: Board) -> Status {
        let (stop, watched) = (StopSignal::default(), StopSignal::default());
        let signal = stop.clone();
        drop(watched);
        let terminal = std::io::stderr().is_terminal();
        let every = if terminal { STATUS_EVERY } else { STATUS_LINE_EVERY };
        let thread = std::thread::spawn(move || {
            let mut before = moment(&board.view());
            while !signal.wait(every) {
                let now = moment(&board.view());
                let line = status_line(&before, &now);
                if terminal {
                    rewrite(&line)
                } else {
                    eprint_text(&line)
                }
                before = now;
            }
            if terminal {
                rewrite("");
            }
        });
        Status { stop, thread }
    }

    pub fn stop(self) {
        self.stop.request();
        // The thread only prints; a panic in it has been shown by then.
        let _ = self.thread.join();
    }
}

#[expect(clippy::disallowed_macros, reason = "the status line is rewritten in place")]
pub fn rewrite(line: &str) {
    eprint!("\r\x1b[2K{line}");
}

/// The board as the status line wants it.
pub fn moment(view: &RunView) -> RunMoment {
    let anchors = view.counts.samples.iter().map(|sample| sample.anchor);
    let attached: u64 =
        view.counts.samples.iter().filter_map(|sample| sample.labels.first()).map(|label| label.attached).sum();
    RunMoment {
        elapsed_ms: view.now_ms.saturating_sub(view.started_ms),
        events: view.records_this_run,
        pending: anchors.clone().map(|anchor| anchor.pending).sum(),
        emitted: anchors.clone().map(|anchor| anchor.emitted).sum(),
        joined: Some(attached),
        late: anchors.map(|anchor| anchor.late).sum(),
        dead_letters: view.dead_letters,
        behind_ms: None,
        commit: Some(view.commit_number),
    }
}

fn report(summary: &RunSummary, json: bool) {
    let view = &summary.view;
    let seconds = view.now_ms.saturating_sub(view.started_ms) as f64 / 1e3;
    if json {
        let line = serde_json::json!({
            "records": view.records_this_run,
            "seconds": seconds,
            "commits": view.commits_this_run,
            "restored_rows": view.restored_rows,
            "restored_ms": view.restored_ms,
            "streams": view.streams.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "counts": view.counts,
            "totals": view.totals,
            "online_instant": view.online_instant,
            "manifest": summary.head,
            "violations": crate::event::violations(),
        });
        print_text(&line.to_string());
        return;
    }
    if view.records_this_run == 0 {
        print_text("nothing new: every record of the inputs was processed by an earlier run (--fresh starts anew)");
    }
    for (name, account) in &view.streams {
        print_text(&format!(
            "{name:<16} {:>12} rows = {} accepted + {} filtered + {} dead letters",
            account.consumed, account.accepted, account.filtered, account.dead_lettered
        ));
    }
    print_text(&format!(
        "{} records in {seconds:.1} s, {} samples in {} files, {} commits",
        view.records_this_run, view.totals.file_rows, view.totals.files, view.commits_this_run
    ));
    if summary.online_left > 0 {
        print_text(&format!("{} feature rows did not reach the online store", summary.online_left));
    }
}
