//! Stage 11, reply: from an answer to bytes within the client's size.
//!
//! Invariant: every reply is built anew from the parsed question: QR set, opcode 0, AA clear (this is a forwarder, and its own
//! answers claim no more than forwarded ones), RA set, RD and CD as asked, the question in the client's letter case, an OPT
//! record exactly when the client sent one, in it a COOKIE exactly when the question has one to give, and a client subnet only
//! to who sent one. A reply never exceeds what the client and the transport take: first the EDE text
//! is left out, then all records and TC is set (an RRset is never sent in part, RFC 2181 §9).

mod compression;

use super::Transport;
use super::answer::{Answer, Record, Section};
use super::cookie::{COOKIE_BYTES_MAX, Cookie};
use super::question::{ErrorReply, Question};
use super::subnet::{CLIENT_SUBNET_BYTES_MAX, ClientSubnet};
use super::wire::{Field, field_octets, layout, option, rcode, rtype};
use crate::limits::{
    ANSWER_RECORDS_MAX, HEADER_BYTES, MESSAGE_BYTES_MAX, OPT_BYTES_MIN, UDP_PAYLOAD_BYTES_MAX, UDP_PAYLOAD_BYTES_MIN,
};
use compression::Names;

/// An Extended DNS Error (RFC 8914).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ede<'a> {
    /// INFO-CODE.
    pub code: u16,
    /// EXTRA-TEXT, maybe empty.
    pub text: &'a str,
}

/// The header's and OPT's part of a reply.
#[derive(Clone, Copy, Debug)]
pub struct ReplyHead<'a> {
    /// Extended RCODE.
    pub rcode: u16,
    /// AD; sent only to clients that set AD or DO (RFC 6840 §5.7).
    pub authentic_data: bool,
    /// Sent only to clients that use EDNS.
    pub ede: Option<Ede<'a>>,
    /// Bits of the client's network that the answer is for, 0 for all clients; none where client subnets are passed over.
    /// Sent only to clients that sent theirs (RFC 7871 §7.2.2).
    pub scope_bits: Option<u8>,
}

/// The sections behind the question in wire form: compressed against the question's name, with the places of the TTLs.
/// The same bytes serve every client that asks the same question, for the question's length is the same.
pub struct Body {
    octets: Vec<u8>,
    ttl_places: Vec<u16>,
    answers: u16,
    authorities: u16,
    too_large: bool,
}

/// How much is in a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// Octets of all sections behind the question, the OPT record aside.
    pub bytes: usize,
    /// ANCOUNT.
    pub answers: u16,
    /// NSCOUNT.
    pub authorities: u16,
    /// It is no whole body: TC must be set.
    pub too_large: bool,
}

/// A body has run out of room.
struct BodyFull;

impl Body {
    /// Buffers for the largest body.
    pub fn new() -> Self {
        Self {
            octets: Vec::with_capacity(MESSAGE_BYTES_MAX),
            ttl_places: Vec::with_capacity(ANSWER_RECORDS_MAX),
            answers: 0,
            authorities: 0,
            too_large: false,
        }
    }

    /// Composes the records of `answer` behind a question for `question.name`. One that no message holds becomes an empty
    /// body that is [too large](Body::is_too_large).
    pub fn compose(&mut self, question: &Question, answer: &Answer) {
        self.clear();
        let name = question.name.as_wire();
        let start = HEADER_BYTES + name.len() + 4;
        let mut names = Names::new(name);
        for section in [Section::Answer, Section::Authority] {
            for record in answer.records().filter(|record| record.section == section) {
                if self.put_record(start, &record, &mut names).is_err() {
                    self.clear();
                    self.too_large = true;
                    return;
                }
            }
        }
    }

    fn clear(&mut self) {
        self.octets.clear();
        self.ttl_places.clear();
        (self.answers, self.authorities, self.too_large) = (0, 0, false);
    }

    /// The octets behind the question, the OPT record aside.
    pub fn as_wire(&self) -> &[u8] {
        &self.octets
    }

    /// Where in [`Body::as_wire`] the TTLs stand, four octets each.
    pub fn ttl_places(&self) -> &[u16] {
        &self.ttl_places
    }

    /// Whether the answer fits in no message; replies then carry TC.
    pub fn is_too_large(&self) -> bool {
        self.too_large
    }

    pub(super) fn shape(&self) -> Shape {
        let (answers, authorities, too_large) = (self.answers, self.authorities, self.too_large);
        Shape { bytes: self.octets.len(), answers, authorities, too_large }
    }

    /// `start` is where the body begins in the message.
    fn put_record<'a>(&mut self, start: usize, record: &Record<'a>, names: &mut Names<'a>) -> Result<(), BodyFull> {
        self.put_name(start, record.owner, names)?;
        self.put(&record.rtype.to_be_bytes())?;
        self.put(&record.class.to_be_bytes())?;
        let ttl_place = u16::try_from(self.octets.len()).map_err(|_| BodyFull)?;
        if self.ttl_places.len() >= ANSWER_RECORDS_MAX {
            return Err(BodyFull);
        }
        self.ttl_places.push(ttl_place);
        self.put(&record.ttl_s.to_be_bytes())?;
        let length_place = self.octets.len();
        self.put(&[0, 0])?;
        let rdata_place = self.octets.len();
        self.put_rdata(start, record, names)?;
        let bytes = u16::try_from(self.octets.len() - rdata_place).map_err(|_| BodyFull)?;
        let length = self.octets.get_mut(length_place..).and_then(|octets| octets.first_chunk_mut());
        *length.ok_or(BodyFull)? = bytes.to_be_bytes();
        match record.section {
            Section::Answer => self.answers += 1,
            Section::Authority => self.authorities += 1,
        }
        Ok(())
    }

    /// Names in the RDATA of common types of RFC 1035 are compressed; every receiver must understand it (RFC 3597 §4).
    fn put_rdata<'a>(&mut self, start: usize, record: &Record<'a>, names: &mut Names<'a>) -> Result<(), BodyFull> {
        if !matches!(record.rtype, rtype::CNAME | rtype::NS | rtype::SOA | rtype::PTR | rtype::MX) {
            return self.put(record.rdata);
        }
        let mut rest = record.rdata;
        for field in layout(record.rtype) {
            let is_name = *field == Field::Name;
            let bytes =
                if is_name { name_bytes(rest) } else { field_octets(rest, *field, 0, rest.len()).map(<[u8]>::len) };
            // RDATA that isn't what its type asks for came from our own configuration: it goes out as it stands.
            let Some((octets, behind)) = bytes.and_then(|bytes| rest.split_at_checked(bytes)) else { break };
            if is_name {
                self.put_name(start, octets, names)?
            } else {
                self.put(octets)?
            }
            rest = behind;
        }
        self.put(rest)
    }

    fn put_name<'a>(&mut self, start: usize, name: &'a [u8], names: &mut Names<'a>) -> Result<(), BodyFull> {
        let at = start + self.octets.len();
        let place = names.place(name, at);
        self.put(name.get(..place.literal_bytes).unwrap_or(name))?;
        match place.pointer {
            Some(pointer) => self.put(&pointer.to_be_bytes()),
            None => Ok(()),
        }
    }

    fn put(&mut self, octets: &[u8]) -> Result<(), BodyFull> {
        if self.octets.len() + octets.len() > BODY_BYTES_MAX {
            return Err(BodyFull);
        }
        self.octets.extend_from_slice(octets);
        Ok(())
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::new()
    }
}

/// Octets of the largest body: what the largest message leaves behind the longest question and with all options, the EDE
/// without text.
const BODY_BYTES_MAX: usize = MESSAGE_BYTES_MAX - EMPTY_BYTES_MAX;
/// Octets of the largest reply without records.
const EMPTY_BYTES_MAX: usize = HEADER_BYTES
    + corewall_sharding::name::NAME_BYTES_MAX
    + 4
    + OPT_BYTES_MIN
    + COOKIE_BYTES_MAX
    + CLIENT_SUBNET_BYTES_MAX
    + KEEPALIVE_BYTES
    + EDE_FIXED_BYTES;
const _: () = assert!(EMPTY_BYTES_MAX <= UDP_PAYLOAD_BYTES_MIN, "any question can be answered");
/// Octets of an EDE option in front of its text (RFC 8914 §2): code, length, INFO-CODE.
const EDE_FIXED_BYTES: usize = 6;
/// Octets of an edns-tcp-keepalive option (RFC 7828 §3.1): code, length, time-out.
const KEEPALIVE_BYTES: usize = 6;

/// Octets of the uncompressed name at the start of `octets`.
fn name_bytes(octets: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *octets.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

/// Writes a whole reply; with TC and no records when it doesn't fit. Returns its length; 0 when `out` holds not even a
/// question, which takes 512 octets at most. Hot path: no allocation, no panic.
pub fn write(question: &Question, transport: Transport, head: ReplyHead<'_>, body: &Body, out: &mut [u8]) -> usize {
    assemble(question, transport, head, body.shape(), out, |place| {
        if place.len() == body.octets.len() {
            place.copy_from_slice(&body.octets);
        }
    })
}

/// Writes an empty reply with TC, to bring a UDP client to TCP.
pub fn write_truncated(question: &Question, out: &mut [u8]) -> usize {
    let head = ReplyHead { rcode: rcode::NOERROR, authentic_data: false, ede: None, scope_bits: None };
    assemble(question, Transport::Udp, head, Shape { too_large: true, ..Shape::default() }, out, |_| {})
}

/// Writes the reply to a message that was not taken up, echoing its question where `reply` says so. Returns its length.
pub fn write_error(reply: &ErrorReply, datagram: &[u8], out: &mut [u8]) -> usize {
    let [id_hi, id_lo] = reply.id.to_be_bytes();
    let flags_hi = 0x80 | (reply.opcode & 0x0f) << 3 | u8::from(reply.recursion_desired);
    // What RA says of another opcode is not defined: only a query gets it.
    let recursion_available = if reply.opcode == 0 { RECURSION_AVAILABLE } else { 0 };
    let flags_lo = recursion_available | u8::from(reply.checking_disabled) << 4 | (reply.rcode & 0x0f) as u8;
    let question = datagram.get(HEADER_BYTES..HEADER_BYTES + usize::from(reply.question_bytes)).unwrap_or_default();
    let (questions, additional) = (u8::from(!question.is_empty()), u8::from(reply.edns));
    let header = [id_hi, id_lo, flags_hi, flags_lo, 0, questions, 0, 0, 0, 0, 0, additional];
    let mut at = 0;
    let mut put = |octets: &[u8]| {
        let place = out.get_mut(at..at + octets.len())?;
        place.copy_from_slice(octets);
        at += octets.len();
        Some(())
    };
    let written = put(&header).and_then(|()| put(question)).and_then(|()| match reply.edns {
        true => put(&opt_fixed(reply.rcode, false, 0)),
        false => Some(()),
    });
    if written.is_some() { at } else { 0 }
}

/// The RA bit.
const RECURSION_AVAILABLE: u8 = 0x80;

/// Puts a reply together around a body of `shape`, whose octets `fill` writes into the place that it is given; it is not
/// called when the body doesn't fit. Used for composed and for cached bodies, so that both give the same bytes.
pub(super) fn assemble(
    question: &Question,
    transport: Transport,
    head: ReplyHead<'_>,
    shape: Shape,
    out: &mut [u8],
    fill: impl FnOnce(&mut [u8]),
) -> usize {
    let name = question.name.as_wire();
    let body_at = HEADER_BYTES + name.len() + 4;
    let limit = size_max(question, transport).min(out.len());
    let mut options = ReplyOptions::of(question, &head);
    let textless = options.without_text();
    let fixed = body_at + if question.edns.is_some() { OPT_BYTES_MIN } else { 0 };
    let fits = |bytes: usize, options: &ReplyOptions<'_>| fixed + bytes + options.bytes() <= limit;
    let whole = !shape.too_large && fits(shape.bytes, &textless);
    let body_bytes = if whole { shape.bytes } else { 0 };
    if !fits(body_bytes, &options) {
        options = textless;
    }
    if !fits(body_bytes, &options) {
        return 0;
    }

    let Some((header, behind)) = out.split_first_chunk_mut::<HEADER_BYTES>() else { return 0 };
    let Some((asked, behind)) = behind.split_at_mut_checked(name.len()) else { return 0 };
    let Some((type_and_class, behind)) = behind.split_first_chunk_mut::<4>() else { return 0 };
    let Some((body, behind)) = behind.split_at_mut_checked(body_bytes) else { return 0 };

    // An extended RCODE has its upper bits in OPT: a client without EDNS is told of a failure instead.
    let rcode = if head.rcode > 0x0f && question.edns.is_none() { rcode::SERVFAIL } else { head.rcode };
    let authentic_data = head.authentic_data && whole && (question.authentic_data || question.dnssec_ok());
    let [id_hi, id_lo] = question.id.to_be_bytes();
    let flags_hi = 0x80 | u8::from(!whole) << 1 | u8::from(question.recursion_desired);
    let flags_lo = RECURSION_AVAILABLE
        | u8::from(authentic_data) << 5
        | u8::from(question.checking_disabled) << 4
        | (rcode & 0x0f) as u8;
    let (answers, authorities) = if whole { (shape.answers, shape.authorities) } else { (0, 0) };
    let [an_hi, an_lo] = answers.to_be_bytes();
    let [ns_hi, ns_lo] = authorities.to_be_bytes();
    let additional = u8::from(question.edns.is_some());
    *header = [id_hi, id_lo, flags_hi, flags_lo, 0, 1, an_hi, an_lo, ns_hi, ns_lo, 0, additional];
    if let Some(from) = question.asked.get(..asked.len()) {
        asked.copy_from_slice(from);
    }
    let [type_hi, type_lo] = question.qtype.to_be_bytes();
    let [class_hi, class_lo] = question.qclass.to_be_bytes();
    *type_and_class = [type_hi, type_lo, class_hi, class_lo];
    if whole {
        fill(body);
    }
    let opt_bytes = match question.edns {
        Some(edns) => put_opt(rcode, edns.dnssec_ok, &options, behind),
        None => 0,
    };
    body_at + body_bytes + opt_bytes
}

/// Octets of the largest reply that this client takes this way.
fn size_max(question: &Question, transport: Transport) -> usize {
    match (transport, question.edns) {
        (Transport::Tcp, _) => MESSAGE_BYTES_MAX,
        (Transport::Udp, None) => UDP_PAYLOAD_BYTES_MIN,
        (Transport::Udp, Some(edns)) => {
            usize::from(edns.payload_bytes).clamp(UDP_PAYLOAD_BYTES_MIN, UDP_PAYLOAD_BYTES_MAX)
        }
    }
}

/// The options of a reply's OPT record.
#[derive(Clone, Copy)]
struct ReplyOptions<'a> {
    cookie: Option<&'a Cookie>,
    /// With the bits that the answer is for.
    subnet: Option<(&'a ClientSubnet, u8)>,
    /// In units of 100 ms.
    keepalive: Option<u16>,
    ede: Option<Ede<'a>>,
}

impl<'a> ReplyOptions<'a> {
    /// None for a client without EDNS.
    fn of(question: &'a Question, head: &ReplyHead<'a>) -> Self {
        match question.edns {
            Some(_) => Self {
                cookie: question.cookie.as_ref(),
                subnet: question.subnet.as_ref().zip(head.scope_bits),
                keepalive: question.keepalive,
                ede: head.ede,
            },
            None => Self { cookie: None, subnet: None, keepalive: None, ede: None },
        }
    }

    fn without_text(&self) -> Self {
        Self { ede: self.ede.map(|ede| Ede { text: "", ..ede }), ..*self }
    }

    /// Octets of all of them.
    fn bytes(&self) -> usize {
        self.cookie.map_or(0, Cookie::option_bytes)
            + self.subnet.map_or(0, |(subnet, _)| subnet.option_bytes())
            + self.keepalive.map_or(0, |_| KEEPALIVE_BYTES)
            + self.ede.map_or(0, |ede| EDE_FIXED_BYTES + ede.text.len())
    }

    /// Writes them at the start of `place`, which was found large enough.
    fn put(&self, mut place: &mut [u8]) {
        if let Some(cookie) = self.cookie {
            let bytes = cookie.put(place);
            place = place.get_mut(bytes..).unwrap_or_default();
        }
        if let Some((subnet, scope_bits)) = self.subnet {
            let bytes = subnet.put(scope_bits, place);
            place = place.get_mut(bytes..).unwrap_or_default();
        }
        if let Some(ede) = self.ede
            && let Some((fixed, text)) = place.split_first_chunk_mut::<EDE_FIXED_BYTES>()
            && let Some(text) = text.get_mut(..ede.text.len())
        {
            let [option_hi, option_lo] = option::EDE.to_be_bytes();
            let [len_hi, len_lo] = (ede.text.len() as u16 + 2).to_be_bytes();
            let [code_hi, code_lo] = ede.code.to_be_bytes();
            *fixed = [option_hi, option_lo, len_hi, len_lo, code_hi, code_lo];
            text.copy_from_slice(ede.text.as_bytes());
            place = place.get_mut(EDE_FIXED_BYTES + ede.text.len()..).unwrap_or_default();
        }
        if let Some(time_out) = self.keepalive
            && let Some(option) = place.first_chunk_mut::<KEEPALIVE_BYTES>()
        {
            let [option_hi, option_lo] = option::KEEPALIVE.to_be_bytes();
            let [time_out_hi, time_out_lo] = time_out.to_be_bytes();
            *option = [option_hi, option_lo, 0, 2, time_out_hi, time_out_lo];
        }
    }
}

/// An OPT record without its options (RFC 6891 §6.1.2): root, type, payload size, RCODE's upper bits, version 0, DO.
fn opt_fixed(rcode: u16, dnssec_ok: bool, options_bytes: u16) -> [u8; OPT_BYTES_MIN] {
    let [type_hi, type_lo] = rtype::OPT.to_be_bytes();
    let [size_hi, size_lo] = (UDP_PAYLOAD_BYTES_MAX as u16).to_be_bytes();
    let [len_hi, len_lo] = options_bytes.to_be_bytes();
    [0, type_hi, type_lo, size_hi, size_lo, (rcode >> 4) as u8, 0, u8::from(dnssec_ok) << 7, 0, len_hi, len_lo]
}

/// Writes OPT at the start of `place`, which was found large enough, and returns its length.
fn put_opt(rcode: u16, dnssec_ok: bool, options: &ReplyOptions<'_>, place: &mut [u8]) -> usize {
    let options_bytes = options.bytes();
    let Some((opt, behind)) = place.split_first_chunk_mut::<OPT_BYTES_MIN>() else { return 0 };
    *opt = opt_fixed(rcode, dnssec_ok, options_bytes as u16);
    options.put(behind);
    OPT_BYTES_MIN + options_bytes
}

const _: () = assert!(UDP_PAYLOAD_BYTES_MAX <= u16::MAX as usize, "OPT says it in 16 bits");
const _: () = assert!(BODY_BYTES_MAX <= u16::MAX as usize, "a TTL place holds any");

#[cfg(test)]
mod tests;
