//! Clock: wall time, monotonic time and waiting, real or set by hand.
//!
//! Holds: `monotonic_ms` never goes back, whatever happens to the wall clock.
//! Does not: decide what is late; event time never comes from here.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time as the process sees it.
pub trait Clock: Send + Sync {
    /// Wall time in milliseconds since 1970, UTC. May jump in either direction.
    fn now_ms(&self) -> i64;

    /// Milliseconds since some fixed instant of this process; never goes back.
    fn monotonic_ms(&self) -> u64;

    /// The same in microseconds, for latencies.
    fn monotonic_us(&self) -> u64 {
        self.monotonic_ms() * 1000
    }

    /// Waits. A clock set by hand moves forward at once instead.
    fn sleep_ms(&self, duration_ms: u64);
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
    pub fn new() -> SystemClock {
        SystemClock { started: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now_ms(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => since.as_millis() as i64,
            Err(before) => -(before.duration().as_millis() as i64),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
    fn monotonic_ms(&self) -> u64 {
        Instant::now().duration_since(self.started).as_millis() as u64
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
    fn monotonic_us(&self) -> u64 {
        Instant::now().duration_since(self.started).as_micros() as u64
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that waits by time alone")]
    fn sleep_ms(&self, duration_ms: u64) {
        std::thread::sleep(Duration::from_millis(duration_ms));
    }
}

/// A clock for tests and simulation: stands still until it is moved.
#[derive(Debug, Default)]
pub struct ManualClock {
    wall_ms: AtomicI64,
    monotonic_ms: AtomicU64,
}

impl ManualClock {
    pub fn at(wall_ms: i64) -> ManualClock {
        ManualClock { wall_ms: AtomicI64::new(wall_ms), monotonic_ms: AtomicU64::new(0) }
    }

    /// Moves both clocks forward.
    pub fn advance_ms(&self, by_ms: u64) {
        self.wall_ms.fetch_add(by_ms as i64, Ordering::SeqCst);
        self.monotonic_ms.fetch_add(by_ms, Ordering::SeqCst);
    }

    /// Sets the wall clock alone, in either direction, as a time server would.
    pub fn set_wall_ms(&self, wall_ms: i64) {
        self.wall_ms.store(wall_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.wall_ms.load(Ordering::SeqCst)
    }

    fn monotonic_ms(&self) -> u64 {
        self.monotonic_ms.load(Ordering::SeqCst)
    }

    fn sleep_ms(&self, duration_ms: u64) {
        self.advance_ms(duration_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_jumps_back_leaves_the_monotonic_one_alone() {
        let clock = ManualClock::at(1_000);
        clock.advance_ms(500);
        clock.set_wall_ms(10);
        assert_eq!((clock.now_ms(), clock.monotonic_ms()), (10, 500));
        clock.sleep_ms(5);
        assert_eq!((clock.now_ms(), clock.monotonic_ms()), (15, 505));
    }

    #[test]
    fn the_system_clock_moves_forward() {
        let clock = SystemClock::new();
        let before = clock.monotonic_ms();
        clock.sleep_ms(3);
        assert!(clock.monotonic_ms() >= before + 3);
        assert!(clock.now_ms() > 1_700_000_000_000);
    }
}
