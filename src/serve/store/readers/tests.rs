use corewall_sharding::build::{BuildOptions, Builder};
use corewall_sharding::publish::Store;
use corewall_sharding::rule::{Class, Kind, List, Rule, RuleKey, Scope};

use super::*;
use crate::decide::Ticket;

fn generation(folder: &std::path::Path) -> Arc<Generation> {
    let store = Store::create_or_open(folder).unwrap();
    let mut builder = Builder::new(&store, BuildOptions { shards: 1, ..BuildOptions::default() }).unwrap();
    let list = builder.list(List::named("blocked")).unwrap();
    let mut push = |name: &str, kind, target: Option<&str>| {
        let target = target.map(|target| target.parse().unwrap());
        let key = RuleKey::Name { name: name.parse().unwrap(), target };
        builder.push(&Rule { class: Class::plain(kind, Scope::Exact, list), key }).unwrap();
    };
    push("ads.example", Kind::Block, None);
    push("alias.example", Kind::Alias, Some("www.example"));
    builder.finish(&mut |_, _, _| {}).unwrap().publish().unwrap();
    Arc::new(store.current().unwrap())
}

fn start(generation: &Arc<Generation>, threads: usize, bell: &Bell) -> Readers {
    Readers::start(generation, ReaderSettings { threads, core: 0, cores: vec![0], wait_ms_max: 60_000 }, bell).unwrap()
}

/// A worker's end whose errands nobody does: as with a disk that hangs.
fn hung() -> (Readers, Receiver<Errand>) {
    let (errands, to_do) = mpsc::sync_channel(STORE_READS_MAX);
    let (_, findings) = mpsc::sync_channel(1);
    (Readers { errands, findings, waiting: HashMap::new(), wait_max: Duration::ZERO }, to_do)
}

fn rows(names: &[&str]) -> ReadJob {
    ReadJob::Rows(names.iter().map(|name| WantedRows { shard: 0, name: (*name).to_owned() }).collect())
}

/// Waits for the bell, then for what it rang for.
fn next(readers: &mut Readers, bell: &Bell) -> (Vec<Ticket>, Finding) {
    loop {
        if let Some(found) = readers.next_finding() {
            return found;
        }
        bell.ours.set_nonblocking(false).unwrap();
        assert!((&bell.ours).read(&mut [0; 1]).unwrap() > 0);
        bell.ours.set_nonblocking(true).unwrap();
    }
}

#[test]
fn equal_lookups_are_read_once_for_all_who_wait() {
    let (mut readers, to_do) = hung();
    let tickets = [1, 2, 3].map(Ticket::of_test);
    readers.ask(tickets[0], rows(&["ads.example", "example"])).unwrap();
    readers.ask(tickets[1], rows(&["ads.example", "example"])).unwrap();
    readers.ask(tickets[2], rows(&["other.example"])).unwrap();
    assert_eq!(to_do.try_iter().count(), 2);
    let mut waiting = readers.abandon();
    waiting.sort_by_key(|ticket| tickets.iter().position(|known| known == ticket));
    assert_eq!(waiting, tickets, "whoever ends them learns of all");
}

#[test]
fn rows_and_targets_are_found_and_what_was_not_asked_for_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (generation, bell) = (generation(folder.path()), Bell::new().unwrap());
    let mut readers = start(&generation, 2, &bell);
    let ticket = Ticket::of_test(7);
    readers.ask(ticket, rows(&["ads.example", "alias.example", "none.example"])).unwrap();
    assert!(readers.is_reading());
    let (tickets, found) = next(&mut readers, &bell);
    assert_eq!(tickets, [ticket]);
    assert_eq!(found.classes(0, "ads.example").unwrap().unwrap().len(), 1);
    assert_eq!(found.classes(0, "none.example"), Some(Ok(&[][..])));
    assert_eq!(found.classes(0, "other.example"), None);
    assert_eq!(found.classes(1, "ads.example"), None);
    let class = found.classes(0, "alias.example").unwrap().unwrap()[0];
    assert!(!readers.is_reading());

    readers.ask(ticket, ReadJob::Target { shard: 0, name: "alias.example".to_owned(), class }).unwrap();
    let (_, found) = next(&mut readers, &bell);
    assert_eq!(found.target(0, "alias.example", class), Some(Ok(Some("www.example".parse().unwrap()))));
    assert_eq!(found.target(0, "alias.example", class + 1), None);
    assert_eq!(found.classes(0, "alias.example"), None);
}

#[test]
fn what_cannot_be_read_is_a_failure_and_not_an_empty_result() {
    let folder = tempfile::tempdir().unwrap();
    let (generation, bell) = (generation(folder.path()), Bell::new().unwrap());
    let mut readers = start(&generation, 1, &bell);
    readers
        .ask(Ticket::of_test(0), ReadJob::Rows(vec![WantedRows { shard: 9, name: "ads.example".to_owned() }]))
        .unwrap();
    let (_, found) = next(&mut readers, &bell);
    assert_eq!(found.classes(9, "ads.example"), Some(Err(Unread::Failed)));
}

#[test]
fn what_nobody_can_wait_for_any_more_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let (generation, bell) = (generation(folder.path()), Bell::new().unwrap());
    let settings = ReaderSettings { threads: 1, core: 0, cores: vec![0], wait_ms_max: 0 };
    let mut readers = Readers::start(&generation, settings, &bell).unwrap();
    readers.ask(Ticket::of_test(0), rows(&["ads.example"])).unwrap();
    let (tickets, found) = next(&mut readers, &bell);
    assert_eq!(tickets.len(), 1);
    assert_eq!(found.classes(0, "ads.example"), None, "it is asked for again by whoever still waits");
}

#[test]
fn reads_and_those_who_wait_for_one_are_bounded() {
    let (mut readers, _to_do) = hung();
    let ticket = Ticket::of_test(0);
    for number in 0..STORE_READS_MAX {
        readers.ask(ticket, rows(&[&format!("host{number}.example")])).unwrap();
    }
    assert_eq!(readers.ask(ticket, rows(&["one-more.example"])), Err(TooManyReads));
    for _ in 1..STORE_READ_WAITERS_MAX {
        readers.ask(ticket, rows(&["host0.example"])).unwrap();
    }
    assert_eq!(readers.ask(ticket, rows(&["host0.example"])), Err(TooManyReads));
}

#[test]
fn the_threads_end_when_the_worker_lets_go() {
    let folder = tempfile::tempdir().unwrap();
    let (generation, bell) = (generation(folder.path()), Bell::new().unwrap());
    let readers = start(&generation, 3, &bell);
    assert!(readers.abandon().is_empty());
    let Bell { mut ours, theirs } = bell;
    drop(theirs);
    ours.set_nonblocking(false).unwrap();
    assert_eq!(ours.read(&mut [0; 1]).unwrap(), 0, "their ends are closed when all have ended");
}
