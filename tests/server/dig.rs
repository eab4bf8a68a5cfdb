//! The client that operators have: dig.

use std::process::Command;

use crate::corewall::{Server, Site};
use crate::nsd::{Nsd, ZONE};

/// What dig prints; none, with a line that says so, where it is not installed.
fn dig(server: &Server, arguments: &[&str]) -> Option<String> {
    let port = server.address().port().to_string();
    let mut command = Command::new("dig");
    // One try: a lost query is a failure here.
    command.args(["@127.0.0.1", "-p", &port, "+tries=1", "+timeout=20"]).args(arguments);
    let Ok(output) = command.output() else {
        println!("SKIPPED: dig is not installed; `apt-get install dnsutils`");
        return None;
    };
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

fn server(upstream: Option<&Nsd>) -> Server {
    let site = Site::new()
        .list("rules", "adblock", "", "||blocked.example.org^\n")
        .list("aliases", "dnsmasq", "", "cname=old.example.org,local.example.org\n")
        .toml(
            "[block]\nede_text = true\n[[record]]\nname = \"local.example.org\"\ntype = \"A\"\ndata = \"192.0.2.10\"\n",
        );
    let upstreams: Vec<_> = upstream.iter().map(|nsd| nsd.address()).collect();
    site.upstream(&upstreams).build_and_serve()
}

#[test]
fn dig_understands_blocked_local_and_aliased_answers_every_way_it_asks() {
    let server = server(None);
    for way in [
        "+notcp",
        "+tcp",
        "+noedns",
        "+bufsize=512",
        "+bufsize=4096",
        "+dnssec",
        "+nocookie",
        "+cd",
        "+adflag",
        "+subnet=192.0.2.0/24",
    ] {
        let Some(blocked) = dig(&server, &[way, "+short", "blocked.example.org"]) else { return };
        assert_eq!(blocked, "0.0.0.0\n", "{way}");
        assert_eq!(dig(&server, &[way, "+short", "blocked.example.org", "AAAA"]).unwrap(), "::\n", "{way}");
        assert_eq!(
            dig(&server, &[way, "+short", "old.example.org"]).unwrap(),
            "local.example.org.\n192.0.2.10\n",
            "{way}"
        );
        let whole = dig(&server, &[way, "blocked.example.org"]).unwrap();
        assert!(
            whole.contains("status: NOERROR") && !whole.contains("WARNING") && !whole.contains("malformed"),
            "{whole}"
        );
        assert_eq!(whole.contains("EDE: 15 (Blocked)"), way != "+noedns", "{whole}");
        // "good": it bears dig's own cookie, and one of ours behind it.
        assert_eq!(whole.contains("(good)"), way != "+noedns" && way != "+nocookie", "{whole}");
    }
    server.stop();
}

#[test]
fn dig_reads_protocol_errors_as_such() {
    let server = server(None);
    for (arguments, status) in [
        (&["blocked.example.org", "AXFR", "+noedns"][..], "Transfer failed"),
        (&["+opcode=notify", "blocked.example.org"], "NOTIMP"),
        (&["+edns=1", "+noednsneg", "blocked.example.org"], "BADVERS"),
        (&["-c", "CH", "version.bind", "TXT"], "REFUSED"),
        (&["+ednsopt=65001:00", "blocked.example.org"], "NOERROR"),
        (&["nobody.example.org"], "SERVFAIL"),
    ] {
        let Some(output) = dig(&server, arguments) else { return };
        assert!(output.contains(status), "{arguments:?}: {output}");
    }
    server.stop();
}

#[test]
fn a_cookie_that_dig_was_given_is_given_again_also_after_a_reload() {
    let server = server(None);
    let cookie_for = |sent: &str| {
        let output = dig(&server, &[&format!("+cookie={sent}"), "blocked.example.org"])?;
        let line = output.lines().find_map(|line| line.strip_prefix("; COOKIE: ")).expect("a cookie").to_owned();
        Some(line.split_whitespace().next().unwrap().to_owned())
    };
    let Some(given) = cookie_for("2464c4abcf10c957") else { return };
    assert!(given.starts_with("2464c4abcf10c95701000000") && given.len() == 48, "{given}");
    assert_eq!(cookie_for(&given).as_ref(), Some(&given));
    server.reload();
    assert_eq!(cookie_for(&given).as_ref(), Some(&given));
    server.stop();
}

#[test]
fn dig_goes_over_to_tcp_when_an_answer_is_truncated() {
    let Some(nsd) = Nsd::start() else { return };
    let server = server(Some(&nsd));
    let name = format!("size40.{ZONE}");
    let Some(followed) = dig(&server, &["+short", &name, "TXT"]) else { return };
    assert_eq!(followed.lines().filter(|line| line.starts_with('"')).count(), 40, "{followed}");
    let cut = dig(&server, &["+ignore", &name, "TXT"]).unwrap();
    assert!(cut.contains(" tc ") && cut.contains("ANSWER: 0"), "{cut}");
    let small = format!("size4.{ZONE}");
    assert!(dig(&server, &["+ignore", "+bufsize=1232", &small, "TXT"]).unwrap().contains("ANSWER: 4"));
    assert!(dig(&server, &["+ignore", "+noedns", &small, "TXT"]).unwrap().contains(" tc "));
    server.stop();
}
