//! What a generation holds beside rules by name, composed of all runs: classes, patterns, address rules, rewrites.
//!
//! Invariant: everything is in the order of the lists and their parts, so it does not depend on which thread read what. Classes
//! are numbered by their uses, then by where they first came.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::codec::{put_address, put_bytes, put_class, put_integer, put_rewrite};
use super::report::BuildReport;
use super::run::{Place, RunRecord};
use super::{CLASSES_MAX, PartId, too_many_classes};
use crate::StoreError;
use crate::generation::{AddressRow, PatternRow};
use crate::route::{HashKey, hash_text};
use crate::rule::{Class, ClassId, IpRewrite, List, ListId};
use crate::schema::source_text;
use crate::shard_file::Beside;

/// Where in the order of all lists something stands: a part, its place in it.
pub(super) type Order = (Option<PartId>, u64);

/// The ids of parts by the numbers that the runs give them.
pub(super) struct Parts(Vec<Option<PartId>>);

impl Parts {
    /// All parts of the runs; fails when one was handed in twice.
    pub(super) fn of(runs: &[RunRecord]) -> Result<Parts, StoreError> {
        let (mut ids, mut seen) = (Vec::new(), BTreeSet::new());
        for part in runs.iter().flat_map(|run| &run.parts) {
            if !seen.insert(part.id) {
                return Err(StoreError::Bounds {
                    what: format!("part {} of list {} was read twice", part.id.part, part.id.list),
                    remedy: "report this as a bug of the list's reader",
                });
            }
            let number = part.number as usize;
            ids.resize(ids.len().max(number + 1), None);
            ids[number] = Some(part.id);
        }
        Ok(Parts(ids))
    }

    /// Where something stands; what has no part comes last.
    pub(super) fn order(&self, place: Place) -> Order {
        let id = self.0.get(place.part as usize).copied().flatten();
        (id.or(Some(PartId::LAST)), place.order)
    }
}

/// The classes by final id, and the final id of each class of each run.
pub(super) struct Classes {
    pub(super) classes: Vec<Class>,
    /// Rules read with each, those counted that are left out.
    uses: Vec<u64>,
    /// For each run, by the run's numbers.
    pub(super) ranks: Vec<Arc<[ClassId]>>,
    /// By the numbers that the patterns' classes had.
    pub(super) pattern_ranks: Vec<ClassId>,
}

impl Classes {
    /// Ranks the classes of all runs and those of the patterns, which come with their uses and where they first came.
    pub(super) fn rank(
        runs: &[RunRecord],
        parts: &Parts,
        patterns: &[(Class, u64, Order)],
    ) -> Result<Classes, StoreError> {
        let mut ids: HashMap<&Class, usize> = HashMap::new();
        let mut found: Vec<(&Class, u64, Order)> = Vec::new();
        let mut add = |class, uses: u64, first: Order| {
            let id = *ids.entry(class).or_insert(found.len());
            match found.get_mut(id) {
                Some(known) => {
                    known.1 += uses;
                    known.2 = known.2.min(first);
                }
                None => found.push((class, uses, first)),
            }
            id
        };
        let in_runs: Vec<Vec<usize>> = runs
            .iter()
            .map(|run| {
                run.classes.iter().map(|class| add(&class.class, class.uses, parts.order(class.first))).collect()
            })
            .collect();
        let in_patterns: Vec<usize> = patterns.iter().map(|(class, uses, first)| add(class, *uses, *first)).collect();
        if found.len() > CLASSES_MAX {
            return Err(too_many_classes());
        }
        let mut order: Vec<usize> = (0..found.len()).collect();
        order.sort_unstable_by_key(|&id| (Reverse(found[id].1), found[id].2));
        let mut ranks = vec![0; order.len()];
        for (rank, &id) in order.iter().enumerate() {
            ranks[id] = rank as ClassId;
        }
        let rank = |ids: Vec<usize>| ids.into_iter().map(|id| ranks[id]);
        Ok(Classes {
            classes: order.iter().map(|&id| found[id].0.clone()).collect(),
            uses: order.iter().map(|&id| found[id].1).collect(),
            ranks: in_runs.into_iter().map(|ids| rank(ids).collect()).collect(),
            pattern_ranks: rank(in_patterns).collect(),
        })
    }
}

/// What goes beside the rules by name, by shard, and how much of it there is.
pub(super) struct Scattered {
    pub(super) shards: Vec<Beside>,
    pub(super) addresses: u64,
    pub(super) rewrites: u64,
}

impl Scattered {
    /// Routes patterns (their classes are final), address rules and rewrites, and counts them.
    pub(super) fn route(
        key: HashKey,
        shards: u16,
        runs: &mut [RunRecord],
        parts: &Parts,
        classes: &Classes,
        patterns: &[PatternRow],
        report: &mut BuildReport,
    ) -> Result<Scattered, StoreError> {
        let mut by_shard: Vec<Beside> = (0..shards).map(|_| Beside::default()).collect();
        for pattern in patterns {
            report.count_rule(&classes.classes[pattern.class as usize]);
            place(&mut by_shard, key, &pattern.regex).patterns.push(pattern.clone());
        }
        let addresses = addresses(runs, parts, classes, report);
        for row in &addresses {
            report.count_rule(&classes.classes[row.class as usize]);
            place(&mut by_shard, key, &source_text(&row.net)).addresses.push(row.clone());
        }
        let rewrites = rewrites(runs, parts, report)?;
        for ((_, source), rewrite) in &rewrites {
            place(&mut by_shard, key, source).rewrites.push(*rewrite);
        }
        Ok(Scattered { shards: by_shard, addresses: addresses.len() as u64, rewrites: rewrites.len() as u64 })
    }

    /// A hash of everything that the bytes of the shards depend on beside the rules by name.
    pub(super) fn digest(&self, generation: u64, lists: &[List], classes: &Classes) -> u64 {
        let mut bytes = Vec::new();
        put_integer(&mut bytes, generation);
        put_bytes(&mut bytes, format!("{lists:?}").as_bytes());
        for (class, uses) in classes.classes.iter().zip(&classes.uses) {
            put_class(&mut bytes, class);
            put_integer(&mut bytes, *uses);
        }
        for Beside { patterns, addresses, rewrites } in &self.shards {
            for PatternRow { id, regex, class, target } in patterns {
                put_integer(&mut bytes, u64::from(*id));
                put_integer(&mut bytes, u64::from(*class));
                put_bytes(&mut bytes, regex.as_bytes());
                put_bytes(&mut bytes, target.as_ref().map_or(&[], |target| target.as_wire()));
            }
            addresses.iter().for_each(|row| put_address(&mut bytes, row));
            rewrites.iter().for_each(|rewrite| put_rewrite(&mut bytes, rewrite));
        }
        xxh3_64(&bytes)
    }
}

fn place<'a>(shards: &'a mut [Beside], key: HashKey, text: &str) -> &'a mut Beside {
    let shard = hash_text(key, text).shard(shards.len() as u16);
    &mut shards[usize::from(shard)]
}

/// The address rules in order; of two on one prefix that say the same the first one stays.
fn addresses(runs: &mut [RunRecord], parts: &Parts, classes: &Classes, report: &mut BuildReport) -> Vec<AddressRow> {
    let mut addresses: Vec<(Order, AddressRow)> = Vec::new();
    for (run, ranks) in runs.iter_mut().zip(&classes.ranks) {
        for (place, mut row) in run.addresses.drain(..) {
            row.class = ranks[row.class as usize];
            addresses.push((parts.order(place), row));
        }
    }
    addresses.sort_unstable_by_key(|(order, row)| (row.net, row.class, *order));
    addresses.dedup_by(|(_, later), (_, first)| {
        let same = (later.net, later.class) == (first.net, first.class);
        if same {
            report.lists[usize::from(classes.classes[first.class as usize].list)].duplicates += 1;
        }
        same
    });
    addresses.into_iter().map(|(_, row)| row).collect()
}

/// The rewrites by list and source; of two of one source in one list the first one stays.
fn rewrites(
    runs: &mut [RunRecord],
    parts: &Parts,
    report: &mut BuildReport,
) -> Result<BTreeMap<(ListId, String), IpRewrite>, StoreError> {
    let all = runs.iter_mut().flat_map(|run| run.rewrites.drain(..));
    let mut all: Vec<(Order, IpRewrite)> = all.map(|(place, rewrite)| (parts.order(place), rewrite)).collect();
    all.sort_unstable_by_key(|(order, _)| *order);
    let mut first: BTreeMap<(ListId, String), IpRewrite> = BTreeMap::new();
    for (_, rewrite) in all {
        let list = report.lists.get_mut(usize::from(rewrite.list)).ok_or_else(|| StoreError::Bounds {
            what: format!("a rewrite of list {}, which was never added", rewrite.list),
            remedy: "report this as a bug of the list's reader",
        })?;
        match first.entry((rewrite.list, source_text(&rewrite.from))) {
            std::collections::btree_map::Entry::Occupied(_) => list.duplicates += 1,
            std::collections::btree_map::Entry::Vacant(place) => {
                list.ip_rewrites += 1;
                place.insert(rewrite);
            }
        }
    }
    Ok(first)
}
