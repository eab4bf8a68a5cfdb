//! Configuration files of unbound: `local-zone`, `local-data` and `local-data-ptr`.
//!
//! A zone's type says what becomes of names in it that have no data of their own. Data of one name may be told before or
//! after its zone, so rules of zones that answer with data wait for the end of the list. Data in a transparent zone is
//! important: the rule that lets the zone's other names through would otherwise let these through as well. Invariant: a zone
//! type that is not known, or that cannot be had here, is refused, not replaced.

use corewall_sharding::name::Name;
use corewall_sharding::rule::{
    AliasLabels, Answer, AnswerRecord, BlockMode, Class, Condition, Kind, Rule, RuleKey, Scope,
};
use domain::base::iana::Rtype;
use hashbrown::{HashMap, HashSet};

use super::names::{read_address, read_name};
use super::records::{read_ttl, read_type, read_zone_name, record};
use super::report::{RefuseReason, SkipReason};
use super::sink::{Sink, Sinkholes};
use super::zone::{Entry, Progress};

/// Zones and data that wait for each other.
#[derive(Default)]
pub struct UnboundReader {
    /// Redirect zones by name.
    redirects: HashMap<Box<[u8]>, Redirect>,
    transparent: HashMap<Box<[u8]>, Transparent>,
    /// Names in their order in the list.
    names: Vec<(u64, Box<[u8]>)>,
    data: HashMap<Box<[u8]>, Vec<Data>>,
}

#[derive(Default)]
struct Redirect {
    line: u64,
}

/// What a transparent zone does with the types that a name in it has no data of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transparent {
    /// They are not there.
    ByName,
    /// They are resolved as usual.
    ByType,
}

enum Data {
    Record(AnswerRecord),
    Alias(Name, AliasLabels),
}

impl UnboundReader {
    /// Reads one line.
    pub fn line(&mut self, line: &[u8], sink: &mut Sink<'_>) {
        let text = strip_comment(line).trim_ascii();
        if text.is_empty() {
            return sink.comment();
        }
        let Some(words) = std::str::from_utf8(text).ok().and_then(split_words) else {
            return sink.refuse(text, RefuseReason::BadSyntax);
        };
        if !words.first().is_some_and(|word| !word.quoted && is_key(word.text)) {
            return sink.refuse(text, RefuseReason::BadSyntax);
        }
        let mut rest = words.as_slice();
        while let [key, after @ ..] = rest {
            // Several clauses may share a line; the values of others are passed over.
            let values = after.iter().position(|word| !word.quoted && is_key(word.text)).unwrap_or(after.len());
            let (values, next) = after.split_at(values);
            let outcome = match (key.text, values) {
                ("local-zone:", [name, kind]) => self.zone(name.text, kind.text, sink),
                ("local-data:", [data]) => self.read_data(data.text, sink),
                ("local-data-ptr:", [data]) => self.read_pointer(data.text, sink),
                ("local-zone:" | "local-data:" | "local-data-ptr:", _) => Err(RefuseReason::BadSyntax),
                _ => {
                    sink.skip(SkipReason::Directive);
                    Ok(())
                }
            };
            if let Err(reason) = outcome {
                sink.refuse(text, reason);
            }
            rest = next;
        }
    }

    fn zone(&mut self, name: &str, kind: &str, sink: &mut Sink<'_>) -> Result<(), RefuseReason> {
        let root = name == ".";
        let zone = if root { Name::ROOT } else { read_name(name.as_bytes())? };
        let block = |mode| (Kind::Block, Some(Answer::Mode(mode)), None);
        // Data of names in the zone, which the forms `_wdata` answer with, is more specific anyway.
        let block_type = |rtype: Rtype| {
            let condition = Condition { types: vec![rtype.to_int()], ..Condition::default() };
            (Kind::Block, Some(Answer::Mode(BlockMode::Nodata)), Some(condition))
        };
        let kind = kind.to_ascii_lowercase();
        match kind.as_str() {
            "transparent" | "inform" => {
                self.transparent.insert(zone.as_wire().into(), Transparent::ByName);
            }
            "typetransparent" => {
                self.transparent.insert(zone.as_wire().into(), Transparent::ByType);
            }
            _ => {}
        }
        let (kind, answer, condition) = match kind.as_str() {
            "static" | "always_nxdomain" => block(BlockMode::Nxdomain),
            "refuse" | "always_refuse" => block(BlockMode::Refused),
            "deny" | "always_deny" | "inform_deny" => block(BlockMode::Drop),
            "always_nodata" => block(BlockMode::Nodata),
            // The null addresses: blocked, and how is the operator's choice.
            "always_null" => (Kind::Block, None, None),
            "truncate" => block(BlockMode::TcpOnly),
            "block_a" | "block_a_wdata" => block_type(Rtype::A),
            "block_aaaa" | "block_aaaa_wdata" => block_type(Rtype::AAAA),
            "transparent" | "typetransparent" | "always_transparent" | "inform" => (Kind::Allow, None, None),
            "redirect" | "inform_redirect" => {
                let key: Box<[u8]> = zone.as_wire().into();
                if self.redirects.insert(key.clone(), Redirect { line: sink.line }).is_none() {
                    self.names.push((sink.line, key));
                }
                return Ok(());
            }
            "nodefault" | "noview" => {
                sink.skip(SkipReason::Directive);
                return Ok(());
            }
            "ipset" => return Err(RefuseReason::UnsupportedAction),
            _ => return Err(RefuseReason::BadSyntax),
        };
        let class = Class { answer, condition, ..sink.class(kind, Scope::Subtree) };
        sink.rule(Rule { class, key: RuleKey::Name { name: zone, target: None } }, name.as_bytes());
        Ok(())
    }

    /// `name [TTL] [IN] type data`.
    fn read_data(&mut self, text: &str, sink: &mut Sink<'_>) -> Result<(), RefuseReason> {
        let mut entry = Entry::default();
        if entry.add_line(text.trim()) != Progress::Complete {
            return Err(RefuseReason::BadRecord);
        }
        let name = read_name(entry.token(0).unwrap_or_default().as_bytes())?;
        let mut ttl_s = None;
        let mut place = 1;
        let rtype = loop {
            let token = entry.token(place).ok_or(RefuseReason::BadRecord)?;
            place += 1;
            if let Some(seconds) = read_ttl(token) {
                ttl_s = Some(seconds);
            } else if !token.eq_ignore_ascii_case("IN") {
                break read_type(token).ok_or(RefuseReason::BadRecord)?;
            }
        };
        let data = match (rtype, entry.token(place)) {
            (Rtype::CNAME, Some(target)) => match target.strip_prefix("*.") {
                // The star stands for the asked name.
                Some(target) => Data::Alias(read_zone_name(target)?, AliasLabels::All),
                None => Data::Alias(read_zone_name(target)?, AliasLabels::None),
            },
            (Rtype::SOA | Rtype::NS, _) => {
                sink.skip(SkipReason::ZoneApex);
                return Ok(());
            }
            _ => Data::Record(record(rtype, &entry.tokens_from(place), ttl_s)?),
        };
        self.add_data(name, data, sink.line);
        Ok(())
    }

    /// `address [TTL] name`.
    fn read_pointer(&mut self, text: &str, sink: &mut Sink<'_>) -> Result<(), RefuseReason> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let (address, ttl_s, target) = match *words.as_slice() {
            [address, target] => (address, None, target),
            [address, ttl, target] => (address, Some(read_ttl(ttl).ok_or(RefuseReason::BadRecord)?), target),
            _ => return Err(RefuseReason::BadRecord),
        };
        let address = read_address(address.as_bytes()).ok_or(RefuseReason::BadAddress)?;
        let reverse = match address {
            std::net::IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                format!("{d}.{c}.{b}.{a}.in-addr.arpa")
            }
            std::net::IpAddr::V6(address) => {
                let nibbles =
                    address.octets().into_iter().rev().map(|octet| format!("{:x}.{:x}.", octet & 15, octet >> 4));
                nibbles.collect::<String>() + "ip6.arpa"
            }
        };
        let name = read_zone_name(&reverse)?;
        self.add_data(name, Data::Record(record(Rtype::PTR, &[target], ttl_s)?), sink.line);
        Ok(())
    }

    fn add_data(&mut self, name: Name, data: Data, line: u64) {
        let key: Box<[u8]> = name.as_wire().into();
        if !self.redirects.contains_key(&key) && !self.data.contains_key(&key) {
            self.names.push((line, key.clone()));
        }
        self.data.entry(key).or_default().push(data);
    }

    /// The nearest transparent zone that `name` is in.
    fn transparent_zone_of(&self, name: &Name) -> Option<Transparent> {
        if self.transparent.is_empty() {
            return None;
        }
        let zones = (0..=name.label_count()).rev().map(|labels| self.transparent.get(name.suffix_wire(labels)));
        zones.flatten().next().copied()
    }

    /// Joins redirect zones with their data and hands both on.
    pub fn finish(mut self, sink: &mut Sink<'_>) {
        for (line, key) in std::mem::take(&mut self.names) {
            let Ok(name) = Name::from_wire(&key) else { continue };
            let redirect = self.redirects.remove(&key);
            sink.line = redirect.as_ref().map_or(line, |redirect| redirect.line);
            let scope = if redirect.is_some() { Scope::Subtree } else { Scope::Exact };
            let data = self.data.remove(&key).unwrap_or_default();
            if data.is_empty() && redirect.is_none() {
                // Both a zone and data named it; the first turn did both.
                continue;
            }
            let mut target = None;
            let mut records = Vec::new();
            for data in data {
                match data {
                    Data::Record(record) => records.push(record),
                    Data::Alias(name, labels) => target = Some((name, labels)),
                }
            }
            let around = self.transparent_zone_of(&name);
            let class = match (target, records.is_empty()) {
                (Some((_, alias_labels)), true) => Class { alias_labels, ..sink.class(Kind::Alias, scope) },
                (Some(_), false) => {
                    sink.refuse(name.to_string().as_bytes(), RefuseReason::BadRecord);
                    continue;
                }
                // A redirect zone without data answers with none.
                (None, true) => {
                    Class { answer: Some(Answer::Mode(BlockMode::Nodata)), ..sink.class(Kind::Block, scope) }
                }
                (None, false) => {
                    let types: HashSet<u16> = records.iter().map(|record| record.rtype).collect();
                    let mut types: Vec<u16> = types.into_iter().collect();
                    types.sort_unstable();
                    let condition = Condition { types, ..Condition::default() };
                    let condition = Some(condition).filter(|_| around == Some(Transparent::ByType));
                    Class { answer: Some(Answer::Records(records)), condition, ..sink.class(Kind::Block, scope) }
                }
            };
            let class = Class { important: class.important || around.is_some(), ..class };
            let key = RuleKey::Name { name, target: target.map(|(target, _)| target) };
            match class.answer {
                Some(Answer::Records(_)) => sink.gather(Rule { class, key }, Sinkholes::Block),
                _ => sink.rule(Rule { class, key }, name.to_string().as_bytes()),
            }
        }
    }
}

struct Word<'t> {
    text: &'t str,
    quoted: bool,
}

fn is_key(text: &str) -> bool {
    text.strip_suffix(':').is_some_and(|key| {
        !key.is_empty()
            && key.bytes().all(|octet| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'-')
    })
}

/// A `#` begins a comment outside quotes.
fn strip_comment(line: &[u8]) -> &[u8] {
    let mut quote = None;
    for (at, &octet) in line.iter().enumerate() {
        match (quote, octet) {
            (None, b'#') => return line.get(..at).unwrap_or_default(),
            (None, b'"' | b'\'') => quote = Some(octet),
            (Some(open), _) if open == octet => quote = None,
            _ => {}
        }
    }
    line
}

/// Splits at blanks outside quotes; none when a quote stays open. Both sorts of quotes hold words together.
fn split_words(text: &str) -> Option<Vec<Word<'_>>> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if matches!(first, '"' | '\'') {
            let (inner, after) = rest.get(1..)?.split_once(first)?;
            words.push(Word { text: inner, quoted: true });
            rest = after.trim_start();
        } else {
            // A key ends with its colon, whether or not a blank follows.
            let end = rest.find([' ', '\t', '"', '\'']).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            words.push(Word { text: word, quoted: false });
            rest = after.trim_start();
        }
    }
    Some(words)
}
