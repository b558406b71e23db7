//! What the targets share: the entry functions, and how a panic is told from one that was caught on purpose.

#[path = "../entry/mod.rs"]
pub mod entry;

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::sync::{Mutex, PoisonError};

static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// Writes the seeds of a target into the folder that `CONJOIN_FUZZ_SEEDS` names, and takes away the fuzzer's own hook,
/// which ends the process at every panic: what a vendor's decoder does within `catch_unwind` is no finding.
pub fn begin(name: &str) {
    set_hook(Box::new(|panic| {
        *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = panic.to_string();
    }));
    let Some(folder) = std::env::var_os("CONJOIN_FUZZ_SEEDS") else { return };
    for (number, seed) in (entry::target(name).seeds)().into_iter().enumerate() {
        let path = std::path::Path::new(&folder).join(format!("seed-{number}"));
        std::fs::write(path, seed).expect("seeds can be written");
    }
}

pub fn run(name: &str, bytes: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| (entry::target(name).run)(bytes))).is_err() {
        eprintln!("{name}: {}", LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner));
        std::process::abort();
    }
}
