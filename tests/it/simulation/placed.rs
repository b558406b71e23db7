//! Placed: logs of several cells: each record where the partitioner puts its user, and when it comes.

use crate::simulation::world::*;
use conjoin::event::Partitioner;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use std::collections::BTreeMap;

/// Shorter than every lateness: whatever comes within it is not late, also while all else is quiet.
const DELAY_MAX: i64 = 3_000;

/// The logs of one cell.
pub struct CellLogs {
    pub logs: Logs,
    /// When each record comes, in a world whose clock runs while records come; empty where all are there at the start.
    pub arrivals: BTreeMap<(usize, u32), Vec<u64>>,
}

/// What cells read, and how it is laid out.
pub struct Placed {
    pub setup: Setup,
    pub cells: Vec<CellLogs>,
    /// All of it, as one process would read it.
    pub all: Logs,
    pub newest: i64,
    pub dead_letters: u64,
    /// Records come while the clock runs.
    pub live: bool,
}

impl Placed {
    pub fn of(seed: u64, impressions: usize) -> Placed {
        let mut random = StdRng::seed_from_u64(seed ^ 0xce11);
        let cells = random.random_range(2..=4);
        let (live, users) = (random.random_bool(0.5), [2, 6, 10][random.random_range(0..3)]);
        let setup = Setup { features: true, partitions: [1; 3], ..Setup::of(seed) };
        let mut made: Vec<(i64, usize, String, String)> = Vec::new();
        for ((stream, _), records) in logs(&setup, seed, impressions) {
            for (place, record) in records.iter().enumerate() {
                let (user, record) = rename(record, users);
                let at = if live { time_of(&record) - START + random.random_range(0..DELAY_MAX) } else { place as i64 };
                made.push((at.max(0), stream, user, record));
            }
        }
        // Of one time in the order in which they were made.
        made.sort_by_key(|(at, stream, ..)| (*at, *stream));
        let newest = made.iter().map(|(.., record)| time_of(record)).max().unwrap_or(START);
        let mut placed = Placed {
            setup: Setup { partitions: [cells; 3], ..setup },
            cells: (0..cells).map(|cell| CellLogs::empty(cell, live)).collect(),
            all: Logs::new(),
            newest,
            dead_letters: 0,
            live,
        };
        for (at, stream, user, record) in made {
            let cell = Partitioner::Murmur2.partition(user.as_bytes(), cells);
            placed.cells[cell as usize].push((stream, cell), at as u64, record);
        }
        placed.poison(&mut random);
        placed.all = placed.cells.iter().flat_map(|cell| cell.logs.clone()).collect();
        placed
    }

    /// Unreadable records lie anywhere.
    fn poison(&mut self, random: &mut StdRng) {
        self.dead_letters = random.random_range(0..4);
        for _ in 0..self.dead_letters {
            let number = random.random_range(0..self.cells.len());
            let (at, cell) = ((random.random_range(0..3), number as u32), &mut self.cells[number]);
            let log = cell.logs.get_mut(&at).expect("every cell has a log of every stream");
            let place = random.random_range(0..=log.len());
            log.insert(place, "not json".into());
            if let Some(times) = cell.arrivals.get_mut(&at) {
                let time = times.get(place).or(times.last()).copied().unwrap_or(0);
                times.insert(place, time);
            }
        }
    }
}

impl CellLogs {
    fn empty(cell: u32, live: bool) -> CellLogs {
        let at = |stream| (stream, cell);
        CellLogs {
            logs: (0..3).map(|stream| (at(stream), Vec::new())).collect(),
            arrivals: (0..3).filter(|_| live).map(|stream| (at(stream), Vec::new())).collect(),
        }
    }

    fn push(&mut self, at: (usize, u32), time: u64, record: String) {
        self.logs.entry(at).or_default().push(record);
        if let Some(times) = self.arrivals.get_mut(&at) {
            times.push(time);
        }
    }
}

/// The record of one of so many users, the same for all that belongs to one impression.
fn rename(record: &str, users: usize) -> (String, String) {
    let mut fields: Value = serde_json::from_str(record).unwrap();
    let number = |text: &Value| text.as_str().unwrap()[1..].parse::<usize>().unwrap();
    let user = format!("u{}", (number(&fields["user_id"]) + 5 * (number(&fields["request_id"]) % 2)) % users);
    fields["user_id"] = user.clone().into();
    (user, fields.to_string())
}

pub fn time_of(record: &str) -> i64 {
    let record: Value = serde_json::from_str(record).unwrap();
    record["ts"].as_i64().unwrap()
}
