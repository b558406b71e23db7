//! Base: a state with some of everything in it, as a process leaves it that dies in the middle: what the targets for
//! manifests and state objects damage.

use super::life::{Disk, Life, Objects, START};
use conjoin::commit::Manifest;
use conjoin::config::Plan;
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;

pub struct Base {
    pub plan: Arc<Plan>,
    pub objects: Objects,
    pub head: Manifest,
}

/// Five minutes of event time, a record of each stream in most seconds, committed every half minute.
pub fn log() -> [Vec<Vec<u8>>; 3] {
    let mut logs: [Vec<Vec<u8>>; 3] = Default::default();
    for second in 0..300_i64 {
        let ts = START + 1_000 * second + 137 * second % 900;
        let (user, item) = (format!("u{}", second * 7 % 4), second * 5 % 3);
        let common = json!({ "user": user, "item": item, "ts": ts });
        let more = [
            json!({ "request": format!("r{second}"), "score": (second % 3 > 0).then_some(0.5) }),
            json!({ "event": format!("c{second}"), "text": (second % 5 > 0).then(|| format!("t{}", second % 7)) }),
            json!({ "event": format!("b{second}"), "value": second - 40, "price": second as f64 / 4.0, "flag": true }),
        ];
        for (stream, more) in more.into_iter().enumerate().filter(|(stream, _)| second % (*stream as i64 + 1) == 0) {
            let mut record = common.clone();
            record.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            logs[stream].push(record.to_string().into_bytes());
        }
    }
    logs[0][3] = b"{".to_vec();
    logs
}

/// Runs a life over two thirds of the log.
pub fn base(plan: Arc<Plan>) -> Base {
    let disk = Disk::of(&Vec::new());
    let mut life = Life::start(&plan, &disk, "base").expect("nothing is in the way of a birth");
    let logs = log();
    for minute in 0..7 {
        for (stream, log) in logs.iter().enumerate() {
            let of = |minute| log.len() * minute / 10;
            life.feed(stream, &log[of(minute)..of(minute + 1)]).expect("its own records can be read");
        }
        (0..3).for_each(|_| life.tick(0).expect("time moves on"));
        life.online(5).expect("online values are read");
        life.cut(minute == 3).expect("a cut is committed");
    }
    let head = life.head().clone();
    // Manifests before the last two, and what only they name, play no part.
    let needed = |(store, path, _): &(usize, String, Vec<u8>)| match (*store, path.strip_prefix("manifests/")) {
        (0, Some(name)) => name.trim_end_matches(".json").parse::<u64>().is_ok_and(|number| number + 1 >= head.number),
        (0, None) => head.objects.iter().any(|object| object.path == *path),
        _ => head.files.iter().any(|entry| [&entry.file.staged, &entry.file.path].contains(&path)),
    };
    Base { objects: disk.objects().into_iter().filter(needed).collect(), plan, head }
}

impl Base {
    pub fn head_json(&self) -> Json {
        serde_json::to_value(&self.head).expect("a manifest is plain data")
    }

    /// Puts something into the place of the newest manifest.
    pub fn with_head(&self, number: u64, bytes: Vec<u8>) -> Objects {
        let path = manifest_path(self.head.number);
        let mut objects: Objects = self.objects.iter().filter(|(_, other, _)| *other != path).cloned().collect();
        objects.push((0, manifest_path(number), bytes));
        objects
    }
}

pub fn manifest_path(number: u64) -> String {
    format!("manifests/{number:020}.json")
}

/// The text of a manifest with the seal that a reader asks for.
pub fn seal(body: &[u8]) -> Vec<u8> {
    let Some(open) = body.strip_suffix(b"}") else { return body.to_vec() };
    let sha256 = hex(&Sha256::digest(body));
    [open, b",\"sha256\":\"", sha256.as_bytes(), b"\"}"].concat()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
