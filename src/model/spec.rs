//! Which model scores, and what it is fed.

use std::path::PathBuf;

#[derive(Clone, Debug)]
pub struct ModelSpec {
    pub name: String,
    /// A Triton-style folder: `<path>/<version>/model.onnx`.
    pub path: PathBuf,
    /// The inputs in order: a rank-2 model input takes them as columns, several inputs are taken by name.
    pub inputs: Vec<ModelInput>,
    /// The output that is the score; `None` if the model has just one.
    pub output: Option<String>,
}

#[derive(Clone, Debug)]
pub struct ModelInput {
    pub name: String,
    pub from: ModelInputFrom,
    /// Stands in for a value that is missing or null; without it, null is NaN in a float input and refused otherwise.
    pub default: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelInputFrom {
    /// (group in `Plan::groups`, column of its outputs).
    Feature { group: usize, output: usize },
    /// Given in the request's `context`.
    Context,
}
