//! The files behind a path, folder or glob, in the order in which they are one sequence.

use std::fs;
use std::path::{Path, PathBuf};

/// Finds the files of `pattern` in name order. A folder gives the files directly in it; there, and in globs, names that
/// begin with `.` or `_` are markers of other tools and left out. The error is a sentence for the user.
pub(super) fn find(pattern: &str) -> Result<Vec<PathBuf>, String> {
    let path = Path::new(pattern);
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let (mut files, what) = if path.is_dir() {
        (in_folder(path)?, "the folder has no files")
    } else if pattern.contains(['*', '?', '[']) {
        (by_glob(pattern)?, "no file matches this pattern")
    } else {
        return Err(format!(
            "there is no such file or folder. Check the path; seen from {} it must exist when the run starts",
            working_folder()
        ));
    };
    files.retain(|file| !is_marker(file));
    if files.is_empty() {
        return Err(format!(
            "{what} (names that begin with . or _ do not count). Put the files there before the run starts, or change \
             the path; it is seen from {}",
            working_folder()
        ));
    }
    files.sort();
    Ok(files)
}

fn in_folder(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let unreadable = |error| format!("the folder cannot be listed: {error}. Check its permissions");
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

fn by_glob(pattern: &str) -> Result<Vec<PathBuf>, String> {
    let paths = glob::glob(pattern).map_err(|error| format!("this is not a pattern: {error}"))?;
    let mut files = Vec::new();
    for path in paths {
        let path = path.map_err(|error| format!("a folder cannot be listed: {error}. Check its permissions"))?;
        if path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

fn is_marker(file: &Path) -> bool {
    file.file_name().is_some_and(|name| matches!(name.as_encoded_bytes().first(), Some(b'.' | b'_')))
}

fn working_folder() -> String {
    std::env::current_dir().map_or_else(|_| "the working folder".to_string(), |folder| folder.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(files: &[PathBuf]) -> Vec<String> {
        files.iter().map(|file| file.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_folder_and_a_glob_give_the_same_files_in_name_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.ndjson", "a.ndjson", "_SUCCESS", ".hidden.ndjson", "c.txt"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        fs::create_dir(folder.path().join("d.ndjson")).unwrap();
        let by_folder = find(folder.path().to_str().unwrap()).unwrap();
        assert_eq!(names(&by_folder), ["a.ndjson", "b.ndjson", "c.txt"]);
        let by_glob = find(&format!("{}/*.ndjson", folder.path().display())).unwrap();
        assert_eq!(names(&by_glob), ["a.ndjson", "b.ndjson"]);
    }

    #[test]
    fn nothing_found_is_an_error_that_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        assert!(find(path).unwrap_err().contains("the folder has no files"));
        assert!(find(&format!("{path}/*.x")).unwrap_err().contains("no file matches"));
        assert!(find(&format!("{path}/missing")).unwrap_err().contains("no such file"));
    }
}
