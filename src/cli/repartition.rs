//! `conjoin repartition`: copies a stream's topics into one that is partitioned by the stream's key.

use crate::audit::{RepartitionOptions, Repartitioned, repartition as run_repartition};
use crate::cli::run::{STATUS_EVERY, STATUS_LINE_EVERY, init_logs, rewrite, stop_on_signals};
use crate::cli::table::terminal_safe;
use crate::cli::{EXIT_FAILED, PipelineArgs, eprint_text, print_text};
use crate::env::{Clock, SystemClock};
use crate::pipeline::StopSignal;
use crate::telemetry::{exact_count, human_bytes, human_rate};
use std::io::IsTerminal;
use std::process::ExitCode;

/// Copy a stream's topics into one topic that is partitioned by the stream's partition_by
///
/// Several processes can share a pipeline when all its topics are partitioned by the same key into the same number of
/// partitions. This makes such a topic from one that is not. Every record is written unchanged (payload, headers, time)
/// with a new message key, the text of its partition_by columns joined by `:`, to the partition that this key has. Records
/// that no stream of the topic can read or wants go by their own key, or to partition 0: they become dead letters, or are
/// filtered, where they are read.
///
/// The topic is made if it is missing. The command begins at the topics' start and goes on where its last call ended; a
/// consumer group of its own remembers the place, `conjoin-<pipeline>-repartition-<stream>-<topic>`. No record is left out,
/// and records of one source partition keep their order. After a crash some records are copied again; they are exact
/// duplicates, and a pipeline drops them by their id. Without --until-end it goes on copying what comes, until Ctrl-C.
#[derive(clap::Args, Debug)]
pub struct RepartitionArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// The stream whose partition_by decides, and whose topics are copied
    #[arg(long)]
    stream: String,
    /// The topic to write
    #[arg(long, value_name = "TOPIC")]
    to: String,
    /// How many partitions that topic has, or gets
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    partitions: u32,
    /// Stop at the end that the topics have now
    #[arg(long)]
    until_end: bool,
    /// Print the summary as one JSON object; its keys are stable
    #[arg(long)]
    json: bool,
}

pub fn repartition(args: &RepartitionArgs) -> ExitCode {
    init_logs("warn");
    let plan = match args.pipeline.load() {
        Ok(plan) => plan,
        Err(code) => return code,
    };
    let stop = StopSignal::default();
    let signals = match stop_on_signals(stop.clone()) {
        Ok(signals) => signals,
        Err(error) => {
            eprint_text(&format!("error: cannot listen to signals: {error}"));
            return ExitCode::from(EXIT_FAILED);
        }
    };
    let options = RepartitionOptions {
        stream: args.stream.clone(),
        to: args.to.clone(),
        partitions: args.partitions,
        partitioner: plan.partitioner,
        until_end: args.until_end,
    };
    let mut status = Status::new();
    let result = run_repartition(&plan, &options, &stop, &mut |done| status.tell(done));
    status.clear();
    signals.close();
    match result {
        Ok(done) => {
            print_text(&match args.json {
                true => serde_json::to_string(&done).expect("a summary is plain data"),
                false => summary(&done),
            });
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprint_text(&format!("error: {error}\nThe same command goes on from what the brokers have acknowledged."));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn summary(done: &Repartitioned) -> String {
    let mut text = format!(
        "{}: {} records ({}) written to {} partitions",
        done.to,
        exact_count(done.records),
        human_bytes(done.bytes),
        done.partitions
    );
    for (stream, records) in &done.by_stream {
        text += &format!("\n  {} by the key of stream {stream}", exact_count(*records));
    }
    for (records, what) in [
        (done.undecoded, "by their own key or to partition 0: they cannot be read, and become dead letters there"),
        (done.filtered, "by their own key or to partition 0: no stream wants them"),
    ] {
        if records > 0 {
            text += &format!("\n  {} {what}", exact_count(records));
        }
    }
    text += &format!("\ngroup {} remembers the place: the same command goes on from there", done.group);
    terminal_safe(text.as_bytes()).replace("\\n", "\n")
}

/// The line that says how far it is: in place on a terminal, now and then otherwise.
struct Status {
    clock: SystemClock,
    terminal: bool,
    /// When the line was last printed, and how many records were copied by then.
    last: (u64, u64),
}

impl Status {
    fn new() -> Status {
        let clock = SystemClock::new();
        Status { last: (clock.monotonic_us(), 0), clock, terminal: std::io::stderr().is_terminal() }
    }

    fn tell(&mut self, done: &Repartitioned) {
        let every = if self.terminal { STATUS_EVERY } else { STATUS_LINE_EVERY };
        let now = self.clock.monotonic_us();
        let passed = now.saturating_sub(self.last.0);
        if (passed as u128) < every.as_micros() {
            return;
        }
        let rate = (done.records - self.last.1) as f64 / (passed as f64 / 1e6);
        let line = format!(
            "{} records copied, {} left, {}",
            exact_count(done.records),
            exact_count(done.left),
            human_rate(rate)
        );
        match self.terminal {
            true => rewrite(&line),
            false => eprint_text(&line),
        }
        self.last = (now, done.records);
    }

    fn clear(&self) {
        if self.terminal {
            rewrite("");
        }
    }
}
