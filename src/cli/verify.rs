//! `conjoin verify`: holds what was published against the input, and says what is not as it should be.

use crate::audit::{Differences, SampleCompared, VerifyOptions, VerifyReport, verify as run_verify};
use crate::cli::table::{Table, terminal_safe};
use crate::cli::{EXIT_FAILED, PipelineArgs, eprint_text, print_text};
use crate::event::EventTime;
use crate::telemetry::{exact_count, human_time};
use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use std::process::ExitCode;

/// Hold the published samples against the input: exit code 0 only when they are equal
///
/// Reads every input again from where the chain began up to the committed positions, computes the samples as a batch, and
/// compares them with the published Parquet files as a multiset of rows by sample id; then every file with what manifests say
/// of it. Works beside a running process, changes nothing, and takes the memory of the whole decoded input.
///
/// Independent of the run: the join (by sorting, without state), the windows (from all events by definition, without
/// tiles), lanes, snapshots, commits, Parquet writing. Shared with it, and so not checked: reading, decoding, `where` and
/// hashing of keys, the expressions of computed and derived columns, negative sampling.
///
/// Lateness is judged by each partition's own log, as a run does. Where a run also let time go on because inputs were idle or
/// files had ended, or met one id with different contents, the outcome depends on what arrived first: such differences are
/// counted as explained, and shown.
#[derive(clap::Args, Debug)]
pub struct VerifyArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Only impressions from this time on (RFC 3339, or ms since 1970); the input may then begin later than the run did.
    /// What lies before it must reach back as far as the longest window does
    #[arg(long, value_parser = parse_time)]
    from: Option<EventTime>,
    /// Only impressions before this time
    #[arg(long, value_parser = parse_time)]
    to: Option<EventTime>,
    /// How many differences of each kind are shown
    #[arg(long, default_value_t = 10)]
    examples: usize,
    /// Print one JSON object; its keys are stable
    #[arg(long)]
    json: bool,
}

pub(super) fn parse_time(text: &str) -> Result<EventTime, String> {
    if let Ok(ms) = text.parse() {
        return Ok(ms);
    }
    let nanos = string_to_timestamp_nanos(text).map_err(|_| "neither RFC 3339 nor ms since 1970".to_string())?;
    Ok(nanos.div_euclid(1_000_000))
}

pub fn verify(args: &VerifyArgs) -> ExitCode {
    crate::cli::run::init_logs("warn");
    let plan = match args.pipeline.load() {
        Ok(plan) => plan,
        Err(code) => return code,
    };
    let options = VerifyOptions { from: args.from, to: args.to, examples_max: args.examples };
    match run_verify(&plan, options) {
        Ok(report) => {
            print_text(&match args.json {
                true => serde_json::to_string(&report).expect("a report is plain data"),
                false => render(&report),
            });
            ExitCode::from(if report.equal { 0 } else { EXIT_FAILED })
        }
        Err(error) => {
            eprint_text(&format!("error: {error}"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn render(report: &VerifyReport) -> String {
    let mut parts = vec![format!("pipeline {} as of manifest {}", report.pipeline, report.manifest)];
    let mut inputs = Table::new(&["input", ">partition", ">from", ">to", ">records"]);
    for range in &report.inputs {
        let numbers = [range.from.to_string(), range.to.to_string(), exact_count(range.records)];
        inputs.row([range.input.clone(), range.partition.to_string()].into_iter().chain(numbers));
    }
    parts.push(format!("read again\n{}", inputs.render().trim_end()));
    let mut streams =
        Table::new(&["stream", ">accepted by the run", ">accepted now", ">dead letters", ">now", "equal"]);
    for stream in &report.streams {
        let (run, now) = (&stream.run, &stream.recomputed);
        let numbers = [run.accepted, now.accepted, run.dead_lettered, now.dead_lettered].map(exact_count);
        let equal = if stream.equal { "yes" } else { "NO" };
        streams.row([stream.stream.clone()].into_iter().chain(numbers).chain([equal.into()]));
    }
    parts.push(format!("rows\n{}", streams.render().trim_end()));
    parts.extend(report.samples.iter().map(sample_text));
    parts.extend(report.problems.iter().map(|problem| format!("PROBLEM: {problem}")));
    let explained: u64 = report.samples.iter().map(|sample| sample.rows.explained()).sum();
    parts.push(match (report.equal, explained) {
        (true, 0) => "equal: every published row is what the input gives".into(),
        (true, rows) => format!("equal, but for {} rows that are explained above", exact_count(rows)),
        (false, _) => "NOT EQUAL".into(),
    });
    parts.join("\n\n")
}

fn sample_text(sample: &SampleCompared) -> String {
    let rows = &sample.rows;
    let filed = sample.filed_before.map_or_else(|| "none yet".into(), human_time);
    let mut text = format!(
        "sample {} (in files: impressions before {filed}): {} rows expected, {} found",
        sample.sample,
        exact_count(rows.expected),
        exact_count(rows.found)
    );
    for (what, differences) in [("missing", &rows.missing), ("too many", &rows.extra), ("different", &rows.different)] {
        text += &differences_text(what, differences);
    }
    if rows.copies > 0 {
        text += &format!("\n  of the rows too many {} are copies of a row that is right", exact_count(rows.copies));
    }
    if let Some(from) = sample.compared_from {
        text += &format!("\n  its definition changed at {}: impressions before are not compared", human_time(from));
    }
    let mut accounts = Table::new(&["account", "outcome", ">run", ">now", "explained by arrival or a change"]);
    for account in sample.accounts.iter().filter(|account| account.run != account.recomputed) {
        let numbers = [account.run, account.recomputed].map(exact_count);
        let explained = if account.explained { "yes" } else { "NO" };
        let cells = [account.of.clone(), account.outcome.to_owned()];
        accounts.row(cells.into_iter().chain(numbers).chain([explained.into()]));
    }
    match accounts.is_empty() {
        true => text += "\n  every account is the run's",
        false => text += &format!("\n  accounts that differ\n{}", accounts.render().trim_end()),
    }
    let files = &sample.files;
    text += &format!(
        "\n  files: {} named with {} rows, every one read and hashed",
        exact_count(files.named),
        exact_count(files.named_rows)
    );
    for (count, what) in [
        (files.unpublished, "have no public name yet: the next start publishes them"),
        (files.of_others, "are another pipeline's"),
    ] {
        if count > 0 {
            text += &format!("\n    {} {what}", exact_count(count));
        }
    }
    for (what, bad) in [("MISSING", &files.missing), ("DAMAGED", &files.damaged), ("EXTRA", &files.extra)] {
        for file in bad {
            let (path, found) = (terminal_safe(file.path.as_bytes()), terminal_safe(file.found.as_bytes()));
            text += &format!("\n    {what} {path}: {found}");
        }
    }
    text
}

fn differences_text(what: &str, differences: &Differences) -> String {
    if differences.rows == 0 {
        return String::new();
    }
    let mut text = format!("\n  {} {what}", exact_count(differences.rows));
    if differences.explained > 0 {
        text += &format!(", of which {} are explained", exact_count(differences.explained));
    }
    for example in &differences.examples {
        text += &format!("\n    {}", terminal_safe(example.id.as_bytes()));
        for column in &example.columns {
            let (found, expected) = (terminal_safe(column.found.as_bytes()), terminal_safe(column.expected.as_bytes()));
            text += &format!("\n      {}: found {found}, expected {expected}", terminal_safe(column.column.as_bytes()));
        }
        if let Some(why) = &example.explained {
            text += &format!("\n      explained: {why}");
        }
    }
    text
}
