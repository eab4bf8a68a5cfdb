//! Who goes first when room is needed.
//!
//! Entries stand in one queue. By **SIEVE** (Zhang et al., NSDI 2024) it is in the order of arrival: a hit only marks its
//! entry, and a hand that moves from the oldest to the newest evicts what is not marked and takes the mark off what is.
//! Against a list in order of use it writes to no neighbours at a hit (three cache misses fewer), and a flood of names that are
//! asked once (random subdomains) evicts itself, not what is in use. By **LRU** a hit moves its entry to the newest end, and the
//! oldest one goes. `bench/README.md` has the hit rates of both.

use super::Cache;
use super::chunks::NONE;
use crate::decide::Now;
use crate::limits::CACHE_EVICTION_STEPS_MAX;

/// Which entry goes when room is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Eviction {
    /// One that was not asked for since it was last looked at.
    #[default]
    Sieve,
    /// The one that was not asked for for the longest time.
    Lru,
}

/// The ends of the queue, and the hand.
pub(super) struct Queue {
    pub(super) eviction: Eviction,
    pub(super) newest: u32,
    pub(super) oldest: u32,
    pub(super) hand: u32,
}

impl Queue {
    pub(super) fn new(eviction: Eviction) -> Self {
        Self { eviction, newest: NONE, oldest: NONE, hand: NONE }
    }
}

impl Cache {
    /// A hit. On the hot path.
    pub(super) fn touch(&mut self, first: u32) {
        if let Some(meta) = self.metas.get_mut(first as usize) {
            meta.is_used = true;
            meta.hits = meta.hits.saturating_add(1);
        }
        if self.queue.eviction == Eviction::Lru && self.queue.newest != first {
            self.unlink(first);
            self.link_newest(first);
        }
    }

    /// Puts an entry at the newest end.
    pub(super) fn link_newest(&mut self, first: u32) {
        let newest = self.queue.newest;
        if let Some(meta) = self.metas.get_mut(first as usize) {
            (meta.newer, meta.older) = (NONE, newest);
        }
        match self.metas.get_mut(newest as usize) {
            Some(newest) => newest.newer = first,
            None => self.queue.oldest = first,
        }
        self.queue.newest = first;
    }

    /// Takes an entry out of the queue.
    pub(super) fn unlink(&mut self, first: u32) {
        let Some(meta) = self.metas.get(first as usize) else { return };
        let (newer, older) = (meta.newer, meta.older);
        if self.queue.hand == first {
            self.queue.hand = newer;
        }
        match self.metas.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => self.queue.newest = older,
        }
        match self.metas.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => self.queue.oldest = newer,
        }
    }

    /// Evicts one entry; false when there is none.
    pub(super) fn evict(&mut self, now: Now) -> bool {
        if self.queue.eviction == Eviction::Lru {
            let oldest = self.queue.oldest;
            self.drop_entry(oldest);
            return oldest != NONE;
        }
        for step in 1..=CACHE_EVICTION_STEPS_MAX {
            // Past the newest the hand begins anew at the oldest.
            let candidate = if self.queue.hand == NONE { self.queue.oldest } else { self.queue.hand };
            let Some(meta) = self.metas.get_mut(candidate as usize) else { return false };
            self.queue.hand = meta.newer;
            // What has expired is kept for the day that the upstreams fail, while there is room. And a long run of used
            // entries must not hold up the query: the last one looked at goes, used or not.
            let has_expired = meta.head.age_s(now) >= meta.head.ttl_s;
            if !meta.is_used || has_expired || step == CACHE_EVICTION_STEPS_MAX {
                self.drop_entry(candidate);
                return true;
            }
            meta.is_used = false;
        }
        false
    }
}
