//! From a block verdict to the records that answer it.

use std::net::IpAddr;

use corewall_sharding::name::Name;
use corewall_sharding::rule::{Answer as RuleAnswer, AnswerRecord, BlockMode, Class};

use super::answer::{Answer, AnswerFull, Section};
use super::rulebook::ListBook;
use super::wire::{CLASS_IN, rcode, rtype};

/// What becomes of a blocked question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// The answer has been filled in.
    Answered,
    /// No reply at all.
    Dropped,
    /// Over UDP a reply with TC; over TCP the question is resolved.
    TcpOnly,
}

/// What the configuration adds to a rule.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// Where neither rule nor list say so: the policy's mode, else the global one.
    pub mode: BlockMode,
    /// Where neither rule nor list say so.
    pub ttl_s: u32,
}

/// Fills `answer`, emptied first unless the outcome leaves it alone, with what a blocked question for `name` and `qtype` gets. `class` and `list` are those of
/// the rule; none when all is blocked because the store failed. On the hot path.
pub fn answer(
    answer: &mut Answer,
    name: &Name,
    qtype: u16,
    class: Option<&Class>,
    list: Option<&ListBook>,
    defaults: Defaults,
) -> Result<Blocked, AnswerFull> {
    let ttl_s = list.and_then(|list| list.list.block_ttl_s).unwrap_or(defaults.ttl_s);
    let mode = match class.and_then(|class| class.answer.as_ref()) {
        Some(RuleAnswer::Records(records)) => {
            answer.clear();
            push_records(answer, name, qtype, records, ttl_s)?;
            return finish_negative(answer, name, rcode::NOERROR, ttl_s);
        }
        Some(RuleAnswer::Mode(mode)) => *mode,
        None => list.and_then(|list| list.list.block_mode).unwrap_or(defaults.mode),
    };
    if !matches!(mode, BlockMode::Drop | BlockMode::TcpOnly) {
        answer.clear();
    }
    match mode {
        BlockMode::Drop => Ok(Blocked::Dropped),
        BlockMode::TcpOnly => Ok(Blocked::TcpOnly),
        BlockMode::Refused => {
            answer.rcode = rcode::REFUSED;
            Ok(Blocked::Answered)
        }
        BlockMode::Nxdomain => finish_negative(answer, name, rcode::NXDOMAIN, ttl_s),
        BlockMode::Nodata => finish_negative(answer, name, rcode::NOERROR, ttl_s),
        BlockMode::Zero | BlockMode::Sinkhole => {
            match (mode, qtype) {
                (BlockMode::Zero, rtype::A) => push_own(answer, name, rtype::A, ttl_s, &[0; 4])?,
                (BlockMode::Zero, rtype::AAAA) => push_own(answer, name, rtype::AAAA, ttl_s, &[0; 16])?,
                _ => push_sinkhole(answer, name, qtype, mode, list, ttl_s)?,
            }
            finish_negative(answer, name, rcode::NOERROR, ttl_s)
        }
    }
}

/// An answer without data that may be kept for `ttl_s` seconds.
pub fn answer_nodata(answer: &mut Answer, name: &Name, ttl_s: u32) -> Result<(), AnswerFull> {
    answer.clear();
    finish_negative(answer, name, rcode::NOERROR, ttl_s).map(drop)
}

/// The minimal answer to QTYPE ANY (RFC 8482 §4.2).
pub fn answer_any(answer: &mut Answer, name: &Name) -> Result<(), AnswerFull> {
    answer.clear();
    push_own(answer, name, rtype::HINFO, 3_600, b"\x07RFC8482\0")
}

fn push_own(answer: &mut Answer, name: &Name, rtype: u16, ttl_s: u32, rdata: &[u8]) -> Result<(), AnswerFull> {
    answer.push(Section::Answer, name, rtype, CLASS_IN, ttl_s, rdata)
}

fn push_records(
    answer: &mut Answer,
    name: &Name,
    qtype: u16,
    records: &[AnswerRecord],
    ttl_s: u32,
) -> Result<(), AnswerFull> {
    for record in records.iter().filter(|record| record.rtype == qtype || qtype == rtype::ANY) {
        push_own(answer, name, record.rtype, record.ttl_s.unwrap_or(ttl_s), &record.rdata)?;
    }
    Ok(())
}

fn push_sinkhole(
    answer: &mut Answer,
    name: &Name,
    qtype: u16,
    mode: BlockMode,
    list: Option<&ListBook>,
    ttl_s: u32,
) -> Result<(), AnswerFull> {
    let Some(list) = list else { return Ok(()) };
    if mode == BlockMode::Sinkhole {
        for address in &list.list.sinkhole {
            match address {
                IpAddr::V4(v4) if qtype == rtype::A => push_own(answer, name, rtype::A, ttl_s, &v4.octets())?,
                IpAddr::V6(v6) if qtype == rtype::AAAA => push_own(answer, name, rtype::AAAA, ttl_s, &v6.octets())?,
                _ => {}
            }
        }
    }
    if qtype != rtype::A && qtype != rtype::AAAA {
        push_records(answer, name, qtype, &list.answers, ttl_s)?;
    }
    Ok(())
}

/// An answer without records gets an SOA, so that it can be cached for the block TTL (RFC 2308 §5).
fn finish_negative(answer: &mut Answer, name: &Name, rcode: u16, ttl_s: u32) -> Result<Blocked, AnswerFull> {
    answer.rcode = rcode;
    if answer.is_empty() {
        // MNAME and RNAME lie under `invalid` (RFC 6761 §6.4): nobody is to be asked about a blocked name.
        let mut rdata =
            *b"\x07blocked\x07invalid\0\x06nobody\x07invalid\0\0\0\0\x01\0\0\x0e\x10\0\0\x02\x58\0\x01\x51\x80....";
        if let Some((_, minimum)) = rdata.split_last_chunk_mut::<4>() {
            *minimum = ttl_s.to_be_bytes();
        }
        answer.push(Section::Authority, name, rtype::SOA, CLASS_IN, ttl_s, &rdata)?;
    }
    Ok(Blocked::Answered)
}
