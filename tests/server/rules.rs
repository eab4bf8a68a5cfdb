//! Rules that are changed by hand: `corewall rule` with a running server and without.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value;

use crate::client::{UdpClient, ask, question};
use crate::corewall::{PROGRAM, Server, Site};
use crate::process::{Done, Process};
use crate::upstream::Upstream;
use crate::workers::two_cores;

const RIGHT: [u8; 4] = [192, 0, 2, 1];

fn site() -> Site {
    Site::new().list("rules", "adblock", "", "||blocked.example.org^\n||voided.example.org^\n")
}

/// `corewall rule ...` with the site's configuration.
fn rule(site: &Site, arguments: &[&str]) -> Done {
    site.start_as_written(&[&["rule"], arguments].concat()).finish()
}

/// What it prints when it must succeed.
fn told(site: &Site, arguments: &[&str]) -> String {
    let done = rule(site, arguments);
    assert_eq!((done.code, &*done.err), (Some(0), ""), "{arguments:?}: {done:?}");
    done.out
}

/// The same by the socket alone: the configuration, which a build is about to write anew, is not read.
fn told_at_socket(site: &Site, arguments: &[&str]) -> String {
    let mut command = site.command(PROGRAM);
    let done = Process::start(command.arg("rule").args(arguments).args(["--control", "control.sock"])).finish();
    assert_eq!((done.code, &*done.err), (Some(0), ""), "{arguments:?}: {done:?}");
    done.out
}

fn json(site: &Site, arguments: &[&str]) -> Value {
    let printed = told(site, &[arguments, &["--json"]].concat());
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{printed}"))
}

/// The keys of the live rules, those of voids with a `-` in front.
fn listed(site: &Site, arguments: &[&str]) -> BTreeSet<String> {
    let rules = json(site, &[&["list"], arguments].concat());
    let key = |rule: &Value| {
        let void = if rule["is_void"] == true { "-" } else { "" };
        format!("{void}{}", rule["key"].as_str().unwrap())
    };
    rules["rules"].as_array().unwrap().iter().map(key).collect()
}

fn set(keys: &[&str]) -> BTreeSet<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

fn is_blocked(server: &Server, name: &str) -> bool {
    ask(server.address(), &question(name, "A")).is_zero()
}

#[test]
fn what_is_added_and_removed_is_listed_and_there_after_a_restart_and_after_a_kill() {
    let site = site();
    let server = site.build_and_serve();
    assert_eq!(told(&site, &["list"]), "no live rules\n");
    let said =
        told(&site, &["add", "a.example", "*.b.example", "/^ads[0-9]+\\./", "192.0.2.0/24", "--reason", "a ticket"]);
    assert_eq!(said, "rules: 4 added; in force on the worker\n");
    told(&site, &["add", "alias c.example d.example", "--list", "mine", "--expires", "2h"]);
    told(&site, &["add", "e.example", "--kind", "forward-allow", "--server", "192.0.2.9#5353", "--subtree"]);
    assert_eq!(told(&site, &["add", "a.example"]), "rules: 1 replaced; in force on the worker\n");
    let all = set(&["a.example", "b.example", "^ads[0-9]+\\.", "192.0.2.0/24", "c.example", "e.example"]);
    assert_eq!(listed(&site, &[]), all);
    assert_eq!(listed(&site, &["--list", "mine"]), set(&["c.example"]));
    assert_eq!(listed(&site, &["--kind", "forward-allow"]), set(&["e.example"]));
    assert_eq!(listed(&site, &["--name", "b.example"]), set(&["b.example"]));
    let text = told(&site, &["list"]);
    for part in ["alias", "c.example -> d.example", "mine", "e.example by 192.0.2.9:5353", "a ticket", "below"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let said = told(&site, &["remove", "voided.example.org", "192.0.2.0/24"]);
    assert_eq!(said, "rules: 1 removed, 1 of the generation removed; in force on the worker\n");
    let said = told(&site, &["remove", "voided.example.org"]);
    assert_eq!(said, "rules: 1 of the generation removed before; in force on the worker\n");
    let now = set(&["a.example", "b.example", "^ads[0-9]+\\.", "c.example", "e.example", "-voided.example.org"]);
    assert_eq!(listed(&site, &[]), now);
    server.stop();
    assert!(!site.path("store/overlay.db-wal").exists(), "a server that ends leaves one file");
    assert_eq!(listed(&site, &[]), now);
    let server = site.serve();
    assert_eq!(listed(&site, &[]), now);
    assert_eq!(told(&site, &["add", "f.example"]), "rules: 1 added; in force on the worker\n");
    server.signal("KILL");
    server.finish();
    let server = site.serve();
    assert!(listed(&site, &[]).is_superset(&set(&["f.example", "a.example"])));
    let said = told(&site, &["restore", "voided.example.org"]);
    assert_eq!(said, "rules: 1 of the generation restored; in force on the worker\n");
    let said = told(&site, &["remove", "--list", "live", "--all"]);
    assert_eq!(said, "rules: 5 removed; in force on the worker\n");
    assert_eq!(listed(&site, &[]), set(&["c.example"]));
    server.stop();
}

#[test]
fn a_line_that_makes_no_sense_is_told_and_stops_no_other() {
    let site = site();
    let server = site.build_and_serve();
    site.write("lines", "a.example\n# a comment\nb..example\n\nallow subtree c.example\n*.com\nd.example e.example\n");
    let done = rule(&site, &["add", "--file", "lines"]);
    assert_eq!((done.code, &*done.out), (Some(1), "rules: 2 added; in force on the worker\n"), "{done:?}");
    for part in ["error: line 3: `b..example`: ", "error: line 6: `*.com`: ", "--allow-wide", "error: line 7: "] {
        assert!(done.err.contains(part), "{part}: {done:?}");
    }
    assert_eq!(listed(&site, &[]), set(&["a.example", "c.example"]));
    let done = rule(&site, &["remove", "a.example", "nowhere.example"]);
    assert_eq!((done.code, &*done.out), (Some(1), "rules: 1 removed; in force on the worker\n"), "{done:?}");
    assert!(done.err.starts_with("error: `nowhere.example`: no live rule and no rule of the generation"), "{done:?}");
    // Of live rules nothing comes back by itself.
    let done = rule(&site, &["remove", "c.example", "--expires", "1h"]);
    assert!(done.code == Some(1) && done.err.contains("for a time only"), "{done:?}");
    assert_eq!(listed(&site, &[]), set(&["c.example"]));
    for (wrong, said) in [
        (&["add"][..], "required"),
        (&["add", "a.example", "--expires", "yesterday"], "write it as a time from now"),
        (&["add", "a.example", "--kind", "forbid"], "one of block, allow"),
        (&["add", "a.example", "--list", ""], "a list's name has 1 to 256 bytes"),
        (&["remove", "--all"], "--list"),
        (&["remove", "--list", "nobody", "--all"], "no live rule is of list `nobody`"),
    ] {
        let done = rule(&site, wrong);
        assert!(done.code != Some(0) && done.err.contains(said), "{wrong:?}: {done:?}");
    }
    server.stop();
}

#[test]
fn without_a_server_the_file_is_changed_and_the_next_start_takes_it() {
    let site = site();
    site.build();
    let said = told(&site, &["add", "a.example", "b.example"]);
    assert_eq!(said, "rules: 2 added; no server was asked, its next start takes it\n");
    let said = told(&site, &["remove", "b.example", "voided.example.org"]);
    assert!(said.starts_with("rules: 1 removed, 1 of the generation removed; no server"), "{said}");
    assert_eq!(listed(&site, &[]), set(&["a.example", "-voided.example.org"]));
    let server = site.serve();
    assert_eq!(listed(&site, &[]), set(&["a.example", "-voided.example.org"]));
    // On the files of a store that a server serves nothing is changed.
    let done = rule(&site, &["add", "c.example", "--store", "store"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.contains("another process holds the live rules of this store: a running server"), "{done:?}");
    assert_eq!(listed(&site, &["--store", "store"]), set(&["a.example", "-voided.example.org"]));
    server.stop();
    let silent = site.option("control_socket", "\"\"");
    let server = silent.serve();
    let done = rule(&silent, &["add", "c.example"]);
    assert!(done.code == Some(1) && done.err.contains("--control names another socket"), "{done:?}");
    server.stop();
}

#[test]
fn many_rules_come_from_a_file_or_a_pipe_in_batches_and_are_listed_by_pages() {
    let site = site();
    let server = site.build_and_serve();
    let count = 20_000;
    let text: String = (0..count).map(|number| format!("bulk{number}.example\n")).collect();
    site.write("bulk", &text);
    let changed = json(&site, &["add", "--file", "bulk", "--list", "bulk"]);
    assert_eq!((&changed["added"], &changed["last_seq"]), (&Value::from(count), &Value::from(count)), "{changed}");
    let mut command = site.command(PROGRAM);
    command.args(["rule", "add", "--file", "-", "--list", "bulk", "--control", "control.sock", "--json"]);
    let output = command.stdin(Stdio::from(File::open(site.path("bulk")).unwrap())).output().unwrap();
    let changed: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!((&changed["added"], &changed["replaced"]), (&Value::from(0), &Value::from(count)), "{changed}");
    assert_eq!(listed(&site, &[]).len(), count);
    assert_eq!(told(&site, &["list"]).lines().count(), count + 1);
    let removed = json(&site, &["remove", "--file", "bulk"]);
    assert_eq!(removed["removed"], count, "{removed}");
    told(&site, &["add", "--file", "bulk", "--list", "bulk"]);
    assert_eq!(json(&site, &["remove", "--list", "bulk", "--all"])["removed"], count);
    assert_eq!(told(&site, &["list"]), "no live rules\n");
    server.stop();
}

#[test]
fn a_rule_ends_by_itself_also_while_no_server_runs() {
    let site = site();
    let server = site.build_and_serve();
    told(&site, &["add", "stays.example"]);
    told(&site, &["add", "later.example", "--expires", "1000h"]);
    told(&site, &["add", "short.example", "--expires", "1s"]);
    server.wait_for_log("1 live rules have ended");
    assert_eq!(listed(&site, &[]), set(&["later.example", "stays.example"]));
    // A void ends likewise, and the rule holds again.
    told(&site, &["remove", "voided.example.org", "--expires", "1s"]);
    while listed(&site, &[]).contains("-voided.example.org") {}
    server.stop();
    // One that ends before the server is there again.
    told(&site, &["add", "missed.example", "--expires", "1"]);
    let server = site.serve();
    while listed(&site, &[]).contains("missed.example") {}
    assert_eq!(listed(&site, &[]), set(&["later.example", "stays.example"]));
    server.stop();
}

#[test]
fn a_build_folds_live_rules_in_and_leaves_out_what_was_removed() {
    let site = site();
    let server = site.build_and_serve();
    told(&site, &["add", "folded.example.org"]);
    told(&site, &["add", "new.example.org", "--list", "mine"]);
    told(&site, &["add", "ends.example.org", "--expires", "5h"]);
    told(&site, &["remove", "voided.example.org"]);
    let report = site.run(&["build", "--fold-overlay"]);
    assert!(report.out.contains("live rules up to entry 4: 2 added, 1 rules of lists left out"), "{report:?}");
    assert!(server.reload().contains("reloaded"));
    assert!(is_blocked(&server, "folded.example.org") && is_blocked(&server, "new.example.org"));
    assert!(is_blocked(&server, "blocked.example.org"));
    assert!(!is_blocked(&server, "voided.example.org"));
    // The file still has them all.
    assert_eq!(listed(&site, &[]).len(), 4);
    told(&site, &["remove", "folded.example.org"]);
    assert_eq!(listed(&site, &["--name", "folded.example.org"]), set(&["-folded.example.org"]));
    server.stop();
}

#[test]
fn damaged_live_rules_are_not_passed_over_at_a_start() {
    let site = site();
    let server = site.build_and_serve();
    told(&site, &["add", "a.example"]);
    server.stop();
    let path = site.path("store/overlay.db");
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    let at = whole.windows(9).position(|octets| octets == b"a.example").unwrap();
    flipped[at] ^= 1;
    for damaged in [&whole[..whole.len() / 2], &[], &flipped] {
        fs::write(&path, damaged).unwrap();
        let done = site.run(&["serve"]);
        assert_eq!(done.code, Some(1), "{done:?}");
        assert!(done.err.contains("overlay.db: the live rules cannot be read: "), "{done:?}");
    }
    fs::write(&path, &whole).unwrap();
    let server = site.serve();
    assert_eq!(listed(&site, &[]), set(&["a.example"]));
    server.stop();
}

#[test]
fn a_second_server_on_one_store_serves_but_changes_nothing() {
    let site = site();
    let server = site.build_and_serve();
    told(&site, &["add", "a.example"]);
    let store = format!("{:?}", site.path("store"));
    let other = Site::new().option("store", &store);
    let second = other.serve();
    second.wait_for_log("cannot be changed here");
    let done = rule(&other, &["add", "b.example"]);
    assert!(done.code == Some(1) && done.err.contains("another process holds the live rules"), "{done:?}");
    assert!(done.err.contains("then `corewall reload`"), "{done:?}");
    assert_eq!(listed(&other, &[]), set(&["a.example"]));
    server.stop();
    // When the first one has gone the second takes its place at a reload.
    assert!(second.reload().contains("reloaded"));
    told(&other, &["add", "b.example"]);
    assert_eq!(listed(&other, &[]), set(&["a.example", "b.example"]));
    second.stop();
}

#[test]
fn rules_that_were_acknowledged_outlive_a_killed_server() {
    let site = site();
    site.build();
    let mut acknowledged = BTreeSet::new();
    for round in 0..4 {
        let server = site.serve();
        thread::scope(|scope| {
            let adder = scope.spawn(|| {
                let mut added = Vec::new();
                // Until the server is gone.
                for number in 0.. {
                    let name = format!("r{round}n{number}.example");
                    let done =
                        Process::start(site.command(PROGRAM).args(["rule", "add", &name, "--control", "control.sock"]))
                            .finish();
                    if !done.out.contains("in force on the worker") {
                        return added;
                    }
                    added.push(name);
                }
                added
            });
            // Some were told, and one is under way.
            while !listed(&site, &[]).contains(&format!("r{round}n{}.example", 3 + 2 * round)) {}
            server.signal("KILL");
            acknowledged.extend(adder.join().unwrap());
        });
        server.finish();
        let found = listed(&site, &[]);
        assert!(found.is_superset(&acknowledged), "{:?}", acknowledged.difference(&found));
    }
}

#[test]
fn changes_that_come_in_during_reloads_are_all_kept() {
    let site = site();
    let server = site.build_and_serve();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let adder = scope.spawn(|| {
            let mut names = BTreeSet::new();
            while !is_over.load(Ordering::Relaxed) {
                let name = format!("n{}.example", names.len());
                let said = told_at_socket(&site, &["add", &name]);
                assert_eq!(said, "rules: 1 added; in force on the worker\n");
                names.insert(name);
            }
            names
        });
        for _ in 0..6 {
            site.build();
            assert!(server.reload().contains("reloaded"));
        }
        is_over.store(true, Ordering::Relaxed);
        let added = adder.join().unwrap();
        assert_eq!(listed(&site, &[]), added);
    });
    server.stop();
}

#[test]
fn a_change_is_in_force_on_every_worker_when_the_command_returns_cached_answers_included() {
    let Some([first, second]) = two_cores() else { return };
    let upstream = Upstream::new();
    let site = site().upstream(&[upstream.address()]).option("cores", &format!("[{first}, {second}]"));
    let server = site.build_and_serve();
    let changes = || {
        // Each port is of one worker: of sixty-four, some are of each.
        let clients: Vec<UdpClient> = (0..64).map(|_| UdpClient::new(server.address())).collect();
        let all_are_told = |name: &str, is_blocked: bool, after: &[&str]| {
            for client in &clients {
                assert_eq!(client.ask(&question(name, "A")).is_zero(), is_blocked, "{name} {after:?}");
            }
        };
        all_are_told("turning.example.org", false, &[]);
        for (add, remove) in [
            (&["add", "turning.example.org"][..], "turning.example.org"),
            (&["add", "example.org", "--subtree"], "example.org"),
            (&["add", "*.example.org"], "*.example.org"),
            (&["add", "/^turning\\./"], "/^turning\\./"),
        ] {
            assert!(told(&site, add).contains("in force on all 2 workers"));
            all_are_told("turning.example.org", true, add);
            told(&site, &["remove", remove]);
            // The cache still has it, and it is judged again.
            all_are_told("turning.example.org", false, &["remove", remove]);
        }
        for (change, is_blocked) in [("remove", false), ("restore", true)] {
            all_are_told("voided.example.org", !is_blocked, &[]);
            told(&site, &[change, "voided.example.org"]);
            all_are_told("voided.example.org", is_blocked, &[change]);
        }
    };
    thread::scope(|scope| {
        let changer = scope.spawn(changes);
        while !changer.is_finished() {
            while !upstream.is_not_asked() {
                upstream.answer(&upstream.hear(), RIGHT);
            }
            thread::yield_now();
        }
        changer.join().unwrap();
    });
    server.stop();
}

#[test]
fn live_rules_are_in_force_after_a_restart_and_until_they_end() {
    let site = site();
    site.build();
    told(&site, &["add", "a.example.org"]);
    told(&site, &["remove", "voided.example.org"]);
    let server = site.serve();
    assert!(is_blocked(&server, "a.example.org") && !is_blocked(&server, "voided.example.org"));
    told(&site, &["add", "short.example.org", "--expires", "2s"]);
    assert!(is_blocked(&server, "short.example.org"));
    while is_blocked(&server, "short.example.org") {}
    assert!(is_blocked(&server, "a.example.org"));
    // A build that folds nothing in leaves them live.
    site.build();
    assert!(server.reload().contains("reloaded"));
    assert!(is_blocked(&server, "a.example.org") && !is_blocked(&server, "voided.example.org"));
    server.stop();
}

#[test]
fn a_rule_that_comes_in_during_a_reload_is_never_without_effect() {
    let site = site();
    let server = site.build_and_serve();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let adder = scope.spawn(|| {
            let mut names = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                let name = format!("n{}.example.org", names.len());
                told_at_socket(&site, &["add", &name]);
                names.push(name);
                for name in &names {
                    assert!(is_blocked(&server, name), "{name}");
                }
            }
        });
        for _ in 0..6 {
            site.build();
            assert!(server.reload().contains("reloaded"));
        }
        is_over.store(true, Ordering::Relaxed);
        adder.join().unwrap();
    });
    server.stop();
}
