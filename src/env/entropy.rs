//! Entropy: random numbers for identities, from the operating system or from a seed.
//!
//! Holds: a seeded source gives the same numbers in every run.
//! Does not: take part in any decision about data; sampling goes by the hash of a key.

use rand::TryRngCore;
use std::sync::atomic::{AtomicU64, Ordering};

pub trait Entropy: Send + Sync {
    fn random_u64(&self) -> u64;

    fn random_u128(&self) -> u128 {
        (u128::from(self.random_u64()) << 64) | u128::from(self.random_u64())
    }
}

/// The operating system's source.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn random_u64(&self) -> u64 {
        rand::rngs::OsRng.try_next_u64().expect("the operating system has a source of random numbers")
    }
}

/// Numbers for tests and simulation (the splitmix64 sequence of a seed).
#[derive(Debug)]
pub struct SeededEntropy {
    state: AtomicU64,
}

impl SeededEntropy {
    pub fn new(seed: u64) -> SeededEntropy {
        SeededEntropy { state: AtomicU64::new(seed) }
    }
}

impl Entropy for SeededEntropy {
    fn random_u64(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.state.fetch_add(STEP, Ordering::SeqCst).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence() {
        let (a, b, c) = (SeededEntropy::new(7), SeededEntropy::new(7), SeededEntropy::new(8));
        let first: Vec<u128> = (0..8).map(|_| a.random_u128()).collect();
        assert_eq!(first, (0..8).map(|_| b.random_u128()).collect::<Vec<_>>());
        assert_ne!(first[0], c.random_u128());
    }

    #[test]
    fn the_system_source_does_not_repeat_itself() {
        assert_ne!(SystemEntropy.random_u128(), SystemEntropy.random_u128());
    }
}
