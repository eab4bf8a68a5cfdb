//! From a name to its shard and to its keys in the filters.
//!
//! One keyed hash serves both. It reads labels from the right, so a single pass over a name yields the hash of each of its
//! suffixes. The key is drawn once per installation: who makes names cannot aim them at one shard or at false positives.
//! The hash is part of the store's format: it must never change for a given format version.

use std::hash::Hasher;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use crate::name::{LABELS_MAX, NAME_BYTES_MAX, Name};

/// Key of the name hash, drawn per installation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub [u8; 16]);

/// Hash of a name under a [`HashKey`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NameHash(pub u64);

/// Told apart in the filter: rules on the name itself are only worth a look for that very name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Exact rules.
    Itself,
    /// Subtree and below rules.
    Under,
}

/// Which numbers of labels have subtree or below rules: suffixes of other lengths need no look. Written as a hexadecimal
/// number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SubtreeDepths(
    /// Bit `n` set: some name of `n` labels has such a rule.
    pub u128,
);

impl SubtreeDepths {
    /// No such rules.
    pub const NONE: SubtreeDepths = SubtreeDepths(0);
    /// Nothing is known.
    pub const ALL: SubtreeDepths = SubtreeDepths(u128::MAX);

    /// Notes such a rule on a name of so many labels.
    pub fn add(&mut self, labels: usize) {
        self.0 |= 1 << labels.min(LABELS_MAX);
    }

    /// Whether a suffix of so many labels may have such a rule.
    pub fn may_hold(self, labels: usize) -> bool {
        self.0 & 1 << labels.min(LABELS_MAX) != 0
    }
}

impl Default for SubtreeDepths {
    fn default() -> Self {
        Self::ALL
    }
}

impl From<SubtreeDepths> for String {
    fn from(depths: SubtreeDepths) -> String {
        format!("{:x}", depths.0)
    }
}

impl TryFrom<String> for SubtreeDepths {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&text, 16).map(Self)
    }
}

impl NameHash {
    /// The key under which a filter holds a rule of this name and reach.
    pub fn filter_key(self, reach: Reach) -> u64 {
        match reach {
            Reach::Itself => self.0,
            // Any constant that is not zero keeps the two populations apart.
            Reach::Under => self.0 ^ 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// The shard of this name among `shards`: by the high bits, which leaves the low ones to the filters.
    pub fn shard(self, shards: u16) -> u16 {
        ((u128::from(self.0) * u128::from(shards)) >> 64) as u16
    }
}

/// Hashes of all suffixes of one name, indexed by their number of labels; index 0 is the root.
#[derive(Clone)]
pub struct SuffixHashes {
    labels: u8,
    hashes: [NameHash; LABELS_MAX + 1],
}

impl SuffixHashes {
    /// No name hashed yet.
    pub const EMPTY: SuffixHashes = SuffixHashes { labels: 0, hashes: [NameHash(0); LABELS_MAX + 1] };

    /// Replaces the hashes by those of `name`.
    pub fn compute(&mut self, key: HashKey, name: &Name) {
        let wire = name.as_wire();
        let mut starts = [0u8; LABELS_MAX + 1];
        let mut count = 0usize;
        let mut at = 0usize;
        while let Some(&len) = wire.get(at) {
            if len == 0 {
                break;
            }
            if let Some(start) = starts.get_mut(count) {
                *start = at as u8;
            }
            count += 1;
            at += 1 + usize::from(len);
        }
        let mut end = wire.len().saturating_sub(1);
        let mut state = SipHasher13::new_with_key(&key.0);
        self.labels = count as u8;
        if let Some(root) = self.hashes.first_mut() {
            *root = NameHash(state.finish());
        }
        for (place, &start) in self.hashes.iter_mut().skip(1).zip(starts.iter().take(count).rev()) {
            // The length octet in front of each label keeps `ab.c` and `a.bc` apart.
            state.write(wire.get(usize::from(start)..end).unwrap_or_default());
            *place = NameHash(state.finish());
            end = usize::from(start);
        }
    }

    /// The hash of the suffix of `labels` labels.
    pub fn suffix(&self, labels: usize) -> NameHash {
        self.hashes.get(labels).copied().unwrap_or_default()
    }

    /// Labels of the whole name.
    pub fn label_count(&self) -> usize {
        usize::from(self.labels)
    }

    /// The hash of the whole name.
    pub fn whole(&self) -> NameHash {
        self.suffix(self.label_count())
    }
}

/// The hash of `name` alone.
pub fn hash(key: HashKey, name: &Name) -> NameHash {
    let mut hashes = SuffixHashes::EMPTY;
    hashes.compute(key, name);
    hashes.whole()
}

/// Hashes whole names and nothing else, for a build that does it by the million: the labels are put in order first and hashed
/// at once.
#[derive(Clone)]
pub(crate) struct WholeHasher {
    keyed: SipHasher13,
}

impl WholeHasher {
    pub(crate) fn new(key: HashKey) -> WholeHasher {
        WholeHasher { keyed: SipHasher13::new_with_key(&key.0) }
    }

    /// The hash of `name`.
    pub(crate) fn hash(&self, name: &Name) -> NameHash {
        let mut reversed = [0; NAME_BYTES_MAX];
        let mut start = NAME_BYTES_MAX;
        for label in name.labels() {
            start = put_before(&mut reversed, start, label);
        }
        NameHash(self.keyed.hash(&reversed[start..]))
    }

    /// The hash and the number of labels of a name in presentation format; none when it is no name.
    pub(crate) fn hash_text(&self, text: &str) -> Option<(NameHash, usize)> {
        if text.is_empty() {
            return Some((self.hash(&Name::ROOT), 0));
        }
        if text.len() >= NAME_BYTES_MAX - 1 || text.contains('\\') {
            let name = Name::from_text(text).ok()?;
            return Some((self.hash(&name), name.label_count()));
        }
        let mut reversed = [0; NAME_BYTES_MAX];
        let (mut start, mut labels) = (NAME_BYTES_MAX, 0);
        for label in text.as_bytes().split(|&octet| octet == b'.') {
            start = put_before(&mut reversed, start, label);
            labels += 1;
        }
        Some((NameHash(self.keyed.hash(&reversed[start..])), labels))
    }
}

/// Puts a label with its length octet before what begins at `start`; gives where that begins. All labels of a name fit.
fn put_before(reversed: &mut [u8; NAME_BYTES_MAX], start: usize, label: &[u8]) -> usize {
    let at = start - label.len() - 1;
    reversed[at] = label.len() as u8;
    reversed[at + 1..start].copy_from_slice(label);
    at
}

/// The hash of the text of a rule that has no name: a pattern, or a rewrite's source.
pub fn hash_text(key: HashKey, text: &str) -> NameHash {
    let mut state = SipHasher13::new_with_key(&key.0);
    state.write(text.as_bytes());
    NameHash(state.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suffix_hashes_as_the_name_it_is() {
        let key = HashKey(*b"0123456789abcdef");
        let name: Name = "a.bc.example.com".parse().unwrap();
        let mut hashes = SuffixHashes::EMPTY;
        hashes.compute(key, &name);
        for labels in 0..=4 {
            assert_eq!(hashes.suffix(labels), hash(key, &name.suffix(labels)));
        }
        assert_ne!(hash(key, &"ab.c".parse().unwrap()), hash(key, &"a.bc".parse().unwrap()));
        assert_ne!(hash(key, &name), hash(HashKey([0; 16]), &name));
    }

    #[test]
    fn whole_names_hash_the_same_by_wire_text_and_suffix() {
        let key = HashKey(*b"0123456789abcdef");
        let hasher = WholeHasher::new(key);
        for text in ["com", "a.bc.example.com", r"a\.b\032c.example", &"a.".repeat(127), &"abcdefg.".repeat(31)] {
            let name = Name::from_text(text).unwrap();
            assert_eq!(hasher.hash(&name), hash(key, &name));
            let of_text = hasher.hash_text(name.to_text().as_str());
            assert_eq!(of_text, Some((hash(key, &name), name.label_count())));
        }
        assert_eq!(hasher.hash_text(""), Some((hash(key, &Name::ROOT), 0)));
        assert_eq!(hasher.hash_text(r"a\"), None);
    }

    #[test]
    fn the_hash_is_the_format_and_does_not_move() {
        let name: Name = "ads.example.com".parse().unwrap();
        assert_eq!(hash(HashKey([7; 16]), &name).0, PINNED);
    }

    const PINNED: u64 = 15_606_349_399_728_625_073;

    #[test]
    fn shards_share_names_evenly() {
        let key = HashKey([1; 16]);
        let mut counts = [0u32; 16];
        for number in 0..16_000 {
            let name = Name::from_text(&format!("host{number}.example")).unwrap();
            counts[usize::from(hash(key, &name).shard(16))] += 1;
        }
        assert!(counts.iter().all(|&count| (800..1_200).contains(&count)), "{counts:?}");
    }
}
