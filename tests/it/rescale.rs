//! Rescale: the state of the real binary on a real Kafka goes from one process to a group and back, and to more partitions.

use crate::end_to_end::{FIRST, SHORT, SHORT_TIMES, Setup, check_accounts, short_worlds};
use crate::group::{PARTITIONS, SESSION, place, stop};
use crate::support::binary::{Conjoin, output, rows, wait_for};
use crate::support::kafka::brokers;
use crate::support::oracle::Oracle;
use crate::support::world::{Record, World};
use serde_json::Value;
use std::process::Output;

const GROUP: [&str; 2] = ["--overlay", "group.yaml"];

/// A pipeline file for one process, an overlay for a group, and records that lie where their keys put them.
fn setup() -> (Setup, World) {
    let setup = Setup::even(SHORT, PARTITIONS);
    setup.write_pipeline(&brokers(), &SHORT_TIMES);
    let overlay = format!("group_mode: {{ instance: nobody, session_timeout: {SESSION} }}\nstate: {{ lanes: 1 }}\n");
    std::fs::write(setup.path().join("group.yaml"), overlay).unwrap();
    let mut world = short_worlds();
    world.records.iter_mut().for_each(|record| place(record, PARTITIONS));
    (setup, world)
}

fn conjoin(setup: &Setup, command: &str, args: &[&str]) -> Output {
    let mut whole: Vec<&str> = command.split(' ').chain(["pipeline.yaml"]).collect();
    whole.extend(args);
    output(&mut crate::cli::conjoin(setup.path(), &whole))
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The line of JSON of a command that must do well.
fn json(setup: &Setup, command: &str, args: &[&str]) -> Value {
    let output = conjoin(setup, command, &[args, &["--json"]].concat());
    assert!(output.status.success(), "{command} {args:?}: {}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(&output)))
}

fn member(setup: &Setup, name: &str) -> Conjoin {
    let instance = format!("group_mode.instance={name}");
    Conjoin::run(setup.path(), name, &[&GROUP[..], &["--set", &instance]].concat())
}

/// Waits until a group has read all that was produced, each cell with more than one commit.
fn wait_until_read(setup: &Setup) {
    wait_for("the group to read everything", || {
        let output = conjoin(setup, "inspect", &[&GROUP[..], &["--json"]].concat());
        let seen: Value = serde_json::from_slice(&output.stdout).ok()?;
        let cells = seen["cells"].as_array()?;
        let further = cells.iter().all(|cell| cell["chain"]["cut"].as_u64() > Some(1));
        (cells.len() == PARTITIONS as usize && further && setup.is_read(&seen["sum"]["inputs"])).then_some(())
    });
}

fn first_world(world: &World) -> (Vec<Record>, Vec<Record>) {
    let first = crate::support::world::world(&FIRST).records.len();
    let mut records = world.records.clone();
    let second = records.split_off(first);
    (records, second)
}

#[test]
fn one_process_becomes_a_group_and_one_process_again_and_nothing_is_lost_or_doubled() {
    let (mut setup, world) = setup();
    let oracle = Oracle::new(&world, SHORT);
    let (mut first, second) = first_world(&world);
    let rest = first.split_off(first.len() / 3);

    setup.produce(&first);
    let before = Conjoin::run(setup.path(), "alone", &["--until-end", "--json"]).summary();
    let pending = before["counts"]["samples"][0]["anchor"]["pending"].as_u64().unwrap();
    assert!(pending > 0, "{before}");
    let would = json(&setup, "rescale", &[&GROUP[..], &["--dry-run"]].concat());
    assert_eq!([&would["generation"], &would["to"]["cells"], &would["pending"]], [1, PARTITIONS as u64, pending]);
    let early = conjoin(&setup, "run", &[&GROUP[..], &["--set", "group_mode.instance=early"]].concat());
    assert!(said(&early).contains("conjoin rescale"), "a group took the state of one process: {}", said(&early));
    let there = json(&setup, "rescale", &GROUP);
    assert_eq!([&there["pending"], &there["from"]["cells"]], [&would["pending"], &Value::Null]);
    let late = conjoin(&setup, "run", &["--until-end"]);
    assert!(!late.status.success() && said(&late).contains("group_mode"), "{}", said(&late));
    assert!(said(&conjoin(&setup, "rescale", &GROUP)).contains("nothing to do"));

    setup.produce(&rest);
    let (a, b) = (member(&setup, "a"), member(&setup, "b"));
    wait_until_read(&setup);
    let seen = said(&conjoin(&setup, "inspect", &GROUP));
    assert!(seen.contains("cells (4 of 4 have begun)") && seen.contains("every account adds up"), "{seen}");
    // One of them leaves what it had closed without a file.
    b.kill();
    stop(a);

    let back = json(&setup, "rescale", &[]);
    assert_eq!([&back["from"]["cells"], &back["to"]["cells"]], [&Value::from(PARTITIONS), &Value::Null]);
    setup.produce(&second);
    let summary = Conjoin::run(setup.path(), "alone-again", &["--until-end", "--close", "--json"]).summary();
    setup.check_samples(&oracle);
    check_accounts(&world, &oracle, &summary);
    setup.check_redis(&oracle, summary["online_instant"].as_i64().unwrap());
    let verified = conjoin(&setup, "verify", &[]);
    assert!(verified.status.success(), "{}", said(&verified));
    let letters = json(&setup, "dead-letters list", &[]);
    assert_eq!(letters["rows"], letters["committed_rows"], "{letters}");
}

#[test]
fn topics_that_grew_are_taken_over_once_they_are_read() {
    let (mut setup, world) = setup();
    let oracle = Oracle::new(&world, SHORT);
    let (mut first, mut second) = first_world(&world);
    let rest = first.split_off(first.len() / 2);
    setup.produce(&first);
    Conjoin::run(setup.path(), "alone", &["--until-end", "--json"]).summary();
    setup.produce(&rest);
    setup.grow_topics(PARTITIONS as usize + 2);
    let unread = conjoin(&setup, "rescale", &GROUP);
    assert!(
        !unread.status.success() && said(&unread).contains("records that lie in it from before"),
        "{}",
        said(&unread)
    );
    let alone = json(&setup, "rescale", &[]);
    assert_eq!([&alone["from"]["cells"], &alone["to"]["cells"]], [&Value::Null, &Value::Null], "{alone}");
    Conjoin::run(setup.path(), "grown", &["--until-end", "--json"]).summary();
    let cells = json(&setup, "rescale", &GROUP);
    assert_eq!(cells["to"]["cells"], PARTITIONS + 2);
    second.iter_mut().for_each(|record| place(record, PARTITIONS + 2));
    setup.produce(&second);
    let runs = [member(&setup, "a"), member(&setup, "b")];
    let all = world.impressions.len();
    wait_for("all windows to close", || (rows(&setup.path().join("samples")).len() >= all).then_some(()));
    runs.into_iter().for_each(stop);
    setup.check_samples(&oracle);
    let verified = conjoin(&setup, "verify", &GROUP);
    assert!(verified.status.success(), "{}", said(&verified));
}
