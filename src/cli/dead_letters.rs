//! `conjoin dead-letters`: counts, shows and sends back the records that could not be read.

use crate::audit::{
    AuditError, LetterFilter, Record, ReplayOptions, ReplayedInput, each_letter, lay_repaired, letter_groups,
    letter_records, own_state, replay,
};
use crate::cli::table::{Table, terminal_safe};
use crate::cli::{EXIT_FAILED, PipelineArgs, eprint_text, print_text};
use crate::commit::Manifest;
use crate::config::Plan;
use crate::env::{Clock, Store, SystemClock, SystemEntropy};
use crate::event::file_and_offset;
use crate::sink::Letter;
use crate::telemetry::{exact_count, human_time};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Count, show and send back records that could not be read
#[derive(clap::Subcommand, Debug)]
pub enum DeadLettersCommand {
    /// Count them by stream, topic and reason
    List(ListArgs),
    /// Show single records with their place, reason and bytes
    Show(ShowArgs),
    /// Send records back to their topic, or into a new file of their file input
    ///
    /// A record goes to the topic and partition it came from, with its key and headers, and a header conjoin-replay-of:
    /// topic/partition/offset. For a file input a new file is written that comes behind all others by name; a run takes
    /// it at its next start. The pipeline judges a replayed record as any other: rows that it has already are dropped by
    /// their id, and a row that is older than the lateness allows by now is counted late. What was sent before, and
    /// what came back from a replay unread again, is skipped.
    Replay(ReplayArgs),
}

#[derive(clap::Args, Debug)]
struct FilterArgs {
    /// Only letters of this stream; may be given several times
    #[arg(long)]
    stream: Vec<String>,
    /// Only letters of this topic or file pattern; may be given several times
    #[arg(long)]
    topic: Vec<String>,
    /// Only letters with this reason, such as malformed_json; may be given several times
    #[arg(long)]
    reason: Vec<String>,
    /// Only the first so many
    #[arg(long)]
    limit: Option<usize>,
}

impl FilterArgs {
    fn filter(&self) -> LetterFilter {
        LetterFilter {
            streams: self.stream.clone(),
            topics: self.topic.clone(),
            reasons: self.reason.clone(),
            limit: self.limit,
        }
    }
}

#[derive(clap::Args, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// Print one JSON object; its keys are stable
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
pub struct ShowArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// Write each record's bytes as they came, one record per line, to be repaired in an editor
    #[arg(long)]
    raw: bool,
    /// Print one JSON object per letter
    #[arg(long, conflicts_with = "raw")]
    json: bool,
}

#[derive(clap::Args, Debug)]
pub struct ReplayArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// Repaired payloads: line n stands for record n of `show --raw` with the same filters, an empty line leaves it out
    #[arg(long, value_name = "FILE.ndjson")]
    from: Option<PathBuf>,
    /// Count what would be sent, and send nothing
    #[arg(long)]
    dry_run: bool,
    /// Send also what was sent before
    #[arg(long)]
    again: bool,
    /// Print one JSON object; its keys are stable
    #[arg(long)]
    json: bool,
}

pub fn dead_letters(command: &DeadLettersCommand) -> ExitCode {
    let pipeline = match command {
        DeadLettersCommand::List(args) => &args.pipeline,
        DeadLettersCommand::Show(args) => &args.pipeline,
        DeadLettersCommand::Replay(args) => &args.pipeline,
    };
    let act = |state: State| match command {
        DeadLettersCommand::List(args) => list(&state, args),
        DeadLettersCommand::Show(args) => show(&state, args),
        DeadLettersCommand::Replay(args) => send_back(&state, args),
    };
    let plan = match pipeline.load() {
        Ok(plan) => plan,
        Err(code) => return code,
    };
    match State::open(plan).and_then(act) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_FAILED),
        Err(error) => {
            eprint_text(&format!("error: {error}"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

struct State {
    plan: Plan,
    store: Arc<dyn Store>,
    head: Manifest,
}

impl State {
    fn open(plan: Plan) -> Result<State, AuditError> {
        let state = own_state(&plan)?;
        Ok(State { head: state.whole(), plan, store: state.root })
    }

    /// A place as people know it.
    fn place(&self, input: &str, partition: u32, position: i64) -> String {
        let files = self.head.inputs.iter().find(|entry| entry.name == input).map(|entry| &entry.files);
        let (number, byte) = file_and_offset(position);
        match files.and_then(|files| files.get(number as usize)) {
            Some(file) => format!("{file} byte {byte}"),
            None => format!("{input}/{partition} offset {position}"),
        }
    }
}

fn list(state: &State, args: &ListArgs) -> Result<bool, AuditError> {
    let groups = letter_groups(state.store.as_ref(), &args.filter.filter())?;
    let rows: u64 = groups.iter().map(|group| group.rows).sum();
    let committed = state.head.totals.dead_letter_rows;
    if args.json {
        let view = serde_json::json!({ "groups": groups, "rows": rows, "committed_rows": committed });
        print_text(&view.to_string());
        return Ok(true);
    }
    let mut table = Table::new(&["stream", "topic", "reason", ">rows", ">records", "first", "last", ">files"]);
    for group in &groups {
        table.row([
            group.stream.clone(),
            group.topic.clone(),
            group.reason.clone(),
            exact_count(group.rows),
            exact_count(group.records),
            human_time(group.first_at),
            human_time(group.last_at),
            group.files.len().to_string(),
        ]);
    }
    match table.is_empty() {
        true => print_text("no dead letters"),
        false => print_text(&format!("{}\n{} rows in all", table.render(), exact_count(rows))),
    }
    let filtered = !(args.filter.stream.is_empty() && args.filter.topic.is_empty() && args.filter.reason.is_empty());
    if !filtered && args.filter.limit.is_none() && rows < committed {
        eprint_text(&format!(
            "{} more rows are committed, in files that have no public name: the next start publishes them, or somebody \
             deleted files",
            committed - rows
        ));
    }
    Ok(true)
}

fn show(state: &State, args: &ShowArgs) -> Result<bool, AuditError> {
    let filter = args.filter.filter();
    if args.raw {
        let records = letter_records(state.store.as_ref(), &filter)?;
        return write_raw(&records);
    }
    let mut shown = 0;
    each_letter(state.store.as_ref(), &filter, &mut |file, letter| {
        shown += 1;
        print_text(&match args.json {
            true => letter_json(file, &letter),
            false => letter_text(state, shown, &letter),
        });
    })?;
    if shown == 0 && !args.json {
        print_text("no dead letters");
    }
    Ok(true)
}

fn letter_text(state: &State, number: usize, letter: &Letter) -> String {
    let Letter { stream, input, partition, position, item, reason, message, raw, rejected_at } = letter;
    let item = item.map_or_else(String::new, |item| format!(" item {item}"));
    format!(
        "{number}. stream {}: {}{item}, rejected {}\n   {}: {}\n   {} bytes: {}\n",
        terminal_safe(stream.as_bytes()),
        terminal_safe(state.place(input, *partition, *position).as_bytes()),
        human_time(*rejected_at),
        terminal_safe(reason.as_bytes()),
        terminal_safe(message.as_bytes()),
        exact_count(raw.len() as u64),
        terminal_safe(raw),
    )
}

fn letter_json(file: &str, letter: &Letter) -> String {
    let raw = std::str::from_utf8(&letter.raw).ok();
    serde_json::json!({
        "stream": letter.stream,
        "topic": letter.input,
        "partition": letter.partition,
        "offset": letter.position,
        "item": letter.item,
        "reason": letter.reason,
        "message": letter.message,
        "rejected_at": letter.rejected_at,
        "raw": raw,
        "raw_bytes": raw.is_none().then_some(&letter.raw),
        "file": file,
    })
    .to_string()
}

/// One record per line. A line break inside of a record can only be space between tokens, or what is wrong with it.
fn write_raw(records: &[Record]) -> Result<bool, AuditError> {
    let mut out = std::io::stdout().lock();
    let mut broken = 0;
    for record in records {
        let mut line = record.payload.clone();
        if line.contains(&b'\n') {
            broken += 1;
            line.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
        }
        line.push(b'\n');
        if let Err(error) = out.write_all(&line) {
            // Whoever reads has seen enough.
            return match error.kind() {
                std::io::ErrorKind::BrokenPipe => Ok(true),
                _ => Err(AuditError::Asked(format!("cannot write to standard output: {error}"))),
            };
        }
    }
    let _ = out.flush();
    if broken > 0 {
        eprint_text(&format!("line breaks inside of {broken} records were written as spaces"));
    }
    Ok(true)
}

fn send_back(state: &State, args: &ReplayArgs) -> Result<bool, AuditError> {
    let mut records = letter_records(state.store.as_ref(), &args.filter.filter())?;
    if let Some(path) = &args.from {
        let repaired = std::fs::read(path)
            .map_err(|error| AuditError::Asked(format!("{} cannot be read: {error}", path.display())))?;
        lay_repaired(&mut records, &repaired)?;
    }
    let now_ms = SystemClock::new().now_ms();
    let options = ReplayOptions { dry_run: args.dry_run, again: args.again, now_ms };
    let replayed = replay(&state.plan, state.store.as_ref(), &state.head, records, options, &SystemEntropy)?;
    let failed: u64 = replayed.iter().map(|input| input.failed).sum();
    if args.json {
        print_text(&serde_json::json!({ "dry_run": args.dry_run, "inputs": replayed }).to_string());
        return Ok(failed == 0);
    }
    if replayed.is_empty() {
        print_text("no dead letters");
    }
    for input in &replayed {
        print_text(&replayed_text(input, args.dry_run));
    }
    Ok(failed == 0)
}

fn replayed_text(input: &ReplayedInput, dry_run: bool) -> String {
    let verb = if dry_run { "would be sent" } else { "sent" };
    let to = input.file.as_ref().map_or_else(String::new, |file| format!(" as {file}, read at the next start"));
    let mut text = format!("{}: {} records {verb}{to}", input.topic, exact_count(input.sent));
    for (count, what) in [
        (input.skipped_replayed, "skipped: sent before (--again sends them all the same)"),
        (input.skipped_blank, "skipped: their line is empty"),
        (input.skipped_empty, "skipped: they have no payload"),
        (input.skipped_cut, "skipped: only their first bytes were kept; repair them with --from"),
        (input.without_key, "without key and headers: the topic no longer holds the original"),
        (input.failed, "NOT sent"),
    ] {
        if count > 0 {
            text += &format!("\n  {} {what}", exact_count(count));
        }
    }
    if let Some(error) = &input.first_failure {
        text += &format!(": {error}; run the command again, what was sent is skipped");
    }
    terminal_safe(text.as_bytes()).replace("\\n", "\n")
}
