//! Stage 5, filter: which suffixes of a name the store may know, told by the filters in memory.

use corewall_sharding::name::{LABELS_MAX, Name, NameText};
use corewall_sharding::route::{NameHash, SuffixHashes};

use super::rulebook::RuleBook;

/// One row to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookupKey<'a> {
    /// Labels of the suffix; the name's own number for the name itself.
    pub labels: u8,
    /// Where it would be.
    pub shard: u16,
    /// The suffix's hash.
    pub hash: NameHash,
    /// The suffix as the shards write it.
    pub text: &'a str,
}

/// A name on its way through filters and store: the suffixes that may be listed, the most specific first.
pub struct Lookup {
    text: NameText,
    hashes: SuffixHashes,
    shards: u16,
    /// Which copy of the filters is asked; see [`corewall_sharding::filters::Filters`].
    place: usize,
    /// Bit `n` set: the suffix of `n` labels may be listed.
    wanted: u128,
}

const _: () = assert!(LABELS_MAX < u128::BITS as usize, "a bit for each suffix");

impl Lookup {
    /// Nothing to look up.
    pub fn new() -> Self {
        Self { text: NameText::EMPTY, hashes: SuffixHashes::EMPTY, shards: 1, place: 0, wanted: 0 }
    }

    /// Has the copy of the filters asked that lies at this place.
    pub fn set_place(&mut self, place: usize) {
        self.place = place;
    }

    /// Asks the filters about every suffix of `name` but the root, whose rules are at hand; true when the store must be
    /// read. On the hot path.
    pub fn probe(&mut self, rules: &RuleBook, name: &Name) -> bool {
        self.hash(rules, name);
        self.compare(rules, name)
    }

    /// Has what [`Self::compare`] will read of the filters fetched: for each name of a batch, before the first is compared. On the
    /// hot path.
    pub fn begin(&mut self, rules: &RuleBook, name: &Name) {
        self.hash(rules, name);
        if !rules.is_empty() {
            rules.filters().prefetch(self.place, &self.hashes);
        }
    }

    fn hash(&mut self, rules: &RuleBook, name: &Name) {
        if rules.live().has_names() || !rules.is_empty() {
            self.hashes.compute(rules.key(), name);
        }
    }

    /// What [`Self::probe`] does, after [`Self::begin`] with the same rules and name. On the hot path.
    pub fn compare(&mut self, rules: &RuleBook, name: &Name) -> bool {
        self.wanted = 0;
        self.shards = rules.shard_count();
        if rules.live().has_names() || !rules.is_empty() {
            self.wanted = rules.filters().probe(self.place, &self.hashes);
        }
        // The text costs a pass over the name: only when store, patterns or an alias on the root will read it.
        if self.wanted != 0 || rules.has_patterns() || rules.has_root_rules() {
            self.text.write(name);
        }
        self.wanted != 0
    }

    /// Whether there are rows to look for.
    pub fn must_read(&self) -> bool {
        self.wanted != 0
    }

    /// The rows to look for, most specific first.
    pub fn keys(&self) -> impl Iterator<Item = LookupKey<'_>> {
        self.wanted().map(|(labels, shard, hash)| {
            let text = self.text.suffix(labels);
            LookupKey { labels: labels as u8, shard, hash, text }
        })
    }

    /// Shard and hash of each of these.
    pub fn hashes(&self) -> impl Iterator<Item = (u16, NameHash)> {
        self.wanted().map(|(_, shard, hash)| (shard, hash))
    }

    fn wanted(&self) -> impl Iterator<Item = (usize, u16, NameHash)> {
        let mut left = self.wanted;
        std::iter::from_fn(move || {
            let labels = left.checked_ilog2()?;
            left &= !(1 << labels);
            let hash = self.hashes.suffix(labels as usize);
            Some((labels as usize, hash.shard(self.shards), hash))
        })
    }

    /// The shard of the suffix of `labels` labels.
    pub fn shard_of_suffix(&self, labels: usize) -> u16 {
        self.hashes.suffix(labels).shard(self.shards)
    }

    /// The hash of the suffix of `labels` labels, if the name's hashes were needed.
    pub fn hash_of_suffix(&self, labels: usize) -> NameHash {
        self.hashes.suffix(labels)
    }

    /// The text of the suffix of `labels` labels.
    pub fn suffix_text(&self, labels: usize) -> &str {
        self.text.suffix(labels)
    }

    /// The whole name as patterns see it: lower case, without the final dot.
    pub fn text(&self) -> &str {
        self.text.as_str()
    }
}

impl Default for Lookup {
    fn default() -> Self {
        Self::new()
    }
}
