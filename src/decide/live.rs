//! Live rules: those that operators add, and the generation's that they void, while the server runs.
//!
//! They are on top of a generation's: [`compose::Composer`] makes a [`RuleBook`] of both, on the control side, and the worker
//! goes over to it between two batches ([`Core::change_live`]). Invariants: a change costs what it changes, not what the store
//! or the overlay holds, for all else is shared with the book before; what a book says of classes, lists, patterns and names
//! belongs together, for it is handed over whole; a generation without live rules pays one branch a name for them.

pub mod compose;
pub mod names;

use std::sync::Arc;

use ahash::RandomState;
use corewall_sharding::name::Name;
use corewall_sharding::rule::{Class, ClassId, Kind, ListId};
use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;

use self::names::{LiveName, LiveNames, Says};
use super::Core;
use super::changes::Touched;
use super::filter::Lookup;
use super::rule::{Asked, Judgement};
use super::rulebook::{ListBook, RuleBook};
use super::step::Ticket;

/// The live rules and voids of a book. Immutable; a copy shares everything.
#[derive(Clone, Default)]
pub struct LiveRules {
    /// Numbered after the generation's.
    pub(super) classes: Arc<[Class]>,
    /// The lists that the generation does not know, numbered after its own.
    pub(super) lists: Arc<[ListBook]>,
    /// Numbered after the generation's.
    pub(super) patterns: Arc<[LivePattern]>,
    /// Some live pattern may overrule a block or alias by name.
    pub(super) patterns_overrule: bool,
    pub(super) names: LiveNames,
    /// Where aliases on the root name lead.
    pub(super) root_targets: Arc<HashMap<ClassId, Name, RandomState>>,
    /// The generation's patterns that hold no longer.
    pub(super) voided_patterns: Arc<HashSet<u32, RandomState>>,
    /// The generation's address rules that hold no longer.
    pub(super) voided_addresses: Arc<HashSet<(IpNet, Kind, ListId), RandomState>>,
    pub(super) summary: LiveSummary,
}

/// A live pattern.
#[derive(Clone, Debug)]
pub struct LivePattern {
    /// Number of its entry.
    pub seq: u64,
    /// In PCRE syntax.
    pub regex: String,
    /// What the rule says.
    pub class: ClassId,
    /// For an alias.
    pub target: Option<Name>,
}

/// How many live entries there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveSummary {
    /// Rules and rewrites.
    pub rules: u64,
    /// Voids.
    pub voids: u64,
    /// The last entry that was taken in; 0 for none.
    pub last_seq: u64,
}

impl LiveRules {
    /// Whether there are rules on names.
    pub fn has_names(&self) -> bool {
        self.names.has_rules()
    }

    /// Whether there are voids on names.
    pub fn has_voids(&self) -> bool {
        self.names.has_voids()
    }

    /// How many there are.
    pub fn summary(&self) -> LiveSummary {
        self.summary
    }

    /// The live patterns; the first has the number after the generation's last.
    pub fn patterns(&self) -> &[LivePattern] {
        &self.patterns
    }

    /// The rules that may speak of `name`, of which `lookup` is: labels, entry, class and target. The most specific first, of
    /// one name the newest first. On the hot path.
    pub fn rules_of<'a>(
        &'a self,
        lookup: &'a Lookup,
        name: &'a Name,
    ) -> impl Iterator<Item = (u8, &'a LiveName, ClassId, Option<&'a Name>)> {
        let whole = name.label_count();
        let depths = (1..=whole).rev().filter(move |&labels| self.names.may_hold(labels, labels == whole));
        depths.flat_map(move |labels| {
            let found = self.names.of(lookup.hash_of_suffix(labels), name.suffix_wire(labels));
            found.filter_map(move |entry| match &entry.says {
                Says::Rule { class, target } => Some((labels as u8, entry, *class, target.as_deref())),
                Says::Void { .. } => None,
            })
        })
    }

    /// The void by which the generation's rule of `class` on the suffix of `labels` labels holds no longer. On the hot path.
    pub fn void_of<'a>(&'a self, lookup: &Lookup, name: &'a Name, labels: u8, class: &Class) -> Option<&'a LiveName> {
        let labels = usize::from(labels);
        let mut found = self.names.of(lookup.hash_of_suffix(labels), name.suffix_wire(labels));
        found.find(|entry| entry.voids(class))
    }

    /// Where the alias of entry `seq` leads.
    pub(super) fn target(&self, lookup: &Lookup, name: &Name, labels: u8, seq: u64) -> Option<Name> {
        let labels = usize::from(labels);
        let mut found = self.names.of(lookup.hash_of_suffix(labels), name.suffix_wire(labels));
        match &found.find(|entry| entry.seq == seq)?.says {
            Says::Rule { target, .. } => target.as_deref().copied(),
            Says::Void { .. } => None,
        }
    }
}

impl Judgement {
    /// Weighs the live rules of a name, of which `lookup` is. On the hot path.
    pub fn consider_live(&mut self, rules: &RuleBook, asked: &Asked<'_>, lookup: &Lookup) {
        for (labels, entry, class, _) in rules.live().rules_of(lookup, asked.name) {
            self.consider_live_rule(rules, asked, labels, class, entry.seq);
        }
    }
}

/// Live rules have changed: what each worker takes over. Immutable and shared.
pub struct LiveChange {
    /// Counts the changes on one generation from 1: who has missed one sees a gap.
    pub version: u64,
    /// All rules as they are now.
    pub rules: Arc<RuleBook>,
    /// The names of which rules have changed; none when it may be any.
    pub touched: Option<Vec<Touched>>,
    /// What is said of addresses in upstreams' answers has changed, or whose answers are spared that.
    pub changes_addresses: bool,
}

impl Core {
    /// Takes over live rules, between two batches. Cached answers that the change may speak of are judged again when they are
    /// asked for, and so are questions that wait for an upstream. `is_next`: no change before this one was missed.
    pub fn change_live(&mut self, change: &LiveChange, is_next: bool) {
        self.rules_stamp += 1;
        match &change.touched {
            Some(touched) if is_next => self.changes.note(self.rules_stamp, touched),
            _ => self.changes.note_all(self.rules_stamp),
        }
        if change.changes_addresses || (!is_next && !change.rules.treats_addresses_as(&self.rules)) {
            self.addresses_stamp = self.rules_stamp;
        }
        self.resolver.upstreams.set_live_classes(change.rules.base_class_count(), change.rules.class_count());
        if !change.rules.has_lists_of(&self.rules) {
            self.routes = super::route::Routes::new(&self.settings, &change.rules, &self.resolver.upstreams);
        }
        self.rules = change.rules.clone();
    }

    /// Whether live rules that came while the query waited may speak of it, so that it is to be judged from the start: once
    /// whoever made the change is told that it is done, nobody is answered by the rules of before. A change to any name has it
    /// begin again once only, for under thousands of changes a second it would else never end.
    pub(super) fn must_begin_again(&mut self, ticket: Ticket) -> bool {
        let Some(query) = self.queries.get_mut(ticket) else { return false };
        let is_unknown = self.changes.is_unknown(query.rules);
        if self.changes.switched_since(query.rules) || (is_unknown && query.has_begun_again) {
            // Its answer is kept as judged under the rules of before.
            return false;
        }
        let is_touched = is_unknown || query.is_touched(&self.changes);
        query.rules = self.rules_stamp;
        if is_touched {
            query.begin_again(self.rules_stamp);
            query.has_begun_again = true;
        }
        is_touched
    }

    /// How many live rules it answers by.
    pub fn live_summary(&self) -> LiveSummary {
        self.rules.live().summary()
    }
}

#[cfg(test)]
mod tests;
