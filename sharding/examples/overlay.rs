//! Measures the overlay: rules added and removed a second, and how long a start takes to check and to read it.
//!
//! `cargo run --release -p corewall-sharding --example overlay -- DIRECTORY [RULES] [BATCH]`

use std::path::PathBuf;
use std::time::Instant;

use corewall_sharding::name::Name;
use corewall_sharding::overlay::{LiveChange, NewEntry, Overlay, Removal, Selector, Subject};
use corewall_sharding::publish::Store;
use corewall_sharding::rule::{Class, Kind, Rule, RuleKey, Scope};

fn name(number: u64) -> Name {
    format!("host{number}.some-tracker.example").parse().expect("a name")
}

fn entry(number: u64) -> NewEntry {
    let key = RuleKey::Name { name: name(number), target: None };
    let rule = Rule { class: Class::plain(Kind::Block, Scope::Exact, 0), key };
    NewEntry { change: LiveChange::Rule(rule), list: "live".to_owned(), expires_s: None, reason: String::new() }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().expect("a directory for the store"));
    let rules: u64 = arguments.next().map_or(500_000, |rules| rules.parse().expect("a number of rules"));
    let batch: u64 = arguments.next().map_or(8_192, |batch| batch.parse().expect("rules of a batch"));
    let store = Store::create_or_open(&dir).expect("a store");
    let mut overlay = Overlay::open(&store).expect("the overlay");
    let measure = |what: &str, count: u64, work: &mut dyn FnMut()| {
        let started = Instant::now();
        work();
        let seconds = started.elapsed().as_secs_f64();
        println!("{what}: {seconds:.3} s, {:.0} a second", count as f64 / seconds);
    };
    let batches = || (0..rules).step_by(batch as usize).map(|first| first..rules.min(first + batch));
    for what in ["add", "replace"] {
        measure(what, rules, &mut || {
            for numbers in batches() {
                overlay.add(&numbers.map(entry).collect::<Vec<_>>(), 1).expect("added");
            }
        });
    }
    measure("add one", 100, &mut || {
        for number in rules..rules + 100 {
            overlay.add(&[entry(number)], 1).expect("added");
        }
    });
    measure("check", rules, &mut || overlay.verify().expect("whole"));
    measure("read", rules, &mut || drop(Overlay::read(&store, 0).expect("entries")));
    drop(overlay);
    println!("{} bytes", std::fs::metadata(dir.join("overlay.db")).expect("the file").len());
    let mut opened = None;
    measure("open", rules, &mut || opened = Some(Overlay::open(&store).expect("the overlay")));
    let mut overlay = opened.expect("opened");
    measure("remove", rules, &mut || {
        for numbers in batches() {
            let selector =
                |number| Selector { subject: Subject::Name(name(number)), scope: None, effect: None, list: None };
            let removal = Removal { generation: None, now_s: 1, expires_s: None, reason: "" };
            overlay.remove(&numbers.map(selector).collect::<Vec<_>>(), removal).expect("removed");
        }
    });
}
