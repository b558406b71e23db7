//! Live: the HTTP server beside a pipeline, or alone.
//!
//!   plan ─> models (refused if missing or not matching) ─> server ─> pipeline connects, restores, runs
//!                                                            └ /readyz: what the board and the online writer say
//!
//! In: a plan, the online store, the board. Out: a running server that tells when it can be relied on.
//! Does not: know what a request is.

use crate::config::Plan;
use crate::env::{Clock, SystemClock, resident_bytes};
use crate::event::EventTime;
use crate::model::Model;
use crate::online::{OnlineStore, WriterSnapshot, WriterStats};
use crate::pipeline::{Board, Phase, RunView};
use crate::serve::{Readiness, ServeMetrics, ServeState, ServerHandle};
use crate::telemetry::{OnlineWrites, Telemetry};
use std::net::SocketAddr;
use std::sync::Arc;

/// Loads every model of the plan; the error says what to do.
pub fn load_models(plan: &Plan) -> Result<Vec<Arc<Model>>, String> {
    let load = |spec| Model::load(spec, &plan.groups).map(Arc::new).map_err(|error| error.to_string());
    let models: Vec<Arc<Model>> = plan.models.iter().map(load).collect::<Result<_, _>>()?;
    for model in &models {
        tracing::info!(model = model.name, version = model.version, sha256 = model.sha256, "loaded");
    }
    Ok(models)
}

/// What the server answers from and reports about.
pub struct Live {
    pub plan: Arc<Plan>,
    pub store: Arc<dyn OnlineStore>,
    pub models: Vec<Arc<Model>>,
    pub telemetry: Arc<Telemetry>,
    pub clock: Arc<SystemClock>,
    pub board: Board,
    /// The instant as of which features are current; without it no row is ever called outdated.
    pub instant: Option<Arc<dyn Fn() -> EventTime + Send + Sync>>,
}

impl Live {
    pub fn start(self, listen: SocketAddr) -> Result<ServerHandle, String> {
        let (board, clock, telemetry) = (self.board.clone(), self.clock, self.telemetry.clone());
        let shown = self.board.clone();
        let state = ServeState {
            plan: self.plan,
            store: self.store,
            models: self.models,
            metrics_text: Arc::new(move || metrics_text(&telemetry, &board.view())),
            ready: Arc::new(move || readiness(&self.board.view())),
            online_instant: self.instant,
            groups_since: Arc::new(move || shown.groups_since()),
            monotonic_us: Arc::new(move || clock.monotonic_us()),
            requests: Arc::new(ServeMetrics::telling(self.telemetry)),
        };
        crate::serve::start(listen, state).map_err(|error| error.to_string())
    }
}

/// The instant that the board shows; before a run has one, no row is outdated.
pub fn board_instant(board: &Board) -> Arc<dyn Fn() -> EventTime + Send + Sync> {
    let board = board.clone();
    Arc::new(move || board.online_instant().unwrap_or(EventTime::MIN))
}

/// Makes a board say what there is to say when no pipeline runs: only whether the store answers.
pub fn show_store_alone(board: &Board, stats: Arc<WriterStats>) {
    board.update(|view| {
        view.phase = Phase::Ended;
        view.online = Some(stats);
    });
}

/// Whether requests should be sent here, with every reason against it.
pub fn readiness(view: &RunView) -> Readiness {
    let mut reasons = Vec::new();
    match view.phase {
        Phase::Starting => reasons.push("the pipeline is starting".to_owned()),
        Phase::Connecting => reasons.push("the sources are not connected yet".to_owned()),
        Phase::Restoring => reasons.push("state is being restored".to_owned()),
        Phase::Running | Phase::Ended => {}
    }
    if let Some(problem) = view.connection_problem.as_ref().filter(|_| view.phase != Phase::Ended) {
        reasons.push(problem.clone());
    }
    if let Some(online) = view.online.as_ref().map(|stats| stats.snapshot()).filter(|online| !online.ready) {
        let WriterSnapshot { last_error, backlog_entities, .. } = online;
        reasons.push(match last_error {
            Some(error) => format!("the online store does not answer ({backlog_entities} entities wait): {error}"),
            None => "the online store has not answered yet".to_owned(),
        });
    }
    Readiness { ready: reasons.is_empty(), reasons }
}

/// The text of `/metrics`, with what is only known at the edges.
fn metrics_text(telemetry: &Telemetry, view: &RunView) -> String {
    telemetry.ready(readiness(view).ready);
    if let Some(online) = view.online.as_ref().map(|stats| stats.snapshot()) {
        let WriterSnapshot { written, stale, refused, .. } = online;
        telemetry.online_writes(&OnlineWrites { written, stale, refused });
        telemetry.online_backlog(online.backlog_entities as usize);
        telemetry.online_losses(online.losses);
        let problem = online.last_error.unwrap_or_else(|| "no answer yet".to_owned());
        telemetry.connection("online", (!online.ready).then_some(&problem as &dyn std::fmt::Display));
    }
    if let Some(bytes) = resident_bytes() {
        telemetry.memory_resident(bytes);
    }
    telemetry.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_is_ready_when_it_runs_and_every_connection_answers() {
        let mut view = RunView::default();
        for (phase, reason) in [(Phase::Connecting, "sources"), (Phase::Restoring, "restored")] {
            view.phase = phase;
            let found = readiness(&view);
            assert!(!found.ready && found.reasons[0].contains(reason), "{found:?}");
        }
        view.phase = Phase::Running;
        assert!(readiness(&view).ready);
        view.connection_problem = Some("Kafka (localhost:9092) does not answer".to_owned());
        assert_eq!(readiness(&view).reasons, ["Kafka (localhost:9092) does not answer"]);
        view.connection_problem = None;
        view.online = Some(Arc::default());
        assert_eq!(readiness(&view).reasons, ["the online store has not answered yet"]);
    }
}
