//! Stages 3 and 10, cache and keep: answers of this worker in a fixed amount of memory.
//!
//! Invariant: all memory is taken by [`Cache::new`], and each operation costs a bounded number of steps. An entry is
//! a chain of equal chunks that holds its key, the places of its TTLs and the reply's body; beside the first chunk of each
//! entry lies one cache line with all else. So a hit on a common answer touches the index, that line and one chunk.
//!
//! Who goes first when room is needed is decided by SIEVE (Zhang et al., NSDI 2024): entries stand in a queue in the
//! order of their arrival, a hit only marks its entry, and a hand that moves from the oldest to the newest evicts what is not
//! marked and takes the mark off what is. Against a list in order of use it writes to no neighbours at a hit (three cache
//! misses fewer), and a flood of names that are asked once (random subdomains) evicts itself, not what is in use.

use ahash::RandomState;
use corewall_sharding::name::Name;
use hashbrown::HashTable;
use std::hash::{BuildHasher, Hasher};

use super::question::Question;
use super::reply::{self, Body, Ede, ReplyHead, Shape};
use super::settings::PolicyId;
use super::upstream::GroupId;
use super::{Now, Transport};
use crate::limits::{CACHE_CHUNK_BYTES, CACHE_ENTRY_BYTES_MAX, CACHE_ENTRY_RECORDS_MAX, CACHE_EVICTION_STEPS_MAX};

/// What makes two questions equal for the cache: never the raw EDNS bytes.
#[derive(Clone, Copy, Debug)]
pub struct CacheKey<'a> {
    /// Under which the answer was judged.
    pub policy: PolicyId,
    /// Lower case.
    pub name: &'a Name,
    /// QTYPE.
    pub qtype: u16,
    /// QCLASS.
    pub qclass: u16,
    /// DO.
    pub dnssec_ok: bool,
    /// CD.
    pub checking_disabled: bool,
}

impl CacheKey<'_> {
    /// All but the name.
    fn packed(&self) -> u64 {
        let flags = u64::from(self.dnssec_ok) << 1 | u64::from(self.checking_disabled);
        flags << 48 | u64::from(self.policy) << 32 | u64::from(self.qtype) << 16 | u64::from(self.qclass)
    }
}

/// How a cached answer came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// By a rule: true until the rules change, never ages.
    Rule,
    /// From an upstream group.
    Upstream {
        /// Which one.
        group: GroupId,
        /// Whether names of a chain were judged beside the asked one, so that judging that one again does not suffice
        /// after the rules changed.
        chain: bool,
    },
    /// A failure to resolve (RFC 9520).
    Failure,
}

/// What is kept beside the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHead {
    /// See [`Origin`].
    pub origin: Origin,
    /// Extended RCODE.
    pub rcode: u16,
    /// AD.
    pub authentic_data: bool,
    /// INFO-CODE and the index of its text, meaning the caller's business.
    pub ede: Option<(u16, u32)>,
    /// The rules under which it was judged (generation and, later, overlay sequence).
    pub rules: u64,
    /// When it was stored.
    pub stored: Now,
    /// Seconds that it may be served from then; `u32::MAX` for [`Origin::Rule`].
    pub ttl_s: u32,
}

impl EntryHead {
    /// Nothing stored.
    const EMPTY: EntryHead = EntryHead {
        origin: Origin::Failure,
        rcode: 0,
        authentic_data: false,
        ede: None,
        rules: 0,
        stored: Now(0),
        ttl_s: 0,
    };

    /// Seconds by which its TTLs have gone down.
    fn age_s(&self, now: Now) -> u32 {
        if self.origin == Origin::Rule { 0 } else { now.seconds_since(self.stored) }
    }

    fn is_fresh(&self, now: Now) -> bool {
        self.origin == Origin::Rule || self.age_s(now) < self.ttl_s
    }
}

/// A place in the cache, valid until the next insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryId(u32);

/// No chunk.
const NONE: u32 = u32::MAX;
/// Octets of an entry in one chunk; the rest is the number of the chunk that follows.
const PAYLOAD_BYTES: usize = CACHE_CHUNK_BYTES - 4;

/// Octets of an entry: `packed key, name, TTL places, body`, cut into pieces.
#[repr(align(128))]
#[derive(Clone)]
struct Chunk {
    octets: [u8; PAYLOAD_BYTES],
    /// The chunk that follows, also in the list of free ones.
    next: u32,
}

/// What there is of an entry beside its octets, under the number of its first chunk: one cache line.
#[repr(align(64))]
#[derive(Clone)]
struct Meta {
    head: EntryHead,
    /// Neighbours in the queue.
    newer: u32,
    older: u32,
    body_bytes: u16,
    answers: u16,
    authorities: u16,
    /// Octets of the name; 0 marks a chunk that begins no entry, for the root name has one.
    name_bytes: u8,
    /// Hit since the hand passed.
    is_used: bool,
}

const _: () = assert!(size_of::<Chunk>() == CACHE_CHUNK_BYTES && size_of::<Meta>() == 64);
const _: () = assert!(CACHE_ENTRY_BYTES_MAX <= u16::MAX as usize, "`body_bytes` and TTL places hold any");
const _: () = assert!(CACHE_ENTRY_RECORDS_MAX <= u16::MAX as usize, "`answers` and `authorities` hold any");

/// The cache of one worker: memory fixed at start, what is not in use goes first.
pub struct Cache {
    hashing: RandomState,
    /// First chunks by key. Of twice the capacity that is ever used, so that hashbrown, should it run out of never
    /// used places, tidies up in place and does not grow.
    index: HashTable<u32>,
    chunks: Vec<Chunk>,
    metas: Vec<Meta>,
    free: u32,
    free_count: usize,
    newest: u32,
    oldest: u32,
    hand: u32,
    bytes: usize,
}

impl Cache {
    /// All memory is taken here: at most `bytes`, but for at least one entry of the largest size.
    pub fn new(bytes: usize, hash_seeds: [u64; 4]) -> Self {
        const CHUNK_COST: usize = size_of::<Chunk>() + size_of::<Meta>() + INDEX_BYTES_PER_ENTRY;
        let chunk_count = (bytes / CHUNK_COST).clamp(chunks_for(ENTRY_OCTETS_MAX), NONE as usize - 1);
        let mut chunks = vec![Chunk { octets: [0; PAYLOAD_BYTES], next: NONE }; chunk_count];
        for (at, chunk) in chunks.iter_mut().enumerate().take(chunk_count - 1) {
            chunk.next = at as u32 + 1;
        }
        let meta = Meta {
            head: EntryHead::EMPTY,
            newer: NONE,
            older: NONE,
            body_bytes: 0,
            answers: 0,
            authorities: 0,
            name_bytes: 0,
            is_used: false,
        };
        let index = HashTable::with_capacity(2 * chunk_count);
        let [a, b, c, d] = hash_seeds;
        let bytes = chunk_count * (size_of::<Chunk>() + size_of::<Meta>()) + index.allocation_size();
        Self {
            hashing: RandomState::with_seeds(a, b, c, d),
            index,
            chunks,
            metas: vec![meta; chunk_count],
            free: 0,
            free_count: chunk_count,
            newest: NONE,
            oldest: NONE,
            hand: NONE,
            bytes,
        }
    }

    /// The entry for a question that is still fresh; marks it as used. An expired one is removed. Hot path: no allocation,
    /// no panic.
    pub fn find(&mut self, key: &CacheKey<'_>, now: Now) -> Option<EntryId> {
        let first = self.seek(key)?;
        let meta = self.metas.get_mut(first as usize)?;
        if meta.head.is_fresh(now) {
            meta.is_used = true;
            return Some(EntryId(first));
        }
        self.remove(key);
        None
    }

    /// What is kept beside the body.
    pub fn head(&self, entry: EntryId) -> Option<&EntryHead> {
        self.meta(entry).map(|meta| &meta.head)
    }

    /// Says that the entry was judged again under `rules` and holds.
    pub fn confirm(&mut self, entry: EntryId, rules: u64) {
        if let Some(meta) = self.metas.get_mut(entry.0 as usize).filter(|meta| meta.name_bytes > 0) {
            meta.head.rules = rules;
        }
    }

    /// Keeps a body; false when it may be served for no time at all or is larger than an entry may be. Replaces an older
    /// entry of the same key, also when it keeps nothing.
    pub fn keep(&mut self, key: &CacheKey<'_>, head: EntryHead, body: &Body) -> bool {
        self.remove(key);
        let places = body.ttl_places();
        let wire = body.as_wire();
        let is_sound = head.ttl_s > 0 && !body.is_too_large();
        if !is_sound || wire.len() > CACHE_ENTRY_BYTES_MAX || places.len() > CACHE_ENTRY_RECORDS_MAX {
            return false;
        }
        let name = key.name.as_wire();
        let needed = chunks_for(PACKED_KEY_BYTES + name.len() + 2 * places.len() + wire.len());
        while self.free_count < needed {
            if !self.evict() {
                return false;
            }
        }
        let first = self.free;
        let mut writer = Writer { chunks: &mut self.chunks, chunk: first, at: 0 };
        writer.put(&key.packed().to_be_bytes());
        writer.put(name);
        for place in places {
            writer.put(&place.to_be_bytes());
        }
        writer.put(wire);
        let last = writer.chunk;
        if let Some(last) = self.chunks.get_mut(last as usize) {
            self.free = std::mem::replace(&mut last.next, NONE);
        }
        self.free_count -= needed;

        let Shape { answers, authorities, .. } = body.shape();
        if let Some(meta) = self.metas.get_mut(first as usize) {
            *meta = Meta {
                head,
                newer: NONE,
                older: self.newest,
                body_bytes: wire.len() as u16,
                answers,
                authorities,
                name_bytes: name.len() as u8,
                is_used: false,
            };
        }
        match self.metas.get_mut(self.newest as usize) {
            Some(newest) => newest.newer = first,
            None => self.oldest = first,
        }
        self.newest = first;
        let Self { hashing, index, chunks, metas, .. } = self;
        index
            .insert_unique(hash(hashing, key.packed(), name), first, |held| stored_hash(hashing, chunks, metas, *held));
        true
    }

    /// Forgets one entry.
    pub fn remove(&mut self, key: &CacheKey<'_>) {
        if let Some(first) = self.seek(key) {
            self.drop_entry(first);
        }
    }

    /// Writes the whole reply to `question` from an entry: id, flags, letter case and aged TTLs patched into a copy.
    /// Gives the same bytes as [`reply::write`] would. `ede_text` is the text that the entry's `ede` refers to. Hot path.
    pub fn write_reply(
        &self,
        entry: EntryId,
        now: Now,
        question: &Question,
        transport: Transport,
        ede_text: &str,
        out: &mut [u8],
    ) -> usize {
        let Some(meta) = self.meta(entry) else { return 0 };
        let head = ReplyHead {
            rcode: meta.head.rcode,
            authentic_data: meta.head.authentic_data,
            ede: meta.head.ede.map(|(code, _)| Ede { code, text: ede_text }),
            scope_bits: None,
        };
        let body_bytes = usize::from(meta.body_bytes);
        let shape = Shape { bytes: body_bytes, answers: meta.answers, authorities: meta.authorities, too_large: false };
        let age_s = meta.head.age_s(now);
        let records = usize::from(meta.answers) + usize::from(meta.authorities);
        let mut places = Pieces::new(&self.chunks, entry.0);
        places.skip(PACKED_KEY_BYTES + usize::from(meta.name_bytes));
        reply::assemble(question, transport, head, shape, out, |body| {
            let mut wire = places;
            wire.skip(2 * records);
            wire.copy_to(body);
            if age_s == 0 {
                return;
            }
            for _ in 0..records {
                let mut place = [0u8; 2];
                places.copy_to(&mut place);
                let place = usize::from(u16::from_be_bytes(place));
                if let Some(ttl_s) = body.get_mut(place..).and_then(|octets| octets.first_chunk_mut::<4>()) {
                    *ttl_s = u32::from_be_bytes(*ttl_s).saturating_sub(age_s).to_be_bytes();
                }
            }
        })
    }

    /// Entries held.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether no entry is held.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Bytes of memory taken, constant.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn meta(&self, entry: EntryId) -> Option<&Meta> {
        self.metas.get(entry.0 as usize).filter(|meta| meta.name_bytes > 0)
    }

    fn seek(&self, key: &CacheKey<'_>) -> Option<u32> {
        let (packed, name) = (key.packed(), key.name.as_wire());
        let hash = hash(&self.hashing, packed, name);
        let packed = packed.to_be_bytes();
        let is_equal = |first: &u32| {
            let mut stored = Pieces::new(&self.chunks, *first);
            let names_agree =
                self.metas.get(*first as usize).map(|meta| usize::from(meta.name_bytes)) == Some(name.len());
            names_agree && stored.starts_with(&packed) && stored.starts_with(name)
        };
        self.index.find(hash, is_equal).copied()
    }

    /// Evicts one entry; false when there is none.
    fn evict(&mut self) -> bool {
        for step in 1..=CACHE_EVICTION_STEPS_MAX {
            // Past the newest the hand begins anew at the oldest.
            let candidate = if self.hand == NONE { self.oldest } else { self.hand };
            let Some(meta) = self.metas.get_mut(candidate as usize) else { return false };
            self.hand = meta.newer;
            // A long run of used entries must not hold up the query: the last one looked at goes, used or not.
            if !meta.is_used || step == CACHE_EVICTION_STEPS_MAX {
                self.drop_entry(candidate);
                return true;
            }
            meta.is_used = false;
        }
        false
    }

    /// Takes an entry out of index and queue and frees its chunks.
    fn drop_entry(&mut self, first: u32) {
        let hash = stored_hash(&self.hashing, &self.chunks, &self.metas, first);
        if let Ok(place) = self.index.find_entry(hash, |held| *held == first) {
            place.remove();
        }
        let Some(meta) = self.metas.get_mut(first as usize) else { return };
        meta.name_bytes = 0;
        let (newer, older) = (meta.newer, meta.older);
        if self.hand == first {
            self.hand = newer;
        }
        match self.metas.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
        match self.metas.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
        let mut last = first;
        self.free_count += 1;
        while let Some(next) = self.chunks.get(last as usize).map(|chunk| chunk.next).filter(|next| *next != NONE) {
            last = next;
            self.free_count += 1;
        }
        if let Some(chunk) = self.chunks.get_mut(last as usize) {
            chunk.next = self.free;
        }
        self.free = first;
    }
}

/// Octets of all of a [`CacheKey`] but the name.
const PACKED_KEY_BYTES: usize = 8;
/// Octets of the largest entry.
const ENTRY_OCTETS_MAX: usize =
    PACKED_KEY_BYTES + corewall_sharding::name::NAME_BYTES_MAX + 2 * CACHE_ENTRY_RECORDS_MAX + CACHE_ENTRY_BYTES_MAX;
/// Octets of index for each chunk: hashbrown takes 5 for each place, fills 7 of 8, rounds up to a power of two, and has two
/// for each entry here. Reckoned at the rounding's worst, so that the whole stays within what was allowed.
const INDEX_BYTES_PER_ENTRY: usize = 23;

const fn chunks_for(octets: usize) -> usize {
    octets.div_ceil(PAYLOAD_BYTES)
}

fn hash(hashing: &RandomState, packed: u64, name: &[u8]) -> u64 {
    let mut hasher = hashing.build_hasher();
    hasher.write_u64(packed);
    hasher.write(name);
    hasher.finish()
}

/// The hash of a stored entry's key.
fn stored_hash(hashing: &RandomState, chunks: &[Chunk], metas: &[Meta], first: u32) -> u64 {
    let mut packed = [0u8; PACKED_KEY_BYTES];
    let mut name = [0u8; corewall_sharding::name::NAME_BYTES_MAX];
    let mut stored = Pieces::new(chunks, first);
    stored.copy_to(&mut packed);
    let bytes = metas.get(first as usize).map_or(0, |meta| usize::from(meta.name_bytes));
    let name = name.get_mut(..bytes).unwrap_or_default();
    stored.copy_to(name);
    hash(hashing, u64::from_be_bytes(packed), name)
}

/// Reads the octets of an entry across its chunks.
#[derive(Clone, Copy)]
struct Pieces<'a> {
    chunks: &'a [Chunk],
    /// What is left of the present chunk.
    rest: &'a [u8],
    next: u32,
}

impl<'a> Pieces<'a> {
    fn new(chunks: &'a [Chunk], first: u32) -> Self {
        Self { chunks, rest: &[], next: first }
    }

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

    fn skip(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let Some(piece) = self.take(bytes) else { return };
            bytes -= piece.len();
        }
    }

    fn copy_to(&mut self, mut to: &mut [u8]) {
        while !to.is_empty() {
            let Some(piece) = self.take(to.len()) else { return };
            let Some((place, rest)) = to.split_at_mut_checked(piece.len()) else { return };
            place.copy_from_slice(piece);
            to = rest;
        }
    }

    /// Whether `octets` come next; goes past them.
    fn starts_with(&mut self, mut octets: &[u8]) -> bool {
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

#[cfg(test)]
mod tests;
