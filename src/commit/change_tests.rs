//! What each change of a definition means for the state, one at a time and in random sequences.

use super::*;
use crate::commit::chain::tests::manifest_for_test;
use crate::commit::manifest::TrackEntry;
use crate::event::{AnchorAccount, BlockClass, BlockKind, StreamAccount};
use proptest::prelude::*;

const BUCKET: DurationMs = 1_000;
const NEWEST: EventTime = 61_234;
const WATERMARK: EventTime = 56_234;

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| name.to_string()).collect()
}

fn resets(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|name| name.to_string()).collect()
}

/// Two streams, a group on clicks, a sample of impressions with clicks.
fn definition() -> Definition {
    let nodes = ["streams.shown", "streams.clicks", "features.user", "derived.user"];
    let sample = ["joins.ctr", "samples.ctr", "columns.ctr", "negatives.ctr"];
    Definition {
        semantics: nodes.iter().chain(&sample).map(|node| (node.to_string(), "1".into())).collect(),
        streams: names(&["shown", "clicks"]),
        samples: vec![sample_shape("ctr", &["user"])],
        groups: vec![group_shape("user")],
        outlets: names(&["samples.ctr"]).into_iter().collect(),
    }
}

fn sample_shape(name: &str, groups: &[&str]) -> SampleShape {
    let streams = names(&["shown", "clicks"]);
    SampleShape { name: name.into(), streams, groups: names(groups), bucket_ms: BUCKET, before_ms: 2_000 }
}

fn group_shape(name: &str) -> GroupShape {
    GroupShape { name: name.into(), streams: names(&["clicks"]) }
}

/// The manifest of a chain that was born with the definition and has read something.
fn last(definition: &Definition) -> Manifest {
    let mut last = manifest_for_test(7, 3);
    last.semantics = definition.semantics.clone();
    last.layout = first_layout(definition, 128);
    read_on(&mut last, NEWEST, WATERMARK);
    last.counts.samples[0].anchor.pending = 4;
    last.counts.samples[0].anchor.emitted -= 4;
    last.counts.samples[0].labels[0].waiting = 2;
    last.counts.samples[0].labels[0].attached -= 2;
    last.counts.groups[0].entities = 9;
    last.needed_from = vec![(class(BlockKind::Labels, 0), 5), (class(BlockKind::Tiles, 1), 6)];
    last
}

/// Reads ten rows of each stream, all of which every node applies.
fn read_on(manifest: &mut Manifest, newest: EventTime, watermark: EventTime) {
    manifest.cut += 1;
    manifest.watermark = watermark;
    let streams: Vec<String> = manifest.layout.streams.iter().map(|stream| stream.name.clone()).collect();
    let track = |stream: &String| TrackEntry { stream: stream.clone(), input: "i".into(), partition: 0, newest };
    manifest.tracks = streams.iter().map(track).collect();
    for stream in streams {
        let account = StreamAccount { records: 11, consumed: 11, accepted: 10, dead_lettered: 1, ..Default::default() };
        *manifest.streams.entry(stream).or_default() += account;
        manifest.totals.dead_letter_rows += 1;
    }
    manifest.counts.samples.resize(manifest.layout.samples.len(), SampleCounts::default());
    manifest.counts.groups.resize(manifest.layout.groups.len(), GroupCounts::default());
    for (counts, node) in manifest.counts.samples.iter_mut().zip(&manifest.layout.samples) {
        counts.labels.resize(node.base.len() - 1, LabelAccount::default());
        counts.anchor += AnchorAccount { applied: 10, emitted: 10, ..Default::default() };
        for label in &mut counts.labels {
            *label += LabelAccount { applied: 10, attached: 10, ..Default::default() };
        }
    }
    for (counts, node) in manifest.counts.groups.iter_mut().zip(&manifest.layout.groups) {
        counts.uses.resize(node.base.len(), Default::default());
        counts.uses.iter_mut().for_each(|account| account.applied += 10);
    }
}

fn class(kind: BlockKind, node: u16) -> BlockClass {
    BlockClass { kind, node, part: 0 }
}

fn changed(node: &str) -> Definition {
    let mut definition = definition();
    *definition.semantics.get_mut(node).expect("a node") = "2".into();
    definition
}

fn accepted(new: &Definition, given: &[&str]) -> Accepted {
    decide(&last(&definition()), new, &resets(given)).unwrap_or_else(|refusal| panic!("{refusal}"))
}

fn refused(new: &Definition) -> String {
    decide(&last(&definition()), new, &resets(&[])).expect_err("it is refused").to_string()
}

#[test]
fn what_is_not_changed_goes_on_as_it_is() {
    let last = last(&definition());
    assert_eq!(decide(&last, &definition(), &resets(&[])), Ok(Accepted { next: last.clone(), notes: Vec::new() }));
}

#[test]
fn a_changed_definition_is_refused_by_name_with_what_a_reset_would_lose() {
    for (node, told) in [
        ("streams.clicks", "streams.clicks is different (--reset streams.clicks forgets 4 pending impressions and 2"),
        ("joins.ctr", "joins.ctr is different (--reset joins.ctr forgets 4 pending impressions and 2 waiting labels)"),
        ("samples.ctr", "samples.ctr is different in its serving_lag (--reset samples.ctr forgets 4 pending"),
        ("features.user", "features.user is different (--reset features.user forgets the state of 9 entities)"),
    ] {
        let text = refused(&changed(node));
        assert!(text.contains(told) && text.contains("--fresh"), "{text}");
    }
    let mut both = changed("joins.ctr");
    both.semantics.insert("features.user".into(), "2".into());
    let text = refused(&both);
    assert!(text.contains("joins.ctr") && text.contains("features.user"), "all at once: {text}");
}

#[test]
fn a_new_group_begins_one_past_what_was_read_and_disturbs_nobody() {
    let mut new = definition();
    new.groups.insert(0, group_shape("early"));
    new.samples[0].groups.insert(0, "early".into());
    new.semantics.insert("features.early".into(), "1".into());
    new.semantics.insert("columns.ctr".into(), "2".into());
    let (before, Accepted { next, notes }) = (last(&definition()), accepted(&new, &[]));
    let begun = GroupNode { name: "early".into(), number: 2, cut: before.cut, since: NEWEST + 1, base: vec![10] };
    assert_eq!(next.layout.groups, [begun, before.layout.groups[0].clone()]);
    assert_eq!(next.counts.groups[1], before.counts.groups[0]);
    assert_eq!(next.counts.samples, before.counts.samples);
    let sample = &next.layout.samples[0];
    assert_eq!(sample.groups, BTreeMap::from([("early".into(), NEWEST + 1), ("user".into(), EventTime::MIN)]));
    assert_eq!((sample.number, sample.rows_since), (0, NEWEST + 1));
    assert!(notes.iter().any(|note| note.contains("features.early is new")), "{notes:?}");
}

#[test]
fn new_columns_are_taken_and_negatives_when_all_that_closed_is_in_files() {
    let next = accepted(&changed("columns.ctr"), &[]).next;
    assert_eq!((next.layout.samples[0].number, next.layout.samples[0].rows_since), (0, NEWEST + 1));
    let new = changed("negatives.ctr");
    assert_eq!(accepted(&new, &[]).next.counts, last(&definition()).counts);
    let mut unfiled = last(&definition());
    unfiled.counts.samples[0].closed_through = Some(8);
    let text = decide(&unfiled, &new, &resets(&[])).unwrap_err().to_string();
    assert!(text.contains("samples.ctr is different in its negatives") && text.contains("stop in order"), "{text}");
}

#[test]
fn a_new_sample_begins_with_the_first_whole_bucket_whose_labels_are_all_to_come() {
    let mut new = definition();
    new.samples.insert(0, sample_shape("more", &["user"]));
    new.semantics.insert("joins.more".into(), "1".into());
    let next = accepted(&new, &[]).next;
    let sample = &next.layout.samples[0];
    assert_eq!((sample.number, sample.since, &sample.base), (2, NEWEST + 1, &vec![10, 10]));
    // 61,235 and 2 s for labels that come before their impression: the bucket of 63 s has begun by then.
    assert_eq!((sample.rows_since, next.counts.samples[0].closed_through), (64_000, Some(63)));
    assert_eq!(next.counts.samples[0].filed_through, Some(63));
    assert_eq!(next.counts.samples[1], last(&definition()).counts.samples[0]);
}

#[test]
fn what_is_reset_begins_anew_under_another_number_and_the_rest_goes_on() {
    let before = last(&definition());
    let Accepted { next, notes } = accepted(&changed("joins.ctr"), &["joins.ctr"]);
    assert_eq!((next.layout.samples[0].number, next.counts.samples[0].anchor), (2, AnchorAccount::default()));
    assert_eq!(next.layout.samples[0].base, [10, 10]);
    assert_eq!(next.layout.groups, before.layout.groups);
    assert_eq!(next.needed_from, [(class(BlockKind::Tiles, 1), 6)]);
    assert!(notes[0].contains("forgets 4 pending impressions and 2 waiting labels"), "{notes:?}");

    let next = accepted(&changed("features.user"), &["features.user"]).next;
    assert_eq!((next.layout.groups[0].number, next.layout.groups[0].cut), (2, before.cut));
    assert_eq!((next.layout.samples[0].number, next.layout.samples[0].rows_since), (0, NEWEST + 1));

    let next = accepted(&changed("streams.clicks"), &["streams.clicks"]).next;
    assert_eq!((next.layout.groups[0].number, next.layout.samples[0].number), (2, 3), "all that is made of clicks");
    assert_eq!(next.streams, before.streams, "rows are counted on");
    let text = decide(&before, &definition(), &resets(&["features.nobody"])).unwrap_err().to_string();
    assert!(text.contains("--reset features.nobody") && text.contains("features.user"), "{text}");
}

#[test]
fn what_is_removed_takes_its_state_along_and_pending_rows_only_if_that_is_said() {
    let mut new = definition();
    new.groups.clear();
    new.samples[0].groups.clear();
    new.semantics.retain(|node, _| !node.ends_with(".user"));
    new.semantics.insert("columns.ctr".into(), "2".into());
    let Accepted { next, notes } = accepted(&new, &[]);
    assert_eq!((next.layout.groups.len(), next.counts.groups.len()), (0, 0));
    assert!(notes.iter().any(|note| note == "features.user is gone: the state of 9 entities is dropped"), "{notes:?}");

    let mut new = definition();
    new.samples.clear();
    new.semantics.retain(|node, _| !node.ends_with(".ctr"));
    let text = refused(&new);
    assert!(text.contains("samples.ctr is gone (--reset samples.ctr forgets 4 pending impressions"), "{text}");
    assert_eq!(accepted(&new, &["samples.ctr"]).next.layout.samples, []);
    let mut idle = last(&definition());
    idle.counts.samples[0].anchor.pending = 0;
    assert!(decide(&idle, &new, &resets(&[])).is_ok());
}

#[test]
fn a_stream_that_is_gone_leaves_its_dead_letters_in_the_books() {
    let mut new = definition();
    (new.streams, new.groups) = (names(&["shown"]), Vec::new());
    new.samples[0] = SampleShape { streams: names(&["shown"]), groups: Vec::new(), ..new.samples[0].clone() };
    new.semantics.retain(|node, _| !node.ends_with(".user") && node != "streams.clicks");
    new.semantics.insert("joins.ctr".into(), "2".into());
    let next = accepted(&new, &["joins.ctr"]).next;
    assert_eq!((next.dead_letters_gone, next.streams.len(), next.tracks.len()), (1, 1, 1));
}

#[test]
fn a_state_that_has_read_nothing_takes_new_nodes_as_if_it_were_born_with_them() {
    let mut born = manifest_for_test(0, 1);
    (born.semantics, born.layout) = (definition().semantics, first_layout(&definition(), 128));
    let mut new = definition();
    new.groups.push(group_shape("more"));
    new.samples.push(sample_shape("more", &["more"]));
    let next = decide(&born, &new, &resets(&[])).unwrap().next;
    assert_eq!((next.layout.groups[1].since, next.layout.samples[1].rows_since), (EventTime::MIN, EventTime::MIN));
    assert_eq!(next.counts.samples[1].closed_through, None);
}

/// One of the things that people do to a file, with the resets that it takes.
fn edit(definition: &mut Definition, kind: u8, which: usize) -> BTreeSet<String> {
    let name = format!("n{which}");
    let has_group = definition.groups.iter().any(|group| group.name == name);
    let has_sample = definition.samples.iter().any(|sample| sample.name == name);
    let mut hash = |node: &str| {
        let next = definition.semantics.get(node).map_or(1, |old| old.parse::<u32>().unwrap_or(0) + 1);
        definition.semantics.insert(node.into(), next.to_string());
    };
    match kind {
        0 if !has_group => {
            hash(&format!("features.{name}"));
            definition.groups.push(group_shape(&name));
        }
        1 if has_group => {
            definition.groups.retain(|group| group.name != name);
            definition.samples.iter_mut().for_each(|sample| sample.groups.retain(|group| *group != name));
            definition.semantics.remove(&format!("features.{name}"));
        }
        2 if has_group => {
            hash(&format!("features.{name}"));
            return resets(&[&format!("features.{name}")]);
        }
        3 if !has_sample => {
            let groups: Vec<&str> = definition.groups.iter().map(|group| group.name.as_str()).collect();
            definition.samples.push(sample_shape(&name, &groups));
            hash(&format!("joins.{name}"));
            hash(&format!("samples.{name}"));
        }
        4 if has_sample => {
            definition.samples.retain(|sample| sample.name != name);
            definition.semantics.remove(&format!("joins.{name}"));
            definition.semantics.remove(&format!("samples.{name}"));
        }
        5 if has_sample => {
            hash(&format!("joins.{name}"));
            return resets(&[&format!("joins.{name}")]);
        }
        6 => {
            hash("streams.clicks");
            return resets(&["streams.clicks"]);
        }
        7 => {
            definition.groups.reverse();
            definition.samples.reverse();
            definition.streams.reverse();
        }
        _ => {}
    }
    BTreeSet::new()
}

proptest! {
    /// Whatever is changed in whatever order: books add up at every claim, a number means one thing for ever, nodes that
    /// were not touched keep theirs, and nothing that differs is accepted without its reset.
    #[test]
    fn f1_random_changes_keep_the_books_and_never_give_a_number_twice(
        edits in prop::collection::vec((0_u8..8, 0_usize..4), 1..40)
    ) {
        let mut current = definition();
        let mut manifest = last(&current);
        let mut meant: BTreeMap<u16, String> = BTreeMap::new();
        for (step, (kind, which)) in edits.into_iter().enumerate() {
            let mut new = current.clone();
            let given = edit(&mut new, kind, which);
            if !given.is_empty() {
                prop_assert!(decide(&manifest, &new, &resets(&[])).is_err(), "{given:?} is needed");
            }
            let next = decide(&manifest, &new, &given).unwrap().next;
            prop_assert_eq!(decide(&next, &new, &resets(&[])).unwrap(), Accepted { next: next.clone(), notes: vec![] });
            for old in &manifest.layout.groups {
                let kept = next.layout.groups.iter().find(|group| group.name == old.name);
                let touched = given.contains(&format!("features.{}", old.name)) || given.contains("streams.clicks");
                prop_assert!(kept.is_none_or(|kept| touched != (kept.number == old.number)));
            }
            manifest = next;
            current = new;
            let samples = manifest.layout.samples.iter().map(|sample| (sample.number, sample.name.clone(), sample.since));
            let groups = manifest.layout.groups.iter().map(|group| (group.number, group.name.clone(), group.since));
            for (number, name, since) in samples.chain(groups) {
                let life = format!("{name} since {since}");
                prop_assert_eq!(meant.entry(number).or_insert(life.clone()), &life);
            }
            read_on(&mut manifest, NEWEST + 1_000 * step as i64, WATERMARK + 1_000 * step as i64);
            let accepted = |stream: &str| manifest.streams[stream].accepted;
            for (counts, node) in manifest.counts.samples.iter().zip(&manifest.layout.samples) {
                prop_assert!(counts.anchor.balances());
                prop_assert_eq!(counts.anchor.accepted() + node.base[0], accepted("shown"));
                prop_assert_eq!(counts.labels[0].accepted() + node.base[1], accepted("clicks"));
            }
            for (counts, node) in manifest.counts.groups.iter().zip(&manifest.layout.groups) {
                prop_assert_eq!(counts.uses[0].accepted() + node.base[0], accepted("clicks"));
            }
        }
    }
}

#[test]
fn rows_that_wait_for_their_topic_leave_by_going_there_or_by_a_reset() {
    let definition = definition();
    let mut last = last(&definition);
    let mark = OutboxMark { node: 0, part: 0, kafka_through: 3, committed: 9, sent: 4 };
    last.outbox.insert("samples.ctr".into(), mark);
    let accepted = decide(&last, &definition, &resets(&[])).unwrap();
    assert_eq!(accepted.next.outbox, last.outbox, "what goes on keeps its cursor");
    // The topic is gone from the file.
    let without = Definition { outlets: BTreeSet::new(), ..definition.clone() };
    let refused = decide(&last, &without, &resets(&[])).unwrap_err().to_string();
    assert!(refused.contains("samples.ctr has 5 rows that are not in its topic yet"), "{refused}");
    let reset = decide(&last, &without, &resets(&["samples.ctr"])).unwrap();
    assert_eq!(reset.next.outbox, BTreeMap::new());
    assert!(reset.notes.iter().any(|note| note.contains("5 rows that are not in its topic yet are forgotten")));
    // A reset sample begins a sequence of its own.
    let reset = decide(&last, &definition, &resets(&["joins.ctr"])).unwrap();
    assert_eq!(reset.next.outbox, BTreeMap::new());
    // With nothing waiting the topic may go.
    last.outbox.insert("samples.ctr".into(), OutboxMark { sent: 9, ..mark });
    assert_eq!(decide(&last, &without, &resets(&[])).unwrap().next.outbox, BTreeMap::new());
}
