//! Words: what a JSON Schema wants, said in words; shared by the shape check and the reference.

use super::diagnostic::listed;
use serde_json::Value;

/// Reads a schema: follows references, and says in words what it wants.
#[derive(Clone, Copy)]
pub struct Words<'a> {
    pub root: &'a Value,
}

impl<'a> Words<'a> {
    pub fn resolved(&self, schema: &'a Value) -> &'a Value {
        let Some(reference) = schema.get("$ref").and_then(Value::as_str) else { return schema };
        self.root.pointer(reference.trim_start_matches('#')).unwrap_or(schema)
    }

    /// The alternatives of a schema, without null: an absent key is simply absent.
    pub fn branches(&self, schema: &'a Value) -> Vec<&'a Value> {
        let Some(all) = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array) else {
            return vec![schema];
        };
        all.iter()
            .map(|branch| self.resolved(branch))
            .filter(|branch| branch.get("type") != Some(&Value::String("null".into())))
            .flat_map(|branch| self.branches(branch))
            .collect()
    }

    pub fn supported_choices(&self, branches: &[&'a Value]) -> Vec<&'a str> {
        branches.iter().copied().filter(|branch| later(branch).is_none()).flat_map(choices).collect()
    }

    /// What a schema wants, in words.
    pub fn what(&self, schema: &'a Value) -> String {
        let schema = self.resolved(schema);
        if let Some(what) = schema.get("x-what").and_then(Value::as_str) {
            return what.into();
        }
        let branches: Vec<&'a Value> =
            self.branches(schema).into_iter().filter(|branch| later(branch).is_none()).collect();
        let known = self.supported_choices(&branches);
        let mut parts = Vec::new();
        match known.as_slice() {
            [] => {}
            [one] => parts.push(format!("`{one}`")),
            many => parts.push(format!("one of {}", listed(many.iter().copied()))),
        }
        for branch in branches.iter().copied().filter(|branch| choices(branch).is_empty()) {
            let part = match branch.get("x-what").and_then(Value::as_str) {
                Some(what) => what.to_string(),
                None if branches.len() == 1 && allows(branch, "object") => "a mapping".into(),
                None => self.kind(branch),
            };
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
        parts.join(" or ")
    }

    fn kind(&self, branch: &'a Value) -> String {
        if allows(branch, "object") {
            let required = branch.get("required").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            return match required {
                [only] if branch.get("properties").and_then(Value::as_object).is_some_and(|p| p.len() == 1) => {
                    format!("{{{}: …}}", only.as_str().unwrap_or_default())
                }
                _ => "a mapping".into(),
            };
        }
        if allows(branch, "array") {
            return match branch.get("items") {
                Some(items) => match self.what(items).as_str() {
                    "a string" => "a list of names".into(),
                    each => format!("a list, each {each}"),
                },
                None => "a list".into(),
            };
        }
        for (kind, what) in [
            ("boolean", "`true` or `false`"),
            ("integer", "a whole number"),
            ("number", "a number"),
            ("string", "a string"),
        ] {
            if allows(branch, kind) {
                return what.into();
            }
        }
        "a value".into()
    }
}

pub fn later(schema: &Value) -> Option<&str> {
    match schema.get("x-later") {
        Some(Value::String(reason)) => Some(reason),
        Some(_) => Some("is not supported yet"),
        None => None,
    }
}

/// Any value will do.
pub fn is_any(schema: &Value) -> bool {
    schema.get("x-any").is_some()
}

pub fn allows(schema: &Value, kind: &str) -> bool {
    match schema.get("type") {
        Some(Value::String(name)) => name == kind,
        Some(Value::Array(names)) => names.iter().any(|name| name == kind),
        _ => schema == &Value::Bool(true) || (kind == "string" && !choices(schema).is_empty()),
    }
}

pub fn choices(schema: &Value) -> Vec<&str> {
    let one = schema.get("const").and_then(Value::as_str);
    let many = schema.get("enum").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    one.into_iter().chain(many).collect()
}
