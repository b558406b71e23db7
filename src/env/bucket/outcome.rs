//! Outcome: what a failed request to an object store means: nothing happened, it may have happened, or it never will.

use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};
use std::error::Error as StdError;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// The request never left: trying again is safe.
    NotSent,
    /// The answer is lost, or the store said that it is in trouble: it may have happened, and may succeed later.
    Unclear,
    /// The path is taken.
    Taken,
    NotFound,
    Refused,
    /// The range lies beyond the object's end.
    OutOfRange,
    /// Trying again gives the same answer.
    Final,
}

impl Outcome {
    pub(super) fn may_pass(self) -> bool {
        matches!(self, Outcome::NotSent | Outcome::Unclear)
    }
}

pub(super) fn outcome(error: &Error) -> Outcome {
    match error {
        Error::NotFound { .. } => Outcome::NotFound,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Outcome::Refused,
        // S3 answers 409 while another request changes the same key, which may be our own that timed out. Azure says
        // with 409 that the blob exists.
        Error::AlreadyExists { .. } if status(error) == Some(409) && !text(error).contains("AlreadyExists") => {
            Outcome::Unclear
        }
        Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. } => Outcome::Taken,
        _ => match (status(error), http_kind(error)) {
            (Some(408 | 429 | 500..=599), _) => Outcome::Unclear,
            // An error inside a successful answer, as S3 gives it for long requests.
            (Some(200..=299), _) => Outcome::Unclear,
            (Some(416), _) => Outcome::OutOfRange,
            (Some(_), _) => Outcome::Final,
            (None, Some(HttpErrorKind::Connect)) => Outcome::NotSent,
            (None, Some(_)) => Outcome::Unclear,
            (None, None) => Outcome::Final,
        },
    }
}

/// What the transport said, wherever it stands among the causes.
fn http_kind(error: &Error) -> Option<HttpErrorKind> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            return Some(http.kind());
        }
        cause = error.source();
    }
    None
}

fn text(error: &Error) -> String {
    error.to_string()
}

/// The status of the answer. The client keeps its type for this to itself, but its text is part of every message.
fn status(error: &Error) -> Option<u16> {
    const BEFORE: &str = "non-2xx status code: ";
    let text = text(error);
    if text.contains("Server returned error response: ") {
        return Some(200);
    }
    let at = text.find(BEFORE)? + BEFORE.len();
    text.get(at..at + 3)?.parse().ok()
}
