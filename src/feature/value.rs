//! Value: single values as words: eight bytes that sort as the value does, or the number of an interned text.

use crate::feature::text::Texts;
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, StringArray,
    TimestampMillisecondArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMillisecondType};
use std::sync::Arc;

/// The types that aggregates take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scalar {
    Bool,
    Int32,
    Int64,
    Float32,
    Float64,
    Time,
    Text,
}

impl Scalar {
    pub fn of(data_type: &DataType) -> Option<Scalar> {
        Some(match data_type {
            DataType::Boolean => Scalar::Bool,
            DataType::Int32 => Scalar::Int32,
            DataType::Int64 => Scalar::Int64,
            DataType::Float32 => Scalar::Float32,
            DataType::Float64 => Scalar::Float64,
            DataType::Timestamp(TimeUnit::Millisecond, _) => Scalar::Time,
            DataType::Utf8 => Scalar::Text,
            _ => return None,
        })
    }

    pub fn is_integer(self) -> bool {
        matches!(self, Scalar::Int32 | Scalar::Int64)
    }

    pub fn is_float(self) -> bool {
        matches!(self, Scalar::Float32 | Scalar::Float64)
    }

    /// Whether a word can stand for a value of this type: what is read back from a state block may be anything.
    pub fn admits(self, word: u64) -> bool {
        match self {
            Scalar::Bool => word <= 1,
            Scalar::Int32 => i32::try_from(word as i64).is_ok(),
            Scalar::Float32 => {
                let value = float_of(word);
                value.is_nan() || f64::from(value as f32) == value
            }
            Scalar::Int64 | Scalar::Float64 | Scalar::Time | Scalar::Text => true,
        }
    }

    /// An array of words, as the type of the output column.
    pub fn array(self, words: &[u64], valid: Option<NullBuffer>, data_type: &DataType, texts: &Texts) -> ArrayRef {
        let words_iter = words.iter().copied();
        match self {
            Scalar::Bool => Arc::new(BooleanArray::new(words_iter.map(|word| word != 0).collect(), valid)),
            Scalar::Int32 => {
                let values: Vec<i32> = words_iter.map(|word| word as i64 as i32).collect();
                Arc::new(Int32Array::new(values.into(), valid))
            }
            Scalar::Int64 => Arc::new(Int64Array::new(words_iter.map(|word| word as i64).collect(), valid)),
            Scalar::Time => {
                let array = TimestampMillisecondArray::new(words_iter.map(|word| word as i64).collect(), valid);
                Arc::new(array.with_data_type(data_type.clone()))
            }
            Scalar::Float32 => {
                let values: Vec<f32> = words_iter.map(|word| float_of(word) as f32).collect();
                Arc::new(Float32Array::new(values.into(), valid))
            }
            Scalar::Float64 => {
                let values: Vec<f64> = words_iter.map(float_of).collect();
                Arc::new(Float64Array::new(values.into(), valid))
            }
            Scalar::Text => {
                let is_valid = |place| valid.as_ref().is_none_or(|valid| valid.is_valid(place));
                let texts = words_iter.enumerate().map(|(place, word)| is_valid(place).then(|| texts.get(word)));
                Arc::new(texts.collect::<StringArray>())
            }
        }
    }
}

/// A float as a word whose order as `i64` is the total order of floats (-0.0 below 0.0).
pub fn word_of(value: f64) -> u64 {
    flip(value.to_bits())
}

pub fn float_of(word: u64) -> f64 {
    f64::from_bits(flip(word))
}

/// Its own inverse: turns the magnitude bits round below zero.
fn flip(bits: u64) -> u64 {
    bits ^ (((bits as i64 >> 63) as u64) >> 1)
}

/// The aggregated expression's values for the rows of one batch.
pub struct Input<'a> {
    values: Values<'a>,
    nulls: Option<&'a NullBuffer>,
}

enum Values<'a> {
    /// `count: "*"`: every row, no value.
    Rows,
    Bool(&'a BooleanArray),
    Int32(&'a [i32]),
    Int64(&'a [i64]),
    Float32(&'a [f32]),
    Float64(&'a [f64]),
    Text(&'a StringArray),
}

impl<'a> Input<'a> {
    pub fn new(values: Option<&'a ArrayRef>) -> Input<'a> {
        let Some(array) = values else { return Input { values: Values::Rows, nulls: None } };
        let values = match Scalar::of(array.data_type()) {
            Some(Scalar::Bool) => Values::Bool(array.as_boolean()),
            Some(Scalar::Int32) => Values::Int32(array.as_primitive::<Int32Type>().values()),
            Some(Scalar::Int64) => Values::Int64(array.as_primitive::<Int64Type>().values()),
            Some(Scalar::Time) => Values::Int64(array.as_primitive::<TimestampMillisecondType>().values()),
            Some(Scalar::Float32) => Values::Float32(array.as_primitive::<Float32Type>().values()),
            Some(Scalar::Float64) => Values::Float64(array.as_primitive::<Float64Type>().values()),
            Some(Scalar::Text) => Values::Text(array.as_string::<i32>()),
            // Only a count takes such a column: it asks for nothing but nulls.
            None => Values::Rows,
        };
        Input { values, nulls: array.nulls() }
    }

    pub fn is_null(&self, row: usize) -> bool {
        self.nulls.is_some_and(|nulls| nulls.is_null(row))
    }

    pub fn integer(&self, row: usize) -> i64 {
        match self.values {
            Values::Bool(array) => array.value(row) as i64,
            Values::Int32(values) => values[row] as i64,
            Values::Int64(values) => values[row],
            _ => unreachable!("the plan gives integers to aggregates of integers"),
        }
    }

    pub fn float(&self, row: usize) -> f64 {
        match self.values {
            Values::Float32(values) => values[row] as f64,
            Values::Float64(values) => values[row],
            _ => unreachable!("the plan gives floats to aggregates of floats"),
        }
    }

    pub fn text(&self, row: usize) -> &'a str {
        match self.values {
            Values::Text(array) => array.value(row),
            _ => unreachable!("the plan gives strings to aggregates of strings"),
        }
    }

    /// The value as a word; not for texts.
    pub fn word(&self, row: usize) -> u64 {
        match self.values {
            Values::Float32(_) | Values::Float64(_) => word_of(self.float(row)),
            _ => self.integer(row) as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_floats_sort_as_the_floats_do_and_come_back_whole() {
        let floats = [f64::NEG_INFINITY, -1.5, -f64::MIN_POSITIVE, -0.0, 0.0, 1e-300, 2.0, f64::INFINITY];
        for pair in floats.windows(2) {
            assert!((word_of(pair[0]) as i64) < word_of(pair[1]) as i64, "{pair:?}");
        }
        for float in floats {
            assert_eq!(float_of(word_of(float)).to_bits(), float.to_bits());
        }
    }
}
