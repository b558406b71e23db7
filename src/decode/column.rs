//! Column: collects the values of one declared column and checks each against the declared type.
//!
//! In: nodes of the tape, header texts or numbers, one per row. Out: an Arrow array. A value that does not fit leaves a
//! placeholder and says why, so that columns stay aligned and the row can still be judged by its other columns.
//!
//! What fits: a whole number written as `1.0` or `1e3` is an integer, as in JSON Schema, while it is exact (up to 2^53);
//! any number is a float; text is never a number, but an RFC 3339 timestamp is text. Null and missing are the same.

use crate::decode::timestamp::parse_rfc3339;
use crate::decode::{ColumnSpec, TimeUnitSpec};
use crate::event::{ColumnType, RejectKind, Value};
use arrow::array::{
    ArrayRef, BooleanArray, BooleanBufferBuilder, Float32Array, Float64Array, Int32Array, Int64Array, StringArray,
    TimestampMillisecondArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use simd_json::{Node, StaticNode};
use std::mem;
use std::sync::Arc;

pub(super) struct Column {
    data: Data,
    /// Only from the first null on.
    valid: Option<BooleanBufferBuilder>,
    rows: usize,
    absent: Absent,
    unit: TimeUnitSpec,
    /// How many bytes of text the last batch had.
    text_bytes: usize,
}

enum Data {
    Text { ends: Vec<i32>, bytes: Vec<u8> },
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Bool(Vec<bool>),
    Time(Vec<i64>),
}

/// What a missing or null value becomes.
enum Absent {
    Default(Value),
    Null,
    Refused,
}

/// Numbers up to here are whole numbers in a float without doubt.
const EXACT_MAX: f64 = (1u64 << 53) as f64;

impl Column {
    pub fn new(spec: &ColumnSpec) -> Self {
        let absent = match &spec.default {
            Some(Value::Null) | None if spec.nullable => Absent::Null,
            Some(value) => Absent::Default(value.clone()),
            None => Absent::Refused,
        };
        let data = match spec.column_type {
            ColumnType::String => Data::Text { ends: Vec::new(), bytes: Vec::new() },
            ColumnType::Int32 => Data::Int32(Vec::new()),
            ColumnType::Int64 => Data::Int64(Vec::new()),
            ColumnType::Float32 => Data::Float32(Vec::new()),
            ColumnType::Float64 => Data::Float64(Vec::new()),
            ColumnType::Bool => Data::Bool(Vec::new()),
            ColumnType::Timestamp => Data::Time(Vec::new()),
        };
        let mut column = Column { data, valid: None, rows: 0, absent, unit: spec.unit, text_bytes: 0 };
        column.reserve(0);
        column
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How times are written from here on.
    pub fn set_unit(&mut self, unit: TimeUnitSpec) {
        self.unit = unit;
    }

    pub fn reserve(&mut self, rows: usize) {
        match &mut self.data {
            Data::Text { ends, bytes } => {
                if ends.is_empty() {
                    ends.reserve(rows + 1);
                    ends.push(0);
                }
                bytes.reserve(self.text_bytes);
            }
            Data::Int32(values) => values.reserve(rows),
            Data::Int64(values) | Data::Time(values) => values.reserve(rows),
            Data::Float32(values) => values.reserve(rows),
            Data::Float64(values) => values.reserve(rows),
            Data::Bool(values) => values.reserve(rows),
        }
    }

    /// Adds a value of the tape. `saturated`: numbers beyond every float stand as the largest float in this record.
    #[inline]
    pub fn push(&mut self, node: &Node<'_>, saturated: bool) -> Result<(), RejectKind> {
        match (&mut self.data, node) {
            (Data::Text { ends, bytes }, Node::String(text)) => push_text(ends, bytes, text),
            (_, Node::Static(StaticNode::Null)) => return self.push_absent(),
            (Data::Float64(values), Node::Static(number)) => match float(number, saturated) {
                Ok(value) => values.push(value),
                Err(kind) => return self.refuse(kind),
            },
            (Data::Float32(values), Node::Static(number)) => match float(number, saturated) {
                Ok(value) if (value as f32).is_finite() => values.push(value as f32),
                Ok(_) => return self.refuse(RejectKind::OutOfRange),
                Err(kind) => return self.refuse(kind),
            },
            (Data::Time(values), _) => match time(node, self.unit) {
                Ok(value) => values.push(value),
                Err(kind) => return self.refuse(kind),
            },
            (Data::Bool(values), Node::Static(StaticNode::Bool(value))) => values.push(*value),
            (Data::Int32(_) | Data::Int64(_), Node::Static(number)) => {
                return match integer(number) {
                    Ok(value) => self.push_integer(value),
                    Err(kind) => self.refuse(kind),
                };
            }
            _ => return self.refuse(RejectKind::WrongType),
        }
        self.pushed();
        Ok(())
    }

    /// Adds a number that the record does not hold itself: an index, a partition, a time in ms.
    pub fn push_integer(&mut self, value: i64) -> Result<(), RejectKind> {
        match &mut self.data {
            Data::Int32(values) => match i32::try_from(value) {
                Ok(value) => values.push(value),
                Err(_) => return self.refuse(RejectKind::OutOfRange),
            },
            Data::Int64(values) | Data::Time(values) => values.push(value),
            Data::Float32(values) => values.push(value as f32),
            Data::Float64(values) => values.push(value as f64),
            Data::Text { .. } | Data::Bool(_) => return self.refuse(RejectKind::WrongType),
        }
        self.pushed();
        Ok(())
    }

    /// Adds the text of a header or key, read as the column's type: everything is text there.
    pub fn push_plain_text(&mut self, text: &str) -> Result<(), RejectKind> {
        fn parsed<T: std::str::FromStr>(text: &str) -> Result<T, RejectKind> {
            text.trim().parse().map_err(|_| RejectKind::WrongType)
        }
        let number = match &self.data {
            Data::Text { .. } => return self.push(&Node::String(text), false),
            Data::Time(_) if self.unit == TimeUnitSpec::Rfc3339 => return self.push(&Node::String(text), false),
            Data::Int32(_) | Data::Int64(_) | Data::Time(_) => parsed::<i64>(text).map(StaticNode::I64),
            Data::Float32(_) | Data::Float64(_) => parsed::<f64>(text).and_then(|value| {
                if value.is_finite() { Ok(StaticNode::F64(value)) } else { Err(RejectKind::OutOfRange) }
            }),
            Data::Bool(_) => parsed::<bool>(text).map(StaticNode::Bool),
        };
        match number {
            Ok(number) => self.push(&Node::Static(number), false),
            Err(kind) => self.refuse(kind),
        }
    }

    /// Adds what stands for a missing or null value.
    pub fn push_absent(&mut self) -> Result<(), RejectKind> {
        match &self.absent {
            Absent::Refused => return self.refuse(RejectKind::MissingField),
            Absent::Null => {
                self.push_placeholder();
                let rows = self.rows;
                let valid = self.valid.get_or_insert_with(|| {
                    let mut valid = BooleanBufferBuilder::new(rows.next_multiple_of(1024));
                    valid.append_n(rows, true);
                    valid
                });
                valid.set_bit(rows - 1, false);
                return Ok(());
            }
            Absent::Default(default) => match (&mut self.data, default) {
                (Data::Text { ends, bytes }, Value::Text(text)) => push_text(ends, bytes, text),
                (Data::Int32(values), Value::Int(value)) => values.push(*value as i32),
                (Data::Int64(values), Value::Int(value)) => values.push(*value),
                (Data::Time(values), Value::Int(value) | Value::Time(value)) => values.push(*value),
                (Data::Float32(values), Value::Float(value)) => values.push(*value as f32),
                (Data::Float32(values), Value::Int(value)) => values.push(*value as f32),
                (Data::Float64(values), Value::Float(value)) => values.push(*value),
                (Data::Float64(values), Value::Int(value)) => values.push(*value as f64),
                (Data::Bool(values), Value::Bool(value)) => values.push(*value),
                _ => unreachable!("the config check types every default"),
            },
        }
        self.pushed();
        Ok(())
    }

    /// Adds a value that means nothing: its row is refused, or the caller marks it as null.
    pub fn push_placeholder(&mut self) {
        match &mut self.data {
            Data::Text { ends, bytes } => push_text(ends, bytes, ""),
            Data::Int32(values) => values.push(0),
            Data::Int64(values) | Data::Time(values) => values.push(0),
            Data::Float32(values) => values.push(0.0),
            Data::Float64(values) => values.push(0.0),
            Data::Bool(values) => values.push(false),
        }
        self.pushed();
    }

    #[cold]
    fn refuse(&mut self, kind: RejectKind) -> Result<(), RejectKind> {
        self.push_placeholder();
        Err(kind)
    }

    #[inline]
    fn pushed(&mut self) {
        self.rows += 1;
        if let Some(valid) = &mut self.valid {
            valid.append(true);
        }
    }

    /// Bytes that [`Column::repeat_last`] copies each time.
    pub fn last_text_bytes(&self) -> usize {
        match &self.data {
            Data::Text { ends, .. } => match ends[..] {
                [.., start, end] => (end - start) as usize,
                _ => 0,
            },
            _ => 0,
        }
    }

    /// Adds the last value `times` more.
    pub fn repeat_last(&mut self, times: usize) {
        fn repeat<T: Copy>(values: &mut Vec<T>, times: usize) {
            let last = *values.last().expect("a record's row was added before it is repeated");
            values.resize(values.len() + times, last);
        }
        match &mut self.data {
            Data::Text { ends, bytes } => {
                let length = bytes.len() - ends[ends.len() - 2] as usize;
                for _ in 0..times {
                    bytes.extend_from_within(bytes.len() - length..);
                    ends.push(end_of(bytes));
                }
            }
            Data::Int32(values) => repeat(values, times),
            Data::Int64(values) | Data::Time(values) => repeat(values, times),
            Data::Float32(values) => repeat(values, times),
            Data::Float64(values) => repeat(values, times),
            Data::Bool(values) => repeat(values, times),
        }
        if let Some(valid) = &mut self.valid {
            let last = valid.get_bit(self.rows - 1);
            valid.append_n(times, last);
        }
        self.rows += times;
    }

    /// Takes the last value back.
    pub fn pop(&mut self) {
        self.rows -= 1;
        match &mut self.data {
            Data::Text { ends, bytes } => {
                ends.pop();
                bytes.truncate(*ends.last().expect("the first end is always there") as usize);
            }
            Data::Int32(values) => values.truncate(self.rows),
            Data::Int64(values) | Data::Time(values) => values.truncate(self.rows),
            Data::Float32(values) => values.truncate(self.rows),
            Data::Float64(values) => values.truncate(self.rows),
            Data::Bool(values) => values.truncate(self.rows),
        }
        if let Some(valid) = &mut self.valid {
            valid.truncate(self.rows);
        }
    }

    /// The values so far as an array; the column starts anew.
    pub fn take(&mut self) -> ArrayRef {
        let nulls = self.valid.take().map(|mut valid| NullBuffer::new(valid.finish()));
        self.rows = 0;
        match &mut self.data {
            Data::Text { ends, bytes } => {
                self.text_bytes = bytes.len();
                let offsets = OffsetBuffer::new(ScalarBuffer::from(mem::take(ends)));
                let values = Buffer::from_vec(mem::take(bytes));
                Arc::new(StringArray::try_new(offsets, values, nulls).expect("only whole texts were added"))
            }
            Data::Int32(values) => Arc::new(Int32Array::new(mem::take(values).into(), nulls)),
            Data::Int64(values) => Arc::new(Int64Array::new(mem::take(values).into(), nulls)),
            Data::Float32(values) => Arc::new(Float32Array::new(mem::take(values).into(), nulls)),
            Data::Float64(values) => Arc::new(Float64Array::new(mem::take(values).into(), nulls)),
            Data::Bool(values) => Arc::new(BooleanArray::new(mem::take(values).into(), nulls)),
            Data::Time(values) => {
                Arc::new(TimestampMillisecondArray::new(mem::take(values).into(), nulls).with_timezone("UTC"))
            }
        }
    }
}

#[inline]
fn push_text(ends: &mut Vec<i32>, bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(text.as_bytes());
    ends.push(end_of(bytes));
}

fn end_of(bytes: &[u8]) -> i32 {
    i32::try_from(bytes.len()).expect("batches and exploded copies are bounded far below 2 GiB")
}

fn float(number: &StaticNode, saturated: bool) -> Result<f64, RejectKind> {
    match *number {
        StaticNode::F64(value) if saturated && value.abs() == f64::MAX => Err(RejectKind::OutOfRange),
        // Binary formats have them, JSON does not; sums and models cannot go on from them.
        StaticNode::F64(value) if !value.is_finite() => Err(RejectKind::OutOfRange),
        StaticNode::F64(value) => Ok(value),
        StaticNode::I64(value) => Ok(value as f64),
        StaticNode::U64(value) => Ok(value as f64),
        StaticNode::Bool(_) | StaticNode::Null => Err(RejectKind::WrongType),
    }
}

fn integer(number: &StaticNode) -> Result<i64, RejectKind> {
    match *number {
        StaticNode::I64(value) => Ok(value),
        StaticNode::U64(value) => i64::try_from(value).map_err(|_| RejectKind::OutOfRange),
        StaticNode::F64(value) if value.fract() != 0.0 => Err(RejectKind::WrongType),
        StaticNode::F64(value) if value.abs() > EXACT_MAX => Err(RejectKind::OutOfRange),
        StaticNode::F64(value) => Ok(value as i64),
        StaticNode::Bool(_) | StaticNode::Null => Err(RejectKind::WrongType),
    }
}

/// Seconds may have a fraction, rounded to the nearest millisecond; the other units are whole numbers.
fn time(node: &Node<'_>, unit: TimeUnitSpec) -> Result<i64, RejectKind> {
    match (node, unit) {
        (Node::String(text), TimeUnitSpec::Rfc3339) => parse_rfc3339(text).ok_or(RejectKind::WrongType),
        (Node::Static(StaticNode::F64(value)), TimeUnitSpec::Seconds) => {
            let millis = (value * 1000.0).round();
            if millis.abs() <= EXACT_MAX { Ok(millis as i64) } else { Err(RejectKind::OutOfRange) }
        }
        (Node::Static(number), TimeUnitSpec::Seconds) => {
            integer(number)?.checked_mul(1000).ok_or(RejectKind::OutOfRange)
        }
        (Node::Static(number), TimeUnitSpec::Millis) => integer(number),
        (Node::Static(number), TimeUnitSpec::Micros) => Ok(integer(number)?.div_euclid(1000)),
        (Node::Static(number), TimeUnitSpec::Nanos) => Ok(integer(number)?.div_euclid(1_000_000)),
        _ => Err(RejectKind::WrongType),
    }
}
