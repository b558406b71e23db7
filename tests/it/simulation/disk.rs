//! Disk: what outlives a process in the simulation, and the mounts through which lives see it, each with its own faults.
//!
//!   life 1 ── mount ─┐
//!   life 2 ── mount ─┴─> platter: objects, and what would be lost if the power went now
//!
//! Holds: what the contract of a store promises, also while it fails: an object under its name is complete and durable
//! once `create` said so, except where an object that is no manifest is lost or torn behind a good answer, which is what
//! the verification before a commit is for. Renames and deletes are durable when their folder is synced.

use conjoin::env::{Created, Listed, Renamed, Store, StoreError, StoreWriter, folder_of};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Default)]
struct Platter {
    objects: BTreeMap<String, Arc<[u8]>>,
    unsynced: Vec<Unsynced>,
    faults: BTreeMap<&'static str, u64>,
}

/// What a power failure may undo.
enum Unsynced {
    Created(String),
    Renamed { from: String, to: String },
    Deleted(String, Arc<[u8]>),
}

impl Unsynced {
    fn folder(&self) -> &str {
        match self {
            Unsynced::Created(path) | Unsynced::Renamed { to: path, .. } | Unsynced::Deleted(path, _) => {
                folder_of(path)
            }
        }
    }
}

#[derive(Clone, Default)]
pub struct Disk {
    platter: Arc<Mutex<Platter>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// How a life fares with its disk.
#[derive(Clone, Copy, Default, Debug)]
pub struct DiskFaults {
    /// The share of operations that go wrong.
    pub rate: f64,
    /// The number of the operation at which the process dies, before, in or after it.
    pub crash_at: Option<u64>,
    pub seed: u64,
}

/// One life's view.
struct Life {
    dead: bool,
    operations: u64,
    faults: DiskFaults,
    random: StdRng,
}

#[derive(Clone)]
pub struct Mount {
    disk: Disk,
    life: Arc<Mutex<Life>>,
    prefix: &'static str,
}

impl Disk {
    pub fn mount(&self, faults: DiskFaults) -> Mount {
        let life = Life { dead: false, operations: 0, faults, random: StdRng::seed_from_u64(faults.seed) };
        Mount { disk: self.clone(), life: Arc::new(Mutex::new(life)), prefix: "" }
    }

    /// The power goes: of what was not synced, any part may never have happened.
    pub fn lose_power(&self, random: &mut StdRng) {
        let mut platter = lock(&self.platter);
        while let Some(last) = platter.unsynced.pop() {
            if random.random_bool(0.5) {
                continue;
            }
            let what = match last {
                Unsynced::Created(path) => platter.objects.remove(&path).map(|_| "power_lost_object"),
                Unsynced::Renamed { from, to } => platter.objects.remove(&to).map(|bytes| {
                    platter.objects.insert(from, bytes);
                    "power_lost_rename"
                }),
                Unsynced::Deleted(path, bytes) => {
                    platter.objects.insert(path, bytes);
                    Some("power_lost_delete")
                }
            };
            what.into_iter().for_each(|what| *platter.faults.entry(what).or_default() += 1);
        }
    }

    pub fn note(&self, fault: &'static str) {
        *lock(&self.platter).faults.entry(fault).or_default() += 1;
    }

    pub fn faults(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.platter).faults.clone()
    }

    /// Everything that is there.
    pub fn all(&self) -> Vec<(String, Arc<[u8]>)> {
        lock(&self.platter).objects.iter().map(|(path, bytes)| (path.clone(), bytes.clone())).collect()
    }

    pub fn put(&self, path: String, bytes: Vec<u8>) {
        lock(&self.platter).objects.insert(path, bytes.into());
    }

    /// Objects whose names end so, as a glob sees them.
    pub fn glob(&self, prefix: &str, ending: &str) -> Vec<(String, Arc<[u8]>)> {
        let visible = |path: &str| !path.rsplit('/').next().unwrap_or_default().starts_with('.');
        let platter = lock(&self.platter);
        let found = platter.objects.iter().filter(|(path, _)| path.starts_with(prefix) && path.ends_with(ending));
        found.filter(|(path, _)| visible(path)).map(|(path, bytes)| (path.clone(), bytes.clone())).collect()
    }
}

/// What is to become of an operation.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Done,
    /// An error; it did not happen.
    Refused(io::ErrorKind),
    /// An error; it happened all the same.
    Late,
    /// Nobody knows; it happened or not.
    Unknown {
        happened: bool,
    },
    /// A good answer; nothing is there, or half.
    Lost,
    Torn,
    /// An error; it is there until the power goes.
    Unsynced,
    Dies {
        happened: bool,
    },
}

impl Mount {
    pub fn folder(&self, prefix: &'static str) -> Mount {
        Mount { prefix, ..self.clone() }
    }

    pub fn is_dead(&self) -> bool {
        lock(&self.life).dead
    }

    fn path(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    fn fate(&self, operation: &'static str, path: &str) -> Result<Fate, StoreError> {
        let mut life = lock(&self.life);
        if life.dead {
            return Err(self.error(operation, path, io::ErrorKind::BrokenPipe));
        }
        let (writes, creates) = (operation != "read" && operation != "list", operation == "create");
        // Reads are many, and change nothing: it is writes that a crash falls among.
        life.operations += u64::from(writes);
        if writes && life.faults.crash_at == Some(life.operations) {
            life.dead = true;
            let happened = writes && life.random.random_bool(0.5);
            return Ok(Fate::Dies { happened });
        }
        let rate = if writes { life.faults.rate } else { life.faults.rate / 20.0 };
        if !life.random.random_bool(rate) {
            return Ok(Fate::Done);
        }
        let manifest = path.starts_with("manifests/");
        Ok(match life.random.random_range(0..6) {
            0 if creates => Fate::Unknown { happened: life.random.random_bool(0.6) },
            1 if creates && !manifest => Fate::Lost,
            2 if creates && !manifest => Fate::Torn,
            3 if creates => Fate::Unsynced,
            4 if writes && !creates => Fate::Late,
            5 if writes => Fate::Refused(io::ErrorKind::StorageFull),
            _ => Fate::Refused(io::ErrorKind::Other),
        })
    }

    fn error(&self, operation: &'static str, path: &str, kind: io::ErrorKind) -> StoreError {
        StoreError::from_io(operation, self.describe(path), kind.into())
    }

    /// Does an operation as fate has it.
    fn operate<T>(
        &self,
        operation: &'static str,
        path: &str,
        act: impl FnOnce(&mut Platter) -> io::Result<T>,
    ) -> Result<T, StoreError> {
        let fate = self.fate(operation, path)?;
        let mut platter = lock(&self.disk.platter);
        let told = match fate {
            Fate::Done => None,
            Fate::Refused(io::ErrorKind::StorageFull) => Some("store_full"),
            Fate::Refused(_) => Some("store_error"),
            Fate::Late => Some("store_error_after"),
            Fate::Unknown { .. } => Some("store_unknown"),
            Fate::Lost => Some("write_lost"),
            Fate::Torn => Some("write_torn"),
            Fate::Unsynced => Some("fsync_failed"),
            Fate::Dies { happened: false } => Some("crash_before_step"),
            Fate::Dies { happened: true } => Some("crash_after_step"),
        };
        told.into_iter().for_each(|told| *platter.faults.entry(told).or_default() += 1);
        let error = |kind| self.error(operation, path, kind);
        match fate {
            Fate::Refused(kind) => Err(error(kind)),
            Fate::Dies { happened: false } => Err(error(io::ErrorKind::BrokenPipe)),
            Fate::Unknown { happened: false } => Err(error(io::ErrorKind::TimedOut).outcome_unknown()),
            _ => {
                let done =
                    act(&mut platter).map_err(|source| StoreError::from_io(operation, self.describe(path), source))?;
                let whole = self.path(path);
                match fate {
                    Fate::Lost => drop(platter.objects.remove(&whole)),
                    Fate::Torn => {
                        let half = platter.objects[&whole].len() / 2;
                        let torn = platter.objects[&whole][..half].into();
                        platter.objects.insert(whole, torn);
                    }
                    Fate::Unsynced => platter.unsynced.push(Unsynced::Created(whole)),
                    // The folder is synced, and with it all that happened in it.
                    _ if operation == "create" || operation == "fsync" => {
                        let folder = if operation == "create" { folder_of(&whole).to_string() } else { whole };
                        platter.unsynced.retain(|unsynced| unsynced.folder() != folder);
                    }
                    _ => {}
                }
                match fate {
                    Fate::Done | Fate::Lost | Fate::Torn => Ok(done),
                    Fate::Unknown { .. } => Err(error(io::ErrorKind::TimedOut).outcome_unknown()),
                    Fate::Dies { .. } => Err(error(io::ErrorKind::BrokenPipe)),
                    _ => Err(error(io::ErrorKind::Other)),
                }
            }
        }
    }

    fn put(&self, path: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        // A name that is taken is told as such whatever else fails.
        if !self.is_dead() && lock(&self.disk.platter).objects.contains_key(&self.path(path)) {
            return Ok(Created::AlreadyThere);
        }
        self.operate("create", path, |platter| {
            platter.objects.insert(self.path(path), bytes.into());
            Ok(Created::Yes)
        })
    }
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mount({})", self.prefix)
    }
}

impl Store for Mount {
    fn create(&self, path: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        self.put(path, bytes)
    }

    fn create_writer(&self, path: &str) -> Result<Box<dyn StoreWriter>, StoreError> {
        Ok(Box::new(Writer { mount: self.clone(), path: path.into(), bytes: Vec::new() }))
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, StoreError> {
        self.operate("read", path, |platter| {
            let found = platter.objects.get(&self.path(path)).map(|bytes| bytes.to_vec());
            found.ok_or(io::ErrorKind::NotFound.into())
        })
    }

    fn read_range(&self, path: &str, offset: u64, len: u64) -> Result<Vec<u8>, StoreError> {
        self.operate("read", path, |platter| {
            let bytes = platter.objects.get(&self.path(path)).ok_or(io::Error::from(io::ErrorKind::NotFound))?;
            let end = offset.checked_add(len).filter(|end| *end <= bytes.len() as u64);
            let end = end.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
            Ok(bytes[offset as usize..end as usize].to_vec())
        })
    }

    fn size(&self, path: &str) -> Result<Option<u64>, StoreError> {
        let size = |platter: &mut Platter| Ok(platter.objects.get(&self.path(path)).map(|bytes| bytes.len() as u64));
        self.operate("read", path, size)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        self.operate("list", prefix, |platter| {
            let from = self.path(prefix);
            let below = platter.objects.range(from.clone()..).take_while(|(path, _)| path.starts_with(&from));
            let listed = |(path, bytes): (&String, &Arc<[u8]>)| Listed {
                path: path[self.prefix.len()..].into(),
                bytes: bytes.len() as u64,
                modified_ms: 0,
            };
            Ok(below.map(listed).collect())
        })
    }

    fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.operate("delete", path, |platter| {
            if let Some(bytes) = platter.objects.remove(&self.path(path)) {
                platter.unsynced.push(Unsynced::Deleted(self.path(path), bytes));
            }
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> Result<Renamed, StoreError> {
        self.operate("rename", from, |platter| {
            let (from, to) = (self.path(from), self.path(to));
            match platter.objects.remove(&from) {
                Some(bytes) => {
                    platter.objects.insert(to.clone(), bytes);
                    platter.unsynced.push(Unsynced::Renamed { from, to });
                    Ok(Renamed::Yes)
                }
                None if platter.objects.contains_key(&to) => Ok(Renamed::AlreadyDone),
                None => Err(io::ErrorKind::NotFound.into()),
            }
        })
    }

    fn sync_folder(&self, folder: &str) -> Result<(), StoreError> {
        self.operate("fsync", folder, |_| Ok(()))
    }

    fn sweep_unfinished(&self, _prefix: &str, _belongs: &dyn Fn(&str) -> bool) -> Result<usize, StoreError> {
        Ok(0)
    }

    fn describe(&self, path: &str) -> String {
        format!("disk:{}{path}", self.prefix)
    }
}

struct Writer {
    mount: Mount,
    path: String,
    bytes: Vec<u8>,
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl StoreWriter for Writer {
    fn finish(self: Box<Self>) -> Result<Created, StoreError> {
        self.mount.put(&self.path, &self.bytes)
    }
}
