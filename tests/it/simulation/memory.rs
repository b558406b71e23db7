//! Memory: how much of it this process holds, line by line into a file while something else runs.
//!
//!   seconds,rss_kib,storms
//!   0,31244,0
//!   5,48120,212
//!
//! scripts/plot-soak.py draws it.

use crossbeam_channel::RecvTimeoutError;
use std::fs::{self, File};
use std::io::Write;
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(5);

/// What the kernel says that this process has in memory.
pub fn rss_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Does `work` while a line is written every few seconds; `done` says how far it is.
pub fn watched<T>(path: Option<&str>, done: impl Fn() -> u64 + Send, work: impl FnOnce() -> T) -> T {
    let Some(path) = path else { return work() };
    let mut file = File::create(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let began = Instant::now();
    writeln!(file, "seconds,rss_kib,storms").unwrap();
    let mut line = move || writeln!(file, "{},{},{}", began.elapsed().as_secs(), rss_kib(), done()).unwrap();
    let (stop, stopped) = crossbeam_channel::bounded::<()>(1);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            loop {
                line();
                if stopped.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
        });
        let result = work();
        drop(stop);
        result
    })
}
