//! Rows that are found by their places, without SQLite: all that SQLite finds, and nothing else.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use common::{blocked, build, list, name, named};
use corewall_sharding::build::{BuildOptions, Builder, Built};
use corewall_sharding::direct::{DirectShard, NotDirect};
use corewall_sharding::manifest::Layout;
use corewall_sharding::publish::{Generation, Store};
use corewall_sharding::route;
use corewall_sharding::rows::Shard;
use corewall_sharding::rule::{Class, ClassId, Condition, Kind, Rule, Scope};
use corewall_sharding::verify::verify;

/// Random numbers that are the same each time (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((u128::from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)) * u128::from(bound)) >> 64) as u64
    }

    /// A name of one to six labels of letters, digits, dots that belong to a label, and octets that are written as numbers.
    fn name(&mut self) -> String {
        let label = |random: &mut Random| -> String {
            let len = 1 + random.below(12);
            (0..len)
                .map(|_| match random.below(24) {
                    0 => r"\.".to_owned(),
                    1 => r"\000".to_owned(),
                    2 => r"\255".to_owned(),
                    3 => r"\\".to_owned(),
                    number => char::from(b'a' + number as u8).to_string(),
                })
                .collect()
        };
        let labels = 1 + self.below(6);
        (0..labels).map(|_| label(self)).collect::<Vec<_>>().join(".")
    }
}

/// Two ways to read one generation.
struct Readers {
    generation: Generation,
    shards: Vec<Shard>,
    direct: Vec<DirectShard>,
}

impl Readers {
    fn open(store: &Store) -> Readers {
        let generation = store.current().unwrap();
        let shards = generation.open_shards(true).unwrap();
        let direct = (0..generation.shard_count()).map(|shard| generation.direct_shard(shard).unwrap()).collect();
        Readers { generation, shards, direct }
    }

    /// The classes of a name as SQLite reads them, and by its places; none when they are left to SQLite.
    fn both(&mut self, text: &str) -> (Vec<ClassId>, Option<Vec<ClassId>>) {
        let hash = route::hash(self.generation.key, &name(text));
        let shard = usize::from(hash.shard(self.generation.shard_count()));
        let (mut by_sqlite, mut by_places) = (Vec::new(), Vec::new());
        self.shards[shard].classes_of(text, &mut |class| by_sqlite.push(class)).unwrap();
        let direct = &self.direct[shard];
        direct.prefetch_places(hash);
        direct.prefetch_rows(hash);
        let is_told = direct.classes_of(hash, text, &mut |class| by_places.push(class)).unwrap();
        assert!(is_told || by_places.is_empty(), "`{text}` was told of and left to SQLite");
        (by_sqlite, is_told.then_some(by_places))
    }
}

fn canonical(text: &str) -> String {
    name(text).to_text().as_str().to_owned()
}

/// As many classes as there are numbers.
fn class(number: u16) -> Class {
    let condition = Some(Condition { types: vec![number], ..Condition::default() });
    Class { condition, ..Class::plain(Kind::Block, Scope::Exact, 0) }
}

fn build_with(store: &Store, options: BuildOptions, rules: impl IntoIterator<Item = Rule>) -> Built {
    let mut builder = Builder::new(store, options).unwrap();
    builder.list(list("test")).unwrap();
    rules.into_iter().for_each(|rule| builder.push(&rule).unwrap());
    builder.finish(&mut |_, _, _| {}).unwrap()
}

/// The longest name, each octet of which takes four in the text: SQLite puts its end into a page of its own.
fn longest() -> String {
    [63, 63, 63, 61].map(|octets| r"\255".repeat(octets)).join(".")
}

#[test]
fn what_sqlite_finds_is_found_by_its_places_and_nothing_else_is() {
    let mut random = Random(0x5eed);
    let listed: BTreeSet<String> = (0..6_000).map(|_| canonical(&random.name())).collect();
    let longest = longest();
    let almost = longest.replacen(r"\255", "a", 20);
    for shards in [1, 3, 16] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create_or_open(dir.path()).unwrap();
        let mut rules: Vec<Rule> = listed.iter().map(|text| blocked(text)).collect();
        // Of some names there are more rules, of one or two of them more than have places.
        for (place, text) in listed.iter().enumerate().step_by(50) {
            rules.extend((0..place as u16 % 11).map(|number| named(&class(number), text)));
        }
        rules.extend((0..600).map(|number| named(&class(number), "many.example")));
        rules.extend([blocked(&longest), named(&class(3), &longest), blocked(&almost), blocked("")]);
        let built = build(&store, shards, rules).unwrap();
        assert!(built.report.places_bytes > 0);
        built.publish().unwrap();
        let mut readers = Readers::open(&store);
        let (mut left, mut several) = (BTreeSet::new(), 0);
        for text in listed.iter().map(String::as_str).chain(["many.example", &longest, &almost, ""]) {
            let (by_sqlite, by_places) = readers.both(text);
            assert!(!by_sqlite.is_empty(), "{text}");
            several += usize::from(by_sqlite.len() > 1);
            match by_places {
                Some(by_places) => assert_eq!(by_places, by_sqlite, "{text}"),
                None => {
                    assert!(by_sqlite.len() > 8 || text == longest, "{text}");
                    left.insert(text.to_owned());
                }
            }
        }
        assert!(several > 100 && left.contains("many.example") && left.contains(&longest), "{several} {}", left.len());
        assert!(!left.contains(&almost) && left.len() < 40);
        for _ in 0..6_000 {
            let text = canonical(&random.name());
            let (by_sqlite, by_places) = readers.both(&text);
            assert_eq!(by_sqlite.is_empty(), !listed.contains(&text));
            assert!(by_places.is_none_or(|by_places| by_places == by_sqlite), "{text}");
        }
        let mut said = 0;
        let verified = verify(&store, 1, 100_000, &mut |_, _, _| said += 1).unwrap();
        assert!(verified.bad.is_empty(), "{:?}", verified.bad);
    }
}

#[test]
fn a_store_of_any_size_has_a_place_for_each_of_its_rules() {
    for count in [0, 1, 2, 7, 8, 70, 1_000, 40_000] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create_or_open(dir.path()).unwrap();
        let host = |number: u32| format!("host{number}.example");
        build(&store, 2, (0..count).map(|number| blocked(&host(number)))).unwrap().publish().unwrap();
        let mut readers = Readers::open(&store);
        for number in 0..count {
            assert_eq!(readers.both(&host(number)), (vec![0], Some(vec![0])), "{number} of {count}");
        }
        for number in count..count + 1_000 {
            assert_eq!(readers.both(&host(number)), (vec![], Some(vec![])), "{number} of {count}");
        }
    }
}

#[test]
fn places_are_written_when_they_are_wanted_and_a_packed_store_has_none() {
    let cases = [
        (Layout::Sql, None, true),
        (Layout::Sql, Some(true), true),
        (Layout::Sql, Some(false), false),
        (Layout::Packed, None, false),
        (Layout::Packed, Some(false), false),
    ];
    let rules = || (0..50).map(|number| blocked(&format!("host{number}.example")));
    for (layout, places, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create_or_open(dir.path()).unwrap();
        let options = BuildOptions { shards: 2, layout, places, ..BuildOptions::default() };
        build_with(&store, options, rules()).publish().unwrap();
        let generation = store.current().unwrap();
        assert_eq!(generation.has_places(), expected, "{layout:?} {places:?}");
        if !expected {
            assert!(matches!(generation.read_directly(0), Err(NotDirect::NoPlaces)));
            assert!(generation.direct.shard(0).is_none());
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path()).unwrap();
    let options = BuildOptions { layout: Layout::Packed, places: Some(true), ..BuildOptions::default() };
    let refused = Builder::new(&store, options).err().expect("a packed store has no places").to_string();
    assert!(refused.contains("choose the layout sql"), "{refused}");
}

#[test]
fn a_shard_is_read_directly_once_it_is_locked_in_memory_and_its_sums_are_right() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let generation = store.current().unwrap();
    assert!(generation.direct.shard(0).is_none() && generation.direct.bytes() == 0);
    generation.read_directly(0).unwrap();
    generation.read_directly(0).unwrap();
    let direct = generation.direct.shard(0).expect("it was asked for");
    assert!(generation.direct.shard(1).is_none() && generation.direct.shard(2).is_none());
    assert_eq!((generation.direct.count(), generation.direct.bytes()), (1, direct.bytes()));
    let locked = fs::read_to_string("/proc/self/status").unwrap();
    let locked = locked.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
    let kib: u64 = locked.trim().trim_end_matches(" kB").trim().parse().unwrap();
    assert!(kib * 1_024 >= direct.bytes(), "{kib} KiB are locked");

    for file in ["dns_shard_01.places", "dns_shard_01.db"] {
        let path = generation.dir.join(file);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        // A file of its own: a mapping of the other one keeps what it has.
        fs::remove_file(&path).unwrap();
        fs::write(&path, &bad).unwrap();
        let damaged = store.current().unwrap();
        let error = damaged.read_directly(1).unwrap_err().to_string();
        assert!(error.contains(file) && error.contains("checksum"), "{error}");
        assert!(damaged.direct.shard(1).is_none());
        let verified = verify(&store, 1, 10, &mut |_, _, _| ()).unwrap();
        assert!(verified.bad.len() == 1 && verified.bad[0].to_string().contains(file), "{:?}", verified.bad);
        fs::write(&path, good).unwrap();
    }
    // Without its places a shard is served by SQLite.
    fs::remove_file(generation.dir.join("dns_shard_01.places")).unwrap();
    let bare = store.current().unwrap();
    assert!(matches!(bare.read_directly(1), Err(NotDirect::Bad(_))));
    assert_eq!(bare.open_shards(false).unwrap().len(), 2);
}

/// Names in the damaged stores.
const NAMES: u32 = 2_000;

fn store(dir: &Path) -> Store {
    let store = Store::create_or_open(dir).unwrap();
    build(&store, 2, (0..NAMES).map(|number| blocked(&format!("host{number}.example")))).unwrap().publish().unwrap();
    store
}

/// Looks all names up in a shard whose file of this ending is damaged; gives how many are found.
fn look_up_all(generation: &Generation) -> Result<usize, usize> {
    let Ok(direct) = generation.direct_shard(0) else { return Err(0) };
    let (mut found, mut failed) = (0, 0);
    for number in 0..NAMES {
        let text = format!("host{number}.example");
        let hash = route::hash(generation.key, &name(&text));
        if hash.shard(2) == 0 {
            direct.prefetch_places(hash);
            direct.prefetch_rows(hash);
            match direct.classes_of(hash, &text, &mut |_| found += 1) {
                Ok(_) => {}
                Err(_) => failed += 1,
            }
        }
    }
    if failed == 0 { Ok(found) } else { Err(failed) }
}

#[test]
fn no_damage_of_a_file_makes_a_lookup_panic_or_read_beyond_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let generation = store.current().unwrap();
    let rules = look_up_all(&generation).unwrap();
    let (mut refused, mut failed, mut told) = (0, 0, 0);
    for (file, step) in [("dns_shard_00.places", 89), ("dns_shard_00.db", 197)] {
        let path = generation.dir.join(file);
        let good = fs::read(&path).unwrap();
        let mut count = |bad: &[u8], what: String| {
            fs::remove_file(&path).unwrap();
            fs::write(&path, bad).unwrap();
            match look_up_all(&generation) {
                Ok(found) => {
                    assert!(found <= rules, "{file}, {what}: {found} found");
                    told += 1;
                }
                Err(0) => refused += 1,
                Err(_) => failed += 1,
            }
        };
        for at in (0..100).chain((100..good.len()).step_by(step)) {
            for flip in [0x01, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                count(&bad, format!("byte {at} ^ {flip}"));
            }
        }
        for len in (0..200).chain((200..good.len()).step_by(997)) {
            count(&good[..len], format!("length {len}"));
        }
        fs::write(&path, good).unwrap();
    }
    assert!(refused > 200 && failed > 20 && told > 200, "{refused} refused, {failed} failed, {told} told");
}
