//! State: whatever a state object holds behind sha256 sums that are right, it is refused, or taken up and gone on from.
//!
//! In: which object and block, and what becomes of it: raw bytes, edits of its bytes, of its columns, of its entry in the
//! footer. All sums above it are made right again.

use super::base::{Base, base, hex, seal};
use super::columns::edit_columns;
use super::life::{Disk, memory_plan};
use super::manifest::go_on;
use super::script::{Script, edit_bytes, edit_json};
use arrow::array::RecordBatch;
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use conjoin::commit::{BlockEntry, ObjectEntry, read_footer};
use conjoin::config::Plan;
use conjoin::env::Store;
use sha2::{Digest, Sha256};
use std::sync::{Arc, LazyLock};

const MAGIC: &[u8] = b"CJSTATE1";

/// An object taken apart.
struct Parts {
    entry: ObjectEntry,
    blocks: Vec<(BlockEntry, Vec<u8>)>,
}

static BASE: LazyLock<(Base, Vec<Parts>)> = LazyLock::new(|| {
    let base = base(memory_plan(2));
    let disk = Disk::of(&base.objects);
    let parts = base.head.objects.iter().map(|object| {
        let entries = read_footer(disk.state(), object).expect("the base is whole");
        let bytes = |entry: &BlockEntry| {
            disk.state().read_range(&object.path, entry.offset, entry.bytes).expect("the base is whole")
        };
        Parts {
            entry: object.clone(),
            blocks: entries.into_iter().map(|entry| (entry.clone(), bytes(&entry))).collect(),
        }
    });
    let parts = parts.collect();
    (base, parts)
});

static PLANS: LazyLock<[Arc<Plan>; 2]> = LazyLock::new(|| [2, 3].map(memory_plan));

/// A block of each kind as it is, and no edits of any sort.
pub fn seeds() -> Vec<Vec<u8>> {
    let (_, objects) = &*BASE;
    let mut seeds: Vec<Vec<u8>> = (0..16).map(|how| vec![how]).collect();
    let mut kinds = Vec::new();
    for (number, object) in objects.iter().enumerate() {
        for (chosen, (entry, bytes)) in object.blocks.iter().enumerate().filter(|(chosen, _)| *chosen < 256) {
            if !kinds.contains(&entry.class.kind) {
                kinds.push(entry.class.kind);
                seeds.push([&[0, number as u8, chosen as u8], &bytes[..]].concat());
                seeds.push(vec![4, number as u8, chosen as u8]);
            }
        }
    }
    assert!(kinds.len() == 9, "the base has blocks of every kind: {kinds:?}");
    seeds
}

pub fn run(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let (base, objects) = &*BASE;
    let how = script.byte();
    let plan = &PLANS[(how as usize / 8) % 2];
    let number = script.below(objects.len());
    let object = &objects[number];
    let mut blocks = object.blocks.clone();
    let chosen = script.below(blocks.len());
    let mut footer = None;
    let script_is_empty = script.is_over();
    match how % 8 {
        0 => blocks[chosen].1 = script.rest().to_vec(),
        1 | 2 => edit_bytes(&mut blocks[chosen].1, &mut script),
        3 => {
            let entries: Vec<&BlockEntry> = blocks.iter().map(|(entry, _)| entry).collect();
            let mut json = serde_json::to_value(entries).expect("entries are plain data");
            edit_json(&mut json, &mut script);
            footer = Some(json);
        }
        _ => {
            let rows = edit_columns(decode(&blocks[chosen].1), &mut script);
            blocks[chosen].0.rows = rows.num_rows() as u64;
            blocks[chosen].1 = encode(&rows);
        }
    }
    let mut content = MAGIC.to_vec();
    for (entry, bytes) in &mut blocks {
        (entry.offset, entry.bytes) = (content.len() as u64, bytes.len() as u64);
        entry.sha256 = hex(&Sha256::digest(&*bytes));
        content.extend_from_slice(bytes);
    }
    let footer = match footer {
        // With its own offsets and sums, which are right where they were not edited.
        Some(json) => json.to_string().into_bytes(),
        None => {
            let entries: Vec<&BlockEntry> = blocks.iter().map(|(entry, _)| entry).collect();
            serde_json::to_vec(&entries).expect("entries are plain data")
        }
    };
    content.extend_from_slice(&footer);
    let mut head = base.head.clone();
    head.objects[number] = ObjectEntry {
        path: object.entry.path.clone(),
        bytes: content.len() as u64,
        footer_bytes: footer.len() as u64,
        footer_sha256: hex(&Sha256::digest(&footer)),
    };
    let body = serde_json::to_vec(&head).expect("a manifest is plain data");
    let mut files = base.with_head(head.number, seal(&body));
    files.iter_mut().find(|(_, path, _)| *path == object.entry.path).expect("the object is there").2 = content;
    let whole = script_is_empty && !how.is_multiple_of(8);
    go_on(&Disk::of(&files), plan, whole);
}

fn decode(bytes: &[u8]) -> RecordBatch {
    let mut reader = StreamReader::try_new(bytes, None).expect("the base is whole");
    reader.next().expect("a block has a batch").expect("the base is whole")
}

fn encode(rows: &RecordBatch) -> Vec<u8> {
    let lz4 = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME));
    let options = lz4.expect("lz4 is built in");
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &rows.schema(), options).expect("memory takes it");
    writer.write(rows).expect("memory takes it");
    writer.into_inner().expect("memory takes it")
}
