//! Random numbers that are the same for a seed on every machine and in every version: a small generator of our own, as
//! those of libraries may change.

/// Every seed gives a sequence of period 2^64.
pub(super) struct Random {
    state: u64,
}

impl Random {
    /// Sequences of one seed for different purposes do not follow each other.
    pub fn new(seed: u64, purpose: u64) -> Self {
        Random { state: mix(seed ^ mix(purpose)) }
    }

    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// In `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// In `[0, end)`.
    pub fn below(&mut self, end: u64) -> u64 {
        ((self.bits() as u128 * end as u128) >> 64) as u64
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Normal with mean 0 and deviation 1.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// A delay in ms whose logarithm is normal: most come soon, a few very late.
    pub fn delay_ms(&mut self, median_ms: f64, spread: f64, max_ms: f64) -> i64 {
        (median_ms * (spread * self.normal()).exp()).min(max_ms) as i64
    }
}

/// Every bit of the input decides every bit of the output; different inputs give different outputs.
pub(super) fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Draws ranks of which the n-th is about `n^skew` times rarer than the first.
pub(super) struct Popularity {
    cumulated: Vec<f64>,
}

impl Popularity {
    pub fn new(count: usize, skew: f64) -> Self {
        let mut total = 0.0;
        let weights = (1..=count).map(|rank| {
            total += (rank as f64).powf(-skew);
            total
        });
        let cumulated = weights.collect();
        Popularity { cumulated }
    }

    pub fn draw(&self, random: &mut Random) -> usize {
        let total = self.cumulated.last().expect("there is at least one rank");
        let at = random.unit() * total;
        self.cumulated.partition_point(|sum| *sum <= at).min(self.cumulated.len() - 1)
    }
}
