//! Check: what a well-formed file means, and whether that makes sense; ends in the plan.
//!
//!   raw ── connections, streams, inputs, features, samples, models, edges ──> Plan
//!
//! Each step reports everything it finds and hands on what is sound. A reference to something that was found wrong
//! elsewhere is no second error: `cut` remembers such paths.
//! Holds: a plan comes out only if there is no error.
//! Does not: touch the world, but for reading the schema files that streams name; nothing is connected.

pub mod cases;
mod columns;
mod dimensions;
mod edges;
mod enrich;
mod events;
mod features;
mod group_mode;
mod inputs;
mod joins;
mod models;
mod names;
mod outputs;
mod places;
mod samples;
mod schemas;
mod semantics;
mod streams;
mod topics;
mod wide;
mod windows;

use super::defaults;
use super::diagnostic::{Diagnostic, Severity, nearest, suggestion};
use super::plan::Plan;
use super::raw::{Duration, Entries, Names, Pipeline, Size, Sql};
use super::sql::{self, Scope, SqlError};
use super::tree::{Node, Path, Step, locate, shown_text};
use super::units;
use crate::event::{DurationMs, Expression};
use std::collections::BTreeSet;

/// The plan, unless something is wrong; and everything that was found.
pub fn check(raw: &Pipeline, tree: &Node, cut: BTreeSet<Path>, cores: usize) -> (Option<Plan>, Vec<Diagnostic>) {
    let mut checker = Checker { tree, cut, found: Vec::new() };
    let c = &mut checker;
    names::check(c, raw);
    edges::timezone(c, raw);
    edges::connections(c, raw);
    let dimensions = dimensions::check(c, raw);
    let mut streams = streams::check(c, raw, &dimensions);
    let inputs = inputs::check(c, raw, &streams);
    let groups = features::check(c, raw, &mut streams);
    let online = edges::online(c, raw);
    let samples = samples::check(c, raw, &mut streams, &groups, online.flush_ms);
    let models = models::check(c, raw, &streams, &groups, &samples);
    let state = edges::state(c, raw, cores);
    let serve = edges::serve(c, raw);
    let group_mode = group_mode::check(c, raw, &inputs, &online);
    let partitioner = streams::partitioner(raw);
    outputs::check(c, raw);
    edges::folders(c, raw);
    edges::unused(c, &streams, &groups, &samples);
    enrich::finish(c, &streams, &samples, &dimensions);

    let streams: Vec<_> = streams.into_iter().map(|draft| draft.plan).collect();
    let dimensions: Vec<_> = dimensions.into_iter().map(|draft| draft.plan).collect();
    let groups: Vec<_> = groups.into_iter().map(|draft| draft.spec).collect();
    let samples: Vec<_> = samples.into_iter().map(|draft| draft.plan).collect();
    let semantics = semantics::hashes(&inputs, &streams, &dimensions, &groups, &samples, partitioner);
    let failed = checker.found_errors();
    let plan = match (state, &raw.pipeline) {
        (Some(state), Some(pipeline)) if !failed => Some(Plan {
            pipeline: pipeline.clone(),
            inputs,
            streams,
            dimensions,
            groups,
            samples,
            models,
            online,
            state,
            serve,
            partitioner,
            group_mode,
            semantics,
        }),
        _ => None,
    };
    (plan, checker.found)
}

/// Collects what is found, and knows where everything stands.
pub struct Checker<'a> {
    tree: &'a Node,
    cut: BTreeSet<Path>,
    found: Vec<Diagnostic>,
}

impl Checker<'_> {
    pub fn error(&mut self, path: &Path, found: impl Into<String>) -> &mut Diagnostic {
        self.report(Severity::Error, path, found.into())
    }

    pub fn warn(&mut self, path: &Path, found: impl Into<String>) -> &mut Diagnostic {
        self.report(Severity::Warning, path, found.into())
    }

    fn report(&mut self, severity: Severity, path: &Path, found: String) -> &mut Diagnostic {
        self.found.push(Diagnostic::new(severity, &locate(self.tree, path), path, found));
        self.found.last_mut().expect("pushed just above")
    }

    /// A name that should be one of `known` and is not; silent if what it may mean was found wrong already.
    pub fn unknown<'n>(
        &mut self,
        path: &Path,
        what: &str,
        name: &str,
        known: impl IntoIterator<Item = &'n str> + Clone,
        defined_at: &Path,
    ) {
        if self.is_cut(defined_at) {
            return;
        }
        let help = suggestion(name, known).unwrap_or_else(|| format!("there is none: add it under `{defined_at}`"));
        self.error(path, format!("unknown {what} {}", shown_text(name))).help(help);
    }

    pub fn found_errors(&self) -> bool {
        !self.cut.is_empty() || self.found.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Remembers that the value at `path` was found wrong and is missing from what follows.
    pub fn cut(&mut self, path: Path) {
        self.cut.insert(path);
    }

    /// Whether anything at or under `path` was found wrong.
    pub fn is_cut(&self, path: &Path) -> bool {
        self.cut.range(path..).next().is_some_and(|first| first.starts_with(path))
            || (1..path.0.len()).any(|len| self.cut.contains(&Path(path.0[..len].to_vec())))
    }

    /// Whether the name of a column may be missing only because something under `sources` was found wrong. The step
    /// below a source is the name that was declared there: of a column, of an aggregate (whose outputs begin with it), or
    /// of a join.
    pub fn may_be_cut(&self, name: &str, sources: &[Path]) -> bool {
        sources.iter().any(|source| {
            let ancestor = (1..=source.0.len()).any(|len| self.cut.contains(&Path(source.0[..len].to_vec())));
            let below = || {
                let cut = self.cut.range(source..).take_while(|cut| cut.starts_with(source));
                cut.clone().any(|cut| match cut.0.get(source.0.len()) {
                    Some(Step::Key(declared)) => name
                        .strip_prefix(declared.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['_', '.'])),
                    // A whole feature group: its outputs have no dot.
                    _ => !name.contains('.'),
                })
            };
            ancestor || below()
        })
    }

    /// Whether something declared right under a section, such as a whole stream, was found wrong.
    pub fn lost_whole(&self, section: &str) -> bool {
        self.cut.iter().any(|cut| cut.0.len() <= 2 && cut.0.first() == Some(&Step::Key(section.into())))
    }

    /// Whether a column of that name was found wrong in any stream.
    pub fn lost_columns(&self, name: &str) -> bool {
        self.lost_whole("streams")
            || self.cut.iter().any(|cut| match cut.0.as_slice() {
                [Step::Key(section), _, Step::Key(columns), Step::Key(column), ..] => {
                    section == "streams" && columns == "columns" && column == name
                }
                _ => false,
            })
    }

    /// Whether the mapping at `path` has an unknown key that is probably `key`, and was told so.
    pub fn misspelt(&self, path: &Path, key: &str) -> bool {
        let below = self.cut.range(path..).take_while(|cut| cut.starts_with(path));
        below.clone().any(|cut| match &cut.0[path.0.len()..] {
            [Step::Key(found)] => nearest(found, [key]).is_some(),
            _ => false,
        })
    }

    /// Compiles an expression; `sources` are where its columns come from.
    pub fn compile(&mut self, path: &Path, sql: &Sql, scope: &Scope, sources: &[Path]) -> Option<Expression> {
        let compiled = sql::compile(&sql.0, scope);
        self.expression(path, compiled, sources)
    }

    /// Compiles a condition.
    pub fn condition(&mut self, path: &Path, sql: &Sql, scope: &Scope, sources: &[Path]) -> Option<Expression> {
        let compiled = sql::predicate(&sql.0, scope);
        self.expression(path, compiled, sources)
    }

    fn expression(
        &mut self,
        path: &Path,
        compiled: Result<Expression, SqlError>,
        sources: &[Path],
    ) -> Option<Expression> {
        let error = match compiled {
            Ok(expression) => return Some(expression),
            Err(error) => error,
        };
        let follows = matches!(&error, SqlError::UnknownColumn { name, .. } if self.may_be_cut(name, sources));
        if !follows {
            let report = self.error(path, "");
            match &error {
                SqlError::Type { found, expected } => {
                    report.found = found.clone();
                    report.expected(expected);
                }
                other => report.found = other.to_string(),
            }
            report.help = error.help();
        }
        self.cut(path.clone());
        None
    }
}

/// The path of one of several names, which may be written as a single one.
fn name_path(path: &Path, names: &Names, index: usize) -> Path {
    if names.list { path.index(index) } else { path.clone() }
}

fn duration_or(duration: &Option<Duration>, default: &str) -> DurationMs {
    match duration {
        Some(duration) => duration.ms,
        None => units::duration(default).expect("defaults are well-formed"),
    }
}

fn size_or(size: &Option<Size>, default: &str) -> u64 {
    match size {
        Some(size) => size.0,
        None => units::size(default).expect("defaults are well-formed"),
    }
}

/// The streams of the file; missing ones were told by the shape check.
fn raw_streams(raw: &Pipeline) -> &[(String, super::raw::Stream)] {
    raw.streams.as_ref().map(|Entries(streams)| streams.as_slice()).unwrap_or_default()
}
