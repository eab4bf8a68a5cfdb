//! DNSSEC through Corewall: a client that validates (delv) finds every kind of proof whole, fetched and cached.
//!
//! Corewall does not validate; it passes signatures and proofs on to those that ask for them by DO.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::corewall::{Server, Site};
use crate::nsd::Nsd;
use crate::tool::{self, Tool};

const ZONE: &str = "signed.example";
const RECORDS: &str = "$ORIGIN signed.example.
$TTL 300
@        SOA ns nobody 1 3600 600 86400 120
@        NS ns
@        MX 10 www
ns       A 192.0.2.53
www      A 198.51.100.10
www      AAAA 2001:db8:1::10
alias    CNAME www
*.wild   A 198.51.100.20
child.under A 198.51.100.30
";

/// How a zone proves that a name is not there.
#[derive(Clone, Copy, Debug)]
enum Denial {
    Nsec,
    Nsec3,
}

/// The zone, signed by keys that are made here, and the file of delv's trust anchor; none where ldnsutils are not installed.
fn sign(folder: &Path, denial: Denial) -> Option<(String, String)> {
    let keygen = |arguments: &[&str]| {
        let mut command = Command::new("ldns-keygen");
        command.args(arguments).args(["-a", "ECDSAP256SHA256", ZONE]).current_dir(folder);
        let output = tool::output(command, "ldnsutils")?;
        assert!(output.status.success(), "{output:?}");
        Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    };
    let (key_signing, zone_signing) = (keygen(&["-k"])?, keygen(&[])?);
    fs::write(folder.join("zone"), RECORDS).unwrap();
    let mut command = Command::new("ldns-signzone");
    if matches!(denial, Denial::Nsec3) {
        command.arg("-n");
    }
    command.args(["-o", ZONE, "zone", &zone_signing, &key_signing]).current_dir(folder);
    let output = tool::output(command, "ldnsutils")?;
    assert!(output.status.success(), "{output:?}");
    let key = fs::read_to_string(folder.join(format!("{key_signing}.key"))).unwrap();
    // `OWNER TTL IN DNSKEY 257 3 13 KEY ;comment`
    let (_, key) = key.split_once("DNSKEY").unwrap();
    let fields: Vec<&str> = key.split(';').next().unwrap().split_whitespace().collect();
    let [flags, protocol, algorithm, key @ ..] = &fields[..] else { panic!("{fields:?}") };
    let anchor =
        format!("trust-anchors {{ {ZONE}. static-key {flags} {protocol} {algorithm} \"{}\"; }};\n", key.concat());
    Some((fs::read_to_string(folder.join("zone.signed")).unwrap(), anchor))
}

/// What delv says of an answer, each line of a record without its TTL.
fn delv(server: &Server, anchor: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("delv");
    command.args(["@127.0.0.1", "-p", &server.address().port().to_string(), "-a"]).arg(anchor);
    command.arg(format!("+root={ZONE}")).args(arguments);
    let output = tool::output(command, "bind9-dnsutils")?;
    Some(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

fn with_signed_zone(denial: Denial, test: impl Fn(&Server, &Path)) {
    let folder = tempfile::tempdir().unwrap();
    let Some((zone, anchor)) = sign(folder.path(), denial) else { return };
    let anchor_file = folder.path().join("anchor");
    fs::write(&anchor_file, anchor).unwrap();
    let Some(nsd) = Nsd::start_with(&[(ZONE, &zone)]) else { return };
    let server =
        Site::new().list("rules", "plain", "", "blocked.example.org\n").upstream(&[nsd.address()]).build_and_serve();
    test(&server, &anchor_file);
    let counts = server.stop();
    assert!(counts.get("cache_hits") > 0 && counts.get("servfail") == 0, "{counts:?}");
}

fn delv_validates_every_kind_of_answer(denial: Denial) {
    with_signed_zone(denial, |server, anchor| {
        for (name, rtype, expected) in [
            ("www", "A", &["; fully validated", "198.51.100.10", "RRSIG\tA 13 3"][..]),
            ("www", "AAAA", &["; fully validated", "2001:db8:1::10"]),
            ("", "MX", &["; fully validated", "10 www.signed.example."]),
            ("", "DNSKEY", &["; fully validated", "257 3 13"]),
            ("alias", "A", &["; fully validated", "www.signed.example.", "198.51.100.10"]),
            ("a.b.wild", "A", &["; fully validated", "198.51.100.20", "RRSIG\tA 13 3"]),
            ("nobody", "A", &["resolution failed: ncache nxdomain", "; negative response, fully validated"]),
            ("www", "TXT", &["resolution failed: ncache nxrrset", "; negative response, fully validated"]),
            ("under", "A", &["resolution failed: ncache nxrrset", "; negative response, fully validated"]),
            ("a.wild", "TXT", &["resolution failed: ncache nxrrset", "; negative response, fully validated"]),
        ] {
            let name = if name.is_empty() { ZONE.to_owned() } else { format!("{name}.{ZONE}") };
            for way in [&[][..], &["+tcp"]] {
                for state in ["fetched", "cached"] {
                    let Some(said) = delv(server, anchor, &[&[name.as_str(), rtype], way].concat()) else { return };
                    for part in expected {
                        assert!(said.contains(part), "{denial:?} {state}: {name} {rtype} lacks {part}\n{said}");
                    }
                }
            }
        }
    });
}

#[test]
fn delv_validates_every_kind_of_answer_with_nsec() {
    delv_validates_every_kind_of_answer(Denial::Nsec);
}

#[test]
fn delv_validates_every_kind_of_answer_with_nsec3() {
    delv_validates_every_kind_of_answer(Denial::Nsec3);
}

#[test]
fn delv_refuses_what_is_not_signed_by_the_anchor() {
    with_signed_zone(Denial::Nsec, |server, anchor| {
        let other = tempfile::tempdir().unwrap();
        let Some((_, wrong)) = sign(other.path(), Denial::Nsec) else { return };
        let wrong_anchor = other.path().join("anchor");
        fs::write(&wrong_anchor, wrong).unwrap();
        // The control of the tests above: validation can fail, and does not depend on what is cached.
        for _ in ["fetched", "cached"] {
            let Some(said) = delv(server, &wrong_anchor, &["www.signed.example", "A"]) else { return };
            assert!(!said.contains("fully validated"), "{said}");
            let said = delv(server, anchor, &["www.signed.example", "A"]).unwrap();
            assert!(said.contains("; fully validated"), "{said}");
        }
    });
}

#[test]
fn signatures_reach_only_those_who_ask_for_them() {
    with_signed_zone(Denial::Nsec, |server, _| {
        let port = server.address().port();
        for (name, rtype) in [("www", "A"), ("nobody", "A")] {
            let name = format!("{name}.{ZONE}");
            // In either order: what is kept for one kind of client never serves the other.
            for way in ["+nodnssec", "+dnssec", "+nodnssec", "+dnssec"] {
                let Some(printed) = Tool::Dig.ask("127.0.0.1", port, &[&name, rtype, way]) else { return };
                assert_eq!(printed.text.contains("RRSIG"), way == "+dnssec", "{way}: {}", printed.text);
                assert_eq!(
                    printed.text.contains("NSEC"),
                    way == "+dnssec" && name.starts_with("nobody"),
                    "{}",
                    printed.text
                );
                // Nobody here has validated anything.
                assert!(!printed.has_flag("ad"), "{}", printed.text);
            }
        }
    });
}
