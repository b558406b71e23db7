//! Table: columns of text for a person, and text that is safe on a terminal.
//!
//! Holds: what comes from records, files or brokers cannot move the cursor, colour, reorder or hide anything.
//! Does not: know how wide the terminal is.

use std::fmt::Write as _;

/// Rows of cells below a title; numbers to the right.
pub struct Table {
    titles: Vec<&'static str>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A title that begins with `>` stands over numbers.
    pub fn new(titles: &[&'static str]) -> Table {
        Table {
            right: titles.iter().map(|title| title.starts_with('>')).collect(),
            titles: titles.iter().map(|title| title.trim_start_matches('>')).collect(),
            rows: Vec::new(),
        }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| terminal_safe(cell.as_bytes())).collect());
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn render(&self) -> String {
        let width = |at: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
            cells.chain([self.titles[at].chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.titles.len()).map(width).collect();
        let mut text = String::new();
        let titles: Vec<String> = self.titles.iter().map(|title| (*title).to_owned()).collect();
        for row in std::iter::once(&titles).chain(&self.rows) {
            let mut line = String::from(" ");
            for (at, cell) in row.iter().enumerate() {
                let width = widths[at];
                let _ = match self.right[at] {
                    true => write!(line, " {cell:>width$}"),
                    false => write!(line, " {cell:<width$}"),
                };
                line.push(' ');
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Bytes as one line of text: what is not UTF-8 as `\xNN`, control and format characters as `\n`, `\t` or `\u{…}`.
pub fn terminal_safe(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                hidden if is_hidden(hidden) => {
                    let _ = write!(text, "\\u{{{:x}}}", hidden as u32);
                }
                plain => text.push(plain),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Characters that a terminal acts upon, or that show as nothing or turn the text round.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character as u32,
            0xAD | 0x61C | 0x180E | 0x200B..=0x200F | 0x2028..=0x202E | 0x2060..=0x206F | 0xFEFF | 0xFFF9..=0xFFFB
            | 0xE0000..=0xE0FFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_record_can_steer_the_terminal() {
        let text = terminal_safe(b"a\x1b[2J\x07\r\nb\xff\xfe\x7f \xe2\x80\xaec \xc2\x9bm \xe2\x82\xac");
        assert_eq!(text, "a\\u{1b}[2J\\u{7}\\r\\nb\\xff\\xfe\\u{7f} \\u{202e}c \\u{9b}m €");
        assert!(!text.chars().any(is_hidden));
    }

    #[test]
    fn columns_stand_under_each_other() {
        let mut table = Table::new(&["stream", ">rows"]);
        table.row(["clicks".into(), "7".into()]);
        table.row(["a\nb".into(), "1,234".into()]);
        assert_eq!(table.render(), "  stream   rows\n  clicks      7\n  a\\nb    1,234\n");
    }
}
