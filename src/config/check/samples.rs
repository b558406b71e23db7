//! Samples: anchor, joins, features, computed columns and what is written of them.

use super::features::{GroupDraft, same_key_type};
use super::streams::{self, StreamDraft};
use super::wide::Wide;
use super::{Checker, defaults, duration_or, joins, name_path, outputs, places, size_or};
use crate::config::diagnostic::suggestion;
use crate::config::plan::SamplePlan;
use crate::config::raw::{Codec, Folder, GroupUse, GuardThen, Names, Parquet, Pipeline, Sample};
use crate::config::tree::Path;
use crate::env::Place;
use crate::event::{DurationMs, StreamId};
use crate::join::Emit;
use crate::route::Guard;
use crate::sample::{ComputedColumn, EmissionSpec, LABEL_STREAM_DOWN, NegativesSpec, SampleGroup, SampleSpec};
use crate::sink::{Compression, ParquetSpec, TimeFolder};
use arrow::datatypes::{DataType, Field, Schema};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The column that negative sampling adds behind the selected ones.
pub const SAMPLE_WEIGHT: &str = "sample_weight";

/// What every object store copies in one request, with room to spare.
const COPY_BYTES_MAX: u64 = 4_000_000_000;

pub struct SampleDraft {
    pub plan: SamplePlan,
}

pub fn check(
    c: &mut Checker<'_>,
    raw: &Pipeline,
    streams: &mut [StreamDraft],
    groups: &[GroupDraft],
    flush_ms: DurationMs,
) -> Vec<SampleDraft> {
    let mut drafts = Vec::new();
    for (name, sample) in raw.samples.iter() {
        match one(c, raw, name, sample, streams, groups, flush_ms) {
            Some(plan) => drafts.push(SampleDraft { plan }),
            None => c.cut(Path::of(&["samples", name])),
        }
    }
    guards_agree(c, raw, streams, &drafts);
    drafts
}

/// The watermark waits for a stream or does not, for all samples alike.
fn guards_agree(c: &mut Checker<'_>, raw: &Pipeline, streams: &[StreamDraft], drafts: &[SampleDraft]) {
    let guards = drafts.iter().flat_map(|draft| draft.plan.join.labels.iter().map(move |label| (label.stream, draft)));
    let mut first: BTreeMap<StreamId, &SampleDraft> = BTreeMap::new();
    for (stream, draft) in guards {
        let (name, other) = (&draft.plan.sample.name, *first.entry(stream).or_insert(draft));
        let stream_name = streams[stream as usize].name();
        if draft.plan.guard != other.plan.guard {
            c.error(
                &Path::of(&["samples", name, "guard"]),
                format!("another guard for `{stream_name}` than in `{}`", other.plan.sample.name),
            )
            .expected("the same `max_lag` and `then` in all samples that join one stream")
            .help("the watermark waits for a stream or does not, for all samples alike");
        }
        let shown = raw.samples.iter().any(|(_, sample)| sample.from == stream_name);
        if draft.plan.guard.tag && shown {
            c.error(
                &Path::of(&["samples", name, "guard", "then"]),
                format!("`tag`, and `{stream_name}` is a stream of impressions, too"),
            )
            .expected("`hold`")
            .help("the watermark never goes on without impressions");
        }
    }
}

fn one(
    c: &mut Checker<'_>,
    file: &Pipeline,
    name: &str,
    raw: &Sample,
    streams: &mut [StreamDraft],
    groups: &[GroupDraft],
    flush_ms: DurationMs,
) -> Option<SamplePlan> {
    let path = &Path::of(&["samples", name]);
    let parquet =
        raw.write.parquet.as_ref().and_then(|parquet| parquet_of(c, file, parquet, &path.key("write").key("parquet")));
    let kafka =
        raw.write.kafka.as_ref().and_then(|kafka| outputs::kafka(c, file, kafka, &path.key("write").key("kafka")));
    if raw.write.parquet.is_none()
        && raw.write.kafka.is_none()
        && !c.is_cut(&path.key("write"))
        && !c.misspelt(path, "write")
    {
        c.warn(path, "the rows are written nowhere").help("add `write: { parquet: { path: out/samples } }`");
    }
    let anchor = streams::find(c, streams, &raw.from, &path.key("from"))?;
    let mut join = joins::check(c, raw, anchor, streams, path);
    let side = outputs::sides(c, file, raw, path);
    join.side = side.iter().map(|side| side.kind).collect();
    if !side.is_empty() {
        // Whoever is shown a row wants to find the record.
        let labels = join.labels.iter().map(|label| label.stream);
        let told: Vec<_> = labels.chain([join.anchor]).collect();
        let told = streams.iter_mut().filter(|draft| told.contains(&draft.plan.decode.stream));
        told.for_each(|draft| draft.plan.decode.positions = true);
    }
    let mut wide = Wide::default();
    wide.anchor(c, &streams[anchor], &path.key("from"));
    wide.joins(c, &join, streams, path);
    let sample_groups = stitched(c, raw, anchor, streams, groups, &mut wide, path);

    let decode = &streams[anchor].plan.decode;
    let event_id = raw.write.kafka.as_ref().map(|_| decode.key_sets[decode.id].clone());
    let emission = (join.emit != Emit::Wait).then(|| {
        wide.emission(c, &path.key("emit").key("mode"));
        let decode = &streams[anchor].plan.decode;
        EmissionSpec { id: decode.key_sets[decode.id].clone() }
    });

    let sources = sources(&streams[anchor], &sample_groups, groups, path);
    let mut columns = Vec::new();
    for (column, sql) in raw.columns.iter() {
        let at = path.key("columns").key(column);
        if let Some(expression) = c.compile(&at, sql, wide.scope(), &sources) {
            // Nullable whatever the expression says: a row that cannot be computed is null.
            wide.computed(c, column, expression.data_type.clone(), true, &at);
            columns.push(ComputedColumn { name: column.to_string(), expression });
        }
    }
    let negatives = negatives(c, raw, &wide, &sources, path);
    let early = emission.is_some();
    if early && raw.negatives.is_none() && wide.fields().iter().any(|field| field.name() == SAMPLE_WEIGHT) {
        c.error(&path.key("emit").key("mode"), format!("a column `{SAMPLE_WEIGHT}` in the rows already"))
            .expected("no other column of that name")
            .help("rows that leave early carry it: rename the other");
    }
    let guard = Guard {
        max_lag_ms: duration_or(&raw.guard.max_lag, defaults::MAX_LAG),
        tag: raw.guard.then == Some(GuardThen::Tag),
    };
    let (select, mut schema) = written(c, raw, &wide, early, &sources, path)?;
    if guard.tag {
        schema.push(tag_column(c, &wide, &path.key("guard").key("then")));
    }
    let sample = SampleSpec {
        name: name.into(),
        serving_lag_ms: raw.serving_lag.as_ref().map_or(flush_ms, |lag| lag.ms),
        groups: sample_groups,
        emission,
        columns,
        select,
        negatives,
        tag_after_ms: guard.tag.then(|| join.longest_ms()),
        event_id,
        wide: wide.schema(),
        schema: Arc::new(Schema::new(schema)),
    };
    let rows = parquet.as_ref().filter(|_| join.correct_ms > 0);
    let corrections = rows.and_then(|rows| corrections_beside(c, rows, &path.key("write").key("parquet").key("path")));
    Some(SamplePlan { join, sample, parquet, corrections, kafka, side, guard })
}

/// Where the columns that a sample's expressions see are declared.
fn sources(anchor: &StreamDraft, used: &[SampleGroup], groups: &[GroupDraft], path: &Path) -> Vec<Path> {
    let mut sources = vec![path.key("join"), path.key("features"), path.key("columns")];
    sources.extend(anchor.sources());
    for used in used {
        let group = &groups[used.group].path;
        sources.extend([group.key("aggregates"), group.key("derived")]);
    }
    sources
}

/// The feature groups of a sample, and where its impressions hold their entities.
fn stitched(
    c: &mut Checker<'_>,
    raw: &Sample,
    anchor: usize,
    streams: &mut [StreamDraft],
    groups: &[GroupDraft],
    wide: &mut Wide,
    path: &Path,
) -> Vec<SampleGroup> {
    let mut found: Vec<SampleGroup> = Vec::new();
    for (index, used) in raw.features.iter().enumerate() {
        let at = path.key("features").index(index);
        let (name, by) = match used {
            GroupUse::Name(name) => (name, None),
            GroupUse::By(used) => (&used.group, Some(&used.by)),
        };
        let Some(number) = groups.iter().position(|group| group.spec.name == *name) else {
            let known: Vec<&str> = groups.iter().map(|group| group.spec.name.as_str()).collect();
            c.unknown(&at, "feature group", name, known, &Path::of(&["features", name]));
            c.cut(at);
            continue;
        };
        if found.iter().any(|known| known.group == number) {
            c.error(&at, format!("the group `{name}` twice")).expected("each group once");
            continue;
        }
        match entity_columns(c, &groups[number], by, &streams[anchor], &at) {
            Some(columns) => {
                wide.group(c, &groups[number], &at);
                found.push(SampleGroup { group: number, key_set: streams[anchor].key_set(columns) });
            }
            None => c.cut(at),
        }
    }
    found
}

fn entity_columns(
    c: &mut Checker<'_>,
    group: &GroupDraft,
    by: Option<&Names>,
    anchor: &StreamDraft,
    at: &Path,
) -> Option<Vec<usize>> {
    let entity = &group.spec.entity;
    let columns = match by {
        Some(by) if by.names.len() != entity.len() => {
            let names: Vec<&str> = entity.iter().map(|(name, _)| name.as_str()).collect();
            c.error(&at.key("by"), format!("[{}]", by.names.join(", ")))
                .expected(format!("a column for each of the entity: {}", names.join(", ")));
            return None;
        }
        Some(by) => anchor.all_columns(c, by, &at.key("by"))?,
        None => {
            let mut columns = Vec::with_capacity(entity.len());
            for (name, _) in entity {
                let found = anchor.columns().iter().position(|column| column.name == *name);
                if found.is_none() && !c.may_be_cut(name, &anchor.sources()) {
                    c.error(at, format!("the impression stream `{}` has no column `{name}`", anchor.name())).help(
                        format!(
                            "say where it holds the entity: `{{ group: {}, by: <column of {}> }}`",
                            group.spec.name,
                            anchor.name()
                        ),
                    );
                }
                columns.push(found?);
            }
            columns
        }
    };
    for (index, (&column, (name, expected))) in columns.iter().zip(entity).enumerate() {
        let column = &anchor.columns()[column];
        if !same_key_type(column.column_type, *expected) {
            let at = by.map(|by| name_path(&at.key("by"), by, index)).unwrap_or_else(|| at.clone());
            c.error(&at, format!("`{}` of type {}", column.name, column.column_type.name())).expected(format!(
                "{}, as the entity `{name}` of `{}`",
                expected.name(),
                group.path
            ));
            return None;
        }
    }
    Some(columns)
}

fn negatives(c: &mut Checker<'_>, raw: &Sample, wide: &Wide, sources: &[Path], path: &Path) -> Option<NegativesSpec> {
    let negatives = raw.negatives.as_ref()?;
    let at = path.key("negatives");
    if !(negatives.keep > 0.0 && negatives.keep <= 1.0) {
        c.error(&at.key("keep"), format!("`{}`", negatives.keep))
            .expected("a share above 0 and up to 1")
            .help("0.1 keeps every tenth; to drop rows entirely filter the stream with `where`");
    }
    if let Some(field) = wide.fields().iter().find(|field| field.name() == SAMPLE_WEIGHT) {
        c.error(&at, format!("a column `{}` in the rows already", field.name()))
            .expected("no other column of that name")
            .help("negative sampling writes `sample_weight`: rename the other");
    }
    let filter = c.condition(&at.key("where"), &negatives.filter, wide.scope(), sources)?;
    Some(NegativesSpec { filter, keep: negatives.keep })
}

/// Rows that correct others are a dataset of their own: what was read once does not change.
fn corrections_beside(c: &mut Checker<'_>, rows: &ParquetSpec, at: &Path) -> Option<ParquetSpec> {
    let Some(path) = rows.path.beside("-corrections") else {
        c.error(at, format!("`{}`, which has no name", rows.path))
            .expected("a folder or a prefix with a name")
            .help("with `correct_for`, corrections are written beside it, to <path>-corrections");
        return None;
    };
    Some(ParquetSpec { path, ..rows.clone() })
}

/// What says of a row that a label stream was cut off.
fn tag_column(c: &mut Checker<'_>, wide: &Wide, at: &Path) -> Field {
    if wide.fields().iter().any(|field| field.name() == LABEL_STREAM_DOWN) {
        c.error(at, format!("a column `{LABEL_STREAM_DOWN}` in the rows already"))
            .expected("no other column of that name")
            .help("rows with `then: tag` carry it: rename the other");
    }
    Field::new(LABEL_STREAM_DOWN, DataType::Boolean, false)
}

/// What is written: indices into the wide layout and the schema of the rows.
fn written(
    c: &mut Checker<'_>,
    raw: &Sample,
    wide: &Wide,
    early: bool,
    sources: &[Path],
    path: &Path,
) -> Option<(Vec<usize>, Vec<Field>)> {
    let at = path.key("select");
    let fields = wide.fields();
    let mut sound = true;
    let mut numbers = |c: &mut Checker<'_>, key: &str, names: &[String]| -> Vec<usize> {
        let mut found = Vec::with_capacity(names.len());
        for (index, name) in names.iter().enumerate() {
            match fields.iter().position(|field| field.name() == name) {
                Some(number) if found.contains(&number) => {
                    c.error(&at.key(key).index(index), format!("the column `{name}` twice"))
                        .expected("each column once");
                }
                Some(number) => found.push(number),
                None => {
                    sound = false;
                    if !c.may_be_cut(name, sources) {
                        let known = fields.iter().map(|field| field.name().as_str());
                        let help = suggestion(name, known).unwrap_or_default();
                        c.error(&at.key(key).index(index), format!("unknown column `{name}`")).help(help);
                    }
                }
            }
        }
        found
    };
    let select: Vec<usize> = match (&raw.select.include, &raw.select.exclude) {
        (Some(_), Some(_)) => {
            c.error(&at, "both `include` and `exclude`").expected("one of them");
            return None;
        }
        (Some(include), None) => numbers(c, "include", include),
        (None, Some(exclude)) => {
            let excluded = numbers(c, "exclude", exclude);
            (0..fields.len()).filter(|index| !excluded.contains(index)).collect()
        }
        (None, None) => (0..fields.len()).collect(),
    };
    if select.is_empty() && sound {
        c.error(&at, "no column is left").expected("at least one column");
    }
    let mut schema: Vec<Field> = select.iter().map(|&index| fields[index].clone()).collect();
    if raw.negatives.is_some() || early {
        schema.push(Field::new(SAMPLE_WEIGHT, DataType::Float64, false));
    }
    sound.then_some((select, schema))
}

pub(super) fn parquet_of(c: &mut Checker<'_>, file: &Pipeline, raw: &Parquet, path: &Path) -> Option<ParquetSpec> {
    let place = places::place(c, file, &raw.path, &path.key("path"));
    let folders = match raw.partition_by.as_slice() {
        [] => Vec::new(),
        [Folder::Date] => vec![TimeFolder::Date],
        [Folder::Date, Folder::Hour] => vec![TimeFolder::Date, TimeFolder::Hour],
        other => {
            let at = path.key("partition_by");
            if !c.is_cut(&at) {
                let names: Vec<&str> = other.iter().map(|f| if *f == Folder::Date { "date" } else { "hour" }).collect();
                c.error(&at, format!("`[{}]`", names.join(", "))).expected("`[date]` or `[date, hour]`");
            }
            Vec::new()
        }
    };
    let compression = match raw.compression.unwrap_or(Codec::Zstd) {
        Codec::Zstd => Compression::Zstd { level: raw.level.unwrap_or(defaults::ZSTD_LEVEL) },
        Codec::Snappy => Compression::Snappy,
        Codec::None => Compression::None,
    };
    if raw.level.is_some() && !matches!(compression, Compression::Zstd { .. }) {
        c.error(&path.key("level"), "a level without zstd").expected("`compression: zstd`");
    }
    let roll_bytes = size_or(&raw.roll.size, defaults::ROLL_SIZE);
    if roll_bytes == 0 {
        c.error(&path.key("roll").key("size"), "`0`").expected("a size above 0, such as 128MB");
    }
    if roll_bytes > COPY_BYTES_MAX && matches!(place, Some(Place::Bucket(_))) {
        c.error(&path.key("roll").key("size"), format!("{roll_bytes} bytes in an object store"))
            .expected("at most 4GB")
            .help("a file is published by a copy inside the store, and stores copy 5 GB at most");
    }
    Some(ParquetSpec {
        path: place?,
        folders,
        roll_bytes,
        roll_age_ms: duration_or(&raw.roll.age, defaults::ROLL_AGE),
        compression,
    })
}
