//! Exact sum: adds floats so that order and grouping cannot matter.

/// A sum in fixed point: every value is rounded once to a multiple of 2^-40, then integers are added.
///
/// Each value contributes an error of at most 2^-41 (4.5e-13). Values of 2^63 and beyond, infinities and NaN have no
/// place in it: see [`ExactSum::accepts`].
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ExactSum(pub i128);

const SCALE: f64 = (1u64 << 40) as f64;

impl ExactSum {
    pub fn accepts(value: f64) -> bool {
        value.abs() < 9_223_372_036_854_775_808.0
    }

    /// Values that are not accepted are ignored: callers count them.
    pub fn add(&mut self, value: f64) {
        if Self::accepts(value) {
            // |value| < 2^63 leaves 2^127 / 2^103 = 16 M largest values before saturation.
            self.0 = self.0.saturating_add((value * SCALE).round_ties_even() as i128);
        }
    }

    pub fn merge(&mut self, other: ExactSum) {
        self.0 = self.0.saturating_add(other.0);
    }

    pub fn value(self) -> f64 {
        self.0 as f64 / SCALE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_change_a_single_bit() {
        let values = [0.1, 1e15, -0.3, 7e-5, -1e15, 0.1];
        let sum = |order: &[usize]| {
            let mut sum = ExactSum::default();
            order.iter().for_each(|&index| sum.add(values[index]));
            sum.value().to_bits()
        };
        assert_eq!(sum(&[0, 1, 2, 3, 4, 5]), sum(&[4, 5, 3, 1, 0, 2]));
    }
}
