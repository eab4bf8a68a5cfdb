//! Hosts files of a running server: read at start and at SIGHUP, and never a reason to stop serving.

use std::fs;

use crate::client::{UdpClient, question};
use crate::corewall::Site;

fn site(hosts: &str) -> Site {
    let site =
        Site::new().list("rules", "adblock", "", "||blocked.example.org^\n").option("hosts_files", "[\"hosts\"]");
    site.write("hosts", hosts);
    site
}

#[test]
fn names_of_a_hosts_file_are_answered_both_ways_and_bad_lines_are_told_in_the_log() {
    let site = site("192.0.2.1 nas.lan.example nas\n2001:db8::1 nas.lan.example\n999.0.0.1 bad.lan.example\n");
    let server = site.build_and_serve();
    let client = UdpClient::new(server.address());
    assert_eq!(client.ask(&question("nas.lan.example", "A")).data(), ["A 192.0.2.1"]);
    assert_eq!(client.ask(&question("NAS", "A")).data(), ["A 192.0.2.1"]);
    assert_eq!(client.ask(&question("nas.lan.example", "AAAA")).data(), ["AAAA 2001:db8::1"]);
    assert_eq!(client.ask(&question("1.2.0.192.in-addr.arpa", "PTR")).data(), ["PTR nas.lan.example."]);
    let log = server.output();
    assert!(log.contains("hosts:3: not an address; this is not answered"), "{log}");
    server.stop();
}

#[test]
fn a_reload_reads_hosts_again_and_keeps_them_when_the_file_is_gone() {
    let site = site("192.0.2.1 nas.lan.example\n");
    let server = site.build_and_serve();
    let client = UdpClient::new(server.address());
    let nas = question("nas.lan.example", "A");
    assert_eq!(client.ask(&nas).data(), ["A 192.0.2.1"]);
    site.write("hosts", "192.0.2.2 nas.lan.example\n");
    assert_eq!(client.ask(&nas).data(), ["A 192.0.2.1"], "nothing changes before the reload");
    assert!(server.reload().contains("reloaded"));
    assert_eq!(client.ask(&nas).data(), ["A 192.0.2.2"]);

    fs::remove_file(site.path("hosts")).unwrap();
    assert!(server.reload().contains("reloaded"));
    let log = server.output();
    assert!(log.contains("check the path, or remove it here; its hosts are answered as before"), "{log}");
    assert_eq!(client.ask(&nas).data(), ["A 192.0.2.2"]);

    let other = site.config().replace("[\"hosts\"]", "[\"hosts\", \"missing\"]");
    site.write("corewall.toml", other);
    let said = server.reload();
    assert!(said.contains("reload failed") && said.contains("missing: cannot read"), "{said}");
    site.write("hosts", "192.0.2.3 nas.lan.example\n");
    site.write("corewall.toml", site.config());
    assert!(server.reload().contains("reloaded"));
    assert_eq!(client.ask(&nas).data(), ["A 192.0.2.3"]);
    server.stop();
}

#[test]
fn a_hosts_file_that_is_not_there_is_an_error_at_start_with_its_line() {
    let site =
        Site::new().option("hosts_files", "[\"nowhere\"]").list("rules", "adblock", "", "||blocked.example.org^\n");
    site.build();
    let line = 1 + site.config().lines().position(|line| line.starts_with("hosts_files")).unwrap();
    for command in ["serve", "check", "explain"] {
        let arguments = if command == "explain" { vec![command, "nas.lan.example"] } else { vec![command] };
        let done = site.run(&arguments);
        assert_eq!(done.code, Some(2), "{done:?}");
        assert!(done.err.contains(&format!("corewall.toml:{line}: hosts_files: ")), "{done:?}");
        assert!(done.err.contains("nowhere: cannot read: No such file"), "{done:?}");
    }
}

#[test]
fn check_and_explain_know_the_hosts() {
    let site = site("192.0.2.1 nas.lan.example\nbad line here\n");
    site.build();
    let done = site.run(&["check"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.out.contains("1 addresses, 0 lines or names passed over, 1 that cannot be read"), "{done:?}");
    assert!(done.out.contains("hosts:2: not an address"), "{done:?}");
    let done = site.run(&["explain", "nas.lan.example"]);
    assert!(done.out.contains("=> 1 local record") && done.out.contains("IN A 192.0.2.1"), "{done:?}");
}
