//! Letters: dead letters of a pipeline, counted, shown, and gathered into the records they came from.
//!
//! In: the published dead-letter files of the state, whoever wrote them. Out: letters in the order in which they were
//! rejected, filtered; one [`Record`] per place in a log, however many streams or elements refused it.
//! Holds: the order never changes for letters that are there, new ones come behind: line 7 stays line 7.

use crate::audit::AuditError;
use crate::env::Store;
use crate::event::EventTime;
use crate::sink::{Letter, read_letters};
use serde::Serialize;
use std::collections::BTreeMap;

const FOLDER: &str = "dead-letters/";

/// Which letters; an empty list is no condition.
#[derive(Clone, Debug, Default)]
pub struct LetterFilter {
    pub streams: Vec<String>,
    /// Inputs: topics or file patterns.
    pub topics: Vec<String>,
    pub reasons: Vec<String>,
    /// The first so many.
    pub limit: Option<usize>,
}

impl LetterFilter {
    fn takes(&self, letter: &Letter) -> bool {
        let fits = |names: &[String], name: &str| names.is_empty() || names.iter().any(|other| other == name);
        fits(&self.streams, &letter.stream) && fits(&self.topics, &letter.input) && fits(&self.reasons, &letter.reason)
    }
}

/// Letters of one stream, input and reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LetterGroup {
    pub stream: String,
    pub topic: String,
    pub reason: String,
    /// Letters, and records they are from: a slate may have many bad elements.
    pub rows: u64,
    pub records: u64,
    pub first_at: EventTime,
    pub last_at: EventTime,
    pub files: Vec<String>,
}

/// One record that was refused, by its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub input: String,
    pub partition: u32,
    pub position: i64,
    pub payload: Vec<u8>,
    /// The payload is not the one that was refused.
    pub repaired: bool,
    /// Who refused it and why, for people.
    pub reasons: Vec<String>,
}

/// The dead-letter files in the order in which they were written: by day, claim and number.
fn letter_files(state: &dyn Store) -> Result<Vec<String>, AuditError> {
    let listed = state.list(FOLDER)?.into_iter().map(|object| object.path);
    let mut files: Vec<String> = listed.filter(|path| path.ends_with(".parquet")).collect();
    files.sort_by_cached_key(|path| {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut numbers =
            name.trim_end_matches(".parquet").rsplitn(4, '-').skip(1).map(|part| part.parse().unwrap_or(0));
        let (seq, epoch): (u64, u64) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        (folder.to_owned(), epoch, seq, path.clone())
    });
    Ok(files)
}

/// Shows every letter that the filter takes, with the file it lies in.
pub fn each_letter(
    state: &dyn Store,
    filter: &LetterFilter,
    see: &mut dyn FnMut(&str, Letter),
) -> Result<usize, AuditError> {
    let mut shown = 0;
    for file in letter_files(state)? {
        if filter.limit.is_some_and(|limit| shown >= limit) {
            break;
        }
        read_letters(state, &file, &mut |letter| {
            if filter.takes(&letter) && filter.limit.is_none_or(|limit| shown < limit) {
                shown += 1;
                see(&file, letter);
            }
        })?;
    }
    Ok(shown)
}

/// Counts by stream, input and reason.
pub fn letter_groups(state: &dyn Store, filter: &LetterFilter) -> Result<Vec<LetterGroup>, AuditError> {
    type Key = (String, String, String);
    let mut groups: BTreeMap<Key, (LetterGroup, std::collections::BTreeSet<(u32, i64)>)> = BTreeMap::new();
    each_letter(state, filter, &mut |file, letter| {
        let key = (letter.stream.clone(), letter.input.clone(), letter.reason.clone());
        let (group, places) = groups.entry(key).or_insert_with(|| {
            let group = LetterGroup {
                stream: letter.stream.clone(),
                topic: letter.input.clone(),
                reason: letter.reason.clone(),
                rows: 0,
                records: 0,
                first_at: letter.rejected_at,
                last_at: letter.rejected_at,
                files: Vec::new(),
            };
            (group, Default::default())
        });
        group.rows += 1;
        group.first_at = group.first_at.min(letter.rejected_at);
        group.last_at = group.last_at.max(letter.rejected_at);
        if group.files.last().is_none_or(|last| last != file) {
            group.files.push(file.to_owned());
        }
        places.insert((letter.partition, letter.position));
    })?;
    let counted = groups.into_values().map(|(group, places)| LetterGroup { records: places.len() as u64, ..group });
    Ok(counted.collect())
}

/// The records behind the letters, each once, in the order of their first letter. The limit counts records.
pub fn letter_records(state: &dyn Store, filter: &LetterFilter) -> Result<Vec<Record>, AuditError> {
    let mut records: Vec<Record> = Vec::new();
    let mut known: BTreeMap<(String, u32, i64), usize> = BTreeMap::new();
    let (mut bytes_of, mut bytes) = ((String::new(), 0, 0), Vec::new());
    each_letter(state, &LetterFilter::default(), &mut |_, letter| {
        let taken = filter.takes(&letter);
        let Letter { stream, input, partition, position, item, reason, raw, .. } = letter;
        let place = (input.clone(), partition, position);
        // A slate's bytes lie with its first bad element, whatever that one was refused for.
        if !raw.is_empty() || place != bytes_of {
            (bytes_of, bytes) = (place.clone(), raw);
        }
        if !taken {
            return;
        }
        let at = *known.entry(place).or_insert_with(|| {
            let record =
                Record { input, partition, position, payload: Vec::new(), repaired: false, reasons: Vec::new() };
            records.push(record);
            records.len() - 1
        });
        let record = &mut records[at];
        if record.payload.is_empty() {
            record.payload.clone_from(&bytes);
        }
        let item = item.map_or_else(String::new, |item| format!(" item {item}"));
        record.reasons.push(format!("{stream}{item}: {reason}"));
    })?;
    records.truncate(filter.limit.unwrap_or(usize::MAX));
    Ok(records)
}
