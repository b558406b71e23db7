//! Buffer: the rows that one lane's sink has made for topics since the last cut, encoded as they come.
//!
//! Holds: rows wait as blocks of at most [`BLOCK_BYTES_MAX`]; past [`HELD_BYTES_MAX`] of those they go to an object of
//! their own, which the cut at hand will name: so a flood of closing rows takes disk and no memory (F13).

use super::{Outlet, Outlets};
use crate::commit::{BlockEntry, EncodedBlock, ObjectEntry, encode_block, object_path, write_object};
use crate::env::Store;
use crate::env::failpoint::{self, Failpoint};
use crate::event::{SegmentId, StateBlock};
use crate::pipeline::RunError;
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema};
use std::sync::Arc;

/// The column of keys, before those of the row: a name that no column can have.
const KEY: &str = "conjoin.key";
/// Rows that become one block; a sender has one in memory.
const BLOCK_BYTES_MAX: usize = 4 << 20;
/// Blocks that wait for the cut in memory.
const HELD_BYTES_MAX: usize = 16 << 20;
/// Blocks of outlets number their segments from here, so that they never meet those of joins and features.
const FIRST_SEGMENT: u32 = 1 << 31;

/// What a sink adds to a commit.
#[derive(Debug, Default)]
pub struct OutboxCut {
    pub blocks: Vec<EncodedBlock>,
    /// Written already.
    pub objects: Vec<(ObjectEntry, Vec<BlockEntry>)>,
}

struct Filling {
    outlet: Outlet,
    rows: Vec<RecordBatch>,
    bytes: usize,
}

/// What is made where.
pub struct OutboxBuffers {
    outlets: Vec<Filling>,
    cut: OutboxCut,
    held_bytes: usize,
    segment: SegmentId,
    lanes: usize,
    objects_made: u32,
    epoch: u64,
    writer: String,
    state: Arc<dyn Store>,
}

impl OutboxBuffers {
    /// For the cuts of `lane` of so many after cut `last_cut`.
    pub fn new(
        outlets: &Outlets,
        (lane, lanes): (usize, usize),
        last_cut: u64,
        (epoch, writer): (u64, &str),
        state: Arc<dyn Store>,
    ) -> OutboxBuffers {
        let filling = |outlet: &Outlet| Filling { outlet: outlet.clone(), rows: Vec::new(), bytes: 0 };
        OutboxBuffers {
            outlets: outlets.iter().map(filling).collect(),
            cut: OutboxCut::default(),
            held_bytes: 0,
            segment: SegmentId { cut: last_cut + 1, lane: lane as u16, ordinal: FIRST_SEGMENT },
            lanes,
            objects_made: 0,
            epoch,
            writer: writer.into(),
            state,
        }
    }

    /// Whether rows of this outlet of a sample go anywhere.
    pub fn wants(&self, sample: usize, part: u16) -> bool {
        self.outlets.iter().any(|filling| filling.is(sample, part))
    }

    /// Takes rows with their keys.
    pub fn push(&mut self, sample: usize, part: u16, keys: &StringArray, rows: &RecordBatch) -> Result<(), RunError> {
        let Some(at) = self.outlets.iter().position(|filling| filling.is(sample, part)) else { return Ok(()) };
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let rows = with_keys(keys, rows);
        // Rows that were taken out of a large batch still hold on to all of it: what counts is their share.
        let bytes = rows.get_array_memory_size();
        let filling = &mut self.outlets[at];
        filling.bytes += bytes;
        filling.rows.push(rows);
        if filling.bytes >= BLOCK_BYTES_MAX {
            self.encode(at)?;
        }
        Ok(())
    }

    fn encode(&mut self, at: usize) -> Result<(), RunError> {
        let filling = &mut self.outlets[at];
        let batches = std::mem::take(&mut filling.rows);
        filling.bytes = 0;
        let Some(first) = batches.first() else { return Ok(()) };
        let rows = concat_batches(&first.schema(), &batches).expect("rows of one outlet have one schema");
        let bucket = self.segment.cut as i64;
        let (class, segment) = (filling.outlet.class, self.segment);
        let block = encode_block(&StateBlock { class, bucket, segment, whole: false, rows }, self.lanes)?;
        self.segment.ordinal += 1;
        self.held_bytes += block.bytes().len();
        self.cut.blocks.push(block);
        if self.held_bytes >= HELD_BYTES_MAX { self.write() } else { Ok(()) }
    }

    /// Makes room: the blocks so far become an object, which is nobody's until the cut is committed.
    fn write(&mut self) -> Result<(), RunError> {
        self.held_bytes = 0;
        self.objects_made += 1;
        let writer = format!("{}-o{}-{}", self.writer, self.segment.lane, self.objects_made);
        let path = object_path(self.segment.cut, self.epoch, &writer);
        let blocks = std::mem::take(&mut self.cut.blocks);
        let written = failpoint::step(Failpoint::OutboxWrite, || write_object(self.state.as_ref(), &path, blocks))?;
        self.cut.objects.push(written);
        Ok(())
    }

    /// Everything since the last cut.
    pub fn cut(&mut self, number: u64) -> Result<OutboxCut, RunError> {
        debug_assert_eq!(number, self.segment.cut);
        (0..self.outlets.len()).try_for_each(|at| self.encode(at))?;
        self.segment.cut = number + 1;
        self.segment.ordinal = FIRST_SEGMENT;
        self.held_bytes = 0;
        Ok(std::mem::take(&mut self.cut))
    }
}

impl Filling {
    fn is(&self, sample: usize, part: u16) -> bool {
        self.outlet.sample == sample && self.outlet.class.part == part
    }
}

fn with_keys(keys: &StringArray, rows: &RecordBatch) -> RecordBatch {
    let key = Arc::new(Field::new(KEY, DataType::Utf8, false));
    let fields: Vec<_> = std::iter::once(key).chain(rows.schema_ref().fields().iter().cloned()).collect();
    let keys: ArrayRef = Arc::new(keys.clone());
    let columns: Vec<ArrayRef> = std::iter::once(keys).chain(rows.columns().iter().cloned()).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("there is a key for every row")
}

/// The keys and the rows of a block; `None` if it is none of an outbox.
pub(super) fn split_keys(block: &RecordBatch) -> Option<(StringArray, RecordBatch)> {
    let keys = block.columns().first()?.as_any().downcast_ref::<StringArray>()?.clone();
    let columns: Vec<usize> = (1..block.num_columns()).collect();
    Some((keys, block.project(&columns).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::{block_ref, decode_rows, read_block, verify_object};
    use crate::env::MemoryStore;
    use crate::event::{BlockClass, BlockKind};
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;
    use xxhash_rust::xxh3::xxh3_64;

    const ROWS: i64 = 1_000;

    /// A batch that does not compress.
    fn batch(number: i64) -> (StringArray, RecordBatch) {
        let noise =
            |row: i64| (0..16).map(move |n| format!("{:x}", xxh3_64(&(number * ROWS + row + (n << 40)).to_le_bytes())));
        let columns: [(&str, ArrayRef); 2] = [
            ("number", Arc::new(Int64Array::from_iter_values((0..ROWS).map(|row| number * ROWS + row)))),
            ("noise", Arc::new(StringArray::from_iter_values((0..ROWS).map(|row| noise(row).collect::<String>())))),
        ];
        let keys = StringArray::from_iter_values((0..ROWS).map(|row| format!("k{}", number * ROWS + row)));
        (keys, RecordBatch::try_from_iter(columns).unwrap())
    }

    fn outlets() -> Outlets {
        let class = |part: u16| BlockClass { kind: BlockKind::Outbox, node: 4, part };
        let outlet =
            |part: u16| Outlet { name: format!("o{part}"), sample: 0, class: class(part), shared: Arc::default() };
        Outlets([0, 2].map(outlet).into())
    }

    #[test]
    fn f13_a_flood_of_rows_for_a_topic_goes_to_disk_before_the_cut_and_none_is_lost() {
        let (state, outlets) = (Arc::new(MemoryStore::new()), outlets());
        let mut buffers = OutboxBuffers::new(&outlets, (1, 2), 6, (3, "w"), state.clone());
        for number in 0..200 {
            let (keys, rows) = batch(number);
            buffers.push(0, 0, &keys, &rows).unwrap();
            buffers.push(0, 1, &keys, &rows).unwrap();
            let waits: usize = buffers.outlets.iter().map(|filling| filling.bytes).sum();
            let held: usize = buffers.cut.blocks.iter().map(|block| block.bytes().len()).sum();
            assert!(waits < BLOCK_BYTES_MAX && held < HELD_BYTES_MAX, "{waits} and {held} bytes wait in memory");
        }
        let cut = buffers.cut(7).unwrap();
        assert!(cut.objects.len() >= 2, "{} objects", cut.objects.len());
        let mut pieces = Vec::new();
        for (object, entries) in &cut.objects {
            verify_object(state.as_ref(), object).unwrap();
            let path: Arc<str> = object.path.as_str().into();
            let read = |entry: &BlockEntry| read_block(state.as_ref(), &block_ref(&path, entry).unwrap()).unwrap();
            pieces.extend(entries.iter().map(|entry| (entry.clone(), read(entry))));
        }
        pieces.extend(cut.blocks.iter().map(|block| (block.entry().clone(), decode_rows(block.bytes()).unwrap())));
        assert!(pieces.iter().all(|(entry, _)| (entry.bucket, entry.class.part, entry.segment.lane) == (7, 0, 1)));
        pieces.sort_by_key(|(entry, _)| entry.segment);
        let mut next = 0;
        for (_, block) in &pieces {
            let (keys, rows) = split_keys(block).unwrap();
            let numbers = rows.column_by_name("number").unwrap().as_primitive::<Int64Type>();
            for row in 0..rows.num_rows() {
                assert_eq!((numbers.value(row), keys.value(row)), (next, format!("k{next}").as_str()));
                next += 1;
            }
        }
        assert_eq!(next, 200 * ROWS, "rows are in the order in which they came");
        assert!(buffers.cut(8).unwrap().blocks.is_empty(), "a cut without rows has no block");
    }
}
