//! Text: the distinct strings that states of a group hold, each stored once and counted.
//!
//! A state holds the number of its text; it owns one count, which moves with it and is given back when it goes.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

#[derive(Default)]
pub struct Texts {
    numbers: HashTable<u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    bytes: usize,
}

struct Slot {
    text: Box<str>,
    count: u32,
}

impl Texts {
    /// The number of `text`, with one more count.
    pub fn intern(&mut self, text: &str) -> u64 {
        let hash = xxh3_64(text.as_bytes());
        if let Some(&number) = self.numbers.find(hash, |&number| &*self.slots[number as usize].text == text) {
            self.slots[number as usize].count += 1;
            return number as u64;
        }
        let slot = Slot { text: text.into(), count: 1 };
        let number = match self.free.pop() {
            Some(number) => {
                self.slots[number as usize] = slot;
                number
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).expect("four billion distinct strings do not fit into memory")
            }
        };
        self.bytes += text.len();
        let slots = &self.slots;
        self.numbers.insert_unique(hash, number, |&other| xxh3_64(slots[other as usize].text.as_bytes()));
        number as u64
    }

    pub fn get(&self, number: u64) -> &str {
        &self.slots[number as usize].text
    }

    /// Gives one count back; the text is forgotten with the last one.
    pub fn release(&mut self, number: u64) {
        let slot = &mut self.slots[number as usize];
        slot.count -= 1;
        if slot.count > 0 {
            return;
        }
        let text = std::mem::take(&mut slot.text);
        if let Ok(entry) = self.numbers.find_entry(xxh3_64(text.as_bytes()), |&other| other as u64 == number) {
            entry.remove();
        }
        self.bytes -= text.len();
        self.free.push(number as u32);
    }

    pub fn memory_bytes(&self) -> usize {
        self.bytes + self.slots.capacity() * size_of::<Slot>() + self.numbers.capacity() * 5 + self.free.capacity() * 4
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.numbers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_stored_once_and_forgotten_with_its_last_count() {
        let mut texts = Texts::default();
        let a = texts.intern("a");
        assert_eq!(texts.intern("a"), a);
        let b = texts.intern("b");
        texts.release(a);
        assert_eq!((texts.get(a), texts.get(b)), ("a", "b"));
        texts.release(a);
        assert_eq!(texts.len(), 1);
        assert_eq!(texts.intern("c"), a, "the number is used again");
        assert_eq!(texts.get(a), "c");
    }
}
