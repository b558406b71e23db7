//! Counters of the server, for telemetry to export.

use crate::telemetry::Telemetry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a request was for. Anything but a known path is `Other`, so that clients cannot make up tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Features,
    Rank,
    Other,
}

impl Route {
    pub const ALL: [Route; 3] = [Route::Features, Route::Rank, Route::Other];

    pub fn name(self) -> &'static str {
        match self {
            Route::Features => "features",
            Route::Rank => "rank",
            Route::Other => "other",
        }
    }
}

/// Upper ends of the latency buckets in microseconds; the last bucket has none.
pub const LATENCY_BUCKETS_US: [u64; 14] =
    [100, 250, 500, 1_000, 2_000, 3_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000];

#[derive(Debug, Default)]
struct RouteCounters {
    /// By the first digit of the status: 2xx, 4xx, 5xx.
    answered: [AtomicU64; 3],
    buckets: [AtomicU64; LATENCY_BUCKETS_US.len() + 1],
    sum_us: AtomicU64,
}

/// Counts for whoever asks for a [`snapshot`](ServeMetrics::snapshot), and tells telemetry where there is one.
#[derive(Debug, Default)]
pub struct ServeMetrics {
    telemetry: Option<Arc<Telemetry>>,
    routes: [RouteCounters; 3],
    shed: AtomicU64,
    candidates: AtomicU64,
    values_missing: AtomicU64,
}

/// One reading of the counters of a route. The counts of `buckets` are not cumulative.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSnapshot {
    pub route: Route,
    pub ok: u64,
    pub client_errors: u64,
    pub server_errors: u64,
    pub buckets: [u64; LATENCY_BUCKETS_US.len() + 1],
    pub sum_us: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeSnapshot {
    pub routes: Vec<RouteSnapshot>,
    /// Requests turned away because too many were under way; also among the server errors.
    pub shed: u64,
    pub candidates: u64,
    /// Model inputs for which a candidate had no value.
    pub values_missing: u64,
}

impl ServeMetrics {
    pub fn telling(telemetry: Arc<Telemetry>) -> ServeMetrics {
        ServeMetrics { telemetry: Some(telemetry), ..ServeMetrics::default() }
    }

    pub(super) fn answered(&self, route: Route, status: u16, took_us: u64) {
        let counters = &self.routes[route as usize];
        let class = match status {
            0..400 => 0,
            400..500 => 1,
            _ => 2,
        };
        counters.answered[class].fetch_add(1, Ordering::Relaxed);
        let bucket = LATENCY_BUCKETS_US.partition_point(|end| *end < took_us);
        counters.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        counters.sum_us.fetch_add(took_us, Ordering::Relaxed);
        if let Some(telemetry) = &self.telemetry {
            telemetry.http_request(route.name(), status, took_us as f64 / 1e6);
        }
    }

    pub(super) fn turned_away(&self) {
        self.shed.fetch_add(1, Ordering::Relaxed);
    }

    /// A model has scored `candidates` in `took_us`; `missing` counts the candidates without a value, by input.
    pub(super) fn ranked<'a>(
        &self,
        model: &str,
        candidates: usize,
        missing: impl Iterator<Item = (&'a str, u64)>,
        took_us: u64,
    ) {
        self.candidates.fetch_add(candidates as u64, Ordering::Relaxed);
        if let Some(telemetry) = &self.telemetry {
            telemetry.model_run(model, candidates, took_us as f64 / 1e6);
        }
        for (input, values) in missing.filter(|(_, values)| *values > 0) {
            self.values_missing.fetch_add(values, Ordering::Relaxed);
            if let Some(telemetry) = &self.telemetry {
                telemetry.model_missing_values(model, input, values);
            }
        }
    }

    pub fn snapshot(&self) -> ServeSnapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let route = |route: Route| {
            let counters = &self.routes[route as usize];
            RouteSnapshot {
                route,
                ok: load(&counters.answered[0]),
                client_errors: load(&counters.answered[1]),
                server_errors: load(&counters.answered[2]),
                buckets: std::array::from_fn(|bucket| load(&counters.buckets[bucket])),
                sum_us: load(&counters.sum_us),
            }
        };
        ServeSnapshot {
            routes: Route::ALL.map(route).to_vec(),
            shed: load(&self.shed),
            candidates: load(&self.candidates),
            values_missing: load(&self.values_missing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_in_the_bucket_that_ends_at_or_above_it() {
        let metrics = ServeMetrics::default();
        for (status, took_us) in [(200, 100), (404, 101), (503, u64::MAX / 2)] {
            metrics.answered(Route::Rank, status, took_us);
        }
        let snapshot = metrics.snapshot();
        let rank = &snapshot.routes[Route::Rank as usize];
        assert_eq!((rank.ok, rank.client_errors, rank.server_errors), (1, 1, 1));
        assert_eq!((rank.buckets[0], rank.buckets[1], rank.buckets[LATENCY_BUCKETS_US.len()]), (1, 1, 1));
    }
}
