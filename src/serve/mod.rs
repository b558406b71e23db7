//! Serve: answers feature look-ups and ranking requests over HTTP, beside the pipeline or alone.
//!
//!   client ──HTTP──> [2 async workers] ──> blocking thread: parse, one store read, one model run ──> answer
//!
//! In: `POST /v1/features`, `POST /v1/rank`, `GET /healthz`, `/readyz`, `/metrics`. Out: JSON; errors are
//! `{"error": {"code", "message", "help"}}`.
//! Holds: bodies, rows and requests under way are bounded, and what is beyond is turned away at once; the server has
//! threads of its own, so that a flood of requests leaves the pipeline's alone; it listens on the loopback only, as
//! long as it cannot tell its clients apart.
//! Does not: read a clock, decide what ready means, know Redis.

mod error;
mod features;
mod metrics;
mod rank;
mod request;

pub use metrics::{LATENCY_BUCKETS_US, Route, RouteSnapshot, ServeMetrics, ServeSnapshot};

use crate::config::Plan;
use crate::event::EventTime;
use crate::model::Model;
use crate::online::{OnlineStore, ttl_ms};
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use error::ApiError;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// Candidates of a ranking request, and rows of a feature look-up.
pub const ROWS_MAX: usize = 10_000;
/// Rows times features of a look-up.
pub const VALUES_MAX: usize = 1_000_000;
pub const BODY_BYTES_MAX: usize = 4 << 20;
/// Requests under way; further ones are answered 503 at once.
pub const REQUESTS_MAX: usize = 256;

const ASYNC_THREADS: usize = 2;
const BLOCKING_THREADS_MAX: usize = 8;
/// How long requests under way may take to finish once the server is told to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// What the server answers from.
#[derive(Clone)]
pub struct ServeState {
    pub plan: Arc<Plan>,
    pub store: Arc<dyn OnlineStore>,
    pub models: Vec<Arc<Model>>,
    /// The text of `/metrics`.
    pub metrics_text: Arc<dyn Fn() -> String + Send + Sync>,
    pub ready: Arc<dyn Fn() -> Readiness + Send + Sync>,
    /// The instant as of which features are current; rows that the store should have dropped by then are outdated.
    /// Without it, no row is.
    pub online_instant: Option<Arc<dyn Fn() -> EventTime + Send + Sync>>,
    /// Since when each feature group of the plan misses nothing; none is warming where it is not told.
    pub groups_since: Arc<dyn Fn() -> Arc<[EventTime]> + Send + Sync>,
    /// A clock that never goes back, in microseconds, for latencies.
    pub monotonic_us: Arc<dyn Fn() -> u64 + Send + Sync>,
    pub requests: Arc<ServeMetrics>,
}

impl ServeState {
    /// Rows of the group from before it are outdated: older than the store would keep them, or than the group itself.
    fn oldest_current(&self, group: usize) -> EventTime {
        let kept = match &self.online_instant {
            Some(instant) => instant().saturating_sub(ttl_ms(&self.plan.groups[group])),
            None => EventTime::MIN,
        };
        (self.groups_since)().get(group).copied().unwrap_or(EventTime::MIN).max(kept)
    }

    /// When the feature will be full, while it is not.
    fn full_from(&self, group: usize, output: usize) -> Option<EventTime> {
        let since = *(self.groups_since)().get(group).filter(|since| **since > EventTime::MIN)?;
        let full = *self.plan.groups[group].full_from(since).get(output)?;
        self.online_instant.as_ref().is_none_or(|instant| instant() < full).then_some(full)
    }
}

/// Whether requests should be sent here, and why not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    pub ready: bool,
    pub reasons: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(
        "serve.listen: {0} is reachable from other machines, and the server cannot authenticate clients yet; \
         listen on 127.0.0.1 and put a proxy that does in front of it"
    )]
    NotLoopback(SocketAddr),
    #[error("serve.listen: {0} is taken by another program; stop it or choose another port (0 takes any free one)")]
    InUse(SocketAddr),
    #[error("serve.listen: cannot listen on {listen}: {source}")]
    Listen { listen: SocketAddr, source: std::io::Error },
    #[error("cannot start the server's threads: {0}")]
    Threads(std::io::Error),
}

/// A running server. Dropping it stops the server as [`stop`](ServerHandle::stop) does.
pub struct ServerHandle {
    /// Where it listens, with the port it got.
    pub addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ServerHandle {
    /// Takes no further requests, lets those under way finish, a few seconds at most, and ends the threads.
    pub fn stop(self) {}
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts the server on threads of its own; returns once it accepts connections.
pub fn start(listen: SocketAddr, state: ServeState) -> Result<ServerHandle, ServeError> {
    if !listen.ip().is_loopback() {
        return Err(ServeError::NotLoopback(listen));
    }
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AddrInUse => ServeError::InUse(listen),
        _ => ServeError::Listen { listen, source },
    };
    let listener = TcpListener::bind(listen).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(ASYNC_THREADS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("serve")
        .enable_all()
        .build()
        .map_err(ServeError::Threads)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let run = move || run(runtime, listener, router(state), stopped);
    let thread = std::thread::Builder::new().name("serve-main".to_owned()).spawn(run).map_err(ServeError::Threads)?;
    tracing::info!(%addr, "serving");
    Ok(ServerHandle { addr, stop: Some(stop), thread: Some(thread) })
}

fn run(runtime: tokio::runtime::Runtime, listener: TcpListener, router: Router, stopped: oneshot::Receiver<()>) {
    let (drained, wait) = crossbeam_channel::bounded::<()>(0);
    let (drain, draining) = oneshot::channel::<()>();
    runtime.spawn(async move {
        // Dropped when the server is through, which is what `wait` waits for.
        let _drained = drained;
        let listener = match tokio::net::TcpListener::from_std(listener) {
            // Answers leave at once, however many writes they take.
            Ok(listener) => listener.tap_io(|connection| drop(connection.set_nodelay(true))),
            Err(error) => return tracing::error!("the server cannot listen: {error}"),
        };
        let signal = async move {
            let _ = draining.await;
        };
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(signal).await {
            tracing::error!("the server has stopped: {error}");
        }
    });
    // Closed by the handle: nothing is ever sent.
    let _ = stopped.blocking_recv();
    drop(drain);
    if wait.recv_timeout(DRAIN) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
        tracing::warn!("requests were still under way when the server stopped");
    }
    runtime.shutdown_background();
}

struct Shared {
    state: ServeState,
    places: Arc<Semaphore>,
}

/// What answers the requests, for those who bring their own listener, or none.
pub fn router(state: ServeState) -> Router {
    let shared = Arc::new(Shared { state, places: Arc::new(Semaphore::new(REQUESTS_MAX)) });
    Router::new()
        .route("/v1/features", post(features_route))
        .route("/v1/rank", post(rank_route))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready_route))
        .route("/metrics", get(metrics_route))
        .method_not_allowed_fallback(async || {
            ApiError::new(
                405,
                "method_not_allowed",
                "this path does not answer that method",
                "use POST for /v1/…, else GET",
            )
        })
        .fallback(async || {
            let help = "there are POST /v1/features, POST /v1/rank, GET /healthz, GET /readyz and GET /metrics";
            ApiError::new(404, "not_found", "there is nothing under this path", help)
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shared)
}

async fn features_route(State(shared): State<Arc<Shared>>, body: Result<Bytes, BytesRejection>) -> Response {
    answer(shared, Route::Features, body, features::answer).await
}

async fn rank_route(State(shared): State<Arc<Shared>>, body: Result<Bytes, BytesRejection>) -> Response {
    answer(shared, Route::Rank, body, rank::answer).await
}

type Answer = fn(&ServeState, &[u8]) -> Result<Vec<u8>, ApiError>;

/// Runs a request on a blocking thread, start to end: one hop, and the store's and the model's calls may block.
async fn answer(shared: Arc<Shared>, route: Route, body: Result<Bytes, BytesRejection>, how: Answer) -> Response {
    let state = &shared.state;
    let since = (state.monotonic_us)();
    let result = match body {
        Err(rejection) => Err(unreadable(rejection)),
        Ok(body) => match shared.places.clone().try_acquire_owned() {
            Err(_) => {
                state.requests.turned_away();
                let message = format!("{REQUESTS_MAX} requests are under way already");
                Err(ApiError::new(503, "overloaded", message, "send fewer at once, and retry with a growing delay"))
            }
            Ok(place) => {
                let work = shared.clone();
                let run = tokio::task::spawn_blocking(move || {
                    // Held by the work itself, which goes on when the client has gone.
                    let _place = place;
                    how(&work.state, &body)
                });
                run.await.unwrap_or_else(|error| {
                    tracing::error!(route = route.name(), "a request failed: {error}");
                    Err(ApiError::new(
                        500,
                        "internal",
                        "the request failed inside the server",
                        "look at the server's log",
                    ))
                })
            }
        },
    };
    let status = result.as_ref().err().map_or(200, |error| error.status);
    state.requests.answered(route, status, (state.monotonic_us)().saturating_sub(since));
    match result {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => error.into_response(),
    }
}

fn unreadable(rejection: BytesRejection) -> ApiError {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let message = format!("the body is larger than {} MiB", BODY_BYTES_MAX >> 20);
        return ApiError::new(413, "too_large", message, "ask in several requests");
    }
    ApiError::new(400, "bad_request", rejection.to_string(), "send a JSON body")
}

async fn ready_route(State(shared): State<Arc<Shared>>) -> Response {
    let readiness = (shared.state.ready)();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({ "ready": readiness.ready, "reasons": readiness.reasons });
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

async fn metrics_route(State(shared): State<Arc<Shared>>) -> Response {
    let text = (shared.state.metrics_text)();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}
