//! Diagnostic: one thing that is wrong in a pipeline file, told so that a person can mend it.
//!
//!   ctr.yaml:31: features.item_ctr.aggregates.item_clicks.windows[1]: found `90x`, expected a duration such as 10m
//!     help: ...
//!
//! Holds: every diagnostic names a place; a list of them is sorted by place.
//! Does not: decide what is wrong.

use super::tree::Position;
use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// The pipeline cannot run.
    Error,
    /// It can, but probably does not do what was meant.
    Warning,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    pub severity: Severity,
    /// The file as it was named, or the `--set` it came from.
    pub file: String,
    /// From 1; 0 when the place has no line.
    pub line: u32,
    /// From 1; 0 when the place has no column.
    pub column: u32,
    /// The key path, such as `streams.clicks.key[1]`; empty for the file as a whole.
    pub path: String,
    /// What was found; the whole message when nothing particular was expected.
    pub found: String,
    pub expected: Option<String>,
    pub help: Option<String>,
}

impl Diagnostic {
    pub(super) fn new(severity: Severity, at: &Position, path: impl fmt::Display, found: impl Into<String>) -> Self {
        Diagnostic {
            severity,
            file: at.file.to_string(),
            line: at.line,
            column: at.column,
            path: path.to_string(),
            found: found.into(),
            expected: None,
            help: None,
        }
    }

    pub(super) fn error(at: &Position, path: impl fmt::Display, found: impl Into<String>) -> Self {
        Self::new(Severity::Error, at, path, found)
    }

    pub(super) fn expected(&mut self, expected: impl Into<String>) -> &mut Self {
        self.expected = Some(expected.into());
        self
    }

    pub(super) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        f.write_str(": ")?;
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        match &self.expected {
            Some(expected) => write!(f, "found {}, expected {expected}", self.found)?,
            None => f.write_str(&self.found)?,
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

/// Everything that was found wrong, in the order of the files.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Sorts by place; files keep the order in which they first appear.
    pub(super) fn sort(&mut self) {
        let mut files: Vec<String> = Vec::new();
        for diagnostic in &self.0 {
            if !files.contains(&diagnostic.file) {
                files.push(diagnostic.file.clone());
            }
        }
        let rank = |file: &str| files.iter().position(|known| known == file);
        self.0.sort_by(|a, b| {
            (rank(&a.file), a.line, a.column, &a.path).cmp(&(rank(&b.file), b.line, b.column, &b.path))
        });
        self.0.dedup();
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// The candidate that `name` was probably meant to be.
pub(super) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let reach = (name.chars().count() / 3).clamp(1, 4);
    let lower = name.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= reach)
        .min_by_key(|(distance, candidate)| (*distance, candidate.len()))
        .map(|(_, candidate)| candidate)
}

/// Lists names for a message, cut when there are many.
pub(super) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 16;
    let names: Vec<&str> = names.into_iter().collect();
    let mut text = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

/// What to say about a name that is not among `candidates`.
pub(super) fn suggestion<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> Option<String> {
    if let Some(near) = nearest(name, candidates.clone()) {
        return Some(format!("did you mean `{near}`?"));
    }
    let known = listed(candidates);
    (!known.is_empty()).then(|| format!("known here: {known}"))
}
