//! Substitute: puts the values of `${VAR}`, `${VAR:-default}` and `${file:path}` into string leaves, after parsing.
//!
//! A leaf that is exactly one reference is retyped as a YAML scalar, so that `${PORT}` may be a number; `$$` is a `$`.
//! Holds: keys and structure never come from the environment.
//! Does not: touch text inside a value it put in; log or show what a file held.

use super::diagnostic::Diagnostic;
use super::tree::{Content, Node, Path, retype};

/// Where the values come from.
pub struct Surroundings<'a> {
    pub env: &'a dyn Fn(&str) -> Option<String>,
    pub read_file: &'a dyn Fn(&str) -> Result<String, String>,
}

pub fn substitute(node: &mut Node, from: &Surroundings<'_>, errors: &mut Vec<Diagnostic>) {
    walk(node, &Path::default(), from, errors);
}

fn walk(node: &mut Node, path: &Path, from: &Surroundings<'_>, errors: &mut Vec<Diagnostic>) {
    match &mut node.content {
        Content::Text(text) if text.contains('$') => match expand(text, from) {
            Ok((text, true)) => {
                node.content = match retype(&text) {
                    // An empty value stays a text: it is what the variable holds.
                    Content::Null => Content::Text(text.clone()),
                    content => content,
                };
                node.text = Some(text);
            }
            Ok((text, false)) => node.content = Content::Text(text),
            Err((found, help)) => {
                errors.push(Diagnostic::error(&node.at, path, found).with_help(help));
                // Null with a text is a value already told wrong: later checks pass over it.
                node.content = Content::Null;
                node.text = Some(String::new());
            }
        },
        Content::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                walk(item, &path.index(index), from, errors);
            }
        }
        Content::Map(entries) => {
            for entry in entries {
                let path = path.key(&entry.key);
                walk(&mut entry.value, &path, from, errors);
            }
        }
        _ => {}
    }
}

/// The expanded text, and whether it was exactly one reference; or what is wrong and what helps.
fn expand(text: &str, from: &Surroundings<'_>) -> Result<(String, bool), (String, String)> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut whole = false;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        let tail = &rest[dollar + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(inside) = tail.strip_prefix('{') {
            let Some(end) = inside.find('}') else {
                return Err((
                    "found `${` without `}`".into(),
                    "close the reference, or write `$$` for a dollar".into(),
                ));
            };
            out.push_str(&resolve(&inside[..end], from)?);
            rest = &inside[end + 1..];
            whole = dollar == 0 && rest.is_empty() && text.starts_with("${") && !text[1..].contains("${");
        } else {
            // A lone dollar is itself: `$.path` and `$index` need no escape.
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    Ok((out, whole))
}

fn resolve(reference: &str, from: &Surroundings<'_>) -> Result<String, (String, String)> {
    if let Some(path) = reference.strip_prefix("file:") {
        let text = (from.read_file)(path).map_err(|error| {
            (
                format!("cannot read `{path}`: {error}"),
                "the file must exist and be readable where this runs".to_string(),
            )
        })?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        return Ok(text.strip_suffix('\r').unwrap_or(text).to_string());
    }
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    if default.is_some_and(|default| default.contains("${")) {
        return Err((
            format!("found a reference inside the default of `{name}`"),
            "references do not nest: write the default itself".into(),
        ));
    }
    let valid = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !valid {
        return Err((
            format!("found `${{{reference}}}`, which is no reference"),
            "write `${NAME}`, `${NAME:-default}` or `${file:path}`; `$$` is a dollar".into(),
        ));
    }
    // As in a shell, `:-` also stands in for an empty value.
    match ((from.env)(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_string()),
        (None, None) => Err((
            format!("the environment variable `{name}` is not set"),
            format!("set it, or give a default: `${{{name}:-value}}`"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<(String, bool), (String, String)> {
        let env = |name: &str| match name {
            "PORT" => Some("9092".to_string()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let read_file = |path: &str| if path == "/secret" { Ok("hush\n".into()) } else { Err("not found".to_string()) };
        expand(text, &Surroundings { env: &env, read_file: &read_file })
    }

    #[test]
    fn a_leaf_that_is_one_reference_is_told_apart() {
        assert_eq!(expanded("${PORT}"), Ok(("9092".into(), true)));
        assert_eq!(expanded("localhost:${PORT}"), Ok(("localhost:9092".into(), false)));
        assert_eq!(expanded("${PORT}${PORT}"), Ok(("90929092".into(), false)));
    }

    #[test]
    fn defaults_stand_in_for_unset_and_empty_variables() {
        assert_eq!(expanded("${NONE:-a:b}").unwrap().0, "a:b");
        assert_eq!(expanded("${EMPTY:-x}").unwrap().0, "x");
        assert_eq!(expanded("${EMPTY}").unwrap().0, "");
        assert!(expanded("${NONE}").unwrap_err().0.contains("NONE"));
    }

    #[test]
    fn dollars_escape_and_paths_stay() {
        assert_eq!(expanded("$$5 and $.a.b and $index").unwrap().0, "$5 and $.a.b and $index");
        assert_eq!(expanded("$${PORT}").unwrap().0, "${PORT}");
    }

    #[test]
    fn a_file_gives_its_text_without_the_last_line_end() {
        assert_eq!(expanded("${file:/secret}").unwrap().0, "hush");
        assert!(expanded("${file:/none}").is_err());
        assert!(expanded("${open").is_err());
        assert!(expanded("${a b}").is_err());
    }
}
