//! Model: loads ONNX models from a versioned folder, checks them against the plan, and scores.
//!
//!   models/ctr/3/model.onnx ──bytes, sha256──> checked: own tensors only, inputs fit the plan ──> warm-up ──> Model
//!   columns of a request, one per input ──> tensors ──> one run ──> one finite score per row
//!
//! In: the plan's inputs with their types; then columns of values in that order. Out: f32 scores, and how many rows
//! lacked each input.
//! Holds: a model that loads has been run; every score is finite; the bytes that were hashed are those that run.
//! Does not: follow references out of the file, load operator libraries, reload while running.

mod spec;
mod error;
mod external;
mod element;
mod inputs;
mod output;
mod runtime;

pub use error::ModelError;
pub use inputs::InputColumn;
pub use runtime::LIBRARY_VARIABLE;
pub use spec::*;

use crate::event::Value;
use crate::feature::GroupSpec;
use inputs::InputPlan;
use ort::session::Session;
use ort::session::builder::SessionBuilder;
use output::OutputPlan;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A model file beyond it is refused.
pub const MODEL_BYTES_MAX: u64 = 1 << 30;

/// A model that is ready to score.
pub struct Model {
    pub name: String,
    /// The number of its folder.
    pub version: u64,
    /// Of the file, in hex.
    pub sha256: String,
    pub spec: ModelSpec,
    inputs: InputPlan,
    output: OutputPlan,
    /// A session runs one request at a time; the runtime itself uses one thread.
    session: Mutex<Session>,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    pub scores: Vec<f32>,
    /// Per input, in the plan's order, the rows in which it was null.
    pub missing: Vec<u64>,
}

impl Model {
    /// Loads the highest version below `spec.path` and checks it against the features of `groups`.
    pub fn load(spec: &ModelSpec, groups: &[GroupSpec]) -> Result<Model, ModelError> {
        let (version, path) = newest_version(spec)?;
        let bytes = read_capped(&spec.name, &path)?;
        match external::has_external_data(&bytes) {
            Ok(false) => {}
            Ok(true) => return Err(ModelError::ExternalData { name: spec.name.clone(), path }),
            Err(external::NotOnnx) => {
                return Err(ModelError::NotLoadable {
                    name: spec.name.clone(),
                    path,
                    problem: "it is not an ONNX file".to_owned(),
                });
            }
        }
        let sha256 = hex(&Sha256::digest(&bytes));
        let environment = runtime::environment()?;
        let session = open_session(&environment, &bytes).map_err(|error| ModelError::NotLoadable {
            name: spec.name.clone(),
            path: path.clone(),
            problem: error.to_string(),
        })?;
        let mismatch = |problems| ModelError::Mismatch { name: spec.name.clone(), path: path.clone(), problems };
        let inputs = InputPlan::new(spec, groups, session.inputs()).map_err(mismatch)?;
        let output = OutputPlan::new(spec, session.outputs()).map_err(|problem| mismatch(vec![problem]))?;
        let session = Mutex::new(session);
        let model = Model { name: spec.name.clone(), version, sha256, spec: spec.clone(), inputs, output, session };
        model.warm_up(&path)?;
        Ok(model)
    }

    /// Scores `rows` rows; one column per input of the plan, in its order.
    pub fn score(&self, rows: usize, columns: &[InputColumn<'_>]) -> Result<Scores, ModelError> {
        if rows == 0 {
            return Ok(Scores { scores: Vec::new(), missing: vec![0; columns.len()] });
        }
        let (tensors, missing) = self.inputs.tensors(rows, columns)?;
        let failed = |problem: String| ModelError::RunFailed { name: self.name.clone(), problem };
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let outputs = session.run(tensors).map_err(|error| failed(error.to_string()))?;
        let scores = self.output.scores(&outputs, rows).map_err(failed)?;
        drop(outputs);
        match scores.iter().position(|score| !score.is_finite()) {
            Some(row) => Err(ModelError::NotFinite { name: self.name.clone(), row }),
            None => Ok(Scores { scores, missing }),
        }
    }

    /// Two plain rows must give two finite scores, or the model never serves.
    fn warm_up(&self, path: &Path) -> Result<(), ModelError> {
        let values: Vec<Value> = self.inputs.plain_values();
        let columns: Vec<InputColumn<'_>> = values.iter().map(InputColumn::All).collect();
        self.score(2, &columns).map(drop).map_err(|error| ModelError::NotLoadable {
            name: self.name.clone(),
            path: path.to_owned(),
            problem: format!("a first run on two rows failed: {error}"),
        })
    }
}

fn open_session(environment: &ort::environment::Environment, bytes: &[u8]) -> Result<Session, ort::Error> {
    SessionBuilder::new(environment)?.with_intra_threads(1)?.with_inter_threads(1)?.commit_from_memory(bytes)
}

/// The folder with the highest decimal name, as in Triton: names with leading zeros and all others are ignored.
fn newest_version(spec: &ModelSpec) -> Result<(u64, PathBuf), ModelError> {
    let missing = |problem: String| ModelError::Missing { name: spec.name.clone(), path: spec.path.clone(), problem };
    let folder = std::fs::read_dir(&spec.path).map_err(|error| missing(error.to_string()))?;
    let newest = folder
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version: u64 = name.parse().ok()?;
            (version.to_string() == name && entry.path().is_dir()).then_some(version)
        })
        .max();
    let Some(version) = newest else {
        return Err(missing("it has no folder named by a version number".to_owned()));
    };
    let path = spec.path.join(version.to_string()).join("model.onnx");
    match path.is_file() {
        true => Ok((version, path)),
        false => Err(missing(format!("version {version} has no file model.onnx"))),
    }
}

fn read_capped(name: &str, path: &Path) -> Result<Vec<u8>, ModelError> {
    let unreadable =
        |problem: String| ModelError::NotLoadable { name: name.to_owned(), path: path.to_owned(), problem };
    let file = std::fs::File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(MODEL_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| unreadable(error.to_string()))?;
    match bytes.len() as u64 > MODEL_BYTES_MAX {
        true => Err(unreadable(format!("it is larger than {} MiB", MODEL_BYTES_MAX >> 20))),
        false => Ok(bytes),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(path: &Path) -> ModelSpec {
        ModelSpec { name: "ctr".into(), path: path.to_owned(), inputs: Vec::new(), output: None }
    }

    #[test]
    fn the_highest_version_is_taken_by_number_and_odd_folders_are_ignored() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        for name in ["2", "10", "011", "latest", "9"] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder can be made");
        }
        std::fs::write(folder.path().join("99"), b"a file").expect("a file can be written");
        let error = newest_version(&spec(folder.path())).expect_err("10 has no model");
        assert!(error.to_string().contains("version 10"), "{error}");
        std::fs::write(folder.path().join("10/model.onnx"), b"").expect("a file can be written");
        assert_eq!(newest_version(&spec(folder.path())).map(|(version, _)| version).ok(), Some(10));
    }

    #[test]
    fn a_folder_without_versions_says_how_one_looks() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let error = newest_version(&spec(folder.path())).expect_err("nothing is there");
        assert!(error.to_string().contains("1/model.onnx"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_model_is_refused() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        std::fs::create_dir(folder.path().join("1")).expect("a folder can be made");
        std::fs::write(folder.path().join("1/model.onnx"), b"{\"a\": 1}").expect("a file can be written");
        let error = Model::load(&spec(folder.path()), &[]).err().expect("JSON is no model");
        assert!(error.to_string().contains("not an ONNX file"), "{error}");
    }
}
