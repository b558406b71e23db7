//! Faults: what is wrong with a row, kept small while rows are decoded and told in words only for rows that are
//! refused. A topic often carries several event types, and most rows that lack a column are filtered anyway.

use crate::decode::{ColumnFrom, ColumnSpec, DecodeSpec, TimeUnitSpec};
use crate::event::{ColumnType, RejectKind};
use simd_json::{Node, StaticNode};
use std::fmt::Write;

#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    pub kind: RejectKind,
    pub place: Place,
    pub found: Found,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// The path of `explode`.
    Array,
    /// The first `steps` steps of the column's path.
    Column { column: usize, steps: u16 },
}

impl Place {
    /// Of several faults of a row the one of the lowest rank is told.
    fn rank(self) -> usize {
        match self {
            Place::Array => 0,
            Place::Column { column, .. } => column + 1,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Found {
    Missing,
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    /// Where in [`Texts`].
    Text {
        start: u32,
        end: u32,
    },
    NotText,
    Object,
    Array {
        elements: usize,
    },
    CopiedBytes(usize),
    /// Where in [`Texts`] stands all that is to be said.
    Told {
        start: u32,
        end: u32,
    },
}

/// The starts of texts that faults point at.
#[derive(Default)]
pub(super) struct Texts(String);

/// Characters of a value that a message shows.
const EXCERPT_CHARS_MAX: usize = 60;

impl Texts {
    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn keep(&mut self, text: &str) -> Found {
        let start = self.0.len() as u32;
        // one character more than is shown, so that the message sees that it was cut
        self.0.extend(text.chars().take(EXCERPT_CHARS_MAX + 1));
        Found::Text { start, end: self.0.len() as u32 }
    }

    /// Keeps a message as a whole.
    pub fn tell(&mut self, message: &str) -> Found {
        let start = self.0.len() as u32;
        self.0.push_str(message);
        Found::Told { start, end: self.0.len() as u32 }
    }

    pub fn found(&mut self, node: &Node<'_>) -> Found {
        match node {
            Node::String(text) => self.keep(text),
            Node::Object { .. } => Found::Object,
            Node::Array { len, .. } => Found::Array { elements: *len },
            Node::Static(StaticNode::Null) => Found::Null,
            Node::Static(StaticNode::Bool(value)) => Found::Bool(*value),
            Node::Static(StaticNode::I64(value)) => Found::Signed(*value),
            Node::Static(StaticNode::U64(value)) => Found::Unsigned(*value),
            Node::Static(StaticNode::F64(value)) => Found::Float(*value),
        }
    }
}

/// What is wrong with the row at hand.
#[derive(Clone, Copy, Default)]
pub(super) struct RowFaults {
    first: Option<Fault>,
    /// A column that `where` reads is bad, so its answer means nothing.
    pub blinds_filter: bool,
}

impl RowFaults {
    pub fn add(&mut self, fault: Fault, filter_reads: bool) {
        self.blinds_filter |= filter_reads;
        let told = self.first.is_some_and(|first| {
            let (first_rank, rank) = (first.place.rank(), fault.place.rank());
            // What is wrong with the field as such says more than what is wrong with its value.
            let of_field = matches!(fault.kind, RejectKind::DuplicateField | RejectKind::IncompatibleSchema);
            first_rank < rank || (first_rank == rank && !of_field)
        });
        if !told {
            self.first = Some(fault);
        }
    }

    pub fn first(&self) -> Option<Fault> {
        self.first
    }
}

/// The start of a text in quotes, with control characters escaped.
pub(super) fn excerpt(text: &str) -> String {
    let mut shown = String::from("\"");
    for (count, character) in text.chars().enumerate() {
        if count == EXCERPT_CHARS_MAX {
            shown.push('…');
            break;
        }
        match character {
            '"' | '\\' => shown.extend(['\\', character]),
            character if character.is_control() => shown.extend(character.escape_default()),
            character => shown.push(character),
        }
    }
    shown.push('"');
    shown
}

/// Tells a fault in words.
pub(super) fn describe(fault: &Fault, spec: &DecodeSpec, item: Option<u32>, texts: &Texts) -> String {
    if let Found::Told { start, end } = fault.found {
        return texts.0[start as usize..end as usize].to_string();
    }
    let place = place(fault.place, spec, item);
    let found = match fault.found {
        Found::Missing => "missing".to_string(),
        Found::Null => "null".to_string(),
        Found::Bool(value) => value.to_string(),
        Found::Signed(value) => format!("the number {value}"),
        Found::Unsigned(value) => format!("the number {value}"),
        Found::Float(value) if value.abs() == f64::MAX => "a number beyond every float".to_string(),
        Found::Float(value) => format!("the number {value:?}"),
        Found::Text { start, end } => format!("the text {}", excerpt(&texts.0[start as usize..end as usize])),
        Found::NotText => "bytes that are not UTF-8".to_string(),
        Found::Object => "an object".to_string(),
        Found::Array { elements } => format!("an array of {elements}"),
        Found::CopiedBytes(bytes) => format!("{bytes} bytes"),
        Found::Told { .. } => unreachable!("told above"),
    };
    let expected = match fault.place {
        Place::Array => "an array".to_string(),
        Place::Column { column, steps } => expected(&spec.columns[column], steps),
    };
    match (fault.kind, fault.place) {
        (RejectKind::MissingField, Place::Column { column, .. }) => {
            let is = if matches!(fault.found, Found::Null) { "is null" } else { "is missing" };
            let name = &spec.columns[column].name;
            format!("{place} {is}, but column {name} is not nullable and has no default")
        }
        (RejectKind::DuplicateField, _) => format!("{place} is there twice; one field must have one value"),
        (RejectKind::OutOfRange, _) => format!("{place} is {found}, which does not fit {expected}"),
        (RejectKind::TooManyItems, _) => {
            let max = spec.explode.as_ref().map_or(0, |explode| explode.max);
            format!("{place} is {found} elements, but explode allows at most {max}")
        }
        (RejectKind::TooLarge, _) => {
            format!("{place}: repeating the record's text for every element would take {found}")
        }
        _ => format!("{place} is {found}, but must be {expected}"),
    }
}

fn place(place: Place, spec: &DecodeSpec, item: Option<u32>) -> String {
    let array = |spec: &DecodeSpec| path_text("$", spec.explode.as_ref().map_or(&[], |explode| &explode.path));
    let (column, steps) = match place {
        Place::Array => return array(spec),
        Place::Column { column, steps } => (&spec.columns[column], steps as usize),
    };
    match &column.from {
        ColumnFrom::Path(path) => path_text("$", &path[..steps.min(path.len())]),
        ColumnFrom::Item(path) => {
            let index = item.map_or_else(|| "[*]".to_string(), |item| format!("[{item}]"));
            path_text(&format!("{}{index}", array(spec)), &path[..steps.min(path.len())])
        }
        ColumnFrom::ItemIndex => "the index of the element".to_string(),
        ColumnFrom::Header(name) => format!("header {}", excerpt(name)),
        ColumnFrom::Key => "the message key".to_string(),
        ColumnFrom::Partition => "the partition".to_string(),
        ColumnFrom::BrokerTime => "the broker's timestamp".to_string(),
        ColumnFrom::Dimension => "a dimension".to_string(),
    }
}

/// Where a column is read from.
pub(super) fn path_of(column: usize, spec: &DecodeSpec) -> String {
    place(Place::Column { column, steps: u16::MAX }, spec, None)
}

fn path_text(root: &str, path: &[String]) -> String {
    let mut text = root.to_string();
    for step in path {
        write!(text, ".{step}").expect("a String takes every write");
    }
    text
}

fn expected(column: &ColumnSpec, steps: u16) -> String {
    let length = match &column.from {
        ColumnFrom::Path(path) | ColumnFrom::Item(path) => path.len(),
        _ => 0,
    };
    if (steps as usize) < length {
        return format!("an object (column {} is in it)", column.name);
    }
    let kind = match (column.column_type, column.unit) {
        (ColumnType::String, _) => "a string",
        (ColumnType::Int32, _) => "a whole number (int32)",
        (ColumnType::Int64, _) => "a whole number (int64)",
        (ColumnType::Float32, _) => "a number (float32)",
        (ColumnType::Float64, _) => "a number (float64)",
        (ColumnType::Bool, _) => "true or false",
        (ColumnType::Timestamp, TimeUnitSpec::Seconds) => "a timestamp in seconds (a number)",
        (ColumnType::Timestamp, TimeUnitSpec::Millis) => "a timestamp in ms (a whole number)",
        (ColumnType::Timestamp, TimeUnitSpec::Micros) => "a timestamp in us (a whole number)",
        (ColumnType::Timestamp, TimeUnitSpec::Nanos) => "a timestamp in ns (a whole number)",
        (ColumnType::Timestamp, TimeUnitSpec::Rfc3339) => "an RFC 3339 time such as \"2024-01-31T12:00:00Z\"",
    };
    format!("{kind} for column {}", column.name)
}
