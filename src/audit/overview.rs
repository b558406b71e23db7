//! Overview: what the newest manifest says, with the names of the plan and the sums a person would check by hand.
//!
//! In: a plan and the store of its state. Out: an [`Overview`], whose JSON is a stable part of the interface.
//! Holds: everything comes from one manifest and the chain behind it, so its numbers belong to one instant (F1).
//! Does not: read a broker, or any row.

use crate::audit::{AuditError, own_chain};
use crate::commit::{Damage, Link, Manifest, ManifestKind, changed_nodes};
use crate::config::Plan;
use crate::env::Store;
use crate::event::{
    AnchorAccount, BlockClass, BlockKind, DurationMs, EventTime, FeatureAccount, LabelAccount, StreamAccount, Totals,
    file_and_offset,
};
use crate::pipeline::list_objects;
use crate::source::InputKind;
use serde::Serialize;
use std::collections::BTreeMap;

/// A cut that runs beside may drop the objects of the head that was read: then a newer one is there.
const LOOKS_MAX: usize = 3;

#[derive(Clone, Debug, Serialize)]
pub struct Overview {
    pub pipeline: String,
    pub state: String,
    pub chain: ChainView,
    /// Definitions that are not those the state was written with: a run would refuse the state.
    pub changed_definitions: Vec<String>,
    pub inputs: Vec<PositionView>,
    pub tracks: Vec<TrackView>,
    /// `null` before the first record.
    pub watermark: Option<EventTime>,
    pub online_instant: Option<EventTime>,
    pub streams: Vec<StreamView>,
    pub samples: Vec<SampleView>,
    pub features: Vec<GroupView>,
    pub objects: ObjectsView,
    pub files: FilesView,
    pub totals: Totals,
    /// Whether every account adds up.
    pub balanced: bool,
    /// What is not as it should be, in words.
    pub problems: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ChainView {
    pub id: String,
    pub born_at_ms: i64,
    pub head: u64,
    pub kind: ManifestKind,
    pub cut: u64,
    pub epoch: u64,
    pub writer: String,
    pub committed_at_ms: i64,
    pub age_ms: i64,
    pub lanes: usize,
    /// The oldest manifest that is kept, and the bytes of all.
    pub first_kept: u64,
    pub manifest_bytes: u64,
    /// Each start of a process, as far back as manifests are kept.
    pub claims: Vec<ClaimView>,
    pub damaged: Vec<Damage>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ClaimView {
    pub number: u64,
    pub epoch: u64,
    pub writer: String,
    pub at_ms: i64,
    pub age_ms: i64,
}

#[derive(Clone, Debug, Serialize)]
pub struct PositionView {
    pub input: String,
    /// `kafka`, `file`, `memory`, or `gone` when the plan does not name the input any more.
    pub kind: &'static str,
    pub partition: u32,
    /// The next record: an offset, or a packed place in a sequence of files.
    pub next: i64,
    /// For file inputs the file of `next` and the byte in it; `null` at the end of the last one.
    pub file: Option<String>,
    pub byte: Option<u64>,
    pub files: usize,
}

#[derive(Clone, Debug, Serialize)]
pub struct TrackView {
    pub stream: String,
    pub input: String,
    pub partition: u32,
    pub newest: Option<EventTime>,
    /// `newest` less the stream's lateness.
    pub watermark: Option<EventTime>,
}

#[derive(Clone, Debug, Serialize)]
pub struct StreamView {
    pub stream: String,
    pub account: StreamAccount,
    pub balances: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct SampleView {
    pub sample: String,
    pub stream: Option<String>,
    pub account: AnchorAccount,
    pub balances: bool,
    pub joins: Vec<JoinView>,
    /// Impressions before this time have closed, and lie in published files.
    pub closed_before: Option<EventTime>,
    pub filed_before: Option<EventTime>,
}

#[derive(Clone, Debug, Serialize)]
pub struct JoinView {
    pub join: String,
    pub stream: Option<String>,
    pub account: LabelAccount,
    pub balances: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct GroupView {
    pub group: String,
    pub entities: u64,
    pub tiles: u64,
    pub due: u64,
    pub uses: Vec<UseView>,
}

#[derive(Clone, Debug, Serialize)]
pub struct UseView {
    pub stream: Option<String>,
    pub account: FeatureAccount,
    pub balances: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct ObjectsView {
    pub objects: u64,
    pub bytes: u64,
    pub classes: Vec<ClassView>,
}

/// Blocks of one class, all together; objects hold some that are needed no more, until the whole object goes.
#[derive(Clone, Debug, Serialize)]
pub struct ClassView {
    pub class: BlockKind,
    /// The sample, the join of a sample (`ctr.click`), or the feature group.
    pub of: String,
    pub blocks: u64,
    pub rows: u64,
    pub bytes: u64,
    pub needed_bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct FilesView {
    /// Files that the kept manifests name, newest last.
    pub named: Vec<NamedFile>,
}

#[derive(Clone, Debug, Serialize)]
pub struct NamedFile {
    pub manifest: u64,
    pub sink: String,
    pub path: String,
    pub rows: u64,
    pub bytes: u64,
}

/// Looks at the state of a plan. `now_ms` is wall time, for ages alone.
pub fn overview(plan: &Plan, state: Option<&dyn Store>, now_ms: i64) -> Result<Overview, AuditError> {
    let mut looks = 0;
    loop {
        looks += 1;
        let survey = own_chain(plan, state)?;
        let (Some(head), Some(store)) = (survey.head(), state) else { unreachable!("own_chain() refuses both") };
        let objects = match objects_view(plan, store, &head.manifest) {
            // Damaged or dropped? A newer head tells.
            Err(_) if looks < LOOKS_MAX => continue,
            other => other?,
        };
        let mut overview = of_head(plan, &head.manifest, objects);
        overview.state = plan.state.path.to_string();
        overview.chain = chain_view(&survey.links, &head.manifest, survey.damaged.clone(), now_ms);
        let damaged = survey.damaged.iter().map(|damage| format!("manifest {}: {}", damage.path, damage.found));
        overview.problems.extend(damaged);
        overview.files.named = survey.links.iter().flat_map(named_files).collect();
        return Ok(overview);
    }
}

fn chain_view(links: &[Link], head: &Manifest, damaged: Vec<Damage>, now_ms: i64) -> ChainView {
    let claims = links.iter().map(|link| &link.manifest).filter(|manifest| manifest.kind == ManifestKind::Claim);
    ChainView {
        id: format!("{:08x}", head.chain),
        born_at_ms: head.born_at_ms,
        head: head.number,
        kind: head.kind,
        cut: head.cut,
        epoch: head.epoch,
        writer: head.writer.clone(),
        committed_at_ms: head.committed_at_ms,
        age_ms: now_ms - head.committed_at_ms,
        lanes: head.layout.lanes,
        first_kept: links.first().map_or(head.number, |link| link.manifest.number),
        manifest_bytes: links.iter().map(|link| link.bytes).sum(),
        claims: claims
            .map(|claim| ClaimView {
                number: claim.number,
                epoch: claim.epoch,
                writer: claim.writer.clone(),
                at_ms: claim.committed_at_ms,
                age_ms: now_ms - claim.committed_at_ms,
            })
            .collect(),
        damaged,
    }
}

fn named_files(link: &Link) -> Vec<NamedFile> {
    // A claim repeats the files of the manifest before it.
    let files = link.manifest.files.iter().filter(|_| link.manifest.kind == ManifestKind::Commit);
    let named = files.map(|entry| NamedFile {
        manifest: link.manifest.number,
        sink: entry.sink.clone(),
        path: entry.file.path.clone(),
        rows: entry.file.rows,
        bytes: entry.file.bytes,
    });
    named.collect()
}

fn of_head(plan: &Plan, head: &Manifest, objects: ObjectsView) -> Overview {
    let changed = changed_nodes(&head.semantics, &plan.semantics);
    let mut problems = Vec::new();
    if !changed.is_empty() {
        let nodes = changed.join(", ");
        problems.push(format!("the pipeline file is not the one that the state was written with ({nodes})"));
    }
    let streams: Vec<StreamView> = head
        .streams
        .iter()
        .map(|(name, account)| StreamView { stream: name.clone(), account: *account, balances: account.balances() })
        .collect();
    let samples: Vec<SampleView> = (0..head.counts.samples.len()).map(|at| sample_view(plan, head, at)).collect();
    let features: Vec<GroupView> = (0..head.counts.groups.len()).map(|at| group_view(plan, head, at)).collect();
    let mut unbalanced: Vec<String> = Vec::new();
    unbalanced.extend(streams.iter().filter(|view| !view.balances).map(|view| format!("stream {}", view.stream)));
    for view in &samples {
        unbalanced.extend((!view.balances).then(|| format!("sample {}", view.sample)));
        let joins = view.joins.iter().filter(|join| !join.balances);
        unbalanced.extend(joins.map(|join| format!("join {}.{}", view.sample, join.join)));
    }
    for view in &features {
        let uses = view.uses.iter().filter(|used| !used.balances);
        unbalanced.extend(uses.map(|used| format!("features {} from {}", view.group, name_or(&used.stream))));
    }
    let dead: u64 = head.streams.values().map(|account| account.dead_lettered).sum();
    if dead != head.totals.dead_letter_rows {
        let rows = head.totals.dead_letter_rows;
        unbalanced.push(format!("dead letters: {dead} rows were rejected, {rows} are in files"));
    }
    let balanced = unbalanced.is_empty();
    problems.extend(unbalanced.into_iter().map(|account| {
        format!("the account of {account} does not add up: this is a bug in conjoin, please report it with this output")
    }));
    Overview {
        pipeline: head.pipeline.clone(),
        state: String::new(),
        chain: chain_view(&[], head, Vec::new(), head.committed_at_ms),
        changed_definitions: changed,
        inputs: positions(plan, head),
        tracks: head.tracks.iter().map(|track| track_view(plan, track)).collect(),
        watermark: known(head.watermark),
        online_instant: head.online_instant,
        streams,
        samples,
        features,
        objects,
        files: FilesView { named: Vec::new() },
        totals: head.totals,
        balanced,
        problems,
    }
}

fn known(time: EventTime) -> Option<EventTime> {
    (time > EventTime::MIN && time < EventTime::MAX).then_some(time)
}

fn name_or(name: &Option<String>) -> &str {
    name.as_deref().unwrap_or("?")
}

fn positions(plan: &Plan, head: &Manifest) -> Vec<PositionView> {
    let mut views = Vec::new();
    for entry in &head.inputs {
        let kind = plan.inputs.iter().find(|input| input.name == entry.name).map_or("gone", |input| match input.kind {
            InputKind::Kafka(_) => "kafka",
            InputKind::File { .. } => "file",
            InputKind::Memory => "memory",
        });
        for (partition, next) in &entry.next {
            let (number, byte) = file_and_offset(*next);
            let file = entry.files.get(number as usize).cloned();
            views.push(PositionView {
                input: entry.name.clone(),
                kind,
                partition: *partition,
                next: *next,
                byte: file.is_some().then_some(byte),
                file,
                files: entry.files.len(),
            });
        }
    }
    views
}

fn track_view(plan: &Plan, track: &crate::commit::TrackEntry) -> TrackView {
    let stream = plan.streams.iter().find(|stream| stream.name == track.stream);
    let lateness: Option<DurationMs> = stream.map(|stream| stream.time.lateness_ms);
    TrackView {
        stream: track.stream.clone(),
        input: track.input.clone(),
        partition: track.partition,
        newest: known(track.newest),
        watermark: known(track.newest).zip(lateness).map(|(newest, lateness)| newest - lateness),
    }
}

fn sample_view(plan: &Plan, head: &Manifest, at: usize) -> SampleView {
    let counts = &head.counts.samples[at];
    let name = head.layout.samples.get(at).cloned().unwrap_or_else(|| at.to_string());
    let sample = plan.samples.iter().find(|sample| sample.sample.name == name);
    let stream = |number: u16| plan.streams.get(number as usize).map(|stream| stream.name.clone());
    let accepted = |stream: &Option<String>| head.streams.get(stream.as_ref()?).map(|account| account.accepted);
    let anchor = sample.and_then(|sample| stream(sample.join.anchor));
    let joins = counts.labels.iter().enumerate().map(|(number, account)| {
        let label = sample.and_then(|sample| sample.join.labels.get(number));
        let stream = label.and_then(|label| stream(label.stream));
        let whole = accepted(&stream).is_none_or(|rows| rows == account.accepted());
        JoinView {
            join: label.map_or_else(|| number.to_string(), |label| label.name.clone()),
            stream,
            account: *account,
            balances: whole && account.balances(),
        }
    });
    // With another definition buckets may have another width.
    let same = changed_nodes(&head.semantics, &plan.semantics).is_empty();
    let width = sample.filter(|_| same).map(|sample| sample.join.bucket_ms);
    let before = |through: Option<u32>| Some((i64::from(through?) + 1).saturating_mul(width?));
    let whole = accepted(&anchor).is_none_or(|rows| rows == counts.anchor.accepted());
    SampleView {
        joins: joins.collect(),
        sample: name,
        stream: anchor,
        account: counts.anchor,
        balances: whole && counts.anchor.balances(),
        closed_before: before(counts.closed_through),
        filed_before: before(counts.filed_through),
    }
}

fn group_view(plan: &Plan, head: &Manifest, at: usize) -> GroupView {
    let counts = &head.counts.groups[at];
    let name = head.layout.groups.get(at).cloned().unwrap_or_else(|| at.to_string());
    let group = plan.groups.iter().find(|group| group.name == name);
    let uses = counts.uses.iter().enumerate().map(|(number, account)| {
        let stream = group.and_then(|group| plan.streams.get(group.uses.get(number)?.stream as usize));
        let accepted = stream.and_then(|stream| head.streams.get(&stream.name)).map(|account| account.accepted);
        UseView {
            stream: stream.map(|stream| stream.name.clone()),
            account: *account,
            balances: accepted.is_none_or(|rows| rows == account.accepted()),
        }
    });
    GroupView { uses: uses.collect(), group: name, entities: counts.entities, tiles: counts.tiles, due: counts.due }
}

fn objects_view(plan: &Plan, store: &dyn Store, head: &Manifest) -> Result<ObjectsView, AuditError> {
    let needed_from: BTreeMap<BlockClass, i64> = head.needed_from.iter().copied().collect();
    let mut classes: BTreeMap<BlockClass, ClassView> = BTreeMap::new();
    let (mut count, mut bytes) = (0, 0);
    for (object, entries) in list_objects(store, head)? {
        count += 1;
        bytes += object.bytes;
        for entry in entries {
            let view = classes.entry(entry.class).or_insert_with(|| ClassView {
                class: entry.class.kind,
                of: class_owner(plan, head, entry.class),
                blocks: 0,
                rows: 0,
                bytes: 0,
                needed_bytes: 0,
            });
            view.blocks += 1;
            view.rows = view.rows.saturating_add(entry.rows);
            view.bytes = view.bytes.saturating_add(entry.bytes);
            if needed_from.get(&entry.class).is_none_or(|first| entry.bucket >= *first) {
                view.needed_bytes = view.needed_bytes.saturating_add(entry.bytes);
            }
        }
    }
    Ok(ObjectsView { objects: count, bytes, classes: classes.into_values().collect() })
}

fn class_owner(plan: &Plan, head: &Manifest, class: BlockClass) -> String {
    let node = class.node as usize;
    let of = |names: &[String]| names.get(node).cloned().unwrap_or_else(|| node.to_string());
    match class.kind {
        BlockKind::Tiles | BlockKind::FeatureEntries | BlockKind::FeatureIds => of(&head.layout.groups),
        BlockKind::Labels | BlockKind::LabelStates => {
            let sample = of(&head.layout.samples);
            let plan = plan.samples.iter().find(|plan| plan.sample.name == sample);
            let join = plan.and_then(|plan| plan.join.labels.get(class.part as usize)).map(|label| label.name.clone());
            format!("{sample}.{}", join.unwrap_or_else(|| class.part.to_string()))
        }
        _ => of(&head.layout.samples),
    }
}
