//! Runtime: finds and loads ONNX Runtime's shared library, once per process.

use super::ModelError;
use ort::environment::Environment;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The environment must outlive every session, and there can only be one: it stays until the process ends.
static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);

/// The variable that says where the library is: the file itself, or a folder that holds it.
pub const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";

/// The process's ONNX Runtime. A failure is not remembered: the next call looks again.
pub(super) fn environment() -> Result<Environment, ModelError> {
    let mut slot = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = &*slot {
        return Ok(environment.clone());
    }
    let given = std::env::var_os(LIBRARY_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let candidates = candidates(given.as_deref());
    let mut tried = Vec::new();
    for candidate in &candidates {
        match ort::init_from(candidate) {
            Ok(builder) => {
                let environment = builder.with_name("conjoin").with_telemetry(false).build();
                let environment = environment.map_err(|error| ModelError::Runtime { tried: error.to_string() })?;
                *slot = Some(environment.clone());
                return Ok(environment);
            }
            Err(error) => tried.push(error.to_string()),
        }
    }
    Err(ModelError::Runtime { tried: tried.join("; ") })
}

/// Where to look, in order: what the variable says, else what the system's loader finds.
fn candidates(given: Option<&Path>) -> Vec<PathBuf> {
    let plain = format!("{}onnxruntime{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    match given {
        Some(folder) if folder.is_dir() => {
            // Wheels name the file by its full version: libonnxruntime.so.1.20.0.
            let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| {
                    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&plain))
                })
                .collect();
            found.sort();
            if found.is_empty() {
                found.push(folder.join(plain));
            }
            found
        }
        Some(file) => vec![std::path::absolute(file).unwrap_or_else(|_| file.to_owned())],
        None => vec![PathBuf::from(format!("{plain}.1")), PathBuf::from(plain)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_stands_for_the_library_in_it() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let library = folder.path().join("libonnxruntime.so.1.99.0");
        std::fs::write(&library, b"").expect("a file can be written");
        std::fs::write(folder.path().join("libonnxruntime_providers_shared.so"), b"").expect("a file can be written");
        assert_eq!(candidates(Some(folder.path())), [library]);
    }

    #[test]
    fn a_missing_library_is_an_error_and_not_a_panic() {
        for candidate in candidates(Some(Path::new("/nonexistent/libonnxruntime.so"))) {
            assert!(ort::init_from(candidate).is_err());
        }
    }
}
