//! What is answered without asking anybody.

use super::special::LOCALHOST;
use super::*;

fn name(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

fn record(rtype: u16, rdata: &[u8]) -> AnswerRecord {
    AnswerRecord { rtype, ttl_s: None, rdata: rdata.into() }
}

const NOTHING: Served = Served { special_use_names: false, reverse_zones: false, canary_domains: false };
const SPECIAL: Served = Served { special_use_names: true, ..NOTHING };
const REVERSE: Served = Served { reverse_zones: true, ..NOTHING };

/// Section, type and RDATA of a record.
type Held = (Section, u16, Vec<u8>);

/// RCODE and records; none when the name is not ours.
fn asked(local: &LocalRecords, text: &str, qtype: u16) -> Option<(u16, Vec<Held>)> {
    let mut answer = Answer::new();
    answer.rcode = 9;
    local.answer(&name(text), qtype, &mut answer).then(|| {
        let records = answer.records().map(|record| (record.section, record.rtype, record.rdata.to_vec()));
        (answer.rcode, records.collect())
    })
}

fn is_denied(local: &LocalRecords, text: &str, qtype: u16, rcode: u16) -> bool {
    asked(local, text, qtype).is_some_and(|(got, records)| {
        got == rcode && matches!(records.as_slice(), [(Section::Authority, rtype::SOA, _)])
    })
}

#[test]
fn configured_names_answer_their_types_and_deny_others() {
    let local = LocalRecords::new(
        vec![
            (name("Router.lan"), record(rtype::A, &[10, 0, 0, 1])),
            (name("router.lan"), record(rtype::A, &[10, 0, 0, 2])),
            (name("router.lan"), record(rtype::TXT, b"\x02hi")),
            (name("alias.lan"), record(rtype::CNAME, name("router.lan").as_wire())),
        ],
        NOTHING,
    );
    let both = vec![(Section::Answer, 1, vec![10, 0, 0, 1]), (Section::Answer, 1, vec![10, 0, 0, 2])];
    assert_eq!(asked(&local, "router.lan", rtype::A), Some((0, both.clone())));
    assert_eq!(asked(&local, "router.lan", rtype::ANY), Some((0, both)), "one set of them");
    assert!(is_denied(&local, "router.lan", rtype::AAAA, rcode::NOERROR));
    let link = vec![(Section::Answer, rtype::CNAME, name("router.lan").as_wire().to_vec())];
    for qtype in [rtype::A, rtype::CNAME, rtype::MX, rtype::ANY] {
        assert_eq!(asked(&local, "alias.lan", qtype), Some((0, link.clone())));
    }
    for text in ["lan", "x.router.lan", "router.lan.x", "localhost", "."] {
        assert_eq!(asked(&local, text, rtype::A), None, "{text}");
    }
}

#[test]
fn localhost_and_all_under_it_are_loopback() {
    let local = LocalRecords::new(Vec::new(), SPECIAL);
    for text in ["localhost", "a.b.localhost"] {
        assert_eq!(asked(&local, text, rtype::A), Some((0, vec![(Section::Answer, 1, vec![127, 0, 0, 1])])));
        let v6 = [[0; 15].as_slice(), &[1]].concat();
        assert_eq!(asked(&local, text, rtype::AAAA), Some((0, vec![(Section::Answer, rtype::AAAA, v6)])));
        assert!(is_denied(&local, text, rtype::MX, rcode::NOERROR));
    }
    let v6_loopback = format!("1.{}ip6.arpa", "0.".repeat(31));
    for text in ["1.0.0.127.in-addr.arpa", &v6_loopback] {
        let pointer = vec![(Section::Answer, rtype::PTR, LOCALHOST.to_vec())];
        assert_eq!(asked(&local, text, rtype::PTR), Some((0, pointer)), "{text}");
        assert!(is_denied(&local, text, rtype::A, rcode::NOERROR));
    }
}

#[test]
fn special_use_names_are_denied_as_their_rfcs_ask() {
    let local = LocalRecords::new(Vec::new(), SPECIAL);
    let nxdomain =
        ["invalid", "x.invalid", "a.test", "x.onion", "printer.local", "a.alt", "nas.home.arpa", "x.service.arpa"];
    for text in nxdomain.into_iter().chain(["2.0.0.127.in-addr.arpa", "1.1.0.0.127.in-addr.arpa"]) {
        assert!(is_denied(&local, text, rtype::A, rcode::NXDOMAIN), "{text}");
    }
    let nodata =
        ["home.arpa", "service.arpa", "resolver.arpa", "_dns.resolver.arpa", "127.in-addr.arpa", "0.127.in-addr.arpa"];
    for text in nodata {
        assert!(is_denied(&local, text, 64, rcode::NOERROR), "{text}");
    }
    for zone in ["home.arpa", "service.arpa"] {
        assert_eq!(asked(&local, zone, rtype::DS), None, "the parent of {zone} proves that there is none");
    }
    let others = [
        "example",
        "localhost.example",
        "arpa",
        "ipv4only.arpa",
        "in-addr.arpa",
        "1.128.in-addr.arpa",
        "1.0.ip6.arpa",
        ".",
    ];
    for text in others {
        assert_eq!(asked(&local, text, rtype::PTR), None, "{text}");
    }
}

#[test]
fn configured_records_win_over_special_use() {
    let local = LocalRecords::new(vec![(name("nas.home.arpa"), record(rtype::A, &[10, 0, 0, 3]))], SPECIAL);
    assert_eq!(asked(&local, "nas.home.arpa", rtype::A), Some((0, vec![(Section::Answer, 1, vec![10, 0, 0, 3])])));
    assert!(is_denied(&local, "tv.home.arpa", rtype::A, rcode::NXDOMAIN));
}

#[test]
fn every_local_reverse_zone_is_there_and_empty() {
    let local = LocalRecords::new(Vec::new(), REVERSE);
    let v4 = ["10", "16.172", "19.172", "20.172", "29.172", "30.172", "31.172", "168.192", "0", "254.169", "2.0.192"];
    let v4 = v4.into_iter().chain(["100.51.198", "113.0.203", "255.255.255.255"]);
    let v6 = ["d.f", "8.e.f", "9.e.f", "a.e.f", "b.e.f", "8.b.d.0.1.0.0.2"].map(|zone| format!("{zone}.ip6.arpa"));
    let unspecified = format!("{}ip6.arpa", "0.".repeat(32));
    for zone in v4.map(|zone| format!("{zone}.in-addr.arpa")).chain(v6).chain([unspecified]) {
        for qtype in [rtype::PTR, rtype::SOA, rtype::ANY] {
            assert!(is_denied(&local, &zone, qtype, rcode::NOERROR), "{zone}");
        }
        assert_eq!(asked(&local, &zone, rtype::DS), None, "the parent proves that {zone} has none");
        for below in [format!("1.{zone}"), format!("4.3.2.1.{zone}")] {
            assert!(is_denied(&local, &below, rtype::PTR, rcode::NXDOMAIN), "{below}");
            assert!(is_denied(&local, &below, rtype::DS, rcode::NXDOMAIN), "{below}");
        }
    }
    let v6_loopback = format!("1.{}ip6.arpa", "0.".repeat(31));
    assert!(is_denied(&local, &format!("x.{v6_loopback}"), rtype::PTR, rcode::NXDOMAIN));
    for text in ["1.0.0.127.in-addr.arpa", &v6_loopback] {
        let pointer = vec![(Section::Answer, rtype::PTR, LOCALHOST.to_vec())];
        assert_eq!(asked(&local, text, rtype::PTR), Some((0, pointer)), "{text}");
    }
}

#[test]
fn reverse_names_of_other_addresses_are_not_ours() {
    let local = LocalRecords::new(Vec::new(), REVERSE);
    let v4 =
        ["1", "11", "110", "15.172", "32.172", "1.172", "167.192", "192", "172", "3.0.192", "255", "254.255.255.255"];
    let v6 = ["f", "c.f", "7.e.f", "c.e.f", "e.f", "9.b.d.0.1.0.0.2", "d.f.0", "2.0.0.0"];
    let v6_loopback_like = format!("2.{}ip6.arpa", "0.".repeat(31));
    let v6_short = format!("{}ip6.arpa", "0.".repeat(31));
    let names = v4.map(|zone| format!("{zone}.in-addr.arpa")).into_iter();
    let names = names.chain(v6.map(|zone| format!("{zone}.ip6.arpa"))).chain([v6_loopback_like, v6_short]);
    for text in names.chain(["10.in-addr.example".to_owned(), "home.arpa".to_owned(), "x.test".to_owned()]) {
        assert_eq!(asked(&local, &text, rtype::PTR), None, "{text}");
    }
    for served in [NOTHING, SPECIAL] {
        assert_eq!(asked(&LocalRecords::new(Vec::new(), served), "1.10.in-addr.arpa", rtype::PTR), None);
    }
}

#[test]
fn a_configured_pointer_wins_and_the_names_above_it_are_not_denied() {
    let router = name("router.lan");
    let pointer = (name("1.0.168.192.in-addr.arpa"), record(rtype::PTR, router.as_wire()));
    let local = LocalRecords::new(vec![pointer], REVERSE);
    let held = vec![(Section::Answer, rtype::PTR, router.as_wire().to_vec())];
    assert_eq!(asked(&local, "1.0.168.192.in-addr.arpa", rtype::PTR), Some((0, held)));
    assert!(is_denied(&local, "0.168.192.in-addr.arpa", rtype::PTR, rcode::NOERROR));
    assert!(is_denied(&local, "1.168.192.in-addr.arpa", rtype::PTR, rcode::NXDOMAIN));
    assert!(is_denied(&local, "2.0.168.192.in-addr.arpa", rtype::PTR, rcode::NXDOMAIN));
    assert_eq!(asked(&local, "192.in-addr.arpa", rtype::PTR), None);
}

#[test]
fn the_soa_is_that_of_the_zone_and_its_minimum_its_ttl() {
    let local = LocalRecords::new(Vec::new(), SPECIAL);
    let mut answer = Answer::new();
    assert!(local.answer(&name("a.b.home.arpa"), rtype::A, &mut answer));
    let soa = answer.records().next().unwrap();
    assert_eq!(soa.owner, name("home.arpa").as_wire());
    assert!(soa.rdata.starts_with(name("home.arpa").as_wire()));
    assert_eq!(soa.rdata.last_chunk::<4>().unwrap(), &soa.ttl_s.to_be_bytes());
}

#[test]
fn canary_domains_are_absent_when_the_switch_is_on_and_nothing_beside_them() {
    let canary = LocalRecords::new(Vec::new(), Served { canary_domains: true, ..NOTHING });
    let names = ["use-application-dns.net", "mask.icloud.com", "mask-h2.icloud.com", "x.mask.icloud.com"];
    for text in names {
        for qtype in [rtype::A, rtype::AAAA, 65] {
            assert!(is_denied(&canary, text, qtype, rcode::NXDOMAIN), "{text}");
        }
        assert_eq!(asked(&LocalRecords::new(Vec::new(), SPECIAL), text, rtype::A), None);
    }
    for text in ["icloud.com", "gateway.icloud.com", "amask.icloud.com", "dns.net", "net", "com", "x.test"] {
        assert_eq!(asked(&canary, text, rtype::A), None, "{text}");
    }
    let mut answer = Answer::new();
    canary.answer(&name("x.mask.icloud.com"), rtype::A, &mut answer);
    let soa = answer.records().next().unwrap();
    assert_eq!((soa.owner, soa.ttl_s), (name("mask.icloud.com").as_wire(), LOCAL_TTL_S));
}

#[test]
fn a_wildcard_answers_for_what_has_no_records_of_its_own_as_in_a_zone() {
    // The zone of RFC 4592 §2.2.1.
    let local = LocalRecords::new(
        vec![
            (name("*.example"), record(rtype::TXT, b"\x0awildcarded")),
            (name("*.example"), record(rtype::MX, b"\0\x0a\x05host1\x07example\0")),
            (name("sub.*.example"), record(rtype::TXT, b"\x03sub")),
            (name("host1.example"), record(rtype::A, &[192, 0, 2, 1])),
            (name("_ssh._tcp.host1.example"), record(rtype::SRV, b"\0\0\0\0\0\x16\0")),
        ],
        NOTHING,
    );
    let has = |text: &str, qtype: u16| {
        let (rcode, records) = asked(&local, text, qtype).unwrap();
        rcode == 0 && matches!(records.as_slice(), [(Section::Answer, rtype, _)] if *rtype == qtype)
    };
    assert!(has("host3.example", rtype::MX) && has("host3.example", rtype::TXT) && has("foo.bar.example", rtype::TXT));
    assert!(is_denied(&local, "host3.example", rtype::A, rcode::NOERROR));
    assert!(is_denied(&local, "host1.example", rtype::MX, rcode::NOERROR), "it has records");
    assert!(is_denied(&local, "_telnet._tcp.host1.example", rtype::SRV, rcode::NXDOMAIN));
    assert!(is_denied(&local, "host.host1.example", rtype::MX, rcode::NXDOMAIN));
    assert!(is_denied(&local, "_tcp.host1.example", rtype::TXT, rcode::NOERROR), "it is above a name with records");
    assert!(is_denied(&local, "ghost.*.example", rtype::MX, rcode::NXDOMAIN));
    assert!(has("sub.*.example", rtype::TXT));
    assert_eq!(asked(&local, "example", rtype::MX), None, "not below the wildcard's parent");
    assert_eq!(asked(&local, "host3.sample", rtype::MX), None);
}

#[test]
fn the_closest_wildcard_counts_and_one_at_the_root_holds_everything() {
    let text = |of: &'static [u8]| record(rtype::TXT, of);
    let local =
        LocalRecords::new(vec![(name("*.lan.example"), text(b"\x03lan")), (name("*"), text(b"\x04root"))], SPECIAL);
    let says = |text: &str| asked(&local, text, rtype::TXT).unwrap().1[0].2.clone();
    assert_eq!(says("a.b.lan.example"), b"\x03lan");
    assert_eq!(says("www.sample"), b"\x04root");
    assert!(is_denied(&local, "lan.example", rtype::TXT, rcode::NOERROR));
    assert!(is_denied(&local, "www.example", rtype::TXT, rcode::NXDOMAIN));
}

#[test]
fn a_record_that_is_there_twice_counts_once_and_a_set_has_one_ttl() {
    let with_ttl = |ttl_s, rdata: &[u8]| AnswerRecord { ttl_s: Some(ttl_s), ..record(rtype::A, rdata) };
    let owner = name("router.lan");
    let records = [with_ttl(900, &[10, 0, 0, 1]), with_ttl(60, &[10, 0, 0, 2]), with_ttl(300, &[10, 0, 0, 1])];
    let local = LocalRecords::new(records.map(|record| (owner, record)).to_vec(), NOTHING);
    let mut answer = Answer::new();
    assert!(local.answer(&owner, rtype::A, &mut answer));
    let held: Vec<_> = answer.records().map(|record| (record.ttl_s, record.rdata.to_vec())).collect();
    assert_eq!(held, [(60, vec![10, 0, 0, 1]), (60, vec![10, 0, 0, 2])]);
}
