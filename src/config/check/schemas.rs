//! Schemas: what the payloads of a stream are written by: nothing, a file, or what a registry holds.
//!
//! The files are read here, so that `check` tells a column that they do not have; a registry is asked when the pipeline
//! runs.

use super::Checker;
use crate::config::diagnostic::suggestion;
use crate::config::raw::{self, Connection, Format, Pipeline, ProtobufFile, SchemaOf, Stream};
use crate::config::tree::Path;
use crate::decode::{BinaryFormat, BinarySpec, DecodeSpec, FileSchema, PayloadSpec, SchemaSource, Wire};
use crate::env::is_plain_http_abroad;
use crate::event::{RegisteredSchema, SchemaKind};
use crate::registry::RegistrySpec;
use std::path::{Path as FilePath, PathBuf};

/// Files that a `.proto` file may import, in all.
const IMPORTS_MAX: usize = 256;

/// How payloads are written, and the registry to ask. After an error it is anything.
pub fn payload(
    c: &mut Checker<'_>,
    raw: &Pipeline,
    stream: &Stream,
    path: &Path,
) -> (PayloadSpec, Option<RegistrySpec>) {
    let nothing = (PayloadSpec::Json, None);
    let at = path.key("schema");
    let format = match stream.format.unwrap_or(Format::Json) {
        Format::Json => {
            if stream.schema.is_some() && !c.is_cut(&at) {
                c.error(&at, "a schema for `format: json`")
                    .expected("`format: avro` or `format: protobuf`")
                    .help("fields of JSON have their names with them: remove `schema`");
            }
            return nothing;
        }
        Format::Avro => BinaryFormat::Avro,
        Format::Protobuf => BinaryFormat::Protobuf,
    };
    let name = format.name();
    if stream.file.is_some() {
        c.error(&path.key("format"), format!("`{name}` in a stream of files")).expected("`json`").help(
            "files are read line by line, and a binary record may hold the byte that ends a line; read it from Kafka",
        );
        return nothing;
    }
    let Some(schema) = &stream.schema else {
        if !c.is_cut(&at) {
            c.error(path, "the key `schema` is missing").help(format!(
                "`format: {name}` needs `schema: {{ {name}: path }}` or `schema: {{ registry: a connection }}`"
            ));
        }
        return nothing;
    };
    let given = [
        ("avro", schema.avro.is_some()),
        ("protobuf", schema.protobuf.is_some()),
        ("registry", schema.registry.is_some()),
    ];
    let given: Vec<&str> = given.iter().filter_map(|(key, given)| given.then_some(*key)).collect();
    let source = match given.as_slice() {
        ["registry"] => {
            if schema.wire.is_some() {
                c.error(&at.key("wire"), "`wire` beside `registry`")
                    .help("records with a registry's ids are always in the Confluent wire format: remove `wire`");
            }
            let spec = registry(c, raw, schema.registry.as_deref().unwrap_or_default(), &at.key("registry"));
            return (PayloadSpec::Binary(BinarySpec { format, source: SchemaSource::Registry }), spec);
        }
        [key] if *key != name => {
            c.error(&at.key(key), format!("a schema of {key} for `format: {name}`")).expected(format!("`{name}`"));
            None
        }
        [_] => file(c, format, schema, &at),
        [] => {
            if !c.is_cut(&at) {
                c.error(&at, "no schema").expected(format!("one of `{name}`, `registry`"));
            }
            None
        }
        [first, second, ..] => {
            c.error(&at.key(second), format!("both `{first}` and `{second}`"))
                .expected("one place to take the schema from");
            None
        }
    };
    match source {
        Some(source) => (PayloadSpec::Binary(BinarySpec { format, source }), None),
        None => nothing,
    }
}

fn file(c: &mut Checker<'_>, format: BinaryFormat, schema: &SchemaOf, at: &Path) -> Option<SchemaSource> {
    let wire = match schema.wire {
        None | Some(raw::Wire::Plain) => Wire::Plain,
        Some(raw::Wire::Confluent) => Wire::Confluent,
        Some(raw::Wire::SingleObject) if format == BinaryFormat::Protobuf => {
            c.error(&at.key("wire"), "`single_object` for `format: protobuf`").expected("`plain` or `confluent`");
            return None;
        }
        Some(raw::Wire::SingleObject) => Wire::SingleObject,
    };
    let (path, place, parsed) = match (&schema.avro, &schema.protobuf) {
        (Some(path), _) => (path, at.key("avro"), avro(path)),
        (None, Some(ProtobufFile::Short(path))) => (path, at.key("protobuf"), protobuf(path, None, &[])),
        (None, Some(ProtobufFile::Full(full))) => {
            let include = full.include.as_ref().map(|names| names.names.as_slice()).unwrap_or_default();
            (&full.path, at.key("protobuf"), protobuf(&full.path, full.message.as_deref(), include))
        }
        (None, None) => return None,
    };
    match parsed {
        Ok(schema) => Some(SchemaSource::File { name: path.clone(), schema, wire }),
        Err(what) => {
            let expected = match format {
                BinaryFormat::Avro => "a file with an Avro schema in JSON",
                BinaryFormat::Protobuf => "a .proto file, or descriptors as `protoc --descriptor_set_out` writes them",
            };
            c.error(&place, format!("`{path}`: {what}")).expected(expected);
            None
        }
    }
}

fn avro(path: &str) -> Result<FileSchema, String> {
    FileSchema::avro(&RegisteredSchema { kind: SchemaKind::Avro, text: text(path)?, references: Vec::new() })
}

fn text(path: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))
}

fn protobuf(path: &str, message: Option<&str>, include: &[String]) -> Result<FileSchema, String> {
    if !path.ends_with(".proto") {
        let bytes = std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
        return FileSchema::protobuf_descriptors(&bytes, message);
    }
    let text = text(path)?;
    let own = FilePath::new(path).parent().unwrap_or(FilePath::new("")).to_path_buf();
    let folders: Vec<PathBuf> = std::iter::once(own).chain(include.iter().map(PathBuf::from)).collect();
    let references = imports(&text, &folders);
    FileSchema::protobuf(&RegisteredSchema { kind: SchemaKind::Protobuf, text, references }, message)
}

/// The files that a text imports, and those import. What is not found is the compiler's to tell.
fn imports(text: &str, folders: &[PathBuf]) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut open = imported(text);
    while let Some(name) = open.pop() {
        if found.len() >= IMPORTS_MAX || found.iter().any(|(known, _)| *known == name) {
            continue;
        }
        if let Some(text) = folders.iter().find_map(|folder| std::fs::read_to_string(folder.join(&name)).ok()) {
            open.extend(imported(&text));
            found.push((name, text));
        }
    }
    found
}

/// The names in `import "…";`, and perhaps some that stand in comments, which does no harm.
fn imported(text: &str) -> Vec<String> {
    let statements = text.split(';').filter_map(|statement| statement.rsplit_once("import").map(|(_, rest)| rest));
    statements.filter_map(|rest| Some(rest.split('"').nth(1)?.to_string())).collect()
}

pub(super) fn registry(c: &mut Checker<'_>, raw: &Pipeline, name: &str, at: &Path) -> Option<RegistrySpec> {
    match raw.connections.get(name) {
        Some(Connection { schema_registry: Some(registry), .. }) => Some(RegistrySpec {
            connection: name.into(),
            url: registry.url.clone(),
            username: registry.username.clone(),
            password: registry.password.clone(),
            token: registry.token.clone(),
            ca: registry.ca.clone(),
        }),
        Some(_) => {
            c.error(at, format!("`{name}`, which is no schema registry"))
                .expected("a connection with `schema_registry`");
            None
        }
        None => {
            if !c.is_cut(&Path::of(&["connections", name])) {
                let help = suggestion(name, raw.connections.names().collect::<Vec<_>>())
                    .unwrap_or_else(|| format!("add `connections: {{ {name}: {{ schema_registry: {{ url: … }} }} }}`"));
                c.error(at, format!("unknown connection `{name}`")).help(help);
            }
            None
        }
    }
}

/// The settings of a registry.
pub fn connection(c: &mut Checker<'_>, connection: &Connection, path: &Path) {
    let Some(registry) = &connection.schema_registry else { return };
    // The URL may hold a password, so it is not shown.
    let rest = registry.url.strip_prefix("http://").or_else(|| registry.url.strip_prefix("https://"));
    if !rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/')) {
        c.error(&path.key("url"), "a URL that is not http://… or https://…")
            .expected("such as https://registry.example.org:8081");
    }
    if registry.token.is_some() && registry.username.is_some() {
        c.error(&path.key("token"), "both `username` and `token`").expected("one way to say who asks");
    }
    if registry.password.is_some() && registry.username.is_none() && !c.is_cut(&path.key("username")) {
        c.error(&path.key("password"), "`password` without `username`").help("add `username`");
    }
    if is_plain_http_abroad(&registry.url) && (registry.password.is_some() || registry.token.is_some()) {
        c.warn(&path.key("url"), "a password that goes over the network as it is").help("use https://");
    }
}

/// What the columns of a stream ask of a schema file that it does not have.
pub fn misfits(c: &mut Checker<'_>, decode: &DecodeSpec, path: &Path) {
    for misfit in decode.schema_misfits() {
        let at = match misfit.column {
            Some(column) => path.key("columns").key(&decode.columns[column].name),
            None => path.key("explode"),
        };
        match misfit.is_absent {
            true => c.warn(&at, misfit.message).help("is `path` right?"),
            false => c.error(&at, misfit.message).help("the schema is the one under `schema`"),
        };
    }
}
