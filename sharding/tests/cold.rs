//! Lookups of names whose pages are not in memory: told, not waited for, and nothing breaks by it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use corewall_sharding::StoreError;
use corewall_sharding::build::{BuildOptions, Builder};
use corewall_sharding::publish::{Generation, Store};
use corewall_sharding::rows::{Reads, Shard};
use corewall_sharding::rule::{Class, Kind, List, Rule, RuleKey, Scope};

const NAMES: usize = 20_000;

fn name(number: usize) -> String {
    format!("host{number}.blocked.example")
}

/// A generation of one shard, so large that a lookup needs few of its pages.
fn build(folder: &Path) -> Generation {
    let store = Store::create_or_open(folder).unwrap();
    let mut builder = Builder::new(&store, BuildOptions { shards: 1, ..BuildOptions::default() }).unwrap();
    let list = builder.list(List::named("blocked")).unwrap();
    for number in 0..NAMES {
        let key = RuleKey::Name { name: name(number).parse().unwrap(), target: None };
        builder.push(&Rule { class: Class::plain(Kind::Block, Scope::Exact, list), key }).unwrap();
    }
    builder.finish(&mut |_, _, _| {}).unwrap().publish().unwrap();
    store.current().unwrap()
}

/// Takes the shard's pages out of memory, as far as the file system has them on a disk.
fn forget_pages(generation: &Generation) {
    let file = File::open(generation.dir.join("dns_shard_00.db")).unwrap();
    file.sync_all().unwrap();
    // SAFETY: the call is given a descriptor that is open, and no memory.
    let code = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(code, 0);
}

/// Whether a name is listed; none when its pages are not in memory.
fn is_listed(shard: &mut Shard, name: &str) -> Option<bool> {
    let mut rows = 0;
    match shard.classes_of(name, &mut |_| rows += 1) {
        Ok(()) => Some(rows == 1),
        Err(StoreError::WouldWait { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn what_is_not_in_memory_is_told_and_read_in_place_once_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let generation = build(folder.path());
    let mut in_memory = generation.open_shard(0, Reads::InMemory).unwrap();
    forget_pages(&generation);
    let cold = (0..NAMES).step_by(97).filter(|&number| is_listed(&mut in_memory, &name(number)).is_none()).count();
    if cold == 0 {
        eprintln!("skipped: this file system keeps what it is told to forget");
        return;
    }
    // Somebody who may wait.
    let mut waiting = generation.open_shard(0, Reads::Waiting).unwrap();
    for number in 0..NAMES {
        assert_eq!(is_listed(&mut waiting, &name(number)), Some(true));
        assert_eq!(is_listed(&mut waiting, &format!("not-{}", name(number))), Some(false));
    }
    // The same connection goes on, after all these failures. A page may still be on its way, and is then told again.
    for number in 0..NAMES {
        let listed = (0..1_000).find_map(|_| is_listed(&mut in_memory, &name(number)));
        assert_eq!(listed, Some(true), "{}", name(number));
    }
    // What SQLite has read itself stays, whatever becomes of the page cache.
    let last = name(NAMES - 1);
    forget_pages(&generation);
    assert_eq!(is_listed(&mut in_memory, &last), Some(true));
}

#[test]
fn a_file_system_that_cannot_tell_is_waited_for_by_others_alone() {
    let folder = tempfile::tempdir().unwrap();
    let generation = build(folder.path());
    let mut shard = generation.open_shard(0, Reads::InMemory).unwrap();
    if shard.knows_what_is_in_memory() {
        // In memory or not is then a question of luck, but never an error.
        (0..NAMES).step_by(101).for_each(|number| assert_ne!(is_listed(&mut shard, &name(number)), Some(false)));
    } else {
        assert!((0..NAMES).step_by(101).any(|number| is_listed(&mut shard, &name(number)).is_none()));
    }
}
