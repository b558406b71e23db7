//! Survey: a look at every manifest that a chain still keeps, for people and for checks, beside a running process.
//!
//! Holds: reads alone; a manifest that is forgotten between the listing and the look is no damage.

use crate::commit::chain::{ChainError, numbers, path_of, read};
use crate::commit::manifest::Manifest;
use crate::commit::protocol;
use crate::env::Store;

/// A process that commits every second forgets manifests in lots of twenty: a second look finds those that stayed.
const LOOKS_MAX: usize = 5;

/// One manifest as it lies in the store.
#[derive(Clone, Debug)]
pub struct Link {
    pub manifest: Manifest,
    pub sha256: String,
    pub bytes: u64,
}

/// A manifest that cannot be read, or does not follow the one before it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// Where it lies, for people.
    pub path: String,
    pub found: String,
}

/// What is there of a chain.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Those that can be read, by number.
    pub links: Vec<Link>,
    pub damaged: Vec<Damage>,
}

impl Survey {
    /// The newest manifest. Damage of the newest one is an error: what it says cannot be known.
    pub fn head(&self) -> Option<&Link> {
        self.links.last()
    }
}

/// Reads every manifest. The newest one must be whole; older ones that are not are told.
pub fn survey(store: &dyn Store) -> Result<Survey, ChainError> {
    let mut looks = 0;
    loop {
        looks += 1;
        match look(store) {
            Err(ChainError::Store(error)) if error.is_not_found() && looks < LOOKS_MAX => {}
            other => return other,
        }
    }
}

fn look(store: &dyn Store) -> Result<Survey, ChainError> {
    let numbers = numbers(store)?;
    let mut survey = Survey::default();
    for number in &numbers {
        match read(store, *number) {
            Ok((manifest, sha256)) => {
                let bytes = store.size(&path_of(*number))?.unwrap_or(0);
                survey.links.push(Link { manifest, sha256, bytes });
            }
            Err(ChainError::Damaged { path, found }) if Some(number) != numbers.last() => {
                survey.damaged.push(Damage { path, found });
            }
            Err(error) => return Err(error),
        }
    }
    for pair in survey.links.windows(2) {
        let (parent, child) = (&pair[0], &pair[1]);
        if child.manifest.number != parent.manifest.number + 1 {
            // What lies between them is damaged, and told, or was lost.
            let path = store.describe(&path_of(parent.manifest.number + 1));
            if !survey.damaged.iter().any(|damage| damage.path == path) {
                survey.damaged.push(Damage { path, found: "it is missing, but an older one is there".into() });
            }
        } else if let Err(found) = protocol::check_successor(&parent.manifest, &parent.sha256, &child.manifest) {
            survey.damaged.push(Damage { path: store.describe(&path_of(child.manifest.number)), found });
        }
    }
    Ok(survey)
}
