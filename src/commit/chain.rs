//! Chain: the manifests of one cell in a store, and this process's right to extend them.

use crate::commit::catalog::keep_files;
use crate::commit::change::{Definition, first_layout};
use crate::commit::manifest::{FORMAT, Manifest, ManifestKind};
use crate::commit::object::hex;
use crate::commit::protocol::{self, ClaimDecision, ClaimRefusal, CommitOutcome};
use crate::commit::sound;
use crate::env::failpoint::{self, Failpoint};
use crate::env::{Created, Store, StoreError, StoreErrorKind};
use crate::event::KEY_GROUPS;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) const FOLDER: &str = "manifests/";
/// A manifest larger than this is not one of ours.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Refused(#[from] ClaimRefusal),
    #[error("manifest {path} is damaged ({found}): restore it from a backup, or start anew with --fresh")]
    Damaged { path: String, found: String },
    #[error(
        "another process (writer {writer}, epoch {epoch}) has taken over this pipeline's state; this one stops without committing"
    )]
    Fenced { writer: String, epoch: u64 },
}

/// The right to extend a chain: only [`Chain::claim`] makes one.
pub struct Chain {
    store: Arc<dyn Store>,
    head: Manifest,
    head_sha256: String,
    writer: String,
}

/// What distinguishes a pipeline's chain.
pub struct Identity<'a> {
    pub pipeline: &'a str,
    pub definition: &'a Definition,
    /// Nodes whose state is to be forgotten.
    pub resets: &'a BTreeSet<String>,
    /// Drawn at random by this process.
    pub writer: String,
    /// Drawn at random; used if the chain is born now.
    pub chain: u32,
    pub now_ms: i64,
}

/// The number of the manifest that lies, or is to lie, at this path.
pub fn manifest_number(path: &str) -> Option<u64> {
    path.strip_prefix(FOLDER)?.strip_suffix(".json")?.parse().ok()
}

pub(super) fn path_of(number: u64) -> String {
    format!("{FOLDER}{number:020}.json")
}

/// Reads the last manifest of a chain, checked against the one before it.
pub fn read_last(store: &dyn Store) -> Result<Option<(Manifest, String)>, ChainError> {
    let numbers = failpoint::step(Failpoint::ClaimList, || numbers(store))?;
    let Some(&last) = numbers.iter().max() else { return Ok(None) };
    let (manifest, sha256) = failpoint::step(Failpoint::ClaimLoad, || read(store, last))?;
    if last > 0 && numbers.contains(&(last - 1)) {
        let (parent, parent_sha256) = read(store, last - 1)?;
        protocol::check_successor(&parent, &parent_sha256, &manifest)
            .map_err(|found| ChainError::Damaged { path: store.describe(&path_of(last)), found })?;
    }
    Ok(Some((manifest, sha256)))
}

/// Reads the last manifest of a pipeline's chain without taking the chain over: as a claim would go on with it, and
/// refused as a claim would be.
pub fn read_for(store: &dyn Store, pipeline: &str, definition: &Definition) -> Result<Option<Manifest>, ChainError> {
    let Some((last, _)) = read_last(store)? else { return Ok(None) };
    match protocol::claim(Some(&last), pipeline, definition, &BTreeSet::new()) {
        ClaimDecision::Refuse(refusal) => Err(refusal.into()),
        ClaimDecision::Birth => Ok(Some(last)),
        ClaimDecision::TakeOver(accepted) => {
            Ok(Some(Manifest { number: last.number, epoch: last.epoch, kind: last.kind, ..accepted.next }))
        }
    }
}

/// The numbers of the manifests that are there, in order.
pub fn numbers(store: &dyn Store) -> Result<Vec<u64>, ChainError> {
    let listed = store.list(FOLDER)?;
    let mut numbers: Vec<u64> = listed.iter().filter_map(|object| manifest_number(&object.path)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads one manifest, as it is.
pub fn read_manifest(store: &dyn Store, number: u64) -> Result<Manifest, ChainError> {
    Ok(read(store, number)?.0)
}

/// Deletes manifests that no one needs any more; never the last one. The files they name go into the catalog first.
pub fn forget_manifests(store: &dyn Store, leaving: &[u64]) -> Result<(), ChainError> {
    let mut manifests = Vec::with_capacity(leaving.len());
    for number in leaving {
        match read(store, *number) {
            Ok((manifest, _)) => manifests.push(manifest),
            // No reason to keep garbage for ever: what it named can be told no more.
            Err(error @ ChainError::Damaged { .. }) => tracing::warn!("{error}; it is forgotten, with its files"),
            Err(ChainError::Store(error)) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    keep_files(store, &manifests)?;
    leaving.iter().try_for_each(|number| store.delete(&path_of(*number)))?;
    Ok(())
}

/// Deletes manifests that never were of the chain: written under a number that was free again, by somebody who slept
/// through all that came between, and who found out. Those of the chain follow one another up to the `last` one; the
/// numbers of these are left.
pub fn forget_strays(store: &dyn Store, last: u64) -> Result<Vec<u64>, ChainError> {
    let mut numbers: Vec<u64> = numbers(store)?.into_iter().filter(|number| *number <= last).collect();
    let gap = (1..numbers.len()).rev().find(|&at| numbers[at - 1] + 1 < numbers[at]);
    for stray in numbers.drain(..gap.unwrap_or(0)) {
        store.delete(&path_of(stray))?;
    }
    Ok(numbers)
}

pub(super) fn read(store: &dyn Store, number: u64) -> Result<(Manifest, String), ChainError> {
    let path = path_of(number);
    let damaged = |found: String| ChainError::Damaged { path: store.describe(&path), found };
    if store.size(&path)?.is_some_and(|bytes| bytes > MANIFEST_BYTES_MAX) {
        return Err(damaged(format!("larger than {MANIFEST_BYTES_MAX} bytes")));
    }
    let bytes = store.read(&path)?;
    check_seal(&bytes).map_err(damaged)?;
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if manifest.number != number {
        return Err(damaged(format!("it says it is number {}", manifest.number)));
    }
    sound::check(&manifest).map_err(damaged)?;
    Ok((manifest, hex(&Sha256::digest(&bytes))))
}

impl Chain {
    /// Takes the chain over: writes the next number with the next epoch, create-only.
    pub fn claim(store: Arc<dyn Store>, identity: &Identity<'_>) -> Result<Chain, ChainError> {
        loop {
            let last = read_last(store.as_ref())?;
            let last_manifest = last.as_ref().map(|(last, _)| last);
            let decision = protocol::claim(last_manifest, identity.pipeline, identity.definition, identity.resets);
            let claim = match decision {
                ClaimDecision::Birth => birth(identity),
                ClaimDecision::TakeOver(accepted) => {
                    // Told before it happens: who reads it may still stop it.
                    accepted.notes.iter().for_each(|note| tracing::warn!("{note}"));
                    Manifest {
                        writer: identity.writer.clone(),
                        parent_sha256: last.expect("only an existing chain is taken over").1,
                        committed_at_ms: identity.now_ms,
                        ..accepted.next
                    }
                }
                ClaimDecision::Refuse(refusal) => return Err(refusal.into()),
            };
            match failpoint::step(Failpoint::ClaimWrite, || create(store.as_ref(), &claim))? {
                (CommitOutcome::Committed, sha256) => {
                    let writer = identity.writer.clone();
                    return Ok(Chain { store, head: claim, head_sha256: sha256, writer });
                }
                // Another claimant was faster: look again, and outbid it.
                (CommitOutcome::Fenced { .. }, _) => continue,
                (CommitOutcome::WriteAgain, _) => unreachable!("create() resolves it"),
            }
        }
    }

    /// The newest manifest, this writer's own.
    pub fn head(&self) -> &Manifest {
        &self.head
    }

    /// Commits: `next` becomes true, or this writer is fenced (F12). Sets the fields that make it a link of the chain.
    pub fn commit(&mut self, next: Manifest) -> Result<&Manifest, ChainError> {
        let next = Manifest {
            format: FORMAT,
            kind: ManifestKind::Commit,
            number: self.head.number + 1,
            epoch: self.head.epoch,
            writer: self.writer.clone(),
            parent_sha256: self.head_sha256.clone(),
            ..next
        };
        crate::invariant!(
            F6,
            protocol::check_successor(&self.head, &self.head_sha256, &next).is_ok(),
            "{:?}",
            protocol::check_successor(&self.head, &self.head_sha256, &next)
        );
        match failpoint::step(Failpoint::ManifestCreate, || create(self.store.as_ref(), &next))? {
            (CommitOutcome::Committed, sha256) => {
                self.head = next;
                self.head_sha256 = sha256;
                Ok(&self.head)
            }
            (CommitOutcome::Fenced { epoch, writer }, _) => Err(ChainError::Fenced { writer, epoch }),
            (CommitOutcome::WriteAgain, _) => unreachable!("create() resolves it"),
        }
    }
}

fn birth(identity: &Identity<'_>) -> Manifest {
    Manifest {
        format: FORMAT,
        kind: ManifestKind::Claim,
        pipeline: identity.pipeline.into(),
        number: 0,
        epoch: 1,
        writer: identity.writer.clone(),
        parent_sha256: String::new(),
        chain: identity.chain,
        born_at_ms: identity.now_ms,
        committed_at_ms: identity.now_ms,
        cut: 0,
        semantics: identity.definition.semantics.clone(),
        layout: first_layout(identity.definition, KEY_GROUPS),
        inputs: Vec::new(),
        tracks: Vec::new(),
        outages: Vec::new(),
        watermark: i64::MIN,
        online_instant: None,
        streams: BTreeMap::new(),
        counts: Default::default(),
        objects: Vec::new(),
        needed_from: Vec::new(),
        handover: None,
        files: Vec::new(),
        places: BTreeMap::new(),
        outbox: BTreeMap::new(),
        totals: Default::default(),
        dead_letters_gone: 0,
    }
}

const SEAL: &[u8] = b",\"sha256\":\"";

/// A manifest as it lies in the store: JSON whose last field is the sha256 of the object without that field. The sha256
/// in the next manifest would be enough for all but the last one, and the last one is what a start trusts.
fn seal(manifest: &Manifest) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(manifest).expect("a manifest is plain data");
    let sha256 = hex(&Sha256::digest(&bytes));
    bytes.truncate(bytes.len() - 1);
    bytes.extend_from_slice(SEAL);
    bytes.extend_from_slice(sha256.as_bytes());
    bytes.extend_from_slice(b"\"}");
    bytes
}

fn check_seal(bytes: &[u8]) -> Result<(), String> {
    let split = bytes.len().checked_sub(SEAL.len() + 64 + 2).map(|at| bytes.split_at(at));
    let Some((body, tail)) = split.filter(|(_, tail)| tail.starts_with(SEAL) && tail.ends_with(b"\"}")) else {
        return Err("it does not end with its sha256".into());
    };
    let found = hex(&Sha256::new().chain_update(body).chain_update(b"}").finalize());
    if found.as_bytes() != &tail[SEAL.len()..SEAL.len() + 64] {
        return Err("its sha256 does not match what it says".into());
    }
    Ok(())
}

/// Writes a manifest create-only and resolves an ambiguous answer by reading what is there.
fn create(store: &dyn Store, manifest: &Manifest) -> Result<(CommitOutcome, String), ChainError> {
    let bytes = seal(manifest);
    let sha256 = hex(&Sha256::digest(&bytes));
    let path = path_of(manifest.number);
    let written = || overtaken(store, manifest).map(|lost| lost.unwrap_or(CommitOutcome::Committed));
    loop {
        match store.create(&path, &bytes) {
            Ok(Created::Yes) => return Ok((written()?, sha256)),
            Ok(Created::AlreadyThere) => {}
            Err(error) if error.kind == StoreErrorKind::Unknown => {}
            Err(error) => return Err(error.into()),
        }
        let found = match read(store, manifest.number) {
            Ok((found, _)) => Some(found),
            Err(ChainError::Store(error)) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        match protocol::resolve(manifest, found.as_ref()) {
            CommitOutcome::WriteAgain => continue,
            // Also a write whose answer was lost may have found the number free again.
            CommitOutcome::Committed => return Ok((written()?, sha256)),
            outcome => return Ok((outcome, sha256)),
        }
    }
}

/// A number that could be written may have been freed: who slept while others committed so often that what they wrote
/// under it is forgotten has lost it all the same. Who was overtaken between its write and this look did commit, and loses
/// nothing by stopping: who came after goes on from there.
fn overtaken(store: &dyn Store, manifest: &Manifest) -> Result<Option<CommitOutcome>, ChainError> {
    let Some(last) = numbers(store)?.into_iter().max().filter(|last| *last > manifest.number) else { return Ok(None) };
    let (last, _) = read(store, last)?;
    Ok(Some(CommitOutcome::Fenced { epoch: last.epoch, writer: last.writer }))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::commit::manifest::InputEntry;
    use crate::env::{MemoryStore, StoreFault, StoreOperation};

    fn identity(writer: &str, definition: &'static Definition) -> Identity<'static> {
        Identity { pipeline: "p", definition, resets: &NO_RESETS, writer: writer.into(), chain: 7, now_ms: 1 }
    }

    static NO_RESETS: BTreeSet<String> = BTreeSet::new();
    static NONE: Definition = Definition {
        semantics: BTreeMap::new(),
        streams: Vec::new(),
        samples: Vec::new(),
        groups: Vec::new(),
        outlets: BTreeSet::new(),
    };

    pub(in crate::commit) fn manifest_for_test(number: u64, epoch: u64) -> Manifest {
        let semantics = BTreeMap::from([("samples.ctr".to_owned(), "a".to_owned())]);
        let definition = Definition { semantics, ..Definition::default() };
        let identity = Identity { definition: &definition, ..identity("w", &NONE) };
        let input = InputEntry {
            name: "clicks".into(),
            next: BTreeMap::from([(0, 10)]),
            first: BTreeMap::new(),
            files: Vec::new(),
        };
        Manifest { number, epoch, kind: ManifestKind::Commit, inputs: vec![input], ..birth(&identity) }
    }

    #[test]
    fn a_chain_is_born_claimed_and_extended() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let mut chain = Chain::claim(store.clone(), &identity("a", &NONE)).unwrap();
        let next = Manifest { watermark: 5, ..chain.head().clone() };
        chain.commit(next).unwrap();
        let again = Chain::claim(store.clone(), &identity("b", &NONE)).unwrap();
        assert_eq!((again.head().number, again.head().epoch, again.head().watermark), (2, 2, 5));
    }

    #[test]
    fn f12_an_owner_that_was_overtaken_cannot_commit() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let mut old = Chain::claim(store.clone(), &identity("a", &NONE)).unwrap();
        let _new = Chain::claim(store.clone(), &identity("b", &NONE)).unwrap();
        let next = old.head().clone();
        assert!(matches!(old.commit(next), Err(ChainError::Fenced { epoch: 2, .. })));
    }

    #[test]
    fn f12_an_owner_that_slept_until_its_number_was_free_again_cannot_commit_either() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let mut old = Chain::claim(store.clone(), &identity("a", &NONE)).unwrap();
        let mut new = Chain::claim(store.clone(), &identity("b", &NONE)).unwrap();
        for _ in 0..40 {
            new.commit(new.head().clone()).unwrap();
        }
        forget_manifests(store.as_ref(), &(0..21).collect::<Vec<_>>()).unwrap();
        let next = old.head().clone();
        assert!(matches!(old.commit(next), Err(ChainError::Fenced { epoch: 2, .. })));
        assert_eq!(old.head().number, 0, "nothing of it happened");
        assert_eq!(numbers(store.as_ref()).unwrap().first(), Some(&1), "what it wrote is a stray");
        let left = forget_strays(store.as_ref(), new.head().number).unwrap();
        assert_eq!((left.first(), left.last()), (Some(&21), Some(&41)));
        assert_eq!(numbers(store.as_ref()).unwrap(), left);
    }

    #[test]
    fn f12_nor_can_it_when_the_answer_to_that_write_is_lost() {
        let memory = MemoryStore::default();
        let store: Arc<dyn Store> = Arc::new(memory.clone());
        let mut old = Chain::claim(store.clone(), &identity("a", &NONE)).unwrap();
        let mut new = Chain::claim(store.clone(), &identity("b", &NONE)).unwrap();
        for _ in 0..40 {
            new.commit(new.head().clone()).unwrap();
        }
        forget_manifests(store.as_ref(), &(0..21).collect::<Vec<_>>()).unwrap();
        memory.set_fault_hook(|operation, _| match operation {
            StoreOperation::Create => StoreFault::FailAfter(std::io::ErrorKind::TimedOut),
            _ => StoreFault::None,
        });
        let next = old.head().clone();
        assert!(matches!(old.commit(next), Err(ChainError::Fenced { epoch: 2, .. })));
        assert_eq!(old.head().number, 0, "nothing of it happened");
        // Where nobody came between, a lost answer is no loss.
        new.commit(new.head().clone()).unwrap();
        assert_eq!(new.head().number, 42);
    }

    #[test]
    fn f6_a_manifest_that_does_not_follow_its_parent_is_refused() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let mut chain = Chain::claim(store.clone(), &identity("a", &NONE)).unwrap();
        chain.commit(chain.head().clone()).unwrap();
        store.delete(&path_of(1)).unwrap();
        let forged = Manifest { number: 1, parent_sha256: "no".into(), ..chain.head().clone() };
        store.create(&path_of(1), &seal(&forged)).unwrap();
        assert!(matches!(read_last(store.as_ref()), Err(ChainError::Damaged { .. })));
    }

    #[test]
    fn fault_38_any_bit_flipped_in_the_last_manifest_is_refused_with_its_name() {
        let store = MemoryStore::default();
        Chain::claim(Arc::new(store.clone()), &identity("a", &NONE)).unwrap();
        let path = path_of(0);
        let whole = store.read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            store.corrupt(&path, &bytes);
            let text = read_last(&store).map(drop).unwrap_err().to_string();
            assert!(text.contains(&path) && text.contains("--fresh"), "bit {bit}: {text}");
        }
        for bytes in 0..whole.len() {
            store.corrupt(&path, &whole[..bytes]);
            assert!(matches!(read_last(&store), Err(ChainError::Damaged { .. })), "cut to {bytes} bytes");
        }
    }

    fn with_file(head: &Manifest, number: u64) -> Manifest {
        let path = format!("{number}.parquet");
        let file = crate::event::StagedFile {
            sample: "ctr".into(),
            staged: format!(".part-{number}.staged"),
            path,
            rows: number,
            bytes: 1,
            sha256: String::new(),
            min_time: 0,
            max_time: 0,
        };
        let entry = crate::commit::FileEntry { sink: "samples.ctr".into(), file };
        Manifest { files: vec![entry], ..head.clone() }
    }

    #[test]
    fn f5_a_file_stays_named_when_its_manifest_is_forgotten() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let mut chain = Chain::claim(store.clone(), &identity("a", &NONE)).unwrap();
        for number in 1..=30 {
            chain.commit(with_file(chain.head(), number)).unwrap();
        }
        // A claim repeats the files of the manifest before it; that names nothing twice.
        Chain::claim(store.clone(), &identity("b", &NONE)).unwrap();
        let named = || {
            let kept = crate::commit::survey(store.as_ref()).unwrap().links.into_iter().map(|link| link.manifest);
            let kept =
                kept.filter(|manifest| manifest.kind == ManifestKind::Commit).flat_map(|manifest| manifest.files);
            let mut paths: Vec<u64> =
                kept.chain(crate::commit::named_before(store.as_ref()).unwrap()).map(|entry| entry.file.rows).collect();
            paths.sort_unstable();
            paths
        };
        assert_eq!(named(), (1..=30).collect::<Vec<_>>());
        let forget =
            |range: std::ops::Range<u64>| forget_manifests(store.as_ref(), &range.collect::<Vec<_>>()).unwrap();
        forget(0..12);
        forget(0..12);
        assert_eq!(store.list(FOLDER).unwrap().len(), 20, "12 to 31");
        assert_eq!(named(), (1..=30).collect::<Vec<_>>());
        forget(12..25);
        assert_eq!(named(), (1..=30).collect::<Vec<_>>());
    }

    #[test]
    fn a_survey_tells_which_manifest_is_damaged_and_reads_the_others() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let mut chain = Chain::claim(store.clone(), &identity("a", &NONE)).unwrap();
        for _ in 0..4 {
            chain.commit(chain.head().clone()).unwrap();
        }
        store.delete(&path_of(2)).unwrap();
        store.create(&path_of(2), b"{").unwrap();
        let survey = crate::commit::survey(store.as_ref()).unwrap();
        assert_eq!(survey.links.iter().map(|link| link.manifest.number).collect::<Vec<_>>(), [0, 1, 3, 4]);
        assert_eq!(survey.damaged.len(), 1, "{:?}", survey.damaged);
        assert!(survey.damaged[0].path.ends_with("2.json"), "{:?}", survey.damaged);
        store.delete(&path_of(4)).unwrap();
        store.create(&path_of(4), b"{").unwrap();
        assert!(matches!(crate::commit::survey(store.as_ref()), Err(ChainError::Damaged { .. })));
    }
}
