//! Plan: which fields of a message type are read, and how, for the columns of one stream.

use crate::decode::fit::{Fit, Scalar};
use crate::decode::need::Need;
use crate::decode::{DecodeSpec, TimeUnitSpec};
use crate::event::ColumnType;
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, Value};

/// How a message becomes an object.
#[derive(Debug)]
pub(super) struct Message {
    /// Ascending by number: those that are read, and members of a `oneof` that end what another member said.
    pub fields: Vec<(u32, Field)>,
    /// The fields that are read.
    pub slots: Vec<Slot>,
}

#[derive(Debug)]
pub(super) struct Field {
    pub slot: Option<usize>,
    /// The slots of the other members of its `oneof`.
    pub ends: Vec<usize>,
    pub wires: Wires,
}

/// The wire types that a field may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wires {
    pub one: u8,
    /// A length and values without tags is allowed, too.
    pub packed: bool,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub name: String,
    pub number: u32,
    pub read: Read,
    /// What stands for a field that is not in the message.
    pub absent: Absent,
}

#[derive(Debug)]
pub(super) enum Absent {
    Missing,
    Whole(i64),
    Unsigned(u64),
    Number(f64),
    Bool(bool),
    Text(String),
    /// A repeated field is an empty array.
    Empty,
}

#[derive(Debug)]
pub(super) enum Read {
    Varint(Varint),
    Fixed32(Bits),
    Fixed64(Bits),
    Text,
    /// No column takes it.
    Opaque,
    Message(Box<Message>),
    /// `google.protobuf.Timestamp`, in microseconds.
    Timestamp,
    /// `google.protobuf.Int64Value` and the like: a message of one scalar.
    Wrapper(Box<Message>),
    /// The exploded array.
    Array(Box<Slot>),
}

/// What a varint means.
#[derive(Debug)]
pub(super) enum Varint {
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Bool,
    /// The names of an enum that is read as text.
    Enum(Vec<(i32, String)>),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Bits {
    Signed,
    Unsigned,
    Float,
}

#[derive(Debug)]
pub(in crate::decode) struct ProtobufPlan {
    pub(super) root: Message,
    pub(super) elements_max: usize,
    pub(super) depth_max: usize,
}

pub(super) const VARINT: u8 = 0;
pub(super) const FIXED64: u8 = 1;
pub(super) const LENGTH: u8 = 2;
pub(super) const GROUP: u8 = 3;
pub(super) const FIXED32: u8 = 5;

impl ProtobufPlan {
    pub fn new(message: &MessageDescriptor, need: &Need, spec: &DecodeSpec, fit: &mut Fit) -> ProtobufPlan {
        fit.container(need, &told_message(message), spec);
        let root = Planner { spec }.message(message, need, fit);
        let elements_max = spec.explode.as_ref().map_or(0, |explode| explode.max);
        ProtobufPlan { root, elements_max, depth_max: spec.limits.depth_max }
    }
}

struct Planner<'a> {
    spec: &'a DecodeSpec,
}

impl Planner<'_> {
    fn message(&self, message: &MessageDescriptor, need: &Need, fit: &mut Fit) -> Message {
        let mut slots = Vec::new();
        let mut found: Vec<(FieldDescriptor, usize)> = Vec::new();
        for (name, below) in &need.fields {
            match message.get_field_by_name(name).or_else(|| message.get_field_by_json_name(name)) {
                None => fit.missing(below, self.spec),
                // By its own name and by the one in JSON.
                Some(field) if found.iter().any(|(known, _)| known.number() == field.number()) => {
                    fit.all(below, "a field that is read under its other name", self.spec);
                }
                Some(field) => {
                    let read = if field.is_group() {
                        fit.array(below, "a group", self.spec);
                        Read::Opaque
                    } else if field.is_list() || field.is_map() {
                        self.repeated(&field, below, fit)
                    } else {
                        self.single(&field.kind(), below, fit)
                    };
                    found.push((field.clone(), slots.len()));
                    let absent = absent(&field, &read);
                    slots.push(Slot { name: name.clone(), number: field.number(), read, absent });
                }
            }
        }
        let mut fields: Vec<(u32, Field)> = Vec::new();
        for field in message.fields() {
            let slot = |field: &FieldDescriptor| {
                found.iter().find(|(read, _)| read.number() == field.number()).map(|(_, slot)| *slot)
            };
            let own = slot(&field);
            let members = field.containing_oneof().map(|oneof| oneof.fields().collect::<Vec<_>>()).unwrap_or_default();
            let ends: Vec<usize> =
                members.iter().filter(|member| member.number() != field.number()).filter_map(slot).collect();
            if own.is_some() || !ends.is_empty() {
                let wires = Wires { one: wire(&field), packed: field.is_list() && wire(&field) != LENGTH };
                fields.push((field.number(), Field { slot: own, ends, wires }));
            }
        }
        fields.sort_by_key(|(number, _)| *number);
        Message { fields, slots }
    }

    /// Also the element of a repeated field.
    fn single(&self, kind: &Kind, need: &Need, fit: &mut Fit) -> Read {
        let Kind::Message(message) = kind else {
            let (scalar, is, read) = self.scalar(kind, need);
            fit.scalar(need, scalar, &is, self.spec);
            return read;
        };
        let leaf = need.fields.is_empty() && need.array.is_none();
        match message.full_name() {
            "google.protobuf.Timestamp" if leaf => {
                fit.scalar(need, Scalar::Time(TimeUnitSpec::Micros), "google.protobuf.Timestamp", self.spec);
                Read::Timestamp
            }
            name if leaf && is_wrapper(name) => {
                let value = message.get_field(1).expect("wrappers have a value");
                let (scalar, _, read) = self.scalar(&value.kind(), need);
                fit.scalar(need, scalar, name, self.spec);
                let absent = absent(&value, &read);
                let field =
                    Field { slot: Some(0), ends: Vec::new(), wires: Wires { one: wire(&value), packed: false } };
                let slot = Slot { name: String::new(), number: 1, read, absent };
                Read::Wrapper(Box::new(Message { fields: vec![(1, field)], slots: vec![slot] }))
            }
            _ => {
                fit.container(need, &told_message(message), self.spec);
                Read::Message(Box::new(self.message(message, need, fit)))
            }
        }
    }

    fn repeated(&self, field: &FieldDescriptor, need: &Need, fit: &mut Fit) -> Read {
        if field.is_map() {
            fit.container(need, "a map", self.spec);
            need.fields.iter().for_each(|(_, below)| fit.all(below, "a map", self.spec));
            return Read::Opaque;
        }
        let told = match field.kind() {
            Kind::Message(message) => format!("repeated {}", message.full_name()),
            kind => format!("repeated {kind:?}").to_lowercase(),
        };
        fit.array(need, &told, self.spec);
        match &need.array {
            None => Read::Opaque,
            Some(element) => {
                let read = self.single(&field.kind(), element, fit);
                let (name, number, absent) = (String::new(), field.number(), Absent::Missing);
                Read::Array(Box::new(Slot { name, number, read, absent }))
            }
        }
    }

    fn scalar(&self, kind: &Kind, need: &Need) -> (Scalar, String, Read) {
        let name = match kind {
            Kind::Enum(of) => format!("the enum {}", of.full_name()),
            kind => format!("{kind:?}").to_lowercase(),
        };
        let (scalar, read) = match kind {
            Kind::Double => (Scalar::Number, Read::Fixed64(Bits::Float)),
            Kind::Float => (Scalar::Number, Read::Fixed32(Bits::Float)),
            Kind::Int32 => (Scalar::Whole, Read::Varint(Varint::Int32)),
            Kind::Int64 => (Scalar::Whole, Read::Varint(Varint::Int64)),
            Kind::Uint32 => (Scalar::Whole, Read::Varint(Varint::Uint32)),
            Kind::Uint64 => (Scalar::Whole, Read::Varint(Varint::Uint64)),
            Kind::Sint32 => (Scalar::Whole, Read::Varint(Varint::Sint32)),
            Kind::Sint64 => (Scalar::Whole, Read::Varint(Varint::Sint64)),
            Kind::Fixed32 => (Scalar::Whole, Read::Fixed32(Bits::Unsigned)),
            Kind::Fixed64 => (Scalar::Whole, Read::Fixed64(Bits::Unsigned)),
            Kind::Sfixed32 => (Scalar::Whole, Read::Fixed32(Bits::Signed)),
            Kind::Sfixed64 => (Scalar::Whole, Read::Fixed64(Bits::Signed)),
            Kind::Bool => (Scalar::Bool, Read::Varint(Varint::Bool)),
            Kind::String => (Scalar::Text, Read::Text),
            Kind::Enum(of) => self.enumeration(of, need),
            Kind::Bytes | Kind::Message(_) => (Scalar::Other, Read::Opaque),
        };
        (scalar, name, read)
    }

    /// An enum is text to columns of text and a number to others.
    fn enumeration(&self, of: &EnumDescriptor, need: &Need) -> (Scalar, Read) {
        let text =
            need.columns.first().is_none_or(|&column| self.spec.columns[column].column_type == ColumnType::String);
        match text {
            false => (Scalar::Whole, Read::Varint(Varint::Int32)),
            true => {
                // of several names for one number the first counts
                let mut names: Vec<(i32, String)> =
                    of.values().map(|value| (value.number(), value.name().to_string())).collect();
                names.sort_by_key(|(number, _)| *number);
                names.dedup_by_key(|(number, _)| *number);
                (Scalar::Text, Read::Varint(Varint::Enum(names)))
            }
        }
    }
}

fn told_message(message: &MessageDescriptor) -> String {
    format!("the message {}", message.full_name())
}

fn is_wrapper(name: &str) -> bool {
    let of = name.strip_prefix("google.protobuf.").and_then(|name| name.strip_suffix("Value"));
    of.is_some_and(|of| ["Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String"].contains(&of))
}

fn wire(field: &FieldDescriptor) -> u8 {
    if field.is_group() {
        return GROUP;
    }
    match field.kind() {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => FIXED64,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => FIXED32,
        Kind::String | Kind::Bytes | Kind::Message(_) => LENGTH,
        _ => VARINT,
    }
}

fn absent(field: &FieldDescriptor, read: &Read) -> Absent {
    if field.is_list() {
        return if matches!(read, Read::Array(_)) { Absent::Empty } else { Absent::Missing };
    }
    let declared = field.field_descriptor_proto().default_value.is_some();
    if field.is_map() || (field.supports_presence() && !declared) {
        return Absent::Missing;
    }
    match field.default_value() {
        Value::Bool(value) => Absent::Bool(value),
        Value::I32(value) => Absent::Whole(value.into()),
        Value::I64(value) => Absent::Whole(value),
        Value::U32(value) => Absent::Whole(value.into()),
        Value::U64(value) => Absent::Unsigned(value),
        Value::F32(value) => Absent::Number(value.into()),
        Value::F64(value) => Absent::Number(value),
        Value::String(text) => Absent::Text(text),
        Value::EnumNumber(number) => match read {
            Read::Varint(Varint::Enum(names)) => match names.iter().find(|(known, _)| *known == number) {
                Some((_, name)) => Absent::Text(name.clone()),
                None => Absent::Whole(number.into()),
            },
            _ => Absent::Whole(number.into()),
        },
        _ => Absent::Missing,
    }
}
