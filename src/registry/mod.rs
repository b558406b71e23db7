//! Registry: finds the schema that a record was written with, by the id that the record carries, and the id of a schema
//! that records are written with.
//!
//! In: an id. Out: the schema's text with all that it refers to, or that the registry does not know it. In: a schema and its
//! subject. Out: its id.
//! Holds: nothing is remembered here; an id means the same schema for ever, so who asks may remember. Passwords and
//! tokens go into requests and nowhere else.
//! Does not: wait for a registry that is away; it says so, and the pipeline asks again.

mod client;
mod error;
mod spec;
pub use client::RegistryClient;
pub use error::RegistryError;
pub use spec::*;
