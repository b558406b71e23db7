//! Start: `pipeline::run` over a state whose newest manifest was damaged and sealed again: threads, files and all, and what `inspect` says of it.
//!
//! In: edits of the manifest.

use super::base::{Base, base, log, seal};
use super::life::{STREAMS, plan};
use super::manifest::of_books;
use super::script::{Script, edit_json};
use conjoin::audit::{Seen, overview};
use conjoin::env::{ManualClock, SeededEntropy};
use conjoin::online::{MemoryStore, StoreGroup};
use conjoin::pipeline::{RunError, RunOptions, StateMemoryLimit, StopSignal, World, load_online, run as run_pipeline};
use conjoin::telemetry::Telemetry;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use tempfile::TempDir;

struct Place {
    folder: TempDir,
    base: Base,
}

/// One run at a time: they share the folder that the plan names.
static PLACE: LazyLock<Mutex<Place>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().to_str().expect("the path is text").to_string();
    for (stream, records) in STREAMS.iter().zip(log()) {
        let lines: Vec<u8> = records.into_iter().flat_map(|record| [record, b"\n".to_vec()].concat()).collect();
        fs::write(folder.path().join(format!("{stream}.ndjson")), lines).expect("the file can be written");
    }
    let source = |stream: &str| format!("file: {{ path: \"{path}/{stream}.ndjson\" }}");
    let base = base(Arc::new(plan(source, &path, 2, "")));
    Mutex::new(Place { folder, base })
});

pub fn seeds() -> Vec<Vec<u8>> {
    vec![Vec::new()]
}

pub fn run(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let place = PLACE.lock().unwrap_or_else(PoisonError::into_inner);
    let Place { folder, base } = &*place;
    let mut json = base.head_json();
    edit_json(&mut json, &mut script);
    let whole = json == base.head_json();
    let number = json["number"].as_u64().unwrap_or(base.head.number);
    let objects = base.with_head(number, seal(json.to_string().as_bytes()));
    // What the last run wrote of the other sample.
    let _ = fs::remove_dir_all(folder.path().join("plain"));
    for (store, name) in ["state", "ctr", "state/dead-letters"].iter().enumerate() {
        let root = folder.path().join(name);
        let _ = fs::remove_dir_all(&root);
        let of_store = objects.iter().filter(|(other, ..)| *other == store);
        of_store.for_each(|(_, path, bytes)| write(&root.join(path), bytes));
    }
    let groups: Vec<StoreGroup> = base.plan.groups.iter().map(StoreGroup::new).collect();
    let online = Arc::new(MemoryStore::new(groups).expect("the groups can be stored"));
    if let Err(error) = load_online(&base.plan, online.as_ref()) {
        assert!(!error.to_string().is_empty());
    }
    if let Ok(seen) = overview(&base.plan, super::life::START) {
        match &seen {
            Seen::One(overview) => serde_json::to_string(overview),
            Seen::Group(overview) => serde_json::to_string(overview),
        }
        .expect("an overview can always be shown");
    }
    let world = World {
        exchange: None,
        memory: StateMemoryLimit::new(base.plan.state.memory_bytes),
        dimensions: None,
        clock: Arc::new(ManualClock::at(super::life::START)),
        entropy: Arc::new(SeededEntropy::new(1)),
        online,
        telemetry: Arc::new(Telemetry::new("life")),
        board: Default::default(),
        stop: StopSignal::default(),
    };
    let ended = catch_unwind(AssertUnwindSafe(|| run_pipeline(base.plan.clone(), RunOptions::default(), world)));
    let ended = match ended {
        Ok(ended) => ended,
        Err(panic) if !whole && panic.downcast_ref::<String>().is_some_and(|message| of_books(message)) => return,
        Err(panic) => resume_unwind(panic),
    };
    match ended {
        Ok(_) => {}
        Err(RunError::Panic { message, .. }) if !whole && of_books(&message) => {}
        Err(RunError::Panic { name, message }) => panic!("thread {name}: {message}"),
        Err(error) => assert!(!whole && !error.to_string().is_empty(), "{error}"),
    }
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("the folder can be made");
    fs::write(path, bytes).expect("the file can be written");
}
