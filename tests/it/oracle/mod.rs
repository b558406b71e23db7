//! Oracle: what samples and features are by their definition, computed slowly from all records at once.

pub mod naive_join;
pub mod naive_window;

use std::collections::BTreeMap;

/// One accepted record, in the order in which its partition has it.
#[derive(Clone, Debug)]
pub struct Event {
    pub stream: usize,
    pub partition: u32,
    pub ts: i64,
    pub id: u128,
    pub key: u128,
    pub content: u64,
    pub fields: serde_json::Value,
    /// The watermark of its partition when it came, itself included: it is late when its time is below.
    pub watermark: i64,
}

impl Event {
    pub fn is_late(&self) -> bool {
        self.ts < self.watermark
    }
}

/// Fills in the watermarks: the newest time so far of each partition, less the stream's lateness.
pub fn judge(events: &mut [Event], lateness: &[i64]) {
    let mut newest: BTreeMap<(usize, u32), i64> = BTreeMap::new();
    for event in events {
        let newest = newest.entry((event.stream, event.partition)).or_insert(i64::MIN);
        *newest = (*newest).max(event.ts);
        event.watermark = *newest - lateness[event.stream];
    }
}
