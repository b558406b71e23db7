//! Client: the requests of the Confluent Schema Registry API that a reader and a writer need.
//!
//! ```text
//!   GET /schemas/ids/{id}                              the text, its kind and its references
//!   GET /subjects/{subject}/versions/{version}         what a reference points at
//!   POST /subjects/{subject}/versions                  the id of a schema, registered if it is new
//! ```
//!
//! The HTTP client knows nothing but async, so it has a small runtime in which its callers run it.

use super::{RegistryError, RegistrySpec};
use crate::event::{RegisteredSchema, SchemaKind};
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use std::time::Duration;
use tokio::runtime::Runtime;

const REQUEST_MAX: Duration = Duration::from_secs(10);
const CONTENT_TYPE: &str = "application/vnd.schemaregistry.v1+json";
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Bytes of one answer.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Schemas that one schema may refer to, in all.
const REFERENCES_MAX: usize = 256;

pub struct RegistryClient {
    spec: RegistrySpec,
    base: Url,
    http: Client,
    runtime: Runtime,
}

#[derive(Deserialize)]
struct Answer {
    schema: String,
    #[serde(rename = "schemaType")]
    kind: Option<String>,
    #[serde(default)]
    references: Vec<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    name: String,
    subject: String,
    version: u32,
}

impl RegistryClient {
    /// Connects to nothing.
    pub fn new(spec: RegistrySpec) -> Result<RegistryClient, RegistryError> {
        let settings = |what: String| RegistryError::Settings { connection: spec.connection.clone(), what };
        let base = Url::parse(&spec.url).map_err(|error| settings(format!("`url` is no URL: {error}")))?;
        // Requests are rare and nothing runs between them: a connection that was kept would be a dead one.
        let mut http = Client::builder().timeout(REQUEST_MAX).connect_timeout(CONNECT_MAX).pool_max_idle_per_host(0);
        if let Some(path) = &spec.ca {
            let pem = std::fs::read(path).map_err(|error| settings(format!("`ca` {path} cannot be read: {error}")))?;
            let certificates = Certificate::from_pem_bundle(&pem)
                .map_err(|error| settings(format!("`ca` {path} holds no certificates in PEM: {error}")))?;
            http = certificates.into_iter().fold(http, |http, certificate| http.add_root_certificate(certificate));
        }
        let http = http.build().map_err(|error| settings(format!("no HTTP client can be made: {error}")))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| settings(format!("no runtime for the HTTP client: {error}")))?;
        Ok(RegistryClient { spec, base, http, runtime })
    }

    /// `None`: the registry does not know the id.
    pub fn schema(&self, id: u32) -> Result<Option<RegisteredSchema>, RegistryError> {
        self.runtime.block_on(async {
            let Some(answer) = self.get(&["schemas", "ids", &id.to_string()]).await? else { return Ok(None) };
            let mut references = Vec::new();
            self.follow(&answer.references, &mut references).await?;
            let kind = match answer.kind.as_deref() {
                None | Some("AVRO") => SchemaKind::Avro,
                Some("PROTOBUF") => SchemaKind::Protobuf,
                Some(_) => SchemaKind::Other,
            };
            Ok(Some(RegisteredSchema { kind, text: answer.schema, references }))
        })
    }

    /// The id of an Avro schema under a subject, which gets it as its next version unless it has it.
    pub fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        #[derive(Deserialize)]
        struct Registered {
            id: u32,
        }
        #[derive(Deserialize, Default)]
        struct Problem {
            #[serde(default)]
            message: String,
        }
        let body = serde_json::json!({ "schemaType": "AVRO", "schema": schema }).to_string();
        self.runtime.block_on(async {
            let url = self.url(&["subjects", subject, "versions"])?;
            let request = self.http.post(url).header("content-type", CONTENT_TYPE).body(body);
            let response = self.send(request).await?;
            let status = response.status();
            let bytes = self.body(response).await?;
            match status {
                StatusCode::OK => {
                    let registered: Result<Registered, _> = serde_json::from_slice(&bytes);
                    registered
                        .map(|answer| answer.id)
                        .map_err(|error| self.away(format!("the answer is no id: {error}")))
                }
                StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => Err(RegistryError::Incompatible {
                    connection: self.spec.connection.clone(),
                    url: self.shown(),
                    subject: subject.into(),
                    what: serde_json::from_slice::<Problem>(&bytes).unwrap_or_default().message,
                }),
                status => Err(self.refused_or_away(status)),
            }
        })
    }

    /// Adds what is referred to, and what that refers to. What is gone is left out: the schema then cannot be
    /// understood, which is found where it is tried.
    async fn follow(&self, first: &[Reference], found: &mut Vec<(String, String)>) -> Result<(), RegistryError> {
        let mut open: Vec<(String, String, u32)> = Vec::new();
        let entry = |reference: &Reference| (reference.name.clone(), reference.subject.clone(), reference.version);
        open.extend(first.iter().map(entry));
        while let Some((name, subject, version)) = open.pop() {
            if found.iter().any(|(known, _)| *known == name) || found.len() >= REFERENCES_MAX {
                continue;
            }
            let path = ["subjects", &subject, "versions", &version.to_string()];
            if let Some(answer) = self.get(&path).await? {
                open.extend(answer.references.iter().map(entry));
                found.push((name, answer.schema));
            }
        }
        Ok(())
    }

    async fn get(&self, path: &[&str]) -> Result<Option<Answer>, RegistryError> {
        let response = self.send(self.http.get(self.url(path)?)).await?;
        match response.status() {
            StatusCode::OK => self.answer(response).await.map(Some),
            StatusCode::NOT_FOUND => self.not_found(response).await,
            status => Err(self.refused_or_away(status)),
        }
    }

    fn url(&self, path: &[&str]) -> Result<Url, RegistryError> {
        let mut url = self.base.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => drop(segments.pop_if_empty().extend(path)),
            Err(()) => return Err(self.away("the URL has no path to put anything after".into())),
        }
        Ok(url)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, RegistryError> {
        let request = request.header("accept", "application/vnd.schemaregistry.v1+json, application/json");
        let request = match (&self.spec.token, &self.spec.username) {
            (Some(token), _) => request.bearer_auth(token),
            (None, Some(username)) => request.basic_auth(username, self.spec.password.as_ref()),
            (None, None) => request,
        };
        // The error of a request may show its URL, in which a password may stand.
        request.send().await.map_err(|error| self.away(told(&error.without_url())))
    }

    fn refused_or_away(&self, status: StatusCode) -> RegistryError {
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Refused {
                connection: self.spec.connection.clone(),
                url: self.shown(),
                status: status.as_u16(),
            },
            status => self.away(format!("HTTP {}", status.as_u16())),
        }
    }

    async fn answer(&self, response: Response) -> Result<Answer, RegistryError> {
        let bytes = self.body(response).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.away(format!("the answer is no schema: {error}")))
    }

    /// Only the registry's own word counts: a proxy or another server at this address says 404, too.
    async fn not_found(&self, response: Response) -> Result<Option<Answer>, RegistryError> {
        #[derive(Deserialize)]
        struct Problem {
            error_code: i64,
        }
        let bytes = self.body(response).await?;
        match serde_json::from_slice::<Problem>(&bytes) {
            Ok(Problem { error_code: 404 | 40401..=40403 }) => Ok(None),
            _ => Err(self.away("HTTP 404 from what is no schema registry; is the path of `url` right?".into())),
        }
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.away(told(&error.without_url())))? {
            if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(self.away(format!("the answer has more than {ANSWER_BYTES_MAX} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn away(&self, what: String) -> RegistryError {
        RegistryError::Away { connection: self.spec.connection.clone(), url: self.shown(), what }
    }

    /// The URL without a password.
    fn shown(&self) -> String {
        let mut url = self.base.clone();
        // Fails for URLs that have no host, and these have no password either.
        let _ = url.set_password(None);
        let _ = url.set_username("");
        url.to_string()
    }
}

/// An error with what is behind it.
fn told(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}
