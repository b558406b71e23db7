//! Read: the bytes of one Avro datum onto the tape.

use super::plan::{AvroPlan, Read};
use super::shape::{Shape, ShapeId};
use crate::decode::cursor::{Broken, Cursor, NULL, close_array, close_object, number, whole};
use crate::event::RejectKind;
use simd_json::{Node, StaticNode};

impl AvroPlan {
    /// Reads the datum that begins at `at` and must fill the rest of `bytes`.
    pub fn read<'a>(&'a self, bytes: &'a [u8], at: usize, nodes: &mut Vec<Node<'a>>) -> Result<(), Broken> {
        let cursor = Cursor::new(bytes, at, RejectKind::MalformedAvro);
        let mut reader = Reader { plan: self, shapes: &self.schema.shapes, cursor, nodes };
        reader.value(&self.read, 0)?;
        match reader.cursor.is_over() {
            true => Ok(()),
            false => reader.cursor.broken(reader.cursor.at, "bytes are left over"),
        }
    }
}

struct Reader<'a, 'n> {
    plan: &'a AvroPlan,
    shapes: &'a [Shape],
    cursor: Cursor<'a>,
    nodes: &'n mut Vec<Node<'a>>,
}

impl<'a> Reader<'a, '_> {
    /// Adds the nodes of one value.
    fn value(&mut self, read: &'a Read, depth: usize) -> Result<(), Broken> {
        match read {
            Read::Skip(id) => self.skip(*id, depth),
            Read::Scalar(id) => {
                let node = self.scalar(*id)?;
                self.nodes.push(node);
                Ok(())
            }
            Read::Opaque(id) => {
                self.skip(*id, depth)?;
                self.nodes.push(Node::Array { len: 0, count: 0 });
                Ok(())
            }
            Read::Record(fields) => {
                let at = self.open();
                let mut len = 0;
                for (name, read) in fields {
                    if let Some(name) = name {
                        self.nodes.push(Node::String(name));
                        len += 1;
                    }
                    self.value(read, depth)?;
                }
                close_object(self.nodes, at, len);
                Ok(())
            }
            Read::Union(branches) => {
                let index = self.index(branches.len(), "a union has no branch of this number")?;
                self.value(&branches[index], depth)
            }
            Read::Array(element, read) => self.exploded(*element, read, depth),
            Read::Map(value, wanted) => self.map(*value, wanted, depth),
        }
    }

    fn open(&mut self) -> usize {
        self.nodes.push(NULL);
        self.nodes.len() - 1
    }

    fn exploded(&mut self, element: ShapeId, read: &'a Read, depth: usize) -> Result<(), Broken> {
        let at = self.open();
        let mut len = 0usize;
        while let Some((count, _)) = self.block()? {
            let room = (self.plan.elements_max - len.min(self.plan.elements_max)) as u64;
            for _ in 0..count.min(room) {
                self.value(read, depth)?;
            }
            // What is beyond the limit only counts: the record will be refused for it.
            self.skip_many(element, count.saturating_sub(room), depth)?;
            len = len.saturating_add(count as usize);
        }
        close_array(self.nodes, at, len);
        Ok(())
    }

    fn map(&mut self, value: ShapeId, wanted: &'a [(String, Read)], depth: usize) -> Result<(), Broken> {
        let at = self.open();
        let mut len = 0;
        while let Some((count, _)) = self.block()? {
            for _ in 0..count {
                let key = self.bytes("a key")?;
                match wanted.iter().find(|(name, _)| name.as_bytes() == key) {
                    None => self.skip(value, depth)?,
                    Some((name, read)) => {
                        self.nodes.push(Node::String(name));
                        self.value(read, depth)?;
                        len += 1;
                    }
                }
            }
        }
        close_object(self.nodes, at, len);
        Ok(())
    }

    #[inline]
    fn scalar(&mut self, id: ShapeId) -> Result<Node<'a>, Broken> {
        Ok(match &self.shapes[id] {
            Shape::Null => NULL,
            Shape::Boolean => Node::Static(StaticNode::Bool(self.boolean()?)),
            Shape::Int => whole(self.int()? as i64),
            Shape::Long | Shape::Time(_) => whole(self.cursor.zigzag("a long")?),
            Shape::Float => number(f32::from_le_bytes(self.cursor.array("a float")?) as f64),
            Shape::Double => number(f64::from_le_bytes(self.cursor.array("a double")?)),
            Shape::String => {
                let bytes = self.bytes("a string")?;
                Node::String(self.cursor.text(bytes)?)
            }
            Shape::Enum(symbols) => {
                let index = self.index(symbols.len(), "an enum has no symbol of this number")?;
                Node::String(&symbols[index])
            }
            Shape::Decimal(size, scale) => {
                let bytes = match size {
                    Some(size) => self.cursor.take(*size as u64, "a decimal")?,
                    None => self.bytes("a decimal")?,
                };
                number(decimal(bytes, *scale))
            }
            // No column takes them; that there are some is all that a message says.
            Shape::Bytes => Node::Array { len: self.bytes("bytes")?.len(), count: 0 },
            Shape::Fixed(size) => Node::Array { len: self.cursor.take(*size as u64, "a fixed")?.len(), count: 0 },
            Shape::Array(_) | Shape::Map(_) | Shape::Union(_) | Shape::Record(..) => {
                self.skip(id, 0)?;
                Node::Array { len: 0, count: 0 }
            }
        })
    }

    fn boolean(&mut self) -> Result<bool, Broken> {
        match self.cursor.byte("a boolean")? {
            0 => Ok(false),
            1 => Ok(true),
            _ => self.cursor.broken(self.cursor.at - 1, "a boolean is neither 0 nor 1"),
        }
    }

    fn int(&mut self) -> Result<i32, Broken> {
        let at = self.cursor.at;
        match i32::try_from(self.cursor.zigzag("an int")?) {
            Ok(value) => Ok(value),
            Err(_) => self.cursor.broken(at, "an int has more than 32 bits"),
        }
    }

    #[inline]
    fn index(&mut self, len: usize, what: &'static str) -> Result<usize, Broken> {
        let at = self.cursor.at;
        match usize::try_from(self.cursor.zigzag("a number of a branch or symbol")?) {
            Ok(index) if index < len => Ok(index),
            _ => self.cursor.broken(at, what),
        }
    }

    #[inline]
    fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], Broken> {
        let at = self.cursor.at;
        match u64::try_from(self.cursor.zigzag(what)?) {
            Ok(length) => self.cursor.take(length, what),
            Err(_) => self.cursor.broken(at, "a length is negative"),
        }
    }

    /// How many items follow and, where the writer says so, in how many bytes; `None` at the end.
    fn block(&mut self) -> Result<Option<(u64, Option<u64>)>, Broken> {
        let at = self.cursor.at;
        match self.cursor.zigzag("the length of a block")? {
            0 => Ok(None),
            count if count > 0 => Ok(Some((count as u64, None))),
            count => match u64::try_from(self.cursor.zigzag("the size of a block")?) {
                Ok(size) => Ok(Some((count.unsigned_abs(), Some(size)))),
                Err(_) => self.cursor.broken(at, "the size of a block is negative"),
            },
        }
    }

    fn skip_many(&mut self, id: ShapeId, count: u64, depth: usize) -> Result<(), Broken> {
        if self.plan.schema.empty[id] {
            return Ok(());
        }
        (0..count).try_for_each(|_| self.skip(id, depth))
    }

    fn skip(&mut self, id: ShapeId, depth: usize) -> Result<(), Broken> {
        if depth > self.plan.depth_max {
            return Err(Broken { kind: RejectKind::TooDeep, at: self.cursor.at, what: "values" });
        }
        match &self.shapes[id] {
            Shape::Record(_, fields) if !self.plan.schema.empty[id] => {
                fields.iter().try_for_each(|(_, field)| self.skip(*field, depth + 1))
            }
            Shape::Record(..) | Shape::Null => Ok(()),
            Shape::Union(branches) => {
                let index = self.index(branches.len(), "a union has no branch of this number")?;
                // What a union holds is no union, so the depth still counts.
                self.skip(branches[index], depth)
            }
            Shape::Array(element) => {
                while let Some((count, size)) = self.block()? {
                    match size {
                        Some(size) => drop(self.cursor.take(size, "an array")?),
                        None => self.skip_many(*element, count, depth + 1)?,
                    }
                }
                Ok(())
            }
            Shape::Map(value) => {
                while let Some((count, size)) = self.block()? {
                    match size {
                        Some(size) => drop(self.cursor.take(size, "a map")?),
                        None => (0..count).try_for_each(|_| {
                            self.bytes("a key")?;
                            self.skip(*value, depth + 1)
                        })?,
                    }
                }
                Ok(())
            }
            Shape::Boolean => self.boolean().map(drop),
            Shape::Int => self.int().map(drop),
            Shape::Long | Shape::Time(_) => self.cursor.zigzag("a long").map(drop),
            Shape::Float => self.cursor.take(4, "a float").map(drop),
            Shape::Double => self.cursor.take(8, "a double").map(drop),
            Shape::Bytes | Shape::String | Shape::Decimal(None, _) => self.bytes("bytes or text").map(drop),
            Shape::Fixed(size) | Shape::Decimal(Some(size), _) => self.cursor.take(*size as u64, "a fixed").map(drop),
            Shape::Enum(symbols) => self.index(symbols.len(), "an enum has no symbol of this number").map(drop),
        }
    }
}

/// A big-endian number in two's complement, divided by a power of ten.
fn decimal(bytes: &[u8], scale: u32) -> f64 {
    let negative = bytes.first().is_some_and(|first| *first >= 0x80);
    let unscaled = if bytes.len() <= 16 {
        let fill = if negative { -1i128 } else { 0 };
        bytes.iter().fold(fill, |value, byte| (value << 8) | *byte as i128) as f64
    } else {
        let first = if negative { -1.0 } else { 0.0 };
        bytes.iter().fold(first, |value: f64, byte| value * 256.0 + *byte as f64)
    };
    unscaled / 10f64.powi(scale.min(400) as i32)
}
