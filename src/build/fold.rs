//! `corewall build --fold-overlay`: what was changed by hand becomes part of the generation.
//!
//! A rule goes to its list, or, when no list that is built has this name, to a list of its own behind them; a rule that is voided is
//! left out. The overlay stays as it is: the generation's manifest tells up to which entry it has them
//! (`overlay_seq`), and only later ones are live on top of it. So after a roll-back all are live again, and the next build reads
//! them all again.
//!
//! Invariant: entries that end by themselves are never folded in, for a generation could not end them; they stay live on top of every
//! generation, whatever its `overlay_seq`.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use corewall_sharding::StoreError;
use corewall_sharding::name::Name;
use corewall_sharding::overlay::{LiveChange, LiveEntry, Overlay, Void};
use corewall_sharding::publish::Store;
use corewall_sharding::rule::{IpRewrite, Kind, List, ListId, Rule, RuleKey, Scope};
use ipnet::IpNet;
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::ListSpec;
use crate::lists::Format;

/// What was folded in, for the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Folded {
    /// Entries up to here.
    pub overlay_seq: u64,
    /// Rules and rewrites that were added.
    pub added: u64,
    /// Rules and rewrites of lists that were left out.
    pub left_out: u64,
}

/// The entries of the overlay that are folded in.
#[derive(Default)]
pub struct Fold {
    overlay_seq: u64,
    rules: Vec<Rule>,
    rewrites: Vec<IpRewrite>,
    voids: HashMap<ListId, Voids>,
    /// Tells one content from another.
    fingerprint: u64,
}

/// What holds no longer of one list.
#[derive(Default)]
struct Voids {
    names: HashSet<(Name, Scope, Kind)>,
    patterns: HashSet<(String, Kind)>,
    addresses: HashSet<(IpNet, Kind)>,
    rewrites: HashSet<IpNet>,
}

fn with_entry(fingerprint: u64, entry: &LiveEntry) -> u64 {
    xxh3_64_with_seed(format!("{entry:?}").as_bytes(), fingerprint)
}

impl Fold {
    /// Reads the overlay, and adds to `specs` the lists that only it has: their rules come from here, not from a file.
    ///
    /// # Errors
    /// The overlay is damaged.
    pub fn read(store: &Store, specs: &mut Vec<ListSpec>) -> Result<Fold, StoreError> {
        let snapshot = Overlay::snapshot(store)?;
        let mut fold = Fold { overlay_seq: snapshot.last_seq, ..Fold::default() };
        let path = store.dir().join("overlay.db");
        for entry in snapshot.entries.into_iter().filter(|entry| entry.expires_s.is_none()) {
            fold.fingerprint = with_entry(fold.fingerprint, &entry);
            fold.take(entry, specs, &path)?;
        }
        Ok(fold)
    }

    fn take(&mut self, entry: LiveEntry, specs: &mut Vec<ListSpec>, path: &Path) -> Result<(), StoreError> {
        let place = specs.iter().position(|spec| spec.list.name == entry.list);
        let is_void = matches!(entry.change, LiveChange::Void(_));
        if is_void && place.is_none() {
            // Of a list that is not built: nothing to leave out.
            return Ok(());
        }
        let place = place.unwrap_or_else(|| {
            specs.push(ListSpec { list: List::named(&entry.list), ..ListSpec::new(&entry.list, Format::Plain, path) });
            specs.len() - 1
        });
        let list = ListId::try_from(place).map_err(|_| StoreError::Bounds {
            what: "there are more lists than a generation can have".to_owned(),
            remedy: "join some of them into one, or remove live rules of lists that are not configured",
        })?;
        match entry.change {
            LiveChange::Rule(mut rule) => {
                rule.class.list = list;
                self.rules.push(rule);
            }
            LiveChange::Rewrite(rewrite) => self.rewrites.push(IpRewrite { list, ..rewrite }),
            LiveChange::Void(void) => {
                let voids = self.voids.entry(list).or_default();
                match void {
                    Void::Name { name, scope, kind } => drop(voids.names.insert((name, scope, kind))),
                    Void::Pattern { regex, kind } => drop(voids.patterns.insert((regex, kind))),
                    Void::Address { net, kind } => drop(voids.addresses.insert((net, kind))),
                    Void::Rewrite { from } => drop(voids.rewrites.insert(from)),
                }
            }
        }
        Ok(())
    }

    /// The last entry that is folded in, with all before it.
    pub fn overlay_seq(&self) -> u64 {
        self.overlay_seq
    }

    /// Whether a rule of a list is to be left out.
    pub fn leaves_out(&self, rule: &Rule) -> bool {
        let Some(voids) = self.voids.get(&rule.class.list) else { return false };
        let (scope, kind) = (rule.class.scope, rule.class.kind);
        match &rule.key {
            RuleKey::Name { name, .. } => voids.names.contains(&(*name, scope, kind)),
            RuleKey::Pattern { regex, .. } => {
                !voids.patterns.is_empty() && voids.patterns.contains(&(regex.clone(), kind))
            }
            RuleKey::Address { net, .. } => voids.addresses.contains(&(*net, kind)),
        }
    }

    /// Whether a rewrite of a list is to be left out.
    pub fn leaves_out_rewrite(&self, rewrite: &IpRewrite) -> bool {
        self.voids.get(&rewrite.list).is_some_and(|voids| voids.rewrites.contains(&rewrite.from))
    }

    /// The rules that were added by hand; each knows its list.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rewrites likewise.
    pub fn rewrites(&self) -> &[IpRewrite] {
        &self.rewrites
    }

    /// Another one when any entry that is folded in differs.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Whether every entry that was folded in is still as it was. One that was removed meanwhile left nothing behind, for no generation
    /// had it yet: published, it would come back.
    ///
    /// # Errors
    /// The overlay is damaged.
    pub fn still_holds(&self, store: &Store) -> Result<bool, StoreError> {
        let entries = Overlay::snapshot(store)?.entries;
        let folded = entries.iter().filter(|entry| entry.expires_s.is_none() && entry.seq <= self.overlay_seq);
        Ok(folded.fold(0, with_entry) == self.fingerprint)
    }

    /// What is told of it, when so many rules and rewrites of lists were left out.
    pub fn report(&self, left_out: u64) -> Folded {
        let added = (self.rules.len() + self.rewrites.len()) as u64;
        Folded { overlay_seq: self.overlay_seq, added, left_out }
    }
}
