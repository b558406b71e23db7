//! Local: a [`Store`] in a folder of a POSIX file system.
//!
//!   write .tmp-… ─> fsync ─> link(2) to the final name, fails if it is taken ─> unlink .tmp-… ─> fsync the folder
//!
//! Holds: no final name ever shows a part of an object, not after a crash at any step either; new folders are made
//! durable in their parents before anything in them counts.
//! Does not: follow up on a failed fsync: the kernel may have dropped the pages, so the object is given up.

use super::failpoint::{self, Failpoint, Moment};
use super::store::*;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

const UNFINISHED_PREFIX: &str = ".tmp-";

/// Makes names of unfinished files unique within the process; the process id does so between processes.
static UNFINISHED: AtomicU64 = AtomicU64::new(0);

#[derive(Debug, Clone)]
pub struct LocalStore {
    shared: Arc<Folder>,
}

#[derive(Debug)]
struct Folder {
    root: PathBuf,
    folder_mode: u32,
    file_mode: u32,
}

impl LocalStore {
    /// Opens a folder that only this user may look into: state.
    pub fn open(root: impl Into<PathBuf>) -> Result<LocalStore, StoreError> {
        LocalStore::open_with(root.into(), 0o700, 0o600)
    }

    /// Opens a folder that others may read as far as the umask lets them: samples.
    pub fn open_shared(root: impl Into<PathBuf>) -> Result<LocalStore, StoreError> {
        LocalStore::open_with(root.into(), 0o777, 0o666)
    }

    fn open_with(root: PathBuf, folder_mode: u32, file_mode: u32) -> Result<LocalStore, StoreError> {
        let folder = Folder { root, folder_mode, file_mode };
        folder.make(&folder.root)?;
        Ok(LocalStore { shared: Arc::new(folder) })
    }

    pub fn root(&self) -> &Path {
        &self.shared.root
    }

    fn start(&self, path: &str) -> Result<LocalWriter, StoreError> {
        check_path("create", path)?;
        let folder = &self.shared;
        let target = folder.root.join(path);
        let parent = target.parent().expect("a checked path lies below the root").to_path_buf();
        let name = target.file_name().and_then(|name| name.to_str()).expect("a checked path ends in a name");
        loop {
            let number = UNFINISHED.fetch_add(1, Ordering::Relaxed);
            let unfinished = parent.join(format!("{UNFINISHED_PREFIX}{}-{number}-{name}", std::process::id()));
            let mut options = OpenOptions::new();
            failpoint::attempt(Failpoint::StoreOpen).map_err(|error| failed("create", &unfinished, error))?;
            match options.write(true).create_new(true).mode(folder.file_mode).open(&unfinished) {
                Ok(file) => {
                    failpoint::reach(Failpoint::StoreOpen, Moment::After);
                    let open = Some(file);
                    return Ok(LocalWriter { store: self.clone(), file: open, unfinished, target, parent });
                }
                // A process of the same id died here once; the next number is free.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => folder.make(&parent)?,
                Err(error) => return Err(failed("create", &unfinished, error)),
            }
        }
    }

    /// Calls `each` with every file below the deepest folder that `prefix` names: (path, unfinished?, full path).
    fn walk(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(String, bool, &Path) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let first = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        if !first.is_empty() {
            check_path("list", first)?;
        }
        let mut folders = vec![first.to_string()];
        while let Some(folder) = folders.pop() {
            let full = self.shared.root.join(&folder);
            let entries = match fs::read_dir(&full) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("list", &full, error)),
            };
            for entry in entries {
                let entry = entry.map_err(|error| failed("list", &full, error))?;
                // Names that are not UTF-8 are not ours.
                let Ok(name) = entry.file_name().into_string() else { continue };
                let kind = entry.file_type().map_err(|error| failed("list", &entry.path(), error))?;
                let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
                if kind.is_dir() {
                    let below = format!("{path}/");
                    if below.starts_with(prefix) || prefix.starts_with(&below) {
                        folders.push(path);
                    }
                } else if let Some(rest) = name.strip_prefix(UNFINISHED_PREFIX) {
                    let target = rest.splitn(3, '-').nth(2).unwrap_or(rest);
                    let path = if folder.is_empty() { target.into() } else { format!("{folder}/{target}") };
                    each(path, true, &entry.path())?;
                } else if path.starts_with(prefix) {
                    each(path, false, &entry.path())?;
                }
            }
        }
        Ok(())
    }
}

impl Folder {
    /// Makes a folder and its missing parents, each made durable in its parent.
    fn make(&self, path: &Path) -> Result<(), StoreError> {
        match DirBuilder::new().mode(self.folder_mode).create(path) {
            Ok(()) => {
                sync_path(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(failed("make folder", path, io::Error::from(io::ErrorKind::NotADirectory)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.parent().is_some() => {
                self.make(path.parent().expect("just checked"))?;
                self.make(path)
            }
            Err(error) => Err(failed("make folder", path, error)),
        }
    }
}

impl Store for LocalStore {
    fn create(&self, path: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        let mut writer = Box::new(self.start(path)?);
        writer.write_all(bytes).map_err(|error| failed("write", &writer.unfinished, error))?;
        writer.finish()
    }

    fn create_writer(&self, path: &str) -> Result<Box<dyn StoreWriter>, StoreError> {
        Ok(Box::new(self.start(path)?))
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, StoreError> {
        check_path("read", path)?;
        let full = self.shared.root.join(path);
        fs::read(&full).map_err(|error| failed("read", &full, error))
    }

    fn read_range(&self, path: &str, offset: u64, len: u64) -> Result<Vec<u8>, StoreError> {
        check_path("read", path)?;
        let full = self.shared.root.join(path);
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&full)?;
            // Asked before anything is reserved: a length from a damaged manifest must not become an allocation.
            let size = file.metadata()?.len();
            if offset.checked_add(len).is_none_or(|end| end > size) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = vec![0; len as usize];
            file.read_exact(&mut bytes)?;
            Ok(bytes)
        };
        read().map_err(|error| failed("read", &full, error))
    }

    fn size(&self, path: &str) -> Result<Option<u64>, StoreError> {
        check_path("stat", path)?;
        let full = self.shared.root.join(path);
        match fs::metadata(&full) {
            Ok(found) => Ok(Some(found.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("stat", &full, error)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let mut found = Vec::new();
        self.walk(prefix, &mut |path, unfinished, full| {
            if unfinished {
                return Ok(());
            }
            match fs::metadata(full) {
                Ok(stat) => {
                    let modified_ms = modified_ms(&stat).map_err(|error| failed("stat", full, error))?;
                    found.push(Listed { path, bytes: stat.len(), modified_ms });
                }
                // Deleted or renamed since the folder was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("stat", full, error)),
            }
            Ok(())
        })?;
        found.sort_unstable();
        Ok(found)
    }

    fn delete(&self, path: &str) -> Result<(), StoreError> {
        check_path("delete", path)?;
        let full = self.shared.root.join(path);
        remove_if_there(&full)
    }

    fn rename(&self, from: &str, to: &str) -> Result<Renamed, StoreError> {
        check_path("rename", from)?;
        check_path("rename", to)?;
        let (old, new) = (self.shared.root.join(from), self.shared.root.join(to));
        match fs::rename(&old, &new) {
            Ok(()) => Ok(Renamed::Yes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => match self.size(to)? {
                Some(_) => Ok(Renamed::AlreadyDone),
                None => Err(failed("rename", &old, error)),
            },
            Err(error) => Err(failed("rename", &old, error)),
        }
    }

    fn sync_folder(&self, folder: &str) -> Result<(), StoreError> {
        if !folder.is_empty() {
            check_path("fsync", folder)?;
        }
        sync_path(&self.shared.root.join(folder))
    }

    fn sweep_unfinished(&self, prefix: &str, belongs: &dyn Fn(&str) -> bool) -> Result<usize, StoreError> {
        let mut removed = 0;
        self.walk(prefix, &mut |path, unfinished, full| {
            if unfinished && path.starts_with(prefix) && belongs(&path) {
                remove_if_there(full)?;
                removed += 1;
            }
            Ok(())
        })?;
        Ok(removed)
    }

    fn describe(&self, path: &str) -> String {
        self.shared.root.join(path).display().to_string()
    }
}

fn modified_ms(stat: &fs::Metadata) -> io::Result<i64> {
    Ok(stat.modified()?.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64))
}

struct LocalWriter {
    store: LocalStore,
    /// `None` after `finish`.
    file: Option<File>,
    unfinished: PathBuf,
    target: PathBuf,
    parent: PathBuf,
}

impl Write for LocalWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..failpoint::attempt_write(bytes.len())?];
        let written = self.file.as_mut().expect("the file is open until finish takes the writer").write(bytes)?;
        failpoint::reach(Failpoint::StoreWrite, Moment::After);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl StoreWriter for LocalWriter {
    fn finish(mut self: Box<Self>) -> Result<Created, StoreError> {
        let file = self.file.take().expect("finish takes the writer, so it runs once");
        let synced = failpoint::attempt(Failpoint::StoreFsync).and_then(|()| file.sync_all());
        failpoint::reach(Failpoint::StoreFsync, Moment::After);
        let result = synced.map_err(|error| failed("fsync", &self.unfinished, error));
        drop(file);
        let link = || fs::hard_link(&self.unfinished, &self.target);
        let created = match result.map(|()| failpoint::step(Failpoint::StoreLink, link)) {
            Err(error) => Err(error),
            Ok(Ok(())) => Ok(Created::Yes),
            Ok(Err(error)) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Created::AlreadyThere),
            Ok(Err(error)) => Err(failed("create", &self.target, error)),
        };
        // What cannot be removed now is swept by the next owner.
        let _ = failpoint::step(Failpoint::StoreUnlink, || remove_if_there(&self.unfinished));
        let created = created?;
        if created == Created::AlreadyThere {
            return Ok(created);
        }
        // The object has its name now, but whether it keeps it when the power goes nobody knows once this has failed.
        // The outcome is not `Unknown`: a look at the name would find it, and trust what may yet vanish.
        sync_path(&self.parent)?;
        Ok(created)
    }
}

impl Drop for LocalWriter {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // What cannot be removed now is swept by the next owner.
            let _ = fs::remove_file(&self.unfinished);
        }
    }
}

impl std::fmt::Debug for LocalWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LocalWriter({} in {})", self.target.display(), self.store.shared.root.display())
    }
}

fn failed(operation: &'static str, path: &Path, error: io::Error) -> StoreError {
    StoreError::from_io(operation, path.display().to_string(), error)
}

fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("delete", path, error)),
        _ => Ok(()),
    }
}

fn sync_path(folder: &Path) -> Result<(), StoreError> {
    let sync = || failpoint::attempt(Failpoint::StoreSync).and_then(|()| File::open(folder)?.sync_all());
    let synced = sync().map_err(|error| failed("fsync", folder, error));
    failpoint::reach(Failpoint::StoreSync, Moment::After);
    synced
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn store() -> (tempfile::TempDir, LocalStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path().join("a/state")).unwrap();
        (folder, store)
    }

    #[test]
    fn state_folders_are_for_their_owner_alone() {
        let (_folder, store) = store();
        store.create("m/0.json", b"{}").unwrap();
        for (path, mode) in [("", 0o700), ("m", 0o700), ("m/0.json", 0o600)] {
            let found = fs::metadata(store.root().join(path)).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, mode, "{path:?}");
        }
    }

    #[test]
    fn a_writer_shows_nothing_before_finish_and_nothing_after_drop() {
        let (_folder, store) = store();
        let mut writer = store.create_writer("s/block").unwrap();
        writer.write_all(b"half").unwrap();
        assert_eq!(store.list("").unwrap(), []);
        drop(writer);
        assert_eq!(fs::read_dir(store.root().join("s")).unwrap().count(), 0);
        let mut writer = store.create_writer("s/block").unwrap();
        writer.write_all(b"whole").unwrap();
        assert_eq!(writer.finish().unwrap(), Created::Yes);
        let listed = store.list("s/").unwrap();
        assert_eq!(listed.iter().map(|o| (o.path.as_str(), o.bytes)).collect::<Vec<_>>(), [("s/block", 5)]);
        assert!(listed[0].modified_ms > 1_700_000_000_000, "{listed:?}");
        assert_eq!(fs::read_dir(store.root().join("s")).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn what_a_dead_writer_left_is_swept_only_where_it_belongs_to_the_sweeper() {
        let (_folder, store) = store();
        for name in ["mine", "theirs"] {
            let mut writer = store.create_writer(&format!("s/{name}")).unwrap();
            writer.write_all(b"half").unwrap();
            std::mem::forget(writer);
        }
        assert_eq!(store.sweep_unfinished("s/", &|path| path == "s/mine").unwrap(), 1);
        assert_eq!(fs::read_dir(store.root().join("s")).unwrap().count(), 1);
        assert_eq!(store.sweep_unfinished("", &|_| true).unwrap(), 1);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_reported_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), b"").unwrap();
        let error = LocalStore::open(folder.path().join("file/state")).unwrap_err().to_string();
        assert!(error.contains("file/state") && error.contains("a folder is needed"), "{error}");
    }

    #[test]
    fn racing_creators_of_one_path_have_one_winner() {
        let (_folder, store) = store();
        let winners: Vec<Created> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8u8)
                .map(|n| {
                    scope.spawn({
                        let store = store.clone();
                        move || store.create("m/7", &[n; 100]).unwrap()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(winners.iter().filter(|created| **created == Created::Yes).count(), 1);
        assert_eq!(store.read("m/7").unwrap().len(), 100);
    }
}
