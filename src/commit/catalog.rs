//! Catalog: the output files of manifests that are forgotten, so that every file that was ever committed stays named.
//!
//!   manifests 0 … 19 ── forgotten ──> catalog/00…00-00…19.json      create-only, then the manifests are deleted
//!
//! Holds: a file is named by a kept manifest or by the catalog, after a crash in between by both (F5).

use crate::commit::manifest::{FileEntry, Manifest, ManifestKind};
use crate::commit::survey::survey;
use crate::env::{Store, StoreError};

const FOLDER: &str = "catalog/";

/// Keeps the files of manifests that are about to be deleted.
pub(super) fn keep_files(store: &dyn Store, leaving: &[Manifest]) -> Result<(), StoreError> {
    let (Some(first), Some(last)) = (leaving.first(), leaving.last()) else { return Ok(()) };
    let commits = leaving.iter().filter(|manifest| manifest.kind == ManifestKind::Commit);
    let files: Vec<&FileEntry> = commits.flat_map(|manifest| &manifest.files).collect();
    if files.is_empty() {
        return Ok(());
    }
    let bytes = serde_json::to_vec(&files).expect("file entries are plain data");
    // What lies there already came from the same manifests, before a crash.
    store.create(&format!("{FOLDER}{:020}-{:020}.json", first.number, last.number), &bytes)?;
    Ok(())
}

/// Keeps the files of other chains whose work this one goes on with, so that they stay named when those are deleted.
pub fn inherit_files(from: &[&dyn Store], into: &dyn Store) -> Result<(), super::ChainError> {
    for (number, store) in from.iter().enumerate() {
        let mut files = named_before(*store)?;
        let commits = survey(*store)?.links.into_iter().map(|link| link.manifest);
        files.extend(
            commits.filter(|manifest| manifest.kind == ManifestKind::Commit).flat_map(|manifest| manifest.files),
        );
        if !files.is_empty() {
            let bytes = serde_json::to_vec(&files).expect("file entries are plain data");
            into.create(&format!("{FOLDER}inherited-{number:05}.json"), &bytes)?;
        }
    }
    Ok(())
}

/// Every file that a forgotten manifest named; one may come twice.
pub fn named_before(store: &dyn Store) -> Result<Vec<FileEntry>, super::ChainError> {
    let mut all = Vec::new();
    for object in store.list(FOLDER)? {
        let files: Vec<FileEntry> = serde_json::from_slice(&store.read(&object.path)?).map_err(|error| {
            super::ChainError::Damaged { path: store.describe(&object.path), found: error.to_string() }
        })?;
        all.extend(files);
    }
    Ok(all)
}
