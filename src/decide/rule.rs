//! Stage 6, rule: from what store and patterns found to a verdict, by the precedence that README.md tells.

use std::net::IpAddr;

use corewall_sharding::name::Name;
use corewall_sharding::rule::{Class, ClassId, ClientMatch, Condition, Kind, ListId, Scope};

use super::rulebook::RuleBook;
use super::settings::PolicyId;

/// The tiers of precedence that rules stand in; the first with a match decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Tier {
    /// `$important` exceptions.
    ImportantAllow = 2,
    /// `$important` blocks.
    ImportantBlock = 3,
    /// allow, forward-allow, forward-block.
    Allow = 4,
    /// alias.
    Alias = 5,
    /// Blocks that name what they block.
    BlockByName = 6,
    /// Blocks by regular expression.
    BlockByPattern = 7,
}

impl Tier {
    /// Where a rule of this class stands.
    pub fn of(class: &Class) -> Tier {
        match (class.kind, class.important, class.scope) {
            (Kind::Allow | Kind::ForwardAllow | Kind::ForwardBlock, true, _) => Tier::ImportantAllow,
            (Kind::Alias | Kind::Block, true, _) => Tier::ImportantBlock,
            (Kind::Allow | Kind::ForwardAllow | Kind::ForwardBlock, false, _) => Tier::Allow,
            (Kind::Alias, false, _) => Tier::Alias,
            (Kind::Block, false, Scope::Pattern) => Tier::BlockByPattern,
            (Kind::Block, false, _) => Tier::BlockByName,
        }
    }
}

/// Precedence of one candidate: the lesser wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    tier: Tier,
    /// More labels are more specific, a pattern has none; on addresses, more bits of the prefix.
    specificity_missing: u8,
    /// Of rules on one name in one tier, those that were added by hand come first.
    is_of_generation: bool,
    scope: Scope,
    kind: Kind,
    list: ListId,
    /// Of the rules of one list for several clients that of the longest prefix wins, as a policy zone has it.
    client_bits_missing: u8,
    class: ClassId,
}

impl Rank {
    /// The tier it stands in.
    pub fn tier(&self) -> Tier {
        self.tier
    }
}

/// Who asks what: all that a rule's condition may look at.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The name that is judged: the one asked, or a target in its chain.
    pub name: &'a Name,
    /// QTYPE.
    pub qtype: u16,
    /// The client's address.
    pub client: IpAddr,
    /// Its policy.
    pub policy: PolicyId,
}

/// A rule that matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its class.
    pub class: ClassId,
    /// Labels of its name; 0 for a pattern or an address.
    pub labels: u8,
    /// What it was found by.
    pub key: Key,
    /// Its precedence.
    pub rank: Rank,
}

impl Candidate {
    /// Whether it may reach whatever name an alias leads to.
    pub fn reaches_every_name(&self) -> bool {
        match self.key {
            Key::Name => self.labels == 0,
            Key::Live { .. } | Key::Pattern(_) => false,
            Key::Address { .. } => true,
        }
    }
}

/// What a rule was found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A name.
    Name,
    /// A name, by the live rule of this entry.
    Live { seq: u64 },
    /// The pattern of this number.
    Pattern(u32),
    /// An address of the answer, in a prefix of so many bits; with the number of an alias's target.
    Address { bits: u8, target: Option<u32> },
}

/// Why a rule that was found does not apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inapplicable {
    /// Its scope does not reach the name.
    Scope,
    /// The client's policy leaves its list out.
    Policy,
    /// Its condition does not hold.
    Condition,
    /// The store names a class that the generation does not have.
    UnknownClass,
    /// It was removed by hand.
    Voided,
}

/// The verdict in the making: the best candidates so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Judgement {
    best: Option<Candidate>,
    /// The best of those that an allow rule for answers only leaves standing.
    best_without_answer: Option<Candidate>,
    answers_lifted: Option<Rank>,
    depends_on_client: bool,
}

impl Judgement {
    /// Weighs a row of the store.
    pub fn consider_row(&mut self, rules: &RuleBook, asked: &Asked<'_>, labels: u8, class: ClassId) {
        if let Ok(candidate) = self.examine(rules, asked, labels, class, Key::Name) {
            self.weigh(rules, candidate);
        }
    }

    /// Weighs the live rule of entry `seq`.
    pub fn consider_live_rule(&mut self, rules: &RuleBook, asked: &Asked<'_>, labels: u8, class: ClassId, seq: u64) {
        if let Ok(candidate) = self.examine(rules, asked, labels, class, Key::Live { seq }) {
            self.weigh(rules, candidate);
        }
    }

    /// Weighs a pattern that matched.
    pub fn consider_pattern(&mut self, rules: &RuleBook, asked: &Asked<'_>, pattern: u32) {
        let Some((class, _)) = rules.pattern(pattern) else { return };
        if let Ok(candidate) = self.examine(rules, asked, 0, class, Key::Pattern(pattern)) {
            self.weigh(rules, candidate);
        }
    }

    /// Weighs the rules on the root name; `is_led_on` as in [`RuleBook::root_rules`].
    pub fn consider_root(&mut self, rules: &RuleBook, asked: &Asked<'_>, is_led_on: bool) {
        for class in rules.root_rules(asked, is_led_on) {
            self.consider_row(rules, asked, 0, class);
        }
    }

    /// Weighs the rules on an address of the answer to `asked`, aliases aside when one `is_led_on` by such a rule already.
    pub fn consider_address(&mut self, rules: &RuleBook, asked: &Asked<'_>, address: IpAddr, is_led_on: bool) {
        for (bits, rule) in rules.address_rules(address) {
            let key = Key::Address { bits, target: rule.target };
            if let Ok(candidate) = self.examine(rules, asked, 0, rule.class, key)
                && !(is_led_on && candidate.rank.kind == Kind::Alias)
            {
                self.weigh(rules, candidate);
            }
        }
    }

    /// Whether a rule that was found applies, and with which precedence.
    pub fn examine(
        &mut self,
        rules: &RuleBook,
        asked: &Asked<'_>,
        labels: u8,
        id: ClassId,
        key: Key,
    ) -> Result<Candidate, Inapplicable> {
        let class = rules.class(id).ok_or(Inapplicable::UnknownClass)?;
        let whole = usize::from(labels) == asked.name.label_count();
        match class.scope {
            Scope::Exact if !whole => return Err(Inapplicable::Scope),
            Scope::Below if whole => return Err(Inapplicable::Scope),
            _ => {}
        }
        if !rules.list_applies(asked.policy, class.list) {
            return Err(Inapplicable::Policy);
        }
        if let Some(condition) = &class.condition {
            self.depends_on_client |= condition.depends_on_client();
            if !holds(condition, rules, asked) {
                return Err(Inapplicable::Condition);
            }
        }
        let specificity = match key {
            Key::Name | Key::Live { .. } | Key::Pattern(_) => labels,
            Key::Address { bits, .. } => bits,
        };
        let rank = Rank {
            tier: Tier::of(class),
            specificity_missing: u8::MAX - specificity,
            is_of_generation: !rules.is_live(id),
            scope: class.scope,
            kind: class.kind,
            list: class.list,
            client_bits_missing: u8::MAX
                - class.condition.as_ref().map_or(0, |condition| client_bits(condition, asked)),
            class: id,
        };
        Ok(Candidate { class: id, labels, key, rank })
    }

    fn weigh(&mut self, rules: &RuleBook, candidate: Candidate) {
        let Some(class) = rules.class(candidate.class) else { return };
        if class.condition.as_ref().is_some_and(|condition| condition.lifts_answers_only) {
            self.answers_lifted = Some(self.answers_lifted.map_or(candidate.rank, |rank| rank.min(candidate.rank)));
            return;
        }
        let is_better = |best: &Option<Candidate>| best.is_none_or(|best| candidate.rank < best.rank);
        if is_better(&self.best) {
            self.best = Some(candidate);
        }
        if class.answer.is_none() && class.kind != Kind::Alias && is_better(&self.best_without_answer) {
            self.best_without_answer = Some(candidate);
        }
    }

    /// The rule that decides, as far as has been considered.
    pub fn winner(&self) -> Option<Candidate> {
        match (self.best, self.answers_lifted) {
            (Some(best), Some(lifted)) if lifted < best.rank => self.best_without_answer,
            (best, _) => best,
        }
    }

    /// Whether the patterns might still change the winner.
    pub fn needs_patterns(&self, rules: &RuleBook) -> bool {
        match self.winner() {
            _ if !rules.has_patterns() => false,
            None => true,
            Some(winner) => rules.patterns_overrule() && winner.rank.tier > Tier::ImportantAllow,
        }
    }

    /// Whether another client of the same policy might get another verdict, so that the answer must not be shared.
    pub fn depends_on_client(&self) -> bool {
        self.depends_on_client
    }
}

fn holds(condition: &Condition, rules: &RuleBook, asked: &Asked<'_>) -> bool {
    (condition.types.is_empty() || condition.types.contains(&asked.qtype))
        && !condition.types_not.contains(&asked.qtype)
        && !condition.names_not.iter().any(|name| asked.name.is_at_or_below(name))
        && holds_for_client(condition, rules, asked.policy, asked.client)
}

/// Whether the part of a condition that speaks of clients holds.
pub fn holds_for_client(condition: &Condition, rules: &RuleBook, policy: PolicyId, client: IpAddr) -> bool {
    let client_is = |wanted: &ClientMatch| match wanted {
        ClientMatch::Net(net) => net.contains(&client.to_canonical()),
        ClientMatch::Named(name) => rules.policy_name(policy).is_some_and(|policy| **name == *policy),
    };
    (condition.clients.is_empty() || condition.clients.iter().any(client_is))
        && !condition.clients_not.iter().any(client_is)
}

/// Bits of the longest prefix by which a condition names the client.
fn client_bits(condition: &Condition, asked: &Asked<'_>) -> u8 {
    let client = asked.client.to_canonical();
    let bits = condition.clients.iter().map(|wanted| match wanted {
        ClientMatch::Net(net) if net.contains(&client) => net.prefix_len(),
        ClientMatch::Net(_) | ClientMatch::Named(_) => 0,
    });
    bits.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use corewall_sharding::rule::{AnswerRecord as Record, List};

    /// Rules in an order that gives their classes' numbers, and what decides of them.
    struct Bench {
        rules: RuleBook,
        names: Vec<Option<Name>>,
    }

    impl Bench {
        fn new(rules: &[(Class, &str)]) -> Self {
            let lists = rules.iter().map(|(class, _)| class.list).max().unwrap_or(0) + 1;
            let list = |number| List::named(&format!("list {number}"));
            let patterns: Vec<_> = (0..).zip(rules).filter(|(_, (class, _))| class.scope == Scope::Pattern).collect();
            Self {
                names: rules.iter().map(|(_, name)| name.parse().ok()).collect(),
                rules: RuleBook::of_rules(
                    rules.iter().map(|(class, _)| class.clone()).collect(),
                    (0..lists).map(list).collect(),
                    patterns.iter().map(|&(id, _)| (id, None)).collect(),
                    &[("default", None), ("kids", Some(vec![false; usize::from(lists)]))],
                ),
            }
        }

        fn judge(&self, asked: &Asked<'_>) -> Judgement {
            let mut judgement = Judgement::default();
            for (id, name) in (0..).zip(&self.names) {
                let Some(class) = self.rules.class(id) else { continue };
                match name {
                    _ if class.scope == Scope::Pattern => {
                        let pattern = (0..).find(|&pattern| self.rules.pattern(pattern).unwrap().0 == id).unwrap();
                        judgement.consider_pattern(&self.rules, asked, pattern);
                    }
                    Some(name) if asked.name.is_at_or_below(name) => {
                        judgement.consider_row(&self.rules, asked, name.label_count() as u8, id);
                    }
                    _ => {}
                }
            }
            judgement
        }

        fn winner(&self, name: &str) -> Option<ClassId> {
            self.judge(&asked(&name.parse().unwrap())).winner().map(|winner| winner.class)
        }
    }

    fn asked(name: &Name) -> Asked<'_> {
        Asked { name, qtype: 1, client: "192.0.2.9".parse().unwrap(), policy: 0 }
    }

    fn class(kind: Kind, scope: Scope) -> Class {
        Class::plain(kind, scope, 0)
    }

    fn important(kind: Kind, scope: Scope) -> Class {
        Class { important: true, ..class(kind, scope) }
    }

    fn with(kind: Kind, condition: Condition) -> Class {
        Class { condition: Some(condition), ..class(kind, Scope::Subtree) }
    }

    #[test]
    fn the_first_tier_with_a_match_decides_however_specific_the_others_are() {
        let tiers = [
            (important(Kind::Allow, Scope::Subtree), "example"),
            (important(Kind::Block, Scope::Subtree), "b.example"),
            (class(Kind::Allow, Scope::Subtree), "b.example"),
            (class(Kind::Alias, Scope::Subtree), "a.b.example"),
            (class(Kind::Block, Scope::Exact), "x.a.b.example"),
            (class(Kind::Block, Scope::Pattern), "any pattern"),
        ];
        for first in 0..tiers.len() {
            let bench = Bench::new(&tiers[first..]);
            assert_eq!(bench.winner("x.a.b.example"), Some(0), "from tier {first} on");
        }
        assert_eq!(Bench::new(&[]).winner("x.example"), None);
    }

    #[test]
    fn within_a_tier_the_most_specific_name_wins_then_scope_then_kind_then_list() {
        let bench = Bench::new(&[
            (class(Kind::Allow, Scope::Subtree), "example"),
            (class(Kind::ForwardBlock, Scope::Subtree), "a.example"),
            (class(Kind::ForwardAllow, Scope::Subtree), "a.example"),
            (class(Kind::Allow, Scope::Exact), "a.example"),
        ]);
        assert_eq!(bench.winner("a.example"), Some(3), "exact before subtree");
        assert_eq!(bench.winner("b.a.example"), Some(2), "forward-allow before forward-block");
        assert_eq!(bench.winner("c.example"), Some(0));
        let second = Class::plain(Kind::Block, Scope::Exact, 1);
        let bench = Bench::new(&[(second, "a.example"), (class(Kind::Block, Scope::Exact), "a.example")]);
        assert_eq!(bench.winner("a.example"), Some(1), "the lower list number");
    }

    #[test]
    fn scopes_reach_as_far_as_they_say() {
        let bench = Bench::new(&[
            (class(Kind::Block, Scope::Exact), "e.example"),
            (class(Kind::Block, Scope::Subtree), "s.example"),
            (class(Kind::Block, Scope::Below), "b.example"),
        ]);
        assert_eq!(bench.winner("e.example"), Some(0));
        assert_eq!(bench.winner("x.e.example"), None);
        assert_eq!(bench.winner("s.example"), Some(1));
        assert_eq!(bench.winner("x.y.s.example"), Some(1));
        assert_eq!(bench.winner("b.example"), None);
        assert_eq!(bench.winner("x.b.example"), Some(2));
    }

    #[test]
    fn a_condition_on_the_type_or_the_name_decides_whether_a_rule_applies() {
        let bench = Bench::new(&[(
            with(
                Kind::Block,
                Condition { types: vec![28], names_not: vec!["ok.example".parse().unwrap()], ..Condition::default() },
            ),
            "example",
        )]);
        let name = "x.example".parse().unwrap();
        assert!(bench.judge(&asked(&name)).winner().is_none(), "type A is not meant");
        assert!(bench.judge(&Asked { qtype: 28, ..asked(&name) }).winner().is_some());
        let spared = "x.ok.example".parse().unwrap();
        assert!(bench.judge(&Asked { qtype: 28, ..asked(&spared) }).winner().is_none());
    }

    #[test]
    fn a_condition_on_the_client_makes_the_answer_private_whether_it_holds_or_not() {
        let clients = vec![ClientMatch::Net("192.0.2.0/28".parse().unwrap()), ClientMatch::Named("kids".into())];
        let bench = Bench::new(&[(with(Kind::Block, Condition { clients, ..Condition::default() }), "example")]);
        let name = "x.example".parse().unwrap();
        let inside = bench.judge(&asked(&name));
        assert!(inside.winner().is_some() && inside.depends_on_client());
        let outside = bench.judge(&Asked { client: "198.51.100.1".parse().unwrap(), ..asked(&name) });
        assert!(outside.winner().is_none() && outside.depends_on_client());
        let mapped = bench.judge(&Asked { client: "::ffff:192.0.2.9".parse().unwrap(), ..asked(&name) });
        assert!(mapped.winner().is_some(), "an IPv4 client of a dual-stack socket");
    }

    #[test]
    fn of_a_lists_rules_for_several_clients_the_longest_prefix_wins() {
        let of = |net: &str, list| {
            let clients = vec![ClientMatch::Net(net.parse().unwrap())];
            let condition = Some(Condition { clients, ..Condition::default() });
            (Class { condition, ..Class::plain(Kind::Block, Scope::Subtree, list) }, "example")
        };
        let bench = Bench::new(&[of("192.0.2.0/24", 1), of("192.0.2.9/32", 1), of("192.0.2.0/28", 1)]);
        assert_eq!(bench.winner("x.example"), Some(1));
        let bench = Bench::new(&[of("192.0.2.9/32", 1), of("192.0.2.0/24", 0)]);
        assert_eq!(bench.winner("x.example"), Some(1), "the lower list number comes first");
    }

    #[test]
    fn a_policy_leaves_lists_out() {
        let bench = Bench::new(&[(class(Kind::Block, Scope::Exact), "a.example")]);
        let name = "a.example".parse().unwrap();
        assert!(bench.judge(&asked(&name)).winner().is_some());
        assert!(bench.judge(&Asked { policy: 1, ..asked(&name) }).winner().is_none());
    }

    #[test]
    fn an_exception_for_rewrites_lifts_answers_and_nothing_else() {
        let lifting = Condition { lifts_answers_only: true, ..Condition::default() };
        let answering = Class {
            answer: Some(corewall_sharding::rule::Answer::Records(vec![Record {
                rtype: 1,
                ttl_s: None,
                rdata: Box::from([192, 0, 2, 1]),
            }])),
            ..class(Kind::Block, Scope::Subtree)
        };
        let rules = [
            (with(Kind::Allow, lifting), "example"),
            (answering, "a.example"),
            (class(Kind::Alias, Scope::Subtree), "a.example"),
            (class(Kind::Block, Scope::Subtree), "example"),
        ];
        assert_eq!(Bench::new(&rules).winner("a.example"), Some(3));
        assert_eq!(Bench::new(&rules[..3]).winner("a.example"), None);
    }

    #[test]
    fn patterns_are_asked_only_where_they_may_change_the_verdict() {
        let name: Name = "a.example".parse().unwrap();
        let needs = |rules: &[(Class, &str)]| {
            let bench = Bench::new(rules);
            let mut judgement = Judgement::default();
            judgement.consider_row(&bench.rules, &asked(&name), 2, 0);
            judgement.needs_patterns(&bench.rules)
        };
        let block = (class(Kind::Block, Scope::Exact), "a.example");
        let allow = (important(Kind::Allow, Scope::Exact), "a.example");
        assert!(!needs(std::slice::from_ref(&block)), "there are none");
        assert!(!needs(&[block.clone(), (class(Kind::Block, Scope::Pattern), "p")]), "they cannot overrule a name");
        assert!(needs(&[block, (class(Kind::Allow, Scope::Pattern), "p")]), "an exception by pattern can");
        assert!(!needs(&[allow, (class(Kind::Allow, Scope::Pattern), "p")]), "nothing stands above the first tier");
    }
}
