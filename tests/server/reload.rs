//! New generations under a running server, and builds that are killed.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use crate::client::{Reply, TcpClient, UdpClient, ask, question};
use crate::corewall::{Server, Site};
use crate::process::PATIENCE;
use crate::upstream::Upstream;

const RIGHT: [u8; 4] = [192, 0, 2, 1];
const OPEN: &str = "||blocked.example.org^\n";
const CLOSED: &str = "||blocked.example.org^\n||turning.example.org^\n";

fn is_blocked(server: &Server, name: &str) -> bool {
    ask(server.address(), &question(name, "A")).is_zero()
}

#[test]
fn a_newly_blocked_name_is_blocked_although_it_was_cached_and_freed_as_soon() {
    let upstream = Upstream::new();
    let site = Site::new().list("rules", "adblock", "", OPEN).upstream(&[upstream.address()]);
    let server = site.build_and_serve();
    let turning = question("turning.example.org", "A");
    let client = UdpClient::new(server.address());
    client.send(&turning.to_wire(1));
    upstream.answer(&upstream.hear(), RIGHT);
    assert_eq!(Reply::parse(&client.receive()).data(), ["A 192.0.2.1"]);
    let mut connection = TcpClient::new(server.address());
    for _ in 0..3 {
        assert_eq!(client.ask(&turning).data(), ["A 192.0.2.1"], "the cache");
        site.write("rules", CLOSED);
        site.build();
        assert!(!is_blocked(&server, "turning.example.org"), "a build alone changes nothing");
        let said = server.reload();
        assert!(said.contains("reloaded"), "{said}");
        assert!(client.ask(&turning).is_zero());
        assert!(connection.ask(&turning).is_zero(), "a connection outlives the reload");
        site.write("rules", OPEN);
        site.build();
        server.reload();
        // The answer from before is still in the cache, or its place is taken by the blocked one.
        client.send(&turning.to_wire(2));
        assert!(ask(server.address(), &question("blocked.example.org", "A")).is_zero());
        if !upstream.is_not_asked() {
            upstream.answer(&upstream.hear(), RIGHT);
        }
        assert_eq!(Reply::parse(&client.receive()).data(), ["A 192.0.2.1"]);
    }
    assert!(is_blocked(&server, "blocked.example.org"));
    server.stop();
}

#[test]
fn no_query_is_lost_while_generations_change() {
    let site = Site::new().list("rules", "adblock", "", OPEN);
    let server = site.build_and_serve();
    let is_over = AtomicBool::new(false);
    let turns = 6;
    thread::scope(|scope| {
        let asker = |over_tcp: bool| {
            let (server, is_over) = (&server, &is_over);
            move || {
                let udp = UdpClient::new(server.address());
                let mut tcp = TcpClient::new(server.address());
                let mut ask = |name: &str| match over_tcp {
                    true => tcp.ask(&question(name, "A")),
                    false => udp.ask(&question(name, "A")),
                };
                let (mut asked, mut changes, mut was_blocked) = (0u64, 0, false);
                while !is_over.load(Ordering::Relaxed) {
                    // A missing reply fails in `ask`.
                    assert!(ask("blocked.example.org").is_zero());
                    let turning = ask("turning.example.org");
                    // One or the other generation, never anything between: no upstream is configured.
                    assert!(turning.is_zero() || turning.rcode == 2, "{turning:?}");
                    changes += usize::from(turning.is_zero() != was_blocked);
                    was_blocked = turning.is_zero();
                    asked += 2;
                }
                (asked, changes)
            }
        };
        let askers = [scope.spawn(asker(false)), scope.spawn(asker(true))];
        for turn in 0..turns {
            site.write("rules", if turn % 2 == 0 { CLOSED } else { OPEN });
            site.build();
            let said = server.reload();
            assert!(said.contains("reloaded"), "{said}");
        }
        is_over.store(true, Ordering::Relaxed);
        for asker in askers {
            let (asked, changes) = asker.join().unwrap();
            assert_eq!(changes, turns, "each generation was seen by {asked} questions");
        }
    });
    server.stop();
}

#[test]
fn a_broken_configuration_or_store_leaves_the_old_one_serving() {
    let site = Site::new().list("rules", "adblock", "", OPEN);
    let server = site.build_and_serve();
    for broken in ["colour = \"blue\"\n", "listen = 5353\n", "this is not TOML", "store = \"nowhere\"\n"] {
        site.write("corewall.toml", broken);
        let said = server.reload();
        assert!(said.contains("reload failed"), "{broken}: {said}");
        assert!(is_blocked(&server, "blocked.example.org"));
    }
    fs::remove_file(site.path("corewall.toml")).unwrap();
    assert!(server.reload().contains("reload failed"));
    assert!(is_blocked(&server, "blocked.example.org"));
    site.write("corewall.toml", site.config());
    site.write("rules", CLOSED);
    site.build();
    assert!(server.reload().contains("reloaded"));
    assert!(is_blocked(&server, "turning.example.org"), "a right one is taken over again");
    server.stop();
}

#[test]
fn a_reload_takes_block_mode_records_and_upstreams_over() {
    let upstream = Upstream::new();
    let site = Site::new().list("rules", "adblock", "", OPEN);
    let server = site.build_and_serve();
    let client = UdpClient::new(server.address());
    assert_eq!(client.ask(&question("new.example.org", "A")).rcode, 2);
    assert!(is_blocked(&server, "blocked.example.org"));
    let more = format!(
        "[block]\nmode = \"nxdomain\"\n[[record]]\nname = \"new.example.org\"\ntype = \"A\"\ndata = \"192.0.2.7\"\n\
         [upstream.default]\nservers = [\"{}\"]\n",
        upstream.address()
    );
    site.write("corewall.toml", format!("{}{more}", site.config()));
    assert!(server.reload().contains("reloaded"));
    assert_eq!(client.ask(&question("blocked.example.org", "A")).rcode, 3);
    assert_eq!(client.ask(&question("new.example.org", "A")).data(), ["A 192.0.2.7"]);
    client.send(&question("forwarded.example.org", "A").to_wire(1));
    upstream.answer(&upstream.hear(), RIGHT);
    assert_eq!(Reply::parse(&client.receive()).data(), ["A 192.0.2.1"]);
    server.stop();
}

#[test]
fn options_that_need_a_restart_are_named_and_the_others_taken_over() {
    let site = Site::new().list("rules", "adblock", "", OPEN);
    let server = site.build_and_serve();
    let warned = |server: &Server| server.output().matches("change at a restart only").count();
    site.write("corewall.toml", site.config() + "[block]\nmode = \"nxdomain\"\n");
    assert!(server.reload().contains("reloaded"));
    assert_eq!(warned(&server), 0, "{}", server.output());
    let changed = site.config().replace("4 MiB", "5 MiB").replace("cores = \"0\"", "cores = \"0\"\nlog = \"debug\"");
    site.write("corewall.toml", changed);
    server.reload();
    let named = "`log`, `cache.bytes` change at a restart only; the rest of the configuration is taken over";
    assert!(server.output().contains(named), "{}", server.output());
    assert!(is_blocked(&server, "blocked.example.org"), "by an address again");
    server.stop();
}

/// Files under a folder, with those of folders in it.
fn file_count(folder: &Path) -> usize {
    // They come and go while they are counted.
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| if entry.path().is_dir() { file_count(&entry.path()) } else { 1 }).sum()
}

#[test]
fn a_build_that_is_killed_leaves_the_old_generation_serving_and_the_next_one_works() {
    let site = Site::new().list("rules", "adblock", "", OPEN);
    let server = site.build_and_serve();
    let many: String = (0..60_000).map(|number| format!("||n{number}.example.org^\n")).collect();
    site.write("rules", format!("{CLOSED}{many}/^ads?[0-9]+\\./\n"));
    let store = site.path("store");
    let mut killed = 0;
    // As more and more of the new generation's files are there; at last as soon as it runs.
    for files in [1, 2, 4, 8, 16, 24, 32, 36, 40, 0] {
        let before = file_count(&store);
        let mut build = site.start(&["build"]);
        let until = Instant::now() + PATIENCE;
        while build.is_running() && file_count(&store) < before + files {
            assert!(Instant::now() < until, "the build does not end\n{}", build.output());
            thread::yield_now();
        }
        build.kill();
        let done = build.finish();
        let check = site.run(&["check", "--full"]);
        assert_eq!(check.code, Some(0), "killed at {files} files: {check:?}");
        let said = server.reload();
        assert!(said.contains("reloaded"), "killed at {files} files: {said}");
        assert!(is_blocked(&server, "blocked.example.org"));
        if done.code.is_none() && !is_blocked(&server, "turning.example.org") {
            killed += 1;
        } else {
            // It had published before it was killed: back to where we were.
            let all = fs::read_to_string(site.path("rules")).unwrap();
            site.write("rules", OPEN);
            site.build();
            server.reload();
            site.write("rules", all);
        }
    }
    assert!(killed >= 5, "{killed} builds were killed before they had published");
    site.build();
    assert!(server.reload().contains("reloaded"));
    assert!(is_blocked(&server, "turning.example.org") && is_blocked(&server, "n59999.example.org"));
    // What the killed ones have left is gone.
    let left: Vec<_> = fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.len() < 10, "{left:?}");
    server.stop();
}
