//! `conjoin schema`: the Avro schemas of the rows that a pipeline writes to topics, for readers that have no registry.

use crate::cli::{EXIT_USAGE, PipelineArgs, eprint_text, print_text};
use crate::pipeline::topic_schemas;
use std::process::ExitCode;

/// Print the Avro schemas of the topics that rows are written to
///
/// One JSON object, a schema for each topic; with --topic that schema alone, as a reader of Avro takes it. Nothing is
/// connected.
#[derive(clap::Args, Debug)]
pub struct SchemaArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Only the schema of this topic
    #[arg(long)]
    topic: Option<String>,
}

pub fn schema(args: &SchemaArgs) -> ExitCode {
    let plan = match args.pipeline.load() {
        Ok(plan) => plan,
        Err(code) => return code,
    };
    let schemas = topic_schemas(&plan);
    let text = match &args.topic {
        None => serde_json::to_string_pretty(&schemas),
        Some(topic) => match schemas.get(topic) {
            Some(schema) => serde_json::to_string_pretty(schema),
            None => {
                let known: Vec<&str> = schemas.keys().map(String::as_str).collect();
                let there = if known.is_empty() { "none".into() } else { known.join(", ") };
                eprint_text(&format!("error: no rows are written in Avro to topic {topic}; there are: {there}"));
                return ExitCode::from(EXIT_USAGE);
            }
        },
    };
    print_text(&text.expect("a schema is plain data"));
    ExitCode::SUCCESS
}
