//! What was built, counted.

use std::collections::BTreeMap;

use crate::manifest::{FileEntry, ListEntry};
use crate::rule::{Class, Kind, List, Scope};

/// Rules of one list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListReport {
    /// The list's name.
    pub name: String,
    /// Rules kept, by kind and scope.
    pub rules: BTreeMap<(Kind, Scope), u64>,
    /// Address rewrites kept.
    pub ip_rewrites: u64,
    /// Rules and rewrites that the list had said before.
    pub duplicates: u64,
}

/// What was built.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BuildReport {
    /// Index is the list's id.
    pub lists: Vec<ListReport>,
    /// Rules kept, by name, pattern and address; address rewrites not.
    pub rules: u64,
    /// Rules and rewrites left out because their list had said them before.
    pub duplicates: u64,
    /// Bytes of each shard without its filter and places.
    pub shard_bytes: Vec<u64>,
    /// Bytes of all filters.
    pub filter_bytes: u64,
    /// Bytes of all places; zero when none were written.
    pub places_bytes: u64,
    /// Sorted runs that were on the disk between reading and writing.
    pub runs: u64,
    /// Bytes of them.
    pub spilled_bytes: u64,
    /// Parts of lists that a killed build had read already.
    pub parts_resumed: u64,
    /// Shards that a killed build had written already.
    pub shards_resumed: u64,
}

impl BuildReport {
    /// Bytes on disk a rule, filters included and places not; zero without rules.
    pub fn bytes_per_rule(&self) -> f64 {
        let bytes = self.shard_bytes.iter().sum::<u64>() + self.filter_bytes;
        if self.rules == 0 { 0.0 } else { bytes as f64 / self.rules as f64 }
    }

    /// Counts a rule that is kept.
    pub(super) fn count_rule(&mut self, class: &Class) {
        *self.lists[usize::from(class.list)].rules.entry((class.kind, class.scope)).or_default() += 1;
    }

    /// Counts the rules by name, by class, and the files, then sums up.
    pub(super) fn count(&mut self, classes: &[Class], kept: &[u64], duplicates: &[u64], files: &[FileEntry]) {
        for (class, (kept, duplicates)) in classes.iter().zip(kept.iter().zip(duplicates)) {
            let list = &mut self.lists[usize::from(class.list)];
            if *kept > 0 {
                *list.rules.entry((class.kind, class.scope)).or_default() += kept;
            }
            list.duplicates += duplicates;
        }
        self.rules = self.lists.iter().flat_map(|list| list.rules.values()).sum();
        self.duplicates = self.lists.iter().map(|list| list.duplicates).sum();
        for file in files {
            match file.name.rsplit('.').next() {
                Some("filter") => self.filter_bytes += file.size,
                Some("places") => self.places_bytes += file.size,
                _ => self.shard_bytes.push(file.size),
            }
        }
    }

    /// What the manifest says of the lists.
    pub(super) fn list_entries(&self, lists: &[List]) -> Vec<ListEntry> {
        let entry = |(list, counts): (&List, &ListReport)| ListEntry {
            name: list.name.clone(),
            category: list.category.clone(),
            rules: counts.rules.values().sum(),
            duplicates: counts.duplicates,
        };
        lists.iter().zip(&self.lists).map(entry).collect()
    }
}
