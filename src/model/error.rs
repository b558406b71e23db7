//! What can be wrong with a model, and what to do about it.

use std::path::PathBuf;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    #[error(
        "ONNX Runtime's shared library was not found ({tried}); set ORT_DYLIB_PATH to libonnxruntime.so (1.20 or newer): \
         `pip install onnxruntime` puts it into its folder onnxruntime/capi"
    )]
    Runtime { tried: String },

    #[error("model {name}: {path}: {problem}; put the model at {path}/1/model.onnx, or correct `path`", path = path.display())]
    Missing { name: String, path: PathBuf, problem: String },

    #[error("model {name}: {path}: {problem}; export it again as a single ONNX file", path = path.display())]
    NotLoadable { name: String, path: PathBuf, problem: String },

    #[error(
        "model {name}: {path} keeps tensors in other files, which is not allowed; save it as one file \
         (onnx.save(model, path, save_as_external_data=False))",
        path = path.display()
    )]
    ExternalData { name: String, path: PathBuf },

    /// The model and the pipeline file do not fit together; every problem is listed.
    #[error("model {name}: {path} does not fit the pipeline file:\n  {}", problems.join("\n  "), path = path.display())]
    Mismatch { name: String, path: PathBuf, problems: Vec<String> },

    /// A value of a request cannot be fed to the model.
    #[error("input `{input}`, row {row}: {problem}")]
    Input { input: String, row: usize, problem: String },

    #[error("model {name} failed: {problem}")]
    RunFailed { name: String, problem: String },

    #[error(
        "model {name} gave a score that is not a finite number (row {row}); give inputs that may be null a `default`, \
         or handle NaN inside the model"
    )]
    NotFinite { name: String, row: usize },
}
