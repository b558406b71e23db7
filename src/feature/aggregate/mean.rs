//! Mean: a [`sum`] and the count of what was added to it, three words.

use crate::feature::aggregate::sum;

pub const WORDS: usize = sum::WORDS + 1;

pub fn add(state: &mut [u64], value: i128) {
    sum::add(state, value);
    state[sum::WORDS] = state[sum::WORDS].wrapping_add(1);
}

pub fn merge(into: &mut [u64], from: &[u64]) {
    sum::merge(into, from);
    into[sum::WORDS] = into[sum::WORDS].wrapping_add(from[sum::WORDS]);
}

/// `None` when nothing was added.
pub fn of_integers(state: &[u64]) -> Option<f64> {
    (state[sum::WORDS] > 0).then(|| sum::load(state) as f64 / state[sum::WORDS] as f64)
}

/// `None` when nothing was added.
pub fn of_floats(state: &[u64]) -> Option<f64> {
    (state[sum::WORDS] > 0).then(|| sum::float(state) / state[sum::WORDS] as f64)
}
