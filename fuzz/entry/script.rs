//! Script: reads the fuzzer's bytes as decisions, and edits JSON and bytes as they say.
//!
//! Holds: a script that has run out decides nothing more, so every prefix of bytes is a script too.

use serde_json::{Number, Value as Json};

pub struct Script<'a> {
    bytes: &'a [u8],
}

impl<'a> Script<'a> {
    pub fn new(bytes: &'a [u8]) -> Script<'a> {
        Script { bytes }
    }

    pub fn is_over(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    pub fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    /// A number below `count`; 0 when there is nothing to choose from.
    pub fn below(&mut self, count: usize) -> usize {
        let number = match count {
            0..=256 => self.byte() as usize,
            _ => u16::from_le_bytes(self.take(2).try_into().expect("two bytes")) as usize,
        };
        number % count.max(1)
    }

    /// One that lies at some edge, or any.
    pub fn integer(&mut self) -> i128 {
        const EDGES: [i128; 20] = [
            0,
            1,
            -1,
            2,
            127,
            255,
            256,
            65_535,
            65_536,
            1 << 31,
            u32::MAX as i128,
            1 << 32,
            1 << 53,
            1_700_000_000_000,
            i64::MAX as i128 - 1,
            i64::MAX as i128,
            i64::MIN as i128,
            i64::MIN as i128 + 1,
            u64::MAX as i128 - 1,
            u64::MAX as i128,
        ];
        match self.byte() as usize {
            edge @ 0..20 => EDGES[edge],
            20..128 => i64::from_le_bytes(self.take(8).try_into().expect("eight bytes")) as i128,
            small => small as i128 - 128,
        }
    }

    /// The next bytes, zeros behind the end.
    fn take(&mut self, count: usize) -> Vec<u8> {
        let (now, later) = self.bytes.split_at(count.min(self.bytes.len()));
        self.bytes = later;
        let mut taken = now.to_vec();
        taken.resize(count, 0);
        taken
    }
}

/// Where a value lies: the way to it through arrays and objects.
type Way = Vec<usize>;

/// Edits values of a document until the script is over.
pub fn edit_json(document: &mut Json, script: &mut Script<'_>) {
    let mut edits = 0;
    while !script.is_over() && edits < 64 {
        edits += 1;
        let mut ways = Vec::new();
        collect(document, &mut Vec::new(), &mut ways);
        let way = ways[script.below(ways.len())].clone();
        let other = &ways[script.below(ways.len())];
        let other = at(document, other).clone();
        edit_one(document, &way, other, script);
    }
}

fn collect(value: &Json, way: &mut Way, ways: &mut Vec<Way>) {
    ways.push(way.clone());
    let children: Vec<&Json> = match value {
        Json::Array(items) => items.iter().collect(),
        Json::Object(fields) => fields.values().collect(),
        _ => return,
    };
    for (number, child) in children.into_iter().enumerate() {
        way.push(number);
        collect(child, way, ways);
        way.pop();
    }
}

fn at<'a>(document: &'a mut Json, way: &[usize]) -> &'a mut Json {
    way.iter().fold(document, |value, number| match value {
        Json::Array(items) => &mut items[*number],
        Json::Object(fields) => fields.values_mut().nth(*number).expect("a way leads to a value"),
        _ => unreachable!("only arrays and objects have values below"),
    })
}

fn edit_one(document: &mut Json, way: &[usize], other: Json, script: &mut Script<'_>) {
    let integer = |value: i128| match (u64::try_from(value), i64::try_from(value)) {
        (Ok(value), _) => Json::Number(value.into()),
        (_, Ok(value)) => Json::Number(value.into()),
        _ => Json::Null,
    };
    match script.byte() % 12 {
        0..=2 => *at(document, way) = integer(script.integer()),
        3 => *at(document, way) = other,
        4 => {
            let value = at(document, way);
            let step = script.byte() as i8 as i128;
            if let Some(number) = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from)) {
                *value = integer(number + step);
            }
        }
        5 => {
            let whole =
                [Json::Null, Json::Bool(true), Json::from(""), Json::Array(vec![]), Json::Object(Default::default())];
            *at(document, way) = whole[script.below(whole.len())].clone();
        }
        6 => *at(document, way) = Json::Number(Number::from_f64(script.byte() as f64 + 0.5).expect("it is finite")),
        7 => *at(document, way) = Json::from("x".repeat(script.byte() as usize)),
        8 | 9 => {
            let Some((last, above)) = way.split_last() else { return };
            match at(document, above) {
                Json::Array(items) => drop(items.remove(*last)),
                Json::Object(fields) => {
                    let name = fields.keys().nth(*last).expect("a way leads to a value").clone();
                    fields.remove(&name);
                }
                _ => {}
            }
        }
        _ => {
            let Some((last, above)) = way.split_last() else { return };
            match at(document, above) {
                Json::Array(items) => {
                    let copy = items[*last].clone();
                    items.insert(script.below(items.len() + 1), copy);
                }
                Json::Object(fields) => drop(fields.insert(format!("f{}", script.byte()), other)),
                _ => {}
            }
        }
    }
}

/// Overwrites, cuts and adds bytes until the script is over.
pub fn edit_bytes(bytes: &mut Vec<u8>, script: &mut Script<'_>) {
    let mut edits = 0;
    while !script.is_over() && edits < 64 {
        edits += 1;
        let place = script.below(bytes.len());
        match script.byte() % 8 {
            _ if bytes.is_empty() => bytes.push(script.byte()),
            0..=2 => bytes[place] = script.byte(),
            3 => bytes[place] ^= 1 << (script.byte() % 8),
            4 => {
                let value = script.integer() as u64;
                let end = bytes.len().min(place + 8);
                bytes[place..end].copy_from_slice(&value.to_le_bytes()[..end - place]);
            }
            5 => {
                let value = script.integer() as u32;
                let end = bytes.len().min(place + 4);
                bytes[place..end].copy_from_slice(&value.to_le_bytes()[..end - place]);
            }
            6 => bytes.truncate(place),
            _ => bytes.insert(place, script.byte()),
        }
    }
}
