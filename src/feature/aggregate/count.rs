//! Count: one word.

pub const WORDS: usize = 1;

pub fn add(state: &mut [u64]) {
    state[0] = state[0].wrapping_add(1);
}

pub fn merge(into: &mut [u64], from: &[u64]) {
    into[0] = into[0].wrapping_add(from[0]);
}

pub fn value(state: &[u64]) -> i64 {
    i64::try_from(state[0]).unwrap_or(i64::MAX)
}
