//! The end of a server.

use crate::client::{Reply, TcpClient, UdpClient, framed, question};
use crate::corewall::Site;
use crate::upstream::Upstream;

fn site() -> Site {
    Site::new().list("rules", "adblock", "", "||blocked.example.org^\n")
}

#[test]
fn sigterm_and_sigint_end_it_with_status_0_and_its_counts() {
    for signal in ["TERM", "INT"] {
        let server = site().build_and_serve();
        assert!(UdpClient::new(server.address()).ask(&question("blocked.example.org", "A")).is_zero());
        server.signal(signal);
        let done = server.finish();
        assert_eq!(done.code, Some(0), "{done:?}");
        assert_eq!(crate::corewall::Counts::of(&done.err).get("blocked"), 1);
        assert_eq!(done.out.lines().count(), 1, "nothing but `ready`: {}", done.out);
    }
}

#[test]
fn queries_in_flight_are_answered_before_the_end() {
    let upstream = Upstream::new();
    let server = site().upstream(&[upstream.address()]).build_and_serve();
    let udp = UdpClient::new(server.address());
    udp.send(&question("udp.example.org", "A").to_wire(1));
    let first = upstream.hear();
    let mut tcp = TcpClient::new(server.address());
    tcp.send(&framed(&question("tcp.example.org", "A").to_wire(2)));
    let second = upstream.hear();
    server.signal("TERM");
    server.wait_for_log("stopping");
    upstream.answer(&first, [192, 0, 2, 1]);
    upstream.answer(&second, [192, 0, 2, 2]);
    assert_eq!(Reply::parse(&udp.receive()).data(), ["A 192.0.2.1"]);
    assert_eq!(tcp.reply().data(), ["A 192.0.2.2"]);
    assert_eq!(tcp.receive(), None, "the connection is closed");
    let done = server.finish();
    assert_eq!(done.code, Some(0), "{done:?}");
}

#[test]
fn an_upstream_that_never_answers_does_not_keep_it_from_ending() {
    let upstream = Upstream::new();
    let site = site().upstream(&[upstream.address()]).option("upstream_timeout_ms", "800");
    let server = site.build_and_serve();
    let client = UdpClient::new(server.address());
    client.send(&question("a.example.org", "A").to_wire(1));
    upstream.hear();
    server.signal("TERM");
    let done = server.finish();
    assert_eq!(done.code, Some(0), "{done:?}");
    // The client is told.
    assert_eq!(Reply::parse(&client.receive()).rcode, 2);
}

#[test]
fn open_connections_do_not_keep_it_from_ending() {
    let server = site().build_and_serve();
    let mut idle = TcpClient::new(server.address());
    assert!(idle.ask(&question("blocked.example.org", "A")).is_zero());
    let mut half = TcpClient::new(server.address());
    half.send(&framed(&question("blocked.example.org", "A").to_wire(3))[..7]);
    server.stop();
    assert_eq!(idle.receive(), None);
    assert_eq!(half.receive(), None);
}

#[test]
fn a_server_starts_again_on_its_port_at_once() {
    let site = site();
    site.build();
    // The kernel may still be closing the last one's sockets, after every second end or so.
    for signal in ["TERM", "KILL"].repeat(4) {
        let server = site.serve();
        for address in server.addresses() {
            assert!(UdpClient::new(address).ask(&question("blocked.example.org", "A")).is_zero());
            assert!(TcpClient::new(address).ask(&question("blocked.example.org", "A")).is_zero());
        }
        server.signal(signal);
        server.finish();
    }
}
