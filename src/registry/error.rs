//! Why the registry gave no answer.

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(
        "schema registry {connection} at {url}: {what}. Check `connections.{connection}.schema_registry`, and that the \
         registry runs and can be reached from here"
    )]
    Away { connection: String, url: String, what: String },
    #[error(
        "schema registry {connection} at {url} refuses to answer: HTTP {status}. Check `username`, `password` and `token` \
         of `connections.{connection}.schema_registry`, and that this user may read schemas"
    )]
    Refused { connection: String, url: String, status: u16 },
    #[error(
        "schema registry {connection} at {url} does not take the schema of the rows as the next version of subject {subject}: \
         {what}. Let the subject's compatibility level allow the change, or send the rows to another topic"
    )]
    Incompatible { connection: String, url: String, subject: String, what: String },
    #[error("connections.{connection}.schema_registry: {what}")]
    Settings { connection: String, what: String },
}

impl RegistryError {
    /// Whether asking again can help.
    pub fn retry(&self) -> bool {
        matches!(self, RegistryError::Away { .. })
    }
}
