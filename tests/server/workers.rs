//! Several workers behind one address, and questions that share an answer.

use std::collections::HashSet;
use std::thread;

use crate::client::{Reply, TcpClient, UdpClient, next_id, question};
use crate::corewall::{Server, Site};
use crate::upstream::Upstream;

const RIGHT: [u8; 4] = [192, 0, 2, 1];
/// Clients, each with a port of its own: that one of two workers gets none of them happens once in 2^63 runs.
const CLIENTS: usize = 64;

/// Two cores that this process may use; none, with a line that says so, where there is one only.
pub fn two_cores() -> Option<[usize; 2]> {
    let cores: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    let [first, second, ..] = cores[..] else {
        println!("SKIPPED: two workers want two cores, there is {}", cores.len());
        return None;
    };
    Some([first, second])
}

fn site(upstream: &Upstream) -> Site {
    Site::new().list("rules", "adblock", "", "||blocked.example.org^\n").upstream(&[upstream.address()])
}

/// Asks one question from many ports, one half from each core, and returns how often the upstream was asked.
fn ask_from_many_ports(server: &Server, upstream: &Upstream, cores: [usize; 2], ask: fn(&Server) -> Reply) -> usize {
    thread::scope(|scope| {
        let clients: Vec<_> = cores
            .into_iter()
            .map(|core| {
                scope.spawn(move || {
                    // Packets may be steered to the worker on the sender's core.
                    assert!(core_affinity::set_for_current(core_affinity::CoreId { id: core }));
                    for _ in 0..CLIENTS / 2 {
                        assert_eq!(ask(server).data(), ["A 192.0.2.1"]);
                    }
                })
            })
            .collect();
        let mut asked = 0;
        while !clients.iter().all(|client| client.is_finished()) {
            while !upstream.is_not_asked() {
                upstream.answer(&upstream.hear(), RIGHT);
                asked += 1;
            }
            thread::yield_now();
        }
        asked
    })
}

#[test]
fn each_worker_answers_from_a_cache_of_its_own() {
    let Some(cores) = two_cores() else { return };
    let upstream = Upstream::new();
    let [first, second] = cores;
    let server = site(&upstream).option("cores", &format!("[{first}, {second}]")).build_and_serve();
    assert!(server.ready_line().contains("2 workers"), "{}", server.ready_line());
    // Who has asked the upstream has answered clients; nobody asks twice.
    let over_udp = |server: &Server| UdpClient::new(server.address()).ask(&question("udp.example.org", "A"));
    assert_eq!(ask_from_many_ports(&server, &upstream, cores, over_udp), 2);
    let over_tcp = |server: &Server| TcpClient::new(server.address()).ask(&question("tcp.example.org", "A"));
    assert_eq!(ask_from_many_ports(&server, &upstream, cores, over_tcp), 2);
    let counts = server.stop();
    assert_eq!(counts.get("exchanges"), 4, "{counts:?}");
    assert_eq!(counts.get("udp_received"), CLIENTS as u64, "both workers' counts are added up: {counts:?}");
}

#[test]
fn equal_questions_in_flight_share_one_question_to_the_upstream() {
    let upstream = Upstream::new();
    let server = site(&upstream).build_and_serve();
    // Other letter case, another EDNS size, none at all: one question all the same.
    let questions = [
        question("shared.example.org", "A"),
        question("SHARED.example.org", "A"),
        question("shared.EXAMPLE.org", "A").edns(Some(4_096)),
        question("shared.example.org", "A").edns(None),
    ];
    let clients: Vec<(UdpClient, u16)> = questions
        .iter()
        .cycle()
        .take(CLIENTS)
        .map(|question| {
            let (client, id) = (UdpClient::new(server.address()), next_id());
            client.send(&question.to_wire(id));
            (client, id)
        })
        .collect();
    // One worker takes questions in in order: when this one is answered, all before it are waiting.
    assert!(UdpClient::new(server.address()).ask(&question("blocked.example.org", "A")).is_zero());
    let asked = upstream.hear();
    upstream.answer(&asked, RIGHT);
    let mut answered = HashSet::new();
    for (client, id) in &clients {
        let reply = Reply::parse(&client.receive());
        assert_eq!((reply.id, reply.data()), (*id, vec!["A 192.0.2.1".to_owned()]));
        answered.insert(reply.question_wire().to_vec());
    }
    assert_eq!(answered.len(), 3, "each client gets its own letter case back");
    assert!(upstream.is_not_asked());
    let counts = server.stop();
    let expected =
        [("exchanges", 1), ("exchanges_shared", CLIENTS as u64 - 1), ("upstream_sends", 1), ("cache_hits", 0)];
    for (name, count) in expected {
        assert_eq!(counts.get(name), count, "{name}: {counts:?}");
    }
}

#[test]
fn questions_that_differ_in_type_or_name_do_not_share() {
    let upstream = Upstream::new();
    let server = site(&upstream).build_and_serve();
    let client = UdpClient::new(server.address());
    for (id, (name, rtype)) in (1u16..).zip([("a.example.org", "A"), ("a.example.org", "AAAA"), ("b.example.org", "A")])
    {
        client.send(&question(name, rtype).to_wire(id));
    }
    let asked: HashSet<Vec<u8>> = (0..3).map(|_| upstream.hear().wire[12..].to_vec()).collect();
    assert_eq!(asked.len(), 3);
    server.stop();
}

#[test]
fn a_server_listens_on_ipv4_and_ipv6_with_every_worker() {
    let Some([first, second]) = two_cores() else { return };
    let upstream = Upstream::new();
    let server = site(&upstream).option("cores", &format!("\"{first},{second}\"")).build_and_serve();
    for address in server.addresses() {
        for _ in 0..CLIENTS {
            let client = UdpClient::new(address);
            assert!(client.ask(&question("blocked.example.org", "A")).is_zero());
            assert!(TcpClient::new(address).ask(&question("blocked.example.org", "A")).is_zero());
        }
    }
    let addresses = server.addresses().len() as u64;
    let counts = server.stop();
    assert_eq!(counts.get("blocked") + counts.get("cache_hits"), 2 * addresses * CLIENTS as u64, "{counts:?}");
}

#[test]
fn a_reload_reaches_every_worker() {
    let Some([first, second]) = two_cores() else { return };
    let upstream = Upstream::new();
    let site = Site::new()
        .list("rules", "adblock", "", "||blocked.example.org^\n")
        .option("cores", &format!("[{first}, {second}]"));
    let site = site.upstream(&[upstream.address()]);
    let server = site.build_and_serve();
    site.write("rules", "||blocked.example.org^\n||turning.example.org^\n");
    site.build();
    assert!(server.reload().contains("reloaded"));
    for _ in 0..CLIENTS {
        assert!(UdpClient::new(server.address()).ask(&question("turning.example.org", "A")).is_zero());
        assert!(TcpClient::new(server.address()).ask(&question("turning.example.org", "A")).is_zero());
    }
    assert_eq!(server.stop().get("upstream_sends"), 0);
}
