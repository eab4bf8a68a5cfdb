//! NXDOMAIN cuts (RFC 8020): a name that does not exist has no names below it.
//!
//! An index of the entries that say so, by name, policy and upstream group but not by type. It points to the entries
//! themselves and holds no copy; half its places stay free, so that it never grows (see [`super::Cache`]).

use ahash::RandomState;
use corewall_sharding::name::{LABELS_MAX, Name};
use hashbrown::HashTable;

use super::chunks::Chunks;
use super::entry::Meta;
use super::key::{CacheKey, Fixed, StoredKey};
use super::{Cache, EntryId, Origin};
use crate::decide::Now;
use crate::decide::upstream::GroupId;
use crate::decide::wire::rcode;

/// The index.
pub(super) struct Cuts {
    index: HashTable<u32>,
    /// How many there are; past it a name that does not exist is known for itself only.
    capacity: usize,
    /// How many there are by the number of labels: most lengths of names have none, and cost no look-up.
    by_labels: [u32; LABELS_MAX + 1],
}

impl Cuts {
    /// Room for one cut in each two chunks: a flood of names that do not exist makes nothing but cuts, each of no use.
    pub(super) fn new(chunk_count: usize) -> Self {
        let capacity = chunk_count / 2;
        Self { index: HashTable::with_capacity(2 * capacity), capacity, by_labels: [0; LABELS_MAX + 1] }
    }

    /// Bytes of memory taken.
    pub(super) fn bytes(&self) -> usize {
        self.index.allocation_size()
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.index.len()
    }
}

/// Octets of this index for each chunk: hashbrown takes 5 for each place, fills 7 of 8, and rounds up to a power of two.
pub(super) const CUT_BYTES_PER_ENTRY: usize = 12;

fn cut_hash(hashing: &RandomState, fixed: Fixed, group: GroupId, name: &[u8]) -> u64 {
    // The group is spread over the hash, for most cuts are of one group anyway.
    fixed.of_all_types().hash(hashing, name) ^ u64::from(group).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn stored_cut_hash(hashing: &RandomState, chunks: &Chunks, metas: &[Meta], first: u32) -> u64 {
    let Some(meta) = metas.get(first as usize) else { return 0 };
    let key = StoredKey::read(chunks.pieces(first), usize::from(meta.name_bytes));
    cut_hash(hashing, key.fixed, meta.head.origin.group().unwrap_or_default(), key.name())
}

impl Cache {
    /// Lets the entry of this key, if it is an upstream's NXDOMAIN for the very name, answer for all types and all names
    /// below. One at the end of a CNAME chain speaks of the chain's end and not of the name that was asked.
    pub fn cut_at(&mut self, key: &CacheKey<'_>) {
        let Some(first) = self.seek(key) else { return };
        let Some(meta) = self.metas.get(first as usize) else { return };
        let Origin::Upstream { group, chain: false } = meta.head.origin else { return };
        let is_denial = meta.head.rcode == rcode::NXDOMAIN && meta.answers == 0;
        let labels = key.name.label_count();
        // The root name exists.
        if !is_denial || meta.is_cut || labels == 0 {
            return;
        }
        if let Some(older) = self.seek_cut(key.fixed(), key.name.as_wire(), group) {
            self.forget_cut(older);
        }
        if self.cuts.index.len() >= self.cuts.capacity {
            return;
        }
        let hash = cut_hash(&self.hashing, key.fixed(), group, key.name.as_wire());
        let Self { hashing, cuts, chunks, metas, .. } = self;
        cuts.index.insert_unique(hash, first, |held| stored_cut_hash(hashing, chunks, metas, *held));
        if let Some(count) = cuts.by_labels.get_mut(labels) {
            *count += 1;
        }
        if let Some(meta) = metas.get_mut(first as usize) {
            meta.is_cut = true;
        }
    }

    /// The fresh NXDOMAIN of this group at `key.name` or above it, whatever its type, and the name that it is for.
    pub fn find_cut(&mut self, key: &CacheKey<'_>, group: GroupId, now: Now) -> Option<(EntryId, Name)> {
        if self.cuts.index.is_empty() {
            return None;
        }
        for labels in (1..=key.name.label_count()).rev() {
            if self.cuts.by_labels.get(labels).is_none_or(|count| *count == 0) {
                continue;
            }
            let name = key.name.suffix_wire(labels);
            let Some(first) = self.seek_cut(key.fixed(), name, group) else { continue };
            let is_fresh = self.metas.get(first as usize).is_some_and(|meta| meta.head.age_s(now) < meta.head.ttl_s);
            if is_fresh {
                self.touch(first);
                return Some((EntryId(first), key.name.suffix(labels)));
            }
        }
        None
    }

    /// Takes an entry that is about to go, or to be replaced, out of the index.
    pub(super) fn forget_cut(&mut self, first: u32) {
        let Some(meta) = self.metas.get_mut(first as usize) else { return };
        if !std::mem::take(&mut meta.is_cut) {
            return;
        }
        let name_bytes = usize::from(meta.name_bytes);
        let hash = stored_cut_hash(&self.hashing, &self.chunks, &self.metas, first);
        if let Ok(place) = self.cuts.index.find_entry(hash, |held| *held == first) {
            place.remove();
        }
        let key = StoredKey::read(self.chunks.pieces(first), name_bytes);
        let labels = Name::from_wire(key.name()).map_or(0, |name| name.label_count());
        if let Some(count) = self.cuts.by_labels.get_mut(labels) {
            *count = count.saturating_sub(1);
        }
    }

    fn seek_cut(&self, fixed: Fixed, name: &[u8], group: GroupId) -> Option<u32> {
        let fixed = fixed.of_all_types();
        let hash = cut_hash(&self.hashing, fixed, group, name);
        let is_equal = |first: &u32| {
            let Some(meta) = self.metas.get(*first as usize) else { return false };
            if usize::from(meta.name_bytes) != name.len() || meta.head.origin.group() != Some(group) {
                return false;
            }
            let key = StoredKey::read(self.chunks.pieces(*first), name.len());
            key.fixed.of_all_types() == fixed && key.name() == name
        };
        self.cuts.index.find(hash, is_equal).copied()
    }
}
