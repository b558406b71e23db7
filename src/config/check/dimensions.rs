//! Dimensions: tables that rows are enriched from, their columns, and where they lie.

use super::{Checker, columns, defaults, duration_or, name_path, places, size_or, topics};
use crate::config::diagnostic::suggestion;
use crate::config::plan::DimensionPlan;
use crate::config::raw::{self, Dimension, Names, Pipeline};
use crate::config::tree::{Path, shown_text};
use crate::decode::{ColumnFrom, ColumnSpec, TimeUnitSpec};
use crate::dimension::{CacheSpec, DimensionColumn, DimensionFiles, DimensionSource, DimensionSpec, DimensionTime};
use crate::dimension::{FileFormat, KeyPart, PostgresDimension, RedisDimension, VersionFrom, parquet_columns};
use crate::env::Place;
use crate::event::ColumnType;
use std::sync::Arc;

/// Of a smaller cache nothing would stay.
const CACHE_BYTES_MIN: u64 = 1_000_000;

pub struct DimensionDraft {
    pub plan: DimensionPlan,
    pub path: Path,
}

pub fn check(c: &mut Checker<'_>, raw: &Pipeline) -> Vec<DimensionDraft> {
    let mut drafts = Vec::new();
    for (name, dimension) in raw.dimensions.iter() {
        let path = Path::of(&["dimensions", name]);
        match one(c, raw, name, dimension, &path) {
            Some(plan) => drafts.push(DimensionDraft { plan, path }),
            None => c.cut(path),
        }
    }
    drafts
}

fn one(c: &mut Checker<'_>, file: &Pipeline, name: &str, raw: &Dimension, path: &Path) -> Option<DimensionPlan> {
    source_keys(c, raw, path)?;
    let source = source(c, file, raw, path);
    let mut read = Vec::new();
    let columns = match (&raw.columns, &raw.kafka) {
        (None, _) => inferred(c, raw, source.as_ref(), path)?,
        (Some(_), None) => declared(c, raw, path)?,
        (Some(_), Some(kafka)) => {
            let (columns, specs) = topics::columns(c, raw, kafka, path);
            read = specs;
            columns
        }
    };
    let key = found(c, &columns, &raw.key, &path.key("key"))?;
    for &column in &key {
        let DimensionColumn { name, column_type, .. } = &columns[column];
        if matches!(column_type, ColumnType::Float32 | ColumnType::Float64 | ColumnType::Timestamp) {
            c.error(&path.key("key"), format!("`{name}` of type {}", column_type.name()))
                .expected("a string, an integer or a bool");
            return None;
        }
    }
    let one_name = |name: &String| Names { names: vec![name.clone()], list: false };
    let valid_from = match &raw.valid_from {
        None => None,
        Some(name) => Some(found(c, &columns, &one_name(name), &path.key("valid_from"))?[0]),
    };
    if let Some(column) = valid_from.map(|column| &columns[column])
        && column.column_type != ColumnType::Timestamp
    {
        c.error(&path.key("valid_from"), format!("`{}` of type {}", column.name, column.column_type.name()))
            .expected("a column of type timestamp");
        return None;
    }
    let version = match (&raw.version, valid_from) {
        (Some(_), Some(_)) => {
            c.error(&path.key("version"), "both `valid_from` and `version`")
                .expected("one of them")
                .help("with `valid_from` an event's row is the same whenever it is looked up");
            return None;
        }
        (Some(name), None) => VersionFrom::Column(found(c, &columns, &one_name(name), &path.key("version"))?[0]),
        (None, Some(_)) => VersionFrom::None,
        (None, None) if source.as_ref()?.is_asked() => VersionFrom::None,
        (None, None) => VersionFrom::Source,
    };
    let topic = match &raw.kafka {
        None => None,
        Some(kafka) => Some(topics::plan(c, file, (raw, kafka), read, &key, path)?),
    };
    let mut source = source?;
    if let DimensionSource::Redis(redis) = &mut source {
        redis.key = key_parts(c, raw, &columns, &key, path)?;
    }
    let partitioner = super::streams::partitioner(file);
    let spec = DimensionSpec { name: name.into(), columns, key, valid_from, version, source, partitioner };
    Some(DimensionPlan { spec: Arc::new(spec), topic })
}

/// Exactly one says where it lies.
fn source_keys(c: &mut Checker<'_>, raw: &Dimension, path: &Path) -> Option<()> {
    let all = [
        ("parquet", raw.parquet.is_some()),
        ("csv", raw.csv.is_some()),
        ("redis", raw.redis.is_some()),
        ("postgres", raw.postgres.is_some()),
        ("kafka", raw.kafka.is_some()),
    ];
    let given: Vec<&str> = all.iter().filter_map(|(key, given)| given.then_some(*key)).collect();
    match given.as_slice() {
        [_] => Some(()),
        [] => {
            if !c.is_cut(path) {
                c.error(path, "no source")
                    .expected("one of `parquet`, `csv`, `redis`, `postgres`, `kafka`")
                    .help("such as `parquet: { path: data/items.parquet, refresh: 5m }`");
            }
            None
        }
        [first, second, ..] => {
            c.error(&path.key(second), format!("both `{first}` and `{second}`")).expected("one source");
            None
        }
    }
}

fn source(c: &mut Checker<'_>, file: &Pipeline, raw: &Dimension, path: &Path) -> Option<DimensionSource> {
    if let Some(redis) = &raw.redis {
        let at = path.key("redis");
        let url = connection(c, file, &redis.connection, "Redis", &at.key("connection"))?;
        let cache = cache(c, &redis.cache, &at.key("cache"));
        let connection = redis.connection.clone();
        return Some(DimensionSource::Redis(RedisDimension { connection, url, key: Vec::new(), cache }));
    }
    if let Some(postgres) = &raw.postgres {
        let at = path.key("postgres");
        let url = connection(c, file, &postgres.connection, "Postgres", &at.key("connection"))?;
        let cache = cache(c, &postgres.cache, &at.key("cache"));
        if postgres.table.split('.').any(str::is_empty) || postgres.table.split('.').count() > 2 {
            c.error(&at.key("table"), shown_text(&postgres.table)).expected("`table` or `schema.table`");
        }
        let (connection, table) = (postgres.connection.clone(), postgres.table.clone());
        return Some(DimensionSource::Postgres(PostgresDimension { connection, url, table, cache }));
    }
    if raw.kafka.is_some() { Some(DimensionSource::Topic) } else { files(c, file, raw, path) }
}

/// The URL of a connection of that kind.
fn connection(c: &mut Checker<'_>, file: &Pipeline, name: &str, kind: &str, at: &Path) -> Option<String> {
    let Some(found) = file.connections.get(name) else {
        c.unknown(at, "connection", name, file.connections.names(), &Path::of(&["connections", name]));
        return None;
    };
    let url = match (kind, &found.redis, &found.postgres) {
        ("Redis", Some(redis), _) => Some(redis.url.clone()),
        ("Postgres", _, Some(postgres)) => Some(postgres.url.clone()),
        _ => None,
    };
    if url.is_none() && !c.is_cut(&Path::of(&["connections", name])) {
        c.error(at, format!("`{name}`, which is no {kind} connection"))
            .expected(format!("a connection with `{}`", kind.to_lowercase()));
    }
    url
}

fn cache(c: &mut Checker<'_>, raw: &raw::DimensionCache, at: &Path) -> CacheSpec {
    let spec = CacheSpec {
        bytes_max: size_or(&raw.size, defaults::CACHE_SIZE),
        ttl_ms: duration_or(&raw.ttl, defaults::CACHE_TTL),
        missing_ttl_ms: duration_or(&raw.missing_ttl, defaults::CACHE_MISSING_TTL),
    };
    if spec.bytes_max < CACHE_BYTES_MIN {
        c.error(&at.key("size"), format!("{} bytes", spec.bytes_max)).expected("at least 1MB");
    }
    spec
}

/// The name of a hash, in parts.
fn key_parts(
    c: &mut Checker<'_>,
    raw: &Dimension,
    columns: &[DimensionColumn],
    key: &[usize],
    path: &Path,
) -> Option<Vec<KeyPart>> {
    let template = &raw.redis.as_ref()?.key;
    let at = path.key("redis").key("key");
    let names: Vec<&str> = key.iter().map(|column| columns[*column].name.as_str()).collect();
    let (mut parts, mut rest) = (Vec::new(), template.as_str());
    while let Some((text, behind)) = rest.split_once('{') {
        let named = behind.split_once('}').map(|(name, rest)| (names.iter().position(|key| *key == name), rest));
        let Some((Some(column), after)) = named else {
            c.error(&at, shown_text(template))
                .expected(format!("the name of a hash with key columns in braces: {{{}}}", names.join("}, {")));
            return None;
        };
        parts.extend([KeyPart::Text(text.into()), KeyPart::Column(column)]);
        rest = after;
    }
    parts.push(KeyPart::Text(rest.into()));
    let left_out = (0..key.len()).find(|column| !parts.contains(&KeyPart::Column(*column)));
    if let Some(column) = left_out {
        c.error(&at, format!("{} without `{{{}}}`", shown_text(template), names[column]))
            .expected("a name that all key columns are part of")
            .help("otherwise different keys have the same hash");
        return None;
    }
    Some(parts)
}

fn files(c: &mut Checker<'_>, file: &Pipeline, raw: &Dimension, path: &Path) -> Option<DimensionSource> {
    let (key, written, refresh, format) = match (&raw.parquet, &raw.csv) {
        (Some(parquet), _) => ("parquet", &parquet.path, &parquet.refresh, FileFormat::Parquet),
        (None, Some(csv)) => {
            let delimiter = csv.delimiter.as_deref().unwrap_or(",");
            let &[delimiter] = delimiter.as_bytes() else {
                c.error(&path.key("csv").key("delimiter"), shown_text(delimiter))
                    .expected("one character, such as \",\", \";\" or \"\\t\"");
                return None;
            };
            ("csv", &csv.path, &csv.refresh, FileFormat::Csv { delimiter })
        }
        (None, None) => return None,
    };
    let at = path.key(key);
    let place = places::place(c, file, written, &at.key("path"))?;
    let refresh_ms = duration_or(refresh, defaults::REFRESH);
    if refresh_ms == 0 {
        c.error(&at.key("refresh"), "`0s`").expected("a duration above 0, such as 5m");
    }
    Some(DimensionSource::Files(DimensionFiles { place, path: written.clone(), format, refresh_ms }))
}

/// The columns of the file itself.
fn inferred(
    c: &mut Checker<'_>,
    raw: &Dimension,
    source: Option<&DimensionSource>,
    path: &Path,
) -> Option<Vec<DimensionColumn>> {
    let place = match source? {
        DimensionSource::Files(DimensionFiles { place: Place::Folder(place), format: FileFormat::Parquet, .. }) => {
            place
        }
        _ => {
            if !c.is_cut(&path.key("columns")) && !c.misspelt(path, "columns") {
                c.error(path, "the key `columns` is missing").help(match raw.parquet {
                    Some(_) => "list the columns to take: a file in a bucket is not opened to find them out",
                    None => "list the columns to take: `columns: { item_id: string, price: float64 }`",
                });
            }
            return None;
        }
    };
    let found = match parquet_columns(place) {
        Ok(found) => found,
        Err(found) => {
            c.error(&path.key("parquet").key("path"), found)
                .help("without `columns` the file tells its columns: check the path, or list them");
            return None;
        }
    };
    let column = |(name, column_type): (String, ColumnType)| DimensionColumn {
        source_name: name.clone(),
        name,
        column_type,
        unit: DimensionTime::Millis,
    };
    Some(found.into_iter().map(column).collect())
}

/// The columns as the pipeline file has them.
fn declared(c: &mut Checker<'_>, raw: &Dimension, path: &Path) -> Option<Vec<DimensionColumn>> {
    // To the rules of columns it is a stream of files.
    let stream = raw::Stream {
        file: Some(raw::File { path: String::new() }),
        columns: raw.columns.clone(),
        ..raw::Stream::default()
    };
    let found = columns::check(c, &stream, path);
    let column = |c: &mut Checker<'_>, spec: ColumnSpec| {
        let at = path.key("columns").key(&spec.name);
        if spec.default.is_some() {
            c.error(&at.key("default"), "a default in a dimension")
                .help("a row without a value gets null: use `coalesce` where the column is used");
        }
        let ColumnFrom::Path(steps) = &spec.from else { return None };
        let [source_name] = steps.as_slice() else {
            c.error(&at.key("path"), format!("`$.{}`", steps.join("."))).expected("the name of one field: `$.name`");
            return None;
        };
        Some(DimensionColumn {
            source_name: source_name.clone(),
            column_type: spec.column_type,
            unit: match spec.unit {
                TimeUnitSpec::Seconds => DimensionTime::Seconds,
                TimeUnitSpec::Micros | TimeUnitSpec::Nanos => DimensionTime::Micros,
                TimeUnitSpec::Rfc3339 => DimensionTime::Rfc3339,
                TimeUnitSpec::Millis => DimensionTime::Millis,
            },
            name: spec.name,
        })
    };
    found.into_iter().map(|spec| column(c, spec)).collect()
}

/// Finds columns by name, or tells that there are none.
pub fn found(c: &mut Checker<'_>, columns: &[DimensionColumn], names: &Names, at: &Path) -> Option<Vec<usize>> {
    let mut found = Vec::with_capacity(names.names.len());
    for (index, name) in names.names.iter().enumerate() {
        let at = name_path(at, names, index);
        let column = columns.iter().position(|column| column.name == *name);
        if column.is_some() && found.contains(&column) {
            c.error(&at, format!("the column `{name}` twice")).expected("each column once");
            return None;
        }
        if column.is_none() && !c.may_be_cut(name, &[Path(at.0[..2].to_vec()).key("columns")]) {
            let known = columns.iter().map(|column| column.name.as_str());
            let help = suggestion(name, known).unwrap_or_else(|| "the dimension has no columns".into());
            c.error(&at, format!("the dimension has no column {}", shown_text(name))).help(help);
        }
        found.push(column);
    }
    if found.is_empty() {
        c.error(at, "no columns").expected("at least one column");
        return None;
    }
    found.into_iter().collect()
}
