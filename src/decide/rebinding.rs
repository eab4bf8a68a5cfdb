//! Stage 9, rebinding: private addresses that an upstream gives to public names are not passed on.
//!
//! A page of `evil.example` whose name turns into `192.168.0.1` may speak with the router behind the browser's back. Judged
//! before addresses are replaced, so that an operator may give private ones himself, and whatever the rules say: an allowed
//! name is not one that may point into this network.
//!
//! Invariant: an answer with one private address is refused whole, for its other addresses are the attacker's; it becomes
//! NODATA, because REFUSED would send a client to its next resolver. What is kept of it is that denial.
//!
//! Spared are answers of groups with `private_answers`, and names at or below the exceptions. The name that was asked
//! counts, for by that one a browser tells sites apart, and not the end of the upstream's CNAME chain: anybody may point a
//! chain at an excepted name. A name that the operator's own alias or record leads to counts as asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ahash::RandomState;
use corewall_sharding::name::Name;
use hashbrown::HashSet;

use super::answer::{Record, Section};
use super::block;
use super::query::Query;
use super::step::{Now, Step, Ticket};
use super::upstream::GroupId;
use super::why::{Failure, Why};
use super::wire::rtype;
use super::{Core, cache, lost};

/// Whether private addresses in upstreams' answers are refused, and where not. Immutable.
#[derive(Clone, Debug, Default)]
pub struct Rebinding {
    is_on: bool,
    /// Names that may have private addresses, as everything below them.
    exceptions: HashSet<Box<[u8]>, RandomState>,
    /// Upstream groups that may give them.
    groups: Vec<String>,
}

impl PartialEq for Rebinding {
    fn eq(&self, other: &Self) -> bool {
        // While it is off, the exceptions change nothing.
        (!self.is_on && !other.is_on)
            || (self.is_on, &self.exceptions, &self.groups) == (other.is_on, &other.exceptions, &other.groups)
    }
}

impl Rebinding {
    /// Refuses private addresses but those of `exceptions` and everything below, and those that `groups` give.
    pub fn refused_except<'a>(exceptions: impl IntoIterator<Item = &'a Name>, groups: Vec<String>) -> Self {
        let exceptions = exceptions.into_iter().map(|name| name.as_wire().into()).collect();
        Self { is_on: true, exceptions, groups }
    }

    /// The numbers of the groups that may give private addresses.
    pub(super) fn trusted_groups(&self, number: impl Fn(&str) -> GroupId) -> Vec<GroupId> {
        self.groups.iter().map(|name| number(name)).collect()
    }

    /// Whether answers are looked at.
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Whether this address is refused to names that are no exception.
    pub fn refuses(&self, address: IpAddr) -> bool {
        self.is_on && is_private(address)
    }

    fn spares(&self, name: &Name) -> bool {
        !self.exceptions.is_empty()
            && (0..=name.label_count()).any(|labels| self.exceptions.contains(name.suffix_wire(labels)))
    }
}

impl Query {
    /// Whether an exception speaks for this query.
    fn is_spared_by(&self, rebinding: &Rebinding) -> bool {
        rebinding.spares(&self.question.name) || (!self.is_linked_upstream && rebinding.spares(self.resolved()))
    }

    /// Whether an upstream's chain led it to a name that may have private addresses, while itself it may not: what the cache
    /// holds of that name is not for it.
    pub(super) fn is_led_by_upstream_to_private(&self, rebinding: &Rebinding) -> bool {
        rebinding.is_on && self.is_linked_upstream && !self.is_spared_by(rebinding)
    }
}

impl Core {
    /// Whether the upstream's answer at hand gives a private address to a name that may have none. On the hot path.
    pub(super) fn is_rebinding(&self, ticket: Ticket) -> bool {
        let rebinding = &self.settings.rebinding;
        if !rebinding.is_on {
            return false;
        }
        let Some(query) = self.queries.get(ticket) else { return false };
        matches!(query.question.qtype, rtype::A | rtype::AAAA | rtype::SVCB | rtype::HTTPS)
            // It has been looked at before it was kept.
            && !query.is_recalled
            && self.answer.records().any(|record| tells_private_address(&record))
            && !self.trusted_groups.contains(&query.group)
            && !query.is_spared_by(rebinding)
    }

    /// Answers that there is no such data, and says why.
    pub(super) fn refuse_rebinding(&mut self, now: Now, ticket: Ticket, out: &mut [u8]) -> Step {
        let Some(query) = self.queries.get(ticket) else { return lost() };
        self.counters.rebinding_refused.add(1);
        // It stands on the upstream's answer, which may change sooner.
        let ttl_s = self.answer.ttl_s_min().unwrap_or(0).min(self.settings.block_ttl_s);
        if block::answer_nodata(&mut self.answer, &query.question.name, ttl_s).is_err() {
            return lost();
        }
        self.body.compose(&query.question, &self.answer);
        let origin = cache::Origin::Derived { group: query.group };
        self.conclude(now, ticket, origin, ttl_s, Some(Why::Failure(Failure::PrivateAddress)), out)
    }
}

fn tells_private_address(record: &Record<'_>) -> bool {
    if record.section != Section::Answer {
        return false;
    }
    match record.rtype {
        rtype::A => <[u8; 4]>::try_from(record.rdata).is_ok_and(|octets| is_private(IpAddr::from(octets))),
        rtype::AAAA => <[u8; 16]>::try_from(record.rdata).is_ok_and(|octets| is_private(IpAddr::from(octets))),
        rtype::SVCB | rtype::HTTPS => hints_private_address(record.rdata).unwrap_or(false),
        _ => false,
    }
}

/// Looks through the address hints of SVCB and HTTPS data (RFC 9460 §7.3); none when the data is malformed, which no client
/// reads. Each octet is looked at once.
fn hints_private_address(rdata: &[u8]) -> Option<bool> {
    const IPV4_HINT: u16 = 4;
    const IPV6_HINT: u16 = 6;
    let (_priority, mut rest) = rdata.split_first_chunk::<2>()?;
    loop {
        let (&label, behind) = rest.split_first()?;
        rest = behind.get(usize::from(label)..)?;
        if label == 0 {
            break;
        }
    }
    while !rest.is_empty() {
        let ([key_hi, key_lo, len_hi, len_lo], behind) = rest.split_first_chunk::<4>()?;
        let (value, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes([*len_hi, *len_lo])))?;
        let has_private = match u16::from_be_bytes([*key_hi, *key_lo]) {
            IPV4_HINT => value.as_chunks::<4>().0.iter().any(|octets| is_private(IpAddr::from(*octets))),
            IPV6_HINT => value.as_chunks::<16>().0.iter().any(|octets| is_private(IpAddr::from(*octets))),
            _ => false,
        };
        if has_private {
            return Some(true);
        }
        rest = behind;
    }
    Some(false)
}

/// Whether an address leads into the client's own network or machine, or into that of its provider.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_private_v4(v4),
        IpAddr::V6(v6) => is_private_v6(v6),
    }
}

fn is_private_v4(v4: Ipv4Addr) -> bool {
    let [first, second, ..] = v4.octets();
    // RFC 1918, RFC 1122 §3.2.1.3 (127/8), RFC 3927.
    v4.is_private() || v4.is_loopback() || v4.is_link_local()
        // "This network" (RFC 6890 §2.2.2): many systems take 0.0.0.0 for themselves.
        || first == 0
        // Shared by customers of one provider (RFC 6598).
        || (first == 100 && second & 0xc0 == 64)
}

fn is_private_v6(v6: Ipv6Addr) -> bool {
    match v6.segments() {
        // Mapped (RFC 4291 §2.5.5.2), and what a NAT64 turns into IPv4 again (RFC 6052 §3.1 forbids such addresses there).
        [0, 0, 0, 0, 0, 0xffff, _, _] | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => {
            let [.., a, b, c, d] = v6.octets();
            is_private_v4(Ipv4Addr::new(a, b, c, d))
        }
        // The unspecified and the loopback address; the others beside them are mapped ones of long ago (RFC 4291 §2.5.5.1).
        [0, 0, 0, 0, 0, 0, _, _] => true,
        // RFC 4193, link-local (RFC 4291 §2.5.6), site-local (RFC 3879).
        [first, ..] => first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfe80 || first & 0xffc0 == 0xfec0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_those_of_the_clients_own_networks() {
        let private = [
            "10.0.0.0",
            "10.255.255.255",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.1.1",
            "0.0.0.0",
            "0.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "::",
            "::1",
            "::10.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "64:ff9b::192.168.1.1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
        ];
        for address in private {
            assert!(is_private(address.parse().unwrap()), "{address}");
        }
        let public = [
            "9.255.255.255",
            "11.0.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.0.1",
            "192.169.0.1",
            "128.0.0.1",
            "126.0.0.1",
            "169.253.0.1",
            "100.63.255.255",
            "100.128.0.0",
            "1.0.0.1",
            "192.0.2.1",
            "192.0.0.170",
            "::ffff:192.0.2.1",
            "64:ff9b::192.0.2.1",
            "64:ff9b:1::10.0.0.1",
            "2001:db8::1",
            "fbff::1",
            "fe00::1",
            "ff02::1",
        ];
        for address in public {
            assert!(!is_private(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn hints_are_found_wherever_they_stand_and_broken_data_is_no_hint() {
        let https = |data: &str| crate::rdata::parse("HTTPS", data).unwrap().1;
        for data in ["1 . ipv4hint=192.0.2.1,10.0.0.1", "1 a.example. alpn=h2 ipv6hint=2001:db8::1,fd00::1"] {
            let rdata = https(data);
            assert_eq!(hints_private_address(&rdata), Some(true), "{data}");
            for end in 0..rdata.len() {
                assert_ne!(hints_private_address(&rdata[..end]), Some(true), "{data}: {end}");
            }
        }
        for data in ["0 a.example.", "1 .", "1 . alpn=h2 port=2560", "1 . ipv4hint=192.0.2.1 ipv6hint=2001:db8::1"] {
            assert_eq!(hints_private_address(&https(data)), Some(false), "{data}");
        }
    }

    #[test]
    fn exceptions_hold_for_the_name_and_everything_below() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        let rebinding = Rebinding::refused_except(&[name("corp.example"), name("box.example")], Vec::new());
        for text in ["corp.example", "a.b.corp.example", "box.example"] {
            assert!(rebinding.spares(&name(text)), "{text}");
        }
        for text in ["example", "xcorp.example", "corp.example.net", "."] {
            assert!(!rebinding.spares(&name(text)), "{text}");
        }
        assert!(Rebinding::refused_except(&[Name::ROOT], Vec::new()).spares(&name("a.b")));
    }

    #[test]
    fn a_change_that_changes_nothing_is_none() {
        let corp: Name = "corp.example".parse().unwrap();
        let off = || Rebinding { is_on: false, ..Rebinding::refused_except(&[corp], Vec::new()) };
        assert_eq!(off(), Rebinding::default());
        assert_ne!(Rebinding::refused_except([], Vec::new()), Rebinding::default());
        assert_ne!(Rebinding::refused_except([], Vec::new()), Rebinding::refused_except(&[corp], Vec::new()));
        assert_ne!(Rebinding::refused_except([], Vec::new()), Rebinding::refused_except([], vec!["default".into()]));
    }
}
