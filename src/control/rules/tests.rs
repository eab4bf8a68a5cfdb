//! Changes with workers that are played by threads of the test.

use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::*;
use crate::build::patterns::Compiler;
use crate::decide::rulebook::RuleBook;
use crate::decide::settings::Settings;
use crate::serve::reload::{Commander, orders};

/// What a worker was told: how many changes there have been, live rules, and the last entry.
type Told = (u64, u64, u64);

/// A store without a generation, workers on cores 4, 5, ... that say `outcome` to every change, and their commander.
struct Bench {
    dir: tempfile::TempDir,
    commanders: Option<Arc<Vec<Commander>>>,
    workers: Workers,
    threads: Vec<JoinHandle<Vec<Told>>>,
    rules: LiveRules,
}

impl Bench {
    fn new(outcomes: &[Result<(), String>]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Store::create_or_open(dir.path()).unwrap();
        let (commanders, ends): (Vec<_>, Vec<_>) = (4..4 + outcomes.len()).map(|core| orders(core).unwrap()).unzip();
        let commanders = Arc::new(commanders);
        let obey = |(orders, outcome): (crate::serve::reload::Orders, Result<(), String>)| {
            thread::spawn(move || {
                let mut taken = Vec::new();
                while let Ok(order) = orders.orders.recv() {
                    let Order::Live { step, done } = order else { panic!("another order") };
                    let live = step.change.rules.live().summary();
                    taken.push((step.change.version, live.rules, live.last_seq));
                    done.send(outcome.clone()).unwrap();
                }
                taken
            })
        };
        let threads = ends.into_iter().zip(outcomes.iter().cloned()).map(obey).collect();
        let rules = LiveRules::default();
        rules.begin(Some(&Store::open(dir.path()).unwrap())).unwrap();
        rules.hold().finish(None, served(dir.path()));
        let workers = Workers::new(Arc::downgrade(&commanders));
        Self { dir, commanders: Some(commanders), workers, threads, rules }
    }

    fn add(&self, lines: &[&str]) -> Result<RulesChanged, Refusal> {
        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
        self.rules.add(&self.workers, &RulesToAdd { lines, ..RulesToAdd::default() })
    }

    fn remove(&self, line: &str) -> Result<RulesChanged, Refusal> {
        let lines = vec![line.to_owned()];
        self.rules.remove(&self.workers, &RulesToFind { lines, ..RulesToFind::default() })
    }

    /// Numbers on the disk.
    fn on_disk(&self) -> Vec<u64> {
        let store = Store::open(self.dir.path()).unwrap();
        Overlay::read(&store, 0).unwrap().iter().map(|entry| entry.seq).collect()
    }

    /// What each worker was told, when the server has ended.
    fn told(mut self) -> Vec<Vec<Told>> {
        drop(self.commanders.take());
        self.threads.drain(..).map(|thread| thread.join().unwrap()).collect()
    }
}

/// What a server has read of a store's live rules.
fn served(dir: &Path) -> Arc<Served> {
    let settings = Arc::new(Settings::default());
    let served = Served::none(Arc::new(RuleBook::empty(&settings)), None, settings, Compiler::Here);
    served.load(Overlay::read(&Store::open(dir).unwrap(), 0).unwrap()).unwrap();
    Arc::new(served)
}

/// Live rules, and the last entry.
fn summary(served: &Served) -> (u64, u64) {
    (served.summary().rules, served.summary().last_seq)
}

#[test]
fn a_change_is_on_the_disk_and_told_to_every_worker_when_it_is_answered() {
    let bench = Bench::new(&[Ok(()), Ok(())]);
    let changed = bench.add(&["a.example", "no name", "b.example"]).unwrap();
    assert_eq!((changed.added, changed.workers, changed.last_seq), (2, 2, 2));
    assert_eq!(changed.refused.iter().map(|refused| refused.line).collect::<Vec<_>>(), [2]);
    assert_eq!(bench.on_disk(), [1, 2]);
    assert_eq!(bench.remove("a.example").unwrap().removed, 1);
    for told in bench.told() {
        assert_eq!(told, [(1, 2, 2), (2, 1, 2)]);
    }
}

#[test]
fn a_worker_that_does_not_take_a_change_is_named_and_the_change_stays_on_the_disk() {
    let bench = Bench::new(&[Ok(()), Err("no memory".to_owned())]);
    let refusal = bench.add(&["a.example"]).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Failed);
    for part in ["is on the disk", "core 5", "no memory", "corewall reload"] {
        assert!(refusal.message.contains(part), "{part}: {refusal}");
    }
    assert_eq!(bench.on_disk(), [1]);
    drop(bench.told());
}

#[test]
fn what_changes_while_the_store_is_read_is_made_again_with_the_switch() {
    let bench = Bench::new(&[Ok(())]);
    bench.add(&["before.example", "leaves.example"]).unwrap();
    let store = Store::open(bench.dir.path()).unwrap();
    bench.rules.begin(Some(&store)).unwrap();
    let next = served(bench.dir.path());
    assert_eq!(summary(&next), (2, 2));
    bench.add(&["during.example", "comes-and-goes.example"]).unwrap();
    bench.remove("leaves.example").unwrap();
    bench.remove("comes-and-goes.example").unwrap();
    let held = bench.rules.hold();
    held.catch_up(None, &next).unwrap();
    assert_eq!(summary(&next), (2, 3), "before and during");
    // A change that comes now waits until the workers have gone over.
    held.finish(None, next.clone());
    bench.add(&["after.example"]).unwrap();
    assert_eq!(summary(&next), (3, 5));
    // A store that cannot be used leaves no trace.
    bench.rules.begin(Some(&store)).unwrap();
    bench.add(&["later.example"]).unwrap();
    bench.rules.abandon();
    assert_eq!(summary(&next), (4, 6), "it is served as before");
    drop(bench.told());
}

#[test]
fn after_going_over_to_another_store_changes_are_made_there() {
    let bench = Bench::new(&[Ok(())]);
    let other = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(other.path()).unwrap();
    bench.rules.begin(Some(&store)).unwrap();
    bench.add(&["old.example"]).unwrap();
    let held = bench.rules.hold();
    let next = served(other.path());
    held.catch_up(None, &next).unwrap();
    assert_eq!(summary(&next), (0, 0), "the other store has nothing to do with it");
    held.finish(None, next);
    bench.add(&["new.example"]).unwrap();
    assert_eq!((bench.on_disk(), Overlay::read(&store, 0).unwrap().len()), (vec![1], 1));
    // The first store is free for others.
    drop(Overlay::open(&Store::open(bench.dir.path()).unwrap()).unwrap());
    assert!(matches!(Overlay::open(&store), Err(StoreError::OverlayBusy { .. })));
    drop(bench.told());
}

#[test]
fn a_server_that_ends_changes_nothing_and_gives_the_store_free() {
    let bench = Bench::new(&[Ok(())]);
    bench.add(&["a.example"]).unwrap();
    bench.rules.close();
    assert_eq!(bench.add(&["b.example"]).unwrap_err().kind, RefusalKind::Stopping);
    assert!(matches!(bench.rules.wait_for_end(), Wake::Closed));
    drop(Overlay::open(&Store::open(bench.dir.path()).unwrap()).unwrap());
    assert_eq!(bench.on_disk(), [1]);
    drop(bench.told());
}

#[test]
fn requests_out_of_bounds_are_refused_as_a_whole() {
    let bench = Bench::new(&[]);
    let add = |rules: RulesToAdd| bench.rules.add(&bench.workers, &rules).unwrap_err();
    let lines = vec!["a.example".to_owned(); crate::limits::RULE_LINES_MAX + 1];
    for (rules, said) in [
        (RulesToAdd { lines, ..RulesToAdd::default() }, "at most 8192 lines"),
        (RulesToAdd { list: Some("x".repeat(257)), ..RulesToAdd::default() }, "1 to 256 bytes"),
        (RulesToAdd { list: Some("a\nb".to_owned()), ..RulesToAdd::default() }, "no control characters"),
        (RulesToAdd { reason: "x".repeat(1_025), ..RulesToAdd::default() }, "at most 1024 bytes"),
        (RulesToAdd { expires_s: Some(now_s()), ..RulesToAdd::default() }, "ended already"),
        (RulesToAdd { expires_s: Some(u64::MAX), ..RulesToAdd::default() }, "never end"),
    ] {
        let refusal = add(rules);
        assert_eq!(refusal.kind, RefusalKind::Malformed);
        assert!(refusal.message.contains(said), "{refusal}");
    }
    assert_eq!(bench.on_disk(), [0u64; 0]);
}

#[test]
fn what_could_not_be_served_is_not_kept() {
    let bench = Bench::new(&[Ok(())]);
    bench.add(&["a.example"]).unwrap();
    let names: Vec<String> = (0..=crate::limits::LIVE_LISTS_MAX).map(|list| format!("list {list}")).collect();
    let mut refused = None;
    for list in names {
        let rules = RulesToAdd { lines: vec!["b.example".to_owned()], list: Some(list), ..RulesToAdd::default() };
        match bench.rules.add(&bench.workers, &rules) {
            Ok(_) => {}
            Err(refusal) => {
                refused = Some(refusal);
                break;
            }
        }
    }
    let kept = bench.on_disk().len();
    assert!(refused.is_some(), "{kept} entries");
    // Nothing of it is on the disk, and the next change finds everything as it was.
    bench.remove("a.example").unwrap();
    assert_eq!(bench.on_disk().len(), kept - 1);
    drop(bench.told());
}

#[test]
fn what_was_ready_but_could_not_be_written_never_reaches_the_workers() {
    let bench = Bench::new(&[Ok(())]);
    bench.add(&["a.example"]).unwrap();
    let failed = bench.rules.change(&bench.workers, |book| {
        // As when the disk is full at the end of the transaction, when all has been asked.
        let mut entry = Overlay::read(&Store::open(bench.dir.path()).unwrap(), 0).unwrap().remove(0);
        entry.seq = 2;
        let update = LiveUpdate { entered: vec![Arc::new(entry)], left: vec![1] };
        let ready = book.live.as_ref().unwrap().prepare(update).unwrap();
        *book.prepared.lock().unwrap() = Some(ready);
        Err(NotChanged::Closed("disk full".to_owned()))
    });
    assert_eq!(failed.unwrap_err().message, "disk full");
    // Nothing is found, so nothing changes.
    assert_eq!(bench.remove("none.example").unwrap().removed, 0);
    assert_eq!(bench.on_disk(), [1]);
    for told in bench.told() {
        assert!(told.iter().all(|&(_, rules, last_seq)| (rules, last_seq) == (1, 1)), "{told:?}");
    }
}
