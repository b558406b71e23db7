//! Group: several processes of the real binary run one pipeline on a real Kafka; they come, go, die and sleep, and the
//! samples and features are those of one process that saw everything.

use crate::end_to_end::{PlainReader, SHORT, SHORT_TIMES, Setup, Times};
use crate::support::binary::{Conjoin, files, wait_for};
use crate::support::kafka::brokers;
use crate::support::oracle::Oracle;
use crate::support::world::{FEED, Record, World};
use conjoin::event::Partitioner;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) const PARTITIONS: i32 = 4;
/// The shortest that brokers allow.
pub(crate) const SESSION: &str = "6s";

/// Several processes start and stop on a machine that may be busy: none of that may look like inputs that fell silent.
pub(crate) const GROUP_TIMES: Times<'static> = Times { idle_after: "9s", ..SHORT_TIMES };

/// A pipeline of several processes, and its log.
pub(crate) struct Group {
    pub setup: Setup,
    pub world: World,
    pub partitions: i32,
}

impl Group {
    fn new() -> Group {
        Group::with(PARTITIONS, crate::end_to_end::short_worlds(), &GROUP_TIMES, &brokers())
    }

    pub fn with(partitions: i32, mut world: World, times: &Times<'_>, brokers: &str) -> Group {
        let setup = Setup::even(SHORT, partitions);
        setup.write_pipeline(brokers, times);
        world.records.iter_mut().for_each(|record| place(record, partitions));
        let group = Group { setup, world, partitions };
        group.edit(|text| {
            let text = text.replace("lanes: 2", "lanes: 1");
            format!("{text}group_mode: {{ instance: nobody, session_timeout: {SESSION} }}\n")
        });
        group
    }

    /// Changes the pipeline file.
    pub fn edit(&self, change: impl FnOnce(String) -> String) {
        let path = self.path().join("pipeline.yaml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, change(text)).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.setup.path()
    }

    pub fn start(&self, instance: &str) -> Conjoin {
        self.start_trapped(instance, instance, "")
    }

    fn start_named(&self, instance: &str, name: &str) -> Conjoin {
        self.start_trapped(instance, name, "")
    }

    /// What it says is in files named after `name`.
    pub fn start_trapped(&self, instance: &str, name: &str, failpoint: &str) -> Conjoin {
        let set = format!("group_mode.instance={instance}");
        Conjoin::run_with(self.path(), name, &["--set", &set], failpoint)
    }

    /// The newest manifest of every cell that has one.
    pub fn heads(&self) -> Vec<Head> {
        (0..self.partitions).filter_map(|cell| head(&self.cell(cell)?)).collect()
    }

    /// The folder of a cell, below the name of its generation.
    fn cell(&self, number: i32) -> Option<PathBuf> {
        let generation = std::fs::read_dir(self.path().join("state/cells")).ok()?.next()?.ok()?;
        Some(generation.path().join(format!("{number:05}")))
    }

    pub fn manifest(&self, cell: u32) -> Value {
        wait_for("a manifest that stays while it is read", || {
            let newest = files(&self.cell(cell as i32)?.join("manifests"), ".json").pop()?;
            serde_json::from_slice(&std::fs::read(newest).ok()?).ok()
        })
    }

    fn online_instant(&self, cell: u32) -> i64 {
        self.manifest(cell)["online_instant"].as_i64().unwrap()
    }

    pub fn wait_for_commits(&self) {
        let before = self.heads();
        wait_for("a commit of every cell", || {
            let now = self.heads();
            let further = |(cell, head): (usize, &Head)| head.cut > before.get(cell).map_or(0, |old| old.cut);
            (now.len() == self.partitions as usize && now.iter().enumerate().all(further)).then_some(())
        });
    }

    /// Waits until `run` has cells, which it is told by the group.
    pub fn wait_for_cells(&self, run: &Conjoin) -> BTreeSet<u32> {
        wait_for("the group to give it cells", || Some(cells_of(run)).filter(|cells| !cells.is_empty()))
    }

    /// Nothing is produced any more and nobody is stopped: all windows close, and everything is as it should be.
    pub fn finish(&self, mut reader: PlainReader, runs: Vec<Conjoin>) {
        let all = self.world.impressions.len();
        wait_for("all windows to close", || (reader.look(self.path()) >= all).then_some(()));
        runs.into_iter().for_each(stop);
        self.check();
    }

    pub fn check(&self) {
        let oracle = Oracle::new(&self.world, SHORT);
        self.setup.check_samples(&oracle);
        // A user's features are its cell's; an item's are as of the lowest watermark of all cells when they were written.
        let of_user =
            |user: &str| self.online_instant(Partitioner::Murmur2.partition(user.as_bytes(), self.partitions as u32));
        self.setup.check_redis_at(&oracle, |kind, entity, ts| match kind {
            "item_ctr" => ts.unwrap_or_else(|| panic!("{entity} was never written")),
            _ => of_user(entity),
        });
    }
}

/// Says what the processes said last, where a test failed.
impl Drop for Group {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for path in files(self.path(), ".err") {
                let said = std::fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<&str> = said.lines().collect();
                println!("{}:\n{}", path.display(), lines[lines.len().saturating_sub(40)..].join("\n"));
            }
        }
    }
}

/// What the newest manifest of a cell says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub cell: u32,
    pub cut: u64,
    /// Drawn by whoever claimed the cell.
    pub writer: String,
}

/// The cells that the group gave a process last, as it says.
pub(crate) fn cells_of(run: &Conjoin) -> BTreeSet<u32> {
    let errors = run.errors();
    let said = errors.lines().rev().find(|line| line.contains("the group gave this process these cells"));
    let cells = said.and_then(|line| line.split_once('{')?.1.split_once('}')).map_or("", |(cells, _)| cells);
    cells.split(", ").filter_map(|cell| cell.parse().ok()).collect()
}

/// Puts a record where a producer with the user as its key would.
pub(crate) fn place(record: &mut Record, partitions: i32) {
    let payload: Value =
        record.payload.as_deref().and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or_default();
    let user = if record.topic == FEED { &payload["user"]["id"] } else { &payload["uid"] };
    record.partition = match user.as_str() {
        Some(user) => Partitioner::Murmur2.partition(user.as_bytes(), partitions as u32) as i32,
        // What nobody can read lies anywhere.
        None => record.partition % partitions,
    };
}

fn head(cell: &Path) -> Option<Head> {
    let newest = files(&cell.join("manifests"), ".json").into_iter().next_back()?;
    // It may be forgotten between the listing and the look.
    let manifest: Value = serde_json::from_slice(&std::fs::read(newest).ok()?).ok()?;
    let number = cell.file_name()?.to_str()?.parse().ok()?;
    Some(Head { cell: number, cut: manifest["cut"].as_u64()?, writer: manifest["writer"].as_str()?.to_owned() })
}

pub(crate) fn stop(mut run: Conjoin) {
    run.terminate();
    let status = run.wait();
    assert!(status.success(), "{status}: {}", run.errors());
}

#[test]
fn processes_that_come_go_and_die_give_the_samples_and_features_of_one() {
    let mut group = Group::new();
    let records = std::mem::take(&mut group.world.records);
    let mut reader = PlainReader::default();
    let mut runs = vec![group.start("a")];
    for (number, chunk) in records.chunks(records.len() / 40).enumerate() {
        group.setup.produce(chunk);
        match number {
            2 => group.wait_for_commits(),
            8 => runs.extend([group.start("b"), group.start("c")]),
            20 => {
                runs.iter().for_each(|run| drop(group.wait_for_cells(run)));
                runs.remove(1).kill();
            }
            26 => runs.push(group.start_named("b", "b-again")),
            32 => {
                stop(runs.remove(0));
                stop(runs.remove(0));
            }
            _ => {}
        }
        reader.look(group.path());
        std::thread::sleep(Duration::from_millis(150));
    }
    group.finish(reader, runs);
    // Whoever comes next lets every window slide empty, also for what others wrote.
    let last = group.start("d");
    let end = group.world.impressions.iter().map(|shown| shown.ts).max().unwrap() + 40_000;
    wait_for("every window to slide empty", || {
        (0..group.partitions as u32)
            .all(|cell| group.manifest(cell)["handover"]["watermark"].as_i64() > Some(end))
            .then_some(())
    });
    stop(last);
    group.setup.check_redis(&Oracle::new(&group.world, SHORT), end);
}
