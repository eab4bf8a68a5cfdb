//! Stage 1, parse: from a datagram to the one question that it asks.
//!
//! Invariant: whatever the octets, [`parse`] gives exactly one of a question, an error to answer with, or a reason to stay
//! silent, in one pass over the message and in at most [`QUERY_RECORDS_MAX`] records and [`EDNS_OPTIONS_MAX`] options. Nothing
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
//! | TSIG, SIG(0), other additional records | passed over | we share no key; who insists on a signed answer sees that ours is not |
//! | octets behind the last record | passed over | as BIND and Unbound do; they are never copied anywhere |
//! | a datagram as long as our buffer | FORMERR | its end may be cut off |

use corewall_sharding::name::{NAME_BYTES_MAX, Name};

use super::wire::{CLASS_IN, Frame, Reader, rcode, rtype};
use super::{DropReason, Transport};
use crate::limits::{DATAGRAM_BYTES_MAX, EDNS_OPTIONS_MAX, HEADER_BYTES, QUERY_RECORDS_MAX};

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
    };

    /// DO, false without EDNS.
    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }
}

/// Reads a query. `question` is valid only after `Ok`. Hot path: no allocation, no panic.
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
        // What follows the header of another opcode may be no question at all (RFC 8906 §3.1.2): it is not looked at.
        return Err(error.with(rcode::NOTIMP));
    }
    // RFC 9619: a query has exactly one question.
    if [qd_hi, qd_lo] != [0, 1] {
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
            if !options_are_sound(opt.rdata(datagram)) {
                return Err(error.with(rcode::FORMERR));
            }
            question.edns = Some(Edns { payload_bytes: opt.class, dnssec_ok: flags_hi & 0x80 != 0 });
        }
    }
    match refusal(question.qtype, question.qclass) {
        None => Ok(()),
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

/// Octets of an OPT record in front of its options, when its owner is the root as a plain zero octet.
const OPT_FIXED_BYTES: usize = crate::limits::OPT_BYTES_MIN;

/// Whether the options fill their RDATA exactly and are not too many. What they say is passed over.
fn options_are_sound(mut options: &[u8]) -> bool {
    for _ in 0..EDNS_OPTIONS_MAX {
        if options.is_empty() {
            return true;
        }
        let Some(([_, _, len_hi, len_lo], rest)) = options.split_first_chunk::<4>() else { return false };
        let Some(rest) = rest.get(usize::from(u16::from_be_bytes([*len_hi, *len_lo]))..) else { return false };
        options = rest;
    }
    options.is_empty()
}

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
