//! Manifest: whatever lies where the newest manifest should be, it is refused, or taken up, and gone on from.
//!
//! In: how to make it: raw bytes, a body that gets its seal here, or edits of a real one that is sealed again.

use super::base::{Base, base, seal};
use super::life::{Disk, Life, memory_plan};
use super::script::{Script, edit_json};
use conjoin::commit::{ChainError, read_last, survey};
use conjoin::config::Plan;
use serde_json::Value as Json;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, LazyLock};

static BASE: LazyLock<Base> = LazyLock::new(|| base(memory_plan(2)));

pub fn seeds() -> Vec<Vec<u8>> {
    let body = BASE.head_json().to_string();
    vec![[&[0], body.as_bytes()].concat(), [&[1], body.as_bytes()].concat(), vec![2], vec![3]]
}

pub fn run(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let base = &*BASE;
    let (number, bytes, sealed) = match script.byte() % 8 {
        0 => (base.head.number, script.rest().to_vec(), false),
        1 => {
            let body = script.rest();
            let number = serde_json::from_slice::<Json>(body).ok().and_then(|json| json["number"].as_u64());
            (number.unwrap_or(base.head.number), seal(body), true)
        }
        lanes => {
            let mut json = base.head_json();
            edit_json(&mut json, &mut script);
            let number = json["number"].as_u64().unwrap_or(base.head.number);
            let plans = [base.plan.clone(), THREE_LANES.clone()];
            let disk = Disk::of(&base.with_head(number, seal(json.to_string().as_bytes())));
            return go_on(&disk, &plans[lanes as usize % 2], json == base.head_json());
        }
    };
    let disk = Disk::of(&base.with_head(number, bytes));
    if !sealed {
        // Nobody guesses a sha256.
        assert!(matches!(read_last(disk.state()), Err(ChainError::Damaged { .. })));
    }
    go_on(&disk, &base.plan, false);
}

static THREE_LANES: LazyLock<Arc<Plan>> = LazyLock::new(|| memory_plan(3));

/// Whether a panic says that books do not add up, which stops builds with debug assertions alone.
pub fn of_books(message: &str) -> bool {
    ["F1:", "F14:", "F15:"].iter().any(|invariant| message.starts_with(invariant))
}

/// Looks at a state, and lives a life on it from claim to end, which goes well if it is `whole`. If it is not, its books
/// may lie.
pub fn go_on(disk: &Disk, plan: &Arc<Plan>, whole: bool) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| live_on(disk, plan, whole))) else { return };
    if whole || !panic.downcast_ref::<String>().is_some_and(|message| of_books(message)) {
        resume_unwind(panic);
    }
}

fn live_on(disk: &Disk, plan: &Arc<Plan>, whole: bool) {
    if let Err(error) = survey(disk.state()) {
        assert!(!error.to_string().is_empty());
    }
    let mut life = match Life::start(plan, disk, "fuzz") {
        Ok(life) => life,
        Err(error) => return assert!(!whole && !error.to_string().is_empty(), "{error}"),
    };
    let mut live = || {
        life.tick(0)?;
        life.online(3)?;
        life.cut(false)
    };
    if let Err(error) = live().and_then(|()| life.finish().map(drop)) {
        assert!(!whole && !error.to_string().is_empty(), "{error}");
    }
}
