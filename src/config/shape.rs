//! Shape: holds a tree against the JSON Schema of the raw types, and tells everything that does not fit.
//!
//!   tree ── check ──> pruned tree (reads without error) + diagnostics + what was left out
//!
//! What is wrong is cut out together with the smallest enclosing value that cannot do without it, so that the checks of
//! meaning still see the rest. The paths that were cut are remembered: a reference into them is no second error.
//! Holds: a pruned tree always deserialises.
//! Does not: know any key; everything comes from the schema.

use super::diagnostic::{Diagnostic, nearest, suggestion};
use super::raw::{Pipeline, TestFile};
use super::tree::{Content, Entry, Node, Path, locate, retype};
use super::units;
use super::words::{Words, allows, choices, is_any, later};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

pub struct Shaped {
    /// `None` when not even the root is a mapping.
    pub tree: Option<Node>,
    pub errors: Vec<Diagnostic>,
    /// Paths whose values were left out.
    pub cut: BTreeSet<Path>,
}

/// The JSON Schema of pipeline files.
pub fn schema() -> Value {
    schemars::schema_for!(Pipeline).to_value()
}

/// The JSON Schema of files of tests.
pub fn tests_schema() -> Value {
    schemars::schema_for!(TestFile).to_value()
}

pub fn check(tree: &Node) -> Shaped {
    check_as(schema(), tree)
}

/// The same of a tree that is a file of tests.
pub fn check_tests(tree: &Node) -> Shaped {
    check_as(tests_schema(), tree)
}

fn check_as(root: Value, tree: &Node) -> Shaped {
    let mut checker = Checker { words: Words { root: &root }, tree, errors: Vec::new(), cut: BTreeSet::new() };
    let tree = checker.value(&root, tree, &Path::default());
    Shaped { tree, errors: checker.errors, cut: checker.cut }
}

struct Checker<'a> {
    words: Words<'a>,
    tree: &'a Node,
    errors: Vec<Diagnostic>,
    cut: BTreeSet<Path>,
}

impl<'a> Checker<'a> {
    /// The node without what is wrong in it, or `None` if nothing of use is left.
    fn value(&mut self, schema: &'a Value, node: &Node, path: &Path) -> Option<Node> {
        if let Some(reason) = later(schema) {
            return self.refuse(node, path, reason);
        }
        let schema = self.words.resolved(schema);
        if let Some(reason) = later(schema) {
            return self.refuse(node, path, reason);
        }
        if is_any(schema) {
            return self.finite(node, path);
        }
        if matches!(node.content, Content::Null) {
            // Null with a text was told wrong by the substitution already.
            if node.text.is_none() {
                let expected = self.words.what(schema);
                self.error(node, path, "nothing").expected(expected).help("give a value or remove the key");
            }
            return self.cut_out(path);
        }
        let branches = self.words.branches(schema);
        match &node.content {
            Content::Map(entries) => match self.map_branch(&branches, entries) {
                Some(branch) => match later(branch) {
                    Some(reason) => self.refuse(node, path, reason),
                    None => self.mapping(branch, node, entries, path),
                },
                None => self.mismatch(schema, node, path),
            },
            Content::List(items) => match branches.iter().copied().find(|branch| allows(branch, "array")) {
                Some(branch) => self.list(branch, node, items, path),
                None => self.mismatch(schema, node, path),
            },
            _ => self.scalar(schema, &branches, node, path),
        }
    }

    /// A value of any kind, as JSON can say it.
    fn finite(&mut self, node: &Node, path: &Path) -> Option<Node> {
        let whole = match &node.content {
            Content::Float(number) if !number.is_finite() => {
                self.error(node, path, &node.shown()).expected("a value that JSON has");
                false
            }
            Content::Null if node.text.is_some() => false,
            Content::List(items) => {
                items.iter().enumerate().all(|(index, item)| self.finite(item, &path.index(index)).is_some())
            }
            Content::Map(entries) => {
                entries.iter().all(|entry| self.finite(&entry.value, &path.key(&entry.key)).is_some())
            }
            _ => true,
        };
        if whole { Some(node.clone()) } else { self.cut_out(path) }
    }

    fn mapping(&mut self, schema: &'a Value, node: &Node, entries: &[Entry], path: &Path) -> Option<Node> {
        let properties = schema.get("properties").and_then(Value::as_object);
        let open =
            schema.get("additionalProperties").filter(|additional| additional.is_object() || additional == &true);
        let mut kept = Vec::with_capacity(entries.len());
        for entry in entries {
            let path = path.key(&entry.key);
            let known = properties.and_then(|properties| properties.get(&entry.key)).or(open);
            let Some(known) = known else {
                self.unknown_key(properties, entry, &path);
                continue;
            };
            if let Some(value) = self.value(known, &entry.value, &path) {
                kept.push(Entry { key: entry.key.clone(), key_at: entry.key_at.clone(), value });
            }
        }
        let mut whole = true;
        for required in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
            let key = required.as_str().unwrap_or_default();
            if kept.iter().any(|entry| entry.key == key) {
                continue;
            }
            whole = false;
            if !entries.iter().any(|entry| entry.key == key) {
                let property = properties.and_then(|properties| properties.get(key));
                self.missing_key(key, property, entries, properties, path);
            }
        }
        // The root's fields are optional in the raw types, so that the rest is checked when one is missing.
        if !whole && !path.0.is_empty() {
            return self.cut_out(path);
        }
        Some(Node { at: node.at.clone(), content: Content::Map(kept), text: None })
    }

    fn unknown_key(&mut self, properties: Option<&'a Map<String, Value>>, entry: &Entry, path: &Path) {
        let known = || properties.into_iter().flat_map(|properties| properties.keys().map(String::as_str));
        let help = match suggestion(&entry.key, known().collect::<Vec<_>>()) {
            Some(help) => help,
            None => "this mapping takes no keys: write `{}`".into(),
        };
        self.errors
            .push(Diagnostic::error(&entry.key_at, path, format!("unknown key `{}`", entry.key)).with_help(help));
        self.cut.insert(path.clone());
    }

    fn missing_key(
        &mut self,
        key: &str,
        property: Option<&'a Value>,
        entries: &[Entry],
        properties: Option<&'a Map<String, Value>>,
        path: &Path,
    ) {
        let what = property.map(|property| self.described(property)).unwrap_or_default();
        let is_known = |name: &str| properties.is_some_and(|properties| properties.contains_key(name));
        // A misspelt key is told once, as unknown, with this one as its suggestion.
        let misspelt = entries.iter().any(|entry| !is_known(&entry.key) && nearest(&entry.key, [key]).is_some());
        if !misspelt {
            let at = locate(self.tree, path);
            let mut error = Diagnostic::error(&at, path, format!("the key `{key}` is missing"));
            if !what.is_empty() {
                error.help(format!("{key}: {what}"));
            }
            self.errors.push(error);
        }
        self.cut.insert(path.key(key));
    }

    fn list(&mut self, schema: &'a Value, node: &Node, items: &[Node], path: &Path) -> Option<Node> {
        if items.len() < schema.get("minItems").and_then(Value::as_u64).unwrap_or(0) as usize {
            self.error(node, path, "an empty list").expected("at least one element");
            return self.cut_out(path);
        }
        let item_schema = schema.get("items").unwrap_or(&Value::Bool(true));
        let mut kept = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let path = path.index(index);
            match self.value(item_schema, item, &path) {
                Some(item) => kept.push(item),
                None => drop(self.cut.insert(path)),
            }
        }
        if kept.is_empty() && !items.is_empty() {
            return self.cut_out(path);
        }
        Some(Node { at: node.at.clone(), content: Content::List(kept), text: None })
    }

    fn scalar(&mut self, schema: &'a Value, branches: &[&'a Value], node: &Node, path: &Path) -> Option<Node> {
        let kind = match &node.content {
            Content::Bool(_) => "boolean",
            Content::Int(_) => "integer",
            Content::Float(_) => "number",
            _ => "string",
        };
        let fits = |kind: &str| branches.iter().copied().find(|branch| allows(branch, kind));
        let number = || if kind == "integer" { fits("number") } else { None };
        if let Some(branch) = fits(kind).or_else(number) {
            return match &node.content {
                Content::Text(text) => self.text(schema, branches, branch, text, node, path),
                Content::Int(number) => self.bounded(branch, *number as f64, node, path),
                Content::Float(number) => self.bounded(branch, *number, node, path),
                _ => Some(node.clone()),
            };
        }
        if let (Some(text), Some(_)) = (&node.text, fits("string")) {
            // A reference was retyped, but a string is wanted: the text counts.
            let text = Node { at: node.at.clone(), content: Content::Text(text.clone()), text: None };
            return self.scalar(schema, branches, &text, path);
        }
        self.mismatch(schema, node, path)
    }

    fn text(
        &mut self,
        schema: &'a Value,
        branches: &[&'a Value],
        branch: &'a Value,
        text: &str,
        node: &Node,
        path: &Path,
    ) -> Option<Node> {
        let free = branches.iter().any(|branch| allows(branch, "string") && choices(branch).is_empty());
        if !free {
            let chosen = branches.iter().find(|branch| choices(branch).contains(&text));
            return match chosen {
                Some(chosen) => match later(chosen) {
                    Some(reason) => self.refuse(node, path, reason),
                    None => Some(node.clone()),
                },
                None => {
                    let known = self.words.supported_choices(branches);
                    let near = nearest(text, known.iter().copied());
                    let expected = self.words.what(schema);
                    let error = self.error(node, path, &node.shown()).expected(expected);
                    if let Some(near) = near {
                        error.help(format!("did you mean `{near}`?"));
                    }
                    self.cut_out(path)
                }
            };
        }
        let (well_formed, help) = match branch.get("format").and_then(Value::as_str) {
            Some("duration") => (units::duration(text).is_some(), "a whole number and one of ms, s, m, h, d"),
            Some("size") => (units::size(text).is_some(), "a whole number and one of B, KB, MB, GB, KiB, MiB, GiB"),
            Some("instant") => (units::instant(text).is_some(), "date, time and zone"),
            Some("moment") => (units::moment(text).is_some(), "whole numbers, each with one of ms, s, m, h, d"),
            Some("json-path") => (
                text == "$index" || units::json_path(text).is_some(),
                "`$` is the record, `.name` or `['na me']` a field of an object; elements of arrays come with `explode`",
            ),
            _ => (true, ""),
        };
        if well_formed {
            return Some(node.clone());
        }
        let expected = self.words.what(schema);
        self.error(node, path, &node.shown()).expected(expected).help(help);
        self.cut_out(path)
    }

    fn bounded(&mut self, branch: &'a Value, number: f64, node: &Node, path: &Path) -> Option<Node> {
        let bound = |key: &str| branch.get(key).and_then(Value::as_f64);
        let (least, most) = (bound("minimum"), bound("maximum"));
        if least.is_none_or(|least| number >= least) && most.is_none_or(|most| number <= most) {
            return Some(node.clone());
        }
        let expected = match (least, most) {
            (Some(least), Some(most)) if least == most => format!("`{least}`"),
            (Some(least), Some(most)) => format!("a number from {least} to {most}"),
            (Some(least), None) => format!("a number from {least}"),
            (_, most) => format!("a number up to {}", most.unwrap_or(f64::MAX)),
        };
        self.error(node, path, &node.shown()).expected(expected);
        self.cut_out(path)
    }

    fn mismatch(&mut self, schema: &'a Value, node: &Node, path: &Path) -> Option<Node> {
        let expected = self.words.what(schema);
        let bare_number = matches!(node.content, Content::Int(_) | Content::Float(_) | Content::Bool(_));
        let help = match () {
            () if bare_number && expected.contains("duration") => Some("write the unit, such as 10s or 5m"),
            () if bare_number && expected.contains("size") => Some("write the unit, such as 128MB"),
            () if bare_number && (expected.contains("string") || expected.contains("SQL")) => {
                Some("put it in quotes if it is meant as text")
            }
            () => None,
        };
        let quoted = match &node.content {
            Content::Text(text) => matches!(retype(text), Content::Int(_) | Content::Float(_) | Content::Bool(_)),
            _ => false,
        };
        let (found, help) = if quoted {
            (format!("the text {}", node.shown()), Some("remove the quotes"))
        } else {
            (node.shown(), help)
        };
        let error = self.error(node, path, &found).expected(expected);
        if let Some(help) = help {
            error.help(help);
        }
        self.cut_out(path)
    }

    fn refuse(&mut self, node: &Node, path: &Path, reason: &str) -> Option<Node> {
        let at = if matches!(node.content, Content::Map(_) | Content::List(_)) {
            locate(self.tree, path)
        } else {
            node.at.clone()
        };
        self.errors.push(Diagnostic::error(&at, path, reason));
        self.cut_out(path)
    }

    fn cut_out(&mut self, path: &Path) -> Option<Node> {
        self.cut.insert(path.clone());
        None
    }

    fn error(&mut self, node: &Node, path: &Path, found: &str) -> &mut Diagnostic {
        self.errors.push(Diagnostic::error(&node.at, path, found));
        self.errors.last_mut().expect("pushed just above")
    }

    /// Of several mappings (`{sum: …}` or `{max: …}`) the one that has the first key.
    fn map_branch(&self, branches: &[&'a Value], entries: &[Entry]) -> Option<&'a Value> {
        let maps: Vec<&'a Value> = branches.iter().copied().filter(|branch| allows(branch, "object")).collect();
        let named = maps.iter().copied().find(|branch| {
            entries.first().is_some_and(|entry| branch.get("properties").is_some_and(|p| p.get(&entry.key).is_some()))
        });
        // Without the key, an error about it is told only where there is one mapping to compare with.
        named.or(if maps.len() == 1 { Some(maps[0]) } else { None })
    }

    /// The doc comment of a property, else what it wants.
    fn described(&self, property: &'a Value) -> String {
        let text = property.get("description").or_else(|| self.words.resolved(property).get("description"));
        match text.and_then(Value::as_str) {
            Some(text) => text.split_whitespace().collect::<Vec<_>>().join(" "),
            None => self.words.what(self.words.resolved(property)),
        }
    }
}
