//! Files: what manifests name against what lies in the folder, and which files a reader of the folder takes rows from.
//!
//!   named:  there, whole, sha256 as stated │ missing │ damaged
//!   others: a later commit's │ another pipeline's │ nobody's: extra

use crate::audit::{AuditError, OwnChain, OwnState};
use crate::commit::{FileEntry, Manifest, ManifestKind, named_before, survey};
use crate::env::Store;
use crate::event::StagedFile;
use crate::sink::{SinkError, note_of, verify_content};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What a file is that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadFile {
    pub path: String,
    pub found: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FilesCompared {
    /// Named by manifests, with their rows; every one was read and hashed.
    pub named: u64,
    pub named_rows: u64,
    /// Committed, but without their public names: a start of the pipeline publishes them.
    pub unpublished: u64,
    pub missing: Vec<BadFile>,
    pub damaged: Vec<BadFile>,
    pub extra: Vec<BadFile>,
    /// Another pipeline's files in the same folder, which are left alone.
    pub of_others: u64,
}

impl FilesCompared {
    /// And those of another folder.
    pub fn add(&mut self, other: FilesCompared) {
        self.named += other.named;
        self.named_rows += other.named_rows;
        self.unpublished += other.unpublished;
        self.missing.extend(other.missing);
        self.damaged.extend(other.damaged);
        self.extra.extend(other.extra);
        self.of_others += other.of_others;
    }

    pub fn bad(&self) -> usize {
        self.missing.len() + self.damaged.len() + self.extra.len()
    }
}

/// Every file that was ever committed up to the heads that were looked at, by sink.
pub(super) fn named_files(state: &OwnState) -> Result<BTreeMap<String, Vec<StagedFile>>, AuditError> {
    let mut files: BTreeMap<String, FileEntry> = BTreeMap::new();
    for chain in &state.chains {
        let kept = chain.survey.links.iter().map(|link| &link.manifest);
        let commits = kept.filter(|manifest| manifest.kind == ManifestKind::Commit);
        let named = named_before(chain.store.as_ref())?;
        for entry in named.into_iter().chain(commits.flat_map(|commit| commit.files.clone())) {
            files.insert(format!("{}\n{}", entry.sink, entry.file.path), entry);
        }
    }
    let mut by_sink: BTreeMap<String, Vec<StagedFile>> = BTreeMap::new();
    for entry in files.into_values() {
        by_sink.entry(entry.sink).or_default().push(entry.file);
    }
    Ok(by_sink)
}

/// Looks at one sample's folder. Gives the paths from which a reader would take rows of this pipeline.
pub(super) fn compare_files(
    state: &OwnState,
    head: &Manifest,
    sink: &str,
    named: &[StagedFile],
    store: &dyn Store,
) -> Result<(FilesCompared, Vec<String>), AuditError> {
    let mut compared = FilesCompared {
        named: named.len() as u64,
        named_rows: named.iter().map(|file| file.rows).sum(),
        ..FilesCompared::default()
    };
    let listed: Vec<String> = store.list("")?.into_iter().map(|object| object.path).collect();
    let published = |path: &&String| {
        let name = path.rsplit_once('/').map_or(path.as_str(), |(_, name)| name);
        name.ends_with(".parquet") && !name.starts_with('.')
    };
    // What a run beside has committed since is named by now.
    let mut later: BTreeSet<String> = BTreeSet::new();
    for chain in &state.chains {
        let since = survey(chain.store.as_ref())?.links.into_iter().map(|link| link.manifest);
        let since = since.filter(|manifest| manifest.number > chain.head().number).flat_map(|manifest| manifest.files);
        later.extend(since.filter(|entry| entry.sink == sink).map(|entry| entry.file.path));
    }
    let mut readable = Vec::new();
    for file in named {
        match verify_content(store, file) {
            Ok(()) => {
                let unpublished = store.size(&file.staged)?.is_some();
                compared.unpublished += unpublished as u64;
                readable.push(if unpublished { file.staged.clone() } else { file.path.clone() });
            }
            Err(SinkError::Missing { .. }) => {
                let found = format!("it is gone; {} rows were in it", file.rows);
                compared.missing.push(BadFile { path: file.path.clone(), found });
            }
            Err(SinkError::Damaged { found, .. }) => {
                compared.damaged.push(BadFile { path: file.path.clone(), found });
                // Its rows are read all the same where that is possible: they show what was changed.
                readable.push(file.path.clone());
            }
            Err(error) => return Err(error.into()),
        }
    }
    let names: BTreeSet<&str> = named.iter().map(|file| file.path.as_str()).collect();
    for path in listed.iter().filter(published) {
        if names.contains(path.as_str()) || later.contains(path) {
            continue;
        }
        let pipeline = match note_of(store, path, "conjoin.pipeline") {
            Ok(pipeline) => pipeline,
            Err(SinkError::Damaged { found, .. }) => {
                compared.extra.push(BadFile { path: path.clone(), found });
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if pipeline.as_ref().is_some_and(|pipeline| *pipeline != head.pipeline) {
            compared.of_others += 1;
            continue;
        }
        let sample = note_of(store, path, "conjoin.sample")?;
        if sample.is_some_and(|sample| sink.strip_prefix("samples.") != Some(&sample)) {
            compared.of_others += 1;
            continue;
        }
        let of = |chain: &OwnChain| path.ends_with(&format!("-{:08x}.parquet", chain.head().chain));
        let found = match (pipeline, state.chains.iter().any(of)) {
            (None, _) => "it was not written by conjoin",
            (_, true) => {
                "no manifest names it: it is a copy, or was committed before manifests kept their files' names"
            }
            (_, false) => "no manifest names it: it is a copy, or was left by a chain before --fresh",
        };
        compared.extra.push(BadFile { path: path.clone(), found: found.into() });
        readable.push(path.clone());
    }
    Ok((compared, readable))
}
