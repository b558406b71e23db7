//! Group: several processes of the real binary run one pipeline on a real Kafka; they come, go, die and sleep, and the
//! samples and features are those of one process that saw everything.

use crate::end_to_end::{PlainReader, SHORT, SHORT_TIMES, Setup};
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

/// A pipeline of several processes, and its log.
struct Group {
    setup: Setup,
    world: World,
}

impl Group {
    fn new() -> Group {
        let setup = Setup::even(SHORT, PARTITIONS);
        setup.write_pipeline(&brokers(), &SHORT_TIMES);
        let path = setup.path().join("pipeline.yaml");
        let text = std::fs::read_to_string(&path).unwrap().replace("lanes: 2", "lanes: 1");
        std::fs::write(&path, format!("{text}group_mode: {{ instance: nobody, session_timeout: {SESSION} }}\n"))
            .unwrap();
        let mut world = crate::end_to_end::short_worlds();
        world.records.iter_mut().for_each(place);
        Group { setup, world }
    }

    fn path(&self) -> &Path {
        self.setup.path()
    }

    fn start(&self, instance: &str) -> Conjoin {
        self.start_named(instance, instance)
    }

    fn start_named(&self, instance: &str, name: &str) -> Conjoin {
        Conjoin::run(self.path(), name, &["--set", &format!("group_mode.instance={instance}")])
    }

    /// Number and writer of the newest manifest of every cell.
    fn heads(&self) -> Vec<(u64, String)> {
        (0..PARTITIONS).filter_map(|cell| head(&self.cell(cell)?)).collect()
    }

    /// The folder of a cell, below the name of its generation.
    fn cell(&self, number: i32) -> Option<PathBuf> {
        let generation = std::fs::read_dir(self.path().join("state/cells")).ok()?.next()?.ok()?;
        Some(generation.path().join(format!("{number:05}")))
    }

    fn manifest(&self, cell: u32) -> Value {
        wait_for("a manifest that stays while it is read", || {
            let newest = files(&self.cell(cell as i32)?.join("manifests"), ".json").pop()?;
            serde_json::from_slice(&std::fs::read(newest).ok()?).ok()
        })
    }

    fn online_instant(&self, cell: u32) -> i64 {
        self.manifest(cell)["online_instant"].as_i64().unwrap()
    }

    fn wait_for_commits(&self) {
        let before = self.heads();
        wait_for("a commit of every cell", || {
            let now = self.heads();
            let further = |(cell, head): (usize, &(u64, String))| before.get(cell).is_none_or(|old| head.0 > old.0);
            (now.len() == PARTITIONS as usize && now.iter().enumerate().all(further)).then_some(())
        });
    }

    /// Who the cells' newest commits are by.
    fn writers(&self) -> BTreeSet<String> {
        self.heads().into_iter().map(|(_, writer)| writer).collect()
    }
}

/// Puts a record where a producer with the user as its key would.
pub(crate) fn place(record: &mut Record) {
    place_in(record, PARTITIONS);
}

pub(crate) fn place_in(record: &mut Record, partitions: i32) {
    let payload: Value =
        record.payload.as_deref().and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or_default();
    let user = if record.topic == FEED { &payload["user"]["id"] } else { &payload["uid"] };
    record.partition = match user.as_str() {
        Some(user) => Partitioner::Murmur2.partition(user.as_bytes(), partitions as u32) as i32,
        // What nobody can read lies anywhere.
        None => record.partition % PARTITIONS,
    };
}

fn head(cell: &Path) -> Option<(u64, String)> {
    let newest = files(&cell.join("manifests"), ".json").into_iter().next_back()?;
    // It may be forgotten between the listing and the look.
    let manifest: Value = serde_json::from_slice(&std::fs::read(newest).ok()?).ok()?;
    Some((manifest["number"].as_u64()?, manifest["writer"].as_str()?.to_owned()))
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
                wait_for("cells to be shared", || (group.writers().len() > 1).then_some(()));
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
    let all = group.world.impressions.len();
    wait_for("all windows to close", || (reader.look(group.path()) >= all).then_some(()));
    runs.into_iter().for_each(stop);
    let oracle = Oracle::new(&group.world, SHORT);
    group.setup.check_samples(&oracle);
    // A user's features are its cell's; an item's are as of the lowest watermark of all cells when they were written.
    let of_user = |user: &str| group.online_instant(Partitioner::Murmur2.partition(user.as_bytes(), PARTITIONS as u32));
    group.setup.check_redis_at(&oracle, |kind, entity, ts| match kind {
        "item_ctr" => ts.unwrap_or_else(|| panic!("{entity} was never written")),
        _ => of_user(entity),
    });
    // Whoever comes next lets every window slide empty, also for what others wrote.
    let last = group.start("d");
    let end = group.world.impressions.iter().map(|shown| shown.ts).max().unwrap() + 40_000;
    wait_for("every window to slide empty", || {
        (0..PARTITIONS as u32)
            .all(|cell| group.manifest(cell)["handover"]["watermark"].as_i64() > Some(end))
            .then_some(())
    });
    stop(last);
    group.setup.check_redis(&oracle, end);
}
