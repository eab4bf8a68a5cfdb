//! Tests of composing and writing replies; that `domain` reads them back is shown in `tests/hostile.rs`.

use corewall_sharding::name::Name;

use super::*;
use crate::decide::question::{Edns, Rejection, parse};

const HEAD: ReplyHead<'static> = ReplyHead { rcode: 0, authentic_data: false, ede: None, scope_bits: None };

fn question(edns: Option<Edns>) -> Question {
    let mut question = Question::EMPTY;
    question.name = Name::from_text("www.example").unwrap();
    question.asked[..13].copy_from_slice(b"\x03WwW\x07eXamPle\0");
    (question.id, question.qtype, question.qclass, question.edns) = (0xabcd, rtype::A, 1, edns);
    question
}

fn edns(payload_bytes: u16) -> Option<Edns> {
    Some(Edns { payload_bytes, dnssec_ok: false })
}

fn body(question: &Question, records: usize) -> Body {
    let mut answer = Answer::new();
    for index in 0..records {
        answer.push(Section::Answer, &question.name, rtype::A, 1, 60, &[10, 0, 0, index as u8]).unwrap();
    }
    let mut body = Body::new();
    body.compose(question, &answer);
    body
}

fn written(question: &Question, transport: Transport, head: ReplyHead<'_>, body: &Body) -> Vec<u8> {
    let mut out = vec![0xee; 65_535];
    let bytes = write(question, transport, head, body, &mut out);
    assert!(out[bytes..].iter().all(|octet| *octet == 0xee), "nothing is written behind the reply");
    out.truncate(bytes);
    out
}

fn is_truncated(reply: &[u8]) -> bool {
    reply[2] & 0x02 != 0
}

#[test]
fn a_reply_is_written_octet_for_octet_as_expected() {
    let mut question = question(None);
    question.recursion_desired = true;
    question.checking_disabled = true;
    let reply = written(&question, Transport::Udp, HEAD, &body(&question, 1));
    let expected = b"\xab\xcd\x81\x90\0\x01\0\x01\0\0\0\0\x03WwW\x07eXamPle\0\0\x01\0\x01\
        \xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\0";
    assert_eq!(reply, expected);
    question.edns = Some(Edns { payload_bytes: 1232, dnssec_ok: true });
    let ede = Some(Ede { code: 15, text: "ads" });
    let reply = written(&question, Transport::Udp, ReplyHead { ede, rcode: 0x123, ..HEAD }, &body(&question, 0));
    let expected = b"\xab\xcd\x81\x93\0\x01\0\0\0\0\0\x01\x03WwW\x07eXamPle\0\0\x01\0\x01\
        \0\0\x29\x04\xd0\x12\0\x80\0\0\x09\0\x0f\0\x05\0\x0fads";
    assert_eq!(reply, expected);
}

#[test]
fn the_idle_time_of_a_connection_is_told_behind_an_error_and_only_with_edns() {
    let mut question = question(edns(1232));
    question.keepalive = Some(300);
    let reply = written(&question, Transport::Tcp, HEAD, &body(&question, 0));
    assert!(reply.ends_with(b"\0\0\x29\x04\xd0\0\0\0\0\0\x06\0\x0b\0\x02\x01\x2c"));
    let ede = Some(Ede { code: 15, text: "ads" });
    let reply = written(&question, Transport::Tcp, ReplyHead { ede, ..HEAD }, &body(&question, 0));
    assert!(reply.ends_with(b"\0\x0f\0\x0f\0\x05\0\x0fads\0\x0b\0\x02\x01\x2c"));
    question.edns = None;
    assert!(!written(&question, Transport::Tcp, HEAD, &body(&question, 0)).ends_with(b"\x01\x2c"));
}

#[test]
fn ad_is_told_only_to_those_who_understand_it() {
    let mut question = question(edns(1232));
    let head = ReplyHead { authentic_data: true, ..HEAD };
    let ad = |question: &Question| written(question, Transport::Udp, head, &body(question, 1))[3] & 0x20 != 0;
    assert!(!ad(&question));
    question.authentic_data = true;
    assert!(ad(&question));
    question.authentic_data = false;
    question.edns = Some(Edns { payload_bytes: 1232, dnssec_ok: true });
    assert!(ad(&question));
}

#[test]
fn a_reply_keeps_within_what_the_client_takes() {
    // Each record takes 16 octets behind 29 of header and question.
    for (transport, edns, fits) in [
        (Transport::Udp, None, (512 - 29) / 16),
        (Transport::Udp, edns(0), (512 - 29 - 11) / 16),
        (Transport::Udp, edns(800), (800 - 29 - 11) / 16),
        (Transport::Udp, edns(65_535), (1_232 - 29 - 11) / 16),
        (Transport::Tcp, None, 1_024),
        (Transport::Tcp, edns(512), 1_024),
    ] {
        let question = question(edns);
        let whole = written(&question, transport, HEAD, &body(&question, fits));
        assert!(!is_truncated(&whole));
        assert_eq!(u16::from_be_bytes([whole[6], whole[7]]), fits as u16);
        if fits < 1_024 {
            let cut = written(&question, transport, HEAD, &body(&question, fits + 1));
            assert!(is_truncated(&cut));
            assert_eq!(cut[4..12], [0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())]);
            assert_eq!(cut.len(), 29 + if edns.is_some() { OPT_BYTES_MIN } else { 0 });
        }
    }
}

#[test]
fn the_text_of_an_error_goes_before_the_records_do() {
    let question = question(edns(512));
    let ede = Some(Ede { code: 15, text: "list of advertisers" });
    let head = ReplyHead { ede, ..HEAD };
    let room = 512 - 29 - OPT_BYTES_MIN - EDE_FIXED_BYTES;
    let whole = written(&question, Transport::Udp, head, &body(&question, room / 16));
    assert!(!is_truncated(&whole) && whole.ends_with(b"\0\x06\0\x0f\0\x02\0\x0f"));
    let cut = written(&question, Transport::Udp, head, &body(&question, room / 16 + 1));
    assert!(is_truncated(&cut) && cut.ends_with(b"advertisers"), "without records there is room for the text again");
}

#[test]
fn a_cookie_and_a_subnet_are_given_to_those_who_sent_one() {
    let mut question = question(edns(1232));
    question.subnet = ClientSubnet::from_query(b"\0\x01\x20\0\xc0\0\x02\x07").ok();
    let plain = written(&question, Transport::Udp, HEAD, &body(&question, 0));
    assert!(plain.ends_with(b"\0\0\0\0"), "where subnets are passed over none is answered");
    question.cookie = Cookie::read(b"clientckserver01").ok();
    let ede = Some(Ede { code: 15, text: "ads" });
    let head = ReplyHead { scope_bits: Some(24), ede, ..HEAD };
    let reply = written(&question, Transport::Udp, head, &body(&question, 1));
    let options = b"\0\x29\x04\xd0\0\0\0\0\0\x29\0\x0a\0\x10clientckserver01\0\x08\0\x08\0\x01\x20\x18\xc0\0\x02\x07\0\x0f\0\x05\0\x0fads";
    assert!(reply.ends_with(options));
    question.subnet = None;
    assert!(written(&question, Transport::Udp, head, &body(&question, 0)).ends_with(b"server01\0\x0f\0\x05\0\x0fads"));
    question.edns = None;
    assert_eq!(written(&question, Transport::Udp, head, &body(&question, 0)).len(), 29);
}

#[test]
fn options_count_towards_the_size_of_a_reply() {
    let mut question = question(edns(512));
    question.subnet = ClientSubnet::from_query(b"\0\x01\x20\0\xc0\0\x02\x07").ok();
    question.cookie = Cookie::read(b"clientckserver01").ok();
    let head = ReplyHead { scope_bits: Some(0), ..HEAD };
    let fits = (512 - 29 - OPT_BYTES_MIN - 20 - 12) / 16;
    assert!(!is_truncated(&written(&question, Transport::Udp, head, &body(&question, fits))));
    let cut = written(&question, Transport::Udp, head, &body(&question, fits + 1));
    assert!(is_truncated(&cut) && cut.len() == 29 + OPT_BYTES_MIN + 20 + 12);
}

#[test]
fn a_client_without_edns_gets_no_opt_and_no_extended_rcode() {
    let question = question(None);
    let ede = Some(Ede { code: 15, text: "" });
    let reply = written(&question, Transport::Udp, ReplyHead { rcode: 23, ede, ..HEAD }, &body(&question, 0));
    assert_eq!((reply.len(), reply[3] & 0x0f, reply[11]), (29, rcode::SERVFAIL as u8, 0));
}

#[test]
fn an_answer_that_no_message_holds_is_truncated() {
    let question = question(None);
    let mut answer = Answer::new();
    let owner = Name::from_text("other.name").unwrap();
    for _ in 0..3 {
        answer.push(Section::Answer, &owner, 99, 1, 60, &[0; 30_000]).unwrap();
    }
    let mut body = Body::new();
    body.compose(&question, &answer);
    assert!(body.is_too_large() && body.as_wire().is_empty() && body.ttl_places().is_empty());
    assert!(is_truncated(&written(&question, Transport::Tcp, HEAD, &body)));
    answer.clear();
    body.compose(&question, &answer);
    assert!(!body.is_too_large() && !is_truncated(&written(&question, Transport::Tcp, HEAD, &body)));
}

#[test]
fn chains_and_zones_are_compressed() {
    let question = question(None);
    let name = |text| Name::from_text(text).unwrap();
    let mut answer = Answer::new();
    let target = name("cdn.Example.net");
    answer.push(Section::Answer, &question.name, rtype::CNAME, 1, 60, target.as_wire()).unwrap();
    answer.push(Section::Answer, &target, rtype::A, 1, 60, &[10, 0, 0, 1]).unwrap();
    let soa = [name("ns.example.net").as_wire(), name("admin.example").as_wire(), &[0; 20]].concat();
    answer.push(Section::Authority, &name("example.net"), rtype::SOA, 1, 60, &soa).unwrap();
    let mut body = Body::new();
    body.compose(&question, &answer);
    let expected = [
        b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x11\x03cdn\x07example\x03net\0".as_slice(),
        b"\xc0\x29\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01",
        b"\xc0\x2d\0\x06\0\x01\0\0\0\x3c\0\x21\x02ns\xc0\x2d\x05admin\xc0\x10",
        &[0; 20],
    ]
    .concat();
    assert_eq!(body.as_wire(), expected);
    for place in body.ttl_places() {
        assert_eq!(body.as_wire()[usize::from(*place)..][..4], [0, 0, 0, 0x3c]);
    }
}

#[test]
fn rdata_that_is_no_name_goes_out_as_it_stands() {
    let question = question(None);
    let mut answer = Answer::new();
    answer.push(Section::Answer, &question.name, rtype::CNAME, 1, 60, b"\x07cut").unwrap();
    answer.push(Section::Answer, &question.name, rtype::MX, 1, 60, b"\0").unwrap();
    let mut body = Body::new();
    body.compose(&question, &answer);
    let expected = b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x04\x07cut\xc0\x0c\0\x0f\0\x01\0\0\0\x3c\0\x01\0";
    assert_eq!(body.as_wire(), expected);
}

#[test]
fn an_error_echoes_what_was_understood() {
    let query = b"\x12\x34\x01\x10\0\x01\0\0\0\0\0\x01\x01A\0\0\x01\0\x03\0\0\x29\x04\xd0\0\0\0\0\0\0";
    let refused = |query: &[u8]| {
        let Err(Rejection::Reply(reply)) = parse(query, Transport::Udp, &mut Question::EMPTY.clone()) else { panic!() };
        let mut out = [0; 512];
        let bytes = write_error(&reply, query, &mut out);
        out[..bytes].to_vec()
    };
    let expected = b"\x12\x34\x81\x95\0\x01\0\0\0\0\0\x01\x01A\0\0\x01\0\x03\0\0\x29\x04\xd0\0\0\0\0\0\0";
    assert_eq!(refused(query), expected);
    let mut version_one = *query;
    version_one[version_one.len() - 5] = 1;
    let reply = refused(&version_one);
    assert_eq!((reply[3] & 0x0f, reply[reply.len() - 6], reply[reply.len() - 5]), (0, 1, 0), "BADVERS, version 0");
    let mut update = *query;
    update[2] = 5 << 3;
    let expected = b"\x12\x34\xa8\x14\0\0\0\0\0\0\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0";
    assert_eq!(refused(&update), expected, "EDNS is answered, the question of another opcode is not repeated");
}

#[test]
fn what_does_not_fit_the_buffer_is_not_written() {
    let question = question(edns(1232));
    let mut out = [0; 29 + OPT_BYTES_MIN];
    let empty = Body::new();
    assert_eq!(write_truncated(&question, &mut out), out.len());
    for room in 0..out.len() {
        assert_eq!(write_truncated(&question, &mut out[..room]), 0);
        assert_eq!(write(&question, Transport::Tcp, HEAD, &empty, &mut out[..room]), 0);
    }
}
