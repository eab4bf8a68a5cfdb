//! Names that are answered here without a record of the configuration: special-use names, canary domains, and the reverse
//! zones of addresses that have a meaning in this network alone.
//!
//! | names | answer | why |
//! |---|---|---|
//! | `localhost` and below, their reverse names | the loopback addresses, `localhost` | RFC 6761 §6.3, RFC 6303 §4 |
//! | `invalid`, `test`, `onion`, `local` | NXDOMAIN | RFC 6761 §6.4 and §6.2, RFC 7686 §2, RFC 6762 §22.1 |
//! | `alt` | NXDOMAIN | RFC 9476: names of no DNS; the root says the same, and need not learn them |
//! | `home.arpa`, `service.arpa` | NXDOMAIN below, NODATA; DS from the parent | RFC 8375 §4, RFC 9665 |
//! | `resolver.arpa` and below | NODATA | RFC 9462 §4: there is no designated resolver |
//! | `10.in-addr.arpa` and its kin | NXDOMAIN below, NODATA; DS from the parent | RFC 6303 §4 |
//! | `use-application-dns.net` | NXDOMAIN | Firefox leaves its own DNS over HTTPS off (support.mozilla.org, "Canary domain") |
//! | `mask.icloud.com`, `mask-h2.icloud.com` | NXDOMAIN | Apple's Private Relay stays off and says so (developer.apple.com, "Prepare your network or web server for iCloud Private Relay") |
//!
//! Not here: `example` and `example.com`, which are resolved as any name (RFC 6761 §6.5), and `ipv4only.arpa`, which a
//! forwarder passes on, for an upstream with DNS64 tells its prefix by it (RFC 8880 §7.1).

use corewall_sharding::name::Name;

use super::{LOCAL_TTL_S, Served, push_soa};
use crate::decide::answer::{Answer, AnswerFull, Section};
use crate::decide::wire::{CLASS_IN, rcode, rtype};

/// Seconds in the answers for special-use names, as RFC 6303 §3 has them.
const SPECIAL_TTL_S: u32 = 10_800;

/// What is said of a special-use name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Special {
    /// `localhost` and all names under it: loopback addresses (RFC 6761 §6.3).
    Loopback,
    /// The name of a loopback address: `localhost.` (RFC 6761 §6.3, RFC 6303 §4).
    LoopbackPointer { labels: usize },
    /// There is no such name in the zone of so many labels.
    Absent { labels: usize },
    /// As `Absent`, but for as long only as a switch of the configuration may take to be turned.
    Canary { labels: usize },
    /// The name is there, without such data, in the zone of so many labels.
    Empty { labels: usize },
}

pub(super) const LOCALHOST: &[u8] = b"\x09localhost\0";
const LOOPBACK_V4: &[u8] = b"\x011\x010\x010\x03127\x07in-addr\x04arpa\0";
const LOOPBACK_V4_ZONE_LABELS: usize = 3;
const LOOPBACK_V6: &[u8] = b"\x011\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x03ip6\x04arpa\0";

/// What is said of a name by what is served; none when it is no special one.
pub(super) fn special(name: &Name, qtype: u16, served: Served) -> Option<Special> {
    match name.suffix_wire(1) {
        b"\x04arpa\0" => arpa(name, qtype, served),
        b"\x03net\0" | b"\x03com\0" if served.canary_domains => canary(name),
        _ if !served.special_use_names => None,
        LOCALHOST => Some(Special::Loopback),
        b"\x07invalid\0" | b"\x04test\0" | b"\x05onion\0" | b"\x05local\0" | b"\x03alt\0" => {
            Some(Special::Absent { labels: 1 })
        }
        _ => None,
    }
}

/// The names below a canary domain are absent with it (RFC 8020 §2).
fn canary(name: &Name) -> Option<Special> {
    if name.suffix_wire(2) == b"\x13use-application-dns\x03net\0" {
        return Some(Special::Canary { labels: 2 });
    }
    match name.suffix_wire(3) {
        b"\x04mask\x06icloud\x03com\0" | b"\x07mask-h2\x06icloud\x03com\0" => Some(Special::Canary { labels: 3 }),
        _ => None,
    }
}

fn arpa(name: &Name, qtype: u16, served: Served) -> Option<Special> {
    let Served { special_use_names, reverse_zones, .. } = served;
    let named = special_use_names.then(|| special_arpa(name, qtype)).flatten();
    // The loopback zones are both: `localhost` is their name, and they are reverse zones.
    let loopback = || (special_use_names || reverse_zones).then(|| loopback_arpa(name)).flatten();
    named.or_else(loopback).or_else(|| reverse_zones.then(|| reverse_zone(name, qtype)).flatten())
}

fn special_arpa(name: &Name, qtype: u16) -> Option<Special> {
    let labels = name.label_count();
    match name.suffix_wire(2) {
        // The zone is ours, but its DS must come from the parent so that validators see it as unsigned (RFC 8375 §4).
        b"\x04home\x04arpa\0" | b"\x07service\x04arpa\0" => match labels {
            2 if qtype == rtype::DS => None,
            2 => Some(Special::Empty { labels: 2 }),
            _ => Some(Special::Absent { labels: 2 }),
        },
        b"\x08resolver\x04arpa\0" => Some(Special::Empty { labels: 2 }),
        _ => None,
    }
}

fn loopback_arpa(name: &Name) -> Option<Special> {
    match name.suffix_wire(2) {
        b"\x07in-addr\x04arpa\0" if name.suffix_wire(3) == b"\x03127\x07in-addr\x04arpa\0" => {
            if name.as_wire() == LOOPBACK_V4 {
                return Some(Special::LoopbackPointer { labels: LOOPBACK_V4_ZONE_LABELS });
            }
            // The names between the zone and the pointer exist without data (RFC 8020 §2).
            let is_between = LOOPBACK_V4.ends_with(name.as_wire());
            let labels = LOOPBACK_V4_ZONE_LABELS;
            Some(if is_between { Special::Empty { labels } } else { Special::Absent { labels } })
        }
        b"\x03ip6\x04arpa\0" if name.as_wire() == LOOPBACK_V6 => {
            Some(Special::LoopbackPointer { labels: name.label_count() })
        }
        _ => None,
    }
}

/// Labels of the zones of [`is_reverse_zone`].
const REVERSE_ZONE_LABELS: [usize; 6] = [3, 4, 5, 6, 10, ADDRESS_V6_LABELS];
/// Labels of the name of a whole IPv6 address.
const ADDRESS_V6_LABELS: usize = 34;

/// What is said of a name in a reverse zone that is served here: only the zone's own name exists (RFC 6303 §3).
fn reverse_zone(name: &Name, qtype: u16) -> Option<Special> {
    let is_zone = |labels: &usize| *labels <= name.label_count() && is_reverse_zone(name.suffix_wire(*labels));
    let labels = REVERSE_ZONE_LABELS.into_iter().find(is_zone)?;
    match labels == name.label_count() {
        // The parent must show validators that the zone is unsigned.
        true if qtype == rtype::DS => None,
        true => Some(Special::Empty { labels }),
        false => Some(Special::Absent { labels }),
    }
}

/// Whether this is the wire form of a zone of RFC 6303 §4, the loopback zones aside.
fn is_reverse_zone(zone: &[u8]) -> bool {
    if let Some(v4) = zone.strip_suffix(b"\x07in-addr\x04arpa\0".as_slice()) {
        return match v4 {
            // §4.1: 10, 16.172 to 31.172, 168.192 (RFC 1918).
            b"\x0210" | b"\x03168\x03192" => true,
            [2, b'1', b'6'..=b'9', net @ ..] | [2, b'2', b'0'..=b'9', net @ ..] | [2, b'3', b'0' | b'1', net @ ..] => {
                net == b"\x03172"
            }
            // §4.2: this network, link-local, documentation, broadcast.
            b"\x010" | b"\x03254\x03169" => true,
            b"\x012\x010\x03192" | b"\x03100\x0251\x03198" | b"\x03113\x010\x03203" => true,
            b"\x03255\x03255\x03255\x03255" => true,
            _ => false,
        };
    }
    let Some(v6) = zone.strip_suffix(b"\x03ip6\x04arpa\0".as_slice()) else { return false };
    match v6 {
        // §4.4: locally assigned addresses; §4.5: link-local; §4.6: documentation.
        b"\x01d\x01f" | [1, b'8' | b'9' | b'a' | b'b', 1, b'e', 1, b'f'] => true,
        b"\x018\x01b\x01d\x010\x011\x010\x010\x012" => true,
        // §4.3: the unspecified address. The loopback address is here for what lies under its name.
        [1, b'0' | b'1', rest @ ..] if rest.len() == 2 * (ADDRESS_V6_LABELS - 3) => {
            rest.chunks(2).all(|label| label == b"\x010")
        }
        _ => false,
    }
}

/// Appends what is said of a special name to `answer`.
pub(super) fn fill(name: &Name, special: Special, qtype: u16, answer: &mut Answer) -> Result<(), AnswerFull> {
    // ANY gets one set of records, as for names of the configuration.
    let asked = match special {
        Special::Loopback if qtype == rtype::ANY => rtype::A,
        Special::LoopbackPointer { .. } if qtype == rtype::ANY => rtype::PTR,
        _ => qtype,
    };
    let mut push = |rtype, rdata: &[u8]| {
        let wanted = asked == rtype;
        if wanted { answer.push(Section::Answer, name, rtype, CLASS_IN, SPECIAL_TTL_S, rdata) } else { Ok(()) }
    };
    let (zone_labels, ttl_s) = match special {
        Special::Loopback => {
            push(rtype::A, &[127, 0, 0, 1])?;
            push(rtype::AAAA, &std::net::Ipv6Addr::LOCALHOST.octets())?;
            (1, SPECIAL_TTL_S)
        }
        Special::LoopbackPointer { labels } => {
            push(rtype::PTR, LOCALHOST)?;
            (labels, SPECIAL_TTL_S)
        }
        Special::Absent { labels } => {
            answer.rcode = rcode::NXDOMAIN;
            (labels, SPECIAL_TTL_S)
        }
        Special::Canary { labels } => {
            answer.rcode = rcode::NXDOMAIN;
            (labels, LOCAL_TTL_S)
        }
        Special::Empty { labels } => (labels, SPECIAL_TTL_S),
    };
    if answer.has_data(asked) { Ok(()) } else { push_soa(&name.suffix(zone_labels), ttl_s, answer) }
}
