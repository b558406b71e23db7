//! Protocol: what observed facts mean for a chain, as pure decisions.
//!
//!   claim (epoch + 1) ─> process ─> cut ─> blocks and staged files ─> verify ─> create manifest N+1 ─> publish
//!                                                                                └ the only step that commits
//!
//! In: manifests that were read, and outcomes of create-only writes. Out: decisions.
//! Holds: one manifest per number; epochs never go down (F6); a writer that lost a number to a higher epoch is fenced
//! for good (F12).
//! Does not: touch a store; see [`chain`](super::chain).

use crate::commit::change::{Accepted, Definition, decide};
use crate::commit::manifest::{FORMAT, Manifest, ManifestKind};
use std::collections::{BTreeMap, BTreeSet};

/// What a starting process does with the chain that it found.
#[derive(Debug, PartialEq)]
pub enum ClaimDecision {
    /// Nothing there: be born with manifest 0.
    Birth,
    /// Write the manifest: the last one under the next number and epoch, in the words of the definition. The writer and
    /// what hangs on the store is the caller's to fill in.
    TakeOver(Box<Accepted>),
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
    #[error(
        "{} changed since the state was written: {}. Restore the old definition, start with --reset NODE to forget that \
         node's state alone, or start anew with --fresh",
        plural(nodes),
        nodes.join("; ")
    )]
    Semantics { nodes: Vec<String> },
    #[error("--reset {node}: there is no such node; there are {}", known.join(", "))]
    UnknownNode { node: String, known: Vec<String> },
}

fn plural(nodes: &[String]) -> &'static str {
    if nodes.len() == 1 { "one definition" } else { "definitions" }
}

/// Decides about a chain whose last manifest is `last`; `resets` are nodes whose state is to be forgotten.
pub fn claim(
    last: Option<&Manifest>,
    pipeline: &str,
    definition: &Definition,
    resets: &BTreeSet<String>,
) -> ClaimDecision {
    let Some(last) = last else { return ClaimDecision::Birth };
    if last.format != FORMAT {
        return ClaimDecision::Refuse(ClaimRefusal::Format { found: last.format });
    }
    if last.pipeline != pipeline {
        let refusal = ClaimRefusal::OtherPipeline { found: last.pipeline.clone(), expected: pipeline.into() };
        return ClaimDecision::Refuse(refusal);
    }
    match decide(last, definition, resets) {
        Ok(accepted) => {
            let next =
                Manifest { kind: ManifestKind::Claim, number: last.number + 1, epoch: last.epoch + 1, ..accepted.next };
            ClaimDecision::TakeOver(Box::new(Accepted { next, ..accepted }))
        }
        Err(refusal) => ClaimDecision::Refuse(refusal),
    }
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

/// Manifests that stay, the newest included, with everything that they name: for a look back, and for going back.
pub const MANIFESTS_KEPT: u64 = 20;

/// The oldest manifest that stays when `newest` is the last one.
pub fn oldest_kept(newest: u64) -> u64 {
    newest.saturating_sub(MANIFESTS_KEPT - 1)
}

/// An object that the newest manifest does not need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Of the writer, by the object's name.
    pub epoch: u64,
    pub modified_ms: i64,
    /// The last manifest that names it; `None` if none does that was there to be read.
    pub last_named: Option<u64>,
}

/// What a decision about leftovers rests on.
#[derive(Clone, Copy, Debug)]
pub struct GarbageRule {
    /// Of the process that asks.
    pub epoch: u64,
    /// No manifest before it exists any more.
    pub oldest_manifest: u64,
    pub now_ms: i64,
    /// What was never named stays so long: its writer may be slow, and a person may want to look.
    pub keep_orphans_ms: i64,
}

/// Whether nothing can ever name the object again. An object that was named is needed as long as one of its manifests
/// is there. One that never was is an orphan: of a lower epoch it cannot be named any more, for that epoch is fenced.
pub fn is_garbage(leftover: &Leftover, rule: &GarbageRule) -> bool {
    match leftover.last_named {
        Some(last) => last < rule.oldest_manifest,
        None => {
            leftover.epoch < rule.epoch
                && rule.now_ms.saturating_sub(leftover.modified_ms) >= rule.keep_orphans_ms.max(0)
        }
    }
}

/// For everything that these manifests name, the last one that does: state objects by (`None`, path), staged files by
/// (sink, path).
pub fn last_named<'a>(manifests: impl IntoIterator<Item = &'a Manifest>) -> BTreeMap<(Option<String>, String), u64> {
    let mut named = BTreeMap::new();
    for manifest in manifests {
        let objects = manifest.objects.iter().map(|object| (None, object.path.clone()));
        let staged = manifest.files.iter().map(|entry| (Some(entry.sink.clone()), entry.file.staged.clone()));
        for name in objects.chain(staged) {
            let last = named.entry(name).or_insert(manifest.number);
            *last = manifest.number.max(*last);
        }
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::chain::tests::manifest_for_test;
    use crate::commit::manifest::ObjectEntry;
    use proptest::prelude::*;

    fn object(path: &str) -> ObjectEntry {
        ObjectEntry { path: path.into(), bytes: 1, footer_bytes: 1, footer_sha256: String::new() }
    }

    proptest! {
        /// A chain of random length whose manifests name random objects of random writers, some objects that none
        /// names, and a rule of any age: whatever is deleted, every manifest that stays finds all it names.
        #[test]
        fn f5_nothing_that_a_kept_manifest_names_is_garbage(
            naming in prop::collection::vec(prop::collection::btree_set(0_u32..24, 0..12), 1..60),
            modified in prop::collection::vec(0_i64..1_000, 24),
            now_ms in 0_i64..2_000,
            keep_orphans_ms in -10_i64..1_500,
            claims in prop::collection::vec(any::<bool>(), 60),
        ) {
            let mut epoch = 1;
            let chain: Vec<Manifest> = naming.iter().enumerate().map(|(number, names)| {
                epoch += u64::from(claims[number]);
                let objects = names.iter().map(|name| object(&name.to_string())).collect();
                Manifest { objects, ..manifest_for_test(number as u64, epoch) }
            }).collect();
            let newest = chain.last().expect("one at least").number;
            let oldest_manifest = oldest_kept(newest);
            let kept: Vec<&Manifest> = chain.iter().filter(|manifest| manifest.number >= oldest_manifest).collect();
            prop_assert!(kept.len() as u64 == MANIFESTS_KEPT.min(newest + 1));
            // At a start only the manifests that are left are read; in a run all of its own are known.
            for known in [&chain.iter().collect::<Vec<_>>(), &kept] {
                let named = last_named(known.iter().copied());
                for name in 0..24_u32 {
                    let last = named.get(&(None, name.to_string())).copied();
                    // An object is written by the epoch of the first manifest that names it, or by any.
                    let first = chain.iter().find(|m| m.objects.contains(&object(&name.to_string())));
                    let writer = first.map_or(u64::from(name) % (epoch + 1), |m| m.epoch);
                    let leftover =
                        Leftover { epoch: writer, modified_ms: modified[name as usize], last_named: last };
                    let rule = GarbageRule { epoch, oldest_manifest, now_ms, keep_orphans_ms };
                    if is_garbage(&leftover, &rule) {
                        let needed = kept.iter().any(|m| m.objects.contains(&object(&name.to_string())));
                        prop_assert!(!needed, "object {name} of {leftover:?} under {rule:?}");
                        prop_assert!(last.is_some() || writer < epoch, "an own object may be named yet");
                    }
                }
            }
        }
    }

    #[test]
    fn an_orphan_goes_when_it_is_old_and_its_epoch_is_over() {
        let rule = GarbageRule { epoch: 5, oldest_manifest: 30, now_ms: 1_000, keep_orphans_ms: 600 };
        let orphan = Leftover { epoch: 4, modified_ms: 400, last_named: None };
        assert!(is_garbage(&orphan, &rule));
        assert!(!is_garbage(&Leftover { modified_ms: 401, ..orphan }, &rule), "too young");
        assert!(!is_garbage(&Leftover { epoch: 5, ..orphan }, &rule), "may be committed yet");
        assert!(!is_garbage(&orphan, &GarbageRule { now_ms: 0, ..rule }), "a clock that jumped back deletes nothing");
        assert!(is_garbage(&Leftover { epoch: 5, last_named: Some(29), ..orphan }, &rule));
        assert!(!is_garbage(&Leftover { last_named: Some(30), ..orphan }, &rule), "a manifest that stays names it");
    }

    #[test]
    fn a_claim_raises_the_epoch_and_keeps_the_rest() {
        let last = manifest_for_test(7, 3);
        let definition = Definition { semantics: last.semantics.clone(), ..Definition::default() };
        let ClaimDecision::TakeOver(accepted) = claim(Some(&last), &last.pipeline, &definition, &BTreeSet::new())
        else {
            panic!("nothing changed")
        };
        let expected = Manifest { number: 8, epoch: 4, kind: ManifestKind::Claim, ..last };
        assert_eq!((accepted.next, accepted.notes), (expected, Vec::<String>::new()));
    }

    #[test]
    fn another_pipeline_s_chain_and_another_format_are_refused() {
        let last = manifest_for_test(7, 3);
        let claim = |last: &Manifest, pipeline| claim(Some(last), pipeline, &Definition::default(), &BTreeSet::new());
        assert!(matches!(claim(&last, "q"), ClaimDecision::Refuse(ClaimRefusal::OtherPipeline { .. })));
        let old = Manifest { format: 1, ..last };
        assert_eq!(claim(&old, "p"), ClaimDecision::Refuse(ClaimRefusal::Format { found: 1 }));
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
