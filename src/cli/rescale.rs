//! `conjoin rescale`: brings the state of a stopped pipeline into the shape that its file asks for.

use crate::cli::run::init_logs;
use crate::cli::{EXIT_FAILED, PipelineArgs, eprint_text, print_text};
use crate::env::{Clock, SystemClock, SystemEntropy};
use crate::pipeline::{KafkaBrokers, RescaleOptions, Rescaled};
use crate::telemetry::{exact_count, human_bytes};
use std::process::ExitCode;
use std::sync::Arc;

/// Deal the state of a stopped pipeline out to another number of processes or partitions
///
/// The pipeline file says what is wanted: with `group_mode` one cell for each partition of its topics, without it one
/// process that reads all partitions. Stop every process first. Nothing changes before all is written; the old state stays
/// until the next rescale. Another number of lanes alone needs no rescale: the next start deals them out.
#[derive(clap::Args, Debug)]
pub struct RescaleArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// How many partitions the topics have: where the brokers cannot be asked, or to be sure
    #[arg(long)]
    partitions: Option<u32>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Print the outcome as one line of JSON
    #[arg(long)]
    json: bool,
}

pub fn rescale(args: &RescaleArgs) -> ExitCode {
    init_logs("warn");
    let plan = match args.pipeline.load() {
        Ok(plan) => plan,
        Err(code) => return code,
    };
    let options = RescaleOptions { partitions: args.partitions, dry_run: args.dry_run };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    match crate::pipeline::rescale(&plan, options, &KafkaBrokers, &clock, &SystemEntropy) {
        Ok(rescaled) if args.json => print_text(&json(&rescaled, args.dry_run)),
        Ok(rescaled) => print_text(&text(&rescaled, args.dry_run)),
        Err(error) => {
            eprint_text(&format!("error: {error}"));
            return ExitCode::from(EXIT_FAILED);
        }
    }
    ExitCode::SUCCESS
}

fn json(rescaled: &Rescaled, dry_run: bool) -> String {
    let line = serde_json::json!({
        "from": { "cells": rescaled.from.cells, "lanes": rescaled.from.lanes },
        "to": { "cells": rescaled.to.cells, "lanes": rescaled.to.lanes },
        "generation": rescaled.generation,
        "dry_run": dry_run,
        "pending": rescaled.pending,
        "waiting": rescaled.waiting,
        "tiles": rescaled.tiles,
        "bytes_read": rescaled.bytes_read,
        "bytes_written": rescaled.bytes_written,
        "took_ms": rescaled.took_ms,
    });
    line.to_string()
}

fn text(rescaled: &Rescaled, dry_run: bool) -> String {
    let Some(generation) = rescaled.generation else {
        let lanes = match rescaled.from.lanes == rescaled.to.lanes {
            true => String::new(),
            false => format!(" The next start deals its state out to {}.", lanes(rescaled.to.lanes)),
        };
        return format!("nothing to do: the state belongs to {} already.{lanes}", rescaled.from);
    };
    let held = format!(
        "{} pending rows, {} waiting labels, {} tiles, {} of state",
        exact_count(rescaled.pending),
        exact_count(rescaled.waiting),
        exact_count(rescaled.tiles),
        human_bytes(rescaled.bytes_read),
    );
    if dry_run {
        return format!("would move from {} to {} (generation {generation}): {held}", rescaled.from, rescaled.to);
    }
    format!(
        "moved from {} to {} (generation {generation}): {held}, written as {} in {:.1} s",
        rescaled.from,
        rescaled.to,
        human_bytes(rescaled.bytes_written),
        rescaled.took_ms as f64 / 1e3
    )
}

fn lanes(lanes: usize) -> String {
    if lanes == 1 { "1 lane".into() } else { format!("{lanes} lanes") }
}
