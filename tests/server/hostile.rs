//! Whatever is sent, at most one reply comes back and the server goes on.

use std::fs;

use crate::client::{TcpClient, UdpClient, framed, next_id, question};
use crate::corewall::{Server, Site};
use crate::real_data;
use crate::upstream::Upstream;

/// Without an upstream every question is answered at once: replies come in the order of the questions.
fn server() -> Server {
    let rules = "||blocked.example.org^\n/^ads?[0-9]+\\./\n";
    Site::new().list("rules", "adblock", "", rules).toml(RECORD).build_and_serve()
}

const RECORD: &str = "[[record]]\nname = \"local.example.org\"\ntype = \"A\"\ndata = \"192.0.2.10\"";

/// Messages with everything in them that a query may have.
fn queries() -> Vec<Vec<u8>> {
    let longest = [&*"a".repeat(63), &"b".repeat(63), &"c".repeat(63), &"d".repeat(61)].join(".");
    let names = ["blocked.example.org", "local.example.org", "ads7.example.org", "nobody.example.org", &longest, "."];
    let mut queries: Vec<Vec<u8>> = names.iter().map(|name| question(name, "A").to_wire(0x1234)).collect();
    queries.push(question("blocked.example.org", "TXT").edns(None).to_wire(0x1234));
    // A cookie, a client subnet and padding.
    let mut options = question("blocked.example.org", "HTTPS").to_wire(0x1234);
    let octets = b"\0\x0a\0\x08COOKIE!!\0\x08\0\x07\0\x01\x18\0\xc0\0\x02\0\x0c\0\x04\0\0\0\0";
    options.extend_from_slice(octets);
    let length_at = options.len() - octets.len() - 2;
    options[length_at..][..2].copy_from_slice(&(octets.len() as u16).to_be_bytes());
    queries.push(options);
    queries
}

/// Sends a message and checks what comes back.
fn check(client: &UdpClient, message: &[u8]) {
    check_replies(message, &client.replies_to(message));
}

fn check_replies(message: &[u8], replies: &[Vec<u8>]) {
    // A response is never answered, nor is what has no whole header; everything else is, once.
    let is_query = message.len() >= 12 && message[2] & 0x80 == 0;
    assert_eq!(replies.len(), usize::from(is_query), "replies to {message:02x?}: {replies:02x?}");
    let [reply] = replies else { return };
    assert_eq!(reply[..2], message[..2], "the id of {message:02x?}");
    assert_eq!(reply[2] & 0xf8, 0x80 | message[2] & 0x78, "QR and opcode of {message:02x?}");
    assert_eq!(reply[2] & 0x04, 0, "AA in the reply to {message:02x?}");
    assert!(
        domain::base::Message::from_octets(&reply[..]).is_ok_and(|reply| reply.iter().all(|record| record.is_ok()))
    );
}

#[test]
fn every_truncation_of_a_query_gets_at_most_one_reply() {
    let mut server = server();
    let client = UdpClient::new(server.address());
    for query in queries() {
        for bytes in 0..=query.len() {
            check(&client, &query[..bytes]);
        }
    }
    assert!(server.is_running());
    server.stop();
}

#[test]
fn every_bit_flip_of_a_query_gets_at_most_one_reply() {
    let mut server = server();
    let client = UdpClient::new(server.address());
    for query in queries() {
        for bit in 0..8 * query.len() {
            let mut flipped = query.clone();
            flipped[bit / 8] ^= 0x80 >> (bit % 8);
            check(&client, &flipped);
        }
    }
    assert!(server.is_running());
    server.stop();
}

#[test]
fn trailing_octets_and_oversize_datagrams_get_at_most_one_reply() {
    let server = server();
    let client = UdpClient::new(server.address());
    for query in queries() {
        for bytes in [query.len() + 1, 512, 1_233, 4_095, 4_096, 4_097, 9_000, 65_507] {
            let mut long = query.clone();
            long.resize(bytes.max(long.len()), 0x55);
            check(&client, &long);
        }
    }
    server.stop();
}

/// The packets of the corpus.
fn packets() -> Option<Vec<Vec<u8>>> {
    let table = fs::read_to_string(real_data::folder("packets-dev")?.join("packets-dev.tsv")).unwrap();
    let rows = table.lines().filter(|line| !line.starts_with('#'));
    let packets: Vec<Vec<u8>> = rows.map(|row| from_hex(row.rsplit('\t').next().unwrap())).collect();
    assert!(packets.len() > 9_000, "{} packets", packets.len());
    Some(packets)
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().map(|digit| digit.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

#[test]
fn every_packet_of_the_corpus_is_survived_and_no_response_answered() {
    let Some(packets) = packets() else { return };
    let mut server = server();
    let client = UdpClient::new(server.address());
    // Longer ones are no datagrams.
    for packet in packets.iter().filter(|packet| packet.len() <= 65_507) {
        check(&client, packet);
    }
    assert!(server.is_running());
    server.stop();
}

#[test]
fn every_packet_of_the_corpus_is_survived_over_tcp() {
    let Some(packets) = packets() else { return };
    let mut server = server();
    let mut client = TcpClient::new(server.address());
    for packet in packets.iter().filter(|packet| packet.len() <= 65_535) {
        let mut id = next_id();
        if packet.starts_with(&id.to_be_bytes()) {
            id = next_id();
        }
        client.send(&[framed(packet), framed(&question("localhost", "A").to_wire(id))].concat());
        let receive = || client.receive().expect("the connection was closed");
        let replies: Vec<_> =
            std::iter::repeat_with(receive).take_while(|reply| !reply.starts_with(&id.to_be_bytes())).collect();
        check_replies(packet, &replies);
    }
    assert!(server.is_running());
    server.stop();
}

#[test]
fn an_upstream_may_say_anything_before_the_answer() {
    let Some(packets) = packets() else { return };
    let upstream = Upstream::new();
    let mut server = Site::new().list("none", "plain", "", "").upstream(&[upstream.address()]).build_and_serve();
    let client = UdpClient::new(server.address());
    for (number, packet) in packets.iter().filter(|packet| (2..=65_507).contains(&packet.len())).enumerate() {
        let name = format!("n{number}.example.org");
        let id = next_id();
        client.send(&question(&name, "A").to_wire(id));
        let asked = upstream.hear();
        let mut hostile = packet.clone();
        hostile[..2].copy_from_slice(&asked.wire[..2]);
        upstream.say(&asked, &hostile);
        upstream.answer(&asked, [192, 0, 2, 1]);
        let reply = crate::client::Reply::parse(&client.receive());
        assert_eq!((reply.id, reply.data()), (id, vec!["A 192.0.2.1".to_owned()]), "after {packet:02x?}");
    }
    assert!(server.is_running());
    server.stop();
}
