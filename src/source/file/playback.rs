//! Playback: a new file at the end of a sequence of files.
//!
//!   data/imp-10.ndjson  data/imp-11.ndjson ──> data/imp-11~replay-….ndjson      behind every file that is there
//!
//! Holds: the new file sorts behind all files of the sequence, fits its pattern, is packed as its name says, and appears
//! whole: until then it goes by a name that no source takes.

use super::list;
use crate::source::SourceError;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file that was added, and at which byte of its (unpacked) content each record begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    pub path: PathBuf,
    pub offsets: Vec<u64>,
}

/// The name of a file that would come behind all others of a pattern; `stamp` tells it from earlier ones.
pub fn file_behind(pattern: &str, stamp: &str) -> Result<PathBuf, SourceError> {
    let failed = |message: String| SourceError::Input { input: pattern.to_string(), message };
    let files = list::find(pattern).map_err(failed)?;
    if Path::new(pattern).is_file() {
        return Err(failed(format!(
            "names one file, which is never read again once its end was reached. Let it name the folder or a glob such \
             as {}, so that new files are taken",
            glob_beside(Path::new(pattern))
        )));
    }
    let last = files.last().expect("list::find() gives at least one file");
    let name = last
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| failed(format!("{} has a name that is not UTF-8: rename it", last.display())))?;
    // `~` sorts behind letters, digits and dots, so behind the last file and before the next hour's or number's.
    let stem_end = name.find('.').unwrap_or(name.len());
    let (stem, ending) = name.split_at(stem_end);
    let base = stem.split("~replay-").next().unwrap_or(stem);
    let fresh = last.with_file_name(format!("{base}~replay-{stamp}{ending}"));
    let path = match fresh > *last {
        true => fresh,
        false => last.with_file_name(format!("{stem}~replay-{stamp}{ending}")),
    };
    let fits = Path::new(pattern).is_dir() || glob::Pattern::new(pattern).is_ok_and(|glob| glob.matches_path(&path));
    if !fits {
        return Err(failed(format!(
            "a new file would be called {}, which the pattern does not take: widen it, such as {}",
            path.display(),
            glob_beside(last)
        )));
    }
    if files.iter().any(|file| *file >= path) {
        return Err(failed(format!(
            "a new file would be called {}, which does not come behind {}; positions count files in name order, so it \
             must. Give the records to whoever writes the next file",
            path.display(),
            last.display()
        )));
    }
    Ok(path)
}

fn glob_beside(file: &Path) -> String {
    let ending = file.file_name().and_then(|name| name.to_str()).and_then(|name| name.split_once('.'));
    let ending = ending.map_or(String::new(), |(_, ending)| format!(".{ending}"));
    file.with_file_name(format!("*{ending}")).display().to_string()
}

/// Writes records, one per line, to `path` as [`file_behind`] gave it. A record must not hold a line break.
pub fn write_behind(path: &Path, records: &[&[u8]]) -> Result<Appended, SourceError> {
    let failed = |source: io::Error| SourceError::Read {
        input: path.display().to_string(),
        message: "the file cannot be written; no part of it is there".to_string(),
        source,
    };
    let mut lines = Vec::new();
    let mut offsets = Vec::with_capacity(records.len());
    for record in records {
        offsets.push(lines.len() as u64);
        lines.extend_from_slice(record);
        lines.push(b'\n');
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let hidden = path.with_file_name(format!(".{name}.unfinished"));
    let written = pack(path, &lines).and_then(|bytes| {
        let mut file = File::create_new(&hidden)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        // Never over another file: of two replays at once one fails.
        fs::hard_link(&hidden, path)?;
        match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            Some(folder) => File::open(folder)?.sync_all(),
            None => File::open(".")?.sync_all(),
        }
    });
    // Whether or not it has its name by now, the hidden one has served; the failure above says more than this one could.
    let _ = fs::remove_file(&hidden);
    written.map_err(failed)?;
    Ok(Appended { path: path.to_path_buf(), offsets })
}

fn pack(path: &Path, lines: &[u8]) -> io::Result<Vec<u8>> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            packed.write_all(lines)?;
            packed.finish()
        }
        Some("zst") => zstd::stream::encode_all(lines, 3),
        _ => Ok(lines.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_comes_behind_the_others_and_before_those_to_come() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["imp-10.ndjson", "imp-11.ndjson"] {
            fs::write(at(name), "{}\n").unwrap();
        }
        let pattern = folder.path().join("imp-*.ndjson").display().to_string();
        let path = file_behind(&pattern, "1").unwrap();
        assert_eq!(path, at("imp-11~replay-1.ndjson"));
        let added = write_behind(&path, &[b"one", b"three"]).unwrap();
        assert_eq!(added.offsets, [0, 4]);
        assert!(write_behind(&path, &[b"two"]).is_err(), "a file is never replaced");
        assert_eq!(fs::read(&path).unwrap(), b"one\nthree\n");
        assert_eq!(file_behind(&pattern, "2").unwrap(), at("imp-11~replay-2.ndjson"));
        assert_eq!(file_behind(&pattern, "0").unwrap(), at("imp-11~replay-1~replay-0.ndjson"));
        fs::write(at("imp-12.ndjson"), "{}\n").unwrap();
        let names: Vec<_> = list::find(&pattern).unwrap();
        assert_eq!(names[2..], [path, at("imp-12.ndjson")]);
    }

    #[test]
    fn a_packed_sequence_gets_a_packed_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.ndjson.gz"), "").unwrap();
        let path = file_behind(folder.path().to_str().unwrap(), "7").unwrap();
        assert_eq!(path, folder.path().join("a~replay-7.ndjson.gz"));
        write_behind(&path, &[b"x"]).unwrap();
        let mut text = String::new();
        let mut reader = flate2::read::GzDecoder::new(File::open(&path).unwrap());
        io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert_eq!(text, "x\n");
    }

    #[test]
    fn what_cannot_take_a_new_file_is_refused_with_advice() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("one.ndjson");
        fs::write(&file, "").unwrap();
        let error = file_behind(file.to_str().unwrap(), "1").unwrap_err().to_string();
        assert!(error.contains("names one file") && error.contains("*.ndjson"), "{error}");
        let error = file_behind(folder.path().join("on?.ndjson").to_str().unwrap(), "1").unwrap_err().to_string();
        assert!(error.contains("widen it"), "{error}");
    }
}
