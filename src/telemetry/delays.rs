//! Delays: sketches as Prometheus histograms. The crate's own histograms take one value at a time and only ever grow; a
//! sketch comes whole, as the last manifest has it.
//!
//! Holds: what is shown is what was told last; a scrape waits for nothing but a copy.

use crate::event::DelaySketch;
use prometheus::core::{Collector, Desc, Describer};
use prometheus::proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Opts, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// One histogram per list of tags.
#[derive(Clone)]
pub(super) struct DelayFamily {
    desc: Desc,
    /// In seconds.
    bounds: &'static [f64],
    told: Arc<Mutex<BTreeMap<Vec<String>, Histogram>>>,
}

impl DelayFamily {
    pub fn new(opts: Opts, tags: &[&str], bounds: &'static [f64]) -> Result<DelayFamily> {
        let desc = opts.variable_labels(tags.iter().map(|tag| (*tag).to_owned()).collect()).describe()?;
        Ok(DelayFamily { desc, bounds, told: Arc::default() })
    }

    pub fn tell(&self, tags: &[&str], delays: &DelaySketch) {
        let bucket = |bound: &f64| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(delays.count_within((bound * 1e3) as i64));
            bucket
        };
        let mut histogram = Histogram::default();
        histogram.set_bucket(self.bounds.iter().map(bucket).collect());
        histogram.set_sample_count(delays.count());
        histogram.set_sample_sum(delays.sum_ms() as f64 / 1e3);
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(tags, histogram);
    }
}

impl Collector for DelayFamily {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let metrics = told.iter().map(|(tags, histogram)| {
            let pair = |(name, value): (&String, &String)| {
                let mut pair = LabelPair::default();
                pair.set_name(name.clone());
                pair.set_value(value.clone());
                pair
            };
            let mut pairs: Vec<LabelPair> = self.desc.variable_labels.iter().zip(tags).map(pair).collect();
            pairs.sort_by(|a, b| a.name().cmp(b.name()));
            let mut metric = Metric::from_label(pairs);
            metric.set_histogram(histogram.clone());
            metric
        });
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(metrics.collect());
        vec![family]
    }
}
