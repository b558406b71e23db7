//! Metrics: the registry behind the table, and one method per thing that can be told.

use super::delays::DelayFamily;
use super::table::{Kind, METRICS, Metric};
use super::{
    CommitDone, DimensionProgress, FeatureProgress, OnlineWrites, OutboxProgress, ParquetProgress, StreamProgress,
};
use crate::event::{
    AnchorAccount, DelaySketch, FeatureAccount, LabelAccount, RejectKind, StateMemory, StreamAccount, Watermark,
    violations,
};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Every metric of one process (or of one test).
pub struct Telemetry {
    registry: Registry,
    /// In the order of [`METRICS`].
    families: Vec<Family>,
    /// Of the cells of this process, where it has several.
    cells: Mutex<BTreeMap<u32, Registry>>,
}

enum Family {
    Counter(IntCounterVec),
    Gauge(GaugeVec),
    Histogram(HistogramVec),
    Delays(DelayFamily),
}

impl Telemetry {
    pub fn new(pipeline: &str) -> Telemetry {
        let telemetry = Telemetry::with(Registry::new());
        telemetry.set(Metric::BuildInfo, &[env!("CARGO_PKG_VERSION"), pipeline], 1.0);
        telemetry.ready(false);
        telemetry
    }

    fn with(registry: Registry) -> Telemetry {
        let families = METRICS.iter().map(|info| Family::register(info, &registry)).collect();
        Telemetry { registry, families, cells: Mutex::default() }
    }

    /// What a cell of this process tells: the same metrics, each with its number as the tag `cell`.
    pub fn of_cell(&self, cell: u32) -> Telemetry {
        let tags = [("cell".to_owned(), cell.to_string())].into_iter().collect();
        let registry = Registry::new_custom(None, Some(tags)).expect("the tag's name is right");
        self.cells.lock().unwrap_or_else(PoisonError::into_inner).insert(cell, registry.clone());
        Telemetry::with(registry)
    }

    /// The cell runs here no more.
    pub fn forget_cell(&self, cell: u32) {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner).remove(&cell);
    }

    /// Cells of this process that run, and that have failed and are tried again.
    pub fn cells(&self, running: usize, failed: usize) {
        self.set(Metric::Cells, &["running"], running as f64);
        self.set(Metric::Cells, &["failed"], failed as f64);
    }

    /// Every metric once, with those of the cells.
    fn gather(&self) -> Vec<MetricFamily> {
        let mut families = self.registry.gather();
        let cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        for mut family in cells.values().flat_map(Registry::gather) {
            match families.iter_mut().find(|known| known.name() == family.name()) {
                Some(known) => known.mut_metric().extend(family.take_metric()),
                None => families.push(family),
            }
        }
        families.sort_by(|a, b| a.name().cmp(b.name()));
        families
    }

    /// The Prometheus text of this moment.
    pub fn render(&self) -> String {
        self.count_to(Metric::InvariantViolations, &[], violations());
        TextEncoder::new()
            .encode_to_string(&self.gather())
            .expect("families come from the checked table, so they always encode")
    }

    /// A stream's account as it stands now.
    pub fn stream(&self, stream: &str, account: &StreamAccount) {
        self.count_to(Metric::StreamRecords, &[stream], account.records);
        let outcomes =
            [("accepted", account.accepted), ("filtered", account.filtered), ("dead_lettered", account.dead_lettered)];
        for (outcome, rows) in outcomes {
            self.count_to(Metric::StreamRows, &[stream, outcome], rows);
        }
    }

    /// Rows of a stream that went to dead letters for one reason, in all.
    pub fn dead_letters(&self, stream: &str, reason: RejectKind, rows: u64) {
        self.count_to(Metric::DeadLetterRows, &[stream, reason.name()], rows);
    }

    /// Where a stream stands at the wall time `now_ms`.
    pub fn stream_progress(&self, stream: &str, progress: &StreamProgress, now_ms: i64) {
        let lag_seconds = |then: i64| (now_ms.saturating_sub(then)) as f64 / 1e3;
        let watermark = finite(progress.watermark);
        self.set_or_remove(Metric::StreamWatermark, &[stream], watermark.map(seconds));
        self.set_or_remove(Metric::StreamWatermarkLag, &[stream], watermark.map(lag_seconds));
        self.set_or_remove(Metric::StreamEventTimeLag, &[stream], progress.newest.map(lag_seconds));
        let records = progress.position_lag_records.map(|records| records as f64);
        self.set_or_remove(Metric::StreamPositionLag, &[stream], records);
        let blocked = progress.blocked_records.map(|records| records as f64);
        self.set_or_remove(Metric::StreamBlocked, &[stream], blocked);
        self.set(Metric::StreamIdlePartitions, &[stream], progress.idle_partitions as f64);
    }

    /// Whether a label stream is cut off.
    pub fn stream_cut_off(&self, stream: &str, is_cut_off: bool) {
        self.set(Metric::StreamCutOff, &[stream], f64::from(u8::from(is_cut_off)));
    }

    /// What a dimension has counted since the process started, and what it holds.
    pub fn dimension(&self, dimension: &str, progress: &DimensionProgress) {
        self.count_to(Metric::DimensionRows, &[dimension, "found"], progress.found);
        self.count_to(Metric::DimensionRows, &[dimension, "missing"], progress.missing);
        let counts = [
            (Metric::DimensionCached, progress.cached),
            (Metric::DimensionRequests, progress.requests),
            (Metric::DimensionKeys, progress.requested_keys),
            (Metric::DimensionFailures, progress.failures),
            (Metric::DimensionRefreshes, progress.refreshes),
        ];
        counts.into_iter().for_each(|(metric, count)| self.count_to(metric, &[dimension], count));
        self.set(Metric::DimensionAge, &[dimension], progress.age_ms as f64 / 1e3);
        self.set(Metric::DimensionHeld, &[dimension], progress.rows as f64);
        self.set(Metric::DimensionSize, &[dimension], progress.bytes as f64);
    }

    /// The watermark that closes impressions.
    pub fn cell_watermark(&self, watermark: Watermark) {
        self.set_or_remove(Metric::CellWatermark, &[], finite(watermark).map(seconds));
    }

    /// A sample's account of its impressions as it stands now.
    pub fn anchor(&self, sample: &str, account: &AnchorAccount) {
        let outcomes = [
            ("duplicate", account.duplicate),
            ("conflict", account.conflict),
            ("late", account.late),
            ("applied", account.applied),
            ("emitted", account.emitted),
            ("sampled_out", account.sampled_out),
        ];
        for (outcome, rows) in outcomes {
            self.count_to(Metric::SampleRows, &[sample, outcome], rows);
        }
        self.set(Metric::SamplePendingRows, &[sample], account.pending as f64);
    }

    /// A sample's account of one of its joins as it stands now.
    pub fn label(&self, sample: &str, join: &str, account: &LabelAccount) {
        let outcomes = [
            ("duplicate", account.duplicate),
            ("conflict", account.conflict),
            ("late", account.late),
            ("applied", account.applied),
            ("attached", account.attached),
            ("corrected", account.corrected),
            ("out_of_window", account.out_of_window),
            ("expired_unmatched", account.expired_unmatched),
        ];
        for (outcome, rows) in outcomes {
            self.count_to(Metric::LabelRows, &[sample, join, outcome], rows);
        }
        self.set(Metric::LabelWaitingRows, &[sample, join], account.waiting as f64);
        self.set_or_remove(Metric::LabelCoverage, &[sample, join], account.coverage());
    }

    /// The delays of a join's attached labels as they stand now.
    pub fn label_delays(&self, sample: &str, join: &str, delays: &DelaySketch) {
        match &self.families[Metric::LabelDelay as usize] {
            Family::Delays(family) => family.tell(&[sample, join], delays),
            _ => unreachable!("the table says that delays are read off a sketch"),
        }
    }

    /// A feature group's account of one of its streams as it stands now.
    pub fn feature(&self, group: &str, stream: &str, account: &FeatureAccount) {
        let outcomes = [
            ("masked", account.masked),
            ("duplicate", account.duplicate),
            ("late", account.late),
            ("applied", account.applied),
        ];
        for (outcome, rows) in outcomes {
            self.count_to(Metric::FeatureRows, &[group, stream, outcome], rows);
        }
    }

    pub fn feature_progress(&self, group: &str, progress: &FeatureProgress) {
        self.set(Metric::FeatureEntities, &[group], progress.entities as f64);
        self.set(Metric::FeatureTiles, &[group], progress.tiles as f64);
        self.set(Metric::FeatureStateSize, &[group], progress.bytes as f64);
        self.set(Metric::FeatureSweepLag, &[group], progress.sweep_lag_ms as f64 / 1e3);
    }

    /// A manifest was committed.
    pub fn commit(&self, done: &CommitDone) {
        self.set(Metric::CommitSequence, &[], done.sequence as f64);
        self.set(Metric::CommitTimestamp, &[], seconds(done.at_ms));
        self.observe(Metric::CommitDuration, &[], done.duration_ms as f64 / 1e3);
        self.add(Metric::CommitSize, &[], done.bytes);
        self.set(Metric::StateSize, &["disk"], done.state_bytes as f64);
        let CommitDone { sequence, epoch, duration_ms, bytes, state_bytes, files, .. } = *done;
        tracing::debug!(sequence, epoch, duration_ms, bytes, state_bytes, files, "committed");
    }

    pub fn state_in_memory(&self, bytes: u64) {
        self.set(Metric::StateSize, &["memory"], bytes as f64);
    }

    /// The same by part; `features` is what tiles take.
    pub fn state_memory(&self, memory: &StateMemory, features: u64) {
        let parts =
            [("index", memory.index), ("labels", memory.labels), ("features", features), ("payload", memory.payload)];
        for (part, bytes) in parts {
            self.set(Metric::StateMemory, &[part], bytes as f64);
        }
        self.set(Metric::StateSpilled, &[], memory.spilled as f64);
    }

    pub fn state_memory_limit(&self, bytes: u64) {
        self.set(Metric::StateMemoryLimit, &[], bytes as f64);
    }

    pub fn parquet(&self, sample: &str, progress: &ParquetProgress) {
        self.count_to(Metric::ParquetFiles, &[sample], progress.files);
        self.count_to(Metric::ParquetRows, &[sample], progress.rows);
        self.count_to(Metric::ParquetSize, &[sample], progress.bytes);
        self.set(Metric::ParquetOpenFiles, &[sample], progress.open_files as f64);
        self.set(Metric::ParquetUncommittedRows, &[sample], progress.uncommitted_rows as f64);
    }

    /// How far an outlet is.
    pub fn outbox(&self, outlet: &str, progress: &OutboxProgress) {
        self.set(Metric::OutboxWaiting, &[outlet], progress.waiting_rows as f64);
        self.set(Metric::OutboxLag, &[outlet], progress.lag_ms as f64 / 1e3);
        self.count_to(Metric::OutboxSent, &[outlet], progress.sent_rows);
    }

    /// Rows of an outlet reach their topic, or do not because of `problem`. Logs changes only.
    pub fn outbox_problem(&self, outlet: &str, problem: Option<&dyn fmt::Display>) {
        self.readiness([Metric::OutboxReady, Metric::OutboxFailures], outlet, problem);
    }

    pub fn online_writes(&self, writes: &OnlineWrites) {
        for (outcome, count) in [("written", writes.written), ("stale", writes.stale), ("refused", writes.refused)] {
            self.count_to(Metric::OnlineWrites, &[outcome], count);
        }
    }

    pub fn online_backlog(&self, entities: usize) {
        self.set(Metric::OnlineBacklog, &[], entities as f64);
    }

    /// How often the online store lost what it had acknowledged, since the process started.
    pub fn online_losses(&self, losses: u64) {
        self.count_to(Metric::OnlineLosses, &[], losses);
    }

    pub fn online_flush(&self, duration_seconds: f64) {
        self.observe(Metric::OnlineFlushDuration, &[], duration_seconds);
    }

    pub fn queue(&self, queue: &str, depth: usize, capacity: usize) {
        self.set(Metric::QueueDepth, &[queue], depth as f64);
        self.set(Metric::QueueCapacity, &[queue], capacity as f64);
    }

    /// A connection works, or does not because of `problem`. Logs changes only, so it may be called at every attempt.
    pub fn connection(&self, connection: &str, problem: Option<&dyn fmt::Display>) {
        self.readiness([Metric::ConnectionReady, Metric::ConnectionFailures], connection, problem);
    }

    fn readiness(&self, [ready, failures]: [Metric; 2], name: &str, problem: Option<&dyn fmt::Display>) {
        let Family::Gauge(gauges) = &self.families[ready as usize] else {
            unreachable!("the table says it is a gauge")
        };
        let gauge = gauges.with_label_values(&[name]);
        let was_ready = gauge.get() == 1.0;
        let failures = self.counter(failures, &[name]);
        match problem {
            Some(problem) if was_ready || failures.get() == 0 => {
                failures.inc();
                tracing::warn!("{name} is not ready, retrying: {problem}");
            }
            None if !was_ready => tracing::info!("{name} is ready"),
            _ => {}
        }
        gauge.set(if problem.is_none() { 1.0 } else { 0.0 });
    }

    pub fn ready(&self, ready: bool) {
        self.set(Metric::Ready, &[], if ready { 1.0 } else { 0.0 });
    }

    pub fn memory_resident(&self, bytes: u64) {
        self.set(Metric::MemoryResident, &[], bytes as f64);
    }

    /// `route` is the pattern, never the path as it came: its values must be few.
    pub fn http_request(&self, route: &str, status: u16, duration_seconds: f64) {
        self.add(Metric::HttpRequests, &[route, &status.to_string()], 1);
        self.observe(Metric::HttpRequestDuration, &[route], duration_seconds);
    }

    /// One run of a model over the candidates of a request.
    pub fn model_run(&self, model: &str, rows: usize, duration_seconds: f64) {
        self.add(Metric::ModelRows, &[model], rows as u64);
        self.observe(Metric::ModelRunDuration, &[model], duration_seconds);
    }

    pub fn model_missing_values(&self, model: &str, feature: &str, values: u64) {
        self.add(Metric::ModelMissingValues, &[model, feature], values);
    }

    fn counter(&self, metric: Metric, tags: &[&str]) -> prometheus::IntCounter {
        match &self.families[metric as usize] {
            Family::Counter(counters) => counters.with_label_values(tags),
            _ => unreachable!("the table says what kind {metric:?} is"),
        }
    }

    fn add(&self, metric: Metric, tags: &[&str], by: u64) {
        self.counter(metric, tags).inc_by(by);
    }

    /// Takes a counter forward to a cumulative count.
    fn count_to(&self, metric: Metric, tags: &[&str], count: u64) {
        let counter = self.counter(metric, tags);
        counter.inc_by(count.saturating_sub(counter.get()));
    }

    fn set(&self, metric: Metric, tags: &[&str], value: f64) {
        self.set_or_remove(metric, tags, Some(value));
    }

    /// A gauge that does not apply is absent: 0 would be taken for a value.
    fn set_or_remove(&self, metric: Metric, tags: &[&str], value: Option<f64>) {
        let Family::Gauge(gauges) = &self.families[metric as usize] else {
            unreachable!("the table says what kind {metric:?} is")
        };
        match value {
            Some(value) => gauges.with_label_values(tags).set(value),
            // The one error is that it is absent already.
            None => drop(gauges.remove_label_values(tags)),
        }
    }

    fn observe(&self, metric: Metric, tags: &[&str], value: f64) {
        match &self.families[metric as usize] {
            Family::Histogram(histograms) => histograms.with_label_values(tags).observe(value),
            _ => unreachable!("the table says what kind {metric:?} is"),
        }
    }
}

impl Family {
    fn register(info: &super::MetricInfo, registry: &Registry) -> Family {
        const CHECKED: &str = "the table's names, tags and buckets are checked by a test";
        let opts = Opts::new(info.name, info.help);
        let (family, collector): (Family, Box<dyn prometheus::core::Collector>) = match info.kind {
            Kind::Counter => {
                let family = IntCounterVec::new(opts, info.tags).expect(CHECKED);
                (Family::Counter(family.clone()), Box::new(family))
            }
            Kind::Gauge => {
                let family = GaugeVec::new(opts, info.tags).expect(CHECKED);
                (Family::Gauge(family.clone()), Box::new(family))
            }
            Kind::Histogram(buckets) => {
                let opts = HistogramOpts::from(opts).buckets(buckets.to_vec());
                let family = HistogramVec::new(opts, info.tags).expect(CHECKED);
                (Family::Histogram(family.clone()), Box::new(family))
            }
            Kind::Delays(bounds) => {
                let family = DelayFamily::new(opts, info.tags, bounds).expect(CHECKED);
                (Family::Delays(family.clone()), Box::new(family))
            }
        };
        registry.register(collector).expect(CHECKED);
        family
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Telemetry({} metrics)", self.families.len())
    }
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1e3
}

/// The time of a watermark that has one.
fn finite(watermark: Watermark) -> Option<i64> {
    (watermark != Watermark::MIN && watermark != Watermark::MAX).then_some(watermark.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(telemetry: &Telemetry, line: &str) -> bool {
        telemetry.render().lines().any(|found| found == line)
    }

    #[test]
    fn f1_an_account_shows_every_outcome() {
        let telemetry = Telemetry::new("ctr");
        let account = StreamAccount { records: 9, consumed: 10, filtered: 1, dead_lettered: 2, accepted: 7 };
        telemetry.stream("clicks", &account);
        telemetry.stream("clicks", &account);
        assert!(has(&telemetry, "conjoin_stream_records_total{stream=\"clicks\"} 9"));
        for (outcome, rows) in [("accepted", 7), ("filtered", 1), ("dead_lettered", 2)] {
            let line = format!("conjoin_stream_rows_total{{outcome=\"{outcome}\",stream=\"clicks\"}} {rows}");
            assert!(has(&telemetry, &line), "{line}");
        }
        let build = format!("conjoin_build_info{{pipeline=\"ctr\",version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
        assert!(has(&telemetry, &build));
    }

    #[test]
    fn the_delays_of_labels_are_a_histogram_with_the_tags_of_the_cell() {
        let telemetry = Telemetry::new("ctr");
        let cell = telemetry.of_cell(3);
        let account = LabelAccount { attached: 3, out_of_window: 1, applied: 4, ..Default::default() };
        let mut delays = DelaySketch::default();
        [-2_000, 400, 61_000].into_iter().for_each(|delay| delays.add(delay));
        for telemetry in [&telemetry, &cell] {
            telemetry.label("ctr", "click", &LabelAccount::default());
            assert!(!telemetry.render().contains("coverage"), "nothing is decided yet");
            telemetry.label("ctr", "click", &account);
            telemetry.label_delays("ctr", "click", &delays);
            telemetry.label_delays("ctr", "click", &delays);
        }
        for (bound, count) in [("0", 1), ("1", 2), ("60", 2), ("120", 3), ("+Inf", 3)] {
            let line =
                format!("conjoin_label_delay_seconds_bucket{{join=\"click\",sample=\"ctr\",le=\"{bound}\"}} {count}");
            assert!(has(&telemetry, &line), "{line} is not in {}", telemetry.render());
            let line = line.replace(",le=", ",cell=\"3\",le=");
            assert!(has(&telemetry, &line), "{line} is not in {}", telemetry.render());
        }
        assert!(has(&telemetry, "conjoin_label_delay_seconds_sum{join=\"click\",sample=\"ctr\"} 59.4"));
        assert!(has(&telemetry, "conjoin_label_coverage_ratio{join=\"click\",sample=\"ctr\"} 0.75"));
    }

    #[test]
    fn a_counter_stands_still_after_a_rollback_until_it_is_passed() {
        let telemetry = Telemetry::new("ctr");
        for (emitted, shown) in [(100, 100), (60, 100), (90, 100), (110, 110)] {
            telemetry.anchor("ctr", &AnchorAccount { emitted, pending: emitted, ..Default::default() });
            let line = format!("conjoin_sample_rows_total{{outcome=\"emitted\",sample=\"ctr\"}} {shown}");
            assert!(has(&telemetry, &line), "{line}");
            assert!(has(&telemetry, &format!("conjoin_sample_pending_rows{{sample=\"ctr\"}} {emitted}")));
        }
    }

    #[test]
    fn a_watermark_that_has_no_time_is_absent() {
        let telemetry = Telemetry::new("ctr");
        let progress = |watermark| StreamProgress {
            watermark,
            newest: Some(9_000),
            position_lag_records: None,
            blocked_records: None,
            idle_partitions: 0,
        };
        telemetry.stream_progress("clicks", &progress(Watermark(4_000)), 10_500);
        assert!(has(&telemetry, "conjoin_stream_watermark_lag_seconds{stream=\"clicks\"} 6.5"));
        assert!(has(&telemetry, "conjoin_stream_event_time_lag_seconds{stream=\"clicks\"} 1.5"));
        telemetry.stream_progress("clicks", &progress(Watermark::MAX), 10_500);
        assert!(!telemetry.render().contains("watermark_lag"));
        assert!(!telemetry.render().contains("position_lag"));
    }

    #[test]
    fn a_connection_counts_each_loss_once() {
        let telemetry = Telemetry::new("ctr");
        let failures = |count: u32| format!("conjoin_connection_failures_total{{connection=\"main\"}} {count}");
        telemetry.connection("main", Some(&"refused"));
        telemetry.connection("main", Some(&"refused"));
        assert!(has(&telemetry, &failures(1)) && has(&telemetry, "conjoin_connection_ready{connection=\"main\"} 0"));
        telemetry.connection("main", None);
        assert!(has(&telemetry, "conjoin_connection_ready{connection=\"main\"} 1"));
        telemetry.connection("main", Some(&"reset by peer"));
        assert!(has(&telemetry, &failures(2)));
    }

    #[test]
    fn requests_and_commits_fall_into_buckets() {
        let telemetry = Telemetry::new("ctr");
        telemetry.http_request("/v1/rank", 200, 0.0007);
        assert!(has(&telemetry, "conjoin_http_request_duration_seconds_bucket{route=\"/v1/rank\",le=\"0.0005\"} 0"));
        assert!(has(&telemetry, "conjoin_http_request_duration_seconds_bucket{route=\"/v1/rank\",le=\"0.001\"} 1"));
        assert!(has(&telemetry, "conjoin_http_requests_total{route=\"/v1/rank\",status=\"200\"} 1"));
        let done =
            CommitDone { sequence: 7, epoch: 1, duration_ms: 40, bytes: 10, state_bytes: 30, files: 0, at_ms: 5 };
        telemetry.commit(&done);
        telemetry.commit(&CommitDone { sequence: 8, ..done });
        assert!(has(&telemetry, "conjoin_commit_sequence 8") && has(&telemetry, "conjoin_commit_bytes_total 20"));
        assert!(has(&telemetry, "conjoin_commit_duration_seconds_count 2"));
        assert!(has(&telemetry, "conjoin_state_bytes{where=\"disk\"} 30"));
    }

    #[test]
    fn cells_of_a_process_tell_the_same_metrics_under_their_own_numbers() {
        let telemetry = Telemetry::new("ctr");
        let (a, b) = (telemetry.of_cell(0), telemetry.of_cell(7));
        a.state_in_memory(10);
        b.state_in_memory(20);
        telemetry.memory_resident(1);
        let text = telemetry.render();
        assert_eq!(text.matches("# TYPE conjoin_state_bytes ").count(), 1, "{text}");
        assert!(has(&telemetry, "conjoin_state_bytes{where=\"memory\",cell=\"0\"} 10"), "{text}");
        assert!(has(&telemetry, "conjoin_state_bytes{where=\"memory\",cell=\"7\"} 20"), "{text}");
        telemetry.forget_cell(7);
        assert!(!telemetry.render().contains("cell=\"7\""));
    }

    #[test]
    fn two_registries_in_one_process_do_not_meet() {
        let (a, b) = (Telemetry::new("a"), Telemetry::new("b"));
        a.memory_resident(1);
        assert!(a.render().contains("resident") && !b.render().contains("resident"));
    }
}
