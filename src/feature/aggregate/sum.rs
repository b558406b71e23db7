//! Sum: a 128-bit integer in two words, so that no order of adding matters.
//!
//! Integers add as they are; a sum outside of int64 is given as the nearest int64. Floats add as multiples of 2^-40:
//! each value is rounded once, to the nearest such multiple (ties to even), which is off by at most 2^-41; the sum of
//! the rounded values is exact while the magnitudes of a window's values add up to less than 2^87, and wraps beyond.
//! A float that is not finite or not below 2^63 in magnitude is refused.

pub const WORDS: usize = 2;

const FRACTION_BITS: u32 = 40;
const SCALE: f64 = (1u64 << FRACTION_BITS) as f64;
const MAGNITUDE_MAX: f64 = (1u64 << 63) as f64;

pub fn load(state: &[u64]) -> i128 {
    (((state[1] as u128) << 64) | state[0] as u128) as i128
}

pub fn store(state: &mut [u64], sum: i128) {
    state[0] = sum as u64;
    state[1] = ((sum as u128) >> 64) as u64;
}

pub fn add(state: &mut [u64], value: i128) {
    store(state, load(state).wrapping_add(value));
}

pub fn merge(into: &mut [u64], from: &[u64]) {
    add(into, load(from));
}

/// The nearest multiple of 2^-40, as an integer; `None` for what is refused.
pub fn fixed(value: f64) -> Option<i128> {
    // Written so that NaN is refused too.
    if value.abs() < MAGNITUDE_MAX { Some((value * SCALE).round_ties_even() as i128) } else { None }
}

pub fn integer(state: &[u64]) -> i64 {
    load(state).clamp(i64::MIN as i128, i64::MAX as i128) as i64
}

pub fn float(state: &[u64]) -> f64 {
    load(state) as f64 / SCALE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_float_is_off_by_half_a_step_at_most() {
        let mut state = [0; WORDS];
        add(&mut state, fixed(0.1).unwrap());
        assert!((float(&state) - 0.1).abs() <= (0.5f64).powi(41));
        assert_eq!(fixed(-2.5), Some(-5 << 39));
    }

    #[test]
    fn floats_out_of_range_are_refused() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 9.3e18, -9.3e18] {
            assert_eq!(fixed(value), None, "{value}");
        }
    }

    #[test]
    fn a_sum_of_integers_beyond_int64_stops_at_its_end() {
        let mut state = [0; WORDS];
        add(&mut state, i64::MAX as i128);
        add(&mut state, 7);
        assert_eq!(integer(&state), i64::MAX);
        add(&mut state, -8);
        assert_eq!(integer(&state), i64::MAX - 1, "and comes back");
    }
}
