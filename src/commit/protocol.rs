//! Protocol: what observed facts mean for a chain, as pure decisions.
//!
//!   claim (epoch + 1) ─> process ─> cut ─> blocks and staged files ─> verify ─> create manifest N+1 ─> publish
//!                                                                                └ the only step that commits
//!
//! In: manifests that were read, and outcomes of create-only writes. Out: decisions.
//! Holds: one manifest per number; epochs never go down (F6); a writer that lost a number to a higher epoch is fenced
//! for good (F12).
//! Does not: touch a store; see [`chain`](super::chain).

use crate::commit::manifest::{FORMAT, Manifest, ManifestKind};
use std::collections::BTreeMap;

/// What a starting process does with the chain that it found.
#[derive(Debug, PartialEq)]
pub enum ClaimDecision {
    /// Nothing there: be born with manifest 0.
    Birth,
    /// Write number `last + 1` with epoch `epoch`, otherwise a copy of the last one.
    TakeOver {
        number: u64,
        epoch: u64,
    },
    Refuse(ClaimRefusal),
}

/// Why a chain cannot be taken over.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum ClaimRefusal {
    #[error(
        "the state was written in format {found}, this version reads format {FORMAT}: run the version that wrote it, or start anew with --fresh"
    )]
    Format { found: u32 },
    #[error("the state belongs to pipeline `{found}`, not to `{expected}`: choose another state.path")]
    OtherPipeline { found: String, expected: String },
    #[error("{} changed since the state was written ({}): restore the old definition, or start anew with --fresh", plural(nodes), nodes.join(", "))]
    Semantics { nodes: Vec<String> },
}

fn plural(nodes: &[String]) -> &'static str {
    if nodes.len() == 1 { "one definition" } else { "definitions" }
}

/// Decides about a chain whose last manifest is `last`.
pub fn claim(last: Option<&Manifest>, pipeline: &str, semantics: &BTreeMap<String, String>) -> ClaimDecision {
    let Some(last) = last else { return ClaimDecision::Birth };
    if last.format != FORMAT {
        return ClaimDecision::Refuse(ClaimRefusal::Format { found: last.format });
    }
    if last.pipeline != pipeline {
        let refusal = ClaimRefusal::OtherPipeline { found: last.pipeline.clone(), expected: pipeline.into() };
        return ClaimDecision::Refuse(refusal);
    }
    let changed = changed_nodes(&last.semantics, semantics);
    if !changed.is_empty() {
        return ClaimDecision::Refuse(ClaimRefusal::Semantics { nodes: changed });
    }
    ClaimDecision::TakeOver { number: last.number + 1, epoch: last.epoch + 1 }
}

/// Nodes that are there on one side only, or mean something else.
pub fn changed_nodes(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<String> {
    let gone = old.keys().filter(|node| !new.contains_key(*node)).map(|node| format!("{node} is gone"));
    let changed = new.iter().filter_map(|(node, hash)| match old.get(node) {
        None => Some(format!("{node} is new")),
        Some(other) if other != hash => Some(format!("{node} is different")),
        Some(_) => None,
    });
    gone.chain(changed).collect()
}

/// What became of a create-only write of a manifest.
#[derive(Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    Committed,
    /// Another writer has the number: drop everything and stop.
    Fenced {
        epoch: u64,
        writer: String,
    },
    /// Nothing is there: write the same bytes again.
    WriteAgain,
}

/// Resolves a create that failed, or whose answer was lost, by what lies under the number now.
pub fn resolve(mine: &Manifest, found: Option<&Manifest>) -> CommitOutcome {
    match found {
        None => CommitOutcome::WriteAgain,
        Some(found) if found.writer == mine.writer && found.number == mine.number => CommitOutcome::Committed,
        Some(found) => CommitOutcome::Fenced { epoch: found.epoch, writer: found.writer.clone() },
    }
}

/// What must hold between two neighbouring manifests (F6). `parent_sha256` is that of the parent's bytes.
pub fn check_successor(parent: &Manifest, parent_sha256: &str, child: &Manifest) -> Result<(), String> {
    let fail = |what: String| Err(format!("manifest {}: {what}", child.number));
    if child.number != parent.number + 1 {
        return fail(format!("follows manifest {}", parent.number));
    }
    if child.parent_sha256 != parent_sha256 {
        return fail("its parent is not the manifest before it".into());
    }
    if child.chain != parent.chain {
        return fail("belongs to another chain".into());
    }
    let claimed = child.kind == ManifestKind::Claim;
    if child.epoch < parent.epoch || (claimed && child.epoch == parent.epoch) {
        return fail(format!("epoch {} after {}", child.epoch, parent.epoch));
    }
    if child.epoch == parent.epoch && child.writer != parent.writer {
        return fail(format!("two writers in epoch {}", child.epoch));
    }
    for input in &parent.inputs {
        let Some(now) = child.inputs.iter().find(|other| other.name == input.name) else { continue };
        for (partition, next) in &input.next {
            if now.next.get(partition).is_some_and(|now| now < next) {
                return fail(format!("position of {}/{partition} goes back from {next}", input.name));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::chain::tests::manifest_for_test;

    #[test]
    fn a_claim_raises_the_epoch_and_keeps_the_rest() {
        let last = manifest_for_test(7, 3);
        let decision = claim(Some(&last), &last.pipeline, &last.semantics);
        assert_eq!(decision, ClaimDecision::TakeOver { number: 8, epoch: 4 });
    }

    #[test]
    fn a_changed_definition_is_refused_by_name() {
        let last = manifest_for_test(7, 3);
        let mut semantics = last.semantics.clone();
        semantics.insert("samples.ctr".into(), "other".into());
        semantics.insert("features.new".into(), "x".into());
        let ClaimDecision::Refuse(refusal) = claim(Some(&last), &last.pipeline, &semantics) else { panic!() };
        let text = refusal.to_string();
        assert!(text.contains("samples.ctr is different") && text.contains("features.new is new"), "{text}");
    }

    #[test]
    fn an_ambiguous_write_is_resolved_by_its_writer() {
        let mine = manifest_for_test(8, 4);
        assert_eq!(resolve(&mine, None), CommitOutcome::WriteAgain);
        assert_eq!(resolve(&mine, Some(&mine.clone())), CommitOutcome::Committed);
        let other = Manifest { writer: "other".into(), epoch: 5, ..mine.clone() };
        assert_eq!(resolve(&mine, Some(&other)), CommitOutcome::Fenced { epoch: 5, writer: "other".into() });
    }

    #[test]
    fn positions_and_epochs_never_go_back() {
        let parent = manifest_for_test(7, 3);
        let mut child = Manifest { number: 8, parent_sha256: "p".into(), ..parent.clone() };
        assert_eq!(check_successor(&parent, "p", &child), Ok(()));
        child.inputs[0].next.insert(0, 1);
        assert!(check_successor(&parent, "p", &child).unwrap_err().contains("goes back"));
        let child = Manifest { number: 8, parent_sha256: "p".into(), epoch: 2, ..parent.clone() };
        assert!(check_successor(&parent, "p", &child).unwrap_err().contains("epoch 2 after 3"));
    }
}
