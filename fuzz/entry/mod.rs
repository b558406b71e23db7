//! Entry: what is done with the bytes of a fuzz target, through the public API alone. The targets in `targets/` call it,
//! and so does tests/it/fuzzing.rs with every file of `corpus/`, so that what was found once stays found without a fuzzer.
//!
//! Holds: a function either returns or panics, and a panic is a bug.

mod base;
mod cell;
mod columns;
mod config;
mod decode;
mod files;
mod http;
mod letters;
mod life;
mod manifest;
mod script;
mod start;
mod state;

#[path = "../../src/decode/tests/naive.rs"]
mod naive;

/// What the naive decoder needs of the crate.
mod words {
    pub use conjoin::decode::{ColumnFrom, ColumnSpec, DecodeSpec};
    pub use conjoin::event::{ColumnType, RejectKind, TIME_END, Value};
}

use std::path::PathBuf;

pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Inputs to begin with, made by the program itself, so that they do not grow old.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: [Target; 9] = [
    Target { name: "cell", run: cell::run, seeds: cell::seeds },
    Target { name: "config", run: config::run, seeds: config::seeds },
    Target { name: "decode", run: decode::run, seeds: decode::seeds },
    Target { name: "files", run: files::run, seeds: files::seeds },
    Target { name: "http", run: http::run, seeds: http::seeds },
    Target { name: "letters", run: letters::run, seeds: letters::seeds },
    Target { name: "manifest", run: manifest::run, seeds: manifest::seeds },
    Target { name: "start", run: start::run, seeds: start::seeds },
    Target { name: "state", run: state::run, seeds: state::seeds },
];

pub fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).expect("every target has an entry")
}

/// A file of the repository, from the package at its root or from the one in `fuzz/`.
fn repository(path: &str) -> PathBuf {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    if package.join("entry").is_dir() { package.join("..").join(path) } else { package.join(path) }
}
