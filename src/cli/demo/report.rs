//! Report: the demo's results as text for a terminal of 80 columns.

use crate::cli::demo::DemoArgs;
use crate::cli::demo::data::{Events, Slate};
use crate::cli::demo::pipeline::{FILE, Ran};
use crate::cli::demo::samples::{JOINS, Samples, percentile};
use crate::cli::demo::tryout::{features_request, rank_request};
use crate::cli::generate::GenSummary;
use crate::telemetry::{exact_count, human_bytes, human_count, human_duration_ms, human_percent};
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

/// Writing to a string cannot fail.
macro_rules! line {
    ($text:expr, $($part:tt)*) => {
        let _ = writeln!($text, $($part)*);
    };
}

pub fn events(events: &Events, folder: &Path) -> String {
    let truth = &events.truth;
    let mut text = String::new();
    line!(
        text,
        "events       {}: {}, {}",
        folder.display(),
        human_bytes(events.bytes),
        if events.kept { "kept from an earlier demo" } else { "made just now" }
    );
    line!(
        text,
        "  {} items shown in {} slates, {} clicks, {} conversions",
        exact_count(truth.impressions),
        exact_count(truth.slates),
        exact_count(truth.clicks),
        exact_count(truth.conversions)
    );
    text
}

pub fn run(ran: &Ran) -> String {
    let view = &ran.summary.view;
    let rows: u64 = view.streams.iter().map(|(_, account)| account.consumed).sum();
    let per_second = |count: u64| human_count(count * 1000 / ran.wall_ms.max(1));
    let mut text = String::new();
    line!(
        text,
        "pipeline     {FILE}: {} by {}, {}",
        human_duration_ms(ran.wall_ms as i64),
        counted(ran.plan.state.lanes as u64, "lane"),
        counted(view.commits_this_run, "commit")
    );
    line!(
        text,
        "  {} events/s ({} records/s; a record is one slate, click or conversion)",
        per_second(rows),
        per_second(view.records_this_run)
    );
    text
}

pub fn streams(ran: &Ran) -> String {
    let mut text = String::new();
    line!(text, "{:<12} {:>12} = {:>12} + {:>10} + {:>12}", "streams", "rows", "accepted", "filtered", "dead letters");
    for (name, account) in &ran.summary.view.streams {
        line!(
            text,
            "  {name:<12} {:>10} = {:>12} + {:>10} + {:>12}",
            exact_count(account.consumed),
            exact_count(account.accepted),
            exact_count(account.filtered),
            exact_count(account.dead_lettered)
        );
    }
    text
}

pub fn samples(ran: &Ran, found: &Samples, folder: &Path) -> String {
    let mut text = String::new();
    line!(
        text,
        "samples      {} rows in {} Parquet files, {}, below {}",
        exact_count(found.rows),
        found.files.len(),
        human_bytes(found.bytes),
        folder.join("samples").display()
    );
    let Some(counts) = ran.summary.view.counts.samples.first() else { return text };
    let anchor = &counts.anchor;
    line!(
        text,
        "  {} accepted = {} samples + {} duplicates + {} late",
        exact_count(anchor.accepted()),
        exact_count(anchor.emitted),
        exact_count(anchor.duplicate + anchor.conflict),
        exact_count(anchor.late)
    );
    text
}

pub fn labels(found: &Samples) -> String {
    let mut text = String::new();
    line!(
        text,
        "{:<12} {:>10} {:>8} {:>10} {:>10} {:>10} {:>10}",
        "labels",
        "rows",
        "of all",
        "delay p50",
        "p90",
        "p99",
        "max"
    );
    for ((name, _), delays) in JOINS.iter().zip(&found.delays_ms) {
        let at = |percent| percentile(delays, percent).map_or("-".to_owned(), human_duration_ms);
        line!(
            text,
            "  {name:<10} {:>10} {:>8} {:>10} {:>10} {:>10} {:>10}",
            exact_count(delays.len() as u64),
            human_percent(delays.len() as u64, found.rows),
            at(50),
            at(90),
            at(99),
            at(100)
        );
    }
    text
}

/// What the events were made with against what was found.
pub struct Comparison {
    pub text: String,
    pub equal: bool,
}

pub fn compare(ran: &Ran, truth: &GenSummary, found: &Samples) -> Comparison {
    let view = &ran.summary.view;
    let duplicates = |label: usize| view.counts.samples.first().map_or(0, |sample| sample.labels[label].duplicate);
    let dead = view.streams.iter().map(|(_, account)| account.dead_lettered).sum();
    let anchor = view.counts.samples.first().map(|sample| sample.anchor).unwrap_or_default();
    let rows = [
        ("samples", truth.impressions, found.rows),
        ("clicked within 10 min", truth.clicked_within_10m, found.delays_ms[0].len() as u64),
        ("converted within 30 min", truth.converted_within_30m, found.delays_ms[1].len() as u64),
        ("duplicate impressions", truth.duplicate_impressions, anchor.duplicate),
        ("duplicate clicks", truth.duplicate_clicks, duplicates(0)),
        ("duplicate conversions", truth.duplicate_conversions, duplicates(1)),
        ("malformed records", truth.malformed_slates + truth.malformed_clicks + truth.malformed_conversions, dead),
    ];
    let mut text = String::new();
    line!(text, "{:<26} {:>12} {:>12}", "truth", "made", "found");
    for (what, made, found) in rows {
        let verdict = if made == found { "equal" } else { "DIFFERENT" };
        line!(text, "  {what:<24} {:>12} {:>12}   {verdict}", exact_count(made), exact_count(found));
    }
    Comparison { text, equal: rows.iter().all(|(_, made, found)| made == found) }
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// How to look further.
pub fn further(args: &DemoArgs, addr: SocketAddr, slate: &Slate, ranks: bool) -> String {
    let samples = args.dir.join("samples");
    let mut text = String::from("look further\n");
    line!(text, "  duckdb -c \"SELECT position, avg(clicked::INT) AS ctr, count(*) AS n");
    line!(text, "    FROM '{}/**/*.parquet' GROUP BY 1 ORDER BY 1\"", samples.display());
    line!(text, "  python3 -c \"import pyarrow.parquet as p; print(");
    line!(text, "    p.read_table('{}').slice(0, 3).to_pylist())\"", samples.display());
    if args.serve {
        line!(text, "  curl -s http://{addr}/metrics");
        line!(text, "  curl -s http://{addr}/v1/features -d '{}'", features_request(slate));
        if ranks {
            line!(text, "  curl -s http://{addr}/v1/rank -d '{}'", rank_request(slate));
        }
    } else {
        line!(text, "  make demo SERVE=1      keeps the server up, and prints curl lines for it");
    }
    text
}

/// Breaks text between words into lines of so many characters.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always a line");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_broken_between_words() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("incomprehensible x", 4), ["incomprehensible", "x"]);
    }
}
