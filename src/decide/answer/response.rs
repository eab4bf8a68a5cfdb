//! Reading an upstream's message: is it a response to our question, and what of it is kept.
//!
//! Nothing in a response is believed but what answers the asked name: of the answer section the CNAME chain from that name
//! and the asked type at its end, of the authority section the SOA that bounds a negative answer and, for clients that
//! validate, denial proofs and signatures. All else (other names, NS, glue) is dropped here and so can't reach a cache
//! (hardening: MaginotDNS). Work is bounded by the message's octets times [`CHAIN_LINKS_MAX`].

use corewall_sharding::name::Name;

use super::{Answer, AnswerFull, Entry, Section, Span};
use crate::decide::case::LetterCase;
use crate::decide::cookie::Cookie;
use crate::decide::cookie::held::CookieSeen;
use crate::decide::subnet::{ClientSubnet, SubnetSeen};
use crate::decide::wire::{
    CLASS_IN, Field, Frame, Options, Reader, WireName, expand_name, field_octets, layout, option, rtype,
};
use crate::limits::{ANSWER_BYTES_MAX, ANSWER_RECORDS_MAX, CHAIN_LINKS_MAX, HEADER_BYTES};

/// What is wrong with an upstream's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseError {
    /// Not parsable, or an answer to something else; the wait goes on (TuDoor).
    Malformed,
    /// CNAMEs that loop or are more than [`CHAIN_LINKS_MAX`].
    ChainTooLong,
    /// More than we take.
    TooLarge,
}

impl From<AnswerFull> for ResponseError {
    fn from(_: AnswerFull) -> Self {
        Self::TooLarge
    }
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
    /// A server that neither recurses nor knows the name itself says whom else to ask: no answer, NS records and no SOA,
    /// which is not the NODATA that it looks like (RFC 2308 §2.2).
    pub is_referral: bool,
    /// Whether the question came back in the letter case in which it was sent.
    pub letter_case: LetterCase,
    /// The first COOKIE option (RFC 7873 §5.3 has all others ignored).
    pub cookie: CookieSeen,
    /// The first client subnet option.
    pub subnet: SubnetSeen,
}

/// A record of the message being read. Its owner is already among the answer's octets.
#[derive(Clone, Copy)]
pub(super) struct Received {
    section: Section,
    owner: Span,
    frame: Frame,
}

/// Checks that `message` is a response to this question. `asked` is the QNAME as we sent it; a response in another letter case
/// is taken here and told by [`ResponseHead::letter_case`], for what it means depends on whether the case was a secret.
///
/// A response without a question is refused even where its RCODE says FORMERR or SERVFAIL, as servers of old send it: the
/// question is what proves that the sender saw ours (RFC 5452 §9.1), and an error believed without it lets anyone who
/// guesses an id end the wait (TuDoor). Such a server costs a time-out.
///
/// A message with TC may end anywhere behind the question; any other must be whole, and the names and data in it of the
/// kind that [`Answer::append_response`] reads: what is found out later can no longer be waited past.
pub fn response_head(message: &[u8], asked: &[u8], qtype: u16, qclass: u16) -> Result<ResponseHead, ResponseError> {
    let Some((header, rest)) = message.split_first_chunk::<HEADER_BYTES>() else {
        return Err(ResponseError::Malformed);
    };
    let [id_hi, id_lo, flags_hi, flags_lo, qd_hi, qd_lo, an_hi, an_lo, ns_hi, ns_lo, ar_hi, ar_lo] = *header;
    let is_response = flags_hi & 0x80 != 0 && flags_hi >> 3 & 0x0f == 0;
    let (name, question) = rest.split_at_checked(asked.len()).unwrap_or_default();
    let question = question.first_chunk::<4>().filter(|_| name.eq_ignore_ascii_case(asked));
    let [type_hi, type_lo] = qtype.to_be_bytes();
    let [class_hi, class_lo] = qclass.to_be_bytes();
    if !is_response || [qd_hi, qd_lo] != [0, 1] || question != Some(&[type_hi, type_lo, class_hi, class_lo]) {
        return Err(ResponseError::Malformed);
    }
    let mut head = ResponseHead {
        id: u16::from_be_bytes([id_hi, id_lo]),
        truncated: flags_hi & 0x02 != 0,
        rcode: u16::from(flags_lo & 0x0f),
        authentic_data: flags_lo & 0x20 != 0,
        is_referral: false,
        letter_case: if name == asked { LetterCase::Kept } else { LetterCase::Changed },
        cookie: CookieSeen::None,
        subnet: SubnetSeen::None,
    };
    let others = usize::from(u16::from_be_bytes([an_hi, an_lo])) + usize::from(u16::from_be_bytes([ns_hi, ns_lo]));
    let additional = usize::from(u16::from_be_bytes([ar_hi, ar_lo]));
    let mut reader = Reader::new(message, HEADER_BYTES + asked.len() + 4);
    let is_lame = flags_lo & 0x8f == 0 && flags_hi & 0x04 == 0 && [an_hi, an_lo] == [0, 0];
    let (mut opt_seen, mut ns_seen, mut soa_seen) = (false, false, false);
    let mut name = WireName::ROOT;
    for index in 0..others + additional {
        let owner_at = reader.at();
        let Some(record) = reader.record() else {
            if head.truncated {
                break;
            }
            return Err(ResponseError::Malformed);
        };
        if index < others && record.class == CLASS_IN && !head.truncated && !is_sound(message, &record, &mut name) {
            return Err(ResponseError::Malformed);
        }
        ns_seen |= record.rtype == rtype::NS && index < others;
        soa_seen |= record.rtype == rtype::SOA && index < others;
        if record.rtype == rtype::OPT {
            if index < others || opt_seen || message.get(owner_at) != Some(&0) {
                return Err(ResponseError::Malformed);
            }
            opt_seen = true;
            let [rcode_hi, ..] = record.ttl_s.to_be_bytes();
            head.rcode |= u16::from(rcode_hi) << 4;
            head.read_options(record.rdata(message))?;
        }
    }
    head.is_referral = is_lame && ns_seen && !soa_seen;
    Ok(head)
}

impl ResponseHead {
    fn read_options(&mut self, rdata: &[u8]) -> Result<(), ResponseError> {
        for read in Options::new(rdata) {
            let (code, data) = read.map_err(|_| ResponseError::Malformed)?;
            match code {
                option::COOKIE if self.cookie == CookieSeen::None => {
                    self.cookie = Cookie::read(data).map_or(CookieSeen::Malformed, CookieSeen::Read);
                }
                option::CLIENT_SUBNET if self.subnet == SubnetSeen::None => {
                    let read = ClientSubnet::read(data);
                    self.subnet = read.map_or(SubnetSeen::Malformed, |(subnet, scope)| SubnetSeen::Read(subnet, scope));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether owner and RDATA of a record can be read. `name` is room to expand names in.
fn is_sound(message: &[u8], frame: &Frame, name: &mut WireName) -> bool {
    // Nearly every owner is a pointer to the question, which is ours.
    const TO_QUESTION: [u8; 2] = [0xc0, HEADER_BYTES as u8];
    let is_asked = message.get(frame.owner_at..).is_some_and(|rest| rest.starts_with(&TO_QUESTION));
    if !is_asked && expand_name(message, frame.owner_at, name).is_none() {
        return false;
    }
    let (mut at, end) = (frame.rdata_at, frame.rdata_at + usize::from(frame.rdata_bytes));
    for field in layout(frame.rtype) {
        let next = match field {
            Field::Name => expand_name(message, at, name),
            _ => field_octets(message, *field, at, end).map(|octets| at + octets.len()),
        };
        let Some(next) = next else { return false };
        at = next;
    }
    at == end
}

impl Answer {
    /// Appends what is kept of an upstream's message that [`response_head`] took: the CNAME chain from `name` in order
    /// (each CNAME behind the DNAME that it was made from) and the RRset of `qtype` at its end; the SOA (RFC 2308) when
    /// there is no such RRset; with `dnssec_ok` also denial proofs and the signatures over what is kept. A `qtype` of
    /// CNAME or ANY is looked for at `name` itself. What was there (an alias's CNAMEs) stays in front and counts towards
    /// [`CHAIN_LINKS_MAX`].
    ///
    /// RCODE and AD are not touched. After an error the answer is as it was.
    pub fn append_response(
        &mut self,
        message: &[u8],
        name: &Name,
        qtype: u16,
        dnssec_ok: bool,
    ) -> Result<(), ResponseError> {
        let (records, octets) = (self.records.len(), self.octets.len());
        let result = self
            .receive(message)
            .and_then(|()| self.keep_chain(message, *name, qtype, dnssec_ok))
            .and_then(|end| self.keep_end(message, &end, qtype, dnssec_ok));
        self.received.clear();
        if result.is_err() {
            self.records.truncate(records);
            self.octets.truncate(octets);
        }
        result
    }

    /// Fills `received` with the records of answer and authority section of class IN.
    fn receive(&mut self, message: &[u8]) -> Result<(), ResponseError> {
        self.received.clear();
        let header = message.first_chunk::<HEADER_BYTES>().ok_or(ResponseError::Malformed)?;
        let [_, _, _, _, qd_hi, qd_lo, an_hi, an_lo, ns_hi, ns_lo, _, _] = *header;
        let mut reader = Reader::new(message, HEADER_BYTES);
        let question = reader.skip_name().and_then(|()| reader.array::<4>());
        if [qd_hi, qd_lo] != [0, 1] || question.is_none() {
            return Err(ResponseError::Malformed);
        }
        let answers = usize::from(u16::from_be_bytes([an_hi, an_lo]));
        let authorities = usize::from(u16::from_be_bytes([ns_hi, ns_lo]));
        if answers + authorities > ANSWER_RECORDS_MAX {
            return Err(ResponseError::TooLarge);
        }
        let mut owner = WireName::ROOT;
        for index in 0..answers + authorities {
            let frame = reader.record().ok_or(ResponseError::Malformed)?;
            if frame.class != CLASS_IN {
                continue;
            }
            expand_name(message, frame.owner_at, &mut owner).ok_or(ResponseError::Malformed)?;
            owner.make_lowercase();
            let owner = match self.received.last() {
                // The records of a set stand together: they share one copy of their owner.
                Some(last) if last.owner.of(&self.octets) == owner.as_wire() => last.owner,
                _ => self.store(owner.as_wire())?,
            };
            let section = if index < answers { Section::Answer } else { Section::Authority };
            self.received.push(Received { section, owner, frame });
        }
        Ok(())
    }

    /// Keeps the chain's links and gives the name at its end.
    fn keep_chain(&mut self, message: &[u8], name: Name, qtype: u16, dnssec_ok: bool) -> Result<Name, ResponseError> {
        let mut end = name;
        if qtype == rtype::ANY {
            return Ok(end);
        }
        let mut links = self.records.iter().filter(|entry| entry.is_link()).count();
        while let Some(link) = self.find(&end, rtype::CNAME) {
            let target = expanded(message, link.frame.rdata_at)?;
            self.keep_dname(message, &end, &target, dnssec_ok)?;
            if qtype == rtype::CNAME {
                // The link is the data: it is kept with its set.
                break;
            }
            links += 1;
            // A loop goes on for ever, so it ends here as well.
            if links > CHAIN_LINKS_MAX {
                return Err(ResponseError::ChainTooLong);
            }
            self.keep(message, link)?;
            self.keep_signatures(message, Section::Answer, link.owner, rtype::CNAME, dnssec_ok)?;
            end = target;
        }
        Ok(end)
    }

    /// Keeps the DNAME that the CNAME from `name` to `target` was made from (RFC 6672 §3.1), if there is one.
    fn keep_dname(&mut self, message: &[u8], name: &Name, target: &Name, dnssec_ok: bool) -> Result<(), ResponseError> {
        for index in 0..self.received.len() {
            let Some(&dname) = self.received.get(index) else { break };
            if dname.section != Section::Answer || dname.frame.rtype != rtype::DNAME {
                continue;
            }
            let Ok(owner) = Name::from_wire(dname.owner.of(&self.octets)) else { continue };
            if name.label_count() <= owner.label_count() || !name.is_at_or_below(&owner) {
                continue;
            }
            let tail = expanded(message, dname.frame.rdata_at)?;
            if name.prefix_onto(name.label_count() - owner.label_count(), &tail).is_ok_and(|made| made == *target) {
                self.keep(message, dname)?;
                return self.keep_signatures(message, Section::Answer, dname.owner, rtype::DNAME, dnssec_ok);
            }
        }
        Ok(())
    }

    /// Keeps the data at the chain's end, or what says that there is none.
    fn keep_end(&mut self, message: &[u8], end: &Name, qtype: u16, dnssec_ok: bool) -> Result<(), ResponseError> {
        let mut has_data = false;
        for index in 0..self.received.len() {
            let Some(&received) = self.received.get(index) else { break };
            if received.section != Section::Answer || received.owner.of(&self.octets) != end.as_wire() {
                continue;
            }
            let wanted = match received.frame.rtype {
                rtype::RRSIG if qtype != rtype::RRSIG => {
                    dnssec_ok && (qtype == rtype::ANY || received.covers(message) == Some(qtype))
                }
                held => held == qtype || qtype == rtype::ANY,
            };
            if wanted {
                self.keep(message, received)?;
                has_data |= received.frame.rtype != rtype::RRSIG || qtype == rtype::RRSIG;
            }
        }
        if !has_data {
            self.keep_soa(message, end, dnssec_ok)?;
        }
        if dnssec_ok {
            self.keep_proofs(message)?;
        }
        Ok(())
    }

    /// Keeps the SOA of the zone that denies `end`, which must lie in that zone.
    fn keep_soa(&mut self, message: &[u8], end: &Name, dnssec_ok: bool) -> Result<(), ResponseError> {
        let soa = self.received.iter().copied().find(|received| {
            received.section == Section::Authority
                && received.frame.rtype == rtype::SOA
                && Name::from_wire(received.owner.of(&self.octets)).is_ok_and(|zone| end.is_at_or_below(&zone))
        });
        let Some(soa) = soa else { return Ok(()) };
        self.keep(message, soa)?;
        self.keep_signatures(message, Section::Authority, soa.owner, rtype::SOA, dnssec_ok)
    }

    /// Keeps NSEC and NSEC3 of the authority section with their signatures, whatever their owner: a positive answer from
    /// a wildcard needs them too, and they may come from each zone of the chain (RFC 4035 §3.1.3). They are passed on to
    /// clients that ask for them and never used here.
    fn keep_proofs(&mut self, message: &[u8]) -> Result<(), ResponseError> {
        let is_proof = |rtype| matches!(rtype, rtype::NSEC | rtype::NSEC3);
        for index in 0..self.received.len() {
            let Some(&received) = self.received.get(index) else { break };
            let wanted = is_proof(received.frame.rtype) || received.covers(message).is_some_and(is_proof);
            if received.section == Section::Authority && wanted {
                self.keep(message, received)?;
            }
        }
        Ok(())
    }

    /// Keeps the signatures over one RRset, if they are asked for.
    fn keep_signatures(
        &mut self,
        message: &[u8],
        section: Section,
        owner: Span,
        covered: u16,
        dnssec_ok: bool,
    ) -> Result<(), ResponseError> {
        if !dnssec_ok {
            return Ok(());
        }
        for index in 0..self.received.len() {
            let Some(&received) = self.received.get(index) else { break };
            if received.section == section
                && received.covers(message) == Some(covered)
                && received.owner.of(&self.octets) == owner.of(&self.octets)
            {
                self.keep(message, received)?;
            }
        }
        Ok(())
    }

    /// The first record of the answer section with this owner and type.
    fn find(&self, owner: &Name, rtype: u16) -> Option<Received> {
        self.received
            .iter()
            .find(|received| {
                received.section == Section::Answer
                    && received.frame.rtype == rtype
                    && received.owner.of(&self.octets) == owner.as_wire()
            })
            .copied()
    }

    /// Appends one received record, the names in its RDATA expanded.
    fn keep(&mut self, message: &[u8], received: Received) -> Result<(), ResponseError> {
        let frame = received.frame;
        let start = self.octets.len();
        let (mut at, end) = (frame.rdata_at, frame.rdata_at + usize::from(frame.rdata_bytes));
        for field in layout(frame.rtype) {
            if *field == Field::Name {
                let mut name = WireName::ROOT;
                at = expand_name(message, at, &mut name).ok_or(ResponseError::Malformed)?;
                self.store(name.as_wire())?;
            } else {
                let octets = field_octets(message, *field, at, end).ok_or(ResponseError::Malformed)?;
                at += octets.len();
                self.store(octets)?;
            }
        }
        if at != end {
            return Err(ResponseError::Malformed);
        }
        let rdata = self.span_from(start)?;
        // A TTL with the top bit set is read as zero (RFC 2181 §8).
        let ttl_s = if frame.ttl_s > i32::MAX as u32 { 0 } else { frame.ttl_s };
        let Received { section, owner, .. } = received;
        self.push_entry(Entry { section, rtype: frame.rtype, class: frame.class, ttl_s, owner, rdata })?;
        Ok(())
    }
}

impl Received {
    /// The type that a signature covers; none for other records.
    fn covers(&self, message: &[u8]) -> Option<u16> {
        let covered = self.frame.rdata(message).first_chunk::<2>().copied().map(u16::from_be_bytes);
        if self.frame.rtype == rtype::RRSIG { covered } else { None }
    }
}

/// The name at `at`, for comparisons.
fn expanded(message: &[u8], at: usize) -> Result<Name, ResponseError> {
    let mut name = WireName::ROOT;
    expand_name(message, at, &mut name).ok_or(ResponseError::Malformed)?;
    Name::from_wire(name.as_wire()).map_err(|_| ResponseError::Malformed)
}

const _: () = assert!(ANSWER_BYTES_MAX <= u32::MAX as usize, "a span holds any place");

#[cfg(test)]
mod tests;
