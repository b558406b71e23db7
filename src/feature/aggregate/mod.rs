//! Aggregate: monoids over packed words. A registry is one `match`.
//!
//! In: values of rows, one at a time, in any order. Out: the value of any union of states; merging states gives what
//! adding all their rows to one state gives. Null values are skipped by every aggregate; `count: "*"` sees no nulls.
//! [`last`] keeps the events themselves and is no state of a tile.

pub mod count;
pub mod last;
pub mod mean;
pub mod min_max;
pub mod sum;

use crate::feature::text::Texts;
use crate::feature::value::{Input, Scalar};
use crate::feature::window::Windows;
use crate::feature::{AggregateKind, GroupSpec};

/// The longest state, in words.
pub const WORDS_MAX: usize = mean::WORDS;

/// What was kept of a row's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    Yes,
    Null,
    /// Not a value that the aggregate can hold, such as NaN in a sum.
    Refused,
}

/// An aggregate whose state is some words of a tile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tiled {
    Count,
    SumIntegers,
    SumFloats,
    MeanIntegers,
    MeanFloats,
    Min(Scalar),
    Max(Scalar),
}

impl Tiled {
    pub fn words(self) -> usize {
        match self {
            Tiled::Count => count::WORDS,
            Tiled::SumIntegers | Tiled::SumFloats => sum::WORDS,
            Tiled::MeanIntegers | Tiled::MeanFloats => mean::WORDS,
            Tiled::Min(_) | Tiled::Max(_) => min_max::WORDS,
        }
    }

    /// Which of its words is the number of a text, while word 0 is not 0.
    pub fn text_word(self) -> Option<usize> {
        matches!(self, Tiled::Min(Scalar::Text) | Tiled::Max(Scalar::Text)).then_some(1)
    }

    pub fn add(self, state: &mut [u64], input: &Input, row: usize, texts: &mut Texts) -> Taken {
        if input.is_null(row) {
            return Taken::Null;
        }
        match self {
            Tiled::Count => count::add(state),
            Tiled::SumIntegers => sum::add(state, input.integer(row) as i128),
            Tiled::MeanIntegers => mean::add(state, input.integer(row) as i128),
            Tiled::SumFloats => match sum::fixed(input.float(row)) {
                Some(value) => sum::add(state, value),
                None => return Taken::Refused,
            },
            Tiled::MeanFloats => match sum::fixed(input.float(row)) {
                Some(value) => mean::add(state, value),
                None => return Taken::Refused,
            },
            Tiled::Min(Scalar::Text) | Tiled::Max(Scalar::Text) => {
                min_max::add_text(state, matches!(self, Tiled::Max(_)), input.text(row), texts)
            }
            Tiled::Min(scalar) | Tiled::Max(scalar) => {
                if scalar.is_float() && input.float(row).is_nan() {
                    return Taken::Refused;
                }
                min_max::add_word(state, matches!(self, Tiled::Max(_)), input.word(row));
            }
        }
        Taken::Yes
    }

    /// Adds the states of a run of tiles, `stride` words apart, to `into`; for reading only.
    pub fn fold(self, into: &mut [u64], tiles: &[u64], stride: usize, offset: usize, texts: &Texts) {
        let states = tiles.chunks_exact(stride).map(|tile| &tile[offset..]);
        match self {
            Tiled::Count => states.for_each(|state| count::merge(into, state)),
            Tiled::SumIntegers | Tiled::SumFloats => states.for_each(|state| sum::merge(into, state)),
            Tiled::MeanIntegers | Tiled::MeanFloats => states.for_each(|state| mean::merge(into, state)),
            Tiled::Min(scalar) | Tiled::Max(scalar) => {
                let texts = (scalar == Scalar::Text).then_some(texts);
                states.for_each(|state| min_max::merge(into, state, matches!(self, Tiled::Max(_)), texts))
            }
        }
    }

    /// Merges a state that ends here into another, which takes over its counts of texts.
    pub fn absorb(self, into: &mut [u64], from: &[u64], texts: &mut Texts) {
        let before = (into[0], into.get(1).copied());
        self.fold(into, from, from.len(), 0, texts);
        if self.text_word().is_some()
            && let (1, Some(old)) = before
            && from[0] == 1
        {
            // Two counts came in, one text stays: the other one's count is given back.
            texts.release(if into[1] == old { from[1] } else { old });
        }
    }

    /// Gives back the counts of texts of a state that ends.
    pub fn release(self, state: &[u64], texts: &mut Texts) {
        if let Some(word) = self.text_word()
            && state[0] == 1
        {
            texts.release(state[word]);
        }
    }
}

/// Where a tiled aggregate lies in a tile.
#[derive(Clone, Copy, Debug)]
pub struct TiledPlace {
    pub tiled: Tiled,
    /// Of its first word in the tile; word 0 is the tile's tag.
    pub offset: usize,
}

/// An aggregate that keeps its events.
#[derive(Clone, Copy, Debug)]
pub struct LoggedPlace {
    pub k: usize,
    pub scalar: Scalar,
}

#[derive(Clone, Copy, Debug)]
pub enum Place {
    Tile(usize),
    Log(usize),
}

/// How the states of one entity of a group are laid out.
#[derive(Debug)]
pub struct Layout {
    /// Words of a tile, its tag included.
    pub stride: usize,
    pub tiled: Vec<TiledPlace>,
    pub logged: Vec<LoggedPlace>,
    /// Per aggregate of the spec.
    pub places: Vec<Place>,
    /// Per aggregate of the spec: its windows as numbers of the distinct ones, in the order of its outputs.
    pub windows: Vec<Vec<usize>>,
}

impl Layout {
    /// The configuration check refuses what [`AggregateKind::output_type`] does not know.
    pub fn new(spec: &GroupSpec, windows: &Windows) -> Layout {
        let mut layout = Layout { stride: 1, tiled: vec![], logged: vec![], places: vec![], windows: vec![] };
        for aggregate in &spec.aggregates {
            let scalar = aggregate.input.as_ref().and_then(Scalar::of);
            let typed = || scalar.expect("the configuration check refuses inputs that output_type does not know");
            let tiled = match aggregate.kind {
                AggregateKind::Count => Some(Tiled::Count),
                AggregateKind::Sum => Some(if typed().is_integer() { Tiled::SumIntegers } else { Tiled::SumFloats }),
                AggregateKind::Mean => Some(if typed().is_integer() { Tiled::MeanIntegers } else { Tiled::MeanFloats }),
                AggregateKind::Min => Some(Tiled::Min(typed())),
                AggregateKind::Max => Some(Tiled::Max(typed())),
                AggregateKind::Last | AggregateKind::LastK { .. } => None,
            };
            layout.places.push(match tiled {
                Some(tiled) => {
                    layout.tiled.push(TiledPlace { tiled, offset: layout.stride });
                    layout.stride += tiled.words();
                    Place::Tile(layout.tiled.len() - 1)
                }
                None => {
                    let k = if let AggregateKind::LastK { k } = aggregate.kind { k } else { 1 };
                    layout.logged.push(LoggedPlace { k, scalar: typed() });
                    Place::Log(layout.logged.len() - 1)
                }
            });
            let numbers = aggregate.windows.iter().map(|window| windows.number(window.window_ms, window.tail_ms));
            layout.windows.push(numbers.collect());
        }
        layout
    }

    pub fn release_tile(&self, tile: &[u64], texts: &mut Texts) {
        for place in &self.tiled {
            place.tiled.release(&tile[place.offset..], texts);
        }
    }

    pub fn absorb_tile(&self, into: &mut [u64], from: &[u64], texts: &mut Texts) {
        for place in &self.tiled {
            let words = place.offset..place.offset + place.tiled.words();
            place.tiled.absorb(&mut into[words.clone()], &from[words], texts);
        }
    }
}
