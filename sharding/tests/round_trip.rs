//! What goes into a store comes out of it: rules of every kind, the classic views, sidecars.

mod common;

use std::collections::BTreeSet;

use common::{Reader, blocked, build, list, name, named, shard_files};
use corewall_sharding::build::{BuildOptions, BuildStage, Builder};
use corewall_sharding::publish::Store;
use corewall_sharding::route::Reach;
use corewall_sharding::rule::{
    AliasLabels, Answer, AnswerRecord, BlockMode, Class, ClientMatch, Condition, IpRewrite, Kind, List, Rule, RuleKey,
    Scope, TypedAnswer,
};

/// Classes that differ from a plain one in each thing that a class can say.
fn every_class() -> Vec<Class> {
    let mut classes = Vec::new();
    for kind in [Kind::ForwardAllow, Kind::ForwardBlock, Kind::Allow, Kind::Block] {
        for scope in [Scope::Exact, Scope::Subtree, Scope::Below] {
            for (important, list) in [(false, 0), (true, 1)] {
                classes.push(Class { important, ..Class::plain(kind, scope, list) });
            }
        }
    }
    let block = Class::plain(Kind::Block, Scope::Subtree, 1);
    let conditions = [
        Condition { types: vec![1, 28], ..Default::default() },
        Condition { types_not: vec![65_535], ..Default::default() },
        Condition { names_not: vec![name("a.example"), name(r"odd\.label.example"), name("")], ..Default::default() },
        Condition { lifts_answers_only: true, ..Default::default() },
        Condition {
            clients: vec![ClientMatch::Net("10.0.0.0/8".parse().unwrap()), ClientMatch::Named("Ann's phone".into())],
            ..Default::default()
        },
        Condition {
            clients_not: vec![ClientMatch::Named("".into()), ClientMatch::Net("2001:db8::1/128".parse().unwrap())],
            ..Default::default()
        },
    ];
    classes.extend(conditions.map(|condition| Class { condition: Some(condition), ..block.clone() }));
    use BlockMode::*;
    for mode in [Zero, Sinkhole, Nxdomain, Nodata, Refused, Drop, TcpOnly] {
        classes.push(Class { answer: Some(Answer::Mode(mode)), ..block.clone() });
    }
    let record = |rtype, ttl_s, rdata: &[u8]| AnswerRecord { rtype, ttl_s, rdata: rdata.into() };
    for records in [
        vec![],
        vec![record(1, None, &[192, 0, 2, 1])],
        vec![record(16, Some(u32::MAX), b"\x03a\0b"), record(16, Some(0), b"")],
    ] {
        classes.push(Class { answer: Some(Answer::Records(records)), ..block.clone() });
    }
    let servers = ["192.0.2.1:5353", "[2001:db8::1]:53", "[fe80::1%3]:53"].map(|text| text.parse().unwrap());
    classes.push(Class { servers: servers.to_vec(), ..Class::plain(Kind::ForwardBlock, Scope::Subtree, 0) });
    classes
}

fn every_list() -> [List; 2] {
    let full = List {
        category: "ads".into(),
        block_mode: Some(BlockMode::TcpOnly),
        sinkhole: ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap()).to_vec(),
        ede_text: Some("ask \"IT\"\nplease".into()),
        block_ttl_s: Some(0),
        answers: vec![TypedAnswer { rtype: "TXT".into(), data: "\"blocked; here\"".into() }],
        ..list("full")
    };
    [list("plain"), full]
}

fn add_lists(builder: &mut Builder) {
    for (id, list) in (0..).zip(every_list()) {
        assert_eq!(builder.list(list).unwrap(), id);
    }
}

#[test]
fn rules_of_every_kind_scope_condition_and_answer_read_back_equal() {
    for shards in [1, 3, 16] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create_or_open(dir.path()).unwrap();
        let mut builder = Builder::new(&store, BuildOptions { shards, ..Default::default() }).unwrap();
        add_lists(&mut builder);
        let classes = every_class();
        for (number, class) in classes.iter().enumerate() {
            builder.push(&named(class, &format!("{number}.example"))).unwrap();
            builder.push(&named(class, "shared.example")).unwrap();
        }
        for (labels, target) in [(AliasLabels::None, ""), (AliasLabels::Below, "to.example"), (AliasLabels::All, "x.y")]
        {
            let class = Class { alias_labels: labels, ..Class::plain(Kind::Alias, Scope::Subtree, 0) };
            let key = RuleKey::Name { name: name(&format!("{labels:?}.alias")), target: Some(name(target)) };
            builder.push(&Rule { class: class.clone(), key }).unwrap();
            let class = Class { scope: Scope::Pattern, ..class };
            let key = RuleKey::Pattern { regex: format!("^{labels:?}[.]"), target: Some(name(target)) };
            builder.push(&Rule { class, key }).unwrap();
        }
        let rewrites = [("10.0.0.0/8", "192.0.2.1"), ("10.0.0.1/32", "192.0.2.2"), ("2001:db8::/32", "::1")]
            .map(|(from, to)| IpRewrite { from: from.parse().unwrap(), to: to.parse().unwrap(), list: 1 });
        rewrites.into_iter().for_each(|rewrite| builder.rewrite(rewrite));
        builder.finish(&mut |_, _, _| {}).unwrap().publish().unwrap();

        let mut reader = Reader::open(&store);
        reader.generation.verify().unwrap();
        assert_eq!(reader.generation.lists, every_list());
        for (number, class) in classes.iter().enumerate() {
            let text = format!("{number}.example");
            assert_eq!(reader.classes(&text), std::slice::from_ref(class));
            let reach = if class.scope == Scope::Exact { Reach::Itself } else { Reach::Under };
            assert!(reader.may_hold(&text, reach));
        }
        let shared = reader.classes("shared.example");
        assert_eq!(shared.len(), classes.len());
        assert!(classes.iter().all(|class| shared.contains(class)));
        for (labels, target) in [("none", ""), ("below", "to.example"), ("all", "x.y")] {
            let text = format!("{labels}.alias");
            let [class] = reader.class_ids(&text)[..] else { panic!("one alias") };
            assert_eq!(reader.shard(&text).target_of(&text, class).unwrap(), Some(name(target)));
            assert_eq!(reader.shard(&text).target_of(&text, class + 1).unwrap(), None);
        }
        assert!(reader.class_ids("unlisted.example").is_empty());
        let targets: Vec<_> = reader.generation.patterns.iter().map(|pattern| (pattern.id, pattern.target)).collect();
        assert_eq!(targets, [(0, Some(name(""))), (1, Some(name("to.example"))), (2, Some(name("x.y")))]);
        assert_eq!(reader.generation.patterns[1].regex, "^Below[.]");
        let labels =
            |place: usize| reader.generation.classes[reader.generation.patterns[place].class as usize].alias_labels;
        assert_eq!([labels(0), labels(1), labels(2)], [AliasLabels::None, AliasLabels::Below, AliasLabels::All]);
        let read: BTreeSet<_> = reader.generation.rewrites.iter().map(|rewrite| format!("{rewrite:?}")).collect();
        assert_eq!(read, rewrites.iter().map(|rewrite| format!("{rewrite:?}")).collect());
        assert_eq!(reader.generation.rule_count(), 2 * classes.len() as u64 + 6);
    }
}

#[test]
fn rules_on_addresses_read_back_and_of_equal_ones_the_first_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path()).unwrap();
    let mut builder =
        Builder::new(&store, BuildOptions { shards: 3, threads: None, ..BuildOptions::default() }).unwrap();
    add_lists(&mut builder);
    let class = |kind, list| Class::plain(kind, Scope::Address, list);
    let rules = [
        ("10.0.0.0/8", class(Kind::Block, 0), None),
        ("10.0.0.0/8", class(Kind::Block, 1), None),
        ("10.0.0.0/8", class(Kind::Block, 0), None),
        ("192.0.2.1/32", class(Kind::Allow, 0), None),
        ("2001:db8::/32", class(Kind::Alias, 1), Some(name("first.example"))),
        ("2001:db8::/32", class(Kind::Alias, 1), Some(name("second.example"))),
    ];
    for (net, class, target) in rules {
        let key = RuleKey::Address { net: net.parse().unwrap(), target };
        builder.push(&Rule { class, key }).unwrap();
    }
    let built = builder.finish(&mut |_, _, _| {}).unwrap();
    assert_eq!((built.report.rules, built.report.duplicates), (4, 2));
    assert_eq!(built.report.lists[0].rules[&(Kind::Block, Scope::Address)], 1);
    assert_eq!(built.report.lists[1].duplicates, 1);
    built.publish().unwrap();
    let generation = store.current().unwrap();
    assert_eq!((generation.manifest.addresses, generation.rule_count()), (4, 4));
    let mut read: Vec<_> = generation
        .addresses
        .iter()
        .map(|row| {
            let Class { kind, list, scope, .. } = generation.classes[row.class as usize];
            assert_eq!(scope, Scope::Address);
            let target = row.target.as_ref().map(|target| target.to_string()).unwrap_or_default();
            format!("{} {kind:?} {list} {target}", row.net)
        })
        .collect();
    read.sort();
    assert_eq!(
        read,
        ["10.0.0.0/8 Block 0 ", "10.0.0.0/8 Block 1 ", "192.0.2.1/32 Allow 0 ", "2001:db8::/32 Alias 1 first.example"]
    );
}

#[test]
fn the_classes_of_the_root_name_come_with_the_generation() {
    for shards in [1, 7] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create_or_open(dir.path()).unwrap();
        let subtree = Class::plain(Kind::Block, Scope::Subtree, 0);
        let rules =
            [named(&subtree, "example"), named(&subtree, ""), named(&Class::plain(Kind::Allow, Scope::Below, 0), "")];
        build(&store, shards, rules).unwrap().publish().unwrap();
        let generation = store.current().unwrap();
        let mut kinds: Vec<_> = generation.root.iter().map(|&id| generation.classes[id as usize].kind).collect();
        kinds.sort();
        assert_eq!(kinds, [Kind::Allow, Kind::Block]);
        build(&store, shards, [blocked("a.example")]).unwrap().publish().unwrap();
        assert!(store.current().unwrap().root.is_empty());
    }
}

#[test]
fn an_empty_condition_is_no_class_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path()).unwrap();
    let plain = Class::plain(Kind::Block, Scope::Exact, 0);
    let empty = Class { condition: Some(Condition::default()), ..plain.clone() };
    build(&store, 1, [named(&empty, "a.example"), named(&plain, "b.example")]).unwrap().publish().unwrap();
    assert_eq!(store.current().unwrap().classes, [plain]);
}

#[test]
fn every_name_is_found_and_passes_the_filter_and_no_other_name_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path()).unwrap();
    let listed = |number: u32| format!("host{number}.example");
    let mut rules: Vec<_> = (0..5_000).map(|number| blocked(&listed(number))).collect();
    rules.push(blocked(""));
    rules.push(blocked(r"a\.b\032c.example"));
    build(&store, 7, rules).unwrap().publish().unwrap();
    let mut reader = Reader::open(&store);
    for number in 0..5_000 {
        assert_eq!(reader.class_ids(&listed(number)), [0]);
        assert!(reader.may_hold(&listed(number), Reach::Itself));
        assert!(reader.class_ids(&format!("x{number}.example")).is_empty());
    }
    assert_eq!(reader.class_ids(""), [0]);
    assert_eq!(reader.class_ids(r"a\.b\032c.example"), [0]);
    let wrong = (0..5_000).filter(|&number| reader.may_hold(&listed(number), Reach::Under)).count();
    assert!(wrong < 100, "an exact rule must not make its subtree suspect: {wrong} of 5,000");
}

#[test]
fn a_store_without_rules_opens_and_finds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path()).unwrap();
    assert_eq!(store.current_number().unwrap(), None);
    assert!(store.current().err().unwrap().to_string().contains("corewall build"));
    build(&store, 4, []).unwrap().publish().unwrap();
    let mut reader = Reader::open(&store);
    assert!(reader.class_ids("a.example").is_empty());
    assert!(!reader.may_hold("a.example", Reach::Itself));
}

#[test]
fn duplicates_within_a_list_are_counted_and_left_out_but_not_those_of_another_list() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path()).unwrap();
    let mut builder = Builder::new(&store, BuildOptions::default()).unwrap();
    add_lists(&mut builder);
    let block = |list| Class::plain(Kind::Block, Scope::Exact, list);
    for class in [block(0), block(0), block(1), Class::plain(Kind::Block, Scope::Subtree, 0)] {
        builder.push(&named(&class, "twice.example")).unwrap();
    }
    let alias = Class::plain(Kind::Alias, Scope::Subtree, 1);
    for target in ["first.example", "a.example"] {
        let key = RuleKey::Name { name: name("alias.example"), target: Some(name(target)) };
        builder.push(&Rule { class: alias.clone(), key }).unwrap();
    }
    let pattern = Class::plain(Kind::Block, Scope::Pattern, 0);
    for regex in ["^ad", "^ad", "^AD"] {
        let key = RuleKey::Pattern { regex: regex.into(), target: None };
        builder.push(&Rule { class: pattern.clone(), key }).unwrap();
    }
    for to in ["192.0.2.1", "192.0.2.2"] {
        builder.rewrite(IpRewrite { from: "10.0.0.0/8".parse().unwrap(), to: to.parse().unwrap(), list: 1 });
    }
    let mut said = Vec::new();
    let built = builder.finish(&mut |stage, done, total| said.push((stage, done, total))).unwrap();
    let lists = &built.report.lists;
    assert_eq!((lists[0].duplicates, lists[1].duplicates, built.report.duplicates), (2, 2, 4));
    assert_eq!(lists[0].rules[&(Kind::Block, Scope::Exact)], 1);
    assert_eq!(lists[0].rules[&(Kind::Block, Scope::Pattern)], 2);
    assert_eq!(lists[1].rules[&(Kind::Alias, Scope::Subtree)], 1);
    assert_eq!((built.report.rules, lists[1].ip_rewrites), (6, 1));
    assert_eq!(said.iter().rfind(|(stage, ..)| *stage == BuildStage::Write), Some(&(BuildStage::Write, 6, 6)));
    assert_eq!(said.last(), Some(&(BuildStage::Sync, 48, 48)));
    built.publish().unwrap();
    let mut reader = Reader::open(&store);
    assert_eq!(reader.class_ids("twice.example").len(), 3);
    let [class] = reader.class_ids("alias.example")[..] else { panic!("one alias") };
    let target = reader.shard("alias.example").target_of("alias.example", class).unwrap();
    assert_eq!(target, Some(name("first.example")), "the first of two targets stays");
    assert_eq!(reader.generation.rewrites[0].to.to_string(), "192.0.2.1");
}

#[test]
fn the_classic_views_together_give_the_classic_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path()).unwrap();
    let mut builder =
        Builder::new(&store, BuildOptions { shards: 5, threads: None, ..BuildOptions::default() }).unwrap();
    builder.list(list("test")).unwrap();
    let class = |kind, scope| Class::plain(kind, scope, 0);
    let servers = |text: &[&str]| text.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
    let allow = class(Kind::ForwardAllow, Scope::Subtree);
    let only_a = Condition { types: vec![1], ..Default::default() };
    let own_records = Some(Answer::Records(Vec::new()));
    for rule in [
        named(&class(Kind::Block, Scope::Exact), "exact.example"),
        named(&class(Kind::Block, Scope::Subtree), "tree.example"),
        named(&class(Kind::Block, Scope::Below), "below.example"),
        named(
            &Class { answer: Some(Answer::Mode(BlockMode::Drop)), ..class(Kind::Block, Scope::Exact) },
            "drop.example",
        ),
        named(&Class { condition: Some(only_a), ..class(Kind::Block, Scope::Exact) }, "only-a.example"),
        named(&Class { answer: own_records, ..class(Kind::Block, Scope::Exact) }, "records.example"),
        named(&allow, "group.example"),
        named(&Class { servers: servers(&["1.1.1.1:5353"]), ..allow.clone() }, "v4.example"),
        named(
            &Class { servers: servers(&["[2001:db8::1]:53"]), ..class(Kind::ForwardBlock, Scope::Subtree) },
            "v6.example",
        ),
        named(&class(Kind::ForwardAllow, Scope::Exact), "alone.example"),
        named(&class(Kind::Allow, Scope::Subtree), "fine.example"),
        Rule {
            class: class(Kind::Alias, Scope::Subtree),
            key: RuleKey::Name { name: name("alias.example"), target: Some(name("target.example")) },
        },
        Rule {
            class: class(Kind::Block, Scope::Pattern),
            key: RuleKey::Pattern { regex: "^ad[0-9]'".into(), target: None },
        },
        Rule {
            class: class(Kind::Block, Scope::Address),
            key: RuleKey::Address { net: "192.0.2.0/24".parse().unwrap(), target: None },
        },
    ] {
        builder.push(&rule).unwrap();
    }
    for (from, to) in [("10.0.0.1/32", "192.0.2.1"), ("10.0.0.0/8", "192.0.2.2"), ("2001:db8::1/128", "::1")] {
        builder.rewrite(IpRewrite { from: from.parse().unwrap(), to: to.parse().unwrap(), list: 0 });
    }
    builder.finish(&mut |_, _, _| {}).unwrap().publish().unwrap();

    let files = shard_files(&store.current().unwrap().dir);
    assert_eq!(files.len(), 5);
    let rows = |columns: &str, view: &str| {
        let mut all = BTreeSet::new();
        for file in &files {
            let conn = rusqlite::Connection::open(file).unwrap();
            let mut statement = conn.prepare(&format!("SELECT concat_ws(' ', {columns}) FROM {view}")).unwrap();
            let found = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
            found.for_each(|row| assert!(all.insert(row.unwrap()), "a row is in one shard"));
        }
        all.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(rows("Domain", "block_exact"), ["drop.example", "exact.example"]);
    assert_eq!(rows("Domain", "block_wildcard"), ["*.below.example", "tree.example"]);
    assert_eq!(rows("Pattern", "block_regex"), ["^ad[0-9]'"]);
    assert_eq!(rows("Domain, Server", "fqdn_dns_allow"), ["group.example", "v4.example 1.1.1.1#5353"]);
    assert_eq!(rows("Domain, Server", "fqdn_dns_block"), ["v6.example [2001:db8::1]:53"]);
    assert_eq!(rows("Source_Domain, Target_Domain", "domain_alias"), ["alias.example target.example"]);
    assert_eq!(rows("Source_IPv4, Target_IPv4", "ip_rewrite_v4"), ["10.0.0.0/8 192.0.2.2", "10.0.0.1 192.0.2.1"]);
    assert_eq!(rows("Source_IPv6, Target_IPv6", "ip_rewrite_v6"), ["2001:db8::1 ::1"]);
    assert_eq!(rows("Domain, Scope", "allow"), ["fine.example subtree"]);
    assert_eq!(rows("Name", "every_rule").len(), 14);
    assert_eq!(rows("Name, Kind", "every_rule WHERE Scope = 'address'"), ["192.0.2.0/24 block"]);
}

#[test]
fn a_sidecar_reads_back_and_a_damaged_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path()).unwrap();
    let mut built = build(&store, 1, [blocked("a.example")]).unwrap();
    built.add_sidecar("patterns.hs", b"compiled").unwrap();
    for bad in ["patterns.hs", "manifest.toml", "dns_shard_00.db", "../escape", "", ".hidden"] {
        assert!(built.add_sidecar(bad, b"x").is_err(), "{bad}");
    }
    built.publish().unwrap();
    let generation = store.current().unwrap();
    assert_eq!(generation.sidecar("patterns.hs").unwrap().as_deref(), Some(&b"compiled"[..]));
    assert_eq!(generation.sidecar("other").unwrap(), None);
    std::fs::write(generation.dir.join("patterns.hs"), b"compileD").unwrap();
    assert!(generation.sidecar("patterns.hs").is_err());
    assert!(generation.verify().is_err());
}

#[test]
fn rules_that_no_reader_produces_are_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path()).unwrap();
    for shards in [0, 4_097] {
        assert!(Builder::new(&store, BuildOptions { shards, threads: None, ..BuildOptions::default() }).is_err());
    }
    let mut builder = Builder::new(&store, BuildOptions::default()).unwrap();
    assert!(builder.push(&blocked("a.example")).is_err(), "no list was added");
    builder.list(list("test")).unwrap();
    builder.push(&blocked("a.example")).unwrap();
    assert!(builder.push(&named(&Class::plain(Kind::Alias, Scope::Exact, 0), "a.example")).is_err());
    assert!(builder.push(&named(&Class::plain(Kind::Block, Scope::Pattern, 0), "a.example")).is_err());
    assert!(builder.push(&named(&Class::plain(Kind::Block, Scope::Address, 0), "a.example")).is_err());
    let key = RuleKey::Address { net: "192.0.2.0/24".parse().unwrap(), target: None };
    assert!(builder.push(&Rule { class: Class::plain(Kind::Block, Scope::Exact, 0), key }).is_err());
}

#[test]
fn the_same_rules_give_the_same_bytes_whatever_the_number_of_threads() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let first = Store::create_or_open(dirs[0].path()).unwrap();
    std::fs::copy(dirs[0].path().join("key"), dirs[1].path().join("key")).unwrap();
    let second = Store::create_or_open(dirs[1].path()).unwrap();
    for (store, threads) in [(&first, 1), (&second, 4)] {
        let mut builder =
            Builder::new(store, BuildOptions { shards: 4, threads: Some(threads), ..BuildOptions::default() }).unwrap();
        add_lists(&mut builder);
        for (number, class) in every_class().iter().cycle().take(3_000).enumerate() {
            builder.push(&named(class, &format!("{}.example", number % 2_500))).unwrap();
        }
        builder.finish(&mut |_, _, _| {}).unwrap().publish().unwrap();
    }
    let [first, second] = [first, second].map(|store| store.current().unwrap());
    assert_eq!(first.manifest.files, second.manifest.files);
    for file in &first.manifest.files {
        assert!(
            std::fs::read(first.dir.join(&file.name)).unwrap() == std::fs::read(second.dir.join(&file.name)).unwrap()
        );
    }
}

#[test]
fn a_plain_block_rule_of_nineteen_characters_costs_at_most_32_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path()).unwrap();
    let digits = |number: u64| format!("{:07x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 36);
    let text = |number: u64| format!("{}.example.org", digits(number));
    assert_eq!(text(0).len(), 19);
    let built = build(&store, 16, (0..1_000_000).map(|number| blocked(&text(number)))).unwrap();
    let report = &built.report;
    assert!(report.rules > 990_000, "{} distinct names", report.rules);
    assert!(report.bytes_per_rule() <= 32.0, "{} bytes a rule", report.bytes_per_rule());
    let places = report.places_bytes as f64 / report.rules as f64;
    assert!(places <= 9.2, "{places} bytes of places a rule");
    println!("{:.2} bytes a rule, filter included, and {places:.2} of places", report.bytes_per_rule());
}

#[test]
fn every_rule_of_a_shard_is_told_with_its_class_and_target() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path()).unwrap();
    let mut builder = Builder::new(&store, BuildOptions { shards: 3, ..BuildOptions::default() }).unwrap();
    add_lists(&mut builder);
    let block = Class::plain(Kind::Block, Scope::Subtree, 1);
    let alias = Class::plain(Kind::Alias, Scope::Exact, 0);
    let mut pushed = BTreeSet::new();
    for number in 0..500 {
        let text = format!("n{number}.example");
        builder.push(&named(&block, &text)).unwrap();
        pushed.insert((text.clone(), Kind::Block, None));
        if number % 50 == 0 {
            let target = format!("t{number}.example");
            let key = RuleKey::Name { name: name(&text), target: Some(name(&target)) };
            builder.push(&Rule { class: alias.clone(), key }).unwrap();
            pushed.insert((text, Kind::Alias, Some(target)));
        }
    }
    builder.push(&named(&block, "")).unwrap();
    pushed.insert((String::new(), Kind::Block, None));
    builder.finish(&mut |_, _, _| {}).unwrap().publish().unwrap();
    let mut reader = Reader::open(&store);
    let (mut told, classes) = (BTreeSet::new(), &reader.generation.classes);
    for shard in &mut reader.shards {
        let mut before = None;
        let mut each = |name: &str, class: u32, target: Option<&str>| {
            let here = (name.to_owned(), class);
            assert!(before.as_ref() < Some(&here), "in the order of names and classes, each once");
            before = Some(here);
            told.insert((name.to_owned(), classes[class as usize].kind, target.map(str::to_owned)));
            std::ops::ControlFlow::Continue(())
        };
        shard.each_rule(&mut each).unwrap();
    }
    assert_eq!(told, pushed);
}
