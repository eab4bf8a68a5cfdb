//! Where entries are found by the hash of their key: lines of one cache line each.
//!
//! A line has [`PLACES`] places, each with an entry's number and a tag, eight bits of its hash. An entry lies in the line that
//! its hash names, or in one of those behind it when that was full; each line counts the entries that have passed it so.
//! Invariant: an entry is in the first line from its own on that had a free place when it came, and every line before counts
//! it. So a search ends at the first line that nothing has passed, nearly always its first.
//!
//! hashbrown, which serves everywhere else, was here before. Its tables cannot be told to fetch a place ahead of the search, and
//! that is what an answer from a large cache costs: of a batch, all lines are fetched together ([`Index::prefetch`]), then
//! all entries that the tags point to ([`Index::candidate`]), so that one query's wait for memory is that of all.

use corewall_sharding::filter::prefetch;
use corewall_sharding::memory::filled;

use super::chunks::NONE;

/// Places of a line.
const PLACES: usize = 12;
/// Entries for which there is one line: half of its places, so that one line in a hundred is passed.
const ENTRIES_PER_LINE: usize = PLACES / 2;
/// Octets of index for each entry that there is room for.
pub(super) const INDEX_BYTES_PER_ENTRY: usize = size_of::<Line>().div_ceil(ENTRIES_PER_LINE);

#[repr(C, align(64))]
#[derive(Clone)]
struct Line {
    entries: [u32; PLACES],
    /// Of an empty place: 0, as of some that are not.
    tags: [u8; PLACES],
    /// Entries that would lie here or before, and lie further on.
    passed: u32,
}

const _: () = assert!(size_of::<Line>() == 64, "one cache line");

impl Line {
    const EMPTY: Line = Line { entries: [NONE; PLACES], tags: [0; PLACES], passed: 0 };

    /// The entries with this tag.
    fn tagged(&self, tag: u8) -> impl Iterator<Item = u32> {
        self.entries
            .iter()
            .zip(self.tags)
            .filter(move |(entry, at)| *at == tag && **entry != NONE)
            .map(|(entry, _)| *entry)
    }
}

/// The entries of a cache by their hashes.
pub(super) struct Index {
    lines: Vec<Line>,
    count: usize,
}

impl Index {
    /// Takes all memory: room for so many entries, and as many again, so that it never fills up.
    pub(super) fn new(entries: usize) -> Self {
        Self { lines: filled(entries.div_ceil(ENTRIES_PER_LINE).max(1), Line::EMPTY), count: 0 }
    }

    /// Entries in it.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Octets of memory.
    pub(super) fn bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>()
    }

    /// Has the processor fetch the line of this hash. On the hot path.
    pub(super) fn prefetch(&self, hash: u64) {
        if let Some(line) = self.lines.get(self.home(hash)) {
            prefetch(line);
        }
    }

    /// The first entry that may be the one of this hash, by its tag alone: for fetching it ahead. On the hot path.
    pub(super) fn candidate(&self, hash: u64) -> Option<u32> {
        self.lines.get(self.home(hash))?.tagged(tag(hash)).next()
    }

    /// Whether some entry of this hash may lie behind its own line. On the hot path.
    pub(super) fn may_hold(&self, hash: u64) -> bool {
        self.lines.get(self.home(hash)).is_some_and(|line| line.passed > 0)
    }

    /// The entry of this hash for which `is_equal` holds. On the hot path.
    pub(super) fn find(&self, hash: u64, is_equal: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = self.home(hash);
        for _ in 0..self.lines.len() {
            let line = self.lines.get(at)?;
            if let Some(entry) = line.tagged(tag(hash)).find(|entry| is_equal(*entry)) {
                return Some(entry);
            }
            if line.passed == 0 {
                return None;
            }
            at = if at + 1 == self.lines.len() { 0 } else { at + 1 };
        }
        None
    }

    /// Puts an entry in that is not there. There must be room, see [`Index::new`].
    pub(super) fn insert(&mut self, hash: u64, entry: u32) {
        for at in self.lines_from(self.home(hash)) {
            let Some(line) = self.lines.get_mut(at) else { return };
            let free = line.entries.iter().position(|held| *held == NONE);
            if let Some((held, at)) = free.and_then(|place| line.entries.get_mut(place).zip(line.tags.get_mut(place))) {
                (*held, *at) = (entry, tag(hash));
                self.count += 1;
                return;
            }
            line.passed += 1;
        }
        debug_assert!(false, "twice the places of all entries, and none is free");
    }

    /// Takes an entry of this hash out, if it is there.
    pub(super) fn remove(&mut self, hash: u64, entry: u32) {
        let home = self.home(hash);
        let holds = |line: &Line| line.entries.contains(&entry);
        let Some(steps) = self.lines_from(home).position(|at| self.lines.get(at).is_some_and(holds)) else { return };
        for (step, at) in self.lines_from(home).take(steps + 1).enumerate() {
            let Some(line) = self.lines.get_mut(at) else { return };
            if step < steps {
                line.passed = line.passed.saturating_sub(1);
            } else if let Some(held) = line.entries.iter_mut().find(|held| **held == entry) {
                *held = NONE;
                self.count -= 1;
            }
        }
    }

    /// The line of a hash, by its low half: the tag is of the other one.
    fn home(&self, hash: u64) -> usize {
        ((u64::from(hash as u32) * self.lines.len() as u64) >> 32) as usize
    }

    /// The numbers of all lines, from this one on.
    fn lines_from(&self, home: usize) -> impl Iterator<Item = usize> + use<> {
        (home..self.lines.len()).chain(0..home)
    }
}

/// The hash's highest octet.
fn tag(hash: u64) -> u8 {
    (hash >> 56) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes that are the same for each run, spread as a hash function's are.
    fn hash(number: u64) -> u64 {
        let mixed = (number ^ 0x9e37_79b9).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ mixed >> 29).wrapping_mul(0x94d0_49bb_1331_11eb)
    }

    #[test]
    fn what_was_put_in_is_found_until_it_is_taken_out() {
        let mut index = Index::new(1_000);
        for entry in 0..1_000 {
            index.insert(hash(entry.into()), entry);
        }
        assert_eq!(index.len(), 1_000);
        for entry in (0..1_000).step_by(2) {
            index.remove(hash(entry.into()), entry);
            index.remove(hash(entry.into()), entry);
        }
        assert_eq!(index.len(), 500);
        for entry in 0..1_000 {
            let found = index.find(hash(entry.into()), |held| held == entry);
            assert_eq!(found, (entry % 2 == 1).then_some(entry));
        }
    }

    #[test]
    fn entries_of_one_hash_go_on_in_the_next_lines_and_around_the_end() {
        // All of them in the last line, were there room.
        let last = 0xffff_ffff;
        let mut index = Index::new(6 * ENTRIES_PER_LINE);
        let entries: Vec<u32> = (0..3 * PLACES as u32).collect();
        entries.iter().for_each(|entry| index.insert(last, *entry));
        let all =
            |index: &Index| entries.iter().filter(|entry| index.find(last, |held| held == **entry).is_some()).count();
        assert_eq!(all(&index), entries.len());
        // From the front: those behind stay reachable past the gap.
        for (gone, entry) in entries.iter().enumerate() {
            index.remove(last, *entry);
            assert_eq!(all(&index), entries.len() - gone - 1);
        }
        assert!(index.is_empty() && index.lines.iter().all(|line| line.passed == 0), "a line counts what is gone");
    }

    #[test]
    fn an_index_that_is_as_full_as_it_gets_holds_every_entry() {
        let mut index = Index::new(10_000);
        for round in 0..5u64 {
            (0..10_000u32).for_each(|entry| index.insert(hash(round << 32 | u64::from(entry)), entry));
            assert_eq!(index.len(), 10_000);
            let is_found =
                |entry: &u32| index.find(hash(round << 32 | u64::from(*entry)), |held| held == *entry).is_some();
            assert_eq!((0..10_000).filter(is_found).count(), 10_000);
            (0..10_000u32).for_each(|entry| index.remove(hash(round << 32 | u64::from(entry)), entry));
        }
        assert!(index.lines.iter().all(|line| line.passed == 0));
    }

    #[test]
    fn a_candidate_is_what_its_line_has_under_the_tag() {
        let mut index = Index::new(100);
        assert_eq!(index.candidate(hash(1)), None);
        index.insert(hash(1), 7);
        index.prefetch(hash(1));
        assert_eq!(index.candidate(hash(1)), Some(7));
    }
}
