//! Binary: records whose bytes mean nothing without the schema that they were written with.
//!
//! ```text
//!   0x00 | schema id | message indexes | body        Confluent; the indexes only in Protobuf
//!   0xc3 0x01 | fingerprint            | body        single object (Avro)
//!                                        body        plain
//! ```
//!
//! Holds: the plan of a prefix is made once and kept; records of one writer follow each other, so that finding the plan
//! of a record is one comparison. Nothing is fetched here: [`BinaryParser::wants`] says which schemas are missing, and
//! [`BinaryParser::learn`] is told. What stays unknown refuses its records.

use crate::decode::avro::{AvroPlan, AvroSchema, SINGLE_OBJECT};
use crate::decode::cursor::{Broken, Cursor};
use crate::decode::fit::Fit;
use crate::decode::json::Document;
use crate::decode::need::Need;
use crate::decode::protobuf::{Got, ProtobufPlan, ProtobufSchema};
use crate::decode::{BinaryFormat, BinarySpec, DecodeSpec, SchemaSource, Wire};
use crate::event::{RawBatch, RegisteredSchema, RejectKind, SchemaKind};
use prost_reflect::MessageDescriptor;
use simd_json::Tape;
use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

/// Schemas and plans that are kept; beyond, all are forgotten and learnt again.
const KEPT_MAX: usize = 512;
/// The magic byte and the schema id.
const PREFIX_BYTES: usize = 5;
/// How deep a message type may lie within others.
const INDEXES_MAX: i64 = 64;
/// Nodes whose room is kept between records.
const KEEP_NODES: usize = 1 << 16;

type Refused = (RejectKind, String);

/// A schema from a file.
#[derive(Debug)]
pub(super) enum Parsed {
    Avro(Arc<AvroSchema>),
    Protobuf(MessageDescriptor),
}

/// A schema from a registry.
enum Known {
    Avro(Arc<AvroSchema>),
    Protobuf(ProtobufSchema),
    Refused(String),
}

struct Plan {
    number: u64,
    fit: Fit,
    read: Result<Reading, String>,
}

enum Reading {
    Avro(AvroPlan),
    Protobuf(ProtobufPlan),
}

pub(super) struct BinaryParser {
    binary: BinarySpec,
    need: Need,
    /// By id.
    known: BTreeMap<u32, Known>,
    /// By the bytes before the body.
    plans: BTreeMap<Vec<u8>, Plan>,
    /// The prefix of the last record.
    last: Vec<u8>,
    made: u64,
    news: Vec<String>,
    tape: Tape<'static>,
    got: Vec<Got>,
}

impl BinaryParser {
    pub fn new(binary: &BinarySpec, spec: &DecodeSpec) -> Self {
        let mut parser = BinaryParser {
            binary: binary.clone(),
            need: Need::of(spec),
            known: BTreeMap::new(),
            plans: BTreeMap::new(),
            last: Vec::new(),
            made: 0,
            news: Vec::new(),
            tape: Tape(Vec::new()),
            got: Vec::new(),
        };
        if let SchemaSource::File { name, schema, .. } = &binary.source {
            let plan = parser.plan(name.clone(), Ok(&schema.0), spec);
            parser.plans.insert(Vec::new(), plan);
        }
        parser
    }

    /// Ids of schemas in `raw` that are not known.
    pub fn wants(&mut self, raw: &RawBatch) -> Vec<u32> {
        if self.binary.source.is_file() {
            return Vec::new();
        }
        if self.known.len().max(self.plans.len()) > KEPT_MAX {
            self.known.clear();
            self.plans.clear();
            self.last.clear();
        }
        let (mut wanted, mut last) = (Vec::new(), None);
        for record in &raw.records {
            let Some(payload) = record.payload.as_ref().map(|payload| raw.slice(payload)) else { continue };
            let Some((&[0, a, b, c, d], _)) = payload.split_first_chunk::<PREFIX_BYTES>() else { continue };
            let id = u32::from_be_bytes([a, b, c, d]);
            if last != Some(id) && !self.known.contains_key(&id) {
                wanted.push(id);
            }
            last = Some(id);
        }
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    pub fn learn(&mut self, id: u32, schema: &RegisteredSchema) {
        let known = match (self.binary.format, schema.kind) {
            (BinaryFormat::Avro, SchemaKind::Avro) => {
                AvroSchema::parse(schema).map(|schema| Known::Avro(Arc::new(schema)))
            }
            (BinaryFormat::Protobuf, SchemaKind::Protobuf) => ProtobufSchema::parse(schema).map(Known::Protobuf),
            (format, kind) => Err(format!("it is a schema of {kind:?}, the stream's format is {}", format.name())),
        };
        self.known.insert(id, known.unwrap_or_else(Known::Refused));
    }

    /// What was found about schemas since the last call, for people.
    pub fn news(&mut self) -> Vec<String> {
        mem::take(&mut self.news)
    }

    /// Reads `record` and hands the result to `visit`.
    pub fn parse<R>(
        &mut self,
        record: &[u8],
        spec: &DecodeSpec,
        visit: impl FnOnce(Document<'_>) -> R,
    ) -> Result<R, Refused> {
        let body = self.find(record, spec)?;
        let plan = self.plans.get(&self.last).expect("the plan of the last prefix was just found");
        let reading = plan.read.as_ref().map_err(|why| (RejectKind::IncompatibleSchema, why.clone()))?;
        let mut tape = mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let read = match reading {
            Reading::Avro(plan) => plan.read(record, body, &mut tape.0),
            Reading::Protobuf(plan) => plan.read(record, body, &mut tape.0, &mut self.got),
        };
        let result = match read {
            Ok(()) => Ok(visit(Document { nodes: &tape.0, saturated: false, fit: Some((plan.number, &plan.fit)) })),
            Err(broken) => Err(broken.told(self.binary.format.name())),
        };
        if tape.0.capacity() <= KEEP_NODES {
            self.tape = tape.reset();
        }
        result
    }

    /// Where the body begins; its plan is then that of the last prefix.
    fn find(&mut self, record: &[u8], spec: &DecodeSpec) -> Result<usize, Refused> {
        if let SchemaSource::File { wire, name, schema } = &self.binary.source {
            return match wire {
                Wire::Plain => Ok(0),
                Wire::Confluent => self.prefix(record).map(|(end, _, _)| end),
                Wire::SingleObject => single_object(record, name, &schema.0),
            };
        }
        if !self.last.is_empty() && record.starts_with(&self.last) {
            return Ok(self.last.len());
        }
        let (end, id, places) = self.prefix(record)?;
        let prefix = &record[..end];
        if !self.plans.contains_key(prefix) {
            let name = match places.as_slice() {
                [] | [0] => format!("schema {id}"),
                places => format!("schema {id}, message {places:?}"),
            };
            let parsed = match self.known.get(&id) {
                None => {
                    let message = format!("schema {id}, with which the record was written, is not in the registry");
                    return Err((RejectKind::UnknownSchema, message));
                }
                Some(Known::Avro(schema)) => Ok(Parsed::Avro(schema.clone())),
                Some(Known::Protobuf(schema)) => match schema.message_at(&places) {
                    Some(message) => Ok(Parsed::Protobuf(message)),
                    None => Err("it has no such message".to_string()),
                },
                Some(Known::Refused(why)) => Err(why.clone()),
            };
            let plan = self.plan(name, parsed.as_ref().map_err(String::as_str), spec);
            self.plans.insert(prefix.to_vec(), plan);
        }
        self.last.clear();
        self.last.extend_from_slice(prefix);
        Ok(end)
    }

    /// The prefix of the Confluent wire format: its end, the schema's id and where the message is in the schema.
    fn prefix(&self, record: &[u8]) -> Result<(usize, u32, Vec<i64>), Refused> {
        let Some((&[magic, a, b, c, d], _)) = record.split_first_chunk::<PREFIX_BYTES>() else {
            let message = format!("the record has {} bytes: no room for the id of its schema", record.len());
            return Err((RejectKind::Truncated, message));
        };
        if magic != 0 {
            let message = format!(
                "the record begins with the byte 0x{magic:02x}, not with the 0x00 that comes before the id of a schema"
            );
            return Err((RejectKind::WrongMagic, message));
        }
        let mut cursor = Cursor::new(record, PREFIX_BYTES, RejectKind::MalformedProtobuf);
        let mut places = Vec::new();
        if self.binary.format == BinaryFormat::Protobuf {
            indexes(&mut cursor, &mut places).map_err(|broken| broken.told(self.binary.format.name()))?;
        }
        Ok((cursor.at, u32::from_be_bytes([a, b, c, d]), places))
    }

    fn plan(&mut self, name: String, parsed: Result<&Parsed, &str>, spec: &DecodeSpec) -> Plan {
        self.made += 1;
        let (fit, read) = match parsed {
            Ok(parsed) => {
                let (fit, reading) = plan(name, parsed, &self.need, spec);
                (fit, Ok(reading))
            }
            Err(why) => {
                let why = format!("{name} cannot be read: {why}");
                (Fit::new(name, spec), Err(why))
            }
        };
        self.news.extend(read.as_ref().err().map(|why| format!("stream {}: {why}", spec.name)));
        self.news.extend(fit.misfits.iter().map(|(_, message)| message).chain(&fit.array).cloned());
        Plan { number: self.made, fit, read }
    }
}

fn plan(name: String, parsed: &Parsed, need: &Need, spec: &DecodeSpec) -> (Fit, Reading) {
    match parsed {
        Parsed::Avro(schema) => {
            let mut fit = Fit::new(name, spec);
            let plan = AvroPlan::new(schema.clone(), need, spec, &mut fit);
            (fit, Reading::Avro(plan))
        }
        Parsed::Protobuf(message) => {
            let mut fit = Fit::new(format!("{name} ({})", message.full_name()), spec);
            let plan = ProtobufPlan::new(message, need, spec, &mut fit);
            (fit, Reading::Protobuf(plan))
        }
    }
}

/// What the schema of a file means for the columns of a stream.
pub(super) fn fit(name: &str, parsed: &Parsed, spec: &DecodeSpec) -> Fit {
    plan(name.to_string(), parsed, &Need::of(spec), spec).0
}

/// Where a message type lies: a count and so many places, or a single 0 for the first of the file.
fn indexes(cursor: &mut Cursor<'_>, places: &mut Vec<i64>) -> Result<(), Broken> {
    const WHAT: &str = "the place of a message in its schema";
    let at = cursor.at;
    match cursor.zigzag(WHAT)? {
        0 => places.push(0),
        count @ 1..=INDEXES_MAX => {
            for _ in 0..count {
                places.push(cursor.zigzag(WHAT)?);
            }
        }
        _ => return cursor.broken(at, "the place of a message has too many steps"),
    }
    Ok(())
}

fn single_object(record: &[u8], name: &str, schema: &Parsed) -> Result<usize, Refused> {
    let Some((head, rest)) = record.split_first_chunk::<2>() else {
        return Err((RejectKind::Truncated, "the record has one byte: no room for the head of a single object".into()));
    };
    if *head != SINGLE_OBJECT {
        let message = format!("the record begins with {head:02x?}, not with the c3 01 of a single object");
        return Err((RejectKind::WrongMagic, message));
    }
    let Some((fingerprint, _)) = rest.split_first_chunk::<8>() else {
        return Err((RejectKind::Truncated, "the record has no room for the fingerprint of its schema".into()));
    };
    match schema {
        Parsed::Avro(schema) if schema.fingerprint != *fingerprint => {
            let (found, right) = (u64::from_le_bytes(*fingerprint), u64::from_le_bytes(schema.fingerprint));
            let message = format!("the record was written with the schema {found:016x}, {name} is {right:016x}");
            Err((RejectKind::UnknownSchema, message))
        }
        _ => Ok(2 + 8),
    }
}
