//! Joins of a sample: which labels belong to an impression.

use super::streams::{self, StreamDraft};
use super::{Checker, defaults, duration_or};
use crate::config::diagnostic::suggestion;
use crate::config::raw::{EmitMode, Entries, Join, Sample, TakeLabels};
use crate::config::tree::Path;
use crate::event::{ColumnType, DurationMs};
use crate::join::{Emit, JoinSpec, LabelSpec, Take};

/// Labels of one impression in one list.
const LISTED_LABELS_MAX: u32 = 10_000;

pub fn check(c: &mut Checker<'_>, raw: &Sample, anchor: usize, streams: &mut [StreamDraft], path: &Path) -> JoinSpec {
    let Entries(joins) = &raw.join;
    let mut labels: Vec<LabelSpec> = Vec::with_capacity(joins.len());
    for (name, join) in joins {
        let at = path.key("join");
        match label(c, (name, join), anchor, &labels, streams, &at) {
            Some(spec) => labels.push(spec),
            None => c.cut(at.key(name)),
        }
    }
    let anchor = &streams[anchor].plan;
    let mut spec = JoinSpec {
        anchor: anchor.decode.stream,
        labels,
        bucket_ms: 0,
        dedup_horizon_ms: anchor.time.lateness_ms + duration_or(&raw.dedup_horizon, defaults::DEDUP_HORIZON),
        emit: Emit::Wait,
        correct_ms: raw.correct_for.as_ref().map_or(0, |correct_for| correct_for.ms),
        side: Vec::new(),
    };
    let longest_ms = spec.longest_ms();
    spec.emit = match emit(c, raw, longest_ms, &path.key("emit")) {
        Emit::Wait if spec.correct_ms > 0 => Emit::Early { from_ms: longest_ms, to_ms: longest_ms, negatives: false },
        emit => emit,
    };
    spec.bucket_ms = spec.emit.bucket_ms_of(spec.longest_ms());
    spec
}

fn emit(c: &mut Checker<'_>, raw: &Sample, longest_ms: DurationMs, at: &Path) -> Emit {
    let mode = raw.emit.mode.unwrap_or(EmitMode::Wait);
    let (from, to) = (&raw.emit.wait_from, &raw.emit.wait_to);
    if matches!(mode, EmitMode::Wait | EmitMode::Immediate) {
        for (key, wait) in [("wait_from", from), ("wait_to", to)] {
            if wait.is_some() {
                c.error(&at.key(key), "a wait that is not asked for").expected("`mode: elapsed` or `mode: defer`");
            }
        }
    }
    let negatives = match mode {
        EmitMode::Wait => return Emit::Wait,
        EmitMode::Immediate => return Emit::Early { from_ms: 0, to_ms: 0, negatives: false },
        EmitMode::Elapsed => false,
        EmitMode::Defer => true,
    };
    let Some(to) = to else {
        c.error(&at.key("mode"), "no `wait_to`")
            .expected("how long the first row of an impression waits at most, such as `wait_to: 15m`");
        return Emit::Wait;
    };
    let from_ms = from.as_ref().map_or(0, |from| from.ms);
    if from_ms > to.ms {
        let found = from.as_ref().map_or("0s", |from| &from.text);
        c.error(&at.key("wait_from"), format!("`{found}`")).expected(format!("at most `wait_to`, {}", to.text));
    }
    if to.ms > longest_ms {
        c.error(&at.key("wait_to"), format!("`{}`", to.text))
            .expected(format!("at most the longest window, {longest_ms} ms"))
            .help("to wait for the whole window is `mode: wait`");
    }
    Emit::Early { from_ms, to_ms: to.ms, negatives }
}

/// `others` are the joins above it.
fn label(
    c: &mut Checker<'_>,
    (name, raw): (&str, &Join),
    anchor: usize,
    others: &[LabelSpec],
    streams: &mut [StreamDraft],
    joins: &Path,
) -> Option<LabelSpec> {
    let path = &joins.key(name);
    let stream = streams::find(c, streams, &raw.stream, &path.key("stream"))?;
    if stream == anchor {
        c.error(&path.key("stream"), format!("`{}`, the impression stream itself", raw.stream))
            .expected("a stream of labels");
        return None;
    }
    let on = match &raw.on {
        None => None,
        Some(on) => Some(other(c, on, others, (joins, path))?),
    };
    let by = match &raw.by {
        None => None,
        Some(by) => Some(streams[stream].all_columns(c, by, &path.key("by"))?),
    };
    let key_set = match &by {
        None => streams[stream].plan.decode.key,
        Some(columns) => streams[stream].key_set(columns.clone()),
    };
    let draft = &streams[stream];
    let meeting = Meeting {
        anchor: &streams[anchor],
        label: draft,
        key_set,
        other: on.map(|on: usize| &streams[others[on].stream as usize]),
    };
    meeting.check(c, path);
    let take = take(c, raw, draft, path);
    let select = select(c, raw, draft, path);
    let filter = match &raw.filter {
        None => None,
        Some(sql) => Some(c.condition(&path.key("where"), sql, &draft.scope(), &draft.sources())?),
    };
    Some(LabelSpec {
        name: name.into(),
        stream: draft.plan.decode.stream,
        on,
        key_set,
        nullable_key: nullable(draft, by.as_deref().unwrap_or_default()),
        within_ms: raw.within.ms,
        before_ms: duration_or(&raw.before, defaults::BEFORE),
        take: take?,
        select: select?,
        filter,
    })
}

/// Those of the columns that may be null.
fn nullable(draft: &StreamDraft, columns: &[usize]) -> Vec<usize> {
    columns.iter().copied().filter(|column| draft.plan.decode.schema.field(*column).is_nullable()).collect()
}

/// The join above that these labels hang on.
fn other(c: &mut Checker<'_>, name: &str, others: &[LabelSpec], (joins, path): (&Path, &Path)) -> Option<usize> {
    let found = others.iter().position(|other| other.name == name);
    if found.is_none() && !c.may_be_cut(name, std::slice::from_ref(joins)) {
        let known: Vec<&str> = others.iter().map(|other| other.name.as_str()).collect();
        let help = match known.is_empty() {
            true => "there is none above it".to_string(),
            false => suggestion(name, known.iter().copied()).unwrap_or_default(),
        };
        c.error(&path.key("on"), format!("`{name}`")).expected("the name of a join above this one").help(help);
    }
    found
}

/// What must fit for labels to meet what they are of.
struct Meeting<'a> {
    anchor: &'a StreamDraft,
    label: &'a StreamDraft,
    /// Of the label: the key that is matched.
    key_set: usize,
    /// The label stream that this one hangs on, with its ids.
    other: Option<&'a StreamDraft>,
}

impl Meeting<'_> {
    /// Labels must have keys of the shape of what they are of, and land in the lane of their impression.
    fn check(&self, c: &mut Checker<'_>, path: &Path) {
        let set = |draft: &StreamDraft, set: usize| draft.plan.decode.key_sets[set].clone();
        let (anchor, label) = (self.anchor, self.label);
        let label_key = set(label, self.key_set);
        let (anchor_route, label_route) = (set(anchor, anchor.plan.decode.route), set(label, label.plan.decode.route));
        let at = path.key("stream");
        let (of, of_key) = match self.other {
            None => (anchor, set(anchor, anchor.plan.decode.key)),
            Some(other) => (other, set(other, other.plan.decode.id)),
        };
        if !same_shape(c, "key", (of, &of_key), (label, &label_key), &at)
            || !same_shape(c, "partition_by", (anchor, &anchor_route), (label, &label_route), &at)
        {
            return;
        }
        if self.other.is_none() {
            lanes(c, (anchor, &of_key, &anchor_route), (label, &label_key, &label_route), &at);
        }
    }
}

/// Tells where an impression and its labels may land in different lanes.
fn lanes(
    c: &mut Checker<'_>,
    (anchor, anchor_key, anchor_route): (&StreamDraft, &[usize], &[usize]),
    (label, label_key, label_route): (&StreamDraft, &[usize], &[usize]),
    at: &Path,
) {
    let in_key = |key: &[usize], route: &[usize]| -> Option<Vec<usize>> {
        route.iter().map(|column| key.iter().position(|known| known == column)).collect()
    };
    match (in_key(anchor_key, anchor_route), in_key(label_key, label_route)) {
        (Some(a), Some(b)) if a != b => {
            c.error(
                at,
                format!(
                    "`{}` partitioned by {} and `{}` by {}",
                    anchor.name(),
                    anchor.shown(anchor_route),
                    label.name(),
                    label.shown(label_route)
                ),
            )
            .expected("the same part of the key in both")
            .help("otherwise an impression and its labels land in different lanes and never meet");
        }
        (Some(_), Some(_)) => {}
        _ => {
            c.warn(
                at,
                format!(
                    "`{}` is partitioned by {}, `{}` by {}, which are not made of key columns",
                    anchor.name(),
                    anchor.shown(anchor_route),
                    label.name(),
                    label.shown(label_route)
                ),
            )
            .help(
                "labels whose value differs from their impression's (a user who logs in in between) never match; \
                 partition by key columns to be sure",
            );
        }
    }
}

fn same_shape(
    c: &mut Checker<'_>,
    what: &str,
    (anchor, anchor_columns): (&StreamDraft, &[usize]),
    (label, label_columns): (&StreamDraft, &[usize]),
    at: &Path,
) -> bool {
    let shown = |draft: &StreamDraft, columns: &[usize]| format!("[{}]", draft.shown(columns));
    if anchor_columns.len() != label_columns.len() {
        c.error(at, format!("the `{what}` {} of `{}`", shown(label, label_columns), label.name()))
            .expected(format!(
                "{} columns, as {} of `{}`",
                anchor_columns.len(),
                shown(anchor, anchor_columns),
                anchor.name()
            ))
            .help(format!(
                "the `{what}` of an impression and of its labels is matched by position (default: key); labels that hang \
                 on others are matched with their `id`"
            ));
        return false;
    }
    let types = anchor.types(anchor_columns).into_iter().zip(label.types(label_columns));
    for (index, (anchor_type, label_type)) in types.enumerate() {
        if !super::features::same_key_type(anchor_type, label_type) {
            let column = |draft: &StreamDraft, columns: &[usize]| draft.columns()[columns[index]].name.clone();
            c.error(
                at,
                format!(
                    "`{}` of type {} in the `{what}` of `{}`",
                    column(label, label_columns),
                    label_type.name(),
                    label.name()
                ),
            )
            .expected(format!("{}, as `{}` of `{}`", anchor_type.name(), column(anchor, anchor_columns), anchor.name()))
            .help("keys match by position, and values of different types are never equal");
            return false;
        }
    }
    true
}

fn take(c: &mut Checker<'_>, raw: &Join, draft: &StreamDraft, path: &Path) -> Option<Take> {
    let at = path.key("take");
    let (key, column) = match &raw.take {
        None if c.is_cut(&at) => return None,
        None | Some(TakeLabels::First) => return Some(Take::First),
        Some(TakeLabels::Last) => return Some(Take::Last),
        Some(TakeLabels::Any) => return Some(Take::Any),
        Some(TakeLabels::Count) => return Some(Take::Count),
        Some(TakeLabels::All(most)) => {
            if !(1..=LISTED_LABELS_MAX).contains(most) {
                c.error(&at.key("all"), format!("`{most}`")).expected(format!("from 1 to {LISTED_LABELS_MAX}"));
            }
            return Some(Take::All(*most));
        }
        Some(TakeLabels::Sum(column)) => ("sum", column),
        Some(TakeLabels::Min(column)) => ("min", column),
        Some(TakeLabels::Max(column)) => ("max", column),
    };
    let at = at.key(key);
    let index = draft.column(c, column, &at)?;
    let column_type = draft.columns()[index].column_type;
    use ColumnType::{Float32, Float64, Int32, Int64, Timestamp};
    let fits = matches!(column_type, Int32 | Int64 | Float32 | Float64) || (column_type == Timestamp && key != "sum");
    if !fits {
        let expected = if key == "sum" { "a number" } else { "a number or a timestamp" };
        c.error(&at, format!("`{column}` of type {}", column_type.name())).expected(expected);
        return None;
    }
    Some(match key {
        "sum" => Take::Sum(index),
        "min" => Take::Min(index),
        _ => Take::Max(index),
    })
}

fn select(c: &mut Checker<'_>, raw: &Join, draft: &StreamDraft, path: &Path) -> Option<Vec<usize>> {
    let at = path.key("select");
    let whole = matches!(raw.take, None | Some(TakeLabels::First | TakeLabels::Last | TakeLabels::All(_)));
    let Some(names) = &raw.select else {
        if c.is_cut(&at) {
            return None;
        }
        return Some(if whole { vec![draft.plan.decode.time] } else { Vec::new() });
    };
    if !whole {
        c.error(&at, "`select` beside this `take`")
            .expected("`take: first`, `last` or `all`")
            .help("any, count, sum, min and max give one column of their own");
        return None;
    }
    let names = crate::config::raw::Names { names: names.clone(), list: true };
    draft.all_columns(c, &names, &at)
}
