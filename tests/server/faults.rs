//! Every fault of an upstream on real sockets: what the client is told, what is counted, and that the next good answer works.
//!
//! A played server does wrong by names that begin with `bad` and answers all others; so the same server, with all that Corewall
//! has learnt of it, is asked again after each fault.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use domain::base::iana::Rcode;

use crate::client::{Reply, TcpClient, UdpClient, ask, ask_over_tcp, framed, next_id, question};
use crate::corewall::{Server, Site};
use crate::ports;
use crate::upstream::{Asked, Deed, Over, Played, Upstream};

const RIGHT: [u8; 4] = [192, 0, 2, 1];
const WRONG: [u8; 4] = [203, 0, 113, 66];

/// INFO-CODEs (RFC 8914 §4).
const OTHER: u16 = 0;
const NO_REACHABLE_AUTHORITY: u16 = 22;
const NETWORK_ERROR: u16 = 23;
const STALE_ANSWER: u16 = 3;

/// Messages sent to upstreams for one question at most.
const SENDS_MAX: u64 = 4;

fn server(upstreams: &[SocketAddr]) -> Server {
    Site::new()
        .list("rules", "adblock", "", "||blocked.example.org^\n")
        .option("upstream_timeout_ms", "300")
        .upstream(upstreams)
        .build_and_serve()
}

/// A server that does this by the names that begin with `bad`.
fn bad_by(deed: impl Fn(&Asked, Over) -> Deed + Send + Sync + 'static) -> Played {
    Played::new(move |asked, over| if asked.name().starts_with("bad") { deed(asked, over) } else { right(asked) })
}

fn right(asked: &Asked) -> Deed {
    Deed::Say(vec![asked.answer(RIGHT)])
}

fn is_right(reply: &Reply) -> bool {
    reply.rcode == 0 && reply.data() == ["A 192.0.2.1"]
}

/// RCODE and INFO-CODE.
fn told(reply: &Reply) -> (u16, Option<u16>) {
    assert!(reply.rcode == 0 || reply.answers.is_empty(), "{reply:?}");
    (reply.rcode, reply.ede.as_ref().map(|(code, _)| *code))
}

/// Fails with this INFO-CODE, over UDP, from the cache of failures, and over TCP; then another name is answered.
fn fails_and_recovers(server: &Server, name: &str, info_code: u16) {
    let bad = question(name, "A");
    for reply in [ask(server.address(), &bad), ask(server.address(), &bad), ask_over_tcp(server.address(), &bad)] {
        assert_eq!(told(&reply), (2, Some(info_code)), "{reply:?}");
    }
    recovers(server);
}

fn recovers(server: &Server) {
    assert!(is_right(&ask(server.address(), &question("good.example.org", "A"))));
    assert!(ask(server.address(), &question("blocked.example.org", "A")).is_zero());
}

#[test]
fn a_silent_server_is_a_servfail_that_is_kept_and_the_next_good_answer_works() {
    let upstream = bad_by(|_, _| Deed::Silence);
    let server = server(&[upstream.address()]);
    fails_and_recovers(&server, "bad.example.org", NO_REACHABLE_AUTHORITY);
    let asked = upstream.times_asked(Over::Udp, "bad.example.org") as u64;
    let counts = server.stop();
    assert!((1..=SENDS_MAX).contains(&asked), "{asked}");
    assert_eq!(counts.get("upstream_timeouts"), asked, "{counts:?}");
    // Once by the silence; the other two times from the cache of failures (RFC 9520).
    assert_eq!(counts.get("exchanges"), 2, "{counts:?}");
}

#[test]
fn a_closed_port_is_a_servfail_and_a_server_that_comes_up_there_is_asked() {
    let address = SocketAddr::from(([127, 0, 0, 1], ports::free()));
    let server = server(&[address]);
    let reply = ask(server.address(), &question("bad.example.org", "A"));
    assert_eq!(told(&reply), (2, Some(NO_REACHABLE_AUTHORITY)), "{reply:?}");
    let upstream = Played::at(address, |asked, _| right(asked));
    recovers(&server);
    assert_eq!(upstream.times_asked(Over::Udp, "good.example.org"), 1);
    let counts = server.stop();
    assert!((1..=SENDS_MAX).contains(&counts.get("upstream_failures")), "{counts:?}");
    assert_eq!(counts.get("upstream_timeouts"), 0, "a refusal was not heard: {counts:?}");
}

/// Truncated over UDP; over TCP half of a right answer and a reset.
fn resets(asked: &Asked, over: Over) -> Deed {
    match over {
        Over::Udp => Deed::Say(vec![asked.truncated()]),
        Over::Tcp => Deed::Reset(asked.answer(WRONG), 30),
    }
}

#[test]
fn a_connection_reset_in_mid_answer_is_a_servfail_and_nothing_of_the_half_is_used() {
    let upstream = bad_by(resets);
    let server = server(&[upstream.address()]);
    fails_and_recovers(&server, "bad.example.org", NO_REACHABLE_AUTHORITY);
    assert!(upstream.times_asked(Over::Tcp, "bad.example.org") >= 1);
    let counts = server.stop();
    assert!(counts.get("upstream_truncated") >= 1 && counts.get("upstream_failures") >= 1, "{counts:?}");
    assert!(counts.get("upstream_sends") <= SENDS_MAX + 1, "{counts:?}");
}

#[test]
fn a_connection_reset_in_mid_answer_is_followed_by_the_other_server() {
    let (first, second) = (bad_by(resets), Played::new(|asked, _| right(asked)));
    let server = server(&[first.address(), second.address()]);
    for number in 0..8 {
        let reply = ask(server.address(), &question(&format!("bad{number}.example.org"), "A"));
        assert!(is_right(&reply), "{reply:?}");
    }
    recovers(&server);
    let counts = server.stop();
    assert_eq!(counts.get("servfail"), 0, "{counts:?}");
}

#[test]
fn an_answer_truncated_for_ever_is_a_servfail_and_never_an_empty_answer() {
    let upstream = bad_by(|asked, _| Deed::Say(vec![asked.truncated()]));
    let server = server(&[upstream.address()]);
    let reply = ask(server.address(), &question("bad.example.org", "A"));
    assert_eq!(reply.rcode, 2, "{reply:?}");
    assert!([NO_REACHABLE_AUTHORITY, NETWORK_ERROR].map(Some).contains(&told(&reply).1), "{reply:?}");
    let over_tcp = ask_over_tcp(server.address(), &question("bad.example.org", "A"));
    assert_eq!(told(&over_tcp), told(&reply));
    assert!(upstream.times_asked(Over::Tcp, "bad.example.org") >= 1);
    recovers(&server);
    let counts = server.stop();
    assert!(counts.get("upstream_truncated") >= 1 && counts.get("upstream_sends") <= SENDS_MAX + 1, "{counts:?}");
}

#[test]
fn wrong_ids_are_never_believed_over_udp_or_tcp() {
    let upstream = bad_by(|asked, _| {
        let forged = (1..=8u8).map(|bits| {
            let mut wire = asked.answer(WRONG);
            wire[1] ^= bits;
            wire
        });
        Deed::Say(forged.collect())
    });
    let server = server(&[upstream.address()]);
    fails_and_recovers(&server, "bad.example.org", NO_REACHABLE_AUTHORITY);
    // One is enough to turn to TCP, where a wrong id says nothing.
    assert!(upstream.times_asked(Over::Tcp, "bad.example.org") >= 1);
    let counts = server.stop();
    assert!(counts.get("upstream_wrong_id") >= 1 && counts.get("upstream_unexpected") >= 8, "{counts:?}");
    assert!(counts.get("upstream_sends") <= SENDS_MAX + 1, "{counts:?}");
}

#[test]
fn answers_to_another_question_are_never_believed_or_kept() {
    let upstream = bad_by(|asked, _| {
        let flipped = [13, 14].map(|at| {
            let mut wire = asked.answer(WRONG);
            wire[at] ^= 1;
            wire
        });
        Deed::Say(flipped.to_vec())
    });
    let server = server(&[upstream.address()]);
    fails_and_recovers(&server, "bad.example.org", NO_REACHABLE_AUTHORITY);
    // What the first one answered instead: `cad`.
    assert!(is_right(&ask(server.address(), &question("cad.example.org", "A"))));
    let counts = server.stop();
    assert!(counts.get("upstream_unexpected") >= 2 && counts.get("upstream_wrong_id") == 0, "{counts:?}");
}

#[test]
fn looping_and_endless_cname_chains_are_a_servfail() {
    let endless: Vec<String> = (0..20).map(|number| format!("link{number}.example.net")).collect();
    let upstream = bad_by(move |asked, _| {
        let name = asked.name();
        Deed::Say(vec![match name.as_str() {
            "bad-itself.example.org" => asked.chain(&[&name, &name]),
            "bad-two.example.org" => asked.chain(&[&name, "other.example.net", &name]),
            "bad-three.example.org" => asked.chain(&[&name, "a.example.net", "b.example.net", "a.example.net"]),
            _ => {
                let mut names = vec![name.as_str()];
                names.extend(endless.iter().map(String::as_str));
                asked.chain(&names)
            }
        }])
    });
    let server = server(&[upstream.address()]);
    for name in ["bad-itself", "bad-two", "bad-three", "bad-endless"] {
        fails_and_recovers(&server, &format!("{name}.example.org"), OTHER);
    }
    let counts = server.stop();
    assert!(counts.get("upstream_sends") <= 4 * SENDS_MAX + 1, "{counts:?}");
}

#[test]
fn an_answer_of_too_many_records_is_a_servfail() {
    let upstream = bad_by(|asked, over| match over {
        Over::Udp => Deed::Say(vec![asked.truncated()]),
        Over::Tcp => Deed::Say(vec![asked.addresses(1_025)]),
    });
    let server = server(&[upstream.address()]);
    let reply = ask(server.address(), &question("bad.example.org", "A"));
    assert_eq!(reply.rcode, 2, "{reply:?}");
    assert!([NO_REACHABLE_AUTHORITY, NETWORK_ERROR].map(Some).contains(&told(&reply).1), "{reply:?}");
    recovers(&server);
    let counts = server.stop();
    assert_eq!(counts.get("servfail"), 1, "{counts:?}");
}

#[test]
fn the_largest_answers_are_passed_on_whole_over_tcp_and_truncated_over_udp() {
    // Around the most that the cache takes for one answer, and as much as there is room for behind any question.
    const SIZES: [usize; 4] = [4_000, 16_000, 17_000, 65_200];
    let upstream = bad_by(|asked, over| match over {
        Over::Udp => Deed::Say(vec![asked.truncated()]),
        Over::Tcp => {
            let octets: usize = asked.name().trim_start_matches("bad").split('.').next().unwrap().parse().unwrap();
            Deed::Say(vec![asked.octets(octets)])
        }
    });
    let server = server(&[upstream.address()]);
    for octets in SIZES {
        let name = format!("bad{octets}.example.org");
        // Without EDNS the answer is as long as the upstream's.
        let large = question(&name, "TXT").edns(None);
        let mut strings = Vec::new();
        for _ in 0..2 {
            let whole = ask_over_tcp(server.address(), &large);
            assert_eq!((whole.rcode, whole.wire.len()), (0, octets), "{octets}");
            let data: Vec<String> = whole.data();
            assert!(strings.is_empty() || data == strings);
            strings = data;
            let cut = ask(server.address(), &large);
            assert!(cut.is_truncated && cut.answers.is_empty() && cut.rcode == 0, "{:?}", cut.rcode);
        }
        let fetched = upstream.times_asked(Over::Tcp, &name);
        assert_eq!(fetched > 1, octets > 16_384, "{octets} octets were fetched {fetched} times");
    }
    // The largest message there is: passed on whole or not at all, never in part.
    let largest = ask_over_tcp(server.address(), &question("bad65535.example.org", "TXT").edns(None));
    assert!(largest.answers.is_empty() || largest.wire.len() == 65_535, "{}", largest.wire.len());
    assert!(
        !largest.answers.is_empty() || largest.is_truncated || largest.rcode == 2,
        "an empty answer would be believed"
    );
    recovers(&server);
    server.stop();
}

#[test]
fn a_slow_server_holds_up_neither_cached_nor_blocked_answers() {
    let upstream = Upstream::new();
    let server = server(&[upstream.address()]);
    let client = UdpClient::new(server.address());
    client.send(&question("cached.example.org", "A").to_wire(next_id()));
    upstream.answer(&upstream.hear(), RIGHT);
    assert!(is_right(&Reply::parse(&client.receive())));

    // Many wait, over UDP and TCP; the server has heard each of them and says nothing yet.
    let slow: Vec<(UdpClient, u16)> = (0..50)
        .map(|number| {
            let (client, id) = (UdpClient::new(server.address()), next_id());
            client.send(&question(&format!("slow{number}.example.org"), "A").to_wire(id));
            (client, id)
        })
        .collect();
    let mut over_tcp = TcpClient::new(server.address());
    let tcp_id = next_id();
    over_tcp.send(&framed(&question("slow-tcp.example.org", "A").to_wire(tcp_id)));
    let waiting: Vec<Asked> = (0..=slow.len()).map(|_| upstream.hear()).collect();
    for _ in 0..50 {
        assert!(is_right(&client.ask(&question("cached.example.org", "A"))));
        assert!(client.ask(&question("blocked.example.org", "A")).is_zero());
    }
    // On the connection of the one that waits as well: the answers come out of order (RFC 7766 §7).
    let blocked_id = next_id();
    over_tcp.send(&framed(&question("blocked.example.org", "A").to_wire(blocked_id)));
    let first = over_tcp.reply();
    assert!(first.id == blocked_id && first.is_zero(), "{first:?}");

    for asked in &waiting {
        upstream.answer(asked, RIGHT);
    }
    for (client, id) in &slow {
        let reply = Reply::parse(&client.receive());
        assert!(reply.id == *id && is_right(&reply), "{reply:?}");
    }
    let last = over_tcp.reply();
    assert!(last.id == tcp_id && is_right(&last), "{last:?}");
    let counts = server.stop();
    assert_eq!(counts.get("servfail"), 0, "{counts:?}");
}

#[test]
fn a_flapping_server_beside_a_good_one_costs_no_answer() {
    let times = std::sync::atomic::AtomicUsize::new(0);
    let flapping = Played::new(move |asked, _| match times.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 4 {
        0 => right(asked),
        1 => Deed::Silence,
        2 => Deed::Say(vec![asked.failure(Rcode::SERVFAIL)]),
        _ => Deed::Say(vec![asked.failure(Rcode::REFUSED)]),
    });
    let good = Played::new(|asked, _| right(asked));
    for upstreams in [[flapping.address(), good.address()], [good.address(), flapping.address()]] {
        let server = server(&upstreams);
        for number in 0..40 {
            let reply = ask(server.address(), &question(&format!("n{number}.example.org"), "A"));
            assert!(is_right(&reply), "{reply:?}");
        }
        let counts = server.stop();
        assert_eq!(counts.get("servfail"), 0, "{counts:?}");
        assert!(counts.get("upstream_sends") <= 80, "{counts:?}");
    }
}

#[test]
fn when_all_servers_are_down_each_in_its_own_way_the_client_is_told_and_they_may_come_back() {
    let absent = SocketAddr::from(([127, 0, 0, 1], ports::free()));
    let silent = bad_by(|_, _| Deed::Silence);
    let failing = bad_by(|asked, _| Deed::Say(vec![asked.failure(Rcode::SERVFAIL)]));
    let server = server(&[absent, silent.address(), failing.address()]);
    fails_and_recovers(&server, "bad.example.org", NO_REACHABLE_AUTHORITY);
    let counts = server.stop();
    assert_eq!(counts.get("servfail"), 3, "{counts:?}");
    assert!(counts.get("upstream_sends") <= SENDS_MAX + 3, "{counts:?}");
}

#[test]
fn when_all_are_down_what_was_answered_before_is_answered_still_and_other_names_are_a_servfail() {
    let are_down = Arc::new(AtomicBool::new(false));
    let [first, second] = [(); 2].map(|()| {
        let is_down = are_down.clone();
        Played::new(move |asked, _| if is_down.load(Ordering::Relaxed) { Deed::Silence } else { right(asked) })
    });
    let site = Site::new().option("upstream_timeout_ms", "100");
    // The site begins with the table of the cache.
    let site = site.toml("ttl_s_max = 1\nstale_client_timeout_ms = 50\nfailure_ttl_s = 1");
    let site = site.list("rules", "adblock", "", "||blocked.example.org^\n");
    let server = site.upstream(&[first.address(), second.address()]).build_and_serve();
    let known = question("good.example.org", "A");
    assert!(is_right(&ask(server.address(), &known)));
    are_down.store(true, Ordering::Relaxed);
    // It is fresh for a second yet.
    let expired = loop {
        let reply = ask(server.address(), &known);
        assert!(is_right(&reply), "{reply:?}");
        if reply.ede.is_some() {
            break reply;
        }
    };
    assert_eq!(told(&expired), (0, Some(STALE_ANSWER)));
    assert_eq!(expired.answers.first().map(|answer| answer.ttl_s), Some(30));
    assert_eq!(told(&ask(server.address(), &question("other.example.org", "A"))), (2, Some(NO_REACHABLE_AUTHORITY)));
    assert!(is_right(&ask(server.address(), &known)), "it is served as long as they are down");
    are_down.store(false, Ordering::Relaxed);
    // What failed is asked for again after a second.
    while told(&ask(server.address(), &question("other.example.org", "A"))).0 != 0 {}
    while ask(server.address(), &known).ede.is_some() {}
    assert!(server.stop().get("stale_answers") >= 2);
}
