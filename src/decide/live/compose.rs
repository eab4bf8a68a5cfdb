//! Makes a book of a generation's rules and the live ones. Control side: it allocates, and no worker waits for it.
//!
//! Invariants: [`Composer::check`] tells beforehand whether [`Composer::apply`] can take an update in, so that what is durable
//! can be served; applying an update twice is as good as once. A class or list that no entry refers to any more gives its number
//! to the next one, which nobody can mistake, for names and classes are handed over together.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use corewall_sharding::name::Name;
use corewall_sharding::overlay::{LiveChange as Change, LiveEntry, LiveUpdate, Void};
use corewall_sharding::publish::{AddressRow, Generation};
use corewall_sharding::route::{self, NameHash};
use corewall_sharding::rule::{Class, ClassId, IpRewrite, Kind, List, ListId, Rule, RuleKey, Scope};
use ipnet::IpNet;

use super::names::{LiveName, Says};
use super::{LiveChange, LivePattern, LiveRules};
use crate::decide::changes::Touched;
use crate::decide::root::RootRules;
use crate::decide::rule::Tier;
use crate::decide::rulebook::{ListBook, Overlaid, RuleBook};
use crate::decide::settings::{PolicyId, Settings};
use crate::limits::{
    LIVE_ADDRESSES_MAX, LIVE_CHANGES_KEPT, LIVE_CLASSES_MAX, LIVE_LISTS_MAX, LIVE_OF_NAME_MAX, LIVE_PATTERNS_MAX,
    LIVE_REWRITES_MAX,
};

/// The live entries on one generation under one configuration, and the book of both.
pub struct Composer {
    settings: Arc<Settings>,
    generation: Option<Arc<Generation>>,
    /// The generation alone.
    base: Arc<RuleBook>,
    /// Where each entry went.
    entries: HashMap<u64, Held>,
    classes: Numbered<Class>,
    lists: Numbered<String>,
    patterns: BTreeMap<u64, LivePattern>,
    addresses: BTreeMap<u64, AddressRow>,
    rewrites: BTreeMap<u64, IpRewrite>,
    root: BTreeMap<u64, (ClassId, Option<Name>)>,
    voided_root: BTreeMap<u64, (Kind, Scope, ListId)>,
    voided_patterns: BTreeMap<u64, (String, Kind, ListId)>,
    voided_addresses: BTreeMap<u64, (IpNet, Kind, ListId)>,
    voided_rewrites: BTreeMap<u64, (IpNet, ListId)>,
    /// What the last book was made of.
    live: LiveRules,
    overlaid: Overlaid,
    book: Arc<RuleBook>,
    version: u64,
}

/// Where an entry went.
enum Held {
    Name(Arc<LiveName>),
    Root,
    Pattern,
    Address,
    Rewrite,
    RootVoid,
    PatternVoid,
    AddressVoid,
    RewriteVoid,
    /// A void of a list that the generation does not know.
    Nowhere,
}

/// Which parts of the book an update has changed.
#[derive(Default)]
struct Changed {
    classes: bool,
    lists: bool,
    root: bool,
    patterns: bool,
    addresses: bool,
    rewrites: bool,
    /// A rule that allows holds no longer.
    disallows: bool,
    touched: Vec<Touched>,
}

impl Composer {
    /// No live entries on `base`, which is made of `generation` and `settings`.
    pub fn new(base: Arc<RuleBook>, generation: Option<Arc<Generation>>, settings: Arc<Settings>) -> Self {
        Self {
            overlaid: base.overlaid(),
            book: base.clone(),
            live: LiveRules::default(),
            settings,
            generation,
            base,
            entries: HashMap::new(),
            classes: Numbered::new(),
            lists: Numbered::new(),
            patterns: BTreeMap::new(),
            addresses: BTreeMap::new(),
            rewrites: BTreeMap::new(),
            root: BTreeMap::new(),
            voided_root: BTreeMap::new(),
            voided_patterns: BTreeMap::new(),
            voided_addresses: BTreeMap::new(),
            voided_rewrites: BTreeMap::new(),
            version: 0,
        }
    }

    /// The book as it is now.
    pub fn book(&self) -> &Arc<RuleBook> {
        &self.book
    }

    /// The numbers of all entries.
    pub fn numbers(&self) -> HashSet<u64> {
        self.entries.keys().copied().collect()
    }

    /// The expressions of the live patterns after `update`, in the order of their numbers.
    pub fn patterns_after(&self, update: &LiveUpdate) -> Vec<String> {
        let mut patterns: BTreeMap<u64, &str> =
            self.patterns.iter().map(|(&seq, pattern)| (seq, pattern.regex.as_str())).collect();
        for entry in &update.entered {
            if let Change::Rule(rule) = &entry.change
                && let RuleKey::Pattern { regex, .. } = &rule.key
            {
                patterns.insert(entry.seq, regex);
            }
        }
        patterns.retain(|seq, _| !update.left.contains(seq));
        patterns.into_values().map(str::to_owned).collect()
    }

    /// Whether there is room for the update. Counts what enters as if nothing left.
    ///
    /// # Errors
    /// Which bound it breaks, in words.
    pub fn check(&self, update: &LiveUpdate) -> Result<(), String> {
        let too_many = |what: &str, bound: usize| {
            Err(format!("more than {bound} live {what}; remove some, or put them into a list"))
        };
        let mut names: HashMap<u64, usize> = HashMap::new();
        let hash = |name: &Name| route::hash(self.base.key(), name).0;
        let (mut addresses, mut rewrites, mut roots) = (self.addresses.len(), self.rewrites.len(), self.root.len());
        let mut lists: Vec<&str> = Vec::new();
        let mut classes: HashSet<(&Class, &str)> = HashSet::new();
        for entry in update.entered.iter().filter(|entry| !self.entries.contains_key(&entry.seq)) {
            if self.list_of(&entry.list).is_none()
                && !matches!(entry.change, Change::Void(_))
                && !lists.contains(&&*entry.list)
            {
                lists.push(&entry.list);
            }
            // Bounded while it is counted: an update may hold a million entries.
            if self.lists.used() + lists.len() > LIVE_LISTS_MAX {
                return too_many("lists", LIVE_LISTS_MAX);
            }
            match &entry.change {
                Change::Rule(rule) => {
                    check_rule(rule).map_err(|what| format!("overlay entry {}: {what}", entry.seq))?;
                    classes.insert((&rule.class, &entry.list));
                    match &rule.key {
                        RuleKey::Name { name, .. } if name.is_root() => roots += 1,
                        RuleKey::Name { name, .. } => *names.entry(hash(name)).or_insert(0) += 1,
                        RuleKey::Pattern { .. } => {}
                        RuleKey::Address { .. } => addresses += 1,
                    }
                }
                Change::Rewrite(_) => rewrites += 1,
                Change::Void(Void::Name { name, .. }) if !name.is_root() => *names.entry(hash(name)).or_insert(0) += 1,
                Change::Void(_) => {}
            }
            if self.classes.used() + classes.len() > LIVE_CLASSES_MAX {
                return too_many("rules that differ in more than their names", LIVE_CLASSES_MAX);
            }
        }
        if addresses > LIVE_ADDRESSES_MAX {
            return too_many("rules on addresses", LIVE_ADDRESSES_MAX);
        }
        if rewrites > LIVE_REWRITES_MAX {
            return too_many("address rewrites", LIVE_REWRITES_MAX);
        }
        if roots > LIVE_OF_NAME_MAX {
            return too_many("rules on the root name", LIVE_OF_NAME_MAX);
        }
        if self.patterns_after(update).len() > LIVE_PATTERNS_MAX {
            return too_many("patterns", LIVE_PATTERNS_MAX);
        }
        match names
            .into_iter()
            .find(|(hash, entering)| self.live.names.count_of(NameHash(*hash)) + entering > LIVE_OF_NAME_MAX)
        {
            Some(_) => too_many("entries on one name", LIVE_OF_NAME_MAX),
            None => Ok(()),
        }
    }

    /// Takes an update in, which [`Self::check`] has found to fit, and makes the book of it.
    pub fn apply(&mut self, update: &LiveUpdate) -> LiveChange {
        let mut changed = Changed::default();
        for seq in &update.left {
            if let Some(held) = self.entries.remove(seq) {
                self.leave(*seq, held, &mut changed);
            }
        }
        for entry in &update.entered {
            self.live.summary.last_seq = self.live.summary.last_seq.max(entry.seq);
            if !self.entries.contains_key(&entry.seq) {
                let held = self.enter(entry, &mut changed);
                self.entries.insert(entry.seq, held);
            }
        }
        self.compose(changed)
    }

    fn enter(&mut self, entry: &LiveEntry, changed: &mut Changed) -> Held {
        let (seq, summary) = (entry.seq, &mut self.live.summary);
        match &entry.change {
            Change::Void(_) => summary.voids += 1,
            Change::Rule(_) | Change::Rewrite(_) => summary.rules += 1,
        }
        match &entry.change {
            Change::Rule(rule) => {
                let list = self.take_list(&entry.list, changed);
                let class = self.take_class(Class { list, ..rule.class.clone() }, changed);
                match &rule.key {
                    RuleKey::Name { name, target } if name.is_root() => {
                        changed.root = true;
                        self.root.insert(seq, (class, *target));
                        Held::Root
                    }
                    RuleKey::Name { name, target } => {
                        let says = Says::Rule { class, target: target.map(Box::new) };
                        self.enter_name(seq, name, rule.class.scope, says, changed)
                    }
                    RuleKey::Pattern { regex, target } => {
                        changed.patterns = true;
                        self.patterns.insert(seq, LivePattern { seq, regex: regex.clone(), class, target: *target });
                        Held::Pattern
                    }
                    RuleKey::Address { net, target } => {
                        changed.addresses = true;
                        self.addresses
                            .insert(seq, AddressRow { net: net.trunc(), class, target: target.map(Box::new) });
                        Held::Address
                    }
                }
            }
            Change::Rewrite(rewrite) => {
                changed.rewrites = true;
                let list = self.take_list(&entry.list, changed);
                self.rewrites.insert(seq, IpRewrite { list, ..*rewrite });
                Held::Rewrite
            }
            Change::Void(void) => match self.base.list_named(&entry.list) {
                Some(list) => self.enter_void(seq, void, list, changed),
                None => Held::Nowhere,
            },
        }
    }

    fn enter_name(&mut self, seq: u64, name: &Name, scope: Scope, says: Says, changed: &mut Changed) -> Held {
        changed.touch(name, scope);
        let entry = Arc::new(LiveName::new(seq, route::hash(self.base.key(), name), name, says));
        self.live.names.enter(entry.clone(), scope, name.label_count());
        Held::Name(entry)
    }

    fn enter_void(&mut self, seq: u64, void: &Void, list: ListId, changed: &mut Changed) -> Held {
        match void {
            Void::Name { name, scope, kind } if name.is_root() => {
                changed.root = true;
                self.voided_root.insert(seq, (*kind, *scope, list));
                Held::RootVoid
            }
            Void::Name { name, scope, kind } => {
                changed.disallows |= allows(*kind);
                self.enter_name(seq, name, *scope, Says::Void { kind: *kind, scope: *scope, list }, changed)
            }
            Void::Pattern { regex, kind } => {
                changed.patterns = true;
                self.voided_patterns.insert(seq, (regex.clone(), *kind, list));
                Held::PatternVoid
            }
            Void::Address { net, kind } => {
                changed.addresses = true;
                self.voided_addresses.insert(seq, (net.trunc(), *kind, list));
                Held::AddressVoid
            }
            Void::Rewrite { from } => {
                changed.rewrites = true;
                self.voided_rewrites.insert(seq, (from.trunc(), list));
                Held::RewriteVoid
            }
        }
    }

    fn leave(&mut self, seq: u64, held: Held, changed: &mut Changed) {
        let summary = &mut self.live.summary;
        match &held {
            Held::RootVoid | Held::PatternVoid | Held::AddressVoid | Held::RewriteVoid | Held::Nowhere => {
                summary.voids = summary.voids.saturating_sub(1);
            }
            Held::Name(name) if matches!(name.says, Says::Void { .. }) => {
                summary.voids = summary.voids.saturating_sub(1);
            }
            Held::Name(_) | Held::Root | Held::Pattern | Held::Address | Held::Rewrite => {
                summary.rules = summary.rules.saturating_sub(1);
            }
        }
        match held {
            Held::Nowhere => {}
            Held::Name(entry) => {
                let Ok(name) = Name::from_wire(entry.wire()) else { return };
                let scope = match &entry.says {
                    Says::Void { scope, .. } => *scope,
                    Says::Rule { class, .. } => {
                        let class = self.class(*class).map(|class| (class.scope, class.kind));
                        let (scope, kind) = class.unwrap_or((Scope::Exact, Kind::Block));
                        changed.disallows |= allows(kind);
                        scope
                    }
                };
                self.live.names.leave(&entry, scope, name.label_count());
                changed.touch(&name, scope);
                if let Says::Rule { class, .. } = entry.says {
                    self.give_class_back(class);
                }
            }
            Held::Root => {
                changed.root = true;
                if let Some((class, _)) = self.root.remove(&seq) {
                    self.give_class_back(class);
                }
            }
            Held::Pattern => {
                changed.patterns = true;
                if let Some(LivePattern { class, .. }) = self.patterns.remove(&seq) {
                    self.give_class_back(class);
                }
            }
            Held::Address => {
                changed.addresses = true;
                if let Some(AddressRow { class, .. }) = self.addresses.remove(&seq) {
                    self.give_class_back(class);
                }
            }
            Held::Rewrite => {
                changed.rewrites = true;
                if let Some(IpRewrite { list, .. }) = self.rewrites.remove(&seq) {
                    self.give_list_back(list);
                }
            }
            Held::RootVoid => {
                changed.root = true;
                self.voided_root.remove(&seq);
            }
            Held::PatternVoid => {
                changed.patterns = true;
                self.voided_patterns.remove(&seq);
            }
            Held::AddressVoid => {
                changed.addresses = true;
                self.voided_addresses.remove(&seq);
            }
            Held::RewriteVoid => {
                changed.rewrites = true;
                self.voided_rewrites.remove(&seq);
            }
        }
    }

    /// The number of a list that is known.
    fn list_of(&self, name: &str) -> Option<ListId> {
        let live = || Some(self.base.list_count() + self.lists.find(name)? as ListId);
        self.base.list_named(name).or_else(live)
    }

    fn take_list(&mut self, name: &str, changed: &mut Changed) -> ListId {
        if let Some(list) = self.base.list_named(name) {
            return list;
        }
        let (number, is_new) = self.lists.take(name, str::to_owned);
        changed.lists |= is_new;
        self.base.list_count() + number as ListId
    }

    fn give_list_back(&mut self, list: ListId) {
        if let Some(number) = list.checked_sub(self.base.list_count()) {
            self.lists.give_back(usize::from(number));
        }
    }

    /// The number of a class; its list's number, taken for it, is counted once for each time.
    fn take_class(&mut self, class: Class, changed: &mut Changed) -> ClassId {
        let (number, is_new) = self.classes.take(&class, Clone::clone);
        changed.classes |= is_new;
        self.base.class_count() as ClassId + number as ClassId
    }

    fn give_class_back(&mut self, class: ClassId) {
        let Some(number) = class.checked_sub(self.base.class_count() as ClassId) else { return };
        let list = self.classes.get(number as usize).map(|class| class.list);
        self.classes.give_back(number as usize);
        if let Some(list) = list {
            self.give_list_back(list);
        }
    }

    fn class(&self, id: ClassId) -> Option<&Class> {
        match id.checked_sub(self.base.class_count() as ClassId) {
            Some(number) => self.classes.get(number as usize),
            None => self.base.class(id),
        }
    }

    fn compose(&mut self, changed: Changed) -> LiveChange {
        let Changed { classes, lists, root, patterns, addresses, rewrites, disallows, touched } = changed;
        if classes {
            self.live.classes = self.classes.slots.iter().map(|slot| slot.value.clone()).collect();
        }
        if lists {
            self.live.lists = self.lists.slots.iter().map(|slot| ListBook::plain(&List::named(&slot.value))).collect();
            let names = self.base.lists().map(|book| book.list.name.as_str());
            let names: Vec<&str> = names.chain(self.lists.slots.iter().map(|slot| &*slot.value)).collect();
            let policies = 0..self.settings.policies.len() as PolicyId;
            self.overlaid.policy_lists = policies.map(|policy| self.settings.lists_of(policy, &names)).collect();
        }
        if patterns {
            self.compose_patterns();
        }
        if root {
            self.compose_root();
        }
        if addresses {
            let rows: Vec<AddressRow> = self.addresses.values().cloned().collect();
            self.overlaid.addresses = self.base.addresses().with_live(&rows);
            self.live.voided_addresses = Arc::new(self.voided_addresses.values().copied().collect());
        }
        if rewrites {
            let rules: Vec<IpRewrite> = self.rewrites.values().copied().collect();
            let voided = self.voided_rewrites.values().copied();
            self.overlaid.rewrites = self.base.rewrites().with_live(&rules, voided.collect());
        }
        // A change to the rules on addresses has to be made known to the answers that are judged by name alone.
        let is_everywhere = patterns || root || addresses || rewrites || touched.len() > LIVE_CHANGES_KEPT;
        let judges_addresses = !self.book.addresses().is_empty() || !self.overlaid.addresses.is_empty();
        self.book = Arc::new(self.base.with_live(self.live.clone(), self.overlaid.clone()));
        self.version += 1;
        LiveChange {
            version: self.version,
            rules: self.book.clone(),
            touched: (!is_everywhere).then_some(touched),
            // Rules by pattern or on every name may allow too, and with that spare answers from being judged.
            changes_addresses: addresses || rewrites || (judges_addresses && (disallows || patterns || root)),
        }
    }

    fn compose_patterns(&mut self) {
        self.live.patterns = self.patterns.values().cloned().collect();
        let tiers = self.live.patterns.iter().filter_map(|pattern| self.class(pattern.class)).map(Tier::of);
        self.live.patterns_overrule = tiers.into_iter().any(|tier| tier < Tier::BlockByPattern);
        let rows = self.generation.as_ref().filter(|_| !self.voided_patterns.is_empty());
        let voided: HashSet<(&str, Kind, ListId)> =
            self.voided_patterns.values().map(|(regex, kind, list)| (regex.as_str(), *kind, *list)).collect();
        let is_voided = |row: &&corewall_sharding::publish::PatternRow| {
            let class = self.base.class(row.class);
            class.is_some_and(|class| voided.contains(&(row.regex.as_str(), class.kind, class.list)))
        };
        let rows = rows.into_iter().flat_map(|generation| &generation.patterns).filter(is_voided);
        self.live.voided_patterns = Arc::new(rows.map(|row| row.id).collect());
    }

    fn compose_root(&mut self) {
        let voided: Vec<(Kind, Scope, ListId)> = self.voided_root.values().copied().collect();
        let of_generation = self.generation.iter().flat_map(|generation| generation.root.iter().copied());
        let holds = |id: &ClassId| {
            let class = self.base.class(*id);
            class.is_none_or(|class| !voided.contains(&(class.kind, class.scope, class.list)))
        };
        let live = self.root.values().map(|(class, _)| *class);
        let root: Vec<ClassId> = of_generation.filter(holds).chain(live).collect();
        self.overlaid.root = Arc::new(RootRules::new(&root, |id| self.class(id)));
        // Of two aliases that say the same of the root name the newer one leads.
        let targets = self.root.values().filter_map(|(class, target)| Some((*class, (*target)?)));
        self.live.root_targets = Arc::new(targets.collect());
    }
}

impl Changed {
    fn touch(&mut self, name: &Name, scope: Scope) {
        // One more than are kept says that there are too many.
        if self.touched.len() <= LIVE_CHANGES_KEPT {
            self.touched.push(Touched { name: *name, is_subtree: scope != Scope::Exact });
        }
    }
}

/// Whether a rule says all that its kind and scope need.
fn check_rule(Rule { class, key }: &Rule) -> Result<(), &'static str> {
    let (target, fits) = match (key, class.scope) {
        (RuleKey::Name { target, .. }, scope) => (target, !matches!(scope, Scope::Pattern | Scope::Address)),
        (RuleKey::Pattern { target, .. }, scope) => (target, scope == Scope::Pattern),
        (RuleKey::Address { target, .. }, scope) => (target, scope == Scope::Address),
    };
    match (class.kind, target) {
        (Kind::Alias, None) => Err("an alias without a target"),
        _ if !fits => Err("a rule of another scope than its name, pattern or address has"),
        _ => Ok(()),
    }
}

/// Whether an answer to a name with such a rule is spared what is said of chains and addresses.
fn allows(kind: Kind) -> bool {
    matches!(kind, Kind::Allow | Kind::ForwardAllow | Kind::ForwardBlock)
}

/// Values by number, each counted by who refers to it. A number that nobody refers to is given to the next value.
struct Numbered<T> {
    slots: Vec<Slot<T>>,
    numbers: HashMap<T, usize>,
    free: Vec<usize>,
}

struct Slot<T> {
    value: T,
    references: u64,
}

impl<T: Eq + Hash + Clone> Numbered<T> {
    fn new() -> Self {
        Self { slots: Vec::new(), numbers: HashMap::new(), free: Vec::new() }
    }

    fn used(&self) -> usize {
        self.numbers.len()
    }

    fn get(&self, number: usize) -> Option<&T> {
        self.slots.get(number).map(|slot| &slot.value)
    }

    fn find<Q: Eq + Hash + ?Sized>(&self, value: &Q) -> Option<usize>
    where
        T: std::borrow::Borrow<Q>,
    {
        self.numbers.get(value).copied()
    }

    /// One reference more to a value; tells whether it was unknown.
    fn take<Q: Eq + Hash + ?Sized>(&mut self, value: &Q, owned: impl Fn(&Q) -> T) -> (usize, bool)
    where
        T: std::borrow::Borrow<Q>,
    {
        if let Some(&number) = self.numbers.get(value) {
            if let Some(slot) = self.slots.get_mut(number) {
                slot.references += 1;
            }
            return (number, false);
        }
        let slot = Slot { value: owned(value), references: 1 };
        let number = self.free.pop().filter(|&number| number < self.slots.len()).unwrap_or(self.slots.len());
        self.numbers.insert(slot.value.clone(), number);
        match self.slots.get_mut(number) {
            Some(place) => *place = slot,
            None => self.slots.push(slot),
        }
        (number, true)
    }

    fn give_back(&mut self, number: usize) {
        let Some(slot) = self.slots.get_mut(number) else { return };
        slot.references = slot.references.saturating_sub(1);
        if slot.references == 0 && self.numbers.remove(&slot.value).is_some() {
            self.free.push(number);
        }
    }
}
