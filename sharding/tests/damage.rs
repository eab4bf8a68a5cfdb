//! A damaged store is refused, or read with errors, never with a panic and never silently short.

mod common;

use std::fs;
use std::path::Path;

use common::{Reader, blocked, build, shard_files};
use corewall_sharding::StoreError;
use corewall_sharding::build::{BuildOptions, Builder};
use corewall_sharding::publish::Store;

/// Names in the damaged stores.
const NAMES: u32 = 2_000;

fn host(number: u32) -> String {
    format!("host{number}.example")
}

fn store(dir: &Path) -> Store {
    let store = Store::create_or_open(dir).unwrap();
    build(&store, 2, (0..NAMES).map(|number| blocked(&host(number)))).unwrap().publish().unwrap();
    store
}

/// Why the current generation does not open.
fn refusal(store: &Store) -> String {
    store.current().err().expect("a damaged generation must not open").to_string()
}

#[test]
fn a_file_that_is_missing_short_or_long_is_refused_at_opening() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let generation = store.current().unwrap().dir;
    for file in ["dns_shard_00.db", "dns_shard_01.db", "manifest.toml"] {
        let path = generation.join(file);
        let good = fs::read(&path).unwrap();
        for bad in [&good[..good.len() / 2], &good[..good.len() - 1], &good[..0], &[&good[..], b"x"].concat()] {
            fs::write(&path, bad).unwrap();
            assert!(refusal(&store).contains(file));
        }
        fs::remove_file(&path).unwrap();
        assert!(refusal(&store).contains(file));
        fs::write(&path, good).unwrap();
        store.current().unwrap();
    }
}

#[test]
fn every_damaged_byte_of_a_shard_is_found_by_verify_and_none_makes_a_lookup_panic() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let path = shard_files(&store.current().unwrap().dir)[0].clone();
    let good = fs::read(&path).unwrap();
    let names: Vec<_> = (0..NAMES).step_by(17).map(host).collect();
    let (mut refused, mut failed, mut answered) = (0, 0, 0);
    // Every page is hit in its header, its cell pointers and its cells.
    for at in (0..good.len()).step_by(97) {
        let mut bad = good.clone();
        bad[at] ^= 0xff;
        fs::write(&path, &bad).unwrap();
        let Ok(generation) = store.current() else {
            refused += 1;
            continue;
        };
        assert!(generation.verify().is_err(), "byte {at}");
        for mmap in [false, true] {
            let Ok(mut shards) = generation.open_shards(mmap) else {
                refused += 1;
                continue;
            };
            for name in &names {
                match shards[0].classes_of(name, &mut |_| ()) {
                    Ok(()) => answered += 1,
                    Err(_) => failed += 1,
                }
            }
        }
    }
    assert!(refused > 0 && failed > 0 && answered > 0, "{refused} refused, {failed} failed, {answered} answered");
}

#[test]
fn a_lookup_on_a_page_of_zeros_is_an_error_not_an_empty_answer() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut reader = Reader::open(&store);
    let path = shard_files(&reader.generation.dir)[1].clone();
    let mut bytes = fs::read(&path).unwrap();
    // The last pages hold names; what opens the shard is before them.
    let from = bytes.len() - 4 * 4_096;
    bytes[from..].fill(0);
    fs::write(&path, bytes).unwrap();
    reader.shards = reader.generation.open_shards(false).unwrap();
    let mut failed = 0;
    for name in (0..NAMES).map(host) {
        let mut found = 0;
        match reader.shard(&name).classes_of(&name, &mut |_| found += 1) {
            Ok(()) => assert_eq!(found, 1, "{name}"),
            Err(_) => failed += 1,
        }
    }
    assert!(failed > 0);
}

#[test]
fn another_key_is_refused_because_no_name_would_be_found() {
    let dir = tempfile::tempdir().unwrap();
    store(dir.path());
    let key = dir.path().join("key");
    assert_eq!(fs::read_to_string(&key).unwrap().trim().len(), 32);
    fs::write(&key, "00112233445566778899aabbccddeeff\n").unwrap();
    let error = Store::open(dir.path()).unwrap().current().err().unwrap();
    assert!(matches!(error, StoreError::WrongKey { generation: 1, .. }), "{error}");
    for bad in [
        "",
        "xx",
        "00112233445566778899aabbccddeegg",
        "00112233445566778899aabbccddeeff00",
        "+0112233445566778899aabbccddeeff",
    ] {
        fs::write(&key, bad).unwrap();
        assert!(matches!(Store::open(dir.path()), Err(StoreError::Damaged { .. })), "{bad}");
    }
    fs::remove_file(&key).unwrap();
    assert!(matches!(Store::open(dir.path()), Err(StoreError::NoStore { .. })));
}

#[test]
fn the_key_is_drawn_once_and_only_its_owner_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let first = Store::create_or_open(dir.path()).unwrap().key();
    assert!(Store::create_or_open(dir.path()).unwrap().key() == first);
    assert_eq!(fs::metadata(dir.path().join("key")).unwrap().permissions().mode() & 0o777, 0o600);
    let other = tempfile::tempdir().unwrap();
    assert!(Store::create_or_open(other.path()).unwrap().key() != first);
}

#[test]
fn a_shard_of_another_format_version_says_to_build_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    for path in shard_files(&store.current().unwrap().dir) {
        rusqlite::Connection::open(path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    }
    assert!(refusal(&store).contains("build the store again with this version"));
}

#[test]
fn a_symlink_that_leads_nowhere_known_is_refused_until_a_build_replaces_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let current = dir.path().join("current");
    for target in ["generations/00000009", "generations/1", "/etc", "generations/.building-1"] {
        fs::remove_file(&current).unwrap();
        std::os::unix::fs::symlink(target, &current).unwrap();
        assert!(store.current().is_err(), "{target}");
        build(&store, 1, [blocked("a.example")]).unwrap().publish().unwrap();
        assert_eq!(Reader::open(&store).class_ids("a.example"), [0]);
    }
}

#[test]
fn only_one_build_writes_to_a_store_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let builder = Builder::new(&store, BuildOptions::default()).unwrap();
    assert!(matches!(Builder::new(&store, BuildOptions::default()), Err(StoreError::Busy { .. })));
    drop(builder);
    Builder::new(&store, BuildOptions::default()).unwrap();
}

#[test]
fn a_build_that_is_dropped_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let names = || fs::read_dir(dir.path().join("generations")).unwrap().count();
    drop(Builder::new(&store, BuildOptions::default()).unwrap());
    drop(build(&store, 2, [blocked("a.example")]).unwrap());
    assert_eq!((names(), store.numbers().unwrap()), (1, vec![1]));
}

#[test]
fn a_generation_can_be_rolled_back_and_the_one_after_it_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    assert_eq!(build(&store, 2, [blocked("second.example")]).unwrap().publish().unwrap(), 2);
    assert_eq!(Reader::open(&store).class_ids("second.example"), [0]);
    assert!(store.remove(2).is_err(), "the current generation");
    store.switch(1).unwrap();
    assert_eq!(store.current_number().unwrap(), Some(1));
    assert_eq!(Reader::open(&store).class_ids("host1.example"), [0]);
    assert!(store.switch(3).is_err());
    store.remove(2).unwrap();
    assert_eq!(store.numbers().unwrap(), [1]);
}
