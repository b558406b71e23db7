//! Cursor: reads the bytes of a binary record and never beyond them, and says what is wrong and where.

use crate::event::RejectKind;
use simd_json::{Node, StaticNode};

/// Why a record cannot be read on.
#[derive(Debug)]
pub(super) struct Broken {
    pub kind: RejectKind,
    pub at: usize,
    pub what: &'static str,
}

impl Broken {
    pub fn told(&self, format: &str) -> (RejectKind, String) {
        let Broken { kind, at, what } = self;
        let message = match kind {
            RejectKind::Truncated => format!("the record ends in the middle of {what} that begins at byte {at}"),
            RejectKind::NotUtf8 => format!("the text at byte {at} is not valid UTF-8"),
            RejectKind::TooDeep => format!("values are nested too deep at byte {at}"),
            _ => format!("this is not valid {format} of its schema at byte {at}: {what}"),
        };
        (*kind, message)
    }
}

#[derive(Clone)]
pub(super) struct Cursor<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
    pub end: usize,
    /// How bytes that do not follow the schema are refused.
    pub malformed: RejectKind,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8], at: usize, malformed: RejectKind) -> Self {
        Cursor { bytes, at, end: bytes.len(), malformed }
    }

    #[inline]
    pub fn is_over(&self) -> bool {
        self.at >= self.end
    }

    #[cold]
    pub fn broken<T>(&self, at: usize, what: &'static str) -> Result<T, Broken> {
        Err(Broken { kind: self.malformed, at, what })
    }

    #[cold]
    fn truncated<T>(&self, what: &'static str) -> Result<T, Broken> {
        // A part that ends early within a record that goes on is no cut-off record.
        let kind = if self.end == self.bytes.len() { RejectKind::Truncated } else { self.malformed };
        Err(Broken { kind, at: self.at, what })
    }

    #[inline]
    pub fn take(&mut self, length: u64, what: &'static str) -> Result<&'a [u8], Broken> {
        if length > (self.end - self.at) as u64 {
            return self.truncated(what);
        }
        let start = self.at;
        self.at += length as usize;
        Ok(&self.bytes[start..self.at])
    }

    #[inline]
    pub fn byte(&mut self, what: &'static str) -> Result<u8, Broken> {
        if self.at >= self.end {
            return self.truncated(what);
        }
        self.at += 1;
        Ok(self.bytes[self.at - 1])
    }

    /// Seven bits per byte, the lowest first.
    #[inline]
    pub fn varint(&mut self, what: &'static str) -> Result<u64, Broken> {
        let first = self.byte(what)?;
        if first < 0x80 {
            return Ok(first as u64);
        }
        let start = self.at - 1;
        let mut value = (first & 0x7f) as u64;
        for shift in (7..64).step_by(7) {
            let Ok(byte) = self.byte(what) else {
                self.at = start;
                return self.truncated(what);
            };
            // the tenth byte has room for one bit
            if shift == 63 && byte > 1 {
                break;
            }
            value |= ((byte & 0x7f) as u64) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        self.broken(start, "a number of more than 64 bits")
    }

    /// A varint in which small negative numbers are small.
    #[inline]
    pub fn zigzag(&mut self, what: &'static str) -> Result<i64, Broken> {
        self.varint(what).map(unzigzag)
    }

    #[inline]
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Broken> {
        let bytes = self.take(N as u64, what)?;
        Ok(bytes.try_into().expect("as many were taken"))
    }

    #[inline]
    pub fn text(&self, bytes: &'a [u8]) -> Result<&'a str, Broken> {
        let at = self.at - bytes.len();
        std::str::from_utf8(bytes).map_err(|_| Broken { kind: RejectKind::NotUtf8, at, what: "text" })
    }
}

#[inline]
pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[inline]
pub(super) fn whole<'a>(value: i64) -> Node<'a> {
    Node::Static(StaticNode::I64(value))
}

#[inline]
pub(super) fn number<'a>(value: f64) -> Node<'a> {
    Node::Static(StaticNode::F64(value))
}

pub(super) const NULL: Node<'static> = Node::Static(StaticNode::Null);

/// Puts the size of an object into the node that was pushed for it before its fields.
pub(super) fn close_object(nodes: &mut [Node<'_>], at: usize, len: usize) {
    nodes[at] = Node::Object { len, count: nodes.len() - at - 1 };
}

pub(super) fn close_array(nodes: &mut [Node<'_>], at: usize, len: usize) {
    nodes[at] = Node::Array { len, count: nodes.len() - at - 1 };
}
