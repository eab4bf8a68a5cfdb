use super::compose::Composer;
use super::*;
use crate::decide::rule::Tier;
use crate::decide::settings::{Policy, Settings};
use crate::limits::{LIVE_CLASSES_MAX, LIVE_LISTS_MAX, LIVE_OF_NAME_MAX, LIVE_PATTERNS_MAX};
use corewall_sharding::overlay::{LiveChange as Change, LiveEntry, LiveUpdate, Void};
use corewall_sharding::rule::{Class, IpRewrite, Kind, List, Rule, RuleKey, Scope};

const ADS: &str = "ads";

/// A generation of two classes and two lists, and a policy without the list `live`.
fn composer() -> Composer {
    let classes = vec![Class::plain(Kind::Block, Scope::Subtree, 0), Class::plain(Kind::Allow, Scope::Exact, 1)];
    let lists = vec![List::named(ADS), List::named("own")];
    let policy = |name: &str, lists| Policy { name: name.to_owned(), lists, block_mode: None, upstream: None };
    let some = Some(vec![ADS.to_owned(), "second".to_owned()]);
    let settings = Settings { policies: vec![policy("default", None), policy("some", some)], ..Settings::default() };
    let policies = [("default", None), ("some", Some(vec![true, false]))];
    Composer::new(Arc::new(RuleBook::of_rules(classes, lists, Vec::new(), &policies)), None, Arc::new(settings))
}

fn entry(seq: u64, list: &str, change: Change) -> Arc<LiveEntry> {
    let list = list.to_owned();
    Arc::new(LiveEntry { seq, change, list, created_s: 0, expires_s: None, reason: String::new() })
}

fn rule(seq: u64, list: &str, kind: Kind, name: &str) -> Arc<LiveEntry> {
    let class = Class::plain(kind, Scope::Subtree, 0);
    let key = RuleKey::Name { name: name.parse().unwrap(), target: None };
    entry(seq, list, Change::Rule(Rule { class, key }))
}

fn entered(entered: Vec<Arc<LiveEntry>>) -> LiveUpdate {
    LiveUpdate { entered, left: Vec::new() }
}

fn left(left: &[u64]) -> LiveUpdate {
    LiveUpdate { entered: Vec::new(), left: left.to_vec() }
}

/// The live rule that decides, by its entry, and the number of its class.
fn winner(rules: &RuleBook, name: &str, policy: u16) -> Option<ClassId> {
    let name: Name = name.parse().unwrap();
    let mut lookup = Lookup::new();
    lookup.probe(rules, &name);
    let asked = Asked { name: &name, qtype: 1, client: "192.0.2.1".parse().unwrap(), policy };
    let mut judgement = Judgement::default();
    judgement.consider_live(rules, &asked, &lookup);
    judgement.winner().map(|winner| winner.class)
}

#[test]
fn rules_that_differ_in_their_names_share_a_class_after_those_of_the_generation() {
    let mut composer = composer();
    let rules = [(1, "a"), (2, "b"), (3, "c")].map(|(seq, name)| rule(seq, ADS, Kind::Block, name));
    let change = composer.apply(&entered(rules.to_vec()));
    assert_eq!(["x.a", "b", "c", "d"].map(|name| winner(&change.rules, name, 0)), [Some(2), Some(2), Some(2), None]);
    assert_eq!((change.rules.class_count(), change.rules.base_class_count()), (3, 2));
    assert_eq!(change.rules.class(2).map(|class| (class.list, Tier::of(class))), Some((0, Tier::BlockByName)));
    assert_eq!(change.rules.live().summary(), LiveSummary { rules: 3, voids: 0, last_seq: 3 });
}

#[test]
fn lists_that_the_generation_does_not_know_come_after_its_own_and_are_applied_by_name() {
    let mut composer = composer();
    let rules =
        vec![rule(1, "first", Kind::Block, "a"), rule(2, "second", Kind::Block, "b"), rule(3, "own", Kind::Block, "c")];
    let book = composer.apply(&entered(rules)).rules;
    let list_of = |name: &str| book.class(winner(&book, name, 0).unwrap()).map(|class| class.list);
    assert_eq!(["a", "b", "c"].map(list_of), [Some(2), Some(3), Some(1)]);
    assert_eq!(book.list(3).map(|book| (book.list.name.as_str(), &*book.ede_text)), Some(("second", "second")));
    assert_eq!(["a", "b", "c"].map(|name| winner(&book, name, 1).is_some()), [false, true, false]);
}

#[test]
fn numbers_of_classes_and_lists_that_are_gone_are_given_again_and_old_books_stay_as_they_were() {
    let mut composer = composer();
    let before =
        composer.apply(&entered(vec![rule(1, "one", Kind::Block, "a"), rule(2, "one", Kind::Allow, "b")])).rules;
    for turn in 0..10_000u64 {
        let (seq, list) = (10 + turn, format!("list {turn}"));
        let update = LiveUpdate { entered: vec![rule(seq, &list, Kind::Block, "c")], left: vec![seq - 1] };
        composer.check(&update).unwrap();
        composer.apply(&update);
    }
    let book = composer.book();
    assert!(book.class_count() < 10 && book.lists().count() < 10, "{} classes", book.class_count());
    assert_eq!(book.list(book.class(winner(book, "c", 0).unwrap()).unwrap().list).unwrap().list.name, "list 9999");
    assert!(winner(&before, "a", 0).is_some() && winner(&before, "c", 0).is_none());
    let after = composer.apply(&left(&[1, 2, 10_009])).rules;
    assert_eq!(["a", "b", "c"].map(|name| winner(&after, name, 0)), [None; 3]);
    assert!(!after.live().has_names());
}

#[test]
fn an_update_that_comes_twice_counts_once() {
    let mut composer = composer();
    let update =
        LiveUpdate { entered: vec![rule(2, ADS, Kind::Block, "a"), rule(3, ADS, Kind::Block, "a")], left: vec![1] };
    composer.apply(&update);
    let change = composer.apply(&update);
    assert_eq!((change.touched, change.rules.live().summary().rules), (Some(Vec::new()), 2));
    composer.apply(&left(&[2]));
    let again = composer.apply(&left(&[2])).rules;
    assert!(winner(&again, "a", 0).is_some());
    assert!(winner(&composer.apply(&left(&[3])).rules, "a", 0).is_none());
}

#[test]
fn voids_take_the_generation_s_rules_of_their_kind_scope_and_list_only() {
    let mut composer = composer();
    let void = |seq, list: &str, scope| {
        let name = "a.example".parse().unwrap();
        entry(seq, list, Change::Void(Void::Name { name, scope, kind: Kind::Block }))
    };
    let voids = |rules: &RuleBook, labels, class| {
        let name: Name = "x.a.example".parse().unwrap();
        // In a book without shards nothing else has it hashed.
        let mut lookup = Lookup::new();
        lookup.probe(&rules.clone(), &name);
        rules.voids_row(&lookup, &name, labels, class)
    };
    // A rule of its own has the hashes computed.
    let rules = composer.apply(&entered(vec![rule(1, ADS, Kind::Block, "z"), void(2, ADS, Scope::Subtree)])).rules;
    assert_eq!(
        [(2, 0), (3, 0), (1, 0), (2, 1)].map(|(labels, class)| voids(&rules, labels, class)),
        [true, false, false, false]
    );
    let rules = composer
        .apply(&LiveUpdate { entered: vec![void(3, "own", Scope::Subtree), void(4, ADS, Scope::Exact)], left: vec![2] })
        .rules;
    assert!(!voids(&rules, 2, 0));
    assert_eq!(rules.live().summary(), LiveSummary { rules: 1, voids: 2, last_seq: 4 });
}

#[test]
fn a_change_tells_which_names_it_touches_and_whether_addresses_are_judged_otherwise() {
    let mut composer = composer();
    let touched = |change: &LiveChange| {
        let names = change.touched.as_ref()?.iter().map(|touched| (touched.name.to_string(), touched.is_subtree));
        Some(names.collect::<Vec<_>>())
    };
    let change = composer.apply(&entered(vec![rule(1, ADS, Kind::Allow, "a")]));
    assert_eq!((touched(&change), change.changes_addresses), (Some(vec![("a".to_owned(), true)]), false));
    let net = "10.0.0.0/8".parse().unwrap();
    let key = RuleKey::Address { net, target: None };
    let address = Change::Rule(Rule { class: Class::plain(Kind::Block, Scope::Address, 0), key });
    let change = composer.apply(&entered(vec![entry(2, ADS, address)]));
    assert_eq!((touched(&change), change.changes_addresses), (None, true));
    let change = composer.apply(&entered(vec![rule(3, ADS, Kind::Block, "b"), rule(4, ADS, Kind::Allow, "c")]));
    assert!(
        touched(&change).is_some() && !change.changes_addresses,
        "what is allowed from now on was judged more strictly"
    );
    assert!(composer.apply(&left(&[1])).changes_addresses, "what was spared is not any more");
    assert!(!composer.apply(&left(&[3])).changes_addresses);
    let rewrite =
        Change::Rewrite(IpRewrite { from: "10.0.0.1/32".parse().unwrap(), to: "10.0.0.2".parse().unwrap(), list: 0 });
    assert!(composer.apply(&entered(vec![entry(5, ADS, rewrite)])).changes_addresses);
    let many = (100..200).map(|seq| rule(seq, ADS, Kind::Block, "m"));
    assert_eq!(touched(&composer.apply(&entered(many.collect()))), None);
}

#[test]
fn bounds_are_told_before_anything_is_taken_in() {
    let mut composer = composer();
    let refused = |composer: &Composer, update: Vec<Arc<LiveEntry>>| composer.check(&entered(update)).unwrap_err();
    let same_name = |count: usize| (1..=count as u64).map(|seq| rule(seq, ADS, Kind::Block, "a")).collect::<Vec<_>>();
    composer.check(&entered(same_name(LIVE_OF_NAME_MAX))).unwrap();
    assert!(refused(&composer, same_name(LIVE_OF_NAME_MAX + 1)).contains("256 live entries on one name"));
    composer.apply(&entered(same_name(LIVE_OF_NAME_MAX)));
    composer.check(&entered(same_name(LIVE_OF_NAME_MAX))).unwrap();
    assert!(refused(&composer, vec![rule(1_000, ADS, Kind::Block, "a")]).contains("one name"));
    let lists = (0..=LIVE_LISTS_MAX as u64).map(|n| rule(2_000 + n, &format!("l{n}"), Kind::Block, "b")).collect();
    assert!(refused(&composer, lists).contains("1024 live lists"));
    let patterns = (0..=LIVE_PATTERNS_MAX as u64).map(|n| {
        let key = RuleKey::Pattern { regex: format!("p{n}"), target: None };
        entry(4_000 + n, ADS, Change::Rule(Rule { class: Class::plain(Kind::Block, Scope::Pattern, 0), key }))
    });
    assert!(refused(&composer, patterns.collect()).contains("256 live patterns"));
    let classes = (0..=LIVE_CLASSES_MAX as u64).map(|n| {
        let servers = vec![std::net::SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 53))];
        let class = Class { servers, ..Class::plain(Kind::ForwardAllow, Scope::Exact, 0) };
        let key = RuleKey::Name { name: format!("n{n}").parse().unwrap(), target: None };
        entry(10_000 + n, ADS, Change::Rule(Rule { class, key }))
    });
    assert!(refused(&composer, classes.collect()).contains("differ in more than their names"));
    assert_eq!(composer.book().live().summary().rules, LIVE_OF_NAME_MAX as u64);
}

#[test]
fn rules_that_lack_what_they_need_are_refused() {
    let composer = composer();
    let refused = |kind, scope| {
        let key = RuleKey::Name { name: "a".parse().unwrap(), target: None };
        composer.check(&entered(vec![entry(7, ADS, Change::Rule(Rule { class: Class::plain(kind, scope, 0), key }))]))
    };
    assert_eq!(refused(Kind::Alias, Scope::Exact).unwrap_err(), "overlay entry 7: an alias without a target");
    assert!(refused(Kind::Block, Scope::Pattern).unwrap_err().contains("another scope"));
    assert_eq!(refused(Kind::Block, Scope::Below), Ok(()));
}
