//! Min and max: whether there was a value, and the value as a word that sorts as it does; a text by its bytes.
//!
//! Floats are in total order, -0.0 below 0.0; NaN is refused.

use crate::feature::text::Texts;
use std::cmp::Ordering;

pub const WORDS: usize = 2;

/// True when `candidate` takes the place of the state's value.
fn wins(greatest: bool, order: Ordering) -> bool {
    order == if greatest { Ordering::Greater } else { Ordering::Less }
}

pub fn add_word(state: &mut [u64], greatest: bool, word: u64) {
    if state[0] == 0 || wins(greatest, (word as i64).cmp(&(state[1] as i64))) {
        state[0] = 1;
        state[1] = word;
    }
}

/// The state takes a count of the text.
pub fn add_text(state: &mut [u64], greatest: bool, text: &str, texts: &mut Texts) {
    if state[0] == 0 {
        state[0] = 1;
        state[1] = texts.intern(text);
    } else if wins(greatest, text.cmp(texts.get(state[1]))) {
        let number = texts.intern(text);
        texts.release(std::mem::replace(&mut state[1], number));
    }
}

/// Merges for reading: counts of texts stay as they are.
pub fn merge(into: &mut [u64], from: &[u64], greatest: bool, texts: Option<&Texts>) {
    if from[0] == 0 {
        return;
    }
    let order = || match texts {
        Some(texts) => texts.get(from[1]).cmp(texts.get(into[1])),
        None => (from[1] as i64).cmp(&(into[1] as i64)),
    };
    if into[0] == 0 || wins(greatest, order()) {
        into[0] = 1;
        into[1] = from[1];
    }
}
