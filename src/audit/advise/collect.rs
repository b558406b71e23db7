//! Collect: what is kept of each impression and label: 48 bytes, and a key's rows all or none.
//!
//!   rows of all keys ── too many for the limit ──> rows of every second key ──> of every fourth …
//!
//! Holds: which keys are kept is a function of the key, so the rows that are left are a fair share over the whole log, and
//! each label that is kept has kept its impressions, too.

use super::bytes::Probe;
use crate::audit::AuditError;
use crate::config::Plan;
use crate::event::{DecodedBatch, EventTime, Fingerprint};

/// Beyond one key of so many (as a power of two) the rows are those of few keys, and leaving out more does not help.
const LEVEL_MAX: u32 = 24;

/// An impression or a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    pub key: Fingerprint,
    pub ts: EventTime,
    /// Half of its id's fingerprint: tells copies of one row from others of the same key.
    pub id: u64,
    /// How far its partition's watermark had passed it when it came.
    pub lag_ms: u32,
}

/// The impressions of one sample and the labels of its joins.
#[derive(Default)]
pub struct SampleSeen {
    pub impressions: Vec<Seen>,
    pub labels: Vec<Vec<Seen>>,
    /// Labels that a join's own `where` turned away.
    pub filtered: Vec<u64>,
}

pub(super) struct Collected<'a> {
    plan: &'a Plan,
    pub samples: Vec<SampleSeen>,
    pub probes: Vec<Probe>,
    rows_max: usize,
    rows: usize,
    /// One key of two to this power is kept.
    pub level: u32,
}

impl<'a> Collected<'a> {
    pub fn new(plan: &'a Plan, memory_bytes: u64) -> Self {
        let sample = |sample: &crate::config::SamplePlan| SampleSeen {
            labels: vec![Vec::new(); sample.join.labels.len()],
            filtered: vec![0; sample.join.labels.len()],
            ..SampleSeen::default()
        };
        Collected {
            samples: plan.samples.iter().map(sample).collect(),
            probes: plan.samples.iter().map(|sample| Probe::new(plan, sample)).collect(),
            plan,
            rows_max: (memory_bytes as usize / size_of::<Seen>()).max(1),
            rows: 0,
            level: 0,
        }
    }

    /// One key of so many is kept.
    pub fn one_key_of(&self) -> u64 {
        1 << self.level
    }

    /// Takes some rows of a batch; `came_at` is that of all of them.
    pub fn take(&mut self, batch: &DecodedBatch, rows: &[u32], came_at: &[EventTime]) -> Result<(), AuditError> {
        let decode = &self.plan.streams[batch.stream as usize].decode;
        for (number, sample) in self.plan.samples.iter().enumerate() {
            let mut taken = 0;
            let (level, seen) = (self.level, &mut self.samples[number]);
            let row_of = |row: u32| {
                let at = row as usize;
                let (key, ts) = (batch.keys[decode.key][at], batch.event_time[at]);
                let lag_ms = u32::try_from(came_at[at] - ts).unwrap_or(u32::MAX);
                Seen { key, ts, id: batch.keys[decode.id][at] as u64, lag_ms }
            };
            let kept = |seen: &Seen| keeps(level, seen.key);
            if sample.join.anchor == batch.stream {
                self.probes[number].impressions(batch, rows);
                let before = seen.impressions.len();
                seen.impressions.extend(rows.iter().map(|row| row_of(*row)).filter(kept));
                taken += seen.impressions.len() - before;
            }
            for (label, spec) in sample.join.labels.iter().enumerate().filter(|(_, spec)| spec.stream == batch.stream) {
                let mask = spec.filter.as_ref().map(|filter| filter.matches_or_false(&batch.rows));
                let wanted: Vec<u32> = match &mask {
                    None => rows.to_vec(),
                    Some(mask) => rows.iter().copied().filter(|row| mask.value(*row as usize)).collect(),
                };
                seen.filtered[label] += (rows.len() - wanted.len()) as u64;
                self.probes[number].labels(label, batch, &wanted);
                let list = &mut seen.labels[label];
                let before = list.len();
                list.extend(wanted.into_iter().map(row_of).filter(kept));
                taken += list.len() - before;
            }
            self.rows += taken;
        }
        while self.rows > self.rows_max {
            self.keep_fewer_keys()?;
        }
        Ok(())
    }

    fn keep_fewer_keys(&mut self) -> Result<(), AuditError> {
        if self.level == LEVEL_MAX {
            return Err(AuditError::Asked(
                "the rows of a few keys alone are more than fit: give a larger --memory, or fewer records with \
                 --max-records or --from and --to"
                    .into(),
            ));
        }
        self.level += 1;
        let level = self.level;
        self.rows = 0;
        for sample in &mut self.samples {
            for list in sample.labels.iter_mut().chain([&mut sample.impressions]) {
                list.retain(|seen| keeps(level, seen.key));
                self.rows += list.len();
            }
        }
        Ok(())
    }
}

/// The lower half of a fingerprint is a plain hash; the upper one says where the key lies.
fn keeps(level: u32, key: Fingerprint) -> bool {
    (key as u64).trailing_zeros() >= level
}
