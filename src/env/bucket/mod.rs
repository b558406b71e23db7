//! Bucket: a [`Store`] in an object store: S3 and what is compatible with it, Google Cloud Storage, Azure.
//!
//!   create   PUT if the key is free (If-None-Match: *)       rename   copy if the key is free, then delete the old one
//!   answer lost, 5xx, 409 ─> try again with backoff ─> "taken" now ─> `Unknown`: the caller looks whose it is
//!
//! Holds: a key shows a whole object or none; requests that fail for a while are tried again up to
//! [`RETRY_MS_MAX`], during which the caller waits: a slow store costs time, not memory.
//! Does not: find unfinished uploads of dead processes: the interface of the clouds that is common to all has no
//! listing of them, so a lifecycle rule of the bucket removes them (docs/OBJECT_STORES.md).

mod client;
mod outcome;
mod writer;

pub use writer::PART_BYTES;

use self::client::Client;
use self::outcome::{Outcome, outcome};
use self::writer::BucketWriter;
use super::clock::{Clock, SystemClock};
use super::entropy::{Entropy, SystemEntropy};
use super::spec::BucketSpec;
use super::store::*;
use futures_util::TryStreamExt;
use object_store::path::Path as Key;
use object_store::{
    CopyMode, CopyOptions, GetOptions, GetRange, ObjectMeta, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::Runtime;

/// How long one operation is tried again before the run gives up; the run waits meanwhile.
pub const RETRY_MS_MAX: u64 = 15 * 60_000;
/// The same before the store has answered anything: then a wrong address is more likely than an outage.
pub const FIRST_RETRY_MS_MAX: u64 = 20_000;
const BACKOFF_FIRST_MS: u64 = 50;
const BACKOFF_MAX_MS: u64 = 5_000;
/// Of an error's text; stores answer with whole pages.
const MESSAGE_CHARS_MAX: usize = 600;

#[derive(Clone)]
pub struct BucketStore {
    shared: Arc<Shared>,
}

struct Shared {
    spec: BucketSpec,
    client: Arc<dyn Client>,
    /// Carries connections and timers; the waiting is done by the thread that calls.
    runtime: Runtime,
    clock: Arc<dyn Clock>,
    answered: AtomicBool,
    retry_ms_max: u64,
}

impl BucketStore {
    /// Makes a client; nothing is sent yet.
    pub fn open(spec: &BucketSpec) -> Result<BucketStore, StoreError> {
        BucketStore::open_with(spec, RETRY_MS_MAX)
    }

    /// The same with another limit of tries.
    pub fn open_with(spec: &BucketSpec, retry_ms_max: u64) -> Result<BucketStore, StoreError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("bucket")
            .enable_all()
            .build()
            .map_err(|error| StoreError::from_io("open", spec.to_string(), error))?;
        let shared = Shared {
            spec: spec.clone(),
            client: client::build(spec)?,
            runtime,
            clock: Arc::new(SystemClock::new()),
            answered: AtomicBool::new(false),
            retry_ms_max,
        };
        Ok(BucketStore { shared: Arc::new(shared) })
    }

    fn client(&self) -> Arc<dyn Client> {
        self.shared.client.clone()
    }

    fn key(&self, operation: &'static str, path: &str) -> Result<Key, StoreError> {
        check_path(operation, path)?;
        Key::parse(self.shared.spec.path_of(path)).map_err(|error| {
            StoreError::from_io(operation, path, io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))
        })
    }

    /// Waits for one request.
    fn answer<T, F>(&self, request: impl FnOnce() -> F) -> object_store::Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let answer = self.shared.runtime.block_on(async { request().await });
        if !answer.as_ref().is_err_and(|error| outcome(error).may_pass()) {
            self.shared.answered.store(true, Ordering::Relaxed);
        }
        answer
    }

    fn patience(&self) -> Patience<'_> {
        Patience { store: self, started_ms: self.shared.clock.monotonic_ms(), tries: 0 }
    }

    /// Waits for a request that may be repeated without harm, as often as it takes.
    fn retried<T, F>(&self, operation: &'static str, path: &str, request: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let mut patience = self.patience();
        loop {
            match self.answer(&request) {
                Ok(done) => return Ok(done),
                Err(error) if outcome(&error).may_pass() && patience.wait(&error, operation, path) => {}
                Err(error) => return Err(self.failed(operation, path, &error)),
            }
        }
    }

    /// A conditional PUT. `Unknown` if it may be this call's own bytes that took the path.
    fn put(&self, operation: &'static str, path: &str, payload: &PutPayload) -> Result<Created, StoreError> {
        let key = self.key(operation, path)?;
        let client = self.client();
        let mut patience = self.patience();
        let mut perhaps = false;
        loop {
            let options = || PutOptions::from(PutMode::Create);
            let error = match self.answer(|| client.put_opts(&key, payload.clone(), options())) {
                Ok(_) => return Ok(Created::Yes),
                Err(error) => error,
            };
            let outcome = outcome(&error);
            perhaps |= outcome == Outcome::Unclear;
            match outcome {
                Outcome::Taken if !perhaps => return Ok(Created::AlreadyThere),
                Outcome::NotSent | Outcome::Unclear if patience.wait(&error, operation, path) => {}
                _ if perhaps => return Err(self.failed(operation, path, &error).outcome_unknown()),
                _ => return Err(self.failed(operation, path, &error)),
            }
        }
    }

    fn length(&self, operation: &'static str, path: &str) -> Result<Option<u64>, StoreError> {
        let key = self.key(operation, path)?;
        let client = self.client();
        match self.retried(operation, path, || client.head(&key)) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether these are the bytes of the object.
    fn holds(&self, path: &str, payload: &PutPayload) -> Result<bool, StoreError> {
        let found = self.read(path)?;
        Ok(found.len() == payload.content_length() && payload.iter().flatten().eq(&found))
    }

    fn get(&self, path: &str, range: Option<GetRange>) -> Result<Vec<u8>, StoreError> {
        let key = self.key("read", path)?;
        let client = self.client();
        self.retried("read", path, || {
            let options = GetOptions { range: range.clone(), ..GetOptions::default() };
            async { Ok(client.get_opts(&key, options).await?.bytes().await?.to_vec()) }
        })
    }

    fn failed(&self, operation: &'static str, path: &str, error: &object_store::Error) -> StoreError {
        let mut text: String = error.to_string().chars().take(MESSAGE_CHARS_MAX).collect();
        let kind = match outcome(error) {
            Outcome::NotFound => StoreErrorKind::NotFound,
            Outcome::Refused => StoreErrorKind::Permission,
            Outcome::OutOfRange => StoreErrorKind::Truncated,
            _ => StoreErrorKind::Other,
        };
        let advice = match kind {
            StoreErrorKind::NotFound if text.contains("NoSuchBucket") => "; create the bucket first",
            StoreErrorKind::Permission => {
                "; check the credentials and the rights that docs/OBJECT_STORES.md lists, then start again"
            }
            _ => "",
        };
        text.push_str(advice);
        StoreError { operation, path: self.describe(path), kind, source: io::Error::other(text) }
    }
}

/// The tries of one operation.
struct Patience<'a> {
    store: &'a BucketStore,
    started_ms: u64,
    tries: u32,
}

impl Patience<'_> {
    /// Waits before the next try; false if there should be none.
    fn wait(&mut self, error: &object_store::Error, operation: &str, path: &str) -> bool {
        let shared = &self.store.shared;
        let limit = match shared.answered.load(Ordering::Relaxed) {
            true => shared.retry_ms_max,
            false => shared.retry_ms_max.min(FIRST_RETRY_MS_MAX),
        };
        let waited_ms = shared.clock.monotonic_ms() - self.started_ms;
        if waited_ms >= limit {
            return false;
        }
        let backoff_ms = (BACKOFF_FIRST_MS << self.tries.min(20)).min(BACKOFF_MAX_MS);
        self.tries += 1;
        let message: String = error.to_string().chars().take(MESSAGE_CHARS_MAX).collect();
        if backoff_ms < 1_000 {
            tracing::debug!(operation, path, tries = self.tries, message, "the object store fails; trying again");
        } else {
            let seconds = waited_ms / 1_000;
            tracing::warn!(operation, path, seconds, message, "the object store fails; waiting and trying again");
        }
        // Half of it at random, so that those who failed together do not come back together.
        let jitter_ms = SystemEntropy.random_u64() % (backoff_ms / 2 + 1);
        shared.clock.sleep_ms(backoff_ms / 2 + jitter_ms);
        true
    }
}

impl fmt::Debug for BucketStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BucketStore({})", self.shared.spec)
    }
}

impl Store for BucketStore {
    fn create(&self, path: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        self.put("create", path, &PutPayload::from(bytes.to_vec()))
    }

    fn create_writer(&self, path: &str) -> Result<Box<dyn StoreWriter>, StoreError> {
        check_path("create", path)?;
        Ok(Box::new(BucketWriter::new(self.clone(), path)))
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, StoreError> {
        self.get(path, None)
    }

    fn read_range(&self, path: &str, offset: u64, len: u64) -> Result<Vec<u8>, StoreError> {
        let short = || {
            let source = io::Error::from(io::ErrorKind::UnexpectedEof);
            StoreError::from_io("read", self.describe(path), source)
        };
        let end = offset.checked_add(len).filter(|end| *end <= i64::MAX as u64);
        let Some(end) = end else {
            return if self.length("read", path)?.is_some() { Err(short()) } else { self.get(path, None) };
        };
        if len == 0 {
            // No range of a request is empty.
            return match self.length("read", path)? {
                Some(bytes) if offset <= bytes => Ok(Vec::new()),
                Some(_) => Err(short()),
                None => self.get(path, None),
            };
        }
        let bytes = match self.get(path, Some(GetRange::Bounded(offset..end))) {
            Err(error) if error.kind == StoreErrorKind::Truncated => return Err(short()),
            // The client refuses a range beyond the end in words of its own.
            Err(error) if error.kind == StoreErrorKind::Other => match self.length("read", path)? {
                Some(bytes) if bytes < end => return Err(short()),
                _ => return Err(error),
            },
            bytes => bytes?,
        };
        if bytes.len() as u64 == len { Ok(bytes) } else { Err(short()) }
    }

    fn size(&self, path: &str) -> Result<Option<u64>, StoreError> {
        self.length("stat", path)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let folder = folder_of(prefix);
        let below = match folder {
            "" => Key::parse(&self.shared.spec.prefix).map_err(|error| {
                StoreError::from_io("list", prefix, io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))
            })?,
            folder => self.key("list", folder)?,
        };
        let client = self.client();
        let metas: Vec<ObjectMeta> =
            self.retried("list", prefix, || client.list(Some(&below)).try_collect::<Vec<ObjectMeta>>())?;
        let root = &self.shared.spec.prefix;
        let mut listed: Vec<Listed> = metas
            .into_iter()
            .filter_map(|meta| {
                let path = meta.location.as_ref().strip_prefix(root.as_str())?.trim_start_matches('/').to_string();
                let modified_ms = meta.last_modified.timestamp_millis();
                path.starts_with(prefix).then_some(Listed { path, bytes: meta.size, modified_ms })
            })
            .collect();
        listed.sort_unstable();
        Ok(listed)
    }

    fn delete(&self, path: &str) -> Result<(), StoreError> {
        let key = self.key("delete", path)?;
        let client = self.client();
        match self.retried("delete", path, || client.delete(&key)) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    fn rename(&self, from: &str, to: &str) -> Result<Renamed, StoreError> {
        let (old, new) = (self.key("rename", from)?, self.key("rename", to)?);
        let client = self.client();
        let mut patience = self.patience();
        loop {
            // A copy is there as a whole or not at all; one that is there is the one that an earlier call made.
            if self.length("rename", to)?.is_some() {
                self.delete(from)?;
                return Ok(Renamed::AlreadyDone);
            }
            let options = CopyOptions::new().with_mode(CopyMode::Create);
            let Err(error) = self.answer(|| client.copy_opts(&old, &new, options)) else {
                self.delete(from)?;
                return Ok(Renamed::Yes);
            };
            let again = matches!(outcome(&error), Outcome::NotSent | Outcome::Unclear | Outcome::Taken);
            if !again || !patience.wait(&error, "rename", from) {
                return Err(self.failed("rename", from, &error));
            }
        }
    }

    fn sync_folder(&self, _folder: &str) -> Result<(), StoreError> {
        Ok(()) // what a store has answered is durable
    }

    fn sweep_unfinished(&self, _prefix: &str, _belongs: &dyn Fn(&str) -> bool) -> Result<usize, StoreError> {
        Ok(0)
    }

    fn describe(&self, path: &str) -> String {
        let spec = &self.shared.spec;
        format!("{}://{}/{}", spec.cloud.scheme(), spec.bucket, spec.path_of(path))
    }
}
