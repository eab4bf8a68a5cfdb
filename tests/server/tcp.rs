//! TCP as clients really send it: cut, joined, too long, too many (RFC 7766).

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use corewall::limits::{MESSAGE_BYTES_MAX, TCP_CONNECTIONS_MAX, TCP_CONNECTIONS_PER_CLIENT_MAX, TCP_PIPELINE_MAX};

use crate::client::{TcpClient, UdpClient, framed, next_id, question};
use crate::corewall::{Server, Site};
use crate::process::PATIENCE;
use crate::upstream::Upstream;

fn server() -> Server {
    Site::new().list("rules", "adblock", "", "||blocked.example.org^\n").build_and_serve()
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
    let first: Vec<_> = (0..TCP_PIPELINE_MAX).map(|_| upstream.hear()).collect();
    for asked in first.iter().rev() {
        upstream.answer(asked, [192, 0, 2, 1]);
    }
    for _ in TCP_PIPELINE_MAX..100 {
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
    let server = server();
    let ask = question("blocked.example.org", "A");
    let mut open: Vec<TcpClient> =
        (0..TCP_CONNECTIONS_PER_CLIENT_MAX).map(|_| TcpClient::new(server.address())).collect();
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
    let server = server();
    let ask = question("blocked.example.org", "A");
    let client = |number: usize| [127, 0, 1, (number / TCP_CONNECTIONS_PER_CLIENT_MAX) as u8].into();
    let mut open: Vec<TcpClient> = (0..=TCP_CONNECTIONS_MAX)
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
