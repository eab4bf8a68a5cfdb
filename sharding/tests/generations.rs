//! Generations beside each other: which is current, which was before, and what is wrong with one.

mod common;

use std::fs;
use std::ops::ControlFlow;

use common::{Reader, blocked, build, named};
use corewall_sharding::publish::Store;
use corewall_sharding::rule::{Class, Kind, Rule, RuleKey, Scope};
use corewall_sharding::verify::{VerifyStage, verify};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path()).unwrap();
    (dir, store)
}

fn publish(store: &Store, name: &str) -> u64 {
    build(store, 2, [blocked(name)]).unwrap().publish().unwrap()
}

#[test]
fn a_sealed_generation_can_be_opened_and_is_served_by_nobody_until_it_is_published() {
    let (_dir, store) = store();
    publish(&store, "a.example");
    let sealed = build(&store, 2, [blocked("b.example")]).unwrap().seal().unwrap();
    assert_eq!((sealed.number(), sealed.open().unwrap().number, store.current_number().unwrap()), (2, 2, Some(1)));
    assert!(build(&store, 2, []).is_err(), "no other build begins meanwhile");
    drop(sealed);
    assert_eq!((store.numbers().unwrap(), store.current_number().unwrap()), (vec![1, 2], Some(1)));
    assert_eq!(build(&store, 2, []).unwrap().publish().unwrap(), 3);
    assert_eq!(store.number_before().unwrap(), Some(1), "2 never served");
    store.switch(2).unwrap();
    assert_eq!(Reader::open(&store).class_ids("b.example"), [0]);
}

#[test]
fn what_was_current_is_remembered_over_switches_and_removals() {
    let (dir, store) = store();
    assert_eq!(store.number_before().unwrap(), None);
    for name in ["a.example", "b.example", "c.example"] {
        publish(&store, name);
    }
    assert_eq!(store.number_before().unwrap(), Some(2));
    store.switch(3).unwrap();
    assert_eq!(store.number_before().unwrap(), Some(2), "switching to what is current changes nothing");
    store.remove(2).unwrap();
    assert_eq!(store.number_before().unwrap(), Some(1));
    assert!(store.switch(2).unwrap_err().to_string().contains("there is no generation 2"));
    assert!(store.remove(3).unwrap_err().to_string().contains("is the current one"));
    // Neither a lost nor a damaged history keeps anybody from rolling back.
    fs::write(dir.path().join("history"), [0xff; 10]).unwrap();
    assert_eq!(store.number_before().unwrap(), Some(1));
    store.switch(1).unwrap();
    fs::remove_file(dir.path().join("history")).unwrap();
    store.switch(3).unwrap();
    assert_eq!(store.number_before().unwrap(), Some(1));
}

#[test]
fn every_rule_of_a_shard_is_read_in_order_with_its_target() {
    let (_dir, store) = store();
    let subtree = Class::plain(Kind::Block, Scope::Subtree, 0);
    let alias = Class::plain(Kind::Alias, Scope::Exact, 0);
    let mut rules: Vec<Rule> = (0..300).map(|number| blocked(&format!("host{number}.example"))).collect();
    rules.push(named(&subtree, "host7.example"));
    let key = RuleKey::Name { name: common::name("old.example"), target: Some(common::name("new.example")) };
    rules.push(Rule { class: alias.clone(), key });
    build(&store, 3, rules).unwrap().publish().unwrap();
    let mut reader = Reader::open(&store);
    let (mut seen, mut targets) = (0, Vec::new());
    for shard in &mut reader.shards {
        let mut last = None;
        shard
            .each_rule(&mut |name, class, target| {
                let this = (name.to_owned(), class);
                assert!(last.as_ref().is_none_or(|last| *last < this), "{this:?} after {last:?}");
                last = Some(this);
                seen += 1;
                targets.extend(target.map(|target| (name.to_owned(), target.to_owned())));
                ControlFlow::Continue(())
            })
            .unwrap();
    }
    let mut calls = 0;
    let stop = &mut |_: &str, _, _: Option<&str>| {
        calls += 1;
        ControlFlow::Break(())
    };
    reader.shards[0].each_rule(stop).unwrap();
    assert_eq!(calls, 1, "it ends when it is told to");
    assert_eq!((seen, targets), (302, vec![("old.example".to_owned(), "new.example".to_owned())]));
}

#[test]
fn a_verification_reads_every_byte_and_goes_on_after_a_bad_file() {
    let (_dir, store) = store();
    build(&store, 4, (0..1_000).map(|number| blocked(&format!("host{number}.example")))).unwrap().publish().unwrap();
    let bytes = store.manifest(1).unwrap().bytes();
    let (mut summed, mut sampled) = (Vec::new(), Vec::new());
    let verified = verify(&store, 1, 50, &mut |stage, done, of| match stage {
        VerifyStage::Sum => summed.push((done, of)),
        VerifyStage::Sample => sampled.push((done, of)),
    })
    .unwrap();
    assert_eq!((verified.files, verified.bytes, verified.rows, verified.bad.len()), (12, bytes, 4 * 50, 0));
    assert!(summed.is_sorted() && summed.last() == Some(&(bytes, bytes)), "{summed:?}");
    assert!(sampled.is_sorted() && sampled.last().is_some_and(|(done, of)| done == of), "{sampled:?}");
    let dir = store.generation_dir(1);
    fs::remove_file(dir.join("dns_shard_01.filter")).unwrap();
    fs::write(dir.join("dns_shard_02.db"), "short").unwrap();
    let verified = verify(&store, 1, 50, &mut |_, _, _| {}).unwrap();
    let bad: Vec<String> = verified.bad.iter().map(ToString::to_string).collect();
    assert_eq!((bad.len(), verified.bytes), (2, bytes), "{bad:?}");
    assert!(bad[0].contains("dns_shard_01.filter") && bad[1].contains("dns_shard_02.db"), "{bad:?}");
}
