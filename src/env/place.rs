//! Place: opens the store that a [`Place`] names, and makes sure that it can be trusted with a manifest chain.

use super::bucket::BucketStore;
use super::entropy::Entropy;
use super::local::LocalStore;
use super::spec::Place;
use super::store::*;
use std::io;
use std::sync::Arc;

/// Where probes are written: below every prefix that is used, deleted at once.
const PROBE_FOLDER: &str = "probe";

/// A folder is made if it is missing; to a bucket nothing is sent yet.
pub fn open_place(place: &Place) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match place {
        Place::Folder(folder) => Arc::new(LocalStore::open(folder)?),
        Place::Bucket(spec) => Arc::new(BucketStore::open(spec)?),
    })
}

/// Writes one path twice, each time only if it is free: the second write must find it taken. Some stores that speak S3
/// ignore the condition; then two processes could both believe that they had committed.
pub fn probe(store: &dyn Store, entropy: &dyn Entropy) -> Result<(), StoreError> {
    let path = format!("{PROBE_FOLDER}/{:032x}", entropy.random_u128());
    let first = settle(store, &path, b"first")?;
    let second = store.create(&path, b"second");
    // A lost answer leaves the question to what lies there now.
    let kept = matches!(second, Ok(Created::AlreadyThere) | Err(_)) && store.read(&path)? == b"first";
    if first && kept {
        return store.delete(&path);
    }
    // A store like this may fail at anything; the refusal is what a person has to know.
    let _ = store.delete(&path);
    let refusal = "the store overwrote an object although the request said not to (PUT with If-None-Match: *); Conjoin \
                   commits by such requests and would lose or double rows here: use a store that honours them \
                   (docs/OBJECT_STORES.md), or a folder";
    let source = io::Error::other(refusal);
    Err(StoreError { operation: "use", path: store.describe(""), kind: StoreErrorKind::Other, source })
}

/// Writes and makes sure that it is there.
fn settle(store: &dyn Store, path: &str, bytes: &[u8]) -> Result<bool, StoreError> {
    match store.create(path, bytes) {
        Ok(created) => Ok(created == Created::Yes),
        Err(error) if error.kind == StoreErrorKind::Unknown => Ok(store.read(path)? == bytes),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{MemoryStore, SeededEntropy, StoreFault, StoreOperation};

    #[test]
    fn a_store_that_honours_conditions_passes_and_keeps_nothing_of_the_probe() {
        let store = MemoryStore::new();
        probe(&store, &SeededEntropy::new(1)).unwrap();
        assert_eq!(store.list("").unwrap(), []);
    }

    #[test]
    fn a_lost_answer_is_no_reason_to_refuse_a_store() {
        let store = MemoryStore::new();
        let mut left = 2;
        store.set_fault_hook(move |operation, _| match operation {
            StoreOperation::Create if left > 0 => {
                left -= 1;
                StoreFault::FailAfter(io::ErrorKind::TimedOut)
            }
            _ => StoreFault::None,
        });
        probe(&store, &SeededEntropy::new(1)).unwrap();
    }

    #[test]
    fn c8_a_store_that_overwrites_is_refused() {
        let store = MemoryStore::new();
        let careless = store.clone();
        store.set_fault_hook(move |_, _| StoreFault::None);
        careless.overwrite_on_create();
        let error = probe(&store, &SeededEntropy::new(1)).unwrap_err().to_string();
        assert!(error.contains("If-None-Match") && error.contains("use a store that honours"), "{error}");
    }
}
