//! Rule changes that are killed with SIGKILL lose nothing that was acknowledged.
//!
//! The child is this test program itself, told by an environment variable where its store is. It adds and removes rules without end
//! and says on its output what has been acknowledged; the parent kills it at a moment that nobody chose, and compares.

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{blocked, name};
use corewall_sharding::overlay::{LiveChange, NewEntry, Overlay, Removal, Selector, Subject};
use corewall_sharding::publish::Store;
use corewall_sharding::rule::RuleKey;

/// Tells the child its store.
const STORE: &str = "COREWALL_TEST_OVERLAY";
/// Child processes killed.
const KILLS: usize = 60;
/// Rules of one batch.
const BATCH: u64 = 7;

fn added(host: u64) -> NewEntry {
    let change = LiveChange::Rule(blocked(&format!("host{host}.example")));
    NewEntry { change, list: "live".to_owned(), expires_s: None, reason: String::new() }
}

/// Not a test of its own: the child's work, when this program runs as the child.
#[test]
fn child() {
    let Ok(dir) = std::env::var(STORE) else { return };
    let store = Store::open(Path::new(&dir)).unwrap();
    let mut overlay = Overlay::open(&store).unwrap();
    let first = overlay.last_seq() + 1_000_000;
    for batch in 0.. {
        let hosts = first + batch * BATCH..first + (batch + 1) * BATCH;
        println!("step begins {}", hosts.start);
        let update = overlay.add(&hosts.clone().map(added).collect::<Vec<_>>(), 1).unwrap();
        println!("step added {} {}", hosts.start, update.entered[0].seq);
        if batch % 3 == 2 {
            let subject = Subject::Name(name(&format!("host{}.example", hosts.start)));
            let selector = Selector { subject, scope: None, effect: None, list: None };
            println!("step removes {}", hosts.start);
            let removal = Removal { generation: None, now_s: 1, expires_s: None, reason: "" };
            let (update, _) = overlay.remove(&[selector], removal).unwrap();
            assert_eq!(update.left.len(), 1);
            println!("step removed {}", hosts.start);
        }
    }
}

/// What is in the file: numbers by host.
fn read(store: &Store) -> BTreeMap<u64, u64> {
    let host = |change: &LiveChange| match change {
        LiveChange::Rule(rule) => match &rule.key {
            RuleKey::Name { name, .. } => {
                let text = name.to_text().as_str().to_owned();
                text.strip_prefix("host").unwrap().strip_suffix(".example").unwrap().parse().unwrap()
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    Overlay::read(store, 0).unwrap().iter().map(|entry| (host(&entry.change), entry.seq)).collect()
}

#[test]
fn no_acknowledged_change_is_lost_and_no_batch_is_there_in_part() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path()).unwrap();
    let (mut expected, mut last_seq) = (BTreeMap::new(), 0);
    for kill in 0..KILLS {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child", "--nocapture"]).env(STORE, dir.path()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut said = Vec::new();
        // Now after its word, now in the middle of what follows: the child does not wait for the parent.
        let patience = kill * 7 % 23;
        let mut line = String::new();
        while said.len() < patience && output.read_line(&mut line).unwrap() > 0 {
            said.extend(line.split_once("step ").map(|(_, step)| step.trim().to_owned()));
            line.clear();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died counts as well. The last line may be cut short.
        while output.read_line(&mut line).unwrap() > 0 {
            if line.ends_with('\n') {
                said.extend(line.split_once("step ").map(|(_, step)| step.trim().to_owned()));
            }
            line.clear();
        }
        let (mut begun, mut leaving) = (None, None);
        for step in &said {
            let words: Vec<&str> = step.split(' ').collect();
            let host: u64 = words[1].parse().unwrap();
            match words[0] {
                "begins" => begun = Some(host),
                "added" => {
                    let first_seq: u64 = words[2].parse().unwrap();
                    assert!(first_seq > last_seq, "{first_seq} was used before");
                    expected.extend((host..host + BATCH).zip(first_seq..));
                    (begun, last_seq) = (None, first_seq + BATCH - 1);
                }
                "removes" => leaving = Some(host),
                "removed" => {
                    expected.remove(&host);
                    leaving = None;
                }
                other => panic!("{other}"),
            }
        }
        let found = read(&store);
        let mut unsaid = found.clone();
        for (host, seq) in &expected {
            let is_there = unsaid.remove(host) == Some(*seq);
            assert!(is_there || leaving == Some(*host), "kill {kill}: host{host} is lost");
        }
        // The child may have died between the act and the word: then it is the whole batch. Its first word may not have come out.
        let hosts: Vec<u64> = unsaid.keys().copied().collect();
        if let Some(&first) = hosts.first() {
            assert!(begun.is_none_or(|begun| begun == first), "kill {kill}: {hosts:?} begun {begun:?}");
            assert_eq!(hosts, (first..first + BATCH).collect::<Vec<_>>(), "kill {kill}: part of a batch");
        }
        let mut overlay = Overlay::open(&store).unwrap();
        overlay.verify().unwrap();
        assert!(overlay.last_seq() >= last_seq);
        last_seq = overlay.last_seq();
        expected = found;
        // Every other child begins with a file that this process has joined with its changes; the others do it themselves.
        if kill % 2 == 0 {
            overlay.add(&[added(kill as u64)], 1).unwrap();
            last_seq += 1;
            expected.insert(kill as u64, last_seq);
        }
    }
    assert!(expected.len() > KILLS);
}
