//! The text of a schema as a registry or a file holds it: found by one stage, understood by another.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaKind {
    Avro,
    Protobuf,
    /// JSON Schema and whatever else a registry may hold.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredSchema {
    pub kind: SchemaKind,
    pub text: String,
    /// What the text refers to, by the name that it uses.
    pub references: Vec<(String, String)>,
}
