//! Open: the stores of a plan, for those who only look: nothing is made that is not there.

use crate::commit::{ChainError, ClaimRefusal, ObjectError, Survey, survey};
use crate::config::Plan;
use crate::env::{Place, Store, StoreError, open_place};
use crate::pipeline::RestoreError;
use crate::sink::SinkError;
use crate::source::SourceError;
use std::sync::Arc;

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("there is no state in {path} yet: `conjoin run` makes it at its first start; check `state.path` if it ran")]
    NoState { path: String },
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error(transparent)]
    Refused(#[from] ClaimRefusal),
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Source(#[from] SourceError),
    /// What was asked for cannot be done; the message says why and what to do.
    #[error("{0}")]
    Asked(String),
}

/// The store of the state, if there is one.
pub fn open_state(plan: &Plan) -> Result<Option<Arc<dyn Store>>, AuditError> {
    open_existing(&plan.state.path)
}

/// The store at a place. A folder must be there; a bucket, which has none, is always there and may be empty.
pub fn open_existing(place: &Place) -> Result<Option<Arc<dyn Store>>, AuditError> {
    if place.folder().is_some_and(|folder| !folder.is_dir()) {
        return Ok(None);
    }
    Ok(Some(open_place(place)?))
}

/// Every manifest of the plan's own chain; refused when there is none, or when it is another pipeline's.
pub fn own_chain(plan: &Plan, state: Option<&dyn Store>) -> Result<Survey, AuditError> {
    let none = || AuditError::NoState { path: plan.state.path.to_string() };
    let survey = survey(state.ok_or_else(none)?)?;
    let head = &survey.head().ok_or_else(none)?.manifest;
    if head.format != crate::commit::FORMAT {
        return Err(ClaimRefusal::Format { found: head.format }.into());
    }
    if head.pipeline != plan.pipeline {
        let refusal = ClaimRefusal::OtherPipeline { found: head.pipeline.clone(), expected: plan.pipeline.clone() };
        return Err(refusal.into());
    }
    Ok(survey)
}
