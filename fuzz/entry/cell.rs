//! Cell: records of any order and time go through router, lanes, sinks and commits, with crashes in between; the books
//! balance at every commit and nothing panics.
//!
//! In: steps, one byte each, followed by what they need.

use super::life::{Disk, Life, STREAMS, memory_plan, record};
use super::script::Script;
use conjoin::config::Plan;
use conjoin::event::{StreamAccount, violations};
use std::sync::{Arc, LazyLock};

const STEPS_MAX: usize = 96;

static PLANS: LazyLock<[Arc<Plan>; 3]> = LazyLock::new(|| [1, 2, 3].map(memory_plan));

/// Days in the life: every step, in an order that a linear generator deals.
pub fn seeds() -> Vec<Vec<u8>> {
    let day = |seed: u32| {
        let step = |state: &mut u32| {
            *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Some((*state >> 24) as u8)
        };
        std::iter::successors(Some(seed), |_| None)
            .flat_map(|seed| {
                let mut state = seed;
                std::iter::from_fn(move || step(&mut state))
            })
            .take(512)
            .collect()
    };
    (0..8).map(day).collect()
}

pub fn run(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let disk = Disk::of(&Vec::new());
    let mut logs: [Vec<Vec<u8>>; 3] = Default::default();
    let (mut lives, mut now_ms, before) = (1, 0, violations());
    let mut life = begin(&disk, script.byte(), lives);
    for _ in 0..STEPS_MAX {
        if script.is_over() {
            break;
        }
        match script.byte() {
            step @ 0..128 => {
                let stream = step as usize % STREAMS.len();
                for _ in 0..1 + step / 48 {
                    logs[stream].push(record(stream, &mut script));
                }
                read(&mut life, stream, &logs);
            }
            128..176 => life.tick(now_ms).expect("time moves on"),
            176..192 => {
                now_ms += 1_000 * script.byte() as u64;
                life.quiet(now_ms);
            }
            192..208 => life.online(1 + script.byte() as usize).expect("online values are read"),
            208..224 => life.cut(false).expect("a cut is committed"),
            224..240 => life.cut(true).expect("a cut is committed"),
            // A crash: what was not committed is read again.
            lanes => {
                lives += 1;
                life = begin(&disk, lanes, lives);
                (0..STREAMS.len()).for_each(|stream| read(&mut life, stream, &logs));
            }
        }
    }
    (0..STREAMS.len()).for_each(|stream| read(&mut life, stream, &logs));
    let head = life.finish().expect("the end is committed");
    assert!(head.streams.values().all(StreamAccount::balances), "{:?}", head.streams);
    for sample in &head.counts.samples {
        assert!(sample.anchor.balances() && sample.labels.iter().all(|label| label.balances()), "{sample:?}");
        assert_eq!(sample.anchor.pending, 0, "{sample:?}");
    }
    let rows: u64 = head.counts.samples.iter().map(|sample| sample.anchor.emitted).sum();
    assert_eq!(rows, head.totals.file_rows, "every row that left is in a file");
    assert_eq!(violations(), before, "no invariant was broken");
}

fn begin(disk: &Disk, lanes: u8, lives: usize) -> Life {
    let plan = &PLANS[lanes as usize % PLANS.len()];
    Life::start(plan, disk, &format!("w{lives}")).expect("its own state can be taken up")
}

/// Reads what the log has beyond the position.
fn read(life: &mut Life, stream: usize, logs: &[Vec<Vec<u8>>; 3]) {
    let from = life.position(stream);
    if from < logs[stream].len() {
        life.feed(stream, &logs[stream][from..]).expect("any record can be read");
    }
}
