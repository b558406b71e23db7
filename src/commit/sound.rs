//! Sound: what a manifest says must be possible before anything is built on it.
//!
//! The seal tells bits that flipped. This tells what no writer can have meant, so that nothing later adds, subtracts or
//! counts on from such numbers.
//! Does not: ask whether the books balance: F1 does, at every commit, and a person shall be able to look at them.

use crate::commit::manifest::Manifest;
use crate::event::EventTime;

/// Beyond it is no count, no number of a manifest and no time of ours; sums of many such numbers do not overflow.
const NUMBER_MAX: u64 = 1 << 53;
/// The end of any log: a number of a file and a byte in it are packed into a position.
const POSITION_MAX: i64 = 1 << 62;
/// Entries of any list: far beyond what a manifest of ours can hold.
const ENTRIES_MAX: usize = 1 << 10;

/// Says what is impossible.
pub(super) fn check(manifest: &Manifest) -> Result<(), String> {
    let Manifest { number, epoch, cut, born_at_ms, committed_at_ms, .. } = manifest;
    for (what, number) in [("its number", number), ("its epoch", epoch), ("its cut", cut)] {
        count(what, [*number])?;
    }
    for (what, ms) in [("its chain's birth", born_at_ms), ("its commit", committed_at_ms)] {
        instant(what, *ms)?;
    }
    time("its watermark", manifest.watermark)?;
    time("its frontier", manifest.counts.frontier)?;
    manifest.online_instant.map_or(Ok(()), |ms| instant("its online instant", ms))?;
    for track in &manifest.tracks {
        time(&format!("the newest time of {}", track.stream), track.newest)?;
    }
    for input in &manifest.inputs {
        let mut positions = input.next.values().chain(input.first.values());
        if let Some(position) = positions.find(|position| !(0..POSITION_MAX).contains(*position)) {
            return Err(format!("position {position} of {} is impossible", input.name));
        }
    }
    for object in &manifest.objects {
        count("the size of a state object", [object.bytes, object.footer_bytes])?;
    }
    for entry in &manifest.files {
        count("the size of a file", [entry.file.rows, entry.file.bytes])?;
    }
    let totals = &manifest.totals;
    count("the totals of files", [totals.files, totals.file_rows, totals.file_bytes, totals.state_bytes_written])?;
    count("the totals of dead letters", [totals.dead_letter_files, totals.dead_letter_rows])?;
    count("the totals of side outputs", [totals.side_files, totals.side_rows])?;
    for (outlet, mark) in &manifest.outbox {
        count(&format!("the outbox of {outlet}"), [mark.kafka_through, mark.committed])?;
        at_most("rows sent", mark.sent, mark.committed)?;
    }
    books(manifest)
}

fn books(manifest: &Manifest) -> Result<(), String> {
    let counts = &manifest.counts;
    let labels: usize = counts.samples.iter().map(|sample| sample.labels.len()).sum();
    let uses: usize = counts.groups.iter().map(|group| group.uses.len()).sum();
    let lists =
        [manifest.streams.len(), manifest.outbox.len(), counts.samples.len(), counts.groups.len(), labels, uses];
    if lists.iter().any(|entries| *entries > ENTRIES_MAX) {
        return Err("it has more books than a pipeline has definitions".into());
    }
    for (name, account) in &manifest.streams {
        let parts = [account.filtered, account.dead_lettered, account.accepted];
        count(&format!("the account of stream {name}"), [account.records, account.consumed].into_iter().chain(parts))?;
    }
    for sample in &counts.samples {
        let anchor = &sample.anchor;
        count("the account of a sample", [anchor.duplicate, anchor.conflict, anchor.late, anchor.applied])?;
        count("the account of a sample", [anchor.pending, anchor.emitted, anchor.sampled_out, sample.memory_bytes])?;
        let memory = &sample.memory;
        count("the memory of a sample", [memory.index, memory.labels, memory.payload, memory.spilled])?;
        at_most("pending rows", anchor.pending, anchor.applied)?;
        for label in &sample.labels {
            let came = [label.filtered, label.duplicate, label.conflict, label.late, label.applied];
            count("the account of a join", came)?;
            let left = [label.waiting, label.attached, label.corrected, label.out_of_window, label.expired_unmatched];
            count("the account of a join", left)?;
            at_most("waiting labels", label.waiting, label.applied)?;
        }
    }
    for group in &counts.groups {
        count("the size of a feature group", [group.entities, group.tiles, group.due, group.memory_bytes])?;
        for used in &group.uses {
            count("the account of a feature group", [used.masked, used.duplicate, used.late, used.applied])?;
        }
    }
    Ok(())
}

fn count(what: &str, numbers: impl IntoIterator<Item = u64>) -> Result<(), String> {
    match numbers.into_iter().find(|number| *number > NUMBER_MAX) {
        Some(number) => Err(format!("{what}, {number}, is impossible")),
        None => Ok(()),
    }
}

fn at_most(what: &str, part: u64, whole: u64) -> Result<(), String> {
    if part > whole { Err(format!("{part} {what} of {whole} are impossible")) } else { Ok(()) }
}

fn instant(what: &str, ms: EventTime) -> Result<(), String> {
    if ms.unsigned_abs() > NUMBER_MAX { Err(format!("{what}, at {ms} ms, is impossible")) } else { Ok(()) }
}

/// The ends of time stand for what has not begun and what has ended.
fn time(what: &str, ms: EventTime) -> Result<(), String> {
    if ms == EventTime::MIN || ms == EventTime::MAX { Ok(()) } else { instant(what, ms) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::chain::tests::manifest_for_test;

    #[test]
    fn numbers_that_no_writer_means_are_told() {
        let sound = manifest_for_test(7, 3);
        assert_eq!(check(&sound), Ok(()));
        let told = |change: &dyn Fn(&mut Manifest)| {
            let mut manifest = sound.clone();
            change(&mut manifest);
            check(&manifest).expect_err("it is impossible")
        };
        assert!(told(&|manifest| manifest.epoch = u64::MAX).contains("its epoch, 18446744073709551615, is impossible"));
        assert!(told(&|manifest| manifest.watermark = EventTime::MAX - 1).contains("its watermark"));
        assert!(
            told(&|manifest| {
                manifest.inputs[0].next.insert(0, -1);
            })
            .contains("position -1 of clicks")
        );
        assert!(
            told(&|manifest| {
                manifest.counts.samples.resize_with(1, Default::default);
                manifest.counts.samples[0].anchor.pending = 1;
            })
            .contains("1 pending rows of 0")
        );
    }
}
