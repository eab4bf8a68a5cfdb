//! What the query path knows of one generation: its classes, lists, filters, patterns' classes and address rewrites; with the
//! live rules on top of it.

use std::net::IpAddr;
use std::sync::Arc;

use corewall_sharding::filters::Filters;
use corewall_sharding::name::Name;
use corewall_sharding::publish::Generation;
use corewall_sharding::route::HashKey;
use corewall_sharding::rule::{AnswerRecord, Class, ClassId, Kind, List, ListId, TypedAnswer};
use ipnet::IpNet;

use super::address::{AddressRule, AddressRules};
use super::filter::Lookup;
use super::live::{LivePattern, LiveRules};
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

/// All that the query path knows of one generation and of the live rules on top of it: immutable and shared. A copy shares
/// whatever may be large.
#[derive(Clone)]
pub struct RuleBook {
    generation: u64,
    key: HashKey,
    classes: Arc<[Class]>,
    lists: Arc<[ListBook]>,
    filters: Arc<Filters>,
    patterns: Arc<[(ClassId, Option<Name>)]>,
    /// Some pattern may overrule a block or alias by name, so that names found in the store are scanned too.
    patterns_overrule: bool,
    overlaid: Overlaid,
    policy_names: Arc<[String]>,
    live: LiveRules,
}

/// What live rules and the generation's are mixed in.
#[derive(Clone)]
pub(super) struct Overlaid {
    pub(super) root: Arc<RootRules>,
    pub(super) addresses: AddressRules,
    pub(super) rewrites: Rewrites,
    /// By policy: which lists apply; none means all.
    pub(super) policy_lists: Arc<[Option<Vec<bool>>]>,
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
            classes: Arc::default(),
            lists: Arc::default(),
            filters: Arc::new(Filters::none()),
            patterns: Arc::default(),
            patterns_overrule: false,
            overlaid: Overlaid {
                root: Arc::default(),
                addresses: AddressRules::default(),
                rewrites: Rewrites::default(),
                policy_lists: (0..settings.policies.len() as PolicyId).map(|p| settings.lists_of(p, &[])).collect(),
            },
            policy_names: settings.policies.iter().map(|policy| policy.name.clone()).collect(),
            live: LiveRules::default(),
        }
    }

    /// The rules of `generation` as `settings` have them applied.
    pub fn new(generation: &Generation, settings: &Settings) -> Result<Self, BadTypedAnswer> {
        let lists = generation.lists.iter().map(ListBook::new).collect::<Result<Arc<[_]>, _>>()?;
        let names: Vec<&str> = generation.lists.iter().map(|list| list.name.as_str()).collect();
        let patterns: Arc<[_]> = generation.patterns.iter().map(|row| (row.class, row.target)).collect();
        let patterns_overrule = overrule(&patterns, &generation.classes);
        Ok(Self {
            generation: generation.number,
            key: generation.key,
            classes: generation.classes.as_slice().into(),
            lists,
            filters: generation.filters.clone(),
            patterns,
            patterns_overrule,
            overlaid: Overlaid {
                root: Arc::new(RootRules::new(&generation.root, |id| generation.classes.get(id as usize))),
                addresses: AddressRules::new(&generation.addresses),
                rewrites: Rewrites::new(&generation.rewrites),
                policy_lists: (0..settings.policies.len() as PolicyId).map(|p| settings.lists_of(p, &names)).collect(),
            },
            live: LiveRules::default(),
            policy_names: settings.policies.iter().map(|Policy { name, .. }| name.clone()).collect(),
        })
    }

    /// This generation's rules, with others on top.
    pub(super) fn with_live(&self, live: LiveRules, overlaid: Overlaid) -> Self {
        Self { live, overlaid, ..self.clone() }
    }

    /// Where live rules are mixed in.
    pub(super) fn overlaid(&self) -> Overlaid {
        self.overlaid.clone()
    }

    /// The live rules.
    pub fn live(&self) -> &LiveRules {
        &self.live
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
        !self.patterns.is_empty() || !self.live.patterns.is_empty()
    }

    /// The class of a number found in the store, or of a live rule's.
    pub fn class(&self, id: ClassId) -> Option<&Class> {
        let live = || self.live.classes.get((id as usize).checked_sub(self.classes.len())?);
        self.classes.get(id as usize).or_else(live)
    }

    /// Whether the store's rule of `class` on the suffix of `labels` labels of `name`, of which `lookup` is, holds no longer. On
    /// the hot path.
    pub fn voids_row(&self, lookup: &Lookup, name: &Name, labels: u8, class: ClassId) -> bool {
        self.live.has_voids()
            && self.class(class).is_some_and(|class| self.live.void_of(lookup, name, labels, class).is_some())
    }

    /// Classes of the generation: live ones are numbered from here on.
    pub fn base_class_count(&self) -> usize {
        self.classes.len()
    }

    /// All classes.
    pub fn class_count(&self) -> usize {
        self.classes.len() + self.live.classes.len()
    }

    /// Whether a rule of this class is a live one.
    pub fn is_live(&self, class: ClassId) -> bool {
        class as usize >= self.classes.len()
    }

    /// All lists, by number.
    pub fn lists(&self) -> impl Iterator<Item = &ListBook> {
        self.lists.iter().chain(self.live.lists.iter())
    }

    /// Lists of the generation: live ones are numbered from here on.
    pub fn list_count(&self) -> ListId {
        self.lists.len() as ListId
    }

    /// The generation's list of this name.
    pub fn list_named(&self, name: &str) -> Option<ListId> {
        self.lists.iter().position(|book| book.list.name == name).map(|place| place as ListId)
    }

    /// Where the live alias of `class` on the root name leads.
    pub fn live_root_target(&self, class: ClassId) -> Option<Name> {
        self.live.root_targets.get(&class).copied()
    }

    /// Whether the lists are those of another book.
    pub(super) fn has_lists_of(&self, other: &RuleBook) -> bool {
        Arc::ptr_eq(&self.lists, &other.lists) && Arc::ptr_eq(&self.live.lists, &other.live.lists)
    }

    /// A list by its number.
    pub fn list(&self, id: ListId) -> Option<&ListBook> {
        let live = || self.live.lists.get(usize::from(id).checked_sub(self.lists.len())?);
        self.lists.get(usize::from(id)).or_else(live)
    }

    /// A pattern's class and, for an alias, target; none when it is voided.
    pub fn pattern(&self, id: u32) -> Option<(ClassId, Option<Name>)> {
        match self.patterns.get(id as usize) {
            Some(_) if self.voids_pattern(id) => None,
            Some(pattern) => Some(*pattern),
            None => self.live_pattern(id).map(|pattern| (pattern.class, pattern.target)),
        }
    }

    /// The class of one of the generation's patterns though it be voided.
    pub fn voided_pattern(&self, id: u32) -> Option<ClassId> {
        self.patterns.get(id as usize).filter(|_| self.voids_pattern(id)).map(|(class, _)| *class)
    }

    fn voids_pattern(&self, id: u32) -> bool {
        !self.live.voided_patterns.is_empty() && self.live.voided_patterns.contains(&id)
    }

    /// The live pattern of this number.
    pub fn live_pattern(&self, id: u32) -> Option<&LivePattern> {
        self.live.patterns.get((id as usize).checked_sub(self.patterns.len())?)
    }

    /// Patterns of the generation: live ones are numbered from here on.
    pub fn base_pattern_count(&self) -> u32 {
        self.patterns.len() as u32
    }

    /// Whether some pattern may overrule a block or alias by name.
    pub fn patterns_overrule(&self) -> bool {
        self.patterns_overrule || self.live.patterns_overrule
    }

    /// A policy's name.
    pub fn policy_name(&self, policy: PolicyId) -> Option<&str> {
        self.policy_names.get(usize::from(policy)).map(String::as_str)
    }

    /// Whether an upstream's answer, kept under `other`, needs no other look at its addresses now, under any policy.
    pub fn treats_addresses_as(&self, other: &RuleBook) -> bool {
        // Rules on addresses spare answers to allowed names: even when they stay, their effect changes with any other rule.
        let judges = |book: &RuleBook| !book.addresses().is_empty();
        // Rewrites refer to lists by number, and so do policies.
        !judges(self)
            && !judges(other)
            && self.rewrites().are(other.rewrites())
            && (self.rewrites().is_empty() || self.overlaid.policy_lists == other.overlaid.policy_lists)
    }

    /// Whether upstreams' answers pass as they are, whatever addresses they hold.
    pub fn leaves_addresses_alone(&self) -> bool {
        self.addresses().is_empty() && self.rewrites().is_empty()
    }

    /// Whether there are rules on the root name.
    pub fn has_root_rules(&self) -> bool {
        !self.overlaid.root.is_empty()
    }

    /// The rules on the root name that speak of who asks. `is_led_on`: without aliases, see
    /// [`super::query::Query::is_led_on`]. On the hot path.
    pub fn root_rules(&self, asked: &Asked<'_>, is_led_on: bool) -> impl Iterator<Item = ClassId> {
        let may_be_followed =
            move |id: &ClassId| !is_led_on || self.class(*id).is_none_or(|class| class.kind != Kind::Alias);
        let of_client = self.root_rules_of_client(asked.policy, asked.client);
        self.overlaid.root.for_all().chain(of_client).filter(may_be_followed)
    }

    /// Whether a rule on the root name speaks of this very client.
    #[inline]
    pub fn singles_out(&self, policy: PolicyId, client: IpAddr) -> bool {
        self.overlaid.root.ask_for_clients() && self.root_rules_of_client(policy, client).next().is_some()
    }

    fn root_rules_of_client(&self, policy: PolicyId, client: IpAddr) -> impl Iterator<Item = ClassId> {
        self.overlaid.root.of_client(client).filter(move |&id| {
            self.class(id).is_some_and(|class| {
                let condition = class.condition.as_ref();
                self.list_applies(policy, class.list)
                    && condition.is_none_or(|condition| rule::holds_for_client(condition, self, policy, client))
            })
        })
    }

    /// The rules on addresses.
    pub fn addresses(&self) -> &AddressRules {
        &self.overlaid.addresses
    }

    /// The rules on addresses whose prefix holds `address`, each with the prefix's bits, but for those that are voided.
    pub fn address_rules(&self, address: IpAddr) -> impl Iterator<Item = (u8, AddressRule)> {
        let all = self.overlaid.addresses.holding(address);
        all.filter(move |(bits, rule)| !self.voids_address(address, *bits, rule.class))
    }

    /// Whether the generation's rule of `class` on the prefix of so many bits of `address` holds no longer.
    pub fn voids_address(&self, address: IpAddr, bits: u8, class: ClassId) -> bool {
        let voided = &self.live.voided_addresses;
        if voided.is_empty() || self.is_live(class) {
            return false;
        }
        let (Ok(net), Some(class)) = (IpNet::new(address, bits), self.class(class)) else { return false };
        voided.contains(&(net.trunc(), class.kind, class.list))
    }

    /// The address rewrites.
    pub fn rewrites(&self) -> &Rewrites {
        &self.overlaid.rewrites
    }

    /// Whether a list applies under a policy.
    pub fn list_applies(&self, policy: PolicyId, list: ListId) -> bool {
        list_applies(self.overlaid.policy_lists.get(usize::from(policy)).and_then(Option::as_deref), list)
    }
}

impl ListBook {
    /// A list without answers by type.
    pub(super) fn plain(list: &List) -> Self {
        Self::with_answers(list, Vec::new())
    }

    fn new(list: &List) -> Result<Self, BadTypedAnswer> {
        let answers = list.answers.iter().map(|answer| {
            crate::rdata::parse(&answer.rtype, &answer.data)
                .map(|(rtype, rdata)| AnswerRecord { rtype, ttl_s: list.block_ttl_s, rdata })
                .map_err(|reason| BadTypedAnswer { list: list.name.clone(), answer: answer.clone(), reason })
        });
        Ok(Self::with_answers(list, answers.collect::<Result<_, _>>()?))
    }

    fn with_answers(list: &List, answers: Vec<AnswerRecord>) -> Self {
        let mut ede_text = list.ede_text.clone().unwrap_or_else(|| list.name.clone());
        while ede_text.len() > EDE_TEXT_BYTES_MAX {
            ede_text.pop();
        }
        Self {
            ede_code: match list.category.as_str() {
                "censored" => ede_code::CENSORED,
                "filtered" => ede_code::FILTERED,
                "prohibited" => ede_code::PROHIBITED,
                "forged" => ede_code::FORGED,
                _ => ede_code::BLOCKED,
            },
            ede_text,
            answers,
            list: list.clone(),
        }
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
        let mut book = Self::empty(&Settings::default());
        book.generation = 1;
        book.lists = lists.iter().map(|list| ListBook::new(list).unwrap()).collect();
        book.patterns_overrule = overrule(&patterns, &classes);
        book.classes = classes.into();
        book.patterns = patterns.into();
        book.overlaid.policy_lists = policies.iter().map(|(_, lists)| lists.clone()).collect();
        book.policy_names = policies.iter().map(|(name, _)| (*name).to_owned()).collect();
        book
    }
}
