//! Open: the stores of a plan, for those who only look: nothing is made that is not there.

use crate::commit::{ChainError, ClaimRefusal, Manifest, ObjectError, OutboxMark, Survey, survey};
use crate::config::Plan;
use crate::env::{Place, Store, StoreError, open_place};
use crate::pipeline::{Generation, RestoreError, RunError};
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
    #[error(transparent)]
    Run(#[from] RunError),
    /// What was asked for cannot be done; the message says why and what to do.
    #[error("{0}")]
    Asked(String),
}

/// The store at a place. A folder must be there; a bucket, which has none, is always there and may be empty.
pub fn open_existing(place: &Place) -> Result<Option<Arc<dyn Store>>, AuditError> {
    if place.folder().is_some_and(|folder| !folder.is_dir()) {
        return Ok(None);
    }
    Ok(Some(open_place(place)?))
}

/// The chain of one cell, with everything that it still keeps.
pub struct OwnChain {
    pub cell: u32,
    pub place: Place,
    pub store: Arc<dyn Store>,
    pub survey: Survey,
}

impl OwnChain {
    pub fn head(&self) -> &Manifest {
        &self.survey.head().expect("a chain without a manifest is not looked at").manifest
    }
}

/// The state of a pipeline.
pub struct OwnState {
    /// Where generations and dead letters lie.
    pub root: Arc<dyn Store>,
    /// How many cells there are; `None` where one process reads all partitions.
    pub cells: Option<u32>,
    /// Those that have begun, by number; there is one at least.
    pub chains: Vec<OwnChain>,
}

impl OwnState {
    /// What all chains say together, as if it were one: its number and writer are those of the newest.
    pub fn whole(&self) -> Manifest {
        let heads = || self.chains.iter().map(OwnChain::head);
        let newest = heads().max_by_key(|head| head.committed_at_ms).expect("there is one at least");
        let mut whole =
            Manifest { watermark: heads().map(|head| head.watermark).min().unwrap_or(i64::MIN), ..newest.clone() };
        whole.online_instant = heads().filter_map(|head| head.online_instant).max();
        for head in heads().filter(|head| head.chain != newest.chain) {
            whole.outages.extend(head.outages.iter().cloned());
            for entry in &head.inputs {
                match whole.inputs.iter_mut().find(|known| known.name == entry.name) {
                    Some(known) => {
                        known.next.extend(&entry.next);
                        known.first.extend(&entry.first);
                    }
                    None => whole.inputs.push(entry.clone()),
                }
            }
            whole.tracks.extend(head.tracks.iter().cloned());
            for (stream, account) in &head.streams {
                *whole.streams.entry(stream.clone()).or_default() += *account;
            }
            whole.counts.add(&head.counts);
            whole.totals += head.totals;
            for (outlet, mark) in &head.outbox {
                let sum = whole.outbox.entry(outlet.clone()).or_insert(OutboxMark { committed: 0, sent: 0, ..*mark });
                sum.kafka_through = sum.kafka_through.min(mark.kafka_through);
                sum.committed += mark.committed;
                sum.sent += mark.sent;
            }
            whole.dead_letters_gone += head.dead_letters_gone;
            whole.objects.extend(head.objects.iter().cloned());
        }
        whole.tracks.sort_by(|a, b| (&a.stream, &a.input, a.partition).cmp(&(&b.stream, &b.input, b.partition)));
        whole
    }
}

/// Every chain of the plan's own state; refused when there is none, or when it is another pipeline's.
pub fn own_state(plan: &Plan) -> Result<OwnState, AuditError> {
    let none = || AuditError::NoState { path: plan.state.root.to_string() };
    let root = open_existing(&plan.state.root)?.ok_or_else(none)?;
    let generation = Generation::read(root.as_ref())?;
    let mut chains = Vec::new();
    for (cell, place) in Generation::chains(generation.as_ref(), &plan.state.root) {
        let Some(store) = open_existing(&place)? else { continue };
        let survey = survey(store.as_ref())?;
        let Some(head) = survey.head().map(|link| &link.manifest) else { continue };
        if head.format != crate::commit::FORMAT {
            return Err(ClaimRefusal::Format { found: head.format }.into());
        }
        if head.pipeline != plan.pipeline {
            let refusal = ClaimRefusal::OtherPipeline { found: head.pipeline.clone(), expected: plan.pipeline.clone() };
            return Err(refusal.into());
        }
        chains.push(OwnChain { cell, place, store, survey });
    }
    if chains.is_empty() {
        return Err(none());
    }
    Ok(OwnState { root, cells: generation.and_then(|generation| generation.cells), chains })
}
