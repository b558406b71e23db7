//! Avro: a writer's schema becomes a plan to read its records, and a record becomes the tape that JSON becomes, too.
//!
//! ```text
//!   schema text ─ parse ─> shapes ─ along the declared paths ─> Read ─┐
//!   record bytes ─────────────────────────────────────────────────────┴─> tape of the fields that columns read
//! ```
//!
//! Holds: fields are found by name in the schema that a record was written with; what no column reads is passed over,
//! not kept. A record that is cut off, goes on after its end, or leaves its schema is refused as a whole.
//! Does not: follow aliases; a column reads the one path that it names.

mod plan;
mod read;
mod shape;
pub(super) use plan::AvroPlan;
pub(super) use shape::AvroSchema;

/// The first bytes of a single object, before the fingerprint of its schema.
pub(super) const SINGLE_OBJECT: [u8; 2] = [0xc3, 0x01];
