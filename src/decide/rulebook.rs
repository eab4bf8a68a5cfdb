//! What the query path knows of one generation: its classes, lists, filters, patterns' classes and address rewrites.

use std::net::IpAddr;
use std::sync::Arc;

use corewall_sharding::filters::Filters;
use corewall_sharding::name::Name;
use corewall_sharding::publish::Generation;
use corewall_sharding::route::HashKey;
use corewall_sharding::rule::{AnswerRecord, Class, ClassId, Kind, List, ListId, TypedAnswer};

use super::address::AddressRules;
use super::rewrite::Rewrites;
use super::root::RootRules;
use super::rule::{self, Asked, Tier};
use super::settings::{Policy, PolicyId, Settings, list_applies};
use crate::limits::EDE_TEXT_BYTES_MAX;

/// INFO-CODEs of RFC 8914 §4 that a verdict may carry.
pub mod ede_code {
    /// Forged Answer.
    pub const FORGED: u16 = 4;
    /// Blocked.
    pub const BLOCKED: u16 = 15;
    /// Censored.
    pub const CENSORED: u16 = 16;
    /// Filtered.
    pub const FILTERED: u16 = 17;
    /// Prohibited.
    pub const PROHIBITED: u16 = 18;
}

/// A list, ready to answer with.
#[derive(Clone, Debug)]
pub struct ListBook {
    /// As the generation has it.
    pub list: List,
    /// INFO-CODE by its category.
    pub ede_code: u16,
    /// EXTRA-TEXT, cut to its bound.
    pub ede_text: String,
    /// Its answers by type.
    pub answers: Vec<AnswerRecord>,
}

/// All that the query path knows of one generation: immutable and shared.
pub struct RuleBook {
    generation: u64,
    key: HashKey,
    classes: Vec<Class>,
    lists: Vec<ListBook>,
    filters: Arc<Filters>,
    patterns: Vec<(ClassId, Option<Name>)>,
    /// Some pattern may overrule a block or alias by name, so that names found in the store are scanned too.
    patterns_overrule: bool,
    root: RootRules,
    addresses: AddressRules,
    rewrites: Rewrites,
    /// By policy: which lists apply; none means all.
    policy_lists: Vec<Option<Vec<bool>>>,
    policy_names: Vec<String>,
}

/// A list's answer by type cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadTypedAnswer {
    /// Whose.
    pub list: String,
    /// Which.
    pub answer: TypedAnswer,
    /// Why.
    pub reason: String,
}

impl std::fmt::Display for BadTypedAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { list, answer: TypedAnswer { rtype, data }, reason } = self;
        write!(f, "list `{list}`: answer `{rtype} {data}`: {reason}")
    }
}

impl std::error::Error for BadTypedAnswer {}

impl RuleBook {
    /// No store: nothing is listed.
    pub fn empty(settings: &Settings) -> Self {
        Self {
            generation: 0,
            key: HashKey([0; 16]),
            classes: Vec::new(),
            lists: Vec::new(),
            filters: Arc::new(Filters::none()),
            patterns: Vec::new(),
            patterns_overrule: false,
            root: RootRules::default(),
            addresses: AddressRules::default(),
            rewrites: Rewrites::default(),
            policy_lists: settings.policies.iter().map(|_| None).collect(),
            policy_names: settings.policies.iter().map(|policy| policy.name.clone()).collect(),
        }
    }

    /// The rules of `generation` as `settings` have them applied.
    pub fn new(generation: &Generation, settings: &Settings) -> Result<Self, BadTypedAnswer> {
        let lists = generation.lists.iter().map(ListBook::new).collect::<Result<Vec<_>, _>>()?;
        let names: Vec<&str> = generation.lists.iter().map(|list| list.name.as_str()).collect();
        let patterns: Vec<_> = generation.patterns.iter().map(|row| (row.class, row.target)).collect();
        let patterns_overrule = overrule(&patterns, &generation.classes);
        Ok(Self {
            generation: generation.number,
            key: generation.key,
            classes: generation.classes.clone(),
            lists,
            filters: generation.filters.clone(),
            patterns,
            patterns_overrule,
            root: RootRules::new(&generation.root, &generation.classes),
            addresses: AddressRules::new(&generation.addresses),
            rewrites: Rewrites::new(&generation.rewrites),
            policy_lists: (0..settings.policies.len() as PolicyId).map(|p| settings.lists_of(p, &names)).collect(),
            policy_names: settings.policies.iter().map(|Policy { name, .. }| name.clone()).collect(),
        })
    }

    /// Its number; 0 without a store.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether there is no store.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// The key of the name hash.
    pub fn key(&self) -> HashKey {
        self.key
    }

    /// Shards, at least one.
    pub fn shard_count(&self) -> u16 {
        self.filters.shard_count()
    }

    /// What tells which names the store certainly does not list.
    pub fn filters(&self) -> &Arc<Filters> {
        &self.filters
    }

    /// Whether names are scanned at all.
    pub fn has_patterns(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// The class of a number found in the store.
    pub fn class(&self, id: ClassId) -> Option<&Class> {
        self.classes.get(id as usize)
    }

    /// All classes, by number.
    pub fn classes(&self) -> &[Class] {
        &self.classes
    }

    /// All lists, by number.
    pub fn lists(&self) -> &[ListBook] {
        &self.lists
    }

    /// A list by its number.
    pub fn list(&self, id: ListId) -> Option<&ListBook> {
        self.lists.get(usize::from(id))
    }

    /// A pattern's class and, for an alias, target.
    pub fn pattern(&self, id: u32) -> Option<(ClassId, Option<Name>)> {
        self.patterns.get(id as usize).copied()
    }

    /// Whether some pattern may overrule a block or alias by name.
    pub fn patterns_overrule(&self) -> bool {
        self.patterns_overrule
    }

    /// A policy's name.
    pub fn policy_name(&self, policy: PolicyId) -> Option<&str> {
        self.policy_names.get(usize::from(policy)).map(String::as_str)
    }

    /// Whether an upstream's answer, kept under `other`, needs no other look at its addresses now, under any policy.
    pub fn treats_addresses_as(&self, other: &RuleBook) -> bool {
        let has_none = |book: &RuleBook| book.rewrites == Rewrites::default();
        // Rules on addresses spare answers to allowed names: even when they stay, their effect changes with any other rule.
        let judges = |book: &RuleBook| !book.addresses.is_empty();
        // Rewrites refer to lists by number, and so do policies.
        !judges(self)
            && !judges(other)
            && self.rewrites == other.rewrites
            && (has_none(self) || self.policy_lists == other.policy_lists)
    }

    /// Whether upstreams' answers pass as they are, whatever addresses they hold.
    pub fn leaves_addresses_alone(&self) -> bool {
        self.addresses.is_empty() && self.rewrites == Rewrites::default()
    }

    /// Whether there are rules on the root name.
    pub fn has_root_rules(&self) -> bool {
        !self.root.is_empty()
    }

    /// The rules on the root name that speak of who asks. `is_led_on`: without aliases, see
    /// [`super::query::Query::is_led_on`]. On the hot path.
    pub fn root_rules(&self, asked: &Asked<'_>, is_led_on: bool) -> impl Iterator<Item = ClassId> {
        let may_be_followed =
            move |id: &ClassId| !is_led_on || self.class(*id).is_none_or(|class| class.kind != Kind::Alias);
        let of_client = self.root_rules_of_client(asked.policy, asked.client);
        self.root.for_all().chain(of_client).filter(may_be_followed)
    }

    /// Whether a rule on the root name speaks of this very client.
    pub fn singles_out(&self, policy: PolicyId, client: IpAddr) -> bool {
        self.root_rules_of_client(policy, client).next().is_some()
    }

    fn root_rules_of_client(&self, policy: PolicyId, client: IpAddr) -> impl Iterator<Item = ClassId> {
        self.root.of_client(client).filter(move |&id| {
            self.class(id).is_some_and(|class| {
                let condition = class.condition.as_ref();
                self.list_applies(policy, class.list)
                    && condition.is_none_or(|condition| rule::holds_for_client(condition, self, policy, client))
            })
        })
    }

    /// The rules on addresses.
    pub fn addresses(&self) -> &AddressRules {
        &self.addresses
    }

    /// The address rewrites.
    pub fn rewrites(&self) -> &Rewrites {
        &self.rewrites
    }

    /// Whether a list applies under a policy.
    pub fn list_applies(&self, policy: PolicyId, list: ListId) -> bool {
        list_applies(self.policy_lists.get(usize::from(policy)).and_then(Option::as_deref), list)
    }
}

impl ListBook {
    fn new(list: &List) -> Result<Self, BadTypedAnswer> {
        let mut ede_text = list.ede_text.clone().unwrap_or_else(|| list.name.clone());
        while ede_text.len() > EDE_TEXT_BYTES_MAX {
            ede_text.pop();
        }
        let answers = list.answers.iter().map(|answer| {
            crate::rdata::parse(&answer.rtype, &answer.data)
                .map(|(rtype, rdata)| AnswerRecord { rtype, ttl_s: list.block_ttl_s, rdata })
                .map_err(|reason| BadTypedAnswer { list: list.name.clone(), answer: answer.clone(), reason })
        });
        Ok(Self {
            ede_code: match list.category.as_str() {
                "censored" => ede_code::CENSORED,
                "filtered" => ede_code::FILTERED,
                "prohibited" => ede_code::PROHIBITED,
                "forged" => ede_code::FORGED,
                _ => ede_code::BLOCKED,
            },
            ede_text,
            answers: answers.collect::<Result<_, _>>()?,
            list: list.clone(),
        })
    }
}

fn overrule(patterns: &[(ClassId, Option<Name>)], classes: &[Class]) -> bool {
    let tiers = patterns.iter().filter_map(|&(class, _)| classes.get(class as usize)).map(Tier::of);
    tiers.into_iter().any(|tier| tier < Tier::BlockByPattern)
}

#[cfg(test)]
impl RuleBook {
    /// A book whose store is a test's own.
    pub(super) fn of_rules(
        classes: Vec<Class>,
        lists: Vec<List>,
        patterns: Vec<(ClassId, Option<Name>)>,
        policies: &[(&str, Option<Vec<bool>>)],
    ) -> Self {
        Self {
            generation: 1,
            lists: lists.iter().map(|list| ListBook::new(list).unwrap()).collect(),
            patterns_overrule: overrule(&patterns, &classes),
            classes,
            patterns,
            policy_lists: policies.iter().map(|(_, lists)| lists.clone()).collect(),
            policy_names: policies.iter().map(|(name, _)| (*name).to_owned()).collect(),
            ..Self::empty(&Settings::default())
        }
    }
}
