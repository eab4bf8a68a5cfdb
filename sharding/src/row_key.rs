//! The key by which rows lie in a shard: a name's text with its labels reversed.
//!
//! `ads.example.com` has the key `com`, 0x00, `example`, 0x00, `ads`. Invariant: a key is as long as the text, and two
//! texts of names have the same key only when they are equal. Names under one parent are neighbours, which is what makes
//! them short beside each other. Escapes (`\.`, `\032`) stay as the text has them, so no octet of a label is 0x00.

use crate::name::NAME_TEXT_BYTES_MAX;

/// The octet between two labels: lower than any that a text holds, so that a name comes before the names below it.
pub const LABEL_END: u8 = 0;

/// A key in a fixed buffer.
pub struct RowKey {
    len: u16,
    bytes: [u8; NAME_TEXT_BYTES_MAX],
}

impl RowKey {
    /// The key of the root name, to be filled by [`RowKey::write`].
    pub const EMPTY: RowKey = RowKey { len: 0, bytes: [0; NAME_TEXT_BYTES_MAX] };

    /// Replaces the key by that of a name's text, as [`crate::name::NameText`] spells it. False, and the key is empty, when
    /// the text is longer than a name's can be.
    pub fn write(&mut self, text: &str) -> bool {
        let text = text.as_bytes();
        self.len = 0;
        let Some(key) = self.bytes.get_mut(..text.len()) else { return false };
        reverse_labels(text, b'.', LABEL_END, key);
        self.len = text.len() as u16;
        true
    }

    /// The key's octets.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// Writes the text of the name that has this key to `text`, which is emptied first.
pub fn text_of(key: &[u8], text: &mut String) {
    text.clear();
    for (place, label) in key.rsplit(|&octet| octet == LABEL_END).enumerate() {
        if place > 0 {
            text.push('.');
        }
        text.extend(label.iter().map(|&octet| char::from(octet)));
    }
}

/// Copies the labels of `from` in reversed order to `to`, which is as long.
fn reverse_labels(from: &[u8], from_end: u8, to_end: u8, to: &mut [u8]) {
    let len = from.len();
    let (mut start, mut at) = (0, 0);
    loop {
        let octet = from.get(at).copied();
        if octet.is_none_or(|octet| octet == from_end) {
            // What is at `start..at` from the left goes to the same place from the right.
            if let (Some(to), Some(from)) = (to.get_mut(len - at..len - start), from.get(start..at)) {
                to.copy_from_slice(from);
            }
            if octet.is_none() {
                return;
            }
            if let Some(end) = to.get_mut(len - at - 1) {
                *end = to_end;
            }
            start = at + 1;
        }
        // The octet after a backslash is part of the label, also a dot.
        at = (at + 1 + usize::from(octet == Some(b'\\'))).min(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_labels_from_the_right_and_gives_the_text_back() {
        let mut key = RowKey::EMPTY;
        let mut back = String::new();
        let longest = format!("{}.x", r"\255".repeat(63));
        for (text, expected) in [
            ("", ""),
            ("com", "com"),
            ("ads.example.com", "com\0example\0ads"),
            (r"a\.b.c\\.d", "d\0c\\\\\0a\\.b"),
            (r"\032\255.x", "x\0\\032\\255"),
            (&longest, &format!("x\0{}", r"\255".repeat(63))),
        ] {
            assert!(key.write(text));
            assert_eq!(key.as_bytes(), expected.as_bytes());
            text_of(key.as_bytes(), &mut back);
            assert_eq!(back, text);
        }
        assert!(!key.write(&"a".repeat(NAME_TEXT_BYTES_MAX + 1)));
        assert!(key.as_bytes().is_empty());
    }

    #[test]
    fn a_text_that_is_no_name_makes_no_panic() {
        let mut key = RowKey::EMPTY;
        for text in ["\\", "a.\\", ".", "..", "a..b", "\\\\\\", "ä.ö"] {
            assert!(key.write(text));
            assert_eq!(key.as_bytes().len(), text.len());
        }
    }

    #[test]
    fn names_below_another_follow_it_before_its_siblings() {
        let keys = ["example", "a.example", "b.a.example", "b.example", "example-2"].map(|text| {
            let mut key = RowKey::EMPTY;
            assert!(key.write(text));
            key.as_bytes().to_vec()
        });
        assert!(keys.is_sorted());
    }
}
