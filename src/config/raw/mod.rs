//! Raw: a pipeline file as serde types, one field per key; the doc comments are the reference for users.
//!
//! docs/CONFIG.md and schemas/pipeline.schema.json are generated from here, and the shape check holds files against the
//! same schema, so that a file is read only after it fits. `x-later` marks what is known and not supported yet: the
//! shape check refuses it by name.
//!
//! Holds: mappings keep the order of the file.
//! Does not: resolve names or defaults; `check` does.

#![expect(
    dead_code,
    reason = "keys that can only be refused, or mean nothing but their default, are known and never read"
)]

mod dimension;
mod pipeline;
mod read;
mod sample;
mod scalar;
mod stream;
mod test;

pub use dimension::*;
pub use pipeline::*;
pub use read::from_tree;
pub use sample::*;
pub use scalar::*;
pub use stream::*;
pub use test::*;
