//! An answer while it is being judged and changed: records with uncompressed names, in buffers that exist from the start.

use corewall_sharding::name::Name;

/// Where a record stands (RFC 1035 §4.1). The additional section is never kept: nothing in it is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Answer.
    Answer,
    /// Authority: SOA of negative answers, denial proofs.
    Authority,
}

/// One record.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its section.
    pub section: Section,
    /// Owner, wire format, lower case, uncompressed.
    pub owner: &'a [u8],
    /// TYPE.
    pub rtype: u16,
    /// CLASS.
    pub class: u16,
    /// Seconds.
    pub ttl_s: u32,
    /// RDATA, names in it uncompressed.
    pub rdata: &'a [u8],
}

/// The buffers are full: the answer is larger than we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerFull;

/// What is wrong with an upstream's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseError {
    /// Not parsable, or an answer to something else; the wait goes on (TuDoor).
    Malformed,
    /// CNAMEs that loop or are more than [`crate::limits::CHAIN_LINKS_MAX`].
    ChainTooLong,
    /// More than we take.
    TooLarge,
}

/// The head of a message from an upstream server, checked to be a response to one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// Message id: the caller compares it.
    pub id: u16,
    /// TC.
    pub truncated: bool,
    /// Extended RCODE with the OPT record's upper bits.
    pub rcode: u16,
    /// AD.
    pub authentic_data: bool,
    /// RA.
    pub recursion_available: bool,
}

/// An answer in the making.
pub struct Answer {
    /// Extended RCODE.
    pub rcode: u16,
    /// AD.
    pub authentic_data: bool,
}

impl Answer {
    /// Buffers for the largest answer.
    pub fn new() -> Self {
        todo!()
    }
    /// Forgets all records; NOERROR.
    pub fn clear(&mut self) {
        todo!()
    }
    /// Adds a record.
    pub fn push(
        &mut self,
        _section: Section,
        _owner: &Name,
        _rtype: u16,
        _class: u16,
        _ttl_s: u32,
        _rdata: &[u8],
    ) -> Result<(), AnswerFull> {
        todo!()
    }
    /// The records in order.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        std::iter::empty()
    }
    /// Least TTL of all records; none when there are none.
    pub fn ttl_s_min(&self) -> Option<u32> {
        todo!()
    }
    /// The `index`-th link of the CNAME chain that starts at the first name: its target and TTL.
    pub fn chain_target(&self, _index: usize) -> Option<(Name, u32)> {
        todo!()
    }
    /// Keeps only the first `links` CNAMEs of the chain (with their signatures) and nothing else.
    pub fn cut_chain(&mut self, _links: usize) {
        todo!()
    }
    /// Replaces the content by what is kept of an upstream's message (see the module's doc): of the answer section the
    /// CNAME chain from `name` and the asked type at its end; of the authority the SOA (RFC 2308) and, when `dnssec_ok`,
    /// denial proofs and signatures. Appends: what was there (an alias's CNAMEs) stays in front.
    pub fn append_response(
        &mut self,
        _message: &[u8],
        _name: &Name,
        _qtype: u16,
        _dnssec_ok: bool,
    ) -> Result<(), ResponseError> {
        todo!()
    }
}

/// Checks that `message` is a response to exactly this question. `asked` is the QNAME as we sent it.
pub fn response_head(_message: &[u8], _asked: &[u8], _qtype: u16, _qclass: u16) -> Result<ResponseHead, ResponseError> {
    todo!()
}
