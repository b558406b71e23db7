//! Read: the bytes of one Protobuf message onto the tape.
//!
//! A message is scanned once; of each field that is read the last value is kept, or where it begins. Repeated fields and
//! parts of one message that come in several pieces are rare enough to be looked for in a second scan.

use super::plan::{Absent, Bits, FIXED32, FIXED64, GROUP, LENGTH, Message, ProtobufPlan, Read, Slot, VARINT, Varint};
use crate::decode::cursor::{Broken, Cursor, NULL, close_array, close_object, number, unzigzag, whole};
use crate::event::RejectKind;
use simd_json::{Node, StaticNode};

/// Where a message's bytes are: in several parts if it came in several pieces.
type Part = (usize, usize);

/// What a scan found of one field.
#[derive(Clone, Copy, Default)]
pub(in crate::decode) struct Got {
    count: usize,
    /// Where the first of `count` begins.
    from: usize,
    /// The last value: a number, or where its bytes are.
    bits: u64,
    part: Part,
}

const TAG: &str = "a tag";
const VALUE: &str = "a value";
const END_GROUP: u8 = 4;

impl ProtobufPlan {
    /// Reads the message that begins at `at` and fills the rest of `bytes`. `got` is room to work in.
    pub fn read<'a>(
        &'a self,
        bytes: &'a [u8],
        at: usize,
        nodes: &mut Vec<Node<'a>>,
        got: &mut Vec<Got>,
    ) -> Result<(), Broken> {
        got.clear();
        let mut reader = Reader { plan: self, bytes, nodes, got };
        reader.object(&self.root, &[(at, bytes.len())])
    }
}

struct Reader<'a, 'n> {
    plan: &'a ProtobufPlan,
    bytes: &'a [u8],
    nodes: &'n mut Vec<Node<'a>>,
    got: &'n mut Vec<Got>,
}

impl<'a> Reader<'a, '_> {
    fn cursor(&self, (at, end): Part) -> Cursor<'a> {
        Cursor { bytes: self.bytes, at, end, malformed: RejectKind::MalformedProtobuf }
    }

    fn object(&mut self, message: &'a Message, parts: &[Part]) -> Result<(), Broken> {
        let base = self.scan(message, parts)?;
        let at = self.nodes.len();
        self.nodes.push(NULL);
        let mut len = 0;
        for (index, slot) in message.slots.iter().enumerate() {
            let got = self.got[base + index];
            if got.count == 0 && matches!(slot.absent, Absent::Missing) {
                continue;
            }
            self.nodes.push(Node::String(&slot.name));
            self.slot(slot, got, parts)?;
            len += 1;
        }
        close_object(self.nodes, at, len);
        self.got.truncate(base);
        Ok(())
    }

    /// What the message says of each slot, from the returned place of `got` on.
    fn scan(&mut self, message: &'a Message, parts: &[Part]) -> Result<usize, Broken> {
        let base = self.got.len();
        self.got.resize(base + message.slots.len(), Got::default());
        for part in parts {
            let mut cursor = self.cursor(*part);
            while !cursor.is_over() {
                let from = cursor.at;
                let (tag, wire) = self.tag(&mut cursor)?;
                let Ok(found) = message.fields.binary_search_by_key(&tag, |(number, _)| *number) else {
                    self.skip(&mut cursor, tag, wire, 0)?;
                    continue;
                };
                let field = &message.fields[found].1;
                if wire != field.wires.one && !(field.wires.packed && wire == LENGTH) {
                    return cursor.broken(from, "a field has another wire type than its schema says");
                }
                for end in &field.ends {
                    self.got[base + end] = Got::default();
                }
                let (bits, part) = self.payload(&mut cursor, tag, wire)?;
                if let Some(slot) = field.slot {
                    let got = &mut self.got[base + slot];
                    let from = if got.count == 0 { from } else { got.from };
                    *got = Got { count: got.count + 1, from, bits, part };
                }
            }
        }
        Ok(base)
    }

    #[inline]
    fn tag(&self, cursor: &mut Cursor<'a>) -> Result<(u32, u8), Broken> {
        let at = cursor.at;
        let tag = cursor.varint(TAG)?;
        match u32::try_from(tag >> 3) {
            Ok(number) if (1..1 << 29).contains(&number) => Ok((number, (tag & 7) as u8)),
            _ => cursor.broken(at, "a field has a number that no field can have"),
        }
    }

    /// The value of a field, or where its bytes are.
    #[inline]
    fn payload(&self, cursor: &mut Cursor<'a>, tag: u32, wire: u8) -> Result<(u64, Part), Broken> {
        match wire {
            VARINT => Ok((cursor.varint(VALUE)?, (0, 0))),
            FIXED64 => Ok((u64::from_le_bytes(cursor.array(VALUE)?), (0, 0))),
            FIXED32 => Ok((u32::from_le_bytes(cursor.array(VALUE)?) as u64, (0, 0))),
            LENGTH => {
                let length = cursor.varint("a length")?;
                let bytes = cursor.take(length, VALUE)?;
                Ok((0, (cursor.at - bytes.len(), cursor.at)))
            }
            _ => {
                let start = cursor.at;
                self.skip(cursor, tag, wire, 0)?;
                Ok((0, (start, cursor.at)))
            }
        }
    }

    fn skip(&self, cursor: &mut Cursor<'a>, tag: u32, wire: u8, depth: usize) -> Result<(), Broken> {
        match wire {
            GROUP if depth >= self.plan.depth_max => {
                Err(Broken { kind: RejectKind::TooDeep, at: cursor.at, what: VALUE })
            }
            GROUP => loop {
                let at = cursor.at;
                let (inner, wire) = self.tag(cursor)?;
                match wire {
                    END_GROUP if inner == tag => return Ok(()),
                    END_GROUP => return cursor.broken(at, "a group ends that did not begin"),
                    _ => self.skip(cursor, inner, wire, depth + 1)?,
                }
            },
            VARINT | FIXED64 | FIXED32 | LENGTH => self.payload(cursor, tag, wire).map(drop),
            END_GROUP => cursor.broken(cursor.at, "a group ends that did not begin"),
            _ => cursor.broken(cursor.at, "a field has a wire type that there is not"),
        }
    }

    /// Adds the node of a field that was scanned in `parts`.
    fn slot(&mut self, slot: &'a Slot, got: Got, parts: &[Part]) -> Result<(), Broken> {
        if got.count == 0 {
            self.nodes.push(match &slot.absent {
                Absent::Missing => NULL,
                Absent::Whole(value) => whole(*value),
                Absent::Unsigned(value) => Node::Static(StaticNode::U64(*value)),
                Absent::Number(value) => number(*value),
                Absent::Bool(value) => Node::Static(StaticNode::Bool(*value)),
                Absent::Text(text) => Node::String(text),
                Absent::Empty => Node::Array { len: 0, count: 0 },
            });
            return Ok(());
        }
        match &slot.read {
            Read::Array(element) => self.array(element, parts),
            Read::Message(_) | Read::Wrapper(_) | Read::Timestamp if got.count > 1 => {
                let mut pieces = Vec::with_capacity(got.count);
                self.each(parts, slot.number, |cursor, from, tag, wire| {
                    let (_, part) = self.payload(cursor, tag, wire)?;
                    pieces.extend((from >= got.from).then_some(part));
                    Ok(())
                })?;
                self.value(&slot.read, got.bits, &pieces)
            }
            read => self.value(read, got.bits, &[got.part]),
        }
    }

    /// Adds the node of one value.
    fn value(&mut self, read: &'a Read, bits: u64, parts: &[Part]) -> Result<(), Broken> {
        let node = match read {
            Read::Message(message) => return self.object(message, parts),
            Read::Wrapper(message) => {
                let base = self.scan(message, parts)?;
                let got = self.got[base];
                self.got.truncate(base);
                return self.slot(&message.slots[0], got, parts);
            }
            Read::Timestamp => whole(self.timestamp(parts)?),
            Read::Varint(varint) => varint_node(varint, bits),
            Read::Fixed32(Bits::Float) => number(f32::from_bits(bits as u32) as f64),
            Read::Fixed32(Bits::Signed) => whole(bits as u32 as i32 as i64),
            Read::Fixed32(Bits::Unsigned) => whole(bits as u32 as i64),
            Read::Fixed64(Bits::Float) => number(f64::from_bits(bits)),
            Read::Fixed64(Bits::Signed) => whole(bits as i64),
            Read::Fixed64(Bits::Unsigned) => Node::Static(StaticNode::U64(bits)),
            Read::Text => {
                let (start, end) = parts[parts.len() - 1];
                let mut cursor = self.cursor((start, end));
                let bytes = cursor.take((end - start) as u64, VALUE)?;
                Node::String(cursor.text(bytes)?)
            }
            Read::Opaque | Read::Array(_) => Node::Array { len: 0, count: 0 },
        };
        self.nodes.push(node);
        Ok(())
    }

    /// In microseconds, which have room for every year that a timestamp may have.
    fn timestamp(&self, parts: &[Part]) -> Result<i64, Broken> {
        let (mut seconds, mut nanos) = (0i64, 0i64);
        for part in parts {
            let mut cursor = self.cursor(*part);
            while !cursor.is_over() {
                let at = cursor.at;
                match self.tag(&mut cursor)? {
                    (1, VARINT) => seconds = cursor.varint(VALUE)? as i64,
                    (2, VARINT) => nanos = cursor.varint(VALUE)? as i32 as i64,
                    (1 | 2, _) => return cursor.broken(at, "a timestamp is not made of whole numbers"),
                    (tag, wire) => self.skip(&mut cursor, tag, wire, 0)?,
                }
            }
        }
        Ok(seconds.saturating_mul(1_000_000).saturating_add(nanos.div_euclid(1000)))
    }

    fn array(&mut self, element: &'a Slot, parts: &[Part]) -> Result<(), Broken> {
        let at = self.nodes.len();
        self.nodes.push(NULL);
        let mut elements: Vec<(u64, Part)> = Vec::new();
        let mut len = 0;
        let kept = self.plan.elements_max;
        let single = wire_of(&element.read);
        self.each(parts, element.number, |cursor, _, tag, wire| {
            let (bits, part) = self.payload(cursor, tag, wire)?;
            let packed = wire == LENGTH && single != LENGTH;
            let mut inner = self.cursor(part);
            loop {
                let (bits, part) = match packed {
                    true if inner.is_over() => return Ok(()),
                    true => self.payload(&mut inner, tag, single)?,
                    false => (bits, part),
                };
                len += 1;
                // What is beyond the limit only counts: the record will be refused for it.
                elements.extend((len <= kept).then_some((bits, part)));
                if !packed {
                    return Ok(());
                }
            }
        })?;
        for (bits, part) in elements {
            self.value(&element.read, bits, &[part])?;
        }
        close_array(self.nodes, at, len);
        Ok(())
    }

    /// Stops before the value of every field of this number.
    fn each(
        &self,
        parts: &[Part],
        number: u32,
        mut found: impl FnMut(&mut Cursor<'a>, usize, u32, u8) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        for part in parts {
            let mut cursor = self.cursor(*part);
            while !cursor.is_over() {
                let from = cursor.at;
                match self.tag(&mut cursor)? {
                    (tag, wire) if tag == number => found(&mut cursor, from, tag, wire)?,
                    (tag, wire) => self.skip(&mut cursor, tag, wire, 0)?,
                }
            }
        }
        Ok(())
    }
}

fn varint_node(varint: &Varint, bits: u64) -> Node<'_> {
    // Numbers of 32 bits are the lower half of what was written.
    match varint {
        Varint::Int32 => whole(bits as i32 as i64),
        Varint::Int64 => whole(bits as i64),
        Varint::Uint32 => whole(bits as u32 as i64),
        Varint::Uint64 => Node::Static(StaticNode::U64(bits)),
        Varint::Sint32 => whole(unzigzag(bits as u32 as u64)),
        Varint::Sint64 => whole(unzigzag(bits)),
        Varint::Bool => Node::Static(StaticNode::Bool(bits != 0)),
        Varint::Enum(names) => match names.binary_search_by_key(&(bits as i32), |(number, _)| *number) {
            Ok(found) => Node::String(&names[found].1),
            Err(_) => whole(bits as i32 as i64),
        },
    }
}

/// The wire type of one value that is not packed.
fn wire_of(read: &Read) -> u8 {
    match read {
        Read::Varint(_) => VARINT,
        Read::Fixed32(_) => FIXED32,
        Read::Fixed64(_) => FIXED64,
        _ => LENGTH,
    }
}
