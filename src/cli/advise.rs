//! `conjoin advise`: how late labels come, and which window takes in how many of them at what cost.

use crate::audit::{
    Advice, AdviseOptions, AdvisedInput, Cost, JoinAdvice, ReadStop, SampleAdvice, advise as run_advise,
};
use crate::cli::table::{Table, terminal_safe};
use crate::cli::verify::parse_time;
use crate::cli::{EXIT_FAILED, PipelineArgs, eprint_text, print_text};
use crate::config::{duration, duration_text, size};
use crate::event::{DurationMs, EventTime};
use crate::telemetry::{exact_count, human_bytes, human_duration_ms, human_percent, human_time};
use std::process::ExitCode;

/// Say how late labels come, how many of them the windows take in, and what longer ones would cost
///
/// Reads the inputs from where their logs begin to their present end, matches each label with the impression that a join
/// would choose if its window were as long as --longest, and tells for each join the delays, the share of labels that the
/// configured window takes in, and the smallest window for 95, 99 and 99.9 %, each with the rows that then wait, what they
/// take in memory and on disk (measured on rows of the input), and when a sample is decided. Touches no state, and works
/// beside a running process.
///
/// Only impressions count that had --longest before the log of labels ends: of younger ones the late labels are still to
/// come, and the windows would seem to need less than they do. Shares are of the labels that come within --longest; what
/// comes later is in none of the numbers.
///
/// Each impression and each label takes 48 bytes. Where that is more than --memory, every second key is left out, then
/// every fourth, and so on: what is left is a fair share of the whole log.
#[derive(clap::Args, Debug)]
pub struct AdviseArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Only rows from this time on (RFC 3339, or ms since 1970); topics are read from the first record that came then
    #[arg(long, value_parser = parse_time)]
    from: Option<EventTime>,
    /// Only rows before this time
    #[arg(long, value_parser = parse_time)]
    to: Option<EventTime>,
    /// Read at most so many records of each partition
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_records: Option<u64>,
    /// The longest delay to look for, such as 7d [default: ten times the join's window]
    #[arg(long, value_parser = parse_duration)]
    longest: Option<DurationMs>,
    /// What the rows that are kept may take
    #[arg(long, value_name = "SIZE", default_value = "1GB", value_parser = parse_size)]
    memory: u64,
    /// Print one JSON object; its keys are stable
    #[arg(long)]
    json: bool,
}

fn parse_duration(text: &str) -> Result<DurationMs, String> {
    duration(text).filter(|ms| *ms > 0).ok_or_else(|| "a whole number with ms, s, m, h or d, such as 36h".into())
}

fn parse_size(text: &str) -> Result<u64, String> {
    size(text).filter(|bytes| *bytes > 0).ok_or_else(|| "a whole number with KB, MB or GB, such as 512MB".into())
}

pub fn advise(args: &AdviseArgs) -> ExitCode {
    crate::cli::run::init_logs("warn");
    let plan = match args.pipeline.load() {
        Ok(plan) => plan,
        Err(code) => return code,
    };
    let options = AdviseOptions {
        from: args.from,
        to: args.to,
        records_max: args.max_records.unwrap_or(u64::MAX),
        longest_ms: args.longest,
        memory_bytes: args.memory,
    };
    match run_advise(&plan, &options) {
        Ok(advice) => {
            print_text(&match args.json {
                true => serde_json::to_string(&advice).expect("an advice is plain data"),
                false => render(&advice),
            });
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprint_text(&format!("error: {error}"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn render(advice: &Advice) -> String {
    let mut parts = vec![format!("pipeline {}\nread\n{}", advice.pipeline, inputs(&advice.inputs).render().trim_end())];
    if advice.dead_lettered > 0 {
        parts.push(format!("{} rows could not be read, as in a run", exact_count(advice.dead_lettered)));
    }
    if advice.one_key_of > 1 {
        parts.push(format!(
            "the rows of one key in {} were kept, and are what is counted below: all of them are more than --memory. Rates \
             and costs are those of all keys",
            advice.one_key_of
        ));
    }
    for sample in &advice.samples {
        parts.push(sample_text(sample));
        parts.extend(sample.joins.iter().map(|join| join_text(sample, join)));
    }
    parts.push(
        "pending: impressions that wait, on average and in the busiest stretch. memory, disk: of those and their labels, at \
         the busiest,\nwith what is remembered against copies. decided: event time from an impression to its sample, with \
         lateness and the time bucket.\nA sample waits for the longest of its windows: one below that costs nothing"
            .into(),
    );
    parts.join("\n\n")
}

fn inputs(inputs: &[AdvisedInput]) -> Table {
    let mut table = Table::new(&["input", ">partition", ">records", ">size", "oldest", "newest", "up to"]);
    let time = |time: Option<EventTime>| time.map_or_else(|| "-".into(), human_time);
    for input in inputs {
        let stopped = match input.stopped {
            Some(ReadStop::End) | None => "its end",
            Some(ReadStop::MaxRecords) => "--max-records",
            Some(ReadStop::To) => "--to",
        };
        let numbers = [input.partition.to_string(), exact_count(input.records), human_bytes(input.bytes)];
        let rest = [time(input.oldest), time(input.newest), stopped.into()];
        table.row([input.input.clone()].into_iter().chain(numbers).chain(rest));
    }
    table
}

fn sample_text(sample: &SampleAdvice) -> String {
    let mut text = format!("sample {}: {} impressions", sample.sample, exact_count(sample.impressions));
    if let (Some(first), Some(last)) = (sample.first, sample.last) {
        text += &format!(" from {} to {}, {:.1} per second", human_time(first), human_time(last), sample.per_second);
    }
    for (rows, what) in [(sample.duplicate, "copies were left out"), (sample.late, "came late: a run drops them")] {
        if rows > 0 {
            text += &format!("; {} {what}", exact_count(rows));
        }
    }
    let bytes = &sample.row_bytes;
    text += &format!(
        "\na pending one takes {} in memory, {} on disk, measured on {} rows",
        human_bytes(bytes.impression_memory as u64),
        human_bytes(bytes.impression_disk as u64),
        exact_count(bytes.measured_rows)
    );
    if !sample.unmeasured_features.is_empty() {
        text += &format!(", without the values of {}", sample.unmeasured_features.join(", "));
    }
    if let Some(after) = sample.file_after_ms {
        text += &format!("; a decided one is in a file {} later at most", human_duration_ms(after));
    }
    for note in &sample.notes {
        text += &format!("\nNOTE: {note}");
    }
    terminal_safe(text.as_bytes()).replace("\\n", "\n")
}

fn join_text(sample: &SampleAdvice, join: &JoinAdvice) -> String {
    let labels = &join.labels;
    let mut text = format!("{}.{}: {} labels", sample.sample, join.join, exact_count(labels.labels));
    for (rows, what) in [(labels.filtered, "turned away by where"), (labels.duplicate, "copies left out")] {
        if rows > 0 {
            text += &format!(", {} {what}", exact_count(rows));
        }
    }
    let mut fates = Table::new(&[">labels", ">share", "what of them"]);
    for (rows, what) in [
        (labels.matched, "count: their impressions had all of the time"),
        (labels.censored, "have impressions too near the end of the log, and do not count"),
        (labels.unmatched, "have no impression of their key so near, though all that could be theirs were read"),
        (labels.unknown, "have none in what was read, but may have one outside of it"),
    ] {
        fates.row([exact_count(rows), human_percent(rows, labels.labels), what.into()]);
    }
    text += &format!("\n{}", fates.render().trim_end());
    text += &format!(
        "\nlooked for up to {} behind the impression; those before {} had that long",
        duration_text(join.longest_ms),
        human_time(join.impressions_until)
    );
    if let Some(delays) = &join.delays {
        let of = [
            ("p50", delays.p50_ms),
            ("p90", delays.p90_ms),
            ("p95", delays.p95_ms),
            ("p99", delays.p99_ms),
            ("p99.9", delays.p999_ms),
            ("longest", delays.longest_ms),
        ];
        let of = of.map(|(name, ms)| format!("{name} {}", human_duration_ms(ms)));
        text += &format!("\ndelays: {}", of.join(", "));
    }
    if join.ahead.labels > 0 {
        text += &format!(
            "\n{} came ahead of their impressions, {} by more than before: {}; before: {} takes in all but one in a thousand \
             labels",
            exact_count(join.ahead.labels),
            exact_count(join.ahead.beyond_before),
            duration_text(join.before_ms),
            rounded_up(join.ahead.before_ms)
        );
    }
    text += &format!("\n{}", windows(join).render().trim_end());
    for note in &join.notes {
        text += &format!("\nNOTE: {note}");
    }
    terminal_safe(text.as_bytes()).replace("\\n", "\n")
}

fn windows(join: &JoinAdvice) -> Table {
    let mut table =
        Table::new(&["coverage", ">within", "95 % sure", ">pending", ">busiest", ">memory", ">disk", ">decided"]);
    let cost = |cost: &Cost| {
        let busiest = cost.pending_rows_busiest.map_or_else(|| "-".into(), exact_count);
        [
            exact_count(cost.pending_rows),
            busiest,
            human_bytes(cost.memory_bytes),
            human_bytes(cost.disk_bytes),
            human_duration_ms(cost.decided_after_ms),
        ]
    };
    let coverage = join.coverage.map_or_else(|| "unknown".into(), |share| format!("{:.2} %", share * 100.0));
    let now = [format!("{coverage} now"), duration_text(join.within_ms), String::new()];
    table.row(now.into_iter().chain(cost(&join.cost)));
    for advised in &join.windows {
        let window = &advised.window;
        let (within, costs) = match (window.within_ms, &advised.cost) {
            (Some(within), Some(of)) => (rounded_up(within), cost(of).to_vec()),
            _ => ("none".into(), vec!["-".into(); 5]),
        };
        let sure = match (window.sure_from_ms, window.sure_to_ms) {
            (Some(from), Some(to)) => format!("{} to {}", rounded_up(from), rounded_up(to)),
            (Some(from), None) => format!("{} or more", rounded_up(from)),
            _ => String::new(),
        };
        table.row([format!("{:.1} %", window.coverage * 100.0), within, sure].into_iter().chain(costs));
    }
    table
}

/// A window as it is written in a pipeline file, not shorter and not much longer: whole seconds from ten on.
fn rounded_up(ms: DurationMs) -> String {
    duration_text(if ms < 10_000 { ms } else { (ms + 999) / 1_000 * 1_000 })
}
