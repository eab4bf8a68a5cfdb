//! The key by which the rules of a shard are sorted, made of a name, and the name's text made of it again.
//!
//! It depends on the layout. `sql` sorts by the name's text, as its tables do. `packed` sorts by the labels from the right, so that
//! all names under a suffix are neighbours and share the front of their keys: the labels' texts in reverse order, joined by a zero octet.
//! That octet sorts below every other and occurs in no text (control characters are escaped as `\DDD` there), so no two names have one
//! key, and a name comes right before those under it. Both keys of the root are empty.

use crate::manifest::Layout;
use crate::name::{LABELS_MAX, Name, write_label_text};

/// Between two labels in a key of the packed layout.
pub(crate) const LABEL_SEPARATOR: u8 = 0;

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
                    to.push(LABEL_SEPARATOR);
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
        Layout::Packed => {
            for (place, label) in key.rsplit(char::from(LABEL_SEPARATOR)).enumerate() {
                if place > 0 {
                    text.push('.');
                }
                text.push_str(label);
            }
        }
    }
    true
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
}
