//! Entity keys: how the online store spells an entity, `v1:v2`, the same when it is written and when it is looked up.
//!
//!   ("eu:1", 7)  ->  "eu%3A1:7"
//!
//! Holds: two entities never share a spelling, and a spelling has no blank or control character, so that it can be
//! typed into any client of the store.

use crate::event::Value;

/// Appends one value of an entity as text: `:`, `%`, blanks and control characters become `%XX`, all else stays.
pub fn push_entity_text(key: &mut String, text: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for c in text.chars() {
        if matches!(c, ':' | '%' | ' ') || c.is_ascii_control() {
            let byte = c as usize;
            key.push('%');
            key.push(HEX[byte >> 4] as char);
            key.push(HEX[byte & 15] as char);
        } else {
            key.push(c);
        }
    }
}

/// The key of an entity with these values: `None` if one of them is null or a list, which no entity has.
pub fn entity_key(values: &[Value]) -> Option<String> {
    let mut key = String::with_capacity(24);
    for (number, value) in values.iter().enumerate() {
        if number > 0 {
            key.push(':');
        }
        match value {
            Value::Text(text) => push_entity_text(&mut key, text),
            Value::Int(number) | Value::Time(number) => key.push_str(&number.to_string()),
            Value::Bool(flag) => key.push_str(if *flag { "true" } else { "false" }),
            Value::Float(number) => key.push_str(&format!("{number:?}")),
            Value::Null | Value::List(_) => return None,
        }
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    #[test]
    fn entities_that_differ_never_share_a_key() {
        assert_ne!(entity_key(&[text("a:b"), text("c")]), entity_key(&[text("a"), text("b:c")]));
        assert_ne!(entity_key(&[text("%3A")]), entity_key(&[text(":")]));
        assert_eq!(entity_key(&[text("eu:1"), Value::Int(7)]).as_deref(), Some("eu%3A1:7"));
    }

    #[test]
    fn letters_of_any_script_stay_readable() {
        assert_eq!(entity_key(&[text("zoë\n 1")]).as_deref(), Some("zoë%0A%201"));
    }

    #[test]
    fn an_entity_with_a_null_has_no_key() {
        assert_eq!(entity_key(&[text("a"), Value::Null]), None);
    }
}
