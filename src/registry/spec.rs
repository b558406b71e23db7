//! Which schema registry, and as whom.

use std::fmt;

/// A registry that speaks the Confluent Schema Registry API.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistrySpec {
    /// The name under `connections:`.
    pub connection: String,
    /// What the paths of the API are put after.
    pub url: String,
    pub username: Option<String>,
    pub password: Option<String>,
    /// A bearer token, instead of name and password.
    pub token: Option<String>,
    /// A file of certificates in PEM that are trusted besides those of the system.
    pub ca: Option<String>,
}

/// Without secrets.
impl fmt::Debug for RegistrySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrySpec").field("connection", &self.connection).finish_non_exhaustive()
    }
}
