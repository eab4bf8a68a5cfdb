//! Stage 4, local: records from the configuration, special-use names, and the reverse zones of addresses that nobody else
//! can know.
//!
//! Invariant: a name that is answered here never reaches a rule or an upstream, whatever the type asked, but for the DS of a
//! zone that its parent must answer. Configured records win over the rest. Nothing here depends on the client.

use std::fmt;

use ahash::RandomState;
use corewall_sharding::name::Name;
use corewall_sharding::rule::AnswerRecord;
use hashbrown::{HashMap, HashSet};

use super::answer::{Answer, AnswerFull, Section};
use super::wire::{CLASS_IN, rcode, rtype};

/// Seconds in a configured record that says none: short, for its owner may edit it and reload.
pub const LOCAL_TTL_S: u32 = 300;
/// Seconds in the answers for special-use names, as RFC 6303 §3 has them.
const SPECIAL_TTL_S: u32 = 10_800;

/// What is answered here beside the records of the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Special-use names (RFC 6761, 6762, 7686, 8375, 9462).
    pub special_use_names: bool,
    /// Reverse zones of private, local and documentation addresses (RFC 6303 §4).
    pub reverse_zones: bool,
}

/// Records of the configuration, special-use names and local reverse zones. Immutable.
#[derive(Clone, Default)]
pub struct LocalRecords {
    records: HashMap<Box<[u8]>, Vec<AnswerRecord>, RandomState>,
    /// Names above those with records: they exist, though without data (RFC 8020 §2).
    parents: HashSet<Box<[u8]>, RandomState>,
    served: Served,
}

impl fmt::Debug for LocalRecords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalRecords").field("names", &self.records.len()).field("served", &self.served).finish()
    }
}

impl LocalRecords {
    /// From names and their records, and what is answered beside them.
    pub fn new(records: Vec<(Name, AnswerRecord)>, served: Served) -> Self {
        let mut local = Self { served, ..Self::default() };
        for (name, record) in records {
            local.parents.extend((1..name.label_count()).map(|labels| Box::from(name.suffix_wire(labels))));
            local.records.entry(name.as_wire().into()).or_default().push(record);
        }
        local
    }

    /// Appends to `answer` when the name is ours: its records of the type, NODATA, NXDOMAIN; false when it is not ours.
    ///
    /// A CNAME in the configuration answers every type with itself alone; the caller follows it, so that its target is
    /// judged as any name. Negative answers carry an SOA, so that clients may cache them (RFC 2308 §3). Should the answer
    /// not fit, it is SERVFAIL without records.
    pub fn answer(&self, name: &Name, qtype: u16, answer: &mut Answer) -> bool {
        answer.rcode = rcode::NOERROR;
        let filled = if let Some(records) = self.configured(name) {
            fill_configured(name, records, qtype, answer)
        } else if let Some(special) = special(name, qtype, self.served) {
            fill_special(name, self.with_parents(name, special), qtype, answer)
        } else {
            return false;
        };
        if filled.is_err() {
            answer.clear();
            answer.rcode = rcode::SERVFAIL;
        }
        true
    }

    /// As [`LocalRecords::answer`], from the records of the configuration alone.
    pub fn answer_configured(&self, name: &Name, qtype: u16, answer: &mut Answer) -> bool {
        let is_ours = self.configured(name).is_some();
        is_ours && self.answer(name, qtype, answer)
    }

    /// Whether a zone is answered here without any record of the configuration: a special-use or local reverse zone, or one
    /// within it.
    pub fn serves(&self, zone: &Name) -> bool {
        special(zone, rtype::SOA, self.served).is_some()
    }

    fn configured(&self, name: &Name) -> Option<&[AnswerRecord]> {
        if self.records.is_empty() {
            return None;
        }
        self.records.get(name.as_wire()).map(Vec::as_slice)
    }

    /// A name above a configured one is there: denying it would deny that one too.
    fn with_parents(&self, name: &Name, special: Special) -> Special {
        match special {
            Special::Absent { labels } if self.parents.contains(name.as_wire()) => Special::Empty { labels },
            special => special,
        }
    }
}

fn fill_configured(name: &Name, records: &[AnswerRecord], qtype: u16, answer: &mut Answer) -> Result<(), AnswerFull> {
    let asked = if records.iter().any(|record| record.rtype == rtype::CNAME) { rtype::CNAME } else { qtype };
    for record in records.iter().filter(|record| record.rtype == asked || asked == rtype::ANY) {
        let ttl_s = record.ttl_s.unwrap_or(LOCAL_TTL_S);
        answer.push(Section::Answer, name, record.rtype, CLASS_IN, ttl_s, &record.rdata)?;
    }
    if answer.has_data(asked) { Ok(()) } else { push_soa(name, LOCAL_TTL_S, answer) }
}

/// What is said of a special-use name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Special {
    /// `localhost` and all names under it: loopback addresses (RFC 6761 §6.3).
    Loopback,
    /// The name of a loopback address: `localhost.` (RFC 6761 §6.3, RFC 6303 §4).
    LoopbackPointer { labels: usize },
    /// There is no such name in the zone of so many labels.
    Absent { labels: usize },
    /// The name is there, without such data, in the zone of so many labels.
    Empty { labels: usize },
}

const LOCALHOST: &[u8] = b"\x09localhost\0";
const LOOPBACK_V4: &[u8] = b"\x011\x010\x010\x03127\x07in-addr\x04arpa\0";
const LOOPBACK_V4_ZONE_LABELS: usize = 3;
const LOOPBACK_V6: &[u8] = b"\x011\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x010\x03ip6\x04arpa\0";

fn special(name: &Name, qtype: u16, served: Served) -> Option<Special> {
    match name.suffix_wire(1) {
        b"\x04arpa\0" => arpa(name, qtype, served),
        _ if !served.special_use_names => None,
        LOCALHOST => Some(Special::Loopback),
        // RFC 6761 §6.4 and §6.2, RFC 7686 §2, RFC 6762 §22.1: negative answers at once.
        b"\x07invalid\0" | b"\x04test\0" | b"\x05onion\0" | b"\x05local\0" => Some(Special::Absent { labels: 1 }),
        _ => None,
    }
}

fn arpa(name: &Name, qtype: u16, served: Served) -> Option<Special> {
    let Served { special_use_names, reverse_zones } = served;
    let named = special_use_names.then(|| special_arpa(name, qtype)).flatten();
    // The loopback zones are both: `localhost` is their name, and they are reverse zones.
    let loopback = || (special_use_names || reverse_zones).then(|| loopback_arpa(name)).flatten();
    named.or_else(loopback).or_else(|| reverse_zones.then(|| reverse_zone(name, qtype)).flatten())
}

fn special_arpa(name: &Name, qtype: u16) -> Option<Special> {
    let labels = name.label_count();
    match name.suffix_wire(2) {
        // RFC 8375 §4: the zone is ours, but its DS must come from the parent so that validators see it as unsigned.
        b"\x04home\x04arpa\0" if labels == 2 && qtype == rtype::DS => None,
        b"\x04home\x04arpa\0" if labels == 2 => Some(Special::Empty { labels: 2 }),
        b"\x04home\x04arpa\0" => Some(Special::Absent { labels: 2 }),
        // RFC 9462 §4: NODATA tells clients that this resolver has no designated (encrypted) one.
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

fn fill_special(name: &Name, special: Special, qtype: u16, answer: &mut Answer) -> Result<(), AnswerFull> {
    let mut push = |rtype, rdata: &[u8]| {
        let wanted = qtype == rtype || qtype == rtype::ANY;
        if wanted { answer.push(Section::Answer, name, rtype, CLASS_IN, SPECIAL_TTL_S, rdata) } else { Ok(()) }
    };
    let zone_labels = match special {
        Special::Loopback => {
            push(rtype::A, &[127, 0, 0, 1])?;
            push(rtype::AAAA, &std::net::Ipv6Addr::LOCALHOST.octets())?;
            1
        }
        Special::LoopbackPointer { labels } => {
            push(rtype::PTR, LOCALHOST)?;
            labels
        }
        Special::Absent { labels } => {
            answer.rcode = rcode::NXDOMAIN;
            labels
        }
        Special::Empty { labels } => labels,
    };
    if answer.has_data(qtype) { Ok(()) } else { push_soa(&name.suffix(zone_labels), SPECIAL_TTL_S, answer) }
}

/// The SOA of a zone that is served here (RFC 6303 §3): its MINIMUM is its TTL.
fn push_soa(zone: &Name, ttl_s: u32, answer: &mut Answer) -> Result<(), AnswerFull> {
    const RNAME: &[u8] = b"\x06nobody\x07invalid\0";
    const TIMERS_BYTES: usize = 20;
    let mut rdata = [0u8; corewall_sharding::name::NAME_BYTES_MAX + RNAME.len() + TIMERS_BYTES];
    let mut bytes = 0;
    let [serial, refresh, retry, expire] = [1u32, 3_600, 1_200, 604_800].map(u32::to_be_bytes);
    for part in [zone.as_wire(), RNAME, &serial, &refresh, &retry, &expire, &ttl_s.to_be_bytes()] {
        rdata.get_mut(bytes..bytes + part.len()).ok_or(AnswerFull)?.copy_from_slice(part);
        bytes += part.len();
    }
    answer.push(Section::Authority, zone, rtype::SOA, CLASS_IN, ttl_s, rdata.get(..bytes).ok_or(AnswerFull)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_text(text).unwrap()
    }

    fn record(rtype: u16, rdata: &[u8]) -> AnswerRecord {
        AnswerRecord { rtype, ttl_s: None, rdata: rdata.into() }
    }

    const NOTHING: Served = Served { special_use_names: false, reverse_zones: false };
    const SPECIAL: Served = Served { special_use_names: true, reverse_zones: false };
    const REVERSE: Served = Served { special_use_names: false, reverse_zones: true };

    /// Section, type and RDATA of a record.
    type Held = (Section, u16, Vec<u8>);

    /// RCODE and records; none when the name is not ours.
    fn asked(local: &LocalRecords, text: &str, qtype: u16) -> Option<(u16, Vec<Held>)> {
        let mut answer = Answer::new();
        answer.rcode = 9;
        local.answer(&name(text), qtype, &mut answer).then(|| {
            let records = answer.records().map(|record| (record.section, record.rtype, record.rdata.to_vec()));
            (answer.rcode, records.collect())
        })
    }

    fn is_denied(local: &LocalRecords, text: &str, qtype: u16, rcode: u16) -> bool {
        asked(local, text, qtype).is_some_and(|(got, records)| {
            got == rcode && matches!(records.as_slice(), [(Section::Authority, rtype::SOA, _)])
        })
    }

    #[test]
    fn configured_names_answer_their_types_and_deny_others() {
        let local = LocalRecords::new(
            vec![
                (name("Router.lan"), record(rtype::A, &[10, 0, 0, 1])),
                (name("router.lan"), record(rtype::A, &[10, 0, 0, 2])),
                (name("router.lan"), record(rtype::TXT, b"\x02hi")),
                (name("alias.lan"), record(rtype::CNAME, name("router.lan").as_wire())),
            ],
            NOTHING,
        );
        let both = vec![(Section::Answer, 1, vec![10, 0, 0, 1]), (Section::Answer, 1, vec![10, 0, 0, 2])];
        assert_eq!(asked(&local, "router.lan", rtype::A), Some((0, both)));
        assert_eq!(asked(&local, "router.lan", rtype::ANY).unwrap().1.len(), 3);
        assert!(is_denied(&local, "router.lan", rtype::AAAA, rcode::NOERROR));
        let link = vec![(Section::Answer, rtype::CNAME, name("router.lan").as_wire().to_vec())];
        for qtype in [rtype::A, rtype::CNAME, rtype::MX, rtype::ANY] {
            assert_eq!(asked(&local, "alias.lan", qtype), Some((0, link.clone())));
        }
        for text in ["lan", "x.router.lan", "router.lan.x", "localhost", "."] {
            assert_eq!(asked(&local, text, rtype::A), None, "{text}");
        }
    }

    #[test]
    fn localhost_and_all_under_it_are_loopback() {
        let local = LocalRecords::new(Vec::new(), SPECIAL);
        for text in ["localhost", "a.b.localhost"] {
            assert_eq!(asked(&local, text, rtype::A), Some((0, vec![(Section::Answer, 1, vec![127, 0, 0, 1])])));
            let v6 = [[0; 15].as_slice(), &[1]].concat();
            assert_eq!(asked(&local, text, rtype::AAAA), Some((0, vec![(Section::Answer, rtype::AAAA, v6)])));
            assert!(is_denied(&local, text, rtype::MX, rcode::NOERROR));
        }
        let v6_loopback = format!("1.{}ip6.arpa", "0.".repeat(31));
        for text in ["1.0.0.127.in-addr.arpa", &v6_loopback] {
            let pointer = vec![(Section::Answer, rtype::PTR, LOCALHOST.to_vec())];
            assert_eq!(asked(&local, text, rtype::PTR), Some((0, pointer)), "{text}");
            assert!(is_denied(&local, text, rtype::A, rcode::NOERROR));
        }
    }

    #[test]
    fn special_use_names_are_denied_as_their_rfcs_ask() {
        let local = LocalRecords::new(Vec::new(), SPECIAL);
        let nxdomain = ["invalid", "x.invalid", "a.test", "x.onion", "printer.local", "nas.home.arpa"];
        for text in nxdomain.into_iter().chain(["2.0.0.127.in-addr.arpa", "1.1.0.0.127.in-addr.arpa"]) {
            assert!(is_denied(&local, text, rtype::A, rcode::NXDOMAIN), "{text}");
        }
        let nodata = ["home.arpa", "resolver.arpa", "_dns.resolver.arpa", "127.in-addr.arpa", "0.127.in-addr.arpa"];
        for text in nodata {
            assert!(is_denied(&local, text, 64, rcode::NOERROR), "{text}");
        }
        assert_eq!(asked(&local, "home.arpa", rtype::DS), None, "the parent proves that there is none");
        let others =
            ["example", "localhost.example", "arpa", "in-addr.arpa", "1.128.in-addr.arpa", "1.0.ip6.arpa", "."];
        for text in others {
            assert_eq!(asked(&local, text, rtype::PTR), None, "{text}");
        }
    }

    #[test]
    fn configured_records_win_over_special_use() {
        let local = LocalRecords::new(vec![(name("nas.home.arpa"), record(rtype::A, &[10, 0, 0, 3]))], SPECIAL);
        assert_eq!(asked(&local, "nas.home.arpa", rtype::A), Some((0, vec![(Section::Answer, 1, vec![10, 0, 0, 3])])));
        assert!(is_denied(&local, "tv.home.arpa", rtype::A, rcode::NXDOMAIN));
    }

    #[test]
    fn every_local_reverse_zone_is_there_and_empty() {
        let local = LocalRecords::new(Vec::new(), REVERSE);
        let v4 =
            ["10", "16.172", "19.172", "20.172", "29.172", "30.172", "31.172", "168.192", "0", "254.169", "2.0.192"];
        let v4 = v4.into_iter().chain(["100.51.198", "113.0.203", "255.255.255.255"]);
        let v6 = ["d.f", "8.e.f", "9.e.f", "a.e.f", "b.e.f", "8.b.d.0.1.0.0.2"].map(|zone| format!("{zone}.ip6.arpa"));
        let unspecified = format!("{}ip6.arpa", "0.".repeat(32));
        for zone in v4.map(|zone| format!("{zone}.in-addr.arpa")).chain(v6).chain([unspecified]) {
            for qtype in [rtype::PTR, rtype::SOA, rtype::ANY] {
                assert!(is_denied(&local, &zone, qtype, rcode::NOERROR), "{zone}");
            }
            assert_eq!(asked(&local, &zone, rtype::DS), None, "the parent proves that {zone} has none");
            for below in [format!("1.{zone}"), format!("4.3.2.1.{zone}")] {
                assert!(is_denied(&local, &below, rtype::PTR, rcode::NXDOMAIN), "{below}");
                assert!(is_denied(&local, &below, rtype::DS, rcode::NXDOMAIN), "{below}");
            }
        }
        let v6_loopback = format!("1.{}ip6.arpa", "0.".repeat(31));
        assert!(is_denied(&local, &format!("x.{v6_loopback}"), rtype::PTR, rcode::NXDOMAIN));
        for text in ["1.0.0.127.in-addr.arpa", &v6_loopback] {
            let pointer = vec![(Section::Answer, rtype::PTR, LOCALHOST.to_vec())];
            assert_eq!(asked(&local, text, rtype::PTR), Some((0, pointer)), "{text}");
        }
    }

    #[test]
    fn reverse_names_of_other_addresses_are_not_ours() {
        let local = LocalRecords::new(Vec::new(), REVERSE);
        let v4 = [
            "1",
            "11",
            "110",
            "15.172",
            "32.172",
            "1.172",
            "167.192",
            "192",
            "172",
            "3.0.192",
            "255",
            "254.255.255.255",
        ];
        let v6 = ["f", "c.f", "7.e.f", "c.e.f", "e.f", "9.b.d.0.1.0.0.2", "d.f.0", "2.0.0.0"];
        let v6_loopback_like = format!("2.{}ip6.arpa", "0.".repeat(31));
        let v6_short = format!("{}ip6.arpa", "0.".repeat(31));
        let names = v4.map(|zone| format!("{zone}.in-addr.arpa")).into_iter();
        let names = names.chain(v6.map(|zone| format!("{zone}.ip6.arpa"))).chain([v6_loopback_like, v6_short]);
        for text in names.chain(["10.in-addr.example".to_owned(), "home.arpa".to_owned(), "x.test".to_owned()]) {
            assert_eq!(asked(&local, &text, rtype::PTR), None, "{text}");
        }
        for served in [NOTHING, SPECIAL] {
            assert_eq!(asked(&LocalRecords::new(Vec::new(), served), "1.10.in-addr.arpa", rtype::PTR), None);
        }
    }

    #[test]
    fn a_configured_pointer_wins_and_the_names_above_it_are_not_denied() {
        let router = name("router.lan");
        let pointer = (name("1.0.168.192.in-addr.arpa"), record(rtype::PTR, router.as_wire()));
        let local = LocalRecords::new(vec![pointer], REVERSE);
        let held = vec![(Section::Answer, rtype::PTR, router.as_wire().to_vec())];
        assert_eq!(asked(&local, "1.0.168.192.in-addr.arpa", rtype::PTR), Some((0, held)));
        assert!(is_denied(&local, "0.168.192.in-addr.arpa", rtype::PTR, rcode::NOERROR));
        assert!(is_denied(&local, "1.168.192.in-addr.arpa", rtype::PTR, rcode::NXDOMAIN));
        assert!(is_denied(&local, "2.0.168.192.in-addr.arpa", rtype::PTR, rcode::NXDOMAIN));
        assert_eq!(asked(&local, "192.in-addr.arpa", rtype::PTR), None);
    }

    #[test]
    fn the_soa_is_that_of_the_zone_and_its_minimum_its_ttl() {
        let local = LocalRecords::new(Vec::new(), SPECIAL);
        let mut answer = Answer::new();
        assert!(local.answer(&name("a.b.home.arpa"), rtype::A, &mut answer));
        let soa = answer.records().next().unwrap();
        assert_eq!(soa.owner, name("home.arpa").as_wire());
        assert!(soa.rdata.starts_with(name("home.arpa").as_wire()));
        assert_eq!(soa.rdata.last_chunk::<4>().unwrap(), &soa.ttl_s.to_be_bytes());
    }
}
