//! `conjoin inspect`: what the newest manifest says, as tables for people or as JSON.

use crate::audit::{AuditError, CellOverview, GroupOverview, Overview, SampleView, Seen, overview};
use crate::cli::table::Table;
use crate::cli::{EXIT_FAILED, PipelineArgs, eprint_text, print_text};
use crate::env::{Clock, SystemClock};
use crate::event::EventTime;
use crate::telemetry::{exact_count, human_bytes, human_duration_ms, human_time};
use std::process::ExitCode;

/// Show what the state says: chain, positions, what waits, accounts, files
///
/// Reads only, takes no lock, and works beside a running process. Exits with 1 when an account does not add up, a manifest
/// is damaged, or the state cannot be this pipeline's; with 0 when there is no state yet.
#[derive(clap::Args, Debug)]
pub struct InspectArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Print one JSON object; its keys are stable
    #[arg(long)]
    json: bool,
}

/// Files in the table for people; JSON has them all.
const FILES_SHOWN_MAX: usize = 10;

pub fn inspect(args: &InspectArgs) -> ExitCode {
    let plan = match args.pipeline.load() {
        Ok(plan) => plan,
        Err(code) => return code,
    };
    let now_ms = SystemClock::new().now_ms();
    match overview(&plan, now_ms) {
        Ok(seen) => {
            let json = |value: Result<String, serde_json::Error>| value.expect("an overview is plain data");
            let (text, problems) = match &seen {
                Seen::One(one) if args.json => (json(serde_json::to_string(one)), &one.problems),
                Seen::Group(group) if args.json => (json(serde_json::to_string(group)), &group.problems),
                Seen::One(one) => (render(one), &one.problems),
                Seen::Group(group) => (render_group(group), &group.problems),
            };
            print_text(&text);
            ExitCode::from(if problems.is_empty() { 0 } else { EXIT_FAILED })
        }
        Err(error @ AuditError::NoState { .. }) => {
            if args.json {
                print_text(&serde_json::json!({ "pipeline": plan.pipeline, "chain": null }).to_string());
            }
            eprint_text(&error.to_string());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprint_text(&format!("error: {error}"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn time(time: Option<EventTime>) -> String {
    time.map_or_else(|| "-".into(), human_time)
}

fn ok(balances: bool) -> String {
    if balances { "yes" } else { "NO" }.into()
}

fn render(view: &Overview) -> String {
    let chain = &view.chain;
    let mut parts = vec![format!(
        "pipeline {} in {}\nmanifest {} of chain {} (born {}): cut {}, epoch {}, writer {}, {} lanes, written {} ({} ago)",
        view.pipeline,
        view.state,
        chain.head,
        chain.id,
        human_time(chain.born_at_ms),
        chain.cut,
        chain.epoch,
        chain.writer,
        chain.lanes,
        human_time(chain.committed_at_ms),
        human_duration_ms(chain.age_ms),
    )];
    let (first, last, bytes) = (chain.first_kept, chain.head, human_bytes(chain.manifest_bytes));
    section(&mut parts, format!("starts (manifests {first} to {last} are kept, {bytes})"), &claims(view));
    sections(&mut parts, view);
    let accepted = view.accepted_changes.iter();
    parts.extend(accepted.map(|change| format!("the next start with this file changes the state: {change}")));
    problems(&mut parts, &view.problems);
    parts.join("\n\n")
}

fn render_group(view: &GroupOverview) -> String {
    let mut parts = vec![format!("pipeline {} in {}", view.pipeline, view.state)];
    let begun = view.cells.len();
    section(&mut parts, format!("cells ({begun} of {} have begun)", begun + view.not_begun.len()), &cells(view));
    sections(&mut parts, &view.sum);
    problems(&mut parts, &view.problems);
    parts.join("\n\n")
}

fn cells(view: &GroupOverview) -> Table {
    let mut table = Table::new(&[
        ">cell",
        "chain",
        ">manifest",
        ">cut",
        ">epoch",
        "writer",
        ">age",
        "watermark",
        ">pending",
        ">waiting",
        ">state",
        "adds up",
    ]);
    for CellOverview { cell, overview } in &view.cells {
        let chain = &overview.chain;
        let pending = overview.samples.iter().map(|sample| sample.account.pending).sum();
        let waiting = overview.samples.iter().flat_map(|sample| &sample.joins).map(|join| join.account.waiting).sum();
        table.row([
            cell.to_string(),
            chain.id.clone(),
            chain.head.to_string(),
            chain.cut.to_string(),
            chain.epoch.to_string(),
            chain.writer.clone(),
            human_duration_ms(chain.age_ms),
            time(overview.watermark),
            exact_count(pending),
            exact_count(waiting),
            human_bytes(overview.objects.bytes),
            ok(overview.balanced),
        ]);
    }
    table
}

fn section(parts: &mut Vec<String>, title: String, table: &Table) {
    if !table.is_empty() {
        parts.push(format!("{title}\n{}", table.render().trim_end()));
    }
}

fn problems(parts: &mut Vec<String>, problems: &[String]) {
    match problems.is_empty() {
        true => parts.push("every account adds up".into()),
        false => parts.extend(problems.iter().map(|problem| format!("PROBLEM: {problem}"))),
    }
}

fn sections(parts: &mut Vec<String>, view: &Overview) {
    let mut section = |title: String, table: &Table| section(parts, title, table);
    section("positions".into(), &positions(view));
    let (watermark, online) = (time(view.watermark), time(view.online_instant));
    section(
        format!("event time: the cell's watermark is {watermark}, online features are as of {online}"),
        &tracks(view),
    );
    if !view.outages.is_empty() {
        section("times that were closed without a label stream that was cut off".into(), &outages(view));
    }
    section("rows read".into(), &streams(view));
    for sample in &view.samples {
        let (closed, filed) = (time(sample.closed_before), time(sample.filed_before));
        let since = sample.since.map_or_else(String::new, |since| format!(" (begun at {})", human_time(since)));
        section(
            format!(
                "sample {}{since}: impressions before {closed} have closed, before {filed} are in files",
                sample.sample
            ),
            &anchor(sample),
        );
        section(format!("labels of {}", sample.sample), &joins(sample));
        section(format!("delays of the labels of {} that attached, within 3.2 %", sample.sample), &delays(sample));
    }
    section("features".into(), &features(view));
    let objects = &view.objects;
    section(format!("state: {} objects, {}", objects.objects, human_bytes(objects.bytes)), &classes(view));
    section("rows on their way to topics".into(), &outbox(view));
    let named = view.files.named.len();
    let shown =
        if named > FILES_SHOWN_MAX { format!(", the last {FILES_SHOWN_MAX} of {named}") } else { String::new() };
    section(format!("files that the kept manifests name, newest last{shown}"), &files(view));
    let totals = &view.totals;
    parts.push(format!(
        "since the chain was born: {} files with {} rows ({}), {} dead-letter files with {} rows, {} side-output files with {} rows, {} of state written, {} of it copies",
        exact_count(totals.files),
        exact_count(totals.file_rows),
        human_bytes(totals.file_bytes),
        exact_count(totals.dead_letter_files),
        exact_count(totals.dead_letter_rows),
        exact_count(totals.side_files),
        exact_count(totals.side_rows),
        human_bytes(totals.state_bytes_written),
        human_bytes(totals.state_bytes_copied),
    ));
}

fn claims(view: &Overview) -> Table {
    let mut table = Table::new(&[">manifest", ">epoch", "writer", "at", ">age"]);
    for claim in &view.chain.claims {
        table.row([
            claim.number.to_string(),
            claim.epoch.to_string(),
            claim.writer.clone(),
            human_time(claim.at_ms),
            human_duration_ms(claim.age_ms),
        ]);
    }
    table
}

fn positions(view: &Overview) -> Table {
    let mut table = Table::new(&["input", ">partition", "next"]);
    for position in &view.inputs {
        let next = match (&position.file, position.byte) {
            (Some(file), Some(byte)) => format!("{file} byte {}", exact_count(byte)),
            _ if position.files == 1 => "the end of its one file".into(),
            _ if position.files > 1 => format!("the end of its {} files", position.files),
            _ => format!("offset {}", position.next),
        };
        table.row([position.input.clone(), position.partition.to_string(), next]);
    }
    table
}

fn tracks(view: &Overview) -> Table {
    let mut table = Table::new(&["stream", "input", ">partition", "newest", "watermark"]);
    for track in &view.tracks {
        let cells = [track.stream.clone(), track.input.clone(), track.partition.to_string()];
        table.row(cells.into_iter().chain([time(track.newest), time(track.watermark)]));
    }
    table
}

fn outages(view: &Overview) -> Table {
    let mut table = Table::new(&["stream", "from", "to"]);
    for outage in &view.outages {
        table.row([outage.stream.clone(), time(Some(outage.from)), time(Some(outage.to))]);
    }
    table
}

fn streams(view: &Overview) -> Table {
    let mut table = Table::new(&["stream", ">records", ">rows", ">accepted", ">filtered", ">dead letters", "adds up"]);
    for stream in &view.streams {
        let account = &stream.account;
        let numbers = [account.records, account.consumed, account.accepted, account.filtered, account.dead_lettered];
        let cells = numbers.into_iter().map(exact_count);
        table.row([stream.stream.clone()].into_iter().chain(cells).chain([ok(stream.balances)]));
    }
    table
}

fn anchor(sample: &SampleView) -> Table {
    let mut table = Table::new(&[
        "from",
        ">pending",
        ">emitted",
        ">sampled out",
        ">applied",
        ">duplicate",
        ">conflict",
        ">late",
        "adds up",
    ]);
    let account = &sample.account;
    let numbers = [account.pending, account.emitted, account.sampled_out, account.applied];
    let numbers = numbers.into_iter().chain([account.duplicate, account.conflict, account.late]).map(exact_count);
    let name = sample.stream.clone().unwrap_or_default();
    table.row([name].into_iter().chain(numbers).chain([ok(sample.balances)]));
    table
}

fn joins(sample: &SampleView) -> Table {
    let mut table = Table::new(&[
        "join",
        ">waiting",
        ">attached",
        ">corrected",
        ">out of window",
        ">unmatched",
        ">applied",
        ">filtered",
        ">duplicate",
        ">conflict",
        ">late",
        "adds up",
    ]);
    for join in &sample.joins {
        let account = &join.account;
        let numbers = [account.waiting, account.attached, account.corrected, account.out_of_window];
        let numbers = numbers.into_iter().chain([account.expired_unmatched, account.applied]);
        let more = [account.filtered, account.duplicate, account.conflict, account.late];
        let numbers = numbers.chain(more).map(exact_count);
        table.row([join.join.clone()].into_iter().chain(numbers).chain([ok(join.balances)]));
    }
    table
}

fn delays(sample: &SampleView) -> Table {
    let mut table =
        Table::new(&["join", ">labels", ">mean", ">p50", ">p90", ">p95", ">p99", ">p99.9", ">longest", ">coverage"]);
    for join in &sample.joins {
        let Some(delays) = &join.delays else { continue };
        let times = [delays.mean_ms, delays.p50_ms, delays.p90_ms, delays.p95_ms, delays.p99_ms, delays.p999_ms];
        let times = times.into_iter().chain([delays.longest_ms]).map(human_duration_ms);
        let coverage = join.coverage.map_or_else(|| "-".into(), |share| format!("{:.2} %", share * 100.0));
        let cells = [join.join.clone(), exact_count(delays.labels)];
        table.row(cells.into_iter().chain(times).chain([coverage]));
    }
    table
}

fn features(view: &Overview) -> Table {
    let mut table =
        Table::new(&["group", ">entities", ">tiles", "from", ">applied", ">masked", ">duplicate", ">late", "adds up"]);
    for group in &view.features {
        for used in &group.uses {
            let account = &used.account;
            let numbers = [account.applied, account.masked, account.duplicate, account.late].map(exact_count);
            let begun = group.since.map_or_else(String::new, |since| format!(" (begun at {})", human_time(since)));
            let name = format!("{}{begun}", group.group);
            let cells = [name, exact_count(group.entities), exact_count(group.tiles)];
            let stream = used.stream.clone().unwrap_or_default();
            table.row(cells.into_iter().chain([stream]).chain(numbers).chain([ok(used.balances)]));
        }
    }
    table
}

fn classes(view: &Overview) -> Table {
    let mut table = Table::new(&["class", "of", ">blocks", ">rows", ">size", ">still needed"]);
    for class in &view.objects.classes {
        let kind = serde_json::to_value(class.class).ok();
        let kind = kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or_default().to_owned();
        let sizes = [human_bytes(class.bytes), human_bytes(class.needed_bytes)];
        let counts = [exact_count(class.blocks), exact_count(class.rows)];
        table.row([kind, class.of.clone()].into_iter().chain(counts).chain(sizes));
    }
    table
}

fn outbox(view: &Overview) -> Table {
    let mut table = Table::new(&["outlet", ">committed", ">in the topic", ">waiting", ">through commit"]);
    for outlet in &view.outbox {
        let numbers = [outlet.committed, outlet.sent, outlet.waiting].map(exact_count);
        table.row([outlet.outlet.clone()].into_iter().chain(numbers).chain([outlet.kafka_through.to_string()]));
    }
    table
}

fn files(view: &Overview) -> Table {
    let mut table = Table::new(&[">manifest", "sink", "file", ">rows", ">size"]);
    let from = view.files.named.len().saturating_sub(FILES_SHOWN_MAX);
    for file in &view.files.named[from..] {
        table.row([
            file.manifest.to_string(),
            file.sink.clone(),
            file.path.clone(),
            exact_count(file.rows),
            human_bytes(file.bytes),
        ]);
    }
    table
}
