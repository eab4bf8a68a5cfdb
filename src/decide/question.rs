//! Stage 1, parse: from a datagram to the one question that it asks.
use super::{DropReason, Transport};
use corewall_sharding::name::{NAME_BYTES_MAX, Name};

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

/// Reads a query. `question` is valid only after `Ok`.
pub fn parse(_datagram: &[u8], _transport: Transport, _question: &mut Question) -> Result<(), Rejection> {
    todo!()
}
