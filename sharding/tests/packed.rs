//! The packed layout answers as the SQL layout does, in a third of the bytes, and a damaged block is an error.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use common::{Reader, list, name, named, shard_files};
use corewall_sharding::build::{BuildOptions, Builder};
use corewall_sharding::manifest::Layout;
use corewall_sharding::publish::Store;
use corewall_sharding::rule::{AliasLabels, Class, Kind, Rule, RuleKey, Scope};

/// Names that differ in every way in which names can: in length, labels, escapes, and what they share with others.
fn names() -> BTreeSet<String> {
    let mut names: BTreeSet<String> = [
        "",
        "com",
        "example",
        "a.example",
        r"a\.b.example",
        r"\\.example",
        r"\000.example",
        r"\000\001.example",
        r"\255.example",
        r"\032\.\255\\.x",
        "-",
        "_tcp.example",
        "~.example",
        "1.0.0.127",
        "xn--bcher-kva.example",
    ]
    .map(String::from)
    .into();
    let long = |letter: &str, last: usize| {
        let label = letter.repeat(63);
        format!("{label}.{label}.{label}.{}", letter.repeat(last))
    };
    names.extend([
        long("a", 61),
        long("a", 60),
        long("b", 61),
        long(r"\255", 61),
        long(r"\255", 60),
        ["a"; 127].join("."),
    ]);
    let words = ["ads", "track", "cdn", "shop", "mail", "login", "x9", "q-7"];
    let mut state = 1u64;
    for number in 0..6_000u64 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let word = words[(state >> 60) as usize % words.len()];
        let tail = ["com", "net", "co.uk", "blogspot.com", r"odd\.label.org"][(state >> 50) as usize % 5];
        names.insert(format!("{word}{number}.{}.{tail}", state >> 40 & 0x3f));
        if number % 3 == 0 {
            names.insert(format!("{:x}.{tail}", state >> 20));
        }
    }
    names
}

/// What is asked: each name, what is above it, and names that are nearly it.
fn questions(names: &BTreeSet<String>) -> BTreeSet<String> {
    let mut questions = names.clone();
    for text in names {
        let whole = name(text);
        for labels in 0..whole.label_count() {
            questions.insert(whole.suffix(labels).to_text().as_str().to_owned());
        }
        if whole.as_wire().len() < 240 {
            questions.extend([format!("{text}x"), format!("0{text}"), format!("zz.{text}")]);
        }
    }
    questions
}

fn build(dir: &Path, shards: u16, layout: Layout, rules: &[Rule]) -> Store {
    let store = Store::create_or_open(dir).unwrap();
    let options = BuildOptions { shards, layout, threads: Some(2), ..Default::default() };
    let mut builder = Builder::new(&store, options).unwrap();
    for (id, title) in (0..).zip(["one", "two"]) {
        assert_eq!(builder.list(list(title)).unwrap(), id);
    }
    rules.iter().for_each(|rule| builder.push(rule).unwrap());
    builder.finish(&mut |_, _, _| {}).unwrap().publish().unwrap();
    store
}

/// Rules of several classes: most names have one and the same, some have others, more than one, or an alias.
fn rules(names: &BTreeSet<String>) -> Vec<Rule> {
    let block = Class::plain(Kind::Block, Scope::Subtree, 0);
    let mut rules = Vec::new();
    for (number, text) in names.iter().enumerate() {
        if number % 11 != 0 {
            rules.push(named(&block, text));
        }
        if number % 7 == 0 || number % 11 == 0 {
            rules.push(named(&Class::plain(Kind::Block, Scope::Exact, 1), text));
        }
        if number % 101 == 0 {
            for kind in [Kind::Allow, Kind::ForwardBlock, Kind::ForwardAllow] {
                rules.push(named(&Class::plain(kind, Scope::Below, 1), text));
            }
        }
        if number % 50 == 0 {
            let class = Class { alias_labels: AliasLabels::All, ..Class::plain(Kind::Alias, Scope::Subtree, 0) };
            let key = RuleKey::Name { name: name(text), target: Some(name(&format!("to{number}.example"))) };
            rules.push(Rule { class, key });
        }
    }
    rules
}

fn all_rules(reader: &mut Reader) -> BTreeMap<(String, u32), Option<String>> {
    let mut all = BTreeMap::new();
    for shard in &mut reader.shards {
        let mut before = None;
        let mut ended = BTreeSet::new();
        let each = |name: &str, class: u32, target: Option<&str>| {
            if before.as_deref() != Some(name) {
                assert!(ended.insert(name.to_owned()), "the rules of a name come one after the other");
                before = Some(name.to_owned());
            }
            assert!(all.insert((name.to_owned(), class), target.map(str::to_owned)).is_none(), "each once");
            ControlFlow::Continue(())
        };
        shard.each_rule(&mut { each }).unwrap();
    }
    all
}

#[test]
fn both_layouts_give_the_same_answers_to_every_question() {
    let names = names();
    let rules = rules(&names);
    let questions = questions(&names);
    for shards in [1, 3] {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let sql = build(dirs[0].path(), shards, Layout::Sql, &rules);
        fs::copy(dirs[0].path().join("key"), dirs[1].path().join("key")).unwrap();
        let packed = build(dirs[1].path(), shards, Layout::Packed, &rules);
        let [mut sql, mut packed] = [sql, packed].map(|store| Reader::open(&store));
        assert_eq!(packed.generation.manifest.layout, Layout::Packed);
        assert_eq!(sql.generation.classes, packed.generation.classes);
        assert_eq!(sql.generation.root, packed.generation.root);
        packed.generation.verify().unwrap();
        let mut found = 0;
        for text in &questions {
            let mut expected = sql.class_ids(text);
            expected.sort();
            assert_eq!(packed.class_ids(text), expected, "{text}");
            found += expected.len();
            for class in expected {
                let target = sql.shard(text).target_of(text, class).unwrap();
                assert_eq!(packed.shard(text).target_of(text, class).unwrap(), target);
            }
        }
        assert_eq!(found, rules.len());
        let all = all_rules(&mut packed);
        assert_eq!(all.len(), rules.len());
        assert!(all.values().any(|target| target.is_some()));
        assert_eq!(all, all_rules(&mut sql));
        for kind in [Kind::Block, Kind::Alias, Kind::Allow] {
            let example = packed.shards[0].example(kind).unwrap();
            assert_eq!(example.is_some(), kind != Kind::Allow, "no allow rule covers its name itself");
            assert!(example.is_none_or(|text| names.contains(&text)));
        }
        let mut heard = 0;
        let stop = &mut |_: &str, _, _: Option<&str>| {
            heard += 1;
            ControlFlow::Break(())
        };
        packed.shards[0].each_rule(stop).unwrap();
        assert_eq!(heard, 1);
    }
}

#[test]
fn a_shard_of_no_name_or_of_one_answers_too() {
    let block = Class::plain(Kind::Block, Scope::Exact, 0);
    for rules in [vec![], vec![named(&block, "")], vec![named(&block, "ads.example")]] {
        let dir = tempfile::tempdir().unwrap();
        let mut reader = Reader::open(&build(dir.path(), 2, Layout::Packed, &rules));
        let all: Vec<String> = all_rules(&mut reader).into_keys().map(|(name, _)| name).collect();
        assert_eq!(all.len(), rules.len());
        for text in ["", "ads.example", "example", "x.ads.example", "ads", "z"] {
            assert_eq!(reader.class_ids(text).len(), usize::from(all.iter().any(|name| name == text)), "{text}");
        }
    }
}

#[test]
fn a_name_may_have_more_classes_than_fit_on_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let class = |number: u16| Class {
        condition: Some(corewall_sharding::rule::Condition { types: vec![number], ..Default::default() }),
        ..Class::plain(Kind::Block, Scope::Subtree, 0)
    };
    let mut rules: Vec<Rule> = (0..5_000).map(|number| named(&class(number), "many.example")).collect();
    rules.extend(["before.example", "zlast.example"].map(|text| named(&class(0), text)));
    let mut reader = Reader::open(&build(dir.path(), 1, Layout::Packed, &rules));
    assert_eq!(reader.class_ids("many.example").len(), 5_000);
    assert_eq!(reader.class_ids("before.example").len(), 1);
    assert_eq!(reader.class_ids("zlast.example").len(), 1);
    assert_eq!(all_rules(&mut reader).len(), rules.len());
}

#[test]
fn the_same_rules_give_the_same_packed_bytes() {
    let rules = rules(&names());
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let first = build(dirs[0].path(), 2, Layout::Packed, &rules);
    fs::copy(dirs[0].path().join("key"), dirs[1].path().join("key")).unwrap();
    let second = build(dirs[1].path(), 2, Layout::Packed, &rules);
    assert_eq!(first.current().unwrap().manifest.files, second.current().unwrap().manifest.files);
    let generation = first.current().unwrap().dir;
    let files = fs::read_dir(generation).unwrap().count();
    assert_eq!(files, 2 * 2 + 1, "what the names waited in is gone");
}

#[test]
fn a_damaged_byte_of_a_packed_shard_is_an_error_or_changes_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let block = Class::plain(Kind::Block, Scope::Exact, 0);
    let host = |number: u32| format!("host{number}.{}.example", number % 7);
    let rules: Vec<Rule> = (0..4_000).map(|number| named(&block, &host(number))).collect();
    let store = build(dir.path(), 1, Layout::Packed, &rules);
    let path = shard_files(&store.current().unwrap().dir)[0].clone();
    let good = fs::read(&path).unwrap();
    let (mut refused, mut failed, mut answered) = (0, 0, 0);
    for at in (0..good.len()).step_by(199) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&path, &bad).unwrap();
        let Ok(generation) = store.current() else {
            refused += 1;
            continue;
        };
        assert!(generation.verify().is_err(), "byte {at}");
        let Ok(mut shards) = generation.open_shards(at % 2 == 0) else {
            refused += 1;
            continue;
        };
        for number in (0..4_200).step_by(41) {
            let mut found = Vec::new();
            match shards[0].classes_of(&host(number), &mut |class| found.push(class)) {
                Ok(()) => {
                    let expected: &[u32] = if number < 4_000 { &[0] } else { &[] };
                    assert_eq!(found, expected, "byte {at}, name {number}");
                    answered += 1;
                }
                Err(_) => failed += 1,
            }
        }
        // Reading it all ends, in whatever way.
        let _ = shards[0].each_rule(&mut |_, _, _| ControlFlow::Continue(()));
    }
    assert!(refused > 0 && failed > 0 && answered > 0, "{refused} refused, {failed} failed, {answered} answered");
}

#[test]
fn a_rule_on_a_random_name_costs_at_most_9_bytes_packed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path()).unwrap();
    let options = BuildOptions { shards: 2, layout: Layout::Packed, ..Default::default() };
    let mut builder = Builder::new(&store, options).unwrap();
    builder.list(list("test")).unwrap();
    let block = Class::plain(Kind::Block, Scope::Subtree, 0);
    for number in 1..=200_000u64 {
        // Eleven letters that nothing can be known of, and one of eight suffixes.
        let mut bits = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits ^= bits >> 29;
        bits = bits.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let letters: String = (0..11).map(|place| char::from(b'a' + (bits >> (5 * place) & 0x0f) as u8)).collect();
        let suffix = ["com", "net", "org", "info", "xyz", "co.uk", "de", "shop"][(bits >> 61) as usize];
        builder.push(&named(&block, &format!("{letters}.{suffix}"))).unwrap();
    }
    let built = builder.finish(&mut |_, _, _| {}).unwrap();
    assert!(built.report.rules > 199_000);
    assert!(built.report.bytes_per_rule() <= 9.0, "{} bytes a rule", built.report.bytes_per_rule());
}
