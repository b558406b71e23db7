//! `conjoin serve`: answers over HTTP from the online store, without running the pipeline.
//!
//!   Redis store    read as it is; some `conjoin run` keeps it up to date
//!   memory store   filled once from the state that the last `conjoin run` left

use crate::cli::live::{Live, load_models, show_store_alone};
use crate::cli::run::{init_logs, stop_on_signals};
use crate::cli::{EXIT_FAILED, PipelineArgs, eprint_text};
use crate::config::Plan;
use crate::env::{Entropy, SystemClock, SystemEntropy};
use crate::event::EventTime;
use crate::online::{OnlineStore, OnlineWriter, StoreKind, WriterLimits};
use crate::pipeline::{Board, LoadedOnline, StopSignal, load_online};
use crate::telemetry::Telemetry;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

#[derive(clap::Args, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
}

/// How long the server sleeps between two looks at nothing; a signal wakes it.
const IDLE: Duration = Duration::from_secs(3600);

pub fn serve(args: &ServeArgs) -> ExitCode {
    init_logs("info");
    let plan = match args.pipeline.load() {
        Ok(plan) => Arc::new(plan),
        Err(code) => return code,
    };
    match start(plan) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint_text(&format!("error: {error}"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn start(plan: Arc<Plan>) -> Result<(), String> {
    let Some(listen) = plan.serve.as_ref().map(|serve| serve.listen) else {
        return Err("the pipeline file has no `serve:`; add `serve: { listen: 127.0.0.1:8080 }`".to_owned());
    };
    let models = load_models(&plan)?;
    let store = crate::online::open(&plan.online, &plan.pipeline, &plan.groups).map_err(|error| error.to_string())?;
    let loaded = match &plan.online.store {
        StoreKind::Memory => Some(load(&plan, store.as_ref())?),
        // Redis forgets rows by itself; how far the pipeline is by now, and what is warming, is not known here.
        StoreKind::Redis { .. } => None,
    };
    let stop = StopSignal::default();
    let signals = stop_on_signals(stop.clone()).map_err(|error| format!("cannot listen to signals: {error}"))?;
    // It writes nothing: it asks the store every two seconds whether it is there.
    let pulse = OnlineWriter::start(store.clone(), WriterLimits::default(), SystemEntropy.random_u64())
        .map_err(|error| format!("cannot start a thread: {error}"))?;
    let board = Board::default();
    show_store_alone(&board, pulse.stats());
    if let Some(loaded) = &loaded {
        board.update(|view| view.groups_since = loaded.groups_since.clone());
    }
    let instant = loaded.map(|loaded| loaded.instant);
    let live = Live {
        telemetry: Arc::new(Telemetry::new(&plan.pipeline)),
        clock: Arc::new(SystemClock::new()),
        instant: instant.map(|instant| Arc::new(move || instant) as Arc<dyn Fn() -> EventTime + Send + Sync>),
        plan,
        store,
        models,
        board,
    };
    let server = live.start(listen)?;
    while !stop.wait(IDLE) {}
    server.stop();
    signals.close();
    Ok(())
}

fn load(plan: &Plan, store: &dyn OnlineStore) -> Result<LoadedOnline, String> {
    match load_online(plan, store).map_err(|error| error.to_string())? {
        Some(loaded) => {
            let (entities, manifest) = (loaded.entities, loaded.manifest);
            tracing::info!(entities, manifest, instant_ms = loaded.instant, "features loaded from state");
            Ok(loaded)
        }
        None => Err(format!(
            "online.store is memory and {} holds no state to load it from; start `conjoin run` on this file first, \
             or name a Redis connection in online.store",
            plan.state.path
        )),
    }
}
