//! Enrich: the columns that a stream takes from dimensions.

use super::dimensions::{self, DimensionDraft};
use super::features::same_key_type;
use super::samples::SampleDraft;
use super::streams::StreamDraft;
use super::{Checker, name_path};
use crate::config::diagnostic::suggestion;
use crate::config::raw::{Enrich, Names, Stream};
use crate::config::tree::Path;
use crate::decode::{ColumnFrom, ColumnSpec, TimeUnitSpec};
use crate::dimension::{EnrichSpec, VersionFrom};
use crate::event::ColumnType;
use crate::join::Emit;

/// The part of a column's name behind the dimension's, where the version stands.
const VERSION: &str = "version";

/// What a column is called in rows.
pub fn output_name(name: &str) -> String {
    name.replace('.', "_")
}

/// What a stream takes, and the columns that it gets so.
pub fn check(
    c: &mut Checker<'_>,
    raw: &Stream,
    columns: &[ColumnSpec],
    dimensions: &[DimensionDraft],
    path: &Path,
) -> (Vec<EnrichSpec>, Vec<ColumnSpec>) {
    let (mut specs, mut added) = (Vec::new(), Vec::<ColumnSpec>::new());
    for (alias, enrich) in raw.enrich.iter() {
        let at = path.key("enrich").key(alias);
        let Some(spec) = one(c, alias, enrich, columns, dimensions, &at) else {
            c.cut(at);
            continue;
        };
        let dimension = &dimensions[spec.dimension].plan.spec;
        let taken = spec.select.iter().map(|column| &dimension.columns[*column]);
        let taken = taken.map(|column| (column.name.as_str(), column.column_type));
        for (name, column_type) in taken.chain(spec.version.then_some((VERSION, ColumnType::String))) {
            let name = format!("{alias}.{name}");
            let output = output_name(&name);
            let known = columns.iter().chain(&added).find(|column| output_name(&column.name) == output);
            if let Some(known) = known {
                c.error(&at, format!("a second column `{output}` in the rows, beside `{}`", known.name))
                    .expected("names that are unique in a stream")
                    .help("enriched columns are written as `<name>_<column>`: rename one");
            }
            added.push(ColumnSpec {
                name,
                column_type,
                nullable: true,
                default: None,
                unit: TimeUnitSpec::Millis,
                from: ColumnFrom::Dimension,
            });
        }
        specs.push(spec);
    }
    (specs, added)
}

fn one(
    c: &mut Checker<'_>,
    alias: &str,
    raw: &Enrich,
    columns: &[ColumnSpec],
    dimensions: &[DimensionDraft],
    path: &Path,
) -> Option<EnrichSpec> {
    let find = |draft: &DimensionDraft| draft.plan.spec.name == raw.dimension;
    let Some(number) = dimensions.iter().position(find) else {
        let known: Vec<&str> = dimensions.iter().map(|draft| draft.plan.spec.name.as_str()).collect();
        c.unknown(
            &path.key("dimension"),
            "dimension",
            &raw.dimension,
            known,
            &Path::of(&["dimensions", &raw.dimension]),
        );
        return None;
    };
    let spec = &dimensions[number].plan.spec;
    let on = on(c, raw, columns, &dimensions[number], path)?;
    let select = match &raw.select {
        None => (0..spec.columns.len()).filter(|column| !spec.key.contains(column)).collect(),
        Some(names) => {
            let names = Names { names: names.clone(), list: true };
            dimensions::found(c, &spec.columns, &names, &path.key("select"))?
        }
    };
    if select.is_empty() {
        c.error(path, format!("nothing is taken from `{}`", spec.name)).expected("a dimension with more than its key");
        return None;
    }
    let version = match spec.version {
        VersionFrom::None => false,
        VersionFrom::Source => true,
        // One that is called so and is taken anyway needs no second place.
        VersionFrom::Column(column) => !(select.contains(&column) && spec.columns[column].name == VERSION),
    };
    let retry_ms = raw.retry.as_ref().map(|retry| retry.within.ms);
    Some(EnrichSpec { alias: alias.into(), dimension: number, on, select, version, retry_ms })
}

/// The stream's columns that hold the key.
fn on(
    c: &mut Checker<'_>,
    raw: &Enrich,
    columns: &[ColumnSpec],
    dimension: &DimensionDraft,
    path: &Path,
) -> Option<Vec<usize>> {
    let spec = &dimension.plan.spec;
    let key: Vec<&str> = spec.key.iter().map(|column| spec.columns[*column].name.as_str()).collect();
    let own = || Names { names: key.iter().map(|name| name.to_string()).collect(), list: true };
    let names = raw.on.clone().unwrap_or_else(own);
    let at = if raw.on.is_some() { path.key("on") } else { path.clone() };
    if names.names.len() != key.len() {
        c.error(&at, format!("[{}]", names.names.join(", ")))
            .expected(format!("a column for each of the key: {}", key.join(", ")));
        return None;
    }
    let mut on = Vec::with_capacity(key.len());
    for (index, name) in names.names.iter().enumerate() {
        let at = if raw.on.is_some() { name_path(&at, &names, index) } else { at.clone() };
        let Some(column) = columns.iter().position(|column| column.name == *name) else {
            let stream = Path(path.0[..2].to_vec());
            if !c.may_be_cut(name, &[stream.key("columns")]) {
                let help = suggestion(name, columns.iter().map(|column| column.name.as_str()));
                c.error(&at, format!("the records of the stream have no column `{name}`")).help(
                    help.unwrap_or_else(|| format!("say where the stream holds the key of `{}`: `on: …`", spec.name)),
                );
            }
            return None;
        };
        let (found, expected) = (columns[column].column_type, spec.columns[spec.key[index]].column_type);
        if !same_key_type(found, expected) {
            c.error(&at, format!("`{name}` of type {}", found.name())).expected(format!(
                "{}, as the key `{}` of `{}`",
                expected.name(),
                key[index],
                dimension.path
            ));
            return None;
        }
        on.push(column);
    }
    Some(on)
}

/// Columns that must be of the record itself: time, identity and place.
pub fn own_columns(c: &mut Checker<'_>, draft: &StreamDraft, columns: Vec<usize>, at: &Path) -> Option<Vec<usize>> {
    let looked_up = |column: &&usize| draft.columns()[**column].from == ColumnFrom::Dimension;
    match columns.iter().find(looked_up) {
        None => Some(columns),
        Some(column) => {
            c.error(at, format!("`{}`, a column of a dimension", draft.columns()[*column].name))
                .expected("columns of the record itself")
                .help("when and who an event is must not depend on what a dimension holds at the moment");
            None
        }
    }
}

/// A row waits for its dimension while it waits for its labels, and no longer.
fn waits(c: &mut Checker<'_>, stream: &StreamDraft, samples: &[SampleDraft]) {
    for enrich in &stream.plan.enrich {
        let Some(retry_ms) = enrich.retry_ms else { continue };
        let at = stream.path.key("enrich").key(&enrich.alias).key("retry");
        let of_stream = samples.iter().filter(|sample| sample.plan.join.anchor == stream.plan.decode.stream);
        let waits = of_stream.map(|sample| match sample.plan.join.emit {
            Emit::Wait => (sample.plan.join.longest_ms(), &sample.plan.sample.name),
            Emit::Early { from_ms, .. } => (from_ms, &sample.plan.sample.name),
        });
        match waits.min() {
            None if c.lost_whole("samples") => {}
            None => {
                c.error(&at, "`retry`, but no sample is made of the rows of this stream")
                    .expected("the impression stream of a sample")
                    .help("a row that waits for nothing else has nowhere to wait: it feeds features at once");
            }
            Some((longest_ms, sample)) if retry_ms > longest_ms => {
                c.error(
                    &at.key("for"),
                    format!("{retry_ms} ms, but the sample `{sample}` writes a row after {longest_ms} ms"),
                )
                .expected("at most what the row waits for its labels")
                .help("a longer window (`within`) lets it wait longer");
            }
            Some(_) => {}
        }
    }
}

/// What only the whole file tells: names that joins have too, dimensions that nobody uses or that depend on the moment.
pub fn finish(c: &mut Checker<'_>, streams: &[StreamDraft], samples: &[SampleDraft], dimensions: &[DimensionDraft]) {
    for sample in samples {
        let anchor = &streams[sample.plan.join.anchor as usize].plan;
        for label in &sample.plan.join.labels {
            if anchor.enrich.iter().any(|enrich| enrich.alias == label.name) {
                let at = Path::of(&["samples", &sample.plan.sample.name, "join", &label.name]);
                c.error(&at, format!("`{}`, under which `{}` is enriched", label.name, anchor.name))
                    .expected("another name")
                    .help("`<name>.<column>` would mean both");
            }
        }
    }
    streams.iter().for_each(|stream| waits(c, stream, samples));
    for (number, draft) in dimensions.iter().enumerate() {
        let spec = &draft.plan.spec;
        let used = |stream: &StreamDraft| stream.plan.enrich.iter().any(|enrich| enrich.dimension == number);
        if c.found_errors() {
            continue;
        }
        if !streams.iter().any(used) {
            c.warn(&draft.path, "no stream is enriched from this dimension").help("remove it, or use it in `enrich`");
        } else if spec.valid_from.is_none() {
            let warning = c.warn(&draft.path, "no `valid_from`: rows get what the dimension holds when they are read");
            match spec.version {
                VersionFrom::None => warning.help(
                    "a replay or a restart may enrich them otherwise, and nothing in a row tells: add `valid_from` or \
                     `version`",
                ),
                _ => warning.help("a replay or a restart may enrich them otherwise; the version in the row tells"),
            };
        }
    }
}
