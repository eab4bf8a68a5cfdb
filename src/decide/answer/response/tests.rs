//! Tests of reading upstream messages, which are written as zone file lines and composed by the `domain` crate.

use domain::base::iana::{Class, Rtype};
use domain::base::message_builder::{MessageBuilder, TreeCompressor};
use domain::zonefile::inplace::{Entry as ZoneEntry, Zonefile};

use super::*;
use crate::decide::wire::{rcode, rtype};
use crate::limits::{ANSWER_RECORDS_MAX, EDNS_OPTIONS_MAX};

/// A compressed response to `name` `qtype` with the records of answer and authority section.
fn response(name: &str, qtype: u16, answer: &str, authority: &str) -> Vec<u8> {
    let records = |text: &str| {
        let zone = Zonefile::load(&mut format!("$ORIGIN .\n{text}\n").as_bytes()).unwrap();
        zone.map(|entry| match entry.unwrap() {
            ZoneEntry::Record(record) => record,
            other => panic!("{other:?}"),
        })
        .collect::<Vec<_>>()
    };
    let mut builder = MessageBuilder::from_target(TreeCompressor::new(Vec::new())).unwrap();
    builder.header_mut().set_qr(true);
    let mut builder = builder.question();
    let name: domain::base::Name<Vec<u8>> = name.parse().unwrap();
    builder.push((name, Rtype::from_int(qtype), Class::IN)).unwrap();
    let mut builder = builder.answer();
    records(answer).into_iter().for_each(|record| builder.push(record).unwrap());
    let mut builder = builder.authority();
    records(authority).into_iter().for_each(|record| builder.push(record).unwrap());
    builder.finish().into_target()
}

/// What is kept, one `owner TTL type` a record, `!` before those of the authority section.
fn kept(name: &str, qtype: u16, answer: &str, authority: &str, dnssec_ok: bool) -> Vec<String> {
    let mut kept = Answer::new();
    let asked = Name::from_text(name).unwrap();
    kept.append_response(&response(name, qtype, answer, authority), &asked, qtype, dnssec_ok).unwrap();
    lines(&kept)
}

fn lines(answer: &Answer) -> Vec<String> {
    let line = |record: super::super::Record<'_>| {
        let mark = if record.section == Section::Authority { "!" } else { "" };
        format!("{mark}{} {} {}", Name::from_wire(record.owner).unwrap(), record.ttl_s, Rtype::from_int(record.rtype))
    };
    answer.records().map(line).collect()
}

const SOA: &str = "example. 300 IN SOA ns.example. admin.example. 1 2 3 4 60\n";

fn signature(owner: &str, covered: &str) -> String {
    format!("{owner} 300 IN RRSIG {covered} 8 2 300 20300101000000 20200101000000 1 example. AAAA\n")
}

#[test]
fn the_chain_is_kept_in_its_order_and_nothing_else() {
    let answer = "\
        b.example. 20 IN CNAME c.example.\n\
        other.example. 9 IN A 192.0.2.9\n\
        c.example. 30 IN A 192.0.2.1\n\
        c.example. 30 IN AAAA ::1\n\
        A.Example. 10 IN CNAME b.example.\n\
        c.example. 30 IN A 192.0.2.2\n\
        d.example. 30 IN CNAME c.example.\n";
    let expected = ["a.example 10 CNAME", "b.example 20 CNAME", "c.example 30 A", "c.example 30 A"];
    assert_eq!(kept("a.example", rtype::A, answer, "", false), expected);
    assert_eq!(kept("a.example", rtype::A, answer, &format!("{SOA}example. 60 IN NS ns.example."), false), expected);
    assert_eq!(kept("a.example", rtype::CNAME, answer, "", false), expected[..1]);
    assert_eq!(kept("c.example", rtype::ANY, answer, "", false).len(), 3);
    assert_eq!(kept("none.example", rtype::A, answer, "", false), [""; 0]);
}

#[test]
fn other_classes_are_passed_over() {
    let mut message = response("a.example", rtype::A, "a.example. 30 IN A 192.0.2.1\n", "");
    let class_at = HEADER_BYTES + 11 + 4 + 2 + 2;
    assert_eq!(message[class_at..class_at + 2], [0, 1]);
    message[class_at + 1] = 3;
    let mut answer = Answer::new();
    answer.append_response(&message, &Name::from_text("a.example").unwrap(), rtype::A, true).unwrap();
    assert!(answer.is_empty());
}

#[test]
fn names_are_expanded_with_their_case_and_owners_lowered() {
    let text = "Www.Example. 30 IN MX 10 MaiL.Www.Example.\n";
    let mut answer = Answer::new();
    let message = response("Www.Example", rtype::MX, text, "");
    answer.append_response(&message, &Name::from_text("www.example").unwrap(), rtype::MX, false).unwrap();
    let record = answer.records().next().unwrap();
    assert_eq!(record.owner, b"\x03www\x07example\0");
    assert_eq!(record.rdata, b"\0\x0a\x04MaiL\x03Www\x07Example\0");
}

#[test]
fn a_dname_is_kept_with_the_cname_made_from_it() {
    let dname = "sub.example. 50 IN DNAME other.example.\n";
    let made = "x.y.sub.example. 50 IN CNAME x.y.other.example.\n";
    let end = "x.y.other.example. 30 IN A 192.0.2.1\n";
    let all = [dname, made, end].concat();
    let expected = ["sub.example 50 DNAME", "x.y.sub.example 50 CNAME", "x.y.other.example 30 A"];
    assert_eq!(kept("x.y.sub.example", rtype::A, &all, "", false), expected);
    assert_eq!(kept("x.y.sub.example", rtype::CNAME, &all, "", false), expected[..2]);
    let forged = all.replace("CNAME x.y.other", "CNAME x.z.other");
    assert_eq!(kept("x.y.sub.example", rtype::A, &forged, "", false), ["x.y.sub.example 50 CNAME"]);
}

#[test]
fn signatures_and_proofs_are_kept_only_for_those_who_ask() {
    let answer = [
        "a.example. 10 IN CNAME b.example.\n",
        &signature("a.example.", "CNAME"),
        &signature("a.example.", "TXT"),
        "b.example. 10 IN A 192.0.2.1\n",
        &signature("b.example.", "A"),
        &signature("c.example.", "A"),
    ]
    .concat();
    let authority = ["example. 60 IN NSEC a.example. A NS\n", &signature("example.", "NSEC"), SOA].concat();
    let plain = ["a.example 10 CNAME", "b.example 10 A"];
    assert_eq!(kept("a.example", rtype::A, &answer, &authority, false), plain);
    let signed = [
        "a.example 10 CNAME",
        "a.example 300 RRSIG",
        "b.example 10 A",
        "b.example 300 RRSIG",
        "!example 60 NSEC",
        "!example 300 RRSIG",
    ];
    assert_eq!(kept("a.example", rtype::A, &answer, &authority, true), signed);
    let asked = kept("a.example", rtype::RRSIG, &signature("a.example.", "TXT"), "", false);
    assert_eq!(asked, ["a.example 300 RRSIG"], "signatures asked for are data");
}

#[test]
fn a_denial_keeps_the_soa_of_a_zone_that_holds_the_name() {
    let signed = [SOA, &signature("example.", "SOA")].concat();
    assert_eq!(kept("x.example", rtype::A, "", &signed, false), ["!example 300 SOA"]);
    assert_eq!(kept("x.example", rtype::A, "", &signed, true), ["!example 300 SOA", "!example 300 RRSIG"]);
    assert_eq!(kept("example", rtype::A, "", SOA, false), ["!example 300 SOA"]);
    assert_eq!(kept("x.other", rtype::A, "", SOA, false), [""; 0]);
    assert_eq!(kept("xexample", rtype::A, "", SOA, false), [""; 0]);
    let link = "a.other. 10 IN CNAME b.example.\n";
    assert_eq!(kept("a.other", rtype::A, link, SOA, false), ["a.other 10 CNAME", "!example 300 SOA"]);
}

#[test]
fn a_ttl_with_its_top_bit_set_is_zero() {
    let mut message = response("a.example", rtype::A, "a.example. 30 IN A 192.0.2.1\n", "");
    let ttl_at = message.len() - 4 - 2 - 4;
    let mut answer = Answer::new();
    let name = Name::from_text("a.example").unwrap();
    for (top, ttl_s) in [(0x80, 0), (0xff, 0), (0x7f, 0x7f00_001e)] {
        message[ttl_at] = top;
        answer.clear();
        answer.append_response(&message, &name, rtype::A, false).unwrap();
        assert_eq!(answer.ttl_s_min(), Some(ttl_s));
    }
}

#[test]
fn loops_and_long_chains_are_refused_and_leave_the_answer_as_it_was() {
    let chain = |links: usize| {
        let link = |at: usize| format!("n{at}.example. 9 IN CNAME n{}.example.\n", at + 1);
        let text: String = (0..links).map(link).collect();
        response("n0.example", rtype::A, &text, "")
    };
    let name = Name::from_text("n0.example").unwrap();
    let mut answer = Answer::new();
    answer.append_response(&chain(CHAIN_LINKS_MAX), &name, rtype::A, false).unwrap();
    assert_eq!(lines(&answer).len(), CHAIN_LINKS_MAX);

    answer.clear();
    answer.push(Section::Answer, &Name::from_text("alias.example").unwrap(), 5, 1, 60, name.as_wire()).unwrap();
    let before = lines(&answer);
    let too_long = answer.append_response(&chain(CHAIN_LINKS_MAX), &name, rtype::A, false);
    assert_eq!((too_long, lines(&answer)), (Err(ResponseError::ChainTooLong), before), "an alias is a link too");

    let text = "a.example. 9 IN CNAME b.example.\nb.example. 9 IN CNAME a.example.\n";
    let message = response("a.example", rtype::A, text, "");
    let name = Name::from_text("a.example").unwrap();
    assert_eq!(answer.append_response(&message, &name, rtype::A, false), Err(ResponseError::ChainTooLong));
}

#[test]
fn a_chain_can_be_read_and_cut() {
    let answer = [
        "sub.example. 9 IN DNAME b.example.\n",
        "a.sub.example. 10 IN CNAME a.b.example.\n",
        &signature("a.sub.example.", "CNAME"),
        "a.b.example. 20 IN CNAME c.example.\n",
        "c.example. 30 IN A 192.0.2.1\n",
    ]
    .concat();
    let name = Name::from_text("a.sub.example").unwrap();
    let message = response("a.sub.example", rtype::A, &answer, SOA);
    let read = || {
        let mut answer = Answer::new();
        answer.append_response(&message, &name, rtype::A, true).unwrap();
        answer
    };
    let target = |index| read().chain_target(index).map(|(target, ttl_s)| (target.to_string(), ttl_s));
    assert_eq!(target(0), Some(("a.b.example".into(), 10)));
    assert_eq!(target(1), Some(("c.example".into(), 20)));
    assert_eq!(target(2), None);
    let cut = |links| {
        let mut answer = read();
        answer.cut_chain(links);
        lines(&answer)
    };
    let all = ["sub.example 9 DNAME", "a.sub.example 10 CNAME", "a.sub.example 300 RRSIG", "a.b.example 20 CNAME"];
    assert_eq!(cut(0), [""; 0]);
    assert_eq!(cut(1), all[..3]);
    assert_eq!(cut(2), all);
    assert_eq!(cut(9), all, "data goes also when the chain is shorter");
}

#[test]
fn answers_beyond_the_bounds_are_too_large() {
    let name = Name::from_text("a.example").unwrap();
    let line = |at: usize| format!("a.example. 9 IN A 10.0.{}.{}\n", at >> 8, at & 255);
    for (records, result) in [(ANSWER_RECORDS_MAX, Ok(())), (ANSWER_RECORDS_MAX + 1, Err(ResponseError::TooLarge))] {
        let message = response("a.example", rtype::A, &(0..records).map(line).collect::<String>(), "");
        assert_eq!(Answer::new().append_response(&message, &name, rtype::A, false), result);
    }
    let mut answer = Answer::new();
    let rdata = [0; 60_000];
    answer.push(Section::Answer, &name, 99, 1, 1, &rdata).unwrap();
    assert_eq!(answer.push(Section::Answer, &name, 99, 1, 1, &rdata), Err(AnswerFull));
    assert_eq!(answer.records().count(), 1);
}

#[test]
fn rdata_that_is_not_what_its_type_says_is_malformed() {
    for (text, qtype) in [
        ("a.example. 9 IN A 192.0.2.1\n", rtype::A),
        ("a.example. 9 IN CNAME b.c.\n", rtype::CNAME),
        ("a.example. 9 IN MX 10 b.c.\n", rtype::MX),
        ("a.example. 9 IN SRV 1 2 3 b.c.\n", rtype::SRV),
        ("a.example. 9 IN NAPTR 1 2 \"a\" \"b\" \"c\" b.c.\n", rtype::NAPTR),
    ] {
        let name = Name::from_text("a.example").unwrap();
        let whole = response("a.example", qtype, text, "");
        Answer::new().append_response(&whole, &name, qtype, false).unwrap();
        let length_at = HEADER_BYTES + 11 + 4 + 2 + 8;
        let mut short = whole.clone();
        short.pop();
        short[length_at + 1] -= 1;
        let mut long = whole.clone();
        long.push(0);
        long[length_at + 1] += 1;
        for message in [short, long] {
            let result = Answer::new().append_response(&message, &name, qtype, false);
            assert_eq!(result, Err(ResponseError::Malformed), "{text}");
            // And so early that the wait for the true answer goes on.
            let head = response_head(&message, name.as_wire(), qtype, CLASS_IN);
            assert_eq!(head, Err(ResponseError::Malformed), "{text}");
        }
    }
}

#[test]
fn a_response_with_a_name_that_cannot_be_read_is_malformed() {
    let whole =
        response("a.example", rtype::A, "a.example. 9 IN CNAME b.example.\n", "b.example. 9 IN NS c.example.\n");
    let asked = Name::from_text("a.example").unwrap();
    let head = |message: &[u8]| response_head(message, asked.as_wire(), rtype::A, CLASS_IN);
    assert!(head(&whole).is_ok());
    // Each pointer in turn leads to itself.
    let pointers: Vec<usize> = (HEADER_BYTES + 15..whole.len()).filter(|&at| whole[at] == 0xc0).collect();
    assert_eq!(pointers.len(), 4, "two owners and two names in data");
    for at in pointers {
        let mut message = whole.clone();
        message[at + 1] = at as u8;
        assert_eq!(head(&message), Err(ResponseError::Malformed), "{at}");
    }
}

const ASKED: &[u8] = b"\x01A\x07example\0";

#[test]
fn a_head_is_taken_only_from_a_response_to_exactly_our_question() {
    let whole = response("A.example", rtype::A, "a.example. 30 IN A 192.0.2.1\n", "");
    let head = response_head(&whole, ASKED, rtype::A, CLASS_IN).unwrap();
    assert_eq!((head.truncated, head.rcode, head.authentic_data, head.is_referral), (false, 0, false, false));
    let refused = |message: &[u8]| response_head(message, ASKED, rtype::A, CLASS_IN) == Err(ResponseError::Malformed);
    for (at, octet) in [(2, 0x00), (2, 0x88), (5, 0), (5, 2), (13, b'b'), (12, 2), (23, 2), (24, 28), (26, 3)] {
        let mut message = whole.clone();
        assert_ne!(message[at], octet, "{at}");
        message[at] = octet;
        assert!(refused(&message), "{at}");
    }
    for end in 0..whole.len() {
        assert!(refused(&whole[..end]), "{end}");
    }
    // An error without the question that it answers could come from anyone.
    let mut bare = whole[..HEADER_BYTES].to_vec();
    bare[3] |= rcode::FORMERR as u8;
    bare[4..12].fill(0);
    assert!(refused(&bare));
}

#[test]
fn a_truncated_response_may_end_anywhere_behind_its_question() {
    let mut message = response("A.example", rtype::A, "a.example. 30 IN A 192.0.2.1\n", "");
    message[2] |= 0x02;
    for end in 0..message.len() {
        let head = response_head(&message[..end], ASKED, rtype::A, CLASS_IN);
        assert_eq!(head.is_ok(), end >= HEADER_BYTES + ASKED.len() + 4, "{end}");
        assert!(head.is_err() || head.unwrap().truncated);
    }
}

#[test]
fn the_rcode_has_its_upper_bits_in_opt() {
    let mut message = response("A.example", rtype::A, "", "");
    message[3] = 0x80 | 0x20 | 0x07;
    message[11] = 1;
    let opt = b"\0\0\x29\x04\xd0\x01\0\0\0\0\0";
    let whole = [message.as_slice(), opt].concat();
    let head = response_head(&whole, ASKED, rtype::A, CLASS_IN).unwrap();
    assert_eq!((head.rcode, head.authentic_data), (0x17, true));
    message[11] = 2;
    let twice = [message.as_slice(), opt, opt].concat();
    assert_eq!(response_head(&twice, ASKED, rtype::A, CLASS_IN), Err(ResponseError::Malformed));
}

#[test]
fn another_letter_case_is_told() {
    let case =
        |name: &str| response_head(&response(name, rtype::A, "", ""), ASKED, rtype::A, CLASS_IN).unwrap().letter_case;
    assert_eq!(case("A.example"), LetterCase::Kept);
    assert_eq!(case("a.example"), LetterCase::Changed);
    assert_eq!(case("A.exaMple"), LetterCase::Changed);
}

/// An answer with these options in its OPT record.
fn with_options(options: &[u8]) -> Vec<u8> {
    let mut message = response("A.example", rtype::A, "", "");
    message[11] = 1;
    let opt = [b"\0\0\x29\x04\xd0\0\0\0\0".as_slice(), &(options.len() as u16).to_be_bytes(), options].concat();
    [message, opt].concat()
}

#[test]
fn the_first_cookie_and_the_first_subnet_are_read() {
    let cookie = b"\0\x0a\0\x10clientckserver01".as_slice();
    let subnet = b"\0\x08\0\x07\0\x01\x18\x10\xc0\0\x02".as_slice();
    let other = b"\0\x03\0\x02ns".as_slice();
    let head = |options: &[&[u8]]| response_head(&with_options(&options.concat()), ASKED, rtype::A, CLASS_IN).unwrap();
    let all = head(&[other, cookie, subnet]);
    assert_eq!(all.cookie, CookieSeen::Read(Cookie::read(b"clientckserver01").unwrap()));
    assert_eq!(all.subnet, SubnetSeen::Read(ClientSubnet::from_query(b"\0\x01\x18\0\xc0\0\x02").unwrap(), 16));
    assert_eq!(head(&[cookie, b"\0\x0a\0\x08guessed!"]).cookie, all.cookie);
    assert_eq!(head(&[subnet, b"\0\x08\0\x04\0\x01\0\0"]).subnet, all.subnet);
    let none = head(&[other]);
    assert_eq!((none.cookie, none.subnet), (CookieSeen::None, SubnetSeen::None));
    let malformed = head(&[b"\0\x0a\0\x03abc", b"\0\x08\0\x01\0", cookie, subnet]);
    assert_eq!((malformed.cookie, malformed.subnet), (CookieSeen::Malformed, SubnetSeen::Malformed));
}

#[test]
fn an_answer_with_broken_or_too_many_options_is_none() {
    let options = b"\0\x0a\0\x10clientckserver01\0\x08\0\x07\0\x01\x18\x10\xc0\0\x02";
    for end in 0..=options.len() {
        let head = response_head(&with_options(&options[..end]), ASKED, rtype::A, CLASS_IN);
        assert_eq!(head.is_ok(), [0, 20, options.len()].contains(&end), "{end}");
    }
    let option = b"\xff\xf0\0\0";
    for (count, is_taken) in [(EDNS_OPTIONS_MAX, true), (EDNS_OPTIONS_MAX + 1, false)] {
        let head = response_head(&with_options(&option.repeat(count)), ASKED, rtype::A, CLASS_IN);
        assert_eq!(head.is_ok(), is_taken);
    }
}

#[test]
fn a_referral_is_told_from_nodata() {
    let is_referral = |authority: &str, flags: [u8; 2]| {
        let mut message = response("A.example", rtype::A, "", authority);
        message[2] |= flags[0];
        message[3] |= flags[1];
        response_head(&message, ASKED, rtype::A, CLASS_IN).unwrap().is_referral
    };
    let ns = "example. 30 IN NS ns.example.\n";
    let soa = "example. 30 IN SOA ns.example. root.example. 1 2 3 4 5\n";
    assert!(is_referral(ns, [0, 0]));
    assert!(!is_referral(soa, [0, 0]), "NODATA");
    assert!(!is_referral("", [0, 0]), "NODATA without SOA (RFC 2308 §2.2, type 3)");
    assert!(!is_referral(ns, [0x04, 0]), "from who knows the name");
    assert!(!is_referral(ns, [0, 0x80]), "from who has asked for us");
    assert!(!is_referral(&format!("{ns}{soa}"), [0, 0]));
}
