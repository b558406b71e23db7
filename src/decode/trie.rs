//! Trie: the declared paths as a tree of fields, so that a record is walked once for all columns.
//!
//! ```text
//!   $ ─┬─ user ── id      -> columns at "id"
//!      ├─ ts              -> columns at "ts"
//!      └─ items           -> the exploded array
//! ```
//!
//! Records of one producer have their fields in one order. Each node therefore remembers what stood at each place of
//! the last record: a field is then found with one comparison, a field of no interest is passed over with one too.

pub(super) type NodeId = u32;

pub(super) const ROOT: NodeId = 0;

#[derive(Default)]
pub(super) struct Trie {
    pub nodes: Vec<TrieNode>,
}

#[derive(Default)]
pub(super) struct TrieNode {
    /// Steps from the root.
    pub depth: u16,
    /// Columns whose value is here.
    pub columns: Vec<usize>,
    /// Columns whose value is below.
    pub below: Vec<usize>,
    /// The exploded array is here, or below.
    pub is_array: bool,
    pub array_below: bool,
    /// Ascending by length and name.
    fields: Vec<(Box<str>, NodeId)>,
    /// What stood at each place of the last object.
    memory: Vec<(String, Option<NodeId>)>,
    /// The visit in which this node was met, to see a field that comes twice.
    pub met_in: u64,
}

/// Places and bytes of names that a node remembers; what is beyond is looked up.
const PLACES_MAX: usize = 256;
const NAME_BYTES_MAX: usize = 128;

impl Trie {
    pub fn new() -> Self {
        Trie { nodes: vec![TrieNode::default()] }
    }

    pub fn add_column(&mut self, path: &[String], column: usize) {
        let mut at = ROOT;
        for name in path {
            self.nodes[at as usize].below.push(column);
            at = self.child(at, name);
        }
        self.nodes[at as usize].columns.push(column);
    }

    pub fn add_array(&mut self, path: &[String]) {
        let mut at = ROOT;
        for name in path {
            self.nodes[at as usize].array_below = true;
            at = self.child(at, name);
        }
        self.nodes[at as usize].is_array = true;
    }

    fn child(&mut self, parent: NodeId, name: &str) -> NodeId {
        let node = &self.nodes[parent as usize];
        match node.search(name) {
            Ok(found) => node.fields[found].1,
            Err(place) => {
                let depth = node.depth + 1;
                let id = self.nodes.len() as NodeId;
                self.nodes[parent as usize].fields.insert(place, (name.into(), id));
                self.nodes.push(TrieNode { depth, ..TrieNode::default() });
                id
            }
        }
    }
}

impl TrieNode {
    pub fn has_fields(&self) -> bool {
        !self.fields.is_empty()
    }

    fn search(&self, name: &str) -> Result<usize, usize> {
        self.fields.binary_search_by(|(field, _)| (field.len(), &**field).cmp(&(name.len(), name)))
    }

    /// The node of the field `name`, which stands at `place` of its object; `None` when nobody asks for it.
    #[inline]
    pub fn field(&mut self, place: usize, name: &str) -> Option<NodeId> {
        match self.memory.get(place) {
            Some((remembered, node)) if remembered == name => *node,
            _ => self.look_up(place, name),
        }
    }

    fn look_up(&mut self, place: usize, name: &str) -> Option<NodeId> {
        let node = self.search(name).ok().map(|found| self.fields[found].1);
        if place < PLACES_MAX && name.len() <= NAME_BYTES_MAX {
            if self.memory.len() <= place {
                self.memory.resize_with(place + 1, Default::default);
                // an empty name is a name too: it must not be remembered as one of no interest
                let empty = self.search("").ok().map(|found| self.fields[found].1);
                self.memory.iter_mut().filter(|slot| slot.0.is_empty()).for_each(|slot| slot.1 = empty);
            }
            let slot = &mut self.memory[place];
            slot.0.clear();
            slot.0.push_str(name);
            slot.1 = node;
        }
        node
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Vec<String> {
        text.split('.').map(str::to_string).collect()
    }

    #[test]
    fn fields_are_found_in_every_order_and_place() {
        let mut trie = Trie::new();
        for (column, name) in ["user.id", "ts", "user.name", "", "tz"].iter().enumerate() {
            trie.add_column(&path(name), column);
        }
        let root = &mut trie.nodes[ROOT as usize];
        let names = ["user", "x", "ts", "", "tz", "user", "tx"];
        for shift in 0..names.len() * 3 {
            for place in 0..names.len() {
                let name = names[(place * 5 + shift) % names.len()];
                let known = matches!(name, "user" | "ts" | "tz" | "");
                assert_eq!(root.field(place, name).is_some(), known, "{name} at {place}");
            }
            assert!(root.field(1000, "ts").is_some());
        }
        let user = root.field(0, "user").unwrap();
        assert_eq!(trie.nodes[user as usize].below, [0, 2]);
        assert_eq!(trie.nodes[ROOT as usize].below, [0, 1, 2, 3, 4]);
    }
}
