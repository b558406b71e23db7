//! Table: every metric with its kind, tags and meaning; the one place where a metric is named.

use Kind::{Counter, Delays, Gauge, Histogram};
use Metric::*;

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind {
    Counter,
    Gauge,
    /// With the upper ends of its buckets.
    Histogram(&'static [f64]),
    /// A histogram that is read off a sketch of delays.
    Delays(&'static [f64]),
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Counter => "counter",
            Gauge => "gauge",
            Histogram(_) | Delays(_) => "histogram",
        }
    }
}

/// A metric: an index into [`METRICS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Metric {
    StreamRecords,
    StreamRows,
    DeadLetterRows,
    StreamWatermark,
    StreamWatermarkLag,
    StreamEventTimeLag,
    StreamPositionLag,
    StreamBlocked,
    StreamIdlePartitions,
    StreamCutOff,
    DimensionRows,
    DimensionCached,
    DimensionRequests,
    DimensionKeys,
    DimensionFailures,
    DimensionRefreshes,
    DimensionAge,
    DimensionHeld,
    DimensionSize,
    CellWatermark,
    Cells,
    SampleRows,
    SamplePendingRows,
    LabelRows,
    LabelWaitingRows,
    LabelDelay,
    LabelCoverage,
    FeatureRows,
    FeatureEntities,
    FeatureTiles,
    FeatureStateSize,
    FeatureSweepLag,
    CommitSequence,
    CommitTimestamp,
    CommitDuration,
    CommitSize,
    StateSize,
    StateMemory,
    StateMemoryLimit,
    StateSpilled,
    ParquetFiles,
    ParquetRows,
    ParquetSize,
    ParquetOpenFiles,
    ParquetUncommittedRows,
    OutboxWaiting,
    OutboxLag,
    OutboxSent,
    OutboxReady,
    OutboxFailures,
    OnlineWrites,
    OnlineBacklog,
    OnlineLosses,
    OnlineFlushDuration,
    QueueDepth,
    QueueCapacity,
    ConnectionReady,
    ConnectionFailures,
    HttpRequests,
    HttpRequestDuration,
    ModelRows,
    ModelRunDuration,
    ModelMissingValues,
    Ready,
    BuildInfo,
    MemoryResident,
    InvariantViolations,
}

#[derive(Clone, Copy, Debug)]
pub struct MetricInfo {
    pub metric: Metric,
    pub name: &'static str,
    pub kind: Kind,
    pub tags: &'static [&'static str],
    pub help: &'static str,
}

/// From 100 µs, a ranking request, to 10 s.
const REQUEST_SECONDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// From a click on what is shown to a conversion next month; 0 is what came ahead of its impression, or with it.
const DELAY_SECONDS: &[f64] = &[
    0.0,
    1.0,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
    1_200.0,
    1_800.0,
    3_600.0,
    7_200.0,
    14_400.0,
    28_800.0,
    57_600.0,
    86_400.0,
    172_800.0,
    259_200.0,
    604_800.0,
    1_209_600.0,
    2_592_000.0,
];
/// From a small commit on a fast disk to one that should worry.
const COMMIT_SECONDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

const fn row(
    metric: Metric,
    name: &'static str,
    kind: Kind,
    tags: &'static [&'static str],
    help: &'static str,
) -> MetricInfo {
    MetricInfo { metric, name, kind, tags, help }
}

/// Every metric, in the order of [`Metric`].
#[rustfmt::skip]
pub const METRICS: &[MetricInfo] = &[
    row(StreamRecords, "conjoin_stream_records_total", Counter, &["stream"],
        "Records read."),
    row(StreamRows, "conjoin_stream_rows_total", Counter, &["stream", "outcome"],
        "Rows decoded, by outcome: accepted, filtered or dead_lettered."),
    row(DeadLetterRows, "conjoin_dead_letter_rows_total", Counter, &["stream", "reason"],
        "Rows that went to dead letters, by reason."),
    row(StreamWatermark, "conjoin_stream_watermark_timestamp_seconds", Gauge, &["stream"],
        "The stream's watermark as a Unix time; absent before the first record and after the end."),
    row(StreamWatermarkLag, "conjoin_stream_watermark_lag_seconds", Gauge, &["stream"],
        "Wall time minus the stream's watermark."),
    row(StreamEventTimeLag, "conjoin_stream_event_time_lag_seconds", Gauge, &["stream"],
        "Wall time minus the newest event time of the stream."),
    row(StreamPositionLag, "conjoin_stream_position_lag_records", Gauge, &["stream"],
        "Records between the position and the log's end, over all partitions; absent for inputs that have no log."),
    row(StreamBlocked, "conjoin_stream_blocked_records", Gauge, &["stream"],
        "Records in the log that cannot be read yet because a producer's transaction is open, over all partitions; above 0 for long: the transaction hangs."),
    row(StreamIdlePartitions, "conjoin_stream_idle_partitions", Gauge, &["stream"],
        "Partitions that are caught up and quiet and do not hold the watermark."),
    row(StreamCutOff, "conjoin_stream_cut_off", Gauge, &["stream"],
        "1 while a label stream is cut off: nothing to read of it, and further behind the impressions than `guard.max_lag`."),
    row(DimensionRows, "conjoin_dimension_rows_total", Counter, &["dimension", "outcome"],
        "Rows that asked a dimension since the process started, by outcome: found or missing."),
    row(DimensionCached, "conjoin_dimension_cached_rows_total", Counter, &["dimension"],
        "Of these, rows that the cache answered; only of dimensions that are asked key by key."),
    row(DimensionRequests, "conjoin_dimension_requests_total", Counter, &["dimension"],
        "Requests to the store of a dimension that is asked key by key."),
    row(DimensionKeys, "conjoin_dimension_requested_keys_total", Counter, &["dimension"],
        "Keys in these requests."),
    row(DimensionFailures, "conjoin_dimension_failures_total", Counter, &["dimension"],
        "Loads and requests that failed, and values and records that could not be read."),
    row(DimensionRefreshes, "conjoin_dimension_refreshes_total", Counter, &["dimension"],
        "Times a dimension in memory was changed by its files or its topic."),
    row(DimensionAge, "conjoin_dimension_age_seconds", Gauge, &["dimension"],
        "How long ago the dimension was last known to be as its source is: looked at, read to the end, or asked."),
    row(DimensionHeld, "conjoin_dimension_held_rows", Gauge, &["dimension"],
        "Rows in memory; of dimensions that are asked key by key, keys in the cache."),
    row(DimensionSize, "conjoin_dimension_held_bytes", Gauge, &["dimension"],
        "Memory that they take, about."),
    row(CellWatermark, "conjoin_cell_watermark_timestamp_seconds", Gauge, &[],
        "The watermark that closes impressions, as a Unix time."),
    row(Cells, "conjoin_process_cells", Gauge, &["state"],
        "In group mode, cells of this process: running, or failed and tried again."),
    row(SampleRows, "conjoin_sample_rows_total", Counter, &["sample", "outcome"],
        "Impressions, by outcome: duplicate, conflict, late, applied, and of those applied emitted or sampled_out."),
    row(SamplePendingRows, "conjoin_sample_pending_rows", Gauge, &["sample"],
        "Impressions that wait for their windows to close."),
    row(LabelRows, "conjoin_label_rows_total", Counter, &["sample", "join", "outcome"],
        "Labels, by outcome: duplicate, conflict, late, applied, and of those applied attached, corrected, out_of_window or expired_unmatched."),
    row(LabelWaitingRows, "conjoin_label_waiting_rows", Gauge, &["sample", "join"],
        "Labels whose impression is pending or may still come."),
    row(LabelDelay, "conjoin_label_delay_seconds", Delays(DELAY_SECONDS), &["sample", "join"],
        "Event time from the impression to the label, of labels that attached; bounds hold to 3.2 %. What came too late for the window is not in it: see the coverage."),
    row(LabelCoverage, "conjoin_label_coverage_ratio", Gauge, &["sample", "join"],
        "Share of the labels that attached among those that are decided: attached, corrected, out_of_window, expired_unmatched or late. Labels without any impression count against it; absent before the first one."),
    row(FeatureRows, "conjoin_feature_rows_total", Counter, &["group", "stream", "outcome"],
        "Rows offered to a feature group, by outcome: masked, duplicate, late or applied."),
    row(FeatureEntities, "conjoin_feature_entities", Gauge, &["group"],
        "Entities that have state."),
    row(FeatureTiles, "conjoin_feature_tiles", Gauge, &["group"],
        "Tiles over all entities."),
    row(FeatureStateSize, "conjoin_feature_state_bytes", Gauge, &["group"],
        "Memory that tiles take."),
    row(FeatureSweepLag, "conjoin_feature_sweep_lag_seconds", Gauge, &["group"],
        "How long the oldest value that slid out of a window waits to be published again."),
    row(CommitSequence, "conjoin_commit_sequence", Gauge, &[],
        "Number of the last manifest."),
    row(CommitTimestamp, "conjoin_commit_timestamp_seconds", Gauge, &[],
        "When the last manifest was committed, as a Unix time."),
    row(CommitDuration, "conjoin_commit_duration_seconds", Histogram(COMMIT_SECONDS), &[],
        "From the cut to the committed manifest."),
    row(CommitSize, "conjoin_commit_bytes_total", Counter, &[],
        "State blocks and manifests written."),
    row(StateSize, "conjoin_state_bytes", Gauge, &["where"],
        "State, by where it is: memory, or disk as the last manifest names it."),
    row(StateMemory, "conjoin_state_memory_bytes", Gauge, &["part"],
        "State in memory, by part: index (times and keys of impressions), labels, features (tiles), and payload (columns of impressions and of their features). Of these only payload can leave memory."),
    row(StateMemoryLimit, "conjoin_state_memory_limit_bytes", Gauge, &[],
        "`state.memory`: what the state of all cells of the process may take."),
    row(StateSpilled, "conjoin_state_spilled_bytes", Gauge, &[],
        "Payload of pending impressions that is on disk alone, as it lies there; it is read back when they close."),
    row(ParquetFiles, "conjoin_parquet_files_total", Counter, &["sample"],
        "Files published."),
    row(ParquetRows, "conjoin_parquet_rows_total", Counter, &["sample"],
        "Rows in published files."),
    row(ParquetSize, "conjoin_parquet_bytes_total", Counter, &["sample"],
        "Bytes of published files."),
    row(ParquetOpenFiles, "conjoin_parquet_open_files", Gauge, &["sample"],
        "Files that are being written."),
    row(ParquetUncommittedRows, "conjoin_parquet_uncommitted_rows", Gauge, &["sample"],
        "Rows in files that no manifest names yet."),
    row(OutboxWaiting, "conjoin_outbox_waiting_rows", Gauge, &["outlet"],
        "Committed rows that brokers have not acknowledged: they lie in the state, on disk."),
    row(OutboxLag, "conjoin_outbox_lag_seconds", Gauge, &["outlet"],
        "How long the oldest of these have waited since their commit, or since the process started; 0 when none wait."),
    row(OutboxSent, "conjoin_outbox_sent_rows_total", Counter, &["outlet"],
        "Rows that brokers have acknowledged. A row that was sent again after a crash counts once."),
    row(OutboxReady, "conjoin_outbox_ready", Gauge, &["outlet"],
        "1 while rows reach their topic, 0 while sending is retried."),
    row(OutboxFailures, "conjoin_outbox_failures_total", Counter, &["outlet"],
        "Times an outlet went from ready to not ready."),
    row(OnlineWrites, "conjoin_online_writes_total", Counter, &["outcome"],
        "Entities sent to the online store since the process started, by outcome: written, stale (the store had a newer version) or refused."),
    row(OnlineBacklog, "conjoin_online_backlog_entities", Gauge, &[],
        "Changed entities that wait for their flush."),
    row(OnlineLosses, "conjoin_online_losses_total", Counter, &[],
        "Times the online store was found to lack what it had acknowledged, such as after a failover; all features are then written again."),
    row(OnlineFlushDuration, "conjoin_online_flush_duration_seconds", Histogram(REQUEST_SECONDS), &[],
        "Time a flush to the online store took."),
    row(QueueDepth, "conjoin_queue_depth_items", Gauge, &["queue"],
        "Batches in a queue between stages."),
    row(QueueCapacity, "conjoin_queue_capacity_items", Gauge, &["queue"],
        "Batches the queue holds at most; a queue that stays full shows the slow stage behind it."),
    row(ConnectionReady, "conjoin_connection_ready", Gauge, &["connection"],
        "1 while the connection works, 0 while it is retried."),
    row(ConnectionFailures, "conjoin_connection_failures_total", Counter, &["connection"],
        "Times the connection went from ready to not ready."),
    row(HttpRequests, "conjoin_http_requests_total", Counter, &["route", "status"],
        "Requests answered."),
    row(HttpRequestDuration, "conjoin_http_request_duration_seconds", Histogram(REQUEST_SECONDS), &["route"],
        "Time from the whole request to the whole answer."),
    row(ModelRows, "conjoin_model_rows_total", Counter, &["model"],
        "Candidates scored."),
    row(ModelRunDuration, "conjoin_model_run_duration_seconds", Histogram(REQUEST_SECONDS), &["model"],
        "Time of one run of the model over all candidates of a request."),
    row(ModelMissingValues, "conjoin_model_missing_values_total", Counter, &["model", "feature"],
        "Values that the online store did not have when a candidate was scored."),
    row(Ready, "conjoin_ready", Gauge, &[],
        "1 while the process does its work, as /readyz says."),
    row(BuildInfo, "conjoin_build_info", Gauge, &["version", "pipeline"],
        "Always 1; the tags say what runs."),
    row(MemoryResident, "conjoin_memory_resident_bytes", Gauge, &[],
        "Memory of the process, as the operating system counts it."),
    row(InvariantViolations, "conjoin_invariant_violations_total", Counter, &[],
        "Broken invariants of docs/INVARIANTS.md. Anything but 0 is a bug: please report it with the log."),
];

impl Metric {
    pub fn info(self) -> &'static MetricInfo {
        &METRICS[self as usize]
    }
}

/// docs/METRICS.md.
pub fn metrics_reference() -> String {
    let mut text = String::from(
        "# Metrics\n\nServed as Prometheus text at `/metrics`. Generated from the table in src/telemetry/table.rs; \
         `CONJOIN_BLESS=1 cargo test metrics` writes it anew.\n\nCounters that come from accounts continue over restarts: \
         they are committed in the manifest.\n\n| metric | kind | tags | meaning |\n|---|---|---|---|\n",
    );
    for MetricInfo { name, kind, tags, help, .. } in METRICS {
        text += &format!("| `{name}` | {} | {} | {help} |\n", kind.name(), tags.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum_and_names_are_unique() {
        for (index, info) in METRICS.iter().enumerate() {
            assert_eq!(info.metric as usize, index, "{}", info.name);
            assert!(METRICS[..index].iter().all(|other| other.name != info.name), "{}", info.name);
        }
    }

    #[test]
    fn names_carry_the_prefix_and_a_unit() {
        const UNITS: [&str; 13] = [
            "_seconds",
            "_bytes",
            "_rows",
            "_records",
            "_partitions",
            "_entities",
            "_tiles",
            "_cells",
            "_files",
            "_items",
            "_ratio",
            "_ready",
            "_total",
        ];
        const WITHOUT_UNIT: [Metric; 3] = [StreamCutOff, CommitSequence, BuildInfo];
        for info in METRICS {
            assert!(info.name.starts_with("conjoin_"), "{}", info.name);
            let unit = UNITS.iter().any(|unit| info.name.ends_with(unit));
            assert!(unit || WITHOUT_UNIT.contains(&info.metric), "{} has no unit", info.name);
            assert_eq!(info.name.ends_with("_total"), info.kind == Counter, "{}: _total is for counters", info.name);
            assert!(info.help.ends_with('.'), "{}: its help is a sentence", info.name);
        }
    }

    #[test]
    fn the_metrics_reference_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/METRICS.md");
        if std::env::var_os("CONJOIN_BLESS").is_some() {
            std::fs::write(path, metrics_reference()).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(found == metrics_reference(), "docs/METRICS.md is out of date: CONJOIN_BLESS=1 cargo test metrics");
    }
}
