//! Names that the user chooses: they become columns, folders, keys and tags.

use super::{Checker, raw_streams};
use crate::config::raw::{Entries, Pipeline};
use crate::config::tree::{Path, shown_text};

const NAME_CHARS_MAX: usize = 64;

pub fn check(c: &mut Checker<'_>, raw: &Pipeline) {
    if let Some(pipeline) = &raw.pipeline {
        plain(c, &Path::of(&["pipeline"]), pipeline);
    }
    all(c, "connections", raw.connections.names());
    all(c, "streams", raw_streams(raw).iter().map(|(name, _)| name.as_str()));
    all(c, "dimensions", raw.dimensions.names());
    all(c, "features", raw.features.names());
    all(c, "samples", raw.samples.names());
    all(c, "models", raw.models.names());
    for (stream, Entries(columns)) in raw_streams(raw).iter().filter_map(|(n, s)| Some((n, s.columns.as_ref()?))) {
        identifiers(c, &Path::of(&["streams", stream, "columns"]), columns.iter().map(|(name, _)| name.as_str()));
    }
    for (stream, spec) in raw_streams(raw) {
        identifiers(c, &Path::of(&["streams", stream, "enrich"]), spec.enrich.names());
    }
    for (dimension, spec) in raw.dimensions.iter() {
        let columns = spec.columns.iter().flat_map(|columns| columns.names());
        identifiers(c, &Path::of(&["dimensions", dimension, "columns"]), columns);
    }
    for (group, spec) in raw.features.iter() {
        let path = Path::of(&["features", group]);
        identifiers(c, &path.key("aggregates"), spec.aggregates.names());
        identifiers(c, &path.key("derived"), spec.derived.names());
        for (index, name) in spec.entity.names.iter().enumerate() {
            identifier(c, &super::name_path(&path.key("entity"), &spec.entity, index), name);
        }
    }
    for (sample, spec) in raw.samples.iter() {
        let path = Path::of(&["samples", sample]);
        identifiers(c, &path.key("join"), spec.join.names());
        identifiers(c, &path.key("columns"), spec.columns.names());
    }
}

fn all<'n>(c: &mut Checker<'_>, section: &str, names: impl Iterator<Item = &'n str>) {
    for name in names {
        plain(c, &Path::of(&[section, name]), name);
    }
}

/// A name of a thing: part of folders, keys and tags.
fn plain(c: &mut Checker<'_>, path: &Path, name: &str) {
    let sound = name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
        && name.len() <= NAME_CHARS_MAX;
    if !sound {
        c.error(path, format!("the name {}", shown_text(name)))
            .expected("letters, digits, `_`, `-` and `.`, at most 64, starting with a letter or digit");
    }
}

fn identifiers<'n>(c: &mut Checker<'_>, path: &Path, names: impl Iterator<Item = &'n str>) {
    for name in names {
        identifier(c, &path.key(name), name);
    }
}

/// A name that stands in expressions.
fn identifier(c: &mut Checker<'_>, path: &Path, name: &str) {
    let sound = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && name.len() <= NAME_CHARS_MAX;
    if !sound {
        c.error(path, format!("the name {}", shown_text(name)))
            .expected("letters, digits and `_`, at most 64, not starting with a digit")
            .help("it is used in expressions; a field with another name is reached with `path`, such as $['user-id']");
    }
}
