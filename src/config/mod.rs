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

pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use plan::*;
pub use reference::{reference_markdown, schema_json};

use std::path::PathBuf;
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

/// Reads pipeline files into a checked plan, or tells everything that is wrong with them.
pub fn load(paths: &[PathBuf], options: &LoadOptions<'_>) -> Result<Loaded, Diagnostics> {
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
        match std::fs::read(path) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => sources.push((path.display().to_string(), text)),
                Err(_) => errors.push(
                    Diagnostic::error(&Position::whole(&path.display().to_string()), "", "not UTF-8")
                        .with_help("save the file as UTF-8"),
                ),
            },
            Err(error) => errors.push(
                Diagnostic::error(
                    &Position::whole(&path.display().to_string()),
                    "",
                    format!("cannot be read: {error}"),
                )
                .with_help("check the path"),
            ),
        }
    }
    if !errors.is_empty() {
        return Err(Diagnostics(errors));
    }
    load_texts(&sources, options)
}

/// As [`load`], from (name, text): the first is the pipeline, the others are laid over it.
pub fn load_texts(sources: &[(String, String)], options: &LoadOptions<'_>) -> Result<Loaded, Diagnostics> {
    let mut found = Vec::new();
    let Some(tree) = tree_of(sources, options, &mut found) else {
        return Err(sorted(found));
    };
    let shaped = shape::check(&tree);
    found.extend(shaped.errors);
    let Some(pruned) = shaped.tree else { return Err(sorted(found)) };
    let raw = match raw::from_tree(&pruned) {
        Ok(raw) => raw,
        Err(error) => {
            // Unreachable while the shape check and the raw types agree; told rather than trusted.
            found.push(Diagnostic::error(&tree.at, "", format!("cannot be understood: {error}")));
            return Err(sorted(found));
        }
    };
    let (plan, more) = check::check(&raw, &tree, shaped.cut, options.cores);
    found.extend(more);
    let found = sorted(found);
    match plan {
        Some(plan) if !found.has_errors() => Ok(Loaded { plan, warnings: found }),
        _ => Err(found),
    }
}

fn sorted(found: Vec<Diagnostic>) -> Diagnostics {
    let mut found = Diagnostics(found);
    found.sort();
    found
}

/// The merged tree with references put in; `None` if there is nothing to check.
fn tree_of(sources: &[(String, String)], options: &LoadOptions<'_>, found: &mut Vec<Diagnostic>) -> Option<Node> {
    let read_file = |path: &str| std::fs::read_to_string(path).map_err(|error| error.to_string());
    let surroundings = substitute::Surroundings { env: options.env, read_file: &read_file };
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
    substitute::substitute(&mut merged, &surroundings, found);
    Some(merged)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_plan;
