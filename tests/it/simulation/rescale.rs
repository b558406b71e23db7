//! Rescale: state that one process left becomes that of a group, whose cells run at paces of their own and crash, and that of
//! one process again, which goes on to the end: the rows must be the oracle's, each once, and the books exact.
//!
//! The state lies in real folders while it is dealt out; cells tell each other through a log that keeps what it was given,
//! as the internal topic does.

use super::harness::{Claimed, Faults, Seat, World, row_text};
use super::world::{Logs, START, Setup, logs as logs_of};
use super::{assert_rows, comparable, expected, seeds, simulate};
use arrow::array::RecordBatch;
use conjoin::cell::{CellScope, Mirror, Sequence};
use conjoin::commit::{BlockEntry, Chain, Identity, Manifest, block_ref, decode_rows, read_block, read_last};
use conjoin::config::Plan;
use conjoin::env::{Clock, LocalStore, ManualClock, SeededEntropy, Store, open_place};
use conjoin::event::{BlockKind, Partitioner};
use conjoin::pipeline::{
    Brokers, Exchange, Extents, Generation, RescaleOptions, Rescaled, RunError, SealedCommit, Told, definition,
    exchanged_groups, list_objects, rescale,
};
use conjoin::sink::{Compression, ParquetSpec, TimeFolder};
use conjoin::source::{GroupModeSpec, KafkaConnection, SourceError};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What cells told each other, kept, and the mirror of whoever reads it.
struct Log {
    groups: Vec<String>,
    mirror: Arc<Mirror>,
    told: Mutex<Vec<(u32, SealedCommitParts)>>,
}

struct SealedCommitParts {
    chain: u32,
    cut: u64,
    parts: Vec<(String, Vec<u8>)>,
    handover: conjoin::commit::Handover,
}

impl Log {
    fn new(plan: &Plan, cells: u32) -> Log {
        let groups: Vec<_> = plan.groups.iter().cloned().map(Arc::new).collect();
        Log {
            groups: plan.groups.iter().map(|group| group.name.clone()).collect(),
            mirror: Arc::new(Mirror::new(cells, &groups, &exchanged_groups(plan))),
            told: Mutex::default(),
        }
    }
}

impl Exchange for Log {
    fn mirror(&self) -> &Arc<Mirror> {
        &self.mirror
    }

    fn send(&self, commit: &SealedCommit) -> Result<(), RunError> {
        let SealedCommit { cell, chain, cut, parts, handover } = commit;
        let at = |part: usize| Sequence { chain: *chain, cut: *cut, part: part as u32 };
        for (number, (group, rows)) in parts.iter().enumerate() {
            let group = self.groups.iter().position(|known| known == group).unwrap();
            self.mirror.part(*cell, at(number), group, &decode_rows(rows).unwrap()).unwrap();
        }
        self.mirror.mark(*cell, at(parts.len()), handover.mark, &[], vec![i64::MIN; 8], 0).unwrap();
        let kept = SealedCommitParts { chain: *chain, cut: *cut, parts: parts.clone(), handover: handover.clone() };
        self.told.lock().unwrap().push((*cell, kept));
        Ok(())
    }

    fn own(&self, _: u32, _: &Manifest) {}

    fn disown(&self, _: u32) {}
}

/// The topics are as they were; of an internal one there is what cells have put in. The last of it may be missing.
struct Topics<'a> {
    log: Option<&'a Log>,
    lost: usize,
}

impl Brokers for Topics<'_> {
    fn extents(&self, _: &Plan) -> Result<Extents, SourceError> {
        Ok(Extents::new())
    }

    fn told(&self, _: &Plan, _: &str, take: &mut dyn FnMut(Told) -> Result<(), RunError>) -> Result<(), RunError> {
        let log = self.log.expect("cells that have committed have told it");
        let told = log.told.lock().unwrap();
        for (cell, commit) in &told[..told.len() - self.lost] {
            let at = |part: usize| Sequence { chain: commit.chain, cut: commit.cut, part: part as u32 };
            for (number, (group, rows)) in commit.parts.iter().enumerate() {
                let rows = decode_rows(rows).unwrap();
                take(Told::Part { cell: *cell, at: at(number), group: group.clone(), rows })?;
            }
            take(Told::Mark { cell: *cell, at: at(commit.parts.len()), mark: commit.handover.mark })?;
        }
        Ok(())
    }
}

/// Where state and samples lie while they are in folders.
struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    fn plan(&self, setup: &Setup, lanes: usize, cells: Option<u32>) -> Plan {
        let mut plan = setup.plan(lanes);
        plan.state.root = self.dir.path().join("state").as_path().into();
        plan.state.path = plan.state.root.clone();
        plan.samples[0].parquet = Some(ParquetSpec {
            path: self.dir.path().join("out").as_path().into(),
            folders: vec![TimeFolder::Date, TimeFolder::Hour],
            roll_bytes: 4 << 10,
            roll_age_ms: 1_000,
            compression: Compression::None,
        });
        let connection = KafkaConnection { name: "none".into(), brokers: "none".into(), properties: BTreeMap::new() };
        plan.group_mode = cells.map(|_| GroupModeSpec {
            connection,
            group_id: "none".into(),
            instance_id: "none".into(),
            session_timeout_ms: 6_000,
            replication: None,
        });
        plan
    }

    /// Puts the state of a simulated disk below `chain`, and its files where files go.
    fn take(&self, world: &World, chain: &str) {
        for (path, bytes) in world.disk.all() {
            let path = match path.split_once('/') {
                Some(("out", path)) => self.dir.path().join("out").join(path),
                Some(("dead", path)) => self.dir.path().join("state/dead-letters").join(path),
                _ => self.dir.path().join("state").join(chain).join(path),
            };
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, &bytes).unwrap();
        }
    }

    /// A disk that holds the chain of a cell, and no files.
    fn disk(&self, generation: &Generation, cell: u32) -> World {
        let world = World::new();
        let store = open_place(&generation.cell(&self.place(), cell)).unwrap();
        for object in store.list("").unwrap() {
            world.disk.put(object.path.clone(), store.read(&object.path).unwrap());
        }
        world
    }

    fn place(&self) -> conjoin::env::Place {
        self.dir.path().join("state").as_path().into()
    }

    fn generation(&self) -> Generation {
        Generation::read(&LocalStore::open(self.dir.path().join("state")).unwrap()).unwrap().unwrap()
    }

    fn rescale(
        &self,
        setup: &Setup,
        (lanes, cells): (usize, Option<u32>),
        brokers: &Topics<'_>,
        seed: u64,
    ) -> Result<Rescaled, RunError> {
        let plan = self.plan(setup, lanes, cells);
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(START));
        let options = RescaleOptions { partitions: cells, dry_run: false };
        rescale(&plan, options, brokers, &clock, &SeededEntropy::new(seed))
    }

    /// The rows of every published file.
    fn rows(&self) -> Vec<String> {
        let mut rows = Vec::new();
        for path in crate::support::binary::files(&self.dir.path().join("out"), ".parquet") {
            let file = std::fs::File::open(&path).unwrap();
            let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
            for batch in reader.build().unwrap() {
                let batch = batch.unwrap();
                rows.extend((0..batch.num_rows()).map(|row| row_text(&batch, row)));
            }
        }
        rows.sort();
        rows
    }
}

/// Records where the partitioner puts their users.
fn placed(setup: &Setup, seed: u64, impressions: usize, cells: u32) -> (Setup, Logs) {
    let one = Setup { partitions: [1, 1, 1], ..*setup };
    let mut logs = Logs::new();
    for ((stream, _), records) in logs_of(&one, seed, impressions) {
        (0..cells).for_each(|cell| drop(logs.insert((stream, cell), Vec::new())));
        for record in records {
            let fields: serde_json::Value = serde_json::from_str(&record).unwrap();
            let cell = Partitioner::Murmur2.partition(fields["user_id"].as_str().unwrap().as_bytes(), cells);
            logs.get_mut(&(stream, cell)).unwrap().push(record);
        }
    }
    (Setup { partitions: [cells; 3], ..*setup }, logs)
}

/// One process for some steps.
fn run_single(world: &World, setup: &Setup, logs: &Logs, lanes: usize, steps: usize, seed: u64) {
    let mut life = Claimed::new(world, setup, lanes, seed, Faults::default()).unwrap().start(logs).unwrap();
    for _ in 0..steps {
        if life.go_on().unwrap().is_some() {
            return;
        }
    }
}

/// Every cell for some steps, some much more than others, and each of them once again after a crash.
fn run_cells(folder: &Folder, setup: &Setup, logs: &Logs, cells: u32, log: &Arc<Log>, random: &mut StdRng) {
    let generation = folder.generation();
    let mut worlds = Vec::new();
    for cell in 0..cells {
        let world = folder.disk(&generation, cell);
        let exchange: Arc<dyn Exchange> = log.clone();
        world.seat.replace(Some(Seat { scope: CellScope { cell, cells }, exchange }));
        worlds.push(world);
    }
    let own: Vec<Logs> = (0..cells)
        .map(|cell| logs.iter().filter(|((_, at), _)| *at == cell).map(|(at, log)| (*at, log.clone())).collect())
        .collect();
    for _ in 0..2 {
        let lanes = random.random_range(1..4);
        let mut lives: Vec<_> = worlds
            .iter()
            .zip(&own)
            .map(|(world, own)| {
                let claimed = Claimed::new(world, setup, lanes, random.random(), Faults::default()).unwrap();
                (claimed.start(own).unwrap(), random.random_range(1..20))
            })
            .collect();
        for _ in 0..random.random_range(50..1_500) {
            let number = random.random_range(0..lives.len());
            let (life, pace) = &mut lives[number];
            for _ in 0..*pace {
                assert!(life.go_on().unwrap().is_none(), "the log of a cell goes on");
            }
        }
    }
    for (cell, world) in worlds.iter().enumerate() {
        let below = format!("cells/{}/{cell:05}", generation.name);
        std::fs::remove_dir_all(folder.dir.path().join("state").join(&below)).unwrap();
        folder.take(world, &below);
    }
}

/// Everything that the chains of the newest generation hold, as text, whatever the cell and lane: what is sealed is as good
/// as what is not.
fn held(folder: &Folder) -> Vec<String> {
    let generation = folder.generation();
    let mut rows = Vec::new();
    for cell in 0..generation.cells.unwrap_or(1) {
        let store = open_place(&generation.cell(&folder.place(), cell)).unwrap();
        let (head, _) = read_last(store.as_ref()).unwrap().unwrap();
        for (object, blocks) in list_objects(store.as_ref(), &head).unwrap() {
            let path: Arc<str> = object.path.as_str().into();
            for block in &blocks {
                rows.extend(block_rows(store.as_ref(), &path, block));
            }
        }
    }
    rows.sort();
    // Ids of a feature's inputs are everywhere: whoever gets the record knows it.
    rows.dedup_by(|a, b| a.starts_with("FeatureIds") && a == b);
    rows
}

fn block_rows(store: &dyn Store, path: &Arc<str>, block: &BlockEntry) -> Vec<String> {
    let rows = read_block(store, &block_ref(path, block).unwrap()).unwrap();
    let kind = match block.class.kind {
        // Tiles know their length, values their time.
        BlockKind::Sealed if rows.column_by_name("slot").is_some() => BlockKind::Tiles,
        BlockKind::Sealed => BlockKind::FeatureEntries,
        kind => kind,
    };
    let text = |row| format!("{kind:?} {} {} {}", block.class.node, block.class.part, cells_text(&rows, row));
    (0..rows.num_rows()).map(text).collect()
}

fn cells_text(rows: &RecordBatch, row: usize) -> String {
    let columns = rows.schema();
    let cells = columns.fields().iter().zip(rows.columns());
    let shown = |array| arrow::util::display::array_value_to_string(array, row).unwrap();
    let cells: Vec<String> = cells.map(|(field, array)| format!("{}={}", field.name(), shown(array))).collect();
    cells.join(" ")
}

/// A state of cells that ran, with what they told each other.
fn cells_that_ran(seed: u64, cells: u32) -> (Folder, Setup, Logs, Arc<Log>) {
    let setup = Setup { features: true, serving_lag_ms: 0, ..Setup::of(seed) };
    let (setup, logs) = placed(&setup, seed, 60, cells);
    let first = World::new();
    run_single(&first, &setup, &logs, 2, 400, seed);
    let folder = Folder { dir: tempfile::tempdir().unwrap() };
    folder.take(&first, "");
    let there = folder.rescale(&setup, (1, Some(cells)), &Topics { log: None, lost: 0 }, seed).unwrap();
    assert!(there.pending > 0 && there.waiting > 0 && there.tiles > 0, "the test shows little: {there:?}");
    let log = Arc::new(Log::new(&folder.plan(&setup, 1, Some(cells)), cells));
    run_cells(&folder, &setup, &logs, cells, &log, &mut StdRng::seed_from_u64(seed));
    (folder, setup, logs, log)
}

#[test]
fn a_state_that_was_claimed_and_never_committed_is_dealt_out_and_back() {
    let setup = Setup::of(3);
    let logs = logs_of(&setup, 3, 40);
    let first = World::new();
    run_single(&first, &setup, &logs, 2, 1, 3);
    let folder = Folder { dir: tempfile::tempdir().unwrap() };
    folder.take(&first, "");
    let none = Topics { log: None, lost: 0 };
    folder.rescale(&setup, (1, Some(3)), &none, 3).unwrap();
    folder.rescale(&setup, (2, None), &none, 4).unwrap();
    finish(&folder, &setup, &logs, 3);
}

#[test]
fn what_the_topic_lost_is_found_out_and_nothing_is_switched() {
    let (folder, setup, _, log) = cells_that_ran(5, 3);
    let before = folder.generation();
    // The last commit of each cell lies in its state as well: so many are lost that one cell lacks the one before.
    let of: Vec<u32> = log.told.lock().unwrap().iter().rev().map(|(cell, _)| *cell).collect();
    let lost =
        (2..of.len()).find(|lost| of[..*lost].iter().filter(|cell| **cell == of[lost - 1]).count() == 2).unwrap();
    let short = folder.rescale(&setup, (2, None), &Topics { log: Some(&log), lost }, 9);
    let error = short.unwrap_err().to_string();
    assert!(error.contains("came after") && error.contains("what the cells tell each other"), "{error}");
    assert_eq!(folder.generation(), before);
    folder.rescale(&setup, (2, None), &Topics { log: Some(&log), lost: 1 }, 9).unwrap();
}

#[test]
fn a_process_that_comes_back_while_its_state_is_dealt_out_stops_the_rescale() {
    let (folder, setup, logs, log) = cells_that_ran(6, 2);
    let before = folder.generation();
    let cell = folder.dir.path().join(format!("state/cells/{}/00001", before.name));
    // Another claim comes as soon as this one is there.
    struct Late<'a> {
        topics: Topics<'a>,
        cell: std::path::PathBuf,
    }
    impl Brokers for Late<'_> {
        fn extents(&self, plan: &Plan) -> Result<Extents, SourceError> {
            self.topics.extents(plan)
        }

        fn told(
            &self,
            plan: &Plan,
            topic: &str,
            take: &mut dyn FnMut(Told) -> Result<(), RunError>,
        ) -> Result<(), RunError> {
            let store: Arc<dyn Store> = Arc::new(LocalStore::open(&self.cell).unwrap());
            let identity = Identity {
                pipeline: "simulation",
                definition: &definition(plan),
                resets: &Default::default(),
                writer: "late".into(),
                chain: 1,
                now_ms: 1,
            };
            Chain::claim(store, &identity).unwrap();
            self.topics.told(plan, topic, take)
        }
    }
    let brokers = Late { topics: Topics { log: Some(&log), lost: 0 }, cell };
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(START));
    let plan = folder.plan(&setup, 1, None);
    let error = rescale(&plan, RescaleOptions::default(), &brokers, &clock, &SeededEntropy::new(1)).unwrap_err();
    assert!(error.to_string().contains("another process has taken it over"), "{error}");
    assert_eq!(folder.generation(), before);
    // What was half made does no harm.
    folder.rescale(&setup, (1, None), &brokers.topics, 2).unwrap();
    let folders: Vec<_> = std::fs::read_dir(folder.dir.path().join("state/cells")).unwrap().collect();
    let kept = crate::support::binary::files(&folder.dir.path().join("state/cells"), ".json");
    let names: std::collections::BTreeSet<_> = kept
        .iter()
        .map(|path| path.strip_prefix(folder.dir.path().join("state/cells")).unwrap().iter().next().unwrap().to_owned())
        .collect();
    assert_eq!(names.len(), 2, "{folders:?}: the last one and the one before");
    finish(&folder, &setup, &logs, 6);
}

/// One process goes on to the end: its rows and books are those of one that was never interrupted.
fn finish(folder: &Folder, setup: &Setup, logs: &Logs, seed: u64) {
    let last = folder.disk(&folder.generation(), 0);
    let mut life = Claimed::new(&last, setup, 3, seed, Faults::default()).unwrap().start(logs).unwrap();
    let books = loop {
        if let Some(books) = life.go_on().unwrap() {
            break books;
        }
    };
    folder.take(&last, "end");
    assert_rows(&folder.rows(), &expected(setup, logs), &format!("seed {seed}, {setup:?}"));
    assert_eq!(comparable(books), comparable(simulate(setup, logs, &[1], seed).1), "seed {seed}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// One process, crashed in the middle, dealt out to cells, then to others, then to one process.
    #[test]
    fn state_that_is_dealt_out_and_back_is_the_same_and_gives_the_rows_of_the_oracle(seed in seeds()) {
        let mut random = StdRng::seed_from_u64(seed);
        let setup = Setup::of(seed);
        let logs = logs_of(&setup, seed, 40);
        let first = World::new();
        run_single(&first, &setup, &logs, random.random_range(1..4), random.random_range(100..1_500), seed);
        let folder = Folder { dir: tempfile::tempdir().unwrap() };
        folder.take(&first, "");
        let none = Topics { log: None, lost: 0 };
        let cells = random.random_range(3..7);
        folder.rescale(&setup, (random.random_range(1..4), Some(cells)), &none, seed).unwrap();
        let in_cells = held(&folder);
        folder.rescale(&setup, (random.random_range(1..3), Some(cells + 3)), &none, seed + 1).unwrap();
        prop_assert_eq!(&in_cells, &held(&folder), "seed {}", seed);
        folder.rescale(&setup, (2, None), &none, seed + 2).unwrap();
        prop_assert_eq!(&in_cells, &held(&folder), "seed {}", seed);
        finish(&folder, &setup, &logs, seed);
    }

    /// The same, with cells that run between.
    #[test]
    fn cells_that_ran_at_their_own_pace_become_one_process_again(seed in seeds()) {
        let mut random = StdRng::seed_from_u64(seed);
        let cells = random.random_range(2..5);
        let (setup, logs) = placed(&Setup::of(seed), seed, 40, cells);
        let first = World::new();
        run_single(&first, &setup, &logs, 2, random.random_range(1..800), seed);
        let folder = Folder { dir: tempfile::tempdir().unwrap() };
        folder.take(&first, "");
        folder.rescale(&setup, (1, Some(cells)), &Topics { log: None, lost: 0 }, seed).unwrap();
        let log = Arc::new(Log::new(&folder.plan(&setup, 1, Some(cells)), cells));
        run_cells(&folder, &setup, &logs, cells, &log, &mut random);
        folder.rescale(&setup, (3, None), &Topics { log: Some(&log), lost: 0 }, seed + 1).unwrap();
        finish(&folder, &setup, &logs, seed);
    }
}
