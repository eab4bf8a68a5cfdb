//! Popular answers that outlive the process: what is given out at a stop, and taken in at a start.
//!
//! Invariant: what is taken in is served only after the rules of now have judged it, and never longer than its TTL allowed, the
//! time between stop and start included. Policies and upstream groups go by name, for their numbers are the process's own.

use corewall_sharding::name::Name;
use serde::{Deserialize, Serialize};

use super::key::StoredKey;
use super::{Cache, CacheKey, EntryHead, Origin};
use crate::decide::Now;
use crate::decide::reply::Shape;
use crate::decide::settings::PolicyId;
use crate::decide::upstream::GroupId;
use crate::limits::{CACHE_ENTRY_BYTES_MAX, CACHE_ENTRY_RECORDS_MAX};

/// Saved answers, the most used first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedCache {
    /// Names of policies, which the answers refer to by their places.
    pub policies: Vec<String>,
    /// The same of upstream groups.
    pub groups: Vec<String>,
    /// The answers.
    pub entries: Vec<SavedEntry>,
}

/// An upstream's answer as it was when it was saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedEntry {
    /// Its policy, in the cache that gave it a number, saved a place in [`SavedCache::policies`].
    pub policy: u16,
    /// The same of its group.
    pub group: u32,
    name: Vec<u8>,
    qtype: u16,
    qclass: u16,
    dnssec_ok: bool,
    checking_disabled: bool,
    subnet: u64,
    chain: bool,
    rcode: u16,
    authentic_data: bool,
    /// How often it was asked for again, up to 255: what the next process has of it, should it end soon.
    hits: u8,
    /// Seconds that were left.
    ttl_s: u32,
    answers: u16,
    authorities: u16,
    /// Places of the TTLs, two octets each.
    places: Vec<u8>,
    /// With the TTLs that were left.
    body: Vec<u8>,
}

/// Hits from which on an answer is of the first, second and third class.
const CLASSES: [u8; 3] = [16, 4, 1];

impl Cache {
    /// Gives out the answers of upstreams that are fresh, were asked for again and were judged under `rules_min` or later, at
    /// most `limit` and the most used first. Walks the whole cache: for a stop alone.
    pub fn export(&self, now: Now, limit: usize, rules_min: u64, give: &mut dyn FnMut(SavedEntry)) {
        let (mut left, mut below) = (limit, u16::from(u8::MAX) + 1);
        for class in CLASSES {
            let mut at = self.queue.newest;
            while let Some(meta) = self.metas.get(at as usize).filter(|_| left > 0) {
                let is_of_class = meta.hits >= class && u16::from(meta.hits) < below;
                let is_as_now = meta.head.rules >= rules_min;
                if is_of_class
                    && is_as_now
                    && let Some(entry) = self.saved(at, now)
                {
                    give(entry);
                    left -= 1;
                }
                at = meta.older;
            }
            below = u16::from(class);
        }
    }

    fn saved(&self, first: u32, now: Now) -> Option<SavedEntry> {
        let meta = self.metas.get(first as usize)?;
        let EntryHead { origin: Origin::Upstream { group, chain }, rcode, authentic_data, ede: None, .. } = meta.head
        else {
            return None;
        };
        let age_s = meta.head.age_s(now);
        let ttl_s = meta.head.ttl_s.checked_sub(age_s).filter(|ttl_s| *ttl_s > 0)?;
        let key = StoredKey::read(self.chunks.pieces(first), usize::from(meta.name_bytes));
        let mut octets = self.chunks.pieces(first);
        octets.skip(meta.places_at());
        let mut places = vec![0; 2 * meta.records()];
        octets.copy_to(&mut places);
        let mut body = vec![0; usize::from(meta.body_bytes)];
        octets.copy_to(&mut body);
        age(&places, &mut body, age_s);
        Some(SavedEntry {
            policy: key.fixed.policy(),
            group,
            name: key.name().to_vec(),
            qtype: key.fixed.qtype(),
            qclass: key.fixed.qclass(),
            dnssec_ok: key.fixed.dnssec_ok(),
            checking_disabled: key.fixed.checking_disabled(),
            subnet: key.fixed.subnet(),
            chain,
            rcode,
            authentic_data,
            hits: meta.hits,
            ttl_s,
            answers: meta.answers,
            authorities: meta.authorities,
            places,
            body,
        })
    }

    /// Takes an answer in that was saved `elapsed_s` seconds ago, as one that other rules have judged. `policy` and `group` are
    /// the numbers of now; `cuts` says whether an NXDOMAIN of the group holds for names below. False when its time is over or
    /// it is no answer.
    pub fn import(
        &mut self,
        now: Now,
        elapsed_s: u32,
        mut entry: SavedEntry,
        policy: PolicyId,
        group: GroupId,
        cuts: bool,
    ) -> bool {
        let Ok(name) = Name::from_wire(&entry.name) else { return false };
        let records = usize::from(entry.answers) + usize::from(entry.authorities);
        let is_whole = name.as_wire().len() == entry.name.len()
            && entry.places.len() == 2 * records
            && records <= CACHE_ENTRY_RECORDS_MAX
            && entry.body.len() <= CACHE_ENTRY_BYTES_MAX;
        let ttl_s = entry.ttl_s.saturating_sub(elapsed_s);
        if !is_whole || ttl_s == 0 {
            return false;
        }
        age(&entry.places, &mut entry.body, elapsed_s);
        let SavedEntry { qtype, qclass, dnssec_ok, checking_disabled, subnet, rcode, authentic_data, chain, .. } =
            entry;
        let key = CacheKey { policy, name: &name, qtype, qclass, dnssec_ok, checking_disabled, subnet };
        let origin = Origin::Upstream { group, chain };
        // Whether it was for all networks is not told, so that it is not for clients of whom one is.
        let head = EntryHead {
            origin,
            rcode,
            authentic_data,
            ede: None,
            rules: 0,
            by_name_alone: false,
            stored: now,
            ttl_s,
            scope_bits: None,
        };
        let (answers, authorities) = (entry.answers, entry.authorities);
        let shape = Shape { bytes: entry.body.len(), answers, authorities, too_large: false };
        self.remove(&key);
        let is_kept = self.insert(&key, head, shape, &entry.places, &entry.body);
        if let Some(meta) = self.seek(&key).and_then(|first| self.metas.get_mut(first as usize)) {
            meta.hits = entry.hits;
        }
        if is_kept && cuts && key.subnet == 0 {
            self.cut_at(&key);
        }
        is_kept
    }
}

/// Counts the TTLs of a body down.
fn age(places: &[u8], body: &mut [u8], seconds: u32) {
    for place in places.as_chunks::<2>().0 {
        let place = usize::from(u16::from_be_bytes(*place));
        if let Some(ttl_s) = body.get_mut(place..).and_then(|octets| octets.first_chunk_mut::<4>()) {
            *ttl_s = u32::from_be_bytes(*ttl_s).saturating_sub(seconds).to_be_bytes();
        }
    }
}
