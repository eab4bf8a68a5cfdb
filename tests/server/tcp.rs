//! TCP as clients really send it: cut, joined, too long, too many (RFC 7766).

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use corewall::limits::MESSAGE_BYTES_MAX;

use crate::client::{Reply, TcpClient, UdpClient, framed, next_id, question};
use crate::corewall::{Server, Site};
use crate::process::PATIENCE;
use crate::upstream::Upstream;

/// Queries of one connection that may wait, unless a test says otherwise.
const PIPELINE: u16 = 64;

fn site() -> Site {
    Site::new().list("rules", "adblock", "", "||blocked.example.org^\n")
}

fn server() -> Server {
    site().build_and_serve()
}

/// A server with this in its table `tcp`.
fn limited(limits: &str) -> Server {
    site().toml(&format!("[tcp]\n{limits}")).build_and_serve()
}

fn blocked(id: u16) -> Vec<u8> {
    question("blocked.example.org", "A").to_wire(id)
}

#[test]
fn several_messages_in_one_segment_are_each_answered() {
    let server = server();
    let mut client = TcpClient::new(server.address());
    let ids = [1, 2, 3, 4, 5];
    client.send(&ids.map(|id| framed(&blocked(id))).concat());
    for id in ids {
        let reply = client.reply();
        assert_eq!((reply.id, reply.is_zero()), (id, true));
    }
    server.stop();
}

#[test]
fn a_message_may_come_octet_by_octet() {
    let server = server();
    let mut client = TcpClient::new(server.address());
    for id in [7, 8] {
        for octet in framed(&blocked(id)) {
            client.send(&[octet]);
        }
        let reply = client.reply();
        assert_eq!((reply.id, reply.is_zero()), (id, true));
    }
    server.stop();
}

#[test]
fn a_message_may_be_cut_anywhere_also_within_its_length() {
    let server = server();
    let mut client = TcpClient::new(server.address());
    let [first, second] = [11, 12].map(|id| framed(&blocked(id)));
    for cut in 1..first.len() {
        // The second part brings the beginning of the next message along.
        client.send(&first[..cut]);
        client.send(&[&first[cut..], &second[..cut]].concat());
        assert_eq!(client.reply().id, 11);
        client.send(&second[cut..]);
        assert_eq!(client.reply().id, 12);
    }
    server.stop();
}

#[test]
fn the_longest_message_is_read_whole_and_the_next_one_found_behind_it() {
    let server = server();
    let mut client = TcpClient::new(server.address());
    // Octets behind the last record are passed over.
    let mut longest = blocked(21);
    longest.resize(MESSAGE_BYTES_MAX, 0xaa);
    client.send(&framed(&longest));
    client.send(&framed(&blocked(22)));
    let replies = [client.reply(), client.reply()];
    assert!(replies[0].is_zero() && replies[1].is_zero());
    assert_eq!(replies.map(|reply| reply.id), [21, 22]);
    server.stop();
}

#[test]
fn messages_too_short_to_be_answered_do_not_end_the_connection() {
    let server = server();
    let mut client = TcpClient::new(server.address());
    for bytes in 0..12 {
        client.send(&framed(&blocked(31)[..bytes]));
    }
    client.send(&framed(&blocked(32)));
    assert_eq!(client.reply().id, 32);
    server.stop();
}

#[test]
fn connections_that_are_reset_before_they_are_accepted_keep_nobody_waiting() {
    let server = server();
    // They outlast the client's patience if each costs the accepting task a pause.
    for _ in 0..1_000 {
        let reset = TcpStream::connect(server.address()).unwrap();
        socket2::SockRef::from(&reset).set_linger(Some(Duration::ZERO)).unwrap();
    }
    let mut client = TcpClient::new(server.address());
    client.send(&framed(&blocked(51)));
    assert_eq!(client.reply().id, 51);
    assert!(!server.output().contains("cannot be accepted"), "a client writes the log");
    server.stop();
}

#[test]
fn half_a_message_is_not_answered_and_what_came_whole_before_it_is() {
    let server = server();
    let (whole, half) = (framed(&blocked(41)), framed(&blocked(42)));
    for bytes in 0..half.len() {
        let mut client = TcpClient::new(server.address());
        client.send(&[&whole[..], &half[..bytes]].concat());
        client.0.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.reply().id, 41);
        assert_eq!(client.receive(), None, "{bytes} octets of a message were answered");
    }
    assert!(TcpClient::new(server.address()).ask(&question("blocked.example.org", "A")).is_zero());
    server.stop();
}

#[test]
fn a_hundred_queries_may_wait_on_one_connection() {
    let upstream = Upstream::new();
    let server = Site::new().list("none", "plain", "", "").upstream(&[upstream.address()]).build_and_serve();
    let mut client = TcpClient::new(server.address());
    let name = |number: u16| format!("n{number}.example.org");
    let queries = (0..100).map(|number| framed(&question(&name(number), "A").to_wire(number)));
    client.send(&queries.collect::<Vec<_>>().concat());
    // As many as may wait at a time are asked at once, the others as those are answered.
    let first: Vec<_> = (0..PIPELINE).map(|_| upstream.hear()).collect();
    for asked in first.iter().rev() {
        upstream.answer(asked, [192, 0, 2, 1]);
    }
    for _ in PIPELINE..100 {
        upstream.answer(&upstream.hear(), [192, 0, 2, 1]);
    }
    let mut ids: Vec<u16> = (0..100)
        .map(|_| client.reply())
        .map(|reply| {
            assert_eq!(reply.data(), ["A 192.0.2.1"]);
            assert_eq!(reply.answers[0].owner, name(reply.id));
            reply.id
        })
        .collect();
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..100));
    server.stop();
}

#[test]
fn an_answer_that_is_ready_does_not_wait_for_an_earlier_one() {
    let upstream = Upstream::new();
    let server = Site::new()
        .list("rules", "adblock", "", "||blocked.example.org^\n")
        .upstream(&[upstream.address()])
        .build_and_serve();
    let mut client = TcpClient::new(server.address());
    client.send(&framed(&question("slow.example.org", "A").to_wire(1)));
    let asked = upstream.hear();
    client.send(&framed(&blocked(2)));
    assert_eq!(client.reply().id, 2);
    upstream.answer(&asked, [192, 0, 2, 1]);
    assert_eq!(client.reply().id, 1);
    server.stop();
}

#[test]
fn a_client_that_goes_away_while_it_waits_disturbs_nobody() {
    let upstream = Upstream::new();
    let server = Site::new().list("none", "plain", "", "").upstream(&[upstream.address()]).build_and_serve();
    for number in 0..20 {
        let mut leaver = TcpClient::new(server.address());
        leaver.send(&framed(&question(&format!("n{number}.example.org"), "A").to_wire(next_id())));
        let asked = upstream.hear();
        drop(leaver);
        upstream.answer(&asked, [192, 0, 2, 1]);
    }
    let reply = UdpClient::new(server.address()).ask(&question("n19.example.org", "A"));
    assert_eq!(reply.data(), ["A 192.0.2.1"]);
    server.stop();
}

#[test]
fn one_client_address_has_so_many_connections_and_no_more_until_one_is_closed() {
    let server = limited("connections_per_client = 5");
    let ask = question("blocked.example.org", "A");
    let mut open: Vec<TcpClient> = (0..5).map(|_| TcpClient::new(server.address())).collect();
    for client in &mut open {
        assert!(client.ask(&ask).is_zero());
    }
    assert!(!is_served(&server), "one connection too many was served");
    // UDP and the connections that there are do not suffer.
    assert!(UdpClient::new(server.address()).ask(&ask).is_zero());
    assert!(open[0].ask(&ask).is_zero());
    drop(open.pop());
    // When the server notices is up to it.
    let until = std::time::Instant::now() + PATIENCE;
    while !is_served(&server) {
        assert!(std::time::Instant::now() < until, "the place of a closed connection stays taken");
    }
    assert!(server.stop().get("tcp_refused") >= 1);
}

#[test]
fn when_all_connections_are_taken_the_idlest_is_closed_for_a_newcomer() {
    let server = limited("connections = 40\nconnections_per_client = 8");
    let ask = question("blocked.example.org", "A");
    let client = |number: u8| [127, 0, 1, number / 8].into();
    let mut open: Vec<TcpClient> = (0..=40)
        .map(|number| {
            let mut connection = TcpClient::from_address(client(number), server.address());
            assert!(connection.ask(&ask).is_zero(), "connection {number}");
            connection
        })
        .collect();
    assert_eq!(open[0].receive(), None, "the first one is closed");
    assert!(open[1].ask(&ask).is_zero());
    assert_eq!(server.stop().get("tcp_displaced"), 1);
}

#[test]
fn a_client_that_asks_is_told_how_long_its_connection_may_be_idle() {
    let server = limited("connections = 8\nconnections_per_client = 8\nidle_ms = 30000");
    // OPT with edns-tcp-keepalive, without data.
    let asking = |id: u16| {
        let mut query = blocked(id);
        let length_at = query.len() - 2;
        query[length_at..].copy_from_slice(&[0, 4]);
        query.extend_from_slice(b"\0\x0b\0\0");
        query
    };
    let mut told = Vec::new();
    let mut open = Vec::new();
    for id in 0..8 {
        let mut client = TcpClient::new(server.address());
        client.send(&framed(&asking(id)));
        let reply = client.reply();
        assert!(reply.is_zero());
        let [.., 0, 11, 0, 2, hi, lo] = reply.wire[..] else { panic!("no time-out: {:02x?}", reply.wire) };
        told.push(u16::from_be_bytes([hi, lo]));
        assert!(client.ask(&question("blocked.example.org", "A")).wire.len() < reply.wire.len());
        open.push(client);
    }
    assert_eq!(told, [300, 300, 300, 300, 300, 300, 150, 0], "less when connections are scarce");
    let udp = UdpClient::new(server.address());
    udp.send(&asking(9));
    assert!(!udp.receive().ends_with(&[0, 11, 0, 2, 1, 44]));
    server.stop();
}

#[test]
fn an_idle_connection_is_closed_after_its_time() {
    let server = limited("idle_ms = 1000");
    let mut client = TcpClient::new(server.address());
    assert!(client.ask(&question("blocked.example.org", "A")).is_zero());
    assert_eq!(client.receive(), None);
    assert_eq!(server.stop().get("tcp_idle"), 1);
}

#[test]
fn a_connection_whose_life_is_over_is_closed_between_two_answers() {
    let server = limited("lifetime_ms = 1000");
    let mut client = TcpClient::new(server.address());
    let until = std::time::Instant::now() + PATIENCE;
    // It is never idle.
    while client.0.write_all(&framed(&blocked(7))).is_ok() {
        assert!(std::time::Instant::now() < until, "it lives for ever");
        match client.receive() {
            Some(reply) => assert!(Reply::parse(&reply).is_zero()),
            None => break,
        }
    }
    assert!(is_served(&server), "the next one is served");
    assert_eq!(server.stop().get("tcp_ended"), 1);
}

#[test]
fn a_message_that_dribbles_in_does_not_hold_its_connection() {
    let server = limited("idle_ms = 600000");
    let mut client = TcpClient::new(server.address());
    assert!(client.ask(&question("blocked.example.org", "A")).is_zero());
    client.send(&[0]);
    assert_eq!(client.receive(), None);
    assert_eq!(server.stop().get("tcp_incomplete"), 1);
}

#[test]
fn one_query_at_a_time_is_read_where_no_more_may_wait() {
    let upstream = Upstream::new();
    let server = site().upstream(&[upstream.address()]).toml("[tcp]\npipeline = 1").build_and_serve();
    let mut client = TcpClient::new(server.address());
    let ask = |id: u16| framed(&question(&format!("n{id}.example.org"), "A").to_wire(id));
    client.send(&[ask(1), ask(2), framed(&blocked(3))].concat());
    for id in [1, 2] {
        let asked = upstream.hear();
        assert!(upstream.is_not_asked());
        upstream.answer(&asked, [192, 0, 2, 1]);
        assert_eq!(client.reply().id, id);
    }
    assert_eq!(client.reply().id, 3);
    server.stop();
}

#[test]
fn a_reload_changes_the_limits() {
    let site = site().toml("[tcp]\nconnections_per_client = 1");
    let server = site.build_and_serve();
    let ask = question("blocked.example.org", "A");
    let mut first = TcpClient::new(server.address());
    assert!(first.ask(&ask).is_zero());
    assert!(!is_served(&server));
    site.write("corewall.toml", site.config().replace("connections_per_client = 1", "connections_per_client = 2"));
    assert!(server.reload().contains("reloaded"));
    assert!(is_served(&server) && first.ask(&ask).is_zero());
    server.stop();
}

#[test]
fn an_answer_from_the_cache_does_not_wait_for_a_slow_upstream() {
    let upstream = Upstream::new();
    let server = site().upstream(&[upstream.address()]).build_and_serve();
    let mut client = TcpClient::new(server.address());
    let ask = |name: &str, id: u16| framed(&question(name, "A").to_wire(id));
    client.send(&ask("cached.example.org", 1));
    upstream.answer(&upstream.hear(), [192, 0, 2, 1]);
    assert_eq!(client.reply().id, 1);
    client.send(&[ask("slow.example.org", 2), ask("cached.example.org", 3)].concat());
    assert_eq!(client.reply().id, 3);
    upstream.answer(&upstream.hear(), [192, 0, 2, 1]);
    assert_eq!(client.reply().id, 2);
    server.stop();
}

#[test]
fn datagrams_are_answered_while_connections_flood_in() {
    let server = limited("connections = 64");
    let address = server.address();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut connected = 0;
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                // Refused when the kernel's queue is full.
                connected += u64::from(TcpStream::connect(address).is_ok());
            }
            connected
        });
        let client = UdpClient::new(address);
        for _ in 0..2_000 {
            assert!(client.ask(&question("blocked.example.org", "A")).is_zero());
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(flood.join().unwrap() > 0);
    });
    assert!(TcpClient::new(address).ask(&question("blocked.example.org", "A")).is_zero());
    assert!(server.stop().get("tcp_accepted") > 0);
}

#[test]
fn a_server_with_nothing_to_do_sleeps_although_its_upstream_is_dead() {
    let dead = Upstream::new().address();
    let server = site().upstream(&[dead]).toml("[tcp]\nidle_ms = 3000").build_and_serve();
    let mut client = TcpClient::new(server.address());
    assert_eq!(client.ask(&question("a.example.org", "A")).rcode, 2);
    // Three seconds in which nothing is asked: 3,000 naps of a server that naps.
    assert_eq!(client.receive(), None);
    let counts = server.stop();
    assert!(counts.get("naps") < 300 && counts.get("parks") > 0, "{counts:?}");
}

/// Whether a question over a new connection is answered before the connection is closed.
fn is_served(server: &Server) -> bool {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let is_sent = stream.write_all(&framed(&blocked(next_id()))).is_ok();
    let mut length = [0; 2];
    match stream.read_exact(&mut length) {
        Ok(()) => is_sent,
        Err(error) => {
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "neither served nor closed");
            false
        }
    }
}
