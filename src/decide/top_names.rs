//! Which names are asked for most, from a sample of the questions: what a build compares its rules by before it publishes them.
//!
//! Names share sets of [`WAYS`] places by a keyed hash. One that is in no place of its set takes an empty one, or takes some
//! of the count of the least asked one there, and its place when that has none left: names that are asked once cancel each
//! other out, and a flood of them costs a popular name nothing while a less popular one shares its set. Invariant: memory is
//! taken when the number of names is set, never by a question; a question that is not in the sample costs one subtraction.

use ahash::RandomState;
use corewall_sharding::name::Name;

/// Places of a set, looked at one after the other.
const WAYS: usize = 8;
/// Of so many questions one is counted, for so many: a count is an estimate of questions. The next one is drawn, so that no
/// rhythm of questions keeps in step.
const SAMPLE: u32 = 64;
/// A reader takes the part of a count that this many halvings leave: see [`TopNames::decay`].
const DECAY_SHIFT: u32 = 6;

/// The places of one set, but for their names: one cache line tells whether a name is there.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Set {
    /// Estimated questions; 0 is an empty place.
    asked: [u32; WAYS],
    /// Further bits of the name's hash.
    tags: [u32; WAYS],
}

/// The names asked for most.
pub struct TopNames {
    sets: Vec<Set>,
    /// Of all places, set by set.
    names: Vec<Name>,
    hasher: RandomState,
    /// State of a generator of gaps between samples (xorshift), not zero.
    random: u32,
    /// Questions until the next one that is counted.
    left: u32,
}

impl TopNames {
    /// Counts nothing yet.
    pub fn new(seeds: [u64; 4]) -> Self {
        let [a, b, c, d] = seeds;
        let hasher = RandomState::with_seeds(a, b, c, d);
        Self { sets: Vec::new(), names: Vec::new(), hasher, random: a as u32 | 1, left: SAMPLE }
    }

    /// Makes room for this many names; 0 counts none. What was counted stays when the number does.
    pub fn set_room(&mut self, names: usize) {
        let sets = names.div_ceil(WAYS);
        if sets != self.sets.len() {
            self.sets = vec![Set::default(); sets];
            self.names = vec![Name::ROOT; sets * WAYS];
        }
    }

    /// Somebody asks for a name. On the hot path.
    #[inline]
    pub fn hear(&mut self, name: &Name) {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            self.count(name);
        }
    }

    fn count(&mut self, name: &Name) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        // From 1 to twice the mean, less one.
        self.left = 1 + self.random % (2 * SAMPLE - 1);
        let hash = self.hasher.hash_one(name.as_wire());
        // The set by the high bits, so the low ones still tell names of one set apart.
        let (place, tag) = (((u128::from(hash) * self.sets.len() as u128) >> 64) as usize, hash as u32);
        let (Some(set), Some(names)) = (self.sets.get_mut(place), self.names.get_mut(place * WAYS..)) else { return };
        for ((asked, known), there) in set.asked.iter_mut().zip(&set.tags).zip(names.iter()) {
            if *asked > 0 && *known == tag && there == name {
                *asked = asked.saturating_add(SAMPLE);
                return;
            }
        }
        let ways = set.asked.iter_mut().zip(&mut set.tags).zip(names);
        let Some(((asked, known), there)) = ways.min_by_key(|((asked, _), _)| **asked) else { return };
        if *asked > SAMPLE {
            *asked -= SAMPLE;
        } else {
            (*asked, *known, *there) = (SAMPLE, tag, *name);
        }
    }

    /// Every name that is counted, with the questions for it that are estimated, in no order.
    pub fn each(&self) -> impl Iterator<Item = (&Name, u32)> {
        let asked = self.sets.iter().flat_map(|set| set.asked);
        self.names.iter().zip(asked).filter(|(_, asked)| *asked > 0)
    }

    /// Lessens every count by a small part, at least by one, so that what nobody asks for any more ends.
    pub fn decay(&mut self) {
        for asked in self.sets.iter_mut().flat_map(|set| &mut set.asked) {
            *asked = decayed(*asked);
        }
    }
}

/// A count after one [`TopNames::decay`]: some 44 of them halve a large one.
pub fn decayed(asked: u32) -> u32 {
    asked.saturating_sub((asked >> DECAY_SHIFT).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn top_names(room: usize) -> TopNames {
        let mut top = TopNames::new([1, 2, 3, 4]);
        top.set_room(room);
        top
    }

    #[test]
    fn popular_names_are_found_in_a_flood_of_others_with_about_their_counts() {
        let mut top = top_names(1_000);
        let popular: Vec<Name> = (0..20).map(|number| name(&format!("popular{number}.example"))).collect();
        for round in 0..5_000 {
            for popular in &popular {
                top.hear(popular);
            }
            for number in 0..20 {
                top.hear(&name(&format!("flood{}.example", round * 20 + number)));
            }
        }
        for popular in &popular {
            let found = top.each().find(|(name, _)| *name == popular).map_or(0, |(_, asked)| asked);
            assert!((2_500..10_000).contains(&found), "{popular}: {found} of 5000");
        }
        assert!(top.each().count() <= 1_000);
    }

    #[test]
    fn counts_end_when_nobody_asks_any_more() {
        let mut top = top_names(8);
        (0..10_000).for_each(|_| top.hear(&name("a.example")));
        let most = top.each().map(|(_, asked)| asked).next().unwrap();
        (0..44).for_each(|_| top.decay());
        let after = top.each().map(|(_, asked)| asked).next().unwrap();
        assert!((most / 2).abs_diff(after) < most / 10, "{most} became {after}");
        (0..1_000).for_each(|_| top.decay());
        assert_eq!(top.each().count(), 0);
    }

    #[test]
    fn without_room_nothing_is_counted() {
        let mut top = top_names(0);
        (0..1_000).for_each(|_| top.hear(&name("a.example")));
        assert_eq!(top.each().count(), 0);
        top.set_room(100);
        (0..1_000).for_each(|_| top.hear(&name("a.example")));
        assert_eq!(top.each().count(), 1);
    }
}
