//! Hostile input: whatever the octets, the query path neither panics nor disagrees with `domain`, an independent parser.
//!
//! Every message here goes through both directions: as a query (parse, then the reply or the error that is due), and as an
//! upstream's response (head, records kept, reply composed and cached), and `domain` must be able to read what we write.

mod real_data;

use std::path::{Path, PathBuf};

use corewall::decide::answer::{Answer, Section, response_head};
use corewall::decide::cache::{self, Cache, CacheKey, EntryHead};
use corewall::decide::question::{Question, Rejection, parse};
use corewall::decide::reply::{Body, Ede, ReplyHead, write, write_error, write_truncated};
use corewall::decide::{DropReason, Now, Transport};
use corewall::limits;
use corewall_sharding::name::Name;
use domain::base::name::ToName;
use domain::base::rdata::ComposeRecordData;
use domain::base::{Message, ParsedName};
use domain::rdata::AllRecordData;

/// Whether this is the data of a client subnet option in a query (RFC 7871 §6).
fn is_subnet(data: &[u8]) -> bool {
    let &[family_hi, family, source, scope, ref address @ ..] = data else { return false };
    let bits_max = match (family_hi, family) {
        (0, 0) => 0,
        (0, 1) => 32,
        (0, 2) => 128,
        _ => return false,
    };
    let bits = address.iter().flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1));
    source <= bits_max
        && scope == 0
        && address.len() == usize::from(source).div_ceil(8)
        && bits.skip(usize::from(source)).all(|bit| bit == 0)
}

/// What `domain` and the rules in `decide/question.rs` make of a message.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Dropped(DropReason),
    /// Answered with this RCODE.
    Refused(u16),
    Taken {
        name: Vec<u8>,
        qtype: u16,
        qclass: u16,
        edns: Option<(u16, bool)>,
    },
}

/// Reads a query by `domain`. None where `domain` follows pointers that we only step over.
fn expected(datagram: &[u8]) -> Option<Expected> {
    const FORMERR: u16 = 1;
    let Ok(message) = Message::from_octets(datagram) else { return Some(Expected::Dropped(DropReason::Short)) };
    let (header, counts) = (message.header(), message.header_counts());
    if header.qr() {
        return Some(Expected::Dropped(DropReason::NotAQuery));
    }
    if header.opcode().to_int() != 0 {
        return Some(Expected::Refused(4));
    }
    if counts.qdcount() != 1 {
        return Some(Expected::Refused(FORMERR));
    }
    let Some(Ok(question)) = message.question().next() else { return Some(Expected::Refused(FORMERR)) };
    let starts_with_pointer = datagram.get(limits::HEADER_BYTES).is_some_and(|octet| *octet >= 0xc0);
    if question.qname().is_compressed()
        || starts_with_pointer
        || header.tc()
        || datagram.len() >= limits::DATAGRAM_BYTES_MAX
    {
        return Some(Expected::Refused(FORMERR));
    }
    let (qtype, qclass) = (question.qtype().to_int(), question.qclass().to_int());
    let others = usize::from(counts.ancount()) + usize::from(counts.nscount());
    let records = others + usize::from(counts.arcount());
    if (others > 0 && qtype != 251) || records > limits::QUERY_RECORDS_MAX {
        return Some(Expected::Refused(FORMERR));
    }
    let mut opt = None;
    for (index, record) in message.iter().enumerate() {
        let Ok((record, _)) = record else {
            // A broken record, or only a broken pointer in its owner.
            return datagram.iter().all(|octet| *octet < 0xc0).then_some(Expected::Refused(FORMERR));
        };
        if record.rtype().to_int() == 41 {
            if opt.is_some() || index < others || record.owner().is_compressed() || !record.owner().is_root() {
                return Some(Expected::Refused(FORMERR));
            }
            opt = Some(record);
        }
    }
    let mut edns = None;
    if let Some(record) = opt {
        let ttl = record.ttl().as_secs();
        if ttl >> 16 & 0xff != 0 {
            return Some(Expected::Refused(16));
        }
        let Ok(Some(record)) = record.into_record::<domain::base::opt::Opt<&[u8]>>() else {
            return Some(Expected::Refused(FORMERR));
        };
        let options: Vec<_> = record.data().iter::<domain::base::opt::UnknownOptData<_>>().collect();
        if options.len() > limits::EDNS_OPTIONS_MAX || options.iter().any(Result::is_err) {
            return Some(Expected::Refused(FORMERR));
        }
        // Of each kind the first one counts.
        let first = |code: u16| options.iter().flatten().find(|option| option.code().to_int() == code);
        let cookie = first(10).is_none_or(|cookie| matches!(cookie.data().len(), 8 | 16..=40));
        let subnet = first(8).is_none_or(|subnet| is_subnet(subnet.data()));
        if !cookie || !subnet {
            return Some(Expected::Refused(FORMERR));
        }
        edns = Some((record.class().to_int(), ttl & 0x8000 != 0));
    }
    let name = question.qname().to_vec().as_slice().to_vec();
    Some(match (qtype, qclass) {
        (251 | 252 | 249, _) => Expected::Refused(5),
        (253 | 254, _) => Expected::Refused(4),
        (255, 1) => Expected::Taken { name, qtype, qclass, edns },
        (255, _) => Expected::Refused(5),
        (0 | 41 | 128..=250, _) => Expected::Refused(FORMERR),
        (_, 1) => Expected::Taken { name, qtype, qclass, edns },
        _ => Expected::Refused(5),
    })
}

/// Buffers that live through all messages of a test, as they do in a worker.
struct Bench {
    question: Question,
    answer: Answer,
    body: Body,
    /// Without records, as in SERVFAIL and REFUSED.
    empty: Body,
    cache: Cache,
    out: Vec<u8>,
    cached: Vec<u8>,
    /// Messages that were taken, refused and dropped.
    outcomes: [usize; 3],
    responses: usize,
    records: usize,
}

impl Bench {
    fn new() -> Self {
        Self {
            question: Question::EMPTY,
            answer: Answer::new(),
            body: Body::new(),
            empty: Body::new(),
            cache: Cache::new(1 << 20, cache::Eviction::Sieve, [1, 2, 3, 4]),
            out: vec![0; limits::MESSAGE_BYTES_MAX],
            cached: vec![0; limits::MESSAGE_BYTES_MAX],
            outcomes: [0; 3],
            responses: 0,
            records: 0,
        }
    }

    /// Takes a message as a query.
    fn ask(&mut self, datagram: &[u8]) {
        let got = parse(datagram, Transport::Udp, &mut self.question);
        let want = expected(datagram);
        match got {
            Ok(()) => {
                self.outcomes[0] += 1;
                let question = &self.question;
                let taken = Expected::Taken {
                    name: question.asked[..question.name.as_wire().len()].to_vec(),
                    qtype: question.qtype,
                    qclass: question.qclass,
                    edns: question.edns.map(|edns| (edns.payload_bytes, edns.dnssec_ok)),
                };
                assert!(want.is_none_or(|want| want == taken), "{datagram:x?}: {taken:?}");
                assert_eq!(question.name.as_wire(), taken_name(&taken).to_ascii_lowercase());
                let ede = Some(Ede { code: 15, text: "a list" });
                let head = ReplyHead { rcode: 2, authentic_data: true, ede, scope_bits: Some(0) };
                for transport in [Transport::Udp, Transport::Tcp] {
                    let bytes = write(question, transport, head, &self.empty, &mut self.out);
                    check_reply(datagram, &self.out[..bytes], 1);
                }
                let bytes = write_truncated(question, &mut self.out);
                check_reply(datagram, &self.out[..bytes], 1);
            }
            Err(Rejection::Reply(reply)) => {
                self.outcomes[1] += 1;
                assert!(want.is_none_or(|want| want == Expected::Refused(reply.rcode)), "{datagram:x?}: {reply:?}");
                let bytes = write_error(&reply, datagram, &mut self.out);
                assert!(bytes <= limits::UDP_PAYLOAD_BYTES_MIN);
                check_reply(datagram, &self.out[..bytes], u16::from(reply.question_bytes > 0));
            }
            Err(Rejection::Chaos) => {
                self.outcomes[1] += 1;
                assert!(want.is_none_or(|want| want == Expected::Refused(5)), "{datagram:x?}");
                let head = ReplyHead { rcode: 5, authentic_data: false, ede: None, scope_bits: None };
                let bytes = write(&self.question, Transport::Udp, head, &self.empty, &mut self.out);
                check_reply(datagram, &self.out[..bytes], 1);
            }
            Err(Rejection::Drop(reason)) => {
                self.outcomes[2] += 1;
                assert_eq!(want, Some(Expected::Dropped(reason)));
            }
        }
    }

    /// Takes a message as an upstream's response to the question that it carries, whatever its QR bit says.
    fn respond(&mut self, message: &[u8]) {
        let mut message = message.to_vec();
        let Some(flags) = message.get_mut(2) else { return };
        *flags = *flags & 0x07 | 0x80;
        let Some(asked) = message.get(limits::HEADER_BYTES..).and_then(|rest| Name::from_wire(rest).ok()) else {
            return;
        };
        let name_bytes = asked.as_wire().len();
        let question_at = limits::HEADER_BYTES + name_bytes;
        let Some(&[t0, t1, c0, c1]) = message.get(question_at..).and_then(|rest| rest.first_chunk::<4>()) else {
            return;
        };
        self.question = Question { name: asked, qtype: u16::from_be_bytes([t0, t1]), ..Question::EMPTY };
        self.question.qclass = u16::from_be_bytes([c0, c1]);
        self.question.asked[..name_bytes].copy_from_slice(&message[limits::HEADER_BYTES..question_at]);
        let (qtype, qclass) = (self.question.qtype, self.question.qclass);
        let Ok(head) = response_head(&message, &self.question.asked[..name_bytes], qtype, qclass) else { return };
        for dnssec_ok in [false, true] {
            self.answer.clear();
            if self.answer.append_response(&message, &asked, qtype, dnssec_ok).is_err() {
                assert!(self.answer.is_empty());
                continue;
            }
            self.answer.rcode = head.rcode;
            self.responses += 1;
            self.check_composed();
        }
    }

    /// Composes the answer, has `domain` read it back, and compares the cached reply with the composed one.
    fn check_composed(&mut self) {
        let Self { question, answer, body, cache, out, cached, .. } = self;
        body.compose(question, answer);
        assert!(!body.is_too_large());
        let reply_head = ReplyHead { rcode: answer.rcode, authentic_data: false, ede: None, scope_bits: None };
        let bytes = write(question, Transport::Tcp, reply_head, body, out);
        let message = Message::from_octets(&out[..bytes]).unwrap();
        let count = |section| answer.records().filter(|record| record.section == section).count();
        let counts = message.header_counts();
        assert_eq!(usize::from(counts.ancount()), count(Section::Answer));
        assert_eq!(usize::from(counts.nscount()), count(Section::Authority));
        let kept = answer.records().filter(|record| record.section == Section::Answer);
        let kept = kept.chain(answer.records().filter(|record| record.section == Section::Authority));
        for (read, kept) in message.iter().zip(kept) {
            let (read, _) = read.unwrap();
            self.records += 1;
            assert!(read.owner().to_vec().as_slice().eq_ignore_ascii_case(kept.owner));
            assert_eq!((read.rtype().to_int(), read.class().to_int()), (kept.rtype, kept.class));
            assert_eq!(read.ttl().as_secs(), kept.ttl_s);
            // RDATA of types that we don't look into may be anything.
            let Ok(Some(read)) = read.into_record::<AllRecordData<_, ParsedName<_>>>() else { continue };
            let mut rdata = Vec::new();
            read.data().compose_rdata(&mut rdata).unwrap();
            assert!(rdata.eq_ignore_ascii_case(kept.rdata), "{:?}: {rdata:x?} {:x?}", read, kept.rdata);
        }
        let key = CacheKey {
            policy: 0,
            name: &question.name,
            qtype: question.qtype,
            qclass: question.qclass,
            dnssec_ok: false,
            checking_disabled: false,
            subnet: 0,
        };
        let entry_head = EntryHead {
            scope_bits: None,
            origin: cache::Origin::Upstream { group: 0, chain: false },
            rcode: answer.rcode,
            authentic_data: false,
            ede: None,
            rules: 1,
            by_name_alone: false,
            stored: Now(0),
            ttl_s: 60,
        };
        if cache.keep(&key, entry_head, body) {
            let entry = cache.find(&key, Now(0)).unwrap();
            let copied = cache.write_reply(entry, Now(0), question, Transport::Tcp, "", cached);
            assert!(out[..bytes] == cached[..copied]);
        }
    }

    fn take(&mut self, message: &[u8]) {
        self.ask(message);
        self.respond(message);
    }

    fn every_truncation_and_bit_flip(&mut self, message: &[u8]) {
        for end in 0..message.len() {
            self.take(&message[..end]);
        }
        let mut flipped = message.to_vec();
        for bit in 0..8 * message.len() {
            flipped[bit / 8] ^= 1 << (bit % 8);
            self.take(&flipped);
            flipped[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

fn taken_name(taken: &Expected) -> &[u8] {
    match taken {
        Expected::Taken { name, .. } => name,
        _ => &[],
    }
}

/// Whatever is sent to a client is a response to its id, with its question, that `domain` reads to the end.
fn check_reply(datagram: &[u8], reply: &[u8], questions: u16) {
    let message = Message::from_octets(reply).unwrap();
    assert!(message.header().qr() && reply[..2] == datagram[..2]);
    assert_eq!(message.header_counts().qdcount(), questions);
    for question in message.question() {
        let question = question.unwrap();
        let name = question.qname().to_vec();
        assert_eq!(datagram[limits::HEADER_BYTES..][..name.as_slice().len()], *name.as_slice());
    }
    assert!(message.iter().all(|record| record.is_ok()));
    assert_eq!(usize::from(message.header_counts().arcount()), usize::from(message.opt().is_some()));
}

/// A message from header flags, counts and parts behind the header.
fn message(flags: u16, counts: [u16; 4], parts: &[&[u8]]) -> Vec<u8> {
    let mut message = vec![0x12, 0x34];
    for number in [flags].iter().chain(&counts) {
        message.extend_from_slice(&number.to_be_bytes());
    }
    message.extend(parts.concat());
    message
}

const QUESTION: &[u8] = b"\x03WwW\x07eXample\x03com\0\0\x01\0\x01";
const OPT: &[u8] = b"\0\0\x29\x04\xd0\0\0\x80\0\0\x0f\0\x0a\0\x08\x01\x02\x03\x04\x05\x06\x07\x08\0\x0c\0\0\xff";

fn queries() -> Vec<Vec<u8>> {
    let opt = [&OPT[..9], b"\0\x10", &OPT[11..27]].concat();
    vec![
        message(0x0100, [1, 0, 0, 0], &[QUESTION]),
        message(0x0120, [1, 0, 0, 1], &[QUESTION, &opt]),
        message(0x0110, [1, 0, 0, 1], &[QUESTION, b"\0\0\x29\x10\0\0\0\0\0\0\0"]),
        message(0x0100, [1, 0, 0, 2], &[QUESTION, &opt, b"\x03key\0\0\xfa\0\xff\0\0\0\0\0\x02xx"]),
        message(0, [1, 0, 1, 0], &[b"\x01a\0\0\xfb\0\x01", b"\x01a\0\0\x06\0\x01\0\0\0\0\0\x16\0\0", &[0; 20]]),
        message(0, [1, 0, 0, 0], &[b"\0\0\xff\0\x01"]),
    ]
}

fn responses() -> Vec<Vec<u8>> {
    vec![
        message(0x8180, [1, 1, 0, 0], &[QUESTION, b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01"]),
        message(
            0x8180,
            [1, 3, 0, 1],
            &[
                QUESTION,
                b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x06\x03cdn\xc0\x10",
                b"\xc0\x2d\0\x05\0\x01\0\0\0\x3c\0\x04\x01x\xc0\x18",
                b"\xc0\x3f\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01",
                b"\0\0\x29\x04\xd0\0\0\x80\0\0\0",
            ],
        ),
        message(
            0x8183,
            [1, 0, 1, 0],
            &[QUESTION, b"\xc0\x10\0\x06\0\x01\0\0\0\x3c\0\x1e\x02ns\xc0\x10\x02ad\xc0\x10", &[0; 20]],
        ),
        message(
            0x8180,
            [1, 2, 0, 0],
            &[
                b"\x01a\x01b\x03net\0\0\x0f\0\x01",
                b"\xc0\x0c\0\x0f\0\x01\0\0\0\x3c\0\x07\0\x0a\x02mx\xc0\x0e",
                b"\xc0\x0c\0\x0f\0\x01\0\0\0\x3c\0\x04\0\x14\xc0\x0c",
            ],
        ),
    ]
}

#[test]
fn every_truncation_and_bit_flip_of_queries_is_survived_and_understood_as_domain_does() {
    let mut bench = Bench::new();
    for query in queries() {
        bench.every_truncation_and_bit_flip(&query);
    }
    assert!(bench.outcomes.iter().all(|count| *count > 50), "{:?}", bench.outcomes);
}

#[test]
fn every_truncation_and_bit_flip_of_responses_is_survived_and_what_is_kept_reads_back() {
    let mut bench = Bench::new();
    for response in responses() {
        bench.respond(&response);
        bench.every_truncation_and_bit_flip(&response);
    }
    assert!(bench.responses > 1_000 && bench.records > 1_000, "{} {}", bench.responses, bench.records);
}

/// Octets are replaced, cut out and put in at places drawn from a fixed seed, two to six at a time.
#[test]
fn messages_changed_in_several_places_are_survived() {
    let mut bench = Bench::new();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % below.max(1)
    };
    let seeds = [queries(), responses()].concat();
    for _ in 0..60_000 {
        let mut message = seeds[random(seeds.len())].clone();
        for _ in 0..2 + random(5) {
            let at = random(message.len());
            match random(5) {
                0 => drop(message.drain(at..(at + 1 + random(4)).min(message.len()))),
                1 => message.insert(at, [0, 1, 0xc0, 0x0c, 0x3f, 0x40, 0xff][random(7)]),
                2 => message.truncate(at.max(12)),
                _ => message[at] = random(256) as u8,
            }
            if message.is_empty() {
                break;
            }
        }
        bench.take(&message);
    }
    assert!(bench.responses > 1_000, "{}", bench.responses);
}

#[test]
fn a_response_made_of_pointers_and_links_costs_no_more_than_its_octets() {
    // As many records as a message holds, each owner a pointer to the one before, all of them links of one another.
    let mut whole = message(0x8180, [1, 1_000, 0, 0], &[QUESTION]);
    let mut last = 12usize;
    for _ in 0..1_000 {
        let at = whole.len();
        whole.extend_from_slice(&(0xc000 | last as u16).to_be_bytes());
        whole.extend_from_slice(b"\0\x05\0\x01\0\0\0\x3c\0\x02\xc0\x0c");
        last = at.min(0x3fff);
    }
    let mut bench = Bench::new();
    bench.respond(&whole);
    assert_eq!(bench.responses, 0, "pointers to pointers beyond the bound, and a loop");
}

#[test]
fn every_packet_of_the_corpus_is_survived_and_no_response_is_answered() {
    let Some(folder) = real_data::folder("packets-dev") else { return };
    let found = find(&folder, "packets-dev.tsv").expect("the packets are in the archive");
    let text = std::fs::read_to_string(found).unwrap();
    let mut bench = Bench::new();
    let mut packets = 0;
    for line in text.lines().skip(1) {
        let hex = line.rsplit('\t').next().unwrap();
        let octets: Vec<u8> =
            (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect();
        packets += 1;
        let dropped = bench.outcomes[2];
        bench.take(&octets);
        let is_response = octets.get(2).is_some_and(|flags| flags & 0x80 != 0);
        if is_response || octets.len() < limits::HEADER_BYTES {
            assert_eq!(bench.outcomes[2], dropped + 1, "answered: {hex}");
        }
        if packets % 50 == 0 && octets.len() < 600 {
            bench.every_truncation_and_bit_flip(&octets);
        }
    }
    println!("{packets} packets: {:?} taken, refused, dropped; {} responses", bench.outcomes, bench.responses);
    assert!(packets > 9_000 && bench.responses > 1_000);
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    std::fs::read_dir(folder).ok()?.filter_map(Result::ok).find_map(|entry| {
        let path = entry.path();
        if path.is_dir() { find(&path, name) } else { path.ends_with(name).then_some(path) }
    })
}
