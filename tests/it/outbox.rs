//! Outbox: committed rows go to a real Kafka, in JSON and in Avro; processes and brokers die, and a reader that follows
//! docs/OUTPUTS.md has every row once.

use crate::cli::finish;
use crate::end_to_end::{PlainReader, short_worlds};
use crate::group::{GROUP_TIMES, Group, PARTITIONS};
use crate::kill::{IMPRESSIONS, Log, SLOWLY, copy, scratch};
use crate::support::binary::{Conjoin, rows, wait_for};
use crate::support::cluster::Cluster;
use crate::support::env;
use crate::support::kafka::{KafkaProducer, brokers};
use crate::support::sent::Outbox;
use conjoin::env::failpoint::Failpoint;
use serde_json::Value as Json;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

/// Has the samples of a pipeline written to a topic, too.
fn send(folder: &Path, kafka: &str) {
    edit(folder, |text| text.replace("write: { parquet:", &format!("write: {{ kafka: {kafka}, parquet:")));
}

fn edit(folder: &Path, change: impl FnOnce(String) -> String) {
    let path = folder.join("pipeline.yaml");
    let before = fs::read_to_string(&path).unwrap();
    let after = change(before.clone());
    assert_ne!(before, after, "the pipeline is not what this test expects");
    fs::write(path, after).unwrap();
}

fn to(outbox: &Outbox, format: &str) -> String {
    format!("{{ connection: main, topic: {}, format: {format} }}", outbox.topic)
}

/// The rows of all files, as JSON has them.
fn filed(folder: &Path) -> Vec<String> {
    let mut rows: Vec<String> =
        rows(&folder.join("samples")).into_iter().map(|row| Json::from_iter(row).to_string()).collect();
    rows.sort();
    rows
}

fn inspect(folder: &Path) -> Json {
    let (code, output, errors) = finish(folder, &["inspect", "pipeline.yaml", "--json"]);
    assert_eq!(code, 0, "{errors}{output}");
    serde_json::from_str(&output).unwrap()
}

fn waiting(folder: &Path) -> u64 {
    inspect(folder)["outbox"][0]["waiting"].as_u64().unwrap()
}

fn end(folder: &Path, name: &str) -> Json {
    Conjoin::run(folder, name, &["--until-end", "--close", "--json"]).summary()
}

#[test]
fn every_committed_sample_is_in_the_topic_under_its_impressions_id_and_the_cursor_is_committed() {
    let (log, folder) = (Log::new(), scratch());
    let outbox = Outbox::new(&log.kafka, "samples", 3);
    log.write_pipeline(folder.path());
    send(folder.path(), &to(&outbox, "json"));
    log.produce(0, IMPRESSIONS);
    let run = Conjoin::run_with(folder.path(), "run", &["--until-end", "--close", "--json"], SLOWLY);
    run.summary();
    let expected = filed(folder.path());
    assert_eq!(expected.len() as i64, IMPRESSIONS);
    let sent = outbox.sent();
    assert_eq!(sent.len() as i64, IMPRESSIONS, "a run without faults sends nothing twice");
    assert!(sent.iter().all(|sent| sent.json()["id"] == sent.key.as_str()));
    assert_eq!(outbox.rows(), expected);
    let view = &inspect(folder.path())["outbox"][0];
    assert_eq!(view["outlet"], "samples.ctr");
    assert_eq!(
        (view["committed"].as_i64(), view["sent"].as_i64(), view["waiting"].as_i64()),
        (Some(IMPRESSIONS), Some(IMPRESSIONS), Some(0))
    );
    let last = sent.iter().map(|sent| sent.commit).max().unwrap();
    assert!(view["kafka_through"].as_u64() >= Some(last), "{view}, the last commit with rows is {last}");
    let (_, told, _) = finish(folder.path(), &["inspect", "pipeline.yaml"]);
    assert!(told.contains("rows on their way to topics\n"), "{told}");
    // A second run over the same log has nothing to send.
    end(folder.path(), "again");
    assert_eq!(outbox.sent().len() as i64, IMPRESSIONS);
}

#[test]
fn f7_killed_around_every_step_of_the_outbox_no_row_is_lost_and_what_is_sent_again_is_the_same_row() {
    let (log, template) = (Log::new(), scratch());
    log.write_pipeline(template.path());
    log.produce(0, IMPRESSIONS);
    end(template.path(), "reference");
    let expected = filed(template.path());
    let names = [Failpoint::OutboxSend, Failpoint::OutboxSent, Failpoint::ManifestCreate, Failpoint::StateWrite];
    let names = names.into_iter().chain([Failpoint::PublishRename, Failpoint::Restore]).map(Failpoint::name);
    let stories = names.flat_map(|name| ["before", "after"].map(|moment| format!("{name}:{moment}")));
    let mut again = 0;
    for (number, story) in stories.enumerate() {
        let folder = scratch();
        let outbox = Outbox::new(&log.kafka, "storm", 3);
        log.write_pipeline(folder.path());
        send(folder.path(), &to(&outbox, "json"));
        let until_end = ["--until-end", "--close", "--json"];
        // Several deaths on one way; the number of lanes changes between them.
        for (death, time) in [2, 1, 4].into_iter().enumerate() {
            // On a busy machine several commits are sent at once: a fourth time may never come.
            let time = match &story[..] {
                story if story.starts_with("restore") => 1,
                story if story.starts_with("outbox") => time.min(2),
                _ => time,
            };
            let trap = format!("{story}:{time}:kill,{SLOWLY}");
            let lanes = format!("state.lanes={}", 1 + (number + death) % 3);
            let arguments = [&until_end[..], &["--set", &lanes]].concat();
            let killed = Conjoin::run_with(folder.path(), &format!("killed-{death}"), &arguments, &trap).wait();
            assert_eq!(killed.signal(), Some(libc::SIGKILL), "{story}:{time} was never there");
        }
        end(folder.path(), "last");
        assert_eq!(filed(folder.path()), expected, "{story}");
        assert_eq!(outbox.rows(), expected, "{story}");
        assert_eq!(waiting(folder.path()), 0, "{story}");
        again += outbox.sent().len() - expected.len();
    }
    println!("{again} rows were sent again");
    assert!(again > 0, "no story sent anything twice: they do not show what they are for");
}

#[test]
fn fault_46_brokers_of_the_topic_that_are_away_hold_up_no_commit_and_get_every_row_when_they_are_back() {
    let mut cluster = Cluster::start(1);
    let far = KafkaProducer::with(&cluster.addresses(), &[]);
    cluster.wait_until_up(&far);
    let outbox = Outbox::at(&cluster.addresses(), &far, "away", 2);
    let (log, folder) = (Log::new(), scratch());
    log.write_pipeline(folder.path());
    let connection = format!("connections:\n  far: {{ kafka: {{ brokers: \"{}\" }} }}", cluster.addresses());
    edit(folder.path(), |text| text.replace("connections:", &connection));
    send(folder.path(), &format!("{{ connection: far, topic: {}, format: json }}", outbox.topic));
    log.produce(0, IMPRESSIONS / 3);
    let run = Conjoin::run(folder.path(), "run", &["--json"]);
    wait_for("rows in the topic", || (waiting_or_none(folder.path())? == 0 && sent(folder.path())? > 0).then_some(()));
    cluster.kill(1);
    let (before, filed_before) = (sent(folder.path()).unwrap(), filed(folder.path()).len());
    log.produce(IMPRESSIONS / 3, IMPRESSIONS);
    wait_for("rows that wait", || (waiting_or_none(folder.path())? > IMPRESSIONS as u64 / 3).then_some(()));
    wait_for("files meanwhile", || (filed(folder.path()).len() > filed_before + 100).then_some(()));
    wait_for("it to be told", || run.errors().contains("samples.ctr is not ready").then_some(()));
    assert_eq!(sent(folder.path()), Some(before));
    // Also a process that starts while they are away goes on; and one that is to end does not wait for them for ever.
    run.terminate();
    run.summary();
    let run = Conjoin::run(folder.path(), "second", &["--json"]);
    wait_for("it to be told again", || run.errors().contains("samples.ctr is not ready").then_some(()));
    // What waits is safe, and so is refused to be forgotten, or to be dealt out to other cells.
    let (_, _, errors) = finish(folder.path(), &["rescale", "pipeline.yaml"]);
    assert!(errors.contains("rows of samples.ctr are committed and not in their topic yet"), "{errors}");
    cluster.revive(1);
    wait_for("all rows to be sent", || (waiting_or_none(folder.path())? == 0).then_some(()));
    run.terminate();
    run.summary();
    end(folder.path(), "end");
    assert_eq!(outbox.rows(), filed(folder.path()));
    assert_eq!(outbox.taken().len() as i64, IMPRESSIONS);
}

/// `None` while there is no manifest yet, or it is forgotten between the listing and the look.
fn waiting_or_none(folder: &Path) -> Option<u64> {
    let (_, output, _) = finish(folder, &["inspect", "pipeline.yaml", "--json"]);
    serde_json::from_str::<Json>(&output).ok()?["outbox"][0]["waiting"].as_u64()
}

fn sent(folder: &Path) -> Option<u64> {
    let (_, output, _) = finish(folder, &["inspect", "pipeline.yaml", "--json"]);
    serde_json::from_str::<Json>(&output).ok()?["outbox"][0]["sent"].as_u64()
}

#[test]
fn avro_rows_are_read_by_the_schema_that_was_registered_and_a_topic_alone_keeps_no_rows_in_state() {
    let (log, folder) = (Log::new(), scratch());
    let outbox = Outbox::new(&log.kafka, "avro", 2);
    log.write_pipeline(folder.path());
    log.produce(0, IMPRESSIONS);
    end(folder.path(), "files");
    let expected = filed(folder.path());
    let other = scratch();
    log.write_pipeline(other.path());
    let registry = env("REGISTRY_URL");
    edit(other.path(), |text| {
        let connections = format!("connections:\n  schemas: {{ schema_registry: {{ url: \"{registry}\" }} }}");
        let text = text.replace("connections:", &connections);
        let from = text.find("write: {").unwrap();
        let to = text[from..].find('\n').unwrap() + from;
        let write = format!(
            "write: {{ kafka: {{ connection: main, topic: {}, format: avro, registry: schemas }} }}",
            outbox.topic
        );
        format!("{}{write}{}", &text[..from], &text[to..])
    });
    end(other.path(), "topic");
    let subject = format!("{registry}/subjects/{}-value/versions/1", outbox.topic);
    let registered: Json = ureq::get(&subject).call().unwrap().body_mut().read_json().unwrap();
    let schema = apache_avro::Schema::parse_str(registered["schema"].as_str().unwrap()).unwrap();
    let reader = apache_avro::reader::datum::GenericDatumReader::builder(&schema).build().unwrap();
    let mut found = Vec::new();
    for sent in outbox.taken() {
        assert_eq!(sent.payload[0], 0);
        let id = u32::from_be_bytes(sent.payload[1..5].try_into().unwrap());
        assert_eq!(Json::from(id), registered["id"]);
        let mut rest = &sent.payload[5..];
        let value = reader.read_value(&mut rest).unwrap();
        assert!(rest.is_empty());
        found.push(Json::try_from(value).unwrap().to_string());
    }
    found.sort();
    assert_eq!(found, expected);
    let view = inspect(other.path());
    let classes = view["objects"]["classes"].as_array().unwrap();
    let needed = |class: &Json| class["needed_bytes"].as_u64().unwrap();
    let rows = classes.iter().filter(|class| class["class"] == "impression_rows" || class["class"] == "outbox");
    // What the end of the inputs closed is let go of up to where the slowest lane had come: all but the last few buckets.
    let mut rows = rows.map(|class| (class["bytes"].as_u64().unwrap(), needed(class)));
    assert!(rows.all(|(all, needed)| needed * 100 <= all), "{classes:?}");
}

#[test]
fn rows_that_wait_for_their_topic_are_not_forgotten_by_a_change_of_the_pipeline_file() {
    let (log, folder) = (Log::new(), scratch());
    let outbox = Outbox::new(&log.kafka, "change", 1);
    log.write_pipeline(folder.path());
    let without = fs::read_to_string(folder.path().join("pipeline.yaml")).unwrap();
    send(folder.path(), &to(&outbox, "json"));
    let with = fs::read_to_string(folder.path().join("pipeline.yaml")).unwrap();
    log.produce(0, IMPRESSIONS);
    let trap = format!("outbox-send:before:1:kill,{SLOWLY}");
    let until_end = ["--until-end", "--close", "--json"];
    let killed = Conjoin::run_with(folder.path(), "killed", &until_end, &trap).wait();
    assert_eq!(killed.signal(), Some(libc::SIGKILL));
    assert!(waiting(folder.path()) > 0);

    fs::write(folder.path().join("pipeline.yaml"), &without).unwrap();
    let refused = Conjoin::run(folder.path(), "refused", &until_end).failure();
    assert!(refused.contains("samples.ctr has ") && refused.contains("not in its topic yet"), "{refused}");
    // Columns may change: rows that were committed stay what they were.
    fs::write(
        folder.path().join("pipeline.yaml"),
        with.replace("take: count }", "take: count }\n    columns: { seen: \"true\" }"),
    )
    .unwrap();
    let before = folder.path().join("before");
    fs::create_dir(&before).unwrap();
    copy(&folder.path().join("state"), &before);
    end(folder.path(), "changed");
    let taken = outbox.taken();
    assert_eq!(taken.len() as i64, IMPRESSIONS);
    let old = taken.iter().filter(|sent| sent.json().get("seen").is_none()).count();
    assert!(old > 0 && old < taken.len(), "{old} of {}", taken.len());
    // With nothing waiting the outlet may go.
    fs::write(folder.path().join("pipeline.yaml"), &without).unwrap();
    end(folder.path(), "gone");
}

#[test]
fn plain_avro_is_read_by_the_schema_that_is_printed() {
    let (log, folder) = (Log::new(), scratch());
    let outbox = Outbox::new(&log.kafka, "plain", 1);
    log.write_pipeline(folder.path());
    send(folder.path(), &to(&outbox, "avro"));
    log.produce(0, IMPRESSIONS / 3);
    end(folder.path(), "run");
    let (code, printed, errors) = finish(folder.path(), &["schema", "pipeline.yaml", "--topic", &outbox.topic]);
    assert_eq!(code, 0, "{errors}");
    let schema = apache_avro::Schema::parse_str(&printed).unwrap();
    let reader = apache_avro::reader::datum::GenericDatumReader::builder(&schema).build().unwrap();
    let read = |payload: &[u8]| Json::try_from(reader.read_value(&mut &payload[..]).unwrap()).unwrap().to_string();
    let mut found: Vec<String> = outbox.taken().iter().map(|sent| read(&sent.payload)).collect();
    found.sort();
    assert_eq!(found, filed(folder.path()));
    let (code, _, errors) = finish(folder.path(), &["schema", "pipeline.yaml", "--topic", "other"]);
    assert!(code == 2 && errors.contains(&outbox.topic), "{errors}");
}

#[test]
fn cells_of_a_group_send_their_own_rows_while_processes_come_and_die() {
    let mut group = Group::with(PARTITIONS, short_worlds(), &GROUP_TIMES, &brokers());
    let outbox = Outbox::new(&group.setup.kafka, "group", 3);
    send(group.path(), &to(&outbox, "json"));
    let records = std::mem::take(&mut group.world.records);
    let mut runs = vec![group.start("a"), group.start("b")];
    for (number, chunk) in records.chunks(records.len() / 20).enumerate() {
        group.setup.produce(chunk);
        match number {
            2 => group.wait_for_commits(),
            8 => runs.remove(1).kill(),
            12 => runs.push(group.start("c")),
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(150));
    }
    group.finish(PlainReader::default(), runs);
    let taken = outbox.taken();
    // The reader of this test is off by the last bit of some fractions, on both sides alike.
    let read = |row: &String| serde_json::from_str::<Json>(row).unwrap().to_string();
    let mut expected: Vec<String> = filed(group.path()).iter().map(read).collect();
    expected.sort();
    assert!(outbox.rows() == expected, "{} rows in the topic, {} in files", taken.len(), expected.len());
    let chains: BTreeSet<&String> = taken.iter().map(|sent| &sent.chain).collect();
    assert_eq!(chains.len(), PARTITIONS as usize, "each cell has a sequence of its own");
}
