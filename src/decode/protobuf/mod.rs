//! Protobuf: a message type becomes a plan to read its messages, and a message becomes the tape that JSON becomes, too.
//!
//! Holds: what the Protobuf specification asks of a reader: fields in any order, the last of several values counts, parts
//! of a message add up, of a `oneof` the last member counts, repeated numbers come packed or not, unknown fields are
//! passed over. A field without presence that is not in the message has its type's zero value, as everywhere in
//! Protobuf; one with presence (`optional`, messages, members of a `oneof`) is missing.
//! A field of another wire type than the schema says refuses the message: it was written by another schema.

mod plan;
mod read;
mod schema;
pub(super) use plan::ProtobufPlan;
pub(super) use read::Got;
pub(super) use schema::ProtobufSchema;
