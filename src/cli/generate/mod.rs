//! Generate: synthetic events with a known truth, to try a pipeline without data of one's own.
//!
//! ```text
//!   world(seed) ─ slates ─┬─> impressions.ndjson   {"request_id","user_id","ts","device","items":[{"id","price"},…]}
//!                         ├─> clicks.ndjson        {"event_id","request_id","item_id","user_id","ts"}
//!                         ├─> conversions.ndjson   {"event_id","request_id","item_id","user_id","ts","value"}
//!                         └─> truth.json           what a right join of them finds
//! ```
//!
//! Holds: the same options give the same bytes, everywhere; files are in order of arrival, which is at most five seconds
//! after the event; memory does not grow with the number of impressions.
//! Does not: read a clock or anything else from outside.

mod out;
mod random;
mod world;

use out::StreamFile;
use random::{Random, mix};
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use world::World;

/// Which kind of events to make up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum GenEvents {
    /// Slates of items, clicks and conversions of a shop.
    #[default]
    Demo,
}

#[derive(Clone, Debug, clap::Args)]
pub struct GenOptions {
    /// Folder for the files; it is made if need be, files of the same names are replaced
    #[arg(long, default_value = "data/demo")]
    pub out: PathBuf,
    /// What the events are about
    #[arg(long, value_enum, default_value_t)]
    pub events: GenEvents,
    #[arg(long, default_value_t = 2_000)]
    pub users: u32,
    #[arg(long, default_value_t = 500)]
    pub items: u32,
    /// Items shown in all; one record shows four to ten of them
    #[arg(long, default_value_t = 200_000)]
    pub impressions: u64,
    /// The same seed gives the same files
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Minutes of event time that the impressions spread over, busier by day than by night
    #[arg(long, default_value_t = 1440, conflicts_with = "rate")]
    pub minutes: u32,
    /// Items shown per second of event time, instead of --minutes
    #[arg(long)]
    pub rate: Option<f64>,
    /// Minutes after the last impression at which the log ends: later clicks and conversions are not in it [default: all
    /// are]
    #[arg(long)]
    pub tail: Option<u32>,
    /// Event time of the first impression, in ms since 1970
    #[arg(long, default_value_t = 1_767_225_600_000)]
    pub start: i64,
}

/// What was written, and what a right join finds in it. Counts are without duplicates and malformed records.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct GenSummary {
    /// Records of impressions.ndjson.
    pub slates: u64,
    /// Items shown in them: the rows of a training set.
    pub impressions: u64,
    pub clicks: u64,
    pub conversions: u64,
    /// Second copies of records: slates, clicks and conversions.
    pub duplicate_slates: u64,
    /// Items shown in the second copies of slates.
    pub duplicate_impressions: u64,
    pub duplicate_clicks: u64,
    pub duplicate_conversions: u64,
    /// Additional records that cannot be decoded.
    pub malformed_slates: u64,
    pub malformed_clicks: u64,
    pub malformed_conversions: u64,
    /// Impressions with a click at most ten minutes later.
    pub clicked_within_10m: u64,
    /// Impressions with a conversion at most thirty minutes later.
    pub converted_within_30m: u64,
    /// The AUC of the click probabilities that drew the clicks: no model can do better.
    pub best_auc: f64,
    pub first_ts: i64,
    /// Of the last impression; clicks and conversions come later.
    pub last_impression_ts: i64,
}

const CLICK_WINDOW_MS: i64 = 10 * 60_000;
const CONVERSION_WINDOW_MS: i64 = 30 * 60_000;

/// Writes the files; the numbers returned are those of truth.json.
pub fn generate(options: &GenOptions) -> io::Result<GenSummary> {
    let wrong = |message: &str| io::Error::new(io::ErrorKind::InvalidInput, message);
    if options.users == 0 || options.items == 0 || options.impressions == 0 || options.minutes == 0 {
        return Err(wrong("--users, --items, --impressions and --minutes must be at least 1"));
    }
    if options.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
        return Err(wrong("--rate must be above 0"));
    }
    fs::create_dir_all(&options.out)
        .map_err(|error| io::Error::new(error.kind(), format!("{} cannot be made: {error}", options.out.display())))?;
    let GenEvents::Demo = options.events;
    let mut run = Run::new(options)?;
    run.slates()?;
    let summary = run.finish()?;
    let truth = serde_json::to_string_pretty(&summary).map_err(io::Error::other)?;
    fs::write(options.out.join("truth.json"), truth + "\n")?;
    Ok(summary)
}

struct Run<'a> {
    options: &'a GenOptions,
    world: World,
    random: Random,
    summary: GenSummary,
    auc: AucCounts,
    /// Clicks and conversions after it are not in the log.
    end_ms: i64,
    impressions: StreamFile,
    clicks: StreamFile,
    conversions: StreamFile,
    line: Vec<u8>,
}

/// One item as it was shown.
struct Shown {
    request: u64,
    user: u32,
    item: u32,
    place: usize,
    ts: i64,
}

impl<'a> Run<'a> {
    fn new(options: &'a GenOptions) -> io::Result<Self> {
        Ok(Run {
            options,
            world: World::new(options.users, options.items, &mut Random::new(options.seed, 1)),
            random: Random::new(options.seed, 2),
            summary: GenSummary::default(),
            auc: AucCounts::new(),
            end_ms: options
                .tail
                .map_or(i64::MAX, |tail| options.start + span_ms(options) as i64 + tail as i64 * 60_000),
            impressions: StreamFile::create(&options.out, "impressions.ndjson")?,
            clicks: StreamFile::create(&options.out, "clicks.ndjson")?,
            conversions: StreamFile::create(&options.out, "conversions.ndjson")?,
            line: Vec::new(),
        })
    }

    fn slates(&mut self) -> io::Result<()> {
        let total = self.options.impressions;
        let rhythm = Rhythm::new(self.options.start, span_ms(self.options));
        let mut slate = Vec::new();
        while self.summary.impressions < total {
            let length = (4 + self.random.below(7)).min(total - self.summary.impressions) as usize;
            self.world.draw_slate(length, &mut slate, &mut self.random);
            let ts = self.options.start + rhythm.at(self.summary.impressions as f64 / total as f64) as i64;
            let request = mix(mix(self.options.seed) ^ self.summary.slates);
            let user = self.world.draw_user(&mut self.random);
            self.show(request, user, ts, &slate);
            for (place, &item) in slate.iter().enumerate() {
                self.follow(Shown { request, user, item, place, ts });
            }
            self.impressions.flush_until(ts)?;
            self.clicks.flush_until(ts)?;
            self.conversions.flush_until(ts)?;
        }
        Ok(())
    }

    fn show(&mut self, request: u64, user: u32, ts: i64, slate: &[u32]) {
        let device = self.world.device(user, &mut self.random);
        self.line.clear();
        write_line(
            &mut self.line,
            format_args!(
                r#"{{"request_id":"{request:016x}","user_id":"u{user:06}","ts":{ts},"device":"{device}","items":["#
            ),
        );
        for (place, &item) in slate.iter().enumerate() {
            let (comma, cents) = (if place > 0 { "," } else { "" }, self.world.price_cents(item));
            let price = format_args!(r#"{comma}{{"id":"i{item:06}","price":{}.{:02}}}"#, cents / 100, cents % 100);
            write_line(&mut self.line, price);
        }
        write_line(&mut self.line, format_args!("]}}"));
        if self.impressions.add(ts, &self.line, &mut self.random) {
            self.summary.duplicate_impressions += slate.len() as u64;
        }
        if self.summary.slates == 0 {
            self.summary.first_ts = ts;
        }
        self.summary.last_impression_ts = ts;
        self.summary.slates += 1;
        self.summary.impressions += slate.len() as u64;
    }

    /// What the user does with an item: nothing, a click or two, a conversion.
    fn follow(&mut self, shown: Shown) {
        let probability = self.world.click_probability(shown.user, shown.item, shown.place);
        let clicked = self.random.chance(probability);
        self.auc.count(probability, clicked);
        if !clicked {
            return;
        }
        let delay = self.random.delay_ms(12_000.0, 1.5, 20.0 * 60_000.0);
        let in_log = self.click(&shown, shown.ts + delay);
        self.summary.clicked_within_10m += (in_log && delay <= CLICK_WINDOW_MS) as u64;
        if self.random.chance(0.02) {
            let again = 500 + self.random.below(30_000) as i64;
            self.click(&shown, shown.ts + delay + again);
        }
        if self.random.chance(self.world.conversion_probability(shown.item)) {
            let delay = delay + 1000 + self.random.delay_ms(180_000.0, 1.3, 2.0 * 3_600_000.0);
            let in_log = self.convert(&shown, shown.ts + delay);
            self.summary.converted_within_30m += (in_log && delay <= CONVERSION_WINDOW_MS) as u64;
        }
    }

    /// Returns whether the click is in the log.
    fn click(&mut self, Shown { request, user, item, .. }: &Shown, ts: i64) -> bool {
        if ts > self.end_ms {
            return false;
        }
        let event = self.summary.clicks;
        self.summary.clicks += 1;
        self.line.clear();
        let line = format_args!(
            r#"{{"event_id":"c{event:09}","request_id":"{request:016x}","item_id":"i{item:06}","user_id":"u{user:06}","ts":{ts}}}"#
        );
        write_line(&mut self.line, line);
        self.clicks.add(ts, &self.line, &mut self.random);
        true
    }

    /// Returns whether the conversion is in the log.
    fn convert(&mut self, Shown { request, user, item, .. }: &Shown, ts: i64) -> bool {
        if ts > self.end_ms {
            return false;
        }
        let event = self.summary.conversions;
        self.summary.conversions += 1;
        let cents = self.world.price_cents(*item) as u64 * (1 + self.random.below(3));
        self.line.clear();
        let line = format_args!(
            r#"{{"event_id":"v{event:09}","request_id":"{request:016x}","item_id":"i{item:06}","user_id":"u{user:06}","ts":{ts},"value":{}.{:02}}}"#,
            cents / 100,
            cents % 100
        );
        write_line(&mut self.line, line);
        self.conversions.add(ts, &self.line, &mut self.random);
        true
    }

    fn finish(self) -> io::Result<GenSummary> {
        let mut summary = self.summary;
        summary.best_auc = self.auc.auc();
        (summary.duplicate_slates, summary.malformed_slates) = self.impressions.finish()?;
        (summary.duplicate_clicks, summary.malformed_clicks) = self.clicks.finish()?;
        (summary.duplicate_conversions, summary.malformed_conversions) = self.conversions.finish()?;
        Ok(summary)
    }
}

/// Event time from the first impression to the last.
fn span_ms(options: &GenOptions) -> f64 {
    match options.rate {
        Some(rate) => options.impressions as f64 / rate * 1000.0,
        None => options.minutes as f64 * 60_000.0,
    }
}

fn write_line(line: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    line.write_fmt(text).expect("writing to memory cannot fail");
}

/// When the impressions happen: most at 20:00 UTC, fewest at 08:00.
struct Rhythm {
    span_ms: f64,
    /// Share of all impressions up to the end of each of the equal parts of the span.
    shares: Vec<f64>,
}

const RHYTHM_PARTS: usize = 1024;
const DAY_MS: f64 = 86_400_000.0;

impl Rhythm {
    fn new(start: i64, span_ms: f64) -> Self {
        let mut sum = 0.0;
        let mut shares = Vec::with_capacity(RHYTHM_PARTS);
        for part in 0..RHYTHM_PARTS {
            let time = start as f64 + span_ms * part as f64 / RHYTHM_PARTS as f64;
            sum += 1.0 + 0.6 * (std::f64::consts::TAU * (time / DAY_MS - 20.0 / 24.0)).cos();
            shares.push(sum);
        }
        shares.iter_mut().for_each(|share| *share /= sum);
        Rhythm { span_ms, shares }
    }

    /// The ms by which `share` of all impressions have happened; rises with it.
    fn at(&self, share: f64) -> f64 {
        let part = self.shares.partition_point(|end| *end <= share).min(RHYTHM_PARTS - 1);
        let (start, end) = (if part > 0 { self.shares[part - 1] } else { 0.0 }, self.shares[part]);
        self.span_ms * (part as f64 + (share - start) / (end - start)) / RHYTHM_PARTS as f64
    }
}

/// Clicks and others by click probability, in fine steps.
struct AucCounts {
    clicked: Vec<u64>,
    others: Vec<u64>,
}

const AUC_STEPS: usize = 4096;

impl AucCounts {
    fn new() -> Self {
        AucCounts { clicked: vec![0; AUC_STEPS], others: vec![0; AUC_STEPS] }
    }

    fn count(&mut self, probability: f64, clicked: bool) {
        let step = (probability * AUC_STEPS as f64) as usize;
        let counts = if clicked { &mut self.clicked } else { &mut self.others };
        counts[step.min(AUC_STEPS - 1)] += 1;
    }

    /// How often a click had a higher probability than a non-click; 0.5 when there is nothing to compare.
    fn auc(&self) -> f64 {
        let (mut others_below, mut wins, mut clicks) = (0, 0.0, 0);
        for (&clicked, &others) in self.clicked.iter().zip(&self.others) {
            wins += clicked as f64 * (others_below as f64 + others as f64 / 2.0);
            others_below += others;
            clicks += clicked;
        }
        let pairs = clicks as f64 * others_below as f64;
        if pairs > 0.0 { wins / pairs } else { 0.5 }
    }
}

#[cfg(test)]
mod tests;
