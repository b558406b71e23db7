//! Data: the demo's events, made once and used again while the options stay the same.

use crate::cli::demo::DemoArgs;
use crate::cli::generate::{GenEvents, GenOptions, GenSummary, generate};
use serde::Deserialize;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// The events of the demo.
pub struct Events {
    pub truth: GenSummary,
    pub bytes: u64,
    /// Whether an earlier demo had made them.
    pub kept: bool,
}

impl Events {
    /// Records in all files.
    pub fn records(&self) -> u64 {
        let truth = &self.truth;
        truth.slates
            + truth.duplicate_slates
            + truth.malformed_slates
            + truth.clicks
            + truth.duplicate_clicks
            + truth.malformed_clicks
            + truth.conversions
            + truth.duplicate_conversions
            + truth.malformed_conversions
    }
}

const FILES: [&str; 3] = ["impressions.ndjson", "clicks.ndjson", "conversions.ndjson"];
const OPTIONS: &str = "options.txt";

/// Makes the events, unless they are there already.
pub fn prepare(args: &DemoArgs) -> Result<Events, String> {
    let options = GenOptions {
        out: args.data.clone(),
        events: GenEvents::Demo,
        users: 2_000,
        items: 500,
        impressions: args.impressions,
        seed: args.seed,
        minutes: 1440,
        rate: None,
        start: 1_767_225_600_000,
        // The log ends now, as a log does: online features are those of people who are active.
        tail: Some(0),
    };
    let marker = args.data.join(OPTIONS);
    let wanted = format!("{} {options:?}\n", env!("CARGO_PKG_VERSION"));
    if let Some((truth, bytes)) = kept(&args.data, &wanted) {
        return Ok(Events { truth, bytes, kept: true });
    }
    let failed = |error: std::io::Error| format!("cannot make the events in {}: {error}", args.data.display());
    if marker.exists() {
        fs::remove_file(&marker).map_err(failed)?;
    }
    let truth = generate(&options).map_err(failed)?;
    // Written last: without it the files may be half there.
    fs::write(&marker, &wanted).map_err(failed)?;
    let bytes = kept(&args.data, &wanted).map_or(0, |(_, bytes)| bytes);
    Ok(Events { truth, bytes, kept: false })
}

fn kept(folder: &Path, wanted: &str) -> Option<(GenSummary, u64)> {
    if fs::read_to_string(folder.join(OPTIONS)).ok()? != wanted {
        return None;
    }
    let truth = serde_json::from_str(&fs::read_to_string(folder.join("truth.json")).ok()?).ok()?;
    let sizes = FILES.iter().map(|name| Some(fs::metadata(folder.join(name)).ok()?.len()));
    Some((truth, sizes.sum::<Option<u64>>()?))
}

/// A slate as it stands in the log.
#[derive(Deserialize, Debug)]
pub struct Slate {
    pub user_id: String,
    pub items: Vec<Item>,
}

#[derive(Deserialize, Debug)]
pub struct Item {
    pub id: String,
    pub price: f64,
}

/// How much of the end of the log is looked at.
const TAIL_BYTES: u64 = 1 << 16;

/// The last well-formed slate of the log.
pub fn last_slate(folder: &Path) -> Result<Slate, String> {
    let path = folder.join(FILES[0]);
    let read = || {
        let mut file = fs::File::open(&path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error: std::io::Error| format!("cannot read {}: {error}", path.display()))?;
    let slates = bytes.split(|byte| *byte == b'\n').rev().filter_map(|line| serde_json::from_slice(line).ok());
    slates.into_iter().next().ok_or_else(|| format!("{} ends without a slate", path.display()))
}
