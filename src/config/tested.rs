//! Tested: a pipeline with its tests: those under `tests:` in its file, and those of `NAME.test.yaml` beside `NAME.yaml`.
//!
//! Holds: tests never touch the plan, and whatever is wrong with them stops nobody who does not ask for them.

use super::case::TestCase;
use super::check::cases;
use super::diagnostic::{Diagnostic, Diagnostics};
use super::plan::Plan;
use super::tree::{self, Content, Node};
use super::{LoadOptions, Loaded, loaded, merged, plan_of, raw, read, read_text, shape, substitute};
use std::path::{Path, PathBuf};

const TESTS: &str = "tests";

/// As [`load`](super::load), with the tests of the file and those beside it.
pub fn load_with_tests(paths: &[PathBuf], options: &LoadOptions<'_>) -> Result<(Loaded, Vec<TestCase>), Diagnostics> {
    let sources = read(paths, options)?;
    let beside = paths.first().map(|path| beside(path)).filter(|path| path.exists());
    let beside = match beside.map(|path| (path.display().to_string(), read_text(&path))) {
        Some((name, Ok(text))) => Some((name, text)),
        Some((_, Err(errors))) => return Err(errors),
        None => None,
    };
    load_texts_with_tests(&sources, beside.as_ref(), options)
}

/// `NAME.test.yaml` beside `NAME.yaml`.
fn beside(path: &Path) -> PathBuf {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("yaml");
    path.with_extension(format!("test.{ending}"))
}

/// As [`load_texts`](super::load_texts), with the tests of the pipeline's text and those of another (name, text).
pub fn load_texts_with_tests(
    sources: &[(String, String)],
    beside: Option<&(String, String)>,
    options: &LoadOptions<'_>,
) -> Result<(Loaded, Vec<TestCase>), Diagnostics> {
    let mut found = Vec::new();
    let (mut tests, mut plan) = (Vec::new(), None);
    if let Some(mut tree) = merged(sources, options, &mut found) {
        tests.extend(split_off(&mut tree));
        plan = plan_of(tree, options, &mut found);
    }
    if let Some((name, text)) = beside {
        match tree::parse(name, text) {
            Ok(tree) => tests.push(tree),
            Err(errors) => found.extend(errors),
        }
    }
    let mut all: Vec<TestCase> = Vec::new();
    for tree in tests {
        for case in cases_of(tree, plan.as_ref(), options, &mut found) {
            if let Some(other) = all.iter().find(|other| other.name == case.name) {
                found.push(case.twice(&other.place));
            }
            all.push(case);
        }
    }
    Ok((loaded(plan, found)?, all))
}

impl TestCase {
    fn twice(&self, other: &super::case::TestPlace) -> Diagnostic {
        let at = tree::Position { file: self.place.file.as_str().into(), line: self.place.line, column: 0 };
        Diagnostic::error(&at, TESTS, format!("a second test named {}", tree::shown_text(&self.name)))
            .with_help(format!("the first one is at {other}"))
    }
}

/// Takes the tests out of a pipeline's tree, as a tree of their own.
pub(super) fn split_off(tree: &mut Node) -> Option<Node> {
    let Content::Map(entries) = &mut tree.content else { return None };
    let at = entries.iter().position(|entry| entry.key == TESTS)?;
    let entry = entries.remove(at);
    Some(Node { at: tree.at.clone(), content: Content::Map(vec![entry]), text: None })
}

/// The tests of a tree; without a plan only their shape is looked at.
fn cases_of(
    mut tree: Node,
    plan: Option<&Plan>,
    options: &LoadOptions<'_>,
    found: &mut Vec<Diagnostic>,
) -> Vec<TestCase> {
    let before = found.len();
    substitute(&mut tree, options, found);
    let shaped = shape::check_tests(&tree);
    found.extend(shaped.errors);
    let (Some(pruned), Some(plan), true) = (shaped.tree, plan, found.len() == before) else { return Vec::new() };
    match raw::from_tree(&pruned) {
        Ok(raw) => {
            let (cases, more) = cases::check(&raw, &tree, plan);
            found.extend(more);
            cases
        }
        Err(error) => {
            // Unreachable while the shape check and the raw types agree; told rather than trusted.
            found.push(Diagnostic::error(&tree.at, "", format!("cannot be understood: {error}")));
            Vec::new()
        }
    }
}
