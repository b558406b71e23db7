//! Letters: whatever lies where dead letters, replay ledgers and catalogs should be, it is read or refused.
//!
//! In: what it is, then its bytes, or edits of the bytes or columns of a file that is right.

use super::base::base;
use super::columns::edit_columns;
use super::life::memory_plan;
use super::script::{Script, edit_bytes};
use arrow::array::RecordBatch;
use conjoin::audit::{LetterFilter, ReplayOptions, lay_repaired, letter_groups, letter_records, replay};
use conjoin::commit::{Manifest, named_before};
use conjoin::config::Plan;
use conjoin::env::{MemoryStore, SeededEntropy, Store};
use conjoin::event::{PartitionId, RejectKind, Rejected};
use conjoin::sink::{DeadLetterSink, FileNaming, note_of, publish, read_stored};
use parquet::arrow::ArrowWriter;
use std::sync::{Arc, LazyLock};

const FILE: &str = "dead-letters/date=2026-01-01/dead-letters-0-1-0-00000007.parquet";

struct Letters {
    plan: Arc<Plan>,
    head: Manifest,
    file: Vec<u8>,
    rows: RecordBatch,
}

static LETTERS: LazyLock<Letters> = LazyLock::new(|| {
    let store = MemoryStore::new();
    let naming = FileNaming { pipeline: "life".into(), sample: String::new(), chain: 7, lane: 0, epoch: 1 };
    let names = ["impressions", "clicks"].map(String::from);
    let mut sink = DeadLetterSink::new(&names, &names, naming, Arc::new(store.clone()));
    let rejected = |number: u32| Rejected {
        stream: (number % 2) as u16,
        partition: PartitionId { input: (number % 2) as u16, partition: number % 3 },
        position: number as i64 / 2,
        item: number.is_multiple_of(4).then_some(number),
        kind: RejectKind::ALL[number as usize % RejectKind::ALL.len()],
        message: "it is not what it should be".repeat(number as usize % 3 + 1),
        raw: format!("{{\"n\":{number}}}").into_bytes(),
    };
    sink.push(&(0..40).map(rejected).collect::<Vec<_>>(), 1_767_225_600_000).expect("memory takes it");
    let files = sink.finish().expect("memory takes it");
    publish(&store, &files).expect("memory takes it");
    let mut rows = None;
    read_stored(&store, &files[0].path, &mut |batch| rows = Some(batch.clone())).expect("it was just written");
    let base = base(memory_plan(1));
    let file = store.read(&files[0].path).expect("it was just written");
    Letters { plan: base.plan, head: base.head, file, rows: rows.expect("it has rows") }
});

pub fn seeds() -> Vec<Vec<u8>> {
    let ledger = br#"1[{"topic":"clicks","partition":0,"position":1,"payload_hash":"00","to":7,"to_file":"x"}]"#;
    let catalog = br#"2[{"sink":"samples.ctr","sample":"ctr","rows":1,"bytes":2,"sha256":"","staged":"a","path":"b"}]"#;
    let mut seeds = vec![[&[0], &LETTERS.file[..]].concat(), ledger.to_vec(), catalog.to_vec()];
    (seeds[1][0], seeds[2][0]) = (1, 2);
    seeds.extend((3..7).map(|how| vec![how]));
    seeds
}

pub fn run(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let right = &*LETTERS;
    let store = MemoryStore::new();
    let (path, content) = match script.byte() % 8 {
        0 => (FILE, script.rest().to_vec()),
        1 => ("dead-letters/replays/1.json", script.rest().to_vec()),
        2 => ("catalog/1-2.json", script.rest().to_vec()),
        3 | 4 => {
            let mut file = right.file.clone();
            edit_bytes(&mut file, &mut script);
            (FILE, file)
        }
        5 => {
            // The metadata at the end decides how all the rest is read.
            let at = right.file.len()
                - u32::from_le_bytes(*right.file[..right.file.len() - 4].last_chunk().expect("it is long")) as usize
                - 8;
            let (rows, metadata) = right.file.split_at(at);
            let mut metadata = metadata.to_vec();
            edit_bytes(&mut metadata, &mut script);
            (FILE, [rows, &metadata].concat())
        }
        _ => (FILE, parquet(&edit_columns(right.rows.clone(), &mut script))),
    };
    store.corrupt(path, &content);
    if path != FILE {
        store.corrupt(FILE, &right.file);
    }
    let filter = LetterFilter::default();
    if let Ok(groups) = letter_groups(&store, &filter) {
        serde_json::to_string(&groups).expect("groups can always be shown");
    }
    let _ = note_of(&store, FILE, "conjoin.pipeline");
    let _ = named_before(&store);
    if let Ok(mut records) = letter_records(&store, &filter) {
        let _ = lay_repaired(&mut records, &content);
        let options = ReplayOptions { dry_run: true, ..ReplayOptions::default() };
        let _ = replay(&right.plan, &store, &right.head, records, options, &SeededEntropy::new(1));
    }
}

fn parquet(rows: &RecordBatch) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, rows.schema(), None).expect("the types are plain");
    writer.write(rows).expect("memory takes it");
    writer.close().expect("memory takes it");
    bytes
}
