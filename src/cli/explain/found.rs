//! Every rule that the store has for a name, and which of them decides.

use std::net::IpAddr;
use std::sync::Arc;

use corewall_sharding::name::Name;
use corewall_sharding::publish::Generation;
use corewall_sharding::rule::{AliasLabels, Class, ClassId, Kind};
use ipnet::IpNet;

use super::entry::{Entries, FoundBy};
use crate::decide::filter::Lookup;
use crate::decide::pattern::Matches;
use crate::decide::rule::{Asked, Candidate, Inapplicable, Judgement, Key};
use crate::decide::rulebook::RuleBook;
use crate::serve::patterns::PatternScanner;
use crate::serve::store::StoreReader;

/// A rule that was found.
pub struct FoundRule {
    /// Its class.
    pub class: ClassId,
    /// Its name, or its pattern between slashes.
    pub key: String,
    /// Of an alias.
    pub target: Option<Name>,
    /// The entry of the overlay that it is, or that removes it, in words; else nothing.
    pub entry: String,
    /// Its precedence, or why it does not apply.
    pub outcome: Result<Candidate, Inapplicable>,
}

/// All of them.
pub struct Found {
    /// Those that apply come first, by precedence.
    pub rules: Vec<FoundRule>,
    /// The one that decides.
    pub winner: Option<Candidate>,
    winner_target: Option<Name>,
}

/// Reads store and patterns as a worker does.
pub struct Finder<'a> {
    pub generation: &'a Generation,
    pub store: StoreReader,
    pub scanner: PatternScanner,
    /// The generation's and the live ones.
    pub rules: Arc<RuleBook>,
    entries: Entries,
    lookup: Lookup,
    /// As in a worker's query, see [`crate::decide::query::Query::is_led_on`].
    is_led_on: bool,
}

impl<'a> Finder<'a> {
    pub fn new(
        generation: &'a Generation,
        rules: Arc<RuleBook>,
        store: StoreReader,
        scanner: PatternScanner,
        entries: Entries,
    ) -> Finder<'a> {
        Finder { generation, store, scanner, rules, entries, lookup: Lookup::new(), is_led_on: false }
    }

    /// The rules for an address in an upstream's answer to `asked`.
    pub fn find_address(&self, asked: &Asked<'_>, address: IpAddr) -> Found {
        let mut judgement = Judgement::default();
        let mut rules: Vec<_> = Vec::new();
        for (bits, rule) in self.rules.addresses().holding(address) {
            let key = Key::Address { bits, target: rule.target };
            let is_voided = self.rules.voids_address(address, bits, rule.class);
            let outcome = match is_voided {
                true => Err(Inapplicable::Voided),
                false => judgement.examine(&self.rules, asked, 0, rule.class, key),
            };
            let target = rule.target.and_then(|target| self.rules.addresses().target(target));
            let net = IpNet::new(address, bits).map_or_else(|_| address.into(), |net| net.trunc());
            let entry = self.entry_of(FoundBy::prefix(address, bits), rule.class, None);
            rules.push(FoundRule { class: rule.class, key: net.to_string(), target, entry, outcome });
        }
        sort_by_precedence(&mut rules);
        judgement.consider_address(&self.rules, asked, address, false);
        Found { rules, winner: judgement.winner(), winner_target: None }
    }

    /// What an address in an upstream's answer becomes; none when it stays.
    pub fn rewritten(&self, asked: &Asked<'_>, address: IpAddr) -> Option<IpAddr> {
        self.rules.rewrites().target(address, &|list| self.rules.list_applies(asked.policy, list))
    }

    /// The rules for one name.
    pub fn find(&mut self, asked: &Asked<'_>) -> Result<Found, String> {
        let failed = || "the store or its patterns cannot be read; run `corewall check --full`".to_owned();
        let mut judgement = Judgement::default();
        let mut rules = Vec::new();
        let root: Vec<_> = self.rules.root_rules(asked, self.is_led_on).map(|class| (0, class)).collect();
        let mut rows = root.clone();
        if self.lookup.probe(&self.rules, asked.name) {
            self.store.read(&self.lookup, &mut |labels, class| rows.push((labels, class))).map_err(|_| failed())?;
        }
        // What was removed on the root name is not among its rules any more.
        for &class in &self.generation.root {
            let is_removed = self.removal_of(FoundBy::Name(&Name::ROOT), class).is_some();
            if is_removed && !rows.contains(&(0, class)) {
                rows.push((0, class));
            }
        }
        for (labels, class) in rows {
            let name = asked.name.suffix(usize::from(labels));
            let is_voided = match labels {
                0 => !root.contains(&(0, class)),
                _ => self.rules.voids_row(&self.lookup, asked.name, labels, class),
            };
            let outcome = match is_voided {
                true => Err(Inapplicable::Voided),
                false => judgement.examine(&self.rules, asked, labels, class, Key::Name),
            };
            if !is_voided {
                judgement.consider_row(&self.rules, asked, labels, class);
            }
            let entry = self.entry_of(FoundBy::Name(&name), class, None);
            let target = if is_voided { None } else { self.target_of(class, labels)? };
            rules.push(FoundRule { class, key: name.to_string(), target, entry, outcome });
        }
        for (labels, live, class, target) in self.rules.live().rules_of(&self.lookup, asked.name) {
            let (name, seq) = (asked.name.suffix(usize::from(labels)), live.seq);
            let outcome = judgement.examine(&self.rules, asked, labels, class, Key::Live { seq });
            judgement.consider_live_rule(&self.rules, asked, labels, class, seq);
            let entry = self.entry_of(FoundBy::Name(&name), class, Some(seq));
            rules.push(FoundRule { class, key: name.to_string(), target: target.copied(), entry, outcome });
        }
        // A worker scans only when patterns can change the verdict; here every candidate is to be seen.
        if self.rules.has_patterns() {
            let mut matches = Matches::new();
            self.scanner.scan(self.lookup.text(), &mut matches).map_err(|_| failed())?;
            for &pattern in matches.as_slice() {
                let voided = self.rules.voided_pattern(pattern).map(|class| (class, None));
                let Some((class, target)) = self.rules.pattern(pattern).or(voided) else { continue };
                let outcome = match voided {
                    Some(_) => Err(Inapplicable::Voided),
                    None => judgement.examine(&self.rules, asked, 0, class, Key::Pattern(pattern)),
                };
                judgement.consider_pattern(&self.rules, asked, pattern);
                let live = self.rules.live_pattern(pattern);
                let row = self.generation.patterns.get(pattern as usize).map(|row| row.regex.as_str());
                let regex = live.map(|live| live.regex.as_str()).or(row).unwrap_or_default();
                let entry = self.entry_of(FoundBy::Pattern(regex), class, live.map(|live| live.seq));
                rules.push(FoundRule { class, key: format!("/{regex}/"), target, entry, outcome });
            }
        }
        sort_by_precedence(&mut rules);
        let winner = judgement.winner();
        let is_alias = |id| self.rules.class(id).is_some_and(|class| class.kind == Kind::Alias);
        self.is_led_on |= winner.is_some_and(|winner| is_alias(winner.class) && winner.reaches_every_name());
        let winner_target = rules.iter().find(|rule| rule.outcome.ok() == winner).and_then(|rule| rule.target);
        Ok(Found { rules, winner, winner_target })
    }

    /// Where an alias that won leads from `name`.
    pub fn target(&self, name: &Name, found: &Found) -> Result<Option<Name>, String> {
        let (Some(winner), Some(target)) = (found.winner, found.winner_target) else { return Ok(None) };
        let kept = match self.rules.class(winner.class).map(|class| class.alias_labels) {
            Some(AliasLabels::All) => name.label_count(),
            Some(AliasLabels::Below) => name.label_count().saturating_sub(usize::from(winner.labels)),
            Some(AliasLabels::None) | None => 0,
        };
        name.prefix_onto(kept, &target).map(Some).map_err(|error| format!("target of {name}: {error}"))
    }

    /// Which entry a rule is, or is removed by; `seq` when it is known.
    fn entry_of(&self, by: FoundBy<'_>, class: ClassId, seq: Option<u64>) -> String {
        match (self.rules.is_live(class), self.list_name(class)) {
            (true, Some((class, list))) => self.entries.adding(by, class, list, seq),
            _ => self.removal_of(by, class).unwrap_or_default(),
        }
    }

    fn removal_of(&self, by: FoundBy<'_>, class: ClassId) -> Option<String> {
        let (class, list) = self.list_name(class)?;
        self.entries.removing(by, class, list)
    }

    fn list_name(&self, class: ClassId) -> Option<(&Class, &str)> {
        let class = self.rules.class(class)?;
        Some((class, self.rules.list(class.list)?.list.name.as_str()))
    }

    fn target_of(&mut self, class: ClassId, labels: u8) -> Result<Option<Name>, String> {
        if self.rules.class(class).is_none_or(|class| class.kind != Kind::Alias) {
            return Ok(None);
        }
        if self.rules.is_live(class) {
            return Ok(self.rules.live_root_target(class));
        }
        let labels = usize::from(labels);
        self.store
            .target(self.lookup.shard_of_suffix(labels), self.lookup.suffix_text(labels), class)
            .map_err(|_| "the target of an alias cannot be read; run `corewall check --full`".to_owned())
    }
}

/// Those that apply first, by precedence.
fn sort_by_precedence(rules: &mut [FoundRule]) {
    rules.sort_by_key(|rule| rule.outcome.map_or((true, None), |candidate| (false, Some(candidate.rank))));
}
