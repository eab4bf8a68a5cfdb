//! The bytes of a list: plain, gzip or zstd, and its lines.
//!
//! Invariant: a line is at most [`LINE_BYTES_MAX`] bytes in memory, however long it is in the list; a longer one is told as
//! such, not cut and read. Most lines are lent straight from the reader's buffer.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// Bytes read from a list at a time.
const READ_BYTES: usize = 128 * 1024;
/// Bytes in a line without its line feed. Real lists have cosmetic rules of some thousand bytes; a rule for DNS with a long
/// `$denyallow` stays well below.
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// U+FEFF in UTF-8. Some lists begin with two.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Opens a list. Gzip (also of several members) and zstd are told by their first bytes, not by the file's name.
///
/// # Errors
/// Those of the file system. A corrupt or truncated archive is an error of the reader, when its damage is reached.
pub fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let mut file = File::open(path)?;
    let mut magic = Vec::with_capacity(4);
    Read::by_ref(&mut file).take(4).read_to_end(&mut magic)?;
    let is_gzip = magic.starts_with(&[0x1f, 0x8b]);
    // A zstd frame, or a skippable frame in front of one (RFC 8878 §3.1).
    let is_zstd = magic == [0x28, 0xb5, 0x2f, 0xfd] || matches!(*magic, [0x50..=0x5f, 0x2a, 0x4d, 0x18]);
    let whole = BufReader::with_capacity(READ_BYTES, io::Cursor::new(magic).chain(file));
    Ok(if is_gzip {
        Box::new(BufReader::with_capacity(READ_BYTES, flate2::bufread::MultiGzDecoder::new(whole)))
    } else if is_zstd {
        Box::new(BufReader::with_capacity(READ_BYTES, zstd::Decoder::with_buffer(whole)?))
    } else {
        Box::new(whole)
    })
}

/// One line without its line end.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// The whole line.
    Whole(&'a [u8]),
    /// The beginning of a line that is longer than [`LINE_BYTES_MAX`].
    TooLong(&'a [u8]),
}

/// The lines of a list, without byte-order marks and line ends (LF, CRLF or the end of the list).
pub struct Lines<'r> {
    reader: &'r mut dyn BufRead,
    /// Holds a line that did not fit the reader's buffer in one piece.
    kept: Vec<u8>,
    /// Bytes of the reader's buffer lent by the last call.
    lent: usize,
    number: u64,
}

impl<'r> Lines<'r> {
    /// The lines of `reader` from where it stands.
    pub fn new(reader: &'r mut dyn BufRead) -> Self {
        Self { reader, kept: Vec::new(), lent: 0, number: 0 }
    }

    /// The next line with its number from 1; none at the end.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn next(&mut self) -> io::Result<Option<(u64, Line<'_>)>> {
        self.reader.consume(self.lent);
        self.lent = 0;
        self.number += 1;
        let first = self.number == 1;
        let buffer = self.reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(None);
        }
        match buffer.iter().position(|&byte| byte == b'\n') {
            Some(end) if end <= LINE_BYTES_MAX => {
                self.lent = end + 1;
                // The buffer does not move until it is consumed; asking again only renews the borrow.
                let line = self.reader.fill_buf()?.get(..end).unwrap_or_default();
                Ok(Some((self.number, Line::Whole(trim_ends(line, first)))))
            }
            _ => {
                let whole = self.keep_line()?;
                let line = trim_ends(&self.kept, first);
                Ok(Some((self.number, if whole { Line::Whole(line) } else { Line::TooLong(line) })))
            }
        }
    }

    /// Copies a line into `kept` piece by piece and consumes it; false when it is too long.
    fn keep_line(&mut self) -> io::Result<bool> {
        self.kept.clear();
        let mut whole = true;
        loop {
            let buffer = self.reader.fill_buf()?;
            let end = buffer.iter().position(|&byte| byte == b'\n');
            let piece = buffer.get(..end.unwrap_or(buffer.len())).unwrap_or_default();
            let room = LINE_BYTES_MAX - self.kept.len();
            whole &= piece.len() <= room;
            self.kept.extend_from_slice(piece.get(..piece.len().min(room)).unwrap_or_default());
            let used = piece.len() + usize::from(end.is_some());
            self.reader.consume(used);
            if end.is_some() || used == 0 {
                return Ok(whole);
            }
        }
    }
}

fn trim_ends(mut line: &[u8], first: bool) -> &[u8] {
    while let Some(rest) = line.strip_suffix(b"\r") {
        line = rest;
    }
    while first && let Some(rest) = line.strip_prefix(BYTE_ORDER_MARK) {
        line = rest;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn lines(reader: &mut dyn BufRead) -> Vec<(u64, bool, Vec<u8>)> {
        let mut lines = Lines::new(reader);
        let mut found = Vec::new();
        while let Some((number, line)) = lines.next().unwrap() {
            found.push(match line {
                Line::Whole(text) => (number, true, text.to_vec()),
                Line::TooLong(text) => (number, false, text.to_vec()),
            });
        }
        found
    }

    #[test]
    fn lines_come_without_marks_and_ends_whatever_the_buffer() {
        let text = b"\xef\xbb\xbf\xef\xbb\xbfone\r\n\ntwo\r\nthree";
        let expected: Vec<_> = [(1, "one"), (2, ""), (3, "two"), (4, "three")]
            .map(|(number, line)| (number, true, line.as_bytes().to_vec()))
            .into();
        for capacity in 1..40 {
            assert_eq!(lines(&mut BufReader::with_capacity(capacity, &text[..])), expected, "{capacity}");
        }
    }

    #[test]
    fn a_line_over_the_bound_is_told_and_the_next_one_read() {
        for (length, whole) in [(LINE_BYTES_MAX, true), (LINE_BYTES_MAX + 1, false), (3 * LINE_BYTES_MAX, false)] {
            let text = [vec![b'a'; length], b"\nnext\n".to_vec()].concat();
            for capacity in [4096, 1 << 20] {
                let found = lines(&mut BufReader::with_capacity(capacity, &text[..]));
                assert_eq!(found[0], (1, whole, vec![b'a'; length.min(LINE_BYTES_MAX)]));
                assert_eq!(found[1], (2, true, b"next".to_vec()));
            }
        }
    }

    #[test]
    fn archives_are_told_by_content_and_damage_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let read = |bytes: &[u8]| {
            let path = folder.path().join("list.txt");
            std::fs::write(&path, bytes).unwrap();
            let mut text = String::new();
            open(&path).and_then(|mut reader| reader.read_to_string(&mut text)).map(|_| text)
        };
        let gzip = |text: &str| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(text.as_bytes()).unwrap();
            encoder.finish().unwrap()
        };
        let text = "a.example\nb.example\n".repeat(1_000);
        assert_eq!(read(text.as_bytes()).unwrap(), text);
        assert_eq!(read(b"").unwrap(), "");
        assert_eq!(read(b"a").unwrap(), "a");
        let members = [gzip(&text), gzip("c.example\n")].concat();
        assert_eq!(read(&members).unwrap(), format!("{text}c.example\n"));
        let frame = zstd::encode_all(text.as_bytes(), 3).unwrap();
        assert_eq!(read(&frame).unwrap(), text);
        for archive in [gzip(&text), frame] {
            for end in [3, archive.len() / 2, archive.len() - 1] {
                assert!(end == 3 || read(&archive[..end]).is_err(), "{end} of {}", archive.len());
            }
        }
    }
}
