//! The key by which the rules of a shard are sorted, made of a name, and the name's text made of it again.
//!
//! It depends on the layout. `sql` sorts by the name's text, as its tables do. `packed` sorts by the labels from the right, so that
//! all names under a suffix are neighbours and share the front of their keys: the labels' texts in reverse order, joined by a zero octet.
//! That octet sorts below every other and occurs in no text (control characters are escaped as `\DDD` there), so no two names have one
//! key, and a name comes right before those under it. Both keys of the root are empty.

use crate::manifest::Layout;
use crate::name::{LABELS_MAX, NAME_TEXT_BYTES_MAX, Name, write_label_text};

/// The octet between two labels: lower than any that a text holds, so that a name comes before the names below it.
pub const LABEL_END: u8 = 0;

/// A key of the packed layout in a fixed buffer: on the query path it is made of a text without an allocation.
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

/// Appends the key of `name`.
pub(crate) fn write_key(layout: Layout, name: &Name, to: &mut Vec<u8>) {
    let start = to.len();
    match layout {
        Layout::Sql => {
            for label in name.labels() {
                if to.len() > start {
                    to.push(b'.');
                }
                write_label_text(label, to);
            }
        }
        Layout::Packed => {
            let mut labels = [&[][..]; LABELS_MAX];
            let mut count = 0;
            for (place, label) in labels.iter_mut().zip(name.labels()) {
                *place = label;
                count += 1;
            }
            for label in labels.iter().take(count).rev() {
                if to.len() > start {
                    to.push(LABEL_END);
                }
                write_label_text(label, to);
            }
        }
    }
}

/// Replaces `text` by the text of the name whose key this is; false when it is no key.
pub(crate) fn read_key(layout: Layout, key: &[u8], text: &mut String) -> bool {
    text.clear();
    let Ok(key) = std::str::from_utf8(key) else { return false };
    match layout {
        Layout::Sql => text.push_str(key),
        Layout::Packed => text_of(key.as_bytes(), text),
    }
    true
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

    const NAMES: [&str; 9] = [
        "",
        "com",
        "example.com",
        "a.example.com",
        "b.a.example.com",
        "example-x.com",
        r"a\.b.com",
        r"b\000.com",
        "a.b.com",
    ];

    fn name(text: &str) -> Name {
        if text.is_empty() { Name::ROOT } else { text.parse().unwrap() }
    }

    fn key(layout: Layout, text: &str) -> Vec<u8> {
        let mut key = Vec::new();
        write_key(layout, &name(text), &mut key);
        key
    }

    #[test]
    fn a_key_gives_the_text_of_its_name_back() {
        let mut text = String::new();
        for layout in [Layout::Sql, Layout::Packed] {
            for of in NAMES {
                assert!(read_key(layout, &key(layout, of), &mut text));
                assert_eq!(text, name(of).to_text().as_str());
            }
        }
        assert_eq!(key(Layout::Sql, "a.example"), b"a.example");
        assert_eq!(key(Layout::Packed, r"a\.b.example"), b"example\0a\\.b");
    }

    #[test]
    fn names_under_a_suffix_are_neighbours_in_the_packed_layout() {
        let mut keys: Vec<_> = NAMES.iter().map(|text| (key(Layout::Packed, text), *text)).collect();
        keys.sort();
        let order: Vec<_> = keys.iter().map(|(_, text)| *text).collect();
        let expected = [
            "",
            "com",
            r"a\.b.com",
            "a.b.com",
            r"b\000.com",
            "example.com",
            "a.example.com",
            "b.a.example.com",
            "example-x.com",
        ];
        assert_eq!(order, expected);
    }

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
