//! Left: where files lie that the process before committed, when its pipeline file named other places.

use crate::commit::Manifest;
use crate::config::Plan;
use crate::env::{BucketSpec, Place, Store, open_place};
use crate::pipeline::RunError;
use crate::pipeline::build::places;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The stores of files that the last manifest names and that the plan would look for elsewhere, or not at all.
pub(super) fn left_behind(plan: &Plan, head: &Manifest) -> Result<BTreeMap<String, Arc<dyn Store>>, RunError> {
    let (now, mut left) = (places(plan), BTreeMap::new());
    for (sink, before) in &head.places {
        let named = head.files.iter().any(|entry| entry.sink == *sink);
        if !named || now.get(sink).is_some_and(|place| place.to_string() == *before) {
            continue;
        }
        let place =
            Place::parse(before).map_err(|found| RunError::Unsupported(format!("{sink} was written to {found}")))?;
        left.insert(sink.clone(), open_place(&with_options(place, &now, &plan.state.path))?);
    }
    Ok(left)
}

/// A bucket is reached as the pipeline file says for another place in it.
fn with_options(place: Place, places: &BTreeMap<String, Place>, state: &Place) -> Place {
    let Place::Bucket(spec) = place else { return place };
    let alike = places.values().chain([state]).find_map(|other| match other {
        Place::Bucket(other) if (other.cloud, &other.bucket) == (spec.cloud, &spec.bucket) => {
            Some(other.options.clone())
        }
        _ => None,
    });
    Place::Bucket(BucketSpec { options: alike.unwrap_or_default(), ..spec })
}
