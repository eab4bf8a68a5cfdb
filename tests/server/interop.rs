//! Answers through the programs that operators and applications have: dig, kdig, drill, and glibc's resolver, with nsd behind.
//!
//! Every question is asked twice each way, so both the fetched and the cached answer are read.

use std::fs;
use std::process::Command;

use crate::corewall::{Server, Site};
use crate::namespace::is_inside;
use crate::nsd::{Nsd, ZONE};
use crate::tool::{self, Printed, Tool};

/// Name below [`ZONE`], type, RCODE and answers. Names of the zone in the data are written without it, as `@`.
const QUESTIONS: [(&str, &str, &str, &[&str]); 14] = [
    ("www", "A", "NOERROR", &["a 198.51.100.10", "a 198.51.100.11"]),
    ("www", "AAAA", "NOERROR", &["aaaa 2001:db8:1::10"]),
    ("mail", "MX", "NOERROR", &["mx 10 www.@", "mx 20 ns.@"]),
    ("a.b.wild", "TXT", "NOERROR", &["txt grown wild"]),
    ("one", "A", "NOERROR", &["a 198.51.100.10", "a 198.51.100.11", "cname three.@", "cname two.@", "cname www.@"]),
    ("lost", "A", "NXDOMAIN", &["cname nowhere.@"]),
    ("srv", "SRV", "NOERROR", &["srv 1 2 853 www.@"]),
    ("caa", "CAA", "NOERROR", &["caa 0 issue ca.example"]),
    ("svc", "HTTPS", "NOERROR", &["https 1 . alpn=h2"]),
    ("odd", "TYPE65280", "NOERROR", &["type65280 \\# 4 0badcafe"]),
    ("nobody", "A", "NXDOMAIN", &[]),
    ("www", "TXT", "NOERROR", &[]),
    ("under", "A", "NOERROR", &[]),
    ("www", "TYPE65281", "NOERROR", &[]),
];

fn site(nsd: &Nsd) -> Site {
    Site::new().list("rules", "plain", "", &format!("blocked.{ZONE}\n")).upstream(&[nsd.address()])
}

fn server(nsd: &Nsd) -> Server {
    site(nsd).build_and_serve()
}

fn holds(tool: Tool, printed: &Printed, status: &str, answers: &[&str], arguments: &[&str]) {
    let wanted: Vec<String> = answers.iter().map(|answer| answer.replace('@', &format!("{ZONE}."))).collect();
    assert_eq!(
        (printed.status.as_str(), &printed.answers),
        (status, &wanted),
        "{tool:?} {arguments:?}: {}",
        printed.text
    );
    for complaint in ["WARNING", "malformed", "mismatch", "recursion not available"] {
        assert!(
            !printed.text.to_lowercase().contains(&complaint.to_lowercase()),
            "{tool:?} {arguments:?}: {}",
            printed.text
        );
    }
}

/// Asks every question in each of these ways at the address, twice. False when the program is not installed.
fn asks_everything(tool: Tool, address: &str, port: u16, ways: &[&[&str]]) -> bool {
    for &way in ways {
        for (name, rtype, status, answers) in QUESTIONS {
            let name = format!("{name}.{ZONE}");
            let arguments = [&[name.as_str(), rtype], way].concat();
            for _ in ["fetched", "cached"] {
                let Some(printed) = tool.ask(address, port, &arguments) else { return false };
                holds(tool, &printed, status, answers, &arguments);
            }
        }
    }
    true
}

#[test]
fn dig_gets_right_answers_of_every_type_every_way_it_asks() {
    let Some(nsd) = Nsd::start() else { return };
    let server = server(&nsd);
    let port = server.address().port();
    let ways: [&[&str]; 8] = [
        &[],
        &["+tcp"],
        &["+noedns"],
        &["+nocookie", "+bufsize=512"],
        &["+dnssec", "+bufsize=4096"],
        &["+cookie", "+subnet=192.0.2.0/24"],
        &["+cd", "+adflag"],
        &["+nsid", "+ednsopt=65001:00"],
    ];
    if !asks_everything(Tool::Dig, "127.0.0.1", port, &ways) {
        return;
    }
    if server.addresses().len() > 1 {
        asks_everything(Tool::Dig, "::1", port, &[&[], &["+tcp"]]);
    }
    let counts = server.stop();
    assert!(counts.get("cache_hits") > counts.get("upstream_sends"), "{counts:?}");
}

#[test]
fn kdig_gets_right_answers_of_every_type_every_way_it_asks() {
    let Some(nsd) = Nsd::start() else { return };
    let server = server(&nsd);
    let port = server.address().port();
    let ways: [&[&str]; 8] = [
        &[],
        &["+tcp"],
        &["+noedns"],
        &["+bufsize=512"],
        &["+bufsize=4096"],
        &["+dnssec"],
        &["+cookie=0123456789abcdef"],
        &["+subnet=192.0.2.0/24"],
    ];
    if asks_everything(Tool::Kdig, "127.0.0.1", port, &ways) && server.addresses().len() > 1 {
        asks_everything(Tool::Kdig, "::1", port, &[&[], &["+tcp"]]);
    }
    server.stop();
}

#[test]
fn drill_gets_right_answers_of_every_type_every_way_it_asks() {
    let Some(nsd) = Nsd::start() else { return };
    let server = server(&nsd);
    let port = server.address().port();
    let ways: [&[&str]; 5] = [&[], &["-t"], &["-b", "4096"], &["-D"], &["-o", "CD"]];
    if asks_everything(Tool::Drill, "127.0.0.1", port, &ways) && server.addresses().len() > 1 {
        asks_everything(Tool::Drill, "::1", port, &[&[], &["-t"]]);
    }
    server.stop();
}

#[test]
fn every_program_goes_over_to_tcp_when_an_answer_is_truncated() {
    let Some(nsd) = Nsd::start() else { return };
    let server = server(&nsd);
    let (port, name) = (server.address().port(), format!("size40.{ZONE}"));
    let expected: Vec<String> = (0..40).map(|number| format!("txt {number:03} {}", "x".repeat(196))).collect();
    // drill goes over to TCP only when told to.
    for (tool, way) in [(Tool::Dig, None), (Tool::Kdig, None), (Tool::Drill, Some("-a"))] {
        let arguments: Vec<&str> = [name.as_str(), "TXT"].into_iter().chain(way).collect();
        for _ in ["fetched", "cached"] {
            let Some(printed) = tool.ask("127.0.0.1", port, &arguments) else { continue };
            assert_eq!(
                (printed.status.as_str(), &printed.answers),
                ("NOERROR", &expected),
                "{tool:?}: {}",
                printed.text
            );
        }
    }
    // Each size of a UDP answer that a client may ask for: whole, or truncated and empty, and never larger.
    for bytes in [512, 800, 900, 950, 1_231, 1_232, 4_096] {
        let bufsize = format!("+bufsize={bytes}");
        let small = format!("size4.{ZONE}");
        let Some(printed) = Tool::Dig.ask("127.0.0.1", port, &["+ignore", &bufsize, &small, "TXT"]) else { break };
        let size = printed.text.lines().find_map(|line| line.strip_prefix(";; MSG SIZE  rcvd: ")).unwrap();
        assert!(size.parse::<usize>().unwrap() <= bytes, "{}", printed.text);
        assert_eq!(printed.answers.len(), if printed.has_flag("tc") { 0 } else { 4 }, "{}", printed.text);
        assert_eq!(printed.has_flag("tc"), bytes < 950, "{}", printed.text);
    }
    server.stop();
}

#[test]
fn kdig_asks_many_questions_over_one_connection() {
    let Some(nsd) = Nsd::start() else { return };
    let server = server(&nsd);
    let port = server.address().port().to_string();
    let names: Vec<String> = (0..20).map(|number| format!("n{number}.wild.{ZONE}")).collect();
    let mut command = Command::new("kdig");
    command.args(["@127.0.0.1", "-p", &port, "+tcp", "+keepopen", "+retry=0", "+timeout=20", "+short"]);
    for name in &names {
        command.args([name.as_str(), "A"]);
    }
    let Some(output) = tool::output(command, "knot-dnsutils") else { return };
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "198.51.100.20\n".repeat(names.len()));
    server.stop();
}

#[test]
fn any_and_chaos_questions_are_answered_as_every_program_can_read() {
    let Some(nsd) = Nsd::start() else { return };
    let server = server(&nsd);
    let port = server.address().port();
    let name = format!("www.{ZONE}");
    for (tool, chaos) in [
        (Tool::Dig, &["CH", "TXT", "version.bind"]),
        (Tool::Kdig, &["CH", "TXT", "version.bind"]),
        (Tool::Drill, &["version.bind", "TXT", "CH"]),
    ] {
        let Some(any) = tool.ask("127.0.0.1", port, &[&name, "ANY"]) else { continue };
        // How many of the name's types an answer to ANY holds is the server's choice (RFC 8482).
        assert!(any.status == "NOERROR" && !any.answers.is_empty(), "{tool:?}: {}", any.text);
        let chaos = tool.ask("127.0.0.1", port, chaos).unwrap();
        assert_eq!((chaos.status.as_str(), chaos.answers.len()), ("REFUSED", 0), "{tool:?}: {}", chaos.text);
    }
    server.stop();
}

/// The test below, as the test program calls it.
const GLIBC_TEST: &str = "interop::the_resolver_of_glibc_gets_right_answers";

/// glibc asks port 53 of the servers in /etc/resolv.conf and no other, so Corewall runs in a network of its own, with a file of
/// its own in that place.
#[test]
fn the_resolver_of_glibc_gets_right_answers() {
    let folder = tempfile::tempdir().unwrap();
    let resolv_conf = folder.path().join("resolv.conf");
    fs::write(&resolv_conf, "nameserver 127.0.0.1\n").unwrap();
    let prepare = "ip link set lo up && mount --bind \"$0\" /etc/resolv.conf";
    if is_inside(GLIBC_TEST, prepare, resolv_conf.to_str().unwrap()) {
        ask_by_glibc();
    }
}

fn ask_by_glibc() {
    let Some(nsd) = Nsd::start() else { return };
    let server = site(&nsd).option("listen", "[\"127.0.0.1:53\", \"[::1]:53\"]").build_and_serve();
    let www = ["198.51.100.10", "198.51.100.11", "2001:db8:1::10"].map(str::to_owned);
    for resolv_conf in [
        "nameserver 127.0.0.1\n",
        "nameserver ::1\n",
        "nameserver 127.0.0.1\noptions use-vc\n",
        "nameserver 127.0.0.1\noptions edns0 trust-ad\n",
        "nameserver 127.0.0.1\noptions single-request-reopen\n",
    ] {
        fs::write("/etc/resolv.conf", format!("{resolv_conf}options attempts:1 timeout:20\n")).unwrap();
        // Twice: fetched, then cached.
        for _ in 0..2 {
            assert_eq!(getent("www"), (Some(0), www.to_vec()), "{resolv_conf}");
            assert_eq!(getent("one"), (Some(0), www.to_vec()), "{resolv_conf}");
            assert_eq!(getent("a.wild"), (Some(0), vec!["198.51.100.20".to_owned()]), "{resolv_conf}");
            // What getent returns for a name that is not found.
            assert_eq!(getent("nobody"), (Some(2), Vec::new()), "{resolv_conf}");
            assert_eq!(getent("mail"), (Some(2), Vec::new()), "{resolv_conf}");
        }
    }
    let counts = server.stop();
    assert!(counts.get("cache_hits") > 0, "{counts:?}");
}

/// Exit code and addresses, sorted, that `getaddrinfo` finds for a name of the zone.
fn getent(name: &str) -> (Option<i32>, Vec<String>) {
    let mut command = Command::new("getent");
    // From DNS alone: neither /etc/hosts nor a caching daemon.
    let output = command.args(["-s", "dns", "ahosts", &format!("{name}.{ZONE}")]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut addresses: Vec<String> =
        text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    addresses.sort_unstable();
    addresses.dedup();
    (output.status.code(), addresses)
}
