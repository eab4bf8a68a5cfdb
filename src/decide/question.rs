//! Stage 1, parse: from a datagram to the one question that it asks.
//!
//! Invariant: whatever the octets, [`parse`] gives exactly one of a question, an error to answer with, or a reason to stay
//! silent, in one pass over the message and in at most [`QUERY_RECORDS_MAX`] records and
//! [`EDNS_OPTIONS_MAX`](crate::limits::EDNS_OPTIONS_MAX) options. Nothing
//! of the client's message but the question is ever passed on: upstream requests and replies are built anew, so what is
//! skipped here is gone.
//!
//! What is decided where the RFCs leave room:
//!
//! | in a query | answer | why |
//! |---|---|---|
//! | TC | FORMERR | the sender says that something is missing, maybe its OPT record; Unbound does the same |
//! | answer or authority records | FORMERR | no query has a use for them but IXFR (RFC 1995 §3), which is refused anyway |
//! | AD, Z, unknown EDNS flags and options | passed over | RFC 6840 §5.7, RFC 6891 §6.1.4, RFC 8906 §3 |
//! | a COOKIE or client subnet option that is malformed | FORMERR | RFC 7873 §5.2.2, RFC 7871 §7.2.1 |
//! | a second COOKIE or client subnet option | passed over | RFC 7873 §5.2 |
//! | edns-tcp-keepalive over UDP, or with data | passed over | RFC 7828 §3.2.1; with data it is none that a client may send |
//! | TSIG, SIG(0), other additional records | passed over | we share no key; who insists on a signed answer sees that ours is not |
//! | octets behind the last record | passed over | as BIND and Unbound do; they are never copied anywhere |
//! | a datagram as long as our buffer | FORMERR | its end may be cut off |

use corewall_sharding::name::{NAME_BYTES_MAX, Name};

use super::cookie::Cookie;
use super::subnet::ClientSubnet;
use super::wire::{CLASS_CH, CLASS_IN, Frame, Options, Reader, option, rcode, rtype};
use super::{DropReason, Transport};
use crate::limits::{DATAGRAM_BYTES_MAX, HEADER_BYTES, QUERY_RECORDS_MAX};

/// What a client's OPT record said (RFC 6891), the options aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// Bytes of UDP payload that the client takes, as sent (not yet bounded).
    pub payload_bytes: u16,
    /// DO: wants DNSSEC records (RFC 3225).
    pub dnssec_ok: bool,
}

/// One parsed question. Reused: [`parse`] overwrites it.
#[derive(Clone)]
pub struct Question {
    /// Message id.
    pub id: u16,
    /// RD.
    pub recursion_desired: bool,
    /// CD.
    pub checking_disabled: bool,
    /// AD in the query: the client understands AD in the answer (RFC 6840 §5.7).
    pub authentic_data: bool,
    /// QNAME in lower case.
    pub name: Name,
    /// QNAME in the client's letter case; as long as `name.as_wire()`.
    pub asked: [u8; NAME_BYTES_MAX],
    /// QTYPE.
    pub qtype: u16,
    /// QCLASS.
    pub qclass: u16,
    /// The OPT record, when there is one.
    pub edns: Option<Edns>,
    /// The COOKIE option (RFC 7873). The server's part is what the client sent, until [`super::Core::hear`] has put in
    /// what the reply is to give; the reply has a cookie exactly when there is one here.
    pub cookie: Option<Cookie>,
    /// The client subnet option (RFC 7871).
    pub subnet: Option<ClientSubnet>,
    /// The client asked over TCP how long its connection may be idle (RFC 7828): that time in units of 100 ms, once
    /// [`super::Core::hear`] has put it in, for the reply to tell.
    pub keepalive: Option<u16>,
}

/// A reply to a message whose question is not taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorReply {
    /// Message id, echoed.
    pub id: u16,
    /// OPCODE, echoed.
    pub opcode: u8,
    /// RD, echoed.
    pub recursion_desired: bool,
    /// CD, echoed.
    pub checking_disabled: bool,
    /// Extended RCODE (12 bits, RFC 6891 §6.1.3).
    pub rcode: u16,
    /// Whether the reply carries an OPT record.
    pub edns: bool,
    /// Bytes of the question section to echo, from offset 12; 0 for none.
    pub question_bytes: u16,
}

/// Why a message is not taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// No answer at all.
    Drop(DropReason),
    /// This answer.
    Reply(ErrorReply),
    /// A TXT question of class CHAOS, whole and valid as after `Ok`: see [`super::chaos`]. Among the rejections so that
    /// questions of class IN pay nothing for it.
    Chaos,
}

impl Question {
    /// Nothing asked yet.
    pub const EMPTY: Question = Question {
        id: 0,
        recursion_desired: false,
        checking_disabled: false,
        authentic_data: false,
        name: Name::ROOT,
        asked: [0; NAME_BYTES_MAX],
        qtype: 0,
        qclass: 0,
        edns: None,
        cookie: None,
        subnet: None,
        keepalive: None,
    };

    /// Becomes equal to `other`. Copies what is in use, not the rest of the buffers. On the hot path.
    pub fn copy_from(&mut self, other: &Question) {
        let Question { id, recursion_desired, checking_disabled, authentic_data, ref name, ref asked, .. } = *other;
        (self.id, self.recursion_desired, self.checking_disabled) = (id, recursion_desired, checking_disabled);
        (self.authentic_data, self.name) = (authentic_data, *name);
        let bytes = name.as_wire().len();
        if let (Some(to), Some(from)) = (self.asked.get_mut(..bytes), asked.get(..bytes)) {
            to.copy_from_slice(from);
        }
        let Question { qtype, qclass, edns, cookie, subnet, keepalive, .. } = *other;
        (self.qtype, self.qclass, self.edns, self.cookie) = (qtype, qclass, edns, cookie);
        (self.subnet, self.keepalive) = (subnet, keepalive);
    }

    /// DO, false without EDNS.
    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// Reads the options that are heeded and passes over all others; none when some are malformed or they are too many.
    fn read_options(&mut self, rdata: &[u8], transport: Transport) -> Option<()> {
        for read in Options::new(rdata) {
            let (code, data) = read.ok()?;
            match code {
                option::COOKIE if self.cookie.is_none() => self.cookie = Some(Cookie::read(data).ok()?),
                option::CLIENT_SUBNET if self.subnet.is_none() => {
                    self.subnet = Some(ClientSubnet::from_query(data).ok()?);
                }
                option::KEEPALIVE if transport == Transport::Tcp && data.is_empty() => self.keepalive = Some(0),
                _ => {}
            }
        }
        Some(())
    }
}

/// Reads a query. `question` is valid only after `Ok` and [`Rejection::Chaos`]. Hot path: no allocation, no panic.
pub fn parse(datagram: &[u8], transport: Transport, question: &mut Question) -> Result<(), Rejection> {
    let Some((header, rest)) = datagram.split_first_chunk::<HEADER_BYTES>() else {
        return Err(Rejection::Drop(DropReason::Short));
    };
    let [id_hi, id_lo, flags_hi, flags_lo, qd_hi, qd_lo, an_hi, an_lo, ns_hi, ns_lo, ar_hi, ar_lo] = *header;
    // QR set marks a response (RFC 1035 §4.1.1): answering one would let two servers loop.
    if flags_hi & 0x80 != 0 {
        return Err(Rejection::Drop(DropReason::NotAQuery));
    }
    question.id = u16::from_be_bytes([id_hi, id_lo]);
    question.recursion_desired = flags_hi & 0x01 != 0;
    question.checking_disabled = flags_lo & 0x10 != 0;
    question.authentic_data = flags_lo & 0x20 != 0;
    question.edns = None;
    question.cookie = None;
    question.subnet = None;
    question.keepalive = None;
    let mut error = ErrorReply {
        id: question.id,
        opcode: flags_hi >> 3 & 0x0f,
        recursion_desired: question.recursion_desired,
        checking_disabled: question.checking_disabled,
        rcode: rcode::FORMERR,
        edns: false,
        question_bytes: 0,
    };
    if error.opcode != 0 {
        // What the message of another opcode asks is not looked at (RFC 8906 §3.1.2), only whether it speaks EDNS.
        error.edns = has_opt(datagram);
        return Err(error.with(rcode::NOTIMP));
    }
    // RFC 9619: a query has exactly one question.
    if [qd_hi, qd_lo] != [0, 1] {
        error.edns = has_opt(datagram);
        return Err(error.with(rcode::FORMERR));
    }
    // The name of the first question has nothing that it could point back to, so a pointer in it is malformed.
    let Ok(name_bytes) = question.name.read_wire(rest) else { return Err(error.with(rcode::FORMERR)) };
    if let (Some(to), Some(from)) = (question.asked.get_mut(..name_bytes), rest.get(..name_bytes)) {
        to.copy_from_slice(from);
    }
    let mut reader = Reader::new(datagram, HEADER_BYTES + name_bytes);
    let Some([type_hi, type_lo, class_hi, class_lo]) = reader.array() else {
        return Err(error.with(rcode::FORMERR));
    };
    question.qtype = u16::from_be_bytes([type_hi, type_lo]);
    question.qclass = u16::from_be_bytes([class_hi, class_lo]);
    error.question_bytes = (name_bytes + 4) as u16;

    let cut = flags_hi & 0x02 != 0 || (transport == Transport::Udp && datagram.len() >= DATAGRAM_BYTES_MAX);
    if cut {
        error.edns = has_opt(datagram);
        return Err(error.with(rcode::FORMERR));
    }
    let others = [u16::from_be_bytes([an_hi, an_lo]), u16::from_be_bytes([ns_hi, ns_lo])];
    let additional = u16::from_be_bytes([ar_hi, ar_lo]);
    if additional != 0 || others != [0, 0] {
        let opt = read_records(&mut reader, others, additional, question.qtype);
        let opt = opt.ok_or(error.with(rcode::FORMERR))?;
        if let Some(opt) = opt {
            error.edns = true;
            let [_, version, flags_hi, _] = opt.ttl_s.to_be_bytes();
            // The version comes first: another one may write its options in another way (RFC 6891 §6.1.3).
            if version != 0 {
                return Err(error.with(rcode::BADVERS));
            }
            question.read_options(opt.rdata(datagram), transport).ok_or(error.with(rcode::FORMERR))?;
            question.edns = Some(Edns { payload_bytes: opt.class, dnssec_ok: flags_hi & 0x80 != 0 });
        }
    }
    match refusal(question.qtype, question.qclass) {
        None => Ok(()),
        Some(_) if (question.qclass, question.qtype) == (CLASS_CH, rtype::TXT) => Err(Rejection::Chaos),
        Some(rcode) => Err(error.with(rcode)),
    }
}

impl ErrorReply {
    fn with(self, rcode: u16) -> Rejection {
        Rejection::Reply(ErrorReply { rcode, ..self })
    }
}

/// Walks the records behind the question. Gives the OPT record if there is one, and none at all when they are malformed.
fn read_records(reader: &mut Reader<'_>, others: [u16; 2], additional: u16, qtype: u16) -> Option<Option<Frame>> {
    let [answers, authorities] = others;
    let others = usize::from(answers) + usize::from(authorities);
    // IXFR brings an SOA in the authority section (RFC 1995 §3); it is refused, but not malformed.
    if (others != 0 && qtype != rtype::IXFR) || others + usize::from(additional) > QUERY_RECORDS_MAX {
        return None;
    }
    let mut opt = None;
    for index in 0..others + usize::from(additional) {
        let owner_at = reader.at();
        let record = reader.record()?;
        if record.rtype == rtype::OPT {
            let owner_is_root = record.rdata_at == owner_at + OPT_FIXED_BYTES;
            // One at most, owned by the root, in the additional section (RFC 6891 §6.1.1).
            if index < others || !owner_is_root || opt.is_some() {
                return None;
            }
            opt = Some(record);
        }
    }
    Some(opt)
}

/// Whether a message that is not taken up holds an OPT record, so that its reply must (RFC 6891 §6.1.1). One whose sections
/// cannot be walked, or hold more than [`QUERY_RECORDS_MAX`], holds none that we know of.
fn has_opt(datagram: &[u8]) -> bool {
    let Some((header, _)) = datagram.split_first_chunk::<HEADER_BYTES>() else { return false };
    let [_, _, _, _, qd_hi, qd_lo, an_hi, an_lo, ns_hi, ns_lo, ar_hi, ar_lo] = *header;
    let [questions, answers, authorities, additional] =
        [[qd_hi, qd_lo], [an_hi, an_lo], [ns_hi, ns_lo], [ar_hi, ar_lo]]
            .map(|count| usize::from(u16::from_be_bytes(count)));
    let others = answers + authorities;
    if questions + others + additional > QUERY_RECORDS_MAX {
        return false;
    }
    let mut reader = Reader::new(datagram, HEADER_BYTES);
    for _ in 0..questions {
        if reader.skip_name().and_then(|()| reader.array::<4>()).is_none() {
            return false;
        }
    }
    for index in 0..others + additional {
        match reader.record() {
            Some(record) if record.rtype == rtype::OPT && index >= others => return true,
            Some(_) => {}
            None => return false,
        }
    }
    false
}

/// Octets of an OPT record in front of its options, when its owner is the root as a plain zero octet.
const OPT_FIXED_BYTES: usize = crate::limits::OPT_BYTES_MIN;

/// The RCODE for well-formed questions that are not taken up.
fn refusal(qtype: u16, qclass: u16) -> Option<u16> {
    match qtype {
        // Zone transfers and key negotiation: understood, and not offered.
        rtype::AXFR | rtype::IXFR | rtype::TKEY => Some(rcode::REFUSED),
        // Obsolete questions (RFC 1035 §3.2.3), answered as BIND does.
        rtype::MAILA | rtype::MAILB => Some(rcode::NOTIMP),
        rtype::ANY => (qclass != CLASS_IN).then_some(rcode::REFUSED),
        // Reserved, and the types that exist in messages only, never in zones (RFC 6895 §3.1).
        0 | rtype::OPT | 128..=rtype::TSIG => Some(rcode::FORMERR),
        _ => (qclass != CLASS_IN).then_some(rcode::REFUSED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::EDNS_OPTIONS_MAX;

    const NAME: &[u8] = b"\x03WwW\x07eXample\x03com\0";
    const OPT: &[u8] = b"\0\0\x29\x10\0\0\0\x80\0\0\0";

    /// A query for `NAME` A IN with `flags`, section counts behind QDCOUNT, and octets behind the question.
    fn query(flags: u16, counts: [u16; 3], behind: &[u8]) -> Vec<u8> {
        asked(flags, counts, NAME, rtype::A, CLASS_IN, behind)
    }

    fn asked(flags: u16, counts: [u16; 3], name: &[u8], qtype: u16, qclass: u16, behind: &[u8]) -> Vec<u8> {
        let mut query = vec![0xab, 0xcd];
        for number in [flags, 1].into_iter().chain(counts) {
            query.extend_from_slice(&number.to_be_bytes());
        }
        query.extend_from_slice(name);
        query.extend_from_slice(&qtype.to_be_bytes());
        query.extend_from_slice(&qclass.to_be_bytes());
        query.extend_from_slice(behind);
        query
    }

    fn opt(ttl: [u8; 4], options: &[u8]) -> Vec<u8> {
        [b"\0\0\x29\x04\xd0".as_slice(), &ttl, &(options.len() as u16).to_be_bytes(), options].concat()
    }

    fn parsed(datagram: &[u8]) -> Result<Question, Rejection> {
        let mut question = Question::EMPTY;
        parse(datagram, Transport::Udp, &mut question).map(|()| question)
    }

    /// RCODE, whether with OPT, and octets of the question echoed.
    fn refused(datagram: &[u8]) -> (u16, bool, u16) {
        match parsed(datagram) {
            Err(Rejection::Reply(reply)) => (reply.rcode, reply.edns, reply.question_bytes),
            other => panic!("expected an error reply, got {:?}", other.map(|question| question.name)),
        }
    }

    const ECHOED: u16 = NAME.len() as u16 + 4;

    #[test]
    fn a_question_keeps_its_case_and_is_known_in_lower_case() {
        let question = parsed(&query(0x0130, [0, 0, 1], OPT)).unwrap();
        assert_eq!(question.name.to_string(), "www.example.com");
        assert_eq!(&question.asked[..NAME.len()], NAME);
        assert_eq!((question.id, question.qtype, question.qclass), (0xabcd, rtype::A, CLASS_IN));
        assert!(question.recursion_desired && question.checking_disabled && question.authentic_data);
        assert_eq!(question.edns, Some(Edns { payload_bytes: 4096, dnssec_ok: true }));
        assert!(question.dnssec_ok());
    }

    #[test]
    fn nothing_of_an_older_question_is_left() {
        let mut question = parsed(&query(0x0130, [0, 0, 1], OPT)).unwrap();
        let plain = asked(0, [0; 3], b"\0", 2, CLASS_IN, b"");
        parse(&plain, Transport::Udp, &mut question).unwrap();
        assert!(question.name.is_root() && question.edns.is_none());
        assert!(!question.recursion_desired && !question.checking_disabled && !question.authentic_data);
    }

    #[test]
    fn short_messages_and_responses_get_no_answer() {
        let whole = query(0, [0; 3], b"");
        for end in 0..HEADER_BYTES {
            assert_eq!(parsed(&whole[..end]).err(), Some(Rejection::Drop(DropReason::Short)));
        }
        let response = query(0x8000, [0; 3], b"");
        assert_eq!(parsed(&response).err(), Some(Rejection::Drop(DropReason::NotAQuery)));
        assert_eq!(parsed(&response[..12]).err(), Some(Rejection::Drop(DropReason::NotAQuery)));
    }

    #[test]
    fn other_opcodes_are_not_implemented_whatever_follows() {
        for opcode in 1..16u16 {
            for message in [&query(opcode << 11, [0; 3], b"")[..], &query(opcode << 11, [9; 3], b"")[..12]] {
                let Err(Rejection::Reply(reply)) = parsed(message) else { panic!() };
                assert_eq!((reply.rcode, reply.opcode), (rcode::NOTIMP, opcode as u8));
                assert_eq!((reply.id, reply.question_bytes, reply.edns), (0xabcd, 0, false));
            }
        }
    }

    #[test]
    fn there_must_be_exactly_one_question() {
        for count in [0u16, 2, 256, 257] {
            let mut message = query(0, [0; 3], &query(0, [0; 3], b"")[12..]);
            message[4..6].copy_from_slice(&count.to_be_bytes());
            assert_eq!(refused(&message), (rcode::FORMERR, false, 0));
        }
    }

    #[test]
    fn malformed_names_are_a_format_error_without_echo() {
        let long = [&[63u8][..], &[b'a'; 63]].concat();
        let too_long = [long.repeat(3), vec![62], vec![b'a'; 62], vec![0]].concat();
        for name in [b"\xc0\x0c".as_slice(), b"\x01a\xc0\x0c", b"\x40a\0", b"\x80a\0", &too_long] {
            assert_eq!(refused(&asked(0, [0; 3], name, 1, 1, b"")), (rcode::FORMERR, false, 0));
        }
        let longest = [long.repeat(3), vec![61], vec![b'a'; 61], vec![0]].concat();
        assert_eq!(parsed(&asked(0, [0; 3], &longest, 1, 1, b"")).unwrap().name.as_wire().len(), 255);
    }

    #[test]
    fn every_truncation_of_a_query_is_a_format_error() {
        let option = b"\0\x0a\0\x08cookie!!\0\x08\0\x07\0\x01\x18\0\xc0\0\x02";
        let whole = query(0x0100, [0, 0, 1], &opt([0; 4], option));
        assert!(parsed(&whole).is_ok());
        for end in HEADER_BYTES..whole.len() {
            assert_eq!(refused(&whole[..end]).0, rcode::FORMERR, "{end}");
        }
    }

    #[test]
    fn there_is_one_opt_record_at_most_and_it_belongs_to_the_root() {
        let two = [OPT, OPT].concat();
        assert_eq!(refused(&query(0, [0, 0, 2], &two)), (rcode::FORMERR, false, ECHOED));
        let owned = [b"\x01a".as_slice(), OPT].concat();
        assert_eq!(refused(&query(0, [0, 0, 1], &owned)).0, rcode::FORMERR);
        let pointed = [b"\xc0\x1c".as_slice(), &OPT[1..]].concat();
        assert_eq!(refused(&query(0, [0, 0, 1], &pointed)).0, rcode::FORMERR);
    }

    #[test]
    fn edns_versions_but_zero_are_bad_and_flags_passed_over() {
        for version in [1, 2, 255] {
            assert_eq!(
                refused(&query(0, [0, 0, 1], &opt([0, version, 0, 0], b"junk"))),
                (rcode::BADVERS, true, ECHOED)
            );
        }
        let question = parsed(&query(0, [0, 0, 1], &opt([7, 0, 0x7f, 0xff], b""))).unwrap();
        assert_eq!(question.edns, Some(Edns { payload_bytes: 1232, dnssec_ok: false }));
    }

    #[test]
    fn unknown_options_pass_and_broken_or_too_many_do_not() {
        let unknown = b"\xff\xf0\0\x03abc";
        assert!(parsed(&query(0, [0, 0, 1], &opt([0; 4], &unknown.repeat(EDNS_OPTIONS_MAX)))).is_ok());
        for options in [unknown.repeat(EDNS_OPTIONS_MAX + 1), b"\0\x0a\0\x09cookie!!".to_vec(), b"\0\x0a\0".to_vec()] {
            assert_eq!(refused(&query(0, [0, 0, 1], &opt([0; 4], &options))), (rcode::FORMERR, true, ECHOED));
        }
    }

    #[test]
    fn the_first_cookie_and_the_first_subnet_are_kept() {
        let cookie = b"\0\x0a\0\x10clientckserver01".as_slice();
        let subnet = b"\0\x08\0\x07\0\x01\x18\0\xc0\0\x02".as_slice();
        let others = b"\0\x0a\0\x08guessed!\0\x08\0\x04\0\x01\0\0\xff\xf0\0\0".as_slice();
        let options = [cookie, subnet, others].concat();
        let question = parsed(&query(0, [0, 0, 1], &opt([0; 4], &options))).unwrap();
        assert_eq!(question.cookie, Cookie::read(b"clientckserver01").ok());
        assert_eq!(question.subnet, ClientSubnet::from_query(b"\0\x01\x18\0\xc0\0\x02").ok());
        let mut reused = question;
        parse(&query(0, [0, 0, 1], OPT), Transport::Udp, &mut reused).unwrap();
        assert_eq!((reused.cookie, reused.subnet), (None, None));
    }

    #[test]
    fn malformed_cookies_and_subnets_are_a_format_error() {
        for options in [
            b"\0\x0a\0\x07clientc".as_slice(),
            b"\0\x0a\0\0",
            b"\0\x0a\0\x09clientcks",
            b"\0\x08\0\x07\0\x01\x18\x18\xc0\0\x02",
            b"\0\x08\0\x07\0\x03\x18\0\xc0\0\x02",
            b"\0\x08\0\x06\0\x01\x18\0\xc0\0",
            b"\0\x08\0\x07\0\x01\x17\0\xc0\0\x03",
        ] {
            assert_eq!(refused(&query(0, [0, 0, 1], &opt([0; 4], options))), (rcode::FORMERR, true, ECHOED));
        }
    }

    #[test]
    fn a_wish_for_keepalive_is_heard_over_tcp_and_only_when_it_bears_no_data() {
        let wish = b"\0\x0b\0\0";
        let heard = |options: &[u8], transport| {
            let mut question = Question { keepalive: Some(7), ..Question::EMPTY };
            parse(&query(0, [0, 0, 1], &opt([0; 4], options)), transport, &mut question).unwrap();
            question.keepalive
        };
        assert_eq!(heard(wish, Transport::Tcp), Some(0));
        assert_eq!(heard(&[b"\xff\xf0\0\x03abc".as_slice(), wish].concat(), Transport::Tcp), Some(0));
        assert_eq!(heard(wish, Transport::Udp), None);
        assert_eq!(heard(b"\0\x0b\0\x02\0\x64", Transport::Tcp), None);
        assert_eq!(heard(b"", Transport::Tcp), None);
    }

    #[test]
    fn signed_queries_are_taken_as_unsigned() {
        let tsig = b"\x03key\0\0\xfa\0\xff\0\0\0\0\0\x02xx";
        let question = parsed(&query(0, [0, 0, 2], &[OPT, tsig.as_slice()].concat())).unwrap();
        assert!(question.edns.is_some());
        let many = tsig.repeat(QUERY_RECORDS_MAX + 1);
        assert_eq!(refused(&query(0, [0, 0, QUERY_RECORDS_MAX as u16 + 1], &many)).0, rcode::FORMERR);
    }

    #[test]
    fn records_where_a_query_has_none_are_a_format_error() {
        let record = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01";
        assert_eq!(refused(&query(0, [1, 0, 0], record)), (rcode::FORMERR, false, ECHOED));
        assert_eq!(refused(&query(0, [0, 1, 0], record)), (rcode::FORMERR, false, ECHOED));
        assert_eq!(refused(&query(0, [0, 1, 0], OPT)).0, rcode::FORMERR);
        let ixfr = asked(0, [0, 1, 0], NAME, rtype::IXFR, CLASS_IN, record);
        assert_eq!(refused(&ixfr), (rcode::REFUSED, false, ECHOED));
    }

    #[test]
    fn cut_off_queries_are_a_format_error() {
        assert_eq!(refused(&query(0x0200, [0; 3], b"")), (rcode::FORMERR, false, ECHOED));
        let padded = query(0, [0; 3], &[0; DATAGRAM_BYTES_MAX]);
        assert!(parsed(&padded[..DATAGRAM_BYTES_MAX - 1]).is_ok(), "octets behind the message are passed over");
        assert_eq!(refused(&padded[..DATAGRAM_BYTES_MAX]), (rcode::FORMERR, false, ECHOED));
        assert!(parse(&padded, Transport::Tcp, &mut Question::EMPTY.clone()).is_ok(), "a stream has lengths");
    }

    #[test]
    fn a_text_question_of_class_chaos_is_read_whole() {
        let mut question = Question::EMPTY;
        let query = asked(0, [0, 0, 1], b"\x07Version\x04bind\0", rtype::TXT, CLASS_CH, OPT);
        assert_eq!(parse(&query, Transport::Udp, &mut question), Err(Rejection::Chaos));
        assert_eq!((question.name.to_string().as_str(), question.qclass), ("version.bind", CLASS_CH));
        assert!(question.dnssec_ok());
        for qtype in [rtype::A, rtype::ANY, rtype::AXFR] {
            assert_eq!(refused(&asked(0, [0; 3], b"\0", qtype, CLASS_CH, b"")).0, rcode::REFUSED);
        }
    }

    #[test]
    fn classes_but_in_and_types_that_are_no_data_are_refused() {
        for qclass in [0, 2, 3, 4, 254, 255, 65_535] {
            assert_eq!(refused(&asked(0, [0; 3], NAME, 1, qclass, b"")), (rcode::REFUSED, false, ECHOED));
        }
        for (qtype, rcode) in [
            (0, rcode::FORMERR),
            (rtype::OPT, rcode::FORMERR),
            (128, rcode::FORMERR),
            (248, rcode::FORMERR),
            (rtype::TSIG, rcode::FORMERR),
            (rtype::TKEY, rcode::REFUSED),
            (rtype::IXFR, rcode::REFUSED),
            (rtype::AXFR, rcode::REFUSED),
            (rtype::MAILB, rcode::NOTIMP),
            (rtype::MAILA, rcode::NOTIMP),
        ] {
            assert_eq!(refused(&asked(0, [0, 0, 1], NAME, qtype, 1, OPT)), (rcode, true, ECHOED), "{qtype}");
        }
        for qtype in [1, 28, 64, 65, 127, rtype::ANY, 256, 257, 32_769, 65_280, 65_535] {
            assert!(parsed(&asked(0, [0; 3], NAME, qtype, 1, b"")).is_ok(), "{qtype}");
        }
    }
}
