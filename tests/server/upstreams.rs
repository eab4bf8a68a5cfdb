//! Upstream servers that are silent, refuse, lie, or speak through TCP only.

use std::net::{SocketAddr, UdpSocket};

use domain::base::iana::Rcode;

use crate::client::{Reply, UdpClient, next_id, question};
use crate::corewall::{Server, Site};
use crate::ports;
use crate::upstream::{Asked, Upstream};

const RIGHT: [u8; 4] = [192, 0, 2, 1];
const WRONG: [u8; 4] = [203, 0, 113, 66];

fn site() -> Site {
    Site::new().list("rules", "adblock", "", "||blocked.example.org^\n")
}

fn server(upstreams: &[SocketAddr]) -> Server {
    site().option("upstream_timeout_ms", "900").upstream(upstreams).build_and_serve()
}

/// A question on its way.
struct Pending {
    client: UdpClient,
    id: u16,
}

fn send(server: &Server, name: &str) -> Pending {
    let (client, id) = (UdpClient::new(server.address()), next_id());
    client.send(&question(name, "A").to_wire(id));
    Pending { client, id }
}

impl Pending {
    fn reply(&self) -> Reply {
        let reply = Reply::parse(&self.client.receive());
        assert_eq!(reply.id, self.id);
        reply
    }
}

/// The one address that was answered.
fn is_right(reply: &Reply) -> bool {
    reply.rcode == 0 && reply.data() == ["A 192.0.2.1"]
}

#[test]
fn when_the_first_server_is_silent_the_second_is_asked() {
    let [silent, second] = [Upstream::new(), Upstream::new()];
    let server = site()
        .option("upstream_timeout_ms", "900")
        .upstream_group(&[silent.address(), second.address()], "strategy = \"ordered\"")
        .build_and_serve();
    let pending = send(&server, "a.example.org");
    assert_eq!(silent.hear().name(), "a.example.org");
    let asked = second.hear();
    assert_eq!(asked.name(), "a.example.org");
    second.answer(&asked, RIGHT);
    assert!(is_right(&pending.reply()));
    let counts = server.stop();
    assert_eq!((counts.get("upstream_sends"), counts.get("upstream_timeouts")), (2, 1), "{counts:?}");
}

#[test]
fn a_silent_server_that_is_measured_beside_another_keeps_nobody_waiting() {
    let [first, silent] = [Upstream::new(), Upstream::new()];
    let server = server(&[first.address(), silent.address()]);
    let pending = send(&server, "a.example.org");
    assert_eq!(silent.hear().name(), "a.example.org");
    first.answer(&first.hear(), RIGHT);
    assert!(is_right(&pending.reply()));
    let counts = server.stop();
    assert_eq!((counts.get("upstream_measurings"), counts.get("upstream_timeouts")), (1, 0), "{counts:?}");
}

#[test]
fn a_hedge_is_answered_while_the_first_server_is_still_waited_for() {
    let [slow, second] = [Upstream::new(), Upstream::new()];
    let server = site()
        .option("upstream_timeout_ms", "1900")
        .upstream_group(&[slow.address(), second.address()], "strategy = \"ordered\"\nhedge_ms = 20")
        .build_and_serve();
    let pending = send(&server, "a.example.org");
    slow.hear();
    second.answer(&second.hear(), RIGHT);
    assert!(is_right(&pending.reply()));
    let counts = server.stop();
    assert_eq!((counts.get("upstream_hedges"), counts.get("upstream_timeouts")), (1, 0), "{counts:?}");
}

#[test]
fn a_server_that_comes_back_is_found_by_a_probe() {
    let second = Upstream::new();
    let absent = SocketAddr::from(([127, 0, 0, 1], ports::free()));
    // In a group of its own it is asked by each question, until it is down.
    let backup = format!("[upstream.backup]\nservers = \"{}\"\n", second.address());
    let server = site().upstream_group(&[absent], "fallback = \"backup\"").toml(&backup).build_and_serve();
    for name in ["a.example.org", "b.example.org"] {
        let pending = send(&server, name);
        second.answer(&second.hear(), RIGHT);
        assert!(is_right(&pending.reply()));
    }
    let back = Upstream::at(absent);
    let probe = back.hear();
    assert_eq!(probe.name(), "");
    back.answer(&probe, RIGHT);
    let counts = server.stop();
    assert_eq!((counts.get("upstream_downs"), counts.get("upstream_failures")), (1, 2), "{counts:?}");
}

#[test]
fn a_zone_is_forwarded_to_its_own_servers() {
    let [default, corp] = [Upstream::new(), Upstream::new()];
    let zone = format!("[[forward]]\nzone = \"corp.example.org\"\nservers = \"{}\"\n", corp.address());
    let server = site().upstream(&[default.address()]).toml(&zone).build_and_serve();
    let pending = send(&server, "intranet.corp.example.org");
    corp.answer(&corp.hear(), RIGHT);
    assert!(is_right(&pending.reply()));
    let pending = send(&server, "example.org");
    default.answer(&default.hear(), RIGHT);
    assert!(is_right(&pending.reply()));
    assert!(corp.is_not_asked() && default.is_not_asked());
    server.stop();
}

#[test]
fn a_server_that_is_not_there_is_passed_over_without_waiting_for_it() {
    let upstream = Upstream::new();
    let absent = SocketAddr::from(([127, 0, 0, 1], ports::free()));
    let server = server(&[absent, upstream.address()]);
    let pending = send(&server, "a.example.org");
    upstream.answer(&upstream.hear(), RIGHT);
    assert!(is_right(&pending.reply()));
    let counts = server.stop();
    assert_eq!((counts.get("upstream_failures"), counts.get("upstream_timeouts")), (1, 0), "{counts:?}");
}

#[test]
fn no_question_waits_for_a_server_that_is_not_there() {
    let server = server(&[SocketAddr::from(([127, 0, 0, 1], ports::free()))]);
    for number in 0..60 {
        assert_eq!(send(&server, &format!("n{number}.example.org")).reply().rcode, 2);
    }
    let counts = server.stop();
    // Each is asked for twice or more, now and then from the same port.
    assert!(counts.get("upstream_failures") >= 120 && counts.get("upstream_timeouts") == 0, "{counts:?}");
}

#[test]
fn a_server_that_fails_is_followed_by_the_next_and_when_all_do_the_client_is_told() {
    let [first, second] = [Upstream::new(), Upstream::new()];
    let server = server(&[first.address(), second.address()]);
    let pending = send(&server, "a.example.org");
    let asked = first.hear();
    first.say(&asked, &asked.failure(Rcode::REFUSED));
    second.answer(&second.hear(), RIGHT);
    assert!(is_right(&pending.reply()));
    let pending = send(&server, "b.example.org");
    for upstream in [&first, &second] {
        let asked = upstream.hear();
        upstream.say(&asked, &asked.failure(Rcode::SERVFAIL));
    }
    let reply = pending.reply();
    assert_eq!((reply.rcode, reply.ede.map(|(code, _)| code)), (2, Some(22)));
    server.stop();
}

#[test]
fn when_nobody_answers_the_client_is_told_and_other_names_are_still_served() {
    let silent = Upstream::new();
    let server = server(&[silent.address()]);
    let pending = send(&server, "a.example.org");
    silent.hear();
    assert!(send(&server, "blocked.example.org").reply().is_zero());
    let reply = pending.reply();
    assert_eq!((reply.rcode, reply.ede.clone().map(|(code, _)| code)), (2, Some(22)), "{reply:?}");
    let counts = server.stop();
    assert!(counts.get("upstream_sends") <= 4, "{counts:?}");
}

#[test]
fn an_answer_under_a_wrong_id_is_not_believed_and_the_question_goes_through_tcp() {
    let upstream = Upstream::new();
    let over_tcp = upstream.answer_over_tcp(RIGHT);
    let server = server(&[upstream.address()]);
    let pending = send(&server, "a.example.org");
    let asked = upstream.hear();
    let mut forged = asked.answer(WRONG);
    forged[0] ^= 1;
    upstream.say(&asked, &forged);
    assert!(is_right(&pending.reply()));
    let again = Asked { wire: over_tcp.recv().unwrap(), from: asked.from };
    assert_eq!(again.name(), "a.example.org");
    let counts = server.stop();
    assert_eq!(counts.get("upstream_wrong_id"), 1, "{counts:?}");
}

#[test]
fn answers_to_another_question_or_from_elsewhere_are_ignored_and_the_wait_goes_on() {
    let upstream = Upstream::new();
    let server = server(&[upstream.address()]);
    let client_asks = send(&server, "a.example.org");
    let asked = upstream.hear();
    let wrong = asked.answer(WRONG);
    let flip = |at: usize, bits: u8| {
        let mut wire = wrong.clone();
        wire[at] ^= bits;
        wire
    };
    // Another name, another type, another class, no response, another opcode, cut short.
    for message in
        [flip(13, 1), flip(28, 1), flip(30, 2), flip(2, 0x80), flip(2, 0x10), wrong[..20].to_vec(), Vec::new()]
    {
        upstream.say(&asked, &message);
    }
    // The right words from a wrong port.
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.send_to(&wrong, asked.from).unwrap();
    upstream.answer(&asked, RIGHT);
    assert!(is_right(&client_asks.reply()));
    assert!(is_right(&send(&server, "a.example.org").reply()), "the cache");
    let counts = server.stop();
    assert_eq!((counts.get("upstream_sends"), counts.get("upstream_wrong_id")), (1, 0), "{counts:?}");
}

#[test]
fn a_truncated_answer_is_asked_for_again_over_tcp() {
    let upstream = Upstream::new();
    let over_tcp = upstream.answer_over_tcp(RIGHT);
    let server = server(&[upstream.address()]);
    let pending = send(&server, "a.example.org");
    let asked = upstream.hear();
    upstream.say(&asked, &asked.truncated());
    assert!(is_right(&pending.reply()));
    assert_ne!(over_tcp.recv().unwrap()[..2], asked.wire[..2], "a new question has a new id");
    let counts = server.stop();
    assert_eq!((counts.get("upstream_truncated"), counts.get("upstream_sends")), (1, 2), "{counts:?}");
}

#[test]
fn when_tcp_is_refused_after_a_truncated_answer_the_next_server_is_asked() {
    let [first, second] = [Upstream::new(), Upstream::new()];
    let server = server(&[first.address(), second.address()]);
    let pending = send(&server, "a.example.org");
    let asked = first.hear();
    first.say(&asked, &asked.truncated());
    second.answer(&second.hear(), RIGHT);
    assert!(is_right(&pending.reply()));
    server.stop();
}

#[test]
fn a_forwarding_rule_asks_the_server_it_names() {
    let [default, own] = [Upstream::new(), Upstream::new()];
    let rule = format!("server=/corp.example.org/127.0.0.1#{}\n", own.address().port());
    let server = Site::new().list("routes", "dnsmasq", "", &rule).upstream(&[default.address()]).build_and_serve();
    let pending = send(&server, "intranet.corp.example.org");
    own.answer(&own.hear(), RIGHT);
    assert!(is_right(&pending.reply()));
    let pending = send(&server, "example.org");
    default.answer(&default.hear(), RIGHT);
    assert!(is_right(&pending.reply()));
    assert!(own.is_not_asked() && default.is_not_asked());
    server.stop();
}

#[test]
fn what_is_asked_upstream_is_the_question_and_nothing_else_of_the_client() {
    let upstream = Upstream::new();
    let server = server(&[upstream.address()]);
    let client = UdpClient::new(server.address());
    // A client subnet that is nobody's business.
    let mut message = question("MiXed.example.org", "A").to_wire(9);
    let subnet = b"\0\x08\0\x07\0\x01\x18\0\xc0\0\x02";
    let length_at = message.len() - 2;
    message[length_at..].copy_from_slice(&(subnet.len() as u16).to_be_bytes());
    message.extend_from_slice(subnet);
    client.send(&message);
    let asked = upstream.hear();
    assert!(!asked.wire.windows(subnet.len()).any(|octets| octets == subnet));
    assert_eq!(asked.name().to_lowercase(), "mixed.example.org");
    assert_ne!(asked.from.port(), server.address().port());
    upstream.answer(&asked, RIGHT);
    assert!(is_right(&Reply::parse(&client.receive())));
    server.stop();
}

#[test]
fn an_upstream_may_be_reached_over_ipv6() {
    let Some(&address) = ports::addresses(ports::free()).get(1) else {
        return println!("SKIPPED: this machine has no IPv6");
    };
    let upstream = Upstream::at(address);
    let over_tcp = upstream.answer_over_tcp(RIGHT);
    let server = server(&[address]);
    let pending = send(&server, "a.example.org");
    upstream.answer(&upstream.hear(), RIGHT);
    assert!(is_right(&pending.reply()));
    let pending = send(&server, "b.example.org");
    let asked = upstream.hear();
    upstream.say(&asked, &asked.truncated());
    assert!(is_right(&pending.reply()));
    assert!(over_tcp.recv().is_ok());
    server.stop();
}
