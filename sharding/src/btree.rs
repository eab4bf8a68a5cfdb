//! The rows of a shard's table `rule` in the order of its b-tree, each with its place in the file; read page by page, without SQLite.
//!
//! Invariants: a page is read once, and at most one of each level is in memory; a tree that is damaged is an error, also one that leads
//! in circles.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::StoreError;
use crate::record::{DATABASE_HEADER_BYTES, Pages, Row, overflowing};
use crate::rows::{CACHE_KIB_MAX, Reads, connect};

/// Levels of the deepest tree: pages of 4,096 octets hold a few rows at least, and SQLite itself stops at 20.
const LEVELS_MAX: usize = 20;
/// First octet of an interior page of an index.
const INTERIOR: u8 = 0x02;
/// First octet of a leaf of an index.
const LEAF: u8 = 0x0a;
/// Octets before a row on an interior page: the page of the rows before it.
const CHILD_BYTES: usize = 4;

/// Takes the name of a row, where the length of its payload stands in the file, and whether all of it is there.
pub(crate) type EachPlace<'a> = dyn FnMut(&[u8], u64, bool) -> Result<(), StoreError> + 'a;

/// Calls `found` with each row of the table `rule` of a finished database.
pub(crate) fn each_place(path: &Path, found: &mut EachPlace<'_>) -> Result<(), StoreError> {
    let root: u32 = connect(path, Reads::Waiting, CACHE_KIB_MAX)?
        .query_row("SELECT rootpage FROM sqlite_schema WHERE type = 'table' AND name = 'rule'", [], |row| row.get(0))
        .map_err(StoreError::sqlite(path, "find the table of rules"))?;
    let file = File::open(path).map_err(StoreError::io(path, "open the shard"))?;
    let bytes = file.metadata().map_err(StoreError::io(path, "open the shard"))?.len();
    let mut header = [0; DATABASE_HEADER_BYTES];
    file.read_exact_at(&mut header, 0).map_err(StoreError::io(path, "read the shard"))?;
    let pages =
        Pages::of(&header, bytes).ok_or_else(|| StoreError::damaged(path, "its pages are not as they should be"))?;
    Tree { path, file, pages, seen: 0, spare: Vec::new() }.walk(root, 0, found)
}

struct Tree<'a> {
    path: &'a Path,
    file: File,
    pages: Pages,
    /// Pages read so far: more than there are would mean a circle.
    seen: u32,
    /// Buffers of pages that have been left.
    spare: Vec<Vec<u8>>,
}

impl Tree<'_> {
    fn walk(&mut self, number: u32, level: usize, found: &mut EachPlace<'_>) -> Result<(), StoreError> {
        self.seen += 1;
        // The first page is the schema's.
        if !(2..=self.pages.count).contains(&number) || self.seen > self.pages.count || level >= LEVELS_MAX {
            return Err(self.damaged(number));
        }
        let start = u64::from(number - 1) * self.pages.bytes as u64;
        let mut page = self.spare.pop().unwrap_or_default();
        page.resize(self.pages.bytes, 0);
        self.file.read_exact_at(&mut page, start).map_err(StoreError::io(self.path, "read the shard"))?;
        self.walk_page(&page, number, level, start, found)?;
        self.spare.push(page);
        Ok(())
    }

    fn walk_page(
        &mut self,
        page: &[u8],
        number: u32,
        level: usize,
        start: u64,
        found: &mut EachPlace<'_>,
    ) -> Result<(), StoreError> {
        let (header, is_interior) = match page.first() {
            Some(&LEAF) => (8, false),
            Some(&INTERIOR) => (12, true),
            _ => return Err(self.damaged(number)),
        };
        let two = |at: usize| {
            page.get(at..).and_then(<[u8]>::first_chunk).map(|&bytes| usize::from(u16::from_be_bytes(bytes)))
        };
        let four = |at: usize| page.get(at..).and_then(<[u8]>::first_chunk).map(|&bytes| u32::from_be_bytes(bytes));
        for cell in 0..two(3).ok_or_else(|| self.damaged(number))? {
            let mut at = two(header + 2 * cell).ok_or_else(|| self.damaged(number))?;
            if is_interior {
                let child = four(at).ok_or_else(|| self.damaged(number))?;
                self.walk(child, level + 1, found)?;
                at += CHILD_BYTES;
            }
            let place = start + at as u64;
            let cell = page.get(at..).unwrap_or_default();
            match Row::of_cell(cell, self.pages).ok_or_else(|| self.damaged(number))? {
                Row::Whole { name, .. } => found(name, place, true)?,
                Row::Overflows => {
                    let record = self.overflowing_record(cell, number)?;
                    match Row::of_record(&record) {
                        Some(Row::Whole { name, .. }) => found(name, place, false)?,
                        _ => return Err(self.damaged(number)),
                    }
                }
            }
        }
        if is_interior {
            let last = four(8).ok_or_else(|| self.damaged(number))?;
            self.walk(last, level + 1, found)?;
        }
        Ok(())
    }

    /// A record that goes on in pages of its own, each of which begins with the number of the next.
    fn overflowing_record(&self, cell: &[u8], number: u32) -> Result<Vec<u8>, StoreError> {
        let (len, local, mut next) = overflowing(cell, self.pages).ok_or_else(|| self.damaged(number))?;
        let mut record = local.to_vec();
        let mut page = vec![0; self.pages.bytes];
        while record.len() < len {
            if !(2..=self.pages.count).contains(&next) {
                return Err(self.damaged(number));
            }
            let start = u64::from(next - 1) * self.pages.bytes as u64;
            self.file.read_exact_at(&mut page, start).map_err(StoreError::io(self.path, "read the shard"))?;
            let (link, content) = page.split_first_chunk().ok_or_else(|| self.damaged(number))?;
            next = u32::from_be_bytes(*link);
            record.extend_from_slice(content.get(..len - record.len()).unwrap_or(content));
        }
        Ok(record)
    }

    fn damaged(&self, number: u32) -> StoreError {
        StoreError::damaged(self.path, format!("page {number} is not one of the table of rules"))
    }
}
