//! The live rules and voids on names, found by the hash of the name.
//!
//! A tree over the hash, six bits a level, whose parts are shared: a copy is one counter more, and a change replaces the few
//! parts on the way to one name. All workers therefore look into the same memory, and go over to a changed table by taking
//! another pointer, however many rules there are. Invariants: finding allocates nothing and takes at most [`LEVELS`] steps; what
//! stands under one name stands in the order in which it was entered.

use std::sync::Arc;

use corewall_sharding::name::{LABELS_MAX, Name};
use corewall_sharding::route::NameHash;
use corewall_sharding::rule::{Class, ClassId, Kind, ListId, Scope};

/// Bits of the hash that choose a part.
const LEVEL_BITS: u32 = 6;
/// Parts of a branch.
const FANOUT: usize = 1 << LEVEL_BITS;
/// Levels that the hash has bits for.
const LEVELS: u32 = u64::BITS / LEVEL_BITS;
/// Entries of a leaf before it becomes a branch: a leaf is copied by each change to it, and looked through by each look-up.
const LEAF_MAX: usize = 16;

/// A live rule or void on a name.
#[derive(Debug)]
pub struct LiveName {
    /// Number of its entry.
    pub seq: u64,
    /// What it says.
    pub says: Says,
    hash: NameHash,
    wire: Box<[u8]>,
}

/// What an entry says of a name.
#[derive(Debug)]
pub enum Says {
    /// A rule.
    Rule {
        /// All but its name.
        class: ClassId,
        /// For an alias. In a box, for there may be a million rules and few have one.
        target: Option<Box<Name>>,
    },
    /// The generation's rules of this kind, scope and list hold no longer.
    Void {
        /// What they do.
        kind: Kind,
        /// How far they reach.
        scope: Scope,
        /// Whose they are.
        list: ListId,
    },
}

impl LiveName {
    /// What entry `seq` says of `name`, whose hash is `hash`.
    pub fn new(seq: u64, hash: NameHash, name: &Name, says: Says) -> Self {
        Self { seq, says, hash, wire: name.as_wire().into() }
    }

    /// Its name in wire format.
    pub fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// Hash of its name.
    pub fn hash(&self) -> NameHash {
        self.hash
    }

    /// Whether it voids the generation's rules of `class` on its name.
    pub fn voids(&self, class: &Class) -> bool {
        match self.says {
            Says::Void { kind, scope, list } => (kind, scope, list) == (class.kind, class.scope, class.list),
            Says::Rule { .. } => false,
        }
    }
}

/// The table. A copy shares everything.
#[derive(Clone)]
pub struct LiveNames {
    root: Part,
    /// How many rules there are on names of so many labels that speak of the name itself, and of what is under it.
    itself: Depths,
    under: Depths,
    voids: u64,
}

#[derive(Clone)]
enum Part {
    Empty,
    Leaf(Arc<[Item]>),
    Branch(Arc<[Part; FANOUT]>),
}

#[derive(Clone)]
struct Item {
    hash: NameHash,
    name: Arc<LiveName>,
}

impl LiveNames {
    /// Nothing.
    pub fn new() -> Self {
        Self { root: Part::Empty, itself: Depths::new(), under: Depths::new(), voids: 0 }
    }

    /// Whether there are rules, voids aside.
    pub fn has_rules(&self) -> bool {
        (self.itself.bits | self.under.bits) != 0
    }

    /// Whether a rule may speak of a name by its suffix of so many labels; false is certain.
    pub fn may_hold(&self, labels: usize, is_whole: bool) -> bool {
        let bits = if is_whole { self.itself.bits | self.under.bits } else { self.under.bits };
        bits & 1 << labels.min(LABELS_MAX) != 0
    }

    /// Whether there are voids.
    pub fn has_voids(&self) -> bool {
        self.voids > 0
    }

    /// What stands under the name of this hash and wire format, the newest first. On the hot path.
    pub fn of<'a>(&'a self, hash: NameHash, wire: &'a [u8]) -> impl Iterator<Item = &'a LiveName> {
        let items = self.leaf(hash).iter().rev();
        items.filter(move |item| item.hash == hash && *item.name.wire == *wire).map(|item| &*item.name)
    }

    /// How many entries there are under names of this hash.
    pub fn count_of(&self, hash: NameHash) -> usize {
        self.leaf(hash).iter().filter(|item| item.hash == hash).count()
    }

    fn leaf(&self, hash: NameHash) -> &[Item] {
        let (mut part, mut level) = (&self.root, 0);
        loop {
            match part {
                Part::Empty => return &[],
                Part::Leaf(items) => return items,
                Part::Branch(parts) => match parts.get(place(hash, level)) {
                    Some(next) => (part, level) = (next, level + 1),
                    None => return &[],
                },
            }
        }
    }

    /// Puts an entry in; `scope` is that of a rule. Control side.
    pub fn enter(&mut self, name: Arc<LiveName>, scope: Scope, labels: usize) {
        self.count(&name, scope, labels, true);
        enter(&mut self.root, Item { hash: name.hash, name }, 0);
    }

    /// Takes an entry out that was put in with this scope. Control side.
    pub fn leave(&mut self, name: &LiveName, scope: Scope, labels: usize) {
        self.count(name, scope, labels, false);
        leave(&mut self.root, name, 0);
    }

    fn count(&mut self, name: &LiveName, scope: Scope, labels: usize, is_more: bool) {
        match name.says {
            Says::Void { .. } if is_more => self.voids += 1,
            Says::Void { .. } => self.voids = self.voids.saturating_sub(1),
            Says::Rule { .. } => {
                let depths = if scope == Scope::Exact { &mut self.itself } else { &mut self.under };
                depths.count(labels, is_more);
            }
        }
    }
}

impl Default for LiveNames {
    fn default() -> Self {
        Self::new()
    }
}

/// How many rules there are by labels of their names.
#[derive(Clone)]
struct Depths {
    counts: Arc<[u64; LABELS_MAX + 1]>,
    /// Bit `n` set: some.
    bits: u128,
}

impl Depths {
    fn new() -> Self {
        Self { counts: Arc::new([0; LABELS_MAX + 1]), bits: 0 }
    }

    fn count(&mut self, labels: usize, is_more: bool) {
        let labels = labels.min(LABELS_MAX);
        let Some(count) = Arc::make_mut(&mut self.counts).get_mut(labels) else { return };
        *count = if is_more { *count + 1 } else { count.saturating_sub(1) };
        match *count {
            0 => self.bits &= !(1 << labels),
            _ => self.bits |= 1 << labels,
        }
    }
}

/// Which part of a branch at this level a hash belongs to. From the low bits: the high ones choose shards.
fn place(hash: NameHash, level: u32) -> usize {
    (hash.0 >> (LEVEL_BITS * level.min(LEVELS - 1))) as usize % FANOUT
}

fn enter(part: &mut Part, item: Item, level: u32) {
    match part {
        Part::Empty => *part = Part::Leaf(Arc::new([item])),
        Part::Branch(parts) => {
            if let Some(next) = Arc::make_mut(parts).get_mut(place(item.hash, level)) {
                enter(next, item, level + 1);
            }
        }
        Part::Leaf(items) => {
            // What has one hash cannot be parted, and stands under one name as good as always.
            let can_part = level < LEVELS && items.iter().any(|held| held.hash != item.hash);
            let together = items.iter().cloned().chain([item]);
            if together.size_hint().0 <= LEAF_MAX || !can_part {
                *part = Part::Leaf(together.collect());
                return;
            }
            let mut parts: [Part; FANOUT] = std::array::from_fn(|_| Part::Empty);
            for item in together {
                if let Some(next) = parts.get_mut(place(item.hash, level)) {
                    enter(next, item, level + 1);
                }
            }
            *part = Part::Branch(Arc::new(parts));
        }
    }
}

fn leave(part: &mut Part, name: &LiveName, level: u32) {
    match part {
        Part::Empty => {}
        Part::Branch(parts) => {
            let parts = Arc::make_mut(parts);
            if let Some(next) = parts.get_mut(place(name.hash, level)) {
                leave(next, name, level + 1);
            }
            if parts.iter().all(|part| matches!(part, Part::Empty)) {
                *part = Part::Empty;
            }
        }
        Part::Leaf(items) => {
            let left: Arc<[Item]> = items.iter().filter(|held| held.name.seq != name.seq).cloned().collect();
            *part = if left.is_empty() { Part::Empty } else { Part::Leaf(left) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A hash of few values in its low bits, so that leaves part at several levels, and some that are all equal.
    fn hash_of(number: u64) -> NameHash {
        let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        NameHash(if number.is_multiple_of(10) { 7 } else { spread & 0xffff_ff00_0000_003f })
    }

    fn entry(seq: u64, number: u64) -> Arc<LiveName> {
        let name: Name = format!("host{number}.example").parse().unwrap();
        Arc::new(LiveName::new(seq, hash_of(number), &name, Says::Rule { class: seq as ClassId, target: None }))
    }

    fn found(names: &LiveNames, number: u64) -> Vec<u64> {
        let name: Name = format!("host{number}.example").parse().unwrap();
        names.of(hash_of(number), name.as_wire()).map(|found| found.seq).collect()
    }

    #[test]
    fn it_holds_what_a_map_holds_whatever_comes_and_goes() {
        let (mut names, mut model) = (LiveNames::new(), BTreeMap::<u64, Vec<Arc<LiveName>>>::new());
        let mut dice = 1u64;
        for seq in 1..6_000 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let number = (dice >> 33) % 900;
            let held = model.entry(number).or_default();
            if dice >> 62 == 0 && !held.is_empty() {
                let gone = held.remove((dice >> 40) as usize % held.len());
                names.leave(&gone, Scope::Exact, 2);
            } else {
                held.push(entry(seq, number));
                names.enter(held.last().unwrap().clone(), Scope::Exact, 2);
            }
        }
        for (&number, held) in &model {
            let newest_first: Vec<u64> = held.iter().rev().map(|held| held.seq).collect();
            assert_eq!(found(&names, number), newest_first);
        }
        assert!(found(&names, 901).is_empty());
        for held in model.into_values().flatten() {
            names.leave(&held, Scope::Exact, 2);
        }
        assert!(matches!(names.root, Part::Empty) && !names.has_rules());
    }

    #[test]
    fn a_copy_stays_as_it_was() {
        let mut names = LiveNames::new();
        (1..200).for_each(|number| names.enter(entry(number, number), Scope::Subtree, 2));
        let before = names.clone();
        names.enter(entry(500, 3), Scope::Subtree, 2);
        names.leave(&entry(4, 4), Scope::Subtree, 2);
        assert_eq!((found(&before, 3), found(&before, 4)), (vec![3], vec![4]));
        assert_eq!((found(&names, 3), found(&names, 4)), (vec![500, 3], vec![]));
    }

    #[test]
    fn names_without_rules_are_told_by_their_labels() {
        let mut names = LiveNames::new();
        let exact = entry(1, 1);
        names.enter(exact.clone(), Scope::Exact, 2);
        names.enter(entry(2, 2), Scope::Below, 3);
        let held = |names: &LiveNames| [1, 2, 3].map(|labels| [true, false].map(|whole| names.may_hold(labels, whole)));
        assert_eq!(held(&names), [[false, false], [true, false], [true, true]]);
        names.leave(&exact, Scope::Exact, 2);
        assert_eq!(held(&names), [[false, false], [false, false], [true, true]]);
        let void = Says::Void { kind: Kind::Block, scope: Scope::Exact, list: 0 };
        let name: Name = "v.example".parse().unwrap();
        let void = Arc::new(LiveName::new(3, NameHash(9), &name, void));
        names.enter(void.clone(), Scope::Exact, 2);
        assert!(names.has_voids() && !names.may_hold(2, true));
        names.leave(&void, Scope::Exact, 2);
        assert!(!names.has_voids());
    }
}
