//! The filters of a generation: what a bad one costs, and what it never costs.

mod common;

use std::fs;
use std::path::Path;

use common::{blocked, build, list, name, named, shard_files};
use corewall_sharding::StoreError;
use corewall_sharding::build::{BuildOptions, Builder};
use corewall_sharding::filters::{FilterCounts, FilterState, Filters};
use corewall_sharding::publish::{Generation, Store};
use corewall_sharding::route::{self, Reach, SubtreeDepths, SuffixHashes};
use corewall_sharding::rule::{Class, Kind, Scope};

/// Names in the stores, and as many that are not.
const NAMES: u32 = 2_000;

fn host(number: u32) -> String {
    format!("host{number}.example")
}

fn store(dir: &Path) -> Store {
    let store = Store::create_or_open(dir).unwrap();
    build(&store, 2, (0..NAMES).map(|number| blocked(&host(number)))).unwrap().publish().unwrap();
    store
}

/// Whether the store may hold an exact rule of this name.
fn may_hold(generation: &Generation, text: &str) -> bool {
    generation.filters.contains(route::hash(generation.key, &name(text)), Reach::Itself)
}

/// Names of the store that the filters do not know, and others that they take for some of it.
fn misses_and_false_alarms(generation: &Generation) -> (usize, usize) {
    let misses = (0..NAMES).filter(|&number| !may_hold(generation, &host(number))).count();
    let false_alarms = (NAMES..2 * NAMES).filter(|&number| may_hold(generation, &host(number))).count();
    (misses, false_alarms)
}

fn probe(filters: &Filters, generation: &Generation, place: usize, text: &str) -> u128 {
    let mut hashes = SuffixHashes::EMPTY;
    hashes.compute(generation.key, &name(text));
    filters.probe(place, &hashes)
}

fn counts(verified: u64, unverified: u64, rebuilt: u64, missing: u64) -> FilterCounts {
    FilterCounts { verified, unverified, rebuilt, missing }
}

#[test]
fn a_filter_that_is_missing_short_long_damaged_or_another_s_is_done_without_until_it_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let folder = store.current().unwrap().dir;
    let [path, other] = ["dns_shard_00.filter", "dns_shard_01.filter"].map(|file| folder.join(file));
    let good = fs::read(&path).unwrap();
    let flipped = |at: usize| good.iter().enumerate().map(|(i, &byte)| if i == at { byte ^ 1 } else { byte }).collect();
    let damages: [(&str, Option<Vec<u8>>); 7] = [
        ("missing", None),
        ("short", Some(good[..good.len() - 1].to_vec())),
        ("empty", Some(Vec::new())),
        ("long", Some([&good[..], b"x"].concat())),
        ("fingerprint", Some(flipped(good.len() - 1))),
        ("header", Some(flipped(3))),
        ("another's", Some(fs::read(&other).unwrap())),
    ];
    for (what, bytes) in damages {
        match bytes {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let generation = store.current().unwrap();
        assert_eq!(generation.filters.counts(), counts(1, 0, 0, 1), "{what}");
        let bad = generation.filters.bad();
        assert!(bad.len() == 1 && bad[0].0 == 0 && bad[0].1.contains("dns_shard_00.filter"), "{what}: {bad:?}");
        let (misses, false_alarms) = misses_and_false_alarms(&generation);
        assert_eq!(misses, 0, "{what}: a bad filter hides no rule");
        assert!(false_alarms > NAMES as usize / 4, "{what}: the shard is asked for every name of it");
        assert!(generation.require_filters().is_err() && generation.verify().is_err(), "{what}");

        generation.rebuild_filter(0).unwrap();
        assert_eq!(generation.filters.counts(), counts(1, 0, 1, 0), "{what}");
        assert!(generation.filters.bad().is_empty());
        let (misses, false_alarms) = misses_and_false_alarms(&generation);
        assert!(misses == 0 && false_alarms < 40, "{what}: {misses} misses, {false_alarms} false alarms");
        // What is good is not replaced.
        generation.rebuild_filter(1).unwrap();
        assert_eq!(generation.filters.state(1), FilterState::Verified);
        fs::write(&path, &good).unwrap();
    }
    assert_eq!(store.current().unwrap().filters.counts(), counts(2, 0, 0, 0));
}

#[test]
fn a_filter_is_not_rebuilt_from_a_damaged_shard() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let folder = store.current().unwrap().dir;
    fs::remove_file(folder.join("dns_shard_00.filter")).unwrap();
    let path = &shard_files(&folder)[0];
    let mut bytes = fs::read(path).unwrap();
    // Within a name: every row is still read.
    let at = bytes.windows(4).rposition(|window| window == b"host").unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
    let generation = store.current().unwrap();
    assert!(matches!(generation.rebuild_filter(0), Err(StoreError::Damaged { .. })));
    assert_eq!(generation.filters.counts(), counts(1, 0, 0, 1));
    assert_eq!(misses_and_false_alarms(&generation).0, 0);
}

#[test]
fn a_build_whose_filter_is_damaged_before_it_is_published_is_not_published() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let built = build(&store, 2, [blocked("a.example")]).unwrap();
    let building = fs::read_dir(dir.path().join("generations")).unwrap().map(|entry| entry.unwrap().path());
    let mut building = building.into_iter().filter(|path| path.to_string_lossy().contains(".building-"));
    let building = building.next().unwrap().join("generation");
    fs::write(building.join("dns_shard_00.filter"), b"").unwrap();
    assert!(built.publish().is_err());
    assert_eq!(store.current_number().unwrap(), Some(1));
}

#[test]
fn until_it_is_verified_a_filter_says_maybe_and_a_budget_verifies_the_first_ones() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let generation = store.current_unverified(None).unwrap();
    let filters = &generation.filters;
    assert_eq!(filters.counts(), counts(0, 2, 0, 0));
    assert_eq!(misses_and_false_alarms(&generation), (0, NAMES as usize));
    filters.verify(0, 2, &|| true);
    filters.verify(u64::MAX, 2, &|| false);
    assert_eq!(filters.counts(), counts(0, 2, 0, 0), "no budget, or nobody who wants it");
    filters.verify(filters.file_bytes() - 1, 2, &|| true);
    assert_eq!(filters.counts(), counts(1, 1, 0, 0));
    filters.verify(u64::MAX, 2, &|| true);
    assert_eq!(filters.counts(), counts(2, 0, 0, 0));
    let (misses, false_alarms) = misses_and_false_alarms(&generation);
    assert!(misses == 0 && false_alarms < 40);
}

#[test]
fn copies_answer_as_the_mapped_filters_do_each_from_when_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mapped = store.current().unwrap();
    fs::remove_file(mapped.dir.join("dns_shard_01.filter")).unwrap();
    let copied = store.current_unverified(Some(2)).unwrap();
    copied.filters.verify(u64::MAX, 2, &|| true);
    assert!(copied.filters.is_to_be_copied());
    let names = || (0..2 * NAMES).map(host).filter(|text| route::hash(mapped.key, &name(text)).shard(2) == 0);
    let is_as_mapped =
        |place, text: &str| probe(&copied.filters, &copied, place, text) == probe(&mapped.filters, &mapped, 0, text);
    for place in [0, 1] {
        assert!(!names().all(|text| is_as_mapped(place, &text)), "not copied yet, it says maybe");
        copied.filters.copy_to(place).unwrap();
        copied.filters.release_files();
        assert!(names().all(|text| is_as_mapped(place, &text)));
    }
    assert!(!copied.filters.is_to_be_copied(), "nothing is held but the copies");
    let one = copied.filters.bytes_in_memory();
    assert!(one > 0);
    copied.filters.copy_to(0).unwrap();
    assert_eq!(copied.filters.bytes_in_memory(), one, "once is enough");
    copied.rebuild_filter(1).unwrap();
    for place in [0, 1] {
        let is_same = (0..2 * NAMES).map(host).all(|text| is_as_mapped(place, &text));
        assert!(is_same, "one that was made again says what the first one said");
    }
    assert_ne!(probe(&copied.filters, &copied, 2, "any.example"), 0, "a place that there is not knows nothing");
}

#[test]
fn a_name_s_suffixes_are_found_in_one_probe_and_lengths_without_subtree_rules_are_not_asked() {
    for filter_bits in [8, 16] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create_or_open(dir.path()).unwrap();
        let mut builder = Builder::new(&store, BuildOptions { filter_bits, ..BuildOptions::default() }).unwrap();
        builder.list(list("test")).unwrap();
        let deep = vec!["a"; 127].join(".");
        let nine = "a.b.c.d.e.f.g.h.example";
        for (scope, text) in [
            (Scope::Exact, "exact.example"),
            (Scope::Subtree, "tree.example"),
            (Scope::Below, "x.below.example"),
            (Scope::Exact, nine),
            (Scope::Subtree, nine),
            (Scope::Exact, &deep),
        ] {
            builder.push(&named(&Class::plain(Kind::Block, scope, 0), text)).unwrap();
        }
        builder.finish(&mut |_, _, _| {}).unwrap().publish().unwrap();
        let generation = store.current().unwrap();
        assert_eq!(generation.manifest.subtree_depths, SubtreeDepths(1 << 2 | 1 << 3 | 1 << 9));
        assert_eq!(generation.filters.bits(), filter_bits);
        let asked = |text: &str| probe(&generation.filters, &generation, 0, text);
        // False positives aside, which 16 bits hardly have.
        let wanted = |text: &str, bits: u128| {
            let found = asked(text);
            assert_eq!(found & bits, bits, "{text}: {found:b}");
            assert!(filter_bits == 8 || found == bits, "{text}: {found:b}");
        };
        wanted("exact.example", 1 << 2);
        wanted("sub.exact.example", 0);
        wanted("tree.example", 1 << 2);
        wanted("a.b.c.tree.example", 1 << 2);
        wanted("host.x.below.example", 1 << 3);
        wanted(nine, 1 << 9);
        wanted(&format!("1.2.3.{nine}"), 1 << 9);
        wanted(&deep, 1 << 127);
        assert_eq!(asked(""), 0, "the root's rules are at hand");
    }
}

#[test]
fn another_number_of_bits_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path()).unwrap();
    for filter_bits in [0, 7, 9, 32] {
        let refused = Builder::new(&store, BuildOptions { filter_bits, ..BuildOptions::default() }).err().unwrap();
        assert!(refused.to_string().contains("choose 8 or 16 bits"), "{refused}");
    }
}
