//! Refusals: what several processes cannot run on is refused by name, and told what to do about.

use crate::cli::Server;
use crate::end_to_end::short_worlds;
use crate::group::{GROUP_TIMES, Group, Head, stop};
use crate::group_faults::Feed;
use crate::support::binary::{Conjoin, wait_for};
use crate::support::kafka::{KafkaProducer, TestRecord, brokers, unique};
use crate::support::world::{CLICKS, Record};
use conjoin::event::Partitioner;
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const PARTITIONS: i32 = 3;

/// Two small topics and a pipeline over them.
struct Small {
    folder: tempfile::TempDir,
    kafka: KafkaProducer,
    topics: [String; 2],
}

impl Small {
    fn new(partitions: [i32; 2]) -> Small {
        let kafka = KafkaProducer::new();
        let topics = [kafka.create_topic("feed", partitions[0]), kafka.create_topic("clicks", partitions[1])];
        let small = Small { folder: tempfile::tempdir().unwrap(), kafka, topics };
        let [feed, clicks] = &small.topics;
        let text = format!(
            r#"version: 1
pipeline: {}
connections:
  main: {{ kafka: {{ brokers: "{}", properties: {{ topic.metadata.refresh.interval.ms: "300" }} }} }}
streams:
  impressions: {{
    kafka: {{ connection: main, topics: [{feed}] }}, columns: {{ id: string, at: timestamp }}, time: at, key: id }}
  clicks: {{
    kafka: {{ connection: main, topics: [{clicks}] }}, columns: {{ id: string, at: timestamp }}, time: at, key: id }}
samples:
  ctr:
    from: impressions
    join: {{ click: {{ stream: clicks, within: 2m, take: first, select: [at] }} }}
    write: {{ parquet: {{ path: samples, partition_by: [date], of: impression_ts }} }}
state: {{ path: state, commit_every: 100ms }}
"#,
            unique("refused"),
            brokers()
        );
        std::fs::write(small.path().join("pipeline.yaml"), text).unwrap();
        let group = "version: 1\ngroup_mode: { instance: a, session_timeout: 6s }\n";
        std::fs::write(small.path().join("group.yaml"), group).unwrap();
        small
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn alone(&self, name: &str) -> Conjoin {
        Conjoin::run(self.path(), name, &[])
    }

    /// One of several.
    fn together(&self, name: &str) -> Conjoin {
        Conjoin::run(self.path(), name, &["--overlay", "group.yaml"])
    }

    /// An impression where the partitioner puts it among so many.
    fn produce(&self, partitions: i32) {
        for number in 0..30 {
            let id = format!("i{number}");
            let partition = Partitioner::Murmur2.partition(id.as_bytes(), partitions as u32) as i32;
            let payload = json!({ "id": id, "at": 1_767_225_600_000i64 + number }).to_string();
            let record = TestRecord { partition, payload: Some(payload.as_bytes()), ..TestRecord::default() };
            self.kafka.produce(&self.topics[0], &[record]);
        }
    }

    fn wait_for_commits(&self, folder: &str) {
        let committed = || {
            let manifests = crate::support::binary::files(&self.path().join(folder), ".json");
            manifests.iter().filter(|path| path.ends_with("00000000000000000001.json")).count()
        };
        let all = if folder == "state/manifests" { 1 } else { PARTITIONS as usize };
        wait_for("the first commits", || (committed() == all).then_some(()));
    }
}

fn says(error: &str, words: &[&str]) {
    assert!(words.iter().all(|word| error.contains(word)), "{words:?} in:\n{error}");
    assert!(!error.contains("panicked"), "{error}");
}

#[test]
fn topics_of_different_sizes_are_refused_by_name() {
    let small = Small::new([PARTITIONS, PARTITIONS + 1]);
    let error = small.together("uneven").failure();
    says(&error, &[&small.topics[0], "has 3", &small.topics[1], "has 4", "conjoin repartition"]);
    assert!(!small.path().join("state/generations").exists(), "nothing was claimed");
}

#[test]
fn fault_18_a_topic_that_grows_under_several_processes_stops_them_and_the_next_start() {
    let small = Small::new([PARTITIONS; 2]);
    small.produce(PARTITIONS);
    let run = small.together("first");
    small.wait_for_commits("state/cells");
    small.kafka.grow_topic(&small.topics[0], PARTITIONS as usize + 2);
    let error = run.failure();
    says(&error, &[&small.topics[0], "3 partitions", "5 now", "conjoin repartition"]);
    says(&small.together("uneven").failure(), &["has 5", "has 3", "conjoin repartition"]);
    // Also where all have grown alike.
    small.kafka.grow_topic(&small.topics[1], PARTITIONS as usize + 2);
    says(&small.together("grown").failure(), &["5 partitions", "they had 3", "conjoin rescale"]);
}

#[test]
fn the_state_of_one_process_and_of_several_are_not_taken_for_each_other() {
    let small = Small::new([PARTITIONS; 2]);
    small.produce(PARTITIONS);
    let alone = small.alone("alone");
    small.wait_for_commits("state/manifests");
    stop(alone);
    says(&small.together("together").failure(), &["state/manifests", "conjoin rescale"]);
    std::fs::remove_dir_all(small.path().join("state")).unwrap();
    let together = small.together("fresh");
    small.wait_for_commits("state/cells");
    stop(together);
    says(&small.alone("single").failure(), &["conjoin rescale", "group_mode"]);
}

/// Its cell stops with what to do; the others go on, and whoever asks is told.
#[test]
fn a_record_that_lies_in_the_wrong_partition_stops_its_cell_alone() {
    const WRONG: i32 = 2;
    let mut group = Group::with(4, short_worlds(), &GROUP_TIMES, &brokers());
    group.edit(|text| format!("{text}serve: {{ listen: \"127.0.0.1:0\" }}\n"));
    let mut feed = Feed::new(&mut group, Duration::from_secs(15));
    let mut command = Command::new(env!("CARGO_BIN_EXE_conjoin"));
    command.arg("run").arg(group.path().join("pipeline.yaml")).args(["--set", "group_mode.instance=a"]);
    command.current_dir(group.path()).env("RUST_LOG", "info");
    let mut server = Server::start(command);
    feed.until_commits(&mut group);
    wait_for("it to be ready", || (server.ask("GET", "/readyz", "").0 == 200).then_some(()));
    let user = (0..)
        .map(|n| format!("main:{n}"))
        .find(|user| Partitioner::Murmur2.partition(user.as_bytes(), 4) as i32 != WRONG);
    let click = json!({ "event_id": "astray", "kind": "click", "req": "r", "item": "i", "uid": user.unwrap(),
        "at": crate::end_to_end::START });
    let payload = Some(click.to_string().into_bytes());
    let astray = Record { topic: CLICKS, partition: WRONG, payload, arrival: 0, poison: None, rows: 1, filtered: 0 };
    let offset = group.setup.produce(&[astray])[0];
    let reason = feed.until(&mut group, "a word about it", |_| {
        let (status, answer) = server.ask("GET", "/readyz", "");
        (status == 503 && answer.contains("cell 2")).then_some(answer)
    });
    says(&reason, &["cell 2", &group.setup.topics[CLICKS], "partition 2", "murmur2", "conjoin repartition"]);
    let before = group.heads();
    feed.until(&mut group, "the other cells to go on", |group| {
        let further = |(old, now): (&Head, &Head)| now.cell == WRONG as u32 || now.cut >= old.cut + 3;
        before.iter().zip(&group.heads()).all(further).then_some(())
    });
    let inputs = group.manifest(WRONG as u32)["inputs"].clone();
    let clicks = inputs.as_array().unwrap().iter().find(|input| input["name"] == group.setup.topics[CLICKS].as_str());
    let next = clicks.unwrap_or_else(|| panic!("{inputs}"))["next"]["2"].as_i64().unwrap();
    assert!(next <= offset, "committed up to {next}, past the record at {offset}");
    assert_eq!(server.stop(), 0);
}
