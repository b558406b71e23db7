//! Feature bench: events/s into tiles and evaluations/s out of them, from decoded batches.
//!
//!   events of 200 k users and 20 k items (few are hot), 20,000 per second of event time, shuffled by up to 5 s
//!     -> group user: count over 1 h, 24 h      -> group item: count over 10 m, 1 h
//!
//! Two lanes, one thread each, every lane with both groups and the entities it owns. Run: `cargo bench --bench feature`.
//! An event counts once, though it goes to both groups.
#![expect(clippy::disallowed_macros, reason = "a benchmark prints its result")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use conjoin::event::*;
use conjoin::feature::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::time::Instant;

const EVENTS: usize = 4_000_000;
const BATCH: usize = 4_096;
const EVENTS_PER_SECOND: i64 = 20_000;
const LATENESS_MS: i64 = 5_000;
const LANES: usize = 2;
const START: EventTime = 1_700_000_000_000;

struct Part {
    batch: DecodedBatch,
    /// Row numbers per group and lane.
    rows: [[Vec<u32>; LANES]; 2],
    newest: EventTime,
}

fn main() {
    let parts = parts();
    println!("{} events in {} batches", EVENTS, parts.len());
    for online in [false, true] {
        let (start, cpu_before) = (Instant::now(), cpu_seconds());
        let lanes = run(&parts, online);
        let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu_before);
        let (entities, tiles, bytes, published) = lanes.iter().fold((0, 0, 0, 0), |sum, (lane, published)| {
            let of = |count: fn(&GroupStore) -> usize| lane.iter().map(count).sum::<usize>();
            (
                sum.0 + of(GroupStore::entities),
                sum.1 + of(GroupStore::tiles),
                sum.2 + of(GroupStore::memory_bytes),
                sum.3 + published,
            )
        });
        println!(
            "apply online={online}: {:.2} M events/s, {:.2} M per CPU second; {entities} entities, {tiles} tiles, {:.0} MiB, {published} published",
            EVENTS as f64 / seconds / 1e6,
            EVENTS as f64 / cpu / 1e6,
            bytes as f64 / f64::from(1 << 20)
        );
        if !online {
            evaluate(&lanes.into_iter().map(|(lane, _)| lane).collect::<Vec<_>>());
        }
    }
}

/// What the process has used so far, in steps of 10 ms: says more than the clock on a busy machine. Linux only, else 0.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Every lane on its own thread, over all batches.
fn run(parts: &[Part], online: bool) -> Vec<([GroupStore; 2], usize)> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..LANES)
            .map(|lane| {
                scope.spawn(move || {
                    let store = |group| match online {
                        true => GroupStore::new(group, spec(group)),
                        false => GroupStore::new(group, spec(group)).without_online(),
                    };
                    let mut stores = [store(0), store(1)];
                    let mut published = 0;
                    for (number, part) in parts.iter().enumerate() {
                        for (group, store) in stores.iter_mut().enumerate() {
                            store.apply(0, &part.batch, 0, &part.rows[group][lane]);
                            let settled = part.newest - LATENESS_MS;
                            store.advance(Watermark(settled), settled);
                            // About 200 ms at 1 M events/s.
                            while online
                                && number % 50 == 49
                                && let Some(taken) = store.take_due(part.newest, 4_096).expect("no derived columns")
                            {
                                published += taken.entities.len();
                            }
                            if number % 500 == 499 {
                                std::hint::black_box(store.snapshot());
                            }
                        }
                    }
                    (stores, published)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a lane panicked")).collect()
    })
}

/// Requests of ten items each for one user, as a slate has them, at the end of the events.
fn evaluate(lanes: &[[GroupStore; 2]]) {
    let mut random = SmallRng::seed_from_u64(2);
    let end = START + EVENTS as i64 * 1_000 / EVENTS_PER_SECOND;
    for (group, name) in ["user", "item"].into_iter().enumerate() {
        let (mut asked, mut seconds) = (0, 0.0);
        for _ in 0..200 {
            let mut prints = Vec::with_capacity(BATCH);
            let mut instants = Vec::with_capacity(BATCH);
            while prints.len() < BATCH {
                let (user, at) = (print("u", pick(&mut random, 200_000)), end - random.random_range(0..200));
                for _ in 0..10 {
                    prints.push(if group == 0 { user } else { print("i", pick(&mut random, 20_000)) });
                    instants.push(at);
                }
            }
            let start = Instant::now();
            let lane = &lanes[asked % LANES][group];
            std::hint::black_box(lane.evaluate(&prints, &instants).expect("no derived columns"));
            seconds += start.elapsed().as_secs_f64();
            asked += prints.len();
        }
        println!("evaluate {name}: {:.2} M rows/s on one thread", asked as f64 / seconds / 1e6);
    }
}

fn spec(group: u16) -> Arc<GroupSpec> {
    let (name, windows) = [("user", [3_600_000, 86_400_000]), ("item", [600_000, 3_600_000])][group as usize];
    let window =
        |window_ms: i64| WindowSpec { output: format!("{name}_{window_ms}"), window_ms, tail_ms: window_ms / 60 };
    let windows: Vec<_> = windows.into_iter().map(window).collect();
    let fields = windows.iter().map(|window| Field::new(&window.output, DataType::Int64, false));
    Arc::new(GroupSpec {
        name: name.into(),
        entity: vec![(name.into(), ColumnType::String)],
        head_ms: 1_000,
        outputs: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
        aggregates: vec![AggregateSpec { name: name.into(), kind: AggregateKind::Count, input: None, windows }],
        uses: vec![FeatureUse {
            stream: 0,
            key_set: 1 + group as usize,
            columns: vec![group as usize],
            aggregates: vec![(0, 0)],
        }],
        derived: vec![],
    })
}

/// Few are picked often.
fn pick(random: &mut SmallRng, of: usize) -> usize {
    let share: f64 = random.random();
    ((share * share * share) * of as f64) as usize
}

fn name(prefix: &str, number: usize) -> String {
    format!("{prefix}{number}")
}

fn print(prefix: &str, number: usize) -> Fingerprint {
    fingerprints(&[&(Arc::new(StringArray::from(vec![name(prefix, number)])) as ArrayRef)], 1, Partitioner::Murmur2)[0]
}

fn parts() -> Vec<Part> {
    let mut random = SmallRng::seed_from_u64(1);
    let mut newest = START;
    let schema =
        Arc::new(Schema::new(vec![Field::new("u", DataType::Utf8, false), Field::new("i", DataType::Utf8, false)]));
    (0..EVENTS.div_ceil(BATCH))
        .map(|number| {
            let first = number * BATCH;
            let texts = |prefix, of, random: &mut SmallRng| -> ArrayRef {
                Arc::new(StringArray::from_iter_values((0..BATCH).map(|_| name(prefix, pick(random, of)))))
            };
            let users = texts("u", 200_000, &mut random);
            let items = texts("i", 20_000, &mut random);
            let prints = [
                fingerprints(&[&users], BATCH, Partitioner::Murmur2),
                fingerprints(&[&items], BATCH, Partitioner::Murmur2),
            ];
            let time = |row: usize| START + (first + row) as i64 * 1_000 / EVENTS_PER_SECOND;
            let event_time: Vec<_> = (0..BATCH).map(|row| time(row) - random.random_range(0..LATENESS_MS)).collect();
            newest = event_time.iter().copied().fold(newest, i64::max);
            let ids: Vec<Fingerprint> = (0..BATCH).map(|_| random.random()).collect();
            let rows = [0, 1].map(|group| {
                let lane = |row: &u32| lane_of(key_group(home_of(prints[group][*row as usize])), LANES);
                [0, 1].map(|owner| (0..BATCH as u32).filter(|row| lane(row) == owner).collect())
            });
            let [user_prints, item_prints] = prints;
            let batch = DecodedBatch {
                stream: 0,
                delta: PositionDelta { partition: PartitionId { input: 0, partition: 0 }, from: 0, to: 1 },
                rows: RecordBatch::try_new(schema.clone(), vec![users, items]).expect("two columns of one length"),
                event_time,
                keys: vec![Arc::new(ids), Arc::new(user_prints), Arc::new(item_prints)],
                content: vec![0; BATCH],
                positions: None,
                feature_inputs: vec![FeatureInput { mask: None, values: None }],
                rejected: vec![],
                filtered: 0,
                records: BATCH as u64,
                consumed: BATCH as u64,
            };
            Part { batch, rows, newest }
        })
        .collect()
}
