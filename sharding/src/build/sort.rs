//! Sorting what a collector holds, in place.
//!
//! First by shard, each entry moved once to where it belongs; then within a shard by key, class and arrival. Keys are compared eight
//! octets at a time: entries with equal octets form a group, which is sorted by the next eight. So each octet of a text is
//! fetched once, not once a comparison, which counts where names share their fronts.

use std::ops::Range;

/// Octets of a key that are compared at a time.
const HEAD_BYTES: usize = 8;
/// Groups of so few entries are sorted by comparing the rest of their texts.
const SMALL: usize = 12;

/// A rule by name: 24 bytes beside its key.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Entry {
    /// Eight octets of the key, the next to be compared.
    pub(super) head: u64,
    /// Where the key begins; also the order of arrival.
    pub(super) at: u32,
    /// The collector's number of the class, twice; plus one when a target follows the key.
    pub(super) class: u32,
    pub(super) len: u16,
    pub(super) shard: u16,
}

impl Entry {
    pub(super) fn key<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        let at = self.at as usize;
        &text[at..at + usize::from(self.len)]
    }

    fn rest<'a>(&self, text: &'a [u8], depth: usize) -> &'a [u8] {
        self.key(text).get(depth..).unwrap_or_default()
    }
}

/// Orders as the keys do, up to their first eight octets. A zero octet is only ever between two others in a key, so a key that
/// has ended sorts before every longer one.
pub(super) fn head(key: &[u8]) -> u64 {
    if let Some(first) = key.first_chunk() {
        return u64::from_be_bytes(*first);
    }
    let mut octets = [0; HEAD_BYTES];
    octets[..key.len()].copy_from_slice(key);
    u64::from_be_bytes(octets)
}

/// Sorts by shard, key, class and arrival; gives where each shard lies.
pub(super) fn sort(entries: &mut [Entry], text: &[u8], shards: u16) -> Vec<Range<usize>> {
    let places = partition(entries, shards);
    for place in &places {
        sort_group(&mut entries[place.clone()], text, 0);
    }
    places
}

/// Moves each entry to its shard's place, following the cycles of the permutation: no second array is needed.
fn partition(entries: &mut [Entry], shards: u16) -> Vec<Range<usize>> {
    let mut counts = vec![0usize; usize::from(shards)];
    entries.iter().for_each(|entry| counts[usize::from(entry.shard)] += 1);
    let mut start = 0;
    let places: Vec<_> = counts
        .iter()
        .map(|count| {
            start += count;
            start - count..start
        })
        .collect();
    let mut next: Vec<usize> = places.iter().map(|place| place.start).collect();
    for (shard, place) in places.iter().enumerate() {
        while next[shard] < place.end {
            let at = next[shard];
            let home = usize::from(entries[at].shard);
            entries.swap(at, next[home]);
            next[home] += 1;
        }
    }
    places
}

/// Sorts entries whose keys agree in their first `depth` octets and whose heads are the eight after them.
fn sort_group(entries: &mut [Entry], text: &[u8], depth: usize) {
    if entries.len() <= SMALL {
        return entries.sort_unstable_by(|a, b| {
            let by_key = a.head.cmp(&b.head).then_with(|| a.rest(text, depth).cmp(b.rest(text, depth)));
            by_key.then(a.class.cmp(&b.class)).then(a.at.cmp(&b.at))
        });
    }
    entries.sort_unstable_by_key(|entry| entry.head);
    let deeper = depth + HEAD_BYTES;
    for group in entries.chunk_by_mut(|a, b| a.head == b.head) {
        if group.len() == 1 {
            continue;
        }
        if group.iter().all(|entry| usize::from(entry.len) <= deeper) {
            group.sort_unstable_by_key(|entry| (entry.class, entry.at));
            continue;
        }
        for entry in &mut *group {
            entry.head = head(entry.rest(text, deeper));
        }
        sort_group(group, text, deeper);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_out_by_shard_key_class_and_arrival() {
        let mut state = 7u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for (count, words) in [(0, 1), (1, 1), (10, 3), (5_000, 40), (5_000, 4_000)] {
            let (mut text, mut entries) = (Vec::new(), Vec::new());
            for _ in 0..count {
                let word = random(words);
                let key = match word % 4 {
                    0 => String::new(),
                    1 => format!("com\0example{}\0www", word % 97),
                    2 => format!("com\0example{}", word % 97),
                    _ => format!("{:x}", word * 7_919).repeat(1 + (word % 9) as usize),
                };
                let entry = Entry {
                    head: head(key.as_bytes()),
                    at: text.len() as u32,
                    class: random(6) as u32,
                    len: key.len() as u16,
                    shard: random(5) as u16,
                };
                text.extend_from_slice(key.as_bytes());
                // An arrival must be told from the next one though the key is empty.
                text.push(b'!');
                entries.push(entry);
            }
            let told = |entry: &Entry| (entry.shard, entry.key(&text).to_vec(), entry.class, entry.at);
            let mut expected: Vec<_> = entries.iter().map(told).collect();
            expected.sort();
            let places = sort(&mut entries, &text, 5);
            assert_eq!(entries.iter().map(told).collect::<Vec<_>>(), expected);
            assert_eq!(places.len(), 5);
            for (shard, place) in places.iter().enumerate() {
                assert!(entries[place.clone()].iter().all(|entry| usize::from(entry.shard) == shard));
            }
        }
    }
}
