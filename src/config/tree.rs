//! Tree: the text of pipeline files as a tree in which every key and value knows its file, line and column.
//!
//!   text ── parse ──> Node ── merge overlays, --set ──> Node
//!
//! Holds: mapping order is the order of the file; a merged value keeps the position it came from.
//! Does not: know which keys exist, read the environment.

use super::diagnostic::Diagnostic;
use saphyr::{LoadableYamlNode, MarkedYaml, Marker, Scalar, YamlData};
use std::fmt;
use std::sync::Arc;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Position {
    pub file: Arc<str>,
    /// From 1; 0 when there is no line.
    pub line: u32,
    /// From 1; 0 when there is no column.
    pub column: u32,
}

impl Position {
    pub fn whole(file: &str) -> Self {
        Position { file: file.into(), line: 0, column: 0 }
    }
}

#[derive(Clone, Debug)]
pub struct Node {
    pub at: Position,
    pub content: Content,
    /// The text behind a retyped `${…}` reference: it may still be meant as a string.
    pub text: Option<String>,
}

#[derive(Clone, Debug)]
pub enum Content {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub key_at: Position,
    pub value: Node,
}

impl Node {
    pub fn get(&self, key: &str) -> Option<&Entry> {
        match &self.content {
            Content::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The value as a message shows it.
    pub fn shown(&self) -> String {
        match &self.content {
            Content::Null => "nothing".into(),
            Content::Bool(value) => format!("`{value}`"),
            Content::Int(value) => format!("`{value}`"),
            Content::Float(value) => format!("`{value}`"),
            Content::Text(text) => shown_text(text),
            Content::List(_) => "a list".into(),
            Content::Map(_) => "a mapping".into(),
        }
    }
}

/// Text in a message: quoted, cut, without control characters.
pub fn shown_text(text: &str) -> String {
    const SHOWN: usize = 60;
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match clean.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("`{}…`", &clean[..cut]),
        None => format!("`{clean}`"),
    }
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Step {
    Key(String),
    Index(usize),
}

/// Where in the tree a value is, such as `streams.clicks.key[1]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Path(pub Vec<Step>);

impl Path {
    pub fn of(keys: &[&str]) -> Self {
        Path(keys.iter().map(|key| Step::Key(key.to_string())).collect())
    }

    pub fn key(&self, key: &str) -> Self {
        let mut path = self.clone();
        path.0.push(Step::Key(key.into()));
        path
    }

    pub fn index(&self, index: usize) -> Self {
        let mut path = self.clone();
        path.0.push(Step::Index(index));
        path
    }

    pub fn starts_with(&self, prefix: &Path) -> bool {
        self.0.starts_with(&prefix.0)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    if position > 0 {
                        f.write_str(".")?;
                    }
                    if key.contains(['.', '[', ' ']) || key.is_empty() {
                        write!(f, "{key:?}")?
                    } else {
                        f.write_str(key)?
                    }
                }
            }
        }
        Ok(())
    }
}

/// The position to show for a path: of the value if it is there, else of the nearest parent's key.
pub fn locate(root: &Node, path: &Path) -> Position {
    let mut node = root;
    let mut at = root.at.clone();
    for step in &path.0 {
        match step {
            Step::Key(key) => {
                let Some(entry) = node.get(key) else { return at };
                at = entry.key_at.clone();
                node = &entry.value;
            }
            Step::Index(index) => {
                // A single value may stand for a list of one.
                let Content::List(items) = &node.content else { continue };
                let Some(item) = items.get(*index) else { return at };
                at = item.at.clone();
                node = item;
            }
        }
    }
    at
}

/// Where positions lie.
struct Source {
    file: Arc<str>,
    lines: usize,
}

impl Source {
    /// What is missing at the end is told by the parser on a line behind it, which no editor can go to.
    fn position(&self, marker: &Marker) -> Position {
        let (line, column) = (marker.line().min(self.lines) as u32, marker.col() as u32 + 1);
        Position { file: self.file.clone(), line, column }
    }
}

/// Reads one YAML document.
pub fn parse(file: &str, text: &str) -> Result<Node, Vec<Diagnostic>> {
    let source = &Source { file: file.into(), lines: text.split(['\n', '\r']).count() };
    let documents = MarkedYaml::load_from_str(text)
        .map_err(|error| vec![syntax_error(&source.position(error.marker()), text, error.info())])?;
    match documents.as_slice() {
        [] => Err(vec![
            Diagnostic::error(&Position::whole(&source.file), "", "the file is empty")
                .with_help("start with `version: 1` and `pipeline: <name>`; `conjoin demo` shows a whole file"),
        ]),
        [document] => {
            let mut errors = Vec::new();
            let node = convert(document, source, &Path::default(), &mut errors);
            if errors.is_empty() { Ok(node) } else { Err(errors) }
        }
        [_, second, ..] => {
            let told =
                Diagnostic::error(&source.position(&second.span.start), "", "a second YAML document starts here");
            Err(vec![told.with_help("one file is one pipeline: remove the `---` line")])
        }
    }
}

fn syntax_error(at: &Position, text: &str, info: &str) -> Diagnostic {
    let diagnostic = Diagnostic::error(at, "", format!("not valid YAML: {info}"));
    let line = text.lines().nth((at.line as usize).saturating_sub(1)).unwrap_or("");
    let next = text.lines().nth(at.line as usize).unwrap_or("");
    if info.contains("duplicated key") {
        let rest: String = line.chars().skip((at.column as usize).saturating_sub(1)).collect();
        let key = rest.split(':').next().unwrap_or_default().trim();
        Diagnostic::error(at, "", format!("the key {} stands twice in one mapping", shown_text(key)))
            .with_help("merge the two or remove one")
    } else if line.contains('\t') || next.trim_start_matches(' ').starts_with('\t') {
        diagnostic.with_help("YAML is indented with spaces, not tabs")
    } else if line.contains(": *") {
        diagnostic.with_help("a star must be quoted: `count: \"*\"`")
    } else if line.matches(": ").count() > 1 {
        diagnostic.with_help("quote a value that contains `: `")
    } else {
        diagnostic
            .with_help("look at this line and the one above: indentation, a missing colon or an open quote or bracket")
    }
}

fn convert(yaml: &MarkedYaml<'_>, source: &Source, path: &Path, errors: &mut Vec<Diagnostic>) -> Node {
    let at = source.position(&yaml.span.start);
    let content = match &yaml.data {
        YamlData::Value(scalar) => scalar_content(scalar),
        YamlData::Sequence(items) => Content::List(
            items.iter().enumerate().map(|(i, item)| convert(item, source, &path.index(i), errors)).collect(),
        ),
        YamlData::Mapping(map) => {
            let mut entries = Vec::with_capacity(map.len());
            for (key, value) in map {
                let key_at = source.position(&key.span.start);
                let Some(name) = key_name(key) else {
                    errors.push(
                        Diagnostic::error(&key_at, path, "found a key that is no text")
                            .with_help("keys are plain names; quote other text"),
                    );
                    continue;
                };
                let value = convert(value, source, &path.key(&name), errors);
                entries.push(Entry { key: name, key_at, value });
            }
            Content::Map(entries)
        }
        YamlData::Tagged(tag, _) => {
            errors.push(
                Diagnostic::error(&at, path, format!("found the YAML tag `{}{}`", tag.handle, tag.suffix))
                    .with_help("tags have no meaning here: write the plain value"),
            );
            Content::Null
        }
        YamlData::Representation(..) | YamlData::Alias(_) | YamlData::BadValue => {
            errors.push(Diagnostic::error(&at, path, "found a value that cannot be read").with_help("quote it"));
            Content::Null
        }
    };
    Node { at, content, text: None }
}

fn key_name(key: &MarkedYaml<'_>) -> Option<String> {
    match &key.data {
        YamlData::Value(Scalar::String(text)) => Some(text.to_string()),
        YamlData::Value(Scalar::Integer(number)) => Some(number.to_string()),
        YamlData::Value(Scalar::Boolean(flag)) => Some(flag.to_string()),
        _ => None,
    }
}

fn scalar_content(scalar: &Scalar<'_>) -> Content {
    match scalar {
        Scalar::Null => Content::Null,
        Scalar::Boolean(value) => Content::Bool(*value),
        Scalar::Integer(value) => Content::Int(*value),
        Scalar::FloatingPoint(value) => Content::Float(value.into_inner()),
        Scalar::String(text) => Content::Text(text.to_string()),
    }
}

/// The content that `text` has as a plain YAML scalar.
pub fn retype(text: &str) -> Content {
    scalar_content(&Scalar::parse_from_cow(text.into()))
}

/// Lays `over` on `base`: mappings merge key by key, anything else is replaced, null removes.
pub fn merge(base: &mut Node, over: Node) {
    match (&mut base.content, over.content) {
        (Content::Map(entries), Content::Map(over)) => {
            for entry in over {
                let known = entries.iter().position(|known| known.key == entry.key);
                match (known, &entry.value.content) {
                    (Some(index), Content::Null) => {
                        entries.remove(index);
                    }
                    (None, Content::Null) => {}
                    (Some(index), _) => merge(&mut entries[index].value, entry.value),
                    (None, _) => entries.push(entry),
                }
            }
        }
        (_, content) => *base = Node { at: over.at, content, text: over.text },
    }
}

/// Applies one `--set a.b=c`; the value is read as YAML.
pub fn set(root: &mut Node, assignment: &str) -> Result<(), Vec<Diagnostic>> {
    let origin = format!("--set {assignment}");
    let wrong = |found: &str| {
        vec![
            Diagnostic::error(&Position::whole(&origin), "", found)
                .with_help("write --set key.path=value, such as --set state.path=/data/state"),
        ]
    };
    let Some((path, value)) = assignment.split_once('=') else { return Err(wrong("there is no `=`")) };
    if path.split('.').any(str::is_empty) {
        return Err(wrong("the key path has an empty part"));
    }
    let at = Position::whole(&origin);
    let mut node = if value.is_empty() {
        Node { at: at.clone(), content: Content::Text(String::new()), text: None }
    } else {
        let mut node = parse(&origin, value)?;
        clear_lines(&mut node);
        node
    };
    for key in path.split('.').rev() {
        let entry = Entry { key: key.into(), key_at: at.clone(), value: node };
        node = Node { at: at.clone(), content: Content::Map(vec![entry]), text: None };
    }
    merge(root, node);
    Ok(())
}

fn clear_lines(node: &mut Node) {
    node.at = Position::whole(&node.at.file);
    match &mut node.content {
        Content::List(items) => items.iter_mut().for_each(clear_lines),
        Content::Map(entries) => entries.iter_mut().for_each(|entry| {
            entry.key_at = Position::whole(&entry.key_at.file);
            clear_lines(&mut entry.value);
        }),
        _ => {}
    }
}
