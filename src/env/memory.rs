//! Memory: a [`Store`] in memory for tests and simulation, with a hook that makes operations fail.
//!
//!   operation ──> hook ── None ────────> done
//!                  ├── FailBefore ──> error, nothing happened
//!                  ├── FailAfter ───> error, but it happened: the answer was lost
//!                  └── Tear ────────> error, and half of the object is there: what a real store must never do
//!
//! Holds: clones share their objects, so a simulated crash drops the program and keeps the store.
//! Does not: lose renames before they were synced; that is a test of the file system, not of the program.

use super::clock::Clock;
use super::store::*;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// What is about to be done, for the fault hook.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum StoreOperation {
    Create,
    Read,
    List,
    Delete,
    Rename,
    SyncFolder,
}

/// The hook's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreFault {
    None,
    FailBefore(io::ErrorKind),
    FailAfter(io::ErrorKind),
    /// Only creates can tear; for other operations it is `FailBefore`.
    Tear(io::ErrorKind),
}

type FaultHook = Box<dyn FnMut(StoreOperation, &str) -> StoreFault + Send>;

#[derive(Clone, Default)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

#[derive(Clone)]
struct Object {
    bytes: Arc<[u8]>,
    modified_ms: i64,
}

#[derive(Default)]
struct Shared {
    objects: Mutex<BTreeMap<String, Object>>,
    hook: Mutex<Option<FaultHook>>,
    /// Dates objects; without one they are all of 1970.
    clock: Mutex<Option<Arc<dyn Clock>>>,
    /// A store that ignores the condition of a create.
    careless: AtomicBool,
}

impl MemoryStore {
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// Asks `hook` before every operation from now on. The hook must not use this store itself.
    pub fn set_fault_hook(&self, hook: impl FnMut(StoreOperation, &str) -> StoreFault + Send + 'static) {
        *lock(&self.shared.hook) = Some(Box::new(hook));
    }

    pub fn clear_fault_hook(&self) {
        *lock(&self.shared.hook) = None;
    }

    /// Puts bytes under a path whatever was there: to damage an object in a test.
    pub fn corrupt(&self, path: &str, bytes: &[u8]) {
        let object = self.object(bytes);
        lock(&self.shared.objects).insert(path.into(), object);
    }

    /// Dates objects by this clock from now on.
    pub fn set_clock(&self, clock: Arc<dyn Clock>) {
        *lock(&self.shared.clock) = Some(clock);
    }

    /// From now on a create overwrites what is there: what a real store must never do.
    pub fn overwrite_on_create(&self) {
        self.shared.careless.store(true, Ordering::Relaxed);
    }

    fn object(&self, bytes: &[u8]) -> Object {
        let modified_ms = lock(&self.shared.clock).as_ref().map_or(0, |clock| clock.now_ms());
        Object { bytes: bytes.into(), modified_ms }
    }

    fn operate<T>(
        &self,
        operation: StoreOperation,
        name: &'static str,
        path: &str,
        act: impl FnOnce(&mut BTreeMap<String, Object>, bool) -> io::Result<T>,
    ) -> Result<T, StoreError> {
        let fault = match lock(&self.shared.hook).as_mut() {
            Some(hook) => hook(operation, path),
            None => StoreFault::None,
        };
        let error = |source| StoreError::from_io(name, path, source);
        let torn = match fault {
            StoreFault::Tear(_) if operation == StoreOperation::Create => true,
            StoreFault::FailBefore(kind) | StoreFault::Tear(kind) => return Err(error(kind.into())),
            StoreFault::None | StoreFault::FailAfter(_) => false,
        };
        let done = act(&mut lock(&self.shared.objects), torn).map_err(error)?;
        match fault {
            StoreFault::FailAfter(kind) | StoreFault::Tear(kind) => Err(error(kind.into()).outcome_unknown()),
            _ => Ok(done),
        }
    }

    fn put_if_free(&self, path: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        check_path("create", path)?;
        self.operate(StoreOperation::Create, "create", path, |objects, torn| {
            if objects.contains_key(path) && !self.shared.careless.load(Ordering::Relaxed) {
                return Ok(Created::AlreadyThere);
            }
            let kept = if torn { &bytes[..bytes.len() / 2] } else { bytes };
            objects.insert(path.into(), self.object(kept));
            Ok(Created::Yes)
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panicking test elsewhere must not hide behind a poisoned lock; the map is whole at every unlock.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryStore({} objects)", lock(&self.shared.objects).len())
    }
}

impl Store for MemoryStore {
    fn create(&self, path: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        self.put_if_free(path, bytes)
    }

    fn create_writer(&self, path: &str) -> Result<Box<dyn StoreWriter>, StoreError> {
        check_path("create", path)?;
        Ok(Box::new(MemoryWriter { store: self.clone(), path: path.into(), bytes: Vec::new() }))
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, StoreError> {
        check_path("read", path)?;
        self.operate(StoreOperation::Read, "read", path, |objects, _| {
            objects.get(path).map(|object| object.bytes.to_vec()).ok_or(io::ErrorKind::NotFound.into())
        })
    }

    fn read_range(&self, path: &str, offset: u64, len: u64) -> Result<Vec<u8>, StoreError> {
        check_path("read", path)?;
        self.operate(StoreOperation::Read, "read", path, |objects, _| {
            let bytes = &objects.get(path).ok_or(io::Error::from(io::ErrorKind::NotFound))?.bytes;
            let end = offset.checked_add(len).filter(|end| *end <= bytes.len() as u64);
            let end = end.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
            Ok(bytes[offset as usize..end as usize].to_vec())
        })
    }

    fn size(&self, path: &str) -> Result<Option<u64>, StoreError> {
        check_path("stat", path)?;
        self.operate(StoreOperation::Read, "stat", path, |objects, _| {
            Ok(objects.get(path).map(|o| o.bytes.len() as u64))
        })
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        self.operate(StoreOperation::List, "list", prefix, |objects, _| {
            let from = objects.range(prefix.to_string()..);
            let below = from.take_while(|(path, _)| path.starts_with(prefix));
            let listed = |(path, Object { bytes, modified_ms }): (&String, &Object)| Listed {
                path: path.clone(),
                bytes: bytes.len() as u64,
                modified_ms: *modified_ms,
            };
            Ok(below.map(listed).collect())
        })
    }

    fn delete(&self, path: &str) -> Result<(), StoreError> {
        check_path("delete", path)?;
        self.operate(StoreOperation::Delete, "delete", path, |objects, _| {
            objects.remove(path);
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> Result<Renamed, StoreError> {
        check_path("rename", from)?;
        check_path("rename", to)?;
        self.operate(StoreOperation::Rename, "rename", from, |objects, _| match objects.remove(from) {
            Some(object) => {
                objects.insert(to.into(), object);
                Ok(Renamed::Yes)
            }
            None if objects.contains_key(to) => Ok(Renamed::AlreadyDone),
            None => Err(io::ErrorKind::NotFound.into()),
        })
    }

    fn sync_folder(&self, folder: &str) -> Result<(), StoreError> {
        self.operate(StoreOperation::SyncFolder, "fsync", folder, |_, _| Ok(()))
    }

    fn sweep_unfinished(&self, _prefix: &str, _belongs: &dyn Fn(&str) -> bool) -> Result<usize, StoreError> {
        Ok(0)
    }

    fn describe(&self, path: &str) -> String {
        format!("memory:{path}")
    }
}

struct MemoryWriter {
    store: MemoryStore,
    path: String,
    bytes: Vec<u8>,
}

impl Write for MemoryWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl StoreWriter for MemoryWriter {
    fn finish(self: Box<Self>) -> Result<Created, StoreError> {
        self.store.put_if_free(&self.path, &self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_happen_before_after_or_halfway() {
        let store = MemoryStore::new();
        let mut answers = vec![
            StoreFault::Tear(io::ErrorKind::Other),
            StoreFault::FailAfter(io::ErrorKind::TimedOut),
            StoreFault::FailBefore(io::ErrorKind::StorageFull),
        ];
        store.set_fault_hook(move |operation, _| match operation {
            StoreOperation::Create => answers.pop().unwrap_or(StoreFault::None),
            _ => StoreFault::None,
        });
        assert_eq!(store.create("a", b"1234").unwrap_err().kind, StoreErrorKind::Full);
        assert_eq!(store.size("a").unwrap(), None);
        assert_eq!(store.create("b", b"1234").unwrap_err().kind, StoreErrorKind::Unknown);
        assert_eq!(store.size("b").unwrap(), Some(4));
        assert_eq!(store.create("c", b"1234").unwrap_err().kind, StoreErrorKind::Unknown);
        assert_eq!(store.size("c").unwrap(), Some(2));
        store.clear_fault_hook();
        assert_eq!(store.create("d", b"1234").unwrap(), Created::Yes);
    }
}
