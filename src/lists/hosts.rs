//! Lists in the syntax of `/etc/hosts`: an address, then names.
//!
//! Invariant: the address is checked before a name is looked at, so that no line without one becomes a rule, and a name of the
//! machine itself never does.

use std::net::{IpAddr, Ipv4Addr};

use corewall_sharding::rule::{Answer, Kind, Rule, RuleKey, Scope};
use memchr::memchr;

use super::names::{is_local_name, is_sinkhole, read_address, read_name_or_below};
use super::plain::read_word;
use super::records::address_record;
use super::report::{RefuseReason, SkipReason};
use super::sink::{Sink, Sinkholes};

/// Reads one line.
pub fn line(line: &[u8], sink: &mut Sink<'_>) {
    let text = match memchr(b'#', line) {
        Some(at) => line.get(..at).unwrap_or_default(),
        None => line,
    }
    .trim_ascii();
    if text.is_empty() {
        return sink.comment();
    }
    let end = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
    let (first, names) = text.split_at(end);
    let address = match first {
        // What nearly every line of a block list begins with; some lists save octets by writing `0`.
        b"0.0.0.0" | b"0" => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        b"127.0.0.1" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        _ => read_address(first),
    };
    match address {
        Some(_) if names.is_empty() => sink.refuse(text, RefuseReason::BadSyntax),
        Some(address) => read_hosts_line(address, names, sink),
        None => sink.refuse(text, RefuseReason::BadAddress),
    }
}

/// Reads the names that stand behind an address.
pub fn read_hosts_line(address: IpAddr, names: &[u8], sink: &mut Sink<'_>) {
    let is_sinkhole = is_sinkhole(address);
    for text in names.split(u8::is_ascii_whitespace).filter(|text| !text.is_empty()) {
        if is_local_name(text) {
            sink.skip(SkipReason::LocalName);
        } else if is_sinkhole {
            read_word(text, sink);
        } else {
            read_answer(address, text, sink);
        }
    }
}

/// Reads a name whose address is one to answer with.
fn read_answer(address: IpAddr, text: &[u8], sink: &mut Sink<'_>) {
    let (name, below) = match read_name_or_below(text) {
        Ok(read) => read,
        Err(reason) => return sink.refuse(text, reason),
    };
    if !sink.options.hosts_addresses {
        return sink.skip(SkipReason::HostsAddress);
    }
    let scope = match (below, sink.options.subtree) {
        (true, _) => Scope::Below,
        (false, true) => Scope::Subtree,
        (false, false) => Scope::Exact,
    };
    let mut class = sink.class(Kind::Block, scope);
    class.answer = Some(Answer::Records(vec![address_record(address, None)]));
    sink.gather(Rule { class, key: RuleKey::Name { name, target: None } }, Sinkholes::Block);
}
