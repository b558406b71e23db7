//! Outages: the times that passed while label streams were cut off, in a manifest and back.

use crate::commit::{Manifest, OutageEntry};
use crate::config::Plan;
use crate::event::Outage;

/// Outages as a manifest holds them.
pub fn outage_entries(streams: &[String], outages: &[Outage]) -> Vec<OutageEntry> {
    let entry = |outage: &Outage| OutageEntry {
        stream: streams[outage.stream as usize].clone(),
        from: outage.from,
        to: outage.to,
    };
    outages.iter().map(entry).collect()
}

/// And back: those of streams that are still there.
pub fn outages_of(plan: &Plan, head: &Manifest) -> Vec<Outage> {
    let number = |name: &str| plan.streams.iter().position(|stream| stream.name == name);
    let entries = head.outages.iter();
    let outage =
        |entry: &OutageEntry| Some(Outage { stream: number(&entry.stream)? as u16, from: entry.from, to: entry.to });
    entries.filter_map(outage).collect()
}
