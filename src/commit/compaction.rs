//! Compaction: which state objects are copied into the object of the next cut, so that there are few of them.
//!
//!   needed bytes   ▂ ▂ ▂ ▂ ▂ ▂ ▂ ▂   eight of one size: copied together they are one of the next size
//!                  ▅ ▅ ▅             not yet eight
//!                  █ █ █ █ █         large enough: left alone
//!
//! A commit adds one object, which lives as long as anything in it is needed: commits of a second and a window of an hour
//! make thousands, which every manifest names and every restore opens. Putting together what is of one size copies a
//! byte once per size that it passes through, and so at most a few times, however large the state is.
//!
//! In: how large each object is, and how much of it is needed. Out: the objects whose needed blocks are to be copied.
//! Holds: a cut copies at most `copied_max` bytes; past `few`, fewer than `fan_in` objects of each small size are left
//! in the long run.
//! Does not: look into blocks: they are copied byte for byte, and keep their segments.

use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug)]
pub struct CompactionLimits {
    /// So many objects are no burden: below it nothing is copied, for most of them will go by themselves.
    pub few: usize,
    /// So many objects of one size become one of the next; an object of which less than one part of so many is needed
    /// is copied too, to free its space.
    pub fan_in: usize,
    /// Objects that hold as many needed bytes are left alone.
    pub large_bytes: u64,
    /// Bytes that one cut copies at most.
    pub copied_max: u64,
    /// What was copied stays for so long: whoever reads the state beside the run may just be reading it.
    pub linger_ms: u64,
}

impl Default for CompactionLimits {
    fn default() -> Self {
        CompactionLimits { few: 32, fan_in: 8, large_bytes: 4 << 20, copied_max: 16 << 20, linger_ms: 60_000 }
    }
}

/// How much of an object is still needed.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub bytes: u64,
    pub needed: u64,
}

/// The numbers of the objects to copy at this cut, ascending. `objects` are in the order in which they were written.
pub fn choose(objects: &[Usage], limits: &CompactionLimits) -> Vec<usize> {
    if objects.len() <= limits.few {
        return Vec::new();
    }
    let fan_in = limits.fan_in.max(2);
    let mut by_size: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (number, object) in objects.iter().enumerate().filter(|(_, object)| object.needed < limits.large_bytes) {
        by_size.entry(object.needed.max(1).ilog(fan_in as u64)).or_default().push(number);
    }
    let mut chosen = by_size.into_values().find(|alike| alike.len() >= fan_in).unwrap_or_default();
    let hollow = |object: &Usage| object.needed < object.bytes / fan_in as u64;
    chosen.extend((0..objects.len()).filter(|number| hollow(&objects[*number])));
    let mut left = limits.copied_max;
    chosen.retain(|number| {
        let fits = objects[*number].needed <= left;
        left -= if fits { objects[*number].needed } else { 0 };
        fits
    });
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: CompactionLimits =
        CompactionLimits { few: 10, fan_in: 4, large_bytes: 1 << 14, copied_max: 1 << 16, linger_ms: 0 };

    #[derive(Debug, Default)]
    struct Log {
        objects: Vec<Usage>,
        written: u64,
        fresh: u64,
        copied_at_once: u64,
    }

    impl Log {
        /// One commit; before it, the oldest bytes go as soon as there are more than `state` of them.
        fn commit(&mut self, fresh: u64, state: u64) {
            let mut too_many = self.objects.iter().map(|object| object.needed).sum::<u64>().saturating_sub(state);
            for object in &mut self.objects {
                let gone = object.needed.min(too_many);
                object.needed -= gone;
                too_many -= gone;
            }
            self.objects.retain(|object| object.needed > 0);
            let chosen = choose(&self.objects, &LIMITS);
            let copied: u64 = chosen.iter().map(|number| self.objects[*number].needed).sum();
            for number in chosen.into_iter().rev() {
                self.objects.remove(number);
            }
            self.objects.push(Usage { bytes: fresh + copied, needed: fresh + copied });
            self.fresh += fresh;
            self.written += fresh + copied;
            self.copied_at_once = self.copied_at_once.max(copied);
        }
    }

    proptest! {
        #[test]
        fn objects_stay_few_and_a_commit_costs_a_few_times_what_it_brings(
            sizes in prop::collection::vec(1u64..3_000, 1..20), state in 1u64..2_000_000,
        ) {
            let mut log = Log::default();
            for number in 0..2_000 {
                log.commit(sizes[number % sizes.len()], state);
                prop_assert!(log.copied_at_once <= LIMITS.copied_max);
                // Those that are large, and fewer than `fan_in` and those that came since of each size below.
                let large = log.objects.iter().filter(|object| object.bytes >= LIMITS.large_bytes).count() as u64;
                prop_assert!(large <= 2 + state / LIMITS.large_bytes * 4);
                prop_assert!(log.objects.len() as u64 <= LIMITS.few as u64 + 2 * large + 8 * LIMITS.fan_in as u64);
            }
            // Once per size of 1, 4, 16, … bytes up to the large ones, and no more.
            prop_assert!(log.written <= 8 * log.fresh, "{} written for {}", log.written, log.fresh);
        }
    }

    #[test]
    fn few_objects_are_left_alone() {
        let small = Usage { bytes: 10, needed: 10 };
        assert!(choose(&[small; 10], &LIMITS).is_empty());
        assert_eq!(choose(&[small; 11], &LIMITS).len(), 11);
    }

    #[test]
    fn an_object_that_is_mostly_garbage_is_copied_whatever_its_size() {
        let full = Usage { bytes: 1 << 20, needed: 1 << 20 };
        let mut objects = [full; 12];
        assert!(choose(&objects, &LIMITS).is_empty());
        objects[3] = Usage { needed: 50_000, ..full };
        assert_eq!(choose(&objects, &LIMITS), [3]);
        objects[3].needed = LIMITS.copied_max + 1;
        assert!(choose(&objects, &LIMITS).is_empty(), "more than one cut may copy");
    }
}
