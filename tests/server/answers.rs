//! Every kind of answer, over UDP and TCP, on both loopback addresses; forwarded ones compared with nsd's own.

use std::net::SocketAddr;

use crate::client::{Question, Record, Reply, UdpClient, ask, ask_over_tcp, question};
use crate::corewall::{Server, Site};
use crate::nsd::{Nsd, ZONE};
use crate::process::PATIENCE;

const RULES: &str = "||blocked.upstream.example^\n||tracker.upstream.example^\n@@||fine.blocked.upstream.example^\n";
const ALIASES: &str = "cname=old.example.org,local.example.org\ncname=moved.example.org,www.upstream.example\n";
const RECORDS: &str = "
[[record]]
name = \"local.example.org\"
type = \"A\"
data = \"192.0.2.10\"
ttl_s = 77

[block]
ede_text = true
";

fn site() -> Site {
    Site::new()
        .list("rules", "adblock", "category = \"ads\"", RULES)
        .list("aliases", "dnsmasq", "", ALIASES)
        .list("gone", "plain", "block_mode = \"nxdomain\"", "gone.upstream.example\n")
        .toml(RECORDS)
}

fn with_nsd() -> Option<(Nsd, Server)> {
    let nsd = Nsd::start()?;
    let server = site().upstream(&[nsd.address()]).build_and_serve();
    Some((nsd, server))
}

/// Asks over both transports on every address, holds the answers against each other, and returns one.
fn ask_everywhere(server: &Server, question: &Question) -> Reply {
    let ways = [ask as fn(SocketAddr, &Question) -> Reply, ask_over_tcp];
    let replies = server.addresses().into_iter().flat_map(|address| ways.map(|ask| ask(address, question)));
    let replies: Vec<Reply> = replies.collect();
    for reply in &replies {
        assert_eq!(
            (reply.rcode, reply.sorted_answers()),
            (replies[0].rcode, replies[0].sorted_answers()),
            "{question:?}"
        );
        assert_eq!(reply.ede, replies[0].ede);
    }
    replies[0].clone()
}

#[test]
fn a_blocked_name_is_zero_for_addresses_and_empty_for_every_other_type() {
    let server = site().build_and_serve();
    for name in ["blocked.upstream.example", "a.b.blocked.upstream.example"] {
        assert_eq!(ask_everywhere(&server, &question(name, "A")).data(), ["A 0.0.0.0"]);
        assert_eq!(ask_everywhere(&server, &question(name, "AAAA")).data(), ["AAAA ::"]);
        for rtype in ["TXT", "MX", "HTTPS", "CNAME", "NS", "SOA", "SRV", "TYPE65280"] {
            let reply = ask_everywhere(&server, &question(name, rtype));
            assert_eq!((reply.rcode, reply.answers.len()), (0, 0), "{rtype}");
            assert_eq!(reply.authorities.iter().map(|record| &*record.rtype).collect::<Vec<_>>(), ["SOA"], "{rtype}");
        }
    }
    let gone = ask_everywhere(&server, &question("gone.upstream.example", "A"));
    assert_eq!((gone.rcode, gone.answers.len(), gone.authorities.len()), (3, 0, 1));
    server.stop();
}

#[test]
fn a_blocked_answer_tells_the_list_by_an_extended_error_to_clients_that_speak_edns() {
    let server = site().build_and_serve();
    let reply = ask_everywhere(&server, &question("blocked.upstream.example", "A"));
    assert_eq!(reply.ede, Some((15, "rules".to_owned())));
    let plain = ask(server.address(), &question("blocked.upstream.example", "A").edns(None));
    assert_eq!((plain.has_edns, plain.ede.clone(), plain.is_zero()), (false, None, true));
    server.stop();
}

#[test]
fn local_records_and_aliases_are_answered_without_an_upstream() {
    let server = site().build_and_serve();
    let local = ask_everywhere(&server, &question("local.example.org", "A"));
    assert_eq!((local.data(), local.answers[0].ttl_s), (vec!["A 192.0.2.10".to_owned()], 77));
    assert_eq!(ask_everywhere(&server, &question("local.example.org", "TXT")).answers, []);
    let alias = ask_everywhere(&server, &question("old.example.org", "A"));
    assert_eq!(alias.data(), ["A 192.0.2.10", "CNAME local.example.org."]);
    let below = ask_everywhere(&server, &question("a.old.example.org", "A"));
    assert_eq!((below.rcode, below.answers.len()), (2, 0), "the alias is of the name alone");
    server.stop();
}

#[test]
fn without_an_upstream_other_names_are_servfail_and_the_extended_error_says_why() {
    let server = site().build_and_serve();
    for name in ["www.upstream.example", "fine.blocked.upstream.example"] {
        let reply = ask_everywhere(&server, &question(name, "A"));
        assert_eq!(reply.rcode, 2, "{name}");
        assert_eq!(reply.ede, Some((22, "no upstream server is configured".to_owned())), "{name}");
    }
    let counts = server.stop();
    assert_eq!(counts.get("upstream_sends"), 0);
}

#[test]
fn forwarded_answers_are_what_the_upstream_says() {
    let Some((nsd, server)) = with_nsd() else { return };
    let names = [
        "www",
        "mail",
        "a.wild",
        "b.c.wild",
        "one",
        "lost",
        "srv",
        "caa",
        "svc",
        "odd",
        "under",
        "empty.under",
        "size4",
        "nil",
    ];
    for name in names {
        for rtype in ["A", "AAAA", "MX", "TXT", "SRV", "CAA", "HTTPS", "TYPE65280", "CNAME", "NS"] {
            let question = question(&format!("{name}.{ZONE}"), rtype);
            let (direct, ours) = (nsd.client().ask(&question), ask_everywhere(&server, &question));
            assert_eq!(ours.rcode, direct.rcode, "{question:?}");
            assert_eq!(ours.sorted_answers(), direct.sorted_answers(), "{question:?}");
            assert_eq!((ours.is_truncated, &ours.ede), (false, &None), "{question:?}");
        }
    }
    for (name, rtype) in [(ZONE, "SOA"), (ZONE, "NS"), ("unlisted.example.com", "A")] {
        let question = question(name, rtype);
        let (direct, ours) = (nsd.client().ask(&question), ask_everywhere(&server, &question));
        assert_eq!((ours.rcode, ours.sorted_answers()), (0, direct.sorted_answers()), "{question:?}");
        assert!(!ours.answers.is_empty(), "{question:?}");
    }
    server.stop();
}

#[test]
fn a_chain_comes_whole_and_in_order() {
    let Some((nsd, server)) = with_nsd() else { return };
    let question = question(&format!("one.{ZONE}"), "A");
    let owners = |reply: Reply| -> Vec<String> { reply.answers.into_iter().map(|record| record.owner).collect() };
    let ours = owners(ask_everywhere(&server, &question));
    assert_eq!(ours, owners(nsd.client().ask(&question)));
    assert_eq!(ours[..3], ["one", "two", "three"].map(|name| format!("{name}.{ZONE}")));
    server.stop();
}

#[test]
fn an_alias_leads_to_the_upstreams_answer() {
    let Some((nsd, server)) = with_nsd() else { return };
    let direct = nsd.client().ask(&question(&format!("www.{ZONE}"), "A"));
    let ours = ask_everywhere(&server, &question("moved.example.org", "A"));
    let mut expected = direct.data();
    expected.push(format!("CNAME www.{ZONE}."));
    assert_eq!(ours.data(), expected);
    assert_eq!(ours.answers[0].owner, "moved.example.org");
    server.stop();
}

#[test]
fn a_name_that_leads_to_a_blocked_one_is_blocked_and_an_allowed_one_is_not() {
    let Some((nsd, server)) = with_nsd() else { return };
    assert_eq!(nsd.client().ask(&question(&format!("hidden.{ZONE}"), "A")).answers.len(), 2);
    let hidden = ask_everywhere(&server, &question(&format!("hidden.{ZONE}"), "A"));
    assert!(hidden.is_zero(), "{hidden:?}");
    assert_eq!(hidden.ede, Some((15, "rules".to_owned())));
    let allowed = ask_everywhere(&server, &question("fine.blocked.upstream.example", "A"));
    assert_eq!((allowed.rcode, allowed.ede), (3, None), "nsd has no such name");
    server.stop();
}

#[test]
fn negative_answers_carry_the_upstreams_soa() {
    let Some((nsd, server)) = with_nsd() else { return };
    for (name, rtype, rcode) in [("nil", "A", 3), ("www", "TXT", 0), ("under", "A", 0)] {
        let question = question(&format!("{name}.{ZONE}"), rtype);
        let (direct, ours) = (nsd.client().ask(&question), ask_everywhere(&server, &question));
        assert_eq!((direct.rcode, ours.rcode), (rcode, rcode), "{name}");
        let soa = |reply: &Reply| {
            reply.authorities.iter().map(|record| (record.owner.clone(), record.data.clone())).collect::<Vec<_>>()
        };
        assert_eq!(soa(&ours), soa(&direct), "{name}");
        // The lesser of the SOA's TTL and its minimum (RFC 2308 §5).
        assert!(ours.authorities[0].ttl_s <= 120, "{ours:?}");
    }
    server.stop();
}

#[test]
fn what_does_not_fit_is_truncated_over_udp_and_whole_over_tcp() {
    let Some((nsd, server)) = with_nsd() else { return };
    let large = question(&format!("size40.{ZONE}"), "TXT");
    let whole = ask_over_tcp(server.address(), &large);
    assert_eq!((whole.is_truncated, whole.answers.len()), (false, 40));
    assert!(whole.wire.len() > 8_000);
    assert_eq!(whole.sorted_answers(), {
        let mut direct = crate::client::TcpClient::new(nsd.address());
        direct.ask(&large).sorted_answers()
    });
    for edns_bytes in [None, Some(512), Some(1_232), Some(4_096), Some(65_535)] {
        let cut = ask(server.address(), &large.clone().edns(edns_bytes));
        assert_eq!((cut.rcode, cut.is_truncated, cut.answers.len()), (0, true, 0), "{edns_bytes:?}");
        assert_eq!(cut.has_edns, edns_bytes.is_some());
    }
    let counts = server.stop();
    assert_eq!((counts.get("exchanges"), counts.get("upstream_truncated")), (1, 1), "{counts:?}");
}

#[test]
fn a_client_gets_as_much_over_udp_as_its_edns_size_allows() {
    let Some((_nsd, server)) = with_nsd() else { return };
    let middle = question(&format!("size4.{ZONE}"), "TXT");
    let whole = ask(server.address(), &middle);
    let bytes = u16::try_from(whole.wire.len()).unwrap();
    assert!((513..=1_232).contains(&bytes), "{bytes}");
    for (edns_bytes, is_truncated) in [
        (None, true),
        (Some(0), true),
        (Some(512), true),
        (Some(bytes - 1), true),
        (Some(bytes), false),
        (Some(65_535), false),
    ] {
        let reply = ask(server.address(), &middle.clone().edns(edns_bytes));
        assert_eq!(reply.is_truncated, is_truncated, "{edns_bytes:?}");
        assert_eq!(reply.answers.len(), if is_truncated { 0 } else { 4 });
        assert!(reply.wire.len() <= usize::from(edns_bytes.unwrap_or(512).clamp(512, 1_232)));
    }
    assert!(!ask_over_tcp(server.address(), &middle.edns(None)).is_truncated);
    server.stop();
}

#[test]
fn the_letter_case_of_the_question_comes_back_also_from_the_cache() {
    let Some((_nsd, server)) = with_nsd() else { return };
    for name in ["wWw.UpStream.eXample", "WWW.UPSTREAM.EXAMPLE", "bLocked.upstream.examplE", "OLD.example.ORG"] {
        for ask in [ask, ask_over_tcp] {
            let sent = question(name, "A");
            let reply = ask(server.address(), &sent);
            let wire = sent.edns(None).to_wire(0);
            assert_eq!(reply.question_wire(), &wire[12..], "{name}");
            assert!(!reply.answers.is_empty());
        }
    }
    let counts = server.stop();
    assert!(counts.get("cache_hits") > 0);
}

#[test]
fn ttls_come_from_the_upstream_and_count_down_in_the_cache() {
    let Some((nsd, server)) = with_nsd() else { return };
    let question = question(&format!("one.{ZONE}"), "A");
    let ttls = |reply: Reply| -> Vec<u32> { reply.answers.iter().map(|record: &Record| record.ttl_s).collect() };
    let direct = ttls(nsd.client().ask(&question));
    let client = UdpClient::new(server.address());
    let first = ttls(client.ask(&question));
    assert!(
        first.iter().zip(&direct).all(|(ours, theirs)| ours <= theirs && ours + 2 >= *theirs),
        "{first:?} {direct:?}"
    );
    // Asked again and again, the answer is a second older within some seconds; each TTL has then fallen by as much.
    let until = std::time::Instant::now() + PATIENCE;
    let mut asked = 1;
    let later = loop {
        let later = ttls(client.ask(&question));
        asked += 1;
        if later != first {
            break later;
        }
        assert!(std::time::Instant::now() < until, "the TTLs stand still");
    };
    let fallen: Vec<u32> = first.iter().zip(&later).map(|(first, later)| first - later).collect();
    assert!(fallen[0] > 0, "{first:?} {later:?}");
    assert!(fallen.windows(2).all(|pair| pair[0] == pair[1]), "{fallen:?}");
    let counts = server.stop();
    assert_eq!((counts.get("exchanges"), counts.get("cache_hits")), (1, asked - 1));
}

#[test]
fn every_type_of_a_blocked_name_stays_away_from_the_upstream() {
    let Some((_nsd, server)) = with_nsd() else { return };
    for rtype in ["A", "AAAA", "TXT", "MX", "ANY", "HTTPS", "DS", "TYPE65280"] {
        ask_everywhere(&server, &question("blocked.upstream.example", rtype));
    }
    assert_eq!(server.stop().get("upstream_sends"), 0);
}

#[test]
fn a_wildcard_address_answers_from_the_address_that_was_asked() {
    let site = site();
    let port = site.port();
    let site = site.option("listen", &format!("[\"0.0.0.0:{port}\", \"[::]:{port}\"]"));
    let server = site.build_and_serve();
    let mut addresses = site.addresses();
    addresses.push(SocketAddr::from(([127, 0, 0, 2], port)));
    for address in addresses {
        // These sockets are connected: an answer from elsewhere would not be heard.
        assert!(ask(address, &question("blocked.upstream.example", "A")).is_zero(), "{address}");
        assert!(ask_over_tcp(address, &question("blocked.upstream.example", "A")).is_zero(), "{address}");
    }
    server.stop();
}

#[test]
fn clients_that_are_not_allowed_are_refused_and_told_so() {
    let site = site().option("clients_allowed", "[\"127.0.0.2\"]");
    let server = site.build_and_serve();
    for ask in [ask, ask_over_tcp] {
        let reply = ask(server.address(), &question("blocked.upstream.example", "A"));
        assert_eq!((reply.rcode, reply.answers.len()), (5, 0));
        assert_eq!(reply.ede.map(|(code, _)| code), Some(18));
    }
    server.stop();
}

#[test]
fn a_policy_of_some_clients_is_not_that_of_others_also_in_the_cache() {
    let policy = "[[policy]]\nname = \"free\"\nclients = [\"127.0.0.2\"]\nlists = [\"aliases\"]\n";
    let server = site().toml(policy).build_and_serve();
    let blocked = question("blocked.upstream.example", "A");
    let free = UdpClient::from_address([127, 0, 0, 2], server.address());
    for _ in 0..2 {
        assert!(ask(server.address(), &blocked).is_zero());
        assert_eq!(free.ask(&blocked).rcode, 2, "there is no upstream");
    }
    server.stop();
}
