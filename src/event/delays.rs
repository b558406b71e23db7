//! Delays: how long after their impressions labels came, as a histogram of bounded size that merges by adding.
//!
//!   delay    0 … 63 ms    64 … 127 ms    128 … 255 ms    …      ahead of the impression: the same, mirrored
//!   bucket   1 ms         2 ms           4 ms            doubles, so that 32 of them always make a power of two
//!
//! The layout is HdrHistogram's (G. Tene), the use that of DDSketch (Masson, Rim and Lee, VLDB 2019): a bucket is at most
//! 1/32 of its lower end wide, so a quantile is read with a relative error of 3.2 % at most. All of it is integers: the
//! same delays give the same sketch in any order and on any machine.
//! In: delays in ms. Out: counts, quantiles. Holds: `a + b` is the sketch of all delays of both; 8 bytes per bucket up to
//! the longest delay, which is 7.2 KB for 30 days and 15 KB for any time there is.

use std::ops::AddAssign;

/// Buckets per power of two, as a power of two.
const STEP_BITS: u32 = 5;
/// Enough for every delay that 64 bits hold.
const BUCKETS_MAX: usize = ((64 - STEP_BITS as usize) << STEP_BITS) + (1 << STEP_BITS);

/// The delays of some labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(into = "PackedDelays", try_from = "PackedDelays")]
pub struct DelaySketch {
    /// Labels at or after their impressions, by bucket; no longer than it has to be.
    after: Vec<u64>,
    /// Labels ahead of theirs.
    ahead: Vec<u64>,
    sum_ms: i64,
}

impl DelaySketch {
    /// Counts one label. A delay below zero is one that came ahead.
    pub fn add(&mut self, delay_ms: i64) {
        let side = if delay_ms < 0 { &mut self.ahead } else { &mut self.after };
        let bucket = bucket_of(delay_ms.unsigned_abs());
        if side.len() <= bucket {
            side.resize(bucket + 1, 0);
        }
        side[bucket] += 1;
        self.sum_ms = self.sum_ms.wrapping_add(delay_ms);
    }

    pub fn count(&self) -> u64 {
        let sum = |side: &[u64]| side.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
        sum(&self.ahead).saturating_add(sum(&self.after))
    }

    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    pub fn sum_ms(&self) -> i64 {
        self.sum_ms
    }

    /// The smallest delay that a share of the labels does not exceed, never too small and too large by at most 1/32 of
    /// itself; `None` without labels.
    pub fn quantile(&self, share: f64) -> Option<i64> {
        let rank = rank(share, self.count())?;
        self.buckets()
            .scan(0_u64, |seen, (_, end, count)| {
                *seen = seen.saturating_add(count);
                Some((*seen, end))
            })
            .find(|(seen, _)| *seen >= rank)
            .map(|(_, end)| end)
    }

    /// How many labels came within `delay_ms`; one whose bucket reaches beyond it is not among them.
    pub fn count_within(&self, delay_ms: i64) -> u64 {
        let within = self.buckets().take_while(|(_, end, _)| *end <= delay_ms);
        within.fold(0, |sum, (_, _, count)| sum.saturating_add(count))
    }

    /// (first delay, last delay, labels) of each bucket, ascending.
    fn buckets(&self) -> impl Iterator<Item = (i64, i64, u64)> {
        let ahead = self.ahead.iter().enumerate().rev().map(|(bucket, count)| {
            let (first, last) = range_of(bucket);
            (-last, -first, *count)
        });
        let after = self.after.iter().enumerate().map(|(bucket, count)| {
            let (first, last) = range_of(bucket);
            (first, last, *count)
        });
        ahead.chain(after)
    }
}

impl AddAssign for DelaySketch {
    fn add_assign(&mut self, other: Self) {
        let add = |mine: &mut Vec<u64>, theirs: Vec<u64>| {
            if mine.len() < theirs.len() {
                mine.resize(theirs.len(), 0);
            }
            mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine = mine.saturating_add(theirs));
        };
        add(&mut self.after, other.after);
        add(&mut self.ahead, other.ahead);
        self.sum_ms = self.sum_ms.wrapping_add(other.sum_ms);
    }
}

/// Which of `count` values in order is the smallest that a share of them does not exceed, from 1.
pub fn rank(share: f64, count: u64) -> Option<u64> {
    // A share such as 0.95 is a little more than it says: a whole rank must not become the next one.
    let rank = (share * count as f64 - 1e-9 * count as f64).ceil() as u64;
    (count > 0).then(|| rank.clamp(1, count))
}

fn bucket_of(ms: u64) -> usize {
    let shift = (u64::BITS - ms.leading_zeros()).saturating_sub(STEP_BITS + 1);
    ((shift as usize) << STEP_BITS) + (ms >> shift) as usize
}

/// The first and the last delay of a bucket.
fn range_of(bucket: usize) -> (i64, i64) {
    let shift = (bucket >> STEP_BITS).saturating_sub(1);
    let first = ((bucket - (shift << STEP_BITS)) as u64) << shift;
    let last = first + ((1_u64 << shift) - 1);
    (i64::try_from(first).unwrap_or(i64::MAX), i64::try_from(last).unwrap_or(i64::MAX))
}

/// As it lies in a manifest: of each side pairs of how many buckets are empty, and the count of the next one.
#[derive(serde::Serialize, serde::Deserialize)]
struct PackedDelays {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    after: Vec<(u64, u64)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ahead: Vec<(u64, u64)>,
    #[serde(default)]
    sum_ms: i64,
}

impl From<DelaySketch> for PackedDelays {
    fn from(sketch: DelaySketch) -> Self {
        let pack = |side: Vec<u64>| {
            let mut empty = 0;
            let mut pairs = Vec::new();
            for count in side {
                match count {
                    0 => empty += 1,
                    count => pairs.push((std::mem::take(&mut empty), count)),
                }
            }
            pairs
        };
        PackedDelays { after: pack(sketch.after), ahead: pack(sketch.ahead), sum_ms: sketch.sum_ms }
    }
}

impl TryFrom<PackedDelays> for DelaySketch {
    type Error = String;

    fn try_from(packed: PackedDelays) -> Result<Self, String> {
        let unpack = |pairs: Vec<(u64, u64)>| {
            let mut side = Vec::new();
            for (empty, count) in pairs {
                let bucket = (side.len() as u64).saturating_add(empty);
                if bucket >= BUCKETS_MAX as u64 {
                    return Err(format!("delays have {BUCKETS_MAX} buckets, not {bucket}"));
                }
                side.resize(bucket as usize, 0);
                side.push(count);
            }
            Ok(side)
        };
        Ok(DelaySketch { after: unpack(packed.after)?, ahead: unpack(packed.ahead)?, sum_ms: packed.sum_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The oracle: all delays in order.
    fn naive(delays: &[i64], share: f64) -> Option<i64> {
        let mut sorted = delays.to_vec();
        sorted.sort_unstable();
        (1..=sorted.len()).find(|n| *n as f64 >= share * sorted.len() as f64 - 1e-6).map(|n| sorted[n - 1])
    }

    fn sketch(delays: &[i64]) -> DelaySketch {
        let mut sketch = DelaySketch::default();
        delays.iter().for_each(|delay| sketch.add(*delay));
        sketch
    }

    fn delay() -> impl Strategy<Value = i64> {
        prop_oneof![-2_000_i64..100, 0_i64..5_000, 0_i64..100_000_000, any::<i32>().prop_map(i64::from)]
    }

    #[test]
    fn buckets_follow_each_other_without_a_gap_and_are_narrow() {
        let mut next = 0;
        for bucket in 0..40 << STEP_BITS {
            let (first, last) = range_of(bucket);
            assert_eq!(first, next, "bucket {bucket}");
            assert!((last - first) * 32 <= first, "bucket {bucket}: {first} to {last}");
            assert_eq!((bucket_of(first as u64), bucket_of(last as u64)), (bucket, bucket));
            next = last + 1;
        }
        assert!(bucket_of(i64::MIN.unsigned_abs()) < BUCKETS_MAX && bucket_of(u64::MAX) < BUCKETS_MAX);
        let bytes = |ms: u64| (bucket_of(ms) + 1) * 8;
        assert!(bytes(30 * 86_400_000) <= 7_200 && BUCKETS_MAX * 8 <= 15_400, "as the head of the file says");
    }

    #[test]
    fn a_sketch_of_nothing_has_no_quantile() {
        let none = DelaySketch::default();
        assert_eq!((none.quantile(0.5), none.count(), none.count_within(i64::MAX)), (None, 0, 0));
    }

    #[test]
    fn bytes_that_no_sketch_would_write_are_refused() {
        let read = |text: &str| serde_json::from_str::<DelaySketch>(text);
        assert!(read(r#"{"after":[[18446744073709551615,1]],"sum_ms":0}"#).is_err());
        assert!(read(r#"{"after":[[1000,1],[1000,1]],"sum_ms":0}"#).is_err());
        assert_eq!(read("{}").unwrap(), DelaySketch::default());
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_delays_within_the_stated_error(
            delays in prop::collection::vec(delay(), 1..300),
            share in 0.0..=1.0_f64,
        ) {
            let (found, exact) = (sketch(&delays).quantile(share).unwrap(), naive(&delays, share).unwrap());
            prop_assert!(found >= exact && (found - exact) * 32 <= exact.abs(), "{found} for {exact}");
        }

        #[test]
        fn what_is_counted_within_a_delay_lies_between_the_delays_around_it(
            delays in prop::collection::vec(delay(), 0..300),
            within in delay(),
        ) {
            let count = |end: i64| delays.iter().filter(|delay| **delay <= end).count() as u64;
            let found = sketch(&delays).count_within(within);
            prop_assert!(found <= count(within) && found >= count(within - within.abs() / 32 - 1));
        }

        /// Any split into lanes, in any order, gives one sketch; and it comes back from a manifest as it was.
        #[test]
        fn order_and_lanes_never_matter(delays in prop::collection::vec((delay(), 0_usize..4), 0..200)) {
            let all: Vec<i64> = delays.iter().map(|(delay, _)| *delay).collect();
            let mut sum = DelaySketch::default();
            for lane in [2, 0, 3, 1] {
                let mine = delays.iter().rev().filter(|(_, of)| *of == lane).map(|(delay, _)| *delay);
                sum += sketch(&mine.collect::<Vec<_>>());
            }
            prop_assert_eq!(&sum, &sketch(&all));
            prop_assert_eq!(sum.count(), all.len() as u64);
            prop_assert_eq!(sum.sum_ms(), all.iter().sum::<i64>());
            let text = serde_json::to_string(&sum).unwrap();
            prop_assert_eq!(serde_json::from_str::<DelaySketch>(&text).unwrap(), sum);
        }
    }
}
