//! A store that is locked in memory and read without SQLite: the right answers before, while and after, and what is said of it.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::client::{UdpClient, question};
use crate::corewall::{PROGRAM, Server, Site};
use crate::process::Process;

/// Names blocked: shards of some 300 KiB each.
const BLOCKED: usize = 20_000;

fn site() -> Site {
    let names: String = (0..BLOCKED).map(|number| format!("n{number}.example.org\n")).collect();
    Site::new().list("names", "plain", "", &names).toml("[build]\nshards = 4")
}

fn answers_as_ever(server: &Server, from: usize) {
    let client = UdpClient::new(server.address());
    for number in (from..BLOCKED).step_by(331) {
        assert!(client.ask(&question(&format!("n{number}.example.org"), "A")).is_zero(), "{number} is blocked");
        assert_eq!(client.ask(&question(&format!("m{number}.example.org"), "A")).rcode, 2, "{number} is not");
    }
}

/// What `corewall status` says: shards in memory, of how many, and why not all.
fn in_memory(site: &Site) -> (u64, u64, String) {
    let mut command = site.command(PROGRAM);
    let done = Process::start(command.args(["status", "--json", "--control", "control.sock"])).finish();
    assert_eq!(done.code, Some(0), "{done:?}");
    let status: Value = serde_json::from_str(&done.out).unwrap();
    let shards = &status.get("answer").unwrap_or(&status)["shards_in_memory"];
    let number = |field: &str| shards[field].as_u64().unwrap();
    assert_eq!(number("bytes") > 0, number("shards") > 0, "{shards}");
    (number("shards"), number("of"), shards["why_not"].as_str().unwrap().to_owned())
}

#[test]
fn a_store_is_locked_in_memory_and_let_go_of_at_a_reload() {
    let site = site();
    let report = site.build();
    assert!(report.contains("more for places"), "{report}");
    let server = site.serve();
    answers_as_ever(&server, 0);
    server.wait_for_log("shards locked in memory");
    assert_eq!(in_memory(&site), (4, 4, String::new()));
    answers_as_ever(&server, 1);
    let mut command = site.command(PROGRAM);
    let told = Process::start(command.args(["status", "--control", "control.sock"])).finish();
    assert!(told.out.contains("shards in memory: 4 of 4, "), "{told:?}");
    // The next generation has more rules and takes the place of this one.
    let names = fs::read_to_string(site.path("names")).unwrap();
    site.write("names", format!("{names}next.example.org\n"));
    site.build();
    assert!(server.reload().contains("reloaded"));
    server.wait_for_log("generation=2 shards=4");
    assert_eq!(in_memory(&site), (4, 4, String::new()));
    answers_as_ever(&server, 2);
    assert!(UdpClient::new(server.address()).ask(&question("next.example.org", "A")).is_zero());
    site.write("corewall.toml", format!("store_in_memory = \"off\"\n{}", site.config()));
    assert!(server.reload().contains("reloaded"));
    assert_eq!(in_memory(&site), (0, 4, "`store_in_memory` is off".to_owned()));
    answers_as_ever(&server, 3);
    server.stop();
}

#[test]
fn a_store_without_places_or_with_damaged_ones_is_read_by_sqlite() {
    let site = site().option("store_in_memory", "\"always\"");
    let done = site.run(&["build", "--places", "false"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(!done.out.contains("more for places"), "{done:?}");
    let server = site.serve();
    assert_eq!(in_memory(&site), (0, 4, "the generation was built without places".to_owned()));
    answers_as_ever(&server, 0);
    site.build();
    let places = site.path("store/generations/00000002/dns_shard_02.places");
    let mut bytes = fs::read(&places).unwrap();
    *bytes.last_mut().unwrap() ^= 0x80;
    fs::write(&places, bytes).unwrap();
    assert!(server.reload().contains("reloaded"));
    server.wait_for_log("not all shards are in memory");
    let (shards, of, why_not) = in_memory(&site);
    assert_eq!((shards, of), (3, 4));
    assert!(why_not.contains("dns_shard_02.places: is damaged: its checksum does not match"), "{why_not}");
    answers_as_ever(&server, 1);
    server.stop();
}

#[test]
fn what_may_not_be_locked_is_read_by_sqlite_and_the_status_says_what_to_raise() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        return println!("SKIPPED: prlimit is not installed; `apt-get install util-linux`");
    }
    let site = site();
    site.build();
    let config = site.path("corewall.toml");
    let mut command = site.command("prlimit");
    command.arg("--memlock=655360:655360");
    // Root may lock whatever it likes, unless that right is taken away; nobody else can take it away, or has it.
    let without = ["setpriv", "--bounding-set", "-ipc_lock", "--inh-caps", "-ipc_lock"];
    if Command::new(without[0]).args(&without[1..]).arg("true").output().is_ok_and(|done| done.status.success()) {
        command.args(without);
    }
    let started = Process::start(command.args([PROGRAM, "serve", "--config"]).arg(config));
    let server = Server::ready(started, site.port());
    server.wait_for_log("not all shards are in memory");
    let (shards, of, why_not) = in_memory(&site);
    assert!(shards < 4 && of == 4, "{shards} {why_not}");
    assert!(why_not.contains("640 KiB may be locked: raise `ulimit -l`"), "{why_not}");
    answers_as_ever(&server, 0);
    server.stop();
}
