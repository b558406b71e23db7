//! JSON: parses one record at a time into simd-json's tape, reusing every buffer, and says why a record is no JSON.
//!
//! Holds: the record's own bytes stay as they are (the parser works in place, on a copy); a broken record is explained
//! from scratch by a second, slower parser, so that good records do not pay for good messages.
//! Numbers beyond 64 bits are JSON all the same: they are rewritten for the parser, which refuses them, as floats.

use crate::decode::fault::excerpt;
use crate::decode::fit::Fit;
use crate::event::RejectKind;
use serde::de::IgnoredAny;
use simd_json::{Buffers, ErrorType, INPUT_PADDING, Node, Tape, fill_tape_padded};
use std::mem;

pub(super) struct JsonParser {
    depth_max: usize,
    buffers: Buffers,
    scratch: Vec<u8>,
    tape: Tape<'static>,
}

/// A record's values in document order; a container's node is followed by what is in it.
pub(super) struct Document<'a> {
    pub nodes: &'a [Node<'a>],
    /// Numbers beyond every float stand as the largest one.
    pub saturated: bool,
    /// For records of a schema: what it means for the columns, and the number of that answer.
    pub fit: Option<(u64, &'a Fit)>,
}

/// Buffers above it are given back after use, so that one large record does not hold memory for ever.
const KEEP_BYTES: usize = 1 << 20;

impl JsonParser {
    pub fn new(depth_max: usize) -> Self {
        let buffers = Buffers::with_max_depth(4096, depth_max);
        JsonParser { depth_max, buffers, scratch: Vec::new(), tape: Tape(Vec::new()) }
    }

    /// Parses `record` and hands the result to `visit`.
    pub fn parse<R>(
        &mut self,
        record: &[u8],
        mut visit: impl FnMut(Document<'_>) -> R,
    ) -> Result<R, (RejectKind, String)> {
        self.scratch.clear();
        self.scratch.extend_from_slice(record);
        let result = match self.parse_scratch(false, &mut visit) {
            Ok(result) => Ok(result),
            Err(error) => match explain(record, &error, self.depth_max) {
                Some(rejected) => Err(rejected),
                None => {
                    let saturated = rewrite_numbers(record, &mut self.scratch);
                    self.parse_scratch(saturated, &mut visit).map_err(|error| {
                        let message =
                            format!("this is not valid JSON near byte {}: {:?}", error.index(), error.error());
                        (RejectKind::MalformedJson, message)
                    })
                }
            },
        };
        if record.len() > KEEP_BYTES {
            *self = JsonParser::new(self.depth_max);
        }
        result
    }

    fn parse_scratch<R>(
        &mut self,
        saturated: bool,
        visit: &mut impl FnMut(Document<'_>) -> R,
    ) -> Result<R, simd_json::Error> {
        let length = self.scratch.len();
        self.scratch.extend_from_slice(&[b' '; INPUT_PADDING]);
        let mut tape = mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let result = fill_tape_padded(&mut self.scratch, length, &mut self.buffers, &mut tape)
            .map(|()| visit(Document { nodes: &tape.0, saturated, fit: None }));
        self.tape = tape.reset();
        result
    }
}

/// Why `record` is no JSON; `None` when it is, but has numbers the fast parser does not take.
#[cold]
fn explain(record: &[u8], error: &simd_json::Error, depth_max: usize) -> Option<(RejectKind, String)> {
    let text = match std::str::from_utf8(record) {
        Ok(text) => text,
        Err(error) => {
            let at = error.valid_up_to();
            return Some((RejectKind::NotUtf8, format!("byte {at} (0x{:02x}) is not valid UTF-8", record[at])));
        }
    };
    if text.trim().is_empty() {
        return Some((RejectKind::EmptyPayload, "the record holds nothing but white space".to_string()));
    }
    if matches!(error.error(), ErrorType::DepthLimitExceeded) {
        return Some((RejectKind::TooDeep, format!("values are nested deeper than {depth_max}")));
    }
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => None,
        Err(error) => {
            let at = offset_of(text, error.line(), error.column());
            let what = error.to_string();
            let what = what.split(" at line ").next().unwrap_or_default();
            let message = format!("this is not valid JSON at byte {at}: {what}; there stands {}", excerpt(&text[at..]));
            Some((RejectKind::MalformedJson, message))
        }
    }
}

/// The byte that serde_json means by a line and a column, both from 1; moved back to the start of its character.
fn offset_of(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let mut at = (before + column.saturating_sub(1)).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Copies a valid record and writes integers beyond 64 bits as floats, and numbers beyond every float as the largest;
/// true when there were any of those.
fn rewrite_numbers(record: &[u8], into: &mut Vec<u8>) -> bool {
    into.clear();
    let mut saturated = false;
    let mut at = 0;
    while at < record.len() {
        let length = match record[at] {
            b'"' => string_length(&record[at..]),
            b'-' | b'0'..=b'9' => {
                let in_number = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
                record[at..].iter().take_while(in_number).count()
            }
            _ => 1,
        };
        let token = &record[at..at + length];
        at += length;
        into.extend_from_slice(token);
        if !matches!(token[0], b'-' | b'0'..=b'9') {
            continue;
        }
        let number = std::str::from_utf8(token).expect("digits and signs are ASCII");
        let whole = !token.iter().any(|byte| matches!(byte, b'.' | b'e' | b'E'));
        if number.parse::<f64>().is_ok_and(f64::is_infinite) {
            into.truncate(into.len() - length);
            into.extend_from_slice(if token[0] == b'-' {
                b"-1.7976931348623157e308"
            } else {
                b"1.7976931348623157e308"
            });
            saturated = true;
        } else if whole && number.parse::<u64>().is_err() && number.parse::<i64>().is_err() {
            into.extend_from_slice(b"e0");
        }
    }
    saturated
}

/// Bytes of the string literal at the start of `text`, quotes included.
fn string_length(text: &[u8]) -> usize {
    let mut at = 1;
    while at < text.len() {
        match text[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}
