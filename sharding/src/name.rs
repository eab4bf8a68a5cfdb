//! A domain name as the store and the query path share it.
//!
//! Invariant: a [`Name`] is a complete, absolute, uncompressed wire-format name (RFC 1035 §3.1) in lower case, at most
//! [`NAME_BYTES_MAX`] octets with the root label. It never allocates, so it can be built on the query path.
//!
//! The text form ([`NameText`]) is the presentation format without the final dot, as the shards store it: an operator reads
//! `ads.example.com` in the `sqlite3` shell. Because every suffix of the text that begins at a label is the text of the
//! parent name, one conversion serves all lookups of a query.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Octets in a wire-format name, root label included (RFC 1035 §3.1).
pub const NAME_BYTES_MAX: usize = 255;
/// Octets in one label (RFC 1035 §3.1).
pub const LABEL_BYTES_MAX: usize = 63;
/// Labels in a name, the root label not counted: 127 labels of one octet fill 254 octets.
pub const LABELS_MAX: usize = 127;
/// Bytes in the presentation format of a name when every octet needs a `\DDD` escape.
pub const NAME_TEXT_BYTES_MAX: usize = 4 * NAME_BYTES_MAX;

/// Why some text or wire octets are not a domain name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NameError {
    /// Nothing where a name should be.
    Empty,
    /// Two dots in a row, or a dot at the start.
    EmptyLabel,
    /// A label over 63 octets.
    LabelTooLong,
    /// Over 255 octets in wire format.
    NameTooLong,
    /// An octet that a rule's name cannot hold, such as a space.
    BadCharacter,
    /// `\` not followed by a character or three decimal digits up to 255.
    BadEscape,
    /// Not ASCII and not convertible by IDNA (UTS 46).
    BadIdna,
    /// Wire octets that end before the root label, or a compression pointer where none may be.
    BadWire,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty name",
            Self::EmptyLabel => "empty label",
            Self::LabelTooLong => "label longer than 63 octets",
            Self::NameTooLong => "name longer than 255 octets",
            Self::BadCharacter => "character that a domain name cannot hold",
            Self::BadEscape => "bad escape in a name",
            Self::BadIdna => "not a valid internationalised name",
            Self::BadWire => "malformed wire-format name",
        })
    }
}

impl std::error::Error for NameError {}

/// An absolute name in lower-case wire format.
#[derive(Clone, Copy)]
pub struct Name {
    len: u8,
    labels: u8,
    bytes: [u8; NAME_BYTES_MAX],
}

impl Name {
    /// The root name, one zero octet.
    pub const ROOT: Name = Name { len: 1, labels: 0, bytes: [0; NAME_BYTES_MAX] };

    /// Reads an uncompressed wire-format name at the start of `wire` and lower-cases it. Octets after the root label
    /// are not looked at; `as_wire().len()` tells where it ended.
    pub fn from_wire(wire: &[u8]) -> Result<Name, NameError> {
        let mut name = Name::ROOT;
        let mut at = 0usize;
        loop {
            let Some(&octet) = wire.get(at) else { return Err(NameError::BadWire) };
            let end = at + 1 + usize::from(octet);
            if octet == 0 {
                name.len = at as u8 + 1;
                return Ok(name);
            }
            if usize::from(octet) > LABEL_BYTES_MAX {
                return Err(NameError::BadWire);
            }
            if end >= NAME_BYTES_MAX {
                return Err(NameError::NameTooLong);
            }
            let (Some(from), Some(to)) = (wire.get(at..end), name.bytes.get_mut(at..end)) else {
                return Err(NameError::BadWire);
            };
            to.copy_from_slice(from);
            to.make_ascii_lowercase();
            // The length octet is folded too, harmlessly: it is at most 63, below 'A' (65).
            name.labels += 1;
            at = end;
            if let Some(last) = name.bytes.get_mut(at) {
                *last = 0;
            }
        }
    }

    /// Replaces this name by the one at the start of `wire`, as [`Name::from_wire`] reads it, without the two copies of
    /// the whole buffer that returning a new name costs: the query path parses every question through here. Returns the
    /// octets read. After an error this is the root name.
    pub fn read_wire(&mut self, wire: &[u8]) -> Result<usize, NameError> {
        self.len = 1;
        self.labels = 0;
        if let Some(first) = self.bytes.first_mut() {
            *first = 0;
        }
        let (mut at, mut labels) = (0usize, 0u8);
        loop {
            let Some(&octet) = wire.get(at) else { return Err(NameError::BadWire) };
            if octet == 0 {
                break;
            }
            if usize::from(octet) > LABEL_BYTES_MAX {
                return Err(NameError::BadWire);
            }
            at += 1 + usize::from(octet);
            labels += 1;
            if at >= NAME_BYTES_MAX {
                return Err(NameError::NameTooLong);
            }
        }
        let (Some(from), Some(to)) = (wire.get(..=at), self.bytes.get_mut(..=at)) else {
            return Err(NameError::BadWire);
        };
        // Length octets are folded too, harmlessly: they are at most 63, below 'A' (65).
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.to_ascii_lowercase();
        }
        self.len = at as u8 + 1;
        self.labels = labels;
        Ok(at + 1)
    }

    /// Parses presentation format (RFC 1035 §5.1, `\.` and `\DDD` escapes), with or without the final dot. The
    /// octets must be ASCII: convert internationalised names first.
    pub fn from_text(text: &str) -> Result<Name, NameError> {
        let octets = text.as_bytes();
        if octets.is_empty() {
            return Err(NameError::Empty);
        }
        if octets == b"." {
            return Ok(Name::ROOT);
        }
        let mut builder = NameBuilder::new();
        let mut at = 0;
        while let Some(&octet) = octets.get(at) {
            at += 1;
            match octet {
                b'.' => {
                    builder.end_label()?;
                    continue;
                }
                b'\\' => {
                    let (value, used) = unescape(octets.get(at..).unwrap_or_default())?;
                    at += used;
                    builder.push_octet(value)?;
                }
                0x21..=0x7e => builder.push_octet(octet)?,
                _ => return Err(NameError::BadCharacter),
            }
        }
        builder.finish()
    }

    /// Replaces this name by that of `octets`, as [`Name::from_text`] reads it, without copies of the whole buffer: lists
    /// hold millions of names. The caller has seen that all of them are letters, digits, hyphens, underscores and dots; what
    /// is neither that nor a name is an error, after which this is the root name.
    pub fn read_host_text(&mut self, octets: &[u8]) -> Result<(), NameError> {
        let text = octets.strip_suffix(b".").unwrap_or(octets);
        if !self.write_labels(text) {
            *self = Name::ROOT;
            // The slower way knows what is wrong.
            *self = Name::from_text(std::str::from_utf8(octets).map_err(|_| NameError::BadCharacter)?)?;
        }
        Ok(())
    }

    /// Writes the labels between the dots of `text`; false when one of them is empty or too long, or all are.
    fn write_labels(&mut self, text: &[u8]) -> bool {
        let end = text.len() + 1;
        // A length octet in front, the root label behind.
        let (Some(place), false) = (self.bytes.get_mut(1..end), text.is_empty() || end >= NAME_BYTES_MAX) else {
            return false;
        };
        for (to, from) in place.iter_mut().zip(text) {
            *to = from.to_ascii_lowercase();
        }
        let (mut labels, mut start) = (0u8, 0usize);
        for (at, _) in text.iter().chain(b".").enumerate().filter(|(_, octet)| **octet == b'.') {
            let length = at - start;
            if !(1..=LABEL_BYTES_MAX).contains(&length) {
                return false;
            }
            // The dot in front of the label has the place of its length octet.
            if let Some(place) = self.bytes.get_mut(start) {
                *place = length as u8;
            }
            labels += 1;
            start = at + 1;
        }
        if let Some(root) = self.bytes.get_mut(end) {
            *root = 0;
        }
        self.labels = labels;
        self.len = (end + 1) as u8;
        true
    }

    /// The wire octets with the root label.
    pub fn as_wire(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[0])
    }

    /// Labels without the root label: `www.example.com` has three.
    pub fn label_count(&self) -> usize {
        usize::from(self.labels)
    }

    /// Whether this is the root name.
    pub fn is_root(&self) -> bool {
        self.labels == 0
    }

    /// The labels from the left, each without its length octet.
    pub fn labels(&self) -> Labels<'_> {
        Labels { rest: self.as_wire() }
    }

    /// The wire octets of the name left when all but the last `labels` labels are cut off; the whole name when it has
    /// no more than that.
    pub fn suffix_wire(&self, labels: usize) -> &[u8] {
        let mut rest = self.as_wire();
        for _ in labels..self.label_count() {
            let Some((&len, tail)) = rest.split_first() else { break };
            rest = tail.get(usize::from(len)..).unwrap_or(&[0]);
        }
        rest
    }

    /// The suffix of `labels` labels as a name of its own.
    pub fn suffix(&self, labels: usize) -> Name {
        Name::from_wire(self.suffix_wire(labels)).unwrap_or(Name::ROOT)
    }

    /// Whether this name equals `ancestor` or lies below it.
    pub fn is_at_or_below(&self, ancestor: &Name) -> bool {
        self.labels >= ancestor.labels && self.suffix_wire(ancestor.label_count()) == ancestor.as_wire()
    }

    /// The first `labels` labels of this name followed by `tail`; an error when that is longer than a name may be.
    pub fn prefix_onto(&self, labels: usize, tail: &Name) -> Result<Name, NameError> {
        let kept = self.as_wire().len() - self.suffix_wire(self.label_count() - labels.min(self.label_count())).len();
        let mut wire = [0u8; 2 * NAME_BYTES_MAX];
        let tail = tail.as_wire();
        let total = kept + tail.len();
        if total > NAME_BYTES_MAX {
            return Err(NameError::NameTooLong);
        }
        if let (Some(to), Some(from)) = (wire.get_mut(..kept), self.bytes.get(..kept)) {
            to.copy_from_slice(from);
        }
        if let Some(to) = wire.get_mut(kept..total) {
            to.copy_from_slice(tail);
        }
        Name::from_wire(wire.get(..total).unwrap_or_default())
    }

    /// The presentation format in a fixed buffer.
    pub fn to_text(&self) -> NameText {
        let mut text = NameText { len: 0, label_starts: [0; LABELS_MAX], labels: 0, bytes: [0; NAME_TEXT_BYTES_MAX] };
        text.write(self);
        text
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_wire() == other.as_wire()
    }
}

impl Eq for Name {}

impl std::hash::Hash for Name {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_wire().hash(state);
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() { f.write_str(".") } else { f.write_str(self.to_text().as_str()) }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        Name::from_text(&text).map_err(serde::de::Error::custom)
    }
}

impl std::str::FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Name, NameError> {
        Name::from_text(text)
    }
}

/// The labels of a name from the left.
#[derive(Clone)]
pub struct Labels<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Labels<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&len, tail) = self.rest.split_first()?;
        if len == 0 {
            return None;
        }
        let (label, rest) = tail.split_at_checked(usize::from(len))?;
        self.rest = rest;
        Some(label)
    }
}

/// The presentation format of a name without the final dot, with the place of every suffix; the root's is empty.
#[derive(Clone)]
pub struct NameText {
    len: u16,
    labels: u8,
    label_starts: [u16; LABELS_MAX],
    bytes: [u8; NAME_TEXT_BYTES_MAX],
}

impl NameText {
    /// An empty text, to be filled by [`NameText::write`].
    pub const EMPTY: NameText =
        NameText { len: 0, labels: 0, label_starts: [0; LABELS_MAX], bytes: [0; NAME_TEXT_BYTES_MAX] };

    /// Replaces the text by that of `name`.
    pub fn write(&mut self, name: &Name) {
        self.len = 0;
        self.labels = 0;
        for label in name.labels() {
            if self.labels > 0 {
                self.push(b'.');
            }
            if let Some(start) = self.label_starts.get_mut(usize::from(self.labels)) {
                *start = self.len;
            }
            self.labels += 1;
            if self.push_plain(label) {
                continue;
            }
            for &octet in label {
                match octet {
                    b'.' | b'\\' => {
                        self.push(b'\\');
                        self.push(octet);
                    }
                    0x21..=0x7e => self.push(octet),
                    _ => {
                        self.push(b'\\');
                        self.push(b'0' + octet / 100);
                        self.push(b'0' + octet / 10 % 10);
                        self.push(b'0' + octet % 10);
                    }
                }
            }
        }
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The whole name's octets, all of them printable ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// The text of the suffix of `labels` labels.
    pub fn suffix(&self, labels: usize) -> &str {
        let skipped = usize::from(self.labels).saturating_sub(labels);
        if skipped == usize::from(self.labels) {
            return "";
        }
        let start = self.label_starts.get(skipped).copied().unwrap_or_default();
        self.as_str().get(usize::from(start)..).unwrap_or_default()
    }

    /// Puts a label in that is written as it is, as nearly all are; false when it is not.
    #[inline]
    fn push_plain(&mut self, label: &[u8]) -> bool {
        let from = usize::from(self.len);
        let Some(place) = self.bytes.get_mut(from..from + label.len()) else { return false };
        let mut is_plain = true;
        for (place, &octet) in place.iter_mut().zip(label) {
            *place = octet;
            is_plain &= matches!(octet, 0x21..=0x7e) & (octet != b'.') & (octet != b'\\');
        }
        if is_plain {
            self.len += label.len() as u16;
        }
        is_plain
    }

    fn push(&mut self, octet: u8) {
        if let Some(place) = self.bytes.get_mut(usize::from(self.len)) {
            *place = octet;
            self.len += 1;
        }
    }
}

/// Appends the presentation format of one label: what [`NameText`] writes of it.
pub(crate) fn write_label_text(label: &[u8], to: &mut Vec<u8>) {
    let is_plain = |&octet: &u8| matches!(octet, 0x21..=0x7e) && octet != b'.' && octet != b'\\';
    if label.iter().all(is_plain) {
        return to.extend_from_slice(label);
    }
    for octet in label {
        match octet {
            b'.' | b'\\' => to.extend([b'\\', *octet]),
            _ if is_plain(octet) => to.push(*octet),
            _ => to.extend([b'\\', b'0' + octet / 100, b'0' + octet / 10 % 10, b'0' + octet % 10]),
        }
    }
}

struct NameBuilder {
    name: Name,
    at: usize,
    label_at: usize,
}

impl NameBuilder {
    fn new() -> Self {
        Self { name: Name::ROOT, at: 1, label_at: 0 }
    }

    fn push_octet(&mut self, octet: u8) -> Result<(), NameError> {
        if self.at - self.label_at > LABEL_BYTES_MAX {
            return Err(NameError::LabelTooLong);
        }
        *self.name.bytes.get_mut(self.at).ok_or(NameError::NameTooLong)? = octet.to_ascii_lowercase();
        self.at += 1;
        Ok(())
    }

    fn end_label(&mut self) -> Result<(), NameError> {
        let len = self.at - self.label_at - 1;
        if len == 0 {
            return Err(NameError::EmptyLabel);
        }
        *self.name.bytes.get_mut(self.label_at).ok_or(NameError::NameTooLong)? = len as u8;
        self.name.labels += 1;
        self.label_at = self.at;
        self.at += 1;
        Ok(())
    }

    fn finish(mut self) -> Result<Name, NameError> {
        if self.at > self.label_at + 1 {
            self.end_label()?;
        }
        *self.name.bytes.get_mut(self.label_at).ok_or(NameError::NameTooLong)? = 0;
        self.name.len = (self.label_at + 1) as u8;
        Ok(self.name)
    }
}

fn unescape(after: &[u8]) -> Result<(u8, usize), NameError> {
    match after {
        [a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', ..] => {
            let value = u32::from(a - b'0') * 100 + u32::from(b - b'0') * 10 + u32::from(c - b'0');
            u8::try_from(value).map(|octet| (octet, 3)).map_err(|_| NameError::BadEscape)
        }
        [b'0'..=b'9', ..] | [] => Err(NameError::BadEscape),
        [octet, ..] => Ok((*octet, 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_wire_agree_and_case_is_folded() {
        let name = Name::from_text("Ads.EXAMPLE.com.").unwrap();
        assert_eq!(name.as_wire(), b"\x03ads\x07example\x03com\0");
        assert_eq!(name.label_count(), 3);
        assert_eq!(name.to_string(), "ads.example.com");
        assert_eq!(Name::from_wire(b"\x03aDs\x07example\x03com\0rest").unwrap(), name);
    }

    #[test]
    fn the_text_of_a_host_is_read_as_any_text() {
        let label = "l".repeat(63);
        let long = format!("{label}.{label}.{label}.");
        let mut name = Name::ROOT;
        for text in
            ["a", "A.b", "a.B.", ".", "", "..", ".a", "a..b", "a.b..", "_x-1.example", &label, &format!("{label}l")]
                .into_iter()
                .chain([&*format!("{long}{}", "l".repeat(61)), &format!("{long}{}.", "l".repeat(61))])
                .chain([&*format!("{long}{}", "l".repeat(62)), &format!("{long}{}.", "l".repeat(62))])
                .chain([&*"a.".repeat(127), &"a.".repeat(128), &"a".repeat(1_000)])
        {
            let read = name.read_host_text(text.as_bytes());
            assert_eq!(read.map(|()| name), Name::from_text(text), "{text}");
            assert_eq!(Name::from_wire(name.as_wire()), Ok(name), "{text}");
            assert_eq!(name.label_count(), name.labels().count(), "{text}");
        }
    }

    #[test]
    fn a_name_read_into_an_older_one_equals_one_read_afresh() {
        let mut name = Name::from_text("a.much.longer.name.that.was.here.before.example.org").unwrap();
        for wire in [&b"\x03aDs\x07EXAMPLE\x03com\0rest"[..], b"\0", b"\x01X\0"] {
            let fresh = Name::from_wire(wire).unwrap();
            assert_eq!(name.read_wire(wire).unwrap(), fresh.as_wire().len());
            assert_eq!((name, name.label_count()), (fresh, fresh.label_count()));
        }
    }

    #[test]
    fn every_suffix_of_the_text_is_the_text_of_the_suffix() {
        let name = Name::from_text(r"a\.b.c\032d.example").unwrap();
        let text = name.to_text();
        assert_eq!(text.as_str(), r"a\.b.c\032d.example");
        for labels in 0..=name.label_count() {
            assert_eq!(text.suffix(labels), name.suffix(labels).to_text().as_str());
        }
        assert_eq!(Name::from_text(text.as_str()).unwrap(), name);
    }

    #[test]
    fn names_at_the_bounds_are_taken_and_past_them_refused() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "b".repeat(61));
        assert_eq!(Name::from_text(&longest).unwrap().as_wire().len(), 255);
        assert_eq!(Name::from_text(&format!("{longest}b")).unwrap_err(), NameError::NameTooLong);
        assert_eq!(Name::from_text(&"a".repeat(64)).unwrap_err(), NameError::LabelTooLong);
        let deepest = ["a"; 127].join(".");
        assert_eq!(Name::from_text(&deepest).unwrap().label_count(), 127);
        assert!(Name::from_text(&format!("{deepest}.a")).is_err());
        for (text, error) in [
            ("", NameError::Empty),
            (".a", NameError::EmptyLabel),
            ("a..b", NameError::EmptyLabel),
            ("..", NameError::EmptyLabel),
            ("a b", NameError::BadCharacter),
            (r"a\25", NameError::BadEscape),
            (r"a\256", NameError::BadEscape),
        ] {
            assert_eq!(Name::from_text(text).unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn every_truncation_of_a_wire_name_is_refused() {
        let wire = Name::from_text("www.example.com").unwrap();
        for end in 0..wire.as_wire().len() {
            assert_eq!(Name::from_wire(&wire.as_wire()[..end]).unwrap_err(), NameError::BadWire);
            let mut name = wire;
            assert_eq!(name.read_wire(&wire.as_wire()[..end]).unwrap_err(), NameError::BadWire);
            assert_eq!(name, Name::ROOT);
        }
        assert!(Name::from_wire(&[0xc0, 0x0c]).is_err());
    }

    #[test]
    fn ancestors_and_grafts() {
        let name = Name::from_text("a.b.example.com").unwrap();
        assert!(name.is_at_or_below(&Name::from_text("example.com").unwrap()));
        assert!(name.is_at_or_below(&Name::ROOT) && name.is_at_or_below(&name));
        assert!(!name.is_at_or_below(&Name::from_text("xample.com").unwrap()));
        let target = Name::from_text("y.net").unwrap();
        assert_eq!(name.prefix_onto(2, &target).unwrap().to_string(), "a.b.y.net");
        assert_eq!(name.prefix_onto(0, &target).unwrap(), target);
    }
}
