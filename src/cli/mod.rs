//! Cli.

pub mod generate;
