//! What is wrong with an expression, and what helps.

use super::type_name;
use arrow::datatypes::DataType;
use datafusion_common::DataFusionError;

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SqlError {
    #[error("not a valid SQL expression: {0}")]
    Syntax(String),
    #[error("unknown column `{name}`")]
    UnknownColumn { name: String, help: Option<String> },
    #[error("unknown function `{name}`")]
    UnknownFunction { name: String, help: Option<String> },
    #[error("{what} cannot stand here")]
    Unsupported { what: String, help: String },
    #[error("found {found}, expected {expected}")]
    Type { found: String, expected: String },
    #[error("the types do not fit: {0}")]
    Plan(String),
}

impl SqlError {
    pub(super) fn plan(error: DataFusionError) -> Self {
        SqlError::Plan(own_types(first_line(&error)))
    }

    pub(super) fn result_type(found: &DataType) -> Self {
        let found = match found {
            DataType::Null => "null".to_string(),
            other => type_name(other),
        };
        SqlError::Type { found, expected: "a string, number, boolean or timestamp".into() }
    }

    pub fn help(&self) -> Option<String> {
        match self {
            SqlError::Syntax(_) => {
                Some("text stands in single quotes, as in device = 'ios'; names are taken as written".into())
            }
            SqlError::UnknownColumn { help, .. } | SqlError::UnknownFunction { help, .. } => help.clone(),
            SqlError::Unsupported { help, .. } => Some(help.clone()),
            SqlError::Type { found, expected } if found == "null" && expected.starts_with("a string") => {
                Some("say which type: cast(null AS double)".into())
            }
            SqlError::Type { .. } => None,
            SqlError::Plan(_) => {
                Some("cast(x AS bigint | double | varchar | timestamp) turns one type into another".into())
            }
        }
    }
}

/// Types as pipeline files name them, where the engine names its own.
fn own_types(mut message: String) -> String {
    const NAMES: [(&str, &str); 12] = [
        ("Timestamp(ms, \"UTC\")", "timestamp"),
        ("Timestamp(Millisecond, Some(\"UTC\"))", "timestamp"),
        ("LargeUtf8", "string"),
        ("Utf8View", "string"),
        ("Utf8", "string"),
        ("Int32", "int32"),
        ("Int64", "int64"),
        ("Float32", "float32"),
        ("Float64", "float64"),
        ("Boolean", "bool"),
        (" to valid types", ""),
        ("coerce arithmetic expression", "compute"),
    ];
    for (theirs, ours) in NAMES {
        message = message.replace(theirs, ours);
    }
    message
}

/// The message of an engine error without its class names and its further lines.
pub fn first_line(error: &DataFusionError) -> String {
    let text = error.strip_backtrace();
    let mut line = text.lines().next().unwrap_or_default().trim();
    const CLASSES: [&str; 9] = [
        "Error during planning: ",
        "SQL error: ",
        "Arrow error: ",
        "Execution error: ",
        "This feature is not implemented: ",
        "Schema error: ",
        "Internal error: ",
        "Optimizer rule failed",
        "type_coercion caused by",
    ];
    while let Some(rest) = CLASSES.iter().find_map(|class| line.strip_prefix(class)) {
        line = rest.trim();
    }
    if let Some((_, reason)) = line.rsplit_once("Error during planning: ") {
        line = reason.trim();
    }
    if line.is_empty() {
        line = text.lines().last().unwrap_or_default().trim();
    }
    if let Some(inside) = line.strip_prefix("ParserError(\"").and_then(|rest| rest.strip_suffix("\")")) {
        return inside.replace("\\\"", "\"").replace("\\'", "'").replace("found: EOF", "found: the end");
    }
    line.to_string()
}
