//! Filters that are damaged, missing or copied: the right answers whatever they are, and what is said of them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::client::{UdpClient, question};
use crate::corewall::{PROGRAM, Server, Site};
use crate::process::Process;
use crate::workers::two_cores;

/// Names blocked: some in each of four shards.
const BLOCKED: usize = 200;

/// Without an upstream: what is not blocked fails.
fn site() -> Site {
    let rules: String = (0..BLOCKED).map(|number| format!("||n{number}.example.org^\n")).collect();
    Site::new().list("rules", "adblock", "", &rules).toml("[build]\nshards = 4")
}

fn answers_as_ever(server: &Server) {
    let client = UdpClient::new(server.address());
    for number in 0..BLOCKED {
        for name in [format!("n{number}.example.org"), format!("www.n{number}.example.org")] {
            assert!(client.ask(&question(&name, "A")).is_zero(), "{name} is blocked");
        }
        let name = format!("m{number}.example.org");
        assert_eq!(client.ask(&question(&name, "A")).rcode, 2, "{name} is not");
    }
}

fn status(site: &Site, arguments: &[&str]) -> String {
    let mut command = site.command(PROGRAM);
    let done = Process::start(command.arg("status").args(arguments).args(["--control", "control.sock"])).finish();
    assert_eq!(done.code, Some(0), "{done:?}");
    done.out
}

/// What `corewall status` counts: verified, unverified, rebuilt, missing.
fn counted(site: &Site) -> [u64; 4] {
    let status: Value = serde_json::from_str(&status(site, &["--json"])).unwrap();
    let status = status.get("answer").unwrap_or(&status);
    ["verified", "unverified", "rebuilt", "missing"].map(|state| status["filters"][state].as_u64().unwrap())
}

fn generation(site: &Site) -> PathBuf {
    site.path("store/generations/00000001")
}

fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() - 1;
    bytes[at] ^= 0x80;
    fs::write(path, bytes).unwrap();
}

#[test]
fn damaged_and_missing_filters_are_rebuilt_from_their_shards_and_no_rule_is_missed_meanwhile() {
    let site = site();
    site.build();
    damage(&generation(&site).join("dns_shard_01.filter"));
    fs::remove_file(generation(&site).join("dns_shard_03.filter")).unwrap();
    let check = site.run(&["check"]);
    assert_eq!(check.code, Some(0), "{check:?}");
    assert!(check.out.contains("the filter of shard 1 is bad") && check.out.contains("shard 3 is bad"), "{check:?}");
    let server = site.serve();
    answers_as_ever(&server);
    server.wait_for_log("shard=3");
    let log = server.output();
    assert_eq!(log.matches("a filter is bad and was made again from its shard").count(), 2, "{log}");
    assert!(log.contains("dns_shard_01.filter: is damaged: its checksum does not match"), "{log}");
    assert_eq!(counted(&site), [2, 0, 2, 0]);
    assert!(status(&site, &[]).contains("filters of 8 bits: 2 verified, 2 rebuilt; "), "{}", status(&site, &[]));
    answers_as_ever(&server);
    // The next generation has its own.
    site.build();
    assert!(server.reload().contains("reloaded"));
    assert_eq!(counted(&site), [4, 0, 0, 0]);
    answers_as_ever(&server);
    server.stop();
}

#[test]
fn a_filter_whose_shard_is_damaged_too_is_done_without_and_that_is_counted() {
    let site = site();
    site.build();
    fs::remove_file(generation(&site).join("dns_shard_02.filter")).unwrap();
    // Beside the rules: in the free space of a page, which nothing reads but a checksum.
    let shard = generation(&site).join("dns_shard_02.db");
    let mut bytes = fs::read(&shard).unwrap();
    let free = bytes.windows(64).position(|window| window == [0; 64]).unwrap();
    bytes[free + 32] = 1;
    fs::write(&shard, bytes).unwrap();
    let server = site.serve();
    server.wait_for_log("its shard answers without it");
    assert_eq!(counted(&site), [3, 0, 0, 1]);
    assert!(status(&site, &[]).contains("3 verified, 1 missing"));
    answers_as_ever(&server);
    server.stop();
}

#[test]
fn filters_answer_alike_wherever_they_lie_and_go_elsewhere_at_a_reload() {
    let Some([first, second]) = two_cores() else { return };
    let site = site().option("cores", &format!("[{first}, {second}]")).option("filter_placement", "\"worker\"");
    site.build();
    let server = site.serve();
    for (placement, copies, said) in [
        ("worker", Some(2), "2 copies in memory"),
        ("shared", Some(1), "one copy in memory"),
        ("node", None, "in memory"),
        ("mapped", Some(0), "mapped\n"),
    ] {
        site.write("corewall.toml", site.config().replace("\"worker\"", &format!("\"{placement}\"")));
        assert!(server.reload().contains("reloaded"));
        assert_eq!(counted(&site), [4, 0, 0, 0], "{placement}");
        assert!(status(&site, &[]).contains(said), "{placement}: {}", status(&site, &[]));
        let told: Value = serde_json::from_str(&status(&site, &["--json"])).unwrap();
        let filters = &told.get("answer").unwrap_or(&told)["filters"];
        assert!(copies.is_none_or(|copies| filters["copies"] == copies), "{placement}: {filters}");
        assert_eq!(filters["memory_bytes"].as_u64().unwrap() > 0, placement != "mapped", "{placement}");
        answers_as_ever(&server);
    }
    server.stop();
}
