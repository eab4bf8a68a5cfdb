//! Names already in a reply, to point back to (RFC 1035 §4.1.4).
//!
//! Invariant: a pointer leads to octets that are written out, never into the middle of a label, and letter case is passed
//! over in comparing (RFC 4343 §3). The table is small and fixed: an answer has the names of one chain and one zone.

/// Names remembered, the question's included.
const NAMES_MAX: usize = 16;
/// The furthest place that a pointer can name.
const POINTER_MAX: usize = 0x3fff;
/// The question's name follows the header.
const QUESTION_AT: u16 = crate::limits::HEADER_BYTES as u16;

/// A name in the message.
#[derive(Clone, Copy)]
struct Known<'a> {
    /// Uncompressed.
    name: &'a [u8],
    /// Its place in the message.
    at: u16,
    /// Octets of it that stand there as labels; behind them is a pointer or the root label.
    literal_bytes: usize,
}

/// How to write a name.
pub struct Place {
    /// Octets to write as they are.
    pub literal_bytes: usize,
    /// What to write behind them.
    pub pointer: Option<u16>,
}

/// The names of one message.
pub struct Names<'a> {
    known: [Known<'a>; NAMES_MAX],
    count: usize,
}

impl<'a> Names<'a> {
    /// Knows the question's name.
    pub fn new(question: &'a [u8]) -> Self {
        let literal_bytes = question.len().saturating_sub(1);
        Self { known: [Known { name: question, at: QUESTION_AT, literal_bytes }; NAMES_MAX], count: 1 }
    }

    /// How to write `name` at place `at` of the message; remembers it.
    pub fn place(&mut self, name: &'a [u8], at: usize) -> Place {
        let mut literal_bytes = name.len();
        let mut pointer = None;
        for known in self.known.iter().take(self.count) {
            let Some((own, place)) = known.shared_suffix(name) else { continue };
            if own < literal_bytes {
                (literal_bytes, pointer) = (own, Some(0xc000 | place));
            }
            if own == 0 {
                break;
            }
        }
        if literal_bytes > 1 && at <= POINTER_MAX {
            let labels_bytes = if pointer.is_some() { literal_bytes } else { literal_bytes - 1 };
            if let Some(known) = self.known.get_mut(self.count) {
                *known = Known { name, at: at as u16, literal_bytes: labels_bytes };
                self.count += 1;
            }
        }
        Place { literal_bytes, pointer }
    }
}

impl Known<'_> {
    /// The longest suffix of `name` that is written out here: the octets of `name` in front of it, and its place. Suffixes
    /// behind this name's own pointer are found at the name that it points to.
    fn shared_suffix(&self, name: &[u8]) -> Option<(usize, u16)> {
        // The owner of most records: the name that was asked for.
        if name == self.name && name.len() > 1 && self.literal_bytes > 0 {
            return (usize::from(self.at) <= POINTER_MAX).then_some((0, self.at));
        }
        let shared = name.iter().rev().zip(self.name.iter().rev());
        let shared = shared.take_while(|(a, b)| a.eq_ignore_ascii_case(b)).count();
        if shared < 3 {
            // The root label alone is no gain.
            return None;
        }
        let mut own = 0;
        while name.len() - own > shared {
            own += 1 + usize::from(*name.get(own)?);
        }
        // The octets agree from here on; the labels do once a label begins here in both.
        let mut here = 0;
        while here < self.literal_bytes {
            let left = (self.name.len() - here, name.len().checked_sub(own)?);
            match left.0.cmp(&left.1) {
                std::cmp::Ordering::Greater => here += 1 + usize::from(*self.name.get(here)?),
                std::cmp::Ordering::Less => own += 1 + usize::from(*name.get(own)?),
                std::cmp::Ordering::Equal => {
                    let place = usize::from(self.at) + here;
                    return (place <= POINTER_MAX && left.0 > 1).then_some((own, place as u16));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_point_to_the_longest_suffix_that_is_written_out() {
        let mut names = Names::new(b"\x03www\x07example\x03com\0");
        let place = |names: &mut Names<'static>, name, at| {
            let place = names.place(name, at);
            (place.literal_bytes, place.pointer)
        };
        assert_eq!(place(&mut names, b"\x03www\x07example\x03com\0", 33), (0, Some(0xc00c)));
        assert_eq!(place(&mut names, b"\x03WWW\x07Example\x03com\0", 33), (0, Some(0xc00c)));
        assert_eq!(place(&mut names, b"\x07example\x03com\0", 33), (0, Some(0xc010)));
        assert_eq!(place(&mut names, b"\x01a\x03com\0", 40), (2, Some(0xc018)));
        assert_eq!(place(&mut names, b"\x01b\x01a\x03com\0", 50), (2, Some(0xc028)));
        assert_eq!(place(&mut names, b"\x01b\x03net\0", 60), (7, None));
        assert_eq!(place(&mut names, b"\x03net\0", 70), (0, Some(0xc03e)));
        assert_eq!(place(&mut names, b"\0", 80), (1, None));
    }

    #[test]
    fn a_suffix_within_a_label_is_no_suffix() {
        // The label of nine octets ends in what looks like the labels \x03www and \x03com.
        let mut names = Names::new(b"\x08x\x03www\x03om\x03com\0");
        let place = names.place(b"\x03www\x03omx\x03com\0", 40);
        assert_eq!((place.literal_bytes, place.pointer), (8, Some(0xc00c + 9)));
        let mut names = Names::new(b"\x05x\x03www\x03com\0");
        let place = names.place(b"\x03www\x03com\0", 40);
        assert_eq!((place.literal_bytes, place.pointer), (4, Some(0xc00c + 6)));
    }

    #[test]
    fn places_that_no_pointer_reaches_are_not_remembered() {
        let mut names = Names::new(b"\x01q\0");
        for at in [0x3fff, 0x4000] {
            let first = names.place(if at == 0x3fff { b"\x01a\0" } else { b"\x01b\0" }, at);
            assert!(first.pointer.is_none());
        }
        assert_eq!(names.place(b"\x01a\0", 0x4100).pointer, Some(0xffff));
        assert_eq!(names.place(b"\x01b\0", 0x4100).pointer, None);
    }
}
