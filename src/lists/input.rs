//! The bytes of a list: plain, gzip, xz or zstd, and its lines.
//!
//! Invariant: a line is at most [`LINE_BYTES_MAX`] bytes in memory, however long it is in the list; a longer one is told as
//! such, not cut and read. Most lines are lent straight from the reader's buffer.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use lzma_rust2::XzReader;
use memchr::memchr;

/// Bytes read from a list at a time.
const READ_BYTES: usize = 128 * 1024;
/// What an archive of xz begins with.
const XZ_MAGIC: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];
/// KiB of memory for unpacking xz: its highest preset takes 64 MiB, and a file may ask for 4 GiB.
const XZ_KIB_MAX: u32 = 128 * 1024;
/// Bytes at the beginning of a list that tell whether it is text.
pub const HEAD_BYTES: usize = 4 * 1024;
/// What files begin with that operators have named as lists, and that are none.
const FOREIGN_MAGIC: [(&[u8], &str); 8] = [
    (b"PK\x03\x04", "it is a ZIP archive; unpack it and name the list in it"),
    (b"BZh", "it is compressed by bzip2; unpack it, or compress it by gzip, xz or zstd"),
    (b"7z\xbc\xaf\x27\x1c", "it is a 7-Zip archive; unpack it and name the list in it"),
    (b"SQLite format 3\0", "it is a SQLite database; if it is one of dnsmasq-sqlite, say format \"dnsmasq-sqlite\""),
    (b"%PDF-", "it is a PDF document; name a list in text form"),
    (b"\x7fELF", "it is a program; name a list in text form"),
    (b"\xff\xfe", "it is text in UTF-16; convert it to UTF-8"),
    (b"\xfe\xff", "it is text in UTF-16; convert it to UTF-8"),
];
/// Bytes in a line without its line feed. Real lists have cosmetic rules of some thousand bytes; a rule for DNS with a long
/// `$denyallow` stays well below.
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// U+FEFF in UTF-8. Some lists begin with two.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Opens a list; see [`decode`].
///
/// # Errors
/// Those of the file system. A corrupt or truncated archive is an error of the reader, when its damage is reached.
pub fn open(path: &Path) -> io::Result<Box<dyn BufRead + Send>> {
    decode(File::open(path)?)
}

/// The text in a file. Gzip (also of several members), xz and zstd are told by their first bytes, not by the file's name. What
/// [`what_it_is_instead`] looks at is in the reader's first buffer.
///
/// # Errors
/// Those of the file. A corrupt or truncated archive is an error of the reader, when its damage is reached.
pub fn decode(mut file: impl Read + Send + 'static) -> io::Result<Box<dyn BufRead + Send>> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    Read::by_ref(&mut file).take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    let is_gzip = head.starts_with(&[0x1f, 0x8b]);
    let is_xz = head.starts_with(&XZ_MAGIC);
    // A zstd frame, or a skippable frame in front of one (RFC 8878 §3.1).
    let is_zstd = head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || matches!(*head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]);
    let whole = BufReader::with_capacity(READ_BYTES, io::Cursor::new(head).chain(file));
    Ok(if is_gzip {
        Box::new(BufReader::with_capacity(READ_BYTES, flate2::bufread::MultiGzDecoder::new(whole)))
    } else if is_xz {
        Box::new(BufReader::with_capacity(READ_BYTES, XzReader::new_mem_limit(whole, true, XZ_KIB_MAX)))
    } else if is_zstd {
        Box::new(BufReader::with_capacity(READ_BYTES, zstd::Decoder::with_buffer(whole)?))
    } else {
        Box::new(whole)
    })
}

/// What a file is, by its first bytes, that is no list in text form, and what to do with it.
///
/// Only its beginning is looked at: a line that cannot be read later on is refused as a line.
pub fn what_it_is_instead(head: &[u8]) -> Option<&'static str> {
    if let Some((_, what)) = FOREIGN_MAGIC.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Some(what);
    }
    let head = head.get(..head.len().min(HEAD_BYTES)).unwrap_or_default();
    memchr(0, head).map(|_| "it is no text: it has octets of value 0; name a list in text form, in UTF-8")
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
    /// Of the line that was read last, from 1.
    number: u64,
}

impl<'r> Lines<'r> {
    /// The lines of `reader` from where it stands.
    pub fn new(reader: &'r mut dyn BufRead) -> Self {
        Self::starting_at(reader, 1)
    }

    /// The same, where the first line is that of this number in its list. A byte-order mark begins line 1 alone.
    pub fn starting_at(reader: &'r mut dyn BufRead, first: u64) -> Self {
        Self { reader, kept: Vec::new(), lent: 0, number: first.saturating_sub(1) }
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
        match memchr(b'\n', buffer) {
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
            let end = memchr(b'\n', buffer);
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
        let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::default()).unwrap();
        xz.write_all(text.as_bytes()).unwrap();
        let xz = xz.finish().unwrap();
        assert_eq!(read(&xz).unwrap(), text);
        assert_eq!(read(&[xz.clone(), xz.clone()].concat()).unwrap(), text.repeat(2));
        for archive in [gzip(&text), frame, xz] {
            for end in [3, archive.len() / 2, archive.len() - 1] {
                // What has not even its magic is taken for text.
                assert!(end == 3 || read(&archive[..end]).is_err(), "{end} of {}", archive.len());
            }
        }
    }
}
