//! What a request is answered when it cannot be served: `{"error": {"code", "message", "help"}}`.

use crate::model::ModelError;
use crate::online::StoreError;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

/// An answer that is not the one that was asked for. `code` is stable, the rest is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    pub status: u16,
    pub code: &'static str,
    pub message: String,
    pub help: String,
}

impl ApiError {
    pub fn new(status: u16, code: &'static str, message: impl Into<String>, help: impl Into<String>) -> Self {
        ApiError { status, code, message: message.into(), help: help.into() }
    }

    /// A name the plan does not have, with the nearest that it has.
    pub fn unknown<'a>(code: &'static str, what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Self {
        let mut known: Vec<&str> = known.collect();
        known.sort_unstable();
        known.dedup();
        let distance = |other: &str| strsim::damerau_levenshtein(name, other);
        // The distance takes time and memory with the product of both lengths.
        let alike = known.iter().filter(|other| name.len() <= 2 * other.len());
        let near = alike
            .min_by_key(|other| distance(other))
            .filter(|other| distance(other) * 2 <= name.len().max(other.len()));
        let help = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => format!("the pipeline has no {what}"),
            None => format!("there are: {}", known.join(", ")),
        };
        ApiError::new(404, code, format!("there is no {what} `{name}`"), help)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = serde_json::json!({
            "error": { "code": self.code, "message": self.message, "help": self.help }
        });
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        ApiError::new(503, "store_unavailable", format!("{}: {}", error.store, error.message), error.kind.help())
    }
}

impl From<ModelError> for ApiError {
    fn from(error: ModelError) -> Self {
        let (status, code, help) = match &error {
            ModelError::Input { .. } => (422, "wrong_type", "send values of the type the model takes"),
            ModelError::NotFinite { .. } => (500, "score_not_finite", "look at the inputs of that row"),
            _ => (500, "model_failed", "look at the server's log"),
        };
        ApiError::new(status, code, error.to_string(), help)
    }
}
