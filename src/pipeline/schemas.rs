//! Schemas: tells decoders what they need beside the records: what the registry holds under the ids that records name, before they decode them.
//!
//! ```text
//!   raw batch ─> decoder.wants ─ ids ─> kept here? ─ no ─> registry (waits while it is away)
//!                decoder.learn <─ schema ──┘                 └ does not know the id: its records are dead letters
//! ```
//!
//! Holds: a schema is fetched once per running cell and kept; a batch without a new id asks for nothing. A registry that is
//! away holds reading back, as brokers that are away do, and never makes a dead letter. A registry may be behind the
//! producer that registered a schema with it, so an unknown id is asked for again for a moment; many of them in a row
//! are no such race and wait no longer.

use crate::config::Plan;
use crate::decode::Decoder;
use crate::env::Clock;
use crate::event::{DecodedBatch, Enrich, EnrichError, RawBatch, RegisteredSchema};
use crate::pipeline::enrich::Enricher;
use crate::pipeline::{Board, Dimensions, RunError, StopSignal};
use crate::registry::RegistryClient;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Schemas that are kept per registry, and ids that it does not know; beyond, they are forgotten and asked for again.
const KEPT_MAX: usize = 4096;
/// How often and in what distance an unknown id is asked for again.
const UNKNOWN_PAUSES_MS: [u64; 3] = [250, 500, 1000];
/// How long an unknown id is believed to be unknown, and others after it get no second question.
const UNKNOWN_FOR_MS: u64 = 30_000;
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

pub struct Schemas {
    /// Per stream.
    shelves: Vec<Option<Arc<Shelf>>>,
    told: Mutex<BTreeSet<String>>,
    /// What looks rows up, for those who do so again.
    pub(super) enricher: Option<Arc<Enricher>>,
    clock: Arc<dyn Clock>,
    board: Board,
    stop: StopSignal,
}

/// What is known of one registry.
struct Shelf {
    client: RegistryClient,
    // Held while the registry is asked, so that two workers do not ask for the same.
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    schemas: BTreeMap<u32, Arc<RegisteredSchema>>,
    /// With the time until which they are believed to be unknown.
    unknown: BTreeMap<u32, u64>,
    /// Until then an unknown id is no race.
    hurried_until: u64,
}

impl Schemas {
    /// Opens the dimensions of the plan where none are given.
    pub fn new(
        plan: &Plan,
        dimensions: Option<Arc<Dimensions>>,
        clock: Arc<dyn Clock>,
        board: Board,
        stop: StopSignal,
    ) -> Result<Schemas, RunError> {
        let dimensions = dimensions.map_or_else(|| Dimensions::open(plan, &clock, &board, &stop), Ok)?;
        let enricher = Enricher::new(plan, &dimensions, clock.clone(), board.clone(), stop.clone());
        let mut by_connection: BTreeMap<&str, Arc<Shelf>> = BTreeMap::new();
        let mut shelves = Vec::with_capacity(plan.streams.len());
        for stream in &plan.streams {
            shelves.push(match &stream.registry {
                None => None,
                Some(spec) => Some(match by_connection.get(spec.connection.as_str()) {
                    Some(shelf) => shelf.clone(),
                    None => {
                        let client = RegistryClient::new(spec.clone())?;
                        let shelf = Arc::new(Shelf { client, kept: Mutex::default() });
                        by_connection.insert(&spec.connection, shelf.clone());
                        shelf
                    }
                }),
            });
        }
        Ok(Schemas { shelves, told: Mutex::default(), enricher, clock, board, stop })
    }

    /// Decodes a batch of the decoder's stream; `None` when a stop was requested while the registry or a dimension was away.
    pub fn decode(&self, decoder: &mut Decoder, raw: &RawBatch) -> Result<Option<DecodedBatch>, RunError> {
        self.taught(decoder, raw, |decoder, enrich| decoder.decode_with(raw, enrich))
    }

    /// As [`Schemas::decode`], and for each accepted row the index of its record in `raw`.
    pub fn decode_with_origins(
        &self,
        decoder: &mut Decoder,
        raw: &RawBatch,
    ) -> Result<Option<(DecodedBatch, Vec<u32>)>, RunError> {
        self.taught(decoder, raw, |decoder, enrich| decoder.decode_with_origins(raw, enrich))
    }

    fn taught<T>(
        &self,
        decoder: &mut Decoder,
        raw: &RawBatch,
        decode: impl FnOnce(&mut Decoder, Option<&dyn Enrich>) -> Result<T, EnrichError>,
    ) -> Result<Option<T>, RunError> {
        if !self.teach(decoder, raw)? {
            return Ok(None);
        }
        let decoded = decode(decoder, self.enricher.as_deref().map(|enricher| enricher as &dyn Enrich));
        self.tell(decoder);
        match decoded {
            Ok(decoded) => Ok(Some(decoded)),
            Err(EnrichError::Stopped) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells the decoder the schemas that `raw` needs; false when a stop was requested while the registry was away.
    fn teach(&self, decoder: &mut Decoder, raw: &RawBatch) -> Result<bool, RunError> {
        let Some(shelf) = &self.shelves[decoder.spec().stream as usize] else { return Ok(true) };
        for id in decoder.wants(raw) {
            match self.find(shelf, id)? {
                Found::Schema(schema) => decoder.learn(id, &schema),
                Found::Unknown => {}
                Found::Stopped => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Says once what a schema lacks.
    fn tell(&self, decoder: &mut Decoder) {
        for news in decoder.schema_news() {
            if self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(news.clone()) {
                tracing::warn!("{news}; records that need it are dead letters");
            }
        }
    }

    fn find(&self, shelf: &Shelf, id: u32) -> Result<Found, RunError> {
        let mut kept = shelf.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(schema) = kept.schemas.get(&id) {
            return Ok(Found::Schema(schema.clone()));
        }
        let now = self.clock.monotonic_ms();
        if kept.unknown.get(&id).is_some_and(|until| now < *until) {
            return Ok(Found::Unknown);
        }
        let no_race = now < kept.hurried_until || kept.unknown.contains_key(&id);
        let pauses: &[u64] = if no_race { &[] } else { &UNKNOWN_PAUSES_MS };
        let mut pauses = pauses.iter();
        loop {
            match self.fetch(shelf, id)? {
                Asked::Stopped => return Ok(Found::Stopped),
                Asked::Answer(Some(schema)) => {
                    let schema = Arc::new(schema);
                    if kept.schemas.len() >= KEPT_MAX {
                        kept.schemas.clear();
                    }
                    kept.schemas.insert(id, schema.clone());
                    return Ok(Found::Schema(schema));
                }
                Asked::Answer(None) => {
                    let Some(pause) = pauses.next() else { break };
                    if self.stop.wait(Duration::from_millis(*pause)) {
                        return Ok(Found::Stopped);
                    }
                }
            }
        }
        let until = self.clock.monotonic_ms() + UNKNOWN_FOR_MS;
        if kept.unknown.len() >= KEPT_MAX {
            kept.unknown.clear();
        }
        kept.unknown.insert(id, until);
        kept.hurried_until = until;
        tracing::warn!("the schema registry does not know the schema {id}; records that name it are dead letters");
        Ok(Found::Unknown)
    }

    /// Asks until there is an answer.
    fn fetch(&self, shelf: &Shelf, id: u32) -> Result<Asked, RunError> {
        let (mut backoff, mut problem) = (BACKOFF_MIN, false);
        loop {
            match shelf.client.schema(id) {
                Ok(answer) => {
                    if problem {
                        tracing::info!("the schema registry answers again");
                        self.board.update(|view| view.connection_problem = None);
                    }
                    return Ok(Asked::Answer(answer));
                }
                Err(error) if error.retry() => {
                    tracing::warn!("{error}; reading waits for it, trying again in {:.1} s", backoff.as_secs_f64());
                    self.board.update(|view| view.connection_problem = Some(error.to_string()));
                    problem = true;
                }
                Err(error) => return Err(error.into()),
            }
            if self.stop.wait(backoff) {
                return Ok(Asked::Stopped);
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }
}

enum Found {
    Schema(Arc<RegisteredSchema>),
    Unknown,
    Stopped,
}

enum Asked {
    Answer(Option<RegisteredSchema>),
    Stopped,
}
