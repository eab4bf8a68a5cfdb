//! Configuration files of dnsmasq.
//!
//! A name stands for itself and everything under it, except where dnsmasq matches exactly (`cname=`, `host-record=` and the
//! record directives). Directives that say nothing about names are skipped and counted; a name such as `local-dates.com` is
//! no directive, whatever its beginning.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use corewall_sharding::name::{Name, NameError};
use corewall_sharding::rule::{
    AliasLabels, Answer, AnswerRecord, BlockMode, Class, IpRewrite, Kind, Rule, RuleKey, Scope,
};
use domain::base::iana::Rtype;
use ipnet::{IpNet, Ipv4Net, Ipv4Subnets};

use super::adblock_pattern::{Limits, NoRule, read_pattern};
use super::names::{is_sinkhole, read_name, read_name_or_below};
use super::records::{address_record, read_ttl, record};
use super::report::{RefuseReason, SkipReason};
use super::sink::{Sink, Sinkholes};

/// Port of DNS.
const PORT: u16 = 53;
/// Addresses that one `alias=` with a mask may move; each becomes a rewrite of its own.
const ALIAS_ADDRESSES_MAX: u32 = 1_024;
/// Names in one directive.
const NAMES_MAX: usize = 1_024;

type Outcome = Result<(), RefuseReason>;

/// Reads one line.
pub fn line(line: &[u8], sink: &mut Sink<'_>) {
    let text = strip_comment(line).trim_ascii();
    if text.is_empty() {
        return sink.comment();
    }
    let Ok(text) = std::str::from_utf8(text) else {
        return sink.refuse(text, RefuseReason::BadSyntax);
    };
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key.trim_end(), value.trim_start()),
        None => (text, ""),
    };
    if key.is_empty() || !key.bytes().all(|octet| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'-')
    {
        return sink.refuse(text.as_bytes(), RefuseReason::BadSyntax);
    }
    let outcome = match key {
        "address" => address(value, sink),
        "server" | "local" => server(value, sink),
        "cname" => cname(value, sink),
        "alias" => alias(value, sink),
        "host-record" => host_record(value, sink),
        "txt-record" => named_record(Rtype::TXT, value, sink),
        "mx-host" => mx_host(value, sink),
        "srv-host" => srv_host(value, sink),
        "ptr-record" => named_record(Rtype::PTR, value, sink),
        _ => {
            sink.skip(SkipReason::Directive);
            Ok(())
        }
    };
    if let Err(reason) = outcome {
        sink.refuse(text.as_bytes(), reason);
    }
}

/// A `#` begins a comment at the start of a line and behind a blank, outside quotes.
fn strip_comment(line: &[u8]) -> &[u8] {
    let mut quoted = false;
    let mut blank = true;
    for (at, &octet) in line.iter().enumerate() {
        if octet == b'"' {
            quoted = !quoted;
        } else if octet == b'#' && blank && !quoted {
            return line.get(..at).unwrap_or_default();
        }
        blank = octet.is_ascii_whitespace();
    }
    line
}

/// Splits `/a/b/value` into its names and the value; none without the leading slash.
fn split_names(text: &str) -> Option<(impl Iterator<Item = &str> + Clone, &str)> {
    let (names, value) = text.strip_prefix('/')?.rsplit_once('/')?;
    Some((names.split('/').take(NAMES_MAX), value))
}

/// Calls `put` with the key and scope of every name, and refuses those that cannot be read.
fn each_name<'t>(
    names: impl Iterator<Item = &'t str>,
    sink: &mut Sink<'_>,
    mut put: impl FnMut(&mut Sink<'_>, RuleKey, Scope, &str),
) {
    for text in names {
        match read_key(text, sink.options.allow_wide) {
            Ok((key, scope)) => put(sink, key, scope, text),
            Err(reason) => sink.refuse(text.as_bytes(), reason),
        }
    }
}

fn read_key(text: &str, allow_wide: bool) -> Result<(RuleKey, Scope), RefuseReason> {
    let name = |name, scope| (RuleKey::Name { name, target: None }, scope);
    match text {
        // Any name at all.
        "#" => Ok(name(Name::ROOT, Scope::Subtree)),
        // Names without a dot.
        "" => Err(RefuseReason::Name(NameError::Empty)),
        _ => match text.strip_prefix('*') {
            Some(below) if below.starts_with('.') => {
                read_name(&below.as_bytes()[1..]).map(|read| name(read, Scope::Below))
            }
            // `*name` matches whatever ends so.
            Some(ending) => match read_pattern(&format!("*{ending}|"), Limits { allow_wide, narrowed: false }) {
                Ok(pattern) => Ok(pattern.into_key(None)),
                Err(NoRule::Refuse(reason)) => Err(reason),
                Err(NoRule::Skip(_)) => Err(RefuseReason::Name(NameError::BadCharacter)),
            },
            None => read_name(text.as_bytes()).map(|read| name(read, Scope::Subtree)),
        },
    }
}

fn address(value: &str, sink: &mut Sink<'_>) -> Outcome {
    let (names, value) = split_names(value).ok_or(RefuseReason::BadSyntax)?;
    let answer = match value {
        "" => Some(Answer::Mode(BlockMode::Nxdomain)),
        // The null addresses of both families: blocked, and how is the operator's choice.
        "#" => None,
        _ => {
            let address: IpAddr = value.parse().map_err(|_| RefuseReason::BadAddress)?;
            (!is_sinkhole(address)).then(|| Answer::Records(vec![address_record(address, None)]))
        }
    };
    each_name(names, sink, |sink, key, scope, text| {
        let class = Class { answer: answer.clone(), ..sink.class(Kind::Block, scope) };
        put_rule(Rule { class, key }, text, sink);
    });
    Ok(())
}

fn server(value: &str, sink: &mut Sink<'_>) -> Outcome {
    let Some((names, value)) = split_names(value) else {
        // A server for all names is upstream configuration, not a rule.
        sink.skip(SkipReason::Directive);
        return Ok(());
    };
    let (kind, answer, servers) = match value {
        "" => (Kind::Block, Some(Answer::Mode(BlockMode::Nxdomain)), Vec::new()),
        // The servers of all other names, out of a subtree that has its own or none.
        "#" => (Kind::Allow, None, Vec::new()),
        _ => (Kind::ForwardAllow, None, vec![read_server(value)?]),
    };
    each_name(names, sink, |sink, key, scope, text| {
        let class = Class { answer: answer.clone(), servers: servers.clone(), ..sink.class(kind, scope) };
        put_rule(Rule { class, key }, text, sink);
    });
    Ok(())
}

/// Reads `address`, `address#port`; an interface behind `@` cannot be honoured.
fn read_server(text: &str) -> Result<SocketAddr, RefuseReason> {
    if text.contains('@') {
        return Err(RefuseReason::UnsupportedAction);
    }
    let (address, port) = match text.split_once('#') {
        Some((address, port)) => (address, port.parse().map_err(|_| RefuseReason::BadAddress)?),
        None => (text, PORT),
    };
    let address: IpAddr = address.parse().map_err(|_| RefuseReason::BadAddress)?;
    // Lists block by a server that does not exist. Here that would be this very process.
    if is_sinkhole(address) && port == PORT {
        return Err(RefuseReason::ForwardLoop);
    }
    Ok(SocketAddr::new(address, port))
}

fn put_rule(rule: Rule, text: &str, sink: &mut Sink<'_>) {
    let joined = matches!(rule.class.answer, Some(Answer::Records(_))) || !rule.class.servers.is_empty();
    if joined { sink.gather(rule, Sinkholes::Block) } else { sink.rule(rule, text.as_bytes()) }
}

/// `cname=<alias>,[<alias>,]<target>[,<TTL>]`, exact unless an alias begins with `*.`.
fn cname(value: &str, sink: &mut Sink<'_>) -> Outcome {
    let mut parts: Vec<&str> = value.split(',').map(str::trim).collect();
    if parts.len() > 2 && parts.last().is_some_and(|last| last.bytes().all(|octet| octet.is_ascii_digit())) {
        parts.pop();
    }
    let Some((target, aliases)) = parts.split_last().filter(|(_, aliases)| !aliases.is_empty()) else {
        return Err(RefuseReason::BadSyntax);
    };
    let target = read_name(target.as_bytes())?;
    for text in aliases.iter().take(NAMES_MAX) {
        match read_name_or_below(text.as_bytes()) {
            Ok((name, below)) => {
                let scope = if below { Scope::Below } else { Scope::Exact };
                let class = Class { alias_labels: AliasLabels::None, ..sink.class(Kind::Alias, scope) };
                let key = RuleKey::Name { name, target: Some(target) };
                sink.rule(Rule { class, key }, text.as_bytes());
            }
            Err(reason) => sink.refuse(text.as_bytes(), reason),
        }
    }
    Ok(())
}

/// `alias=<old>[-<end>],<new>[,<mask>]`: addresses in answers are replaced. With a mask, the masked bits come from `new` and
/// the others stay, which is told address by address.
fn alias(value: &str, sink: &mut Sink<'_>) -> Outcome {
    let parts: Vec<&str> = value.split(',').map(str::trim).collect();
    let (old, new, mask) = match *parts.as_slice() {
        [old, new] => (old, new, "255.255.255.255"),
        [old, new, mask] => (old, new, mask),
        _ => return Err(RefuseReason::BadSyntax),
    };
    let read = |text: &str| text.parse::<Ipv4Addr>().map_err(|_| RefuseReason::BadAddress);
    let (new, mask) = (u32::from(read(new)?), u32::from(read(mask)?));
    let (first, last) = match old.split_once('-') {
        Some((first, last)) => (read(first)?, read(last)?),
        // Without a range, all addresses that the mask does not tell apart.
        None => (Ipv4Addr::from(u32::from(read(old)?) & mask), Ipv4Addr::from(u32::from(read(old)?) | !mask)),
    };
    if first > last || mask.leading_ones() != mask.count_ones() {
        return Err(RefuseReason::BadAddress);
    }
    let list = sink.options.list;
    if mask == u32::MAX {
        for net in Ipv4Subnets::new(first, last, 0) {
            sink.rewrite(IpRewrite { from: IpNet::V4(net), to: IpAddr::V4(new.into()), list });
        }
        return Ok(());
    }
    if u32::from(last) - u32::from(first) >= ALIAS_ADDRESSES_MAX {
        return Err(RefuseReason::UnsupportedAction);
    }
    for address in u32::from(first)..=u32::from(last) {
        let to = IpAddr::V4(((address & !mask) | (new & mask)).into());
        sink.rewrite(IpRewrite { from: IpNet::V4(Ipv4Net::from(Ipv4Addr::from(address))), to, list });
    }
    Ok(())
}

/// `host-record=<name>[,<name>...],[<IPv4>],[<IPv6>][,<TTL>]`.
fn host_record(value: &str, sink: &mut Sink<'_>) -> Outcome {
    let mut names = Vec::new();
    let mut addresses: Vec<IpAddr> = Vec::new();
    let mut ttl_s = None;
    for part in value.split(',').map(str::trim).filter(|part| !part.is_empty()).take(NAMES_MAX) {
        match part.parse() {
            Ok(address) => addresses.push(address),
            Err(_) if part.bytes().all(|octet| octet.is_ascii_digit()) => ttl_s = read_ttl(part),
            Err(_) => names.push(read_name(part.as_bytes())?),
        }
    }
    if names.is_empty() || addresses.is_empty() {
        return Err(RefuseReason::BadSyntax);
    }
    for name in names {
        let records = addresses.iter().map(|&address| address_record(address, ttl_s)).collect();
        put_records(name, records, sink);
    }
    Ok(())
}

/// `<name>,<data>[,<data>...]`.
fn named_record(rtype: Rtype, value: &str, sink: &mut Sink<'_>) -> Outcome {
    let mut parts = value.split(',').map(|part| part.trim().trim_matches('"'));
    let name = read_name(parts.next().unwrap_or_default().as_bytes())?;
    let data: Vec<&str> = parts.collect();
    put_records(name, vec![record(rtype, &data, None)?], sink);
    Ok(())
}

/// `mx-host=<name>,<target>[,<preference>]`; without a target it speaks of the machine's own name.
fn mx_host(value: &str, sink: &mut Sink<'_>) -> Outcome {
    let parts: Vec<&str> = value.split(',').map(str::trim).collect();
    let (name, target, preference) = match *parts.as_slice() {
        [name, target] => (name, target, "1"),
        [name, target, preference] => (name, target, preference),
        _ => return Err(RefuseReason::UnsupportedAction),
    };
    let name = read_name(name.as_bytes())?;
    put_records(name, vec![record(Rtype::MX, &[preference, target], None)?], sink);
    Ok(())
}

/// `srv-host=<name>[,<target>[,<port>[,<priority>[,<weight>]]]]`.
fn srv_host(value: &str, sink: &mut Sink<'_>) -> Outcome {
    let parts: Vec<&str> = value.split(',').map(str::trim).collect();
    let part = |place: usize, default| parts.get(place).copied().filter(|part| !part.is_empty()).unwrap_or(default);
    let name = read_name(part(0, "").as_bytes())?;
    let data = [part(3, "0"), part(4, "0"), part(2, "1"), part(1, ".")];
    put_records(name, vec![record(Rtype::SRV, &data, None)?], sink);
    Ok(())
}

fn put_records(name: Name, records: Vec<AnswerRecord>, sink: &mut Sink<'_>) {
    let class = Class { answer: Some(Answer::Records(records)), ..sink.class(Kind::Block, Scope::Exact) };
    sink.gather(Rule { class, key: RuleKey::Name { name, target: None } }, Sinkholes::Block);
}
