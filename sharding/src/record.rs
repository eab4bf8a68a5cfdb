//! A row of the table `rule` as SQLite writes it into a page, read without SQLite.
//!
//! The table is `WITHOUT ROWID`, so that a row is a cell of an index b-tree (<https://sqlite.org/fileformat2.html>, sections 1.5, 1.6 and
//! 2.1): length of the payload, then a record of the columns `name` and `class`. Invariant: whatever the bytes are, nothing outside of
//! the row's page is read and nothing panics; what is no such row is none.

use crate::rule::ClassId;

/// Where a shard's pages lie, as the first of them says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pages {
    /// Bytes of each, a power of two.
    pub(crate) bytes: usize,
    /// Pages in the file.
    pub(crate) count: u32,
}

/// Bytes of the header on the first page.
pub(crate) const DATABASE_HEADER_BYTES: usize = 100;
/// What a database begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

impl Pages {
    /// Reads the header of a database of so many bytes; none when it is no database whose pages are used to their end.
    pub(crate) fn of(header: &[u8], file_bytes: u64) -> Option<Pages> {
        let header = header.first_chunk::<DATABASE_HEADER_BYTES>()?;
        // 65,536 does not fit and is written as 1.
        let bytes = match u16::from_be_bytes([header[16], header[17]]) {
            1 => 1 << 16,
            bytes => usize::from(bytes),
        };
        let is_whole = header.starts_with(MAGIC) && bytes >= 512 && bytes.is_power_of_two() && header[20] == 0;
        let count = u32::try_from(file_bytes / bytes as u64).ok()?;
        (is_whole && file_bytes.is_multiple_of(bytes as u64)).then_some(Pages { bytes, count })
    }

    /// Bytes of a payload that lie in the cell itself at most; a longer one goes on in pages of its own.
    #[inline]
    fn local_bytes_max(self) -> usize {
        (self.bytes - 12) * 64 / 255 - 23
    }

    /// Bytes of a longer payload that lie in the cell, so that what is left fills its pages.
    fn local_bytes(self, payload: usize) -> usize {
        let least = (self.bytes - 12) * 32 / 255 - 23;
        let filling = least + payload.saturating_sub(least) % (self.bytes - 4);
        if filling <= self.local_bytes_max() { filling } else { least }
    }
}

/// A row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row<'a> {
    /// All of it is in its page.
    Whole {
        /// The text of the rule's name.
        name: &'a [u8],
        /// What the rule says.
        class: ClassId,
    },
    /// Its name is so long that it goes on in another page.
    Overflows,
}

impl<'a> Row<'a> {
    /// The row whose payload's length stands at `at` in the database `bytes`; none when there is no row.
    #[inline]
    pub(crate) fn at(bytes: &'a [u8], pages: Pages, at: usize) -> Option<Row<'a>> {
        let page_end = (at | (pages.bytes - 1)).checked_add(1)?;
        Row::of_cell(bytes.get(at..page_end)?, pages)
    }

    /// The row that begins where `cell` does, which ends with its page.
    #[inline]
    pub(crate) fn of_cell(cell: &'a [u8], pages: Pages) -> Option<Row<'a>> {
        let (payload, rest) = varint(cell)?;
        if payload > pages.local_bytes_max() {
            return Some(Row::Overflows);
        }
        Row::of_record(rest.get(..payload)?)
    }

    /// The row that this record is.
    #[inline]
    pub(crate) fn of_record(record: &'a [u8]) -> Option<Row<'a>> {
        let (header, rest) = varint(record)?;
        let (name_type, rest) = varint(rest)?;
        let (class_type, rest) = varint(rest)?;
        // These two columns and no more.
        if record.len().checked_sub(rest.len())? != header || name_type < 13 || name_type.is_multiple_of(2) {
            return None;
        }
        let (name, class) = rest.split_at_checked((name_type - 13) / 2)?;
        Some(Row::Whole { name, class: integer(class_type, class)? })
    }
}

/// What a cell has of a record that overflows: the record's length, its first octets, and the page where it goes on.
pub(crate) fn overflowing(cell: &[u8], pages: Pages) -> Option<(usize, &[u8], u32)> {
    let (payload, rest) = varint(cell)?;
    let (local, rest) = rest.split_at_checked(pages.local_bytes(payload))?;
    Some((payload, local, u32::from_be_bytes(*rest.first_chunk()?)))
}

/// An integer of seven bits an octet, the highest first, and what follows it. Lengths within a page have three octets at most: a longer
/// one is damage.
#[inline]
fn varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (&first, mut rest) = bytes.split_first()?;
    if first < 0x80 {
        return Some((usize::from(first), rest));
    }
    let mut value = usize::from(first & 0x7f);
    for _ in 0..2 {
        let (&next, behind) = rest.split_first()?;
        (value, rest) = (value << 7 | usize::from(next & 0x7f), behind);
        if next < 0x80 {
            return Some((value, rest));
        }
    }
    None
}

/// A class by its serial type; it is all that is left of the record.
#[inline]
fn integer(serial_type: usize, bytes: &[u8]) -> Option<ClassId> {
    match (serial_type, bytes) {
        // The two most frequent classes take no octet at all.
        (8, []) => Some(0),
        (9, []) => Some(1),
        (1, &[low]) if low < 0x80 => Some(u32::from(low)),
        (2, &[high, low]) if high < 0x80 => Some(u32::from_be_bytes([0, 0, high, low])),
        (3, &[high, middle, low]) if high < 0x80 => Some(u32::from_be_bytes([0, high, middle, low])),
        (4, &[first, second, third, fourth]) if first < 0x80 => {
            Some(u32::from_be_bytes([first, second, third, fourth]))
        }
        // Past `CLASSES_MAX`, negative, or not a number.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGES: Pages = Pages { bytes: 4_096, count: 1 };

    fn cell(name: &[u8], class_type: u8, class: &[u8]) -> Vec<u8> {
        let name_type = 13 + 2 * name.len();
        let mut header = vec![0];
        if name_type >= 0x80 {
            header.push(0x80 | (name_type >> 7) as u8);
        }
        header.extend([(name_type & 0x7f) as u8, class_type]);
        header[0] = header.len() as u8;
        let record = [&header, name, class].concat();
        let length = match record.len() {
            short @ ..0x80 => vec![short as u8],
            long => vec![0x80 | (long >> 7) as u8, (long & 0x7f) as u8],
        };
        [length, record].concat()
    }

    #[test]
    fn a_row_reads_as_sqlite_writes_it() {
        let long = [b'a'; 200];
        for (name, class_type, class, expected) in [
            (&b"ads.example"[..], 8, &[][..], 0),
            (b"ads.example", 9, &[], 1),
            (b"", 1, &[127], 127),
            (b"a", 2, &[1, 2], 258),
            (&long, 3, &[1, 2, 3], 66_051),
            (&long, 4, &[0x7f, 255, 255, 255], i32::MAX as u32),
        ] {
            let bytes = cell(name, class_type, class);
            assert_eq!(Row::of_cell(&bytes, PAGES), Some(Row::Whole { name, class: expected }));
            for len in 0..bytes.len() {
                assert_eq!(Row::of_cell(&bytes[..len], PAGES), None, "cut at {len}");
            }
        }
        for (class_type, class) in [(0, &[][..]), (1, &[0x80]), (5, &[0; 6]), (7, &[0; 8]), (13, &[]), (8, &[0])] {
            assert_eq!(Row::of_cell(&cell(b"a", class_type, class), PAGES), None, "type {class_type}");
        }
    }

    #[test]
    fn a_row_never_reads_beyond_its_page() {
        let row = cell(b"ads.example", 8, &[]);
        let mut bytes = vec![0; 8_192];
        let fits = 4_096 - row.len();
        bytes[fits..4_096].copy_from_slice(&row);
        assert!(Row::at(&bytes, PAGES, fits).is_some());
        bytes[fits + 1..4_097].copy_from_slice(&row);
        assert_eq!(Row::at(&bytes, PAGES, fits + 1), None);
        for at in [8_192, usize::MAX] {
            assert_eq!(Row::at(&bytes, PAGES, at), None);
        }
    }

    #[test]
    fn no_octets_make_a_panic() {
        let good = cell(b"ads.example", 1, &[5]);
        for at in 0..good.len() {
            for octet in 0..=255 {
                let mut bad = good.clone();
                bad[at] = octet;
                let _ = Row::of_cell(&bad, PAGES);
            }
        }
        assert_eq!(Row::of_cell(&[0xff; 64], PAGES), None);
        assert_eq!(Row::of_cell(&[0x87, 0x6b, 0, 0], PAGES), Some(Row::Overflows), "1,003 octets are one too many");
    }
}
