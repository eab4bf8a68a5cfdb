//! A list cut at line ends, for several threads to read.
//!
//! Invariant: where it is cut depends on its text and on the size that is asked for alone, so that a build that goes on
//! finds the pieces of the one before. A piece is bounded however long a line is: of one that is too long for any list as
//! much is kept as tells that.

use std::io::{self, BufRead};

use memchr::{memchr, memchr_iter, memrchr};

use super::source::Source;
use crate::lists::LINE_BYTES_MAX;

/// Whole lines of a list.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which one, from 0.
    pub part: u32,
    /// Number of its first line in the list, from 1.
    pub first_line: u64,
    /// The lines with their ends.
    pub text: Vec<u8>,
}

/// Cuts one piece after the other.
pub struct Pieces<R = Source> {
    source: R,
    /// Bytes of a piece, as near as line ends allow.
    bytes: usize,
    /// The beginning of the next piece's first line.
    carry: Vec<u8>,
    ended: bool,
    part: u32,
    line: u64,
}

impl<R: BufRead> Pieces<R> {
    /// Pieces of some `bytes` each.
    pub fn new(source: R, bytes: usize) -> Self {
        Self { source, bytes, carry: Vec::new(), ended: false, part: 0, line: 1 }
    }

    /// The reader.
    pub fn source(&self) -> &R {
        &self.source
    }

    /// The next piece; none at the end.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn next(&mut self) -> io::Result<Option<Piece>> {
        let mut text = Vec::with_capacity(self.bytes.max(self.carry.len()));
        text.append(&mut self.carry);
        let mut bytes = self.bytes.max(1);
        loop {
            self.fill(&mut text, bytes)?;
            if self.ended {
                break;
            }
            if let Some(end) = memrchr(b'\n', &text) {
                self.carry.extend_from_slice(text.get(end + 1..).unwrap_or_default());
                text.truncate(end + 1);
                break;
            }
            if text.len() > LINE_BYTES_MAX {
                text.truncate(LINE_BYTES_MAX + 1);
                self.pass_line_end()?;
                text.push(b'\n');
                break;
            }
            bytes = (2 * bytes).min(LINE_BYTES_MAX + 1);
        }
        if text.is_empty() {
            return Ok(None);
        }
        let (part, first_line) = (self.part, self.line);
        self.part += 1;
        self.line += memchr_iter(b'\n', &text).count() as u64;
        Ok(Some(Piece { part, first_line, text }))
    }

    /// Reads until `text` has so many bytes, or the list ends.
    fn fill(&mut self, text: &mut Vec<u8>, bytes: usize) -> io::Result<()> {
        while text.len() < bytes && !self.ended {
            let buffer = self.source.fill_buf()?;
            self.ended = buffer.is_empty();
            let some = buffer.get(..buffer.len().min(bytes - text.len())).unwrap_or_default();
            text.extend_from_slice(some);
            let used = some.len();
            self.source.consume(used);
        }
        Ok(())
    }

    fn pass_line_end(&mut self) -> io::Result<()> {
        loop {
            let buffer = self.source.fill_buf()?;
            let (end, length) = (memchr(b'\n', buffer), buffer.len());
            self.ended = length == 0;
            self.source.consume(end.map_or(length, |end| end + 1));
            if end.is_some() || self.ended {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lists::{Counts, Disabled, Format, Item, Options, read, read_from};
    use std::io::BufReader;

    fn pieces(text: &[u8], bytes: usize, buffer: usize) -> Vec<Piece> {
        let mut pieces = Pieces::new(BufReader::with_capacity(buffer, text), bytes);
        std::iter::from_fn(|| pieces.next().unwrap()).collect()
    }

    fn items(first: u64, text: &[u8]) -> (Counts, Vec<String>) {
        let mut said = Vec::new();
        let options = Options::new(0);
        let mut take = |item: Item<'_>| said.push(format!("{item:?}"));
        let counts =
            read_from(first, Format::Plain, &mut &text[..], &options, &Disabled::default(), &mut take).unwrap();
        (counts, said)
    }

    #[test]
    fn pieces_put_together_are_the_list_whatever_their_size() {
        let long = "l".repeat(300);
        let text = format!("\u{feff}a.example\r\n\nb.example\n{long}\n# c\nbad name\n{long}.example\nlast.example");
        for bytes in [1, 2, 7, 64, 1_000] {
            let cut = pieces(text.as_bytes(), bytes, 8_192);
            assert_eq!(cut.iter().flat_map(|piece| piece.text.clone()).collect::<Vec<u8>>(), text.as_bytes());
            assert!(bytes > 7 || cut.len() > 3, "{} pieces", cut.len());
            for (place, piece) in (0..).zip(&cut) {
                assert_eq!(piece.part, place);
                let last = piece.part as usize + 1 == cut.len();
                assert!(piece.text.ends_with(b"\n") != last, "a piece ends with a line");
            }
            for buffer in [1, 3, 64] {
                assert_eq!(pieces(text.as_bytes(), bytes, buffer), cut, "the reader's buffer has no say");
            }
        }
    }

    #[test]
    fn a_list_read_in_pieces_says_what_it_says_as_a_whole() {
        let mut text = "\u{feff}a.example\r\nbad name\n".to_owned();
        text += &format!("{}\nb.example\n", "x".repeat(LINE_BYTES_MAX + 1));
        text += &format!("{}\nc.example\n{}", "y".repeat(3 * LINE_BYTES_MAX), "z".repeat(5 * LINE_BYTES_MAX));
        let whole = items(1, text.as_bytes());
        assert_eq!(whole.0.lines, 7);
        for bytes in [1, 40, LINE_BYTES_MAX, 2 * LINE_BYTES_MAX, 1 << 20] {
            let (mut counts, mut said) = (Counts::default(), Vec::new());
            for piece in pieces(text.as_bytes(), bytes, 8_192) {
                assert!(piece.text.len() <= bytes.max(2 * LINE_BYTES_MAX));
                let (more, items) = items(piece.first_line, &piece.text);
                counts.add(&more);
                said.extend(items);
            }
            assert_eq!((counts, &said), (whole.0, &whole.1), "{bytes}");
        }
    }

    #[test]
    fn an_empty_list_has_no_pieces() {
        assert_eq!(pieces(b"", 10, 10), []);
        let counts = read(Format::Plain, &mut &b""[..], &Options::new(0), &Disabled::default(), &mut |_| {}).unwrap();
        assert_eq!(counts, Counts::default());
    }
}
