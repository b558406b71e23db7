//! Config: text becomes a raw tree, the tree a checked plan, and whatever is wrong a list of diagnostics.
//!
//!   files ── parse, merge, substitute ──> tree ── shape ──> pruned tree ── serde ──> raw ── check ──> Plan
//!                                           └────────── every step adds its diagnostics ──────────┘
//!
//! In: paths, overlays, `--set`, a way to read the environment. Out: a plan with its warnings, or all errors at once.
//! Holds: no plan comes out beside an error; nothing that is known but not supported is passed over.
//! Does not: connect, create or write anything; it reads the files it is given, those that `${file:…}` names, and those
//! with schemas.

mod plan;
mod case;
mod defaults;
mod units;
mod diagnostic;
mod tree;
mod substitute;
mod raw;
mod words;
mod shape;
mod sql;
mod check;
mod reference;
mod tested;

pub use case::*;
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use plan::*;
pub use reference::{reference_markdown, schema_json, tests_schema_json};
pub use tested::{load_texts_with_tests, load_with_tests};
pub use units::{duration, duration_text, size};

use std::path::{Path as FilePath, PathBuf};
use tree::{Node, Position};

/// What a pipeline file is combined with.
pub struct LoadOptions<'a> {
    /// Files laid over the pipeline file, in order.
    pub overlays: &'a [PathBuf],
    /// Assignments such as `state.path=/data`, laid over everything.
    pub sets: &'a [String],
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Default of `state.lanes`.
    pub cores: usize,
}

/// A plan, and what is odd about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub plan: Plan,
    pub warnings: Diagnostics,
}

/// Reads pipeline files into a checked plan, or tells everything that is wrong with them. Tests in the file are passed
/// over: see [`load_with_tests`].
pub fn load(paths: &[PathBuf], options: &LoadOptions<'_>) -> Result<Loaded, Diagnostics> {
    load_texts(&read(paths, options)?, options)
}

fn read(paths: &[PathBuf], options: &LoadOptions<'_>) -> Result<Vec<(String, String)>, Diagnostics> {
    let [path] = paths else {
        let what = if paths.is_empty() { "no pipeline file" } else { "several files per run are not supported yet" };
        let at = Position::whole(paths.get(1).and_then(|path| path.to_str()).unwrap_or("conjoin"));
        return Err(Diagnostics(vec![
            Diagnostic::error(&at, "", what).with_help("name one file; lay others over it with --overlay"),
        ]));
    };
    let mut errors = Vec::new();
    let mut sources = Vec::new();
    for path in std::iter::once(path).chain(options.overlays) {
        match read_text(path) {
            Ok(text) => sources.push((path.display().to_string(), text)),
            Err(error) => errors.extend(error.0),
        }
    }
    if errors.is_empty() { Ok(sources) } else { Err(Diagnostics(errors)) }
}

fn read_text(path: &FilePath) -> Result<String, Diagnostics> {
    let at = Position::whole(&path.display().to_string());
    let wrong = |found: String, help: &str| Diagnostics(vec![Diagnostic::error(&at, "", found).with_help(help)]);
    let bytes = std::fs::read(path).map_err(|error| wrong(format!("cannot be read: {error}"), "check the path"))?;
    String::from_utf8(bytes).map_err(|_| wrong("not UTF-8".into(), "save the file as UTF-8"))
}

/// As [`load`], from (name, text): the first is the pipeline, the others are laid over it.
pub fn load_texts(sources: &[(String, String)], options: &LoadOptions<'_>) -> Result<Loaded, Diagnostics> {
    let mut found = Vec::new();
    let tree = merged(sources, options, &mut found);
    let plan = tree.and_then(|mut tree| {
        tested::split_off(&mut tree);
        plan_of(tree, options, &mut found)
    });
    loaded(plan, found)
}

fn loaded(plan: Option<Plan>, found: Vec<Diagnostic>) -> Result<Loaded, Diagnostics> {
    let mut found = Diagnostics(found);
    found.sort();
    match plan {
        Some(plan) if !found.has_errors() => Ok(Loaded { plan, warnings: found }),
        _ => Err(found),
    }
}

/// The tree of all texts; `None` if there is nothing to check.
fn merged(sources: &[(String, String)], options: &LoadOptions<'_>, found: &mut Vec<Diagnostic>) -> Option<Node> {
    let mut merged: Option<Node> = None;
    let mut whole = true;
    for (name, text) in sources {
        match tree::parse(name, text) {
            Ok(node) => match &mut merged {
                Some(base) => tree::merge(base, node),
                None => merged = Some(node),
            },
            Err(errors) => {
                found.extend(errors);
                whole = false;
            }
        }
    }
    let mut merged = merged.filter(|_| whole)?;
    for assignment in options.sets {
        if let Err(errors) = tree::set(&mut merged, assignment) {
            found.extend(errors);
        }
    }
    Some(merged)
}

/// Puts references in.
fn substitute(tree: &mut Node, options: &LoadOptions<'_>, found: &mut Vec<Diagnostic>) {
    let read_file = |path: &str| std::fs::read_to_string(path).map_err(|error| error.to_string());
    substitute::substitute(tree, &substitute::Surroundings { env: options.env, read_file: &read_file }, found);
}

/// The plan that a tree means, as far as it is sound.
fn plan_of(mut tree: Node, options: &LoadOptions<'_>, found: &mut Vec<Diagnostic>) -> Option<Plan> {
    substitute(&mut tree, options, found);
    let shaped = shape::check(&tree);
    found.extend(shaped.errors);
    let raw = match raw::from_tree(&shaped.tree?) {
        Ok(raw) => raw,
        Err(error) => {
            // Unreachable while the shape check and the raw types agree; told rather than trusted.
            found.push(Diagnostic::error(&tree.at, "", format!("cannot be understood: {error}")));
            return None;
        }
    };
    let (plan, more) = check::check(&raw, &tree, shaped.cut, options.cores);
    found.extend(more);
    plan
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_plan;
