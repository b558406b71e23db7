//! Schema: `.proto` texts, or the descriptors that `protoc` makes of them, as a pool of message types.

use crate::event::RegisteredSchema;
use prost_reflect::{DescriptorPool, MessageDescriptor};
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

/// The compiled files.
#[derive(Clone, Debug)]
pub(in crate::decode) struct ProtobufSchema {
    pool: DescriptorPool,
    /// The file whose messages records hold; `None` for a set of descriptors, which has no first file.
    root: Option<String>,
}

/// The name of a text that has none.
const NAMELESS: &str = "schema.proto";

/// The texts that the schema and its imports consist of.
struct Texts {
    files: Vec<(String, String)>,
}

impl FileResolver for Texts {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match self.files.iter().find(|(known, _)| known == name) {
            Some((name, text)) => File::from_source(name, text),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

impl ProtobufSchema {
    /// The error is for people: what the compiler says.
    pub fn parse(schema: &RegisteredSchema) -> Result<ProtobufSchema, String> {
        let mut files = schema.references.clone();
        files.push((NAMELESS.into(), schema.text.clone()));
        let mut resolver = ChainFileResolver::new();
        resolver.add(Texts { files });
        resolver.add(GoogleFileResolver::new());
        let mut compiler = Compiler::with_file_resolver(resolver);
        compiler.include_imports(true);
        compiler.open_file(NAMELESS).map_err(|error| error.to_string())?;
        Ok(ProtobufSchema { pool: compiler.descriptor_pool(), root: Some(NAMELESS.into()) })
    }

    /// From what `protoc --descriptor_set_out --include_imports` writes.
    pub fn decode(descriptors: &[u8]) -> Result<ProtobufSchema, String> {
        let pool = DescriptorPool::decode(descriptors).map_err(|error| error.to_string())?;
        Ok(ProtobufSchema { pool, root: None })
    }

    /// The message of this name, or the only one there is; the error says what there is.
    pub fn message(&self, name: Option<&str>) -> Result<MessageDescriptor, String> {
        let own = |message: &MessageDescriptor| {
            let file = message.parent_file();
            let ours = self.root.as_ref().is_none_or(|root| file.name() == root);
            ours && !message.full_name().starts_with("google.protobuf.") && !message.is_map_entry()
        };
        let all: Vec<MessageDescriptor> = self.pool.all_messages().filter(own).collect();
        let names = || all.iter().map(MessageDescriptor::full_name).collect::<Vec<_>>().join(", ");
        match name {
            Some(name) => {
                let mut named = self
                    .pool
                    .all_messages()
                    .filter(|message| message.full_name() == name || (own(message) && message.name() == name));
                named.next().ok_or_else(|| format!("there is no message {name}; there are {}", names()))
            }
            None => match all.iter().filter(|message| message.parent_message().is_none()).collect::<Vec<_>>()[..] {
                [only] => Ok(only.clone()),
                [] => Err("there is no message".into()),
                _ => Err(format!("there are several messages: {}", names())),
            },
        }
    }

    /// The message at these places, as the Confluent wire format counts: first among the file's, then among those
    /// within.
    pub fn message_at(&self, places: &[i64]) -> Option<MessageDescriptor> {
        let file = self.pool.get_file_by_name(self.root.as_deref()?)?;
        let (first, within) = places.split_first()?;
        let mut message = file.messages().nth(usize::try_from(*first).ok()?)?;
        for place in within {
            let mut children = message.child_messages();
            let child = children.nth(usize::try_from(*place).ok()?);
            drop(children);
            message = child?;
        }
        Some(message)
    }
}
