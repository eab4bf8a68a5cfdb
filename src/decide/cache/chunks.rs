//! The memory that entries lie in: chunks of one size, of which each entry has a chain.
//!
//! Invariant: every chunk is either in the chain of one entry or in the list of free ones.

use corewall_sharding::filter::prefetch;
use corewall_sharding::memory::filled;

use crate::limits::CACHE_CHUNK_BYTES;

/// No chunk.
pub(super) const NONE: u32 = u32::MAX;
/// Octets of an entry in one chunk; the rest is the number of the chunk that follows.
pub(super) const PAYLOAD_BYTES: usize = CACHE_CHUNK_BYTES - 4;

/// Octets of an entry: `key, name, TTL places, body`, cut into pieces.
#[repr(align(128))]
#[derive(Clone)]
pub(super) struct Chunk {
    octets: [u8; PAYLOAD_BYTES],
    /// The chunk that follows, also in the list of free ones.
    next: u32,
}

const _: () = assert!(size_of::<Chunk>() == CACHE_CHUNK_BYTES);

/// Chunks that so many octets take.
pub(super) const fn chunks_for(octets: usize) -> usize {
    octets.div_ceil(PAYLOAD_BYTES)
}

/// All chunks of a cache.
pub(super) struct Chunks {
    all: Vec<Chunk>,
    free: u32,
    free_count: usize,
}

impl Chunks {
    /// Takes all memory; each chunk is free.
    pub(super) fn new(count: usize) -> Self {
        let mut all = filled(count, Chunk { octets: [0; PAYLOAD_BYTES], next: NONE });
        for (at, chunk) in all.iter_mut().enumerate().take(count.saturating_sub(1)) {
            chunk.next = at as u32 + 1;
        }
        Self { all, free: 0, free_count: count }
    }

    /// Chunks in all.
    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// Chunks that are free.
    pub(super) fn free_count(&self) -> usize {
        self.free_count
    }

    /// Has the processor fetch a chunk: both of its cache lines. On the hot path.
    pub(super) fn prefetch(&self, chunk: u32) {
        if let Some(chunk) = self.all.get(chunk as usize) {
            prefetch(chunk);
            prefetch(&chunk.next);
        }
    }

    /// Writes `parts` one behind the other into free chunks, of which there are enough, and gives the first one.
    pub(super) fn store<'a>(&mut self, bytes: usize, parts: impl Iterator<Item = &'a [u8]>) -> u32 {
        let first = self.free;
        let mut writer = Writer { chunks: &mut self.all, chunk: first, at: 0 };
        for part in parts {
            writer.put(part);
        }
        let last = writer.chunk;
        if let Some(last) = self.all.get_mut(last as usize) {
            self.free = std::mem::replace(&mut last.next, NONE);
        }
        self.free_count = self.free_count.saturating_sub(chunks_for(bytes));
        first
    }

    /// Frees the chain that begins with `first`.
    pub(super) fn free(&mut self, first: u32) {
        let mut last = first;
        self.free_count += 1;
        while let Some(next) = self.next(last) {
            last = next;
            self.free_count += 1;
        }
        if let Some(chunk) = self.all.get_mut(last as usize) {
            chunk.next = self.free;
        }
        self.free = first;
    }

    /// The octets of the entry that begins with `first`.
    pub(super) fn pieces(&self, first: u32) -> Pieces<'_> {
        Pieces { chunks: &self.all, rest: &[], next: first }
    }

    /// Whether the entry that begins with `first` begins with these octets. On the hot path: nearly always within its first chunk.
    pub(super) fn begins_with(&self, first: u32, fixed: &[u8], name: &[u8]) -> bool {
        let Some(chunk) = self.all.get(first as usize) else { return false };
        if let Some((head, rest)) = chunk.octets.split_at_checked(fixed.len())
            && let Some(head_name) = rest.get(..name.len())
        {
            // Nearly all keys have so many octets: two words to compare.
            let is_fixed = match (head.as_array::<8>(), fixed.as_array::<8>()) {
                (Some(head), Some(fixed)) => head == fixed,
                _ => head == fixed,
            };
            return is_fixed && head_name == name;
        }
        let mut stored = self.pieces(first);
        stored.starts_with(fixed) && stored.starts_with(name)
    }

    fn next(&self, chunk: u32) -> Option<u32> {
        self.all.get(chunk as usize).map(|chunk| chunk.next).filter(|next| *next != NONE)
    }

    #[cfg(test)]
    pub(super) fn chain_length(&self, first: u32) -> usize {
        std::iter::successors(Some(first), |at| self.next(*at)).count()
    }

    #[cfg(test)]
    pub(super) fn first_free(&self) -> u32 {
        self.free
    }
}

/// Reads the octets of an entry across its chunks.
#[derive(Clone, Copy)]
pub(super) struct Pieces<'a> {
    chunks: &'a [Chunk],
    /// What is left of the present chunk.
    rest: &'a [u8],
    next: u32,
}

impl<'a> Pieces<'a> {
    /// The next octets, at most `bytes` and at least one; none behind the last chunk.
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            let chunk = self.chunks.get(self.next as usize)?;
            (self.rest, self.next) = (&chunk.octets, chunk.next);
        }
        let (piece, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, &[]));
        self.rest = rest;
        Some(piece)
    }

    pub(super) fn skip(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let Some(piece) = self.take(bytes) else { return };
            bytes -= piece.len();
        }
    }

    pub(super) fn copy_to(&mut self, mut to: &mut [u8]) {
        while !to.is_empty() {
            let Some(piece) = self.take(to.len()) else { return };
            let Some((place, rest)) = to.split_at_mut_checked(piece.len()) else { return };
            place.copy_from_slice(piece);
            to = rest;
        }
    }

    /// Whether `octets` come next; goes past them.
    pub(super) fn starts_with(&mut self, mut octets: &[u8]) -> bool {
        while !octets.is_empty() {
            let Some(piece) = self.take(octets.len()) else { return false };
            let Some(rest) = octets.strip_prefix(piece) else { return false };
            octets = rest;
        }
        true
    }
}

/// Writes the octets of an entry across free chunks, which are linked already.
struct Writer<'a> {
    chunks: &'a mut [Chunk],
    chunk: u32,
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            let Some(chunk) = self.chunks.get_mut(self.chunk as usize) else { return };
            if self.at == PAYLOAD_BYTES {
                self.chunk = chunk.next;
                self.at = 0;
                continue;
            }
            let place = chunk.octets.get_mut(self.at..).unwrap_or_default();
            let bytes = place.len().min(octets.len());
            let (Some(place), Some((piece, rest))) = (place.get_mut(..bytes), octets.split_at_checked(bytes)) else {
                return;
            };
            place.copy_from_slice(piece);
            self.at += bytes;
            octets = rest;
        }
    }
}
