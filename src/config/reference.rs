//! Reference: the JSON Schema for editors and docs/CONFIG.md, made from the raw types and their doc comments.
//!
//! Holds: both are functions of the code alone; a test compares them with the files in the repository.

use super::shape::{schema, tests_schema};
use super::sql::function_names;
use super::words::{Words, is_any};
use serde_json::{Map, Value};
use std::fmt::Write;

const HEAD: &str = "\
# The pipeline file

Generated from the code: change the doc comments in `src/config/raw/`, then run the tests with `CONJOIN_BLESS=1`.

A pipeline file is YAML; one file is one pipeline. Unknown keys are errors. `conjoin check FILE` tells everything that is
wrong at once and starts nothing. `schemas/pipeline.schema.json` gives editors completion and hints: put
`# yaml-language-server: $schema=schemas/pipeline.schema.json` on the first line. For files of tests it is
`schemas/tests.schema.json`.

## How values are written

| what | how |
|---|---|
| duration | a whole number and a unit: `500ms`, `5s`, `10m`, `1h`, `7d` |
| size | a whole number and a unit: `512B`, `128MB` (10^6), `64MiB` (2^20), `1GB`, `1GiB` |
| instant | RFC 3339: `2026-01-31T07:00:00Z`; without a zone it is UTC |
| path | fields of JSON objects: `$.user.id`, `$['user id']`, `$` for the whole; `$index` is the position in an exploded array |
| name or list | `user_id` or `[request_id, item_id]` |
| SQL | a scalar expression over the columns that the key names, see [Expressions](#expressions) |

**References.** In any string value, after parsing: `${VAR}` is an environment variable, `${VAR:-default}` has a default
for an unset or empty one, `${file:path}` is a file's text without its last line end, `$$` is a dollar. A value that is
exactly one reference is typed again, so that `${PORT}` may be a number. Keys are never substituted.

**Overlays.** `--overlay prod.yaml` is laid over the file: mappings merge key by key, lists and single values are
replaced, null removes a key. `--set state.path=/data` is laid over everything; its value is read as YAML.

**Names** of pipelines, connections, streams, groups, samples and models: letters, digits, `_`, `-`, `.`, at most 64.
Names that stand in expressions (columns, aggregates, joins): letters, digits, `_`, not starting with a digit.

";

/// The JSON Schema of pipeline files.
pub fn schema_json() -> String {
    let mut text = serde_json::to_string_pretty(&schema()).expect("a schema is plain JSON");
    text.push('\n');
    text
}

/// The JSON Schema of files of tests.
pub fn tests_schema_json() -> String {
    let mut text = serde_json::to_string_pretty(&tests_schema()).expect("a schema is plain JSON");
    text.push('\n');
    text
}

/// docs/CONFIG.md.
pub fn reference_markdown() -> String {
    let root = schema();
    let mut out = String::from(HEAD);
    out.push_str("## Top level\n\n");
    let mut writer = Writer { words: Words { root: &root }, out: &mut out };
    writer.table(&root, "");
    writer.children(&root, "");
    expressions(&mut out);
    out
}

struct Writer<'a> {
    words: Words<'a>,
    out: &'a mut String,
}

/// Appends to the page; writing to a string cannot fail.
macro_rules! put {
    ($out:expr, $($arg:tt)+) => {{
        let _ = write!($out, $($arg)+);
    }};
}

impl<'a> Writer<'a> {
    /// Headings and tables of everything inside `schema` that has keys of its own.
    fn children(&mut self, schema: &'a Value, path: &str) {
        for (key, property) in ordered(schema) {
            if property.get("x-later").is_some() {
                continue;
            }
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            for (path, mapping) in self.mappings(property, path) {
                self.section(mapping, &path);
            }
        }
    }

    fn section(&mut self, mapping: &'a Value, path: &str) {
        put!(self.out, "## `{path}`\n\n");
        if let Some(text) = mapping.get("description").and_then(Value::as_str) {
            put!(self.out, "{}\n\n", one_line(text));
        }
        if properties(mapping).is_some_and(|properties| !properties.is_empty()) {
            self.table(mapping, path);
        }
        self.children(mapping, path);
    }

    /// The mappings with fixed keys behind a property: its own, those of a list's elements or of named entries.
    fn mappings(&self, property: &'a Value, path: String) -> Vec<(String, &'a Value)> {
        let mut found = Vec::new();
        for branch in self.words.branches(self.words.resolved(property)) {
            if let Some(items) = branch.get("items") {
                found.extend(self.mappings(items, format!("{path}[]")));
            } else if let Some(entries) =
                branch.get("additionalProperties").filter(|entries| entries.is_object() && !is_any(entries))
            {
                found.extend(self.mappings(entries, format!("{path}.<name>")));
            } else if let Some(keys) = properties(branch) {
                // `{sum: column}` is a way to write one value, told in the table.
                let one_of_several = keys.len() == 1 && self.words.branches(self.words.resolved(property)).len() > 2;
                if !one_of_several {
                    found.push((path.clone(), branch));
                }
            }
        }
        found
    }

    fn table(&mut self, mapping: &'a Value, _path: &str) {
        self.out.push_str("| key | type | default | meaning |\n|---|---|---|---|\n");
        let required: Vec<&str> =
            mapping.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        for (key, property) in ordered(mapping) {
            let resolved = self.words.resolved(property);
            let later = property.get("x-later").is_some();
            let kind = if later { "*not supported yet*".to_string() } else { self.words.what(property) };
            let default = match property.get("default") {
                _ if required.contains(&key.as_str()) => "required".to_string(),
                Some(Value::String(text)) => format!("`{text}`"),
                Some(value) if !value.is_object() && !value.is_array() => format!("`{value}`"),
                _ => String::new(),
            };
            let text = property.get("description").or_else(|| resolved.get("description")).and_then(Value::as_str);
            let mut meaning = one_line(text.unwrap_or_default());
            if !later {
                meaning.push_str(&self.bounds(property));
                meaning.push_str(&self.values(resolved));
            }
            put!(self.out, "| `{key}` | {} | {default} | {} |\n", cell(&kind), cell(&meaning));
        }
        // Beside these, names that the user chose.
        if let Some(open) = mapping.get("additionalProperties").filter(|open| is_any(open)) {
            let text = |key: &str| open.get(key).and_then(Value::as_str).unwrap_or_default();
            put!(self.out, "| `{}` | {} | | {} |\n", text("x-key"), text("x-what"), text("description"));
        }
        self.out.push('\n');
    }

    fn bounds(&self, property: &Value) -> String {
        let bound = |key: &str| property.get(key).and_then(Value::as_f64);
        match (bound("minimum"), bound("maximum")) {
            (Some(least), Some(most)) if least < most => format!(" From {least} to {most}."),
            _ => String::new(),
        }
    }

    /// The values of an enumeration with their meanings.
    fn values(&self, schema: &'a Value) -> String {
        let mut text = String::new();
        let branches = self.words.branches(schema);
        for branch in branches.iter().copied().filter(|_| branches.len() > 1) {
            let Some(meaning) = branch.get("description").and_then(Value::as_str) else { continue };
            let value = match (branch.get("const").and_then(Value::as_str), properties(branch)) {
                (Some(value), _) => value.to_string(),
                (None, Some(keys)) if keys.len() == 1 => {
                    let key = keys.keys().next().map(String::as_str).unwrap_or_default();
                    format!("{{{key}: …}}")
                }
                _ => continue,
            };
            let later = if branch.get("x-later").is_some() { " *Not supported yet.*" } else { "" };
            put!(text, " `{value}`: {}{later}", one_line(meaning));
        }
        text
    }
}

fn expressions(out: &mut String) {
    out.push_str(
        "## Expressions\n\n\
         Scalar SQL expressions, typed before anything starts. Names are taken as written, without folding of case; text\n\
         stands in single quotes. What an expression sees:\n\n\
         | where | columns |\n|---|---|\n\
         | `streams.*.where` | the stream's columns |\n\
         | aggregates: `where` and the argument | the columns of their `from` stream |\n\
         | `features.*.derived` | the group's outputs, and derived columns above |\n\
         | `samples.*.join.*.where` | the label stream's columns |\n\
         | `samples.*.columns`, `negatives.where` | the impression's columns, `<join>.<column>` (with `take: any` `<join>.any`, with `take: count` `<join>.count`), feature outputs, computed columns above |\n\n\
         Conditions count as false where they are null. Aggregates, windows, subqueries and functions that read a clock or\n\
         give random values are refused. `millis_between(a, b)` is `b - a` in milliseconds.\n\n\
         Functions: ",
    );
    let names: Vec<String> = function_names().map(|name| format!("`{name}`")).collect();
    out.push_str(&names.join(", "));
    out.push_str(
        ". Further: `CASE`, `CAST(x AS bigint | int | double | float | varchar | boolean | timestamp)`, `LIKE`, `IN (…)`,\n\
         `BETWEEN`, `IS NULL`, `EXTRACT(hour FROM ts)`, `||`, arithmetic and comparisons.\n",
    );
}

fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    schema.get("properties").and_then(Value::as_object)
}

/// Required keys first, then those that are supported, then the others; each in the order of the alphabet.
fn ordered(schema: &Value) -> Vec<(&String, &Value)> {
    let required = |key: &str| {
        schema.get("required").and_then(Value::as_array).is_some_and(|keys| keys.iter().any(|known| known == key))
    };
    let mut all: Vec<_> = properties(schema).into_iter().flatten().collect();
    all.sort_by_key(|(key, property)| (!required(key), property.get("x-later").is_some(), (*key).clone()));
    all
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
