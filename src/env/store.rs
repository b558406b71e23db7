//! Store: objects under relative paths, as the commit protocol and the sinks need them.
//!
//!   create      whole object, only if the path is free      ── manifests, small state
//!   create_writer … finish()   the same for long ones       ── state blocks, Parquet
//!   rename      complete object to its public name          ── publishing
//!
//! In: paths with `/`, relative to the root, without `.` and `..`. Out: bytes, or a [`StoreError`] that says what to do.
//! Holds: whatever a listing shows is complete and durable; a failed fsync is an error and is never tried again.
//! Does not: overwrite, retry, cache, or lock: the manifest chain fences.

use std::fmt;
use std::io::{self, Write};

/// What a create-only write found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Created {
    /// This call made the object.
    Yes,
    /// The path was taken; nothing was changed.
    AlreadyThere,
}

/// What a rename found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Renamed {
    Yes,
    /// The old name is gone and the new one is there: an earlier call did it.
    AlreadyDone,
}

/// One object of a listing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Listed {
    pub path: String,
    pub bytes: u64,
    /// When it was written, by the store's clock, in milliseconds since 1970.
    pub modified_ms: i64,
}

pub trait Store: Send + Sync + fmt::Debug {
    /// Makes the object if the path is free; it is durable when this returns.
    fn create(&self, path: &str, bytes: &[u8]) -> Result<Created, StoreError>;

    /// Starts an object that becomes visible, whole, at [`StoreWriter::finish`].
    fn create_writer(&self, path: &str) -> Result<Box<dyn StoreWriter>, StoreError>;

    fn read(&self, path: &str) -> Result<Vec<u8>, StoreError>;

    /// Reads exactly `len` bytes; a shorter object is an error of kind [`StoreErrorKind::Truncated`].
    fn read_range(&self, path: &str, offset: u64, len: u64) -> Result<Vec<u8>, StoreError>;

    /// The object's length in bytes, `None` if it does not exist.
    fn size(&self, path: &str) -> Result<Option<u64>, StoreError>;

    /// Every object whose path starts with `prefix`, at any depth, sorted by path.
    fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError>;

    /// A missing object is fine.
    fn delete(&self, path: &str) -> Result<(), StoreError>;

    /// Gives an object its other name. Durable after [`Store::sync_folder`] of the new name's folder.
    /// Must only be called with a new name that no other object can have.
    fn rename(&self, from: &str, to: &str) -> Result<Renamed, StoreError>;

    /// Makes renames in this folder durable.
    fn sync_folder(&self, folder: &str) -> Result<(), StoreError>;

    /// Removes what writers that never came to `finish` left behind, where `belongs` is true of the path the object
    /// was to have. Only the owner of those paths may call it, when none of its writers lives.
    fn sweep_unfinished(&self, prefix: &str, belongs: &dyn Fn(&str) -> bool) -> Result<usize, StoreError>;

    /// Where the object lies, for people.
    fn describe(&self, path: &str) -> String;
}

/// A long object on its way. Dropped before `finish`, it leaves nothing that a listing would show.
pub trait StoreWriter: Write + Send {
    fn finish(self: Box<Self>) -> Result<Created, StoreError>;
}

/// What kind of failure it was, for those who decide what to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreErrorKind {
    NotFound,
    /// The path is not relative, is empty, or climbs with `..`.
    InvalidPath,
    Full,
    Permission,
    Truncated,
    /// The write may or may not have happened: read the path to find out.
    Unknown,
    Other,
}

/// A failed operation, with its path and what a person can do about it.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {path}: {source}{}", advice_clause(*kind, source))]
pub struct StoreError {
    pub operation: &'static str,
    /// As [`Store::describe`] gives it.
    pub path: String,
    pub kind: StoreErrorKind,
    pub source: io::Error,
}

impl StoreError {
    /// Wraps an I/O error; the kind follows from it.
    pub fn from_io(operation: &'static str, path: impl Into<String>, source: io::Error) -> StoreError {
        let kind = match source.kind() {
            io::ErrorKind::NotFound => StoreErrorKind::NotFound,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreErrorKind::Full,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StoreErrorKind::Permission,
            io::ErrorKind::UnexpectedEof => StoreErrorKind::Truncated,
            io::ErrorKind::InvalidInput => StoreErrorKind::InvalidPath,
            _ => StoreErrorKind::Other,
        };
        StoreError { operation, path: path.into(), kind, source }
    }

    /// The same failure, after which nobody knows whether the object is there.
    pub fn outcome_unknown(mut self) -> StoreError {
        self.kind = StoreErrorKind::Unknown;
        self
    }

    pub fn is_not_found(&self) -> bool {
        self.kind == StoreErrorKind::NotFound
    }
}

fn advice_clause(kind: StoreErrorKind, source: &io::Error) -> String {
    match kind {
        StoreErrorKind::Unknown => " (it may have happened all the same; a restart finds out)".into(),
        _ => advice(source).map(|advice| format!("; {advice}")).unwrap_or_default(),
    }
}

/// What a person can do about an I/O error.
pub fn advice(error: &io::Error) -> Option<&'static str> {
    Some(match error.kind() {
        io::ErrorKind::StorageFull => "the disk is full: free some space or choose another path, then start again",
        io::ErrorKind::QuotaExceeded => "the disk quota is used up: raise it or free some space, then start again",
        io::ErrorKind::PermissionDenied => "give the user who runs conjoin the right to read and write this folder",
        io::ErrorKind::ReadOnlyFilesystem => "the file system is mounted read-only: choose another path",
        io::ErrorKind::FileTooLarge => "the file is larger than the file system or `ulimit -f` allows",
        io::ErrorKind::Unsupported => "the file system has no hard links: choose a path on a local disk",
        io::ErrorKind::NotADirectory => "a part of the path is a file where a folder is needed",
        _ => return None,
    })
}

/// Refuses paths that are empty, absolute or climb.
pub(crate) fn check_path(operation: &'static str, path: &str) -> Result<(), StoreError> {
    let fine = !path.is_empty() && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if fine {
        return Ok(());
    }
    let source = io::Error::new(io::ErrorKind::InvalidInput, "not a relative path without `.` and `..`");
    Err(StoreError::from_io(operation, path, source))
}

/// The folder of an object's path, `""` for the root.
pub fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_path_and_what_to_do() {
        let full = StoreError::from_io("write", "/data/x", io::Error::from(io::ErrorKind::StorageFull));
        let text = full.to_string();
        assert!(text.contains("/data/x") && text.contains("free some space"), "{text}");
        assert_eq!(full.kind, StoreErrorKind::Full);
    }

    #[test]
    fn paths_that_leave_the_root_are_refused() {
        for path in ["", "/etc/passwd", "a/../b", "./a", "a//b", "a/"] {
            assert_eq!(check_path("read", path).unwrap_err().kind, StoreErrorKind::InvalidPath, "{path:?}");
        }
        check_path("read", "chain/0.json").unwrap();
    }
}
