//! Upstream servers asked over TCP: one connection for many questions, and servers that close, reset, stall or babble on it.

use std::net::SocketAddr;
use std::thread;

use crate::client::{Reply, TcpClient, UdpClient, framed, next_id, question};
use crate::corewall::{Server, Site};
use crate::upstream::{Asked, Peer, TcpSide, Upstream};

const RIGHT: [u8; 4] = [192, 0, 2, 1];
/// Questions that one connection takes, as `corewall::limits` has it.
const PIPELINE: usize = corewall::limits::UPSTREAM_TCP_PIPELINE;

fn server(upstreams: &[SocketAddr]) -> Server {
    let site = Site::new().list("rules", "adblock", "", "||blocked.example.org^\n");
    site.upstream_group(upstreams, "strategy = \"ordered\"").build_and_serve()
}

/// A client with a question on its way.
struct Pending(UdpClient);

fn send(server: &Server, name: &str) -> Pending {
    let client = UdpClient::new(server.address());
    client.send(&question(name, "A").to_wire(next_id()));
    Pending(client)
}

impl Pending {
    fn reply(&self) -> Reply {
        Reply::parse(&self.0.receive())
    }

    fn is_right(&self) -> bool {
        let reply = self.reply();
        reply.rcode == 0 && reply.data() == ["A 192.0.2.1"]
    }
}

/// Asks a first question and answers it over TCP: gives the connection, which has answered now.
fn used_connection(server: &Server, upstream: &Upstream, tcp: &TcpSide) -> Peer {
    let pending = send(server, "first.example.org");
    upstream.cut_short();
    let mut peer = tcp.accept();
    let asked = peer.hear();
    peer.answer(&asked, RIGHT);
    assert!(pending.is_right());
    peer
}

#[test]
fn many_questions_share_few_connections_and_are_answered_in_any_order() {
    let upstream = Upstream::new();
    let tcp = upstream.listen();
    let server = server(&[upstream.address()]);
    let client = UdpClient::new(server.address());
    let count = PIPELINE + 6;
    for number in 0..count {
        client.send(&question(&format!("n{number}.example.org"), "A").to_wire(number as u16));
        upstream.cut_short();
    }
    let [mut first, mut second] = [tcp.accept(), tcp.accept()];
    let asked: Vec<Asked> = (0..PIPELINE).map(|_| first.hear()).collect();
    let more: Vec<Asked> = (PIPELINE..count).map(|_| second.hear()).collect();
    more.iter().for_each(|asked| second.answer(asked, RIGHT));
    asked.iter().rev().for_each(|asked| first.answer(asked, RIGHT));
    let mut ids: Vec<u16> = (0..count)
        .map(|_| {
            let reply = Reply::parse(&client.receive());
            assert_eq!(reply.data(), ["A 192.0.2.1"]);
            assert_eq!(reply.answers[0].owner, format!("n{}.example.org", reply.id));
            reply.id
        })
        .collect();
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..count as u16));
    assert!(tcp.is_not_connected());
    let counts = server.stop();
    assert_eq!((counts.get("upstream_connections"), counts.get("upstream_again")), (2, 0), "{counts:?}");
}

#[test]
fn a_connection_is_used_again_and_an_answer_may_come_octet_by_octet() {
    let upstream = Upstream::new();
    let tcp = upstream.listen();
    let server = server(&[upstream.address()]);
    let mut peer = used_connection(&server, &upstream, &tcp);
    for name in ["a.example.org", "b.example.org"] {
        let pending = send(&server, name);
        upstream.cut_short();
        let asked = peer.hear();
        assert_eq!(asked.name(), name);
        for octet in framed(&asked.answer(RIGHT)) {
            assert!(peer.say(&[octet]));
        }
        assert!(pending.is_right());
    }
    assert!(tcp.is_not_connected());
    server.stop();
}

#[test]
fn a_question_lost_with_a_connection_that_had_answered_is_asked_again_on_a_fresh_one() {
    let upstream = Upstream::new();
    let tcp = upstream.listen();
    let server = server(&[upstream.address()]);
    let mut peer = used_connection(&server, &upstream, &tcp);
    let pending = send(&server, "a.example.org");
    upstream.cut_short();
    let lost = peer.hear();
    // As a server does whose idle time-out has just passed.
    drop(peer);
    let mut fresh = tcp.accept();
    let asked = fresh.hear();
    assert_eq!(asked.name(), "a.example.org");
    assert_eq!(asked.wire, lost.wire, "the same question");
    fresh.answer(&asked, RIGHT);
    assert!(pending.is_right());
    let counts = server.stop();
    let told = ["upstream_again", "upstream_failures", "upstream_timeouts"].map(|name| counts.get(name));
    assert_eq!(told, [1, 0, 0], "{counts:?}");
}

#[test]
fn a_question_lost_twice_has_failed_and_the_next_server_is_asked() {
    let [first, second] = [Upstream::new(), Upstream::new()];
    let tcp = first.listen();
    let server = server(&[first.address(), second.address()]);
    let mut peer = used_connection(&server, &first, &tcp);
    let pending = send(&server, "a.example.org");
    first.cut_short();
    peer.hear();
    peer.reset();
    let mut fresh = tcp.accept();
    fresh.hear();
    fresh.reset();
    second.answer(&second.hear(), RIGHT);
    assert!(pending.is_right());
    let counts = server.stop();
    assert_eq!((counts.get("upstream_again"), counts.get("upstream_failures")), (1, 1), "{counts:?}");
}

#[test]
fn a_connection_that_the_server_closed_while_idle_is_replaced() {
    let upstream = Upstream::new();
    let tcp = upstream.listen();
    let server = server(&[upstream.address()]);
    for number in 0..5 {
        let pending = send(&server, &format!("n{number}.example.org"));
        upstream.cut_short();
        let mut peer = tcp.accept();
        let asked = peer.hear();
        peer.answer(&asked, RIGHT);
        assert!(pending.is_right());
    }
    let counts = server.stop();
    assert_eq!((counts.get("upstream_connections"), counts.get("upstream_failures")), (5, 0), "{counts:?}");
}

#[test]
fn a_reset_in_the_middle_of_the_first_answer_leads_to_the_next_server_at_once() {
    let [first, second] = [Upstream::new(), Upstream::new()];
    let tcp = first.listen();
    let server = server(&[first.address(), second.address()]);
    let pending = send(&server, "a.example.org");
    first.cut_short();
    let mut peer = tcp.accept();
    let asked = peer.hear();
    let answer = framed(&asked.answer(RIGHT));
    assert!(peer.say(&answer[..answer.len() / 2]));
    peer.reset();
    second.answer(&second.hear(), RIGHT);
    assert!(pending.is_right());
    let counts = server.stop();
    let told = ["upstream_again", "upstream_failures", "upstream_timeouts"].map(|name| counts.get(name));
    assert_eq!(told, [0, 1, 0], "{counts:?}");
}

#[test]
fn a_server_that_never_answers_loses_its_connection_and_holds_nobody_up() {
    let upstream = Upstream::new();
    let tcp = upstream.listen();
    let server = server(&[upstream.address()]);
    let pending = send(&server, "a.example.org");
    upstream.cut_short();
    let mut peer = tcp.accept();
    peer.hear();
    assert!(send(&server, "blocked.example.org").reply().is_zero());
    let reply = pending.reply();
    assert_eq!((reply.rcode, reply.ede.map(|(code, _)| code)), (2, Some(22)));
    assert!(peer.try_hear().is_none(), "asked again on a connection that is silent");
    server.stop();
}

#[test]
fn an_answer_that_comes_after_its_question_was_given_up_does_no_harm() {
    let [first, second] = [Upstream::new(), Upstream::new()];
    let tcp = first.listen();
    let server = Site::new()
        .list("none", "plain", "", "")
        .option("upstream_timeout_ms", "900")
        .upstream(&[first.address(), second.address()])
        .build_and_serve();
    let pending = send(&server, "a.example.org");
    first.cut_short();
    let mut peer = tcp.accept();
    let late = peer.hear();
    second.answer(&second.hear(), RIGHT);
    assert!(pending.is_right());
    peer.answer(&late, [203, 0, 113, 66]);
    // The connection is as good as before: the second server fails over to it.
    let pending = send(&server, "b.example.org");
    let asked = second.hear();
    second.say(&asked, &asked.failure(domain::base::iana::Rcode::SERVFAIL));
    first.cut_short();
    let asked = peer.hear();
    assert_eq!(asked.name(), "b.example.org");
    peer.answer(&asked, RIGHT);
    assert!(pending.is_right());
    assert!(send(&server, "a.example.org").is_right(), "the cache");
    assert!(tcp.is_not_connected());
    server.stop();
}

#[test]
fn a_server_that_babbles_is_cut_off_and_the_next_is_asked() {
    for message in [Vec::new(), vec![0xff], vec![0xaa; 65_535]] {
        // Each time anew: the next question would go to the second one first.
        let [first, second] = [Upstream::new(), Upstream::new()];
        let tcp = first.listen();
        let server = server(&[first.address(), second.address()]);
        let pending = send(&server, &format!("n{}.example.org", message.len()));
        first.cut_short();
        let mut peer = tcp.accept();
        peer.hear();
        // Until it is cut off.
        while peer.say(&framed(&message)) {}
        assert!(peer.try_hear().is_none());
        second.answer(&second.hear(), RIGHT);
        assert!(pending.is_right());
        assert!(send(&server, "blocked.example.org").reply().is_zero());
        server.stop();
    }
}

#[test]
fn a_server_that_closes_after_each_answer_still_answers_many_questions_at_a_time() {
    let upstream = Upstream::new();
    let asked = upstream.answer_over_tcp(RIGHT);
    let server = server(&[upstream.address()]);
    for round in 0..3 {
        let pending: Vec<Pending> =
            (0..20).map(|number| send(&server, &format!("n{number}.r{round}.example.org"))).collect();
        for _ in &pending {
            upstream.cut_short();
        }
        assert!(pending.iter().all(Pending::is_right), "round {round}");
    }
    assert!(asked.try_iter().count() >= 60);
    let counts = server.stop();
    assert_eq!((counts.get("upstream_failures"), counts.get("upstream_timeouts")), (0, 0), "{counts:?}");
}

#[test]
fn a_client_that_reads_gets_all_its_long_answers_though_they_come_at_once() {
    let upstream = Upstream::new();
    let tcp = upstream.listen();
    let server = server(&[upstream.address()]);
    let mut client = TcpClient::new(server.address());
    let ids = [1, 2, 3, 4, 5, 6, 7, 8];
    for id in ids {
        client.send(&framed(&question(&format!("n{id}.example.org"), "TXT").to_wire(id)));
        upstream.cut_short();
    }
    let mut peer = tcp.accept();
    let asked = ids.map(|_| peer.hear());
    let answers = asked.each_ref().map(|asked| framed(&asked.octets(20_000))).concat();
    let upstream = thread::spawn(move || assert!(peer.say(&answers)));
    let mut answered = ids.map(|_| client.reply().id);
    answered.sort_unstable();
    assert_eq!(answered, ids);
    upstream.join().unwrap();
    let counts = server.stop();
    assert_eq!(counts.get("tcp_slow"), 0, "{counts:?}");
}
