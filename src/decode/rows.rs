//! Rows: walks parsed records into the declared columns, one row per record or per element of its exploded array.
//!
//! ```text
//!   { ts, user, items: [ {id}, {id} ] }   ->   ts user | id        record columns are repeated,
//!                                              ts user | id        item columns differ
//! ```
//!
//! Holds: every column has one value per row, a placeholder where the value is bad; what is bad is noted by row.
//! A record that is bad as a whole (a record column, the array itself) is one row, whatever its array holds.

use crate::decode::column::Column;
use crate::decode::fault::{Fault, Found, Place, RowFaults, Texts};
use crate::decode::fit::Fit;
use crate::decode::json::Document;
use crate::decode::trie::{NodeId, ROOT, Trie};
use crate::decode::{ColumnFrom, DecodeSpec};
use crate::event::{RawBatch, RejectKind};
use simd_json::Node;

/// In [`Rows::item_of`]: the row is the whole record.
pub(super) const WHOLE: u32 = u32::MAX;

/// Text that exploding may copy within one batch; far beyond what bounded raw batches of sane records make.
const COPIED_BYTES_MAX: usize = 1 << 30;

pub(super) struct Rows {
    pub columns: Vec<Column>,
    pub count: usize,
    /// Per row: its record in the raw batch, and its element in the exploded array.
    pub record_of: Vec<u32>,
    pub item_of: Vec<u32>,
    /// Bad rows, ascending.
    pub notes: Vec<Note>,
    pub texts: Texts,
    /// Records whose array is empty: they are no row.
    pub empty_arrays: u64,
    copied_bytes: usize,
    record_trie: Trie,
    item_trie: Trie,
    record_columns: Vec<usize>,
    /// Record columns that are not in the payload.
    envelope_columns: Vec<usize>,
    item_columns: Vec<usize>,
    index_columns: Vec<usize>,
    /// Per column: whether `where` reads it.
    filter_reads: Vec<bool>,
    visit: u64,
    /// The number of the fit that the columns are set for; 0 is none.
    fitted: u64,
    /// Misfits of this batch that stand in `texts` already: the fit's number and the column, or none for the array.
    told: Vec<(u64, Option<usize>, Found)>,
}

pub(super) struct Note {
    pub row: usize,
    pub fault: Fault,
    pub blinds_filter: bool,
}

impl Rows {
    pub fn new(spec: &DecodeSpec) -> Self {
        let mut rows = Rows {
            columns: spec.columns[..spec.recorded()].iter().map(Column::new).collect(),
            count: 0,
            record_of: Vec::new(),
            item_of: Vec::new(),
            notes: Vec::new(),
            texts: Texts::default(),
            empty_arrays: 0,
            copied_bytes: 0,
            record_trie: Trie::new(),
            item_trie: Trie::new(),
            record_columns: Vec::new(),
            envelope_columns: Vec::new(),
            item_columns: Vec::new(),
            index_columns: Vec::new(),
            filter_reads: vec![false; spec.columns.len()],
            visit: 0,
            fitted: 0,
            told: Vec::new(),
        };
        for (index, column) in spec.columns[..spec.recorded()].iter().enumerate() {
            match &column.from {
                ColumnFrom::Path(path) => rows.record_trie.add_column(path, index),
                ColumnFrom::Item(path) => rows.item_trie.add_column(path, index),
                ColumnFrom::ItemIndex => rows.index_columns.push(index),
                _ => rows.envelope_columns.push(index),
            }
            match &column.from {
                ColumnFrom::Item(_) | ColumnFrom::ItemIndex => rows.item_columns.push(index),
                _ => rows.record_columns.push(index),
            }
        }
        if let Some(explode) = &spec.explode {
            rows.record_trie.add_array(&explode.path);
        }
        for &column in spec.filter.iter().flat_map(|filter| &filter.columns) {
            rows.filter_reads[column] = true;
        }
        rows
    }

    /// Starts a batch of about `records` rows.
    pub fn start(&mut self, records: usize) {
        self.count = 0;
        self.empty_arrays = 0;
        self.copied_bytes = 0;
        self.record_of.clear();
        self.item_of.clear();
        self.notes.clear();
        self.texts.clear();
        self.told.clear();
        self.columns.iter_mut().for_each(|column| column.reserve(records));
    }

    /// Adds the rows of one record, the `index`th of `raw`.
    pub fn add(&mut self, index: usize, document: &Document<'_>, spec: &DecodeSpec, raw: &RawBatch) {
        if let Some((number, fit)) = document.fit
            && number != self.fitted
        {
            self.fit(number, fit, spec);
        }
        let mut walk = Walk::new(&mut self.record_trie, &mut self.columns, &mut self.texts, &self.filter_reads);
        self.visit += 1;
        walk.run(document, 0, self.visit);
        let (mut faults, mut array) = (walk.faults, walk.array);
        if let Some((number, fit)) = document.fit {
            if let Some(misfit) = self.array_misfit(number, fit) {
                array = Err(misfit);
            }
            self.push_misfits(false, number, fit, &mut faults);
        }
        self.push_envelope(index, spec, raw, &mut faults);
        self.fill(false, spec, &mut faults);
        match &spec.explode {
            None => self.finish_row(index, WHOLE, &faults),
            Some(explode) => {
                let array = match array {
                    Ok(at) => elements(document.nodes, at, explode.max, &mut self.texts),
                    Err(fault) => Err(fault),
                };
                match array.and_then(|(at, len)| self.check_copies(len, spec).map(|()| (at, len))) {
                    Ok((at, len)) if faults.first().is_none() => self.explode(index, document, at, len, spec),
                    Ok(_) => self.add_whole(index, &mut faults),
                    Err(fault) => {
                        faults.add(fault, false);
                        self.add_whole(index, &mut faults);
                    }
                }
            }
        }
    }

    /// One row for a record that cannot be exploded.
    fn add_whole(&mut self, index: usize, faults: &mut RowFaults) {
        for &column in &self.item_columns {
            self.columns[column].push_placeholder();
            faults.blinds_filter |= self.filter_reads[column];
        }
        self.finish_row(index, WHOLE, faults);
    }

    fn explode(&mut self, index: usize, document: &Document<'_>, array: usize, len: usize, spec: &DecodeSpec) {
        if len == 0 {
            self.empty_arrays += 1;
            self.record_columns.iter().for_each(|&column| self.columns[column].pop());
            return;
        }
        let mut at = array + 1;
        for item in 0..len {
            self.visit += 1;
            let mut walk = Walk::new(&mut self.item_trie, &mut self.columns, &mut self.texts, &self.filter_reads);
            walk.run(document, at, self.visit);
            let mut faults = walk.faults;
            if let Some((number, fit)) = document.fit {
                self.push_misfits(true, number, fit, &mut faults);
            }
            for &column in &self.index_columns {
                if let Err(kind) = self.columns[column].push_integer(item as i64) {
                    let place = Place::Column { column, steps: 0 };
                    faults.add(Fault { kind, place, found: Found::Unsigned(item as u64) }, self.filter_reads[column]);
                }
            }
            self.fill(true, spec, &mut faults);
            self.finish_row(index, item as u32, &faults);
            at += size(&document.nodes[at]);
        }
        self.record_columns.iter().for_each(|&column| self.columns[column].repeat_last(len - 1));
    }

    /// Refuses to copy a record's text so often that memory is in danger.
    fn check_copies(&mut self, len: usize, spec: &DecodeSpec) -> Result<(), Fault> {
        let text: usize = self.record_columns.iter().map(|&column| self.columns[column].last_text_bytes()).sum();
        let copied = text.saturating_mul(len.saturating_sub(1));
        if copied > spec.limits.record_bytes_max || self.copied_bytes + copied > COPIED_BYTES_MAX {
            return Err(Fault { kind: RejectKind::TooLarge, place: Place::Array, found: Found::CopiedBytes(copied) });
        }
        self.copied_bytes += copied;
        Ok(())
    }

    /// Columns from around the payload: headers, key, partition, the broker's time.
    fn push_envelope(&mut self, index: usize, spec: &DecodeSpec, raw: &RawBatch, faults: &mut RowFaults) {
        let record = &raw.records[index];
        for &column in &self.envelope_columns {
            let bytes = match &spec.columns[column].from {
                ColumnFrom::Header(name) => {
                    // of several headers of one name the last counts, as in Kafka's own client
                    let named = |header: &&(_, _)| raw.slice(&header.0) == name.as_bytes();
                    record.headers.iter().rev().find(named).map(|(_, value)| raw.slice(value))
                }
                ColumnFrom::Key => record.key.as_ref().map(|key| raw.slice(key)),
                _ => None,
            };
            let number = match &spec.columns[column].from {
                ColumnFrom::Partition => Some(raw.delta.partition.partition as i64),
                ColumnFrom::BrokerTime => record.broker_time,
                _ => None,
            };
            let target = &mut self.columns[column];
            let (result, found) = match (bytes.map(std::str::from_utf8), number) {
                (Some(Ok(text)), _) => (target.push_plain_text(text), self.texts.keep(text)),
                (Some(Err(_)), _) => {
                    target.push_placeholder();
                    (Err(RejectKind::WrongType), Found::NotText)
                }
                (None, Some(number)) => (target.push_integer(number), Found::Signed(number)),
                (None, None) => continue,
            };
            if let Err(kind) = result {
                let place = Place::Column { column, steps: 0 };
                faults.add(Fault { kind, place, found }, self.filter_reads[column]);
            }
        }
    }

    /// Sets the columns for records of a schema.
    fn fit(&mut self, number: u64, fit: &Fit, spec: &DecodeSpec) {
        self.fitted = number;
        for (index, column) in self.columns.iter_mut().enumerate() {
            column.set_unit(fit.units[index].unwrap_or(spec.columns[index].unit));
        }
    }

    /// Refuses the columns that the record's schema cannot fill.
    fn push_misfits(&mut self, items: bool, number: u64, fit: &Fit, faults: &mut RowFaults) {
        for (column, message) in &fit.misfits {
            if self.item_columns.contains(column) != items {
                continue;
            }
            // A value that was found may have been refused or, by chance, taken.
            if self.columns[*column].rows() == self.count {
                self.columns[*column].push_placeholder();
            }
            let (kind, place) = (RejectKind::IncompatibleSchema, Place::Column { column: *column, steps: 0 });
            let found = self.tell(number, Some(*column), message);
            faults.add(Fault { kind, place, found }, self.filter_reads[*column]);
        }
    }

    fn array_misfit(&mut self, number: u64, fit: &Fit) -> Option<Fault> {
        let found = self.tell(number, None, fit.array.as_ref()?);
        Some(Fault { kind: RejectKind::IncompatibleSchema, place: Place::Array, found })
    }

    fn tell(&mut self, number: u64, column: Option<usize>, message: &str) -> Found {
        let known = self.told.iter().find(|(of, about, _)| (*of, *about) == (number, column));
        known.map(|(_, _, found)| *found).unwrap_or_else(|| {
            let found = self.texts.tell(message);
            self.told.push((number, column, found));
            found
        })
    }

    /// Gives every column that the record did not mention its null or default.
    fn fill(&mut self, items: bool, spec: &DecodeSpec, faults: &mut RowFaults) {
        let columns = if items { &self.item_columns } else { &self.record_columns };
        for &column in columns {
            if self.columns[column].rows() > self.count {
                continue;
            }
            if let Err(kind) = self.columns[column].push_absent() {
                let steps = match &spec.columns[column].from {
                    ColumnFrom::Path(path) | ColumnFrom::Item(path) => path.len() as u16,
                    _ => 0,
                };
                let place = Place::Column { column, steps };
                faults.add(Fault { kind, place, found: Found::Missing }, self.filter_reads[column]);
            }
        }
    }

    fn finish_row(&mut self, index: usize, item: u32, faults: &RowFaults) {
        if let Some(fault) = faults.first() {
            self.notes.push(Note { row: self.count, fault, blinds_filter: faults.blinds_filter });
        }
        self.record_of.push(index as u32);
        self.item_of.push(item);
        self.count += 1;
    }
}

/// The array at a node and its length.
fn elements(nodes: &[Node<'_>], at: usize, max: usize, texts: &mut Texts) -> Result<(usize, usize), Fault> {
    let fault = |kind, found| Err(Fault { kind, place: Place::Array, found });
    match &nodes[at] {
        Node::Array { len, .. } if *len > max => fault(RejectKind::TooManyItems, Found::Array { elements: *len }),
        Node::Array { len, .. } => Ok((at, *len)),
        Node::Static(simd_json::StaticNode::Null) => fault(RejectKind::MissingField, Found::Null),
        other => fault(RejectKind::WrongType, texts.found(other)),
    }
}

/// Nodes that a value takes on the tape.
#[inline]
fn size(node: &Node<'_>) -> usize {
    match node {
        Node::Object { count, .. } | Node::Array { count, .. } => count + 1,
        _ => 1,
    }
}

/// One walk through a record or an element of its array.
struct Walk<'a> {
    trie: &'a mut Trie,
    columns: &'a mut [Column],
    texts: &'a mut Texts,
    filter_reads: &'a [bool],
    faults: RowFaults,
    /// Where the exploded array is.
    array: Result<usize, Fault>,
    saturated: bool,
    visit: u64,
}

impl<'a> Walk<'a> {
    fn new(trie: &'a mut Trie, columns: &'a mut [Column], texts: &'a mut Texts, filter_reads: &'a [bool]) -> Self {
        let missing = Fault { kind: RejectKind::MissingField, place: Place::Array, found: Found::Missing };
        let faults = RowFaults::default();
        Walk { trie, columns, texts, filter_reads, faults, array: Err(missing), saturated: false, visit: 0 }
    }

    fn run(&mut self, document: &Document<'_>, at: usize, visit: u64) {
        self.saturated = document.saturated;
        self.visit = visit;
        self.value(document.nodes, at, ROOT);
    }

    #[inline]
    fn value(&mut self, nodes: &[Node<'_>], at: usize, id: NodeId) {
        let trie_node = &self.trie.nodes[id as usize];
        for &column in &trie_node.columns {
            if let Err(kind) = self.columns[column].push(&nodes[at], self.saturated) {
                let place = Place::Column { column, steps: trie_node.depth };
                let found = self.texts.found(&nodes[at]);
                self.faults.add(Fault { kind, place, found }, self.filter_reads[column]);
            }
        }
        if trie_node.is_array && self.array.is_err() {
            self.array = Ok(at);
        }
        if trie_node.has_fields() {
            self.fields(nodes, at, id);
        }
    }

    fn fields(&mut self, nodes: &[Node<'_>], at: usize, id: NodeId) {
        let len = match &nodes[at] {
            Node::Object { len, .. } => *len,
            Node::Static(simd_json::StaticNode::Null) => return,
            other => {
                let found = self.texts.found(other);
                return self.blame_below(id, RejectKind::WrongType, found);
            }
        };
        let mut at = at + 1;
        for place in 0..len {
            let Node::String(name) = &nodes[at] else { unreachable!("in an object keys and values alternate") };
            let value = at + 1;
            if let Some(child) = self.trie.nodes[id as usize].field(place, name) {
                let met_in = &mut self.trie.nodes[child as usize].met_in;
                if *met_in == self.visit {
                    self.blame_twice(child);
                } else {
                    *met_in = self.visit;
                    self.value(nodes, value, child);
                }
            }
            at = value + size(&nodes[value]);
        }
    }

    #[cold]
    fn blame_twice(&mut self, id: NodeId) {
        let trie_node = &self.trie.nodes[id as usize];
        if trie_node.is_array || trie_node.array_below {
            let (kind, place) = (RejectKind::DuplicateField, Place::Array);
            self.array = Err(Fault { kind, place, found: Found::Missing });
        }
        for &column in &trie_node.columns {
            let (kind, place) = (RejectKind::DuplicateField, Place::Column { column, steps: trie_node.depth });
            self.faults.add(Fault { kind, place, found: Found::Missing }, self.filter_reads[column]);
        }
        self.blame_below(id, RejectKind::DuplicateField, Found::Missing);
    }

    #[cold]
    fn blame_below(&mut self, id: NodeId, kind: RejectKind, found: Found) {
        let trie_node = &self.trie.nodes[id as usize];
        for &column in &trie_node.below {
            let place = Place::Column { column, steps: trie_node.depth };
            self.faults.add(Fault { kind, place, found }, self.filter_reads[column]);
        }
    }
}
