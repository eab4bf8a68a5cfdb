//! Stages 3 and 10, cache and keep: answers of this worker in a fixed amount of memory.

use corewall_sharding::name::Name;

use super::question::Question;
use super::reply::Body;
use super::settings::PolicyId;
use super::upstream::GroupId;
use super::{Now, Transport};

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

/// How a cached answer came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// By a rule: true until the rules change, never ages.
    Rule,
    /// From this upstream group; `judged` tells whether only the asked name was judged, so that judging it again
    /// suffices after the rules changed.
    Upstream { group: GroupId, chain: bool },
    /// A failure to resolve (RFC 9520).
    Failure,
}

/// What is kept beside the body.
#[derive(Clone, Copy, Debug)]
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

/// A place in the cache, valid until the next insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryId(u32);

/// The cache of one worker: least recently used goes first, memory fixed at start.
pub struct Cache {}

impl Cache {
    /// All memory is taken here.
    pub fn new(_bytes: usize, _hash_seeds: [u64; 4]) -> Self {
        todo!()
    }
    /// The entry for a question that is still fresh; makes it the most recently used.
    pub fn find(&mut self, _key: &CacheKey<'_>, _now: Now) -> Option<EntryId> {
        todo!()
    }
    /// What is kept beside the body.
    pub fn head(&self, _entry: EntryId) -> Option<&EntryHead> {
        todo!()
    }
    /// Says that the entry was judged again under `rules` and holds.
    pub fn confirm(&mut self, _entry: EntryId, _rules: u64) {
        todo!()
    }
    /// Keeps a body; false when it is larger than an entry may be. Replaces an older entry of the same key.
    pub fn keep(&mut self, _key: &CacheKey<'_>, _head: EntryHead, _body: &Body) -> bool {
        todo!()
    }
    /// Forgets one entry.
    pub fn remove(&mut self, _key: &CacheKey<'_>) {
        todo!()
    }
    /// Writes the whole reply to `question` from an entry: id, flags, letter case and aged TTLs patched into a copy.
    pub fn write_reply(
        &self,
        _entry: EntryId,
        _now: Now,
        _question: &Question,
        _transport: Transport,
        _ede_text: &str,
        _out: &mut [u8],
    ) -> usize {
        todo!()
    }
    /// Entries held.
    pub fn len(&self) -> usize {
        todo!()
    }
    /// Bytes of memory taken, constant.
    pub fn bytes(&self) -> usize {
        todo!()
    }
}
