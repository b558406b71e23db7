//! Windows of an aggregate: lengths, and the steps in which their ends move.

use super::Checker;
use super::features::Context;
use crate::config::raw::{Aggregate, Duration};
use crate::config::tree::Path;
use crate::config::units::duration_text;
use crate::event::DurationMs;
use crate::feature::WindowSpec;

/// Into so many steps a window is cut at most, unless `tail` says otherwise.
const TAIL_STEPS_MAX: DurationMs = 60;

pub fn check(c: &mut Checker<'_>, name: &str, raw: &Aggregate, context: &Context<'_>) -> Option<Vec<WindowSpec>> {
    let path = context.path;
    let Some(windows) = &raw.windows else {
        if !c.is_cut(&path.key("windows")) && !c.is_cut(&path.key("retain")) && !c.misspelt(path, "windows") {
            c.error(path, "an aggregate without windows is not supported yet")
                .help("give `windows`, such as [10m, 1h]");
        }
        return None;
    };
    let at = path.key("windows");
    if windows.is_empty() && !c.is_cut(&at) {
        c.error(&at, "an empty list").expected("at least one window, such as [10m, 1h]");
    }
    let mut specs: Vec<WindowSpec> = Vec::with_capacity(windows.len());
    let mut sound = true;
    for (index, window) in windows.iter().enumerate() {
        let at = at.index(index);
        if let Some(same) = specs.iter().find(|spec| spec.window_ms == window.ms) {
            c.error(&at, format!("`{}`, as long as `{}`", window.text, same.output)).expected("each window once");
            sound = false;
            continue;
        }
        match window_of(c, name, window, raw, context, &at) {
            Some(spec) => specs.push(spec),
            None => sound = false,
        }
    }
    sound.then_some(specs)
}

fn window_of(
    c: &mut Checker<'_>,
    name: &str,
    window: &Duration,
    raw: &Aggregate,
    context: &Context<'_>,
    at: &Path,
) -> Option<WindowSpec> {
    let (window_ms, head_ms) = (window.ms, context.head_ms);
    if !multiple_of(c, window, head_ms, "head", at) {
        return None;
    }
    let own = raw.tail.as_ref().map(|tail| (tail, context.path.key("tail")));
    let group_path = Path(context.path.0[..2].to_vec());
    let shared = context.group.tail.as_ref().map(|tail| (tail, group_path.key("tail")));
    let tail_ms = match own.or(shared) {
        None => default_tail(window_ms, head_ms),
        Some((tail, tail_at)) => {
            if !multiple_of(c, tail, head_ms, "head", &tail_at) || !multiple_of(c, window, tail.ms, "tail", at) {
                return None;
            }
            tail.ms
        }
    };
    Some(WindowSpec { output: format!("{name}_{}", window.text), window_ms, tail_ms })
}

fn multiple_of(c: &mut Checker<'_>, length: &Duration, step: DurationMs, what: &str, at: &Path) -> bool {
    if length.ms > 0 && length.ms % step == 0 {
        return true;
    }
    let below = length.ms / step * step;
    let near: Vec<String> = [below, below + step].into_iter().filter(|ms| *ms > 0).map(duration_text).collect();
    c.error(at, format!("`{}`", length.text))
        .expected(format!("a multiple of `{what}`, which is {}", duration_text(step)))
        .help(format!("use {}", near.join(" or ")));
    false
}

/// The smallest divisor of the window that is a multiple of `head` and at least a sixtieth of the window.
fn default_tail(window_ms: DurationMs, head_ms: DurationMs) -> DurationMs {
    let steps = window_ms / head_ms;
    let least = (steps + TAIL_STEPS_MAX - 1) / TAIL_STEPS_MAX;
    // At most TAIL_STEPS_MAX parts are to be tried: a divisor of at least a sixtieth is the window over 1 to 60.
    (1..=TAIL_STEPS_MAX)
        .rev()
        .filter(|parts| steps % parts == 0)
        .map(|parts| steps / parts)
        .find(|tail| *tail >= least)
        .unwrap_or(steps)
        * head_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_tail_divides_the_window_into_at_most_sixty_steps() {
        for (window, head, tail) in [
            (600_000, 1_000, 10_000),
            (3_600_000, 1_000, 60_000),
            (86_400_000, 1_000, 1_440_000),
            (61_000, 1_000, 61_000),
            (5_000, 1_000, 1_000),
            (90_000, 1_000, 2_000),
        ] {
            assert_eq!(default_tail(window, head), tail, "{window}");
            assert_eq!(window % tail, 0);
            assert_eq!(tail % head, 0);
        }
    }
}
