//! Stages 3 and 10, cache and keep: answers of this worker in a fixed amount of memory.
//!
//! Invariant: all memory is taken by [`Cache::new`], and each operation costs a bounded number of steps. An entry is
//! a chain of equal chunks that holds its key, the places of its TTLs and the reply's body; beside the first chunk of each
//! entry lies one cache line with all else. So a hit on a common answer touches the index, that line and one chunk.
//!
//! An answer that has expired stays for a while, for the day that the upstreams fail (RFC 8767): [`Cache::find`] never gives
//! it, [`Cache::look_up`] says so.

mod chunks;
mod cuts;
mod entry;
mod flush;
mod index;
mod key;
mod queue;
mod saved;

use ahash::RandomState;
use corewall_sharding::filter::prefetch;
use corewall_sharding::memory::filled;

pub use self::entry::{EntryHead, EntryId, Freshness, Origin, Terms};
pub use self::flush::{Flush, FlushCursor, FlushProgress};
pub use self::key::CacheKey;
pub use self::queue::Eviction;
pub use self::saved::{SavedCache, SavedEntry};

use self::chunks::{Chunk, Chunks, NONE, chunks_for};
use self::cuts::{CUT_BYTES_PER_ENTRY, Cuts};
use self::entry::Meta;
use self::index::{INDEX_BYTES_PER_ENTRY, Index};
use self::key::StoredKey;
use self::queue::Queue;
use super::question::Question;
use super::reply::{self, Body, Ede, ReplyHead, Shape};
use super::{Now, Transport};
use crate::limits::{CACHE_ENTRY_BYTES_MAX, CACHE_ENTRY_RECORDS_MAX, PREFETCH_HITS_MIN, REFRESH_S_MAX};

const _: () = assert!(CACHE_ENTRY_BYTES_MAX <= u16::MAX as usize, "`body_bytes` and TTL places hold any");
const _: () = assert!(CACHE_ENTRY_RECORDS_MAX <= u16::MAX as usize, "`answers` and `authorities` hold any");

/// The cache of one worker: memory fixed at start, what is not in use goes first.
pub struct Cache {
    hashing: RandomState,
    /// First chunks by key.
    index: Index,
    cuts: Cuts,
    chunks: Chunks,
    metas: Vec<Meta>,
    queue: Queue,
    terms: Terms,
    bytes: usize,
    /// Nothing is kept.
    is_off: bool,
}

impl Cache {
    /// All memory is taken here: at most `bytes`, but for at least one entry of the largest size.
    pub fn new(bytes: usize, eviction: Eviction, hash_seeds: [u64; 4]) -> Self {
        const CHUNK_COST: usize = size_of::<Chunk>() + size_of::<Meta>() + INDEX_BYTES_PER_ENTRY + CUT_BYTES_PER_ENTRY;
        let chunk_count = (bytes / CHUNK_COST).clamp(chunks_for(ENTRY_OCTETS_MAX), NONE as usize - 1);
        let index = Index::new(chunk_count);
        let cuts = Cuts::new(chunk_count);
        let [a, b, c, d] = hash_seeds;
        let bytes = chunk_count * (size_of::<Chunk>() + size_of::<Meta>()) + index.bytes() + cuts.bytes();
        Self {
            hashing: RandomState::with_seeds(a, b, c, d),
            index,
            cuts,
            chunks: Chunks::new(chunk_count),
            metas: filled(chunk_count, Meta::EMPTY),
            queue: Queue::new(eviction),
            terms: Terms::default(),
            bytes,
            is_off: false,
        }
    }

    /// One that keeps nothing.
    pub fn off(hash_seeds: [u64; 4]) -> Self {
        Self { is_off: true, ..Self::new(0, Eviction::Sieve, hash_seeds) }
    }

    /// How long answers are good for something from now on. What is kept already is asked for again when it was to be.
    pub fn set_terms(&mut self, terms: Terms) {
        self.terms = terms;
    }

    /// The entry for a question that is still fresh; marks it as used. Hot path: no allocation, no panic.
    pub fn find(&mut self, key: &CacheKey<'_>, now: Now) -> Option<EntryId> {
        match self.look_up(key, now)? {
            (entry, Freshness::Fresh | Freshness::Due) => Some(entry),
            (_, Freshness::Stale { .. }) => None,
        }
    }

    /// The hash of a key, for the three functions below. On the hot path.
    pub fn hash(&self, key: &CacheKey<'_>) -> KeyHash {
        if self.is_off {
            return KeyHash::default();
        }
        KeyHash(key.fixed().hash(&self.hashing, key.name.as_wire()))
    }

    /// Has the processor fetch where the entry of this hash is noted. On the hot path.
    pub fn prefetch_place(&self, hash: KeyHash) {
        self.index.prefetch(hash.0);
    }

    /// Has the processor fetch the entry that seems to be the one of this hash; false when there is none for sure. On the hot
    /// path.
    pub fn prefetch_entry(&self, hash: KeyHash) -> bool {
        if self.is_off {
            return false;
        }
        let Some(first) = self.index.candidate(hash.0) else { return self.index.may_hold(hash.0) };
        if let Some(meta) = self.metas.get(first as usize) {
            prefetch(meta);
        }
        self.chunks.prefetch(first);
        true
    }

    /// The entry of a key and its hash that is fresh, not due, and judged under `rules`: one that can be served as it is. Marks
    /// it as used; any other is left alone. Hot path: no allocation, no panic.
    pub fn find_good(&mut self, key: &CacheKey<'_>, hash: KeyHash, rules: u64, now: Now) -> Option<EntryId> {
        let first = self.seek_hashed(key, hash)?;
        let meta = self.metas.get(first as usize)?;
        let age_s = meta.head.age_s(now);
        let is_good = meta.head.rules == rules && age_s < meta.head.ttl_s && age_s < meta.refresh_from_s;
        is_good.then(|| {
            self.touch(first);
            EntryId(first)
        })
    }

    /// The entry for a question, and how old it is; marks it as used while it is fresh. One that is good for nothing any more
    /// is removed. Hot path: no allocation, no panic.
    pub fn look_up(&mut self, key: &CacheKey<'_>, now: Now) -> Option<(EntryId, Freshness)> {
        let first = self.seek(key)?;
        let meta = self.metas.get(first as usize)?;
        let age_s = meta.head.age_s(now);
        if age_s < meta.head.ttl_s {
            let is_due = age_s >= meta.refresh_from_s;
            self.touch(first);
            return Some((EntryId(first), if is_due { Freshness::Due } else { Freshness::Fresh }));
        }
        let is_failing = meta.has_failed && age_s < meta.refresh_from_s;
        let is_in_window = age_s - meta.head.ttl_s < self.terms.stale_window_s;
        if is_in_window && meta.head.origin.group().is_some() {
            return Some((EntryId(first), Freshness::Stale { is_failing }));
        }
        self.drop_entry(first);
        None
    }

    /// Whether the upstream is to be asked for this entry anew, though no client waits for it: it is due, it was asked for
    /// often enough if it is still fresh, and nobody has begun. Who is told so has begun.
    pub fn take_refresh(&mut self, entry: EntryId, now: Now) -> bool {
        let Some(meta) = self.meta_mut(entry) else { return false };
        let age_s = meta.head.age_s(now);
        let is_wanted = age_s >= meta.head.ttl_s || meta.hits >= PREFETCH_HITS_MIN;
        if age_s < meta.refresh_from_s || !is_wanted {
            return false;
        }
        // Should the answer never come, or not be kept, the next one may try.
        meta.refresh_from_s = age_s.saturating_add(REFRESH_S_MAX);
        meta.has_failed = false;
        true
    }

    /// Says that the upstreams failed to renew the entry: they are not asked again for so many seconds (RFC 9520).
    pub fn note_failure(&mut self, entry: EntryId, now: Now, failure_ttl_s: u32) {
        if let Some(meta) = self.meta_mut(entry) {
            meta.refresh_from_s = meta.head.age_s(now).saturating_add(failure_ttl_s);
            meta.has_failed = true;
        }
    }

    /// What is kept beside the body.
    pub fn head(&self, entry: EntryId) -> Option<&EntryHead> {
        self.meta(entry).map(|meta| &meta.head)
    }

    /// Says that the entry was judged again under `rules` and holds.
    pub fn confirm(&mut self, entry: EntryId, rules: u64) {
        if let Some(meta) = self.meta_mut(entry) {
            meta.head.rules = rules;
        }
    }

    /// Keeps a body; false when it may be served for no time at all or is larger than an entry may be. Replaces an older
    /// entry of the same key, also when it keeps nothing.
    pub fn keep(&mut self, key: &CacheKey<'_>, head: EntryHead, body: &Body) -> bool {
        if self.is_off {
            return false;
        }
        self.remove(key);
        let places = body.ttl_places();
        let wire = body.as_wire();
        let is_sound = head.ttl_s > 0 && !body.is_too_large();
        if !is_sound || wire.len() > CACHE_ENTRY_BYTES_MAX || places.len() > CACHE_ENTRY_RECORDS_MAX {
            return false;
        }
        let mut place_octets = [0; 2 * CACHE_ENTRY_RECORDS_MAX];
        for (octets, place) in place_octets.as_chunks_mut::<2>().0.iter_mut().zip(places) {
            *octets = place.to_be_bytes();
        }
        let place_octets = place_octets.get(..2 * places.len()).unwrap_or_default();
        self.insert(key, head, body.shape(), place_octets, wire)
    }

    /// Puts an entry in that is not there. `places` are the TTLs' places, two octets each.
    fn insert(&mut self, key: &CacheKey<'_>, head: EntryHead, shape: Shape, places: &[u8], wire: &[u8]) -> bool {
        if self.is_off {
            return false;
        }
        let (fixed, name) = (key.fixed(), key.name.as_wire());
        let bytes = fixed.bytes() + name.len() + places.len() + wire.len();
        while self.chunks.free_count() < chunks_for(bytes) {
            if !self.evict(head.stored) {
                return false;
            }
        }
        let fixed_octets = fixed.octets();
        let fixed_octets = fixed_octets.get(..fixed.bytes()).unwrap_or_default();
        let first = self.chunks.store(bytes, [fixed_octets, name, places, wire].into_iter());
        if let Some(meta) = self.metas.get_mut(first as usize) {
            *meta = Meta {
                head,
                refresh_from_s: self.terms.refresh_from_s(&head),
                body_bytes: wire.len() as u16,
                answers: shape.answers,
                authorities: shape.authorities,
                name_bytes: name.len() as u8,
                name_at: fixed.bytes() as u8,
                ..Meta::EMPTY
            };
        }
        self.link_newest(first);
        self.index.insert(fixed.hash(&self.hashing, name), first);
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
            scope_bits: meta.head.scope_bits,
        };
        self.write_with(entry, head, question, transport, Ttls::Aged(meta.head.age_s(now)), out)
    }

    /// The same for an entry whose time is over (RFC 8767 §4): each TTL is `ttl_s`, and `ede` says what it is. AD is clear:
    /// signatures may have expired as well.
    pub fn write_stale_reply(
        &self,
        entry: EntryId,
        question: &Question,
        transport: Transport,
        ttl_s: u32,
        ede: Ede<'_>,
        out: &mut [u8],
    ) -> usize {
        let Some(meta) = self.meta(entry) else { return 0 };
        let EntryHead { rcode, scope_bits, .. } = meta.head;
        let head = ReplyHead { rcode, authentic_data: false, ede: Some(ede), scope_bits };
        self.write_with(entry, head, question, transport, Ttls::All(ttl_s), out)
    }

    fn write_with(
        &self,
        entry: EntryId,
        head: ReplyHead<'_>,
        question: &Question,
        transport: Transport,
        ttls: Ttls,
        out: &mut [u8],
    ) -> usize {
        let Some(meta) = self.meta(entry) else { return 0 };
        let Meta { answers, authorities, .. } = *meta;
        let shape = Shape { bytes: usize::from(meta.body_bytes), answers, authorities, too_large: false };
        let records = meta.records();
        let mut places = self.chunks.pieces(entry.0);
        places.skip(meta.places_at());
        reply::assemble(question, transport, head, shape, out, |body| {
            let mut wire = places;
            wire.skip(2 * records);
            wire.copy_to(body);
            if ttls == Ttls::Aged(0) {
                return;
            }
            for _ in 0..records {
                let mut place = [0u8; 2];
                places.copy_to(&mut place);
                let place = usize::from(u16::from_be_bytes(place));
                if let Some(octets) = body.get_mut(place..).and_then(|octets| octets.first_chunk_mut::<4>()) {
                    let ttl_s = match ttls {
                        Ttls::Aged(age_s) => u32::from_be_bytes(*octets).saturating_sub(age_s),
                        Ttls::All(ttl_s) => ttl_s,
                    };
                    *octets = ttl_s.to_be_bytes();
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

    /// What there is of it.
    pub fn stats(&self) -> CacheStats {
        let chunks_used = self.chunks.count() - self.chunks.free_count();
        CacheStats {
            entries: self.len(),
            bytes_used: chunks_used * (self.bytes / self.chunks.count().max(1)),
            bytes: self.bytes,
        }
    }

    fn meta(&self, entry: EntryId) -> Option<&Meta> {
        self.metas.get(entry.0 as usize).filter(|meta| meta.name_bytes > 0)
    }

    fn meta_mut(&mut self, entry: EntryId) -> Option<&mut Meta> {
        self.metas.get_mut(entry.0 as usize).filter(|meta| meta.name_bytes > 0)
    }

    fn seek(&self, key: &CacheKey<'_>) -> Option<u32> {
        self.seek_hashed(key, self.hash(key))
    }

    fn seek_hashed(&self, key: &CacheKey<'_>, hash: KeyHash) -> Option<u32> {
        if self.is_off {
            return None;
        }
        let (fixed, name) = (key.fixed(), key.name.as_wire());
        let octets = fixed.octets();
        let octets = octets.get(..fixed.bytes()).unwrap_or_default();
        self.index.find(hash.0, |first| {
            let names_agree =
                self.metas.get(first as usize).map(|meta| usize::from(meta.name_bytes)) == Some(name.len());
            names_agree && self.chunks.begins_with(first, octets, name)
        })
    }

    /// Takes an entry out of index and queue and frees its chunks.
    fn drop_entry(&mut self, first: u32) {
        self.forget_cut(first);
        let hash = stored_hash(&self.hashing, &self.chunks, &self.metas, first);
        self.index.remove(hash, first);
        let Some(meta) = self.metas.get_mut(first as usize) else { return };
        meta.name_bytes = 0;
        self.unlink(first);
        self.chunks.free(first);
    }
}

/// What the TTLs of a reply are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ttls {
    /// Those that were stored, less the seconds since then.
    Aged(u32),
    /// This one.
    All(u32),
}

/// The hash of a [`CacheKey`] under the key of one cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyHash(u64);

/// How full a cache is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Answers.
    pub entries: usize,
    /// Bytes that they take, with their share of the index.
    pub bytes_used: usize,
    /// Bytes taken at start: what it can hold.
    pub bytes: usize,
}

/// Octets of the largest entry.
const ENTRY_OCTETS_MAX: usize = key::FIXED_BYTES_MAX
    + corewall_sharding::name::NAME_BYTES_MAX
    + 2 * CACHE_ENTRY_RECORDS_MAX
    + CACHE_ENTRY_BYTES_MAX;
/// The hash of a stored entry's key.
fn stored_hash(hashing: &RandomState, chunks: &Chunks, metas: &[Meta], first: u32) -> u64 {
    let name_bytes = metas.get(first as usize).map_or(0, |meta| usize::from(meta.name_bytes));
    let key = StoredKey::read(chunks.pieces(first), name_bytes);
    key.fixed.hash(hashing, key.name())
}

#[cfg(test)]
mod tests;
