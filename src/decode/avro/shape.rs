//! Shape: an Avro schema as the reader needs it: names looked up, types by number, recursion allowed.

use crate::decode::TimeUnitSpec;
use crate::decode::fit::Scalar;
use crate::event::RegisteredSchema;
use apache_avro::Schema;
use apache_avro::rabin::Rabin;
use apache_avro::schema::{InnerDecimalSchema, Name, NamespaceRef, UuidSchema};
use std::collections::BTreeMap;

pub(in crate::decode) type ShapeId = usize;

#[derive(Debug)]
pub(in crate::decode) enum Shape {
    Null,
    Boolean,
    Int,
    Long,
    /// A long that is a time.
    Time(TimeUnitSpec),
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    /// An unscaled number of so many bytes (their count comes first where it is `None`), and its scale.
    Decimal(Option<usize>, u32),
    Enum(Vec<String>),
    Array(ShapeId),
    Map(ShapeId),
    Union(Vec<ShapeId>),
    Record(String, Vec<(String, ShapeId)>),
}

/// A parsed schema.
#[derive(Debug)]
pub(in crate::decode) struct AvroSchema {
    pub shapes: Vec<Shape>,
    pub root: ShapeId,
    /// Per shape: its values take no bytes.
    pub empty: Vec<bool>,
    /// CRC-64-AVRO of the canonical form.
    pub fingerprint: [u8; 8],
}

impl AvroSchema {
    /// The error is for people: what the parser says.
    pub fn parse(schema: &RegisteredSchema) -> Result<AvroSchema, String> {
        let references: Vec<&str> = schema.references.iter().map(|(_, text)| text.as_str()).collect();
        let (root, others) = match references.as_slice() {
            [] => (Schema::parse_str(&schema.text).map_err(|error| error.to_string())?, Vec::new()),
            references => Schema::parse_str_with_list(&schema.text, references).map_err(|error| error.to_string())?,
        };
        let mut builder = Builder { others: &others, shapes: Vec::new(), names: BTreeMap::new() };
        let fingerprint = root.fingerprint::<Rabin>().bytes;
        let root = builder.shape(&root, None)?;
        let shapes = builder.shapes;
        let fingerprint = fingerprint.try_into().map_err(|_| "its fingerprint has not 8 bytes".to_string())?;
        Ok(AvroSchema { empty: empty(&shapes), shapes, root, fingerprint })
    }

    /// How people call a shape.
    pub fn told(&self, id: ShapeId) -> String {
        match &self.shapes[id] {
            Shape::Null => "null".into(),
            Shape::Boolean => "boolean".into(),
            Shape::Int => "int".into(),
            Shape::Long => "long".into(),
            Shape::Time(unit) => format!("a timestamp in {}", unit.name()),
            Shape::Float => "float".into(),
            Shape::Double => "double".into(),
            Shape::Bytes => "bytes".into(),
            Shape::String => "string".into(),
            Shape::Fixed(size) => format!("fixed({size})"),
            Shape::Decimal(..) => "decimal".into(),
            Shape::Enum(_) => "an enum".into(),
            Shape::Array(_) => "an array".into(),
            Shape::Map(_) => "a map".into(),
            Shape::Union(branches) => {
                let names: Vec<String> = branches.iter().map(|&branch| self.told(branch)).collect();
                format!("a union of {}", names.join(", "))
            }
            Shape::Record(name, _) => format!("the record {name}"),
        }
    }

    /// The kind of a shape's values; `None` where it has parts.
    pub fn scalar(&self, id: ShapeId) -> Option<Scalar> {
        Some(match &self.shapes[id] {
            Shape::Null => Scalar::Null,
            Shape::Boolean => Scalar::Bool,
            Shape::Int | Shape::Long => Scalar::Whole,
            Shape::Time(unit) => Scalar::Time(*unit),
            Shape::Float | Shape::Double | Shape::Decimal(..) => Scalar::Number,
            Shape::String | Shape::Enum(_) => Scalar::Text,
            Shape::Bytes | Shape::Fixed(_) => Scalar::Other,
            Shape::Array(_) | Shape::Map(_) | Shape::Union(_) | Shape::Record(..) => return None,
        })
    }
}

struct Builder<'a> {
    /// Schemas that may be referred to.
    others: &'a [Schema],
    shapes: Vec<Shape>,
    names: BTreeMap<String, ShapeId>,
}

impl Builder<'_> {
    fn shape(&mut self, schema: &Schema, space: NamespaceRef<'_>) -> Result<ShapeId, String> {
        let shape = match schema {
            Schema::Null => Shape::Null,
            Schema::Boolean => Shape::Boolean,
            Schema::Int | Schema::Date | Schema::TimeMillis => Shape::Int,
            Schema::Long | Schema::TimeMicros => Shape::Long,
            Schema::TimestampMillis | Schema::LocalTimestampMillis => Shape::Time(TimeUnitSpec::Millis),
            Schema::TimestampMicros | Schema::LocalTimestampMicros => Shape::Time(TimeUnitSpec::Micros),
            Schema::TimestampNanos | Schema::LocalTimestampNanos => Shape::Time(TimeUnitSpec::Nanos),
            Schema::Float => Shape::Float,
            Schema::Double => Shape::Double,
            Schema::String | Schema::Uuid(UuidSchema::String) => Shape::String,
            Schema::Bytes | Schema::BigDecimal | Schema::Uuid(UuidSchema::Bytes) => Shape::Bytes,
            Schema::Decimal(decimal) => {
                let scale = u32::try_from(decimal.scale).map_err(|_| "a decimal's scale is too large".to_string())?;
                match &decimal.inner {
                    InnerDecimalSchema::Bytes => Shape::Decimal(None, scale),
                    InnerDecimalSchema::Fixed(fixed) => {
                        return Ok(self.named(&fixed.name, space, Shape::Decimal(Some(fixed.size), scale)));
                    }
                }
            }
            Schema::Fixed(fixed) | Schema::Duration(fixed) | Schema::Uuid(UuidSchema::Fixed(fixed)) => {
                return Ok(self.named(&fixed.name, space, Shape::Fixed(fixed.size)));
            }
            Schema::Enum(symbols) => {
                return Ok(self.named(&symbols.name, space, Shape::Enum(symbols.symbols.clone())));
            }
            Schema::Array(array) => Shape::Array(self.shape(&array.items, space)?),
            Schema::Map(map) => Shape::Map(self.shape(&map.types, space)?),
            Schema::Union(union) => {
                let branches: Result<_, String> =
                    union.variants().iter().map(|branch| self.shape(branch, space)).collect();
                Shape::Union(branches?)
            }
            Schema::Ref { name } => {
                let name = name.fully_qualified_name(space).fullname(None);
                if let Some(known) = self.names.get(&name) {
                    return Ok(*known);
                }
                let named = |other: &&Schema| other.name().is_some_and(|other| other.fullname(None) == name);
                return match self.others.iter().find(named) {
                    Some(other) => self.shape(other, None),
                    None => Err(format!("the type {name} is not defined")),
                };
            }
            Schema::Record(record) => {
                let name = record.name.fully_qualified_name(space).into_owned();
                // The name is known before the fields, because these may mention it.
                let id = self.named(&name, None, Shape::Null);
                let mut fields = Vec::with_capacity(record.fields.len());
                for field in &record.fields {
                    fields.push((field.name.clone(), self.shape(&field.schema, name.namespace())?));
                }
                self.shapes[id] = Shape::Record(name.fullname(None), fields);
                return Ok(id);
            }
        };
        self.shapes.push(shape);
        Ok(self.shapes.len() - 1)
    }

    fn named(&mut self, name: &Name, space: NamespaceRef<'_>, shape: Shape) -> ShapeId {
        self.shapes.push(shape);
        let id = self.shapes.len() - 1;
        self.names.insert(name.fully_qualified_name(space).fullname(None), id);
        id
    }
}

/// Which shapes have values that take no bytes. An array may claim any number of them.
fn empty(shapes: &[Shape]) -> Vec<bool> {
    // Records are taken for empty until a field is found that is not; a record that contains only itself stays so.
    let mut empty: Vec<bool> = shapes
        .iter()
        .map(|shape| matches!(shape, Shape::Null | Shape::Fixed(0) | Shape::Decimal(Some(0), _) | Shape::Record(..)))
        .collect();
    loop {
        let full = |empty: &Vec<bool>, id: usize| match &shapes[id] {
            Shape::Record(_, fields) => empty[id] && fields.iter().any(|(_, field)| !empty[*field]),
            _ => false,
        };
        let Some(found) = (0..shapes.len()).find(|&id| full(&empty, id)) else { return empty };
        empty[found] = false;
    }
}
