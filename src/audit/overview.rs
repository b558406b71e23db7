//! Overview: what the newest manifest says, with the names of the plan and the sums a person would check by hand.
//!
//! In: a plan. Out: an [`Overview`], of a group one for each cell and their sum, whose JSON is a stable part of the interface.
//! Holds: what is said of a cell comes from one manifest and the chain behind it, so its numbers belong to one instant (F1).
//! Does not: read a broker, or any row.

use crate::audit::{AuditError, OwnChain, OwnState, own_state};
use crate::commit::{
    ClaimRefusal, Damage, Link, Manifest, ManifestKind, Needed, OutageEntry, OutboxMark, changed_nodes, decide,
};
use crate::config::Plan;
use crate::env::Store;
use crate::event::{
    AnchorAccount, BlockClass, BlockKind, DelaySketch, DurationMs, EventTime, FeatureAccount, LabelAccount,
    StreamAccount, Totals, file_and_offset,
};
use crate::pipeline::{definition, list_objects};
use crate::source::InputKind;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A cut that runs beside may drop the objects of the head that was read: then a newer one is there.
const LOOKS_MAX: usize = 3;

#[derive(Clone, Debug, Serialize)]
pub struct Overview {
    pub pipeline: String,
    pub state: String,
    pub chain: ChainView,
    /// Definitions that are not those the state was written with, and that a run would refuse.
    pub changed_definitions: Vec<String>,
    /// What the next start would make of those that it would accept.
    pub accepted_changes: Vec<String>,
    pub inputs: Vec<PositionView>,
    pub tracks: Vec<TrackView>,
    /// Times that passed while label streams were cut off, where a guard says that closing does not wait.
    pub outages: Vec<OutageEntry>,
    /// `null` before the first record.
    pub watermark: Option<EventTime>,
    pub online_instant: Option<EventTime>,
    pub streams: Vec<StreamView>,
    pub samples: Vec<SampleView>,
    pub features: Vec<GroupView>,
    pub objects: ObjectsView,
    /// What goes to topics.
    pub outbox: Vec<OutboxView>,
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
    /// When it was added or reset: its account begins there. `null` when it is as old as the chain.
    pub since: Option<EventTime>,
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
    /// The share of labels that attached among those of which it is decided.
    pub coverage: Option<f64>,
    /// How long after their impressions the attached ones came; `null` when nothing attached.
    pub delays: Option<DelaysView>,
}

/// Read off a sketch: a quantile is never too small, and too large by 3.2 % at most.
#[derive(Clone, Debug, Serialize)]
pub struct DelaysView {
    pub labels: u64,
    pub mean_ms: i64,
    pub p50_ms: i64,
    pub p90_ms: i64,
    pub p95_ms: i64,
    pub p99_ms: i64,
    pub p999_ms: i64,
    pub longest_ms: i64,
}

impl DelaysView {
    fn of(sketch: &DelaySketch) -> Option<DelaysView> {
        let at = |share| sketch.quantile(share);
        Some(DelaysView {
            labels: sketch.count(),
            mean_ms: sketch.sum_ms() / i64::try_from(sketch.count()).ok().filter(|count| *count > 0)?,
            p50_ms: at(0.5)?,
            p90_ms: at(0.9)?,
            p95_ms: at(0.95)?,
            p99_ms: at(0.99)?,
            p999_ms: at(0.999)?,
            longest_ms: at(1.0)?,
        })
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct GroupView {
    pub group: String,
    /// As for samples; a window is null until it begins there.
    pub since: Option<EventTime>,
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

/// The rows of an outlet, as the manifest says; its process may have sent more since.
#[derive(Clone, Debug, Serialize)]
pub struct OutboxView {
    pub outlet: String,
    /// The commit up to which brokers have every row; of several cells, of that which is least far.
    pub kafka_through: u64,
    pub committed: u64,
    pub sent: u64,
    pub waiting: u64,
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

/// Several cells, each by itself and all together.
#[derive(Clone, Debug, Serialize)]
pub struct GroupOverview {
    pub pipeline: String,
    pub state: String,
    pub cells: Vec<CellOverview>,
    /// Cells that no process has begun yet.
    pub not_begun: Vec<u32>,
    /// The sums; positions and tracks are those of all cells, the chain is that of the newest manifest.
    pub sum: Overview,
    pub problems: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct CellOverview {
    pub cell: u32,
    #[serde(flatten)]
    pub overview: Overview,
}

/// What there is to see of a pipeline's state.
#[derive(Clone, Debug)]
pub enum Seen {
    /// One process reads all partitions.
    One(Box<Overview>),
    Group(Box<GroupOverview>),
}

/// Looks at the state of a plan. `now_ms` is wall time, for ages alone.
pub fn overview(plan: &Plan, now_ms: i64) -> Result<Seen, AuditError> {
    let mut looks = 0;
    loop {
        looks += 1;
        let state = own_state(plan)?;
        let views: Result<Vec<Overview>, AuditError> =
            state.chains.iter().map(|chain| chain_overview(plan, chain, now_ms)).collect();
        let mut views = match views {
            // Damaged or dropped? A newer head tells.
            Err(_) if looks < LOOKS_MAX => continue,
            other => other?,
        };
        let Some(cells) = state.cells else { return Ok(Seen::One(Box::new(views.remove(0)))) };
        return Ok(Seen::Group(Box::new(group_overview(plan, &state, cells, views, now_ms))));
    }
}

fn chain_overview(plan: &Plan, chain: &OwnChain, now_ms: i64) -> Result<Overview, AuditError> {
    let objects = objects_view(plan, chain.store.as_ref(), chain.head())?;
    let mut overview = of_head(plan, chain.head(), objects);
    overview.state = chain.place.to_string();
    let damaged = &chain.survey.damaged;
    overview.chain = chain_view(&chain.survey.links, chain.head(), damaged.clone(), now_ms);
    overview.problems.extend(damaged.iter().map(|damage| format!("manifest {}: {}", damage.path, damage.found)));
    overview.files.named = chain.survey.links.iter().flat_map(named_files).collect();
    Ok(overview)
}

fn group_overview(plan: &Plan, state: &OwnState, cells: u32, views: Vec<Overview>, now_ms: i64) -> GroupOverview {
    let whole = state.whole();
    let mut objects = ObjectsView { objects: 0, bytes: 0, classes: Vec::new() };
    for view in views.iter().map(|view| &view.objects) {
        objects.objects += view.objects;
        objects.bytes += view.bytes;
        for class in &view.classes {
            match objects.classes.iter_mut().find(|known| (known.class, &known.of) == (class.class, &class.of)) {
                Some(known) => {
                    known.blocks += class.blocks;
                    known.rows += class.rows;
                    known.bytes += class.bytes;
                    known.needed_bytes += class.needed_bytes;
                }
                None => objects.classes.push(class.clone()),
            }
        }
    }
    let mut sum = of_head(plan, &whole, objects);
    sum.state = plan.state.root.to_string();
    sum.chain = chain_view(&[], &whole, Vec::new(), now_ms);
    let mut named: Vec<NamedFile> = views.iter().flat_map(|view| view.files.named.iter().cloned()).collect();
    named.sort_by(|a, b| (&a.sink, &a.path).cmp(&(&b.sink, &b.path)));
    sum.files.named = named;
    let numbers: Vec<u32> = state.chains.iter().map(|chain| chain.cell).collect();
    let of_cells = numbers
        .iter()
        .zip(&views)
        .flat_map(|(cell, view)| view.problems.iter().map(move |problem| format!("cell {cell}: {problem}")));
    GroupOverview {
        pipeline: plan.pipeline.clone(),
        state: sum.state.clone(),
        problems: of_cells.chain(sum.problems.iter().cloned()).collect(),
        not_begun: (0..cells).filter(|cell| !numbers.contains(cell)).collect(),
        cells: numbers.into_iter().zip(views).map(|(cell, overview)| CellOverview { cell, overview }).collect(),
        sum,
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
    let mut problems = Vec::new();
    let (changed, accepted) = match decide(head, &definition(plan), &BTreeSet::new()) {
        Ok(accepted) => (Vec::new(), accepted.notes),
        Err(ClaimRefusal::Semantics { nodes }) => (nodes, Vec::new()),
        Err(other) => (vec![other.to_string()], Vec::new()),
    };
    if !changed.is_empty() {
        let nodes = changed.join(", ");
        problems.push(format!("the pipeline file is not the one that the state was written with: {nodes}"));
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
    let dead = dead + head.dead_letters_gone;
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
        accepted_changes: accepted,
        inputs: positions(plan, head),
        tracks: head.tracks.iter().map(|track| track_view(plan, track)).collect(),
        outages: head.outages.clone(),
        watermark: known(head.watermark),
        online_instant: head.online_instant,
        streams,
        samples,
        features,
        objects,
        outbox: head.outbox.iter().map(|(outlet, mark)| outbox_view(outlet, mark)).collect(),
        files: FilesView { named: Vec::new() },
        totals: head.totals,
        balanced,
        problems,
    }
}

fn outbox_view(outlet: &str, mark: &OutboxMark) -> OutboxView {
    let OutboxMark { kafka_through, committed, sent, .. } = *mark;
    OutboxView { outlet: outlet.into(), kafka_through, committed, sent, waiting: mark.waiting() }
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

/// Whether a node is the plan's, so that its parts may be called by the plan's names.
fn is_same(plan: &Plan, head: &Manifest, node: String) -> bool {
    head.semantics.get(&node) == plan.semantics.get(&node)
}

fn sample_view(plan: &Plan, head: &Manifest, at: usize) -> SampleView {
    let (counts, node) = (&head.counts.samples[at], head.layout.samples.get(at));
    let name = node.map_or_else(|| at.to_string(), |node| node.name.clone());
    // With another definition buckets may have another width, and joins another order.
    let same = is_same(plan, head, format!("joins.{name}"));
    let sample = plan.samples.iter().find(|sample| sample.sample.name == name).filter(|_| same);
    let stream = |number: u16| plan.streams.get(number as usize).map(|stream| stream.name.clone());
    let accepted = |stream: &Option<String>, number: usize| {
        let base = node.and_then(|node| node.base.get(number)).copied().unwrap_or(0);
        head.streams.get(stream.as_ref()?).map(|account| account.accepted.saturating_sub(base))
    };
    let anchor = sample.and_then(|sample| stream(sample.join.anchor));
    let joins = counts.labels.iter().enumerate().map(|(number, account)| {
        let label = sample.and_then(|sample| sample.join.labels.get(number));
        let stream = label.and_then(|label| stream(label.stream));
        let whole = accepted(&stream, number + 1).is_none_or(|rows| rows == account.accepted());
        JoinView {
            join: label.map_or_else(|| number.to_string(), |label| label.name.clone()),
            stream,
            account: *account,
            balances: whole && account.balances(),
            coverage: account.coverage(),
            delays: counts.delays.get(number).and_then(DelaysView::of),
        }
    });
    // With another definition buckets may have another width.
    let same = changed_nodes(&head.semantics, &plan.semantics).is_empty();
    let width = sample.filter(|_| same).map(|sample| sample.join.bucket_ms);
    let before = |through: Option<u32>| Some((i64::from(through?) + 1).saturating_mul(width?));
    let whole = accepted(&anchor, 0).is_none_or(|rows| rows == counts.anchor.accepted());
    SampleView {
        joins: joins.collect(),
        sample: name,
        since: node.and_then(|node| known(node.since)),
        stream: anchor,
        account: counts.anchor,
        balances: whole && counts.anchor.balances(),
        closed_before: before(counts.closed_through),
        filed_before: before(counts.filed_through),
    }
}

fn group_view(plan: &Plan, head: &Manifest, at: usize) -> GroupView {
    let (counts, node) = (&head.counts.groups[at], head.layout.groups.get(at));
    let name = node.map_or_else(|| at.to_string(), |node| node.name.clone());
    let same = is_same(plan, head, format!("features.{name}"));
    let group = plan.groups.iter().find(|group| group.name == name).filter(|_| same);
    let uses = counts.uses.iter().enumerate().map(|(number, account)| {
        let stream = group.and_then(|group| plan.streams.get(group.uses.get(number)?.stream as usize));
        let base = node.and_then(|node| node.base.get(number)).copied().unwrap_or(0);
        let accepted = stream.and_then(|stream| head.streams.get(&stream.name)).map(|account| account.accepted);
        UseView {
            stream: stream.map(|stream| stream.name.clone()),
            account: *account,
            balances: accepted.is_none_or(|rows| rows.saturating_sub(base) == account.accepted()),
        }
    });
    GroupView {
        uses: uses.collect(),
        group: name,
        since: node.and_then(|node| known(node.since)),
        entities: counts.entities,
        tiles: counts.tiles,
        due: counts.due,
    }
}

fn objects_view(plan: &Plan, store: &dyn Store, head: &Manifest) -> Result<ObjectsView, AuditError> {
    let objects = list_objects(store, head)?;
    let needed = Needed::new(&head.needed_from, &head.layout, objects.iter().flat_map(|(_, entries)| entries));
    let mut classes: BTreeMap<BlockClass, ClassView> = BTreeMap::new();
    let (mut count, mut bytes) = (0, 0);
    for (object, entries) in objects {
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
            if needed.needs(&entry) {
                view.needed_bytes = view.needed_bytes.saturating_add(entry.bytes);
            }
        }
    }
    Ok(ObjectsView { objects: count, bytes, classes: classes.into_values().collect() })
}

fn class_owner(plan: &Plan, head: &Manifest, class: BlockClass) -> String {
    let Some(at) = head.layout.place(class) else { return format!("node {}, which is gone", class.node) };
    match class.kind {
        BlockKind::Tiles | BlockKind::FeatureEntries | BlockKind::FeatureIds | BlockKind::Sealed => {
            head.layout.groups[at].name.clone()
        }
        BlockKind::Labels | BlockKind::LabelStates => {
            let sample = &head.layout.samples[at].name;
            let plan = plan.samples.iter().find(|plan| plan.sample.name == *sample);
            let join = plan.and_then(|plan| plan.join.labels.get(class.part as usize)).map(|label| label.name.clone());
            format!("{sample}.{}", join.unwrap_or_else(|| class.part.to_string()))
        }
        BlockKind::ImpressionKeys
        | BlockKind::ImpressionRows
        | BlockKind::ImpressionFeatures
        | BlockKind::Outbox
        | BlockKind::ClosedIds => head.layout.samples[at].name.clone(),
    }
}
